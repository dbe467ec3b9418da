//! The scale subresource: an object's replicas, and nothing else of it.

use serde_json::{Value, json};

use crate::request::Target;
use crate::store::{ApiResult, StatusError, Store};

/// Whether a resource has it.
pub(crate) fn has(plural: &str) -> bool {
    const RESOURCES: [&str; 4] = [
        "deployments",
        "statefulsets",
        "replicasets",
        "inferencedeployments",
    ];
    RESOURCES.contains(&plural)
}

/// Whether a request is about it.
pub(crate) fn is_asked(target: &Target) -> bool {
    target.subresource.as_deref() == Some("scale")
}

/// That of an object.
pub(crate) fn of(target: &Target, object: &Value) -> ApiResult {
    if !has(&target.plural) {
        return Err(StatusError::no_subresource(&target.plural));
    }
    let metadata = &object["metadata"];
    // the API server's default
    let replicas = object["spec"]["replicas"].as_i64().unwrap_or(1);
    Ok(json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "spec": {"replicas": replicas},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)},
    }))
}

/// Writes it.
pub(crate) fn write(store: &mut Store, target: &Target, scale: &Value, manager: &str) -> ApiResult {
    let whole = Target {
        subresource: None,
        ..target.clone()
    };
    let live = store.get(&whole)?;
    let mut object = live.clone();
    object["metadata"]["resourceVersion"] = scale["metadata"]["resourceVersion"].clone();
    object["spec"]["replicas"] = scale["spec"]["replicas"].clone();
    let written = store.update(&whole, &live, object, manager, "Update")?;
    of(target, &written)
}
