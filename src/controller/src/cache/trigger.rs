//! What a change triggers: a decision over one namespace, or over all, and syncs of accounts.

use bursar_api::spend::WorkloadRef;
use tokio::sync::mpsc;

/// The namespaces that a change triggers a decision over, and the accounts that it triggers a sync
/// of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// One namespace, and none of its accounts.
    Namespace(String),
    /// The namespace and the account of one workload: the workload or one of its pods changed.
    Workload(WorkloadRef),
    /// The same, where one of the workload's SpendRecords changed.
    Record(WorkloadRef),
    /// One namespace and all its accounts.
    Accounts(String),
    /// Every namespace that has workloads: a price or a node changed.
    All,
}

/// Where triggers are sent.
pub(crate) type Triggers = mpsc::UnboundedSender<Trigger>;
