//! Decides how many replicas a service has, and which of them go.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::budget::{BudgetAdmission, RunningCost};
use crate::drain::{self, DrainInput, RolloutState};
use crate::limit::LimitedBy;
use crate::model::claim::{BudgetRank, Part, Workload, kept_before};
use crate::model::draining::{drain_replicas, is_replica, shown_replicas};
use crate::model::event::{Key, Name, Pod};
use crate::model::growth;
use crate::model::namespace::{Admission, PartialPass};
use crate::model::replica_pods::{start_failures, workers_by_leader};
use crate::model::service::{self, EngineDemand, Ordered, Replica, ServiceState};
use crate::model::signals::SignalSources;
use crate::model::state::{Model, PodState, count};
use crate::model::timers::TimerKey;
use crate::plan::decisions::{Decisions, ServiceOrder};
use crate::plan::service::{
    Allotment, Decision, apply_pause, apply_preemption, limit_scale_down, payable, wait_for_price,
    withdraw_unpaid,
};
use crate::pod_set::PodSet;
use crate::scaling::{
    DEFAULT_WINDOW, DemandForecast, GrowthRule, History, ReplicaLog, RequestSignal, Service,
    Signal, Start, StuckRollout, recommend,
};

/// What of a service is decided next.
enum Step {
    /// What it asks for.
    Observe(Key),
    /// Its further replicas: the first ones are paid for, as far as budgets do.
    Grow(Box<UndecidedService>),
}

/// Decides over these services of one namespace, whose costs have been computed anew, and over
/// `most` at most. Money is given in the order of ranks: all first replicas of a priority before its
/// further ones, whichever service asks for them. Returns how many were looked at, and those that
/// are left.
pub(super) fn decide_services(
    model: &mut Model,
    namespace: &Name,
    marked: BTreeSet<Key>,
    most: usize,
    admission: &mut BudgetAdmission,
    now: Timestamp,
    decisions: &mut Decisions,
) -> (usize, Vec<Key>) {
    let known = model.namespace_mut(namespace);
    let round = known.partial_pass.take();
    let mut kept = round.map_or_else(|| known.kept.clone(), |round| round.kept);
    let ranks = marked.into_iter().map(|key| {
        let rank = next_rank(model, &key, now);
        (rank, Step::Observe(key))
    });
    let mut steps: BTreeMap<BudgetRank, Step> = ranks.collect();
    let mut number = 0;
    while let Some(entry) = steps.first_entry() {
        if number == most && matches!(entry.get(), Step::Observe(_)) {
            break;
        }
        let (mut rank, step) = entry.remove_entry();
        let mut undecided = match step {
            Step::Grow(undecided) => *undecided,
            Step::Observe(key) => {
                number += 1;
                let Some(mut undecided) = observe(model, &key, admission, now) else {
                    continue;
                };
                let first = undecided.rank(Part::First);
                pay(model, &mut undecided, &first, &mut kept, admission, now);
                undecided
            }
        };
        match rank.part {
            Part::First => {
                rank.part = Part::Further;
                steps.insert(rank, Step::Grow(Box::new(undecided)));
            }
            Part::Further => {
                pay(model, &mut undecided, &rank, &mut kept, admission, now);
                decide_service(model, undecided, admission, now, decisions);
            }
        }
    }
    let left = steps.into_values().map(|step| match step {
        Step::Observe(key) => key,
        Step::Grow(undecided) => {
            // its further replicas come after what is left
            if let Some(state) = model.services.get_mut(&undecided.key) {
                state.first_paid = Some(undecided.allotment.newly_paid());
            }
            undecided.key
        }
    });
    let left: Vec<Key> = left.collect();
    if !left.is_empty() {
        let known = model.namespace_mut(namespace);
        known.partial_pass = Some(PartialPass {
            admission: admission.clone(),
            ran: known.running(now),
            kept,
        });
    }
    (number, left)
}

/// Pays for what a service asks for at this rank.
fn pay(
    model: &Model,
    undecided: &mut UndecidedService,
    rank: &BudgetRank,
    kept: &mut BTreeMap<BudgetRank, Vec<(RunningCost, u32)>>,
    admission: &mut BudgetAdmission,
    now: Timestamp,
) {
    let UndecidedService { key, allotment, .. } = undecided;
    let ahead = kept_before(kept, rank);
    // what leaves may have given way to those: it does not come back before it is gone
    if ahead.is_empty() || !is_leaving(model, key, now) {
        allotment.pay(rank.part, &ahead, admission);
    } else {
        allotment.wait(rank.part);
    }
    if allotment.missing(rank.part) == 0 {
        kept.remove(rank);
    }
}

/// The place of what a service has not got yet in the order in which money is given.
fn next_rank(model: &Model, key: &Key, now: Timestamp) -> BudgetRank {
    let workload = Workload::Service(key.name.clone());
    let state = model.services.get(key);
    let Some((state, spec)) = state.and_then(|state| Some((state, state.spec.as_ref()?))) else {
        return BudgetRank::new(0, Part::Further, 0, now, workload);
    };
    let non_draining = drain::non_draining(state.declared(), &model.drain_replicas(state, now));
    let part =
        if non_draining < spec.bounds(&model.zone, now).min.max(1) && state.first_paid.is_none() {
            Part::First
        } else {
            Part::Further
        };
    BudgetRank::new(spec.priority, part, spec.weight, spec.created, workload)
}

/// A service, what it asks for, and what budgets leave of it.
struct UndecidedService {
    key: Key,
    created: Timestamp,
    weight: u32,
    allotment: Allotment,
    requeue_at: Option<Timestamp>,
}

impl UndecidedService {
    /// The place of one part of it in the order in which money is given.
    fn rank(&self, part: Part) -> BudgetRank {
        let workload = Workload::Service(self.key.name.clone());
        let priority = self.allotment.priority();
        BudgetRank::new(priority, part, self.weight, self.created, workload)
    }
}

/// Whether a replica of a service was told to leave and is still there.
fn is_leaving(model: &Model, key: &Key, now: Timestamp) -> bool {
    let Some(state) = model.services.get(key) else {
        return false;
    };
    let replicas = model.drain_replicas(state, now);
    replicas.iter().any(|pod| pod.draining_since.is_some())
}

/// What a service asks for; `None` for one that is gone.
fn observe(
    model: &mut Model,
    key: &Key,
    admission: &BudgetAdmission,
    now: Timestamp,
) -> Option<UndecidedService> {
    let observed = observe_service(model, key, now);
    let state = model.services.get(key);
    let first_paid = state.and_then(|state| state.first_paid).unwrap_or(0);
    let spec = state.and_then(|state| state.spec.as_ref());
    let Some(((service, next), spec)) = observed.zip(spec) else {
        model.set_claims(key, vec![]);
        let state = model.services.get(key);
        let look = state.and_then(|state| state.cost_changes_at);
        if state.is_some_and(ServiceState::is_gone) {
            model.services.remove(key);
        }
        model.timers.set(TimerKey::Service(key.clone()), look);
        return None;
    };
    let recommendation = recommend(&service, now);
    Some(UndecidedService {
        key: key.clone(),
        created: spec.created,
        weight: spec.weight,
        requeue_at: next.into_iter().chain(recommendation.requeue_at).min(),
        allotment: Allotment::new(service, recommendation, first_paid, admission),
    })
}

/// Decides over one service, for whose replicas as much has been paid as budgets do.
fn decide_service(
    model: &mut Model,
    undecided: UndecidedService,
    admission: &BudgetAdmission,
    now: Timestamp,
    decisions: &mut Decisions,
) {
    // nobody waits for money where nothing is changed
    let is_observe_only = model.is_observe_only(&undecided.key.namespace);
    let claims = [Part::First, Part::Further].map(|part| {
        let claim = undecided
            .allotment
            .claim(part)
            .filter(|_| !is_observe_only)?;
        Some((undecided.rank(part), claim))
    });
    let UndecidedService {
        key,
        allotment,
        requeue_at: mut next,
        ..
    } = undecided;
    let key = &key;
    model.set_claims(key, claims.into_iter().flatten().collect());
    let newly_paid = allotment.newly_paid();
    let (service, decision) = allotment.decide(admission, now);
    let namespace = model.namespaces.get(&key.namespace);
    let unpaid = namespace.and_then(|namespace| namespace.withdrawn.get(key));
    let unpaid = unpaid.copied().unwrap_or(0);
    let decision = withdraw_unpaid(decision, &service, unpaid, admission, now);
    let workload = Workload::Service(key.name.clone());
    let preemption = namespace.and_then(|namespace| namespace.preempted.get(&workload));
    // what there is no money for leaves at once, though demand would take it away as well
    let mut payable = payable(&service, unpaid, preemption, admission);
    let mut decision = apply_preemption(decision, &service, preemption);
    if let Some(scope) = model.paused_by(&key.namespace) {
        decision = apply_pause(decision, &service, scope);
        payable = service.current;
    }
    let held = model.gateways.held(key);
    let next_cost = service.cost_of_next(newly_paid);
    let admits = Admission::of(admission, next_cost);
    let Some(state) = model.services.get_mut(key) else {
        return;
    };
    state.first_paid = None;
    let unknown_since = state.unknown_since.unwrap_or(now);
    state.unknown_since = (admits == Admission::Unknown).then_some(unknown_since);
    if let Some(since) = state.unknown_since {
        let until;
        (decision, until) = wait_for_price(decision, since, now);
        next = next.into_iter().chain(until).min();
    }
    let (floor, floor_falls) = state.scale_down_limit.floor(service.current, now);
    let floor = floor.min(service.bounds.max).min(payable);
    let is_for_demand = !is_for_money(&decision) && payable >= service.current;
    if !is_for_money(&decision) && decision.allowed < floor {
        decision = limit_scale_down(decision, floor);
        next = next.into_iter().chain(floor_falls).min();
    }
    let history = state.history.get_or_insert_with(History::default);
    let windows = (service.window, service.behavior.scale_up_window());
    match service.holds(decision.recommended, now) {
        true => history.pause(now),
        false => history.record(decision.recommended, windows, now),
    }
    let is_burst = (service.behavior).is_burst(decision.recommended, service.current);
    state.burst = match is_burst {
        true => Some((now, true)),
        false => state.burst.map(|(until, _)| (until, false)),
    };
    let pods = state
        .pods
        .iter()
        .filter_map(|uid| model.pods.get_key_value(uid));
    let input = DrainInput {
        replicas: state.declared(),
        allowed: decision.allowed,
        pods: drain_replicas(state, pods, now),
        rollout: match (&service.rollout, &state.rollout) {
            (Some(_), _) => RolloutState::Stuck,
            (None, Some(_)) => RolloutState::Moving,
            (None, None) => RolloutState::None,
        },
        budget: !is_for_demand,
        timeout: state
            .spec
            .as_ref()
            .map(|spec| spec.drain_timeout)
            .unwrap_or_default(),
    };
    let mut steps = drain::steps(&input, now);
    let is_new = |uid: &String| !state.marked_for_deletion.contains_key(uid.as_str());
    let is_shown = |uid: &String| {
        model
            .pods
            .get(uid.as_str())
            .is_some_and(|found| found.pod.marked_for_deletion)
    };
    let names = |uids: &[String]| uids.iter().map(|uid| uid.as_str().into()).collect();
    let is_to_mark = |uid: &String| is_new(uid) && !is_shown(uid);
    let marks = !steps.drain.is_empty() || steps.remove.iter().any(is_to_mark);
    let gives_up_at = |since: Option<Timestamp>| {
        let since = since.filter(|_| input.budget)?;
        Some(drain::gives_up_at(since, input.timeout))
    };
    if marks && gives_up_at(state.unmarked_since).is_some_and(|at| at <= now) {
        steps = steps.without_marks();
    }
    let removed = steps.remove.iter().filter(|uid| is_to_mark(uid));
    let removed: Vec<String> = removed.cloned().collect();
    next = next.into_iter().chain(steps.requeue_at).min();
    let takes_away = steps.replicas < input.replicas || !steps.drain.is_empty();
    let order = ServiceOrder {
        service: key.clone(),
        drain: names(&steps.drain),
        keep: names(&steps.keep),
        remove: names(&removed),
        replicas: (input.replicas, steps.replicas),
        reason: decision.reason.clone(),
        held_since: held
            .since
            .filter(|_| input.replicas == 0 && steps.replicas > 0),
        after_latch: input.budget && takes_away,
    };
    let is_missing = state.deployment.is_none() && state.ordered.is_none();
    let changes = order.replicas.0 != order.replicas.1 || is_missing;
    let moves_pods = !(order.drain.is_empty() && order.keep.is_empty() && order.remove.is_empty());
    let is_order = (changes || moves_pods) && !is_observe_only;
    if is_order {
        note_order(state, &order, changes, now);
    }
    let waits_for_marks = marks && !is_observe_only || state.awaits_marks();
    let unmarked_since = state.unmarked_since.unwrap_or(now);
    state.unmarked_since = waits_for_marks.then_some(unmarked_since);
    let gives_up_at = gives_up_at(state.unmarked_since).filter(|at| *at > now);
    next = next.into_iter().chain(gives_up_at).min();
    if is_order {
        if is_for_demand {
            let pods = state.pods.iter();
            let pods = pods.filter_map(|uid| model.pods.get_key_value(uid));
            let non_draining =
                drain::non_draining(state.declared(), &drain_replicas(state, pods, now));
            state
                .scale_down_limit
                .note(service.current.saturating_sub(non_draining), now);
        }
        if order.replicas.1 > order.replicas.0 {
            state.last_active = state.last_active.max(Some(now));
        }
    }
    let later = [state.orders_expire(), state.cost_changes_at];
    next = next.into_iter().chain(later.into_iter().flatten()).min();
    if is_order {
        decisions.service_orders.push(order);
    }
    if state.decision.as_ref() != Some(&decision) {
        decisions.services.push((key.clone(), decision.clone()));
        state.decision = Some(decision);
    }
    model.timers.set(TimerKey::Service(key.clone()), next);
    if is_order {
        // an order changes what the next decision reads, as the object that shows it will
        model.refresh_service(key, now);
        model.marks.again.insert(key.clone());
    }
    model.note_admission(key, Some((next_cost, admits)));
}

/// Whether a budget or a workload of higher priority takes replicas away.
fn is_for_money(decision: &Decision) -> bool {
    matches!(
        decision.limited_by,
        Some(LimitedBy::Budget | LimitedBy::Preempted)
    )
}

/// Remembers an order until the objects show it. `scales` if the Deployment is told something.
fn note_order(state: &mut ServiceState, order: &ServiceOrder, scales: bool, now: Timestamp) {
    if scales {
        state.ordered = Some(Ordered {
            value: order.replicas.1,
            at: now,
        });
    }
    for (uids, value) in [(&order.drain, true), (&order.keep, false)] {
        for uid in uids {
            let ordered = Ordered { value, at: now };
            state.draining.insert(uid.clone(), ordered);
            if !value {
                state.marked_for_deletion.remove(uid);
            }
        }
    }
    for uid in &order.remove {
        let ordered = Ordered { value: (), at: now };
        state.marked_for_deletion.insert(uid.clone(), ordered);
    }
}

/// Whether this one of the replicas is leaving.
fn drains(replicas: &[drain::Replica], uid: &Name) -> bool {
    let mut replicas = replicas.iter();
    replicas.any(|pod| *pod.uid == **uid && pod.draining_since.is_some())
}

/// Everything that a decision over a service reads, and when it changes with time.
fn observe_service(
    model: &mut Model,
    key: &Key,
    now: Timestamp,
) -> Option<(Service, Option<Timestamp>)> {
    let held = model.gateways.held(key);
    let unreachable_gateway = model.gateways.unreachable().map(str::to_owned);
    let zone = model.zone.clone();
    let state = model.services.get_mut(key)?;
    let (takes_requests, reads_engines) = (state.takes_requests(), state.reads_engines());
    let unreachable_gateway = unreachable_gateway.filter(|_| takes_requests);
    state.spec.as_ref()?;
    let pods: Vec<(&Name, &PodState)> = state
        .pods
        .iter()
        .filter_map(|uid| model.pods.get_key_value(uid))
        .collect();
    let replicas = drain_replicas(state, pods.iter().copied(), now);
    let declared = state.declared();
    let current = drain::non_draining(declared, &replicas);
    let decided = state.decision.as_ref().map_or(0, |last| last.allowed);
    let non_draining = replicas.iter().filter(|pod| pod.draining_since.is_none());
    // those of several pods are what their leaders are
    let leads = |pod: &Pod| pod.leader.is_none() && is_replica(pod);
    let alive: Vec<Replica<'_>> = pods
        .iter()
        .filter(|(_, found)| leads(&found.pod))
        .map(|(uid, found)| (*uid, &*found.pod, &found.engine))
        .collect();
    let with_pod = count(non_draining.count()).min(current);
    let unready: Vec<Replica<'_>> = alive
        .iter()
        .filter(|(uid, _, _)| !drains(&replicas, uid))
        .copied()
        .collect();
    let deployment = state.deployment.as_ref();
    let creation_failure = deployment.and_then(|found| found.creation_failure.as_ref());
    let without_pod = state.without_pod.replicas();
    let coming = match creation_failure {
        Some(_) => state.without_pod.kept(now),
        None => without_pod,
    };
    let (starting_since, next_fails) = service::starting_since(&unready, coming, now);
    let start_ends = state.starts.observe(starting_since, now);
    let start_patience = state.starts.start_timeout();
    let demand = match reads_engines {
        true => service::engine_demand(&alive, now),
        false => EngineDemand::none(),
    };
    let workers = workers_by_leader(state, &model.pods);
    let failures = start_failures(&alive, &workers);
    let creation_failure = creation_failure.filter(|_| without_pod > 0);
    let (start_failure, fails_at) =
        service::start_failure(alive.len(), &failures, creation_failure, now);
    let progress = state.rollout.as_mut();
    let why_stuck = progress.map(|progress| progress.observe(&failures, now));
    let (why, rollout_changes) = why_stuck.unwrap_or_default();
    let broken = replicas.iter().filter(|replica| {
        let found = model.pods.get(replica.uid.as_str());
        let is_stuck_with = found
            .zip(state.rollout)
            .is_some_and(|(found, progress)| progress.is_stuck_with(&found.pod, now));
        replica.draining_since.is_none() && !replica.may_have_requests && is_stuck_with
    });
    let broken = count(broken.count()).saturating_add(state.without_pod.given_up(now));
    let rollout = why.map(|why| StuckRollout { why, broken });
    let sources = SignalSources {
        replicas: &unready,
        current,
        at_gateways: held,
        unreachable_gateway: unreachable_gateway.as_deref(),
    };
    let (signals, signals_change) = state.measure_signals(&sources, now);
    let spec = state.spec.as_ref()?;
    let of_replica = |(uid, leader, _): &Replica<'_>| {
        let workers = workers.get(uid).into_iter().flatten();
        std::iter::once(*leader)
            .chain(workers.copied())
            .find_map(Pod::waits_for)
    };
    let waits_for = unready.iter().find_map(of_replica);
    let start = state.starts.expected();
    if let (Signal::Known(_) | Signal::Absent, None) = (&demand.signal, &unreachable_gateway) {
        let queue = demand.signal.at_least().saturating_add(held.requests);
        state.learned.observe(queue, start, now);
    }
    let forecast = match (spec.growth, spec.request_signal.target()) {
        (GrowthRule::Target, _) | (_, None) => None,
        (GrowthRule::Learned, Some(target)) => {
            // somebody else may have told the Deployment to have a billion
            let at_hand = current.min(spec.max.max(count(unready.len())));
            let ages = service::start_ages(&unready, growth::step(now));
            state.learned.forecast(target, start, at_hand, ages)
        }
    };
    let forecast_changes = match (spec.growth, spec.request_signal.target()) {
        (GrowthRule::Target, _) | (_, None) => None,
        (GrowthRule::Learned, Some(_)) => state.learned.changes_at(forecast.as_ref(), start, now),
    };
    let learned_window = forecast.as_ref().map(DemandForecast::window);
    let window = spec.behavior.scale_down.window;
    let window = window.or(learned_window).unwrap_or(DEFAULT_WINDOW);
    let bounds = spec.bounds(&zone, now);
    let bounds_change = bounds.changes_at;
    match spec.behavior.has_policies() {
        true => state.replica_log.observe(
            shown_replicas(state.deployment.as_ref(), &replicas, &model.pods),
            now,
        ),
        false => state.replica_log = ReplicaLog::default(),
    }
    // a burst that nothing ended has gone on until now, and none ends later
    state.burst = state
        .burst
        .map(|(until, goes_on)| (if goes_on { now } else { until.min(now) }, goes_on));
    if spec.request_signal == RequestSignal::AtGateways
        && state.last_active.is_none()
        && unreachable_gateway.is_none()
        && !alive.is_empty()
    {
        // gateways tell what happens from now on: what happened before is not known to be nothing
        state.last_active = Some(now);
    }
    let mut last_active = state.last_active.map(|at| at.min(now));
    let is_read = reads_engines && service::has_reading(&alive, now);
    if last_active.is_none() && !is_read {
        // nothing to read: what starts now has the whole idle time before it
        last_active = pods.iter().map(|(_, found)| found.pod.created).max();
    }
    // what a replica that is ready does before it is read is not known to be nothing
    let unread = alive
        .iter()
        .filter(|(_, _, engine)| reads_engines && engine.is_unread());
    last_active = last_active.max(unread.filter_map(|(_, pod, _)| pod.ready_since).max());
    let mut observed = Service {
        name: key.name.to_string(),
        bounds,
        request_signal: spec.request_signal,
        signals,
        behavior: spec.behavior.clone(),
        window,
        on_signal_failure: spec.on_signal_failure,
        demand_unknown_since: None,
        idle_after: spec.idle_after,
        paused: spec.paused.clone(),
        activation: spec.activation,
        engine: demand.signal,
        stalled: demand.stalled,
        held: held.requests,
        unreachable_gateway,
        last_active,
        current,
        decided: decided.min(declared),
        with_pod,
        start: start_ends.map(|ends| Start {
            ends,
            start_timeout: start_patience,
        }),
        waits_for,
        start_failure,
        rollout,
        forecast,
        forecast_changes,
        history: History::default(),
        replica_log: state.replica_log.clone(),
        last_burst: state.burst.map(|(until, _)| until),
        running_cost: state.running_cost?,
        recalled_costs: state.recalled_costs.clone(),
        replica: PodSet::default(),
    };
    let unknown_since = state
        .demand_unknown_since
        .map_or(now, |since| since.min(now));
    state.demand_unknown_since = observed.unknown().map(|_| unknown_since);
    observed.demand_unknown_since = state.demand_unknown_since;
    let history = state.history.get_or_insert_with(|| {
        let mut history = History::default();
        let windows = (window, observed.behavior.scale_up_window());
        history.record(current, windows, now);
        history
    });
    if observed.paused.is_none() && observed.demand_unknown_since.is_none() {
        history.resume(now);
    }
    observed.history.clone_from(history);
    let next = [
        demand.next,
        fails_at,
        next_fails,
        rollout_changes,
        bounds_change,
        signals_change,
    ];
    Some((observed, next.into_iter().flatten().min()))
}
