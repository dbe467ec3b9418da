//! The route table: which service has which port, and which replicas serve it.
//!
//! Nothing in it is taken from what a tenant writes about others. A port is the one in the service's
//! own status, which controllers alone write. A replica is a pod of the service's namespace at the
//! address that its kubelet reported. EndpointSlices route nothing, whoever made them; those that a
//! service owns say whether nodes still send connections to this gateway.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bursar_api::InferenceDeployment;
use bursar_api::conditions::accepted;
use bursar_api::inference::{ActivationMode, ActivationRetry, RefusalStatus};
use bursar_api::lenient::Lenient;
use bursar_api::names::{KIND_LABEL, SERVING_LABEL, WORKLOAD_LABEL, gateway_slices};
use bursar_api::signal::DEFAULT_QUEUE_DEPTH;
use http::Method;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use tokio::sync::watch;

use crate::access::Access;
use crate::access::network_policies::{NetworkPolicies, ReplicaPort};
use crate::access::selector::Labels;
use crate::port_claims::PortClaims;
use crate::refusal::Refusal;
use crate::routed_objects::{RoutedService, ServingPod};
use crate::service_key::{ServiceKey, service_key};

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
    /// How often in an hour requests may wake it.
    pub(crate) max_wakes: u32,
    /// The requests that may be sent to a second replica.
    pub(crate) retry: ActivationRetry,
    /// Requests may start a replica.
    pub(crate) on_demand: bool,
    /// All requests go through gateways, those too that come while a replica is ready.
    pub(crate) always: bool,
    /// Paths whose answers need no model: requests for them are not held.
    pub(crate) paths_without_model: Vec<String>,
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
            max_wakes: 0,
            retry: ActivationRetry::Idempotent,
            on_demand: false,
            always: false,
            paths_without_model: Vec::new(),
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
            && !self
                .paths_without_model
                .iter()
                .any(|listed| listed == without_slash)
            && (self.wake_on.is_empty() || self.wake_on.iter().any(is_listed))
    }

    /// The most connections of the service's clients, and the most bodies that are read at a time.
    pub(crate) fn max_connections(&self) -> usize {
        (self.max_held as usize).saturating_add(EXTRA_CONNECTIONS)
    }
}

/// A service, as requests are routed to it.
#[derive(Debug, Clone, PartialEq)]
struct Service {
    uid: Option<String>,
    policy: Arc<HoldPolicy>,
    /// Port on which its replicas serve.
    engine_port: Option<u16>,
    /// Who may reach it, if it says so itself.
    allow_from: Option<Access>,
    /// The labels of its replicas, by which NetworkPolicies select them.
    replica_labels: Labels,
    /// The names of the replicas' port.
    port_names: BTreeSet<String>,
}

/// An EndpointSlice that names gateways.
#[derive(Debug, Clone, PartialEq, Eq)]
struct GatewaySlice {
    service: ServiceKey,
    /// UIDs of its owners.
    owners: Vec<String>,
    addresses: BTreeSet<IpAddr>,
}

/// What requests of one service go by.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Route {
    /// `None` if the service does not exist.
    pub(crate) policy: Option<Arc<HoldPolicy>>,
    /// The replicas that are ready for requests.
    pub(crate) ready: Vec<SocketAddr>,
    /// Who may reach it.
    pub(crate) access: Arc<Access>,
}

/// The routes of all services, as requests read them. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServiceRoutes(Arc<Mutex<HashMap<ServiceKey, PublishedRoute>>>);

#[derive(Debug, Default)]
struct PublishedRoute {
    route: watch::Sender<Arc<Route>>,
    /// How often the service has had a ready replica after it had none.
    times_ready: u64,
}

impl ServiceRoutes {
    /// The route of a service as it is now.
    pub(crate) fn get(&self, service: &ServiceKey) -> Arc<Route> {
        let known = self.lock();
        let known = known.get(service).map(|known| known.route.borrow().clone());
        known.unwrap_or_default()
    }

    /// Receives every new route of a service; ends with the service. `None` if there is no such
    /// service.
    pub(crate) fn subscribe(&self, service: &ServiceKey) -> Option<watch::Receiver<Arc<Route>>> {
        let all = self.lock();
        all.get(service).map(|known| known.route.subscribe())
    }

    /// How often the service has had a ready replica after it had none.
    pub(crate) fn times_ready(&self, service: &ServiceKey) -> u64 {
        self.lock()
            .get(service)
            .map_or(0, |known| known.times_ready)
    }

    pub(crate) fn set(&self, service: ServiceKey, route: Route) {
        let mut all = self.lock();
        if route == Route::default() {
            // whoever waits for it learns that it is gone
            all.remove(&service);
            return;
        }
        let known = all.entry(service).or_default();
        let was_ready = !known.route.borrow().ready.is_empty();
        known.times_ready += u64::from(!was_ready && !route.ready.is_empty());
        known.route.send_if_modified(|known| {
            let is_new = **known != route;
            if is_new {
                *known = Arc::new(route);
            }
            is_new
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServiceKey, PublishedRoute>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All services, their ready replicas, and the EndpointSlices that name gateways.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    services: BTreeMap<ServiceKey, Service>,
    ports: PortClaims,
    /// The service and the address of each pod that is ready for requests.
    pods: HashMap<ServiceKey, (ServiceKey, IpAddr)>,
    /// The addresses of each service's ready pods, with the pods' names.
    replicas: BTreeMap<ServiceKey, BTreeSet<(IpAddr, String)>>,
    slices: BTreeMap<ServiceKey, GatewaySlice>,
    network_policies: NetworkPolicies,
    /// Namespaces whose NetworkPolicies have changed since routes were last published.
    changed_policies: BTreeSet<String>,
    /// NetworkPolicies that were left out would count now.
    relist_policies: bool,
    /// Services that have changed since routes were last published.
    changed: BTreeSet<ServiceKey>,
}

impl RouteTable {
    /// Adds or updates an InferenceDeployment. One that cannot be read keeps its last policy.
    pub(crate) fn apply_service(&mut self, object: &RoutedService) {
        let key = service_key(object);
        let readable = object.readable().and_then(hold_policy);
        let known = self.services.get(&key);
        let policy = match (readable, known) {
            (Some(policy), _) => Arc::new(policy),
            (None, Some(known)) => Arc::clone(&known.policy),
            (None, None) => Arc::new(HoldPolicy::unreadable()),
        };
        let engine_port = object
            .engine_port()
            .or(known.and_then(|known| known.engine_port));
        let service = Service {
            uid: object.uid(),
            policy,
            engine_port,
            allow_from: match object.allow_from() {
                Ok(peers) => peers.map(|peers| Access::allow_from(&peers, &key.0)),
                Err(_) => Some(Access::Unknown(
                    "activation.allowFrom of this service cannot be read".to_owned(),
                )),
            },
            replica_labels: replica_labels(object),
            port_names: engine_port.map_or_else(BTreeSet::new, |port| object.port_names(port)),
        };
        self.ports.claim(&key, object.gateway_port());
        self.changed.insert(key.clone());
        self.services.insert(key, service);
    }

    /// Removes an InferenceDeployment.
    pub(crate) fn delete_service(&mut self, service: &ServiceKey) {
        self.ports.claim(service, None);
        self.services.remove(service);
        self.changed.insert(service.clone());
    }

    /// Adds or updates a pod.
    pub(crate) fn apply_pod(&mut self, pod: &ServingPod) {
        let (namespace, name) = service_key(pod);
        let service = pod.labels().get(WORKLOAD_LABEL);
        let serving = service.zip(pod.ready_address());
        let serving = serving.map(|(service, ip)| ((namespace.clone(), service.clone()), ip));
        self.set_pod(&(namespace, name), serving);
    }

    /// Removes the pod of this namespace and name.
    pub(crate) fn delete_pod(&mut self, pod: &ServiceKey) {
        self.set_pod(pod, None);
    }

    fn set_pod(&mut self, pod: &ServiceKey, new: Option<(ServiceKey, IpAddr)>) {
        let old = match new.clone() {
            Some(new) => self.pods.insert(pod.clone(), new),
            None => self.pods.remove(pod),
        };
        if old == new {
            return;
        }
        if let Some((service, address)) = old {
            if let Some(replicas) = self.replicas.get_mut(&service) {
                replicas.remove(&(address, pod.1.clone()));
                if replicas.is_empty() {
                    self.replicas.remove(&service);
                }
            }
            self.changed.insert(service);
        }
        if let Some((service, address)) = new {
            let replicas = self.replicas.entry(service.clone()).or_default();
            replicas.insert((address, pod.1.clone()));
            self.changed.insert(service);
        }
    }

    /// Adds or updates an EndpointSlice of gateways.
    pub(crate) fn apply_slice(&mut self, slice: &EndpointSlice) {
        let key = service_key(slice);
        match gateway_slice_of(slice) {
            Some(parsed) => drop(self.slices.insert(key, parsed)),
            None => drop(self.slices.remove(&key)),
        }
    }

    /// Removes the EndpointSlice of this namespace and name.
    pub(crate) fn delete_slice(&mut self, slice: &ServiceKey) {
        self.slices.remove(slice);
    }

    /// Adds or updates a NetworkPolicy.
    pub(crate) fn apply_network_policy(&mut self, policy: &Lenient<NetworkPolicy>) {
        let change = self.network_policies.apply(policy);
        self.relist_policies |= change.others_fit;
        if change.has_changed {
            let namespace = policy.namespace().unwrap_or_default();
            self.changed_policies.insert(namespace);
        }
    }

    /// Removes the NetworkPolicy of this namespace and name.
    pub(crate) fn delete_network_policy(&mut self, policy: &ServiceKey) {
        self.changed_policies.insert(policy.0.clone());
        self.relist_policies |= self.network_policies.delete(policy);
    }

    /// Removes all NetworkPolicies except these, which a complete list had.
    pub(crate) fn retain_network_policies(&mut self, listed: &BTreeSet<ServiceKey>) {
        let known = self.network_policies.keys();
        let gone: Vec<_> = known.filter(|key| !listed.contains(key)).collect();
        gone.iter().for_each(|key| self.delete_network_policy(key));
    }

    /// Whether all NetworkPolicies should be listed again.
    pub(crate) fn take_relist(&mut self) -> bool {
        std::mem::take(&mut self.relist_policies)
    }

    /// Removes all InferenceDeployments except these, which a complete list had.
    pub(crate) fn retain_services(&mut self, listed: &BTreeSet<ServiceKey>) {
        let gone = missing(self.services.keys(), listed);
        gone.iter().for_each(|key| self.delete_service(key));
    }

    /// Removes all pods except these, which a complete list had.
    pub(crate) fn retain_pods(&mut self, listed: &BTreeSet<ServiceKey>) {
        let gone = missing(self.pods.keys(), listed);
        gone.iter().for_each(|key| self.delete_pod(key));
    }

    /// Removes all EndpointSlices except these, which a complete list had.
    pub(crate) fn retain_slices(&mut self, listed: &BTreeSet<ServiceKey>) {
        self.slices.retain(|key, _| listed.contains(key));
    }

    /// Gives ports to the services that claim them. Returns whether any has another owner now.
    ///
    /// To be called once the list of services is complete: of two that claim one port neither may
    /// have it because its claim was read first.
    pub(crate) fn assign_ports(&mut self) -> bool {
        self.ports.assign()
    }

    /// The service of each port.
    pub(crate) fn ports(&self) -> &BTreeMap<u16, ServiceKey> {
        self.ports.assigned()
    }

    /// Whether an EndpointSlice that a service owns names the gateway with one of these addresses: then
    /// nodes may send it connections.
    pub(crate) fn is_listed(&self, addresses: &[IpAddr]) -> bool {
        self.slices.values().any(|slice| {
            let service = self.services.get(&slice.service);
            let owner = service.and_then(|service| service.uid.as_ref());
            addresses.iter().any(|each| slice.addresses.contains(each))
                && owner.is_some_and(|owner| slice.owners.contains(owner))
        })
    }

    /// The route of a service.
    pub(crate) fn route(&self, service: &ServiceKey) -> Route {
        let known = self.services.get(service);
        let port = known.and_then(|service| service.engine_port);
        let replicas = self.replicas.get(service).into_iter().flatten();
        let mut ready: Vec<SocketAddr> = replicas
            .filter_map(|(address, _)| Some(SocketAddr::new(*address, port?)))
            .collect();
        // pods in their node's network share its address
        ready.dedup();
        let access = known.map(|known| self.access(&service.0, known));
        Route {
            policy: known.map(|service| Arc::clone(&service.policy)),
            ready,
            access: Arc::new(access.unwrap_or_default()),
        }
    }

    /// Who may reach a service of this namespace: whom it says itself, or else whom the
    /// NetworkPolicies that select its replicas let reach their port.
    fn access(&self, namespace: &str, service: &Service) -> Access {
        if let Some(access) = &service.allow_from {
            return access.clone();
        }
        let port = ReplicaPort {
            number: service.engine_port.unwrap_or(0),
            names: service.port_names.clone(),
        };
        self.network_policies
            .access(namespace, &service.replica_labels, &port)
    }

    /// Publishes the routes of the services that have changed: only requests of these wake. Returns
    /// whether it takes the directory to say who may reach one of them.
    pub(crate) fn publish(&mut self, routes: &ServiceRoutes) -> bool {
        for namespace in std::mem::take(&mut self.changed_policies) {
            let first = (namespace.clone(), String::new());
            let services = self.services.range(first..);
            let services = services.take_while(|(service, _)| service.0 == namespace);
            self.changed
                .extend(services.map(|(service, _)| service.clone()));
        }
        let mut needs_directory = false;
        for service in std::mem::take(&mut self.changed) {
            let route = self.route(&service);
            needs_directory |= route.access.needs_directory();
            routes.set(service, route);
        }
        needs_directory
    }
}

/// The labels of a service's replicas: those of its template, and Bursar's.
fn replica_labels(object: &RoutedService) -> Labels {
    let mut labels = object.template_labels();
    let own = [
        (KIND_LABEL, "InferenceDeployment".to_owned()),
        (WORKLOAD_LABEL, object.name_any()),
        (SERVING_LABEL, "true".to_owned()),
    ];
    labels.extend(own.map(|(key, value)| (key.to_owned(), value)));
    Labels::new(&labels)
}

/// Those that a complete list does not have.
fn missing<'a>(
    known: impl Iterator<Item = &'a ServiceKey>,
    listed: &BTreeSet<ServiceKey>,
) -> Vec<ServiceKey> {
    known
        .filter(|key| !listed.contains(*key))
        .cloned()
        .collect()
}

/// The rules by which requests of a service are held; `None` if they cannot be read.
fn hold_policy(object: &InferenceDeployment) -> Option<HoldPolicy> {
    let settings = object.spec.settings().ok()?;
    // one without an engine has no port, and no request comes
    let engine = object.spec.engine_settings().ok()??;
    let status = object.status.as_ref();
    let activation = status.and_then(|status| status.activation.as_ref());
    Some(HoldPolicy {
        max_held: settings.max_held,
        hold_timeout: settings.hold_timeout,
        target: settings
            .request_signal
            .target()
            .unwrap_or(DEFAULT_QUEUE_DEPTH),
        max_replicas: settings.max,
        max_wakes: settings.max_wakes,
        retry: object.spec.activation.retry,
        on_demand: object.spec.activation.mode != ActivationMode::Never,
        always: object.spec.activation.mode == ActivationMode::Always,
        paths_without_model: engine.paths_without_model,
        wake_on: object.spec.activation.wake_on.clone(),
        refusal: activation.and_then(|activation| activation.refusal.clone()),
    })
}

/// The gateways that a slice names, if it has the name of a service's slice of gateways.
fn gateway_slice_of(slice: &EndpointSlice) -> Option<GatewaySlice> {
    let service = slice.labels().get(WORKLOAD_LABEL)?;
    if !gateway_slices(service).contains(&slice.name_any()) {
        return None;
    }
    let endpoints = slice.endpoints.iter().flatten();
    let addresses = endpoints.flat_map(|endpoint| &endpoint.addresses);
    let owners = slice.owner_references().iter();
    Some(GatewaySlice {
        service: (slice.namespace()?, service.clone()),
        owners: owners.map(|owner| owner.uid.clone()).collect(),
        addresses: addresses
            .filter_map(|address| address.parse().ok())
            .collect(),
    })
}

#[cfg(test)]
mod tests;
