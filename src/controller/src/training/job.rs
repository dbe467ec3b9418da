//! What a TrainingJob's Job says.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use crate::pod;

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

/// The role of a worker; empty for the only one.
pub(crate) fn role_of(pod: &Pod) -> &str {
    pod::label(pod, "bursar.dev/role").unwrap_or_default()
}
