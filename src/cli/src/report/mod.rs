//! `kubectl bursar report`: what a month cost, as a table, CSV, JSON or FOCUS.
//!
//! | module | subject |
//! |---|---|
//! | `figures` | the figures of a line, by name |
//! | `earned` | revenue and margin |
//! | `cluster` | the bill of the whole cluster |

mod cluster;
mod earned;
pub(crate) mod figures;

use std::io::{IsTerminal, Write, stdout};
use std::path::PathBuf;

use bursar_api::names::{MONTH_LABEL, NAMESPACE_LABEL};
use bursar_api::prices::Prices;
use bursar_core::ledger::{Line, Sku};
use bursar_core::money::{Cost, Money};
use bursar_core::period::{Month, whole_second};
use bursar_core::report::{self, Dimension, Entry, Holder, Report, corrected, entries, report};
use clap::{Args, ValueEnum};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

use crate::corrections::{self, Corrected};
use crate::focus;
use crate::ledger::backup;
use crate::read;
use crate::records::{self, Scope, Sheet, digits};
use crate::table::table;
use crate::top::{amount, hours, notes, waste};
use cluster::Cluster;
use earned::{Earned, Paid, earned};
use figures::{earnings, figures, net, unit_costs};

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
    Records(#[from] records::Error),
    #[error(transparent)]
    Client(#[from] read::Error),
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
    F: Future<Output = Result<Client, read::Error>>,
{
    let now = whole_second(Timestamp::now());
    let mut shown = asked.scope.namespace.clone();
    let mut lists = Vec::new();
    let mut paid = Paid::new();
    let corrections: Vec<Value>;
    // where a namespace has corrections alone, others' records say in which currency and time zone these count
    let objects = match &asked.from {
        Some(path) => {
            let records: Vec<Value>;
            (corrections, records) = backup::load(path)?
                .into_iter()
                .partition(corrections::is_one);
            let mine = of_backup(&records, asked.month, shown.as_deref());
            match mine.is_empty() && !corrections.is_empty() {
                true => of_backup(&records, asked.month, None),
                false => mine,
            }
        }
        None => {
            let client = client().await?;
            shown = asked.scope.namespace(&client);
            if earned::is_by_workload(&asked.by) && !asked.output.is_focus() {
                match earned::paid(&client, shown.as_deref()).await {
                    Ok(terms) => paid = terms,
                    Err(why) => eprintln!(
                        "warning: revenue is left out, because InferenceDeployments cannot be read: {why}"
                    ),
                }
            }
            // overheads are shared by what everybody used
            let read = shown.as_deref().filter(|_| !asked.overheads);
            let mut objects = records::list(&client, &selector(asked.month, read)).await?;
            corrections = corrections::list(&client).await?;
            if objects.is_empty() && !corrections.is_empty() {
                objects = records::list(&client, &selector(asked.month, None)).await?;
            }
            if asked.overheads || objects.is_empty() && !corrections.is_empty() {
                let listed = read::price_lists(&client).await;
                lists = listed.map_err(|error| Error::Prices(error.to_string()))?;
            }
            objects
        }
    };
    let (sheets, skipped) = records::read(&objects, asked.skip_unreadable)?;
    for warning in skipped {
        eprintln!("warning: {warning}");
    }
    let (mut sheets, nodes) = records::apart(sheets);
    let kept = records::currency(sheets.iter().chain(&nodes))?.map(str::to_owned);
    let prices = Prices::of(&lists, kept, now);
    let zone = zone(&sheets, &nodes);
    let (corrections, others) = corrections::counting(
        &corrections,
        shown.as_deref(),
        asked.month.bounds(&zone),
        Some(prices.lists.currency.as_str()).filter(|currency| !currency.is_empty()),
        &zone,
        now,
    );
    for warning in others {
        eprintln!("warning: {warning}");
    }
    let mut overheads = overheads(&sheets, &prices, asked.month, now);
    let cluster = shown.is_none().then(|| {
        let mut bill = records::bill(sheets.iter().chain(&nodes), now);
        bill.overhead = due(&sheets, &nodes, &prices, asked.month, now);
        bill.corrections = corrections::sum(&corrections);
        Cluster {
            bill,
            overheads: asked.overheads,
        }
    });
    if let Some(namespace) = &shown {
        sheets.retain(|sheet| sheet.holder.namespace == *namespace);
        overheads.retain(|(holder, _, _)| holder.namespace == *namespace);
    }
    if sheets.is_empty() && corrections.is_empty() && (shown.is_some() || nodes.is_empty()) {
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
    let read = Read {
        sheets,
        nodes,
        overheads,
        corrections,
        paid,
        cluster,
    };
    let bytes = render(&read, asked, &account, now)?;
    write(asked, &bytes)
}

fn selector(month: Month, namespace: Option<&str>) -> String {
    let of_namespace = namespace.map(|name| format!(",{NAMESPACE_LABEL}={name}"));
    format!("{MONTH_LABEL}={month}{}", of_namespace.unwrap_or_default())
}

/// The records of a backup that the selector would find in a cluster.
fn of_backup(records: &[Value], month: Month, namespace: Option<&str>) -> Vec<Value> {
    let wanted = |object: &&Value| {
        object["spec"]["month"] == month.to_string().as_str()
            && namespace.is_none_or(|name| object["spec"]["namespace"] == name)
    };
    records.iter().filter(wanted).cloned().collect()
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

/// What a report is made of.
#[derive(Default)]
struct Read {
    /// Of workloads.
    sheets: Vec<Sheet>,
    /// Of nodes.
    nodes: Vec<Sheet>,
    overheads: Vec<Borne>,
    /// Those that count.
    corrections: Vec<Corrected>,
    paid: Paid,
    /// Only with all namespaces.
    cluster: Option<Cluster>,
}

/// Whose, on which day, and what.
type Borne = (Holder, Date, Line);

/// What the lists' overheads cost each workload.
fn overheads(sheets: &[Sheet], prices: &Prices, month: Month, now: Timestamp) -> Vec<Borne> {
    let Some(first) = sheets.first() else {
        return Vec::new();
    };
    let accounts: Vec<_> = sheets
        .iter()
        .map(|sheet| (&sheet.holder, &sheet.account))
        .collect();
    let monthly = prices.lists.overheads(last(month, now, &first.zone));
    report::overheads(&accounts, &monthly, month, now, &first.zone)
        .into_iter()
        .map(|entry| (entry.holder.clone(), entry.date, entry.line))
        .collect()
}

/// What of the lists' overheads has come due, whoever bears it.
fn due(sheets: &[Sheet], nodes: &[Sheet], prices: &Prices, month: Month, now: Timestamp) -> Money {
    let Some(first) = sheets.first().or(nodes.first()) else {
        return Money::ZERO;
    };
    let monthly = prices.lists.overheads(last(month, now, &first.zone));
    report::due(&monthly, month, now, &first.zone)
}

/// The accounting time zone, which is the same for all; UTC where nothing is on record.
fn zone(sheets: &[Sheet], nodes: &[Sheet]) -> TimeZone {
    let mut all = sheets.iter().chain(nodes);
    all.next().map_or(TimeZone::UTC, |sheet| sheet.zone.clone())
}

/// Now, or the month's last second.
fn last(month: Month, now: Timestamp, zone: &TimeZone) -> Timestamp {
    now.min(month.bounds(zone).end - SignedDuration::from_secs(1))
}

fn render(read: &Read, asked: &Asked, account: &str, now: Timestamp) -> Result<Vec<u8>, Error> {
    let (sheets, cluster) = (&read.sheets, read.cluster.as_ref());
    let of_first = || Some(read.corrections.first()?.correction.currency.as_str());
    let currency = records::currency(sheets.iter().chain(&read.nodes))?;
    let currency = currency.or_else(of_first).unwrap_or_default();
    if asked.output.is_focus() {
        let mut charges = focus::charges(sheets, account, now);
        charges.extend(focus::overheads(sheets, &read.overheads, account, now));
        charges.extend(focus::corrections(&read.corrections, account));
        if let Some(cluster) = cluster {
            charges.extend(focus::unattributed(sheets, account, now));
            charges.extend(focus::idle(&read.nodes, &cluster.bill, account));
        }
        let total: Line = sheets
            .iter()
            .flat_map(|sheet| sheet.account.lines(now, &sheet.zone).into_values())
            .sum();
        for note in notes(&total, currency) {
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
    let borne = read.overheads.iter().map(|(holder, date, line)| Entry {
        holder,
        date: *date,
        sku: Sku::default(),
        line: *line,
        corrections: Money::ZERO,
    });
    let corrections = read.corrections.iter();
    let corrections = corrections.map(|each| corrected(&each.correction));
    let mut report = report(all.chain(borne).chain(corrections), &asked.by);
    if let (Some(cluster), Output::Table) = (cluster, asked.output) {
        cluster.add_idle_rows(&mut report);
    }
    let zone = zone(sheets, &read.nodes);
    let asking = Asking {
        month: asked.month,
        currency,
        now,
        is_corrected: !read.corrections.is_empty(),
        earned: earned(&report, &read.paid, asked.month.bounds(&zone), now),
        cluster,
    };
    Ok(match asked.output {
        Output::Csv => comma_separated(&report, &asking)?,
        Output::Json => json(&report, &asking)?,
        _ => text(&report, &asking, asked.units).into_bytes(),
    })
}

/// The report for people.
fn text(report: &Report, asking: &Asking, units: bool) -> String {
    let digits = digits(asking.currency);
    let parts = parts(report);
    let mut titles: Vec<String> = report
        .by
        .iter()
        .map(|by| by.as_str().to_uppercase())
        .collect();
    let figures: Vec<&str> = if units {
        UNITS.to_vec()
    } else {
        let parts = parts.iter().map(|(title, _)| *title);
        let first = std::iter::once("GPU-HOURS").chain(parts);
        first.chain(["TOTAL", "WASTE"]).collect()
    };
    titles.extend(figures.into_iter().map(str::to_owned));
    if asking.is_corrected {
        titles.extend(["CORRECTIONS".into(), "NET".into()]);
    }
    let all = earned::sum(&asking.earned);
    if all.is_some() {
        titles.extend(["REVENUE".into(), "MARGIN".into()]);
    }
    let idle = asking.cluster.and_then(|cluster| cluster.idle(&report.by));
    titles.extend(idle.as_ref().map(|_| "IDLE-NODES".to_owned()));
    let cells = |line: &Line, corrections: Money, earned: Option<Earned>| {
        let total = amount(line, line.cost.total(), digits);
        let mut cells = if units {
            of_units(line, total)
        } else {
            let mut cells = vec![hours(line.gpu_seconds, 2)];
            let parts = parts
                .iter()
                .map(|(_, part)| part(&line.cost).rounded(digits));
            cells.extend(parts);
            cells.extend([total, waste(line)]);
            cells
        };
        if asking.is_corrected {
            let net = amount(line, line.cost.total() + corrections, digits);
            cells.extend([corrections.rounded(digits), net]);
        }
        if all.is_some() {
            let shown = |amount: Option<Money>| {
                amount.map_or_else(|| "-".to_owned(), |amount| amount.rounded(digits))
            };
            cells.extend([
                shown(earned.map(|earned| earned.revenue)),
                shown(earned.and_then(|earned| earned.margin)),
            ]);
        }
        cells
    };
    let names = report.by.len();
    let mut rows: Vec<Vec<String>> = report
        .rows
        .iter()
        .zip(&asking.earned)
        .map(|(row, earned)| {
            let key = row.key.iter();
            let key = key.map(|value| value.clone().unwrap_or_else(|| "-".into()));
            let idle = idle.as_ref().map(|idle| cluster::of_row(idle, row, digits));
            let cells = cells(&row.line, row.corrections, *earned);
            key.chain(cells).chain(idle).collect()
        })
        .collect();
    let total = std::iter::once("TOTAL".to_owned())
        .chain(std::iter::repeat(String::new()))
        .take(names);
    let idle = idle.map(|idle| amount(&idle.total, idle.total.cost.total(), digits));
    let cells = cells(&report.total, report.corrections, all);
    rows.push(total.chain(cells).chain(idle).collect());
    let mut text = table(&titles, &rows, names, None);
    if let Some(cluster) = asking.cluster {
        text.push_str(&format!("\n{}", cluster.text(digits, asking.is_corrected)));
    }
    text.push_str(&format!(
        "\n{} in {}, as of {:.0}\n",
        asking.month, asking.currency, asking.now
    ));
    for note in notes(&report.total, asking.currency) {
        text.push_str(&format!("{note}\n"));
    }
    text
}

/// What stands over the columns of `--units`.
const UNITS: [&str; 7] = [
    "TOTAL",
    "REQUESTS",
    "TOKENS-IN",
    "TOKENS-OUT",
    "PER-REQUEST",
    "PER-1M-IN",
    "PER-1M-OUT",
];
/// Decimals of what one request or a million tokens cost.
const UNIT_DECIMALS: usize = 6;

fn of_units(line: &Line, total: String) -> Vec<String> {
    let costs = unit_costs(line);
    let each = |cost: Option<Money>| {
        cost.map_or_else(|| "-".to_owned(), |cost| amount(line, cost, UNIT_DECIMALS))
    };
    vec![
        total,
        line.used.requests.to_string(),
        line.used.input_tokens.to_string(),
        line.used.output_tokens.to_string(),
        each(costs.per_request),
        each(costs.per_million_input_tokens),
        each(costs.per_million_output_tokens),
    ]
}

type Part = fn(&Cost) -> Money;

/// The parts of the cost that something has; none if they are one alone, which the total is then.
fn parts(report: &Report) -> Vec<(&'static str, Part)> {
    let parts: [(&str, Part); 4] = [
        ("COMPUTE", |cost| cost.compute),
        ("STORAGE", |cost| cost.storage),
        ("POWER", |cost| cost.power),
        ("LABOUR", |cost| cost.labour),
    ];
    let is_used = |part: &Part| {
        let mut rows = report.rows.iter();
        rows.any(|row| part(&row.line.cost) != Money::ZERO)
    };
    let used = parts.into_iter().filter(|(_, part)| is_used(part));
    let used: Vec<_> = used.collect();
    if used.len() > 1 { used } else { Vec::new() }
}

/// A header and a line for each row; `month` and `currency` stand in each.
fn comma_separated(report: &Report, asking: &Asking) -> Result<Vec<u8>, Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let failed = |error: csv::Error| Error::Write {
        to: "CSV".into(),
        why: error.to_string(),
    };
    let figures = |line: &Line, corrections, earned| {
        let all = figures(line).into_iter().chain(net(line, corrections));
        all.chain(earnings(earned))
    };
    let names = figures(&Line::default(), Money::ZERO, None).map(|(name, _)| name);
    let header = ["month", "currency"]
        .into_iter()
        .chain(report.by.iter().map(|by| by.as_str()))
        .chain(names);
    writer.write_record(header).map_err(failed)?;
    for (row, earned) in report.rows.iter().zip(&asking.earned) {
        let key = row
            .key
            .iter()
            .map(|value| value.clone().unwrap_or_default());
        let record = [asking.month.to_string(), asking.currency.to_owned()]
            .into_iter()
            .chain(key)
            .chain(figures(&row.line, row.corrections, *earned).map(|(_, figure)| figure.text()));
        writer.write_record(record).map_err(failed)?;
    }
    writer.into_inner().map_err(|error| Error::Write {
        to: "CSV".into(),
        why: error.to_string(),
    })
}

/// A line in JSON: what tells it apart, and its figures.
struct JsonRow<'a> {
    by: &'a [Dimension],
    key: &'a [Option<String>],
    line: &'a Line,
    corrections: Money,
    earned: Option<Earned>,
}

impl Serialize for JsonRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (by, value) in self.by.iter().zip(self.key) {
            map.serialize_entry(by.as_str(), value)?;
        }
        let figures = figures(self.line).into_iter();
        let net = net(self.line, self.corrections);
        for (name, figure) in figures.chain(net).chain(earnings(self.earned)) {
            map.serialize_entry(name, &figure)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonReport<'a> {
    month: Month,
    /// None where there is no record.
    currency: Option<&'a str>,
    as_of: Timestamp,
    rows: Vec<JsonRow<'a>>,
    total: JsonRow<'a>,
    /// Only with all namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<cluster::Json>,
}

fn json(report: &Report, asking: &Asking) -> Result<Vec<u8>, Error> {
    let row = |key, line, corrections, earned| JsonRow {
        by: &report.by,
        key,
        line,
        corrections,
        earned,
    };
    let rows = report.rows.iter().zip(&asking.earned);
    let document = JsonReport {
        month: asking.month,
        currency: Some(asking.currency).filter(|code| !code.is_empty()),
        as_of: asking.now,
        rows: rows
            .map(|(each, earned)| row(&each.key, &each.line, each.corrections, *earned))
            .collect(),
        total: row(
            &[],
            &report.total,
            report.corrections,
            earned::sum(&asking.earned),
        ),
        cluster: asking.cluster.map(Cluster::json),
    };
    let mut bytes = serde_json::to_vec_pretty(&document).map_err(|error| Error::Write {
        to: "JSON".into(),
        why: error.to_string(),
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests;
