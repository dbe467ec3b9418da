//! Unit costs, revenue and margin, with their calculation.

use bursar_core::calendar::Interval;
use bursar_core::ledger::DailyCost;
use bursar_core::money::Money;
use bursar_core::unit_economics::{OUTPUT_WEIGHT, RevenueTerms, break_even, unit_costs};
use jiff::Timestamp;

use crate::format::description::Description;

/// Describes what a request and a million tokens cost in the month, if there were any.
pub(super) fn units(page: &mut Description, month: &DailyCost) {
    let (cost, used) = (month.cost.total(), month.usage);
    let costs = unit_costs(cost, &used);
    if let Some(each) = costs.per_request {
        page.row(
            "a request",
            &format!("{each} = {cost} / {} requests", used.requests),
        );
    }
    let weight = format!(
        "({} + {OUTPUT_WEIGHT} x {})",
        used.input_tokens, used.output_tokens
    );
    if let Some(each) = costs.per_million_input_tokens {
        page.row(
            "tokens in",
            &format!("{each} a million = {cost} x 1000000 / {weight}"),
        );
    }
    if let Some(each) = costs.per_million_output_tokens {
        let times = format!("{OUTPUT_WEIGHT} x 1000000");
        page.row(
            "tokens out",
            &format!("{each} a million = {cost} x {times} / {weight}"),
        );
    }
}

/// Describes the service's revenue and margin of the month by these terms.
pub(super) fn revenue(
    page: &mut Description,
    terms: &RevenueTerms,
    line: &DailyCost,
    month: Interval,
    now: Timestamp,
) {
    let used = &line.usage;
    let alone = |terms: RevenueTerms| terms.revenue(used, month, now).total();
    let none = RevenueTerms::default();
    let (elapsed, _) = month.split(now);
    let parts = [
        (
            alone(RevenueTerms {
                per_request: terms.per_request,
                ..none
            }),
            format!("{} requests at {}", used.requests, terms.per_request),
        ),
        (
            alone(RevenueTerms {
                per_thousand_requests: terms.per_thousand_requests,
                ..none
            }),
            format!(
                "ads, {} requests at {} a thousand",
                used.requests, terms.per_thousand_requests
            ),
        ),
        (
            alone(RevenueTerms {
                per_million_input_tokens: terms.per_million_input_tokens,
                ..none
            }),
            format!(
                "{} tokens in at {} a million",
                used.input_tokens, terms.per_million_input_tokens
            ),
        ),
        (
            alone(RevenueTerms {
                per_million_output_tokens: terms.per_million_output_tokens,
                ..none
            }),
            format!(
                "{} tokens out at {} a million",
                used.output_tokens, terms.per_million_output_tokens
            ),
        ),
        (
            alone(RevenueTerms {
                per_month: terms.per_month,
                ..none
            }),
            format!(
                "{} a month, for {} of {} s that are over",
                terms.per_month,
                elapsed.seconds(),
                month.seconds()
            ),
        ),
    ];
    let revenue = terms.revenue(used, month, now);
    let cost = line.cost.total();
    page.row("revenue", &format!("{}, of:", revenue.total()));
    for (earned, by) in parts
        .into_iter()
        .filter(|(earned, _)| *earned != Money::ZERO)
    {
        page.row("  by", &format!("{earned}: {by}"));
    }
    if line.unpriced_gpu_seconds != 0 {
        page.row("margin", "not known, because a part of the cost is not");
        return;
    }
    page.row(
        "margin",
        &format!("{} = {} - {cost}", revenue.total() - cost, revenue.total()),
    );
    let (busy, ready) = (cost - line.waste(), cost - line.starting - line.draining);
    if let Some(thousandths) = break_even(cost, revenue, busy, ready) {
        page.row(
            "break-even",
            &format!(
                "{}.{}% = busy {busy} / ready {ready} x ({cost} - {} by the month) / {} by use",
                thousandths / 10,
                thousandths % 10,
                revenue.fixed,
                revenue.by_use
            ),
        );
    }
}
