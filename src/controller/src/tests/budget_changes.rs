//! An edit of a budget that would newly stop something waits for the end of the grace window, and
//! says so.

use bursar_api::BudgetPolicy;
use bursar_api::budget::Unmanaged;
use bursar_api::conditions::BUDGET_CHANGE_PENDING;
use bursar_api::names::APPLY_NOW_ANNOTATION;
use bursar_apitest::faults::Faults;
use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use serde_json::json;

use super::leader::Leader;
use super::sweep::Stage;
use super::watched_cluster::patch;
use super::world::NAMESPACE;

const GRACE: SignedDuration = SignedDuration::from_secs(60);

fn replicas(stage: &Stage) -> Option<i32> {
    let deployments: Vec<Deployment> = stage.world.server.objects();
    deployments.first()?.spec.replicas
}

fn budget(stage: &Stage) -> BudgetPolicy {
    stage.world.server.objects().remove(0)
}

/// What the condition says, if it is there.
fn announced(stage: &Stage) -> Option<String> {
    let status = budget(stage).status?;
    let mut conditions = status.conditions.into_iter();
    let found = conditions.find(|each| each.type_ == BUDGET_CHANGE_PENDING)?;
    assert_eq!(found.status, "True");
    Some(found.message)
}

/// A service with two replicas, under a budget with enough money.
async fn running() -> Stage {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.change_grace = GRACE;
    stage.leader = Leader::new(&stage.world, Faults::default());
    stage.world.set_limit("9").await;
    stage.world.create_chat(2).await;
    stage.world.requests = 8;
    stage.seconds(10).await;
    assert_eq!((replicas(&stage), announced(&stage)), (Some(2), None));
    stage
}

#[tokio::test]
async fn a_lower_limit_is_announced_and_stops_what_runs_when_the_window_ends() {
    let mut stage = running().await;
    stage.world.set_limit("0.01").await;
    stage.seconds(2).await;
    let message = announced(&stage).unwrap();
    assert!(message.contains("infd/chat stops, because"), "{message}");
    assert!(message.contains("reach the limit of 0.01"), "{message}");
    assert!(
        message.contains("kubectl annotate budget team -n team bursar.dev/apply-now=true"),
        "{message}"
    );
    let status = budget(&stage).status.unwrap();
    let (at, now) = (status.change_effective_at.unwrap().0, stage.world.now);
    assert!(at > now && at <= now + GRACE);
    assert_eq!(status.in_force.unwrap().limit, "9.00");
    assert!(status.latch.is_none());
    let events: Vec<Event> = stage.world.server.objects();
    let said = |event: &&Event| event.action.as_deref() == Some(BUDGET_CHANGE_PENDING);
    let said: Vec<_> = events.iter().filter(said).collect();
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].type_.as_deref(), Some("Warning"));
    let explained = stage.leader.explain(NAMESPACE, now);
    assert_eq!(explained.budgets[0].change_effective_at, Some(at));
    // nothing grows
    stage.world.requests = 12;
    stage.seconds(20).await;
    assert_eq!(replicas(&stage), Some(2));
    // another leader continues the window
    stage.leader = Leader::new(&stage.world, Faults::default());
    stage.seconds(5).await;
    let status = budget(&stage).status.unwrap();
    assert_eq!(status.change_effective_at.unwrap().0, at);
    assert_eq!(replicas(&stage), Some(2));
    stage.seconds(60).await;
    assert_eq!((replicas(&stage), announced(&stage)), (Some(0), None));
    let status = budget(&stage).status.unwrap();
    assert_eq!(status.in_force.unwrap().limit, "0.01");
    assert_eq!(status.change_effective_at, None);
}

#[tokio::test]
async fn an_edit_while_nobody_leads_has_its_window_too() {
    let mut stage = running().await;
    stage.world.set_limit("0.01").await;
    stage.leader = Leader::new(&stage.world, Faults::default());
    stage.seconds(20).await;
    assert_eq!(replicas(&stage), Some(2));
    assert!(announced(&stage).is_some());
    stage.seconds(60).await;
    assert_eq!(replicas(&stage), Some(0));
}

#[tokio::test]
async fn the_annotation_lets_it_stop_at_once() {
    let mut stage = running().await;
    stage.world.set_limit("0.01").await;
    stage.seconds(3).await;
    let annotation = json!({"metadata": {"annotations": {APPLY_NOW_ANNOTATION: "true"}}});
    patch::<BudgetPolicy>(&stage.world, "team", annotation).await;
    stage.seconds(12).await;
    assert_eq!((replicas(&stage), announced(&stage)), (Some(0), None));
}

#[tokio::test]
async fn what_is_taken_back_within_the_window_stops_nothing() {
    let mut stage = running().await;
    stage.world.set_limit("0.01").await;
    stage.seconds(3).await;
    stage.world.set_limit("9").await;
    stage.seconds(2).await;
    assert_eq!(announced(&stage), None);
    stage.world.requests = 12;
    stage.seconds(70).await;
    assert_eq!(replicas(&stage), Some(3));
}

/// What evicting pods of others would cost is more than the budget has left.
#[tokio::test]
async fn an_edit_to_evict_is_announced_and_another_leader_continues_the_window() {
    let mut stage = running().await;
    let limits = json!({"limits": {"nvidia.com/gpu": "1"}});
    let container = json!({"name": "c", "image": "notebook", "resources": limits});
    for number in 0..6 {
        let name = format!("notebook-{number}");
        let spec = json!({
            "nodeName": "node", "terminationGracePeriodSeconds": 3600, "containers": [container],
        });
        let pod = json!({"metadata": {"name": name}, "spec": spec});
        stage.world.create::<Pod>(pod).await;
    }
    stage.seconds(5).await;
    let evict = json!({"spec": {"unmanaged": "Evict", "exemptOwners": ["Pod/other"]}});
    patch::<BudgetPolicy>(&stage.world, "team", evict).await;
    stage.seconds(3).await;
    assert!(announced(&stage).is_some());
    let status = budget(&stage).status.unwrap();
    let at = status.change_effective_at.unwrap().0;
    assert_eq!(status.in_force.unwrap().unmanaged, Some(Unmanaged::Leave));
    stage.leader = Leader::new(&stage.world, Faults::default());
    stage.seconds(5).await;
    let status = budget(&stage).status.unwrap();
    assert_eq!(status.change_effective_at.unwrap().0, at);
    assert_eq!((replicas(&stage), status.latch), (Some(2), None));
    stage.seconds(60).await;
    assert_eq!((replicas(&stage), announced(&stage)), (Some(0), None));
    let in_force = budget(&stage).status.unwrap().in_force.unwrap();
    assert_eq!(in_force.unmanaged, Some(Unmanaged::Evict));
    assert_eq!(in_force.exempt_owners, ["Pod/other"]);
}
