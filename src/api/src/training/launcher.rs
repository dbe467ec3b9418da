//! What a job with a launcher must be, so that the launcher can start processes on its workers.

use super::framework::{Framework, LAUNCHER, SSH_AUTH_MOUNT_PATH, WORKER};
use super::{RoleSpec, TrainingJobSpec};
use crate::quantities::FieldError;
use crate::template;

/// Whether a launcher can start these workers, if the job has one.
///
/// # Errors
/// The first field that keeps it from that.
pub(super) fn check(spec: &TrainingJobSpec) -> Result<(), FieldError> {
    if spec.launcher().is_none() {
        return Ok(());
    }
    let error = |field: String, why: &str| Err(FieldError::new(field, why));
    if spec.roles.len() != 2 || !spec.roles.iter().any(|role| role.name == WORKER) {
        let why = "must be launcher and worker, and no others, of a job with a launcher";
        return error("spec.roles".to_owned(), why);
    }
    for (index, role) in spec.roles.iter().enumerate() {
        let field = format!("spec.roles[{index}]");
        if role.name != LAUNCHER {
            continue;
        }
        if role.replicas != 1 {
            return error(format!("{field}.replicas"), "must be 1 of a launcher");
        }
        let first = template::containers(&role.template).first();
        let command = first.and_then(|container| container.command.as_ref());
        if command.is_none_or(Vec::is_empty) {
            let why = "is missing: Bursar waits for the workers before it, and cannot read it from the image";
            return error(format!("{field}.template.spec.containers[0].command"), why);
        }
    }
    check_success(spec)?;
    check_key(spec)?;
    check_deepspeed(spec)
}

/// The workers' sshd runs until it is stopped.
fn check_success(spec: &TrainingJobSpec) -> Result<(), FieldError> {
    let named = spec.success_policy.iter().flat_map(|policy| &policy.roles);
    if !spec.runs_sshd() || !named.into_iter().any(|name| name == WORKER) {
        return Ok(());
    }
    let why = "must not name worker where Bursar starts its sshd, which runs until it is stopped: name launcher alone, or give \
               the workers a command";
    Err(FieldError::new("spec.successPolicy.roles", why))
}

/// ssh takes no key of its own user that a group may read.
fn check_key(spec: &TrainingJobSpec) -> Result<(), FieldError> {
    let path = spec
        .mpi
        .as_ref()
        .map(|mpi| mpi.ssh_auth_mount_path.as_str());
    if path.is_some_and(|path| path != SSH_AUTH_MOUNT_PATH) {
        return Ok(());
    }
    let has_group = |role: &RoleSpec| {
        let security = role.template.spec.as_ref()?.security_context.as_ref()?;
        security.fs_group
    };
    match spec.roles.iter().position(|role| has_group(role).is_some()) {
        None => Ok(()),
        Some(index) => {
            let field = format!("spec.roles[{index}].template.spec.securityContext.fsGroup");
            let why = "would let a group read the ssh key, and ssh takes no such key of root: leave it out, or set \
                       mpi.sshAuthMountPath to the .ssh of another user's home";
            Err(FieldError::new(field, why))
        }
    }
}

/// deepspeed starts its processes on the launcher itself if the hostfile has one host, unless it is told.
fn check_deepspeed(spec: &TrainingJobSpec) -> Result<(), FieldError> {
    let workers = spec.roles.iter().find(|role| role.name == WORKER);
    if spec.framework() != Framework::DeepSpeed || workers.is_none_or(|role| role.replicas > 1) {
        return Ok(());
    }
    let launcher = spec.roles.iter().position(|role| role.name == LAUNCHER);
    let Some((index, role)) = launcher.and_then(|index| Some((index, spec.roles.get(index)?)))
    else {
        return Ok(());
    };
    let first = template::containers(&role.template).first();
    let words = first.iter().flat_map(|container| {
        let command = container.command.iter().flatten();
        command.chain(container.args.iter().flatten())
    });
    let words: Vec<&str> = words.map(String::as_str).collect();
    let is_deepspeed = |word: &&str| word.rsplit('/').next() == Some("deepspeed");
    if !words.first().is_some_and(is_deepspeed) || words.contains(&"--force_multi") {
        return Ok(());
    }
    let field = format!("spec.roles[{index}].template.spec.containers[0].command");
    let why = "must have --force_multi after deepspeed, which would run on the launcher itself for one worker";
    Err(FieldError::new(field, why))
}
