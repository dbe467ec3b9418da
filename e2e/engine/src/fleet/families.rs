//! The families of a vLLM server's page, in the order in which vLLM has them, with the figures that
//! an idle or busy engine shows.

/// The size of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PageSize {
    /// What an autoscaler reads, and two histograms: some 8 KB
    Small,
    /// All families that vLLM has: at least 60 KB
    Full,
}

/// What an engine has done, and does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figures {
    /// Requests in the batch.
    pub(crate) running: u64,
    /// Requests that wait for a place in the batch.
    pub(crate) waiting: u64,
    /// Requests that have ended.
    pub(crate) ended: u64,
    /// Tokens that were written.
    pub(crate) tokens: u64,
    /// When the process started, in seconds since 1970.
    pub(crate) started: f64,
}

/// The series of a family.
pub(super) enum Series {
    /// One gauge.
    Gauge(fn(&Figures) -> f64),
    /// A gauge for each value of a label.
    Gauges(&'static str, &'static [(&'static str, f64)]),
    /// One counter.
    Counter(fn(&Figures) -> f64),
    /// A counter for each value of a label, with its part of the requests that have ended.
    Counters(&'static str, &'static [(&'static str, f64)]),
    /// A histogram over the requests that have ended: the buckets' upper bounds, and the mean.
    Histogram(&'static [f64], f64),
}

/// A family of vLLM's own metrics; its name lacks the prefix `vllm:`.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) series: Series,
    /// Small pages have it too.
    pub(super) in_small: bool,
}

const fn small(name: &'static str, help: &'static str, series: Series) -> Family {
    Family {
        name,
        help,
        series,
        in_small: true,
    }
}

const fn full(name: &'static str, help: &'static str, series: Series) -> Family {
    Family {
        name,
        help,
        series,
        in_small: false,
    }
}

const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const TOKEN: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const REQUEST: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
const RESIDENCY: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0,
    120.0, 300.0, 600.0, 1200.0, 1800.0,
];
const STEP: &[f64] = &[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
];
/// Up to a context of 131,072 tokens.
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0,
    50000.0, 100000.0,
];
const FEW: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

const PROMPT: f64 = 1155.0;
const GENERATED: f64 = 211.0;

pub(super) const FAMILIES: &[Family] = &[
    small(
        "num_requests_running",
        "Number of requests in model execution batches.",
        Series::Gauge(|figures| figures.running as f64),
    ),
    small(
        "num_requests_waiting",
        "Number of requests waiting to be processed.",
        Series::Gauge(|figures| figures.waiting as f64),
    ),
    full(
        "engine_sleep_state",
        "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; weights_offloaded = 1 means sleep \
         level 1; discard_all = 1 means sleep level 2.",
        Series::Gauges(
            "sleep_state",
            &[
                ("awake", 1.0),
                ("weights_offloaded", 0.0),
                ("discard_all", 0.0),
            ],
        ),
    ),
    small(
        "kv_cache_usage_perc",
        "KV-cache usage. 1 means 100 percent usage.",
        Series::Gauge(|figures| (figures.running as f64 * 0.003).min(1.0)),
    ),
    full(
        "prefix_cache_queries",
        "Prefix cache queries, in terms of number of queried tokens.",
        Series::Counter(|figures| figures.ended as f64 * PROMPT),
    ),
    full(
        "prefix_cache_hits",
        "Prefix cache hits, in terms of number of cached tokens.",
        Series::Counter(|figures| (figures.ended as f64 * PROMPT * 0.41).floor()),
    ),
    full(
        "external_prefix_cache_queries",
        "External prefix cache queries from KV connector cross-instance cache sharing, in terms of number of queried tokens.",
        Series::Counter(|_| 0.0),
    ),
    full(
        "external_prefix_cache_hits",
        "External prefix cache hits from KV connector cross-instance cache sharing, in terms of number of cached tokens.",
        Series::Counter(|_| 0.0),
    ),
    full(
        "mm_cache_queries",
        "Multi-modal cache queries, in terms of number of queried items.",
        Series::Counter(|_| 0.0),
    ),
    full(
        "mm_cache_hits",
        "Multi-modal cache hits, in terms of number of cached items.",
        Series::Counter(|_| 0.0),
    ),
    small(
        "num_preemptions",
        "Cumulative number of preemption from the engine.",
        Series::Counter(|figures| (figures.ended / 900) as f64),
    ),
    small(
        "prompt_tokens",
        "Number of prefill tokens processed.",
        Series::Counter(|figures| figures.ended as f64 * PROMPT),
    ),
    full(
        "prompt_tokens_by_source",
        "Number of prompt tokens by source.",
        Series::Counters(
            "source",
            &[
                ("local_compute", PROMPT * 0.6),
                ("local_cache_hit", PROMPT * 0.4),
                ("external_kv_transfer", 0.0),
            ],
        ),
    ),
    full(
        "prompt_tokens_cached",
        "Number of cached prompt tokens (local + external).",
        Series::Counter(|figures| (figures.ended as f64 * PROMPT * 0.4).floor()),
    ),
    full(
        "prompt_tokens_recomputed",
        "Number of cached tokens recomputed for forward pass.",
        Series::Counter(|figures| (figures.ended / 40) as f64),
    ),
    small(
        "generation_tokens",
        "Number of generation tokens processed.",
        Series::Counter(|figures| figures.tokens as f64),
    ),
    small(
        "request_success",
        "Count of successfully processed requests.",
        Series::Counters(
            "finished_reason",
            &[
                ("stop", 0.9),
                ("length", 0.08),
                ("abort", 0.02),
                ("error", 0.0),
            ],
        ),
    ),
    full(
        "request_prompt_tokens",
        "Number of prefill tokens processed.",
        Series::Histogram(TOKENS, PROMPT),
    ),
    full(
        "request_generation_tokens",
        "Number of generation tokens processed.",
        Series::Histogram(TOKENS, GENERATED),
    ),
    full(
        "iteration_tokens_total",
        "Histogram of number of tokens per engine_step.",
        Series::Histogram(STEP, 38.0),
    ),
    full(
        "request_max_num_generation_tokens",
        "Histogram of maximum number of requested generation tokens.",
        Series::Histogram(TOKENS, GENERATED),
    ),
    full(
        "request_params_n",
        "Histogram of the n request parameter.",
        Series::Histogram(FEW, 0.2),
    ),
    full(
        "request_params_max_tokens",
        "Histogram of the max_tokens request parameter.",
        Series::Histogram(TOKENS, 1600.0),
    ),
    small(
        "time_to_first_token_seconds",
        "Histogram of time to first token in seconds.",
        Series::Histogram(FIRST_TOKEN, 0.21),
    ),
    full(
        "inter_token_latency_seconds",
        "Histogram of inter-token latency in seconds.",
        Series::Histogram(TOKEN, 0.031),
    ),
    full(
        "request_time_per_output_token_seconds",
        "Histogram of time_per_output_token_seconds per request.",
        Series::Histogram(TOKEN, 0.033),
    ),
    small(
        "e2e_request_latency_seconds",
        "Histogram of e2e request latency in seconds.",
        Series::Histogram(REQUEST, 7.1),
    ),
    full(
        "request_queue_time_seconds",
        "Histogram of time spent in WAITING phase for request.",
        Series::Histogram(REQUEST, 0.09),
    ),
    full(
        "request_inference_time_seconds",
        "Histogram of time spent in RUNNING phase for request.",
        Series::Histogram(REQUEST, 7.0),
    ),
    full(
        "request_prefill_time_seconds",
        "Histogram of time spent in PREFILL phase for request.",
        Series::Histogram(REQUEST, 0.12),
    ),
    full(
        "request_decode_time_seconds",
        "Histogram of time spent in DECODE phase for request.",
        Series::Histogram(REQUEST, 6.9),
    ),
    full(
        "request_prefill_kv_computed_tokens",
        "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
        Series::Histogram(TOKENS, PROMPT * 0.6),
    ),
    full(
        "kv_block_lifetime_seconds",
        "Histogram of KV cache block lifetime from allocation to eviction. Sampled metrics (controlled by --kv-cache-metrics-sample).",
        Series::Histogram(RESIDENCY, 44.0),
    ),
    full(
        "kv_block_idle_before_evict_seconds",
        "Histogram of idle time before KV cache block eviction. Sampled metrics (controlled by --kv-cache-metrics-sample).",
        Series::Histogram(RESIDENCY, 31.0),
    ),
    full(
        "kv_block_reuse_gap_seconds",
        "Histogram of time gaps between consecutive KV cache block accesses. Only the most recent accesses are recorded (ring \
         buffer). Sampled metrics (controlled by --kv-cache-metrics-sample).",
        Series::Histogram(RESIDENCY, 2.4),
    ),
];
