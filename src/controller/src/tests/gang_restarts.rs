//! Workers that end, of one role and of two: all workers start again, and the restarts are counted.

use bursar_api::TrainingJob;
use bursar_api::names::{RESTARTS_ANNOTATION, ROLE_LABEL};
use bursar_api::training::{JobPhase, TrainingJobStatus};
use bursar_apitest::faults::{Faults, WriteFault};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::sweep::{Stage, every_competing_write, every_crash};
use super::world::{NAMESPACE, gang};
use crate::pod;

/// A gang of so many workers that runs, and may restart so often.
async fn running(workers: i32, restarts: i32) -> Stage {
    let mut stage = Stage::new(Faults::default()).await;
    let mut job = gang("train", workers);
    job["spec"]["restarts"] = json!(restarts);
    stage.world.create::<TrainingJob>(job).await;
    stage.seconds(8).await;
    assert_eq!(ready(&stage).len(), usize::try_from(workers).unwrap());
    stage
}

/// The workers that run.
fn ready(stage: &Stage) -> Vec<Pod> {
    let mut pods = stage.world.pods();
    pods.retain(|pod| {
        pod::is_ready(pod) && pod.metadata.deletion_timestamp.is_none() && !pod::is_terminal(pod)
    });
    pods
}

fn uids(pods: &[Pod]) -> Vec<String> {
    pods.iter().filter_map(ResourceExt::uid).collect()
}

fn jobs(stage: &Stage) -> Vec<Job> {
    stage.world.server.objects()
}

fn status(stage: &Stage) -> TrainingJobStatus {
    let mut jobs: Vec<TrainingJob> = stage.world.server.objects();
    jobs.retain(|job| job.namespace().as_deref() == Some(NAMESPACE));
    jobs.remove(0).status.unwrap()
}

/// The notes of the Events of this reason.
fn notes(stage: &Stage, reason: &str) -> Vec<String> {
    let events: Vec<Event> = stage.world.server.objects();
    let of_reason = events
        .into_iter()
        .filter(|event| event.reason.as_deref() == Some(reason));
    of_reason.filter_map(|event| event.note).collect()
}

async fn patch(stage: &Stage, spec: Value) {
    let patch = Patch::Merge(json!({"spec": spec}));
    let params = PatchParams::default();
    let api = stage.world.api::<TrainingJob>();
    api.patch("train", &params, &patch).await.unwrap();
}

async fn fail_first(stage: &mut Stage) {
    let worker = ready(stage).remove(0);
    stage.world.fail(&worker, 1).await;
}

#[tokio::test]
async fn when_one_rank_fails_all_start_again_in_new_jobs_and_it_counts_once() {
    let mut stage = running(4, 3).await;
    let (before, job) = (ready(&stage), jobs(&stage).remove(0));
    fail_first(&mut stage).await;
    stage.seconds(1).await;
    let names = before[0].name_any();
    let said = status(&stage);
    assert_eq!((said.phase, said.restarts), (JobPhase::Suspending, 1));
    let expected = format!("worker {names} has failed: rank 0, container c: exit code 1");
    assert!(said.reason.contains(&expected), "{}", said.reason);
    assert!(said.reason.contains("restart 1 of 3"), "{}", said.reason);
    stage.seconds(20).await;
    let after = ready(&stage);
    assert_eq!(after.len(), 4);
    assert!(uids(&after).iter().all(|uid| !uids(&before).contains(uid)));
    let next = jobs(&stage).remove(0);
    assert_ne!(next.uid(), job.uid());
    assert_eq!(next.annotations()[RESTARTS_ANNOTATION], "1");
    let said = status(&stage);
    assert_eq!((said.phase, said.restarts), (JobPhase::Running, 1));
    let said = notes(&stage, "Restarted");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains(&expected), "{said:?}");
    // those that were told to stop because of it have not failed
    stage.seconds(60).await;
    assert_eq!(
        (uids(&ready(&stage)), status(&stage).restarts),
        (uids(&after), 1)
    );
}

#[tokio::test]
async fn after_its_last_restart_a_job_has_failed_and_says_which_rank_how() {
    let mut stage = running(2, 1).await;
    fail_first(&mut stage).await;
    stage.seconds(20).await;
    assert_eq!(ready(&stage).len(), 2);
    let last = ready(&stage).remove(1);
    stage.world.fail(&last, 137).await;
    stage.seconds(30).await;
    let said = status(&stage);
    assert_eq!((said.phase, said.restarts), (JobPhase::Failed, 2));
    let message = &said.conditions[0].message;
    let expected = format!(
        "worker {} has failed: rank 1, container c: exit code 137; all 1 restarts are used up",
        last.name_any()
    );
    assert_eq!(*message, expected);
    assert_eq!(ready(&stage).len(), 0, "it holds no GPU");
    let logs = stage.world.pods();
    assert!(
        uids(&logs).contains(&last.uid().unwrap()),
        "its log is there"
    );
    let failed = notes(&stage, "Failed");
    assert_eq!(failed.len(), 1, "{failed:?}");
    // a leader that learns everything anew decides the same
    stage.leader = super::leader::Leader::new(&stage.world, Faults::default());
    stage.seconds(30).await;
    assert_eq!(
        (status(&stage).phase, ready(&stage).len()),
        (JobPhase::Failed, 0)
    );
    // its user allows one more
    patch(&stage, json!({"restarts": 2})).await;
    stage.seconds(30).await;
    assert_eq!(
        (status(&stage).phase, ready(&stage).len()),
        (JobPhase::Running, 2)
    );
}

#[tokio::test]
async fn evictions_count_against_no_limit() {
    let mut stage = running(2, 0).await;
    // each in a row makes it wait longer
    for wait in [10, 20, 40, 80] {
        let evicted = ready(&stage).remove(0);
        stage.world.evict(&evicted).await;
        stage.seconds(wait).await;
        assert_eq!(ready(&stage).len(), 0);
        stage.seconds(15).await;
        let said = status(&stage);
        assert_eq!((said.phase, said.restarts), (JobPhase::Running, 0));
        assert!(!uids(&ready(&stage)).contains(&evicted.uid().unwrap()));
    }
    let said = notes(&stage, "Restarted");
    assert!(!said.is_empty());
    for note in said {
        assert!(note.contains("the cluster took worker train-"), "{note}");
        assert!(note.contains("counts against no limit"), "{note}");
    }
}

/// Four workers; the node of rank 2 is lost, and its pod never stops.
async fn lose_node() -> (Stage, Pod) {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_node("far").await;
    stage.world.far = Some(("2", "far"));
    stage.world.create::<TrainingJob>(gang("train", 4)).await;
    stage.seconds(8).await;
    let mut pods = ready(&stage);
    pods.retain(|pod| pod::node_name(pod) == Some("far"));
    let lost = pods.remove(0);
    stage.world.lose("far").await;
    stage.world.far = None;
    stage.world.tell_to_stop(&lost).await;
    (stage, lost)
}

fn named(stage: &Stage, lost: &Pod) -> bool {
    let says = format!("node far is lost: worker {}", lost.name_any());
    notes(stage, "Restarted")
        .iter()
        .any(|note| note.contains(&says))
}

#[tokio::test]
async fn a_worker_on_a_lost_node_is_given_up_and_the_gang_runs_elsewhere() {
    let (mut stage, lost) = lose_node().await;
    stage.seconds(300).await;
    assert!(!named(&stage, &lost));
    stage.seconds(60).await;
    assert!(named(&stage, &lost));
    let workers = ready(&stage);
    let mut elsewhere: Vec<&Pod> = workers.iter().collect();
    elsewhere.retain(|pod| pod::node_name(pod) == Some("node"));
    assert_eq!(elsewhere.len(), 4);
    let said = status(&stage);
    assert_eq!((said.phase, said.restarts), (JobPhase::Running, 0));
    assert!(uids(&stage.world.pods()).contains(&lost.uid().unwrap()));
}

#[tokio::test]
async fn a_gang_with_a_lost_worker_runs_again_after_it_was_suspended() {
    let (mut stage, lost) = lose_node().await;
    patch(&stage, json!({"suspend": true})).await;
    stage.seconds(400).await;
    assert_eq!(ready(&stage).len(), 0);
    patch(&stage, json!({"suspend": false})).await;
    stage.seconds(10).await;
    let mut workers = ready(&stage);
    workers.retain(|pod| pod.uid() != lost.uid());
    assert_eq!((workers.len(), status(&stage).restarts), (4, 0));
}

#[tokio::test]
async fn a_role_that_has_ended_well_starts_again_with_the_others() {
    let mut stage = Stage::new(Faults::default()).await;
    let template = gang("", 1)["spec"]["template"].clone();
    let role = |name, replicas| json!({"name": name, "replicas": replicas, "template": template});
    let spec = json!({"framework": "PyTorch", "roles": [role("master", 1), role("worker", 2)]});
    let job = json!({"metadata": {"name": "train"}, "spec": spec});
    stage.world.create::<TrainingJob>(job).await;
    stage.seconds(8).await;
    let of_role = |stage: &Stage, role: &str| -> Vec<Pod> {
        let mut pods = ready(stage);
        pods.retain(|pod| pod.labels()[ROLE_LABEL] == role);
        pods
    };
    let master = of_role(&stage, "master").remove(0);
    stage.world.fail(&master, 0).await;
    let complete =
        json!({"status": {"succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}]}});
    let params = PatchParams::default();
    let api = stage.world.api::<Job>();
    api.patch_status("train-master", &params, &Patch::Merge(complete))
        .await
        .unwrap();
    stage.seconds(5).await;
    let worker = of_role(&stage, "worker").remove(1);
    stage.world.fail(&worker, 1).await;
    stage.seconds(20).await;
    let count = |role| of_role(&stage, role).len();
    assert_eq!((count("master"), count("worker")), (1, 2));
    assert_eq!(status(&stage).restarts, 1);
}

/// Eight workers fail within a second, after which a Job makes no pod for ten minutes.
#[tokio::test]
async fn workers_that_all_fail_at_once_start_again_without_their_jobs_back_off() {
    let mut stage = running(8, 3).await;
    for worker in ready(&stage) {
        stage.world.fail(&worker, 1).await;
    }
    stage.seconds(20).await;
    let said = status(&stage);
    assert_eq!((ready(&stage).len(), said.restarts), (8, 1));
    assert_eq!(notes(&stage, "Restarted").len(), 1);
    let none: [&str; 0] = [];
    assert_eq!(notes(&stage, "Suspended"), none, "it was never taken back");
    assert_eq!(notes(&stage, "Resumed"), none, "that it restarts says it");
}

#[tokio::test]
async fn a_gang_that_its_job_gives_no_pods_does_not_blame_nodes() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.jobs_back_off = true;
    stage.world.create::<TrainingJob>(gang("train", 2)).await;
    stage.seconds(3).await;
    let began = json!({"status": {"startTime": stage.world.now.to_string()}});
    let params = PatchParams::default();
    let api = stage.world.api::<Job>();
    api.patch_status("train", &params, &Patch::Merge(began))
        .await
        .unwrap();
    stage.seconds(305).await;
    let said = status(&stage);
    let expected = "were given no pod";
    assert!(said.reason.contains(expected), "{}", said.reason);
    let suspended = notes(&stage, "Suspended");
    assert_eq!(suspended.len(), 1, "{suspended:?}");
    assert!(suspended[0].contains(expected), "{suspended:?}");
    stage.world.jobs_back_off = false;
    stage.seconds(60).await;
    assert_eq!(ready(&stage).len(), 2);
}

/// A ClusterRole of an earlier version does not let the controller delete Jobs.
#[tokio::test]
async fn without_the_right_to_delete_jobs_a_restart_says_so_and_is_tried_at_leisure() {
    let mut stage = running(2, 3).await;
    fail_first(&mut stage).await;
    stage.seconds(8).await;
    assert_eq!(status(&stage).phase, JobPhase::Suspended);
    let refused = Some(WriteFault::Refused);
    stage.leader.faults.set_write_fault("jobs", refused);
    stage.seconds(8).await;
    let before = stage.leader.faults.writes();
    stage.seconds(60).await;
    let tries = stage.leader.faults.writes() - before;
    assert!(tries <= 6, "{tries} writes in a minute");
    let said = status(&stage);
    let mut conditions = said.conditions.iter();
    let says = |message: &str| message.contains("delete job") && message.contains("403");
    assert!(
        conditions.any(|condition| says(&condition.message)),
        "{said:?}"
    );
    // the new ClusterRole is there
    stage.leader.faults.set_write_fault("jobs", None);
    stage.seconds(600).await;
    assert_eq!((ready(&stage).len(), status(&stage).restarts), (2, 1));
}

/// What an earlier version made: it has no rule for disruptions, and replaces workers by itself.
async fn make_old(stage: &Stage) {
    let api = stage.world.api::<Job>();
    let old = json!({"spec": {"podFailurePolicy": null, "backoffLimit": 4}});
    let params = PatchParams::default();
    api.patch("train", &params, &Patch::Merge(old))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_job_of_the_version_before_goes_on_and_replaces_its_worker_itself() {
    let mut stage = running(2, 1).await;
    make_old(&stage).await;
    stage.leader = super::leader::Leader::new(&stage.world, Faults::default());
    stage.seconds(10).await;
    let (job, before) = (jobs(&stage).remove(0), ready(&stage));
    assert_eq!(before.len(), 2);
    fail_first(&mut stage).await;
    stage.seconds(20).await;
    let after = ready(&stage);
    assert_eq!((jobs(&stage)[0].uid(), after.len()), (job.uid(), 2));
    assert!(
        uids(&after).contains(&before[1].uid().unwrap()),
        "it went on"
    );
    // once it was suspended, its next run is as those of this version
    patch(&stage, json!({"suspend": true})).await;
    stage.seconds(10).await;
    patch(&stage, json!({"suspend": false})).await;
    stage.seconds(10).await;
    assert_eq!(ready(&stage).len(), 2);
    let spec = jobs(&stage).remove(0).spec.unwrap();
    assert!(spec.pod_failure_policy.is_some());
    stage.seconds(30).await;
    assert_eq!(
        (stage.world.cost(), status(&stage).restarts),
        (stage.world.recorded(), 0)
    );
}

#[tokio::test]
async fn a_restart_that_is_due_outlasts_an_exhausted_budget() {
    let mut stage = running(2, 3).await;
    stage.world.set_limit("9").await;
    fail_first(&mut stage).await;
    stage.seconds(2).await;
    stage.world.set_limit("0.01").await;
    stage.seconds(20).await;
    let said = status(&stage);
    assert_eq!((ready(&stage).len(), said.restarts), (0, 1));
    assert!(said.reason.contains("exhausted"), "{}", said.reason);
    stage.world.set_limit("9").await;
    stage.seconds(20).await;
    assert_eq!((ready(&stage).len(), status(&stage).restarts), (2, 1));
    assert_eq!(jobs(&stage)[0].annotations()[RESTARTS_ANNOTATION], "1");
}

fn life(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        stage.world.create::<TrainingJob>(gang("train", 2)).await;
        stage.seconds(8).await;
        fail_first(stage).await;
        stage.seconds(25).await;
        assert_eq!((ready(stage).len(), status(stage).restarts), (2, 1));
        stage.world.delete::<TrainingJob>("train").await;
    }
    .boxed_local()
}

#[tokio::test]
async fn a_crash_at_any_write_changes_nothing_in_the_end() {
    every_crash(life).await;
}

#[tokio::test]
async fn a_competing_write_before_any_write_changes_nothing_in_the_end() {
    every_competing_write(life).await;
}
