//! Holds requests while a service has no ready replica, and forwards them when it has one.
//!
//! A gateway writes nothing to the API server. It is in the path of a service's requests exactly while no replica is ready, because
//! an EndpointSlice names it as a terminating endpoint; each service has a port of its own.

mod control;
mod demand;
mod forward;
mod meter;
mod refuse;
mod route;
mod serve;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bursar_api::InferenceDeployment;
use bursar_api::names::WORKLOAD_LABEL;
use bursar_runtime::admin::{self, Readiness};
use bursar_runtime::shutdown;
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::control::Control;
use crate::demand::Demand;
use crate::forward::Forwarder;
use crate::meter::Meters;
use crate::route::{Key, Routes};
use crate::serve::Listeners;

/// A gateway that is told to stop serves on until no slice names it, at most for this long.
const LEAVE_LIMIT: Duration = Duration::from_secs(25);
/// Then its requests may take this long.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

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
    /// A watch ended, which it never does.
    #[error("the watch of {0} ended")]
    Watch(&'static str),
}

enum Change {
    Service(Box<Event<InferenceDeployment>>),
    Slice(Box<Event<EndpointSlice>>),
}

/// Runs a gateway until SIGTERM.
///
/// # Errors
/// What it cannot run without.
pub async fn run(options: Options) -> Result<(), Error> {
    let stop = shutdown::token()?;
    let client = Client::try_default().await?;
    let mut registry = Registry::default();
    let meters = Meters::new(&mut registry);
    let demand = Demand::new(&options.pod_uid, meters.clone());
    let readiness = Readiness::default();
    let ended = tokio_util::sync::CancellationToken::new();
    let _ended = ended.clone().drop_guard();
    let admin = tokio::spawn(admin::serve(
        options.admin_port,
        admin::routes(readiness.clone(), registry),
        ended.clone(),
    ));
    let control = Control {
        port: options.control_port,
        certificate: options.tls_cert,
        key: options.tls_key,
        reader: options.controller_service_account,
        demand: demand.clone(),
    };
    let control = tokio::spawn(control.serve(client.clone(), ended.clone()));

    let (publish, routes) = watch::channel(Arc::new(Routes::default()));
    let mut listeners = Listeners::new(Forwarder::new(routes, demand, meters));
    let mut changes = std::pin::pin!(changes(client));
    let mut index = Routes::default();
    let mut services = Feed::new(
        Routes::apply_service,
        Routes::delete_service,
        Routes::retain_services,
    );
    let mut slices = Feed::new(
        Routes::apply_slice,
        Routes::delete_slice,
        Routes::retain_slices,
    );
    let mut leaving = std::pin::pin!(async {
        stop.cancelled().await;
        readiness.set(false);
        tokio::time::sleep(LEAVE_LIMIT).await;
    });
    let mut servers = std::pin::pin!(async {
        tokio::select! { ended = admin => ended, ended = control => ended }
    });
    loop {
        tokio::select! {
            change = changes.next() => match change.ok_or(Error::Watch("services and slices"))? {
                Change::Service(event) => services.take(*event, &mut index),
                Change::Slice(event) => slices.take(*event, &mut index),
            },
            () = &mut leaving => break,
            server = &mut servers => return server.map_err(|_| Error::Watch("a server"))?.map_err(Error::Io),
        }
        publish.send_replace(Arc::new(index.clone()));
        if services.synced && slices.synced {
            let ports = index.ports(options.pod_ip);
            if stop.is_cancelled() && ports.is_empty() {
                break;
            }
            let open = listeners.follow(ports).await;
            readiness.set(open && !stop.is_cancelled());
        }
    }
    listeners.close(DRAIN_LIMIT).await;
    Ok(())
}

fn changes(client: Client) -> impl Stream<Item = Change> {
    let services = watcher(
        Api::<InferenceDeployment>::all(client.clone()),
        watcher::Config::default(),
    );
    let slices = watcher(
        Api::<EndpointSlice>::all(client),
        watcher::Config::default().labels(WORKLOAD_LABEL),
    );
    let warn =
        |kind: &'static str| move |error: &watcher::Error| tracing::warn!(kind, %error, "watch");
    let services = services
        .default_backoff()
        .inspect_err(warn("inferencedeployments"))
        .filter_map(|event| async { event.ok() });
    let slices = slices
        .default_backoff()
        .inspect_err(warn("endpointslices"))
        .filter_map(|event| async { event.ok() });
    futures::stream::select(
        services.map(|event| Change::Service(Box::new(event))),
        slices.map(|event| Change::Slice(Box::new(event))),
    )
}

/// How the events of one kind go into the index.
struct Feed<K> {
    apply: fn(&mut Routes, &K),
    delete: fn(&mut Routes, &K),
    retain: fn(&mut Routes, &BTreeSet<Key>),
    listed: BTreeSet<Key>,
    /// The first list is complete.
    synced: bool,
}

impl<K: ResourceExt> Feed<K> {
    fn new(
        apply: fn(&mut Routes, &K),
        delete: fn(&mut Routes, &K),
        retain: fn(&mut Routes, &BTreeSet<Key>),
    ) -> Self {
        Self {
            apply,
            delete,
            retain,
            listed: BTreeSet::new(),
            synced: false,
        }
    }

    fn take(&mut self, event: Event<K>, index: &mut Routes) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                self.listed.insert(route::key(&object));
                (self.apply)(index, &object);
            }
            Event::InitDone => {
                (self.retain)(index, &self.listed);
                self.synced = true;
            }
            Event::Apply(object) => (self.apply)(index, &object),
            Event::Delete(object) => (self.delete)(index, &object),
        }
    }
}
