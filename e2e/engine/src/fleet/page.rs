//! A page of metrics as a vLLM server has it: names, labels and their order are vLLM's, in the text
//! format of Python's Prometheus client.

use std::fmt::{Display, Write};

use super::families::{FAMILIES, Family, Figures, PageSize, Series};

const MODEL: &str = "meta-llama/Llama-2-70b-chat-hf";
const FIRST_BOUNDS: [f64; 21] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0,
    7.5, 10.0, 30.0, 60.0,
];
const HANDLER_BOUNDS: [f64; 3] = [0.1, 0.5, 1.0];
/// Routes, their methods, and their part of the requests that have ended.
const HANDLERS: [(&str, &str, f64); 6] = [
    ("/v1/chat/completions", "POST", 0.9),
    ("/v1/completions", "POST", 0.1),
    ("/v1/models", "GET", 0.01),
    ("/tokenize", "POST", 0.02),
    ("/health", "GET", 0.4),
    ("/metrics", "GET", 0.2),
];

/// The page of an engine with these figures.
pub(crate) fn render(size: PageSize, figures: &Figures) -> String {
    let mut page = Page {
        text: String::new(),
        created: figures.started,
    };
    if size == PageSize::Full {
        page.process(figures);
    }
    let families = FAMILIES.iter();
    for family in families.filter(|family| family.in_small || size == PageSize::Full) {
        page.family(family, size, figures);
    }
    if size == PageSize::Full {
        page.configuration();
        page.http(figures.ended as f64);
    }
    page.text
}

struct Page {
    text: String,
    /// When all series were made, in seconds since 1970.
    created: f64,
}

impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // writing to a string cannot fail
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let value = GoFloat(value);
        let _ = if labels.is_empty() {
            writeln!(self.text, "{name} {value}")
        } else {
            writeln!(self.text, "{name}{{{labels}}} {value}")
        };
    }

    fn gauge(&mut self, name: &str, help: &str, labels: &str, value: f64) {
        self.head(name, "gauge", help);
        self.sample(name, labels, value);
    }

    /// The client writes when each counter and histogram was made, as a family of its own.
    fn created(&mut self, name: &str, help: &str, all_labels: &[String]) {
        let name = format!("{name}_created");
        self.head(&name, "gauge", help);
        for labels in all_labels {
            self.sample(&name, labels, self.created);
        }
    }

    fn counter(&mut self, name: &str, help: &str, series: &[(String, f64)], created: bool) {
        let total = format!("{name}_total");
        self.head(&total, "counter", help);
        for (labels, value) in series {
            self.sample(&total, labels, *value);
        }
        if created {
            let labels: Vec<String> = series.iter().map(|(labels, _)| labels.clone()).collect();
            self.created(name, help, &labels);
        }
    }

    /// Values are distributed exponentially about the mean.
    fn buckets(
        &mut self,
        name: &str,
        bounds: &[f64],
        mean: f64,
        count: f64,
        labels: impl Fn(Option<&str>) -> String,
    ) {
        let bucket = format!("{name}_bucket");
        for bound in bounds {
            let below = (count * (1.0 - (-bound / mean).exp())).floor();
            self.sample(&bucket, &labels(Some(&GoFloat(*bound).to_string())), below);
        }
        self.sample(&bucket, &labels(Some("+Inf")), count);
        self.sample(&format!("{name}_count"), &labels(None), count);
        self.sample(&format!("{name}_sum"), &labels(None), count * mean);
    }

    fn family(&mut self, family: &Family, size: PageSize, figures: &Figures) {
        let (name, help) = (format!("vllm:{}", family.name), family.help);
        let all = size == PageSize::Full;
        let share = |(value, part): &(&str, f64), label: &str| {
            let count = (figures.ended as f64 * part).floor();
            (engine_labels(Some((label, value))), count)
        };
        match &family.series {
            Series::Gauge(value) => {
                self.gauge(&name, help, &engine_labels(None), value(figures));
            }
            Series::Gauges(label, values) => {
                self.head(&name, "gauge", help);
                for (each, value) in *values {
                    self.sample(&name, &engine_labels(Some((label, each))), *value);
                }
            }
            Series::Counter(value) => {
                self.counter(&name, help, &[(engine_labels(None), value(figures))], all);
            }
            Series::Counters(label, parts) => {
                let series: Vec<_> = parts.iter().map(|part| share(part, label)).collect();
                self.counter(&name, help, &series, all);
            }
            Series::Histogram(bounds, mean) => {
                self.head(&name, "histogram", help);
                self.buckets(&name, bounds, *mean, figures.ended as f64, |bound| {
                    engine_labels(bound.map(|bound| ("le", bound)))
                });
                if all {
                    self.created(&name, help, &[engine_labels(None)]);
                }
            }
        }
    }

    /// What the client says of every Python process.
    fn process(&mut self, figures: &Figures) {
        let generations = |values: [f64; 3]| -> Vec<(String, f64)> {
            let label = |(at, value)| (format!("generation=\"{at}\""), value);
            values.into_iter().enumerate().map(label).collect()
        };
        for (name, help, values) in [
            (
                "python_gc_objects_collected",
                "Objects collected during gc",
                [14210.0, 2093.0, 866.0],
            ),
            (
                "python_gc_objects_uncollectable",
                "Uncollectable objects found during GC",
                [0.0, 0.0, 0.0],
            ),
            (
                "python_gc_collections",
                "Number of times this generation was collected",
                [1720.0, 156.0, 13.0],
            ),
        ] {
            self.counter(name, help, &generations(values), false);
        }
        self.gauge(
            "python_info",
            "Python platform information",
            r#"implementation="CPython",major="3",minor="12",patchlevel="11",version="3.12.11""#,
            1.0,
        );
        for (name, help, value) in [
            (
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes.",
                1.9e10,
            ),
            (
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
                1_106_329_600.0,
            ),
            (
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
                figures.started,
            ),
        ] {
            self.gauge(name, help, "", value);
        }
        let cpu = [(String::new(), figures.ended as f64 * 0.0125)];
        let help = "Total user and system CPU time spent in seconds.";
        self.counter("process_cpu_seconds", help, &cpu, false);
        self.gauge(
            "process_open_fds",
            "Number of open file descriptors.",
            "",
            96.0,
        );
        self.gauge(
            "process_max_fds",
            "Maximum number of open file descriptors.",
            "",
            65535.0,
        );
    }

    fn configuration(&mut self) {
        self.gauge(
            "vllm:cache_config_info",
            "Information of the LLMEngine CacheConfig",
            r#"block_size="16",cache_dtype="auto",calculate_kv_scales="False",cpu_kvcache_space_bytes="None",enable_prefix_caching="True",engine="0",gpu_memory_utilization="0.9",is_attention_free="False",kv_cache_memory_bytes="None",mamba_block_size="None",mamba_cache_dtype="auto",num_cpu_blocks="None",num_gpu_blocks="27511",num_gpu_blocks_override="None",prefix_caching_hash_algo="sha256",sliding_window="None",swap_space="4""#,
            1.0,
        );
    }

    /// What the instrumentation of FastAPI counts.
    fn http(&mut self, ended: f64) {
        let count = |part: f64| (ended * part).floor();
        let of_handler = |(handler, method, part): (&str, &str, f64)| {
            let labels = format!(r#"handler="{handler}",method="{method}",status="2xx""#);
            (labels, count(part))
        };
        self.counter(
            "http_requests",
            "Total number of requests by method, status and handler.",
            &HANDLERS.map(of_handler),
            true,
        );
        for (name, what, bytes) in [
            ("http_request_size_bytes", "incoming requests", 2411.0),
            ("http_response_size_bytes", "outgoing responses", 1804.0),
        ] {
            let help = format!(
                "Content length of {what} by handler. Only value of header is respected. Otherwise ignored. No percentile calculated. "
            );
            self.head(name, "summary", &help);
            let mut all_labels = Vec::new();
            for (handler, _, part) in HANDLERS {
                let labels = format!("handler=\"{handler}\"");
                self.sample(&format!("{name}_count"), &labels, count(part));
                self.sample(&format!("{name}_sum"), &labels, count(part) * bytes);
                all_labels.push(labels);
            }
            self.created(name, &help, &all_labels);
        }
        let name = "http_request_duration_highr_seconds";
        let help = "Latency with many buckets but no API specific labels. Made for more accurate percentile calculations. ";
        self.head(name, "histogram", help);
        let highr = |bound: Option<&str>| bound.map_or(String::new(), |le| format!("le=\"{le}\""));
        self.buckets(name, &FIRST_BOUNDS, 6.4, ended, highr);
        self.created(name, help, &[String::new()]);
        let name = "http_request_duration_seconds";
        let help = "Latency with only few buckets by handler. Made to be only used if aggregation by handler is important. ";
        self.head(name, "histogram", help);
        let mut all_labels = Vec::new();
        for (handler, method, part) in HANDLERS {
            let labels = |bound: Option<&str>| match bound {
                Some(le) => format!(r#"handler="{handler}",le="{le}",method="{method}""#),
                None => format!(r#"handler="{handler}",method="{method}""#),
            };
            self.buckets(name, &HANDLER_BOUNDS, 6.4, count(part), labels);
            all_labels.push(labels(None));
        }
        self.created(name, help, &all_labels);
    }
}

/// The labels of vLLM's own series, sorted by name as the client does it.
fn engine_labels(further: Option<(&str, &str)>) -> String {
    let mut labels = vec![("engine", "0"), ("model_name", MODEL)];
    labels.extend(further);
    labels.sort();
    let labels: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{value}\""))
        .collect();
    labels.join(",")
}

/// A number as the client writes it: from a million on with an exponent.
struct GoFloat(f64);

impl Display for GoFloat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = format!("{:?}", self.0);
        match text.split_once('.') {
            Some((whole, fraction)) if self.0 > 0.0 && whole.len() > 6 => {
                let mantissa = format!("{}.{}{fraction}", &whole[..1], &whole[1..]);
                let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
                write!(f, "{mantissa}e+0{}", whole.len() - 1)
            }
            _ => f.write_str(&text),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const FIGURES: Figures = Figures {
        running: 3,
        waiting: 5,
        ended: 20_417,
        tokens: 4_083_400,
        started: 1_790_000_000.25,
    };

    #[test]
    fn a_full_page_is_as_large_as_a_real_one_and_has_every_series_once() {
        let page = render(PageSize::Full, &FIGURES);
        assert!((60_000..90_000).contains(&page.len()), "{}", page.len());
        let samples: Vec<&str> = page
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(series, _)| series)
            .collect();
        let distinct: BTreeSet<&&str> = samples.iter().collect();
        assert_eq!(distinct.len(), samples.len());
    }

    #[test]
    fn a_small_page_has_what_an_autoscaler_reads() {
        let page = render(PageSize::Small, &FIGURES);
        assert!((4_000..12_000).contains(&page.len()), "{}", page.len());
        for name in ["running", "waiting"] {
            assert!(
                page.contains(&format!("vllm:num_requests_{name}{{")),
                "{page}"
            );
        }
        assert!(!page.contains("_created"), "{page}");
    }

    #[test]
    fn lines_are_as_the_python_client_writes_them() {
        let page = render(PageSize::Full, &FIGURES);
        for line in [
            "# TYPE vllm:generation_tokens_total counter".to_owned(),
            format!(r#"vllm:num_requests_waiting{{engine="0",model_name="{MODEL}"}} 5.0"#),
            format!(
                r#"vllm:generation_tokens_total{{engine="0",model_name="{MODEL}"}} 4.0834e+06"#
            ),
            format!(
                r#"vllm:request_success_total{{engine="0",finished_reason="length",model_name="{MODEL}"}} 1633.0"#
            ),
            format!(
                r#"vllm:time_to_first_token_seconds_bucket{{engine="0",le="+Inf",model_name="{MODEL}"}} 20417.0"#
            ),
            format!(
                r#"vllm:engine_sleep_state{{engine="0",model_name="{MODEL}",sleep_state="awake"}} 1.0"#
            ),
            format!(
                r#"vllm:generation_tokens_created{{engine="0",model_name="{MODEL}"}} 1.79000000025e+09"#
            ),
        ] {
            assert!(page.lines().any(|each| each == line), "no {line}");
        }
        assert_eq!(GoFloat(1e6).to_string(), "1e+06");
        assert_eq!(GoFloat(0.001).to_string(), "0.001");
    }

    #[test]
    fn buckets_grow_to_the_count() {
        let page = render(PageSize::Full, &FIGURES);
        for family in ["e2e_request_latency_seconds", "kv_block_reuse_gap_seconds"] {
            let bucket = format!("vllm:{family}_bucket{{");
            let counts: Vec<f64> = page
                .lines()
                .filter(|line| line.starts_with(&bucket))
                .filter_map(|line| line.rsplit_once(' ')?.1.parse().ok())
                .collect();
            assert!(counts.len() > 20 && counts.is_sorted(), "{counts:?}");
            assert_eq!(counts.last(), Some(&20_417.0));
        }
    }
}
