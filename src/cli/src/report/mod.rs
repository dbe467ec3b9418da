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

use crate::client;
use crate::focus;
use crate::ledger::backup;
use crate::spend_records::{self, Scope};
use crate::top::notes;
use cluster::Cluster;
use input::Read;
use revenue::{Earned, earned};

/// What is asked for.
#[derive(Debug, Args)]
pub(crate) struct Asked {
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
    /// Read a backup of the ledger instead of the cluster.
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
    Client(#[from] client::Error),
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
pub(crate) struct Asking<'a> {
    pub(crate) month: Month,
    pub(crate) currency: &'a str,
    pub(crate) now: Timestamp,
    /// Whether any correction counts.
    is_corrected: bool,
    /// What each row earned.
    earned: Vec<Option<Earned>>,
    cluster: Option<&'a Cluster>,
}

/// Writes what is asked for. A client is made only for what needs the cluster.
pub(crate) async fn run<F>(client: impl Fn() -> F, asked: &Asked) -> Result<(), Error>
where
    F: Future<Output = Result<Client, client::Error>>,
{
    let now = whole_second(Timestamp::now());
    let (read, left_out) = input::source(&client, asked).await?.read(asked, now)?;
    for warning in left_out {
        eprintln!("warning: {warning}");
    }
    if read.is_empty() {
        eprintln!("warning: nothing of {} is on record there", asked.month);
        if asked.output == Output::Table {
            return Ok(());
        }
    }
    let account = match &asked.billing_account {
        Some(account) => account.clone(),
        None if asked.output.is_focus() => focus::cluster(&client().await?).await?,
        None => String::new(),
    };
    let bytes = render(&read, asked, &account, now)?;
    write(asked, &bytes)
}

fn render(read: &Read, asked: &Asked, account: &str, now: Timestamp) -> Result<Vec<u8>, Error> {
    let (sheets, cluster) = (&read.sheets, read.cluster.as_ref());
    if asked.output.is_focus() {
        let mut charges = focus::charges(sheets, account, now);
        charges.extend(focus::overheads(sheets, &read.overheads, account, now));
        charges.extend(focus::corrections(&read.corrections, account));
        if let Some(cluster) = cluster {
            charges.extend(focus::unattributed(sheets, account, now));
            charges.extend(focus::idle(&read.nodes, &cluster.bill, account));
        }
        let total: DailyCost = sheets
            .iter()
            .flat_map(|sheet| sheet.account.daily_costs(now, &sheet.zone).into_values())
            .sum();
        for note in notes(&total, &read.currency) {
            eprintln!("note: {note}");
        }
        return Ok(match asked.output {
            Output::FocusParquet => focus::parquet(&charges, asked.focus_version)?,
            _ => focus::csv(&charges, asked.focus_version)?,
        });
    }
    let all = sheets
        .iter()
        .flat_map(|sheet| entries(&sheet.holder, &sheet.account, now, &sheet.zone));
    let borne = read
        .overheads
        .iter()
        .map(|(holder, date, line)| ReportEntry {
            holder,
            date: *date,
            sku: CostKey::default(),
            line: *line,
            corrections: Money::ZERO,
        });
    let corrections = read.corrections.iter();
    let corrections = corrections.map(|each| correction_entry(&each.correction));
    let mut report = report(all.chain(borne).chain(corrections), &asked.by);
    if let (Some(cluster), Output::Table) = (cluster, asked.output) {
        cluster.add_idle_rows(&mut report);
    }
    let asking = Asking {
        month: asked.month,
        currency: &read.currency,
        now,
        is_corrected: !read.corrections.is_empty(),
        earned: earned(&report, &read.paid, asked.month.bounds(&read.zone), now),
        cluster,
    };
    Ok(match asked.output {
        Output::Csv => export::comma_separated(&report, &asking)?,
        Output::Json => export::json(&report, &asking)?,
        _ => table::text(&report, &asking, asked.units).into_bytes(),
    })
}

fn write(asked: &Asked, bytes: &[u8]) -> Result<(), Error> {
    let failed = |to: &str, error: std::io::Error| Error::Write {
        to: to.to_owned(),
        why: error.to_string(),
    };
    match &asked.file {
        Some(path) => {
            std::fs::write(path, bytes).map_err(|error| failed(&path.display().to_string(), error))
        }
        None if asked.output == Output::FocusParquet && stdout().is_terminal() => {
            Err(Error::Terminal)
        }
        None => stdout()
            .write_all(bytes)
            .map_err(|error| failed("standard output", error)),
    }
}

#[cfg(test)]
mod tests;
