//! A gang of workers with the shape of a PyTorch job: they meet at rank 0, compute steps together, write a checkpoint when SIGTERM comes,
//! and go on from it in the next attempt. A step is a pause; all the rest is real.
//!
//! `gang` is how ranks meet and wait for each other over `wire`, `train` is the work, `checkpoint` and `journal` are what it leaves.
//! Exits with 0 after the last step, 143 after SIGTERM, 1 when a rank is lost.

mod checkpoint;
mod gang;
mod journal;
mod train;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use jiff::SignedDuration;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::checkpoint::Store;
use crate::gang::{Membership, Patience};
use crate::train::{Outcome, TrainError, Work};

/// The exit status of a process that SIGTERM ended.
const TERMINATED: u8 = 143;

#[derive(Debug, Parser)]
#[command(version, about)]
struct Options {
    /// Host of rank 0
    #[arg(long, env = "MASTER_ADDR", default_value = "127.0.0.1")]
    master_addr: String,
    /// Port of rank 0; 0 on rank 0 takes a free one
    #[arg(long, env = "MASTER_PORT", default_value_t = 29_500)]
    master_port: u16,
    /// Ranks in the gang
    #[arg(long, env = "WORLD_SIZE", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    world_size: u32,
    /// Which of them this is, from 0
    #[arg(long, env = "RANK", default_value_t = 0)]
    rank: u32,
    /// Steps in all
    #[arg(long, env = "BURSAR_TRAINER_STEPS", default_value_t = 100)]
    steps: u64,
    /// How long a step takes
    #[arg(long, env = "BURSAR_TRAINER_STEP_TIME", default_value = "500ms", value_parser = duration)]
    step_time: Duration,
    /// Where the checkpoint lies, the same place for all ranks: a directory, or an http:// URI to GET and PUT
    #[arg(long, env = "BURSAR_TRAINER_CHECKPOINT")]
    checkpoint: String,
    /// Steps between checkpoints, besides the one at SIGTERM; 0 for none
    #[arg(long, env = "BURSAR_TRAINER_CHECKPOINT_EVERY", default_value_t = 0)]
    checkpoint_every: u64,
    /// File to which each rank appends the steps that it has computed; - for standard output
    #[arg(long, env = "BURSAR_TRAINER_JOURNAL")]
    journal: Option<PathBuf>,
    /// How long ranks wait until all have come
    #[arg(long, env = "BURSAR_TRAINER_RENDEZVOUS_TIMEOUT", default_value = "5m", value_parser = duration)]
    rendezvous_timeout: Duration,
    /// How long ranks wait for one that is late with a step
    #[arg(long, env = "BURSAR_TRAINER_PEER_TIMEOUT", default_value = "15s", value_parser = duration)]
    peer_timeout: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: SignedDuration = text
        .parse()
        .map_err(|error| format!("{error}; write it as 5s or 500ms"))?;
    Duration::try_from(parsed).map_err(|_| "must not be negative".to_owned())
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("RANK is {rank}, which a gang with WORLD_SIZE {world_size} does not have")]
    NoSuchRank { rank: u32, world_size: u32 },
    #[error("signals: {0}")]
    Signal(std::io::Error),
    #[error(transparent)]
    Train(#[from] TrainError),
}

fn main() -> ExitCode {
    let options = Options::parse();
    let rank = options.rank;
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("rank {rank}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(options));
    // a look-up of rank 0's name may still be waiting for a DNS server, and cannot be cancelled
    runtime.shutdown_background();
    match outcome {
        Ok(Outcome::Finished) => {
            println!("rank {rank}: all steps are done");
            ExitCode::SUCCESS
        }
        Ok(Outcome::Stopped) => {
            println!("rank {rank}: told to end");
            ExitCode::from(TERMINATED)
        }
        Err(failure) => {
            eprintln!("rank {rank}: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<Outcome, Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Signal)?;
    let (tell, stop) = watch::channel(false);
    tokio::spawn(async move {
        terminate.recv().await;
        tell.send_replace(true);
        // dropped, it would look as if nobody could be told any more
        std::future::pending::<()>().await;
    });

    let (rank, world_size) = (options.rank, options.world_size);
    if rank >= world_size {
        return Err(Failure::NoSuchRank { rank, world_size });
    }
    let membership = Membership {
        master: options.master_addr,
        port: options.master_port,
        world_size,
        rank,
    };
    let patience = Patience {
        rendezvous: options.rendezvous_timeout,
        peer: options.step_time + options.peer_timeout,
    };
    let work = Work {
        steps: options.steps,
        step_time: options.step_time,
        checkpoint_every: options.checkpoint_every,
        journal: options.journal,
    };
    let store = Store::open(&options.checkpoint).map_err(TrainError::from)?;
    Ok(train::train(&membership, patience, &work, &store, stop).await?)
}
