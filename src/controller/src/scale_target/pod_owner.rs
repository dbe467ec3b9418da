//! Whose a pod may be, by the UIDs of its owner references, which Kubernetes' controllers write. Who may write
//! pods of a namespace can forge them, and gains nothing: the pod counts in the same budgets.

use bursar_api::names::WORKLOAD_LABEL;
use bursar_core::model::{Key, Name};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

use crate::pod;

/// The controlling owner of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Controller {
    pub(super) uid: Name,
    /// What it is, if that may have an owner of its own.
    pub(super) maker: Option<Maker>,
    /// The name of the pod.
    pub(super) pod: String,
}

/// What makes pods for a workload that owns it, as its kind and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Maker {
    pub(super) kind: MakerKind,
    pub(super) name: String,
}

/// The kinds of such objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MakerKind {
    /// Of a Deployment, or of a kind like it.
    ReplicaSet,
    /// Of a LeaderWorkerSet, or of the leader of one of its groups.
    StatefulSet,
}

/// Whose a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PodOwner {
    /// A replica of this service.
    Replica(Key),
    /// Nobody's target, as far as targets are known.
    Other,
    /// That of an object of which it is not known yet who made it.
    Made(Maker),
    /// Not all targets of the namespace were found.
    Unknown,
}

fn controller(pod: &Pod) -> Option<Controller> {
    let mut owners = pod.owner_references().iter();
    let owner: &OwnerReference = owners.find(|owner| owner.controller == Some(true))?;
    let kind = match owner.kind.as_str() {
        _ if !owner.api_version.starts_with("apps/") => None,
        "ReplicaSet" => Some(MakerKind::ReplicaSet),
        "StatefulSet" => Some(MakerKind::StatefulSet),
        _ => None,
    };
    Some(Controller {
        uid: owner.uid.as_str().into(),
        maker: kind.map(|kind| Maker {
            kind,
            name: owner.name.clone(),
        }),
        pod: pod.name_any(),
    })
}

/// The UID of what made a pod, if that may have an owner of its own.
pub(super) fn made_by(pod: &Pod) -> Option<Name> {
    let controller = controller(pod)?;
    controller.maker.map(|_| controller.uid)
}

/// The pod's controller, if it may become a replica: it has no label of a workload, and goes on.
pub(super) fn unlabelled(pod: &Pod) -> Option<Controller> {
    let goes_on = !pod::is_terminal(pod) && pod.metadata.deletion_timestamp.is_none();
    let is_labelled = pod.labels().contains_key(WORKLOAD_LABEL);
    controller(pod).filter(|_| goes_on && !is_labelled)
}

/// When a pod was created.
pub(super) fn created(pod: &Pod, now: Timestamp) -> Timestamp {
    let created = pod.creation_timestamp();
    created.map_or(now, |time| time.0)
}
