//! `kubectl bursar ledger`: the safe-keeping of SpendRecords and SpendCorrections.
//!
//! | module | subject |
//! |---|---|
//! | `backup` | the file: a header and a record a line |
//! | `verify` | what must hold in records, and between them |
//! | `restore` | which records are made, and which are not touched |

pub(crate) mod backup;
mod restore;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use jiff::Timestamp;
use kube::Client;
use serde_json::Value;

use crate::client::ClientError;
use crate::{spend_corrections, spend_records};
use backup::FileError;
use verify::Finding;

/// What to do with the ledger.
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Write all SpendRecords and SpendCorrections to a file, as lines of JSON after a header with their number and SHA-256.
    Backup(BackupArgs),
    /// Check the cluster's SpendRecords and SpendCorrections, or a backup's; exits with 1 if something does not hold.
    Verify(VerifyArgs),
    /// Make the records and corrections of a backup that the cluster lacks. Stop the controller first.
    Restore(RestoreArgs),
}

/// Where to.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Where it is written; otherwise standard output.
    #[arg(short, long)]
    file: Option<PathBuf>,
}

/// What of.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A backup; otherwise the cluster's records are checked.
    file: Option<PathBuf>,
}

/// What from, and how far.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup.
    file: PathBuf,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Overwrite records that differ too, where no pod's charge can be lost or doubled by it.
    #[arg(long)]
    replace: bool,
}

/// Why a command stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Records(#[from] spend_records::Error),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{what} has {count} faults, so nothing is restored:\n{faults}")]
    Faulty {
        what: String,
        count: usize,
        faults: String,
    },
    #[error("{record}: {why}; what stands before it is restored, and the command can be run again")]
    Write { record: String, why: String },
}

fn faults_error(what: impl Into<String>, findings: &[Finding]) -> Error {
    let lines: Vec<String> = findings
        .iter()
        .map(|finding| format!("  {finding}"))
        .collect();
    Error::Faulty {
        what: what.into(),
        count: findings.len(),
        faults: lines.join("\n"),
    }
}

/// All records, and then all corrections.
async fn list_ledger(client: &Client) -> Result<Vec<Value>, spend_records::Error> {
    let mut all = spend_records::list(client, "").await?;
    all.extend(spend_corrections::list(client).await?);
    Ok(all)
}

fn count_summary(all: &[Value]) -> String {
    let corrections = all
        .iter()
        .filter(|each| spend_corrections::is_correction(each))
        .count();
    let records = all.len() - corrections;
    match corrections {
        0 => format!("{records} records"),
        _ => format!("{records} records and {corrections} corrections"),
    }
}

/// Does what is asked. A client is made only for what needs the cluster.
pub(crate) async fn run<F>(
    client: impl FnOnce() -> F,
    command: &LedgerCommand,
) -> Result<ExitCode, Error>
where
    F: Future<Output = Result<Client, ClientError>>,
{
    match command {
        LedgerCommand::Backup(args) => {
            let all = list_ledger(&client().await?).await?;
            let bytes = backup::encode(&all, Timestamp::now())?;
            backup::write_file(args.file.as_deref(), &bytes)?;
            eprintln!("{} are in the backup", count_summary(&all));
        }
        LedgerCommand::Verify(args) => {
            let records = match &args.file {
                Some(path) => backup::read_file(path)?,
                None => list_ledger(&client().await?).await?,
            };
            let findings = verify::check(&records);
            for finding in &findings {
                println!("{finding}");
            }
            if !findings.is_empty() {
                println!("{} faults in {}", findings.len(), count_summary(&records));
                return Ok(ExitCode::FAILURE);
            }
            println!("{}, and all of them hold", count_summary(&records));
        }
        LedgerCommand::Restore(args) => {
            let records = backup::read_file(&args.file)?;
            for line in restore::run(&client().await?, &records, args).await? {
                println!("{line}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
