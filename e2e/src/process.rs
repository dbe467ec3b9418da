//! Runs programs within bounds: every one has a time limit, and the end of its output becomes part
//! of the error.

use std::{
    ffi::OsStr,
    fs,
    io::{Read, Seek, SeekFrom},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result, While},
    interrupt,
};

/// How often a condition is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(20);
const TAIL_BYTES: u64 = 4_000;

/// The output of a program that succeeded.
#[derive(Debug, Clone)]
pub struct Output {
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

/// Runs `command` to its end.
///
/// # Errors
/// When it cannot start, ends with an error, or runs longer than `limit` (it is then killed).
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    run_while(command, limit, || Ok(()))
}

/// Runs `command` to its end as [`run`] does. `check` is called again and again meanwhile; its
/// error ends the program.
pub(crate) fn run_while(
    command: &mut Command,
    limit: Duration,
    check: impl FnMut() -> Result<()>,
) -> Result<Output> {
    let (status, output) = run_any(command, limit, check)?;
    if status.success() {
        return Ok(output);
    }
    Err(Error::Failed {
        what: command_line(command),
        status: status.to_string(),
        tail: end_of_text(&format!("{}{}", output.stdout, output.stderr), TAIL_BYTES),
    })
}

/// Runs `command` to its end, however it ends; a signal that [`interrupt`] caught kills it. `check`
/// is called again and again meanwhile; its error ends the program.
pub(crate) fn run_any(
    command: &mut Command,
    limit: Duration,
    mut check: impl FnMut() -> Result<()>,
) -> Result<(ExitStatus, Output)> {
    // Files instead of pipes: a pipe that nobody reads stops the program, and reading two of them
    // needs a thread.
    let file = || tempfile::tempfile().while_(|| "creating a temporary file".into());
    let (mut out, mut err) = (file()?, file()?);
    let share = |file: &fs::File| {
        file.try_clone()
            .while_(|| "sharing a temporary file".into())
    };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(share(&out)?)
        .stderr(share(&err)?)
        .spawn()
        .while_(|| format!("starting {}", command_line(command)))?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child
            .try_wait()
            .while_(|| format!("waiting for {}", command_line(command)))?
        {
            break Some(status);
        }
        if start.elapsed() > limit {
            end(&mut child);
            break None;
        }
        if let Err(error) = interrupt::check().and_then(|()| check()) {
            end(&mut child);
            return Err(error);
        }
        thread::sleep(POLL);
    };
    let output = Output {
        stdout: contents(&mut out)?,
        stderr: contents(&mut err)?,
    };
    match status {
        Some(status) => Ok((status, output)),
        None => Err(Error::Slow {
            what: command_line(command),
            limit,
            tail: end_of_text(&format!("{}{}", output.stdout, output.stderr), TAIL_BYTES),
        }),
    }
}

/// Calls `done` again and again until it is true.
///
/// # Errors
/// The error of `done`, or [`Error::Slow`] with the end of `log` after `limit`.
pub(crate) fn wait_until(
    what: &str,
    limit: Duration,
    log: &Path,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    while !done()? {
        if start.elapsed() > limit {
            return Err(Error::Slow {
                what: what.into(),
                limit,
                tail: tail(log),
            });
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// The end of a log file below its name, or why it cannot be read.
pub fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = fs::File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        Ok(text) => format!("--- end of {} ---\n{}", log.display(), text.trim_end()),
        Err(error) => format!("--- {} cannot be read: {error} ---", log.display()),
    }
}

/// The command line without the directory of the program.
pub(crate) fn command_line(command: &Command) -> String {
    let word = |word: &OsStr| word.to_string_lossy().into_owned();
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    std::iter::once(word(program))
        .chain(command.get_args().map(word))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Kills a child unless it has ended, and reaps it.
pub(crate) fn end(child: &mut Child) {
    child.kill().ok();
    child.wait().ok();
}

/// A process that may have ended. Its start time tells it from a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// Process number in the host's PID namespace.
    pub pid: i32,
    /// Clock ticks between the machine's boot and the process's start.
    pub started: u64,
}

impl Identity {
    /// The process with this number, if there is one that has not ended.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        (stat.state != 'Z' && stat.state != 'X').then_some(Self {
            pid,
            started: stat.started,
        })
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends SIGKILL, unless it has ended.
    pub fn kill(self) {
        if self.is_alive() {
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(self.pid),
                nix::sys::signal::Signal::SIGKILL,
            )
            .ok();
        }
    }
}

/// The one child of a process that forks once, such as `unshare --fork`.
pub(crate) fn only_child(parent: i32) -> Option<i32> {
    fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .find(|&pid| Stat::read(pid).is_some_and(|stat| stat.parent == parent))
}

/// Fields of `/proc/PID/stat`.
struct Stat {
    state: char,
    parent: i32,
    started: u64,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may hold anything; what follows it is separated by spaces and
        // starts with field 3.
        let mut fields = text[text.rfind(')')? + 1..].split_whitespace();
        Some(Self {
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            started: fields.nth(17)?.parse().ok()?,
        })
    }
}

fn contents(file: &mut fs::File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .while_(|| "reading a program's output".into())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn end_of_text(text: &str, bytes: u64) -> String {
    let from = text
        .len()
        .saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
    let from = (from..text.len())
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(text.len());
    text[from..].trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_runs_too_long_is_killed_and_its_output_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo begun; exec sleep 60"]);
        let error = run(&mut command, Duration::from_millis(300))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("took longer") && error.contains("begun"),
            "{error}"
        );
    }

    #[test]
    fn a_program_that_fails_says_what_it_wrote() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo why >&2; exit 3"]);
        let error = run(&mut command, Duration::from_secs(10))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("why"),
            "{error}"
        );
    }

    #[test]
    fn a_program_ends_when_what_it_waits_for_has_failed() {
        let mut command = Command::new("sleep");
        command.arg("60");
        let start = Instant::now();
        let failed = || {
            Err(Error::Malformed {
                what: "kubelet".into(),
                why: "ended".into(),
            })
        };
        let error = run_while(&mut command, Duration::from_secs(50), failed).unwrap_err();
        assert_eq!(error.to_string(), "kubelet: ended");
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_process_that_has_ended_is_not_alive() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(identity.is_alive());
        identity.kill();
        child.wait().unwrap();
        assert!(!identity.is_alive());
    }
}
