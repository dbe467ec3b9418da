//! Jobs that exist are adopted by `targetRef`: held, started, suspended, charged and given back, with nothing of
//! them changed but whether they are suspended.

use bursar_api::TrainingJob;
use bursar_api::names::{ROLE_LABEL, SUSPENDED_ANNOTATION, TARGET_FINALIZER, WORKLOAD_LABEL};
use bursar_api::training::JobPhase;
use bursar_apitest::faults::{Faults, WriteFault};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::sweep::{Stage, every_competing_write, every_crash, undisturbed};
use super::world::NAMESPACE;
use crate::job_target::JobTargetKinds;
use crate::pod;

/// The kinds that the chart lists.
pub(crate) fn kinds() -> JobTargetKinds {
    let values = include_str!("../../../../charts/bursar/values.yaml");
    let values: Value = serde_saphyr::from_str(values).unwrap();
    values["jobTargets"].to_string().parse().unwrap()
}

/// The Job `old` of two workers.
pub(super) fn batch_job(suspend: bool) -> Value {
    let container =
        json!({"name": "c", "image": "i", "resources": {"limits": {"nvidia.com/gpu": "1"}}});
    let spec = json!({"terminationGracePeriodSeconds": 3, "restartPolicy": "Never", "containers": [container]});
    json!({
        "metadata": {"name": "old", "annotations": {"theirs": "stays"}},
        "spec": {
            "suspend": suspend, "parallelism": 2, "completions": 2, "completionMode": "Indexed",
            "template": {"metadata": {"labels": {"app": "train"}}, "spec": spec},
        },
    })
}

/// The TrainingJob `train` that adopts `old`.
pub(super) fn adopting() -> Value {
    let target = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "old"});
    json!({"metadata": {"name": "train"}, "spec": {"targetRef": target}})
}

pub(super) fn old(stage: &Stage) -> Job {
    let all: Vec<Job> = stage.world.server.objects();
    all.into_iter()
        .find(|found| found.name_any() == "old")
        .unwrap()
}

pub(super) fn suspended(stage: &Stage) -> bool {
    old(stage).spec.unwrap().suspend == Some(true)
}

pub(super) fn train(stage: &Stage) -> Option<TrainingJob> {
    let all: Vec<TrainingJob> = stage.world.server.objects();
    all.into_iter().find(|found| found.name_any() == "train")
}

pub(super) fn phase(stage: &Stage) -> JobPhase {
    train(stage).unwrap().status.unwrap().phase
}

/// A condition of the TrainingJob: its status, its reason and its message.
pub(super) fn condition(stage: &Stage, name: &str, kind: &str) -> Option<(String, String, String)> {
    let all: Vec<TrainingJob> = stage.world.server.objects();
    let found = all.into_iter().find(|found| found.name_any() == name)?;
    let conditions = found.status?.conditions;
    let found = conditions.into_iter().find(|each| each.type_ == kind)?;
    let Condition {
        status,
        reason,
        message,
        ..
    } = found;
    Some((status, reason, message))
}

pub(super) fn target_ready(stage: &Stage) -> (String, String) {
    let (status, reason, _) = condition(stage, "train", "TargetReady").unwrap();
    (status, reason)
}

pub(super) fn workers(stage: &Stage) -> usize {
    let works = |pod: &&Pod| pod::is_ready(pod) && pod.metadata.deletion_timestamp.is_none();
    stage.world.pods().iter().filter(works).count()
}

/// Pods with the labels of the TrainingJob.
pub(super) fn labelled(stage: &Stage) -> usize {
    let pods = stage.world.pods();
    let is_ours = |pod: &&Pod| {
        pod.labels()
            .get(WORKLOAD_LABEL)
            .is_some_and(|of| of == "train")
    };
    pods.iter().filter(is_ours).count()
}

pub(super) async fn patch_old(stage: &Stage, patch: Value) {
    let api = stage.world.api::<Job>();
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    api.patch("old", &params, &patch).await.unwrap();
}

/// A stage with the Job, and a TrainingJob that adopts it.
pub(super) async fn adopted(suspend: bool) -> Stage {
    let stage = Stage::new(Faults::default()).await;
    stage.world.create::<Job>(batch_job(suspend)).await;
    stage.world.create::<TrainingJob>(adopting()).await;
    stage
}

/// Held for want of money, started, suspended by the budget, resumed, and given back.
fn life(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        stage.world.admission = false;
        stage.world.set_limit("0.01").await;
        stage.world.create::<Job>(batch_job(true)).await;
        stage.world.create::<TrainingJob>(adopting()).await;
        stage.seconds(6).await;
        assert!(suspended(stage), "there is no money for a useful run");
        assert_eq!(phase(stage), JobPhase::Queued);
        stage.world.set_limit("9").await;
        stage.seconds(12).await;
        assert_eq!((suspended(stage), workers(stage)), (false, 2));
        assert_eq!(labelled(stage), 2);
        stage.world.set_limit("0.02").await;
        stage.seconds(12).await;
        assert_eq!((suspended(stage), workers(stage)), (true, 0));
        stage.world.set_limit("9").await;
        stage.seconds(14).await;
        assert_eq!((suspended(stage), workers(stage)), (false, 2));
        stage.world.delete::<TrainingJob>("train").await;
        stage.seconds(8).await;
        assert_eq!(train(stage), None);
        assert!(suspended(stage), "as it was");
        assert_eq!(labelled(stage), 0);
        assert_eq!(old(stage).annotations().get(SUSPENDED_ANNOTATION), None);
        stage.world.delete::<Job>("old").await;
    }
    .boxed_local()
}

#[tokio::test]
async fn a_job_is_held_started_suspended_by_a_budget_charged_and_given_back() {
    undisturbed(life).await;
}

#[tokio::test]
async fn a_crash_at_any_write_of_an_adopted_job_changes_nothing_in_the_end() {
    every_crash(life).await;
}

#[tokio::test]
async fn a_competing_write_before_any_write_of_an_adopted_job_changes_nothing_in_the_end() {
    every_competing_write(life).await;
}

#[tokio::test]
async fn nothing_of_a_job_changes_but_its_suspension_and_one_annotation() {
    let mut stage = adopted(true).await;
    let before = old(&stage);
    stage.seconds(12).await;
    let after = old(&stage);
    assert_eq!(
        target_ready(&stage),
        ("True".to_owned(), "Adopted".to_owned())
    );
    assert_eq!(after.annotations()[SUSPENDED_ANNOTATION], "false");
    assert_eq!(after.annotations()["theirs"], "stays");
    assert_eq!(after.annotations().len(), 2);
    assert_eq!(after.metadata.labels, before.metadata.labels);
    assert_eq!(after.metadata.finalizers, before.metadata.finalizers);
    let (mut after, before) = (after.spec.unwrap(), before.spec.unwrap());
    assert_eq!(after.suspend.replace(true), Some(false));
    assert_eq!(after, before);
    for pod in stage.world.pods() {
        assert_eq!(pod.labels()[ROLE_LABEL], "worker");
    }
    let status = train(&stage).unwrap().status.unwrap();
    assert_eq!(status.target.unwrap().suspended_before, Some(true));
    assert_eq!((status.workers.replicas, status.workers.ready), (2, 2));
    assert_eq!(status.phase, JobPhase::Running);
}

#[tokio::test]
async fn a_job_that_runs_goes_on_when_it_is_adopted_and_runs_again_when_it_is_given_back() {
    let mut stage = adopted(false).await;
    for _ in 0..12 {
        stage.seconds(1).await;
        assert!(!suspended(&stage));
    }
    assert_eq!(phase(&stage), JobPhase::Running);
    assert_eq!(train(&stage).unwrap().finalizers(), [TARGET_FINALIZER]);
    stage.world.set_limit("0.001").await;
    stage.seconds(12).await;
    assert!(suspended(&stage), "there is no money for it");
    stage.world.delete::<TrainingJob>("train").await;
    stage.seconds(8).await;
    assert_eq!(train(&stage), None);
    assert!(!suspended(&stage), "as it was");
}

#[tokio::test]
async fn a_job_that_kueue_owns_is_charged_and_never_suspended_or_resumed() {
    for suspend in [true, false] {
        let mut stage = Stage::new(Faults::default()).await;
        let mut job = batch_job(suspend);
        job["metadata"]["labels"] = json!({"kueue.x-k8s.io/queue-name": "team"});
        stage.world.create::<Job>(job).await;
        stage.world.create::<TrainingJob>(adopting()).await;
        stage.world.set_limit("9").await;
        stage.seconds(20).await;
        assert_eq!(suspended(&stage), suspend, "there is money and room");
        let (status, why, message) = condition(&stage, "train", "TargetReady").unwrap();
        assert_eq!((&*status, &*why), ("False", "ManagedByKueue"));
        assert!(message.contains("unmanaged: Evict"), "{message}");
        stage.world.set_limit("0.001").await;
        stage.seconds(20).await;
        assert_eq!(suspended(&stage), suspend, "there is none");
        assert_eq!(old(&stage).annotations().get(SUSPENDED_ANNOTATION), None);
        if !suspend {
            assert_eq!((labelled(&stage), phase(&stage)), (2, JobPhase::Running));
            let spend = train(&stage).unwrap().status.unwrap().spend.unwrap();
            assert_ne!(spend.total.parse::<f64>().unwrap(), 0.0, "{spend:?}");
        }
        stage.world.delete::<TrainingJob>("train").await;
        stage.seconds(8).await;
        assert_eq!((train(&stage), labelled(&stage)), (None, 0));
        assert_eq!(suspended(&stage), suspend);
    }
}

#[tokio::test]
async fn whoever_suspends_a_job_that_bursar_let_run_is_respected() {
    let mut stage = adopted(true).await;
    stage.seconds(12).await;
    patch_old(&stage, json!({"spec": {"suspend": true}})).await;
    stage.seconds(40).await;
    assert!(suspended(&stage));
    let (status, why, message) = condition(&stage, "train", "TargetReady").unwrap();
    assert_eq!((&*status, &*why), ("False", "SuspendedByOthers"));
    assert!(message.contains(SUSPENDED_ANNOTATION), "{message}");
    // as the condition says
    let annotations = json!({SUSPENDED_ANNOTATION: null});
    patch_old(&stage, json!({"metadata": {"annotations": annotations}})).await;
    stage.seconds(20).await;
    assert!(!suspended(&stage));
    assert_eq!(target_ready(&stage).1, "Adopted");
}

#[tokio::test]
async fn whoever_resumes_a_job_is_respected_while_there_is_money_and_is_left_alone_after_three_times()
 {
    for annotation in [json!("true"), Value::Null] {
        is_left_alone_after_three_times(annotation).await;
    }
}

/// Somebody lets a job run that Bursar suspends, and leaves the annotation so.
async fn is_left_alone_after_three_times(annotation: Value) {
    let mut stage = adopted(false).await;
    stage.seconds(5).await;
    stage.world.set_limit("0.0001").await;
    stage.seconds(12).await;
    assert!(suspended(&stage));
    let annotations = json!({SUSPENDED_ANNOTATION: annotation});
    let resumed = json!({"spec": {"suspend": false}, "metadata": {"annotations": annotations}});
    for time in 1..=4 {
        patch_old(&stage, resumed.clone()).await;
        stage.seconds(18).await;
        let is_left = time == 4;
        assert_eq!(suspended(&stage), !is_left, "time {time}");
    }
    assert_eq!(target_ready(&stage).1, "ManagedByOther");
    stage.world.set_limit("9").await;
    stage.seconds(700).await;
    assert!(!suspended(&stage));
    assert_eq!(
        target_ready(&stage),
        ("True".to_owned(), "Adopted".to_owned())
    );
}

#[tokio::test]
async fn of_two_training_jobs_with_one_target_the_older_has_it() {
    let mut stage = adopted(true).await;
    stage.seconds(3).await;
    let mut second = adopting();
    second["metadata"]["name"] = json!("second");
    stage.world.create::<TrainingJob>(second).await;
    stage.seconds(12).await;
    let (_, why, message) = condition(&stage, "second", "TargetReady").unwrap();
    assert_eq!(why, "InUse");
    assert!(message.contains("TrainingJob train"), "{message}");
    assert_eq!(labelled(&stage), 2);
    stage.world.delete::<TrainingJob>("train").await;
    stage.seconds(20).await;
    let (_, why, _) = condition(&stage, "second", "TargetReady").unwrap();
    assert_eq!(why, "Adopted");
}

#[tokio::test]
async fn a_target_that_is_refused_is_named_with_what_helps() {
    for (target, expected, helps) in [
        (
            json!({"apiVersion": "batch/v1", "kind": "Job", "name": "gone"}),
            "NotFound",
            "create it",
        ),
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "old"}),
            "KindNotListed",
            "jobTargets",
        ),
        (
            json!({"apiVersion": "kubeflow.org/v1", "kind": "MPIJob", "name": "old"}),
            "KindNotListed",
            "MPIJob of kubeflow.org/v2beta1",
        ),
    ] {
        let mut stage = Stage::new(Faults::default()).await;
        let mut job = adopting();
        job["spec"]["targetRef"] = target.clone();
        stage.world.create::<TrainingJob>(job).await;
        stage.seconds(5).await;
        let (status, why, message) = condition(&stage, "train", "TargetReady").unwrap();
        assert_eq!((&*status, &*why), ("False", expected), "{target}");
        assert!(message.contains(helps), "{message}");
        stage.world.delete::<TrainingJob>("train").await;
        assert_eq!(train(&stage), None, "nothing holds it");
    }
}

#[tokio::test]
async fn a_job_of_bursars_own_is_nobodys_target() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_gang_in(NAMESPACE, "own", 2).await;
    stage.seconds(8).await;
    let mut job = adopting();
    job["spec"]["targetRef"]["name"] = json!("own");
    stage.world.create::<TrainingJob>(job).await;
    stage.seconds(8).await;
    assert_eq!(target_ready(&stage).1, "MadeByBursar");
    assert_eq!(labelled(&stage), 0);
}

#[tokio::test]
async fn a_job_that_may_not_be_changed_is_said_and_tried_again() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create::<Job>(batch_job(true)).await;
    stage.world.create::<TrainingJob>(adopting()).await;
    let refused = Some(WriteFault::Refused);
    stage.leader.faults.set_write_fault("jobs", refused);
    stage.seconds(8).await;
    assert!(suspended(&stage));
    let (_, why, message) = condition(&stage, "train", "PodsHealthy").unwrap();
    assert_eq!(why, "ApplyFailed", "{message}");
    stage.leader.faults.set_write_fault("jobs", None);
    stage.seconds(120).await;
    assert!(!suspended(&stage));
}

#[tokio::test]
async fn pods_that_only_say_to_belong_to_a_job_are_not_its_workers() {
    let mut stage = adopted(true).await;
    stage.seconds(3).await;
    let spec = json!({"nodeName": "node", "containers": [{"name": "c", "image": "i"}]});
    let owner = json!({"apiVersion": "batch/v1", "kind": "Job", "name": "old", "uid": "forged", "controller": true});
    let metadata =
        json!({"name": "theirs", "labels": {"job-name": "old"}, "ownerReferences": [owner]});
    let pod = json!({"metadata": metadata, "spec": spec});
    stage.world.create::<Pod>(pod).await;
    stage.seconds(15).await;
    for pod in stage.world.pods() {
        let is_worker = pod.labels().contains_key(WORKLOAD_LABEL);
        let name = pod.name_any();
        assert_eq!(is_worker, name.starts_with("old-"), "{name}");
    }
}
