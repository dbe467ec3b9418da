//! The process of a suite: boots its cluster, enters the cluster's network, runs the chosen scenarios in their order, and tells the
//! process that started it how each ended.

use std::{
    any::Any,
    env, fs,
    io::{Read, Seek, SeekFrom, Write},
    os::fd::AsFd,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::{prctl, signal::Signal};

use super::{
    Ignored, Images, Run, Scenario, ScenarioResult, Suite,
    results::{Message, Outcome, Report},
};
use crate::{
    Access, Cluster, Lifetime, Options, Result,
    error::{Error, While},
    image::TestPrograms,
};

/// Set to anything, leaves clusters up when their suites have ended.
const KEEP: &str = "BURSAR_KEEP_CLUSTERS";

/// Arguments are the suite's name, the file that is this process's standard error, and the names of scenarios.
pub(super) fn run(suites: &[Suite], arguments: &[String]) -> ExitCode {
    match listen(suites, arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn listen(suites: &[Suite], arguments: &[String]) -> Result<()> {
    let unknown = || Error::Malformed {
        what: "arguments of a suite's process".into(),
        why: format!("{arguments:?}"),
    };
    let [name, log, names @ ..] = arguments else {
        return Err(unknown());
    };
    let suite = suites
        .iter()
        .find(|suite| suite.name == name)
        .ok_or_else(unknown)?;
    // nobody would stop the cluster of a run that was killed
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(Into::into)
        .while_(|| "asking for a signal at the parent's end".into())?;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let chosen: Vec<&Scenario> = suite
        .scenarios
        .iter()
        .filter(|scenario| names.contains(&scenario.name))
        .collect();
    let reporter = Reporter::new(Path::new(log))?;
    if !suite.boots(&names) {
        for scenario in chosen {
            reporter.run(scenario, None);
        }
        return Ok(());
    }
    let began = Instant::now();
    let cluster = match boot(suite) {
        Ok(cluster) => cluster,
        Err(error) => {
            for scenario in chosen {
                let why = format!("the cluster did not start: {error}");
                reporter.ended(
                    scenario.name,
                    Outcome::Failed(why),
                    Duration::ZERO,
                    String::new(),
                );
            }
            return Ok(());
        }
    };
    reporter.send(&Message::Booted(began.elapsed().as_secs_f32()));
    let mut failed = false;
    for scenario in chosen {
        failed |= reporter.run(scenario, Some((&cluster, !failed)));
    }
    if is_kept() {
        return Ok(());
    }
    if failed {
        cluster.stop_and_keep_logs().map(drop)
    } else {
        cluster.stop()
    }
}

fn is_kept() -> bool {
    env::var_os(KEEP).is_some()
}

fn boot(suite: &Suite) -> Result<Cluster> {
    let mut images = match suite.images {
        Images::Loaded => TestPrograms::get()?.images,
        Images::None | Images::Built => Vec::new(),
    };
    for addon in suite.addons {
        images.push(addon.image()?);
    }
    let cluster = Cluster::start(&Options {
        nodes: suite.nodes.clone(),
        gang_scheduling: suite.gang_scheduling,
        images,
        lifetime: if is_kept() {
            Lifetime::Detached
        } else {
            Lifetime::Owner
        },
        ..Options::new(&suite.cluster())
    })?;
    cluster.join()?;
    Ok(cluster)
}

/// Tells the parent process.
struct Reporter {
    /// What was standard output when the process started.
    parent: Mutex<fs::File>,
    log: PathBuf,
}

impl Reporter {
    /// Standard output becomes the parent's ear; what scenarios print goes to standard error from here on.
    fn new(log: &Path) -> Result<Self> {
        let parent = std::io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .while_(|| "sharing standard output".into())?;
        nix::unistd::dup2_stdout(std::io::stderr())
            .map_err(Into::into)
            .while_(|| "redirecting standard output".into())?;
        Ok(Self {
            parent: Mutex::new(parent.into()),
            log: log.to_owned(),
        })
    }

    fn send(&self, message: &Message) {
        let Ok(mut line) = serde_json::to_vec(message) else {
            return;
        };
        line.push(b'\n');
        // without a parent nobody wants to know
        if let Ok(mut parent) = self.parent.lock() {
            parent.write_all(&line).ok();
        }
    }

    fn ended(&self, scenario: &str, outcome: Outcome, took: Duration, output: String) {
        self.send(&Message::Ended {
            scenario: scenario.to_owned(),
            report: Report {
                outcome,
                seconds: took.as_secs_f32(),
                output,
            },
        });
    }

    /// Runs a scenario and reports how it ended; says whether it failed. The state of the cluster is shown on request.
    fn run(&self, scenario: &Scenario, cluster: Option<(&Cluster, bool)>) -> bool {
        let began = Instant::now();
        let from = fs::metadata(&self.log).map_or(0, |file| file.len());
        let (done, watched) = mpsc::channel::<()>();
        let fail = |why: &str| {
            let took = began.elapsed();
            let output = self.printed_since(from);
            // the parent shows failures at the end only
            eprintln!("{} failed: {why}", scenario.name);
            let mut text = format!("{why}\n{output}");
            if let Some((cluster, shows_state)) = cluster {
                if shows_state {
                    text += &state(cluster);
                }
                text += &format!("logs: {}\n", cluster.run_directory().join("log").display());
            }
            text += &format!("output of the suite: {}", self.log.display());
            self.ended(scenario.name, Outcome::Failed(text), took, output);
        };
        let result = thread::scope(|scope| {
            let fail = &fail;
            scope.spawn(move || {
                if watched.recv_timeout(scenario.limit) == Err(RecvTimeoutError::Timeout) {
                    fail(&format!(
                        "it took longer than {} s",
                        scenario.limit.as_secs()
                    ));
                    // the cluster ends with this process
                    std::process::exit(1);
                }
            });
            let result = catch_unwind(AssertUnwindSafe(|| {
                call(scenario, cluster.map(|(it, _)| it))
            }));
            drop(done);
            result
        });
        match result {
            Ok(Ok(())) => {
                let output = self.printed_since(from);
                self.ended(scenario.name, Outcome::Passed, began.elapsed(), output);
                false
            }
            Ok(Err(error)) => match error.downcast::<Ignored>() {
                Ok(ignored) => {
                    let outcome = Outcome::Ignored(ignored.0);
                    self.ended(scenario.name, outcome, began.elapsed(), String::new());
                    false
                }
                Err(error) => {
                    fail(&error.to_string());
                    true
                }
            },
            Err(panic) => {
                fail(&panic_message(panic.as_ref()));
                true
            }
        }
    }

    /// What this process has printed since the log had this length.
    fn printed_since(&self, from: u64) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = fs::File::open(&self.log)?;
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn call(scenario: &Scenario, cluster: Option<&Cluster>) -> ScenarioResult {
    match (&scenario.run, cluster) {
        (Run::WithoutCluster(run), _) => run(),
        (Run::OnCluster(run), Some(cluster)) => run(cluster),
        (Run::OnCluster(_), None) => Err("the suite has no cluster".into()),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}

/// What a reader of a failure wants to see first.
fn state(cluster: &Cluster) -> String {
    let mut text = String::new();
    for args in [
        &["get", "all,infd,tj,budget,spend", "-A", "-o", "wide"][..],
        &["get", "events", "-A", "--sort-by=.lastTimestamp"],
    ] {
        let answer = cluster
            .kubectl(args)
            .unwrap_or_else(|error| error.to_string());
        text += &format!("$ kubectl {}\n{answer}\n", args.join(" "));
    }
    text
}
