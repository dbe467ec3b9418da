//! The pods' finalizer: added before a charge is opened, removed when every record holds its sums.

use bursar_api::names::SPEND_FINALIZER;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::api_calls::{ApiError, with_timeout};
use crate::pod;

/// The pod as it is now, if it is still the same one.
pub(super) async fn live(client: &Client, pod: &Pod) -> Result<Option<Pod>, ApiError> {
    let live = with_timeout("get pod", api(client, pod).get_opt(&pod.name_any())).await?;
    Ok(live.filter(|live| pod::uid(live) == pod::uid(pod)))
}

/// Adds the finalizer to a pod that no admission policy gave it to.
pub(super) async fn add(client: &Client, pod: &Pod) -> Result<(), ApiError> {
    let mut finalizers = pod.finalizers().to_vec();
    finalizers.push(SPEND_FINALIZER.to_owned());
    replace(client, pod, finalizers).await
}

/// Removes the finalizer of a pod that is settled, or never held a node.
pub(super) async fn remove(client: &Client, pod: &Pod) -> Result<(), ApiError> {
    let live = live(client, pod).await?;
    let Some(live) = live.filter(|live| pod::has_finalizer(live, SPEND_FINALIZER)) else {
        return Ok(());
    };
    let mut finalizers = live.finalizers().to_vec();
    finalizers.retain(|each| each != SPEND_FINALIZER);
    replace(client, &live, finalizers).await
}

/// Replaces the finalizers of a pod, at the version that was read.
async fn replace(client: &Client, pod: &Pod, finalizers: Vec<String>) -> Result<(), ApiError> {
    let version = pod.resource_version();
    let metadata = json!({"uid": pod.uid(), "resourceVersion": version, "finalizers": finalizers});
    let patch = Patch::Merge(json!({"metadata": metadata}));
    let (api, name, params) = (api(client, pod), pod.name_any(), PatchParams::default());
    match with_timeout("patch pod", api.patch_metadata(&name, &params, &patch)).await {
        Err(ApiError::Gone { .. }) => Ok(()),
        other => other.map(drop),
    }
}

fn api(client: &Client, pod: &Pod) -> Api<Pod> {
    Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default())
}
