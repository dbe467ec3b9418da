//! Workers whose pods the cluster refuses: the job says why, and is taken back whole.

use bursar_api::TrainingJob;
use bursar_api::conditions::PODS_HEALTHY;
use bursar_api::training::{JobPhase, TrainingJobStatus};
use bursar_apitest::faults::Faults;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;

use super::leader::Leader;
use super::sweep::{Stage, every_crash};
use super::world::gang;
use crate::pod;

const WHY: &str = "exceeded quota: gpus, requested: 1, used: 2, limited: 2";

fn found(stage: &Stage, name: &str) -> TrainingJobStatus {
    let mut jobs: Vec<TrainingJob> = stage.world.server.objects();
    jobs.retain(|job| job.name_any() == name);
    jobs.remove(0).status.unwrap()
}

/// The reason and the message of the condition `PodsHealthy`.
fn health(status: &TrainingJobStatus) -> (&str, &str) {
    let mut conditions = status.conditions.iter();
    let found = conditions.find(|condition| condition.type_ == PODS_HEALTHY);
    let found = found.unwrap();
    (&found.reason, &found.message)
}

fn workers(stage: &Stage) -> usize {
    let mut pods: Vec<Pod> = stage.world.pods();
    pods.retain(|pod| pod::is_ready(pod) && !pod::is_terminal(pod));
    pods.len()
}

fn notes(stage: &Stage, reason: &str) -> Vec<String> {
    let mut events: Vec<Event> = stage.world.server.objects();
    events.retain(|event| event.reason.as_deref() == Some(reason));
    events.into_iter().filter_map(|event| event.note).collect()
}

/// A gang of four, of whose workers a quota allows two.
async fn half_refused() -> Stage {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.worker_quota = Some((2, WHY));
    stage.world.create::<TrainingJob>(gang("train", 4)).await;
    stage.seconds(2).await;
    stage
}

#[tokio::test]
async fn the_api_servers_words_are_told_and_the_gang_is_taken_back_after_a_minute() {
    let mut stage = half_refused().await;
    stage.seconds(10).await;
    assert_eq!(workers(&stage), 2);
    let said = found(&stage, "train");
    let (reason, message) = health(&said);
    assert_eq!(reason, "PodsRefused", "{said:?}");
    assert!(message.contains(WHY), "{message}");
    assert_eq!(said.phase, JobPhase::Starting);
    assert!(said.reason.contains(WHY), "{}", said.reason);

    stage.seconds(60).await;
    assert_eq!(workers(&stage), 0, "it holds nothing");
    let said = found(&stage, "train");
    assert_eq!(said.phase, JobPhase::Suspended);
    assert!(said.reason.contains(WHY), "{}", said.reason);
    assert!(said.reason.contains("tries again at"), "{}", said.reason);
    assert_eq!(health(&said).0, "PodsRefused");
    let suspended = notes(&stage, "Suspended");
    assert_eq!(suspended.len(), 1, "{suspended:?}");
    assert!(suspended[0].contains(WHY), "{suspended:?}");
    // another leader says so, too
    stage.leader = Leader::new(&stage.world, Faults::default());
    stage.seconds(1).await;
    assert_eq!(health(&found(&stage, "train")).0, "PodsRefused");

    // once the quota allows it, all run
    stage.world.worker_quota = None;
    stage.seconds(60).await;
    let said = found(&stage, "train");
    assert_eq!(
        (workers(&stage), said.phase, said.restarts),
        (4, JobPhase::Running, 0)
    );
    assert_eq!(health(&said).0, "Healthy");
}

#[tokio::test]
async fn a_gang_behind_one_that_is_refused_runs() {
    let mut stage = half_refused().await;
    stage.world.create::<TrainingJob>(gang("next", 6)).await;
    stage.seconds(30).await;
    let said = found(&stage, "next");
    assert_eq!((said.phase, workers(&stage)), (JobPhase::Queued, 2));
    stage.seconds(35).await;
    stage.world.worker_quota = None;
    stage.seconds(15).await;
    let said = found(&stage, "next");
    assert_eq!((said.phase, workers(&stage)), (JobPhase::Running, 6));
    assert_eq!(found(&stage, "train").phase, JobPhase::Suspended);
}

#[tokio::test]
async fn each_try_has_its_own_minute() {
    let mut stage = half_refused().await;
    stage.seconds(200).await;
    let tries = notes(&stage, "Suspended").len();
    assert_eq!(tries, 1, "a series of the same Event");
    // until second 61, and for a minute that begins between seconds 91 and 107
    let said = found(&stage, "train");
    assert!(
        said.reason.contains("taken back 2 times"),
        "{}",
        said.reason
    );
}

fn life(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        // not over a month's end
        stage.world.now += SignedDuration::from_secs(75);
        stage.world.worker_quota = Some((1, WHY));
        stage.world.create::<TrainingJob>(gang("train", 2)).await;
        stage.seconds(66).await;
        stage.world.worker_quota = None;
        stage.seconds(55).await;
        assert_eq!(workers(stage), 2);
        stage.world.delete::<TrainingJob>("train").await;
    }
    .boxed_local()
}

#[tokio::test]
async fn a_crash_at_any_write_changes_nothing_in_the_end() {
    every_crash(life).await;
}
