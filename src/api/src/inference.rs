//! InferenceDeployment: a model server that is scaled by its queue depth.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bursar_core::model::DEFAULT_WEIGHT;
use bursar_core::plan::LimitedBy;
use bursar_core::scaling::{
    GrowthRule, LearnedThroughput, Milli, RequestSignal, Schedule, SignalFailure, SignalRule,
};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::caller_peers::{CallerPeer, MAX_PEERS};
use crate::engine::options::{
    CUSTOM_MESSAGE, CUSTOM_RULE, EngineOptions, FIRST_TOKEN_MESSAGE, INTER_TOKEN_MESSAGE,
    KV_CACHE_MESSAGE, MetricNames, first_token_rule, inter_token_rule, kv_cache_rule,
};
use crate::engine::{self, Engine, EngineSettings};
use crate::lenient::Validate;
use crate::quantities::{self, DURATION_MESSAGE, DURATION_RULE, FieldError};
use crate::revenue::Revenue;
use crate::scaling::{
    Behavior, MAX_SCHEDULES, OnSignalFailure, SCHEDULE_NAMES_MESSAGE, SCHEDULE_NAMES_RULE,
    ScheduleSpec, schedules_to_core,
};
use crate::signal::{
    EngineMeasure, MAX_SIGNALS, MEASURES_MESSAGE, MEASURES_RULE, NAMES_MESSAGE, NAMES_RULE,
    SignalSpec, SignalStatus, SignalType,
};
use crate::spend::SpendSummary;
use crate::template;

/// A model server on GPUs, scaled by its queue depth between `minReplicas` and `maxReplicas`, to
/// zero when idle, within the budgets of its namespace.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "bursar.dev",
    version = "v1alpha1",
    kind = "InferenceDeployment",
    plural = "inferencedeployments",
    shortname = "infd",
    category = "bursar",
    namespaced,
    status = "InferenceDeploymentStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.minReplicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([a-z0-9-]{0,48}[a-z0-9])?$')")
        .message("metadata.name must be at most 50 letters, digits and dashes, and begin with a letter: its Service has the same name"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas", description = "replicas that take requests"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.desiredReplicas", description = "replicas that the demand asks for"),
    printcolumn(name = "Allowed", type_ = "integer", json_path = ".status.allowedReplicas", description = "replicas that budgets leave", priority = 1),
    printcolumn(name = "Queue", type_ = "integer", json_path = ".status.queueDepth", description = "requests waiting, running and held, when last written", priority = 1),
    printcolumn(name = "Limited-By", type_ = "string", json_path = ".status.limitedBy", description = "what keeps it from what the demand asks for"),
    printcolumn(name = "Today", type_ = "string", json_path = ".status.spend.today", description = "spent today"),
    printcolumn(name = "Rate/h", type_ = "string", json_path = ".status.spend.ratePerHour", description = "money an hour"),
    printcolumn(name = "Month", type_ = "string", json_path = ".status.spend.monthToDate", description = "spent this month", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.targetRef) || !has(self.template)")
        .message("template and targetRef exclude each other: give one of them"),
    validation = Rule::new("has(self.template) || has(self.targetRef)")
        .message("template is missing: give the pod template of one replica, or targetRef of a workload that exists"),
    validation = Rule::new("has(self.targetRef) == has(oldSelf.targetRef) && (!has(self.targetRef) || self.targetRef == oldSelf.targetRef)")
        .message("targetRef cannot be added, changed or removed: delete the resource, which gives the replicas back, and create another"),
    validation = Rule::new("!has(self.serviceRef) || has(self.targetRef)")
        .message("serviceRef is for a targetRef alone: with a template, Bursar makes the Service"),
    validation = Rule::new("!has(self.serviceRef) || self.engine != 'None'")
        .message("engine None takes no requests: it has no serviceRef"),
    validation = Rule::new("!has(self.targetRef) || self.activation.mode != 'Always'")
        .message("activation.mode Always needs a template: it changes the Service's selector, and that of a targetRef is not Bursar's to change"),
    validation = Rule::new(CUSTOM_RULE).message(CUSTOM_MESSAGE),
    validation = Rule::new(kv_cache_rule()).message(KV_CACHE_MESSAGE),
    validation = Rule::new(first_token_rule()).message(FIRST_TOKEN_MESSAGE),
    validation = Rule::new(inter_token_rule()).message(INTER_TOKEN_MESSAGE),
    validation = Rule::new("self.activation.mode == 'Always' || self.scaling.signals.all(s, s.type != 'Gateway')")
        .message("a signal of type Gateway needs activation.mode Always: otherwise requests go to replicas past the gateways"),
    validation = Rule::new("self.engine != 'None' || self.scaling.signals.all(s, s.type != 'Engine')")
        .message("engine None has no queue depth and no other measure: give scaling.signals of other types"),
    validation = Rule::new("self.engine != 'None' || (!has(self.engineOptions) && self.activation.mode != 'Always')")
        .message("engine None takes no requests: it has no engineOptions, and no activation.mode Always"),
    validation = Rule::new("(self.engine == 'None') == (oldSelf.engine == 'None')")
        .message("a service with an engine cannot become one without, nor the other way: delete it and create it anew"),
    validation = Rule::new("self.minReplicas <= self.maxReplicas").message("minReplicas must not be above maxReplicas")
)]
pub struct InferenceDeploymentSpec {
    /// The inference engine: a preset of ports, paths and the names of metrics.
    pub engine: Engine,
    /// What differs from the engine's preset, and all of a custom engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_options: Option<EngineOptions>,
    /// The model's name, as requests carry it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub model: Option<String>,
    /// The pod template of one replica. Bursar owns a Deployment and a Service made of it. A
    /// serving container without a readinessProbe gets the engine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "template::schema")]
    #[x_kube(
        validation = Rule::new(template::GPU_RULE).message(template::GPU_MESSAGE),
        validation = Rule::new(template::GPU_COUNT_RULE).message(template::GPU_COUNT_MESSAGE),
        validation = Rule::new(template::GPU_RESOURCE_RULE).message(template::GPU_RESOURCE_MESSAGE),
        validation = Rule::new(template::LABEL_RULE).message(template::LABEL_MESSAGE),
        validation = Rule::new(template::ANNOTATION_RULE).message(template::ANNOTATION_MESSAGE),
        validation = Rule::new(template::GRACE_RULE).message(template::GRACE_MESSAGE),
        validation = Rule::new(template::HOST_NETWORK_RULE).message(template::HOST_NETWORK_MESSAGE),
        validation = Rule::new("!has(self.spec) || !has(self.spec.restartPolicy) || self.spec.restartPolicy == 'Always'")
            .message("spec.restartPolicy must be Always or left out")
    )]
    pub template: Option<PodTemplateSpec>,
    /// An existing workload to scale instead of a template: a Deployment, a StatefulSet, or any kind with
    /// the scale subresource and a pod template at `spec.template`. Its template is not changed, and
    /// its replicas are given back when this resource is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    /// The Service by which requests reach the workload of `targetRef`. While no replica is ready, they
    /// wait at gateways and wake it; without it, requests wake nothing. The Service is not changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_ref: Option<ServiceRef>,
    /// The fewest replicas; 0 lets it go to zero when idle. `kubectl scale` sets it.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    #[x_kube(validation = Rule::new("self >= 0").message("minReplicas must not be negative"))]
    pub min_replicas: i32,
    /// The most replicas.
    #[schemars(range(max = 1000))]
    #[x_kube(validation = Rule::new("self >= 1").message("maxReplicas must be at least 1"))]
    pub max_replicas: i32,
    /// A PriorityClass: services and TrainingJobs of a higher one get the money of their namespace's
    /// budgets first and stop last, and the pods carry it. Without it, that of the template counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub priority_class_name: Option<String>,
    /// Among workloads of the same priority and namespace, the one with the greater weight gets money
    /// for further replicas first; of the same weight, the older one.
    #[serde(default = "default_weight")]
    #[schemars(range(max = 1000))]
    #[x_kube(validation = Rule::new("self >= 1").message("weight must be at least 1"))]
    pub weight: i32,
    /// How demand becomes replicas.
    #[serde(default)]
    pub scaling: Scaling,
    /// The treatment of requests while no replica is ready.
    #[serde(default)]
    pub activation: Activation,
    /// How a replica leaves.
    #[serde(default)]
    pub drain: Drain,
    /// The revenue of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revenue: Option<Revenue>,
}

fn default_weight() -> i32 {
    i32::try_from(DEFAULT_WEIGHT).unwrap_or(1)
}

/// A workload that exists.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// API version, such as `apps/v1`.
    #[schemars(length(max = 128), regex(pattern = "^([a-z0-9.-]+/)?v[a-z0-9]+$"))]
    pub api_version: String,
    /// Kind, such as `Deployment`.
    #[schemars(length(max = 63), regex(pattern = "^[A-Za-z][A-Za-z0-9]*$"))]
    pub kind: String,
    /// Name, in the same namespace.
    #[schemars(length(max = 253), regex(pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
    pub name: String,
}

impl TargetRef {
    /// Whether all of it can be a part of a request's path, as the API server's rules make sure.
    pub fn is_valid(&self) -> bool {
        let is_name = |text: &str| {
            let mut bytes = text.bytes();
            !text.is_empty()
                && text != ".."
                && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
        };
        let mut version = self.api_version.splitn(2, '/');
        version.all(is_name) && is_name(&self.kind) && is_name(&self.name)
    }

    /// The API group; empty for the core API.
    pub fn group(&self) -> &str {
        let group = self.api_version.split_once('/');
        group.map_or("", |(group, _)| group)
    }

    /// Whether both name the same workload, by whatever version of its API.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.group(), &self.kind, &self.name) == (other.group(), &other.kind, &other.name)
    }
}

impl fmt::Display for TargetRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind, self.name)
    }
}

/// A Service that exists.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRef {
    /// Name, in the same namespace.
    #[schemars(length(max = 63), regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,
    /// The port that requests come by: its name, or its number as text. Needed where the Service has
    /// several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub port: Option<String>,
}

/// How demand becomes replicas.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.signals.all(s, !has(s.pollingInterval) || duration(s.pollingInterval) <= duration(self.idle.after))")
        .message("pollingInterval of a signal must be at most idle.after: what comes between two reads would be missed")
)]
pub struct Scaling {
    /// The demands that replicas follow: the one that asks for the most wins. Where none is the queue depth
    /// of type Engine, requests keep a replica and wake the first one, and ask for no further ones.
    #[serde(default = "default_signals")]
    #[schemars(length(min = 1, max = MAX_SIGNALS))]
    #[x_kube(validation = Rule::new(NAMES_RULE).message(NAMES_MESSAGE))]
    #[x_kube(validation = Rule::new(MEASURES_RULE).message(MEASURES_MESSAGE))]
    pub signals: Vec<SignalSpec>,
    /// Which rule makes replicas of a queue.
    #[serde(default)]
    pub growth: Growth,
    /// How fast replicas follow, in the words of HorizontalPodAutoscaler v2.
    #[serde(default)]
    pub behavior: Behavior,
    /// Bounds that hold at times, in addition to `minReplicas` and `maxReplicas`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_SCHEDULES))]
    #[x_kube(validation = Rule::new(SCHEDULE_NAMES_RULE).message(SCHEDULE_NAMES_MESSAGE))]
    pub schedules: Vec<ScheduleSpec>,
    /// What becomes of the replicas while a part of the demand is not known.
    #[serde(default)]
    pub on_signal_failure: OnSignalFailure,
    /// When nothing is to do.
    #[serde(default)]
    pub idle: Idle,
    /// Demand changes nothing; budgets still do.
    #[serde(default)]
    pub paused: bool,
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            signals: default_signals(),
            growth: Growth::default(),
            behavior: Behavior::default(),
            schedules: Vec::new(),
            on_signal_failure: OnSignalFailure::default(),
            idle: Idle::default(),
            paused: false,
        }
    }
}

/// Which rule makes replicas of a queue.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Growth {
    /// The fewest replicas with which the queue is within its target again soon after they could serve,
    /// by the throughput, the arrivals and the start time that were learned: a burst that will be over
    /// by then starts nothing. `Target`, until five minutes of busy replicas and a start have been seen.
    #[default]
    Learned,
    /// A replica for each `target` requests in the queue.
    Target,
}

impl From<Growth> for GrowthRule {
    fn from(growth: Growth) -> Self {
        match growth {
            Growth::Learned => Self::Learned,
            Growth::Target => Self::Target,
        }
    }
}

/// When nothing is to do.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Idle {
    /// Nothing queued, nothing running, unchanged counters and all other signals at 0 for this long: down to
    /// `minReplicas`.
    #[serde(default = "default_idle")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(DURATION_RULE).message(DURATION_MESSAGE))]
    pub after: String,
}

impl Default for Idle {
    fn default() -> Self {
        Self {
            after: default_idle(),
        }
    }
}

/// The treatment of requests while no replica is ready.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Activation {
    /// Whether a request wakes a service that is at zero replicas, and whether all requests go through
    /// gateways or only those while no replica is ready.
    #[serde(default = "default_mode")]
    pub mode: ActivationMode,
    /// Requests that one gateway holds for this service; the next is refused with 503.
    #[serde(default = "default_held")]
    #[schemars(range(max = 100_000))]
    #[x_kube(validation = Rule::new("self >= 0").message("maxHeldRequests must not be negative"))]
    pub max_held_requests: i32,
    /// How long a request is held before it is refused with 504.
    #[serde(default = "default_hold")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new(DURATION_RULE).message(DURATION_MESSAGE))]
    pub hold_timeout: String,
    /// Paths whose requests wake it; one that ends in `/` is for all paths below it. Without any, all do
    /// but those that need no model, such as /metrics and /health. Others are refused with 503 while no
    /// replica is ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 256), regex(pattern = "^/")))]
    pub wake_on: Vec<String>,
    /// How often in an hour requests may wake it at one gateway. Ten wakes, or as many as this if it is
    /// less, may follow one another at once; further requests get 429 while no replica is ready, until
    /// the next is allowed.
    #[serde(default = "default_wakes")]
    #[schemars(range(max = 3_600))]
    #[x_kube(validation = Rule::new("self >= 1").message("maxWakesPerHour must be at least 1; mode: Never lets no request wake it"))]
    pub max_wakes_per_hour: i32,
    /// Who may reach it through gateways, whether a replica is ready or not; others get 403 and wake
    /// nothing. Without it: whom the NetworkPolicies that select its replicas let reach
    /// their port, and everybody where none selects them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_PEERS))]
    pub allow_from: Option<Vec<CallerPeer>>,
    /// Which requests are sent to a second replica after the first one broke off before it answered,
    /// and may have done them. Requests of which nothing was sent are always sent again.
    #[serde(default = "default_retry")]
    pub retry: ActivationRetry,
}

impl Default for Activation {
    fn default() -> Self {
        Self {
            mode: default_mode(),
            max_held_requests: default_held(),
            hold_timeout: default_hold(),
            wake_on: Vec::new(),
            max_wakes_per_hour: default_wakes(),
            allow_from: None,
            retry: default_retry(),
        }
    }
}

/// Which requests may be sent to a second replica.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationRetry {
    /// Those that change nothing: GET, HEAD, OPTIONS, TRACE.
    Safe,
    /// Those that may be done twice: the safe ones, PUT, DELETE, and any with the header
    /// Idempotency-Key.
    Idempotent,
    /// All. An engine that only generates text can do a POST twice, and a request that ends its
    /// engine ends two.
    Always,
}

/// Whether a request wakes a service, and which requests gateways forward.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationMode {
    /// Requests are held and wake it. They go to gateways only while no replica is ready.
    OnDemand,
    /// Requests are held and wake it, and all of them go through gateways: the Service has the gateways
    /// as ready endpoints, and the Service NAME-replicas has the replicas. For clients that use ready
    /// endpoints alone, as ingress controllers and meshes do.
    Always,
    /// Requests are refused while no replica is ready.
    Never,
}

/// How a replica leaves.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// How long it may take to finish its requests.
    #[serde(default = "default_drain")]
    #[schemars(length(max = 32))]
    #[x_kube(
        validation = Rule::new(DURATION_RULE).message(DURATION_MESSAGE),
        validation = Rule::new("!self.matches('^([0-9]{1,9}(ms|s|m|h))+$') || duration(self) <= duration('1h')")
            .message("must be at most 1h: a budget keeps the money for it in reserve")
    )]
    pub timeout: String,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            timeout: default_drain(),
        }
    }
}

fn default_signals() -> Vec<SignalSpec> {
    vec![SignalSpec::default()]
}

fn default_idle() -> String {
    "10m".to_owned()
}

fn default_mode() -> ActivationMode {
    ActivationMode::OnDemand
}

fn default_retry() -> ActivationRetry {
    ActivationRetry::Idempotent
}

fn default_held() -> i32 {
    1000
}

fn default_wakes() -> i32 {
    60
}

fn default_hold() -> String {
    "2m".to_owned()
}

fn default_drain() -> String {
    "60s".to_owned()
}

/// The observed state of an InferenceDeployment.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceDeploymentStatus {
    /// The generation that this status is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Replicas that exist.
    pub replicas: i32,
    /// Replicas that take requests.
    pub ready_replicas: i32,
    /// Replicas that the demand asks for.
    pub desired_replicas: i32,
    /// Replicas that budgets leave.
    pub allowed_replicas: i32,
    /// Requests waiting, running and held at the time of `spend.asOf`; absent if unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_depth: Option<i64>,
    /// Its signals, as last read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<SignalStatus>,
    /// The pods' label selector, for the scale subresource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// The cause that keeps the service from the replicas that its demand needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub limited_by: Option<LimitedBy>,
    /// Why, with the numbers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The values that gateways read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<ActivationStatus>,
    /// The workload of `targetRef`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetStatus>,
    /// What was learned of its replicas, once that is enough to forecast. A new leader begins with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned: Option<LearnedStatus>,
    /// The spend of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spend: Option<SpendSummary>,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The most labels that [`TargetStatus::pod_labels`] has.
pub const MAX_TARGET_LABELS: usize = 64;

/// The workload of a `targetRef`, as far as others than the controller need it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetStatus {
    /// The workload's UID.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The replicas that it had before Bursar scaled it: those that it gets back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas_before: Option<i32>,
    /// The labels of its pod template, by which gateways find the NetworkPolicies of its replicas.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pod_labels: BTreeMap<String, String>,
    /// The names that its containers give to the engine's port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_names: Vec<String>,
}

/// What was learned of a service's replicas.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct LearnedStatus {
    /// How many requests a replica should carry: the rest holds for that.
    pub target: i32,
    /// How long a request is on a replica that has as many as its target, in milliseconds.
    pub request_milliseconds: i64,
    /// Tokens a second that such a replica writes; 0 where its engine counts none.
    pub tokens_per_second: i64,
    /// How long a replica takes from the creation of its pod until it serves, in seconds.
    pub start_seconds: i64,
}

impl From<LearnedThroughput> for LearnedStatus {
    fn from(learned: LearnedThroughput) -> Self {
        let number = |value: u64| i64::try_from(two_digits(value)).unwrap_or(i64::MAX);
        Self {
            target: i32::try_from(learned.target).unwrap_or(i32::MAX),
            request_milliseconds: number(learned.request_millis),
            tokens_per_second: number(learned.tokens_per_second),
            start_seconds: learned.start.as_secs(),
        }
    }
}

/// A number with its first two digits, so that it does not change with each reading.
fn two_digits(value: u64) -> u64 {
    let unit = 10u64.pow(value.checked_ilog10().unwrap_or(0).saturating_sub(1));
    value / unit * unit
}

impl LearnedStatus {
    /// What it says, if that can be: somebody else may have written it.
    pub fn throughput(self) -> Option<LearnedThroughput> {
        let number = |value: i64| u64::try_from(value).ok();
        Some(LearnedThroughput {
            target: u32::try_from(self.target).ok()?,
            request_millis: number(self.request_milliseconds).filter(|millis| *millis > 0)?,
            tokens_per_second: number(self.tokens_per_second)?,
            start: SignedDuration::from_secs(
                number(self.start_seconds).map(|_| self.start_seconds)?,
            ),
        })
    }
}

/// The values of a service that gateways read.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ActivationStatus {
    /// The service's own port on every gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
    /// The answer to requests while no replica is ready and none may start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RefusalStatus>,
}

/// The answer to requests that the controller wants refused.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RefusalStatus {
    /// Not used any more, and always 0; older versions require it.
    #[serde(default)]
    pub status: i32,
    /// The reason for refusing requests, such as BudgetExhausted. Older versions wrote OpenAI's error code here.
    #[serde(rename = "code")]
    pub reason: String,
    /// The message that clients get.
    pub message: String,
    /// The time from which requests are no longer refused for this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
}

/// An InferenceDeployment's numbers, read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The fewest replicas.
    pub min: u32,
    /// The most replicas.
    pub max: u32,
    /// What its requests say of the replicas that it needs.
    pub request_signal: RequestSignal,
    /// The names of its signals other than its queue depth, and what each of them measures.
    pub signals: Vec<(String, SignalRule)>,
    /// `scaling.growth`.
    pub growth: GrowthRule,
    /// `scaling.behavior`.
    pub behavior: bursar_core::scaling::Behavior,
    /// `scaling.schedules`.
    pub schedules: Vec<Schedule>,
    /// `scaling.onSignalFailure`.
    pub on_signal_failure: SignalFailure,
    /// `scaling.idle.after`.
    pub idle_after: SignedDuration,
    /// `drain.timeout`.
    pub drain_timeout: SignedDuration,
    /// `activation.holdTimeout`.
    pub hold_timeout: SignedDuration,
    /// `activation.maxHeldRequests`.
    pub max_held: u32,
    /// `activation.maxWakesPerHour`.
    pub max_wakes: u32,
}

impl InferenceDeploymentSpec {
    /// The name of the service's PriorityClass: its own, or that of its template.
    pub fn priority_class(&self) -> Option<&str> {
        let own = self.priority_class_name.as_deref();
        let template = || self.template.as_ref()?.spec.as_ref();
        own.or_else(|| template()?.priority_class_name.as_deref())
    }

    /// The port on which its engine takes requests.
    pub fn engine_port(&self) -> Option<u16> {
        let options = self.engine_options.as_ref();
        engine::port(self.engine, options.and_then(|options| options.port))
    }

    /// What is known of its engine; `None` if it has none.
    ///
    /// # Errors
    /// The first option that cannot be read; the API server's rules let none through.
    pub fn engine_settings(&self) -> Result<Option<EngineSettings>, FieldError> {
        let settings = |engine| {
            let model = self.model.as_deref();
            EngineSettings::new(engine, model, self.engine_options.as_ref())
        };
        let engine = Some(self.engine).filter(|engine| *engine != Engine::None);
        engine.map(settings).transpose()
    }

    /// Its signals, each with its path in the manifest.
    pub fn signals(&self) -> impl Iterator<Item = (String, &SignalSpec)> {
        let signals = self.scaling.signals.iter().enumerate();
        signals.map(|(index, signal)| (format!("spec.scaling.signals[{index}]"), signal))
    }

    /// Whether the metrics of its engine tell how many requests are on a replica. A custom engine may have
    /// none.
    pub fn has_load_metrics(&self) -> bool {
        let options = self.engine_options.as_ref();
        let metrics = options.and_then(|options| options.metrics.as_ref());
        self.engine != Engine::Custom || metrics.is_some_and(MetricNames::has_load)
    }

    /// What its signals measure of its engine beyond its queue depth.
    pub fn engine_measures(&self) -> BTreeSet<EngineMeasure> {
        let signals = self.scaling.signals.iter();
        let measures = signals.filter_map(SignalSpec::engine_measure);
        measures
            .filter(|measure| *measure != EngineMeasure::QueueDepth)
            .collect()
    }

    /// Whether its engine tells all that its signals measure, and gateways what nobody else does.
    fn check_signals(&self) -> Result<(), FieldError> {
        let settings = self.engine_settings()?;
        for (field, signal) in self.signals() {
            let is_told = match (signal.engine_measure(), &settings) {
                // without an engine, the default says nothing
                (Some(EngineMeasure::QueueDepth), _) => self.has_load_metrics(),
                (Some(measure), Some(settings)) => !settings.measure(measure).is_empty(),
                (Some(_), None) => false,
                (None, _) => true,
            };
            if !is_told {
                let why = "its engine has no such metric: name it in engineOptions.metrics";
                return Err(FieldError::new(format!("{field}.measure"), why));
            }
        }
        let mut signals = self.scaling.signals.iter();
        let has_gateway = signals.any(|signal| signal.kind == SignalType::Gateway);
        match has_gateway || self.has_load_metrics() {
            true => Ok(()),
            false => Err(FieldError::new(
                "spec.engineOptions.metrics",
                CUSTOM_MESSAGE,
            )),
        }
    }

    fn request_signal(&self) -> Result<RequestSignal, FieldError> {
        if self.engine == Engine::None {
            return Ok(RequestSignal::None);
        }
        if !self.has_load_metrics() {
            return Ok(RequestSignal::AtGateways);
        }
        let mut signals = self.signals();
        let depth = Some(EngineMeasure::QueueDepth);
        let engine = signals.find(|(_, signal)| signal.engine_measure() == depth);
        let target = engine.map(|(field, signal)| signal.target(&field));
        Ok(match target.transpose()? {
            Some(Milli(milli)) => {
                let target = u32::try_from(milli / 1000).unwrap_or(u32::MAX);
                RequestSignal::Target(target.max(1))
            }
            None => RequestSignal::Activity,
        })
    }

    fn measured_signals(&self) -> Result<Vec<(String, SignalRule)>, FieldError> {
        let rule = |(field, signal): (String, &SignalSpec)| {
            signal.polling_interval(&field)?;
            let rule = signal.rule(&field)?;
            Ok(rule.map(|rule| (signal.name(), rule)))
        };
        let rules = self.signals().map(rule);
        rules.filter_map(Result::transpose).collect()
    }

    /// The numbers of the spec.
    ///
    /// # Errors
    /// The first field that cannot be read; the API server's rules let none through.
    pub fn settings(&self) -> Result<Settings, FieldError> {
        let count = |field: &str, number: i32| {
            u32::try_from(number).map_err(|_| FieldError::new(field, "must not be negative"))
        };
        let scaling = &self.scaling;
        Ok(Settings {
            min: count("spec.minReplicas", self.min_replicas)?,
            max: count("spec.maxReplicas", self.max_replicas)?,
            request_signal: self.request_signal()?,
            signals: self.measured_signals()?,
            growth: self.scaling.growth.into(),
            behavior: scaling.behavior.to_core("spec.scaling.behavior")?,
            schedules: schedules_to_core("spec.scaling.schedules", &scaling.schedules)?,
            on_signal_failure: scaling
                .on_signal_failure
                .to_core("spec.scaling.onSignalFailure")?,
            idle_after: quantities::duration("spec.scaling.idle.after", &self.scaling.idle.after)?,
            drain_timeout: quantities::duration("spec.drain.timeout", &self.drain.timeout)?,
            hold_timeout: quantities::duration(
                "spec.activation.holdTimeout",
                &self.activation.hold_timeout,
            )?,
            max_held: count(
                "spec.activation.maxHeldRequests",
                self.activation.max_held_requests,
            )?,
            max_wakes: count(
                "spec.activation.maxWakesPerHour",
                self.activation.max_wakes_per_hour,
            )?,
        })
    }
}

impl Validate for InferenceDeployment {
    fn validate(&self) -> Result<(), FieldError> {
        self.spec.check_signals()?;
        self.spec.settings().map(drop)
    }
}
