//! Amounts, hours and percentages of costs, as they are shown.

use bursar_core::currency;
use bursar_core::ledger::DailyCost;
use bursar_core::money::{Money, NANOS};

/// Digits after the point in amounts of a currency.
pub(crate) fn digits(currency: &str) -> usize {
    currency::digits(currency).map_or(2, usize::from)
}

/// An amount of a cost: `unknown` where no price is known for any part of it, and with a `+` where
/// none is known for some.
pub(crate) fn cost_amount(cost: &DailyCost, amount: Money, digits: usize) -> String {
    mark_unpriced(cost, amount.rounded(digits))
}

/// An amount as it is written, marked as [`cost_amount`] does.
pub(crate) fn mark_unpriced(cost: &DailyCost, amount: String) -> String {
    match cost.unpriced_gpu_seconds {
        0 => amount,
        unpriced if unpriced == cost.gpu_seconds => "unknown".to_owned(),
        _ => format!("{amount}+"),
    }
}

/// Amounts to so many decimals that all of them are exact; two at least.
pub(crate) fn exact_amounts(amounts: &[Money]) -> Vec<String> {
    let decimals = |amount: &Money| {
        let fraction = amount.nanos().abs() % NANOS;
        let text = format!("{fraction:09}");
        text.trim_end_matches('0').len()
    };
    let most = amounts.iter().map(decimals).max().unwrap_or(0).max(2);
    let amounts = amounts.iter().map(|amount| amount.rounded(most));
    amounts.collect()
}

/// Hours of so many seconds, rounded to `decimals`.
pub(crate) fn hours(seconds: i64, decimals: usize) -> String {
    Money::from_nanos(i128::from(seconds) * NANOS / 3600).rounded(decimals)
}

/// Hours of so many seconds, in 10⁻⁹ hours.
pub(crate) fn nano_hours(seconds: i64) -> i128 {
    (i128::from(seconds) * NANOS + 1800).div_euclid(3600)
}

/// The percentage of a cost that was wasted: time in which nothing was served.
pub(crate) fn waste_percent(cost: &DailyCost) -> String {
    match cost.cost.total().nanos() {
        0 => "-".to_owned(),
        total => format!("{}%", (cost.waste().nanos() * 100 + total / 2) / total),
    }
}

/// Notes on a cost that does not consist of listed prices and exact times alone.
pub(crate) fn accuracy_notes(cost: &DailyCost, currency: &str) -> Vec<String> {
    let digits = digits(currency);
    let amount = |amount: Money| format!("{} {currency}", amount.rounded(digits));
    let mut notes = Vec::new();
    if cost.estimated != Money::ZERO {
        notes.push(format!(
            "estimated: {} rest on a provisional price or an end that was not seen",
            amount(cost.estimated)
        ));
    }
    if cost.unpriced_gpu_seconds != 0 {
        notes.push(format!(
            "unpriced (+): the amounts lack {} GPU-hours that no price is known for",
            hours(cost.unpriced_gpu_seconds, 2)
        ));
    }
    if cost.unattributed != Money::ZERO {
        notes.push(format!(
            "unattributed: time on lost nodes cost {} more",
            amount(cost.unattributed)
        ));
    }
    notes
}
