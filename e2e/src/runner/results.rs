//! How scenarios ended, as their suites' processes say it.

use std::{
    collections::BTreeMap,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

/// A line from the process of a suite.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// The cluster is up, after so many seconds.
    Booted(f32),
    /// A scenario has ended.
    Ended {
        /// The scenario's name.
        scenario: String,
        /// How it ended.
        report: Report,
    },
}

/// How a scenario ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) outcome: Outcome,
    pub(super) seconds: f32,
    /// What it printed.
    pub(super) output: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Outcome {
    Passed,
    /// With the reason.
    Ignored(String),
    /// With all that a reader wants to see.
    Failed(String),
}

/// Reports by the name of their test, and how long clusters took to boot by the name of their suite.
#[derive(Default)]
pub(super) struct Results {
    reports: Mutex<Reports>,
    arrived: Condvar,
    boots: Mutex<BTreeMap<String, f32>>,
}

#[derive(Default)]
struct Reports {
    by_test: BTreeMap<String, Report>,
    /// Why no more reports come.
    closed: Option<String>,
}

impl Report {
    /// Of a scenario that did not end by itself.
    pub(super) fn failed(why: &str) -> Self {
        Self {
            outcome: Outcome::Failed(why.to_owned()),
            seconds: 0.0,
            output: String::new(),
        }
    }
}

impl Results {
    pub(super) fn post(&self, test: String, report: Report) {
        lock(&self.reports).by_test.insert(test, report);
        self.arrived.notify_all();
    }

    /// No more reports come: all who wait, and who will, get a failure with this reason.
    pub(super) fn close(&self, why: String) {
        lock(&self.reports).closed = Some(why);
        self.arrived.notify_all();
    }

    /// Waits for the report of a test. The scheduler posts one for each test that was chosen: when
    /// the scenario ends, when it exceeds its limit, or when its suite's process ends. After
    /// [`Self::close`] a test without a report has failed.
    pub(super) fn wait(&self, test: &str) -> Report {
        let mut reports = lock(&self.reports);
        loop {
            if let Some(report) = reports.by_test.get(test) {
                return report.clone();
            }
            if let Some(why) = &reports.closed {
                return Report::failed(why);
            }
            reports = self
                .arrived
                .wait(reports)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn get(&self, test: &str) -> Option<Report> {
        lock(&self.reports).by_test.get(test).cloned()
    }

    pub(super) fn booted(&self, suite: &str, seconds: f32) {
        lock(&self.boots).insert(suite.to_owned(), seconds);
    }

    pub(super) fn boot(&self, suite: &str) -> Option<f32> {
        lock(&self.boots).get(suite).copied()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
