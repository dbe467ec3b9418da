//! The ledger when a node is lost, and when the ledger itself is.

use std::collections::BTreeMap;

use bursar_e2e::{
    Access, Cluster,
    oracle::{self, PodLifetime},
    runner::ScenarioResult,
    scenario::{
        self, condition_reason, get_field, kubectl_bursar, scale_controllers, service_manifest,
        wait_for_field, wait_until, with_min_replicas,
    },
};
use jiff::Timestamp;
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Nano-units of a second on the second node, by the imported table.
const SECOND: i128 = 500_000;

/// The record of the service `chat` of a namespace.
pub(crate) fn record(namespace: &str) -> String {
    format!("spend/{namespace}.infd.chat.{}", scenario::current_month())
}

/// The service on the second node.
pub(crate) fn on_second_node(cluster: &Cluster, manifest: &str) -> Result<String> {
    let node = &cluster
        .nodes()
        .get(1)
        .ok_or("there is no second node")?
        .name;
    let first = "    spec:\n      terminationGracePeriodSeconds";
    let selector = format!(
        "    spec:\n      nodeSelector: {{kubernetes.io/hostname: {node}}}\n      terminationGracePeriodSeconds"
    );
    Ok(manifest.replace(first, &selector))
}

/// The only stay of a namespace's service: its pod's, when it was bound and when it ended.
pub(crate) fn stay<'a>(
    stays: &'a [PodLifetime],
    namespace: &str,
) -> Result<(&'a PodLifetime, i64, Option<i64>)> {
    let workload = format!("{namespace}.infd.chat");
    let mut ours = stays
        .iter()
        .filter(|stay| stay.workload == workload && stay.bound.is_some());
    let (Some(stay), None) = (ours.next(), ours.next()) else {
        return Err(format!("the audit log has not one stay of {workload}: {stays:#?}").into());
    };
    Ok((stay, stay.bound.ok_or("it was never bound")?, stay.ended))
}

/// The sum that a record has settled, in nano-units.
pub(crate) fn settled(cluster: &Cluster, namespace: &str) -> Result<i128> {
    let settled = get_field(cluster, namespace, &record(namespace), ".status.settled")?;
    Ok(oracle::parse_nanos(&settled)?)
}

pub(crate) fn lost_node(cluster: &Cluster) -> ScenarioResult {
    let manifest = with_min_replicas(1, &service_manifest("lost", r#""--speedup", "20""#, "1h"));
    cluster.apply(&on_second_node(cluster, &manifest)?)?;
    let ready = condition_reason("Ready");
    wait_for_field(cluster, "lost", "infd/chat", &ready, "Serving", 60)?;
    let node = &cluster.nodes()[1];
    node.init.kill();
    let object = format!("node/{}", node.name);
    let condition = |part: &str| format!(".status.conditions[?(@.type==\"Ready\")].{part}");
    wait_for_field(
        cluster,
        "lost",
        &object,
        &condition("status"),
        "Unknown",
        120,
    )?;
    let silent = get_field(cluster, "lost", &object, &condition("lastTransitionTime"))?;
    let record = record("lost");
    wait_for_field(
        cluster,
        "lost",
        &record,
        ".status.open[0].lost",
        &silent,
        20,
    )?;
    // nobody will ever say when it ended
    cluster.kubectl(&["-n", "lost", "delete", "infd", "chat"])?;
    let pods = [
        "delete",
        "pods",
        "-l",
        "bursar.dev/workload=chat",
        "--force",
        "--grace-period=0",
        "--wait=false",
    ];
    cluster.kubectl(&[&["-n", "lost"], &pods[..]].concat())?;
    wait_for_field(cluster, "lost", "pods", ".items[*].metadata.name", "", 60)?;
    let stays = oracle::pod_lifetimes(&cluster.audit_log())?;
    let (stay, bound, _) = stay(&stays, "lost")?;
    let gone = stay.deleted.ok_or("nobody deleted it by force")?;
    let silent: Timestamp = silent.parse()?;
    let silent = silent.as_second();
    let sum = |part: &str| -> Result<i128> {
        let days = get_field(cluster, "lost", &record, &format!(".status.days[*].{part}"))?;
        let nanos = days.split_whitespace().map(oracle::parse_nanos);
        Ok(nanos.sum::<std::result::Result<i128, _>>()?)
    };
    let found = [sum("compute")?, sum("estimated")?, sum("unattributed")?];
    let known = SECOND * i128::from(silent - bound);
    let expected = [known, known, SECOND * i128::from(gone - silent)];
    if found != expected {
        return Err(
            format!("cost, estimated and unattributed are {found:?}, not {expected:?}").into(),
        );
    }
    Ok(())
}

/// Backup, loss of every record while the controller is stopped, and restore: no figure differs, and what runs is charged on.
pub(crate) fn restored(cluster: &Cluster) -> ScenarioResult {
    cluster.apply(&with_min_replicas(
        1,
        &service_manifest("kept", r#""--speedup", "20""#, "1h"),
    ))?;
    wait_for_field(
        cluster,
        "kept",
        "infd/chat",
        &condition_reason("Ready"),
        "Serving",
        60,
    )?;
    scale_controllers(cluster, 0)?;
    let before = statuses(cluster)?;
    let file = std::env::temp_dir().join(format!("bursar-ledger-{}.jsonl", std::process::id()));
    let path = file.display().to_string();
    kubectl_bursar(cluster, &["ledger", "backup", "-O", &path])?;
    cluster.kubectl(&["delete", "spend", "--all"])?;
    let restored = kubectl_bursar(cluster, &["ledger", "restore", &path]);
    std::fs::remove_file(&file)?;
    restored?;
    let after = statuses(cluster)?;
    if before.is_empty() || before != after {
        return Err(format!("the ledger was {before:#?} and is {after:#?}").into());
    }
    kubectl_bursar(cluster, &["ledger", "verify"])?;
    scale_controllers(cluster, 2)?;
    cluster.kubectl(&["-n", "kept", "delete", "infd", "chat"])?;
    wait_until("the service to be settled", 60, || {
        Ok(get_field(cluster, "kept", &record("kept"), ".status.open")?.is_empty())
    })?;
    let (_, bound, ended) = stay(&oracle::pod_lifetimes(&cluster.audit_log())?, "kept")?;
    let seconds = ended.ok_or("nobody saw the pod's end")? - bound;
    // the imported table's price of the first node's GPUs
    let expected = 2_100_000_000 * i128::from(seconds) / 3600;
    let settled = settled(cluster, "kept")?;
    if settled != expected {
        return Err(format!("{settled} nano-units are settled, and {expected} were due").into());
    }
    Ok(())
}

/// What every record says.
fn statuses(cluster: &Cluster) -> Result<BTreeMap<String, Value>> {
    let list: Value = serde_json::from_str(&cluster.kubectl(&["get", "spend", "-o", "json"])?)?;
    let records = list["items"].as_array().ok_or("no list")?;
    let record = |record: &Value| {
        let name = record["metadata"]["name"].as_str().unwrap_or_default();
        (name.to_owned(), record["status"].clone())
    };
    Ok(records.iter().map(record).collect())
}
