//! How many requests a replica may have while a latency objective is met, learned from what was measured.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::histogram::Percentile;
use crate::scaling::milli::Milli;

/// Measurements are told apart by the requests on a replica, in levels each of which is 5/4 of the one
/// below. So many reach beyond 10,000 requests.
const LEVELS: usize = 42;
/// The first request on a replica: there is no less to have.
const FEWEST: Milli = Milli(1_000);
/// That so many requests missed the objective is believed for this long. After that it is tried again.
const MISSED_COUNTS: SignedDuration = SignedDuration::from_mins(30);
/// That so many requests met it is believed for this long.
const MET_COUNTS: SignedDuration = SignedDuration::from_hours(6);

/// What was measured while replicas had so many requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Requests on a replica, as a mean.
    pub concurrency: Milli,
    /// The latency.
    pub p95: Percentile,
    /// Whether that is within the objective.
    pub met: bool,
    /// Whether it is so with a fifth of the objective to spare.
    pub has_room: bool,
    /// When.
    pub at: Timestamp,
}

impl Measured {
    /// A measurement, compared with an objective in microseconds; `None` if the histogram ends before it
    /// can tell.
    pub fn compare(
        concurrency: Milli,
        p95: Percentile,
        objective: u64,
        at: Timestamp,
    ) -> Option<Self> {
        Some(Self {
            concurrency,
            p95,
            met: p95.is_within(objective)?,
            has_room: p95.is_within(objective / 5 * 4) == Some(true),
            at,
        })
    }

    fn is_over(&self, now: Timestamp) -> bool {
        self.expires() <= now
    }

    fn expires(&self) -> Timestamp {
        let counts = if self.met { MET_COUNTS } else { MISSED_COUNTS };
        self.at.saturating_add(counts).unwrap_or(self.at)
    }
}

/// The highest number of requests on a replica with which an objective was met, and the lowest with which
/// it was missed. Newer measurements win: what missed the objective takes back that more requests met it,
/// and what met it with room to spare takes back that fewer missed it. What just met it takes nothing back:
/// at the limit one measurement meets the objective and the next one misses it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConcurrencyLimits {
    /// The last measurement of each level. All that met the objective are below all that missed it.
    levels: BTreeMap<usize, Measured>,
}

impl ConcurrencyLimits {
    /// Takes a measurement.
    pub fn record(&mut self, measured: Measured) {
        let level = level(measured.concurrency);
        let mut missed = self.levels.range(..=level).map(|(_, known)| known);
        if measured.met && !measured.has_room && missed.any(|known| !known.met) {
            return;
        }
        self.levels.retain(|other, known| {
            known.met == measured.met
                || if known.met {
                    *other < level
                } else {
                    *other > level
                }
        });
        self.levels.insert(level, measured);
    }

    /// Forgets what has not been measured for long.
    pub fn expire(&mut self, now: Timestamp) {
        self.levels.retain(|_, measured| {
            // a clock that was set back leaves nothing in the future
            measured.at = measured.at.min(now);
            !measured.is_over(now)
        });
    }

    /// When something is next forgotten.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.levels.values().map(Measured::expires).min()
    }

    /// The measurement with the most requests that met the objective.
    pub fn highest_met(&self) -> Option<&Measured> {
        self.levels.values().rfind(|measured| measured.met)
    }

    /// The measurement with the fewest requests that missed it.
    pub fn lowest_missed(&self) -> Option<&Measured> {
        self.levels.values().find(|measured| !measured.met)
    }

    /// Whether so many requests on a replica are as many as have missed the objective.
    pub fn misses(&self, concurrency: Milli) -> bool {
        let missed = self.lowest_missed();
        missed.is_some_and(|missed| level(concurrency) >= level(missed.concurrency))
    }

    /// The requests on a replica with which the objective is expected to be met, one at least.
    ///
    /// Latency is taken to grow with the square of the requests at most: what met the objective with room
    /// to spare lets a replica have up to twice as many, as long as that has not missed it.
    pub fn limit(&self, objective_micros: u64) -> Milli {
        let met = self.highest_met().map_or(FEWEST, |met| {
            let room = objective_micros.saturating_mul(1_000_000) / met.p95.at_least().max(1);
            // the square root of millionths is in thousandths
            let factor = room.isqrt().clamp(1_000, 2_000);
            Milli(met.concurrency.0.saturating_mul(factor) / 1_000)
        });
        let missed = self.lowest_missed();
        let below = missed.map_or(u64::MAX, |missed| floor(level(missed.concurrency)) - 1);
        Milli(met.0.min(below)).max(FEWEST)
    }

    /// How many measurements are kept.
    pub fn len(&self) -> usize {
        self.levels.len()
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.levels.is_empty()
    }
}

/// The fewest requests of a level.
fn floor(level: usize) -> u64 {
    (0..level).fold(FEWEST.0, |requests, _| (requests * 5).div_ceil(4))
}

/// The level of so many requests on a replica. The lowest one has all that are fewer, the highest all that
/// are more.
fn level(concurrency: Milli) -> usize {
    let levels = (1..LEVELS).take_while(|level| floor(*level) <= concurrency.0);
    levels.count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + second).unwrap()
    }

    fn measured(concurrency: u64, p95_millis: u64, second: i64) -> Measured {
        let p95 = Percentile::Micros(p95_millis * 1_000);
        Measured::compare(Milli(concurrency), p95, 500_000, at(second)).unwrap()
    }

    /// What was learned of an objective of 500 ms.
    fn limits(all: &[(u64, u64)]) -> ConcurrencyLimits {
        let mut limits = ConcurrencyLimits::default();
        for (concurrency, p95) in all {
            limits.record(measured(*concurrency, *p95, 0));
        }
        limits
    }

    #[test]
    fn what_met_the_objective_is_allowed_and_up_to_twice_as_much_with_room_to_spare() {
        for (all, limit) in [
            (&[][..], 1_000),
            (&[(8_000, 500)], 8_000),
            // a quarter of the objective: twice as many would reach it
            (&[(8_000, 125)], 16_000),
            (&[(8_000, 1)], 16_000),
            (&[(8_000, 250)], 11_312),
            (&[(300, 100)], 1_000),
            // below the level that missed it, from 9.324 on
            (&[(8_000, 125), (10_000, 600)], 9_323),
            (&[(1_000, 700)], 1_000),
        ] {
            assert_eq!(limits(all).limit(500_000), Milli(limit), "{all:?}");
        }
    }

    #[test]
    fn newer_measurements_take_back_older_ones_that_contradict_them() {
        let learned = limits(&[(4_000, 300), (8_000, 400), (16_000, 900)]);
        assert!(learned.misses(Milli(16_000)) && !learned.misses(Milli(10_000)));
        // prompts are longer now
        let mut longer = learned.clone();
        longer.record(measured(6_000, 800, 10));
        assert_eq!(longer.highest_met().unwrap().concurrency, Milli(4_000));
        assert!(longer.misses(Milli(6_000)));
        // or shorter
        let mut shorter = learned.clone();
        shorter.record(measured(20_000, 300, 10));
        assert!(shorter.lowest_missed().is_none());
        // what just meets it may miss it the next time
        let mut same = learned.clone();
        same.record(measured(20_000, 499, 10));
        assert_eq!(same, learned);
    }

    #[test]
    fn what_missed_the_objective_is_tried_again_after_half_an_hour() {
        let mut learned = limits(&[(8_000, 400), (16_000, 900)]);
        assert_eq!(learned.next_expiry(), Some(at(1_800)));
        learned.expire(at(1_799));
        assert!(learned.misses(Milli(16_000)));
        learned.expire(at(1_800));
        assert!(!learned.misses(Milli(16_000)));
        assert_eq!(learned.highest_met().unwrap().concurrency, Milli(8_000));
        learned.expire(at(6 * 3_600));
        assert!(learned.is_empty());
    }

    proptest! {
        #[test]
        fn memory_is_bounded_and_what_met_is_below_what_missed(
            all in prop::collection::vec((0u64..1 << 40, 1u64..1_000), 0..300)
        ) {
            let learned = limits(&all);
            prop_assert!(learned.len() <= LEVELS);
            if let (Some(met), Some(missed)) = (learned.highest_met(), learned.lowest_missed()) {
                prop_assert!(met.concurrency < missed.concurrency);
            }
            let limit = learned.limit(500_000);
            prop_assert!(limit == FEWEST || !learned.misses(limit));
            let highest = learned.highest_met().map_or(FEWEST, |met| met.concurrency);
            prop_assert!(limit <= Milli(highest.0 * 2).max(FEWEST));
        }
    }
}
