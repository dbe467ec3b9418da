//! The controller. Changes in caches, and signals, become events of one model, which one actor
//! owns. Decisions become orders, which an executor carries out. Tasks of its own keep the ledger,
//! and no decision waits for them.
//!
//! | module | subject |
//! |---|---|
//! | `cache` | one watch and one cache for each kind |
//! | `index` | where the pods of a workload are in their cache |
//! | `unreadable_status` | the condition of objects that cannot be read |
//! | `engine_targets`, `engine_reads` | signals: which engines are read, and what they report |
//! | `gateways` | signals: requests that gateways hold |
//! | `edge` | from objects, accounts and prices to events |
//! | `input` | what the actor is told by other tasks than the caches |
//! | `actor` | owns the model: takes all events that wait, and decides once |
//! | `executor` | carries out the newest order of each object, and writes statuses |
//! | `subject` | the objects that the controller acts for |
//! | `inference`, `training`, `budget` | build, apply and status of a kind |
//! | `ledger` | charges, settled exactly once, and what decisions read of them |
//! | `ports` | the port of each service on gateways |
//! | `power_readings` | the measured power of GPUs |
//! | `gpu_allocation`, `resource_claim` | the GPUs and volumes that pods hold |
//! | `pod`, `pod_resources`, `pod_mark` | what a pod reports, what it asks for, and how it is told to leave |
//! | `status`, `status_pacing`, `status_memory` | writes statuses, seldom, with an Event for each condition that changed |
//! | `events`, `event_publisher` | Kubernetes Events of decisions, and how they are published |
//! | `api_calls`, `backoff` | guarded calls to the API server, and how long a failed one waits |
//! | `metrics`, `decision_metrics`, `spend_metrics` | decisions and money for Prometheus |
//! | `explain` | the last decisions for `kubectl bursar explain`, which the actor answers |
//! | `corrections` | which SpendCorrections count |
//! | `pricing` | the prices in force, and the condition `Priced` |
//! | `paused` | what is paused, and the condition `Paused` |
//! | `spend_status`, `health` | spend and pod health in workloads' statuses |
//! | `cluster_bill` | the whole cluster's month: shares of overheads, the cost of nodes |
//! | `context`, `lock` | what the tasks share |

mod actor;
mod api_calls;
mod backoff;
mod budget;
mod cache;
mod cluster_bill;
mod context;
mod corrections;
mod decision_metrics;
mod edge;
mod engine_reads;
mod engine_targets;
mod event_publisher;
mod events;
mod executor;
mod explain;
mod gateways;
mod gpu_allocation;
mod health;
mod index;
mod inference;
mod input;
mod ledger;
mod lock;
mod metrics;
mod node_autoscaling;
mod paused;
mod pod;
mod pod_failure;
mod pod_mark;
mod pod_resources;
mod ports;
mod power_readings;
mod pricing;
mod priority;
mod resource_claim;
mod spend_metrics;
mod spend_status;
mod status;
mod status_memory;
mod status_pacing;
mod subject;
#[cfg(test)]
mod tests;
mod training;
mod unreadable_status;
mod within_budget;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bursar_api::names::{ADMIN_PORT, CONTROLLER_LEASE};
use bursar_api::quantities::parse_duration;
use bursar_runtime::admin::{self, Readiness};
use bursar_runtime::leader_election::Candidate;
use bursar_runtime::shutdown;
use bursar_signals::demand::Credentials;
use bursar_signals::engine::Scraper;
use bursar_signals::schedule::Settings;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::actor::{Actor, Sources};
use crate::cache::{Stores, UnreadableObjects};
use crate::context::Context;
use crate::engine_reads::EngineReads;
use crate::engine_targets::EngineTargets;
use crate::event_publisher::EventPublisher;
use crate::executor::Executor;
use crate::explain::ExplainInputs;
use crate::gateways::Gateways;
use crate::metrics::Metrics;
pub use crate::node_autoscaling::NodeAutoscaling;
use crate::node_autoscaling::NodeAutoscalingWatch;
use crate::ports::Ports;
use crate::pricing::effective::PriceCache;
use crate::pricing::price_lists;
pub use crate::priority::AllowedClass;
pub use crate::training::pod_group::GangScheduling;
use crate::training::refusals::{self, Refusals};

/// Caches must fill in this time.
const SYNC_LIMIT: Duration = Duration::from_secs(120);
/// Time limit of the first read of all engines and gateways; those that do not answer by then are
/// unknown.
const FIRST_ROUND: Duration = Duration::from_secs(2);

/// The options of a controller.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The operator's namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "bursar-system")]
    pub namespace: String,
    /// The pod's name: its identity as a candidate for leadership.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: String,
    /// The accounting time zone (IANA).
    #[arg(long, env = "BURSAR_TIME_ZONE", default_value = "UTC")]
    pub time_zone: String,
    /// SpendRecords of months that ended more than so many months ago are removed.
    #[arg(long, env = "BURSAR_RETENTION_MONTHS", default_value = "13", value_parser = months)]
    pub retention_months: u32,
    /// Decide and write statuses and SpendRecords, but change no workload, Service or
    /// EndpointSlice.
    #[arg(long, env = "BURSAR_OBSERVE_ONLY")]
    pub observe_only: bool,
    /// An edit of a BudgetPolicy or of prices that would newly stop something takes effect after this
    /// long, at most 24h; 0s: at once.
    #[arg(long, env = "BURSAR_CHANGE_GRACE", default_value = "10m", value_parser = change_grace)]
    pub change_grace: Duration,
    /// Whether a node autoscaler makes nodes for pods that wait. Auto: if the cluster shows
    /// cluster-autoscaler or Karpenter.
    #[arg(
        long,
        env = "BURSAR_NODE_AUTOSCALING",
        value_enum,
        default_value = "Auto"
    )]
    pub node_autoscaling: NodeAutoscaling,
    /// How long a node that an autoscaler makes takes at most until it is ready; 1m to 24h.
    #[arg(long, env = "BURSAR_NODE_START_TIMEOUT", default_value = "15m", value_parser = node_start_timeout)]
    pub node_start_timeout: Duration,
    /// Whether a gang is also written as a PodGroup, all of which kube-scheduler places or none. Auto:
    /// where the API server serves PodGroups.
    #[arg(
        long,
        env = "BURSAR_GANG_SCHEDULING",
        value_enum,
        default_value = "Auto"
    )]
    pub gang_scheduling: GangScheduling,
    /// A PriorityClass above 0 that counts beside other namespaces, and a namespace that may use it:
    /// `high=team`, or `high=*` for all. May be given several times.
    #[arg(long = "allow-priority-class", value_name = "CLASS=NAMESPACE")]
    pub allowed_priority_classes: Vec<AllowedClass>,
    /// Port of health, readiness, metrics and explanations.
    #[arg(long, default_value_t = ADMIN_PORT)]
    pub admin_port: u16,
    /// How long leadership lasts without being renewed, such as 15s.
    #[arg(long, default_value = "15s", value_parser = lease_duration)]
    pub lease_duration: Duration,
    /// Certificate authority of the gateways (PEM).
    #[arg(long)]
    pub gateway_ca: PathBuf,
    /// The controller's token for gateways.
    #[arg(long)]
    pub gateway_token: PathBuf,
    /// The default PriceList, as YAML, which the leader applies.
    #[arg(long)]
    pub price_list: Option<PathBuf>,
}

fn lease_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(duration) if duration >= Duration::from_secs(3) => Ok(duration),
        Ok(_) => Err("must be at least 3s".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn node_start_timeout(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_mins(1)..=Duration::from_hours(24);
    match parse_duration(text) {
        Ok(duration) if bounds.contains(&duration) => Ok(duration),
        Ok(_) => Err("must be between 1m and 24h".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn change_grace(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(duration) if duration <= Duration::from_hours(24) => Ok(duration),
        Ok(_) => Err("must be at most 24h".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn months(text: &str) -> Result<u32, String> {
    let months = text.parse().ok().filter(|months| *months >= 2);
    months.ok_or_else(|| "must be a whole number of months, 2 or more".to_owned())
}

/// Why a controller ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No client for the API server.
    #[error("no client for the API server: {0}")]
    Client(#[from] kube::Error),
    /// A port, or the process's signals.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The accounting time zone.
    #[error("--time-zone {name:?} is not a zone of the IANA database: {source}")]
    Zone {
        /// What was given.
        name: String,
        /// What is wrong with it.
        source: jiff::Error,
    },
    /// Leadership is lost; the process must end and start anew.
    #[error("leadership is lost")]
    Lost,
    /// Caches did not fill in time.
    #[error("the caches did not fill within {} s", SYNC_LIMIT.as_secs())]
    Unsynced,
}

/// Runs a controller until SIGTERM: waits to lead, then leads.
///
/// # Errors
/// A requirement is missing, or leadership is lost.
pub async fn run(options: Options) -> Result<(), Error> {
    let zone = TimeZone::get(&options.time_zone).map_err(|source| Error::Zone {
        name: options.time_zone.clone(),
        source,
    })?;
    let stop = shutdown::token()?;
    let client = Client::try_default().await?;
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let readiness = Readiness::default();
    let explain_inputs = ExplainInputs::default();
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    let routes =
        admin::routes(readiness.clone(), registry).merge(explain::routes(explain_inputs.clone()));
    let mut admin = tokio::spawn(admin::serve(options.admin_port, routes, ended.clone()));
    readiness.set(true);

    let candidate = Candidate {
        namespace: options.namespace.clone(),
        name: CONTROLLER_LEASE.to_owned(),
        identity: options.pod_name.clone(),
        duration: options.lease_duration,
    };
    let leadership = tokio::select! {
        acquired = candidate.acquire(client.clone(), &stop) => match acquired {
            Ok(leadership) => leadership,
            Err(_) => return Ok(()),
        },
        served = &mut admin => return served.unwrap_or(Ok(())).map_err(Error::Io),
    };
    metrics.leading.set(1);
    // the lease is given back only when nothing acts any more
    let done = CancellationToken::new();
    let lost = tokio::spawn(leadership.run(done.clone()));
    tokio::select! {
        led = lead(&options, client, zone, metrics, explain_inputs) => led?,
        () = stop.cancelled() => {}
        lost = lost => return if lost.unwrap_or(true) { Err(Error::Lost) } else { Ok(()) },
        served = &mut admin => return served.unwrap_or(Ok(())).map_err(Error::Io),
    }
    done.cancel();
    tokio::time::sleep(Duration::from_millis(500)).await;
    Ok(())
}

async fn lead(
    options: &Options,
    client: Client,
    zone: TimeZone,
    metrics: Metrics,
    explain_inputs: ExplainInputs,
) -> Result<(), Error> {
    let (ledger_triggers, ledger_received) = mpsc::unbounded_channel();
    let (changes, changes_received) = mpsc::unbounded_channel();
    let (inputs, inputs_received) = mpsc::unbounded_channel();
    let tombstones = Arc::default();
    let namespaces = Arc::default();
    let unreadable = Arc::<UnreadableObjects>::default();
    let (targets, reads) = bursar_signals::engine_reads::EngineReads::new(
        Scraper,
        Settings::default(),
        Timestamp::now,
    );
    let engines = Arc::new(EngineTargets::new(targets));
    let mut watches = JoinSet::new();
    let started = Stores::start(
        &mut watches,
        (&client, &options.namespace),
        &ledger_triggers,
        &changes,
        &tombstones,
        &unreadable,
        (&engines, &namespaces),
    );
    let started = tokio::time::timeout(SYNC_LIMIT, started).await;
    let stores = started.ok().and_then(Result::ok).ok_or(Error::Unsynced)?;
    if let Some(file) = &options.price_list {
        tokio::spawn(price_lists::install(client.clone(), file.clone()));
    }
    let reporter = Reporter {
        controller: "bursar-controller".to_owned(),
        instance: Some(options.pod_name.clone()),
    };
    let context = Arc::new(Context {
        stores: Arc::clone(&stores),
        namespaces,
        price_cache: PriceCache::default(),
        readings: Arc::default(),
        ledger: ledger::PublishedAccounts::new(zone.clone(), metrics.unwritten_accounts.clone()),
        ledger_triggers: ledger_triggers.clone(),
        written: ledger::WriteCache::default(),
        folded: ledger::ConsolidatedCache::default(),
        tombstones,
        unreadable,
        events: EventPublisher::new(
            Recorder::new(client.clone(), reporter),
            metrics.dropped_events.clone(),
        ),
        refusals: Refusals::default(),
        metrics,
        orders_wait: AtomicBool::new(false),
        index: Mutex::default(),
        sharing: Mutex::default(),
        measured: Arc::new(Mutex::new(power_readings::PowerReadings::new(
            Timestamp::now(),
        ))),
        began: Timestamp::now(),
        ports: Ports::default(),
        shares: Mutex::default(),
        zone,
        namespace: options.namespace.clone(),
        service_events: Mutex::default(),
        status_memories: Mutex::default(),
        observe_only: options.observe_only,
        change_grace: SignedDuration::try_from(options.change_grace).unwrap_or_default(),
        allowed_classes: options.allowed_priority_classes.clone(),
        gang_scheduling: options.gang_scheduling,
        client: client.clone(),
    });
    let credentials = Credentials {
        ca: options.gateway_ca.clone(),
        token: options.gateway_token.clone(),
        server_name: format!("bursar-gateway.{}.svc", options.namespace),
    };
    let prices = price_lists::run(Arc::clone(&context));
    let corrections = corrections::run(&context);
    let month_close = context.month_close(options.retention_months);
    *lock::lock(&explain_inputs) = Some(inputs.clone());
    let engine_reads = EngineReads {
        targets: Arc::clone(&engines),
        readings: Arc::clone(&context.readings),
        inputs: inputs.clone(),
    };
    // a task of its own: no decision delays a read
    let engine_reads = AbortOnDropHandle::new(tokio::spawn(engine_reads.run(reads)));
    let watts = power_readings::run(Arc::clone(&stores), Arc::clone(&context.measured));
    let mut node_autoscaling = NodeAutoscalingWatch::new(
        client.clone(),
        inputs.clone(),
        options.node_autoscaling,
        options.node_start_timeout,
    );
    let gateways = Gateways::new(
        stores.pods.clone(),
        options.namespace.clone(),
        credentials,
        inputs,
    );
    let mut demand = std::pin::pin!(gateways.run());
    // gangs that wait for nodes are not taken back before it is known that some are made
    node_autoscaling.detect_first().await;
    // signals that nobody has read yet are not unknown
    let first_round = async { tokio::join!(engines.all_read(), gateways.all_heard()) };
    tokio::select! {
        () = &mut demand => {}
        _ = tokio::time::timeout(FIRST_ROUND, first_round) => {}
    }
    cluster_bill::refresh(&context, Timestamp::now());
    let accounts = ledger::worker::run(Arc::clone(&context), ledger_received, Timestamp::now);
    // tasks of their own, which end when this one does
    let accounts = AbortOnDropHandle::new(tokio::spawn(accounts));
    let (wanted, wanted_received) = mpsc::unbounded_channel();
    let (applied, applied_received) = mpsc::unbounded_channel();
    let sources = Sources {
        changes: changes_received,
        inputs: inputs_received,
        applied: applied_received,
    };
    let actor = Actor::new(Arc::clone(&context)).run(sources, wanted, Timestamp::now);
    let actor = AbortOnDropHandle::new(tokio::spawn(actor));
    let executor = Executor::new(Arc::clone(&context));
    let executor = executor.run(wanted_received, applied, Timestamp::now);
    let executor = AbortOnDropHandle::new(tokio::spawn(executor));
    let events = context.events.clone();
    let events = AbortOnDropHandle::new(tokio::spawn(async move { events.run().await }));
    tokio::select! {
        () = prices => {}
        // a cache that nobody keeps would be believed for ever
        _ = watches.join_next() => {}
        _ = accounts => {}
        () = ledger::nodes::run(Arc::clone(&context)) => {}
        () = cluster_bill::run(&context) => {}
        () = corrections => {}
        () = unreadable_status::run(&context) => {}
        () = spend_metrics::run(&context) => {}
        () = month_close.run() => {}
        _ = engine_reads => {}
        () = watts => {}
        () = node_autoscaling.run() => {}
        () = refusals::run(&context.refusals, &client, changes, Timestamp::now) => {}
        () = demand => {}
        _ = actor => {}
        _ = executor => {}
        _ = events => {}
    }
    Ok(())
}
