//! The engines whose words are known. Names, labels, types and order are those of `e2e/data/engines`, as far as a page needs them; the
//! values are this engine's own.

use super::page::{Page, Style};
use super::{Finish, Gauges, Metrics};

/// An engine in whose words the metrics are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Dialect {
    /// vLLM, of 2025 and later
    Vllm,
    /// vLLM of the first engine (V0)
    VllmV0,
    /// SGLang
    Sglang,
    /// Text Generation Inference
    Tgi,
    /// The server of llama.cpp
    LlamaCpp,
    /// Triton Inference Server
    Triton,
    /// trtllm-serve
    TensorrtLlm,
    /// trtllm-serve before it had gauges
    #[value(name = "tensorrt-llm-1.1")]
    TensorrtLlm1,
    /// TensorFlow Serving
    TensorflowServing,
    /// TorchServe
    Torchserve,
    /// Ray Serve
    RayServe,
    /// The server of examples/engines/custom.yaml
    Custom,
}

impl Dialect {
    /// The port of requests, if none is given.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Sglang => 30_000,
            Self::Tgi => 80,
            Self::LlamaCpp | Self::Torchserve => 8080,
            Self::TensorflowServing => 8501,
            Self::Custom => 9000,
            _ => 8000,
        }
    }

    /// The port of metrics, if they have their own.
    pub(crate) fn metrics_port(self) -> Option<u16> {
        match self {
            Self::Triton => Some(8002),
            Self::Torchserve => Some(8082),
            Self::RayServe => Some(8080),
            _ => None,
        }
    }

    /// The path of metrics.
    pub(crate) fn metrics_path(self) -> &'static str {
        match self {
            Self::TensorrtLlm | Self::TensorrtLlm1 => "/prometheus/metrics",
            Self::TensorflowServing => "/monitoring/prometheus/metrics",
            Self::Custom => "/stats/prometheus",
            _ => "/metrics",
        }
    }

    /// The path that answers once the model is loaded.
    pub(crate) fn health_path(self) -> &'static str {
        match self {
            Self::Triton => "/v2/health/ready",
            Self::Torchserve => "/ping",
            Self::RayServe => "/-/healthz",
            Self::Custom => "/ready",
            _ => "/health",
        }
    }

    /// The page of these numbers.
    pub(super) fn page(self, metrics: &Metrics, gauges: Gauges) -> String {
        match self {
            Self::Vllm => vllm(metrics, gauges),
            Self::VllmV0 => vllm_v0(metrics, gauges),
            Self::Sglang | Self::Tgi | Self::TensorrtLlm | Self::TensorrtLlm1
                if metrics.is_untouched(gauges) =>
            {
                String::new()
            }
            Self::Sglang => sglang(metrics, gauges),
            Self::Tgi => tgi(metrics, gauges),
            Self::LlamaCpp => llama_cpp(metrics, gauges),
            Self::Triton => triton(metrics, gauges),
            Self::TensorrtLlm => tensorrt_llm(metrics, Some(gauges)),
            Self::TensorrtLlm1 => tensorrt_llm(metrics, None),
            Self::TensorflowServing => tensorflow_serving(metrics),
            Self::Torchserve => torchserve(metrics, gauges),
            Self::RayServe => ray_serve(metrics, gauges),
            Self::Custom => custom(metrics, gauges),
        }
    }
}

/// Microseconds.
fn micros(seconds: f64) -> f64 {
    (seconds * 1e6).round()
}

#[rustfmt::skip]
fn vllm(metrics: &Metrics, gauges: Gauges) -> String {
    let labels = [("engine", "0"), ("model_name", metrics.model.as_str())];
    let mut page = Page::new(Style::Python);
    page.gauge("vllm:num_requests_running", "Number of requests in model execution batches.", &labels, gauges.running as f64);
    page.gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", &labels, gauges.waiting as f64);
    page.gauge("vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", &labels, gauges.kv_usage);
    page.counter("vllm:num_preemptions_total", "Cumulative number of preemption from the engine.", &labels, gauges.preemptions as f64);
    page.counter("vllm:prompt_tokens_total", "Number of prefill tokens processed.", &labels, metrics.prompt_tokens as f64);
    page.counter("vllm:generation_tokens_total", "Number of generation tokens processed.", &labels, metrics.generation_tokens as f64);
    vllm_success(&mut page, metrics, Some("0"));
    page.histogram("vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", &labels, &metrics.first_token);
    page.histogram("vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", &labels, &metrics.between_tokens);
    page.histogram("vllm:e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", &labels, &metrics.whole_request);
    page.finish()
}

#[rustfmt::skip]
fn vllm_v0(metrics: &Metrics, gauges: Gauges) -> String {
    let labels = [("model_name", metrics.model.as_str())];
    let mut page = Page::new(Style::Python);
    page.gauge("vllm:num_requests_running", "Number of requests currently running on GPU.", &labels, gauges.running as f64);
    page.gauge("vllm:num_requests_waiting", "Number of requests waiting to be processed.", &labels, gauges.waiting as f64);
    page.gauge("vllm:num_requests_swapped", "Number of requests swapped to CPU.", &labels, 0.0);
    page.gauge("vllm:gpu_cache_usage_perc", "GPU KV-cache usage. 1 means 100 percent usage.", &labels, gauges.kv_usage);
    page.counter("vllm:num_preemptions_total", "Cumulative number of preemption from the engine.", &labels, gauges.preemptions as f64);
    page.counter("vllm:prompt_tokens_total", "Number of prefill tokens processed.", &labels, metrics.prompt_tokens as f64);
    page.counter("vllm:generation_tokens_total", "Number of generation tokens processed.", &labels, metrics.generation_tokens as f64);
    page.histogram("vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.", &labels, &metrics.first_token);
    page.histogram("vllm:time_per_output_token_seconds", "Histogram of time per output token in seconds.", &labels, &metrics.between_tokens);
    vllm_success(&mut page, metrics, None);
    page.finish()
}

fn vllm_success(page: &mut Page, metrics: &Metrics, engine: Option<&str>) {
    let series = Finish::ALL.map(|why| {
        let engine = engine.map(|engine| ("engine", engine));
        let further = [
            ("finished_reason", why.word()),
            ("model_name", metrics.model.as_str()),
        ];
        let labels: Vec<_> = engine.into_iter().chain(further).collect();
        (labels, metrics.finished[why as usize] as f64)
    });
    let series = series
        .each_ref()
        .map(|(labels, value)| (&labels[..], *value));
    let help = "Count of successfully processed requests.";
    page.family("vllm:request_success_total", "counter", help, &series);
}

#[rustfmt::skip]
fn sglang(metrics: &Metrics, gauges: Gauges) -> String {
    let model = metrics.model.as_str();
    let scheduler = [
        ("dp_rank", "0"), ("engine_type", "unified"), ("model_name", model), ("moe_ep_rank", "0"), ("pp_rank", "0"), ("tp_rank", "0"),
    ];
    let tokenizer = [("engine_type", "unified"), ("is_streaming", "true"), ("model_name", model)];
    let mut page = Page::new(Style::PythonProcesses);
    page.gauge("sglang:num_running_reqs", "The number of running requests.", &scheduler, gauges.running as f64);
    page.gauge("sglang:num_queue_reqs", "The number of requests in the waiting queue.", &scheduler, gauges.waiting as f64);
    page.gauge("sglang:num_grammar_queue_reqs", "The number of requests in the grammar waiting queue.", &scheduler, 0.0);
    page.gauge("sglang:token_usage", "The token usage.", &scheduler, gauges.kv_usage);
    page.counter("sglang:num_requests_total", "Number of requests processed.", &tokenizer, metrics.answered() as f64);
    page.counter("sglang:prompt_tokens_total", "Number of prefill tokens processed.", &tokenizer, metrics.prompt_tokens as f64);
    page.counter("sglang:generation_tokens_total", "Number of generation tokens processed.", &tokenizer, metrics.generation_tokens as f64);
    page.histogram("sglang:e2e_request_latency_seconds", "Histogram of End-to-end request latency in seconds", &tokenizer, &metrics.whole_request);
    page.histogram("sglang:time_to_first_token_seconds", "Histogram of time to first token in seconds.", &tokenizer, &metrics.first_token);
    page.histogram("sglang:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", &tokenizer, &metrics.between_tokens);
    page.finish()
}

#[rustfmt::skip]
fn tgi(metrics: &Metrics, gauges: Gauges) -> String {
    let ended = metrics.answered() as f64;
    let mut page = Page::new(Style::Rust);
    // chat requests count twice
    page.counter("tgi_request_count", "", &[], 2.0 * ended);
    page.counter("tgi_request_success", "", &[], ended);
    page.gauge("tgi_queue_size", "", &[], gauges.waiting as f64);
    page.gauge("tgi_batch_current_size", "", &[], gauges.running as f64);
    page.histogram("tgi_request_duration", "", &[], &metrics.whole_request);
    for (name, sum) in [
        ("tgi_request_generated_tokens", metrics.generation_tokens),
        ("tgi_request_input_length", metrics.prompt_tokens),
    ] {
        page.histogram(name, "", &[], &metrics.whole_request.with_sum(sum as f64));
    }
    page.histogram("tgi_request_mean_time_per_token_duration", "", &[], &metrics.between_tokens);
    page.finish()
}

#[rustfmt::skip]
fn llama_cpp(metrics: &Metrics, gauges: Gauges) -> String {
    let mut page = Page::new(Style::LlamaCpp);
    page.counter("llamacpp:prompt_tokens_total", "Number of prompt tokens processed, excluding cached tokens", &[], metrics.prompt_tokens as f64);
    page.counter("llamacpp:prompt_seconds_total", "Total time spent processing prompts", &[], metrics.first_token.sum);
    page.counter("llamacpp:tokens_predicted_total", "Number of generation tokens processed", &[], metrics.generation_tokens as f64);
    page.gauge("llamacpp:requests_processing", "Number of requests processing", &[], gauges.running as f64);
    page.gauge("llamacpp:requests_deferred", "Number of requests deferred", &[], gauges.waiting as f64);
    page.finish()
}

#[rustfmt::skip]
fn triton(metrics: &Metrics, gauges: Gauges) -> String {
    let labels = [("model", metrics.model.as_str()), ("version", "1")];
    let ended = metrics.answered() as f64;
    let mut page = Page::new(Style::Cpp);
    page.counter("nv_inference_request_success", "Number of successful inference requests, all batch sizes", &labels, ended);
    page.counter("nv_inference_request_failure", "Number of failed inference requests, all batch sizes", &labels, 0.0);
    page.counter("nv_inference_request_duration_us", "Cumulative inference request duration in microseconds (includes cached requests)", &labels, micros(metrics.whole_request.sum));
    for (stage, help, time) in [
        ("input", "compute input", 0.0),
        ("infer", "compute inference", micros(metrics.whole_request.sum)),
        ("output", "inference compute output", 0.0),
    ] {
        let name = format!("nv_inference_compute_{stage}_duration_us");
        let help = format!("Cumulative {help} duration in microseconds (does not include cached requests)");
        page.counter(&name, &help, &labels, time);
    }
    page.gauge("nv_inference_pending_request_count", "Instantaneous number of pending requests awaiting execution per-model.", &labels, gauges.waiting as f64);
    page.finish()
}

#[rustfmt::skip]
fn tensorrt_llm(metrics: &Metrics, gauges: Option<Gauges>) -> String {
    let kind = if gauges.is_some() { ("trtllm", metrics.model.as_str()) } else { ("undefined", "undefined") };
    let labels = [("engine_type", kind.0), ("model_name", kind.1)];
    let mut page = Page::new(Style::PythonProcesses);
    let series = [Finish::Stop, Finish::Length].map(|why| {
        let labels = [("engine_type", kind.0), ("finished_reason", why.word()), ("model_name", kind.1)];
        (labels, metrics.finished[why as usize] as f64)
    });
    let series = series.each_ref().map(|(labels, value)| (&labels[..], *value));
    page.family("trtllm_request_success_total", "counter", "Count of successfully processed requests.", &series);
    page.histogram("trtllm_e2e_request_latency_seconds", "Histogram of end to end request latency in seconds.", &labels, &metrics.whole_request);
    page.histogram("trtllm_time_to_first_token_seconds", "Histogram of time to first token in seconds.", &labels, &metrics.first_token);
    page.histogram("trtllm_time_per_output_token_seconds", "Histogram of time per output token in seconds.", &labels, &metrics.between_tokens);
    if let Some(gauges) = gauges {
        let process = [labels[0], labels[1], ("pid", "1")];
        page.gauge("trtllm_num_requests_running", "Number of active requests", &process, gauges.running as f64);
        page.gauge("trtllm_num_requests_waiting", "Number of queued requests", &process, gauges.waiting as f64);
        page.gauge("trtllm_kv_cache_utilization", "KV cache utilization", &process, gauges.kv_usage);
        page.counter("trtllm_generation_tokens_total", "Cumulative number of generation (output) tokens produced.", &labels, metrics.generation_tokens as f64);
        page.counter("trtllm_prompt_tokens_total", "Cumulative number of prompt (input) tokens processed.", &labels, metrics.prompt_tokens as f64);
    }
    page.finish()
}

fn tensorflow_serving(metrics: &Metrics) -> String {
    let model = ("model_name", metrics.model.as_str());
    let has_any = metrics.whole_request.count > 0;
    let mut page = Page::new(Style::Tensorflow);
    let ok = [model, ("status", "OK")];
    let series = [(&ok[..], metrics.answered() as f64)];
    let series = if has_any { &series[..] } else { &[] };
    page.family(":tensorflow:serving:request_count", "counter", "", series);
    let labels = [model, ("API", "Predict"), ("runtime", "TF1")];
    let name = ":tensorflow:serving:runtime_latency";
    if has_any {
        let latency = &metrics.whole_request;
        page.histogram(name, "", &labels, &latency.with_sum(micros(latency.sum)));
    } else {
        page.family(name, "histogram", "", &[]);
    }
    page.finish()
}

fn torchserve(metrics: &Metrics, gauges: Gauges) -> String {
    let labels = [
        ("model_name", metrics.model.as_str()),
        ("model_version", "default"),
        ("hostname", "host-1"),
    ];
    // a request counts when it comes
    let ended = metrics.finished.iter().sum::<u64>() as f64;
    let came = ended + (gauges.running + gauges.waiting) as f64;
    let mut page = Page::new(Style::Java);
    for (name, unit, value) in [
        ("ts_inference_requests_total", "Count", came),
        (
            "ts_inference_latency_microseconds",
            "Microseconds",
            micros(metrics.whole_request.sum),
        ),
        ("ts_queue_latency_microseconds", "Microseconds", 0.0),
    ] {
        let help = format!("Torchserve prometheus counter metric with unit: {unit}");
        let series = [(&labels[..], value)];
        let series = if came > 0.0 { &series[..] } else { &[] };
        page.family(name, "counter", &help, series);
    }
    page.finish()
}

#[rustfmt::skip]
fn ray_serve(metrics: &Metrics, gauges: Gauges) -> String {
    let common = [("Component", "core_worker"), ("NodeAddress", "10.0.0.5"), ("SessionName", "s1"), ("Version", "2.48.0"), ("WorkerId", "aa01")];
    let with = |further: &[(&'static str, &'static str)]| [&common[..], further].concat();
    let ended = metrics.answered() as f64;
    let mut page = Page::new(Style::Python);
    let proxy = with(&[("node_id", "f68e29b2"), ("node_ip_address", "10.0.0.5")]);
    let ongoing = (gauges.running + gauges.waiting) as f64;
    page.gauge("ray_serve_num_ongoing_http_requests", "The number of ongoing requests in this HTTP proxy.", &proxy, ongoing);
    let replica = with(&[("application", "llm"), ("deployment", "LLMServer:qwen"), ("replica", "a1b2c3d4")]);
    page.gauge("ray_serve_replica_processing_queries", "The current number of queries being processed.", &replica, gauges.running as f64);
    let route = with(&[("application", "llm"), ("deployment", "LLMServer:qwen"), ("replica", "a1b2c3d4"), ("route", "/v1")]);
    let (name, help) = ("ray_serve_deployment_request_counter", "The number of queries that have been processed in this replica.");
    page.counter(&format!("{name}_total"), help, &route, ended);
    page.gauge(name, &format!("(DEPRECATED, use {name}_total metric instead) {help}"), &route, ended);
    page.finish()
}

fn custom(metrics: &Metrics, gauges: Gauges) -> String {
    let mut page = Page::new(Style::Python);
    let (chat, other) = ([("pool", "chat")], [("pool", "other")]);
    let queues = [(&chat[..], gauges.waiting as f64), (&other[..], 40.0)];
    page.family(
        "server_queue_length",
        "gauge",
        "Requests that wait.",
        &queues,
    );
    let (name, help) = ("server_requests_in_progress", "Requests that run.");
    page.gauge(name, help, &[], gauges.running as f64);
    let (name, help) = ("server_requests_total", "Requests that ended.");
    page.counter(name, help, &[], metrics.answered() as f64);
    page.finish()
}
