//! `cargo bench -p bursar-e2e --bench growth`: what the two growth rules cost on a real control plane. See
//! `e2e/README.md`.

use std::{process::ExitCode, time::Duration};

use bursar_e2e::growth::{self, Options};
use clap::Parser;

/// Sends the demo's trace and bursts to a service that grows by what was learned of it, and to one that
/// grows by its queue, and prints the time to the first token, the costs and the most replicas of each.
/// Needs root.
#[derive(Parser)]
#[command(bin_name = "cargo bench -p bursar-e2e --bench growth --")]
struct Arguments {
    /// Requests of the trace in each replay.
    #[arg(long, default_value_t = 1200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    requests: u32,
    /// Seconds that an engine takes to start.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=600))]
    start: u64,
    /// cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        requests: arguments.requests,
        start: Duration::from_secs(arguments.start),
    };
    match growth::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
