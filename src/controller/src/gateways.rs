//! The leader's side of the gateways: which there are, and a stream of demand from each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bursar_api::names::{
    DEMAND_PORT, GATEWAY_LABEL, GATEWAY_PORTS, WORKLOAD_LABEL, gateway_slices,
};
use bursar_core::model::Key;
use bursar_core::model::event::{Event, HeldRequests};
use bursar_signals::demand::{self, Credentials, Message};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::runtime::reflector::Store;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::cache::cached;
use crate::input::{Input, Inputs};
use crate::lock::lock;
use crate::object_key::ObjectKey;
use crate::pod;
use crate::unreachable_replicas::UnreachableReplicas;

/// How often the set of gateways is compared with the open streams, and a broken stream is opened
/// anew.
const PACE: Duration = Duration::from_secs(1);

/// The model is told this often why a gateway is not heard: the error may change.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Characters of an error that are told.
const LONGEST_ERROR: usize = 200;

/// The gateways that may hold requests: those too that end, for they serve what they hold.
fn holding(pods: &Store<Pod>, namespace: &str) -> BTreeMap<String, IpAddr> {
    select(pods, namespace, |pod| {
        let ends = pod.metadata.deletion_timestamp.is_some();
        pod::is_ready(pod) || ends && !pod::is_terminal(pod)
    })
}

fn select(
    pods: &Store<Pod>,
    namespace: &str,
    chosen: impl Fn(&Pod) -> bool,
) -> BTreeMap<String, IpAddr> {
    let pods = pods.state();
    let gateways = pods.iter().filter(|pod| {
        pod::is_gateway(pod) && pod.namespace().as_deref() == Some(namespace) && chosen(pod)
    });
    let address = |pod: &Pod| pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok();
    gateways
        .filter_map(|pod| Some((pod::uid(pod).to_owned(), address(pod)?)))
        .collect()
}

/// A service's EndpointSlices of gateways.
pub(crate) fn slices_of(
    slices: &Store<EndpointSlice>,
    service: &Key,
) -> impl Iterator<Item = Arc<EndpointSlice>> {
    let names = gateway_slices(&service.name).into_iter();
    names.filter_map(|name| cached(slices, &Key::new(&service.namespace, &name)))
}

/// The port that a service's EndpointSlices of gateways have.
pub(crate) fn slice_port(slices: &Store<EndpointSlice>, service: &Key) -> Option<u16> {
    port_of(&*slices_of(slices, service).next()?)
}

/// The port that an EndpointSlice of gateways has.
pub(crate) fn port_of(slice: &EndpointSlice) -> Option<u16> {
    let port = slice.ports.iter().flatten().next()?.port?;
    let port = u16::try_from(port).ok();
    port.filter(|port| GATEWAY_PORTS.contains(port))
}

/// The service to which an EndpointSlice of gateways leads requests, by its label and its name.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let labels = slice.labels();
    let service = labels.get(WORKLOAD_LABEL)?;
    let is_its_slice = gateway_slices(service).contains(slice.metadata.name.as_ref()?);
    let is_of_gateways = is_its_slice && labels.contains_key(GATEWAY_LABEL);
    is_of_gateways.then(|| Key::new(&slice.namespace().unwrap_or_default(), service))
}

/// What a gateway's message says of the requests that it has.
pub(crate) fn demand(message: &Message) -> Event {
    let held = message.services.iter().map(|service| {
        let held = HeldRequests {
            requests: service.held,
            in_flight: service.in_flight,
            forwarded: service.forwarded,
            since: service.first_held_at,
        };
        (Key::new(&service.namespace, &service.name), held)
    });
    let held = held.filter(|(_, held)| [held.requests, held.in_flight, held.forwarded] != [0; 3]);
    Event::Demand(message.gateway.as_str().into(), held.collect())
}

/// The leader's contact with a gateway.
#[derive(Debug, Default)]
struct Connection {
    /// When it was last heard of.
    heard: Option<Instant>,
    /// Why the last stream ended, if nothing came since.
    error: Option<String>,
}

impl Connection {
    /// Why it is not heard, if it is not.
    fn silence(&self, now: Instant) -> Option<String> {
        let is_silent = match self.heard {
            Some(at) => now.duration_since(at) > demand::SILENCE,
            None => self.error.is_some(),
        };
        let error = || self.error.clone();
        is_silent.then(|| error().unwrap_or_else(|| demand::Error::Silent.to_string()))
    }
}

/// The contacts with gateways, by UID.
type Connections = Arc<Mutex<BTreeMap<String, Connection>>>;

/// When the model was last told of each gateway that is not heard.
type LastReported = BTreeMap<String, Instant>;

/// The streams of all gateways of the operator's namespace.
pub(crate) struct Gateways {
    pods: Store<Pod>,
    namespace: String,
    credentials: Arc<Credentials>,
    contacts: Connections,
    unreachable_replicas: Arc<UnreachableReplicas>,
    inputs: Inputs,
}

impl Gateways {
    /// No stream yet.
    pub(crate) fn new(
        pods: Store<Pod>,
        namespace: String,
        credentials: Credentials,
        unreachable_replicas: Arc<UnreachableReplicas>,
        inputs: Inputs,
    ) -> Self {
        Self {
            pods,
            namespace,
            credentials: Arc::new(credentials),
            contacts: Arc::default(),
            unreachable_replicas,
            inputs,
        }
    }

    /// Waits until every gateway that takes requests has been heard of.
    pub(crate) async fn all_heard(&self) {
        let takes_requests =
            |pod: &Pod| pod::is_ready(pod) && pod.metadata.deletion_timestamp.is_none();
        loop {
            let gateways = select(&self.pods, &self.namespace, takes_requests);
            let all_heard = {
                let contacts = lock(&self.contacts);
                let heard = |uid: &String| contacts.get(uid)?.heard;
                gateways.keys().all(|uid| heard(uid).is_some())
            };
            if all_heard {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Keeps a stream open to every gateway, for as long as the process leads.
    pub(crate) async fn run(&self) {
        let mut streams: BTreeMap<String, AbortHandle> = BTreeMap::new();
        let mut told = LastReported::new();
        loop {
            let gateways = holding(&self.pods, &self.namespace);
            streams.retain(|uid, stream| {
                let stays = gateways.contains_key(uid);
                if !stays {
                    stream.abort();
                }
                stays && !stream.is_finished()
            });
            for (uid, address) in &gateways {
                streams
                    .entry(uid.clone())
                    .or_insert_with(|| self.open(uid.clone(), *address));
            }
            for (uid, why) in silent(&self.contacts, &gateways, &mut told, Instant::now()) {
                let event = Event::Silent(uid.into(), why.into());
                // nobody listens at the end of leadership
                self.inputs.send(Input::Event(event)).ok();
            }
            let gone = self.unreachable_replicas.retain_gateways(&gateways);
            tell_statuses(&self.inputs, gone);
            tokio::time::sleep(PACE).await;
        }
    }

    fn open(&self, uid: String, address: IpAddr) -> AbortHandle {
        let (credentials, contacts) = (Arc::clone(&self.credentials), Arc::clone(&self.contacts));
        let inputs = self.inputs.clone();
        let unreachable = Arc::clone(&self.unreachable_replicas);
        let stream = async move {
            let take = |message: Message| {
                let contact = Connection {
                    heard: Some(Instant::now()),
                    error: None,
                };
                lock(&contacts).insert(message.gateway.clone(), contact);
                inputs.send(Input::Event(demand(&message))).ok();
                tell_statuses(&inputs, unreachable.note(&message));
            };
            let address = SocketAddr::new(address, DEMAND_PORT);
            if let Err(error) = demand::follow(address, &credentials, take).await {
                tracing::warn!(gateway = %address, %error, "the demand stream ended");
                let error = error.to_string().chars().take(LONGEST_ERROR).collect();
                lock(&contacts).entry(uid).or_default().error = Some(error);
            }
        };
        tokio::spawn(stream).abort_handle()
    }
}

/// Says that the statuses of these services may be others.
fn tell_statuses(inputs: &Inputs, services: BTreeSet<Key>) {
    for service in services {
        inputs.send(Input::Status(ObjectKey::Service(service))).ok();
    }
}

/// The gateways that are not heard, and why, of which the model has not been told lately. `gateways`
/// are those that may hold requests.
fn silent(
    contacts: &Connections,
    gateways: &BTreeMap<String, IpAddr>,
    told: &mut LastReported,
    now: Instant,
) -> Vec<(String, String)> {
    let mut contacts = lock(contacts);
    contacts.retain(|uid, contact| {
        let heard = contact.heard.map(|at| now.duration_since(at));
        gateways.contains_key(uid) || heard.is_some_and(|ago| ago <= demand::GONE)
    });
    told.retain(|uid, _| contacts.contains_key(uid));
    let mut new = Vec::new();
    for (uid, contact) in contacts.iter() {
        let Some(why) = contact.silence(now) else {
            told.remove(uid);
            continue;
        };
        let is_known = told
            .get(uid)
            .is_some_and(|at| now.duration_since(*at) < REPORT_INTERVAL);
        if !is_known {
            told.insert(uid.clone(), now);
            new.push((uid.clone(), why));
        }
    }
    new
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher};
    use serde_json::json;

    use super::*;

    #[test]
    fn the_model_is_told_of_a_gateway_that_is_not_heard_and_why_again_and_again() {
        let contacts = Connections::default();
        let (mut told, began) = (LastReported::new(), Instant::now());
        let gateways = [("g".to_owned(), IpAddr::from([10, 0, 0, 1]))].into();
        let set = |heard: Option<u64>, error: Option<&str>| {
            let contact = Connection {
                heard: heard.map(|second| began + Duration::from_secs(second)),
                error: error.map(str::to_owned),
            };
            lock(&contacts).insert("g".to_owned(), contact);
        };
        let mut tells = |second: u64| {
            let now = began + Duration::from_secs(second);
            let new = silent(&contacts, &gateways, &mut told, now);
            new.into_iter().map(|(_, why)| why).collect::<Vec<_>>()
        };
        set(Some(0), None);
        assert_eq!(tells(10), [""; 0]);
        assert_eq!(tells(11), ["silent for 10 s"]);
        assert_eq!(tells(12), [""; 0]);
        set(Some(0), Some("refused"));
        assert_eq!(tells(70), [""; 0]);
        // it is ready still, however long ago it was heard
        assert_eq!(tells(3000), ["refused"]);
        set(Some(3001), None);
        assert_eq!(tells(3001), [""; 0]);
        set(None, Some("UnknownIssuer"));
        assert_eq!(tells(3002), ["UnknownIssuer"]);
        set(None, None);
        assert_eq!(tells(3003), [""; 0]);
    }

    #[test]
    fn a_gateway_that_ends_is_heard_until_its_end() {
        let (pods, mut writer) = reflector::store();
        for (uid, ready, deleted, phase) in [
            ("serving", "True", None, "Running"),
            ("starting", "False", None, "Running"),
            ("ending", "False", Some("2026-11-01T00:00:00Z"), "Running"),
            ("ended", "False", Some("2026-11-01T00:00:00Z"), "Succeeded"),
        ] {
            let labels = json!({"app.kubernetes.io/name": "bursar", "app.kubernetes.io/component": "gateway"});
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": uid, "namespace": "bursar-system", "uid": uid, "labels": labels, "deletionTimestamp": deleted},
                "status": {"phase": phase, "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap();
            writer.apply_watcher_event(&watcher::Event::Apply(pod));
        }
        let uids = |gateways: BTreeMap<String, IpAddr>| gateways.into_keys().collect::<Vec<_>>();
        assert_eq!(uids(holding(&pods, "bursar-system")), ["ending", "serving"]);
    }
}
