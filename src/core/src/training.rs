//! The queue of training gangs: which of them may run.

mod restart;
mod schedule;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::budget::RunningCost;
use crate::limit::LimitedBy;
use crate::pod_set::PodSet;

#[cfg(test)]
pub(crate) use self::schedule::schedule;
pub(crate) use self::schedule::{NamespaceQueue, Scheduled, schedule_all};
pub use restart::{Interruption, Restart, Restarts};

/// Workers may wait for a node for this long, and for up to half as long again that differs from gang to gang: of two gangs that hold
/// what the other needs, one lets go first.
const SCHEDULING_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
/// A gang that was taken back waits for this long, twice as long each time, ...
const FIRST_BACKOFF: SignedDuration = SignedDuration::from_secs(30);
/// ... but not longer than this, and for up to half as long again that differs from gang to gang.
const LONGEST_BACKOFF: SignedDuration = SignedDuration::from_mins(15);
/// A gang that was taken back although nodes had room for it, or because the cluster refused its pods, keeps
/// its place for so long after it may start again, and nobody gives GPUs back to it meanwhile: it may wait for
/// something that nobody can give back. ...
const DEPRIORITIZE_AFTER: SignedDuration = SignedDuration::from_mins(15);
/// ... Afterwards it may take them once more, as the scheduler or a quota may only have failed for a while; one
/// that was taken back so often lets others go first.
const TRIES: u32 = 2;

/// A TrainingJob that has not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// The value of its PriorityClass.
    pub priority: i32,
    /// What that counts beside gangs of other namespaces.
    pub cluster_priority: i32,
    /// When it was made; the older goes first.
    pub created: Timestamp,
    /// Its user wants it not to run.
    pub suspend: bool,
    /// It is let run now.
    pub running: bool,
    /// It runs, and some of its workers have no pod.
    pub missing: Option<MissingPods>,
    /// It runs, and some of its workers have a pod without a node.
    pub unscheduled: Option<Unscheduled>,
    /// What it was taken back for before, if it was.
    pub retry: Option<Retry>,
    /// Its restarts because of workers that ended.
    pub restarts: Restarts,
    /// There is room for all of its workers that have no node, or none of them needs it.
    pub fits_now: bool,
    /// When a worker that does not stop is given up.
    pub gives_up_at: Option<Timestamp>,
    /// A number of its own, for waits that differ from gang to gang.
    pub seed: u64,
    /// No pod of an earlier run is left.
    pub settled: bool,
    /// The workload of higher priority for which it stops.
    pub preempted_by: Option<Preemptor>,
    /// For which one it was last stopped, if that was why.
    pub last_preempted_by: Option<Preemptor>,
    /// Money that is kept for workloads that go before it.
    pub kept: Vec<(RunningCost, u32)>,
    /// Its roles, at least one.
    pub roles: Vec<Role>,
}

/// That a gang stops for a workload of higher priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preemptor {
    /// For which one, and what that waits for.
    pub reason: String,
    /// That one waits for GPUs, and not for money.
    pub for_gpus: bool,
}

/// Whether nodes are made for pods that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeStart {
    /// It is not known yet: no gang is taken back for want of a node.
    Unknown,
    /// None are made.
    Never,
    /// They are, and a node takes at most this long until it is ready.
    Within(SignedDuration),
}

/// Workers of a gang that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// What they need.
    pub pod_set: PodSet,
    /// What each of them costs, and how long it takes to stop.
    pub worker: RunningCost,
    /// How many have a pod, or have ended well. While the job runs, the others are on their way, and need their room and their money
    /// all the same.
    pub with_pod: u32,
}

/// Workers of a gang that runs, and for which no pod was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPods {
    /// How many.
    pub workers: u32,
    /// Until when room and money are kept for them: then all workers are taken back.
    pub until: Timestamp,
    /// Why the cluster refuses to make the pods, if it says so.
    pub creation_failure: Option<Arc<str>>,
}

/// Workers of a gang that have a pod and no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unscheduled {
    /// How many.
    pub workers: u32,
    /// When the pod of the first of them was made.
    pub since: Timestamp,
}

/// A gang was taken back because it stayed incomplete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often.
    pub count: u32,
    /// It does not start before.
    pub at: Timestamp,
    /// Why the cluster refused its pods, if that was why.
    pub creation_failure: Option<Arc<str>>,
    /// There was room for all of its workers, so they need something else to find a node.
    pub had_room: bool,
}

impl Job {
    /// Workers of one of its roles that were ordered and have no pod yet.
    pub fn without_pod(&self, role: &Role) -> u32 {
        if self.running {
            role.pod_set.workers.saturating_sub(role.with_pod)
        } else {
            0
        }
    }

    /// Whether its workers have room, or room is kept for them.
    fn has_room(&self) -> bool {
        self.running || self.restarts.keeps_reservation
    }

    /// Until when it keeps its place, and is given no GPUs of others, if it needed more than room before.
    fn place_kept_until(&self) -> Option<Timestamp> {
        let needs_more = |retry: &&Retry| retry.had_room || retry.creation_failure.is_some();
        let retry = self.retry.as_ref().filter(needs_more)?;
        Some(
            retry
                .at
                .checked_add(DEPRIORITIZE_AFTER)
                .unwrap_or(Timestamp::MAX),
        )
    }

    /// Whether it has used its tries up: it waits for something that nobody can give back to it.
    fn has_tried(&self) -> bool {
        self.retry
            .as_ref()
            .is_some_and(|retry| retry.count >= TRIES)
    }

    /// Since when others go before it, though they rank behind it.
    fn deprioritized_at(&self, now: Timestamp) -> Option<Timestamp> {
        let at = self.place_kept_until().filter(|_| self.has_tried())?;
        (at <= now && !self.has_room()).then_some(at)
    }

    /// The workers of all roles.
    pub fn workers(&self) -> u32 {
        let workers = self.roles.iter().map(|role| role.pod_set.workers);
        workers.fold(0, u32::saturating_add)
    }

    /// Whether a price is known for each of its workers.
    pub fn has_known_price(&self) -> bool {
        self.roles.iter().all(|role| role.worker.rate.is_some())
    }

    /// What its roles need.
    fn pod_sets(&self) -> Vec<&PodSet> {
        self.roles.iter().map(|role| &role.pod_set).collect()
    }

    /// What its workers cost.
    pub(crate) fn running_costs(&self) -> Vec<(RunningCost, u32)> {
        let roles = self.roles.iter();
        roles
            .map(|role| (role.worker, role.pod_set.workers))
            .collect()
    }

    /// When a gang that is still incomplete is taken back. Where nodes are made for pods, those
    /// that have one wait for as long as a node may take to start; no node is made for a pod that
    /// does not exist.
    fn evict_at(&self, node_start: NodeStart) -> Option<Timestamp> {
        let ends = |since: Option<Timestamp>, least: SignedDuration| {
            let timeout = least + self.share(least / 2, 0);
            since?.checked_add(timeout).ok()
        };
        let unscheduled = self.unscheduled.map(|workers| workers.since);
        let unscheduled = match node_start {
            NodeStart::Unknown => None,
            NodeStart::Never => ends(unscheduled, SCHEDULING_TIMEOUT),
            NodeStart::Within(start) => ends(unscheduled, start.max(SCHEDULING_TIMEOUT)),
        };
        let missing = self.missing.as_ref().map(|missing| missing.until);
        missing.into_iter().chain(unscheduled).min()
    }

    /// Why the cluster refuses pods of a gang that runs, or refused them when it was taken back and has
    /// not made all of them since.
    fn creation_failure(&self) -> Option<Arc<str>> {
        let missing = self.missing.as_ref()?;
        let before = || self.retry.as_ref()?.creation_failure.clone();
        missing.creation_failure.clone().or_else(before)
    }

    /// Why all workers of a gang that is incomplete are taken back, if it is time.
    fn incomplete(&self, node_start: NodeStart, now: Timestamp) -> Option<Incomplete> {
        let missing = self.missing.as_ref();
        let creation_failure =
            missing.and_then(|missing| Some((missing, missing.creation_failure.clone()?)));
        // workers that fail while others have no pod or no node have not failed by themselves: they wait
        // for each other
        let interruption = self.restarts.interruption.as_ref();
        let failure = interruption.filter(|found| found.is_failure);
        let all = self.workers();
        if let Some((missing, why)) = creation_failure
            && (failure.is_some() || missing.until <= now)
        {
            let workers = missing.workers;
            return Some(Incomplete {
                what: format!(
                    "the cluster refuses the pods of {workers} of its {all} workers: {why}"
                ),
                creation_failure: Some(why),
            });
        }
        if let (Some(failure), Some(unscheduled)) = (failure, self.unscheduled)
            && self.restarts.waits_until.is_none()
        {
            let (workers, why) = (unscheduled.workers, &failure.why);
            return Some(Incomplete {
                what: format!("{why} while {workers} of its {all} workers had no node"),
                creation_failure: None,
            });
        }
        if interruption.is_some() || self.evict_at(node_start).is_none_or(|at| now < at) {
            return None;
        }
        let what = match self.unscheduled {
            Some(_) => "some of its workers found no node in time",
            None => "some of its workers were given no pod in time by their Job",
        };
        Some(Incomplete {
            what: what.to_owned(),
            creation_failure: None,
        })
    }

    /// Why a gang that may run does not run as a whole yet, if it does not.
    fn running_reason(&self, node_start: NodeStart) -> String {
        let workers = self.workers();
        let until = self.evict_at(node_start);
        if let (Some(missing), Some(until)) = (&self.missing, until)
            && let Some(why) = &missing.creation_failure
        {
            let waiting = missing.workers;
            return format!(
                "the cluster refuses the pods of {waiting} of its {workers} workers: {why}; all \
                 workers are taken back at {until} if it is still incomplete"
            );
        }
        let Some(unscheduled) = self.unscheduled else {
            return format!("{workers} workers run");
        };
        let waiting = unscheduled.workers;
        let Some(until) = until else {
            return format!(
                "{waiting} of its {workers} workers wait for a node; whether a node autoscaler makes \
                 nodes is not known yet"
            );
        };
        let hope = match node_start {
            NodeStart::Within(_) => ", which a node autoscaler may make",
            NodeStart::Never | NodeStart::Unknown => "",
        };
        format!(
            "{waiting} of its {workers} workers wait for a node{hope}; all workers are taken back \
             at {until} if it is still incomplete"
        )
    }

    pub(crate) fn next_retry(&self, creation_failure: Option<Arc<str>>, now: Timestamp) -> Retry {
        let count = self.retry.as_ref().map_or(0, |retry| retry.count);
        let wait = FIRST_BACKOFF
            .saturating_mul(1 << count.min(10))
            .min(LONGEST_BACKOFF);
        let wait = wait + self.share(wait / 2, count.wrapping_add(1));
        Retry {
            count: count.saturating_add(1),
            at: now.checked_add(wait).unwrap_or(now),
            had_room: creation_failure.is_none() && self.fits_now
                || self.retry.as_ref().is_some_and(|retry| retry.had_room),
            creation_failure,
        }
    }

    /// A part of `most` in whole seconds that is this job's own, another one each time.
    fn share(&self, most: SignedDuration, time: u32) -> SignedDuration {
        let seconds = u64::try_from(most.as_secs()).unwrap_or(0) + 1;
        let share = self.seed.rotate_left(time.wrapping_mul(7)) % seconds;
        SignedDuration::from_secs(i64::try_from(share).unwrap_or(0))
    }
}

/// Why a gang is taken back that is incomplete.
struct Incomplete {
    what: String,
    /// Why the cluster refuses its pods, if that is why.
    creation_failure: Option<Arc<str>>,
}

/// What becomes of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobDecision {
    /// The job.
    pub name: String,
    /// It may run.
    pub run: bool,
    /// What keeps it from running.
    pub limited_by: Option<LimitedBy>,
    /// Why, with the numbers.
    pub reason: String,
    /// Its place among those that wait, from 1.
    pub position: Option<u32>,
    /// It is taken back now because it stayed incomplete.
    pub retry: Option<Retry>,
    /// Why the cluster refuses its pods, or refused them when it was taken back.
    pub creation_failure: Option<Arc<str>>,
    /// It waits for money that budgets may have.
    pub waits_for_money: bool,
    /// The workload that it stops for waits for GPUs, and no budget stops it.
    pub preempted_for_gpus: bool,
    /// It is stopped to start again, because a worker ended.
    pub restart: Option<Restart>,
    /// How often a worker has failed.
    pub restarts: u32,
    /// It does not run now, and its room and its money are kept.
    pub keeps_reservation: bool,
    /// When this may change though nothing else does.
    pub requeue_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests;
