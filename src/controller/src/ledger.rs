//! The ledger's exactly-once protocol over SpendRecords and the pods' finalizer.
//!
//! 1. A pod that is bound is opened: its record is read at version r, the pod is read live, the charge is written at r.
//! 2. A pod that has ended is settled: records read at r, the pod read live with its finalizer still there, sums and UID written at r,
//!    one record for each month that its stay touches.
//! 3. Only then is the finalizer removed; and only when the pod is gone from a live read is its UID forgotten.
//!
//! A write at r fails if anybody wrote since, so a stale cache and a former leader change nothing; a crash between any two steps
//! leaves a state from which the same steps go on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use bursar_api::SpendRecord;
use bursar_api::names::{KIND_LABEL, SPEND_FINALIZER, WORKLOAD_LABEL};
use bursar_api::spend::{SpendRecordStatus, WorkloadKind, WorkloadRef};
use bursar_api::text::FieldError;
use bursar_core::ledger::{Account, Charge, DaySum, End};
use bursar_core::money::Money;
use bursar_core::period::{Interval, Month, whole_second};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::reflector::Store;
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::calls::{Failure, bounded};
use crate::pod;
use crate::prices::Prices;

/// Why the ledger of a workload could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A call to the API server.
    #[error(transparent)]
    Call(#[from] Failure),
    /// Somebody edited a record by hand.
    #[error("SpendRecord {name} cannot be read: {source}")]
    Record {
        /// Its name.
        name: String,
        /// What is wrong.
        source: FieldError,
    },
}

/// The accounts of one workload, by month.
pub(crate) type Accounts = BTreeMap<Month, Account>;

/// What was last written, so that a cache which lags behind does not make the next write fail.
#[derive(Debug, Default)]
pub(crate) struct Written(Mutex<HashMap<String, SpendRecord>>);

impl Written {
    fn put(&self, record: SpendRecord) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(record.name_any(), record);
    }

    /// The newer one of the cached and the written record.
    fn newer(&self, cached: Option<SpendRecord>, name: &str) -> Option<SpendRecord> {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let version = |record: &SpendRecord| {
            record
                .resource_version()
                .and_then(|version| version.parse::<u64>().ok())
        };
        match (written.get(name), cached) {
            (Some(ours), Some(cached)) if version(ours) > version(&cached) => Some(ours.clone()),
            (Some(_), Some(cached)) => {
                written.remove(name);
                Some(cached)
            }
            (Some(ours), None) => Some(ours.clone()),
            (None, cached) => cached,
        }
    }

    /// Forgets a record, after a write that somebody else forestalled.
    fn forget(&self, name: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }
}

/// What the ledger works with.
pub(crate) struct Ledger<'a> {
    pub(crate) client: &'a Client,
    pub(crate) records: &'a Store<SpendRecord>,
    pub(crate) written: &'a Written,
    pub(crate) nodes: &'a Store<Node>,
    pub(crate) prices: &'a Prices,
    pub(crate) zone: &'a TimeZone,
    pub(crate) now: Timestamp,
}

/// One record and the account that will be written to it.
struct Page {
    record: Option<SpendRecord>,
    before: Account,
    account: Account,
}

impl Ledger<'_> {
    /// Brings the accounts of `workload` up to date with its pods as the cache has them.
    ///
    /// # Errors
    /// The first call that failed. Nothing is lost by that: the next run goes on where this one stopped.
    pub(crate) async fn keep(
        &self,
        workload: &WorkloadRef,
        pods: &[&Pod],
    ) -> Result<Accounts, Error> {
        let mut pages = self.pages(workload)?;
        self.open_months(workload, &mut pages, pods)?;
        let mut release = Vec::new();
        for pod in pods {
            if self.enter(&mut pages, pod).await? {
                release.push(*pod);
            }
        }
        self.close_vanished(workload, &mut pages, pods).await?;
        self.reprice(&mut pages);
        self.forget_gone(workload, &mut pages, pods).await?;
        for (month, page) in &mut pages {
            self.write(workload, *month, page).await?;
        }
        // every record holds the sums now
        for pod in release {
            self.release(pod).await?;
        }
        Ok(pages
            .into_iter()
            .map(|(month, page)| (month, page.account))
            .collect())
    }

    fn pages(&self, workload: &WorkloadRef) -> Result<BTreeMap<Month, Page>, Error> {
        let mut pages = BTreeMap::new();
        let ours = self
            .records
            .state()
            .into_iter()
            .filter(|record| record.workload() == *workload);
        let mut months: BTreeSet<Month> = ours
            .filter_map(|record| record.spec.month.parse().ok())
            .collect();
        months.insert(Month::of(self.now, self.zone));
        for month in months {
            pages.insert(month, self.page(workload, month)?);
        }
        Ok(pages)
    }

    fn page(&self, workload: &WorkloadRef, month: Month) -> Result<Page, Error> {
        let name = workload.record_name(month);
        let cached = self
            .records
            .find(|record| record.name_any() == name)
            .map(|record| (*record).clone());
        let record = self.written.newer(cached, &name);
        let account = record
            .as_ref()
            .map_or_else(|| Ok(Account::new(month)), SpendRecord::to_account);
        let account = account.map_err(|source| Error::Record { name, source })?;
        Ok(Page {
            record,
            before: account.clone(),
            account,
        })
    }

    /// Adds the months that pods' stays touch, and carries open charges into the present month.
    fn open_months(
        &self,
        workload: &WorkloadRef,
        pages: &mut BTreeMap<Month, Page>,
        pods: &[&Pod],
    ) -> Result<(), Error> {
        for pod in pods {
            let Some(start) = pod::bound_at(pod) else {
                continue;
            };
            let end = pod::end(pod, self.now).map_or(self.now, |end| end.at);
            for month in (Interval { start, end }).months(self.zone) {
                if let std::collections::btree_map::Entry::Vacant(entry) = pages.entry(month) {
                    entry.insert(self.page(workload, month)?);
                }
            }
        }
        let open: Vec<Charge> = pages
            .values()
            .flat_map(|page| page.account.open.values().cloned())
            .collect();
        for charge in open {
            let settled = pages
                .values()
                .any(|page| page.account.settling.contains(&charge.uid));
            let now = Interval {
                start: charge.start,
                end: self.now,
            };
            for month in now.months(self.zone).filter(|_| !settled) {
                if let Some(page) = pages.get_mut(&month) {
                    page.account.open(charge.clone());
                }
            }
        }
        Ok(())
    }

    /// Opens or settles one pod's charge. True if its finalizer can go once all pages are written.
    async fn enter(&self, pages: &mut BTreeMap<Month, Page>, pod: &Pod) -> Result<bool, Error> {
        let guarded = pod::has_finalizer(pod, SPEND_FINALIZER);
        let going = pod.metadata.deletion_timestamp.is_some();
        let Some(start) = pod::bound_at(pod) else {
            // it never held a node, and will not any more
            return Ok(guarded && (going || pod::is_terminal(pod)));
        };
        let start = whole_second(start);
        let end = pod::end(pod, self.now);
        let stay = Interval {
            start,
            end: end.map_or(self.now, |end| end.at),
        };
        let months: Vec<Month> = stay.months(self.zone).collect();
        let uid = pod::uid(pod);
        let settled = |page: &Page| page.account.settling.contains(uid);
        let known = |page: &Page| settled(page) || page.account.open.contains_key(uid);
        let of_stay = || {
            pages
                .iter()
                .filter(|(month, _)| months.contains(month))
                .map(|(_, page)| page)
        };
        let complete = match end {
            Some(_) => of_stay().all(settled),
            None => of_stay().all(known),
        };
        if complete {
            return Ok(end.is_some() && guarded);
        }
        let Some(live) = self.live(pod).await? else {
            // the cache is behind; the pod's end is estimated when the cache knows of it
            return Ok(false);
        };
        if !pod::has_finalizer(&live, SPEND_FINALIZER) {
            if live.metadata.deletion_timestamp.is_some() || end.is_some() {
                // without the finalizer nobody can tell whether it was settled before, unless it is still open
                if !pages
                    .values()
                    .any(|page| page.account.open.contains_key(uid))
                {
                    return Ok(false);
                }
            } else {
                self.guard(&live).await?;
            }
        }
        let charge = self.charge(pages, pod, uid, start);
        let Some(charge) = charge else {
            return Ok(false);
        };
        for month in &months {
            let Some(page) = pages.get_mut(month) else {
                continue;
            };
            match end {
                Some(end) => page.account.settle(&charge, end, self.zone),
                None => page.account.open(charge.clone()),
            };
        }
        Ok(end.is_some() && guarded)
    }

    /// The open charge of the latest month, or a new one; `None` for a pod without GPUs.
    fn charge(
        &self,
        pages: &BTreeMap<Month, Page>,
        pod: &Pod,
        uid: &str,
        start: Timestamp,
    ) -> Option<Charge> {
        if let Some(open) = pages
            .values()
            .rev()
            .find_map(|page| page.account.open.get(uid))
        {
            return Some(open.clone());
        }
        let facts = pod::facts(pod.spec.as_ref()?, BTreeMap::new())?;
        let node =
            pod::node_name(pod).and_then(|name| self.nodes.find(|node| node.name_any() == name));
        let facts = match &node {
            Some(node) => pod::on(facts, node),
            None => facts,
        };
        let mut charge = Charge {
            uid: uid.to_owned(),
            pod: pod.name_any(),
            facts,
            start,
            rates: Vec::new(),
        };
        charge.reprice(&self.prices.lists.price(&charge.facts, self.now), start);
        Some(charge)
    }

    /// Settles open charges whose pods are gone though nobody settled them: their end is estimated as now.
    async fn close_vanished(
        &self,
        workload: &WorkloadRef,
        pages: &mut BTreeMap<Month, Page>,
        pods: &[&Pod],
    ) -> Result<(), Error> {
        let cached: BTreeSet<&str> = pods.iter().map(|pod| pod::uid(pod)).collect();
        let open = pages.values().flat_map(|page| page.account.open.values());
        let vanished: BTreeMap<String, Charge> = open
            .filter(|charge| !cached.contains(charge.uid.as_str()))
            .map(|charge| (charge.uid.clone(), charge.clone()))
            .collect();
        for (uid, charge) in vanished {
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &workload.namespace);
            let live = bounded("get pod", api.get_opt(&charge.pod)).await?;
            if live.is_some_and(|live| pod::uid(&live) == uid) {
                continue;
            }
            tracing::warn!(
                namespace = workload.namespace,
                pod = charge.pod,
                "a pod is gone that was not settled; its end is estimated"
            );
            let end = End {
                at: whole_second(self.now).max(charge.start),
                estimated: true,
            };
            for month in (Interval {
                start: charge.start,
                end: end.at,
            })
            .months(self.zone)
            {
                if let Some(page) = pages.get_mut(&month) {
                    page.account.settle(&charge, end, self.zone);
                }
            }
        }
        Ok(())
    }

    /// Gives every open charge the price that is in force now.
    fn reprice(&self, pages: &mut BTreeMap<Month, Page>) {
        let now = whole_second(self.now);
        for charge in pages
            .values_mut()
            .flat_map(|page| page.account.open.values_mut())
        {
            let priced = self.prices.lists.price(&charge.facts, self.now);
            charge.reprice(&priced, now);
        }
    }

    /// Forgets settled pods that are gone from a live read.
    async fn forget_gone(
        &self,
        workload: &WorkloadRef,
        pages: &mut BTreeMap<Month, Page>,
        pods: &[&Pod],
    ) -> Result<(), Error> {
        let cached: BTreeSet<&str> = pods.iter().map(|pod| pod::uid(pod)).collect();
        let gone = |uid: &&String| !cached.contains(uid.as_str());
        // only what an earlier run has written: what this run settles may still be needed
        if !pages
            .values()
            .any(|page| page.before.settling.iter().any(|uid| gone(&uid)))
        {
            return Ok(());
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &workload.namespace);
        let selector = format!(
            "{WORKLOAD_LABEL}={},{KIND_LABEL}={}",
            workload.name,
            workload.kind.as_str()
        );
        let live = bounded(
            "list pods",
            api.list_metadata(&ListParams::default().labels(&selector)),
        )
        .await?;
        let live: BTreeSet<String> = live
            .items
            .into_iter()
            .filter_map(|pod| pod.metadata.uid)
            .collect();
        for page in pages.values_mut() {
            let gone: Vec<String> = page
                .before
                .settling
                .iter()
                .filter(gone)
                .filter(|uid| !live.contains(*uid))
                .cloned()
                .collect();
            for uid in gone {
                page.account.forget(&uid);
            }
        }
        Ok(())
    }

    async fn write(
        &self,
        workload: &WorkloadRef,
        month: Month,
        page: &mut Page,
    ) -> Result<(), Error> {
        if page.record.is_some() && page.account == page.before {
            return Ok(());
        }
        let api: Api<SpendRecord> = Api::all(self.client.clone());
        let name = workload.record_name(month);
        let params = PostParams::default();
        let mut record = match &page.record {
            Some(record) => record.clone(),
            None => {
                let zone = self.zone.iana_name().unwrap_or("UTC");
                let new = workload.record(month, zone, &self.prices.lists.currency);
                let made = bounded("create spendrecord", api.create(&params, &new)).await?;
                self.written.put(made.clone());
                made
            }
        };
        if page.account != page.before {
            record.status = Some(SpendRecordStatus::from(&page.account));
            let replaced = bounded(
                "replace spendrecord status",
                api.replace_status(&name, &params, &record),
            )
            .await;
            record = replaced.inspect_err(|_| self.written.forget(&name))?;
            self.written.put(record);
        }
        Ok(())
    }

    /// The pod as it is now, if it is still the same one.
    async fn live(&self, pod: &Pod) -> Result<Option<Pod>, Failure> {
        let api: Api<Pod> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let live = bounded("get pod", api.get_opt(&pod.name_any())).await?;
        Ok(live.filter(|live| pod::uid(live) == pod::uid(pod)))
    }

    /// Adds the finalizer to a pod that no admission policy gave it to.
    async fn guard(&self, pod: &Pod) -> Result<(), Failure> {
        let mut finalizers = pod.finalizers().to_vec();
        finalizers.push(SPEND_FINALIZER.to_owned());
        let version = pod.resource_version();
        let patch = json!({"metadata": {"uid": pod.uid(), "resourceVersion": version, "finalizers": finalizers}});
        self.patch(pod, patch).await
    }

    /// Removes the finalizer of a pod that is settled, or never held a node.
    async fn release(&self, pod: &Pod) -> Result<(), Failure> {
        let Some(live) = self.live(pod).await? else {
            return Ok(());
        };
        if !pod::has_finalizer(&live, SPEND_FINALIZER) {
            return Ok(());
        }
        let finalizers: Vec<&String> = live
            .finalizers()
            .iter()
            .filter(|each| *each != SPEND_FINALIZER)
            .collect();
        let version = live.resource_version();
        let patch = json!({"metadata": {"uid": live.uid(), "resourceVersion": version, "finalizers": finalizers}});
        self.patch(&live, patch).await
    }

    async fn patch(&self, pod: &Pod, patch: serde_json::Value) -> Result<(), Failure> {
        let api: Api<Pod> =
            Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let name = pod.name_any();
        let params = PatchParams::default();
        let patch = Patch::Merge(patch);
        match bounded("patch pod", api.patch_metadata(&name, &params, &patch)).await {
            Err(Failure::Gone { .. }) => Ok(()),
            other => other.map(drop),
        }
    }
}

/// The workload that a pod belongs to.
pub(crate) fn workload_of(pod: &Pod) -> Option<WorkloadRef> {
    let kind = WorkloadKind::of(pod::label(pod, KIND_LABEL)?)?;
    Some(WorkloadRef {
        namespace: pod.namespace()?,
        kind,
        name: pod::label(pod, WORKLOAD_LABEL)?.to_owned(),
    })
}

/// The sum of `accounts` within an interval of whole days.
pub(crate) fn sum(
    accounts: &Accounts,
    within: Interval,
    now: Timestamp,
    zone: &TimeZone,
) -> DaySum {
    accounts
        .values()
        .fold(DaySum::default(), |mut sum, account| {
            sum += account.sum(within, now, |_| None, zone);
            sum
        })
}

/// Money an hour of all open charges; `None` if one has no price.
pub(crate) fn rate(accounts: &Accounts, month: Month) -> Option<Money> {
    accounts.get(&month).map_or(Some(Money::ZERO), |account| {
        account
            .open
            .values()
            .map(|charge| charge.rate().map(|cost| cost.total()))
            .sum()
    })
}
