//! Frameworks of a TrainingJob: their names, the variables that are theirs alone, and the roles that
//! they know.

use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Role, TrainingJobSpec};
use crate::names::{role_job, worker_address};
use crate::quantities::FieldError;
use crate::template;

/// The role whose only worker starts the others by ssh.
pub const LAUNCHER: &str = "launcher";
/// The role of the workers that a launcher starts.
pub const WORKER: &str = "worker";
/// The port of TensorFlow's servers, of all workers.
pub const TENSORFLOW_PORT: u16 = 2222;
/// Where a launcher's and its workers' ssh files are, unless the job says otherwise.
pub(crate) const SSH_AUTH_MOUNT_PATH: &str = "/root/.ssh";

/// The variable by which an image asks the NVIDIA container runtime for GPUs.
pub const VISIBLE_DEVICES: &str = "NVIDIA_VISIBLE_DEVICES";

/// Linux takes no variable longer than 128 KiB. `TF_CONFIG` names every worker, so that many long names
/// could make a container that cannot be started.
const MAX_TF_CONFIG: usize = 120 * 1024;
/// All containers of a pod have it, and the API server stores no object of more than 1.5 MiB.
const MAX_TF_CONFIG_OF_POD: usize = 512 * 1024;

/// CEL: the containers of template `T` set none of a list of variables.
macro_rules! sets_none {
    ($template:literal, $names:literal) => {
        concat!(
            "(!has(",
            $template,
            ".spec) || ",
            $template,
            ".spec.containers.all(c, !has(c.env) || c.env.all(e, !(e.name in ",
            $names,
            "))))"
        )
    };
}

/// CEL, on the specification: no template of either form sets one of a list of variables.
macro_rules! no_template_sets {
    ($names:literal) => {
        concat!(
            "(!has(self.template) || ",
            sets_none!("self.template", $names),
            ") && (!has(self.roles) || self.roles.all(r, ",
            sets_none!("r.template", $names),
            "))"
        )
    };
}

/// CEL, on the specification: a launcher starts the workers.
macro_rules! has_launcher {
    () => {
        "has(self.roles) && self.roles.exists(r, r.name == 'launcher')"
    };
}

/// The rules of frameworks on the specification, and their messages.
pub(super) const RULES: [(&str, &str); 11] = [
    (
        concat!(
            "!has(self.framework) || self.framework != 'TensorFlow' || ",
            no_template_sets!("['TF_CONFIG', 'BURSAR_ROLE_RANK']")
        ),
        "env of a template must not set TF_CONFIG or BURSAR_ROLE_RANK with framework TensorFlow, which makes them of the roles: \
         leave them out, or use framework Plain",
    ),
    (
        concat!(
            "!has(self.framework) || self.framework != 'JAX' || ",
            no_template_sets!("['JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID']")
        ),
        "env of a template must not set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES or JAX_PROCESS_ID with framework JAX, which makes \
         them of the roles: leave them out, or use framework Plain",
    ),
    (
        concat!(
            "!(has(self.framework) && self.framework in ['MPI', 'Horovod', 'DeepSpeed'] && ",
            has_launcher!(),
            ") || ",
            no_template_sets!(
                "['OMPI_MCA_orte_default_hostfile', 'PRTE_MCA_prte_default_hostfile', 'I_MPI_HYDRA_HOST_FILE', 'HYDRA_HOST_FILE']"
            )
        ),
        "env of a template must not set OMPI_MCA_orte_default_hostfile, PRTE_MCA_prte_default_hostfile, I_MPI_HYDRA_HOST_FILE or \
         HYDRA_HOST_FILE of a job with a launcher, whose hostfile is made of the roles: leave them out, or use framework Plain",
    ),
    (
        concat!(
            "!has(self.precision) || ",
            no_template_sets!(
                "['ACCELERATE_MIXED_PRECISION', 'BURSAR_PRECISION', 'NVIDIA_TF32_OVERRIDE', 'TORCH_ALLOW_TF32_CUBLAS_OVERRIDE']"
            )
        ),
        "env of a template must not set ACCELERATE_MIXED_PRECISION, BURSAR_PRECISION, NVIDIA_TF32_OVERRIDE or \
         TORCH_ALLOW_TF32_CUBLAS_OVERRIDE of a job with precision, which sets them: leave either out",
    ),
    (
        "!has(self.framework) || self.framework != 'TensorFlow' || !has(self.roles) || (self.roles.all(r, r.name in ['chief', 'master', 'worker', 'ps', \
         'evaluator'] && (r.name in ['worker', 'ps'] || r.replicas == 1)) \
         && !(self.roles.exists(r, r.name == 'chief') && self.roles.exists(r, r.name == 'master')))",
        "roles of framework TensorFlow must be named chief or master, worker, ps and evaluator, as the task types of TF_CONFIG are; \
         chief, master and evaluator have 1 replica",
    ),
    (
        "!(has(self.framework) && self.framework in ['MPI', 'Horovod']) || (has(self.roles) && self.roles.exists(r, r.name == 'launcher'))",
        "roles of frameworks MPI and Horovod must be a launcher, whose command is mpirun or horovodrun, and a worker",
    ),
    (
        concat!(
            "!(has(self.framework) && self.framework in ['MPI', 'Horovod', 'DeepSpeed'] && ",
            has_launcher!(),
            ") || (self.roles.size() == 2 && self.roles.all(r, r.name == 'worker' || (r.name == 'launcher' && r.replicas == 1)))"
        ),
        "roles of a job with a launcher must be launcher, with 1 replica, and worker, and no others",
    ),
    (
        concat!(
            "!(has(self.framework) && self.framework in ['MPI', 'Horovod', 'DeepSpeed'] && ",
            has_launcher!(),
            ") || self.roles.all(r, r.name != 'launcher' || (has(r.template.spec) && has(r.template.spec.containers[0].command)))"
        ),
        "template.spec.containers[0].command of role launcher is missing: Bursar waits for the workers before it, and cannot read it \
         from the image",
    ),
    (
        concat!(
            "!has(self.mpi) || (has(self.framework) && self.framework in ['MPI', 'Horovod', 'DeepSpeed'] && ",
            has_launcher!(),
            ")"
        ),
        "mpi is for jobs of framework MPI, Horovod or DeepSpeed with a role named launcher: leave it out",
    ),
    (
        concat!(
            "!(has(self.framework) && self.framework in ['MPI', 'Horovod', 'DeepSpeed'] && ",
            has_launcher!(),
            ") || (has(self.mpi) && self.mpi.sshAuthMountPath != '/root/.ssh') || self.roles.all(r, !has(r.template.spec) \
             || !has(r.template.spec.securityContext) || !has(r.template.spec.securityContext.fsGroup))"
        ),
        "template.spec.securityContext.fsGroup would let a group read the ssh key, and ssh takes no such key of root: leave it out, or \
         set mpi.sshAuthMountPath to the .ssh of another user's home",
    ),
    (
        concat!(
            "!has(self.successPolicy) || !('worker' in self.successPolicy.roles) || !(has(self.framework) && self.framework in ['MPI', 'Horovod', 'DeepSpeed'] && ",
            has_launcher!(),
            ") || self.roles.exists(r, r.name == 'worker' && has(r.template.spec) && (has(r.template.spec.containers[0].command) \
             || has(r.template.spec.containers[0].args)))"
        ),
        "successPolicy.roles must not name worker where Bursar starts its sshd, which runs until it is stopped: name launcher alone, or \
         give the workers a command",
    ),
];

/// How workers find each other.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framework {
    /// torchrun's environment: `MASTER_ADDR`, `MASTER_PORT`, `WORLD_SIZE`, `RANK`, and `PET_*`.
    PyTorch,
    /// `TF_CONFIG`. Roles are task types: chief or master, worker, ps and evaluator.
    TensorFlow,
    /// `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID`.
    #[serde(rename = "JAX")]
    Jax,
    /// A launcher whose mpirun starts processes on the workers by ssh: hostfile and keys.
    #[serde(rename = "MPI")]
    Mpi,
    /// The same for horovodrun, with a host discovery script.
    Horovod,
    /// With a role launcher, the same for the deepspeed launcher; without one, torchrun's environment.
    DeepSpeed,
    /// No framework's variables: workers find each other by their DNS names.
    Plain,
}

/// The number format that the framework is told to compute in.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats, also in matrix products.
    Fp32,
    /// 32-bit floats; matrix products in TensorFloat-32.
    Tf32,
    /// Mixed with bfloat16.
    Bf16,
    /// Mixed with 16-bit floats.
    Fp16,
    /// Mixed with 8-bit floats.
    Fp8,
}

impl Precision {
    /// As the resource writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
            Self::Fp8 => "fp8",
        }
    }
}

impl Framework {
    /// As the resource writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PyTorch => "PyTorch",
            Self::TensorFlow => "TensorFlow",
            Self::Jax => "JAX",
            Self::Mpi => "MPI",
            Self::Horovod => "Horovod",
            Self::DeepSpeed => "DeepSpeed",
            Self::Plain => "Plain",
        }
    }
}

/// The variables of which a template sets none.
fn own_variables(spec: &TrainingJobSpec) -> &'static [&'static str] {
    match spec.framework() {
        Framework::TensorFlow => &["TF_CONFIG", "BURSAR_ROLE_RANK"],
        Framework::Jax => &[
            "JAX_COORDINATOR_ADDRESS",
            "JAX_NUM_PROCESSES",
            "JAX_PROCESS_ID",
        ],
        _ if spec.launcher().is_some() => &[
            "OMPI_MCA_orte_default_hostfile",
            "PRTE_MCA_prte_default_hostfile",
            "I_MPI_HYDRA_HOST_FILE",
            "HYDRA_HOST_FILE",
        ],
        // as they always could
        Framework::PyTorch
        | Framework::Mpi
        | Framework::Horovod
        | Framework::DeepSpeed
        | Framework::Plain => &[],
    }
}

/// The variables of `precision`.
const PRECISION_VARIABLES: [&str; 4] = [
    "ACCELERATE_MIXED_PRECISION",
    "BURSAR_PRECISION",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
];

/// Whether the framework can run these roles, and no template sets a variable that is the framework's.
pub(super) fn check(spec: &TrainingJobSpec, name: &str, namespace: &str) -> Result<(), FieldError> {
    let precision: &[&str] = match spec.precision {
        Some(_) => &PRECISION_VARIABLES,
        None => &[],
    };
    for (index, role) in spec.roles().into_iter().enumerate() {
        let field = match role.name {
            "" => "spec.template".to_owned(),
            _ => format!("spec.roles[{index}].template"),
        };
        let is_own = |name: &str| own_variables(spec).contains(&name) || precision.contains(&name);
        if let Some((container, variable)) = set_variable(role.template, is_own) {
            let field = format!("{field}.spec.containers[{container}].env");
            let framework = spec.framework().as_str();
            let why = format!(
                "must not set {variable}, which framework {framework} or precision sets: leave it out"
            );
            return Err(FieldError::new(field, why));
        }
        check_devices(role, &field)?;
    }
    match spec.framework() {
        Framework::TensorFlow => {
            check_task_types(spec)?;
            check_tf_config(spec, name, namespace)
        }
        Framework::Mpi | Framework::Horovod if spec.launcher().is_none() => {
            let why = "must be a launcher, whose command is mpirun or horovodrun, and a worker";
            Err(FieldError::new("spec.roles", why))
        }
        _ if spec.launcher().is_none() && spec.mpi.is_some() => {
            let why =
                "is for jobs of framework MPI, Horovod or DeepSpeed with a role named launcher";
            Err(FieldError::new("spec.mpi", why))
        }
        _ => Ok(()),
    }
}

/// The first variable in a template's containers that is one of these, with its container's index.
fn set_variable(
    template: &PodTemplateSpec,
    is_own: impl Fn(&str) -> bool,
) -> Option<(usize, &str)> {
    let containers = template::containers(template).iter().enumerate();
    let variables = containers.flat_map(|(index, container)| {
        let variables = container.env.iter().flatten();
        variables.map(move |variable| (index, variable.name.as_str()))
    });
    variables.into_iter().find(|(_, name)| is_own(name))
}

/// A role without GPUs does not ask its node's runtime for them.
fn check_devices(role: Role<'_>, field: &str) -> Result<(), FieldError> {
    if !matches!(role.name, LAUNCHER | "ps" | "evaluator") || template::asks_for_gpus(role.template)
    {
        return Ok(());
    }
    let spec = role.template.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_deref());
    let lists = [
        ("containers", template::containers(role.template)),
        ("initContainers", init.unwrap_or_default()),
    ];
    for (list, containers) in lists {
        let shows = |each: &Container| {
            let mut names = each.env.iter().flatten().map(|variable| &variable.name);
            names.any(|name| name == VISIBLE_DEVICES)
        };
        if let Some(index) = containers.iter().position(shows) {
            let field = format!("{field}.spec.{list}[{index}].env");
            let why = format!(
                "must not set {VISIBLE_DEVICES} in a role without GPUs: leave it out, or ask for nvidia.com/gpu in \
                 resources.limits"
            );
            return Err(FieldError::new(field, why));
        }
    }
    Ok(())
}

fn check_task_types(spec: &TrainingJobSpec) -> Result<(), FieldError> {
    let mut chiefs = 0;
    for (index, role) in spec.roles.iter().enumerate() {
        let (most, is_chief) = match role.name.as_str() {
            "chief" | "master" => (1, true),
            "evaluator" => (1, false),
            WORKER | "ps" => (i32::MAX, false),
            _ => {
                let field = format!("spec.roles[{index}].name");
                let why =
                    "must be chief or master, worker, ps or evaluator: the task types of TF_CONFIG";
                return Err(FieldError::new(field, why));
            }
        };
        chiefs += i32::from(is_chief);
        if role.replicas > most {
            let field = format!("spec.roles[{index}].replicas");
            return Err(FieldError::new(
                field,
                "must be 1 of a chief, master or evaluator",
            ));
        }
    }
    match chiefs {
        0 | 1 => Ok(()),
        _ => Err(FieldError::new(
            "spec.roles",
            "must have a chief or a master, and not both",
        )),
    }
}

fn check_tf_config(spec: &TrainingJobSpec, name: &str, namespace: &str) -> Result<(), FieldError> {
    let bytes = |role: &Role<'_>| {
        let longest = worker_address(name, namespace, role.name, role.replicas);
        // with quotes, a comma and the port
        usize::try_from(role.replicas)
            .unwrap_or(usize::MAX)
            .saturating_mul(longest.len() + 9)
    };
    let roles = spec.roles();
    let sum = roles.iter().map(bytes).fold(0, usize::saturating_add);
    let containers = roles
        .iter()
        .map(|role| template::containers(role.template).len());
    let containers = containers.max().unwrap_or(0);
    match sum {
        ..=MAX_TF_CONFIG if sum.saturating_mul(containers) <= MAX_TF_CONFIG_OF_POD => Ok(()),
        ..=MAX_TF_CONFIG => {
            let why = format!(
                "have so many workers that TF_CONFIG would have {sum} bytes in each of {containers} containers, and those of a \
                 pod may have {MAX_TF_CONFIG_OF_POD} together: give the templates fewer containers, or the job fewer workers"
            );
            Err(FieldError::new("spec.roles", why))
        }
        _ => {
            let why = format!(
                "have so many workers with such long names that TF_CONFIG would have {sum} bytes, and a variable may have \
                 {MAX_TF_CONFIG}: give the job a shorter name than {}, or fewer workers",
                role_job(name, "")
            );
            Err(FieldError::new("spec.roles", why))
        }
    }
}

/// The roles whose end is the job's, where the job does not say it: what a launcher or a chief has done
/// is the job. Servers of TensorFlow never end by themselves.
pub(super) fn success_roles(spec: &TrainingJobSpec) -> &'static [&'static str] {
    let has = |name: &str| spec.roles.iter().any(|role| role.name == name);
    match spec.framework() {
        Framework::TensorFlow if has("chief") => &["chief"],
        Framework::TensorFlow if has("master") => &["master"],
        Framework::TensorFlow if has(WORKER) => &[WORKER],
        _ if spec.launcher().is_some() => &[LAUNCHER],
        Framework::PyTorch
        | Framework::TensorFlow
        | Framework::Jax
        | Framework::Mpi
        | Framework::Horovod
        | Framework::DeepSpeed
        | Framework::Plain => &[],
    }
}
