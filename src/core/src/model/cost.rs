//! What workloads and pods cost while they run, as addends of their namespaces' sums, and the
//! room reserved for those of their pods that have no node yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::budget::{EVICTION_NOTICE, FreedBudget, RunningCost};
use crate::drain::{self, SETTLE};
use crate::money::Money;
use crate::pod_set::PodSet;
use crate::pricing::EstimateBasis;

use super::capacity::{ClusterCapacity, ReservationOwner};
use super::claim::{BudgetRank, Claim};
use super::event::{Deployment, Key, Name, Owner, Pod, PodShape, Service};
use super::job::JobState;
use super::namespace::Admission;
use super::rates::{CachedRate, Estimate, Rates};
use super::replica_pods::{PodFate, fate, missing_workers, replica_cost, reservation_owner};
use super::service::{Ordered, ServiceState, may_have_requests};
use super::spending::{SLACK_SECONDS, Spending, WorkloadCost, bounded_grace};
use super::state::{Model, PodState, count};
use super::timers::TimerKey;
use super::workers::{is_in_queue, takes_room};

/// What was told to leave is waited for so long beyond the time that it may take.
const OVERDUE_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// What a pod was told that is not being deleted.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum PodIntent {
    Run,
    /// To leave, at this time: it is deleted at the end of its drain, or at once while it has no node.
    Drain(Timestamp),
    /// To stop at once.
    Stop,
}

impl WorkloadCost {
    /// Adds a pod of this cost. Returns when it will be overdue, if it was told to leave and is not.
    fn add_pod(
        &mut self,
        found: &PodState,
        intent: PodIntent,
        cost: RunningCost,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let pod = &*found.pod;
        let Some(rate) = cost.rate else {
            self.unknown += 1;
            return None;
        };
        if pod.node.is_none() {
            if pod.deletion.is_none() {
                self.add_starting(cost, u32::from(intent == PodIntent::Run));
            }
            return None;
        }
        self.rate += rate;
        let overdue_at = overdue_at(found, intent, cost.stop_seconds);
        let overdue_at = match overdue_at {
            Some(at) if at <= now => {
                self.add_overdue(pod, cost);
                return None;
            }
            at => at,
        };
        if overdue_at.is_some() {
            self.leaving_rate += rate;
        }
        let stop_rate = cost.stop_rate.map_or(rate, |highest| highest.max(rate));
        match (pod.deletion, intent) {
            (Some(by), _) => self.terminating.push((cost.stop_rate.unwrap_or(rate), by)),
            (None, PodIntent::Run) => self.reserve += cost.reserve(),
            (None, PodIntent::Drain(since)) => {
                self.draining
                    .push((stop_rate, later(since, cost.stop_seconds)));
            }
            (None, PodIntent::Stop) => {
                self.reserve += cost.reserve();
                self.leaving_reserve += cost.reserve();
            }
        }
        overdue_at
    }

    /// Adds a pod that should have gone long ago: nobody counts on its money any more.
    fn add_overdue(&mut self, pod: &Pod, cost: RunningCost) {
        let rate = cost.rate.unwrap_or_default();
        self.kept_on_stop.rate += rate;
        match pod.deletion {
            Some(by) => self.terminating.push((cost.stop_rate.unwrap_or(rate), by)),
            None => {
                self.reserve += cost.reserve();
                self.kept_on_stop.reserve += cost.reserve();
            }
        }
    }

    /// Adds so many that have no node yet and are not taken back for nothing, such as workers of a gang, which is
    /// not taken back in part. They are in the reserve as if they had one.
    fn add_held(&mut self, cost: RunningCost, number: u32) {
        let reserve = self.add_starting_rate(cost, number);
        self.reserve += reserve;
    }

    /// Adds so many that have no node yet.
    fn add_starting(&mut self, cost: RunningCost, number: u32) {
        let reserve = self.add_starting_rate(cost, number);
        self.starting_reserve += reserve;
    }

    /// Adds the rate of so many that have no node yet. Returns what stopping them would cost once they
    /// have one.
    fn add_starting_rate(&mut self, cost: RunningCost, number: u32) -> Money {
        let Some(rate) = cost.rate else {
            self.unknown += number;
            return Money::ZERO;
        };
        self.starting_rate += rate.times(number);
        cost.reserve_of(number)
    }
}

/// When a pod that was told to leave should have gone long ago, if it was: its node may be lost, or what would delete
/// it. `stop_seconds` is how long it may take from the order on.
fn overdue_at(found: &PodState, intent: PodIntent, stop_seconds: i64) -> Option<Timestamp> {
    let pod = &found.pod;
    let by = match (pod.deletion, intent) {
        (Some(by), _) => later(by, bounded_grace(pod.grace_seconds) - pod.grace_seconds),
        (None, PodIntent::Drain(since)) => later(since, stop_seconds),
        (None, PodIntent::Stop) => later(found.stopping_since?, stop_seconds),
        (None, PodIntent::Run) => return None,
    };
    Some(later(by, OVERDUE_AFTER.as_secs()))
}

fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.saturating_add(SignedDuration::from_secs(seconds))
        .unwrap_or(at)
}

/// The cost of a pod that costs `rate` an hour now.
fn running_cost(
    rates: &Rates,
    capacity: &ClusterCapacity,
    pod: &Pod,
    rate: Option<Money>,
    stop_seconds: i64,
    priority: i32,
    now: Timestamp,
) -> RunningCost {
    let seconds = match pod.deletion {
        Some(by) => grace_stop_seconds(by.duration_since(now).as_secs()),
        None => stop_seconds,
    };
    let node = pod.node.as_ref().and_then(|node| capacity.node(node));
    RunningCost {
        rate,
        stop_rate: rates.highest(rate, &pod.shape, node, now, seconds),
        stop_seconds,
        priority,
        basis: EstimateBasis::Node,
    }
}

/// What becomes free when these go.
pub(crate) fn freed_by(running_costs: &[(RunningCost, u32)]) -> FreedBudget {
    let each = running_costs
        .iter()
        .map(|(running_cost, count)| FreedBudget {
            rate: running_cost.rate.unwrap_or_default().times(*count),
            reserve: running_cost.reserve_of(*count),
        });
    each.fold(FreedBudget::default(), FreedBudget::and)
}

/// The cost of a pod of this shape that has no node yet and takes `stop_seconds` to stop.
fn new_pod_cost(
    rates: &mut Rates,
    shape: &Arc<PodShape>,
    cached: &mut CachedRate,
    stop_seconds: i64,
    priority: i32,
    now: Timestamp,
) -> RunningCost {
    let Estimate { rate, basis } = rates.estimate(shape, cached, now);
    RunningCost {
        rate,
        stop_rate: rates.highest(rate, shape, None, now, stop_seconds),
        stop_seconds,
        priority,
        basis,
    }
}

/// The cost of a pod that is new with others, of which some have GPUs: one that has none costs nothing.
fn new_part_cost(
    rates: &mut Rates,
    shape: &Arc<PodShape>,
    cached: &mut CachedRate,
    stop_seconds: i64,
    priority: i32,
    now: Timestamp,
) -> RunningCost {
    if shape.uses_gpus() {
        return new_pod_cost(rates, shape, cached, stop_seconds, priority, now);
    }
    // such as a launcher: only GPUs are charged for, so its price is known to be none
    *cached = CachedRate::without_gpus();
    RunningCost {
        priority,
        ..RunningCost::constant(cached.rate(), stop_seconds)
    }
}

/// When something with one of these stop times is reserved at another price.
fn cost_changes_at(
    rates: &Rates,
    stop_seconds: BTreeSet<i64>,
    now: Timestamp,
) -> Option<Timestamp> {
    let each = stop_seconds.into_iter();
    each.filter_map(|seconds| rates.next_within(now, seconds))
        .min()
}

/// Seconds from the order to stop a replica until it costs nothing.
fn service_stop_seconds(drain_timeout: SignedDuration, grace_seconds: i64) -> i64 {
    let drain_seconds = drain_timeout.max(SETTLE).as_secs();
    drain_seconds + grace_stop_seconds(grace_seconds)
}

/// Seconds from the order to stop a replica until this pod of it costs nothing. All pods of a replica count until
/// the last one has stopped: workers are told to once their leader has ended.
fn replica_stop_seconds(spec: &Service, pod: &Pod, fate: PodFate) -> i64 {
    if pod.leader.is_none() {
        let workers = spec.workers.as_ref();
        let workers = workers.map_or(0, |workers| grace_stop_seconds(workers.grace_seconds));
        return service_stop_seconds(spec.drain_timeout, pod.grace_seconds) + workers;
    }
    let leader = match fate.has_drained {
        true => grace_stop_seconds(spec.grace_seconds),
        false => service_stop_seconds(spec.drain_timeout, spec.grace_seconds),
    };
    leader + grace_stop_seconds(pod.grace_seconds)
}

/// Seconds from the deletion of a pod with this grace until it costs nothing.
pub(crate) fn grace_stop_seconds(grace_seconds: i64) -> i64 {
    bounded_grace(grace_seconds) + SLACK_SECONDS
}

/// What so many pods that are alike need.
pub(crate) fn pod_set(shape: &PodShape, workers: u32) -> PodSet {
    PodSet {
        workers,
        worker: shape.requests.clone(),
        node_selector: shape.node_selector.clone(),
        placement: Arc::clone(&shape.placement),
    }
}

/// Whether a pod counts among the replicas of its Deployment.
pub(crate) fn is_replica(pod: &Pod) -> bool {
    pod.ended.is_none() && pod.deletion.is_none()
}

/// Since when a pod has been leaving, by an order or by its annotation.
pub(crate) fn draining_since(
    orders: &BTreeMap<Name, Ordered<bool>>,
    uid: &Name,
    pod: &Pod,
) -> Option<Timestamp> {
    match orders.get(uid) {
        Some(order) if order.value => Some(order.at),
        Some(_) => None,
        None => pod.draining_since,
    }
}

/// The replicas of a service as the steps of a drain see them: their pods, of several those that lead. Orders that
/// pods do not show yet count.
pub(crate) fn drain_replicas<'a>(
    state: &ServiceState,
    pods: impl Iterator<Item = (&'a Name, &'a PodState)>,
    now: Timestamp,
) -> Vec<drain::Replica> {
    let leads = |pod: &Pod| pod.leader.is_none() && is_replica(pod);
    let replicas = pods.filter(|(_, found)| leads(&found.pod));
    let deployment = state.deployment.as_ref();
    let first_ordinal = deployment.and_then(|found| found.first_ordinal);
    replicas
        .map(|(uid, found)| {
            let (pod, engine) = (&found.pod, &found.engine);
            drain::Replica {
                uid: uid.to_string(),
                has_node: pod.node.is_some(),
                may_have_requests: may_have_requests(pod, engine),
                ready: pod.ready_since.is_some(),
                in_endpoints: state.endpoints.contains(uid),
                draining_since: draining_since(&state.draining, uid, pod),
                marked_for_deletion: pod.marked_for_deletion
                    || state.marked_for_deletion.contains_key(uid),
                stalled: engine.is_stalled(now),
                busy: match (state.reads_engines(), state.takes_requests()) {
                    (true, _) => engine.requests(),
                    // gateways do not tell which replica has theirs
                    (false, true) => None,
                    // one without an engine has no requests to wait for
                    (false, false) => Some(0),
                },
                created: pod.created,
                ordinal: first_ordinal.and_then(|first| ordinal(&pod.key.name, first)),
            }
        })
        .collect()
}

/// The replicas of a service that do not leave, by its objects: an order that was not carried out has
/// changed none.
pub(crate) fn shown_replicas(
    deployment: Option<&Deployment>,
    replicas: &[drain::Replica],
    pods: &BTreeMap<Name, PodState>,
) -> u32 {
    let shown = replicas.iter().filter_map(|replica| {
        let pod = &pods.get(replica.uid.as_str())?.pod;
        Some(drain::Replica {
            draining_since: pod.draining_since,
            marked_for_deletion: pod.marked_for_deletion,
            ..replica.clone()
        })
    });
    let shown: Vec<_> = shown.collect();
    drain::non_draining(deployment.map_or(0, |found| found.replicas), &shown)
}

/// The place of a StatefulSet's pod among those that it has, from 0, by the ordinal in which its name ends.
fn ordinal(name: &str, first: u32) -> Option<u32> {
    let ordinal: u32 = name.rsplit_once('-')?.1.parse().ok()?;
    Some(ordinal.saturating_sub(first))
}

impl Model {
    /// Puts what a workload or pod costs in the place of what it did.
    pub(crate) fn replace_cost(
        &mut self,
        namespace: &Name,
        old: &WorkloadCost,
        new: &WorkloadCost,
    ) {
        if old != new {
            self.namespace_mut(namespace).totals.replace(old, new);
            self.marks.budgets.insert(namespace.clone());
        }
    }

    /// Computes anew what a pod of no workload costs.
    pub(crate) fn refresh_other(&mut self, uid: &Name, now: Timestamp) {
        let Some(state) = self.pods.get_mut(uid) else {
            return;
        };
        let pod = &state.pod;
        let mut cost = WorkloadCost::default();
        // one that only shares GPUs is charged for none
        let is_charged = pod.shape.attributes.is_some();
        if pod.is_unowned() && is_charged && pod.ended.is_none() {
            let namespace = self.namespaces.get(&pod.key.namespace);
            let open = namespace.and_then(|namespace| namespace.spending.rate(uid));
            let estimate = || self.rates.rate(&pod.shape, &mut state.estimate, now);
            let rate = open.unwrap_or_else(estimate);
            let stopped_after =
                |seconds| running_cost(&self.rates, &self.capacity, pod, rate, seconds, 0, now);
            // a budget counts it, and cannot stop it unless it evicts it
            let overdue_at = cost.add_pod(state, PodIntent::Run, stopped_after(0), now);
            if overdue_at.is_some() {
                self.timers.set(TimerKey::Pod(uid.clone()), overdue_at);
            }
            if rate.is_some() && pod.may_be_evicted() {
                let stop_seconds = grace_stop_seconds(pod.grace_seconds);
                let evicted = stopped_after(EVICTION_NOTICE.as_secs() + stop_seconds);
                cost.eviction_reserve = Some((pod.owner_name.clone(), evicted.reserve()));
            }
        }
        let old = std::mem::replace(&mut state.cost, cost.clone());
        let namespace = pod.key.namespace.clone();
        self.replace_cost(&namespace, &old, &cost);
    }

    /// Computes anew what a service costs with its orders, and keeps room for its pods.
    pub(crate) fn refresh_service(&mut self, key: &Key, now: Timestamp) {
        let Some(state) = self.services.get_mut(key) else {
            return;
        };
        let no_spending = Spending::default();
        let namespace = self.namespaces.get(&key.namespace);
        let spending = namespace.map_or(&no_spending, |namespace| &namespace.spending);
        let priority = state.spec.as_ref().map(|spec| spec.priority);
        let mut cost = WorkloadCost {
            priority,
            preemption_allowed: true,
            ..WorkloadCost::default()
        };
        let priority = priority.unwrap_or(0);
        let (mut starting, mut given_up) = (0, 0);
        let (mut stop_times, mut changes_at) = (BTreeSet::new(), None::<Timestamp>);
        // those that need what their templates say, and the others
        let (mut pods_without_node, mut workers_without_node) = (0u32, 0u32);
        let mut others_without_node: BTreeMap<Name, PodSet> = BTreeMap::new();
        let has_workers = state
            .spec
            .as_ref()
            .is_some_and(|spec| spec.workers.is_some());
        let pods = state.pods.iter();
        let pods = pods.filter_map(|uid| self.pods.get_key_value(uid));
        let replicas = drain_replicas(state, pods, now);
        let held = drain::held(&replicas);
        // a service that is gone keeps no replica
        let (mut non_draining, mut wanted) = (BTreeMap::<Name, FreedBudget>::new(), 0);
        // of those that leave, what all of their pods cost, and how many of them are workers
        let mut draining = BTreeMap::<Name, (RunningCost, u32)>::new();
        let nothing = RunningCost {
            priority,
            ..RunningCost::constant(Some(Money::ZERO), 0)
        };
        for uid in &state.pods {
            let known = self.pods.get(uid);
            let fate = known.map(|found| fate(state, &self.pods, uid, &found.pod));
            let Some((found, fate)) = self.pods.get_mut(uid).zip(fate) else {
                continue;
            };
            found.note_intent(fate.intent, now);
            found.freed_budget = FreedBudget::default();
            let pod = &found.pod;
            if pod.ended.is_some() {
                continue;
            }
            if pod.waits_for_room(now) {
                match reservation_owner(key, state.spec.as_ref(), uid, pod) {
                    ReservationOwner::ReplicaPod(_, uid) => {
                        others_without_node.insert(uid, pod_set(&pod.shape, 1));
                    }
                    ReservationOwner::ReplicaWorkers(_) => workers_without_node += 1,
                    ReservationOwner::Workload(..) | ReservationOwner::Pod(_) => {
                        pods_without_node += 1;
                    }
                }
            }
            let is_charged = pod.shape.attributes.is_some();
            let is_starting = pod.node.is_none() && pod.deletion.is_none();
            let stays = fate.stays() && is_replica(pod);
            let is_held = fate.is_held || held.contains(&**pod.leader.as_ref().unwrap_or(uid));
            let counts = pod.leader.is_none() && (is_charged || has_workers);
            if is_starting && stays && counts && !is_held {
                starting += 1;
            }
            if !is_charged {
                continue;
            }
            let stop_seconds = match &state.spec {
                Some(spec) => replica_stop_seconds(spec, pod, fate),
                // its workload is gone: Kubernetes is stopping it
                None => grace_stop_seconds(pod.grace_seconds),
            };
            let estimate = || self.rates.rate(&pod.shape, &mut found.estimate, now);
            let rate = spending.rate(uid).unwrap_or_else(estimate);
            let (rates, capacity) = (&self.rates, &self.capacity);
            let running = running_cost(rates, capacity, pod, rate, stop_seconds, priority, now);
            let overdue_at = match is_starting && stays && is_held {
                true => {
                    cost.add_held(running, 1);
                    None
                }
                false => cost.add_pod(found, fate.intent, running, now),
            };
            changes_at = changes_at.into_iter().chain(overdue_at).min();
            if stays {
                let replica = pod.leader.as_ref().unwrap_or(uid).clone();
                let freed = non_draining.entry(replica).or_default();
                *freed = freed.and(freed_by(&[(running, 1)]));
            }
            if matches!(fate.intent, PodIntent::Drain(_)) && !fate.has_drained && is_replica(pod) {
                let replica = pod.leader.as_ref().unwrap_or(uid).clone();
                let (sum, workers) = draining.entry(replica).or_insert((nothing, 0));
                *sum = replica_cost(*sum, running, 1);
                *workers += u32::from(pod.leader.is_some());
            }
            stop_times.insert(stop_seconds);
        }
        let (mut running_cost, mut recalled_costs) = (None, Vec::new());
        let (mut reserved_pods, mut reserved_workers) = (PodSet::default(), PodSet::default());
        if let Some(spec) = &state.spec {
            let seconds = service_stop_seconds(spec.drain_timeout, spec.grace_seconds);
            let (rates, cached) = (&mut self.rates, &mut state.estimate);
            let (replica, worker) = match &spec.workers {
                Some(workers) if spec.shapes().any(|shape| shape.uses_gpus()) => {
                    let seconds = seconds + grace_stop_seconds(workers.grace_seconds);
                    let leader =
                        new_part_cost(rates, &spec.replica, cached, seconds, priority, now);
                    let (shape, cached) = (&workers.shape, &mut state.worker_estimate);
                    let worker = new_part_cost(rates, shape, cached, seconds, priority, now);
                    (replica_cost(leader, worker, workers.count), Some(worker))
                }
                _ => {
                    let replica =
                        new_pod_cost(rates, &spec.replica, cached, seconds, priority, now);
                    (replica, None)
                }
            };
            stop_times.insert(replica.stop_seconds);
            let deployment = state.deployment.as_ref();
            let creation_failure = deployment.and_then(|found| found.creation_failure.as_ref());
            let without_pod = without_pod(state, &replicas);
            wanted = drain::non_draining(state.declared(), &replicas);
            state
                .without_pod
                .observe(without_pod, creation_failure, now);
            let kept = state.without_pod.kept(now);
            given_up = state.without_pod.given_up(now);
            let held_without_pod = drain::held_without_pod(&replicas);
            let held_kept = held_without_pod.min(kept);
            let held_given_up = (held_without_pod - held_kept).min(given_up);
            given_up -= held_given_up;
            cost.add_held(replica, held_kept);
            cost.add_starting(replica, kept - held_kept);
            cost.reserve += replica.reserve_of(held_given_up);
            match deployment.and_then(|found| found.first_ordinal) {
                // what comes next has a place above theirs, so nothing else gets their money
                Some(_) => cost.starting_reserve += replica.reserve_of(given_up),
                None => cost.given_up_reserve = replica.reserve_of(given_up),
            }
            starting += kept - held_kept;
            let mut missing = 0u32;
            for lacks in missing_workers(state, &self.pods) {
                missing = missing.saturating_add(lacks.number);
                let Some(worker) = worker else { continue };
                match lacks.is_held || held.contains(&*lacks.replica) {
                    true => cost.add_held(worker, lacks.number),
                    false => cost.add_starting(worker, lacks.number),
                }
                // they go with their replica
                let freed = non_draining.entry(lacks.replica).or_default();
                *freed = freed.and(freed_by(&[(worker, lacks.number)]));
            }
            let most = spec.workers.as_ref().map_or(0, |workers| workers.count);
            let missing = missing.min(most.saturating_mul(wanted));
            state
                .missing_workers
                .observe(missing, creation_failure, now);
            reserved_pods = pod_set(&spec.replica, kept.saturating_add(pods_without_node));
            if let Some(workers) = &spec.workers {
                let of_new = kept.saturating_mul(workers.count);
                let missing = state.missing_workers.kept(now).saturating_add(of_new);
                let wanted = missing.saturating_add(workers_without_node);
                reserved_workers = pod_set(&workers.shape, wanted);
            }
            running_cost = Some(replica);
            let back = drain::coming_back(state.declared(), &replicas).into_iter();
            recalled_costs.extend(back.map(|(pod, is_ours)| {
                let (there, workers) = draining.get(&*pod.uid).copied().unwrap_or((nothing, 0));
                let own = worker.map_or(there, |worker| {
                    replica_cost(there, worker, most.saturating_sub(workers))
                });
                // of what was given up, a new one may come instead
                match is_ours {
                    true => own,
                    false => own.or_dearer(replica),
                }
            }));
        }
        for (replica, freed_budget) in &non_draining {
            if let Some(found) = self.pods.get_mut(replica) {
                found.freed_budget = *freed_budget;
            }
        }
        // those beyond its replicas go, and they free no less than the cheapest
        let surplus = non_draining.len().saturating_sub(wanted as usize);
        let mut non_draining: Vec<FreedBudget> = non_draining.into_values().collect();
        non_draining.sort_by_key(|each| (each.rate, each.reserve));
        for freed_budget in non_draining.into_iter().take(surplus) {
            cost.leaving_rate += freed_budget.rate;
            cost.leaving_reserve += freed_budget.reserve;
        }
        cost.stop_seconds = stop_times.last().copied().unwrap_or(0);
        let old = std::mem::replace(&mut state.cost, cost.clone());
        (state.running_cost, state.recalled_costs) = (running_cost, recalled_costs);
        (state.starting, state.given_up) = (starting, given_up);
        let given_up_at =
            [&state.without_pod, &state.missing_workers].map(|all| all.changes_at(now));
        let changes_at = changes_at
            .into_iter()
            .chain(given_up_at.into_iter().flatten());
        let price_changes_at = cost_changes_at(&self.rates, stop_times, now);
        state.cost_changes_at = price_changes_at.into_iter().chain(changes_at).min();
        let is_gone = running_cost.is_none();
        let owner = ReservationOwner::Workload(key.clone(), Owner::Service(key.name.clone()));
        self.capacity.reserve(&owner, &reserved_pods);
        let workers = ReservationOwner::ReplicaWorkers(key.clone());
        self.capacity.reserve(&workers, &reserved_workers);
        let others = others_without_node.keys().cloned().collect();
        let before = std::mem::replace(&mut state.pods_with_room, others);
        for uid in before {
            others_without_node.entry(uid).or_default();
        }
        for (uid, pod_set) in others_without_node {
            let owner = ReservationOwner::ReplicaPod(key.clone(), uid);
            self.capacity.reserve(&owner, &pod_set);
        }
        self.note_unschedulable(key);
        if is_gone {
            self.note_admission(key, None);
        }
        self.replace_cost(&key.namespace, &old, &cost);
    }

    /// Notes what one more replica of a service costs and whether the budgets would admit it, as it was just decided.
    pub(crate) fn note_admission(&mut self, key: &Key, new: Option<(RunningCost, Admission)>) {
        let Some(state) = self.services.get_mut(key) else {
            return;
        };
        let old = std::mem::replace(&mut state.index, new);
        let namespace = self.namespace_mut(&key.namespace);
        namespace.index_service(key, old, new);
    }

    /// The replicas of a service as the steps of a drain see them.
    pub(crate) fn drain_replicas(
        &self,
        state: &ServiceState,
        now: Timestamp,
    ) -> Vec<drain::Replica> {
        let pods = state.pods.iter();
        let pods = pods.filter_map(|uid| self.pods.get_key_value(uid));
        drain_replicas(state, pods, now)
    }

    /// Replaces what a service waits for.
    pub(crate) fn set_claims(&mut self, key: &Key, claims: Vec<(BudgetRank, Claim)>) {
        let Some(state) = self.services.get_mut(key) else {
            return;
        };
        let ranks = claims.iter().map(|(rank, _)| rank.clone()).collect();
        let before = std::mem::replace(&mut state.claims, ranks);
        if before.is_empty() && claims.is_empty() {
            return;
        }
        let namespace = self.namespace_mut(&key.namespace);
        for rank in before {
            namespace.claims.remove(&rank);
        }
        namespace.claims.extend(claims);
    }

    /// Computes anew what a TrainingJob costs with its orders, and keeps room for its workers.
    pub(crate) fn refresh_job(&mut self, key: &Key, now: Timestamp) {
        let Some(state) = self.jobs.get_mut(key) else {
            return;
        };
        let nothing = Spending::default();
        let namespace = self.namespaces.get(&key.namespace);
        let spending = namespace.map_or(&nothing, |namespace| &namespace.spending);
        let priority = state.spec.as_ref().map(|spec| spec.priority);
        let mut cost = WorkloadCost {
            priority,
            preemption_allowed: state
                .spec
                .as_ref()
                .is_some_and(|spec| spec.preemption_allowed),
            ..WorkloadCost::default()
        };
        let priority = priority.unwrap_or(0);
        let (mut stop_times, mut changes_at) = (BTreeSet::new(), None::<Timestamp>);
        let runs = state.has_room();
        for uid in &state.pods {
            let Some(found) = self.pods.get_mut(uid) else {
                continue;
            };
            let pod = &found.pod;
            if pod.ended.is_some() || pod.shape.attributes.is_none() {
                continue;
            }
            let estimate = || self.rates.rate(&pod.shape, &mut found.estimate, now);
            let rate = spending.rate(uid).unwrap_or_else(estimate);
            let seconds = grace_stop_seconds(pod.grace_seconds);
            let (rates, capacity) = (&self.rates, &self.capacity);
            let running = running_cost(rates, capacity, pod, rate, seconds, priority, now);
            let is_worker = state.is_of_current_run(pod);
            let intent = match is_worker && !runs {
                true => PodIntent::Stop,
                false => PodIntent::Run,
            };
            found.note_intent(intent, now);
            let pod = &found.pod;
            if is_worker && runs && pod.node.is_none() && pod.deletion.is_none() {
                cost.add_held(running, 1);
            } else {
                let overdue_at = cost.add_pod(found, intent, running, now);
                changes_at = changes_at.into_iter().chain(overdue_at).min();
            }
            // one that only has its labels does not stop with it
            if !is_worker && pod.deletion.is_none() {
                cost.kept_on_stop = cost.kept_on_stop.and(freed_by(&[(running, 1)]));
            }
            stop_times.insert(seconds);
        }
        let roles = state.spec.as_ref().map_or(&[][..], |spec| &spec.roles);
        let mut estimates = std::mem::take(&mut state.estimates);
        estimates.resize(roles.len(), Default::default());
        let (mut reserved, mut running_costs) = (Vec::new(), Vec::new());
        let takes_room = |found: &PodState, state: &JobState| {
            takes_room(&found.pod, is_in_queue(state, &found.pod), now)
        };
        for (role, cached) in roles.iter().zip(&mut estimates) {
            let seconds = grace_stop_seconds(role.grace_seconds);
            let rates = &mut self.rates;
            let running_cost = new_part_cost(rates, &role.worker, cached, seconds, priority, now);
            stop_times.insert(seconds);
            running_costs.push(running_cost);
            let workers = state.pods.iter().filter_map(|uid| self.pods.get(uid));
            let workers: Vec<&PodState> = workers
                .filter(|found| is_worker_of(&found.pod, &role.name))
                .filter(|found| state.is_of_current_run(&found.pod))
                .collect();
            let pending = workers.iter().filter(|found| takes_room(found, state));
            let ended_well = state.ended_well(&role.name);
            let with_pod = count(workers.len()).saturating_add(ended_well);
            let without_pod = if runs {
                role.replicas.saturating_sub(with_pod)
            } else {
                0
            };
            cost.add_held(running_cost, without_pod);
            let wanted = without_pod.saturating_add(count(pending.count()));
            reserved.push((role.name.clone(), pod_set(&role.worker, wanted)));
        }
        // of a role that is gone, only its pods say what they need
        let mut gone: BTreeMap<Name, PodSet> = BTreeMap::new();
        for found in state.pods.iter().filter_map(|uid| self.pods.get(uid)) {
            let Owner::Job(_, name) = &found.pod.owner else {
                continue;
            };
            if takes_room(found, state) && roles.iter().all(|role| role.name != *name) {
                let pod_set_of_role = gone.entry(name.clone()).or_default();
                *pod_set_of_role = pod_set(&found.pod.shape, pod_set_of_role.workers + 1);
            }
        }
        reserved.extend(gone);
        cost.stop_seconds = stop_times.last().copied().unwrap_or(0);
        state.estimates = estimates;
        let old = std::mem::replace(&mut state.cost, cost.clone());
        state.running_costs = running_costs;
        let price_changes_at = cost_changes_at(&self.rates, stop_times, now);
        state.cost_changes_at = price_changes_at.into_iter().chain(changes_at).min();
        let names = reserved.iter().map(|(role, _)| role.clone()).collect();
        let before = std::mem::replace(&mut state.roles_with_room, names);
        let gone = before.difference(&state.roles_with_room);
        reserved.extend(gone.map(|role| (role.clone(), PodSet::default())));
        for (role, pod_set) in reserved {
            let owner = Owner::Job(key.name.clone(), role);
            let owner = ReservationOwner::Workload(key.clone(), owner);
            self.capacity.reserve(&owner, &pod_set);
        }
        self.note_preemptibility(key, now);
        self.replace_cost(&key.namespace, &old, &cost);
    }
}

/// Replicas that were ordered and have no pod yet.
fn without_pod(state: &ServiceState, replicas: &[drain::Replica]) -> u32 {
    let current = drain::non_draining(state.declared(), replicas);
    let non_draining = replicas.iter().filter(|pod| pod.draining_since.is_none());
    current.saturating_sub(count(non_draining.count()))
}

/// Whether a pod counts among the workers of a role. A Job replaces a pod that is being deleted
/// only when it is gone.
pub(crate) fn is_worker_of(pod: &Pod, role: &str) -> bool {
    pod.ended.is_none() && matches!(&pod.owner, Owner::Job(_, name) if **name == *role)
}
