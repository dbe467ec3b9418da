//! `cargo cluster`: a real Kubernetes cluster on this machine, to look at and to try things on.

use std::{os::unix::process::CommandExt, process::ExitCode};

use bursar_e2e::{
    Access, Cluster, Error, Lifetime, NodeOptions, Options,
    cluster::{DEFAULT_NAME, shell},
    image::{self, Program},
    setup,
    tools::Tools,
};
use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  cargo cluster up                        one node with 8 GPUs, and the images of this checkout
  cargo cluster enter kubectl get nodes   one command in its network
  cargo cluster enter                     a shell there, with kubectl and helm
  cargo cluster down                      stop it; nothing is left";

/// A Kubernetes cluster on this machine, without Docker, to look at and to try things on.
///
/// Its programs are the real ones, of the versions that e2e/tools pins. Its GPUs are numbers in the
/// nodes' statuses: the scheduler counts them, and no hardware is needed. Booting one needs root.
#[derive(Parser)]
#[command(name = "cargo cluster", bin_name = "cargo cluster", after_help = EXAMPLES)]
struct Arguments {
    /// Name of the cluster; several run side by side.
    #[arg(long, global = true, default_value = DEFAULT_NAME)]
    name: String,
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install the missing Debian packages and build the cluster's programs, once.
    ///
    /// The demo, the tests and `up` do the same by themselves.
    Setup,
    /// Build the cluster's programs without installing packages; needs no root.
    Build,
    /// Boot a cluster that runs until `down`.
    Up {
        /// Number of GPU nodes, 16 at most; 0 boots a control plane alone.
        #[arg(long, default_value_t = 1)]
        nodes: u32,
        /// GPUs of each node.
        #[arg(long, default_value_t = 8)]
        gpus: u32,
        /// Do not build the images of this checkout and load them.
        #[arg(long)]
        no_images: bool,
    },
    /// Build the operator, optimized, and write its image as an OCI archive for other clusters.
    Image {
        /// The image's name and tag there, as in registry.example/bursar:1.
        reference: String,
    },
    /// Stop the cluster and remove all it made.
    Down,
    /// Say whether the cluster runs, and where its logs are.
    Status,
    /// Run a command, or a shell, in the cluster's network, with kubectl and helm in PATH.
    Enter {
        /// The command and its arguments; $SHELL without one.
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
        Verb::Setup => setup().map(drop),
        Verb::Build => Tools::build().map(drop),
        Verb::Up {
            nodes,
            gpus,
            no_images,
        } => {
            // Before cargo compiles anything: it may take long, and without root nothing comes of
            // it.
            setup()?;
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
            let named = if name == DEFAULT_NAME {
                String::new()
            } else {
                format!(" --name {name}")
            };
            println!("  cargo cluster{named} enter kubectl get nodes\n  cargo cluster{named} down");
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
