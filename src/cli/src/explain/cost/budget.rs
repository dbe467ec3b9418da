//! The sum of a budget's spend: the workloads and other pods of the namespace, and corrections.

use std::collections::BTreeMap;

use bursar_core::calendar::Period;
use bursar_core::ledger::DailyCost;
use bursar_core::money::Money;
use jiff::Timestamp;

use super::corrections::{self, CURRENCY_UNKNOWN};
use super::namespace_costs::{NamespaceCosts, accounts_in_currency, add_heading};
use crate::format::amounts::{accuracy_notes, exact_amounts, hours, mark_unpriced};
use crate::format::description::Description;
use crate::spend_corrections;
use crate::spend_records::LoadedAccount;

/// Describes the workloads and other pods of the namespace, largest first, and then its
/// corrections.
pub(super) fn describe(
    page: &mut Description,
    costs: &NamespaceCosts,
    namespace: &str,
    period: &Result<Period, String>,
    now: Timestamp,
) {
    let in_namespace = |loaded: &&LoadedAccount| loaded.owner.namespace == namespace;
    let mine: Vec<&LoadedAccount> = costs.accounts.iter().filter(in_namespace).collect();
    let settings = costs.settings.as_ref();
    add_heading(
        page,
        settings.map(|settings| settings.currency.as_str()),
        now,
    );
    let period = match period {
        Ok(period) => period,
        Err(why) => {
            page.row("not traced", &format!("reading the budget's period: {why}"));
            return;
        }
    };
    let Some(settings) =
        settings.filter(|_| !mine.is_empty() || costs.has_corrections_of(namespace))
    else {
        let text = match (
            costs.has_corrections_of(namespace),
            costs.skipped.is_empty(),
        ) {
            (true, _) => CURRENCY_UNKNOWN,
            (false, true) => "0.00: nothing of this namespace is on record",
            (false, false) => "unknown: no record of this namespace can be read",
        };
        page.row("spent", text);
        return;
    };
    let accounts = accounts_in_currency(page, &mine, Some(&settings.currency));
    let bounds = period.bounds(now, &settings.zone);
    let day = |at: Timestamp| settings.zone.to_datetime(at).date();
    let days = day(bounds.start)..day(bounds.end);
    let mut spent: BTreeMap<String, DailyCost> = BTreeMap::new();
    for loaded in &accounts {
        for ((date, sku), line) in loaded.account.daily_costs(now, &loaded.zone) {
            if days.contains(&date) {
                let by = sku.owner.map(|owner| format!(" of {owner}"));
                let name = format!("{}{}", loaded.owner.workload, by.unwrap_or_default());
                *spent.entry(name).or_default() += line;
            }
        }
    }
    let mut used: Vec<(String, DailyCost)> = spent.into_iter().collect();
    used.sort_by_key(|(_, line)| -line.cost.total());
    let total: DailyCost = used.iter().map(|(_, line)| *line).sum();
    let corrections = corrections::applicable(costs, settings, namespace, bounds, now);
    let spent = total.cost.total() + spend_corrections::sum(&corrections);
    page.row(
        "spent",
        &format!(
            "{} since {:.0}, by:",
            mark_unpriced(&total, spent.to_string()),
            bounds.start
        ),
    );
    let mut rows: Vec<(String, Option<DailyCost>, Money)> = used
        .into_iter()
        .map(|(name, line)| (name, Some(line), line.cost.total()))
        .collect();
    rows.extend(corrections.iter().map(|each| {
        let (name, amount) = (&each.correction.name, each.correction.amount);
        (format!("correction {name}"), None, amount)
    }));
    rows.push(("SPENT".into(), Some(total), spent));
    let costs: Vec<Money> = rows.iter().map(|(_, _, cost)| *cost).collect();
    let cells: Vec<Vec<String>> = rows
        .into_iter()
        .zip(exact_amounts(&costs))
        .map(|((name, line, _), cost)| match line {
            Some(line) => vec![name, hours(line.gpu_seconds, 2), mark_unpriced(&line, cost)],
            None => vec![name, "-".into(), cost],
        })
        .collect();
    page.table(&["WORKLOAD", "GPU-H", "COST"], &cells);
    for each in &corrections {
        page.wrapped("  ", &corrections::describe_correction(each), 4);
    }
    for note in accuracy_notes(&total, &settings.currency) {
        page.wrapped("  ", &note, 2);
    }
}
