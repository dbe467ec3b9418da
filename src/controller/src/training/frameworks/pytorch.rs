//! The variables of `torchrun` and `torch.distributed`:
//! <https://docs.pytorch.org/docs/stable/elastic/run.html>. DeepSpeed and accelerate start from them too.

use bursar_api::training::Role;
use k8s_openapi::api::core::v1::EnvVar;

use super::placed_role::PlacedRole;
use super::variables::value;
use crate::pod;

/// torchrun's default port.
pub(super) const MASTER_PORT: i32 = 29_500;
/// Stands for the rank of workers that have to compute it. torchrun without one would take itself for
/// node 0: with this it ends at once and names what to add.
pub(super) const NO_RANK: &str = "BURSAR_RANK_OFFSET+BURSAR_ROLE_RANK";

/// GPUs of which each takes a process of its own. One process uses one MIG instance at most, and shared GPUs may be
/// the same one.
const WHOLE_GPUS: [&str; 5] = [
    "nvidia.com/gpu",
    "amd.com/gpu",
    "gpu.intel.com/i915",
    "gpu.intel.com/xe",
    "habana.ai/gaudi",
];

/// The GPUs of a worker, if each takes a process of its own.
fn processes(role: Role<'_>) -> Option<u32> {
    let gpus = pod::gpus_of(role.template.spec.as_ref()?);
    let (resource, count) = gpus.first()?;
    WHOLE_GPUS.contains(&resource.as_str()).then_some(*count)
}

pub(super) fn environment(placed: PlacedRole<'_>) -> Vec<EnvVar> {
    let address = placed.first_address();
    let workers = placed.object.spec.workers();
    let mut all = vec![
        value("MASTER_ADDR", &address),
        value("MASTER_PORT", MASTER_PORT),
        value("WORLD_SIZE", workers),
    ];
    all.extend(placed.rank("RANK"));
    all.extend([
        value("PET_MASTER_ADDR", &address),
        value("PET_MASTER_PORT", MASTER_PORT),
        value("PET_NNODES", workers),
        placed
            .rank("PET_NODE_RANK")
            .unwrap_or_else(|| value("PET_NODE_RANK", NO_RANK)),
    ]);
    // torchrun would start one process, whatever the worker has
    all.extend(processes(placed.role).map(|gpus| value("PET_NPROC_PER_NODE", gpus)));
    all
}
