//! A Job that exists is adopted by `targetRef`: Kubernetes' own Job controller makes and deletes its workers.

use bursar_e2e::{
    Access, Cluster, operator,
    runner::ScenarioResult,
    scenario::{budget_manifest, condition_reason, get_field, wait_for_field, wait_until},
};
use serde_json::json;

use crate::example::{Example, run_test_program, set};

const NAMESPACE: &str = "adopted-jobs";

/// The example with two workers that take twenty seconds. Its Job is made suspended.
fn manifests() -> Result<String, Box<dyn std::error::Error>> {
    let mut example = Example::read("adoption/job")?;
    let job = &mut example.object("Job")?["spec"];
    set(job, &json!({"parallelism": 2, "completions": 2}));
    let args = [
        "--steps",
        "80",
        "--step-time",
        "250ms",
        "--checkpoint",
        "/tmp/checkpoint",
    ];
    run_test_program(&mut job["template"], "trainer", &args);
    Ok(example.manifest(NAMESPACE))
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
    cluster.apply(&manifests()?)?;
    wait_for("tj/distill", &condition_reason("TargetReady"), "Adopted")?;
    wait_for("tj/distill", ".status.limitedBy", "Budget")?;
    wait_for("tj/distill", ".status.phase", "Queued")?;
    let template = || get_field(cluster, NAMESPACE, "job/distill", ".spec.template");
    let before = template()?;
    cluster.apply(&limit("50"))?;
    wait_for("tj/distill", ".status.phase", "Running")?;
    wait_for("job/distill", ".spec.suspend", "false")?;
    let labelled = ".items[*].metadata.labels.bursar\\.dev/workload";
    wait_for("pods", labelled, "distill distill")?;
    cluster.apply(&limit("0.01"))?;
    wait_for("tj/distill", ".status.phase", "Suspended")?;
    wait_for("job/distill", ".spec.suspend", "true")?;
    let running = r#".items[?(@.status.phase=="Running")].metadata.name"#;
    wait_for("pods", running, "")?;
    cluster.apply(&limit("50"))?;
    wait_for("tj/distill", ".status.phase", "Running")?;
    wait_for_field(
        cluster,
        NAMESPACE,
        "tj/distill",
        ".status.phase",
        "Succeeded",
        120,
    )?;
    if template()? != before {
        return Err("the pod template of the Job has changed".into());
    }
    wait_until("the job to be charged", 60, || {
        let total = get_field(cluster, NAMESPACE, "tj/distill", ".status.spend.total")?;
        Ok(total.parse::<f64>().is_ok_and(|total| total > 0.0))
    })?;
    cluster.kubectl(&["-n", NAMESPACE, "delete", "tj", "distill", "--timeout=30s"])?;
    let finalizers = get_field(cluster, NAMESPACE, "job/distill", ".metadata.finalizers")?;
    match finalizers.contains("bursar") {
        true => Err(format!("the Job has finalizers: {finalizers}").into()),
        false => Ok(()),
    }
}
