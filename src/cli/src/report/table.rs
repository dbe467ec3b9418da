//! The report as a table, with notes below it.

use bursar_core::cost_report::Report;
use bursar_core::ledger::DailyCost;
use bursar_core::money::{Cost, Money};

use super::cluster;
use super::columns::unit_costs;
use super::context::ReportContext;
use super::revenue::{self, RowEarnings};
use crate::format::amounts::{accuracy_notes, cost_amount, digits, hours, waste_percent};
use crate::format::table::table;

/// The table of a report; with `units`, requests and tokens in place of the components of the cost.
pub(super) fn text(report: &Report, context: &ReportContext, units: bool) -> String {
    let digits = digits(context.currency);
    let parts = parts(report);
    let mut titles: Vec<String> = report
        .by
        .iter()
        .map(|by| by.as_str().to_uppercase())
        .collect();
    let figures: Vec<&str> = if units {
        UNIT_TITLES.to_vec()
    } else {
        let parts = parts.iter().map(|(title, _)| *title);
        let first = std::iter::once("GPU-HOURS").chain(parts);
        first.chain(["TOTAL", "WASTE"]).collect()
    };
    titles.extend(figures.into_iter().map(str::to_owned));
    if context.has_corrections {
        titles.extend(["CORRECTIONS".into(), "NET".into()]);
    }
    let all = revenue::sum(&context.earnings);
    if all.is_some() {
        titles.extend(["REVENUE".into(), "MARGIN".into()]);
    }
    let idle = context.cluster.and_then(|cluster| cluster.idle(&report.by));
    titles.extend(idle.as_ref().map(|_| "IDLE-NODES".to_owned()));
    let cells = |line: &DailyCost, corrections: Money, earned: Option<RowEarnings>| {
        let total = cost_amount(line, line.cost.total(), digits);
        let mut cells = if units {
            unit_cells(line, total)
        } else {
            let mut cells = vec![hours(line.gpu_seconds, 2)];
            let parts = parts
                .iter()
                .map(|(_, part)| part(&line.cost).rounded(digits));
            cells.extend(parts);
            cells.extend([total, waste_percent(line)]);
            cells
        };
        if context.has_corrections {
            let net = cost_amount(line, line.cost.total() + corrections, digits);
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
        .zip(&context.earnings)
        .map(|(row, earned)| {
            let key = row.key.iter();
            let key = key.map(|value| value.clone().unwrap_or_else(|| "-".into()));
            let idle = idle
                .as_ref()
                .map(|idle| cluster::idle_cell(idle, row, digits));
            let cells = cells(&row.line, row.corrections, *earned);
            key.chain(cells).chain(idle).collect()
        })
        .collect();
    let total = std::iter::once("TOTAL".to_owned())
        .chain(std::iter::repeat(String::new()))
        .take(names);
    let idle = idle.map(|idle| cost_amount(&idle.total, idle.total.cost.total(), digits));
    let cells = cells(&report.total, report.corrections, all);
    rows.push(total.chain(cells).chain(idle).collect());
    let mut text = table(&titles, &rows, names, None);
    if let Some(cluster) = context.cluster {
        text.push_str(&format!(
            "\n{}",
            cluster.text(digits, context.has_corrections)
        ));
    }
    text.push_str(&format!(
        "\n{} in {}, as of {:.0}\n",
        context.month, context.currency, context.now
    ));
    for note in accuracy_notes(&report.total, context.currency) {
        text.push_str(&format!("{note}\n"));
    }
    text
}

/// Titles of the columns of `--units`.
const UNIT_TITLES: [&str; 7] = [
    "TOTAL",
    "REQUESTS",
    "TOKENS-IN",
    "TOKENS-OUT",
    "PER-REQUEST",
    "PER-1M-IN",
    "PER-1M-OUT",
];
/// Decimals of the cost of one request or a million tokens.
const UNIT_DECIMALS: usize = 6;

fn unit_cells(line: &DailyCost, total: String) -> Vec<String> {
    let costs = unit_costs(line);
    let each = |cost: Option<Money>| {
        cost.map_or_else(
            || "-".to_owned(),
            |cost| cost_amount(line, cost, UNIT_DECIMALS),
        )
    };
    vec![
        total,
        line.usage.requests.to_string(),
        line.usage.input_tokens.to_string(),
        line.usage.output_tokens.to_string(),
        each(costs.per_request),
        each(costs.per_million_input_tokens),
        each(costs.per_million_output_tokens),
    ]
}

type Part = fn(&Cost) -> Money;

/// The components of the cost that any row has; none if there is only one, since the total is the
/// same then.
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
