//! Verdicts over tables of rules and clients.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

fn labels(of: &Value) -> BTreeMap<String, String> {
    serde_json::from_value(of.clone()).unwrap()
}

/// A node at 192.0.2.7; namespaces `ns` (team a) and `other` (team b); pods in them.
fn directory() -> Directory {
    let directory = Directory::default();
    directory.set_node("n", vec!["192.0.2.7".parse().unwrap()]);
    for (namespace, team) in [("ns", "a"), ("other", "b")] {
        let team = labels(&json!({"team": team, "kubernetes.io/metadata.name": namespace}));
        directory.set_namespace(namespace, Some(&team));
    }
    for (namespace, name, address, app) in PODS {
        let key = (namespace.to_owned(), name.to_owned());
        let address = vec![address.parse().unwrap()];
        directory.set_pod(&key, address, &labels(&json!({"app": app})));
    }
    directory.publish(true);
    directory
}

const PODS: [(&str, &str, &str, &str); 4] = [
    ("ns", "web", "10.0.0.1", "web"),
    ("ns", "job", "10.0.0.2", "job"),
    ("other", "web", "10.0.1.1", "web"),
    ("other", "job", "10.0.1.2", "job"),
];
const NODE: &str = "192.0.2.7";
const OUTSIDE: &str = "203.0.113.9";

/// The addresses of all clients that a rule of a service of namespace `ns` lets through.
fn allowed(peers: &Value, directory: &Directory) -> Vec<&'static str> {
    let peers: Vec<CallerPeer> = serde_json::from_value(peers.clone()).unwrap();
    let access = Access::allow_from(&peers, "ns");
    let clients = PODS.iter().map(|pod| pod.2).chain([NODE, OUTSIDE]);
    let allowed = clients
        .filter(|client| access.verdict(client.parse().unwrap(), directory) == Verdict::Allowed);
    allowed.collect()
}

#[test]
fn each_peer_lets_through_what_it_names_and_nothing_else() {
    let directory = directory();
    let every = [
        "10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.1.2", NODE, OUTSIDE,
    ];
    for (peers, expected) in [
        (json!([{"entity": "All"}]), &every[..]),
        (json!([{"entity": "Nodes"}]), &[NODE]),
        (json!([{"podSelector": {}}]), &["10.0.0.1", "10.0.0.2"]),
        (
            json!([{"podSelector": {"matchLabels": {"app": "web"}}}]),
            &["10.0.0.1"],
        ),
        (json!([{"namespaceSelector": {}}]), &every[..4]),
        (
            json!([{"namespaceSelector": {"matchLabels": {"team": "b"}}}]),
            &["10.0.1.1", "10.0.1.2"],
        ),
        (
            json!([{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}}, "podSelector": {"matchLabels": {"app": "web"}}}]),
            &["10.0.1.1"],
        ),
        // two peers are an or, two selectors of one an and
        (
            json!([{"namespaceSelector": {"matchLabels": {"team": "b"}}}, {"podSelector": {"matchLabels": {"app": "web"}}}]),
            &["10.0.0.1", "10.0.1.1", "10.0.1.2"],
        ),
        (json!([{"ipBlock": {"cidr": "203.0.113.0/24"}}]), &[OUTSIDE]),
        (
            json!([{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.1.0/24"]}}]),
            &["10.0.0.1", "10.0.0.2"],
        ),
        (json!([{"ipBlock": {"cidr": "192.0.2.0/24"}}]), &[NODE]),
        (json!([{"ipBlock": {"cidr": "203.0.113.9"}}]), &[]),
        (
            json!([{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["x"]}}]),
            &[],
        ),
        (json!([{}]), &[]),
        (json!([]), &[]),
        (
            json!([{"podSelector": {"matchLabels": {"app": "web"}}}, {"entity": "Nodes"}]),
            &["10.0.0.1", NODE],
        ),
    ] {
        assert_eq!(allowed(&peers, &directory), expected, "{peers}");
    }
}

#[test]
fn a_rule_lets_through_the_union_of_its_peers_whatever_they_are() {
    let directory = directory();
    let pool = [
        json!({"entity": "Nodes"}),
        json!({"podSelector": {"matchLabels": {"app": "web"}}}),
        json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["web"]}]}}),
        json!({"namespaceSelector": {"matchLabels": {"team": "b"}}}),
        json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "job"}}}),
        json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.2/32"]}}),
        json!({"ipBlock": {"cidr": "203.0.113.0/24"}}),
        json!({"entity": "All"}),
    ];
    let alone: Vec<_> = pool
        .iter()
        .map(|peer| allowed(&json!([peer]), &directory))
        .collect();
    for subset in 0..1_u32 << pool.len() {
        let chosen = |index: &usize| subset & (1 << index) != 0;
        let indices: Vec<usize> = (0..pool.len()).filter(chosen).collect();
        let peers: Vec<&Value> = indices.iter().map(|index| &pool[*index]).collect();
        let mut union: Vec<_> = indices
            .iter()
            .flat_map(|index| &alone[*index])
            .copied()
            .collect();
        union.sort_unstable();
        union.dedup();
        let mut found = allowed(&json!(peers), &directory);
        found.sort_unstable();
        assert_eq!(found, union, "{peers:?}");
    }
}

#[test]
fn what_is_not_known_lets_nobody_through_and_says_why() {
    let verdict = |peers: Value, client: &str, directory: &Directory| {
        let peers: Vec<CallerPeer> = serde_json::from_value(peers).unwrap();
        Access::allow_from(&peers, "ns").verdict(client.parse().unwrap(), directory)
    };
    let (web, empty) = (
        json!([{"podSelector": {"matchLabels": {"app": "web"}}}]),
        Directory::default(),
    );
    assert!(matches!(
        verdict(web.clone(), "10.0.0.1", &empty),
        Verdict::Unknown(_)
    ));
    // addresses alone need no directory
    let block = json!([{"ipBlock": {"cidr": "10.0.0.0/24"}}]);
    assert_eq!(verdict(block.clone(), "10.0.0.1", &empty), Verdict::Allowed);
    assert_eq!(
        verdict(block.clone(), "::ffff:10.0.0.1", &empty),
        Verdict::Allowed
    );
    assert!(matches!(
        verdict(block, "10.0.1.1", &empty),
        Verdict::Denied(_)
    ));
    let known = directory();
    assert!(matches!(
        verdict(web.clone(), OUTSIDE, &known),
        Verdict::NotFound(_)
    ));
    let Verdict::Denied(why) = verdict(web.clone(), "10.0.1.1", &known) else {
        unreachable!("it is of another namespace")
    };
    assert!(
        why.contains("10.0.1.1")
            && why.contains("namespace other")
            && why.contains("activation.allowFrom"),
        "{why}"
    );
    // two pods that are said to have one address: both must be let through
    let second = ("ns".to_owned(), "second".to_owned());
    known.set_pod(
        &second,
        vec!["10.0.0.1".parse().unwrap()],
        &labels(&json!({"app": "job"})),
    );
    assert!(matches!(
        verdict(web.clone(), "10.0.0.1", &known),
        Verdict::Denied(_)
    ));
    // a pod of a namespace that was not read yet
    let early = ("new".to_owned(), "web".to_owned());
    known.set_pod(
        &early,
        vec!["10.0.2.1".parse().unwrap()],
        &labels(&json!({"app": "web"})),
    );
    let team = json!([{"namespaceSelector": {"matchLabels": {"team": "a"}}}]);
    assert!(matches!(
        verdict(team, "10.0.2.1", &known),
        Verdict::Unknown(_)
    ));
    assert_eq!(
        verdict(json!([{"namespaceSelector": {}}]), "10.0.2.1", &known),
        Verdict::Allowed
    );
}
