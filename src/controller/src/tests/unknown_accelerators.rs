//! Accelerators that no rule knows: they cost nothing, and the budgets of their namespace say so.

use bursar_api::BudgetPolicy;
use bursar_apitest::faults::Faults;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::sweep::Stage;

/// A pod of others that holds one of a resource.
fn pod(name: &str, resource: &str) -> Value {
    let limits = json!({resource: "1"});
    let containers = json!([{"name": "c", "image": "engine", "resources": {"limits": limits}}]);
    json!({"metadata": {"name": name}, "spec": {"nodeName": "node", "containers": containers}})
}

/// Reason and message of the budget's condition, if it has it.
fn condition(stage: &Stage) -> Option<(String, String)> {
    let budget: BudgetPolicy = stage.world.server.objects().remove(0);
    let mut conditions = budget.status?.conditions.into_iter();
    let found = conditions.find(|condition| condition.type_ == "AcceleratorsKnown")?;
    Some((found.reason, found.message))
}

/// A status may be written every five minutes.
async fn wait(stage: &mut Stage) {
    stage.seconds(2).await;
    stage.world.now += SignedDuration::from_mins(6);
    stage.seconds(2).await;
}

async fn end(stage: &Stage, name: &str) {
    let pod = stage.world.api::<Pod>().get(name).await.unwrap();
    stage.world.end(&pod, stage.world.now).await;
}

#[tokio::test]
async fn a_budget_names_accelerators_that_no_rule_knows_while_a_pod_holds_one() {
    let mut stage = Stage::new(Faults::default()).await;
    let spec = json!({"limit": "100", "period": "Monthly"});
    let budget = json!({"metadata": {"name": "team"}, "spec": spec});
    stage.world.create::<BudgetPolicy>(budget).await;
    for (name, resource) in [
        ("known", "nvidia.com/gpu"),
        ("fuse", "smarter-devices/fuse"),
    ] {
        stage.world.create::<Pod>(pod(name, resource)).await;
    }
    wait(&mut stage).await;
    assert_eq!(condition(&stage), None);
    for (name, resource) in [
        ("npu-a", "huawei.com/Ascend910"),
        ("npu-b", "huawei.com/Ascend910"),
        ("renamed", "nvidia.com/gpu-a"),
    ] {
        stage.world.create::<Pod>(pod(name, resource)).await;
    }
    wait(&mut stage).await;
    let (reason, message) = condition(&stage).unwrap();
    assert_eq!(reason, "UnknownResource");
    for word in [
        "huawei.com/Ascend910 (pod npu-a)",
        "nvidia.com/gpu-a (pod renamed)",
        "cost nothing",
    ] {
        assert!(message.contains(word), "{word}: {message}");
    }
    for name in ["npu-a", "renamed"] {
        end(&stage, name).await;
    }
    wait(&mut stage).await;
    let (_, message) = condition(&stage).unwrap();
    assert!(
        message.contains("huawei.com/Ascend910 (pod npu-b)"),
        "{message}"
    );
    assert!(!message.contains("nvidia.com/gpu-a"), "{message}");
    end(&stage, "npu-b").await;
    wait(&mut stage).await;
    assert_eq!(condition(&stage), None);
}
