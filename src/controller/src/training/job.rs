//! What a TrainingJob's Job says.

use std::sync::Arc;

use bursar_api::names::{RETRIES_ANNOTATION, RETRY_AT_ANNOTATION};
use bursar_core::training::Retry;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::cache::Stores;
use crate::pod;

/// The owned Job of a TrainingJob.
pub(crate) fn batch_job(stores: &Stores, namespace: &str, name: &str) -> Option<Arc<Job>> {
    stores
        .batch_jobs
        .find(|job| job.namespace().as_deref() == Some(namespace) && job.name_any() == name)
}

/// Whether a Job has ended: well or not.
pub(crate) fn finished(job: &Job) -> Option<bool> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let holds = |kind: &str| {
        conditions
            .iter()
            .any(|condition| condition.type_ == kind && condition.status == "True")
    };
    match (holds("Complete"), holds("Failed")) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

/// Whether a Job is let run.
pub(crate) fn is_running(job: &Job) -> bool {
    let spec = job.spec.as_ref();
    spec.is_some_and(|spec| spec.suspend != Some(true))
}

/// Since when a running gang has had workers without a node: the oldest of them, or, where pods are missing, what came last of the
/// gang's start and its workers' ends.
pub(crate) fn incomplete_since(job: &Job, pods: &[&Pod], missing: bool) -> Option<Timestamp> {
    let waiting = pods
        .iter()
        .filter(|pod| pod::is_present(pod) && pod::node_name(pod).is_none())
        .filter_map(|pod| pod.creation_timestamp())
        .map(|time| time.0);
    let started = job
        .status
        .as_ref()
        .and_then(|status| status.start_time.clone())
        .map(|time| time.0);
    let ended = pods.iter().filter_map(|pod| {
        let end = pod::end(pod, Timestamp::MIN)?;
        Some(end.at)
    });
    let missing = ended.chain(started).max().filter(|_| missing);
    waiting.chain(missing).min()
}

/// What a Job's gang was taken back for before.
pub(crate) fn retry(job: &Job) -> Option<Retry> {
    let annotation = |key: &str| job.annotations().get(key);
    Some(Retry {
        count: annotation(RETRIES_ANNOTATION)?.parse().ok()?,
        at: annotation(RETRY_AT_ANNOTATION)?.parse().ok()?,
    })
}
