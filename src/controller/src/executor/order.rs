//! The newest wanted state of what a workload owns: later orders are merged into those that were not
//! carried out yet.

use std::collections::BTreeMap;

use bursar_core::model::Name;
use bursar_core::plan::{Decision, EvictionOrder, JobOrder, ServiceOrder};

use crate::pod_mark::PodMark;

/// What a service's pods and its Deployment are told, and the decision that it follows from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceChange {
    /// Pods by UID.
    pub(crate) pods: BTreeMap<Name, PodMark>,
    /// The newest order; its replicas are those before the first one and those that there will be.
    pub(crate) order: ServiceOrder,
    pub(crate) decision: Decision,
}

impl ServiceChange {
    /// What a new order tells.
    pub(crate) fn new(order: ServiceOrder, decision: Decision) -> Self {
        let marks = [
            (&order.drain, PodMark::Drain),
            (&order.keep, PodMark::Keep),
            (&order.remove, PodMark::Remove),
        ];
        let marks = marks.into_iter().flat_map(|(uids, mark)| {
            let marked = uids.iter().cloned();
            marked.map(move |uid| (uid, mark))
        });
        Self {
            pods: marks.collect(),
            order,
            decision,
        }
    }

    /// Whether it starts the first replica.
    fn starts(&self) -> bool {
        let (from, to) = self.order.replicas;
        from == 0 && to > 0
    }

    /// Whether it adds replicas.
    pub(crate) fn grows(&self) -> bool {
        let (from, to) = self.order.replicas;
        to > from
    }

    /// Whether it takes replicas away for which there is no money.
    pub(crate) fn is_for_money(&self) -> bool {
        self.order.after_latch && !self.grows()
    }

    /// This change after one that was not carried out.
    fn after(mut self, earlier: Self) -> Self {
        let mut pods = earlier.pods;
        pods.extend(self.pods);
        self.pods = pods;
        self.order.replicas.0 = earlier.order.replicas.0;
        self.order.held_since = self.order.held_since.or(earlier.order.held_since);
        // what a budget takes away is a part of it still
        self.order.after_latch |= earlier.order.after_latch && self.takes_away();
        self
    }

    fn takes_away(&self) -> bool {
        let (from, to) = self.order.replicas;
        let mut marks = self.pods.values();
        to < from || marks.any(|mark| *mark == PodMark::Drain)
    }
}

/// What an order makes of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// So many replicas.
    Replicas(u32),
    /// Jobs that run, or do not.
    Run(bool),
    /// The pod of this UID that is evicted, or is not.
    Evicted(Name, bool),
}

impl Target {
    /// Whether both are of one object: a pod may have the name of a former one.
    pub(super) fn is_of_same_object(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Evicted(uid, _), Self::Evicted(other, _)) => uid == other,
            _ => true,
        }
    }
}

/// The newest orders for one workload or pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// For a service.
    Service(Box<ServiceChange>),
    /// For a TrainingJob.
    Job(JobOrder),
    /// For a pod of no workload.
    Eviction(EvictionOrder),
}

impl Order {
    /// Whether it starts the first pod of a workload.
    pub(crate) fn starts(&self) -> bool {
        match self {
            Self::Service(change) => change.starts(),
            Self::Job(order) => order.run && !order.cancels_stop,
            Self::Eviction(_) => false,
        }
    }

    /// The replicas that there will be, or whether the Jobs run or the pod is evicted.
    pub(super) fn target(&self) -> Target {
        match self {
            Self::Service(change) => Target::Replicas(change.order.replicas.1),
            Self::Job(order) => Target::Run(order.run),
            Self::Eviction(order) => Target::Evicted(order.uid.clone(), order.evict),
        }
    }

    /// Whether it is carried out only once the latch of a budget is on record.
    pub(crate) fn is_after_latch(&self) -> bool {
        match self {
            Self::Service(change) => change.order.after_latch,
            Self::Job(order) => order.after_latch,
            Self::Eviction(order) => order.evict,
        }
    }

    /// This order after one that was not carried out.
    #[must_use]
    pub(crate) fn after(self, earlier: Self) -> Self {
        match (earlier, self) {
            (Self::Service(earlier), Self::Service(change)) => {
                Self::Service(Box::new(change.after(*earlier)))
            }
            (_, newest) => newest,
        }
    }
}
