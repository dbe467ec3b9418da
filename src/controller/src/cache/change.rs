//! Which objects changed in the caches, for the model.

use std::sync::Arc;

use bursar_core::model::Key;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};
use tokio::sync::mpsc;

/// A kind that is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum CachedKind {
    // what others are read with comes first
    Node,
    PriceList,
    ConfigMap,
    PriorityClass,
    SpendRecord,
    SpendCorrection,
    BudgetPolicy,
    PersistentVolumeClaim,
    ResourceClaim,
    ResourceSlice,
    Pod,
    InferenceDeployment,
    Deployment,
    Service,
    EndpointSlice,
    TrainingJob,
    Job,
}

impl CachedKind {
    /// All kinds.
    pub(crate) const ALL: [Self; 17] = [
        Self::Node,
        Self::PriceList,
        Self::ConfigMap,
        Self::PriorityClass,
        Self::SpendRecord,
        Self::SpendCorrection,
        Self::BudgetPolicy,
        Self::PersistentVolumeClaim,
        Self::ResourceClaim,
        Self::ResourceSlice,
        Self::Pod,
        Self::InferenceDeployment,
        Self::Deployment,
        Self::Service,
        Self::EndpointSlice,
        Self::TrainingJob,
        Self::Job,
    ];
}

/// The key of an object; its namespace is empty if it belongs to the cluster.
pub(crate) fn key_of<K: ResourceExt>(object: &K) -> Key {
    Key::new(&object.namespace().unwrap_or_default(), &object.name_any())
}

/// The object of this key, as its cache has it.
pub(crate) fn cached<K>(store: &Store<K>, key: &Key) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let reference = ObjectRef::new(&key.name);
    store.get(&match key.namespace.is_empty() {
        true => reference,
        false => reference.within(&key.namespace),
    })
}

/// What changed in a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CacheChange {
    /// One object: it is there, changed, or gone.
    Object(CachedKind, Key),
    /// Any object of the kind: the watch began anew with a list.
    Listed(CachedKind),
}

/// Where changes are sent.
pub(crate) type CacheChanges = mpsc::UnboundedSender<CacheChange>;
