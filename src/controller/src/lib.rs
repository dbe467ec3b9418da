//! The controller. Changes in caches, and signals, become events of one model, which one actor
//! owns. Decisions become orders, which an executor carries out. Tasks of its own keep the ledger,
//! and no decision waits for them.
//!
//! | module | subject |
//! |---|---|
//! | `lead` | what a leader does, in phases: caches, first signals, tasks |
//! | `cache` | one watch and one cache for each kind |
//! | `index` | where the pods of a workload are in their cache |
//! | `unreadable_status` | the condition of objects that cannot be read |
//! | `engine_targets`, `engine_reads` | signals: which engines are read, and what they report |
//! | `signals` | signals that are measured outside the replicas: queues, queries |
//! | `gateways` | signals: requests that gateways hold |
//! | `unreachable_replicas` | ready replicas to which gateways cannot connect |
//! | `edge` | from objects, accounts and prices to events |
//! | `input` | what the actor is told by other tasks than the caches |
//! | `actor` | owns the model: takes all events that wait, and decides once |
//! | `executor` | carries out the newest order of each object, and writes statuses |
//! | `subject` | the objects that the controller acts for |
//! | `scale_target`, `rollout` | workloads that exist and are scaled by `targetRef` |
//! | `job_target` | jobs that exist and are started and suspended by `targetRef` |
//! | `target_work` | when targets are read and their pods labelled, and how many at a time |
//! | `inference`, `training`, `budget` | build, apply and status of a kind |
//! | `evictions`, `released_pods` | pods of no workload that have no money, and those that are their workload's no more |
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
mod evictions;
mod executor;
mod explain;
mod foreign_edits;
mod gateways;
mod gpu_allocation;
mod health;
mod index;
mod inference;
mod input;
mod job_target;
mod lead;
mod ledger;
mod lock;
mod metrics;
mod node_autoscaling;
mod object_key;
mod owned_fields;
mod ownership;
mod paused;
mod pod;
mod pod_failure;
mod pod_mark;
mod pod_resources;
mod ports;
mod power_readings;
mod pricing;
mod priority;
mod released_pods;
mod resource_claim;
mod rollout;
mod scale_target;
mod signals;
mod slice_index;
mod spend_metrics;
mod spend_status;
mod status;
mod status_memory;
mod status_pacing;
mod target_key;
mod target_work;
#[cfg(test)]
mod tests;
mod training;
mod unreachable_replicas;
mod unreadable_status;
mod within_budget;

use std::path::PathBuf;
use std::time::Duration;

use bursar_api::names::{CONTROLLER_LEASE, HEALTH_PORT, PROXIED_AUTHORIZATION, SECURE_PORT};
use bursar_api::quantities::parse_duration;
use bursar_runtime::access::AccessReviewer;
use bursar_runtime::admin::{self, Readiness};
use bursar_runtime::leader_election::{Candidate, Leadership};
use bursar_runtime::open_files;
use bursar_runtime::server::{self, CertificateFiles, Port};
use bursar_runtime::shutdown;
use bursar_signals::address_policy::Network;
use jiff::tz::TimeZone;
use kube::{Client, Config};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::explain::ExplainInputs;
pub use crate::job_target::JobTargetKinds;
use crate::lead::lead;
use crate::metrics::Metrics;
pub use crate::node_autoscaling::NodeAutoscaling;
pub use crate::priority::AllowedClass;
pub use crate::training::pod_group::GangScheduling;

/// So long is waited for the Lease to be given back.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

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
    /// The kinds of jobs that TrainingJobs may adopt by targetRef, as a JSON list: the chart's value
    /// `jobTargets`.
    #[arg(
        long,
        env = "BURSAR_JOB_TARGETS",
        default_value = "[]",
        hide_default_value = true
    )]
    pub job_targets: JobTargetKinds,
    /// A PriorityClass above 0 that counts beside other namespaces, and a namespace that may use it:
    /// `high=team`, or `high=*` for all. May be given several times.
    #[arg(long = "allow-priority-class", value_name = "CLASS=NAMESPACE")]
    pub allowed_priority_classes: Vec<AllowedClass>,
    /// A network whose addresses signals may be read from, though they are those of nodes, the API server,
    /// loopback or link-local ones: `10.0.0.0/24`. May be given several times.
    #[arg(long = "allow-signal-address", value_name = "CIDR")]
    pub allowed_signal_addresses: Vec<Network>,
    /// The label by which series of Prometheus tell their namespace; the queries of a namespace's signals
    /// are confined to it. Empty: they are not.
    #[arg(
        long,
        env = "BURSAR_PROMETHEUS_NAMESPACE_LABEL",
        default_value = "namespace"
    )]
    pub prometheus_namespace_label: String,
    /// The namespace whose dcgm-exporters are read for the watts of GPUs; without it, the usual one
    /// that has any.
    #[arg(long, env = "BURSAR_POWER_EXPORTER_NAMESPACE")]
    pub power_exporter_namespace: Option<String>,
    /// Port of health and readiness.
    #[arg(long, default_value_t = HEALTH_PORT)]
    pub health_port: u16,
    /// Port of metrics and explanations, over TLS and with tokens. Served if there is a certificate.
    #[arg(long, default_value_t = SECURE_PORT)]
    pub secure_port: u16,
    /// TLS certificate of the secure port (PEM file).
    #[arg(long, requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the secure port's certificate (PEM file).
    #[arg(long, requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
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
    /// Caches do not fill.
    #[error(
        "the caches do not fill: no list of the API server brought anything new for {} s",
        lead::STALL_LIMIT.as_secs()
    )]
    Unsynced,
}

/// Runs a controller until SIGTERM: waits to lead, then leads.
///
/// # Errors
/// A requirement is missing, or leadership is lost.
pub async fn run(options: Options) -> Result<(), Error> {
    open_files::raise_limit();
    let zone = TimeZone::get(&options.time_zone).map_err(|source| Error::Zone {
        name: options.time_zone.clone(),
        source,
    })?;
    let stop = shutdown::token()?;
    let config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    let mut without_retries = config.clone();
    without_retries.default_retry = false;
    let eviction_client = Client::try_from(without_retries)?;
    let client = Client::try_from(config)?;
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let readiness = Readiness::default();
    let explain_inputs = ExplainInputs::default();
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    let reviewer = AccessReviewer::new(client.clone(), PROXIED_AUTHORIZATION);
    let routes = admin::metrics_routes(registry, reviewer.clone())
        .merge(explain::routes(explain_inputs.clone(), reviewer));
    let mut ports = vec![server::serve(
        Port::plain(options.health_port),
        admin::health_routes(readiness.clone()),
        ended.clone(),
    )];
    match options.tls_cert.clone().zip(options.tls_key.clone()) {
        Some((certificate, key)) => {
            let files = CertificateFiles { certificate, key };
            let port = Port::tls(options.secure_port, files);
            ports.push(server::serve(port, routes, ended.clone()));
        }
        None => tracing::info!("no --tls-cert: metrics and explanations are not served"),
    }
    let served = futures::future::try_join_all(ports);
    let mut served = tokio::spawn(async { served.await.map(drop) });
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
        ended = &mut served => return ended.unwrap_or(Ok(())).map_err(Error::Io),
    };
    metrics.leading.set(1);
    let led = async {
        tokio::select! {
            led = lead(&options, (client, eviction_client), zone, metrics, explain_inputs) => led,
            () = stop.cancelled() => Ok(()),
            ended = &mut served => ended.unwrap_or(Ok(())).map_err(Error::Io),
        }
    };
    while_leading(leadership, led).await
}

/// Acts as leader, and gives the Lease back when nothing acts any more, whatever ended it: another
/// candidate need not wait until it expires.
async fn while_leading(
    leadership: Leadership,
    led: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let done = CancellationToken::new();
    let mut lost = tokio::spawn(leadership.run(done.clone()));
    let ended = tokio::select! {
        led = led => led,
        lost = &mut lost => return if lost.unwrap_or(true) { Err(Error::Lost) } else { Ok(()) },
    };
    done.cancel();
    tokio::time::timeout(RELEASE_LIMIT, lost).await.ok();
    ended
}
