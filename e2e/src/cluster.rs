//! A cluster: boots it, enters it, stops it.
//!
//! Its state lies in the cache at `clusters/NAME`: `state.json`, `kubeconfig`, `audit.log`, `log/`
//! with a file for each component. Clusters do not share a network, so they all have the same
//! addresses and any number of them run side by side.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    access::{self, Access},
    cache,
    cgroup::Cgroup,
    control_plane::{self, ControlPlaneOptions},
    error::{Error, Result, While},
    image,
    namespace::{self, Component},
    node::{Node, NodeOptions, NodeProvisioner},
    oci::Image,
    prerequisites, process,
    process::Identity,
    setup, simulated_nodes, template,
    tools::Tools,
};

/// The name that `cargo cluster` uses unless it is given one.
pub const DEFAULT_NAME: &str = "default";
/// Addresses of real nodes and their pods are laid out for this many.
pub const MAX_NODES: usize = 16;

const INIT_SCRIPT: &str = include_str!("../cluster/network.sh");
const READY_LIMIT: Duration = Duration::from_secs(120);
const NETWORK_LIMIT: Duration = Duration::from_secs(30);

/// How long a cluster lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until [`Cluster::stop`], or the end of the process that started it, however that comes
    /// about.
    Owner,
    /// Until somebody stops it.
    Detached,
}

/// How to boot a cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names the cluster among those of this machine; letters, digits and dashes.
    pub name: String,
    /// Its nodes; none for a control plane alone.
    pub nodes: Vec<NodeOptions>,
    /// Images that every node has from its start.
    pub images: Vec<Image>,
    /// Whether the API server writes an audit log.
    pub audit: bool,
    /// Whether Kubernetes' feature gate `GenericWorkload` is on: the API server serves PodGroups, and
    /// kube-scheduler places all pods of a gang or none.
    pub gang_scheduling: bool,
    /// How long it lives.
    pub lifetime: Lifetime,
}

impl Options {
    /// A control plane alone, with an audit log, that ends with this process.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            nodes: Vec::new(),
            images: Vec::new(),
            audit: true,
            gang_scheduling: false,
            lifetime: Lifetime::Owner,
        }
    }
}

/// What later processes need to know about the cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    name: String,
    init: Identity,
    /// It depends on the cgroup of the process that started the cluster, so later processes read it
    /// here.
    cgroup: Cgroup,
    nodes: Vec<Node>,
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    state: State,
    run: PathBuf,
    tools: Tools,
    /// The programs that this process started.
    components: Vec<Component>,
    /// The cluster ends when this pipe is closed.
    keep_alive: Option<ChildStdin>,
}

impl Cluster {
    /// Boots a cluster, and returns when its nodes are Ready and its DNS answers.
    ///
    /// Gets the machine ready first ([`setup()`]), and removes what an earlier cluster of this name
    /// left if it no longer runs.
    ///
    /// # Errors
    /// When the machine cannot be set up, a cluster of this name runs already, or a component
    /// fails; the error holds the end of its log. What was started by then is stopped.
    pub fn start(options: &Options) -> Result<Self> {
        validate(options)?;
        let tools = setup()?;
        let run = run_directory(&options.name)?;
        if let Some(earlier) = State::read(&run) {
            if earlier.init.is_alive() {
                return Err(Error::Running(options.name.clone()));
            }
            remove_remains(&run, &earlier.cgroup)?;
        }
        let cgroup = Cgroup::for_cluster(&options.name)?;
        remove_remains(&run, &cgroup)?;
        fs::create_dir_all(run.join("log")).while_(|| format!("creating {}", run.display()))?;

        let up = run.join("up");
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--fork",
            "--kill-child",
            "bash",
            "-c",
            INIT_SCRIPT,
            "network.sh",
        ]);
        command
            .arg(&up)
            .arg(if options.lifetime == Lifetime::Owner {
                "owner"
            } else {
                "detached"
            });
        command.env("PATH", prerequisites::path());
        let stdin = if options.lifetime == Lifetime::Owner {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        let mut network = Component::start(
            "network",
            &command,
            None,
            run.join("log/network.log"),
            stdin,
        )?;
        let keep_alive = network.take_stdin();
        let init = network.descendant(1, NETWORK_LIMIT)?;
        namespace::wait_for_file(&mut network, &up, NETWORK_LIMIT)?;

        let state = State {
            name: options.name.clone(),
            init,
            cgroup,
            nodes: Vec::new(),
        };
        state.write(&run)?;
        let components = vec![network];
        let mut cluster = Self {
            state,
            run,
            tools,
            components,
            keep_alive,
        };
        match cluster.boot(options) {
            Ok(()) => Ok(cluster),
            Err(error) => {
                cluster.kill();
                Err(error)
            }
        }
    }

    fn boot(&mut self, options: &Options) -> Result<()> {
        let is_simulated = options.nodes.iter().any(|node| node.is_simulated);
        self.components.extend(control_plane::start(
            self.state.init,
            &self.tools,
            &self.run,
            &ControlPlaneOptions {
                audit: options.audit,
                gang_scheduling: options.gang_scheduling,
                large: is_simulated,
            },
        )?);
        if is_simulated {
            let kwok = simulated_nodes::start(self, &options.nodes)?;
            self.components.push(kwok);
            let events = ["--for=condition=Ready", "--all"];
            return self.wait_for("node", &events, &self.run.join("log/kwok.log"));
        }
        if options.nodes.is_empty() {
            return Ok(());
        }
        let mut images = image::of_the_node(&self.tools)?;
        let [pause, dns] = &images[..] else {
            return Err(Error::Malformed {
                what: "images of the node".into(),
                why: "not two".into(),
            });
        };
        let pause = pause.clone();
        let dns = template::fill(
            include_str!("../cluster/coredns.yaml"),
            &[("IMAGE", &dns.reference)],
        )?;
        images.extend(options.images.iter().cloned());
        self.apply(&dns)?;
        // All are started before the first is waited for: they get Ready side by side.
        for (index, node) in options.nodes.iter().enumerate() {
            self.start_node(index, node, &pause, &images)?;
        }
        for (index, node) in options.nodes.iter().enumerate() {
            self.wait_for_node(index, node.gpus)?;
        }
        self.kubectl(&[
            "-n",
            "kube-system",
            "rollout",
            "status",
            "deployment/coredns",
            "--timeout=60s",
        ])
        .map(drop)
    }

    /// Starts a node, which gets Ready later.
    fn start_node(
        &mut self,
        index: usize,
        options: &NodeOptions,
        pause: &Image,
        images: &[Image],
    ) -> Result<()> {
        let provisioner = NodeProvisioner {
            tools: &self.tools,
            run: &self.run,
            control_plane: self.state.init,
            cgroup: &self.state.cgroup,
            pause,
        };
        let (node, components) = provisioner.start(index, options, images)?;
        self.components.extend(components);
        self.state.nodes.push(node);
        self.state.write(&self.run)
    }

    /// Waits until a node is Ready and gives it its GPUs.
    fn wait_for_node(&mut self, index: usize, gpus: u32) -> Result<()> {
        let name = self.state.nodes[index].name.clone();
        let log = self.run.join(format!("log/{name}-kubelet.log"));
        // The kubelet makes its Node object first.
        let events = ["--for=create", "--for=condition=Ready"];
        self.wait_for(&format!("node/{name}"), &events, &log)?;
        if gpus == 0 {
            return Ok(());
        }
        let gpus = format!(r#"{{"nvidia.com/gpu":"{gpus}"}}"#);
        let patch = format!(r#"{{"status":{{"capacity":{gpus},"allocatable":{gpus}}}}}"#);
        let subresource = "--subresource=status";
        self.kubectl(&[
            "patch",
            "node",
            &name,
            subresource,
            "--type=merge",
            "-p",
            &patch,
        ])
        .map(drop)
    }

    /// Waits for events of an object with `kubectl wait`. The component that ends meanwhile is the
    /// error; `log` says why it takes too long.
    fn wait_for(&mut self, object: &str, events: &[&str], log: &Path) -> Result<()> {
        let mut command = self.command("kubectl");
        // kubectl's own limit, a week, is never reached.
        command.args(["wait", object, "--timeout=-1s"]).args(events);
        match process::run_while(&mut command, READY_LIMIT, || self.check()) {
            Err(Error::Slow { what, limit, .. }) => Err(Error::Slow {
                what,
                limit,
                tail: process::tail(log),
            }),
            other => other.map(drop),
        }
    }

    /// The cluster of that name, started by another process.
    ///
    /// # Errors
    /// [`Error::NotRunning`] when there is none.
    pub fn open(name: &str) -> Result<Self> {
        let run = run_directory(name)?;
        let state = State::read(&run)
            .filter(|state| state.init.is_alive())
            .ok_or_else(|| Error::NotRunning {
                name: name.into(),
                run: run.clone(),
            })?;
        Ok(Self {
            state,
            run,
            tools: Tools::build()?,
            components: Vec::new(),
            keep_alive: None,
        })
    }

    /// The first process of its namespaces.
    pub(crate) fn init(&self) -> Identity {
        self.state.init
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Its real nodes, in the order in which they were started.
    pub fn nodes(&self) -> &[Node] {
        &self.state.nodes
    }

    /// The directory with its state and logs.
    pub fn run_directory(&self) -> &Path {
        &self.run
    }

    /// The programs it was made from.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The API server's audit log: one JSON event a line.
    pub fn audit_log(&self) -> PathBuf {
        self.run.join("audit.log")
    }

    /// An error with the end of its log when a component that this process started has ended.
    ///
    /// # Errors
    /// [`Error::Failed`] names the component.
    pub fn check(&mut self) -> Result<()> {
        self.components.iter_mut().try_for_each(Component::check)
    }

    /// Moves this process, and the programs that it starts from then on, into the cluster's
    /// network. Pods answer there, and if there is a node, Services and their names too. The file
    /// system stays the same.
    ///
    /// # Errors
    /// When the process has more than one thread, because the others would stay outside. Call it
    /// before an async runtime starts.
    pub fn join(&self) -> Result<()> {
        let threads = fs::read_dir("/proc/self/task")
            .while_(|| "listing threads".into())?
            .count();
        if threads > 1 {
            return Err(Error::Malformed {
                what: "entering the cluster's network".into(),
                why: format!("the process has {threads} threads and may only have one"),
            });
        }
        let path = format!("/proc/{}/ns/net", self.network_process().pid);
        let network = fs::File::open(&path).while_(|| format!("opening {path}"))?;
        let enter = || -> nix::Result<()> {
            use nix::{
                mount::{MsFlags, mount},
                sched::{CloneFlags, setns, unshare},
            };
            setns(network, CloneFlags::CLONE_NEWNET)?;
            let resolv = self.run.join("resolv.conf");
            if !self.state.nodes.is_empty() && fs::write(&resolv, RESOLV_CONF).is_ok() {
                unshare(CloneFlags::CLONE_NEWNS)?;
                mount(
                    None::<&str>,
                    "/",
                    None::<&str>,
                    MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                    None::<&str>,
                )?;
                mount(
                    Some(&resolv),
                    "/etc/resolv.conf",
                    None::<&str>,
                    MsFlags::MS_BIND,
                    None::<&str>,
                )?;
            }
            Ok(())
        };
        enter()
            .map_err(Into::into)
            .while_(|| "entering the cluster's network".into())
    }

    /// Sets `PATH` and `KUBECONFIG`.
    pub fn set_environment(&self, command: &mut Command) {
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("PATH", self.tools.path())
            .env("BURSAR_CLUSTER", &self.state.name);
    }

    /// Loads an image into every node.
    ///
    /// # Errors
    /// When a node cannot read it.
    pub fn load_image(&self, image: &Image) -> Result<()> {
        self.state
            .nodes
            .iter()
            .try_for_each(|node| node.load(&self.tools, std::slice::from_ref(image)))
    }

    /// Sends SIGKILL to the processes of a container, given its ID (`containerd://...` as in a
    /// pod's status, or without the scheme), and says how many there were.
    pub fn kill_container(&self, id: &str) -> usize {
        match id.trim_start_matches("containerd://") {
            // Every name contains the empty one.
            "" => 0,
            id => self.state.cgroup.kill_matching(id),
        }
    }

    /// Kills everything on a node at once, as a power failure does.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn kill_node(&mut self, name: &str) -> Result<()> {
        let at = self
            .state
            .nodes
            .iter()
            .position(|node| node.name == name)
            .ok_or_else(|| Error::Malformed {
                what: "kill a node".into(),
                why: format!("there is no `{name}`"),
            })?;
        self.state.nodes[at].init.kill();
        self.components
            .retain_mut(|component| component.check().is_ok());
        Ok(())
    }

    /// A client of the API server, for processes in the cluster's network ([`Self::join`]).
    ///
    /// # Errors
    /// When the kubeconfig cannot be read.
    pub async fn client(&self) -> Result<kube::Client> {
        access::client(&self.kubeconfig()).await
    }

    /// Stops it and removes all it made on the machine.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn stop(mut self) -> Result<()> {
        self.kill();
        remove_remains(&self.run, &self.state.cgroup)
    }

    /// Stops it and keeps its directory with the logs.
    ///
    /// # Errors
    /// When a cgroup cannot be removed.
    pub fn stop_and_keep_logs(mut self) -> Result<PathBuf> {
        self.kill();
        self.state.cgroup.remove()?;
        Ok(self.run.clone())
    }

    fn kill(&mut self) {
        self.keep_alive = None;
        self.state.init.kill();
        self.components.drain(..).for_each(Component::reap);
    }

    /// A process in the network to enter: that of the first node, because Services answer only
    /// where a kube-proxy runs.
    fn network_process(&self) -> Identity {
        self.state
            .nodes
            .iter()
            .map(|node| node.init)
            .find(|init| init.is_alive())
            .unwrap_or(self.state.init)
    }
}

impl Access for Cluster {
    fn kubeconfig(&self) -> PathBuf {
        self.run.join("kubeconfig")
    }

    /// Runs in the cluster's network, whether or not this process joined it.
    fn command(&self, program: &str) -> Command {
        let mut command =
            namespace::network_command(self.network_process(), self.tools.program(program));
        self.set_environment(&mut command);
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.keep_alive.is_some() {
            self.kill();
        }
    }
}

impl State {
    fn read(run: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(run.join("state.json")).ok()?).ok()
    }

    fn write(&self, run: &Path) -> Result<()> {
        let path = run.join("state.json");
        let text = serde_json::to_vec_pretty(self)
            .map_err(Into::into)
            .while_(|| format!("writing {}", path.display()))?;
        fs::write(&path, text).while_(|| format!("writing {}", path.display()))
    }
}

const RESOLV_CONF: &str = "nameserver 10.96.0.10\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";

fn validate(options: &Options) -> Result<()> {
    let simulated = options.nodes.iter().filter(|node| node.is_simulated);
    let simulated = simulated.count();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let problem = if options.name.is_empty() || !options.name.bytes().all(is_plain) {
        format!(
            "name `{}` must consist of letters, digits and dashes",
            options.name
        )
    } else if simulated > 0 && simulated < options.nodes.len() {
        "nodes must be all real or all simulated".to_owned()
    } else if simulated == 0 && options.nodes.len() > MAX_NODES {
        format!("{} nodes are more than {MAX_NODES}", options.nodes.len())
    } else {
        return Ok(());
    };
    Err(Error::Malformed {
        what: "cluster options".into(),
        why: problem,
    })
}

fn run_directory(name: &str) -> Result<PathBuf> {
    Ok(cache::directory()?.join("clusters").join(name))
}

/// Removes what a cluster left, processes in its cgroups included.
fn remove_remains(run: &Path, cgroup: &Cgroup) -> Result<()> {
    if cgroup.exists() {
        cgroup.remove()?;
    }
    if run.exists() {
        fs::remove_dir_all(run).while_(|| format!("removing {}", run.display()))?;
    }
    Ok(())
}

/// The user's shell.
pub fn shell() -> String {
    env::var("SHELL").unwrap_or_else(|_| "/bin/bash".into())
}
