//! What a budget's spent is made of: the workloads and other pods of the namespace, and corrections.

use std::collections::BTreeMap;

use bursar_core::calendar::Period;
use bursar_core::ledger::DailyCost;
use bursar_core::money::Money;
use jiff::Timestamp;

use super::corrections::{self, UNKNOWN};
use super::{Books, exact, heading, of_one_currency, put};
use crate::format::description::Page;
use crate::spend_corrections;
use crate::spend_records::Sheet;
use crate::top::{hours, known, notes};

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
    let kept = books.kept.as_ref();
    heading(page, kept.map(|kept| kept.currency.as_str()), now);
    let period = match period {
        Ok(period) => period,
        Err(why) => {
            page.row("not traced", &format!("reading the budget's period: {why}"));
            return;
        }
    };
    let Some(kept) = kept.filter(|_| !mine.is_empty() || books.mentions(namespace)) else {
        let text = match (books.mentions(namespace), books.skipped.is_empty()) {
            (true, _) => UNKNOWN,
            (false, true) => "0.00: nothing of this namespace is on record",
            (false, false) => "unknown: no record of this namespace can be read",
        };
        page.row("spent", text);
        return;
    };
    let sheets = of_one_currency(page, &mine, Some(&kept.currency));
    let bounds = period.bounds(now, &kept.zone);
    let day = |at: Timestamp| kept.zone.to_datetime(at).date();
    let days = day(bounds.start)..day(bounds.end);
    let mut spent: BTreeMap<String, DailyCost> = BTreeMap::new();
    for sheet in &sheets {
        for ((date, sku), line) in sheet.account.daily_costs(now, &sheet.zone) {
            if days.contains(&date) {
                let by = sku.owner.map(|owner| format!(" of {owner}"));
                let name = format!("{}{}", sheet.holder.workload, by.unwrap_or_default());
                *spent.entry(name).or_default() += line;
            }
        }
    }
    let mut used: Vec<(String, DailyCost)> = spent.into_iter().collect();
    used.sort_by_key(|(_, line)| -line.cost.total());
    let total: DailyCost = used.iter().map(|(_, line)| *line).sum();
    let corrected = corrections::of(books, kept, namespace, bounds, now);
    let spent = total.cost.total() + spend_corrections::sum(&corrected);
    page.row(
        "spent",
        &format!(
            "{} since {:.0}, by:",
            known(&total, spent.to_string()),
            bounds.start
        ),
    );
    let mut rows: Vec<(String, Option<DailyCost>, Money)> = used
        .into_iter()
        .map(|(name, line)| (name, Some(line), line.cost.total()))
        .collect();
    rows.extend(corrected.iter().map(|each| {
        let (name, amount) = (&each.correction.name, each.correction.amount);
        (format!("correction {name}"), None, amount)
    }));
    rows.push(("SPENT".into(), Some(total), spent));
    let costs: Vec<Money> = rows.iter().map(|(_, _, cost)| *cost).collect();
    let cells: Vec<Vec<String>> = rows
        .into_iter()
        .zip(exact(&costs))
        .map(|((name, line, _), cost)| match line {
            Some(line) => vec![name, hours(line.gpu_seconds, 2), known(&line, cost)],
            None => vec![name, "-".into(), cost],
        })
        .collect();
    put(page, &["WORKLOAD", "GPU-H", "COST"], &cells);
    for each in &corrected {
        page.wrapped("  ", &corrections::said(each), 4);
    }
    for note in notes(&total, &kept.currency) {
        page.wrapped("  ", &note, 2);
    }
}
