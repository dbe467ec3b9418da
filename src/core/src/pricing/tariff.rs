//! Electricity by the hour of the day and the day of the week, in the tariff's own time zone.
//!
//! The price at an instant is that of the clock on the wall: an hour that daylight saving time
//! repeats is charged twice at that hour's price, and one that it skips is never charged.

use jiff::civil::{DateTime, Time, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Timestamp, ToSpan};

use crate::money::Money;

const DAY_MINUTES: u32 = 24 * 60;
const WEEK_MINUTES: u32 = 7 * DAY_MINUTES;
/// A tariff repeats every week; daylight saving time can skip a boundary in one week but not in the
/// next.
const REPEATS_WITHIN_DAYS: u32 = 15;

/// Hours with a price of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TariffPeriod {
    /// The days on which it starts.
    pub days: Vec<Weekday>,
    /// When it starts.
    pub from: Time,
    /// When it ends; on the next day if that is not after `from`.
    pub to: Time,
    /// Money a kilowatt-hour.
    pub per_kwh: Money,
}

/// Prices by the hour. No two of its periods overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tariff {
    /// Money a kilowatt-hour at hours that are in no period.
    base: Money,
    zone: TimeZone,
    periods: Vec<TariffPeriod>,
}

/// Two periods, counted from 0, that have an hour in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("periods[{0}] and periods[{1}] overlap: let one end where the other begins")]
pub struct OverlappingPeriods(pub usize, pub usize);

impl TariffPeriod {
    fn wraps(&self) -> bool {
        self.to <= self.from
    }

    fn covers(&self, clock: DateTime) -> bool {
        let (day, time) = (clock.date().weekday(), clock.time());
        if !self.wraps() {
            return self.days.contains(&day) && self.from <= time && time < self.to;
        }
        let since = self.days.contains(&day) && self.from <= time;
        since || (self.days.contains(&day.previous()) && time < self.to)
    }

    /// Its stretches of the week, as start and length in minutes since Monday 00:00.
    fn stretches(&self) -> impl Iterator<Item = (u32, u32)> {
        let minute = |time: Time| {
            u32::from(time.hour().unsigned_abs()) * 60 + u32::from(time.minute().unsigned_abs())
        };
        let (from, to) = (minute(self.from), minute(self.to));
        let length = match (to + DAY_MINUTES - from) % DAY_MINUTES {
            0 => DAY_MINUTES,
            length => length,
        };
        self.days.iter().map(move |day| {
            let day = u32::from(day.to_monday_zero_offset().unsigned_abs());
            (day * DAY_MINUTES + from, length)
        })
    }

    fn overlaps(&self, other: &Self) -> bool {
        let within = |start: u32, (other, length): (u32, u32)| {
            (start + WEEK_MINUTES - other) % WEEK_MINUTES < length
        };
        self.stretches().any(|ours| {
            other
                .stretches()
                .any(|theirs| within(ours.0, theirs) || within(theirs.0, ours))
        })
    }
}

impl Tariff {
    /// The same price a kilowatt-hour at every hour.
    pub fn flat(base: Money) -> Self {
        Self {
            base,
            zone: TimeZone::UTC,
            periods: Vec::new(),
        }
    }

    /// A tariff of these periods, and of `base` at all other hours.
    ///
    /// # Errors
    /// The first two periods that overlap.
    pub fn new(
        base: Money,
        zone: TimeZone,
        periods: Vec<TariffPeriod>,
    ) -> Result<Self, OverlappingPeriods> {
        for (i, period) in periods.iter().enumerate() {
            for (j, other) in periods.iter().enumerate().skip(i + 1) {
                if period.overlaps(other) {
                    return Err(OverlappingPeriods(i, j));
                }
            }
        }
        Ok(Self {
            base,
            zone,
            periods,
        })
    }

    /// The price of a kilowatt-hour at `at`.
    pub fn per_kwh(&self, at: Timestamp) -> Money {
        let clock = self.zone.to_datetime(at);
        let period = self.periods.iter().find(|period| period.covers(clock));
        period.map_or(self.base, |period| period.per_kwh)
    }

    /// The instants after `after` from which another price counts, in order. There are none where
    /// the price is always the same.
    pub(super) fn changes(&self, after: Timestamp) -> impl Iterator<Item = Timestamp> + use<'_> {
        let mut date = self.zone.to_datetime(after).date();
        let mut quiet = 0;
        let mut found = Vec::new().into_iter();
        std::iter::from_fn(move || {
            loop {
                if let Some(at) = found.next() {
                    return Some(at);
                }
                if quiet > REPEATS_WITHIN_DAYS {
                    return None;
                }
                let day = self.changes_on(date.into());
                let later: Vec<Timestamp> = day.into_iter().filter(|at| *at > after).collect();
                quiet = if later.is_empty() { quiet + 1 } else { 0 };
                found = later.into_iter();
                date = date.checked_add(1.day()).ok()?;
            }
        })
    }

    /// The changes of one calendar day, from its first instant to before the next day's.
    fn changes_on(&self, midnight: DateTime) -> Vec<Timestamp> {
        let next = midnight.saturating_add(1.day());
        let first = |clock| self.zone.to_ambiguous_timestamp(clock).compatible().ok();
        let (Some(start), Some(end)) = (first(midnight), first(next)) else {
            return Vec::new();
        };
        let times = self.periods.iter().flat_map(|each| [each.from, each.to]);
        let on_the_clock = times.flat_map(|time| self.instants(midnight.date().to_datetime(time)));
        let just_before = |at: Timestamp| at.checked_sub(1.nanosecond()).unwrap_or(at);
        let shifts = self.zone.following(just_before(start));
        let shifts = shifts.map(|shift| shift.timestamp());
        let mut all: Vec<Timestamp> = on_the_clock
            .chain(shifts.take_while(|at| *at < end))
            .filter(|at| (start..end).contains(at))
            .filter(|at| self.per_kwh(*at) != self.per_kwh(just_before(*at)))
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// When the clock shows this: once, twice where it is set back, never where it is set forward.
    fn instants(&self, clock: DateTime) -> impl Iterator<Item = Timestamp> + use<> {
        let offsets = match self.zone.to_ambiguous_timestamp(clock).offset() {
            AmbiguousOffset::Unambiguous { offset } => [Some(offset), None],
            AmbiguousOffset::Fold { before, after } => [Some(before), Some(after)],
            AmbiguousOffset::Gap { .. } => [None, None],
        };
        let at = move |offset: jiff::tz::Offset| offset.to_timestamp(clock).ok();
        offsets.into_iter().flatten().filter_map(at)
    }
}

#[cfg(test)]
mod tests;
