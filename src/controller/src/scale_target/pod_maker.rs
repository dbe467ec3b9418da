//! What made a pod, and what made that: a ReplicaSet of a Deployment, a StatefulSet of a LeaderWorkerSet, or the
//! StatefulSet of the workers of one of its groups, which the leader's pod owns.

use bursar_core::model::Name;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::{Metadata, NamespaceResourceScope};
use kube::api::{Api, ObjectMeta};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use super::pod_owner::{Maker, MakerKind};
use crate::api_calls::{ApiError, with_timeout};

/// Whose the pods of a maker are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MadeBy {
    /// The UID of the workload that made it; its own if nothing did.
    pub(super) owner: Name,
    /// The UID of the pod that leads the group, if its pods are the workers of one.
    pub(super) leader: Option<Name>,
}

/// The object of this name, if it is the one of this UID.
async fn metadata<K>(
    client: &Client,
    (namespace, name): (&str, &str),
    uid: &str,
) -> Result<Option<ObjectMeta>, ApiError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Metadata<Ty = ObjectMeta>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    match with_timeout("get what made a pod", api.get_metadata(name)).await {
        Ok(found) => Ok(Some(found.metadata).filter(|it| it.uid.as_deref() == Some(uid))),
        Err(ApiError::Gone { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn controller(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    let mut owners = metadata.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true))
}

/// Whose the pods of a maker are; `None` if that is gone, or what made it is.
pub(super) async fn made_by(
    client: &Client,
    namespace: &str,
    (maker, uid): (&Maker, &Name),
) -> Result<Option<MadeBy>, ApiError> {
    let place = (namespace, maker.name.as_str());
    let found = match maker.kind {
        MakerKind::ReplicaSet => metadata::<ReplicaSet>(client, place, uid).await?,
        MakerKind::StatefulSet => metadata::<StatefulSet>(client, place, uid).await?,
    };
    let Some(found) = found else {
        return Ok(None);
    };
    let of = |owner: &str, leader: Option<&str>| {
        Some(MadeBy {
            owner: owner.into(),
            leader: leader.map(Into::into),
        })
    };
    let Some(owner) = controller(&found) else {
        // a ReplicaSet may get an owner later, so that is not remembered
        return Ok(match maker.kind {
            MakerKind::ReplicaSet => None,
            MakerKind::StatefulSet => of(uid, None),
        });
    };
    if maker.kind != MakerKind::StatefulSet || owner.kind != "Pod" || owner.api_version != "v1" {
        return Ok(of(&owner.uid, None));
    }
    if owner.name != maker.name {
        // the workers of a group are made by the set that has its leader's name
        return Ok(of(&owner.uid, None));
    }
    let place = (namespace, owner.name.as_str());
    let leader = metadata::<Pod>(client, place, &owner.uid).await?;
    let Some(set) = leader.as_ref().and_then(controller) else {
        return Ok(None);
    };
    let is_stateful_set = set.kind == "StatefulSet" && set.api_version.starts_with("apps/");
    let place = (namespace, set.name.as_str());
    let set = match is_stateful_set {
        true => metadata::<StatefulSet>(client, place, &set.uid).await?,
        false => None,
    };
    let owns_set = set.as_ref().and_then(controller);
    Ok(owns_set.and_then(|workload| of(&workload.uid, Some(&owner.uid))))
}
