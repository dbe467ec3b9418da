//! The pods that the model knows, and who leads them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bursar_core::model::Key;
use bursar_core::model::event::Name;
use k8s_openapi::api::core::v1::Pod;

use crate::pod;

#[derive(Debug)]
struct KnownPod {
    uid: Name,
    /// The UID of the pod that leads it.
    leader: Option<Name>,
}

/// The pods that the model knows.
#[derive(Debug, Default)]
pub(super) struct KnownPods {
    pods: BTreeMap<Key, KnownPod>,
    /// Those that a pod leads, by its UID.
    workers: HashMap<Name, BTreeSet<Key>>,
}

impl KnownPods {
    /// Their keys.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.pods.keys()
    }

    /// Those of a namespace.
    pub(super) fn keys_in(&self, namespace: &Name) -> impl Iterator<Item = &Key> {
        let from = self.pods.range(Key::new(namespace, "")..);
        let keys = from.map(|(key, _)| key);
        keys.take_while(move |key| key.namespace == *namespace)
    }

    /// Whether the pod of this name is known by this UID.
    pub(super) fn contains(&self, key: &Key, uid: &str) -> bool {
        let known = self.pods.get(key);
        known.is_some_and(|known| *known.uid == *uid)
    }

    /// Takes what there is of a name now. Returns the UID of the pod of this name that is gone.
    pub(super) fn set(&mut self, key: &Key, pod: Option<&Pod>) -> Option<Name> {
        let former = self.pods.remove(key);
        if let Some(leader) = former.as_ref().and_then(|former| former.leader.as_ref())
            && let Some(workers) = self.workers.get_mut(leader)
        {
            workers.remove(key);
            if workers.is_empty() {
                self.workers.remove(leader);
            }
        }
        if let Some(pod) = pod {
            let (uid, leader) = (pod::uid(pod).into(), pod::leader(pod).map(Name::from));
            if let Some(leader) = &leader {
                let workers = self.workers.entry(leader.clone()).or_default();
                workers.insert(key.clone());
            }
            self.pods.insert(key.clone(), KnownPod { uid, leader });
        }
        let is_gone = |uid: &Name| !self.contains(key, uid);
        former.map(|former| former.uid).filter(is_gone)
    }

    /// The pods that this one leads.
    pub(super) fn workers_of(&self, leader: &Name) -> impl Iterator<Item = &Key> {
        self.workers.get(leader).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use bursar_api::names::LEADER_ANNOTATION;

    fn pod(uid: &str, leader: &str) -> Pod {
        let annotations = json!({LEADER_ANNOTATION: leader});
        let metadata = json!({"uid": uid, "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    #[test]
    fn workers_are_found_by_their_leader_whatever_replaces_them() {
        let mut known = KnownPods::default();
        let key = Key::new("team", "old-0-1");
        let workers = |known: &KnownPods, leader: &str| known.workers_of(&leader.into()).count();
        assert_eq!(known.set(&key, Some(&pod("a", "x"))), None);
        assert_eq!(known.set(&key, Some(&pod("a", "x"))), None);
        assert_eq!((workers(&known, "x"), workers(&known, "y")), (1, 0));
        assert_eq!(known.set(&key, Some(&pod("b", "y"))), Some("a".into()));
        assert_eq!((workers(&known, "x"), workers(&known, "y")), (0, 1));
        assert!(known.contains(&key, "b") && !known.contains(&key, "a"));
        assert_eq!(known.set(&key, None), Some("b".into()));
        assert!(
            known.workers.is_empty(),
            "nothing is left of pods that are gone"
        );
    }
}
