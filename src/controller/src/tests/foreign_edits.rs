//! What others edit of a service's Deployment is put back.

use bursar_api::InferenceDeployment;
use bursar_apitest::faults::Faults;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Patch, PatchParams};
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
