//! What the caches hold of one namespace.

use std::sync::Arc;

use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_api::{BudgetPolicy, InferenceDeployment, TrainingJob};
use bursar_core::correction::Correction;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::context::Context;
use crate::corrections;
use crate::gpu_allocation::GpuAllocations;
use crate::ledger::{NamespaceInputs, StoredAccounts};
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
        let inputs = NamespaceInputs::load(context, namespace);
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
            pods: inputs.pods,
            claims: inputs.claims,
            records: inputs.records,
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
