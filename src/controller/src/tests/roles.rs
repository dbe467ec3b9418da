//! A TrainingJob of two roles: both run or none, and what becomes of one when the other has ended.

use bursar_api::TrainingJob;
use bursar_api::training::{JobPhase, RoleStatus, Workers};
use bursar_apitest::faults::Faults;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::leader::{Leader, View};
use super::sweep::{Stage, every_crash};
use super::world::{NAMESPACE, OPERATOR};

/// Two masters and three workers.
fn gang() -> Value {
    let container =
        json!({"name": "c", "image": "engine", "resources": {"limits": {"nvidia.com/gpu": "1"}}});
    let template = json!({"spec": {"terminationGracePeriodSeconds": 3, "containers": [container]}});
    let role = |name, replicas| json!({"name": name, "replicas": replicas, "template": template});
    let roles = [role("master", 2), role("worker", 3)];
    json!({"metadata": {"name": "train"}, "spec": {"framework": "PyTorch", "roles": roles}})
}

async fn running_gang() -> Stage {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create::<TrainingJob>(gang()).await;
    stage.seconds(8).await;
    assert_eq!(workers(&stage), (2, 3));
    stage
}

/// Workers of each role that run.
fn workers(stage: &Stage) -> (usize, usize) {
    let count = |role| stage.running_workers(role);
    (count("master"), count("worker"))
}

/// Jobs with whether they are suspended.
fn jobs(stage: &Stage) -> Vec<(String, bool)> {
    let jobs: Vec<Job> = stage.world.server.objects();
    let suspended = |job: &Job| job.spec.as_ref().unwrap().suspend == Some(true);
    let jobs = jobs.iter().map(|job| (job.name_any(), suspended(job)));
    jobs.collect()
}

fn found(stage: &Stage) -> TrainingJob {
    let mut jobs: Vec<TrainingJob> = stage.world.server.objects();
    jobs.retain(|job| job.namespace().as_deref() == Some(NAMESPACE));
    jobs.remove(0)
}

fn phase(stage: &Stage) -> JobPhase {
    found(stage).status.unwrap().phase
}

async fn suspend(stage: &Stage, suspend: bool) {
    let patch = Patch::Merge(json!({"spec": {"suspend": suspend}}));
    let api = stage.world.api::<TrainingJob>();
    let parameters = PatchParams::default();
    api.patch("train", &parameters, &patch).await.unwrap();
}

/// The Job controller's last word on a Job.
async fn end(stage: &Stage, job: &str, status: Value) {
    let patch = Patch::Merge(json!({"status": status}));
    let api = stage.world.api::<Job>();
    let parameters = PatchParams::default();
    api.patch_status(job, &parameters, &patch).await.unwrap();
}

fn condition(kind: &str) -> Value {
    json!([{"type": kind, "status": "True"}])
}

fn named(jobs: [(&str, bool); 2]) -> Vec<(String, bool)> {
    jobs.map(|(name, is)| (name.to_owned(), is)).into()
}

#[tokio::test]
async fn all_roles_run_and_stop_together() {
    let mut stage = running_gang().await;
    let status = found(&stage).status.unwrap();
    let all = |workers: i32| Workers {
        replicas: workers,
        active: workers,
        ready: workers,
        ..Workers::default()
    };
    let role = |name: &str, workers| RoleStatus {
        name: name.to_owned(),
        workers: all(workers),
    };
    assert_eq!((status.phase, status.workers), (JobPhase::Running, all(5)));
    assert_eq!(status.roles, [role("master", 2), role("worker", 3)]);

    suspend(&stage, true).await;
    stage.seconds(8).await;
    assert_eq!(phase(&stage), JobPhase::Suspended);
    assert_eq!(
        jobs(&stage),
        named([("train-master", true), ("train-worker", true)])
    );
    assert_eq!(stage.world.pods().len(), 0);
}

#[tokio::test]
async fn a_gang_whose_roles_do_not_all_fit_has_no_worker_of_any() {
    let mut stage = Stage::new(Faults::default()).await;
    for name in ["a", "b", "c", "d"] {
        stage.world.create_foreign_pod(name).await;
    }
    stage.world.create::<TrainingJob>(gang()).await;
    stage.seconds(8).await;
    assert_eq!(
        jobs(&stage),
        named([("train-master", true), ("train-worker", true)])
    );
    let status = found(&stage).status.unwrap();
    assert!(
        status.reason.contains("room for 4 of its 5 workers"),
        "{}",
        status.reason
    );
}

#[tokio::test]
async fn when_a_role_fails_the_others_stop_and_hold_no_gpu() {
    let mut stage = running_gang().await;
    let failed = json!({"failed": 9, "conditions": condition("Failed")});
    end(&stage, "train-worker", failed).await;
    stage.seconds(8).await;
    assert_eq!(
        jobs(&stage),
        named([("train-master", true), ("train-worker", false)])
    );
    assert_eq!(workers(&stage), (0, 0));
    let status = found(&stage).status.unwrap();
    assert_eq!(status.phase, JobPhase::Failed);
    let said = &status.conditions[0].message;
    assert!(said.contains("workers of role worker failed"), "{said}");
}

#[tokio::test]
async fn the_job_succeeds_with_the_last_of_its_roles_and_a_role_that_ended_is_left_alone() {
    let mut stage = running_gang().await;
    let time = |second: i64| format!("2026-12-01T00:00:{second:02}Z");
    let complete = |second, workers| json!({"succeeded": workers, "completionTime": time(second), "conditions": condition("Complete")});
    end(&stage, "train-master", complete(9, 2)).await;
    stage.seconds(8).await;
    assert_eq!(
        (phase(&stage), workers(&stage)),
        (JobPhase::Running, (0, 3))
    );

    suspend(&stage, true).await;
    stage.seconds(8).await;
    assert_eq!(
        jobs(&stage),
        named([("train-master", false), ("train-worker", true)])
    );
    assert_eq!(phase(&stage), JobPhase::Suspended);
    suspend(&stage, false).await;
    stage.seconds(8).await;
    assert_eq!(
        (phase(&stage), workers(&stage)),
        (JobPhase::Running, (0, 3))
    );

    end(&stage, "train-worker", complete(5, 3)).await;
    stage.seconds(4).await;
    let status = found(&stage).status.unwrap();
    assert_eq!(
        (status.phase, status.workers.succeeded),
        (JobPhase::Succeeded, 5)
    );
    assert_eq!(status.completion_time.unwrap().0.to_string(), time(9));
}

/// Eight GPUs are there, and five are taken.
#[tokio::test]
async fn a_gang_of_roles_holds_the_room_of_its_workers_once() {
    let stage = running_gang().await;
    stage.world.create_gang_in(OPERATOR, "three", 3).await;
    let mut leader = Leader::new(&stage.world, Faults::default());
    leader.fill_caches(&View::of(&stage.world));
    leader.decide(stage.world.now).await.unwrap();
    let mut found: Vec<TrainingJob> = stage.world.server.objects();
    found.retain(|job| job.name_any() == "three");
    let status = found.remove(0).status.unwrap();
    assert_eq!(status.reason, "3 workers run");
}

fn life(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        stage.world.create::<TrainingJob>(gang()).await;
        stage.seconds(8).await;
        assert_eq!(workers(stage), (2, 3));
        suspend(stage, true).await;
        stage.seconds(8).await;
        assert_eq!(workers(stage), (0, 0));
        suspend(stage, false).await;
        stage.seconds(10).await;
        assert_eq!(workers(stage), (2, 3));
        stage.world.delete::<TrainingJob>("train").await;
    }
    .boxed_local()
}

#[tokio::test]
async fn a_crash_at_any_write_changes_nothing_in_the_end() {
    every_crash(life).await;
}
