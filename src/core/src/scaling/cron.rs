//! Cron expressions of five fields, as Kubernetes' CronJob has them, in a time zone.

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// The longest expression that is read, in bytes.
pub const MAX_CRON_LENGTH: usize = 100;
/// No expression waits for longer, in days: the 29th of February may be eight years away.
const HORIZON: u32 = 8 * 366 + 1;
/// Clocks are set back by no more than this.
const LONGEST_FOLD: SignedDuration = SignedDuration::from_hours(3);

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// Why a text is no cron expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// It has other fields than five, or is too long.
    #[error(
        "must be a cron expression of five fields, such as \"0 8 * * 1-5\": minute, hour, day of the month, month, day of the week"
    )]
    Fields,
    /// A field cannot be read.
    #[error(
        "the {field} {text:?} must be within {low} to {high}, as *, 5, 1-5, */15 or a list of them"
    )]
    Field {
        /// Which one.
        field: &'static str,
        /// Its text.
        text: String,
        /// The smallest value.
        low: u8,
        /// The largest value.
        high: u8,
    },
    /// None of its months has one of its days.
    #[error("no month has such a day: it would never come")]
    Never,
}

/// A cron expression: one bit for each value of a field that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Its day of the month is any.
    any_day: bool,
    /// Its day of the week is any.
    any_weekday: bool,
}

impl Cron {
    /// Reads `minute hour day-of-month month day-of-week`: numbers, `*`, ranges `1-5`, steps `*/15`,
    /// lists, and the names of months and weekdays in three letters. Sunday is 0 or 7. Where both days
    /// are restricted, one of them is enough.
    ///
    /// # Errors
    /// The first field that cannot be read.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(CronError::Fields);
        };
        if text.len() > MAX_CRON_LENGTH {
            return Err(CronError::Fields);
        }
        let weekdays = Field::new("day of the week", 0, 7, &WEEKDAYS).parse(weekday)?;
        let cron = Self {
            minutes: Field::new("minute", 0, 59, &[]).parse(minute)?,
            hours: Field::new("hour", 0, 23, &[]).parse(hour)?,
            days: Field::new("day of the month", 1, 31, &[]).parse(day)?,
            months: Field::new("month", 1, 12, &MONTHS).parse(month)?,
            weekdays: weekdays & 0x7f | weekdays >> 7,
            any_day: is_any(day),
            any_weekday: is_any(weekday),
        };
        let is_possible = !cron.any_weekday || {
            let longest = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            let months = (1..=12u32)
                .zip(longest)
                .filter(|(month, _)| cron.months >> month & 1 == 1);
            months.map(|(_, days)| days).max() >= Some(cron.days.trailing_zeros())
        };
        is_possible.then_some(cron).ok_or(CronError::Never)
    }

    /// The first time after `now`. A time that the clock skips is the moment at which it does; one
    /// that it shows twice counts when it shows it first.
    pub fn next_after(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let clock = zone.to_datetime(now);
        let (mut date, mut from) = (clock.date(), minute_of_day(clock) + 1);
        for _ in 0..HORIZON {
            let minutes = self.minutes_of(date).filter(|minute| *minute >= from);
            let mut times = minutes.filter_map(|minute| instant(date, minute, zone));
            if let Some(at) = times.find(|at| *at > now) {
                return Some(at);
            }
            (date, from) = (date.tomorrow().ok()?, 0);
        }
        None
    }

    /// The last time at or before `now`, by the rules of [`Cron::next_after`].
    pub fn last_before(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        // after the clock was set back it has shown later times already
        let before = now.checked_sub(LONGEST_FOLD).ok()?;
        let before = zone.to_offset(before).to_datetime(now);
        let clock = zone.to_datetime(now).max(before);
        let (mut date, mut until) = (clock.date(), minute_of_day(clock));
        for _ in 0..HORIZON {
            let minutes = self.minutes_of(date).rev();
            let minutes = minutes.filter(|minute| *minute <= until);
            let mut times = minutes.filter_map(|minute| instant(date, minute, zone));
            if let Some(at) = times.find(|at| *at <= now) {
                return Some(at);
            }
            (date, until) = (date.yesterday().ok()?, u16::MAX);
        }
        None
    }

    fn matches(&self, date: Date) -> bool {
        let has = |bits: u64, number: i8| bits >> number & 1 == 1;
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let is_day = match self.any_day || self.any_weekday {
            true => day && weekday,
            false => day || weekday,
        };
        is_day && has(self.months, date.month())
    }

    /// Its minutes of a day, in order.
    fn minutes_of(&self, date: Date) -> impl DoubleEndedIterator<Item = u16> {
        let Self { hours, minutes, .. } = *self;
        let hours = if self.matches(date) { hours } else { 0 };
        let hours = (0..24u16).filter(move |hour| hours >> hour & 1 == 1);
        hours.flat_map(move |hour| {
            let minutes = (0..60u16).filter(move |minute| minutes >> minute & 1 == 1);
            minutes.map(move |minute| hour * 60 + minute)
        })
    }
}

/// Whether one part of a field's list is `*`, or `*/1`, which is the same.
fn is_any(field: &str) -> bool {
    field.split(',').any(|part| matches!(part, "*" | "*/1"))
}

fn minute_of_day(clock: DateTime) -> u16 {
    u16::try_from(i32::from(clock.hour()) * 60 + i32::from(clock.minute())).unwrap_or(0)
}

/// When the clock of a zone shows this minute of a day. Never earlier for a later minute.
fn instant(date: Date, minute: u16, zone: &TimeZone) -> Option<Timestamp> {
    let hour = i8::try_from(minute / 60).ok()?;
    let shown = date.at(hour, i8::try_from(minute % 60).ok()?, 0, 0);
    let ambiguous = zone.to_ambiguous_timestamp(shown);
    let is_skipped = matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. });
    let at = ambiguous.compatible().ok()?;
    if !is_skipped {
        return Some(at);
    }
    let after = at.checked_add(SignedDuration::from_nanos(1)).ok()?;
    zone.preceding(after).next().map(|set| set.timestamp())
}

/// One field of an expression.
struct Field {
    name: &'static str,
    low: u8,
    high: u8,
    /// Names of the values, from the smallest one on.
    names: &'static [&'static str],
}

impl Field {
    fn new(name: &'static str, low: u8, high: u8, names: &'static [&'static str]) -> Self {
        Self {
            name,
            low,
            high,
            names,
        }
    }

    /// The bits of the values that a text matches.
    fn parse(&self, text: &str) -> Result<u64, CronError> {
        let all = text
            .split(',')
            .try_fold(0, |all, part| Some(all | self.part(part)?));
        all.ok_or_else(|| CronError::Field {
            field: self.name,
            text: text.to_owned(),
            low: self.low,
            high: self.high,
        })
    }

    /// The bits of one part of a list.
    fn part(&self, part: &str) -> Option<u64> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(number(step).filter(|step| *step > 0)?)),
            None => (part, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (self.low, self.high),
            Some((first, last)) => (self.value(first)?, self.value(last)?),
            // as cron has it: from this one on, where there are steps
            None if step.is_some() => (self.value(range)?, self.high),
            None => (self.value(range)?, self.value(range)?),
        };
        let values = (first..=last).step_by(usize::from(step.unwrap_or(1)));
        let bits = values.fold(0, |bits, value| bits | 1u64 << value);
        (bits != 0).then_some(bits)
    }

    fn value(&self, text: &str) -> Option<u8> {
        let named = self
            .names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(text));
        let named = named.and_then(|place| u8::try_from(place).ok());
        let value = named.map(|place| place + self.low).or_else(|| number(text));
        value.filter(|value| (self.low..=self.high).contains(value))
    }
}

/// A number of one or two digits.
fn number(text: &str) -> Option<u8> {
    let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(text: &str) -> Cron {
        Cron::parse(text).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap()
    }

    #[test]
    fn the_next_and_the_last_time_are_found() {
        // a Saturday
        let now = "2026-11-28T12:30:20Z";
        for (text, last, next) in [
            ("* * * * *", "2026-11-28T12:30:00Z", "2026-11-28T12:31:00Z"),
            (
                "*/15 * * * *",
                "2026-11-28T12:30:00Z",
                "2026-11-28T12:45:00Z",
            ),
            (
                "0 8 * * 1-5",
                "2026-11-27T08:00:00Z",
                "2026-11-30T08:00:00Z",
            ),
            (
                "0 8 * * mon-FRI",
                "2026-11-27T08:00:00Z",
                "2026-11-30T08:00:00Z",
            ),
            (
                "5,10 12 * * *",
                "2026-11-28T12:10:00Z",
                "2026-11-29T12:05:00Z",
            ),
            ("0 0 * * 7", "2026-11-22T00:00:00Z", "2026-11-29T00:00:00Z"),
            ("0 0 * * 0", "2026-11-22T00:00:00Z", "2026-11-29T00:00:00Z"),
            (
                "0 20/2 * * *",
                "2026-11-27T22:00:00Z",
                "2026-11-28T20:00:00Z",
            ),
            ("0 0 29 2 *", "2024-02-29T00:00:00Z", "2028-02-29T00:00:00Z"),
            (
                "0 0 31 */2 *",
                "2026-07-31T00:00:00Z",
                "2027-01-31T00:00:00Z",
            ),
            // either of the days is enough
            ("0 0 13 * 5", "2026-11-27T00:00:00Z", "2026-12-04T00:00:00Z"),
            (
                "0 0 13 * */2",
                "2026-11-28T00:00:00Z",
                "2026-11-29T00:00:00Z",
            ),
            // where one of them is any, the other one decides
            (
                "0 8 */1 * 1-5",
                "2026-11-27T08:00:00Z",
                "2026-11-30T08:00:00Z",
            ),
            (
                "0 0 1 jan *",
                "2026-01-01T00:00:00Z",
                "2027-01-01T00:00:00Z",
            ),
        ] {
            let cron = cron(text);
            assert_eq!(
                cron.last_before(at(now), &TimeZone::UTC),
                Some(at(last)),
                "{text}"
            );
            assert_eq!(
                cron.next_after(at(now), &TimeZone::UTC),
                Some(at(next)),
                "{text}"
            );
            assert_eq!(
                cron.last_before(at(next), &TimeZone::UTC),
                Some(at(next)),
                "{text}"
            );
        }
    }

    #[test]
    fn a_time_that_the_clock_skips_is_the_moment_at_which_it_does() {
        let berlin = zone("Europe/Berlin");
        let skipped = cron("30 2 * * *");
        let set_forward = at("2026-03-29T01:00:00Z");
        assert_eq!(
            skipped.next_after(at("2026-03-28T12:00:00Z"), &berlin),
            Some(set_forward)
        );
        assert_eq!(
            skipped.last_before(at("2026-03-29T12:00:00Z"), &berlin),
            Some(set_forward)
        );
        assert_eq!(
            skipped.next_after(set_forward, &berlin),
            Some(at("2026-03-30T00:30:00Z")),
            "half past two of summer time"
        );
    }

    #[test]
    fn a_time_that_the_clock_shows_twice_comes_once() {
        let berlin = zone("Europe/Berlin");
        let twice = cron("30 2 * * *");
        let first = at("2026-10-25T00:30:00Z");
        assert_eq!(
            twice.next_after(at("2026-10-24T12:00:00Z"), &berlin),
            Some(first)
        );
        for now in [
            "2026-10-25T00:40:00Z",
            "2026-10-25T01:10:00Z",
            "2026-10-25T01:40:00Z",
        ] {
            assert_eq!(twice.last_before(at(now), &berlin), Some(first), "{now}");
            let next = twice.next_after(at(now), &berlin);
            assert_eq!(next, Some(at("2026-10-26T01:30:00Z")), "{now}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for text in ["", "* * * *", "* * * * * *", "@daily", &"0,".repeat(60)] {
            assert_eq!(Cron::parse(text), Err(CronError::Fields), "{text}");
        }
        for text in [
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * 32 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-1 * * * *",
            "*/0 * * * *",
            "+5 * * * *",
            "1, * * * *",
            "1-2-3 * * * *",
            "* * * * monday",
            "* * L * *",
        ] {
            assert!(
                matches!(Cron::parse(text), Err(CronError::Field { .. })),
                "{text}"
            );
        }
        for text in ["0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
            assert_eq!(Cron::parse(text), Err(CronError::Never), "{text}");
        }
    }
}
