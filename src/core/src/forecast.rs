//! What a month will have cost at its end.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::money::Money;
use crate::period::{Interval, Month, midnight_before};

/// Days whose pace is taken for that of the days to come: a week has every kind of day in it.
const DAYS: i64 = 7;

/// The days whose pace counts at `now`: today and the six before it, or those since `first`, when there is nothing older.
pub fn window(first: Timestamp, now: Timestamp, zone: &TimeZone) -> Interval {
    let week = now - SignedDuration::from_hours(24 * (DAYS - 1));
    let start = midnight_before(week, zone).max(midnight_before(first, zone));
    Interval {
        start: start.min(now),
        end: now,
    }
}

/// Spent this month, and what the rest of it costs at the pace of `window`: `spent + paced * seconds left / seconds of the window`.
/// Nothing is added while the window is shorter than an hour: a start is no pace.
pub fn month_end(spent: Money, paced: Money, window: Interval, zone: &TimeZone) -> Money {
    let now = window.end;
    let left = Month::of(now, zone).bounds(zone).end.as_second() - now.as_second();
    if window.seconds() < 3600 {
        return spent;
    }
    spent + paced.proportion(left, window.seconds())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    #[test]
    fn the_last_seven_days_set_the_pace() {
        let now = at("2026-11-24T12:00:00Z");
        let window = window(at("2026-11-01T08:00:00Z"), now, &TimeZone::UTC);
        assert_eq!(window.start, at("2026-11-18T00:00:00Z"));
        // 6.5 days passed and 6.5 are left: what those cost comes again
        assert_eq!(
            month_end(money("100"), money("13"), window, &TimeZone::UTC),
            money("113")
        );
    }

    #[test]
    fn a_workload_of_today_has_the_pace_of_today_and_one_of_this_hour_has_none() {
        let now = at("2026-11-24T12:00:00Z");
        let today = window(at("2026-11-24T09:00:00Z"), now, &TimeZone::UTC);
        assert_eq!(today.start, at("2026-11-24T00:00:00Z"));
        assert_eq!(
            month_end(money("1"), money("1"), today, &TimeZone::UTC),
            money("14")
        );
        let dawn = at("2026-11-24T00:30:00Z");
        let fresh = window(at("2026-11-24T00:10:00Z"), dawn, &TimeZone::UTC);
        assert_eq!(
            month_end(money("1"), money("1"), fresh, &TimeZone::UTC),
            money("1")
        );
    }
}
