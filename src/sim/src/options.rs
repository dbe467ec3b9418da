//! `bursar simulate`: reads a scenario, runs it and prints what it came to.

use std::io::Write;
use std::path::PathBuf;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::SignedDuration;

use crate::event_queue::later;
use crate::html;
use crate::replay::Replay;
use crate::report::Report;
use crate::scenario::{Scenario, ScenarioError};
use crate::simulation::Violation;

const STYLE: &str = "  {bar:32} {percent:>3} %  {wide_msg}";
/// The progress is shown so many times.
const STEPS: i64 = 400;

/// Format of the figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Tables.
    #[default]
    Table,
    /// JSON, with figures over time.
    Json,
    /// One page with charts, which needs nothing else.
    Html,
}

/// Arguments of `bursar simulate`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Scenario file; examples/simulator has two.
    #[arg(long, value_name = "FILE")]
    pub scenario: PathBuf,
    /// Seed of all random numbers: the same seed gives the same result.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Format of the figures.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Write them to this file instead of standard output.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// The error with which `bursar simulate` failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The scenario cannot be simulated.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// A decision broke a promise.
    #[error("{0}")]
    Violation(#[from] Violation),
    /// The figures cannot be written.
    #[error("the result cannot be written: {0}")]
    Write(#[from] std::io::Error),
    /// The figures cannot be written as JSON.
    #[error("the result cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Runs `bursar simulate`.
///
/// # Errors
/// See [`Error`].
pub fn run(options: &Options) -> Result<(), Error> {
    let scenario = Scenario::read(&options.scenario)?;
    let bar = ProgressBar::new(STEPS.unsigned_abs());
    if let Ok(style) = ProgressStyle::with_template(STYLE) {
        bar.set_style(style.progress_chars("=> "));
    }
    let report = simulate(&scenario, options.seed, |step, requests, total| {
        bar.set_message(format!("{requests} of {total} requests"));
        bar.set_position(step);
    });
    bar.finish_and_clear();
    let report = report?;
    let text = match options.output {
        Output::Table => report.table(),
        Output::Json => report.json()?,
        Output::Html => {
            let name = options.scenario.file_stem().unwrap_or_default();
            html::page(&report, &name.to_string_lossy())
        }
    };
    match &options.file {
        Some(path) => std::fs::write(path, text)?,
        None => std::io::stdout().write_all(text.as_bytes())?,
    }
    Ok(())
}

/// Simulates a scenario. `progress` is told now and then: the step of 400, and the requests that
/// have come, of all.
///
/// # Errors
/// The scenario cannot be simulated.
pub fn simulate(
    scenario: &Scenario,
    seed: u64,
    progress: impl Fn(u64, u64, usize),
) -> Result<Report, Error> {
    let mut replay = Replay::new(scenario, seed)?;
    let length = replay.end.duration_since(replay.start).as_millis() as i64;
    for step in 1..=STEPS {
        let passed = SignedDuration::from_millis(length / STEPS * step);
        let until = match step {
            STEPS => replay.end,
            _ => later(replay.start, passed),
        };
        replay.run_until(until)?;
        let requests = replay.simulation.metrics.requests;
        progress(step.unsigned_abs(), requests, replay.requests);
    }
    Ok(Report::new(&mut replay, seed, &scenario.currency))
}
