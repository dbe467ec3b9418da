//! What reading a thousand engines once a second costs, next to a bare reader of the same pages:
//! `cargo test --release -p bursar-signals --test read_cost -- --ignored --nocapture`.

#![allow(clippy::unwrap_used)] // a test fails by ending

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bursar_signals::engine::Scraper;
use bursar_signals::engine_metrics::{EngineMetrics, Load, Metric, Source};
use bursar_signals::engine_reads::{EngineReads, Target};
use bursar_signals::exposition::Selector;
use bursar_signals::schedule::Settings;
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::task::JoinSet;

const TARGETS: usize = 1_000;
const TIME: Duration = Duration::from_secs(20);
/// The first reads, with their connections, are not measured.
const START: Duration = Duration::from_secs(3);

/// A page as vLLM's, of some 60 KB: a few gauges and counters, and 18 histograms.
fn page() -> String {
    let labels = "engine=\"0\",model_name=\"meta-llama/Llama-3.1-8B-Instruct\"";
    let mut page = String::new();
    for name in [
        "num_requests_running",
        "num_requests_waiting",
        "prompt_tokens_total",
        "generation_tokens_total",
        "request_success_total",
    ] {
        page += &format!("# TYPE vllm:{name} gauge\nvllm:{name}{{{labels}}} 7.0\n");
    }
    for histogram in 0..18 {
        let name = format!("vllm:e2e_request_latency_{histogram}_seconds");
        page += &format!("# HELP {name} Histogram of a latency.\n# TYPE {name} histogram\n");
        for bucket in 0..26 {
            page += &format!("{name}_bucket{{{labels},le=\"{bucket}.5\"}} {bucket}.0\n");
        }
        page += &format!("{name}_sum{{{labels}}} 4711.25\n{name}_count{{{labels}}} 806.0\n");
    }
    page
}

/// The page as an answer.
fn answer() -> String {
    let page = page();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{page}",
        page.len()
    )
}

/// Serves the page on all connections, in a thread of its own.
fn serve() -> SocketAddr {
    let answer: Arc<str> = answer().into();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    while stream.read(&mut request).await.is_ok_and(|bytes| bytes > 0) {
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
    });
    receiver.recv().unwrap()
}

/// Processor time of this thread so far.
fn thread_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// The resident memory of this process, in KiB.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs readers on this thread alone, and returns their share of a core.
fn measure(name: &str, readers: impl Future<Output = ()>) -> f64 {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let before = resident();
    let spent = runtime.unwrap().block_on(async {
        let measured = async {
            tokio::time::sleep(START).await;
            let began = thread_time();
            tokio::time::sleep(TIME).await;
            thread_time() - began
        };
        tokio::select! {
            spent = measured => spent,
            () = readers => unreachable!("they read without end"),
        }
    });
    let share = spent.as_secs_f64() / TIME.as_secs_f64();
    let grown = resident().saturating_sub(before);
    println!("{name}: {:.2}% of a core, {grown} KiB", share * 100.0);
    share
}

/// Asks for the page once a second on one connection, and throws it away.
async fn bare(address: SocketAddr, phase: Duration) {
    tokio::time::sleep(phase).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let mut piece = vec![0; 16 << 10];
    let length = answer().len();
    loop {
        ticks.tick().await;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: engine\r\n\r\n")
            .await
            .unwrap();
        let mut bytes = 0;
        while bytes < length {
            bytes += stream.read(&mut piece).await.unwrap();
        }
    }
}

async fn engine_reads(address: SocketAddr) {
    let metric = |name: &str| Metric {
        alternatives: vec![vec![Selector::all(name)]],
    };
    let load = Load {
        queued: metric("vllm:num_requests_waiting"),
        running: metric("vllm:num_requests_running"),
        ..Load::default()
    };
    let metrics = EngineMetrics {
        loads: vec![load],
        requests: metric("vllm:request_success_total"),
        input_tokens: metric("vllm:prompt_tokens_total"),
        output_tokens: metric("vllm:generation_tokens_total"),
        ..EngineMetrics::default()
    };
    let source = Arc::new(Source::new(address.port(), "/metrics".into(), metrics));
    let (targets, reads) = EngineReads::new(Scraper, Settings::default(), Timestamp::now);
    for index in 0..TARGETS {
        targets.upsert(Target {
            namespace: format!("team-{}", index % 10).into(),
            service: format!("chat-{index}").into(),
            uid: format!("pod-{index}").into(),
            address: address.ip(),
            source: Arc::clone(&source),
        });
    }
    reads
        .run(|reading| match reading.result {
            Ok(sample) => assert_eq!(sample.busy, 14),
            Err(error) => println!("{}: {error}", reading.target.uid),
        })
        .await;
    drop(targets);
}

#[test]
#[ignore = "a timing"]
fn a_thousand_full_pages_a_second() {
    let address = serve();
    println!("pages of {} bytes", page().len());
    let floor = measure("bare reader", async {
        let mut readers = JoinSet::new();
        for index in 0..TARGETS {
            let phase = Duration::from_millis(index as u64);
            readers.spawn(bare(address, phase));
        }
        readers.join_all().await;
    });
    let share = measure("engine reads", engine_reads(address));
    println!("{:.2} times the bare reader", share / floor);
}
