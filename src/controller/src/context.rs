//! What the controller's tasks share.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use bursar_api::SpendRecord;
use bursar_api::spend::WorkloadRef;
use bursar_core::calendar::Month;
use bursar_core::cost_report::CostOwner;
use bursar_core::ledger::Uid;
use bursar_core::model::Key;
use bursar_core::money::Money;
use bursar_signals::store::Readings;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, Resource};

use crate::api_calls::ApiError;
use crate::cache::{NamespaceIndex, Stores, Tombstones, Triggers, UnreadableObjects};
use crate::event_publisher::EventPublisher;
use crate::events::ServiceEvents;
use crate::foreign_edits::ForeignEdits;
use crate::index::PodIndex;
use crate::job_target::JobTargets;
use crate::ledger::month_close::MonthClose;
use crate::ledger::{ConsolidatedCache, PublishedAccounts, SharedSince, WriteCache};
use crate::metrics::Metrics;
use crate::object_key::ObjectKey;
use crate::ports::{NoPort, Ports};
use crate::power_readings::SharedPowerReadings;
use crate::pricing::effective::{self, PriceCache};
use crate::priority::AllowedClass;
use crate::released_pods::ReleasedPods;
use crate::scale_target::{Autoscalers, ScaleTargets};
use crate::signals::readings::SignalReadings;
use crate::slice_index::SliceIndex;
use crate::status_memory::StatusMemory;
use crate::training::frameworks::SuffixKey;
use crate::training::pod_creation_failures::PodCreationFailures;
use crate::training::pod_group::GangScheduling;
use crate::unreachable_replicas::UnreachableReplicas;
use bursar_api::prices::EffectivePrices;

/// Readings by namespace and name.
pub(crate) type SharedReadings = Arc<Mutex<BTreeMap<(String, String), Readings>>>;

/// What the controller's tasks share.
pub(crate) struct Context {
    pub(crate) client: Client,
    /// The same without retries of its own: that an eviction is refused with 429 is an answer.
    pub(crate) eviction_client: Client,
    pub(crate) stores: Arc<Stores>,
    /// Where the pods and the records of each namespace are in their caches.
    pub(crate) namespaces: Arc<NamespaceIndex>,
    pub(crate) price_cache: PriceCache,
    /// What was read of engines, by namespace and service.
    pub(crate) readings: SharedReadings,
    /// What was read of signals outside the replicas.
    pub(crate) signal_readings: SignalReadings,
    /// The accounts, as decisions read them.
    pub(crate) ledger: PublishedAccounts,
    /// Where accounts are asked for.
    pub(crate) ledger_triggers: Triggers,
    pub(crate) written: WriteCache,
    pub(crate) folded: ConsolidatedCache,
    /// GPU pods that went, as they were last seen.
    pub(crate) tombstones: Arc<Tombstones>,
    /// Objects that no cache has as they are.
    pub(crate) unreadable: Arc<UnreadableObjects>,
    pub(crate) events: EventPublisher,
    /// Why the cluster refuses pods of Jobs.
    pub(crate) refusals: PodCreationFailures,
    /// Ready replicas to which gateways cannot connect.
    pub(crate) unreachable_replicas: Arc<UnreachableReplicas>,
    /// Orders are due and wait for a slot: other writes leave them the API server.
    pub(crate) orders_wait: AtomicBool,
    pub(crate) metrics: Metrics,
    /// Where the pods of each workload are in the cache.
    pub(crate) index: Mutex<PodIndex>,
    /// Where the slices of endpoints of each service are in the cache.
    pub(crate) slice_index: Mutex<SliceIndex>,
    /// Pods that use devices which are charged to others, by namespace.
    pub(crate) sharing: Mutex<BTreeMap<String, SharedSince>>,
    /// The account in which each pod's charge begins, by namespace.
    pub(crate) first_accounts: Mutex<BTreeMap<String, HashMap<Uid, WorkloadRef>>>,
    /// How the names of files of jobs with a launcher end.
    pub(crate) launcher_suffixes: SuffixKey,
    /// What others do to the Deployments of services.
    pub(crate) foreign_edits: ForeignEdits,
    /// The workloads of targetRefs.
    pub(crate) scale_targets: ScaleTargets,
    /// Pods that are their workload's no more.
    pub(crate) released_pods: ReleasedPods,
    /// The jobs of targetRefs.
    pub(crate) job_targets: JobTargets,
    /// What HorizontalPodAutoscalers scale.
    pub(crate) autoscalers: Autoscalers,
    /// What was said of services in Events.
    pub(crate) service_events: Mutex<HashMap<Key, ServiceEvents>>,
    /// What is remembered of the writes of statuses.
    pub(crate) status_memories: Mutex<HashMap<ObjectKey, StatusMemory>>,
    /// What GPUs were measured to draw.
    pub(crate) measured: SharedPowerReadings,
    /// When this process began to lead.
    pub(crate) began: Timestamp,
    /// The services' ports on gateways.
    pub(crate) ports: Ports,
    /// What each workload bears of a month's overheads.
    pub(crate) shares: Mutex<Option<(Month, BTreeMap<CostOwner, Money>)>>,
    pub(crate) zone: TimeZone,
    /// The operator's namespace.
    pub(crate) namespace: String,
    /// PriorityClasses that count beside other namespaces.
    pub(crate) allowed_classes: Vec<AllowedClass>,
    /// Whether gangs become PodGroups.
    pub(crate) gang_scheduling: GangScheduling,
    /// Edits of budgets and prices that would newly stop something take effect after this long.
    pub(crate) change_grace: SignedDuration,
    /// Decide and write statuses, but change no workload.
    pub(crate) observe_only: bool,
}

impl Context {
    /// The prices that the caches hold, in the currency that the accounts of `now`'s month are kept in.
    pub(crate) fn prices(&self, now: Timestamp) -> Arc<EffectivePrices> {
        let currency = effective::account_currency(&self.stores.records, now, &self.zone);
        self.price_cache.prices(&self.stores.prices, currency, now)
    }

    /// The pods of a namespace that are charged to a workload, or may be.
    pub(crate) fn pods_in(&self, namespace: &str) -> Vec<Arc<Pod>> {
        self.namespaces.pods(&self.stores.pods, namespace)
    }

    /// The records of a namespace; those of nodes have none.
    pub(crate) fn records_in(&self, namespace: &str) -> Vec<Arc<SpendRecord>> {
        self.namespaces.records(&self.stores.records, namespace)
    }

    /// What closes months that are over, and removes records after `retention_months`.
    pub(crate) fn month_close(&self, retention_months: u32) -> MonthClose<'_> {
        MonthClose {
            client: &self.client,
            records: &self.stores.records,
            write_cache: &self.written,
            consolidated: &self.folded,
            metrics: &self.metrics,
            retention_months,
        }
    }

    /// Whether the owned object of this name can be read, if there is one.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn check_readable<K: Resource<DynamicType = ()>>(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        match self.unreadable.why::<K>(namespace, name) {
            None => Ok(()),
            Some(why) => Err(ApiError::Unreadable {
                kind: K::kind(&()).into_owned(),
                name: name.to_owned(),
                why,
            }),
        }
    }

    /// The service's port on every gateway.
    ///
    /// # Errors
    /// It has none, and why.
    pub(crate) fn port(
        &self,
        service: &Key,
        in_status: Option<u16>,
        now: Timestamp,
    ) -> Result<u16, NoPort> {
        let caches = (&*self.stores, &*self.unreadable);
        self.ports.port(caches, service, in_status, now)
    }

    /// A service that is gone gives its port back.
    pub(crate) fn release_port(&self, service: &Key, now: Timestamp) {
        let caches = (&*self.stores, &*self.unreadable);
        self.ports.release(caches, service, now);
    }
}
