//! Where pods find room: first fit over the nodes by name.

use std::collections::BTreeMap;

use super::super::event::Name;
use super::nodes::{Amounts, Nodes, Shape, ShapeId, SlotKind, add, get};

impl Nodes {
    /// Reserves the room of at most so many pods, first fit over the nodes by name. Returns where,
    /// and how many.
    pub(super) fn reserve(&mut self, shape: &Shape, most: u32) -> Vec<(Name, u32)> {
        let (mut places, mut left) = (Vec::new(), most);
        for (name, capacity) in &mut self.rooms {
            if left == 0 {
                break;
            }
            let here = capacity.slots_of(name, shape).free.min(left);
            if here > 0 {
                capacity.reserve(shape, i128::from(here));
                places.push((name.clone(), here));
                left -= here;
            }
        }
        for (name, _) in &places {
            self.note_changed(name);
        }
        places
    }

    /// How many workers find room together, with so many of each shape, at most all of them.
    pub(super) fn count(&self, workers: &[(ShapeId, u32)], kind: SlotKind) -> u32 {
        let slots = |id: ShapeId| {
            let entry = self.shapes.get(id).and_then(Option::as_ref)?;
            Some(match kind {
                SlotKind::Free => entry.free,
                SlotKind::Empty => entry.empty,
                SlotKind::WithoutGangs => entry.without_gangs,
            })
        };
        if let [(id, most)] = workers {
            let slots = slots(*id).unwrap_or(0);
            return u32::try_from(slots).unwrap_or(u32::MAX).min(*most);
        }
        // what the shapes before have taken of each node
        let mut taken: BTreeMap<&Name, Vec<i128>> = BTreeMap::new();
        let mut placed = 0u32;
        for (nth, (id, most)) in workers.iter().enumerate() {
            let Some(Some(entry)) = self.shapes.get(*id) else {
                continue;
            };
            let (shape, mut left) = (&entry.shape, *most);
            for (name, capacity) in &self.rooms {
                if left == 0 {
                    break;
                }
                if !capacity.selects(name, shape) {
                    continue;
                }
                let none = Vec::new();
                let taken_here = taken.get(name).unwrap_or(&none);
                let free = |index: u16| capacity.capacity(index, kind) - get(taken_here, index);
                let here = pods(free, &shape.amounts).min(left);
                if here > 0 && nth + 1 < workers.len() {
                    let taken_here = taken.entry(name).or_default();
                    for (index, amount) in &shape.amounts {
                        add(taken_here, *index, amount * i128::from(here));
                    }
                }
                left -= here;
            }
            placed = placed.saturating_add(most - left);
        }
        placed
    }

    /// Places so many pods of a shape first fit over the nodes by name, and takes their room out of
    /// what is `changed` of what is free. Returns how many found room.
    pub(super) fn place(
        &self,
        id: ShapeId,
        most: u32,
        changed: &mut BTreeMap<Name, Vec<i128>>,
    ) -> u32 {
        let Some(Some(entry)) = self.shapes.get(id) else {
            return 0;
        };
        let mut left = most;
        for (name, capacity) in &self.rooms {
            if left == 0 {
                break;
            }
            // an empty node takes one wherever its labels and taints let it
            if !capacity.takes(id, true) {
                continue;
            }
            let none = Vec::new();
            let more = changed.get(name).unwrap_or(&none);
            let free = |index: u16| capacity.free(index) + get(more, index);
            let here = pods(free, &entry.shape.amounts).min(left);
            if here > 0 {
                let more = changed.entry(name.clone()).or_default();
                for (index, amount) in entry.shape.times(here) {
                    add(more, index, -amount);
                }
                left -= here;
            }
        }
        most - left
    }
}

/// How many pods this room takes; no end of them, where a pod needs nothing.
pub(super) fn pods(free: impl Fn(u16) -> i128, amounts: &Amounts) -> u32 {
    let counts = amounts
        .iter()
        .map(|(index, amount)| free(*index).max(0) / amount);
    counts
        .min()
        .map_or(u32::MAX, |count| u32::try_from(count).unwrap_or(u32::MAX))
}
