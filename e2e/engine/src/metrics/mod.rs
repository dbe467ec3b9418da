//! What a page of metrics says, in the words of an engine and in the text format of Prometheus.

mod dialect;
mod page;

use std::time::Duration;

use crate::batch::Batch;

pub(crate) use dialect::Dialect;

/// The media type of [`Metrics::render`].
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

// vLLM's buckets, in seconds
const FIRST_TOKEN: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const BETWEEN_TOKENS: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const WHOLE_REQUEST: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The model had said all.
    Stop,
    /// The limit on its tokens was reached.
    Length,
    /// The client went away.
    Abort,
}

impl Finish {
    const ALL: [Self; 3] = [Self::Stop, Self::Length, Self::Abort];

    /// The word for it, in answers and in metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
        }
    }
}

#[derive(Debug)]
struct Histogram<const N: usize> {
    bounds: [f64; N],
    counts: [u64; N],
    count: u64,
    sum: f64,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: [f64; N]) -> Self {
        Self {
            bounds,
            counts: [0; N],
            count: 0,
            sum: 0.0,
        }
    }

    /// The same counts, with another sum.
    fn with_sum(&self, sum: f64) -> Self {
        Self { sum, ..*self }
    }

    fn observe(&mut self, value: Duration) {
        let value = value.as_secs_f64();
        for (bound, count) in self.bounds.iter().zip(&mut self.counts) {
            *count += u64::from(value <= *bound);
        }
        self.count += 1;
        self.sum += value;
    }
}

/// Counters and histograms since the start. Times are those of the clock on the wall, so a speed-up shows in them.
#[derive(Debug)]
pub(crate) struct Metrics {
    dialect: Dialect,
    model: String,
    prompt_tokens: u64,
    generation_tokens: u64,
    finished: [u64; 3],
    first_token: Histogram<22>,
    between_tokens: Histogram<19>,
    whole_request: Histogram<21>,
}

/// What the gauges of a batch show.
#[derive(Debug, Clone, Copy)]
struct Gauges {
    running: usize,
    waiting: usize,
    kv_usage: f64,
    preemptions: u64,
}

impl Metrics {
    /// Nothing counted yet, for the model of that name.
    pub(crate) fn new(dialect: Dialect, model: &str) -> Self {
        Self {
            dialect,
            model: model.to_owned(),
            prompt_tokens: 0,
            generation_tokens: 0,
            finished: [0; 3],
            first_token: Histogram::new(FIRST_TOKEN),
            between_tokens: Histogram::new(BETWEEN_TOKENS),
            whole_request: Histogram::new(WHOLE_REQUEST),
        }
    }

    /// Counts a sequence's first token: its prompt is computed.
    pub(crate) fn first_token(&mut self, prompt_tokens: u32, after: Duration) {
        self.prompt_tokens += u64::from(prompt_tokens);
        self.first_token.observe(after);
    }

    /// Counts the time from one token of a sequence to the next.
    pub(crate) fn further_token(&mut self, after: Duration) {
        self.between_tokens.observe(after);
    }

    /// Counts a token.
    pub(crate) fn token(&mut self) {
        self.generation_tokens += 1;
    }

    /// Counts the end of a sequence.
    pub(crate) fn finished(&mut self, why: Finish, after: Duration) {
        self.finished[why as usize] += 1;
        if why != Finish::Abort {
            self.whole_request.observe(after);
        }
    }

    /// All series, with the gauges of a batch.
    pub(crate) fn render(&self, batch: &Batch) -> String {
        let gauges = Gauges {
            running: batch.running(),
            waiting: batch.waiting(),
            kv_usage: batch.kv_usage(),
            preemptions: batch.preemptions(),
        };
        self.dialect.page(self, gauges)
    }

    /// The sequences that ended by themselves.
    fn answered(&self) -> u64 {
        self.finished[Finish::Stop as usize] + self.finished[Finish::Length as usize]
    }

    /// Whether nothing has been counted: some engines show a metric from its first value on.
    fn is_untouched(&self, gauges: Gauges) -> bool {
        let ended: u64 = self.finished.iter().sum();
        gauges.running + gauges.waiting == 0 && ended == 0 && self.prompt_tokens == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Limits;

    fn batch() -> Batch {
        Batch::new(Limits {
            max_num_seqs: 1,
            max_batched_tokens: 64,
            kv_blocks: 4,
            max_model_len: 64,
        })
    }

    /// The lines that declare metrics, and the names of series with the keys of their labels.
    fn shape(page: &str) -> (Vec<String>, std::collections::BTreeMap<String, Vec<String>>) {
        let declared = page.lines().filter(|line| line.starts_with("# TYPE"));
        let samples = page
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys = samples.map(|line| {
            let name = line.split(['{', ' ']).next().unwrap();
            let labels = line.split_once('{').map_or("", |(_, rest)| rest);
            let words = labels.split('"').step_by(2);
            let keys = words.filter_map(|word| word.trim_matches(',').strip_suffix('='));
            (name.to_owned(), keys.map(str::to_owned).collect())
        });
        (declared.map(str::to_owned).collect(), keys.collect())
    }

    #[test]
    fn each_dialect_has_the_names_types_labels_and_order_of_its_engine() {
        for (dialect, file) in [
            (Dialect::Vllm, "vllm-2026"),
            (Dialect::VllmV0, "vllm-0.6"),
            (Dialect::Sglang, "sglang-2026"),
            (Dialect::Tgi, "tgi-3.3"),
            (Dialect::LlamaCpp, "llama-cpp-2026"),
            (Dialect::Triton, "triton-23.10"),
            (Dialect::TensorrtLlm, "tensorrt-llm-2026"),
            (Dialect::TensorrtLlm1, "tensorrt-llm-1.1"),
            (Dialect::TensorflowServing, "tensorflow-serving-2.5"),
            (Dialect::Torchserve, "torchserve-0.12"),
            (Dialect::RayServe, "ray-serve-2.48"),
        ] {
            let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/engines");
            let path = format!("{root}/{file}.prom");
            let (declared, series) = shape(&std::fs::read_to_string(&path).unwrap());
            let mut metrics = Metrics::new(dialect, "m");
            metrics.first_token(7, Duration::from_millis(30));
            metrics.further_token(Duration::from_millis(20));
            metrics.finished(Finish::Stop, Duration::from_secs(3));
            let page = metrics.render(&batch());
            let (own_declared, own_series) = shape(&page);
            let mut rest = declared.iter();
            for line in &own_declared {
                assert!(
                    rest.any(|known| known == line),
                    "{line} is not in {path}, or not there"
                );
            }
            for (name, keys) in &own_series {
                assert_eq!(series.get(name), Some(keys), "{name} of {path}");
            }
            assert!(!own_series.is_empty(), "{dialect:?}");
        }
    }

    #[test]
    fn engines_that_show_what_they_counted_show_nothing_at_first() {
        for dialect in [Dialect::Sglang, Dialect::Tgi, Dialect::TensorrtLlm] {
            assert_eq!(Metrics::new(dialect, "m").render(&batch()), "");
        }
        let page = Metrics::new(Dialect::TensorflowServing, "m").render(&batch());
        assert!(
            page.lines().all(|line| line.starts_with("# TYPE")),
            "{page}"
        );
    }

    #[test]
    fn gauges_follow_the_batch() {
        let mut batch = batch();
        batch.submit(1, 10, 5);
        batch.submit(2, 10, 5);
        batch.begin_step();
        let page = Metrics::new(Dialect::Vllm, "m").render(&batch);
        for line in [
            r#"vllm:num_requests_running{engine="0",model_name="m"} 1.0"#,
            r#"vllm:num_requests_waiting{engine="0",model_name="m"} 1.0"#,
            r#"vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25"#,
        ] {
            assert!(
                page.lines().any(|found| found == line),
                "{line} is not in\n{page}"
            );
        }
    }

    #[test]
    fn counters_and_histograms_add_up() {
        let mut metrics = Metrics::new(Dialect::Vllm, "m");
        metrics.first_token(7, Duration::from_millis(30));
        metrics.token();
        metrics.further_token(Duration::from_millis(20));
        metrics.finished(Finish::Length, Duration::from_secs(3));
        metrics.finished(Finish::Abort, Duration::from_secs(1));
        let page = metrics.render(&batch());
        for line in [
            r#"vllm:prompt_tokens_total{engine="0",model_name="m"} 7.0"#,
            r#"vllm:generation_tokens_total{engine="0",model_name="m"} 1.0"#,
            r#"vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 1.0"#,
            r#"vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 0.0"#,
            r#"vllm:request_success_total{engine="0",finished_reason="abort",model_name="m"} 1.0"#,
            r#"vllm:time_to_first_token_seconds_bucket{engine="0",le="0.02",model_name="m"} 0.0"#,
            r#"vllm:time_to_first_token_seconds_bucket{engine="0",le="0.04",model_name="m"} 1.0"#,
            r#"vllm:inter_token_latency_seconds_bucket{engine="0",le="0.01",model_name="m"} 0.0"#,
            r#"vllm:inter_token_latency_seconds_bucket{engine="0",le="0.025",model_name="m"} 1.0"#,
            r#"vllm:e2e_request_latency_seconds_bucket{engine="0",le="+Inf",model_name="m"} 1.0"#,
            r#"vllm:e2e_request_latency_seconds_count{engine="0",model_name="m"} 1.0"#,
            r#"vllm:e2e_request_latency_seconds_sum{engine="0",model_name="m"} 3.0"#,
        ] {
            assert!(
                page.lines().any(|found| found == line),
                "{line} is not in\n{page}"
            );
        }
    }

    #[test]
    fn a_model_name_with_quotes_stays_one_label() {
        let page = Metrics::new(Dialect::Vllm, "a\"b\\").render(&batch());
        assert!(page.contains(r#"model_name="a\"b\\""#));
    }
}
