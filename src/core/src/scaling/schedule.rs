//! Bounds on replicas that hold at times of the day, of the week or of the year.

use std::fmt::Write;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::cron::Cron;

/// When a schedule that has started ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleEnd {
    /// At the next of these times. It ends also where it would start at the same time.
    At(Cron),
    /// So long after its last start.
    After(SignedDuration),
}

/// Bounds that hold from time to time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Its name, for people.
    pub name: String,
    /// When it starts.
    pub start: Cron,
    /// When it ends.
    pub end: ScheduleEnd,
    /// The time zone of its times; `None` for that of the accounts.
    pub zone: Option<TimeZone>,
    /// The fewest replicas while it is active.
    pub min: Option<u32>,
    /// The most replicas while it is active.
    pub max: Option<u32>,
}

impl Schedule {
    /// Whether it is active at `now`, and when that may change.
    fn state(&self, now: Timestamp, zone: &TimeZone) -> (bool, Option<Timestamp>) {
        let zone = self.zone.as_ref().unwrap_or(zone);
        let started = self.start.last_before(now, zone);
        let starts = || self.start.next_after(now, zone);
        match &self.end {
            ScheduleEnd::At(end) => match started > end.last_before(now, zone) {
                true => (true, end.next_after(now, zone)),
                false => (false, starts()),
            },
            ScheduleEnd::After(duration) => {
                let ends = started.map(|at| at.checked_add(*duration).unwrap_or(Timestamp::MAX));
                match ends.filter(|ends| now < *ends) {
                    Some(ends) => (true, Some(ends)),
                    None => (false, starts()),
                }
            }
        }
    }
}

/// The bounds on replicas at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The fewest replicas.
    pub min: u32,
    /// The most replicas.
    pub max: u32,
    /// The active schedules with their numbers, if there are any.
    pub schedules: Option<String>,
    /// A schedule has raised the minimum.
    pub is_min_scheduled: bool,
    /// A schedule has lowered the maximum.
    pub is_max_scheduled: bool,
    /// When this may change.
    pub changes_at: Option<Timestamp>,
}

impl Bounds {
    /// The bounds of a service itself, without schedules.
    pub fn fixed(min: u32, max: u32) -> Self {
        Self {
            min,
            max,
            ..Self::default()
        }
    }

    /// The bounds of a service with schedules: the largest minimum and the smallest maximum of its own
    /// and of those that are active. Where they cross, the maximum counts. `zone` is that of schedules
    /// without one of their own.
    pub fn scheduled(
        (own_min, own_max): (u32, u32),
        schedules: &[Schedule],
        zone: &TimeZone,
        now: Timestamp,
    ) -> Self {
        let mut bounds = Self::fixed(own_min, own_max);
        let mut active = Vec::new();
        for schedule in schedules {
            let (is_active, changes_at) = schedule.state(now, zone);
            bounds.changes_at = bounds.changes_at.into_iter().chain(changes_at).min();
            if !is_active {
                continue;
            }
            bounds.min = bounds.min.max(schedule.min.unwrap_or(0));
            bounds.max = bounds.max.min(schedule.max.unwrap_or(u32::MAX));
            let mut text = format!("schedule {}", schedule.name);
            if let Some(min) = schedule.min {
                let _ = write!(text, ", at least {min}");
            }
            if let Some(max) = schedule.max {
                let _ = write!(text, ", at most {max}");
            }
            if let Some(until) = changes_at {
                let _ = write!(text, ", until {until}");
            }
            active.push(text);
        }
        bounds.is_min_scheduled = bounds.min > own_min;
        bounds.is_max_scheduled = bounds.max < own_max;
        if bounds.min > bounds.max {
            active.push(format!(
                "the minimum {} is above the maximum {}, which counts",
                bounds.min, bounds.max
            ));
            bounds.min = bounds.max;
        }
        bounds.schedules = (!active.is_empty()).then(|| active.join("; "));
        bounds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn schedule(name: &str, start: &str, end: ScheduleEnd) -> Schedule {
        Schedule {
            name: name.to_owned(),
            start: Cron::parse(start).unwrap(),
            end,
            zone: None,
            min: Some(4),
            max: None,
        }
    }

    fn end(text: &str) -> ScheduleEnd {
        ScheduleEnd::At(Cron::parse(text).unwrap())
    }

    #[test]
    fn a_schedule_is_active_from_its_last_start_until_an_end_after_it() {
        let week = schedule("week", "0 8 * * *", end("0 18 * * 5"));
        let day = schedule("day", "0 8 * * 1", end("0 18 * * *"));
        let night = schedule(
            "night",
            "0 22 * * 1-5",
            ScheduleEnd::After(SignedDuration::from_hours(8)),
        );
        let same = schedule("same", "0 8 * * *", end("0 8 * * *"));
        // the 23rd of November 2026 is a Monday
        for (schedule, now, active, changes) in [
            (&week, "2026-11-23T09:00:00Z", true, "2026-11-27T18:00:00Z"),
            (&week, "2026-11-27T18:00:00Z", false, "2026-11-28T08:00:00Z"),
            (&week, "2026-11-27T17:59:59Z", true, "2026-11-27T18:00:00Z"),
            (&day, "2026-11-23T08:00:00Z", true, "2026-11-23T18:00:00Z"),
            (&day, "2026-11-23T19:00:00Z", false, "2026-11-30T08:00:00Z"),
            (&night, "2026-11-28T05:59:59Z", true, "2026-11-28T06:00:00Z"),
            (
                &night,
                "2026-11-28T06:00:00Z",
                false,
                "2026-11-30T22:00:00Z",
            ),
            (&same, "2026-11-28T09:00:00Z", false, "2026-11-29T08:00:00Z"),
        ] {
            let state = schedule.state(at(now), &TimeZone::UTC);
            assert_eq!(
                state,
                (active, Some(at(changes))),
                "{} at {now}",
                schedule.name
            );
        }
    }

    #[test]
    fn hours_of_a_zone_stay_where_its_clock_has_them() {
        let mut office = schedule("office", "0 8 * * *", end("0 18 * * *"));
        office.zone = Some(TimeZone::get("Europe/Berlin").unwrap());
        for (now, active) in [
            ("2026-03-28T06:59:00Z", false),
            ("2026-03-28T07:00:00Z", true),
            ("2026-03-29T06:00:00Z", true),
            ("2026-03-29T16:00:00Z", false),
            ("2026-10-25T06:59:00Z", false),
            ("2026-10-25T16:59:00Z", true),
        ] {
            assert_eq!(office.state(at(now), &TimeZone::UTC).0, active, "{now}");
        }
        // it starts in an hour that is skipped and ends in one that comes twice
        let night = Schedule {
            start: Cron::parse("30 2 29 3 *").unwrap(),
            end: end("30 2 25 10 *"),
            ..office
        };
        for (now, active) in [
            ("2026-03-29T00:59:59Z", false),
            ("2026-03-29T01:00:00Z", true),
            ("2026-10-25T00:29:59Z", true),
            ("2026-10-25T00:30:00Z", false),
            ("2026-10-25T01:10:00Z", false),
        ] {
            assert_eq!(night.state(at(now), &TimeZone::UTC).0, active, "{now}");
        }
    }

    #[test]
    fn schedules_narrow_the_bounds_and_a_maximum_goes_before_a_minimum() {
        let day = |min, max| Schedule {
            min,
            max,
            ..schedule("day", "0 0 * * *", end("0 20 * * *"))
        };
        let now = at("2026-11-28T12:00:00Z");
        for (schedules, min, max) in [
            (vec![], 1, 10),
            (vec![day(Some(3), None)], 3, 10),
            (vec![day(Some(0), Some(20))], 1, 10),
            (vec![day(Some(3), Some(8)), day(Some(5), Some(6))], 5, 6),
            (vec![day(Some(5), None), day(None, Some(2))], 2, 2),
            (vec![day(None, Some(0))], 0, 0),
        ] {
            let bounds = Bounds::scheduled((1, 10), &schedules, &TimeZone::UTC, now);
            assert_eq!((bounds.min, bounds.max), (min, max), "{bounds:?}");
            let later = at("2026-11-28T20:00:00Z");
            let later = Bounds::scheduled((1, 10), &schedules, &TimeZone::UTC, later);
            assert_eq!((later.min, later.max, later.schedules), (1, 10, None));
        }
        let crossed = [day(Some(5), None), day(None, Some(2))];
        let crossed = Bounds::scheduled((1, 10), &crossed, &TimeZone::UTC, now);
        assert_eq!(
            crossed.schedules.as_deref(),
            Some(
                "schedule day, at least 5, until 2026-11-28T20:00:00Z; schedule day, at most 2, until \
                 2026-11-28T20:00:00Z; the minimum 5 is above the maximum 2, which counts"
            )
        );
    }
}
