//! GPUs that are only pretended, for a try on a cluster without any: kind, k3d or minikube on a
//! laptop.
//!
//! A plain node gets an extended resource in its status and the labels that GPU feature discovery
//! sets, so that the scheduler counts GPUs and Bursar prices them. No kubelet takes an extended
//! resource away that it does not manage; one that restarts, on a node where no device plugin ever
//! registered, sets it to 0. An annotation says what was done to a node: it is written first and
//! removed last, so that what a killed run left can be taken back later.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::manifests::NAMESPACE;
use crate::{Access, Error, Result};

pub(super) const GPU: &str = "nvidia.com/gpu";
pub(super) const PRODUCT_LABEL: &str = "nvidia.com/gpu.product";
/// Of a node that was changed, with a [`Mark`].
const ANNOTATION: &str = "demo.bursar.dev/pretended-gpus";
/// Prefixes of the resources and labels of nodes with GPUs, of any vendor.
const VENDORS: [&str; 7] = [
    "nvidia.com/",
    "amd.com/",
    "gpu.intel.com/",
    "intel.com/gpu",
    "aws.amazon.com/neuron",
    "habana.ai/",
    "google.com/tpu",
];
/// Prefixes of the labels that node pools and provisioners of clouds give to nodes with GPUs.
const POOL_LABELS: [&str; 8] = [
    "cloud.google.com/gke-accelerator",
    "cloud.google.com/gke-gpu",
    "cloud.google.com/gke-tpu",
    "k8s.amazonaws.com/accelerator",
    "karpenter.k8s.aws/instance-gpu-",
    "karpenter.k8s.aws/instance-accelerator-",
    "kubernetes.azure.com/accelerator",
    "accelerator",
];
/// The prefix of node feature discovery's labels for PCI devices. The next part is
/// `CLASS_VENDOR.present` or `VENDOR.present`.
const PCI_LABEL: &str = "feature.node.kubernetes.io/pci-";
/// PCI vendors of GPUs: NVIDIA, AMD, Habana.
const PCI_VENDORS: [&str; 3] = ["10de", "1002", "1da3"];

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

    /// The mark of a node; `None` if the node has none.
    ///
    /// # Errors
    /// A mark that cannot be read: it says that the node was changed, and not how.
    fn of(node: &Node) -> Result<Option<Self>> {
        let Some(text) = node.annotations().get(ANNOTATION) else {
            return Ok(None);
        };
        serde_json::from_str(text)
            .map(Some)
            .map_err(|error| unreadable(&node.name_any(), &error))
    }
}

fn is_marked(node: &Node) -> bool {
    node.annotations().contains_key(ANNOTATION)
}

fn unreadable(node: &str, error: &serde_json::Error) -> Error {
    let labels: Vec<String> = Mark::new(0)
        .labels
        .into_keys()
        .map(|label| label + "-")
        .collect();
    Error::Malformed {
        what: format!("annotation {ANNOTATION} of node {node}"),
        why: format!(
            "{error}. It says which GPUs a demo pretended there, so nothing of them was taken back. If the node has none of its own, \
             take them back by hand, the annotation last:\n  \
             kubectl patch node {node} --subresource=status --type=merge -p '{}'\n  \
             kubectl label node {node} {}\n  \
             kubectl annotate node {node} {ANNOTATION}-",
            status(None),
            labels.join(" ")
        ),
    }
}

/// The names of the nodes that have pretended GPUs.
pub(super) fn marked(nodes: &[Node]) -> Vec<String> {
    let marked = nodes.iter().filter(|node| is_marked(node));
    marked.map(ResourceExt::name_any).collect()
}

/// The names of the nodes that get GPUs: those that are ready and take any pod.
///
/// # Errors
/// When the cluster has GPUs of its own, or pods that want some, which would start on pretended
/// ones; when a mark cannot be read; or when no node fits.
pub(super) fn choose(nodes: &[Node], pods: &[Pod], has_slices: bool) -> Result<Vec<String>> {
    for node in nodes {
        Mark::of(node)?;
    }
    let on_nodes = nodes
        .iter()
        .filter(|node| !is_marked(node))
        .filter_map(|node| Some(format!("{} ({})", node.name_any(), gpu_of(node)?)));
    let of_pods = pods
        .iter()
        .filter(|pod| pod.namespace().as_deref() != Some(NAMESPACE))
        .filter_map(|pod| {
            let namespace = pod.namespace().unwrap_or_default();
            let resource = gpu_request(pod)?;
            Some(format!(
                "pod {namespace}/{} requests {resource}",
                pod.name_any()
            ))
        });
    let slices = has_slices.then(|| "a driver publishes devices in ResourceSlices".to_owned());
    let real: Vec<String> = on_nodes.chain(of_pods).chain(slices).collect();
    if !real.is_empty() {
        return Err(refused(format!(
            "the cluster has GPUs, or had some, or pods wait for some: {}. Pretended ones would be taken for real ones there; run the demo without \
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
        .find(|name| is_of_gpus(name) || is_pool_label(name) || is_pci_label(name))
        .map(String::as_str)
}

fn is_of_gpus(name: &str) -> bool {
    VENDORS.iter().any(|vendor| name.starts_with(vendor))
}

fn is_pool_label(name: &str) -> bool {
    POOL_LABELS.iter().any(|label| name.starts_with(label))
}

fn is_pci_label(name: &str) -> bool {
    let device = name.strip_prefix(PCI_LABEL).unwrap_or_default();
    let device = device.split('.').next().unwrap_or_default();
    device.split('_').any(|id| PCI_VENDORS.contains(&id))
}

/// A GPU resource that a pod requests, whatever phase it is in: a pending one would start on
/// pretended GPUs, and one that has ended had real ones.
fn gpu_request(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let of_containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    of_containers
        .filter_map(|container| container.resources.as_ref())
        .chain(&spec.resources)
        .flat_map(|resources| [&resources.requests, &resources.limits])
        .flatten()
        .flat_map(|amounts| amounts.keys())
        .find(|name| is_of_gpus(name))
        .cloned()
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
    let outcomes: Vec<Result<String>> = nodes
        .iter()
        .filter_map(|node| Some((node, Mark::of(node).transpose()?)))
        .map(|(node, mark)| take_back_from(cluster, node, &mark?))
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
    list(cluster, &["get", "nodes", "-o", "json"])
}

/// The pods of all namespaces.
pub(super) fn pods(cluster: &dyn Access) -> Result<Vec<Pod>> {
    list(cluster, &["get", "pods", "--all-namespaces", "-o", "json"])
}

/// Whether a driver of dynamic resource allocation publishes devices.
pub(super) fn has_resource_slices(cluster: &dyn Access) -> Result<bool> {
    match cluster.kubectl(&["get", "resourceslices.resource.k8s.io", "-o", "name"]) {
        Ok(found) => Ok(!found.trim().is_empty()),
        // a server without dynamic resource allocation
        Err(Error::Failed { tail, .. })
            if tail.contains("the server doesn't have a resource type") =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn list<T: DeserializeOwned>(cluster: &dyn Access, args: &[&str]) -> Result<Vec<T>> {
    let text = cluster.kubectl(args)?;
    let malformed = |error: serde_json::Error| Error::Malformed {
        what: format!("kubectl {}", args.join(" ")),
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
        choose(nodes, &[], false).unwrap_err().to_string()
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
        assert_eq!(choose(&nodes, &[], false).unwrap(), ["soft", "plain"]);
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
            json!({"metadata": {"labels": {"feature.node.kubernetes.io/pci-10de.present": "true"}}}),
            json!({"metadata": {"labels": {"feature.node.kubernetes.io/pci-0302_10de.present": "true"}}}),
            json!({"metadata": {"labels": {"cloud.google.com/gke-accelerator": "nvidia-l4"}}}),
            json!({"metadata": {"labels": {"k8s.amazonaws.com/accelerator": "nvidia-a10g"}}}),
        ] {
            let nodes = [node("plain", json!({})), node("real", real)];
            let refusal = refusal(&nodes);
            assert!(
                refusal.contains("the cluster has GPUs") && refusal.contains("real ("),
                "{refusal}"
            );
        }
    }

    fn pod(namespace: &str, spec: &Value) -> Pod {
        let metadata = json!({"namespace": namespace, "name": "p"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn a_cluster_in_which_something_else_wants_gpus_is_refused() {
        let nodes = [node(
            "plain",
            // a virtual machine's display
            json!({"metadata": {"labels": {"feature.node.kubernetes.io/pci-0300_1234.present": "true"}}}),
        )];
        let refusal =
            |pods: &[Pod], slices| choose(&nodes, pods, slices).map_err(|error| error.to_string());
        let container = |amounts: Value| json!([{"name": "c", "resources": amounts}]);
        for (resource, spec) in [
            (
                GPU,
                json!({"containers": container(json!({"limits": {GPU: "1"}}))}),
            ),
            (
                "amd.com/gpu",
                json!({"containers": container(json!({"requests": {"amd.com/gpu": "1"}}))}),
            ),
            (
                "nvidia.com/mig-1g.10gb",
                json!({
                    "containers": container(json!({})),
                    "initContainers": container(json!({"limits": {"nvidia.com/mig-1g.10gb": "1"}})),
                }),
            ),
        ] {
            let why = refusal(&[pod("default", &spec)], false).unwrap_err();
            assert!(
                why.contains(&format!("pod default/p requests {resource}")),
                "{why}"
            );
            assert!(refusal(&[pod(NAMESPACE, &spec)], false).is_ok());
        }
        let plain = json!({"containers": container(json!({"limits": {"cpu": "1"}}))});
        assert!(refusal(&[pod("default", &plain)], false).is_ok());
        assert!(refusal(&[], true).unwrap_err().contains("ResourceSlices"));
    }

    /// An API server that answers each request as this shell script does.
    struct Answer(&'static str);

    impl Access for Answer {
        fn kubeconfig(&self) -> std::path::PathBuf {
            "/".into()
        }

        fn command(&self, _program: &str) -> std::process::Command {
            let mut command = std::process::Command::new("sh");
            command.args(["-c", self.0]);
            command
        }
    }

    #[test]
    fn only_a_server_without_resource_slices_counts_as_one_that_has_none() {
        let no_such_type = r#"echo 'error: the server doesn'"'"'t have a resource type "resourceslices"' >&2; exit 1"#;
        let has_slices = |script| has_resource_slices(&Answer(script)).ok();
        assert_eq!(
            has_slices("echo resourceslice.resource.k8s.io/a"),
            Some(true)
        );
        assert_eq!(has_slices("exit 0"), Some(false));
        assert_eq!(has_slices(no_such_type), Some(false));
        assert_eq!(has_slices("echo forbidden >&2; exit 1"), None);
    }

    #[test]
    fn what_an_interrupted_run_left_is_known_by_its_mark() {
        let Value::Object(given) = metadata(&Mark::new(8)).unwrap() else {
            unreachable!()
        };
        let left = node("left", Value::Object(given));
        assert_eq!(Mark::of(&left).unwrap(), Some(Mark::new(8)));
        assert_eq!(marked(&[node("plain", json!({})), left.clone()]), ["left"]);
        assert_eq!(
            choose(&[left], &[], false).unwrap(),
            ["left"],
            "not taken for real ones"
        );
    }

    /// An API server with some nodes; it records what it is asked to change.
    struct Fake {
        directory: tempfile::TempDir,
    }

    impl Fake {
        fn new(nodes: &[Node]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let list = json!({"items": nodes}).to_string();
            std::fs::write(directory.path().join("nodes"), list).unwrap();
            std::fs::write(directory.path().join("patches"), "").unwrap();
            Self { directory }
        }

        fn patches(&self) -> String {
            std::fs::read_to_string(self.directory.path().join("patches")).unwrap()
        }
    }

    impl Access for Fake {
        fn kubeconfig(&self) -> std::path::PathBuf {
            self.directory.path().into()
        }

        fn command(&self, _program: &str) -> std::process::Command {
            let script = r#"if [ "$1" = get ]; then cat nodes; else echo "$@" >>patches; fi"#;
            let mut command = std::process::Command::new("sh");
            command.args(["-c", script, "kubectl"]);
            command.current_dir(self.directory.path());
            command
        }
    }

    #[test]
    fn a_mark_that_cannot_be_read_keeps_its_node_as_it_is_and_says_what_to_do() {
        for text in ["?", "{}", r#"{"gpus": 8}"#, r#"{"gpus": -1, "labels": {}}"#] {
            let bad = node(
                "bad",
                json!({"metadata": {"annotations": {ANNOTATION: text}}, "status": {"capacity": {GPU: "8"}}}),
            );
            let Value::Object(given) = metadata(&Mark::new(8)).unwrap() else {
                unreachable!()
            };
            let nodes = [bad, node("good", Value::Object(given))];
            assert_eq!(marked(&nodes), ["bad", "good"]);
            let cluster = Fake::new(&nodes);
            for error in [
                take_back(&cluster).unwrap_err().to_string(),
                refusal(&nodes),
            ] {
                for words in [
                    "of node bad",
                    "kubectl patch node bad --subresource=status",
                    "kubectl label node bad nvidia.com/gpu.count- nvidia.com/gpu.memory- nvidia.com/gpu.product-",
                    "kubectl annotate node bad demo.bursar.dev/pretended-gpus-",
                ] {
                    assert!(error.contains(words), "{error}");
                }
            }
            let patches = cluster.patches();
            assert!(!patches.contains("node bad"), "{patches}");
            assert!(patches.contains("node good"), "{patches}");
        }
    }

    #[test]
    fn a_status_without_gpus_removes_the_resource() {
        let expected = json!({"status": {"capacity": {GPU: null}, "allocatable": {GPU: null}}});
        assert_eq!(status(None), expected);
    }
}
