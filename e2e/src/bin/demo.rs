//! `cargo demo`: Bursar's whole job on a real cluster, in five minutes.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use bursar_e2e::{
    Result,
    demo::{self, ExistingCluster, Options},
};
use clap::{CommandFactory, Parser, error::ErrorKind};

#[derive(Parser)]
#[command(
    bin_name = "cargo demo",
    about = "Shows Bursar's whole job on a real Kubernetes cluster in five minutes",
    long_about = "Shows Bursar's whole job on a real Kubernetes cluster in five minutes: recorded requests, replicas that follow \
                  them to zero and back, a training job, a budget that runs out, and what all of it cost.\n\n\
                  Without options it boots a cluster on this machine, which needs root, and stops it at the end.",
    after_long_help = "Examples:\n  \
        cargo demo --svg demo.svg\n  \
        cargo demo --kubeconfig FILE --image registry.example/bursar-demo:1\n  \
        cargo demo --kubeconfig FILE --image bursar-demo:1 --pretend-gpus 8    on kind, k3d or minikube\n  \
        cargo demo --kubeconfig FILE --pretend-gpus 0                          after a run that was killed"
)]
struct Arguments {
    /// Requests of the trace to replay
    #[arg(long, default_value_t = 1200, value_parser = clap::value_parser!(u32).range(1..=5000))]
    requests: u32,
    /// Times that the service goes to zero and a request wakes it
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=50))]
    wakes: u32,
    /// Leave the cluster up afterwards, or Bursar on an existing cluster
    #[arg(long)]
    keep: bool,
    /// Draw the run as a timeline into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write what was seen into this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// Run nothing: draw the journal of an earlier run
    #[arg(long, value_name = "JOURNAL", requires = "svg", conflicts_with_all = ["kubeconfig", "journal"])]
    draw: Option<PathBuf>,
    /// Run on the cluster of this kubeconfig, which needs three GPUs and is left as it was
    #[arg(long, value_name = "FILE", help_heading = "On an existing cluster")]
    kubeconfig: Option<PathBuf>,
    /// Name and tag under which that cluster's nodes get the demo's image
    ///
    /// The demo writes the image as an OCI archive; where the nodes cannot get it, the demo says how to push or load it.
    #[arg(
        long,
        value_name = "NAME:TAG",
        requires = "kubeconfig",
        help_heading = "On an existing cluster"
    )]
    image: Option<String>,
    /// Give each node of a cluster without GPUs so many by its status, until the end; 0 takes back what a killed run left
    ///
    /// There is nothing behind these GPUs: the scheduler counts them, and Bursar prices them as H100. It needs the right to patch nodes
    /// and nodes/status.
    #[arg(long, value_name = "N", requires = "kubeconfig", value_parser = clap::value_parser!(u32).range(0..=64), help_heading = "On an existing cluster")]
    pretend_gpus: Option<u32>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // the terminal may have been closed, where eprintln! would panic
            writeln!(io::stderr(), "the demo ended early: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<bool> {
    if let Some((journal, svg)) = arguments.draw.as_ref().zip(arguments.svg.as_ref()) {
        return demo::draw(journal, svg).map(|()| true);
    }
    if let (Some(kubeconfig), Some(0)) = (&arguments.kubeconfig, arguments.pretend_gpus) {
        let nodes = demo::take_back_gpus(kubeconfig)?;
        let text = match nodes[..] {
            [] => "no node has GPUs that a demo pretended".to_owned(),
            _ => format!("took back the GPUs of {}", nodes.join(", ")),
        };
        writeln!(io::stdout(), "{text}").ok();
        return Ok(true);
    }
    let existing = match (arguments.kubeconfig, arguments.image) {
        (Some(kubeconfig), Some(image)) => Some(ExistingCluster {
            kubeconfig,
            image,
            pretend_gpus: arguments.pretend_gpus,
        }),
        (Some(_), None) => Arguments::command()
            .error(
                ErrorKind::MissingRequiredArgument,
                "--kubeconfig needs --image NAME:TAG: the name under which the cluster's nodes get the demo's image",
            )
            .exit(),
        _ => None,
    };
    demo::run(&Options {
        keep: arguments.keep,
        requests: arguments.requests,
        wakes: arguments.wakes,
        existing,
        journal: arguments.journal,
        svg: arguments.svg,
    })
}
