//! A pod of no workload that a budget evicts.

use jiff::Timestamp;

use super::event::{Key, Name};

/// A pod that is to be evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedEviction {
    pub(crate) pod: Key,
    /// The budget that has no money for it.
    pub(crate) budget: Name,
    /// From when on that budget evicts.
    pub(crate) from: Timestamp,
    /// When this one is evicted.
    pub(crate) at: Timestamp,
    /// When that was ordered, unless the order failed.
    pub(crate) ordered: Option<Timestamp>,
    /// What the API server said when it was last refused.
    pub(crate) refused: Option<Name>,
}
