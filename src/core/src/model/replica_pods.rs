//! Replicas of several pods: one pod leads, takes the requests and is marked to leave, and the others are its
//! workers, which come and go with it. Such a replica counts once, with what all of its pods cost and need.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::budget::RunningCost;
use crate::money::Money;
use crate::pod_set::PodSet;

use super::capacity::ReservationOwner;
use super::draining::{draining_since, is_replica};
use super::event::{Key, Name, Owner, Pod, PodShape, Service};
use super::pod_cost::{PodIntent, pod_set};
use super::service::{Replica, ServiceState, failed_at, failures};
use super::state::{Model, PodState, count};

/// The leader of a worker, if it is there: a pod of the same service that is no worker itself and has not
/// ended.
fn leader_of<'a>(
    state: &ServiceState,
    pods: &'a BTreeMap<Name, PodState>,
    worker: &Pod,
) -> Option<(&'a Name, &'a Pod)> {
    let leader = worker.leader.as_ref()?;
    let (uid, found) = pods
        .get_key_value(leader)
        .filter(|_| state.pods.contains(leader))?;
    let leads = found.pod.leader.is_none() && found.pod.ended.is_none();
    leads.then_some((uid, &*found.pod))
}

/// What becomes of a pod of a service.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct PodFate {
    /// What it was told, by itself or by what its leader was.
    pub(super) intent: PodIntent,
    /// It stops with its leader, whose drain is over.
    pub(super) has_drained: bool,
    /// A pod of its replica has a node: the replica is not taken back for nothing.
    pub(super) is_held: bool,
}

impl PodFate {
    /// Whether neither it nor its leader was told to leave.
    pub(super) fn stays(self) -> bool {
        self.intent == PodIntent::Run
    }
}

/// What becomes of this pod of a service.
pub(super) fn fate(
    state: &ServiceState,
    pods: &BTreeMap<Name, PodState>,
    uid: &Name,
    pod: &Pod,
) -> PodFate {
    let told = |uid: &Name, pod: &Pod| {
        let since = draining_since(&state.draining, uid, pod);
        since.map_or(PodIntent::Run, PodIntent::Drain)
    };
    if pod.leader.is_none() {
        return PodFate {
            intent: told(uid, pod),
            has_drained: false,
            is_held: false,
        };
    }
    let Some((uid, leader)) = leader_of(state, pods, pod) else {
        // its replica is gone, and nobody will use it
        return PodFate {
            intent: PodIntent::Stop,
            has_drained: true,
            is_held: true,
        };
    };
    let deleted = leader.deleted_at();
    PodFate {
        intent: deleted.map_or_else(|| told(uid, leader), PodIntent::Drain),
        has_drained: deleted.is_some(),
        is_held: leader.node.is_some(),
    }
}

/// The workers that a replica lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MissingWorkers {
    /// The UID of its leader.
    pub(super) replica: Name,
    /// How many.
    pub(super) number: u32,
    /// The leader has a node: the replica is not taken back for nothing.
    pub(super) is_held: bool,
}

/// The workers that replicas lack which were not told to leave: those that are not made yet, and those that go
/// and come again.
pub(super) fn missing_workers(
    state: &ServiceState,
    pods: &BTreeMap<Name, PodState>,
) -> Vec<MissingWorkers> {
    let workers = state.spec.as_ref().and_then(|spec| spec.workers.as_ref());
    let Some(workers) = workers else {
        return Vec::new();
    };
    let there = workers_by_leader(state, pods);
    let missing = state.pods.iter().filter_map(|uid| {
        let pod = &pods.get(uid)?.pod;
        let stays = draining_since(&state.draining, uid, pod).is_none();
        if pod.leader.is_some() || !is_replica(pod) || !stays {
            return None;
        }
        let there = there.get(uid).map_or(0, |workers| count(workers.len()));
        Some(MissingWorkers {
            replica: uid.clone(),
            number: workers.count.saturating_sub(there),
            is_held: pod.node.is_some(),
        })
    });
    missing.filter(|missing| missing.number > 0).collect()
}

impl Model {
    /// The owner of the room that is reserved for a pod while it has no node.
    pub(super) fn reservation_owner(&self, uid: &Name, pod: &Pod) -> ReservationOwner {
        match self.owner(pod) {
            Some((key, Owner::Service(_))) => {
                let state = self.services.get(&key);
                let spec = state.and_then(|state| state.spec.as_ref());
                reservation_owner(&key, spec, uid, pod)
            }
            Some((key, owner)) => ReservationOwner::Workload(key, owner),
            None => ReservationOwner::Pod(uid.clone()),
        }
    }
}

/// The owner of the room that is reserved for a pod of a service while it has no node. What is reserved for all that
/// are alike is of the shape that the template says: others may have made more of a pod, such as a node selector.
pub(crate) fn reservation_owner(
    key: &Key,
    spec: Option<&Service>,
    uid: &Name,
    pod: &Pod,
) -> ReservationOwner {
    let template = spec.and_then(|spec| match (&pod.leader, &spec.workers) {
        (None, _) => Some(&spec.replica),
        (Some(_), workers) => workers.as_ref().map(|workers| &workers.shape),
    });
    let is_alike = template.is_some_and(|template| needs_the_same(template, &pod.shape));
    match (&pod.leader, is_alike) {
        (_, false) => ReservationOwner::ReplicaPod(key.clone(), uid.clone()),
        (Some(_), true) => ReservationOwner::ReplicaWorkers(key.clone()),
        (None, true) => ReservationOwner::Workload(key.clone(), Owner::Service(key.name.clone())),
    }
}

/// Whether pods of both shapes find room on the same nodes.
fn needs_the_same(one: &Arc<PodShape>, other: &Arc<PodShape>) -> bool {
    Arc::ptr_eq(one, other) || pod_set(one, 1) == pod_set(other, 1)
}

/// What these replicas lack a node for, workers included that are not made yet, with the owners of the room that is
/// reserved for it.
pub(crate) fn pods_without_node<'a>(
    key: &Key,
    state: &ServiceState,
    pods: &BTreeMap<Name, PodState>,
    replicas: impl Iterator<Item = &'a Name>,
) -> Vec<(PodSet, ReservationOwner)> {
    let spec = state.spec.as_ref();
    let replicas: BTreeSet<&Name> = replicas.collect();
    let mut without_node: BTreeMap<ReservationOwner, PodSet> = BTreeMap::new();
    let mut there = 0;
    for (uid, found) in state.pods.iter().filter_map(|uid| pods.get_key_value(uid)) {
        let pod = &found.pod;
        if !is_replica(pod) || !replicas.contains(pod.leader.as_ref().unwrap_or(uid)) {
            continue;
        }
        there += u32::from(pod.leader.is_some());
        if pod.node.is_none() {
            let owner = reservation_owner(key, spec, uid, pod);
            let set = without_node.entry(owner);
            set.or_insert_with(|| pod_set(&pod.shape, 0)).workers += 1;
        }
    }
    if let Some(workers) = spec.and_then(|spec| spec.workers.as_ref()) {
        let wanted = workers.count.saturating_mul(count(replicas.len()));
        let set = without_node.entry(ReservationOwner::ReplicaWorkers(key.clone()));
        set.or_insert_with(|| pod_set(&workers.shape, 0)).workers += wanted.saturating_sub(there);
    }
    let without_node = without_node.into_iter().map(|(owner, set)| (set, owner));
    without_node.filter(|(set, _)| set.workers > 0).collect()
}

/// The workers of a service that have neither ended nor been told to stop, by the UIDs of their leaders.
pub(crate) fn workers_by_leader<'a>(
    state: &ServiceState,
    pods: &'a BTreeMap<Name, PodState>,
) -> BTreeMap<&'a Name, Vec<&'a Pod>> {
    let mut workers: BTreeMap<&Name, Vec<&Pod>> = BTreeMap::new();
    let found = state.pods.iter().filter_map(|uid| pods.get(uid));
    for pod in found.map(|found| &*found.pod) {
        if let Some(leader) = pod.leader.as_ref().filter(|_| is_replica(pod)) {
            workers.entry(leader).or_default().push(pod);
        }
    }
    workers
}

/// Why replicas are not ready that have failed to start, one for each of them, and from when on that counts:
/// one that waits for its workers fails with the first of these that does.
pub(crate) fn start_failures(
    replicas: &[Replica<'_>],
    workers: &BTreeMap<&Name, Vec<&Pod>>,
) -> Vec<(String, Timestamp)> {
    let of_workers = replicas.iter().filter_map(|(uid, leader, _)| {
        if leader.ready_since.is_some() || leader.start_failure.is_some() {
            return None;
        }
        let workers = workers.get(*uid)?.iter();
        let failing = workers.filter(|pod| pod.ready_since.is_none());
        let failing = failing.filter_map(|pod| {
            let (why, since) = pod.start_failure.as_ref()?;
            Some((failed_at(*since), &pod.key.name, why))
        });
        let (at, name, why) = failing.min()?;
        Some((format!("pod {name}: {why}"), at))
    });
    failures(replicas).into_iter().chain(of_workers).collect()
}

/// What all pods of a replica cost: one that leads it, and so many others. Both stop at once as far as the
/// money goes that is kept for that.
pub(super) fn replica_cost(leader: RunningCost, worker: RunningCost, workers: u32) -> RunningCost {
    let sum = |leader: Option<Money>, worker: Option<Money>| Some(leader? + worker?.times(workers));
    RunningCost {
        rate: sum(leader.rate, worker.rate),
        stop_rate: sum(leader.stop_rate, worker.stop_rate),
        stop_seconds: leader.stop_seconds.max(worker.stop_seconds),
        priority: leader.priority,
        basis: leader.basis.max(worker.basis),
    }
}
