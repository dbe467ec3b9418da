//! A TrainingJob with a launcher: what its pods mount is there before they are, and its end is the launcher's.

use std::collections::BTreeSet;

use bursar_api::TrainingJob;
use bursar_api::training::JobPhase;
use bursar_apitest::faults::{Faults, WriteFault};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::sweep::{Stage, every_crash};
use super::world::mounted;

fn launched(framework: &str) -> Value {
    let container = |limits: Value| json!({"name": "c", "image": "engine", "command": ["mpirun", "train"], "resources": {"limits": limits}});
    let template = |limits| json!({"spec": {"terminationGracePeriodSeconds": 3, "containers": [container(limits)]}});
    let role = |name, replicas, limits| json!({"name": name, "replicas": replicas, "template": template(limits)});
    let roles = [
        role("launcher", 1, json!({"cpu": "1"})),
        role("worker", 3, json!({"nvidia.com/gpu": "1"})),
    ];
    json!({"metadata": {"name": "train"}, "spec": {"framework": framework, "roles": roles}})
}

async fn running() -> Stage {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create::<TrainingJob>(launched("MPI")).await;
    stage.seconds(8).await;
    assert_eq!(workers(&stage), (1, 3));
    stage
}

/// Pods of the launcher and of the workers that run.
fn workers(stage: &Stage) -> (usize, usize) {
    let count = |role| stage.running_workers(role);
    (count("launcher"), count("worker"))
}

fn found(stage: &Stage) -> TrainingJob {
    stage.world.server.objects().remove(0)
}

/// The Job controller's last word on the launcher.
async fn launcher_ends_well(stage: &Stage) {
    let status = json!({"succeeded": 1, "completionTime": "2026-12-01T00:00:09Z", "conditions": [{"type": "Complete", "status": "True"}]});
    let patch = Patch::Merge(json!({"status": status}));
    let api = stage.world.api::<Job>();
    let parameters = PatchParams::default();
    api.patch_status("train-launcher", &parameters, &patch)
        .await
        .unwrap();
}

/// Names of Secrets and ConfigMaps that the pods of Jobs mount, and of those that are there.
fn files(stage: &Stage) -> (BTreeSet<String>, BTreeSet<String>) {
    let jobs: Vec<Job> = stage.world.server.objects();
    let templates = jobs.iter().filter_map(|job| job.spec.as_ref());
    let specs = templates.filter_map(|spec| spec.template.spec.as_ref());
    let volumes = specs.flat_map(|spec| spec.volumes.iter().flatten());
    let names = volumes.filter_map(mounted).map(str::to_owned).collect();
    let (secrets, maps): (Vec<Secret>, Vec<ConfigMap>) =
        (stage.world.server.objects(), stage.world.server.objects());
    let secrets = secrets.iter().map(|secret| &secret.metadata);
    let all = secrets.chain(maps.iter().map(|map| &map.metadata));
    let owned = all.filter(|metadata| metadata.owner_references.is_some());
    let there = owned.filter_map(|metadata| metadata.name.clone());
    (names, there.collect())
}

async fn suspend(stage: &mut Stage, suspend: bool) {
    let patch = Patch::Merge(json!({"spec": {"suspend": suspend}}));
    let api = stage.world.api::<TrainingJob>();
    api.patch("train", &PatchParams::default(), &patch)
        .await
        .unwrap();
    stage.seconds(8).await;
}

/// Deletes the Secret of the only job that has one.
async fn delete_keys(stage: &Stage) {
    let (_, there) = files(stage);
    let name = there.iter().find(|name| name.contains("-ssh-")).unwrap();
    let secrets = stage.world.api::<Secret>();
    secrets
        .delete(name, &DeleteParams::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn the_job_succeeds_with_its_launcher_and_its_workers_are_stopped() {
    let mut stage = running().await;
    assert_eq!(found(&stage).status.unwrap().phase, JobPhase::Running);
    launcher_ends_well(&stage).await;
    stage.seconds(8).await;
    assert_eq!(
        workers(&stage).1,
        0,
        "workers would hold their GPUs for ever"
    );
    let status = found(&stage).status.unwrap();
    assert_eq!((status.phase, status.restarts), (JobPhase::Succeeded, 0));
    assert_eq!(
        status.completion_time.unwrap().0.to_string(),
        "2026-12-01T00:00:09Z"
    );
    let said = &status.conditions[0].message;
    assert!(said.contains("role launcher ended well"), "{said}");
    let open = stage.world.recorded();
    stage.seconds(30).await;
    assert_eq!(stage.world.recorded(), open, "nothing more is charged");
}

#[tokio::test]
async fn what_pods_mount_is_there_and_belongs_to_the_job_alone() {
    let mut stage = running().await;
    let (mounted, there) = files(&stage);
    assert_eq!((mounted.len(), &mounted), (2, &there));
    let keys = |stage: &Stage| {
        let secrets: Vec<Secret> = stage.world.server.objects();
        secrets[0].data.as_ref().unwrap()["ssh-privatekey"].clone()
    };
    let before = keys(&stage);
    // a suspended job that goes on keeps its keys: nobody reads or writes them
    for suspended in [true, false] {
        suspend(&mut stage, suspended).await;
    }
    assert_eq!((workers(&stage), keys(&stage)), ((1, 3), before));
}

/// Whoever knows a name before there is an object of it makes one himself, and his files run in the pods.
#[tokio::test]
async fn what_pods_will_mount_is_there_before_a_job_shows_its_name() {
    let mut stage = Stage::new(Faults::default()).await;
    let mut job = launched("MPI");
    job["spec"]["suspend"] = json!(true);
    stage.world.create::<TrainingJob>(job).await;
    for _ in 0..8 {
        stage.seconds(1).await;
        let (mounted, there) = files(&stage);
        assert!(mounted.is_subset(&there), "{mounted:?} {there:?}");
    }
    assert_eq!((workers(&stage), files(&stage).0.len()), ((0, 0), 2));
}

#[tokio::test]
async fn keys_that_somebody_has_deleted_are_made_anew_for_the_next_run() {
    let mut stage = running().await;
    suspend(&mut stage, true).await;
    delete_keys(&stage).await;
    suspend(&mut stage, false).await;
    let (mounted, there) = files(&stage);
    assert_eq!((workers(&stage), mounted), ((1, 3), there));
}

#[tokio::test]
async fn keys_that_are_deleted_before_the_pods_have_started_are_made_anew() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create::<TrainingJob>(launched("MPI")).await;
    while stage.world.pods().is_empty() {
        stage.seconds(1).await;
    }
    delete_keys(&stage).await;
    stage.seconds(10).await;
    assert_eq!(workers(&stage), (0, 0), "no pod starts without its volumes");
    stage.seconds(60).await;
    assert_eq!(workers(&stage), (1, 3));
}

/// The API server answers both with 409.
#[tokio::test]
async fn a_quota_that_counts_something_else_meanwhile_is_not_a_file_that_is_there() {
    let mut stage = Stage::new(Faults::default()).await;
    let contended = |stage: &Stage, fault| stage.leader.faults.set_write_fault("secrets", fault);
    contended(&stage, Some(WriteFault::Contended));
    stage.world.create::<TrainingJob>(launched("MPI")).await;
    stage.seconds(8).await;
    assert_eq!(
        files(&stage).0.len(),
        0,
        "no pod waits for what is not there"
    );
    contended(&stage, None);
    stage.seconds(20).await;
    assert_eq!(workers(&stage), (1, 3));
}

fn life(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        stage.world.create::<TrainingJob>(launched("Horovod")).await;
        stage.seconds(8).await;
        assert_eq!(workers(stage), (1, 3));
        let (mounted, there) = files(stage);
        // those that a leader has made who died before the first Job remain until the job is deleted
        assert!(mounted.len() == 2 && mounted.is_subset(&there));
        launcher_ends_well(stage).await;
        stage.seconds(10).await;
        assert_eq!(workers(stage).1, 0);
        stage.world.delete::<TrainingJob>("train").await;
    }
    .boxed_local()
}

#[tokio::test]
async fn a_crash_at_any_write_changes_nothing_in_the_end() {
    every_crash(life).await;
}
