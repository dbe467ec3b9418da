//! What the workers of each framework have, read as its documentation says.

use std::{
    collections::BTreeMap,
    net::{IpAddr, ToSocketAddrs},
};

use bursar_e2e::{runner::ScenarioResult, scenario::wait_until};
use serde::Deserialize;

use super::{Error, Worker};

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

/// The options of torchrun, each by its variable, or by its argument where the example's shell computes it:
/// <https://docs.pytorch.org/docs/stable/elastic/run.html>.
pub(super) fn pytorch(workers: &[Worker]) -> ScenarioResult {
    let rank = |worker: &Worker| {
        let options = worker.arguments.iter();
        let mut ranks = options.filter_map(|option| option.strip_prefix("--node-rank="));
        match ranks.next() {
            Some(rank) => parsed(rank, "--node-rank"),
            None => {
                let rank = number(worker, "PET_NODE_RANK")?;
                same(number(worker, "RANK")?, rank, "RANK")?;
                Ok(rank)
            }
        }
    };
    let ranks = by_number(workers, "the rank of a node", rank)?;
    for worker in workers {
        same(&*worker.arguments[0], "torchrun", "the program")?;
        same(number(worker, "PET_NNODES")?, workers.len(), "PET_NNODES")?;
        same(
            number(worker, "PET_NPROC_PER_NODE")?,
            1,
            "PET_NPROC_PER_NODE",
        )?;
        let (name, port) = (
            variable(worker, "PET_MASTER_ADDR")?,
            variable(worker, "PET_MASTER_PORT")?,
        );
        same(
            resolve(&format!("{name}:{port}"))?,
            ranks[&0].address,
            "PET_MASTER_ADDR",
        )?;
    }
    // the first role is that of the worker that the others look for
    same(&ranks[&0].role, &workers[0].role, "the role of rank 0")
}

/// The arguments of `jax.distributed.initialize`:
/// <https://docs.jax.dev/en/latest/_autosummary/jax.distributed.initialize.html>.
pub(super) fn jax(workers: &[Worker]) -> ScenarioResult {
    let processes = by_number(workers, "JAX_PROCESS_ID", |worker| {
        number(worker, "JAX_PROCESS_ID")
    })?;
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

/// As [`tensorflow`], and each knows the precision of the example.
pub(super) fn mirrored(workers: &[Worker]) -> ScenarioResult {
    for worker in workers {
        same(
            variable(worker, "BURSAR_PRECISION")?,
            "bf16",
            "BURSAR_PRECISION",
        )?;
    }
    tensorflow(workers)
}

/// Each task of the cluster is the worker at its address, and all tasks know the same cluster.
pub(super) fn tensorflow(workers: &[Worker]) -> ScenarioResult {
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

/// Workers of Dask find the scheduler by the name in their arguments.
pub(super) fn plain(workers: &[Worker]) -> ScenarioResult {
    let scheduler = workers.iter().find(|worker| worker.role == "scheduler");
    let scheduler = scheduler.ok_or("there is no scheduler")?;
    same(
        scheduler.arguments.join(" "),
        "dask scheduler".to_owned(),
        "the scheduler",
    )?;
    for worker in workers {
        same(
            number(worker, "BURSAR_WORKERS")?,
            workers.len(),
            "BURSAR_WORKERS",
        )?;
        if worker.role != "scheduler" {
            let (address, program) = worker.arguments.split_last().ok_or("no arguments")?;
            same(program.join(" "), "dask cuda worker".to_owned(), "a worker")?;
            same(resolve(address)?, scheduler.address, "the scheduler")?;
        }
    }
    Ok(())
}

/// Open MPI finds its hostfile by variables: before version 5, and since.
/// <https://docs.open-mpi.org/en/v5.0.x/launching-apps/scheduling.html>
pub(super) fn mpi(workers: &[Worker]) -> ScenarioResult {
    let launcher = launcher(workers, "mpirun")?;
    for name in [
        "OMPI_MCA_orte_default_hostfile",
        "PRTE_MCA_prte_default_hostfile",
    ] {
        same(variable(launcher, name)?, "/etc/mpi/hostfile", name)?;
    }
    // as the example says
    same(slots(launcher, workers, "mpi")?, 2 * 8, "slots")
}

/// <https://horovod.readthedocs.io/en/stable/running_include.html>
pub(super) fn horovod(workers: &[Worker]) -> ScenarioResult {
    let launcher = launcher(workers, "horovodrun")?;
    same(
        argument(launcher, "--hostfile")?,
        "/etc/mpi/hostfile",
        "--hostfile",
    )?;
    let processes = parsed(argument(launcher, "-np")?, "-np")?;
    same(slots(launcher, workers, "mpi")?, processes, "slots")
}

/// What its launcher starts has the variables that sshd sets.
/// <https://www.deepspeed.ai/getting-started/#resource-configuration-multi-node>
pub(super) fn deepspeed(workers: &[Worker]) -> ScenarioResult {
    let launcher = launcher(workers, "deepspeed")?;
    same(slots(launcher, workers, "job")?, 2, "slots")?;
    for worker in workers.iter().filter(|worker| worker.role == "worker") {
        let mut options = worker.arguments.iter();
        let sets = |option: &String| {
            option.starts_with("SetEnv=") && option.contains("BURSAR_PRECISION=bf16")
        };
        same(options.any(sets), true, "that sshd sets the precision")?;
    }
    Ok(())
}

/// The launcher, which runs this program. Its workers run sshd.
fn launcher<'a>(workers: &'a [Worker], program: &str) -> Result<&'a Worker, Error> {
    for worker in workers {
        let expected = match &*worker.role {
            "launcher" => program,
            _ => "sshd",
        };
        same(&*worker.arguments[0], expected, "the program")?;
    }
    let launcher = workers.iter().find(|worker| worker.role == "launcher");
    launcher.ok_or_else(|| "there is no launcher".into())
}

/// The sum of the slots in a hostfile of the launcher, which has all workers in their order.
fn slots(launcher: &Worker, workers: &[Worker], hostfile: &str) -> Result<usize, Error> {
    let text = launcher.hostfiles.get(hostfile);
    let text = text.ok_or_else(|| format!("the launcher has no /{hostfile}/hostfile"))?;
    let (mut hosts, mut sum) = (Vec::new(), 0);
    for line in text.lines() {
        let (host, slots) = line
            .split_once(" slots=")
            .ok_or(format!("a line is {line:?}"))?;
        hosts.push(resolve(&format!("{host}:22"))?);
        sum += parsed(slots, "slots")?;
    }
    let mut of_role: Vec<&Worker> = workers
        .iter()
        .filter(|worker| worker.role == "worker")
        .collect();
    of_role.sort_by_key(|worker| worker.index);
    let expected = of_role.iter().map(|worker| worker.address).collect();
    same(hosts, expected, "the hosts of the hostfile")?;
    Ok(sum)
}

/// What follows an option.
fn argument<'a>(worker: &'a Worker, option: &str) -> Result<&'a str, Error> {
    let mut arguments = worker.arguments.iter();
    arguments.find(|argument| *argument == option);
    let value = arguments.next();
    value
        .map(String::as_str)
        .ok_or_else(|| format!("{option} is missing").into())
}

/// The workers by a number that each of them has, from 0 without a gap.
fn by_number<'a>(
    workers: &'a [Worker],
    what: &str,
    number: impl Fn(&Worker) -> Result<usize, Error>,
) -> Result<BTreeMap<usize, &'a Worker>, Error> {
    let numbered = workers.iter().map(|worker| Ok((number(worker)?, worker)));
    let numbered: BTreeMap<usize, &Worker> = numbered.collect::<Result<_, Error>>()?;
    let found: Vec<usize> = numbered.keys().copied().collect();
    same(found, (0..workers.len()).collect(), what)?;
    Ok(numbered)
}

fn variable<'a>(worker: &'a Worker, name: &str) -> Result<&'a str, Error> {
    let value = worker.environment.get(name);
    value
        .map(String::as_str)
        .ok_or_else(|| format!("a worker has no {name}").into())
}

fn number(worker: &Worker, name: &str) -> Result<usize, Error> {
    parsed(variable(worker, name)?, name)
}

fn parsed(text: &str, name: &str) -> Result<usize, Error> {
    text.parse()
        .map_err(|_| format!("{name} is {text:?}, which is no number").into())
}

/// The address of a name: the cluster's DNS takes a moment to know that of a new pod.
fn resolve(address: &str) -> Result<IpAddr, Error> {
    let mut found = None;
    let mut last = String::new();
    let resolved = wait_until(&format!("{address} to have an address"), 20, || {
        match address.to_socket_addrs() {
            Ok(mut addresses) => found = addresses.next().map(|each| each.ip()),
            Err(error) => last = error.to_string(),
        }
        Ok(found.is_some())
    });
    resolved.map_err(|error| format!("{error}: {last}"))?;
    found.ok_or_else(|| format!("{address} has no address").into())
}

pub(super) fn same<T: PartialEq + std::fmt::Debug>(
    found: T,
    expected: T,
    what: &str,
) -> ScenarioResult {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: {found:?}, not {expected:?}").into())
    }
}
