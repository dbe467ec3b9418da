//! The bill of the whole cluster: nodes, held or not, through an outage of the controllers.

use std::collections::BTreeMap;

use bursar_e2e::{
    Access, Cluster, operator,
    oracle::{self, NodeLifetime, PodLifetime},
    runner::ScenarioResult,
    scenario::{
        condition_reason, current_month, get_field, kill_controllers, kubectl_bursar,
        scale_controllers, service_manifest, wait_for_field, wait_until, with_min_replicas,
    },
};
use jiff::{Timestamp, civil::Date};
use serde_json::Value;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const H100: &str = "NVIDIA-H100-80GB-HBM3";
const A100: &str = "NVIDIA-A100-SXM4-80GB";
const H200: &str = "NVIDIA-H200";

/// What one GPU costs an hour in nano-units, and from when on, by model.
type Prices = BTreeMap<&'static str, Vec<(i64, i128)>>;

/// A list of our own: a model at a price that leaves a remainder every second, and people.
const SITE: &str = r#"
apiVersion: bursar.dev/v1alpha1
kind: PriceList
metadata: {name: site}
spec:
  currency: USD
  gpus: [{model: NVIDIA-H200, pricePerHour: "2.345678901"}]
  overheads: [{name: people, part: Labour, pricePerMonth: "25000"}]
"#;
const OVERHEAD: i128 = 25_000_000_000_000;

/// A node that nobody runs: no pod fits, since it takes none.
const SPARE: &str = "
apiVersion: v1
kind: Node
metadata:
  name: spare
  labels: {nvidia.com/gpu.product: NVIDIA-H200}
";

/// A service that runs on, a GPU pod of somebody else's that ends while both controllers are dead and one that runs on, and a node that
/// comes in that time and goes later; with what earlier scenarios left.
pub(crate) fn bill(cluster: &Cluster) -> ScenarioResult {
    operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
    let second = &cluster
        .nodes()
        .get(1)
        .ok_or("there is no second node")?
        .name;
    let product = format!("nvidia.com/gpu.product={A100}");
    cluster.kubectl(&["label", "node", second, &product, "--overwrite"])?;
    cluster.apply(SITE)?;
    let accepted = condition_reason("Accepted");
    wait_for_field(
        cluster,
        "default",
        "pricelist/site",
        &accepted,
        "InForce",
        20,
    )?;
    cluster.apply(&with_min_replicas(
        1,
        &service_manifest("billed", r#""--speedup", "20""#, "1h"),
    ))?;
    let exact = [
        "label",
        "namespace",
        "billed",
        "bursar.dev/accounting=exact",
    ];
    cluster.kubectl(&exact)?;
    cluster.apply(&pod("notebook", 1))?;
    cluster.apply(&pod("batch", 2))?;
    let ready = condition_reason("Ready");
    wait_for_field(cluster, "billed", "infd/chat", &ready, "Serving", 60)?;
    for pod in ["pod/notebook", "pod/batch"] {
        wait_for_field(cluster, "billed", pod, ".status.phase", "Running", 60)?;
    }
    let unmanaged = format!("spend/billed.pods.unmanaged.{}", current_month());
    let open = ".status.open[*].pod";
    wait_until("both pods of others to have a charge", 20, || {
        let open = get_field(cluster, "billed", &unmanaged, open).unwrap_or_default();
        Ok(open.split_whitespace().count() == 2)
    })?;
    while_down(cluster)?;
    wait_for_field(cluster, "billed", &unmanaged, open, "batch", 60)?;
    spare_goes(cluster)?;
    compare(cluster)?;
    written_by_the_controller(cluster)?;
    kubectl_bursar(cluster, &["ledger", "verify"])?;
    Ok(())
}

/// SIGKILL to both controllers, and nobody in their place for ten seconds.
fn while_down(cluster: &Cluster) -> ScenarioResult {
    wait_until("both controllers to run, and to be killed", 60, || {
        Ok(kill_controllers(cluster)? >= 2)
    })?;
    scale_controllers(cluster, 0)?;
    let down = Timestamp::now();
    cluster.apply(SPARE)?;
    let offers =
        r#"{"status":{"capacity":{"nvidia.com/gpu":"4"},"allocatable":{"nvidia.com/gpu":"4"}}}"#;
    let status = ["--subresource=status", "--type=merge", "-p", offers];
    cluster.kubectl(&[&["patch", "node", "spare"], &status[..]].concat())?;
    cluster.kubectl(&["-n", "billed", "delete", "pod/notebook", "--wait=false"])?;
    wait_until(
        "the notebook to end while the controllers are down",
        30,
        || {
            let phase = get_field(cluster, "billed", "pod/notebook", ".status.phase")?;
            Ok(matches!(phase.as_str(), "Failed" | "Succeeded"))
        },
    )?;
    wait_until("ten seconds without a controller", 20, || {
        Ok(Timestamp::now().duration_since(down).as_secs() >= 10)
    })?;
    scale_controllers(cluster, 2)
}

/// The node that came unseen is charged from its creation, until it goes.
fn spare_goes(cluster: &Cluster) -> ScenarioResult {
    let of_spare = |path: &str| get_field(cluster, "default", "node/spare", path);
    let record = format!("spend/{}", record_of(&of_spare(".metadata.uid")?));
    let start = ".status.open[?(@.pod==\"spare\")].start";
    wait_until("an account of the node that came unseen", 60, || {
        Ok(!get_field(cluster, "default", &record, start)
            .unwrap_or_default()
            .is_empty())
    })?;
    let made = of_spare(".metadata.creationTimestamp")?;
    wait_for_field(cluster, "default", &record, start, &made, 1)?;
    cluster.kubectl(&["delete", "node", "spare"])?;
    wait_for_field(cluster, "default", &record, start, "", 20)
}

/// The record of this month that has the account of a node.
fn record_of(uid: &str) -> String {
    format!("nodes.{}.{}", &uid[..1], current_month())
}

/// The report says what the audit log and the price lists come to at that moment.
fn compare(cluster: &Cluster) -> ScenarioResult {
    let month = current_month();
    let asked = [
        "report",
        "--month",
        &month,
        "-A",
        "--overheads",
        "-o",
        "json",
    ];
    let report: Value = serde_json::from_str(&kubectl_bursar(cluster, &asked)?)?;
    let at: Timestamp = report["asOf"].as_str().ok_or("no asOf")?.parse()?;
    let found = found(&report["cluster"])?;
    let log = cluster.audit_log();
    let (stays, machines) = (oracle::pod_lifetimes(&log)?, oracle::node_lifetimes(&log)?);
    began_in_time(&machines, oracle::account_start_range(&log)?)?;
    let prices = prices(cluster)?;
    let spare = machines.iter().find(|machine| machine.name == "spare");
    let (asked, answered) = spare
        .and_then(|spare| spare.deleted)
        .ok_or("nobody deleted the spare node")?;
    let mut due = Vec::new();
    // the watch tells the controller within a second
    for gone in asked..=answered + 1 {
        due.push(expected(&machines, &stays, &prices, gone, at)?);
    }
    if !due.contains(&found) {
        return Err(
            format!("at {at} the report says {found:#?}, and due is one of {due:#?}").into(),
        );
    }
    Ok(())
}

/// Nodes that were there when the accounts began are charged from then on, and others from their creation.
fn began_in_time(machines: &[NodeLifetime], began: Option<(i64, i64)>) -> ScenarioResult {
    let (first, nodes) = began.ok_or("no record of nodes was made")?;
    for machine in machines {
        let times = if machine.made > nodes {
            machine.made..=machine.made
        } else {
            first..=nodes
        };
        if machine
            .charged
            .is_none_or(|charged| !times.contains(&charged))
        {
            return Err(format!("{machine:?} is not charged from {times:?}").into());
        }
    }
    Ok(())
}

/// The lists' prices: the default's, until an earlier scenario imported a table, and our own.
fn prices(cluster: &Cluster) -> Result<Prices> {
    let mut prices = Prices::from([
        // a p5.48xlarge is listed at 55.04 for its 8
        (H100, vec![(i64::MIN, 6_880_000_000)]),
        (A100, vec![(i64::MIN, 2_815_000_000)]),
        (H200, vec![(i64::MIN, 2_345_678_901)]),
    ]);
    let lists = "{range .items[*]}{.metadata.name} {.metadata.creationTimestamp}{\"\\n\"}{end}";
    let lists = cluster.kubectl(&["get", "pricelists", "-o", &format!("jsonpath={lists}")])?;
    let imported = lists
        .lines()
        .find_map(|line| line.strip_prefix("contract "));
    if let Some(edit) = imported {
        let edit = edit.parse::<Timestamp>()?.as_second();
        prices.entry(H100).or_default().push((edit, 2_100_000_000));
        prices.entry(A100).or_default().push((edit, 1_800_000_000));
    }
    Ok(prices)
}

/// What so many GPUs cost from one second to another: each price by itself, rounded down.
fn cost(prices: &[(i64, i128)], gpus: i128, from: i64, to: i64) -> i128 {
    let ends = prices.iter().skip(1).map(|(at, _)| *at).chain([i64::MAX]);
    let each = prices.iter().zip(ends).map(|((begin, price), end)| {
        let seconds = (end.min(to) - from.max(*begin)).max(0);
        price * gpus * i128::from(seconds) / 3600
    });
    each.sum()
}

/// The figures of the bill in nano-units, and idle hours in thousand-millionths, if the spare node went at that second.
fn expected(
    machines: &[NodeLifetime],
    stays: &[PodLifetime],
    prices: &Prices,
    gone: i64,
    at: Timestamp,
) -> Result<BTreeMap<String, i128>> {
    let now = at.as_second();
    let of = |machine: &NodeLifetime| {
        let prices = prices.get(machine.model.as_str());
        prices.ok_or_else(|| format!("{machine:?} has no price"))
    };
    let mut bill: BTreeMap<String, i128> = BTreeMap::new();
    let mut add = |name: &str, amount: i128| *bill.entry(name.to_owned()).or_default() += amount;
    let mut free = 0;
    for machine in machines {
        let from = machine.charged.ok_or("a node without an account")?;
        let to = machine.deleted.map_or(now, |_| gone);
        let cost = cost(of(machine)?, machine.gpus, from, to);
        add("nodes", cost);
        add("idle", cost);
        add(&machine.model, cost);
        free += machine.gpus * i128::from(to - from);
    }
    for (stay, bound) in stays.iter().filter_map(|stay| Some((stay, stay.bound?))) {
        let machine = machines.iter().find(|machine| machine.name == stay.node);
        let machine = machine.ok_or_else(|| format!("{stay:?} is on no node"))?;
        // the time of a pod on a node that was never heard of again is nobody's
        let ended = stay
            .ended
            .or(stay.deleted.filter(|_| machine.silent.is_some()));
        let silent = machine.silent.filter(|_| stay.ended.is_none());
        let ended = ended.unwrap_or(now);
        let known = silent.map_or(ended, |silent| silent.max(bound));
        let cost_until = |to| Ok::<_, String>(cost(of(machine)?, stay.gpus, bound, to));
        let (held, all) = (cost_until(known)?, cost_until(ended)?);
        let holder = match stay.workload.ends_with(".pods.unmanaged") {
            true => "unmanaged",
            false => "workloads",
        };
        add(holder, held);
        add("unattributed", all - held);
        add("idle", -all);
        add(&machine.model, -all);
        free -= stay.gpus * i128::from(known - bound);
    }
    let first: Date = format!("{}-01", current_month()).parse()?;
    let begin: Timestamp = format!("{first}T00:00:00Z").parse()?;
    let seconds = i128::from(first.days_in_month()) * 86_400;
    let overhead = OVERHEAD * i128::from(now - begin.as_second()) / seconds;
    add("overhead", overhead);
    add("unattributed", 0);
    add("idleGpuHours", (free * 1_000_000_000 + 1800) / 3600);
    // whoever holds them, nodes are paid for once
    let nodes = bill.get("nodes").copied().unwrap_or_default();
    bill.insert("total".into(), nodes + overhead);
    Ok(bill)
}

/// The same figures, as a report has them.
fn found(cluster: &Value) -> Result<BTreeMap<String, i128>> {
    const FIGURES: [&str; 8] = [
        "nodes",
        "workloads",
        "unmanaged",
        "idle",
        "overhead",
        "unattributed",
        "total",
        "idleGpuHours",
    ];
    let amount = |value: &Value| -> Result<i128> {
        let text = value
            .as_str()
            .ok_or_else(|| format!("a figure lacks: {cluster:#}"))?;
        Ok(oracle::parse_nanos(text)?)
    };
    let mut bill = BTreeMap::new();
    for name in FIGURES {
        bill.insert(name.to_owned(), amount(&cluster[name])?);
    }
    for kind in cluster["hardware"].as_array().ok_or("no hardware")? {
        let model = kind["gpu"].as_str().unwrap_or_default();
        *bill.entry(model.to_owned()).or_default() += amount(&kind["idle"])?;
    }
    Ok(bill)
}

/// The API server took every write of a node's account from the controller, under its own rights.
fn written_by_the_controller(cluster: &Cluster) -> ScenarioResult {
    let log = cluster.audit_log();
    let controller = format!("system:serviceaccount:{}:", operator::NAMESPACE);
    let mut writes = Vec::new();
    for event in oracle::audit_events(&log)? {
        let event = event?;
        let user = event["user"]["username"].as_str().unwrap_or_default();
        if event["objectRef"]["resource"] == "spendrecords" && user.starts_with(&controller) {
            writes.push(event);
        }
    }
    for machine in oracle::node_lifetimes(&log)? {
        let record = record_of(&machine.uid);
        let taken = |verb: &str, subresource: &Value| {
            writes.iter().any(|event| {
                event["verb"] == verb
                    && event["objectRef"]["subresource"] == *subresource
                    && event["responseObject"]["metadata"]["name"] == record.as_str()
            })
        };
        if !taken("create", &Value::Null) || !taken("update", &"status".into()) {
            return Err(format!("the controller did not write {record} for {machine:?}").into());
        }
    }
    let code = |event: &Value| event["responseStatus"]["code"].as_u64();
    // a record that has changed since is written again
    let refused = |event: &&Value| !matches!(code(event), Some(200 | 201 | 409));
    match writes.iter().find(refused) {
        None => Ok(()),
        Some(event) => Err(format!("the API server refused {event:#}").into()),
    }
}

/// A pod that is nobody's workload, and ends at once when it is told to.
fn pod(name: &str, gpus: u32) -> String {
    format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: billed}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: c
      image: bursar.local/pause:dev
      imagePullPolicy: Never
      resources: {{limits: {{nvidia.com/gpu: {gpus}}}}}
"
    )
}
