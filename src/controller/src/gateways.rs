//! The leader's side of the gateways: which there are, and a stream of demand from each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bursar_api::names::{GATEWAY_PORTS, gateway_slice};
use bursar_core::model::Key;
use bursar_core::model::event::{Event, Held};
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
use crate::pod;

const CONTROL_PORT: u16 = 8443;
/// How often the set of gateways is compared with the open streams, and a broken stream is opened
/// anew.
const PACE: Duration = Duration::from_secs(1);

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

/// The port that a service's EndpointSlice of gateways has.
pub(crate) fn slice_port(slices: &Store<EndpointSlice>, service: &Key) -> Option<u16> {
    let key = Key {
        namespace: service.namespace.clone(),
        name: gateway_slice(&service.name).into(),
    };
    let slice = cached(slices, &key)?;
    let port = slice.ports.iter().flatten().next()?.port?;
    let port = u16::try_from(port).ok();
    port.filter(|port| GATEWAY_PORTS.contains(port))
}

/// What a gateway's message says of the requests that it holds.
pub(crate) fn demand(message: &Message) -> Event {
    let held = message.services.iter().map(|service| {
        let held = Held {
            requests: service.held,
            since: service.first_held_at,
        };
        (Key::new(&service.namespace, &service.name), held)
    });
    let held = held.filter(|(_, held)| held.requests > 0);
    Event::Demand(message.gateway.as_str().into(), held.collect())
}

/// When each gateway was last heard of.
type Heard = Arc<Mutex<BTreeMap<String, Instant>>>;

/// The streams of all gateways of the operator's namespace.
pub(crate) struct Gateways {
    pods: Store<Pod>,
    namespace: String,
    credentials: Arc<Credentials>,
    heard: Heard,
    inputs: Inputs,
}

impl Gateways {
    /// No stream yet.
    pub(crate) fn new(
        pods: Store<Pod>,
        namespace: String,
        credentials: Credentials,
        inputs: Inputs,
    ) -> Self {
        Self {
            pods,
            namespace,
            credentials: Arc::new(credentials),
            heard: Arc::default(),
            inputs,
        }
    }

    /// Waits until every gateway that takes requests has been heard of.
    pub(crate) async fn all_heard(&self) {
        let takes_requests =
            |pod: &Pod| pod::is_ready(pod) && pod.metadata.deletion_timestamp.is_none();
        loop {
            let gateways = select(&self.pods, &self.namespace, takes_requests);
            let is_heard = |uid: &String| lock(&self.heard).contains_key(uid);
            if gateways.keys().all(is_heard) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Keeps a stream open to every gateway, for as long as the process leads.
    pub(crate) async fn run(&self) {
        let mut streams: BTreeMap<String, AbortHandle> = BTreeMap::new();
        let mut silent: BTreeSet<String> = BTreeSet::new();
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
                    .or_insert_with(|| self.open(*address));
            }
            for uid in self.silent(&mut silent) {
                let event = Event::Silent(uid.as_str().into());
                // nobody listens at the end of leadership
                self.inputs.send(Input::Event(event)).ok();
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Gateways that have been silent for too long, each once. `silent` are those that are known to
    /// be.
    fn silent(&self, silent: &mut BTreeSet<String>) -> Vec<String> {
        let now = Instant::now();
        let mut heard = lock(&self.heard);
        let mut new = Vec::new();
        heard.retain(|uid, at| {
            let is_silent = now.duration_since(*at) > demand::SILENCE;
            if is_silent && silent.insert(uid.clone()) {
                new.push(uid.clone());
            }
            if !is_silent {
                silent.remove(uid);
            }
            let is_gone = now.duration_since(*at) > demand::GONE;
            if is_gone {
                silent.remove(uid);
            }
            !is_gone
        });
        new
    }

    fn open(&self, address: IpAddr) -> AbortHandle {
        let (credentials, heard) = (Arc::clone(&self.credentials), Arc::clone(&self.heard));
        let inputs = self.inputs.clone();
        let stream = async move {
            let take = |message: Message| {
                lock(&heard).insert(message.gateway.clone(), Instant::now());
                inputs.send(Input::Event(demand(&message))).ok();
            };
            let address = SocketAddr::new(address, CONTROL_PORT);
            if let Err(error) = demand::follow(address, &credentials, take).await {
                tracing::warn!(gateway = %address, %error, "the demand stream ended");
            }
        };
        tokio::spawn(stream).abort_handle()
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher};
    use serde_json::json;

    use super::*;

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
