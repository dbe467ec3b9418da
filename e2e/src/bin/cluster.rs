//! `cargo cluster`: a real Kubernetes cluster on this machine, to look at and to try things on.

use std::{os::unix::process::CommandExt, process::ExitCode};

use bursar_e2e::{
    Access, Cluster, Error, Lifetime, NodeOptions, Options,
    cluster::{DEFAULT_NAME, shell},
    image::{self, Program},
    tools::Tools,
};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    about = "A real Kubernetes cluster on this machine, with GPUs that only the scheduler believes in"
)]
struct Arguments {
    /// Names the cluster.
    #[arg(long, global = true, default_value = DEFAULT_NAME)]
    name: String,
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build the cluster's programs into the cache; `up` does it too.
    Build,
    /// Boot a cluster that runs until `down`.
    Up {
        /// GPU nodes; 0 for a control plane alone.
        #[arg(long, default_value_t = 1)]
        nodes: u32,
        /// GPUs of each node.
        #[arg(long, default_value_t = 8)]
        gpus: u32,
        /// Leave the images of this checkout out.
        #[arg(long)]
        no_images: bool,
    },
    /// Build the operator, optimized, and write its image as an OCI archive, for other clusters.
    Image {
        /// The image's name and tag there, as in registry.example/bursar:1.
        reference: String,
    },
    /// Stop it and remove what it made.
    Down,
    /// Say whether it runs.
    Status,
    /// Run a command, or a shell, in its network with kubectl and helm at hand.
    Enter {
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(Arguments { name, command }: Arguments) -> Result<(), Error> {
    match command {
        Verb::Build => Tools::build().map(drop),
        Verb::Up {
            nodes,
            gpus,
            no_images,
        } => {
            let images = if no_images || nodes == 0 {
                Vec::new()
            } else {
                image::from_checkout(&Program::TESTED)?
            };
            let nodes = (0..nodes).map(|_| NodeOptions::h100(gpus)).collect();
            let cluster = Cluster::start(&Options {
                nodes,
                images,
                lifetime: Lifetime::Detached,
                ..Options::new(&name)
            })?;
            println!(
                "cluster `{}` is up; its state and logs: {}",
                cluster.name(),
                cluster.run_directory().display()
            );
            println!("  cargo cluster enter kubectl get nodes\n  cargo cluster down");
            Ok(())
        }
        Verb::Image { reference } => {
            image::check_reference(&reference)?;
            let image = image::release(&reference)?;
            println!(
                "{reference} lies in {}. Push it, or load it into each node:\n  {}",
                image.archive.display(),
                image::ways_to_bring(&image)
            );
            Ok(())
        }
        Verb::Down => Cluster::open(&name)?.stop(),
        Verb::Status => {
            let cluster = Cluster::open(&name)?;
            println!(
                "cluster `{name}` runs with {} nodes; {}",
                cluster.nodes().len(),
                cluster.run_directory().display()
            );
            Ok(())
        }
        Verb::Enter { command } => {
            let cluster = Cluster::open(&name)?;
            let words = if command.is_empty() {
                vec![shell()]
            } else {
                command
            };
            let error = cluster.command(&words[0]).args(&words[1..]).exec();
            Err(Error::Io {
                what: format!("starting {}", words[0]),
                source: error,
            })
        }
    }
}
