//! A TrainJob of Kubeflow Trainer becomes a TrainingJob, together with the runtime that it refers
//! to.

use bursar_api::lenient::bounded_text;
use bursar_api::training::Framework;
use bursar_core::pricing::is_gpu;
use serde_json::{Map, Value, json};

use super::draft::{Draft, DraftKind};
use super::fields::Fields;
use super::objects::{Objects, metadata};
use super::pod_template;
use super::report::Report;
use super::training::{Workers, is_queued_by_kueue, set_restarts, set_suspend, set_workers};

/// The group of TrainJobs and their runtimes.
pub(crate) const GROUP: &str = "trainer.kubeflow.org";
/// The container of a runtime's pods that trains.
const NODE: &str = "node";
/// The default of the Jobs of a runtime.
const BACKOFF_LIMIT: i64 = 6;

pub(crate) fn convert(object: &Value, objects: &Objects, report: &Report) -> Value {
    let mut fields = Fields::new("", object.clone(), report);
    fields.ignore(&["apiVersion", "kind", "status"]);
    let mut draft = Draft::new(DraftKind::TrainingJob, fields.object("metadata"));
    let mut spec = fields.object("spec");
    let by_kueue = is_queued_by_kueue(object);
    set_suspend(&mut draft, &mut spec, by_kueue);
    super::training::drop_lifetime(&mut spec);
    spec.drop_field(
        "initializer",
        "nothing fetches models or data before the workers start: an init container of the template may",
    );
    for name in ["runtimePatches", "podTemplateOverrides", "podSpecOverrides"] {
        spec.drop_field(
            name,
            "it changes the pods of the runtime: change the template here",
        );
    }
    let mut reference = spec.object("runtimeRef");
    reference.ignore(&["apiGroup"]);
    let kind = reference.text("kind");
    let kind = kind.unwrap_or_else(|| "ClusterTrainingRuntime".to_owned());
    let name = reference.text("name").unwrap_or_default();
    let namespace = draft.namespace().map(str::to_owned);
    let runtime = objects.find((GROUP, &kind), &name, namespace.as_deref());
    if runtime.is_none() {
        let unread = match objects.unread.is_empty() {
            true => "give it in the same file".to_owned(),
            false => objects.unread.join("; "),
        };
        report.missing(
            "spec.template",
            format!("what {kind} {name} has: image, command and volumes of the workers. It was not found: {unread}"),
        );
    }
    let runtime = Runtime::new(runtime, &kind, &name, report);
    let framework = runtime.framework;
    let mut trainer = spec.object("trainer");
    let nodes = trainer.integer("numNodes").or(runtime.nodes).unwrap_or(1);
    let own = trainer.text("numProcPerNode");
    let place = match own {
        Some(_) => "spec.trainer.numProcPerNode",
        None => "runtime numProcPerNode",
    };
    let processes = own.or_else(|| runtime.processes.clone());
    let drop_processes = |processes: &str, why: &str| {
        report.dropped(format!("{place} ({})", bounded_text(processes)), why);
    };
    let mut roles = Vec::new();
    let has_launcher = runtime.launcher.is_some();
    for (role, template) in [
        ("launcher", runtime.launcher),
        ("worker", Some(runtime.node)),
    ] {
        let Some(template) = template else { continue };
        let mut template = template;
        // the trainer's command is the launcher's, if there is one
        if role == "launcher" || !has_launcher {
            apply_command(&mut template, &object["spec"]["trainer"]);
        }
        apply_node(&mut template, &object["spec"]["trainer"]);
        if role == "launcher" && runtime.is_launcher_node {
            remove_gpus(&mut template);
        }
        let job = if role == "launcher" { role } else { NODE };
        let path = format!("runtime.replicatedJobs[{job}].template");
        let fields = Fields::new(path, template, report);
        roles.push(Workers {
            role: role.to_owned(),
            replicas: Some(if role == "launcher" { 1 } else { nodes }),
            template: pod_template::convert(fields, framework),
        });
    }
    trainer.ignore(&["image", "command", "args", "env", "resourcesPerNode"]);
    if has_launcher {
        if runtime.is_launcher_node {
            report.changed("spec.roles", LAUNCHER_IS_NODE);
        }
        match processes.as_deref().map(|text| (text, text.parse::<i64>())) {
            // Trainer takes 1 for as many processes as a node has GPUs, which is Bursar's default
            None | Some((_, Ok(1))) => {}
            Some((_, Ok(slots))) => draft.set("mpi.slotsPerWorker", slots),
            Some((text, Err(_))) => drop_processes(text, SLOTS_OF_GPUS),
        }
        if let Some(path) = runtime.ssh_path {
            draft.set("mpi.sshAuthMountPath", path);
        }
    } else if let Some(processes) = &processes {
        if framework == Framework::PyTorch {
            for workers in &mut roles {
                super::pytorchjob::set_processes(&mut workers.template, processes);
            }
        } else {
            drop_processes(processes, PROCESSES_OF_COMMAND);
        }
    }
    let launcher_command = roles
        .first()
        .map(|first| &first.template["spec"]["containers"][0]["command"]);
    if has_launcher && launcher_command.is_some_and(Value::is_null) {
        report.missing(
            "spec.roles[0].template.spec.containers[0].command",
            "the launcher's program: Bursar waits for the workers before it, and cannot read it from the image",
        );
    }
    set_workers(&mut draft, framework, roles);
    if let Some((limit, was)) = runtime.restarts {
        set_restarts(&mut draft, limit, was);
    }
    draft.finish()
}

/// Where processes run if the launcher was a node.
const LAUNCHER_IS_NODE: &str = "the launcher was one of numNodes nodes and trained itself; here it has no GPUs, and processes run on numNodes \
    workers: as many GPUs as before, in one more pod";

/// How many processes a launcher starts if no number says it.
const SLOTS_OF_GPUS: &str = "it is no number: a launcher starts a process for each GPU of a worker, unless mpi.slotsPerWorker says otherwise";
/// Who says how many processes a worker starts without torchrun or a launcher.
const PROCESSES_OF_COMMAND: &str =
    "nothing tells a worker of this framework: its command starts as many processes as it likes";

/// What a TrainJob's runtime says.
struct Runtime {
    framework: Framework,
    nodes: Option<i64>,
    processes: Option<String>,
    ssh_path: Option<String>,
    /// Whether its launcher trains as well.
    is_launcher_node: bool,
    /// How often it starts again, and what says so; `None` of a runtime that was not found.
    restarts: Option<(i64, &'static str)>,
    /// The template of its workers.
    node: Value,
    launcher: Option<Value>,
}

impl Runtime {
    /// Reads a runtime. Of one that was not found, the name of the framework may be in its own.
    fn new(runtime: Option<&Value>, kind: &str, name: &str, report: &Report) -> Self {
        let object = runtime.cloned().unwrap_or_default();
        let label = object["metadata"]["labels"]["trainer.kubeflow.org/framework"].clone();
        let mut spec = Fields::new("runtime.spec", object["spec"].clone(), report);
        let mut policy = spec.object("mlPolicy");
        let nodes = policy.integer("numNodes");
        let declared: Vec<String> = policy.names();
        let mut torch = policy.object("torch");
        let mut mpi = policy.object("mpi");
        let processes = torch
            .text("numProcPerNode")
            .or_else(|| mpi.text("numProcPerNode"));
        torch.drop_field(
            "elasticPolicy",
            "the number of workers does not change while a job runs",
        );
        mpi.ignore(&["mpiImplementation"]);
        let is_launcher_node = mpi.boolean("runLauncherAsNode") == Some(true);
        let ssh_path = mpi.text("sshAuthMountPath");
        policy.ignore(&["jax", "tensorflow"]);
        let framework = match framework(&declared, label.as_str(), name) {
            Ok((framework, evidence)) => {
                report.note("spec.framework", format!("by {evidence}"));
                framework
            }
            Err(unknown) => {
                match unknown {
                    _ if runtime.is_none() => report.missing(
                        "spec.framework",
                        format!("{kind} {name} was not found: Plain sets no variables of a framework"),
                    ),
                    Some(other) => report.changed(
                        "spec.framework",
                        format!(
                            "was {other:?}, which Bursar does not know: variables and files that Trainer makes for it are not there"
                        ),
                    ),
                    None => report.note(
                        "spec.framework",
                        format!("{kind} {name} does not say one"),
                    ),
                }
                Framework::Plain
            }
        };
        spec.drop_field("podGroupPolicy", "all workers start together, or none does");
        let mut template = spec.object("template");
        let mut job_set = template.object("spec");
        job_set.ignore(&["network", "successPolicy"]);
        let attempts = job_set.object("failurePolicy").integer("maxRestarts");
        let mut limits = Vec::new();
        let mut node = Value::Null;
        let mut launcher = None;
        for mut replicated in job_set.objects("replicatedJobs") {
            let name = replicated.text("name").unwrap_or_default();
            match name.as_str() {
                NODE => {
                    replicated.ignore(&["dependsOn", "replicas"]);
                    node = pod_template_of(&mut replicated, &mut limits);
                }
                "launcher" => {
                    replicated.ignore(&["dependsOn", "replicas"]);
                    launcher = Some(pod_template_of(&mut replicated, &mut limits));
                }
                _ => {
                    let path = replicated.location().to_owned();
                    drop(replicated.into_rest());
                    let why = "only the jobs node and launcher run: an init container of the template may do what this one does";
                    report.dropped(format!("{path} ({name})"), why);
                }
            }
        }
        template.drop_field(
            "metadata",
            "labels and annotations of a JobSet have nothing to be at",
        );
        if node.is_null() {
            node = json!({"spec": {"containers": [{"name": NODE}]}});
        }
        Self {
            framework,
            nodes,
            processes,
            ssh_path,
            is_launcher_node,
            restarts: runtime.map(|_| restarts(attempts, &limits, report)),
            node,
            launcher,
        }
    }
}

/// How often all workers start again, and what said so.
fn restarts(attempts: Option<i64>, limits: &[i64], report: &Report) -> (i64, &'static str) {
    // the Job that gives up first ends them all
    let limit = limits.iter().min().copied();
    match (attempts, limit) {
        (Some(attempts), limit) => {
            if let Some(limit) = limit.filter(|limit| *limit != 0) {
                let why = "each failure of a worker starts all of them again, which failurePolicy.maxRestarts counted";
                report.dropped(format!("runtime backoffLimit ({limit})"), why);
            }
            (
                attempts,
                "failurePolicy.maxRestarts of the runtime counted those of all its Jobs",
            )
        }
        (None, Some(limit)) => (
            limit,
            "backoffLimit of the runtime counted pods that failed",
        ),
        (None, None) => (
            BACKOFF_LIMIT,
            "Kubernetes' default of backoffLimit, which counts pods that failed",
        ),
    }
}

/// The pod template of a replicated job of a JobSet, whose backoffLimit is added to `limits`.
fn pod_template_of(replicated: &mut Fields<'_>, limits: &mut Vec<i64>) -> Value {
    let mut job = replicated.object("template");
    job.ignore(&["metadata"]);
    let mut spec = job.object("spec");
    spec.ignore(&["parallelism", "completions", "completionMode"]);
    limits.extend(spec.integer("backoffLimit"));
    spec.take("template").unwrap_or_default()
}

/// The framework of a runtime, by its label, its policy, or its name, and where it shows.
///
/// # Errors
/// It is none of Bursar's: its name, if the runtime has one.
fn framework(
    declared: &[String],
    label: Option<&str>,
    name: &str,
) -> Result<(Framework, String), Option<String>> {
    let known = |text: &str| match text {
        "torch" | "torchtune" => Some(Framework::PyTorch),
        "jax" => Some(Framework::Jax),
        "tensorflow" => Some(Framework::TensorFlow),
        "deepspeed" => Some(Framework::DeepSpeed),
        "mpi" | "mlx" => Some(Framework::Mpi),
        _ => None,
    };
    if let Some((label, framework)) = label.and_then(|label| Some((label, known(label)?))) {
        let evidence = format!("label trainer.kubeflow.org/framework: {label}");
        return Ok((framework, evidence));
    }
    if let Some((policy, framework)) = declared
        .iter()
        .find_map(|policy| Some((policy, known(policy)?)))
    {
        return Ok((framework, format!("mlPolicy.{policy} of the runtime")));
    }
    let first = name.split('-').next().unwrap_or_default();
    match known(first) {
        Some(framework) => Ok((framework, format!("the name {name} of its runtime"))),
        None => Err(label
            .or(declared.first().map(String::as_str))
            .map(bounded_text)),
    }
}

/// The container of a template that trains.
fn node_container(template: &mut Value) -> Option<&mut Map<String, Value>> {
    let containers = template.pointer_mut("/spec/containers")?.as_array_mut()?;
    let index = containers
        .iter()
        .position(|each| each["name"] == NODE)
        .unwrap_or(0);
    containers.get_mut(index)?.as_object_mut()
}

/// Puts the trainer's command into a template.
fn apply_command(template: &mut Value, trainer: &Value) {
    let Some(container) = node_container(template) else {
        return;
    };
    if !trainer["command"].is_null() {
        // the runtime's arguments are those of the runtime's command
        container.remove("args");
    }
    for name in ["command", "args"] {
        if !trainer[name].is_null() {
            container.insert(name.to_owned(), trainer[name].clone());
        }
    }
}

/// Puts the trainer's image, variables and resources into a template.
fn apply_node(template: &mut Value, trainer: &Value) {
    let Some(container) = node_container(template) else {
        return;
    };
    for (own, theirs) in [("image", "image"), ("resources", "resourcesPerNode")] {
        if !trainer[theirs].is_null() {
            container.insert(own.to_owned(), trainer[theirs].clone());
        }
    }
    let Some(added) = trainer["env"].as_array() else {
        return;
    };
    let variables = container.entry("env").or_insert_with(|| json!([]));
    if let Value::Array(variables) = variables {
        variables.retain(|variable| !added.iter().any(|new| new["name"] == variable["name"]));
        variables.extend(added.iter().cloned());
    }
}

/// Takes the GPUs from a template: those of a launcher would wait for a node and do nothing.
fn remove_gpus(template: &mut Value) {
    let containers = template.pointer_mut("/spec/containers");
    let containers = containers.and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten() {
        for kind in ["limits", "requests"] {
            let amounts = container.pointer_mut(&format!("/resources/{kind}"));
            if let Some(Value::Object(amounts)) = amounts {
                amounts.retain(|name, _| !is_gpu(name));
            }
        }
    }
}

/// The runtime that a TrainJob refers to, by kind and name.
pub(crate) fn runtime_of(object: &Value) -> Option<(String, String)> {
    let reference = &object["spec"]["runtimeRef"];
    let kind = reference["kind"]
        .as_str()
        .unwrap_or("ClusterTrainingRuntime");
    metadata(object, "name")?;
    Some((kind.to_owned(), reference["name"].as_str()?.to_owned()))
}
