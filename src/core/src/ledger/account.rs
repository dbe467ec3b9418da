//! One workload's spend in one month: open charges, and the daily costs that are posted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::charge::{Charge, ChargeEnd, Uid};
use super::daily_cost::{CostKey, DailyCost};
use super::invalid::InvalidAccount;
use super::zero_replica_savings::ZeroReplicaPeriod;
use crate::calendar::{Interval, Month};
use crate::money::Money;

/// Kinds of hardware that an account tells apart. Costs of others are posted to [`CostKey::other`],
/// so that a record stays small.
const MAX_COST_KEYS: usize = 64;

/// One workload's spend in one month.
///
/// A pod is open or settled, never both, and settled once: that is why the fields are private.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    month: Month,
    open: OpenCharges,
    settling: BTreeSet<Uid>,
    zero_replica_period: Option<ZeroReplicaPeriod>,
    days: DailyCosts,
    /// The sum of `days`: most questions are about the whole month.
    posted_total: DailyCost,
}

/// The open charges, by pod. Copies of an account share those that have not changed since: a charge
/// is large, and most accounts have one.
pub type OpenCharges = BTreeMap<Uid, Arc<Charge>>;

/// The posted costs, by day and hardware. A day has few kinds of it.
pub type DailyCosts = BTreeMap<Date, Vec<(CostKey, DailyCost)>>;

/// The fields of an account, which [`Account::restore`] checks.
#[derive(Clone, Debug)]
pub struct StoredAccount {
    /// The month.
    pub month: Month,
    /// The charges of pods that still occupy a node.
    pub open: Vec<Charge>,
    /// The pods whose charges are settled and whose finalizer may still be there.
    pub settling: BTreeSet<Uid>,
    /// The time at zero replicas that has not ended.
    pub zero_replica_period: Option<ZeroReplicaPeriod>,
    /// The costs that are posted, by day and hardware.
    pub days: DailyCosts,
}

impl StoredAccount {
    /// The fields of an account without a charge.
    pub fn new(month: Month) -> Self {
        Self {
            month,
            open: Vec::new(),
            settling: BTreeSet::new(),
            zero_replica_period: None,
            days: DailyCosts::new(),
        }
    }
}

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
        let mut open = OpenCharges::new();
        for charge in charges {
            let uid = charge.uid().to_owned();
            if settling.contains(&uid) {
                return Err(InvalidAccount::SettledAndOpen { uid });
            }
            if let Some(charge) = open.insert(uid, Arc::new(charge)) {
                let uid = charge.uid().to_owned();
                return Err(InvalidAccount::OpenTwice { uid });
            }
        }
        let posted_total = days.values().flatten().map(|(_, cost)| *cost).sum();
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
    pub fn open_charges(&self) -> &OpenCharges {
        &self.open
    }

    /// A pod's open charge.
    pub fn open_charge(&self, uid: &str) -> Option<&Charge> {
        self.open.get(uid).map(Arc::as_ref)
    }

    /// A pod's open charge, to note what was observed or to price it.
    pub fn open_charge_mut(&mut self, uid: &str) -> Option<&mut Charge> {
        self.open.get_mut(uid).map(Arc::make_mut)
    }

    /// The open charges, to price them.
    pub fn open_charges_mut(&mut self) -> impl Iterator<Item = &mut Charge> {
        self.open.values_mut().map(Arc::make_mut)
    }

    /// The pods whose charges are settled and whose finalizer may still be there.
    pub fn settling(&self) -> &BTreeSet<Uid> {
        &self.settling
    }

    /// The time at zero replicas that has not ended.
    pub fn zero_replica_period(&self) -> Option<&ZeroReplicaPeriod> {
        self.zero_replica_period.as_ref()
    }

    /// The posted costs, by day and hardware.
    pub fn days(&self) -> &DailyCosts {
        &self.days
    }

    /// Takes in a charge. False, and nothing changes, if the account contains the pod already.
    pub fn open(&mut self, charge: Charge) -> bool {
        if self.contains(charge.uid()) {
            return false;
        }
        self.open.insert(charge.uid().to_owned(), Arc::new(charge));
        true
    }

    /// Takes in a charge that an earlier month may have begun, without what only that month needs.
    /// False, and nothing changes, if the account contains the pod already.
    pub fn carry_forward(&mut self, charge: &Charge, zone: &TimeZone) -> bool {
        if self.contains(charge.uid()) {
            return false;
        }
        let mut charge = charge.clone();
        charge.drop_before(self.month.bounds(zone).start, zone);
        self.open(charge)
    }

    /// The money that is posted.
    pub fn settled_total(&self) -> Money {
        let costs = self.days().values().flatten();
        costs.map(|(_, cost)| cost.cost.total()).sum()
    }

    /// Whether a pod is open or settled here.
    pub fn contains(&self, uid: &str) -> bool {
        self.settling.contains(uid) || self.open.contains_key(uid)
    }

    /// Gives a charge up that another account has too. False, and nothing changes, if it is not open
    /// here, or if some of it is posted: a posted cost is never taken back.
    pub fn withdraw(&mut self, uid: &str) -> bool {
        let is_unposted = |charge: &&Charge| charge.posted_until().is_none();
        let withdrawn = self.open_charge(uid).filter(is_unposted).is_some();
        if withdrawn {
            self.open.remove(uid);
        }
        withdrawn
    }

    /// Posts the part of `charge` that this month still lacks. False, and nothing changes, if the
    /// pod is settled already.
    pub fn settle(&mut self, charge: &Charge, end: ChargeEnd, zone: &TimeZone) -> bool {
        if !self.settling.insert(charge.uid().to_owned()) {
            return false;
        }
        let open = self.open.remove(charge.uid());
        let charge = open.as_deref().unwrap_or(charge);
        // a node that reported the end was heard of again
        let lost = charge.node_lost_since().filter(|_| end.estimated);
        let part = charge.unposted(end.at);
        self.post(charge, part, lost, end.estimated, zone);
        true
    }

    /// Posts the cost of an open charge until `until`, a midnight of `zone`. The charge stays open,
    /// unless the month is over by then: its remainder is in the next month's account. False, and
    /// nothing changes, if it is posted so far.
    ///
    /// Only for a pod that is known to have run at `until`: a posted cost is never taken back.
    /// Nothing is posted while no price is known, because the first price counts from the start.
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
            Arc::make_mut(&mut charge).note_posted(until, zone);
            self.open.insert(uid.to_owned(), charge);
        }
        true
    }

    /// Notes since when the service has had no replica. False, and nothing changes, if that is
    /// noted already.
    pub fn begin_zero_replica_period(&mut self, period: ZeroReplicaPeriod) -> bool {
        let begins = self.zero_replica_period.is_none();
        if begins {
            self.zero_replica_period = Some(period);
        }
        begins
    }

    /// Ends the time at zero replicas at `at`, and posts what it saved. False, and nothing changes,
    /// if there is none.
    pub fn end_zero_replica_period(&mut self, at: Timestamp, zone: &TimeZone) -> bool {
        let Some(period) = self.zero_replica_period.take() else {
            return false;
        };
        let part = period
            .interval_until(at)
            .intersection(self.month.bounds(zone));
        for (date, cost) in part
            .into_iter()
            .flat_map(|part| period.daily_costs(part, zone))
        {
            let is_key = |key: &CostKey| *key == period.cost_key;
            *self.entry(date, &period.cost_key.resource, is_key, || {
                period.cost_key.clone()
            }) += cost;
            self.posted_total += cost;
        }
        true
    }

    /// Forgets that a pod was settled. Only for a pod that is gone from a live read.
    pub fn forget_settled(&mut self, uid: &str) -> bool {
        self.settling.remove(uid)
    }

    /// True if the accounts differ in nothing but the usage of open charges, which changes all the
    /// time.
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

    /// The cost within `within` until `now`: posted days, open charges, and savings at zero
    /// replicas. `within` begins and ends at midnights of `zone`.
    pub fn sum(&self, within: Interval, now: Timestamp, zone: &TimeZone) -> DailyCost {
        let mut sum = self.posted(within, zone);
        if !self.open.is_empty() {
            sum += self
                .unposted_costs(within, now, zone)
                .map(|(_, _, cost)| cost)
                .sum();
        }
        if let Some((period, part)) = self.zero_replica_part(within, now, zone) {
            sum.saved += period.saved(part);
        }
        sum
    }

    /// The cost within `within` that is posted. `within` begins and ends at midnights of `zone`.
    pub(super) fn posted(&self, within: Interval, zone: &TimeZone) -> DailyCost {
        let days = zone.to_datetime(within.start).date()..zone.to_datetime(within.end).date();
        if days.start <= self.month.first() && self.month.next().first() <= days.end {
            return self.posted_total;
        }
        let costs = self.days.range(days).flat_map(|(_, costs)| costs);
        costs.map(|(_, cost)| *cost).sum()
    }

    /// The daily costs of the month until `now`, with those of open charges and the savings at zero
    /// replicas.
    pub fn daily_costs(
        &self,
        now: Timestamp,
        zone: &TimeZone,
    ) -> BTreeMap<(Date, CostKey), DailyCost> {
        let mut all: BTreeMap<(Date, CostKey), DailyCost> = BTreeMap::new();
        for (date, costs) in &self.days {
            for (key, cost) in costs {
                *all.entry((*date, key.clone())).or_default() += *cost;
            }
        }
        for (charge, date, cost) in self.unposted_costs(self.month.bounds(zone), now, zone) {
            let key = CostKey::new(charge.attributes(), charge.owner());
            *all.entry((date, key)).or_default() += cost;
        }
        if let Some((period, part)) = self.zero_replica_part(self.month.bounds(zone), now, zone) {
            for (date, cost) in period.daily_costs(part, zone) {
                *all.entry((date, period.cost_key.clone())).or_default() += cost;
            }
        }
        all
    }

    /// The time at zero replicas, and its part that lies in `within` and in the month.
    fn zero_replica_part(
        &self,
        within: Interval,
        now: Timestamp,
        zone: &TimeZone,
    ) -> Option<(&ZeroReplicaPeriod, Interval)> {
        let period = self.zero_replica_period.as_ref()?;
        let within = within.intersection(self.month.bounds(zone))?;
        Some((period, period.interval_until(now).intersection(within)?))
    }

    /// The daily costs within `within` of open charges that are not posted.
    pub fn unposted_costs(
        &self,
        within: Interval,
        now: Timestamp,
        zone: &TimeZone,
    ) -> impl Iterator<Item = (&Charge, Date, DailyCost)> {
        let within = within.intersection(self.month.bounds(zone));
        self.open.values().flat_map(move |charge| {
            let charge = charge.as_ref();
            let part = within.and_then(|within| within.intersection(charge.unposted(now)));
            let costs = part
                .into_iter()
                .flat_map(move |part| charge.daily_costs(part, zone));
            costs.map(move |(date, cost)| (charge, date, cost))
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
                let cost = charge.cost_of_day(date, day, lost, estimated);
                let (attributes, owner) = (charge.attributes(), charge.owner());
                let is_key = |key: &CostKey| key.matches(attributes, owner);
                *self.entry(date, &attributes.resource, is_key, || {
                    CostKey::new(attributes, owner)
                }) += cost;
                self.posted_total += cost;
            }
        }
    }

    /// The cost of that day and hardware; `new` makes the key that `is_key` looks for.
    fn entry(
        &mut self,
        date: Date,
        resource: &str,
        is_key: impl Fn(&CostKey) -> bool,
        new: impl FnOnce() -> CostKey,
    ) -> &mut DailyCost {
        let is_key = |(key, _): &(CostKey, DailyCost)| is_key(key);
        let today = self
            .days
            .get(&date)
            .and_then(|costs| costs.iter().position(is_key));
        let added = today.is_none().then(|| {
            let elsewhere = || self.days.values().flatten().any(is_key);
            if self.cost_key_count() < MAX_COST_KEYS || elsewhere() {
                new()
            } else {
                CostKey::other(resource)
            }
        });
        let costs = self.days.entry(date).or_default();
        let at = match added {
            None => today.unwrap_or_default(),
            Some(key) => costs
                .iter()
                .position(|(known, _)| *known == key)
                .unwrap_or_else(|| {
                    costs.push((key, DailyCost::default()));
                    costs.len() - 1
                }),
        };
        &mut costs[at].1
    }

    fn cost_key_count(&self) -> usize {
        self.days
            .values()
            .flatten()
            .map(|(key, _)| key)
            .collect::<BTreeSet<_>>()
            .len()
    }
}
