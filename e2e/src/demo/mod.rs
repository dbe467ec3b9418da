//! `cargo demo`: Bursar's whole job on a real cluster, told while it happens.
//!
//! | module | subject |
//! |---|---|
//! | `manifests` | the service, the job and the budget |
//! | `replay` | the trace, and what became of its requests |
//! | `watch` | what the cluster looks like now |
//! | `screen` | the live view |
//! | `acts` | what happens, one after the other |
//! | `summary` | what it came to |

mod acts;
mod manifests;
mod replay;
mod screen;
mod summary;
mod watch;

use std::time::Duration;

use crate::{
    Cluster, Error, Lifetime, NodeOptions, Result,
    image::{self, Program},
    operator,
};
use acts::Stage;
use screen::Screen;

/// The demo's cluster.
const NAME: &str = "demo";
const GPUS: u32 = 8;

/// What the demo is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Leave the cluster up.
    pub keep: bool,
    /// Requests of the trace.
    pub requests: u32,
}

/// Runs the demo. `false` if a request was lost or not served while the budget had money.
///
/// # Errors
/// What failed, or what did not happen in time.
pub fn run(options: &Options) -> Result<bool> {
    let screen = Screen::new();
    screen.say("building the operator, the model server and the trainer into images");
    let images = image::from_checkout(&Program::ALL)?;
    screen.say(&format!(
        "starting a Kubernetes cluster with a node of {GPUS} H100 (real but for the GPUs' silicon)"
    ));
    let cluster = Cluster::start(&crate::Options {
        nodes: vec![NodeOptions::h100(GPUS)],
        images,
        lifetime: if options.keep {
            Lifetime::Detached
        } else {
            Lifetime::Owner
        },
        ..crate::Options::new(NAME)
    })
    .map_err(|error| match error {
        Error::Running(name) => Error::Malformed {
            what: format!("a cluster `{name}` is still up from an earlier demo"),
            why: format!("stop it with `cargo cluster --name {name} down`"),
        },
        other => other,
    })?;
    let outcome = perform(&cluster, options, &screen);
    if options.keep {
        println!(
            "\nthe cluster stays up:\n  cargo cluster --name {NAME} enter kubectl get infd -A\n  cargo cluster --name {NAME} down"
        );
    } else {
        let stopped = if outcome.is_ok() {
            cluster.stop()
        } else {
            cluster
                .stop_and_keep_logs()
                .map(|run| eprintln!("logs: {}", run.join("log").display()))
        };
        if let Err(error) = stopped {
            eprintln!("stopping the cluster: {error}");
        }
    }
    outcome
}

fn perform(cluster: &Cluster, options: &Options, screen: &Screen) -> Result<bool> {
    // threads stay in the network in which they start
    cluster.join()?;
    screen.say("installing Bursar with helm: 2 controllers, 2 gateways");
    operator::install(cluster, &["log.format=text"])?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| Error::Io {
            what: "starting threads".into(),
            source,
        })?;
    let served = runtime.block_on(async {
        let stage = Stage::set(cluster, screen, options.requests).await?;
        let facts = stage.perform().await?;
        facts.print(screen);
        Ok(facts.is_good())
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    let what = if served.is_ok() {
        "infd,tj,budget,spend"
    } else {
        "all,infd,tj,budget,spend"
    };
    match cluster.kubectl(&["get", what, "-A"]) {
        Ok(text) => screen.show(&format!("\n$ kubectl get {what} -A\n{text}")),
        Err(error) => screen.show(&format!("\n$ kubectl get {what} -A\n{error}")),
    }
    served
}
