//! What must be stopped is, whatever else of its workload cannot be changed; and what is gone holds
//! nothing up.

use bursar_api::{BudgetPolicy, InferenceDeployment, TrainingJob};
use bursar_apitest::faults::{Faults, WriteFault};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use serde_json::json;

use super::leader::View;
use super::sweep::Stage;
use super::watched_cluster::{WatchedCluster, create, patch};
use super::world::World;
use crate::lock::lock;

fn replicas(stage: &Stage) -> Option<i32> {
    let deployments: Vec<Deployment> = stage.world.server.objects();
    deployments.first()?.spec.replicas
}

fn suspended(stage: &Stage) -> Option<bool> {
    let jobs: Vec<Job> = stage.world.server.objects();
    jobs.first()?.spec.as_ref()?.suspend
}

/// Somebody puts a Service of his own in the place of the owned one (case T14).
async fn replace_service(stage: &Stage, name: &str) {
    stage.world.delete::<Service>(name).await;
    let foreign = json!({
        "metadata": {"name": name, "labels": {"bursar.dev/workload": name}},
        "spec": {"ports": [{"port": 80}]},
    });
    stage.world.create::<Service>(foreign).await;
}

#[tokio::test]
async fn a_budget_stops_a_service_whose_name_another_service_has() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.set_limit("9").await;
    stage.world.create_chat(1).await;
    stage.seconds(12).await;
    assert_eq!(replicas(&stage), Some(1));
    replace_service(&stage, "chat").await;
    stage.seconds(2).await;
    stage.world.set_limit("0.01").await;
    stage.seconds(15).await;
    assert_eq!(replicas(&stage), Some(0));
}

#[tokio::test]
async fn a_budget_stops_a_job_whose_name_another_service_has() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.set_limit("9").await;
    stage.world.create_job(None).await;
    stage.seconds(8).await;
    assert_eq!(suspended(&stage), Some(false));
    replace_service(&stage, "train").await;
    stage.seconds(2).await;
    stage.world.set_limit("0.02").await;
    stage.seconds(8).await;
    assert_eq!(suspended(&stage), Some(true));
}

/// No budget counts on what is deleted, so it does not run on. With `--cascade=orphan` it is to.
#[tokio::test]
async fn a_workload_that_is_deleted_and_kept_by_a_finalizer_stops_but_for_orphans() {
    for (finalizer, stops) in [("example.com/keep", true), ("orphan", false)] {
        let mut stage = Stage::new(Faults::default()).await;
        stage.world.set_limit("9").await;
        stage.world.create_chat(1).await;
        stage.world.create_job(None).await;
        stage.seconds(12).await;
        assert_eq!(
            (replicas(&stage), suspended(&stage)),
            (Some(1), Some(false))
        );
        let kept = || json!({"metadata": {"finalizers": [finalizer]}});
        patch::<InferenceDeployment>(&stage.world, "chat", kept()).await;
        patch::<TrainingJob>(&stage.world, "train", kept()).await;
        stage.world.delete::<InferenceDeployment>("chat").await;
        stage.world.delete::<TrainingJob>("train").await;
        stage.seconds(12).await;
        let stopped = (Some(i32::from(!stops)), Some(stops));
        assert_eq!(
            (replicas(&stage), suspended(&stage)),
            stopped,
            "{finalizer}"
        );
        let workers = stage.world.pods();
        assert_eq!(workers.is_empty(), stops, "{finalizer}");
    }
}

/// Somebody scales the Deployment up again meanwhile.
#[tokio::test]
async fn what_is_deleted_and_kept_by_a_finalizer_does_not_start_again() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(1).await;
    stage.seconds(12).await;
    let kept = json!({"metadata": {"finalizers": ["example.com/keep"]}});
    patch::<InferenceDeployment>(&stage.world, "chat", kept).await;
    stage.world.delete::<InferenceDeployment>("chat").await;
    stage.seconds(3).await;
    let two = json!({"spec": {"replicas": 2}});
    patch::<Deployment>(&stage.world, "chat", two).await;
    assert_eq!(replicas(&stage), Some(2));
    stage.seconds(3).await;
    assert_eq!(replicas(&stage), Some(0));
}

#[tokio::test]
async fn a_budget_that_could_never_be_read_holds_nothing_up_once_it_is_gone() {
    let world = World::new().await;
    world.create_chat(0).await;
    let policy =
        json!({"metadata": {"name": "broken"}, "spec": {"limit": "9", "period": "Monthly"}});
    create::<BudgetPolicy>(&world, policy).await;
    let latch = json!({"limit": "ten", "periodStart": "2026-11-01T00:00:00Z"});
    patch::<BudgetPolicy>(&world, "broken", json!({"status": {"latch": latch}})).await;
    let mut cluster = WatchedCluster::led(world).await;
    cluster.world.requests = 2;
    cluster.seconds(4).await;
    assert_eq!(cluster.replicas("chat"), Some(0), "it is in doubt");
    cluster.world.delete::<BudgetPolicy>("broken").await;
    cluster.seconds(4).await;
    assert_eq!(cluster.replicas("chat"), Some(1));
}

#[tokio::test]
async fn nothing_is_remembered_of_the_statuses_of_what_is_gone() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.set_limit("9").await;
    stage.world.create_chat(1).await;
    stage.world.create_job(None).await;
    stage.seconds(5).await;
    let remembered = |stage: &Stage| lock(&stage.leader.context.status_memories).len();
    assert_eq!(remembered(&stage), 3);
    stage.world.delete::<BudgetPolicy>("team").await;
    stage.world.delete::<InferenceDeployment>("chat").await;
    stage.world.delete::<TrainingJob>("train").await;
    stage.seconds(3).await;
    assert_eq!(remembered(&stage), 0);
}

/// Case M15: the latch of a budget cannot be written.
#[tokio::test]
async fn a_latch_that_cannot_be_written_holds_a_stop_up_for_ten_seconds_alone_and_is_announced() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.set_limit("9").await;
    stage.world.create_chat(1).await;
    stage.seconds(12).await;
    let refused = Some(WriteFault::Refused);
    stage
        .leader
        .faults
        .set_write_fault("budgetpolicies", refused);
    stage.world.set_limit("0.01").await;
    let mut stopped_after = None;
    for second in 1..30 {
        stage.world.turn().await;
        let view = View::of(&stage.world);
        stage.leader.reconcile(&stage.world, &view).await.ok();
        if replicas(&stage) == Some(0) && stopped_after.is_none() {
            stopped_after = Some(second);
        }
    }
    // the drain has its time too
    let seconds = stopped_after.unwrap();
    assert!((10..=20).contains(&seconds), "{seconds} s");
    let budget: BudgetPolicy = stage.world.server.objects().remove(0);
    let latch = budget.status.and_then(|status| status.latch);
    assert_eq!(latch, None, "it was not written");
    let events: Vec<Event> = stage.world.server.objects();
    let mut reasons = events.iter().filter_map(|event| event.reason.as_deref());
    assert!(reasons.any(|reason| reason == "LatchUnwritten"));
}
