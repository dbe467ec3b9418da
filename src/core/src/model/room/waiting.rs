//! The gangs that wait for room and hold it up for those behind them, in all namespaces.

use std::collections::{BTreeMap, BTreeSet};

use crate::capacity::Rank;

use super::super::event::Name;
use super::nodes::ShapeId;

/// Gangs by their ranks, with the shapes of their workers.
type Gangs = BTreeMap<Rank, Vec<ShapeId>>;

/// The gangs that wait, by their namespaces and by the shapes of their workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct WaitingGangs {
    namespaces: BTreeMap<Name, Gangs>,
    shapes: BTreeMap<ShapeId, BTreeSet<Rank>>,
}

impl WaitingGangs {
    /// Takes out those of a namespace.
    pub(super) fn take(&mut self, namespace: &Name) -> Gangs {
        let gangs = self.namespaces.remove(namespace).unwrap_or_default();
        for (rank, shapes) in &gangs {
            for id in shapes {
                if let Some(ranks) = self.shapes.get_mut(id) {
                    ranks.remove(rank);
                    if ranks.is_empty() {
                        self.shapes.remove(id);
                    }
                }
            }
        }
        gangs
    }

    /// Puts those of a namespace in, after they were taken out.
    pub(super) fn set(&mut self, namespace: Name, gangs: Gangs) {
        for (rank, shapes) in &gangs {
            for id in shapes {
                self.shapes.entry(*id).or_default().insert(rank.clone());
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
    pub(super) fn ahead_of(&self, rank: &Rank) -> impl Iterator<Item = (ShapeId, &Rank)> {
        let firsts = self.shapes.iter().filter_map(|(id, ranks)| {
            let first = ranks.first()?;
            Some((*id, first))
        });
        firsts.filter(move |(_, first)| *first < rank)
    }
}
