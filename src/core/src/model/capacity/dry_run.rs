//! Whether what waits would find room once pods of others had left.

use std::collections::{BTreeMap, BTreeSet};

use crate::pod_set::{PodSet, Resources, SchedulingRank};

use super::super::event::{Key, Name};
use super::super::preemptible::ClaimantId;
use super::ClusterCapacity;
use super::nodes::{Amounts, Nodes, ShapeId};
use super::reservations::ReservationOwner;
use super::waiting::{Waiting, WaitingByRank, Workers};

/// A gang that waits for room, or replicas of a service that do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CapacityClaim {
    /// Its place in the order of the cluster.
    pub(crate) rank: SchedulingRank,
    /// The priority of its pods, by which schedulers go.
    pub(crate) pod_priority: i32,
    /// These are replicas: their pods exist, and get room before any gang that waits.
    pub(crate) is_of_service: bool,
    /// Its pods are of use all together or not at all: those of a gang, and of a replica of several.
    pub(crate) is_whole: bool,
    /// GPUs may be taken back for it.
    pub(crate) may_preempt: bool,
    /// Its pods are among those that places are looked for.
    is_reserved: bool,
    workers: Workers,
}

/// How many pods have no place, by their priorities and shapes.
pub(crate) type WaitingPods = BTreeMap<(i32, ShapeId), u32>;

/// The room that pods use on nodes, or that is reserved for them.
#[derive(Clone, Debug, Default)]
pub(crate) struct OccupiedCapacity(Vec<(Name, Amounts)>);

impl OccupiedCapacity {
    /// The nodes that it is on.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Name> {
        self.0.iter().map(|(node, _)| node)
    }

    /// What of it is on these nodes.
    pub(crate) fn on(mut self, nodes: &BTreeSet<Name>) -> Self {
        self.0.retain(|(node, _)| nodes.contains(node));
        self
    }
}

/// The room as it would be.
pub(crate) struct PreemptionDryRun<'a> {
    nodes: &'a Nodes,
    waiting: &'a WaitingPods,
    /// What becomes free, by node.
    freed: BTreeMap<Name, Vec<i128>>,
    /// What finds room first, and whether places are looked for it.
    ahead: Vec<(ShapeId, u32, bool)>,
}

impl PreemptionDryRun<'_> {
    /// These pods leave.
    pub(crate) fn free(&mut self, capacity: &OccupiedCapacity) {
        free(&mut self.freed, capacity);
    }

    /// This one takes its room before what is asked for later.
    pub(crate) fn put_ahead(&mut self, claim: &CapacityClaim) {
        let workers = claim.workers.iter();
        let ahead = workers.map(|(id, count)| (*id, *count, claim.is_reserved));
        self.ahead.extend(ahead);
    }

    /// Whether all of it finds room, once these have left too.
    pub(crate) fn fits(&self, claim: &CapacityClaim, leaving: &[&OccupiedCapacity]) -> bool {
        self.placed(claim, leaving) == claim.pods()
    }

    /// How many of its pods find room, once these have left too. A gang, which has no pods yet, finds
    /// what all pods leave that wait with its priority or a higher one.
    pub(crate) fn placed(&self, claim: &CapacityClaim, leaving: &[&OccupiedCapacity]) -> u32 {
        let mut changes = self.freed.clone();
        for capacity in leaving {
            free(&mut changes, capacity);
        }
        let is_gang = !claim.is_of_service;
        let first = (claim.pod_priority, ShapeId::MIN);
        for ((_, id), count) in self.waiting.range(first..).filter(|_| is_gang) {
            self.nodes.place(*id, *count, &mut changes);
        }
        for (id, count, is_reserved) in &self.ahead {
            if !(is_gang && *is_reserved) {
                self.nodes.place(*id, *count, &mut changes);
            }
        }
        let workers = claim.workers.iter();
        let placed = workers.map(|(id, count)| self.nodes.place(*id, *count, &mut changes));
        placed.fold(0, u32::saturating_add)
    }

    /// Whether a node that the room is on could take one of these pods.
    pub(crate) fn is_of_use(&self, capacity: &OccupiedCapacity, claim: &CapacityClaim) -> bool {
        capacity.nodes().any(|node| {
            let mut ids = claim.workers.iter().map(|(id, _)| *id);
            ids.any(|id| self.nodes.takes(node, id, true))
        })
    }
}

fn free(changes: &mut BTreeMap<Name, Vec<i128>>, capacity: &OccupiedCapacity) {
    for (node, amounts) in &capacity.0 {
        let here = changes.entry(node.clone()).or_default();
        for (index, amount) in amounts {
            super::nodes::add(here, *index, *amount);
        }
    }
}

impl ClusterCapacity {
    /// The room as it is, of which nothing has been freed or taken yet.
    pub(crate) fn dry_run<'a>(&'a self, waiting: &'a WaitingPods) -> PreemptionDryRun<'a> {
        PreemptionDryRun {
            nodes: &self.nodes,
            waiting,
            freed: BTreeMap::new(),
            ahead: Vec::new(),
        }
    }

    /// The room that these bound pods use, and what is reserved for these owners.
    pub(crate) fn held<'a>(
        &self,
        bound: impl IntoIterator<Item = (&'a Name, &'a Resources)>,
        owners: impl IntoIterator<Item = ReservationOwner>,
    ) -> OccupiedCapacity {
        let bound = bound.into_iter();
        let bound = bound.map(|(node, requests)| (node.clone(), self.nodes.known(requests)));
        let mut capacity: Vec<(Name, Amounts)> = bound.collect();
        for owner in owners {
            let places = self.reservations.places_of(&owner);
            capacity.extend(places.map(|(node, shape, count)| (node.clone(), shape.times(count))));
        }
        OccupiedCapacity(capacity)
    }

    /// The gangs ahead of which none waits with workers of the same shape, in their order. Those are left
    /// out of whose pods no priority is known.
    pub(crate) fn first_gangs(
        &self,
        pod_priority: impl Fn(&SchedulingRank) -> Option<i32>,
    ) -> Vec<CapacityClaim> {
        let firsts = self.answers.waiting.firsts().into_iter();
        let claims = firsts.filter_map(|(rank, waiting)| {
            Some(CapacityClaim {
                rank: rank.clone(),
                pod_priority: pod_priority(rank)?,
                is_of_service: false,
                is_whole: true,
                may_preempt: waiting.may_preempt,
                is_reserved: false,
                workers: waiting.workers.clone(),
            })
        });
        claims.collect()
    }

    /// Whether others are first than when [`Self::note_first_gangs`] was last called.
    pub(crate) fn has_new_first_gangs(&self) -> bool {
        self.answers.waiting.has_new_firsts()
    }

    /// Takes that the gangs that are first are known.
    pub(crate) fn note_first_gangs(&mut self) {
        self.answers.waiting.note_seen();
    }

    /// What pods of replicas claim that have no node, with the owners of the room that is reserved for
    /// them: as many as lack a place, as long as places are looked for. They are of use all together if the claim
    /// `is_whole`. Each claim is given to [`Self::reserve_for_replicas`] or [`Self::release`] at
    /// its end.
    pub(crate) fn claim(
        &mut self,
        rank: SchedulingRank,
        pod_priority: i32,
        pods: &[(PodSet, ReservationOwner)],
        is_whole: bool,
        may_preempt: bool,
    ) -> CapacityClaim {
        let (mut is_reserved, mut workers) = (false, Vec::<(ShapeId, u32)>::new());
        for (pod_set, owner) in pods {
            let missing = self.reservations.missing_of(owner);
            is_reserved |= missing.is_some();
            let count = missing.map_or(pod_set.workers, |missing| missing.min(pod_set.workers));
            let shape = self.nodes.shape(pod_set);
            let id = self.nodes.use_shape(shape);
            match workers.iter_mut().find(|(other, _)| *other == id) {
                Some((_, others)) => {
                    *others = others.saturating_add(count);
                    self.nodes.release_shape(id);
                }
                None => workers.push((id, count)),
            }
        }
        CapacityClaim {
            rank,
            pod_priority,
            is_of_service: true,
            is_whole,
            may_preempt,
            is_reserved,
            workers: workers.into(),
        }
    }

    /// Ends claims of replicas.
    pub(crate) fn release(&mut self, claims: impl IntoIterator<Item = CapacityClaim>) {
        for claim in claims {
            for (id, _) in &claim.workers {
                self.nodes.release_shape(*id);
            }
        }
    }

    /// Keeps the nodes that these replicas wait for from gangs behind them, and no others.
    pub(crate) fn reserve_for_replicas(&mut self, claims: Vec<CapacityClaim>) {
        let all: Name = "".into();
        let replicas = claims.into_iter().map(|claim| {
            let waiting = Waiting {
                workers: claim.workers,
                may_preempt: claim.may_preempt,
            };
            (claim.rank, waiting)
        });
        let replicas: WaitingByRank = replicas.collect();
        let before = self.answers.replicas.take(&all);
        let goes_on = |rank: &SchedulingRank| replicas.contains_key(rank);
        self.answers.has_fewer_waiting |= !before.keys().all(goes_on);
        self.answers.replicas.set(all, replicas);
        self.answers.replicas.note_seen();
        for id in before.into_values().flat_map(|waiting| waiting.workers) {
            self.nodes.release_shape(id.0);
        }
    }

    /// Whether a node that takes one of these pods when it is empty also takes one of the claim's.
    pub(crate) fn is_wanted_by(&self, claim: &CapacityClaim, ahead: &BTreeSet<ShapeId>) -> bool {
        let shapes: Vec<ShapeId> = claim.workers.iter().map(|(id, _)| *id).collect();
        let mut ahead = ahead.iter();
        ahead.any(|id| self.nodes.takes_both(*id, &shapes, true).is_some())
    }

    /// How many pods of which shape have no place, by the owners of what is reserved for them.
    pub(crate) fn missing(&self) -> impl Iterator<Item = (&ReservationOwner, ShapeId, u32)> {
        self.reservations.missing()
    }

    /// The owners of room that is reserved on these nodes.
    pub(crate) fn owners_on(
        &self,
        nodes: &BTreeSet<Name>,
    ) -> impl Iterator<Item = &ReservationOwner> {
        self.reservations.owners_on(nodes)
    }
}

impl CapacityClaim {
    /// The same, in another place of the order.
    pub(crate) fn with_rank(self, rank: SchedulingRank) -> Self {
        Self { rank, ..self }
    }

    /// The shapes of its pods.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = ShapeId> {
        self.workers.iter().map(|(id, _)| *id)
    }

    /// How many pods it has.
    pub(crate) fn pods(&self) -> u32 {
        let counts = self.workers.iter().map(|(_, count)| *count);
        counts.fold(0, u32::saturating_add)
    }

    /// The workload.
    pub(crate) fn key(&self) -> Key {
        Key {
            namespace: self.rank.namespace.clone(),
            name: self.rank.name.clone(),
        }
    }

    /// The workload, with its kind.
    pub(crate) fn id(&self) -> ClaimantId {
        ClaimantId {
            key: self.key(),
            is_of_service: self.is_of_service,
        }
    }
}
