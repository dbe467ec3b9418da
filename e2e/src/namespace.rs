//! Runs programs in the namespaces of another process.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::{
    cgroup::Cgroup,
    error::{Error, Result, While},
    process::{self, Identity},
};

/// A shell script that moves itself into cgroups and then becomes the program.
const ENTER_CGROUPS: &str =
    r#"while [ "$1" != -- ]; do echo 0 > "$1" || exit; shift; done; shift; exec "$@""#;

/// A command that runs in all namespaces of `init`, with `init`'s view of the file system.
pub(crate) fn command(init: Identity, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    let target = format!("--target={}", init.pid);
    command
        .args([
            &target, "--net", "--pid", "--mount", "--uts", "--ipc", "--cgroup", "--",
        ])
        .arg(program);
    command
}

/// A command that runs in the network of `init`, with the file system and the working directory of
/// this process.
pub(crate) fn network_command(init: Identity, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/proc/{}/ns/net", init.pid))
        .arg("--")
        .arg(program);
    command
}

/// A program that runs in the background, and its log.
#[derive(Debug)]
pub(crate) struct Component {
    pub(crate) name: String,
    pub(crate) log: PathBuf,
    child: Child,
}

impl Component {
    /// Starts `command` in a session of its own, so that no signal of a terminal reaches it.
    pub(crate) fn start(
        name: &str,
        command: &Command,
        cgroup: Option<&Cgroup>,
        log: PathBuf,
        stdin: Stdio,
    ) -> Result<Self> {
        let mut words: Vec<OsString> = cgroup
            .iter()
            .flat_map(|group| group.procs_files())
            .map(Into::into)
            .collect();
        words.push("--".into());
        words.push(command.get_program().into());
        words.extend(command.get_args().map(Into::into));
        let mut started = Command::new("setsid");
        started.args(["sh", "-c", ENTER_CGROUPS, "sh"]).args(words);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => started.env(name, value),
                None => started.env_remove(name),
            };
        }
        let opening = || format!("opening {}", log.display());
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .while_(opening)?;
        let err = out.try_clone().while_(opening)?;
        let child = started
            .stdin(stdin)
            .stdout(out)
            .stderr(err)
            .spawn()
            .while_(|| format!("starting {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            log,
            child,
        })
    }

    pub(crate) fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// The process that was started: `nsenter` or `unshare`, not the program itself.
    fn pid(&self) -> Option<i32> {
        i32::try_from(self.child.id()).ok()
    }

    /// An error when it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self
            .child
            .try_wait()
            .while_(|| format!("waiting for {}", self.name))?
        {
            None => Ok(()),
            Some(status) => Err(Error::Failed {
                what: self.name.clone(),
                status: status.to_string(),
                tail: process::tail(&self.log),
            }),
        }
    }

    /// The descendant of the started process after so many forks.
    pub(crate) fn descendant(&mut self, forks: usize, limit: Duration) -> Result<Identity> {
        let mut found = None;
        let (what, log) = (format!("first process of {}", self.name), self.log.clone());
        process::wait_until(&what, limit, &log, || {
            self.check()?;
            found = (0..forks)
                .try_fold(self.pid(), |pid, _| Some(process::only_child(pid?)))
                .flatten()
                .and_then(Identity::of);
            Ok(found.is_some())
        })?;
        found.ok_or_else(|| Error::Malformed {
            what,
            why: "ended at once".into(),
        })
    }

    /// Waits a second for its end, then kills it.
    pub(crate) fn reap(mut self) {
        let log = self.log.clone();
        process::wait_until(&self.name, Duration::from_secs(1), &log, || {
            Ok(self.child.try_wait().is_ok_and(|s| s.is_some()))
        })
        .ok();
        process::end(&mut self.child);
    }
}

/// Waits until a start script has made its file. The end of the script is an error.
pub(crate) fn wait_for_file(component: &mut Component, file: &Path, limit: Duration) -> Result<()> {
    let (name, log) = (component.name.clone(), component.log.clone());
    process::wait_until(&name, limit, &log, || {
        component.check()?;
        Ok(file.exists())
    })
}
