//! What can go wrong in the harness.

use std::{io, path::PathBuf, time::Duration};

/// Result of the harness.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the harness. Each says what was being done and, where a program failed, the end of
/// what it wrote.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine lacks something that the harness needs.
    #[error("this machine is not ready for the harness:\n{0}")]
    Prerequisites(String),
    /// A file, directory or process of the operating system.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("{what} failed ({status})\n{tail}")]
    Failed {
        /// The program and its arguments.
        what: String,
        /// How it ended.
        status: String,
        /// The end of its output.
        tail: String,
    },
    /// Something took longer than it may.
    #[error("{what} took longer than {} s\n{tail}", .limit.as_secs())]
    Slow {
        /// What was waited for.
        what: String,
        /// The time limit.
        limit: Duration,
        /// The end of the log that should say why.
        tail: String,
    },
    /// There is no such cluster, or it has ended.
    #[error("no cluster `{name}` is running; start one with `cargo cluster --name {name} up` ({})", .run.display())]
    NotRunning {
        /// Its name.
        name: String,
        /// Where its state would be.
        run: PathBuf,
    },
    /// A cluster of that name runs already.
    #[error("cluster `{0}` is running already; stop it with `cargo cluster --name {0} down`")]
    Running(String),
    /// A file or the output of a program is not as expected.
    #[error("{what}: {why}")]
    Malformed {
        /// Which file or answer.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A signal asked the program to end.
    #[error("interrupted")]
    Interrupted,
    /// The Kubernetes client.
    #[error("Kubernetes client: {0}")]
    Client(String),
}

/// Adds what was being done to an [`io::Error`].
pub(crate) trait While<T> {
    /// `what` reads as "writing /x/y".
    fn while_(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> While<T> for io::Result<T> {
    fn while_(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io {
            what: what(),
            source,
        })
    }
}
