//! `cargo demo`: Bursar's whole job on a real cluster, shown while it happens.
//!
//! | module | subject |
//! |---|---|
//! | `environment` | the cluster: one of the demo's own, or an existing one |
//! | `pretended_gpus` | GPUs by status for an existing cluster without any |
//! | `manifests` | the clients, the service, the job and the budget |
//! | `load_generator` | controls the pod that sends the requests |
//! | `pod_logs` | follows the logs that `training_steps` and `wake_ups` read |
//! | `sampler` | the state of the cluster, twice a second |
//! | `terminal` | the live view |
//! | `phases` | what happens, one after the other |
//! | `summary` | the numbers of a run |
//! | `journal` | the format of a run's journal, which the `recorder` writes |
//! | `timeline` | draws a journal |

mod environment;
mod journal;
mod load_generator;
mod manifests;
mod phases;
mod pod_logs;
mod pretended_gpus;
mod recorder;
mod sampler;
mod summary;
mod terminal;
mod timeline;
mod training_steps;
mod wake_ups;

use std::{
    fs,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{Error, Result, access::Foreign, error::While, interrupt, operator};
use environment::Environment;
use journal::Journal;
use phases::Run;
use recorder::Recorder;
use terminal::Terminal;

/// The options of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Leave everything running.
    pub keep: bool,
    /// Requests of the trace.
    pub requests: u32,
    /// Wake-ups after the one with which the replay begins.
    pub wakes: u32,
    /// An existing cluster to run on.
    pub existing: Option<ExistingCluster>,
    /// Where to write the run's journal.
    pub journal: Option<PathBuf>,
    /// Where to draw the run.
    pub svg: Option<PathBuf>,
}

/// An existing cluster.
#[derive(Debug, Clone)]
pub struct ExistingCluster {
    /// Its kubeconfig.
    pub kubeconfig: PathBuf,
    /// The image that its nodes can get, with a tag.
    pub image: String,
    /// GPUs that each plain node gets by its status, if the cluster has none.
    pub pretend_gpus: Option<u32>,
}

/// Runs the demo. `false` if it did not go as promised: a request was lost or not served while the
/// budget had money, a training step was lost or done twice, or wake-ups were not measured.
///
/// # Errors
/// The first failure, or the state that was not reached in time.
pub fn run(options: &Options) -> Result<bool> {
    let terminal = Terminal::new();
    let environment = match &options.existing {
        None => Environment::start_local(options.keep, &terminal)?,
        Some(existing) => {
            // what is made there does not end with this process
            interrupt::catch()?;
            Environment::use_existing(existing, &terminal)?
        }
    };
    // a panic must not leave everything in the cluster of a user
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        run_in(&environment, options, &terminal)
    }));
    let outcome = outcome.unwrap_or_else(|_| {
        Err(Error::Malformed {
            what: "the demo".into(),
            why: "panicked; its message is above".into(),
        })
    });
    // a program that a signal ended has failed with words of its own
    let outcome = interrupt::check().and(outcome);
    interrupt::reset();
    if options.keep {
        environment.print_usage(&terminal);
        return outcome;
    }
    let removed = environment.clean_up(outcome.is_ok(), &terminal);
    if let (Err(_), Err(error)) = (&outcome, &removed) {
        terminal.print_error(&error.to_string());
    }
    after_clean_up(outcome, removed)
}

/// The outcome of a run with its clean-up: a demo that leaves something has failed.
fn after_clean_up(outcome: Result<bool>, removed: Result<()>) -> Result<bool> {
    let is_good = outcome?;
    removed.map(|()| is_good)
}

/// Takes back the GPUs that an interrupted demo pretended on the cluster of this kubeconfig, and
/// returns the names of the nodes.
///
/// # Errors
/// The first node that could not be read or written.
pub fn take_back_gpus(kubeconfig: &Path) -> Result<Vec<String>> {
    pretended_gpus::take_back(&Foreign::new(kubeconfig)?)
}

/// Draws the journal of an earlier run.
///
/// # Errors
/// When the journal cannot be read or the picture cannot be written.
pub fn draw(journal: &Path, svg: &Path) -> Result<()> {
    write(svg, &timeline::draw(&Journal::read(journal)?))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).while_(|| format!("writing {}", path.display()))
}

fn run_in(environment: &Environment, options: &Options, terminal: &Terminal) -> Result<bool> {
    environment.start_clients(terminal)?;
    environment.pretend_gpus(terminal)?;
    let (cluster, workloads) = (environment.cluster(), environment.workloads());
    terminal.log("installing Bursar with helm: 2 controllers, 2 gateways");
    operator::install(cluster, &workloads.image, &["log.format=text"])?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| Error::Io {
            what: "starting threads".into(),
            source,
        })?;
    let journal = Journal::new(options.requests, manifests::SPEEDUP, workloads.max_replicas);
    let recorder = Recorder::new(journal);
    let served = runtime.block_on(async {
        let run = async {
            let recorder = recorder.clone();
            let run = Run::start(cluster, workloads, terminal, recorder, options.requests).await?;
            let summary = run.phases(options.wakes).await?;
            summary.print(terminal);
            Ok(summary.is_good())
        };
        tokio::select! {
            served = run => served,
            interrupted = interrupt::wait() => Err(interrupted),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    interrupt::check()?;
    if let Some(path) = &options.journal {
        write(path, &recorder.journal().to_json_lines()?)?;
    }
    if let Some(path) = &options.svg {
        write(path, &timeline::draw(&recorder.journal()))?;
    }
    let what = if served.is_ok() {
        "infd,tj,budget,spend"
    } else {
        "all,infd,tj,budget,spend"
    };
    match cluster.kubectl(&["get", what, "-A"]) {
        Ok(text) => terminal.print(&format!("\n$ kubectl get {what} -A\n{text}")),
        Err(error) => terminal.print(&format!("\n$ kubectl get {what} -A\n{error}")),
    }
    served
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demo_that_leaves_something_has_failed() {
        let left = || Err(Error::Client("left".into()));
        for (outcome, removed, expected) in [
            (Ok(true), Ok(()), Ok(true)),
            (Ok(false), Ok(()), Ok(false)),
            (Ok(true), left(), Err("Kubernetes client: left")),
            (Ok(false), left(), Err("Kubernetes client: left")),
            (Err(Error::Interrupted), left(), Err("interrupted")),
        ] {
            let ended = after_clean_up(outcome, removed).map_err(|error| error.to_string());
            assert_eq!(ended, expected.map_err(str::to_owned));
        }
    }
}
