//! The newest wanted state of what a workload owns: later orders are merged into those that were not
//! carried out yet.

use std::collections::BTreeMap;

use bursar_core::model::Name;
use bursar_core::plan::{JobOrder, ServiceOrder};
use jiff::Timestamp;

/// What a pod is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PodMark {
    /// It gets no new requests, and finishes those that it has.
    Drain,
    /// It serves after all.
    Keep,
    /// Its ReplicaSet deletes it before others.
    Remove,
}

/// A new number of replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scale {
    /// The number that the decision found.
    pub(crate) from: u32,
    /// The number that there will be.
    pub(crate) to: u32,
    /// Why.
    pub(crate) reason: String,
    /// Since when requests have been held, if they are what wakes the service.
    pub(crate) held_since: Option<Timestamp>,
}

/// What a service's pods and its Deployment are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceChange {
    /// Pods by UID.
    pub(crate) pods: BTreeMap<Name, PodMark>,
    /// The Deployment.
    pub(crate) scale: Scale,
    /// A budget stops it.
    pub(crate) after_latch: bool,
}

impl ServiceChange {
    /// Whether it starts the first replica.
    pub(crate) fn starts(&self) -> bool {
        self.scale.from == 0 && self.scale.to > 0
    }
}

impl From<ServiceOrder> for ServiceChange {
    fn from(order: ServiceOrder) -> Self {
        let drain = order.drain.into_iter().map(|uid| (uid, PodMark::Drain));
        let keep = order.keep.into_iter().map(|uid| (uid, PodMark::Keep));
        let remove = order.remove.into_iter().map(|uid| (uid, PodMark::Remove));
        let (from, to) = order.replicas;
        Self {
            pods: drain.chain(keep).chain(remove).collect(),
            scale: Scale {
                from,
                to,
                reason: order.reason,
                held_since: order.held_since,
            },
            after_latch: order.after_latch,
        }
    }
}

/// The newest orders for one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// For a service.
    Service(ServiceChange),
    /// For a TrainingJob.
    Job(JobOrder),
}

impl Order {
    /// Whether it is carried out only once the latch of a budget is on record.
    pub(crate) fn is_after_latch(&self) -> bool {
        match self {
            Self::Service(change) => change.after_latch,
            Self::Job(order) => order.after_latch,
        }
    }

    /// This order after one that was not carried out.
    #[must_use]
    pub(crate) fn after(self, earlier: Self) -> Self {
        match (earlier, self) {
            (Self::Service(earlier), Self::Service(mut change)) => {
                let mut pods = earlier.pods;
                pods.extend(change.pods);
                change.pods = pods;
                change.scale.from = earlier.scale.from;
                let held = earlier.scale.held_since;
                change.scale.held_since = change.scale.held_since.or(held);
                Self::Service(change)
            }
            (_, newest) => newest,
        }
    }
}
