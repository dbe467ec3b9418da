//! Programs of this checkout that run in a cluster's namespaces without an image, such as an
//! operator whose processor time is measured.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    Cluster, Result,
    error::While,
    namespace::{self, Component},
    process::{self, Identity},
};

const START_LIMIT: Duration = Duration::from_secs(20);

/// A program that runs in a cluster's namespaces. It ends with the cluster, and when this is
/// dropped.
#[derive(Debug)]
pub struct Program {
    name: String,
    identity: Identity,
    component: Option<Component>,
}

impl Program {
    /// Starts `command`, whose program, arguments and environment count, in the namespaces of
    /// `cluster`. Its output is appended to `log/NAME.log` there.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(cluster: &Cluster, name: &str, command: &Command) -> Result<Self> {
        let mut inside = namespace::command(cluster.init(), command.get_program());
        inside.args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                inside.env(name, value);
            }
        }
        let log = log(cluster, name);
        let mut component = Component::start(name, &inside, None, log, Stdio::null())?;
        // nsenter forks into the PID namespace
        let identity = component.descendant(1, START_LIMIT)?;
        Ok(Self {
            name: name.to_owned(),
            identity,
            component: Some(component),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// An error with the end of its log when it has ended.
    ///
    /// # Errors
    /// [`crate::Error::Failed`] names it.
    pub fn check(&mut self) -> Result<()> {
        self.component.iter_mut().try_for_each(Component::check)
    }

    /// Sends SIGTERM and waits for its end.
    ///
    /// # Errors
    /// When it does not end within `limit`.
    pub fn terminate(mut self, limit: Duration) -> Result<()> {
        kill(Pid::from_raw(self.identity.pid), Signal::SIGTERM)
            .map_err(Into::into)
            .while_(|| format!("ending {}", self.name))?;
        let log = self.component.as_ref().map(|component| &component.log);
        let log = log.cloned().unwrap_or_default();
        let what = format!("the end of {}", self.name);
        process::wait_until(&what, limit, &log, || Ok(!self.identity.is_alive()))?;
        self.component.take().into_iter().for_each(Component::reap);
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(component) = self.component.take() {
            self.identity.kill();
            component.reap();
        }
    }
}

/// Where a program's output is.
fn log(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.run_directory().join(format!("log/{name}.log"))
}

/// Writes a file into the cluster's directory, and says where it is.
///
/// # Errors
/// When it cannot be written.
pub fn write_file(cluster: &Cluster, name: &str, contents: &[u8]) -> Result<PathBuf> {
    let path: &Path = &cluster.run_directory().join(name);
    fs::write(path, contents).while_(|| format!("writing {}", path.display()))?;
    Ok(path.to_owned())
}
