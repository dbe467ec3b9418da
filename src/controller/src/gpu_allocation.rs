//! The GPUs and volumes that pods hold, by their specs and by claims: persistent volumes, and
//! devices of dynamic resource allocation. A device or volume that several pods use is charged to
//! the pod that was bound first, of those that can use it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bursar_api::gpu_inventory::{self, DeviceModel, DevicePools};
use bursar_api::quantities;
use bursar_core::ledger::Uid;
use bursar_core::model::Key;
use bursar_core::pricing::{PricingAttributes, is_gpu_driver};
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, PodSpec, Volume};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use kube::runtime::reflector::Store;

use crate::cache::{Stores, cached};
use crate::pod;
use crate::pod_resources;
use crate::resource_claim::{self, can_be_used_by};

/// Gibibytes by storage class.
type Volumes = BTreeMap<String, u32>;

/// Adds gibibytes of a storage class, of which users may ask for any number.
fn add_volume(volumes: &mut Volumes, class: String, gib: u32) {
    let sum = volumes.entry(class).or_default();
    *sum = sum.saturating_add(gib);
}

/// The GPUs that a pod holds.
#[derive(Clone, Debug)]
struct Gpus {
    resource: String,
    count: u32,
    /// The model that the devices report; extended resources report none.
    kind: Option<DeviceModel>,
}

/// How many devices of each driver the open charges of pods have: none for one that has none.
pub(crate) type ChargedDevices = BTreeMap<Uid, BTreeMap<String, u32>>;

/// The devices among the units that an open charge has, by driver.
pub(crate) fn charged_devices<'u>(
    units: impl IntoIterator<Item = (&'u str, u32)>,
) -> BTreeMap<String, u32> {
    let mut devices = BTreeMap::new();
    for (driver, count) in units.into_iter().filter(|(name, _)| is_gpu_driver(name)) {
        *devices.entry(driver.to_owned()).or_default() += count;
    }
    devices
}

/// The GPUs and volumes that the pods of a namespace are charged for.
#[derive(Debug, Default)]
pub(crate) struct GpuAllocations {
    held: BTreeMap<Uid, (Vec<Gpus>, Volumes)>,
    /// Pods of which some device is charged to another pod.
    sharing: BTreeSet<Uid>,
    /// Persistent volume claims that are charged to a pod.
    borne: BTreeSet<String>,
}

impl GpuAllocations {
    /// The GPUs and volumes that these pods of one namespace are charged for. Devices that several of
    /// them use stay with the pod whose charge in `open` has them.
    pub(crate) fn new(stores: &Stores, pods: &[Arc<Pod>], open: &ChargedDevices) -> Self {
        let mut here: Vec<&Pod> = pods.iter().map(AsRef::as_ref).collect();
        let first = |pod: &Pod| (pod::bound_at(pod), pod::uid(pod).to_owned());
        here.sort_by_cached_key(|pod| (pod::is_terminal(pod), first(pod)));
        let mut claims = Self::default();
        let slices = slices(stores, &here);
        let devices = Devices {
            claims: &stores.device_claims,
            pools: DevicePools::from_slices(slices.iter().map(AsRef::as_ref)),
        };
        let owners = devices.owners(&here, open);
        for pod in &here {
            let is_owned =
                |claim: &str| owners.get(claim).is_none_or(|owner| owner == pod::uid(pod));
            let (kinds, is_elsewhere) = devices.held(pod, is_owned);
            if is_elsewhere {
                claims.sharing.insert(pod::uid(pod).to_owned());
            }
            let gpus = all_gpus(stores, pod, kinds);
            if !gpus.is_empty() {
                let entry = (gpus, Volumes::new());
                claims.held.insert(pod::uid(pod).to_owned(), entry);
            }
        }
        here.retain(|pod| pod::bound_at(pod).is_some() && !pod::is_terminal(pod));
        here.sort_by_cached_key(|pod| first(pod));
        for pod in here {
            let Some((_, volumes)) = claims.held.get_mut(pod::uid(pod)) else {
                continue;
            };
            for name in volume_claims_of(pod) {
                if !claims.borne.insert(name.clone()) {
                    continue;
                }
                let claim = find(&stores.volume_claims, pod, &name);
                let provisioned = claim.as_deref().and_then(|claim| gib(claim, false));
                if let Some((class, gib)) = provisioned {
                    add_volume(volumes, class, gib);
                }
            }
        }
        claims
    }

    /// Of no pod, where these volume claims are charged to pods.
    pub(crate) fn of_nobody(charged_volumes: impl Iterator<Item = String>) -> Self {
        Self {
            borne: charged_volumes.collect(),
            ..Self::default()
        }
    }

    /// Of one pod that is charged for these device claims, where these volume claims are charged to
    /// pods. `slices` describe its devices.
    pub(crate) fn of_pod(
        stores: &Stores,
        pod: &Pod,
        owned: &BTreeSet<String>,
        charged_volumes: impl Iterator<Item = String>,
        slices: &[Arc<ResourceSlice>],
    ) -> Self {
        let devices = Devices {
            claims: &stores.device_claims,
            pools: DevicePools::from_slices(slices.iter().map(AsRef::as_ref)),
        };
        let (kinds, is_elsewhere) = devices.held(pod, |claim| owned.contains(claim));
        let mut all = Self::of_nobody(charged_volumes);
        if is_elsewhere {
            all.sharing.insert(pod::uid(pod).to_owned());
        }
        let gpus = all_gpus(stores, pod, kinds);
        if !gpus.is_empty() {
            let entry = (gpus, Volumes::new());
            all.held.insert(pod::uid(pod).to_owned(), entry);
        }
        all
    }

    /// Whether the pod holds GPUs that it is charged for itself.
    pub(crate) fn holds_gpus(&self, pod: &Pod) -> bool {
        self.held.contains_key(pod::uid(pod))
    }

    /// Whether the pod uses devices that are charged to another pod.
    pub(crate) fn shares_devices(&self, pod: &Pod) -> bool {
        self.sharing.contains(pod::uid(pod))
    }

    /// Whether any pod does.
    pub(crate) fn has_shared_devices(&self) -> bool {
        !self.sharing.is_empty()
    }

    /// The pods of which all devices are charged to other pods.
    pub(crate) fn without_own(&self) -> impl Iterator<Item = &Uid> {
        let sharing = self.sharing.iter();
        sharing.filter(|uid| !self.held.contains_key(*uid))
    }

    /// The attributes that price the pod, on its node if that is known. `None` without GPUs.
    pub(crate) fn attributes(&self, pod: &Pod, node: Option<&Node>) -> Option<PricingAttributes> {
        let (gpus, volumes) = self.held.get(pod::uid(pod))?;
        let mut kinds = gpus.iter().map(|gpus| gpus.attributes(node));
        let most = PricingAttributes {
            amounts: pod::amounts(&pod_resources::allocated(pod), volumes.clone()),
            ..kinds.next()?
        };
        Some(most.with_other_gpus(kinds))
    }

    /// The attributes that price a pod of this spec before it has a node; `pod` where there is one
    /// already. Only volumes that are charged to no pod count. `None` without GPUs.
    pub(crate) fn planned(
        &self,
        stores: &Stores,
        namespace: &str,
        spec: &PodSpec,
        pod: Option<&Pod>,
    ) -> Option<PricingAttributes> {
        let kinds = pod::gpus_of(spec).into_iter();
        let kinds =
            kinds.filter(|(resource, _)| pod.is_none_or(|pod| may_get(stores, pod, resource)));
        let mut kinds = kinds.map(|(resource, gpus)| {
            let attributes = PricingAttributes::default();
            PricingAttributes {
                resource,
                gpus,
                ..attributes
            }
        });
        let most = kinds.next()?;
        let mut volumes = Volumes::new();
        let of_pod = pod.map(|pod| pod.name_any());
        for (name, template) in claims_of(spec, of_pod.as_deref()) {
            if name.as_ref().is_some_and(|name| self.borne.contains(name)) {
                continue;
            }
            let claim =
                name.and_then(|name| cached(&stores.volume_claims, &Key::new(namespace, &name)));
            let size = match (claim, template) {
                (Some(claim), _) => gib(&claim, true),
                (None, Some(template)) => gib(&template, true),
                (None, None) => None,
            };
            if let Some((class, gib)) = size {
                add_volume(&mut volumes, class, gib);
            }
        }
        let most = PricingAttributes {
            amounts: pod::amounts(&pod_resources::requests(spec), volumes),
            ..most
        };
        Some(most.with_other_gpus(kinds))
    }
}

fn find<K>(store: &Store<K>, pod: &Pod, name: &str) -> Option<Arc<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    let namespace = pod.namespace().unwrap_or_default();
    cached(store, &Key::new(&namespace, name))
}

/// The volume claims of a spec by name, with the templates of generic ephemeral volumes, which are
/// created with the pod and named after it.
fn claims_of<'a>(
    spec: &'a PodSpec,
    pod: Option<&'a str>,
) -> impl Iterator<Item = (Option<String>, Option<PersistentVolumeClaim>)> + 'a {
    let claim = move |volume: &Volume| {
        if let Some(claim) = &volume.persistent_volume_claim {
            return Some((Some(claim.claim_name.clone()), None));
        }
        let template = volume.ephemeral.as_ref()?.volume_claim_template.clone()?;
        let made = PersistentVolumeClaim {
            spec: Some(template.spec),
            ..PersistentVolumeClaim::default()
        };
        Some((pod.map(|pod| format!("{pod}-{}", volume.name)), Some(made)))
    };
    spec.volumes.iter().flatten().filter_map(claim)
}

/// The names of the ResourceClaims that a pod uses, those included that were made for it.
pub(crate) fn device_claims_of(pod: &Pod) -> BTreeSet<String> {
    let (spec, status) = (pod.spec.as_ref(), pod.status.as_ref());
    let wanted = spec
        .iter()
        .flat_map(|spec| spec.resource_claims.iter().flatten());
    let made = status.and_then(|status| status.resource_claim_statuses.as_ref());
    let made: BTreeMap<&str, Option<&String>> = made
        .into_iter()
        .flatten()
        .map(|made| (made.name.as_str(), made.resource_claim_name.as_ref()))
        .collect();
    let name_of = |claim: &k8s_openapi::api::core::v1::PodResourceClaim| {
        let made = || made.get(claim.name.as_str()).copied().flatten();
        claim.resource_claim_name.as_ref().or_else(made).cloned()
    };
    let of_extended = status.and_then(|status| status.extended_resource_claim_status.as_ref());
    let of_extended = of_extended.map(|made| made.resource_claim_name.clone());
    // two entries may name the same claim
    wanted.filter_map(name_of).chain(of_extended).collect()
}

/// The names of the volume claims that a pod uses.
pub(crate) fn volume_claims_of(pod: &Pod) -> Vec<String> {
    let spec = pod.spec.iter();
    let name = pod.name_any();
    spec.flat_map(|spec| volume_claims(spec, Some(&name)))
        .collect()
}

/// The names of the volume claims of a spec, with those that are made for the pod of this name.
pub(crate) fn volume_claims<'a>(
    spec: &'a PodSpec,
    pod: Option<&'a str>,
) -> impl Iterator<Item = String> + 'a {
    claims_of(spec, pod).filter_map(|(name, _)| name)
}

/// A claim's storage class, and its gibibytes rounded up. A claim that is not provisioned yet has
/// those that it requests, if `planned`.
fn gib(claim: &PersistentVolumeClaim, planned: bool) -> Option<(String, u32)> {
    let spec = claim.spec.as_ref()?;
    let amount = |amounts: Option<&BTreeMap<String, Quantity>>| {
        amounts
            .and_then(|amounts| amounts.get("storage"))
            .and_then(|amount| quantities::gibibytes(amount).ok())
    };
    let has = amount(
        claim
            .status
            .as_ref()
            .and_then(|status| status.capacity.as_ref()),
    );
    let asks = || {
        let asked = spec.resources.as_ref().filter(|_| planned)?;
        amount(asked.requests.as_ref())
    };
    let gib = has.or_else(asks)?;
    let class = spec.storage_class_name.clone()?;
    Some((class, gib))
}

impl Gpus {
    /// What prices them, on the node if that is known.
    fn attributes(&self, node: Option<&Node>) -> PricingAttributes {
        let attributes = PricingAttributes {
            resource: self.resource.clone(),
            gpus: self.count,
            ..PricingAttributes::default()
        };
        let attributes = match node {
            Some(node) => gpu_inventory::on_node(attributes, node),
            None => attributes,
        };
        match &self.kind {
            Some(kind) => kind.describe(attributes),
            None => attributes,
        }
    }
}

/// Whether the pod's node has units of this resource, as far as it is known. A kubelet admits a pod that was
/// bound to it by `nodeName` without the resources that its node does not list, so the pod runs and holds
/// none of them. A resource whose plugin is away is listed with zero units.
fn may_get(stores: &Stores, pod: &Pod, resource: &str) -> bool {
    let Some(name) = pod::node_name(pod) else {
        return true;
    };
    let node = cached(&stores.nodes, &Key::new("", name));
    let Some(status) = node.as_ref().and_then(|node| node.status.as_ref()) else {
        // no kubelet has admitted one that names a node that there is not
        return pod::has_started(pod);
    };
    let mut listed = [&status.capacity, &status.allocatable]
        .into_iter()
        .flatten();
    listed.any(|amounts| amounts.contains_key(resource))
}

/// The GPUs that the pod holds, of each kind, the highest count first.
fn all_gpus(stores: &Stores, pod: &Pod, by_claims: BTreeMap<DeviceModel, u32>) -> Vec<Gpus> {
    let extended = pod::gpus(pod).into_iter();
    let extended = extended
        .filter(|(resource, _)| !is_by_claim(pod, resource) && may_get(stores, pod, resource));
    let extended = extended.map(|(resource, count)| Gpus {
        resource,
        count,
        kind: None,
    });
    let devices = by_claims.into_iter().map(|(kind, count)| Gpus {
        resource: kind.driver.clone(),
        count,
        kind: Some(kind),
    });
    let mut all: Vec<Gpus> = devices.chain(extended).collect();
    all.sort_by_key(|gpus| Reverse(gpus.count));
    all
}

/// A pod, and its claims that hold GPUs, by name.
type PodClaims<'a> = (&'a Pod, Vec<Arc<ResourceClaim>>);

/// The device claims of pods, and the models of the devices.
struct Devices<'a> {
    claims: &'a Store<ResourceClaim>,
    pools: DevicePools<'a>,
}

/// The slices that describe the pods' devices; none where no pod has any.
fn slices(stores: &Stores, pods: &[&Pod]) -> Vec<Arc<ResourceSlice>> {
    if pods.iter().any(|pod| pod::may_hold_devices(pod)) {
        stores.device_slices.state()
    } else {
        Vec::new()
    }
}

/// Whether the pod's extended resource is devices: the scheduler created a claim for it
/// (`DRAExtendedResource`).
fn is_by_claim(pod: &Pod, resource: &str) -> bool {
    let status = pod.status.as_ref();
    let made = status.and_then(|status| status.extended_resource_claim_status.as_ref());
    let mut mapped = made.into_iter().flat_map(|made| &made.request_mappings);
    mapped.any(|mapping| mapping.resource_name == resource)
}

impl Devices<'_> {
    /// The pod's claims that hold GPUs; none before the pod has a node.
    fn gpu_claims_of(&self, pod: &Pod) -> Vec<Arc<ResourceClaim>> {
        if pod::node_name(pod).is_none() {
            return Vec::new();
        }
        let names = device_claims_of(pod);
        let claims = names.iter().filter_map(|name| find(self.claims, pod, name));
        claims
            .filter(|claim| resource_claim::holds_gpus(claim))
            .collect()
    }

    /// The pod that each claim is charged to. Pods that can use its devices precede those that cannot, and pods that
    /// have not ended those that have. Of each, what an open charge has stays with it; the rest is charged to the
    /// pod that was bound first. `pods` are in that order.
    fn owners(&self, pods: &[&Pod], open: &ChargedDevices) -> BTreeMap<String, Uid> {
        let with_claims = pods.iter().map(|pod| (*pod, self.gpu_claims_of(pod)));
        let with_claims: Vec<PodClaims<'_>> = with_claims
            .filter(|(_, claims)| !claims.is_empty())
            .collect();
        let mut owners: BTreeMap<String, Uid> = BTreeMap::new();
        for (can_use, has_ended) in [(true, false), (true, true), (false, false), (false, true)] {
            let of_stage = with_claims
                .iter()
                .filter(|(pod, _)| pod::is_terminal(pod) == has_ended);
            let of_stage = of_stage.map(|(pod, claims)| {
                let is_meant = |claim: &&Arc<ResourceClaim>| can_be_used_by(claim, pod) == can_use;
                (*pod, claims.iter().filter(is_meant).cloned().collect())
            });
            let stage: Vec<PodClaims<'_>> = of_stage.collect();
            keep_charged(&mut owners, &stage, open);
            for (pod, claims) in &stage {
                for claim in claims {
                    let owner = owners.entry(claim.name_any());
                    owner.or_insert_with(|| pod::uid(pod).to_owned());
                }
            }
        }
        owners
    }

    /// The devices of those of the pod's claims that are charged to it, and whether some are charged to
    /// another pod.
    fn held(
        &self,
        pod: &Pod,
        is_owned: impl Fn(&str) -> bool,
    ) -> (BTreeMap<DeviceModel, u32>, bool) {
        let mut kinds = BTreeMap::new();
        let mut elsewhere = false;
        for claim in self.gpu_claims_of(pod) {
            if !is_owned(&claim.name_any()) {
                elsewhere = true;
                continue;
            }
            for (driver, pool, device) in resource_claim::allocated_gpus(&claim) {
                *kinds
                    .entry(self.pools.model_of(driver, pool, device))
                    .or_default() += 1;
            }
        }
        (kinds, elsewhere)
    }
}

/// Leaves to each of these pods the claims whose devices its open charge has. A charge says how many
/// it has and not which, so those come first that fewer other pods may be charged for.
fn keep_charged(owners: &mut BTreeMap<String, Uid>, pods: &[PodClaims<'_>], open: &ChargedDevices) {
    let mut users: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for (pod, claims) in pods {
        let is_charged = open.get(pod::uid(pod)).is_some_and(|all| !all.is_empty());
        for claim in claims {
            let (charged, all) = users.entry(claim.name_any()).or_default();
            *charged += u32::from(is_charged);
            *all += 1;
        }
    }
    for (pod, claims) in pods {
        let Some(mut charged) = open.get(pod::uid(pod)).cloned() else {
            continue;
        };
        let mut claims: Vec<&ResourceClaim> = claims.iter().map(AsRef::as_ref).collect();
        claims.sort_by_cached_key(|claim| users.get(&claim.name_any()).copied());
        for claim in claims {
            let name = claim.name_any();
            if !owners.contains_key(&name) && take_devices(&mut charged, claim) {
                owners.insert(name, pod::uid(pod).to_owned());
            }
        }
    }
}

/// Takes the devices of a claim out of those that a charge has. False, and nothing is taken, if it
/// has not all of them.
fn take_devices(charged: &mut BTreeMap<String, u32>, claim: &ResourceClaim) -> bool {
    let drivers = resource_claim::allocated_gpus(claim).map(|(driver, _, _)| (driver.as_str(), 1));
    let needed = charged_devices(drivers);
    let has = |(driver, count): (&String, &u32)| charged.get(driver) >= Some(count);
    if !needed.iter().all(has) {
        return false;
    }
    for (driver, count) in needed {
        if let Some(left) = charged.get_mut(&driver) {
            *left -= count;
        }
    }
    true
}
