//! The pod template of a workload: its rules and its schema.

use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use schemars::{Schema, SchemaGenerator};

/// CEL, on the template: some container asks for GPUs.
pub const GPU_RULE: &str = "has(self.spec) && self.spec.containers.exists(c, has(c.resources) && has(c.resources.limits) && \
    c.resources.limits.exists(r, r in ['nvidia.com/gpu', 'nvidia.com/gpu.shared', 'amd.com/gpu', 'gpu.intel.com/i915', 'gpu.intel.com/xe', 'aws.amazon.com/neuron'] \
    || r.startsWith('nvidia.com/mig-')))";
/// What breaks [`GPU_RULE`].
pub const GPU_MESSAGE: &str = "spec.containers[].resources.limits must ask for GPUs in one container at least, such as \
    nvidia.com/gpu: 1; Bursar manages GPU workloads only";
/// CEL, on the template: no GPUs are not asked for by a number.
pub const NO_GPUS_RULE: &str = "!has(self.spec) || self.spec.containers.all(c, !has(c.resources) || !has(c.resources.limits) || \
    ['nvidia.com/gpu', 'nvidia.com/gpu.shared', 'amd.com/gpu', 'gpu.intel.com/i915', 'gpu.intel.com/xe', 'aws.amazon.com/neuron'].all(r, !(r in c.resources.limits) || \
    (c.resources.limits[r] != 0 && c.resources.limits[r] != '0')))";
/// What breaks [`NO_GPUS_RULE`].
pub const NO_GPUS_MESSAGE: &str =
    "spec.containers[].resources.limits must ask for 1 GPU or more, or leave GPUs out";
/// CEL, on the template: labels of Bursar are Bursar's.
pub const LABEL_RULE: &str = "!has(self.metadata) || !has(self.metadata.labels) || !self.metadata.labels.exists(l, \
    l.startsWith('bursar.dev/'))";
/// What breaks [`LABEL_RULE`].
pub const LABEL_MESSAGE: &str =
    "metadata.labels must not begin with bursar.dev/: Bursar sets those itself";
/// CEL, on the template: an end that a budget can count on.
pub const GRACE_RULE: &str = "!has(self.spec) || !has(self.spec.terminationGracePeriodSeconds) || self.spec.terminationGracePeriodSeconds <= 3600";
/// What breaks [`GRACE_RULE`].
pub const GRACE_MESSAGE: &str = "spec.terminationGracePeriodSeconds must be at most 3600: a budget keeps the money for it in reserve";
/// CEL, on the template: the pod has an address of its own.
pub const HOST_NETWORK_RULE: &str =
    "!has(self.spec) || !has(self.spec.hostNetwork) || !self.spec.hostNetwork";
/// What breaks [`HOST_NETWORK_RULE`].
pub const HOST_NETWORK_MESSAGE: &str =
    "spec.hostNetwork must not be true: replicas need addresses of their own";

/// Kubernetes' default of `terminationGracePeriodSeconds`.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// Seconds that a pod of this template may take from SIGTERM to its end.
pub fn grace_seconds(template: &PodTemplateSpec) -> i64 {
    template
        .spec
        .as_ref()
        .and_then(|spec| spec.termination_grace_period_seconds)
        .unwrap_or(DEFAULT_GRACE_SECONDS)
        .max(0)
}

/// The containers of a template.
pub fn containers(template: &PodTemplateSpec) -> &[Container] {
    template
        .spec
        .as_ref()
        .map_or(&[], |spec| spec.containers.as_slice())
}

/// A PodTemplateSpec's schema.
pub(crate) fn schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<PodTemplateSpec>()
}
