//! Prices of a service that runs already: lists and labels of its node that come late, and a table that is imported.

use bursar_e2e::{
    Access, Cluster, operator, oracle,
    runner::ScenarioResult,
    scenario::{
        condition_reason, current_month, get_field, kubectl_bursar, service_manifest,
        wait_for_field, wait_until, with_min_replicas,
    },
};
use jiff::Timestamp;

use super::ledger::{on_second_node, record, settled, stay};

/// Nano-units an hour of one A100 in the default price list, and in the table that is imported.
const LISTED: i128 = 2_815_000_000;
const IMPORTED: i128 = 1_800_000_000;

/// The record is made while there is no PriceList, and a price is first known for a node without labels.
pub(crate) fn late_labels(cluster: &Cluster) -> ScenarioResult {
    let lease = "controller.leaseDuration=6s";
    let unpriced = [lease, "prices.installDefault=false"];
    operator::install(cluster, operator::IMAGE, &unpriced)?;
    let manifest = with_min_replicas(1, &service_manifest("late", r#""--speedup", "20""#, "1h"));
    cluster.apply(&on_second_node(cluster, &manifest)?)?;
    let ready = condition_reason("Ready");
    wait_for_field(cluster, "late", "infd/chat", &ready, "Serving", 60)?;
    let record = record("late");
    wait_for_field(cluster, "late", &record, ".spec.currency", "", 1)?;
    let priced = [lease, "prices.installDefault=true"];
    operator::install(cluster, operator::IMAGE, &priced)?;
    wait_for_field(cluster, "late", &record, ".spec.currency", "USD", 60)?;
    let first = ".status.open[0].rates[0]";
    let is = |path: &str, value: &str| wait_for_field(cluster, "late", &record, path, value, 20);
    is(&format!("{first}.provisional"), "true")?;
    let node = &cluster.nodes()[1].name;
    let product = "nvidia.com/gpu.product=NVIDIA-A100-SXM4-80GB";
    cluster.kubectl(&["label", "node", node, product])?;
    is(".status.open[0].model", "NVIDIA-A100-SXM4-80GB")?;
    is(".status.open[0].rates[*].provisional", "")?;
    is(".status.open[0].rates[*].compute", "2.815")?;
    let start = get_field(cluster, "late", &record, ".status.open[0].start")?;
    is(&format!("{first}.from"), &start)
}

/// What had no price is paid at the first that the controller sees, so the nodes must have theirs before another list comes.
fn nodes_are_priced(cluster: &Cluster) -> ScenarioResult {
    let charges = r"jsonpath={range .items[*].status.open[*]}{.pod}={.rates[0].compute} {end}";
    let of_nodes = "bursar.dev/kind=Node";
    wait_until("every node's account to have a price", 20, || {
        let charges = cluster.kubectl(&["get", "spend", "-l", of_nodes, "-o", charges])?;
        let mut charges = charges.split_whitespace().peekable();
        Ok(charges.peek().is_some() && charges.all(|charge| !charge.ends_with('=')))
    })
}

/// The service of [`late_labels`] is paid at the listed price until the table came, and at the table's from then on.
pub(crate) fn imported(cluster: &Cluster) -> ScenarioResult {
    nodes_are_priced(cluster)?;
    let table = std::env::temp_dir().join(format!("bursar-table-{}.csv", std::process::id()));
    std::fs::write(
        &table,
        "kind,name,price\ngpu,NVIDIA-A100-SXM4-80GB,1.80\ngpu,NVIDIA-H100-80GB-HBM3,2.10\n",
    )?;
    let file = table.display().to_string();
    let import = ["prices", "import", &file, "--name", "contract"];
    let said = kubectl_bursar(cluster, &import);
    std::fs::remove_file(&table)?;
    said?;
    let list = "pricelist/contract";
    wait_for_field(
        cluster,
        "late",
        list,
        &condition_reason("Accepted"),
        "InForce",
        20,
    )?;
    let record = record("late");
    let rates = ".status.open[0].rates[*].compute";
    wait_for_field(cluster, "late", &record, rates, "2.815 1.80", 20)?;
    let check = kubectl_bursar(cluster, &["prices", "check"])?;
    if !check.contains("2 of 2 kinds of GPU on 2 nodes have a price") {
        return Err(format!("prices check says:\n{check}").into());
    }
    let edit: Timestamp =
        get_field(cluster, "late", list, ".metadata.creationTimestamp")?.parse()?;
    wait_until("three seconds of the new price", 10, || {
        Ok(Timestamp::now().duration_since(edit).as_secs() >= 3)
    })?;
    cluster.kubectl(&["-n", "late", "delete", "infd", "chat"])?;
    wait_until("the service to be settled", 60, || {
        Ok(get_field(cluster, "late", &record, ".status.open")?.is_empty())
    })?;
    let (_, bound, ended) = stay(&oracle::pod_lifetimes(&cluster.audit_log())?, "late")?;
    let ended = ended.ok_or("nobody saw the pod's end")?;
    let cost = |rate: i128, seconds: i64| rate * i128::from(seconds) / 3600;
    let expected =
        cost(LISTED, edit.as_second() - bound) + cost(IMPORTED, ended - edit.as_second());
    let settled = settled(cluster, "late")?;
    if settled != expected {
        return Err(format!(
            "{settled} nano-units are settled in {}, and {expected} were due",
            current_month()
        )
        .into());
    }
    Ok(())
}
