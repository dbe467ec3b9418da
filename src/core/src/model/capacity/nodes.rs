//! Nodes: what they have, what bound pods use and what is reserved, and how many pods they take of
//! each shape that something waits with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::placement::Placement;
use crate::pod_set::{PodSet, Resources};

use super::super::event::{Name, Node};
use super::placing::pods;

/// Amounts by resource, as indices into the list of names. One pod's is an `i64`, which tenants write up to
/// its largest value. In 128 bits, no sum over pods comes to an end, and each ends where it began.
pub(super) type Amounts = Box<[(u16, i128)]>;

/// More names than this are not told apart: no node offers the others.
const MAX_NAMES: usize = 4096;

/// What a pod needs of its node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    pub(super) amounts: Amounts,
    selector: BTreeMap<String, String>,
    placement: Arc<Placement>,
}

impl Shape {
    /// What so many of these pods need.
    pub(super) fn times(&self, count: u32) -> Amounts {
        let amounts = self.amounts.iter();
        amounts
            .map(|(index, amount)| (*index, amount * i128::from(count)))
            .collect()
    }
}

/// A shape whose slots are counted.
pub(crate) type ShapeId = usize;

/// How many pods of a shape a node takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Slots {
    /// With the pods that use it and those that room is reserved for.
    pub(super) free: u32,
    /// Without other pods than those that are there as long as it is.
    empty: u32,
    /// Without workers of gangs.
    without_gangs: u32,
}

/// With which pods on their nodes slots are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotKind {
    /// With all.
    Free,
    /// With those that are there as long as their nodes.
    Empty,
    /// With all but workers of gangs.
    WithoutGangs,
}

/// Shapes whose slots have changed.
#[derive(Debug, Default)]
pub(super) struct SlotChanges {
    /// Nodes have come to take more.
    pub(super) grown: BTreeSet<ShapeId>,
    /// Empty nodes, or those without gangs, have come to take more or fewer.
    pub(super) resized: BTreeSet<ShapeId>,
    /// A node has come to take none: now, or when it is empty.
    pub(super) lost: BTreeSet<ShapeId>,
}

impl SlotChanges {
    pub(super) fn is_empty(&self) -> bool {
        self.grown.is_empty() && self.resized.is_empty() && self.lost.is_empty()
    }
}

/// The slots of a shape on all nodes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ShapeSlots {
    pub(super) shape: Shape,
    pub(super) free: u64,
    pub(super) empty: u64,
    pub(super) without_gangs: u64,
    users: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct NodeCapacity {
    /// `None` if pods name a node that is not known.
    node: Option<Node>,
    allocatable: Vec<i128>,
    /// What bound pods request.
    used: Vec<i128>,
    /// What pods request that are there as long as it is.
    resident: Vec<i128>,
    /// What bound pods request that are neither those nor workers of gangs.
    others: Vec<i128>,
    /// What is reserved for pods without a node.
    reserved: Vec<i128>,
    /// By the number of the shape, as last counted.
    slots: Vec<Slots>,
}

impl NodeCapacity {
    fn is_unused(&self) -> bool {
        let zero = |amounts: &[i128]| amounts.iter().all(|amount| *amount == 0);
        self.node.is_none() && zero(&self.used) && zero(&self.resident) && zero(&self.reserved)
    }

    pub(super) fn selects(&self, name: &Name, shape: &Shape) -> bool {
        let Some(node) = &self.node else { return false };
        let has = |(key, value): (&String, &String)| node.labels.get(key) == Some(value);
        node.takes_pods
            && shape.selector.iter().all(has)
            && shape.placement.allows(name, &node.labels, &node.taints)
    }

    pub(super) fn free(&self, index: u16) -> i128 {
        get(&self.allocatable, index) - get(&self.used, index) - get(&self.reserved, index)
    }

    /// What there is for pods once all have gone that do not stay as long as it does.
    fn empty(&self, index: u16) -> i128 {
        get(&self.allocatable, index) - get(&self.resident, index)
    }

    /// What there is for pods once all gangs have gone.
    fn without_gangs(&self, index: u16) -> i128 {
        self.empty(index) - get(&self.others, index)
    }

    pub(super) fn capacity(&self, index: u16, kind: SlotKind) -> i128 {
        match kind {
            SlotKind::Free => self.free(index),
            SlotKind::Empty => self.empty(index),
            SlotKind::WithoutGangs => self.without_gangs(index),
        }
    }

    /// Whether it takes a pod of a shape, as last counted: now, or when it is empty.
    pub(super) fn takes(&self, id: ShapeId, of_empty: bool) -> bool {
        let slots = self.slots.get(id);
        slots.is_some_and(|slots| match of_empty {
            true => slots.empty > 0,
            false => slots.free > 0,
        })
    }

    pub(super) fn slots_of(&self, name: &Name, shape: &Shape) -> Slots {
        if !self.selects(name, shape) {
            return Slots::default();
        }
        Slots {
            free: pods(|index| self.free(index), &shape.amounts),
            empty: pods(|index| self.empty(index), &shape.amounts),
            without_gangs: pods(|index| self.without_gangs(index), &shape.amounts),
        }
    }

    pub(super) fn reserve(&mut self, shape: &Shape, count: i128) {
        for (index, amount) in &shape.amounts {
            add(&mut self.reserved, *index, amount * count);
        }
    }
}

/// All nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Nodes {
    names: BTreeMap<String, u16>,
    pub(super) rooms: BTreeMap<Name, NodeCapacity>,
    ids: BTreeMap<Shape, ShapeId>,
    /// By their numbers. Those that nothing waits with any more leave a gap.
    pub(super) shapes: Vec<Option<ShapeSlots>>,
    /// Nodes whose slots must be counted anew.
    changed: BTreeSet<Name>,
    /// Shapes of which nodes have come to take more.
    grown: BTreeSet<ShapeId>,
    /// Shapes of which empty nodes have come to take more or fewer.
    resized: BTreeSet<ShapeId>,
    /// Shapes of which a node has come to take none: now, or when it is empty.
    lost: BTreeSet<ShapeId>,
}

impl Nodes {
    fn amounts(&mut self, resources: &Resources) -> Amounts {
        let wanted = resources.iter().filter(|(_, amount)| **amount > 0);
        let mut amounts: Vec<(u16, i128)> = wanted
            .map(|(name, amount)| (self.index(name), i128::from(*amount)))
            .collect();
        amounts.sort_unstable();
        amounts.into()
    }

    /// The amounts of resources that nodes are known to have or pods to use.
    pub(super) fn known(&self, resources: &Resources) -> Amounts {
        let known = resources.iter().filter_map(|(name, amount)| {
            let index = self.names.get(name)?;
            Some((*index, i128::from(*amount)))
        });
        known.collect()
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

    /// What each worker of a gang needs.
    pub(super) fn shape(&mut self, pod_set: &PodSet) -> Shape {
        Shape {
            amounts: self.amounts(&pod_set.worker),
            selector: pod_set.node_selector.clone(),
            placement: Arc::clone(&pod_set.placement),
        }
    }

    /// Replaces a node.
    pub(super) fn set_node(&mut self, name: &Name, node: Option<Node>) {
        let allocatable = node.as_ref().map(|node| self.amounts(&node.allocatable));
        let capacity = self.rooms.entry(name.clone()).or_default();
        capacity.allocatable.clear();
        for (index, amount) in allocatable.iter().flatten() {
            add(&mut capacity.allocatable, *index, *amount);
        }
        capacity.node = node;
        self.note_changed(name);
    }

    /// The nodes that are known.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Node> + Clone {
        self.rooms
            .values()
            .filter_map(|capacity| capacity.node.as_ref())
    }

    /// The node of this name.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.rooms.get(name)?.node.as_ref()
    }

    /// A pod uses its node: a worker of a gang or one that is there as long as its node, or another
    /// one. Returns whether something of what it uses was reserved there.
    pub(super) fn bind(&mut self, node: &Name, requests: &Resources, is_other: bool) -> bool {
        let amounts = self.amounts(requests);
        let capacity = self.rooms.entry(node.clone()).or_default();
        let mut has_reserved = false;
        for (index, amount) in amounts {
            add(&mut capacity.used, index, amount);
            if is_other {
                add(&mut capacity.others, index, amount);
            }
            has_reserved |= get(&capacity.reserved, index) > 0;
        }
        self.note_changed(node);
        has_reserved
    }

    /// A pod no longer uses its node.
    pub(super) fn unbind(&mut self, node: &Name, requests: &Resources, is_other: bool) {
        let amounts = self.amounts(requests);
        if let Some(capacity) = self.rooms.get_mut(node) {
            for (index, amount) in amounts {
                add(&mut capacity.used, index, -amount);
                if is_other {
                    add(&mut capacity.others, index, -amount);
                }
            }
        }
        self.note_changed(node);
    }

    /// A pod that uses its node has come to be another one, or has come to be a worker of a gang.
    pub(super) fn set_other(&mut self, node: &Name, requests: &Resources, is_other: bool) {
        self.adjust(node, requests, is_other, |capacity| &mut capacity.others);
    }

    /// A pod that is there as long as this node came or went.
    pub(super) fn set_resident(&mut self, node: &Name, requests: &Resources, is_there: bool) {
        self.adjust(node, requests, is_there, |capacity| &mut capacity.resident);
    }

    /// Adds what a pod requests to sums of a node, or takes it away.
    fn adjust(
        &mut self,
        node: &Name,
        requests: &Resources,
        is_there: bool,
        sums: impl Fn(&mut NodeCapacity) -> &mut Vec<i128>,
    ) {
        let amounts = self.amounts(requests);
        let capacity = self.rooms.entry(node.clone()).or_default();
        for (index, amount) in amounts {
            let amount = if is_there { amount } else { -amount };
            add(sums(capacity), index, amount);
        }
        self.note_changed(node);
    }

    /// Gives up the room of so many pods.
    pub(super) fn unreserve(&mut self, node: &Name, shape: &Shape, count: u32) {
        if let Some(capacity) = self.rooms.get_mut(node) {
            capacity.reserve(shape, -i128::from(count));
        }
        self.note_changed(node);
    }

    /// Whether the node takes pods of this shape, and has all that is reserved on it.
    pub(super) fn keeps(&self, node: &Name, shape: &Shape) -> bool {
        self.rooms.get(node).is_some_and(|capacity| {
            let fits = |(index, _): &(u16, i128)| capacity.free(*index) >= 0;
            capacity.selects(node, shape) && shape.amounts.iter().all(fits)
        })
    }

    pub(super) fn note_changed(&mut self, node: &Name) {
        if self.rooms.get(node).is_some_and(NodeCapacity::is_unused) {
            if let Some(capacity) = self.rooms.remove(node) {
                for (id, slots) in capacity.slots.iter().enumerate() {
                    self.replace_slots(id, *slots, Slots::default());
                }
            }
        } else if !self.ids.is_empty() {
            self.changed.insert(node.clone());
        }
    }

    fn replace_slots(&mut self, id: ShapeId, old: Slots, new: Slots) {
        let Some(Some(entry)) = self.shapes.get_mut(id) else {
            return;
        };
        entry.free = entry.free + u64::from(new.free) - u64::from(old.free);
        entry.empty = entry.empty + u64::from(new.empty) - u64::from(old.empty);
        entry.without_gangs =
            entry.without_gangs + u64::from(new.without_gangs) - u64::from(old.without_gangs);
        if new.free > old.free {
            self.grown.insert(id);
        }
        if new.empty != old.empty || new.without_gangs != old.without_gangs {
            self.resized.insert(id);
        }
        if (new.free == 0 && old.free > 0) || (new.empty == 0 && old.empty > 0) {
            self.lost.insert(id);
        }
    }

    /// Counts the slots on nodes that have changed. What is asked about slots holds as of the last
    /// count.
    pub(super) fn recount(&mut self) {
        for name in std::mem::take(&mut self.changed) {
            let Some(capacity) = self.rooms.get_mut(&name) else {
                continue;
            };
            capacity.slots.resize(self.shapes.len(), Slots::default());
            let shapes = self.shapes.iter().map(Option::as_ref);
            let counted: Vec<Slots> = shapes
                .map(|entry| {
                    entry.map_or_else(Slots::default, |entry| {
                        capacity.slots_of(&name, &entry.shape)
                    })
                })
                .collect();
            let old = std::mem::replace(&mut capacity.slots, counted.clone());
            for (id, (old, new)) in old.into_iter().zip(counted).enumerate() {
                if old != new {
                    self.replace_slots(id, old, new);
                }
            }
        }
    }

    /// Begins to count the slots of a shape, until it is released as often.
    pub(super) fn use_shape(&mut self, shape: Shape) -> ShapeId {
        if let Some(id) = self.ids.get(&shape)
            && let Some(Some(entry)) = self.shapes.get_mut(*id)
        {
            entry.users += 1;
            return *id;
        }
        let gap = self.shapes.iter().position(Option::is_none);
        let id = gap.unwrap_or(self.shapes.len());
        let mut entry = ShapeSlots {
            shape: shape.clone(),
            free: 0,
            empty: 0,
            without_gangs: 0,
            users: 1,
        };
        for (name, capacity) in &mut self.rooms {
            let slots = capacity.slots_of(name, &shape);
            capacity
                .slots
                .resize(capacity.slots.len().max(id + 1), Slots::default());
            if let Some(place) = capacity.slots.get_mut(id) {
                *place = slots;
            }
            entry.free += u64::from(slots.free);
            entry.empty += u64::from(slots.empty);
            entry.without_gangs += u64::from(slots.without_gangs);
        }
        match self.shapes.get_mut(id) {
            Some(place) => *place = Some(entry),
            None => self.shapes.push(Some(entry)),
        }
        self.ids.insert(shape, id);
        id
    }

    /// Ends one use of a shape.
    pub(super) fn release_shape(&mut self, id: ShapeId) {
        let Some(place) = self.shapes.get_mut(id) else {
            return;
        };
        if let Some(entry) = place {
            entry.users -= 1;
            if entry.users == 0 {
                self.ids.remove(&entry.shape);
                *place = None;
            }
        }
    }

    /// How many pods of a shape nodes take.
    pub(super) fn free(&self, id: ShapeId) -> u64 {
        let entry = self.shapes.get(id).and_then(Option::as_ref);
        entry.map_or(0, |entry| entry.free)
    }

    /// A node that takes a pod of the one shape when it is empty, and a pod of one of the others:
    /// now, or when it is empty.
    pub(super) fn takes_both(
        &self,
        held: ShapeId,
        others: &[ShapeId],
        of_empty: bool,
    ) -> Option<&Name> {
        let takes_both = |capacity: &NodeCapacity| {
            capacity.takes(held, true) && others.iter().any(|id| capacity.takes(*id, of_empty))
        };
        let mut rooms = self.rooms.iter();
        let found = rooms.find(|(_, capacity)| takes_both(capacity));
        found.map(|(name, _)| name)
    }

    /// Whether a node takes a pod of a shape: now, or when it is empty.
    pub(super) fn takes(&self, node: &Name, id: ShapeId, of_empty: bool) -> bool {
        let capacity = self.rooms.get(node);
        capacity.is_some_and(|capacity| capacity.takes(id, of_empty))
    }

    /// Whether it is known that no node takes a pod of this shape.
    pub(super) fn is_full(&self, shape: &Shape) -> bool {
        self.ids.get(shape).is_some_and(|id| self.free(*id) == 0)
    }

    /// What slots have changed since this was last asked.
    pub(super) fn take_changes(&mut self) -> SlotChanges {
        SlotChanges {
            grown: std::mem::take(&mut self.grown),
            resized: std::mem::take(&mut self.resized),
            lost: std::mem::take(&mut self.lost),
        }
    }

    /// A node on which more is reserved than bound pods leave: its room is given twice.
    pub(super) fn overcommitted(&self) -> Option<&Name> {
        let is_over = |capacity: &NodeCapacity| {
            let indices = 0..u16::try_from(capacity.reserved.len()).unwrap_or(u16::MAX);
            let mut reserved = indices.filter(|index| get(&capacity.reserved, *index) > 0);
            reserved.any(|index| capacity.free(index) < 0)
        };
        let mut rooms = self.rooms.iter();
        rooms
            .find(|(_, capacity)| is_over(capacity))
            .map(|(name, _)| name)
    }

    /// Whether every sum is that over its addends: over the requests of bound pods, over the pods
    /// of each shape that room is reserved for, and over slots.
    pub(super) fn is_consistent<'a>(
        &self,
        bound: impl IntoIterator<Item = (&'a Name, &'a Resources, bool)>,
        resident: impl IntoIterator<Item = (Name, &'a Resources)>,
        reserved: impl IntoIterator<Item = (&'a Name, &'a Shape, u32)>,
    ) -> bool {
        let mut again: BTreeMap<Name, NodeCapacity> = BTreeMap::new();
        let sum = |sums: &mut Vec<i128>, requests: &Resources| {
            for (name, amount) in requests.iter().filter(|(_, amount)| **amount > 0) {
                let last = u16::try_from(MAX_NAMES).unwrap_or(u16::MAX);
                let index = self.names.get(name).copied().unwrap_or(last);
                add(sums, index, i128::from(*amount));
            }
        };
        for (node, requests, is_other) in bound {
            let capacity = again.entry(node.clone()).or_default();
            sum(&mut capacity.used, requests);
            if is_other {
                sum(&mut capacity.others, requests);
            }
        }
        for (node, requests) in resident {
            sum(&mut again.entry(node).or_default().resident, requests);
        }
        for (node, shape, count) in reserved {
            let capacity = again.entry(node.clone()).or_default();
            capacity.reserve(shape, i128::from(count));
        }
        let mut names: BTreeSet<&Name> = self.rooms.keys().collect();
        names.extend(again.keys());
        let none = NodeCapacity::default();
        let same = |a: &[i128], b: &[i128]| {
            (0..a.len().max(b.len())).all(|index| {
                let index = u16::try_from(index).unwrap_or(u16::MAX);
                get(a, index) == get(b, index)
            })
        };
        let sums_are_right = names.into_iter().all(|name| {
            let ours = self.rooms.get(name).unwrap_or(&none);
            let other = again.get(name).unwrap_or(&none);
            same(&ours.used, &other.used)
                && same(&ours.others, &other.others)
                && same(&ours.resident, &other.resident)
                && same(&ours.reserved, &other.reserved)
        });
        let slots_are_right = self.shapes.iter().enumerate().all(|(id, entry)| {
            let Some(entry) = entry else { return true };
            let slots =
                |capacity: &NodeCapacity| capacity.slots.get(id).copied().unwrap_or_default();
            let counted = self.rooms.iter().all(|(name, capacity)| {
                self.changed.contains(name)
                    || slots(capacity) == capacity.slots_of(name, &entry.shape)
            });
            let rooms = || self.rooms.values().map(slots);
            let free: u64 = rooms().map(|slots| u64::from(slots.free)).sum();
            let empty: u64 = rooms().map(|slots| u64::from(slots.empty)).sum();
            let without_gangs: u64 = rooms().map(|slots| u64::from(slots.without_gangs)).sum();
            let sums = (free, empty, without_gangs);
            counted && sums == (entry.free, entry.empty, entry.without_gangs)
        });
        sums_are_right && slots_are_right
    }
}

pub(super) fn get(amounts: &[i128], index: u16) -> i128 {
    amounts.get(usize::from(index)).copied().unwrap_or(0)
}

pub(super) fn add(amounts: &mut Vec<i128>, index: u16, amount: i128) {
    let index = usize::from(index);
    if amounts.len() <= index {
        amounts.resize(index + 1, 0);
    }
    if let Some(sum) = amounts.get_mut(index) {
        *sum += amount;
    }
}
