//! The environment of each framework, as a container of the built Jobs has it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bursar_api::TrainingJob;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, Secret};
use serde_json::{Value, json};

use super::*;
use crate::training::build;

fn job(spec: Value) -> TrainingJob {
    let object: TrainingJob = serde_json::from_value(json!({
        "apiVersion": "bursar.dev/v1alpha1", "kind": "TrainingJob",
        "metadata": {"name": "llama", "namespace": "ml", "uid": "u"}, "spec": spec,
    }))
    .unwrap();
    use bursar_api::lenient::Validate;
    object.validate().unwrap();
    object
}

fn role(name: &str, replicas: u32, gpus: u32) -> Value {
    let limits = match gpus {
        0 => json!({"cpu": "1"}),
        _ => json!({"nvidia.com/gpu": gpus.to_string()}),
    };
    let container = json!({"name": "c", "image": "i", "resources": {"limits": limits}});
    json!({"name": name, "replicas": replicas, "template": {"spec": {"containers": [container]}}})
}

/// A launcher with a command, and two workers of four GPUs.
fn with_launcher(framework: &str) -> Value {
    let mut launcher = role("launcher", 1, 0);
    launcher["template"]["spec"]["containers"][0]["command"] = json!(["mpirun", "train"]);
    json!({"framework": framework, "roles": [launcher, role("worker", 2, 4)]})
}

/// The end of the names of an object's files: the same one each time.
fn suffix(object: &TrainingJob) -> NameSuffix {
    static KEY: LazyLock<SuffixKey> = LazyLock::new(SuffixKey::default);
    KEY.suffix(object).unwrap()
}

fn config_map(object: &TrainingJob) -> Option<ConfigMap> {
    launcher::config_map(object, &suffix(object))
}

fn keys(object: &TrainingJob) -> Option<Secret> {
    launcher::secret(object, &suffix(object)).unwrap()
}

fn pods(object: &TrainingJob) -> BTreeMap<String, PodSpec> {
    let jobs = build::jobs(object, &suffix(object), true, 0).into_iter();
    let pod = |job: Job| job.spec.unwrap().template.spec.unwrap();
    jobs.map(|(role, job)| (role, pod(job))).collect()
}

/// The variables of a container as its kubelet would make them for the worker of this index.
fn variables(container: &Container, index: u32) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for variable in container.env.iter().flatten() {
        let text = match &variable.value {
            Some(text) => all.iter().fold(text.clone(), |text, (name, value)| {
                text.replace(&format!("$({name})"), value)
            }),
            None => index.to_string(),
        };
        all.insert(variable.name.clone(), text);
    }
    all
}

fn of_worker(object: &TrainingJob, role: &str, index: u32) -> BTreeMap<String, String> {
    variables(&pods(object)[role].containers[0], index)
}

fn tf_config(object: &TrainingJob, role: &str, index: u32) -> Value {
    serde_json::from_str(&of_worker(object, role, index)["TF_CONFIG"]).unwrap()
}

#[test]
fn tensorflow_workers_that_are_alike_have_their_task_and_all_addresses() {
    let template = role("", 1, 1)["template"].clone();
    let object = job(json!({"framework": "TensorFlow", "replicas": 2, "template": template}));
    let worker = |index: u32| format!("llama-{index}.llama.ml.svc:2222");
    let expected = |index: u32| {
        json!({"cluster": {"worker": [worker(0), worker(1)]}, "environment": "cloud",
               "task": {"type": "worker", "index": index}})
    };
    for index in [0, 1] {
        assert_eq!(tf_config(&object, "", index), expected(index));
    }
}

#[test]
fn tensorflow_roles_are_task_types_and_an_evaluator_is_outside_the_cluster() {
    let roles = [
        role("chief", 1, 1),
        role("worker", 2, 1),
        role("ps", 1, 0),
        role("evaluator", 1, 0),
    ];
    let object = job(json!({"framework": "TensorFlow", "roles": roles}));
    let address = |role: &str, index: u32| format!("llama-{role}-{index}.llama.ml.svc:2222");
    let cluster = json!({
        "chief": [address("chief", 0)], "ps": [address("ps", 0)],
        "worker": [address("worker", 0), address("worker", 1)],
    });
    for (role, index) in [("chief", 0), ("worker", 1), ("ps", 0), ("evaluator", 0)] {
        let config = tf_config(&object, role, index);
        assert_eq!(config["cluster"], cluster, "{role}");
        assert_eq!(config["task"], json!({"type": role, "index": index}));
    }
    // a runtime gives no GPU to what has asked for none
    let visible = |role| {
        of_worker(&object, role, 0)
            .get("NVIDIA_VISIBLE_DEVICES")
            .cloned()
    };
    assert_eq!(
        (visible("ps").as_deref(), visible("worker")),
        (Some("void"), None)
    );
    assert_eq!(object.spec.success_roles(), ["chief"]);
}

/// Whatever the template says, which may be older than the rule against it.
#[test]
fn no_container_of_a_role_without_gpus_gets_those_of_its_node() {
    let mut servers = role("ps", 1, 0);
    let all =
        json!([{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}, {"name": "A", "value": "1"}]);
    let spec = &mut servers["template"]["spec"];
    spec["containers"][0]["env"] = all.clone();
    spec["initContainers"] = json!([{"name": "init", "env": all}, {"name": "bare"}]);
    let object: TrainingJob = serde_json::from_value(json!({
        "metadata": {"name": "llama", "namespace": "ml", "uid": "u"},
        "spec": {"framework": "TensorFlow", "roles": [role("worker", 1, 1), servers]},
    }))
    .unwrap();
    let pod = &pods(&object)["ps"];
    let containers = pod.containers.iter();
    for container in containers.chain(pod.init_containers.iter().flatten()) {
        let env = container.env.as_ref().unwrap();
        let mut visible = env.iter().filter(|each| each.name == VISIBLE_DEVICES);
        let value = visible.next().and_then(|each| each.value.as_deref());
        assert_eq!(
            (value, visible.next()),
            (Some("void"), None),
            "{}",
            container.name
        );
    }
}

#[test]
fn torchrun_starts_a_process_for_each_gpu_unless_the_template_says_otherwise() {
    let processes = |limits: Value, env: Value| {
        let container = json!({"name": "c", "env": env, "resources": {"limits": limits}});
        let template = json!({"spec": {"containers": [container]}});
        let object = job(json!({"framework": "PyTorch", "replicas": 2, "template": template}));
        of_worker(&object, "", 0).get("PET_NPROC_PER_NODE").cloned()
    };
    let none = || json!([]);
    let eight = json!({"nvidia.com/gpu": "8"});
    assert_eq!(processes(eight.clone(), none()).as_deref(), Some("8"));
    let own = json!([{"name": "PET_NPROC_PER_NODE", "value": "2"}]);
    assert_eq!(processes(eight, own).as_deref(), Some("2"));
    // one process uses one part at most
    assert_eq!(
        processes(json!({"nvidia.com/mig-1g.10gb": "2"}), none()),
        None
    );
}

#[test]
fn jax_processes_know_their_coordinator_their_number_and_their_id() {
    let object = job(json!({"framework": "JAX", "roles": [
        role("first", 2, 1), role("single", 1, 1), role("more", 2, 1)]}));
    let of = |role: &str, index| {
        let variables = of_worker(&object, role, index);
        let names = [
            "JAX_COORDINATOR_ADDRESS",
            "JAX_NUM_PROCESSES",
            "JAX_PROCESS_ID",
        ];
        names.map(|name| variables[name].clone())
    };
    let coordinator = "llama-first-0.llama.ml.svc:6666";
    assert_eq!(of("first", 1), [coordinator, "5", "1"]);
    assert_eq!(of("single", 0), [coordinator, "5", "2"]);
    // which is no number, and no other process's id
    assert_eq!(of("more", 0)[2], pytorch::NO_RANK);
}

#[test]
fn a_plain_job_has_addresses_alone() {
    let template = role("", 1, 1)["template"].clone();
    let object = job(json!({"framework": "Plain", "replicas": 3, "template": template}));
    let variables = of_worker(&object, "", 2);
    let expected = [
        ("BURSAR_FIRST_ADDRESS", "llama-0.llama.ml.svc"),
        ("BURSAR_ROLE_RANK", "2"),
        ("BURSAR_WORKERS", "3"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(variables, expected.into());
}

#[test]
fn deepspeed_without_a_launcher_starts_as_torchrun_does() {
    let template = role("", 1, 1)["template"].clone();
    let of = |framework: &str| {
        let object = job(json!({"framework": framework, "replicas": 2, "template": template}));
        of_worker(&object, "", 1)
    };
    assert_eq!(of("DeepSpeed"), of("PyTorch"));
    assert_eq!(of("DeepSpeed")["PET_NODE_RANK"], "1");
}

#[test]
fn precision_is_told_in_accelerates_words_and_tf32_in_its_own() {
    let template = role("", 1, 1)["template"].clone();
    let of = |precision: &str| {
        let object = job(
            json!({"framework": "PyTorch", "replicas": 1, "template": template, "precision": precision}),
        );
        let variables = of_worker(&object, "", 0);
        let names = [
            "BURSAR_PRECISION",
            "ACCELERATE_MIXED_PRECISION",
            "NVIDIA_TF32_OVERRIDE",
            "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
        ];
        names.map(|name| variables.get(name).cloned().unwrap_or_default())
    };
    assert_eq!(of("fp32"), ["fp32", "no", "0", ""]);
    assert_eq!(of("tf32"), ["tf32", "no", "", "1"]);
    assert_eq!(of("bf16"), ["bf16", "bf16", "", ""]);
    assert_eq!(of("fp16"), ["fp16", "fp16", "", ""]);
    assert_eq!(of("fp8"), ["fp8", "fp8", "", ""]);
}

#[test]
fn a_launcher_waits_for_its_workers_and_finds_them_in_its_hostfile() {
    let object = job(with_launcher("MPI"));
    let pods = pods(&object);
    let first = &pods["launcher"].containers[0];
    let command = first.command.clone().unwrap();
    assert_eq!(
        command,
        ["/bin/sh", "/etc/mpi/launch.sh", "mpirun", "train"]
    );
    let files = config_map(&object).unwrap();
    assert_eq!(files.immutable, Some(true));
    let data = files.data.unwrap();
    let host = |index: u32| format!("llama-worker-{index}.llama.ml.svc");
    let lines = |form: &dyn Fn(String) -> String| [0, 1].map(|index| form(host(index))).concat();
    assert_eq!(data["hostfile"], lines(&|host| format!("{host} slots=4\n")));
    assert_eq!(data["hydra_hostfile"], lines(&|host| format!("{host}:4\n")));
    let script = format!("#!/bin/sh\n{}", lines(&|host| format!("echo {host}:4\n")));
    assert_eq!(data["discover_hosts.sh"], script);
    let variables = variables(first, 0);
    for (name, value) in [
        ("OMPI_MCA_orte_default_hostfile", "/etc/mpi/hostfile"),
        ("OMPI_MCA_orte_keep_fqdn_hostnames", "true"),
        ("I_MPI_HYDRA_HOST_FILE", "/etc/mpi/hydra_hostfile"),
        ("HYDRA_HOST_FILE", "/etc/mpi/hydra_hostfile"),
        // by which processes of MPICH and Intel MPI connect back
        ("HYDRA_IFACE", "eth0"),
        ("I_MPI_HYDRA_IFACE", "eth0"),
        ("NVIDIA_VISIBLE_DEVICES", "void"),
    ] {
        assert_eq!(variables[name], value, "{name}");
    }
    // the volume is the ConfigMap that is made
    let volumes = pods["launcher"].volumes.as_ref().unwrap();
    let mounted = volumes
        .iter()
        .find_map(|volume| volume.config_map.as_ref())
        .unwrap();
    assert_eq!(Some(&mounted.name), files.metadata.name.as_ref());
    assert_eq!(object.spec.success_roles(), ["launcher"]);
}

#[test]
fn the_keys_of_a_job_are_its_own_cannot_change_and_are_what_its_pods_mount() {
    let object = job(with_launcher("Horovod"));
    let secret = keys(&object).unwrap();
    assert_eq!(secret.immutable, Some(true));
    let owner = &secret.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.uid.as_str()),
        ("TrainingJob", "u")
    );
    let text = |key: &str| String::from_utf8(secret.data.as_ref().unwrap()[key].0.clone()).unwrap();
    assert!(text("ssh-privatekey").starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!(
        text("known_hosts"),
        format!("* {}", text("authorized_keys"))
    );
    for line in ["StrictHostKeyChecking yes", "Port 2222"] {
        assert!(text("config").contains(line), "{}", text("config"));
    }
    for (role, pod) in &pods(&object) {
        let volumes = pod.volumes.as_ref().unwrap();
        let mounted = volumes
            .iter()
            .find_map(|volume| volume.secret.as_ref())
            .unwrap();
        assert_eq!(mounted.secret_name, secret.metadata.name, "{role}");
        assert_eq!(mounted.default_mode, Some(0o600), "only root reads it");
    }
    let files = |pod: &PodSpec| {
        let volumes = pod.volumes.iter().flatten();
        let items = volumes.filter_map(|volume| volume.secret.as_ref()?.items.as_ref());
        let paths = items.flatten().map(|item| item.path.clone());
        paths.collect::<Vec<_>>()
    };
    let worker = files(&pods(&object)["worker"]);
    for file in ["id_ecdsa", "id_rsa"] {
        assert!(worker.contains(&file.to_owned()), "{worker:?}");
    }
    // another job of the same name has another Secret, which no earlier one can be taken for
    let mut other = object.clone();
    other.metadata.uid = Some("v".to_owned());
    let name = keys(&other).unwrap().metadata.name;
    assert_ne!(name, secret.metadata.name);
}

#[test]
fn nobody_can_foresee_how_the_files_of_a_job_are_named() {
    let object = job(with_launcher("MPI"));
    let (one, other) = (SuffixKey::default(), SuffixKey::default());
    let of = |key: &SuffixKey| key.suffix(&object).unwrap();
    assert_ne!(of(&one), of(&other), "all that is public is the same");
    assert_eq!(
        of(&one),
        of(&one),
        "a start that is tried again makes no more of them"
    );
    let name = keys(&object).unwrap().metadata.name.unwrap();
    assert!(name.ends_with(suffix(&object).as_str()), "{name}");
    let jobs = build::jobs(&object, &of(&one), true, 0);
    for (role, job) in jobs {
        assert_eq!(NameSuffix::on_record(&job), Some(of(&one)), "{role}");
    }
}

/// sshd passes no variable of its container on.
#[test]
fn processes_that_sshd_starts_have_the_precision_of_the_job() {
    let mut spec = with_launcher("DeepSpeed");
    spec["precision"] = json!("bf16");
    let object = job(spec);
    let script = pods(&object)["worker"].containers[0]
        .command
        .clone()
        .unwrap()
        .remove(2);
    let expected = "-o \"SetEnv=BURSAR_ROLE=worker BURSAR_ROLE_RANK=$BURSAR_ROLE_RANK BURSAR_RANK_OFFSET=1 \
                    BURSAR_PRECISION=bf16 ACCELERATE_MIXED_PRECISION=bf16\"";
    assert!(script.contains(expected), "{script}");
}

/// What the launcher's wait says and returns, with an ssh that does this.
fn launch(ssh: &str) -> (bool, String) {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("hostfile"), "worker-0 slots=1\n").unwrap();
    std::fs::write(path("ssh"), format!("#!/bin/sh\n{ssh}\n")).unwrap();
    std::fs::set_permissions(path("ssh"), PermissionsExt::from_mode(0o755)).unwrap();
    let hostfile = path("hostfile").display().to_string();
    let script = include_str!("launcher/launch.sh").replace("/etc/mpi/hostfile", &hostfile);
    std::fs::write(path("launch.sh"), script).unwrap();
    let output = std::process::Command::new("/bin/sh")
        .args([
            path("launch.sh").as_os_str(),
            "echo".as_ref(),
            "trained".as_ref(),
        ])
        .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
        .env("BURSAR_WORKERS_TIMEOUT", "2")
        .env("FOLDER", folder.path())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn a_launcher_whose_key_is_refused_ends_at_once_with_the_reason() {
    let (succeeded, said) =
        launch("echo 'root@worker-0: Permission denied (publickey).' >&2; exit 255");
    assert!(
        !succeeded && said.contains("worker worker-0 refuses the ssh key"),
        "{said}"
    );
    assert!(said.contains("Permission denied (publickey)"), "{said}");
}

#[test]
fn a_launcher_waits_for_a_worker_that_does_not_listen_yet() {
    let refused = "echo 'connect to host worker-0 port 2222: Connection refused' >&2; exit 255";
    let then_well = format!("[ -e $FOLDER/asked ] && exit 0; touch $FOLDER/asked; {refused}");
    assert_eq!(launch(&then_well), (true, "trained\n".to_owned()));
    let (succeeded, said) = launch(refused);
    assert!(
        !succeeded && said.contains("no ssh connection within 2 seconds"),
        "{said}"
    );
}

#[test]
fn a_worker_runs_sshd_unless_its_template_says_otherwise() {
    let mut spec = with_launcher("MPI");
    spec["mpi"] = json!({"sshAuthMountPath": "/home/user/.ssh", "slotsPerWorker": 2});
    let object = job(spec.clone());
    let worker = pods(&object)["worker"].containers[0].clone();
    let script = worker.command.unwrap().remove(2);
    assert!(script.contains("exec /usr/sbin/sshd -D"), "{script}");
    assert!(
        script.contains("HostKey=/home/user/.ssh/id_ecdsa"),
        "{script}"
    );
    let data = config_map(&object).unwrap().data.unwrap();
    assert!(data["hostfile"].contains(" slots=2\n"), "{data:?}");

    spec["roles"][1]["template"]["spec"]["containers"][0]["command"] = json!(["/start"]);
    let object = job(spec);
    let worker = pods(&object)["worker"].containers[0].clone();
    assert_eq!(worker.command.unwrap(), ["/start"]);
    // whose port and host keys are the image's
    let secret = keys(&object).unwrap();
    let config = String::from_utf8(secret.data.unwrap()["config"].0.clone()).unwrap();
    assert!(config.contains("StrictHostKeyChecking no"), "{config}");
    assert!(!config.contains("Port"), "{config}");
}

#[test]
fn the_deepspeed_launcher_finds_its_hostfile_where_it_looks() {
    let object = job(with_launcher("DeepSpeed"));
    let pods = pods(&object);
    let mounts = pods["launcher"].containers[0]
        .volume_mounts
        .as_ref()
        .unwrap();
    let hostfile = mounts
        .iter()
        .find(|mount| mount.mount_path == "/job/hostfile")
        .unwrap();
    assert_eq!(hostfile.sub_path.as_deref(), Some("hostfile"));
    assert!(mounts.iter().any(|mount| mount.mount_path == "/root/.ssh"));
}

#[test]
fn a_framework_without_a_launcher_has_no_files() {
    let template = role("", 1, 1)["template"].clone();
    let object = job(json!({"framework": "PyTorch", "replicas": 2, "template": template}));
    assert!(keys(&object).is_none());
    assert!(config_map(&object).is_none());
}
