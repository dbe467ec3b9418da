//! The ledger's exactly-once protocol over SpendRecords and the pods' finalizer.
//!
//! 1. A pod that is bound is opened: its record is read at version r, the pod is read live, the charge is written at r.
//! 2. Days that are over are booked, and a pod that has ended is settled: records read at r, the pod read live with its finalizer
//!    still there, lines and UID written at r, one record for each month that its stay touches, the earliest first.
//! 3. Only then is the finalizer removed; and only when the pod is gone from a live read is its UID forgotten.
//!
//! A write at r fails if anybody wrote since, so a stale cache and a former leader change nothing; a crash between any two steps
//! leaves a state from which the same steps go on. A month's record never knows a pod before an earlier month's does, so a record
//! that does not know a pod which a later one knows has booked its part to the end. A pod may be gone between two writes, so its charge
//! is in the records of all its months before it is settled in the first.
//!
//! | module | subject |
//! |---|---|
//! | `stored_accounts` | what is on record of a namespace |
//! | `month_accounts` | the records of one workload, read and written |
//! | `pod_lifetime` | what a pod and its node say of a stay |
//! | `nodes` | the accounts of whole nodes |
//! | `finalizer` | putting it on and taking it off |
//! | `zero_replica_savings` | what scaling to zero saves |
//! | `write_cache` | what this process wrote last |
//! | `month_close` | months that are over: consolidated into one record a namespace, removed when old |

mod finalizer;
pub(crate) mod month_close;

mod month_accounts;
pub(crate) mod nodes;
mod pod_lifetime;
mod stored_accounts;
mod write_cache;
mod zero_replica_savings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bursar_api::SpendRecord;
use bursar_api::names::{KIND_LABEL, SPEND_FINALIZER, WORKLOAD_LABEL};
use bursar_api::quantities::FieldError;
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_core::calendar::{Interval, Month, midnight_before, whole_second};
use bursar_core::ledger::{Account, Charge, ChargeEnd, DailyCost, EngineCounters, Uid};
use bursar_core::money::Money;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};

use crate::api_calls::{ApiError, with_timeout};
use crate::gpu_allocation::GpuAllocations;
use crate::pod;
use crate::power_readings::SharedPowerReadings;
use crate::prices::EffectivePrices;
use crate::watch::Departed;
use month_accounts::{MonthAccount, MonthAccounts, months_left};

pub(crate) use stored_accounts::{ConsolidatedCache, StoredAccounts};
pub(crate) use write_cache::WriteCache;

/// Settled pods that a record may wait for: more are settled when some of these are gone.
const MAX_SETTLING: usize = 1_000;
/// A day is booked this long after it is over: by then it is known which pods ended in it.
const POST_AFTER: SignedDuration = SignedDuration::from_hours(1);
/// Why the ledger of a workload could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A call to the API server.
    #[error(transparent)]
    Call(#[from] ApiError),
    /// Somebody edited a record by hand.
    #[error("SpendRecord {name} cannot be read: {source}; was it edited by hand?")]
    Record {
        /// Its name.
        name: String,
        /// What is wrong.
        source: FieldError,
    },
}

/// The accounts of one workload, by month.
pub(crate) type Accounts = BTreeMap<Month, Arc<Account>>;

/// What the ledger works with.
pub(crate) struct Ledger<'a> {
    pub(crate) client: &'a Client,
    pub(crate) records: &'a StoredAccounts,
    pub(crate) written: &'a WriteCache,
    pub(crate) nodes: &'a Store<Node>,
    pub(crate) claims: &'a GpuAllocations,
    /// Pods that used devices which others bore until a moment ago.
    pub(crate) sharing: &'a BTreeSet<Uid>,
    pub(crate) departed: &'a Departed,
    pub(crate) prices: &'a EffectivePrices,
    /// What GPUs were measured to draw.
    pub(crate) measured: &'a SharedPowerReadings,
    /// What each replica has done by its own counters, and its idle seconds since this process first read it.
    pub(crate) done: &'a BTreeMap<Uid, (EngineCounters, i64)>,
    /// Services that nothing is asked of.
    pub(crate) unasked: &'a BTreeSet<WorkloadRef>,
    pub(crate) zone: &'a TimeZone,
    pub(crate) now: Timestamp,
}

impl Ledger<'_> {
    /// Brings the accounts of `workload` up to date with its pods as the cache has them.
    ///
    /// # Errors
    /// The first call that failed. Nothing is lost by that: the next run goes on where this one stopped.
    pub(crate) async fn sync(
        &self,
        workload: &WorkloadRef,
        pods: &[&Pod],
    ) -> Result<Accounts, Error> {
        let mut accounts = self.records.closed(workload)?;
        let mut pages = self.load_months(workload)?;
        self.carry_forward(workload, &mut pages, pods).await?;
        for pod in pods {
            self.update_from_pod(&mut pages, pod);
        }
        let ended = pods
            .iter()
            .filter_map(|pod| Some((pod::uid(pod), self.end(pod)?.at)));
        self.reprice(&mut pages, &ended.collect());
        let mut release = Vec::new();
        for pod in pods {
            if self.sync_pod(workload, &mut pages, pod).await? {
                release.push(*pod);
            }
        }
        self.close_vanished(workload, &mut pages, pods).await?;
        self.post_days(workload, &mut pages).await?;
        self.forget_deleted(workload, &mut pages, pods).await?;
        self.sync_zero_replica_period(workload, &mut pages, pods)?;
        let mut wrote = false;
        for (month, page) in &mut pages {
            wrote |= self.write(workload, *month, page).await?;
        }
        if wrote {
            for (uid, idle_seconds) in self.idle(pods) {
                self.written.note_idle(uid, idle_seconds);
            }
        }
        // every record holds the sums now
        for pod in release {
            self.release(pod).await?;
        }
        let pages = pages.into_iter();
        accounts.extend(pages.map(|(month, page)| (month, Arc::new(page.account))));
        Ok(accounts)
    }

    /// Adds the months that stays touch, and carries the charges of pods that run into the months that have begun since. What a cache
    /// shows may have been settled meanwhile, and forgotten, so a live read decides.
    async fn carry_forward(
        &self,
        workload: &WorkloadRef,
        pages: &mut MonthAccounts,
        pods: &[&Pod],
    ) -> Result<(), Error> {
        for pod in pods {
            let Some(stay) = self.lifetime(pod) else {
                continue;
            };
            for month in months_left(pages, pod::uid(pod), stay, self.zone) {
                self.ensure_month(workload, pages, month)?;
            }
        }
        let missing = self.missing_months(workload, pages)?;
        if missing.is_empty() {
            return Ok(());
        }
        let live = self.live_pods(workload).await?;
        let is_there =
            |(_, charge): &(Month, Charge)| live.iter().any(|pod| pod::uid(pod) == charge.uid());
        let (there, gone): (Vec<_>, Vec<_>) = missing.into_iter().partition(is_there);
        self.carry_into_months(pages, there, |uid| self.runs(&live, uid));
        if !gone.is_empty() {
            self.carry_forward_unseen(pages, gone).await?;
        }
        Ok(())
    }

    /// Refuses records with open charges that are not what the API server has: an old one has charges open that were settled since.
    async fn are_current(&self, pages: &MonthAccounts) -> Result<(), ApiError> {
        let api: Api<SpendRecord> = Api::all(self.client.clone());
        let open = pages
            .values()
            .filter(|page| !page.before.open_charges().is_empty());
        for page in open {
            let record = &page.record;
            let call = "get spendrecord";
            let live = with_timeout(call, api.get_opt(&record.name_any())).await?;
            if live.and_then(|live| live.resource_version()) != record.resource_version() {
                return Err(ApiError::Conflict { call });
            }
        }
        Ok(())
    }

    /// Open charges and the months, added to the pages, that have begun since and do not know them.
    fn missing_months(
        &self,
        workload: &WorkloadRef,
        pages: &mut MonthAccounts,
    ) -> Result<Vec<(Month, Charge)>, Error> {
        let mut missing = Vec::new();
        for (uid, charge) in self.open_charges(pages) {
            for month in months_left(pages, &uid, self.until_now(&charge), self.zone) {
                self.ensure_month(workload, pages, month)?;
                if !pages
                    .get(&month)
                    .is_some_and(|page| page.account.contains(&uid))
                {
                    missing.push((month, charge.clone()));
                }
            }
        }
        Ok(missing)
    }

    /// Carries all of these charges, also those of what is gone: it may have ended in either month.
    async fn carry_forward_unseen(
        &self,
        pages: &mut MonthAccounts,
        missing: Vec<(Month, Charge)>,
    ) -> Result<(), ApiError> {
        self.are_current(pages).await?;
        self.carry_into_months(pages, missing, |_| true);
        Ok(())
    }

    /// Carries those of these charges that run.
    fn carry_into_months(
        &self,
        pages: &mut MonthAccounts,
        missing: Vec<(Month, Charge)>,
        runs: impl Fn(&str) -> bool,
    ) {
        for (month, charge) in missing {
            if let Some(page) = pages.get_mut(&month).filter(|_| runs(charge.uid())) {
                page.account.carry_forward(&charge, self.zone);
            }
        }
    }

    /// The open charges, each as the latest month has it; without its rates where that month is kept in another currency.
    fn open_charges(&self, pages: &MonthAccounts) -> BTreeMap<Uid, Charge> {
        let mut all = BTreeMap::new();
        for page in pages.values() {
            for (uid, charge) in page.account.open_charges() {
                let charge = match self.is_foreign(page) {
                    true => charge.clone().unpriced(),
                    false => charge.clone(),
                };
                all.insert(uid.clone(), charge);
            }
        }
        all
    }

    fn until_now(&self, charge: &Charge) -> Interval {
        Interval {
            start: charge.start(),
            end: self.now,
        }
    }

    /// Whether a pod is among these and holds its node.
    fn runs(&self, live: &[Pod], uid: &str) -> bool {
        live.iter()
            .any(|pod| pod::uid(pod) == uid && self.end(pod).is_none())
    }

    /// Opens or settles one pod's charge. True if its finalizer can go once all pages are written.
    async fn sync_pod(
        &self,
        workload: &WorkloadRef,
        pages: &mut MonthAccounts,
        pod: &Pod,
    ) -> Result<bool, Error> {
        let guarded = pod::has_finalizer(pod, SPEND_FINALIZER);
        let end = self.end(pod);
        let uid = pod::uid(pod);
        // claims may be gone before their pod
        let is_open = |page: &MonthAccount| page.account.open_charges().contains_key(uid);
        let holds = self.claims.holds_gpus(pod) || pages.values().any(is_open);
        let Some(stay) = self.lifetime(pod).filter(|_| holds) else {
            // it holds no GPU of any node, and will not any more
            let over = pod.metadata.deletion_timestamp.is_some() || pod::is_terminal(pod);
            return Ok(guarded && over);
        };
        let months = months_left(pages, uid, stay, self.zone);
        let end = end.filter(|_| are_on_record(pages, &months, uid));
        let done = |page: &MonthAccount| match end {
            Some(_) => page.account.settling().contains(uid),
            None => page.account.contains(uid),
        };
        if months
            .iter()
            .all(|month| pages.get(month).is_some_and(done))
        {
            return Ok(end.is_some() && guarded);
        }
        if end.is_some()
            && pages
                .values()
                .any(|page| page.account.settling().len() >= MAX_SETTLING)
        {
            return Ok(false);
        }
        let Some(live) = self.live(pod).await? else {
            // the cache is behind; the pod's end is estimated when the cache knows of it
            return Ok(false);
        };
        if end.is_none() && self.end(&live).is_some() {
            // the cache is behind: it may be settled already
            return Ok(false);
        }
        // what is settled is remembered until it is gone from a live read, so a pod that is there and that no record knows is new
        let going = live.metadata.deletion_timestamp.is_some() || end.is_some();
        let unmanaged = workload.kind == WorkloadKind::Unmanaged;
        if !pod::has_finalizer(&live, SPEND_FINALIZER) && !going && !unmanaged {
            self.guard(&live).await?;
        }
        let open = pages
            .values()
            .rev()
            .find_map(|page| page.account.open_charge(uid))
            .cloned();
        let Some(mut charge) = open.or_else(|| self.charge(pod, stay.start)) else {
            return Ok(false);
        };
        if unmanaged {
            charge = charge.with_owner(pod::owner(pod));
        }
        for month in &months {
            let Some(page) = pages.get_mut(month) else {
                continue;
            };
            match end {
                Some(end) => page.account.settle(&charge, end, self.zone),
                None => page.account.carry_forward(&charge, self.zone),
            };
        }
        Ok(end.is_some() && guarded)
    }

    /// Settles open charges whose pods are gone though nobody settled them. Their end is what the watch last saw of them, or else
    /// estimated as now.
    async fn close_vanished(
        &self,
        workload: &WorkloadRef,
        pages: &mut MonthAccounts,
        pods: &[&Pod],
    ) -> Result<(), Error> {
        let cached: BTreeSet<&str> = pods.iter().map(|pod| pod::uid(pod)).collect();
        let mut vanished = self.open_charges(pages);
        vanished.retain(|uid, charge| {
            let months = months_left(pages, uid, self.until_now(charge), self.zone);
            !cached.contains(uid.as_str()) && are_on_record(pages, &months, uid)
        });
        for (uid, charge) in vanished {
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &workload.namespace);
            let live = with_timeout("get pod", api.get_opt(charge.pod())).await?;
            if live.is_some_and(|live| pod::uid(&live) == uid) {
                continue;
            }
            let seen = whole_second(self.now);
            let told = self.departed.take(&uid).and_then(|pod| self.end(&pod));
            if told.is_none() {
                tracing::warn!(
                    namespace = workload.namespace,
                    pod = charge.pod(),
                    "a pod is gone that was not settled; its end is estimated"
                );
            }
            let end = told.unwrap_or(ChargeEnd {
                at: seen.max(charge.start()),
                estimated: true,
            });
            self.settle(pages, &charge, end);
        }
        Ok(())
    }

    /// Settles a charge that is open in every month that still lacks it.
    fn settle(&self, pages: &mut MonthAccounts, charge: &Charge, end: ChargeEnd) {
        for month in months_left(pages, charge.uid(), self.until_now(charge), self.zone) {
            if let Some(page) = pages.get_mut(&month) {
                page.account.settle(charge, end, self.zone);
            }
        }
    }

    /// Gives open charges the prices until now, and those of `ended` ones the prices until their end.
    fn reprice(&self, pages: &mut MonthAccounts, ended: &BTreeMap<&str, Timestamp>) {
        let now = whole_second(self.now);
        for page in pages.values_mut() {
            // a month's record stays in the currency that it was made in
            if self.is_foreign(page) {
                continue;
            }
            for charge in page.account.open_charges_mut() {
                let until = ended.get(charge.uid()).copied().unwrap_or(now);
                charge.reprice(&self.prices.lists, until);
            }
        }
    }

    /// Books the days that are over of charges whose pods are known to have outlived them.
    async fn post_days(
        &self,
        workload: &WorkloadRef,
        pages: &mut MonthAccounts,
    ) -> Result<(), Error> {
        let (until, due) = self.due(pages);
        if due.is_empty() {
            return Ok(());
        }
        let live = self.live_pods(workload).await?;
        self.post_days_until(pages, until, due, |uid| self.runs(&live, uid));
        Ok(())
    }

    /// The last midnight until which days are booked, and the charges of which some are not.
    fn due(&self, pages: &MonthAccounts) -> (Timestamp, Vec<(Month, Uid)>) {
        let over = self.now.checked_sub(POST_AFTER).unwrap_or(Timestamp::MIN);
        let until = midnight_before(over, self.zone);
        let due = pages.iter().flat_map(|(month, page)| {
            let due = |charge: &&Charge| {
                charge.node_lost_since().is_none() && charge.unposted_since() < until
            };
            // the next month must have it before this one lets go of it
            let carried = |charge: &&Charge| {
                let next = pages.get(&month.next());
                until < month.bounds(self.zone).end
                    || next
                        .is_some_and(|next| next.before.open_charges().contains_key(charge.uid()))
            };
            let charges = page
                .account
                .open_charges()
                .values()
                .filter(due)
                .filter(carried);
            charges.map(|charge| (*month, charge.uid().to_owned()))
        });
        (until, due.collect())
    }

    /// Books the days until `until` of those of these charges that run.
    fn post_days_until(
        &self,
        pages: &mut MonthAccounts,
        until: Timestamp,
        due: Vec<(Month, Uid)>,
        runs: impl Fn(&str) -> bool,
    ) {
        for (month, uid) in due {
            if let Some(page) = pages.get_mut(&month).filter(|_| runs(&uid)) {
                page.account.post_days_until(&uid, until, self.zone);
            }
        }
    }

    /// Forgets settled pods that are gone from a live read.
    async fn forget_deleted(
        &self,
        workload: &WorkloadRef,
        pages: &mut MonthAccounts,
        pods: &[&Pod],
    ) -> Result<(), Error> {
        let cached: BTreeSet<&str> = pods.iter().map(|pod| pod::uid(pod)).collect();
        let gone = |uid: &&String| !cached.contains(uid.as_str());
        // only what an earlier run has written: what this run settles may still be needed
        if !pages
            .values()
            .any(|page| page.before.settling().iter().any(|uid| gone(&uid)))
        {
            return Ok(());
        }
        let live = self.live_pods(workload).await?;
        let live: BTreeSet<&str> = live.iter().map(pod::uid).collect();
        for page in pages.values_mut() {
            let gone = page.before.settling().iter().filter(gone);
            for uid in gone.filter(|uid| !live.contains(uid.as_str())) {
                page.account.forget_settled(uid);
                self.written.forget_pod(uid);
            }
        }
        Ok(())
    }

    /// Idle seconds of these pods since this process first read them.
    fn idle<'p>(&'p self, pods: &'p [&Pod]) -> impl Iterator<Item = (&'p str, i64)> {
        let uids = pods.iter().map(|pod| pod::uid(pod));
        uids.filter_map(|uid| Some((uid, self.done.get(uid)?.1)))
    }

    async fn live_pods(&self, workload: &WorkloadRef) -> Result<Vec<Pod>, ApiError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &workload.namespace);
        let params = match workload.kind {
            WorkloadKind::Unmanaged | WorkloadKind::Node => ListParams::default(),
            kind => {
                let (name, kind) = (&workload.name, kind.as_str());
                ListParams::default()
                    .labels(&format!("{WORKLOAD_LABEL}={name},{KIND_LABEL}={kind}"))
            }
        };
        Ok(with_timeout("list pods", api.list(&params)).await?.items)
    }
}

/// Whether a pod can be settled in these months, one after the other: it may be gone once the first is written, so the others must have
/// its charge by then.
fn are_on_record(pages: &MonthAccounts, months: &[Month], uid: &str) -> bool {
    let is_known = |month| {
        pages
            .get(month)
            .is_some_and(|page| page.before.contains(uid))
    };
    months.len() < 2 || months.iter().all(is_known)
}

/// The sum of `accounts` within an interval of whole days.
pub(crate) fn sum(
    accounts: &Accounts,
    within: Interval,
    now: Timestamp,
    zone: &TimeZone,
) -> DailyCost {
    accounts
        .values()
        .map(|account| account.sum(within, now, zone))
        .sum()
}

/// Money an hour of all open charges; `None` if one has no price.
pub(crate) fn rate(accounts: &Accounts, month: Month) -> Option<Money> {
    accounts.get(&month).map_or(Some(Money::ZERO), |account| {
        account
            .open_charges()
            .values()
            .map(|charge| charge.rate().map(|quote| quote.cost.total()))
            .sum()
    })
}
