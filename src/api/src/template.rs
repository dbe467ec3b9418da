//! The pod template of a workload: its rules and its schema.

use bursar_core::pricing::is_gpu;
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use schemars::{Schema, SchemaGenerator};

/// CEL: the resource `r` is a GPU or a part of one: the names of [`bursar_core::pricing::gpu_names`].
/// The chart's admission policies say the same in the same words.
macro_rules! is_gpu {
    () => {
        "(r in ['nvidia.com/gpu', 'nvidia.com/gpu.shared', 'amd.com/gpu', 'gpu.intel.com/i915', 'gpu.intel.com/xe', 'aws.amazon.com/neuron', 'aws.amazon.com/neurondevice', 'aws.amazon.com/neuroncore', 'google.com/tpu', 'habana.ai/gaudi'] || r.startsWith('nvidia.com/mig-') || r.startsWith('amd.com/spx_') || r.startsWith('amd.com/dpx_') || r.startsWith('amd.com/tpx_') || r.startsWith('amd.com/qpx_') || r.startsWith('amd.com/cpx_'))"
    };
}

/// CEL: the container `c` has limits.
macro_rules! has_limits {
    () => {
        "has(c.resources) && has(c.resources.limits)"
    };
}

/// CEL: the GPU resources among the limits of container `c`.
macro_rules! gpu_limits {
    () => {
        concat!("c.resources.limits.filter(r, ", is_gpu!(), ")")
    };
}

/// CEL: every container of a list asks for one GPU resource at most, by a count of 1 or more.
macro_rules! gpus_are_counted {
    ($containers:literal) => {
        concat!(
            $containers,
            ".all(c, !(",
            has_limits!(),
            ") || ",
            gpu_limits!(),
            ".size() <= 1 && ",
            gpu_limits!(),
            ".all(r, int(c.resources.limits[r]) >= 1))"
        )
    };
}

/// CEL: the GPU resources that a list of containers asks for. Rules stay within the API server's
/// cost limit because nothing walks over its result but functions of the sets library.
macro_rules! gpu_resources {
    ($containers:literal) => {
        concat!(
            $containers,
            ".map(c, ",
            has_limits!(),
            " && ",
            gpu_limits!(),
            ".size() > 0, ",
            gpu_limits!(),
            "[0])"
        )
    };
}

/// CEL: no container of a list sets `NVIDIA_VISIBLE_DEVICES`.
macro_rules! shows_no_devices {
    ($containers:literal) => {
        concat!(
            $containers,
            ".all(c, !has(c.env) || c.env.all(e, e.name != 'NVIDIA_VISIBLE_DEVICES'))"
        )
    };
}

/// CEL: some container of a pod's specification asks for GPUs.
macro_rules! asks_for_gpus {
    ($spec:literal) => {
        concat!(
            "has(",
            $spec,
            ") && ",
            $spec,
            ".containers.exists(c, ",
            has_limits!(),
            " && ",
            gpu_limits!(),
            ".size() > 0)"
        )
    };
}

/// CEL, on the template: some container asks for GPUs.
pub const GPU_RULE: &str = asks_for_gpus!("self.spec");
/// CEL, on a role of a TrainingJob: the same of its template, unless it is one that works without GPUs,
/// and then without devices of claims, whose price nobody knows.
pub const ROLE_GPU_RULE: &str = concat!(
    "(self.name in ['launcher', 'ps', 'evaluator'] && !(has(self.template.spec) && has(self.template.spec.resourceClaims))) || ",
    asks_for_gpus!("self.template.spec")
);
/// The message of [`ROLE_GPU_RULE`].
pub const ROLE_GPU_MESSAGE: &str = "spec.containers[].resources.limits must ask for GPUs in one container at least, such as \
    nvidia.com/gpu: 1; only roles named launcher, ps or evaluator may be without GPUs, and then without resourceClaims";
/// CEL, on a role of a TrainingJob: one without GPUs does not ask its node's runtime for them.
pub const DEVICES_RULE: &str = concat!(
    "!(self.name in ['launcher', 'ps', 'evaluator']) || !has(self.template.spec) || ",
    asks_for_gpus!("self.template.spec"),
    " || (",
    shows_no_devices!("self.template.spec.containers"),
    " && (!has(self.template.spec.initContainers) || ",
    shows_no_devices!("self.template.spec.initContainers"),
    "))"
);
/// The message of [`DEVICES_RULE`].
pub const DEVICES_MESSAGE: &str = "env of containers and initContainers must not set NVIDIA_VISIBLE_DEVICES in a role without GPUs, \
    which would get them without paying: leave it out, or ask for nvidia.com/gpu in resources.limits";
/// The message of [`GPU_RULE`].
pub const GPU_MESSAGE: &str = "spec.containers[].resources.limits must ask for GPUs in one container at least, such as \
    nvidia.com/gpu: 1; Bursar manages GPU workloads only";
/// CEL, on the template: GPUs are whole and there is one at least, of one resource in each
/// container.
pub const GPU_COUNT_RULE: &str = concat!(
    "!has(self.spec) || ",
    gpus_are_counted!("self.spec.containers"),
    " && (!has(self.spec.initContainers) || ",
    gpus_are_counted!("self.spec.initContainers"),
    ")"
);
/// The message of [`GPU_COUNT_RULE`].
pub const GPU_COUNT_MESSAGE: &str = "spec.containers[].resources.limits and those of initContainers must ask for GPUs of one resource \
    a container and by a whole number of 1 or more, such as nvidia.com/gpu: 1, or leave them out";
/// CEL, on the template: all GPUs of the pod are of one resource, which its charge names.
pub const GPU_RESOURCE_RULE: &str = concat!(
    "!has(self.spec) || ",
    gpu_resources!("self.spec.containers"),
    ".size() == 0 || (sets.contains([",
    gpu_resources!("self.spec.containers"),
    "[0]], ",
    gpu_resources!("self.spec.containers"),
    ") && (!has(self.spec.initContainers) || sets.contains([",
    gpu_resources!("self.spec.containers"),
    "[0]], ",
    gpu_resources!("self.spec.initContainers"),
    ")))"
);
/// The message of [`GPU_RESOURCE_RULE`].
pub const GPU_RESOURCE_MESSAGE: &str = "spec.containers[].resources.limits and those of initContainers must ask for GPUs of the same \
    resource, such as nvidia.com/gpu in all of them: a pod is charged for one kind";
/// CEL, on the template: labels of Bursar are Bursar's.
pub const LABEL_RULE: &str = "!has(self.metadata) || !has(self.metadata.labels) || !self.metadata.labels.exists(l, \
    l.startsWith('bursar.dev/'))";
/// The message of [`LABEL_RULE`].
pub const LABEL_MESSAGE: &str =
    "metadata.labels must not begin with bursar.dev/: Bursar sets those itself";
/// CEL, on the template: annotations of Bursar are Bursar's.
pub const ANNOTATION_RULE: &str = "!has(self.metadata) || !has(self.metadata.annotations) || !self.metadata.annotations.exists(a, \
    a.startsWith('bursar.dev/'))";
/// The message of [`ANNOTATION_RULE`].
pub const ANNOTATION_MESSAGE: &str =
    "metadata.annotations must not begin with bursar.dev/: Bursar sets those itself";
/// CEL, on the template: an end that a budget can count on.
pub const GRACE_RULE: &str = "!has(self.spec) || !has(self.spec.terminationGracePeriodSeconds) || self.spec.terminationGracePeriodSeconds <= 3600";
/// The message of [`GRACE_RULE`].
pub const GRACE_MESSAGE: &str = "spec.terminationGracePeriodSeconds must be at most 3600: a budget keeps the money for it in reserve";
/// CEL, on the template: the pod has an address of its own.
pub const HOST_NETWORK_RULE: &str =
    "!has(self.spec) || !has(self.spec.hostNetwork) || !self.spec.hostNetwork";
/// The message of [`HOST_NETWORK_RULE`].
pub const HOST_NETWORK_MESSAGE: &str =
    "spec.hostNetwork must not be true: replicas need addresses of their own";

/// Kubernetes' default of `terminationGracePeriodSeconds`.
pub const DEFAULT_GRACE_SECONDS: i64 = 30;

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

/// Whether some container of a template asks for GPUs.
pub fn asks_for_gpus(template: &PodTemplateSpec) -> bool {
    let resources = containers(template)
        .iter()
        .filter_map(|each| each.resources.as_ref());
    let mut limits = resources.flat_map(|resources| resources.limits.iter().flatten());
    limits.any(|(resource, _)| is_gpu(resource))
}

/// Whether a container runs what its image says.
pub fn has_no_command(container: &Container) -> bool {
    let is_empty = |words: &Option<Vec<String>>| words.as_ref().is_none_or(Vec::is_empty);
    is_empty(&container.command) && is_empty(&container.args)
}

/// A PodTemplateSpec's schema.
pub(crate) fn schema(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<PodTemplateSpec>()
}

#[cfg(test)]
mod tests {
    use bursar_core::pricing::gpu_names;

    fn chart(path: &str) -> String {
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/bursar/");
        std::fs::read_to_string(format!("{chart}{path}")).unwrap()
    }

    /// What the operator charges for as a GPU is one for every rule and policy too.
    #[test]
    fn rules_policies_and_documentation_mean_the_gpus_that_are_charged() {
        let (names, prefixes) = gpu_names();
        let list: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
        // one by one: the API server estimates less than for a list that is walked over
        let begins = prefixes.iter();
        let begins: Vec<String> = begins
            .map(|prefix| format!("r.startsWith('{prefix}')"))
            .collect();
        let rule = format!("(r in [{}] || {})", list.join(", "), begins.join(" || "));
        assert_eq!(is_gpu!(), rule);
        let policies = [
            "_admission.tpl",
            "spend-finalizer.yaml",
            "admission-policies.yaml",
        ];
        let mut places = 0;
        for file in policies {
            let policy = chart(&format!("templates/{file}"));
            // names of GPUs stand in that rule alone
            assert!(!policy.replace(&rule, "").contains("nvidia.com/"), "{file}");
            places += policy.matches(&rule).count();
        }
        assert_eq!(places, 1, "one table for all policies");
        let prices = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/prices.md");
        let prices = std::fs::read_to_string(prices).unwrap();
        for name in names {
            assert!(prices.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn the_admission_policy_means_the_same_names() {
        let policy = chart("templates/spend-finalizer.yaml");
        assert!(policy.contains("matches('^[a-z]([a-z0-9-]{0,48}[a-z0-9])?$')"));
    }

    #[test]
    fn the_validating_policies_mean_the_same_names_and_seconds() {
        use crate::names;
        let policies = chart("templates/admission-policies.yaml");
        let of_pods = [
            names::WORKLOAD_LABEL,
            names::KIND_LABEL,
            names::ROLE_LABEL,
            names::SERVING_LABEL,
        ];
        for name in of_pods.into_iter().chain([
            names::GATEWAY_LABEL,
            names::SPEND_FINALIZER,
            names::DRAINING_ANNOTATION,
            names::LEADER_ANNOTATION,
            names::DELETION_COST_ANNOTATION,
        ]) {
            assert!(policies.contains(&format!("'{name}'")), "{name}");
        }
        let list = of_pods.map(|name| format!("'{name}'")).join(", ");
        assert!(policies.contains(&format!("$keys := \"[{list}]\"")));
        let most = bursar_core::model::MAX_GRACE_SECONDS;
        assert!(chart("values.yaml").contains(&format!("maxGracePeriodSeconds: {most}")));
    }
}
