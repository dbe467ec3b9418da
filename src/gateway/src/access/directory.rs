//! The pod or node that has an address. It is filled only once a service's rule needs it.
//!
//! A pod is its namespace and its labels; equal labels are kept once. What all pods take is bounded,
//! and shared by namespace as the memory of requests is. A pod that does not fit is not known, so a
//! rule that would have to know it lets it not through; other pods are not affected.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;

use super::selector::Labels;
use crate::held_bytes::{ByteReservation, HeldBytes};
use crate::service_key::ServiceKey;

/// The most bytes that all pods take.
const MAX_BYTES: usize = 96 << 20;
/// What a pod takes in addition to its name and its labels.
const POD_BYTES: usize = 320;
/// The most bytes of the labels of one pod or namespace. Those with more are known without labels.
const MAX_LABEL_BYTES: usize = 8 << 10;

/// Who has which address. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Directory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: RwLock<State>,
    /// Grows with every batch of changes.
    version: watch::Sender<u64>,
    /// Whether some service's rule needs the directory.
    is_needed: watch::Sender<bool>,
    bytes: HeldBytes,
}

#[derive(Debug, Default)]
struct State {
    is_synced: bool,
    /// Pods that did not fit. Each is tried again when it changes and when all are listed again.
    left_out: HashSet<ServiceKey>,
    addresses: HashMap<IpAddr, Vec<Arc<Pod>>>,
    pods: HashMap<ServiceKey, Arc<Pod>>,
    /// The addresses of each node.
    nodes: HashMap<String, Vec<IpAddr>>,
    /// How many nodes have an address.
    node_addresses: HashMap<IpAddr, usize>,
    namespaces: BTreeMap<String, Option<Labels>>,
    /// All labels of pods, each once.
    labels: HashSet<Labels>,
    /// The number of labels at which those that no pod has any more are removed.
    cleanup_at: usize,
}

#[derive(Debug)]
struct Pod {
    namespace: Arc<str>,
    labels: Option<Labels>,
    addresses: Vec<IpAddr>,
    _bytes: ByteReservation,
}

/// What is known of a pod that has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PodIdentity<'a> {
    pub(crate) namespace: &'a str,
    /// `None` if they are not known.
    pub(crate) labels: Option<&'a Labels>,
    /// `None` if they are not known.
    pub(crate) namespace_labels: Option<&'a Labels>,
}

/// Who has an address.
#[derive(Debug)]
pub(crate) enum Origin<'a> {
    /// Not all pods, nodes and namespaces were read yet.
    NotSynced,
    Node,
    Pods(Vec<PodIdentity<'a>>),
    /// Nobody; all pods are known.
    NotFound,
    /// Perhaps a pod that did not fit.
    Full,
}

impl Default for Directory {
    fn default() -> Self {
        Self::with_limit(MAX_BYTES)
    }
}

impl Directory {
    /// An empty directory whose pods may take this many bytes.
    pub(crate) fn with_limit(bytes: usize) -> Self {
        Self(Arc::new(Shared {
            state: RwLock::default(),
            version: watch::Sender::new(0),
            is_needed: watch::Sender::new(false),
            bytes: HeldBytes::new(bytes),
        }))
    }

    /// Some service's rule needs the directory from now on.
    pub(crate) fn require(&self) {
        self.0.is_needed.send_if_modified(|is_needed| {
            let is_new = !*is_needed;
            *is_needed = true;
            is_new
        });
    }

    /// Waits until some service's rule needs the directory.
    pub(crate) async fn required(&self) {
        // the sender lives as long as the directory
        let _ = self
            .0
            .is_needed
            .subscribe()
            .wait_for(|needed| *needed)
            .await;
    }

    /// A receiver of every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.version.subscribe()
    }

    /// Tells those who wait for a change. To be called after each batch of changes.
    pub(crate) fn publish(&self, is_synced: bool) {
        if is_synced {
            self.write().is_synced = true;
        }
        self.0.version.send_modify(|version| *version += 1);
    }

    /// Calls `read` with who has this address.
    pub(crate) fn with_origin<T>(&self, address: IpAddr, read: impl FnOnce(Origin<'_>) -> T) -> T {
        let state = self.read();
        if !state.is_synced {
            return read(Origin::NotSynced);
        }
        if state.node_addresses.contains_key(&address) {
            return read(Origin::Node);
        }
        let Some(pods) = state.addresses.get(&address) else {
            return read(match state.left_out.is_empty() {
                true => Origin::NotFound,
                false => Origin::Full,
            });
        };
        let pods = pods.iter().map(|pod| PodIdentity {
            namespace: &pod.namespace,
            labels: pod.labels.as_ref(),
            namespace_labels: match state.namespaces.get(&*pod.namespace) {
                Some(labels) => labels.as_ref(),
                None => None,
            },
        });
        read(Origin::Pods(pods.collect()))
    }

    /// Sets the addresses and the labels of a pod; one without addresses is removed.
    pub(crate) fn set_pod(
        &self,
        key: &ServiceKey,
        addresses: Vec<IpAddr>,
        labels: &BTreeMap<String, String>,
    ) {
        let mut state = self.write();
        let labels = Labels::new(labels);
        let known = state.pods.get(key);
        if known
            .is_some_and(|pod| pod.addresses == addresses && pod.labels.as_ref() == Some(&labels))
        {
            return;
        }
        state.remove_pod(key);
        if addresses.is_empty() {
            return;
        }
        let labels = Some(labels).filter(|labels| labels.bytes() <= MAX_LABEL_BYTES);
        let bytes = POD_BYTES + key.1.len() + labels.as_ref().map_or(0, Labels::bytes);
        let Ok(reserved) = self.0.bytes.reserve(&key.0, bytes) else {
            let (namespace, name) = key;
            if state.left_out.is_empty() {
                tracing::warn!(
                    namespace,
                    name,
                    "pods take all the memory that they may: services that name pods refuse those that are not known"
                );
            }
            state.left_out.insert(key.clone());
            return;
        };
        let pod = Arc::new(Pod {
            namespace: key.0.as_str().into(),
            labels: labels.map(|labels| state.intern(labels)),
            addresses,
            _bytes: reserved,
        });
        for address in &pod.addresses {
            let pods = state.addresses.entry(*address).or_default();
            pods.push(Arc::clone(&pod));
        }
        state.pods.insert(key.clone(), pod);
    }

    /// Sets the addresses of a node; one without addresses is removed.
    pub(crate) fn set_node(&self, name: &str, addresses: Vec<IpAddr>) {
        let mut state = self.write();
        for address in state.nodes.remove(name).unwrap_or_default() {
            if let Some(nodes) = state.node_addresses.get_mut(&address) {
                *nodes -= 1;
                if *nodes == 0 {
                    state.node_addresses.remove(&address);
                }
            }
        }
        if addresses.is_empty() {
            return;
        }
        for address in &addresses {
            *state.node_addresses.entry(*address).or_default() += 1;
        }
        state.nodes.insert(name.to_owned(), addresses);
    }

    /// Sets the labels of a namespace; `None` removes it.
    pub(crate) fn set_namespace(&self, name: &str, labels: Option<&BTreeMap<String, String>>) {
        let mut state = self.write();
        match labels.map(Labels::new) {
            Some(labels) => {
                let labels = Some(labels).filter(|labels| labels.bytes() <= MAX_LABEL_BYTES);
                state.namespaces.insert(name.to_owned(), labels);
            }
            None => drop(state.namespaces.remove(name)),
        }
    }

    /// The keys of all pods.
    pub(crate) fn pods(&self) -> Vec<ServiceKey> {
        self.read().pods.keys().cloned().collect()
    }

    /// The names of all nodes.
    pub(crate) fn nodes(&self) -> Vec<String> {
        self.read().nodes.keys().cloned().collect()
    }

    /// The names of all namespaces.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        self.read().namespaces.keys().cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove_pod(&mut self, key: &ServiceKey) {
        self.left_out.remove(key);
        let Some(pod) = self.pods.remove(key) else {
            return;
        };
        for address in &pod.addresses {
            if let Some(pods) = self.addresses.get_mut(address) {
                pods.retain(|each| !Arc::ptr_eq(each, &pod));
                if pods.is_empty() {
                    self.addresses.remove(address);
                }
            }
        }
    }

    /// These labels as other pods have them.
    fn intern(&mut self, labels: Labels) -> Labels {
        if let Some(known) = self.labels.get(&labels) {
            return known.clone();
        }
        if self.labels.len() >= self.cleanup_at {
            let used: HashSet<Labels> = self
                .pods
                .values()
                .filter_map(|pod| pod.labels.clone())
                .collect();
            self.labels = used;
            self.cleanup_at = (2 * self.labels.len()).max(1_024);
        }
        self.labels.insert(labels.clone());
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(app: &str) -> BTreeMap<String, String> {
        [("app".to_owned(), app.to_owned())].into()
    }

    fn key(name: &str) -> ServiceKey {
        ("ns".to_owned(), name.to_owned())
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The apps of the pods that have an address; `None` if nobody has it.
    fn apps(directory: &Directory, text: &str) -> Option<Vec<String>> {
        directory.with_origin(address(text), |origin| match origin {
            Origin::Pods(pods) => {
                let app = |pod: &PodIdentity<'_>| Some(pod.labels?.get("app")?.to_owned());
                Some(
                    pods.iter()
                        .map(|pod| app(pod).unwrap_or_default())
                        .collect(),
                )
            }
            Origin::Node => Some(vec!["node".to_owned()]),
            Origin::NotFound | Origin::Full | Origin::NotSynced => None,
        })
    }

    #[test]
    fn an_address_is_that_of_the_pods_that_have_it_now() {
        let directory = Directory::default();
        directory.set_pod(
            &key("a"),
            vec![address("10.0.0.1"), address("fd00::1")],
            &labels("a"),
        );
        assert_eq!(apps(&directory, "10.0.0.1"), None, "not all pods were read");
        directory.publish(true);
        assert_eq!(apps(&directory, "10.0.0.1"), Some(vec!["a".into()]));
        assert_eq!(apps(&directory, "fd00::1"), Some(vec!["a".into()]));
        // the address is given on before the end of the former pod is heard of
        directory.set_pod(&key("b"), vec![address("10.0.0.1")], &labels("b"));
        assert_eq!(
            apps(&directory, "10.0.0.1"),
            Some(vec!["a".into(), "b".into()])
        );
        directory.set_pod(&key("a"), Vec::new(), &labels("a"));
        assert_eq!(apps(&directory, "10.0.0.1"), Some(vec!["b".into()]));
        directory.set_pod(&key("b"), vec![address("10.0.0.1")], &labels("c"));
        assert_eq!(apps(&directory, "10.0.0.1"), Some(vec!["c".into()]));
        directory.set_node("n", vec![address("10.0.0.1")]);
        assert_eq!(apps(&directory, "10.0.0.1"), Some(vec!["node".into()]));
        directory.set_node("n", Vec::new());
        directory.set_pod(&key("b"), Vec::new(), &labels("c"));
        assert_eq!(apps(&directory, "10.0.0.1"), None);
        assert!(directory.read().addresses.is_empty() && directory.0.bytes.is_empty());
    }

    #[test]
    fn pods_beyond_the_bound_are_not_known_and_leave_room_for_other_namespaces() {
        let directory = Directory::with_limit(64 << 10);
        for number in 0..1_000_u32 {
            let own = address(&format!("10.1.{}.{}", number / 256, number % 256));
            directory.set_pod(&key(&number.to_string()), vec![own], &labels("a"));
        }
        let known = directory.pods().len();
        assert!((50..=100).contains(&known), "{known} of 1,000 pods");
        let other = ("other".to_owned(), "b".to_owned());
        directory.set_pod(&other, vec![address("10.2.0.1")], &labels("b"));
        directory.publish(true);
        assert_eq!(apps(&directory, "10.2.0.1"), Some(vec!["b".into()]));
        directory.with_origin(address("10.1.3.1"), |origin| {
            assert!(matches!(origin, Origin::Full), "{origin:?}");
        });
        // whose owner is not known is nobody's once there is room for all
        for number in 0..1_000_u32 {
            directory.set_pod(&key(&number.to_string()), Vec::new(), &labels("a"));
        }
        directory.publish(true);
        directory.with_origin(address("10.1.3.1"), |origin| {
            assert!(matches!(origin, Origin::NotFound), "{origin:?}");
        });
    }

    #[test]
    fn a_pod_with_very_many_labels_is_known_without_them() {
        let directory = Directory::default();
        let many = (0..1_000).map(|number| (format!("label-{number}"), "x".repeat(60)));
        directory.set_pod(&key("a"), vec![address("10.0.0.1")], &many.collect());
        directory.publish(true);
        directory.with_origin(address("10.0.0.1"), |origin| match origin {
            Origin::Pods(pods) => assert_eq!((pods[0].namespace, pods[0].labels), ("ns", None)),
            other => unreachable!("{other:?}"),
        });
    }

    #[test]
    fn equal_labels_are_kept_once_and_those_that_no_pod_has_go() {
        let directory = Directory::default();
        for number in 0..5_000_u32 {
            let own = vec![address(&format!("10.1.{}.{}", number / 256, number % 256))];
            directory.set_pod(&key("one"), own.clone(), &labels(&number.to_string()));
            directory.set_pod(&key(&number.to_string()), own, &labels("same"));
        }
        let kept = directory.read().labels.len();
        assert!(kept <= 2_048, "{kept}");
    }
}
