//! A budget that evicts pods of no workload, and a pod that it evicts.

use jiff::Timestamp;

use super::event::{Key, Name, Pod};
use crate::budget::Unmanaged;

/// A budget that evicts pods of no workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Evicting {
    /// From when on.
    pub(crate) from: Timestamp,
    /// Which of them.
    pub(crate) unmanaged: Unmanaged,
}

impl Evicting {
    /// Whether it evicts the pod.
    pub(crate) fn evicts(&self, pod: &Pod) -> bool {
        pod.may_be_evicted() && self.unmanaged.evicts(&pod.owner_name)
    }
}

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
