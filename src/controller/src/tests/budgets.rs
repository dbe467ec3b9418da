//! What an exhausted budget leaves of a service.

use bursar_api::BudgetPolicy;
use bursar_apitest::faults::Faults;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::sweep::Stage;

fn replicas(stage: &Stage) -> Option<i32> {
    let deployments: Vec<Deployment> = stage.world.server.objects();
    deployments.first()?.spec.replicas
}

/// Two replicas run when the money is gone; returns the replicas that the Deployment then had, one after the other.
async fn exhausted(on_exhausted: &str) -> Vec<i32> {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.slow = true;
    stage.world.set_limit("9").await;
    let patch = Patch::Merge(json!({"spec": {"onExhausted": on_exhausted}}));
    let api = stage.world.api::<BudgetPolicy>();
    api.patch("team", &PatchParams::default(), &patch)
        .await
        .unwrap();
    stage.world.create_chat(1).await;
    stage.world.requests = 8;
    stage.seconds(12).await;
    assert_eq!(replicas(&stage), Some(2));
    stage.world.set_limit("0.01").await;
    stage.world.requests = 12;
    let mut seen = Vec::new();
    for _ in 0..20 {
        stage.seconds(1).await;
        seen.extend(replicas(&stage));
    }
    seen.dedup();
    assert_eq!(stage.world.cut, [] as [&str; 0]);
    seen
}

#[tokio::test]
async fn freeze_keeps_what_runs() {
    assert_eq!(exhausted("Freeze").await, [2]);
}

#[tokio::test]
async fn scale_to_min_keeps_the_minimum() {
    assert_eq!(exhausted("ScaleToMin").await, [2, 1]);
}

#[tokio::test]
async fn scale_to_zero_keeps_nothing() {
    assert_eq!(exhausted("ScaleToZero").await, [2, 0]);
}

/// What was announced of the budget: type, reason, and how often.
fn announced(stage: &Stage) -> Vec<(String, String, i32)> {
    let events: Vec<Event> = stage.world.server.objects();
    let of_budget = |event: &&Event| {
        let regarding = event.regarding.as_ref();
        regarding.and_then(|about| about.kind.as_deref()) == Some("BudgetPolicy")
    };
    let mut events: Vec<&Event> = events.iter().filter(of_budget).collect();
    events.sort_by_key(|event| event.event_time.clone());
    let events = events.into_iter().map(|event| {
        let count = event.series.as_ref().map_or(1, |series| series.count);
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        (text(&event.type_), text(&event.reason), count)
    });
    events.collect()
}

#[tokio::test]
async fn that_a_budget_is_exhausted_and_open_again_is_announced_once() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.set_limit("9").await;
    stage.world.create_chat(1).await;
    stage.seconds(12).await;
    assert_eq!(announced(&stage), []);
    stage.world.set_limit("0.01").await;
    stage.seconds(20).await;
    let exhausted = ("Warning".to_owned(), "BudgetExhausted".to_owned(), 1);
    assert_eq!(announced(&stage), std::slice::from_ref(&exhausted));
    stage.world.set_limit("9").await;
    stage.seconds(10).await;
    let reopened = ("Normal".to_owned(), "BudgetReopened".to_owned(), 1);
    assert_eq!(announced(&stage), [exhausted, reopened]);
}
