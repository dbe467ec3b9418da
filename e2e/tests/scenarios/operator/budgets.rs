//! Budgets: they stop services and gangs in time, and let them go on.

use std::{os::unix::fs::PermissionsExt, time::Duration};

use bursar_e2e::{Access, Cluster, operator, runner::ScenarioResult, traffic};
use jiff::Timestamp;

use bursar_e2e::scenario::{
    self, client_runtime, deploy_service, expect_all_ok, get_field, service_manifest,
    wait_for_field, wait_for_zero, wait_until, with_min_replicas,
};

pub(crate) fn stops_a_service(cluster: &Cluster) -> ScenarioResult {
    let address = deploy_service(cluster, "budget", r#""--speedup", "20""#, "1h")?;
    let limit =
        |amount: &str| scenario::budget_manifest("budget", amount, ", minimumUsefulRun: 10s");
    // 6.88 an hour: 0.0669 to stop (15 s of drain, 10 s of grace, 10 s of slack) and 0.0191 for ten seconds, and some to run
    cluster.apply(&limit("0.13"))?;
    wait_for_field(
        cluster,
        "budget",
        "budget/team",
        ".status.phase",
        "Active",
        20,
    )?;
    let runtime = client_runtime()?;
    expect_all_ok(&runtime.block_on(traffic::burst(address, 1, Duration::ZERO, 4)))?;
    wait_for_field(
        cluster,
        "budget",
        "budget/team",
        ".status.phase",
        "Exhausted",
        60,
    )?;
    wait_for_field(
        cluster,
        "budget",
        "infd/chat",
        ".status.limitedBy",
        "Budget",
        20,
    )?;
    wait_for_zero(cluster, "budget")?;
    let refused = runtime.block_on(traffic::complete(address, 4));
    if refused.status != Some(429) || !refused.text.contains("insufficient_quota") {
        return Err(format!("a request that the budget keeps out got {refused:?}").into());
    }
    // it may come again when the budget's period is over, and the header says so in seconds
    let retry_at: Timestamp = get_field(
        cluster,
        "budget",
        "infd/chat",
        ".status.activation.refusal.retryAt",
    )?
    .parse()?;
    let expected = retry_at.duration_since(Timestamp::now()).as_secs();
    let said: i64 = refused
        .retry_after
        .as_deref()
        .ok_or("the refusal has no Retry-After")?
        .parse()?;
    if said < 1 || (said - expected).abs() > 5 {
        return Err(
            format!("Retry-After is {said} s, and the budget reopens in {expected} s").into(),
        );
    }
    let spent: f64 = get_field(cluster, "budget", "infd/chat", ".status.spend.total")?.parse()?;
    if spent <= 0.0 || spent > 0.13 {
        return Err(format!("{spent} of 0.13 were spent").into());
    }
    cluster.apply(&limit("5"))?;
    wait_for_field(
        cluster,
        "budget",
        "budget/team",
        ".status.phase",
        "Active",
        20,
    )?;
    wait_until("the service to take requests again", 20, || {
        Ok(get_field(cluster, "budget", "infd/chat", ".status.activation.refusal")?.is_empty())
    })?;
    expect_all_ok(&runtime.block_on(traffic::burst(address, 3, Duration::ZERO, 4)))?;
    cluster.kubectl(&["-n", "budget", "delete", "infd", "chat"])?;
    wait_for_field(cluster, "budget", "pods", ".items[*].metadata.name", "", 60)
}

/// `Freeze` keeps what runs and lets nothing grow; `ScaleToMin` keeps the minimum.
pub(crate) fn freezes_and_shrinks(cluster: &Cluster) -> ScenarioResult {
    const FLAGS: &str = r#""--speedup", "20""#;
    let limit = |amount: &str, action: &str| {
        scenario::budget_manifest(
            "frozen",
            amount,
            &format!(", minimumUsefulRun: 10s, onExhausted: {action}"),
        )
    };
    let chat = |replicas| with_min_replicas(replicas, &service_manifest("frozen", FLAGS, "1h"));
    let wait_for_field = |object: &str, path: &str, value: &str| {
        wait_for_field(cluster, "frozen", object, path, value, 60)
    };
    deploy_service(cluster, "frozen", FLAGS, "1h")?;
    cluster.apply(&limit("50", "Freeze"))?;
    cluster.apply(&chat(2))?;
    wait_for_field("infd/chat", ".status.readyReplicas", "2")?;
    cluster.apply(&limit("0.0001", "Freeze"))?;
    wait_for_field("budget/team", ".status.phase", "OverLimit")?;
    cluster.apply(&chat(3))?;
    wait_for_field("infd/chat", ".status.desiredReplicas", "3")?;
    wait_for_field("infd/chat", ".status.limitedBy", "Budget")?;
    wait_for_field("deployment/chat", ".spec.replicas", "2")?;
    cluster.apply(&limit("0.0001", "ScaleToMin"))?;
    cluster.apply(&chat(1))?;
    wait_for_field("deployment/chat", ".spec.replicas", "1")?;
    wait_for_field("infd/chat", ".status.readyReplicas", "1")?;
    cluster.kubectl(&["-n", "frozen", "delete", "infd", "chat"])?;
    wait_for_field("pods", ".items[*].metadata.name", "")
}

pub(crate) fn suspends_a_gang(cluster: &Cluster) -> ScenarioResult {
    const STEPS: u64 = 60;
    operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
    let directory = cluster.run_directory().join("training");
    std::fs::create_dir_all(&directory)?;
    // the image's user is not root
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777))?;
    let limit = |amount: &str| scenario::budget_manifest("training", amount, "");
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: training}\n---\n";
    cluster.apply(&format!("{namespace}{}", limit("0.5")))?;
    // 2 workers at 6.88 an hour, five minutes at least: 0.5 does not start them
    cluster.apply(&format!(
        r#"
apiVersion: bursar.dev/v1alpha1
kind: TrainingJob
metadata: {{name: train, namespace: training}}
spec:
  framework: PyTorch
  replicas: 2
  template:
    spec:
      terminationGracePeriodSeconds: 10
      volumes: [{{name: data, hostPath: {{path: {}}}}}]
      containers:
        - name: worker
          image: bursar.local/trainer:dev
          imagePullPolicy: Never
          args: [--steps, "{STEPS}", --step-time, 250ms, --checkpoint, /data, --journal, /data/journal]
          volumeMounts: [{{name: data, mountPath: /data}}]
          resources: {{limits: {{nvidia.com/gpu: 1}}}}
"#,
        directory.display()
    ))?;
    wait_for_field(
        cluster,
        "training",
        "tj/train",
        ".status.limitedBy",
        "Budget",
        30,
    )?;
    cluster.apply(&limit("50"))?;
    wait_for_field(
        cluster,
        "training",
        "tj/train",
        ".status.phase",
        "Running",
        60,
    )?;
    wait_until("some steps to be done", 30, || {
        Ok(std::fs::read_to_string(directory.join("journal"))
            .is_ok_and(|text| text.lines().count() > 20))
    })?;
    cluster.apply(&limit("0.01"))?;
    wait_for_field(
        cluster,
        "training",
        "tj/train",
        ".status.phase",
        "Suspended",
        60,
    )?;
    wait_for_field(
        cluster,
        "training",
        "pods",
        ".items[?(@.status.phase==\"Running\")].metadata.name",
        "",
        20,
    )?;
    cluster.apply(&limit("50"))?;
    wait_for_field(
        cluster,
        "training",
        "tj/train",
        ".status.phase",
        "Succeeded",
        90,
    )?;
    let mut steps: Vec<(u64, u64)> = Vec::new();
    for line in std::fs::read_to_string(directory.join("journal"))?.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        if let (Some(rank), Some(step)) = (line["rank"].as_u64(), line["step"].as_u64()) {
            steps.push((rank, step));
        }
    }
    steps.sort_unstable();
    let first = steps.first().map_or(0, |(_, step)| *step);
    let expected: Vec<(u64, u64)> = (0..2)
        .flat_map(|rank| (first..first + STEPS).map(move |step| (rank, step)))
        .collect();
    if steps != expected {
        return Err(format!(
            "steps were lost or done twice: {} lines, {} expected",
            steps.len(),
            expected.len()
        )
        .into());
    }
    let attempts = get_field(cluster, "training", "tj/train", ".status.attempts")?;
    if attempts != "2" {
        Err(format!("it was started {attempts} times, not twice").into())
    } else {
        Ok(())
    }
}
