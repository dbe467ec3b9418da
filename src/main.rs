//! The `bursar` binary: reads its arguments and runs the command.

use std::process::ExitCode;

use bursar_install::{crds, uninstall};
use bursar_runtime::logging::{self, Format};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    version,
    about = "Kubernetes operator for GPU autoscaling and cost control"
)]
struct Arguments {
    /// Form of the logs: text or json.
    #[arg(long, global = true, env = "BURSAR_LOG_FORMAT", default_value = "text")]
    log_format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the controller: decides how many replicas and jobs run, and keeps the ledger.
    /// Only the elected leader acts; the others wait.
    Controller(bursar_controller::Options),
    /// Run the gateway: holds requests for services that have no ready replica, and forwards them.
    Gateway(bursar_gateway::Options),
    /// Print the CustomResourceDefinitions, or apply them to the cluster.
    Crds(crds::Options),
    /// Run the controller's decisions over a simulated cluster, and print what they come to.
    Simulate(bursar_sim::Options),
    /// Prepare the cluster for removing Bursar: stops the controller, and removes finalizers and
    /// EndpointSlices, and gives Services their replicas back.
    #[command(alias = "release")]
    Uninstall(uninstall::Options),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::init(arguments.log_format);
    // several dependencies bring a TLS provider; this one is used
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        tracing::debug!("a TLS provider is installed already");
    }
    let ended: Result<(), Box<dyn std::error::Error>> = match arguments.command {
        Command::Controller(options) => bursar_controller::run(options).await.map_err(Into::into),
        Command::Gateway(options) => bursar_gateway::run(options).await.map_err(Into::into),
        Command::Crds(options) => crds::run(options).await.map_err(Into::into),
        Command::Simulate(options) => bursar_sim::run(&options).map_err(Into::into),
        Command::Uninstall(options) => uninstall::run(options).await.map_err(Into::into),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "ended");
            ExitCode::FAILURE
        }
    }
}
