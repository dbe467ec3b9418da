//! The steps that the training job's workers computed, from their logs: pods go when the job is
//! suspended, so each log is followed while its pod lives.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use kube::{Api, Client};
use serde::Deserialize;
use tokio::task::JoinSet;

use super::{manifests::NAMESPACE, pod_logs};

/// Ranks finish a step together, but their logs may come this many steps apart.
const MAX_LAG: u64 = 8;

/// A step that a rank computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Step {
    rank: u64,
    attempt: u64,
    step: u64,
}

/// Follows the workers' logs until it is dropped.
pub(super) struct StepLog {
    steps: Arc<Mutex<Vec<Step>>>,
    _followers: JoinSet<()>,
}

impl StepLog {
    /// Begins to follow.
    pub(super) fn start(client: Client) -> Self {
        let steps = Arc::<Mutex<Vec<Step>>>::default();
        let pods = Api::namespaced(client, NAMESPACE);
        let log = Arc::clone(&steps);
        let followers = pod_logs::follow(pods, "bursar.dev/workload=train", move |line| {
            let mut steps = log.lock().unwrap_or_else(PoisonError::into_inner);
            steps.extend(serde_json::from_str::<Step>(line));
        });
        Self {
            steps,
            _followers: followers,
        }
    }

    /// The number of the latest attempt that has done a step, and its first step; 0 if there is
    /// none.
    pub(super) fn latest_attempt(&self) -> (u64, u64) {
        latest_attempt(&self.steps.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many steps the workers have done together, and whether each of them did each step once.
    pub(super) fn done(&self) -> (u64, bool) {
        completed_steps(&self.steps.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The number of the latest attempt, and its first step.
fn latest_attempt(steps: &[Step]) -> (u64, u64) {
    let number = steps.iter().map(|step| step.attempt).max();
    let number = number.unwrap_or_default();
    let of_latest = steps.iter().filter(|step| step.attempt == number);
    let first = of_latest.map(|step| step.step).min();
    (number, first.unwrap_or_default())
}

/// Steps that every rank has done, and whether each rank has each of them once, from the first to
/// its last.
fn completed_steps(entries: &[Step]) -> (u64, bool) {
    let mut sorted = entries.to_vec();
    // stable: within an attempt the order is that of the log
    sorted.sort_by_key(|entry| (entry.rank, entry.attempt));
    let mut done = BTreeMap::<u64, u64>::new();
    let mut in_order = true;
    for entry in sorted {
        let steps = done.entry(entry.rank).or_default();
        in_order &= entry.step == *steps;
        *steps = entry.step + 1;
    }
    let least = done.values().min().copied().unwrap_or_default();
    let most = done.values().max().copied().unwrap_or_default();
    (
        least,
        in_order && done.len() == 2 && most - least <= MAX_LAG,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(entries: &[(u64, u64, u64)]) -> (u64, bool) {
        let entry = |&(rank, attempt, step)| Step {
            rank,
            attempt,
            step,
        };
        completed_steps(&entries.iter().map(entry).collect::<Vec<_>>())
    }

    #[test]
    fn the_latest_attempt_begins_where_the_one_before_ended() {
        let step = |rank, attempt, step| Step {
            rank,
            attempt,
            step,
        };
        assert_eq!(latest_attempt(&[]), (0, 0));
        let first = [step(0, 1, 0), step(1, 1, 0), step(0, 1, 1)];
        assert_eq!(latest_attempt(&first), (1, 0));
        let second = [step(1, 2, 2), step(1, 1, 1), step(0, 2, 2), step(1, 2, 3)];
        assert_eq!(
            latest_attempt(&[first.to_vec(), second.to_vec()].concat()),
            (2, 2)
        );
    }

    #[test]
    fn a_step_that_is_lost_or_done_twice_is_seen() {
        let whole = [
            (0, 1, 0),
            (1, 1, 0),
            (0, 1, 1),
            (1, 1, 1),
            (1, 2, 2),
            (0, 2, 2),
        ];
        assert_eq!(steps(&whole), (3, true));
        assert!(!steps(&[&whole[..], &[(0, 2, 4)]].concat()).1, "lost");
        assert!(!steps(&[&whole[..], &[(0, 2, 2)]].concat()).1, "twice");
        assert!(!steps(&[&whole[..], &[(0, 3, 2)]].concat()).1, "again");
        assert!(!steps(&whole[1..]).1, "the first is missing");
        assert!(!steps(&[(0, 1, 0)]).1, "one rank");
    }

    #[test]
    fn what_is_no_step_is_passed_over() {
        let is_step = |text| serde_json::from_str::<Step>(text).is_ok();
        assert!(is_step(r#"{"rank":0,"attempt":1,"step":0}"#));
        assert!(!is_step(r#"{"rank":0,"attempt":2,"from":7}"#));
        assert!(!is_step("step 8 of 100"));
    }
}
