//! `cargo bench -p bursar-e2e --bench scale`: what a thousand services cost the operator, and how
//! soon it follows them. See `e2e/README.md`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use bursar_e2e::scale::{
    Services,
    bench::{self, Options},
    fleet::PageSize,
    floor,
};
use clap::Parser;

/// Measures the operator with many services on a control plane with simulated nodes: processor
/// time, memory and writes at rest, and the time from a jump of all queues to the patches of the
/// Deployments, each next to a floor. Needs root.
#[derive(Parser)]
#[command(bin_name = "cargo bench -p bursar-e2e --bench scale --")]
struct Arguments {
    /// InferenceDeployments.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    services: u32,
    /// Namespaces over which they are spread.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    namespaces: u32,
    /// Seconds of each measurement at rest.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    rest: u64,
    /// Pages of the engines while their queues jump.
    #[arg(long, value_enum, default_value = "small")]
    jump_page: PageSize,
    /// Patches that the bare client sends at the same time: as many as the operator may.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: u32,
    /// 100 services, and 20 s for each measurement at rest.
    #[arg(long)]
    quick: bool,
    /// Run a debug build of the operator: to try this program, not to measure.
    #[arg(long)]
    unoptimized: bool,
    /// Only read the pages at the addresses in this file, and say what that took.
    #[arg(long, hide = true, value_name = "FILE")]
    bare_reader: Option<PathBuf>,
    /// cargo says so.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.bare_reader {
        Some(file) => floor::read_pages(file, arguments.rest),
        None => bench::run(&options(&arguments)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: &Arguments) -> Options {
    let (services, rest) = if arguments.quick {
        (100, 20)
    } else {
        (arguments.services, arguments.rest)
    };
    Options {
        services: Services {
            count: services as usize,
            namespaces: arguments.namespaces as usize,
        },
        rest: Duration::from_secs(rest),
        jump_page: arguments.jump_page,
        concurrency: arguments.concurrency as usize,
        optimized: !arguments.unoptimized,
    }
}
