//! What is learned of a service's requests: how fast they arrive, and how fast a busy replica answers
//! them.

use jiff::{SignedDuration, Timestamp};

use crate::ledger::EngineCounters;
use crate::scaling::{DemandForecast, LearnedThroughput, remaining_start};

/// Throughput counts as learned after so many seconds of busy replicas.
const ENOUGH: SignedDuration = SignedDuration::from_mins(5);
/// After so many, older ones count half.
const REMEMBERED: SignedDuration = SignedDuration::from_mins(20);
/// Two reads with more between them teach nothing: what was on the engine meanwhile is not known.
const LONGEST_GAP: SignedDuration = SignedDuration::from_secs(10);
/// A forecast changes at times that are so many seconds apart, and with what happens.
const STEP: i64 = 5;
/// Arrivals are averaged over the time of a start, and at least over so long, ...
const SHORTEST_AVERAGE: SignedDuration = SignedDuration::from_secs(30);
/// ... and at most over so long.
const LONGEST_AVERAGE: SignedDuration = SignedDuration::from_mins(10);
/// What is recalled weighs as much as so many requests, ...
const RECALLED_REQUESTS: i64 = 100;
/// ... and no request is on a replica for longer than a day.
const LONGEST_REQUEST: i64 = 86_400_000;
/// The rate is known once so much of its average has been seen: after 0.7 times the time it is over.
const ENOUGH_SEEN: f64 = 0.5;

/// How fast replicas are now is seen in a part of so long at least, ...
const PART: SignedDuration = SignedDuration::from_secs(30);
/// ... in which so many answers at least are expected.
const EXPECTED_IN_PART: u64 = 20;

/// An engine's last read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LastRead {
    at: Timestamp,
    requests: u64,
    done: EngineCounters,
}

/// What busy replicas have done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct ServiceTime {
    /// Milliseconds of busy replicas.
    millis: i64,
    /// Milliseconds of requests on them.
    request_millis: i64,
    /// Requests that they have answered.
    answered: i64,
    /// Tokens that they have written.
    tokens: i64,
}

impl ServiceTime {
    /// As much as counts as learned, from what somebody has learned before.
    fn recalled(learned: LearnedThroughput) -> Self {
        let each = i64::try_from(learned.request_millis)
            .unwrap_or(i64::MAX)
            .clamp(1, LONGEST_REQUEST);
        let answered = RECALLED_REQUESTS;
        let tokens = i64::try_from(learned.tokens_per_second).unwrap_or(0);
        Self {
            millis: millis(ENOUGH),
            request_millis: each.saturating_mul(answered),
            answered,
            tokens: tokens.saturating_mul(ENOUGH.as_secs()),
        }
    }

    fn halve(&mut self) {
        self.millis /= 2;
        self.request_millis /= 2;
        self.answered /= 2;
        self.tokens /= 2;
    }

    /// How long a request is on a busy replica, in milliseconds: by Little's law, the requests on it
    /// over those that it answers in a millisecond. `None` before enough is known.
    fn request_millis(&self) -> Option<u64> {
        let is_enough = self.millis >= millis(ENOUGH) && self.answered > 0;
        let each = is_enough.then(|| self.request_millis / self.answered)?;
        u64::try_from(each.max(1)).ok()
    }

    /// Millionths of requests a second that a replica answers with as many on it as it should carry.
    fn throughput(&self, target: u64) -> Option<u64> {
        let each = self.request_millis()?;
        Some(target.saturating_mul(1_000_000_000).div_ceil(each))
    }

    /// Tokens a second of a busy replica.
    fn tokens_per_second(&self) -> u64 {
        let tokens = self.tokens.saturating_mul(1000) / self.millis.max(1);
        u64::try_from(tokens).unwrap_or(0)
    }
}

/// What replicas have done in the last one or two parts of the time in which they had as many requests
/// as they should carry, or more: then they answer as fast as they can, however many wait.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct SaturationWindow {
    before: SaturationBucket,
    current: SaturationBucket,
    /// When the last of them was read.
    until: Option<Timestamp>,
}

/// A part of the time in which replicas were full.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct SaturationBucket {
    /// Milliseconds of such replicas.
    millis: i64,
    /// Requests that they have answered.
    answered: i64,
}

impl SaturationBucket {
    /// How many answers such a throughput promises, in millionths of requests a second.
    fn expected(self, throughput: u64) -> u64 {
        let millis = u64::try_from(self.millis).unwrap_or(0);
        throughput.saturating_mul(millis) / 1_000_000_000
    }
}

impl SaturationWindow {
    /// Takes another read, of replicas whose throughput was learned to be so.
    fn add(&mut self, read: SaturationBucket, throughput: u64, now: Timestamp) {
        let current = &mut self.current;
        current.millis += read.millis;
        current.answered = current.answered.saturating_add(read.answered);
        if current.millis >= millis(PART) && current.expected(throughput) >= EXPECTED_IN_PART {
            (self.before, self.current) = (self.current, SaturationBucket::default());
        }
        self.until = Some(now);
    }

    /// Forgets what is not of late.
    fn expire(&mut self, now: Timestamp) {
        let age = self.until.map(|until| now.duration_since(until));
        if age.is_some_and(|age| age > PART * 2 || age.is_negative()) {
            *self = Self::default();
        }
    }

    /// Whether they have answered less than half of what such a throughput promises.
    fn contradicts(&self, throughput: u64) -> bool {
        let (before, current) = (self.before, self.current);
        let answered = before.answered.saturating_add(current.answered);
        let answered = u64::try_from(answered).unwrap_or(0);
        let expected = before.expected(throughput) + current.expected(throughput);
        before.millis > 0 && answered.saturating_mul(2) < expected
    }
}

/// How fast requests arrive, averaged with weights that fall with their age.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Arrivals {
    /// Up to when, and how many had arrived in all by then.
    last: Option<(Timestamp, i64)>,
    /// Requests a second, counted as none before the first look.
    rate: f64,
    /// How much of the average has been seen: from 0 to 1.
    seen: f64,
}

impl Arrivals {
    /// Takes that so many requests have arrived in all.
    fn observe(&mut self, arrived: i64, average: SignedDuration, now: Timestamp) {
        let Some((at, before)) = self.last else {
            self.last = Some((now, arrived));
            return;
        };
        let passed = now.duration_since(at);
        if passed.is_negative() {
            // the clock was set back
            self.last = Some((now, arrived));
            return;
        }
        let (passed, average) = (passed.as_secs_f64(), average.as_secs_f64());
        let more = arrived.saturating_sub(before) as f64;
        let decay = (-passed / average).exp();
        // what came since the last look has come evenly: after a gap in which the demand was not known, too
        let weight = match passed > 0.0 {
            true => (1.0 - decay) / passed,
            false => 1.0 / average,
        };
        self.rate = self.rate * decay + more * weight;
        self.seen = 1.0 - (1.0 - self.seen) * decay;
        self.last = Some((now, arrived));
    }

    /// Millionths of requests a second; `None` before enough has been seen. Less than half a request
    /// within `ahead` is none.
    fn rate(&self, ahead: SignedDuration) -> Option<u64> {
        let is_known = self.seen >= ENOUGH_SEEN;
        let rate = is_known.then(|| self.rate / self.seen)?;
        let is_some = rate * ahead.as_secs_f64() >= 0.5;
        Some(if is_some { (rate * 1e6) as u64 } else { 0 })
    }
}

/// What is learned of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct LearnedDemand {
    busy: ServiceTime,
    saturated: SaturationWindow,
    arrivals: Arrivals,
    /// Requests that its replicas have answered since they are read here.
    answered: i64,
}

impl LearnedDemand {
    /// Takes the requests on an engine whose replica should carry `target`, and what it has done.
    /// Nothing is learned of its throughput while replicas are mixed: of two templates. Returns what is
    /// kept for the next read.
    pub(crate) fn read(
        &mut self,
        last: Option<LastRead>,
        (requests, done): (u64, EngineCounters),
        target: u32,
        is_mixed: bool,
        now: Timestamp,
    ) -> LastRead {
        if let Some(last) = last {
            let usage = last.done.usage_until(done);
            let answered = i64::try_from(usage.requests).unwrap_or(i64::MAX);
            self.answered = self.answered.saturating_add(answered);
            // what was given up or lost has arrived all the same
            let gone = last.requests.saturating_sub(requests);
            self.lose(gone.saturating_sub(usage.requests));
            let gap = now.duration_since(last.at);
            // with half as many it is not busy; of more than twice as many the others wait
            let target = u64::from(target.max(1));
            let both = last.requests.saturating_add(requests);
            let is_full = last.requests.min(requests) >= target;
            let is_busy = both >= target && !is_mixed;
            let both = both.min(target.saturating_mul(4));
            if is_busy && gap <= LONGEST_GAP && !gap.is_negative() {
                let millis = i64::try_from(gap.as_millis()).unwrap_or(0);
                let both = i64::try_from(both).unwrap_or(i64::MAX);
                self.busy.millis += millis;
                self.busy.request_millis += both.saturating_mul(millis) / 2;
                self.busy.answered = self.busy.answered.saturating_add(answered);
                let tokens = i64::try_from(usage.output_tokens).unwrap_or(i64::MAX);
                self.busy.tokens = self.busy.tokens.saturating_add(tokens);
                if let (true, Some(throughput)) = (is_full, self.busy.throughput(target)) {
                    self.saturated
                        .add(SaturationBucket { millis, answered }, throughput, now);
                }
            }
        }
        LastRead {
            at: now,
            requests,
            done,
        }
    }

    /// Takes that so many requests are gone that were not answered.
    pub(crate) fn lose(&mut self, requests: u64) {
        let requests = i64::try_from(requests).unwrap_or(i64::MAX);
        self.answered = self.answered.saturating_add(requests);
    }

    /// Takes how many requests there are on replicas and in gateways.
    pub(crate) fn observe(&mut self, queue: u64, start: Option<SignedDuration>, now: Timestamp) {
        if self.busy.millis > millis(REMEMBERED) {
            self.busy.halve();
        }
        self.saturated.expire(now);
        let average = start
            .unwrap_or(SHORTEST_AVERAGE)
            .clamp(SHORTEST_AVERAGE, LONGEST_AVERAGE);
        let queue = i64::try_from(queue).unwrap_or(i64::MAX);
        self.arrivals
            .observe(self.answered.saturating_add(queue), average, step(now));
    }

    /// Begins with what somebody has learned before.
    pub(crate) fn recall(&mut self, learned: LearnedThroughput) {
        self.busy = ServiceTime::recalled(learned);
    }

    /// What of it outlives this model, with how long a start takes.
    pub(crate) fn throughput(
        &self,
        target: u32,
        start: Option<SignedDuration>,
    ) -> Option<LearnedThroughput> {
        Some(LearnedThroughput {
            target,
            request_millis: self.busy.request_millis()?,
            tokens_per_second: self.busy.tokens_per_second(),
            start: start?,
        })
    }

    /// Forgets how fast replicas are: others take their place.
    pub(crate) fn forget_throughput(&mut self) {
        (self.busy, self.saturated) = (ServiceTime::default(), SaturationWindow::default());
    }

    /// When a forecast may change though nothing happens. It does not where too little is learned for
    /// one, or nothing starts and nothing arrives any more.
    pub(crate) fn changes_at(
        &self,
        forecast: Option<&DemandForecast>,
        start: Option<SignedDuration>,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let _ = (self.busy.request_millis()?, start?);
        let is_settled = forecast.is_some_and(|forecast| {
            forecast.arrivals == 0 && forecast.waits.iter().all(SignedDuration::is_zero)
        });
        let next = Timestamp::from_second(step(now).as_second() + STEP).ok();
        next.filter(|_| !is_settled)
    }

    /// What is expected with `target` on each of so many replicas at hand, some of which are as old as
    /// that; `None` before enough is known, and while replicas show that they are far slower.
    pub(crate) fn forecast(
        &self,
        target: u32,
        start: Option<SignedDuration>,
        at_hand: u32,
        ages: impl Iterator<Item = Option<SignedDuration>>,
    ) -> Option<DemandForecast> {
        // arrivals are known for no longer
        let start = start?.min(LONGEST_AVERAGE);
        let throughput = self.busy.throughput(u64::from(target))?;
        if self.saturated.contradicts(throughput) {
            return None;
        }
        let wait = |age: Option<SignedDuration>| {
            age.map_or(SignedDuration::ZERO, |age| remaining_start(start, age))
        };
        let mut waits: Vec<SignedDuration> = ages.map(wait).collect();
        waits.sort();
        // those that have no pod yet begin now
        waits.resize(at_hand as usize, start);
        Some(DemandForecast {
            arrivals: self.arrivals.rate(LONGEST_AVERAGE)?,
            throughput,
            start,
            waits,
        })
    }
}

/// The last of the times at which forecasts change.
pub(crate) fn step(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second().div_euclid(STEP) * STEP).unwrap_or(now)
}

fn millis(duration: SignedDuration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
