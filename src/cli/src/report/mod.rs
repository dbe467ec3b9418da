//! `kubectl bursar report`: what a month cost, as a table, CSV, JSON or FOCUS.
//!
//! | module | subject |
//! |---|---|
//! | `input` | what a report is made of |
//! | `columns` | the figures of a line, by name |
//! | `revenue` | revenue and margin |
//! | `cluster` | the bill of the whole cluster |
//! | `table` | the table |
//! | `export` | CSV and JSON |

mod cluster;
pub(crate) mod columns;
mod export;
mod input;
mod revenue;
mod table;

use std::io::{IsTerminal, Write, stdout};
use std::path::PathBuf;

use bursar_core::calendar::{Month, whole_second};
use bursar_core::cost_report::{Dimension, ReportEntry, correction_entry, entries, report};
use bursar_core::ledger::{CostKey, DailyCost};
use bursar_core::money::Money;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use kube::Client;

use crate::client::ClientError;
use crate::focus;
use crate::format::amounts::accuracy_notes;
use crate::ledger::backup;
use crate::spend_records::{self, Scope};
use cluster::ClusterSummary;
use input::ReportInput;
use revenue::{RowEarnings, row_earnings};

/// What is asked for.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The month, as 2026-11, in the records' own time zone.
    #[arg(long)]
    month: Month,
    /// What rows are told apart by: namespace, workload, gpu, capacity, region, day, owner. FOCUS has rows of its own.
    #[arg(long, value_delimiter = ',', default_value = "namespace,workload")]
    by: Vec<Dimension>,
    #[command(flatten)]
    scope: Scope,
    /// Have requests, tokens and the cost of each in the table, in place of the parts of the cost; CSV and JSON always have them.
    #[arg(long)]
    units: bool,
    /// The format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    /// The version of FOCUS.
    #[arg(long, value_enum, default_value_t)]
    focus_version: focus::Version,
    /// FOCUS's BillingAccountId; otherwise the UID of namespace kube-system, by which clusters are known.
    #[arg(long)]
    billing_account: Option<String>,
    /// Where it is written; otherwise standard output.
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// ReportInput a backup of the ledger instead of the cluster.
    #[arg(long, value_name = "BACKUP")]
    from: Option<PathBuf>,
    /// Add the PriceLists' monthly overheads as labour, shared over all namespaces. A month that runs bears what is over of it.
    #[arg(long, conflicts_with = "from")]
    overheads: bool,
    /// Leave out records that cannot be read, and name them.
    #[arg(long)]
    skip_unreadable: bool,
}

/// A format.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people; amounts rounded to the currency's digits.
    #[default]
    Table,
    /// Exact, with a header.
    Csv,
    /// Exact, with the sum.
    Json,
    /// FOCUS, as CSV.
    FocusCsv,
    /// FOCUS, as Parquet.
    FocusParquet,
}

impl Output {
    fn is_focus(self) -> bool {
        matches!(self, Self::FocusCsv | Self::FocusParquet)
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Records(#[from] spend_records::Error),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Backup(#[from] backup::FileError),
    #[error(transparent)]
    Focus(#[from] focus::Error),
    #[error("writing {to}: {why}")]
    Write { to: String, why: String },
    #[error("reading PriceLists: {0}")]
    Prices(String),
    #[error("Parquet is not for terminals: name a file with -f, or pipe it")]
    Terminal,
}

/// A month of some namespaces.
pub(crate) struct ReportContext<'a> {
    pub(crate) month: Month,
    pub(crate) currency: &'a str,
    pub(crate) now: Timestamp,
    /// Whether any correction counts.
    has_corrections: bool,
    /// What each row earned.
    earned: Vec<Option<RowEarnings>>,
    cluster: Option<&'a ClusterSummary>,
}

/// Writes what is asked for. A client is made only for what needs the cluster.
pub(crate) async fn run<F>(client: impl Fn() -> F, args: &ReportArgs) -> Result<(), Error>
where
    F: Future<Output = Result<Client, ClientError>>,
{
    let now = whole_second(Timestamp::now());
    let (input, left_out) = input::load(&client, args).await?.read(args, now)?;
    for warning in left_out {
        eprintln!("warning: {warning}");
    }
    if input.is_empty() {
        eprintln!("warning: nothing of {} is on record there", args.month);
        if args.output == Output::Table {
            return Ok(());
        }
    }
    let billing_account = match &args.billing_account {
        Some(account) => account.clone(),
        None if args.output.is_focus() => focus::cluster_id(&client().await?).await?,
        None => String::new(),
    };
    let bytes = render(&input, args, &billing_account, now)?;
    write(args, &bytes)
}

fn render(
    input: &ReportInput,
    args: &ReportArgs,
    billing_account: &str,
    now: Timestamp,
) -> Result<Vec<u8>, Error> {
    let (accounts, cluster) = (&input.accounts, input.cluster.as_ref());
    if args.output.is_focus() {
        let mut rows = focus::usage_rows(accounts, billing_account, now);
        rows.extend(focus::overhead_rows(
            accounts,
            &input.overheads,
            billing_account,
            now,
        ));
        rows.extend(focus::correction_rows(&input.corrections, billing_account));
        if let Some(cluster) = cluster {
            rows.extend(focus::unattributed_rows(accounts, billing_account, now));
            rows.extend(focus::idle_rows(
                &input.nodes,
                &cluster.bill,
                billing_account,
            ));
        }
        let total: DailyCost = accounts
            .iter()
            .flat_map(|loaded| loaded.account.daily_costs(now, &loaded.zone).into_values())
            .sum();
        for note in accuracy_notes(&total, &input.currency) {
            eprintln!("note: {note}");
        }
        return Ok(match args.output {
            Output::FocusParquet => focus::parquet(&rows, args.focus_version)?,
            _ => focus::csv(&rows, args.focus_version)?,
        });
    }
    let all = accounts
        .iter()
        .flat_map(|loaded| entries(&loaded.owner, &loaded.account, now, &loaded.zone));
    let overhead_shares = input
        .overheads
        .iter()
        .map(|(holder, date, line)| ReportEntry {
            holder,
            date: *date,
            sku: CostKey::default(),
            line: *line,
            corrections: Money::ZERO,
        });
    let corrections = input.corrections.iter();
    let corrections = corrections.map(|each| correction_entry(&each.correction));
    let mut report = report(all.chain(overhead_shares).chain(corrections), &args.by);
    if let (Some(cluster), Output::Table) = (cluster, args.output) {
        cluster.add_idle_rows(&mut report);
    }
    let context = ReportContext {
        month: args.month,
        currency: &input.currency,
        now,
        has_corrections: !input.corrections.is_empty(),
        earned: row_earnings(&report, &input.paid, args.month.bounds(&input.zone), now),
        cluster,
    };
    Ok(match args.output {
        Output::Csv => export::csv(&report, &context)?,
        Output::Json => export::json(&report, &context)?,
        _ => table::text(&report, &context, args.units).into_bytes(),
    })
}

fn write(args: &ReportArgs, bytes: &[u8]) -> Result<(), Error> {
    let failed = |to: &str, error: std::io::Error| Error::Write {
        to: to.to_owned(),
        why: error.to_string(),
    };
    match &args.file {
        Some(path) => {
            std::fs::write(path, bytes).map_err(|error| failed(&path.display().to_string(), error))
        }
        None if args.output == Output::FocusParquet && stdout().is_terminal() => {
            Err(Error::Terminal)
        }
        None => stdout()
            .write_all(bytes)
            .map_err(|error| failed("standard output", error)),
    }
}

#[cfg(test)]
mod tests;
