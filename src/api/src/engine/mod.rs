//! The inference engine of an InferenceDeployment: where it listens and what its metrics are called.
//!
//! | module | subject |
//! |---|---|
//! | [`presets`] | what is known of each engine |
//! | [`options`] | what a manifest says beyond that |
//! | [`series_selector`] | which series of a page make a number |

pub mod options;
pub mod presets;
pub mod series_selector;

use std::borrow::Cow;

use bursar_core::model::event::Counting;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantities::FieldError;
use crate::signal::EngineMeasure;

use options::{EngineOptions, MetricNames, TimeUnit};
use presets::{Preset, preset};
use series_selector::SeriesSelector;

/// An inference engine.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// vLLM's OpenAI-compatible server.
    #[serde(rename = "vLLM")]
    Vllm,
    /// SGLang, started with --enable-metrics.
    #[serde(rename = "SGLang")]
    Sglang,
    /// Text Generation Inference of Hugging Face.
    #[serde(rename = "TGI")]
    Tgi,
    /// Triton Inference Server, with any of its backends.
    Triton,
    /// trtllm-serve of TensorRT-LLM, with return_perf_metrics and enable_iter_perf_stats.
    #[serde(rename = "TensorRTLLM")]
    TensorRtLlm,
    /// The server of llama.cpp, started with --metrics.
    LlamaCpp,
    /// TensorFlow Serving, with a monitoring_config_file.
    TensorFlowServing,
    /// TorchServe, with metrics_mode=prometheus.
    TorchServe,
    /// Ray Serve, in one pod a replica.
    RayServe,
    /// Any other: `engineOptions` says all of it.
    Custom,
    /// None: replicas take no requests, but work from a queue. They have no Service, and follow signals
    /// of other types than Engine.
    None,
}

/// The alternatives of a metric, by versions of the engine: the first that is on the page counts,
/// with the sum of its series. Those behind the first may be missing.
pub type Alternatives = Vec<Vec<SeriesSelector>>;

/// All that is known of a service's engine: its preset, and what differs from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSettings {
    /// The port of its requests.
    pub port: u16,
    /// The port of its metrics.
    pub metrics_port: u16,
    /// The path of its metrics.
    pub metrics_path: String,
    /// The path that answers 200 once the model is loaded, if there is one.
    pub health_path: Option<String>,
    /// Paths whose answers need no model, as clients of monitoring and discovery ask for them. A
    /// request for one of them wakes no service.
    pub paths_without_model: Vec<String>,
    /// Ways to tell how many requests are on a replica: the first of which all metrics are on the page
    /// counts. None of a custom engine without metrics, of which nothing is read.
    pub loads: Vec<Load>,
    /// Counter: requests that ended. That the counters stand still is what idle means.
    pub requests: Alternatives,
    /// Counter: tokens read.
    pub input_tokens: Alternatives,
    /// Counter: tokens written.
    pub output_tokens: Alternatives,
    /// Gauge: the part of the KV cache that is used.
    pub kv_cache_use: Alternatives,
    /// Histogram: the time to the first token, in seconds.
    pub time_to_first_token: Alternatives,
    /// Histogram: the time between two tokens, in seconds.
    pub inter_token_latency: Alternatives,
    /// How soon its page shows what it does.
    pub counting: Counting,
    /// See [`Preset::idle_page`].
    pub idle_page: Option<&'static [&'static str]>,
}

/// A way to tell how many requests are on a replica. A metric without alternatives is none of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Gauge: requests that wait.
    pub queued: Alternatives,
    /// Gauge: requests that run.
    pub running: Alternatives,
    /// Counter of the time that requests took.
    pub request_time: Alternatives,
    /// The unit of that time: so many are a second.
    pub units_per_second: u32,
}

/// The port of an engine's requests, with the one that its options name; `None` of a custom engine
/// that names none.
pub fn port(engine: Engine, option: Option<i32>) -> Option<u16> {
    let option = option.and_then(|port| u16::try_from(port).ok());
    option.or_else(|| Some(preset(engine)?.port))
}

impl EngineSettings {
    /// The settings of an engine with these options. `model` is the name by which some engines tell
    /// series of one model from those of its parts.
    ///
    /// # Errors
    /// An option that cannot be read, or that a custom engine needs; the API server's rules let none
    /// through.
    pub fn new(
        engine: Engine,
        model: Option<&str>,
        options: Option<&EngineOptions>,
    ) -> Result<Self, FieldError> {
        let none = EngineOptions::default();
        let options = options.unwrap_or(&none);
        let preset = preset(engine);
        let mut settings = match preset {
            Some(preset) => Self::of_preset(preset, model)?,
            None => Self::of_custom(options)?,
        };
        let number = |field: &str, number: Option<i32>| {
            let number = number.map(u16::try_from).transpose();
            number.map_err(|_| FieldError::new(field, "must be between 1 and 65535"))
        };
        if let Some(port) = number("spec.engineOptions.port", options.port)? {
            let has_own = preset.is_some_and(|preset| preset.metrics_port.is_some());
            settings.port = port;
            settings.metrics_port = if has_own { settings.metrics_port } else { port };
        }
        if let Some(port) = number("spec.engineOptions.metricsPort", options.metrics_port)? {
            settings.metrics_port = port;
        }
        if let Some(path) = &options.metrics_path {
            settings.metrics_path.clone_from(path);
        }
        if options.health_path.is_some() {
            settings.health_path.clone_from(&options.health_path);
        }
        if let Some(paths) = &options.paths_without_model {
            settings.paths_without_model.clone_from(paths);
        }
        let own = [Some(&settings.metrics_path), settings.health_path.as_ref()];
        for path in own.into_iter().flatten() {
            if !settings.paths_without_model.contains(path) {
                settings.paths_without_model.push(path.clone());
            }
        }
        if let Some(metrics) = &options.metrics {
            settings.rename_metrics(metrics)?;
        }
        Ok(settings)
    }

    /// The metrics of a measure; none of the queue depth, which has several.
    pub fn measure(&self, measure: EngineMeasure) -> &[Vec<SeriesSelector>] {
        match measure {
            EngineMeasure::QueueDepth => &[],
            EngineMeasure::KvCacheUse => &self.kv_cache_use,
            EngineMeasure::TimeToFirstToken => &self.time_to_first_token,
            EngineMeasure::InterTokenLatency => &self.inter_token_latency,
        }
    }

    fn of_preset(preset: &Preset, model: Option<&str>) -> Result<Self, FieldError> {
        let read = |names: &[&str]| {
            let names = names
                .iter()
                .filter_map(|name| presets::of_model(name, model));
            alternatives("engine", names)
        };
        let loads = preset.loads.iter().map(|load| {
            Ok(Load {
                queued: read(load.queued)?,
                running: read(load.running)?,
                request_time: read(load.request_time)?,
                units_per_second: load.unit.per_second(),
            })
        });
        let paths = preset.paths_without_model.iter();
        let paths = paths.filter_map(|path| presets::of_model(path, model));
        Ok(Self {
            port: preset.port,
            metrics_port: preset.metrics_port.unwrap_or(preset.port),
            metrics_path: preset.metrics_path.to_owned(),
            health_path: preset.health_path.map(str::to_owned),
            paths_without_model: paths.map(Cow::into_owned).collect(),
            loads: loads.collect::<Result<_, FieldError>>()?,
            requests: read(preset.requests)?,
            input_tokens: read(preset.input_tokens)?,
            output_tokens: read(preset.output_tokens)?,
            kv_cache_use: read(preset.kv_cache_use)?,
            time_to_first_token: read(preset.time_to_first_token)?,
            inter_token_latency: read(preset.inter_token_latency)?,
            counting: preset.counting,
            idle_page: preset.idle_page,
        })
    }

    /// What a custom engine has before its options are taken.
    fn of_custom(options: &EngineOptions) -> Result<Self, FieldError> {
        let missing = |field: &str| FieldError::new(field, options::CUSTOM_MESSAGE);
        if options.port.is_none() {
            return Err(missing("spec.engineOptions.port"));
        }
        Ok(Self {
            port: 0,
            metrics_port: 0,
            metrics_path: "/metrics".to_owned(),
            health_path: None,
            paths_without_model: Vec::new(),
            loads: Vec::new(),
            requests: Vec::new(),
            input_tokens: Vec::new(),
            output_tokens: Vec::new(),
            kv_cache_use: Vec::new(),
            time_to_first_token: Vec::new(),
            inter_token_latency: Vec::new(),
            counting: Counting::AtEnd,
            idle_page: None,
        })
    }

    fn rename_metrics(&mut self, names: &MetricNames) -> Result<(), FieldError> {
        let read = |field: &str, names: &[String]| {
            let field = format!("spec.engineOptions.metrics.{field}");
            alternatives(&field, names.iter().map(String::as_str))
        };
        if names.has_load() {
            self.idle_page = None;
            self.loads = vec![Load {
                queued: read("queued", &names.queued)?,
                running: read("running", &names.running)?,
                request_time: read("requestTime", &names.request_time)?,
                units_per_second: names.request_time_unit.per_second(),
            }];
        }
        for (field, names, own) in [
            ("requests", &names.requests, &mut self.requests),
            ("inputTokens", &names.input_tokens, &mut self.input_tokens),
            (
                "outputTokens",
                &names.output_tokens,
                &mut self.output_tokens,
            ),
            ("kvCacheUse", &names.kv_cache_use, &mut self.kv_cache_use),
            (
                "timeToFirstToken",
                &names.time_to_first_token,
                &mut self.time_to_first_token,
            ),
            (
                "interTokenLatency",
                &names.inter_token_latency,
                &mut self.inter_token_latency,
            ),
        ] {
            if !names.is_empty() {
                *own = read(field, names)?;
            }
        }
        Ok(())
    }
}

fn alternatives(
    field: &str,
    names: impl IntoIterator<Item = impl AsRef<str>>,
) -> Result<Alternatives, FieldError> {
    let read = |(index, name): (usize, _)| {
        let name: &str = AsRef::as_ref(&name);
        series_selector::parse(name)
            .map_err(|why| FieldError::new(format!("{field}[{index}]"), why))
    };
    names.into_iter().enumerate().map(read).collect()
}

impl TimeUnit {
    fn per_second(self) -> u32 {
        match self {
            Self::Seconds => 1,
            Self::Milliseconds => 1_000,
            Self::Microseconds => 1_000_000,
        }
    }
}
