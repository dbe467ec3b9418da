//! What the labels of a node say of its accelerators: their model, how many there are, how they are
//! shared, and how the node is paid for.

use std::collections::BTreeMap;

use super::accelerators::{
    NEURON_CORE, NVIDIA, cores_of_chip, is_fraction, share_by_name, vendor, without_renaming,
};
use super::attributes::CapacityType;
use super::gpu_models::{
    amd_model_of_device, is_ambiguous, is_generic_amd_name, model_of_machine, model_with_memory,
};
use super::share::Share;

/// As long as the values of labels may be. A longer one, of whatever made the object, is none.
const MAX_LABEL_CHARACTERS: usize = 63;
const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";
/// Clouds' labels that name the model of an NVIDIA GPU, where GPU feature discovery does not run.
const NVIDIA_MODEL_LABELS: [&str; 9] = [
    "cloud.google.com/gke-accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
    "eks.amazonaws.com/instance-gpu-name",
    "karpenter.azure.com/sku-gpu-name",
    "k8s.amazonaws.com/accelerator",
    "gpu.nvidia.com/model",
    "gpu.nvidia.com/class",
    "doks.digitalocean.com/gpu-model",
    "kubernetes.azure.com/accelerator",
];
const TPU_MODEL_LABEL: &str = "cloud.google.com/gke-tpu-accelerator";
const NEURON_MODEL_LABEL: &str = "karpenter.k8s.aws/instance-accelerator-name";

/// Labels of a node that name the model of its `resource`, an extended resource or a driver, in the
/// order in which they count. The first is the one that the vendor's own software sets.
pub fn product_labels(resource: &str) -> Vec<&'static str> {
    match vendor(resource) {
        "amd.com" | "gpu.amd.com" => vec![
            "amd.com/gpu.product-name",
            "beta.amd.com/gpu.product-name",
            "amd.com/gpu.device-id",
            "beta.amd.com/gpu.device-id",
        ],
        "gpu.intel.com" => vec!["gpu.intel.com/product"],
        "google.com" => vec![TPU_MODEL_LABEL],
        "aws.amazon.com" => vec![NEURON_MODEL_LABEL],
        "habana.ai" => vec!["habana.ai/gaudi.product"],
        _ => [&["nvidia.com/gpu.product"], &NVIDIA_MODEL_LABELS[..]].concat(),
    }
}

/// The labels of a node, each bounded.
#[derive(Clone, Copy)]
pub(super) struct NodeLabels<'a>(pub(super) &'a BTreeMap<String, String>);

/// The model of the physical GPU, and the fraction of it that one unit is.
pub(super) struct UnitDescription {
    pub(super) model: Option<String>,
    pub(super) share: Share,
}

impl<'a> NodeLabels<'a> {
    /// The label's value, if it is there, not empty, and no longer than labels are.
    pub(super) fn get(self, key: &str) -> Option<&'a str> {
        let value = self.0.get(key)?.as_str();
        let is_label = !value.is_empty() && value.len() <= MAX_LABEL_CHARACTERS;
        is_label.then_some(value)
    }

    fn is_true(self, key: &str) -> bool {
        self.get(key) == Some("true")
    }

    /// A number of at least one.
    fn count(self, key: &str) -> Option<u32> {
        let count = self.get(key)?.parse().ok()?;
        (count > 0).then_some(count)
    }

    pub(super) fn instance_type(self) -> Option<&'a str> {
        self.get(INSTANCE_TYPE)
    }

    /// What one of `resource` is, on a node that has `units` of it.
    ///
    /// More units than the labels count GPUs share these, and so does what the labels say is
    /// shared. GPU feature discovery writes `A100-MIG-3g.20gb` for MIG's single strategy and
    /// `A100-SHARED` for time-slicing; see github.com/NVIDIA/k8s-device-plugin, "Generated Labels".
    pub(super) fn unit(self, resource: &str, units: u32) -> UnitDescription {
        let machine = self.instance_type().and_then(model_of_machine);
        let label = self.model_label(resource);
        let bare = label.map(|label| label.strip_suffix("-SHARED").unwrap_or(label));
        let (model, profile) = match bare.and_then(|bare| bare.split_once("-MIG-")) {
            Some((model, profile)) => (Some(model), Some(profile)),
            None => (bare, None),
        };
        let model = self.precise_model(resource, model, machine.map(|(model, _)| model));
        let device = self.device_share(resource, profile, model);
        let machines = machine.map_or(1, |(_, machines)| machines);
        let renamed = without_renaming(resource);
        let base = renamed.unwrap_or(resource);
        let is_sliced = renamed.is_some()
            || bare.map(str::len) != label.map(str::len)
            || self.is_sliced_apart(base);
        let replicas = self.replicas(base, is_sliced).unwrap_or(1);
        let replicas = if units > 0 {
            replicas.min(units)
        } else {
            replicas
        };
        let mut share = device.divided_by(replicas).divided_by(machines);
        if let Some(devices) = self.count(&format!("{base}.count"))
            && devices < units
        {
            share = share.smaller(device.divided_by(machines).scaled(devices, units));
        }
        let counted_parts = profile.is_some() && !is_fraction(base);
        if let Some(gpus) = self.gpus(resource, counted_parts) {
            share = share.within(share.physical(units), gpus);
        }
        UnitDescription {
            model: model.map(str::to_owned),
            share,
        }
    }

    /// The model that a label names or, where it names two (`a100`), the one that the memory or the type
    /// of the machine says it is.
    fn precise_model(
        self,
        resource: &str,
        label: Option<&'a str>,
        machine: Option<&'static str>,
    ) -> Option<&'a str> {
        let Some(label) = label.filter(|label| is_ambiguous(label)) else {
            return label.or(machine);
        };
        let by_memory = || model_with_memory(label, self.gpu_memory_gib(resource)?);
        Some(machine.or_else(by_memory).unwrap_or(label))
    }

    /// The share of a GPU that is one device, before it is time-sliced.
    fn device_share(self, resource: &str, profile: Option<&str>, model: Option<&str>) -> Share {
        if resource == NEURON_CORE {
            return Share::WHOLE.divided_by(cores_of_chip(self.instance_type()));
        }
        let partition = || {
            let size = self.get("cloud.google.com/gke-gpu-partition-size");
            size.filter(|_| resource == NVIDIA)
        };
        profile
            .or_else(partition)
            .and_then(|profile| Share::for_mig_profile(profile, model))
            .unwrap_or_else(|| share_by_name(resource, model))
    }

    /// Whether feature discovery says that a resource with labels of its own (a MIG profile) is
    /// time-sliced under its own name.
    fn is_sliced_apart(self, resource: &str) -> bool {
        resource != NVIDIA
            && self
                .get(&format!("{resource}.product"))
                .is_some_and(|product| product.ends_with("-SHARED"))
    }

    /// How many units are made of one device: by feature discovery, or by GKE.
    fn replicas(self, resource: &str, is_sliced: bool) -> Option<u32> {
        let discovered = self.count(&format!("{resource}.replicas"));
        let clients = self.count("cloud.google.com/gke-max-shared-clients-per-gpu");
        let discovered = discovered.filter(|_| is_sliced);
        discovered.max(clients.filter(|_| resource == NVIDIA))
    }

    /// How many physical GPUs the node has, as far as labels count them. With MIG's single strategy
    /// GPU feature discovery counts the parts.
    fn gpus(self, resource: &str, counts_parts: bool) -> Option<u32> {
        if vendor(resource) != vendor(NVIDIA) {
            return None;
        }
        let discovered = self.count("nvidia.com/gpu.count").filter(|_| !counts_parts);
        discovered
            .or_else(|| self.count("cloud.google.com/gke-accelerator-count"))
            .or_else(|| self.count("karpenter.k8s.aws/instance-gpu-count"))
            .or_else(|| self.count("eks.amazonaws.com/instance-gpu-count"))
            .or_else(|| self.count("karpenter.azure.com/sku-gpu-count"))
            .or_else(|| self.count("gpu.nvidia.com/count"))
    }

    /// Gibibytes of memory of one physical GPU. GPU feature discovery gives mebibytes, and with MIG's
    /// single strategy those of a part. A machine with a part of a GPU has that part of its memory.
    pub(super) fn gpu_memory_gib(self, resource: &str) -> Option<u32> {
        let machine = self.instance_type().and_then(model_of_machine);
        let machines = machine.map_or(1, |(_, machines)| machines);
        let mebibytes = |key: &str| Some(self.count(key)?.checked_mul(machines)?.div_ceil(1024));
        match vendor(resource) {
            "nvidia.com" | "gpu.nvidia.com" => {
                let product = self.get("nvidia.com/gpu.product");
                let is_part = product.is_some_and(|product| product.contains("-MIG-"));
                let discovered = mebibytes("nvidia.com/gpu.memory").filter(|_| !is_part);
                discovered
                    .or_else(|| mebibytes("karpenter.k8s.aws/instance-gpu-memory"))
                    .or_else(|| mebibytes("eks.amazonaws.com/instance-gpu-memory"))
                    .or_else(|| self.count("gpu.nvidia.com/vram"))
            }
            "amd.com" | "gpu.amd.com" => self
                .amd("vram")?
                .strip_suffix('G')?
                .parse()
                .ok()
                .filter(|gib| *gib > 0),
            _ => None,
        }
    }

    /// How many physical GPUs behind any resource of this vendor the labels count.
    pub(super) fn gpus_of_vendor(self, resource: &str) -> Option<u32> {
        let product = self.get("nvidia.com/gpu.product");
        let counts_parts = product.is_some_and(|product| product.contains("-MIG-"));
        self.gpus(resource, counts_parts)
    }

    /// The value of the first label that names the model.
    fn model_label(self, resource: &str) -> Option<&'a str> {
        if matches!(vendor(resource), "amd.com" | "gpu.amd.com") {
            return self.amd_model();
        }
        let labels = product_labels(resource).into_iter();
        let mut values = labels.filter_map(|key| Some((key, self.get(key)?)));
        // AKS names the vendor alone there
        let is_model = |(_, value): &(&str, &str)| *value != "nvidia";
        values.find(is_model).map(|(_, value)| value)
    }

    /// AMD's labeller writes the name, or, where the driver does not know it, the device's id.
    fn amd_model(self) -> Option<&'a str> {
        let name = self.amd("product-name");
        name.filter(|name| !is_generic_amd_name(name)).or_else(|| {
            let id = self.amd("device-id")?;
            Some(amd_model_of_device(id).unwrap_or(id))
        })
    }

    /// What AMD's labeller says of this kind. The older one writes it into the key, with the number
    /// of GPUs as the value.
    fn amd(self, kind: &str) -> Option<&'a str> {
        let value = |prefix: &str| self.get(&format!("{prefix}amd.com/gpu.{kind}"));
        value("")
            .or_else(|| value("beta."))
            .or_else(|| self.name_in_key(&format!("beta.amd.com/gpu.{kind}.")))
            .or_else(|| self.name_in_key(&format!("amd.com/gpu.{kind}.")))
    }

    /// What follows the prefix in the first label that begins with it.
    fn name_in_key(self, prefix: &str) -> Option<&'a str> {
        let (key, _) = self.0.range(prefix.to_owned()..).next()?;
        let name = key.strip_prefix(prefix)?;
        (!name.is_empty() && name.len() <= MAX_LABEL_CHARACTERS).then_some(name)
    }

    /// How the node is paid for. A value that is none of the known ones says nothing.
    pub(super) fn capacity_type(self) -> Option<CapacityType> {
        const SPOT: [&str; 3] = [
            "cloud.google.com/gke-spot",
            "cloud.google.com/gke-preemptible",
            "oci.oraclecloud.com/oke-is-preemptible",
        ];
        const NAMED: [&str; 5] = [
            "karpenter.sh/capacity-type",
            "eks.amazonaws.com/capacityType",
            "cloud.google.com/gke-provisioning",
            "kubernetes.azure.com/scalesetpriority",
            "node.kubernetes.io/lifecycle",
        ];
        const RESERVATIONS: [&str; 2] = [
            "cloud.google.com/reservation-name",
            "karpenter.k8s.aws/capacity-reservation-id",
        ];
        if SPOT.iter().any(|key| self.is_true(key)) {
            return Some(CapacityType::Spot);
        }
        if RESERVATIONS.iter().any(|key| self.get(key).is_some()) {
            return Some(CapacityType::Reserved);
        }
        let named = NAMED.iter().filter_map(|key| self.get(key));
        named.filter_map(capacity_type_of).next()
    }
}

fn capacity_type_of(name: &str) -> Option<CapacityType> {
    match name.to_ascii_lowercase().replace(['-', '_'], "").as_str() {
        "spot" | "preemptible" => Some(CapacityType::Spot),
        "reserved" | "reservation" | "capacityblock" => Some(CapacityType::Reserved),
        "ondemand" | "standard" | "regular" | "normal" => Some(CapacityType::OnDemand),
        _ => None,
    }
}
