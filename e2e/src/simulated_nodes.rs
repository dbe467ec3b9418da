//! Nodes that only exist on the API server: kwok plays them and their pods.
//!
//! Their pods have addresses that are local to the cluster's network, so that one server which
//! listens at all addresses stands for all of them.

use std::{fs, path::Path, process::Stdio, time::Duration};

use serde_json::json;

use crate::{
    Cluster, NodeOptions,
    access::Access,
    control_plane,
    error::{Result, While},
    namespace::{self, Component},
    process,
};

/// Addresses of pods on simulated nodes; up to 65,534 of them.
const POD_CIDR: &str = "10.200.0.0/16";
const LIMIT: Duration = Duration::from_secs(60);
const STAGES: &str = include_str!("../cluster/kwok.yaml");

/// Makes the nodes' objects and starts kwok, which makes them Ready.
pub(crate) fn start(cluster: &Cluster, nodes: &[NodeOptions]) -> Result<Component> {
    let init = cluster.init();
    let mut route = namespace::network_command(init, "ip");
    route.args(["route", "add", "local", POD_CIDR, "dev", "lo"]);
    process::run(&mut route, LIMIT)?;

    let run = cluster.run_directory();
    let write = |name: &str, text: &str| {
        let path = run.join(name);
        fs::write(&path, text).while_(|| format!("writing {}", path.display()))?;
        Ok(path)
    };
    let stages = write("kwok.yaml", STAGES)?;
    let objects: Vec<_> = nodes
        .iter()
        .enumerate()
        .map(|(index, node)| object(index, node))
        .collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let list = write("nodes.json", &list.to_string())?;
    // not `apply`: server-side apply leaves out a status
    cluster.kubectl(&["create", "-f", &display(&list)])?;

    let mut kwok = namespace::command(init, cluster.tools().program("kwok"));
    kwok.args([
        "--kubeconfig",
        &display(&cluster.kubeconfig()),
        "--config",
        &display(&stages),
        "--manage-all-nodes=true",
        "--cidr",
        POD_CIDR,
        "--node-ip",
        control_plane::ADDRESS,
        "--node-lease-duration-seconds=40",
        // nobody asks a simulated kubelet for logs
        "--node-port=0",
        "--enable-crds=",
    ]);
    let log = run.join("log/kwok.log");
    Component::start("kwok", &kwok, None, log, Stdio::null())
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

fn object(index: usize, options: &NodeOptions) -> serde_json::Value {
    let name = format!("node-{index}");
    let mut labels = options.labels.clone();
    labels.insert("kubernetes.io/hostname".into(), name.clone());
    labels.insert("kubernetes.io/os".into(), "linux".into());
    labels.insert("kubernetes.io/arch".into(), "amd64".into());
    let mut capacity = json!({"cpu": "192", "memory": "2Ti", "pods": "110"});
    if options.gpus > 0 {
        capacity["nvidia.com/gpu"] = options.gpus.to_string().into();
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"capacity": capacity, "allocatable": capacity},
    })
}
