//! What others edit of what workloads own is put back.

use bursar_api::{InferenceDeployment, TrainingJob};
use bursar_apitest::faults::Faults;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::leader::Leader;
use super::sweep::Stage;

const RESTARTED_AT: &str = "kubectl.kubernetes.io/restartedAt";

async fn edit(stage: &Stage, patch: Value) {
    let api = stage.world.api::<Deployment>();
    let params = PatchParams {
        field_manager: Some("kubectl-set".to_owned()),
        ..PatchParams::default()
    };
    api.patch("chat", &params, &Patch::Merge(patch))
        .await
        .unwrap();
}

/// One container of eight GPUs, which is one more than any budget knows of, and a grace of a month.
fn hostile() -> Value {
    let container =
        json!({"name": "c", "image": "engine", "resources": {"limits": {"nvidia.com/gpu": "8"}}});
    let spec = json!({"containers": [container.clone(), container], "terminationGracePeriodSeconds": 2_592_000});
    json!({"spec": {"template": {"spec": spec}}})
}

fn template(stage: &Stage) -> Value {
    let deployments: Vec<Deployment> = stage.world.server.objects();
    serde_json::to_value(&deployments[0].spec.template).unwrap()
}

async fn chat() -> (Stage, Value) {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(1).await;
    stage.seconds(15).await;
    let asked = template(&stage);
    (stage, asked)
}

/// Case T4.
#[tokio::test]
async fn an_edit_of_the_deployment_is_put_back() {
    let (mut stage, asked) = chat().await;
    edit(&stage, hostile()).await;
    assert_ne!(template(&stage), asked);
    stage.seconds(2).await;
    assert_eq!(template(&stage), asked);
}

#[tokio::test]
async fn an_edit_while_nobody_leads_is_put_back() {
    let (mut stage, asked) = chat().await;
    edit(&stage, hostile()).await;
    stage.leader = Leader::new(&stage.world, Faults::default());
    stage.seconds(2).await;
    assert_eq!(template(&stage), asked);
}

#[tokio::test]
async fn a_restart_of_the_rollout_and_notes_of_others_stay() {
    let (mut stage, asked) = chat().await;
    let restart = json!({"annotations": {RESTARTED_AT: "2026-11-30T23:59:00Z"}});
    edit(
        &stage,
        json!({"metadata": {"labels": {"team": "a"}}, "spec": {"template": {"metadata": restart}}}),
    )
    .await;
    stage.seconds(2).await;
    let restarted = template(&stage);
    assert_eq!(
        restarted["metadata"]["annotations"][RESTARTED_AT],
        "2026-11-30T23:59:00Z"
    );
    edit(&stage, hostile()).await;
    stage.seconds(2).await;
    assert_eq!(template(&stage), restarted);
    assert_eq!(restarted["spec"], asked["spec"]);
    let deployment: &Deployment = &stage.world.server.objects()[0];
    assert_eq!(deployment.metadata.labels.as_ref().unwrap()["team"], "a");
}

#[tokio::test]
async fn who_edits_it_again_and_again_is_named_and_not_fought() {
    let (mut stage, asked) = chat().await;
    for _ in 0..3 {
        edit(&stage, hostile()).await;
        stage.seconds(2).await;
        assert_eq!(template(&stage), asked);
    }
    edit(&stage, hostile()).await;
    for _ in 0..3 {
        stage.world.turn().await;
        let view = super::leader::View::of(&stage.world);
        stage.leader.reconcile(&stage.world, &view).await.ok();
    }
    assert_ne!(template(&stage), asked);
    let service: &InferenceDeployment = &stage.world.server.objects()[0];
    let status = serde_json::to_string(&service.status).unwrap();
    assert!(
        status.contains("kubectl-set edits Deployment chat again"),
        "{status}"
    );
}

/// What an InferenceDeployment does not ask for any more goes at once, with one rollout.
#[tokio::test]
async fn a_field_that_is_taken_out_of_the_template_goes_with_one_write() {
    let (mut stage, _) = chat().await;
    let with = |env: Value| {
        let limits = json!({"limits": {"nvidia.com/gpu": "1"}});
        let container = json!({"name": "c", "image": "engine", "resources": limits, "env": env});
        json!({"spec": {"template": {"spec": {"containers": [container]}}}})
    };
    let generation = |stage: &Stage| {
        let deployments: Vec<Deployment> = stage.world.server.objects();
        deployments[0].metadata.generation.unwrap()
    };
    let env = json!([{"name": "A", "value": "1"}, {"name": "B", "value": "1"}]);
    for (env, names) in [(env, 2), (json!([{"name": "B", "value": "1"}]), 1)] {
        let before = generation(&stage);
        let api = stage.world.api::<InferenceDeployment>();
        let patch = Patch::Merge(with(env));
        api.patch("chat", &PatchParams::default(), &patch)
            .await
            .unwrap();
        stage.seconds(3).await;
        let found = template(&stage)["spec"]["containers"][0]["env"]
            .as_array()
            .unwrap()
            .len();
        assert_eq!((found, generation(&stage)), (names, before + 1));
    }
}

/// Somebody who calls himself `kubectl-set` edits an object.
async fn edit_of<K>(stage: &Stage, name: &str, patch: Value)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let params = PatchParams {
        field_manager: Some("kubectl-set".to_owned()),
        ..PatchParams::default()
    };
    let api = stage.world.api::<K>();
    api.patch(name, &params, &Patch::Merge(patch))
        .await
        .unwrap();
}

/// The specification, or of an EndpointSlice what stands in its place.
fn spec_of<K: Resource<DynamicType = ()> + DeserializeOwned + Serialize>(
    stage: &Stage,
    name: &str,
) -> Value {
    let objects: Vec<K> = stage.world.server.objects();
    let found = objects
        .iter()
        .find(|object| object.name_any() == name)
        .unwrap();
    let mut object = serde_json::to_value(found).unwrap();
    let fields = object.as_object_mut().unwrap();
    fields.retain(|field, _| !["metadata", "status"].contains(&field.as_str()));
    object
}

/// A service and a gang of two workers, which run.
async fn both() -> Stage {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(1).await;
    stage.world.create_job(None).await;
    stage.seconds(15).await;
    stage
}

/// More workers than were paid for, and ends that Bursar does not count.
fn more_workers() -> Value {
    json!({"spec": {"completions": 4, "parallelism": 4, "activeDeadlineSeconds": 60}})
}

/// Case T4: a Job of two workers runs four.
#[tokio::test]
async fn an_edit_of_a_job_is_put_back_whether_it_runs_or_not() {
    for suspended in [false, true] {
        let mut stage = both().await;
        if suspended {
            let api = stage.world.api::<TrainingJob>();
            let patch = Patch::Merge(json!({"spec": {"suspend": true}}));
            api.patch("train", &PatchParams::default(), &patch)
                .await
                .unwrap();
            stage.seconds(5).await;
        }
        let asked = spec_of::<Job>(&stage, "train");
        assert_eq!(asked["spec"]["suspend"], suspended);
        edit_of::<Job>(&stage, "train", more_workers()).await;
        assert_ne!(spec_of::<Job>(&stage, "train"), asked);
        stage.seconds(3).await;
        assert_eq!(spec_of::<Job>(&stage, "train"), asked);
    }
}

#[tokio::test]
async fn an_edit_of_a_service_or_of_the_gateways_slice_is_put_back() {
    let mut stage = both().await;
    let before = ["chat", "train"].map(|name| spec_of::<Service>(&stage, name));
    let slice = spec_of::<EndpointSlice>(&stage, "chat-bursar-gateway");
    let edit = json!({"spec": {
        "selector": {"bursar.dev/workload": null, "app": "other"}, "ports": [{"port": 1}],
        "internalTrafficPolicy": "Local", "publishNotReadyAddresses": null,
    }});
    for name in ["chat", "train"] {
        edit_of::<Service>(&stage, name, edit.clone()).await;
    }
    let elsewhere = json!({"endpoints": [{"addresses": ["10.9.9.9"]}], "ports": [{"port": 9}]});
    edit_of::<EndpointSlice>(&stage, "chat-bursar-gateway", elsewhere).await;
    stage.seconds(3).await;
    for (name, before) in ["chat", "train"].into_iter().zip(before) {
        let mut now = spec_of::<Service>(&stage, name);
        // the API server's default, which is there now and was not before
        now["spec"]
            .as_object_mut()
            .unwrap()
            .remove("internalTrafficPolicy");
        let publishes = &mut now["spec"]["publishNotReadyAddresses"];
        if *publishes == json!(false) {
            *publishes = Value::Null;
        }
        let mut before = before;
        before["spec"]["publishNotReadyAddresses"] =
            before["spec"]["publishNotReadyAddresses"].take();
        assert_eq!(now, before, "{name}");
    }
    assert_eq!(
        spec_of::<EndpointSlice>(&stage, "chat-bursar-gateway"),
        slice
    );
}

#[tokio::test]
async fn what_nobody_asks_of_a_service_stays_and_costs_no_write() {
    let mut stage = both().await;
    edit_of::<Service>(
        &stage,
        "chat",
        json!({"spec": {"sessionAffinity": "ClientIP"}}),
    )
    .await;
    let writes = stage.leader.faults.writes();
    stage.seconds(5).await;
    assert_eq!(stage.leader.faults.writes(), writes);
    assert_eq!(
        spec_of::<Service>(&stage, "chat")["spec"]["sessionAffinity"],
        "ClientIP"
    );
}

/// A webhook changes them at each write, or a controller does.
#[tokio::test]
async fn who_edits_any_of_them_again_and_again_is_named_and_not_fought() {
    let mut stage = both().await;
    let selector = json!({"spec": {"selector": {"app": "other"}}});
    let elsewhere = json!({"endpoints": [{"addresses": ["10.9.9.9"]}]});
    for _ in 0..6 {
        edit_of::<Service>(&stage, "chat", selector.clone()).await;
        edit_of::<EndpointSlice>(&stage, "chat-bursar-gateway", elsewhere.clone()).await;
        edit_of::<Job>(&stage, "train", more_workers()).await;
        stage.world.turn().await;
        let view = super::leader::View::of(&stage.world);
        stage.leader.reconcile(&stage.world, &view).await.ok();
    }
    let workers = &spec_of::<Job>(&stage, "train")["spec"]["completions"];
    assert_eq!(*workers, 4, "it was put back three times");
    let writes = stage.leader.faults.writes();
    for _ in 0..5 {
        stage.world.turn().await;
        let view = super::leader::View::of(&stage.world);
        stage.leader.reconcile(&stage.world, &view).await.ok();
    }
    let more = stage.leader.faults.writes() - writes;
    assert!(more <= 6, "{more} writes");
    let services: Vec<InferenceDeployment> = stage.world.server.objects();
    let status = serde_json::to_string(&services[0].status).unwrap();
    assert!(
        status.contains("kubectl-set edits Service chat again"),
        "{status}"
    );
    let jobs: Vec<TrainingJob> = stage.world.server.objects();
    let status = serde_json::to_string(&jobs[0].status).unwrap();
    assert!(
        status.contains("kubectl-set edits Job train again"),
        "{status}"
    );
}

async fn suspend(stage: &Stage, suspend: bool) {
    let api = stage.world.api::<TrainingJob>();
    let patch = Patch::Merge(json!({"spec": {"suspend": suspend}}));
    api.patch("train", &PatchParams::default(), &patch)
        .await
        .unwrap();
}

/// What the cluster wants so is not fought, and keeps no gang from starting.
#[tokio::test]
async fn a_gang_resumes_though_a_webhook_bounds_its_jobs_at_each_write() {
    for field in ["ttlSecondsAfterFinished", "activeDeadlineSeconds"] {
        let mut stage = Stage::new(Faults::default()).await;
        let webhook = json!({"spec": {field: 3600}});
        stage.leader.faults.set_webhook("jobs", webhook);
        stage.world.create_job(None).await;
        stage.seconds(15).await;
        for _ in 0..4 {
            suspend(&stage, true).await;
            stage.seconds(5).await;
            assert_eq!(spec_of::<Job>(&stage, "train")["spec"]["suspend"], true);
            suspend(&stage, false).await;
            stage.seconds(5).await;
            assert_eq!(spec_of::<Job>(&stage, "train")["spec"]["suspend"], false);
        }
        let jobs: Vec<TrainingJob> = stage.world.server.objects();
        let status = serde_json::to_string(&jobs[0].status).unwrap();
        assert!(!status.contains("edits Job train again"), "{status}");
        // somebody else's value is an edit all the same
        edit_of::<Job>(&stage, "train", json!({"spec": {field: 1}})).await;
        stage.seconds(3).await;
        assert_eq!(spec_of::<Job>(&stage, "train")["spec"][field], 3600);
    }
}

/// Who sets it at random moments is named, and keeps no gang from starting.
#[tokio::test]
async fn a_gang_resumes_though_somebody_fights_over_how_long_it_may_run() {
    let mut stage = both().await;
    suspend(&stage, true).await;
    for seconds in 60..66 {
        let edit = json!({"spec": {"activeDeadlineSeconds": seconds}});
        edit_of::<Job>(&stage, "train", edit).await;
        stage.world.turn().await;
        let view = super::leader::View::of(&stage.world);
        stage.leader.reconcile(&stage.world, &view).await.ok();
    }
    assert_eq!(spec_of::<Job>(&stage, "train")["spec"]["suspend"], true);
    suspend(&stage, false).await;
    stage.seconds(5).await;
    assert_eq!(spec_of::<Job>(&stage, "train")["spec"]["suspend"], false);
    let jobs: Vec<TrainingJob> = stage.world.server.objects();
    let status = serde_json::to_string(&jobs[0].status).unwrap();
    assert!(status.contains("edits Job train again"), "{status}");
}
