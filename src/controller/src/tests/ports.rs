//! The port that each service has on every gateway: one service a port, and none lost.

use std::collections::BTreeSet;
use std::sync::Arc;

use bursar_api::InferenceDeployment;
use bursar_api::names::GATEWAY_PORTS;
use bursar_apitest::faults::Faults;
use bursar_core::model::Key;
use serde_json::json;

use super::leader::{Leader, View};
use super::world::{NAMESPACE, World};
use crate::cache::{CacheChange, CachedKind};
use crate::edge::Edge;

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
async fn services_that_have_the_same_port_in_their_statuses_get_two() {
    let first = *GATEWAY_PORTS.start();
    let services = ["a", "b", "c"].map(|name| service(name, Some(first)));
    let (_world, leader, _) = leader(services.into()).await;
    let ports: BTreeSet<Option<u16>> = ["b", "c", "a"]
        .iter()
        .map(|name| leader.context.port(&key(name), Some(first)))
        .collect();
    assert_eq!(ports.len(), 3, "{ports:?}");
    assert!(ports.contains(&Some(first)), "one keeps it");
}

#[tokio::test]
async fn a_service_keeps_the_port_in_its_status_though_others_are_asked_for_before() {
    let first = *GATEWAY_PORTS.start();
    let services = vec![service("a", None), service("b", Some(first))];
    let (_world, leader, _) = leader(services).await;
    let port = |name| leader.context.port(&key(name), None);
    assert_eq!((port("a"), port("b")), (Some(first + 1), Some(first)));
}

#[tokio::test]
async fn the_port_of_a_service_that_is_gone_is_given_again_and_no_other() {
    let names: Vec<String> = (0..50).map(|number| format!("chat-{number:02}")).collect();
    let services = names.iter().map(|name| service(name, None)).collect();
    let (world, mut leader, mut view) = leader(services).await;
    let context = Arc::clone(&leader.context);
    let mut edge = Edge::new(Arc::clone(&context));
    edge.observe(world.now);
    let given: BTreeSet<u16> = names
        .iter()
        .map(|name| context.port(&key(name), None).unwrap())
        .collect();
    assert_eq!(given.len(), 50);
    let gone = context.port(&key("chat-07"), None).unwrap();
    view.services
        .retain(|service| service.metadata.name.as_deref() != Some("chat-07"));
    view.services.push(service("new", None));
    view.services.push(service("newer", None));
    leader.fill_caches(&view);
    let change = CacheChange::Object(CachedKind::InferenceDeployment, key("chat-07"));
    edge.note(change);
    edge.observe(world.now);
    assert_eq!(context.port(&key("new"), None), Some(gone));
    let newer = context.port(&key("newer"), None).unwrap();
    assert!(!given.contains(&newer), "{newer}");
}

#[tokio::test]
async fn all_ports_are_given_and_one_more_service_gets_none_until_another_goes() {
    let count = GATEWAY_PORTS.len();
    let services = (0..=count).map(|number| service(&number.to_string(), None));
    let (_world, mut leader, mut view) = leader(services.collect()).await;
    let context = Arc::clone(&leader.context);
    let given: BTreeSet<u16> = (0..count)
        .filter_map(|number| context.port(&key(&number.to_string()), None))
        .collect();
    assert_eq!(given.len(), count);
    let last = key(&count.to_string());
    assert_eq!(context.port(&last, None), None);
    // nobody has told that one is gone
    view.services
        .retain(|service| service.metadata.name.as_deref() != Some("5"));
    leader.fill_caches(&view);
    assert!(context.port(&last, None).is_some());
}
