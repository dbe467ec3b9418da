//! `kubectl bursar`: what Bursar decided and why, what it cost, its prices, and the ledger's safe-keeping.
//!
//! | module | subject |
//! |---|---|
//! | `args` | the command line |
//! | `read` | asks the leader, or reads the object |
//! | `text` | from what was read to what is printed |
//! | `money` | where the figures come from |
//! | `page` | names and what is said of them, at 80 columns |
//! | `prices` | brings prices, and says which nodes have none |
//! | `records` | SpendRecords, read |
//! | `corrections` | SpendCorrections, read |
//! | `top` | what holds nodes now |
//! | `report` | what a month cost |
//! | `focus` | the same as FOCUS has it |
//! | `ledger` | backup, verify and restore |
//! | `table` | tables of text |

mod args;
mod corrections;
mod focus;
mod ledger;
mod money;
mod page;
mod prices;
mod read;
mod records;
mod report;
#[cfg(test)]
mod samples;
mod table;
mod text;
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
    let client = || read::client(arguments.kubeconfig.clone(), arguments.context.clone());
    match arguments.command {
        Command::Explain(asked) => {
            let client = client().await?;
            let answer = read::explain(&client, &asked).await?;
            let now = Timestamp::now();
            print!("{}", text::render(&answer, now));
            print!("{}", money::explain(&client, &answer, now).await);
        }
        Command::Prices {
            command: PricesCommand::Import(asked),
        } => {
            // the whole file is checked before anybody is asked
            let list = prices::list(&asked)?;
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
