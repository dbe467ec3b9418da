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
/// That so many requests missed the objective is believed for this long. After that it is tried again, and
/// if it misses once more, that is believed for twice as long, ...
const MISSED_COUNTS: SignedDuration = SignedDuration::from_mins(30);
/// ... up to so many times, and up to [`MET_COUNTS`].
const DOUBLINGS: u32 = 4;
/// How many times as much as has met the objective a replica may have at most, in thousandths.
const MOST_FACTOR: u64 = 2_000;
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

    fn expires(&self, counts: SignedDuration) -> Timestamp {
        self.at.saturating_add(counts).unwrap_or(self.at)
    }
}

/// The highest number of requests on a replica with which an objective was met, and the lowest with which
/// it was missed. Newer measurements win: what missed the objective takes back that more requests met it,
/// and what met it with room to spare takes back that fewer missed it. What just met it takes nothing back:
/// at the limit one measurement meets the objective and the next one misses it.
///
/// More than has met it is tried again and again, and a curve that is flat and then steep makes each try a
/// miss: the next one comes later each time. Misses with more requests are believed until those with
/// fewer are not, so that one level is tried at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConcurrencyLimits {
    /// The last measurement of each level. All that met the objective are below all that missed it.
    levels: BTreeMap<usize, Measured>,
    /// Where the objective was last missed, until more requests have met it.
    last_missed: Option<usize>,
    /// The level of a miss that is not believed any more: so many requests are tried again.
    tried_again: Option<usize>,
    /// How often such a try has missed the objective.
    missed_again: u32,
}

impl ConcurrencyLimits {
    /// Takes a measurement.
    pub fn record(&mut self, measured: Measured) {
        match measured.met {
            true => self.record_met(measured),
            false => self.record_missed(measured),
        }
    }

    fn record_met(&mut self, measured: Measured) {
        let level = level(measured.concurrency);
        let mut missed = self.levels.range(..=level).map(|(_, known)| known);
        if !measured.has_room && missed.any(|known| !known.met) {
            return;
        }
        self.levels
            .retain(|other, known| known.met || *other > level);
        self.levels.insert(level, measured);
        if self.last_missed.is_some_and(|missed| level > missed) {
            (self.last_missed, self.tried_again, self.missed_again) = Default::default();
        }
    }

    fn record_missed(&mut self, measured: Measured) {
        let measured_at = level(measured.concurrency);
        self.levels
            .retain(|other, known| !known.met || *other < measured_at);
        // a queue that has built up shows more requests than those that it took to build it up
        let met = self.levels.iter().rfind(|(_, known)| known.met);
        let level = met.map_or(measured_at, |(met, _)| measured_at.min(met + 1));
        self.levels.insert(level, measured);
        let tried_again = self.tried_again.take();
        if tried_again.is_some_and(|tried| tried.abs_diff(level) <= 1) {
            self.missed_again = (self.missed_again + 1).min(DOUBLINGS);
        }
        self.last_missed = Some(level);
    }

    /// How long a miss is believed.
    fn missed_counts(&self) -> SignedDuration {
        let counts = MISSED_COUNTS.saturating_mul(1 << self.missed_again);
        counts.min(MET_COUNTS)
    }

    /// Forgets what has not been measured for long.
    pub fn expire(&mut self, now: Timestamp) {
        self.levels.retain(|_, measured| {
            // a clock that was set back leaves nothing in the future
            measured.at = measured.at.min(now);
            !measured.met || measured.expires(MET_COUNTS) > now
        });
        let counts = self.missed_counts();
        if let Some((level, missed)) = self.first_missed()
            && missed.expires(counts) <= now
        {
            self.levels.remove(&level);
            self.tried_again = Some(level);
            // those with more requests have their whole time from now on
            let others = self.levels.values_mut().filter(|known| !known.met);
            others.for_each(|known| known.at = now);
        }
        if self.levels.is_empty() {
            *self = Self::default();
        }
    }

    /// When something is next forgotten.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        let met = self.levels.values().filter(|known| known.met);
        let met = met.map(|known| known.expires(MET_COUNTS));
        let missed = self.lowest_missed();
        let missed = missed.map(|missed| missed.expires(self.missed_counts()));
        met.chain(missed).min()
    }

    /// The lowest level that missed the objective, and what was measured there.
    fn first_missed(&self) -> Option<(usize, &Measured)> {
        let mut levels = self.levels.iter().map(|(level, known)| (*level, known));
        levels.find(|(_, known)| !known.met)
    }

    /// The measurement with the most requests that met the objective.
    pub fn highest_met(&self) -> Option<&Measured> {
        self.levels.values().rfind(|measured| measured.met)
    }

    /// The measurement with the fewest requests that missed it.
    pub fn lowest_missed(&self) -> Option<&Measured> {
        self.first_missed().map(|(_, missed)| missed)
    }

    /// Whether so many requests on a replica are as many as have missed the objective.
    pub fn misses(&self, concurrency: Milli) -> bool {
        let missed = self.first_missed();
        missed.is_some_and(|(missed, _)| level(concurrency) >= missed)
    }

    /// The requests on a replica with which the objective is expected to be met, one at least.
    ///
    /// Latency is taken to grow with the square of the requests at most: what met the objective with room
    /// to spare lets a replica have up to twice as many. Once more has missed it, it is half the way there
    /// at most, as a factor, and none of it if that is the next level.
    pub fn limit(&self, objective_micros: u64) -> Milli {
        let missed = self.first_missed().map(|(missed, _)| missed);
        let below = missed.map_or(u64::MAX, |missed| floor(missed) - 1);
        let met = self.highest_met().map_or(FEWEST, |met| {
            let room = objective_micros.saturating_mul(1_000_000) / met.p95.at_least().max(1);
            // the square root of millionths is in thousandths
            let factor = room.isqrt().clamp(1_000, MOST_FACTOR);
            let met_at = met.concurrency.0;
            let half_way = match missed {
                Some(missed) if missed == level(met.concurrency) + 1 => met_at,
                Some(missed) => met_at.saturating_mul(floor(missed)).isqrt(),
                None => u64::MAX,
            };
            Milli((met_at.saturating_mul(factor) / 1_000).min(half_way))
        });
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
            // the level above has missed it, or one that is further up
            (&[(8_000, 125), (10_000, 600)], 8_000),
            (&[(12_000, 600), (8_000, 125)], 9_656),
            (&[(1_000, 700)], 1_000),
        ] {
            assert_eq!(limits(all).limit(500_000), Milli(limit), "{all:?}");
        }
    }

    #[test]
    fn newer_measurements_take_back_older_ones_that_contradict_them() {
        let learned = limits(&[(4_000, 300), (8_000, 400), (16_000, 900)]);
        assert!(learned.misses(Milli(10_000)) && !learned.misses(Milli(9_000)));
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

    #[test]
    fn one_miss_shows_how_steep_a_curve_is() {
        // flat until five requests, and then beyond all bounds
        let learned = limits(&[(4_000, 50), (8_000, 20_000)]);
        assert_eq!(learned.limit(500_000), Milli(4_000));
    }

    /// How often an objective is missed within twelve hours by 40 requests at a time, with a latency that
    /// is flat until five of them are on a replica. Beyond that there are `queue` thousandths on each.
    fn misses_over_a_flat_curve(queue: impl Fn(u64) -> u64) -> usize {
        let mut learned = ConcurrencyLimits::default();
        let (mut replicas, mut misses) = (10, 0);
        for minute in 0..12 * 60 {
            let now = minute * 60;
            learned.expire(at(now));
            let each = 40_000 / replicas;
            if each <= 5_000 {
                learned.record(measured(each, 50, now));
                // a window for fewer replicas has passed
                replicas = 40_000_u64.div_ceil(learned.limit(500_000).0);
            } else {
                misses += 1;
                learned.record(measured(queue(each), 20_000, now));
                let met = learned.highest_met().map_or(FEWEST, |met| met.concurrency);
                replicas = 40_000_u64.div_ceil(met.0);
            }
        }
        misses
    }

    #[test]
    fn a_constant_load_misses_its_objective_ever_more_seldom() {
        // after half an hour, one, two and four, and then every six
        let closed = misses_over_a_flat_curve(|each| each);
        assert!((2..=7).contains(&closed), "{closed}");
        // requests that come whether others have ended or not build up a queue
        let open = misses_over_a_flat_curve(|each| each * 3);
        assert!((2..=7).contains(&open), "{open}");
    }

    #[test]
    fn what_missed_is_tried_again_one_level_at_a_time() {
        let mut learned = limits(&[(8_000, 900)]);
        learned.record(measured(5_000, 900, 60));
        learned.expire(at(1_860));
        assert!(!learned.misses(Milli(5_000)) && learned.misses(Milli(8_000)));
        learned.expire(at(1_860 + 1_799));
        assert!(learned.misses(Milli(8_000)));
        learned.expire(at(1_860 + 1_800));
        assert!(!learned.misses(Milli(8_000)));
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
