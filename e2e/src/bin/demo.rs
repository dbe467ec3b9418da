//! `cargo demo`: the whole of Bursar's job on a real cluster on this machine, in five minutes.

use std::process::ExitCode;

use bursar_e2e::demo::{self, Options};
use clap::Parser;

#[derive(Parser)]
#[command(
    about = "Bursar's whole job on a real cluster on this machine: real traffic, zero and back, a budget, and what it cost"
)]
struct Arguments {
    /// Leave the cluster up afterwards.
    #[arg(long)]
    keep: bool,
    /// Requests of the trace to replay.
    #[arg(long, default_value_t = 1200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    requests: u32,
}

fn main() -> ExitCode {
    let Arguments { keep, requests } = Arguments::parse();
    match demo::run(&Options { keep, requests }) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the demo ended early: {error}");
            ExitCode::FAILURE
        }
    }
}
