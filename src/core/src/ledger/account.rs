//! One workload's spend in one month: open charges, and the lines of what is over.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::charge::{Charge, ChargeEnd, Uid};
use super::daily_cost::{CostKey, DailyCost};
use super::stored::{InvalidAccount, StoredAccount};
use super::zero_replica_savings::ZeroReplicaPeriod;
use crate::calendar::{Interval, Month};
use crate::money::Money;

/// Kinds of hardware that an account tells apart; what comes after them is kept under [`Sku::other`], so that a record stays small.
const MAX_COST_KEYS: usize = 64;

/// One workload's spend in one month.
///
/// A pod is open or settled, never both, and settled once: that is why the fields are private.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    month: Month,
    open: BTreeMap<Uid, Charge>,
    settling: BTreeSet<Uid>,
    zero_replica_period: Option<ZeroReplicaPeriod>,
    days: DailyCosts,
    /// The sum of `days`: most questions are about the whole month.
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

    /// The account that was stored.
    ///
    /// # Errors
    /// The first field whose value no account can have.
    pub fn restore(stored: StoredAccount) -> Result<Self, InvalidAccount> {
        let StoredAccount {
            month,
            open: charges,
            settling,
            zero_replica_period,
            days,
        } = stored;
        let outside = |date: &&Date| Month::containing_date(**date) != month;
        if let Some(date) = days.keys().find(outside) {
            return Err(InvalidAccount::DayOutsideMonth { date: *date, month });
        }
        let mut open: BTreeMap<Uid, Charge> = BTreeMap::new();
        for charge in charges {
            let uid = charge.uid().to_owned();
            if settling.contains(&uid) {
                return Err(InvalidAccount::SettledAndOpen { uid });
            }
            if let Some(charge) = open.insert(uid, charge) {
                let uid = charge.uid().to_owned();
                return Err(InvalidAccount::OpenTwice { uid });
            }
        }
        let posted_total = days.values().flatten().map(|(_, line)| *line).sum();
        Ok(Self {
            month,
            open,
            settling,
            zero_replica_period,
            days,
            posted_total,
        })
    }

    /// The month.
    pub fn month(&self) -> Month {
        self.month
    }

    /// The charges of pods that still occupy a node.
    pub fn open_charges(&self) -> &BTreeMap<Uid, Charge> {
        &self.open
    }

    /// A pod's open charge.
    pub fn open_charge(&self, uid: &str) -> Option<&Charge> {
        self.open.get(uid)
    }

    /// A pod's open charge, to note what was observed or to price it.
    pub fn open_charge_mut(&mut self, uid: &str) -> Option<&mut Charge> {
        self.open.get_mut(uid)
    }

    /// The open charges, to price them.
    pub fn open_charges_mut(&mut self) -> impl Iterator<Item = &mut Charge> {
        self.open.values_mut()
    }

    /// The pods whose charges are settled and whose finalizer may still be there.
    pub fn settling(&self) -> &BTreeSet<Uid> {
        &self.settling
    }

    /// The time at zero replicas that has not ended.
    pub fn zero_replica_period(&self) -> Option<&ZeroReplicaPeriod> {
        self.zero_replica_period.as_ref()
    }

    /// What is over, by day and hardware.
    pub fn days(&self) -> &DailyCosts {
        &self.days
    }

    /// Takes in a charge. False, and nothing changes, if the pod is known already.
    pub fn open(&mut self, charge: Charge) -> bool {
        if self.contains(charge.uid()) {
            return false;
        }
        self.open.insert(charge.uid().to_owned(), charge);
        true
    }

    /// Takes in a charge that an earlier month may have begun, without what only that one needs. False, and nothing changes, if the
    /// pod is known already.
    pub fn carry_forward(&mut self, charge: &Charge, zone: &TimeZone) -> bool {
        if self.contains(charge.uid()) {
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
        if !self.settling.insert(charge.uid().to_owned()) {
            return false;
        }
        let open = self.open.remove(charge.uid());
        let charge = open.as_ref().unwrap_or(charge);
        // a node that told the end was heard of again
        let lost = charge.node_lost_since().filter(|_| end.estimated);
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
        if part.is_empty() || charge.rates().is_empty() {
            self.open.insert(uid.to_owned(), charge);
            return false;
        }
        self.post(&charge, part, charge.node_lost_since(), false, zone);
        if until < self.month.bounds(zone).end {
            charge.note_posted(until, zone);
            self.open.insert(uid.to_owned(), charge);
        }
        true
    }

    /// Notes that the service stands at zero replicas. False, and nothing changes, if that is noted already.
    pub fn begin_zero_replica_period(&mut self, period: ZeroReplicaPeriod) -> bool {
        let begins = self.zero_replica_period.is_none();
        if begins {
            self.zero_replica_period = Some(period);
        }
        begins
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

    /// True if the accounts differ in nothing but the usage of open charges, which changes all the time.
    pub fn equals_but_for_usage(&self, other: &Self) -> bool {
        let Self {
            month,
            open,
            settling,
            zero_replica_period,
            days,
            // the sum of `days`
            posted_total: _,
        } = self;
        let pairs = || open.values().zip(other.open.values());
        *month == other.month
            && open.len() == other.open.len()
            && pairs().all(|(one, other)| one.equals_but_for_usage(other))
            && *settling == other.settling
            && *zero_replica_period == other.zero_replica_period
            && *days == other.days
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
            let sku = CostKey::new(charge.attributes(), charge.owner());
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
                let (facts, owner) = (charge.attributes(), charge.owner());
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
