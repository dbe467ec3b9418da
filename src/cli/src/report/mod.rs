//! `kubectl bursar report`: what a month cost, as a table, CSV, JSON or FOCUS.
//!
//! | module | subject |
//! |---|---|
//! | `args` | its arguments |
//! | `input` | what a report is made of |
//! | `columns` | the figures of a line, by name |
//! | `revenue` | revenue and margin |
//! | `context` | what formats have in common |
//! | `cluster` | the bill of the whole cluster |
//! | `table` | the table |
//! | `export` | CSV and JSON |

mod args;
mod cluster;
pub(crate) mod columns;
mod context;
mod error;
mod export;
mod input;
mod revenue;
mod table;

use std::io::{IsTerminal, Write, stdout};

use bursar_core::calendar::{Month, whole_second};
use bursar_core::cost_report::{ReportEntry, correction_entry, entries, report};
use bursar_core::ledger::{CostKey, DailyCost};
use bursar_core::money::Money;
use jiff::Timestamp;
use kube::Client;

use crate::client::ClientError;
use crate::focus;
use crate::format::amounts::accuracy_notes;
use args::OutputFormat;
use context::ReportContext;
use input::ReportInput;
use revenue::row_earnings;

pub(crate) use args::ReportArgs;
pub(crate) use error::Error;

/// Writes a report. A client is made only for what needs the cluster.
pub(crate) async fn run<F>(client: impl Fn() -> F, args: &ReportArgs) -> Result<(), Error>
where
    F: Future<Output = Result<Client, ClientError>>,
{
    let now = whole_second(Timestamp::now());
    if let Some(warning) = args.output_file.warning() {
        eprintln!("warning: {warning}");
    }
    let (objects, month) = input::load(&client, args, now).await?;
    let (input, left_out) = objects.parse(args, month, now)?;
    for warning in left_out {
        eprintln!("warning: {warning}");
    }
    if input.is_empty() {
        eprintln!("warning: nothing of {month} is on record there");
        if args.output == OutputFormat::Table {
            return Ok(());
        }
    }
    let billing_account = match &args.billing_account {
        Some(account) => account.clone(),
        None if args.output.is_focus() => focus::cluster_id(&client().await?).await?,
        None => String::new(),
    };
    let bytes = render(&input, args, month, &billing_account, now)?;
    write(args, &bytes)
}

fn render(
    input: &ReportInput,
    args: &ReportArgs,
    month: Month,
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
            OutputFormat::FocusParquet => focus::parquet(&rows, args.focus_version)?,
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
            owner: holder,
            date: *date,
            cost_key: CostKey::default(),
            cost: *line,
            corrections: Money::ZERO,
        });
    let corrections = input.corrections.iter();
    let corrections = corrections.map(|each| correction_entry(&each.correction));
    let mut report = report(all.chain(overhead_shares).chain(corrections), &args.by);
    if let (Some(cluster), OutputFormat::Table) = (cluster, args.output) {
        cluster.add_idle_rows(&mut report);
    }
    let context = ReportContext {
        month,
        currency: &input.currency,
        now,
        has_corrections: !input.corrections.is_empty(),
        earnings: row_earnings(
            &report,
            &input.revenue_terms,
            month.bounds(&input.zone),
            now,
        ),
        cluster,
    };
    Ok(match args.output {
        OutputFormat::Csv => export::csv(&report, &context)?,
        OutputFormat::Json => export::json(&report, &context)?,
        _ => table::text(&report, &context, args.units).into_bytes(),
    })
}

fn write(args: &ReportArgs, bytes: &[u8]) -> Result<(), Error> {
    let failed = |to: &str, error: std::io::Error| Error::Write {
        to: to.to_owned(),
        why: error.to_string(),
    };
    match args.output_file.path() {
        Some(path) => {
            std::fs::write(path, bytes).map_err(|error| failed(&path.display().to_string(), error))
        }
        None if args.output == OutputFormat::FocusParquet && stdout().is_terminal() => {
            Err(Error::Terminal)
        }
        None => stdout()
            .write_all(bytes)
            .map_err(|error| failed("standard output", error)),
    }
}

#[cfg(test)]
mod tests;
