//! Workloads that exist are scaled by `targetRef`: adopted, woken, charged and given back, with nothing of them
//! changed but their replicas.

use bursar_api::names::{
    DRAINING_ANNOTATION, KIND_LABEL, SERVING_LABEL, TARGET_FINALIZER, WORKLOAD_LABEL,
};
use bursar_api::{BudgetPolicy, InferenceDeployment};
use bursar_apitest::faults::{Faults, WriteFault};
use bursar_core::budget::EVICTION_NOTICE;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::leader::{Leader, View};
use super::sweep::{Stage, every_crash, undisturbed};
use crate::pod;

const GATEWAY: &str = "gateway";

/// An autoscaler of somebody else for the Deployment `old`.
async fn create_autoscaler(stage: &Stage) {
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "old"});
    let spec = json!({"minReplicas": 2, "maxReplicas": 3, "scaleTargetRef": target});
    let autoscaler = json!({"metadata": {"name": "theirs"}, "spec": spec});
    let world = &stage.world;
    world.create::<HorizontalPodAutoscaler>(autoscaler).await;
}

/// So many minutes pass, in each of which the controller looks a few times.
async fn minutes(stage: &mut Stage, count: i64) {
    for _ in 0..count {
        stage.world.now += SignedDuration::from_secs(50);
        stage.seconds(10).await;
    }
}

/// The pods that were not told to stop, without the gateway.
fn names(stage: &Stage) -> Vec<String> {
    let pods = stage.world.pods().into_iter();
    let goes_on = |pod: &Pod| !pod::is_terminal(pod) && pod.metadata.deletion_timestamp.is_none();
    let running = pods.filter(goes_on).map(|pod| pod.name_any());
    running.filter(|name| name != GATEWAY).collect()
}

fn template() -> Value {
    let container = json!({
        "name": "c", "image": "engine", "ports": [{"name": "api", "containerPort": 8000}],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    });
    json!({
        "metadata": {"labels": {"app": "chat"}},
        "spec": {"terminationGracePeriodSeconds": 3, "containers": [container]},
    })
}

fn workload(replicas: i32) -> Value {
    let selector = json!({"matchLabels": {"app": "chat"}});
    json!({"metadata": {"name": "old"}, "spec": {"replicas": replicas, "selector": selector, "template": template()}})
}

fn front(selector: Value) -> Value {
    let ports = json!([{"name": "web", "port": 80, "targetPort": "api"}]);
    json!({"metadata": {"name": "old"}, "spec": {"selector": selector, "ports": ports}})
}

/// The service `chat` of the workload `old`.
fn adopting(kind: &str, min: u32) -> Value {
    json!({
        "metadata": {"name": "chat"},
        "spec": {
            "engine": "vLLM", "minReplicas": min, "maxReplicas": 3,
            "targetRef": {"apiVersion": "apps/v1", "kind": kind, "name": "old"},
            "serviceRef": {"name": "old"},
            "scaling": {
                "signals": [{"type": "Engine", "target": 4}], "idle": {"after": "6s"},
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 3}},
            },
            "drain": {"timeout": "5s"},
        },
    })
}

async fn create_front(stage: &Stage) {
    let selector = json!({"app": "chat", SERVING_LABEL: "true"});
    stage.world.create::<Service>(front(selector)).await;
}

fn deployment(stage: &Stage) -> Deployment {
    let all: Vec<Deployment> = stage.world.server.objects();
    all.into_iter()
        .find(|found| found.name_any() == "old")
        .unwrap()
}

fn replicas(stage: &Stage) -> i32 {
    deployment(stage).spec.replicas.unwrap()
}

fn service(stage: &Stage, name: &str) -> Option<InferenceDeployment> {
    let all: Vec<InferenceDeployment> = stage.world.server.objects();
    all.into_iter().find(|found| found.name_any() == name)
}

/// A condition of a service: its status, its reason and its message.
fn condition(stage: &Stage, name: &str, kind: &str) -> Option<(String, String, String)> {
    let conditions = service(stage, name)?.status?.conditions;
    let found = conditions.into_iter().find(|each| each.type_ == kind)?;
    let Condition {
        status,
        reason,
        message,
        ..
    } = found;
    Some((status, reason, message))
}

fn reason(stage: &Stage, kind: &str) -> Option<String> {
    condition(stage, "chat", kind).map(|(_, reason, _)| reason)
}

/// The Service and the port's name of the slice of gateways, and how many of them it has.
fn gateways(stage: &Stage) -> Option<(String, Option<String>, usize)> {
    let slices: Vec<EndpointSlice> = stage.world.server.objects();
    let slice = slices
        .into_iter()
        .find(|slice| slice.name_any() == "chat-bursar-gateway")?;
    let front = slice.labels()["kubernetes.io/service-name"].clone();
    let ports = slice.ports.unwrap_or_default();
    let port = ports.into_iter().next().and_then(|port| port.name);
    Some((front, port, slice.endpoints.unwrap_or_default().len()))
}

/// From adoption over zero and back until it is given back.
fn life(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        stage.world.admission = false;
        stage.world.set_gateway(GATEWAY, true).await;
        stage.world.create::<Deployment>(workload(1)).await;
        create_front(stage).await;
        stage
            .world
            .create::<InferenceDeployment>(adopting("Deployment", 0))
            .await;
        stage.world.requests = 8;
        stage.seconds(12).await;
        assert_eq!(replicas(stage), 2);
        assert_eq!(
            gateways(stage),
            Some(("old".to_owned(), Some("web".to_owned()), 1))
        );
        stage.world.requests = 0;
        stage.seconds(25).await;
        assert_eq!(replicas(stage), 0, "it is idle");
        stage.world.requests = 2;
        stage.seconds(12).await;
        assert_eq!(replicas(stage), 1, "requests wake it");
        stage.world.delete::<InferenceDeployment>("chat").await;
        stage.seconds(8).await;
        assert_eq!(service(stage, "chat"), None);
        assert_eq!(replicas(stage), 1, "as many as it had");
        let pods = stage.world.pods();
        let labelled = pods
            .iter()
            .filter(|pod| pod.labels().contains_key(WORKLOAD_LABEL));
        assert_eq!(labelled.count(), 0);
        stage.world.requests = 0;
        stage.world.delete::<Deployment>("old").await;
        stage.world.delete_gateway(GATEWAY).await;
    }
    .boxed_local()
}

#[tokio::test]
async fn a_deployment_is_adopted_goes_to_zero_and_back_is_charged_and_given_back() {
    undisturbed(life).await;
}

#[tokio::test]
async fn a_crash_at_any_write_of_an_adoption_changes_nothing_in_the_end() {
    every_crash(life).await;
}

/// A stage with a workload of two replicas of this kind, and a service that adopts it.
async fn adopted(kind: &str, min: u32) -> Stage {
    let stage = Stage::new(Faults::default()).await;
    stage.world.set_gateway(GATEWAY, true).await;
    match kind {
        "StatefulSet" => stage.world.create::<StatefulSet>(workload(2)).await,
        _ => stage.world.create::<Deployment>(workload(2)).await,
    }
    create_front(&stage).await;
    stage
        .world
        .create::<InferenceDeployment>(adopting(kind, min))
        .await;
    stage
}

#[tokio::test]
async fn nothing_of_a_target_and_its_service_changes_but_its_replicas() {
    let mut stage = adopted("Deployment", 0).await;
    let (before, front): (_, Vec<Service>) = (deployment(&stage), stage.world.server.objects());
    stage.world.requests = 12;
    stage.seconds(15).await;
    assert_eq!(replicas(&stage), 3);
    assert_eq!(reason(&stage, "TargetReady").as_deref(), Some("Adopted"));
    stage.world.requests = 0;
    stage.seconds(25).await;
    let after = deployment(&stage);
    assert_eq!(after.spec.replicas, Some(0));
    assert_eq!(after.spec.template, before.spec.template);
    assert_eq!(after.metadata.labels, before.metadata.labels);
    assert_eq!(after.metadata.annotations, before.metadata.annotations);
    assert_eq!(after.metadata.finalizers, before.metadata.finalizers);
    assert_eq!(stage.world.server.objects::<Service>(), front);
    assert_eq!(stage.world.cut, [""; 0], "each was drained");
}

#[tokio::test]
async fn nothing_shrinks_before_its_pods_are_known_and_drained() {
    let mut stage = adopted("Deployment", 0).await;
    let is_known = |pod: &Pod| pod.labels().contains_key(WORKLOAD_LABEL);
    let of_target = |stage: &Stage| -> Vec<Pod> {
        let mut pods = stage.world.pods();
        pods.retain(|pod| pod.name_any().starts_with("old-"));
        pods
    };
    let (mut seconds, mut were_known) = (0, false);
    while replicas(&stage) > 0 {
        stage.seconds(1).await;
        seconds += 1;
        assert!(seconds < 60, "it is idle");
        assert!(were_known || replicas(&stage) == 2, "after {seconds} s");
        let pods = of_target(&stage);
        were_known |= pods.len() == 2 && pods.iter().all(is_known);
    }
    assert!(were_known);
    assert_eq!(stage.world.cut, [""; 0], "each was drained");
}

/// The replicas that drain.
fn draining(stage: &Stage) -> Vec<Pod> {
    let mut pods = stage.world.pods();
    pods.retain(|pod| pod.annotations().contains_key(DRAINING_ANNOTATION));
    pods
}

#[tokio::test]
async fn a_leader_whose_cache_is_behind_brings_no_replica_that_drains_back() {
    let mut stage = adopted("Deployment", 0).await;
    let mut seconds = 0;
    while draining(&stage).is_empty() {
        stage.seconds(1).await;
        seconds += 1;
        assert!(seconds < 60, "it is idle");
    }
    let mut behind = View::of(&stage.world);
    for pod in &mut behind.pods {
        pod.annotations_mut().remove(DRAINING_ANNOTATION);
        for label in [KIND_LABEL, WORKLOAD_LABEL, SERVING_LABEL] {
            pod.labels_mut().remove(label);
        }
    }
    stage.leader = Leader::new(&stage.world, Faults::default());
    for _ in 0..3 {
        stage.leader.reconcile(&stage.world, &behind).await.ok();
    }
    let draining = draining(&stage);
    assert!(!draining.is_empty());
    for pod in draining {
        assert_ne!(pod::label(&pod, SERVING_LABEL), Some("true"));
    }
}

#[tokio::test]
async fn a_stateful_set_loses_its_highest_ordinal_first() {
    let mut stage = adopted("StatefulSet", 1).await;
    stage.world.requests = 8;
    stage.seconds(12).await;
    let names = |stage: &Stage| -> Vec<String> {
        let pods = stage
            .world
            .pods()
            .into_iter()
            .filter(|pod| pod.name_any() != GATEWAY);
        pods.map(|pod| pod.name_any()).collect()
    };
    assert_eq!(names(&stage), ["old-0", "old-1"]);
    stage.world.requests = 1;
    stage.seconds(25).await;
    assert_eq!(names(&stage), ["old-0"]);
    let sets: Vec<StatefulSet> = stage.world.server.objects();
    assert_eq!(sets[0].spec.replicas, Some(1));
    stage.world.delete::<InferenceDeployment>("chat").await;
    stage.seconds(8).await;
    let sets: Vec<StatefulSet> = stage.world.server.objects();
    assert_eq!(sets[0].spec.replicas, Some(2));
}

#[tokio::test]
async fn nothing_is_scaled_while_an_autoscaler_scales_the_target() {
    let mut stage = adopted("Deployment", 0).await;
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "old"});
    let spec = json!({"maxReplicas": 3, "scaleTargetRef": target});
    let autoscaler = json!({"metadata": {"name": "busy"}, "spec": spec});
    stage
        .world
        .create::<HorizontalPodAutoscaler>(autoscaler)
        .await;
    stage.seconds(40).await;
    assert_eq!(replicas(&stage), 2, "it is idle, and not Bursar's to scale");
    let (status, why, message) = condition(&stage, "chat", "TargetReady").unwrap();
    assert_eq!((&*status, &*why), ("False", "ScaledByOther"));
    assert!(
        message.contains("HorizontalPodAutoscaler busy"),
        "{message}"
    );
    assert_eq!(service(&stage, "chat").unwrap().finalizers(), [""; 0]);
    stage.world.delete::<HorizontalPodAutoscaler>("busy").await;
    stage.seconds(60).await;
    assert_eq!(replicas(&stage), 0);
    assert_eq!(reason(&stage, "TargetReady").as_deref(), Some("Adopted"));
}

#[tokio::test]
async fn of_two_services_with_one_target_the_older_scales_it() {
    let mut stage = adopted("Deployment", 1).await;
    stage.seconds(3).await;
    let mut second = adopting("Deployment", 3);
    second["metadata"]["name"] = json!("second");
    stage.world.create::<InferenceDeployment>(second).await;
    stage.seconds(30).await;
    assert_eq!(replicas(&stage), 1);
    let (_, why, message) = condition(&stage, "second", "TargetReady").unwrap();
    assert_eq!(why, "ScaledByOther");
    assert!(message.contains("InferenceDeployment chat"), "{message}");
    stage.world.delete::<InferenceDeployment>("chat").await;
    stage.seconds(90).await;
    assert_eq!(replicas(&stage), 3, "it is the younger one's now");
}

#[tokio::test]
async fn a_replica_that_leaves_gets_its_whole_time_where_the_selector_lacks_the_label() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create::<Deployment>(workload(2)).await;
    stage
        .world
        .create::<Service>(front(json!({"app": "chat"})))
        .await;
    let mut chat = adopting("Deployment", 1);
    chat["spec"]["drain"]["timeout"] = json!("30s");
    stage.world.create::<InferenceDeployment>(chat).await;
    let draining = |stage: &Stage| {
        let mut pods = stage.world.pods().into_iter();
        pods.any(|pod: Pod| crate::pod_mark::draining_since(&pod).is_some())
    };
    let mut seconds = 0;
    while !draining(&stage) {
        stage.seconds(1).await;
        seconds += 1;
        assert!(seconds < 60, "none leaves");
    }
    stage.seconds(25).await;
    assert_eq!(replicas(&stage), 2);
    assert_eq!(
        reason(&stage, "ReplicasDrain").as_deref(),
        Some("SelectorLacksLabel")
    );
    stage.seconds(8).await;
    assert_eq!(replicas(&stage), 1);
}

#[tokio::test]
async fn pods_that_only_say_to_belong_to_a_target_are_not_its_replicas() {
    let mut stage = adopted("Deployment", 1).await;
    let spec = json!({"nodeName": "node", "containers": [{"name": "c", "image": "i"}]});
    let metadata = json!({"name": "theirs", "labels": {"app": "chat"}});
    stage
        .world
        .create::<Pod>(json!({"metadata": metadata, "spec": spec}))
        .await;
    stage.seconds(15).await;
    for pod in stage.world.pods() {
        let is_replica = pod::label(&pod, WORKLOAD_LABEL).is_some();
        assert_eq!(
            is_replica,
            pod.name_any().starts_with("old-"),
            "{}",
            pod.name_any()
        );
    }
}

#[tokio::test]
async fn a_target_that_cannot_be_scaled_is_named_with_what_helps() {
    for (target, expected, helps) in [
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "gone"}),
            "NotFound",
            "create it",
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "old"}),
            "KindNotSupported",
            "no scale subresource",
        ),
        (
            json!({"apiVersion": "example.com/v1", "kind": "Model", "name": "old"}),
            "KindNotSupported",
            "install its definition",
        ),
        (
            json!({"apiVersion": "jobset.x-k8s.io/v1", "kind": "JobSet", "name": "old"}),
            "KindNotSupported",
            "several workloads",
        ),
    ] {
        let mut stage = Stage::new(Faults::default()).await;
        let mut chat = adopting("Deployment", 1);
        chat["spec"]["targetRef"] = target.clone();
        stage
            .world
            .create::<ConfigMap>(json!({"metadata": {"name": "old"}}))
            .await;
        stage.world.create::<InferenceDeployment>(chat).await;
        stage.seconds(5).await;
        let (status, why, message) = condition(&stage, "chat", "TargetReady").unwrap();
        assert_eq!((&*status, &*why), ("False", expected), "{target}");
        assert!(message.contains(helps), "{message}");
        stage.world.delete::<InferenceDeployment>("chat").await;
        assert_eq!(service(&stage, "chat"), None, "nothing holds it");
    }
}

#[tokio::test]
async fn a_deployment_of_bursar_is_nobodys_target() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(1).await;
    let mut second = adopting("Deployment", 3);
    second["metadata"]["name"] = json!("second");
    second["spec"]["targetRef"]["name"] = json!("chat");
    stage.seconds(3).await;
    stage.world.create::<InferenceDeployment>(second).await;
    stage.seconds(20).await;
    let (_, why, _) = condition(&stage, "second", "TargetReady").unwrap();
    assert_eq!(why, "OwnedByOther");
    let all: Vec<Deployment> = stage.world.server.objects();
    assert_eq!(all[0].spec.replicas, Some(1));
}

#[tokio::test]
async fn a_deleted_service_whose_target_is_gone_goes_at_once() {
    let mut stage = adopted("Deployment", 1).await;
    stage.seconds(5).await;
    assert_eq!(replicas(&stage), 2);
    let found = service(&stage, "chat").unwrap();
    assert_eq!(found.finalizers(), [TARGET_FINALIZER]);
    assert_eq!(
        found.status.unwrap().target.unwrap().replicas_before,
        Some(2)
    );
    stage.world.delete::<Deployment>("old").await;
    stage.world.delete::<InferenceDeployment>("chat").await;
    stage.seconds(2).await;
    assert_eq!(service(&stage, "chat"), None);
}

#[tokio::test]
async fn without_a_service_it_keeps_a_replica_and_says_that_requests_wake_nothing() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create::<Deployment>(workload(2)).await;
    let mut chat = adopting("Deployment", 0);
    chat["spec"].as_object_mut().unwrap().remove("serviceRef");
    stage.world.create::<InferenceDeployment>(chat).await;
    stage.seconds(40).await;
    assert_eq!(replicas(&stage), 1);
    assert_eq!(reason(&stage, "RequestsWake").as_deref(), Some("NoService"));
    assert_eq!(gateways(&stage), None);
}

#[tokio::test]
async fn replicas_that_somebody_else_sets_are_decided_anew() {
    let mut stage = adopted("Deployment", 1).await;
    stage.world.requests = 4;
    stage.seconds(15).await;
    assert_eq!(replicas(&stage), 1);
    let patch = Patch::Merge(json!({"spec": {"replicas": 3}}));
    let api = stage.world.api::<Deployment>();
    api.patch("old", &PatchParams::default(), &patch)
        .await
        .unwrap();
    stage.seconds(40).await;
    assert_eq!(replicas(&stage), 1);
}

#[tokio::test]
async fn a_budget_stops_a_target_though_an_autoscaler_scales_it() {
    let mut stage = adopted("Deployment", 1).await;
    stage.world.requests = 8;
    stage.seconds(12).await;
    create_autoscaler(&stage).await;
    stage.seconds(30).await;
    assert_eq!(
        reason(&stage, "TargetReady").as_deref(),
        Some("ScaledByOther")
    );
    assert_eq!(replicas(&stage), 2);
    let why = service(&stage, "chat").unwrap().status.unwrap().reason;
    assert!(why.contains("HorizontalPodAutoscaler theirs"), "{why}");
    stage.world.set_limit("0.01").await;
    stage.seconds(30).await;
    assert_eq!(replicas(&stage), 0, "money does not wait");
}

#[tokio::test]
async fn pods_with_forged_owners_are_not_replicas() {
    let mut stage = adopted("Deployment", 1).await;
    stage.seconds(3).await;
    let uid = deployment(&stage).uid().unwrap();
    let sets: Vec<ReplicaSet> = stage.world.server.objects();
    let spec = json!({"nodeName": "node", "containers": [{"name": "c", "image": "i"}]});
    for (name, kind, uid, app) in [
        ("direct", "Deployment", uid, "chat"),
        ("others", "ReplicaSet", sets[0].uid().unwrap(), "other"),
    ] {
        let owner = json!({"apiVersion": "apps/v1", "kind": kind, "name": sets[0].name_any(), "uid": uid, "controller": true});
        let metadata = json!({"name": name, "labels": {"app": app}, "ownerReferences": [owner]});
        let pod = json!({"metadata": metadata, "spec": spec});
        stage.world.create::<Pod>(pod).await;
    }
    stage.seconds(12).await;
    for pod in stage.world.pods() {
        let is_replica = pod::label(&pod, WORKLOAD_LABEL).is_some();
        let is_own = pod.name_any().starts_with("old-");
        assert_eq!(is_replica, is_own, "{}", pod.name_any());
    }
}

#[tokio::test]
async fn gateways_leave_a_service_that_is_not_named_any_more() {
    let mut stage = adopted("Deployment", 1).await;
    stage.seconds(5).await;
    assert_eq!(gateways(&stage).unwrap().2, 1);
    let patch = Patch::Merge(json!({"spec": {"serviceRef": null}}));
    let api = stage.world.api::<InferenceDeployment>();
    let params = PatchParams::default();
    api.patch("chat", &params, &patch).await.unwrap();
    stage.seconds(5).await;
    assert_eq!(gateways(&stage).unwrap().2, 0);
}

#[tokio::test]
async fn gateways_join_no_service_of_other_pods_and_none_that_has_some() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.set_gateway(GATEWAY, true).await;
    stage.world.create::<Deployment>(workload(1)).await;
    let others = front(json!({"app": "payments"}));
    stage.world.create::<Service>(others).await;
    let first = adopting("Deployment", 1);
    stage.world.create::<InferenceDeployment>(first).await;
    stage.seconds(5).await;
    assert_eq!(gateways(&stage), None);
    let wakes = || reason(&stage, "RequestsWake");
    assert_eq!(wakes().as_deref(), Some("ServiceWithoutPods"));
    // a second service of another target, and the same Service
    let mut stage = adopted("Deployment", 1).await;
    let mut other = workload(1);
    other["metadata"]["name"] = json!("other");
    stage.world.create::<StatefulSet>(other).await;
    let mut second = adopting("StatefulSet", 1);
    second["metadata"]["name"] = json!("second");
    second["spec"]["targetRef"]["name"] = json!("other");
    stage.seconds(3).await;
    stage.world.create::<InferenceDeployment>(second).await;
    stage.seconds(6).await;
    let (_, why, _) = condition(&stage, "second", "RequestsWake").unwrap();
    assert_eq!(why, "ServiceInUse");
}

#[tokio::test]
async fn a_budget_stops_a_target_whose_pods_cannot_be_labelled() {
    let mut stage = adopted("Deployment", 1).await;
    let contended = Some(WriteFault::Contended);
    stage.leader.faults.set_write_fault("pods", contended);
    stage.world.requests = 8;
    stage.seconds(5).await;
    assert_eq!(reason(&stage, "TargetReady").as_deref(), Some("Adopting"));
    stage.world.set_limit("0.001").await;
    stage.seconds(30).await;
    assert_eq!(replicas(&stage), 0, "money waits ten seconds for labels");
}

#[tokio::test]
async fn a_pod_that_cannot_be_labelled_holds_its_target_up_for_seconds_and_is_named() {
    let mut stage = adopted("Deployment", 0).await;
    stage.is_refused = true;
    stage.world.requests = 8;
    stage.world.turn().await;
    let stuck = names(&stage).into_iter().max().unwrap();
    let object = format!("pods/{stuck}");
    let refused = Some(WriteFault::Refused);
    stage.leader.faults.set_write_fault(&object, refused);
    stage.seconds(5).await;
    stage.seconds(25).await;
    let (status, why, message) = condition(&stage, "chat", "TargetReady").unwrap();
    assert_eq!((&*status, &*why), ("True", "Adopted"), "{message}");
    assert!(message.contains(&stuck), "{message}");
    assert!(message.contains("refused"), "{message}");
    stage.world.requests = 0;
    stage.seconds(40).await;
    assert_eq!(replicas(&stage), 0, "it is scaled without that one");
}

#[tokio::test]
async fn pods_that_wait_for_the_finalizer_are_not_given_up() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.requests = 8;
    stage.world.create::<Deployment>(workload(2)).await;
    create_front(&stage).await;
    stage.seconds(10).await;
    let contended = Some(WriteFault::Contended);
    let faults = &stage.leader.faults;
    faults.set_write_fault("inferencedeployments", contended);
    let mut chat = adopting("Deployment", 1);
    chat["spec"]["maxReplicas"] = json!(1);
    stage.world.create::<InferenceDeployment>(chat).await;
    stage.seconds(30).await;
    let faults = &stage.leader.faults;
    faults.set_write_fault("inferencedeployments", None);
    for _ in 0..90 {
        let pods = stage.world.pods();
        let is_labelled = |pod: &Pod| pod.labels().contains_key(WORKLOAD_LABEL);
        let (before, are_known) = (replicas(&stage), pods.iter().all(is_labelled));
        stage.seconds(1).await;
        if replicas(&stage) < before {
            assert!(are_known, "what nobody knows goes without a drain");
        }
    }
    assert_eq!(replicas(&stage), 1);
    assert_eq!(stage.world.cut, [""; 0], "it was drained");
}

/// Sets the owners of some pods; none for `null`, as whoever deletes what made them with `--cascade=orphan`.
async fn set_owners(stage: &Stage, pods: &[String], owners: Value) {
    let api = stage.world.api::<Pod>();
    let patch = Patch::Merge(json!({"metadata": {"ownerReferences": owners}}));
    for name in pods {
        let params = PatchParams::default();
        api.patch(name, &params, &patch).await.unwrap();
    }
}

/// A budget that evicts pods of no workload, with no money.
async fn exhaust(stage: &Stage) {
    let spec = json!({"limit": "0.001", "period": "Monthly", "unmanaged": "Evict"});
    let budget = json!({"metadata": {"name": "team"}, "spec": spec});
    stage.world.create::<BudgetPolicy>(budget).await;
}

#[tokio::test]
async fn pods_that_were_taken_away_from_their_target_are_named_and_evicted_without_money() {
    let mut stage = adopted("Deployment", 2).await;
    stage.world.requests = 8;
    stage.seconds(12).await;
    let orphans = names(&stage);
    assert_eq!(orphans.len(), 2);
    set_owners(&stage, &orphans, Value::Null).await;
    stage.seconds(40).await;
    assert_eq!(reason(&stage, "TargetReady").as_deref(), Some("Adopted"));
    stage.seconds(30).await;
    let (status, why, message) = condition(&stage, "chat", "TargetReady").unwrap();
    assert_eq!((&*status, &*why), ("False", "PodsRemain"), "{message}");
    assert!(message.contains("2 pods"), "{message}");
    exhaust(&stage).await;
    stage.seconds(30).await;
    assert_eq!(replicas(&stage), 0);
    let is_left = |stage: &Stage| names(stage).iter().any(|name| orphans.contains(name));
    assert!(is_left(&stage), "nobody scales them");
    minutes(&mut stage, EVICTION_NOTICE.as_mins() + 1).await;
    assert!(!is_left(&stage), "nothing else stops them");
}

#[tokio::test]
async fn pods_that_a_target_which_is_made_anew_takes_back_are_its_own() {
    let mut stage = adopted("StatefulSet", 1).await;
    stage.world.requests = 8;
    stage.seconds(12).await;
    let kept = names(&stage);
    assert_eq!(kept, ["old-0", "old-1"]);
    set_owners(&stage, &kept, Value::Null).await;
    stage.world.delete::<StatefulSet>("old").await;
    stage.seconds(3).await;
    stage.world.create::<StatefulSet>(workload(2)).await;
    let sets: Vec<StatefulSet> = stage.world.server.objects();
    let owner = sets[0].controller_owner_ref(&()).unwrap();
    set_owners(&stage, &kept, json!([owner])).await;
    minutes(&mut stage, 7).await;
    assert_eq!(reason(&stage, "TargetReady").as_deref(), Some("Adopted"));
    stage.world.requests = 1;
    stage.seconds(40).await;
    assert_eq!(names(&stage), ["old-0"]);
    assert_eq!(stage.world.cut, [""; 0]);
}

/// Takes the finalizers of the service off, as whoever may edit it can.
async fn remove_finalizers(stage: &Stage) {
    let api = stage.world.api::<InferenceDeployment>();
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let params = PatchParams::default();
    api.patch("chat", &params, &patch).await.unwrap();
}

#[tokio::test]
async fn pods_of_a_service_that_is_gone_are_evicted_without_money() {
    let mut stage = adopted("Deployment", 2).await;
    stage.world.requests = 8;
    stage.seconds(12).await;
    remove_finalizers(&stage).await;
    stage.world.delete::<InferenceDeployment>("chat").await;
    stage.seconds(1).await;
    assert_eq!(service(&stage, "chat"), None);
    exhaust(&stage).await;
    let before = names(&stage);
    minutes(&mut stage, EVICTION_NOTICE.as_mins() + 2).await;
    let is_left = names(&stage).iter().any(|name| before.contains(name));
    assert!(!is_left, "they have the labels of nobody");
}

#[tokio::test]
async fn a_service_that_is_made_anew_has_its_pods_back() {
    let mut stage = adopted("Deployment", 2).await;
    stage.world.requests = 8;
    stage.seconds(12).await;
    remove_finalizers(&stage).await;
    stage.world.delete::<InferenceDeployment>("chat").await;
    stage.seconds(90).await;
    let is_released = |stage: &Stage| {
        let pods = stage.world.pods();
        let pod = pods.iter().find(|pod| pod.name_any() != GATEWAY).unwrap();
        crate::evictions::is_out_of_control(&stage.leader.context, pod)
    };
    assert!(is_released(&stage));
    let chat = adopting("Deployment", 1);
    stage.world.create::<InferenceDeployment>(chat).await;
    stage.seconds(5).await;
    assert!(!is_released(&stage));
    stage.world.requests = 1;
    stage.seconds(40).await;
    assert_eq!(replicas(&stage), 1);
    assert_eq!(stage.world.cut, [""; 0]);
}

#[tokio::test]
async fn a_budget_stops_a_target_of_others_whose_finalizer_somebody_took_off() {
    let mut stage = adopted("Deployment", 1).await;
    stage.world.requests = 8;
    stage.seconds(12).await;
    create_autoscaler(&stage).await;
    stage.seconds(30).await;
    remove_finalizers(&stage).await;
    stage.seconds(1).await;
    stage.world.set_limit("0.01").await;
    stage.seconds(30).await;
    assert_eq!(replicas(&stage), 0);
}

#[tokio::test]
async fn a_pod_that_cannot_be_given_back_keeps_none_of_the_others() {
    let mut stage = adopted("Deployment", 2).await;
    stage.is_refused = true;
    stage.seconds(12).await;
    let first = names(&stage).into_iter().min().unwrap();
    let refused = Some(WriteFault::Refused);
    let object = format!("pods/{first}");
    stage.leader.faults.set_write_fault(&object, refused);
    stage.world.delete::<InferenceDeployment>("chat").await;
    stage.seconds(5).await;
    for pod in stage.world.pods() {
        let is_labelled = pod::label(&pod, WORKLOAD_LABEL).is_some();
        assert_eq!(is_labelled, pod.name_any() == first, "{}", pod.name_any());
    }
}
