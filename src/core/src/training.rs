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
    /// It runs, and some of its workers have had no node since then.
    pub incomplete_since: Option<Timestamp>,
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

    /// When a gang that is still incomplete is taken back.
    fn taken_back_at(&self) -> Option<Timestamp> {
        let patience = SCHEDULING_TIMEOUT + self.share(SCHEDULING_TIMEOUT / 2, 0);
        self.incomplete_since?.checked_add(patience).ok()
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
/// budgets admit all of it. Whoever must wait for room or money is not overtaken, but a gang that no node could ever take, or whose
/// price is unknown, holds nobody up; nor does one that was taken back because some of its workers found no node.
///
/// `capacity` and `admission` are those left by what runs, workers that have no pod yet included.
pub fn schedule(
    jobs: &[Job],
    capacity: &mut impl Room,
    admission: &mut BudgetAdmission,
    now: Timestamp,
) -> Vec<JobDecision> {
    let mut waiting: Vec<&Job> = jobs.iter().collect();
    waiting.sort_by_key(|job| {
        (
            !job.running,
            -i64::from(job.priority),
            job.created,
            job.name.clone(),
        )
    });
    let mut first: Option<&Job> = None;
    let mut place = 0;
    waiting
        .into_iter()
        .map(|job| {
            let verdict = decide_job(job, first, capacity, admission, now);
            let Err((limited_by, reason)) = verdict else {
                let reason = format!("{} workers run", job.workers());
                return JobDecision {
                    name: job.name.clone(),
                    run: true,
                    limited_by: None,
                    reason,
                    position: None,
                    retry: None,
                    next_look: job.taken_back_at(),
                };
            };
            let taken_back = job.running && limited_by == LimitedBy::Capacity;
            let retry = taken_back.then(|| job.evict(now));
            let waits_until = retry
                .or(job.retry)
                .map(|retry| retry.at)
                .filter(|at| *at > now);
            if matches!(limited_by, LimitedBy::Budget | LimitedBy::Capacity)
                && waits_until.is_none()
                && can_ever_run(job, capacity)
            {
                first = first.or(Some(job));
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
        .collect()
}

fn can_ever_run(job: &Job, capacity: &mut impl Room) -> bool {
    capacity.could_fit(&job.gangs()) >= job.workers()
}

fn decide_job(
    job: &Job,
    first: Option<&Job>,
    capacity: &mut impl Room,
    admission: &mut BudgetAdmission,
    now: Timestamp,
) -> Result<(), (LimitedBy, String)> {
    if job.suspend {
        return Err((LimitedBy::Suspended, "spec.suspend is true".to_owned()));
    }
    if let Some(budget_state) = admission
        .budget_states()
        .iter()
        .find(|budget_state| budget_state.is_exhausted())
    {
        let (name, spent, limit) = (
            &budget_state.budget.name,
            budget_state.budget.spent.rounded(2),
            budget_state.budget.limit.rounded(2),
        );
        return Err((
            LimitedBy::Budget,
            format!("budget {name} is exhausted: {spent} of {limit} spent"),
        ));
    }
    if job.running {
        if job.taken_back_at().is_some_and(|at| at <= now) {
            let waits = "some of its workers found no node in time; all are taken back, and it waits for its decision again";
            return Err((LimitedBy::Capacity, waits.to_owned()));
        }
        return Ok(());
    }
    if !job.settled {
        return Err((
            LimitedBy::Queue,
            "its workers of the last run are still stopping".to_owned(),
        ));
    }
    let (workers, gangs) = (job.workers(), job.gangs());
    let could = capacity.could_fit(&gangs);
    if could < workers {
        return Err((
            LimitedBy::Capacity,
            format!("all ready nodes together take {could} of its {workers} workers when empty"),
        ));
    }
    if let Some(retry) = job.retry.filter(|retry| retry.at > now) {
        let reason = format!(
            "some of its workers found no node, {} times so far; it tries again at {}",
            retry.count, retry.at
        );
        return Err((LimitedBy::Capacity, reason));
    }
    if let Some(first) = first {
        return Err((LimitedBy::Queue, format!("waits behind {}", first.name)));
    }
    let fit = capacity.fits(&gangs);
    if fit < workers {
        return Err((
            LimitedBy::Capacity,
            format!("there is room for {fit} of its {workers} workers now"),
        ));
    }
    match admission.admit_all(&job.loads()) {
        Ok(()) => {
            for gang in gangs {
                capacity.place(gang);
            }
            Ok(())
        }
        Err(Denied::Budget { message, .. }) => Err((LimitedBy::Budget, message)),
        Err(Denied::Unknown(why)) => Err((LimitedBy::PriceUnknown, why)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::SignedDuration;
    use jiff::tz::TimeZone;

    use super::*;
    use crate::budget::{Budget, BudgetState, OnExhausted, RunningTotals};
    use crate::calendar::Period;
    use crate::capacity::{Capacity, Node, Resources};
    use crate::money::Money;

    fn now() -> Timestamp {
        "2026-11-11T12:00:00Z".parse().unwrap()
    }

    fn gpus(amount: i64) -> Resources {
        [("nvidia.com/gpu".to_owned(), amount * 1000)].into()
    }

    fn job(name: &str, workers: u32) -> Job {
        Job {
            name: name.into(),
            priority: 0,
            created: now(),
            suspend: false,
            running: false,
            incomplete_since: None,
            retry: None,
            seed: 7,
            settled: true,
            roles: vec![role(workers)],
        }
    }

    fn role(workers: u32) -> Role {
        Role {
            gang: Gang {
                workers,
                worker: gpus(1),
                node_selector: BTreeMap::new(),
            },
            worker: RunningCost::constant(Some("2".parse().unwrap()), 0),
            present: 0,
        }
    }

    fn nodes(counts: &[i64]) -> Capacity {
        let node = |count: &i64| Node {
            labels: BTreeMap::new(),
            allocatable: gpus(*count),
            free: gpus(*count),
        };
        Capacity {
            nodes: counts.iter().map(node).collect(),
        }
    }

    fn admission(left: Option<&str>) -> BudgetAdmission {
        let budget_state = left.map(|limit| {
            let budget = Budget {
                name: "team".into(),
                limit: limit.parse().unwrap(),
                period: Period::Monthly,
                on_exhausted: OnExhausted::ScaleToZero,
                minimum_useful_run: SignedDuration::from_hours(1),
                latch: None,
                spent: Money::ZERO,
                corrections: Money::ZERO,
                doubt: None,
            };
            BudgetState::of(budget, &[], now(), &TimeZone::UTC)
        });
        BudgetAdmission::new(
            budget_state.into_iter().collect(),
            RunningTotals::default(),
            now(),
        )
    }

    fn limits(job_decisions: &[JobDecision]) -> Vec<(&str, Option<LimitedBy>)> {
        job_decisions
            .iter()
            .map(|decision| (decision.name.as_str(), decision.limited_by))
            .collect()
    }

    #[test]
    fn a_gang_starts_whole_or_not_at_all_and_is_not_overtaken() {
        let jobs = [job("a", 3), job("b", 2), job("c", 1)];
        let job_decisions = schedule(&jobs, &mut nodes(&[4]), &mut admission(None), now());
        assert_eq!(
            limits(&job_decisions),
            [
                ("a", None),
                ("b", Some(LimitedBy::Capacity)),
                ("c", Some(LimitedBy::Queue))
            ]
        );
        assert_eq!(
            job_decisions
                .iter()
                .map(|decision| decision.position)
                .collect::<Vec<_>>(),
            [None, Some(1), Some(2)]
        );
    }

    #[test]
    fn a_gang_that_could_never_fit_holds_nobody_up() {
        let job_decisions = schedule(
            &[job("a", 9), job("b", 2)],
            &mut nodes(&[4]),
            &mut admission(None),
            now(),
        );
        assert_eq!(
            limits(&job_decisions),
            [("a", Some(LimitedBy::Capacity)), ("b", None)]
        );
    }

    #[test]
    fn priority_comes_before_age() {
        let older = Job {
            created: now() - SignedDuration::from_hours(1),
            ..job("older", 4)
        };
        let urgent = Job {
            priority: 10,
            ..job("urgent", 4)
        };
        let job_decisions = schedule(
            &[older, urgent],
            &mut nodes(&[4]),
            &mut admission(None),
            now(),
        );
        assert_eq!(
            limits(&job_decisions),
            [("urgent", None), ("older", Some(LimitedBy::Capacity))]
        );
    }

    #[test]
    fn budgets_pay_for_whole_gangs() {
        let job_decisions = schedule(
            &[job("a", 2), job("b", 2)],
            &mut nodes(&[8]),
            &mut admission(Some("7")),
            now(),
        );
        assert_eq!(
            limits(&job_decisions),
            [("a", None), ("b", Some(LimitedBy::Budget))]
        );
    }

    #[test]
    fn an_exhausted_budget_stops_what_runs() {
        let running = Job {
            running: true,
            ..job("a", 2)
        };
        let job_decisions = schedule(
            &[running],
            &mut nodes(&[8]),
            &mut admission(Some("0")),
            now(),
        );
        assert_eq!(limits(&job_decisions), [("a", Some(LimitedBy::Budget))]);
    }

    #[test]
    fn nothing_resumes_while_its_last_run_is_stopping() {
        let stopping = Job {
            settled: false,
            ..job("a", 2)
        };
        let job_decisions = schedule(
            &[stopping, job("b", 2)],
            &mut nodes(&[8]),
            &mut admission(None),
            now(),
        );
        assert_eq!(
            limits(&job_decisions),
            [("a", Some(LimitedBy::Queue)), ("b", None)]
        );
    }

    #[test]
    fn a_gang_that_stays_incomplete_is_taken_back_and_holds_nobody_up_while_it_waits() {
        let half = |since| Job {
            running: true,
            roles: vec![Role {
                present: 3,
                ..role(3)
            }],
            incomplete_since: Some(since),
            ..job("a", 3)
        };
        let decide_one = |job: &Job, now| {
            schedule(
                std::slice::from_ref(job),
                &mut nodes(&[2]),
                &mut admission(None),
                now,
            )
            .remove(0)
        };
        let patient = decide_one(&half(now()), now());
        let deadline = patient.next_look.unwrap();
        assert!(
            patient.run
                && deadline >= now() + SCHEDULING_TIMEOUT
                && deadline <= now() + SCHEDULING_TIMEOUT * 3 / 2
        );
        let back = decide_one(&half(now()), deadline);
        let retry = back.retry.unwrap();
        assert_eq!(
            (back.run, back.limited_by, retry.count),
            (false, Some(LimitedBy::Capacity), 1)
        );
        assert!(retry.at >= deadline + FIRST_BACKOFF, "{}", retry.at);

        let waiting = Job {
            retry: Some(retry),
            ..job("a", 3)
        };
        let both = [waiting.clone(), job("b", 2)];
        let during = schedule(&both, &mut nodes(&[3]), &mut admission(None), deadline);
        assert_eq!(
            limits(&during),
            [("a", Some(LimitedBy::Capacity)), ("b", None)]
        );
        assert_eq!(during[0].next_look, Some(retry.at));
        let after = schedule(&both, &mut nodes(&[3]), &mut admission(None), retry.at);
        assert_eq!(
            limits(&after),
            [("a", None), ("b", Some(LimitedBy::Capacity))]
        );
    }

    #[test]
    fn gangs_that_block_each_other_do_not_let_go_together_and_wait_longer_each_time() {
        let since = |seed| Job {
            seed,
            incomplete_since: Some(now()),
            ..job("a", 3)
        };
        assert_ne!(since(7).taken_back_at(), since(8).taken_back_at());
        let wait = |count| {
            let retry = (count > 0).then_some(Retry { count, at: now() });
            let job = Job {
                retry,
                ..job("a", 3)
            };
            job.evict(now()).at.duration_since(now())
        };
        assert!(wait(0) >= FIRST_BACKOFF && wait(2) >= FIRST_BACKOFF * 4);
        assert!(wait(u32::MAX) <= LONGEST_BACKOFF * 3 / 2);
    }
}
