//! What is learned of how latencies follow the requests on replicas.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::scaling::{
    ConcurrencyLimits, LatencyDemand, LatencyHistogram, LatencyMeasure, Measured,
    MeasuredPercentile, Milli, Unmeasured, micros,
};

use super::event::Name;
use super::load_history::{LoadHistory, LoadNow, Segment};

/// A percentile is of so long at least, ...
const WINDOW: SignedDuration = SignedDuration::from_secs(30);
/// ... of so many values at least, which is one above the 95th percentile, ...
const FEWEST_VALUES: u64 = 20;
/// ... and of no longer than this: fewer values in it tell nothing.
const LONGEST_WINDOW: SignedDuration = SignedDuration::from_mins(2);
/// After further replicas have begun to serve, requests that waited before they did still show: so long
/// nothing is measured.
const SETTLES: SignedDuration = SignedDuration::from_secs(30);

/// What was measured since a time.
#[derive(Clone, Debug, PartialEq)]
struct Window {
    from: Timestamp,
    latencies: LatencyHistogram,
    /// Replicas have counted in buckets of different bounds.
    is_mixed: bool,
    request_millis: u128,
    /// Of replicas, while there were requests.
    replica_millis: u128,
}

impl Window {
    fn new(from: Timestamp) -> Self {
        Self {
            from,
            latencies: LatencyHistogram::default(),
            is_mixed: false,
            request_millis: 0,
            replica_millis: 0,
        }
    }

    fn add_load(&mut self, segment: Segment) {
        let segment = Segment {
            from: segment.from.max(self.from),
            ..segment
        };
        let passed = u128::try_from(segment.millis()).unwrap_or(0);
        if segment.load.requests > 0 {
            self.request_millis += u128::from(segment.load.requests) * passed;
            self.replica_millis += u128::from(segment.load.serving) * passed;
        }
    }

    /// Requests on a replica, as a mean of the time in which there were any.
    fn concurrency(&self) -> Milli {
        let mean = self.request_millis * 1000 / self.replica_millis.max(1);
        Milli(u64::try_from(mean).unwrap_or(u64::MAX))
    }
}

/// Which replicas serve, or have served and are still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Serving {
    None,
    /// Those that did before, or the first ones.
    Same,
    /// Another one has begun to.
    Further,
}

/// What is learned of one latency.
#[derive(Clone, Debug, PartialEq)]
struct LearnedLatency {
    objective: SignedDuration,
    limits: ConcurrencyLimits,
    window: Option<Window>,
    /// That of the last window; `None` if it had too few values.
    p95: Option<MeasuredPercentile>,
    /// The same with what goes with it; `None` if it cannot be told whether the objective was met.
    last: Option<Measured>,
    /// Why the last window ended without it, if it did.
    gave_up: Option<Unmeasured>,
    /// The window begins later: another replica has begun to serve.
    settles: bool,
}

impl LearnedLatency {
    fn new(objective: SignedDuration) -> Self {
        Self {
            objective,
            limits: ConcurrencyLimits::default(),
            window: None,
            p95: None,
            last: None,
            gave_up: None,
            settles: false,
        }
    }

    /// What was last measured, or why nothing was.
    fn measured(&self) -> Result<MeasuredPercentile, Unmeasured> {
        self.p95.ok_or(match self.gave_up {
            _ if self.settles => Unmeasured::Settling,
            Some(why) => why,
            None => Unmeasured::NotYet,
        })
    }

    /// Whether nothing is known of it, and the last window has ended without a measurement.
    fn has_no_opinion(&self) -> bool {
        self.gave_up.is_some() && self.limits.is_empty()
    }

    /// When the window ends with the values that it has. A further one without values changes nothing.
    fn window_ends(&self) -> Option<Timestamp> {
        let window = self.window.as_ref()?;
        let lasts = match window.latencies.count() {
            FEWEST_VALUES.. if !window.is_mixed => WINDOW,
            _ if self.p95.is_some() || self.gave_up.is_none() => LONGEST_WINDOW,
            _ => return None,
        };
        window.from.checked_add(lasts).ok()
    }

    fn observe(&mut self, segment: Option<Segment>, serving: Serving, now: Timestamp) {
        self.limits.expire(now);
        if serving == Serving::None {
            (self.window, self.p95, self.last) = (None, None, None);
            self.gave_up = None;
            return;
        }
        // the clock may have been set back
        let is_over = |window: &Window| window.from.duration_since(now) > SETTLES;
        let from = match serving {
            Serving::Further => Some(now.saturating_add(SETTLES).unwrap_or(now)),
            _ if self.window.as_ref().is_none_or(is_over) => Some(now),
            _ => None,
        };
        if let Some(from) = from {
            (self.window, self.p95, self.last) = (Some(Window::new(from)), None, None);
        }
        let Some(window) = &mut self.window else {
            return;
        };
        self.settles = window.from > now;
        if let Some(segment) = segment.filter(|segment| segment.to > window.from) {
            window.add_load(segment);
        }
        let age = now.duration_since(window.from);
        let has_enough = window.latencies.count() >= FEWEST_VALUES;
        if age >= WINDOW && has_enough && !window.is_mixed {
            let p95 = window.latencies.p95();
            self.p95 = p95.map(|p95| MeasuredPercentile { p95, at: now });
            self.gave_up = None;
            let objective = micros(self.objective);
            let concurrency = window.concurrency();
            self.last = p95.and_then(|p95| Measured::compare(concurrency, p95, objective, now));
            if let Some(measured) = self.last {
                self.limits.record(measured);
            }
            self.window = Some(Window::new(now));
        } else if age >= LONGEST_WINDOW {
            (self.p95, self.last) = (None, None);
            self.gave_up = Some(match window.is_mixed {
                true => Unmeasured::OtherBuckets,
                false => Unmeasured::TooFew,
            });
            self.window = Some(Window::new(now));
        }
    }
}

/// Whether a replica serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplicaState {
    /// It takes requests.
    Serves,
    /// It does not, or not at the moment.
    Unready,
    /// Its engine has ended: what it will be is another one.
    Crashed,
}

/// What is learned of the latencies of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LearnedLatencies {
    load: LoadHistory,
    /// The replicas that have served and are still there, by their UIDs.
    served: BTreeSet<Name>,
    latencies: BTreeMap<LatencyMeasure, LearnedLatency>,
}

impl LearnedLatencies {
    /// Takes which latencies have an objective. What was learned with another objective is forgotten.
    pub(crate) fn set_objectives(
        &mut self,
        objectives: impl IntoIterator<Item = (LatencyMeasure, SignedDuration)>,
    ) {
        let mut known = std::mem::take(&mut self.latencies);
        self.latencies = objectives
            .into_iter()
            .map(|(measure, objective)| {
                let known = known.remove(&measure);
                let known = known.filter(|known| known.objective == objective);
                let learned = known.unwrap_or_else(|| LearnedLatency::new(objective));
                (measure, learned)
            })
            .collect();
        if self.latencies.is_empty() {
            (self.load, self.served) = Default::default();
        }
    }

    /// Forgets what was measured: other replicas take the place of those.
    pub(crate) fn forget(&mut self) {
        for learned in self.latencies.values_mut() {
            *learned = LearnedLatency::new(learned.objective);
        }
    }

    /// Takes what a replica has counted between two reads.
    pub(crate) fn add(
        &mut self,
        measure: LatencyMeasure,
        counted: &LatencyHistogram,
        now: Timestamp,
    ) {
        let learned = self.latencies.get_mut(&measure);
        let window = learned.and_then(|learned| learned.window.as_mut());
        if let Some(window) = window.filter(|window| window.from <= now) {
            window.is_mixed |= !window.latencies.add(counted);
        }
    }

    /// Takes the requests on replicas from now on, `None` while they are not known, and whether each of its
    /// replicas serves.
    pub(crate) fn observe<'a>(
        &mut self,
        load: Option<LoadNow>,
        replicas: impl IntoIterator<Item = (&'a Name, ReplicaState)>,
        now: Timestamp,
    ) {
        if self.latencies.is_empty() {
            return;
        }
        let serving = self.observe_replicas(replicas);
        let segment = self.load.observe(load, now);
        for learned in self.latencies.values_mut() {
            learned.observe(segment, serving, now);
        }
    }

    /// One that cannot be read, or is not ready for a while, has not begun to serve when that is over: else
    /// an overload, which makes reads and probes time out, would keep itself from being measured.
    fn observe_replicas<'a>(
        &mut self,
        replicas: impl IntoIterator<Item = (&'a Name, ReplicaState)>,
    ) -> Serving {
        let before = std::mem::take(&mut self.served);
        let mut begins = false;
        for (uid, state) in replicas {
            let has_served = before.contains(uid);
            match state {
                ReplicaState::Serves => begins |= !has_served,
                ReplicaState::Unready if has_served => {}
                ReplicaState::Unready | ReplicaState::Crashed => continue,
            }
            self.served.insert(uid.clone());
        }
        match (self.served.is_empty(), before.is_empty()) {
            (true, _) => Serving::None,
            (false, false) if begins => Serving::Further,
            (false, _) => Serving::Same,
        }
    }

    /// What an objective asks for, where there are so many replicas.
    pub(crate) fn demand(&self, measure: LatencyMeasure, current: u32) -> Option<LatencyDemand> {
        let learned = self.latencies.get(&measure)?;
        let (objective, limits) = (learned.objective, &learned.limits);
        let demand = match self.load.load() {
            Some(load) => {
                LatencyDemand::new(objective, limits, load, current, learned.last.as_ref())
            }
            None => LatencyDemand::of_unknown_load(objective, limits, current),
        };
        Some(LatencyDemand {
            measured: learned.measured(),
            ..demand
        })
    }

    /// Whether nothing is known of a latency, and what comes is too little to learn anything, or cannot be
    /// compared: other signals know better then.
    pub(crate) fn has_no_opinion(&self, measure: LatencyMeasure) -> bool {
        let learned = self.latencies.get(&measure);
        learned.is_some_and(LearnedLatency::has_no_opinion)
    }

    /// When what they ask for may change though nothing happens.
    pub(crate) fn changes_at(&self) -> Option<Timestamp> {
        let learned = self.latencies.values();
        let forgotten = learned.filter_map(|learned| learned.limits.next_expiry());
        let ends = self
            .latencies
            .values()
            .filter_map(LearnedLatency::window_ends);
        let load = self
            .load
            .changes_at()
            .filter(|_| !self.latencies.is_empty());
        load.into_iter().chain(forgotten).chain(ends).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::{Bucket, LatencyReason, Percentile, UNBOUNDED};

    const TTFT: LatencyMeasure = LatencyMeasure::TimeToFirstToken;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_796_000_000_000 + millis).unwrap()
    }

    /// So many values, all within 100 ms or all between that and a second.
    fn counted(values: u64, fast: bool) -> LatencyHistogram {
        let buckets = [(100_000, fast), (1_000_000, true), (UNBOUNDED, true)];
        let buckets = buckets.map(|(bound, counts)| Bucket {
            bound,
            count: if counts { values } else { 0 },
        });
        LatencyHistogram::new(buckets.to_vec()).unwrap()
    }

    fn learning() -> LearnedLatencies {
        let mut learned = LearnedLatencies::default();
        learned.set_objectives([(TTFT, SignedDuration::from_millis(500))]);
        learned
    }

    /// Lets a load go on for so many seconds, in each of which that many values are counted.
    fn run(
        learned: &mut LearnedLatencies,
        seconds: std::ops::Range<i64>,
        (requests, serving): (u64, u32),
        (values, fast): (u64, bool),
    ) {
        for second in seconds {
            let now = at(second * 1_000);
            if values > 0 {
                learned.add(TTFT, &counted(values, fast), now);
            }
            observe(learned, (requests, serving), now);
        }
    }

    /// So many requests on the first ones of some replicas.
    fn observe(learned: &mut LearnedLatencies, (requests, serving): (u64, u32), now: Timestamp) {
        let names: Vec<Name> = (0..serving).map(|nth| nth.to_string().into()).collect();
        let replicas = names.iter().map(|uid| (uid, ReplicaState::Serves));
        learned.observe(Some(LoadNow { requests, serving }), replicas, now);
    }

    fn asked(learned: &LearnedLatencies, current: u32) -> (u32, LatencyReason) {
        let demand = learned.demand(TTFT, current).unwrap();
        (demand.replicas, demand.reason)
    }

    #[test]
    fn a_window_of_half_a_minute_with_twenty_values_is_a_measurement() {
        let mut learned = learning();
        run(&mut learned, 0..30, (20, 2), (1, false));
        assert_eq!(asked(&learned, 2), (2, LatencyReason::Untried));
        run(&mut learned, 30..32, (20, 2), (1, false));
        // 955 ms instead of 500
        assert_eq!(asked(&learned, 2), (4, LatencyReason::NeverMet));
        let demand = learned.demand(TTFT, 2).unwrap();
        let (p95, at) = (Percentile::Micros(955_000), at(30_000));
        assert_eq!(demand.measured, Ok(MeasuredPercentile { p95, at }));
    }

    #[test]
    fn too_few_values_in_two_minutes_are_no_measurement() {
        let mut learned = learning();
        run(&mut learned, 0..121, (20, 2), (0, false));
        run(&mut learned, 121..130, (20, 2), (1, false));
        run(&mut learned, 130..300, (20, 2), (0, false));
        assert_eq!(asked(&learned, 2), (2, LatencyReason::Untried));
        let demand = learned.demand(TTFT, 2).unwrap();
        assert_eq!(demand.measured, Err(Unmeasured::TooFew));
    }

    #[test]
    fn nothing_is_measured_while_requests_that_waited_for_new_replicas_still_show() {
        let mut learned = learning();
        run(&mut learned, 0..32, (20, 2), (1, false));
        assert_eq!(asked(&learned, 2).0, 4);
        // two more serve, and what has waited is slow
        run(&mut learned, 32..33, (20, 4), (5, false));
        let demand = learned.demand(TTFT, 4).unwrap();
        assert_eq!(demand.measured, Err(Unmeasured::Settling));
        run(&mut learned, 33..63, (20, 4), (5, false));
        assert_eq!(asked(&learned, 4), (4, LatencyReason::Untried));
        let demand = learned.demand(TTFT, 4).unwrap();
        assert_eq!(demand.measured, Err(Unmeasured::NotYet));
        run(&mut learned, 63..95, (20, 4), (5, true));
        let (replicas, reason) = asked(&learned, 4);
        assert_eq!((replicas, reason), (3, LatencyReason::Expected));
    }

    /// So many values of which some are within 100 ms and the others between that and a second.
    fn mixed(fast: u64, all: u64) -> LatencyHistogram {
        let buckets = [(100_000, fast), (1_000_000, all), (UNBOUNDED, all)];
        let buckets = buckets.map(|(bound, count)| Bucket { bound, count });
        LatencyHistogram::new(buckets.to_vec()).unwrap()
    }

    #[test]
    fn late_bursts_take_no_replica_away() {
        let mut learned = learning();
        for second in 0..600 {
            let now = at(second * 1_000);
            // 40 requests for three seconds, and then none for 27
            let requests = if second % 30 < 3 { 40 } else { 0 };
            if second % 30 == 1 {
                learned.add(TTFT, &counted(40, false), now);
            }
            observe(&mut learned, (requests, 8), now);
            let (replicas, reason) = asked(&learned, 8);
            assert!(replicas >= 8, "at {second} s: {replicas}, {reason:?}");
            assert_ne!(reason, LatencyReason::Unattainable, "at {second} s");
        }
    }

    #[test]
    fn replicas_with_which_the_objective_was_just_met_are_enough() {
        let mut learned = learning();
        run(&mut learned, 0..32, (100, 11), (10, false));
        assert!(asked(&learned, 11).0 > 11);
        // 437 ms: met, and with nothing to spare
        for second in 32..100 {
            let now = at(second * 1_000);
            learned.add(TTFT, &mixed(92, 100), now);
            observe(&mut learned, (100, 12), now);
        }
        let p95 = learned.demand(TTFT, 12).unwrap().measured.unwrap().p95;
        assert_eq!(p95.is_within(500_000), Some(true));
        assert_eq!(asked(&learned, 12), (12, LatencyReason::Untried));
    }

    #[test]
    fn values_of_different_buckets_are_no_measurement_and_it_is_said_so() {
        let mut learned = learning();
        let other = [(200_000, 1), (UNBOUNDED, 1)];
        let other = other.map(|(bound, count)| Bucket { bound, count });
        let other = LatencyHistogram::new(other.to_vec()).unwrap();
        for second in 0..130 {
            let now = at(second * 1_000);
            learned.add(TTFT, &counted(1, false), now);
            learned.add(TTFT, &other, now);
            observe(&mut learned, (20, 2), now);
        }
        let demand = learned.demand(TTFT, 2).unwrap();
        assert_eq!(demand.measured, Err(Unmeasured::OtherBuckets));
        assert_eq!(
            (demand.replicas, demand.reason),
            (2, LatencyReason::Untried)
        );
    }

    #[test]
    fn what_is_learned_is_forgotten_with_its_objective() {
        let mut learned = learning();
        run(&mut learned, 0..32, (20, 2), (1, false));
        learned.set_objectives([(TTFT, SignedDuration::from_millis(500))]);
        assert_eq!(asked(&learned, 2).0, 4);
        learned.set_objectives([(TTFT, SignedDuration::from_millis(600))]);
        assert_eq!(asked(&learned, 2), (2, LatencyReason::Untried));
        run(&mut learned, 32..70, (20, 2), (1, false));
        assert_eq!(asked(&learned, 2).0, 4);
        learned.forget();
        assert_eq!(asked(&learned, 2), (2, LatencyReason::Untried));
    }

    #[test]
    fn an_objective_beyond_the_histogram_cannot_be_told() {
        let mut learned = LearnedLatencies::default();
        learned.set_objectives([(TTFT, SignedDuration::from_secs(5))]);
        let slow = [(1_000_000, 0), (UNBOUNDED, 9)].map(|(bound, count)| Bucket { bound, count });
        let slow = LatencyHistogram::new(slow.to_vec()).unwrap();
        for second in 0..40 {
            let now = at(second * 1_000);
            learned.add(TTFT, &slow, now);
            observe(&mut learned, (20, 2), now);
        }
        let demand = learned.demand(TTFT, 2).unwrap();
        let why = demand.unverifiable().unwrap();
        assert!(
            why.starts_with("the engine's histogram ends at 1 s"),
            "{why}"
        );
        assert_eq!(demand.reason, LatencyReason::Untried);
    }
}
