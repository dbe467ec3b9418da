//! `kubectl bursar`: the leader's decisions and their reasons, the emergency stop, costs, prices, the
//! ledger's safe-keeping, and the way here from other tools.
//!
//! | module | subject |
//! |---|---|
//! | `args` | the command line |
//! | `check` | objects that cannot be read, and what keeps requests from waking a service |
//! | `completion` | completion of the command line in a shell |
//! | `client` | the client for the cluster, and errors in words |
//! | `import` | manifests of other autoscalers and job controllers as Bursar's |
//! | `explain` | the last decision, and what figures of money are the sum of |
//! | `pause` | pauses and resumes the cluster, a namespace or a workload |
//! | `top` | which workloads hold GPUs now |
//! | `report` | what a month cost |
//! | `focus` | the same as FOCUS has it |
//! | `prices` | imports prices, and finds nodes without one |
//! | `ledger` | backup, verify and restore |
//! | `spend_records` | SpendRecords, listed and parsed |
//! | `spend_corrections` | SpendCorrections, listed and parsed |
//! | `output_file` | the file that a command writes to |
//! | `format` | tables and wrapped text |

mod args;
mod check;
mod client;
mod completion;
mod explain;
mod focus;
mod format;
mod import;
mod ledger;
mod output_file;
mod pause;
mod prices;
mod report;
#[cfg(test)]
mod samples;
mod spend_corrections;
mod spend_records;
mod top;

use std::error::Error;
use std::io::stdout;
use std::process::ExitCode;

use args::{Arguments, Command};
use clap::Parser;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", client::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Runs a command, and prints its result.
async fn run(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let connection = arguments.connection;
    let client = || async { client::client(client::config(&connection).await?) };
    match arguments.command {
        Command::Explain(args) => {
            let config = client::config(&connection).await?;
            let authorization = client::authorization(&config).await?;
            let client = client::client(config)?;
            print!("{}", explain::run(&client, authorization, &args).await?);
        }
        Command::Pause(args) => print!("{}", pause::pause(&client().await?, &args).await?),
        Command::Resume(args) => print!("{}", pause::resume(&client().await?, &args).await?),
        Command::Top(args) => top::run(&client().await?, &args).await?,
        Command::Report(args) => report::run(client, &args).await?,
        Command::Check(args) => {
            let (text, is_fine) = check::run(&client().await?, &args).await?;
            print!("{text}");
            if !is_fine {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Import(args) => return Ok(import::run(client, &args).await?),
        Command::Prices { command } => return Ok(prices::run(client, &command).await?),
        Command::Ledger { command } => return Ok(ledger::run(client, &command).await?),
        Command::Completion(args) => completion::script::<Arguments>(&args, &mut stdout()),
        Command::Complete(args) => print!("{}", completion::candidates::<Arguments>(&args)),
    }
    Ok(ExitCode::SUCCESS)
}
