//! Which pods use which claims, so that a change of one pod or claim is looked at for the pods that it
//! may concern, and not for all of its namespace.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use bursar_core::model::Key;
use bursar_core::model::event::Name;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::runtime::reflector::Store;

use crate::cache::{Stores, cached};
use crate::gpu_allocation::{self, GpuAllocations};
use crate::pod;
use crate::resource_claim;

/// Who uses claims, and what has changed of it since that was last asked.
#[derive(Default)]
pub(super) struct ClaimIndex {
    pods: HashMap<Key, PodClaims>,
    volumes: HashMap<Key, VolumeUsers>,
    /// The users of each ResourceClaim: the first of them is charged.
    devices: HashMap<Key, BTreeSet<DeviceUser>>,
    slices: DeviceSlices,
    /// Pods whose open charge has devices.
    charged: HashSet<Key>,
    changed: Changes,
}

/// What may be priced otherwise than before.
#[derive(Default)]
pub(super) struct Changes {
    /// Pods whose price depends on claims.
    pub(super) pods: BTreeSet<Key>,
    /// Volume claims, for the workloads that name them.
    pub(super) volumes: BTreeSet<Key>,
}

/// A pod that names a ResourceClaim. The first one of its users is charged: of those that can use its devices, if
/// there are any.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct DeviceUser {
    cannot_use: bool,
    order: SharingOrder,
    pod: Key,
}

/// The claims of one pod.
#[derive(Clone, Default)]
struct PodClaims {
    volumes: BTreeSet<Name>,
    devices: BTreeSet<Name>,
    /// Those of them whose devices it cannot use.
    unusable: BTreeSet<Name>,
    /// The node of a pod with devices.
    node: Option<Name>,
    order: SharingOrder,
    /// It holds its node.
    runs: bool,
    /// Its spec asks for GPUs.
    has_gpus: bool,
}

/// The order in which pods are charged for a claim that they share: those that have not ended, the one
/// whose open charge has devices, the one that was bound first.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct SharingOrder {
    has_ended: bool,
    is_uncharged: bool,
    bound_at: Option<Timestamp>,
    uid: Name,
}

#[derive(Default)]
struct VolumeUsers {
    pods: BTreeSet<Key>,
    /// Those that it is charged to one of.
    charged: BTreeSet<Key>,
}

/// Slices of devices by pool, and by node.
#[derive(Default)]
struct DeviceSlices {
    places: HashMap<Key, (Pool, Option<Name>)>,
    by_pool: HashMap<Pool, BTreeSet<Key>>,
    by_node: HashMap<Name, BTreeSet<Key>>,
    /// Pods with devices, by node.
    pods: HashMap<Name, BTreeSet<Key>>,
}

/// A driver and a pool.
type Pool = (String, String);

impl PodClaims {
    fn of(stores: &Stores, key: &Key, pod: &Pod, is_charged: bool) -> Self {
        let devices: BTreeSet<Name> = names(gpu_allocation::device_claims_of(pod));
        let is_unusable = |name: &&Name| {
            let claim = cached(&stores.device_claims, &claim_key(key, name));
            claim.is_some_and(|claim| !resource_claim::can_be_used_by(&claim, pod))
        };
        Self {
            unusable: devices.iter().filter(is_unusable).cloned().collect(),
            volumes: names(gpu_allocation::volume_claims_of(pod)),
            node: pod::node_name(pod)
                .filter(|_| !devices.is_empty())
                .map(Name::from),
            devices,
            order: SharingOrder {
                has_ended: pod::is_terminal(pod),
                is_uncharged: !is_charged,
                bound_at: pod::bound_at(pod),
                uid: pod::uid(pod).into(),
            },
            runs: pod::bound_at(pod).is_some() && !pod::is_terminal(pod),
            has_gpus: !pod::gpus(pod).is_empty(),
        }
    }

    /// Devices of a pod without a node are nobody's yet.
    fn is_bound(&self) -> bool {
        self.node.is_some()
    }

    /// The pod as a user of one of its claims.
    fn user(&self, key: &Key, claim: &Name) -> DeviceUser {
        DeviceUser {
            cannot_use: self.unusable.contains(claim),
            order: self.order.clone(),
            pod: key.clone(),
        }
    }
}

fn names(all: impl IntoIterator<Item = String>) -> BTreeSet<Name> {
    all.into_iter().map(|name| name.as_str().into()).collect()
}

fn claim_key(pod: &Key, name: &Name) -> Key {
    Key {
        namespace: pod.namespace.clone(),
        name: name.clone(),
    }
}

impl ClaimIndex {
    /// Updates the claims of a pod; `None` for one that has none, or is gone.
    pub(super) fn set(&mut self, stores: &Stores, key: &Key, pod: Option<&Pod>) {
        let is_charged = self.charged.contains(key);
        let new = pod.map(|pod| PodClaims::of(stores, key, pod, is_charged));
        let old = self.pods.remove(key);
        self.set_claims(stores, key, old, new);
    }

    /// Takes whether a pod's open charge has devices.
    pub(super) fn set_charged(&mut self, stores: &Stores, key: &Key, is_charged: bool) {
        let is_changed = match is_charged {
            true => self.charged.insert(key.clone()),
            false => self.charged.remove(key),
        };
        if let Some(old) = self.pods.remove(key) {
            let mut new = old.clone();
            new.order.is_uncharged = !is_charged;
            self.set_claims(stores, key, Some(old), Some(new));
        }
        if is_changed {
            self.changed.pods.insert(key.clone());
        }
    }

    /// Takes that a volume claim changed.
    pub(super) fn note_volume(&mut self, claim: &Key) {
        self.changed.volumes.insert(claim.clone());
        let users = self.volumes.get(claim).into_iter();
        let pods = users.flat_map(|users| users.pods.iter().cloned());
        self.changed.pods.extend(pods);
    }

    /// Takes that a ResourceClaim changed.
    pub(super) fn note_devices(&mut self, stores: &Stores, claim: &Key) {
        let users = self.devices.get(claim).into_iter().flatten();
        let users: Vec<Key> = users.map(|user| user.pod.clone()).collect();
        for key in users {
            // who can use it may be others now
            if let Some(pod) = cached(&stores.pods, &key) {
                self.set(stores, &key, Some(&pod));
            }
        }
    }

    /// Takes a slice of devices as it is now.
    pub(super) fn set_slice(&mut self, key: &Key, slice: Option<&ResourceSlice>) {
        let place = |slice: &ResourceSlice| {
            let spec = &slice.spec;
            let pool = (spec.driver.clone(), spec.pool.name.clone());
            (pool, spec.node_name.as_deref().map(Name::from))
        };
        let new = slice.map(place);
        let slices = &mut self.slices;
        let old = match &new {
            Some(new) => slices.places.insert(key.clone(), new.clone()),
            None => slices.places.remove(key),
        };
        if let Some((pool, node)) = &old {
            remove(&mut slices.by_pool, pool, key);
            if let Some(node) = node {
                remove(&mut slices.by_node, node, key);
            }
        }
        if let Some((pool, node)) = &new {
            insert(&mut slices.by_pool, pool, key);
            if let Some(node) = node {
                insert(&mut slices.by_node, node, key);
            }
        }
        for (_, node) in old.iter().chain(&new) {
            let pods = match node {
                Some(node) => slices.pods.get(node).into_iter(),
                // devices that are not one node's
                None => {
                    let all = slices.pods.values().flatten();
                    self.changed.pods.extend(all.cloned());
                    continue;
                }
            };
            self.changed.pods.extend(pods.flatten().cloned());
        }
    }

    /// What has changed since the last call.
    pub(super) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changed)
    }

    /// Whether the price of this pod depends on claims.
    pub(super) fn contains(&self, pod: &Key) -> bool {
        self.pods.contains_key(pod)
    }

    /// What a pod of this spec in this namespace asks for, before there is one.
    pub(super) fn planned(&self, namespace: &str, spec: &PodSpec) -> GpuAllocations {
        let names = gpu_allocation::volume_claims(spec, None);
        GpuAllocations::of_nobody(names.filter(|name| self.is_charged(&Key::new(namespace, name))))
    }

    /// What a pod holds by its claims.
    pub(super) fn of_pod(&self, stores: &Stores, key: &Key, pod: &Pod) -> GpuAllocations {
        let namespace = &*key.namespace;
        let volumes = gpu_allocation::volume_claims_of(pod).into_iter();
        let volumes = volumes.filter(|name| self.is_charged(&Key::new(namespace, name)));
        let devices = gpu_allocation::device_claims_of(pod).into_iter();
        let owned = devices.filter(|name| self.owner(&Key::new(namespace, name)) == Some(key));
        let owned: BTreeSet<String> = owned.collect();
        let slices = match owned.is_empty() {
            true => Vec::new(),
            false => self.slices_of(stores, namespace, &owned),
        };
        GpuAllocations::of_pod(stores, pod, &owned, volumes, &slices)
    }

    fn owner(&self, claim: &Key) -> Option<&Key> {
        let first = self.devices.get(claim)?.first()?;
        Some(&first.pod)
    }

    /// Whether a volume claim is charged to a pod.
    fn is_charged(&self, claim: &Key) -> bool {
        let users = self.volumes.get(claim);
        users.is_some_and(|users| !users.charged.is_empty())
    }

    fn set_claims(
        &mut self,
        stores: &Stores,
        key: &Key,
        old: Option<PodClaims>,
        new: Option<PodClaims>,
    ) {
        let (old, new) = (old.unwrap_or_default(), new);
        let now = new.clone().unwrap_or_default();
        let mut again = BTreeSet::from([key.clone()]);
        for name in old.devices.union(&now.devices) {
            let claim = claim_key(key, name);
            let former = self.owner(&claim).cloned();
            let users = self.devices.entry(claim.clone()).or_default();
            users.remove(&old.user(key, name));
            if now.is_bound() && now.devices.contains(name) {
                users.insert(now.user(key, name));
            }
            if users.is_empty() {
                self.devices.remove(&claim);
            }
            let owner = self.owner(&claim);
            if owner != former.as_ref() {
                again.extend(owner.cloned().into_iter().chain(former));
            }
        }
        if let Some(node) = &old.node {
            remove(&mut self.slices.pods, node, key);
        }
        if let Some(node) = &now.node {
            insert(&mut self.slices.pods, node, key);
        }
        for name in old.volumes.difference(&now.volumes) {
            self.set_user(&claim_key(key, name), key, None);
        }
        if let Some(new) = new {
            self.pods.insert(key.clone(), new);
        }
        for pod in again {
            self.set_volume_user(stores, &pod);
            self.changed.pods.insert(pod);
        }
    }

    /// A volume is charged to pods that run and hold GPUs, which may be devices.
    fn set_volume_user(&mut self, stores: &Stores, key: &Key) {
        let Some(claims) = self.pods.get(key).cloned() else {
            return;
        };
        let holds = |name: &Name| {
            let claim = claim_key(key, name);
            let found = cached(&stores.device_claims, &claim);
            self.owner(&claim) == Some(key)
                && found.is_some_and(|found| resource_claim::holds_gpus(&found))
        };
        let is_charged = claims.runs && (claims.has_gpus || claims.devices.iter().any(holds));
        for name in &claims.volumes {
            self.set_user(&claim_key(key, name), key, Some(is_charged));
        }
    }

    /// Takes whether a pod uses a volume claim, and whether it may be charged for it.
    fn set_user(&mut self, claim: &Key, pod: &Key, user: Option<bool>) {
        let was_charged = self.is_charged(claim);
        let users = self.volumes.entry(claim.clone()).or_default();
        match user {
            Some(_) => drop(users.pods.insert(pod.clone())),
            None => drop(users.pods.remove(pod)),
        }
        match user {
            Some(true) => drop(users.charged.insert(pod.clone())),
            _ => drop(users.charged.remove(pod)),
        }
        if users.pods.is_empty() {
            self.volumes.remove(claim);
        }
        if self.is_charged(claim) != was_charged {
            self.note_volume(claim);
        }
    }

    /// The slices that describe the devices of these claims.
    fn slices_of(
        &self,
        stores: &Stores,
        namespace: &str,
        claims: &BTreeSet<String>,
    ) -> Vec<Arc<ResourceSlice>> {
        let mut keys: BTreeSet<&Key> = BTreeSet::new();
        for name in claims {
            let Some(claim) = cached(&stores.device_claims, &Key::new(namespace, name)) else {
                continue;
            };
            for (driver, pool, _) in resource_claim::allocated_gpus(&claim) {
                let pool = (driver.clone(), pool.clone());
                keys.extend(self.slices.by_pool.get(&pool).into_iter().flatten());
            }
        }
        let nodes: BTreeSet<&Name> = keys
            .iter()
            .filter_map(|key| self.slices.places.get(*key)?.1.as_ref())
            .collect();
        for node in nodes {
            keys.extend(self.slices.by_node.get(node).into_iter().flatten());
        }
        let store: &Store<ResourceSlice> = &stores.device_slices;
        keys.into_iter()
            .filter_map(|key| cached(store, key))
            .collect()
    }
}

fn insert<K: Eq + Hash + Clone>(map: &mut HashMap<K, BTreeSet<Key>>, at: &K, key: &Key) {
    map.entry(at.clone()).or_default().insert(key.clone());
}

fn remove<K: Eq + Hash>(map: &mut HashMap<K, BTreeSet<Key>>, at: &K, key: &Key) {
    if let Some(keys) = map.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            map.remove(at);
        }
    }
}
