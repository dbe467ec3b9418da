//! `kubectl bursar`: what Bursar decided about a workload or a budget, and why; and its prices.
//!
//! | module | subject |
//! |---|---|
//! | `args` | the command line |
//! | `read` | asks the leader, or reads the object |
//! | `text` | from what was read to what is printed |
//! | `prices` | brings prices, and says which nodes have none |

mod args;
mod prices;
mod read;
mod text;

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
    let client = || read::client(arguments.kubeconfig, arguments.context);
    let mut code = ExitCode::SUCCESS;
    let text = match arguments.command {
        Command::Explain(asked) => {
            let answer = read::explain(&client().await?, &asked).await?;
            text::render(&answer, Timestamp::now())
        }
        Command::Prices {
            command: PricesCommand::Import(asked),
        } => {
            // the whole file is checked before anybody is asked
            let list = prices::list(&asked)?;
            prices::apply(&client().await?, &list, asked.dry_run).await?
        }
        Command::Prices {
            command: PricesCommand::Check,
        } => {
            let checked = prices::check(&client().await?, Timestamp::now()).await?;
            if !checked.complete {
                code = ExitCode::FAILURE;
            }
            checked.text
        }
    };
    print!("{text}");
    Ok(code)
}
