//! What is added to a pod template.

use bursar_api::template;
use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, Volume, VolumeMount};

/// What is added to the pods of a role.
#[derive(Default)]
pub(crate) struct Additions {
    /// Variables of all containers, ahead of their own.
    pub(super) env: Vec<EnvVar>,
    /// Variables of all containers and init containers in the place of their own, whatever these say.
    pub(super) fixed_env: Vec<EnvVar>,
    pub(super) volumes: Vec<Volume>,
    /// Mounts of the first container.
    pub(super) mounts: Vec<VolumeMount>,
    /// The first container's command, by the one that it has.
    pub(super) command: Option<Command>,
}

/// What becomes of the first container's command.
pub(super) enum Command {
    /// This goes before it.
    Prefix(Vec<String>),
    /// It is this where the template gives none.
    Default(Vec<String>),
}

impl Additions {
    pub(super) fn of(env: Vec<EnvVar>) -> Self {
        Self {
            env,
            ..Self::default()
        }
    }

    /// Adds it to a pod. Variables that a container sets itself have precedence; those that clash with the
    /// framework were refused.
    pub(crate) fn add_to(self, spec: &mut PodSpec) {
        if !self.volumes.is_empty() {
            spec.volumes.get_or_insert_default().extend(self.volumes);
        }
        for container in &mut spec.containers {
            add_variables(container, &self.env);
        }
        let init = spec.init_containers.iter_mut().flatten();
        for container in init.chain(&mut spec.containers) {
            set_variables(container, &self.fixed_env);
        }
        let Some(first) = spec.containers.first_mut() else {
            return;
        };
        if !self.mounts.is_empty() {
            first
                .volume_mounts
                .get_or_insert_default()
                .extend(self.mounts);
        }
        match self.command {
            Some(Command::Prefix(prefix)) => {
                first.command.get_or_insert_default().splice(0..0, prefix);
            }
            Some(Command::Default(command)) if template::has_no_command(first) => {
                first.command = Some(command);
            }
            _ => {}
        }
    }
}

fn add_variables(container: &mut Container, variables: &[EnvVar]) {
    let own = container.env.get_or_insert_default();
    let is_set = |name: &str| own.iter().any(|each| each.name == name);
    let missing = variables.iter().filter(|variable| !is_set(&variable.name));
    let missing: Vec<EnvVar> = missing.cloned().collect();
    // first, so that the user's own variables can refer to them
    own.splice(0..0, missing);
}

fn set_variables(container: &mut Container, variables: &[EnvVar]) {
    if variables.is_empty() {
        return;
    }
    let own = container.env.get_or_insert_default();
    own.retain(|each| variables.iter().all(|fixed| fixed.name != each.name));
    own.extend_from_slice(variables);
}
