//! Histograms of latencies, as engines count them.

/// The most buckets of a histogram; engines have 25 at most.
pub const MOST_BUCKETS: usize = 64;
/// The bound of the last bucket: `+Inf`.
pub const UNBOUNDED: u64 = u64::MAX;

/// Values up to a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// The bound in microseconds; [`UNBOUNDED`] for all values.
    pub bound: u64,
    /// How many values are not above it.
    pub count: u64,
}

/// How many latencies are not above each of some bounds, as Prometheus' histograms count them. One
/// without buckets has counted nothing yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencyHistogram {
    /// By ascending bounds, counts ascending too, the last one [`UNBOUNDED`].
    buckets: Vec<Bucket>,
}

/// Why buckets are no histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistogramError {
    /// There are more of them than any engine has.
    #[error("it has more than {MOST_BUCKETS} buckets")]
    TooMany,
    /// How many values there are is not known.
    #[error("it has no bucket +Inf")]
    Unbounded,
}

/// The 95th percentile of latencies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Percentile {
    /// So many microseconds.
    Micros(u64),
    /// More microseconds than this, the last bound below `+Inf`.
    Above(u64),
}

impl Percentile {
    /// Whether it is at most so many microseconds; `None` if the histogram ends before it can tell.
    pub fn is_within(self, micros: u64) -> Option<bool> {
        match self {
            Self::Micros(value) => Some(value <= micros),
            Self::Above(bound) => (micros <= bound).then_some(false),
        }
    }

    /// The microseconds that it is at least.
    pub fn at_least(self) -> u64 {
        match self {
            Self::Micros(micros) | Self::Above(micros) => micros,
        }
    }
}

impl LatencyHistogram {
    /// A histogram of these buckets, in any order.
    ///
    /// # Errors
    /// There are too many, or there is none for all values.
    pub fn new(mut buckets: Vec<Bucket>) -> Result<Self, HistogramError> {
        if buckets.len() > MOST_BUCKETS {
            return Err(HistogramError::TooMany);
        }
        buckets.sort_by_key(|bucket| bucket.bound);
        if buckets.last().is_none_or(|last| last.bound != UNBOUNDED) {
            return Err(HistogramError::Unbounded);
        }
        // what is read while it is counted may miss a value below
        let mut most = 0;
        for bucket in &mut buckets {
            most = bucket.count.max(most);
            bucket.count = most;
        }
        Ok(Self { buckets })
    }

    /// How many values it has counted.
    pub fn count(&self) -> u64 {
        self.buckets.last().map_or(0, |last| last.count)
    }

    /// What it has counted since an earlier state of it; `None` if it has begun anew since, or was another
    /// one.
    pub fn since(&self, before: &Self) -> Option<Self> {
        if before.buckets.is_empty() {
            return Some(self.clone());
        }
        let is_same = self.buckets.len() == before.buckets.len();
        let pairs = self.buckets.iter().zip(&before.buckets);
        let further = pairs.map(|(now, before)| {
            let count = now.count.checked_sub(before.count);
            count
                .filter(|_| now.bound == before.bound)
                .map(|count| Bucket {
                    bound: now.bound,
                    count,
                })
        });
        let buckets = is_same.then(|| further.collect::<Option<Vec<_>>>())??;
        Self::new(buckets).ok()
    }

    /// Adds what another one has counted. Returns whether that could be done: values of other buckets are not
    /// compared.
    #[must_use]
    pub fn add(&mut self, other: &Self) -> bool {
        if other.buckets.is_empty() {
            return true;
        }
        if self.buckets.is_empty() {
            self.clone_from(other);
            return true;
        }
        let bounds = |histogram: &Self| {
            let bounds = histogram.buckets.iter().map(|bucket| bucket.bound);
            bounds.collect::<Vec<_>>()
        };
        if bounds(self) != bounds(other) {
            return false;
        }
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            bucket.count = bucket.count.saturating_add(more.count);
        }
        true
    }

    /// The 95th percentile, interpolated within its bucket as `histogram_quantile` of Prometheus does;
    /// `None` without values.
    ///
    /// <https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile>
    pub fn p95(&self) -> Option<Percentile> {
        let count = u128::from(self.count());
        // in hundredths of a value
        let rank = count * 95;
        let mut below = Bucket { bound: 0, count: 0 };
        for bucket in self.buckets.iter().filter(|_| count > 0) {
            if u128::from(bucket.count) * 100 < rank {
                below = *bucket;
                continue;
            }
            if bucket.bound == UNBOUNDED {
                return Some(Percentile::Above(below.bound));
            }
            let within = u128::from(bucket.count - below.count) * 100;
            let part = rank - u128::from(below.count) * 100;
            let width = u128::from(bucket.bound - below.bound);
            let more = width * part / within.max(1);
            let micros = u128::from(below.bound) + more;
            return Some(Percentile::Micros(
                u64::try_from(micros).unwrap_or(UNBOUNDED),
            ));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A histogram with bounds at 100 ms, 500 ms and 1 s.
    fn histogram(counts: [u64; 4]) -> LatencyHistogram {
        let bounds = [100_000, 500_000, 1_000_000, UNBOUNDED];
        let buckets = bounds.into_iter().zip(counts);
        LatencyHistogram::new(
            buckets
                .map(|(bound, count)| Bucket { bound, count })
                .collect(),
        )
        .unwrap()
    }

    #[test]
    fn the_percentile_is_interpolated_and_nothing_is_made_up_beyond_the_last_bound() {
        for (counts, p95) in [
            ([0, 0, 0, 0], None),
            ([100, 100, 100, 100], Some(Percentile::Micros(95_000))),
            ([90, 100, 100, 100], Some(Percentile::Micros(300_000))),
            ([0, 95, 100, 100], Some(Percentile::Micros(500_000))),
            ([0, 0, 94, 100], Some(Percentile::Above(1_000_000))),
            ([0, 0, 0, 1], Some(Percentile::Above(1_000_000))),
        ] {
            assert_eq!(histogram(counts).p95(), p95, "{counts:?}");
        }
        assert_eq!(LatencyHistogram::default().p95(), None);
        let above = Percentile::Above(1_000_000);
        assert_eq!(above.is_within(1_000_000), Some(false));
        assert_eq!(
            above.is_within(2_000_000),
            None,
            "it may be 1.5 s or an hour"
        );
    }

    #[test]
    fn what_was_counted_between_two_reads_leaves_out_engines_that_began_anew() {
        let before = histogram([1, 2, 3, 4]);
        let after = histogram([1, 4, 6, 9]);
        assert_eq!(after.since(&before), Some(histogram([0, 2, 3, 5])));
        assert_eq!(
            before.since(&after),
            None,
            "counts that went back are another start"
        );
        let none = LatencyHistogram::default();
        assert_eq!(
            after.since(&none),
            Some(after.clone()),
            "its first values show it"
        );
        let other = LatencyHistogram::new(vec![Bucket {
            bound: UNBOUNDED,
            count: 9,
        }])
        .unwrap();
        assert_eq!(other.since(&before), None, "another version");
    }

    #[test]
    fn replicas_add_up_and_bounds_of_another_version_are_not_mixed() {
        let mut sum = LatencyHistogram::default();
        assert!(sum.add(&histogram([1, 2, 3, 4])));
        assert!(sum.add(&histogram([1, 1, 1, 1])));
        assert!(sum.add(&LatencyHistogram::default()));
        assert_eq!(sum, histogram([2, 3, 4, 5]));
        let other = LatencyHistogram::new(vec![Bucket {
            bound: UNBOUNDED,
            count: 9,
        }])
        .unwrap();
        assert!(!sum.add(&other));
        assert_eq!(sum, histogram([2, 3, 4, 5]));
    }

    #[test]
    fn what_no_engine_has_is_refused() {
        let buckets = |count: u64| {
            (0..count)
                .map(|bound| Bucket { bound, count: 1 })
                .chain([Bucket {
                    bound: UNBOUNDED,
                    count: 1,
                }])
                .collect::<Vec<_>>()
        };
        assert_eq!(
            LatencyHistogram::new(buckets(64)),
            Err(HistogramError::TooMany)
        );
        assert!(LatencyHistogram::new(buckets(63)).is_ok());
        let half = vec![Bucket { bound: 1, count: 1 }];
        assert_eq!(LatencyHistogram::new(half), Err(HistogramError::Unbounded));
    }

    proptest! {
        /// The percentile is in the bucket in which the 95th of a hundred values is.
        #[test]
        fn the_percentile_is_in_the_bucket_of_its_value(more in prop::collection::vec(0u64..1_000, 4)) {
            let mut sum = 0;
            let counts = [0, 1, 2, 3].map(|index: usize| {
                sum += more[index];
                sum
            });
            let histogram = histogram(counts);
            let rank = sum * 95;
            match histogram.p95() {
                None => prop_assert_eq!(sum, 0),
                Some(Percentile::Above(_)) => prop_assert!(counts[2] * 100 < rank),
                Some(Percentile::Micros(micros)) => {
                    let bounds = [100_000, 500_000, 1_000_000];
                    let bucket = counts.iter().position(|count| count * 100 >= rank).unwrap();
                    let below = if bucket == 0 { 0 } else { bounds[bucket - 1] };
                    prop_assert!((below..=bounds[bucket]).contains(&micros));
                }
            }
        }
    }
}
