//! The pods and the records of each namespace, found without looking at those of others.
//!
//! The watches keep it, before anybody is told of a change: whoever was told finds what the cache
//! has.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use bursar_api::SpendRecord;
use bursar_core::model::{Key, Name};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::Store;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};

use super::{cached, key_of};
use crate::lock::lock;
use crate::pod;

/// Pods that are charged to a workload or may be, and records, by the namespace that they are about.
#[derive(Debug, Default)]
pub(crate) struct NamespaceIndex {
    pods: Mutex<Index>,
    records: Mutex<Index>,
}

impl NamespaceIndex {
    /// Takes an event as the cache of pods takes it.
    pub(crate) fn on_pod(&self, event: &Event<Pod>) {
        let namespace = |pod: &Pod| pod::workload_of(pod).and_then(|_| pod.namespace());
        lock(&self.pods).apply(event, namespace);
    }

    /// Takes an event as the cache of records takes it.
    pub(crate) fn on_record(&self, event: &Event<SpendRecord>) {
        let namespace = |record: &SpendRecord| Some(record.spec.namespace.clone());
        lock(&self.records).apply(event, namespace);
    }

    /// The pods of a namespace that are charged to a workload, or may be.
    pub(crate) fn pods(&self, store: &Store<Pod>, namespace: &str) -> Vec<Arc<Pod>> {
        let keys = lock(&self.pods).keys(namespace);
        keys.iter().filter_map(|key| cached(store, key)).collect()
    }

    /// The records of a namespace; those of nodes have none.
    pub(crate) fn records(
        &self,
        store: &Store<SpendRecord>,
        namespace: &str,
    ) -> Vec<Arc<SpendRecord>> {
        let keys = lock(&self.records).keys(namespace);
        keys.iter().filter_map(|key| cached(store, key)).collect()
    }
}

/// The objects of one kind by namespace.
#[derive(Debug, Default)]
struct Index {
    namespaces: HashMap<Key, Name>,
    by_namespace: BTreeMap<Name, BTreeSet<Key>>,
    /// While a list is in progress: what it has.
    listed: Option<HashMap<Key, Name>>,
}

impl Index {
    fn apply<K>(&mut self, event: &Event<K>, namespace: impl Fn(&K) -> Option<String>)
    where
        K: Resource<DynamicType = ()>,
    {
        let namespace = |object: &K| namespace(object).map(Name::from);
        match event {
            Event::Init => self.listed = Some(HashMap::new()),
            Event::InitApply(object) => {
                let listed = self.listed.get_or_insert_default();
                match namespace(object) {
                    Some(namespace) => listed.insert(key_of(object), namespace),
                    None => listed.remove(&key_of(object)),
                };
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                *self = Self::default();
                for (key, namespace) in listed {
                    self.set(key, Some(namespace));
                }
            }
            Event::Apply(object) => self.set(key_of(object), namespace(object)),
            Event::Delete(object) => self.set(key_of(object), None),
        }
    }

    fn set(&mut self, key: Key, namespace: Option<Name>) {
        let former = match &namespace {
            Some(namespace) => self.namespaces.insert(key.clone(), namespace.clone()),
            None => self.namespaces.remove(&key),
        };
        if let Some(former) = former
            && let Some(keys) = self.by_namespace.get_mut(&former)
        {
            keys.remove(&key);
            if keys.is_empty() {
                self.by_namespace.remove(&former);
            }
        }
        if let Some(namespace) = namespace {
            self.by_namespace.entry(namespace).or_default().insert(key);
        }
    }

    fn keys(&self, namespace: &str) -> Vec<Key> {
        let keys = self.by_namespace.get(namespace).into_iter().flatten();
        keys.cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector;
    use serde_json::json;

    use super::*;

    /// A pod with GPUs or without, which nobody is charged for.
    fn pod(namespace: &str, name: &str, has_gpus: bool) -> Pod {
        let limits = if has_gpus {
            json!({"nvidia.com/gpu": "1"})
        } else {
            json!({})
        };
        let containers = json!([{"name": "c", "resources": {"limits": limits}}]);
        let metadata = json!({"namespace": namespace, "name": name, "uid": name});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": containers}}))
            .unwrap()
    }

    fn event(rng: &mut fastrand::Rng) -> Event<Pod> {
        let namespace = ["a", "b", "c"][rng.usize(0..3)];
        let name = format!("pod-{}", rng.u32(0..4));
        let pod = pod(namespace, &name, rng.bool());
        match rng.u32(0..9) {
            0 => Event::Init,
            1..=3 => Event::InitApply(pod),
            4 => Event::InitDone,
            5..=7 => Event::Apply(pod),
            _ => Event::Delete(pod),
        }
    }

    #[test]
    fn it_has_what_a_look_at_the_whole_cache_finds_after_any_events() {
        for seed in 0..500 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (store, mut writer) = reflector::store();
            let index = NamespaceIndex::default();
            for _ in 0..40 {
                let event = event(&mut rng);
                index.on_pod(&event);
                writer.apply_watcher_event(&event);
                for namespace in ["a", "b", "c", "d"] {
                    let mut wanted = store.state();
                    wanted.retain(|pod| {
                        pod.namespace().as_deref() == Some(namespace)
                            && pod::workload_of(pod).is_some()
                    });
                    let names = |mut pods: Vec<Arc<Pod>>| {
                        pods.sort_by_key(|pod| pod.name_any());
                        pods.iter().map(|pod| pod.name_any()).collect::<Vec<_>>()
                    };
                    let found = index.pods(&store, namespace);
                    assert_eq!(names(found), names(wanted), "seed {seed}");
                }
            }
        }
    }

    #[test]
    fn a_record_is_found_in_the_namespace_that_it_is_about_now() {
        let record = |namespace: &str| -> SpendRecord {
            serde_json::from_value(json!({
                "metadata": {"name": "team.pods.unmanaged.2026-11"},
                "spec": {
                    "namespace": namespace, "kind": "Unmanaged", "name": "unmanaged",
                    "month": "2026-11", "currency": "USD", "timeZone": "UTC",
                },
            }))
            .unwrap()
        };
        let (store, mut writer) = reflector::store();
        let index = NamespaceIndex::default();
        for namespace in ["team", "other"] {
            let event = Event::Apply(record(namespace));
            index.on_record(&event);
            writer.apply_watcher_event(&event);
            let found = |namespace| index.records(&store, namespace).len();
            let is_team = namespace == "team";
            assert_eq!(
                (found("team"), found("other")),
                (is_team.into(), (!is_team).into())
            );
        }
    }
}
