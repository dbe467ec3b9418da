//! SpendRecord: the ledger of one workload, or of some nodes, and month, or of a namespace's closed
//! month; and the summary that a workload's status shows.
//!
//! | module | subject |
//! |---|---|
//! | [`record`] | the record of a workload and month, and its status |
//! | `record_name` | the workload and the month that a record's name names |
//! | [`charge`] | pods that still occupy a node |
//! | [`daily_cost`] | posted costs, by day and hardware |
//! | [`consolidated`] | closed months: one record for all workloads of a namespace |
//! | [`precedence`] | which of several accounts of one workload and month counts |
//! | [`check`](mod@check) | whether a record is sound |
//! | [`summary`] | the spend in a workload's status |

pub mod charge;
pub mod check;
pub mod consolidated;
pub mod daily_cost;
mod invalid;
pub mod precedence;
pub mod record;
mod record_name;
pub mod summary;

pub use charge::{ChargeTerms, OpenCharge};
pub use check::{RecordFault, record_faults};
pub use consolidated::ConsolidatedAccount;
pub use daily_cost::{CostComponents, DayEntry, Hardware, ZeroReplicaStatus};
pub use precedence::{RecordPrecedence, authoritative};
pub use record::{SpendRecord, SpendRecordSpec, SpendRecordStatus, WorkloadKind, WorkloadRef};
pub use summary::SpendSummary;
