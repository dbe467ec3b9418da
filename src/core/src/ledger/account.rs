//! One workload's spend in one month: open charges, and the lines of what is over.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::charge::{Charge, ChargeEnd, Uid};
use super::daily_cost::{CostKey, DailyCost};
use super::zero_replica_savings::ZeroReplicaPeriod;
use crate::calendar::{Interval, Month};
use crate::money::Money;

/// Kinds of hardware that an account tells apart; what comes after them is kept under [`Sku::other`], so that a record stays small.
const MAX_COST_KEYS: usize = 64;

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
    pub zero_replica_period: Option<ZeroReplicaPeriod>,
    days: DailyCosts,
    /// What `days` sum to: most questions are about the whole month.
    posted_total: DailyCost,
}

/// What is over, by day and hardware. A day has few kinds of it.
pub type DailyCosts = BTreeMap<Date, Vec<(CostKey, DailyCost)>>;

impl Account {
    /// An account without a charge.
    pub fn new(month: Month) -> Self {
        Self {
            month,
            open: BTreeMap::new(),
            settling: BTreeSet::new(),
            zero_replica_period: None,
            days: DailyCosts::new(),
            posted_total: DailyCost::default(),
        }
    }

    /// The account with these daily lines.
    pub fn with_days(self, days: DailyCosts) -> Self {
        let over = days.values().flatten().map(|(_, line)| *line).sum();
        Self {
            days,
            posted_total: over,
            ..self
        }
    }

    /// What is over, by day and hardware.
    pub fn days(&self) -> &DailyCosts {
        &self.days
    }

    /// Takes in a charge. False, and nothing changes, if the pod is known already.
    pub fn open(&mut self, charge: Charge) -> bool {
        if self.contains(&charge.uid) {
            return false;
        }
        self.open.insert(charge.uid.clone(), charge);
        true
    }

    /// Takes in a charge that an earlier month may have begun, without what only that one needs. False, and nothing changes, if the
    /// pod is known already.
    pub fn carry_forward(&mut self, charge: &Charge, zone: &TimeZone) -> bool {
        if self.contains(&charge.uid) {
            return false;
        }
        let mut charge = charge.clone();
        charge.drop_before(self.month.bounds(zone).start, zone);
        self.open(charge)
    }

    /// What is over cost so much.
    pub fn settled_total(&self) -> Money {
        let lines = self.days().values().flatten();
        lines.map(|(_, line)| line.cost.total()).sum()
    }

    /// Whether a pod is open or settled here.
    pub fn contains(&self, uid: &str) -> bool {
        self.settling.contains(uid) || self.open.contains_key(uid)
    }

    /// Moves what this month still lacks of `charge` into the daily lines. False, and nothing changes, if that was done already.
    pub fn settle(&mut self, charge: &Charge, end: ChargeEnd, zone: &TimeZone) -> bool {
        if !self.settling.insert(charge.uid.clone()) {
            return false;
        }
        let open = self.open.remove(&charge.uid);
        let charge = open.as_ref().unwrap_or(charge);
        // a node that told the end was heard of again
        let lost = charge.node_lost_since.filter(|_| end.estimated);
        let part = charge.unposted(end.at);
        self.post(charge, part, lost, end.estimated, zone);
        true
    }

    /// Moves what an open charge cost until `until`, a midnight of `zone`, into the daily lines. The charge stays open, unless the
    /// month is over by then: what is left of it is in the next month's account. False, and nothing changes, if it is booked so far.
    ///
    /// Only for a pod that is known to have run at `until`: what is booked is never taken back. So nothing is booked while no price is
    /// known, because the first one counts from the start.
    pub fn post_days_until(&mut self, uid: &str, until: Timestamp, zone: &TimeZone) -> bool {
        let Some(mut charge) = self.open.remove(uid) else {
            return false;
        };
        let until = until.min(self.month.bounds(zone).end);
        let part = charge.unposted(until);
        if part.is_empty() || charge.rates.is_empty() {
            self.open.insert(uid.to_owned(), charge);
            return false;
        }
        self.post(&charge, part, charge.node_lost_since, false, zone);
        if until < self.month.bounds(zone).end {
            charge.posted_until = Some(until);
            charge.drop_before(until, zone);
            self.open.insert(uid.to_owned(), charge);
        }
        true
    }

    /// Moves what the rest saved until `at` into the daily lines: it is over then. False, and nothing changes, without a rest.
    pub fn end_zero_replica_period(&mut self, at: Timestamp, zone: &TimeZone) -> bool {
        let Some(rest) = self.zero_replica_period.take() else {
            return false;
        };
        let part = rest
            .interval_until(at)
            .intersection(self.month.bounds(zone));
        for (date, line) in part
            .into_iter()
            .flat_map(|part| rest.daily_costs(part, zone))
        {
            let is_of = |sku: &CostKey| *sku == rest.cost_key;
            *self.entry(date, &rest.cost_key.resource, is_of, || {
                rest.cost_key.clone()
            }) += line;
            self.posted_total += line;
        }
        true
    }

    /// Forgets that a pod was settled. Only for a pod that is gone from a live read.
    pub fn forget_settled(&mut self, uid: &str) -> bool {
        self.settling.remove(uid)
    }

    /// The sum of what `within` cost until `now`: what is over, open charges and a rest. `within` begins and ends at midnights of `zone`.
    pub fn sum(&self, within: Interval, now: Timestamp, zone: &TimeZone) -> DailyCost {
        let days = zone.to_datetime(within.start).date()..zone.to_datetime(within.end).date();
        let mut sum = if days.start <= self.month.first() && self.month.next().first() <= days.end {
            self.posted_total
        } else {
            let lines = self.days.range(days).flat_map(|(_, lines)| lines);
            lines.map(|(_, line)| *line).sum()
        };
        if !self.open.is_empty() {
            sum += self
                .unposted_costs(within, now, zone)
                .map(|(_, _, line)| line)
                .sum();
        }
        if let Some((rest, part)) = self.zero_replica_part(within, now, zone) {
            sum.saved += rest.saved(part);
        }
        sum
    }

    /// All lines of the month until `now`, those of open charges and of a rest too.
    pub fn daily_costs(
        &self,
        now: Timestamp,
        zone: &TimeZone,
    ) -> BTreeMap<(Date, CostKey), DailyCost> {
        let mut all: BTreeMap<(Date, CostKey), DailyCost> = BTreeMap::new();
        for (date, lines) in &self.days {
            for (sku, line) in lines {
                *all.entry((*date, sku.clone())).or_default() += *line;
            }
        }
        for (charge, date, line) in self.unposted_costs(self.month.bounds(zone), now, zone) {
            let sku = CostKey::new(&charge.attributes, charge.owner.as_ref());
            *all.entry((date, sku)).or_default() += line;
        }
        if let Some((rest, part)) = self.zero_replica_part(self.month.bounds(zone), now, zone) {
            for (date, line) in rest.daily_costs(part, zone) {
                *all.entry((date, rest.cost_key.clone())).or_default() += line;
            }
        }
        all
    }

    /// The rest, and the part of it that lies within and in the month.
    fn zero_replica_part(
        &self,
        within: Interval,
        now: Timestamp,
        zone: &TimeZone,
    ) -> Option<(&ZeroReplicaPeriod, Interval)> {
        let rest = self.zero_replica_period.as_ref()?;
        let within = within.intersection(self.month.bounds(zone))?;
        Some((rest, rest.interval_until(now).intersection(within)?))
    }

    /// The lines within `within` that open charges have not booked.
    pub fn unposted_costs(
        &self,
        within: Interval,
        now: Timestamp,
        zone: &TimeZone,
    ) -> impl Iterator<Item = (&Charge, Date, DailyCost)> {
        let within = within.intersection(self.month.bounds(zone));
        self.open.values().flat_map(move |charge| {
            let part = within.and_then(|within| within.intersection(charge.unposted(now)));
            let lines = part
                .into_iter()
                .flat_map(move |part| charge.daily_costs(part, zone));
            lines.map(move |(date, line)| (charge, date, line))
        })
    }

    fn post(
        &mut self,
        charge: &Charge,
        part: Interval,
        lost: Option<Timestamp>,
        estimated: bool,
        zone: &TimeZone,
    ) {
        let Some(part) = part.intersection(self.month.approximate_bounds()) else {
            return;
        };
        for (date, day) in part.days(zone) {
            if Month::containing_date(date) == self.month {
                let line = charge.cost_of_day(date, day, lost, estimated);
                let (facts, owner) = (&charge.attributes, charge.owner.as_ref());
                let is_of = |sku: &CostKey| sku.matches(facts, owner);
                *self.entry(date, &facts.resource, is_of, || CostKey::new(facts, owner)) += line;
                self.posted_total += line;
            }
        }
    }

    /// The line of that day and hardware; `sku` makes what `is_of` looks for.
    fn entry(
        &mut self,
        date: Date,
        resource: &str,
        is_of: impl Fn(&CostKey) -> bool,
        sku: impl FnOnce() -> CostKey,
    ) -> &mut DailyCost {
        let is_of = |(sku, _): &(CostKey, DailyCost)| is_of(sku);
        let today = self
            .days
            .get(&date)
            .and_then(|lines| lines.iter().position(is_of));
        let new = today.is_none().then(|| {
            let elsewhere = || self.days.values().flatten().any(is_of);
            if self.cost_key_count() < MAX_COST_KEYS || elsewhere() {
                sku()
            } else {
                CostKey::other(resource)
            }
        });
        let lines = self.days.entry(date).or_default();
        let at = match new {
            None => today.unwrap_or_default(),
            Some(sku) => lines
                .iter()
                .position(|(known, _)| *known == sku)
                .unwrap_or_else(|| {
                    lines.push((sku, DailyCost::default()));
                    lines.len() - 1
                }),
        };
        &mut lines[at].1
    }

    fn cost_key_count(&self) -> usize {
        self.days
            .values()
            .flatten()
            .map(|(sku, _)| sku)
            .collect::<BTreeSet<_>>()
            .len()
    }
}
