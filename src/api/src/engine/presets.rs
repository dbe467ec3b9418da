//! What is known of each engine. Where versions call a metric differently, all names are listed, the
//! newest first; `docs/engines.md` says since when, and what to switch on.

use std::borrow::Cow;

use bursar_core::model::event::Counting;

use super::Engine;
use super::options::TimeUnit;

/// Where an engine listens and what its metrics are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// The port of its requests.
    pub port: u16,
    /// The port of its metrics, if they have one of their own.
    pub metrics_port: Option<u16>,
    /// The path of its metrics.
    pub metrics_path: &'static str,
    /// The path that answers 200 once the model is loaded: the readiness probe of a container that has
    /// none. Without one, the port is open from then on.
    pub health_path: Option<&'static str>,
    /// Paths whose answers need no model.
    pub paths_without_model: &'static [&'static str],
    /// Ways to tell how many requests are on a replica: the first of which all metrics are on the page
    /// counts.
    pub loads: &'static [LoadNames],
    /// Counter: requests that ended.
    pub requests: &'static [&'static str],
    /// Counter: tokens read.
    pub input_tokens: &'static [&'static str],
    /// Counter: tokens written.
    pub output_tokens: &'static [&'static str],
    /// Gauge: the part of the KV cache that is used, from 0 to 1.
    pub kv_cache_use: &'static [&'static str],
    /// Histogram: the time to the first token, in seconds.
    pub time_to_first_token: &'static [&'static str],
    /// Histogram: the time between two tokens, in seconds.
    pub inter_token_latency: &'static [&'static str],
    /// How soon its page shows what it does.
    pub counting: Counting,
    /// The engine shows a metric from its first value on. A page with no series but those that begin so
    /// is of one that has had no request yet; `None` if it shows all from the start.
    pub idle_page: Option<&'static [&'static str]>,
}

/// The names of the metrics that tell how many requests are on a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadNames {
    /// Gauge: requests that wait.
    pub queued: &'static [&'static str],
    /// Gauge: requests that run.
    pub running: &'static [&'static str],
    /// Counter of the time that requests took, where no gauge tells of those that run.
    pub request_time: &'static [&'static str],
    /// Its unit.
    pub unit: TimeUnit,
}

impl LoadNames {
    const NONE: Self = Self {
        queued: &[],
        running: &[],
        request_time: &[],
        unit: TimeUnit::Seconds,
    };

    const fn gauges(queued: &'static [&'static str], running: &'static [&'static str]) -> Self {
        Self {
            queued,
            running,
            ..Self::NONE
        }
    }

    const fn time(request_time: &'static [&'static str], unit: TimeUnit) -> Self {
        Self {
            request_time,
            unit,
            ..Self::NONE
        }
    }
}

/// Stands for the service's `model` in a name. Without one, such a name is left out.
const MODEL: &str = "$MODEL";

/// A name with the service's model in it.
pub(super) fn of_model<'n>(name: &'n str, model: Option<&str>) -> Option<Cow<'n, str>> {
    if !name.contains(MODEL) {
        return Some(name.into());
    }
    let model = model.filter(|model| !model.contains(['"', '\\', '\n']))?;
    Some(name.replace(MODEL, model).into())
}

/// The preset of an engine; `None` of a custom one.
pub fn preset(engine: Engine) -> Option<&'static Preset> {
    match engine {
        Engine::Vllm => Some(&VLLM),
        Engine::Sglang => Some(&SGLANG),
        Engine::Tgi => Some(&TGI),
        Engine::Triton => Some(&TRITON),
        Engine::TensorRtLlm => Some(&TENSORRT_LLM),
        Engine::LlamaCpp => Some(&LLAMA_CPP),
        Engine::TensorFlowServing => Some(&TENSORFLOW_SERVING),
        Engine::TorchServe => Some(&TORCH_SERVE),
        Engine::RayServe => Some(&RAY_SERVE),
        Engine::Custom | Engine::None => None,
    }
}

/// vLLM. V0 counts requests whose cache was swapped out apart from those that wait.
///
/// <https://docs.vllm.ai/en/stable/usage/metrics/>
const VLLM: Preset = Preset {
    port: 8000,
    metrics_port: None,
    metrics_path: "/metrics",
    health_path: Some("/health"),
    paths_without_model: &["/metrics", "/health", "/ping", "/version", "/v1/models"],
    loads: &[LoadNames::gauges(
        &["vllm:num_requests_waiting + vllm:num_requests_swapped"],
        &["vllm:num_requests_running"],
    )],
    requests: &["vllm:request_success_total"],
    input_tokens: &["vllm:prompt_tokens_total"],
    output_tokens: &["vllm:generation_tokens_total"],
    kv_cache_use: &["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"],
    time_to_first_token: &["vllm:time_to_first_token_seconds"],
    inter_token_latency: &[
        "vllm:inter_token_latency_seconds",
        "vllm:time_per_output_token_seconds",
    ],
    counting: Counting::EachStep,
    idle_page: None,
};

/// SGLang. With priorities, the series without one has the sum of the others; stages of a pipeline
/// repeat the numbers of the first.
///
/// <https://docs.sglang.ai/references/production_metrics.html>
const SGLANG: Preset = Preset {
    port: 30_000,
    metrics_port: None,
    metrics_path: "/metrics",
    health_path: Some("/health"),
    paths_without_model: &[
        "/metrics",
        "/health",
        "/health_generate",
        "/ping",
        "/v1/models",
        "/model_info",
        "/get_model_info",
        "/server_info",
        "/get_server_info",
        "/get_load",
    ],
    loads: &[
        LoadNames::gauges(
            &[
                concat!(
                    r#"sglang:num_queue_reqs{priority="",pp_rank="0"}"#,
                    r#" + sglang:num_grammar_queue_reqs{priority="",pp_rank="0"}"#,
                ),
                r#"sglang:num_queue_reqs{priority="",pp_rank=""}"#,
            ],
            &[
                r#"sglang:num_running_reqs{priority="",pp_rank="0"}"#,
                r#"sglang:num_running_reqs{priority="",pp_rank=""}"#,
            ],
        ),
        LoadNames::gauges(
            &["sglang:num_requests_waiting"],
            &["sglang:num_requests_running"],
        ),
    ],
    requests: &[
        "sglang:num_requests_total",
        "sglang:e2e_request_latency_seconds_count",
    ],
    input_tokens: &["sglang:prompt_tokens_total"],
    output_tokens: &["sglang:generation_tokens_total"],
    kv_cache_use: &["sglang:token_usage"],
    time_to_first_token: &["sglang:time_to_first_token_seconds"],
    inter_token_latency: &[
        "sglang:inter_token_latency_seconds",
        "sglang:time_per_output_token_seconds",
    ],
    counting: Counting::AtEnd,
    idle_page: Some(&["python_", "process_"]),
};

/// Text Generation Inference. Chat requests count twice in `tgi_request_count`.
///
/// <https://huggingface.co/docs/text-generation-inference/reference/metrics>
const TGI: Preset = Preset {
    port: 80,
    metrics_port: None,
    metrics_path: "/metrics",
    health_path: Some("/health"),
    paths_without_model: &["/metrics", "/health", "/ping", "/info", "/v1/models"],
    loads: &[LoadNames::gauges(
        &["tgi_queue_size"],
        &["tgi_batch_current_size"],
    )],
    requests: &["tgi_request_success"],
    input_tokens: &["tgi_request_input_length_sum"],
    output_tokens: &["tgi_request_generated_tokens_sum"],
    kv_cache_use: &[],
    time_to_first_token: &[],
    inter_token_latency: &["tgi_request_mean_time_per_token_duration"],
    counting: Counting::AtEnd,
    idle_page: Some(&[
        "tgi_batch_max_total_tokens",
        "tgi_batch_total_tokens",
        // what was refused has come to no queue
        "tgi_request_count",
        "tgi_request_failure",
    ]),
};

/// Triton Inference Server. Its TensorRT-LLM backend has gauges of its own. An ensemble counts each
/// request once more for each of its parts: with `model`, those of that model count alone.
///
/// <https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html>
const TRITON: Preset = Preset {
    port: 8000,
    metrics_port: Some(8002),
    metrics_path: "/metrics",
    health_path: Some("/v2/health/ready"),
    paths_without_model: &[
        "/v2",
        "/v2/health/ready",
        "/v2/health/live",
        "/v2/models/stats",
        "/v1/models",
        "/metrics",
    ],
    loads: &[
        LoadNames::gauges(
            &[r#"nv_trt_llm_request_metrics{request_type="waiting"}"#],
            &[r#"nv_trt_llm_request_metrics{request_type="scheduled"}"#],
        ),
        LoadNames::gauges(
            &[],
            &[r#"nv_trt_llm_request_metrics{request_type="active"}"#],
        ),
        LoadNames {
            queued: &["nv_inference_pending_request_count"],
            request_time: &[
                concat!(
                    r#"nv_inference_compute_infer_duration_us{model="$MODEL"}"#,
                    r#" + nv_inference_compute_input_duration_us{model="$MODEL"}"#,
                    r#" + nv_inference_compute_output_duration_us{model="$MODEL"}"#,
                ),
                concat!(
                    "nv_inference_compute_infer_duration_us",
                    " + nv_inference_compute_input_duration_us",
                    " + nv_inference_compute_output_duration_us",
                ),
            ],
            unit: TimeUnit::Microseconds,
            ..LoadNames::NONE
        },
        LoadNames::time(
            &[
                r#"nv_inference_request_duration_us{model="$MODEL"}"#,
                "nv_inference_request_duration_us",
            ],
            TimeUnit::Microseconds,
        ),
    ],
    requests: &[
        r#"nv_inference_request_success{model="$MODEL"} + nv_inference_request_failure{model="$MODEL"}"#,
        "nv_llm_output_token_len_count",
        "nv_inference_request_success + nv_inference_request_failure",
    ],
    input_tokens: &["nv_llm_input_token_len_sum", "vllm:prompt_tokens_total"],
    output_tokens: &[
        "nv_llm_output_token_len_sum",
        "vllm:generation_tokens_total",
    ],
    kv_cache_use: &[
        r#"nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction"}"#,
        "vllm:gpu_cache_usage_perc",
    ],
    time_to_first_token: &["vllm:time_to_first_token_seconds"],
    inter_token_latency: &["vllm:time_per_output_token_seconds"],
    counting: Counting::AtEnd,
    idle_page: None,
};

/// trtllm-serve. Versions before 2026 have no gauge of requests; their time tells of them. The gauges
/// are renewed when a request ends, so that the first ones show late.
///
/// <https://nvidia.github.io/TensorRT-LLM/commands/trtllm-serve/trtllm-serve.html>
const TENSORRT_LLM: Preset = Preset {
    port: 8000,
    metrics_port: None,
    metrics_path: "/prometheus/metrics",
    health_path: Some("/health"),
    paths_without_model: &[
        "/prometheus/metrics",
        "/metrics",
        "/health",
        "/health_generate",
        "/version",
        "/v1/models",
        "/server_info",
        "/perf_metrics",
    ],
    loads: &[
        LoadNames::gauges(
            &["trtllm_num_requests_waiting"],
            &["trtllm_num_requests_running"],
        ),
        LoadNames::time(
            &["trtllm_e2e_request_latency_seconds_sum"],
            TimeUnit::Seconds,
        ),
    ],
    requests: &["trtllm_request_success_total + trtllm_request_error_total"],
    input_tokens: &["trtllm_prompt_tokens_total"],
    output_tokens: &["trtllm_generation_tokens_total"],
    kv_cache_use: &["trtllm_kv_cache_utilization"],
    time_to_first_token: &["trtllm_time_to_first_token_seconds"],
    inter_token_latency: &["trtllm_time_per_output_token_seconds"],
    counting: Counting::Late,
    idle_page: Some(&["python_", "process_", "trtllm_request_error_total"]),
};

/// The server of llama.cpp. It counts no requests.
///
/// <https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md>
const LLAMA_CPP: Preset = Preset {
    port: 8080,
    metrics_port: None,
    metrics_path: "/metrics",
    health_path: Some("/health"),
    paths_without_model: &[
        "/metrics",
        "/health",
        "/v1/health",
        "/models",
        "/v1/models",
        "/props",
        "/slots",
    ],
    loads: &[LoadNames::gauges(
        &["llamacpp:requests_deferred"],
        &["llamacpp:requests_processing"],
    )],
    requests: &[],
    input_tokens: &["llamacpp:prompt_tokens_total"],
    output_tokens: &["llamacpp:tokens_predicted_total"],
    kv_cache_use: &["llamacpp:kv_cache_usage_ratio"],
    time_to_first_token: &[],
    inter_token_latency: &[],
    counting: Counting::AtEnd,
    idle_page: None,
};

/// TensorFlow Serving has no gauges. Requests for a model's status count in `request_count`, and not
/// in the latency of the runtime; versions before 2.4 have the time of graphs alone.
///
/// <https://github.com/tensorflow/serving/blob/master/tensorflow_serving/servables/tensorflow/util.cc>
const TENSORFLOW_SERVING: Preset = Preset {
    port: 8501,
    metrics_port: None,
    metrics_path: "/monitoring/prometheus/metrics",
    health_path: None,
    paths_without_model: &[
        "/monitoring/prometheus/metrics",
        "/v1/models/$MODEL",
        "/v1/models/$MODEL/metadata",
    ],
    loads: &[
        LoadNames::time(
            &[":tensorflow:serving:runtime_latency_sum"],
            TimeUnit::Microseconds,
        ),
        LoadNames::time(
            &[":tensorflow:core:graph_run_time_usecs"],
            TimeUnit::Microseconds,
        ),
    ],
    requests: &[
        ":tensorflow:serving:runtime_latency_count",
        ":tensorflow:core:graph_runs",
    ],
    input_tokens: &[],
    output_tokens: &[],
    kv_cache_use: &[],
    time_to_first_token: &[],
    inter_token_latency: &[],
    counting: Counting::AtEnd,
    idle_page: None,
};

/// TorchServe has no gauges; it counts a request when it comes and its time when it ends.
///
/// <https://github.com/pytorch/serve/blob/master/docs/metrics.md>
const TORCH_SERVE: Preset = Preset {
    port: 8080,
    metrics_port: Some(8082),
    metrics_path: "/metrics",
    health_path: Some("/ping"),
    paths_without_model: &["/ping", "/metrics", "/api-description", "/models"],
    loads: &[LoadNames::time(
        &["ts_inference_latency_microseconds"],
        TimeUnit::Microseconds,
    )],
    requests: &["ts_inference_requests_total"],
    input_tokens: &[],
    output_tokens: &[],
    kv_cache_use: &[],
    time_to_first_token: &[],
    inter_token_latency: &[],
    counting: Counting::AtEnd,
    idle_page: None,
};

/// Ray Serve, of which each replica is a cluster of one pod, started with
/// `--metrics-export-port=8080`. Its gauges are up to ten seconds old. Its proxy counts health checks as requests, so those that reached a
/// deployment count.
///
/// <https://docs.ray.io/en/latest/serve/monitoring.html>
const RAY_SERVE: Preset = Preset {
    port: 8000,
    metrics_port: Some(8080),
    metrics_path: "/metrics",
    health_path: Some("/-/healthz"),
    paths_without_model: &["/-/healthz", "/-/routes", "/metrics", "/v1/models"],
    loads: &[
        LoadNames::gauges(
            &[],
            &["ray_serve_num_ongoing_http_requests + ray_serve_num_ongoing_grpc_requests"],
        ),
        LoadNames::gauges(
            &["ray_serve_deployment_queued_queries"],
            &["ray_serve_replica_processing_queries"],
        ),
    ],
    requests: &[
        "ray_vllm_request_success_total",
        "ray_vllm:request_success_total",
        "ray_serve_deployment_request_counter_total",
        "ray_serve_deployment_request_counter",
    ],
    input_tokens: &[
        "ray_vllm_prompt_tokens_total",
        "ray_vllm:prompt_tokens_total",
    ],
    output_tokens: &[
        "ray_vllm_generation_tokens_total",
        "ray_vllm:generation_tokens_total",
    ],
    kv_cache_use: &[
        "ray_vllm_kv_cache_usage_perc",
        "ray_vllm:kv_cache_usage_perc",
        "ray_vllm:gpu_cache_usage_perc",
    ],
    time_to_first_token: &[
        "ray_vllm_time_to_first_token_seconds",
        "ray_vllm:time_to_first_token_seconds",
    ],
    inter_token_latency: &[
        "ray_vllm_inter_token_latency_seconds",
        "ray_vllm:inter_token_latency_seconds",
        "ray_vllm_time_per_output_token_seconds",
        "ray_vllm:time_per_output_token_seconds",
    ],
    counting: Counting::Late,
    idle_page: None,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineSettings;

    const ENGINES: [Engine; 9] = [
        Engine::Vllm,
        Engine::Sglang,
        Engine::Tgi,
        Engine::Triton,
        Engine::TensorRtLlm,
        Engine::LlamaCpp,
        Engine::TensorFlowServing,
        Engine::TorchServe,
        Engine::RayServe,
    ];

    #[test]
    fn each_preset_can_be_read_and_tells_its_load() {
        for engine in ENGINES {
            for model in [None, Some("resnet")] {
                let settings = EngineSettings::new(engine, model, None).unwrap();
                for load in &settings.loads {
                    let parts = [&load.queued, &load.running, &load.request_time];
                    assert!(parts.iter().any(|part| !part.is_empty()), "{engine:?}");
                }
                assert!(!settings.loads.is_empty(), "{engine:?}");
                let paths = &settings.paths_without_model;
                assert!(paths.contains(&settings.metrics_path), "{engine:?}");
                assert!(paths.iter().all(|path| !path.contains('$')), "{engine:?}");
            }
        }
    }

    #[test]
    fn a_model_is_put_in_unless_its_name_would_end_the_selector() {
        let name = r#"q{model="$MODEL"}"#;
        let of = |model| of_model(name, model).map(Cow::into_owned);
        assert_eq!(of(Some("a/b")).as_deref(), Some(r#"q{model="a/b"}"#));
        assert_eq!(of(Some("a\"b")), None);
        assert_eq!(of(None), None);
        assert_eq!(of_model("q", None).as_deref(), Some("q"));
    }
}
