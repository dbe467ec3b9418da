//! The port that each service has on every gateway: one service a port, and none lost.

use std::collections::BTreeSet;
use std::sync::Arc;

use bursar_api::InferenceDeployment;
use bursar_api::names::GATEWAY_PORTS;
use bursar_apitest::faults::Faults;
use bursar_core::model::Key;
use bursar_core::model::event::Event;
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;

use super::leader::{Leader, View};
use super::world::{NAMESPACE, World};
use crate::cache::{CacheChange, CachedKind};
use crate::edge::Edge;
use crate::ports::NoPort;

/// A service, with this port in its status.
fn service(name: &str, port: Option<u16>) -> InferenceDeployment {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": name},
        "spec": {"engine": "vLLM", "maxReplicas": 1},
        "status": {"activation": {"port": port}},
    }))
    .unwrap()
}

fn key(name: &str) -> Key {
    Key::new(NAMESPACE, name)
}

/// A leader whose caches have these services.
async fn leader(services: Vec<InferenceDeployment>) -> (World, Leader, View) {
    let world = World::new().await;
    let mut leader = Leader::new(&world, Faults::default());
    let mut view = View::of(&world);
    view.services = services;
    leader.fill_caches(&view);
    (world, leader, view)
}

#[tokio::test]
async fn services_that_have_the_same_port_in_their_statuses_get_others_and_none_keeps_it() {
    let first = *GATEWAY_PORTS.start();
    let services = ["a", "b", "c"].map(|name| service(name, Some(first)));
    let (world, leader, _) = leader(services.into()).await;
    let ports: BTreeSet<Option<u16>> = ["b", "c", "a"]
        .iter()
        .map(|name| leader.context.port(&key(name), Some(first), world.now).ok())
        .collect();
    assert_eq!(ports.len(), 3, "{ports:?}");
    // one of the statuses is somebody else's, and nobody knows which
    assert!(
        !ports.contains(&Some(first)) && !ports.contains(&None),
        "{ports:?}"
    );
}

#[tokio::test]
async fn a_service_keeps_the_port_in_its_status_though_others_are_asked_for_before() {
    let first = *GATEWAY_PORTS.start();
    let services = vec![service("a", None), service("b", Some(first))];
    let (world, leader, _) = leader(services).await;
    let port = |name| leader.context.port(&key(name), None, world.now);
    assert_ne!(port("a").unwrap(), first);
    assert_eq!(port("b"), Ok(first));
}

/// A slice that names this port of gateways for a service.
fn slice(namespace: &str, service: &str, port: u16, owner: Option<&str>) -> EndpointSlice {
    let owners = owner.map(|uid| {
        json!([{"apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment", "name": service, "uid": uid}])
    });
    serde_json::from_value(json!({
        "metadata": {
            "name": format!("{service}-bursar-gateway"), "namespace": namespace, "ownerReferences": owners,
            "labels": {"bursar.dev/workload": service, "bursar.dev/gateway": "true"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.9.1"]}],
        "ports": [{"name": "http", "port": port}],
    }))
    .unwrap()
}

/// Somebody deleted the services of these slices, and let the slices stay.
#[tokio::test]
async fn a_new_leader_gives_nobody_a_port_that_a_slice_still_names() {
    let mut other = service("b", None);
    other.metadata.namespace = Some("other".to_owned());
    let (world, mut leader, mut view) = leader(vec![service("a", None), other]).await;
    let unnamed = *GATEWAY_PORTS.start() + 7;
    let named = GATEWAY_PORTS.filter(|port| *port != unnamed);
    view.slices = named
        .map(|port| slice("gone", &format!("chat-{port}"), port, Some("gone")))
        .collect();
    leader.fill_caches(&view);
    let port = |service: &Key, minutes: i64| {
        let now = world.now + SignedDuration::from_mins(minutes);
        leader.context.port(service, None, now)
    };
    let (a, b) = (key("a"), Key::new("other", "b"));
    assert_eq!(port(&a, 0), Ok(unnamed));
    for minutes in [0, 2, 60] {
        assert_eq!(port(&b, minutes), Err(NoPort::AllGiven), "{minutes}");
    }
    view.slices.clear();
    leader.fill_caches(&view);
    let now = world.now + SignedDuration::from_mins(62);
    assert!(leader.context.port(&b, None, now).is_ok());
}

/// The former leader ended before it wrote the status.
#[tokio::test]
async fn a_new_leader_leaves_a_service_the_port_in_its_own_slice() {
    let first = *GATEWAY_PORTS.start();
    let services = ["x", "y", "z"].map(|name| service(name, None));
    let (world, mut leader, mut view) = leader(services.into()).await;
    view.slices = vec![
        slice(NAMESPACE, "x", first, Some("x")),
        // of a former service of that name
        slice(NAMESPACE, "z", first + 1, Some("former")),
    ];
    leader.fill_caches(&view);
    let ports = ["y", "z", "x"].map(|name| leader.context.port(&key(name), None, world.now));
    assert_eq!(ports[2], Ok(first));
    assert!(!ports.contains(&Ok(first + 1)), "{ports:?}");
}

/// Nobody knows when its port was given back.
#[tokio::test]
async fn a_new_leader_does_not_go_on_where_the_newest_port_was() {
    fastrand::seed(1);
    let newest = *GATEWAY_PORTS.start() + 50;
    let services = vec![service("a", Some(newest)), service("b", None)];
    let (world, leader, _) = leader(services).await;
    let given = leader.context.port(&key("b"), None, world.now).unwrap();
    assert!(!(newest..newest + 10).contains(&given), "{given}");
}

#[tokio::test]
async fn a_port_that_was_given_back_is_given_last() {
    let names: Vec<String> = (0..50).map(|number| format!("chat-{number:02}")).collect();
    let services = names.iter().map(|name| service(name, None)).collect();
    let (world, mut leader, mut view) = leader(services).await;
    let context = Arc::clone(&leader.context);
    let mut edge = Edge::new(Arc::clone(&context));
    edge.observe(world.now);
    let given: BTreeSet<u16> = names
        .iter()
        .map(|name| context.port(&key(name), None, world.now).unwrap())
        .collect();
    assert_eq!(given.len(), 50);
    view.services
        .retain(|service| service.metadata.name.as_deref() != Some("chat-07"));
    view.services.push(service("new", None));
    leader.fill_caches(&view);
    let change = CacheChange::Object(CachedKind::InferenceDeployment, key("chat-07"));
    edge.note(change);
    edge.observe(world.now);
    for later in [0, 3600] {
        let now = world.now + SignedDuration::from_secs(later);
        let new = context.port(&key("new"), None, now).unwrap();
        assert!(!given.contains(&new), "{new}");
    }
}

/// A namespace of services that have all ports that one may have, and the service of another one.
async fn greedy_namespace() -> (World, Leader, View) {
    let count = GATEWAY_PORTS.len();
    let services = (0..count).map(|number| service(&number.to_string(), None));
    let mut services: Vec<InferenceDeployment> = services.collect();
    let mut other = service("chat", None);
    other.metadata.namespace = Some("other".to_owned());
    services.push(other);
    leader(services).await
}

#[tokio::test]
async fn a_namespace_has_no_more_ports_than_remain_for_all_others() {
    let (world, leader, _) = greedy_namespace().await;
    let (context, count) = (&leader.context, GATEWAY_PORTS.len());
    let port = |number: usize| context.port(&key(&number.to_string()), None, world.now);
    let given = (0..count).filter(|number| port(*number).is_ok()).count();
    assert_eq!(given, count / 2);
    let refused = port(count - 1).unwrap_err();
    let condition = refused.condition().unwrap();
    assert_eq!(condition.reason.as_str(), "NamespaceShareUsed");
    assert_eq!(condition.status, Some(false));
    let numbers = "have 5000 of 10000 ports, and 5000 are free";
    assert!(condition.message.contains(numbers), "{}", condition.message);
    let other = Key::new("other", "chat");
    assert!(context.port(&other, None, world.now).is_ok());
}

#[tokio::test]
async fn a_service_that_waits_gets_the_port_of_one_that_goes_after_a_minute() {
    let (mut world, mut leader, mut view) = greedy_namespace().await;
    let (context, count) = (Arc::clone(&leader.context), GATEWAY_PORTS.len());
    let last = key(&(count - 1).to_string());
    let mut edge = Edge::new(Arc::clone(&context));
    edge.observe(world.now);
    for number in 0..count {
        let _ = context.port(&key(&number.to_string()), None, world.now);
    }
    let gone = ["5", "6"].map(|name| context.port(&key(name), None, world.now).unwrap());
    view.services
        .retain(|service| !matches!(service.metadata.name.as_deref(), Some("5" | "6")));
    leader.fill_caches(&view);
    for name in ["5", "6"] {
        edge.note(CacheChange::Object(
            CachedKind::InferenceDeployment,
            key(name),
        ));
    }
    edge.observe(world.now);
    // the namespace has two fewer than remain, and the old routes of the ports may still be believed
    let next = context.port(&last, None, world.now).unwrap();
    assert!(!gone.contains(&next), "{next}");
    let waits = key(&(count - 2).to_string());
    assert!(context.port(&waits, None, world.now).is_err());
    let due = edge.next().unwrap();
    assert!(due <= world.now + SignedDuration::from_mins(1), "{due}");
    world.now += SignedDuration::from_mins(1);
    let observed = edge.observe(world.now);
    assert!(
        !observed.owners.is_empty(),
        "those that wait are looked at once the ports have cooled down"
    );
    assert!(context.port(&waits, None, world.now).is_ok());
}

#[tokio::test]
async fn a_service_without_a_port_keeps_a_replica_that_it_has() {
    let (world, mut leader, mut view) = greedy_namespace().await;
    let (context, count) = (Arc::clone(&leader.context), GATEWAY_PORTS.len());
    for number in 0..count {
        let _ = context.port(&key(&number.to_string()), None, world.now);
    }
    let deployment = |name: &str| -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"replicas": 1, "selector": {}, "template": {}},
        }))
        .unwrap()
    };
    view.deployments = vec![deployment("0"), deployment("9999")];
    leader.fill_caches(&view);
    let observed = Edge::new(context).observe(world.now);
    let min = |name: &str| {
        observed.events.iter().find_map(|event| match event {
            Event::Service(of, Some(service)) if *of == key(name) => Some(service.min),
            _ => None,
        })
    };
    assert_eq!(min("0"), Some(0), "requests wake it");
    assert_eq!(min("9999"), Some(1), "requests would not wake it");
    assert_eq!(
        min("9998"),
        Some(0),
        "it has none, and none is started for want of a port"
    );
}
