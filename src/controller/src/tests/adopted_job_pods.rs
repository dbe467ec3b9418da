//! Pods of adopted jobs that go on though the job is suspended.

use bursar_api::names::WORKLOAD_LABEL;
use bursar_api::{BudgetPolicy, TrainingJob};
use bursar_apitest::faults::Faults;
use bursar_core::budget::EVICTION_NOTICE;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::adopted_job_kinds::{JobSet, create_dynamic, owner, serve};
use super::adopted_jobs::{adopting, batch_job, condition, target_ready};
use super::sweep::Stage;
use super::watched_cluster::patch;

/// The JobSet `old` that a TrainingJob has adopted.
async fn adopted_job_set(stage: &mut Stage, grace_seconds: u32) -> DynamicObject {
    let job_sets = serve::<JobSet>(stage);
    let mut spec = batch_job(false)["spec"].take();
    spec["template"]["spec"]["terminationGracePeriodSeconds"] = json!(grace_seconds);
    let replicated = json!({"name": "node", "replicas": 1, "template": {"spec": spec}});
    let job_set = json!({
        "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": {"name": "old"},
        "spec": {"suspend": true, "replicatedJobs": [replicated]},
    });
    let job_set = create_dynamic(&job_sets, job_set).await;
    let mut job = adopting();
    job["spec"]["targetRef"] =
        json!({"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "name": "old"});
    stage.world.create::<TrainingJob>(job).await;
    job_set
}

/// A pod with a GPU that runs and says that this owns it. The owner's controller never looks at it.
async fn create_pod_of(stage: &Stage, name: &str, owner: Value) {
    let limits = json!({"limits": {"nvidia.com/gpu": "1"}});
    let container = json!({"name": "c", "image": "i", "resources": limits});
    let pod = json!({
        "metadata": {"name": name, "ownerReferences": [owner]},
        "spec": {"nodeName": "node", "containers": [container]},
    });
    stage.world.create::<Pod>(pod).await;
    let running = json!({"status": {"phase": "Running"}});
    patch::<Pod>(&stage.world, name, running).await;
}

fn pod(stage: &Stage, name: &str) -> Option<Pod> {
    let mut pods = stage.world.pods().into_iter();
    pods.find(|pod| pod.name_any() == name)
}

/// A budget that evicts pods of no workload, with no money.
async fn exhausted(stage: &Stage) {
    let spec = json!({"limit": "0.001", "period": "Monthly", "unmanaged": "Evict"});
    let budget = json!({"metadata": {"name": "team"}, "spec": spec});
    stage.world.create::<BudgetPolicy>(budget).await;
}

/// So many minutes pass, in each of which the controller looks a few times.
async fn minutes(stage: &mut Stage, count: i64) {
    for _ in 0..count {
        stage.world.now += SignedDuration::from_secs(50);
        stage.seconds(10).await;
    }
}

#[tokio::test]
async fn a_pod_that_goes_on_though_its_job_is_suspended_is_said_and_evicted_without_money() {
    let mut stage = Stage::new(Faults::default()).await;
    let job_set = adopted_job_set(&mut stage, 3).await;
    exhausted(&stage).await;
    stage.seconds(3).await;
    create_pod_of(&stage, "theirs", owner(&job_set)).await;
    stage.seconds(20).await;
    let found = pod(&stage, "theirs").unwrap();
    assert_eq!(found.labels()[WORKLOAD_LABEL], "train");
    let (status, _, message) = condition(&stage, "train", "TargetReady").unwrap();
    assert_eq!(status, "True");
    assert!(message.contains("1 of its pods"), "{message}");
    minutes(&mut stage, 6).await;
    let (status, why, message) = condition(&stage, "train", "TargetReady").unwrap();
    assert_eq!((&*status, &*why), ("False", "PodsRemain"), "{message}");
    assert!(message.contains("has 1 pods all the same"), "{message}");
    assert!(message.contains("unmanaged: Evict"), "{message}");
    minutes(&mut stage, EVICTION_NOTICE.as_mins() + 1).await;
    let found = pod(&stage, "theirs");
    let is_told = found.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
    assert!(is_told, "nothing else stops it");
}

#[tokio::test]
async fn pods_of_a_job_that_waited_long_are_its_own_as_soon_as_it_is_let_run() {
    let mut stage = Stage::new(Faults::default()).await;
    let job_set = adopted_job_set(&mut stage, 3).await;
    stage.world.set_limit("0.001").await;
    minutes(&mut stage, 10).await;
    assert_eq!(target_ready(&stage).1, "Adopted", "it has no pods");
    stage.world.set_limit("9").await;
    for second in 0..20 {
        stage.seconds(1).await;
        if second == 3 {
            create_pod_of(&stage, "worker", owner(&job_set)).await;
        }
        assert_eq!(target_ready(&stage).1, "Adopted", "second {second}");
    }
    let found = pod(&stage, "worker").unwrap();
    assert_eq!(found.labels()[WORKLOAD_LABEL], "train");
    let key = bursar_core::model::Key::new("team", "train");
    let targets = &stage.leader.context.job_targets;
    assert!(!targets.is_out_of_control(&key));
}

#[tokio::test]
async fn whoever_lets_a_job_run_now_and_then_gives_its_pods_no_more_time() {
    let mut stage = Stage::new(Faults::default()).await;
    let job_set = adopted_job_set(&mut stage, 1500).await;
    exhausted(&stage).await;
    stage.seconds(3).await;
    create_pod_of(&stage, "theirs", owner(&job_set)).await;
    let job_sets = serve::<JobSet>(&stage);
    for round in 0..4 {
        let resumed = Patch::Merge(json!({"spec": {"suspend": false}}));
        let params = PatchParams::default();
        job_sets.patch("old", &params, &resumed).await.unwrap();
        minutes(&mut stage, 11).await;
        let told = job_sets.get("old").await.unwrap();
        assert_eq!(told.data["spec"]["suspend"], json!(true), "round {round}");
    }
    let found = pod(&stage, "theirs");
    let is_told = found.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some());
    assert!(is_told, "its grace and five minutes were over after thirty");
}
