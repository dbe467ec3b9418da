//! The GPUs and volumes that pods hold, by their specs and by claims: persistent volumes, and
//! devices of dynamic resource allocation. A device or volume that several pods use is charged to
//! the pod that was bound first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bursar_api::gpu_inventory::{self, DeviceModel, DevicePools};
use bursar_api::quantities;
use bursar_core::ledger::Uid;
use bursar_core::model::Key;
use bursar_core::pricing::PricingAttributes;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, PodSpec, Volume};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use kube::runtime::reflector::Store;

use crate::cache::{Stores, cached};
use crate::pod;
use crate::pod_resources;
use crate::resource_claim;

/// Gibibytes by storage class.
type Volumes = BTreeMap<String, u32>;

/// The GPUs that a pod holds.
#[derive(Clone, Debug)]
struct Gpus {
    resource: String,
    count: u32,
    /// The model that the devices report; extended resources report none.
    kind: Option<DeviceModel>,
}

/// The GPUs and volumes that the pods of a namespace are charged for.
#[derive(Debug, Default)]
pub(crate) struct GpuAllocations {
    held: BTreeMap<Uid, (Vec<Gpus>, Volumes)>,
    /// Pods without GPUs of their own whose devices are charged to another pod.
    sharing: BTreeSet<Uid>,
    /// Persistent volume claims that are charged to a pod.
    borne: BTreeSet<String>,
}

impl GpuAllocations {
    /// The GPUs and volumes that these pods of one namespace are charged for. Of pods that share
    /// devices, a pod in `open`, whose charge is open, takes precedence.
    pub(crate) fn new(stores: &Stores, pods: &[Arc<Pod>], open: &BTreeSet<Uid>) -> Self {
        let mut here: Vec<&Pod> = pods.iter().map(AsRef::as_ref).collect();
        let first = |pod: &Pod| (pod::bound_at(pod), pod::uid(pod).to_owned());
        let opened = |pod: &Pod| open.contains(pod::uid(pod));
        here.sort_by_cached_key(|pod| (pod::is_terminal(pod), !opened(pod), first(pod)));
        let mut claims = Self::default();
        let slices = slices(stores, &here);
        let devices = Devices {
            claims: &stores.device_claims,
            pools: DevicePools::from_slices(slices.iter().map(AsRef::as_ref)),
        };
        let mut taken = BTreeSet::new();
        for pod in &here {
            let by_claims = devices.held(pod, &mut taken);
            let is_elsewhere = by_claims == Held::Elsewhere;
            let gpus = all_gpus(pod, by_claims);
            if gpus.is_empty() {
                if is_elsewhere {
                    claims.sharing.insert(pod::uid(pod).to_owned());
                }
            } else {
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
            let name = pod.name_any();
            let used = pod
                .spec
                .iter()
                .flat_map(|spec| claims_of(spec, Some(&name)));
            for name in used.filter_map(|(name, _)| name) {
                if !claims.borne.insert(name.clone()) {
                    continue;
                }
                let claim = find(&stores.volume_claims, pod, &name);
                let provisioned = claim.as_deref().and_then(|claim| gib(claim, false));
                if let Some((class, gib)) = provisioned {
                    *volumes.entry(class).or_default() += gib;
                }
            }
        }
        claims
    }

    /// Whether the pod holds GPUs that it is charged for itself.
    pub(crate) fn holds_gpus(&self, pod: &Pod) -> bool {
        self.held.contains_key(pod::uid(pod))
    }

    /// Pods that use devices which are charged to other pods.
    pub(crate) fn sharing(&self) -> &BTreeSet<Uid> {
        &self.sharing
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
        let mut kinds = pod::gpus_of(spec).into_iter().map(|(resource, gpus)| {
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
                *volumes.entry(class).or_default() += gib;
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

/// Devices that a pod holds by claims.
#[derive(Debug, PartialEq, Eq)]
enum Held {
    /// None of them are GPUs.
    Nothing,
    /// All of them are charged to other pods.
    Elsewhere,
    /// So many of this kind.
    Here(BTreeMap<DeviceModel, u32>),
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

/// The GPUs that the pod holds, of each kind, the highest count first.
fn all_gpus(pod: &Pod, by_claims: Held) -> Vec<Gpus> {
    let extended = pod::gpus(pod).into_iter();
    let extended = extended.filter(|(resource, _)| !is_by_claim(pod, resource));
    let extended = extended.map(|(resource, count)| Gpus {
        resource,
        count,
        kind: None,
    });
    let kinds = match by_claims {
        Held::Here(kinds) => kinds,
        Held::Nothing | Held::Elsewhere => BTreeMap::new(),
    };
    let devices = kinds.into_iter().map(|(kind, count)| Gpus {
        resource: kind.driver.clone(),
        count,
        kind: Some(kind),
    });
    let mut all: Vec<Gpus> = devices.chain(extended).collect();
    all.sort_by_key(|gpus| Reverse(gpus.count));
    all
}

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
    /// The pod's claims that are allocated.
    fn claims_of(&self, pod: &Pod) -> Vec<Arc<ResourceClaim>> {
        let spec = pod.spec.as_ref();
        let wanted = spec
            .iter()
            .flat_map(|spec| spec.resource_claims.iter().flatten());
        let made = pod
            .status
            .as_ref()
            .and_then(|status| status.resource_claim_statuses.as_ref());
        let name_of = |claim: &k8s_openapi::api::core::v1::PodResourceClaim| {
            let made = made
                .into_iter()
                .flatten()
                .find(|made| made.name == claim.name);
            claim
                .resource_claim_name
                .clone()
                .or_else(|| made?.resource_claim_name.clone())
        };
        let status = pod.status.as_ref();
        let of_extended = status.and_then(|status| status.extended_resource_claim_status.as_ref());
        let of_extended = of_extended.map(|made| made.resource_claim_name.clone());
        let names = wanted.filter_map(name_of);
        names
            .chain(of_extended)
            .filter_map(|name| find(self.claims, pod, &name))
            .collect()
    }

    /// The devices of the pod that are not `taken` yet; they are taken then.
    fn held(&self, pod: &Pod, taken: &mut BTreeSet<String>) -> Held {
        let mut kinds = BTreeMap::new();
        let mut elsewhere = false;
        let bound = pod::node_name(pod).is_some();
        for claim in self.claims_of(pod).iter().filter(|_| bound) {
            let mut gpus = resource_claim::allocated_gpus(claim).peekable();
            if gpus.peek().is_none() {
                continue;
            }
            if !taken.insert(claim.name_any()) {
                elsewhere = true;
                continue;
            }
            for (driver, pool, device) in gpus {
                *kinds
                    .entry(self.pools.model_of(driver, pool, device))
                    .or_default() += 1;
            }
        }
        match (kinds.is_empty(), elsewhere) {
            (false, _) => Held::Here(kinds),
            (true, true) => Held::Elsewhere,
            (true, false) => Held::Nothing,
        }
    }
}
