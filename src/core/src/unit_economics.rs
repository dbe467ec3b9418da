//! The cost of a request and of a token, the revenue of a service, and the utilization at which it
//! breaks even.

use crate::calendar::Interval;
use crate::ledger::EngineUsage;
use crate::money::Money;

/// The cost of writing a token, in tokens read. Reading is done in parallel and writing one by one;
/// public price lists of models charge three to five times as much for a token written as for one
/// read.
pub const OUTPUT_WEIGHT: u64 = 4;

const MILLION: u64 = 1_000_000;

/// The cost of one request and one token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitCosts {
    /// Money a request.
    pub per_request: Option<Money>,
    /// Money a million tokens read.
    pub per_million_input_tokens: Option<Money>,
    /// Money a million tokens written.
    pub per_million_output_tokens: Option<Money>,
}

/// Shares `cost` among what was served: over requests evenly, and over tokens by weight, a token
/// written weighing [`OUTPUT_WEIGHT`] times one read. Rounded down; `None` where there is nothing
/// to share among.
pub fn unit_costs(cost: Money, used: &EngineUsage) -> UnitCosts {
    let (input, output) = (
        u128::from(used.input_tokens),
        u128::from(used.output_tokens),
    );
    let weight = input + output * u128::from(OUTPUT_WEIGHT);
    let per_million = |count: u128, weight_of_one: u64| {
        (count > 0).then(|| scaled(cost, MILLION * weight_of_one, weight))
    };
    UnitCosts {
        per_request: (used.requests > 0).then(|| scaled(cost, 1, u128::from(used.requests))),
        per_million_input_tokens: per_million(input, 1),
        per_million_output_tokens: per_million(output, OUTPUT_WEIGHT),
    }
}

/// `amount * times / parts`, rounded down.
fn scaled(amount: Money, times: u64, parts: u128) -> Money {
    let parts = i128::try_from(parts).unwrap_or(i128::MAX);
    Money::from_nanos((amount.nanos() * i128::from(times)).div_euclid(parts))
}

/// The prices that a service is paid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RevenueTerms {
    /// Money a request.
    pub per_request: Money,
    /// Money a million tokens read.
    pub per_million_input_tokens: Money,
    /// Money a million tokens written.
    pub per_million_output_tokens: Money,
    /// Money a thousand requests, from advertisers.
    pub per_thousand_requests: Money,
    /// Money a month, whatever is used.
    pub per_month: Money,
}

/// The revenue of a service in a part of a month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revenue {
    /// Money paid by use.
    pub by_use: Money,
    /// Money paid by the month.
    pub fixed: Money,
}

impl Revenue {
    /// The sum of both.
    pub fn total(&self) -> Money {
        self.by_use + self.fixed
    }
}

impl RevenueTerms {
    /// The revenue from `used` in the part of `month` until `until`. Each term is rounded down.
    pub fn revenue(&self, used: &EngineUsage, month: Interval, until: jiff::Timestamp) -> Revenue {
        let of = |price: Money, count: u64, per: i128| {
            Money::from_nanos((price.nanos() * i128::from(count)).div_euclid(per))
        };
        let million = i128::from(MILLION);
        let (elapsed, _) = month.split(until);
        Revenue {
            by_use: of(self.per_request, used.requests, 1)
                + of(self.per_thousand_requests, used.requests, 1000)
                + of(self.per_million_input_tokens, used.input_tokens, million)
                + of(self.per_million_output_tokens, used.output_tokens, million),
            fixed: self
                .per_month
                .proportion(elapsed.seconds(), month.seconds()),
        }
    }
}

/// How busy ready replicas must be, in thousandths of their time, for `revenue.by_use` to cover
/// what `revenue.fixed` leaves of `cost`: `utilization * (cost - fixed) / by use`, since what is
/// held costs the same whether busy or not. The utilization is `busy` over `ready`, what the time
/// cost in which replicas were busy, and ready. Above a thousand, it never pays; `None` while
/// nothing was earned by use or no replica was busy.
pub fn break_even(cost: Money, revenue: Revenue, busy: Money, ready: Money) -> Option<i64> {
    if revenue.by_use <= Money::ZERO || busy <= Money::ZERO || ready <= Money::ZERO {
        return None;
    }
    let uncovered = (cost - revenue.fixed).max(Money::ZERO).nanos();
    // millionths are exact enough for a ratio, and leave room for the products
    let micros = |amount: Money| amount.nanos() / 1000;
    let needed = uncovered.checked_mul(micros(busy))?.checked_mul(1000)?;
    let earned = revenue.by_use.nanos().checked_mul(micros(ready).max(1))?;
    // rounded up: at a little less it does not pay
    i64::try_from(needed.checked_add(earned - 1)? / earned).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cost_is_shared_over_requests_and_over_weighted_tokens() {
        let used = EngineUsage {
            requests: 200,
            input_tokens: 2_000_000,
            output_tokens: 500_000,
            ..EngineUsage::default()
        };
        let costs = unit_costs("8.00".parse().unwrap(), &used);
        // 2 million tokens read weigh as much as half a million written
        let money = |text: &str| Some(text.parse().unwrap());
        assert_eq!(
            costs,
            UnitCosts {
                per_request: money("0.04"),
                per_million_input_tokens: money("2.00"),
                per_million_output_tokens: money("8.00"),
            }
        );
    }

    #[test]
    fn nothing_served_has_no_unit_cost() {
        assert_eq!(
            unit_costs("8.00".parse().unwrap(), &EngineUsage::default()),
            UnitCosts::default()
        );
    }

    #[test]
    fn revenue_is_by_use_and_by_the_part_of_the_month() {
        let money = |text: &str| text.parse::<Money>().unwrap();
        let terms = RevenueTerms {
            per_million_output_tokens: money("10"),
            per_thousand_requests: money("2"),
            per_month: money("300"),
            ..RevenueTerms::default()
        };
        let used = EngineUsage {
            requests: 500,
            output_tokens: 250_000,
            ..EngineUsage::default()
        };
        let zone = jiff::tz::TimeZone::UTC;
        let now = "2026-11-16T00:00:00Z".parse().unwrap();
        let month = crate::calendar::Month::containing(now, &zone).bounds(&zone);
        let revenue = terms.revenue(&used, month, now);
        assert_eq!(
            (revenue.by_use, revenue.fixed),
            (money("3.50"), money("150"))
        );
    }

    #[test]
    fn break_even_is_where_use_pays_for_what_is_held() {
        let money = |text: &str| text.parse::<Money>().unwrap();
        let revenue = Revenue {
            by_use: money("20"),
            fixed: money("60"),
        };
        // a quarter busy earned 20 of the 40 that are not covered: half busy would
        assert_eq!(
            break_even(money("100"), revenue, money("20"), money("80")),
            Some(500)
        );
        assert_eq!(
            break_even(money("50"), revenue, money("20"), money("80")),
            Some(0)
        );
        assert_eq!(
            break_even(money("100"), Revenue::default(), money("20"), money("80")),
            None
        );
    }

    proptest! {
        #[test]
        fn unit_costs_never_add_up_to_more_than_the_cost(
            cost in 0i128..10i128.pow(15),
            input_tokens in 0u64..10u64.pow(10),
            output_tokens in 0u64..10u64.pow(10),
        ) {
            let used = EngineUsage { input_tokens, output_tokens, ..EngineUsage::default() };
            let costs = unit_costs(Money::from_nanos(cost), &used);
            let whole = |per_million: Option<Money>, tokens: u64| per_million.map_or(0, |money| money.nanos() * i128::from(tokens));
            let shared = whole(costs.per_million_input_tokens, input_tokens) + whole(costs.per_million_output_tokens, output_tokens);
            prop_assert!(shared <= cost * i128::from(MILLION));
        }
    }
}
