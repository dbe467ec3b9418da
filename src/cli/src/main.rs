//! `kubectl bursar`: what Bursar decided and why, what it cost, its prices, and the ledger's safe-keeping.
//!
//! | module | subject |
//! |---|---|
//! | `args` | the command line |
//! | `client` | the client for the cluster, and errors in words |
//! | `explain` | the last decision, and what figures of money are the sum of |
//! | `prices` | brings prices, and finds nodes without one |
//! | `top` | what holds nodes now |
//! | `report` | what a month cost |
//! | `focus` | the same as FOCUS has it |
//! | `ledger` | backup, verify and restore |
//! | `spend_records` | SpendRecords, read |
//! | `spend_corrections` | SpendCorrections, read |
//! | `format` | tables and wrapped text |

mod args;
mod client;
mod explain;
mod focus;
mod format;
mod ledger;
mod prices;
mod report;
#[cfg(test)]
mod samples;
mod spend_corrections;
mod spend_records;
mod top;

use std::error::Error;
use std::process::ExitCode;

use args::{Arguments, Command, PricesCommand};
use clap::Parser;
use jiff::Timestamp;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match answer(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does what is asked, and prints what came of it.
async fn answer(arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let client = || client::client(arguments.kubeconfig.clone(), arguments.context.clone());
    match arguments.command {
        Command::Explain(args) => print!("{}", explain::run(&client().await?, &args).await?),
        Command::Prices {
            command: PricesCommand::Import(asked),
        } => {
            // the whole file is checked before anybody is asked
            let list = prices::price_list_from_file(&asked)?;
            print!(
                "{}",
                prices::apply(&client().await?, &list, asked.dry_run).await?
            );
        }
        Command::Prices {
            command: PricesCommand::Check,
        } => {
            let checked = prices::check(&client().await?, Timestamp::now()).await?;
            print!("{}", checked.text);
            if !checked.complete {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Top(asked) => top::run(&client().await?, &asked).await?,
        Command::Report(asked) => report::run(client, &asked).await?,
        Command::Ledger { command } => return Ok(ledger::run(client, &command).await?),
    }
    Ok(ExitCode::SUCCESS)
}
