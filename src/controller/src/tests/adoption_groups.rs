//! LeaderWorkerSets are scaled by `targetRef`: a group of pods is one replica, with the money of all of them.

use bursar_api::InferenceDeployment;
use bursar_api::names::{KIND_LABEL, LEADER_ANNOTATION, SERVING_LABEL, WORKLOAD_LABEL};
use bursar_apitest::faults::Faults;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::sweep::{Stage, every_crash, undisturbed};
use super::world::LeaderWorkerSet;
use crate::pod;

const GATEWAY: &str = "gateway";

fn template(gpus: Option<&str>) -> Value {
    let limits = gpus.map(|gpus| json!({"nvidia.com/gpu": gpus}));
    let container = json!({
        "name": "c", "image": "engine", "ports": [{"name": "api", "containerPort": 8000}],
        "resources": {"limits": limits},
    });
    json!({
        "metadata": {"labels": {"app": "chat"}},
        "spec": {"terminationGracePeriodSeconds": 3, "containers": [container]},
    })
}

/// A LeaderWorkerSet of so many groups of so many pods.
fn groups(replicas: i32, size: i32) -> Value {
    let group = json!({"size": size, "workerTemplate": template(Some("1"))});
    let spec = json!({"replicas": replicas, "leaderWorkerTemplate": group});
    json!({"metadata": {"name": "old"}, "spec": spec})
}

fn adopting(min: u32) -> Value {
    json!({
        "metadata": {"name": "chat"},
        "spec": {
            "engine": "vLLM", "minReplicas": min, "maxReplicas": 3,
            "targetRef": {
                "apiVersion": "leaderworkerset.x-k8s.io/v1", "kind": "LeaderWorkerSet", "name": "old",
            },
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
    let selector = json!({
        "leaderworkerset.sigs.k8s.io/name": "old", "leaderworkerset.sigs.k8s.io/worker-index": "0",
        SERVING_LABEL: "true",
    });
    let ports = json!([{"name": "web", "port": 80, "targetPort": "api"}]);
    let front =
        json!({"metadata": {"name": "old"}, "spec": {"selector": selector, "ports": ports}});
    stage.world.create::<Service>(front).await;
}

fn replicas(stage: &Stage) -> i64 {
    let all: Vec<LeaderWorkerSet> = stage.world.server.objects();
    all[0].spec["replicas"].as_i64().unwrap()
}

fn service(stage: &Stage) -> Option<InferenceDeployment> {
    let all: Vec<InferenceDeployment> = stage.world.server.objects();
    all.into_iter().next()
}

/// The pods of groups that were not told to stop, by name.
fn pods(stage: &Stage) -> Vec<Pod> {
    let mut pods = stage.world.pods();
    pods.retain(|pod| {
        pod.name_any() != GATEWAY
            && !pod::is_terminal(pod)
            && pod.metadata.deletion_timestamp.is_none()
    });
    pods.sort_by_key(ResourceExt::name_any);
    pods
}

fn names(stage: &Stage) -> Vec<String> {
    pods(stage).iter().map(ResourceExt::name_any).collect()
}

/// A stage with two groups of two pods, and a service that adopts them.
async fn adopted(min: u32) -> Stage {
    let stage = Stage::new(Faults::default()).await;
    stage.world.set_gateway(GATEWAY, true).await;
    stage.world.create::<LeaderWorkerSet>(groups(2, 2)).await;
    create_front(&stage).await;
    stage
        .world
        .create::<InferenceDeployment>(adopting(min))
        .await;
    stage
}

/// From adoption over zero and back until it is given back.
fn life(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        stage.world.admission = false;
        stage.world.set_gateway(GATEWAY, true).await;
        stage.world.create::<LeaderWorkerSet>(groups(1, 2)).await;
        create_front(stage).await;
        stage.world.create::<InferenceDeployment>(adopting(0)).await;
        stage.world.requests = 8;
        stage.seconds(14).await;
        assert_eq!(replicas(stage), 2);
        assert_eq!(names(stage), ["old-0", "old-0-1", "old-1", "old-1-1"]);
        stage.world.requests = 0;
        stage.seconds(25).await;
        assert_eq!((replicas(stage), pods(stage).len()), (0, 0), "it is idle");
        stage.world.requests = 2;
        stage.seconds(12).await;
        assert_eq!(names(stage), ["old-0", "old-0-1"], "requests wake it");
        stage.world.delete::<InferenceDeployment>("chat").await;
        stage.seconds(8).await;
        assert_eq!(service(stage), None);
        assert_eq!(replicas(stage), 1, "as many as it had");
        for pod in pods(stage) {
            let marks = [KIND_LABEL, WORKLOAD_LABEL].map(|key| pod::label(&pod, key).is_some());
            let leader = pod::annotation(&pod, LEADER_ANNOTATION);
            assert_eq!((marks, leader), ([false; 2], None), "{}", pod.name_any());
            let is_leader = pod.name_any() == "old-0";
            // the Service selects by it, and has the leader alone
            let serves = pod::label(&pod, SERVING_LABEL).is_some();
            assert_eq!(serves, is_leader, "{}", pod.name_any());
        }
        stage.world.requests = 0;
        stage.world.delete::<LeaderWorkerSet>("old").await;
        stage.world.delete_gateway(GATEWAY).await;
    }
    .boxed_local()
}

#[tokio::test]
async fn groups_are_adopted_go_to_zero_and_back_are_charged_by_the_pod_and_given_back() {
    undisturbed(life).await;
}

#[tokio::test]
async fn a_crash_at_any_write_of_an_adoption_of_groups_changes_nothing_in_the_end() {
    every_crash(life).await;
}

#[tokio::test]
async fn a_group_is_one_replica_and_only_its_leader_gets_requests() {
    let mut stage = adopted(1).await;
    stage.world.requests = 8;
    stage.seconds(12).await;
    let status = service(&stage).unwrap().status.unwrap();
    assert_eq!((status.replicas, status.ready_replicas), (2, 2));
    let explained = stage.leader.explain("team", stage.world.now);
    let chat = explained.service("chat").unwrap();
    assert_eq!((chat.current, chat.pods_per_replica), (Some(2), Some(2)));
    let leader = |name: &str| {
        let pods = pods(&stage);
        let leader = pods.into_iter().find(|pod| pod.name_any() == name);
        leader.and_then(|pod| pod.uid())
    };
    for pod in pods(&stage) {
        let name = pod.name_any();
        let of = name.strip_suffix("-1").filter(|name| *name != "old");
        assert_eq!(pod::label(&pod, WORKLOAD_LABEL), Some("chat"), "{name}");
        assert_eq!(
            pod::label(&pod, SERVING_LABEL).is_some(),
            of.is_none(),
            "{name}"
        );
        let expected = of.and_then(leader);
        assert_eq!(pod::leader(&pod), expected.as_deref(), "{name}");
    }
    // the group of the highest index leaves, drained
    stage.world.requests = 1;
    stage.seconds(25).await;
    assert_eq!(names(&stage), ["old-0", "old-0-1"]);
    assert_eq!(stage.world.cut, [""; 0]);
}

#[tokio::test]
async fn the_eviction_of_one_pod_is_the_loss_of_its_replica() {
    let mut stage = adopted(2).await;
    stage.world.requests = 8;
    stage.seconds(12).await;
    let ready = |stage: &Stage| service(stage).unwrap().status.unwrap().ready_replicas;
    assert_eq!(ready(&stage), 2);
    let worker = pods(&stage).remove(1);
    stage.world.evict(&worker).await;
    stage.seconds(1).await;
    assert_eq!(
        ready(&stage),
        1,
        "the eviction of one pod is the loss of its replica"
    );
    stage.seconds(15).await;
    assert_eq!(
        (ready(&stage), replicas(&stage)),
        (2, 2),
        "it was made anew"
    );
    assert_eq!(names(&stage), ["old-0", "old-0-1", "old-1", "old-1-1"]);
}

#[tokio::test]
async fn a_group_is_ready_once_all_its_pods_are() {
    let mut stage = Stage::new(Faults::default()).await;
    let mut set = groups(1, 2);
    let group = &mut set["spec"]["leaderWorkerTemplate"];
    group["leaderTemplate"] = template(Some("1"));
    group["workerTemplate"]["spec"]["volumes"] =
        json!([{"name": "v", "configMap": {"name": "late"}}]);
    stage.world.create::<LeaderWorkerSet>(set).await;
    create_front(&stage).await;
    stage.world.create::<InferenceDeployment>(adopting(1)).await;
    stage.seconds(12).await;
    let of_status = |stage: &Stage| {
        let status = service(stage).unwrap().status.unwrap();
        (status.replicas, status.ready_replicas)
    };
    let is_ready = |stage: &Stage| pods(stage).iter().map(pod::is_ready).collect::<Vec<_>>();
    assert_eq!(is_ready(&stage), [true, false], "the leader alone");
    assert_eq!(of_status(&stage), (1, 0));
    let late = json!({"metadata": {"name": "late"}});
    stage.world.create::<ConfigMap>(late).await;
    stage.seconds(3).await;
    assert_eq!(is_ready(&stage), [true, true]);
    assert_eq!(of_status(&stage), (1, 1));
}

#[tokio::test]
async fn a_budget_has_money_for_whole_groups_alone() {
    let mut stage = Stage::new(Faults::default()).await;
    // 3.60 an hour for each pod: enough for one group with its stop, and not for a second one
    stage.world.set_limit("0.08").await;
    stage.world.set_gateway(GATEWAY, true).await;
    stage.world.create::<LeaderWorkerSet>(groups(0, 2)).await;
    create_front(&stage).await;
    stage.world.create::<InferenceDeployment>(adopting(0)).await;
    stage.world.requests = 12;
    stage.seconds(12).await;
    assert_eq!(replicas(&stage), 1);
    let status = service(&stage).unwrap().status.unwrap();
    assert_eq!((status.desired_replicas, status.allowed_replicas), (3, 1));
}

#[tokio::test]
async fn workers_by_labels_alone_and_with_forged_owners_are_of_no_group() {
    let mut stage = adopted(2).await;
    stage.world.requests = 8;
    stage.seconds(12).await;
    let leader = pods(&stage).remove(0);
    let sets: Vec<StatefulSet> = stage.world.server.objects();
    let workers = sets.iter().find(|set| set.name_any() == "old-0").unwrap();
    let owner = |kind: &str, name: &str, uid: &str| {
        let version = if kind == "Pod" { "v1" } else { "apps/v1" };
        json!([{"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": true}])
    };
    let uid = workers.uid().unwrap();
    let mut of_group = template(Some("1"));
    of_group["metadata"]["labels"] = json!({"leaderworkerset.sigs.k8s.io/name": "old"});
    let more = json!({
        "metadata": {"name": "more", "ownerReferences": owner("Pod", "old-0", &leader.uid().unwrap())},
        "spec": {"replicas": 1, "selector": {}, "template": of_group, "ordinals": {"start": 1}},
    });
    stage.world.create::<StatefulSet>(more).await;
    stage.seconds(12).await;
    let more = pods(&stage)
        .into_iter()
        .find(|pod| pod.name_any() == "more-1");
    let label = more.as_ref().map(|pod| pod::label(pod, WORKLOAD_LABEL));
    assert_eq!(
        label,
        Some(None),
        "of its leader, and not of the set of its workers"
    );
    for (name, owners) in [
        ("labels", json!([])),
        ("of-leader", owner("Pod", "old-0", &leader.uid().unwrap())),
        ("of-other-set", owner("StatefulSet", "gone", "of-nobody")),
        ("of-other-uid", owner("StatefulSet", "old-0", "of-nobody")),
        ("of-set-by-wrong-kind", owner("ReplicaSet", "old-0", &uid)),
    ] {
        let labels = json!({
            "leaderworkerset.sigs.k8s.io/name": "old", "leaderworkerset.sigs.k8s.io/worker-index": "1",
        });
        let metadata = json!({"name": name, "labels": labels, "ownerReferences": owners});
        let spec = json!({"nodeName": "node", "containers": [{"name": "c", "image": "i"}]});
        let pod = json!({"metadata": metadata, "spec": spec});
        stage.world.create::<Pod>(pod).await;
    }
    stage.seconds(12).await;
    for pod in pods(&stage) {
        let is_own = pod.name_any().starts_with("old-");
        let is_replica = pod::label(&pod, WORKLOAD_LABEL).is_some();
        assert_eq!(is_replica, is_own, "{}", pod.name_any());
    }
}

#[tokio::test]
async fn what_a_leader_worker_set_makes_is_no_target() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create::<LeaderWorkerSet>(groups(1, 2)).await;
    stage.seconds(2).await;
    let mut chat = adopting(1);
    chat["spec"]["targetRef"] =
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "old"});
    stage.world.create::<InferenceDeployment>(chat).await;
    stage.seconds(5).await;
    let conditions = service(&stage).unwrap().status.unwrap().conditions;
    let ready = conditions
        .iter()
        .find(|each| each.type_ == "TargetReady")
        .unwrap();
    assert_eq!(ready.reason, "OwnedByOther");
    assert!(
        ready.message.contains("LeaderWorkerSet old"),
        "{}",
        ready.message
    );
}

#[tokio::test]
async fn a_group_that_is_too_large_is_refused() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create::<LeaderWorkerSet>(groups(0, 1001)).await;
    stage.world.create::<InferenceDeployment>(adopting(0)).await;
    stage.seconds(5).await;
    let conditions = service(&stage).unwrap().status.unwrap().conditions;
    let ready = conditions
        .iter()
        .find(|each| each.type_ == "TargetReady")
        .unwrap();
    assert_eq!(ready.reason, "KindNotSupported");
    assert!(ready.message.contains("lower"), "{}", ready.message);
}

#[tokio::test]
async fn a_new_size_counts_at_the_next_read() {
    let mut stage = adopted(1).await;
    stage.world.requests = 1;
    stage.seconds(12).await;
    let patch = json!({"spec": {"leaderWorkerTemplate": {"size": 3}}});
    let api = stage.world.api::<LeaderWorkerSet>();
    let params = PatchParams::default();
    api.patch("old", &params, &Patch::Merge(patch))
        .await
        .unwrap();
    stage.seconds(20).await;
    let status = service(&stage).unwrap().status.unwrap();
    assert_eq!((status.replicas, status.ready_replicas), (1, 1));
    assert_eq!(names(&stage), ["old-0", "old-0-1", "old-0-2"]);
}

#[tokio::test]
async fn workers_whose_leader_is_gone_are_of_no_workload_to_budgets() {
    let mut stage = adopted(2).await;
    stage.world.requests = 8;
    stage.seconds(12).await;
    let api = stage.world.api::<StatefulSet>();
    let patch = Patch::Merge(json!({"metadata": {"ownerReferences": null}}));
    let params = PatchParams::default();
    api.patch("old-0", &params, &patch).await.unwrap();
    stage.world.delete::<LeaderWorkerSet>("old").await;
    stage.seconds(20).await;
    assert_eq!(names(&stage), ["old-0-1"]);
    let is_out_of_control = |stage: &Stage| {
        let pods = pods(stage);
        crate::evictions::is_out_of_control(&stage.leader.context, &pods[0])
    };
    assert!(!is_out_of_control(&stage), "its leader may be made anew");
    stage.seconds(60).await;
    assert!(is_out_of_control(&stage));
}
