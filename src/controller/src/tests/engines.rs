//! The presets of engines against pages as their versions print them (`e2e/data/engines`).

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use bursar_api::engine::{Engine, EngineSettings};
use bursar_api::signal::EngineMeasure;
use bursar_core::ledger::EngineCounters;
use bursar_core::scaling::LatencyMeasure;
use bursar_signals::engine::Scraper;
use bursar_signals::engine_metrics::Sample;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::engine_targets::source;

/// What a page says.
struct MetricsPage {
    file: &'static str,
    engine: Engine,
    model: Option<&'static str>,
    busy: u64,
    /// The time of its requests tells how many run.
    has_time: bool,
    /// Requests, and tokens read and written.
    done: [u64; 3],
}

const fn page(file: &'static str, engine: Engine, busy: u64, done: [u64; 3]) -> MetricsPage {
    MetricsPage {
        file,
        engine,
        model: None,
        busy,
        has_time: false,
        done,
    }
}

/// A page of which the time of its requests tells how many run.
const fn page_of_times(
    file: &'static str,
    engine: Engine,
    busy: u64,
    done: [u64; 3],
) -> MetricsPage {
    let mut page = page(file, engine, busy, done);
    page.has_time = true;
    page
}

const fn of_model(mut page: MetricsPage, model: &'static str) -> MetricsPage {
    page.model = Some(model);
    page
}

const TRITON_LLM: &str = "triton-25-tensorrt-llm";

const PAGES: [MetricsPage; 21] = [
    page("vllm-0.6", Engine::Vllm, 10, [110, 50_211, 20_514]),
    page("vllm-2026", Engine::Vllm, 84, [850, 1_502_113, 610_231]),
    page("vllm-2026-rust", Engine::Vllm, 8, [84, 1_502, 6_102]),
    page("sglang-0.4", Engine::Sglang, 15, [40, 81_920, 20_480]),
    page("sglang-2026", Engine::Sglang, 15, [956, 701_344, 201_344]),
    page(
        "sglang-2026-priorities",
        Engine::Sglang,
        16,
        [956, 701_344, 201_344],
    ),
    page("tgi-3.3", Engine::Tgi, 19, [1_033, 512_000, 264_448]),
    page("llama-cpp-2025", Engine::LlamaCpp, 1, [0, 1_430, 6_730]),
    page(
        "llama-cpp-2026",
        Engine::LlamaCpp,
        6,
        [0, 96_641, 1_234_570],
    ),
    page_of_times("triton-23.10", Engine::Triton, 17, [1_525, 0, 0]),
    page(TRITON_LLM, Engine::Triton, 20, [897, 640_022, 180_514]),
    of_model(
        page(TRITON_LLM, Engine::Triton, 20, [900, 640_022, 180_514]),
        "ensemble",
    ),
    page_of_times("triton-24-vllm", Engine::Triton, 0, [1_525, 1_010, 4_040]),
    page_of_times("tensorrt-llm-1.1", Engine::TensorRtLlm, 0, [15, 0, 0]),
    page(
        "tensorrt-llm-2026",
        Engine::TensorRtLlm,
        7,
        [15, 90_210, 20_114],
    ),
    page_of_times(
        "tensorflow-serving-2.3",
        Engine::TensorFlowServing,
        0,
        [2_155, 0, 0],
    ),
    page_of_times(
        "tensorflow-serving-2.5",
        Engine::TensorFlowServing,
        0,
        [840, 0, 0],
    ),
    page_of_times("torchserve-0.7", Engine::TorchServe, 0, [1, 0, 0]),
    page_of_times("torchserve-0.12", Engine::TorchServe, 0, [30, 0, 0]),
    page("ray-serve-2.5", Engine::RayServe, 8, [40, 0, 0]),
    page("ray-serve-2.48", Engine::RayServe, 14, [467, 0, 96_410]),
];

fn text(file: &str) -> String {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let path = root.join(format!("e2e/data/engines/{file}.prom"));
    std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// Reads a text as the page of that engine.
async fn read(engine: Engine, model: Option<&str>, text: String) -> Result<Sample, String> {
    read_measures(engine, model, text, &BTreeSet::new()).await
}

/// The same with further measures.
async fn read_measures(
    engine: Engine,
    model: Option<&str>,
    text: String,
    measures: &BTreeSet<EngineMeasure>,
) -> Result<Sample, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let _server = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            while stream.read(&mut head).await.is_ok_and(|bytes| bytes > 0) {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
                stream.write_all(head.as_bytes()).await.unwrap();
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        }
    }));
    let mut settings = EngineSettings::new(engine, model, None).unwrap();
    settings.metrics_port = address.port();
    let read = Scraper
        .read(address.ip(), &source(settings, measures), None)
        .await
        .map(|(sample, _)| sample);
    read.map_err(|error| error.to_string())
}

#[tokio::test]
async fn each_version_of_an_engine_is_read_by_its_own_names() {
    for page in PAGES {
        let sample = read(page.engine, page.model, text(page.file)).await;
        let [requests, input_tokens, output_tokens] = page.done;
        let sample = sample.unwrap_or_else(|error| panic!("{}: {error}", page.file));
        let told = (sample.busy, sample.request_micros.is_some(), sample.done);
        let done = EngineCounters {
            requests,
            input_tokens,
            output_tokens,
        };
        assert_eq!(told, (page.busy, page.has_time, done), "{}", page.file);
        assert!(sample.has_counters, "{}", page.file);
    }
}

/// The KV cache in thousandths, first tokens and further tokens that a page tells of.
type PageMeasures = (Option<u64>, Option<u64>, Option<u64>);

const MEASURES: [(&str, Engine, PageMeasures); 15] = [
    (
        "vllm-0.6",
        Engine::Vllm,
        (Some(430), Some(120), Some(20_394)),
    ),
    (
        "vllm-2026",
        Engine::Vllm,
        (Some(726), Some(850), Some(609_381)),
    ),
    (
        "vllm-2026-rust",
        Engine::Vllm,
        (Some(312), Some(84), Some(6_018)),
    ),
    (
        "sglang-0.4",
        Engine::Sglang,
        (Some(280), Some(40), Some(20_440)),
    ),
    (
        "sglang-2026",
        Engine::Sglang,
        (Some(410), Some(956), Some(200_388)),
    ),
    ("tgi-3.3", Engine::Tgi, (None, None, Some(1_033))),
    ("llama-cpp-2025", Engine::LlamaCpp, (Some(187), None, None)),
    ("llama-cpp-2026", Engine::LlamaCpp, (None, None, None)),
    ("triton-23.10", Engine::Triton, (None, None, None)),
    (TRITON_LLM, Engine::Triton, (Some(488), None, None)),
    (
        "triton-24-vllm",
        Engine::Triton,
        (None, Some(31), Some(4_009)),
    ),
    (
        "tensorrt-llm-1.1",
        Engine::TensorRtLlm,
        (None, Some(15), Some(15)),
    ),
    (
        "tensorrt-llm-2026",
        Engine::TensorRtLlm,
        (Some(173), Some(15), Some(15)),
    ),
    (
        "ray-serve-2.48",
        Engine::RayServe,
        (Some(370), Some(467), Some(95_943)),
    ),
    ("torchserve-0.12", Engine::TorchServe, (None, None, None)),
];

#[tokio::test]
async fn measures_of_each_version_are_read_by_its_own_names_and_what_it_lacks_is_unknown() {
    let measures = BTreeSet::from([
        EngineMeasure::KvCacheUse,
        EngineMeasure::TimeToFirstToken,
        EngineMeasure::InterTokenLatency,
    ]);
    for (file, engine, expected) in MEASURES {
        let sample = read_measures(engine, None, text(file), &measures).await;
        let sample = sample.unwrap_or_else(|error| panic!("{file}: {error}"));
        let told = sample.measures.unwrap();
        let cache = told.kv_cache_use.clone().unwrap();
        let latency = |latency| {
            let counted = told.latencies[&latency].as_ref();
            let has_answered = sample.done.requests > 0;
            let counted = counted.map(|counted| counted.count());
            // of an engine that counts no requests, a histogram may be missing as nothing is in it
            counted.ok().filter(|count| has_answered || *count > 0)
        };
        let told = (
            cache.ok().map(|part| part.0),
            latency(LatencyMeasure::TimeToFirstToken),
            latency(LatencyMeasure::InterToken),
        );
        assert_eq!(told, expected, "{file}");
    }
}

#[tokio::test]
async fn what_a_version_calls_otherwise_is_reported_and_not_zero() {
    for page in PAGES {
        let settings = EngineSettings::new(page.engine, page.model, None).unwrap();
        let mut renamed = text(page.file);
        for load in &settings.loads {
            for metric in [&load.queued, &load.running, &load.request_time] {
                for selector in metric.iter().flatten() {
                    let family = selector.name.trim_end_matches("_sum");
                    renamed = renamed.replace(family, &format!("new_{family}"));
                }
            }
        }
        let error = read(page.engine, page.model, renamed).await.unwrap_err();
        let names = settings.loads[0].running.first();
        let names = names.or(settings.loads[0].queued.first());
        let names = names.or(settings.loads[0].request_time.first());
        assert!(error.starts_with("there is no metric "), "{error}");
        assert!(names.is_some() && error.len() < 500, "{error}");
    }
}

#[tokio::test]
async fn an_engine_that_has_had_no_request_is_idle_if_its_page_shows_that() {
    for (engine, page) in [
        (Engine::Tgi, ""),
        (Engine::Sglang, "process_open_fds 12.0\n"),
        (Engine::TensorRtLlm, ""),
        (
            Engine::TorchServe,
            "# TYPE ts_inference_requests_total counter\n# TYPE ts_inference_latency_microseconds counter\n",
        ),
        (
            Engine::TensorFlowServing,
            "# TYPE :tensorflow:serving:runtime_latency histogram\n",
        ),
    ] {
        let sample = read(engine, None, page.to_owned()).await;
        assert_eq!(sample.map(|sample| sample.busy), Ok(0), "{engine:?}");
    }
    // vLLM without statistics, and TorchServe that logs its metrics, never show any
    for engine in [Engine::Vllm, Engine::TorchServe, Engine::LlamaCpp] {
        let error = read(engine, None, "process_open_fds 12.0\n".to_owned()).await;
        assert!(error.is_err(), "{engine:?}");
    }
}
