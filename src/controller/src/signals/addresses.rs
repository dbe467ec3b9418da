//! Addresses that no signal is read from: those of nodes, where kubelets listen, and of the API server,
//! besides those that no server of a queue has.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bursar_signals::address_policy::{AddressPolicy, Network, StandardPolicy};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::runtime::reflector::Store;
use kube::{Api, Client};

use crate::api_calls::with_timeout;
use crate::lock::lock;

/// The addresses are looked at this often.
const PERIOD: Duration = Duration::from_secs(30);

/// The addresses of the cluster itself, as last seen.
#[derive(Debug, Default)]
struct ClusterAddresses {
    nodes: BTreeSet<IpAddr>,
    api_server: BTreeSet<IpAddr>,
}

/// Refuses the addresses of the cluster itself, and those that are never a server's. Allowed networks
/// are exempt.
#[derive(Debug)]
pub(crate) struct ClusterPolicy {
    standard: StandardPolicy,
    allowed: Vec<Network>,
    cluster: Mutex<ClusterAddresses>,
}

impl AddressPolicy for ClusterPolicy {
    fn refuses(&self, address: IpAddr) -> Option<&'static str> {
        if self.allowed.iter().any(|network| network.contains(address)) {
            return None;
        }
        let cluster = lock(&self.cluster);
        if cluster.nodes.contains(&address) {
            return Some("an address of a node");
        }
        if cluster.api_server.contains(&address) {
            return Some("an address of the API server");
        }
        self.standard.refuses(address)
    }
}

impl ClusterPolicy {
    /// Knows of no node yet, and of the API server what the environment says.
    pub(crate) fn new(allowed: Vec<Network>) -> Self {
        let policy = Self {
            standard: StandardPolicy::default(),
            allowed,
            cluster: Mutex::default(),
        };
        lock(&policy.cluster).api_server = from_environment().into_iter().collect();
        policy
    }

    /// Takes the addresses of all nodes.
    pub(crate) fn set_nodes<'a>(&self, nodes: impl Iterator<Item = &'a Node>) {
        let addresses = nodes.flat_map(|node| {
            let status = node.status.iter();
            let addresses = status.flat_map(|status| status.addresses.iter().flatten());
            // others are names
            let own = addresses.filter_map(|address| address.address.parse().ok());
            let spec = node.spec.iter();
            let networks = spec.flat_map(|spec| spec.pod_cidrs.iter().flatten());
            own.chain(networks.filter_map(|network| first_address(network)))
        });
        lock(&self.cluster).nodes = addresses.collect();
    }

    fn set_api_server(&self, slices: &[EndpointSlice]) {
        let endpoints = slices.iter().filter_map(|slice| slice.endpoints.as_ref());
        let texts = endpoints.flatten().flat_map(|endpoint| &endpoint.addresses);
        let addresses = texts.filter_map(|address| address.parse().ok());
        lock(&self.cluster).api_server = addresses.chain(from_environment()).collect();
    }

    /// Keeps up with nodes and API servers for as long as the process leads.
    pub(crate) async fn run(self: Arc<Self>, client: Client, nodes: Store<Node>) {
        let api: Api<EndpointSlice> = Api::namespaced(client, "default");
        let params = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let nodes = nodes.state();
            self.set_nodes(nodes.iter().map(AsRef::as_ref));
            match with_timeout("list EndpointSlices", api.list(&params)).await {
                Ok(slices) => self.set_api_server(&slices.items),
                Err(error) => {
                    tracing::warn!(%error, "the addresses of the API server cannot be read");
                }
            }
        }
    }
}

/// The first address of a network of pods: the node has it, where its pods go through a bridge.
fn first_address(network: &str) -> Option<IpAddr> {
    match network.split_once('/')?.0.parse().ok()? {
        IpAddr::V4(address) => Some(IpAddr::V4(u32::from(address).wrapping_add(1).into())),
        IpAddr::V6(address) => Some(IpAddr::V6(u128::from(address).wrapping_add(1).into())),
    }
}

/// The address of the API server's Service, as the kubelet tells every pod.
fn from_environment() -> Option<IpAddr> {
    let host = std::env::var("KUBERNETES_SERVICE_HOST").ok()?;
    host.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_of_nodes_and_of_the_api_server_are_refused_unless_they_are_allowed() {
        let policy = ClusterPolicy::new(vec!["10.9.0.0/16".parse().unwrap()]);
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n"},
            "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "10.8.0.1"},
                {"type": "InternalIP", "address": "10.9.0.1"},
                {"type": "Hostname", "address": "n"},
            ]},
        }))
        .unwrap();
        policy.set_nodes([&node].into_iter());
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "kubernetes"}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.8.0.2"]}],
        }))
        .unwrap();
        policy.set_api_server(&[slice]);
        let refuses = |address: &str| policy.refuses(address.parse().unwrap());
        assert_eq!(refuses("10.8.0.1"), Some("an address of a node"));
        assert_eq!(refuses("10.8.0.2"), Some("an address of the API server"));
        assert_eq!(refuses("10.9.0.1"), None, "it is allowed");
        assert_eq!(refuses("10.8.0.3"), None);
        for bridge in ["10.244.1.1", "fd00:1::1"] {
            assert_eq!(refuses(bridge), Some("an address of a node"));
        }
        assert_eq!(refuses("10.244.1.2"), None, "a pod's");
        assert!(refuses("169.254.169.254").is_some());
    }
}
