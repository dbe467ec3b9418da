//! What the caches hold of one namespace's pods and records.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bursar_api::names::SPEND_FINALIZER;
use bursar_api::spend::WorkloadRef;
use bursar_core::ledger::Uid;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::charge_holders::ChargeHolders;
use super::pod_lifetime::SharedSince;
use super::stored_accounts::StoredAccounts;
use crate::context::Context;
use crate::gpu_allocation::GpuAllocations;
use crate::lock::lock;
use crate::pod;

/// What the caches held of one namespace at one moment.
pub(crate) struct NamespaceInputs {
    /// Pods that are charged to a workload, or may be.
    pub(crate) pods: Vec<Arc<Pod>>,
    pub(crate) claims: GpuAllocations,
    /// Pods without a charge on record that used nothing but devices which are charged to others, and
    /// since when they hold them themselves.
    pub(super) sharing: SharedSince,
    pub(crate) records: StoredAccounts,
    pub(super) holders: ChargeHolders,
    /// The indexes of a workload's pods.
    by_workload: BTreeMap<WorkloadRef, Vec<usize>>,
}

impl NamespaceInputs {
    /// What the caches hold `now`.
    pub(crate) fn load(context: &Context, namespace: &str, now: Timestamp) -> Self {
        let stores = &context.stores;
        let mut pods = context.pods_in(namespace);
        let mut records = StoredAccounts::load(context.records_in(namespace), &context.folded);
        records.note_unreadable(&context.unreadable, namespace);
        let mut open = context.ledger.open_charges(namespace);
        for (uid, devices) in records.open() {
            let known = open.entry(uid).or_default();
            for (driver, count) in devices {
                let known = known.entry(driver).or_default();
                *known = count.max(*known);
            }
        }
        let claims = GpuAllocations::new(stores, &pods, &open);
        let sharing = {
            let mut all = lock(&context.sharing);
            let known = all.remove(namespace).unwrap_or_default();
            let sharing = update_sharing(known, &pods, &claims, &records, now);
            if !sharing.is_empty() {
                all.insert(namespace.to_owned(), sharing.clone());
            }
            sharing
        };
        // claims for other devices than GPUs concern nobody
        let is_charged = |pod: &Pod| {
            pod::has_finalizer(pod, SPEND_FINALIZER)
                || claims.holds_gpus(pod)
                || open.contains_key(pod::uid(pod))
        };
        pods.retain(|pod| is_charged(pod));
        // users can change labels of a pod that runs: it stays in the account that has it
        let mut holders = ChargeHolders::default();
        context.ledger.note_holders(namespace, &mut holders);
        records.note_holders(&mut holders);
        let by_workload = by_workload(context, (namespace, now), &pods, &holders);
        Self {
            pods,
            claims,
            sharing,
            records,
            holders,
            by_workload,
        }
    }

    /// Whether pods share devices: whose charge is open decides which of them is charged.
    pub(super) fn share_devices(&self) -> bool {
        self.claims.has_shared_devices() || !self.sharing.is_empty()
    }

    /// The workloads that have pods or records.
    pub(super) fn workloads(&self) -> impl Iterator<Item = &WorkloadRef> {
        self.by_workload.keys().chain(self.records.workloads())
    }

    /// The pods of a workload.
    pub(super) fn pods_of(&self, workload: &WorkloadRef) -> Vec<&Pod> {
        let indexes = self.by_workload.get(workload).into_iter().flatten();
        let pods = indexes.filter_map(|index| self.pods.get(*index));
        pods.map(AsRef::as_ref).collect()
    }
}

/// Adds the pods of which all devices are charged to others, and since when those hold some themselves
/// that do `now`. A pod is remembered until its charge is on record: one that was only published may
/// fail to be written, and the next try must not charge the pod from its binding.
fn update_sharing(
    mut sharing: SharedSince,
    pods: &[Arc<Pod>],
    claims: &GpuAllocations,
    records: &StoredAccounts,
    now: Timestamp,
) -> SharedSince {
    sharing.extend(claims.without_own().map(|uid| (uid.clone(), None)));
    if sharing.is_empty() {
        return sharing;
    }
    let on_record: BTreeSet<Uid> = records.open().map(|(uid, _)| uid).collect();
    let here: BTreeMap<&str, &Pod> = pods.iter().map(|pod| (pod::uid(pod), &**pod)).collect();
    sharing.retain(|uid, since| {
        let Some(pod) = here.get(uid.as_str()).filter(|_| !on_record.contains(uid)) else {
            return false;
        };
        if claims.holds_gpus(pod) {
            since.get_or_insert(now);
        }
        true
    });
    sharing
}

/// The indexes of the pods of each account. A charge that another sync is about to open is on no record
/// yet: a pod that holds a node stays in the account that this process first put it in.
fn by_workload(
    context: &Context,
    (namespace, now): (&str, Timestamp),
    pods: &[Arc<Pod>],
    holders: &ChargeHolders,
) -> BTreeMap<WorkloadRef, Vec<usize>> {
    let mut all = lock(&context.first_accounts);
    let mut first = all.remove(namespace).unwrap_or_default();
    let mut kept = HashMap::new();
    let mut by_workload: BTreeMap<WorkloadRef, Vec<usize>> = BTreeMap::new();
    for (index, pod) in pods.iter().enumerate() {
        let uid = pod::uid(pod);
        let known = holders.of(uid).cloned().or_else(|| first.remove(uid));
        // a replica of a target is charged to its service from its binding on, once it has the labels
        let may_get_labels =
            || context.scale_targets.may_own(pod, now) || context.job_targets.may_own(pod, now);
        if known.is_none() && may_get_labels() {
            continue;
        }
        let Some(workload) = known.or_else(|| pod::workload_of(pod)) else {
            continue;
        };
        if pod::bound_at(pod).is_some() {
            kept.insert(uid.to_owned(), workload.clone());
        }
        by_workload.entry(workload).or_default().push(index);
    }
    if !kept.is_empty() {
        all.insert(namespace.to_owned(), kept);
    }
    by_workload
}
