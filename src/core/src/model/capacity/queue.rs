//! The room that queues of gangs ask for, and the answers that they were given: a queue is decided
//! anew when an answer would be another one.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::pod_set::{BlockScope, PodSet, SchedulingCapacity, SchedulingRank};

use super::super::event::Name;
use super::nodes::{Nodes, Shape, ShapeId, SlotChanges, SlotKind};
use super::waiting::{Waiting, WaitingByRank, WaitingGangs, Workers};

/// What was answered about a gang.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Answer {
    /// How many of its workers empty nodes take.
    could_fit: u32,
    /// Whether nodes take all of them beside the pods that are of no gang, if that was asked.
    fits_beside_others: Option<bool>,
    /// It found too little free room for all of them.
    waits: bool,
}

/// A gang that waits behind one that waits for a node on which it finds room.
#[derive(Clone, Debug, PartialEq)]
struct BlockedGang {
    rank: SchedulingRank,
    /// The shapes of its workers.
    shapes: Vec<ShapeId>,
    /// The shapes of those before it that hold up only its namespace.
    held: BTreeSet<ShapeId>,
    /// Such a node.
    node: Name,
    /// It finds room there only when the node is empty.
    of_empty: bool,
}

impl BlockedGang {
    /// Whether the node is wanted by those before it no more, or has no room for it.
    fn is_free(&self, nodes: &Nodes, waiting: [&WaitingGangs; 2]) -> bool {
        let is_held = |id: ShapeId| nodes.takes(&self.node, id, true);
        let mut before = self.held.iter().copied();
        let mut ahead = waiting.into_iter().flat_map(|all| all.ahead_of(&self.rank));
        let is_held = before.any(is_held) || ahead.any(|(id, _)| is_held(id));
        let takes = |id: &ShapeId| nodes.takes(&self.node, *id, self.of_empty);
        !is_held || !self.shapes.iter().any(takes)
    }
}

/// The answers that the queues of all namespaces were given when they were last decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FitCache {
    /// By gangs that are alike, and by the namespace of the queue.
    pod_sets: BTreeMap<Workers, BTreeMap<Name, Answer>>,
    namespaces: BTreeMap<Name, Vec<Workers>>,
    /// Gangs that wait behind others, by the namespace of the queue.
    behind: BTreeMap<Name, Vec<BlockedGang>>,
    /// Gangs that hold room up for all namespaces.
    pub(super) waiting: WaitingGangs,
    /// Replicas of services that wait for room that was taken back for them.
    pub(super) replicas: WaitingGangs,
    /// Some of these wait no more.
    pub(super) has_fewer_waiting: bool,
}

impl FitCache {
    /// The namespaces whose queues would be given another answer now: about the room of empty
    /// nodes, that a gang now fits, or that one takes no room of those before it any more.
    pub(super) fn take_changed(&mut self, nodes: &mut Nodes) -> BTreeSet<Name> {
        nodes.recount();
        let changes = nodes.take_changes();
        let has_fewer_waiting = std::mem::take(&mut self.has_fewer_waiting);
        let mut changed = BTreeSet::new();
        if changes.is_empty() && !has_fewer_waiting {
            return changed;
        }
        let SlotChanges {
            grown,
            resized,
            lost,
        } = changes;
        let has_shape = |id| self.waiting.has_shape(id) || self.replicas.has_shape(id);
        let frees_all = has_fewer_waiting || lost.iter().any(|id| has_shape(*id));
        for (name, behind) in &self.behind {
            let is_concerned = |gang: &BlockedGang| {
                let mut ids = gang.shapes.iter().chain(&gang.held);
                let is_lost = frees_all || ids.any(|id| lost.contains(id));
                is_lost && gang.is_free(nodes, [&self.waiting, &self.replicas])
            };
            if behind.iter().any(is_concerned) {
                changed.insert(name.clone());
            }
        }
        for (workers, answers) in &self.pod_sets {
            let is_among = |ids: &BTreeSet<ShapeId>| workers.iter().any(|(id, _)| ids.contains(id));
            if is_among(&resized) {
                let could_fit = nodes.count(workers, SlotKind::Empty);
                let fits = fits_beside_others(workers, nodes);
                let other = answers.iter().filter(|(_, answer)| {
                    let asked = answer.fits_beside_others;
                    answer.could_fit != could_fit || asked.is_some_and(|answer| answer != fits)
                });
                changed.extend(other.map(|(name, _)| name.clone()));
            }
            let has_slots = |(id, count): &(ShapeId, u32)| nodes.free(*id) >= u64::from(*count);
            let mut waiting = answers.iter().filter(|(_, answer)| answer.waits).peekable();
            let may_fit = waiting.peek().is_some()
                && is_among(&grown)
                && workers.iter().all(has_slots)
                && nodes.count(workers, SlotKind::Free) == total(workers);
            if may_fit {
                changed.extend(waiting.map(|(name, _)| name.clone()));
            }
        }
        changed
    }

    /// Replaces the answers that the queue of a namespace was given.
    fn replace(
        &mut self,
        namespace: &Name,
        new: BTreeMap<Workers, Answer>,
        behind: Vec<BlockedGang>,
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
            if let Some(answers) = self.pod_sets.get_mut(&workers) {
                answers.remove(namespace);
                if answers.is_empty() {
                    self.pod_sets.remove(&workers);
                }
            }
        }
        for (workers, answer) in &new {
            let answers = self.pod_sets.entry(workers.clone()).or_default();
            answers.insert(namespace.clone(), *answer);
        }
        if !new.is_empty() {
            let pod_sets = new.into_keys().collect();
            self.namespaces.insert(namespace.clone(), pod_sets);
        }
    }
}

fn total(workers: &Workers) -> u32 {
    let counts = workers.iter().map(|(_, count)| *count);
    counts.fold(0, u32::saturating_add)
}

fn fits_beside_others(workers: &Workers, nodes: &Nodes) -> bool {
    nodes.count(workers, SlotKind::WithoutGangs) == total(workers)
}

/// The shapes of which there are workers.
fn shapes(workers: &Workers) -> Vec<ShapeId> {
    let wanted = workers.iter().filter(|(_, count)| *count > 0);
    wanted.map(|(id, _)| *id).collect()
}

/// What the queue of a namespace asked and found.
#[derive(Default)]
struct NamespaceAnswers {
    given: BTreeMap<Workers, Answer>,
    /// Gangs that wait behind others.
    behind: Vec<BlockedGang>,
    /// The shapes of gangs that hold room up within the namespace, with the first of each.
    held: BTreeMap<ShapeId, SchedulingRank>,
    /// Gangs that hold room up for all namespaces.
    waiting: WaitingByRank,
    /// These, as of the last decision.
    waited: WaitingByRank,
}

/// The room for the gangs of some namespaces that wait.
pub(crate) struct QueueCapacity<'a> {
    nodes: &'a mut Nodes,
    answers: &'a mut FitCache,
    /// The gang that is asked for.
    rank: SchedulingRank,
    asked: BTreeMap<Name, NamespaceAnswers>,
    /// The shapes of gangs of these namespaces that hold room up for all, with the first of each.
    held: BTreeMap<ShapeId, SchedulingRank>,
    taken: Vec<(Name, Shape, u32)>,
}

impl<'a> QueueCapacity<'a> {
    pub(super) fn new(
        namespaces: Vec<Name>,
        nodes: &'a mut Nodes,
        answers: &'a mut FitCache,
    ) -> Self {
        nodes.recount();
        let first = namespaces.first().cloned();
        let rank = SchedulingRank {
            priority: Default::default(),
            created: Timestamp::MIN,
            namespace: first.unwrap_or_else(|| "".into()),
            name: "".into(),
        };
        let asked = namespaces.into_iter().map(|namespace| {
            let asked = NamespaceAnswers {
                waited: answers.waiting.take(&namespace),
                ..NamespaceAnswers::default()
            };
            (namespace, asked)
        });
        Self {
            rank,
            asked: asked.collect(),
            nodes,
            answers,
            held: BTreeMap::new(),
            taken: Vec::new(),
        }
    }

    fn asked(&mut self) -> &mut NamespaceAnswers {
        self.asked.entry(self.rank.namespace.clone()).or_default()
    }

    /// The gangs by their shapes, whose slots are counted from now on.
    fn ask(&mut self, pod_sets: &[&PodSet]) -> Workers {
        let roles = pod_sets.iter().map(|gang| {
            let shape = self.nodes.shape(gang);
            (self.nodes.use_shape(shape), gang.workers)
        });
        let workers: Workers = roles.collect();
        if self.asked().given.contains_key(&workers) {
            for (id, _) in &workers {
                self.nodes.release_shape(*id);
            }
        } else {
            let answer = Answer {
                could_fit: self.nodes.count(&workers, SlotKind::Empty),
                fits_beside_others: None,
                waits: false,
            };
            self.asked().given.insert(workers.clone(), answer);
        }
        workers
    }

    fn answer(&mut self, workers: &Workers) -> Option<&mut Answer> {
        self.asked().given.get_mut(workers)
    }

    /// The shapes that gangs before the present one wait with, by the first of these gangs.
    fn held(&self) -> BTreeSet<(&SchedulingRank, ShapeId)> {
        let ahead = self.answers.waiting.ahead_of(&self.rank);
        let ahead = ahead.chain(self.answers.replicas.ahead_of(&self.rank));
        let mut held: BTreeSet<(&SchedulingRank, ShapeId)> =
            ahead.map(|(id, rank)| (rank, id)).collect();
        let within = self.asked.get(&self.rank.namespace);
        let within = within.into_iter().flat_map(|asked| &asked.held);
        held.extend(within.chain(&self.held).map(|(id, rank)| (rank, *id)));
        held
    }
}

impl SchedulingCapacity for QueueCapacity<'_> {
    fn ask_for(&mut self, rank: &SchedulingRank) {
        self.rank = rank.clone();
    }

    fn fits(&mut self, pod_sets: &[&PodSet]) -> u32 {
        let workers = self.ask(pod_sets);
        let fit = self.nodes.count(&workers, SlotKind::Free);
        if let Some(answer) = self.answer(&workers) {
            answer.waits |= fit < total(&workers);
        }
        fit
    }

    fn could_fit(&mut self, pod_sets: &[&PodSet]) -> u32 {
        let workers = self.ask(pod_sets);
        self.answer(&workers).map_or(0, |answer| answer.could_fit)
    }

    fn could_fit_with_other_pods(&mut self, pod_sets: &[&PodSet]) -> bool {
        let workers = self.ask(pod_sets);
        let fits = fits_beside_others(&workers, self.nodes);
        if let Some(answer) = self.answer(&workers) {
            answer.fits_beside_others = Some(fits);
        }
        fits
    }

    fn place(&mut self, gang: &PodSet) {
        let shape = self.nodes.shape(gang);
        for (name, count) in self.nodes.reserve(&shape, gang.workers) {
            self.taken.push((name, shape.clone(), count));
        }
        self.nodes.recount();
    }

    fn block_nodes(&mut self, pod_sets: &[&PodSet], scope: BlockScope, may_preempt: bool) {
        let workers = self.ask(pod_sets);
        let shapes = shapes(&workers);
        let rank = self.rank.clone();
        let held = match scope {
            BlockScope::Namespace => &mut self.asked().held,
            BlockScope::Cluster => &mut self.held,
        };
        for id in &shapes {
            held.entry(*id).or_insert_with(|| rank.clone());
        }
        if scope == BlockScope::Cluster {
            let waiting = Waiting {
                workers,
                may_preempt,
            };
            self.asked().waiting.insert(rank, waiting);
        }
    }

    fn blocking_gang(&mut self, pod_sets: &[&PodSet], of_empty: bool) -> Option<SchedulingRank> {
        let shapes = shapes(&self.ask(pod_sets));
        let (blocking_gang, node) = self.held().into_iter().find_map(|(rank, id)| {
            let node = self.nodes.takes_both(id, &shapes, of_empty)?;
            Some((rank.clone(), node.clone()))
        })?;
        let behind = BlockedGang {
            rank: self.rank.clone(),
            shapes,
            held: self.asked().held.keys().copied().collect(),
            node,
            of_empty,
        };
        self.asked().behind.push(behind);
        Some(blocking_gang)
    }

    fn blocking_gang_in_namespace(&mut self, pod_sets: &[&PodSet]) -> Option<SchedulingRank> {
        let shapes = shapes(&self.ask(pod_sets));
        let mut held: Vec<(SchedulingRank, ShapeId)> = Vec::new();
        held.extend(
            self.asked()
                .held
                .iter()
                .map(|(id, rank)| (rank.clone(), *id)),
        );
        held.sort();
        let takes = |id: ShapeId| self.nodes.takes_both(id, &shapes, true).is_some();
        held.into_iter()
            .find(|(_, id)| takes(*id))
            .map(|(rank, _)| rank)
    }
}

/// What was taken is given back: its owners reserve it.
impl Drop for QueueCapacity<'_> {
    fn drop(&mut self) {
        for (name, shape, count) in std::mem::take(&mut self.taken) {
            self.nodes.unreserve(&name, &shape, count);
        }
        for (namespace, asked) in std::mem::take(&mut self.asked) {
            let waits = |(rank, before): (&SchedulingRank, &Waiting)| {
                let now = asked.waiting.get(rank);
                now.is_some_and(|now| {
                    let mut shapes = before.shapes();
                    shapes.all(|id| now.shapes().any(|other| other == id))
                })
            };
            self.answers.has_fewer_waiting |= !asked.waited.iter().all(waits);
            let answers = &mut self.answers;
            answers.replace(&namespace, asked.given, asked.behind, self.nodes);
            answers.waiting.set(namespace, asked.waiting);
        }
    }
}
