//! What waits for room that others may give back.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::model::capacity::CapacityClaim;
use crate::model::event::{Key, Name, Service, UNSCHEDULABLE_TIMEOUT};
use crate::model::preemptible::Priorities;
use crate::model::replica_pods::pods_without_node;
use crate::model::state::Model;
use crate::pod_set::SchedulingRank;

/// What waits for room, in the order of the cluster, and when more of it begins to.
pub(super) fn claims(model: &mut Model, now: Timestamp) -> (Vec<CapacityClaim>, Option<Timestamp>) {
    if model.preemptible.is_empty() && model.capacity_preemptions.held.is_empty() {
        return (Vec::new(), None);
    }
    let (mut claims, next) = claims_of_services(model, now);
    let pod_priority = |rank: &SchedulingRank| {
        let key = Key::new(&rank.namespace, &rank.name);
        let spec = model.jobs.get(&key)?.spec.as_ref()?;
        Some(spec.priority)
    };
    claims.extend(model.capacity.first_gangs(pod_priority));
    claims.sort_by(|one, other| one.rank.cmp(&other.rank));
    (claims, next)
}

/// What services claim, and when more of them begin to.
pub(super) fn claims_of_services(
    model: &mut Model,
    now: Timestamp,
) -> (Vec<CapacityClaim>, Option<Timestamp>) {
    let (mut claims, mut next) = (Vec::new(), None);
    let leaves = model.preemptible.leaving().next().is_some();
    let is_above = |key: &Key, spec: &Service| {
        let priorities = Priorities {
            in_cluster: spec.cluster_priority,
            in_namespace: spec.priority,
        };
        let mut below = model.preemptible.below(&key.namespace, priorities);
        below.next().is_some()
    };
    let is_relevant = |key: &&Key| {
        let state = model.services.get(*key);
        let spec = state.and_then(|state| state.spec.as_ref());
        leaves
            || model.capacity_preemptions.held.contains_key(*key)
            || spec.is_some_and(|spec| is_above(key, spec))
    };
    let keys: Vec<Key> = model
        .unschedulable
        .iter()
        .filter(is_relevant)
        .cloned()
        .collect();
    for key in keys {
        let (claim, later) = claim_of_service(model, &key, now);
        claims.extend(claim);
        next = next.into_iter().chain(later).min();
    }
    claims.sort_by(|one, other| one.rank.cmp(&other.rank));
    (claims, next)
}

/// What the replicas of a service claim for which the scheduler has long enough found no node. Where
/// nodes are made for pods, that is as long as a node may take to start. For each of them GPUs are taken back in the
/// five minutes after that: one that has no node then may need something that nobody can give.
fn claim_of_service(
    model: &mut Model,
    key: &Key,
    now: Timestamp,
) -> (Option<CapacityClaim>, Option<Timestamp>) {
    let node_start = model.node_start.unwrap_or_default();
    let Some(state) = model.services.get(key) else {
        return (None, None);
    };
    let Some(spec) = &state.spec else {
        return (None, None);
    };
    let start = |since: &Timestamp| since.saturating_add(node_start).unwrap_or(*since);
    let starts = state.unschedulable.iter();
    let starts = starts.map(|(uid, since)| (start(since), uid));
    let later = starts.clone().map(|(at, _)| at).filter(|at| now < *at);
    let later = later.min();
    let waiting: BTreeSet<(Timestamp, &Name)> = starts.filter(|(at, _)| *at <= now).collect();
    let is_new = |(at, _): &(Timestamp, &Name)| {
        let end = at.saturating_add(UNSCHEDULABLE_TIMEOUT);
        end.is_ok_and(|end| now < end)
    };
    let new: BTreeSet<_> = waiting.iter().copied().filter(is_new).collect();
    let may_preempt = !new.is_empty();
    // nothing is taken for those that had their time beside new ones
    let claimed = if may_preempt { new } else { waiting };
    if claimed.is_empty() {
        return (None, later);
    }
    let rank = SchedulingRank {
        priority: std::cmp::Reverse(spec.cluster_priority),
        created: spec.created,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    };
    let is_whole = spec.workers.is_some();
    let claimed = claimed.iter().map(|(_, uid)| *uid);
    // one replica of several pods at a time: a part of two serves nobody
    let replicas = claimed.take(if is_whole { 1 } else { usize::MAX });
    let pods = pods_without_node(key, state, &model.pods, replicas);
    let pod_priority = spec.priority;
    let claim = (model.capacity).claim(rank, pod_priority, &pods, is_whole, may_preempt);
    (Some(claim), later)
}
