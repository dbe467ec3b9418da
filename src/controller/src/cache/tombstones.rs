//! What is remembered of pods and nodes that are gone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use bursar_core::ledger::Uid;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::lock::lock;
use crate::pod;

/// As many pods are remembered. Where there is no room for one more, the oldest of the namespace
/// with the most of them is forgotten, so that nobody's pods push out those of others.
const MAX_PODS: usize = 20_000;
/// As many nodes are remembered.
const MAX_NODES: usize = 1_000;

/// GPU pods as the watch last saw them, until their ends are on record: a pod without the finalizer
/// takes the time of its end with it. Of nodes it is the moment at which they went.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    pods: Mutex<PodTombstones>,
    nodes: Mutex<VecDeque<(String, Timestamp)>>,
}

#[derive(Debug, Default)]
struct PodTombstones {
    /// Where each pod is.
    places: HashMap<Uid, (String, u64)>,
    /// The pods of each namespace, in the order in which they went.
    namespaces: HashMap<String, BTreeMap<u64, Arc<Pod>>>,
    /// Pods that ever went.
    count: u64,
}

impl Tombstones {
    /// Remembers a pod that is gone.
    pub(crate) fn put_pod(&self, pod: &Pod) {
        lock(&self.pods).put(pod, MAX_PODS);
    }

    /// The pod as it was last seen. It stays until it is forgotten: the write of its end may fail.
    pub(crate) fn pod(&self, uid: &str) -> Option<Arc<Pod>> {
        let pods = lock(&self.pods);
        let (namespace, place) = pods.places.get(uid)?;
        pods.namespaces.get(namespace)?.get(place).cloned()
    }

    /// Forgets a pod whose end is on record.
    pub(crate) fn forget_pod(&self, uid: &str) {
        lock(&self.pods).forget(uid);
    }

    /// Remembers when the node of this UID went.
    pub(crate) fn put_node(&self, uid: String, at: Timestamp) {
        let mut nodes = lock(&self.nodes);
        if nodes.len() == MAX_NODES {
            nodes.pop_front();
        }
        nodes.push_back((uid, at));
    }

    /// When the node of this UID was seen to go.
    pub(crate) fn node(&self, uid: &str) -> Option<Timestamp> {
        let nodes = lock(&self.nodes);
        let node = nodes.iter().find(|(node, _)| node == uid);
        node.map(|(_, at)| *at)
    }
}

impl PodTombstones {
    fn put(&mut self, pod: &Pod, capacity: usize) {
        let (uid, namespace) = (
            pod::uid(pod).to_owned(),
            pod.namespace().unwrap_or_default(),
        );
        self.forget(&uid);
        if self.places.len() >= capacity {
            self.forget_oldest();
        }
        let pods = self.namespaces.entry(namespace.clone()).or_default();
        pods.insert(self.count, Arc::new(pod.clone()));
        self.places.insert(uid, (namespace, self.count));
        self.count += 1;
    }

    fn forget(&mut self, uid: &str) {
        let Some((namespace, place)) = self.places.remove(uid) else {
            return;
        };
        if let Some(pods) = self.namespaces.get_mut(&namespace) {
            pods.remove(&place);
            if pods.is_empty() {
                self.namespaces.remove(&namespace);
            }
        }
    }

    fn forget_oldest(&mut self) {
        let largest = self.namespaces.values().max_by_key(|pods| pods.len());
        let oldest = largest.and_then(|pods| pods.first_key_value());
        let uid = oldest.map(|(_, pod)| pod::uid(pod).to_owned());
        if let Some(uid) = uid {
            self.forget(&uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(namespace: &str, uid: &str) -> Pod {
        let pod = json!({"metadata": {"name": uid, "namespace": namespace, "uid": uid}});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn the_pods_of_one_namespace_push_out_no_others() {
        let mut tombstones = PodTombstones::default();
        tombstones.put(&pod("quiet", "q"), 10);
        for number in 0..50 {
            tombstones.put(&pod("loud", &format!("l{number}")), 10);
        }
        assert!(tombstones.places.contains_key("q"));
        let loud = |number: usize| tombstones.places.contains_key(&format!("l{number}"));
        assert!(loud(49) && loud(41) && !loud(40));
    }

    #[test]
    fn a_pod_is_remembered_until_its_end_is_on_record() {
        let tombstones = Tombstones::default();
        tombstones.put_pod(&pod("team", "u"));
        tombstones.put_pod(&pod("team", "u"));
        assert!(tombstones.pod("u").is_some() && tombstones.pod("u").is_some());
        tombstones.forget_pod("u");
        assert!(tombstones.pod("u").is_none());
        assert!(lock(&tombstones.pods).namespaces.is_empty());
    }
}
