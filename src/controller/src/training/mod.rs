//! TrainingJobs: an Indexed Job for each role and a headless Service each.

pub(crate) mod build;
pub(crate) mod job;
pub(crate) mod status;

use std::sync::Arc;

use bursar_api::TrainingJob;
use bursar_api::names::{RETRIES_ANNOTATION, RETRY_AT_ANNOTATION};
use bursar_core::model::Key;
use bursar_core::plan::JobOrder;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use crate::api_calls::{ApiError, Unapplied, apply_if_changed, with_timeout};
use crate::cache::cached;
use crate::context::Context;
use crate::events;
use crate::training::job::{finished, is_owned, is_running};

/// Carries out an order, and makes everything that a TrainingJob owns what it should be.
///
/// # Errors
/// The first call that failed. What a start needs is there before it; nothing keeps a stop waiting.
pub(crate) async fn apply(
    context: &Context,
    key: &Key,
    order: Option<&JobOrder>,
) -> Result<(), Unapplied> {
    let object = cached(&context.stores.jobs, key);
    let object = object.filter(|object| object.metadata.deletion_timestamp.is_none());
    let Some(object) = object else { return Ok(()) };
    let stop = order.filter(|order| !order.run);
    if let Some(order) = stop {
        stop_jobs(context, key, &object, order)
            .await
            .map_err(Unapplied::before_order)?;
        note_order(context, &object, order);
        return apply_service(context, key, &object)
            .await
            .map_err(Unapplied::after_order);
    }
    start(context, key, &object, order)
        .await
        .map_err(Unapplied::before_order)
}

/// Makes the Service, and lets the Jobs run if they are to.
async fn start(
    context: &Context,
    key: &Key,
    object: &TrainingJob,
    order: Option<&JobOrder>,
) -> Result<(), ApiError> {
    // all of it before the first write: part of a gang would only hold GPUs
    let wanted = build::jobs(object, order.is_none()).into_iter();
    let jobs: Vec<(Job, Option<Arc<Job>>)> = wanted
        .map(|(_, job)| Ok((job.clone(), found_job(context, object, &job)?)))
        .collect::<Result<_, ApiError>>()?;
    apply_service(context, key, object).await?;
    let Some(order) = order else { return Ok(()) };
    for (wanted, found) in jobs {
        apply_job(context, key, wanted, found.as_deref(), order).await?;
    }
    note_order(context, object, order);
    Ok(())
}

/// Suspends the Jobs. One of them that cannot be told does not keep the others running.
async fn stop_jobs(
    context: &Context,
    key: &Key,
    object: &TrainingJob,
    order: &JobOrder,
) -> Result<(), ApiError> {
    let mut told = Ok(());
    for (_, wanted) in build::jobs(object, true) {
        let this = match found_job(context, object, &wanted) {
            Ok(found) => apply_job(context, key, wanted, found.as_deref(), order).await,
            Err(error) => Err(error),
        };
        told = told.and(this);
    }
    told
}

/// The headless Service by which the workers find each other.
async fn apply_service(context: &Context, key: &Key, object: &TrainingJob) -> Result<(), ApiError> {
    context.check_readable::<Service>(&key.namespace, &key.name)?;
    let api: Api<Service> = Api::namespaced(context.client.clone(), &key.namespace);
    let found = cached(&context.stores.front_services, key);
    let wanted = build::service(object);
    apply_if_changed(&api, found.as_deref(), wanted, |_| true)
        .await
        .map(drop)
}

/// Says what was carried out, in an Event.
fn note_order(context: &Context, object: &TrainingJob, order: &JobOrder) {
    if let Some(event) = events::of_job(order, object.status.as_ref()) {
        context.events.send(object.object_ref(&()), event);
    }
}

/// The Job of this name, as the cache has it.
fn found_job(
    context: &Context,
    object: &TrainingJob,
    job: &Job,
) -> Result<Option<Arc<Job>>, ApiError> {
    let key = Key::new(&object.namespace().unwrap_or_default(), &job.name_any());
    context.check_readable::<Job>(&key.namespace, &key.name)?;
    let found = cached(&context.stores.batch_jobs, &key);
    match found.as_ref().is_some_and(|found| !is_owned(found, object)) {
        true => Err(ApiError::Foreign {
            kind: "Job".to_owned(),
            name: key.name.to_string(),
        }),
        false => Ok(found),
    }
}

/// Tells the Job of one role to run or not.
async fn apply_job(
    context: &Context,
    key: &Key,
    wanted: Job,
    found: Option<&Job>,
    order: &JobOrder,
) -> Result<(), ApiError> {
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &key.namespace);
    let Some(found) = found else {
        apply_if_changed(&jobs, None, wanted, |_| true).await?;
        return Ok(());
    };
    // of a Job that exists only its suspension changes: all else is immutable
    if is_running(found) == order.run || finished(found).is_some() {
        return Ok(());
    }
    // how often it was taken back counts until it is suspended for another reason
    let annotations = (!order.run).then(|| {
        json!({
            RETRIES_ANNOTATION: order.retry.map(|retry| retry.count.to_string()),
            RETRY_AT_ANNOTATION: order.retry.map(|retry| retry.at.to_string()),
        })
    });
    set_suspended(&jobs, found, !order.run, annotations).await?;
    note_changed(key, found, order.run, &order.reason);
    Ok(())
}

fn note_changed(key: &Key, job: &Job, run: bool, reason: &str) {
    let (namespace, name) = (&*key.namespace, job.name_any());
    tracing::info!(namespace, name, run, reason, "training");
}

async fn set_suspended(
    jobs: &Api<Job>,
    found: &Job,
    suspend: bool,
    annotations: Option<Value>,
) -> Result<(), ApiError> {
    let mut metadata = json!({"uid": found.uid(), "resourceVersion": found.resource_version()});
    if let Some(annotations) = annotations {
        metadata["annotations"] = annotations;
    }
    let patch = Patch::Merge(json!({"metadata": metadata, "spec": {"suspend": suspend}}));
    let (name, params) = (found.name_any(), PatchParams::default());
    with_timeout("patch job", jobs.patch(&name, &params, &patch))
        .await
        .map(drop)
}
