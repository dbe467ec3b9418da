//! What the gang's workers computed, from their logs: pods go when the gang is suspended, so each log is followed while its pod lives.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, LogParams},
};
use serde::Deserialize;
use tokio::task::JoinSet;

use super::manifests::NAMESPACE;

const INTERVAL: Duration = Duration::from_millis(500);
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
    entries: Arc<Mutex<Vec<Step>>>,
    _followers: JoinSet<()>,
}

impl StepLog {
    /// Begins to follow.
    pub(super) fn start(client: Client) -> Self {
        let entries = Arc::default();
        let mut followers = JoinSet::new();
        followers.spawn(follow_workers(client, Arc::clone(&entries)));
        Self {
            entries,
            _followers: followers,
        }
    }

    /// How many steps the gang has done, and whether every worker did each of them once.
    pub(super) fn done(&self) -> (u64, bool) {
        completed_steps(&self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn follow_workers(client: Client, entries: Arc<Mutex<Vec<Step>>>) {
    let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
    let of_train = ListParams::default().labels("bursar.dev/workload=train");
    let mut followed = BTreeSet::new();
    let mut followers = JoinSet::new();
    loop {
        // a list that fails is made again
        for pod in pods.list(&of_train).await.into_iter().flatten() {
            if has_started(&pod) && followed.insert(pod.uid()) {
                followers.spawn(read_log(pods.clone(), pod.name_any(), Arc::clone(&entries)));
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn has_started(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let mut states = statuses.filter_map(|status| status.state.as_ref());
    states.any(|state| state.running.is_some() || state.terminated.is_some())
}

/// Reads a pod's log to its end. A connection that breaks is opened again, and what was read is skipped.
async fn read_log(pods: Api<Pod>, name: String, entries: Arc<Mutex<Vec<Step>>>) {
    let all = LogParams {
        follow: true,
        ..LogParams::default()
    };
    let mut read = 0;
    while let Ok(log) = pods.log_stream(&name, &all).await {
        let mut lines = log.lines();
        let mut line = 0;
        let broken = loop {
            match lines.try_next().await {
                Ok(Some(text)) => {
                    line += 1;
                    if line > read {
                        read = line;
                        let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
                        entries.extend(serde_json::from_str::<Step>(&text));
                    }
                }
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        if !broken {
            return;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Steps that every rank has done, and whether each rank has each of them once, from the first to its last.
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
