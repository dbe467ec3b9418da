//! The requests on the replicas of a service over the last half minute.

use std::collections::VecDeque;

use jiff::Timestamp;

use crate::scaling::{Milli, ReplicaLoad};

/// The requests on replicas are averaged over so many steps, ...
const STEPS: i64 = 6;
/// ... each of so many milliseconds.
const STEP_MILLIS: i64 = 5_000;

/// Requests on replicas at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoadNow {
    /// Requests that wait and run.
    pub(crate) requests: u64,
    /// Replicas that serve.
    pub(crate) serving: u32,
}

/// A time in which the load did not change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    pub(crate) load: LoadNow,
}

impl Segment {
    pub(crate) fn millis(self) -> i64 {
        let passed = self.to.duration_since(self.from).as_millis();
        i64::try_from(passed).unwrap_or(i64::MAX)
    }
}

/// Requests within one step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Step {
    number: i64,
    millis: i64,
    /// Those in which there were requests.
    busy_millis: u128,
    request_millis: u128,
    /// The most requests.
    peak: u64,
}

/// The requests on replicas over the last half minute.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LoadHistory {
    last: Option<(Timestamp, LoadNow)>,
    steps: VecDeque<Step>,
}

impl LoadHistory {
    /// Takes the load from now on; `None` while it is not known. Returns the time in which the one before
    /// has lasted.
    pub(crate) fn observe(&mut self, load: Option<LoadNow>, now: Timestamp) -> Option<Segment> {
        let last = std::mem::replace(&mut self.last, load.map(|load| (now, load)));
        let Some((from, before)) = last.filter(|(from, _)| *from <= now) else {
            // the clock was set back, or what was between is not known
            self.steps.clear();
            return None;
        };
        let segment = Segment {
            from,
            to: now,
            load: before,
        };
        let until = now.as_millisecond();
        let oldest = (until.div_euclid(STEP_MILLIS) - STEPS) * STEP_MILLIS;
        let mut from = from.as_millisecond().max(oldest);
        while from < until {
            let number = from.div_euclid(STEP_MILLIS);
            let to = ((number + 1) * STEP_MILLIS).min(until);
            if self.steps.back().is_none_or(|last| last.number != number) {
                self.steps.push_back(Step {
                    number,
                    ..Step::default()
                });
            }
            if let Some(step) = self.steps.back_mut() {
                let passed = u128::from((to - from).unsigned_abs());
                step.millis += to - from;
                step.request_millis += u128::from(before.requests) * passed;
                step.busy_millis += if before.requests > 0 { passed } else { 0 };
                step.peak = step.peak.max(before.requests);
            }
            from = to;
        }
        let is_over = |step: &Step| (step.number + 1) * STEP_MILLIS <= oldest;
        while self.steps.front().is_some_and(is_over) {
            self.steps.pop_front();
        }
        Some(segment)
    }

    /// What replicas have now: requests as a mean of the time in which there were any, the most, and those
    /// that serve; `None` while that is not known.
    pub(crate) fn load(&self) -> Option<ReplicaLoad> {
        let (_, now) = self.last?;
        let millis: i64 = self.steps.iter().map(|step| step.millis).sum();
        let sum: u128 = self.steps.iter().map(|step| step.request_millis).sum();
        let busy: u128 = self.steps.iter().map(|step| step.busy_millis).sum();
        let requests = match (millis, busy) {
            (0, _) => u128::from(now.requests) * 1000,
            (_, busy) => sum * 1000 / busy.max(1),
        };
        let peak = self.steps.iter().map(|step| step.peak).max();
        Some(ReplicaLoad {
            requests: Milli(u64::try_from(requests).unwrap_or(u64::MAX)),
            peak: peak.unwrap_or(0).max(now.requests),
            serving: now.serving,
        })
    }

    /// When the mean may change though nothing happens.
    pub(crate) fn changes_at(&self) -> Option<Timestamp> {
        let (at, now) = self.last?;
        let is_even = |step: &Step| {
            let passed = u128::from(step.millis.unsigned_abs());
            step.request_millis == u128::from(now.requests) * passed
        };
        let next = (at.as_millisecond().div_euclid(STEP_MILLIS) + 1) * STEP_MILLIS;
        let next = Timestamp::from_millisecond(next).ok();
        next.filter(|_| !self.steps.iter().all(is_even))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_796_000_000_000 + millis).unwrap()
    }

    #[test]
    fn the_mean_load_follows_within_half_a_minute_and_then_nothing_is_left_to_look_at() {
        let mut history = LoadHistory::default();
        let mut run = |seconds: std::ops::Range<i64>, requests| {
            for second in seconds {
                let serving = 2;
                history.observe(Some(LoadNow { requests, serving }), at(second * 1_000));
            }
            let load = history.load().unwrap();
            (load.requests, load.peak, history.changes_at())
        };
        assert_eq!(run(0..60, 20).2, None);
        assert_eq!(run(60..61, 0).2, Some(at(65_000)));
        let (requests, peak, _) = run(61..76, 0);
        // a mean of the time in which there were any
        assert_eq!((requests, peak), (Milli(20_000), 20));
        assert_eq!(run(76..96, 0), (Milli(0), 0, None));
    }

    proptest! {
        /// The mean depends on what happened, and not on how often somebody looked.
        #[test]
        fn looking_more_often_changes_no_mean(
            changes in prop::collection::vec((1i64..20_000, 0u64..500), 1..40),
            looks in prop::collection::vec(0i64..400_000, 0..40),
        ) {
            let mut time = 0;
            let changes: Vec<(i64, u64)> = changes
                .into_iter()
                .map(|(after, requests)| {
                    time += after;
                    (time, requests)
                })
                .collect();
            let mean = |looks: &[i64]| {
                let mut history = LoadHistory::default();
                let mut all: Vec<(i64, Option<u64>)> = changes.iter().map(|(at, n)| (*at, Some(*n))).collect();
                all.extend(looks.iter().map(|at| (*at, None)));
                all.sort_by_key(|(at, change)| (*at, change.is_none()));
                let mut requests = None;
                for (millis, change) in all {
                    requests = change.or(requests);
                    if let Some(requests) = requests {
                        history.observe(Some(LoadNow { requests, serving: 1 }), at(millis));
                    }
                }
                history.observe(requests.map(|requests| LoadNow { requests, serving: 1 }), at(900_000));
                (history.steps.len() <= 7).then(|| history.load())
            };
            prop_assert!(mean(&[]).is_some());
            prop_assert_eq!(mean(&looks), mean(&[]));
        }
    }
}
