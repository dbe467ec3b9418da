//! Restarts of a gang of two roles: whatever ends the work of one, all workers of both start again.

use bursar_api::TrainingJob;
use bursar_api::names::ROLE_LABEL;
use bursar_api::training::{JobPhase, TrainingJobStatus};
use bursar_apitest::faults::Faults;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::sweep::{Stage, every_competing_write, every_crash};
use super::world::gang;
use crate::pod;

/// A master and two workers.
fn two_roles() -> Value {
    let template = gang("", 1)["spec"]["template"].clone();
    let role = |name, replicas| json!({"name": name, "replicas": replicas, "template": template});
    let roles = [role("master", 1), role("worker", 2)];
    json!({"metadata": {"name": "train"}, "spec": {"framework": "PyTorch", "roles": roles}})
}

/// The pods of a role that run.
fn ready(stage: &Stage, role: &str) -> Vec<Pod> {
    let mut pods = stage.world.pods();
    pods.retain(|pod| {
        pod::is_ready(pod)
            && !pod::is_terminal(pod)
            && pod.metadata.deletion_timestamp.is_none()
            && pod.labels()[ROLE_LABEL] == role
    });
    pods
}

fn workers(stage: &Stage) -> (usize, usize) {
    (ready(stage, "master").len(), ready(stage, "worker").len())
}

fn uids(stage: &Stage) -> Vec<String> {
    let pods = ["master", "worker"].map(|role| ready(stage, role)).concat();
    pods.iter().filter_map(ResourceExt::uid).collect()
}

fn status(stage: &Stage) -> TrainingJobStatus {
    let mut jobs: Vec<TrainingJob> = stage.world.server.objects();
    jobs.remove(0).status.unwrap()
}

async fn start(stage: &mut Stage) {
    stage.world.create::<TrainingJob>(two_roles()).await;
    stage.seconds(8).await;
    assert_eq!(workers(stage), (1, 2));
}

#[tokio::test]
async fn when_somebody_deletes_the_job_of_one_role_all_start_again_and_it_does_not_count() {
    let mut stage = Stage::new(Faults::default()).await;
    start(&mut stage).await;
    let before = uids(&stage);
    stage.world.delete::<Job>("train-worker").await;
    stage.seconds(5).await;
    assert_eq!(workers(&stage), (0, 0));
    let said = status(&stage);
    let why = "somebody has deleted the Job of role worker";
    assert!(said.reason.contains(why), "{}", said.reason);
    stage.seconds(20).await;
    assert_eq!(workers(&stage), (1, 2));
    assert!(uids(&stage).iter().all(|uid| !before.contains(uid)));
    let said = status(&stage);
    assert_eq!((said.phase, said.restarts), (JobPhase::Running, 0));
    let mut events: Vec<Event> = stage.world.server.objects();
    events.retain(|event| event.reason.as_deref() == Some("Restarted"));
    assert_eq!(events.len(), 1, "{events:?}");
    // and that was the end of it
    let after = uids(&stage);
    stage.seconds(90).await;
    assert_eq!(uids(&stage), after);
}

fn failure(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        start(stage).await;
        let worker = ready(stage, "worker").remove(1);
        stage.world.fail(&worker, 1).await;
        stage.seconds(35).await;
        assert_eq!((workers(stage), status(stage).restarts), ((1, 2), 1));
        stage.world.delete::<TrainingJob>("train").await;
    }
    .boxed_local()
}

#[tokio::test]
async fn a_crash_at_any_write_of_a_restart_changes_nothing_in_the_end() {
    every_crash(failure).await;
}

#[tokio::test]
async fn a_competing_write_before_any_write_of_a_restart_changes_nothing_in_the_end() {
    every_competing_write(failure).await;
}

fn deletion(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        start(stage).await;
        stage.world.delete::<Job>("train-master").await;
        stage.seconds(35).await;
        assert_eq!((workers(stage), status(stage).restarts), ((1, 2), 0));
        stage.world.delete::<TrainingJob>("train").await;
    }
    .boxed_local()
}

#[tokio::test]
async fn a_crash_after_a_job_was_deleted_changes_nothing_in_the_end() {
    every_crash(deletion).await;
}
