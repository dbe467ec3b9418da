//! A target is given back: its replicas, its pods' labels, the endpoints of its Service. Nothing waits for ever
//! for it: a target that is gone needs nothing, and what cannot be given back for five minutes is said in an
//! Event.

use bursar_api::InferenceDeployment;
use bursar_api::conditions::target_ready;
use bursar_api::names::{
    DELETION_COST_ANNOTATION, DRAINING_ANNOTATION, KIND_LABEL, LEADER_ANNOTATION, SERVING_LABEL,
    TARGET_FINALIZER, WORKLOAD_LABEL,
};
use bursar_core::model::Key;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::apply::set_replicas;
use super::{is_recorded, read, target};
use crate::api_calls::{ApiError, with_timeout};
use crate::context::Context;
use crate::gateways;
use crate::inference::gateway_slices::empty_slices;
use crate::lock::lock;
use crate::object_key::ObjectKey;
use crate::pod;

/// What cannot be given back holds its InferenceDeployment for so long.
const TIMEOUT: SignedDuration = SignedDuration::from_mins(5);
/// Reason of the Event that says so.
const NOT_GIVEN_BACK: &str = "TargetNotGivenBack";

/// Whether an InferenceDeployment that somebody has deleted waits for its target to be given back.
pub(crate) fn is_pending(object: &InferenceDeployment) -> bool {
    object.metadata.deletion_timestamp.is_some() && is_recorded(object)
}

/// Gives the target of a deleted InferenceDeployment back, and lets that go.
///
/// # Errors
/// The first call that failed, for five minutes.
pub(crate) async fn release(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
    now: Timestamp,
) -> Result<(), ApiError> {
    if !is_pending(object) {
        return Ok(());
    }
    // those of a leader before, if there was one, do not count
    let since = context.scale_targets.release_since(key, now);
    if let Err(error) = give_back(context, key, object, now).await {
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

async fn give_back(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
    now: Timestamp,
) -> Result<(), ApiError> {
    // each as far as it goes, whatever becomes of the others
    let replicas = give_replicas_back(context, key, object).await;
    // those that are emptied keep their port; without any there is none
    let port = gateways::slice_port(&context.stores.slices, key);
    let slices = empty_slices(context, key, object, port, now).await;
    let labels = remove_labels(context, key, object).await;
    replicas.and(slices).and(labels)
}

/// Gives a target the replicas that it had. One that had none keeps those that it has: somebody may want
/// them.
async fn give_replicas_back(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
) -> Result<(), ApiError> {
    let known = object
        .status
        .as_ref()
        .and_then(|status| status.target.as_ref());
    let before =
        known.and_then(|known| Some((u32::try_from(known.replicas_before?).ok()?, &known.uid)));
    let (Some((before, uid)), Some(reference)) = (before, &object.spec.target_ref) else {
        return Ok(());
    };
    if before == 0 {
        return Ok(());
    }
    let resource = match read::resource(&context.client, reference).await {
        Ok(resource) => resource,
        // its definition is gone, and so is the target
        Err(problem) if problem.reason == target_ready::KIND_NOT_SUPPORTED => return Ok(()),
        Err(problem) => {
            let why = problem.message;
            return Err(ApiError::NotScalable { why });
        }
    };
    let api = target::api(&context.client, &key.namespace, &resource);
    let found = with_timeout("get target", api.get_metadata_opt(&reference.name)).await?;
    let is_it = found.is_some_and(|found| found.metadata.uid.as_deref() == Some(uid.as_str()));
    if !is_it {
        return Ok(());
    }
    match set_replicas(&api, &reference.name, None, before).await {
        Ok(_) => {
            let (namespace, name) = (&*key.namespace, &*key.name);
            tracing::info!(namespace, name, to = before, "gave the target back");
            Ok(())
        }
        Err(ApiError::Gone { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Takes labels and annotations off the pods. Where the Service selects by the serving label, that stays: the
/// pods would be endpoints no more.
async fn remove_labels(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
) -> Result<(), ApiError> {
    let Some(workload) = ObjectKey::Service(key.clone()).workload() else {
        return Ok(());
    };
    let serving = match selects_serving(context, key, object).await? {
        true => json!("true"),
        false => Value::Null,
    };
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let pods = lock(&context.index).pods_of(&context.stores.pods, &workload);
    let mut first_error = None;
    for pod in pods {
        // a worker gets no requests
        let serving = match pod::leader(&pod) {
            Some(_) => &Value::Null,
            None => &serving,
        };
        let metadata = json!({
            "uid": pod.uid(),
            "labels": {KIND_LABEL: null, WORKLOAD_LABEL: null, SERVING_LABEL: serving},
            "annotations": {
                DRAINING_ANNOTATION: null, DELETION_COST_ANNOTATION: null, LEADER_ANNOTATION: null,
            },
        });
        let (name, params) = (pod.name_any(), PatchParams::default());
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let patched = api.patch_metadata(&name, &params, &patch);
        match with_timeout("patch pod", patched).await {
            Ok(_) | Err(ApiError::Gone { .. }) => {}
            // one that another policy refuses keeps none of the others
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(()), Err)
}

async fn selects_serving(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
) -> Result<bool, ApiError> {
    let Some(reference) = &object.spec.service_ref else {
        return Ok(false);
    };
    let api: Api<Service> = Api::namespaced(context.client.clone(), &key.namespace);
    let found = with_timeout("get Service of target", api.get_opt(&reference.name)).await?;
    let selector = found.and_then(|found| found.spec?.selector);
    Ok(selector.is_some_and(|labels| labels.contains_key(SERVING_LABEL)))
}

async fn remove_finalizer(
    context: &Context,
    key: &Key,
    object: &InferenceDeployment,
) -> Result<(), ApiError> {
    let mut finalizers = object.finalizers().to_vec();
    finalizers.retain(|each| each != TARGET_FINALIZER);
    let metadata = json!({
        "uid": object.uid(),
        "resourceVersion": object.resource_version(),
        "finalizers": finalizers,
    });
    let api: Api<InferenceDeployment> = Api::namespaced(context.client.clone(), &key.namespace);
    let patch = Patch::Merge(json!({"metadata": metadata}));
    let params = PatchParams::default();
    let patched = api.patch_metadata(&key.name, &params, &patch);
    match with_timeout("remove finalizer", patched).await {
        Ok(_) | Err(ApiError::Gone { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
