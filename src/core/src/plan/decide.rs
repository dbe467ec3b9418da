//! Decides for what is marked in the model, and marks what depends on it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::budget::{Latch, Load, Purse, Standing};
use crate::capacity::Gang;
use crate::drain::{self, DrainInput};
use crate::limit::LimitedBy;
use crate::model::cost::{drain_replicas, is_replica, is_worker_of};
use crate::model::event::{Key, Name};
use crate::model::namespace::{Admission, NamespaceState};
use crate::model::service::{self, Ordered, Replica};
use crate::model::spending::SLACK_SECONDS;
use crate::model::state::{Model, PodState, count};
use crate::model::timers::Subject;
use crate::money::Money;
use crate::plan::service::{Decision, pay};
use crate::scaling::{History, Service, desire};
use crate::training::{self, Job, Retry, Turn, queue};

/// Services that an event about everything has marked are decided in slices of this many, so that
/// other events are decided between them.
const SLICE: usize = 1_000;
/// An order that no object shows after this long is given anew.
const ORDER_EXPIRES: SignedDuration = SignedDuration::from_secs(30);
/// While jobs wait for room, or something is limited by a budget, a namespace is looked at again
/// after this long.
const WAITING_PACE: SignedDuration = SignedDuration::from_secs(10);

/// What a service's objects are told. The pods' labels change before the Deployment does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceOrder {
    /// The service.
    pub service: Key,
    /// UIDs of pods that begin to leave.
    pub drain: Vec<Name>,
    /// UIDs of pods that stay after all.
    pub keep: Vec<Name>,
    /// UIDs of pods that the Deployment deletes first.
    pub remove: Vec<Name>,
    /// The Deployment's replicas: before, and what they become.
    pub replicas: (u32, u32),
    /// Why.
    pub reason: String,
    /// Since when requests have been held, if they are what wakes it.
    pub held_since: Option<Timestamp>,
    /// A budget stops it: its latch is on record first.
    pub after_latch: bool,
}

/// What a TrainingJob's Jobs are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobOrder {
    /// The TrainingJob.
    pub job: Key,
    /// Whether they run.
    pub run: bool,
    /// How often it was suspended because it stayed incomplete, if that is why.
    pub retry: Option<Retry>,
    /// Why.
    pub reason: String,
    /// A budget stops it: its latch is on record first.
    pub after_latch: bool,
}

/// What was decided in one call: what differs from what was decided before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decisions {
    /// Orders for services.
    pub service_orders: Vec<ServiceOrder>,
    /// Orders for TrainingJobs.
    pub job_orders: Vec<JobOrder>,
    /// Latches that are to be on record.
    pub latches: Vec<(Key, Option<Latch>)>,
    /// Decisions over services that differ from the last ones.
    pub services: Vec<(Key, Decision)>,
    /// Decisions over TrainingJobs that differ from the last ones.
    pub jobs: Vec<(Key, Turn)>,
    /// Where budgets stand, of all namespaces that were looked at.
    pub budgets: Vec<(Key, Standing)>,
}

/// Decides for everything that is marked or due. What an event about everything has marked may be
/// left for the next call: see [`Model::has_marks`].
pub fn decide(model: &mut Model, now: Timestamp) -> Decisions {
    let mut decisions = Decisions::default();
    for subject in model.timers.due(now) {
        model.mark(subject);
    }
    if let Some(change) = model.gateways.settle(now) {
        model.marks.services.extend(change.services);
        if change.all {
            let services = model.services.keys().cloned();
            model.marks.later.extend(services);
        }
        model.timers.set(Subject::Gateways, change.next);
    }
    for uid in std::mem::take(&mut model.marks.pods) {
        model.refresh_other(&uid, now);
    }
    for namespace in namespaces(model) {
        decide_namespace(model, &namespace, now, &mut decisions);
    }
    // room that became free may be what gangs of other namespaces wait for
    model.room.settle();
    if model.room.take_freed() {
        let waiting: Vec<Name> = waiting_for_room(model);
        for namespace in waiting {
            model.marks.queues.insert(namespace.clone());
            decide_namespace(model, &namespace, now, &mut decisions);
        }
        model.room.settle();
        model.room.take_freed();
    }
    decisions
}

fn waiting_for_room(model: &Model) -> Vec<Name> {
    let namespaces = model.namespaces.iter();
    let waiting = namespaces.filter(|(_, namespace)| namespace.waits_for_room);
    waiting.map(|(name, _)| name.clone()).collect()
}

/// The namespaces in which something is marked, with a slice of what may be decided later.
fn namespaces(model: &mut Model) -> BTreeSet<Name> {
    let marks = &mut model.marks;
    for _ in 0..SLICE {
        let Some(key) = marks.later.pop_first() else {
            break;
        };
        marks.services.insert(key);
    }
    let services = marks.services.iter().map(|key| key.namespace.clone());
    let mut names: BTreeSet<Name> = services.collect();
    names.extend(marks.queues.iter().cloned());
    names.extend(marks.budgets.iter().cloned());
    names
}

fn decide_namespace(model: &mut Model, name: &Name, now: Timestamp, decisions: &mut Decisions) {
    let mut services = take_marked(&mut model.marks.services, name);
    let known = model.namespaces.get(name);
    let jobs: Vec<Key> = known.map_or_else(Vec::new, |known| known.jobs.iter().cloned().collect());
    let mut queue_is_marked = model.marks.queues.remove(name) || waits_for_money(model, &jobs);
    let waiting = if queue_is_marked { &jobs[..] } else { &[] };
    refresh(model, &services, waiting, now);
    let (mut standings, mut purse) = standings(model, name, now);
    let namespace = model.namespace_mut(name);
    let caps = NamespaceState::caps(&standings);
    let more: BTreeSet<Key> = if caps == namespace.caps {
        namespace.changed_admissions(&purse)
    } else {
        // a budget has opened, closed or become unknown: all that it counts depends on it
        namespace.caps = caps;
        queue_is_marked = true;
        let all = namespace.services.values().flatten();
        all.cloned().collect()
    };
    let more: BTreeSet<Key> = more.difference(&services).cloned().collect();
    if !more.is_empty() || queue_is_marked && waiting.is_empty() {
        // orders of theirs may have expired, and then what they cost is less
        refresh(model, &more, &jobs, now);
        (standings, purse) = self::standings(model, name, now);
        services.extend(more);
    }
    let namespace = model.namespace_mut(name);
    note_latches(name, namespace, &standings, decisions);
    for key in in_order(model, services) {
        decide_service(model, &key, &mut purse, now, decisions);
    }
    if queue_is_marked {
        decide_queue(model, name, &jobs, &mut purse, now, decisions);
    }
    // what was decided first did not know what was freed or used up afterwards
    let namespace = model.namespace_mut(name);
    let purse = Purse::new(standings.clone(), namespace.running(now), now);
    let changed = namespace.changed_admissions(&purse);
    let waits = namespace.waits_for_room || namespace.is_limited();
    model.marks.services.extend(changed);
    let namespace = model.namespace_mut(name);
    let pace = waits.then(|| now.saturating_add(WAITING_PACE).unwrap_or(now));
    let is_running = namespace.running(now).rate > Money::ZERO;
    let ends = standings.iter().map(|standing| standing.period.end);
    let ends = ends.chain(
        standings
            .iter()
            .filter_map(|standing| standing.exhausted_at),
    );
    // nothing is decided more often than ten times a second by time alone
    let soonest = now
        .saturating_add(SignedDuration::from_millis(100))
        .unwrap_or(now);
    let look = ends.map(|at| at.max(soonest)).min();
    let look = look.filter(|_| is_running || !standings.is_empty());
    let look = look.into_iter().chain(pace).min();
    model.timers.set(Subject::Budgets(name.clone()), look);
    let keys = standings.into_iter().map(|standing| {
        let key = Key {
            namespace: name.clone(),
            name: standing.budget.name.as_str().into(),
        };
        (key, standing)
    });
    decisions.budgets.extend(keys);
    let is_gone = |namespace: &NamespaceState| namespace.is_gone();
    if model.namespaces.get(name).is_some_and(is_gone) {
        model.namespaces.remove(name);
    }
    model.marks.budgets.remove(name);
}

/// Computes anew what workloads cost. Orders that no object has shown in time cost nothing more.
fn refresh(model: &mut Model, services: &BTreeSet<Key>, jobs: &[Key], now: Timestamp) {
    for key in services {
        expire_orders(model, key, now);
        model.refresh_service(key, now);
    }
    for key in jobs {
        if let Some(state) = model.jobs.get_mut(key) {
            state.confirm_order();
            let holds = |ordered: &Ordered<bool>| is_recent(ordered.at, now);
            state.ordered = state.ordered.filter(holds);
        }
        model.refresh_job(key, now);
    }
}

/// Where the budgets of a namespace stand, and what they admit.
fn standings(model: &mut Model, name: &Name, now: Timestamp) -> (Vec<Standing>, Purse) {
    let zone = model.zone.clone();
    let namespace = model.namespace_mut(name);
    let standings = namespace.standings(now, &zone);
    let purse = Purse::new(standings.clone(), namespace.running(now), now);
    (standings, purse)
}

fn take_marked(marked: &mut BTreeSet<Key>, namespace: &Name) -> BTreeSet<Key> {
    let first = Key {
        namespace: namespace.clone(),
        name: "".into(),
    };
    let of_namespace = marked.range(first..);
    let keys: BTreeSet<Key> = of_namespace
        .take_while(|key| key.namespace == *namespace)
        .cloned()
        .collect();
    for key in &keys {
        marked.remove(key);
    }
    keys
}

/// The older service gets money first.
fn in_order(model: &Model, services: BTreeSet<Key>) -> Vec<Key> {
    let mut keys: Vec<Key> = services.into_iter().collect();
    let created = |key: &Key| {
        let state = model.services.get(key)?;
        Some(state.spec.as_ref()?.created)
    };
    keys.sort_by_cached_key(|key| (created(key), key.name.clone()));
    keys
}

fn note_latches(
    name: &Name,
    namespace: &mut NamespaceState,
    standings: &[Standing],
    decisions: &mut Decisions,
) {
    for (budget, standing) in namespace.budgets.iter_mut().zip(standings) {
        let (budget_name, state) = budget;
        let before = state.standing.as_ref();
        let before = before.map_or(state.spec.latch, |standing| standing.budget.latch);
        if before != standing.budget.latch {
            let key = Key {
                namespace: name.clone(),
                name: budget_name.clone(),
            };
            decisions.latches.push((key, standing.budget.latch));
        }
        state.standing = Some(standing.clone());
    }
}

/// Decides over one service, whose cost has been computed anew.
fn decide_service(
    model: &mut Model,
    key: &Key,
    purse: &mut Purse,
    now: Timestamp,
    decisions: &mut Decisions,
) {
    let Some((service, mut next)) = observe_service(model, key, now) else {
        if model.services.get(key).is_some_and(|state| state.is_gone()) {
            model.services.remove(key);
        }
        model.timers.set(Subject::Service(key.clone()), None);
        return;
    };
    let recommendation = desire(&service, now);
    next = next.into_iter().chain(recommendation.next_look).min();
    let decision = pay(&service, recommendation, purse, now);
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
        pods: drain_replicas(state, pods),
        rolling: state.deployment.is_some_and(|found| found.rolling),
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
    if is_order && changes {
        state.ordered = Some(Ordered {
            value: steps.replicas,
            at: now,
        });
    }
    for (uids, value) in [(&order.drain, true), (&order.keep, false)] {
        for uid in uids.iter().filter(|_| is_order) {
            let ordered = Ordered { value, at: now };
            state.draining.insert(uid.clone(), ordered);
            if !value {
                state.released.remove(uid);
            }
        }
    }
    for uid in order.remove.iter().filter(|_| is_order) {
        state.released.insert(uid.clone(), now);
    }
    let orders = state.ordered.map(|ordered| ordered.at).into_iter();
    let orders = orders.chain(state.draining.values().map(|ordered| ordered.at));
    let orders = orders.chain(state.released.values().copied());
    let expires = orders
        .min()
        .and_then(|at| at.checked_add(ORDER_EXPIRES).ok());
    next = next.into_iter().chain(expires).min();
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
        model.marks.services.insert(key.clone());
    }
    model.note_admission(key, Admission::of(purse, service.load));
}

/// Forgets orders that no object has shown in time.
fn expire_orders(model: &mut Model, key: &Key, now: Timestamp) {
    let Some(state) = model.services.get_mut(key) else {
        return;
    };
    state.ordered = state.ordered.filter(|ordered| is_recent(ordered.at, now));
    state
        .draining
        .retain(|_, ordered| is_recent(ordered.at, now));
    state.released.retain(|_, at| is_recent(*at, now));
}

/// Whether an order of `at` may still be on its way.
fn is_recent(at: Timestamp, now: Timestamp) -> bool {
    now.duration_since(at) < ORDER_EXPIRES
}

/// Everything that a decision over a service reads, and when it changes with time.
fn observe_service(
    model: &mut Model,
    key: &Key,
    now: Timestamp,
) -> Option<(Service, Option<Timestamp>)> {
    let held = model.gateways.held(key);
    let unheard = model.gateways.unreachable().map(str::to_owned);
    let state = model.services.get_mut(key)?;
    let spec = state.spec.as_ref()?;
    let pods: Vec<(&Name, &PodState)> = state
        .pods
        .iter()
        .filter_map(|uid| model.pods.get_key_value(uid))
        .collect();
    let replicas = drain_replicas(state, pods.iter().copied());
    let current = drain::staying(state.declared(), &replicas);
    let staying = replicas.iter().filter(|pod| pod.draining_since.is_none());
    let alive: Vec<Replica<'_>> = pods
        .iter()
        .filter(|(_, found)| is_replica(&found.pod))
        .map(|(uid, found)| (*uid, &*found.pod, &found.engine))
        .collect();
    let (engine, first_read) = service::engine_signal(&alive, now);
    let (stuck, fails_at) = service::start_failure(&alive, now);
    let mut active_at = state.active_at;
    if active_at.is_none() && !service::has_reading(&alive, now) {
        // nothing to read: what starts now has the whole idle time before it
        active_at = pods.iter().map(|(_, found)| found.pod.created).max();
    }
    // what a replica that is ready does before it is read is not known to be nothing
    let unread = alive.iter().filter(|(_, _, engine)| engine.is_unread());
    active_at = active_at.max(unread.filter_map(|(_, pod, _)| pod.ready_since).max());
    let observed = Service {
        name: key.name.to_string(),
        min: spec.min,
        max: spec.max,
        target: spec.target,
        window: spec.window,
        idle_after: spec.idle_after,
        paused: spec.paused,
        demand: spec.activation,
        engine,
        held: held.requests,
        unheard,
        active_at,
        current,
        present: count(staying.count()).min(current),
        stuck,
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
    Some((observed, first_read.into_iter().chain(fails_at).min()))
}

/// Whether a job of these waits for money: then its turn may come with any change of the budgets.
fn waits_for_money(model: &Model, jobs: &[Key]) -> bool {
    let limits = jobs.iter().filter_map(|key| {
        let turn = model.jobs.get(key)?.turn.as_ref()?;
        turn.limited_by
    });
    let mut limits = limits;
    limits.any(|limit| matches!(limit, LimitedBy::Budget | LimitedBy::PriceUnknown))
}

/// Decides over the TrainingJobs of a namespace.
fn decide_queue(
    model: &mut Model,
    name: &Name,
    keys: &[Key],
    purse: &mut Purse,
    now: Timestamp,
    decisions: &mut Decisions,
) {
    let mut by_name = BTreeMap::new();
    let mut jobs = Vec::new();
    for key in keys {
        if model.jobs.get(key).is_some_and(|state| state.is_gone()) {
            model.jobs.remove(key);
            model.namespace_mut(name).jobs.remove(key);
            continue;
        }
        if let Some(job) = observe_job(model, key) {
            by_name.insert(job.name.clone(), key.clone());
            jobs.push(job);
        } else if let Some(state) = model.jobs.get_mut(key) {
            state.turn = None;
        }
    }
    model.room.settle();
    let turns = queue(&jobs, &mut model.room.for_queue(), purse, now);
    let mut next = None;
    let mut waits_for_room = false;
    for turn in turns {
        let Some(key) = by_name.get(&turn.name) else {
            continue;
        };
        next = [next, turn.next_look].into_iter().flatten().min();
        waits_for_room |= matches!(
            turn.limited_by,
            Some(LimitedBy::Capacity | LimitedBy::Queue)
        );
        order_job(model, key, &turn, now, decisions);
        let Some(state) = model.jobs.get_mut(key) else {
            continue;
        };
        let expires = state
            .ordered
            .and_then(|ordered| ordered.at.checked_add(ORDER_EXPIRES).ok());
        next = [next, expires].into_iter().flatten().min();
        if state.turn.as_ref() != Some(&turn) {
            state.turn = Some(turn.clone());
            decisions.jobs.push((key.clone(), turn));
        }
    }
    model.namespace_mut(name).waits_for_room = waits_for_room;
    model.timers.set(Subject::Queue(name.clone()), next);
}

/// Tells a TrainingJob's Jobs to run or not, if they do otherwise.
fn order_job(model: &mut Model, key: &Key, turn: &Turn, now: Timestamp, decisions: &mut Decisions) {
    let Some(state) = model.jobs.get_mut(key) else {
        return;
    };
    let is_ordered = state
        .ordered
        .is_some_and(|ordered| ordered.value == turn.run);
    let is_shown = state.ordered.is_none() && state.shows(turn.run);
    if is_ordered || is_shown || model.observe_only {
        return;
    }
    state.ordered = Some(Ordered {
        value: turn.run,
        at: now,
    });
    state.retry = turn.retry;
    let order = JobOrder {
        job: key.clone(),
        run: turn.run,
        retry: turn.retry,
        reason: turn.reason.clone(),
        after_latch: turn.limited_by == Some(LimitedBy::Budget),
    };
    decisions.job_orders.push(order);
    model.refresh_job(key, now);
}

/// Everything that the queue reads of a TrainingJob; `None` once it has ended.
fn observe_job(model: &Model, key: &Key) -> Option<Job> {
    let state = model.jobs.get(key)?;
    let spec = state.spec.as_ref()?;
    if state.has_finished() {
        return None;
    }
    let pods: Vec<&PodState> = state
        .pods
        .iter()
        .filter_map(|uid| model.pods.get(uid))
        .collect();
    let roles = spec
        .roles
        .iter()
        .zip(&state.estimates)
        .map(|(role, cached)| {
            let workers = pods
                .iter()
                .filter(|found| is_worker_of(&found.pod, &role.name));
            let ended_well = state
                .batch_jobs
                .get(&role.name)
                .map_or(0, |job| job.succeeded);
            training::Role {
                gang: Gang {
                    workers: role.replicas,
                    worker: role.worker.requests.clone(),
                    node_selector: role.worker.node_selector.clone(),
                },
                worker: Load {
                    rate: cached.rate(),
                    stop_seconds: role.grace_seconds + SLACK_SECONDS,
                },
                present: count(workers.count()).saturating_add(ended_well),
            }
        });
    let roles: Vec<training::Role> = roles.collect();
    let running = state.is_running();
    let is_missing = roles.iter().any(|role| role.present < role.gang.workers);
    let incomplete_since = if state.shows_running() && running {
        incomplete_since(state.started(), &pods, is_missing)
    } else {
        None
    };
    Some(Job {
        name: key.name.to_string(),
        priority: spec.priority,
        created: spec.created,
        suspend: spec.suspend,
        running,
        incomplete_since,
        retry: state.last_retry(),
        seed: spec.seed,
        settled: state.is_settled(),
        roles,
    })
}

/// Since when a running gang has had workers without a node: the oldest of them, or, where pods
/// are missing, what came last of the gang's start and its workers' ends.
fn incomplete_since(
    started: Option<Timestamp>,
    pods: &[&PodState],
    is_missing: bool,
) -> Option<Timestamp> {
    let present = pods.iter().filter(|found| found.pod.ended.is_none());
    let waiting = present
        .filter(|found| found.pod.node.is_none())
        .map(|found| found.pod.created);
    let ended = pods.iter().filter_map(|found| found.pod.ended);
    let missing = ended.chain(started).max().filter(|_| is_missing);
    waiting.chain(missing).min()
}
