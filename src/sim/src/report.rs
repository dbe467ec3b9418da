//! What a simulation came to: figures as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use bursar_core::model::Key;
use bursar_core::money::Money;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde::Serialize;

use crate::metrics::{Sample, percentile};
use crate::replay::Replay;

/// All figures of a simulation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The seed of its random numbers.
    pub seed: u64,
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// ISO 4217 code of all amounts.
    pub currency: String,
    /// Requests of all services.
    pub requests: u64,
    /// Hours of GPUs that were held.
    pub gpu_hours: f64,
    /// What they cost.
    pub cost: Money,
    /// Services, by namespace and name.
    pub services: Vec<ServiceReport>,
    /// All TrainingJobs together.
    pub jobs: JobsReport,
    /// Budgets, by namespace and name.
    pub budgets: Vec<BudgetReport>,
    /// Requests that broke off because a replica or gateway was lost.
    pub broken_requests: u64,
    /// What the leader was told.
    pub events: u64,
    /// How often it decided.
    pub decisions: u64,
    /// How often the leader changed.
    pub leader_changes: u64,
    /// Figures over time.
    pub samples: Vec<SampleReport>,
}

/// Figures of one service.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceReport {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Requests that came.
    pub requests: u64,
    /// Requests that were answered in full.
    pub answered: u64,
    /// Requests that were waiting or running at the end.
    pub unfinished: u64,
    /// Requests that were refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Seconds to the first token at p50, p95 and p99; `None` if no request had one.
    pub first_token_seconds: Option<[f64; 3]>,
    /// How often held requests waited for a first replica.
    pub cold_starts: u64,
    /// Seconds that the first of them waited, at p50 and at most.
    pub cold_start_seconds: Option<[f64; 2]>,
    /// Hours of GPUs that its replicas held.
    pub gpu_hours: f64,
    /// What they cost.
    pub cost: Money,
    /// Orders to scale or to drain.
    pub orders: u64,
}

impl ServiceReport {
    /// The cells of its row in a table of services; `missing` stands for a time that is not there.
    pub(crate) fn cells(&self, missing: &str) -> Vec<String> {
        let time = |place: usize| {
            let time = self
                .first_token_seconds
                .and_then(|times| times.get(place).copied());
            time.map_or(missing.to_owned(), |time| format!("{time:.3} s"))
        };
        let refused: u64 = self.refused.values().sum();
        vec![
            format!("{}/{}", self.namespace, self.name),
            self.requests.to_string(),
            self.answered.to_string(),
            refused.to_string(),
            time(0),
            time(1),
            time(2),
            self.cold_starts.to_string(),
            format!("{:.2}", self.gpu_hours),
            self.cost.rounded(2),
            self.orders.to_string(),
        ]
    }
}

/// Figures of all TrainingJobs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobsReport {
    /// Jobs that were submitted.
    pub submitted: u64,
    /// Jobs that have ended well.
    pub finished: u64,
    /// Hours of GPUs that their workers held.
    pub gpu_hours: f64,
    /// What they cost.
    pub cost: Money,
    /// Orders to run or to stop.
    pub orders: u64,
}

/// Figures of one budget.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetReport {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its limit.
    pub limit: Money,
    /// What was spent in the period that the simulation ended in.
    pub spent: Money,
    /// The most that any period went over the limit.
    pub overshoot: Money,
    /// When it was last exhausted.
    pub exhausted: Option<Timestamp>,
}

/// Figures of a service at one instant.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSampleReport {
    /// Ready replicas.
    pub ready: u32,
    /// Replicas that its Deployment has.
    pub ordered: u32,
    /// Requests waiting, running and held.
    pub queue_depth: u64,
    /// Seconds to the first token since the sample before, at p50 and p95; `None` if there was none.
    pub first_token_seconds: Option<[f64; 2]>,
}

/// Figures at one instant.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SampleReport {
    /// Seconds since the start.
    pub seconds: i64,
    /// GPUs that are held.
    pub gpus_held: i64,
    /// GPUs of all nodes.
    pub gpus: i64,
    /// Workers of jobs that run.
    pub workers: u32,
    /// By namespace and name of the service.
    pub services: BTreeMap<String, ServiceSampleReport>,
    /// By budget: spent, and the limit.
    pub budgets: BTreeMap<String, (Money, Money)>,
}

/// Namespace and name as one word.
fn label(key: &Key) -> String {
    format!("{}/{}", key.namespace, key.name)
}

fn seconds(millis: u32) -> f64 {
    f64::from(millis) / 1e3
}

fn hours(gpu_seconds: i64) -> f64 {
    // hundredths are enough, and print alike everywhere
    (gpu_seconds as f64 / 36.0).round() / 100.0
}

impl SampleReport {
    fn new(sample: &Sample, start: Timestamp) -> Self {
        let services = sample.services.iter().map(|(key, one)| {
            let times = one.first_token_ms;
            let one = ServiceSampleReport {
                ready: one.ready,
                ordered: one.ordered,
                queue_depth: one.queue,
                first_token_seconds: times.map(|(p50, p95)| [seconds(p50), seconds(p95)]),
            };
            (label(key), one)
        });
        let budgets = sample.budgets.iter();
        Self {
            seconds: sample.at.duration_since(start).as_secs(),
            gpus_held: sample.gpus.0,
            gpus: sample.gpus.1,
            workers: sample.workers,
            services: services.collect(),
            budgets: budgets.map(|(key, sums)| (label(key), *sums)).collect(),
        }
    }
}

impl Report {
    /// The figures of a replay that has run.
    pub(crate) fn new(replay: &mut Replay, seed: u64, currency: &str) -> Self {
        let simulation = &mut replay.simulation;
        let mut usage = simulation.ledger.usage(simulation.now);
        for (account, before) in &replay.used_before {
            if let Some(used) = usage.get_mut(account) {
                used.gpu_seconds -= before.gpu_seconds;
                used.cost = used.cost - before.cost;
            }
        }
        let of = |key: &Key, kind: &str| {
            let account = Key::new(&key.namespace, &format!("{kind}/{}", key.name));
            usage.get(&account).copied().unwrap_or_default()
        };
        let jobs = usage.iter().filter(|(key, _)| key.name.starts_with("tj/"));
        let (job_seconds, job_cost) = jobs.fold((0, Money::ZERO), |sum, (_, one)| {
            (sum.0 + one.gpu_seconds, sum.1 + one.cost)
        });
        let keys: Vec<Key> = simulation.cluster.services.keys().cloned().collect();
        let services = keys.iter().map(|key| {
            let unfinished = simulation.unfinished(key);
            let mut figures = simulation
                .metrics
                .services
                .get(key)
                .cloned()
                .unwrap_or_default();
            let times = &mut figures.first_token_ms;
            let first_token = [50, 95, 99].map(|percent| percentile(times, percent));
            let cold = &mut figures.cold_start_ms;
            let cold_start = [50, 100].map(|percent| percentile(cold, percent));
            let used = of(key, "infd");
            ServiceReport {
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                requests: figures.requests,
                answered: figures.finished,
                unfinished,
                refused: figures.refusals,
                first_token_seconds: all(first_token),
                cold_starts: figures.cold_start_ms.len() as u64,
                cold_start_seconds: all(cold_start),
                gpu_hours: hours(used.gpu_seconds),
                cost: used.cost,
                orders: figures.orders,
            }
        });
        let services = services.collect();
        let budgets = simulation.cluster.budgets.iter().map(|(key, budget)| {
            let within = budget.period.bounds(simulation.now, &simulation.zone);
            let now = simulation.now;
            let spent = simulation.ledger.spent(&key.namespace, within, now);
            let samples = simulation.metrics.samples.iter();
            let over = samples.filter_map(|sample| {
                let (spent, limit) = sample.budgets.get(key)?;
                Some(*spent - *limit)
            });
            let over = over.chain([spent - budget.limit, Money::ZERO]).max();
            BudgetReport {
                namespace: key.namespace.to_string(),
                name: key.name.to_string(),
                limit: budget.limit,
                spent,
                overshoot: over.unwrap_or_default(),
                exhausted: simulation.statuses.exhausted.get(key).map(|(at, _)| *at),
            }
        });
        let budgets = budgets.collect();
        let changes = simulation
            .tally
            .faults
            .get(&crate::faults::Fault::LeaderChange);
        let samples = simulation.metrics.samples.iter();
        Self {
            seed,
            start: replay.start,
            end: replay.end,
            currency: currency.to_owned(),
            requests: simulation.metrics.requests,
            gpu_hours: hours(usage.values().map(|one| one.gpu_seconds).sum()),
            cost: usage.values().map(|one| one.cost).sum(),
            services,
            jobs: JobsReport {
                submitted: simulation.cluster.jobs.len() as u64,
                finished: simulation.metrics.jobs_done,
                gpu_hours: hours(job_seconds),
                cost: job_cost,
                orders: simulation.metrics.job_orders,
            },
            budgets,
            broken_requests: simulation.metrics.broken,
            events: simulation.tally.all_events(),
            decisions: simulation.tally.decisions,
            leader_changes: changes.copied().unwrap_or(0),
            samples: samples
                .map(|sample| SampleReport::new(sample, replay.start))
                .collect(),
        }
    }

    /// The figures as JSON.
    ///
    /// # Errors
    /// They cannot be written; that does not happen.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// The figures as tables.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let length = self.end.duration_since(self.start).as_secs();
        let currency = &self.currency;
        // writing into a string cannot fail
        let _ = writeln!(
            text,
            "seed {}: {length} s from {}, {} requests, {:.2} GPU-hours, {} {currency}",
            self.seed,
            self.start,
            self.requests,
            self.gpu_hours,
            self.cost.rounded(2),
        );
        let _ = writeln!(
            text,
            "{} events and {} decisions of {} leaders; {} requests broke off\n",
            self.events,
            self.decisions,
            self.leader_changes + 1,
            self.broken_requests
        );
        text += &self.services_table();
        if !self.budgets.is_empty() {
            text += "\n";
            text += &self.budgets_table();
        }
        if self.jobs.submitted > 0 {
            let jobs = &self.jobs;
            let _ = writeln!(
                text,
                "\n{} of {} jobs finished, {:.2} GPU-hours, {} {currency}, {} orders",
                jobs.finished,
                jobs.submitted,
                jobs.gpu_hours,
                jobs.cost.rounded(2),
                jobs.orders
            );
        }
        text
    }

    fn services_table(&self) -> String {
        let header = [
            "SERVICE",
            "REQUESTS",
            "ANSWERED",
            "REFUSED",
            "TTFT P50",
            "P95",
            "P99",
            "COLD STARTS",
            "GPU-HOURS",
            "COST",
            "ORDERS",
        ];
        let rows = self.services.iter().map(|service| service.cells("-"));
        table(&header, rows)
    }

    fn budgets_table(&self) -> String {
        let header = ["BUDGET", "LIMIT", "SPENT", "OVERSHOOT", "EXHAUSTED"];
        let rows = self.budgets.iter().map(|budget| {
            let exhausted = budget.exhausted.map(|at| at.to_string());
            vec![
                format!("{}/{}", budget.namespace, budget.name),
                budget.limit.rounded(2),
                budget.spent.rounded(2),
                budget.overshoot.rounded(2),
                exhausted.unwrap_or_else(|| "-".to_owned()),
            ]
        });
        table(&header, rows)
    }
}

/// All of them in seconds, or none.
fn all<const N: usize>(millis: [Option<u32>; N]) -> Option<[f64; N]> {
    let is_known = millis.iter().all(Option::is_some);
    is_known.then(|| millis.map(|millis| seconds(millis.unwrap_or_default())))
}

/// A table without borders, the first column to the left and the others to the right.
fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.to_vec());
    table.set_content_arrangement(ContentArrangement::Disabled);
    for row in rows {
        table.add_row(row);
    }
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if place > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}
