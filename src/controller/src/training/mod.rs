//! TrainingJobs: one Indexed Job and a headless Service each.

pub(crate) mod build;
pub(crate) mod job;
pub(crate) mod status;

use bursar_api::TrainingJob;
use bursar_api::names::{RETRIES_ANNOTATION, RETRY_AT_ANNOTATION};
use bursar_core::training::Turn;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::api_calls::{ApiError, apply_if_changed, with_timeout};
use crate::context::Context;
use crate::training::job::batch_job;

/// Makes the cluster follow a turn of the queue.
///
/// # Errors
/// The first call that failed; the next run goes on from what it finds.
pub(crate) async fn apply(
    context: &Context,
    object: &TrainingJob,
    turn: &Turn,
) -> Result<(), ApiError> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    context.check_readable::<Job>(&namespace, &name)?;
    context.check_readable::<Service>(&namespace, &name)?;
    let services: Api<Service> = Api::namespaced(context.client.clone(), &namespace);
    let service = context
        .stores
        .front_services
        .find(|found| found.namespace().as_ref() == Some(&namespace) && found.name_any() == name);
    apply_if_changed(
        &services,
        service.as_deref(),
        build::service(object),
        |_| true,
    )
    .await?;

    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &namespace);
    let Some(found) = batch_job(&context.stores, &namespace, &name) else {
        apply_if_changed(&jobs, None, build::job(object, !turn.run), |_| true).await?;
        return Ok(());
    };
    if !found
        .owner_references()
        .iter()
        .any(|owner| Some(&owner.uid) == object.metadata.uid.as_ref())
    {
        return Err(ApiError::Foreign {
            kind: "Job".to_owned(),
            name,
        });
    }
    // of a Job that exists only its suspension changes: all else is immutable
    let suspended = found
        .spec
        .as_ref()
        .and_then(|spec| spec.suspend)
        .unwrap_or(false);
    if suspended == turn.run {
        let mut metadata = json!({"uid": found.uid(), "resourceVersion": found.resource_version()});
        if !turn.run {
            // how often it was taken back counts until it is suspended for another reason
            metadata["annotations"] = json!({
                RETRIES_ANNOTATION: turn.retry.map(|retry| retry.count.to_string()),
                RETRY_AT_ANNOTATION: turn.retry.map(|retry| retry.at.to_string()),
            });
        }
        let patch = Patch::Merge(json!({"metadata": metadata, "spec": {"suspend": !turn.run}}));
        with_timeout(
            "patch job",
            jobs.patch(&name, &PatchParams::default(), &patch),
        )
        .await?;
        tracing::info!(
            namespace,
            name,
            run = turn.run,
            reason = turn.reason,
            "training"
        );
    }
    Ok(())
}
