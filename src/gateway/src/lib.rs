//! The gateway: holds requests while a service has no ready replica, and forwards them once it has
//! one.
//!
//! A gateway writes nothing to the API server. It receives a service's requests only while no
//! replica is ready, because an EndpointSlice lists it as a terminating endpoint; or all of them, where
//! the service asks for it and the slice lists it as ready. Each service has a port of its own on every
//! gateway, the one in its status.

mod access;
mod balancer;
mod client_stream;
mod demand;
mod demand_server;
mod held_bytes;
mod hold;
mod listeners;
#[doc(hidden)]
pub mod measure;
mod metrics;
mod port_claims;
mod refusal;
mod request;
mod request_body;
mod request_stream;
mod response_body;
mod retry;
mod route;
mod route_watch;
mod routed_objects;
mod service_key;
#[cfg(test)]
mod tests;
mod upstream;
mod wake_limit;
mod watch_events;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bursar_api::names::{DEMAND_PORT, HEALTH_PORT, PROXIED_AUTHORIZATION, SECURE_PORT};
use bursar_runtime::access::AccessReviewer;
use bursar_runtime::admin::{self, Readiness};
use bursar_runtime::server::{self, CertificateFiles, Port};
use bursar_runtime::{open_files, shutdown};
use kube::Client;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::access::directory::Directory;
use crate::access::directory_watch;
use crate::demand::DemandTracker;
use crate::demand_server::DemandServer;
use crate::listeners::Listeners;
use crate::metrics::Metrics;
use crate::request::{Limits, RequestHandler};
use crate::route_watch::RouteWatch;

/// The connection of a client that sends nothing for this long, before its first request or in the
/// middle of one, is closed.
const CLIENT_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A held request waits for this long at most because the replicas that are ready have as many
/// requests as they should, and more replicas may come.
const PACING_TIMEOUT: Duration = Duration::from_secs(15);
/// A connection that is kept and has no request is closed after this long. Whoever pools connections
/// closes them earlier (nginx after a minute, clouds' load balancers after ten): a request that meets
/// the end of its connection may be lost.
const KEPT_IDLE_TIMEOUT: Duration = Duration::from_secs(620);
/// A port that could not be opened is tried again after this long.
const PORT_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// A gateway that shuts down accepts connections until no EndpointSlice lists it, and at most for
/// this long, because the controllers may be down.
const DEREGISTRATION_TIMEOUT: Duration = Duration::from_secs(25);
/// Nodes need this long to apply a changed EndpointSlice.
const ENDPOINT_PROPAGATION: Duration = Duration::from_secs(3);
/// The part of the termination grace period that is kept for refusing the requests that still wait.
const SHUTDOWN_MARGIN: Duration = Duration::from_secs(5);

/// Arguments of `bursar gateway`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Address of the pod, as EndpointSlices list it.
    #[arg(long, env = "POD_IP")]
    pub pod_ip: IpAddr,
    /// All addresses of the pod, one of each family, with commas between them.
    #[arg(long, env = "POD_IPS", value_delimiter = ',')]
    pub pod_ips: Vec<IpAddr>,
    /// UID of the pod.
    #[arg(long, env = "POD_UID")]
    pub pod_uid: String,
    /// Port for health and readiness.
    #[arg(long, default_value_t = HEALTH_PORT)]
    pub health_port: u16,
    /// Port for metrics, over TLS and with tokens.
    #[arg(long, default_value_t = SECURE_PORT)]
    pub secure_port: u16,
    /// Port for the demand stream, over TLS and with the controller's token.
    #[arg(long, default_value_t = DEMAND_PORT)]
    pub demand_port: u16,
    /// TLS certificate of both (PEM file).
    #[arg(long)]
    pub tls_cert: PathBuf,
    /// The certificate's private key (PEM file).
    #[arg(long)]
    pub tls_key: PathBuf,
    /// User who may read the demand stream.
    #[arg(
        long,
        default_value = "system:serviceaccount:bursar-system:bursar-controller"
    )]
    pub controller_service_account: String,
    /// terminationGracePeriodSeconds of the pod, such as 600s; requests that are held or in flight
    /// may use nearly all of it.
    #[arg(long, default_value = "30s", value_parser = bursar_api::quantities::parse_duration)]
    pub termination_grace: Duration,
    /// How long a replica may take until the head of its answer, from 1s to 24h; of an answer that
    /// is not streamed this is all of it. Then the client gets 504.
    #[arg(long, default_value = "15m", value_parser = bounded_timeout)]
    pub response_header_timeout: Duration,
    /// How long a replica may send nothing in the middle of its answer, from 1s to 24h. Then the answer
    /// is cut off.
    #[arg(long, default_value = "15m", value_parser = bounded_timeout)]
    pub response_idle_timeout: Duration,
    /// How long a client may take nothing of its answer, from 1s to 24h. Then the answer is cut off.
    #[arg(long, default_value = "60s", value_parser = bounded_timeout)]
    pub client_stall_timeout: Duration,
}

fn bounded_timeout(text: &str) -> Result<Duration, String> {
    match bursar_api::quantities::parse_duration(text) {
        Ok(duration) if (Duration::from_secs(1)..=Duration::from_hours(24)).contains(&duration) => {
            Ok(duration)
        }
        Ok(_) => Err("must be from 1s to 24h".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// The error with which a gateway ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No client for the API server could be made.
    #[error("cannot make a client for the API server: {0}")]
    Client(#[from] kube::Error),
    /// A port could not be opened, or signals could not be received.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A task that runs for ever ended.
    #[error("{0} ended")]
    Ended(&'static str),
}

/// Runs a gateway until SIGTERM.
///
/// # Errors
/// Fails if the gateway cannot run: no client for the API server, or a port that cannot be opened.
pub async fn run(options: Options) -> Result<(), Error> {
    open_files::raise_limit();
    let stop = shutdown::token()?;
    let client = Client::try_default().await?;
    serve(options, client, stop).await
}

/// Serves until `stop`, and then until no request is held or in flight, within the termination
/// grace period.
async fn serve(options: Options, client: Client, stop: CancellationToken) -> Result<(), Error> {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let demand = DemandTracker::new(&options.pod_uid, metrics.clone());
    let readiness = Readiness::default();
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    let demand_server = DemandServer::new(
        client.clone(),
        options.controller_service_account,
        demand.clone(),
    );
    let certificate = CertificateFiles {
        certificate: options.tls_cert,
        key: options.tls_key,
    };
    let reviewer = AccessReviewer::new(client.clone(), PROXIED_AUTHORIZATION);
    // the leader has a port of its own: whoever floods the others keeps it from no gateway
    let demand_port = Port {
        has_endless_responses: true,
        ..Port::tls(options.demand_port, certificate.clone())
    };
    let ports = [
        (
            Port::plain(options.health_port),
            admin::health_routes(readiness.clone()),
        ),
        (
            Port::tls(options.secure_port, certificate),
            admin::metrics_routes(registry, reviewer),
        ),
        (demand_port, demand_server::routes(demand_server)),
    ];
    let ports = ports.map(|(port, routes)| server::serve(port, routes, ended.clone()));
    let ports = tokio::spawn(futures::future::try_join_all(ports));
    let directory = Directory::default();
    let directory_watch = directory_watch::run(client.clone(), directory.clone());
    let directory_watch = AbortOnDropHandle::new(tokio::spawn(directory_watch));
    let mut route_watch = RouteWatch::new(client, directory.clone());
    let limits = Limits {
        client_idle: CLIENT_IDLE_TIMEOUT,
        client_stall: options.client_stall_timeout,
        response_header: options.response_header_timeout,
        response_idle: options.response_idle_timeout,
        pacing: PACING_TIMEOUT,
        close_clients: true,
        kept_idle: KEPT_IDLE_TIMEOUT,
    };
    let handler = RequestHandler::new(route_watch.routes(), directory, demand, metrics, limits);
    let listeners = Listeners::new(handler);
    let serving = async {
        let listeners = sync_listeners(&mut route_watch, listeners, &readiness, &stop).await?;
        readiness.set(false);
        listeners.begin_shutdown();
        let grace = options.termination_grace;
        let end = Instant::now() + grace.saturating_sub(SHUTDOWN_MARGIN).max(grace / 2);
        let mut addresses = options.pod_ips;
        addresses.push(options.pod_ip);
        let deregistered = route_watch.wait_until_unlisted(&addresses);
        let limit = DEREGISTRATION_TIMEOUT.min(grace / 2);
        if let Ok(ended) = tokio::time::timeout(limit, deregistered).await {
            ended?;
        }
        let drain = async {
            tokio::time::sleep(ENDPOINT_PROPAGATION.min(grace / 4)).await;
            listeners.drain(end).await;
        };
        tokio::select! {
            ended = route_watch.run() => ended,
            () = drain => Ok(()),
        }
    };
    tokio::select! {
        ended = serving => ended,
        ended = directory_watch => ended.map_err(|_| Error::Ended("the watch of pods and nodes"))?,
        ended = ports => match ended {
            Ok(Err(error)) => Err(Error::Io(error)),
            Ok(Ok(_)) | Err(_) => Err(Error::Ended("a port for health, metrics or demand")),
        },
    }
}

/// Keeps one listener open for the port of each service, until `stop`.
async fn sync_listeners(
    route_watch: &mut RouteWatch,
    mut listeners: Listeners,
    readiness: &Readiness,
    stop: &CancellationToken,
) -> Result<Listeners, Error> {
    let mut all_open = true;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(listeners),
            applied = route_watch.next() => applied?,
            () = tokio::time::sleep(PORT_RETRY_INTERVAL), if !all_open => {}
        }
        if !route_watch.is_synced() {
            continue;
        }
        if route_watch.assign_ports() || !all_open {
            // one port that another process has does not keep the other services from being served
            all_open = listeners.sync(route_watch.ports()).await;
        }
        readiness.set(true);
    }
}
