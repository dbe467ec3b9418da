//! What a budget's spent is made of.

use std::collections::BTreeMap;

use bursar_core::ledger::Line;
use bursar_core::money::Money;
use bursar_core::period::Period;
use jiff::Timestamp;

use super::{currency, exact, heading, of_one_currency, put};
use crate::page::Page;
use crate::records::Sheet;
use crate::top::{hours, notes};

/// The workloads and other pods of the namespace, largest first.
pub(super) fn render(
    page: &mut Page,
    sheets: &[Sheet],
    namespace: &str,
    period: &Result<Period, String>,
    now: Timestamp,
) {
    let in_namespace = |sheet: &&Sheet| sheet.holder.namespace == namespace;
    let mine: Vec<&Sheet> = sheets.iter().filter(in_namespace).collect();
    heading(page, &mine, now);
    let period = match period {
        Ok(period) => period,
        Err(why) => {
            page.row("not traced", &format!("reading the budget's period: {why}"));
            return;
        }
    };
    let sheets = of_one_currency(page, &mine);
    let Some(last) = sheets.last() else {
        page.row("spent", "0.00: nothing of this namespace is on record");
        return;
    };
    let bounds = period.bounds(now, &last.zone);
    let day = |at: Timestamp| last.zone.to_datetime(at).date();
    let days = day(bounds.start)..day(bounds.end);
    let mut spent: BTreeMap<String, Line> = BTreeMap::new();
    for sheet in &sheets {
        for ((date, sku), line) in sheet.account.lines(now, &sheet.zone) {
            if days.contains(&date) {
                let by = sku.owner.map(|owner| format!(" of {owner}"));
                let name = format!("{}{}", sheet.holder.workload, by.unwrap_or_default());
                *spent.entry(name).or_default() += line;
            }
        }
    }
    let mut rows: Vec<(String, Line)> = spent.into_iter().collect();
    rows.sort_by_key(|(_, line)| -line.cost.total());
    let total: Line = rows.iter().map(|(_, line)| *line).sum();
    page.row(
        "spent",
        &format!("{} since {:.0}, by:", total.cost.total(), bounds.start),
    );
    rows.push(("SPENT".into(), total));
    let costs: Vec<Money> = rows.iter().map(|(_, line)| line.cost.total()).collect();
    let cells: Vec<Vec<String>> = rows
        .into_iter()
        .zip(exact(&costs))
        .map(|((name, line), cost)| vec![name, hours(line.gpu_seconds, 2), cost])
        .collect();
    put(page, &["WORKLOAD", "GPU-H", "COST"], &cells);
    for note in notes(&total, currency(last)) {
        page.wrapped("  ", &note, 2);
    }
}
