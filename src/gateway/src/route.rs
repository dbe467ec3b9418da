//! The route table: which service has which port, and which replicas serve it. It is built from
//! InferenceDeployments and EndpointSlices.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bursar_api::InferenceDeployment;
use bursar_api::conditions::accepted;
use bursar_api::engine_presets::preset;
use bursar_api::inference::{ActivationMode, ActivationRetry, RefusalStatus};
use bursar_api::names::{GATEWAY_LABEL, SERVICE_PORT_NAME, WORKLOAD_LABEL};
use http::Method;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use tokio::sync::watch;

use crate::refusal::Refusal;

/// A service: the namespace and name of its InferenceDeployment.
pub(crate) type ServiceKey = (String, String);

/// The rules by which requests of a service are held.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HoldPolicy {
    /// The most requests that this gateway holds.
    pub(crate) max_held: u32,
    /// The longest time that it holds one.
    pub(crate) hold_timeout: SignedDuration,
    /// The queue depth that one replica should have.
    pub(crate) target: u32,
    /// The most replicas that the service may have.
    pub(crate) max_replicas: u32,
    /// The requests that may be sent to a second replica.
    pub(crate) retry: ActivationRetry,
    /// Requests may start a replica.
    pub(crate) on_demand: bool,
    /// Paths whose answers need no model: requests for them are not held.
    pub(crate) paths_without_model: &'static [&'static str],
    /// The only paths whose requests are held, if there are any; one that ends in `/` is for all below it.
    pub(crate) wake_on: Vec<String>,
    /// The controller's refusal, for the time in which no replica is ready and none may start.
    pub(crate) refusal: Option<RefusalStatus>,
}

/// Connections that a service may have in addition to those of held requests.
const EXTRA_CONNECTIONS: usize = 256;

impl HoldPolicy {
    /// The policy of a service that cannot be read, of which no earlier one is known: ready
    /// replicas serve, and while there is none, requests are refused, since none is started.
    fn unreadable() -> Self {
        let refusal = RefusalStatus {
            status: 0,
            reason: accepted::UNREADABLE.as_str().to_owned(),
            message: "the service has no replica, and its InferenceDeployment cannot be read: its condition Accepted says why"
                .to_owned(),
            retry_at: None,
        };
        Self {
            max_held: 0,
            hold_timeout: SignedDuration::ZERO,
            target: u32::MAX,
            max_replicas: 0,
            retry: ActivationRetry::Idempotent,
            on_demand: false,
            paths_without_model: &[],
            wake_on: Vec::new(),
            refusal: Some(refusal),
        }
    }

    /// The refusal of a request at `now` if no replica is ready; `None` if the request may wait. A
    /// refusal ends at its `retryAt`, so a budget reopens even while no controller runs.
    pub(crate) fn refusal(&self, now: Timestamp) -> Option<Refusal> {
        let current =
            |refusal: &&RefusalStatus| refusal.retry_at.as_ref().is_none_or(|at| at.0 > now);
        match self.refusal.as_ref().filter(current) {
            Some(refusal) => Some(Refusal::from(refusal)),
            None if !self.on_demand => Some(Refusal::activation_never()),
            None => None,
        }
    }

    /// Whether a request may wait for a replica and start one: it needs a model, and its path is
    /// among those that wake the service.
    pub(crate) fn wakes(&self, method: &Method, path: &str) -> bool {
        let without_slash = path.strip_suffix('/').unwrap_or(path);
        let lists_or_asks = matches!(*method, Method::HEAD | Method::OPTIONS);
        let is_listed = |listed: &String| match listed.ends_with('/') {
            true => path.starts_with(listed),
            false => without_slash == listed,
        };
        !lists_or_asks
            && !self.paths_without_model.contains(&without_slash)
            && (self.wake_on.is_empty() || self.wake_on.iter().any(is_listed))
    }

    /// The most connections of the service's clients, and the most bodies that are read at a time.
    pub(crate) fn max_connections(&self) -> usize {
        (self.max_held as usize).saturating_add(EXTRA_CONNECTIONS)
    }
}

/// An EndpointSlice of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Slice {
    /// The gateways of the service.
    Gateways {
        service: ServiceKey,
        port: u16,
        addresses: BTreeSet<IpAddr>,
    },
    /// The replicas of the service.
    Replicas {
        service: ServiceKey,
        ready: BTreeSet<SocketAddr>,
    },
}

/// What requests of one service go by.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Route {
    /// `None` if the service does not exist.
    pub(crate) policy: Option<Arc<HoldPolicy>>,
    /// The replicas that are ready for requests.
    pub(crate) ready: Vec<SocketAddr>,
}

/// The routes of all services, as requests read them. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServiceRoutes(Arc<Mutex<HashMap<ServiceKey, watch::Sender<Arc<Route>>>>>);

impl ServiceRoutes {
    /// The route of a service as it is now.
    pub(crate) fn get(&self, service: &ServiceKey) -> Arc<Route> {
        let known = self.lock().get(service).map(|route| route.borrow().clone());
        known.unwrap_or_default()
    }

    /// Receives every new route of a service; ends with the service. `None` if there is no such
    /// service.
    pub(crate) fn subscribe(&self, service: &ServiceKey) -> Option<watch::Receiver<Arc<Route>>> {
        self.lock().get(service).map(watch::Sender::subscribe)
    }

    fn set(&self, service: ServiceKey, route: Route) {
        let mut all = self.lock();
        if route == Route::default() {
            // whoever waits for it learns that it is gone
            all.remove(&service);
            return;
        }
        let known = all.entry(service).or_default();
        known.send_if_modified(|known| {
            let is_new = **known != route;
            if is_new {
                *known = Arc::new(route);
            }
            is_new
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServiceKey, watch::Sender<Arc<Route>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All services, and their EndpointSlices.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    services: BTreeMap<ServiceKey, Arc<HoldPolicy>>,
    slices: BTreeMap<(String, String), Slice>,
    /// The slices that have the replicas of each service.
    slices_of: BTreeMap<ServiceKey, BTreeSet<(String, String)>>,
    /// Services that have changed since routes were last published.
    changed: BTreeSet<ServiceKey>,
    /// Slices of gateways have changed since this was last asked.
    ports_changed: bool,
}

impl RouteTable {
    /// Adds or updates an InferenceDeployment.
    pub(crate) fn apply_service(&mut self, object: &InferenceDeployment) {
        let Ok(settings) = object.spec.settings() else {
            self.apply_unreadable_service(service_key(object));
            return;
        };
        let activation = object
            .status
            .as_ref()
            .and_then(|status| status.activation.as_ref());
        let policy = HoldPolicy {
            max_held: settings.max_held,
            hold_timeout: settings.hold_timeout,
            target: settings.target,
            max_replicas: settings.max,
            retry: object.spec.activation.retry,
            on_demand: object.spec.activation.mode == ActivationMode::OnDemand,
            paths_without_model: preset(object.spec.engine).paths_without_model,
            wake_on: object.spec.activation.wake_on.clone(),
            refusal: activation.and_then(|activation| activation.refusal.clone()),
        };
        self.changed.insert(service_key(object));
        self.services.insert(service_key(object), Arc::new(policy));
    }

    /// Adds an InferenceDeployment that cannot be read, or leaves it its last policy.
    pub(crate) fn apply_unreadable_service(&mut self, service: ServiceKey) {
        self.changed.insert(service.clone());
        self.services
            .entry(service)
            .or_insert_with(|| Arc::new(HoldPolicy::unreadable()));
    }

    /// Removes an InferenceDeployment.
    pub(crate) fn delete_service(&mut self, service: &ServiceKey) {
        self.services.remove(service);
        self.changed.insert(service.clone());
    }

    /// Adds or updates an EndpointSlice.
    pub(crate) fn apply_slice(&mut self, slice: &EndpointSlice) {
        self.set_slice(&service_key(slice), parse(slice));
    }

    /// Removes the EndpointSlice of this namespace and name.
    pub(crate) fn delete_slice(&mut self, slice: &ServiceKey) {
        self.set_slice(slice, None);
    }

    fn set_slice(&mut self, name: &ServiceKey, new: Option<Slice>) {
        let old = self.slices.remove(name);
        match &old {
            Some(Slice::Replicas { service, .. }) => {
                self.changed.insert(service.clone());
                if let Some(slices) = self.slices_of.get_mut(service) {
                    slices.remove(name);
                    if slices.is_empty() {
                        self.slices_of.remove(service);
                    }
                }
            }
            Some(Slice::Gateways { .. }) => self.ports_changed |= old != new,
            None => {}
        }
        match &new {
            Some(Slice::Replicas { service, .. }) => {
                self.changed.insert(service.clone());
                let slices = self.slices_of.entry(service.clone()).or_default();
                slices.insert(name.clone());
            }
            Some(Slice::Gateways { .. }) => self.ports_changed |= old != new,
            None => {}
        }
        if let Some(new) = new {
            self.slices.insert(name.clone(), new);
        }
    }

    /// Removes all InferenceDeployments except these, which a complete list had.
    pub(crate) fn retain_services(&mut self, listed: &BTreeSet<ServiceKey>) {
        let known = self.services.keys();
        let gone: Vec<ServiceKey> = known
            .filter(|key| !listed.contains(*key))
            .cloned()
            .collect();
        gone.iter().for_each(|key| self.delete_service(key));
    }

    /// Removes all EndpointSlices except these, which a complete list had.
    pub(crate) fn retain_slices(&mut self, listed: &BTreeSet<ServiceKey>) {
        let known = self.slices.keys();
        let gone: Vec<ServiceKey> = known
            .filter(|key| !listed.contains(*key))
            .cloned()
            .collect();
        gone.iter().for_each(|key| self.delete_slice(key));
    }

    /// The ports that EndpointSlices assign to the gateway with this address. If two services have
    /// the same port, the first keeps it.
    pub(crate) fn ports(&self, address: IpAddr) -> BTreeMap<u16, ServiceKey> {
        let mut ports = BTreeMap::new();
        for slice in self.slices.values() {
            if let Slice::Gateways {
                service,
                port,
                addresses,
            } = slice
                && addresses.contains(&address)
            {
                ports.entry(*port).or_insert_with(|| service.clone());
            }
        }
        ports
    }

    /// Whether ports may have changed since this was last asked.
    pub(crate) fn take_ports_changed(&mut self) -> bool {
        std::mem::take(&mut self.ports_changed)
    }

    /// The route of a service.
    pub(crate) fn route(&self, service: &ServiceKey) -> Route {
        let slices = self.slices_of.get(service).into_iter().flatten();
        let replicas = slices.filter_map(|name| match self.slices.get(name)? {
            Slice::Replicas { ready, .. } => Some(ready),
            Slice::Gateways { .. } => None,
        });
        let ready: BTreeSet<SocketAddr> = replicas.flatten().copied().collect();
        Route {
            policy: self.services.get(service).cloned(),
            ready: ready.into_iter().collect(),
        }
    }

    /// Publishes the routes of the services that have changed: only requests of these wake.
    pub(crate) fn publish(&mut self, routes: &ServiceRoutes) {
        for service in std::mem::take(&mut self.changed) {
            let route = self.route(&service);
            routes.set(service, route);
        }
    }
}

pub(crate) fn service_key(object: &impl ResourceExt) -> ServiceKey {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn parse(slice: &EndpointSlice) -> Option<Slice> {
    let service = (
        slice.namespace()?,
        slice.labels().get(WORKLOAD_LABEL)?.clone(),
    );
    let port = slice
        .ports
        .iter()
        .flatten()
        .find(|port| port.name.as_deref() == Some(SERVICE_PORT_NAME))?
        .port?;
    let port = u16::try_from(port).ok()?;
    let addresses = |ready_only: bool| {
        let endpoints = slice.endpoints.iter().flatten();
        endpoints
            .filter(move |endpoint| {
                !ready_only
                    || endpoint
                        .conditions
                        .as_ref()
                        .and_then(|conditions| conditions.ready)
                        .unwrap_or(true)
            })
            .flat_map(|endpoint| &endpoint.addresses)
            .filter_map(|address| address.parse::<IpAddr>().ok())
    };
    if slice.labels().contains_key(GATEWAY_LABEL) {
        return Some(Slice::Gateways {
            service,
            port,
            addresses: addresses(false).collect(),
        });
    }
    Some(Slice::Replicas {
        service,
        ready: addresses(true)
            .map(|address| SocketAddr::new(address, port))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(name: &str, gateway: bool, port: i32, endpoints: &[(&str, bool)]) -> EndpointSlice {
        let mut labels = json!({"bursar.dev/workload": "chat"});
        if gateway {
            labels["bursar.dev/gateway"] = json!("true");
        }
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|(address, ready)| json!({"addresses": [address], "conditions": {"ready": ready}}))
            .collect();
        let metadata = json!({"name": name, "namespace": "ns", "labels": labels});
        serde_json::from_value(
            json!({"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": port}]}),
        )
        .unwrap()
    }

    fn chat() -> ServiceKey {
        ("ns".into(), "chat".into())
    }

    #[test]
    fn a_port_belongs_to_the_service_whose_slice_names_this_gateway() {
        let mut routes = RouteTable::default();
        routes.apply_slice(&slice(
            "chat-bursar-gateway",
            true,
            20_017,
            &[("10.0.0.1", false), ("10.0.0.2", false)],
        ));
        let address = "10.0.0.1".parse().unwrap();
        assert_eq!(routes.ports(address), BTreeMap::from([(20_017, chat())]));
        assert!(routes.ports("10.0.0.9".parse().unwrap()).is_empty());
        assert!(
            routes.route(&chat()).ready.is_empty(),
            "a gateway is no replica"
        );
        routes.delete_slice(&("ns".into(), "chat-bursar-gateway".into()));
        assert!(routes.ports(address).is_empty());
    }

    #[test]
    fn only_ready_endpoints_of_all_slices_serve() {
        let mut routes = RouteTable::default();
        routes.apply_slice(&slice(
            "chat-a",
            false,
            8000,
            &[("10.0.1.1", true), ("10.0.1.2", false)],
        ));
        routes.apply_slice(&slice("chat-b", false, 8000, &[("10.0.1.3", true)]));
        let ready: Vec<SocketAddr> = ["10.0.1.1:8000", "10.0.1.3:8000"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(routes.route(&chat()).ready, ready);
    }
}
