//! A Job that exists is adopted by `targetRef`: Kubernetes' own Job controller makes and deletes its workers.

use bursar_e2e::{
    Access, Cluster, operator,
    runner::ScenarioResult,
    scenario::{budget_manifest, condition_reason, get_field, wait_for_field, wait_until},
};

const NAMESPACE: &str = "adopted-jobs";

/// A suspended Job, as its owner makes it, and the TrainingJob that adopts it.
fn manifests() -> String {
    format!(
        r#"
apiVersion: batch/v1
kind: Job
metadata: {{name: old, namespace: {NAMESPACE}}}
spec:
  suspend: true
  parallelism: 2
  completions: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 10
      containers:
        - name: worker
          image: bursar.local/trainer:dev
          imagePullPolicy: Never
          args: [--steps, "80", --step-time, 250ms, --checkpoint, /tmp/checkpoint]
          resources: {{limits: {{nvidia.com/gpu: 1}}}}
---
apiVersion: bursar.dev/v1alpha1
kind: TrainingJob
metadata: {{name: train, namespace: {NAMESPACE}}}
spec:
  targetRef: {{apiVersion: batch/v1, kind: Job, name: old}}
"#
    )
}

/// It is held for want of money, started, suspended by the budget, resumed, ends and is charged. Nothing of it
/// changes but whether it is suspended.
pub(crate) fn of_a_budget(cluster: &Cluster) -> ScenarioResult {
    operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
    let wait_for = |object: &str, path: &str, value: &str| {
        wait_for_field(cluster, NAMESPACE, object, path, value, 60)
    };
    let limit = |amount: &str| budget_manifest(NAMESPACE, amount, "");
    let namespace = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}, labels: {{bursar.dev/accounting: exact}}}}\n"
    );
    // without a budget the job starts
    cluster.apply(&format!("{namespace}---\n{}", limit("0.5")))?;
    wait_for("budget/team", ".status.phase", "Active")?;
    // 2 workers at 6.88 an hour, five minutes at least: that does not start them
    cluster.apply(&manifests())?;
    wait_for("tj/train", &condition_reason("TargetReady"), "Adopted")?;
    wait_for("tj/train", ".status.limitedBy", "Budget")?;
    wait_for("tj/train", ".status.phase", "Queued")?;
    let template = || get_field(cluster, NAMESPACE, "job/old", ".spec.template");
    let before = template()?;
    cluster.apply(&limit("50"))?;
    wait_for("tj/train", ".status.phase", "Running")?;
    wait_for("job/old", ".spec.suspend", "false")?;
    let labelled = ".items[*].metadata.labels.bursar\\.dev/workload";
    wait_for("pods", labelled, "train train")?;
    cluster.apply(&limit("0.01"))?;
    wait_for("tj/train", ".status.phase", "Suspended")?;
    wait_for("job/old", ".spec.suspend", "true")?;
    let running = r#".items[?(@.status.phase=="Running")].metadata.name"#;
    wait_for("pods", running, "")?;
    cluster.apply(&limit("50"))?;
    wait_for("tj/train", ".status.phase", "Running")?;
    wait_for_field(
        cluster,
        NAMESPACE,
        "tj/train",
        ".status.phase",
        "Succeeded",
        120,
    )?;
    if template()? != before {
        return Err("the pod template of the Job has changed".into());
    }
    wait_until("the job to be charged", 60, || {
        let total = get_field(cluster, NAMESPACE, "tj/train", ".status.spend.total")?;
        Ok(total.parse::<f64>().is_ok_and(|total| total > 0.0))
    })?;
    cluster.kubectl(&["-n", NAMESPACE, "delete", "tj", "train", "--timeout=30s"])?;
    let finalizers = get_field(cluster, NAMESPACE, "job/old", ".metadata.finalizers")?;
    match finalizers.contains("bursar") {
        true => Err(format!("the Job has finalizers: {finalizers}").into()),
        false => Ok(()),
    }
}
