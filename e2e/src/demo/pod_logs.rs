//! Follows the logs of pods, those that start later included.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{ListParams, LogParams},
};
use tokio::task::JoinSet;

const INTERVAL: Duration = Duration::from_millis(500);

/// Calls `on_line` with every line that the pods with these labels write, until the result is
/// dropped.
pub(super) fn follow(
    pods: Api<Pod>,
    labels: &str,
    on_line: impl Fn(&str) + Send + Sync + 'static,
) -> JoinSet<()> {
    let selected = ListParams::default().labels(labels);
    let on_line: Arc<dyn Fn(&str) + Send + Sync> = Arc::new(on_line);
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut followed = BTreeSet::new();
        let mut followers = JoinSet::new();
        loop {
            // a list that fails is made again
            for pod in pods.list(&selected).await.into_iter().flatten() {
                if has_started(&pod) && followed.insert(pod.uid()) {
                    let on_line = Arc::clone(&on_line);
                    followers.spawn(read_log(pods.clone(), pod.name_any(), on_line));
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    });
    task
}

fn has_started(pod: &Pod) -> bool {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let mut states = statuses.filter_map(|status| status.state.as_ref());
    states.any(|state| state.running.is_some() || state.terminated.is_some())
}

/// Reads a pod's log to its end. A connection that breaks is opened again, and what was read is
/// skipped.
async fn read_log(pods: Api<Pod>, name: String, on_line: Arc<dyn Fn(&str) + Send + Sync>) {
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
                        on_line(&text);
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
