//! What the controller sees of the cluster: one watch and one cache a kind. Every event names the namespaces that it concerns.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bursar_api::spend::WorkloadKind;
use bursar_api::{
    BudgetPolicy, InferenceDeployment, PriceList, SpendCorrection, SpendRecord, TrainingJob,
    gpu_inventory,
};
use futures::future::try_join_all;
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod, Service, Volume};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::runtime::reflector::{self, Lookup, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::api_calls::{ApiError, with_timeout};
use crate::engine_targets::EngineTargets;
use crate::lock::lock;
use crate::pod;
use crate::resource_claim;

/// The caches.
pub(crate) struct Stores {
    pub(crate) services: Store<InferenceDeployment>,
    pub(crate) jobs: Store<TrainingJob>,
    pub(crate) budgets: Store<BudgetPolicy>,
    pub(crate) prices: Store<PriceList>,
    pub(crate) records: Store<SpendRecord>,
    pub(crate) corrections: Store<SpendCorrection>,
    pub(crate) deployments: Store<Deployment>,
    pub(crate) batch_jobs: Store<Job>,
    pub(crate) front_services: Store<Service>,
    pub(crate) slices: Store<EndpointSlice>,
    pub(crate) pods: Store<Pod>,
    pub(crate) nodes: Store<Node>,
    pub(crate) priorities: Store<PriorityClass>,
    pub(crate) volume_claims: Store<PersistentVolumeClaim>,
    /// Empty where the API server has no dynamic resource allocation.
    pub(crate) device_claims: Store<ResourceClaim>,
    /// The same.
    pub(crate) device_slices: Store<ResourceSlice>,
}

/// What an event concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Concern {
    /// One namespace.
    Namespace(String),
    /// Every namespace that has workloads: a price or a node changed.
    All,
}

/// GPU pods as the watch last saw them when they went, for a while: a pod without the finalizer takes the time of its end with it.
/// Of nodes it is the moment at which they went.
#[derive(Debug, Default)]
pub(crate) struct Departed {
    pods: Mutex<VecDeque<Pod>>,
    nodes: Mutex<VecDeque<(String, Timestamp)>>,
}

/// As many departed pods are kept, and as many nodes.
const DEPARTED: usize = 1_000;

impl Departed {
    fn put(&self, pod: &Pod) {
        put(&self.pods, pod.clone());
    }

    /// The pod as it was last seen.
    pub(crate) fn take(&self, uid: &str) -> Option<Pod> {
        let mut pods = lock(&self.pods);
        let at = pods.iter().position(|pod| pod::uid(pod) == uid)?;
        pods.remove(at)
    }

    /// Notes that the node of this UID went.
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

fn put<T>(departed: &Mutex<VecDeque<T>>, one: T) {
    let mut departed = lock(departed);
    if departed.len() == DEPARTED {
        departed.pop_front();
    }
    departed.push_back(one);
}

/// Where concerns go.
pub(crate) type Concerns = mpsc::UnboundedSender<Concern>;

/// Caches did not fill.
#[derive(Debug, thiserror::Error)]
#[error("a watch ended before its first list was complete")]
pub(crate) struct Unsynced;

impl Stores {
    /// Starts all watches, and returns when all first lists are complete.
    pub(crate) async fn start(
        client: &Client,
        concerns: &Concerns,
        departed: &Arc<Departed>,
        engines: &Arc<EngineTargets>,
    ) -> Result<Arc<Self>, Unsynced> {
        let mut syncing = Vec::new();
        let ours = watcher::Config::default().labels(bursar_api::names::WORKLOAD_LABEL);
        let all = watcher::Config::default;
        macro_rules! store {
            ($config:expr, $concern:expr) => {
                store!($config, $concern, |_| {})
            };
            ($config:expr, $concern:expr, $observe:expr) => {{
                let departed = Arc::clone(departed);
                let concerns = concerns.clone();
                let store = follow(client, $config, concerns, departed, $concern, $observe);
                let ready = store.clone();
                syncing.push(
                    async move { ready.wait_until_ready().await.map_err(|_| Unsynced) }.boxed(),
                );
                store
            }};
        }
        let (mut device_claims, mut device_slices) = (reflector::store().0, reflector::store().0);
        if allocates_devices(client).await {
            device_claims = store!(all(), own_namespace);
            device_slices = store!(all(), |_: &ResourceSlice| Concern::All);
        }
        let (pods, services) = (Arc::clone(engines), Arc::clone(engines));
        let stores = Self {
            services: store!(all(), own_namespace, move |event| services
                .on_service(event)),
            jobs: store!(all(), own_namespace),
            budgets: store!(all(), own_namespace),
            prices: store!(all(), |_: &PriceList| Concern::All),
            records: store!(all(), |record: &SpendRecord| Concern::Namespace(
                record.spec.namespace.clone()
            )),
            corrections: store!(all(), |correction: &SpendCorrection| Concern::Namespace(
                correction.spec.namespace.clone()
            )),
            deployments: store!(ours.clone(), own_namespace),
            batch_jobs: store!(ours.clone(), own_namespace),
            front_services: store!(ours.clone(), own_namespace),
            slices: store!(ours, own_namespace),
            pods: store!(all(), own_namespace, move |event| pods.on_pod(event)),
            nodes: store!(all(), |_: &Node| Concern::All),
            priorities: store!(all(), |_: &PriorityClass| Concern::All),
            volume_claims: store!(all(), own_namespace),
            device_claims,
            device_slices,
        };
        try_join_all(syncing).await?;
        Ok(Arc::new(stores))
    }
}

/// Whether the API server has dynamic resource allocation. Asks until it answers.
async fn allocates_devices(client: &Client) -> bool {
    const AGAIN: Duration = Duration::from_secs(1);
    loop {
        let asked = client.list_api_group_resources("resource.k8s.io/v1");
        match with_timeout("list resources of resource.k8s.io/v1", asked).await {
            Ok(found) => {
                return found
                    .resources
                    .iter()
                    .any(|each| each.name == "resourceclaims");
            }
            Err(ApiError::Gone { .. }) => return false,
            Err(error) => tracing::warn!(%error, "discovery"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

fn own_namespace<K: ResourceExt>(object: &K) -> Concern {
    Concern::Namespace(object.namespace().unwrap_or_default())
}

fn follow<K>(
    client: &Client,
    config: watcher::Config,
    concerns: Concerns,
    departed: Arc<Departed>,
    concern: fn(&K) -> Concern,
    observe: impl Fn(&Event<K>) + Send + 'static,
) -> Store<K>
where
    K: Resource<DynamicType = ()>
        + Lookup<DynamicType = ()>
        + DeserializeOwned
        + Clone
        + std::fmt::Debug
        + Send
        + Sync
        + Trim
        + 'static,
{
    let (reader, writer) = reflector::store();
    let kind = <K as Resource>::kind(&()).into_owned();
    let events = watch(Api::<K>::all(client.clone()), config)
        .default_backoff()
        .modify(K::trim)
        .reflect(writer);
    tokio::spawn(async move {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            if let Ok(event) = &event {
                observe(event);
            }
            let object = match event {
                Ok(Event::Apply(object) | Event::InitApply(object)) => object,
                Ok(Event::Delete(object)) => {
                    object.depart(&departed);
                    object
                }
                Ok(Event::Init | Event::InitDone) => continue,
                Err(error) => {
                    tracing::warn!(kind, %error, "watch");
                    continue;
                }
            };
            if K::matters(&object) && concerns.send(concern(&object)).is_err() {
                return;
            }
        }
    });
    reader
}

/// Leaves out of a cache what nobody reads.
pub(crate) trait Trim: ResourceExt {
    /// Takes the object's unread parts away.
    fn trim(&mut self) {
        self.managed_fields_mut().clear();
    }

    /// Leaves behind what is needed of it when it is gone.
    fn depart(&self, _: &Departed) {}

    /// Whether a change of this object may change a decision.
    fn matters(&self) -> bool {
        true
    }
}

impl Trim for InferenceDeployment {}
impl Trim for TrainingJob {}
impl Trim for BudgetPolicy {}
impl Trim for SpendCorrection {}
impl Trim for Deployment {}
impl Trim for Job {}
impl Trim for Service {}
impl Trim for EndpointSlice {}
impl Trim for PriorityClass {}

/// Of who wrote which field, leaves when, and whether it was the status.
fn keep_times(entries: &mut [ManagedFieldsEntry]) {
    for entry in entries {
        *entry = ManagedFieldsEntry {
            time: entry.time.take(),
            subresource: entry.subresource.take(),
            ..Default::default()
        };
    }
}

impl Trim for PriceList {
    /// The times of edits stay: they say since when a price is known.
    fn trim(&mut self) {
        keep_times(self.managed_fields_mut());
    }
}

impl Trim for SpendRecord {
    /// The accounts of nodes are nobody's namespace's.
    fn matters(&self) -> bool {
        self.spec.kind != WorkloadKind::Node
    }
}

impl Trim for Node {
    /// A node's heartbeat changes its status every few minutes, and the list of its images is long.
    fn trim(&mut self) {
        self.managed_fields_mut().clear();
        if let Some(status) = &mut self.status {
            status.images = None;
        }
    }

    fn depart(&self, departed: &Departed) {
        let uid = self.metadata.uid.clone();
        departed.put_node(uid.unwrap_or_default(), Timestamp::now());
    }
}

/// Of volumes, leaves those that are charged for, and of these what they are charged by.
fn keep_claims(mut volumes: Vec<Volume>) -> Vec<Volume> {
    volumes.retain(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
    for volume in &mut volumes {
        let template = volume
            .ephemeral
            .as_mut()
            .and_then(|made| made.volume_claim_template.as_mut());
        if let Some(template) = template {
            template.metadata = None;
        }
    }
    volumes
}

impl Trim for PersistentVolumeClaim {
    /// Its size is all that is read, with the next look at its namespace.
    fn trim(&mut self) {
        leave_names(self);
        if let Some(status) = &mut self.status {
            (status.conditions, status.allocated_resources) = (None, None);
        }
    }

    fn matters(&self) -> bool {
        false
    }
}

impl Trim for ResourceClaim {
    fn trim(&mut self) {
        leave_names(self);
        self.spec = None;
        if let Some(status) = &mut self.status {
            status.devices = None;
        }
    }

    fn matters(&self) -> bool {
        resource_claim::holds_gpus(self)
    }
}

impl Trim for ResourceSlice {
    fn trim(&mut self) {
        leave_names(self);
        self.spec.shared_counters = None;
        let devices = self.spec.devices.iter_mut().flatten();
        devices.for_each(|device| *device = gpu_inventory::pruned(device));
    }

    /// It is read with the next look at a pod.
    fn matters(&self) -> bool {
        false
    }
}

fn leave_names<K: ResourceExt>(object: &mut K) {
    object.managed_fields_mut().clear();
    object.annotations_mut().clear();
    object.labels_mut().clear();
}

impl Trim for Pod {
    /// The times of status writes stay: they date ends that the kubelet did not.
    fn trim(&mut self) {
        keep_times(self.managed_fields_mut());
        let Some(spec) = &mut self.spec else { return };
        spec.volumes = spec.volumes.take().map(keep_claims);
        for container in spec
            .containers
            .iter_mut()
            .chain(spec.init_containers.iter_mut().flatten())
        {
            (
                container.env,
                container.volume_mounts,
                container.args,
                container.command,
            ) = (None, None, None, None);
        }
    }

    fn matters(&self) -> bool {
        self.labels()
            .contains_key(bursar_api::names::WORKLOAD_LABEL)
            || pod::may_hold_gpus(self)
            || pod::is_gateway(self)
    }

    fn depart(&self, departed: &Departed) {
        if pod::may_hold_gpus(self) {
            departed.put(self);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// A client of an API server that answers this once it has been asked `after` times.
    fn answering(after: usize, code: u16, answer: Value) -> Client {
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let serve = tower::service_fn(move |_: Request<Body>| {
            let again = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < after;
            let (code, answer) = if again {
                (500, json!({}))
            } else {
                (code, answer.clone())
            };
            async move {
                let body = Body::from(answer.to_string().into_bytes());
                let response = Response::builder().status(code).body(body);
                Ok::<_, std::io::Error>(response.unwrap())
            }
        });
        Client::new(serve, "default")
    }

    #[tokio::test(start_paused = true)]
    async fn devices_are_watched_only_where_the_api_server_has_them() {
        let list = |names: &[&str]| {
            let resource = |name: &&str| json!({"name": name, "singularName": "", "namespaced": true, "kind": "K", "verbs": []});
            let resources: Vec<Value> = names.iter().map(resource).collect();
            json!({"kind": "APIResourceList", "groupVersion": "resource.k8s.io/v1", "resources": resources})
        };
        let missing = json!({"kind": "Status", "status": "ApiError", "code": 404, "message": "no", "reason": "NotFound"});
        assert!(!allocates_devices(&answering(0, 404, missing)).await);
        assert!(!allocates_devices(&answering(0, 200, list(&["deviceclasses"]))).await);
        assert!(allocates_devices(&answering(2, 200, list(&["resourceclaims"]))).await);
    }
}
