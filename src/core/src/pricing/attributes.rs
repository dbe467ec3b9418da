//! Pricing attributes: the pod's amounts, and the values of the node's labels.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::accelerators::{is_gpu_driver, is_same_vendor};
use super::node_labels::{NodeLabels, UnitDescription};
use super::share::Share;

/// The most characters that a device's product name may have: as many as Kubernetes lets it.
const MAX_PRODUCT_CHARACTERS: usize = 64;

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
    /// How many physical GPUs all resources of the vendor would make that the node offers, where they
    /// are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_gpus: Option<u32>,
    /// The fraction of one physical GPU that one of it is.
    #[serde(skip_serializing_if = "Share::is_whole")]
    pub share: Share,
    /// The physical GPU's product name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Gibibytes of memory of the physical GPU, where a label says it: a price that stands in for one
    /// that is not listed is that of a GPU with as much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_memory_gib: Option<u32>,
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
    /// GPUs of other resources that the pod holds in addition.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_gpus: Vec<OtherGpus>,
    /// The amounts, which may change while the pod runs.
    #[serde(flatten)]
    pub amounts: ResourceAmounts,
}

/// GPUs of one more resource that a pod holds: of another vendor, or parts of another size.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OtherGpus {
    /// The extended resource, or the driver of the devices.
    pub resource: String,
    /// How many of it the pod holds.
    pub gpus: u32,
    /// How many of it the node has.
    pub node_gpus: u32,
    /// How many physical GPUs all resources of the vendor would make that the node offers, where they
    /// are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_gpus: Option<u32>,
    /// The fraction of one physical GPU that one of it is.
    #[serde(skip_serializing_if = "Share::is_whole")]
    pub share: Share,
    /// The physical GPU's product name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Gibibytes of memory of the physical GPU, where a label says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_memory_gib: Option<u32>,
    /// Since when the pod is charged for them; from its start where there is no time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

impl OtherGpus {
    /// Whether the pod is charged for them at `at`.
    pub fn is_held_at(&self, at: Timestamp) -> bool {
        self.since.is_none_or(|since| since <= at)
    }

    pub(crate) fn is_same_kind(&self, other: &Self) -> bool {
        (&self.resource, &self.model, self.share) == (&other.resource, &other.model, other.share)
    }
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
        let labels = NodeLabels(labels);
        let text = |key: &str| labels.get(key).map(str::to_owned);
        let UnitDescription { model, share } = labels.unit(&self.resource, node_gpus);
        Self {
            node_gpus,
            all_gpus: None,
            share,
            model,
            gpu_memory_gib: labels.gpu_memory_gib(&self.resource),
            instance_type: labels.instance_type().map(str::to_owned),
            capacity_type: labels.capacity_type(),
            region: text("topology.kubernetes.io/region"),
            zone: text("topology.kubernetes.io/zone"),
            node: Some(node.to_owned()),
            ..self
        }
    }
}

impl PricingAttributes {
    /// The attributes of a pod that holds the GPUs of `others` too, which are on the same node.
    #[must_use]
    pub fn with_other_gpus(self, others: impl IntoIterator<Item = Self>) -> Self {
        let others = others.into_iter().map(|other| other.gpus_by_themselves());
        Self {
            other_gpus: others.collect(),
            ..self
        }
    }

    /// The GPUs of `resource` alone, without what the node or the pod has apart from them.
    fn gpus_by_themselves(&self) -> OtherGpus {
        OtherGpus {
            resource: self.resource.clone(),
            gpus: self.gpus,
            node_gpus: self.node_gpus,
            all_gpus: self.all_gpus,
            share: self.share,
            model: self.model.clone(),
            gpu_memory_gib: self.gpu_memory_gib,
            since: None,
        }
    }

    /// All GPUs of the pod, kind by kind.
    fn all_kinds(&self) -> Vec<OtherGpus> {
        let others = self.other_gpus.iter().cloned();
        [self.gpus_by_themselves()]
            .into_iter()
            .chain(others)
            .collect()
    }

    fn with_all_kinds(self, kinds: Vec<OtherGpus>) -> Self {
        let mut kinds = kinds.into_iter();
        let Some(first) = kinds.next() else {
            return self;
        };
        Self {
            resource: first.resource,
            gpus: first.gpus,
            node_gpus: first.node_gpus,
            all_gpus: first.all_gpus,
            share: first.share,
            model: first.model,
            gpu_memory_gib: first.gpu_memory_gib,
            other_gpus: kinds.collect(),
            ..self
        }
    }

    /// The units that the pod holds, by resource or driver; one of these may come several times.
    pub fn units(&self) -> impl Iterator<Item = (&str, u32)> {
        let others = self.other_gpus.iter();
        let others = others.map(|other| (other.resource.as_str(), other.gpus));
        [(self.resource.as_str(), self.gpus)]
            .into_iter()
            .chain(others)
    }

    fn units_of(&self, resource: &str) -> u32 {
        let units = self.units().filter(|(each, _)| *each == resource);
        units.map(|(_, units)| units).sum()
    }

    /// The GPUs of `observed` that are more than these attributes have, by kind. What is observed no
    /// more is no less: a claim may be gone before its pod.
    pub fn gpus_beyond(&self, observed: &Self) -> Vec<OtherGpus> {
        let mut known = self.all_kinds();
        let mut seen = observed.all_kinds();
        for kind in &mut seen {
            let is_same: Vec<bool> = known.iter().map(|each| each.is_same_kind(kind)).collect();
            let same = known
                .iter_mut()
                .zip(is_same)
                .filter(|(_, is_same)| *is_same);
            for (same, _) in same {
                let both = same.gpus.min(kind.gpus);
                same.gpus -= both;
                kind.gpus -= both;
            }
        }
        // labels that came late may have made another kind of what is known
        let mut lacking: BTreeMap<String, u32> = BTreeMap::new();
        for (resource, _) in observed.units() {
            let more = observed.units_of(resource);
            let more = more.saturating_sub(self.units_of(resource));
            // an extended resource that turned out to be devices
            let renamed = self.units().filter(|(known, _)| {
                *known != resource && is_gpu_driver(resource) && is_same_vendor(known, resource)
            });
            let renamed =
                renamed.map(|(known, units)| units.saturating_sub(observed.units_of(known)));
            lacking.insert(resource.to_owned(), more.saturating_sub(renamed.sum()));
        }
        for kind in &mut seen {
            let lacking = lacking.entry(kind.resource.clone()).or_default();
            kind.gpus = kind.gpus.min(*lacking);
            *lacking -= kind.gpus;
        }
        seen.retain(|kind| kind.gpus > 0);
        seen
    }

    /// These attributes as labels that came late describe them: the GPUs and the amounts stay.
    #[must_use]
    pub fn relabelled(&self, observed: &Self) -> Self {
        let (known, seen) = (self.all_kinds(), observed.all_kinds());
        let mut kinds: Vec<OtherGpus> = Vec::new();
        let mut replaced: Vec<&str> = Vec::new();
        for kind in &known {
            let resource = kind.resource.as_str();
            if replaced.contains(&resource) {
                continue;
            }
            let of_resource = |each: &&OtherGpus| each.resource == resource;
            let mut same = known.iter().filter(of_resource);
            let began_together = same.all(|each| each.since.is_none());
            if began_together && self.units_of(resource) == observed.units_of(resource) {
                replaced.push(resource);
                kinds.extend(seen.iter().filter(of_resource).cloned());
                continue;
            }
            let exactly = seen.iter().find(|each| each.is_same_kind(kind));
            let found = exactly.or_else(|| seen.iter().find(of_resource));
            kinds.push(OtherGpus {
                gpus: kind.gpus,
                since: kind.since,
                ..found.unwrap_or(kind).clone()
            });
        }
        let of_node = Self {
            amounts: self.amounts.clone(),
            ..observed.clone()
        };
        of_node.with_all_kinds(kinds)
    }

    /// Whether these say all of the pod's GPUs and node that `known` do: labels that are gone for a while take
    /// nothing away of what they have said.
    pub fn say_no_less_than(&self, known: &Self) -> bool {
        fn keeps<T>(known: Option<&T>, observed: Option<&T>) -> bool {
            known.is_none() || observed.is_some()
        }
        let keeps_kind = |known: &OtherGpus, observed: &OtherGpus| {
            keeps(known.model.as_ref(), observed.model.as_ref())
                && keeps(
                    known.gpu_memory_gib.as_ref(),
                    observed.gpu_memory_gib.as_ref(),
                )
                && (known.share.is_whole() || !observed.share.is_whole())
        };
        let observed = self.all_kinds();
        let keeps_kinds = known.all_kinds().iter().all(|kind| {
            let same = observed
                .iter()
                .filter(|each| each.resource == kind.resource);
            let mut same = same.peekable();
            same.peek().is_none() || same.any(|each| keeps_kind(kind, each))
        });
        keeps_kinds
            && keeps(known.instance_type.as_ref(), self.instance_type.as_ref())
            && keeps(known.capacity_type.as_ref(), self.capacity_type.as_ref())
            && keeps(known.region.as_ref(), self.region.as_ref())
            && keeps(known.zone.as_ref(), self.zone.as_ref())
            && keeps(known.node.as_ref(), self.node.as_ref())
    }

    /// The attributes of each of the other kinds of GPUs by itself, without the pod's amounts.
    pub(super) fn of_other_gpus(&self) -> impl Iterator<Item = Self> {
        self.other_gpus.iter().map(|other| Self {
            resource: other.resource.clone(),
            gpus: other.gpus,
            node_gpus: other.node_gpus,
            all_gpus: other.all_gpus,
            share: other.share,
            model: other.model.clone(),
            gpu_memory_gib: other.gpu_memory_gib,
            other_gpus: Vec::new(),
            amounts: ResourceAmounts::default(),
            ..self.clone()
        })
    }

    /// Physical GPUs times seconds from `start` until `end`: a unit may be a part of one.
    pub fn gpu_seconds(&self, start: Timestamp, end: Timestamp) -> i64 {
        let of = |gpus: u32, share: Share, since: Timestamp| {
            let seconds = (end.as_second() - since.as_second()).max(0);
            share.portion_of(i64::from(gpus) * seconds)
        };
        let others = self.other_gpus.iter().map(|other| {
            let since = other.since.map_or(start, |since| since.max(start));
            of(other.gpus, other.share, since)
        });
        of(self.gpus, self.share, start) + others.sum::<i64>()
    }

    /// How many physical GPUs the node's units make, with those of other resources of the vendor.
    pub(super) fn offered_gpus(&self) -> u32 {
        let units = self.node_gpus.max(self.gpus);
        self.share.physical(units).max(self.all_gpus.unwrap_or(0))
    }

    /// Everything that a node offers of one vendor's GPUs, under several names: each then says how
    /// many GPUs all of them would make, so that their parts of the node are at most all of it. Where
    /// labels count the GPUs, they are no more than these.
    #[must_use]
    pub fn sharing_a_node(offers: &[Self], labels: &BTreeMap<String, String>) -> Vec<Self> {
        let [first, _, ..] = offers else {
            return offers.to_vec();
        };
        let units = offers.iter().map(|offer| (offer.node_gpus, offer.share));
        let all_gpus = Some(Share::physical_sum(units));
        let labelled = NodeLabels(labels).gpus_of_vendor(&first.resource);
        let each = offers.iter().map(|offer| {
            let offer = Self {
                all_gpus,
                ..offer.clone()
            };
            match labelled {
                Some(gpus) => offer.within_machine(gpus).into_owned(),
                None => offer,
            }
        });
        each.collect()
    }

    /// The attributes where the node has `gpus` physical GPUs: units beyond these share them.
    pub(super) fn within_machine(&self, gpus: u32) -> Cow<'_, Self> {
        let offered = self.offered_gpus();
        if offered <= gpus.max(1) {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Self {
            share: self.share.within(offered, gpus),
            all_gpus: self.all_gpus.map(|all| all.min(gpus.max(1))),
            ..self.clone()
        })
    }

    /// The attributes of a pod whose devices name their product, and the MIG profile of a part of
    /// it. Labels of nodes write product names with dashes for blanks, and so do price lists.
    #[must_use]
    pub fn with_product(self, product: Option<&str>, profile: Option<&str>) -> Self {
        let product = product.filter(|product| product.len() <= MAX_PRODUCT_CHARACTERS);
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
            // GKE says it with labels of its own
            (
                "nvidia.com/gpu",
                vec![
                    ("cloud.google.com/gke-accelerator", "nvidia-l4"),
                    ("cloud.google.com/gke-max-shared-clients-per-gpu", "7"),
                ],
                "nvidia-l4",
                (1, 7),
            ),
            (
                "nvidia.com/gpu",
                vec![
                    (product, "H100"),
                    ("cloud.google.com/gke-gpu-partition-size", "3g.40gb"),
                    ("cloud.google.com/gke-max-shared-clients-per-gpu", "2"),
                ],
                "H100",
                (3, 14),
            ),
            // fewer boards than the node has units, and a layout that feature discovery refuses
            (
                "nvidia.com/gpu",
                vec![(product, "T4"), ("nvidia.com/gpu.count", "1")],
                "T4",
                (1, 7),
            ),
            (
                "nvidia.com/gpu",
                vec![(product, "A100-MIG-INVALID"), ("nvidia.com/gpu.count", "0")],
                "A100",
                (1, 1),
            ),
            // Azure's machines with a sixth of a GPU
            (
                "nvidia.com/gpu",
                vec![("node.kubernetes.io/instance-type", "Standard_NV6ads_A10_v5")],
                "NVIDIA-A10",
                (1, 6),
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

    /// Clouds call two GPUs by one name, and give machines parts of one.
    #[test]
    fn a_name_of_two_gpus_is_told_by_their_memory_and_a_part_by_the_machine() {
        let machine = "node.kubernetes.io/instance-type";
        let (name, memory) = (
            "karpenter.k8s.aws/instance-gpu-name",
            "karpenter.k8s.aws/instance-gpu-memory",
        );
        let (auto, auto_memory) = (
            "eks.amazonaws.com/instance-gpu-name",
            "eks.amazonaws.com/instance-gpu-memory",
        );
        let azure = "karpenter.azure.com/sku-gpu-name";
        for (labels, model, share, gib) in [
            (
                vec![(name, "a100"), (memory, "40960")],
                "NVIDIA-A100-SXM4-40GB",
                1,
                Some(40),
            ),
            (
                vec![(name, "a100"), (memory, "81920")],
                "NVIDIA-A100-SXM4-80GB",
                1,
                Some(80),
            ),
            (
                vec![(name, "v100"), (memory, "16384")],
                "Tesla-V100-SXM2-16GB",
                1,
                Some(16),
            ),
            (
                vec![(name, "v100"), (memory, "32768")],
                "Tesla-V100-SXM2-32GB",
                1,
                Some(32),
            ),
            (
                vec![(auto, "a100"), (auto_memory, "81920")],
                "NVIDIA-A100-SXM4-80GB",
                1,
                Some(80),
            ),
            // nobody says how much it has
            (vec![(name, "a100")], "a100", 1, None),
            (vec![(name, "l40s"), (memory, "45776")], "l40s", 1, Some(45)),
            (
                vec![(azure, "A100"), (machine, "Standard_NC24ads_A100_v4")],
                "NVIDIA-A100-80GB-PCIe",
                1,
                None,
            ),
            (
                vec![(azure, "A10"), (machine, "Standard_NV12ads_A10_v5")],
                "A10",
                3,
                None,
            ),
            (
                vec![(name, "l4"), (memory, "2861"), (machine, "g6f.xlarge")],
                "l4",
                8,
                Some(23),
            ),
            (
                vec![(memory, "11444"), (machine, "gr6f.4xlarge")],
                "NVIDIA-L4",
                2,
                Some(23),
            ),
        ] {
            let pod = PricingAttributes {
                resource: "nvidia.com/gpu".into(),
                gpus: 1,
                ..PricingAttributes::default()
            };
            let owned = labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let attributes = pod.on_node("node-1", 1, &owned.collect());
            let share = Share {
                part: 1,
                whole: share,
            };
            assert_eq!(
                (
                    attributes.model.as_deref(),
                    attributes.share,
                    attributes.gpu_memory_gib
                ),
                (Some(model), share, gib),
                "{labels:?}"
            );
        }
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
            (
                "kubernetes.azure.com/scalesetpriority",
                "regular",
                CapacityType::OnDemand,
            ),
            (
                "cloud.google.com/gke-preemptible",
                "true",
                CapacityType::Spot,
            ),
            (
                "cloud.google.com/reservation-name",
                "h100-2026",
                CapacityType::Reserved,
            ),
            (
                "oci.oraclecloud.com/oke-is-preemptible",
                "true",
                CapacityType::Spot,
            ),
            ("eks.amazonaws.com/capacityType", "SPOT", CapacityType::Spot),
        ] {
            let attributes = on("nvidia.com/gpu", &[(key, value)]);
            assert_eq!(attributes.capacity_type, Some(capacity), "{key}={value}");
        }
        // a value that is not known hides no other label
        let attributes = on(
            "nvidia.com/gpu",
            &[
                ("karpenter.sh/capacity-type", "flexible"),
                ("kubernetes.azure.com/scalesetpriority", "spot"),
            ],
        );
        assert_eq!(attributes.capacity_type, Some(CapacityType::Spot));
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
