//! What a ResourceClaim says of the devices that are allocated to it, and which pods can use them.

use bursar_core::pricing::is_gpu_driver;
use k8s_openapi::api::core::v1::{NodeSelectorTerm, Pod};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::ResourceExt;

use crate::pod;

/// The field of a node that terms of a selector name it by.
const NODE_NAME_FIELD: &str = "metadata.name";

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

/// Whether a pod can use the devices that are allocated to a claim that it names. They may be another node's, and
/// the claim may have been made anew since the pod began: whoever may write pods and claims could have such a
/// pod charged for what another one uses.
pub(crate) fn can_be_used_by(claim: &ResourceClaim, pod: &Pod) -> bool {
    let is_older = || {
        let created = claim.creation_timestamp().map(|created| created.0);
        let began = pod::began_at(pod);
        began.is_none_or(|began| created.is_none_or(|created| created <= began))
    };
    is_available_on(claim, pod::node_name(pod)) && is_older()
}

/// Whether the devices of a claim are available on this node; all are while none are allocated.
fn is_available_on(claim: &ResourceClaim, node: Option<&str>) -> bool {
    let status = claim.status.as_ref();
    let allocation = status.and_then(|status| status.allocation.as_ref());
    let Some(selector) = allocation.and_then(|allocation| allocation.node_selector.as_ref()) else {
        return true;
    };
    let names_another = |term: &NodeSelectorTerm| {
        let mut fields = term.match_fields.iter().flatten();
        fields.any(|field| {
            let values = || field.values.iter().flatten();
            field.key == NODE_NAME_FIELD
                && field.operator == "In"
                && !values().any(|value| Some(value.as_str()) == node)
        })
    };
    !selector.node_selector_terms.iter().all(names_another)
}
