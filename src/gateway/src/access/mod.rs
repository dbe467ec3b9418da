//! Who may reach a service through this gateway: the service's own rule, `activation.allowFrom`, or
//! what the NetworkPolicies that select its replicas let reach their port.
//!
//! | module | subject |
//! |---|---|
//! | `selector` | label selectors and blocks of addresses |
//! | `network_policies` | the NetworkPolicies of all namespaces, and which select a service's replicas |
//! | `directory` | the pod or node that has an address |
//! | `directory_watch` | the watches that keep the directory current, once a service needs it |
//!
//! A client is known by the address from which its connection comes, and by nothing that it sends.

pub(crate) mod directory;
pub(crate) mod directory_watch;
pub(crate) mod network_policies;
pub(crate) mod selector;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bursar_api::caller_peers::{CallerPeer, PeerEntity};
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicyPeer};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use self::directory::{Directory, Origin, PodIdentity};
use self::selector::{Cidr, Labels, Selector};

/// Clients that a rule lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Peer {
    All,
    Nodes,
    Block {
        cidr: Cidr,
        except: Vec<Cidr>,
    },
    Pods {
        namespaces: Namespaces,
        pods: Selector,
    },
    /// It cannot be read, and lets nobody through.
    Unreadable,
}

/// Namespaces of pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Namespaces {
    /// The one in which the rule is.
    Own(String),
    Selected(Selector),
}

impl Peer {
    /// A peer of `activation.allowFrom` of a service of this namespace.
    pub(crate) fn of_service(peer: &CallerPeer, namespace: &str) -> Self {
        let pods = (peer.pod_selector.as_ref(), peer.namespace_selector.as_ref());
        match (peer.entity, &peer.ip_block) {
            (Some(PeerEntity::All), _) => Self::All,
            (Some(PeerEntity::Nodes), _) => Self::Nodes,
            (None, block) => Self::new(block.as_ref(), pods, namespace),
        }
    }

    /// A peer of a NetworkPolicy of this namespace.
    pub(crate) fn of_policy(peer: &NetworkPolicyPeer, namespace: &str) -> Self {
        let pods = (peer.pod_selector.as_ref(), peer.namespace_selector.as_ref());
        Self::new(peer.ip_block.as_ref(), pods, namespace)
    }

    fn new(
        block: Option<&IPBlock>,
        (pods, namespaces): (Option<&LabelSelector>, Option<&LabelSelector>),
        namespace: &str,
    ) -> Self {
        if let Some(block) = block {
            let except = block.except.iter().flatten();
            let except: Option<Vec<Cidr>> = except.map(|each| Cidr::parse(each)).collect();
            return match (Cidr::parse(&block.cidr), except) {
                (Some(cidr), Some(except)) => Self::Block { cidr, except },
                _ => Self::Unreadable,
            };
        }
        if pods.is_none() && namespaces.is_none() {
            return Self::Unreadable;
        }
        Self::Pods {
            namespaces: match namespaces {
                Some(selector) => Namespaces::Selected(Selector::new(selector)),
                None => Namespaces::Own(namespace.to_owned()),
            },
            pods: pods.map(Selector::new).unwrap_or_default(),
        }
    }

    /// Whether the address alone says whether it lets a client through.
    fn needs_directory(&self) -> bool {
        matches!(self, Self::Nodes | Self::Pods { .. })
    }

    fn has_address(&self, address: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Block { cidr, except } => {
                cidr.contains(address) && !except.iter().any(|each| each.contains(address))
            }
            Self::Nodes | Self::Pods { .. } | Self::Unreadable => false,
        }
    }

    /// The number of its selectors' terms and of its blocks.
    fn terms(&self) -> usize {
        match self {
            Self::All | Self::Nodes | Self::Unreadable => 1,
            Self::Block { except, .. } => 1 + except.len(),
            Self::Pods { namespaces, pods } => {
                let namespaces = match namespaces {
                    Namespaces::Own(_) => 1,
                    Namespaces::Selected(selector) => 1 + selector.terms(),
                };
                namespaces + pods.terms()
            }
        }
    }
}

/// Where a service's rule comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RuleSource {
    AllowFrom,
    NetworkPolicies,
}

impl fmt::Display for RuleSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::AllowFrom => "activation.allowFrom of this service",
            Self::NetworkPolicies => "the NetworkPolicies that select the replicas of this service",
        })
    }
}

/// Who may reach a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody.
    #[default]
    All,
    /// These clients.
    Peers {
        source: RuleSource,
        /// Peers of the rules that let clients reach the replicas' port.
        rules: Vec<Arc<[Peer]>>,
    },
    /// Nobody, because the rule is not known, for this reason.
    Unknown(String),
}

/// Whether a client may reach a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    /// It may not; what it is known to be, and the rule that does not let it through.
    Denied(String),
    /// Its pod may become known soon.
    NotFound(String),
    /// It cannot be said, for this reason.
    Unknown(String),
}

impl Access {
    /// The rule of `activation.allowFrom`.
    pub(crate) fn allow_from(peers: &[CallerPeer], namespace: &str) -> Self {
        let peers = peers.iter();
        let peers = peers
            .map(|peer| Peer::of_service(peer, namespace))
            .collect();
        Self::of_rules(RuleSource::AllowFrom, vec![peers])
    }

    pub(crate) fn of_rules(source: RuleSource, rules: Vec<Arc<[Peer]>>) -> Self {
        let mut peers = rules.iter().flat_map(|rule| rule.iter());
        match peers.any(|peer| *peer == Peer::All) {
            true => Self::All,
            false => Self::Peers { source, rules },
        }
    }

    /// Whether it takes the directory to say who may reach the service.
    pub(crate) fn needs_directory(&self) -> bool {
        match self {
            Self::All | Self::Unknown(_) => false,
            Self::Peers { rules, .. } => {
                let mut peers = rules.iter().flat_map(|rule| rule.iter());
                peers.any(Peer::needs_directory)
            }
        }
    }

    /// Whether the client with this address may reach the service.
    pub(crate) fn verdict(&self, address: IpAddr, directory: &Directory) -> Verdict {
        let address = address.to_canonical();
        let (source, rules) = match self {
            Self::All => return Verdict::Allowed,
            Self::Unknown(reason) => return Verdict::Unknown(reason.clone()),
            Self::Peers { source, rules } => (source, rules),
        };
        let peers = || rules.iter().flat_map(|rule| rule.iter());
        if peers().any(|peer| peer.has_address(address)) {
            return Verdict::Allowed;
        }
        let deny = |who: &str| Verdict::Denied(format!("{source} does not name {address}{who}"));
        if !self.needs_directory() {
            return deny("");
        }
        directory.with_origin(address, |origin| match origin {
            Origin::NotSynced => Verdict::Unknown(
                "this gateway has not read yet which pod has which address".to_owned(),
            ),
            Origin::Node => match peers().any(|peer| *peer == Peer::Nodes) {
                true => Verdict::Allowed,
                false => deny(", an address of a node"),
            },
            Origin::Pods(pods) => {
                // of two pods that are said to have one address, only one may be there now
                let verdicts = pods.iter().map(|pod| pod_verdict(pod, peers(), deny));
                let worst = verdicts.reduce(|worst, each| match worst {
                    Verdict::Allowed => each,
                    _ => worst,
                });
                worst.unwrap_or_else(|| deny(""))
            }
            Origin::Full => Verdict::Unknown(format!(
                "{source} does not name {address}, which may be one of the pods for which this gateway has no memory"
            )),
            Origin::NotFound if !peers().any(|peer| matches!(peer, Peer::Pods { .. })) => deny(""),
            Origin::NotFound => Verdict::NotFound(format!(
                "{source} does not name {address}, which is no pod's and no node's address"
            )),
        })
    }
}

/// Whether peers let a pod through.
fn pod_verdict<'a>(
    pod: &PodIdentity<'_>,
    mut peers: impl Iterator<Item = &'a Peer>,
    deny: impl Fn(&str) -> Verdict,
) -> Verdict {
    let mut unknown = None;
    let is_allowed = peers.any(|peer| {
        let Peer::Pods { namespaces, pods } = peer else {
            return false;
        };
        let in_namespace = match namespaces {
            Namespaces::Own(own) => own == pod.namespace,
            Namespaces::Selected(selector) => match pod.namespace_labels {
                _ if selector.is_empty() => true,
                Some(labels) => selector.matches(labels),
                None => {
                    unknown = Some("the labels of its namespace");
                    false
                }
            },
        };
        let labels: Option<&Labels> = pod.labels;
        in_namespace
            && match labels {
                _ if pods.is_empty() => true,
                Some(labels) => pods.matches(labels),
                None => {
                    unknown = Some("its labels, of which this gateway cannot keep so many");
                    false
                }
            }
    });
    match unknown {
        _ if is_allowed => Verdict::Allowed,
        Some(what) => Verdict::Unknown(format!(
            "the client is a pod of namespace {}, and it is not known what are {what}",
            pod.namespace
        )),
        None => deny(&format!(", a pod of namespace {}", pod.namespace)),
    }
}

#[cfg(test)]
mod tests;
