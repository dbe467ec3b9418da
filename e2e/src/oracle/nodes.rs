//! Lifetimes of whole nodes, from the audit log.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use super::{audit_events, list, seconds};
use crate::error::Result;

/// A node, in seconds since 1970.
#[derive(Debug, Clone, Default)]
pub struct NodeLifetime {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The product name of its GPUs, as its label says last.
    pub model: String,
    /// How many GPUs it offers.
    pub gpus: i128,
    /// When it was created.
    pub made: i64,
    /// Since when it is charged, as the ledger said at first.
    pub charged: Option<i64>,
    /// Since when nothing is heard of it.
    pub silent: Option<i64>,
    /// When its deletion was asked for, and when that was answered: it went in between.
    pub deleted: Option<(i64, i64)>,
}

/// All nodes, by their names.
///
/// # Errors
/// When the log cannot be read.
pub fn node_lifetimes(audit_log: &Path) -> Result<Vec<NodeLifetime>> {
    let mut machines: BTreeMap<String, NodeLifetime> = BTreeMap::new();
    let mut charged: BTreeMap<String, i64> = BTreeMap::new();
    for event in audit_events(audit_log)? {
        let event = event?;
        let object = &event["responseObject"];
        match event["objectRef"]["resource"].as_str() {
            Some("nodes") if object["kind"] == "Node" => {
                if let Some(name) = object["metadata"]["name"].as_str() {
                    apply_object(machines.entry(name.to_owned()).or_default(), object);
                }
            }
            Some("spendrecords") => {
                for charge in list(&object["status"]["open"]) {
                    // a pod's charge is known by the pod's UID alone, a node's by more
                    if let (Some(uid), Some(start)) = (node_of(&charge), seconds(&charge["start"]))
                    {
                        charged.entry(uid).or_insert(start);
                    }
                }
            }
            _ => {}
        }
        let name = event["objectRef"]["name"].as_str().unwrap_or_default();
        if event["verb"] == "delete"
            && event["objectRef"]["resource"] == "nodes"
            && let Some(machine) = machines.get_mut(name)
            && let (Some(asked), Some(answered)) = (
                seconds(&event["requestReceivedTimestamp"]),
                seconds(&event["stageTimestamp"]),
            )
        {
            machine.deleted = Some((asked, answered));
        }
    }
    let mut machines: Vec<NodeLifetime> = machines.into_values().collect();
    for machine in &mut machines {
        machine.charged = charged.get(&machine.uid).copied();
    }
    Ok(machines)
}

/// Between which seconds the accounts of nodes began: the first record of all was made, and the first one of nodes.
///
/// # Errors
/// When the log cannot be read.
pub fn account_start_range(audit_log: &Path) -> Result<Option<(i64, i64)>> {
    let mut made = Vec::new();
    for event in audit_events(audit_log)? {
        let event = event?;
        let record = &event["responseObject"]["metadata"];
        if event["objectRef"]["resource"] == "spendrecords"
            && event["verb"] == "create"
            && let (Some(name), Some(at)) = (
                record["name"].as_str(),
                seconds(&record["creationTimestamp"]),
            )
        {
            made.push((at, name.starts_with("nodes.")));
        }
    }
    let first = made.iter().map(|(at, _)| *at).min();
    let nodes = made.iter().filter(|(_, of_nodes)| *of_nodes);
    let nodes = nodes.map(|(at, _)| *at).min();
    Ok(first.zip(nodes))
}

/// The UID of the node that a charge is for; `None` if it is a pod's.
fn node_of(charge: &Value) -> Option<String> {
    let (node, _) = charge["uid"].as_str()?.split_once('/')?;
    Some(node.to_owned())
}

fn apply_object(machine: &mut NodeLifetime, node: &Value) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &node["metadata"];
    machine.name = text(&metadata["name"]);
    machine.uid = text(&metadata["uid"]);
    machine.model = text(&metadata["labels"]["nvidia.com/gpu.product"]);
    machine.made = seconds(&metadata["creationTimestamp"]).unwrap_or(machine.made);
    let gpus = node["status"]["capacity"]["nvidia.com/gpu"].as_str();
    machine.gpus = gpus
        .and_then(|count| count.parse().ok())
        .unwrap_or(machine.gpus);
    let conditions = list(&node["status"]["conditions"]);
    let ready = conditions.iter().find(|each| each["type"] == "Ready");
    machine.silent = ready
        .filter(|ready| ready["status"] == "Unknown")
        .and_then(|ready| seconds(&ready["lastTransitionTime"]));
}
