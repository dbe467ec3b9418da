//! The trouble of one workload, and what the others see of it: nothing. And what a leader has not heard yet.

use bursar_api::{InferenceDeployment, SpendRecord, TrainingJob};
use bursar_apitest::faults::Faults;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::leader::{Leader, View};
use super::sweep::Stage;
use super::world::{OPERATOR, World};

/// Looks whose errors are expected.
async fn troubled(stage: &mut Stage, seconds: usize) {
    for _ in 0..seconds {
        stage.world.turn().await;
        let view = View::of(&stage.world);
        let looked = stage.leader.reconcile(&stage.world, &view).await;
        assert!(looked.is_err(), "the trouble is not told");
    }
}

/// A job runs whose record somebody edits by hand.
async fn edited() -> Stage {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_job(None).await;
    stage.seconds(4).await;
    let records: Vec<SpendRecord> = stage.world.server.objects();
    let api: Api<SpendRecord> = Api::all(stage.world.server.client());
    let days = json!({"status": {"days": [{"date": "yesterday", "gpuSeconds": 1}]}});
    for record in &records {
        let (name, params) = (record.name_any(), PatchParams::default());
        api.patch_status(&name, &params, &Patch::Merge(days.clone()))
            .await
            .unwrap();
    }
    stage
}

fn replicas(stage: &Stage) -> Option<i32> {
    stage
        .world
        .server
        .objects::<Deployment>()
        .first()?
        .spec
        .replicas
}

fn find<'a>(conditions: &'a [Condition], kind: &str) -> &'a Condition {
    conditions.iter().find(|each| each.type_ == kind).unwrap()
}

#[tokio::test]
async fn a_record_that_cannot_be_read_stops_no_other_workload_and_is_named() {
    let mut stage = edited().await;
    stage.world.create_chat(0).await;
    stage.world.requests = 2;
    troubled(&mut stage, 4).await;
    assert_eq!(
        replicas(&stage),
        Some(1),
        "the next request wakes its neighbour"
    );
    let job: TrainingJob = stage.world.server.objects().remove(0);
    let status = job.status.unwrap();
    let priced = find(&status.conditions, "Priced");
    assert_eq!(
        (priced.status.as_str(), priced.reason.as_str()),
        ("False", "SpendUnknown")
    );
    assert!(
        priced.message.contains("SpendRecord team.tj.train."),
        "{}",
        priced.message
    );
    assert_eq!(status.spend.unwrap().rate_per_hour, "unknown");
    let chat: InferenceDeployment = stage.world.server.objects().remove(0);
    let status = chat.status.unwrap();
    assert_eq!(find(&status.conditions, "Priced").status, "True");
}

#[tokio::test]
async fn a_record_that_cannot_be_read_lets_nothing_new_start_under_a_budget() {
    let mut stage = edited().await;
    stage.world.set_limit("9").await;
    stage.world.create_chat(0).await;
    stage.world.requests = 2;
    troubled(&mut stage, 4).await;
    assert_eq!(replicas(&stage), Some(0));
    let chat: InferenceDeployment = stage.world.server.objects().remove(0);
    let reason = chat.status.unwrap().reason;
    assert!(reason.contains("SpendRecord team.tj.train."), "{reason}");
}

#[tokio::test]
async fn a_status_that_cannot_be_written_stops_no_other_workload() {
    let world = World::new().await;
    world.create_chat(0).await;
    world.create_job(None).await;
    let view = View::of(&world);
    // somebody writes first
    let patch = Patch::Merge(json!({"metadata": {"labels": {"rival": "was-here"}}}));
    let api = world.api::<InferenceDeployment>();
    api.patch("chat", &PatchParams::default(), &patch)
        .await
        .unwrap();
    let mut leader = Leader::new(&world, Faults::default());
    let looked = leader.reconcile(&world, &view).await;
    assert!(looked.is_err_and(|error| error.is_conflict()));
    let job: TrainingJob = world.server.objects().remove(0);
    assert!(job.status.is_some(), "the job is followed all the same");
}

#[tokio::test]
async fn what_a_gateway_holds_is_unknown_to_a_new_leader_until_it_is_heard_or_not_ready() {
    let world = World::new().await;
    world.create_chat(0).await;
    let labels =
        json!({"app.kubernetes.io/name": "bursar", "app.kubernetes.io/component": "gateway"});
    let since = world.now - SignedDuration::from_hours(1);
    let with_gateway = |ready: &str| {
        let conditions =
            json!([{"type": "Ready", "status": ready, "lastTransitionTime": since.to_string()}]);
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "gateway-1", "namespace": OPERATOR, "uid": "gateway", "labels": labels},
            "status": {"conditions": conditions},
        }));
        let mut view = View::of(&world);
        view.pods.push(pod.unwrap());
        view
    };
    let view = with_gateway("True");
    let seconds = |seconds| world.now + SignedDuration::from_secs(seconds);
    let mut leader = Leader::new(&world, Faults::default());
    leader.fill_caches(&view);
    assert!(!is_known(&mut leader, seconds(0)).await);
    assert!(
        !is_known(&mut leader, seconds(3600)).await,
        "it is ready, so it may hold requests"
    );
    leader.fill_caches(&with_gateway("False"));
    assert!(!is_known(&mut leader, seconds(3601)).await);
    assert!(
        is_known(&mut leader, seconds(3661)).await,
        "it takes no requests, and those that it held have ended or gone elsewhere"
    );
    let mut leader = Leader::new(&world, Faults::default());
    leader.fill_caches(&view);
    leader.receive_demand(&world);
    assert!(is_known(&mut leader, seconds(0)).await);
    leader.note_silent("gateway");
    assert!(
        !is_known(&mut leader, seconds(11)).await,
        "it has fallen silent"
    );
    assert!(!is_known(&mut leader, seconds(3600)).await);
}

/// Whether the demand of the service is known.
async fn is_known(leader: &mut Leader, now: Timestamp) -> bool {
    leader.decide(now).await.ok();
    let explained = leader.explain("team", now);
    explained.services[0].queue_depth.is_some()
}
