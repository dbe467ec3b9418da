//! Presets of inference engines.

use crate::inference::Engine;

/// Where an engine listens and what its metrics are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// Port of API and metrics.
    pub port: u16,
    /// Path that answers 200 once the model is loaded: the readiness probe of a container that has
    /// none.
    pub health_path: &'static str,
    /// Path of the metrics.
    pub metrics_path: &'static str,
    /// Paths whose answers need no model, as clients of monitoring and discovery ask for them. A
    /// request for one of them wakes no service.
    pub paths_without_model: &'static [&'static str],
    /// Gauge: requests that wait.
    pub waiting: &'static str,
    /// Gauge: requests that run.
    pub running: &'static str,
    /// Counter: requests that ended. That the counters stand still is what idle means.
    pub requests: &'static str,
    /// Counter: tokens read.
    pub input_tokens: &'static str,
    /// Counter: tokens written.
    pub output_tokens: &'static str,
}

/// The preset of an engine.
///
/// vLLM: <https://docs.vllm.ai/en/stable/usage/metrics/>,
/// <https://docs.vllm.ai/en/stable/serving/openai_compatible_server/>.
pub fn preset(engine: Engine) -> Preset {
    match engine {
        Engine::Vllm => Preset {
            port: 8000,
            health_path: "/health",
            metrics_path: "/metrics",
            paths_without_model: &["/metrics", "/health", "/ping", "/version", "/v1/models"],
            waiting: "vllm:num_requests_waiting",
            running: "vllm:num_requests_running",
            requests: "vllm:request_success_total",
            input_tokens: "vllm:prompt_tokens_total",
            output_tokens: "vllm:generation_tokens_total",
        },
    }
}
