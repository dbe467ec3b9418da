//! How many replicas one cause may take from a service within a minute.
//!
//! Demand that falls to nothing is mostly real, and sometimes a metric that broke for all replicas at
//! once. So a large service shrinks in steps, in which somebody can look. What a budget stops is not
//! counted, and neither is what its user takes away by a lower `maxReplicas`.

use jiff::{SignedDuration, Timestamp};

/// So long removals count.
const WINDOW: SignedDuration = SignedDuration::from_mins(1);
/// So many replicas may go within it in any case.
const FEWEST: u32 = 10;
/// And this part of the service: one in so many.
const PART: u32 = 5;

/// Replicas of a service that were told to leave for want of demand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScaleDownLimit(Vec<(Timestamp, u32)>);

impl ScaleDownLimit {
    /// The fewest of `current` replicas that may stay at `now`, and when that changes.
    pub(crate) fn floor(&self, current: u32, now: Timestamp) -> (u32, Option<Timestamp>) {
        let recent = self.0.iter().filter(|(at, _)| is_recent(*at, now));
        let removed = recent
            .clone()
            .fold(0, |sum: u32, (_, count)| sum.saturating_add(*count));
        let before = current.saturating_add(removed);
        let most = before.div_ceil(PART).max(FEWEST);
        let floor = current.saturating_sub(most.saturating_sub(removed));
        let next = recent
            .filter_map(|(at, _)| at.checked_add(WINDOW).ok())
            .min();
        (floor, next)
    }

    /// Takes that so many were told to leave.
    pub(crate) fn note(&mut self, count: u32, now: Timestamp) {
        self.0.retain(|(at, _)| is_recent(*at, now));
        if count > 0 {
            self.0.push((now, count));
        }
    }
}

fn is_recent(at: Timestamp, now: Timestamp) -> bool {
    let since = now.duration_since(at);
    since < WINDOW && !since.is_negative()
}

/// The cap in words.
pub(crate) fn reason(floor: u32) -> String {
    format!(
        "at most {FEWEST} replicas or a fifth of them leave within {} s, so {floor} stay now",
        WINDOW.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + second).unwrap()
    }

    #[test]
    fn ten_or_a_fifth_may_leave_within_a_minute() {
        let nothing = ScaleDownLimit::default();
        for (current, floor) in [
            (0, 0),
            (10, 0),
            (11, 1),
            (50, 40),
            (51, 40),
            (100, 80),
            (1000, 800),
        ] {
            assert_eq!(nothing.floor(current, at(0)), (floor, None), "{current}");
        }
        let mut scale_down_limit = ScaleDownLimit::default();
        scale_down_limit.note(15, at(0));
        assert_eq!(scale_down_limit.floor(85, at(1)), (80, Some(at(60))));
        scale_down_limit.note(5, at(30));
        assert_eq!(scale_down_limit.floor(80, at(59)), (80, Some(at(60))));
        // of 85 at the window's beginning five are gone
        assert_eq!(scale_down_limit.floor(80, at(60)), (68, Some(at(90))));
        assert_eq!(scale_down_limit.floor(80, at(90)), (64, None));
    }

    #[test]
    fn what_a_clock_that_was_set_back_left_in_the_future_does_not_count() {
        let mut scale_down_limit = ScaleDownLimit::default();
        scale_down_limit.note(10, at(1000));
        assert_eq!(scale_down_limit.floor(10, at(0)), (0, None));
    }
}
