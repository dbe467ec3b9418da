//! What the workers of the examples have in their environment, read as each framework's documentation says, and not as it is written: every
//! name that it has leads to the worker that it stands for. The examples' own commands run, and programs of this test are in the place of
//! those that they start; `cargo soak` runs the frameworks themselves.

mod checks;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use bursar_e2e::{
    Access, Cluster, operator,
    runner::ScenarioResult,
    scenario::{run_together, wait_for_field, wait_for_no_pods, wait_until},
};
use serde_json::{Value, json};

use crate::example::{Example, set};
use checks::{deepspeed, horovod, jax, mirrored, mpi, plain, pytorch, same, tensorflow};

type Error = Box<dyn std::error::Error>;

const NAMESPACE: &str = "frameworks";
/// Jobs wait for the GPUs of those before them.
const RUN_SECONDS: u64 = 150;

/// Notes what it was started with, and ends once something is written into the pipe of its role.
const NOTE: &str = r#"#!/bin/sh
cd /data || exit 1
{ echo "${0##*/}"; for each; do echo "$each"; done; } > "$HOSTNAME.arguments"
export -p > "$HOSTNAME.environment"
for file in /etc/mpi/hostfile /job/hostfile; do
  [ -f "$file" ] || continue
  name=${file%/*}
  while read -r line; do echo "$line"; done < "$file" > "$HOSTNAME.${name##*/}-hostfile"
done
: > "$HOSTNAME.noted"
read -r line < "end-${HOSTNAME%-*}"
"#;
/// What starts the processes of a framework in the examples, and the sshd of workers that a launcher reaches.
const STARTED: [&str; 7] = [
    "torchrun",
    "python",
    "dask",
    "mpirun",
    "horovodrun",
    "deepspeed",
    "sshd",
];
/// Reaches a worker once its sshd runs.
const SSH: &str = r#"#!/bin/sh
for each; do host=$last; last=$each; done
[ -f "/data/${host%%.*}.noted" ]
"#;

/// An example, and what holds for its workers.
struct FrameworkExample {
    /// Its path below `examples`.
    file: &'static str,
    /// The roles whose end is the job's; the others are stopped then.
    ends_with: &'static [&'static str],
    check: fn(&[Worker]) -> ScenarioResult,
}

const EXAMPLES: [FrameworkExample; 9] = [
    FrameworkExample {
        file: "training",
        ends_with: &[""],
        check: pytorch,
    },
    FrameworkExample {
        file: "training-roles",
        ends_with: &["master", "worker"],
        check: pytorch,
    },
    FrameworkExample {
        file: "frameworks/jax",
        ends_with: &[""],
        check: jax,
    },
    FrameworkExample {
        file: "frameworks/tensorflow",
        ends_with: &[""],
        check: mirrored,
    },
    FrameworkExample {
        file: "frameworks/tensorflow-parameter-servers",
        ends_with: &["chief"],
        check: tensorflow,
    },
    FrameworkExample {
        file: "frameworks/plain",
        ends_with: &["worker"],
        check: plain,
    },
    FrameworkExample {
        file: "frameworks/mpi",
        ends_with: &["launcher"],
        check: mpi,
    },
    FrameworkExample {
        file: "frameworks/horovod",
        ends_with: &["launcher"],
        check: horovod,
    },
    FrameworkExample {
        file: "frameworks/deepspeed",
        ends_with: &["launcher"],
        check: deepspeed,
    },
];

/// A worker, as it sees itself and as others reach it.
struct Worker {
    role: String,
    /// Its place in its role.
    index: usize,
    address: IpAddr,
    environment: BTreeMap<String, String>,
    /// The program and its arguments.
    arguments: Vec<String>,
    /// The hostfiles that a launcher has, by their directory's name.
    hostfiles: BTreeMap<&'static str, String>,
}

pub(crate) fn environments_lead_to_workers(cluster: &Cluster) -> ScenarioResult {
    let of_folder = EXAMPLES.iter().filter(|each| each.file.contains('/'));
    let files = fs::read_dir(crate::control_plane::root().join("examples/frameworks"))?;
    same(of_folder.count(), files.count(), "examples of frameworks")?;
    operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
    let directory = cluster.run_directory().join(NAMESPACE);
    make_programs(&directory)?;
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"
    ))?;
    let problems = run_together(&EXAMPLES, |each| {
        each.run(cluster, &directory)
            .map_err(|error| format!("examples/{}.yaml: {error}", each.file).into())
    });
    if !problems.is_empty() {
        return Err(problems.join("\n").into());
    }
    wait_for_no_pods(cluster, NAMESPACE)
}

impl FrameworkExample {
    /// Its workers start, find each other by what they have, and the job succeeds with the roles whose end is its own.
    fn run(&self, cluster: &Cluster, directory: &Path) -> ScenarioResult {
        let mut example = Example::read(self.file)?;
        let job = example.object("TrainingJob")?;
        let name = job["metadata"]["name"].as_str();
        let name = name.ok_or("it has no name")?.to_owned();
        let mut roles = Vec::new();
        for_each_role(&mut job["spec"], |role, replicas, template| {
            run_noting(template, directory);
            roles.push((role.to_owned(), replicas));
        })?;
        let mut pipes = Vec::new();
        for (role, _) in &roles {
            pipes.push(make_pipe(
                &directory.join(format!("end-{}", group(&name, role))),
            )?);
        }
        cluster.apply(&example.manifest(NAMESPACE))?;
        let ended = self.ends(cluster, directory, &name, &roles, &mut pipes);
        // others wait for its GPUs, however it has ended
        cluster.kubectl(&["-n", NAMESPACE, "delete", "tj", &name, "--timeout=60s"])?;
        ended
    }

    /// What its workers note is right, and it succeeds with the roles whose end is its own. `roles` have a name and so many workers each, and
    /// `pipes` on which these wait.
    fn ends(
        &self,
        cluster: &Cluster,
        directory: &Path,
        name: &str,
        roles: &[(String, usize)],
        pipes: &mut [File],
    ) -> ScenarioResult {
        let hosts = || {
            let hosts = roles.iter();
            hosts.flat_map(|(role, replicas)| (0..*replicas).map(move |index| (role, index)))
        };
        wait_until("all workers to note what they have", RUN_SECONDS, || {
            let noted = |(role, index): (&String, usize)| {
                let file = format!("{}-{index}.noted", group(name, role));
                directory.join(file).exists()
            };
            Ok(hosts().all(noted))
        })?;
        let addresses = addresses(cluster, name)?;
        let workers = hosts().map(|(role, index)| {
            let host = format!("{}-{index}", group(name, role));
            let address = addresses
                .get(&host)
                .ok_or_else(|| format!("no pod is {host}"))?;
            Worker::read(directory, &host, role, index, *address)
        });
        (self.check)(&workers.collect::<Result<Vec<_>, Error>>()?)?;
        // a job that has ended has no names
        for ((role, replicas), pipe) in roles.iter().zip(pipes) {
            if self.ends_with.contains(&role.as_str()) {
                // a line for each worker
                pipe.write_all("\n".repeat(*replicas).as_bytes())?;
            }
        }
        let job = format!("tj/{name}");
        wait_for_field(cluster, NAMESPACE, &job, ".status.phase", "Succeeded", 60)?;
        wait_until("all workers to have ended", 30, || {
            let running = "--field-selector=status.phase=Running";
            let of_job = format!("bursar.dev/workload={name}");
            let words = ["-n", NAMESPACE, "get", "pods", "-l", &of_job, running];
            let words = [&words[..], &["-o", "name"]].concat();
            Ok(cluster.kubectl(&words)?.is_empty())
        })
    }
}

/// What the hostnames of a role's workers begin with.
fn group(job: &str, role: &str) -> String {
    match role {
        "" => job.to_owned(),
        _ => format!("{job}-{role}"),
    }
}

/// Calls `f` with the name, the number of workers and the pod template of each role; workers without roles have the name "".
fn for_each_role(spec: &mut Value, mut f: impl FnMut(&str, usize, &mut Value)) -> ScenarioResult {
    let alike = Value::Null;
    let mut each = |name: &Value, of_role: &mut Value| {
        let replicas = of_role["replicas"]
            .as_u64()
            .ok_or("a role has no replicas")?;
        f(
            name.as_str().unwrap_or_default(),
            usize::try_from(replicas)?,
            &mut of_role["template"],
        );
        Ok(())
    };
    match spec.get_mut("roles").and_then(Value::as_array_mut) {
        Some(roles) => roles
            .iter_mut()
            .try_for_each(|role| each(&role["name"].clone(), role)),
        None => each(&alike, spec),
    }
}

/// Has a pod template run the programs of this test, with a GPU if it has any. Its commands stay. The image has no shell, so the node's
/// is mounted, with the programs that the shell needs.
fn run_noting(template: &mut Value, directory: &Path) {
    let programs = directory.join("programs");
    let pod = &mut template["spec"];
    pod["terminationGracePeriodSeconds"] = json!(1);
    pod["volumes"] = json!([
        {"name": "data", "hostPath": {"path": directory}},
        {"name": "programs", "hostPath": {"path": programs}},
        {"name": "sshd", "hostPath": {"path": programs.join("sshd"), "type": "File"}},
        {"name": "node-programs", "hostPath": {"path": "/usr/bin"}},
        {"name": "shell", "hostPath": {"path": "/bin/dash", "type": "File"}},
    ]);
    let container = &mut pod["containers"][0];
    let has_gpus = !container["resources"]["limits"]["nvidia.com/gpu"].is_null();
    let replaced = json!({
        "image": "bursar.local/trainer:dev", "imagePullPolicy": "Never",
        "env": [{"name": "PATH", "value": "/programs:/usr/bin"}],
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "programs", "mountPath": "/programs"},
            {"name": "sshd", "mountPath": "/usr/sbin/sshd"},
            {"name": "node-programs", "mountPath": "/usr/bin", "readOnly": true},
            {"name": "shell", "mountPath": "/bin/sh"},
        ],
    });
    set(container, &replaced);
    container["resources"] = match has_gpus {
        true => json!({"limits": {"nvidia.com/gpu": 1}}),
        false => json!({"requests": {"cpu": "10m"}}),
    };
}

/// The programs that pods run, below the directory that they mount.
fn make_programs(directory: &Path) -> ScenarioResult {
    let programs = directory.join("programs");
    fs::create_dir_all(&programs)?;
    // the image's user is not root
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777))?;
    let noting = STARTED.map(|name| (name, NOTE));
    for (name, text) in noting.into_iter().chain([("ssh", SSH)]) {
        let path = programs.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// A pipe on which the workers of a role wait.
fn make_pipe(path: &Path) -> Result<File, Error> {
    let made = Command::new("mkfifo")
        .args(["-m", "666"])
        .arg(path)
        .status()?;
    if !made.success() {
        return Err(format!("mkfifo {}: {made}", path.display()).into());
    }
    // open for both, it waits for no reader
    Ok(File::options().read(true).write(true).open(path)?)
}

/// The addresses of a job's pods, by their hostnames, once all have one: a container runs for a moment before its pod's status says so.
fn addresses(cluster: &Cluster, job: &str) -> Result<BTreeMap<String, IpAddr>, Error> {
    let of_job = format!("bursar.dev/workload={job}");
    let path = "jsonpath={range .items[*]}{.spec.hostname} {.status.podIP}{\"\\n\"}{end}";
    let mut found = BTreeMap::new();
    wait_until("all workers to have addresses", 30, || {
        let pods = ["-n", NAMESPACE, "get", "pods", "-l", &of_job, "-o", path];
        let pods = cluster.kubectl(&pods)?;
        let address = |line: &str| {
            let (hostname, address) = line.split_once(' ')?;
            Some((hostname.to_owned(), address.parse().ok()?))
        };
        found = pods.lines().filter_map(address).collect();
        Ok(found.len() == pods.lines().count())
    })?;
    Ok(found)
}

impl Worker {
    /// What a worker has noted.
    fn read(
        directory: &Path,
        host: &str,
        role: &str,
        index: usize,
        address: IpAddr,
    ) -> Result<Self, Error> {
        let read = |kind: &str| fs::read_to_string(directory.join(format!("{host}.{kind}")));
        let environment = read("environment")?;
        let lines = environment
            .lines()
            .filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        let unquoted =
            lines.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()));
        let hostfiles = ["mpi", "job"].into_iter();
        let hostfiles = hostfiles.filter_map(|directory| {
            Some((directory, read(&format!("{directory}-hostfile")).ok()?))
        });
        Ok(Self {
            role: role.to_owned(),
            index,
            address,
            environment: unquoted.collect(),
            arguments: read("arguments")?.lines().map(str::to_owned).collect(),
            hostfiles: hostfiles.collect(),
        })
    }
}
