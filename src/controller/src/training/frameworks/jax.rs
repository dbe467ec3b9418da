//! What `jax.distributed.initialize` is given:
//! <https://docs.jax.dev/en/latest/_autosummary/jax.distributed.initialize.html>. It reads the coordinator's
//! address itself; the program passes the other two on, under the names that Kubeflow gave them.

use k8s_openapi::api::core::v1::EnvVar;

use super::placed_role::PlacedRole;
use super::pytorch::NO_RANK;
use super::variables::value;

/// The port of the coordinator, as Kubeflow has it.
pub(super) const COORDINATOR_PORT: i32 = 6666;

pub(super) fn environment(placed: PlacedRole<'_>) -> Vec<EnvVar> {
    let coordinator = format!("{}:{COORDINATOR_PORT}", placed.first_address());
    vec![
        value("JAX_COORDINATOR_ADDRESS", coordinator),
        value("JAX_NUM_PROCESSES", placed.object.spec.workers()),
        placed
            .rank("JAX_PROCESS_ID")
            .unwrap_or_else(|| value("JAX_PROCESS_ID", NO_RANK)),
    ]
}
