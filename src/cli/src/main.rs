//! `kubectl bursar`: what Bursar decided about a workload or a budget, and why.
//!
//! | module | subject |
//! |---|---|
//! | `args` | the command line |
//! | `read` | asks the leader, or reads the object |
//! | `text` | from what was read to what is printed |

mod args;
mod read;
mod text;

use std::process::ExitCode;

use args::{Arguments, Command};
use clap::Parser;
use jiff::Timestamp;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Arguments {
        kubeconfig,
        context,
        command,
    } = Arguments::parse();
    let Command::Explain(asked) = command;
    let answer = async {
        let client = read::client(kubeconfig, context).await?;
        read::explain(&client, &asked).await
    };
    match answer.await {
        Ok(answer) => {
            print!("{}", text::render(&answer, Timestamp::now()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
