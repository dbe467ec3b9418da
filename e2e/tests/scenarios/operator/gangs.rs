//! A gang where Kubernetes' own gang scheduling is on.

use std::{thread, time::Duration};

use bursar_e2e::{
    Access, Cluster, operator,
    runner::ScenarioResult,
    scenario::{get_field, job_manifest, wait_for_field, wait_until},
};

const NAMESPACE: &str = "gangs";

/// A gang waits as pods because nodes may be made for it: while there is room for two of its three
/// workers none of them gets a node, and with room for the third all do.
pub(crate) fn placed_as_a_whole(cluster: &Cluster) -> ScenarioResult {
    let values = [
        "controller.leaseDuration=6s",
        "nodeAutoscaling.enabled=Enabled",
    ];
    operator::install(cluster, operator::IMAGE, &values)?;
    let others = job_manifest(NAMESPACE, "others", 1, &args(100_000));
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n{others}"
    ))?;
    let wait_for = |object: &str, path: &str, value: &str| {
        wait_for_field(cluster, NAMESPACE, object, path, value, 60)
    };
    wait_for("tj/others", ".status.phase", "Running")?;

    let gang = job_manifest(NAMESPACE, "gang", 1, &args(4)).replace("replicas: 1", "replicas: 3");
    cluster.apply(&gang)?;
    let of_gang = |path: &str| {
        let path = format!("jsonpath={{.items[*]{path}}}");
        let of_gang = ["-l", "bursar.dev/workload=gang", "-o", &path];
        cluster.kubectl(&[&["-n", NAMESPACE, "get", "pods"], &of_gang[..]].concat())
    };
    wait_until("three workers to wait as pods", 30, || {
        Ok(of_gang(".metadata.name")?.split_whitespace().count() == 3)
    })?;
    wait_for(
        "podgroups",
        ".items[*].spec.schedulingPolicy.gang.minCount",
        "3",
    )?;
    // kube-scheduler needs far less to place those for which there is room
    thread::sleep(Duration::from_secs(10));
    let placed = of_gang(".spec.nodeName")?;
    if !placed.is_empty() {
        return Err(format!("a part of the gang was placed: {placed}").into());
    }
    cluster.kubectl(&["-n", NAMESPACE, "delete", "tj", "others"])?;
    wait_for("tj/gang", ".status.phase", "Succeeded")?;
    let condition =
        r#".items[*].status.conditions[?(@.type=="PodGroupInitiallyScheduled")].status"#;
    wait_for("podgroups", condition, "True")?;
    wait_for("tj/gang", ".status.attempts", "1")?;
    cluster.kubectl(&["-n", NAMESPACE, "delete", "tj", "gang"])?;
    wait_until("the PodGroup to go with its gang", 60, || {
        Ok(get_field(cluster, NAMESPACE, "podgroups", ".items[*].metadata.name")?.is_empty())
    })
}

/// Arguments of a worker that takes so many steps, four a second.
fn args(steps: u32) -> String {
    format!(r#"--steps, "{steps}", --step-time, 250ms, --checkpoint, /tmp/checkpoint"#)
}
