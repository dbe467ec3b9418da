//! Orders to an adopted job: it is let run or suspended, and nothing else of it is changed.

use bursar_api::TrainingJob;
use bursar_api::names::{FIELD_MANAGER, SUSPENDED_ANNOTATION, TARGET_FINALIZER};
use bursar_api::training::JobTargetStatus;
use bursar_core::model::Key;
use bursar_core::plan::JobOrder;
use jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::release;
use super::target::JobTarget;
use crate::api_calls::{ApiError, Unapplied, with_timeout};
use crate::context::Context;
use crate::events;

/// Carries out an order.
///
/// # Errors
/// The first call that failed.
pub(crate) async fn apply(
    context: &Context,
    key: &Key,
    object: &TrainingJob,
    order: Option<&JobOrder>,
    now: Timestamp,
) -> Result<(), Unapplied> {
    if object.metadata.deletion_timestamp.is_some() {
        let released = release::release(context, key, object, now).await;
        return released.map_err(Unapplied::before_order);
    }
    let view = context.job_targets.view(key);
    // the pods of one that others suspend get labels, which are taken away again
    if let Some(target) = view.as_ref().and_then(|view| view.charged()) {
        let recorded = record(context, key, object, target).await;
        recorded.map_err(Unapplied::before_order)?;
    }
    // it does what was ordered, and the order before it is forgotten
    let Some(order) = order.filter(|order| !order.cancels_stop) else {
        return Ok(());
    };
    let problem = view.as_ref().and_then(|view| view.problem.as_ref());
    let target = view.as_ref().and_then(|view| view.controlled());
    // what there is no money for is stopped as soon as the API server answers
    let target = target.filter(|_| problem.is_none() || !order.run);
    let Some(target) = target else {
        let why = problem.map_or("the target was not read yet", |problem| &problem.message);
        let why = why.to_owned();
        return Err(Unapplied::before_order(ApiError::NotScalable { why }));
    };
    let suspended = set_suspended(context, key, target, !order.run).await;
    if suspended.is_err() {
        context.job_targets.note_stale(key, now);
    }
    suspended.map_err(Unapplied::before_order)?;
    let written = (&**target, !order.run);
    context
        .job_targets
        .note_written(key, written, order.retry.clone(), now);
    if let Some(event) = events::of_job(order, object) {
        context.events.send(object.object_ref(&()), event);
    }
    let (namespace, name, reason) = (&*key.namespace, &*key.name, &order.reason);
    tracing::info!(namespace, name, run = order.run, reason, "training");
    Ok(())
}

/// Notes what the target gets back, before anything of it is changed: the finalizer, and whether it is suspended.
async fn record(
    context: &Context,
    key: &Key,
    object: &TrainingJob,
    target: &JobTarget,
) -> Result<(), ApiError> {
    let api: Api<TrainingJob> = Api::namespaced(context.client.clone(), &key.namespace);
    let params = PatchParams::default();
    let mut version = object.resource_version();
    if !object.holds_target() {
        let mut finalizers = object.finalizers().to_vec();
        finalizers.push(TARGET_FINALIZER.to_owned());
        let metadata =
            json!({"uid": object.uid(), "resourceVersion": version, "finalizers": finalizers});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let patched = api.patch_metadata(&key.name, &params, &patch);
        let patched = with_timeout("add finalizer", patched).await?;
        version = patched.resource_version();
    }
    let status = object.status.as_ref();
    let known = status.and_then(|status| status.target.as_ref());
    match known.filter(|known| known.suspended_before.is_some()) {
        Some(known) if known.uid == *target.uid => return Ok(()),
        // the target that is on record is gone, as the next read will say
        Some(_) => {
            let call = "adopt another target";
            return Err(ApiError::Conflict { call });
        }
        None => {}
    }
    let status = JobTargetStatus {
        uid: target.uid.to_string(),
        suspended_before: Some(target.suspended),
        suspend_field: target.suspend.to_string(),
    };
    let patch = json!({"metadata": {"uid": object.uid(), "resourceVersion": version}, "status": {"target": status}});
    let patch = Patch::Merge(patch);
    let patched = api.patch_status(&key.name, &params, &patch);
    with_timeout("note suspension of target", patched)
        .await
        .map(drop)
}

/// Suspends a job or lets it run, at the version that was read.
async fn set_suspended(
    context: &Context,
    key: &Key,
    target: &JobTarget,
    suspended: bool,
) -> Result<(), ApiError> {
    if target.suspended == suspended || target.end.is_some() {
        return Ok(());
    }
    let version = context.job_targets.version(key);
    let mut patch = target.suspend.with(json!(suspended));
    patch["metadata"] = json!({
        "uid": &*target.uid,
        "resourceVersion": version,
        // in the same write: whoever leads next knows what was ordered
        "annotations": {SUSPENDED_ANNOTATION: suspended.to_string()},
    });
    patch_target(context, key, target, patch).await
}

async fn patch_target(
    context: &Context,
    key: &Key,
    target: &JobTarget,
    patch: Value,
) -> Result<(), ApiError> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), &key.namespace, &target.resource);
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(patch);
    let patched = api.patch(&target.name, &params, &patch);
    with_timeout("suspend or resume target", patched)
        .await
        .map(drop)
}
