//! The oracle: what a stay costs, computed anew from docs/money.md with integers, and with jiff for the calendar. It shares nothing
//! with the crate under test; times are seconds since 1970.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

/// What a pod costs and emits an hour: nano-units for compute, storage, power and labour, and milligrams of CO₂.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hourly {
    pub(crate) nanos: [i128; 4],
    pub(crate) carbon_mg: i128,
}

/// A rate and since when.
pub(crate) type Segment = (i64, Hourly);

/// One pod's stay on its node.
#[derive(Clone, Debug)]
pub(crate) struct Stay {
    pub(crate) bound: i64,
    pub(crate) end: i64,
    pub(crate) ready: Option<i64>,
    pub(crate) leaving: Option<i64>,
    /// Since when its node was silent, if it never was heard of again.
    pub(crate) lost: Option<i64>,
    /// Units of the GPU resource, and the part of a GPU that one of them is.
    pub(crate) units: i128,
    pub(crate) share: (i128, i128),
    /// One after the other; none while no price is known.
    pub(crate) prices: Vec<Segment>,
    /// Seconds in which it was ready and had nothing to do.
    pub(crate) idle: BTreeMap<Date, i64>,
}

/// What a day's stays cost and what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bill {
    pub(crate) parts: [i128; 4],
    pub(crate) starting: i128,
    pub(crate) idle: i128,
    pub(crate) draining: i128,
    pub(crate) unattributed: i128,
    pub(crate) carbon_mg: i128,
    pub(crate) gpu_seconds: i128,
    pub(crate) unpriced_gpu_seconds: i128,
}

impl AddAssign for Bill {
    fn add_assign(&mut self, other: Self) {
        for (part, more) in self.parts.iter_mut().zip(other.parts) {
            *part += more;
        }
        self.starting += other.starting;
        self.idle += other.idle;
        self.draining += other.draining;
        self.unattributed += other.unattributed;
        self.carbon_mg += other.carbon_mg;
        self.gpu_seconds += other.gpu_seconds;
        self.unpriced_gpu_seconds += other.unpriced_gpu_seconds;
    }
}

/// What the stay costs on each day of `zone`.
pub(crate) fn bill(stay: &Stay, zone: &TimeZone) -> BTreeMap<Date, Bill> {
    let end = stay.end.max(stay.bound);
    let mut days = BTreeMap::new();
    let mut from = stay.bound;
    while from < end {
        let now = Timestamp::from_second(from).unwrap().to_zoned(zone.clone());
        let tomorrow = now.tomorrow().unwrap().start_of_day().unwrap();
        let until = tomorrow.timestamp().as_second().min(end);
        days.insert(now.date(), part(stay, now.date(), from, until));
        from = until;
    }
    days
}

/// The part of one day.
fn part(stay: &Stay, day: Date, from: i64, until: i64) -> Bill {
    let never = i64::MAX;
    let lost = stay.lost.unwrap_or(never);
    let leaving = stay.leaving.unwrap_or(never).min(lost);
    let ready = stay.ready.unwrap_or(never).min(leaving);
    // the four stages follow one another: [from, ready), [ready, leaving), [leaving, lost), [lost, until)
    let cut = |at: i64| at.clamp(from, until);
    let between = |from: i64, until: i64| -> i128 {
        let parts = amounts(stay, cut(until)).0.into_iter();
        let before = amounts(stay, cut(from)).0.into_iter();
        parts.sum::<i128>() - before.sum::<i128>()
    };
    let serving = i128::from(cut(leaving) - cut(ready));
    let idle_seconds = serving.min(stay.idle.get(&day).copied().unwrap_or(0).into());
    let idle = match serving {
        0 => 0,
        serving => between(ready, leaving) * idle_seconds / serving,
    };
    let (first, first_carbon) = amounts(stay, from);
    let (last, last_carbon) = amounts(stay, cut(lost));
    let gpu_seconds = gpu_seconds(stay, cut(lost)) - gpu_seconds(stay, from);
    Bill {
        parts: [0, 1, 2, 3].map(|part| last[part] - first[part]),
        starting: between(from, ready),
        idle,
        draining: between(leaving, lost),
        unattributed: between(lost, until),
        carbon_mg: last_carbon - first_carbon,
        gpu_seconds,
        unpriced_gpu_seconds: if stay.prices.is_empty() {
            gpu_seconds
        } else {
            0
        },
    }
}

/// The four parts and the carbon from the start until `at`: rounded down for each rate from its own start.
fn amounts(stay: &Stay, at: i64) -> ([i128; 4], i128) {
    let mut parts = [0; 4];
    let mut carbon = 0;
    for (number, (from, rate)) in stay.prices.iter().enumerate() {
        let next = stay
            .prices
            .get(number + 1)
            .map_or(i64::MAX, |(from, _)| *from);
        let seconds = i128::from((at.min(next) - from).max(0));
        for (part, nanos) in parts.iter_mut().zip(rate.nanos) {
            *part += nanos * seconds / 3600;
        }
        carbon += rate.carbon_mg * seconds / 3600;
    }
    (parts, carbon)
}

fn gpu_seconds(stay: &Stay, at: i64) -> i128 {
    stay.units * i128::from((at - stay.bound).max(0)) * stay.share.0 / stay.share.1
}
