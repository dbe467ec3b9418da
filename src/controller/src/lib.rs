//! Reconciles the resources, one namespace at a time: observe, plan, build, apply, status. The ledger
//! is kept by a task of its own.
//!
//! | module | subject |
//! |---|---|
//! | `cache` | one watch and one cache for each kind |
//! | `unreadable_status` | the condition of objects that cannot be read |
//! | `engine_targets`, `engine_reads` | signals: which engines are read, and what they report |
//! | `gateways` | signals: requests that gateways hold |
//! | `ledger` | charges, settled exactly once, and what decisions read of them |
//! | `power_readings` | the measured power of GPUs |
//! | `gpu_allocation`, `resource_claim` | the GPUs and volumes that pods hold |
//! | `pod` | what a pod reports |
//! | `scene` | what the caches hold of one namespace |
//! | `observe`, `capacity` | everything that a decision reads, as the core's snapshot |
//! | `reconcile` | the steps in their order |
//! | `status` | writes statuses, with an Event for each condition that changed |
//! | `namespace_metrics`, `explain` | a decision for Prometheus and for `kubectl bursar explain` |
//! | `corrections` | which SpendCorrections count |
//! | `inference`, `training`, `budget` | build, apply and status of a kind |
//! | `pricing` | the prices in force, and the condition `Priced` |
//! | `spend_status`, `health` | spend and pod health in workloads' statuses |
//! | `cluster_bill` | the whole cluster's month: shares of overheads, the cost of nodes |

mod api_calls;
mod budget;
mod cache;
mod capacity;
mod cluster_bill;
mod context;
mod corrections;
mod engine_reads;
mod engine_targets;
mod explain;
mod gateways;
mod gpu_allocation;
mod health;
mod inference;
mod ledger;
mod lock;
mod metrics;
mod namespace_metrics;
mod observe;
mod pod;
mod power_readings;
mod pricing;
mod reconcile;
mod resource_claim;
mod scene;
mod spend_status;
mod status;
#[cfg(test)]
mod tests;
mod training;
mod unreadable_status;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bursar_api::names::{ADMIN_PORT, CONTROLLER_LEASE};
use bursar_api::quantities::parse_duration;
use bursar_runtime::admin::{self, Readiness};
use bursar_runtime::leader_election::Candidate;
use bursar_runtime::shutdown;
use bursar_signals::demand::Credentials;
use bursar_signals::engine::Scraper;
use bursar_signals::schedule::Settings;
use futures::StreamExt;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::runtime::controller::{Action, Config};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, watcher};
use kube::{Api, Client, ResourceExt};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::cache::{Stores, Trigger, Triggers, UnreadableObjects};
use crate::context::Context;
use crate::engine_reads::EngineReads;
use crate::engine_targets::EngineTargets;
use crate::explain::Explained;
use crate::metrics::{Metrics, ResultLabel};
use crate::pricing::effective::PriceCache;
use crate::pricing::price_lists;

/// Namespaces that are reconciled at the same time.
const CONCURRENCY: u16 = 8;
const CONFLICT_PAUSE: Duration = Duration::from_millis(100);
const ERROR_PAUSE: Duration = Duration::from_secs(2);
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
    let explained = Explained::default();
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    let routes =
        admin::routes(readiness.clone(), registry).merge(explain::routes(explained.clone()));
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
        led = lead(&options, client, zone, metrics, explained) => led?,
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
    explained: Explained,
) -> Result<(), Error> {
    let (triggers, received) = mpsc::unbounded_channel();
    let (ledger_triggers, ledger_received) = mpsc::unbounded_channel();
    let tombstones = Arc::default();
    let unreadable = Arc::<UnreadableObjects>::default();
    let (targets, reads) = bursar_signals::engine_reads::EngineReads::new(
        Scraper,
        Settings::default(),
        Timestamp::now,
    );
    let engines = Arc::new(EngineTargets::new(targets));
    let started = Stores::start(&client, &triggers, &tombstones, &unreadable, &engines);
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
        price_cache: PriceCache::default(),
        readings: Arc::default(),
        demands: Arc::default(),
        ledger: ledger::PublishedAccounts::new(zone.clone(), metrics.unwritten_accounts.clone()),
        ledger_triggers: ledger_triggers.clone(),
        written: ledger::WriteCache::default(),
        folded: ledger::ConsolidatedCache::default(),
        tombstones,
        unreadable,
        recorder: Recorder::new(client.clone(), reporter),
        metrics,
        histories: Mutex::default(),
        reserved: Mutex::default(),
        sharing: Mutex::default(),
        measured: Arc::new(Mutex::new(power_readings::PowerReadings::new(
            Timestamp::now(),
        ))),
        began: Timestamp::now(),
        ports: Mutex::default(),
        shares: Mutex::default(),
        explained,
        zone,
        namespace: options.namespace.clone(),
        observe_only: options.observe_only,
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
    let engine_reads = EngineReads {
        targets: Arc::clone(&engines),
        readings: Arc::clone(&context.readings),
        triggers: triggers.clone(),
    };
    // a task of its own: no reconcile delays a read
    let engine_reads = AbortOnDropHandle::new(tokio::spawn(engine_reads.run(reads)));
    let watts = power_readings::run(Arc::clone(&stores), Arc::clone(&context.measured));
    let gateways = gateways::follow(
        stores.pods.clone(),
        options.namespace.clone(),
        credentials,
        Arc::clone(&context.demands),
        triggers.clone(),
    );
    let mut gateways = std::pin::pin!(gateways);
    // signals that nobody has read yet are not unknown
    let first_round = async { tokio::join!(engines.all_read(), context.gateways_reachable()) };
    tokio::select! {
        () = &mut gateways => {}
        _ = tokio::time::timeout(FIRST_ROUND, first_round) => {}
    }
    cluster_bill::refresh(&context, Timestamp::now());
    let accounts = ledger::worker::run(Arc::clone(&context), ledger_received, Timestamp::now);
    // a task of its own, which ends when this one does
    let accounts = AbortOnDropHandle::new(tokio::spawn(accounts));
    let reconciles = Controller::new(Api::<Namespace>::all(client), watcher::Config::default())
        .with_config(Config::default().concurrency(CONCURRENCY))
        .reconcile_on(triggered_namespaces(
            received,
            ledger_triggers,
            Arc::clone(&stores),
            options.namespace.clone(),
        ))
        .run(step, on_error, Arc::clone(&context))
        .for_each(|_| async {});
    tokio::select! {
        () = prices => {}
        _ = accounts => {}
        () = announce_accounts(&context, &triggers) => {}
        () = ledger::nodes::run(Arc::clone(&context)) => {}
        () = cluster_bill::run(&context) => {}
        () = corrections => {}
        () = unreadable_status::run(&context) => {}
        () = month_close.run() => {}
        _ = engine_reads => {}
        () = watts => {}
        () = gateways => {}
        () = reconciles => {}
    }
    Ok(())
}

/// Reconciles the namespaces whose accounts changed.
async fn announce_accounts(context: &Context, triggers: &Triggers) {
    loop {
        let changed = context.ledger.changes().await;
        let namespaces: BTreeSet<String> = changed
            .into_iter()
            .map(|account| account.namespace)
            .collect();
        for namespace in namespaces {
            if triggers.send(Trigger::Namespace(namespace)).is_err() {
                return;
            }
        }
    }
}

/// The namespaces to reconcile for these triggers, of which the ledger is told. A change in the
/// operator's own namespace, of its gateways, triggers all.
fn triggered_namespaces(
    received: mpsc::UnboundedReceiver<Trigger>,
    ledger: Triggers,
    stores: Arc<Stores>,
    own: String,
) -> impl futures::Stream<Item = ObjectRef<Namespace>> + Send + 'static {
    let triggers = futures::stream::unfold(received, |mut received| async move {
        received.recv().await.map(|trigger| (trigger, received))
    });
    triggers.flat_map(move |trigger| {
        if !matches!(trigger, Trigger::Namespace(_)) {
            // its task ends with this one
            let _ = ledger.send(trigger.clone());
        }
        let namespace = match trigger {
            Trigger::Namespace(name) | Trigger::Accounts(name) => Some(name),
            Trigger::Workload(workload) | Trigger::Record(workload) => Some(workload.namespace),
            Trigger::All => None,
        };
        let namespaces: BTreeSet<String> = match namespace {
            Some(name) if name != own => [name].into(),
            Some(_) | None => {
                let services = stores.services.state();
                let jobs = stores.jobs.state();
                let pods = stores.pods.state();
                let charged_in = |pod: &Pod| Some(pod::workload_of(pod)?.namespace);
                services
                    .iter()
                    .filter_map(|object| object.namespace())
                    .chain(jobs.iter().filter_map(|object| object.namespace()))
                    .chain(pods.iter().filter_map(|pod| charged_in(pod)))
                    .collect()
            }
        };
        futures::stream::iter(namespaces.into_iter().map(|name| ObjectRef::new(&name)))
    })
}

async fn step(
    namespace: Arc<Namespace>,
    context: Arc<Context>,
) -> Result<Action, reconcile::Error> {
    let began = Instant::now();
    let done = reconcile::reconcile(&context, &namespace.name_any(), Timestamp::now()).await;
    context
        .metrics
        .reconcile_seconds
        .observe(began.elapsed().as_secs_f64());
    let result = match &done {
        Ok(_) => "ok",
        Err(error) if error.is_conflict() => "conflict",
        Err(_) => "error",
    };
    context
        .metrics
        .reconciles
        .get_or_create(&ResultLabel { result })
        .inc();
    done.map(Action::requeue)
}

fn on_error(namespace: Arc<Namespace>, error: &reconcile::Error, _: Arc<Context>) -> Action {
    if error.is_conflict() {
        return Action::requeue(CONFLICT_PAUSE);
    }
    tracing::warn!(namespace = namespace.name_any(), %error, "reconcile");
    Action::requeue(ERROR_PAUSE)
}
