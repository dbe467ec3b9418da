//! Whose a pod is, by the UIDs of owners up the chain, as controllers write them: a pod of a Job of a JobSet of a
//! TrainJob. What labels say does not count.

use std::collections::HashMap;

use bursar_core::model::{Key, Name};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

use super::table::JobTargetKinds;

/// Owners from a pod to the job at most.
const MAX_HOPS: usize = 4;
/// Owners of which it is remembered who owns them.
const MAX_OWNERS: usize = 20_000;

/// The controlling owner of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: Name,
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) name: String,
}

/// Whose a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PodOwner {
    /// The target of this TrainingJob, of this UID.
    Target(Key, Name),
    /// Nobody's target, as far as targets are known.
    Other,
    /// That of this owner, of which it is not known yet who owns it.
    Unread(Owner),
}

/// Who owns what may own pods.
#[derive(Debug, Default)]
pub(super) struct Owners(HashMap<Name, (Name, Option<Owner>)>);

impl Owner {
    /// The controller of these, if they have one.
    pub(super) fn of(owners: &[OwnerReference]) -> Option<Self> {
        let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
        let (group, _) = owner.api_version.split_once('/').unwrap_or_default();
        Some(Self {
            uid: owner.uid.as_str().into(),
            group: group.to_owned(),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
        })
    }

    /// The controller of a pod.
    pub(super) fn of_pod(pod: &Pod) -> Option<Self> {
        Self::of(pod.owner_references())
    }
}

impl Owners {
    /// Takes who owns what has this UID.
    pub(super) fn set(&mut self, namespace: &Name, uid: Name, owner: Option<Owner>) {
        if self.0.len() >= MAX_OWNERS {
            self.0.clear();
        }
        self.0.insert(uid, (namespace.clone(), owner));
    }

    /// Forgets who has no owner in a namespace: they may have got one.
    pub(super) fn forget_unowned(&mut self, namespace: &Name) {
        self.0
            .retain(|_, (known, owner)| known != namespace || owner.is_some());
    }

    /// Whose a pod with this controller is. `target` says whose target has a UID, and whether it is somebody
    /// else's to start and suspend: then that of its owner goes first.
    pub(super) fn resolve(
        &self,
        kinds: &JobTargetKinds,
        controller: &Owner,
        target: impl Fn(&Name) -> Option<(Key, bool)>,
    ) -> PodOwner {
        let mut first = None;
        let mut owner = controller;
        for _ in 0..MAX_HOPS {
            if let Some((job, is_owned)) = target(&owner.uid) {
                let found = PodOwner::Target(job, owner.uid.clone());
                match is_owned {
                    false => return found,
                    true => first = first.or(Some(found)),
                }
            }
            owner = match self.0.get(&owner.uid) {
                Some((_, Some(next))) => next,
                Some((_, None)) => break,
                None if kinds.owner(&owner.group, &owner.kind).is_some() => {
                    return PodOwner::Unread(owner.clone());
                }
                None => break,
            };
        }
        first.unwrap_or(PodOwner::Other)
    }
}
