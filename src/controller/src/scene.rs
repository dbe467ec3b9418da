//! What the caches hold of one namespace.

use std::collections::BTreeSet;
use std::sync::Arc;

use bursar_api::names::{SPEND_FINALIZER, WORKLOAD_LABEL};
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_api::{BudgetPolicy, InferenceDeployment, TrainingJob};
use bursar_core::correction::Correction;
use bursar_core::ledger::Uid;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::context::Context;
use crate::corrections;
use crate::gpu_allocation::GpuAllocations;
use crate::ledger::StoredAccounts;
use crate::lock::lock;
use crate::pod;
use bursar_api::prices::EffectivePrices;

/// What the caches hold of one namespace.
pub(crate) struct Scene {
    pub(crate) namespace: String,
    pub(crate) services: Vec<Arc<InferenceDeployment>>,
    pub(crate) jobs: Vec<Arc<TrainingJob>>,
    pub(crate) budgets: Vec<Arc<BudgetPolicy>>,
    /// Names of budgets that cannot be read, and why.
    pub(crate) unreadable_budgets: Vec<(String, String)>,
    /// Pods of workloads.
    pub(crate) pods: Vec<Arc<Pod>>,
    pub(crate) claims: GpuAllocations,
    /// Pods that used devices which others bore until a moment ago.
    pub(crate) sharing: BTreeSet<Uid>,
    pub(crate) records: StoredAccounts,
    pub(crate) prices: Arc<EffectivePrices>,
    /// Those that count.
    pub(crate) corrections: Vec<Correction>,
    pub(crate) now: Timestamp,
}

impl Scene {
    /// What the caches hold now. The oldest workload comes first.
    pub(crate) fn of(context: &Context, namespace: &str, now: Timestamp) -> Self {
        let here = |object: &dyn Fn() -> Option<String>| object().as_deref() == Some(namespace);
        let mut services = context.stores.services.state();
        services.retain(|object| {
            here(&|| object.namespace()) && object.metadata.deletion_timestamp.is_none()
        });
        services.sort_by_key(|object| (object.creation_timestamp(), object.name_any()));
        let mut jobs = context.stores.jobs.state();
        jobs.retain(|object| {
            here(&|| object.namespace()) && object.metadata.deletion_timestamp.is_none()
        });
        let mut budgets = context.stores.budgets.state();
        budgets.retain(|object| {
            here(&|| object.namespace()) && !context.unreadable.contains(&**object)
        });
        budgets.sort_by_key(|object| object.name_any());
        let unreadable_budgets = context.unreadable.in_namespace::<BudgetPolicy>(namespace);
        let unreadable_budgets = unreadable_budgets.into_iter();
        let unreadable_budgets = unreadable_budgets
            .map(|object| (object.name.clone(), object.why()))
            .collect();
        let mut pods = context.stores.pods.state();
        pods.retain(|pod| here(&|| pod.namespace()) && pod::workload_of(pod).is_some());
        let mut records = StoredAccounts::load(&context.stores.records, &context.folded, namespace);
        records.note_unreadable(&context.unreadable, namespace);
        let open: BTreeSet<Uid> = records.open().map(str::to_owned).collect();
        let claims = GpuAllocations::new(&context.stores, &pods, &open);
        let sharing = {
            let mut all = lock(&context.sharing);
            let sharing = all.entry(namespace.to_owned()).or_default();
            sharing.extend(claims.sharing().iter().cloned());
            sharing
                .retain(|uid| !open.contains(uid) && pods.iter().any(|pod| pod::uid(pod) == uid));
            sharing.clone()
        };
        // claims for other devices than GPUs concern nobody
        let is_charged = |pod: &Pod| {
            pod::label(pod, WORKLOAD_LABEL).is_some()
                || pod::has_finalizer(pod, SPEND_FINALIZER)
                || claims.holds_gpus(pod)
                || open.contains(pod::uid(pod))
        };
        pods.retain(|pod| is_charged(pod));
        let prices = context.prices(now);
        let corrections = corrections::accepted(
            &context.stores.corrections,
            &context.stores.records,
            &prices.lists.currency,
            namespace,
        );
        Self {
            namespace: namespace.to_owned(),
            services,
            jobs,
            budgets,
            unreadable_budgets,
            pods,
            claims,
            sharing,
            records,
            prices,
            corrections,
            now,
        }
    }

    /// All workloads that there are, or that have pods or records.
    pub(crate) fn workloads(&self) -> Vec<WorkloadRef> {
        let mut all: Vec<WorkloadRef> = self
            .services
            .iter()
            .map(|each| self.workload(WorkloadKind::InferenceDeployment, &each.name_any()))
            .collect();
        all.extend(
            self.jobs
                .iter()
                .map(|each| self.workload(WorkloadKind::TrainingJob, &each.name_any())),
        );
        all.extend(self.pods.iter().filter_map(|pod| pod::workload_of(pod)));
        all.extend(self.records.workloads().cloned());
        all.sort();
        all.dedup();
        all
    }

    /// Services that the last decision asked no replica for.
    pub(crate) fn unasked(&self) -> BTreeSet<WorkloadRef> {
        let asked = |object: &InferenceDeployment| {
            let status = object.status.as_ref();
            status.is_none_or(|status| status.desired_replicas > 0)
        };
        let unasked = self.services.iter().filter(|object| !asked(object));
        unasked
            .map(|object| self.workload(WorkloadKind::InferenceDeployment, &object.name_any()))
            .collect()
    }

    /// The pods of one workload.
    pub(crate) fn pods_of(&self, workload: &WorkloadRef) -> Vec<&Pod> {
        let ours = |pod: &&Arc<Pod>| pod::workload_of(pod).as_ref() == Some(workload);
        self.pods.iter().filter(ours).map(AsRef::as_ref).collect()
    }

    /// A workload of this namespace.
    pub(crate) fn workload(&self, kind: WorkloadKind, name: &str) -> WorkloadRef {
        WorkloadRef {
            namespace: self.namespace.clone(),
            kind,
            name: name.to_owned(),
        }
    }
}
