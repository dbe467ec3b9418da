//! Room that is reserved for pods without a node.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::pod_set::PodSet;

use super::super::event::{Key, Name, Owner};
use super::nodes::{Nodes, Shape, ShapeId};

/// The owner of reserved room.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ReservationOwner {
    /// The pods of a workload that have no node, and those that were ordered and do not exist
    /// yet; for a TrainingJob those of a role, and for a service those that are replicas or lead one.
    Workload(Key, Owner),
    /// The workers of a service's replicas.
    ReplicaWorkers(Key),
    /// A pod of a service that needs something else than its template says, by its UID.
    ReplicaPod(Key, Name),
    /// A pod of no workload, by its UID.
    Pod(Name),
}

/// Room that is reserved for pods of one shape.
#[derive(Clone, Debug, PartialEq)]
struct Reservation {
    shape: Shape,
    wanted: u32,
    places: BTreeMap<Name, u32>,
    /// Nodes to which pods of the owner were bound since the places were last settled.
    bound: Vec<Name>,
    /// The shape under which it is among those without a place for all that they want.
    missing: Option<ShapeId>,
}

impl Reservation {
    fn placed(&self) -> u32 {
        self.places.values().copied().fold(0, u32::saturating_add)
    }

    fn missing(&self) -> u32 {
        self.wanted.saturating_sub(self.placed())
    }
}

/// All reservations.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reservations {
    all: BTreeMap<ReservationOwner, Reservation>,
    /// Owners whose places must be settled.
    unsettled: BTreeSet<ReservationOwner>,
    /// Owners without a place for all that they want.
    missing: BTreeMap<ShapeId, BTreeSet<ReservationOwner>>,
    /// Those of whom nobody has been told so yet.
    newly_missing: BTreeSet<ReservationOwner>,
    /// Nodes that took a pod while room on them was reserved, or that changed.
    crowded: BTreeSet<Name>,
}

impl Reservations {
    /// Takes that a node has less room than was thought, or takes pods no more.
    pub(super) fn note_crowded(&mut self, node: &Name) {
        self.crowded.insert(node.clone());
    }

    /// Keeps room for so many pods of this shape.
    pub(super) fn reserve(
        &mut self,
        owner: &ReservationOwner,
        pod_set: &PodSet,
        nodes: &mut Nodes,
    ) {
        if pod_set.workers == 0 && !self.all.contains_key(owner) {
            return;
        }
        let shape = nodes.shape(pod_set);
        let reservation = self
            .all
            .entry(owner.clone())
            .or_insert_with(|| Reservation {
                shape: shape.clone(),
                wanted: 0,
                places: BTreeMap::new(),
                bound: Vec::new(),
                missing: None,
            });
        let same = reservation.shape == shape;
        if same && reservation.wanted == pod_set.workers {
            return;
        }
        reservation.wanted = pod_set.workers;
        if !same {
            for (name, count) in std::mem::take(&mut reservation.places) {
                nodes.unreserve(&name, &reservation.shape, count);
            }
            reservation.shape = shape;
            self.forget_missing(owner, nodes);
        }
        self.unsettled.insert(owner.clone());
    }

    /// A pod of the owner was bound to this node: the room that is given up is there, if any is.
    pub(super) fn note_bound(&mut self, owner: &ReservationOwner, node: &Name) {
        if let Some(reservation) = self.all.get_mut(owner) {
            reservation.bound.push(node.clone());
        }
    }

    /// Whether not all that the owner wants has a place.
    pub(super) fn lacks_capacity(&self, owner: &ReservationOwner) -> bool {
        let reservation = self.all.get(owner);
        reservation.is_some_and(|reservation| reservation.missing.is_some())
    }

    /// The owners that have come to lack room since this was last asked.
    pub(super) fn take_newly_missing(&mut self) -> BTreeSet<ReservationOwner> {
        std::mem::take(&mut self.newly_missing)
    }

    /// Gives up places that are not wanted any more and finds those that are missing.
    pub(super) fn settle(&mut self, nodes: &mut Nodes) {
        let mut searching = std::mem::take(&mut self.unsettled);
        for owner in &searching {
            self.give_up_surplus(owner, nodes);
        }
        let crowded = std::mem::take(&mut self.crowded);
        if !crowded.is_empty() {
            searching.extend(self.give_up_crowded(&crowded, nodes));
        }
        nodes.recount();
        let missing = self.missing.iter();
        let first = missing.filter(|(id, _)| nodes.free(**id) > 0);
        searching.extend(first.filter_map(|(_, owners)| owners.first().cloned()));
        while let Some(owner) = searching.pop_first() {
            let Some(reservation) = self.all.get(&owner) else {
                continue;
            };
            let id = reservation.missing;
            // where there is room for more than this owner, the next one of its shape follows
            let next = id.and_then(|id| {
                let after = (Bound::Excluded(&owner), Bound::Unbounded);
                let owners = self.missing.get(&id)?;
                owners.range(after).next().cloned()
            });
            self.place_missing(&owner, nodes);
            nodes.recount();
            if id.is_some_and(|id| nodes.free(id) > 0) {
                searching.extend(next);
            }
        }
    }

    fn give_up_surplus(&mut self, owner: &ReservationOwner, nodes: &mut Nodes) {
        let Some(reservation) = self.all.get_mut(owner) else {
            return;
        };
        let mut surplus = reservation.placed().saturating_sub(reservation.wanted);
        let mut bound = std::mem::take(&mut reservation.bound);
        bound.sort();
        for name in bound {
            if surplus > 0 && take_one(&mut reservation.places, &name) {
                nodes.unreserve(&name, &reservation.shape, 1);
                surplus -= 1;
            }
        }
        while surplus > 0 {
            let Some(name) = reservation.places.keys().next_back().cloned() else {
                break;
            };
            take_one(&mut reservation.places, &name);
            nodes.unreserve(&name, &reservation.shape, 1);
            surplus -= 1;
        }
    }

    /// Gives up places on nodes that take these pods no more, or have less than is reserved on
    /// them. Returns the owners of reservations there.
    fn give_up_crowded(
        &mut self,
        crowded: &BTreeSet<Name>,
        nodes: &mut Nodes,
    ) -> Vec<ReservationOwner> {
        let mut owners = Vec::new();
        for (owner, reservation) in &mut self.all {
            let places = reservation.places.keys();
            let here: Vec<Name> = places
                .filter(|name| crowded.contains(*name))
                .cloned()
                .collect();
            if here.is_empty() {
                continue;
            }
            // whether it stays on one node does not depend on the others
            for name in here {
                if !nodes.keeps(&name, &reservation.shape)
                    && let Some(count) = reservation.places.remove(&name)
                {
                    nodes.unreserve(&name, &reservation.shape, count);
                }
            }
            owners.push(owner.clone());
        }
        owners
    }

    /// Finds places for what has none, and notes whether some is left without.
    fn place_missing(&mut self, owner: &ReservationOwner, nodes: &mut Nodes) {
        let Some(reservation) = self.all.get_mut(owner) else {
            return;
        };
        let mut left = reservation.missing();
        if left > 0 && !nodes.is_full(&reservation.shape) {
            for (name, count) in nodes.reserve(&reservation.shape, left) {
                *reservation.places.entry(name).or_default() += count;
                left -= count;
            }
        }
        if left == 0 {
            let is_void = reservation.wanted == 0;
            self.forget_missing(owner, nodes);
            if is_void {
                self.all.remove(owner);
            }
        } else if reservation.missing.is_none() {
            let id = nodes.use_shape(reservation.shape.clone());
            reservation.missing = Some(id);
            self.newly_missing.insert(owner.clone());
            self.missing.entry(id).or_default().insert(owner.clone());
        }
    }

    fn forget_missing(&mut self, owner: &ReservationOwner, nodes: &mut Nodes) {
        let reservation = self.all.get_mut(owner);
        let Some(id) = reservation.and_then(|reservation| reservation.missing.take()) else {
            return;
        };
        nodes.release_shape(id);
        if let Some(owners) = self.missing.get_mut(&id) {
            owners.remove(owner);
            if owners.is_empty() {
                self.missing.remove(&id);
            }
        }
    }

    /// How many pods of the owner have no place; `None` if no place is looked for.
    pub(super) fn missing_of(&self, owner: &ReservationOwner) -> Option<u32> {
        self.all.get(owner).map(Reservation::missing)
    }

    /// How many pods of which shape have no place, by their owners.
    pub(super) fn missing(&self) -> impl Iterator<Item = (&ReservationOwner, ShapeId, u32)> {
        self.missing.iter().flat_map(|(id, owners)| {
            let found = owners
                .iter()
                .filter_map(|owner| self.all.get_key_value(owner));
            found.map(|(owner, reservation)| (owner, *id, reservation.missing()))
        })
    }

    /// The owners of places on these nodes.
    pub(super) fn owners_on(
        &self,
        nodes: &BTreeSet<Name>,
    ) -> impl Iterator<Item = &ReservationOwner> {
        let is_on = |reservation: &Reservation| {
            let mut places = reservation.places.keys();
            places.any(|name| nodes.contains(name))
        };
        let found = self.all.iter().filter(move |(_, found)| is_on(found));
        found.map(|(owner, _)| owner)
    }

    /// The places of an owner, with how many pods of which shape.
    pub(super) fn places_of(
        &self,
        owner: &ReservationOwner,
    ) -> impl Iterator<Item = (&Name, &Shape, u32)> {
        let reservation = self.all.get(owner).into_iter();
        reservation.flat_map(|reservation| {
            let places = reservation.places.iter();
            places.map(|(name, count)| (name, &reservation.shape, *count))
        })
    }

    /// All places, with how many pods of which shape.
    pub(super) fn places(&self) -> impl Iterator<Item = (&Name, &Shape, u32)> {
        self.all.values().flat_map(|reservation| {
            let places = reservation.places.iter();
            places.map(|(name, count)| (name, &reservation.shape, *count))
        })
    }
}

fn take_one(places: &mut BTreeMap<Name, u32>, name: &Name) -> bool {
    match places.get_mut(name) {
        Some(count) if *count > 1 => {
            *count -= 1;
            true
        }
        Some(_) => places.remove(name).is_some(),
        None => false,
    }
}
