//! The queue of training gangs: which of them may run.

use jiff::Timestamp;

use crate::budget::{Load, Purse, Refused};
use crate::capacity::{Capacity, Gang};
use crate::plan::LimitedBy;

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
    /// No pod of an earlier run is left.
    pub settled: bool,
    /// What it needs.
    pub gang: Gang,
    /// What each worker costs, and how long it takes to stop.
    pub worker: Load,
}

/// What becomes of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
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
}

/// Decides who runs: by priority, then by age. Running jobs go on while there is money; a gang starts when all of it fits and the
/// purse pays for all of it. Whoever must wait for room or money is not overtaken, but a gang that no node could ever take, or whose
/// price is unknown, holds nobody up.
pub fn queue(jobs: &[Job], capacity: &mut Capacity, purse: &mut Purse) -> Vec<Turn> {
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
            let verdict = judge(job, first, capacity, purse);
            let Err((limited_by, reason)) = verdict else {
                let reason = format!("{} workers run", job.gang.workers);
                return Turn {
                    name: job.name.clone(),
                    run: true,
                    limited_by: None,
                    reason,
                    position: None,
                };
            };
            if matches!(limited_by, LimitedBy::Budget | LimitedBy::Capacity)
                && can_ever_run(job, capacity)
            {
                first = first.or(Some(job));
            }
            let position = (limited_by != LimitedBy::Suspended).then(|| {
                place += 1;
                place
            });
            Turn {
                name: job.name.clone(),
                run: false,
                limited_by: Some(limited_by),
                reason,
                position,
            }
        })
        .collect()
}

fn can_ever_run(job: &Job, capacity: &Capacity) -> bool {
    capacity.could_fit(&job.gang) >= job.gang.workers
}

fn judge(
    job: &Job,
    first: Option<&Job>,
    capacity: &mut Capacity,
    purse: &mut Purse,
) -> Result<(), (LimitedBy, String)> {
    if job.suspend {
        return Err((LimitedBy::Suspended, "spec.suspend is true".to_owned()));
    }
    if let Some(standing) = purse
        .standings()
        .iter()
        .find(|standing| standing.is_exhausted())
    {
        let (name, spent, limit) = (
            &standing.budget.name,
            standing.budget.spent.rounded(2),
            standing.budget.limit.rounded(2),
        );
        return Err((
            LimitedBy::Budget,
            format!("budget {name} is exhausted: {spent} of {limit} spent"),
        ));
    }
    if job.running {
        return Ok(());
    }
    if !job.settled {
        return Err((
            LimitedBy::Queue,
            "its workers of the last run are still stopping".to_owned(),
        ));
    }
    let workers = job.gang.workers;
    let could = capacity.could_fit(&job.gang);
    if could < workers {
        return Err((
            LimitedBy::Capacity,
            format!("all ready nodes together take {could} of its {workers} workers when empty"),
        ));
    }
    if let Some(first) = first {
        return Err((LimitedBy::Queue, format!("waits behind {}", first.name)));
    }
    let fit = capacity.fits(&job.gang);
    if fit < workers {
        return Err((
            LimitedBy::Capacity,
            format!("there is room for {fit} of its {workers} workers now"),
        ));
    }
    let whole = Load {
        rate: job.worker.rate.map(|rate| rate.times(workers)),
        ..job.worker
    };
    match purse.take(whole) {
        Ok(()) => {
            capacity.place(&job.gang);
            Ok(())
        }
        Err(Refused::Budget { message, .. }) => Err((LimitedBy::Budget, message)),
        Err(Refused::PriceUnknown) => Err((
            LimitedBy::PriceUnknown,
            "no price is known for its GPUs, and the namespace has a budget".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::SignedDuration;
    use jiff::tz::TimeZone;

    use super::*;
    use crate::budget::{Budget, OnExhausted, Standing};
    use crate::capacity::{Node, Resources};
    use crate::money::Money;
    use crate::period::Period;

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
            settled: true,
            gang: Gang {
                workers,
                worker: gpus(1),
                node_selector: BTreeMap::new(),
            },
            worker: Load {
                rate: Some("2".parse().unwrap()),
                stop_seconds: 0,
            },
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

    fn purse(left: Option<&str>) -> Purse {
        let standing = left.map(|limit| {
            let budget = Budget {
                name: "team".into(),
                limit: limit.parse().unwrap(),
                period: Period::Monthly,
                on_exhausted: OnExhausted::ScaleToZero,
                minimum_useful_run: SignedDuration::from_hours(1),
                latch: None,
                spent: Money::ZERO,
            };
            Standing::of(budget, &[], now(), &TimeZone::UTC)
        });
        Purse::new(standing.into_iter().collect(), &[], now())
    }

    fn limits(turns: &[Turn]) -> Vec<(&str, Option<LimitedBy>)> {
        turns
            .iter()
            .map(|turn| (turn.name.as_str(), turn.limited_by))
            .collect()
    }

    #[test]
    fn a_gang_starts_whole_or_not_at_all_and_is_not_overtaken() {
        let jobs = [job("a", 3), job("b", 2), job("c", 1)];
        let turns = queue(&jobs, &mut nodes(&[4]), &mut purse(None));
        assert_eq!(
            limits(&turns),
            [
                ("a", None),
                ("b", Some(LimitedBy::Capacity)),
                ("c", Some(LimitedBy::Queue))
            ]
        );
        assert_eq!(
            turns.iter().map(|turn| turn.position).collect::<Vec<_>>(),
            [None, Some(1), Some(2)]
        );
    }

    #[test]
    fn a_gang_that_could_never_fit_holds_nobody_up() {
        let turns = queue(
            &[job("a", 9), job("b", 2)],
            &mut nodes(&[4]),
            &mut purse(None),
        );
        assert_eq!(
            limits(&turns),
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
        let turns = queue(&[older, urgent], &mut nodes(&[4]), &mut purse(None));
        assert_eq!(
            limits(&turns),
            [("urgent", None), ("older", Some(LimitedBy::Capacity))]
        );
    }

    #[test]
    fn the_purse_pays_for_whole_gangs() {
        let turns = queue(
            &[job("a", 2), job("b", 2)],
            &mut nodes(&[8]),
            &mut purse(Some("7")),
        );
        assert_eq!(
            limits(&turns),
            [("a", None), ("b", Some(LimitedBy::Budget))]
        );
    }

    #[test]
    fn an_exhausted_budget_stops_what_runs() {
        let running = Job {
            running: true,
            ..job("a", 2)
        };
        let turns = queue(&[running], &mut nodes(&[8]), &mut purse(Some("0")));
        assert_eq!(limits(&turns), [("a", Some(LimitedBy::Budget))]);
    }

    #[test]
    fn nothing_resumes_while_its_last_run_is_stopping() {
        let stopping = Job {
            settled: false,
            ..job("a", 2)
        };
        let turns = queue(&[stopping, job("b", 2)], &mut nodes(&[8]), &mut purse(None));
        assert_eq!(limits(&turns), [("a", Some(LimitedBy::Queue)), ("b", None)]);
    }
}
