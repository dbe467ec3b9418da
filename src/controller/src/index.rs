//! Where the pods of a workload, and the gateways, are in the cache of pods: found without looking
//! at all pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use bursar_api::spend::WorkloadRef;
use bursar_core::model::{Key, Name};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::Store;

use crate::cache::cached;
use crate::pod;

/// What is indexed of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct IndexedPod {
    workload: Option<WorkloadRef>,
    gateway: Option<IpAddr>,
}

/// What changed with a pod.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct IndexChange {
    /// The gateways that take requests have changed.
    pub(crate) gateways: bool,
    /// The workloads that the pod belongs to or did.
    pub(crate) workloads: BTreeSet<WorkloadRef>,
}

/// Pods by workload, and gateways.
#[derive(Debug, Default)]
pub(crate) struct PodIndex {
    pods: HashMap<Key, IndexedPod>,
    by_workload: BTreeMap<WorkloadRef, BTreeSet<Name>>,
    /// The gateways that take requests, by the name of their pod.
    gateways: BTreeMap<Key, IpAddr>,
}

impl PodIndex {
    /// Puts a pod where it belongs now; `None` if it is gone.
    pub(crate) fn set(&mut self, name: &Key, pod: Option<&Pod>) -> IndexChange {
        let new = pod.map(|pod| IndexedPod {
            workload: pod::workload_of(pod),
            gateway: gateway_address(pod),
        });
        let new = new.filter(|new| new.workload.is_some() || new.gateway.is_some());
        let old = self.pods.remove(name);
        let gateway = |pod: &Option<IndexedPod>| pod.as_ref()?.gateway;
        let workloads = [&old, &new].into_iter().flatten();
        let workloads = workloads.filter_map(|pod| pod.workload.clone());
        let change = IndexChange {
            gateways: gateway(&old) != gateway(&new),
            workloads: workloads.collect(),
        };
        if old != new {
            if let Some(workload) = old.and_then(|pod| pod.workload)
                && let Some(names) = self.by_workload.get_mut(&workload)
            {
                names.remove(&name.name);
                if names.is_empty() {
                    self.by_workload.remove(&workload);
                }
            }
            if let Some(workload) = new.as_ref().and_then(|pod| pod.workload.clone()) {
                let names = self.by_workload.entry(workload).or_default();
                names.insert(name.name.clone());
            }
        }
        match new.as_ref().and_then(|pod| pod.gateway) {
            Some(address) => drop(self.gateways.insert(name.clone(), address)),
            None => drop(self.gateways.remove(name)),
        }
        if let Some(new) = new {
            self.pods.insert(name.clone(), new);
        }
        change
    }

    /// The addresses of the gateways of the operator's namespace that take requests.
    pub(crate) fn gateways(&self, namespace: &str) -> Vec<IpAddr> {
        let gateways = self.gateways.iter();
        let ours = gateways.filter(|(name, _)| *name.namespace == *namespace);
        ours.map(|(_, address)| *address).collect()
    }

    /// The pods of a workload.
    pub(crate) fn pods_of(&self, pods: &Store<Pod>, workload: &WorkloadRef) -> Vec<Arc<Pod>> {
        let names = self.by_workload.get(workload).into_iter().flatten();
        let found = names.filter_map(|name| get(pods, &workload.namespace, name));
        found.collect()
    }
}

fn get(pods: &Store<Pod>, namespace: &str, name: &Name) -> Option<Arc<Pod>> {
    let key = Key {
        namespace: namespace.into(),
        name: name.clone(),
    };
    cached(pods, &key)
}

/// The address of a gateway that takes requests.
fn gateway_address(pod: &Pod) -> Option<IpAddr> {
    let takes_requests =
        pod::is_gateway(pod) && pod::is_ready(pod) && pod.metadata.deletion_timestamp.is_none();
    let address = pod.status.as_ref()?.pod_ip.as_ref()?;
    address.parse().ok().filter(|_| takes_requests)
}
