//! Scenario files: what runs, on which nodes, for how much money, under which requests and jobs.

use std::collections::BTreeMap;
use std::path::Path;

use bursar_core::budget::OnExhausted;
use bursar_core::calendar::Period;
use bursar_core::money::Money;
use bursar_core::scaling::GrowthRule;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::latency::NotMeasured;
use crate::trace::TraceError;

/// A scenario cannot be simulated.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("scenario {path} cannot be read: {error}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not a scenario.
    #[error("scenario {path}: {error}")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong, and where.
        error: String,
    },
    /// A value makes no sense.
    #[error("scenario: {0}")]
    Value(String),
    /// A trace cannot be read.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// An engine was not measured.
    #[error(transparent)]
    Latency(#[from] NotMeasured),
}

/// A scenario, as its file has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scenario {
    /// When it begins.
    #[serde(default = "default_start")]
    pub start: Timestamp,
    /// How long it lasts; until five minutes after the last request of a trace if left out.
    pub duration: Option<SignedDuration>,
    /// Figures of services, costs and orders count from so long after the beginning on.
    #[serde(default)]
    pub warm_up: SignedDuration,
    /// The accounting time zone.
    #[serde(default = "default_zone")]
    pub time_zone: String,
    /// ISO 4217 code of all amounts.
    #[serde(default = "default_currency")]
    pub currency: String,
    /// Money an hour of one GPU, by model.
    pub prices: BTreeMap<String, Money>,
    /// Pools of nodes that are alike.
    pub nodes: Vec<NodePool>,
    /// Gateways.
    #[serde(default = "default_gateways")]
    pub gateways: u32,
    /// Services.
    #[serde(default)]
    pub services: Vec<ServiceScenario>,
    /// Jobs.
    #[serde(default)]
    pub jobs: Vec<JobScenario>,
    /// Budgets.
    #[serde(default)]
    pub budgets: Vec<BudgetScenario>,
    /// What goes wrong.
    #[serde(default)]
    pub faults: FaultScenario,
}

/// Nodes that are alike.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodePool {
    /// The beginning of their names.
    pub name: String,
    /// How many.
    pub count: u32,
    /// The model of their GPUs.
    pub gpu: String,
    /// How many GPUs each has.
    pub gpus: u32,
    /// When they arrive, after the start.
    #[serde(default)]
    pub arrive_after: SignedDuration,
    /// When the first of them is lost, after the start; never if left out.
    pub lost_after: Option<SignedDuration>,
}

/// An InferenceDeployment and its requests. Fields have the names and the defaults of the resource.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceScenario {
    /// Its name.
    pub name: String,
    /// Its namespace.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// `minReplicas`.
    #[serde(default)]
    pub min_replicas: u32,
    /// `maxReplicas`.
    pub max_replicas: u32,
    /// Requests that one replica should carry.
    #[serde(default = "default_target")]
    pub target: u32,
    /// `scaling.growth`.
    #[serde(default)]
    pub growth: GrowthScenario,
    /// How long a lower number must last before it is followed.
    pub stabilization_window: Option<SignedDuration>,
    /// How long nothing may happen before it goes to its minimum.
    #[serde(default = "default_idle")]
    pub idle_after: SignedDuration,
    /// How long a leaving replica may take to finish its requests.
    #[serde(default = "default_drain")]
    pub drain_timeout: SignedDuration,
    /// Seconds between SIGTERM and SIGKILL.
    #[serde(default = "default_grace")]
    pub grace_seconds: i64,
    /// The time from a replica's binding to its readiness.
    #[serde(default = "default_start_time")]
    pub start_time: SignedDuration,
    /// How long a request may be held.
    #[serde(default = "default_hold")]
    pub hold_timeout: SignedDuration,
    /// How many requests one gateway holds.
    #[serde(default = "default_max_held")]
    pub max_held_requests: usize,
    /// The engine of a replica.
    #[serde(default)]
    pub engine: EngineScenario,
    /// Its requests.
    pub requests: RequestScenario,
}

/// Which rule makes replicas of a queue, as the resource has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)] // the resource says what they mean
pub enum GrowthScenario {
    Learned,
    #[default]
    Target,
}

impl From<GrowthScenario> for GrowthRule {
    fn from(growth: GrowthScenario) -> Self {
        match growth {
            GrowthScenario::Learned => Self::Learned,
            GrowthScenario::Target => Self::Target,
        }
    }
}

/// An engine whose latencies were measured.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EngineScenario {
    /// The model.
    pub model: String,
    /// The GPU as the table of latencies names it.
    pub hardware: String,
    /// The GPUs of a replica.
    pub tensor_parallel: u32,
    /// The GPU as the nodes name it.
    pub gpu: String,
}

impl Default for EngineScenario {
    fn default() -> Self {
        Self {
            model: "llama2-70b".to_owned(),
            hardware: "h100-80gb".to_owned(),
            tensor_parallel: 8,
            gpu: "H100".to_owned(),
        }
    }
}

/// Where requests come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestScenario {
    /// A trace: one that is built in, or a CSV file with `t_s`, `input_tokens`, `output_tokens`.
    pub trace: Option<String>,
    /// So many times the requests of the trace.
    #[serde(default = "one")]
    pub scale: f64,
    /// The trace, so many times in a row.
    #[serde(default = "default_repeat")]
    pub repeat: u32,
    /// Requests a second that come at random, without a trace.
    pub rate: Option<f64>,
    /// Bursts beside them.
    pub bursts: Option<BurstScenario>,
    /// Prompt tokens of each of them.
    #[serde(default = "default_input")]
    pub input_tokens: u32,
    /// Output tokens of each of them.
    #[serde(default = "default_output")]
    pub output_tokens: u32,
    /// When they begin, after the start.
    #[serde(default)]
    pub after: SignedDuration,
}

/// Bursts of requests that come again and again.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BurstScenario {
    /// Requests a second in a burst.
    pub rate: f64,
    /// The time from the beginning of one to that of the next; the first begins after it.
    pub every: SignedDuration,
    /// How long each lasts.
    pub lasts: SignedDuration,
}

/// TrainingJobs: one, or those of a trace.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobScenario {
    /// Its name, or the beginning of the names of a trace's jobs.
    pub name: String,
    /// Its namespace.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// The model of its GPUs.
    pub gpu: String,
    /// A trace: one that is built in, or a CSV file with `submitted_s`, `gpus`, `seconds`. Each job
    /// has a worker for each eight GPUs or part of them.
    pub trace: Option<String>,
    /// At most so many jobs of the trace.
    #[serde(default = "default_most_jobs")]
    pub most: usize,
    /// The trace's times are divided by this.
    #[serde(default = "one")]
    pub speed: f64,
    /// Workers of a job without a trace.
    #[serde(default = "default_workers")]
    pub workers: u32,
    /// GPUs of each worker of a job without a trace.
    #[serde(default = "default_worker_gpus")]
    pub gpus: u32,
    /// How long it must run, without a trace.
    #[serde(default = "default_runs")]
    pub runs: SignedDuration,
    /// When it is submitted, or the trace begins, after the start.
    #[serde(default)]
    pub after: SignedDuration,
    /// Its priority.
    #[serde(default)]
    pub priority: i32,
    /// The time from a worker's binding to its readiness.
    #[serde(default = "default_worker_start")]
    pub start_time: SignedDuration,
    /// Seconds between SIGTERM and SIGKILL.
    #[serde(default = "default_grace")]
    pub grace_seconds: i64,
}

/// A BudgetPolicy.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BudgetScenario {
    /// Its name.
    #[serde(default = "default_budget")]
    pub name: String,
    /// Its namespace.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Money for one period.
    pub limit: Money,
    /// The period.
    #[serde(default = "default_period")]
    pub period: Period,
    /// What happens when it is exhausted.
    #[serde(default = "default_on_exhausted")]
    pub on_exhausted: ExhaustedScenario,
    /// What starts must be able to run for at least this long.
    #[serde(default = "default_useful")]
    pub minimum_useful_run: SignedDuration,
}

/// What happens when a budget is exhausted, as the resource has it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[allow(missing_docs)] // the resource says what they mean
pub enum ExhaustedScenario {
    ScaleToZero,
    ScaleToMin,
    Freeze,
}

impl From<ExhaustedScenario> for OnExhausted {
    fn from(exhausted: ExhaustedScenario) -> Self {
        match exhausted {
            ExhaustedScenario::ScaleToZero => Self::ScaleToZero,
            ExhaustedScenario::ScaleToMin => Self::ScaleToMin,
            ExhaustedScenario::Freeze => Self::Freeze,
        }
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FaultScenario {
    /// How often the leader fails, spread over the time.
    pub leader_changes: u32,
    /// Percent of writes that fail.
    pub failed_writes: u8,
    /// Percent of pods that do not start at once.
    pub failed_starts: u8,
}

fn default_start() -> Timestamp {
    // a Monday morning
    Timestamp::from_second(1_795_420_800).unwrap_or(Timestamp::UNIX_EPOCH)
}
fn default_zone() -> String {
    "UTC".to_owned()
}
fn default_currency() -> String {
    "USD".to_owned()
}
fn default_gateways() -> u32 {
    2
}
fn default_namespace() -> String {
    "team".to_owned()
}
fn default_target() -> u32 {
    8
}
fn default_idle() -> SignedDuration {
    SignedDuration::from_mins(10)
}
fn default_drain() -> SignedDuration {
    SignedDuration::from_secs(60)
}
fn default_grace() -> i64 {
    30
}
fn default_start_time() -> SignedDuration {
    SignedDuration::from_secs(90)
}
fn default_hold() -> SignedDuration {
    SignedDuration::from_mins(2)
}
fn default_max_held() -> usize {
    1000
}
fn one() -> f64 {
    1.0
}
fn default_repeat() -> u32 {
    1
}
fn default_input() -> u32 {
    512
}
fn default_output() -> u32 {
    128
}
fn default_most_jobs() -> usize {
    usize::MAX
}
fn default_workers() -> u32 {
    1
}
fn default_worker_gpus() -> u32 {
    1
}
fn default_runs() -> SignedDuration {
    SignedDuration::from_hours(1)
}
fn default_worker_start() -> SignedDuration {
    SignedDuration::from_secs(30)
}
fn default_budget() -> String {
    "team".to_owned()
}
fn default_period() -> Period {
    Period::Monthly
}
fn default_on_exhausted() -> ExhaustedScenario {
    ExhaustedScenario::ScaleToZero
}
fn default_useful() -> SignedDuration {
    SignedDuration::from_mins(5)
}

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// The file cannot be read, or is not a scenario.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| ScenarioError::Unreadable {
            path: name.clone(),
            error,
        })?;
        let read: Result<Self, _> = serde_saphyr::from_str(&text);
        read.map_err(|error| ScenarioError::Invalid {
            path: name,
            error: error.to_string(),
        })
    }

    /// Reads the text of a scenario file.
    ///
    /// # Errors
    /// It is not a scenario.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let read: Result<Self, _> = serde_saphyr::from_str(text);
        read.map_err(|error| ScenarioError::Value(error.to_string()))
    }
}
