//! One life of a controller: its caches, what it remembers, and what befalls its writes.

use std::collections::HashMap;
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
use futures::FutureExt as _;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{self, Store, store::Writer};
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use super::world::{NAMESPACE, OPERATOR, World};
use crate::actor::Actor;
use crate::api_calls::ApiError;
use crate::cache::{
    CacheChange, CacheChanges, CachePolicy, NamespaceIndex, Observers, Stores, Tombstones,
    UnreadableObjects, key_of, prune,
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
            /// Makes the caches hold this view; returns what that changes.
            fn show(&mut self, stores: &Stores, view: &View) -> Vec<CacheChange> {
                let mut changes = Vec::new();
                $(changes.extend(fill(&mut self.$field, &stores.$field, &view.$field));)*
                changes
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
    objects.iter_mut().for_each(prune);
    objects
}

fn fill<K>(writer: &mut Writer<K>, store: &Store<K>, objects: &[K]) -> Vec<CacheChange>
where
    K: CachePolicy + Resource<DynamicType = ()> + Clone + PartialEq + 'static,
{
    let events = watched(store, objects);
    let changes = events.iter().filter_map(|event| match event {
        Event::Apply(object) | Event::Delete(object) => {
            Some(CacheChange::Object(K::KIND, key_of(object)))
        }
        Event::InitDone => Some(CacheChange::Listed(K::KIND)),
        Event::Init | Event::InitApply(_) => None,
    });
    let changes = changes.collect();
    for event in &events {
        writer.apply_watcher_event(event);
    }
    changes
}

/// What a watch says when these objects are there: the first one lists them, later ones tell what
/// is other than the cache has it.
fn watched<K>(store: &Store<K>, objects: &[K]) -> Vec<Event<K>>
where
    K: Resource<DynamicType = ()> + Clone + PartialEq + 'static,
{
    let is_listed = store.wait_until_ready().now_or_never().is_some();
    if !is_listed {
        let listed = objects.iter().cloned().map(Event::InitApply);
        let listed = std::iter::once(Event::Init).chain(listed);
        return listed.chain(std::iter::once(Event::InitDone)).collect();
    }
    let mut gone: HashMap<_, _> = store
        .state()
        .into_iter()
        .map(|object| (key_of(&*object), object))
        .collect();
    let mut events = Vec::new();
    for object in objects {
        match gone.remove(&key_of(object)) {
            Some(known) if *known == *object => {}
            // made anew under the same name
            Some(known) if known.meta().uid != object.meta().uid => {
                events.push(Event::Delete((*known).clone()));
                events.push(Event::Apply(object.clone()));
            }
            _ => events.push(Event::Apply(object.clone())),
        }
    }
    let gone = gone
        .into_values()
        .map(|known| Event::Delete((*known).clone()));
    gone.chain(events).collect()
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
    actor: Actor,
    executor: Executor,
    writers: Writers,
    /// What changed in the caches: nothing else is looked at, as in a cluster.
    changes: mpsc::UnboundedReceiver<CacheChange>,
    change_sender: CacheChanges,
    /// Whether the caches have been looked at.
    has_looked: bool,
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
        let changes = mpsc::unbounded_channel();
        Self::with_caches(world, faults, caches, (writers, changes))
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
        let changes = mpsc::unbounded_channel();
        let mut watches = tokio::task::JoinSet::new();
        let stores = Stores::start(
            &mut watches,
            (&client, OPERATOR),
            (&triggers, &changes.0),
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
        Self::with_caches(world, Faults::default(), caches, (writers, changes))
    }

    fn with_caches(
        world: &World,
        faults: Faults,
        (stores, namespaces, tombstones, unreadable): Caches,
        (writers, (change_sender, changes)): (
            Writers,
            (CacheChanges, mpsc::UnboundedReceiver<CacheChange>),
        ),
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
            observe_only: world.observe_only,
            change_grace: world.change_grace,
            eviction_client: client.clone(),
            client,
        });
        Self {
            actor: Actor::new(Arc::clone(&context)),
            executor: Executor::new(Arc::clone(&context)),
            context,
            faults,
            writers,
            changes,
            change_sender,
            has_looked: false,
        }
    }

    /// Fills the caches.
    pub(super) fn fill_caches(&mut self, view: &View) {
        let Context {
            stores, namespaces, ..
        } = &*self.context;
        for event in watched(&stores.pods, &view.pods) {
            namespaces.on_pod(&event);
        }
        for event in watched(&stores.records, &view.records) {
            namespaces.on_record(&event);
        }
        let changes = self.writers.show(stores, view);
        self.send(changes);
    }

    /// Sends what the actor is told in its next look.
    fn send(&self, changes: impl IntoIterator<Item = CacheChange>) {
        for change in changes {
            self.change_sender.send(change).unwrap();
        }
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
        self.send(context.refusals.read_due(&context.client, world.now).await);
        if !std::mem::replace(&mut self.has_looked, true) {
            (context.scale_targets).fill(&context.stores.services, world.now);
            (context.job_targets).fill(&context.stores.jobs, world.now);
        }
        self.send(replica_pods::run_due(context, world.now).await);
        self.send(worker_pods::run_due(context, world.now).await);
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
        while let Ok(change) = self.changes.try_recv() {
            self.actor.note_change(change);
        }
        for round in 0.. {
            assert!(round < 1_000, "it never ends");
            self.actor.note_accounts(self.context.ledger.take_changes());
            let wanted = self.actor.decide(now);
            let is_last = wanted.is_empty() && !self.actor.has_more();
            self.executor.want(wanted, now);
            // also what waited until now for its next try
            let (applied, failures) = self.executor.run_due(now).await;
            errors.extend(failures);
            if is_last && applied.is_empty() {
                break;
            }
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
