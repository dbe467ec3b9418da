//! What the controller sees of the cluster: one watch and one cache for each kind.
//!
//! | module | subject |
//! |---|---|
//! | `change` | which objects changed, for the model |
//! | `decoding` | from a watch's events to a cache, object by object |
//! | `namespace_index` | the pods and the records of each namespace |
//! | `pruning` | what caches keep of an object, and which objects trigger a sync |
//! | `progress` | whether the first lists go on |
//! | `tombstones` | what is remembered of pods and nodes that are gone |
//! | `trigger` | which syncs of accounts a change triggers |
//! | `unreadable` | the objects that cannot be read, and why |
//!
//! An object that cannot be read changes nothing for any other object. The cache keeps the last
//! version of it that could be read, and it takes nothing away:
//!
//! | kind | while it cannot be read |
//! |---|---|
//! | InferenceDeployment | its replicas and its port stay; budgets stop it by the last version |
//! | TrainingJob | one that runs goes on, one that does not run does not start |
//! | BudgetPolicy | nothing new starts in its namespace, nothing is stopped because of it |
//! | PriceList, SpendCorrection | the last version counts |
//! | SpendRecord | the spend of its workload is unknown, and the record is not written |
//! | Pod, Node | the last version counts, and the charge stays open |
//! | Deployment, Job, Service, EndpointSlice | its workload writes to none of them, and says so |
//! | all others | the last version counts |
//!
//! This process may have seen no version that can be read: then nothing is done to the workload,
//! and what runs of it is charged and counts in budgets; prices and corrections do not count, as if
//! they were not there; nothing is placed on the node. The SpendRecord of a closed month has the
//! accounts of all workloads of its namespace, so the spend of all is unknown.
//!
//! Bursar's own resources say so in the condition `Accepted` ([`crate::unreadable_status`]), and
//! `kubectl bursar check` lists them.

mod change;
mod decoding;
mod namespace_index;
mod progress;
mod pruning;
mod tombstones;
mod trigger;
mod unreadable;

use std::sync::Arc;
use std::time::Duration;

use bursar_api::lenient::{Lenient, bounded_text};
use bursar_api::names::PAUSE_CONFIG_MAP;
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_api::{
    BudgetPolicy, InferenceDeployment, PriceList, SpendCorrection, SpendRecord, TrainingJob,
};
use futures::future::try_join_all;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinSet;

use crate::api_calls::{ApiError, with_timeout};
use crate::cache::decoding::{CacheWriter, Cached, Observer};
use crate::cache::progress::{ListProgress, Progress};
use crate::engine_targets::EngineTargets;
use crate::pod;
use crate::signals::targets::SignalTargets;

pub(crate) use change::{CacheChange, CacheChanges, CachedKind, cached, key_of};
pub(crate) use namespace_index::NamespaceIndex;
#[cfg(test)]
pub(crate) use pruning::CachePolicy;
#[cfg(test)]
pub(crate) use pruning::prune;
pub(crate) use tombstones::Tombstones;
pub(crate) use trigger::{Trigger, Triggers};
#[cfg(test)]
pub(crate) use unreadable::MAX_FAULTS;
pub(crate) use unreadable::{UnreadableObject, UnreadableObjects};

/// Objects that are asked for at a time.
const PAGE_SIZE: u32 = 2_000;

/// What learns of each change, before anything is triggered by it.
pub(crate) struct Observers {
    pub(crate) tombstones: Arc<Tombstones>,
    pub(crate) unreadable: Arc<UnreadableObjects>,
    pub(crate) namespaces: Arc<NamespaceIndex>,
    pub(crate) engines: Arc<EngineTargets>,
    pub(crate) signals: Arc<SignalTargets>,
    pub(crate) progress: Progress,
}

impl Observers {
    /// They know nothing yet but where engines and signals are noted.
    pub(crate) fn new(engines: EngineTargets, signals: SignalTargets) -> Self {
        Self {
            tombstones: Arc::default(),
            unreadable: Arc::default(),
            namespaces: Arc::default(),
            engines: Arc::new(engines),
            signals: Arc::new(signals),
            progress: Progress::default(),
        }
    }
}

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
    /// The ConfigMap that pauses, in the operator's namespace.
    pub(crate) pauses: Store<ConfigMap>,
    pub(crate) volume_claims: Store<PersistentVolumeClaim>,
    /// Empty where the API server has no dynamic resource allocation.
    pub(crate) device_claims: Store<ResourceClaim>,
    /// The same.
    pub(crate) device_slices: Store<ResourceSlice>,
}

/// Caches did not fill.
#[derive(Debug, thiserror::Error)]
#[error("a watch ended before its first list was complete")]
pub(crate) struct Unsynced;

impl Stores {
    /// Starts all watches, and returns when all first lists are complete. None of the `watches` ends
    /// while the process leads.
    pub(crate) async fn start(
        watches: &mut JoinSet<()>,
        (client, operator_namespace): (&Client, &str),
        (triggers, changes): (&Triggers, &CacheChanges),
        observers: &Observers,
    ) -> Result<Arc<Self>, Unsynced> {
        let Observers {
            tombstones,
            unreadable,
            namespaces,
            engines,
            signals,
            progress,
        } = observers;
        let mut syncing = Vec::new();
        let all = || watcher::Config::default().page_size(PAGE_SIZE);
        let ours = all().labels(bursar_api::names::WORKLOAD_LABEL);
        macro_rules! store {
            ($config:expr, $trigger:expr) => {
                store!($config, $trigger, None)
            };
            ($config:expr, $trigger:expr, $observer:expr) => {
                store!(Api::all(client.clone()), $config, $trigger, $observer)
            };
            ($api:expr, $config:expr, $trigger:expr, $observer:expr) => {{
                let (tombstones, unreadable) = (Arc::clone(tombstones), Arc::clone(unreadable));
                let changes = changes.clone();
                let (store, writer) =
                    CacheWriter::new($trigger, tombstones, unreadable, changes, $observer);
                let progress = progress.of_list();
                watches.spawn(run($api, $config, writer, triggers.clone(), progress));
                let ready = store.clone();
                syncing.push(
                    async move { ready.wait_until_ready().await.map_err(|_| Unsynced) }.boxed(),
                );
                store
            }};
        }
        let (mut device_claims, mut device_slices) = (reflector::store().0, reflector::store().0);
        if allocates_devices(client).await {
            device_claims = store!(all(), |claim: &ResourceClaim| Some(Trigger::Accounts(
                ResourceExt::namespace(claim).unwrap_or_default()
            )));
            device_slices = store!(all(), |_: &ResourceSlice| Some(Trigger::All));
        }
        let (pods, services) = (Arc::clone(engines), Arc::clone(engines));
        let signals = Arc::clone(signals);
        let (indexed_pods, indexed_records) = (Arc::clone(namespaces), Arc::clone(namespaces));
        let on_pod: Option<Observer<Pod>> = Some(Box::new(move |event| {
            indexed_pods.on_pod(event);
            pods.on_pod(event);
        }));
        let on_record: Option<Observer<SpendRecord>> =
            Some(Box::new(move |event| indexed_records.on_record(event)));
        let on_service: Option<Observer<InferenceDeployment>> = Some(Box::new(move |event| {
            services.on_service(event);
            signals.on_service(event);
        }));
        let stores = Self {
            services: store!(
                all(),
                |service: &InferenceDeployment| of_workload(
                    service,
                    WorkloadKind::InferenceDeployment
                ),
                on_service
            ),
            jobs: store!(all(), |job: &TrainingJob| of_workload(
                job,
                WorkloadKind::TrainingJob
            )),
            budgets: store!(all(), no_sync),
            prices: store!(all(), |_: &PriceList| Some(Trigger::All)),
            records: store!(
                // the records of closed months are long
                watcher::Config::default(),
                |record: &SpendRecord| Some(of_record(record.workload())),
                on_record
            ),
            corrections: store!(all(), no_sync),
            deployments: store!(ours.clone(), no_sync),
            batch_jobs: store!(ours.clone(), no_sync),
            front_services: store!(ours.clone(), no_sync),
            slices: store!(ours, no_sync),
            pods: store!(all(), of_pod, on_pod),
            nodes: store!(all(), |_: &Node| Some(Trigger::All)),
            priorities: store!(all(), no_sync),
            pauses: store!(
                Api::namespaced(client.clone(), operator_namespace),
                all().fields(&format!("metadata.name={PAUSE_CONFIG_MAP}")),
                no_sync,
                None
            ),
            volume_claims: store!(all(), no_sync),
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

/// A change that concerns no account.
fn no_sync<K>(_: &K) -> Option<Trigger> {
    None
}

fn of_workload<K: ResourceExt>(object: &K, kind: WorkloadKind) -> Option<Trigger> {
    Some(Trigger::Workload(WorkloadRef {
        namespace: object.namespace().unwrap_or_default(),
        kind,
        name: object.name_any(),
    }))
}

fn of_pod(pod: &Pod) -> Option<Trigger> {
    pod::workload_of(pod).map(Trigger::Workload)
}

/// What a change of a record of this workload triggers.
fn of_record(workload: WorkloadRef) -> Trigger {
    match workload.kind {
        WorkloadKind::Folded => Trigger::Accounts(workload.namespace),
        _ => Trigger::Record(workload),
    }
}

/// Keeps the cache of one kind current, until nobody receives its triggers any more.
async fn run<K: Cached>(
    api: Api<Lenient<K>>,
    config: watcher::Config,
    mut writer: CacheWriter<K>,
    triggers: Triggers,
    mut progress: ListProgress,
) {
    let events = watcher::watcher(api, config).default_backoff();
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                progress.note(&event);
                if let Some(trigger) = writer.apply(event)
                    && triggers.send(trigger).is_err()
                {
                    return;
                }
            }
            Err(error) => {
                let (kind, error) = (K::kind(&()), bounded_text(&error.to_string()));
                tracing::warn!(%kind, error, "a watch failed; it starts again");
            }
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
