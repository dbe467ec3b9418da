//! The room that queues of gangs ask for, and the answers that they were given: a queue is decided
//! anew when an answer would be another one.

use std::collections::{BTreeMap, BTreeSet};

use crate::capacity::{Gang, Room};

use super::super::event::Name;
use super::nodes::{Nodes, Shape, ShapeId, SlotChanges};

/// The workers of a gang by their shapes, in the order of its roles.
type Workers = Box<[(ShapeId, u32)]>;

/// What was answered about gangs that are alike.
#[derive(Clone, Debug, Default, PartialEq)]
struct Answers {
    /// How many of their workers empty nodes take, by the namespace of the queue.
    could_fit: BTreeMap<Name, u32>,
    /// The namespaces whose queues found too little free room for all of them.
    waiting: BTreeSet<Name>,
}

/// A gang that fits, and waits behind one that waits for a node on which it finds room.
#[derive(Clone, Debug, PartialEq)]
struct Behind {
    workers: Workers,
    /// The shapes of those that wait before it.
    held: BTreeSet<ShapeId>,
    /// Such a node.
    node: Name,
}

impl Behind {
    /// Whether the node is wanted by those before it no more, or has no room for it.
    fn is_free(&self, nodes: &Nodes) -> bool {
        let mut held = self.held.iter();
        let is_held = held.any(|id| nodes.takes(&self.node, *id, true));
        let mut shapes = self.workers.iter().filter(|(_, count)| *count > 0);
        !is_held || !shapes.any(|(id, _)| nodes.takes(&self.node, *id, false))
    }
}

/// The answers that the queues of all namespaces were given when they were last decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct QueueAnswers {
    gangs: BTreeMap<Workers, Answers>,
    namespaces: BTreeMap<Name, Vec<Workers>>,
    /// Gangs that wait behind others, by the namespace of the queue.
    behind: BTreeMap<Name, Vec<Behind>>,
}

impl QueueAnswers {
    /// The namespaces whose queues would be given another answer now: about the room of empty
    /// nodes, that a gang now fits, or that one takes no room of those before it any more.
    pub(super) fn take_changed(&self, nodes: &mut Nodes) -> BTreeSet<Name> {
        nodes.recount();
        let changes = nodes.take_changes();
        let mut changed = BTreeSet::new();
        if changes.is_empty() {
            return changed;
        }
        let SlotChanges {
            grown,
            resized,
            lost,
        } = changes;
        for (name, behind) in &self.behind {
            let is_concerned = |gang: &Behind| {
                let shapes = gang.workers.iter().map(|(id, _)| id);
                let mut ids = shapes.chain(&gang.held);
                ids.any(|id| lost.contains(id)) && gang.is_free(nodes)
            };
            if behind.iter().any(is_concerned) {
                changed.insert(name.clone());
            }
        }
        for (workers, answers) in &self.gangs {
            let is_among = |ids: &BTreeSet<ShapeId>| workers.iter().any(|(id, _)| ids.contains(id));
            if is_among(&resized) {
                let could_fit = nodes.count(workers, true);
                let other = answers
                    .could_fit
                    .iter()
                    .filter(|(_, answer)| **answer != could_fit);
                changed.extend(other.map(|(name, _)| name.clone()));
            }
            let has_slots = |(id, count): &(ShapeId, u32)| nodes.free(*id) >= u64::from(*count);
            let may_fit = !answers.waiting.is_empty()
                && is_among(&grown)
                && workers.iter().all(has_slots)
                && nodes.count(workers, false) == total(workers);
            if may_fit {
                changed.extend(answers.waiting.iter().cloned());
            }
        }
        changed
    }

    /// Replaces the answers that the queue of a namespace was given.
    fn replace(
        &mut self,
        namespace: &Name,
        new: BTreeMap<Workers, (u32, bool)>,
        behind: Vec<Behind>,
        nodes: &mut Nodes,
    ) {
        if behind.is_empty() {
            self.behind.remove(namespace);
        } else {
            self.behind.insert(namespace.clone(), behind);
        }
        for workers in self.namespaces.remove(namespace).unwrap_or_default() {
            for (id, _) in &workers {
                nodes.release_shape(*id);
            }
            if let Some(answers) = self.gangs.get_mut(&workers) {
                answers.could_fit.remove(namespace);
                answers.waiting.remove(namespace);
                if answers.could_fit.is_empty() {
                    self.gangs.remove(&workers);
                }
            }
        }
        for (workers, (could_fit, waits)) in &new {
            let answers = self.gangs.entry(workers.clone()).or_default();
            answers.could_fit.insert(namespace.clone(), *could_fit);
            if *waits {
                answers.waiting.insert(namespace.clone());
            }
        }
        if !new.is_empty() {
            let gangs = new.into_keys().collect();
            self.namespaces.insert(namespace.clone(), gangs);
        }
    }
}

fn total(workers: &Workers) -> u32 {
    let counts = workers.iter().map(|(_, count)| *count);
    counts.fold(0, u32::saturating_add)
}

/// The room for the gangs of one namespace that wait.
pub(crate) struct QueueRoom<'a> {
    namespace: Name,
    nodes: &'a mut Nodes,
    answers: &'a mut QueueAnswers,
    /// How many workers of each gang that was asked about empty nodes take, and whether it found
    /// too little free room.
    given: BTreeMap<Workers, (u32, bool)>,
    taken: Vec<(Name, Shape, u32)>,
    /// Who waits for a node.
    holders: BTreeMap<Name, usize>,
    /// The shapes whose nodes are among these.
    held: BTreeSet<ShapeId>,
    /// Gangs that fit, and wait behind those.
    behind: Vec<Behind>,
}

impl<'a> QueueRoom<'a> {
    pub(super) fn new(
        namespace: Name,
        nodes: &'a mut Nodes,
        answers: &'a mut QueueAnswers,
    ) -> Self {
        nodes.recount();
        Self {
            namespace,
            nodes,
            answers,
            given: BTreeMap::new(),
            taken: Vec::new(),
            holders: BTreeMap::new(),
            held: BTreeSet::new(),
            behind: Vec::new(),
        }
    }

    /// The gangs by their shapes, whose slots are counted from now on.
    fn ask(&mut self, gangs: &[&Gang]) -> Workers {
        let roles = gangs.iter().map(|gang| {
            let shape = self.nodes.shape(gang);
            (self.nodes.use_shape(shape), gang.workers)
        });
        let workers: Workers = roles.collect();
        if self.given.contains_key(&workers) {
            for (id, _) in &workers {
                self.nodes.release_shape(*id);
            }
        } else {
            let could_fit = self.nodes.count(&workers, true);
            self.given.insert(workers.clone(), (could_fit, false));
        }
        workers
    }
}

impl Room for QueueRoom<'_> {
    fn fits(&mut self, gangs: &[&Gang]) -> u32 {
        let workers = self.ask(gangs);
        let fit = self.nodes.count(&workers, false);
        if let Some((_, waits)) = self.given.get_mut(&workers) {
            *waits |= fit < total(&workers);
        }
        fit
    }

    fn could_fit(&mut self, gangs: &[&Gang]) -> u32 {
        let workers = self.ask(gangs);
        self.given
            .get(&workers)
            .map_or(0, |(could_fit, _)| *could_fit)
    }

    fn place(&mut self, gang: &Gang) {
        let shape = self.nodes.shape(gang);
        for (name, count) in self.nodes.reserve(&shape, gang.workers) {
            self.taken.push((name, shape.clone(), count));
        }
        self.nodes.recount();
    }

    fn hold(&mut self, gangs: &[&Gang], holder: usize) {
        for (id, count) in self.ask(gangs) {
            if count > 0 && self.held.insert(id) {
                for name in self.nodes.with_slots(id) {
                    self.holders.entry(name.clone()).or_insert(holder);
                }
            }
        }
    }

    fn holder(&mut self, gangs: &[&Gang], of_empty: bool) -> Option<usize> {
        if self.holders.is_empty() {
            return None;
        }
        let workers = self.ask(gangs);
        let takes = |name: &Name| {
            let mut shapes = workers.iter().filter(|(_, count)| *count > 0);
            shapes.any(|(id, _)| self.nodes.takes(name, *id, of_empty))
        };
        let held = self.holders.iter().filter(|(name, _)| takes(name));
        let first = held.min_by_key(|(_, holder)| **holder);
        let (node, holder) = first.map(|(name, holder)| (name.clone(), *holder))?;
        if !of_empty {
            let held = self.held.clone();
            self.behind.push(Behind {
                workers,
                held,
                node,
            });
        }
        Some(holder)
    }
}

/// What was taken is given back: its owners reserve it.
impl Drop for QueueRoom<'_> {
    fn drop(&mut self) {
        for (name, shape, count) in std::mem::take(&mut self.taken) {
            self.nodes.unreserve(&name, &shape, count);
        }
        let given = std::mem::take(&mut self.given);
        let behind = std::mem::take(&mut self.behind);
        self.answers
            .replace(&self.namespace, given, behind, self.nodes);
    }
}
