//! The corrections in a figure, each with the reason for it.

use bursar_core::calendar::{Interval, Month};
use bursar_core::cost_report::CostOwner;
use bursar_core::ledger::DailyCost;
use bursar_core::money::Money;
use jiff::Timestamp;

use super::{Books, Kept};
use crate::format::description::Page;
use crate::spend_corrections::{self, Corrected};
use crate::top::known;

/// The corrections of a namespace that count in `within`.
pub(super) fn of(
    books: &Books,
    kept: &Kept,
    namespace: &str,
    within: Interval,
    now: Timestamp,
) -> Vec<Corrected> {
    let (objects, currency) = (&books.corrections, Some(kept.currency.as_str()));
    spend_corrections::counting(objects, Some(namespace), within, currency, &kept.zone, now).0
}

/// A correction by its name, and what it is for.
pub(super) fn said(corrected: &Corrected) -> String {
    let (spec, correction) = (&corrected.object.spec, &corrected.correction);
    let workload = match correction.holder.workload.as_str() {
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

/// What corrections add this month to what a workload has `spent`, or take away.
pub(super) fn beside(
    page: &mut Page,
    books: &Books,
    holder: &CostOwner,
    spent: &DailyCost,
    now: Timestamp,
) {
    let Some(kept) = &books.kept else {
        if books.mentions(&holder.namespace) {
            page.row("corrections", UNKNOWN);
        }
        return;
    };
    let month = Month::containing(now, &kept.zone).bounds(&kept.zone);
    let mut all = of(books, kept, &holder.namespace, month, now);
    all.retain(|each| each.correction.holder == *holder);
    if all.is_empty() {
        return;
    }
    let sum = spend_corrections::sum(&all);
    page.row(
        "corrections",
        &format!("{sum} this month, beside what is spent, of:"),
    );
    for each in &all {
        page.row(
            "  by",
            &format!("{}: {}", each.correction.amount, said(each)),
        );
    }
    let shown = |amount: Money| known(spent, amount.to_string());
    let (before, after) = (shown(spent.cost.total()), shown(spent.cost.total() + sum));
    let text = match sum < Money::ZERO {
        true => format!("{after} = {before} - {}", -sum),
        false => format!("{after} = {before} + {sum}"),
    };
    page.row("net", &text);
}

/// Why it is not known which corrections count.
pub(super) const UNKNOWN: &str =
    "unknown: there are some, but no account says in which currency and time zone they count";
