//! What the Jobs of a TrainingJob say.

use std::sync::Arc;

use bursar_api::TrainingJob;
use bursar_api::names::{
    RESTART_AT_ANNOTATION, RESTARTS_ANNOTATION, RETRIES_ANNOTATION, RETRY_AT_ANNOTATION,
    ROLE_LABEL, role_job,
};
use bursar_api::training::Role;
use bursar_core::model::{Key, event};
use bursar_core::training::Retry;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;

use crate::cache::{Stores, cached};

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
        let job = job.filter(|job| is_owned(&**job, object));
        RoleJob { role, job }
    });
    roles.collect()
}

/// Whether a Job belongs to this TrainingJob.
pub(crate) fn is_owned(found: &impl ResourceExt, object: &TrainingJob) -> bool {
    let owners = found.owner_references();
    let mut uids = owners.iter().map(|owner| Some(&owner.uid));
    uids.any(|uid| uid == object.metadata.uid.as_ref())
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
        started: status
            .and_then(|status| status.start_time.as_ref())
            .map(|time| time.0),
        retry: retry(job),
        restarts: restarts(job),
        restart_at: restart_at(job),
    }
}

/// How often a worker of a Job's gang has failed.
fn restarts(job: &Job) -> u32 {
    let annotation = job.annotations().get(RESTARTS_ANNOTATION);
    annotation.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// When the gang of a Job that was suspended because a worker ended may start again.
pub(crate) fn restart_at(job: &Job) -> Option<Timestamp> {
    job.annotations().get(RESTART_AT_ANNOTATION)?.parse().ok()
}

/// How often a worker of a gang has failed, as the Jobs of its roles show it.
pub(crate) fn restarts_of(roles: &[RoleJob<'_>]) -> u32 {
    let jobs = roles.iter().filter_map(|role| role.job.as_deref());
    jobs.map(restarts).max().unwrap_or(0)
}

/// Whether the restarts of a gang are used up.
pub(crate) fn has_no_restart_left(object: &TrainingJob, roles: &[RoleJob<'_>]) -> bool {
    let jobs = roles.iter().filter_map(|role| role.job.as_deref());
    let mut suspended = jobs.filter(|job| finished(job).is_none() && !is_running(job));
    let count = restarts_of(roles).max(object.restarts());
    let limit = u32::try_from(object.spec.restarts).unwrap_or(0);
    suspended.any(|job| restart_at(job).is_some()) && count > limit
}

/// Whether a TrainingJob has ended: well when each of its roles has, not well once one has failed or
/// its restarts are used up.
pub(crate) fn gang_finished(object: &TrainingJob, roles: &[RoleJob<'_>]) -> Option<bool> {
    if has_no_restart_left(object, roles) {
        return Some(false);
    }
    let ends = roles
        .iter()
        .map(|role| role.job.as_deref().and_then(finished));
    let ends: Vec<Option<bool>> = ends.collect();
    if ends.contains(&Some(false)) {
        return Some(false);
    }
    let well = !ends.is_empty() && ends.iter().all(|end| *end == Some(true));
    well.then_some(true)
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

/// What a Job's gang was taken back for before.
fn retry(job: &Job) -> Option<Retry> {
    let annotation = |key: &str| job.annotations().get(key);
    Some(Retry {
        count: annotation(RETRIES_ANNOTATION)?.parse().ok()?,
        at: annotation(RETRY_AT_ANNOTATION)?.parse().ok()?,
    })
}
