//! The names of GPU models: price lists name them as the vendors' own feature discovery does, and
//! clouds' labels otherwise.

/// Names without vendor and in lower case, as [`normalized`] makes them, and the name in price
/// lists. Sources: the values of `cloud.google.com/gke-accelerator`
/// (cloud.google.com/kubernetes-engine/docs/concepts/gpus), of
/// `karpenter.k8s.aws/instance-gpu-name` (karpenter.sh, "Instance Types"), and of
/// `gpu.nvidia.com/model` and `/class` (docs.coreweave.com).
const NVIDIA_NAMES: &[(&str, &str)] = &[
    ("gb300", "NVIDIA-GB300"),
    ("gb200", "NVIDIA-GB200"),
    ("b300", "NVIDIA-B300-SXM6-AC"),
    ("b200", "NVIDIA-B200"),
    ("b200-nvlink-180gb", "NVIDIA-B200"),
    ("gh200", "NVIDIA-GH200-480GB"),
    ("gh200-480gb", "NVIDIA-GH200-480GB"),
    ("h200", "NVIDIA-H200"),
    ("h200-141gb", "NVIDIA-H200"),
    ("h200-nvlink-141gb", "NVIDIA-H200"),
    ("h200-nvl", "NVIDIA-H200-NVL"),
    ("h100", "NVIDIA-H100-80GB-HBM3"),
    ("h100-80gb", "NVIDIA-H100-80GB-HBM3"),
    ("h100-mega-80gb", "NVIDIA-H100-80GB-HBM3"),
    ("h100-nvlink-80gb", "NVIDIA-H100-80GB-HBM3"),
    ("h100-sxm5-80gb", "NVIDIA-H100-80GB-HBM3"),
    ("h100-pcie", "NVIDIA-H100-PCIe"),
    ("h100-pcie-80gb", "NVIDIA-H100-PCIe"),
    ("h100-nvl", "NVIDIA-H100-NVL"),
    ("h100-nvl-94gb", "NVIDIA-H100-NVL"),
    // of the two A100, the clouds' plain name is the smaller one
    ("a100", "NVIDIA-A100-SXM4-40GB"),
    ("a100-40gb", "NVIDIA-A100-SXM4-40GB"),
    ("a100-sxm4-40gb", "NVIDIA-A100-SXM4-40GB"),
    ("a100-pcie-40gb", "NVIDIA-A100-PCIE-40GB"),
    ("a100-80gb", "NVIDIA-A100-SXM4-80GB"),
    ("a100-sxm4-80gb", "NVIDIA-A100-SXM4-80GB"),
    ("a100-nvlink-80gb", "NVIDIA-A100-SXM4-80GB"),
    ("a100-nvlink-40gb", "NVIDIA-A100-SXM4-40GB"),
    ("a100-pcie-80gb", "NVIDIA-A100-80GB-PCIe"),
    ("a100-80gb-pcie", "NVIDIA-A100-80GB-PCIe"),
    (
        "rtx-pro-6000",
        "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
    ),
    (
        "rtx-pro-server-6000",
        "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
    ),
    (
        "rtx-pro-4500",
        "NVIDIA-RTX-PRO-4500-Blackwell-Server-Edition",
    ),
    (
        "rtxp6000-8x",
        "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
    ),
    ("l40s", "NVIDIA-L40S"),
    ("l40", "NVIDIA-L40"),
    ("l4", "NVIDIA-L4"),
    ("a40", "NVIDIA-A40"),
    ("a30", "NVIDIA-A30"),
    ("a10g", "NVIDIA-A10G"),
    ("a10", "NVIDIA-A10"),
    ("a6000", "NVIDIA-RTX-A6000"),
    ("a5000", "NVIDIA-RTX-A5000"),
    ("a4000", "NVIDIA-RTX-A4000"),
    ("rtx-a6000", "NVIDIA-RTX-A6000"),
    ("rtx-a5000", "NVIDIA-RTX-A5000"),
    ("rtx-a4000", "NVIDIA-RTX-A4000"),
    ("t4g", "NVIDIA-T4G"),
    ("t4", "Tesla-T4"),
    ("v100", "Tesla-V100-SXM2-16GB"),
    ("v100-nvlink", "Tesla-V100-SXM2-16GB"),
    ("v100-16gb", "Tesla-V100-SXM2-16GB"),
    ("v100-sxm2-16gb", "Tesla-V100-SXM2-16GB"),
    ("v100-pcie-16gb", "Tesla-V100-SXM2-16GB"),
    ("v100-32gb", "Tesla-V100-SXM2-32GB"),
    ("v100-sxm2-32gb", "Tesla-V100-SXM2-32GB"),
    ("v100-pcie-32gb", "Tesla-V100-SXM2-32GB"),
    ("p100", "Tesla-P100-PCIE-16GB"),
    ("p100-pcie-16gb", "Tesla-P100-PCIE-16GB"),
    ("p4", "Tesla-P4"),
    ("k80", "Tesla-K80"),
    ("quadro-rtx-6000", "Quadro-RTX-6000"),
    ("quadro-rtx-5000", "Quadro-RTX-5000"),
    ("quadro-rtx-4000", "Quadro-RTX-4000"),
    // the vendors' own names, in the spelling of older drivers
    ("h100-80gb-hbm3", "NVIDIA-H100-80GB-HBM3"),
    ("b300-sxm6-ac", "NVIDIA-B300-SXM6-AC"),
    (
        "rtx-pro-6000-blackwell-server-edition",
        "NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",
    ),
    (
        "rtx-pro-4500-blackwell-server-edition",
        "NVIDIA-RTX-PRO-4500-Blackwell-Server-Edition",
    ),
    ("v100-sxm3-32gb", "Tesla-V100-SXM2-32GB"),
    ("v100-sxm2-32gb-ls", "Tesla-V100-SXM2-32GB"),
];

/// Names that clouds give to two GPUs, which differ in their memory: gibibytes, and the name in price
/// lists.
const BY_MEMORY: &[(&str, &[(u32, &str)])] = &[
    (
        "a100",
        &[(40, "NVIDIA-A100-SXM4-40GB"), (80, "NVIDIA-A100-SXM4-80GB")],
    ),
    (
        "v100",
        &[(16, "Tesla-V100-SXM2-16GB"), (32, "Tesla-V100-SXM2-32GB")],
    ),
    (
        "v100-nvlink",
        &[(16, "Tesla-V100-SXM2-16GB"), (32, "Tesla-V100-SXM2-32GB")],
    ),
];

/// Models of AMD as price lists name them, which are a word of the label's value
/// (`AMD_Instinct_MI300X_OAM`).
const AMD_NAMES: [&str; 10] = [
    "MI100", "MI210", "MI250", "MI250X", "MI300A", "MI300X", "MI308X", "MI325X", "MI350X", "MI355X",
];

/// The models of AMD's PCI device ids, those of virtual functions included: the kernel driver's and
/// the GPU operator's lists (github.com/ROCm/gpu-operator).
const AMD_DEVICES: &[(&str, &str)] = &[
    ("738c", "MI100"),
    ("738e", "MI100"),
    ("740f", "MI210"),
    ("7410", "MI210"),
    ("740c", "MI250"),
    ("7408", "MI250X"),
    ("74a0", "MI300A"),
    ("74a1", "MI300X"),
    ("74a9", "MI300X"),
    ("74b5", "MI300X"),
    ("74bd", "MI300X"),
    ("74a2", "MI308X"),
    ("74a8", "MI308X"),
    ("74b6", "MI308X"),
    ("74bc", "MI308X"),
    ("74a5", "MI325X"),
    ("74b9", "MI325X"),
    ("75a0", "MI350X"),
    ("75b0", "MI350X"),
    ("75a3", "MI355X"),
    ("75b3", "MI355X"),
    ("7362", "Radeon-Pro-V520"),
    ("7460", "Radeon-Pro-V710"),
];

/// The name in price lists of what a label calls `model`; `None` where it is no other.
pub fn canonical_model(model: &str) -> Option<&'static str> {
    let name = normalized(model);
    let nvidia = NVIDIA_NAMES.iter().find(|(other, _)| *other == name);
    nvidia
        .map(|(_, listed)| *listed)
        .or_else(|| amd_name(model))
}

/// Whether clouds give this name to GPUs of more than one size of memory.
pub(super) fn is_ambiguous(model: &str) -> bool {
    let name = normalized(model);
    BY_MEMORY.iter().any(|(other, _)| *other == name)
}

/// The one of the GPUs of this name that has so many gibibytes; `None` where the name is one GPU's, or
/// none has.
pub(super) fn model_with_memory(model: &str, gib: u32) -> Option<&'static str> {
    let name = normalized(model);
    let (_, sizes) = BY_MEMORY.iter().find(|(other, _)| *other == name)?;
    let known = sizes.iter().find(|(size, _)| *size == gib)?;
    Some(known.1)
}

/// The model of an AMD GPU by its PCI device id, such as `74b5` or `0x74B5`.
pub(super) fn amd_model_of_device(id: &str) -> Option<&'static str> {
    let id = id.to_ascii_lowercase();
    let id = id.strip_prefix("0x").unwrap_or(&id);
    let known = AMD_DEVICES.iter().find(|(device, _)| *device == id)?;
    Some(known.1)
}

/// Whether a product name of AMD does not say which product it is.
pub(super) fn is_generic_amd_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace(['_', ' '], "-");
    name.is_empty()
        || name.starts_with("device")
        || matches!(
            name.as_str(),
            "amd" | "amd-instinct" | "amd-radeon" | "amd-radeon-graphics" | "unknown" | "n/a"
        )
}

fn amd_name(model: &str) -> Option<&'static str> {
    let words = || model.split(['-', '_', ' ']);
    AMD_NAMES
        .into_iter()
        .find(|name| words().any(|word| word.eq_ignore_ascii_case(name)) && *name != model)
}

/// In lower case, with dashes, and without the vendor.
fn normalized(model: &str) -> String {
    let name = model.to_ascii_lowercase().replace(['_', ' '], "-");
    let name = name.strip_prefix("nvidia-").unwrap_or(&name);
    name.strip_prefix("tesla-").unwrap_or(name).to_owned()
}

/// Machines whose type says the model, where no label does (Azure and Oracle name the GPU in it), or
/// that have a part of a GPU. The second number is how many of such machines share one GPU.
pub(super) fn model_of_machine(instance_type: &str) -> Option<(&'static str, u32)> {
    if let Some(machines) = machines_of_an_l4(instance_type) {
        return Some(("NVIDIA-L4", machines));
    }
    let azure = instance_type
        .strip_prefix("Standard_")
        .map(|size| model_of_azure_size(&size.to_ascii_uppercase()));
    let oracle = || instance_type.split_once(".GPU").map(|(_, shape)| shape);
    match azure {
        Some(model) => model,
        None => oracle().and_then(model_of_oracle_shape),
    }
}

/// The model of an Azure size, such as `NC40ADS_H100_V5`. See
/// learn.microsoft.com/azure/virtual-machines/sizes, "GPU accelerated".
fn model_of_azure_size(size: &str) -> Option<(&'static str, u32)> {
    let (first, rest) = size.split_once('_').unwrap_or((size, ""));
    let has = |word: &str| rest.split('_').any(|each| each == word);
    let is_of = |family: &str| size.starts_with(family);
    let model = match () {
        () if has("GB300") => "NVIDIA-GB300",
        () if has("GB200") => "NVIDIA-GB200",
        () if has("MI300X") => "MI300X",
        () if has("H200") => "NVIDIA-H200",
        () if has("H100") && is_of("NC") => "NVIDIA-H100-NVL",
        () if has("H100") => "NVIDIA-H100-80GB-HBM3",
        () if has("A100") && is_of("NC") => "NVIDIA-A100-80GB-PCIe",
        () if has("A100") && first.contains("AM") => "NVIDIA-A100-SXM4-80GB",
        () if is_of("ND96AS") => "NVIDIA-A100-SXM4-40GB",
        () if has("T4") => "Tesla-T4",
        () if has("A10") => return Some(("NVIDIA-A10", machines_of_an_a10(first))),
        () if has("V710") => return Some(("Radeon-Pro-V710", machines_of_a_v710(first))),
        () if is_of("ND40RS") => "Tesla-V100-SXM2-32GB",
        () if is_of("NC") && has("V3") => "Tesla-V100-SXM2-16GB",
        () => return None,
    };
    Some((model, 1))
}

/// `NV6ADS_A10_v5` has a sixth of an A10.
fn machines_of_an_a10(size: &str) -> u32 {
    match size {
        "NV6ADS" => 6,
        "NV12ADS" => 3,
        "NV18ADS" => 2,
        _ => 1,
    }
}

/// `NV4ADS_V710_v5` has a sixth of a Radeon Pro V710.
fn machines_of_a_v710(size: &str) -> u32 {
    match size {
        "NV4ADS" => 6,
        "NV8ADS" => 3,
        "NV12ADS" => 2,
        _ => 1,
    }
}

/// AWS's machines with a part of an L4. See aws.amazon.com/ec2/instance-types/g6, "G6f".
fn machines_of_an_l4(instance_type: &str) -> Option<u32> {
    match instance_type {
        "g6f.large" | "g6f.xlarge" => Some(8),
        "g6f.2xlarge" => Some(4),
        "g6f.4xlarge" | "gr6f.4xlarge" => Some(2),
        _ => None,
    }
}

/// The model of an Oracle shape after `BM.GPU` or `VM.GPU`, such as `.H100.8` or `4.8`. See
/// docs.oracle.com/iaas/Content/Compute/References/computeshapes.htm.
fn model_of_oracle_shape(shape: &str) -> Option<(&'static str, u32)> {
    let model = match shape.trim_start_matches('.').split('.').next()? {
        "GB300" => "NVIDIA-GB300",
        "GB200" => "NVIDIA-GB200",
        "B300" => "NVIDIA-B300-SXM6-AC",
        "B200" => "NVIDIA-B200",
        "H200" => "NVIDIA-H200",
        "H100" => "NVIDIA-H100-80GB-HBM3",
        "A100-v2" => "NVIDIA-A100-SXM4-80GB",
        "4" => "NVIDIA-A100-SXM4-40GB",
        "L40S" => "NVIDIA-L40S",
        "A10" => "NVIDIA-A10",
        "3" => "Tesla-V100-SXM2-16GB",
        "2" => "Tesla-P100-PCIE-16GB",
        "MI300X" => "MI300X",
        "MI355X" => "MI355X",
        _ => return None,
    };
    Some((model, 1))
}

/// Gibibytes of memory of the models in price lists, by the product data sheets. Accelerators are
/// not of one class unless they have memory of one size.
const MEMORY: &[(&str, u32)] = &[
    ("NVIDIA-GB300", 288),
    ("NVIDIA-GB200", 192),
    ("NVIDIA-B300-SXM6-AC", 288),
    ("NVIDIA-B200", 180),
    ("NVIDIA-GH200-480GB", 96),
    ("NVIDIA-H200", 141),
    ("NVIDIA-H200-NVL", 141),
    ("NVIDIA-H100-80GB-HBM3", 80),
    ("NVIDIA-H100-PCIe", 80),
    ("NVIDIA-H100-NVL", 94),
    ("NVIDIA-A100-SXM4-80GB", 80),
    ("NVIDIA-A100-80GB-PCIe", 80),
    ("NVIDIA-A100-SXM4-40GB", 40),
    ("NVIDIA-A100-PCIE-40GB", 40),
    ("NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition", 96),
    ("NVIDIA-RTX-PRO-4500-Blackwell-Server-Edition", 32),
    ("NVIDIA-L40S", 48),
    ("NVIDIA-L40", 48),
    ("NVIDIA-L4", 24),
    ("NVIDIA-A40", 48),
    ("NVIDIA-A30", 24),
    ("NVIDIA-A10G", 24),
    ("NVIDIA-A10", 24),
    ("NVIDIA-RTX-A6000", 48),
    ("NVIDIA-RTX-A5000", 24),
    ("NVIDIA-RTX-A4000", 16),
    ("NVIDIA-T4G", 16),
    ("Tesla-T4", 16),
    ("Tesla-V100-SXM2-16GB", 16),
    ("Tesla-V100-SXM2-32GB", 32),
    ("Tesla-P100-PCIE-16GB", 16),
    ("Tesla-P4", 8),
    ("Tesla-K80", 12),
    ("Quadro-RTX-6000", 24),
    ("Quadro-RTX-5000", 16),
    ("Quadro-RTX-4000", 8),
    ("MI300X", 192),
    ("MI325X", 256),
    ("MI355X", 288),
    ("Radeon-Pro-V520", 8),
];

/// Gibibytes of memory of a model that price lists name.
pub(super) fn memory_of(model: &str) -> Option<u32> {
    let known = |name: &str| MEMORY.iter().find(|(other, _)| *other == name);
    let listed = known(model).or_else(|| known(canonical_model(model)?));
    listed.map(|(_, gib)| *gib)
}

/// The most gibibytes of memory of each class of GPUs, but for the last. GPUs of one class are of
/// similar prices.
const CLASSES: [u32; 6] = [12, 24, 48, 100, 200, 300];

/// The class of memory of a GPU; a greater one has more.
pub(super) fn memory_class(gib: u32) -> u32 {
    let smaller = CLASSES.iter().filter(|most| gib > **most).count();
    u32::try_from(smaller).unwrap_or(u32::MAX)
}

/// This class, and all that have more memory.
pub(super) fn classes_from(class: u32) -> impl Iterator<Item = u32> {
    class..=memory_class(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clouds_names_are_those_of_price_lists() {
        for (label, listed) in [
            ("nvidia-tesla-t4", "Tesla-T4"),
            ("nvidia-tesla-a100", "NVIDIA-A100-SXM4-40GB"),
            ("nvidia-a100-80gb", "NVIDIA-A100-SXM4-80GB"),
            ("nvidia-h100-mega-80gb", "NVIDIA-H100-80GB-HBM3"),
            ("nvidia-l4", "NVIDIA-L4"),
            ("l40s", "NVIDIA-L40S"),
            ("H100_NVLINK_80GB", "NVIDIA-H100-80GB-HBM3"),
            ("A100_PCIE_80GB", "NVIDIA-A100-80GB-PCIe"),
            ("Tesla_V100_NVLINK", "Tesla-V100-SXM2-16GB"),
            ("Quadro_RTX_4000", "Quadro-RTX-4000"),
            ("AMD_Instinct_MI300X_OAM", "MI300X"),
            ("AMD-Instinct-MI325X", "MI325X"),
        ] {
            assert_eq!(canonical_model(label), Some(listed), "{label}");
        }
        for other in ["", "nvidia", "H400", "MI300X", "AMD_Radeon"] {
            assert_eq!(canonical_model(other), None, "{other}");
        }
    }

    #[test]
    fn every_name_is_as_it_is_looked_for_and_there_once() {
        let mut names: Vec<&str> = NVIDIA_NAMES.iter().map(|(name, _)| *name).collect();
        for name in &names {
            assert_eq!(normalized(name), *name);
        }
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn azure_and_oracle_name_the_gpu_in_the_machines_type() {
        for (machine, model) in [
            ("Standard_NC40ads_H100_v5", Some(("NVIDIA-H100-NVL", 1))),
            (
                "Standard_ND96isr_H100_v5",
                Some(("NVIDIA-H100-80GB-HBM3", 1)),
            ),
            ("Standard_ND96isr_H200_v5", Some(("NVIDIA-H200", 1))),
            ("Standard_ND96isr_MI300X_v5", Some(("MI300X", 1))),
            (
                "Standard_NC24ads_A100_v4",
                Some(("NVIDIA-A100-80GB-PCIe", 1)),
            ),
            (
                "Standard_ND96amsr_A100_v4",
                Some(("NVIDIA-A100-SXM4-80GB", 1)),
            ),
            ("Standard_ND96asr_v4", Some(("NVIDIA-A100-SXM4-40GB", 1))),
            ("Standard_NC4as_T4_v3", Some(("Tesla-T4", 1))),
            ("Standard_NC6s_v3", Some(("Tesla-V100-SXM2-16GB", 1))),
            ("Standard_NV6ads_A10_v5", Some(("NVIDIA-A10", 6))),
            ("Standard_NV36ads_A10_v5", Some(("NVIDIA-A10", 1))),
            ("Standard_D4s_v5", None),
            ("BM.GPU.H100.8", Some(("NVIDIA-H100-80GB-HBM3", 1))),
            ("BM.GPU4.8", Some(("NVIDIA-A100-SXM4-40GB", 1))),
            ("BM.GPU.A100-v2.8", Some(("NVIDIA-A100-SXM4-80GB", 1))),
            ("VM.GPU.A10.1", Some(("NVIDIA-A10", 1))),
            ("BM.GPU.MI300X.8", Some(("MI300X", 1))),
            ("VM.Standard.E4.Flex", None),
            ("Standard_NV4ads_V710_v5", Some(("Radeon-Pro-V710", 6))),
            ("Standard_NV24ads_V710_v5", Some(("Radeon-Pro-V710", 1))),
            ("g6f.large", Some(("NVIDIA-L4", 8))),
            ("g6f.2xlarge", Some(("NVIDIA-L4", 4))),
            ("gr6f.4xlarge", Some(("NVIDIA-L4", 2))),
            ("g6.4xlarge", None),
            ("p5.48xlarge", None),
            ("", None),
        ] {
            assert_eq!(model_of_machine(machine), model, "{machine}");
        }
    }

    #[test]
    fn amds_devices_are_told_by_their_ids() {
        assert_eq!(amd_model_of_device("74b5"), Some("MI300X"));
        assert_eq!(amd_model_of_device("0x74A5"), Some("MI325X"));
        assert_eq!(amd_model_of_device("ffff"), None);
        assert!(is_generic_amd_name("AMD_Radeon_Graphics"));
        assert!(is_generic_amd_name("Device_74b5"));
        assert!(!is_generic_amd_name("AMD_Instinct_MI300X_OAM"));
    }
}
