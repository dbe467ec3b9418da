//! What the controller sees of the cluster: one watch and one cache a kind. Every event names the namespaces that it concerns.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bursar_api::{
    BudgetPolicy, InferenceDeployment, PriceList, SpendCorrection, SpendRecord, TrainingJob,
};
use futures::future::try_join_all;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::runtime::reflector::{self, Lookup, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::context::lock;
use crate::pod;

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
#[derive(Debug, Default)]
pub(crate) struct Departed(Mutex<VecDeque<Pod>>);

/// As many departed pods are kept.
const DEPARTED: usize = 1_000;

impl Departed {
    fn put(&self, pod: &Pod) {
        let mut pods = lock(&self.0);
        if pods.len() == DEPARTED {
            pods.pop_front();
        }
        pods.push_back(pod.clone());
    }

    /// The pod as it was last seen.
    pub(crate) fn take(&self, uid: &str) -> Option<Pod> {
        let mut pods = lock(&self.0);
        let at = pods.iter().position(|pod| pod::uid(pod) == uid)?;
        pods.remove(at)
    }
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
    ) -> Result<Arc<Self>, Unsynced> {
        let mut syncing = Vec::new();
        let ours = watcher::Config::default().labels(bursar_api::names::WORKLOAD_LABEL);
        let all = watcher::Config::default;
        macro_rules! store {
            ($config:expr, $concern:expr) => {{
                let departed = Arc::clone(departed);
                let store = follow(client, $config, concerns.clone(), departed, $concern);
                let ready = store.clone();
                syncing.push(
                    async move { ready.wait_until_ready().await.map_err(|_| Unsynced) }.boxed(),
                );
                store
            }};
        }
        let stores = Self {
            services: store!(all(), own_namespace),
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
            pods: store!(all(), own_namespace),
            nodes: store!(all(), |_: &Node| Concern::All),
            priorities: store!(all(), |_: &PriorityClass| Concern::All),
        };
        try_join_all(syncing).await?;
        Ok(Arc::new(stores))
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
impl Trim for SpendRecord {}
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

impl Trim for Node {
    /// A node's heartbeat changes its status every few minutes, and the list of its images is long.
    fn trim(&mut self) {
        self.managed_fields_mut().clear();
        if let Some(status) = &mut self.status {
            status.images = None;
        }
    }
}

impl Trim for Pod {
    /// The times of status writes stay: they date ends that the kubelet did not.
    fn trim(&mut self) {
        keep_times(self.managed_fields_mut());
        let Some(spec) = &mut self.spec else { return };
        spec.volumes = None;
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
            || pod::gpus(self).is_some()
            || crate::gateways::is_gateway(self)
    }

    fn depart(&self, departed: &Departed) {
        if pod::gpus(self).is_some() {
            departed.put(self);
        }
    }
}
