//! What a budget's spent is made of: the workloads and other pods of the namespace, and corrections.

use std::collections::BTreeMap;

use bursar_core::ledger::Line;
use bursar_core::money::Money;
use bursar_core::period::Period;
use jiff::Timestamp;

use super::{Books, currency, exact, heading, of_one_currency, put};
use crate::corrections;
use crate::page::Page;
use crate::records::Sheet;
use crate::top::{hours, notes};

/// The workloads and other pods of the namespace, largest first, and then its corrections.
pub(super) fn render(
    page: &mut Page,
    books: &Books,
    namespace: &str,
    period: &Result<Period, String>,
    now: Timestamp,
) {
    let in_namespace = |sheet: &&Sheet| sheet.holder.namespace == namespace;
    let mine: Vec<&Sheet> = books.sheets.iter().filter(in_namespace).collect();
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
    let corrected = bounds.months(&last.zone).flat_map(|month| {
        let (of_month, _) = corrections::counting(
            &books.corrections,
            month,
            Some(namespace),
            Some(currency(last)),
            &last.zone,
        );
        of_month.into_iter().map(|each| each.correction)
    });
    let corrected: Vec<(String, Money)> = corrected
        .filter(|each| days.contains(&each.date) && each.is_due(now, &last.zone))
        .map(|each| (format!("correction {}", each.name), each.amount))
        .collect();
    let corrections: Money = corrected.iter().map(|(_, amount)| *amount).sum();
    let spent = total.cost.total() + corrections;
    page.row("spent", &format!("{spent} since {:.0}, by:", bounds.start));
    let used = |(name, line): (String, Line)| {
        let gpu_hours = hours(line.gpu_seconds, 2);
        (name, gpu_hours, line.cost.total())
    };
    let corrected = corrected
        .into_iter()
        .map(|(name, amount)| (name, "-".to_owned(), amount));
    let sum = ("SPENT".to_owned(), hours(total.gpu_seconds, 2), spent);
    let all: Vec<_> = rows
        .into_iter()
        .map(used)
        .chain(corrected)
        .chain([sum])
        .collect();
    let costs: Vec<Money> = all.iter().map(|(_, _, cost)| *cost).collect();
    let cells: Vec<Vec<String>> = all
        .into_iter()
        .zip(exact(&costs))
        .map(|((name, gpu_hours, _), cost)| vec![name, gpu_hours, cost])
        .collect();
    put(page, &["WORKLOAD", "GPU-H", "COST"], &cells);
    for note in notes(&total, currency(last)) {
        page.wrapped("  ", &note, 2);
    }
}
