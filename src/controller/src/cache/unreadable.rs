//! The objects that cannot be read, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use bursar_api::lenient::Unreadable;
use bursar_api::quantities::FieldError;
use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use crate::lock::lock;

/// The most faults that are kept in words of one namespace. Of further objects it is known that
/// they cannot be read, and `kubectl bursar check` says why.
pub(crate) const MAX_FAULTS: usize = 64;

/// The most objects of a namespace whose statuses are compared at a time.
const MAX_REPORTS: usize = 20;

/// An object that cannot be read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UnreadableObject {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// The field and the fault; `None` beyond [`MAX_FAULTS`].
    fault: Option<FieldError>,
    version: Option<String>,
    /// When its own status is to be compared with this again.
    next_report: Timestamp,
}

impl UnreadableObject {
    /// Why it cannot be read.
    pub(crate) fn why(&self) -> String {
        match &self.fault {
            Some(fault) => fault.to_string(),
            None => "kubectl bursar check says which field".to_owned(),
        }
    }
}

/// The objects of a namespace by kind and name.
#[derive(Debug, Default)]
struct NamespaceObjects {
    objects: BTreeMap<(String, String), UnreadableObject>,
    /// How many of them have their fault in words.
    faults: usize,
}

impl NamespaceObjects {
    fn remove(&mut self, key: &(String, String)) -> Option<UnreadableObject> {
        let removed = self.objects.remove(key)?;
        self.faults -= usize::from(removed.fault.is_some());
        Some(removed)
    }
}

/// The objects that cannot be read, by namespace.
#[derive(Debug, Default)]
pub(crate) struct UnreadableObjects(Mutex<BTreeMap<String, NamespaceObjects>>);

impl UnreadableObjects {
    /// Notes an object; true if that is news: the object, or the field.
    pub(crate) fn insert<K: Resource<DynamicType = ()>>(&self, unreadable: &Unreadable) -> bool {
        let metadata = &unreadable.metadata;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (namespace, name) = (text(&metadata.namespace), text(&metadata.name));
        let key = (K::kind(&()).into_owned(), name.clone());
        let mut namespaces = lock(&self.0);
        let all = namespaces.entry(namespace.clone()).or_default();
        let former = all.remove(&key);
        let fault = (all.faults < MAX_FAULTS).then(|| unreadable.fault.clone());
        all.faults += usize::from(fault.is_some());
        let object = UnreadableObject {
            kind: key.0.clone(),
            namespace,
            name,
            uid: text(&metadata.uid),
            version: metadata.resource_version.clone(),
            next_report: former
                .as_ref()
                .filter(|former| former.version == metadata.resource_version)
                .map_or(Timestamp::MIN, |former| former.next_report),
            fault,
        };
        let field =
            |object: &UnreadableObject| object.fault.as_ref().map(|fault| fault.field.clone());
        let is_news = former.is_none_or(|former| field(&former) != field(&object));
        all.objects.insert(key, object);
        is_news
    }

    /// Forgets an object that can be read or is gone.
    pub(crate) fn remove<K: Resource<DynamicType = ()>>(&self, namespace: &str, name: &str) {
        let mut namespaces = lock(&self.0);
        let Some(all) = namespaces.get_mut(namespace) else {
            return;
        };
        all.remove(&(K::kind(&()).into_owned(), name.to_owned()));
        if all.objects.is_empty() {
            namespaces.remove(namespace);
        }
    }

    /// Forgets all objects of a kind except these, by namespace and name.
    pub(crate) fn retain<K: Resource<DynamicType = ()>>(
        &self,
        listed: &BTreeSet<(String, String)>,
    ) {
        let gone = self.all::<K>();
        let gone = gone
            .into_iter()
            .map(|object| (object.namespace, object.name))
            .filter(|key| !listed.contains(key));
        for (namespace, name) in gone {
            self.remove::<K>(&namespace, &name);
        }
    }

    /// All objects of a kind.
    pub(crate) fn all<K: Resource<DynamicType = ()>>(&self) -> Vec<UnreadableObject> {
        self.select(|object| object.kind == K::kind(&()))
    }

    /// The objects of a kind in a namespace.
    pub(crate) fn in_namespace<K: Resource<DynamicType = ()>>(
        &self,
        namespace: &str,
    ) -> Vec<UnreadableObject> {
        let namespaces = lock(&self.0);
        let all = namespaces.get(namespace).into_iter();
        all.flat_map(|all| all.objects.values())
            .filter(|object| object.kind == K::kind(&()))
            .cloned()
            .collect()
    }

    /// The object of this kind, namespace and name, if it cannot be read.
    fn get<K: Resource<DynamicType = ()>>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Option<UnreadableObject> {
        let namespaces = lock(&self.0);
        let key = (K::kind(&()).into_owned(), name.to_owned());
        namespaces.get(namespace)?.objects.get(&key).cloned()
    }

    /// Why the object of this kind, namespace and name cannot be read; `None` if it can be or is
    /// not there.
    pub(crate) fn why<K: Resource<DynamicType = ()>>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Option<String> {
        Some(self.get::<K>(namespace, name)?.why())
    }

    /// Whether this object, of which there is an older version, cannot be read now.
    pub(crate) fn contains<K: Resource<DynamicType = ()>>(&self, object: &K) -> bool {
        let namespace = object.namespace().unwrap_or_default();
        self.why::<K>(&namespace, &object.name_any()).is_some()
    }

    /// Whether an object of this kind with this UID is there and cannot be read.
    pub(crate) fn contains_uid<K: Resource<DynamicType = ()>>(
        &self,
        namespace: &str,
        uid: &str,
    ) -> bool {
        let objects = self.in_namespace::<K>(namespace);
        objects.iter().any(|object| object.uid == uid)
    }

    /// The objects whose own status may not say so: a few of each namespace.
    pub(crate) fn unreported(&self, now: Timestamp) -> Vec<UnreadableObject> {
        let namespaces = lock(&self.0);
        let of_namespace = |all: &NamespaceObjects| {
            let due = all.objects.values();
            let due = due.filter(|object| object.next_report <= now);
            due.take(MAX_REPORTS).cloned().collect::<Vec<_>>()
        };
        namespaces.values().flat_map(of_namespace).collect()
    }

    /// The version at which an object cannot be read.
    #[cfg(test)]
    pub(crate) fn version_of<K: Resource<DynamicType = ()>>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Option<String> {
        self.get::<K>(namespace, name)?.version
    }

    /// Notes when the status of the object at this version is to be compared again.
    pub(crate) fn note_report(&self, reported: &UnreadableObject, next: Timestamp) {
        let mut namespaces = lock(&self.0);
        let all = namespaces.get_mut(&reported.namespace);
        let key = (reported.kind.clone(), reported.name.clone());
        let object = all.and_then(|all| all.objects.get_mut(&key));
        if let Some(object) = object.filter(|object| object.version == reported.version) {
            object.next_report = next;
        }
    }

    fn select(&self, is_wanted: impl Fn(&UnreadableObject) -> bool) -> Vec<UnreadableObject> {
        let namespaces = lock(&self.0);
        let objects = namespaces.values().flat_map(|all| all.objects.values());
        objects
            .filter(|object| is_wanted(object))
            .cloned()
            .collect()
    }
}
