//! Whose GPUs are taken back for whom.
//!
//! What waits for room is looked at in the order of the cluster: replicas for which the scheduler has
//! found no node, and gangs ahead of which nobody waits for the same nodes. What leaves anyway comes
//! first: as long as one finds room once that has gone, nobody is suspended for it. Else running gangs of a lower
//! priority give way, if enough of them do so that all of it finds room: the lowest priority first,
//! then what stops soonest, by minutes, and has run for the fewest GPU-seconds, and no gang that is not
//! needed. A gang of which the cluster takes a worker away anyway comes before all others.
//!
//! It is computed from what the objects show, so that a new leader comes to the same answer in the
//! middle of it: the workers that stop are those that leave.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::capacity::Rank;
use crate::model::cost::gang;
use crate::model::event::{Key, Name, Owner, Pod, Service, UNSCHEDULABLE_TIMEOUT};
use crate::model::job::JobState;
use crate::model::preemptible::RoomPreemption;
use crate::model::room::{HeldRoom, ReservationOwner, RoomClaim, ShapeId, Trial};
use crate::model::spending::bounded_grace;
use crate::model::state::{Model, count};
use crate::model::timers::Subject;
use crate::plan::interruption::LOST_AFTER;

/// While something waits to which others could give way, it is looked again after this long.
const PACE: SignedDuration = SignedDuration::from_secs(10);

/// After so many claims for which no set of gangs is enough, nobody gives way to those behind them
/// until the next look.
const MOST_UNSERVED: usize = 32;

/// Once there is room for replicas, it is kept from gangs behind them for so long: kube-scheduler
/// tries a pod again within ten seconds of another one's end.
const BINDING_TIME: SignedDuration = SignedDuration::from_mins(1);

/// What came of a look.
#[derive(Default)]
struct Found {
    /// Those that claim room.
    claimants: BTreeSet<Rank>,
    given: BTreeMap<Key, RoomPreemption>,
    /// The replicas for which nodes are kept.
    held: Vec<RoomClaim>,
    /// These, with when that ends at the latest.
    held_until: BTreeMap<Key, Timestamp>,
    /// Other replicas that were looked at.
    passed: Vec<RoomClaim>,
    /// Others may come to give way to one of those that wait.
    may_change: bool,
    /// How many claims found no room, whoever gave way.
    unserved: usize,
}

/// Looks whose GPUs are taken back for whom, if that may have changed, and marks the queues of gangs
/// that give way or do so no more. Returns whether it has looked.
pub(super) fn preempt(model: &mut Model, now: Timestamp) -> bool {
    if model.observe_only || !take_due(model, now) {
        return false;
    }
    model.room.note_first_gangs();
    let (claims, next_claim) = claims(model, now);
    let found = find_preemptions(model, claims, now);
    let again = found.may_change || !found.held.is_empty();
    let again = again.then(|| now.saturating_add(PACE).unwrap_or(now));
    let next = again.into_iter().chain(next_claim).min();
    model.room_preemptions.next = next;
    model.timers.set(Subject::Room, next);
    model.room.release(found.passed);
    model.room.hold_for_replicas(found.held);
    model.room_preemptions.held = found.held_until;
    replace(model, found.given, |told| {
        found.claimants.contains(&told.to)
    });
    true
}

/// The same for replicas alone, if others of them wait than before: gangs find no room that they need.
pub(super) fn preempt_for_replicas(model: &mut Model, now: Timestamp) {
    let is_known = !model.room_preemptions.is_due || model.unschedulable.is_empty();
    if model.observe_only || is_known {
        return;
    }
    let (mut claims, _) = claims_of_services(model, now);
    claims.sort_by(|one, other| one.rank.cmp(&other.rank));
    let found = find_preemptions(model, claims, now);
    let mut given = model.room_preemptions.given.clone();
    given.retain(|_, preemption| !preemption.is_of_service);
    given.extend(found.given);
    model.room.release(found.passed);
    model.room.hold_for_replicas(found.held);
    model.room_preemptions.held = found.held_until;
    replace(model, given, |told| {
        !told.is_of_service || found.claimants.contains(&told.to)
    });
}

/// Whether it may have changed who gives way.
fn take_due(model: &mut Model, now: Timestamp) -> bool {
    let memory = &mut model.room_preemptions;
    let is_due = std::mem::take(&mut memory.is_due) || memory.next.is_some_and(|at| at <= now);
    let is_new = model.preemptible.take_new_priority();
    is_due || is_new || model.room.has_new_first_gangs()
}

/// What waits for room, in the order of the cluster, and when more of it begins to.
fn claims(model: &mut Model, now: Timestamp) -> (Vec<RoomClaim>, Option<Timestamp>) {
    if model.preemptible.is_empty() && model.room_preemptions.held.is_empty() {
        return (Vec::new(), None);
    }
    let (mut claims, next) = claims_of_services(model, now);
    claims.extend(model.room.first_gangs());
    claims.sort_by(|one, other| one.rank.cmp(&other.rank));
    (claims, next)
}

/// What services claim, and when more of them begin to.
fn claims_of_services(model: &mut Model, now: Timestamp) -> (Vec<RoomClaim>, Option<Timestamp>) {
    let (mut claims, mut next) = (Vec::new(), None);
    let leaves = model.preemptible.leaving().next().is_some();
    let lowest = model.preemptible.lowest();
    let is_relevant = |key: &&Key| {
        let state = model.services.get(*key);
        let spec = state.and_then(|state| state.spec.as_ref());
        let is_above = |lowest| spec.is_some_and(|spec: &Service| lowest < spec.cluster_priority);
        leaves || model.room_preemptions.held.contains_key(*key) || lowest.is_some_and(is_above)
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
) -> (Option<RoomClaim>, Option<Timestamp>) {
    let patience = model.node_start.unwrap_or_default();
    let Some(state) = model.services.get(key) else {
        return (None, None);
    };
    let Some(spec) = &state.spec else {
        return (None, None);
    };
    let starts = state.unschedulable.values();
    let starts = starts.map(|since| since.saturating_add(patience).unwrap_or(*since));
    let later = starts.clone().filter(|at| now < *at).min();
    let waiting: Vec<Timestamp> = starts.filter(|at| *at <= now).collect();
    let is_new = |at: &Timestamp| {
        let end = at.saturating_add(UNSCHEDULABLE_TIMEOUT);
        end.is_ok_and(|end| now < end)
    };
    let new = waiting.iter().filter(|at| is_new(at)).count();
    let may_preempt = new > 0;
    // nothing is taken for those that had their time beside new ones
    let claimed = if may_preempt { new } else { waiting.len() };
    if waiting.is_empty() {
        return (None, later);
    }
    let rank = Rank {
        priority: std::cmp::Reverse(spec.cluster_priority),
        created: spec.created,
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    };
    let replicas = gang(&spec.replica, count(claimed));
    let owner = ReservationOwner::Workload(key.clone(), Owner::Service(key.name.clone()));
    let claim = model.room.claim(rank, &replicas, &owner, may_preempt);
    (Some(claim), later)
}

fn find_preemptions(model: &Model, claims: Vec<RoomClaim>, now: Timestamp) -> Found {
    let mut found = Found::default();
    let waiting = model.room.missing();
    let mut at_once = model.room.trial();
    let mut later = model.room.trial();
    later.free(&leaving(model, now));
    let mut ahead: BTreeSet<ShapeId> = BTreeSet::new();
    for claim in claims {
        found.claimants.insert(claim.rank.clone());
        if claim.is_of_service {
            let key = Key {
                namespace: claim.rank.namespace.clone(),
                name: claim.rank.name.clone(),
            };
            let until = if at_once.fits(&claim, &waiting, &[]) {
                at_once.put_ahead(&claim);
                let until = model.room_preemptions.held.get(&key).copied();
                until.filter(|until| now < *until)
            } else {
                let finds_room = found.finds_room(model, &mut later, &claim, &waiting, now);
                finds_room.then(|| now.saturating_add(BINDING_TIME).unwrap_or(now))
            };
            match until {
                None => found.passed.push(claim),
                Some(until) => {
                    ahead.extend(claim.shapes());
                    found.held_until.insert(key, until);
                    found.held.push(claim);
                }
            }
        } else {
            let is_first = !model.room.is_wanted_by(&claim, &ahead);
            ahead.extend(claim.shapes());
            if is_first {
                found.finds_room(model, &mut later, &claim, &waiting, now);
            }
        }
    }
    found
}

impl Found {
    /// Whether a claim finds room once what leaves has left, and those that give way to it have.
    fn finds_room(
        &mut self,
        model: &Model,
        trial: &mut Trial<'_>,
        claim: &RoomClaim,
        waiting: &[(ShapeId, u32)],
        now: Timestamp,
    ) -> bool {
        let is_above = |lowest| lowest < claim.rank.priority.0;
        let may_preempt = claim.may_preempt && model.preemptible.lowest().is_some_and(is_above);
        self.may_change |= may_preempt;
        if !trial.fits(claim, waiting, &[]) {
            let victims = match may_preempt && self.unserved < MOST_UNSERVED {
                true => self.choose(model, trial, claim, waiting, now),
                false => Vec::new(),
            };
            if victims.is_empty() {
                self.unserved += usize::from(may_preempt);
                return false;
            }
            for victim in victims {
                trial.free(&victim.room);
                let preemption = RoomPreemption {
                    to: claim.rank.clone(),
                    is_of_service: claim.is_of_service,
                };
                self.given.insert(victim.order.key, preemption);
            }
        }
        trial.put_ahead(claim);
        true
    }

    /// The gangs that give way to a claim; none, if it finds no room even then.
    fn choose(
        &self,
        model: &Model,
        trial: &Trial<'_>,
        claim: &RoomClaim,
        waiting: &[(ShapeId, u32)],
        now: Timestamp,
    ) -> Vec<Candidate> {
        let lower = model.preemptible.below(claim.rank.priority.0);
        let lower = lower.filter(|(_, key)| !self.given.contains_key(key));
        let own = own_priority(model, claim);
        let lower = lower.filter(|(_, key)| ranks_behind(model, key, claim, own));
        let candidates = lower.filter_map(|(priority, key)| {
            let state = model.jobs.get(key)?;
            let told = model.room_preemptions.given.get(key);
            let candidate = Candidate {
                order: Order {
                    is_told: std::cmp::Reverse(told.is_some_and(|told| told.to == claim.rank)),
                    is_disrupted: std::cmp::Reverse(is_disrupted(model, state)),
                    priority,
                    grace_minutes: grace_minutes(state),
                    lost_gpu_seconds: lost_gpu_seconds(model, state, now),
                    key: key.clone(),
                },
                room: held_room(model, key, state, now),
            };
            Some(candidate).filter(|candidate| trial.is_of_use(&candidate.room, claim))
        });
        let mut candidates: Vec<Candidate> = candidates.collect();
        candidates.sort_by(|one, other| one.order.cmp(&other.order));
        let fits = |chosen: &[usize]| {
            let rooms = chosen.iter().filter_map(|nth| candidates.get(*nth));
            let rooms: Vec<&HeldRoom> = rooms.map(|candidate| &candidate.room).collect();
            trial.fits(claim, waiting, &rooms)
        };
        let all: Vec<usize> = (0..candidates.len()).collect();
        if !fits(&all) {
            return Vec::new();
        }
        let needed: BTreeSet<usize> = needed(&fits, &[], &all).into_iter().collect();
        let chosen = candidates.into_iter().enumerate();
        let chosen = chosen.filter(|(nth, _)| needed.contains(nth));
        chosen.map(|(_, candidate)| candidate).collect()
    }
}

/// The priority of a claimant within its namespace.
fn own_priority(model: &Model, claim: &RoomClaim) -> Option<i32> {
    let key = Key {
        namespace: claim.rank.namespace.clone(),
        name: claim.rank.name.clone(),
    };
    match claim.is_of_service {
        true => Some(model.services.get(&key)?.spec.as_ref()?.priority),
        false => Some(model.jobs.get(&key)?.spec.as_ref()?.priority),
    }
}

/// Whether a gang would wait behind a claimant. Within a namespace its own priorities count too: it
/// would be first there otherwise, and the room would be its own again.
fn ranks_behind(model: &Model, key: &Key, claim: &RoomClaim, own: Option<i32>) -> bool {
    let spec = model.jobs.get(key).and_then(|state| state.spec.as_ref());
    key.namespace != claim.rank.namespace
        || spec.is_some_and(|spec| own.is_some_and(|own| spec.priority < own))
}

/// A gang that may give way.
struct Candidate {
    order: Order,
    room: HeldRoom,
}

/// What gives way first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    /// It was told so before, and has not stopped.
    is_told: std::cmp::Reverse<bool>,
    /// The cluster takes one of its workers away, so all of them start again in any case.
    is_disrupted: std::cmp::Reverse<bool>,
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

/// The room that a gang gives back: of its bound workers, and of those that have no node yet.
fn held_room(model: &Model, key: &Key, state: &JobState, now: Timestamp) -> HeldRoom {
    let pods = state.pods.iter().filter_map(|uid| model.pods.get(uid));
    let bound = pods.filter_map(|found| bound(&found.pod, now));
    let owners = state.roles_with_room.iter().map(|role| {
        let owner = Owner::Job(key.name.clone(), role.clone());
        ReservationOwner::Workload(key.clone(), owner)
    });
    model.room.held(bound, owners)
}

/// The room that becomes free without anybody giving way: of gangs that do not run any more, and of other
/// pods that were told to stop.
fn leaving(model: &Model, now: Timestamp) -> HeldRoom {
    let gangs = model.preemptible.leaving();
    let gangs = gangs.filter_map(|key| model.jobs.get(key));
    let workers = gangs.flat_map(|state| &state.pods);
    let is_worker = |pod: &Pod| matches!(pod.owner, Owner::Job(..));
    let others = model.terminating.iter().filter(|uid| {
        let found = model.pods.get(*uid);
        // another worker follows one of a gang that goes on
        found.is_some_and(|found| !is_worker(&found.pod))
    });
    let pods = workers.chain(others).filter_map(|uid| model.pods.get(uid));
    let bound = pods.filter_map(|found| bound(&found.pod, now));
    model.room.held(bound, [])
}

/// The node and the requests of a pod that uses them and will have left in a bounded time. One that
/// was told to stop long ago is taken to stay.
fn bound(pod: &Pod, now: Timestamp) -> Option<(&Name, &crate::capacity::Resources)> {
    let node = pod.node.as_ref().filter(|_| pod.ended.is_none())?;
    let is_overdue = pod.deletion.is_some_and(|by| {
        let excess = pod.grace_seconds - bounded_grace(pod.grace_seconds);
        let by = by.checked_sub(SignedDuration::from_secs(excess));
        let by = by.and_then(|by| by.checked_add(LOST_AFTER));
        by.is_ok_and(|by| by <= now)
    });
    (!is_overdue).then_some((node, &pod.shape.requests))
}

/// Takes who gives way now, and marks the queues that this concerns. What has not stopped yet and is
/// not needed any more goes on; what is stopping is known for as long as the one claims for which it
/// does.
fn replace(
    model: &mut Model,
    mut given: BTreeMap<Key, RoomPreemption>,
    claims: impl Fn(&RoomPreemption) -> bool,
) {
    let before = std::mem::take(&mut model.room_preemptions.given);
    let new = given
        .iter()
        .filter(|(key, to)| before.get(*key) != Some(*to));
    let mut concerned: BTreeSet<Name> = new.map(|(key, _)| key.namespace.clone()).collect();
    for (key, preemption) in before {
        let Some(state) = model.jobs.get(&key).filter(|_| !given.contains_key(&key)) else {
            continue;
        };
        if state.has_room() {
            concerned.insert(key.namespace.clone());
        } else if !state.pods.is_empty() && claims(&preemption) {
            given.insert(key, preemption);
        }
    }
    model.room_preemptions.given = given;
    concerned.retain(|name| !model.is_observed(name));
    model.marks.queues.extend(concerned);
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
