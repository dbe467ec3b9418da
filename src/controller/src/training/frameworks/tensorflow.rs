//! `TF_CONFIG`: <https://www.tensorflow.org/guide/distributed_training#TF_CONFIG>. Roles are task types. An
//! evaluator is no member of the cluster, for whose description the others would wait.

use std::collections::BTreeMap;

use bursar_api::training::{TENSORFLOW_PORT, WORKER};
use k8s_openapi::api::core::v1::EnvVar;
use serde_json::json;

use super::placed_role::PlacedRole;
use super::variables::{index, value};

/// The worker's index in its role. Kubernetes puts the value of a variable that was declared before in the
/// place of `$(NAME)`.
const INDEX: &str = "BURSAR_ROLE_RANK";
/// The role outside the cluster.
const EVALUATOR: &str = "evaluator";

pub(super) fn environment(placed: PlacedRole<'_>) -> Vec<EnvVar> {
    let mut all = Vec::new();
    if placed.role.name.is_empty() {
        all.push(index(INDEX));
    }
    all.push(value("TF_CONFIG", config(placed)));
    all
}

/// The workers of the short form are of the type `worker`, of which the first is the chief.
fn task_type(role: &str) -> &str {
    match role {
        "" => WORKER,
        _ => role,
    }
}

fn config(placed: PlacedRole<'_>) -> String {
    let roles = placed.object.spec.roles().into_iter();
    let members = roles.filter(|role| role.name != EVALUATOR);
    let cluster: BTreeMap<&str, Vec<String>> = members
        .map(|role| {
            let address = |index| placed.address(role.name, index);
            let with_port = |index| format!("{}:{TENSORFLOW_PORT}", address(index));
            let addresses = (0..role.replicas).map(with_port).collect();
            (task_type(role.name), addresses)
        })
        .collect();
    let task_type = task_type(placed.role.name);
    // a number, which JSON has no place for before the container starts
    let index = format!("$({INDEX})");
    let config = json!({"cluster": cluster, "environment": "cloud", "task": {"index": index, "type": task_type}});
    config.to_string().replace(&format!("\"{index}\""), &index)
}
