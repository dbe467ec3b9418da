//! Signals of an InferenceDeployment: the demands that `spec.scaling.signals` names, each with a
//! source of its own.

use bursar_core::scaling::{LatencyMeasure, Milli, SignalRule};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantities::{self, FieldError};

/// The most signals of a service.
pub const MAX_SIGNALS: u32 = 8;
/// The requests that a replica should carry where nothing says how many.
pub const DEFAULT_QUEUE_DEPTH: u32 = 8;
/// CEL: names differ, where a signal without a name has that of its type.
pub(crate) const NAMES_RULE: &str = "self.all(s, self.exists_one(other, \
     (has(other.name) ? other.name : other.type.lowerAscii()) == (has(s.name) ? s.name : s.type.lowerAscii())))";
/// CEL: each measure of the engine has one signal at most.
pub(crate) const MEASURES_RULE: &str = "self.all(s, s.type != 'Engine' || self.exists_one(other, other.type == 'Engine' \
     && (has(other.measure) ? other.measure : 'QueueDepth') == (has(s.measure) ? s.measure : 'QueueDepth')))";
/// The message of [`MEASURES_RULE`].
pub(crate) const MEASURES_MESSAGE: &str =
    "at most one signal of type Engine is of each measure; without one it is QueueDepth";
/// The message of [`NAMES_RULE`].
pub(crate) const NAMES_MESSAGE: &str =
    "names of signals must differ; one without a name has that of its type";

/// A measured demand and how much of it one replica should carry. Each signal asks for its value
/// divided by its target, rounded up; the largest number wins.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.target) || has(self.targetLatency) || self.type == 'Engine' && (!has(self.measure) || self.measure == 'QueueDepth')")
        .message("target is missing: how much of the signal one replica should carry"),
    validation = Rule::new("!has(self.measure) || self.type == 'Engine'")
        .message("measure is for signals of type Engine alone"),
    validation = Rule::new("!has(self.target) || self.type != 'Engine' || has(self.measure) && self.measure != 'QueueDepth' || type(self.target) == int && self.target >= 1 && self.target <= 100000")
        .message("target must be at least 1: the queue depth that one replica should carry, a whole number of at most 100000"),
    validation = Rule::new("!has(self.target) || !has(self.measure) || self.measure != 'KVCacheUse' || type(self.target) == int && self.target >= 1 && self.target <= 100")
        .message("target must be from 1 to 100: percent of the KV cache, a whole number"),
    validation = Rule::new("has(self.targetLatency) == (has(self.measure) && self.measure in ['TimeToFirstToken', 'InterTokenLatency'])")
        .message("measure TimeToFirstToken and InterTokenLatency need targetLatency, and no other measure has it"),
    validation = Rule::new("!has(self.targetLatency) || !has(self.target)")
        .message("targetLatency and target exclude each other: give the one of the measure"),
    validation = Rule::new("!(self.type in ['Engine', 'Gateway']) || (!has(self.secretName) && !has(self.pollingInterval))")
        .message("signals of type Engine and Gateway are read from replicas and gateways: they have no pollingInterval and no secretName"),
    validation = Rule::new("self.type != 'External' || !has(self.secretName)")
        .message("a signal of type External is read from the API server: it has no secretName"),
    validation = Rule::new("has(self.prometheus) == (self.type == 'Prometheus')")
        .message("type Prometheus needs the field prometheus, and no other type has it"),
    validation = Rule::new("has(self.redis) == (self.type == 'Redis')")
        .message("type Redis needs the field redis, and no other type has it"),
    validation = Rule::new("has(self.rabbitmq) == (self.type == 'RabbitMQ')")
        .message("type RabbitMQ needs the field rabbitmq, and no other type has it"),
    validation = Rule::new("has(self.kafka) == (self.type == 'Kafka')")
        .message("type Kafka needs the field kafka, and no other type has it"),
    validation = Rule::new("has(self.nats) == (self.type == 'NATS')")
        .message("type NATS needs the field nats, and no other type has it"),
    validation = Rule::new("has(self.http) == (self.type == 'HTTP')")
        .message("type HTTP needs the field http, and no other type has it"),
    validation = Rule::new("has(self.external) == (self.type == 'External')")
        .message("type External needs the field external, and no other type has it")
)]
pub struct SignalSpec {
    /// Where it is read.
    #[serde(rename = "type", default)]
    pub kind: SignalType,
    /// What is measured of the engine; of type Engine alone. Without it: QueueDepth. A service has at most
    /// one signal of each measure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure: Option<EngineMeasure>,
    /// Its name in statuses, messages and metrics; without one, that of its type in lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = "^[a-z]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: Option<String>,
    /// How much of it one replica should carry, at least 1m. Of type Engine: requests waiting, running and
    /// held, a whole number, 8 without it; of measure KVCacheUse percent of the KV cache, from 1 to 100. Of
    /// other types also a quantity such as "500m" or "1.5".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("type(self) == int ? self >= 1 : isQuantity(self) && quantity(self).compareTo(quantity('1m')) >= 0")
        .message("target must be at least 1m: a number, or a quantity such as \"500m\""))]
    pub target: Option<IntOrString>,
    /// The objective of measure TimeToFirstToken or InterTokenLatency: the 95th percentile is to be at most
    /// so long, from 1ms to 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,9}(ms|s|m|h))+$') && duration(self) >= duration('1ms') && duration(self) <= duration('10m')")
        .message("must be a duration from 1ms to 10m, such as \"500ms\""))]
    pub target_latency: Option<String>,
    /// How often it is read, from 1s to 1h; 5s without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]{1,9}(ms|s|m|h))+$') && duration(self) >= duration('1s') && duration(self) <= duration('1h')")
        .message("must be a duration from 1s to 1h, such as \"15s\""))]
    pub polling_interval: Option<String>,
    /// A Secret of this namespace with the label `bursar.dev/signal-credentials: "true"`: `username`,
    /// `password`, `token`, `ca.crt`, `tls.crt` and `tls.key`, as far as the server asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
    pub secret_name: Option<String>,
    /// The result of a PromQL query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusSignal>,
    /// The length of a Redis list, or what a consumer group of a stream has not done yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisSignal>,
    /// The messages of a RabbitMQ queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rabbitmq: Option<RabbitMqSignal>,
    /// The lag of a Kafka consumer group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSignal>,
    /// The messages that a JetStream consumer has not acknowledged yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats: Option<NatsSignal>,
    /// A number in a JSON document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSignal>,
    /// A metric of the external metrics API, as KEDA and metrics adapters serve it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalSignal>,
}

/// Where a signal is read.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignalType {
    /// The engine's metrics, and what gateways hold.
    #[default]
    Engine,
    /// The requests that gateways hold and forward. Needs activation.mode Always, in which all go through
    /// gateways.
    Gateway,
    /// A PromQL query.
    Prometheus,
    /// A list or stream of Redis or Valkey.
    Redis,
    /// A queue of RabbitMQ.
    RabbitMQ,
    /// A consumer group of Kafka.
    Kafka,
    /// A consumer of NATS JetStream.
    #[serde(rename = "NATS")]
    Nats,
    /// A JSON document.
    #[serde(rename = "HTTP")]
    Http,
    /// The external metrics API of the cluster.
    External,
}

impl SignalType {
    /// Its name in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Engine => "Engine",
            Self::Gateway => "Gateway",
            Self::Prometheus => "Prometheus",
            Self::Redis => "Redis",
            Self::RabbitMQ => "RabbitMQ",
            Self::Kafka => "Kafka",
            Self::Nats => "NATS",
            Self::Http => "HTTP",
            Self::External => "External",
        }
    }
}

/// What is measured of the engine; of type Engine alone, and QueueDepth without it. A service has at most
/// one signal of each.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord,
)]
pub enum EngineMeasure {
    /// Requests waiting, running and held.
    #[default]
    QueueDepth,
    /// How full the KV caches are, as a mean over replicas.
    #[serde(rename = "KVCacheUse")]
    KvCacheUse,
    /// The 95th percentile of the time from the arrival of a request to its first token.
    TimeToFirstToken,
    /// The 95th percentile of the time from one token to the next.
    InterTokenLatency,
}

/// A PromQL query.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusSignal {
    /// The server, such as `http://prometheus.monitoring:9090`. The path of the query API is added.
    #[schemars(length(max = 1024), regex(pattern = "^https?://[^@ ]+$"))]
    pub url: String,
    /// The query: its result is a scalar or one sample. Only series of this namespace count: the
    /// selectors of the query get the label `namespace` with its name.
    #[schemars(length(min = 1, max = 4096))]
    pub query: String,
    /// A result without a sample counts as 0. Otherwise it is unknown.
    #[serde(default)]
    pub empty_is_zero: bool,
}

/// A list or stream of Redis or Valkey.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.list) != has(self.stream)").message("give list or stream: the key of what is read"),
    validation = Rule::new("!has(self.consumerGroup) || has(self.stream)").message("consumerGroup needs stream"),
    validation = Rule::new("(self.mode == 'Sentinel') == has(self.masterName)")
        .message("mode Sentinel needs masterName, and no other mode has it"),
    validation = Rule::new("self.mode != 'Standalone' || size(self.addresses) == 1")
        .message("mode Standalone has one address; give mode Sentinel or Cluster for several"),
    validation = Rule::new("self.mode != 'Cluster' || self.database == 0").message("a Redis cluster has database 0 alone")
)]
pub struct RedisSignal {
    /// The servers as `HOST:PORT`: one, or those of the sentinels or of the cluster.
    #[schemars(length(min = 1, max = 16), inner(length(max = 261), regex(pattern = ADDRESS)))]
    pub addresses: Vec<String>,
    /// How they work together.
    #[serde(default)]
    pub mode: RedisMode,
    /// The name by which sentinels know the server that is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub master_name: Option<String>,
    /// The number of the database.
    #[serde(default)]
    #[schemars(range(min = 0, max = 65_535))]
    pub database: i32,
    /// The key of a list: its length counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub list: Option<String>,
    /// The key of a stream: its length counts, or what `consumerGroup` has to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub stream: Option<String>,
    /// The entries count that this group has not read or has not acknowledged yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub consumer_group: Option<String>,
    /// Whether connections use TLS.
    #[serde(default)]
    pub tls: bool,
}

/// `HOST:PORT`, where the host is a name, an IPv4 address or an IPv6 address in brackets.
const ADDRESS: &str = r"^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$";

/// How Redis servers work together.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedisMode {
    /// One server.
    #[default]
    Standalone,
    /// Sentinels know which server is the master.
    Sentinel,
    /// A Redis cluster.
    Cluster,
}

/// A queue of RabbitMQ.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RabbitMqSignal {
    /// The server: `amqp://` or `amqps://HOST:PORT` counts messages that are ready; `http://` or
    /// `https://HOST:PORT` of the management API counts those that are not acknowledged yet, too.
    #[schemars(length(max = 1024), regex(pattern = "^(amqps?|https?)://[^@/ ]+$"))]
    pub url: String,
    /// The virtual host.
    #[serde(default = "default_vhost")]
    #[schemars(length(min = 1, max = 255))]
    pub vhost: String,
    /// The name of the queue.
    #[schemars(length(min = 1, max = 255))]
    pub queue: String,
}

fn default_vhost() -> String {
    "/".to_owned()
}

/// A consumer group of Kafka.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct KafkaSignal {
    /// Brokers as `HOST:PORT`, of which the others are learned.
    #[schemars(length(min = 1, max = 16), inner(length(max = 261), regex(pattern = ADDRESS)))]
    pub bootstrap_servers: Vec<String>,
    /// The group whose lag counts.
    #[schemars(length(min = 1, max = 255))]
    pub consumer_group: String,
    /// The topic: the lags of all its partitions are added.
    #[schemars(length(min = 1, max = 249))]
    pub topic: String,
    /// What counts of a partition of which the group has committed nothing yet, as `auto.offset.reset` of its
    /// consumers is.
    #[serde(default)]
    pub offset_reset_policy: OffsetResetPolicy,
    /// Whether connections use TLS.
    #[serde(default)]
    pub tls: bool,
    /// How it signs in with the `username` and `password` of its Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<SaslMechanism>,
}

/// What counts of a partition without a committed offset.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OffsetResetPolicy {
    /// All that it has.
    Earliest,
    /// One message if it has any: a worker starts, reads from the end and commits.
    #[default]
    Latest,
}

/// A SASL mechanism.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaslMechanism {
    /// PLAIN.
    #[serde(rename = "PLAIN")]
    Plain,
    /// SCRAM-SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// SCRAM-SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

/// A consumer of NATS JetStream.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NatsSignal {
    /// The server: `nats://` or `tls://HOST:PORT`.
    #[schemars(length(max = 1024), regex(pattern = "^(nats|tls)://[^@/ ]+$"))]
    pub url: String,
    /// The stream.
    #[schemars(length(max = 255), regex(pattern = "^[^ .*>/]+$"))]
    pub stream: String,
    /// The durable consumer: the messages count that it has not acknowledged yet.
    #[schemars(length(max = 255), regex(pattern = "^[^ .*>/]+$"))]
    pub consumer: String,
}

/// A number in a JSON document.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HttpSignal {
    /// The address of the document, which is asked for with GET. Redirects are not followed.
    #[schemars(length(max = 2048), regex(pattern = "^https?://[^@ ]+$"))]
    pub url: String,
    /// The place of the number, or of a text that is one, as a JSON pointer (RFC 6901), such as
    /// `/queue/length`.
    #[schemars(length(max = 512), regex(pattern = "^(/.*)?$"))]
    pub json_pointer: String,
}

/// A metric of the external metrics API.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ExternalSignal {
    /// The metric's name.
    #[schemars(length(max = 253), regex(pattern = "^[^/ %?#]+$"))]
    pub metric_name: String,
    /// Which of its values count: they are added. All of this namespace, without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// A signal as last read.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct SignalStatus {
    /// Its name.
    pub name: String,
    /// Where it is read.
    #[serde(rename = "type")]
    pub kind: String,
    /// The last value that was read, as a decimal number; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// When that value was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_at: Option<Time>,
    /// Why it cannot be read now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Default for SignalSpec {
    fn default() -> Self {
        Self {
            kind: SignalType::Engine,
            measure: None,
            name: None,
            target: Some(IntOrString::Int(
                i32::try_from(DEFAULT_QUEUE_DEPTH).unwrap_or(1),
            )),
            target_latency: None,
            polling_interval: None,
            secret_name: None,
            prometheus: None,
            redis: None,
            rabbitmq: None,
            kafka: None,
            nats: None,
            http: None,
            external: None,
        }
    }
}

impl SignalSpec {
    /// Its name.
    pub fn name(&self) -> String {
        let of_type = || self.kind.as_str().to_ascii_lowercase();
        self.name.clone().unwrap_or_else(of_type)
    }

    /// What it measures of the engine; `None` of other types.
    pub fn engine_measure(&self) -> Option<EngineMeasure> {
        let is_engine = self.kind == SignalType::Engine;
        is_engine.then(|| self.measure.unwrap_or_default())
    }

    /// What it measures and how much of it is wanted; `None` if it is the queue depth. `field` is the path
    /// of the signal.
    ///
    /// # Errors
    /// The target cannot be read; the API server's rules let none through.
    pub fn rule(&self, field: &str) -> Result<Option<SignalRule>, FieldError> {
        let latency = |measure| Ok(SignalRule::Latency(measure, self.target_latency(field)?));
        let rule = match self.engine_measure() {
            Some(EngineMeasure::QueueDepth) => return Ok(None),
            Some(EngineMeasure::KvCacheUse) => {
                // percent, and thousandths of a cache
                let part = Milli(self.target(field)?.0 / 100);
                SignalRule::KvCacheUse(part.clamp(Milli(1), Milli(1_000)))
            }
            Some(EngineMeasure::TimeToFirstToken) => latency(LatencyMeasure::TimeToFirstToken)?,
            Some(EngineMeasure::InterTokenLatency) => latency(LatencyMeasure::InterToken)?,
            None if self.kind == SignalType::Gateway => SignalRule::Gateway(self.target(field)?),
            None => SignalRule::Outside(self.target(field)?),
        };
        Ok(Some(rule))
    }

    /// The latency that is its objective. `field` is the path of the signal.
    fn target_latency(&self, field: &str) -> Result<SignedDuration, FieldError> {
        let field = format!("{field}.targetLatency");
        let text = self.target_latency.as_deref();
        let text = text.ok_or_else(|| FieldError::new(&field, "is missing"))?;
        let latency = quantities::duration(&field, text)?;
        let bounds = SignedDuration::from_millis(1)..=SignedDuration::from_mins(10);
        match bounds.contains(&latency) {
            true => Ok(latency),
            false => Err(FieldError::new(field, "must be between 1ms and 10m")),
        }
    }

    /// How much of it one replica should carry. `field` is the path of the signal.
    ///
    /// # Errors
    /// The target is missing or not an amount above 0; the API server's rules let none through.
    pub fn target(&self, field: &str) -> Result<Milli, FieldError> {
        let refuse = |why: &dyn std::fmt::Display| FieldError::new(format!("{field}.target"), why);
        match &self.target {
            None if self.engine_measure() == Some(EngineMeasure::QueueDepth) => {
                Ok(Milli::from_units(DEFAULT_QUEUE_DEPTH))
            }
            None => Err(refuse(&"is missing")),
            Some(IntOrString::Int(number)) => match u32::try_from(*number) {
                Ok(number) if number > 0 => Ok(Milli::from_units(number)),
                _ => Err(refuse(&"must be above 0")),
            },
            Some(IntOrString::String(text)) => {
                let nanos = quantities::nanos(&Quantity(text.clone()));
                let nanos = nanos.map_err(|error| refuse(&error))?;
                match nanos.div_euclid(1_000_000) {
                    ..=0 => Err(refuse(&"must be at least 1m, a thousandth")),
                    milli => Ok(Milli(u64::try_from(milli).unwrap_or(u64::MAX))),
                }
            }
        }
    }

    /// How often it is read. `field` is the path of the signal.
    ///
    /// # Errors
    /// It is no duration from a second to an hour; the API server's rules let none through.
    pub fn polling_interval(&self, field: &str) -> Result<SignedDuration, FieldError> {
        let Some(text) = &self.polling_interval else {
            return Ok(SignedDuration::from_secs(5));
        };
        let field = format!("{field}.pollingInterval");
        let interval = quantities::duration(&field, text)?;
        let bounds = SignedDuration::from_secs(1)..=SignedDuration::from_hours(1);
        match bounds.contains(&interval) {
            true => Ok(interval),
            false => Err(FieldError::new(field, "must be between 1s and 1h")),
        }
    }
}

#[cfg(test)]
mod tests {
    use bursar_core::scaling::RequestSignal;
    use serde_json::{Value, json};

    use super::*;
    use crate::lenient::Validate;

    fn signal(target: Option<IntOrString>) -> SignalSpec {
        SignalSpec {
            kind: SignalType::Redis,
            target,
            ..SignalSpec::default()
        }
    }

    #[test]
    fn targets_are_read_to_a_thousandth_and_must_be_above_zero() {
        let text = |text: &str| Some(IntOrString::String(text.to_owned()));
        for (target, milli) in [
            (Some(IntOrString::Int(5)), Ok(5_000)),
            (text("500m"), Ok(500)),
            (text("1.5"), Ok(1_500)),
            (text("2k"), Ok(2_000_000)),
            (text("100u"), Err("at least 1m")),
            (text("0"), Err("at least 1m")),
            (text("-3"), Err("at least 1m")),
            (text("many"), Err("is not a quantity")),
            (Some(IntOrString::Int(0)), Err("above 0")),
            (None, Err("is missing")),
        ] {
            let read = signal(target.clone()).target("spec.scaling.signals[1]");
            match (read, milli) {
                (Ok(read), Ok(milli)) => assert_eq!(read, Milli(milli), "{target:?}"),
                (Err(error), Err(why)) => {
                    assert!(error.why.contains(why), "{error}");
                    assert_eq!(error.field, "spec.scaling.signals[1].target");
                }
                (read, _) => panic!("{target:?} is read as {read:?}"),
            }
        }
        let engine = SignalSpec {
            target: None,
            ..SignalSpec::default()
        };
        assert_eq!(engine.target("").unwrap(), Milli(8_000));
    }

    #[test]
    fn a_signal_without_a_name_has_that_of_its_type() {
        assert_eq!(signal(None).name(), "redis");
        let named = SignalSpec {
            name: Some("jobs".to_owned()),
            ..signal(None)
        };
        assert_eq!(named.name(), "jobs");
    }

    /// A service with this engine and these signals, and what else it says.
    fn service(engine: &str, signals: Value, further: Value) -> crate::InferenceDeployment {
        let mut spec = json!({
            "engine": engine, "maxReplicas": 3, "scaling": {"signals": signals},
            "template": {"spec": {"containers": [{"name": "engine", "image": "engine"}]}},
        });
        let fields = further.as_object().unwrap().clone();
        spec.as_object_mut().unwrap().extend(fields);
        serde_json::from_value(json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment",
            "metadata": {"name": "chat", "namespace": "team"}, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn each_measure_is_a_rule_of_its_own_and_the_queue_depth_is_that_of_requests() {
        let signals = json!([
            {"type": "Engine", "target": 64},
            {"type": "Engine", "name": "kv", "measure": "KVCacheUse", "target": 85},
            {"type": "Engine", "name": "first", "measure": "TimeToFirstToken", "targetLatency": "1s500ms"},
            {"type": "Engine", "name": "next", "measure": "InterTokenLatency", "targetLatency": "40ms"},
            {"type": "Gateway", "target": 4},
        ]);
        let chat = service("vLLM", signals, json!({"activation": {"mode": "Always"}}));
        chat.validate().unwrap();
        let settings = chat.spec.settings().unwrap();
        assert_eq!(settings.request_signal, RequestSignal::Target(64));
        let latency =
            |measure, millis| SignalRule::Latency(measure, SignedDuration::from_millis(millis));
        let expected = [
            ("kv", SignalRule::KvCacheUse(Milli(850))),
            ("first", latency(LatencyMeasure::TimeToFirstToken, 1_500)),
            ("next", latency(LatencyMeasure::InterToken, 40)),
            ("gateway", SignalRule::Gateway(Milli(4_000))),
        ];
        let expected = expected.map(|(name, rule)| (name.to_owned(), rule));
        assert_eq!(settings.signals, expected);
    }

    #[test]
    fn without_the_queue_depth_requests_keep_a_replica_and_a_custom_engine_needs_no_metrics() {
        let cache = json!([{"measure": "KVCacheUse", "target": 80}]);
        let settings = service("vLLM", cache, json!({})).spec.settings().unwrap();
        assert_eq!(settings.request_signal, RequestSignal::Activity);
        let gateway = json!([{"type": "Gateway", "target": 4}]);
        let port = json!({"engineOptions": {"port": 9000}});
        let custom = service("Custom", gateway, port.clone());
        custom.validate().unwrap();
        let settings = custom.spec.settings().unwrap();
        assert_eq!(settings.request_signal, RequestSignal::AtGateways);
        let error = service("Custom", json!([{"target": 4}]), port).validate();
        assert_eq!(error.unwrap_err().field, "spec.scaling.signals[0].measure");
    }

    #[test]
    fn a_measure_that_an_engine_does_not_tell_is_refused_until_it_is_named() {
        let first = json!([{"measure": "TimeToFirstToken", "targetLatency": "500ms"}]);
        let refused = service("TGI", first.clone(), json!({})).validate();
        assert_eq!(
            refused.unwrap_err().field,
            "spec.scaling.signals[0].measure"
        );
        let named =
            json!({"engineOptions": {"metrics": {"timeToFirstToken": ["first_token_seconds"]}}});
        service("TGI", first, named).validate().unwrap();
        let missing = json!([{"measure": "TimeToFirstToken"}]);
        let error = service("vLLM", missing, json!({})).validate().unwrap_err();
        assert_eq!(error.field, "spec.scaling.signals[0].targetLatency");
    }

    #[test]
    fn the_rules_refuse_the_measures_of_just_the_engines_that_have_no_preset_of_them() {
        use crate::engine::options::{first_token_rule, inter_token_rule, kv_cache_rule};
        for (measure, rule) in [
            (EngineMeasure::KvCacheUse, kv_cache_rule()),
            (EngineMeasure::TimeToFirstToken, first_token_rule()),
            (EngineMeasure::InterTokenLatency, inter_token_rule()),
        ] {
            for engine in [
                "vLLM",
                "SGLang",
                "TGI",
                "Triton",
                "TensorRTLLM",
                "LlamaCpp",
                "TensorFlowServing",
                "TorchServe",
                "RayServe",
            ] {
                let chat = service(engine, json!([{"target": 1}]), json!({}));
                let settings = chat.spec.engine_settings().unwrap().unwrap();
                let is_refused = rule.contains(&format!("'{engine}'"));
                assert_eq!(
                    is_refused,
                    settings.measure(measure).is_empty(),
                    "{engine}: {rule}"
                );
            }
            assert!(rule.contains("'Custom'"));
        }
    }
}
