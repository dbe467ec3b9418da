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
use crate::output_file::OutputFileArgs;
use crate::{spend_corrections, spend_records};
use backup::FileError;
use verify::Finding;

/// The commands about the ledger.
#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Write all SpendRecords and SpendCorrections to a file: a header with their number and
    /// SHA-256, and a line of JSON each.
    #[command(after_help = "Example: kubectl bursar ledger backup -O ledger.jsonl")]
    Backup(BackupArgs),
    /// Check the SpendRecords and SpendCorrections of the cluster, or of a backup. Exits with 1 if
    /// there is a fault.
    #[command(after_help = "Example: kubectl bursar ledger verify ledger.jsonl")]
    Verify(VerifyArgs),
    /// Create the records and corrections of a backup that the cluster lacks. Stop the controller
    /// first.
    #[command(after_help = "Example: kubectl bursar ledger restore ledger.jsonl --dry-run")]
    Restore(RestoreArgs),
}

/// Arguments of `ledger backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    output_file: OutputFileArgs,
}

/// Arguments of `ledger verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The backup [default: the cluster's records].
    file: Option<PathBuf>,
}

/// Arguments of `ledger restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup.
    file: PathBuf,
    /// Print what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Overwrite records that differ, unless that could lose or double a pod's charge.
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
    #[error(
        "{record}: {why}; the records before it are restored, and the command can be run again"
    )]
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

/// Runs a command about the ledger. A client is made only for what needs the cluster.
pub(crate) async fn run<F>(
    client: impl FnOnce() -> F,
    command: &LedgerCommand,
) -> Result<ExitCode, Error>
where
    F: Future<Output = Result<Client, ClientError>>,
{
    match command {
        LedgerCommand::Backup(args) => {
            if let Some(warning) = args.output_file.warning() {
                eprintln!("warning: {warning}");
            }
            let all = list_ledger(&client().await?).await?;
            let bytes = backup::encode(&all, Timestamp::now())?;
            backup::write_file(args.output_file.path(), &bytes)?;
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
