//! The leader's side of the gateways: which there are, and a stream of demand from each.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bursar_api::names::{GATEWAY_PORTS, gateway_slice};
use bursar_signals::demand::{self, Credentials, Demands};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::runtime::reflector::Store;
use tokio::task::AbortHandle;

use crate::cache::{Trigger, Triggers};
use crate::lock::lock;
use crate::pod;

const CONTROL_PORT: u16 = 8443;
/// How often the set of gateways is compared with the open streams, and a broken stream is opened anew.
const PACE: Duration = Duration::from_secs(1);
/// A gateway is heard of within this long of becoming ready.
const FRESH: SignedDuration = SignedDuration::from_secs(5);

/// What all gateways hold.
pub(crate) type SharedDemands = Arc<Mutex<Demands>>;

fn takes_requests(pod: &Pod) -> bool {
    pod::is_ready(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// The gateways that take requests: UID and address.
pub(crate) fn addresses(pods: &Store<Pod>, namespace: &str) -> BTreeMap<String, IpAddr> {
    select(pods, namespace, takes_requests)
}

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
pub(crate) fn slice_port(
    slices: &Store<EndpointSlice>,
    (namespace, name): &(String, String),
) -> Option<u16> {
    let slice = slices.find(|slice| {
        slice.namespace().as_ref() == Some(namespace) && slice.name_any() == gateway_slice(name)
    })?;
    let port = slice.ports.iter().flatten().next()?.port?;
    let port = u16::try_from(port).ok();
    port.filter(|port| GATEWAY_PORTS.contains(port))
}

/// Why what gateways hold is not known: one of them has not been heard of, and may hold requests. One that has just become ready holds
/// none yet; one that cannot be heard at all is given up after a time.
pub(crate) fn unreachable(
    pods: &Store<Pod>,
    namespace: &str,
    demands: &Mutex<Demands>,
    began: Timestamp,
    now: Timestamp,
) -> Option<String> {
    let pods = pods.state();
    let demands = lock(demands);
    let is_unheard = |pod: &&Arc<Pod>| {
        let ready = pod::ready_since(pod).unwrap_or(now);
        let expected = ready.max(began);
        match demands.hears(pod::uid(pod), now) {
            Some(heard) => !heard,
            None => {
                now.duration_since(ready) >= FRESH && now.duration_since(expected) < demand::GONE
            }
        }
    };
    let pod = pods
        .iter()
        .filter(|pod| pod::is_gateway(pod) && takes_requests(pod))
        .filter(|pod| pod.namespace().as_deref() == Some(namespace))
        .find(is_unheard)?;
    Some(format!("gateway {} has not been heard of", pod.name_any()))
}

/// Keeps a stream open to every gateway, for as long as the process leads.
pub(crate) async fn follow(
    pods: Store<Pod>,
    namespace: String,
    credentials: Credentials,
    demands: SharedDemands,
    triggers: Triggers,
) {
    let mut streams: BTreeMap<String, AbortHandle> = BTreeMap::new();
    let credentials = Arc::new(credentials);
    loop {
        let gateways = holding(&pods, &namespace);
        streams.retain(|uid, stream| {
            let stays = gateways.contains_key(uid);
            if !stays {
                stream.abort();
            }
            stays && !stream.is_finished()
        });
        for (uid, address) in gateways {
            streams.entry(uid).or_insert_with(|| {
                let (credentials, demands, triggers) = (
                    Arc::clone(&credentials),
                    Arc::clone(&demands),
                    triggers.clone(),
                );
                let stream = async move {
                    let taken = |message: demand::Message| {
                        // the gateway's clock may differ; what counts is when it was heard
                        let message = demand::Message {
                            at: Timestamp::now(),
                            ..message
                        };
                        let changed = demands
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .take(message);
                        for (namespace, _) in changed {
                            let _ = triggers.send(Trigger::Namespace(namespace));
                        }
                    };
                    let ended =
                        demand::follow(SocketAddr::new(address, CONTROL_PORT), &credentials, taken)
                            .await;
                    if let Err(error) = ended {
                        tracing::warn!(gateway = %address, %error, "the demand stream ended");
                    }
                };
                tokio::spawn(stream).abort_handle()
            });
        }
        tokio::time::sleep(PACE).await;
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::{reflector, watcher};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_gateway_that_ends_gets_no_new_requests_and_is_heard_until_its_end() {
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
        assert_eq!(uids(addresses(&pods, "bursar-system")), ["serving"]);
        assert_eq!(uids(holding(&pods, "bursar-system")), ["ending", "serving"]);
    }
}
