//! Decides how many replicas a service has, and which of them go.

use jiff::Timestamp;

use crate::budget::BudgetAdmission;
use crate::capacity::Gang;
use crate::drain::{self, DrainInput, RolloutState};
use crate::limit::LimitedBy;
use crate::model::cost::{drain_replicas, is_replica};
use crate::model::event::{Key, Name};
use crate::model::namespace::Admission;
use crate::model::service::{self, Ordered, Replica, ServiceState};
use crate::model::state::{Model, PodState, count};
use crate::model::timers::Subject;
use crate::plan::decisions::{Decisions, ServiceOrder};
use crate::plan::service::{pay, withdraw};
use crate::scaling::{History, Service, Start, StuckRollout, recommend};

/// Decides over one service, whose cost has been computed anew.
pub(super) fn decide_service(
    model: &mut Model,
    key: &Key,
    admission: &mut BudgetAdmission,
    now: Timestamp,
    decisions: &mut Decisions,
) {
    let Some((service, mut next)) = observe_service(model, key, now) else {
        let state = model.services.get(key);
        let look = state.and_then(|state| state.cost_changes_at);
        if state.is_some_and(ServiceState::is_gone) {
            model.services.remove(key);
        }
        model.timers.set(Subject::Service(key.clone()), look);
        return;
    };
    let recommendation = recommend(&service, now);
    next = next.into_iter().chain(recommendation.next_look).min();
    let decision = pay(&service, recommendation, admission, now);
    let namespace = model.namespaces.get(&key.namespace);
    let unpaid = namespace.and_then(|namespace| namespace.withdrawn.get(key));
    let decision = withdraw(
        decision,
        &service,
        unpaid.copied().unwrap_or(0),
        admission,
        now,
    );
    let held = model.gateways.held(key);
    let Some(state) = model.services.get_mut(key) else {
        return;
    };
    let history = state.history.get_or_insert_with(History::default);
    history.record(decision.asked, service.window, now);
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
        budget: decision.limited_by == Some(LimitedBy::Budget),
        timeout: state
            .spec
            .as_ref()
            .map(|spec| spec.drain_timeout)
            .unwrap_or_default(),
    };
    let steps = drain::steps(&input, now);
    next = next.into_iter().chain(steps.next_look).min();
    let is_new = |uid: &String| !state.released.contains_key(uid.as_str());
    let is_shown = |uid: &String| {
        model
            .pods
            .get(uid.as_str())
            .is_some_and(|found| found.pod.released)
    };
    let names = |uids: &[String]| uids.iter().map(|uid| uid.as_str().into()).collect();
    let removed: Vec<String> = steps
        .remove
        .iter()
        .filter(|uid| is_new(uid) && !is_shown(uid))
        .cloned()
        .collect();
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
    let is_order = (changes || moves_pods) && !model.observe_only;
    if is_order {
        note_order(state, &order, changes, now);
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
    model.timers.set(Subject::Service(key.clone()), next);
    if is_order {
        // an order changes what the next decision reads, as the object that shows it will
        model.refresh_service(key, now);
        model.marks.again.insert(key.clone());
    }
    model.note_admission(key, Admission::of(admission, service.load));
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
                state.released.remove(uid);
            }
        }
    }
    for uid in &order.remove {
        let ordered = Ordered { value: (), at: now };
        state.released.insert(uid.clone(), ordered);
    }
}

/// Whether this one of the replicas is leaving.
fn drains(replicas: &[drain::Replica], uid: &Name) -> bool {
    let mut replicas = replicas.iter();
    replicas.any(|pod| *pod.pod == **uid && pod.draining_since.is_some())
}

/// Everything that a decision over a service reads, and when it changes with time.
fn observe_service(
    model: &mut Model,
    key: &Key,
    now: Timestamp,
) -> Option<(Service, Option<Timestamp>)> {
    let held = model.gateways.held(key);
    let unreachable_gateway = model.gateways.unreachable().map(str::to_owned);
    let state = model.services.get_mut(key)?;
    let spec = state.spec.as_ref()?;
    let pods: Vec<(&Name, &PodState)> = state
        .pods
        .iter()
        .filter_map(|uid| model.pods.get_key_value(uid))
        .collect();
    let replicas = drain_replicas(state, pods.iter().copied(), now);
    let current = drain::staying(state.declared(), &replicas);
    let staying = replicas.iter().filter(|pod| pod.draining_since.is_none());
    let alive: Vec<Replica<'_>> = pods
        .iter()
        .filter(|(_, found)| is_replica(&found.pod))
        .map(|(uid, found)| (*uid, &*found.pod, &found.engine))
        .collect();
    let present = count(staying.count()).min(current);
    let unready: Vec<Replica<'_>> = alive
        .iter()
        .filter(|(uid, _, _)| !drains(&replicas, uid))
        .copied()
        .collect();
    let deployment = state.deployment.as_ref();
    let refused = deployment.and_then(|found| found.refused.as_ref());
    let awaited = state.awaited.replicas;
    let coming = match refused {
        Some(_) => state.awaited.kept(now),
        None => awaited,
    };
    let (starting_since, next_fails) = service::starting_since(&unready, coming, now);
    let start_ends = state.starts.observe(starting_since);
    let start_patience = state.starts.patience();
    let demand = service::engine_demand(&alive, now);
    let failures = service::failures(&alive);
    let refused = refused.filter(|_| awaited > 0);
    let (start_failure, fails_at) = service::start_failure(alive.len(), &failures, refused, now);
    let progress = state.rollout.as_mut();
    let why_stuck = progress.map(|progress| progress.observe(&failures, now));
    let (why, rollout_changes) = why_stuck.unwrap_or_default();
    let broken = replicas.iter().filter(|replica| {
        let found = model.pods.get(replica.pod.as_str());
        let is_stuck_with = found
            .zip(state.rollout)
            .is_some_and(|(found, progress)| progress.is_stuck_with(&found.pod, now));
        replica.draining_since.is_none() && !replica.may_work && is_stuck_with
    });
    let broken = count(broken.count()).saturating_add(state.awaited.given_up(now));
    let rollout = why.map(|why| StuckRollout { why, broken });
    let waits_for = unready.iter().find_map(|(_, pod, _)| pod.waits_for());
    let mut last_active = state.last_active;
    if last_active.is_none() && !service::has_reading(&alive, now) {
        // nothing to read: what starts now has the whole idle time before it
        last_active = pods.iter().map(|(_, found)| found.pod.created).max();
    }
    // what a replica that is ready does before it is read is not known to be nothing
    let unread = alive.iter().filter(|(_, _, engine)| engine.is_unread());
    last_active = last_active.max(unread.filter_map(|(_, pod, _)| pod.ready_since).max());
    let observed = Service {
        name: key.name.to_string(),
        min: spec.min,
        max: spec.max,
        target: spec.target,
        window: spec.window,
        idle_after: spec.idle_after,
        paused: spec.paused,
        activation: spec.activation,
        engine: demand.signal,
        stalled: demand.stalled,
        held: held.requests,
        unreachable_gateway,
        last_active,
        current,
        present,
        start: start_ends.map(|ends| Start {
            ends,
            patience: start_patience,
        }),
        waits_for,
        start_failure,
        rollout,
        history: match &state.history {
            Some(history) => history.clone(),
            None => {
                let mut history = History::default();
                history.record(current, spec.window, now);
                history
            }
        },
        load: state.load?,
        replica: Gang::default(),
    };
    if state.history.is_none() {
        state.history = Some(observed.history.clone());
    }
    let next = [demand.next, fails_at, next_fails, rollout_changes];
    Some((observed, next.into_iter().flatten().min()))
}
