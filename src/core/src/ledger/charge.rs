//! One pod's occupation of a node: what it is priced by, at which rates, and in which stages.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::line::Line;
use crate::money::{Cost, Money};
use crate::period::Interval;
use crate::price::{Facts, PriceLists, Priced, Quote};

/// A pod's UID.
pub type Uid = String;

/// A rate and when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Since when.
    pub from: Timestamp,
    /// What it costs and emits an hour.
    pub quote: Quote,
    /// The dearest price stands in, because none matched.
    pub provisional: bool,
}

/// What a replica did: a part of a day's line, or one day of an open charge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Seconds in which it was ready and had nothing to do.
    pub idle_seconds: i64,
    /// Requests that it finished.
    pub requests: u64,
    /// Tokens that it read.
    pub input_tokens: u64,
    /// Tokens that it wrote.
    pub output_tokens: u64,
}

impl AddAssign for Use {
    fn add_assign(&mut self, other: Self) {
        self.idle_seconds += other.idle_seconds;
        self.requests += other.requests;
        self.input_tokens += other.input_tokens;
        self.output_tokens += other.output_tokens;
    }
}

/// An engine's counters as they were last read. They begin again at zero when its container restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests finished.
    pub requests: u64,
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
}

impl Counters {
    /// What was done since `self` was read.
    pub fn until(self, later: Self) -> Use {
        // a counter that fell began again at zero
        let since = |then: u64, now: u64| now.checked_sub(then).unwrap_or(now);
        Use {
            idle_seconds: 0,
            requests: since(self.requests, later.requests),
            input_tokens: since(self.input_tokens, later.input_tokens),
            output_tokens: since(self.output_tokens, later.output_tokens),
        }
    }
}

/// One pod's occupation of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The pod's UID.
    pub uid: Uid,
    /// The pod's name.
    pub pod: String,
    /// Who made the pod, where that is not Bursar: `Kind/name`.
    pub owner: Option<String>,
    /// What it is priced by.
    pub facts: Facts,
    /// When the pod was bound to its node.
    pub start: Timestamp,
    /// What came before this instant is in the daily sums already.
    pub booked: Option<Timestamp>,
    /// The rates one after the other; none while no price is known.
    pub rates: Vec<Rate>,
    /// When it was first ready: until then it was starting.
    pub ready: Option<Timestamp>,
    /// Since when it has been draining or terminating.
    pub leaving: Option<Timestamp>,
    /// Since when its node has not been heard of.
    pub lost: Option<Timestamp>,
    /// What it did, by day.
    pub used: BTreeMap<Date, Use>,
    /// Its engine's counters as they are in `used`.
    pub counters: Counters,
}

/// When and how a charge ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The last container's end.
    pub at: Timestamp,
    /// The kubelet gave no such time; `at` is when the end was seen.
    pub estimated: bool,
}

impl Charge {
    /// A charge that begins, without a price yet: [`Charge::reprice`] gives it one, which counts from the start.
    pub fn new(uid: Uid, pod: String, facts: Facts, start: Timestamp) -> Self {
        Self {
            uid,
            pod,
            owner: None,
            facts,
            start,
            booked: None,
            rates: Vec::new(),
            ready: None,
            leaving: None,
            lost: None,
            used: BTreeMap::new(),
            counters: Counters::default(),
        }
    }

    /// The cost within `part`.
    pub fn cost(&self, part: Interval) -> Cost {
        if part.is_empty() {
            return Cost::ZERO;
        }
        self.cost_until(part.end) - self.cost_until(part.start)
    }

    /// What it costs and emits an hour at this moment; `None` while no price is known.
    pub fn rate(&self) -> Option<Quote> {
        self.rates.last().map(|rate| rate.quote)
    }

    /// Follows the lists until `now`. True if this changed the charge.
    ///
    /// The first price counts from the start of the charge, whenever it becomes known. After that a rate changes at the instant at
    /// which a list says so (its `effectiveFrom`, an hour of the tariff), also when that instant has passed; an edit counts from the
    /// API server's time of it. Between the last look and an edit that came while nobody looked, the last rate goes on.
    pub fn reprice(&mut self, lists: &PriceLists, now: Timestamp) -> bool {
        let mut changed = false;
        let last = match self.rates.last() {
            Some(last) => last.from,
            None => {
                let first = match lists.price(&self.facts, self.start) {
                    Priced::Unknown => lists.price(&self.facts, now),
                    known => known,
                };
                changed |= self.take(&first, self.start);
                self.start
            }
        };
        let edited = lists.known();
        // a clock that stepped back, or lags behind the API server's, changes no instant
        let now = now.max(last).max(edited);
        let settled = last.max(edited).max(self.booked.unwrap_or(self.start));
        let edit = (last < edited).then_some(edited);
        // the instants in between, and now itself: a list may have been deleted, or the pod resized
        for at in edit
            .into_iter()
            .chain(lists.changes(settled, now))
            .chain([now])
        {
            changed |= self.take(&lists.price(&self.facts, at), at);
        }
        changed
    }

    /// Takes facts that came late: labels of a node that had none when the pod was bound. They count from the start, or from what
    /// is booked. True if this changed the charge.
    pub fn refine(&mut self, facts: &Facts, lists: &PriceLists, now: Timestamp) -> bool {
        let vague = self.rates.last().is_none_or(|rate| rate.provisional);
        if !vague || self.facts == *facts || !matches!(lists.price(facts, now), Priced::Listed(_)) {
            return false;
        }
        self.facts = facts.clone();
        let booked = self.booked.unwrap_or(self.start);
        self.rates.retain(|rate| rate.from < booked);
        if self.rates.is_empty() {
            self.reprice(lists, now);
        } else {
            self.take(&lists.price(facts, booked), booked);
            self.reprice(lists, now);
        }
        true
    }

    /// Takes the lists' answer at `at`. Unknown is not zero: the last known rate goes on.
    fn take(&mut self, priced: &Priced, at: Timestamp) -> bool {
        let Some(quote) = priced.rate() else {
            return false;
        };
        let provisional = matches!(priced, Priced::Provisional(_));
        if let Some(last) = self.rates.last_mut()
            && last.quote == quote
        {
            let changed = last.provisional != provisional;
            last.provisional = provisional;
            return changed;
        }
        let from = at.max(self.start);
        // a rate that would have lasted no time is replaced
        self.rates.retain(|rate| rate.from < from);
        self.rates.push(Rate {
            from,
            quote,
            provisional,
        });
        true
    }

    /// Adds what the engine did until its counters were read on `day`, and seconds in which it was idle.
    pub fn add_use(&mut self, day: Date, counters: Option<Counters>, idle_seconds: i64) {
        let mut used = Use {
            idle_seconds,
            ..Use::default()
        };
        if let Some(counters) = counters {
            used += self.counters.until(counters);
            self.counters = counters;
        }
        if used != Use::default() {
            *self.used.entry(day).or_default() += used;
        }
    }

    /// What was not booked yet of the stay until `end`.
    pub(super) fn unbooked(&self, end: Timestamp) -> Interval {
        let start = self.booked.unwrap_or(self.start);
        Interval {
            start,
            end: end.max(start),
        }
    }

    /// Drops what no sum from `until` on will need.
    pub(super) fn forget_before(&mut self, until: Timestamp, zone: &TimeZone) {
        let current = self.rates.iter().rposition(|rate| rate.from <= until);
        self.rates.drain(..current.unwrap_or(0));
        let day = zone.to_datetime(until).date();
        self.used = self.used.split_off(&day);
    }

    /// The lines, so far, of the days that `part` touches.
    pub(super) fn lines(
        &self,
        part: Interval,
        zone: &TimeZone,
    ) -> impl Iterator<Item = (Date, Line)> {
        part.days(zone)
            .map(|(day, part)| (day, self.line(day, part, self.lost, false)))
    }

    /// The line of a part of one day, where nothing has been heard of the node since `lost`.
    pub(super) fn line(
        &self,
        day: Date,
        part: Interval,
        lost: Option<Timestamp>,
        estimated: bool,
    ) -> Line {
        let (kept, lost) = part.split(lost.unwrap_or(Timestamp::MAX));
        let (staying, draining) = kept.split(self.leaving.unwrap_or(Timestamp::MAX));
        let (starting, serving) = staying.split(self.ready.unwrap_or(Timestamp::MAX));
        let cost = self.cost(kept);
        let used = self.used.get(&day).copied().unwrap_or_default();
        let idle_seconds = used.idle_seconds.min(serving.seconds());
        let idle = match idle_seconds {
            0 => Money::ZERO,
            _ => (self.cost(serving).total()).proportion(idle_seconds, serving.seconds()),
        };
        let gpu_seconds = self.gpu_seconds_until(kept.end) - self.gpu_seconds_until(kept.start);
        Line {
            cost,
            estimated: if estimated || self.is_provisional_in(kept) {
                cost.total()
            } else {
                Money::ZERO
            },
            starting: self.cost(starting).total(),
            idle,
            draining: self.cost(draining).total(),
            unattributed: self.cost(lost).total(),
            saved: Money::ZERO,
            carbon_mg: self.carbon_until(kept.end) - self.carbon_until(kept.start),
            gpu_seconds,
            unpriced_gpu_seconds: if self.rates.is_empty() {
                gpu_seconds
            } else {
                0
            },
            used: Use {
                idle_seconds,
                ..used
            },
        }
    }

    fn cost_until(&self, at: Timestamp) -> Cost {
        self.spans(at)
            .map(|(rate, seconds)| rate.quote.cost.map(|part| part.per_hour_for(seconds)))
            .sum()
    }

    /// Physical GPUs times seconds: a unit may be a part of one.
    fn gpu_seconds_until(&self, at: Timestamp) -> i64 {
        let seconds = (at.as_second() - self.start.as_second()).max(0);
        self.facts.share.of(i64::from(self.facts.gpus) * seconds)
    }

    fn carbon_until(&self, at: Timestamp) -> i64 {
        self.spans(at)
            .map(|(rate, seconds)| rate.quote.carbon_mg_for(seconds))
            .sum()
    }

    /// Each rate with the whole seconds that it lasted until `at`.
    fn spans(&self, at: Timestamp) -> impl Iterator<Item = (&Rate, i64)> {
        self.with_ends().map(move |(rate, end)| {
            (
                rate,
                (at.min(end).as_second() - rate.from.as_second()).max(0),
            )
        })
    }

    fn with_ends(&self) -> impl Iterator<Item = (&Rate, Timestamp)> {
        let ends = self
            .rates
            .iter()
            .skip(1)
            .map(|rate| rate.from)
            .chain([Timestamp::MAX]);
        self.rates.iter().zip(ends)
    }

    fn is_provisional_in(&self, part: Interval) -> bool {
        self.with_ends().any(|(rate, end)| {
            let span = Interval {
                start: rate.from,
                end,
            };
            rate.provisional && part.meet(span).is_some()
        })
    }
}
