//! Looks at a namespace: what its workloads cost, where its budgets stand, and whom that concerns.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::budget::{BudgetAdmission, BudgetState};
use crate::model::claim::Workload;
use crate::model::event::{Key, Name};
use crate::model::namespace::NamespaceState;
use crate::model::state::Model;
use crate::model::timers::TimerKey;
use crate::money::Money;
use crate::plan::budget_preemption::{Shares, share};
use crate::plan::budget_timers;
use crate::plan::decisions::Decisions;
use crate::plan::evictions;

/// While something is limited by a budget, its namespace is looked at again after this long: what
/// pods that are stopping may still cost becomes less with time.
const LIMITED_PACE: SignedDuration = SignedDuration::from_secs(10);
/// While money is spent, the figures of budgets are computed anew after this long.
const SPENDING_PACE: SignedDuration = SignedDuration::from_secs(30);
/// Nothing is decided more often by time alone.
const SOONEST: SignedDuration = SignedDuration::from_millis(100);

/// Computes anew what marked workloads of a namespace cost, and marks the services among them to be
/// decided. Returns how many costs were computed.
pub(super) fn refresh_marked(model: &mut Model, name: &Name, now: Timestamp) -> usize {
    let (named, named_jobs) = model.marks.take_named(name);
    if !named.is_empty() {
        model.marks.named.insert(name.clone());
    }
    let (mut services, mut jobs) = (Vec::new(), Vec::new());
    let mut others: Vec<Name> = Vec::new();
    if model.marks.costs.remove(name) {
        services = Model::keys_in(&model.services, name);
        jobs = Model::keys_in(&model.jobs, name);
        others = model.unowned_in(name);
        if !jobs.is_empty() {
            model.marks.queues.insert(name.clone());
        }
    } else {
        services.extend(named.iter().cloned());
        jobs.extend(named_jobs);
    }
    if model.is_observe_only(name) && !named.is_empty() {
        // money is given once to each of them only where they are decided together
        let all = Model::keys_in(&model.services, name);
        model.marks.in_slices(all);
    }
    model.marks.in_slices(named);
    for key in &services {
        if let Some(state) = model.services.get_mut(key) {
            state.expire_orders(now);
        }
        model.refresh_service(key, now);
    }
    for key in &jobs {
        if let Some(state) = model.jobs.get_mut(key) {
            state.confirm_order();
            state.expire_order(now);
        }
        model.refresh_job(key, now);
    }
    for uid in &others {
        model.refresh_other(uid, now);
    }
    services.len() + jobs.len() + others.len()
}

/// Finds out where the budgets of a namespace stand, and marks the workloads that this concerns.
/// Returns the money that is left.
pub(super) fn evaluate_budgets(
    model: &mut Model,
    name: &Name,
    now: Timestamp,
    decisions: &mut Decisions,
) -> BudgetAdmission {
    let zone = model.zone.clone();
    let is_observe_only = model.is_observe_only(name);
    let grace = model.change_grace;
    let is_repriced = model.repriced.remove(name);
    let namespace = model.namespace_mut(name);
    if is_repriced {
        namespace.note_price_edit(now, grace);
    }
    namespace.defer_stops_by_prices(now, &zone);
    let mut budget_states = namespace.budget_states(now, &zone);
    let running = namespace.running(now);
    evictions::evaluate(model, name, &mut budget_states, now, decisions);
    let namespace = model.namespace_mut(name);
    // while slices are left, it does not depend on which services have been decided
    let withdrawn = if namespace.partial_pass.is_some() {
        namespace.withdrawn.clone()
    } else if is_observe_only {
        BTreeMap::new()
    } else {
        withdrawals(model, name, &budget_states)
    };
    let namespace = model.namespace_mut(name);
    let totals = &namespace.totals;
    let (priorities, leaving) = (totals.priorities(), totals.leaving(now));
    let states = budget_states.clone();
    let admission = BudgetAdmission::new(states, running, priorities, leaving, now);
    let admission = match &namespace.partial_pass {
        Some(round) => admission.continuing(&round.admission, round.ran),
        None => admission,
    };
    let shares = if is_observe_only {
        Shares::default()
    } else if namespace.partial_pass.is_some() {
        Shares {
            kept: namespace.kept.clone(),
            preempted: namespace.preempted.clone(),
            left: namespace.kept_left.clone(),
        }
    } else {
        share(model, name, &admission, now)
    };
    let namespace = model.namespace_mut(name);
    note_latches(name, namespace, &budget_states, now, decisions);
    let caps = NamespaceState::caps(&budget_states);
    let (mut concerned, mut stops) = (BTreeSet::new(), false);
    let mut concerns_queue;
    if caps == namespace.caps && is_observe_only {
        // nobody gets what was decided, so what others were refused is always there again
        concerns_queue = false;
    } else if caps == namespace.caps {
        if namespace.partial_pass.is_none() {
            concerned = namespace.changed_admissions(&admission);
        }
        concerns_queue = namespace.has_changed_answer(&admission);
    } else {
        // a budget has opened, closed or become unknown: all that it counts depends on it
        stops = caps
            .iter()
            .any(|cap| cap.stops_something() && !namespace.caps.contains(cap));
        namespace.caps = caps;
        concerned.extend(namespace.services.values().flatten().cloned());
        concerns_queue = !namespace.jobs.is_empty();
    }
    let before = std::mem::replace(&mut namespace.withdrawn, withdrawn);
    let after = &namespace.withdrawn;
    let changed = before.keys().chain(after.keys());
    let changed = changed.filter(|key| before.get(*key) != after.get(*key));
    concerned.extend(changed.cloned());
    if namespace.kept != shares.kept {
        // whoever asks for money may get another answer
        concerned.extend(namespace.services.values().flatten().cloned());
        concerns_queue |= !namespace.jobs.is_empty();
    } else if namespace.preempted != shares.preempted {
        // what gives way leaves, so money that was kept may be there beside what others wait for
        let waiting = namespace.claims.keys().map(|rank| &rank.workload);
        concerned.extend(waiting.filter_map(|workload| service_key(name, workload)));
        let (before, after) = (&namespace.preempted, &shares.preempted);
        let changed = before.keys().chain(after.keys());
        for workload in changed.filter(|workload| before.get(*workload) != after.get(*workload)) {
            match service_key(name, workload) {
                Some(service) => drop(concerned.insert(service)),
                None => concerns_queue = true,
            }
        }
    }
    (namespace.kept, namespace.preempted) = (shares.kept, shares.preempted);
    namespace.kept_left = shares.left;
    let look = requeue_at(namespace, &admission, now, &zone);
    model.marks.in_slices(concerned);
    if concerns_queue {
        model.marks.queues.insert(name.clone());
    }
    if stops {
        model.marks.stops.insert(name.clone());
    }
    model.timers.set(TimerKey::Budgets(name.clone()), look);
    model.marks.clear_budgets(name);
    admission
}

/// The service that a workload of this namespace is, if it is one.
fn service_key(namespace: &Name, workload: &Workload) -> Option<Key> {
    match workload {
        Workload::Service(service) => Some(Key {
            namespace: namespace.clone(),
            name: service.clone(),
        }),
        Workload::Job(_) => None,
    }
}

/// What has no node yet and is taken back, since it costs nothing before it has one: a budget must
/// be able to stop all that it lets start. What no pod came of goes first, then the lowest priority
/// and within it the youngest service.
fn withdrawals(model: &Model, name: &Name, budget_states: &[BudgetState]) -> BTreeMap<Key, u32> {
    let mut services = BTreeMap::new();
    let Some(namespace) = model.namespaces.get(name) else {
        return services;
    };
    let without_node = namespace.totals.without_node();
    let missing = budget_states.iter();
    let missing = missing.filter_map(|budget_state| budget_state.missing_for(without_node));
    let Some(mut missing) = missing.max() else {
        return services;
    };
    let keys = Model::keys_in(&model.services, name).into_iter();
    let replicas = keys.flat_map(|key| {
        let state = model.services.get(&key);
        let known =
            state.and_then(|state| Some((state, state.running_cost?, state.spec.as_ref()?)));
        let Some((state, running_cost, spec)) = known else {
            return vec![];
        };
        let order = (spec.priority, Reverse(spec.created), Reverse(key));
        let numbers = [(false, state.given_up), (true, state.starting)];
        let numbers = numbers.into_iter().filter(|(_, number)| *number > 0);
        let replicas = numbers
            .map(|(starts, number)| ((starts, order.clone()), number, running_cost.reserve()));
        replicas.collect()
    });
    let mut replicas: Vec<_> = replicas.collect();
    replicas.sort();
    for ((_, (_, _, Reverse(key))), number, reserve) in replicas {
        let mut taken = 0;
        while taken < number && missing > Money::ZERO {
            missing = missing - reserve;
            taken += 1;
        }
        if taken > 0 {
            *services.entry(key).or_default() += taken;
        }
    }
    services
}

fn note_latches(
    name: &Name,
    namespace: &mut NamespaceState,
    budget_states: &[BudgetState],
    now: Timestamp,
    decisions: &mut Decisions,
) {
    for ((budget, state), budget_state) in namespace.budgets.iter_mut().zip(budget_states) {
        if state.latch() != budget_state.budget.latch {
            let key = Key {
                namespace: name.clone(),
                name: budget.clone(),
            };
            decisions.latches.push((key, budget_state.budget.latch));
        }
        let stops = [budget_state.exhausted_at, budget_state.stops_at(now)];
        state.stops_at = stops.into_iter().flatten().min();
        state.budget_state = Some(budget_state.clone());
    }
}

/// When budgets may stand elsewhere though nothing happens.
fn requeue_at(
    namespace: &NamespaceState,
    admission: &BudgetAdmission,
    now: Timestamp,
    zone: &TimeZone,
) -> Option<Timestamp> {
    let later = |by: SignedDuration| now.saturating_add(by).unwrap_or(now);
    let budget_states = admission.budget_states().iter();
    let exhausted = budget_states.clone();
    let exhausted = exhausted.flat_map(|budget_state| {
        let each = [budget_state.exhausted_at, budget_state.stops_at(now)];
        each.into_iter().flatten()
    });
    let without_node = namespace.totals.without_node();
    let missing = budget_states.clone();
    let missing = missing.filter_map(|budget_state| budget_state.missing_at(without_node, now));
    let look = exhausted.chain(missing);
    let look = look.map(|at| at.max(later(SOONEST))).min();
    let ends = budget_states.map(|budget_state| budget_state.period.end);
    let due = budget_timers::next_correction(namespace, now, zone);
    let terms = namespace.next_terms();
    let due = due.into_iter().chain(terms).min();
    let changes = budget_timers::next_change(namespace, admission, now);
    let look = look.into_iter().chain(ends).chain(due).chain(changes).min();
    let pace = namespace.is_limited().then(|| later(LIMITED_PACE));
    let figures = namespace
        .spending
        .is_growing()
        .then(|| later(SPENDING_PACE));
    look.into_iter().chain(pace).chain(figures).min()
}
