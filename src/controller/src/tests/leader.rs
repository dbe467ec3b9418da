//! One life of a controller: its caches, what it remembers, and what befalls its writes.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use bursar_apitest::Server;
use bursar_apitest::faults::Faults;
use bursar_core::calendar::Period;
use bursar_core::ledger::SpendFunction;
use bursar_core::model::event::{Event as ModelEvent, Reading};
use bursar_core::money::Money;
use bursar_signals::demand::{Message, ServiceDemand};
use bursar_signals::dial::Dialer;
use bursar_signals::engine::Scraper;
use bursar_signals::engine_metrics::Sample;
use bursar_signals::engine_reads;
use bursar_signals::polls::{POLL_LIMITS, Polls};
use bursar_signals::schedule::Settings;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, store::Writer};
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::world::{NAMESPACE, OPERATOR, World};
use crate::actor::Actor;
use crate::api_calls::ApiError;
use crate::cache::{
    CacheChange, CachePolicy, NamespaceIndex, Observers, Stores, Tombstones, UnreadableObjects,
};
use crate::context::Context;
use crate::engine_targets::EngineTargets;
use crate::event_publisher::EventPublisher;
use crate::executor::Executor;
use crate::explain::Explanation;
use crate::foreign_edits::ForeignEdits;
use crate::gateways;
use crate::job_target::{JobTargets, worker_pods};
use crate::ledger::{self, ConsolidatedCache, PublishedAccounts, WriteCache};
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::pod;
use crate::ports::Ports;
use crate::power_readings::PowerReadings;
use crate::pricing::effective::PriceCache;
use crate::released_pods::ReleasedPods;
use crate::scale_target::{Autoscalers, ScaleTargets, replica_pods};
use crate::signals::addresses::ClusterPolicy;
use crate::signals::reader::SignalReader;
use crate::signals::readings::SignalReadings;
use crate::signals::targets::SignalTargets;
use crate::spend_metrics::ShownSpend;
use crate::training::frameworks::SuffixKey;
use crate::training::pod_creation_failures::PodCreationFailures;
use crate::training::pod_group::GangScheduling;

/// Makes the caches, their writers, and a view of the server for each kind.
macro_rules! caches {
    ($($field:ident: $kind:ty),* $(,)?) => {
        /// What all caches would hold at one moment.
        #[derive(Clone, Default)]
        pub(super) struct View { $(pub(super) $field: Vec<$kind>),* }

        impl View {
            /// What the server has now.
            pub(super) fn of(world: &World) -> Self {
                Self::on(&world.server)
            }

            /// The same.
            pub(super) fn on(server: &Server) -> Self {
                Self { $($field: pruned(server.objects::<$kind>())),* }
            }
        }

        struct Writers { $($field: Writer<$kind>),* }

        impl Writers {
            fn show(&mut self, view: &View) {
                $(fill(&mut self.$field, &view.$field);)*
            }
        }

        fn caches() -> (Stores, Writers) {
            $(let $field = reflector::store();)*
            (Stores { $($field: $field.0),* }, Writers { $($field: $field.1),* })
        }
    };
}

caches! {
    services: bursar_api::InferenceDeployment,
    jobs: bursar_api::TrainingJob,
    budgets: bursar_api::BudgetPolicy,
    prices: bursar_api::PriceList,
    records: bursar_api::SpendRecord,
    corrections: bursar_api::SpendCorrection,
    deployments: k8s_openapi::api::apps::v1::Deployment,
    batch_jobs: k8s_openapi::api::batch::v1::Job,
    front_services: k8s_openapi::api::core::v1::Service,
    slices: k8s_openapi::api::discovery::v1::EndpointSlice,
    pods: k8s_openapi::api::core::v1::Pod,
    nodes: k8s_openapi::api::core::v1::Node,
    priorities: k8s_openapi::api::scheduling::v1::PriorityClass,
    pauses: k8s_openapi::api::core::v1::ConfigMap,
    volume_claims: k8s_openapi::api::core::v1::PersistentVolumeClaim,
    device_claims: k8s_openapi::api::resource::v1::ResourceClaim,
    device_slices: k8s_openapi::api::resource::v1::ResourceSlice,
}

fn pruned<K: CachePolicy>(mut objects: Vec<K>) -> Vec<K> {
    objects.iter_mut().for_each(CachePolicy::prune);
    objects
}

fn fill<K>(writer: &mut Writer<K>, objects: &[K])
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + 'static,
{
    list(objects, |event| writer.apply_watcher_event(event));
}

/// The events of a list of these objects.
fn list<K: Clone>(objects: &[K], mut apply: impl FnMut(&Event<K>)) {
    apply(&Event::Init);
    for object in objects {
        apply(&Event::InitApply(object.clone()));
    }
    apply(&Event::InitDone);
}

/// What failed in one look.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    #[error("ledger: {0}")]
    Ledger(#[from] ledger::Error),
    #[error("{0}")]
    Call(String),
    #[error("somebody wrote first")]
    Conflict,
}

impl LookError {
    /// Somebody wrote first; the next look will see it.
    pub(super) fn is_conflict(&self) -> bool {
        match self {
            Self::Ledger(ledger::Error::Call(error)) => error.is_stale(),
            Self::Ledger(_) | Self::Call(_) => false,
            Self::Conflict => true,
        }
    }
}

/// Caches, and what is kept with them.
type Caches = (
    Arc<Stores>,
    Arc<NamespaceIndex>,
    Arc<Tombstones>,
    Arc<UnreadableObjects>,
);

/// A controller that leads.
pub(super) struct Leader {
    pub(super) context: Arc<Context>,
    pub(super) faults: Arc<Faults>,
    /// What the work on targets has told in the last look. The model looks at everything all the same.
    pub(super) told: Vec<CacheChange>,
    actor: Actor,
    executor: Executor,
    writers: Writers,
}

impl Leader {
    pub(super) fn new(world: &World, faults: Faults) -> Self {
        let (stores, writers) = caches();
        let caches = (
            Arc::new(stores),
            Arc::default(),
            Arc::default(),
            Arc::default(),
        );
        Self::with_caches(world, faults, caches, writers)
    }

    /// One whose caches are kept by watches, and are not filled by views.
    pub(super) async fn watching(world: &World) -> Self {
        let (triggers, mut received) = mpsc::unbounded_channel();
        tokio::spawn(async move { while received.recv().await.is_some() {} });
        let client = world.server.client();
        let reads = engine_reads::EngineReads::new(Scraper, Settings::default(), Timestamp::now);
        let policy = Arc::new(ClusterPolicy::new(Vec::new()));
        let reader = SignalReader::new(client.clone(), Dialer::new(policy));
        let inputs = mpsc::unbounded_channel().0;
        let readings = SignalReadings::default();
        let polled = Polls::new(reader, POLL_LIMITS).0;
        let signals = SignalTargets::new(polled, readings, inputs, None);
        let observers = Observers::new(EngineTargets::new(reads.0), signals);
        let changes = mpsc::unbounded_channel().0;
        let mut watches = tokio::task::JoinSet::new();
        let stores = Stores::start(
            &mut watches,
            (&client, OPERATOR),
            (&triggers, &changes),
            &observers,
        );
        let stores = stores.await.unwrap();
        watches.detach_all();
        let (_, writers) = caches();
        let caches = (
            stores,
            observers.namespaces,
            observers.tombstones,
            observers.unreadable,
        );
        Self::with_caches(world, Faults::default(), caches, writers)
    }

    fn with_caches(
        world: &World,
        faults: Faults,
        (stores, namespaces, tombstones, unreadable): Caches,
        writers: Writers,
    ) -> Self {
        let faults = Arc::new(faults);
        let client = world.server.client_with(&faults);
        let reporter = Reporter {
            controller: "bursar-controller".into(),
            instance: None,
        };
        let metrics = Metrics::new(&mut Registry::default());
        let context = Arc::new(Context {
            stores,
            namespaces,
            price_cache: PriceCache::default(),
            readings: Arc::default(),
            signal_readings: SignalReadings::default(),
            ledger: PublishedAccounts::new(TimeZone::UTC, metrics.unwritten_accounts.clone()),
            ledger_triggers: mpsc::unbounded_channel().0,
            written: WriteCache::default(),
            folded: ConsolidatedCache::default(),
            tombstones,
            unreadable,
            events: EventPublisher::new(
                Recorder::new(client.clone(), reporter),
                metrics.dropped_events.clone(),
            ),
            refusals: PodCreationFailures::default(),
            unreachable_replicas: Arc::default(),
            metrics,
            orders_wait: AtomicBool::new(false),
            index: Mutex::default(),
            slice_index: Mutex::default(),
            sharing: Mutex::default(),
            first_accounts: Mutex::default(),
            measured: Arc::new(Mutex::new(PowerReadings::new(world.now))),
            began: world.now,
            ports: Ports::default(),
            shares: Mutex::default(),
            launcher_suffixes: SuffixKey::default(),
            foreign_edits: ForeignEdits::default(),
            scale_targets: ScaleTargets::default(),
            released_pods: ReleasedPods::default(),
            job_targets: JobTargets::new(super::adopted_jobs::kinds()),
            autoscalers: Autoscalers::default(),
            service_events: Mutex::default(),
            status_memories: Mutex::default(),
            zone: TimeZone::UTC,
            namespace: OPERATOR.to_owned(),
            allowed_classes: world.allowed_classes.clone(),
            gang_scheduling: GangScheduling::Auto,
            observe_only: false,
            change_grace: world.change_grace,
            eviction_client: client.clone(),
            client,
        });
        Self {
            actor: Actor::new(Arc::clone(&context)),
            executor: Executor::new(Arc::clone(&context)),
            context,
            faults,
            told: Vec::new(),
            writers,
        }
    }

    /// Fills the caches.
    pub(super) fn fill_caches(&mut self, view: &View) {
        let namespaces = &self.context.namespaces;
        list(&view.pods, |event| namespaces.on_pod(event));
        list(&view.records, |event| namespaces.on_record(event));
        self.writers.show(view);
    }

    /// One look at `view`.
    pub(super) async fn reconcile(&mut self, world: &World, view: &View) -> Result<(), LookError> {
        self.fill_caches(view);
        self.reconcile_caches(world).await
    }

    /// One look at what the caches have, after reading the engines and hearing from the gateway: the
    /// ledger syncs all accounts, and a decision is made.
    pub(super) async fn reconcile_caches(&mut self, world: &World) -> Result<(), LookError> {
        self.read_engines(world);
        self.receive_demand(world);
        let context = &self.context;
        context.refusals.read_due(&context.client, world.now).await;
        (context.scale_targets).fill(&context.stores.services, world.now);
        self.told = replica_pods::run_due(context, world.now).await;
        (context.job_targets).fill(&context.stores.jobs, world.now);
        let of_jobs = worker_pods::run_due(context, world.now).await;
        self.told.extend(of_jobs);
        let synced = self.sync_accounts(world).await;
        self.check_spent(world.now);
        let decided = self.decide(world.now).await;
        self.context.events.flush().await;
        self.check_spent(world.now);
        synced?;
        decided
    }

    /// A decision by what the caches hold, and everything that follows from it until nothing more is
    /// due.
    pub(super) async fn decide(&mut self, now: Timestamp) -> Result<(), LookError> {
        let mut errors = Vec::new();
        self.actor.note_all();
        for round in 0.. {
            assert!(round < 1_000, "it never ends");
            self.actor.note_accounts(self.context.ledger.take_changes());
            let wanted = self.actor.decide(now);
            if wanted.is_empty() && !self.actor.has_more() {
                break;
            }
            self.executor.want(wanted, now);
            let (applied, failures) = self.executor.run_due(now).await;
            errors.extend(failures);
            for result in applied {
                self.actor.note_applied(result);
            }
        }
        ShownSpend::default().refresh(&self.context, now);
        let errors = errors.into_iter().map(|error| match error {
            Some(message) => LookError::Call(message),
            None => LookError::Conflict,
        });
        errors
            .max_by_key(|error| !error.is_conflict())
            .map_or(Ok(()), Err)
    }

    /// The last decision over a namespace.
    pub(super) fn explain(&mut self, namespace: &str, now: Timestamp) -> Explanation {
        self.actor.explain(namespace, now).unwrap()
    }

    /// A gateway has been silent for too long.
    pub(super) fn note_silent(&mut self, gateway: &str) {
        self.actor
            .note_event(ModelEvent::Silent(gateway.into(), "silent for 10 s".into()));
    }

    /// What budgets count is the exact amount, or at most a nano-unit more for each open charge and
    /// part of its cost.
    fn check_spent(&self, now: Timestamp) {
        let (context, zone) = (&self.context, TimeZone::UTC);
        for period in [Period::Daily, Period::Monthly] {
            let within = period.bounds(now, &zone);
            let (mut exact, mut open) = (Money::ZERO, 0);
            for view in context.ledger.views(NAMESPACE) {
                exact += ledger::sum(&view.accounts, within, now, &zone).cost.total();
                let charges = view.accounts.values();
                open += charges
                    .map(|account| account.open_charges().len())
                    .sum::<usize>();
            }
            let views = context.ledger.views(NAMESPACE);
            let functions = views.iter().map(|view| {
                let accounts = view.accounts.values().map(AsRef::as_ref);
                SpendFunction::of_accounts(accounts, within, now, &zone)
            });
            let spent: Money = functions.map(|function| function.spend.at(now)).sum();
            let above = (spent - exact).nanos();
            assert!(
                (0..=4 * open as i128).contains(&above),
                "{above} above {exact}"
            );
        }
    }

    /// Syncs the accounts. A conflict counts less than another error.
    pub(super) async fn sync_accounts(&self, world: &World) -> Result<(), LookError> {
        let errors = ledger::worker::sync_namespace(&self.context, NAMESPACE, world.now).await;
        let errors = errors.into_iter().map(LookError::from);
        errors
            .max_by_key(|error| !error.is_conflict())
            .map_or(Ok(()), Err)
    }

    /// Closes the months that are over by the caches of the last look; returns what failed.
    pub(super) async fn close(&self, now: Timestamp) -> Vec<ApiError> {
        self.context.month_close(13).sync_once(now).await
    }

    fn read_engines(&mut self, world: &World) {
        let mut readings = lock(&self.context.readings);
        let readings = readings
            .entry((NAMESPACE.to_owned(), "chat".to_owned()))
            .or_default();
        for (pod, busy) in world.serving() {
            let sample = Sample {
                busy,
                request_micros: None,
                counting: Default::default(),
                done: Default::default(),
                has_counters: true,
                measures: None,
            };
            let moved = readings.sample(pod::uid(&pod), sample, world.now);
            let reading = Reading::Counted {
                requests: busy,
                counting: Default::default(),
                moved: moved || busy > 0,
                done: Default::default(),
            };
            let event = ModelEvent::Reading(pod::uid(&pod).into(), reading);
            self.actor.note_event(event);
        }
    }

    pub(super) fn receive_demand(&mut self, world: &World) {
        let demand = ServiceDemand {
            namespace: NAMESPACE.to_owned(),
            name: "chat".to_owned(),
            held: world.held(),
            in_flight: 0,
            forwarded: 0,
            first_held_at: (world.held() > 0).then_some(world.now),
            connect_error: None,
        };
        let mut message = Message {
            gateway: "gateway".to_owned(),
            at: world.now,
            services: vec![demand],
        };
        self.actor.note_event(gateways::demand(&message));
        // one gateway holds them all
        message.services.clear();
        for pod in world.pods().iter().filter(|pod| pod::is_gateway(pod)) {
            pod::uid(pod).clone_into(&mut message.gateway);
            self.actor.note_event(gateways::demand(&message));
        }
    }
}

/// The names of objects, for messages.
pub(super) fn names<K: ResourceExt>(objects: &[K]) -> Vec<String> {
    objects.iter().map(ResourceExt::name_any).collect()
}
