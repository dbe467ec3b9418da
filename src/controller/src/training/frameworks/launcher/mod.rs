//! A launcher that starts processes on the workers by ssh: mpirun, horovodrun or deepspeed. It finds a
//! hostfile, ssh's files and, for elastic Horovod, a script that lists the hosts. Variables and paths are
//! those of Kubeflow's mpi-operator: <https://www.kubeflow.org/docs/components/trainer/legacy-v1/user-guides/mpi/>.

mod ssh_keys;

use std::collections::BTreeMap;

use bursar_api::TrainingJob;
use bursar_api::spend::WorkloadKind;
use bursar_api::training::{Framework, LAUNCHER, MpiSpec, WORKER};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, EnvVar, KeyToPath, Secret, SecretVolumeSource, Volume,
    VolumeMount,
};
use kube::ResourceExt;

use super::additions::{Additions, Command};
use super::name_suffix::NameSuffix;
use super::placed_role::{PlacedRole, address};
use super::variables::value;
use crate::api_calls::ApiError;
use crate::inference::build::metadata;
use crate::pod;

/// The port on which workers take ssh connections where Bursar starts their sshd: one that needs no root.
pub(super) const SSH_PORT: i32 = 2222;
/// Where a launcher's files are.
const CONFIG_PATH: &str = "/etc/mpi";
/// Where the deepspeed launcher looks for its hostfile.
const DEEPSPEED_HOSTFILE: &str = "/job/hostfile";
/// Home of the user root, whose ssh files only that one may read. Other users are given files of root, and
/// ssh wants a file to be private of its own user only.
const ROOT_SSH: &str = "/root/.ssh";
const CONFIG_VOLUME: &str = "bursar-mpi";
const SSH_VOLUME: &str = "bursar-ssh";
/// Open MPI's form, which horovodrun and deepspeed read too.
const HOSTFILE: &str = "hostfile";
/// The form of MPICH's and Intel's process manager.
const HYDRA_HOSTFILE: &str = "hydra_hostfile";
const DISCOVER_HOSTS: &str = "discover_hosts.sh";
const LAUNCH: &str = "launch.sh";
/// The key of the Secret with the private key, ...
const PRIVATE_KEY: &str = "ssh-privatekey";
/// ... the file that it becomes, ...
const KEY_FILE: &str = "id_ecdsa";
/// ... and the same for images with a configuration of their own for ssh or sshd, which name this one.
const KEY_FILE_OF_IMAGES: &str = "id_rsa";
/// The network interface of a pod, as container runtimes name it.
const INTERFACE: &str = "eth0";
const PUBLIC_FILES: [&str; 3] = ["authorized_keys", "known_hosts", "config"];

/// The files and variables of a launcher or of its workers, which have the variables `env` besides.
pub(super) fn additions(placed: PlacedRole<'_>, env: &[EnvVar]) -> Additions {
    let object = placed.object;
    let mpi = settings(object);
    let ssh = VolumeMount {
        name: SSH_VOLUME.to_owned(),
        mount_path: mpi.ssh_auth_mount_path.clone(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    if placed.role.name != LAUNCHER {
        return Additions {
            volumes: vec![ssh_volume(placed, &mpi)],
            mounts: vec![ssh],
            command: Some(Command::Default(sshd(&mpi, env))),
            ..Additions::default()
        };
    }
    let config = |path: &str, file: Option<&str>| VolumeMount {
        name: CONFIG_VOLUME.to_owned(),
        mount_path: path.to_owned(),
        sub_path: file.map(str::to_owned),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![ssh, config(CONFIG_PATH, None)];
    if object.spec.framework() == Framework::DeepSpeed {
        mounts.push(config(DEEPSPEED_HOSTFILE, Some(HOSTFILE)));
    }
    Additions {
        env: environment(object, &mpi),
        volumes: vec![ssh_volume(placed, &mpi), config_volume(placed)],
        mounts,
        command: Some(Command::Prefix(vec![
            "/bin/sh".to_owned(),
            format!("{CONFIG_PATH}/{LAUNCH}"),
        ])),
        ..Additions::default()
    }
}

fn settings(object: &TrainingJob) -> MpiSpec {
    object.spec.mpi.clone().unwrap_or_default()
}

/// Processes for each worker: as many as it has GPUs, unless the job says otherwise.
fn slots(object: &TrainingJob) -> u32 {
    let said = object
        .spec
        .mpi
        .as_ref()
        .and_then(|mpi| mpi.slots_per_worker);
    let gpus = || {
        let roles = object.spec.roles().into_iter();
        let worker = roles.filter(|role| role.name == WORKER).find_map(|role| {
            let spec = role.template.spec.as_ref()?;
            Some(pod::gpus_of(spec).first()?.1)
        });
        worker.unwrap_or(1)
    };
    said.and_then(|slots| u32::try_from(slots).ok())
        .unwrap_or_else(gpus)
}

/// Open MPI's variables, those of its runtime since version 5 (PRRTE), and those of Hydra, which MPICH and
/// Intel MPI share.
fn environment(object: &TrainingJob, mpi: &MpiSpec) -> Vec<EnvVar> {
    let hostfile = format!("{CONFIG_PATH}/{HOSTFILE}");
    let hydra = format!("{CONFIG_PATH}/{HYDRA_HOSTFILE}");
    let attempts = "-o ConnectionAttempts=10";
    let mut all = vec![
        value("OMPI_MCA_orte_default_hostfile", &hostfile),
        value("OMPI_MCA_orte_keep_fqdn_hostnames", true),
        value("OMPI_MCA_plm_rsh_args", attempts),
        value("PRTE_MCA_prte_default_hostfile", &hostfile),
        value("PRTE_MCA_prte_keep_fqdn_hostnames", true),
        value("PRTE_MCA_plm_ssh_args", attempts),
        value("HYDRA_HOST_FILE", &hydra),
        value("HYDRA_LAUNCHER", "ssh"),
        value("I_MPI_HYDRA_HOST_FILE", &hydra),
        value("I_MPI_HYDRA_BOOTSTRAP", "ssh"),
        value("I_MPI_PERHOST", slots(object)),
        // processes connect back to the launcher: by its address, since they do not find its hostname
        value("HYDRA_IFACE", INTERFACE),
        value("I_MPI_HYDRA_IFACE", INTERFACE),
    ];
    if mpi.ssh_auth_mount_path == ROOT_SSH {
        all.extend([
            value("OMPI_ALLOW_RUN_AS_ROOT", 1),
            value("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", 1),
        ]);
    }
    all
}

/// What a worker runs that says nothing else: the image's sshd, which takes the job's key alone and shows it. What
/// it starts has the variables `env`: of those of its container it passes none on.
fn sshd(mpi: &MpiSpec, env: &[EnvVar]) -> Vec<String> {
    let path = &mpi.ssh_auth_mount_path;
    let options = [
        format!("HostKey={path}/{KEY_FILE}"),
        format!("AuthorizedKeysFile={path}/authorized_keys"),
        // the volume's directory is open to all, as volumes of Secrets are
        "StrictModes=no".to_owned(),
        "PermitRootLogin=prohibit-password".to_owned(),
        "PasswordAuthentication=no".to_owned(),
        "KbdInteractiveAuthentication=no".to_owned(),
        "PidFile=none".to_owned(),
    ];
    let options = options.map(|option| format!("-o {option}")).join(" ");
    // none of their values has a blank; the shell knows those that differ from worker to worker
    let assigned = env.iter().map(|variable| match &variable.value {
        Some(value) => format!("{}={value}", variable.name),
        None => format!("{0}=${0}", variable.name),
    });
    let assigned = assigned.collect::<Vec<_>>().join(" ");
    // Debian's sshd wants a directory that a container without an init lacks
    let script = format!(
        "mkdir -p /run/sshd 2>/dev/null; exec /usr/sbin/sshd -D -e -f /dev/null -p {SSH_PORT} {options} -o \"SetEnv={assigned}\""
    );
    ["/bin/sh", "-c", &script].map(str::to_owned).into()
}

fn secret_name(object: &TrainingJob, suffix: &NameSuffix) -> String {
    format!("{}-ssh-{}", object.name_any(), suffix.as_str())
}

fn config_name(object: &TrainingJob, suffix: &NameSuffix) -> String {
    format!("{}-mpi-{}", object.name_any(), suffix.as_str())
}

fn ssh_volume(placed: PlacedRole<'_>, mpi: &MpiSpec) -> Volume {
    let item = |key: &str, path: &str| KeyToPath {
        key: key.to_owned(),
        path: path.to_owned(),
        ..KeyToPath::default()
    };
    let mut items = vec![
        item(PRIVATE_KEY, KEY_FILE),
        item(PRIVATE_KEY, KEY_FILE_OF_IMAGES),
    ];
    items.extend(PUBLIC_FILES.map(|file| item(file, file)));
    let mode = match mpi.ssh_auth_mount_path == ROOT_SSH {
        true => 0o600,
        false => 0o644,
    };
    Volume {
        name: SSH_VOLUME.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret_name(placed.object, placed.suffix)),
            default_mode: Some(mode),
            items: Some(items),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn config_volume(placed: PlacedRole<'_>) -> Volume {
    Volume {
        name: CONFIG_VOLUME.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: config_name(placed.object, placed.suffix),
            default_mode: Some(0o555),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }
}

fn files(object: &TrainingJob) -> BTreeMap<String, String> {
    let slots = slots(object);
    let roles = object.spec.roles().into_iter();
    let workers = roles.filter(|role| role.name == WORKER);
    let hosts: Vec<String> = workers
        .flat_map(|role| (0..role.replicas).map(move |index| address(object, role.name, index)))
        .collect();
    let lines = |line: &dyn Fn(&String) -> String| hosts.iter().map(line).collect::<String>();
    let files = [
        (HOSTFILE, lines(&|host| format!("{host} slots={slots}\n"))),
        (HYDRA_HOSTFILE, lines(&|host| format!("{host}:{slots}\n"))),
        (
            DISCOVER_HOSTS,
            format!(
                "#!/bin/sh\n{}",
                lines(&|host| format!("echo {host}:{slots}\n"))
            ),
        ),
        (LAUNCH, include_str!("launch.sh").to_owned()),
    ];
    files.map(|(name, text)| (name.to_owned(), text)).into()
}

/// The immutable ConfigMap of a job with a launcher: hostfiles, host discovery and the launcher's wait.
pub(crate) fn config_map(object: &TrainingJob, suffix: &NameSuffix) -> Option<ConfigMap> {
    object.spec.launcher()?;
    let data = files(object);
    let name = config_name(object, suffix);
    Some(ConfigMap {
        metadata: metadata(object, name, WorkloadKind::TrainingJob, &data),
        data: Some(data),
        immutable: Some(true),
        ..ConfigMap::default()
    })
}

/// The immutable Secret of a job with a launcher, with a key pair that was made for it.
///
/// # Errors
/// There was no randomness for a key.
pub(crate) fn secret(
    object: &TrainingJob,
    suffix: &NameSuffix,
) -> Result<Option<Secret>, ApiError> {
    if object.spec.launcher().is_none() {
        return Ok(None);
    }
    let keys = ssh_keys::generate()?;
    let path = settings(object).ssh_auth_mount_path;
    let files = [
        (PRIVATE_KEY, keys.private_pem),
        ("authorized_keys", format!("{}\n", keys.public_line)),
        ("known_hosts", format!("* {}\n", keys.public_line)),
        ("config", client_config(&path, object.spec.runs_sshd())),
    ];
    let data = files.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
    let name = secret_name(object, suffix);
    Ok(Some(Secret {
        // the hash of what is asked for is of no secret
        metadata: metadata(object, name, WorkloadKind::TrainingJob, &object.uid()),
        type_: Some("kubernetes.io/ssh-auth".to_owned()),
        data: Some(data.into()),
        immutable: Some(true),
        ..Secret::default()
    }))
}

/// ssh's configuration. Workers that run an sshd of their own have host keys and a port of their own.
fn client_config(path: &str, runs_sshd: bool) -> String {
    let hosts = match runs_sshd {
        true => format!(
            "  Port {SSH_PORT}\n  StrictHostKeyChecking yes\n  UserKnownHostsFile {path}/known_hosts\n"
        ),
        false => "  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n".to_owned(),
    };
    format!(
        "Host *\n  IdentityFile {path}/{KEY_FILE}\n  IdentitiesOnly yes\n  PasswordAuthentication no\n  LogLevel ERROR\n{hosts}"
    )
}
