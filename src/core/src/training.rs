//! The queue of training gangs: which of them may run.

use jiff::{SignedDuration, Timestamp};

use crate::budget::{BudgetAdmission, Denied, RunningCost};
use crate::capacity::{Gang, Room};
use crate::limit::LimitedBy;

/// Workers may wait for a node for this long, and for up to half as long again that differs from gang to gang: of two gangs that hold
/// what the other needs, one lets go first.
const SCHEDULING_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
/// A gang that was taken back waits for this long, twice as long each time, ...
const FIRST_BACKOFF: SignedDuration = SignedDuration::from_secs(30);
/// ... but not longer than this, and for up to half as long again that differs from gang to gang.
const LONGEST_BACKOFF: SignedDuration = SignedDuration::from_mins(15);

/// A TrainingJob that has not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// The value of its PriorityClass.
    pub priority: i32,
    /// When it was made; the older goes first.
    pub created: Timestamp,
    /// Its user wants it not to run.
    pub suspend: bool,
    /// It is let run now.
    pub running: bool,
    /// It runs, and some of its workers have had no pod since then.
    pub missing_since: Option<Timestamp>,
    /// It runs, and some of its workers have a pod without a node.
    pub unscheduled: Option<Unscheduled>,
    /// What it was taken back for before, if it was.
    pub retry: Option<Retry>,
    /// A number of its own, for waits that differ from gang to gang.
    pub seed: u64,
    /// No pod of an earlier run is left.
    pub settled: bool,
    /// Its roles, at least one.
    pub roles: Vec<Role>,
}

/// Workers of a gang that are alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// What they need.
    pub gang: Gang,
    /// What each of them costs, and how long it takes to stop.
    pub worker: RunningCost,
    /// How many have a pod, or have ended well. While the job runs, the others are on their way, and need their room and their money
    /// all the same.
    pub present: u32,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often.
    pub count: u32,
    /// It does not start before.
    pub at: Timestamp,
}

impl Job {
    /// Workers of one of its roles that were ordered and have no pod yet.
    pub fn awaited(&self, role: &Role) -> u32 {
        if self.running {
            role.gang.workers.saturating_sub(role.present)
        } else {
            0
        }
    }

    /// The workers of all roles.
    pub fn workers(&self) -> u32 {
        let workers = self.roles.iter().map(|role| role.gang.workers);
        workers.fold(0, u32::saturating_add)
    }

    /// Whether a price is known for each of its workers.
    pub fn has_known_price(&self) -> bool {
        self.roles.iter().all(|role| role.worker.rate.is_some())
    }

    /// What its roles need.
    fn gangs(&self) -> Vec<&Gang> {
        self.roles.iter().map(|role| &role.gang).collect()
    }

    /// What its workers cost.
    pub(crate) fn loads(&self) -> Vec<(RunningCost, u32)> {
        let roles = self.roles.iter();
        roles.map(|role| (role.worker, role.gang.workers)).collect()
    }

    /// When a gang that is still incomplete is taken back. Where nodes are made for pods, those that
    /// have one wait for as long as a node may take to start; no node is made for a pod that does not
    /// exist.
    fn taken_back_at(&self, node_start: Option<SignedDuration>) -> Option<Timestamp> {
        let ends = |since: Option<Timestamp>, least: SignedDuration| {
            let patience = least + self.share(least / 2, 0);
            since?.checked_add(patience).ok()
        };
        let unscheduled = self.unscheduled.map(|workers| workers.since);
        let least = node_start.map_or(SCHEDULING_TIMEOUT, |start| start.max(SCHEDULING_TIMEOUT));
        let missing = ends(self.missing_since, SCHEDULING_TIMEOUT);
        missing.into_iter().chain(ends(unscheduled, least)).min()
    }

    /// Why a gang that may run does not run as a whole yet, if it does not.
    fn running_reason(&self, node_start: Option<SignedDuration>) -> String {
        let workers = self.workers();
        let until = self.taken_back_at(node_start);
        let (Some(unscheduled), Some(until)) = (self.unscheduled, until) else {
            return format!("{workers} workers run");
        };
        let waiting = unscheduled.workers;
        let hope = match node_start {
            Some(_) => ", which a node autoscaler may make",
            None => "",
        };
        format!(
            "{waiting} of its {workers} workers wait for a node{hope}; all workers are taken back \
             at {until} if it is still incomplete"
        )
    }

    fn evict(&self, now: Timestamp) -> Retry {
        let count = self.retry.map_or(0, |retry| retry.count);
        let wait = FIRST_BACKOFF
            .saturating_mul(1 << count.min(10))
            .min(LONGEST_BACKOFF);
        let wait = wait + self.share(wait / 2, count.wrapping_add(1));
        Retry {
            count: count.saturating_add(1),
            at: now.checked_add(wait).unwrap_or(now),
        }
    }

    /// A part of `most` in whole seconds that is this job's own, another one each time.
    fn share(&self, most: SignedDuration, time: u32) -> SignedDuration {
        let seconds = u64::try_from(most.as_secs()).unwrap_or(0) + 1;
        let share = self.seed.rotate_left(time.wrapping_mul(7)) % seconds;
        SignedDuration::from_secs(i64::try_from(share).unwrap_or(0))
    }
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
    /// When this may change though nothing else does.
    pub next_look: Option<Timestamp>,
}

/// Decides who runs: by priority, then by age. Running jobs go on while there is money; a gang starts when all of it fits and the
/// budgets admit all of it.
///
/// A gang that waits for room or money is passed only by one that cannot delay it: nodes on which that one finds room are of no use
/// to the gang that waits, and the budgets pay for both. A gang that can never run as things are holds nobody up: no node could take
/// it, no period has the money, or its price is unknown. Neither does one that was taken back because some of its workers found no
/// node.
///
/// `capacity` and `admission` are those left by what runs, workers that have no pod yet included.
pub fn schedule(
    jobs: &[Job],
    capacity: &mut impl Room,
    admission: &mut BudgetAdmission,
    now: Timestamp,
) -> Vec<JobDecision> {
    schedule_noting(jobs, capacity, admission, None, now).0
}

/// What budgets refused to pay for, and why. That a budget is exhausted is no answer to any one.
pub(crate) type DeniedStart = (Vec<(RunningCost, u32)>, Denied);

/// As [`schedule`], with what budgets refused: with another answer, one of the jobs might run.
///
/// Where nodes are made for pods that wait (`node_start` is how long a node takes at most until it is
/// ready), a gang for which there is too little room starts all the same, so that nodes are made for
/// the rest of it. It takes the room that it finds, and holds nobody up otherwise. One that was taken
/// back because no node came first waits for nodes that exist, if they are enough, for as long as it
/// waited for new ones.
pub(crate) fn schedule_noting(
    jobs: &[Job],
    capacity: &mut impl Room,
    admission: &mut BudgetAdmission,
    node_start: Option<SignedDuration>,
    now: Timestamp,
) -> (Vec<JobDecision>, Vec<DeniedStart>) {
    let mut waiting: Vec<&Job> = jobs.iter().collect();
    waiting.sort_by_key(|job| {
        (
            !job.running,
            -i64::from(job.priority),
            job.created,
            job.name.clone(),
        )
    });
    let mut queue = Queue {
        capacity,
        admission,
        node_start,
        ahead: Vec::new(),
        owed: Vec::new(),
        refused: Vec::new(),
    };
    let mut place = 0;
    let decisions = waiting
        .into_iter()
        .map(|job| {
            let blocked = match queue.decide(job, now) {
                Ok(reason) => {
                    return JobDecision {
                        name: job.name.clone(),
                        run: true,
                        limited_by: None,
                        reason,
                        position: None,
                        retry: None,
                        next_look: job.taken_back_at(node_start),
                    };
                }
                Err(blocked) => blocked,
            };
            let Blocked {
                limited_by, reason, ..
            } = blocked;
            let taken_back = job.running && limited_by == LimitedBy::Capacity;
            let retry = taken_back.then(|| job.evict(now));
            let waits_until = retry
                .or(job.retry)
                .map(|retry| retry.at)
                .filter(|at| *at > now);
            if blocked.is_next {
                queue.wait(job);
            }
            let position = (limited_by != LimitedBy::Suspended).then(|| {
                place += 1;
                place
            });
            JobDecision {
                name: job.name.clone(),
                run: false,
                limited_by: Some(limited_by),
                reason,
                position,
                retry,
                next_look: waits_until,
            }
        })
        .collect();
    (decisions, queue.refused)
}

/// Why a job does not run.
struct Blocked {
    limited_by: LimitedBy,
    reason: String,
    /// It starts as soon as there is room and money for it: those behind it may not delay it.
    is_next: bool,
}

impl Blocked {
    /// It waits for something else than room or money, or for what never comes.
    fn aside(limited_by: LimitedBy, reason: impl Into<String>) -> Self {
        Self {
            limited_by,
            reason: reason.into(),
            is_next: false,
        }
    }

    /// It waits for room or money.
    fn next(limited_by: LimitedBy, reason: impl Into<String>) -> Self {
        Self {
            is_next: true,
            ..Self::aside(limited_by, reason)
        }
    }

    fn denied(denied: Denied) -> Self {
        match denied {
            Denied::Budget {
                message,
                in_no_period,
                ..
            } => Self {
                is_next: !in_no_period,
                ..Self::aside(LimitedBy::Budget, message)
            },
            Denied::Unknown(why) => Self::aside(LimitedBy::PriceUnknown, why),
        }
    }
}

/// The room and money that jobs are given one after the other.
struct Queue<'a, R> {
    capacity: &'a mut R,
    admission: &'a mut BudgetAdmission,
    /// How long a node takes at most until it is ready, where nodes are made for pods that wait.
    node_start: Option<SignedDuration>,
    /// The jobs that wait for room or money, the first one first.
    ahead: Vec<&'a Job>,
    /// What these cost.
    owed: Vec<(RunningCost, u32)>,
    refused: Vec<DeniedStart>,
}

impl<'a, R: Room> Queue<'a, R> {
    /// The job waits for room or money: those behind it may not delay it.
    fn wait(&mut self, job: &'a Job) {
        self.capacity.hold(&job.gangs(), self.ahead.len());
        self.ahead.push(job);
        if job.has_known_price() {
            self.owed.extend(job.loads());
        }
    }

    /// Why it runs, or why it does not.
    fn decide(&mut self, job: &Job, now: Timestamp) -> Result<String, Blocked> {
        if job.suspend {
            let reason = "spec.suspend is true";
            return Err(Blocked::aside(LimitedBy::Suspended, reason));
        }
        let mut budget_states = self.admission.budget_states().iter();
        if let Some(exhausted) = budget_states.find(|state| state.is_exhausted()) {
            let budget = &exhausted.budget;
            let (spent, limit) = (budget.spent.rounded(2), budget.limit.rounded(2));
            let name = &budget.name;
            let reason = format!("budget {name} is exhausted: {spent} of {limit} spent");
            return Err(Blocked::aside(LimitedBy::Budget, reason));
        }
        if job.running {
            let taken_back_at = job.taken_back_at(self.node_start);
            if taken_back_at.is_some_and(|at| at <= now) {
                let waits = "some of its workers found no node in time; all are taken back, and it waits for its decision again";
                return Err(Blocked::aside(LimitedBy::Capacity, waits));
            }
            return Ok(job.running_reason(self.node_start));
        }
        if !job.settled {
            let reason = "its workers of the last run are still stopping";
            return Err(Blocked::aside(LimitedBy::Queue, reason));
        }
        let (workers, gangs, loads) = (job.workers(), job.gangs(), job.loads());
        let could = self.capacity.could_fit(&gangs);
        if could < workers && self.node_start.is_none() {
            let reason = if could == 0 {
                "its workers fit no node: none that is ready takes one of them, even without other \
                 pods than those of DaemonSets"
                    .to_owned()
            } else {
                format!(
                    "all ready nodes together take {could} of its {workers} workers, even without \
                     other pods than those of DaemonSets"
                )
            };
            return Err(Blocked::aside(LimitedBy::Capacity, reason));
        }
        let waits_for_money = match self.check(&loads) {
            Err(blocked) if !blocked.is_next => return Err(blocked),
            other => other,
        };
        if let Some(retry) = job.retry.filter(|retry| retry.at > now) {
            let reason = format!(
                "some of its workers found no node, {} times so far; it tries again at {}",
                retry.count, retry.at
            );
            return Err(Blocked::aside(LimitedBy::Capacity, reason));
        }
        let fit = self.capacity.fits(&gangs);
        if let Some(first) = self.capacity.holder(&gangs, fit < workers) {
            return Err(self.behind(first, "which waits for the same nodes"));
        }
        let waits_for_nodes = fit < workers && self.may_wait_for_nodes(job, could, now);
        if fit < workers && !waits_for_nodes {
            let reason = format!("there is room for {fit} of its {workers} workers now");
            return Err(Blocked::next(LimitedBy::Capacity, reason));
        }
        if !self.ahead.is_empty() {
            let both: Vec<_> = self.owed.iter().chain(&loads).copied().collect();
            if waits_for_money.is_err() || self.check(&both).is_err() {
                return Err(self.behind(0, "which goes first when there is money"));
            }
        }
        waits_for_money?;
        self.admission.admit_all(&loads).map_err(Blocked::denied)?;
        for gang in gangs {
            self.capacity.place(gang);
        }
        Ok(match waits_for_nodes {
            true => format!(
                "there is room for {fit} of its {workers} workers now; it starts, so that a node \
                 autoscaler makes nodes for the others"
            ),
            false => format!("{workers} workers run"),
        })
    }

    /// Whether a gang that finds too little room starts, so that nodes are made for its pods.
    fn may_wait_for_nodes(&self, job: &Job, could: u32, now: Timestamp) -> bool {
        let Some(node_start) = self.node_start else {
            return false;
        };
        let tries_again = |retry: Retry| {
            let again = retry.at.checked_add(node_start);
            could < job.workers() || again.is_ok_and(|at| at <= now)
        };
        job.retry.is_none_or(tries_again)
    }

    /// Whether budgets pay for these, noted if not.
    fn check(&mut self, loads: &[(RunningCost, u32)]) -> Result<(), Blocked> {
        let answer = self.admission.check_all(loads);
        answer.map_err(|denied| {
            self.refused.push((loads.to_vec(), denied.clone()));
            Blocked::denied(denied)
        })
    }

    /// It waits behind one of those ahead of it.
    fn behind(&self, first: usize, why: &str) -> Blocked {
        let name = self.ahead.get(first).map_or("another", |job| &job.name);
        Blocked::next(LimitedBy::Queue, format!("waits behind {name}, {why}"))
    }
}

#[cfg(test)]
mod tests;
