//! TrainingJobs whose workers are the real frameworks, on CPUs: what Bursar writes into their pods is read by the programs that it is
//! written for. Two nodes of two GPUs each, so that no gang of these tests fits on one.

mod deepspeed;
mod jax;
mod mpi;
mod pytorch;
mod tensorflow;
mod xgboost;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use bursar_e2e::{
    Access, Cluster, NodeOptions, frameworks,
    frameworks::PythonPackages,
    operator,
    runner::{Images, Scenario, ScenarioResult, Suite},
    scenario::{budget_manifest, get_field, wait_until},
};
use serde_json::{Value, json};

type Error = Box<dyn std::error::Error>;

const NODE_GPUS: u32 = 2;
/// The programs that pods run.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/frameworks");
/// Imports take most of a run, on cores that others use too.
const RUN_SECONDS: u64 = 240;

pub(crate) fn suite() -> Suite {
    Suite {
        name: "frameworks",
        nodes: vec![NodeOptions::h100(NODE_GPUS), NodeOptions::h100(NODE_GPUS)],
        gang_scheduling: false,
        images: Images::Loaded,
        addons: &[],
        setup: Some(frameworks::setup),
        scenarios: vec![
            Scenario::new(
                "a_pytorch_job_that_its_budget_suspends_ends_with_the_loss_of_one_that_was_not",
                15,
                pytorch::ends_with_the_same_loss,
            ),
            Scenario::new(
                "tensorflow_workers_that_are_alike_train_as_one",
                10,
                tensorflow::alike,
            ),
            Scenario::new(
                "a_tensorflow_chief_and_its_worker_train_as_one",
                10,
                tensorflow::with_a_chief,
            ),
            Scenario::new(
                "mpirun_of_open_mpi_starts_a_process_on_each_worker",
                10,
                mpi::open_mpi,
            ),
            Scenario::new(
                "hydra_of_mpich_starts_a_process_on_each_worker",
                10,
                mpi::mpich,
            ),
            Scenario::new(
                "deepspeed_starts_a_process_for_each_gpu_of_its_workers",
                10,
                deepspeed::trains,
            ),
            Scenario::new("jax_processes_find_their_coordinator", 10, jax::gathers),
            Scenario::new(
                "xgboost_trains_on_dask_workers_that_find_their_scheduler",
                10,
                xgboost::trains,
            ),
        ],
    }
}

/// A namespace with money for its jobs, and a directory that outlives their pods.
struct Bench<'a> {
    cluster: &'a Cluster,
    namespace: &'static str,
    directory: PathBuf,
}

/// What the first container of a pod runs.
struct Program<'a> {
    /// None for what Bursar runs there.
    command: Option<&'a [&'a str]>,
    packages: Option<PythonPackages>,
    gpus: u32,
    /// Mounted at `/data`.
    directory: &'a Path,
}

impl<'a> Bench<'a> {
    fn new(cluster: &'a Cluster, namespace: &'static str) -> Result<Self, Error> {
        operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
        let directory = cluster.run_directory().join(namespace);
        make_directory(&directory)?;
        let manifest =
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n---\n");
        cluster.apply(&format!(
            "{manifest}{}",
            budget_manifest(namespace, "50", "")
        ))?;
        Ok(Self {
            cluster,
            namespace,
            directory,
        })
    }

    /// Applies a TrainingJob that a failure ends: no second try hides one.
    fn apply(&self, name: &str, mut spec: Value) -> ScenarioResult {
        spec["restarts"] = json!(0);
        let manifest = json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "TrainingJob",
            "metadata": {"name": name, "namespace": self.namespace}, "spec": spec,
        });
        self.cluster.apply(&manifest.to_string())?;
        Ok(())
    }

    fn field(&self, job: &str, path: &str) -> Result<String, Error> {
        get_field(self.cluster, self.namespace, &format!("tj/{job}"), path)
    }

    /// Waits until a job has this phase.
    fn wait_for_phase(&self, job: &str, phase: &str) -> ScenarioResult {
        let mut last = String::new();
        let reached = wait_until(&format!("{job} to be {phase}"), RUN_SECONDS, || {
            last = self.field(job, ".status.phase")?;
            if last == "Failed" && phase != "Failed" {
                return Err(format!("{job} has failed").into());
            }
            Ok(last == phase)
        });
        reached.map_err(|error| {
            let reason = self.field(job, ".status.reason").unwrap_or_default();
            format!("{error}; it is {last}: {reason}\n{}", self.logs(job)).into()
        })
    }

    /// What the workers of a job have printed last.
    fn logs(&self, job: &str) -> String {
        let of_job = format!("bursar.dev/workload={job}");
        let words = [
            "-n",
            self.namespace,
            "logs",
            "--prefix",
            "--tail=40",
            "-l",
            &of_job,
        ];
        let words = [&words[..], &["--max-log-requests=10"]].concat();
        let logs = self.cluster.kubectl(&words);
        logs.unwrap_or_else(|error| error.to_string())
    }

    /// Deletes a job, so that its GPUs are free for the next one.
    fn delete(&self, job: &str) -> ScenarioResult {
        let words = ["-n", self.namespace, "delete", "tj", job, "--timeout=60s"];
        self.cluster.kubectl(&words)?;
        Ok(())
    }
}

/// A pod in whose container Debian lies over the image: the machine's programs are not seen there.
fn template(program: &Program) -> Result<Value, Error> {
    let debian = frameworks::debian()?;
    let mut files = vec![
        (debian.join("usr"), "/usr"),
        (debian.join("usr/bin"), "/bin"),
        (debian.join("usr/sbin"), "/sbin"),
        (debian.join("usr/lib"), "/lib"),
        (debian.join("usr/lib64"), "/lib64"),
        (debian.join("etc/passwd"), "/etc/passwd"),
        (PathBuf::from(PROGRAMS), "/programs"),
    ];
    let mut env = vec![json!({"name": "PATH", "value": "/usr/sbin:/usr/bin:/packages/bin"})];
    if let Some(packages) = program.packages {
        files.push((packages.directory()?, "/packages"));
        env.push(json!({"name": "PYTHONPATH", "value": "/packages"}));
    }
    let mut volumes = vec![json!({"name": "data", "hostPath": {"path": program.directory}})];
    let mut mounts = vec![json!({"name": "data", "mountPath": "/data"})];
    for (index, (path, mount_path)) in files.iter().enumerate() {
        let name = format!("files-{index}");
        volumes.push(json!({"name": name, "hostPath": {"path": path}}));
        mounts.push(json!({"name": name, "mountPath": mount_path, "readOnly": true}));
    }
    let resources = match program.gpus {
        0 => json!({"requests": {"cpu": "10m"}}),
        gpus => json!({"limits": {"nvidia.com/gpu": gpus}}),
    };
    let mut container = json!({
        "name": "worker", "image": "bursar.local/trainer:dev", "imagePullPolicy": "Never",
        "env": env, "volumeMounts": mounts, "resources": resources,
    });
    if let Some(command) = program.command {
        container["command"] = json!(command);
    }
    // the image's user is another one; sshd wants root
    let user = json!({"runAsUser": 0, "runAsGroup": 0});
    Ok(json!({"spec": {
        "terminationGracePeriodSeconds": 10, "securityContext": user,
        "volumes": volumes, "containers": [container],
    }}))
}

fn make_directory(path: &Path) -> ScenarioResult {
    fs::create_dir_all(path)?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o777),
    )?)
}

/// What a process has written when it was done.
fn read_json(path: &Path) -> Result<Value, Error> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(serde_json::from_str(&text)?)
}

/// The lines of a file, each of which is a JSON object.
fn read_lines(path: &Path) -> Result<Vec<Value>, Error> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let lines = text.lines().map(serde_json::from_str);
    Ok(lines.collect::<Result<_, _>>()?)
}

fn expect_equal(what: &str, found: &Value, expected: &Value) -> ScenarioResult {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what} is {found}, not {expected}").into())
    }
}

/// That training did something: the losses end far below their beginning. Says how far.
fn expect_learned(losses: &Value) -> Result<String, Error> {
    let all: Vec<f64> = losses
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_f64)
        .collect();
    match (all.first(), all.last()) {
        (Some(first), Some(last)) if *last < first / 5.0 => {
            Ok(format!("loss {first} to {last} in {} steps", all.len()))
        }
        _ => Err(format!("nothing was learned: {losses}").into()),
    }
}

/// That replicas which had samples of their own have the same weights: the gradients of all were in each step.
fn expect_same_weights(ended: &[Value]) -> ScenarioResult {
    match ended.first() {
        Some(first) if ended.iter().all(|each| each["weights"] == first["weights"]) => Ok(()),
        _ => Err(format!("the weights differ: {}", json!(ended)).into()),
    }
}
