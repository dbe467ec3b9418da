//! The room on nodes: what bound pods use, and what is reserved for pods that have no node yet.
//!
//! Room is reserved for the pods of an order from the moment of the order, and for other pods from
//! their creation, until they are bound or gone. The places are chosen in the order of the owners'
//! keys when a decision is made, first fit over the nodes by name, and stay: they are memory.
//!
//! | module | subject |
//! |---|---|
//! | `nodes` | what nodes have and what is used of it, and how many pods of a shape they take |
//! | `placing` | where pods find room |
//! | `reservations` | room that is reserved for pods without a node |
//! | `queue` | the room that gangs wait for, and when to ask for it again |
//! | `waiting` | the gangs that wait for room, over all namespaces |
//! | `dry_run` | whether what waits would fit once others had left |

mod dry_run;
mod nodes;
mod placing;
mod queue;
mod reservations;
mod waiting;

use std::collections::BTreeSet;

use crate::pod_set::{PodSet, Resources};

use self::nodes::Nodes;
use self::queue::{FitCache, QueueCapacity};
use self::reservations::Reservations;
use super::event::{Name, Node};

pub(crate) use self::dry_run::{CapacityClaim, OccupiedCapacity, PreemptionDryRun, WaitingPods};
pub(crate) use self::nodes::ShapeId;
pub(crate) use self::reservations::ReservationOwner;

/// The room on all nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ClusterCapacity {
    nodes: Nodes,
    reservations: Reservations,
    answers: FitCache,
}

impl ClusterCapacity {
    /// Replaces a node.
    pub(crate) fn set_node(&mut self, name: &Name, node: Option<Node>) {
        self.nodes.set_node(name, node);
        self.reservations.note_crowded(name);
    }

    /// The nodes.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> + Clone {
        self.nodes.iter()
    }

    /// The node of this name.
    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    /// A pod uses its node.
    ///
    /// `is_other` unless it is a worker of a gang, or there as long as its node.
    pub(crate) fn bind(&mut self, node: &Name, requests: &Resources, is_other: bool) {
        if self.nodes.bind(node, requests, is_other) {
            self.reservations.note_crowded(node);
        }
    }

    /// A pod no longer uses its node.
    pub(crate) fn unbind(&mut self, node: &Name, requests: &Resources, is_other: bool) {
        self.nodes.unbind(node, requests, is_other);
    }

    /// A pod that uses its node has come to be another one, or has come to be a worker of a gang.
    pub(crate) fn set_other(&mut self, node: &Name, requests: &Resources, is_other: bool) {
        self.nodes.set_other(node, requests, is_other);
    }

    /// A pod that is there as long as this node came or went.
    pub(crate) fn set_resident(&mut self, node: &Name, requests: &Resources, is_there: bool) {
        self.nodes.set_resident(node, requests, is_there);
    }

    /// Keeps room for so many pods of this shape.
    pub(crate) fn reserve(&mut self, owner: &ReservationOwner, pod_set: &PodSet) {
        self.reservations.reserve(owner, pod_set, &mut self.nodes);
    }

    /// A pod of the owner was bound to this node: the room that is given up is there, if any is.
    pub(crate) fn note_bound(&mut self, owner: &ReservationOwner, node: &Name) {
        self.reservations.note_bound(owner, node);
    }

    /// Whether nodes have no room for all that is reserved for the owner.
    pub(crate) fn lacks_capacity(&self, owner: &ReservationOwner) -> bool {
        self.reservations.lacks_capacity(owner)
    }

    /// The owners that have come to lack room since this was last asked.
    pub(crate) fn take_newly_missing(&mut self) -> BTreeSet<ReservationOwner> {
        self.reservations.take_newly_missing()
    }

    /// Gives up places that are not wanted any more and finds those that are missing.
    pub(crate) fn settle(&mut self) {
        self.reservations.settle(&mut self.nodes);
    }

    /// The room as it is now, for the queues of these namespaces. What they take is given back at
    /// their end: it is reserved by its owners then.
    pub(crate) fn for_queues(&mut self, namespaces: Vec<Name>) -> QueueCapacity<'_> {
        QueueCapacity::new(namespaces, &mut self.nodes, &mut self.answers)
    }

    /// The namespaces whose queues would be given another answer than when they were last decided.
    pub(crate) fn take_changed_queues(&mut self) -> BTreeSet<Name> {
        self.answers.take_changed(&mut self.nodes)
    }

    /// A node on which more is reserved than bound pods leave: its room is given twice.
    pub(crate) fn overcommitted(&self) -> Option<&Name> {
        self.nodes.overcommitted()
    }

    /// Whether every sum is that over its addends. `bound` are the requests of all bound pods,
    /// with their nodes and whether they are neither workers of gangs nor there as long as these,
    /// and `resident` those of pods that are there as long as their nodes.
    pub(crate) fn is_consistent<'a>(
        &'a self,
        bound: impl IntoIterator<Item = (&'a Name, &'a Resources, bool)>,
        resident: impl IntoIterator<Item = (Name, &'a Resources)>,
    ) -> bool {
        self.nodes
            .is_consistent(bound, resident, self.reservations.places())
    }
}
