//! A target is given back: it is suspended or not as it was before, and its pods lose the labels of workers.
//! Nothing waits for ever for it: a job that is gone or has ended needs nothing, and what cannot be given back
//! for five minutes is said in an Event.

use bursar_api::TrainingJob;
use bursar_api::conditions::target_ready;
use bursar_api::names::{
    KIND_LABEL, ROLE_LABEL, SUSPENDED_ANNOTATION, TARGET_FINALIZER, WORKLOAD_LABEL,
};
use bursar_core::model::Key;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Resource, ResourceExt};
use serde_json::json;

use super::read::{self, Wanted};
use super::view::is_unread;
use crate::api_calls::{ApiError, with_timeout};
use crate::context::Context;
use crate::lock::lock;
use crate::object_key::ObjectKey;

/// What cannot be given back holds its TrainingJob for so long.
const TIMEOUT: SignedDuration = SignedDuration::from_mins(5);
/// Reason of the Event that says so.
const NOT_GIVEN_BACK: &str = "TargetNotGivenBack";

/// Whether a TrainingJob that somebody has deleted waits for its target to be given back.
pub(crate) fn is_pending(object: &TrainingJob) -> bool {
    object.metadata.deletion_timestamp.is_some() && object.holds_target()
}

/// Gives the target of a deleted TrainingJob back, and lets that go.
///
/// # Errors
/// The first call that failed, for five minutes.
pub(super) async fn release(
    context: &Context,
    key: &Key,
    object: &TrainingJob,
    now: Timestamp,
) -> Result<(), ApiError> {
    if !is_pending(object) {
        return Ok(());
    }
    // those of a leader before, if there was one, do not count
    let since = context.job_targets.release_since(key, now);
    // each as far as it goes, whatever becomes of the other
    let suspension = give_suspension_back(context, key, object).await;
    let labels = remove_labels(context, key).await;
    if let Err(error) = suspension.and(labels) {
        if now < since.saturating_add(TIMEOUT).unwrap_or(since) {
            return Err(error);
        }
        let event = Event {
            type_: EventType::Warning,
            reason: NOT_GIVEN_BACK.to_owned(),
            note: Some(format!(
                "for five minutes the target could not be given back as it was, so it stays as it is: {error}"
            )),
            action: "GiveBack".to_owned(),
            secondary: None,
        };
        context.events.send(object.object_ref(&()), event);
    }
    remove_finalizer(context, key, object).await
}

/// Suspends a job or lets it run, as it was before. One that others suspend is theirs.
async fn give_suspension_back(
    context: &Context,
    key: &Key,
    object: &TrainingJob,
) -> Result<(), ApiError> {
    let status = object.status.as_ref();
    let known = status.and_then(|status| status.target.as_ref());
    let before = known.and_then(|known| Some((known.suspended_before?, &known.uid)));
    let (Some((before, uid)), Some(reference)) = (before, &object.spec.target_ref) else {
        return Ok(());
    };
    let wanted = Wanted {
        namespace: key.namespace.to_string(),
        target: reference.clone(),
    };
    let reading = read::read(&context.client, context.job_targets.kinds(), &wanted).await;
    let reason = reading.problem.as_ref().map(|problem| problem.reason);
    // without templates, it is suspended all the same
    let is_ours = reason.is_none_or(|reason| reason == target_ready::NO_TEMPLATES);
    if let Some(problem) = reading.problem.filter(is_unread) {
        let why = problem.message;
        return Err(ApiError::NotScalable { why });
    }
    let target = reading.target.filter(|target| *target.uid == **uid);
    let Some(target) = target.filter(|target| is_ours && target.end.is_none()) else {
        return Ok(());
    };
    // somebody has decided otherwise after Bursar
    let is_others = target.is_suspended_by_others() || target.is_resumed_by_others();
    let suspended = if is_others { target.suspended } else { before };
    if target.suspended == suspended && target.last_order.is_none() {
        return Ok(());
    }
    let mut patch = target.suspend.with(json!(suspended));
    patch["metadata"] = json!({
        "uid": &*target.uid,
        "resourceVersion": reading.version,
        "annotations": {SUSPENDED_ANNOTATION: null},
    });
    let api: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), &key.namespace, &target.resource);
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    let patched = api.patch(&target.name, &params, &patch);
    match with_timeout("give target back", patched).await {
        Ok(_) => {
            let (namespace, name) = (&*key.namespace, &*key.name);
            tracing::info!(namespace, name, suspended, "gave the target back");
            Ok(())
        }
        Err(ApiError::Gone { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Takes the labels of workers off the pods.
async fn remove_labels(context: &Context, key: &Key) -> Result<(), ApiError> {
    let Some(workload) = ObjectKey::Job(key.clone()).workload() else {
        return Ok(());
    };
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let pods = lock(&context.index).pods_of(&context.stores.pods, &workload);
    for pod in pods {
        let metadata = json!({
            "uid": pod.uid(),
            "labels": {KIND_LABEL: null, WORKLOAD_LABEL: null, ROLE_LABEL: null},
        });
        let (name, params) = (pod.name_any(), PatchParams::default());
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let patched = api.patch_metadata(&name, &params, &patch);
        match with_timeout("patch pod", patched).await {
            Ok(_) | Err(ApiError::Gone { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn remove_finalizer(
    context: &Context,
    key: &Key,
    object: &TrainingJob,
) -> Result<(), ApiError> {
    let mut finalizers = object.finalizers().to_vec();
    finalizers.retain(|each| each != TARGET_FINALIZER);
    let metadata = json!({
        "uid": object.uid(),
        "resourceVersion": object.resource_version(),
        "finalizers": finalizers,
    });
    let api: Api<TrainingJob> = Api::namespaced(context.client.clone(), &key.namespace);
    let patch = Patch::Merge(json!({"metadata": metadata}));
    let params = PatchParams::default();
    let patched = api.patch_metadata(&key.name, &params, &patch);
    match with_timeout("remove finalizer", patched).await {
        Ok(_) | Err(ApiError::Gone { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
