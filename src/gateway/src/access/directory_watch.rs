//! Watches pods, nodes and namespaces once a service's rule needs to know who has an address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::core::PartialObjectMeta;
use kube::{Client, ResourceExt};
use serde::Deserialize;

use super::directory::Directory;
use super::selector::Cidr;
use crate::Error;
use crate::routed_objects::Routed;
use crate::service_key::{ServiceKey, service_key};
use crate::watch_events::{self, EventHandler};

/// Nodes that flannel runs on: the first two addresses of their pods' blocks are their own.
const FLANNEL_ANNOTATION: &str = "flannel.alpha.coreos.com/backend-type";
/// Addresses that networks give to nodes in addition to those of their statuses, and from which nodes
/// forward connections.
const ADDRESS_ANNOTATIONS: [&str; 8] = [
    "projectcalico.org/IPv4IPIPTunnelAddr",
    "projectcalico.org/IPv4VXLANTunnelAddr",
    "projectcalico.org/IPv6VXLANTunnelAddr",
    "projectcalico.org/IPv4WireguardInterfaceAddr",
    "network.cilium.io/ipv4-cilium-host",
    "network.cilium.io/ipv6-cilium-host",
    "io.cilium.network.ipv4-cilium-host",
    "io.cilium.network.ipv6-cilium-host",
];
/// The most addresses of a pod or a node.
const MAX_ADDRESSES: usize = 32;

/// A pod that may be a client.
type ClientPod = Routed<PartialObjectMeta<Pod>, ClientPodFields>;
/// A node that may be a client.
type ClientNode = Routed<PartialObjectMeta<Node>, ClientNodeFields>;

#[derive(Debug, Clone, Default, Deserialize)]
struct ClientPodFields {
    #[serde(default)]
    spec: PodSpecFields,
    #[serde(default)]
    status: PodAddressFields,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpecFields {
    #[serde(default)]
    host_network: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodAddressFields {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<IpAddr>,
    #[serde(rename = "podIPs", default)]
    pod_ips: Vec<PodIpFields>,
}

#[derive(Debug, Clone, Deserialize)]
struct PodIpFields {
    ip: IpAddr,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct ClientNodeFields {
    #[serde(default)]
    spec: NodeSpecFields,
    #[serde(default)]
    status: NodeStatusFields,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct NodeSpecFields {
    #[serde(rename = "podCIDRs", default)]
    pod_cidrs: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct NodeStatusFields {
    #[serde(default)]
    addresses: Vec<NodeAddressFields>,
}

#[derive(Debug, Clone, Deserialize)]
struct NodeAddressFields {
    address: String,
}

impl ClientPod {
    /// The addresses that are its own now: one that has ended has none, and one in its node's network
    /// has its node's.
    fn own_addresses(&self) -> Vec<IpAddr> {
        let (spec, status) = (&self.fields().spec, &self.fields().status);
        let has_ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if spec.host_network || has_ended {
            return Vec::new();
        }
        let all = status.pod_ips.iter().map(|each| each.ip);
        let all = all.chain(status.pod_ip).map(|each| each.to_canonical());
        distinct(all)
    }
}

impl ClientNode {
    fn own_addresses(&self) -> Vec<IpAddr> {
        let fields = self.fields();
        let reported = fields.status.addresses.iter();
        let reported = reported.map(|each| each.address.as_str());
        let annotations = self.annotations();
        let tunnels = ADDRESS_ANNOTATIONS
            .iter()
            .filter_map(|name| annotations.get(*name));
        let named = reported.chain(tunnels.map(String::as_str));
        let named = named.filter_map(|address| address.parse().ok());
        let blocks = fields.spec.pod_cidrs.iter();
        let blocks = blocks.filter(|_| annotations.contains_key(FLANNEL_ANNOTATION));
        let bridges = blocks.filter_map(|block| Cidr::parse(block));
        let bridges = bridges.flat_map(|block| block.first_two());
        distinct(named.chain(bridges).map(|each: IpAddr| each.to_canonical()))
    }
}

fn distinct(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let distinct: BTreeSet<IpAddr> = addresses.take(MAX_ADDRESSES).collect();
    distinct.into_iter().collect()
}

enum DirectoryEvent {
    Pod(Box<kube::runtime::watcher::Event<ClientPod>>),
    Node(Box<kube::runtime::watcher::Event<ClientNode>>),
    Namespace(Box<kube::runtime::watcher::Event<PartialObjectMeta<Namespace>>>),
}

/// Keeps the directory current for ever, once it is needed.
///
/// # Errors
/// Fails if a watch ends, which never happens.
pub(crate) async fn run(client: Client, directory: Directory) -> Result<(), Error> {
    directory.required().await;
    tracing::info!("a service names who may reach it: watching all pods, nodes and namespaces");
    let mut events = events(client)
        .ready_chunks(watch_events::MAX_EVENTS)
        .boxed();
    let mut pods = EventHandler::new(set_pod, delete_pod, retain_pods);
    let mut nodes = EventHandler::new(set_node, delete_node, retain_nodes);
    let mut namespaces = EventHandler::new(set_namespace, delete_namespace, retain_namespaces);
    let mut table = directory.clone();
    while let Some(batch) = events.next().await {
        for event in batch {
            match event {
                DirectoryEvent::Pod(event) => pods.handle(*event, &mut table),
                DirectoryEvent::Node(event) => nodes.handle(*event, &mut table),
                DirectoryEvent::Namespace(event) => namespaces.handle(*event, &mut table),
            }
        }
        directory.publish(pods.synced && nodes.synced && namespaces.synced);
    }
    Err(Error::Ended("the watch of pods and nodes"))
}

fn events(client: Client) -> impl Stream<Item = DirectoryEvent> {
    let pods = watch_events::watch::<ClientPod>(client.clone(), "");
    let nodes = watch_events::watch::<ClientNode>(client.clone(), "");
    let namespaces = watch_events::watch::<PartialObjectMeta<Namespace>>(client, "");
    futures::stream::select(
        pods.map(|event| DirectoryEvent::Pod(Box::new(event))),
        futures::stream::select(
            nodes.map(|event| DirectoryEvent::Node(Box::new(event))),
            namespaces.map(|event| DirectoryEvent::Namespace(Box::new(event))),
        ),
    )
}

fn set_pod(directory: &mut Directory, pod: &ClientPod) {
    let key = service_key(pod);
    directory.set_pod(&key, pod.own_addresses(), pod.labels());
}

fn delete_pod(directory: &mut Directory, pod: &ServiceKey) {
    directory.set_pod(pod, Vec::new(), &Default::default());
}

fn retain_pods(directory: &mut Directory, listed: &BTreeSet<ServiceKey>) {
    let gone = directory.pods().into_iter();
    gone.filter(|pod| !listed.contains(pod))
        .for_each(|pod| delete_pod(directory, &pod));
}

fn set_node(directory: &mut Directory, node: &ClientNode) {
    directory.set_node(&node.name_any(), node.own_addresses());
}

fn delete_node(directory: &mut Directory, (_, node): &ServiceKey) {
    directory.set_node(node, Vec::new());
}

fn retain_nodes(directory: &mut Directory, listed: &BTreeSet<ServiceKey>) {
    let gone = directory.nodes().into_iter();
    let gone = gone.map(|node| (String::new(), node));
    gone.filter(|node| !listed.contains(node))
        .for_each(|node| delete_node(directory, &node));
}

fn set_namespace(directory: &mut Directory, namespace: &PartialObjectMeta<Namespace>) {
    directory.set_namespace(&namespace.name_any(), Some(namespace.labels()));
}

fn delete_namespace(directory: &mut Directory, (_, namespace): &ServiceKey) {
    directory.set_namespace(namespace, None);
}

fn retain_namespaces(directory: &mut Directory, listed: &BTreeSet<ServiceKey>) {
    let gone = directory.namespaces().into_iter();
    let gone = gone.map(|namespace| (String::new(), namespace));
    gone.filter(|namespace| !listed.contains(namespace))
        .for_each(|namespace| delete_namespace(directory, &namespace));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn addresses(of: Vec<IpAddr>) -> Vec<String> {
        of.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pod_has_its_own_addresses_while_it_runs_and_none_in_its_nodes_network() {
        let pod = |change: fn(&mut Value)| -> ClientPod {
            let mut pod = json!({
                "metadata": {"name": "web", "namespace": "ns"}, "spec": {"containers": []},
                "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
            });
            change(&mut pod);
            serde_json::from_value(pod).unwrap()
        };
        assert_eq!(
            addresses(pod(|_| {}).own_addresses()),
            ["10.0.0.1", "fd00::1"]
        );
        let old = pod(|pod| drop(pod["status"].as_object_mut().unwrap().remove("podIPs")));
        assert_eq!(addresses(old.own_addresses()), ["10.0.0.1"]);
        for none in [
            pod(|pod| pod["status"]["phase"] = json!("Succeeded")),
            pod(|pod| pod["status"]["phase"] = json!("Failed")),
            pod(|pod| pod["spec"]["hostNetwork"] = json!(true)),
            pod(|pod| pod["status"] = json!({"phase": "Pending"})),
        ] {
            assert!(none.own_addresses().is_empty(), "{none:?}");
        }
    }

    #[test]
    fn a_node_has_the_addresses_of_its_status_and_those_of_its_network() {
        let node = |annotations: Value| -> ClientNode {
            serde_json::from_value(json!({
                "metadata": {"name": "n", "annotations": annotations},
                "spec": {"podCIDRs": ["10.244.3.0/24"]},
                "status": {"addresses": [
                    {"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "n"},
                ]},
            }))
            .unwrap()
        };
        let own = |annotations: Value| addresses(node(annotations).own_addresses());
        assert_eq!(own(json!({})), ["192.0.2.7"]);
        assert_eq!(
            own(json!({"flannel.alpha.coreos.com/backend-type": "vxlan"})),
            ["10.244.3.0", "10.244.3.1", "192.0.2.7"]
        );
        assert_eq!(
            own(json!({"projectcalico.org/IPv4VXLANTunnelAddr": "10.244.9.64"})),
            ["10.244.9.64", "192.0.2.7"]
        );
        assert_eq!(
            own(json!({"network.cilium.io/ipv4-cilium-host": "10.0.0.1"})),
            ["10.0.0.1", "192.0.2.7"]
        );
    }
}
