//! Runs the scenarios of an end-to-end test binary (`harness = false`) one after the other against one cluster, and prints what
//! Rust's own test harness prints.

use std::{
    env, fmt,
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use crate::{Access, Cluster, Options, Result};

/// What a scenario returns.
pub type ScenarioResult = std::result::Result<(), Box<dyn std::error::Error>>;

/// One scenario.
pub struct Scenario {
    /// Its name: the promise it checks.
    pub name: &'static str,
    /// How long it may take.
    pub limit: Duration,
    /// What it does. It runs in the cluster's network.
    pub run: fn(&Cluster) -> ScenarioResult,
}

impl Scenario {
    /// A scenario that may take so many minutes.
    pub fn new(name: &'static str, minutes: u64, run: fn(&Cluster) -> ScenarioResult) -> Self {
        Self {
            name,
            limit: Duration::from_secs(60 * minutes),
            run,
        }
    }
}

/// Boots a cluster, enters its network and runs the scenarios whose names contain one of the arguments, or all of them.
///
/// A scenario that takes too long ends the whole binary, because it cannot be stopped; those after it count as failed.
pub fn main(options: impl FnOnce() -> Result<Options>, scenarios: &[Scenario]) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let filters: Vec<&str> = arguments
        .iter()
        .map(String::as_str)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let chosen: Vec<&Scenario> = scenarios
        .iter()
        .filter(|each| {
            filters.is_empty() || filters.iter().any(|filter| each.name.contains(filter))
        })
        .collect();
    if arguments.iter().any(|word| word == "--list") {
        chosen
            .iter()
            .for_each(|each| println!("{}: test", each.name));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let filtered = scenarios.len() - chosen.len();
    if chosen.is_empty() {
        return summary(Tally {
            passed: 0,
            failed: 0,
            filtered,
        });
    }
    let began = Instant::now();
    match options()
        .and_then(|options| Cluster::start(&options))
        .and_then(|cluster| cluster.join().map(|()| cluster))
    {
        Ok(cluster) => {
            println!("(the cluster took {:.1} s)", began.elapsed().as_secs_f32());
            let tally = run_all(&cluster, &chosen, filtered);
            if tally.failed > 0 {
                show_state(&cluster);
                if let Ok(run) = cluster.stop_and_keep_logs() {
                    println!("logs: {}", run.join("log").display());
                }
            } else if let Err(error) = cluster.stop() {
                eprintln!("stopping the cluster: {error}");
            }
            summary(tally)
        }
        Err(error) => {
            println!("the cluster did not start: {error}");
            summary(Tally {
                passed: 0,
                failed: chosen.len(),
                filtered,
            })
        }
    }
}

#[derive(Clone, Copy)]
struct Tally {
    passed: usize,
    failed: usize,
    filtered: usize,
}

fn run_all(cluster: &Cluster, chosen: &[&Scenario], filtered: usize) -> Tally {
    let mut tally = Tally {
        passed: 0,
        failed: 0,
        filtered,
    };
    for each in chosen {
        print!("test {} ... ", each.name);
        std::io::stdout().flush().ok();
        let began = Instant::now();
        let (done, watched) = mpsc::channel::<()>();
        let outcome = thread::scope(|scope| {
            scope.spawn(move || {
                if watched.recv_timeout(each.limit) == Err(RecvTimeoutError::Timeout) {
                    println!(
                        "FAILED\n{} took longer than {} s",
                        each.name,
                        each.limit.as_secs()
                    );
                    show_state(cluster);
                    println!("logs: {}", cluster.run_directory().join("log").display());
                    summary(Tally {
                        failed: chosen.len() - tally.passed,
                        ..tally
                    });
                    // the cluster ends with this process
                    std::process::exit(1);
                }
            });
            let outcome = catch_unwind(AssertUnwindSafe(|| (each.run)(cluster)));
            drop(done);
            outcome
        });
        match outcome {
            Ok(Ok(())) => {
                tally.passed += 1;
                println!("ok ({:.1} s)", began.elapsed().as_secs_f32());
            }
            Ok(Err(error)) => {
                tally.failed += 1;
                println!("FAILED\n{error}");
            }
            Err(_) => {
                tally.failed += 1;
                println!("FAILED");
            }
        }
    }
    tally
}

/// What a reader of a failure wants to see first.
fn show_state(cluster: &Cluster) {
    for args in [
        &["get", "all,infd,tj,budget,spend", "-A", "-o", "wide"][..],
        &["get", "events", "-A", "--sort-by=.lastTimestamp"],
    ] {
        match cluster.kubectl(args) {
            Ok(text) => println!("$ kubectl {}\n{text}", args.join(" ")),
            Err(error) => println!("$ kubectl {}\n{error}", args.join(" ")),
        }
    }
}

fn summary(tally: Tally) -> ExitCode {
    println!("\ntest result: {tally}");
    ExitCode::from(u8::from(tally.failed > 0))
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.failed == 0 { "ok" } else { "FAILED" };
        let Self {
            passed,
            failed,
            filtered,
        } = self;
        write!(
            f,
            "{word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {filtered} filtered out"
        )
    }
}
