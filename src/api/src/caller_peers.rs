//! Who may reach a service through gateways: `activation.allowFrom` of an InferenceDeployment.

use k8s_openapi::api::networking::v1::IPBlock;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The most peers of a service.
pub(crate) const MAX_PEERS: usize = 32;
const PEER_RULE: &str = "(has(self.entity) ? 1 : 0) + (has(self.ipBlock) ? 1 : 0) + \
    (has(self.podSelector) || has(self.namespaceSelector) ? 1 : 0) == 1";
const PEER_MESSAGE: &str = "a peer must have an entity, or an ipBlock, or selectors, and one of these alone: list several peers";
const CIDR_RULE: &str =
    "isCIDR(self.cidr) && (!has(self.except) || self.except.all(each, isCIDR(each)))";
const CIDR_MESSAGE: &str =
    "cidr and except must be blocks of addresses, such as 192.0.2.0/24 or 2001:db8::/32";

/// Clients that may reach a service. Selectors and blocks are those of a NetworkPolicyPeer.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(PEER_RULE).message(PEER_MESSAGE))]
pub struct CallerPeer {
    /// Clients by a name: `All`, or `Nodes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entity: Option<PeerEntity>,
    /// Pods with these labels, in the namespaces of `namespaceSelector`; without one, in the service's
    /// own. An empty selector selects all pods. Pods in their node's network are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector_schema")]
    pub pod_selector: Option<LabelSelector>,
    /// Pods of the namespaces with these labels. An empty selector selects all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "selector_schema")]
    pub namespace_selector: Option<LabelSelector>,
    /// Clients by the address from which their connections reach the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "block_schema")]
    #[x_kube(validation = Rule::new(CIDR_RULE).message(CIDR_MESSAGE))]
    pub ip_block: Option<IPBlock>,
}

/// Clients by a name.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEntity {
    /// Everybody who reaches a gateway.
    All,
    /// The addresses of the cluster's nodes: pods in their node's network, and what nodes forward with
    /// an address of their own, such as connections to a NodePort.
    Nodes,
}

/// A LabelSelector's schema, bounded.
fn selector_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "properties": {
            "matchLabels": {
                "type": "object",
                "maxProperties": 16,
                "additionalProperties": {"type": "string", "maxLength": 63},
            },
            "matchExpressions": {
                "type": "array",
                "maxItems": 16,
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "properties": {
                        "key": {"type": "string", "maxLength": 317},
                        "operator": {"type": "string", "enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
                        "values": {
                            "type": "array",
                            "maxItems": 32,
                            "items": {"type": "string", "maxLength": 63},
                        },
                    },
                },
            },
        },
    })
}

/// An IPBlock's schema, bounded.
fn block_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "required": ["cidr"],
        "properties": {
            "cidr": {"type": "string", "maxLength": 49},
            "except": {
                "type": "array",
                "maxItems": 32,
                "items": {"type": "string", "maxLength": 49},
            },
        },
    })
}
