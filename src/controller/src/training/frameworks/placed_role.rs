//! Where a role is among the workers of its gang, and by which names these are found.

use bursar_api::TrainingJob;
use bursar_api::names::worker_address;
use bursar_api::training::Role;
use k8s_openapi::api::core::v1::EnvVar;
use kube::ResourceExt;

use super::name_suffix::NameSuffix;
use super::variables::{index, value};

/// A role with its place in the gang.
#[derive(Clone, Copy)]
pub(crate) struct PlacedRole<'a> {
    pub(crate) object: &'a TrainingJob,
    pub(crate) role: Role<'a>,
    /// Workers of the roles before it.
    pub(crate) rank_offset: u32,
    /// How the names of the files end that a launcher and its workers mount.
    pub(crate) suffix: &'a NameSuffix,
}

impl PlacedRole<'_> {
    /// The DNS name of a worker.
    pub(super) fn address(&self, role: &str, index: u32) -> String {
        address(self.object, role, index)
    }

    /// The DNS name of the worker that the others look for: worker 0 of the first role.
    pub(super) fn first_address(&self) -> String {
        let roles = self.object.spec.roles();
        self.address(roles.first().map_or("", |first| first.name), 0)
    }

    /// A variable with the worker's rank, which counts on from role to role. Kubernetes cannot add a worker's
    /// index to those before its role: workers of a later role with several of them have to do so
    /// themselves.
    pub(super) fn rank(&self, key: &str) -> Option<EnvVar> {
        match (self.rank_offset, self.role.replicas) {
            (0, _) => Some(index(key)),
            (offset, 1) => Some(value(key, offset)),
            _ => None,
        }
    }
}

/// The DNS name of a worker of a job.
pub(super) fn address(object: &TrainingJob, role: &str, index: u32) -> String {
    let namespace = object.namespace().unwrap_or_default();
    worker_address(&object.name_any(), &namespace, role, index)
}
