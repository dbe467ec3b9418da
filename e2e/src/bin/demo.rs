//! `cargo demo`: the whole of Bursar's job on a real cluster on this machine, in five minutes.

use std::{path::PathBuf, process::ExitCode};

use bursar_e2e::demo::{self, ExistingCluster, Options};
use clap::Parser;

#[derive(Parser)]
#[command(
    about = "Bursar's whole job on a real cluster: real traffic, zero and back, a budget, and what it cost"
)]
struct Arguments {
    /// Leave the cluster, or Bursar on yours, up afterwards.
    #[arg(long)]
    keep: bool,
    /// Requests of the trace to replay.
    #[arg(long, default_value_t = 1200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    requests: u32,
    /// Times that the service goes to zero and a request wakes it.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=50))]
    wakes: u32,
    /// Run on the cluster of this kubeconfig instead of one on this machine. It needs three GPUs, and is left as it was.
    #[arg(long, value_name = "FILE", requires = "image")]
    kubeconfig: Option<PathBuf>,
    /// The name and tag under which that cluster's nodes get the demo's image; the demo writes it as an OCI archive.
    #[arg(long, value_name = "REGISTRY/NAME:TAG", requires = "kubeconfig")]
    image: Option<String>,
}

fn main() -> ExitCode {
    let Arguments {
        keep,
        requests,
        wakes,
        kubeconfig,
        image,
    } = Arguments::parse();
    let existing = kubeconfig
        .zip(image)
        .map(|(kubeconfig, image)| ExistingCluster { kubeconfig, image });
    let options = Options {
        keep,
        requests,
        wakes,
        existing,
    };
    match demo::run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the demo ended early: {error}");
            ExitCode::FAILURE
        }
    }
}
