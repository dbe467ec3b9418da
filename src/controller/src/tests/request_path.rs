//! `activation.mode: Always`: all requests through gateways, there and back, with a ready endpoint at each
//! moment.

use std::collections::BTreeSet;
use std::sync::Arc;

use bursar_api::InferenceDeployment;
use bursar_apitest::faults::Faults;
use bursar_core::model::Key;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::leader::Leader;
use super::sweep::{Stage, every_crash, undisturbed};
use super::world::NAMESPACE;
use crate::cache::{CacheChange, CachedKind};
use crate::edge::Edge;
use crate::object_key::ObjectKey;

pub(super) const GATEWAY: &str = "gateway";

/// The Service of this name, if it is there.
fn service(stage: &Stage, name: &str) -> Option<Service> {
    let all: Vec<Service> = stage.world.server.objects();
    all.into_iter().find(|found| found.name_any() == name)
}

/// The value of the label by which a Service selects pods that serve.
pub(super) fn selects(stage: &Stage, name: &str) -> String {
    let selector = service(stage, name).unwrap().spec.unwrap().selector;
    selector.unwrap()["bursar.dev/serving"].clone()
}

/// The ready endpoints of a Service, by the slices that have its name: gateways, and UIDs of pods.
pub(super) fn ready(stage: &Stage, name: &str) -> (usize, BTreeSet<String>) {
    let slices: Vec<EndpointSlice> = stage.world.server.objects();
    let own = slices.iter().filter(|slice| {
        let label = slice.labels().get("kubernetes.io/service-name");
        label.is_some_and(|label| label == name)
    });
    let endpoints = own.flat_map(|slice| slice.endpoints.iter().flatten());
    let ready = endpoints.filter(|each| each.conditions.as_ref().unwrap().ready == Some(true));
    let (pods, gateways): (Vec<_>, Vec<_>) = ready.partition(|each| each.target_ref.is_some());
    let uid = |endpoint: &&_| -> Option<String> {
        let endpoint: &k8s_openapi::api::discovery::v1::Endpoint = endpoint;
        endpoint.target_ref.as_ref()?.uid.clone()
    };
    (gateways.len(), pods.iter().filter_map(uid).collect())
}

/// The UIDs of the service's pods.
pub(super) fn pods(stage: &Stage) -> BTreeSet<String> {
    let replicas = stage.world.pods().into_iter().filter(|pod| {
        let is_gateway = pod.name_any() == GATEWAY;
        !is_gateway && pod.metadata.deletion_timestamp.is_none()
    });
    replicas.filter_map(|pod: Pod| pod.uid()).collect()
}

/// A service with a ready replica and a gateway.
pub(super) async fn warm(stage: &mut Stage) {
    stage.world.set_gateway(GATEWAY, true).await;
    stage.world.create_chat(1).await;
    stage.seconds(10).await;
    assert_eq!(ready(stage, "chat"), (0, pods(stage)));
    assert_eq!(service(stage, "chat-replicas"), None);
}

/// Seconds in each of which a client that uses ready endpoints alone finds one.
pub(super) async fn reachable(stage: &mut Stage, seconds: usize) {
    for _ in 0..seconds {
        stage.seconds(1).await;
        let (gateways, pods) = ready(stage, "chat");
        assert!(gateways + pods.len() > 0, "no ready endpoint");
    }
}

pub(super) fn replicas(stage: &Stage) -> Option<i32> {
    let found: Vec<Deployment> = stage.world.server.objects();
    found.first().and_then(|found| found.spec.replicas)
}

/// To gateways and back.
fn there_and_back(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        warm(stage).await;
        let before = service(stage, "chat").unwrap();
        stage.world.set_activation(json!({"mode": "Always"})).await;
        reachable(stage, 7).await;
        assert_eq!(selects(stage, "chat"), "by-gateways");
        assert_eq!(ready(stage, "chat"), (1, BTreeSet::new()));
        assert_eq!(ready(stage, "chat-replicas"), (0, pods(stage)));
        stage
            .world
            .set_activation(json!({"mode": "OnDemand"}))
            .await;
        reachable(stage, 7).await;
        assert_eq!(ready(stage, "chat"), (0, pods(stage)));
        assert_eq!(service(stage, "chat-replicas"), None);
        let after = service(stage, "chat").unwrap();
        assert_eq!(after.uid(), before.uid(), "so its address stays");
        assert_eq!(after.spec, before.spec);
        stage.world.delete_gateway(GATEWAY).await;
        stage.world.delete::<InferenceDeployment>("chat").await;
    }
    .boxed_local()
}

#[tokio::test]
async fn a_service_goes_to_gateways_and_back_and_has_a_ready_endpoint_all_the_time() {
    undisturbed(there_and_back).await;
}

#[tokio::test]
async fn a_crash_at_any_write_of_a_switch_changes_nothing_in_the_end() {
    every_crash(there_and_back).await;
}

#[tokio::test]
async fn a_competing_write_before_any_write_of_a_switch_changes_nothing_in_the_end() {
    let writes = undisturbed(there_and_back).await;
    for write in 0..writes {
        let mut stage = Stage::new(Faults::default()).await;
        let client = stage.world.server.client();
        let server = stage.world.server.clone();
        let acts = async move {
            touch::<Service>(&client, &server).await;
            touch::<EndpointSlice>(&client, &server).await;
        };
        stage.leader = Leader::new(&stage.world, Faults::competing_write(write, acts));
        there_and_back(&mut stage).await;
    }
}

/// Somebody notes something on every object of a kind.
async fn touch<K>(client: &kube::Client, server: &bursar_apitest::Server)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), NAMESPACE);
    let patch = Patch::Merge(json!({"metadata": {"annotations": {"rival": "was-here"}}}));
    for object in server.objects::<K>() {
        let params = PatchParams::default();
        api.patch(&object.name_any(), &params, &patch)
            .await
            .unwrap();
    }
}

/// A service whose requests all go through gateways, with this in its `activation`.
pub(super) async fn through_gateways(mut activation: Value) -> Stage {
    let mut stage = Stage::new(Faults::default()).await;
    warm(&mut stage).await;
    activation["mode"] = json!("Always");
    stage.world.set_activation(activation).await;
    stage.seconds(6).await;
    assert_eq!(selects(&stage, "chat"), "by-gateways");
    stage
}

#[tokio::test]
async fn replicas_behind_gateways_drain_by_the_endpoints_of_their_own_service() {
    let mut stage = through_gateways(json!({})).await;
    stage.world.requests = 12;
    reachable(&mut stage, 12).await;
    assert_eq!(replicas(&stage), Some(3));
    assert_eq!(ready(&stage, "chat-replicas"), (0, pods(&stage)));
    stage.world.requests = 2;
    reachable(&mut stage, 16).await;
    assert_eq!(replicas(&stage), Some(1));
    assert_eq!(ready(&stage, "chat-replicas"), (0, pods(&stage)));
    assert_eq!(stage.world.cut, [] as [&str; 0]);
}

/// The condition `RequestsWake`: its reason and message.
fn requests_wake(stage: &Stage) -> Option<(String, String)> {
    let services: Vec<InferenceDeployment> = stage.world.server.objects();
    let conditions = services.first()?.status.as_ref()?.conditions.iter();
    let mut found = conditions.filter(|each| each.type_ == "RequestsWake");
    found
        .next()
        .map(|each| (each.reason.clone(), each.message.clone()))
}

#[tokio::test]
async fn at_rest_a_service_behind_gateways_is_not_written_at_zero_either() {
    let mut stage = through_gateways(json!({})).await;
    let patch = Patch::Merge(json!({"spec": {"minReplicas": 0}}));
    let api = stage.world.api::<InferenceDeployment>();
    api.patch("chat", &PatchParams::default(), &patch)
        .await
        .unwrap();
    stage.seconds(25).await;
    assert_eq!(replicas(&stage), Some(0));
    assert_eq!(ready(&stage, "chat"), (1, BTreeSet::new()));
    let writes = stage.leader.faults.writes();
    stage.seconds(20).await;
    assert_eq!(stage.leader.faults.writes(), writes);
    assert_eq!(requests_wake(&stage), None);
    stage
        .world
        .set_activation(json!({"mode": "OnDemand"}))
        .await;
    stage.seconds(6).await;
    assert_eq!(ready(&stage, "chat"), (0, BTreeSet::new()), "a last resort");
    assert_eq!(service(&stage, "chat-replicas"), None);
}

#[tokio::test]
async fn without_a_gateway_requests_go_to_replicas_and_through_gateways_once_there_is_one() {
    let mut stage = through_gateways(json!({})).await;
    stage.world.set_gateway(GATEWAY, false).await;
    // it may just have been slow
    stage.seconds(3).await;
    assert_eq!(selects(&stage, "chat"), "by-gateways");
    stage.seconds(6).await;
    assert_eq!(selects(&stage, "chat"), "true");
    assert_eq!(ready(&stage, "chat"), (0, pods(&stage)));
    let (reason, why) = requests_wake(&stage).unwrap();
    assert_eq!(reason, "GatewaysNotInPath");
    assert!(why.contains("no gateway takes its requests"), "{why}");
    stage.world.set_gateway(GATEWAY, true).await;
    reachable(&mut stage, 8).await;
    assert_eq!(selects(&stage, "chat"), "by-gateways");
    assert_eq!(requests_wake(&stage), None);
}

#[tokio::test]
async fn whom_only_gateways_turn_away_reaches_no_replica_where_there_is_no_gateway() {
    let only = json!([{"ipBlock": {"cidr": "192.0.2.0/24"}}]);
    let mut stage = through_gateways(json!({"allowFrom": only})).await;
    stage.world.delete_gateway(GATEWAY).await;
    stage.seconds(10).await;
    assert_eq!(selects(&stage, "chat"), "by-gateways");
    assert_eq!(ready(&stage, "chat"), (0, BTreeSet::new()));
    let (reason, why) = requests_wake(&stage).unwrap();
    assert_eq!(reason, "GatewaysNotInPath");
    assert!(why.contains("refused"), "{why}");
}

/// A tenant has a Service of that name.
#[tokio::test]
async fn a_service_whose_name_for_replicas_is_taken_stays_as_it_is_and_says_so() {
    let mut stage = Stage::new(Faults::default()).await;
    let theirs = json!({"metadata": {"name": "chat-replicas"}, "spec": {"selector": {"app": "own"}, "ports": [{"port": 1}]}});
    stage.world.create::<Service>(theirs).await;
    stage.world.set_gateway(GATEWAY, true).await;
    stage.world.create_chat(1).await;
    stage.world.set_activation(json!({"mode": "Always"})).await;
    for _ in 0..15 {
        stage.world.turn().await;
        let view = super::leader::View::of(&stage.world);
        stage.leader.reconcile(&stage.world, &view).await.ok();
    }
    assert_eq!(selects(&stage, "chat"), "true");
    assert_eq!(ready(&stage, "chat"), (0, pods(&stage)));
    let theirs = service(&stage, "chat-replicas").unwrap().spec.unwrap();
    assert_eq!(theirs.selector.unwrap()["app"], "own");
    let (reason, why) = requests_wake(&stage).unwrap();
    assert_eq!(reason, "GatewaysNotInPath");
    assert!(why.contains("Service chat-replicas is not there"), "{why}");
    let services: Vec<InferenceDeployment> = stage.world.server.objects();
    let status = serde_json::to_string(&services[0].status).unwrap();
    let foreign = "Service chat-replicas exists and is not Bursar's";
    assert!(status.contains(foreign), "{status}");
}

#[tokio::test]
async fn edits_of_either_service_are_put_back_and_one_that_is_deleted_is_made_again() {
    let mut stage = through_gateways(json!({})).await;
    let before = ["chat", "chat-replicas"].map(|name| service(&stage, name).unwrap().spec);
    let api = stage.world.api::<Service>();
    let edit = Patch::Merge(json!({"spec": {
        "selector": {"bursar.dev/serving": "true", "app": "other"}, "ports": [{"port": 1}],
    }}));
    for name in ["chat", "chat-replicas"] {
        api.patch(name, &PatchParams::default(), &edit)
            .await
            .unwrap();
    }
    reachable(&mut stage, 4).await;
    let after = ["chat", "chat-replicas"].map(|name| service(&stage, name).unwrap().spec);
    assert_eq!(after, before);
    api.delete("chat-replicas", &DeleteParams::default())
        .await
        .unwrap();
    reachable(&mut stage, 4).await;
    assert_eq!(service(&stage, "chat-replicas").unwrap().spec, before[1]);
    assert_eq!(selects(&stage, "chat"), "by-gateways");
}

#[tokio::test]
async fn a_paused_service_stays_on_its_way_until_it_is_resumed() {
    let mut stage = through_gateways(json!({})).await;
    super::pause::set(&stage.world, json!({"namespace.team": "since now"})).await;
    stage
        .world
        .set_activation(json!({"mode": "OnDemand"}))
        .await;
    reachable(&mut stage, 8).await;
    assert_eq!(ready(&stage, "chat"), (1, BTreeSet::new()));
    // the endpoints are kept current, as they are
    set_address(&stage, GATEWAY, "10.0.9.2").await;
    reachable(&mut stage, 3).await;
    assert_eq!(gateways(&stage, "chat"), ["10.0.9.2"]);
    super::pause::set(&stage.world, json!({"namespace.team": null})).await;
    reachable(&mut stage, 8).await;
    assert_eq!(ready(&stage, "chat"), (0, pods(&stage)));
}

/// The gateway of this name has another address from now on.
pub(super) async fn set_address(stage: &Stage, name: &str, address: &str) {
    let pods: Api<Pod> = Api::namespaced(stage.world.server.client(), super::world::OPERATOR);
    let moved = Patch::Merge(json!({"status": {"podIP": address}}));
    pods.patch_status(name, &PatchParams::default(), &moved)
        .await
        .unwrap();
}

/// The addresses of the slice of this name, its family, and whether they are ready.
fn slice(stage: &Stage, name: &str) -> Option<(String, Vec<String>, Option<bool>)> {
    let all: Vec<EndpointSlice> = stage.world.server.objects();
    let slice = all.into_iter().find(|slice| slice.name_any() == name)?;
    let endpoints = slice.endpoints.unwrap_or_default();
    let first = endpoints.first().and_then(|each| each.conditions.clone());
    let ready = first.and_then(|conditions| conditions.ready);
    let addresses = endpoints.into_iter().flat_map(|each| each.addresses);
    Some((slice.address_type, addresses.collect(), ready))
}

/// Case T19.
#[tokio::test]
async fn a_service_has_gateways_of_each_family_of_its_addresses() {
    let mut stage = Stage::new(Faults::default()).await;
    warm(&mut stage).await;
    assert_eq!(slice(&stage, "chat-bursar-gateway-ipv6"), None);
    let set_addresses = |stage: &Stage, addresses: Value| {
        let api: Api<Pod> = Api::namespaced(stage.world.server.client(), super::world::OPERATOR);
        async move {
            let patch = Patch::Merge(json!({"status": {"podIPs": addresses}}));
            api.patch_status(GATEWAY, &PatchParams::default(), &patch)
                .await
                .unwrap();
        }
    };
    let set_families = |stage: &Stage, families: Value| {
        let api = stage.world.api::<Service>();
        async move {
            let patch = Patch::Merge(json!({"spec": {"ipFamilies": families}}));
            api.patch("chat", &PatchParams::default(), &patch)
                .await
                .unwrap();
        }
    };
    set_families(&stage, json!(["IPv6", "IPv4"])).await;
    stage.seconds(3).await;
    let (reason, _) = requests_wake(&stage).unwrap();
    assert_eq!(reason, "NoGatewayAddress");
    set_addresses(&stage, json!([{"ip": "10.0.9.1"}, {"ip": "fd00::9"}])).await;
    stage.seconds(3).await;
    assert_eq!(requests_wake(&stage), None);
    let of = |family: &str, address: &str, ready| {
        Some((family.to_owned(), vec![address.to_owned()], Some(ready)))
    };
    let (ipv4, ipv6) = ("chat-bursar-gateway", "chat-bursar-gateway-ipv6");
    assert_eq!(slice(&stage, ipv4), of("IPv4", "10.0.9.1", false));
    assert_eq!(slice(&stage, ipv6), of("IPv6", "fd00::9", false));
    stage.world.set_activation(json!({"mode": "Always"})).await;
    reachable(&mut stage, 6).await;
    assert_eq!(slice(&stage, ipv4), of("IPv4", "10.0.9.1", true));
    assert_eq!(slice(&stage, ipv6), of("IPv6", "fd00::9", true));
    assert_eq!(selects(&stage, "chat"), "by-gateways");
    let writes = stage.leader.faults.writes();
    stage.seconds(5).await;
    assert_eq!(stage.leader.faults.writes(), writes);
    // clients of one family would reach nobody
    set_addresses(&stage, json!([{"ip": "10.0.9.1"}])).await;
    reachable(&mut stage, 4).await;
    assert_eq!(selects(&stage, "chat"), "true");
    // the Service has one family again
    set_families(&stage, json!(["IPv4"])).await;
    reachable(&mut stage, 4).await;
    assert_eq!(selects(&stage, "chat"), "by-gateways");
    assert_eq!(
        slice(&stage, ipv6),
        Some(("IPv6".to_owned(), Vec::new(), None))
    );
}

/// Looks of which some calls fail.
async fn troubled(stage: &mut Stage, seconds: usize) {
    for _ in 0..seconds {
        stage.world.turn().await;
        let view = super::leader::View::of(&stage.world);
        stage.leader.reconcile(&stage.world, &view).await.ok();
    }
}

/// A Service of a tenant.
async fn create_theirs(stage: &Stage, name: &str) {
    let spec = json!({"selector": {"app": "own"}, "ports": [{"name": "http", "port": 80}]});
    let theirs = json!({"metadata": {"name": name}, "spec": spec});
    stage.world.create::<Service>(theirs).await;
}

/// The addresses of gateways that a Service has by its slices, ready or not.
pub(super) fn gateways(stage: &Stage, name: &str) -> Vec<String> {
    let slices: Vec<EndpointSlice> = stage.world.server.objects();
    let own = slices.into_iter().filter(|slice| {
        let label = slice.labels().get("kubernetes.io/service-name");
        label.is_some_and(|label| label == name)
    });
    let endpoints = own.flat_map(|slice| slice.endpoints.unwrap_or_default());
    let gateways = endpoints.filter(|each| each.target_ref.is_none());
    gateways.flat_map(|each| each.addresses).collect()
}

#[tokio::test]
async fn a_service_of_somebody_else_gets_no_gateway_in_either_mode() {
    for mode in ["Always", "OnDemand"] {
        let mut stage = Stage::new(Faults::default()).await;
        create_theirs(&stage, "chat").await;
        stage.world.set_gateway(GATEWAY, true).await;
        stage.world.create_chat(1).await;
        stage.world.set_activation(json!({"mode": mode})).await;
        for _ in 0..15 {
            troubled(&mut stage, 1).await;
            assert_eq!(gateways(&stage, "chat"), [] as [&str; 0], "{mode}");
        }
        let api = stage.world.api::<Service>();
        api.delete("chat", &DeleteParams::default()).await.unwrap();
        troubled(&mut stage, 70).await;
        assert_eq!(gateways(&stage, "chat"), ["10.0.9.1"], "{mode}");
        let is_always = mode == "Always";
        assert_eq!(selects(&stage, "chat") == "by-gateways", is_always);
    }
}

#[tokio::test]
async fn gateways_leave_a_name_that_somebody_else_has_taken_even_of_a_paused_service() {
    for is_paused in [false, true] {
        let mut stage = through_gateways(json!({})).await;
        if is_paused {
            super::pause::set(&stage.world, json!({"namespace.team": "since now"})).await;
            troubled(&mut stage, 1).await;
        }
        let api = stage.world.api::<Service>();
        api.delete("chat", &DeleteParams::default()).await.unwrap();
        create_theirs(&stage, "chat").await;
        troubled(&mut stage, 2).await;
        assert_eq!(gateways(&stage, "chat"), [] as [&str; 0], "{is_paused}");
    }
}

#[tokio::test]
async fn gateways_roll_while_the_service_of_the_replicas_cannot_be_made() {
    let mut stage = through_gateways(json!({})).await;
    let api = stage.world.api::<Service>();
    api.delete("chat-replicas", &DeleteParams::default())
        .await
        .unwrap();
    create_theirs(&stage, "chat-replicas").await;
    troubled(&mut stage, 3).await;
    stage.world.set_gateway("newer", true).await;
    set_address(&stage, "newer", "10.0.9.2").await;
    stage.world.delete_gateway(GATEWAY).await;
    troubled(&mut stage, 2).await;
    assert_eq!(gateways(&stage, "chat"), ["10.0.9.2"]);
    assert_eq!(selects(&stage, "chat"), "by-gateways");
    let services: Vec<InferenceDeployment> = stage.world.server.objects();
    let status = serde_json::to_string(&services[0].status).unwrap();
    let foreign = "Service chat-replicas exists and is not Bursar's";
    assert!(status.contains(foreign), "{status}");
}

#[tokio::test]
async fn replicas_are_back_before_the_last_gateway_is_taken_out() {
    let mut stage = through_gateways(json!({})).await;
    stage.world.set_gateway(GATEWAY, false).await;
    reachable(&mut stage, 10).await;
    assert_eq!(selects(&stage, "chat"), "true");
    assert_eq!(ready(&stage, "chat"), (0, pods(&stage)));
    let writes = stage.leader.faults.writes();
    stage.seconds(5).await;
    assert_eq!(stage.leader.faults.writes(), writes);
}

#[tokio::test]
async fn the_way_back_goes_on_once_a_pod_that_it_waits_for_takes_no_requests_any_more() {
    let stage = through_gateways(json!({})).await;
    let mut leader = Leader::new(&stage.world, Faults::default());
    let mut edge = Edge::new(Arc::clone(&leader.context));
    let mut pods = stage.world.pods().into_iter();
    let pod = pods.find(|pod| pod.name_any() != GATEWAY).unwrap();
    let service = ObjectKey::Service(Key::new(NAMESPACE, "chat"));
    for (mode, compared) in [("Always", false), ("OnDemand", true)] {
        stage.world.set_activation(json!({"mode": mode})).await;
        leader.fill_caches(&super::leader::View::of(&stage.world));
        edge.observe(stage.world.now);
        let key = Key::new(NAMESPACE, &pod.name_any());
        edge.note(CacheChange::Object(CachedKind::Pod, key));
        let owners = edge.observe(stage.world.now).owners;
        assert_eq!(owners.contains(&service), compared, "{mode}");
    }
}
