//! What a leader does, in phases: it fills its caches, lets the first signals come, and then runs its
//! tasks until one of them ends.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bursar_signals::demand::Credentials;
use bursar_signals::dial::Dialer;
use bursar_signals::engine::Scraper;
use bursar_signals::polls::{POLL_LIMITS, Polls};
use bursar_signals::schedule::Settings;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use crate::actor::{Actor, Sources};
use crate::cache::{CacheChange, Observers, Stores, Trigger, Triggers};
use crate::context::Context;
use crate::engine_reads::EngineReads;
use crate::engine_targets::EngineTargets;
use crate::event_publisher::EventPublisher;
use crate::executor::Executor;
use crate::explain::ExplainInputs;
use crate::foreign_edits::ForeignEdits;
use crate::gateways::Gateways;
use crate::input::Input;
use crate::job_target::{JobTargets, worker_pods};
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::node_autoscaling::NodeAutoscalingWatch;
use crate::ports::Ports;
use crate::power_readings::{self, PowerReadings};
use crate::pricing::effective::PriceCache;
use crate::pricing::price_lists;
use crate::released_pods::ReleasedPods;
use crate::scale_target::{Autoscalers, ScaleTargets, replica_pods};
use crate::signals::SignalReads;
use crate::signals::addresses::ClusterPolicy;
use crate::signals::reader::SignalReader;
use crate::signals::readings::SignalReadings;
use crate::signals::targets::SignalTargets;
use crate::training::frameworks::SuffixKey;
use crate::training::pod_creation_failures::{self, PodCreationFailures};
use crate::{Error, Options, cluster_bill, corrections, ledger, spend_metrics, unreadable_status};

/// While the caches fill, something of a list comes at least this often; otherwise another process
/// may have better luck. A slow API server is no reason to begin anew: that would ask it for all of
/// it again.
pub(crate) const STALL_LIMIT: Duration = Duration::from_secs(120);
/// Time limit of the first read of all engines and gateways; those that do not answer by then are
/// unknown.
const FIRST_ROUND: Duration = Duration::from_secs(2);

/// Leads until a task ends.
///
/// # Errors
/// The caches do not fill.
pub(crate) async fn lead(
    options: &Options,
    (client, eviction_client): (Client, Client),
    zone: TimeZone,
    metrics: Metrics,
    explain_inputs: ExplainInputs,
) -> Result<(), Error> {
    let (triggers, ledger_received) = mpsc::unbounded_channel();
    let (changes, changes_received) = mpsc::unbounded_channel();
    let (inputs, inputs_received) = mpsc::unbounded_channel();
    let (targets, reads) = bursar_signals::engine_reads::EngineReads::new(
        Scraper,
        Settings::default(),
        Timestamp::now,
    );
    let policy = Arc::new(ClusterPolicy::new(options.allowed_signal_addresses.clone()));
    let reader = SignalReader::new(client.clone(), Dialer::new(policy.clone()));
    let (polled, polls) = Polls::new(reader, POLL_LIMITS);
    let signal_readings = SignalReadings::default();
    let label = Some(&options.prometheus_namespace_label).filter(|label| !label.is_empty());
    let signals = SignalTargets::new(
        polled,
        signal_readings.clone(),
        inputs.clone(),
        label.cloned(),
    );
    let observers = Observers::new(EngineTargets::new(targets), signals);
    let engines = Arc::clone(&observers.engines);
    let signals = Arc::clone(&observers.signals);
    let mut watches = JoinSet::new();
    let caches = (&client, options.namespace.as_str());
    let stores = fill_caches(&mut watches, caches, (&triggers, &changes), &observers).await?;
    if let Some(file) = &options.price_list {
        tokio::spawn(price_lists::install(client.clone(), file.clone()));
    }
    let context = new_context(
        options,
        (&client, eviction_client),
        stores,
        (observers, signal_readings),
        triggers,
        zone,
        metrics,
    );
    let context = Arc::new(context);
    *lock(&explain_inputs) = Some(inputs.clone());
    let engine_reads = EngineReads {
        targets: Arc::clone(&engines),
        readings: Arc::clone(&context.readings),
        inputs: inputs.clone(),
    };
    // a task of its own: no decision delays a read
    let engine_reads = AbortOnDropHandle::new(tokio::spawn(engine_reads.run(reads)));
    let nodes = context.stores.nodes.state();
    policy.set_nodes(nodes.iter().map(AsRef::as_ref));
    let addresses = policy.run(client.clone(), context.stores.nodes.clone());
    let addresses = AbortOnDropHandle::new(tokio::spawn(addresses));
    let signal_reads = SignalReads {
        targets: Arc::clone(&signals),
        readings: context.signal_readings.clone(),
        inputs: inputs.clone(),
    };
    let signal_reads = signal_reads.run(polls, Timestamp::now);
    let signal_reads = AbortOnDropHandle::new(tokio::spawn(signal_reads));
    // a task of its own: an API server that is slow to say it delays no decision
    let node_autoscaling = NodeAutoscalingWatch::new(
        client.clone(),
        inputs.clone(),
        options.node_autoscaling,
        options.node_start_timeout,
    );
    let node_autoscaling = AbortOnDropHandle::new(tokio::spawn(node_autoscaling.run()));
    let pods = context.stores.pods.clone();
    let gateways = Gateways::new(
        pods,
        options.namespace.clone(),
        credentials(options),
        Arc::clone(&context.unreachable_replicas),
        inputs,
    );
    let mut demand = std::pin::pin!(gateways.run());
    // signals that nobody has read yet are not unknown
    let first_round =
        async { tokio::join!(engines.all_read(), signals.all_read(), gateways.all_heard()) };
    tokio::select! {
        () = &mut demand => {}
        _ = tokio::time::timeout(FIRST_ROUND, first_round) => {}
    }
    cluster_bill::refresh(&context, Timestamp::now());
    (context.scale_targets).fill(&context.stores.services, Timestamp::now());
    (context.job_targets).fill(&context.stores.jobs, Timestamp::now());
    let mut tasks = decide(&context, changes_received, inputs_received, ledger_received);
    tokio::select! {
        // a cache that nobody keeps would be believed for ever
        _ = watches.join_next() => {}
        _ = tasks.join_next() => {}
        _ = engine_reads => {}
        _ = signal_reads => {}
        _ = addresses => {}
        _ = node_autoscaling => {}
        () = demand => {}
        () = report(&context, options) => {}
        () = replica_pods::run(&context, changes.clone(), Timestamp::now) => {}
        () = worker_pods::run(&context, changes.clone(), Timestamp::now) => {}
        () = pod_creation_failures::run(&context.refusals, &client, changes, Timestamp::now) => {}
    }
    Ok(())
}

/// Starts the watches, and waits until all first lists are complete.
async fn fill_caches(
    watches: &mut JoinSet<()>,
    (client, namespace): (&Client, &str),
    (triggers, changes): (&Triggers, &mpsc::UnboundedSender<CacheChange>),
    observers: &Observers,
) -> Result<Arc<Stores>, Error> {
    let filled = Stores::start(watches, (client, namespace), (triggers, changes), observers);
    let filled = observers.progress.watch(filled, STALL_LIMIT).await;
    filled.and_then(Result::ok).ok_or(Error::Unsynced)
}

/// What the tasks share.
fn new_context(
    options: &Options,
    (client, eviction_client): (&Client, Client),
    stores: Arc<Stores>,
    (observers, signal_readings): (Observers, SignalReadings),
    ledger_triggers: Triggers,
    zone: TimeZone,
    metrics: Metrics,
) -> Context {
    let reporter = Reporter {
        controller: "bursar-controller".to_owned(),
        instance: Some(options.pod_name.clone()),
    };
    Context {
        stores,
        namespaces: observers.namespaces,
        price_cache: PriceCache::default(),
        readings: Arc::default(),
        signal_readings,
        ledger: ledger::PublishedAccounts::new(zone.clone(), metrics.unwritten_accounts.clone()),
        ledger_triggers,
        written: ledger::WriteCache::default(),
        folded: ledger::ConsolidatedCache::default(),
        tombstones: observers.tombstones,
        unreadable: observers.unreadable,
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
        measured: Arc::new(Mutex::new(PowerReadings::of_exporters_in(
            options.power_exporter_namespace.clone(),
            Timestamp::now(),
        ))),
        began: Timestamp::now(),
        ports: Ports::default(),
        shares: Mutex::default(),
        zone,
        namespace: options.namespace.clone(),
        launcher_suffixes: SuffixKey::default(),
        foreign_edits: ForeignEdits::default(),
        scale_targets: ScaleTargets::default(),
        released_pods: ReleasedPods::default(),
        job_targets: JobTargets::new(options.job_targets.clone()),
        autoscalers: Autoscalers::default(),
        service_events: Mutex::default(),
        status_memories: Mutex::default(),
        observe_only: options.observe_only,
        change_grace: SignedDuration::try_from(options.change_grace).unwrap_or_default(),
        allowed_classes: options.allowed_priority_classes.clone(),
        gang_scheduling: options.gang_scheduling,
        client: client.clone(),
        eviction_client,
    }
}

fn credentials(options: &Options) -> Credentials {
    Credentials {
        ca: options.gateway_ca.clone(),
        token: options.gateway_token.clone(),
        server_name: format!("bursar-gateway.{}.svc", options.namespace),
    }
}

/// Decides, carries out and keeps accounts, in tasks of their own, which end when what is returned is
/// dropped.
fn decide(
    context: &Arc<Context>,
    changes: mpsc::UnboundedReceiver<CacheChange>,
    inputs: mpsc::UnboundedReceiver<Input>,
    triggers: mpsc::UnboundedReceiver<Trigger>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let context = || Arc::clone(context);
    tasks.spawn(ledger::worker::run(context(), triggers, Timestamp::now));
    let (wanted, wanted_received) = mpsc::unbounded_channel();
    let (applied, applied_received) = mpsc::unbounded_channel();
    let sources = Sources {
        changes,
        inputs,
        applied: applied_received,
    };
    let actor = Actor::new(context()).awaiting_node_start();
    tasks.spawn(actor.run(sources, wanted, Timestamp::now));
    let executor = Executor::new(context());
    tasks.spawn(executor.run(wanted_received, applied, Timestamp::now));
    let events = context().events.clone();
    tasks.spawn(async move { events.run().await });
    tasks
}

/// Keeps up to date what nothing else waits for, until one of it ends.
async fn report(context: &Arc<Context>, options: &Options) {
    let month_close = context.month_close(options.retention_months);
    let stores = Arc::clone(&context.stores);
    tokio::select! {
        () = price_lists::run(Arc::clone(context)) => {}
        () = ledger::nodes::run(Arc::clone(context)) => {}
        () = cluster_bill::run(context) => {}
        () = corrections::run(context) => {}
        () = unreadable_status::run(context) => {}
        () = spend_metrics::run(context) => {}
        () = month_close.run() => {}
        () = power_readings::run(stores, Arc::clone(&context.measured)) => {}
    }
}
