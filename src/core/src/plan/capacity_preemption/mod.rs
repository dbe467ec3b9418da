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
//! middle of it: the workers that stop are those that leave. Only where what became free went to pods
//! of a lower priority it matters what was taken before: no other set is taken for that claim then.
//!
//! | module | subject |
//! |---|---|
//! | `claims` | what waits for room |
//! | `victims` | which gangs give way, and what they and others leave |
//! | `taken` | what became of the room that was taken |

mod claims;
mod reclaimed;
mod victims;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::model::capacity::{
    CapacityClaim, PreemptionDryRun, ReservationOwner, ShapeId, WaitingPods,
};
use crate::model::event::{Key, Name, Owner};
use crate::model::preemptible::{CapacityPreemption, ClaimantId, ReclaimedCapacity};
use crate::model::state::Model;
use crate::model::timers::TimerKey;
use crate::pod_set::SchedulingRank;

use self::claims::{claims, claims_of_services};
use self::reclaimed::{forget_taken, lower_priority_took};
use self::victims::{below, choose, leaving, wants_gpus};

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
    claimants: BTreeSet<SchedulingRank>,
    given: BTreeMap<Key, CapacityPreemption>,
    /// What is taken for whom.
    taken: BTreeMap<ClaimantId, ReclaimedCapacity>,
    /// The replicas for which nodes are kept.
    held: Vec<CapacityClaim>,
    /// These, with when that ends at the latest.
    held_until: BTreeMap<Key, Timestamp>,
    /// Other replicas that were looked at.
    passed: Vec<CapacityClaim>,
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
    model.capacity.note_first_gangs();
    forget_taken(model, now);
    let (claims, next_claim) = claims(model, now);
    let found = find_preemptions(model, claims, now);
    let again = found.may_change || !found.held.is_empty();
    let again = again.then(|| now.saturating_add(PACE).unwrap_or(now));
    let next = again.into_iter().chain(next_claim).min();
    model.capacity_preemptions.next = next;
    model.timers.set(TimerKey::Preemption, next);
    model.capacity.release(found.passed);
    model.capacity.reserve_for_replicas(found.held);
    model.capacity_preemptions.held = found.held_until;
    model.capacity_preemptions.taken.extend(found.taken);
    replace(model, found.given, |told| {
        found.claimants.contains(&told.to)
    });
    true
}

/// The same for replicas alone, if others of them wait than before: gangs find no room that they need.
pub(super) fn preempt_for_replicas(model: &mut Model, now: Timestamp) {
    let is_known = !model.capacity_preemptions.is_due || model.unschedulable.is_empty();
    if model.observe_only || is_known {
        return;
    }
    forget_taken(model, now);
    let (mut claims, _) = claims_of_services(model, now);
    claims.sort_by(|one, other| one.rank.cmp(&other.rank));
    let found = find_preemptions(model, claims, now);
    let mut given = model.capacity_preemptions.given.clone();
    given.retain(|_, preemption| !preemption.is_of_service);
    given.extend(found.given);
    model.capacity.release(found.passed);
    model.capacity.reserve_for_replicas(found.held);
    model.capacity_preemptions.held = found.held_until;
    model.capacity_preemptions.taken.extend(found.taken);
    replace(model, given, |told| {
        !told.is_of_service || found.claimants.contains(&told.to)
    });
}

/// Whether it may have changed who gives way.
fn take_due(model: &mut Model, now: Timestamp) -> bool {
    let memory = &mut model.capacity_preemptions;
    let is_due = std::mem::take(&mut memory.is_due) || memory.next.is_some_and(|at| at <= now);
    let is_new = model.preemptible.take_new_priority();
    is_due || is_new || model.capacity.has_new_first_gangs()
}

/// The priority of the pods that room is reserved for.
fn priority_of(model: &Model, owner: &ReservationOwner) -> Option<i32> {
    match owner {
        ReservationOwner::Pod(uid) => Some(model.pods.get(uid)?.pod.shape.priority),
        ReservationOwner::ReplicaWorkers(key)
        | ReservationOwner::ReplicaPod(key, _)
        | ReservationOwner::Workload(key, Owner::Service(_)) => {
            Some(model.services.get(key)?.spec.as_ref()?.priority)
        }
        ReservationOwner::Workload(key, _) => Some(model.jobs.get(key)?.spec.as_ref()?.priority),
    }
}

/// The pods for which there is no place, with their priorities.
fn waiting(model: &Model) -> WaitingPods {
    let mut waiting = WaitingPods::new();
    for (owner, id, count) in model.capacity.missing() {
        let priority = priority_of(model, owner).unwrap_or(0);
        *waiting.entry((priority, id)).or_default() += count;
    }
    waiting
}

fn find_preemptions(model: &Model, claims: Vec<CapacityClaim>, now: Timestamp) -> Found {
    let mut found = Found::default();
    let waiting = waiting(model);
    let mut at_once = model.capacity.dry_run(&waiting);
    let mut later = model.capacity.dry_run(&waiting);
    later.free(&leaving(model, now));
    let mut ahead: BTreeSet<ShapeId> = BTreeSet::new();
    for claim in claims {
        found.claimants.insert(claim.rank.clone());
        if claim.is_of_service {
            let key = claim.key();
            let placed = at_once.placed(&claim, &[]);
            at_once.put_ahead(&claim);
            let is_kept = || {
                let until = model.capacity_preemptions.held.get(&key).copied();
                until.filter(|until| now < *until)
            };
            let finds_more =
                placed < claim.pods() && found.place(model, &mut later, &claim, now) > placed;
            let until = match finds_more {
                true => Some(now.saturating_add(BINDING_TIME).unwrap_or(now)),
                false => is_kept(),
            };
            match until {
                None => found.passed.push(claim),
                Some(until) => {
                    ahead.extend(claim.shapes());
                    found.held_until.insert(key, until);
                    let rank = rank_ahead_of_own(model, &claim);
                    found.held.push(claim.with_rank(rank));
                }
            }
        } else {
            let is_first = !model.capacity.is_wanted_by(&claim, &ahead);
            ahead.extend(claim.shapes());
            if is_first {
                found.place(model, &mut later, &claim, now);
            }
        }
    }
    found
}

impl Found {
    /// How many pods of a claim find room once what leaves has left, and those that give way to it have: all
    /// of a gang or of a replica of several pods, or none.
    fn place(
        &mut self,
        model: &Model,
        dry_run: &mut PreemptionDryRun<'_>,
        claim: &CapacityClaim,
        now: Timestamp,
    ) -> u32 {
        let may_preempt = claim.may_preempt && below(model, claim).next().is_some();
        self.may_change |= may_preempt;
        let mut placed = dry_run.placed(claim, &[]);
        if placed < claim.pods() {
            let may_take = may_preempt
                && self.unserved < MOST_UNSERVED
                && !lower_priority_took(model, dry_run, claim);
            let victims = match may_take {
                true => choose(model, &self.given, dry_run, claim, placed, now),
                false => Vec::new(),
            };
            self.unserved += usize::from(may_preempt && victims.is_empty());
            for victim in victims {
                dry_run.free(&victim.capacity);
                let told = model.capacity_preemptions.given.get(&victim.key);
                if told.is_none_or(|told| told.to != claim.rank) {
                    self.note_taken(model, claim, victim.capacity.nodes(), now);
                }
                let preemption = CapacityPreemption {
                    to: claim.rank.clone(),
                    is_of_service: claim.is_of_service,
                    for_gpus: wants_gpus(model, claim),
                };
                self.given.insert(victim.key, preemption);
            }
            placed = dry_run.placed(claim, &[]);
        }
        if claim.is_whole && placed < claim.pods() {
            return 0;
        }
        if placed > 0 {
            dry_run.put_ahead(claim);
        }
        placed
    }

    fn note_taken<'n>(
        &mut self,
        model: &Model,
        claim: &CapacityClaim,
        nodes: impl Iterator<Item = &'n Name>,
        now: Timestamp,
    ) {
        let id = claim.id();
        let known = model.capacity_preemptions.taken.get(&id);
        let taken = self.taken.entry(id).or_insert_with(|| ReclaimedCapacity {
            at: now,
            nodes: known.map(|known| known.nodes.clone()).unwrap_or_default(),
        });
        taken.nodes.extend(nodes.cloned());
    }
}

/// The rank by which nodes are kept for replicas: ahead of the gangs of their own namespace that give way
/// to them, also of older ones.
fn rank_ahead_of_own(model: &Model, claim: &CapacityClaim) -> SchedulingRank {
    let namespace = &claim.rank.namespace;
    let own = below(model, claim)
        .map(|(_, key)| key)
        .chain(model.capacity_preemptions.given.keys().cloned());
    let own = own.filter(|key| key.namespace == *namespace);
    let specs = own.filter_map(|key| Some(model.jobs.get(&key)?.spec.as_ref()?.created));
    let first = specs
        .filter_map(|created| created.checked_sub(SignedDuration::from_nanos(1)).ok())
        .min();
    SchedulingRank {
        created: first.map_or(claim.rank.created, |first| first.min(claim.rank.created)),
        ..claim.rank.clone()
    }
}

/// Takes who gives way now, and marks the queues that this concerns. What has not stopped yet and is
/// not needed any more goes on, where the order to stop is on its way as well; what is stopping is known
/// for as long as the one claims for which it does.
fn replace(
    model: &mut Model,
    mut given: BTreeMap<Key, CapacityPreemption>,
    claims: impl Fn(&CapacityPreemption) -> bool,
) {
    let before = std::mem::take(&mut model.capacity_preemptions.given);
    let new = given
        .iter()
        .filter(|(key, to)| before.get(*key) != Some(*to));
    let mut concerned: BTreeSet<Name> = new.map(|(key, _)| key.namespace.clone()).collect();
    for (key, preemption) in before {
        let Some(state) = model.jobs.get(&key).filter(|_| !given.contains_key(&key)) else {
            continue;
        };
        // without a pod it has nothing to give
        let gives = claims(&preemption) && !state.pods.is_empty();
        if gives && !state.has_room() {
            given.insert(key, preemption);
        } else {
            concerned.insert(key.namespace.clone());
        }
    }
    model.capacity_preemptions.given = given;
    concerned.retain(|name| !model.is_observe_only(name));
    model.marks.queues.extend(concerned);
}
