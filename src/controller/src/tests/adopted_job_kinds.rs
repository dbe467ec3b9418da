//! Adopted jobs of kinds that the API server has by definitions, whose pods are found by owners up the chain.

use std::borrow::Cow;

use bursar_api::TrainingJob;
use bursar_api::names::ROLE_LABEL;
use bursar_api::training::JobPhase;
use bursar_apitest::faults::Faults;
use bursar_core::model::Key;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::adopted_jobs::{
    adopting, batch_job, condition, labelled, phase, target_ready, train, workers,
};
use super::sweep::Stage;
use super::world::NAMESPACE;

/// Kinds of custom resources, which the server is to have.
macro_rules! served {
    ($($kind:ident of $group:literal at $version:literal as $plural:literal;)*) => {$(
        pub(super) struct $kind(ObjectMeta);

        impl Resource for $kind {
            type DynamicType = ();
            type Scope = NamespaceResourceScope;

            fn kind((): &()) -> Cow<'_, str> {
                stringify!($kind).into()
            }
            fn group((): &()) -> Cow<'_, str> {
                $group.into()
            }
            fn version((): &()) -> Cow<'_, str> {
                $version.into()
            }
            fn plural((): &()) -> Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &ObjectMeta {
                &self.0
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.0
            }
        }
    )*};
}

served! {
    TrainJob of "trainer.kubeflow.org" at "v1alpha1" as "trainjobs";
    RayJob of "ray.io" at "v1" as "rayjobs";
    JobSet of "jobset.x-k8s.io" at "v1alpha2" as "jobsets";
}

/// The objects of a kind that the server has from now on.
pub(super) fn serve<K: Resource<DynamicType = ()>>(stage: &Stage) -> Api<DynamicObject> {
    stage.world.server.serve::<K>();
    let resource = ApiResource::erase::<K>(&());
    Api::namespaced_with(stage.world.server.client(), NAMESPACE, &resource)
}

pub(super) async fn create_dynamic(api: &Api<DynamicObject>, object: Value) -> DynamicObject {
    let object = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap()
}

/// What says that something is controlled by an object.
pub(super) fn owner(object: &DynamicObject) -> Value {
    let types = object.types.as_ref().unwrap();
    json!({"apiVersion": types.api_version, "kind": types.kind, "name": object.name_any(), "uid": object.uid(), "controller": true})
}

/// The pods are of a Job, that of a JobSet, that of the TrainJob, which has no templates itself.
#[tokio::test]
async fn a_train_job_is_held_by_its_own_field_and_its_pods_are_found_by_their_owners() {
    let mut stage = Stage::new(Faults::default()).await;
    let train_jobs = serve::<TrainJob>(&stage);
    let job_sets = serve::<JobSet>(&stage);
    let head = json!({"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": {"name": "old"}});
    let mut train_job = head.clone();
    train_job["spec"] = json!({"suspend": true});
    let train_job = create_dynamic(&train_jobs, train_job).await;
    let mut job = adopting();
    job["spec"]["targetRef"] =
        json!({"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "name": "old"});
    stage.world.create::<TrainingJob>(job).await;
    stage.seconds(3).await;
    assert_eq!(target_ready(&stage).1, "NoTemplates");
    let owner = |object: &DynamicObject| json!([owner(object)]);
    let mut spec = batch_job(false)["spec"].take();
    spec["template"]["metadata"]["labels"]["jobset.sigs.k8s.io/replicatedjob-name"] = json!("node");
    let replicated = json!({"name": "node", "replicas": 1, "template": {"spec": spec}});
    let job_set = json!({
        "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet",
        "metadata": {"name": "old", "ownerReferences": owner(&train_job)},
        "spec": {"suspend": true, "replicatedJobs": [replicated]},
    });
    let job_set = create_dynamic(&job_sets, job_set).await;
    stage.seconds(40).await;
    let told = train_jobs.get("old").await.unwrap();
    assert_eq!(told.data["spec"]["suspend"], json!(false));
    assert_eq!(
        job_sets.get("old").await.unwrap(),
        job_set,
        "it is the TrainJob's"
    );
    assert_eq!(phase(&stage), JobPhase::Starting);
    // what the controllers of both do
    let metadata = json!({"name": "old-node-0", "ownerReferences": owner(&job_set)});
    stage
        .world
        .create::<Job>(json!({"metadata": metadata, "spec": spec}))
        .await;
    stage.seconds(12).await;
    assert_eq!((workers(&stage), labelled(&stage)), (2, 2));
    for pod in stage.world.pods() {
        assert_eq!(pod.labels()[ROLE_LABEL], "node");
    }
    assert_eq!(phase(&stage), JobPhase::Running);
    let status = train(&stage).unwrap().status.unwrap();
    assert_eq!(
        (status.workers.ready, status.roles[0].workers.ready),
        (2, 2)
    );
    stage.world.set_limit("0.001").await;
    stage.seconds(12).await;
    let told = train_jobs.get("old").await.unwrap();
    assert_eq!(told.data["spec"]["suspend"], json!(true));
}

/// KubeRay would call it invalid and leave its cluster as it is.
#[tokio::test]
async fn a_ray_job_that_cannot_be_suspended_is_charged_and_never_written() {
    let mut stage = Stage::new(Faults::default()).await;
    let ray_jobs = serve::<RayJob>(&stage);
    let head = json!({"template": batch_job(false)["spec"]["template"]});
    let ray_job = json!({
        "apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "old"},
        "spec": {"suspend": false, "rayClusterSpec": {"headGroupSpec": head}},
    });
    let ray_job = create_dynamic(&ray_jobs, ray_job).await;
    let mut job = adopting();
    job["spec"]["targetRef"] = json!({"apiVersion": "ray.io/v1", "kind": "RayJob", "name": "old"});
    stage.world.create::<TrainingJob>(job).await;
    stage.world.set_limit("0.001").await;
    stage.seconds(20).await;
    assert_eq!(ray_jobs.get("old").await.unwrap(), ray_job);
    assert_eq!(target_ready(&stage).1, "NotSuspendable");
    let key = Key::new(NAMESPACE, "train");
    assert!(stage.leader.context.job_targets.is_out_of_control(&key));
    // as the condition says
    let patch = Patch::Merge(json!({"spec": {"shutdownAfterJobFinishes": true}}));
    ray_jobs
        .patch("old", &PatchParams::default(), &patch)
        .await
        .unwrap();
    stage.seconds(30).await;
    assert_eq!(target_ready(&stage).1, "Adopted");
    assert_eq!(
        ray_jobs.get("old").await.unwrap().data["spec"]["suspend"],
        json!(true)
    );
}

#[tokio::test]
async fn a_job_of_a_version_that_is_served_no_more_is_no_job_that_is_gone() {
    let mut stage = Stage::new(Faults::default()).await;
    let job_sets = serve::<JobSet>(&stage);
    let spec = batch_job(false)["spec"].take();
    let replicated = json!({"name": "node", "replicas": 1, "template": {"spec": spec}});
    let job_set = json!({
        "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": {"name": "old"},
        "spec": {"suspend": true, "replicatedJobs": [replicated]},
    });
    create_dynamic(&job_sets, job_set).await;
    let mut job = adopting();
    job["spec"]["targetRef"] =
        json!({"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "name": "old"});
    stage.world.create::<TrainingJob>(job).await;
    stage.seconds(6).await;
    let told = job_sets.get("old").await.unwrap();
    assert_eq!(told.data["spec"]["suspend"], json!(false));
    stage.world.server.stop_serving::<JobSet>();
    stage.seconds(40).await;
    let (_, why, message) = condition(&stage, "train", "TargetReady").unwrap();
    assert_eq!(why, "KindNotServed", "{message}");
    let key = Key::new(NAMESPACE, "train");
    let targets = &stage.leader.context.job_targets;
    assert!(!targets.is_out_of_control(&key), "its pods are its own");
    stage.world.delete::<TrainingJob>("train").await;
    stage.seconds(20).await;
    assert!(train(&stage).is_some(), "it is to be given back");
    stage.seconds(400).await;
    assert_eq!(train(&stage), None, "for five minutes");
    let mut events = stage.world.server.objects::<Event>().into_iter();
    assert!(events.any(|event| event.reason.as_deref() == Some("TargetNotGivenBack")));
}
