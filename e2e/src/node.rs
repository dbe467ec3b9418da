//! A node: namespaces of its own, with containerd, kubelet and kube-proxy in them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    cgroup::Cgroup,
    error::{Result, While},
    namespace::{self, Component},
    oci::Image,
    process::{self, Identity},
    template,
    tools::Tools,
};

const INIT_SCRIPT: &str = include_str!("../cluster/node.sh");
const START_LIMIT: Duration = Duration::from_secs(60);
const IMPORT_LIMIT: Duration = Duration::from_secs(300);
const SOCKET: &str = "/run/containerd/containerd.sock";

/// What a node has.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    /// GPUs that it advertises as `nvidia.com/gpu`. There is no hardware behind them: the scheduler
    /// counts them for real.
    pub gpus: u32,
    /// Labels in addition to the kubelet's own.
    pub labels: BTreeMap<String, String>,
    /// The node is an object only, and kwok plays it and its pods.
    pub is_simulated: bool,
}

impl NodeOptions {
    /// A node with `gpus` H100 and the labels of GPU feature discovery, a cloud provider and
    /// Karpenter.
    pub fn h100(gpus: u32) -> Self {
        Self {
            gpus,
            ..Self::default()
        }
        .label("nvidia.com/gpu.product", "NVIDIA-H100-80GB-HBM3")
        .label("nvidia.com/gpu.memory", "81559")
        .label("nvidia.com/gpu.count", &gpus.to_string())
        .label("node.kubernetes.io/instance-type", "p5.48xlarge")
        .label("karpenter.sh/capacity-type", "on-demand")
        .label("topology.kubernetes.io/region", "us-east-1")
        .label("topology.kubernetes.io/zone", "us-east-1a")
    }

    /// The same as an object only: kwok plays the node and its pods, hundreds of them in one
    /// process. A cluster has real nodes or simulated ones.
    #[must_use]
    pub fn simulated(mut self) -> Self {
        self.is_simulated = true;
        self
    }

    /// The same with one more label, or with another value of it.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }
}

/// A running node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Node {
    /// Name of its Node object.
    pub name: String,
    /// First process of its namespaces.
    pub init: Identity,
}

/// Starts the nodes of one cluster.
pub(crate) struct NodeProvisioner<'a> {
    pub(crate) tools: &'a Tools,
    pub(crate) run: &'a Path,
    pub(crate) control_plane: Identity,
    pub(crate) cgroup: &'a Cgroup,
    pub(crate) pause: &'a Image,
}

impl NodeProvisioner<'_> {
    /// Starts node number `index` and its programs; it becomes Ready later. `images` are loaded
    /// before the kubelet starts.
    pub(crate) fn start(
        &self,
        index: usize,
        options: &NodeOptions,
        images: &[Image],
    ) -> Result<(Node, Vec<Component>)> {
        let name = format!("node-{index}");
        let dir = self.run.join(&name);
        for part in [
            "cni",
            "containerd",
            "kubelet",
            "log",
            "sysctl",
            "var-lib",
            "var-lib-work",
        ] {
            let part = dir.join(part);
            fs::create_dir_all(&part).while_(|| format!("creating {}", part.display()))?;
        }
        self.configure(index, &dir)?;
        let cgroup = self.cgroup.child(&name);
        cgroup.create()?;

        let up = dir.join("up");
        fs::remove_file(&up).ok();
        let mut command = namespace::command(self.control_plane, "unshare");
        command.args([
            "--net",
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--cgroup",
            "--fork",
            "--kill-child",
        ]);
        command
            .args([
                "bash",
                "-c",
                INIT_SCRIPT,
                "node.sh",
                &name,
                &index.to_string(),
            ])
            .arg(&dir);
        let mut first = Component::start(
            &name,
            &command,
            Some(&cgroup),
            self.run.join(format!("log/{name}.log")),
            Stdio::null(),
        )?;
        // nsenter forks into the PID namespace, unshare forks the first process of the next one.
        let init = first.descendant(2, START_LIMIT)?;
        self.connect_to_bridge(index, init)?;
        namespace::wait_for_file(&mut first, &up, START_LIMIT)?;
        let programs = cgroup.delegate()?;

        let node = Node { name, init };
        let launch = |program: &str, args: &[String]| {
            let mut command = node.command(self.tools, program);
            command.args(args);
            let log = self.run.join(format!("log/{}-{program}.log", node.name));
            Component::start(program, &command, Some(&programs), log, Stdio::null())
        };
        let mut containerd = launch(
            "containerd",
            &[format!(
                "--config={}",
                dir.join("containerd.toml").display()
            )],
        )?;
        let log = containerd.log.clone();
        process::wait_until("containerd", START_LIMIT, &log, || {
            containerd.check()?;
            // Each `ctr` is a process, so none is started before containerd listens.
            if !node.shows(SOCKET) {
                return Ok(false);
            }
            let mut command = node.command(self.tools, "ctr");
            Ok(process::run(command.args(["--address", SOCKET, "version"]), START_LIMIT).is_ok())
        })?;
        node.load(self.tools, images)?;
        let labels = options
            .labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>();
        let kubeconfig = self.run.join("kubeconfig").display().to_string();
        let kubelet = launch(
            "kubelet",
            &[
                format!("--config={}", dir.join("kubelet.yaml").display()),
                format!("--kubeconfig={kubeconfig}"),
                format!("--root-dir={}", dir.join("kubelet").display()),
                format!("--cert-dir={}", dir.join("kubelet/pki").display()),
                format!("--hostname-override={}", node.name),
                format!("--node-ip={}", address(index)),
                format!("--node-labels={}", labels.join(",")),
            ],
        )?;
        let kube_proxy = launch(
            "kube-proxy",
            &[
                format!("--config={}", dir.join("kube-proxy.yaml").display()),
                format!("--hostname-override={}", node.name),
            ],
        )?;
        Ok((node, vec![first, containerd, kubelet, kube_proxy]))
    }

    fn configure(&self, index: usize, dir: &Path) -> Result<()> {
        let values = [
            ("DIR", dir.display().to_string()),
            ("INDEX", index.to_string()),
            ("PAUSE", self.pause.reference.clone()),
            ("CNI", self.tools.cni().display().to_string()),
            ("RUNC", self.tools.program("runc").display().to_string()),
            (
                "KUBECONFIG",
                self.run.join("kubeconfig").display().to_string(),
            ),
        ];
        let values = values
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect::<Vec<_>>();
        for (file, text) in [
            (
                "containerd.toml",
                include_str!("../cluster/containerd.toml"),
            ),
            ("cni/10-pods.conflist", include_str!("../cluster/cni.json")),
            ("kubelet.yaml", include_str!("../cluster/kubelet.yaml")),
            (
                "kube-proxy.yaml",
                include_str!("../cluster/kube-proxy.yaml"),
            ),
            // For pods with the DNS policy `Default`.
            ("resolv.conf", "nameserver 127.0.0.1\n"),
        ] {
            let path = dir.join(file);
            fs::write(&path, template::fill(text, &values)?)
                .while_(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }

    /// Connects the node to the bridge of the cluster by a pair of veth devices.
    fn connect_to_bridge(&self, index: usize, init: Identity) -> Result<()> {
        let port = format!("node{index}");
        let ip = |args: &[&str]| {
            let mut command = namespace::network_command(self.control_plane, "ip");
            process::run(command.args(args), START_LIMIT)
        };
        // The device of a killed node with this index goes away with its namespace, a moment later.
        ip(&["link", "del", &port]).ok();
        ip(&[
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &init.pid.to_string(),
        ])?;
        ip(&["link", "set", &port, "master", "lan", "up"])?;
        Ok(())
    }
}

impl Node {
    /// A command in the node's namespaces, with the cluster's programs in `PATH`.
    pub fn command(&self, tools: &Tools, program: &str) -> Command {
        let mut command = namespace::command(self.init, tools.program(program));
        command.env("PATH", tools.path());
        command
    }

    /// Whether a file exists in the node's view of the file system.
    fn shows(&self, path: &str) -> bool {
        Path::new(&format!("/proc/{}/root{path}", self.init.pid)).exists()
    }

    /// Loads images into the node's containerd.
    pub(crate) fn load(&self, tools: &Tools, images: &[Image]) -> Result<()> {
        for archive in images
            .iter()
            .map(|image| &image.archive)
            .collect::<Vec<&PathBuf>>()
        {
            let mut command = self.command(tools, "ctr");
            command
                .args([
                    "--address",
                    SOCKET,
                    "--namespace",
                    "k8s.io",
                    "images",
                    "import",
                    "--local",
                ])
                .arg(archive);
            process::run(&mut command, IMPORT_LIMIT)?;
        }
        Ok(())
    }
}

/// A node's address on the cluster's network.
pub fn address(index: usize) -> String {
    format!("10.89.0.{}", 10 + index)
}
