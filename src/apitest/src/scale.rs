//! The scale subresource: an object's replicas, and nothing else of it.

use serde_json::{Value, json};

use crate::request::Target;

/// Whether a resource has it.
pub(crate) fn has(plural: &str) -> bool {
    const RESOURCES: [&str; 5] = [
        "deployments",
        "statefulsets",
        "replicasets",
        "inferencedeployments",
        "leaderworkersets",
    ];
    RESOURCES.contains(&plural)
}

/// Whether a request is about it.
pub(crate) fn is_asked(target: &Target) -> bool {
    target.subresource.as_deref() == Some("scale")
}

/// That of an object; `None` if its resource has none.
pub(crate) fn of(target: &Target, object: &Value) -> Option<Value> {
    if !has(&target.plural) {
        return None;
    }
    let metadata = &object["metadata"];
    // the API server's default
    let replicas = object["spec"]["replicas"].as_i64().unwrap_or(1);
    Some(json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "spec": {"replicas": replicas},
        "status": {"replicas": object["status"]["replicas"].as_i64().unwrap_or(0)},
    }))
}
