//! An in-memory Kubernetes API server behind a kube client, so that controllers can be tested with
//! every fault at every write.
//!
//! | module | subject |
//! |---|---|
//! | `request` | which object a request is about |
//! | `store` | objects, versions, and what a write may change |
//! | `scale` | the scale subresource |
//! | `access` | reviews of tokens and rights |
//! | `apply` | server-side apply |
//! | `selector` | label selectors, and field selectors of lists |
//! | `handler` | requests, answers and watches |
//! | [`faults`] | crashes and competing writes, at a chosen write |
//! | [`conformance`] | the checks that this server and a real one both pass |
//! | [`https`] | a certificate for tests, and a client that trusts it |
//! | [`schema_fuzz`] | objects at the bounds of the definitions' schemas, for a real server and for readers |
//!
//! This server leaves out schemas, defaults and admission (tests with a real server have them),
//! garbage collection and all controllers (a test does their work), strategic merge patches,
//! paging, applies without force, and lists with keys: an apply replaces a list as a whole.

mod access;
mod apply;
pub mod conformance;
pub mod faults;
mod handler;
pub mod https;
mod request;
mod scale;
pub mod schema_fuzz;
mod selector;
mod store;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bursar_api::{
    BudgetPolicy, InferenceDeployment, PriceList, SpendCorrection, SpendRecord, TrainingJob,
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, PersistentVolumeClaim, Pod, Secret, Service,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use access::Access;
use faults::Faults;
use store::Store;

/// A kind that the server knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    /// True if the status is a subresource.
    pub(crate) has_status: bool,
}

impl Kind {
    fn of<K: Resource<DynamicType = ()>>(has_status: bool) -> Self {
        Self {
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            plural: K::plural(&()).into_owned(),
            has_status,
        }
    }

    /// A kind that its own project defines.
    fn leader_worker_set() -> Self {
        Self {
            api_version: "leaderworkerset.x-k8s.io/v1".to_owned(),
            kind: "LeaderWorkerSet".to_owned(),
            plural: "leaderworkersets".to_owned(),
            has_status: true,
        }
    }

    /// All kinds that the controllers and gateways use.
    fn all() -> Vec<Self> {
        vec![
            Self::of::<InferenceDeployment>(true),
            Self::of::<TrainingJob>(true),
            Self::of::<BudgetPolicy>(true),
            Self::of::<PriceList>(true),
            Self::of::<SpendRecord>(true),
            Self::of::<SpendCorrection>(true),
            Self::of::<Deployment>(true),
            Self::of::<StatefulSet>(true),
            Self::of::<ReplicaSet>(true),
            Self::leader_worker_set(),
            Self::of::<HorizontalPodAutoscaler>(true),
            Self::of::<Job>(true),
            Self::of::<Pod>(true),
            Self::of::<Node>(true),
            Self::of::<Namespace>(true),
            Self::of::<Service>(true),
            Self::of::<ConfigMap>(false),
            Self::of::<Secret>(false),
            Self::of::<EndpointSlice>(false),
            Self::of::<NetworkPolicy>(false),
            Self::of::<Lease>(false),
            Self::of::<Event>(false),
            Self::of::<PodDisruptionBudget>(true),
            Self::of::<PriorityClass>(false),
            Self::of::<PersistentVolumeClaim>(true),
            Self::of::<ResourceClaim>(true),
            Self::of::<ResourceSlice>(false),
        ]
    }
}

/// State that requests and watches share.
pub(crate) struct Shared {
    store: Mutex<Store>,
    access: Mutex<Access>,
    /// The last version; watches wait for it to change.
    version: watch::Sender<u64>,
}

impl Shared {
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn access(&self) -> MutexGuard<'_, Access> {
        self.access.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the store and notifies the watches.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.store();
        let changed = change(&mut store);
        self.version.send_replace(store.version());
        changed
    }
}

/// The server. Clones share their objects.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

impl Server {
    /// A server with these namespaces and nothing else.
    pub fn new(namespaces: &[&str]) -> Self {
        let store = Store::new(Kind::all(), namespaces);
        let version = watch::Sender::new(store.version());
        Self {
            shared: Arc::new(Shared {
                store: Mutex::new(store),
                access: Mutex::default(),
                version,
            }),
        }
    }

    /// Makes a user who has this token.
    pub fn add_user(&self, user: &str, token: &str) {
        self.shared.access().add_user(user, token);
    }

    /// Gives a user a right, such as `get /metrics` or `get explanations.bursar.dev in team`.
    pub fn grant(&self, user: &str, right: &str) {
        self.shared.access().grant(user, right);
    }

    /// How many tokens the server was asked to review.
    pub fn token_reviews(&self) -> usize {
        self.shared.access().token_reviews
    }

    /// Serves one more kind, as an API server does with a feature gate.
    pub fn serve<K: Resource<DynamicType = ()>>(&self) {
        let kind = Kind::of::<K>(true);
        self.shared.change(|store| store.serve(kind));
    }

    /// Serves a kind no longer, as after an upgrade of its definition. Its objects stay.
    pub fn stop_serving<K: Resource<DynamicType = ()>>(&self) {
        let kind = Kind::of::<K>(true);
        self.shared.change(|store| store.stop_serving(&kind));
    }

    /// A client without faults. It needs a tokio runtime.
    pub fn client(&self) -> Client {
        self.client_with(&Arc::default())
    }

    /// A client with these faults.
    pub fn client_with(&self, faults: &Arc<Faults>) -> Client {
        handler::client(Arc::clone(&self.shared), Arc::clone(faults))
    }

    /// All objects of a kind, in the order of their namespaces and names.
    pub fn objects<K: Resource<DynamicType = ()> + DeserializeOwned>(&self) -> Vec<K> {
        let kind = Kind::of::<K>(false);
        let store = self.shared.store();
        store
            .list(&kind.api_version, &kind.plural)
            .filter_map(|object| K::deserialize(object).ok())
            .collect()
    }

    /// Sets the server's clock. Before that it is the machine's.
    pub fn set_clock(&self, now: Timestamp) {
        self.shared.store().set_clock(now);
    }

    /// Forgets all past events: watches end, and requests for older versions fail as expired.
    pub fn compact(&self) {
        self.shared.change(Store::compact);
    }
}
