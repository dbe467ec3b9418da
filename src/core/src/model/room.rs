//! The room on nodes: what bound pods use, and what is reserved for pods that have no node yet.
//!
//! Room is reserved for the pods of an order from the moment of the order, and for other pods from
//! their creation, until they are bound or gone. The places are chosen in the order of the owners'
//! keys when a decision is made, first fit over the nodes by name, and stay: they are memory.

use std::collections::{BTreeMap, BTreeSet};

use crate::capacity::{Gang, Resources, Room};

use super::event::{Key, Name, Node, Owner};

/// The owner of reserved room.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ReservationOwner {
    /// The pods of a workload that have no node, and those that were ordered and do not exist
    /// yet; for a TrainingJob those of a role.
    Workload(Key, Owner),
    /// A pod of no workload, by its UID.
    Pod(Name),
}

/// Amounts by resource, as indices into the list of names.
type Amounts = Box<[(u16, i64)]>;

/// More names than this are not told apart: no node offers the others.
const MAX_NAMES: usize = 4096;

#[derive(Clone, Debug, Default, PartialEq)]
struct NodeRoom {
    /// `None` if pods name a node that is not known.
    node: Option<Node>,
    allocatable: Vec<i64>,
    /// What bound pods request.
    used: Vec<i64>,
    /// What is reserved for pods without a node.
    reserved: Vec<i64>,
}

impl NodeRoom {
    fn is_unused(&self) -> bool {
        let zero = |amounts: &[i64]| amounts.iter().all(|amount| *amount == 0);
        self.node.is_none() && zero(&self.used) && zero(&self.reserved)
    }

    fn selects(&self, selector: &BTreeMap<String, String>) -> bool {
        let Some(node) = &self.node else { return false };
        let has = |(key, value): (&String, &String)| node.labels.get(key) == Some(value);
        node.takes_pods && selector.iter().all(has)
    }
}

/// Room that is reserved for pods of one shape.
#[derive(Clone, Debug, PartialEq)]
struct Reservation {
    amounts: Amounts,
    selector: BTreeMap<String, String>,
    wanted: u32,
    places: BTreeMap<Name, u32>,
    /// Nodes to which pods of the owner were bound since the places were last settled.
    bound: Vec<Name>,
}

impl Reservation {
    fn placed(&self) -> u32 {
        self.places.values().copied().fold(0, u32::saturating_add)
    }
}

/// The room on all nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ClusterRoom {
    names: BTreeMap<String, u16>,
    nodes: BTreeMap<Name, NodeRoom>,
    reservations: BTreeMap<ReservationOwner, Reservation>,
    /// Holders whose places must be settled.
    unsettled: BTreeSet<ReservationOwner>,
    /// Holders without a place for all that they want.
    missing: BTreeSet<ReservationOwner>,
    /// Nodes that took a pod while room on them was reserved, or that changed.
    crowded: BTreeSet<Name>,
    /// Room has become free since this was last asked.
    freed: bool,
}

impl ClusterRoom {
    fn amounts(&mut self, resources: &Resources) -> Amounts {
        let wanted = resources.iter().filter(|(_, amount)| **amount > 0);
        let mut amounts: Vec<(u16, i64)> = wanted
            .map(|(name, amount)| (self.index(name), *amount))
            .collect();
        amounts.sort_unstable();
        amounts.into()
    }

    fn index(&mut self, name: &str) -> u16 {
        if let Some(index) = self.names.get(name) {
            return *index;
        }
        // the last index is of what no node has
        let index = u16::try_from(self.names.len().min(MAX_NAMES)).unwrap_or(u16::MAX);
        if self.names.len() < MAX_NAMES {
            self.names.insert(name.to_owned(), index);
        }
        index
    }

    /// Replaces a node.
    pub(crate) fn set_node(&mut self, name: &Name, node: Option<Node>) {
        let allocatable = node.as_ref().map(|node| self.amounts(&node.allocatable));
        let entry = self.nodes.entry(name.clone()).or_default();
        entry.allocatable.clear();
        for (index, amount) in allocatable.iter().flatten() {
            add(&mut entry.allocatable, *index, *amount);
        }
        entry.node = node;
        self.freed = true;
        self.crowded.insert(name.clone());
        self.forget_if_unused(name);
    }

    /// The nodes.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter_map(|room| room.node.as_ref())
    }

    /// The node of this name.
    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)?.node.as_ref()
    }

    /// A pod uses its node.
    pub(crate) fn bind(&mut self, node: &Name, requests: &Resources) {
        let amounts = self.amounts(requests);
        let entry = self.nodes.entry(node.clone()).or_default();
        let mut has_reserved = false;
        for (index, amount) in amounts {
            add(&mut entry.used, index, amount);
            has_reserved |= get(&entry.reserved, index) > 0;
        }
        if has_reserved {
            self.crowded.insert(node.clone());
        }
    }

    /// A pod no longer uses its node.
    pub(crate) fn unbind(&mut self, node: &Name, requests: &Resources) {
        let amounts = self.amounts(requests);
        if let Some(entry) = self.nodes.get_mut(node) {
            for (index, amount) in amounts {
                add(&mut entry.used, index, -amount);
            }
            self.freed = true;
        }
        self.forget_if_unused(node);
    }

    fn forget_if_unused(&mut self, node: &Name) {
        if self.nodes.get(node).is_some_and(NodeRoom::is_unused) {
            self.nodes.remove(node);
        }
    }

    /// Keeps room for so many pods of this shape.
    pub(crate) fn reserve(&mut self, owner: &ReservationOwner, gang: &Gang) {
        let amounts = self.amounts(&gang.worker);
        match self.reservations.get_mut(owner) {
            None if gang.workers == 0 => return,
            None => {
                let reservation = Reservation {
                    amounts,
                    selector: gang.node_selector.clone(),
                    wanted: gang.workers,
                    places: BTreeMap::new(),
                    bound: Vec::new(),
                };
                self.reservations.insert(owner.clone(), reservation);
            }
            Some(reservation) => {
                let same =
                    reservation.amounts == amounts && reservation.selector == gang.node_selector;
                if same && reservation.wanted == gang.workers {
                    return;
                }
                reservation.wanted = gang.workers;
                if !same {
                    self.release_all(owner);
                    if let Some(reservation) = self.reservations.get_mut(owner) {
                        reservation.amounts = amounts;
                        reservation.selector = gang.node_selector.clone();
                    }
                }
            }
        }
        self.unsettled.insert(owner.clone());
    }

    /// A pod of the owner was bound to this node: the room that is given up is there, if any is.
    pub(crate) fn note_bound(&mut self, owner: &ReservationOwner, node: &Name) {
        if let Some(reservation) = self.reservations.get_mut(owner) {
            reservation.bound.push(node.clone());
        }
    }

    /// Gives up places that are not wanted any more and finds those that are missing.
    pub(crate) fn settle(&mut self) {
        let owners: Vec<ReservationOwner> =
            std::mem::take(&mut self.unsettled).into_iter().collect();
        for owner in &owners {
            self.give_up_surplus(owner);
        }
        let crowded = std::mem::take(&mut self.crowded);
        let mut searching: BTreeSet<ReservationOwner> = owners.into_iter().collect();
        if !crowded.is_empty() {
            searching.extend(self.give_up_crowded(&crowded));
        }
        if self.freed {
            searching.extend(self.missing.iter().cloned());
        }
        let mut full: Vec<(Amounts, BTreeMap<String, String>)> = Vec::new();
        for owner in searching {
            self.missing.remove(&owner);
            let Some(reservation) = self.reservations.get(&owner) else {
                continue;
            };
            if reservation.wanted == 0 {
                self.reservations.remove(&owner);
                continue;
            }
            // of many that are alike, only the first needs a search
            let shape = (reservation.amounts.clone(), reservation.selector.clone());
            if reservation.placed() == reservation.wanted
                || !full.contains(&shape) && self.place_missing(&owner)
            {
                continue;
            }
            full.push(shape);
            self.missing.insert(owner);
        }
    }

    fn give_up_surplus(&mut self, owner: &ReservationOwner) {
        let Some(reservation) = self.reservations.get_mut(owner) else {
            return;
        };
        let mut released: Vec<Name> = Vec::new();
        let mut surplus = reservation.placed().saturating_sub(reservation.wanted);
        let mut bound = std::mem::take(&mut reservation.bound);
        bound.sort();
        for name in bound {
            if surplus > 0 && take_one(&mut reservation.places, &name) {
                released.push(name);
                surplus -= 1;
            }
        }
        while surplus > 0 {
            let Some(name) = reservation.places.keys().next_back().cloned() else {
                break;
            };
            take_one(&mut reservation.places, &name);
            released.push(name);
            surplus -= 1;
            self.freed = true;
        }
        let amounts = reservation.amounts.clone();
        for name in released {
            self.unreserve(&name, &amounts, 1);
        }
    }

    /// Gives up places on nodes that take these pods no more, or have less than is reserved on them.
    fn give_up_crowded(&mut self, crowded: &BTreeSet<Name>) -> Vec<ReservationOwner> {
        let on_crowded = |reservation: &Reservation| {
            reservation.places.keys().any(|name| crowded.contains(name))
        };
        let owners: Vec<ReservationOwner> = self
            .reservations
            .iter()
            .filter(|(_, reservation)| on_crowded(reservation))
            .map(|(owner, _)| owner.clone())
            .collect();
        for owner in &owners {
            let Some(reservation) = self.reservations.get_mut(owner) else {
                continue;
            };
            let takes = |name: &Name| {
                self.nodes.get(name).is_some_and(|room| {
                    let fits = |(index, _): &(u16, i64)| free(room, *index) >= 0;
                    room.selects(&reservation.selector) && reservation.amounts.iter().all(fits)
                })
            };
            let given_up: Vec<(Name, u32)> = reservation
                .places
                .iter()
                .filter(|(name, _)| crowded.contains(*name) && !takes(name))
                .map(|(name, count)| (name.clone(), *count))
                .collect();
            let amounts = reservation.amounts.clone();
            for (name, count) in given_up {
                reservation.places.remove(&name);
                if let Some(room) = self.nodes.get_mut(&name) {
                    for (index, amount) in &amounts {
                        add(&mut room.reserved, *index, -amount * i64::from(count));
                    }
                }
            }
        }
        for name in crowded {
            self.forget_if_unused(name);
        }
        owners
    }

    fn unreserve(&mut self, node: &Name, amounts: &Amounts, count: u32) {
        if let Some(room) = self.nodes.get_mut(node) {
            for (index, amount) in amounts {
                add(&mut room.reserved, *index, -amount * i64::from(count));
            }
        }
        self.forget_if_unused(node);
    }

    fn release_all(&mut self, owner: &ReservationOwner) {
        let Some(reservation) = self.reservations.get_mut(owner) else {
            return;
        };
        let (places, amounts) = (
            std::mem::take(&mut reservation.places),
            reservation.amounts.clone(),
        );
        for (name, count) in places {
            self.unreserve(&name, &amounts, count);
        }
        self.freed = true;
    }

    /// Whether all that the owner wants has a place afterwards.
    fn place_missing(&mut self, owner: &ReservationOwner) -> bool {
        let Some(reservation) = self.reservations.get_mut(owner) else {
            return true;
        };
        let mut left = reservation.wanted.saturating_sub(reservation.placed());
        for (name, room) in &mut self.nodes {
            if left == 0 {
                break;
            }
            if !room.selects(&reservation.selector) {
                continue;
            }
            let here = workers(|index| free(room, index), &reservation.amounts, left).min(left);
            if here > 0 {
                for (index, amount) in &reservation.amounts {
                    add(&mut room.reserved, *index, amount * i64::from(here));
                }
                *reservation.places.entry(name.clone()).or_default() += here;
                left -= here;
            }
        }
        left == 0
    }

    /// Whether room has become free since this was last asked.
    pub(crate) fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.freed)
    }

    /// The room as it is now, for a queue of gangs. What the queue takes is given back at its end:
    /// it is reserved by its owner then.
    pub(crate) fn for_queue(&mut self) -> QueueRoom<'_> {
        QueueRoom {
            room: self,
            taken: Vec::new(),
        }
    }

    /// As [`ClusterRoom::amounts`], without learning names: no node offers those that are new.
    fn known_amounts(&self, resources: &Resources) -> Amounts {
        let wanted = resources.iter().filter(|(_, amount)| **amount > 0);
        let index = |name: &String| self.names.get(name).copied().unwrap_or(u16::MAX);
        wanted
            .map(|(name, amount)| (index(name), *amount))
            .collect()
    }

    fn count(&self, gangs: &[&Gang], of_empty: bool) -> u32 {
        let shapes: Vec<(Amounts, &Gang)> = gangs
            .iter()
            .map(|gang| (self.known_amounts(&gang.worker), *gang))
            .collect();
        // what the gangs before have taken of each node
        let mut taken: BTreeMap<&Name, Vec<i64>> = BTreeMap::new();
        let mut placed = 0u32;
        for (nth, (amounts, gang)) in shapes.iter().enumerate() {
            let mut left = gang.workers;
            for (name, room) in &self.nodes {
                if left == 0 {
                    break;
                }
                if !room.selects(&gang.node_selector) {
                    continue;
                }
                let none = Vec::new();
                let taken_here = taken.get(name).unwrap_or(&none);
                let free = |index: u16| match of_empty {
                    true => get(&room.allocatable, index) - get(taken_here, index),
                    false => free(room, index) - get(taken_here, index),
                };
                let here = workers(free, amounts, left).min(left);
                if here > 0 && nth + 1 < shapes.len() {
                    let taken_here = taken.entry(name).or_default();
                    for (index, amount) in amounts {
                        add(taken_here, *index, amount * i64::from(here));
                    }
                }
                left -= here;
            }
            placed = placed.saturating_add(gang.workers - left);
        }
        placed
    }

    /// A node on which more is reserved than bound pods leave: its room is given twice.
    pub(crate) fn overcommitted(&self) -> Option<&Name> {
        let is_over = |room: &NodeRoom| {
            let indices = 0..u16::try_from(room.reserved.len()).unwrap_or(u16::MAX);
            let mut reserved = indices.filter(|index| get(&room.reserved, *index) > 0);
            reserved.any(|index| free(room, index) < 0)
        };
        let mut nodes = self.nodes.iter();
        nodes.find(|(_, room)| is_over(room)).map(|(name, _)| name)
    }

    /// Whether every sum is that over its addends, and no room is reserved twice. `bound` are the
    /// requests of all bound pods, with their nodes.
    pub(crate) fn is_consistent<'a>(
        &self,
        bound: impl IntoIterator<Item = (&'a Name, &'a Resources)>,
    ) -> bool {
        // what is used and what is reserved
        let mut again: BTreeMap<&Name, (Vec<i64>, Vec<i64>)> = BTreeMap::new();
        for (node, requests) in bound {
            let (used, _) = again.entry(node).or_default();
            for (name, amount) in requests.iter().filter(|(_, amount)| **amount > 0) {
                let last = u16::try_from(MAX_NAMES).unwrap_or(u16::MAX);
                let index = self.names.get(name).copied().unwrap_or(last);
                add(used, index, *amount);
            }
        }
        for reservation in self.reservations.values() {
            for (name, count) in &reservation.places {
                let (_, reserved) = again.entry(name).or_default();
                for (index, amount) in &reservation.amounts {
                    add(reserved, *index, amount * i64::from(*count));
                }
            }
        }
        let mut names: BTreeSet<&Name> = self.nodes.keys().collect();
        names.extend(again.keys());
        let (empty, none) = (NodeRoom::default(), Default::default());
        names.into_iter().all(|name| {
            let ours = self.nodes.get(name).unwrap_or(&empty);
            let (used, reserved) = again.get(name).unwrap_or(&none);
            let same = |a: &[i64], b: &[i64]| {
                (0..a.len().max(b.len())).all(|index| {
                    let index = u16::try_from(index).unwrap_or(u16::MAX);
                    get(a, index) == get(b, index)
                })
            };
            same(&ours.used, used) && same(&ours.reserved, reserved)
        })
    }
}

/// The room for gangs that wait.
pub(crate) struct QueueRoom<'a> {
    room: &'a mut ClusterRoom,
    taken: Vec<(Name, Amounts, u32)>,
}

impl Room for QueueRoom<'_> {
    fn fits(&self, gangs: &[&Gang]) -> u32 {
        self.room.count(gangs, false)
    }

    fn could_fit(&self, gangs: &[&Gang]) -> u32 {
        self.room.count(gangs, true)
    }

    fn place(&mut self, gang: &Gang) {
        let amounts = self.room.known_amounts(&gang.worker);
        let mut left = gang.workers;
        for (name, room) in &mut self.room.nodes {
            if left == 0 {
                break;
            }
            if !room.selects(&gang.node_selector) {
                continue;
            }
            let here = workers(|index| free(room, index), &amounts, left).min(left);
            if here > 0 {
                for (index, amount) in &amounts {
                    add(&mut room.reserved, *index, amount * i64::from(here));
                }
                self.taken.push((name.clone(), amounts.clone(), here));
                left -= here;
            }
        }
    }
}

impl Drop for QueueRoom<'_> {
    fn drop(&mut self) {
        for (name, amounts, count) in std::mem::take(&mut self.taken) {
            self.room.unreserve(&name, &amounts, count);
        }
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

fn get(amounts: &[i64], index: u16) -> i64 {
    amounts.get(usize::from(index)).copied().unwrap_or(0)
}

fn add(amounts: &mut Vec<i64>, index: u16, amount: i64) {
    let index = usize::from(index);
    if amounts.len() <= index {
        amounts.resize(index + 1, 0);
    }
    if let Some(sum) = amounts.get_mut(index) {
        *sum = sum.saturating_add(amount);
    }
}

fn free(room: &NodeRoom, index: u16) -> i64 {
    get(&room.allocatable, index) - get(&room.used, index) - get(&room.reserved, index)
}

/// How many workers this room takes; `most`, where a worker needs nothing.
fn workers(free: impl Fn(u16) -> i64, amounts: &Amounts, most: u32) -> u32 {
    let counts = amounts
        .iter()
        .map(|(index, amount)| free(*index).max(0) / amount);
    counts
        .min()
        .map_or(most, |count| u32::try_from(count).unwrap_or(u32::MAX))
}
