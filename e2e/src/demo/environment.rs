//! The cluster on which the demo runs: one that it boots on this machine, or an existing one, which
//! is left as it was found.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Node;
use serde_json::Value;

use super::{
    ExistingCluster,
    manifests::{NAMESPACE, Workloads},
    pretended_gpus::{self, GPU, PRODUCT_LABEL},
    terminal::Terminal,
};
use crate::{
    Access, Cluster, Error, Lifetime, NodeOptions, Options, Result, access::Foreign, error::While,
    image, interrupt, oci::Image, operator, process, setup,
};

/// The name of the cluster that the demo boots.
const CLUSTER_NAME: &str = "demo";
const GPUS: u32 = 8;
const IMAGE: &str = "bursar.local/demo:dev";
const BUILDING: &str =
    "building the operator, the model server, the trainer and the clients into an image";
const CLEAN_LIMIT: Duration = Duration::from_secs(240);
/// Covers pulling an image of some 100 MB.
const START_LIMIT: Duration = Duration::from_secs(180);

/// A cluster with GPUs, whose nodes can get the image.
pub(super) enum Environment {
    /// A cluster that the demo boots and stops.
    Local(Box<Cluster>, Workloads),
    /// A cluster of the user's.
    Existing(Box<Existing>),
}

/// An existing cluster.
pub(super) struct Existing {
    cluster: Foreign,
    workloads: Workloads,
    image: Image,
    pretended: Option<Pretended>,
}

/// The nodes that get GPUs by their status.
struct Pretended {
    nodes: Vec<String>,
    /// GPUs of each node.
    gpus: u32,
}

impl Pretended {
    /// Chooses the nodes.
    fn plan(cluster: &Foreign, gpus: u32) -> Result<Self> {
        let nodes = pretended_gpus::choose(
            &pretended_gpus::nodes(cluster)?,
            &pretended_gpus::pods(cluster)?,
            pretended_gpus::has_resource_slices(cluster)?,
        )?;
        if let Some(node) = nodes.first() {
            pretended_gpus::check_rights(cluster, node, gpus)?;
        }
        Ok(Self { nodes, gpus })
    }

    fn count(&self) -> u64 {
        self.nodes.len() as u64 * u64::from(self.gpus)
    }
}

impl Environment {
    /// Boots a cluster.
    pub(super) fn start_local(keep: bool, terminal: &Terminal) -> Result<Self> {
        // before anything takes long
        setup().map_err(or_use_existing)?;
        terminal.log(BUILDING);
        let image = image::bundle(IMAGE)?;
        terminal.log(&format!(
            "starting a Kubernetes cluster with a node of {GPUS} H100 (real but for the GPUs' silicon)"
        ));
        let cluster = Cluster::start(&Options {
            nodes: vec![NodeOptions::h100(GPUS)],
            images: vec![image.clone()],
            lifetime: if keep {
                Lifetime::Detached
            } else {
                Lifetime::Owner
            },
            ..Options::new(CLUSTER_NAME)
        })
        .map_err(|error| match error {
            Error::Running(name) => Error::Malformed {
                what: format!("a cluster `{name}` is still up from an earlier demo"),
                why: format!("stop it with `cargo cluster --name {name} down`"),
            },
            other => or_use_existing(other),
        })?;
        // threads stay in the network in which they start
        cluster.join()?;
        let workloads = workloads(image.reference, u64::from(GPUS))?;
        Ok(Self::Local(Box::new(cluster), workloads))
    }

    /// Checks whether the demo can run on an existing cluster, writes the image for it, and makes
    /// the demo's namespace there, which keeps other demos away until this one ends.
    pub(super) fn use_existing(existing: &ExistingCluster, terminal: &Terminal) -> Result<Self> {
        image::check_reference(&existing.image)?;
        let cluster = Foreign::new(&existing.kubeconfig)?;
        terminal.log("looking at the cluster: its GPUs, and whether anything is in the demo's way");
        check_is_unused(&cluster)?;
        let pretended = match existing.pretend_gpus {
            Some(gpus) => Some(Pretended::plan(&cluster, gpus)?),
            None => None,
        };
        let count = match &pretended {
            Some(pretended) => pretended.count(),
            None => gpus(&pretended_gpus::nodes(&cluster)?)?,
        };
        let workloads = workloads(existing.image.clone(), count)?;
        terminal.log(BUILDING);
        let image = image::bundle(&existing.image)?;
        interrupt::check()?;
        // the build took minutes
        check_is_unused(&cluster)?;
        // last: what fails before it leaves nothing to remove
        lock(&cluster)?;
        Ok(Self::Existing(Box::new(Existing {
            cluster,
            workloads,
            image,
            pretended,
        })))
    }

    /// Gives the chosen nodes their GPUs, if the demo was asked to pretend some, after it took back
    /// what an interrupted run left.
    pub(super) fn pretend_gpus(&self, terminal: &Terminal) -> Result<()> {
        let Self::Existing(existing) = self else {
            return Ok(());
        };
        let Some(Pretended { nodes, gpus }) = &existing.pretended else {
            return Ok(());
        };
        // GPUs may have come while the image was built
        Pretended::plan(&existing.cluster, *gpus)?;
        let left = pretended_gpus::take_back(&existing.cluster)?;
        if !left.is_empty() {
            terminal.log(&format!(
                "took back the GPUs that an interrupted run had pretended: {}",
                left.join(", ")
            ));
        }
        terminal.log(&format!(
            "pretending {gpus} GPUs on each of these nodes until the end: {}",
            nodes.join(", ")
        ));
        pretended_gpus::give(&existing.cluster, nodes, *gpus)
    }

    /// The cluster's API server.
    pub(super) fn cluster(&self) -> &dyn Access {
        match self {
            Self::Local(cluster, _) => &**cluster,
            Self::Existing(existing) => &existing.cluster,
        }
    }

    /// The workloads, sized for this cluster.
    pub(super) fn workloads(&self) -> &Workloads {
        match self {
            Self::Local(_, workloads) => workloads,
            Self::Existing(existing) => &existing.workloads,
        }
    }

    /// Starts the pod that sends the requests. It is the first that needs the image.
    pub(super) fn start_clients(&self, terminal: &Terminal) -> Result<()> {
        let cluster = self.cluster();
        cluster.apply(&self.workloads().clients())?;
        terminal.log("starting the clients' pod");
        let began = Instant::now();
        loop {
            let pod = cluster.kubectl(&["-n", NAMESPACE, "get", "pod", "client", "-o", "json"])?;
            match pod_start(&serde_json::from_str(&pod).unwrap_or_default()) {
                PodStart::Ready => return Ok(()),
                PodStart::NoImage(why) => return Err(self.image_error(&why)),
                PodStart::Waiting(why) if began.elapsed() > START_LIMIT => {
                    return Err(Error::Slow {
                        what: "starting the clients' pod".into(),
                        limit: START_LIMIT,
                        tail: why,
                    });
                }
                PodStart::Waiting(_) => interrupt::sleep(Duration::from_secs(1))?,
            }
        }
    }

    fn image_error(&self, why: &str) -> Error {
        let what = format!("the nodes cannot get the image {}", self.workloads().image);
        let why = match self {
            Self::Local(..) => why.to_owned(),
            Self::Existing(existing) => format!(
                "{why}\nIt lies in {}. Push it, or load it into each node, and run the same command again:\n  {}",
                existing.image.archive.display(),
                image::ways_to_bring(&existing.image)
            ),
        };
        Error::Malformed { what, why }
    }

    /// Prints how to use what was left running, and how to remove it.
    pub(super) fn print_usage(&self, terminal: &Terminal) {
        terminal.print(&match self {
            Self::Local(..) => format!(
                "\nthe cluster stays up:\n  cargo cluster --name {CLUSTER_NAME} enter kubectl get infd -A\n  cargo cluster --name {CLUSTER_NAME} down"
            ),
            Self::Existing(existing) => existing.usage(),
        });
    }

    /// Stops or removes what the demo made. Unless the run was `good`, the logs of its own cluster
    /// are kept.
    ///
    /// # Errors
    /// The first of what could not be stopped or removed.
    pub(super) fn clean_up(self, good: bool, terminal: &Terminal) -> Result<()> {
        let removed = match self {
            Self::Local(cluster, _) if good => cluster.stop(),
            Self::Local(cluster, _) => cluster
                .stop_and_keep_logs()
                .map(|run| terminal.print_error(&format!("logs: {}", run.join("log").display()))),
            Self::Existing(existing) => {
                terminal.log("removing everything from the cluster");
                let removed = remove_all(&existing.cluster);
                if removed.is_err() {
                    terminal.print(&existing.usage());
                }
                removed
            }
        };
        removed.map_err(|error| Error::Malformed {
            what: "cleaning up".into(),
            why: error.to_string(),
        })
    }
}

impl Existing {
    /// What was left on the cluster, and how to remove it.
    fn usage(&self) -> String {
        let kubeconfig = self.cluster.kubeconfig();
        format!(
            "\nBursar and namespace {NAMESPACE} stay:\n  kubectl --kubeconfig {} get infd -A\nTo remove them:\n{}",
            kubeconfig.display(),
            removal(&kubeconfig, self.pretended.is_some())
        )
    }
}

/// Commands that remove what the demo makes, GPUs that were `pretended` included.
fn removal(kubeconfig: &Path, pretended: bool) -> String {
    let kubeconfig = kubeconfig.display();
    let operator = operator::NAMESPACE;
    let mut commands = format!(
        "  kubectl --kubeconfig {kubeconfig} delete namespace {NAMESPACE}\n  \
         helm --kubeconfig {kubeconfig} uninstall bursar --namespace {operator}\n  \
         kubectl --kubeconfig {kubeconfig} delete namespace {operator}\n  \
         kubectl --kubeconfig {kubeconfig} delete -f crds"
    );
    if pretended {
        commands += &format!("\n  cargo demo --kubeconfig {kubeconfig} --pretend-gpus 0");
    }
    commands
}

/// Fails if something is in the cluster that the demo would make and remove.
fn check_is_unused(cluster: &Foreign) -> Result<()> {
    let names = ["--ignore-not-found", "-o", "name"];
    let crds = ["get", "crd", "inferencedeployments.bursar.dev"];
    let namespaces = ["get", "namespace", NAMESPACE, operator::NAMESPACE];
    for (args, what) in [
        (&crds[..], "Bursar's definitions"),
        (&namespaces[..], "a namespace of that name"),
    ] {
        let found = cluster.kubectl(&[args, &names].concat())?;
        if !found.trim().is_empty() {
            // nodes that cannot be read may have some
            let pretended = pretended_gpus::nodes(cluster)
                .map_or(true, |nodes| !pretended_gpus::marked(&nodes).is_empty());
            return Err(Error::Malformed {
                what: format!("the cluster has {what} already"),
                why: format!(
                    "the demo makes its own and removes it afterwards; delete it or take another cluster: {}\n\
                     If a demo that was killed has left it, these commands remove all of that:\n{}",
                    found.trim().replace('\n', ", "),
                    removal(&cluster.kubeconfig(), pretended)
                ),
            });
        }
    }
    Ok(())
}

/// Makes the demo's namespace, which only one of several demos can. A signal does not end it half
/// way: whoever has made the namespace has to know it.
fn lock(cluster: &dyn Access) -> Result<()> {
    let mut command = cluster.command("kubectl");
    command.args(["create", "namespace", NAMESPACE, "--request-timeout=30s"]);
    let output = command
        .stdin(Stdio::null())
        .output()
        .while_(|| "starting kubectl".into())?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    let advice = if why.contains("(AlreadyExists)") {
        "Another demo was faster; this one changed nothing in the cluster".to_owned()
    } else {
        // the answer may have been lost, and not the request
        format!("If the namespace is there now, delete it: kubectl delete namespace {NAMESPACE}")
    };
    Err(Error::Malformed {
        what: format!("making namespace {NAMESPACE}, which keeps other demos away"),
        why: format!("{}\n{advice}", why.trim()),
    })
}

/// Adds to an error about this machine that the demo can run on an existing cluster.
fn or_use_existing(error: Error) -> Error {
    match error {
        Error::Prerequisites(what) => Error::Prerequisites(format!(
            "{what}\n- or run the demo on an existing cluster: cargo demo --kubeconfig FILE --image REGISTRY/NAME:TAG"
        )),
        other => other,
    }
}

/// Removes what the demo made. The operator is removed after the namespace's pods, whose charges it
/// has to settle, and before its definitions. Every step is tried even if one before it fails; the
/// first error is returned.
fn remove_all(cluster: &Foreign) -> Result<()> {
    let delete = |what: &[&str]| {
        let mut command = cluster.command("kubectl");
        command.args(["delete", "--ignore-not-found", "--wait"]);
        process::run(command.args(what), CLEAN_LIMIT).map(drop)
    };
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
    let steps = [
        delete(&["namespace", NAMESPACE]),
        uninstall(cluster),
        delete(&["namespace", operator::NAMESPACE]),
        delete(&["-f", &crds.display().to_string()]),
        // after the pods, whose prices are those of their nodes' labels
        pretended_gpus::take_back(cluster).map(drop),
    ];
    steps.into_iter().collect()
}

/// Uninstalls the chart, if helm began to install it.
fn uninstall(cluster: &Foreign) -> Result<()> {
    let releases = [
        "get",
        "secrets",
        "-l",
        "owner=helm,name=bursar",
        "-o",
        "name",
        "-n",
    ];
    let found = cluster.kubectl(&[&releases[..], &[operator::NAMESPACE]].concat())?;
    if found.trim().is_empty() {
        return Ok(());
    }
    operator::uninstall(cluster)
}

fn workloads(image: String, gpus: u64) -> Result<Workloads> {
    Workloads::new(image, gpus).ok_or_else(|| {
        too_few_gpus(format!(
            "its ready nodes have {gpus}, and the demo needs 3: two for the training gang and one for the service"
        ))
    })
}

fn too_few_gpus(why: String) -> Error {
    Error::Malformed {
        what: format!("the cluster has too few GPUs ({GPU})"),
        why,
    }
}

/// The number of whole GPUs on nodes that take pods and whose GPU model is known.
fn gpus(nodes: &[Node]) -> Result<u64> {
    let marked = pretended_gpus::marked(nodes);
    if !marked.is_empty() {
        return Err(too_few_gpus(format!(
            "those of {} were pretended by a demo that was interrupted or runs; take them back with `cargo demo --kubeconfig FILE \
             --pretend-gpus 0`, or let this run pretend some too",
            marked.join(", ")
        )));
    }
    let allocatable = |node: &Node| -> u64 {
        let status = node.status.as_ref();
        let amount = status.and_then(|status| status.allocatable.as_ref()?.get(GPU));
        amount.and_then(|amount| amount.0.parse().ok()).unwrap_or(0)
    };
    let usable = |node: &&Node| {
        node.spec
            .as_ref()
            .is_none_or(|spec| spec.unschedulable != Some(true))
    };
    let with_gpus: Vec<&Node> = nodes
        .iter()
        .filter(usable)
        .filter(|node| allocatable(node) > 0)
        .collect();
    if with_gpus.is_empty() {
        return Err(too_few_gpus(format!(
            "no node that takes pods has {GPU} in its status.allocatable: NVIDIA's device plugin (or the GPU operator) puts it there, \
             and GPU feature discovery adds the label {PRODUCT_LABEL}, which says what a GPU costs. For a try without GPUs, add \
             --pretend-gpus 8"
        )));
    }
    let labelled = |node: &&&Node| {
        let labels = node.metadata.labels.as_ref();
        labels.is_some_and(|labels| labels.contains_key(PRODUCT_LABEL))
    };
    let known: u64 = with_gpus
        .iter()
        .filter(labelled)
        .map(|node| allocatable(node))
        .sum();
    if known == 0 {
        return Err(too_few_gpus(format!(
            "no node with GPUs has the label {PRODUCT_LABEL}, without which their price is not known: install GPU feature discovery, \
             or set it: kubectl label node NAME {PRODUCT_LABEL}=NVIDIA-H100-80GB-HBM3"
        )));
    }
    Ok(known)
}

#[derive(Debug, PartialEq, Eq)]
enum PodStart {
    Ready,
    NoImage(String),
    Waiting(String),
}

/// The state of the clients' pod.
fn pod_start(pod: &Value) -> PodStart {
    let status = &pod["status"];
    let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    if status["conditions"]
        .as_array()
        .is_some_and(|all| all.iter().any(ready))
    {
        return PodStart::Ready;
    }
    let waiting = &status["containerStatuses"][0]["state"]["waiting"];
    let (reason, message) = (
        waiting["reason"].as_str().unwrap_or_default(),
        waiting["message"].as_str().unwrap_or_default(),
    );
    let text = format!("{reason} {message}");
    if reason.contains("Image") {
        PodStart::NoImage(text)
    } else {
        PodStart::Waiting(text)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(gpus: &str, label: bool, unschedulable: bool) -> Value {
        let labels = if label {
            json!({PRODUCT_LABEL: "H100"})
        } else {
            json!({})
        };
        json!({
            "metadata": {"name": "n", "labels": labels}, "spec": {"unschedulable": unschedulable},
            "status": {"allocatable": {"cpu": "8", GPU: gpus}},
        })
    }

    fn count(nodes: &[Value]) -> std::result::Result<u64, String> {
        let nodes: Vec<Node> = serde_json::from_value(json!(nodes)).unwrap();
        gpus(&nodes).map_err(|error| error.to_string())
    }

    #[test]
    fn only_gpus_that_pods_can_have_and_that_have_a_price_count() {
        let nodes = [
            node("8", true, false),
            node("4", true, false),
            node("2", true, true),
            node("1", false, false),
        ];
        assert_eq!(count(&nodes), Ok(12));
    }

    #[test]
    fn a_cluster_without_gpus_is_told_which_label_and_resource_are_missing() {
        let none = count(&[node("0", true, false), node("8", true, true)]).unwrap_err();
        assert!(none.contains(GPU) && none.contains(PRODUCT_LABEL), "{none}");
        let unknown = count(&[node("8", false, false)]).unwrap_err();
        assert!(
            unknown.contains("kubectl label node NAME nvidia.com/gpu.product="),
            "{unknown}"
        );
        let few = workloads("x:1".into(), 2).unwrap_err().to_string();
        assert!(few.contains("needs 3"), "{few}");
    }

    /// An API server that has namespaces and nothing else.
    struct Namespaces(tempfile::TempDir);

    impl Access for Namespaces {
        fn kubeconfig(&self) -> std::path::PathBuf {
            self.0.path().into()
        }

        fn command(&self, _program: &str) -> std::process::Command {
            let script = r#"
                case "$1" in
                create) mkdir "$3" || { echo "Error from server (AlreadyExists)" >&2; exit 1; } ;;
                apply) mkdir -p team ;;
                esac"#;
            let mut command = std::process::Command::new("sh");
            command.args(["-c", script, "kubectl"]);
            command.current_dir(self.0.path());
            command
        }
    }

    #[test]
    fn only_one_of_two_demos_gets_the_cluster() {
        let cluster = Namespaces(tempfile::tempdir().unwrap());
        lock(&cluster).unwrap();
        let refused = lock(&cluster).unwrap_err().to_string();
        for words in ["namespace team", "changed nothing"] {
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn commands_that_remove_all_take_pretended_gpus_back() {
        let take_back = "cargo demo --kubeconfig /k --pretend-gpus 0";
        assert!(removal(Path::new("/k"), true).ends_with(take_back));
        assert!(!removal(Path::new("/k"), false).contains("--pretend-gpus"));
    }

    #[test]
    fn an_image_that_cannot_be_had_is_told_from_one_that_is_still_pulled() {
        let waiting = |reason: &str| {
            pod_start(
                &json!({"status": {"containerStatuses": [{"state": {"waiting": {"reason": reason}}}]}}),
            )
        };
        assert!(matches!(waiting("ErrImagePull"), PodStart::NoImage(_)));
        assert!(matches!(waiting("ImagePullBackOff"), PodStart::NoImage(_)));
        assert!(matches!(waiting("ContainerCreating"), PodStart::Waiting(_)));
        assert!(matches!(pod_start(&Value::Null), PodStart::Waiting(_)));
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(pod_start(&ready), PodStart::Ready);
    }
}
