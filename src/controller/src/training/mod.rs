//! TrainingJobs: one Indexed Job and a headless Service each.

pub(crate) mod build;
pub(crate) mod job;
pub(crate) mod status;

use bursar_api::TrainingJob;
use bursar_api::names::{RETRIES_ANNOTATION, RETRY_AT_ANNOTATION};
use bursar_core::model::Key;
use bursar_core::plan::JobOrder;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use crate::api_calls::{ApiError, apply_if_changed, with_timeout};
use crate::cache::cached;
use crate::context::Context;

/// Carries out an order, and makes everything that a TrainingJob owns what it should be.
///
/// # Errors
/// The first call that failed.
pub(crate) async fn apply(
    context: &Context,
    key: &Key,
    order: Option<&JobOrder>,
) -> Result<(), ApiError> {
    let object = cached(&context.stores.jobs, key);
    let object = object.filter(|object| object.metadata.deletion_timestamp.is_none());
    let Some(object) = object else { return Ok(()) };
    context.check_readable::<Job>(&key.namespace, &key.name)?;
    context.check_readable::<Service>(&key.namespace, &key.name)?;
    let services: Api<Service> = Api::namespaced(context.client.clone(), &key.namespace);
    let service = cached(&context.stores.front_services, key);
    let wanted = build::service(&object);
    apply_if_changed(&services, service.as_deref(), wanted, |_| true).await?;
    match order {
        Some(order) => apply_job(context, key, &object, order).await,
        None => Ok(()),
    }
}

async fn apply_job(
    context: &Context,
    key: &Key,
    object: &TrainingJob,
    order: &JobOrder,
) -> Result<(), ApiError> {
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &key.namespace);
    let Some(found) = cached(&context.stores.batch_jobs, key) else {
        let wanted = build::job(object, !order.run);
        apply_if_changed(&jobs, None, wanted, |_| true).await?;
        return Ok(());
    };
    let mut owners = found.owner_references().iter();
    if !owners.any(|owner| Some(&owner.uid) == object.metadata.uid.as_ref()) {
        return Err(ApiError::Foreign {
            kind: "Job".to_owned(),
            name: key.name.to_string(),
        });
    }
    // of a Job that exists only its suspension changes: all else is immutable
    let spec = found.spec.as_ref();
    let is_suspended = spec.and_then(|spec| spec.suspend).unwrap_or(false);
    if is_suspended != order.run {
        return Ok(());
    }
    let mut metadata = json!({"uid": found.uid(), "resourceVersion": found.resource_version()});
    if !order.run {
        // how often it was taken back counts until it is suspended for another reason
        metadata["annotations"] = json!({
            RETRIES_ANNOTATION: order.retry.map(|retry| retry.count.to_string()),
            RETRY_AT_ANNOTATION: order.retry.map(|retry| retry.at.to_string()),
        });
    }
    let patch = Patch::Merge(json!({"metadata": metadata, "spec": {"suspend": !order.run}}));
    let params = PatchParams::default();
    with_timeout("patch job", jobs.patch(&key.name, &params, &patch)).await?;
    let (namespace, name) = (&*key.namespace, &*key.name);
    tracing::info!(
        namespace,
        name,
        run = order.run,
        reason = order.reason,
        "training"
    );
    Ok(())
}
