//! One workload's spend in one month: open charges, and the lines of what is over.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::charge::{Charge, End, Uid};
use super::line::{Line, Sku};
use super::rest::Rest;
use crate::money::Money;
use crate::period::{Interval, Month};

/// Kinds of hardware that an account tells apart; what comes after them is kept under [`Sku::other`], so that a record stays small.
const MAX_SKUS: usize = 64;

/// One workload's spend in one month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The month.
    pub month: Month,
    /// Charges of pods that still hold a node.
    pub open: BTreeMap<Uid, Charge>,
    /// Pods whose charges are in the daily lines and whose finalizer may still be there.
    pub settling: BTreeSet<Uid>,
    /// Since when it stands at zero replicas because nothing is asked of it.
    pub rest: Option<Rest>,
    days: Days,
    /// What `days` sum to: most questions are about the whole month.
    over: Line,
}

/// What is over, by day and hardware. A day has few kinds of it.
pub type Days = BTreeMap<Date, Vec<(Sku, Line)>>;

impl Account {
    /// An account without a charge.
    pub fn new(month: Month) -> Self {
        Self {
            month,
            open: BTreeMap::new(),
            settling: BTreeSet::new(),
            rest: None,
            days: Days::new(),
            over: Line::default(),
        }
    }

    /// The account with these daily lines.
    pub fn with_days(self, days: Days) -> Self {
        let over = days.values().flatten().map(|(_, line)| *line).sum();
        Self { days, over, ..self }
    }

    /// What is over, by day and hardware.
    pub fn days(&self) -> &Days {
        &self.days
    }

    /// Takes in a charge. False, and nothing changes, if the pod is known already.
    pub fn open(&mut self, charge: Charge) -> bool {
        if self.knows(&charge.uid) {
            return false;
        }
        self.open.insert(charge.uid.clone(), charge);
        true
    }

    /// Takes in a charge that an earlier month may have begun, without what only that one needs. False, and nothing changes, if the
    /// pod is known already.
    pub fn carry(&mut self, charge: &Charge, zone: &TimeZone) -> bool {
        if self.knows(&charge.uid) {
            return false;
        }
        let mut charge = charge.clone();
        charge.forget_before(self.month.bounds(zone).start, zone);
        self.open(charge)
    }

    /// What is over cost so much.
    pub fn settled(&self) -> Money {
        let lines = self.days().values().flatten();
        lines.map(|(_, line)| line.cost.total()).sum()
    }

    /// Whether a pod is open or settled here.
    pub fn knows(&self, uid: &str) -> bool {
        self.settling.contains(uid) || self.open.contains_key(uid)
    }

    /// Moves what this month still lacks of `charge` into the daily lines. False, and nothing changes, if that was done already.
    pub fn settle(&mut self, charge: &Charge, end: End, zone: &TimeZone) -> bool {
        if !self.settling.insert(charge.uid.clone()) {
            return false;
        }
        let open = self.open.remove(&charge.uid);
        let charge = open.as_ref().unwrap_or(charge);
        // a node that told the end was heard of again
        let lost = charge.lost.filter(|_| end.estimated);
        let part = charge.unbooked(end.at);
        self.enter(charge, part, lost, end.estimated, zone);
        true
    }

    /// Moves what an open charge cost until `until`, a midnight of `zone`, into the daily lines. The charge stays open, unless the
    /// month is over by then: what is left of it is in the next month's account. False, and nothing changes, if it is booked so far.
    ///
    /// Only for a pod that is known to have run at `until`: what is booked is never taken back. So nothing is booked while no price is
    /// known, because the first one counts from the start.
    pub fn book(&mut self, uid: &str, until: Timestamp, zone: &TimeZone) -> bool {
        let Some(mut charge) = self.open.remove(uid) else {
            return false;
        };
        let until = until.min(self.month.bounds(zone).end);
        let part = charge.unbooked(until);
        if part.is_empty() || charge.rates.is_empty() {
            self.open.insert(uid.to_owned(), charge);
            return false;
        }
        self.enter(&charge, part, charge.lost, false, zone);
        if until < self.month.bounds(zone).end {
            charge.booked = Some(until);
            charge.forget_before(until, zone);
            self.open.insert(uid.to_owned(), charge);
        }
        true
    }

    /// Moves what the rest saved until `at` into the daily lines: it is over then. False, and nothing changes, without a rest.
    pub fn wake(&mut self, at: Timestamp, zone: &TimeZone) -> bool {
        let Some(rest) = self.rest.take() else {
            return false;
        };
        let part = rest.until(at).meet(self.month.bounds(zone));
        for (date, line) in part.into_iter().flat_map(|part| rest.lines(part, zone)) {
            let is_of = |sku: &Sku| *sku == rest.sku;
            *self.line(date, &rest.sku.resource, is_of, || rest.sku.clone()) += line;
            self.over += line;
        }
        true
    }

    /// Forgets that a pod was settled. Only for a pod that is gone from a live read.
    pub fn forget(&mut self, uid: &str) -> bool {
        self.settling.remove(uid)
    }

    /// The sum of what `within` cost until `now`: what is over, open charges and a rest. `within` begins and ends at midnights of `zone`.
    pub fn sum(&self, within: Interval, now: Timestamp, zone: &TimeZone) -> Line {
        let days = zone.to_datetime(within.start).date()..zone.to_datetime(within.end).date();
        let mut sum = if days.start <= self.month.first() && self.month.next().first() <= days.end {
            self.over
        } else {
            let lines = self.days.range(days).flat_map(|(_, lines)| lines);
            lines.map(|(_, line)| *line).sum()
        };
        if !self.open.is_empty() {
            sum += self
                .running(within, now, zone)
                .map(|(_, _, line)| line)
                .sum();
        }
        if let Some((rest, part)) = self.resting(within, now, zone) {
            sum.saved += rest.saved(part);
        }
        sum
    }

    /// All lines of the month until `now`, those of open charges and of a rest too.
    pub fn lines(&self, now: Timestamp, zone: &TimeZone) -> BTreeMap<(Date, Sku), Line> {
        let mut all: BTreeMap<(Date, Sku), Line> = BTreeMap::new();
        for (date, lines) in &self.days {
            for (sku, line) in lines {
                *all.entry((*date, sku.clone())).or_default() += *line;
            }
        }
        for (charge, date, line) in self.running(self.month.bounds(zone), now, zone) {
            let sku = Sku::of(&charge.facts, charge.owner.as_ref());
            *all.entry((date, sku)).or_default() += line;
        }
        if let Some((rest, part)) = self.resting(self.month.bounds(zone), now, zone) {
            for (date, line) in rest.lines(part, zone) {
                *all.entry((date, rest.sku.clone())).or_default() += line;
            }
        }
        all
    }

    /// The rest, and the part of it that lies within and in the month.
    fn resting(
        &self,
        within: Interval,
        now: Timestamp,
        zone: &TimeZone,
    ) -> Option<(&Rest, Interval)> {
        let rest = self.rest.as_ref()?;
        let within = within.meet(self.month.bounds(zone))?;
        Some((rest, rest.until(now).meet(within)?))
    }

    /// The lines within `within` that open charges have not booked.
    pub fn running(
        &self,
        within: Interval,
        now: Timestamp,
        zone: &TimeZone,
    ) -> impl Iterator<Item = (&Charge, Date, Line)> {
        let within = within.meet(self.month.bounds(zone));
        self.open.values().flat_map(move |charge| {
            let part = within.and_then(|within| within.meet(charge.unbooked(now)));
            let lines = part
                .into_iter()
                .flat_map(move |part| charge.lines(part, zone));
            lines.map(move |(date, line)| (charge, date, line))
        })
    }

    fn enter(
        &mut self,
        charge: &Charge,
        part: Interval,
        lost: Option<Timestamp>,
        estimated: bool,
        zone: &TimeZone,
    ) {
        let Some(part) = part.meet(self.month.about()) else {
            return;
        };
        for (date, day) in part.days(zone) {
            if Month::of_date(date) == self.month {
                let line = charge.line(date, day, lost, estimated);
                let (facts, owner) = (&charge.facts, charge.owner.as_ref());
                let is_of = |sku: &Sku| sku.is_of(facts, owner);
                *self.line(date, &facts.resource, is_of, || Sku::of(facts, owner)) += line;
                self.over += line;
            }
        }
    }

    /// The line of that day and hardware; `sku` makes what `is_of` looks for.
    fn line(
        &mut self,
        date: Date,
        resource: &str,
        is_of: impl Fn(&Sku) -> bool,
        sku: impl FnOnce() -> Sku,
    ) -> &mut Line {
        let is_of = |(sku, _): &(Sku, Line)| is_of(sku);
        let today = self
            .days
            .get(&date)
            .and_then(|lines| lines.iter().position(is_of));
        let new = today.is_none().then(|| {
            let elsewhere = || self.days.values().flatten().any(is_of);
            if self.skus() < MAX_SKUS || elsewhere() {
                sku()
            } else {
                Sku::other(resource)
            }
        });
        let lines = self.days.entry(date).or_default();
        let at = match new {
            None => today.unwrap_or_default(),
            Some(sku) => lines
                .iter()
                .position(|(known, _)| *known == sku)
                .unwrap_or_else(|| {
                    lines.push((sku, Line::default()));
                    lines.len() - 1
                }),
        };
        &mut lines[at].1
    }

    fn skus(&self) -> usize {
        self.days
            .values()
            .flatten()
            .map(|(sku, _)| sku)
            .collect::<BTreeSet<_>>()
            .len()
    }
}
