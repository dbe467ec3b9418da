//! Records for tests: two teams in November 2026.

use serde_json::{Value, json};

/// SpendRecords as the API server gives them: a service of two replicas on H100s with one that runs, one on parts of a GPU, a
/// training run that is over, and a pod without a price.
pub(crate) fn records() -> Vec<Value> {
    let day = json!({"date": "2026-11-20", "hardware": 0, "compute": "164.50", "power": "12.345678901", "starting": "4.25",
        "idle": "40.10", "draining": "1.05", "estimated": "8.10", "gpuSeconds": 86_400, "carbonMilligrams": 12_500_000,
        "requests": 91_000, "inputTokens": 41_000_000, "outputTokens": 7_000_000});
    let open = json!({"uid": "u1", "pod": "chat-0", "start": "2026-11-23T12:00:00Z", "booked": "2026-11-23T23:00:00Z",
        "ready": "2026-11-23T12:02:00Z", "resource": "nvidia.com/gpu", "gpus": 1, "nodeGpus": 8, "model": "NVIDIA-H100-80GB-HBM3",
        "instanceType": "p5.48xlarge", "capacityType": "OnDemand", "region": "us-east-1",
        "rates": [{"from": "2026-11-23T12:00:00Z", "compute": "6.88", "power": "0.12"}]});
    let h100 = json!({"resource": "nvidia.com/gpu", "model": "NVIDIA-H100-80GB-HBM3", "instanceType": "p5.48xlarge",
        "capacityType": "OnDemand", "region": "us-east-1"});
    let part = json!({"resource": "nvidia.com/mig-1g.10gb", "share": "1/7", "model": "NVIDIA-A100-SXM4-80GB", "capacityType": "Spot"});
    let chat = json!({"hardware": [h100], "days": [
        day, {"date": "2026-11-23", "hardware": 0, "compute": "75.68", "power": "1.32", "starting": "0.233333333", "gpuSeconds": 39_600}],
        "open": [open], "settling": ["u0"], "settled": "253.845678901"});
    let embed = json!({"hardware": [part], "days": [
        {"date": "2026-11-24", "hardware": 0, "compute": "0.5625", "storage": "0.01", "idle": "0.281250001",
         "unattributed": "0.12", "gpuSeconds": 3_600}], "settled": "0.5725"});
    let tune = json!({"hardware": [h100, {"resource": "nvidia.com/gpu"}], "days": [
        {"date": "2026-11-02", "hardware": 0, "compute": "1321.00", "labour": "250.00", "gpuSeconds": 691_200},
        {"date": "2026-11-03", "hardware": 1, "gpuSeconds": 7_200, "unpricedGpuSeconds": 7_200}], "settled": "1571.00"});
    let lab = json!({"open": [
        {"uid": "u9", "pod": "lab-0", "owner": "StatefulSet/lab", "start": "2026-11-24T02:00:00Z", "resource": "amd.com/gpu", "gpus": 1,
         "nodeGpus": 8, "model": "AMD-Instinct-MI300X"}]});
    vec![
        record("ml", "InferenceDeployment", "chat", chat),
        record("ml", "InferenceDeployment", "embed", embed),
        record("research", "InferenceDeployment", "lab", lab),
        record("research", "TrainingJob", "finetune", tune),
    ]
}

fn record(namespace: &str, kind: &str, name: &str, status: Value) -> Value {
    let short = if kind == "TrainingJob" { "tj" } else { "infd" };
    json!({
        "apiVersion": "bursar.dev/v1alpha1", "kind": "SpendRecord",
        "metadata": {"name": format!("{namespace}.{short}.{name}.2026-11"), "labels": {"bursar.dev/namespace": namespace,
            "bursar.dev/kind": kind, "bursar.dev/workload": name, "bursar.dev/month": "2026-11"}},
        "spec": {"namespace": namespace, "kind": kind, "name": name, "month": "2026-11", "timeZone": "Europe/Berlin", "currency": "USD"},
        "status": status,
    })
}
