//! The client as a program: serves until SIGTERM.

use std::net::{Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use bursar_client::{Sender, serve};
use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Parser)]
#[command(
    version,
    about = "Sends the demo's requests, and stores its training job's checkpoint"
)]
struct Options {
    /// Host and port of the Service that gets the requests
    #[arg(long)]
    target: String,
    /// How much faster than the trace its requests are sent
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    speedup: u32,
    /// Port of the HTTP API
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, options.port));
    let listener = TcpListener::bind(address).await?;
    println!("listens on port {}", options.port);
    let router = serve::router(Sender::new(&options.target), options.speedup);
    let ended = async move {
        terminate.recv().await;
    };
    tokio::select! {
        served = axum::serve(listener, router) => served,
        () = ended => Ok(()),
    }
}
