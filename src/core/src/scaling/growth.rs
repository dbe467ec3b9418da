//! Growth that pays: a queue is work, not replicas.
//!
//! The plain rule orders a replica for each `target` requests in the queue, though most of them will
//! have been answered before it could serve. This one looks ahead: with a throughput per replica and a
//! rate of arrivals, it finds the fewest replicas with which the queue is within its target again,
//! [`DRAINS_WITHIN`] after the last of them could serve. In a queue that is as long as ever, by Little's
//! law (J. D. C. Little, "A Proof for the Queuing Formula L = λW", 1961), both rules ask for the same.

use std::fmt;

use jiff::SignedDuration;

/// So long may a queue be longer than its target while replicas serve.
const DRAINS_WITHIN: SignedDuration = SignedDuration::from_secs(20);
/// A replica that starts for longer than expected may be ready after this part of a start: one in so
/// many.
const OVERDUE_PART: i32 = 4;
/// A lower number must last at least so long before it is followed, unless the service says otherwise.
const SHORTEST_WINDOW: SignedDuration = SignedDuration::from_mins(1);
/// And at most so long, and always where nothing was learned.
pub const DEFAULT_WINDOW: SignedDuration = SignedDuration::from_mins(5);

/// No number of requests is taken for more, ...
const MOST: u64 = 1_000_000_000_000;
/// ... and nothing is looked at farther ahead.
const FARTHEST: SignedDuration = SignedDuration::from_hours(24);

/// Whether throughput that was learned is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GrowthRule {
    /// As soon as enough was learned; the plain rule until then.
    Learned,
    /// The plain rule: `ceil(queue / target)`.
    #[default]
    Target,
}

/// What was learned of a service's replicas, as far as it outlives whoever learned it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnedThroughput {
    /// How many requests a replica should carry: the rest holds for that.
    pub target: u32,
    /// How long a request is on a replica that has as many as it should carry, in milliseconds.
    pub request_millis: u64,
    /// Tokens that such a replica writes a second; 0 where its engine counts none.
    pub tokens_per_second: u64,
    /// How long a replica takes from its order until it can serve.
    pub start: SignedDuration,
}

/// What is expected of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemandForecast {
    /// Millionths of requests that arrive a second.
    pub arrivals: u64,
    /// Millionths of requests a second that a replica answers with as many on it as it should carry.
    pub throughput: u64,
    /// How long a replica takes from its order until it can serve.
    pub start: SignedDuration,
    /// How long it is until each of the replicas at hand can serve, zero first.
    pub waits: Vec<SignedDuration>,
}

/// How long it is until a replica can serve that has been starting for so long.
pub fn remaining_start(start: SignedDuration, age: SignedDuration) -> SignedDuration {
    if age >= start.saturating_mul(2) {
        // nobody knows when; it counts as one that begins now
        return start;
    }
    (start - age).max(start / OVERDUE_PART)
}

impl DemandForecast {
    /// How long a lower number must last before it is followed: as long as what would have to start
    /// again takes to start. To keep what is idle for as long as its return would cost is at most twice
    /// as dear as to know the future (the ski rental problem: A. R. Karlin and others, "Competitive
    /// snoopy caching", 1988).
    pub fn window(&self) -> SignedDuration {
        self.start.clamp(SHORTEST_WINDOW, DEFAULT_WINDOW)
    }

    /// The fewest replicas with which a queue of so many requests is within `target` for each, in time.
    ///
    /// Those at hand go on if fewer would not do. There are more only if the queue is not within its
    /// target before another one could serve.
    pub fn replicas(&self, queue: u64, target: u32) -> u32 {
        let queue = millionths(queue);
        let target = millionths(u64::from(target.max(1)));
        let drain = millis(DRAINS_WITHIN);
        let mut waited = 0;
        for (replicas, wait) in (1..).zip(&self.waits) {
            waited += millis(*wait);
            let end = millis(*wait) + drain;
            let answered = self.answered(replicas * end - waited);
            if queue + self.arrived(end) <= answered + replicas * target {
                return u32::try_from(replicas).unwrap_or(u32::MAX);
            }
        }
        let at_hand = self.waits.len() as i128;
        let left = |end: i128| {
            let within = self.waits.iter().map(|wait| (end - millis(*wait)).max(0));
            (queue + self.arrived(end) - self.answered(within.sum())).max(0)
        };
        let start = millis(self.start);
        // with so many it is within its target once another one could serve, ...
        let at_once = ceil(left(start), target).max(at_hand);
        // ... and with so many some time later
        let each = self.answered(drain) + target;
        let later = at_hand + ceil(left(start + drain) - at_hand * target, each).max(0);
        u32::try_from(at_once.min(later).max(1)).unwrap_or(u32::MAX)
    }

    /// Millionths of requests that arrive within so many milliseconds.
    fn arrived(&self, millis: i128) -> i128 {
        i128::from(self.arrivals.min(MOST)) * millis / 1000
    }

    /// Millionths of requests that replicas answer in so many milliseconds of work.
    fn answered(&self, millis: i128) -> i128 {
        i128::from(self.throughput.min(MOST)) * millis / 1000
    }
}

impl fmt::Display for DemandForecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (throughput, arrivals) = (Rate(self.throughput), Rate(self.arrivals));
        let start = self.start.as_secs();
        write!(
            f,
            "a replica answers {throughput}, {arrivals} arrive, a start takes {start} s"
        )
    }
}

/// Millionths of requests a second.
struct Rate(u64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let a_second = self.0 as f64 / 1e6;
        match a_second {
            0.0 => write!(f, "none"),
            few if few < 1.0 => write!(f, "{:.1} requests a minute", few * 60.0),
            many => write!(f, "{many:.1} requests a second"),
        }
    }
}

fn ceil(amount: i128, each: i128) -> i128 {
    (amount + each - 1).div_euclid(each)
}

fn millionths(count: u64) -> i128 {
    i128::from(count.min(MOST)) * 1_000_000
}

fn millis(duration: SignedDuration) -> i128 {
    duration.clamp(SignedDuration::ZERO, FARTHEST).as_millis()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scaling::replicas_for;

    fn seconds(seconds: i64) -> SignedDuration {
        SignedDuration::from_secs(seconds)
    }

    /// Replicas that answer one request a second each, of which so many serve.
    fn forecast(arrivals: u64, start: i64, serving: usize) -> DemandForecast {
        DemandForecast {
            arrivals: arrivals * 1_000_000,
            throughput: 1_000_000,
            start: seconds(start),
            waits: vec![SignedDuration::ZERO; serving],
        }
    }

    #[test]
    fn a_burst_that_will_be_over_before_another_one_could_serve_starts_nothing() {
        // 46 requests, of which one replica answers 180 until the next one is there
        assert_eq!(forecast(0, 180, 1).replicas(46, 8), 1);
        assert_eq!(replicas_for(46, 8), 6);
        // with starts of three seconds they are answered sooner by two
        assert_eq!(forecast(0, 3, 1).replicas(46, 8), 2);
    }

    #[test]
    fn a_lasting_one_starts_enough_at_once() {
        // four arrive each second and one replica answers one: what is left 20 s after others could
        // serve, beside its eight
        let one = forecast(4, 200, 1);
        let asked = one.replicas(20, 8);
        let left: u32 = 20 + 4 * 220 - 220 - 8;
        let each = 20 + 8;
        assert_eq!(asked, 1 + left.div_ceil(each));
    }

    #[test]
    fn what_is_starting_is_counted_by_when_it_can_serve() {
        let mut soon = forecast(0, 180, 1);
        assert_eq!(soon.replicas(400, 8), 8);
        soon.waits = vec![seconds(0), seconds(10), seconds(10)];
        let in_time = soon.replicas(100, 8);
        assert_eq!(in_time, 3);
        // overdue, it may be ready in a quarter of a start; after twice the time nobody knows
        assert_eq!(remaining_start(seconds(180), seconds(170)), seconds(45));
        assert_eq!(remaining_start(seconds(180), seconds(200)), seconds(45));
        assert_eq!(remaining_start(seconds(180), seconds(360)), seconds(180));
    }

    prop_compose! {
        fn any_forecast()(
            arrivals in 0..20_000_000_u64,
            throughput in 1..5_000_000_u64,
            start in 0..900_i64,
            waits in prop::collection::vec(0..900_i64, 0..20),
            serving in 0..20_usize,
        ) -> DemandForecast {
            let waits = waits.into_iter().map(|wait| seconds(wait.min(start)));
            let mut waits: Vec<_> = waits.chain(vec![seconds(0); serving]).collect();
            waits.sort();
            DemandForecast { arrivals, throughput, start: seconds(start), waits }
        }
    }

    proptest! {
        /// What was asked for is asked for again once it is ordered, so that nothing is ordered and
        /// taken back at one instant.
        #[test]
        fn what_it_asks_for_does_not_change_by_being_ordered(
            forecast in any_forecast(), queue in 0..5_000_u64, target in 1..64_u32,
            part in 0..100_usize,
        ) {
            let asked = forecast.replicas(queue, target);
            let at_hand = forecast.waits.len();
            // or a part of it: a budget may leave no more
            let more = (asked as usize).saturating_sub(at_hand);
            for ordered in [at_hand + more * part / 100, asked as usize] {
                let mut now = forecast.clone();
                now.waits.resize(ordered, forecast.start);
                prop_assert_eq!(now.replicas(queue, target), asked, "{} of {}", ordered, at_hand);
            }
        }

        #[test]
        fn more_requests_never_ask_for_fewer(
            forecast in any_forecast(), queue in 0..5_000_u64, more in 0..500_u64,
            target in 1..64_u32, arrivals in 0..1_000_000_u64,
        ) {
            let asked = forecast.replicas(queue, target);
            let busier = DemandForecast { arrivals: forecast.arrivals + arrivals, ..forecast };
            prop_assert!(busier.replicas(queue + more, target) >= asked);
        }

        /// A queue that is as long as ever has, by Little's law, as many requests as arrive while one
        /// of them is on a replica.
        #[test]
        fn in_a_steady_state_it_asks_for_what_the_plain_rule_asks_for(
            each_millis in 100..30_000_u64, queue in 1..500_u64, target in 1..64_u32,
            start in 0..900_i64, serving in 0..40_usize,
        ) {
            let steady = DemandForecast {
                arrivals: queue * 1_000_000_000 / each_millis,
                throughput: (u64::from(target) * 1_000_000_000).div_ceil(each_millis),
                start: seconds(start),
                waits: vec![SignedDuration::ZERO; serving],
            };
            let (learned, plain) = (steady.replicas(queue, target), replicas_for(queue, target));
            let serving = u32::try_from(serving).unwrap();
            if serving >= plain {
                prop_assert_eq!(learned, plain);
            } else {
                prop_assert!(learned >= serving.max(1) , "{} and {}", learned, plain);
            }
        }

        #[test]
        fn no_number_is_too_large(
            arrivals in any::<u64>(), throughput in any::<u64>(), queue in any::<u64>(),
            target in any::<u32>(), start in 0..i64::MAX,
        ) {
            let huge = DemandForecast { arrivals, throughput, start: seconds(start), waits: vec![seconds(start); 3] };
            huge.replicas(queue, target);
        }
    }
}
