//! The names under which nodes offer accelerators: extended resources, and drivers of dynamic
//! resource allocation.

use super::share::Share;

/// The resource that a whole NVIDIA GPU is offered as.
pub(super) const NVIDIA: &str = "nvidia.com/gpu";
/// AWS's chips, and their cores. The first two are the same chips: the device plugin offers both.
const NEURON: &str = "aws.amazon.com/neuron";
const NEURON_DEVICE: &str = "aws.amazon.com/neurondevice";
pub(super) const NEURON_CORE: &str = "aws.amazon.com/neuroncore";
/// Resource names that count as GPUs, in addition to every MIG profile and AMD partition. The rules of
/// the CRDs and of the chart's policies have the same names; a test of the API's crate compares them.
const GPU_RESOURCES: [&str; 10] = [
    NVIDIA,
    "nvidia.com/gpu.shared",
    "amd.com/gpu",
    "gpu.intel.com/i915",
    "gpu.intel.com/xe",
    NEURON,
    NEURON_DEVICE,
    NEURON_CORE,
    "google.com/tpu",
    "habana.ai/gaudi",
];
const MIG: &str = "nvidia.com/mig-";
/// What the names of MIG profiles and of AMD's partitions begin with.
const GPU_PREFIXES: [&str; 6] = [
    MIG,
    "amd.com/spx_",
    "amd.com/dpx_",
    "amd.com/tpx_",
    "amd.com/qpx_",
    "amd.com/cpx_",
];
/// The suffix that the device plugin adds to the name of a time-sliced resource.
const SHARED: &str = ".shared";

/// Partitions of AMD's GPUs, as `amd.com/cpx_nps4`, and how many of them a GPU makes. See
/// github.com/ROCm/k8s-device-plugin, "Resource naming strategy".
const AMD_PARTITIONS: [(&str, u32); 5] = [
    ("spx_", 1),
    ("dpx_", 2),
    ("tpx_", 3),
    ("qpx_", 4),
    ("cpx_", 8),
];

/// Drivers of dynamic resource allocation whose devices are GPUs.
const GPU_DRIVERS: [&str; 3] = [NVIDIA_DRIVER, AMD_DRIVER, INTEL_DRIVER];
const NVIDIA_DRIVER: &str = "gpu.nvidia.com";
const AMD_DRIVER: &str = "gpu.amd.com";
const INTEL_DRIVER: &str = "gpu.intel.com";

/// True for a driver of dynamic resource allocation whose devices are GPUs or parts of them.
pub fn is_gpu_driver(driver: &str) -> bool {
    GPU_DRIVERS.contains(&driver)
}

/// The names of extended resources that are GPUs, other accelerators, or parts of one; and what the
/// names of others begin with. What cannot ask [`is_gpu`] (rules of the API server) has the same.
pub fn gpu_names() -> (&'static [&'static str], &'static [&'static str]) {
    (&GPU_RESOURCES, &GPU_PREFIXES)
}

/// True for an extended resource that is a GPU, another accelerator, or a part of one.
pub fn is_gpu(resource: &str) -> bool {
    let mut prefixes = GPU_PREFIXES.iter();
    GPU_RESOURCES.contains(&resource) || prefixes.any(|prefix| resource.starts_with(prefix))
}

/// True for an extended resource of the vendor of a driver: it may be the same GPUs as the driver's
/// devices.
pub fn is_same_vendor(resource: &str, driver: &str) -> bool {
    let vendor = vendor(resource);
    vendor == driver || Some(vendor) == driver.strip_prefix("gpu.")
}

/// The domain of an extended resource: its vendor's.
pub fn vendor(resource: &str) -> &str {
    resource.split('/').next().unwrap_or(resource)
}

/// Other names under which the device plugin offers the very units of `resource`, or parts of
/// them: a node that offers one of these has these accelerators already.
pub fn is_offered_again_as(resource: &str, other: &str) -> bool {
    let rank = |name| match name {
        NEURON => Some(0),
        NEURON_DEVICE => Some(1),
        NEURON_CORE => Some(2),
        _ => None,
    };
    matches!((rank(resource), rank(other)), (Some(first), Some(again)) if first < again)
}

/// True for a resource whose unit is a part of a physical GPU.
pub(super) fn is_fraction(resource: &str) -> bool {
    resource.starts_with(MIG)
        || resource == "nvidia.com/gpu.shared"
        || resource == NEURON_CORE
        || amd_partitions(resource).is_some_and(|parts| parts > 1)
}

/// Whether the physical GPU behind `held` is offered as `resource`: prices of whole GPUs are listed
/// under it.
pub(super) fn is_whole_gpu_of(resource: &str, held: &str) -> bool {
    match held {
        NVIDIA_DRIVER => resource == NVIDIA,
        AMD_DRIVER => resource == "amd.com/gpu",
        INTEL_DRIVER => resource.starts_with("gpu.intel.com/"),
        NEURON_DEVICE | NEURON_CORE => resource == NEURON,
        held if amd_partitions(held).is_some() => resource == "amd.com/gpu",
        held => resource == if is_fraction(held) { NVIDIA } else { held },
    }
}

/// The name of the resource before it was renamed because it is time-sliced.
pub(super) fn without_renaming(resource: &str) -> Option<&str> {
    resource.strip_suffix(SHARED)
}

/// The fraction that is in the resource's name; a whole GPU where there is none. Of a chip's cores
/// it is the most that one may be.
pub(super) fn share_by_name(resource: &str, model: Option<&str>) -> Share {
    if resource == NEURON_CORE {
        return Share { part: 1, whole: 2 };
    }
    if let Some(parts) = amd_partitions(resource) {
        return Share::WHOLE.divided_by(parts);
    }
    resource
        .strip_prefix(MIG)
        .and_then(|profile| Share::for_mig_profile(profile, model))
        .unwrap_or_default()
}

/// The cores of an AWS chip, by the machine that it is in. The chips of the third column show two
/// physical cores as one unless they are told otherwise. See the AWS Neuron documentation, "Inferentia",
/// "Trainium" and "Logical NeuronCore configuration".
pub(super) fn cores_of_chip(instance_type: Option<&str>) -> u32 {
    let family = instance_type.and_then(|name| name.split('.').next());
    match family {
        Some(name) if name.starts_with("inf1") => 4,
        Some(name) if name.starts_with("trn2") || name.starts_with("trn3") => 4,
        _ => 2,
    }
}

/// How many such partitions an AMD GPU makes; `None` for another resource.
fn amd_partitions(resource: &str) -> Option<u32> {
    let name = resource.strip_prefix("amd.com/")?;
    let named = AMD_PARTITIONS
        .iter()
        .find(|(prefix, _)| name.starts_with(prefix))?;
    Some(named.1)
}

/// What the names of accelerators end in.
const ACCELERATOR_WORDS: [&str; 17] = [
    "gpu",
    "gpus",
    "tpu",
    "npu",
    "xpu",
    "vpu",
    "ipu",
    "hpu",
    "dcu",
    "gcu",
    "mlu",
    "neuron",
    "neuroncore",
    "neurondevice",
    "gaudi",
    "accelerator",
    "accelerators",
];
/// What the names of amounts end in that go with an accelerator and are none.
const AMOUNT_WORDS: [&str; 9] = [
    "mem",
    "memory",
    "core",
    "cores",
    "millicores",
    "percentage",
    "monitoring",
    "priority",
    "tiles",
];

/// True for an extended resource that looks like an accelerator and that no rule knows: whoever
/// holds it is charged nothing for it. By its name: a vendor's domain, and a word such as `npu`.
pub fn is_unknown_accelerator(resource: &str) -> bool {
    let Some((domain, name)) = resource.split_once('/') else {
        return false;
    };
    if is_gpu(resource) || domain == "kubernetes.io" || domain.ends_with(".kubernetes.io") {
        return false;
    }
    let name = name.to_ascii_lowercase();
    let words: Vec<&str> = name.split(['-', '_', '.', '/']).collect();
    let is_word = |word: &&str| {
        let word = word.trim_end_matches(|digit: char| digit.is_ascii_digit());
        ACCELERATOR_WORDS.iter().any(|end| word.ends_with(end)) || word.starts_with("ascend")
    };
    let is_amount = |word: &&str| AMOUNT_WORDS.contains(word);
    words.iter().any(is_word) && !words.last().is_some_and(is_amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accelerators_that_no_rule_knows_are_told_by_their_names() {
        for unknown in [
            "huawei.com/Ascend910",
            "hygon.com/dcu",
            "cambricon.com/mlu",
            "intel.com/npu",
            "nvidia.com/gpu-a",
            "nvidia.com/pgpu",
            "example.com/vgpu2",
            "qualcomm.com/accelerator",
            "aws.amazon.com/neuron-v3",
        ] {
            assert!(is_unknown_accelerator(unknown), "{unknown}");
        }
        for other in [
            // known, and charged
            "nvidia.com/gpu",
            "nvidia.com/mig-1g.10gb",
            "amd.com/cpx_nps4",
            "aws.amazon.com/neuroncore",
            "google.com/tpu",
            // what goes with an accelerator
            "nvidia.com/gpumem",
            "aliyun.com/gpu-mem",
            "gpu.intel.com/i915_monitoring",
            "gpu.intel.com/millicores",
            // something else
            "rdma/hca_shared_devices_a",
            "vpc.amazonaws.com/efa",
            "hugepages-2Mi",
            "cpu",
            "devices.kubevirt.io/kvm",
            "attachable-volumes-aws-ebs",
            "example.com/input",
        ] {
            assert!(!is_unknown_accelerator(other), "{other}");
        }
    }

    #[test]
    fn every_partition_of_amd_has_a_prefix_that_counts_as_a_gpu() {
        for (name, _) in AMD_PARTITIONS {
            let prefix = format!("amd.com/{name}");
            assert!(GPU_PREFIXES.contains(&prefix.as_str()), "{prefix}");
        }
        assert_eq!(GPU_PREFIXES.len(), 1 + AMD_PARTITIONS.len());
    }

    #[test]
    fn parts_are_told_from_whole_accelerators() {
        for (resource, whole, share) in [
            ("amd.com/cpx_nps4", "amd.com/gpu", (1, 8)),
            ("amd.com/spx_nps1", "amd.com/gpu", (1, 1)),
            (NEURON_CORE, NEURON, (1, 2)),
            (NEURON_DEVICE, NEURON, (1, 1)),
            ("nvidia.com/mig-3g.40gb", NVIDIA, (3, 7)),
            ("google.com/tpu", "google.com/tpu", (1, 1)),
        ] {
            assert!(is_gpu(resource) && is_whole_gpu_of(whole, resource));
            let (part, whole) = share;
            assert_eq!(share_by_name(resource, None), Share { part, whole });
            assert_eq!(is_fraction(resource), part < whole, "{resource}");
        }
        assert!(is_offered_again_as(NEURON, NEURON_CORE));
        assert!(!is_offered_again_as(NEURON_CORE, NEURON));
        assert!(!is_offered_again_as(NVIDIA, NEURON_CORE));
    }
}
