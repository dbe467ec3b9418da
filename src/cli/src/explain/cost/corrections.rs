//! The corrections in a figure, each with the reason for it.

use bursar_core::calendar::{Interval, Month};
use bursar_core::cost_report::CostOwner;
use bursar_core::ledger::DailyCost;
use bursar_core::money::Money;
use jiff::Timestamp;

use super::namespace_costs::{LedgerSettings, NamespaceCosts};
use crate::format::amounts::mark_unpriced;
use crate::format::description::Description;
use crate::spend_corrections::{self, LoadedCorrection};

/// The corrections of a namespace that count in `within`.
pub(super) fn applicable(
    costs: &NamespaceCosts,
    settings: &LedgerSettings,
    namespace: &str,
    within: Interval,
    now: Timestamp,
) -> Vec<LoadedCorrection> {
    let (objects, currency) = (&costs.corrections, Some(settings.currency.as_str()));
    spend_corrections::applicable(
        objects,
        Some(namespace),
        within,
        currency,
        &settings.zone,
        now,
    )
    .0
}

/// A correction's name, date, workload and reason.
pub(super) fn describe_correction(loaded: &LoadedCorrection) -> String {
    let (spec, correction) = (&loaded.object.spec, &loaded.correction);
    let workload = match correction.owner.workload.as_str() {
        "" => String::new(),
        workload => format!(" for {workload}"),
    };
    let reference = spec.reference.iter();
    let reference: String = reference.map(|text| format!(" ({text})")).collect();
    format!(
        "SpendCorrection {} of {}{workload}: {}{reference}",
        correction.name, correction.date, spec.reason
    )
}

/// Describes this month's corrections of a workload, and what it has `spent` with them.
pub(super) fn describe_net(
    page: &mut Description,
    costs: &NamespaceCosts,
    owner: &CostOwner,
    spent: &DailyCost,
    now: Timestamp,
) {
    let Some(settings) = &costs.settings else {
        if costs.has_corrections_of(&owner.namespace) {
            page.row("corrections", CURRENCY_UNKNOWN);
        }
        return;
    };
    let month = Month::containing(now, &settings.zone).bounds(&settings.zone);
    let mut all = applicable(costs, settings, &owner.namespace, month, now);
    all.retain(|each| each.correction.owner == *owner);
    if all.is_empty() {
        return;
    }
    let sum = spend_corrections::sum(&all);
    page.row(
        "corrections",
        &format!("{sum} this month, in addition to what is spent, of:"),
    );
    for each in &all {
        page.row(
            "  by",
            &format!("{}: {}", each.correction.amount, describe_correction(each)),
        );
    }
    let shown = |amount: Money| mark_unpriced(spent, amount.to_string());
    let (before, after) = (shown(spent.cost.total()), shown(spent.cost.total() + sum));
    let text = match sum < Money::ZERO {
        true => format!("{after} = {before} - {}", -sum),
        false => format!("{after} = {before} + {sum}"),
    };
    page.row("net", &text);
}

/// Why it is not known which corrections count.
pub(super) const CURRENCY_UNKNOWN: &str =
    "unknown: there are some, but no account says in which currency and time zone they count";
