//! From the events of a watch to a cache, object by object.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use bursar_api::lenient::{Lenient, Unreadable};
use bursar_core::model::Key;
use kube::runtime::reflector::{self, Store, store::Writer};
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::cache::change::{CacheChange, CacheChanges, cached, key_of};
use crate::cache::pruning::{self, CachePolicy};
use crate::cache::tombstones::Tombstones;
use crate::cache::trigger::Trigger;
use crate::cache::unreadable::UnreadableObjects;

/// A kind that is cached.
pub(crate) trait Cached:
    Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + Sync + CachePolicy + 'static
{
}

impl<K> Cached for K where
    K: Resource<DynamicType = ()>
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + Sync
        + CachePolicy
        + 'static
{
}

/// Sees each event as the cache takes it: objects that can be read, and pruned.
pub(crate) type Observer<K> = Box<dyn Fn(&Event<K>) + Send>;

/// The writing side of the cache of one kind.
pub(crate) struct CacheWriter<K: Cached> {
    writer: Writer<K>,
    store: Store<K>,
    trigger: fn(&K) -> Option<Trigger>,
    tombstones: Arc<Tombstones>,
    unreadable: Arc<UnreadableObjects>,
    changes: CacheChanges,
    observer: Option<Observer<K>>,
    /// While a list is in progress: its objects that cannot be read, by namespace and name.
    listed: Option<BTreeSet<(String, String)>>,
}

impl<K: Cached> CacheWriter<K> {
    /// An empty cache. A change of an object has this `trigger`.
    pub(crate) fn new(
        trigger: fn(&K) -> Option<Trigger>,
        tombstones: Arc<Tombstones>,
        unreadable: Arc<UnreadableObjects>,
        changes: CacheChanges,
        observer: Option<Observer<K>>,
    ) -> (Store<K>, Self) {
        let (store, writer) = reflector::store();
        let cache = Self {
            writer,
            store: store.clone(),
            trigger,
            tombstones,
            unreadable,
            changes,
            observer,
            listed: None,
        };
        (store, cache)
    }

    /// Applies an event; returns what it triggers.
    pub(crate) fn apply(&mut self, event: Event<Lenient<K>>) -> Option<Trigger> {
        let change = match &event {
            Event::Apply(object) | Event::Delete(object) => {
                Some(CacheChange::Object(K::KIND, key_of(object)))
            }
            Event::InitDone => Some(CacheChange::Listed(K::KIND)),
            Event::Init | Event::InitApply(_) => None,
        };
        let trigger = self.take(event);
        if let Some(change) = change {
            // nobody decides at the end of leadership
            self.changes.send(change).ok();
        }
        trigger
    }

    fn take(&mut self, event: Event<Lenient<K>>) -> Option<Trigger> {
        match event {
            Event::Init => {
                self.listed = Some(BTreeSet::new());
                self.write(Event::Init);
                None
            }
            Event::InitApply(object) => self.put(object, Event::InitApply),
            Event::InitDone => {
                self.unreadable
                    .retain::<K>(&self.listed.take().unwrap_or_default());
                self.write(Event::InitDone);
                None
            }
            Event::Apply(object) => self.put(object, Event::Apply),
            Event::Delete(object) => self.delete(object),
        }
    }

    fn write(&mut self, event: Event<K>) {
        if let Some(observer) = &self.observer {
            observer(&event);
        }
        self.writer.apply_watcher_event(&event);
    }

    fn put(&mut self, object: Lenient<K>, event: fn(K) -> Event<K>) -> Option<Trigger> {
        let mut object = match object.checked(K::check).into_result() {
            Ok(object) => object,
            Err(unreadable) => return self.put_unreadable(&unreadable, event),
        };
        self.unreadable
            .remove::<K>(&object.namespace().unwrap_or_default(), &object.name_any());
        pruning::prune(&mut object);
        let trigger = (self.trigger)(&object).filter(|_| object.triggers());
        self.write(event(object));
        trigger
    }

    /// Keeps the last version of the same object that could be read.
    fn put_unreadable(
        &mut self,
        unreadable: &Unreadable,
        event: fn(K) -> Event<K>,
    ) -> Option<Trigger> {
        let metadata = &unreadable.metadata;
        let namespace = metadata.namespace.clone().unwrap_or_default();
        let name = metadata.name.clone().unwrap_or_default();
        if self.unreadable.insert::<K>(unreadable) {
            let (kind, field) = (K::kind(&()), &unreadable.fault.field);
            tracing::warn!(%kind, namespace, name, field, "an object cannot be read; others are not affected");
        }
        let last = self.last(unreadable);
        let trigger = self.trigger_of(unreadable, last.as_deref());
        match last {
            Some(last) if metadata.uid.is_none() || last.meta().uid == metadata.uid => {
                self.write(event((*last).clone()));
            }
            Some(former) => self.forget(&former),
            None => {}
        }
        if let Some(listed) = &mut self.listed {
            listed.insert((namespace, name));
        }
        trigger
    }

    fn delete(&mut self, object: Lenient<K>) -> Option<Trigger> {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        self.unreadable.remove::<K>(&namespace, &name);
        match object.into_result() {
            Ok(mut object) => {
                object.prune();
                let trigger = (self.trigger)(&object).filter(|_| object.triggers());
                self.forget(&object);
                trigger
            }
            Err(unreadable) => {
                let last = self.last(&unreadable);
                let trigger = self.trigger_of(&unreadable, last.as_deref());
                if let Some(last) = last {
                    self.forget(&last);
                }
                trigger
            }
        }
    }

    /// Takes an object that is gone out of the cache.
    fn forget(&mut self, object: &K) {
        object.on_delete(&self.tombstones);
        self.write(Event::Delete(object.clone()));
    }

    /// What the cache has under the name of an object that cannot be read.
    fn last(&self, unreadable: &Unreadable) -> Option<Arc<K>> {
        let metadata = &unreadable.metadata;
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        cached(&self.store, &Key::new(namespace, metadata.name.as_deref()?))
    }

    /// What a change of an object triggers that cannot be read: the same as its last version.
    fn trigger_of(&self, unreadable: &Unreadable, last: Option<&K>) -> Option<Trigger> {
        match last {
            Some(last) => (self.trigger)(last).filter(|_| last.triggers()),
            None => K::trigger_of_unreadable(&unreadable.metadata),
        }
    }
}

#[cfg(test)]
mod tests {
    use bursar_api::SpendRecord;
    use bursar_api::spend::{WorkloadKind, WorkloadRef};
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    use super::*;
    use crate::cache::of_pod;

    /// A pod of one GPU; its node cannot be read if that is no text.
    fn pod(name: &str, uid: &str, node: Value) -> Lenient<Pod> {
        let resources = json!({"limits": {"nvidia.com/gpu": "1"}});
        let spec = json!({"nodeName": node, "containers": [{"name": "c", "resources": resources}]});
        let metadata = json!({"name": name, "namespace": "team", "uid": uid});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    /// The account of pods without labels.
    fn unmanaged() -> Trigger {
        Trigger::Workload(WorkloadRef::unmanaged("team".to_owned()))
    }

    struct TestCache {
        store: Store<Pod>,
        writer: CacheWriter<Pod>,
        tombstones: Arc<Tombstones>,
        unreadable: Arc<UnreadableObjects>,
    }

    impl TestCache {
        fn new() -> Self {
            let (tombstones, unreadable) = (Arc::default(), Arc::default());
            let (kept, known) = (Arc::clone(&tombstones), Arc::clone(&unreadable));
            let (store, writer) =
                CacheWriter::new(of_pod, kept, known, mpsc::unbounded_channel().0, None);
            Self {
                store,
                writer,
                tombstones,
                unreadable,
            }
        }

        fn list(&mut self, pods: Vec<Lenient<Pod>>) {
            self.writer.apply(Event::Init);
            for pod in pods {
                self.writer.apply(Event::InitApply(pod));
            }
            self.writer.apply(Event::InitDone);
        }

        /// Names and nodes of the cached pods, and names of those that cannot be read.
        fn state(&self) -> (Vec<(String, String)>, Vec<String>) {
            let node = |pod: &Pod| pod.spec.as_ref()?.node_name.clone();
            let pods = self.store.state();
            let mut cached: Vec<(String, String)> = pods
                .iter()
                .map(|pod| (pod.name_any(), node(pod).unwrap_or_default()))
                .collect();
            cached.sort();
            let unreadable = self.unreadable.all::<Pod>().into_iter();
            (cached, unreadable.map(|object| object.name).collect())
        }
    }

    fn state(cached: &[(&str, &str)], unreadable: &[&str]) -> (Vec<(String, String)>, Vec<String>) {
        let pair = |(name, node): &(&str, &str)| ((*name).to_owned(), (*node).to_owned());
        let names = unreadable.iter().map(|name| (*name).to_owned());
        (cached.iter().map(pair).collect(), names.collect())
    }

    #[test]
    fn the_last_readable_version_stays_over_events_and_lists() {
        let mut cache = TestCache::new();
        cache.list(vec![pod("a", "1", json!("n")), pod("b", "2", json!(5))]);
        assert_eq!(cache.state(), state(&[("a", "n")], &["b"]));
        let trigger = cache.writer.apply(Event::Apply(pod("a", "1", json!(5))));
        assert_eq!(trigger, Some(unmanaged()));
        assert_eq!(cache.state(), state(&[("a", "n")], &["a", "b"]));
        cache.list(vec![pod("a", "1", json!(6)), pod("b", "2", json!("m"))]);
        assert_eq!(cache.state(), state(&[("a", "n"), ("b", "m")], &["a"]));
        cache.writer.apply(Event::Apply(pod("a", "1", json!("o"))));
        assert_eq!(cache.state(), state(&[("a", "o"), ("b", "m")], &[]));
    }

    #[test]
    fn what_is_gone_is_forgotten_whether_it_can_be_read_or_not() {
        let mut cache = TestCache::new();
        cache.list(vec![pod("a", "1", json!("n")), pod("b", "2", json!("n"))]);
        cache.writer.apply(Event::Apply(pod("a", "1", json!(5))));
        cache.writer.apply(Event::Apply(pod("b", "2", json!(5))));
        let trigger = cache.writer.apply(Event::Delete(pod("a", "1", json!(5))));
        assert_eq!(trigger, Some(unmanaged()), "its account is synced");
        assert_eq!(cache.state(), state(&[("b", "n")], &["b"]));
        assert!(cache.tombstones.pod("1").is_some(), "its end is remembered");
        cache.list(Vec::new());
        assert_eq!(cache.state(), state(&[], &[]));
    }

    #[test]
    fn a_version_of_another_object_of_the_same_name_does_not_stay() {
        let mut cache = TestCache::new();
        cache.list(vec![pod("a", "1", json!("n"))]);
        cache.writer.apply(Event::Apply(pod("a", "9", json!(5))));
        assert_eq!(cache.state(), state(&[], &["a"]));
        assert!(cache.tombstones.pod("1").is_some());
    }

    #[test]
    fn what_was_never_read_triggers_syncs_by_its_name_and_its_labels() {
        let of_record = |name: &str| {
            let name = Some(name.to_owned());
            SpendRecord::trigger_of_unreadable(&ObjectMeta {
                name,
                ..ObjectMeta::default()
            })
        };
        let chat = WorkloadRef {
            namespace: "team".to_owned(),
            kind: WorkloadKind::InferenceDeployment,
            name: "chat".to_owned(),
        };
        let month = "2026-11".parse().unwrap();
        let folded = WorkloadRef {
            kind: WorkloadKind::Folded,
            ..chat.clone()
        };
        let all = Trigger::Accounts("team".to_owned());
        let record = Trigger::Record(chat.clone());
        assert_eq!(of_record(&chat.record_name(month)), Some(record));
        assert_eq!(of_record(&folded.record_name(month)), Some(all));
        let nodes = WorkloadRef::nodes("7f").record_name(month);
        assert_eq!((of_record(&nodes), of_record("by-hand")), (None, None));
        let mut cache = TestCache::new();
        let trigger = cache.writer.apply(Event::Apply(pod("a", "1", json!(5))));
        assert_eq!(trigger, Some(unmanaged()));
        let labels = [
            ("bursar.dev/workload", "chat"),
            ("bursar.dev/kind", "InferenceDeployment"),
        ];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let metadata = ObjectMeta {
            namespace: Some("team".to_owned()),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        };
        let trigger = Pod::trigger_of_unreadable(&metadata);
        assert_eq!(trigger, Some(Trigger::Workload(chat)));
    }
}
