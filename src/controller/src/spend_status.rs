//! The spend in a workload's status.

use bursar_api::revenue::Earnings;
use bursar_api::spend::SpendSummary;
use bursar_api::spend::daily_cost::CostComponents;
use bursar_api::spend::summary::UnitCosts;
use bursar_core::calendar::{Interval, Month, Period, whole_second};
use bursar_core::ledger::DailyCost;
use bursar_core::money::{Money, NANOS};
use bursar_core::spend_forecast::SpendForecast;
use bursar_core::unit_economics::{self, RevenueTerms};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::ledger::{self, Accounts};

/// Decimals of amounts in a status.
pub(crate) const DECIMALS: usize = 4;
/// Decimals of what one request or a million tokens cost.
const UNIT_DECIMALS: usize = 6;

/// The spend of a workload until `now`.
pub(crate) fn summary(
    accounts: &Accounts,
    currency: &str,
    now: Timestamp,
    zone: &TimeZone,
) -> SpendSummary {
    let this = Month::containing(now, zone);
    let within = |interval| ledger::sum(accounts, interval, now, zone);
    let month = within(this.bounds(zone));
    let total = whole(accounts, zone).map(within).unwrap_or_default();
    let unless_zero = |amount: Money| (amount != Money::ZERO).then(|| display_amount(amount));
    let forecast = SpendForecast::of(accounts.values().map(AsRef::as_ref), now, zone);
    SpendSummary {
        today: display_amount(within(Period::Daily.bounds(now, zone)).cost.total()),
        month_to_date: display_amount(month.cost.total()),
        total: display_amount(total.cost.total()),
        rate_per_hour: ledger::rate(accounts, this)
            .map_or_else(|| "unknown".to_owned(), display_amount),
        gpu_hours: thousandths(total.gpu_seconds, 3600),
        currency: currency.to_owned(),
        forecast: forecast.map(|forecast| display_amount(forecast.month_end())),
        components: CostComponents {
            compute: unless_zero(month.cost.compute),
            storage: unless_zero(month.cost.storage),
            power: unless_zero(month.cost.power),
            labour: unless_zero(month.cost.labour),
        },
        waste: unless_zero(month.waste()),
        unattributed: unless_zero(month.unattributed),
        saved: unless_zero(month.saved),
        carbon_kilograms: (month.carbon_mg != 0).then(|| thousandths(month.carbon_mg, 1_000_000)),
        units: units(&month),
        estimated: unless_zero(total.estimated),
        unpriced_gpu_hours: (total.unpriced_gpu_seconds != 0)
            .then(|| thousandths(total.unpriced_gpu_seconds, 3600)),
        as_of: Some(Time(whole_second(now))),
        ..SpendSummary::default()
    }
}

/// An amount as it is written in statuses.
pub(crate) fn display_amount(amount: Money) -> String {
    amount.rounded(DECIMALS)
}

/// The earnings of a service this month under these terms.
pub(crate) fn earnings(
    terms: &RevenueTerms,
    accounts: &Accounts,
    now: Timestamp,
    zone: &TimeZone,
) -> Earnings {
    let month = Month::containing(now, zone).bounds(zone);
    let month_cost = ledger::sum(accounts, month, now, zone);
    let cost = month_cost.cost.total();
    let revenue = terms.revenue(&month_cost.usage, month, now);
    let earned = Earnings {
        revenue: display_amount(revenue.total()),
        ..Earnings::default()
    };
    // while a part of the cost is not known, the margin is not known either
    if month_cost.unpriced_gpu_seconds != 0 {
        return earned;
    }
    let ready = cost - month_cost.starting - month_cost.draining;
    let utilization = unit_economics::break_even(cost, revenue, cost - month_cost.waste(), ready);
    Earnings {
        margin: Some(display_amount(revenue.total() - cost)),
        break_even_utilization: utilization
            .map(|thousandths| format!("{}.{}", thousandths / 10, thousandths % 10)),
        ..earned
    }
}

/// The requests and tokens that were served this month, and the cost of one; `None` if none were
/// served.
fn units(month: &DailyCost) -> Option<UnitCosts> {
    let used = month.usage;
    if used.requests == 0 && used.input_tokens == 0 && used.output_tokens == 0 {
        return None;
    }
    let costs = unit_economics::unit_costs(month.cost.total(), &used);
    let display = |amount: Option<Money>| amount.map(|amount| amount.rounded(UNIT_DECIMALS));
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    Some(UnitCosts {
        requests: count(used.requests),
        input_tokens: count(used.input_tokens),
        output_tokens: count(used.output_tokens),
        per_request: display(costs.per_request),
        per_million_input_tokens: display(costs.per_million_input_tokens),
        per_million_output_tokens: display(costs.per_million_output_tokens),
    })
}

/// `amount / unit` to three decimals.
fn thousandths(amount: i64, unit: i128) -> String {
    Money::from_nanos(i128::from(amount) * NANOS / unit).rounded(3)
}

/// All months that are on record.
fn whole(accounts: &Accounts, zone: &TimeZone) -> Option<Interval> {
    let months = accounts.keys().map(|month| month.bounds(zone));
    months.reduce(|all, month| Interval {
        start: all.start.min(month.start),
        end: all.end.max(month.end),
    })
}

/// The amounts without those of the month that change with time alone: a forecast, overheads,
/// savings and earnings.
pub(crate) fn figures(summary: Option<&SpendSummary>) -> SpendSummary {
    SpendSummary {
        as_of: None,
        forecast: None,
        overhead: None,
        saved: None,
        earnings: None,
        ..summary.cloned().unwrap_or_default()
    }
}

/// The amounts that stay once nothing changes: the rate, and at rest all others too, which are
/// final then.
pub(crate) fn settled_amounts(summary: Option<&SpendSummary>) -> Vec<String> {
    let Some(summary) = summary else {
        return Vec::new();
    };
    let mut amounts = vec![summary.rate_per_hour.clone()];
    if is_zero(&summary.rate_per_hour) {
        amounts.extend(serde_json::to_string(&figures(Some(summary))));
    }
    amounts
}

/// Whether money is spent, or may be.
pub(crate) fn is_spending(summary: Option<&SpendSummary>) -> bool {
    summary.is_some_and(|summary| !is_zero(&summary.rate_per_hour))
}

/// When the amounts were computed.
pub(crate) fn as_of(summary: Option<&SpendSummary>) -> Option<Timestamp> {
    Some(summary?.as_of.as_ref()?.0)
}

/// Whether an amount that [`display_amount`] wrote is zero; one that is absent is too.
pub(crate) fn is_zero(amount: &str) -> bool {
    amount.bytes().all(|byte| matches!(byte, b'0' | b'.'))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bursar_core::ledger::{Account, Charge, EngineUsage, RatePeriod, StoredCharge};
    use bursar_core::money::Cost;
    use bursar_core::pricing::PricingAttributes;

    use super::*;

    fn summary(total: &str, rate: &str, at: &str) -> SpendSummary {
        SpendSummary {
            total: total.into(),
            rate_per_hour: rate.into(),
            as_of: Some(Time(at.parse().unwrap())),
            ..SpendSummary::default()
        }
    }

    #[test]
    fn there_is_no_margin_while_a_part_of_the_cost_has_no_price() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let start = at("2026-11-24T00:00:00Z");
        let facts = PricingAttributes {
            gpus: 1,
            ..PricingAttributes::default()
        };
        let cost = Cost {
            compute: "2".parse().unwrap(),
            ..Cost::ZERO
        };
        let rate = RatePeriod {
            from: start,
            quote: cost.into(),
            provisional: false,
        };
        let usage = EngineUsage {
            requests: 1_000,
            ..EngineUsage::default()
        };
        let priced = Charge::restore(StoredCharge {
            rates: vec![rate],
            ready_since: Some(start),
            usage: [(jiff::civil::date(2026, 11, 24), usage)].into(),
            ..StoredCharge::new("priced".into(), "p".into(), facts.clone(), start)
        })
        .unwrap();
        let terms = RevenueTerms {
            per_request: "0.01".parse().unwrap(),
            ..RevenueTerms::default()
        };
        let month: Month = "2026-11".parse().unwrap();
        let mut account = Account::new(month);
        account.open(priced);
        let of = |account: &Account| {
            let accounts = [(month, Arc::new(account.clone()))].into();
            let earned = earnings(
                &terms,
                &accounts,
                at("2026-11-24T01:00:00Z"),
                &TimeZone::UTC,
            );
            (earned.revenue, earned.margin, earned.break_even_utilization)
        };
        let known = (Some("8.0000".to_owned()), Some("20.0".to_owned()));
        assert_eq!(of(&account), ("10.0000".to_owned(), known.0, known.1));
        account.open(Charge::new("unpriced".into(), "q".into(), facts, start));
        assert_eq!(of(&account), ("10.0000".to_owned(), None, None));
    }

    #[test]
    fn amounts_settle_at_rest_and_what_time_alone_changes_does_not_count() {
        let amounts = |summary: &SpendSummary| settled_amounts(Some(summary));
        let old = summary("1.0000", "4.0000", "2026-11-24T00:00:00Z");
        let grown = summary("1.1000", "4.0000", "2026-11-24T00:04:59Z");
        assert_eq!(
            amounts(&old),
            amounts(&grown),
            "they grow while money is spent"
        );
        assert_ne!(figures(Some(&old)), figures(Some(&grown)));
        let faster = summary("1.0000", "8.0000", "2026-11-24T00:00:00Z");
        assert_ne!(amounts(&old), amounts(&faster), "the rate changed");
        let ended = summary("1.1000", "0.0000", "2026-11-24T00:05:00Z");
        let corrected = summary("1.2000", "0.0000", "2026-11-24T00:05:00Z");
        assert_ne!(amounts(&ended), amounts(&corrected), "they are final");
        let later = SpendSummary {
            overhead: Some("5.0000".into()),
            ..summary("1.1000", "0.0000", "2026-11-24T09:00:00Z")
        };
        assert_eq!(amounts(&ended), amounts(&later));
        assert_eq!(figures(Some(&ended)), figures(Some(&later)));
    }
}
