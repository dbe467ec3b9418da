//! What `/metrics` says, under vLLM's names and in the text format of Prometheus.

use std::fmt::Write;
use std::time::Duration;

use crate::batch::Batch;

/// The media type of [`Metrics::render`].
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

// vLLM's buckets, in seconds
const FIRST_TOKEN: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
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
    /// The prefix of all names, `vllm:` for vLLM's.
    prefix: String,
    /// The labels that all series carry.
    labels: String,
    prompt_tokens: u64,
    generation_tokens: u64,
    finished: [u64; 3],
    first_token: Histogram<22>,
    whole_request: Histogram<21>,
}

impl Metrics {
    /// Nothing counted yet, for the model of that name. All names of series begin with `prefix`.
    pub(crate) fn new(prefix: &str, model: &str) -> Self {
        let model = model
            .replace('\\', r"\\")
            .replace('"', r#"\""#)
            .replace('\n', r"\n");
        Self {
            prefix: prefix.to_owned(),
            labels: format!(r#"engine="0",model_name="{model}""#),
            prompt_tokens: 0,
            generation_tokens: 0,
            finished: [0; 3],
            first_token: Histogram::new(FIRST_TOKEN),
            whole_request: Histogram::new(WHOLE_REQUEST),
        }
    }

    /// Counts a sequence's first token: its prompt is computed.
    pub(crate) fn first_token(&mut self, prompt_tokens: u32, after: Duration) {
        self.prompt_tokens += u64::from(prompt_tokens);
        self.first_token.observe(after);
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
        let mut page = Page {
            text: String::new(),
            prefix: &self.prefix,
            labels: &self.labels,
        };
        page.family(
            "num_requests_running",
            "gauge",
            "Number of requests in model execution batches.",
        );
        page.sample("num_requests_running", "", batch.running() as f64);
        page.family(
            "num_requests_waiting",
            "gauge",
            "Number of requests waiting to be processed.",
        );
        page.sample("num_requests_waiting", "", batch.waiting() as f64);
        page.family(
            "kv_cache_usage_perc",
            "gauge",
            "KV-cache usage. 1 means 100 percent usage.",
        );
        page.sample("kv_cache_usage_perc", "", batch.kv_usage());
        page.family(
            "num_preemptions",
            "counter",
            "Cumulative number of preemptions from the engine.",
        );
        page.sample("num_preemptions_total", "", batch.preemptions() as f64);
        page.family(
            "prompt_tokens",
            "counter",
            "Number of prefill tokens processed.",
        );
        page.sample("prompt_tokens_total", "", self.prompt_tokens as f64);
        page.family(
            "generation_tokens",
            "counter",
            "Number of generation tokens processed.",
        );
        page.sample("generation_tokens_total", "", self.generation_tokens as f64);
        page.family(
            "request_success",
            "counter",
            "Count of successfully processed requests.",
        );
        for why in Finish::ALL {
            let reason = format!(r#",finished_reason="{}""#, why.word());
            page.sample(
                "request_success_total",
                &reason,
                self.finished[why as usize] as f64,
            );
        }
        page.histogram(
            "time_to_first_token_seconds",
            "Histogram of time to first token in seconds.",
            &self.first_token,
        );
        page.histogram(
            "e2e_request_latency_seconds",
            "Histogram of e2e request latency in seconds.",
            &self.whole_request,
        );
        page.text
    }
}

struct Page<'a> {
    text: String,
    prefix: &'a str,
    labels: &'a str,
}

impl Page<'_> {
    /// The Prometheus client of Python, which vLLM uses, writes the family of a counter with `_total` as well.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let total = if kind == "counter" { "_total" } else { "" };
        // writing to a string cannot fail
        let _ = writeln!(self.text, "# HELP {}{name}{total} {help}", self.prefix);
        let _ = writeln!(self.text, "# TYPE {}{name}{total} {kind}", self.prefix);
    }

    /// Debug formatting of a number keeps the `.0` that vLLM's own page has.
    fn sample(&mut self, name: &str, further_labels: &str, value: f64) {
        let _ = writeln!(
            self.text,
            "{}{name}{{{}{further_labels}}} {value:?}",
            self.prefix, self.labels
        );
    }

    fn histogram<const N: usize>(&mut self, name: &str, help: &str, histogram: &Histogram<N>) {
        self.family(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        for (bound, count) in histogram.bounds.iter().zip(histogram.counts) {
            self.sample(&bucket, &format!(r#",le="{bound:?}""#), count as f64);
        }
        self.sample(&bucket, r#",le="+Inf""#, histogram.count as f64);
        self.sample(&format!("{name}_count"), "", histogram.count as f64);
        self.sample(&format!("{name}_sum"), "", histogram.sum);
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

    #[test]
    fn names_begin_with_the_prefix() {
        let page = Metrics::new("sglang:", "m").render(&batch());
        let mut lines = page.lines().filter(|line| !line.is_empty());
        assert!(
            page.contains("# TYPE sglang:num_requests_running gauge"),
            "{page}"
        );
        assert!(
            lines.all(|line| line.contains("sglang:") && !line.contains("vllm:")),
            "{page}"
        );
    }

    #[test]
    fn gauges_follow_the_batch() {
        let mut batch = batch();
        batch.submit(1, 10, 5);
        batch.submit(2, 10, 5);
        batch.begin_step();
        let page = Metrics::new("vllm:", "m").render(&batch);
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
        let mut metrics = Metrics::new("vllm:", "m");
        metrics.first_token(7, Duration::from_millis(30));
        metrics.token();
        metrics.finished(Finish::Length, Duration::from_secs(3));
        metrics.finished(Finish::Abort, Duration::from_secs(1));
        let page = metrics.render(&batch());
        for line in [
            r#"vllm:prompt_tokens_total{engine="0",model_name="m"} 7.0"#,
            r#"vllm:generation_tokens_total{engine="0",model_name="m"} 1.0"#,
            r#"vllm:request_success_total{engine="0",model_name="m",finished_reason="length"} 1.0"#,
            r#"vllm:request_success_total{engine="0",model_name="m",finished_reason="stop"} 0.0"#,
            r#"vllm:request_success_total{engine="0",model_name="m",finished_reason="abort"} 1.0"#,
            r#"vllm:time_to_first_token_seconds_bucket{engine="0",model_name="m",le="0.02"} 0.0"#,
            r#"vllm:time_to_first_token_seconds_bucket{engine="0",model_name="m",le="0.04"} 1.0"#,
            r#"vllm:e2e_request_latency_seconds_bucket{engine="0",model_name="m",le="+Inf"} 1.0"#,
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
        let page = Metrics::new("vllm:", "a\"b\\").render(&batch());
        assert!(page.contains(r#"model_name="a\"b\\""#));
    }
}
