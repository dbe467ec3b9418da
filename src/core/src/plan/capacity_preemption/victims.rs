//! Which gangs give way, and what they and others leave.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::model::capacity::{CapacityClaim, OccupiedCapacity, PreemptionDryRun, ReservationOwner};
use crate::model::event::{Key, Name, Owner, Pod, PodShape};
use crate::model::job::JobState;
use crate::model::preemptible::{CapacityPreemption, Priorities};
use crate::model::spending::bounded_grace;
use crate::model::state::Model;
use crate::plan::interruption::LOST_NODE_TIMEOUT;
use crate::pod_set::Resources;

/// A pod that nobody has told to stop, though its gang does not run, leaves within its grace or within this
/// time, or it stays: whoever makes and deletes it is not known.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_secs(30);

/// The gangs that give way to a claim of which so many pods find room without that; none, if that brings
/// nothing.
pub(super) fn choose(
    model: &Model,
    given: &BTreeMap<Key, CapacityPreemption>,
    dry_run: &PreemptionDryRun<'_>,
    claim: &CapacityClaim,
    placed: u32,
    now: Timestamp,
) -> Vec<Victim> {
    let candidates = candidates(model, given, dry_run, claim, now);
    let placed_with = |chosen: &[usize]| {
        let rooms = chosen.iter().filter_map(|nth| candidates.get(*nth));
        let rooms: Vec<&OccupiedCapacity> = rooms.map(|candidate| &candidate.capacity).collect();
        dry_run.placed(claim, &rooms)
    };
    let all: Vec<usize> = (0..candidates.len()).collect();
    // each replica of one pod serves
    let least = match claim.is_whole {
        true => claim.pods(),
        false => placed + 1,
    };
    let most = placed_with(&all);
    if most < least {
        return Vec::new();
    }
    let fits = |chosen: &[usize]| placed_with(chosen) >= most;
    let needed: BTreeSet<usize> = needed(&fits, &[], &all).into_iter().collect();
    let chosen = candidates.into_iter().enumerate();
    let chosen = chosen.filter(|(nth, _)| needed.contains(nth));
    let victims = chosen.map(|(_, candidate)| Victim {
        key: candidate.order.key,
        capacity: candidate.capacity,
    });
    victims.collect()
}

/// The gangs that may give way to a claim, in the order in which they do.
fn candidates(
    model: &Model,
    given: &BTreeMap<Key, CapacityPreemption>,
    dry_run: &PreemptionDryRun<'_>,
    claim: &CapacityClaim,
    now: Timestamp,
) -> Vec<Candidate> {
    let lower = below(model, claim).filter(|(_, key)| !given.contains_key(key));
    let wants_gpus = wants_gpus(model, claim);
    let candidates = lower.filter_map(|(priority, key)| {
        let state = model.jobs.get(&key)?;
        // GPUs would stand idle for a pod that can do without a node that has some
        if !wants_gpus && has_gpus(state) {
            return None;
        }
        let told = model.capacity_preemptions.given.get(&key);
        let candidate = Candidate {
            capacity: occupied_capacity(model, &key, state),
            order: Order {
                already_preempted: Reverse(told.is_some_and(|told| told.to == claim.rank)),
                is_disrupted: Reverse(is_disrupted(model, state)),
                priority,
                grace_minutes: grace_minutes(state),
                lost_gpu_seconds: lost_gpu_seconds(model, state, now),
                key,
            },
        };
        Some(candidate).filter(|candidate| dry_run.is_of_use(&candidate.capacity, claim))
    });
    let mut candidates: Vec<Candidate> = candidates.collect();
    candidates.sort_by(|one, other| one.order.cmp(&other.order));
    candidates
}

fn of_gpus(shape: &PodShape) -> bool {
    let attributes = shape.attributes.as_ref();
    attributes.is_some_and(|attributes| attributes.gpus > 0)
}

/// Whether what claims room has GPUs.
pub(super) fn wants_gpus(model: &Model, claim: &CapacityClaim) -> bool {
    let key = claim.key();
    match claim.is_of_service {
        true => {
            let spec = model
                .services
                .get(&key)
                .and_then(|state| state.spec.as_ref());
            spec.is_some_and(|spec| spec.shapes().any(|shape| of_gpus(shape)))
        }
        false => model.jobs.get(&key).is_some_and(has_gpus),
    }
}

/// Whether workers of a gang have GPUs.
fn has_gpus(state: &JobState) -> bool {
    let mut roles = state.spec.iter().flat_map(|spec| &spec.roles);
    roles.any(|role| of_gpus(&role.worker))
}

/// The gangs that may give way to a claim, each with its priority in the cluster.
pub(super) fn below<'a>(
    model: &'a Model,
    claim: &'a CapacityClaim,
) -> impl Iterator<Item = (i32, Key)> + 'a {
    let priorities = Priorities {
        in_cluster: claim.rank.priority.0,
        in_namespace: claim.pod_priority,
    };
    model.preemptible.below(&claim.rank.namespace, priorities)
}

/// A gang that may give way.
struct Candidate {
    order: Order,
    capacity: OccupiedCapacity,
}

/// A gang that gives way.
pub(super) struct Victim {
    pub(super) key: Key,
    pub(super) capacity: OccupiedCapacity,
}

/// What gives way first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    /// It was told so before, and has not stopped.
    already_preempted: Reverse<bool>,
    /// The cluster takes one of its workers away, so all of them start again in any case.
    is_disrupted: Reverse<bool>,
    priority: i32,
    /// Minutes that its workers may take to stop: the one that waits has nothing of what stops late.
    grace_minutes: i64,
    /// The work since it last started: nobody knows of its checkpoints.
    lost_gpu_seconds: i64,
    key: Key,
}

/// Those of `candidates` without which the others, together with `chosen`, are not enough: of what is
/// as good, the earlier ones (Junker, QuickXplain, AAAI 2004). All of them together are enough, and
/// `chosen` alone are not.
fn needed(fits: &impl Fn(&[usize]) -> bool, chosen: &[usize], candidates: &[usize]) -> Vec<usize> {
    if candidates.len() <= 1 {
        return candidates.to_vec();
    }
    let (first, last) = candidates.split_at(candidates.len() / 2);
    let both = |one: &[usize], other: &[usize]| [one, other].concat();
    let with_first = both(chosen, first);
    let of_last = match fits(&with_first) {
        true => Vec::new(),
        false => needed(fits, &with_first, last),
    };
    let with_last = both(chosen, &of_last);
    let of_first = match fits(&with_last) {
        true => Vec::new(),
        false => needed(fits, &with_last, first),
    };
    both(&of_first, &of_last)
}

/// Whether a worker of a gang was told to stop, and not by that gang.
fn is_disrupted(model: &Model, state: &JobState) -> bool {
    let mut pods = state.pods.iter().filter_map(|uid| model.pods.get(uid));
    pods.any(|found| found.pod.is_terminating())
}

/// The minutes that the slowest of a gang's workers may take to stop.
fn grace_minutes(state: &JobState) -> i64 {
    let roles = state.spec.iter().flat_map(|spec| &spec.roles);
    let grace = roles.map(|role| bounded_grace(role.grace_seconds)).max();
    grace.unwrap_or(0) / 60
}

/// The GPU-seconds since the gang last started, at most the work that is lost when it stops.
fn lost_gpu_seconds(model: &Model, state: &JobState, now: Timestamp) -> i64 {
    let Some(started) = state.started() else {
        return 0;
    };
    let pods = state.pods.iter().filter_map(|uid| model.pods.get(uid));
    let bound = pods.filter(|found| found.pod.node.is_some() && found.pod.ended.is_none());
    let gpus = bound.filter_map(|found| found.pod.shape.attributes.as_ref());
    let gpus: i64 = gpus.map(|attributes| i64::from(attributes.gpus)).sum();
    let seconds = now.duration_since(started).as_secs().max(0);
    gpus.saturating_mul(seconds)
}

/// The room that a gang gives back: of its bound workers, and of those that have no node yet. A pod that only
/// has the labels of a worker is not stopped with them.
fn occupied_capacity(model: &Model, key: &Key, state: &JobState) -> OccupiedCapacity {
    let pods = state.pods.iter().filter_map(|uid| model.pods.get(uid));
    let pods = pods.map(|found| &*found.pod);
    let stops = |pod: &&Pod| pod.deletion.is_some() || state.is_of_current_run(pod);
    let bound = pods.filter(stops).filter_map(bound);
    let owners = state.roles_with_room.iter().map(|role| {
        let owner = Owner::Job(key.name.clone(), role.clone());
        ReservationOwner::Workload(key.clone(), owner)
    });
    model.capacity.held(bound, owners)
}

/// The room that becomes free without anybody giving way: of gangs that do not run any more, and of other
/// pods that were told to stop.
pub(super) fn leaving(model: &Model, now: Timestamp) -> OccupiedCapacity {
    let gangs = model.preemptible.leaving();
    let gangs = gangs.filter_map(|key| model.jobs.get(key));
    let workers = gangs.flat_map(|state| {
        let pods = state.pods.iter().filter_map(|uid| model.pods.get(uid));
        let pods = pods.map(|found| &*found.pod);
        pods.filter(move |pod| match pod.deletion {
            Some(by) => is_in_time(pod, by, now),
            None => awaits_deletion(pod, state.leaving_since, now),
        })
    });
    let others = model.terminating.iter().filter_map(|uid| {
        let pod = &*model.pods.get(uid)?.pod;
        // another worker follows one of a gang that goes on
        let is_worker = matches!(pod.owner, Owner::Job(..));
        (!is_worker && is_in_time(pod, pod.deletion?, now)).then_some(pod)
    });
    model
        .capacity
        .held(workers.chain(others).filter_map(bound), [])
}

/// The node and the requests of a pod that uses them.
fn bound(pod: &Pod) -> Option<(&Name, &Resources)> {
    let node = pod.node.as_ref().filter(|_| pod.ended.is_none())?;
    Some((node, &pod.shape.requests))
}

/// Whether a pod that was told to stop by this time will have left in a bounded time. One that was told so
/// long ago is taken to stay.
fn is_in_time(pod: &Pod, by: Timestamp, now: Timestamp) -> bool {
    let excess = pod.grace_seconds - bounded_grace(pod.grace_seconds);
    let by = by.checked_sub(SignedDuration::from_secs(excess));
    let by = by.and_then(|by| by.checked_add(LOST_NODE_TIMEOUT));
    by.is_ok_and(|by| now < by)
}

/// Whether a pod that was not told to stop may still be, as its gang was. One that nobody tells so within
/// its own grace holds its node like any other pod.
fn awaits_deletion(pod: &Pod, since: Option<Timestamp>, now: Timestamp) -> bool {
    let grace = SignedDuration::from_secs(bounded_grace(pod.grace_seconds));
    let until = since.and_then(|since| since.checked_add(grace.max(DELETION_TIMEOUT)).ok());
    until.is_some_and(|until| now < until)
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    /// Nodes with how much each of some gangs gives back there: enough is eight of one node.
    fn fits(gives: &[(usize, u32)], chosen: &[usize]) -> bool {
        (0..3).any(|node| {
            let of_node = chosen.iter().map(|nth| gives[*nth]);
            let of_node = of_node.filter(|(other, _)| *other == node);
            of_node.map(|(_, gpus)| gpus).sum::<u32>() >= 8
        })
    }

    #[test]
    fn none_of_those_that_are_needed_can_be_left_out_and_the_last_of_them_comes_early() {
        let mut rng = Rng::with_seed(7);
        let mut looked = 0;
        while looked < 2000 {
            let gives = (0..rng.usize(1..16)).map(|_| (rng.usize(0..3), rng.u32(1..9)));
            let gives: Vec<(usize, u32)> = gives.collect();
            let all: Vec<usize> = (0..gives.len()).collect();
            if !fits(&gives, &all) {
                continue;
            }
            looked += 1;
            let chosen = needed(&|chosen: &[usize]| fits(&gives, chosen), &[], &all);
            assert!(fits(&gives, &chosen), "{gives:?}: {chosen:?}");
            for left_out in &chosen {
                let others = chosen.iter().copied().filter(|nth| nth != left_out);
                let others: Vec<usize> = others.collect();
                assert!(!fits(&gives, &others), "{gives:?}: {chosen:?}");
            }
            // without it and those behind it there would not have been enough
            let last = chosen.iter().copied().max().unwrap();
            assert!(!fits(&gives, &all[..last]), "{gives:?}: {chosen:?}");
        }
    }
}
