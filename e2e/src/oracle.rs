//! An oracle of the ledger: recomputes every charge from the API server's audit log. It shares no code with the ledger, and knows
//! pods, nodes and prices only from what the log and the price list say.

mod nodes;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    num::ParseIntError,
    path::Path,
};

use serde_json::Value;

use crate::error::{Error, Result, While};

pub use nodes::{NodeLifetime, account_start_range, node_lifetimes};

/// What the name of the record of pods of no workload ends in.
const UNMANAGED: &str = ".pods.unmanaged";

/// A pod's time on its node, in seconds since 1970.
#[derive(Debug, Clone, Default)]
pub struct PodLifetime {
    /// The record's name without its month: `namespace.infd.name`.
    pub workload: String,
    /// How many GPUs it held.
    pub gpus: i128,
    /// The node that it was bound to.
    pub node: String,
    /// When it was bound.
    pub bound: Option<i64>,
    /// When its last container ended.
    pub ended: Option<i64>,
    /// When it was deleted without waiting for its end.
    pub deleted: Option<i64>,
}

/// Nano-units that each workload's ended pods cost, by the record's name without its month.
///
/// `node_price` is what a node with `node_gpus` GPUs costs an hour, in nano-units.
///
/// # Errors
/// When the log cannot be read.
pub fn expected_charges(
    audit_log: &Path,
    node_price: i128,
    node_gpus: i128,
) -> Result<BTreeMap<String, i128>> {
    let mut sums = BTreeMap::new();
    for stay in pod_lifetimes(audit_log)? {
        if let (Some(bound), Some(ended)) = (stay.bound, stay.ended) {
            // a node's price is shared by its GPUs, rounded down; so is what is paid for whole seconds
            let rate = node_price * stay.gpus / node_gpus;
            let amount = rate * i128::from((ended - bound).max(0)) / 3600;
            // a workload that cost nothing has no sum
            if amount > 0 {
                *sums.entry(stay.workload).or_default() += amount;
            }
        }
    }
    Ok(sums)
}

/// The stays of all pods that are charged exactly.
///
/// # Errors
/// When the log cannot be read.
pub fn pod_lifetimes(audit_log: &Path) -> Result<Vec<PodLifetime>> {
    let mut stays: BTreeMap<String, PodLifetime> = BTreeMap::new();
    for event in audit_events(audit_log)? {
        let event = event?;
        let object = &event["responseObject"];
        // who writes labels alone is answered with the metadata alone
        let is_whole = object["kind"] == "Pod";
        if event["objectRef"]["resource"] == "pods"
            && (is_whole || object["kind"] == "PartialObjectMetadata")
            && let (Some(uid), Some(workload)) =
                (object["metadata"]["uid"].as_str(), workload(object))
        {
            let stay = stays.entry(uid.to_owned()).or_insert_with(|| PodLifetime {
                workload: workload.clone(),
                ..PodLifetime::default()
            });
            // a replica of an adopted workload gets its labels soon; a pod that ran before stays where it is
            if stay.workload.ends_with(UNMANAGED) && is_new(&event) {
                stay.workload = workload;
            }
            if is_whole {
                apply_object(stay, object);
            }
        }
    }
    Ok(stays.into_values().collect())
}

/// All that the log says, one after the other.
///
/// # Errors
/// When it cannot be read.
pub fn audit_events(audit_log: &Path) -> Result<impl Iterator<Item = Result<Value>>> {
    let name = audit_log.display().to_string();
    let file = File::open(audit_log).while_(|| format!("opening {name}"))?;
    Ok(BufReader::new(file).lines().map(move |line| {
        let line = line.while_(|| format!("reading {name}"))?;
        serde_json::from_str(&line).map_err(|error| Error::Malformed {
            what: name.clone(),
            why: error.to_string(),
        })
    }))
}

/// Whether an event is of a pod that was created less than ten seconds before.
fn is_new(event: &Value) -> bool {
    let created = seconds(&event["responseObject"]["metadata"]["creationTimestamp"]);
    let at = seconds(&event["stageTimestamp"]);
    created
        .zip(at)
        .is_some_and(|(created, at)| at - created < 10)
}

fn workload(pod: &Value) -> Option<String> {
    let namespace = pod["metadata"]["namespace"].as_str()?;
    let label = |name: &str| pod["metadata"]["labels"][name].as_str();
    let kind = match label("bursar.dev/kind") {
        Some("InferenceDeployment") => Some("infd"),
        Some("TrainingJob") => Some("tj"),
        _ => None,
    };
    // no object has another name
    let is_a_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let name = label("bursar.dev/workload").filter(|name| name.bytes().all(is_a_name));
    if let (Some(kind), Some(name)) = (kind, name) {
        return Some(format!("{namespace}.{kind}.{name}"));
    }
    // a pod that nobody made for Bursar is charged exactly where its namespace asks for that, and so has the finalizer
    let finalizers = pod["metadata"]["finalizers"].as_array()?;
    let is_held = finalizers.iter().any(|each| each == "bursar.dev/spend");
    is_held.then(|| format!("{namespace}{UNMANAGED}"))
}

/// Seconds since 1970.
fn seconds(time: &Value) -> Option<i64> {
    let time: jiff::Timestamp = time.as_str()?.parse().ok()?;
    Some(time.as_second())
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn apply_object(stay: &mut PodLifetime, pod: &Value) {
    let gpus = |container: &Value| {
        container["resources"]["limits"]["nvidia.com/gpu"]
            .as_str()
            .and_then(|count| count.parse::<i128>().ok())
    };
    stay.gpus = list(&pod["spec"]["containers"])
        .iter()
        .filter_map(gpus)
        .sum();
    if let Some(node) = pod["spec"]["nodeName"].as_str() {
        node.clone_into(&mut stay.node);
    }
    if pod["metadata"]["deletionGracePeriodSeconds"] == 0 {
        stay.deleted = seconds(&pod["metadata"]["deletionTimestamp"]);
    }
    for condition in list(&pod["status"]["conditions"]) {
        if condition["type"] == "PodScheduled" && condition["status"] == "True" {
            stay.bound = seconds(&condition["lastTransitionTime"]);
        }
    }
    if matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    ) {
        let finished = |status: &Value| seconds(&status["state"]["terminated"]["finishedAt"]);
        let kubelets = list(&pod["status"]["containerStatuses"])
            .iter()
            .filter_map(finished)
            .max();
        // a container that never ran has no end: then it is the last write of the pod's status
        let written = |entry: &Value| {
            (entry["subresource"] == "status")
                .then(|| seconds(&entry["time"]))
                .flatten()
        };
        let writes = || {
            list(&pod["metadata"]["managedFields"])
                .iter()
                .filter_map(written)
                .max()
        };
        stay.ended = kubelets.or_else(writes).or(stay.ended);
    }
}

/// `1.23` in nano-units, without the product's own code.
///
/// # Errors
/// When it is no decimal number of at most nine decimals.
pub fn parse_nanos(amount: &str) -> std::result::Result<i128, ParseIntError> {
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
    Ok(whole.parse::<i128>()? * 1_000_000_000 + format!("{fraction:0<9}").parse::<i128>()?)
}

/// Writes of the operator to anything but its Leases, after `since` (RFC 3339): verb and resource.
///
/// # Errors
/// When the log cannot be read.
pub fn operator_writes(audit_log: &Path, namespace: &str, since: &str) -> Result<Vec<String>> {
    let text =
        fs::read_to_string(audit_log).while_(|| format!("reading {}", audit_log.display()))?;
    let user = format!("system:serviceaccount:{namespace}:");
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ours = events.filter(|event| {
        event["user"]["username"].as_str().is_some_and(|name| name.starts_with(&user))
            && event["stage"] == "ResponseComplete"
            && event["requestReceivedTimestamp"].as_str().is_some_and(|at| at >= since)
            // a review of a token is a question
            && !matches!(event["objectRef"]["resource"].as_str(), Some("leases" | "tokenreviews"))
    });
    Ok(ours
        .map(|event| format!("{} {}", event["verb"], event["requestURI"]))
        .collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::json;

    use super::*;

    #[test]
    fn labels_that_were_there_between_two_answers_with_the_whole_pod_count() {
        let event = |at: &str, kind: &str, labels: Value, rest: Value| {
            let mut object = json!({"kind": kind, "metadata": {
                "uid": "a", "namespace": "team", "creationTimestamp": "2026-11-01T00:00:00Z",
                "labels": labels, "finalizers": ["bursar.dev/spend"],
            }});
            for (name, value) in rest.as_object().into_iter().flatten() {
                object[name] = value.clone();
            }
            json!({"objectRef": {"resource": "pods"}, "stageTimestamp": at, "responseObject": object})
        };
        let ours = json!({"bursar.dev/kind": "InferenceDeployment", "bursar.dev/workload": "chat"});
        let ended = json!({"state": {"terminated": {"finishedAt": "2026-11-01T01:00:01Z"}}});
        let bound = json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-01T00:00:01Z"}]);
        let gpus = json!({"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]});
        let log = [
            event(
                "2026-11-01T00:00:01Z",
                "Pod",
                json!({}),
                json!({"spec": gpus}),
            ),
            event(
                "2026-11-01T00:00:02Z",
                "PartialObjectMetadata",
                ours,
                json!({}),
            ),
            event(
                "2026-11-01T00:00:03Z",
                "PartialObjectMetadata",
                json!({}),
                json!({}),
            ),
            event(
                "2026-11-01T01:00:02Z",
                "Pod",
                json!({}),
                json!({"spec": gpus, "status": {
                    "phase": "Succeeded", "conditions": bound, "containerStatuses": [ended],
                }}),
            ),
        ];
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for event in log {
            writeln!(file, "{event}").unwrap();
        }
        let charges = expected_charges(file.path(), 8_000, 8).unwrap();
        assert_eq!(
            charges,
            BTreeMap::from([("team.infd.chat".to_owned(), 1_000)])
        );
    }
}
