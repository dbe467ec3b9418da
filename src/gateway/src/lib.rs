//! Holds requests while a service has no ready replica, and forwards them when it has one.
//!
//! A gateway writes nothing to the API server. It is in the path of a service's requests exactly while no replica is ready, because
//! an EndpointSlice names it as a terminating endpoint; each service has a port of its own.

mod demand;
mod demand_server;
mod hold;
mod listeners;
mod metrics;
mod refusal;
mod request;
mod request_body;
mod route;
mod route_watch;
#[cfg(test)]
mod tests;
mod upstream;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bursar_runtime::admin::{self, Readiness};
use bursar_runtime::shutdown;
use kube::Client;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::demand::DemandTracker;
use crate::demand_server::DemandServer;
use crate::listeners::Listeners;
use crate::metrics::Metrics;
use crate::request::RequestHandler;
use crate::route_watch::RouteWatch;

/// A client that sends nothing for this long, before its first request or in the middle of one, is given up.
const CLIENT_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A port that could not be opened is tried again after this long.
const PORT_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// A gateway that is told to stop takes connections until no slice names it, at most for this long: the controllers may be down.
const DEREGISTRATION_TIMEOUT: Duration = Duration::from_secs(25);
/// Nodes take this long to follow a slice.
const ENDPOINT_PROPAGATION: Duration = Duration::from_secs(3);
/// What a gateway leaves of its termination grace, to refuse what still waits.
const SHUTDOWN_MARGIN: Duration = Duration::from_secs(5);

/// What a gateway is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The pod's address, as EndpointSlices name it.
    #[arg(long, env = "POD_IP")]
    pub pod_ip: IpAddr,
    /// The pod's UID.
    #[arg(long, env = "POD_UID")]
    pub pod_uid: String,
    /// Port of health, readiness and metrics.
    #[arg(long, default_value_t = 8080)]
    pub admin_port: u16,
    /// Port of the demand stream.
    #[arg(long, default_value_t = 8443)]
    pub control_port: u16,
    /// Certificate of the control port (PEM).
    #[arg(long)]
    pub tls_cert: PathBuf,
    /// Its key (PEM).
    #[arg(long)]
    pub tls_key: PathBuf,
    /// The user who may read the demand stream.
    #[arg(
        long,
        default_value = "system:serviceaccount:bursar-system:bursar-controller"
    )]
    pub controller_service_account: String,
    /// The pod's terminationGracePeriodSeconds, such as 600s: what is held and in flight may take nearly all of it.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub termination_grace: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    let read = bursar_api::quantities::duration("--termination-grace", text);
    let read = read.map_err(|error| error.to_string())?;
    Duration::try_from(read).map_err(|error| error.to_string())
}

/// Why a gateway ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server cannot be reached at all.
    #[error("no client for the API server: {0}")]
    Client(#[from] kube::Error),
    /// A port, or the process's signals.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Something ended that never does.
    #[error("{0} ended")]
    Ended(&'static str),
}

/// Runs a gateway until SIGTERM.
///
/// # Errors
/// What it cannot run without.
pub async fn run(options: Options) -> Result<(), Error> {
    raise_open_files();
    let stop = shutdown::token()?;
    let client = Client::try_default().await?;
    serve(options, client, stop).await
}

/// A request that waits has a socket, one in flight two, and container runtimes start a process with 1024 unless it asks for more.
fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Serves until `stop`, then until nothing is held or in flight, within the grace.
async fn serve(options: Options, client: Client, stop: CancellationToken) -> Result<(), Error> {
    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let demand = DemandTracker::new(&options.pod_uid, metrics.clone());
    let readiness = Readiness::default();
    let ended = CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    let admin = tokio::spawn(admin::serve(
        options.admin_port,
        admin::routes(readiness.clone(), registry),
        ended.clone(),
    ));
    let demand_server = DemandServer {
        port: options.control_port,
        certificate: options.tls_cert,
        key: options.tls_key,
        controller_user: options.controller_service_account,
        demand: demand.clone(),
    };
    let demand_server = tokio::spawn(demand_server.serve(client.clone(), ended.clone()));
    let mut route_watch = RouteWatch::new(client);
    let routes = route_watch.routes();
    let handler = RequestHandler::new(routes.clone(), demand, metrics, CLIENT_IDLE_TIMEOUT);
    let listeners = Listeners::new(handler);
    let serving = async {
        let listeners = sync_listeners(
            &mut route_watch,
            listeners,
            &readiness,
            options.pod_ip,
            &stop,
        )
        .await?;
        readiness.set(false);
        let grace = options.termination_grace;
        let end = Instant::now() + grace.saturating_sub(SHUTDOWN_MARGIN).max(grace / 2);
        let mut routes = routes;
        let drain = async {
            let deregistered = routes.wait_for(|routes| routes.ports(options.pod_ip).is_empty());
            let limit = DEREGISTRATION_TIMEOUT.min(grace / 2);
            tokio::time::timeout(limit, deregistered).await.ok();
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
        ended = admin => ended.map_err(|_| Error::Ended("the admin server"))?.map_err(Error::Io),
        ended = demand_server => ended.map_err(|_| Error::Ended("the control port"))?.map_err(Error::Io),
    }
}

/// Opens and closes the services' ports as slices name this gateway, until `stop`.
async fn sync_listeners(
    route_watch: &mut RouteWatch,
    mut listeners: Listeners,
    readiness: &Readiness,
    address: IpAddr,
    stop: &CancellationToken,
) -> Result<Listeners, Error> {
    let mut all_open = true;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(listeners),
            applied = route_watch.next() => applied?,
            () = tokio::time::sleep(PORT_RETRY_INTERVAL), if !all_open => {}
        }
        if let Some(routes) = route_watch.synced() {
            // one port that another process has is no reason to serve no service
            all_open = listeners.sync(routes.ports(address)).await;
            readiness.set(true);
        }
    }
}
