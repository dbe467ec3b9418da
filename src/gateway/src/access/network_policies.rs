//! The NetworkPolicies of all namespaces, as far as they say who may reach a service's replicas.
//!
//! What one namespace has is bounded. Where it has more, or one that cannot be read, nobody reaches its
//! services without an `activation.allowFrom` of their own: a rule that is not known lets nobody
//! through.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use bursar_api::lenient::Lenient;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::selector::{Labels, Selector};
use super::{Access, Peer, RuleSource};
use crate::service_key::{ServiceKey, service_key};

/// The most NetworkPolicies of a namespace.
const MAX_POLICIES: usize = 256;
/// The most terms of selectors, blocks and ports of one NetworkPolicy.
const MAX_TERMS: usize = 1_024;
/// The most terms of all NetworkPolicies of a namespace: each of its services may have all of them.
const MAX_NAMESPACE_TERMS: usize = 4_096;

/// The NetworkPolicies of all namespaces.
#[derive(Debug, Default)]
pub(crate) struct NetworkPolicies(BTreeMap<String, BTreeMap<String, KnownPolicy>>);

/// What the update of a NetworkPolicy changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PolicyChange {
    /// It says something else than before.
    pub(crate) has_changed: bool,
    /// Others of the namespace were left out and would fit now: they count once they are listed again.
    pub(crate) others_fit: bool,
}

#[derive(Debug, PartialEq)]
enum KnownPolicy {
    Ingress(IngressPolicy),
    /// It says nothing about who may reach pods.
    EgressOnly,
    Unreadable,
    TooLarge,
    /// The namespace had too many, or too many terms for the ones of this one.
    LeftOut {
        terms: usize,
    },
}

impl KnownPolicy {
    /// The terms that it takes of what the namespace may have.
    fn terms(&self) -> usize {
        match self {
            Self::Ingress(policy) => policy.terms,
            Self::EgressOnly | Self::Unreadable | Self::TooLarge | Self::LeftOut { .. } => 0,
        }
    }
}

#[derive(Debug, PartialEq)]
struct IngressPolicy {
    selector: Selector,
    rules: Vec<IngressRule>,
    /// The number of the terms of both.
    terms: usize,
}

#[derive(Debug, PartialEq)]
struct IngressRule {
    /// The ports that it opens; all if there are none.
    ports: Option<Vec<PortRange>>,
    peers: Arc<[Peer]>,
}

#[derive(Debug, PartialEq)]
enum PortRange {
    Numbers(RangeInclusive<i32>),
    Name(String),
    All,
}

/// The port of a service's replicas, as NetworkPolicies may name it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ReplicaPort {
    pub(crate) number: u16,
    /// The names that containers of the template give to it.
    pub(crate) names: BTreeSet<String>,
}

impl NetworkPolicies {
    /// Adds or updates a NetworkPolicy.
    pub(crate) fn apply(&mut self, policy: &Lenient<NetworkPolicy>) -> PolicyChange {
        let (namespace, name) = service_key(policy);
        let policies = self.0.entry(namespace.clone()).or_default();
        let before = policies.remove(&name);
        let parsed = match policy {
            Lenient::Readable(policy) => parse(policy, &namespace),
            Lenient::Unreadable(_) => KnownPolicy::Unreadable,
        };
        let terms = parsed.terms();
        let known = match has_room(policies, terms) {
            true => parsed,
            false => KnownPolicy::LeftOut { terms },
        };
        let has_changed = before.as_ref() != Some(&known);
        let terms_before = before.as_ref().map_or(0, KnownPolicy::terms);
        let has_shrunk = known.terms() < terms_before;
        policies.insert(name, known);
        PolicyChange {
            has_changed,
            // where nothing became free nothing is listed again, so that two that take turns do not
            // have the list read for ever
            others_fit: has_shrunk && left_out_fits(policies),
        }
    }

    /// Removes the NetworkPolicy of this namespace and name. Returns whether others of the namespace
    /// were left out and would fit now: they count once they are listed again.
    pub(crate) fn delete(&mut self, (namespace, name): &ServiceKey) -> bool {
        let Some(policies) = self.0.get_mut(namespace) else {
            return false;
        };
        policies.remove(name);
        let fits = left_out_fits(policies);
        if policies.is_empty() {
            self.0.remove(namespace);
        }
        fits
    }

    /// The keys of all NetworkPolicies.
    pub(crate) fn keys(&self) -> impl Iterator<Item = ServiceKey> + '_ {
        self.0.iter().flat_map(|(namespace, policies)| {
            let names = policies.keys();
            names.map(|name| (namespace.clone(), name.clone()))
        })
    }

    /// Who may reach the port of replicas that have these labels.
    pub(crate) fn access(&self, namespace: &str, labels: &Labels, port: &ReplicaPort) -> Access {
        let (mut is_selected, mut rules) = (false, Vec::new());
        for (name, policy) in self.0.get(namespace).into_iter().flatten() {
            let policy = match policy {
                KnownPolicy::Ingress(policy) => policy,
                KnownPolicy::EgressOnly => continue,
                KnownPolicy::Unreadable => {
                    return unknown(format!("NetworkPolicy {name} cannot be read"));
                }
                KnownPolicy::TooLarge => {
                    return unknown(format!(
                        "NetworkPolicy {name} has more than {MAX_TERMS} terms"
                    ));
                }
                KnownPolicy::LeftOut { .. } => {
                    return unknown(format!(
                        "the namespace has more than {MAX_POLICIES} NetworkPolicies, or more than {MAX_NAMESPACE_TERMS} terms in them"
                    ));
                }
            };
            if policy.selector.matches(labels) {
                is_selected = true;
                let opens = |rule: &&IngressRule| rule.opens(port);
                let peers = policy.rules.iter().filter(opens);
                rules.extend(peers.map(|rule| Arc::clone(&rule.peers)));
            }
        }
        match is_selected {
            true => Access::of_rules(RuleSource::NetworkPolicies, rules),
            false => Access::All,
        }
    }
}

/// Whether a namespace may have one more, of so many terms, among those that count.
fn has_room(policies: &BTreeMap<String, KnownPolicy>, terms: usize) -> bool {
    let counting = policies.values();
    let counting = counting.filter(|policy| !matches!(policy, KnownPolicy::LeftOut { .. }));
    let (number, taken) = counting.fold((0, 0), |(number, taken), policy| {
        (number + 1, taken + policy.terms())
    });
    number < MAX_POLICIES && taken + terms <= MAX_NAMESPACE_TERMS
}

/// Whether one of those that were left out would fit now.
fn left_out_fits(policies: &BTreeMap<String, KnownPolicy>) -> bool {
    policies.values().any(|policy| match policy {
        KnownPolicy::LeftOut { terms } => has_room(policies, *terms),
        _ => false,
    })
}

fn unknown(reason: String) -> Access {
    Access::Unknown(format!(
        "it is not known whom the NetworkPolicies let reach this service, since {reason}: activation.allowFrom of the service can say it"
    ))
}

impl IngressRule {
    fn opens(&self, port: &ReplicaPort) -> bool {
        self.ports.as_ref().is_none_or(|ports| {
            ports.iter().any(|each| match each {
                PortRange::All => true,
                PortRange::Numbers(numbers) => numbers.contains(&i32::from(port.number)),
                PortRange::Name(name) => port.names.contains(name),
            })
        })
    }

    fn terms(&self) -> usize {
        let ports = self.ports.as_ref().map_or(0, Vec::len);
        1 + ports + self.peers.iter().map(Peer::terms).sum::<usize>()
    }
}

fn parse(policy: &NetworkPolicy, namespace: &str) -> KnownPolicy {
    let Some(spec) = &policy.spec else {
        return KnownPolicy::Unreadable;
    };
    // every policy is about ingress unless it says what it is about
    let mut types = spec.policy_types.iter().flatten().peekable();
    if types.peek().is_some() && !types.any(|each| each == "Ingress") {
        return KnownPolicy::EgressOnly;
    }
    let selector = spec.pod_selector.as_ref();
    let selector = selector.map(Selector::new).unwrap_or_default();
    let rules = spec.ingress.iter().flatten();
    let rules: Vec<IngressRule> = rules.map(|rule| parse_rule(rule, namespace)).collect();
    let terms = selector.terms() + rules.iter().map(IngressRule::terms).sum::<usize>();
    match terms <= MAX_TERMS {
        true => KnownPolicy::Ingress(IngressPolicy {
            selector,
            rules,
            terms,
        }),
        false => KnownPolicy::TooLarge,
    }
}

fn parse_rule(rule: &NetworkPolicyIngressRule, namespace: &str) -> IngressRule {
    let ports = rule.ports.as_deref().filter(|ports| !ports.is_empty());
    let ports = ports.map(|ports| ports.iter().filter_map(parse_port).collect());
    // a rule without peers is about all of them
    let peers = rule.from.as_deref().filter(|peers| !peers.is_empty());
    let peers: Arc<[Peer]> = match peers {
        Some(peers) => {
            let peers = peers.iter();
            peers.map(|peer| Peer::of_policy(peer, namespace)).collect()
        }
        None => [Peer::All].into(),
    };
    IngressRule { ports, peers }
}

/// The ports of TCP that it opens.
fn parse_port(port: &NetworkPolicyPort) -> Option<PortRange> {
    if port
        .protocol
        .as_deref()
        .is_some_and(|protocol| protocol != "TCP")
    {
        return None;
    }
    Some(match &port.port {
        None => PortRange::All,
        Some(IntOrString::Int(first)) => {
            PortRange::Numbers(*first..=port.end_port.unwrap_or(*first))
        }
        Some(IntOrString::String(name)) => PortRange::Name(name.clone()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(name: &str, spec: &Value) -> Lenient<NetworkPolicy> {
        let object = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    fn access_of(specs: &[Value]) -> Access {
        let mut policies = NetworkPolicies::default();
        for (number, spec) in specs.iter().enumerate() {
            policies.apply(&policy(&number.to_string(), spec));
        }
        access(&policies)
    }

    fn access(policies: &NetworkPolicies) -> Access {
        let labels = [("app".to_owned(), "chat".to_owned())];
        let port = ReplicaPort {
            number: 8000,
            names: ["http".to_owned()].into(),
        };
        policies.access("ns", &Labels::new(&labels.into()), &port)
    }

    fn open(ports: Value) -> Value {
        json!({"podSelector": {}, "ingress": [{"ports": ports}]})
    }

    /// A policy of about so many terms.
    fn blocks(number: usize) -> Value {
        let blocks = (0..number)
            .map(|at| json!({"ipBlock": {"cidr": format!("10.{}.{}.0/24", at / 256, at % 256)}}));
        json!({"podSelector": {}, "ingress": [{"from": blocks.collect::<Vec<_>>()}]})
    }

    #[test]
    fn everybody_may_reach_replicas_that_no_policy_selects() {
        for spec in [
            json!({"podSelector": {"matchLabels": {"app": "other"}}}),
            json!({"podSelector": {}, "policyTypes": ["Egress"]}),
        ] {
            assert_eq!(
                access_of(std::slice::from_ref(&spec)),
                Access::All,
                "{spec}"
            );
        }
        let mut policies = NetworkPolicies::default();
        policies.apply(&policy("deny", &json!({"podSelector": {}})));
        assert_ne!(access(&policies), Access::All);
        let (labels, port) = (Labels::default(), ReplicaPort::default());
        assert_eq!(policies.access("other", &labels, &port), Access::All);
        policies.delete(&("ns".to_owned(), "deny".to_owned()));
        assert_eq!(access(&policies), Access::All);
        assert!(policies.0.is_empty());
    }

    #[test]
    fn a_rule_counts_for_its_ports_alone() {
        for (ports, is_open) in [
            (json!([]), true),
            (json!(null), true),
            (json!([{"port": 8000}]), true),
            (json!([{"port": 8000, "protocol": "UDP"}]), false),
            (json!([{"protocol": "TCP"}]), true),
            (json!([{"protocol": "SCTP"}]), false),
            (json!([{"port": 8001}]), false),
            (json!([{"port": 7000, "endPort": 8000}]), true),
            (json!([{"port": 7000, "endPort": 7999}]), false),
            (json!([{"port": "http"}]), true),
            (json!([{"port": "metrics"}]), false),
            (json!([{"port": "metrics"}, {"port": 8000}]), true),
        ] {
            let access = access_of(&[open(ports.clone())]);
            assert_eq!(access == Access::All, is_open, "{ports}: {access:?}");
            assert!(!matches!(access, Access::Unknown(_)), "{ports}");
        }
    }

    #[test]
    fn policies_add_up_and_one_that_selects_closes_what_none_opens() {
        let from = |app: &str| json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": app}}}]}]});
        let Access::Peers { source, rules } =
            access_of(&[json!({"podSelector": {}}), from("a"), from("b")])
        else {
            unreachable!("they are closed")
        };
        assert_eq!((source, rules.len()), (RuleSource::NetworkPolicies, 2));
        assert_eq!(access_of(&[from("a"), open(json!([]))]), Access::All);
    }

    #[test]
    fn a_policy_that_is_not_known_closes_its_namespace_alone_and_says_so() {
        let unreadable =
            json!({"podSelector": {}, "ingress": [{"ports": [{"port": 3_000_000_000_u32}]}]});
        let blocks: Vec<Value> = (0..1_100)
            .map(|number| json!({"ipBlock": {"cidr": format!("10.{}.{}.0/24", number / 256, number % 256)}}))
            .collect();
        let large = json!({"podSelector": {}, "ingress": [{"from": blocks}]});
        for (spec, words) in [
            (unreadable, "cannot be read"),
            (large, "more than 1024 terms"),
        ] {
            let mut policies = NetworkPolicies::default();
            policies.apply(&policy("wrong", &spec));
            let Access::Unknown(reason) = access(&policies) else {
                unreachable!("{spec}")
            };
            assert!(
                reason.contains("NetworkPolicy wrong") && reason.contains(words),
                "{reason}"
            );
            let labels = Labels::default();
            let other = policies.access("other", &labels, &ReplicaPort::default());
            assert_eq!(other, Access::All);
        }
    }

    #[test]
    fn a_namespace_has_a_bounded_number_of_policies_that_count() {
        let mut policies = NetworkPolicies::default();
        let key = |number: usize| ("ns".to_owned(), number.to_string());
        for number in 0..=MAX_POLICIES {
            assert_eq!(access(&policies), Access::All, "{number}");
            policies.apply(&policy(&number.to_string(), &open(json!([]))));
        }
        assert!(matches!(access(&policies), Access::Unknown(_)));
        assert!(
            policies.delete(&key(0)),
            "the one that was left out fits now"
        );
        policies.apply(&policy(&MAX_POLICIES.to_string(), &open(json!([]))));
        assert_eq!(access(&policies), Access::All);
        assert!(!policies.delete(&key(1)));
    }

    #[test]
    fn the_policies_of_a_namespace_have_a_bounded_number_of_terms() {
        let mut policies = NetworkPolicies::default();
        for number in 0..4 {
            let change = policies.apply(&policy(&number.to_string(), &blocks(1_000)));
            assert!(change.has_changed && !change.others_fit);
        }
        assert!(matches!(access(&policies), Access::Peers { .. }));
        policies.apply(&policy("further", &blocks(1_000)));
        let Access::Unknown(reason) = access(&policies) else {
            unreachable!("it has more than 4,096 terms")
        };
        assert!(reason.contains("more than 4096 terms"), "{reason}");
        policies.apply(&policy("further", &blocks(10)));
        assert!(matches!(access(&policies), Access::Peers { .. }));
        policies.apply(&policy("further", &blocks(1_000)));
        let key = ("ns".to_owned(), "0".to_owned());
        assert!(policies.delete(&key), "the one that was left out fits now");
    }

    #[test]
    fn a_policy_that_shrinks_lets_one_that_was_left_out_be_listed_again() {
        let mut policies = NetworkPolicies::default();
        for number in 0..5 {
            policies.apply(&policy(&number.to_string(), &blocks(1_000)));
        }
        assert!(matches!(access(&policies), Access::Unknown(_)));
        let smaller = policies.apply(&policy("0", &blocks(990)));
        assert!(!smaller.others_fit, "it does not fit yet");
        let small = policies.apply(&policy("0", &blocks(10)));
        assert!(small.others_fit, "it fits now");
        // what the new list has
        let again = policies.apply(&policy("4", &blocks(1_000)));
        assert!(again.has_changed && !again.others_fit);
        assert!(matches!(access(&policies), Access::Peers { .. }));
    }

    /// Two policies of which one fits at a time would have the list read for ever.
    #[test]
    fn a_policy_that_stays_as_it_is_has_nothing_listed_again() {
        let mut policies = NetworkPolicies::default();
        for (name, number) in [
            ("0", 1_000),
            ("1", 1_000),
            ("2", 1_000),
            ("3", 1_000),
            ("4", 500),
        ] {
            policies.apply(&policy(name, &blocks(number)));
        }
        policies.delete(&("ns".to_owned(), "0".to_owned()));
        for (name, number) in [("1", 1_000), ("2", 1_000), ("3", 1_000)] {
            let change = policies.apply(&policy(name, &blocks(number)));
            assert!(!change.others_fit, "{name}");
        }
    }

    #[test]
    fn what_says_the_same_as_before_has_not_changed() {
        let mut policies = NetworkPolicies::default();
        let mut has_changed = |spec: &Value| policies.apply(&policy("a", spec)).has_changed;
        assert!(has_changed(&open(json!([]))));
        assert!(!has_changed(&open(json!([]))));
        assert!(has_changed(&open(json!([{"port": 1}]))));
    }
}
