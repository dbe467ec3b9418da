//! Runs suites of scenarios as tests.
//!
//! A suite is a list of scenarios that share one cluster and run on it in their order. Each suite is a process of its own, this test
//! program started again, because a process can only be in the network of one cluster ([`Cluster::join`]). Several suites run side by
//! side, the first ones of the list first. Filters, output and exit code are those of Rust's own test harness, by `libtest-mimic`;
//! a suite of which no scenario is chosen boots nothing.

mod results;
mod schedule;
mod suite_process;

use std::{env, fmt, process::ExitCode, sync::Arc, thread, time::Duration};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::{Cluster, NodeOptions, Result, addons::Addon};
use results::{Outcome, Results};
use schedule::Chosen;

/// The first argument of the process of a suite.
const RUN_SUITE: &str = "--run-suite";

/// What a scenario returns.
pub type ScenarioResult = std::result::Result<(), Box<dyn std::error::Error>>;

/// One scenario.
pub struct Scenario {
    /// Its name: the promise it checks.
    pub name: &'static str,
    /// How long it may take. A scenario that takes longer ends its suite, because it cannot be stopped.
    pub limit: Duration,
    run: Run,
}

enum Run {
    OnCluster(fn(&Cluster) -> ScenarioResult),
    WithoutCluster(fn() -> ScenarioResult),
}

impl Scenario {
    /// A scenario that may take so many minutes. It runs in the network of the suite's cluster.
    pub const fn new(
        name: &'static str,
        minutes: u64,
        run: fn(&Cluster) -> ScenarioResult,
    ) -> Self {
        Self {
            name,
            limit: Duration::from_secs(60 * minutes),
            run: Run::OnCluster(run),
        }
    }

    /// A scenario that needs no cluster of the suite. Where it is the only kind that is chosen, none is booted.
    pub const fn without_cluster(
        name: &'static str,
        minutes: u64,
        run: fn() -> ScenarioResult,
    ) -> Self {
        Self {
            name,
            limit: Duration::from_secs(60 * minutes),
            run: Run::WithoutCluster(run),
        }
    }
}

/// What a suite needs of the programs of this checkout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Images {
    /// Nothing.
    None,
    /// They are built before the suite starts, and its scenarios bring them where they need them.
    Built,
    /// The nodes have the images of the tests from their start.
    Loaded,
}

/// Scenarios that share a cluster and run on it in this order.
pub struct Suite {
    /// Its name; its tests are called `NAME::SCENARIO`, its cluster `test-NAME`.
    pub name: &'static str,
    /// The cluster's nodes; none for a control plane alone.
    pub nodes: Vec<NodeOptions>,
    /// Whether its kube-scheduler places gangs as a whole.
    pub gang_scheduling: bool,
    /// Which programs of this checkout it needs.
    pub images: Images,
    /// Other projects' controllers, whose images the nodes have from their start too.
    pub addons: &'static [Addon],
    /// What it needs besides, made before its cluster, in whose network nothing can be downloaded.
    pub setup: Option<fn() -> Result<()>>,
    /// The scenarios.
    pub scenarios: Vec<Scenario>,
}

impl Suite {
    fn test(&self, scenario: &Scenario) -> String {
        format!("{}::{}", self.name, scenario.name)
    }

    /// Whether these of its scenarios need its cluster.
    fn boots(&self, chosen: &[&str]) -> bool {
        let mut scenarios = self.scenarios.iter();
        scenarios.any(|each| chosen.contains(&each.name) && matches!(each.run, Run::OnCluster(_)))
    }

    /// The name of its cluster.
    fn cluster(&self) -> String {
        format!("test-{}", self.name.replace('_', "-"))
    }
}

/// The error of a scenario that cannot run on this machine, with the reason: it counts as ignored.
#[derive(Debug)]
pub struct Ignored(pub String);

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ignored: {}", self.0)
    }
}

impl std::error::Error for Ignored {}

/// Runs the suites' scenarios that the program's arguments choose.
pub fn run(suites: &[Suite]) -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    if let Some((RUN_SUITE, rest)) = words
        .split_first()
        .map(|(first, rest)| (first.as_str(), rest))
    {
        return suite_process::run(suites, rest);
    }
    let mut arguments = Arguments::from_args();
    let results = Arc::new(Results::default());
    let (mut trials, mut chosen) = (Vec::new(), Vec::new());
    for suite in suites {
        let mut scenarios = Vec::new();
        for scenario in &suite.scenarios {
            let trial = trial(suite.test(scenario), &results);
            if !arguments.is_filtered_out(&trial) && !arguments.is_ignored(&trial) {
                scenarios.push(scenario.name);
            }
            trials.push(trial);
        }
        if !scenarios.is_empty() {
            chosen.push(Chosen {
                suite: suite.name,
                images: suite.images,
                addons: suite.addons,
                setup: suite.setup,
                boots: suite.boots(&scenarios),
                scenarios,
            });
        }
    }
    if arguments.list || chosen.is_empty() {
        return libtest_mimic::run(&arguments, trials).exit_code();
    }
    // `--test-threads` is the number of suites at a time; here each scenario has a thread that waits for its result
    let jobs = schedule::jobs(arguments.test_threads);
    arguments.test_threads = Some(trials.len().max(2));
    let scheduler = {
        let (results, chosen) = (Arc::clone(&results), chosen.clone());
        thread::spawn(move || {
            schedule::run_and_close(&results, || schedule::run(&chosen, jobs, &results));
        })
    };
    let conclusion = libtest_mimic::run(&arguments, trials);
    scheduler.join().ok();
    schedule::print_times(&chosen, jobs, &results);
    conclusion.exit_code()
}

/// A test that ends when the process of its suite has said how its scenario ended.
fn trial(test: String, results: &Arc<Results>) -> Trial {
    let results = Arc::clone(results);
    let name = test.clone();
    Trial::ignorable_test(name, move || match results.wait(&test).outcome {
        Outcome::Passed => Ok(Completion::Completed),
        Outcome::Ignored(reason) => Ok(Completion::ignored_with(reason)),
        Outcome::Failed(why) => Err(Failed::from(why)),
    })
}
