//! What a framework adds to the pods of a gang, so that its workers find each other: variables, and where
//! a launcher starts the others by ssh, files and commands. One file for each framework; a new one is
//! a file, a name in [`Framework`] and a line in [`additions`].

mod additions;
mod jax;
pub(crate) mod launcher;
mod name_suffix;
mod placed_role;
mod plain;
mod pytorch;
mod tensorflow;
mod variables;

use bursar_api::TrainingJob;
use bursar_api::training::{Framework, Precision, Role, VISIBLE_DEVICES};
use k8s_openapi::api::core::v1::EnvVar;

pub(crate) use self::additions::Additions;
pub(crate) use self::name_suffix::{NameSuffix, SuffixKey};
pub(crate) use self::placed_role::PlacedRole;
use self::variables::{index, value};

/// What is added to the pods of a role: its place in the job, the precision, and its framework's.
pub(crate) fn additions(placed: PlacedRole<'_>) -> Additions {
    let spec = &placed.object.spec;
    let mut env = Vec::new();
    if !placed.role.name.is_empty() {
        env.extend([
            value("BURSAR_ROLE", placed.role.name),
            index("BURSAR_ROLE_RANK"),
            value("BURSAR_RANK_OFFSET", placed.rank_offset),
        ]);
    }
    env.extend(spec.precision.into_iter().flat_map(precision));
    // an image may ask for all GPUs of its node: a runtime gives them to pods that were given none
    let fixed_env = match asks_for_gpus(placed.role) {
        true => Vec::new(),
        false => vec![value(VISIBLE_DEVICES, "void")],
    };
    let mut all = match spec.framework() {
        _ if spec.launcher().is_some() => launcher::additions(placed, &env),
        Framework::PyTorch | Framework::DeepSpeed => Additions::of(pytorch::environment(placed)),
        Framework::TensorFlow => Additions::of(tensorflow::environment(placed)),
        Framework::Jax => Additions::of(jax::environment(placed)),
        // without a launcher they were refused
        Framework::Mpi | Framework::Horovod | Framework::Plain => {
            Additions::of(plain::environment(placed))
        }
    };
    env.append(&mut all.env);
    Additions {
        env,
        fixed_env,
        ..all
    }
}

/// The port that workers of a framework connect to, for the headless Service, which wants one.
pub(crate) fn port(object: &TrainingJob) -> i32 {
    match object.spec.framework() {
        _ if object.spec.launcher().is_some() => launcher::SSH_PORT,
        Framework::TensorFlow => i32::from(bursar_api::training::TENSORFLOW_PORT),
        Framework::Jax => jax::COORDINATOR_PORT,
        Framework::PyTorch
        | Framework::DeepSpeed
        | Framework::Mpi
        | Framework::Horovod
        | Framework::Plain => pytorch::MASTER_PORT,
    }
}

fn asks_for_gpus(role: Role<'_>) -> bool {
    let spec = role.template.spec.as_ref();
    spec.is_some_and(|spec| !crate::pod::gpus_of(spec).is_empty())
}

/// What tells a framework in which format to compute: accelerate's variable
/// (<https://huggingface.co/docs/accelerate/package_reference/cli>), and whether matrix products of 32-bit
/// floats may be in TensorFloat-32 (<https://docs.nvidia.com/deeplearning/frameworks/>,
/// <https://docs.pytorch.org/docs/stable/notes/cuda.html>).
fn precision(precision: Precision) -> Vec<EnvVar> {
    let (mixed, tf32) = match precision {
        Precision::Fp32 => ("no", Some(value("NVIDIA_TF32_OVERRIDE", 0))),
        Precision::Tf32 => ("no", Some(value("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", 1))),
        Precision::Bf16 | Precision::Fp16 | Precision::Fp8 => (precision.as_str(), None),
    };
    let mut all = vec![
        value("BURSAR_PRECISION", precision.as_str()),
        value("ACCELERATE_MIXED_PRECISION", mixed),
    ];
    all.extend(tf32);
    all
}

#[cfg(test)]
mod tests;
