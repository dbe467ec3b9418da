//! What the Jobs of a TrainingJob say.

use std::sync::Arc;

use bursar_api::TrainingJob;
use bursar_api::lenient::bounded_text;
use bursar_api::names::{
    DISRUPTIONS_ANNOTATION, REFUSED_ANNOTATION, RESTART_AT_ANNOTATION, RESTARTS_ANNOTATION,
    RETRIES_ANNOTATION, RETRY_AT_ANNOTATION, RETRY_HAD_ROOM_ANNOTATION, ROLE_LABEL, role_job,
};
use bursar_api::training::Role;
use bursar_core::model::{Key, event};
use bursar_core::plan::JobOrder;
use bursar_core::training::Retry;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;

use crate::cache::{Stores, cached};
use crate::ownership::is_owned;

/// A role of a TrainingJob, and its Job if that is there.
pub(crate) struct RoleJob<'a> {
    pub(crate) role: Role<'a>,
    pub(crate) job: Option<Arc<Job>>,
}

/// The roles of a TrainingJob with the Jobs that it owns, in the roles' order. A Job of somebody else
/// that has the name is not one of them.
pub(crate) fn role_jobs<'a>(stores: &Stores, object: &'a TrainingJob) -> Vec<RoleJob<'a>> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let roles = object.spec.roles().into_iter().map(|role| {
        let name = role_job(&name, role.name);
        let job = cached(&stores.batch_jobs, &Key::new(&namespace, &name));
        let job = job.filter(|job| is_owned(&**job, object.metadata.uid.as_deref()));
        RoleJob { role, job }
    });
    roles.collect()
}

/// The role that a Job or a pod is labelled with; empty without a label, as for the only role of the
/// short form. It need not be a role of the TrainingJob: anybody can label a pod.
pub(crate) fn labelled_role(object: &impl ResourceExt) -> &str {
    object.labels().get(ROLE_LABEL).map_or("", String::as_str)
}

/// What decisions read of a role's Job.
pub(crate) fn to_core(job: &Job) -> event::BatchJob {
    let status = job.status.as_ref();
    let count = |number: Option<i32>| u32::try_from(number.unwrap_or(0)).unwrap_or(0);
    let active = status.map_or(0, |status| {
        count(status.active).saturating_add(count(status.terminating))
    });
    event::BatchJob {
        running: is_running(job),
        finished: finished(job),
        active,
        succeeded: status.map_or(0, |status| count(status.succeeded)),
        failed: status.map_or(0, |status| count(status.failed)),
        uid: job.metadata.uid.as_deref().map(Into::into),
        replaces_workers: job
            .spec
            .as_ref()
            .is_none_or(|spec| spec.pod_failure_policy.is_none()),
        started: started(job),
        retry: retry(job),
        restarts: count_in(job, RESTARTS_ANNOTATION),
        disruptions: count_in(job, DISRUPTIONS_ANNOTATION),
        restart_at: restart_at(job),
        creation_failure: None,
    }
}

/// When a Job last began to run. That of the run before stays in its status until its controller has seen
/// that it runs again.
fn started(job: &Job) -> Option<Timestamp> {
    let is_resumed = !has_condition(job, "Suspended");
    let time = job.status.as_ref()?.start_time.as_ref();
    time.map(|time| time.0).filter(|_| is_resumed)
}

/// One run of a Job: it may be suspended, and run again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobRun {
    pub(super) uid: String,
    pub(super) started: Timestamp,
}

/// The run of a Job that has fewer pods than it should.
pub(super) fn incomplete_run(job: &Job) -> Option<JobRun> {
    let status = job.status.as_ref()?;
    let counts = [status.active, status.terminating, status.succeeded];
    let pods = counts.into_iter().flatten().fold(0, i32::saturating_add);
    let is_complete = pods >= job.spec.as_ref()?.completions.unwrap_or(1);
    if is_complete || !is_running(job) || finished(job).is_some() {
        return None;
    }
    let (uid, started) = (job.metadata.uid.clone()?, started(job)?);
    Some(JobRun { uid, started })
}

/// The number in an annotation of a Job; without one, zero.
fn count_in(job: &Job, annotation: &str) -> u32 {
    let count = job.annotations().get(annotation);
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// When the gang of a Job that was suspended because a worker ended may start again.
pub(crate) fn restart_at(job: &Job) -> Option<Timestamp> {
    job.annotations().get(RESTART_AT_ANNOTATION)?.parse().ok()
}

/// Whether a Job has ended: well or not.
pub(crate) fn finished(job: &Job) -> Option<bool> {
    match (has_condition(job, "Complete"), has_condition(job, "Failed")) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

fn has_condition(job: &Job, kind: &str) -> bool {
    let status = job.status.as_ref();
    let mut conditions = status
        .into_iter()
        .flat_map(|status| &status.conditions)
        .flatten();
    conditions.any(|condition| condition.type_ == kind && condition.status == "True")
}

/// Whether an order has the Job of a role replaced by a new one. One that runs is of a newer run than the
/// order knows.
pub(super) fn is_replaced(order: &JobOrder, role: &str, job: &Job) -> bool {
    let is_over = finished(job).is_some() || !is_running(job);
    is_over && order.recreate.iter().any(|name| **name == *role)
}

/// Whether a Job is let run.
pub(crate) fn is_running(job: &Job) -> bool {
    let spec = job.spec.as_ref();
    spec.is_some_and(|spec| spec.suspend != Some(true))
}

/// What a Job's gang was taken back for before.
fn retry(job: &Job) -> Option<Retry> {
    let annotation = |key: &str| job.annotations().get(key);
    Some(Retry {
        count: annotation(RETRIES_ANNOTATION)?.parse().ok()?,
        at: annotation(RETRY_AT_ANNOTATION)?.parse().ok()?,
        creation_failure: annotation(REFUSED_ANNOTATION).map(|why| bounded_text(why).into()),
        had_room: annotation(RETRY_HAD_ROOM_ANNOTATION).is_some_and(|value| value == "true"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Whoever may edit Jobs can write a megabyte into an annotation.
    #[test]
    fn what_an_annotation_says_of_a_refusal_is_bounded() {
        let job: Job = serde_json::from_value(json!({"metadata": {"annotations": {
            RETRIES_ANNOTATION: "1",
            RETRY_AT_ANNOTATION: "2026-12-01T10:00:00Z",
            REFUSED_ANNOTATION: "denied\n".repeat(100_000),
        }}}))
        .unwrap();
        let why = retry(&job).unwrap().creation_failure.unwrap();
        assert!(why.chars().count() < 300, "{}", why.len());
        assert!(why.starts_with("denied ") && !why.contains('\n'), "{why}");
    }
}
