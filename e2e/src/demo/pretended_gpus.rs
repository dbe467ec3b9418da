//! GPUs that are only pretended, for a try on a cluster without any: kind, k3d or minikube on a
//! laptop.
//!
//! A plain node gets an extended resource in its status and the labels that GPU feature discovery
//! sets, so that the scheduler counts GPUs and Bursar prices them. No kubelet takes an extended
//! resource away that it does not manage; one that restarts, on a node where no device plugin ever
//! registered, sets it to 0. An annotation says what was done to a node: it is written first and
//! removed last, so that what a killed run left can be taken back later.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Access, Error, Result};

pub(super) const GPU: &str = "nvidia.com/gpu";
pub(super) const PRODUCT_LABEL: &str = "nvidia.com/gpu.product";
/// Of a node that was changed, with a [`Mark`].
const ANNOTATION: &str = "demo.bursar.dev/pretended-gpus";
/// Prefixes of the resources and labels of nodes with GPUs, of any vendor.
const VENDORS: [&str; 5] = [
    "nvidia.com/",
    "amd.com/",
    "gpu.intel.com/",
    "intel.com/gpu",
    "aws.amazon.com/neuron",
];

/// The changes that a node has got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    /// GPUs that the node's status has got.
    gpus: u32,
    /// Labels that it has got.
    labels: BTreeMap<String, String>,
}

impl Mark {
    fn new(gpus: u32) -> Self {
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Self {
            gpus,
            labels: BTreeMap::from([
                label(PRODUCT_LABEL, "NVIDIA-H100-80GB-HBM3"),
                label("nvidia.com/gpu.memory", "81559"),
                label("nvidia.com/gpu.count", &gpus.to_string()),
            ]),
        }
    }

    fn of(node: &Node) -> Option<Self> {
        let text = node.annotations().get(ANNOTATION)?;
        // a mark that cannot be read still says that the node was changed
        Some(serde_json::from_str(text).unwrap_or_else(|_| Self::new(0)))
    }
}

/// The names of the nodes that have pretended GPUs.
pub(super) fn marked(nodes: &[Node]) -> Vec<String> {
    let marked = nodes.iter().filter(|node| Mark::of(node).is_some());
    marked.map(ResourceExt::name_any).collect()
}

/// The names of the nodes that get GPUs: those that are ready and take any pod.
///
/// # Errors
/// When the cluster has GPUs of its own, or no node fits.
pub(super) fn choose(nodes: &[Node]) -> Result<Vec<String>> {
    let real: Vec<String> = nodes
        .iter()
        .filter(|node| Mark::of(node).is_none())
        .filter_map(|node| Some(format!("{} ({})", node.name_any(), gpu_of(node)?)))
        .collect();
    if !real.is_empty() {
        return Err(refused(format!(
            "the cluster has GPUs, or had some: {}. Pretended ones would be taken for real ones there; run the demo without \
             --pretend-gpus, or on a cluster without GPUs",
            real.join(", ")
        )));
    }
    let skipped: Vec<String> = nodes
        .iter()
        .filter_map(|node| Some(format!("{} {}", node.name_any(), unfit(node)?)))
        .collect();
    let fit: Vec<String> = nodes
        .iter()
        .filter(|node| unfit(node).is_none())
        .map(ResourceExt::name_any)
        .collect();
    if fit.is_empty() {
        return Err(refused(format!(
            "no node takes pods: {}. On a cluster of one node, remove the taint: kubectl taint node NAME KEY-",
            if skipped.is_empty() {
                "there is none".to_owned()
            } else {
                skipped.join(", ")
            }
        )));
    }
    Ok(fit)
}

/// A resource or a label of a GPU that the node has.
fn gpu_of(node: &Node) -> Option<&str> {
    let status = node.status.as_ref();
    let resources = status.and_then(|status| status.capacity.as_ref());
    let resources = resources.into_iter().flatten().map(|(name, _)| name);
    resources
        .chain(node.labels().keys())
        .find(|name| VENDORS.iter().any(|vendor| name.starts_with(vendor)))
        .map(String::as_str)
}

/// Why a node takes no pods of the demo.
fn unfit(node: &Node) -> Option<String> {
    let spec = node.spec.clone().unwrap_or_default();
    if spec.unschedulable == Some(true) {
        return Some("is cordoned".into());
    }
    let repels = |effect: &str| matches!(effect, "NoSchedule" | "NoExecute");
    let taint = spec
        .taints
        .into_iter()
        .flatten()
        .find(|taint| repels(&taint.effect));
    if let Some(taint) = taint {
        return Some(format!("has the taint {}:{}", taint.key, taint.effect));
    }
    let status = node.status.as_ref();
    let mut conditions = status
        .into_iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let is_ready =
        conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    (!is_ready).then(|| "is not ready".into())
}

/// Looks whether the API server would let nodes be changed, without changing one.
///
/// # Errors
/// Which right is missing, in the API server's words.
pub(super) fn check_rights(cluster: &dyn Access, node: &str, gpus: u32) -> Result<()> {
    let dry_run = |patch: &Value, flags: &[&str]| {
        let flags = [flags, &["--dry-run=server"]].concat();
        patch_node(cluster, node, patch, &flags)
    };
    let mark = Mark::new(gpus);
    dry_run(&metadata(&mark)?, &[])
        .and_then(|()| dry_run(&status(Some(gpus)), STATUS))
        .map_err(|error| match error {
            Error::Interrupted => error,
            other => refused(format!(
                "--pretend-gpus patches nodes and nodes/status, which this kubeconfig may not: {other}"
            )),
        })
}

/// Gives these nodes as many GPUs each.
///
/// # Errors
/// The first node that could not be written. Nodes that were written before it are marked.
pub(super) fn give(cluster: &dyn Access, nodes: &[String], gpus: u32) -> Result<()> {
    let mark = Mark::new(gpus);
    for node in nodes {
        patch_node(cluster, node, &metadata(&mark)?, &[])?;
        patch_node(cluster, node, &status(Some(gpus)), STATUS)?;
    }
    Ok(())
}

/// Takes back what any run has given to nodes, and returns their names.
///
/// # Errors
/// The first of what could not be read or written; the other nodes are taken care of.
pub(super) fn take_back(cluster: &dyn Access) -> Result<Vec<String>> {
    let nodes = nodes(cluster)?;
    let marked = nodes
        .iter()
        .filter_map(|node| Some((node, Mark::of(node)?)));
    let outcomes: Vec<Result<String>> = marked
        .map(|(node, mark)| take_back_from(cluster, node, &mark))
        .collect();
    outcomes.into_iter().collect()
}

fn take_back_from(cluster: &dyn Access, node: &Node, mark: &Mark) -> Result<String> {
    let name = node.name_any();
    let capacity = node
        .status
        .as_ref()
        .and_then(|status| status.capacity.as_ref()?.get(GPU));
    // a kubelet that restarted has set it to 0; another number is a device plugin's
    let is_ours = |amount: &str| amount == mark.gpus.to_string() || amount == "0";
    if capacity.is_some_and(|amount| is_ours(&amount.0)) {
        patch_node(cluster, &name, &status(None), STATUS)?;
    }
    let labels: BTreeMap<&String, Option<&String>> = mark
        .labels
        .iter()
        .filter(|(label, value)| node.labels().get(*label) == Some(value))
        .map(|(label, _)| (label, None))
        .collect();
    let metadata = json!({"metadata": {"labels": labels, "annotations": {ANNOTATION: null}}});
    patch_node(cluster, &name, &metadata, &[])?;
    Ok(name)
}

/// All nodes.
pub(super) fn nodes(cluster: &dyn Access) -> Result<Vec<Node>> {
    let text = cluster.kubectl(&["get", "nodes", "-o", "json"])?;
    let malformed = |error: serde_json::Error| Error::Malformed {
        what: "kubectl get nodes".into(),
        why: error.to_string(),
    };
    let list: Value = serde_json::from_str(&text).map_err(malformed)?;
    serde_json::from_value(list["items"].clone()).map_err(malformed)
}

const STATUS: &[&str] = &["--subresource=status"];

fn metadata(mark: &Mark) -> Result<Value> {
    let text = serde_json::to_string(mark).map_err(|error| Error::Malformed {
        what: "the annotation of a node".into(),
        why: error.to_string(),
    })?;
    Ok(json!({"metadata": {"labels": mark.labels, "annotations": {ANNOTATION: text}}}))
}

/// A status with so many GPUs, or without.
fn status(gpus: Option<u32>) -> Value {
    let amount = json!({GPU: gpus.map(|gpus| gpus.to_string())});
    json!({"status": {"capacity": amount, "allocatable": amount}})
}

fn patch_node(cluster: &dyn Access, node: &str, patch: &Value, flags: &[&str]) -> Result<()> {
    let patch = patch.to_string();
    let words = ["patch", "node", node, "--type=merge", "-p", &patch];
    cluster.kubectl(&[&words, flags].concat()).map(drop)
}

fn refused(why: String) -> Error {
    Error::Malformed {
        what: "no GPUs were pretended".into(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, change: Value) -> Node {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}, "annotations": {}},
            "spec": {},
            "status": {
                "capacity": {"cpu": "8"}, "allocatable": {"cpu": "8"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        merge(&mut node, change);
        serde_json::from_value(node).unwrap()
    }

    fn merge(into: &mut Value, change: Value) {
        match (into, change) {
            (Value::Object(into), Value::Object(change)) => {
                for (key, value) in change {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, change) => *into = change,
        }
    }

    fn refusal(nodes: &[Node]) -> String {
        choose(nodes).unwrap_err().to_string()
    }

    #[test]
    fn only_nodes_that_take_pods_get_gpus() {
        let taint = json!({"spec": {"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]}});
        let soft = json!({"spec": {"taints": [{"key": "spot", "effect": "PreferNoSchedule"}]}});
        let lost = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
        let cordoned = json!({"spec": {"unschedulable": true}});
        let nodes = [
            node("control-plane", taint),
            node("cordoned", cordoned),
            node("lost", lost),
            node("soft", soft),
            node("plain", json!({})),
        ];
        assert_eq!(choose(&nodes).unwrap(), ["soft", "plain"]);
        let refusal = refusal(&nodes[..3]);
        for words in [
            "control-plane has the taint node-role.kubernetes.io/control-plane:NoSchedule",
            "cordoned is cordoned",
            "lost is not ready",
            "kubectl taint node",
        ] {
            assert!(refusal.contains(words), "{refusal}");
        }
    }

    #[test]
    fn a_cluster_with_gpus_of_its_own_is_refused() {
        for real in [
            json!({"status": {"capacity": {GPU: "8"}}}),
            // the device plugin is down
            json!({"status": {"capacity": {GPU: "0"}}}),
            json!({"status": {"capacity": {"nvidia.com/mig-1g.10gb": "7"}}}),
            json!({"status": {"capacity": {"amd.com/gpu": "8"}}}),
            json!({"metadata": {"labels": {PRODUCT_LABEL: "NVIDIA-A10G"}}}),
        ] {
            let nodes = [node("plain", json!({})), node("real", real)];
            let refusal = refusal(&nodes);
            assert!(
                refusal.contains("the cluster has GPUs") && refusal.contains("real ("),
                "{refusal}"
            );
        }
    }

    #[test]
    fn what_an_interrupted_run_left_is_known_by_its_mark() {
        let Value::Object(given) = metadata(&Mark::new(8)).unwrap() else {
            unreachable!()
        };
        let left = node("left", Value::Object(given));
        assert_eq!(Mark::of(&left), Some(Mark::new(8)));
        assert_eq!(marked(&[node("plain", json!({})), left.clone()]), ["left"]);
        assert_eq!(
            choose(&[left]).unwrap(),
            ["left"],
            "not taken for real ones"
        );
        let unreadable = json!({"metadata": {"annotations": {ANNOTATION: "?"}}});
        assert_eq!(marked(&[node("left", unreadable)]), ["left"]);
    }

    #[test]
    fn a_status_without_gpus_removes_the_resource() {
        let expected = json!({"status": {"capacity": {GPU: null}, "allocatable": {GPU: null}}});
        assert_eq!(status(None), expected);
    }
}
