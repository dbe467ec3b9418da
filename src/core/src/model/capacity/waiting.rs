//! What waits for room and holds it up for the gangs behind it, in all namespaces.

use std::collections::{BTreeMap, BTreeSet};

use crate::pod_set::SchedulingRank;

use super::super::event::Name;
use super::nodes::ShapeId;

/// The pods of a gang by their shapes, in the order of its roles.
pub(super) type Workers = Box<[(ShapeId, u32)]>;

/// A gang that waits, or replicas of a service that do.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Waiting {
    /// Those that have no node.
    pub(super) workers: Workers,
    /// GPUs may be taken back for it.
    pub(super) may_preempt: bool,
}

impl Waiting {
    /// The shapes of which there are workers.
    pub(super) fn shapes(&self) -> impl Iterator<Item = ShapeId> {
        let wanted = self.workers.iter().filter(|(_, count)| *count > 0);
        wanted.map(|(id, _)| *id)
    }
}

/// Those that wait by their ranks.
pub(super) type WaitingByRank = BTreeMap<SchedulingRank, Waiting>;

/// Those that wait, by their namespaces and by the shapes of their workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct WaitingGangs {
    namespaces: BTreeMap<Name, WaitingByRank>,
    shapes: BTreeMap<ShapeId, BTreeSet<SchedulingRank>>,
    /// The shapes of those that came or went, each with the first of them, and whether GPUs were to be
    /// taken back for it, when [`Self::note_seen`] was last called.
    seen: BTreeMap<ShapeId, Option<(SchedulingRank, bool)>>,
}

impl WaitingGangs {
    /// Takes out those of a namespace.
    pub(super) fn take(&mut self, namespace: &Name) -> WaitingByRank {
        let shapes = self.namespaces.get(namespace).into_iter().flatten();
        let shapes: Vec<ShapeId> = shapes.flat_map(|(_, waiting)| waiting.shapes()).collect();
        shapes.into_iter().for_each(|id| self.see(id));
        let gangs = self.namespaces.remove(namespace).unwrap_or_default();
        for (rank, waiting) in &gangs {
            for id in waiting.shapes() {
                if let Some(ranks) = self.shapes.get_mut(&id) {
                    ranks.remove(rank);
                    if ranks.is_empty() {
                        self.shapes.remove(&id);
                    }
                }
            }
        }
        gangs
    }

    /// Puts those of a namespace in, after they were taken out.
    pub(super) fn set(&mut self, namespace: Name, gangs: WaitingByRank) {
        for (rank, waiting) in &gangs {
            for id in waiting.shapes() {
                self.see(id);
                self.shapes.entry(id).or_default().insert(rank.clone());
            }
        }
        if !gangs.is_empty() {
            self.namespaces.insert(namespace, gangs);
        }
    }

    /// Whether one of them has workers of this shape.
    pub(super) fn has_shape(&self, id: ShapeId) -> bool {
        self.shapes.contains_key(&id)
    }

    /// The shapes of those ahead of a gang, each with the first of them.
    pub(super) fn ahead_of(
        &self,
        rank: &SchedulingRank,
    ) -> impl Iterator<Item = (ShapeId, &SchedulingRank)> {
        let firsts = self.shapes.iter().filter_map(|(id, ranks)| {
            let first = ranks.first()?;
            Some((*id, first))
        });
        firsts.filter(move |(_, first)| *first < rank)
    }

    /// Those that are the first of one of their shapes, in their order: only one of them can be a
    /// gang ahead of which nobody waits for the same nodes.
    pub(super) fn firsts(&self) -> Vec<(&SchedulingRank, &Waiting)> {
        let firsts: BTreeSet<&SchedulingRank> =
            self.shapes.values().filter_map(BTreeSet::first).collect();
        let waiting = firsts.into_iter().filter_map(|rank| {
            let gangs = self.namespaces.get(&rank.namespace)?;
            gangs.get_key_value(rank)
        });
        waiting.collect()
    }

    /// Whether others are the first of their shapes than when they were last seen.
    pub(super) fn has_new_firsts(&self) -> bool {
        let mut seen = self.seen.iter();
        seen.any(|(id, first)| *first != self.first_of(*id))
    }

    /// Takes that those that are the first now are known.
    pub(super) fn note_seen(&mut self) {
        self.seen.clear();
    }

    fn see(&mut self, id: ShapeId) {
        let first = self.first_of(id);
        self.seen.entry(id).or_insert(first);
    }

    fn first_of(&self, id: ShapeId) -> Option<(SchedulingRank, bool)> {
        let rank = self.shapes.get(&id)?.first()?;
        let gangs = self.namespaces.get(&rank.namespace);
        let waiting = gangs.and_then(|gangs| gangs.get(rank));
        Some((rank.clone(), waiting.is_some_and(|it| it.may_preempt)))
    }
}
