//! What corrections do to budgets and statuses.

use bursar_api::budget::BudgetPolicyStatus;
use bursar_api::{BudgetPolicy, InferenceDeployment, SpendCorrection};
use bursar_apitest::faults::Faults;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use serde_json::json;

use super::sweep::Stage;
use crate::corrections::sync_once;
use crate::metrics;

async fn correct(stage: &Stage, name: &str, date: &str, amount: &str, currency: &str) {
    let spec = json!({
        "namespace": "team", "workload": {"kind": "InferenceDeployment", "name": "chat"}, "date": date, "amount": amount,
        "currency": currency, "category": "Adjustment", "reason": "a test",
    });
    let object = json!({"metadata": {"name": name}, "spec": spec});
    stage.world.create_all::<SpendCorrection>(object).await;
}

fn budget(stage: &Stage) -> BudgetPolicyStatus {
    let budgets: Vec<BudgetPolicy> = stage.world.server.objects();
    budgets[0].status.clone().unwrap()
}

fn replicas(stage: &Stage) -> Option<i32> {
    let deployments: Vec<Deployment> = stage.world.server.objects();
    deployments.first()?.spec.replicas
}

#[tokio::test]
async fn a_credit_reopens_an_exhausted_budget_as_a_raised_limit_does() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.now = "2026-12-10T00:00:00Z".parse().unwrap();
    stage.world.set_limit("0.06").await;
    stage.world.create_chat(0).await;
    stage.world.requests = 4;
    stage.seconds(80).await;
    assert!(budget(&stage).latch.is_some() && replicas(&stage) == Some(0));
    let before: f64 = budget(&stage).spent.parse().unwrap();
    correct(&stage, "later", "2026-12-11", "-100", "USD").await;
    correct(&stage, "foreign", "2026-12-10", "-100", "EUR").await;
    correct(&stage, "last-month", "2026-11-30", "-100", "USD").await;
    stage.seconds(3).await;
    assert_eq!(
        (budget(&stage).corrections, replicas(&stage)),
        (None, Some(0))
    );
    assert!(budget(&stage).latch.is_some(), "none of them counts");
    correct(&stage, "credit", "2026-12-10", "-1", "USD").await;
    stage.seconds(3).await;
    let after = budget(&stage);
    assert_eq!(
        (after.corrections.as_deref(), replicas(&stage)),
        (Some("-1.0000"), Some(1))
    );
    let spent: f64 = after.spent.parse().unwrap();
    assert!(after.latch.is_none() && spent < before - 0.9, "{spent}");
    let chat = &stage.world.server.objects::<InferenceDeployment>()[0];
    let spend = chat.status.as_ref().and_then(|status| status.spend.clone());
    assert_eq!(spend.unwrap().corrections.as_deref(), Some("-1.0000"));
}

#[tokio::test]
async fn a_namespace_that_has_corrections_alone_has_their_metric() {
    let mut stage = Stage::new(Faults::default()).await;
    let spec = json!({
        "namespace": "gone", "date": "2026-11-30", "amount": "5.50", "currency": "USD", "category": "Adjustment", "reason": "a test",
    });
    let object = json!({"metadata": {"name": "invoice"}, "spec": spec});
    stage.world.create_all::<SpendCorrection>(object).await;
    stage.seconds(1).await;
    let context = &stage.leader.context;
    let shown = context
        .metrics
        .namespaces
        .values(metrics::CORRECTIONS_MONTH);
    assert_eq!(shown, [5.5]);
}

#[tokio::test]
async fn a_correction_says_whether_it_counts_and_is_not_written_again() {
    let mut stage = Stage::new(Faults::default()).await;
    stage.world.create_chat(1).await;
    stage.seconds(10).await;
    correct(&stage, "counts", "2026-11-30", "-1", "USD").await;
    correct(&stage, "later", "2026-12-24", "5", "USD").await;
    correct(&stage, "foreign", "2026-11-01", "1", "EUR").await;
    correct(&stage, "wrong", "2026-02-30", "1", "USD").await;
    stage.seconds(1).await;
    let context = &stage.leader.context;
    sync_once(context, stage.world.now).await.unwrap();
    let said: Vec<SpendCorrection> = stage.world.server.objects();
    let said = said.iter().map(|object| {
        let condition = &object.status.as_ref().unwrap().conditions[0];
        format!(
            "{} {} {}",
            object.name_any(),
            condition.status,
            condition.reason
        )
    });
    assert_eq!(
        said.collect::<Vec<_>>(),
        [
            "counts True Counts",
            "foreign False OtherCurrency",
            "later True Pending",
            "wrong False Unreadable"
        ]
    );
    stage.seconds(1).await;
    let writes = stage.leader.faults.writes();
    let context = &stage.leader.context;
    sync_once(context, stage.world.now).await.unwrap();
    assert_eq!(stage.leader.faults.writes(), writes);
}
