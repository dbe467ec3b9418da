//! What a ResourceClaim says of the devices that are allocated to it.

use bursar_core::pricing::is_gpu_driver;
use k8s_openapi::api::resource::v1::ResourceClaim;

/// The GPUs that are allocated to a claim: driver, pool and device. Access for administration holds
/// nothing.
pub(crate) fn allocated_gpus(
    claim: &ResourceClaim,
) -> impl Iterator<Item = (&String, &String, &String)> {
    let status = claim.status.as_ref();
    let allocation = status.and_then(|status| status.allocation.as_ref()?.devices.as_ref());
    let results = allocation.and_then(|devices| devices.results.as_ref());
    let held = results.into_iter().flatten();
    held.filter(|result| is_gpu_driver(&result.driver) && result.admin_access != Some(true))
        .map(|result| (&result.driver, &result.pool, &result.device))
}

/// True for a claim that holds GPUs.
pub(crate) fn holds_gpus(claim: &ResourceClaim) -> bool {
    allocated_gpus(claim).next().is_some()
}
