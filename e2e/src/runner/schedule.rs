//! Starts the processes of suites, several at a time, and collects their results.

use std::{
    fs,
    io::{BufRead, BufReader},
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    process::{Command, Stdio},
    sync::Mutex,
    thread,
};

use super::{
    Images, RUN_SUITE,
    results::{Message, Outcome, Report, Results},
};
use crate::{
    addons::Addon,
    cache,
    error::{Result, While},
    image::{self, TestPrograms},
    process, setup,
};

/// Memory that a cluster needs with its pods.
const SUITE_KIB: u64 = 1_500 * 1024;
/// Scenarios wait most of the time, so that a core runs more than one suite.
const SUITES_PER_CORE: usize = 2;

/// What was chosen of a suite.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub(super) suite: &'static str,
    pub(super) images: Images,
    pub(super) addons: &'static [Addon],
    pub(super) setup: Option<fn() -> Result<()>>,
    pub(super) boots: bool,
    pub(super) scenarios: Vec<&'static str>,
}

/// How many suites run at a time: as many as were asked for, or as the machine's cores and free memory allow.
pub(super) fn jobs(asked: Option<usize>) -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let room = free_kib().map_or(1, |free| {
        usize::try_from(free / SUITE_KIB).unwrap_or(usize::MAX)
    });
    asked
        .unwrap_or_else(|| room.min(cores * SUITES_PER_CORE))
        .max(1)
}

fn free_kib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Runs all that was chosen, and posts a report for each scenario.
pub(super) fn run(chosen: &[Chosen], jobs: usize, results: &Results) {
    let programs = match prepare(chosen) {
        Ok(programs) => programs,
        Err(error) => {
            for each in chosen {
                fail_rest(each, results, &error.to_string());
            }
            return;
        }
    };
    let queue = Mutex::new(chosen.iter());
    let next = || queue.lock().ok()?.next();
    thread::scope(|scope| {
        for _ in 0..jobs.min(chosen.len()) {
            scope.spawn(|| {
                while let Some(each) = next() {
                    let run = || run_suite(each, programs.as_deref(), results);
                    let why = match catch_panic(run) {
                        Ok(ended) => ended.unwrap_or_else(|error| error.to_string()),
                        Err(why) => why,
                    };
                    fail_rest(each, results, &why);
                }
            });
        }
    });
}

/// Runs the scheduler to its end. Whatever that is, no test waits for a report afterwards.
pub(super) fn run_and_close(results: &Results, run: impl FnOnce()) {
    let why = match catch_panic(run) {
        Ok(()) => "the scheduler ended without a report of this scenario".to_owned(),
        Err(why) => why,
    };
    results.close(why);
}

/// The result of `run`, or what its panic says.
fn catch_panic<T>(run: impl FnOnce() -> T) -> std::result::Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        format!("the scheduler panicked: {}", text.unwrap_or("no text"))
    })
}

/// Builds once what all suites need, where its progress can be seen; returns the programs of this checkout for [`image`].
fn prepare(chosen: &[Chosen]) -> Result<Option<String>> {
    if chosen.iter().any(|each| each.boots) {
        setup()?;
    }
    // before any suite runs, since a build takes all cores
    for addon in chosen.iter().flat_map(|each| each.addons) {
        addon.image()?;
    }
    if !chosen.iter().any(|each| each.images != Images::None) {
        return Ok(None);
    }
    TestPrograms::get()?.to_json().map(Some)
}

/// The file with all that the process of a suite prints.
fn log(suite: &str) -> Result<PathBuf> {
    let directory = cache::directory()?.join("scenarios");
    fs::create_dir_all(&directory).while_(|| format!("creating {}", directory.display()))?;
    Ok(directory.join(format!("{suite}.log")))
}

/// Runs the process of a suite to its end, and says how it ended.
fn run_suite(chosen: &Chosen, programs: Option<&str>, results: &Results) -> Result<String> {
    if let Some(setup) = chosen.setup {
        setup()?;
    }
    let path = log(chosen.suite)?;
    let file = fs::File::create(&path).while_(|| format!("creating {}", path.display()))?;
    // the file itself may have been written anew since
    let mut command = Command::new("/proc/self/exe");
    command
        .args([RUN_SUITE, chosen.suite])
        .arg(&path)
        .args(&chosen.scenarios)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(file);
    if let Some(programs) = programs {
        command.env(image::PROGRAMS, programs);
    }
    let mut child = command
        .spawn()
        .while_(|| format!("starting suite {}", chosen.suite))?;
    let lines = child.stdout.take().map(BufReader::new);
    for line in lines.into_iter().flat_map(BufRead::lines) {
        let line = line.while_(|| format!("listening to suite {}", chosen.suite))?;
        match serde_json::from_str(&line) {
            Ok(Message::Booted(seconds)) => results.booted(chosen.suite, seconds),
            Ok(Message::Ended { scenario, report }) => {
                results.post(format!("{}::{scenario}", chosen.suite), report);
            }
            Err(error) => eprintln!("suite {} said {line:?}: {error}", chosen.suite),
        }
    }
    let status = child
        .wait()
        .while_(|| format!("waiting for suite {}", chosen.suite))?;
    let tail = process::tail(&path);
    Ok(format!(
        "the suite ended before this scenario did ({status})\n{tail}"
    ))
}

/// Scenarios without a report fail.
fn fail_rest(chosen: &Chosen, results: &Results, why: &str) {
    for scenario in &chosen.scenarios {
        let test = format!("{}::{scenario}", chosen.suite);
        if results.get(&test).is_none() {
            results.post(test, Report::failed(why));
        }
    }
}

/// Prints where the time went, and what scenarios that passed have printed.
pub(super) fn print_times(chosen: &[Chosen], jobs: usize, results: &Results) {
    println!("seconds, {jobs} suites at a time:");
    for each in chosen {
        let report = |scenario: &&str| results.get(&format!("{}::{scenario}", each.suite));
        let spent: f32 = each
            .scenarios
            .iter()
            .filter_map(report)
            .map(|r| r.seconds)
            .sum();
        let boot = results.boot(each.suite);
        println!("{:8.1}  {}", spent + boot.unwrap_or(0.0), each.suite);
        if let Some(boot) = boot {
            println!("  {boot:8.1}  (boot)");
        }
        for scenario in &each.scenarios {
            let Some(report) = report(scenario) else {
                continue;
            };
            println!("  {:8.1}  {scenario}", report.seconds);
            if matches!(report.outcome, Outcome::Passed) {
                for line in report.output.lines() {
                    println!("            {line}");
                }
            }
        }
    }
    println!();
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, mpsc},
        time::Duration,
    };

    use super::*;

    #[test]
    fn a_panic_of_the_scheduler_fails_every_test_that_waits() {
        let results = Arc::new(Results::default());
        let waiting = |test: &'static str| {
            let results = Arc::clone(&results);
            let (sender, receiver) = mpsc::channel();
            thread::spawn(move || sender.send(results.wait(test).outcome));
            receiver
        };
        let (first, second) = (waiting("a::first"), waiting("a::second"));
        run_and_close(&results, || {
            let passed = Report {
                outcome: Outcome::Passed,
                ..Report::failed("")
            };
            results.post("a::first".into(), passed);
            panic!("no such {}", "luck");
        });
        let limit = Duration::from_secs(30);
        assert!(matches!(first.recv_timeout(limit), Ok(Outcome::Passed)));
        let Ok(Outcome::Failed(why)) = second.recv_timeout(limit) else {
            unreachable!("the second has no report")
        };
        assert_eq!(why, "the scheduler panicked: no such luck");
    }
}
