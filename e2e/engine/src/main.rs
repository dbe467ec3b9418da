//! A model server that behaves as vLLM does as far as clients and scrapers can see, with measured latencies and no model.
//!
//! `batch` decides what is computed in a step and `latency` how long that takes; `engine` runs the steps, `openai` and `reply` speak
//! with clients, `metrics` with scrapers, and `serve` ties them to a socket.
//!
//! `fleet` is another program in the same binary: it stands for many engines that only have metrics.

mod batch;
mod engine;
mod fleet;
mod latency;
mod metrics;
mod openai;
mod reply;
mod serve;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use jiff::SignedDuration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::batch::Limits;
use crate::engine::Engine;
use crate::fleet::{Fleet, PageSize};
use crate::latency::{Latency, LatencyError};
use crate::metrics::{Dialect, Metrics};
use crate::openai::Offer;
use crate::serve::{OnSigterm, Server};

/// What can be set. The variables have a long prefix because Kubernetes sets `NAME_PORT` for every Service.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Options {
    /// Address to listen on
    #[arg(long, env = "BURSAR_ENGINE_HOST", default_value = "0.0.0.0")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one, and without it, it is that of the dialect
    #[arg(long, env = "BURSAR_ENGINE_PORT")]
    port: Option<u16>,
    /// Name of the model
    #[arg(
        long,
        env = "BURSAR_ENGINE_MODEL",
        default_value = "meta-llama/Llama-2-70b-chat-hf"
    )]
    model: String,
    /// The engine whose ports, paths and metrics it has; it answers as vLLM in any case
    #[arg(
        long,
        env = "BURSAR_ENGINE_DIALECT",
        value_enum,
        default_value = "vllm"
    )]
    dialect: Dialect,
    /// GPUs whose latencies it has
    #[arg(long, env = "BURSAR_ENGINE_HARDWARE", default_value = "h100-80gb")]
    hardware: String,
    /// Number of them that serve the model together
    #[arg(long, env = "BURSAR_ENGINE_GPUS", default_value_t = 8)]
    gpus: u32,
    /// Divides latencies
    #[arg(long, env = "BURSAR_ENGINE_SPEEDUP", default_value_t = 1.0, value_parser = positive)]
    speedup: f64,
    /// Time before it listens, as for loading a model; not divided by the speed-up
    #[arg(long, env = "BURSAR_ENGINE_STARTUP_DELAY", default_value = "0s", value_parser = duration)]
    startup_delay: Duration,
    /// What SIGTERM does
    #[arg(
        long,
        env = "BURSAR_ENGINE_ON_SIGTERM",
        value_enum,
        default_value = "drain"
    )]
    on_sigterm: OnSigterm,
    /// Time without requests after which a drained engine exits
    #[arg(long, env = "BURSAR_ENGINE_DRAIN_QUIET", default_value = "2s", value_parser = duration)]
    drain_quiet: Duration,
    /// Sequences that run at the same time
    #[arg(long, env = "BURSAR_ENGINE_MAX_NUM_SEQS", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    max_num_seqs: u32,
    /// Tokens computed in one step
    #[arg(long, env = "BURSAR_ENGINE_MAX_NUM_BATCHED_TOKENS", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    max_num_batched_tokens: u32,
    /// Blocks of the KV cache, of 16 tokens each
    #[arg(long, env = "BURSAR_ENGINE_KV_BLOCKS", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    kv_blocks: u32,
    /// Tokens of a sequence, prompt and output together
    #[arg(long, env = "BURSAR_ENGINE_MAX_MODEL_LEN", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(2..=1 << 24))]
    max_model_len: u32,
    /// Let `POST /crash` end the process
    #[arg(long, env = "BURSAR_ENGINE_ALLOW_CRASH")]
    allow_crash: bool,
    /// Serve no model: answer as an idle engine at every address of the machine, with such pages
    #[arg(long, env = "BURSAR_ENGINE_FLEET", value_enum)]
    fleet: Option<PageSize>,
    /// Port on loopback that sets the queue depths of a fleet
    #[arg(long, env = "BURSAR_ENGINE_CONTROL_PORT", default_value_t = 8001)]
    control_port: u16,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: SignedDuration = text
        .parse()
        .map_err(|error| format!("{error}; write it as 5s or 500ms"))?;
    Duration::try_from(parsed).map_err(|_| "must not be negative".to_owned())
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if (1e-3..=1e6).contains(&number) => Ok(number),
        _ => Err("must be a number between 0.001 and 1000000".to_owned()),
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Latency(#[from] LatencyError),
    #[error("{address}: {why}")]
    Listen {
        address: SocketAddr,
        why: std::io::Error,
    },
    #[error("signals: {0}")]
    Signal(std::io::Error),
    #[error("serving: {0}")]
    Serve(std::io::Error),
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bursar-engine: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Signal)?;
    let latency = Latency::measured(&options.hardware, options.gpus)?;
    let limits = Limits {
        max_num_seqs: options.max_num_seqs as usize,
        max_batched_tokens: options.max_num_batched_tokens,
        kv_blocks: options.kv_blocks,
        max_model_len: options.max_model_len,
    };
    tokio::select! {
        () = tokio::time::sleep(options.startup_delay) => {}
        _ = terminate.recv() => return Ok(()),
    }
    let dialect = options.dialect;
    let port = options.port.unwrap_or(dialect.port());
    let (listener, address) = listen(SocketAddr::new(options.host, port)).await?;
    if let Some(size) = options.fleet {
        let control = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), options.control_port);
        let (control, control_address) = listen(control).await?;
        println!("the fleet listens on {address}, its control on {control_address}");
        let stop = async move {
            terminate.recv().await;
        };
        let served = Fleet::new(size).serve(listener, control, stop);
        return served.await.map_err(Failure::Serve);
    }
    println!("{} listens on {address}", options.model);

    let own_port = match dialect.metrics_port() {
        Some(port) => Some(listen(SocketAddr::new(options.host, port)).await?.0),
        None => None,
    };
    let metrics = Metrics::new(dialect, &options.model);
    let engine = Engine::start(metrics, limits, latency, options.speedup);
    let offer = Offer {
        model: options.model,
        context: limits.context(),
    };
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let server = Server::new(
        engine,
        offer,
        dialect,
        started.as_secs(),
        options.allow_crash,
    );
    let server_of_metrics = own_port.map(|own_port| Arc::clone(&server).serve_metrics(own_port));
    let sigterm = async move {
        terminate.recv().await;
    };
    let served = server.serve(listener, options.on_sigterm, options.drain_quiet, sigterm);
    let metrics_served = async {
        match server_of_metrics {
            Some(served) => served.await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = served => ended,
        ended = metrics_served => ended,
    };
    ended.map_err(Failure::Serve)
}

/// Opens a socket, and says at which address.
async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let refuse = |why| Failure::Listen { address, why };
    let listener = TcpListener::bind(address).await.map_err(refuse)?;
    let address = listener.local_addr().map_err(refuse)?;
    Ok((listener, address))
}
