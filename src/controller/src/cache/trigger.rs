//! What a change triggers in the ledger: syncs of accounts.

use bursar_api::spend::WorkloadRef;
use tokio::sync::mpsc;

/// The accounts that a change triggers a sync of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// That of one workload: the workload or one of its pods changed.
    Workload(WorkloadRef),
    /// The same, where one of the workload's SpendRecords changed.
    Record(WorkloadRef),
    /// All of a namespace.
    Accounts(String),
    /// All that the change concerns: a price or a node changed.
    All,
}

/// Where triggers are sent.
pub(crate) type Triggers = mpsc::UnboundedSender<Trigger>;
