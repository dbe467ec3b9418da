//! What workloads own, and what becomes of it where somebody deletes them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

/// The finalizer by which the garbage collector lets what a deleted object owns run on.
const ORPHAN_FINALIZER: &str = "orphan";

/// Whether an object is owned by the one of this UID.
pub(crate) fn is_owned(object: &impl ResourceExt, owner: Option<&str>) -> bool {
    let mut owners = object.owner_references().iter();
    owner.is_some_and(|uid| owners.any(|owner| owner.uid == uid))
}

/// Whether what a workload owns stops: somebody has deleted it, and not so that its dependents run on. The
/// garbage collector would delete these once the workload is gone, for which a finalizer may let it
/// wait for ever, and no budget counts on a workload that is deleted.
pub(crate) fn stops_dependents(workload: &ObjectMeta) -> bool {
    let mut finalizers = workload.finalizers.iter().flatten();
    workload.deletion_timestamp.is_some() && !finalizers.any(|name| name == ORPHAN_FINALIZER)
}
