//! Replicas that hold a latency objective.
//!
//! How latency grows with load is not known before it is measured: it depends on the model, the GPU and the
//! prompts. What is known of it is learned as pairs of requests on a replica and the 95th percentile that
//! goes with them ([`ConcurrencyLimits`]). The rule, with `n` replicas that serve `N` requests, `K` requests
//! on a replica with which the objective is expected to be met, and `p` of the objective `L`:
//!
//! | requests on a replica, `N / n` | replicas |
//! |---|---|
//! | as many as have missed the objective, and the last measurement missed it too | `ceil(N / K)` where some number has met it, else `ceil(n * p / L)`; one more at least, twice as many at most |
//! | as many, but the last measurement did not miss it | as many as there are |
//! | fewer, or nothing has missed it | `ceil(N / K)`, and no more than there are |
//!
//! There is never more than a replica for each request that there was at a time: a request that is alone
//! misses the objective with any number of replicas. A miss takes no replica away. Replicas that start change
//! nothing of it before they serve, so orders do not add up, and once they serve there are no more before it
//! was measured with them: requests that have waited for them still are where they were.
//!
//! Where nothing was learned, and too few requests come to learn anything, other signals decide alone: a
//! guess of one request on a replica would keep for ever what a peak has ordered.

mod histogram;
mod limits;

use std::fmt;

use jiff::{SignedDuration, Timestamp};

pub use histogram::{
    Bucket, HistogramError, LatencyHistogram, MOST_BUCKETS, Percentile, UNBOUNDED,
};
pub use limits::{ConcurrencyLimits, Measured};

use super::milli::Milli;

/// A latency that engines measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LatencyMeasure {
    /// From the arrival of a request at the engine to its first token.
    TimeToFirstToken,
    /// From one token of a request to the next.
    InterToken,
}

/// The requests that some replicas have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaLoad {
    /// Requests that wait and run on them, as a mean of those of the last seconds in which there were
    /// any: latencies are of these.
    pub requests: Milli,
    /// The most that there were at a time within these seconds.
    pub peak: u64,
    /// Replicas that serve.
    pub serving: u32,
}

impl ReplicaLoad {
    /// Requests on a replica.
    pub fn concurrency(self) -> Milli {
        Milli(self.requests.0 / u64::from(self.serving.max(1)))
    }

    /// A replica for each request that there was at a time.
    fn one_each(self) -> u32 {
        let peak = u32::try_from(self.peak).unwrap_or(u32::MAX);
        self.replicas_with(Milli::from_units(1)).max(peak)
    }

    /// The replicas with so many requests each.
    fn replicas_with(self, concurrency: Milli) -> u32 {
        let replicas = self.requests.0.div_ceil(concurrency.0.max(1));
        u32::try_from(replicas).unwrap_or(u32::MAX)
    }
}

/// Why a latency objective asks for the replicas that it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencyReason {
    /// No replica serves.
    NotServing,
    /// Replicas serve, and how many requests they have is not known.
    LoadUnknown,
    /// The replicas have no more requests than are expected to be within the objective.
    Expected,
    /// More requests than have met it are on them, and so many have not missed it yet, or not with these
    /// replicas.
    Untried,
    /// Nothing is known of it, and other signals say how many replicas there should be.
    NoOpinion,
    /// So many requests have missed it, and fewer have met it.
    Missed,
    /// So many requests have missed it, and no number has met it yet.
    NeverMet,
    /// It is missed with one request on a replica: more replicas change nothing.
    Unattainable,
}

/// A 95th percentile, and the end of the time in which it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeasuredPercentile {
    /// The latency.
    pub p95: Percentile,
    /// When that time ended.
    pub at: Timestamp,
}

/// Why no percentile is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmeasured {
    /// The first measurement goes on.
    NotYet,
    /// Another replica has begun to serve, which changes latencies.
    Settling,
    /// Pods of two templates serve.
    Rollout,
    /// Replicas count in buckets of different bounds.
    OtherBuckets,
    /// Fewer than 20 values came in two minutes.
    TooFew,
}

impl fmt::Display for Unmeasured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotYet => "not measured yet",
            Self::Settling => {
                "not measured until half a minute after another replica has begun to serve"
            }
            Self::Rollout => "not measured during a rollout",
            Self::OtherBuckets => "not measured: replicas count in different buckets",
            Self::TooFew => "of too few requests",
        })
    }
}

/// The replicas that a latency objective asks for, and what they follow from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencyDemand {
    /// The 95th percentile is to be at most so long.
    pub objective: SignedDuration,
    /// What was last measured with the replicas that serve, or why nothing was.
    pub measured: Result<MeasuredPercentile, Unmeasured>,
    /// What replicas have now.
    pub load: ReplicaLoad,
    /// Requests on a replica with which the objective is expected to be met.
    pub limit: Milli,
    /// How many replicas.
    pub replicas: u32,
    /// Why.
    pub reason: LatencyReason,
}

impl LatencyDemand {
    /// What an objective asks for, by what was learned of it. `current` is how many replicas there are,
    /// those that start included; `last` is what was last measured since the last of them began to
    /// serve.
    pub fn new(
        objective: SignedDuration,
        learned: &ConcurrencyLimits,
        load: ReplicaLoad,
        current: u32,
        last: Option<&Measured>,
    ) -> Self {
        let micros = micros(objective);
        let limit = learned.limit(micros);
        let (replicas, reason) = match learned.misses(load.concurrency()) {
            _ if load.serving == 0 => (0, LatencyReason::NotServing),
            true => after_miss(micros, learned, load, current, last),
            false => match load.replicas_with(limit) {
                enough if enough <= current => (enough, LatencyReason::Expected),
                _ => (current, LatencyReason::Untried),
            },
        };
        Self {
            objective,
            measured: Err(Unmeasured::NotYet),
            load,
            limit,
            replicas,
            reason,
        }
    }

    /// Why it cannot be told whether the objective is met, if it cannot.
    pub(crate) fn unverifiable(&self) -> Option<String> {
        let p95 = self.measured.ok()?.p95;
        let ends = SignedDuration::from_micros(i64::try_from(p95.at_least()).unwrap_or(i64::MAX));
        let is_known = p95.is_within(micros(self.objective)).is_some();
        (!is_known).then(|| {
            format!(
                "the engine's histogram ends at {} s, and the 95th percentile is above it: whether it is within the objective is not known",
                ends.as_secs_f64()
            )
        })
    }

    /// Leaves the replicas to other signals, since nothing is known of the latency.
    pub(crate) fn abstain(&mut self) {
        (self.replicas, self.reason) = (0, LatencyReason::NoOpinion);
    }

    /// What an objective asks for while replicas serve whose requests are not known: as many as there are.
    pub fn of_unknown_load(
        objective: SignedDuration,
        learned: &ConcurrencyLimits,
        current: u32,
    ) -> Self {
        Self {
            objective,
            measured: Err(Unmeasured::NotYet),
            load: ReplicaLoad::default(),
            limit: learned.limit(micros(objective)),
            replicas: current,
            reason: LatencyReason::LoadUnknown,
        }
    }
}

/// Microseconds of a duration.
pub(crate) fn micros(duration: SignedDuration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(0)
}

/// What is asked for with as many requests on a replica as have missed the objective.
fn after_miss(
    objective: u64,
    learned: &ConcurrencyLimits,
    load: ReplicaLoad,
    current: u32,
    last: Option<&Measured>,
) -> (u32, LatencyReason) {
    let most = load.one_each();
    let missed = match last {
        Some(last) if last.met => return (current, LatencyReason::Untried),
        Some(last) => last,
        None if most <= load.serving => return (most.min(current), LatencyReason::Unattainable),
        None => return (current, LatencyReason::Untried),
    };
    if most <= load.serving {
        return (current, LatencyReason::Unattainable);
    }
    let (asked, reason) = match learned.highest_met() {
        Some(met) => (
            load.replicas_with(met.concurrency.max(Milli::from_units(1))),
            LatencyReason::Missed,
        ),
        None => {
            let in_proportion = u128::from(load.serving) * u128::from(missed.p95.at_least());
            let replicas = in_proportion.div_ceil(u128::from(objective.max(1)));
            (
                u32::try_from(replicas).unwrap_or(u32::MAX),
                LatencyReason::NeverMet,
            )
        }
    };
    let (least, twice) = (
        load.serving.saturating_add(1),
        load.serving.saturating_mul(2),
    );
    // those that serve are fewer than there are where some start, or do not tell their requests
    (asked.clamp(least, twice).min(most).max(current), reason)
}

impl fmt::Display for LatencyDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = |amount: Milli| Milli((amount.0 + 50) / 100 * 100);
        let (each, limit) = (tenths(self.load.concurrency()), tenths(self.limit));
        match self.reason {
            LatencyReason::NotServing => write!(f, "no replica serves"),
            LatencyReason::NoOpinion => {
                write!(f, "nothing is known of it, so other signals decide")
            }
            LatencyReason::LoadUnknown => {
                write!(f, "how many requests the replicas have is not known")
            }
            LatencyReason::Expected | LatencyReason::Untried => {
                write!(
                    f,
                    "{each} requests a replica, {limit} are expected to meet it"
                )
            }
            LatencyReason::Missed => {
                write!(
                    f,
                    "{each} requests a replica have missed it, {limit} are expected to meet it"
                )
            }
            LatencyReason::NeverMet => {
                write!(
                    f,
                    "{each} requests a replica have missed it, and no number has met it yet"
                )
            }
            LatencyReason::Unattainable => {
                write!(
                    f,
                    "not met at one request a replica: more replicas change nothing"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OBJECTIVE: SignedDuration = SignedDuration::from_millis(500);

    /// What was learned of pairs of requests on a replica, in thousandths, and milliseconds.
    fn learned(all: &[(u64, u64)]) -> ConcurrencyLimits {
        let mut limits = ConcurrencyLimits::default();
        for (concurrency, millis) in all {
            let p95 = Percentile::Micros(millis * 1_000);
            let at = Timestamp::UNIX_EPOCH;
            limits.record(Measured::compare(Milli(*concurrency), p95, 500_000, at).unwrap());
        }
        limits
    }

    fn asked(
        all: &[(u64, u64)],
        requests: u64,
        serving: u32,
        current: u32,
    ) -> (u32, LatencyReason) {
        let load = ReplicaLoad {
            requests: Milli(requests * 1_000),
            peak: requests,
            serving,
        };
        let learned = learned(all);
        let last = learned.lowest_missed();
        let demand = LatencyDemand::new(OBJECTIVE, &learned, load, current, last);
        (demand.replicas, demand.reason)
    }

    #[test]
    fn before_anything_is_learned_replicas_stay_while_each_has_a_request() {
        assert_eq!(asked(&[], 40, 4, 4), (4, LatencyReason::Untried));
        assert_eq!(asked(&[], 3, 4, 4), (3, LatencyReason::Expected));
        assert_eq!(asked(&[], 0, 4, 4), (0, LatencyReason::Expected));
        assert_eq!(asked(&[], 40, 0, 1), (0, LatencyReason::NotServing));
    }

    #[test]
    fn what_misses_the_objective_grows_in_proportion_until_a_number_is_known_that_meets_it() {
        // 700 ms instead of 500: 4 * 1.4
        assert_eq!(
            asked(&[(10_000, 700)], 40, 4, 4),
            (6, LatencyReason::NeverMet)
        );
        assert_eq!(
            asked(&[(10_000, 501)], 40, 4, 4),
            (5, LatencyReason::NeverMet)
        );
        assert_eq!(
            asked(&[(10_000, 9_000)], 40, 4, 4),
            (8, LatencyReason::NeverMet)
        );
        // while the others start, nothing adds up
        assert_eq!(
            asked(&[(10_000, 9_000)], 40, 4, 8),
            (8, LatencyReason::NeverMet)
        );
        let known = [(10_000, 700), (6_000, 400)];
        assert_eq!(asked(&known, 40, 4, 4), (7, LatencyReason::Missed));
    }

    #[test]
    fn nothing_is_added_before_it_was_measured_with_the_replicas_that_there_are() {
        let load = ReplicaLoad {
            requests: Milli(40_000),
            peak: 40,
            serving: 4,
        };
        let learned = learned(&[(10_000, 9_000)]);
        let demand = |current| LatencyDemand::new(OBJECTIVE, &learned, load, current, None);
        assert_eq!((demand(4).replicas, demand(6).replicas), (4, 6));
        assert_eq!(demand(4).reason, LatencyReason::Untried);
    }

    #[test]
    fn fewer_replicas_have_no_more_requests_than_have_met_the_objective() {
        assert_eq!(
            asked(&[(8_000, 480)], 20, 4, 4),
            (3, LatencyReason::Expected)
        );
        assert_eq!(
            asked(&[(8_000, 480)], 25, 4, 4),
            (4, LatencyReason::Expected)
        );
        assert_eq!(
            asked(&[(8_000, 480)], 40, 4, 4),
            (4, LatencyReason::Untried)
        );
    }

    #[test]
    fn an_objective_that_no_number_of_replicas_meets_asks_for_no_more_than_one_for_each_request() {
        assert_eq!(
            asked(&[(3_000, 9_000)], 12, 4, 4),
            (8, LatencyReason::NeverMet)
        );
        let hopeless = [(3_000, 9_000), (1_000, 9_000)];
        assert_eq!(asked(&hopeless, 12, 8, 8), (12, LatencyReason::NeverMet));
        assert_eq!(
            asked(&hopeless, 12, 12, 12),
            (12, LatencyReason::Unattainable)
        );
        // a miss takes none away, and none of them is needed once it is not missed any more
        assert_eq!(
            asked(&hopeless, 5, 12, 12),
            (12, LatencyReason::Unattainable)
        );
        let load = ReplicaLoad {
            requests: Milli(5_000),
            peak: 5,
            serving: 12,
        };
        let demand = LatencyDemand::new(OBJECTIVE, &learned(&hopeless), load, 12, None);
        assert_eq!(demand.replicas, 5);
    }

    #[test]
    fn a_miss_takes_no_replica_away_that_starts_or_whose_requests_are_not_known() {
        let learned = [(3_000, 400), (10_000, 900)];
        assert_eq!(asked(&learned, 20, 2, 4), (4, LatencyReason::Missed));
        assert_eq!(asked(&learned, 20, 2, 3), (4, LatencyReason::Missed));
        assert_eq!(asked(&learned, 7, 2, 6), (6, LatencyReason::Missed));
    }

    #[test]
    fn a_miss_takes_no_replica_away_from_requests_that_come_at_the_same_time() {
        let learned = learned(&[(500, 900)]);
        let load = ReplicaLoad {
            requests: Milli(4_000),
            peak: 40,
            serving: 8,
        };
        let last = learned.lowest_missed();
        let demand = LatencyDemand::new(OBJECTIVE, &learned, load, 8, last);
        assert!(demand.replicas > 8, "{demand:?}");
    }

    proptest! {
        /// Whatever was measured: growth is bounded by the requests and by twice the replicas that serve, and
        /// nothing shrinks below what has met the objective, or up to twice that with room to spare.
        #[test]
        fn growth_and_shrinking_are_bounded_whatever_was_measured(
            all in prop::collection::vec((0u64..100_000, 1u64..5_000), 0..60),
            (requests, serving, starting) in (0u64..2_000, 1u32..200, 0u32..50),
        ) {
            let limits = learned(&all);
            let load = ReplicaLoad { requests: Milli(requests * 1_000), peak: requests, serving };
            let current = serving + starting;
            let demand = LatencyDemand::new(OBJECTIVE, &limits, load, current, limits.lowest_missed());
            let each = u32::try_from(requests).unwrap();
            prop_assert!(demand.replicas <= current.max(each));
            prop_assert!(demand.replicas <= current.max(serving * 2));
            if demand.replicas < current.min(each) {
                let met = limits.highest_met().map_or(1_000, |met| met.concurrency.0.max(1_000));
                let after = requests * 1_000 / u64::from(demand.replicas.max(1));
                prop_assert!(after <= met * 2 + 1 || demand.replicas > serving, "{demand:?}");
            }
            // orders do not add up: it asks for as much while they start
            let grown = current.max(demand.replicas);
            if demand.replicas >= current {
                let again = LatencyDemand::new(OBJECTIVE, &limits, load, grown, limits.lowest_missed());
                prop_assert!(again.replicas <= grown);
                prop_assert!(again.replicas >= demand.replicas.min(grown));
            }
        }
    }
}
