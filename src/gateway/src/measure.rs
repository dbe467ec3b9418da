//! A gateway for one service whose replicas are given, for the benchmark of the request path.

use std::net::SocketAddr;
use std::time::Duration;

use prometheus_client::registry::Registry;
use serde_json::json;

use crate::access::directory::Directory;
use crate::demand::DemandTracker;
use crate::listeners::Listeners;
use crate::metrics::Metrics;
use crate::request::{Limits, RequestHandler};
use crate::route::{Route, RouteTable, ServiceRoutes};
use crate::routed_objects::RoutedService;
use crate::service_key::service_key;

const TIMEOUT: Duration = Duration::from_secs(60);

/// A gateway that listens on one port until it is dropped.
#[derive(Debug)]
pub struct MeasuredGateway {
    _listeners: Listeners,
    _demand: DemandTracker,
}

impl MeasuredGateway {
    /// A gateway on `port` in front of `replica`, which is ready. With `keep_clients` it keeps its
    /// clients' connections, as gateways do for services whose requests all go through them; those of
    /// others end with their answer.
    ///
    /// # Errors
    /// Fails if the objects cannot be made, or the port cannot be opened.
    pub async fn start(
        port: u16,
        replica: SocketAddr,
        keep_clients: bool,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let object: RoutedService = serde_json::from_value(json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment",
            "metadata": {"name": "chat", "namespace": "ns"}, "spec": {"engine": "vLLM", "maxReplicas": 1},
        }))?;
        let (mut table, routes) = (RouteTable::default(), ServiceRoutes::default());
        table.apply_service(&object);
        let service = service_key(&object);
        let route = Route {
            // an engine's port is the same for all replicas, and the benchmark's is any
            ready: vec![replica],
            ..table.route(&service)
        };
        routes.set(service.clone(), route);
        let metrics = Metrics::new(&mut Registry::default());
        let demand = DemandTracker::new("measured", metrics.clone());
        let limits = Limits {
            client_idle: TIMEOUT,
            client_stall: TIMEOUT,
            response_header: TIMEOUT,
            response_idle: TIMEOUT,
            pacing: TIMEOUT,
            close_clients: !keep_clients,
            kept_idle: TIMEOUT,
        };
        let handler = RequestHandler::new(
            routes,
            Directory::default(),
            demand.clone(),
            metrics,
            limits,
        );
        let mut listeners = Listeners::new(handler);
        match listeners.sync(&[(port, service)].into()).await {
            true => Ok(Self {
                _listeners: listeners,
                _demand: demand,
            }),
            false => Err(format!("cannot open port {port}").into()),
        }
    }
}
