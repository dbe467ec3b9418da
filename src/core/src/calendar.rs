//! Accounting time: months and days of the accounting time zone, and the periods of budgets.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

/// A calendar month, written `2026-11`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Month(Date);

impl Month {
    /// The month that `at` falls into in `zone`.
    pub fn containing(at: Timestamp, zone: &TimeZone) -> Self {
        Self(zone.to_datetime(at).date().first_of_month())
    }

    /// The month of a day.
    pub fn containing_date(date: Date) -> Self {
        Self(date.first_of_month())
    }

    /// The month after this one.
    pub fn next(self) -> Self {
        Self(tomorrow(self.0.last_of_month()))
    }

    /// Its first day.
    pub fn first(self) -> Date {
        self.0
    }

    /// The month with some hours to spare at both ends, whatever the zone: cheaper than its bounds.
    pub(crate) fn approximate_bounds(self) -> Interval {
        let utc = self.bounds(&TimeZone::UTC);
        let spare = 36 * 3600;
        let second = |at: i64, bound| Timestamp::from_second(at).unwrap_or(bound);
        Interval {
            start: second(utc.start.as_second() - spare, Timestamp::MIN),
            end: second(utc.end.as_second() + spare, Timestamp::MAX),
        }
    }

    /// The first instant of the month, and of the month after it.
    pub fn bounds(self, zone: &TimeZone) -> Interval {
        Interval {
            start: midnight(self.0, zone),
            end: midnight(self.next().0, zone),
        }
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.0.year(), self.0.month())
    }
}

/// Why a string is not a month.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a month: write it as \"2026-11\"")]
pub struct ParseMonthError(String);

impl FromStr for Month {
    type Err = ParseMonthError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        format!("{text}-01")
            .parse()
            .map(Self)
            .map_err(|_| ParseMonthError(text.to_owned()))
    }
}

impl TryFrom<String> for Month {
    type Error = ParseMonthError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Month> for String {
    fn from(month: Month) -> Self {
        month.to_string()
    }
}

/// A span of time, `start` included, `end` not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The first instant.
    pub start: Timestamp,
    /// The first instant after it.
    pub end: Timestamp,
}

impl Interval {
    /// The part that both share; `None` where they do not meet.
    pub fn intersection(self, other: Self) -> Option<Self> {
        let (start, end) = (self.start.max(other.start), self.end.min(other.end));
        (start < end).then_some(Self { start, end })
    }

    /// The parts before and from `at` on; one of them is empty if `at` lies outside.
    pub fn split(self, at: Timestamp) -> (Self, Self) {
        let at = at.clamp(self.start, self.end);
        (Self { end: at, ..self }, Self { start: at, ..self })
    }

    /// Whole seconds from start to end.
    pub fn seconds(self) -> i64 {
        self.end.as_second() - self.start.as_second()
    }

    /// True if nothing lies between start and end.
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// The days of `zone` that the interval touches, each with its part of the interval.
    pub fn days(self, zone: &TimeZone) -> impl Iterator<Item = (Date, Self)> + use<'_> {
        let mut start = self.start;
        std::iter::from_fn(move || {
            if start >= self.end {
                return None;
            }
            let date = zone.to_datetime(start).date();
            let end = midnight(tomorrow(date), zone).min(self.end);
            let day = Self { start, end };
            start = end;
            Some((date, day))
        })
    }

    /// The months of `zone` that the interval touches. An empty interval touches the month of its
    /// start.
    pub fn months(self, zone: &TimeZone) -> impl Iterator<Item = Month> + use<'_> {
        let first = Month::containing(self.start, zone);
        std::iter::successors(Some(first), |month| Some(month.next()))
            .take_while(move |month| *month == first || month.bounds(zone).start < self.end)
    }
}

/// How long a budget's limit lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Period {
    /// From midnight to midnight.
    Daily,
    /// From Monday to Monday.
    Weekly,
    /// A calendar month.
    Monthly,
}

impl Period {
    /// The bounds, in `zone`, of the period that `at` falls into.
    pub fn bounds(self, at: Timestamp, zone: &TimeZone) -> Interval {
        let today = zone.to_datetime(at).date();
        let (first, span): (Date, Span) = match self {
            Self::Daily => (today, 1.day()),
            Self::Weekly => (
                later(
                    today,
                    -i64::from(today.weekday().to_monday_zero_offset()).days(),
                ),
                1.week(),
            ),
            Self::Monthly => (today.first_of_month(), 1.month()),
        };
        Interval {
            start: midnight(first, zone),
            end: midnight(later(first, span), zone),
        }
    }
}

/// `at` without its part of a second: the API server's times are whole seconds.
pub fn whole_second(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// The first instant of the day of `zone` that `at` falls into.
pub fn midnight_before(at: Timestamp, zone: &TimeZone) -> Timestamp {
    midnight(zone.to_datetime(at).date(), zone)
}

fn tomorrow(date: Date) -> Date {
    date.tomorrow().unwrap_or(Date::MAX)
}

fn later(date: Date, span: Span) -> Date {
    date.saturating_add(span)
}

/// The first instant of a day: 00:00, or what the clocks show instead where they skip it.
fn midnight(date: Date, zone: &TimeZone) -> Timestamp {
    zone.to_ambiguous_timestamp(DateTime::from(date))
        .compatible()
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    #[test]
    fn days_of_23_and_25_hours_are_whole_days() {
        let berlin = zone("Europe/Berlin");
        for (from, to, hours) in [
            ("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z", 23),
            ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", 25),
        ] {
            let days: Vec<_> = Interval {
                start: at(from),
                end: at(to),
            }
            .days(&berlin)
            .collect();
            assert_eq!(days.len(), 1, "{days:?}");
            assert_eq!(
                days[0].1.end.as_second() - days[0].1.start.as_second(),
                hours * 3600
            );
        }
    }

    #[test]
    fn days_cut_an_interval_without_gap_or_overlap() {
        let kolkata = zone("Asia/Kolkata");
        let whole = Interval {
            start: at("2028-02-28T10:00:00Z"),
            end: at("2028-03-02T01:00:00Z"),
        };
        let days: Vec<_> = whole.days(&kolkata).collect();
        assert_eq!(days.first().unwrap().1.start, whole.start);
        assert_eq!(days.last().unwrap().1.end, whole.end);
        assert!(
            days.windows(2)
                .all(|pair| pair[0].1.end == pair[1].1.start && pair[0].0 < pair[1].0)
        );
        assert_eq!(days.len(), 4, "28 and 29 February, 1 and 2 March: {days:?}");
    }

    #[test]
    fn months_are_those_touched() {
        let utc = TimeZone::UTC;
        let months = |from: &str, to: &str| -> Vec<String> {
            Interval {
                start: at(from),
                end: at(to),
            }
            .months(&utc)
            .map(|m| m.to_string())
            .collect()
        };
        assert_eq!(
            months("2026-11-30T23:59:59Z", "2026-12-01T00:00:00Z"),
            ["2026-11"]
        );
        assert_eq!(
            months("2026-11-30T23:59:59Z", "2027-01-01T00:00:01Z"),
            ["2026-11", "2026-12", "2027-01"]
        );
        assert_eq!(
            months("2026-11-30T23:59:59Z", "2026-11-30T23:59:59Z"),
            ["2026-11"]
        );
    }

    #[test]
    fn a_week_starts_on_monday() {
        let week = Period::Weekly.bounds(at("2026-11-29T12:00:00Z"), &TimeZone::UTC);
        assert_eq!(
            (week.start, week.end),
            (at("2026-11-23T00:00:00Z"), at("2026-11-30T00:00:00Z"))
        );
    }

    #[test]
    fn a_month_reads_what_it_writes() {
        assert_eq!("2026-11".parse::<Month>().unwrap().to_string(), "2026-11");
        for wrong in ["2026-13", "2026-11-01", "november", ""] {
            assert!(wrong.parse::<Month>().is_err(), "{wrong:?} was taken");
        }
    }
}
