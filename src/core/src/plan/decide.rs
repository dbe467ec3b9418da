//! Decides for what is marked in the model, and marks what depends on it.
//!
//! 1. What events have named is looked at: what it costs, and where the budgets of its namespace
//!    stand. Gangs of a namespace whose budget is exhausted are suspended. What is more than one
//!    call looks at is deferred to the next ones, which look first at what events have named since.
//! 2. Services are decided in slices, by namespace: first where a budget stops something, then where
//!    an event has just named something, then where one has earlier, then where an event about
//!    everything has. Within a namespace the service of higher priority goes first, and what became free is
//!    given once all have been decided, so that it does not matter where a slice ends.
//! 3. Once nothing is deferred and no service is left, the queues of gangs that are marked are
//!    decided in one order over their namespaces, and again those for which room has become free.
//! 4. Once nothing is marked, GPUs are taken back for what waits with a higher priority.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::budget::BudgetAdmission;
use crate::model::capacity::ReservationOwner;
use crate::model::event::{Key, Name, Owner};
use crate::model::state::{Model, take_in};
use crate::model::timers::TimerKey;
use crate::plan::capacity_preemption::{preempt, preempt_for_replicas};
use crate::plan::decisions::Decisions;
use crate::plan::evictions;
use crate::plan::namespace::{evaluate_budgets, refresh_marked};
use crate::plan::queue::decide_queues;
use crate::plan::replicas::decide_services;

/// So many timers that are due, computed costs or looks at a waiting gang are taken to be as long as
/// one decision over a service.
const LIGHT: usize = 8;

/// Decides for everything that is marked or due. Some of it may be left for the next call, so that
/// none takes long: see [`Model::has_marks`].
pub fn decide(model: &mut Model, now: Timestamp) -> Decisions {
    let mut call = Call {
        now,
        left: model.slice,
        admissions: BTreeMap::new(),
        decided: BTreeSet::new(),
        decisions: Decisions::default(),
    };
    if model.marks.are_timers_due {
        // what events have named since does not wait for the timers that the last call left
        call.decide_named(model);
    }
    let due = mark_due(model, now);
    call.left = call.left.saturating_sub(due / LIGHT).max(1);
    call.decide_named(model);
    call.evaluate_deferred(model);
    call.decide_services(model);
    // the room that gangs find is known once all costs are
    let marks = &model.marks;
    if marks.slices.is_empty() && marks.first_deferred().is_none() && !marks.are_timers_due {
        call.decide_queues(model);
    }
    call.end(model)
}

/// Marks what is due, and what depends on the classes of nodes, or on gateways of which it has
/// changed whether they are heard. Returns how much was due.
fn mark_due(model: &mut Model, now: Timestamp) -> usize {
    let due = model.timers.due(now, model.slice * LIGHT);
    let number = due.len();
    for subject in due {
        model.mark(subject, now);
    }
    model.marks.are_timers_due = model.timers.are_due(now);
    if model.rates.take_changed_classes() {
        model.mark_all();
    }
    if let Some(change) = model.gateways.settle(now) {
        model.note_held(change.services, now);
        if change.all {
            model.marks.in_slices(model.services.keys().cloned());
        }
        model.timers.set(TimerKey::Gateways, change.next);
    }
    number
}

/// One call of [`decide`].
struct Call {
    now: Timestamp,
    /// How many services may still be decided.
    left: usize,
    /// The namespaces that were looked at, with the money that they have left.
    admissions: BTreeMap<Name, BudgetAdmission>,
    /// The namespaces in which services were decided.
    decided: BTreeSet<Name>,
    decisions: Decisions,
}

impl Call {
    fn evaluate_budgets(&mut self, model: &mut Model, name: &Name) -> BudgetAdmission {
        evaluate_budgets(model, name, self.now, &mut self.decisions)
    }

    /// Computes the cost of what is marked in a namespace, and looks at its budgets.
    fn evaluate_namespace(&mut self, model: &mut Model, name: &Name) {
        let refreshed = refresh_marked(model, name, self.now);
        self.left = self.left.saturating_sub(refreshed / LIGHT);
        let mut admission = self.evaluate_budgets(model, name);
        let mut budget_states = admission.budget_states().iter();
        if budget_states.any(|budget_state| budget_state.is_exhausted())
            && model.marks.queues.remove(name)
        {
            // what is suspended for money takes nobody's room, and waits for nobody
            let mut admissions = BTreeMap::from([(name.clone(), admission)]);
            decide_queues(model, &mut admissions, self.now, &mut self.decisions);
            admission = self.evaluate_budgets(model, name);
        }
        self.admissions.insert(name.clone(), admission);
    }

    /// Looks at what events have named since the last call, and decides services where budgets stop
    /// something, then there: neither waits for what is deferred.
    fn decide_named(&mut self, model: &mut Model) {
        let uids = std::mem::take(&mut model.marks.pods);
        for uid in &uids {
            model.refresh_other(uid, self.now);
        }
        let names = self.evaluate_named(model);
        for uid in uids {
            if model.awaits_budgets(&uid, self.now) {
                // they may have money for it by now
                model.marks.pods.insert(uid);
            } else {
                evictions::plan(model, &uid, self.now, &mut self.decisions);
            }
        }
        let marked = |name: &Name| model.marks.slices.contains_key(name);
        let names = names.into_iter().filter(marked);
        let names = model.marks.stops.iter().cloned().chain(names).collect();
        self.decide_in(model, names);
    }

    /// Looks at the namespaces in which events have named something since the last call, until the
    /// slice is full, and defers the others. Returns those that it looked at.
    fn evaluate_named(&mut self, model: &mut Model) -> Vec<Name> {
        let mut names = Vec::new();
        while let Some(name) = model.marks.first_named() {
            if self.left == 0 {
                model.marks.defer();
                break;
            }
            self.evaluate_namespace(model, &name);
            names.push(name);
        }
        names
    }

    /// Looks at the namespaces in which something is deferred, until the slice is full.
    fn evaluate_deferred(&mut self, model: &mut Model) {
        while self.left > 0
            && let Some(name) = model.marks.first_deferred()
        {
            self.evaluate_namespace(model, &name);
        }
    }

    /// Decides services wherever some are marked.
    fn decide_services(&mut self, model: &mut Model) {
        let marks = &model.marks;
        let names = marks.stops.iter().chain(&marks.named);
        let names = names.chain(marks.slices.keys()).cloned().collect();
        self.decide_in(model, names);
    }

    /// Decides services of one namespace after the other, each once, until the slice is full.
    fn decide_in(&mut self, model: &mut Model, names: Vec<Name>) {
        for name in names {
            if self.left == 0 {
                break;
            }
            if self.decided.insert(name.clone()) {
                self.decide_slice(model, &name);
            }
        }
    }

    fn decide_slice(&mut self, model: &mut Model, name: &Name) {
        if !self.admissions.contains_key(name) {
            self.evaluate_namespace(model, name);
        }
        let Some(admission) = self.admissions.get_mut(name) else {
            return;
        };
        let marked = model.marks.slices.remove(name).unwrap_or_default();
        let most = self.left.max(1);
        let decisions = &mut self.decisions;
        let (number, rest) =
            decide_services(model, name, marked, most, admission, self.now, decisions);
        self.left = self.left.saturating_sub(number.max(1));
        let is_last = rest.is_empty();
        model.marks.in_slices(rest);
        if number > 0 {
            // what was decided first did not know what was freed or used up afterwards
            let admission = self.evaluate_budgets(model, name);
            self.admissions.insert(name.clone(), admission);
        }
        if is_last {
            let again = take_in(&mut model.marks.again, name);
            if !model.marks.slices.contains_key(name) {
                model.marks.stops.remove(name);
                model.marks.named.remove(name);
            }
            if !again.is_empty() {
                model.marks.named.insert(name.clone());
                model.marks.in_slices(again);
            }
        }
    }

    /// Decides queues that are marked or whose gangs now find the room that they wait for, and these again.
    /// All of them are decided together: who goes first depends neither on whose event made room nor on where
    /// a call ends.
    fn decide_queues(&mut self, model: &mut Model) {
        loop {
            model.capacity.settle();
            let mut changed = model.capacity.take_changed_queues();
            changed.extend(without_kept_room(model));
            // what was decided takes no room where no order is given
            changed.retain(|name| !model.is_observe_only(name));
            model.marks.queues.extend(changed);
            if model.marks.queues.is_empty() {
                // who finds no room is known once nothing is left to be decided
                // a gang gives way for want of room only where it is known that no node comes
                let may_preempt = !model.has_marks() && !model.awaits_node_start;
                if !may_preempt || !preempt(model, self.now) {
                    return;
                }
                continue;
            }
            // money that became free belongs to services first
            if self.left == 0 || !model.marks.slices.is_empty() {
                return;
            }
            if !model.awaits_node_start {
                preempt_for_replicas(model, self.now);
            }
            let names = std::mem::take(&mut model.marks.queues);
            let reviewed = names
                .iter()
                .map(|name| (name.clone(), self.evaluate_budgets(model, name)));
            let mut admissions: BTreeMap<Name, BudgetAdmission> = reviewed.collect();
            let jobs = decide_queues(model, &mut admissions, self.now, &mut self.decisions);
            self.left = self.left.saturating_sub(names.len() + jobs / LIGHT);
            for name in names {
                let admission = self.evaluate_budgets(model, &name);
                self.admissions.insert(name, admission);
            }
        }
    }

    /// Adds where budgets stand, and forgets namespaces of which nothing is left.
    fn end(mut self, model: &mut Model) -> Decisions {
        for name in self.admissions.into_keys() {
            let Some(namespace) = model.namespaces.get(&name) else {
                continue;
            };
            for (budget, state) in &namespace.budgets {
                let key = Key {
                    namespace: name.clone(),
                    name: budget.clone(),
                };
                let budget_state = state.budget_state.clone();
                let budget_state = budget_state.map(|budget_state| (key, budget_state));
                self.decisions.budgets.extend(budget_state);
            }
            if namespace.is_gone() {
                model.namespaces.remove(&name);
            }
            self.decisions.namespaces.insert(name);
        }
        self.decisions
    }
}

/// The namespaces of gangs whose room was kept until they start again, and is not there any more.
fn without_kept_room(model: &mut Model) -> BTreeSet<Name> {
    let owners = model.capacity.take_newly_missing().into_iter();
    let gangs = owners.filter_map(|owner| match owner {
        ReservationOwner::Workload(key, Owner::Job(..)) => Some(key),
        _ => None,
    });
    let keeps_reservation = |key: &Key| {
        let state = model.jobs.get(key);
        state.is_some_and(|state| state.reservation_kept_since.is_some())
    };
    let without = gangs.filter(keeps_reservation);
    without.map(|key| key.namespace).collect()
}
