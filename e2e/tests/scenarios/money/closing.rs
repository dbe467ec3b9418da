//! Months that are over.

use bursar_e2e::{
    Access, Cluster, operator,
    runner::ScenarioResult,
    scenario::{kubectl_bursar, wait_until},
};
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use serde_json::{Value, json};

/// A new leader closes months within this long.
const SOON: u64 = 120;

/// Two workloads of a month that is over long since are folded into one record, which changes no figure, and what is older than the
/// retention is removed.
pub(crate) fn folded(cluster: &Cluster) -> ScenarioResult {
    let month_before = |ago: i64| -> Result<String, jiff::Error> {
        let then = Timestamp::now()
            .to_zoned(TimeZone::UTC)
            .checked_sub(ago.months())?;
        Ok(then.strftime("%Y-%m").to_string())
    };
    let (closed, old) = (month_before(3)?, month_before(15)?);
    for (name, month, compute) in [
        ("a", &closed, "1.25"),
        ("b", &closed, "2.5"),
        ("a", &old, "7"),
    ] {
        put(cluster, name, month, compute)?;
    }
    let report = || {
        kubectl_bursar(
            cluster,
            &[
                "report",
                "-n",
                "past",
                "--month",
                &closed,
                "--by",
                "workload,gpu,day",
                "-o",
                "csv",
            ],
        )
    };
    let before = report()?;
    for cost in ["1.25", "2.5"] {
        if !before.contains(cost) {
            return Err(format!("{cost} is not in {before}").into());
        }
    }
    // whoever leads next begins with it
    let leader = "app.kubernetes.io/component=controller";
    cluster.kubectl(&["-n", operator::NAMESPACE, "delete", "pods", "-l", leader])?;
    let folded = format!("past.ns.folded.{closed}");
    let of_past = "bursar.dev/namespace=past";
    wait_until("what is over to be folded", SOON, || {
        let left = cluster.kubectl(&["get", "spend", "-l", of_past, "-o", "name"])?;
        Ok(left.trim() == format!("spendrecord.bursar.dev/{folded}"))
    })?;
    let after = report()?;
    if before != after {
        return Err(format!("the report was {before} and is {after}").into());
    }
    kubectl_bursar(cluster, &["ledger", "verify"])?;
    Ok(())
}

/// Makes the record of a training run.
fn put(cluster: &Cluster, name: &str, month: &str, compute: &str) -> ScenarioResult {
    let labels = json!({
        "bursar.dev/kind": "TrainingJob", "bursar.dev/month": month, "bursar.dev/namespace": "past", "bursar.dev/workload": name,
    });
    let record = format!("past.tj.{name}.{month}");
    let spec = json!({
        "namespace": "past", "kind": "TrainingJob", "name": name, "month": month, "timeZone": "UTC", "currency": "USD",
    });
    let object: Value = json!({
        "apiVersion": "bursar.dev/v1alpha1", "kind": "SpendRecord", "metadata": {"name": record, "labels": labels}, "spec": spec,
    });
    cluster.apply(&object.to_string())?;
    let day =
        json!({"date": format!("{month}-03"), "hardware": 0, "compute": compute, "gpuSeconds": 60});
    let hardware = json!([{"resource": "nvidia.com/gpu", "model": "H100"}]);
    let status =
        json!({"status": {"hardware": hardware, "days": [day], "settled": compute}}).to_string();
    let patch = [
        "patch",
        "spend",
        &record,
        "--subresource=status",
        "--type=merge",
        "-p",
        &status,
    ];
    cluster.kubectl(&patch)?;
    Ok(())
}
