//! What is remembered of pods and nodes that are gone.

use std::collections::VecDeque;
use std::sync::Mutex;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::lock::lock;
use crate::pod;

/// As many pods are remembered, and as many nodes.
const CAPACITY: usize = 1_000;

/// GPU pods as the watch last saw them, for a while after they are gone: a pod without the
/// finalizer takes the time of its end with it. Of nodes it is the moment at which they went.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    pods: Mutex<VecDeque<Pod>>,
    nodes: Mutex<VecDeque<(String, Timestamp)>>,
}

impl Tombstones {
    /// Remembers a pod that is gone.
    pub(crate) fn put_pod(&self, pod: &Pod) {
        put(&self.pods, pod.clone());
    }

    /// The pod as it was last seen. It stays: the write of its end may fail.
    pub(crate) fn pod(&self, uid: &str) -> Option<Pod> {
        let pods = lock(&self.pods);
        pods.iter().find(|pod| pod::uid(pod) == uid).cloned()
    }

    /// Remembers when the node of this UID went.
    pub(crate) fn put_node(&self, uid: String, at: Timestamp) {
        put(&self.nodes, (uid, at));
    }

    /// When the node of this UID was seen to go.
    pub(crate) fn node(&self, uid: &str) -> Option<Timestamp> {
        let nodes = lock(&self.nodes);
        let node = nodes.iter().find(|(node, _)| node == uid);
        node.map(|(_, at)| *at)
    }
}

/// Adds one, in the place of the oldest if there is no room.
fn put<T>(tombstones: &Mutex<VecDeque<T>>, tombstone: T) {
    let mut tombstones = lock(tombstones);
    if tombstones.len() == CAPACITY {
        tombstones.pop_front();
    }
    tombstones.push_back(tombstone);
}
