//! The accounts of workloads: every pod with GPUs costs from its binding until its containers have
//! ended.

use std::collections::BTreeSet;

use bursar_api::SpendRecord;
use bursar_api::names::{KIND_LABEL, SPEND_FINALIZER, WORKLOAD_LABEL};
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_core::calendar::{Interval, Month, whole_second};
use bursar_core::ledger::{Account, Charge, ChargeEnd};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams};

use super::accounts::Accounts;
use super::charge_holders::ChargeHolders;
use super::error::Error;
use super::month_account::{CHARGE_BYTES, SETTLED_BYTES};
use super::month_accounts::MonthAccounts;
use super::pod_lifetime::PodLifetimes;
use super::{finalizer, zero_replica_savings};
use crate::api_calls::{ApiError, with_timeout};
use crate::cache::{Tombstones, UnreadableObjects};
use crate::pod;

/// Keeps the accounts of one namespace's workloads.
pub(crate) struct PodLedger<'a> {
    pub(crate) lifetimes: PodLifetimes<'a>,
    pub(crate) holders: &'a ChargeHolders,
    /// Pods that are gone, as the watch last saw them.
    pub(crate) tombstones: &'a Tombstones,
    /// Pods that are there, though the cache may not have them.
    pub(crate) unreadable: &'a UnreadableObjects,
}

/// A workload, as its accounts need it.
pub(crate) struct Workload<'a> {
    pub(crate) id: &'a WorkloadRef,
    /// Its pods as the cache has them.
    pub(crate) pods: &'a [&'a Pod],
    /// Whether its resource is there. Only then a record is created before anything is charged.
    pub(crate) exists: bool,
    /// Whether the last decision asked no replica for it.
    pub(crate) is_idle: bool,
}

impl PodLedger<'_> {
    /// Brings the accounts of a workload up to date with its pods as the cache has them. `publish`
    /// takes the accounts as they will be, before they are written.
    ///
    /// # Errors
    /// The first call that failed. Nothing is lost by that: the next run goes on where this one
    /// stopped. Where the API server was asked in vain, and for pods that the records have no room
    /// for, what the cache says was published.
    pub(crate) async fn sync(
        &self,
        workload: &Workload<'_>,
        publish: &(dyn Fn(Accounts) + Send + Sync),
    ) -> Result<Accounts, Error> {
        let (store, pods) = (self.lifetimes.store, workload.pods);
        let mut all = store.stored.consolidated(workload.id)?;
        let mut accounts = MonthAccounts::load(store, workload.id)?;
        let settled = match self.update(&mut accounts, workload).await {
            Ok(settled) => settled,
            Err(error) => {
                publish(self.assume(workload)?);
                return Err(error);
            }
        };
        if accounts.are_changed() {
            let mut unwritten = all.clone();
            unwritten.extend(accounts.to_accounts());
            publish(unwritten);
        }
        // labels of pods are no reason for a record: anybody writes them
        let wrote = match workload.exists {
            true => accounts.write().await?,
            false => accounts.write_changed().await?,
        };
        if wrote {
            for (uid, idle_seconds) in self.lifetimes.idle_seconds(pods) {
                store.write_cache.note_idle(uid, idle_seconds);
            }
        }
        // every record holds the sums now
        for pod in settled {
            finalizer::remove(store.client, pod).await?;
        }
        let left_out = accounts.left_out();
        if left_out > 0 {
            publish(self.assume(workload)?);
            let name = workload.id.record_name(accounts.present());
            return Err(Error::Full { name, left_out });
        }
        all.extend(accounts.into_accounts());
        Ok(all)
    }

    /// The accounts by the caches alone, as they will be if the API server says the same. They are
    /// never written: a cache may be behind.
    ///
    /// # Errors
    /// A record cannot be read.
    pub(crate) fn assume(&self, workload: &Workload<'_>) -> Result<Accounts, Error> {
        let store = self.lifetimes.store;
        let mut all = store.stored.consolidated(workload.id)?;
        let mut accounts = MonthAccounts::load(store, workload.id)?;
        for (uid, _) in self.holders.elsewhere(workload.id) {
            accounts.withdraw(uid);
        }
        self.ensure_lifetimes(&mut accounts, workload.pods)?;
        let missing = accounts.missing_months()?;
        accounts.carry_forward(missing);
        self.reprice(&mut accounts, workload.pods);
        for pod in workload.pods {
            let Some((lifetime, mut charge)) = self.charge(&accounts, pod) else {
                continue;
            };
            if workload.id.kind == WorkloadKind::Unmanaged {
                charge = charge.with_owner(pod::owner(pod));
            }
            let months = accounts.months_left(pod::uid(pod), lifetime);
            match self.lifetimes.end(pod) {
                Some(end) => accounts.settle_in(&months, &charge, end),
                None => accounts.open(&charge, &months),
            }
        }
        all.extend(accounts.into_accounts());
        Ok(all)
    }

    /// Changes the accounts by what the API server says of the pods, and returns the pods whose
    /// finalizer can go once the accounts are written.
    async fn update<'p>(
        &self,
        accounts: &mut MonthAccounts<'_>,
        workload: &Workload<'p>,
    ) -> Result<Vec<&'p Pod>, Error> {
        let pods = workload.pods;
        self.withdraw(accounts).await?;
        self.carry_forward(accounts, pods).await?;
        self.reprice(accounts, pods);
        let mut settled = Vec::new();
        for pod in pods {
            if self.sync_pod(accounts, pod).await? {
                settled.push(*pod);
            }
        }
        self.settle_vanished(accounts, pods).await?;
        self.post_days(accounts, pods).await?;
        self.forget_deleted(accounts, pods).await?;
        self.sync_zero_replica_period(accounts, workload)?;
        Ok(settled)
    }

    /// Gives up the charges that stay in other accounts, once a live read says that these have them.
    async fn withdraw(&self, accounts: &mut MonthAccounts<'_>) -> Result<(), Error> {
        let client = self.lifetimes.store.client;
        for (uid, stays) in self.holders.elsewhere(accounts.workload()) {
            let held = accounts.open_charge(uid).map(|charge| charge.start());
            let Some(start) = held else {
                continue;
            };
            if !is_on_record(client, stays, accounts.months_since(start), uid).await? {
                continue;
            }
            let withdrawn = accounts.withdraw(uid);
            let (account, other) = (accounts.workload(), stays);
            match withdrawn {
                true => tracing::info!(uid, ?account, ?other, "a charge that is elsewhere too"),
                false => tracing::error!(uid, ?account, ?other, "a pod was charged twice"),
            }
        }
        Ok(())
    }

    /// Brings open charges up to date with their pods and the prices.
    fn reprice(&self, accounts: &mut MonthAccounts<'_>, pods: &[&Pod]) {
        self.lifetimes.update(accounts, pods);
        let ended = pods
            .iter()
            .filter_map(|pod| Some((pod::uid(pod), self.lifetimes.end(pod)?.at)));
        accounts.reprice(&ended.collect());
    }

    /// Adds the months that lifetimes touch.
    fn ensure_lifetimes(
        &self,
        accounts: &mut MonthAccounts<'_>,
        pods: &[&Pod],
    ) -> Result<(), Error> {
        for pod in pods {
            if let Some(lifetime) = self.lifetimes.lifetime(pod) {
                accounts.ensure_months(pod::uid(pod), lifetime)?;
            }
        }
        Ok(())
    }

    /// A pod's lifetime and its charge, open or new; `None` for a pod that holds no GPU of any node.
    fn charge(&self, accounts: &MonthAccounts<'_>, pod: &Pod) -> Option<(Interval, Charge)> {
        let open = accounts.open_charge(pod::uid(pod));
        // claims may be gone before their pod
        let holds_gpus = self.lifetimes.allocations.holds_gpus(pod) || open.is_some();
        let lifetime = self.lifetimes.lifetime(pod).filter(|_| holds_gpus)?;
        let new = || self.lifetimes.new_charge(pod, lifetime.start);
        Some((lifetime, open.cloned().or_else(new)?))
    }

    /// Adds the months that lifetimes touch, and carries the charges of pods that run forward into
    /// the months that have begun since. A pod in the cache may have been settled meanwhile, and
    /// forgotten, so a live read decides.
    async fn carry_forward(
        &self,
        accounts: &mut MonthAccounts<'_>,
        pods: &[&Pod],
    ) -> Result<(), Error> {
        self.ensure_lifetimes(accounts, pods)?;
        let missing = accounts.missing_months()?;
        if missing.is_empty() {
            return Ok(());
        }
        let live = self.live_pods(accounts.workload(), pods).await?;
        let is_live =
            |(_, charge): &(Month, Charge)| live.iter().any(|pod| pod::uid(pod) == charge.uid());
        let (mut live_ones, gone): (Vec<_>, Vec<_>) = missing.into_iter().partition(is_live);
        live_ones.retain(|(_, charge)| self.runs(&live, charge.uid()));
        accounts.carry_forward(live_ones);
        if !gone.is_empty() {
            accounts.carry_forward_unseen(gone).await?;
        }
        Ok(())
    }

    /// Whether a pod is among these and holds its node.
    fn runs(&self, live: &[Pod], uid: &str) -> bool {
        live.iter()
            .any(|pod| pod::uid(pod) == uid && self.lifetimes.end(pod).is_none())
    }

    /// Opens or settles one pod's charge. True if its finalizer can go once all months are written.
    async fn sync_pod(&self, accounts: &mut MonthAccounts<'_>, pod: &Pod) -> Result<bool, Error> {
        let client = self.lifetimes.store.client;
        let guarded = pod::has_finalizer(pod, SPEND_FINALIZER);
        let observed = self.lifetimes.end(pod);
        let uid = pod::uid(pod);
        // claims may be gone before their pod
        let holds_gpus =
            self.lifetimes.allocations.holds_gpus(pod) || accounts.open_charge(uid).is_some();
        let Some(lifetime) = self.lifetimes.lifetime(pod).filter(|_| holds_gpus) else {
            // it holds no GPU of any node, and will not any more
            let over = pod.metadata.deletion_timestamp.is_some() || pod::is_terminal(pod);
            return Ok(guarded && over);
        };
        let months = accounts.months_left(uid, lifetime);
        // near a month's end, and after it, it is opened in the later month first
        let end = observed.filter(|_| accounts.are_on_record(&months, uid));
        let is_done = |account: &Account| match end {
            Some(_) => account.settling().contains(uid),
            None => account.contains(uid),
        };
        if accounts.all(&months, is_done) {
            return Ok(end.is_some() && guarded);
        }
        let Some(live) = finalizer::live(client, pod).await? else {
            // the cache is behind; the pod's end is estimated when the cache knows of it
            return Ok(false);
        };
        if observed.is_none() && self.lifetimes.end(&live).is_some() {
            // the cache is behind: it may be settled already
            return Ok(false);
        }
        // A settled pod is remembered until it is gone from a live read, so a pod that is there and
        // that no record contains is new.
        let leaving = live.metadata.deletion_timestamp.is_some() || observed.is_some();
        let unmanaged = accounts.workload().kind == WorkloadKind::Unmanaged;
        if !pod::has_finalizer(&live, SPEND_FINALIZER) && !leaving && !unmanaged {
            finalizer::add(client, &live).await?;
        }
        let bytes = if end.is_some() {
            SETTLED_BYTES
        } else {
            CHARGE_BYTES
        };
        if !accounts.make_room(&months, uid, bytes) {
            return Ok(false);
        }
        let open = accounts.open_charge(uid).cloned();
        let Some(mut charge) = open.or_else(|| self.lifetimes.new_charge(pod, lifetime.start))
        else {
            return Ok(false);
        };
        if unmanaged {
            charge = charge.with_owner(pod::owner(pod));
        }
        match (end, observed) {
            (Some(end), _) => accounts.settle_in(&months, &charge, end),
            (None, Some(_)) => accounts.open_ended(&charge, &months).await?,
            (None, None) => accounts.open(&charge, &months),
        }
        Ok(end.is_some() && guarded)
    }

    /// Settles open charges whose pods are gone though nobody settled them. They end when the watch
    /// last saw them end, or else now, which is an estimate.
    async fn settle_vanished(
        &self,
        accounts: &mut MonthAccounts<'_>,
        pods: &[&Pod],
    ) -> Result<(), Error> {
        let store = self.lifetimes.store;
        let namespace = &accounts.workload().namespace;
        let cached: BTreeSet<&str> = pods.iter().map(|pod| pod::uid(pod)).collect();
        let mut vanished = accounts.open_charges();
        vanished.retain(|uid, charge| {
            !cached.contains(uid.as_str())
                && accounts.can_settle(charge)
                && !self.unreadable.contains_uid::<Pod>(namespace, uid)
        });
        for (uid, charge) in vanished {
            let api: Api<Pod> = Api::namespaced(store.client.clone(), namespace);
            let live = with_timeout("get pod", api.get_opt(charge.pod())).await?;
            if live.is_some_and(|live| pod::uid(&live) == uid) {
                continue;
            }
            let tombstone = self.tombstones.pod(&uid);
            let observed = tombstone.and_then(|pod| self.lifetimes.end(&pod));
            if observed.is_none() {
                tracing::warn!(
                    namespace,
                    pod = charge.pod(),
                    "a pod is gone that was not settled; its end is estimated"
                );
            }
            let end = observed.unwrap_or(ChargeEnd {
                at: whole_second(store.now).max(charge.start()),
                estimated: true,
            });
            accounts.settle(&charge, end);
        }
        Ok(())
    }

    /// Posts the days that are over of charges whose pods are known to have outlived them.
    async fn post_days(
        &self,
        accounts: &mut MonthAccounts<'_>,
        pods: &[&Pod],
    ) -> Result<(), Error> {
        let (until, unposted) = accounts.unposted_days();
        if unposted.is_empty() {
            return Ok(());
        }
        let live = self.live_pods(accounts.workload(), pods).await?;
        accounts.post_days_until(until, unposted, |uid| self.runs(&live, uid));
        Ok(())
    }

    /// Forgets settled pods that are gone from a live read. Only those that an earlier run has
    /// written: a charge that this run settles may still be needed.
    async fn forget_deleted(
        &self,
        accounts: &mut MonthAccounts<'_>,
        pods: &[&Pod],
    ) -> Result<(), Error> {
        let mut settled = accounts.settled_on_record();
        for pod in pods {
            settled.remove(pod::uid(pod));
        }
        // whoever has it too has yet to see that it is charged here
        settled.retain(|uid| !self.holders.is_open_elsewhere(uid, accounts.workload()));
        if settled.is_empty() {
            return Ok(());
        }
        for pod in self.live_pods(accounts.workload(), pods).await? {
            settled.remove(pod::uid(&pod));
        }
        for uid in settled {
            accounts.forget_settled(&uid);
            self.lifetimes.store.write_cache.forget_pod(&uid);
            self.tombstones.forget_pod(&uid);
        }
        Ok(())
    }

    /// Brings up to date since when the service has had no replica because of no demand.
    fn sync_zero_replica_period(
        &self,
        accounts: &mut MonthAccounts<'_>,
        workload: &Workload<'_>,
    ) -> Result<(), Error> {
        let now = whole_second(self.lifetimes.store.now);
        // when a settled pod ended: now where it is gone
        let end_of = |uid: &str| {
            let pod = workload.pods.iter().find(|pod| pod::uid(pod) == uid);
            pod.and_then(|pod| self.lifetimes.end(pod))
                .unwrap_or(ChargeEnd {
                    at: now,
                    estimated: true,
                })
        };
        zero_replica_savings::sync(accounts, workload.is_idle, end_of)
    }

    /// The workload's pods as they are now. Of `pods`, as the cache has them, some may have other labels
    /// by now.
    async fn live_pods(&self, workload: &WorkloadRef, pods: &[&Pod]) -> Result<Vec<Pod>, ApiError> {
        let client: &Client = self.lifetimes.store.client;
        let api: Api<Pod> = Api::namespaced(client.clone(), &workload.namespace);
        let is_relabelled = |pod: &&Pod| pod::workload_of(pod).as_ref() != Some(workload);
        let params = match workload.kind {
            WorkloadKind::Unmanaged | WorkloadKind::Node => ListParams::default(),
            _ if pods.iter().any(is_relabelled) => ListParams::default(),
            kind => {
                let (name, kind) = (&workload.name, kind.as_str());
                ListParams::default()
                    .labels(&format!("{WORKLOAD_LABEL}={name},{KIND_LABEL}={kind}"))
            }
        };
        Ok(with_timeout("list pods", api.list(&params)).await?.items)
    }
}

/// Whether a record of the account contains the pod, by a live read of its months.
async fn is_on_record(
    client: &Client,
    account: &WorkloadRef,
    months: Vec<Month>,
    uid: &str,
) -> Result<bool, ApiError> {
    let api: Api<SpendRecord> = Api::all(client.clone());
    for month in months {
        let name = account.record_name(month);
        let record = with_timeout("get spendrecord", api.get_opt(&name)).await?;
        let status = record.and_then(|record| record.status);
        let contains = status.is_some_and(|status| {
            let mut open = status.open.iter();
            open.any(|charge| charge.uid == uid) || status.settling.iter().any(|each| each == uid)
        });
        if contains {
            return Ok(true);
        }
    }
    Ok(false)
}
