//! The objects that the controller acts for: orders, owned objects and statuses are theirs.

use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_core::model::Key;

/// An object that the controller acts for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ObjectKey {
    /// An InferenceDeployment.
    Service(Key),
    /// A TrainingJob.
    Job(Key),
    /// A BudgetPolicy.
    Budget(Key),
    /// A pod of no workload.
    Pod(Key),
}

impl ObjectKey {
    /// The workload; `None` for an account of no workload.
    pub(crate) fn of(workload: &WorkloadRef) -> Option<Self> {
        let key = || Key::new(&workload.namespace, &workload.name);
        match workload.kind {
            WorkloadKind::InferenceDeployment => Some(Self::Service(key())),
            WorkloadKind::TrainingJob => Some(Self::Job(key())),
            WorkloadKind::Unmanaged | WorkloadKind::Node | WorkloadKind::Folded => None,
        }
    }

    /// Its namespace and name.
    pub(crate) fn key(&self) -> &Key {
        match self {
            Self::Service(key) | Self::Job(key) | Self::Budget(key) | Self::Pod(key) => key,
        }
    }

    /// Its account; `None` for a budget and a pod, which have none of their own.
    pub(crate) fn workload(&self) -> Option<WorkloadRef> {
        let kind = match self {
            Self::Service(_) => WorkloadKind::InferenceDeployment,
            Self::Job(_) => WorkloadKind::TrainingJob,
            Self::Budget(_) | Self::Pod(_) => return None,
        };
        let key = self.key();
        Some(WorkloadRef {
            namespace: key.namespace.to_string(),
            kind,
            name: key.name.to_string(),
        })
    }
}
