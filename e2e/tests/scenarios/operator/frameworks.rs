//! What workers of PyTorch, TensorFlow and JAX have in their environment, read as each framework's documentation says, and not as it is
//! written: every name that it has leads to the worker that it stands for. `cargo soak` runs the frameworks themselves.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::{IpAddr, ToSocketAddrs},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use bursar_e2e::{
    Access, Cluster, operator,
    runner::ScenarioResult,
    scenario::{wait_for_no_pods, wait_until},
};
use serde::Deserialize;

type Error = Box<dyn std::error::Error>;

const NAMESPACE: &str = "frameworks";
/// Workers of all jobs.
const WORKERS: usize = 7;
/// What all containers read, and where nothing is written.
const END: &str = "end";

/// A worker, as it sees itself and as others reach it.
struct Worker {
    address: IpAddr,
    environment: BTreeMap<String, String>,
}

/// <https://www.tensorflow.org/guide/distributed_training#TF_CONFIG>
#[derive(Deserialize)]
struct TfConfig {
    cluster: BTreeMap<String, Vec<String>>,
    task: TfTask,
}

#[derive(Deserialize)]
struct TfTask {
    #[serde(rename = "type")]
    task_type: String,
    index: usize,
}

pub(crate) fn environments_lead_to_workers(cluster: &Cluster) -> ScenarioResult {
    operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
    let directory = cluster.run_directory().join(NAMESPACE);
    let _end = shared_files(&directory)?;
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"
    ))?;
    let alike = format!("replicas: 2, template: {}", template(&directory, 1));
    let roles = [("chief", 1), ("worker", 1), ("ps", 0)].map(|(name, gpus)| {
        let template = template(&directory, gpus);
        format!("{{name: {name}, replicas: 1, template: {template}}}")
    });
    let roles = format!("roles: [{}]", roles.join(", "));
    for (framework, workers) in [("PyTorch", &alike), ("JAX", &alike), ("TensorFlow", &roles)] {
        let name = framework.to_lowercase();
        cluster.apply(&format!(
            "apiVersion: bursar.dev/v1alpha1\nkind: TrainingJob\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
             spec: {{framework: {framework}, {workers}}}\n"
        ))?;
    }
    // the second file of a worker is made once the first one is written
    wait_until("all workers to note their environment", 90, || {
        let entries = fs::read_dir(&directory)?.collect::<Result<Vec<_>, _>>()?;
        let noted = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|it| it == "noted");
        Ok(entries.iter().filter(|entry| noted(entry)).count() == WORKERS)
    })?;
    pytorch(&workers(cluster, &directory, "pytorch")?)?;
    jax(&workers(cluster, &directory, "jax")?)?;
    tensorflow(&workers(cluster, &directory, "tensorflow")?)?;
    cluster.kubectl(&["-n", NAMESPACE, "delete", "tj", "--all", "--timeout=60s"])?;
    wait_for_no_pods(cluster, NAMESPACE)
}

/// The options of torchrun, each by its variable: <https://docs.pytorch.org/docs/stable/elastic/run.html>.
fn pytorch(workers: &[Worker]) -> ScenarioResult {
    for (rank, worker) in by_number(workers, "PET_NODE_RANK")? {
        same(number(worker, "PET_NNODES")?, workers.len(), "PET_NNODES")?;
        same(
            number(worker, "PET_NPROC_PER_NODE")?,
            1,
            "PET_NPROC_PER_NODE",
        )?;
        same(number(worker, "RANK")?, rank, "RANK")?;
        let (name, port) = (
            variable(worker, "PET_MASTER_ADDR")?,
            variable(worker, "PET_MASTER_PORT")?,
        );
        let first = by_number(workers, "PET_NODE_RANK")?[&0].address;
        same(
            resolve(&format!("{name}:{port}"))?,
            first,
            "PET_MASTER_ADDR",
        )?;
    }
    Ok(())
}

/// The arguments of `jax.distributed.initialize`:
/// <https://docs.jax.dev/en/latest/_autosummary/jax.distributed.initialize.html>.
fn jax(workers: &[Worker]) -> ScenarioResult {
    let processes = by_number(workers, "JAX_PROCESS_ID")?;
    for worker in workers {
        same(
            number(worker, "JAX_NUM_PROCESSES")?,
            workers.len(),
            "JAX_NUM_PROCESSES",
        )?;
        let coordinator = resolve(variable(worker, "JAX_COORDINATOR_ADDRESS")?)?;
        same(
            coordinator,
            processes[&0].address,
            "JAX_COORDINATOR_ADDRESS",
        )?;
    }
    Ok(())
}

/// Each task of the cluster is the worker at its address, and all tasks know the same cluster.
fn tensorflow(workers: &[Worker]) -> ScenarioResult {
    let mut tasks = BTreeMap::new();
    let mut clusters = Vec::new();
    for worker in workers {
        let config: TfConfig = serde_json::from_str(variable(worker, "TF_CONFIG")?)?;
        let TfTask { task_type, index } = config.task;
        tasks.insert((task_type, index), worker.address);
        clusters.push(config.cluster);
    }
    let mut members = BTreeMap::new();
    for (task_type, addresses) in &clusters[0] {
        for (index, address) in addresses.iter().enumerate() {
            members.insert((task_type.clone(), index), resolve(address)?);
        }
    }
    same(tasks, members, "the tasks of TF_CONFIG")?;
    match clusters.windows(2).all(|pair| pair[0] == pair[1]) {
        true => Ok(()),
        false => Err(format!("tasks know different clusters: {clusters:?}").into()),
    }
}

/// The workers by a number that each of them has, from 0 without a gap.
fn by_number<'a>(workers: &'a [Worker], name: &str) -> Result<BTreeMap<usize, &'a Worker>, Error> {
    let numbered = workers
        .iter()
        .map(|worker| Ok((number(worker, name)?, worker)));
    let numbered: BTreeMap<usize, &Worker> = numbered.collect::<Result<_, Error>>()?;
    let found: Vec<usize> = numbered.keys().copied().collect();
    same(found, (0..workers.len()).collect(), name)?;
    Ok(numbered)
}

fn variable<'a>(worker: &'a Worker, name: &str) -> Result<&'a str, Error> {
    let value = worker.environment.get(name);
    value
        .map(String::as_str)
        .ok_or_else(|| format!("a worker has no {name}").into())
}

fn number(worker: &Worker, name: &str) -> Result<usize, Error> {
    let text = variable(worker, name)?;
    text.parse()
        .map_err(|_| format!("{name} is {text:?}, which is no number").into())
}

fn resolve(address: &str) -> Result<IpAddr, Error> {
    let found = address
        .to_socket_addrs()
        .map_err(|error| format!("{address}: {error}"))?;
    let found = found.map(|each| each.ip()).next();
    found.ok_or_else(|| format!("{address} has no address").into())
}

fn same<T: PartialEq + std::fmt::Debug>(found: T, expected: T, what: &str) -> ScenarioResult {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: {found:?}, not {expected:?}").into())
    }
}

/// The directory that all workers mount, with the pipe on which they wait until they are deleted: a finished one has no name.
fn shared_files(directory: &Path) -> Result<File, Error> {
    fs::create_dir_all(directory)?;
    // the image's user is not root
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777))?;
    let pipe = directory.join(END);
    let made = Command::new("mkfifo")
        .args(["-m", "666"])
        .arg(&pipe)
        .status()?;
    if !made.success() {
        return Err(format!("mkfifo {}: {made}", pipe.display()).into());
    }
    // open for both, it waits for no reader
    Ok(File::options().read(true).write(true).open(pipe)?)
}

/// A worker that notes its environment and waits. The image has no shell, so the node's is mounted.
fn template(directory: &Path, gpus: u32) -> String {
    let note = format!(
        "export -p > /data/$HOSTNAME && : > /data/$HOSTNAME.noted && read line < /data/{END}"
    );
    let resources = match gpus {
        0 => "{requests: {cpu: 10m}}".to_owned(),
        _ => format!("{{limits: {{nvidia.com/gpu: {gpus}}}}}"),
    };
    format!(
        "{{spec: {{terminationGracePeriodSeconds: 1, \
         volumes: [{{name: data, hostPath: {{path: {}}}}}, {{name: shell, hostPath: {{path: /bin/dash, type: File}}}}], \
         containers: [{{name: worker, image: 'bursar.local/trainer:dev', imagePullPolicy: Never, \
         command: [/bin/sh, -c, '{note}'], resources: {resources}, \
         volumeMounts: [{{name: data, mountPath: /data}}, {{name: shell, mountPath: /bin/sh}}]}}]}}}}",
        directory.display()
    )
}

fn workers(cluster: &Cluster, directory: &Path, job: &str) -> Result<Vec<Worker>, Error> {
    let of_job = format!("bursar.dev/workload={job}");
    let path = "jsonpath={range .items[*]}{.spec.hostname} {.status.podIP}{\"\\n\"}{end}";
    let pods = cluster.kubectl(&["-n", NAMESPACE, "get", "pods", "-l", &of_job, "-o", path])?;
    let worker = |line: &str| {
        let (hostname, address) = line.split_once(' ').ok_or(format!("a pod has {line:?}"))?;
        let text = fs::read_to_string(directory.join(hostname))?;
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        let unquoted =
            lines.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()));
        Ok(Worker {
            address: address.parse()?,
            environment: unquoted.collect(),
        })
    };
    pods.lines().map(worker).collect()
}
