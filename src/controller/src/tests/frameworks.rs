//! A TrainingJob with a launcher: what its pods mount is there before they are, and its end is the launcher's.

use bursar_api::TrainingJob;
use bursar_api::training::JobPhase;
use bursar_apitest::faults::Faults;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::sweep::{Stage, every_crash};

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

/// Names of Secrets and ConfigMaps that pods mount, and of those that are there.
fn files(stage: &Stage) -> (Vec<String>, Vec<String>) {
    let pods = stage.world.pods();
    let specs = pods.iter().filter_map(|pod| pod.spec.as_ref());
    let volumes = specs.flat_map(|spec| spec.volumes.iter().flatten());
    let mut mounted: Vec<String> = volumes
        .filter_map(|volume| {
            let secret = volume
                .secret
                .as_ref()
                .and_then(|secret| secret.secret_name.clone());
            secret.or(volume.config_map.as_ref().map(|map| map.name.clone()))
        })
        .collect();
    let (secrets, maps): (Vec<Secret>, Vec<ConfigMap>) =
        (stage.world.server.objects(), stage.world.server.objects());
    let mut there: Vec<String> = secrets.iter().map(ResourceExt::name_any).collect();
    let owned = maps.iter().filter(|map| !map.owner_references().is_empty());
    there.extend(owned.map(ResourceExt::name_any));
    for names in [&mut mounted, &mut there] {
        names.sort();
        names.dedup();
    }
    (mounted, there)
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
    for suspend in [true, false] {
        let patch = Patch::Merge(json!({"spec": {"suspend": suspend}}));
        let api = stage.world.api::<TrainingJob>();
        api.patch("train", &PatchParams::default(), &patch)
            .await
            .unwrap();
        stage.seconds(8).await;
    }
    assert_eq!((workers(&stage), keys(&stage)), ((1, 3), before));
}

#[tokio::test]
async fn keys_that_somebody_has_deleted_are_made_anew_for_the_next_run() {
    let mut stage = running().await;
    let suspend = async |stage: &mut Stage, suspend: bool| {
        let patch = Patch::Merge(json!({"spec": {"suspend": suspend}}));
        let api = stage.world.api::<TrainingJob>();
        api.patch("train", &PatchParams::default(), &patch)
            .await
            .unwrap();
        stage.seconds(8).await;
    };
    suspend(&mut stage, true).await;
    let name = files(&stage)
        .1
        .into_iter()
        .find(|name| name.contains("-ssh-"))
        .unwrap();
    let secrets = stage.world.api::<Secret>();
    secrets
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    suspend(&mut stage, false).await;
    let (mounted, there) = files(&stage);
    assert_eq!((workers(&stage), mounted), ((1, 3), there));
}

fn life(stage: &mut Stage) -> LocalBoxFuture<'_, ()> {
    async move {
        stage.world.create::<TrainingJob>(launched("Horovod")).await;
        stage.seconds(8).await;
        assert_eq!(workers(stage), (1, 3));
        let (mounted, there) = files(stage);
        assert_eq!((mounted.len(), &mounted), (2, &there));
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
