//! Which gateways are endpoints of a service of which nothing else is changed, or which has no port.

use std::collections::BTreeSet;

use bursar_api::names::GATEWAY_PORTS;
use bursar_apitest::faults::Faults;
use bursar_core::model::Key;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use serde_json::json;

use super::leader::{Leader, View};
use super::pause;
use super::request_path::{
    GATEWAY, gateways, pods, reachable, ready, replicas, selects, set_address, through_gateways,
    warm,
};
use super::sweep::Stage;
use super::world::NAMESPACE;
use crate::ports::NoPort;

/// A controller that only observes takes over.
async fn observe_only(stage: &mut Stage) {
    stage.world.observe_only = true;
    stage.leader = Leader::new(&stage.world, Faults::default());
    stage.seconds(2).await;
}

/// Whoever gets the address of a gateway that is gone would be sent the requests.
#[tokio::test]
async fn endpoints_follow_the_gateways_while_the_controller_only_observes() {
    for mode in ["Always", "OnDemand"] {
        let mut stage = Stage::new(Faults::default()).await;
        warm(&mut stage).await;
        stage.world.set_activation(json!({"mode": mode})).await;
        reachable(&mut stage, 6).await;
        observe_only(&mut stage).await;
        let before = stage.world.server.objects::<Service>();
        set_address(&stage, GATEWAY, "10.0.9.2").await;
        stage.world.requests = 12;
        reachable(&mut stage, 5).await;
        assert_eq!(gateways(&stage, "chat"), ["10.0.9.2"], "{mode}");
        assert_eq!(stage.world.server.objects::<Service>(), before, "{mode}");
        assert_eq!(replicas(&stage), Some(1), "nothing else is changed");
    }
}

#[tokio::test]
async fn a_controller_that_only_observes_makes_no_endpoints() {
    let mut stage = Stage::new(Faults::default()).await;
    observe_only(&mut stage).await;
    stage.world.set_gateway(GATEWAY, true).await;
    stage.world.create_chat(1).await;
    stage.seconds(5).await;
    assert_eq!(stage.world.server.objects::<EndpointSlice>(), []);
    assert_eq!(stage.world.server.objects::<Service>(), []);
}

#[tokio::test]
async fn requests_reach_replicas_without_a_gateway_though_nothing_else_is_changed() {
    for is_paused in [true, false] {
        let mut stage = through_gateways(json!({})).await;
        match is_paused {
            true => pause::set(&stage.world, json!({"namespace.team": "now"})).await,
            false => observe_only(&mut stage).await,
        }
        stage.world.set_gateway(GATEWAY, false).await;
        reachable(&mut stage, 10).await;
        assert_eq!(selects(&stage, "chat"), "true", "{is_paused}");
        assert_eq!(ready(&stage, "chat"), (0, pods(&stage)), "{is_paused}");
        let writes = stage.leader.faults.writes();
        stage.seconds(5).await;
        assert_eq!(stage.leader.faults.writes(), writes, "{is_paused}");
        stage.world.set_gateway(GATEWAY, true).await;
        reachable(&mut stage, 8).await;
        assert_eq!(selects(&stage, "chat"), "by-gateways", "{is_paused}");
        assert_eq!(ready(&stage, "chat"), (1, BTreeSet::new()), "{is_paused}");
    }
}

#[tokio::test]
async fn a_paused_service_whom_only_gateways_guard_reaches_no_replica_without_one() {
    let only = json!([{"ipBlock": {"cidr": "192.0.2.0/24"}}]);
    let mut stage = through_gateways(json!({"allowFrom": only})).await;
    pause::set(&stage.world, json!({"namespace.team": "now"})).await;
    stage.world.delete_gateway(GATEWAY).await;
    stage.seconds(10).await;
    assert_eq!(selects(&stage, "chat"), "by-gateways");
    assert_eq!(ready(&stage, "chat"), (0, BTreeSet::new()));
}

/// All other ports are taken, and somebody wrote its port into another status.
#[tokio::test]
async fn gateways_leave_the_endpoints_of_a_service_that_loses_its_port() {
    let mut stage = Stage::new(Faults::default()).await;
    warm(&mut stage).await;
    assert_eq!(gateways(&stage, "chat"), ["10.0.9.1"]);
    stage.leader = Leader::new(&stage.world, Faults::default());
    let mut view = View::of(&stage.world);
    let mut twin = view.services[0].clone();
    twin.metadata.name = Some("another".to_owned());
    view.services.push(twin);
    let own = view
        .slices
        .iter()
        .find(|slice| slice.name_any() == "chat-bursar-gateway");
    let own = own.unwrap().clone();
    for port in GATEWAY_PORTS {
        let mut slice = own.clone();
        let name = format!("gone-{port}");
        slice.metadata.name = Some(format!("{name}-bursar-gateway"));
        slice.metadata.owner_references = None;
        slice
            .labels_mut()
            .insert("bursar.dev/workload".to_owned(), name);
        let ports = slice.ports.as_mut().unwrap();
        if ports[0].port != Some(i32::from(port)) {
            ports[0].port = Some(i32::from(port));
            view.slices.push(slice);
        }
    }
    stage.leader.fill_caches(&view);
    let key = Key::new(NAMESPACE, "chat");
    let port = stage.leader.context.port(&key, None, stage.world.now);
    assert_eq!(port, Err(NoPort::AllGiven));
    stage.seconds(3).await;
    assert_eq!(gateways(&stage, "chat"), [] as [&str; 0]);
    assert_eq!(ready(&stage, "chat"), (0, pods(&stage)));
    stage.seconds(65).await;
    assert_eq!(
        gateways(&stage, "chat"),
        ["10.0.9.1"],
        "it has a port again"
    );
}
