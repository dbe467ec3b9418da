//! What the metrics of an engine are called in each version, and what a page of them says.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bursar_core::ledger::EngineCounters;
use bursar_core::model::Name;
use bursar_core::model::event::{Counting, EngineMeasures};
use bursar_core::scaling::{Bucket, LatencyHistogram, LatencyMeasure, Milli};

use crate::exposition::{LineTooLong, OtherSeries, Selector, Selectors, Sums, Total};

/// No pod has more requests in one gauge.
const MAX_GAUGE: f64 = 1e9;
/// Counters above this number are not exact in a page's floating-point numbers.
const MAX_COUNTER: f64 = 9_007_199_254_740_992.0;

/// A number that a page has under one of several names, as versions of an engine call it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metric {
    /// The first of these whose first series is on the page is the number: the sum of its series.
    /// Those behind the first may be missing.
    pub alternatives: Vec<Vec<Selector>>,
}

/// A way to tell how many requests are on an engine. A metric without alternatives is none of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// Gauge: requests that wait.
    pub queued: Metric,
    /// Gauge: requests that run.
    pub running: Metric,
    /// Counter of the time that requests took, where no gauge tells of them: see [`RequestTime`].
    pub request_time: Metric,
    /// The unit of `request_time`: so many are a second.
    pub units_per_second: u32,
}

/// What the metrics of an engine are called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineMetrics {
    /// The first of which all metrics are on the page counts.
    pub loads: Vec<Load>,
    /// Counter: requests that ended.
    pub requests: Metric,
    /// Counter: tokens read.
    pub input_tokens: Metric,
    /// Counter: tokens written.
    pub output_tokens: Metric,
    /// Gauge: the part of the KV cache that is used, where a signal asks for it.
    pub kv_cache_use: Option<Metric>,
    /// The buckets of histograms of latencies in seconds, where signals ask for them.
    pub latencies: BTreeMap<LatencyMeasure, Metric>,
    /// How soon the page shows what the engine does, where gauges tell how many requests run.
    pub counting: Counting,
    /// The engine shows a metric from its first value on. A page with no series but those that
    /// begin with one of these is of one that has had no request; `None` if it shows all from the
    /// start.
    pub idle_page: Option<Vec<String>>,
}

/// Where metrics are and what they are called.
#[derive(Debug, Clone)]
pub struct Source {
    /// The pod's port.
    pub port: u16,
    /// The path.
    pub path: Cow<'static, str>,
    metrics: EngineMetrics,
    /// The series of all metrics, in their order.
    selectors: Selectors,
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        // the selectors are those of the metrics
        (self.port, &self.path, &self.metrics) == (other.port, &other.path, &other.metrics)
    }
}

impl Eq for Source {}

impl Source {
    /// A page at a port and a path, with these metrics.
    pub fn new(port: u16, path: Cow<'static, str>, metrics: EngineMetrics) -> Self {
        let loads = metrics.loads.iter().flat_map(Load::metrics);
        let series = |metric: &Metric| metric.alternatives.clone().into_iter().flatten();
        let sums = loads.chain(metrics.counters()).chain(&metrics.kv_cache_use);
        let sums = sums.flat_map(series).collect();
        let histograms = metrics.latencies.values().flat_map(series).collect();
        Self {
            port,
            path,
            selectors: Selectors::with_histograms(sums, histograms),
            metrics,
        }
    }
}

impl EngineMetrics {
    fn counters(&self) -> [&Metric; 3] {
        [&self.requests, &self.input_tokens, &self.output_tokens]
    }
}

impl Load {
    fn metrics(&self) -> [&Metric; 3] {
        [&self.queued, &self.running, &self.request_time]
    }

    /// The gauges and the time, by the sums of the metrics' series, which are the next of `sums`.
    ///
    /// # Errors
    /// The first metric that is not on the page.
    fn value(&self, sums: &mut impl Iterator<Item = Total>) -> Result<LoadValue, &Metric> {
        let values = self.metrics().map(|metric| (metric, metric.value(sums)));
        let is_missing = |(metric, value): &&(&Metric, Option<f64>)| {
            value.is_none() && !metric.alternatives.is_empty()
        };
        if let Some((metric, _)) = values.iter().find(is_missing) {
            return Err(metric);
        }
        let [queued, running, time] = values.map(|(_, value)| value);
        let gauge = |value: Option<f64>| value.unwrap_or(0.0).clamp(0.0, MAX_GAUGE) as u64;
        let micros = 1e6 / f64::from(self.units_per_second.max(1));
        Ok(LoadValue {
            requests: gauge(queued) + gauge(running),
            request_micros: time.map(|time| (time * micros).clamp(0.0, MAX_COUNTER) as u64),
        })
    }
}

impl Metric {
    /// The number, by the sums of its series, which are the next of `sums`.
    fn value(&self, sums: &mut impl Iterator<Item = Total>) -> Option<f64> {
        let sums = sums.map(|total| total.value);
        Some(self.first_there(sums)?.into_iter().flatten().sum())
    }

    /// The mean of its series, by their sums, which are the next of `sums`: each engine of a server shows
    /// one.
    fn mean(&self, sums: &mut impl Iterator<Item = Total>) -> Option<f64> {
        let sums = sums.map(|total| total.value.map(|value| (value, total.samples)));
        let there = self.first_there(sums)?.into_iter().flatten();
        let (sum, samples) = there.fold((0.0, 0), |(sum, samples), (value, more)| {
            (sum + value, samples + more)
        });
        Some(sum / f64::from(samples.max(1)))
    }

    /// The histogram, by the buckets of its series, which are the next of `histograms`.
    fn histogram(
        &self,
        histograms: &mut impl Iterator<Item = Option<Vec<Bucket>>>,
    ) -> Option<Result<LatencyHistogram, String>> {
        let mut buckets = BTreeMap::new();
        for bucket in self
            .first_there(histograms)?
            .into_iter()
            .flatten()
            .flatten()
        {
            let count: &mut u64 = buckets.entry(bucket.bound).or_default();
            *count = count.saturating_add(bucket.count);
        }
        if buckets.is_empty() {
            return Some(Ok(LatencyHistogram::default()));
        }
        let buckets = buckets.into_iter();
        let buckets = buckets.map(|(bound, count)| Bucket { bound, count });
        let histogram = LatencyHistogram::new(buckets.collect());
        Some(histogram.map_err(|error| format!("histogram {}: {error}", self.names())))
    }

    /// What the page says of the first alternative that is on it: of each of its series. Takes all that is
    /// its own.
    fn first_there<T>(&self, values: impl Iterator<Item = Option<T>>) -> Option<Vec<Option<T>>> {
        let (mut values, mut there) = (values, None);
        for series in &self.alternatives {
            let own: Vec<Option<T>> = values.by_ref().take(series.len()).collect();
            let is_there = own.first().is_some_and(Option::is_some);
            if there.is_none() && is_there {
                there = Some(own);
            }
        }
        there
    }

    /// Its names, for messages.
    fn names(&self) -> String {
        let names = self.alternatives.iter().filter_map(|series| series.first());
        let mut names: Vec<_> = names.map(|selector| selector.name.as_str()).collect();
        names.dedup();
        names.join(" or ")
    }

    /// Says that it is not on a page.
    fn missing(&self) -> Name {
        MissingMetric(self.names()).to_string().into()
    }

    /// The same of a histogram, by its name and not by that of its buckets.
    fn missing_histogram(&self) -> Name {
        let names = self.names();
        let names = names.split(" or ");
        let names: Vec<_> = names
            .map(|name| name.strip_suffix("_bucket").unwrap_or(name))
            .collect();
        MissingMetric(names.join(" or ")).to_string().into()
    }
}

/// What one pod reported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// Requests waiting and running.
    pub busy: u64,
    /// Microseconds that requests took so far, on an engine without a gauge of those that run: their
    /// growth tells of them.
    pub request_micros: Option<u64>,
    /// How soon it shows what the engine does.
    pub counting: Counting,
    /// What was done so far. That it is unchanged means that nothing happened between two reads.
    pub done: EngineCounters,
    /// Whether there is any counter on the page.
    pub has_counters: bool,
    /// What signals ask for beyond that; `None` if they ask for nothing.
    pub measures: Option<Arc<EngineMeasures>>,
}

/// A metric that an engine has is not on its page.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no metric {0}")]
pub struct MissingMetric(String);

/// A page that arrives in pieces.
#[derive(Debug)]
pub(crate) struct PageReader<'s> {
    metrics: &'s EngineMetrics,
    sums: Sums<'s>,
    others: OtherSeries<'s>,
}

impl<'s> PageReader<'s> {
    /// Begins a page of this source.
    pub(crate) fn new(source: &'s Source) -> Self {
        Self {
            metrics: &source.metrics,
            sums: Sums::new(&source.selectors),
            others: OtherSeries::new(source.metrics.idle_page.as_deref()),
        }
    }

    /// Takes the next piece of the page.
    ///
    /// # Errors
    /// A line that may be a selected sample is too long to be kept.
    pub(crate) fn take(&mut self, piece: &[u8]) -> Result<(), LineTooLong> {
        self.others.take(piece);
        self.sums.take(piece)
    }

    /// What the page says.
    ///
    /// # Errors
    /// It does not say how many requests are on the engine.
    pub(crate) fn finish(self) -> Result<Sample, MissingMetric> {
        let metrics = self.metrics;
        let page = self.sums.finish();
        let mut sums = page.sums.into_iter();
        let loads = metrics.loads.iter().map(|load| load.value(&mut sums));
        // all of them, since the sums of the counters come behind
        let loads: Vec<_> = loads.collect();
        let [requests, input_tokens, output_tokens] =
            metrics.counters().map(|metric| metric.value(&mut sums));
        let counters = [requests, input_tokens, output_tokens];
        // a counter that nothing has counted yet is not shown
        let counter = |sum: Option<f64>| sum.unwrap_or(0.0).clamp(0.0, MAX_COUNTER) as u64;
        let load = match loads.iter().find_map(|load| load.as_ref().ok()) {
            // a time without its requests would not tell when one has ended
            Some(load) if load.request_micros.is_some() && requests.is_none() => {
                return Err(MissingMetric(metrics.requests.names()));
            }
            Some(load) => *load,
            None if self.others.has_none() => LoadValue::default(),
            // what an engine has is not zero because a version calls it otherwise
            None => {
                let missing = loads.iter().filter_map(|load| load.as_ref().err());
                let missing: Vec<_> = missing.map(|metric| metric.names()).collect();
                return Err(MissingMetric(missing.join(", nor ")));
            }
        };
        let is_idle_page = self.others.has_none();
        // without a counter of requests nothing tells that it has answered none
        let has_answered = match metrics.requests.alternatives.is_empty() {
            true => !is_idle_page,
            false => counters.iter().flatten().any(|counted| *counted > 0.0),
        };
        let mut measures = EngineMeasures::default();
        if let Some(metric) = &metrics.kv_cache_use {
            let part = metric.mean(&mut sums).or(is_idle_page.then_some(0.0));
            let part = part.map(|part| Milli((part * 1e3).round().clamp(0.0, 1e3) as u64));
            measures.kv_cache_use = Some(part.ok_or_else(|| metric.missing()));
        }
        let mut histograms = page.histograms.into_iter();
        for (measure, metric) in &metrics.latencies {
            let histogram = match metric.histogram(&mut histograms) {
                Some(histogram) => histogram.map(Arc::new).map_err(Name::from),
                // one that nothing was counted in may not be shown yet
                None if !has_answered => Ok(Arc::default()),
                None => Err(metric.missing_histogram()),
            };
            measures.latencies.insert(*measure, histogram);
        }
        let is_asked = metrics.kv_cache_use.is_some() || !metrics.latencies.is_empty();
        Ok(Sample {
            measures: is_asked.then(|| Arc::new(measures)),
            busy: load.requests,
            request_micros: load.request_micros,
            counting: match load.request_micros {
                Some(_) => Counting::Late,
                None => metrics.counting,
            },
            has_counters: counters.iter().any(Option::is_some),
            done: EngineCounters {
                requests: counter(requests),
                input_tokens: counter(input_tokens),
                output_tokens: counter(output_tokens),
            },
        })
    }
}

/// How many requests are on an engine.
#[derive(Debug, Clone, Copy, Default)]
struct LoadValue {
    /// Those that wait and run, by the gauges.
    requests: u64,
    /// Microseconds that requests took, if that tells of those that run.
    request_micros: Option<u64>,
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn source() -> Source {
        let metrics = metrics(["w", "r", "done", "read", "written"]);
        Source::new(0, "/metrics".into(), metrics)
    }

    fn sample_of(page: &str) -> Result<Sample, MissingMetric> {
        page_of(&source(), page)
    }

    fn page_of(source: &Source, page: &str) -> Result<Sample, MissingMetric> {
        let mut reader = PageReader::new(source);
        for piece in page.as_bytes().chunks(7) {
            reader.take(piece).unwrap();
        }
        reader.finish()
    }

    #[test]
    fn an_engine_that_shows_what_it_counted_is_idle_while_it_shows_nothing_else() {
        let mut metrics = metrics(["w", "r", "done", "read", "written"]);
        metrics.idle_page = Some(vec!["process_".to_owned()]);
        let source = Source::new(0, "/metrics".into(), metrics.clone());
        let busy = |page: &str| page_of(&source, page).map(|sample| sample.busy);
        assert_eq!(busy("").unwrap(), 0);
        let fresh = "# TYPE w gauge\n\nprocess_cpu_seconds 2\n  process_threads 9";
        assert_eq!(busy(fresh).unwrap(), 0);
        for renamed in ["waiting 4\n", "process_threads 9\nwaiting 4", "done 4\n"] {
            let error = busy(renamed).unwrap_err();
            assert_eq!(error.to_string(), "there is no metric w", "{renamed:?}");
        }
        metrics.idle_page = None;
        let source = Source::new(0, "/metrics".into(), metrics);
        assert!(page_of(&source, "").is_err(), "it shows all from the start");
    }

    #[test]
    fn the_time_of_requests_needs_their_number() {
        let load = Load {
            request_time: alternatives(&[&["ms"]]),
            units_per_second: 1_000,
            ..Load::default()
        };
        let metrics = EngineMetrics {
            loads: vec![load],
            requests: alternatives(&[&["done"]]),
            ..EngineMetrics::default()
        };
        let source = Source::new(0, "/metrics".into(), metrics);
        let sample = page_of(&source, "ms 2500\ndone 4\n").unwrap();
        assert_eq!(sample.request_micros, Some(2_500_000));
        assert_eq!(sample.counting, Counting::Late);
        let error = page_of(&source, "ms 2500\n").unwrap_err();
        assert_eq!(error.to_string(), "there is no metric done");
    }

    /// Metrics that every version calls so.
    fn metrics(names: [&str; 5]) -> EngineMetrics {
        let [queued, running, requests, input_tokens, output_tokens] = names.map(|name| Metric {
            alternatives: vec![vec![Selector::all(name)]],
        });
        let load = Load {
            queued,
            running,
            ..Load::default()
        };
        EngineMetrics {
            loads: vec![load],
            requests,
            input_tokens,
            output_tokens,
            ..EngineMetrics::default()
        }
    }

    fn alternatives(names: &[&[&str]]) -> Metric {
        let series = |names: &&[&str]| names.iter().map(|name| Selector::all(name)).collect();
        Metric {
            alternatives: names.iter().map(series).collect(),
        }
    }

    #[test]
    fn the_first_name_that_is_on_the_page_counts_with_what_belongs_to_it() {
        let metrics = EngineMetrics {
            loads: vec![Load {
                queued: alternatives(&[&["new", "swapped"], &["old"]]),
                ..Load::default()
            }],
            ..EngineMetrics::default()
        };
        let source = Source::new(0, "/metrics".into(), metrics);
        let queued = |page: &str| page_of(&source, page).map(|sample| sample.busy);
        assert_eq!(queued("new 1\nswapped 2\nold 1\n").unwrap(), 3);
        assert_eq!(queued("old 1\nnew 4\n").unwrap(), 4);
        assert_eq!(queued("old 1\n").unwrap(), 1);
        let missing = queued("swapped 2\n").unwrap_err().to_string();
        assert_eq!(missing, "there is no metric new or old");
    }

    #[test]
    fn a_sample_needs_both_gauges_and_takes_the_counters_there_are() {
        assert_eq!(
            sample_of("w 2\nr 3\ndone 7\nwritten 70\n").unwrap(),
            Sample {
                busy: 5,
                request_micros: None,
                counting: Counting::EachStep,
                done: EngineCounters {
                    requests: 7,
                    input_tokens: 0,
                    output_tokens: 70
                },
                has_counters: true,
                measures: None,
            }
        );
        let without = sample_of("w 2\nr 3\n").unwrap();
        assert_eq!((without.busy, without.has_counters), (5, false));
        let missing = sample_of("w 2\n").unwrap_err();
        assert_eq!(missing.to_string(), "there is no metric r");
    }

    /// What a page says of the measures that signals ask for, of metrics that every version calls so.
    fn measures_of(page: &str) -> EngineMeasures {
        let mut metrics = metrics(["w", "r", "done", "read", "written"]);
        metrics.kv_cache_use = Some(alternatives(&[&["kv"], &["gpu"]]));
        let first = alternatives(&[&["new_bucket"], &["old_bucket"]]);
        metrics.latencies = [(LatencyMeasure::TimeToFirstToken, first)].into();
        let source = Source::new(0, "/metrics".into(), metrics);
        let sample = page_of(&source, page).unwrap();
        Arc::unwrap_or_clone(sample.measures.unwrap())
    }

    #[test]
    fn measures_are_read_by_the_names_of_each_version_and_what_is_missing_is_not_zero() {
        const LOAD: &str = "w 2\nr 3\ndone 7\n";
        let first = |measures: &EngineMeasures| {
            measures.latencies[&LatencyMeasure::TimeToFirstToken].clone()
        };
        let two_engines = "kv{engine=\"0\"} 0.8125\nkv{engine=\"1\"} 0.64\ngpu 0.1\n";
        let old = "old_bucket{le=\"0.5\"} 3\nold_bucket{le=\"+Inf\"} 4\n";
        let measures = measures_of(&format!("{LOAD}{two_engines}{old}"));
        assert_eq!(measures.kv_cache_use, Some(Ok(Milli(726))), "a mean");
        assert_eq!(first(&measures).unwrap().count(), 4);
        let measures = measures_of(LOAD);
        let missing = measures.kv_cache_use.unwrap().unwrap_err();
        assert_eq!(&*missing, "there is no metric kv or gpu");
        let missing = measures.latencies[&LatencyMeasure::TimeToFirstToken].clone();
        let missing = missing.unwrap_err();
        assert_eq!(&*missing, "there is no metric new or old");
        let fresh = measures_of("w 0\nr 0\nkv 7\n");
        assert_eq!(fresh.kv_cache_use, Some(Ok(Milli(1_000))), "bounded");
        assert_eq!(
            first(&fresh).unwrap().count(),
            0,
            "it has answered nothing yet"
        );
        let half = measures_of(&format!("{LOAD}kv 0\nnew_bucket{{le=\"0.5\"}} 3\n"));
        let error = first(&half).unwrap_err();
        assert!(error.contains("no bucket +Inf"), "{error}");
    }

    #[test]
    fn a_histogram_is_missing_where_nothing_tells_that_nothing_was_answered() {
        let first = |requests: &[&[&str]], page: &str| {
            let mut metrics = metrics(["w", "r", "done", "read", "written"]);
            metrics.requests = alternatives(requests);
            let typo = alternatives(&[&["typo_bucket"]]);
            metrics.latencies = [(LatencyMeasure::TimeToFirstToken, typo)].into();
            let source = Source::new(0, "/metrics".into(), metrics);
            let measures = page_of(&source, page).unwrap().measures.unwrap();
            let first = measures.latencies[&LatencyMeasure::TimeToFirstToken].clone();
            first.map(|histogram| histogram.count())
        };
        let missing = Err("there is no metric typo".into());
        assert_eq!(first(&[], "w 3\nr 2\n"), missing);
        assert_eq!(first(&[&["done"]], "w 3\nr 2\nwritten 40\n"), missing);
        assert_eq!(first(&[&["done"]], "w 3\nr 2\ndone 0\n"), Ok(0));
    }

    #[test]
    fn numbers_that_no_engine_has_are_bounded() {
        let sample = sample_of("w 1e300\nr -5\ndone 1e300\n").unwrap();
        assert_eq!(sample.busy, MAX_GAUGE as u64);
        assert_eq!(sample.done.requests, MAX_COUNTER as u64);
    }

    /// A page as vLLM's, of 62 KB: 3 samples of gauges and some 700 of counters and histograms.
    fn vllm_page() -> (Source, String) {
        let metrics = metrics([
            "vllm:num_requests_waiting",
            "vllm:num_requests_running",
            "vllm:request_success_total",
            "vllm:prompt_tokens_total",
            "vllm:generation_tokens_total",
        ]);
        let source = Source::new(0, "/metrics".into(), metrics);
        let labels = "engine=\"0\",model_name=\"meta-llama/Llama-3.1-8B-Instruct\"";
        let mut page = String::new();
        for (name, value) in [
            ("vllm:num_requests_running", 7),
            ("vllm:num_requests_waiting", 3),
            ("vllm:prompt_tokens_total", 12),
            ("vllm:generation_tokens_total", 40),
        ] {
            page += &format!(
                "# HELP {name} Text.\n# TYPE {name} gauge\n{name}{{{labels}}} {value}.0\n"
            );
        }
        for reason in ["stop", "length", "abort"] {
            let name = "vllm:request_success_total";
            page += &format!("{name}{{{labels},finished_reason=\"{reason}\"}} 2.0\n");
        }
        for histogram in 0..18 {
            let name = format!("vllm:e2e_request_latency_{histogram}_seconds");
            page += &format!(
                "# HELP {name} Histogram of a latency in seconds.\n# TYPE {name} histogram\n"
            );
            for bucket in 0..26 {
                page += &format!(
                    "{name}_bucket{{{labels},le=\"{bucket}.5\"}} {}.0\n",
                    bucket * 31
                );
            }
            page += &format!("{name}_sum{{{labels}}} 4711.25\n{name}_count{{{labels}}} 806.0\n");
        }
        (source, page)
    }

    #[test]
    fn a_full_page_is_read_as_its_few_lines() {
        let (source, page) = vllm_page();
        assert!(page.len() > 60_000, "{}", page.len());
        let done = EngineCounters {
            requests: 6,
            input_tokens: 12,
            output_tokens: 40,
        };
        assert_eq!(
            page_of(&source, &page).unwrap(),
            Sample {
                busy: 10,
                request_micros: None,
                counting: Counting::EachStep,
                done,
                has_counters: true,
                measures: None
            }
        );
    }

    /// `cargo test --release -p bursar-signals -- --ignored --nocapture`.
    #[test]
    #[ignore = "a timing"]
    fn time_to_parse_a_full_page() {
        const PAGES: u32 = 20_000;
        let (source, page) = vllm_page();
        let began = Instant::now();
        for _ in 0..PAGES {
            let mut reader = PageReader::new(&source);
            for piece in page.as_bytes().chunks(16 << 10) {
                reader.take(std::hint::black_box(piece)).unwrap();
            }
            std::hint::black_box(reader.finish().unwrap());
        }
        println!("{} bytes: {:?}", page.len(), began.elapsed() / PAGES);
    }
}
