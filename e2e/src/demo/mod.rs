//! `cargo demo`: Bursar's whole job on a real cluster, told while it happens.
//!
//! | module | subject |
//! |---|---|
//! | `environment` | the cluster: one of the demo's own, or an existing one |
//! | `manifests` | the clients, the service, the job and the budget |
//! | `load_generator` | controls the pod that sends the requests |
//! | `training_steps` | what the workers computed |
//! | `sampler` | the state of the cluster, twice a second |
//! | `terminal` | the live view |
//! | `phases` | what happens, one after the other |
//! | `summary` | the numbers of a run |

mod environment;
mod load_generator;
mod manifests;
mod phases;
mod sampler;
mod summary;
mod terminal;
mod training_steps;

use std::{path::PathBuf, time::Duration};

use crate::{Error, Result, operator};
use environment::Environment;
use phases::Run;
use terminal::Terminal;

/// What the demo is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Leave everything up.
    pub keep: bool,
    /// Requests of the trace.
    pub requests: u32,
    /// Wake-ups after the one with which the replay begins.
    pub wakes: u32,
    /// Run on the user's cluster.
    pub existing: Option<ExistingCluster>,
}

/// A cluster of the user's.
#[derive(Debug, Clone)]
pub struct ExistingCluster {
    /// Its kubeconfig.
    pub kubeconfig: PathBuf,
    /// The image that its nodes can get, with a tag.
    pub image: String,
}

/// Runs the demo. `false` if it did not go as promised: a request was lost or not served while the budget had money, a training step was
/// lost or done twice, or wake-ups were slow.
///
/// # Errors
/// What failed, or what did not happen in time.
pub fn run(options: &Options) -> Result<bool> {
    let terminal = Terminal::new();
    let environment = match &options.existing {
        None => Environment::start_local(options.keep, &terminal)?,
        Some(existing) => {
            Environment::use_existing(&existing.kubeconfig, &existing.image, &terminal)?
        }
    };
    let outcome = run_in(&environment, options, &terminal);
    if options.keep {
        environment.print_usage();
    } else {
        environment.clean_up(outcome.is_ok(), &terminal);
    }
    outcome
}

fn run_in(environment: &Environment, options: &Options, terminal: &Terminal) -> Result<bool> {
    environment.start_clients(terminal)?;
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
    let served = runtime.block_on(async {
        let run = Run::start(cluster, workloads, terminal, options.requests).await?;
        let summary = run.phases(options.wakes).await?;
        summary.print(terminal);
        Ok(summary.is_good())
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
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
