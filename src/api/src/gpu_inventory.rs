//! The GPUs that nodes offer: as extended resources, and as devices of dynamic resource allocation
//! (`resource.k8s.io/v1`).
//!
//! A GPU that is offered in several ways counts once:
//!
//! - Where a node has an extended resource of a vendor, the devices of that vendor's driver are the
//!   same GPUs, and do not count.
//! - Devices that consume the same shared counters are partitions of one GPU, which counts as a
//!   whole.
//! - Whole devices at one PCI address are one GPU: a driver may offer it for passthrough too.
//!
//! The newest generation of a pool counts, once all its slices are there, as the API asks of
//! schedulers.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use bursar_core::pricing::{
    PricingAttributes, is_gpu, is_gpu_driver, is_offered_again_as, is_same_vendor,
    is_unknown_accelerator, vendor,
};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::{Device, DeviceCounterConsumption, ResourceSlice};
use kube::ResourceExt;

use crate::quantities;

const PRODUCT: &str = "productName";
/// The MIG profile of a part of a GPU.
const PROFILE: &str = "profile";
/// The GPU that a part is of.
const PARENT: &str = "parentUUID";
/// Kubernetes' own attribute.
const ADDRESS: &str = "resource.kubernetes.io/pciBusID";

/// More units of a resource than this are none that a node has.
const MAX_UNITS: u32 = 1_000_000;

/// GPUs of one kind that a node offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuOffer {
    /// The extended resource; of devices the driver, and the product and profile that they say,
    /// joined by `/`.
    pub name: String,
    /// The attributes that all of them are priced by, without cores and memory.
    pub attributes: PricingAttributes,
}

/// The GPUs that a node offers; none while a pool of its devices is not complete, because they are
/// not known then.
pub fn gpu_offers(node: &Node, pools: &DevicePools<'_>) -> Vec<GpuOffer> {
    let name = node.name_any();
    let extended = extended_offers(node);
    let is_twice = |driver: &str| {
        extended
            .iter()
            .any(|offer| is_same_vendor(&offer.name, driver))
    };
    let Some(devices) = pools.offered(&name, is_twice) else {
        return Vec::new();
    };
    let devices = devices.into_iter().map(|(kind, count)| GpuOffer {
        name: kind.name(),
        attributes: kind.describe(describe(node, &kind.driver, count)),
    });
    let devices: Vec<GpuOffer> = devices.collect();
    extended.into_iter().chain(devices).collect()
}

/// The attributes of a pod that holds an extended resource of the node. Where the node offers its
/// GPUs under several names, the pod's part is that of all of them.
pub fn on_node(attributes: PricingAttributes, node: &Node) -> PricingAttributes {
    let resource = attributes.resource.clone();
    let offered = extended_offers(node)
        .into_iter()
        .find(|offer| offer.name == resource);
    let count = capacity(node, &resource);
    let on_node = attributes.on_node(&node.name_any(), count, node.labels());
    match offered {
        Some(GpuOffer { attributes, .. }) => PricingAttributes {
            all_gpus: attributes.all_gpus,
            share: attributes.share,
            ..on_node
        },
        None => on_node,
    }
}

fn describe(node: &Node, resource: &str, count: u32) -> PricingAttributes {
    let units = PricingAttributes {
        resource: resource.to_owned(),
        gpus: count,
        ..PricingAttributes::default()
    };
    units.on_node(&node.name_any(), count, node.labels())
}

fn capacity(node: &Node, resource: &str) -> u32 {
    let status = node.status.as_ref();
    let capacity = status.and_then(|status| status.capacity.as_ref());
    let count = capacity.and_then(|capacity| capacity.get(resource));
    let count = count.and_then(|count| quantities::count(count).ok());
    count.unwrap_or(0).min(MAX_UNITS)
}

/// The extended resources of a node that are GPUs, each GPU once.
///
/// - A name that other names of the same accelerators go with (`neuroncore` with `neuron`) is left
///   out.
/// - So is a resource that the node no longer lets pods have while it lets them have another one of
///   the vendor: it is what another layout left behind. Where none of them can be had, the device
///   plugin is down, and all count.
/// - Where the node offers several resources of a vendor, each says how many GPUs all of them would
///   make, so that together they are never more than the node.
fn extended_offers(node: &Node) -> Vec<GpuOffer> {
    let counts: BTreeMap<&str, u32> = (node.status.iter())
        .flat_map(|status| status.capacity.iter().flatten())
        .filter(|(resource, _)| is_gpu(resource))
        .map(|(resource, _)| (resource.as_str(), capacity(node, resource)))
        .filter(|(_, count)| *count > 0)
        .collect();
    let can_be_had = |resource: &str| {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref())?;
        let count = allocatable.get(resource);
        Some(count.is_some_and(|count| quantities::count(count).is_ok_and(|count| count > 0)))
    };
    let is_stale = |resource: &str| {
        let mut others = counts
            .keys()
            .filter(|other| vendor(other) == vendor(resource));
        can_be_had(resource) == Some(false) && others.any(|other| can_be_had(other) == Some(true))
    };
    let is_again = |resource: &str| {
        let mut others = counts.keys().filter(|other| !is_stale(other));
        others.any(|other| is_offered_again_as(other, resource))
    };
    let offered = counts
        .iter()
        .filter(|(resource, _)| !is_stale(resource) && !is_again(resource));
    let offers: Vec<GpuOffer> = offered
        .map(|(resource, count)| GpuOffer {
            name: (*resource).to_owned(),
            attributes: describe(node, resource, *count),
        })
        .collect();
    together(offers, node.labels())
}

/// Offers that know of one another.
fn together(offers: Vec<GpuOffer>, labels: &BTreeMap<String, String>) -> Vec<GpuOffer> {
    let mut of_vendor: BTreeMap<String, Vec<GpuOffer>> = BTreeMap::new();
    for offer in offers {
        let vendor = vendor(&offer.name).to_owned();
        of_vendor.entry(vendor).or_default().push(offer);
    }
    let joined = of_vendor.into_values().flat_map(|offers| {
        let (names, attributes): (Vec<String>, Vec<PricingAttributes>) = offers
            .into_iter()
            .map(|offer| (offer.name, offer.attributes))
            .unzip();
        let joined = PricingAttributes::sharing_a_node(&attributes, labels);
        let named = names.into_iter().zip(joined);
        named.map(|(name, attributes)| GpuOffer { name, attributes })
    });
    joined.collect()
}

/// The extended resources of a node that look like accelerators and that no rule knows: pods that
/// hold them are charged nothing for them.
pub fn unknown_accelerators(node: &Node) -> Vec<&str> {
    let status = node.status.iter();
    let capacity = status.flat_map(|status| status.capacity.iter().flatten());
    let unknown = capacity.filter(|(resource, count)| {
        is_unknown_accelerator(resource) && quantities::count(count).is_ok_and(|count| count > 0)
    });
    unknown.map(|(resource, _)| resource.as_str()).collect()
}

/// Devices of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceModel {
    /// Their driver.
    pub driver: String,
    /// The product's name, and the MIG profile of a part of it, where the device says them.
    product: Option<String>,
    profile: Option<String>,
    /// How many physical GPUs the driver has where it is from.
    of: u32,
}

impl DeviceModel {
    /// The attributes of a pod that holds these devices: those of the devices take precedence over
    /// the node's labels.
    pub fn describe(&self, facts: PricingAttributes) -> PricingAttributes {
        let facts = facts.with_product(self.product.as_deref(), self.profile.as_deref());
        // parts of a device that are not there to be counted
        let parts =
            u64::from(self.of) * u64::from(facts.share.whole) / u64::from(facts.share.part.max(1));
        PricingAttributes {
            node_gpus: u32::try_from(parts).unwrap_or(u32::MAX),
            ..facts
        }
    }

    fn name(&self) -> String {
        let said = self.product.iter().chain(&self.profile);
        let names: Vec<&str> = [&self.driver]
            .into_iter()
            .chain(said)
            .map(String::as_str)
            .collect();
        names.join("/").replace(' ', "-")
    }
}

/// The pools of GPUs that slices make.
#[derive(Debug, Default)]
pub struct DevicePools<'a> {
    /// By driver and name.
    pools: BTreeMap<(&'a str, &'a str), Pool<'a>>,
    by_node: BTreeMap<&'a str, Vec<(&'a str, &'a str)>>,
}

impl<'a> DevicePools<'a> {
    /// The pools of these slices. Devices of drivers that are no GPUs are left out.
    pub fn from_slices(slices: impl IntoIterator<Item = &'a ResourceSlice>) -> Self {
        let mut of_pools: BTreeMap<_, Vec<&ResourceSlice>> = BTreeMap::new();
        for slice in slices {
            let spec = &slice.spec;
            if is_gpu_driver(&spec.driver) {
                let key = (spec.driver.as_str(), spec.pool.name.as_str());
                of_pools.entry(key).or_default().push(slice);
            }
        }
        let mut pools = Self::default();
        for (key, slices) in of_pools {
            let pool = Pool::of(slices);
            if let Some(node) = pool.node {
                pools.by_node.entry(node).or_default().push(key);
            }
            pools.pools.insert(key, pool);
        }
        pools
    }

    /// The kind of an allocated device.
    pub fn model_of(&self, driver: &str, pool: &str, device: &str) -> DeviceModel {
        let Some(found) = self.pools.get(&(driver, pool)) else {
            return DeviceModel {
                driver: driver.to_owned(),
                ..DeviceModel::default()
            };
        };
        let of = match found.node {
            Some(node) => self.physical_on(node, driver),
            None => found.physical(driver).len(),
        };
        kind(driver, found.devices().get(device).copied(), of)
    }

    /// The devices that a node offers, but those of drivers that are left `out`; `None` while a
    /// pool of them is not complete.
    fn offered(
        &self,
        node: &str,
        out: impl Fn(&str) -> bool,
    ) -> Option<BTreeMap<DeviceModel, u32>> {
        let mut offered = BTreeMap::new();
        for (driver, pool) in self.pools_on(node).filter(|(driver, _)| !out(driver)) {
            if !pool.is_complete {
                return None;
            }
            let of = self.physical_on(node, driver);
            let mut seen = BTreeSet::new();
            for device in pool.devices().into_values() {
                if is_fixed_part(device, driver) || seen.insert(physical(device, driver)) {
                    *offered.entry(kind_offered(driver, device, of)).or_default() += 1;
                }
            }
        }
        Some(offered)
    }

    fn pools_on(&self, node: &str) -> impl Iterator<Item = (&'a str, &Pool<'a>)> {
        let keys = self.by_node.get(node).into_iter().flatten();
        keys.filter_map(|key| Some((key.0, self.pools.get(key)?)))
    }

    /// How many physical GPUs a driver has on a node.
    fn physical_on(&self, node: &str, driver: &str) -> usize {
        let pools = self.pools_on(node).filter(|(each, _)| *each == driver);
        pools.map(|(_, pool)| pool.physical(driver).len()).sum()
    }
}

#[derive(Debug)]
struct Pool<'a> {
    /// `None` for devices that are not one node's.
    node: Option<&'a str>,
    is_complete: bool,
    /// The oldest first.
    slices: Vec<&'a ResourceSlice>,
}

impl<'a> Pool<'a> {
    fn of(mut slices: Vec<&'a ResourceSlice>) -> Self {
        let generation = |slice: &&ResourceSlice| slice.spec.pool.generation;
        let newest = slices.iter().map(generation).max();
        let is_current = |slice: &&ResourceSlice| Some(generation(slice)) == newest;
        let current: Vec<_> = slices.iter().copied().filter(is_current).collect();
        let count = i64::try_from(current.len()).unwrap_or(i64::MAX);
        let is_complete =
            (current.iter()).all(|slice| slice.spec.pool.resource_slice_count == count);
        // until it is complete, what is allocated may be in an older one alone
        slices.sort_by_key(generation);
        let slices = if is_complete { current } else { slices };
        Self {
            node: slices
                .iter()
                .find_map(|slice| slice.spec.node_name.as_deref()),
            is_complete,
            slices,
        }
    }

    fn devices(&self) -> BTreeMap<&'a str, &'a Device> {
        let devices = self
            .slices
            .iter()
            .flat_map(|slice| slice.spec.devices.iter().flatten());
        devices
            .map(|device| (device.name.as_str(), device))
            .collect()
    }

    fn physical(&self, driver: &str) -> BTreeSet<&'a str> {
        let devices = self.devices().into_values();
        devices
            .filter_map(|device| physical(device, driver))
            .collect()
    }
}

/// The identity of the physical GPU behind a device; `None` if the device does not have it.
fn physical<'d>(device: &'d Device, driver: &str) -> Option<&'d str> {
    if let Some(counters) = counters(device) {
        Some(counters)
    } else if attribute(device, driver, PROFILE).is_some() {
        attribute(device, driver, PARENT)
    } else {
        attribute(device, driver, ADDRESS).or(Some(&device.name))
    }
}

/// The counters that a device shares with others.
fn counters(device: &Device) -> Option<&str> {
    let consumed = device.consumes_counters.as_ref()?.first()?;
    Some(&consumed.counter_set)
}

/// A permanent part of a GPU; the whole GPU is not offered in addition.
fn is_fixed_part(device: &Device, driver: &str) -> bool {
    counters(device).is_none() && attribute(device, driver, PROFILE).is_some()
}

fn kind(driver: &str, device: Option<&Device>, of: usize) -> DeviceModel {
    let said = |name: &str| Some(attribute(device?, driver, name)?.to_owned());
    DeviceModel {
        driver: driver.to_owned(),
        product: said(PRODUCT),
        profile: said(PROFILE),
        of: u32::try_from(of).unwrap_or(u32::MAX),
    }
}

/// The GPU that is offered, from one device of several that may be a partition of it.
fn kind_offered(driver: &str, device: &Device, of: usize) -> DeviceModel {
    let kind = kind(driver, Some(device), of);
    let profile = kind.profile.filter(|_| counters(device).is_none());
    DeviceModel { profile, ..kind }
}

/// A device's attribute. A name without a domain is in the driver's.
fn attribute<'d>(device: &'d Device, driver: &str, name: &str) -> Option<&'d str> {
    let attributes = device.attributes.as_ref()?;
    let value = attributes
        .get(name)
        .or_else(|| attributes.get(&format!("{driver}/{name}")))?;
    value.string.as_deref().filter(|text| !text.is_empty())
}

/// A device with what is read of it alone: what it can do is long.
pub fn pruned(device: &mut Device) -> Device {
    let mut attributes = device.attributes.take().unwrap_or_default();
    attributes.retain(|attribute, _| {
        let name = attribute.rsplit('/').next().unwrap_or_default();
        attribute == ADDRESS || [PRODUCT, PROFILE, PARENT].contains(&name)
    });
    let sets = device.consumes_counters.take().map(|consumed| {
        let sets = consumed
            .into_iter()
            .map(|consumed| DeviceCounterConsumption {
                counter_set: consumed.counter_set,
                ..DeviceCounterConsumption::default()
            });
        sets.collect()
    });
    Device {
        name: mem::take(&mut device.name),
        attributes: Some(attributes),
        consumes_counters: sets,
        ..Device::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const PRODUCT_LABEL: &str = "nvidia.com/gpu.product";

    fn node(capacity: Value) -> Node {
        let labels = json!({PRODUCT_LABEL: "H100", "node.kubernetes.io/instance-type": "p5"});
        let node =
            json!({"metadata": {"name": "n", "labels": labels}, "status": {"capacity": capacity}});
        serde_json::from_value(node).unwrap()
    }

    fn slice(driver: &str, generation: i64, count: i64, devices: Value) -> ResourceSlice {
        let pool = json!({"name": "n", "generation": generation, "resourceSliceCount": count});
        let spec = json!({"driver": driver, "nodeName": "n", "pool": pool, "devices": devices});
        let mut slice: ResourceSlice =
            serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
        slice
            .spec
            .devices
            .iter_mut()
            .flatten()
            .for_each(|device| *device = pruned(device));
        slice
    }

    fn device(name: &str, attributes: &[(&str, &str)], counters: Option<&str>) -> Value {
        let attributes = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!({"string": value})));
        let attributes: serde_json::Map<String, Value> = attributes.collect();
        let consumes = counters
            .map(|set| json!([{"counterSet": set, "counters": {"memory": {"value": "1"}}}]));
        json!({"name": name, "attributes": attributes, "consumesCounters": consumes})
    }

    fn gpu(name: &str) -> Value {
        device(name, &[("productName", "NVIDIA H200")], None)
    }

    /// `what`, how many, of how many on the node.
    fn offered(node: &Node, slices: &[ResourceSlice]) -> Vec<(String, u32, u32)> {
        let offers = gpu_offers(node, &DevicePools::from_slices(slices));
        let told = offers.into_iter().map(|offer| {
            (
                offer.name,
                offer.attributes.gpus,
                offer.attributes.node_gpus,
            )
        });
        told.collect()
    }

    fn told(what: &str, gpus: u32, of: u32) -> (String, u32, u32) {
        (what.to_owned(), gpus, of)
    }

    const DRIVER: &str = "gpu.nvidia.com";
    const H200: &str = "gpu.nvidia.com/NVIDIA-H200";

    #[test]
    fn devices_of_gpu_drivers_are_offered_and_other_devices_are_not() {
        let slices = [
            slice(DRIVER, 1, 2, json!([gpu("gpu-0")])),
            slice(DRIVER, 1, 2, json!([gpu("gpu-1")])),
            slice("dra.example.com", 1, 1, json!([gpu("nic-0")])),
            slice("gpu.amd.com", 1, 1, json!([device("gpu-0", &[], None)])),
        ];
        let found = offered(&node(json!({"cpu": "8"})), &slices);
        assert_eq!(found, [told("gpu.amd.com", 1, 1), told(H200, 2, 2)]);
        let facts = &gpu_offers(&node(json!({})), &DevicePools::from_slices(&slices))[1].attributes;
        let said = (facts.model.as_deref(), facts.instance_type.as_deref());
        assert_eq!(said, (Some("NVIDIA-H200"), Some("p5")));
        let mut other = node(json!({}));
        other.metadata.name = Some("other".into());
        assert_eq!(offered(&other, &slices), []);
    }

    #[test]
    fn of_a_pool_the_newest_generation_counts_once_it_is_complete() {
        let node = node(json!({}));
        let old = slice(DRIVER, 1, 1, json!([gpu("gpu-0"), gpu("gpu-1")]));
        let new = slice(DRIVER, 2, 2, json!([gpu("gpu-0")]));
        let rest = slice(DRIVER, 2, 2, json!([gpu("gpu-2"), gpu("gpu-3")]));
        let partly = [old.clone(), new.clone()];
        assert_eq!(offered(&node, &partly), [], "nobody knows what it has");
        let allocated = DevicePools::from_slices(&partly).model_of(DRIVER, "n", "gpu-1");
        assert_eq!(allocated.name(), H200, "it is in the older one alone");
        assert_eq!(offered(&node, &[new, old, rest]), [told(H200, 3, 3)]);
    }

    #[test]
    fn a_gpu_that_is_an_extended_resource_too_counts_once() {
        let slices = [
            slice(DRIVER, 1, 1, json!([gpu("gpu-0"), gpu("gpu-1")])),
            slice("gpu.amd.com", 1, 2, json!([gpu("gpu-0")])),
        ];
        // that AMD's pool is not complete concerns nobody where its GPUs are counted already
        let both = json!({"nvidia.com/mig-1g.10gb": "14", "amd.com/gpu": "1"});
        let extended = [
            told("amd.com/gpu", 1, 1),
            told("nvidia.com/mig-1g.10gb", 14, 14),
        ];
        assert_eq!(offered(&node(both), &slices), extended);
        let plugin_is_gone = node(json!({"nvidia.com/gpu": "0"}));
        assert_eq!(offered(&plugin_is_gone, &slices[..1]), [told(H200, 2, 2)]);
    }

    #[test]
    fn a_gpu_that_can_be_cut_in_many_ways_counts_once_and_fixed_parts_count_each() {
        let said = |profile: &'static str| {
            [
                ("productName", "NVIDIA H200"),
                ("profile", profile),
                ("parentUUID", "GPU-3"),
            ]
        };
        let whole = [
            ("productName", "NVIDIA H200"),
            ("resource.kubernetes.io/pciBusID", "0000:01:00.0"),
        ];
        let devices = json!([
            // partitionable: the whole GPU and cuts of it, and one of which cuts alone are
            // announced
            device("gpu-0", &whole, Some("gpu-0-counters")),
            device("gpu-0-a", &said("1g.18gb"), Some("gpu-0-counters")),
            device("gpu-0-b", &said("3g.71gb"), Some("gpu-0-counters")),
            device("gpu-1-a", &said("1g.18gb"), Some("gpu-1-counters")),
            device("gpu-1-b", &said("1g.18gb"), Some("gpu-1-counters")),
            // for passthrough too
            device(
                "gpu-2",
                &[
                    whole[0],
                    ("resource.kubernetes.io/pciBusID", "0000:02:00.0")
                ],
                None
            ),
            device(
                "gpu-vfio-2",
                &[
                    whole[0],
                    ("resource.kubernetes.io/pciBusID", "0000:02:00.0")
                ],
                None
            ),
            // a fixed layout
            device("gpu-3-a", &said("3g.71gb"), None),
            device("gpu-3-b", &said("3g.71gb"), None),
        ]);
        let slices = [slice(DRIVER, 1, 1, devices)];
        let found = offered(&node(json!({})), &slices);
        let parts = "gpu.nvidia.com/NVIDIA-H200/3g.71gb";
        assert_eq!(
            found,
            [told(H200, 3, 4), told(parts, 2, 9)],
            "four GPUs: 4 x 7/3 parts"
        );
        let pools = DevicePools::from_slices(&slices);
        let cut = pools
            .model_of(DRIVER, "n", "gpu-0-a")
            .describe(PricingAttributes::default());
        assert_eq!(
            (cut.share.part, cut.share.whole, cut.node_gpus),
            (1, 7, 28),
            "who holds a cut pays for it alone"
        );
    }
}
