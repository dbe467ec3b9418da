//! A cluster with a leader whose caches are kept by watches, as in production, and not filled by
//! the test.

use bursar_api::lenient::Lenient;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::runtime::reflector::Store;
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::leader::Leader;
use super::world::{NAMESPACE, World};
use crate::unreadable_status;

/// A cluster, and a leader whose caches are kept by watches.
pub(super) struct WatchedCluster {
    pub(super) world: World,
    pub(super) leader: Leader,
}

impl WatchedCluster {
    /// A new leader of this cluster, whose first lists have what is there.
    pub(super) async fn led(world: World) -> Self {
        let leader = Leader::watching(&world).await;
        Self { world, leader }
    }

    /// Another leader takes over.
    pub(super) async fn change_leader(&mut self) {
        self.leader = Leader::watching(&self.world).await;
    }

    /// Seconds pass, with a decision in each by caches that are current.
    pub(super) async fn seconds(&mut self, count: usize) {
        for _ in 0..count {
            self.world.turn().await;
            self.decide().await;
        }
    }

    async fn decide(&mut self) {
        self.wait_for_caches().await;
        if let Err(error) = self.leader.reconcile_caches(&self.world).await {
            assert!(error.is_conflict(), "{error}");
        }
        self.wait_for_caches().await;
    }

    /// Writes conditions until none is missing; returns in how many rounds.
    pub(super) async fn report(&self) -> usize {
        for round in 0.. {
            self.wait_for_caches().await;
            let unreported = self.leader.context.unreadable.unreported(self.world.now);
            if unreported.is_empty() {
                return round;
            }
            let errors = unreadable_status::sync_once(&self.leader.context, self.world.now).await;
            assert!(errors.is_empty(), "{errors:?}");
            self.leader.context.events.flush().await;
            assert!(round < 100, "{unreported:?} are never reported");
        }
        0
    }

    /// Waits until the watches have brought what the server has.
    pub(super) async fn wait_for_caches(&self) {
        let stores = &self.leader.context.stores;
        let current = async {
            while !(self.is_current(&stores.services)
                && self.is_current(&stores.jobs)
                && self.is_current(&stores.budgets)
                && self.is_current(&stores.records)
                && self.is_current(&stores.deployments)
                && self.is_current(&stores.batch_jobs)
                && self.is_current(&stores.front_services)
                && self.is_current(&stores.slices)
                && self.is_current(&stores.nodes)
                && self.is_current(&stores.pauses)
                && self.is_current(&stores.pods))
            {
                tokio::task::yield_now().await;
            }
        };
        let limit = std::time::Duration::from_secs(20);
        tokio::time::timeout(limit, current).await.unwrap();
    }

    fn is_current<K>(&self, store: &Store<K>) -> bool
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + 'static,
    {
        let unreadable = &self.leader.context.unreadable;
        let all: Vec<Lenient<K>> = self.world.server.objects();
        let key = |object: &K| (object.namespace(), object.name_any());
        let cached = store.state();
        // owned objects are watched by their label
        let all: Vec<Lenient<K>> = all
            .into_iter()
            .filter(|object| {
                let labelled = object.labels().contains_key("bursar.dev/workload");
                labelled || !["Deployment", "Service"].contains(&&*K::kind(&()))
            })
            .collect();
        let is_there = |object: &Lenient<K>| {
            let (name, namespace) = (object.name_any(), object.namespace());
            let version = object.resource_version();
            let found = cached.iter().any(|found| {
                key(found) == (namespace.clone(), name.clone())
                    && found.resource_version() == version
            });
            found || unreadable.version_of::<K>(&namespace.unwrap_or_default(), &name) == version
        };
        let gone = unreadable.all::<K>().iter().any(|object| {
            let listed = |each: &Lenient<K>| {
                each.name_any() == object.name
                    && each.namespace().unwrap_or_default() == object.namespace
            };
            !all.iter().any(listed)
        });
        all.iter().all(is_there) && cached.len() <= all.len() && !gone
    }

    /// What the server has of an object, read or not.
    pub(super) async fn get<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(
        &self,
        name: &str,
    ) -> Value {
        let object = objects::<K>(&self.world, NAMESPACE)
            .get(name)
            .await
            .unwrap();
        serde_json::to_value(object).unwrap()
    }

    pub(super) fn replicas(&self, name: &str) -> Option<i32> {
        let all: Vec<Deployment> = self.world.server.objects();
        let found = all.iter().find(|found| found.name_any() == name)?;
        found.spec.replicas
    }
}

fn objects<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(
    world: &World,
    namespace: &str,
) -> Api<DynamicObject> {
    Api::namespaced_with(
        world.server.client(),
        namespace,
        &ApiResource::erase::<K>(&()),
    )
}

/// Creates an object as a schema of an earlier version lets it in: this server checks none.
pub(super) async fn create<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(
    world: &World,
    mut object: Value,
) {
    object["apiVersion"] = json!(K::api_version(&()));
    object["kind"] = json!(K::kind(&()));
    let object: DynamicObject = serde_json::from_value(object).unwrap();
    let api = objects::<K>(world, NAMESPACE);
    api.create(&PostParams::default(), &object).await.unwrap();
}

/// Changes an object, and its status, as somebody does who does not know its type.
pub(super) async fn patch<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(
    world: &World,
    name: &str,
    change: Value,
) {
    let api = objects::<K>(world, NAMESPACE);
    let (params, patch) = (PatchParams::default(), Patch::Merge(change.clone()));
    match change.get("status") {
        Some(_) => api.patch_status(name, &params, &patch).await.unwrap(),
        None => api.patch(name, &params, &patch).await.unwrap(),
    };
}
