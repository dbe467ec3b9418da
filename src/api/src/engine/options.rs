//! What an InferenceDeployment says of its engine beyond its name: `spec.engineOptions`.

use std::sync::LazyLock;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::series_selector::{self, SERIES_MESSAGE};

/// The most alternatives of a metric.
const MOST_NAMES: usize = 4;
/// The most paths without a model.
const MOST_PATHS: usize = 16;
const PATH: &str = "^/[!-~]*$";
/// CEL: a custom engine says where it listens and how many requests are on it.
pub(crate) const CUSTOM_RULE: &str = "self.engine != 'Custom' || has(self.engineOptions) && has(self.engineOptions.port) \
    && (has(self.engineOptions.metrics) && (has(self.engineOptions.metrics.queued) \
    || has(self.engineOptions.metrics.running) || has(self.engineOptions.metrics.requestTime)) \
    || self.scaling.signals.exists(s, s.type == 'Gateway') && self.scaling.signals.all(s, s.type != 'Engine'))";
/// The message of [`CUSTOM_RULE`].
pub(crate) const CUSTOM_MESSAGE: &str = "a Custom engine needs engineOptions.port, and in engineOptions.metrics queued, running or requestTime: \
    they tell how many requests are on a replica. Without them, give signals of type Gateway and none of type Engine";

/// CEL: the engine has a metric for a measure, by its preset or by this option.
fn measure_rule(measure: &str, option: &str, engines_without: &str) -> String {
    format!(
        "!(self.engine in [{engines_without}]) || self.scaling.signals.all(s, !has(s.measure) || s.measure != '{measure}') \
         || has(self.engineOptions) && has(self.engineOptions.metrics) && has(self.engineOptions.metrics.{option})"
    )
}

/// CEL: an engine whose KV cache is measured shows how full it is.
pub(crate) fn kv_cache_rule() -> &'static str {
    static RULE: LazyLock<String> = LazyLock::new(|| {
        let engines = "'TGI', 'TensorFlowServing', 'TorchServe', 'Custom'";
        measure_rule("KVCacheUse", "kvCacheUse", engines)
    });
    &RULE
}
/// The message of [`kv_cache_rule`].
pub(crate) const KV_CACHE_MESSAGE: &str = "this engine has no metric of its KV cache that is known: measure KVCacheUse needs engineOptions.metrics.kvCacheUse";

/// CEL: an engine whose time to the first token is measured shows it.
pub(crate) fn first_token_rule() -> &'static str {
    static RULE: LazyLock<String> = LazyLock::new(|| {
        let engines = "'TGI', 'LlamaCpp', 'TensorFlowServing', 'TorchServe', 'Custom'";
        measure_rule("TimeToFirstToken", "timeToFirstToken", engines)
    });
    &RULE
}
/// The message of [`first_token_rule`].
pub(crate) const FIRST_TOKEN_MESSAGE: &str = "this engine has no histogram of the time to the first token that is known: \
    measure TimeToFirstToken needs engineOptions.metrics.timeToFirstToken";

/// CEL: an engine whose time between tokens is measured shows it.
pub(crate) fn inter_token_rule() -> &'static str {
    static RULE: LazyLock<String> = LazyLock::new(|| {
        let engines = "'LlamaCpp', 'TensorFlowServing', 'TorchServe', 'Custom'";
        measure_rule("InterTokenLatency", "interTokenLatency", engines)
    });
    &RULE
}
/// The message of [`inter_token_rule`].
pub(crate) const INTER_TOKEN_MESSAGE: &str = "this engine has no histogram of the time between tokens that is known: \
    measure InterTokenLatency needs engineOptions.metrics.interTokenLatency";

/// What differs from the engine's preset. An engine that is `Custom` has none and needs a port and
/// the metrics of its load.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EngineOptions {
    /// The port on which it takes requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 65_535))]
    #[x_kube(validation = Rule::new("self >= 1").message("port must be between 1 and 65535"))]
    pub port: Option<i32>,
    /// The port of its metrics; that of requests, where neither this nor the preset names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 65_535))]
    #[x_kube(validation = Rule::new("self >= 1").message("metricsPort must be between 1 and 65535"))]
    pub metrics_port: Option<i32>,
    /// The path of its metrics; `/metrics` of a custom engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = PATH))]
    pub metrics_path: Option<String>,
    /// The path that answers 200 once the model is loaded: the readiness probe of a serving container
    /// that has none. A custom engine without it gets a probe that connects to its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256), regex(pattern = PATH))]
    pub health_path: Option<String>,
    /// Paths whose answers need no model: requests for them wake no service. The paths of health and
    /// metrics are always among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MOST_PATHS), inner(length(max = 256), regex(pattern = PATH)))]
    pub paths_without_model: Option<Vec<String>>,
    /// What its metrics are called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<MetricNames>,
}

/// The names of an engine's metrics. Each is a list, since versions call them differently: the first
/// that is on the page counts. `queue{pool="chat"} + swapped` adds series; those behind the first may
/// be missing.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.requestTime) || has(self.requests)")
        .message("requestTime needs requests: a request that goes on for long is in neither until it ends, and its beginning or end must show"),
    validation = Rule::new("!has(self.running) || !has(self.requestTime)")
        .message("running and requestTime exclude each other: requestTime is for engines without a gauge of what runs")
)]
pub struct MetricNames {
    /// Gauge: requests that wait.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "alternatives")]
    pub queued: Vec<String>,
    /// Gauge: requests that run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "alternatives")]
    pub running: Vec<String>,
    /// Counter of the time that requests took, for engines without a gauge of those that run: its growth
    /// is their mean number over the time of three requests, from ten seconds to five minutes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "alternatives")]
    pub request_time: Vec<String>,
    /// The unit of `requestTime`.
    #[serde(default)]
    pub request_time_unit: TimeUnit,
    /// Counter: requests that ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "alternatives")]
    pub requests: Vec<String>,
    /// Counter: tokens read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "alternatives")]
    pub input_tokens: Vec<String>,
    /// Counter: tokens written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "alternatives")]
    pub output_tokens: Vec<String>,
    /// Gauge: the part of the KV cache that is used, from 0 to 1. The mean of its series counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "alternatives")]
    pub kv_cache_use: Vec<String>,
    /// Histogram of the time to the first token in seconds, by its name without `_bucket`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "alternatives")]
    pub time_to_first_token: Vec<String>,
    /// Histogram of the time between two tokens in seconds, by its name without `_bucket`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "alternatives")]
    pub inter_token_latency: Vec<String>,
}

/// A unit of time.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds, as Prometheus recommends.
    #[default]
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Microseconds.
    #[serde(rename = "us")]
    Microseconds,
}

impl MetricNames {
    /// Whether it tells how many requests are on a replica.
    pub(crate) fn has_load(&self) -> bool {
        let load = [&self.queued, &self.running, &self.request_time];
        load.iter().any(|names| !names.is_empty())
    }
}

/// The schema of a metric's names.
fn alternatives(_: &mut SchemaGenerator) -> Schema {
    let pattern = series_selector::pattern();
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": MOST_NAMES,
        "items": {"type": "string", "maxLength": 256},
        "x-kubernetes-validations": [{
            "rule": format!("self.all(name, name.matches(r'{pattern}'))"),
            "message": SERIES_MESSAGE,
        }],
    })
}
