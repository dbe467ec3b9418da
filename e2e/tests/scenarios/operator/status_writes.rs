//! What the operator writes: the ledger to the last unit, statuses sparingly, and nothing at rest.

use std::time::Duration;

use bursar_e2e::{Access, Cluster, operator, oracle, runner::ScenarioResult};
use jiff::Timestamp;

use bursar_e2e::scenario::{
    budget_manifest, condition_reason, deploy_service, get_field, service_manifest, wait_for_field,
    wait_until, with_min_replicas,
};

/// Nano-units an hour of the node that the harness shows, as the default price list has it: p5.48xlarge, on demand, 8 GPUs.
const NODE_PRICE: i128 = 55_040_000_000;
const NODE_GPUS: i128 = 8;
/// While money is spent, a status may be written once in this time.
const STATUS_PACE: i64 = 300;

/// The first scenario: a service whose replica runs from here to [`steady_ends`].
pub(crate) fn steady_begins(cluster: &Cluster) -> ScenarioResult {
    const FLAGS: &str = r#""--speedup", "20""#;
    deploy_service(cluster, "steady", FLAGS, "1h")?;
    cluster.apply(&budget_manifest("steady", "1000", ""))?;
    cluster.apply(&with_min_replicas(
        1,
        &service_manifest("steady", FLAGS, "1h"),
    ))?;
    wait_for_field(
        cluster,
        "steady",
        "infd/chat",
        &condition_reason("Ready"),
        "Serving",
        60,
    )
}

/// While nothing but money changed, each status was written once in five minutes at most.
pub(crate) fn steady_ends(cluster: &Cluster) -> ScenarioResult {
    let path = ".status.conditions[?(@.type==\"Ready\")].lastTransitionTime";
    let ready: Timestamp = get_field(cluster, "steady", "infd/chat", path)?.parse()?;
    // what the start itself changes is written by then
    let since = ready + Duration::from_secs(10);
    let seconds = || Timestamp::now().duration_since(since).as_secs();
    // the promise is about five minutes, of which the scenarios before this one took a part
    let left = u64::try_from(STATUS_PACE - seconds()).unwrap_or(0);
    std::thread::sleep(Duration::from_secs(left));
    let seconds = seconds();
    let mut writes = oracle::operator_writes(
        &cluster.audit_log(),
        operator::NAMESPACE,
        &since.to_string(),
    )?;
    writes.retain(|write| write.contains("/namespaces/steady/"));
    for status in [
        "inferencedeployments/chat/status",
        "budgetpolicies/team/status",
    ] {
        let count = writes.iter().filter(|write| write.contains(status)).count();
        let most = usize::try_from(seconds / STATUS_PACE + 1)?;
        if count == 0 || count > most {
            return Err(format!("{status} was written {count} times in {seconds} s, not 1 to {most} times: {writes:#?}").into());
        }
    }
    cluster.kubectl(&["-n", "steady", "delete", "infd", "chat"])?;
    wait_for_field(cluster, "steady", "pods", ".items[*].metadata.name", "", 60)
}

pub(crate) fn at_rest(cluster: &Cluster) -> ScenarioResult {
    operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
    cluster.apply(&service_manifest("resting", r#""--speedup", "20""#, "2s"))?;
    wait_until("a port for the service", 40, || {
        Ok(!get_field(cluster, "resting", "infd/chat", ".status.activation.port")?.is_empty())
    })?;
    // what earlier scenarios left is written by then
    std::thread::sleep(Duration::from_secs(15));
    let since = jiff::Timestamp::now().to_string();
    std::thread::sleep(Duration::from_secs(60));
    let writes = oracle::operator_writes(&cluster.audit_log(), operator::NAMESPACE, &since)?;
    if writes.is_empty() {
        Ok(())
    } else {
        Err(format!("it wrote at rest: {writes:#?}").into())
    }
}

pub(crate) fn equals_the_audit_log(cluster: &Cluster) -> ScenarioResult {
    let expected = oracle::expected_charges(&cluster.audit_log(), NODE_PRICE, NODE_GPUS)?;
    if expected.is_empty() {
        return Err("the audit log holds no charge: run it after other scenarios".into());
    }
    let listed = cluster.kubectl(&[
        "get",
        "spend",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name} {.status.settled}{\"\\n\"}{end}",
    ])?;
    let mut found = std::collections::BTreeMap::new();
    for line in listed.lines() {
        let (name, settled) = line.split_once(' ').ok_or("a record without a sum")?;
        let workload = name.rsplit_once('.').map_or(name, |(workload, _)| workload);
        // a record that was only made has none
        let nanos = if settled.is_empty() {
            0
        } else {
            oracle::parse_nanos(settled)?
        };
        // ends of pods that nothing held back are estimates, and nodes are no pods
        let estimated = workload.ends_with(".pods.unmanaged") && !expected.contains_key(workload);
        let of_nodes = workload.starts_with("nodes.");
        if nanos != 0 && !estimated && !of_nodes {
            *found.entry(workload.to_owned()).or_insert(0) += nanos;
        }
    }
    if found == expected {
        Ok(())
    } else {
        Err(format!("the ledger has {found:#?}, the audit log {expected:#?}").into())
    }
}
