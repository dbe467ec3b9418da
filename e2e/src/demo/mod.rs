//! `cargo demo`: Bursar's whole job on a real cluster, told while it happens.
//!
//! | module | subject |
//! |---|---|
//! | `place` | the cluster: one of its own, or the user's |
//! | `manifests` | the clients, the service, the job and the budget |
//! | `client` | orders to the pod that sends the requests |
//! | `journal` | what the workers computed |
//! | `watch` | what the cluster looks like now |
//! | `screen` | the live view |
//! | `acts` | what happens, one after the other |
//! | `summary` | what it came to |

mod acts;
mod client;
mod journal;
mod manifests;
mod place;
mod screen;
mod summary;
mod watch;

use std::{path::PathBuf, time::Duration};

use crate::{Error, Result, operator};
use acts::Stage;
use place::Place;
use screen::Screen;

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
    pub theirs: Option<Theirs>,
}

/// A cluster of the user's.
#[derive(Debug, Clone)]
pub struct Theirs {
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
    let screen = Screen::new();
    let place = match &options.theirs {
        None => Place::boot(options.keep, &screen)?,
        Some(theirs) => Place::visit(&theirs.kubeconfig, &theirs.image, &screen)?,
    };
    let outcome = perform(&place, options, &screen);
    if options.keep {
        place.keep();
    } else {
        place.leave(outcome.is_ok(), &screen);
    }
    outcome
}

fn perform(place: &Place, options: &Options, screen: &Screen) -> Result<bool> {
    place.start_clients(screen)?;
    let (cluster, setting) = (place.access(), place.setting());
    screen.say("installing Bursar with helm: 2 controllers, 2 gateways");
    operator::install(cluster, &setting.image, &["log.format=text"])?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| Error::Io {
            what: "starting threads".into(),
            source,
        })?;
    let served = runtime.block_on(async {
        let stage = Stage::set(cluster, setting, screen, options.requests).await?;
        let facts = stage.perform(options.wakes).await?;
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
