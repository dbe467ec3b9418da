//! Pricing attributes: the pod's amounts, and the values of the node's labels.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The resource that a whole NVIDIA GPU is offered as.
const NVIDIA: &str = "nvidia.com/gpu";
/// Resource names that count as GPUs, in addition to every MIG profile.
const GPU_RESOURCES: [&str; 6] = [
    NVIDIA,
    "nvidia.com/gpu.shared",
    "amd.com/gpu",
    "gpu.intel.com/i915",
    "gpu.intel.com/xe",
    "aws.amazon.com/neuron",
];
const MIG: &str = "nvidia.com/mig-";
/// The suffix that the device plugin adds to the name of a time-sliced resource.
const SHARED: &str = ".shared";

/// Drivers of dynamic resource allocation whose devices are GPUs.
const GPU_DRIVERS: [&str; 3] = [NVIDIA_DRIVER, AMD_DRIVER, INTEL_DRIVER];
const NVIDIA_DRIVER: &str = "gpu.nvidia.com";
const AMD_DRIVER: &str = "gpu.amd.com";
const INTEL_DRIVER: &str = "gpu.intel.com";

/// True for a driver of dynamic resource allocation whose devices are GPUs or parts of them.
pub fn is_gpu_driver(driver: &str) -> bool {
    GPU_DRIVERS.contains(&driver)
}

/// True for an extended resource that is a GPU or a part of one.
pub fn is_gpu(resource: &str) -> bool {
    GPU_RESOURCES.contains(&resource) || resource.starts_with(MIG)
}

/// True for an extended resource of the vendor of a driver: it may be the same GPUs as the driver's
/// devices.
pub fn is_same_vendor(resource: &str, driver: &str) -> bool {
    let vendor = resource.split('/').next();
    vendor == Some(driver) || vendor == driver.strip_prefix("gpu.")
}

/// True for a resource whose unit is a part of a physical GPU.
pub(super) fn is_fraction(resource: &str) -> bool {
    resource.starts_with(MIG) || resource == "nvidia.com/gpu.shared"
}

/// Whether the physical GPU behind `held` is offered as `resource`: prices of whole GPUs are listed
/// under it.
pub(super) fn is_whole_gpu_of(resource: &str, held: &str) -> bool {
    match held {
        NVIDIA_DRIVER => resource == NVIDIA,
        AMD_DRIVER => resource == "amd.com/gpu",
        INTEL_DRIVER => resource.starts_with("gpu.intel.com/"),
        held => resource == if is_fraction(held) { NVIDIA } else { held },
    }
}

/// Labels of a node that name the model of its `resource`, an extended resource or a driver; the
/// first that is there counts.
pub fn product_labels(resource: &str) -> &'static [&'static str] {
    if resource == AMD_DRIVER || resource.starts_with("amd.com/") {
        &["amd.com/gpu.product-name", "beta.amd.com/gpu.product-name"]
    } else if resource.starts_with(INTEL_DRIVER) {
        &["gpu.intel.com/product"]
    } else {
        &["nvidia.com/gpu.product"]
    }
}

/// How a machine is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CapacityType {
    /// At the list price, until it is given back.
    OnDemand,
    /// Cheaper, and may be taken away.
    Spot,
    /// Committed in advance.
    Reserved,
}

/// The fraction `part / whole` of one physical GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Share {
    /// Numerator, 1 or more.
    pub part: u32,
    /// Denominator, not below `part`.
    pub whole: u32,
}

impl Share {
    /// A whole GPU.
    pub const WHOLE: Self = Self { part: 1, whole: 1 };

    /// True for a whole GPU.
    pub fn is_whole(&self) -> bool {
        self.part == self.whole
    }

    /// The share of `amount`, rounded down.
    pub fn portion_of(self, amount: i64) -> i64 {
        if self.is_whole() {
            return amount;
        }
        let scaled = i128::from(amount) * i128::from(self.part) / i128::from(self.whole.max(1));
        i64::try_from(scaled).unwrap_or(i64::MAX)
    }

    /// The compute slices of a MIG profile such as `3g.40gb` or `1c.3g.20gb`, of all slices that
    /// the model has. See NVIDIA's MIG user guide, "Supported MIG Profiles": seven compute slices,
    /// and four on the A30 and the RTX PRO 6000.
    fn for_mig_profile(profile: &str, model: Option<&str>) -> Option<Self> {
        let first = profile.split('.').next()?;
        let part: u32 = first.strip_suffix(['g', 'c'])?.parse().ok()?;
        let four = |model: &str| model.contains("A30") || model.contains("RTX-PRO-6000");
        let whole = if model.is_some_and(four) { 4 } else { 7 };
        (1..=whole).contains(&part).then_some(Self { part, whole })
    }

    /// The fraction that is in the resource's name; a whole GPU where there is none.
    pub(super) fn for_resource(resource: &str, model: Option<&str>) -> Self {
        resource
            .strip_prefix(MIG)
            .and_then(|profile| Self::for_mig_profile(profile, model))
            .unwrap_or_default()
    }

    /// One of `replicas` equal parts of it.
    fn divided_by(self, replicas: u32) -> Self {
        Self {
            whole: self.whole.saturating_mul(replicas.max(1)),
            ..self
        }
    }
}

impl Default for Share {
    fn default() -> Self {
        Self::WHOLE
    }
}

/// The attributes that a charge is priced by. Stored with the charge, because the node may be gone
/// later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PricingAttributes {
    /// The extended resource that the pod holds, such as `nvidia.com/gpu`, or the driver of its
    /// devices, such as `gpu.nvidia.com`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// How many of it the pod holds.
    #[serde(skip_serializing_if = "is_zero")]
    pub gpus: u32,
    /// How many of it the node has.
    #[serde(skip_serializing_if = "is_zero")]
    pub node_gpus: u32,
    /// The fraction of one physical GPU that one of it is.
    #[serde(skip_serializing_if = "Share::is_whole")]
    pub share: Share,
    /// The physical GPU's product name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The node's instance type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// How the node is paid for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_type: Option<CapacityType>,
    /// The node's region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The node's zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The node's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The amounts, which may change while the pod runs.
    #[serde(flatten)]
    pub amounts: ResourceAmounts,
}

/// The amounts that a charge is priced by, which may change while the pod runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceAmounts {
    /// Thousandths of a CPU core that the pod asks for.
    #[serde(skip_serializing_if = "is_zero")]
    pub cpu_milli: u32,
    /// Mebibytes of memory that the pod asks for.
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_mib: u32,
    /// Mebibytes of ephemeral storage that the pod asks for.
    #[serde(skip_serializing_if = "is_zero")]
    pub ephemeral_mib: u32,
    /// Gibibytes of the persistent volumes that are charged to the pod, by storage class.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, u32>,
    /// Watts that its GPUs were measured to draw, all together; those of their model count where
    /// there is no measurement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub watts: Option<u32>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl PricingAttributes {
    /// The pod's attributes, on the node of this name that has `node_gpus` of the pod's resource
    /// and these labels. Values of an earlier node or of earlier labels are dropped.
    #[must_use]
    pub fn on_node(self, node: &str, node_gpus: u32, labels: &BTreeMap<String, String>) -> Self {
        let first = |keys: &[&str]| {
            let values = keys.iter().filter_map(|key| labels.get(*key));
            values.into_iter().find(|value| !value.is_empty()).cloned()
        };
        let (model, share) = product(&self.resource, labels);
        Self {
            node_gpus,
            share,
            model,
            instance_type: first(&["node.kubernetes.io/instance-type"]),
            capacity_type: capacity_type(labels),
            region: first(&["topology.kubernetes.io/region"]),
            zone: first(&["topology.kubernetes.io/zone"]),
            node: Some(node.to_owned()),
            ..self
        }
    }
}

impl PricingAttributes {
    /// The attributes of a pod whose devices name their product, and the MIG profile of a part of
    /// it. Labels of nodes write product names with dashes for blanks, and so do price lists.
    #[must_use]
    pub fn with_product(self, product: Option<&str>, profile: Option<&str>) -> Self {
        let model = product.map(|product| product.replace(' ', "-"));
        let share = |model| profile.and_then(|profile| Share::for_mig_profile(profile, model));
        match model {
            Some(model) => Self {
                share: share(Some(&model)).unwrap_or_default(),
                model: Some(model),
                ..self
            },
            None => Self {
                share: share(self.model.as_deref()).unwrap_or(self.share),
                ..self
            },
        }
    }
}

fn capacity_type(labels: &BTreeMap<String, String>) -> Option<CapacityType> {
    let is_true = |key: &str| labels.get(key).is_some_and(|value| value == "true");
    if is_true("cloud.google.com/gke-spot") || is_true("cloud.google.com/gke-preemptible") {
        return Some(CapacityType::Spot);
    }
    let keys = [
        "karpenter.sh/capacity-type",
        "eks.amazonaws.com/capacityType",
        "cloud.google.com/gke-provisioning",
        "kubernetes.azure.com/scalesetpriority",
    ];
    let name = keys.iter().find_map(|key| labels.get(*key))?;
    match name.to_ascii_lowercase().replace(['-', '_'], "").as_str() {
        "spot" | "preemptible" => Some(CapacityType::Spot),
        "reserved" | "reservation" | "capacityblock" => Some(CapacityType::Reserved),
        "ondemand" | "standard" | "regular" => Some(CapacityType::OnDemand),
        _ => None,
    }
}

/// The model of the physical GPU, and the fraction of it that one `resource` is. GPU feature
/// discovery writes `A100-MIG-3g.20gb` for MIG's single strategy and `A100-SHARED` for
/// time-slicing; see github.com/NVIDIA/k8s-device-plugin, "Generated Labels".
fn product(resource: &str, labels: &BTreeMap<String, String>) -> (Option<String>, Share) {
    let label = product_labels(resource)
        .iter()
        .find_map(|key| labels.get(*key));
    let bare = label.map(|label| label.strip_suffix("-SHARED").unwrap_or(label));
    let (model, profile) = match bare.and_then(|bare| bare.split_once("-MIG-")) {
        Some((model, profile)) => (Some(model), Some(profile)),
        None => (bare, None),
    };
    let share = profile
        .and_then(|profile| Share::for_mig_profile(profile, model))
        .unwrap_or_else(|| Share::for_resource(resource, model));
    let renamed = resource.strip_suffix(SHARED);
    let is_sliced = renamed.is_some() || bare.map(str::len) != label.map(String::len);
    let replicas = labels
        .get(&format!("{}.replicas", renamed.unwrap_or(resource)))
        .filter(|_| is_sliced)
        .and_then(|count| count.parse().ok());
    (
        model.map(str::to_owned),
        share.divided_by(replicas.unwrap_or(1)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(resource: &str, labels: &[(&str, &str)]) -> PricingAttributes {
        let labels = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let pod = PricingAttributes {
            resource: resource.into(),
            gpus: 1,
            ..PricingAttributes::default()
        };
        pod.on_node("node-1", 7, &labels)
    }

    #[test]
    fn a_fraction_is_told_by_resource_and_labels_and_the_model_is_the_physical_gpus() {
        let product = "nvidia.com/gpu.product";
        for (resource, labels, model, share) in [
            ("nvidia.com/gpu", vec![(product, "H100")], "H100", (1, 1)),
            (
                "nvidia.com/mig-3g.40gb",
                vec![(product, "H100")],
                "H100",
                (3, 7),
            ),
            (
                "nvidia.com/mig-1c.3g.40gb",
                vec![(product, "H100")],
                "H100",
                (1, 7),
            ),
            (
                "nvidia.com/mig-1g.10gb.me",
                vec![(product, "H100")],
                "H100",
                (1, 7),
            ),
            (
                "nvidia.com/mig-2g.12gb",
                vec![(product, "NVIDIA-A30")],
                "NVIDIA-A30",
                (2, 4),
            ),
            (
                "nvidia.com/gpu",
                vec![(product, "H100-MIG-3g.40gb")],
                "H100",
                (3, 7),
            ),
            (
                "nvidia.com/gpu",
                vec![(product, "T4-SHARED"), ("nvidia.com/gpu.replicas", "4")],
                "T4",
                (1, 4),
            ),
            (
                "nvidia.com/gpu.shared",
                vec![(product, "T4"), ("nvidia.com/gpu.replicas", "4")],
                "T4",
                (1, 4),
            ),
            (
                "nvidia.com/mig-1g.10gb.shared",
                vec![(product, "H100"), ("nvidia.com/mig-1g.10gb.replicas", "2")],
                "H100",
                (1, 14),
            ),
            // replicas of another resource than the pod's, and a label that is no number
            (
                "nvidia.com/gpu",
                vec![(product, "T4"), ("nvidia.com/gpu.replicas", "4")],
                "T4",
                (1, 1),
            ),
            (
                "nvidia.com/gpu",
                vec![(product, "T4-SHARED"), ("nvidia.com/gpu.replicas", "x")],
                "T4",
                (1, 1),
            ),
            (
                "amd.com/gpu",
                vec![("amd.com/gpu.product-name", "MI300X"), (product, "H100")],
                "MI300X",
                (1, 1),
            ),
        ] {
            let attributes = on(resource, &labels);
            let (part, whole) = share;
            assert_eq!(
                (attributes.model.as_deref(), attributes.share),
                (Some(model), Share { part, whole }),
                "{resource} {labels:?}"
            );
        }
        assert_eq!(on("nvidia.com/mig-9g.x", &[]).share, Share::WHOLE);
    }

    #[test]
    fn a_device_says_itself_what_it_is() {
        let on = |driver: &str| {
            on(
                driver,
                &[
                    ("nvidia.com/gpu.product", "H100"),
                    ("amd.com/gpu.product-name", "MI300X"),
                ],
            )
        };
        let whole = on("gpu.nvidia.com").with_product(Some("NVIDIA H100 80GB HBM3"), None);
        assert_eq!(whole.model.as_deref(), Some("NVIDIA-H100-80GB-HBM3"));
        let part = on("gpu.nvidia.com").with_product(Some("NVIDIA A30"), Some("2g.12gb"));
        assert_eq!(part.share, Share { part: 2, whole: 4 });
        // where it does not say, the node's labels do
        let mute = on("gpu.amd.com").with_product(None, None);
        assert_eq!(
            (mute.model.as_deref(), mute.share),
            (Some("MI300X"), Share::WHOLE)
        );
        let part = on("gpu.nvidia.com").with_product(None, Some("1g.10gb"));
        assert_eq!((part.model.as_deref(), part.share.whole), (Some("H100"), 7));
    }

    #[test]
    fn capacity_types_are_read_as_each_cloud_writes_them() {
        for (key, value, capacity) in [
            (
                "karpenter.sh/capacity-type",
                "on-demand",
                CapacityType::OnDemand,
            ),
            (
                "karpenter.sh/capacity-type",
                "reserved",
                CapacityType::Reserved,
            ),
            (
                "eks.amazonaws.com/capacityType",
                "ON_DEMAND",
                CapacityType::OnDemand,
            ),
            (
                "eks.amazonaws.com/capacityType",
                "CAPACITY_BLOCK",
                CapacityType::Reserved,
            ),
            ("cloud.google.com/gke-spot", "true", CapacityType::Spot),
            (
                "cloud.google.com/gke-provisioning",
                "standard",
                CapacityType::OnDemand,
            ),
            (
                "kubernetes.azure.com/scalesetpriority",
                "spot",
                CapacityType::Spot,
            ),
        ] {
            let attributes = on("nvidia.com/gpu", &[(key, value)]);
            assert_eq!(attributes.capacity_type, Some(capacity), "{key}={value}");
        }
    }

    #[test]
    fn facts_are_stored_without_what_they_lack() {
        let text = serde_json::to_string(&on("nvidia.com/gpu", &[])).unwrap();
        assert_eq!(
            text,
            r#"{"resource":"nvidia.com/gpu","gpus":1,"nodeGpus":7,"node":"node-1"}"#
        );
        let attributes = on(
            "nvidia.com/mig-3g.40gb",
            &[("nvidia.com/gpu.product", "H100")],
        );
        let text = serde_json::to_string(&attributes).unwrap();
        assert_eq!(
            serde_json::from_str::<PricingAttributes>(&text).unwrap(),
            attributes
        );
        assert_eq!(
            serde_json::from_str::<PricingAttributes>("{}").unwrap(),
            PricingAttributes::default()
        );
    }
}
