//! Workloads that Bursar scaled by `targetRef` get back the replicas that they had before, and their pods lose
//! the labels of replicas. What cannot be given back holds nothing up: it is said, and stays as it is.

use bursar_api::InferenceDeployment;
use bursar_api::names::{
    DELETION_COST_ANNOTATION, DRAINING_ANNOTATION, KIND_LABEL, LEADER_ANNOTATION, SERVING_LABEL,
    TARGET_FINALIZER, WORKLOAD_LABEL,
};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
};
use kube::{Client, ResourceExt, discovery};
use serde_json::{Value, json};

use crate::error::{Error, NotFoundAsNone};
use crate::limits::MAX_ATTEMPTS;

/// Gives all of them back. Returns how many got other replicas than they had.
///
/// # Errors
/// The InferenceDeployments cannot be listed, or one keeps its finalizer.
pub(crate) async fn release_all(client: &Client) -> Result<usize, Error> {
    let kind = ApiResource::erase::<InferenceDeployment>(&());
    let all: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
    let services = all
        .list(&ListParams::default())
        .await
        .not_found_as_none("listing InferenceDeployments")?;
    let is_held = |object: &DynamicObject| {
        let mut finalizers = object.finalizers().iter();
        finalizers.any(|each| each == TARGET_FINALIZER)
    };
    let mut given_back = 0;
    for object in services.into_iter().flatten().filter(is_held) {
        let name = format!(
            "{}/{}",
            object.namespace().unwrap_or_default(),
            object.name_any()
        );
        match give_replicas_back(client, &object).await {
            Ok(was_changed) => given_back += usize::from(was_changed),
            Err(error) => {
                println!(
                    "the target of {name} could not be given back, and stays as it is: {error}"
                );
            }
        }
        if let Err(error) = remove_labels(client, &object).await {
            println!("pods of {name} keep the labels of replicas: {error}");
        }
        if let Err(error) = remove_finalizer(client, &object, &kind).await {
            println!("InferenceDeployment {name} keeps its finalizer {TARGET_FINALIZER}: {error}");
        }
    }
    Ok(given_back)
}

/// Gives a workload the replicas that it had. One that had none keeps those that run. Says whether it
/// was changed.
async fn give_replicas_back(client: &Client, object: &DynamicObject) -> Result<bool, kube::Error> {
    let (target, status) = (
        &object.data["spec"]["targetRef"],
        &object.data["status"]["target"],
    );
    let text = |field: &str| target[field].as_str().unwrap_or_default();
    let before = status["replicasBefore"]
        .as_u64()
        .filter(|before| *before > 0);
    let Some(before) = before else {
        return Ok(false);
    };
    let (group, version) = text("apiVersion")
        .split_once('/')
        .unwrap_or(("", text("apiVersion")));
    let kind = GroupVersionKind::gvk(group, version, text("kind"));
    let (resource, _) = discovery::pinned_kind(client, &kind).await?;
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
    let found = api.get_metadata_opt(text("name")).await?;
    let uid = found.and_then(|found| found.metadata.uid);
    if uid.as_deref() != status["uid"].as_str() {
        // one that was made anew under its name
        return Ok(false);
    }
    let scale = match api.get_scale(text("name")).await {
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(false),
        found => found?,
    };
    let replicas = scale.spec.and_then(|spec| spec.replicas);
    if replicas.is_some_and(|replicas| u64::try_from(replicas) == Ok(before)) {
        return Ok(false);
    }
    let patch = Patch::Merge(json!({"spec": {"replicas": before}}));
    api.patch_scale(text("name"), &PatchParams::default(), &patch)
        .await?;
    Ok(true)
}

/// Takes the labels and annotations of replicas off the pods. Where the Service selects by the serving
/// label, that stays: the pods would be endpoints no more.
async fn remove_labels(client: &Client, object: &DynamicObject) -> Result<(), kube::Error> {
    let namespace = object.namespace().unwrap_or_default();
    let serving = match object.data["spec"]["serviceRef"]["name"].as_str() {
        None => Value::Null,
        Some(name) => {
            let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
            let found = services.get_opt(name).await?;
            let selector = found
                .and_then(|found| found.spec?.selector)
                .unwrap_or_default();
            match selector.contains_key(SERVING_LABEL) {
                true => {
                    println!(
                        "Service {namespace}/{name} selects by the label {SERVING_LABEL}, which new pods do not get any more: take it out of its selector"
                    );
                    json!("true")
                }
                false => Value::Null,
            }
        }
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let name = object.name_any();
    let selected = format!("{KIND_LABEL}=InferenceDeployment,{WORKLOAD_LABEL}={name}");
    let selected = ListParams::default().labels(&selected);
    for pod in pods.list_metadata(&selected).await? {
        // a worker of a replica of several pods gets no requests
        let serving = match pod.annotations().contains_key(LEADER_ANNOTATION) {
            true => &Value::Null,
            false => &serving,
        };
        let metadata = json!({
            "uid": pod.uid(),
            "labels": {KIND_LABEL: null, WORKLOAD_LABEL: null, SERVING_LABEL: serving},
            "annotations": {
                DRAINING_ANNOTATION: null, DELETION_COST_ANNOTATION: null, LEADER_ANNOTATION: null,
            },
        });
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let params = PatchParams::default();
        match pods.patch_metadata(&pod.name_any(), &params, &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            patched => drop(patched?),
        }
    }
    Ok(())
}

/// Takes the finalizer of a targetRef off a workload of this kind.
///
/// # Errors
/// A call failed, or others write it again and again.
pub(crate) async fn remove_finalizer(
    client: &Client,
    object: &DynamicObject,
    kind: &ApiResource,
) -> Result<(), Error> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, kind);
    let what = format!("removing the finalizer of {} {namespace}/{name}", kind.kind);
    for left in (0..MAX_ATTEMPTS).rev() {
        let Some(live) = api.get_metadata(&name).await.not_found_as_none(&what)? else {
            return Ok(());
        };
        let mut finalizers = live.finalizers().to_vec();
        finalizers.retain(|each| each != TARGET_FINALIZER);
        let metadata = json!({
            "uid": live.uid(),
            "resourceVersion": live.resource_version(),
            "finalizers": finalizers,
        });
        let patch = Patch::Merge(json!({"metadata": metadata}));
        match api.patch(&name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 409 && left > 0 => {}
            patched => return patched.not_found_as_none(&what).map(drop),
        }
    }
    Ok(())
}
