//! The expected cost of a month at its end.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::calendar::{Interval, Month, Period, midnight_before};
use crate::ledger::Account;
use crate::money::Money;

/// Days whose pace is taken for that of the days to come: a week has every kind of day in it.
const DAYS: i64 = 7;
/// Seconds of a window that are too few to be a pace: a start is none.
const SHORTEST: i64 = 3600;

/// The inputs of a forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpendForecast {
    /// Money spent this month.
    pub spent: Money,
    /// The days whose pace counts, until now.
    pub window: Interval,
    /// Money spent in those days.
    pub paced: Money,
    /// Seconds of the month that are left.
    pub left: i64,
}

impl SpendForecast {
    /// The forecast of one workload, whose months these are; `None` before its first day.
    pub fn of<'a>(
        accounts: impl Iterator<Item = &'a Account> + Clone,
        now: Timestamp,
        zone: &TimeZone,
    ) -> Option<Self> {
        let first = accounts
            .clone()
            .filter_map(|account| first_day(account, zone))
            .min()?;
        let window = window(first, now, zone);
        let sum = |within| {
            let each = accounts.clone();
            each.map(|account| account.sum(within, now, zone).cost.total())
                .sum()
        };
        let month = Month::containing(now, zone).bounds(zone);
        // the posted cost of today is on record under its day as a whole
        let days = Interval {
            end: Period::Daily.bounds(now, zone).end,
            ..window
        };
        Some(Self {
            spent: sum(month),
            window,
            paced: sum(days),
            left: month.end.as_second() - now.as_second(),
        })
    }

    /// Whether the window is long enough to be a pace.
    pub fn has_enough_history(&self) -> bool {
        self.window.seconds() >= SHORTEST
    }

    /// Money spent this month, and the remainder at the pace of the window: `spent + paced *
    /// seconds left / seconds of the window`. Nothing is added while there is no pace.
    pub fn month_end(&self) -> Money {
        if self.has_enough_history() {
            self.spent + self.paced.proportion(self.left, self.window.seconds())
        } else {
            self.spent
        }
    }
}

/// Today and the six days before it, or the days since `first`, when there is nothing older.
fn window(first: Timestamp, now: Timestamp, zone: &TimeZone) -> Interval {
    let week = now - SignedDuration::from_hours(24 * (DAYS - 1));
    let start = midnight_before(week, zone).max(midnight_before(first, zone));
    Interval {
        start: start.min(now),
        end: now,
    }
}

/// The start of the first day that has a cost or a charge.
fn first_day(account: &Account, zone: &TimeZone) -> Option<Timestamp> {
    let line = account.days().keys().next();
    let line = line.and_then(|day| Some(day.to_zoned(zone.clone()).ok()?.timestamp()));
    let open = account.open_charges().values().map(|charge| charge.start());
    line.into_iter().chain(open).min()
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::ledger::account::DailyCosts;
    use crate::ledger::{CostKey, DailyCost, StoredAccount};
    use crate::money::Cost;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    fn forecast(days: &[(i8, &str)], now: &str) -> SpendForecast {
        let line = |compute: &str| DailyCost {
            cost: Cost {
                compute: money(compute),
                ..Cost::ZERO
            },
            ..DailyCost::default()
        };
        let days: DailyCosts = days
            .iter()
            .map(|(day, cost)| (date(2026, 11, *day), vec![(CostKey::default(), line(cost))]))
            .collect();
        let stored = StoredAccount::new("2026-11".parse().unwrap());
        let account = Account::restore(StoredAccount { days, ..stored }).unwrap();
        SpendForecast::of(std::iter::once(&account), at(now), &TimeZone::UTC).unwrap()
    }

    #[test]
    fn the_last_seven_days_set_the_pace() {
        let forecast = forecast(&[(1, "87"), (18, "13")], "2026-11-24T12:00:00Z");
        assert_eq!(forecast.window.start, at("2026-11-18T00:00:00Z"));
        // 6.5 days passed and 6.5 are left: what those cost comes again
        assert_eq!(forecast.month_end(), money("113"));
    }

    #[test]
    fn what_is_over_of_today_is_a_part_of_the_pace() {
        let forecast = forecast(&[(24, "1")], "2026-11-24T12:00:00Z");
        assert_eq!(forecast.window.start, at("2026-11-24T00:00:00Z"));
        assert_eq!(forecast.month_end(), money("14"));
    }

    #[test]
    fn the_first_hour_is_no_pace() {
        let forecast = forecast(&[(24, "1")], "2026-11-24T00:30:00Z");
        assert_eq!(
            (forecast.paced, forecast.month_end()),
            (money("1"), money("1"))
        );
    }
}
