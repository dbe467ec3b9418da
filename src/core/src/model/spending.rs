//! The money of a namespace: what it has spent, what runs and what stopping would cost, as sums
//! that change with each account and pod.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use crate::budget::{FreedBudget, Prioritized, PriorityTotals, Unmanaged};
use crate::calendar::{Interval, Period};
use crate::ledger::LinearSpend;
use crate::money::Money;

use super::event::Name;

/// Between the moment at which a budget is exhausted and the first order to stop, and between a
/// container's end and its being seen.
pub const SLACK_SECONDS: i64 = 10;
/// The longest grace that one pod has in the reserve: what templates may say. A pod can have a
/// longer one, since anybody who may delete pods can choose it; it must not stop all others.
pub const MAX_GRACE_SECONDS: i64 = 3600;

/// The grace of a pod as the reserve counts it.
pub(crate) fn bounded_grace(seconds: i64) -> i64 {
    seconds.clamp(0, MAX_GRACE_SECONDS)
}

/// What a workload's account, or that of a namespace's other pods, means for budgets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccountSpend {
    /// Spend in the period of each kind that held the instant of the report.
    pub spent: BTreeMap<Period, (Interval, LinearSpend)>,
    /// Money an hour of each open charge by the pod's UID; `None` if no price is known.
    pub rates: BTreeMap<Name, Option<Money>>,
    /// Why the account lacks a part that nobody knows.
    pub doubt: Option<String>,
}

/// The spend of all accounts of a namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Spending {
    accounts: BTreeMap<Name, AccountSpend>,
    /// The sum over accounts for each kind of period, and the period that it is of.
    sums: BTreeMap<Period, (Interval, LinearSpend)>,
    /// Money an hour of each open charge of all accounts by the pod's UID; `None` if no price is
    /// known.
    rates: BTreeMap<Name, Option<Money>>,
    /// In how many further accounts the charge of a pod is, until these give it up.
    further: BTreeMap<Name, u32>,
}

impl Spending {
    /// Replaces an account. Returns the UIDs of pods whose charge's rate changed.
    pub(crate) fn set(&mut self, name: Name, account: Option<AccountSpend>) -> BTreeSet<Name> {
        let old = self.accounts.remove(&name).unwrap_or_default();
        let new = account.clone().unwrap_or_default();
        for (period, (within, sum)) in &mut self.sums {
            *sum += part(&new, *period, *within);
            *sum -= part(&old, *period, *within);
        }
        let mut changed: BTreeSet<Name> = old.rates.keys().cloned().collect();
        changed.extend(new.rates.keys().cloned());
        changed.retain(|uid| old.rates.get(uid) != new.rates.get(uid));
        if let Some(account) = account {
            self.accounts.insert(name, account);
        }
        for uid in &changed {
            let had = old.rates.contains_key(uid);
            self.set_rate(uid, had, new.rates.get(uid).copied());
        }
        changed
    }

    /// Takes the rate of a pod in one account, which had it before or not.
    fn set_rate(&mut self, uid: &Name, had: bool, rate: Option<Option<Money>>) {
        let further = self.further.get(uid).copied().unwrap_or(0);
        let now = match (had, rate.is_some()) {
            (false, true) if self.rates.contains_key(uid) => further + 1,
            (true, false) => further.saturating_sub(1),
            _ => further,
        };
        match now {
            0 => drop(self.further.remove(uid)),
            _ => drop(self.further.insert(uid.clone(), now)),
        }
        let of_any = || {
            let mut accounts = self.accounts.values();
            accounts.rfind(|account| account.rates.contains_key(uid))
        };
        let rate = match further.max(now) {
            0 => rate,
            _ => of_any().and_then(|account| account.rates.get(uid).copied()),
        };
        match rate {
            Some(rate) => drop(self.rates.insert(uid.clone(), rate)),
            None => drop(self.rates.remove(uid)),
        }
    }

    /// The account of this name.
    pub(crate) fn account(&self, name: &str) -> Option<&AccountSpend> {
        self.accounts.get(name)
    }

    /// Money an hour of a pod's open charge, if it has one.
    pub(crate) fn rate(&self, uid: &str) -> Option<Option<Money>> {
        self.rates.get(uid).copied()
    }

    /// The spend in the period `within` until `now`.
    pub(crate) fn spent(&mut self, period: Period, within: Interval, now: Timestamp) -> Money {
        let accounts = &self.accounts;
        let sum = self
            .sums
            .entry(period)
            .or_insert_with(|| (within, total(accounts, period, within)));
        if sum.0 != within {
            *sum = (within, total(accounts, period, within));
        }
        sum.1.at(now)
    }

    /// The first second, `from` or later, at which the spend of the period that was last asked for is
    /// `amount` or more; `None` if it never is while accounts stay as they are.
    pub(crate) fn reaches(
        &self,
        period: Period,
        amount: Money,
        from: Timestamp,
    ) -> Option<Timestamp> {
        let (_, sum) = self.sums.get(&period)?;
        sum.reaches(amount, from)
    }

    /// Whether money of a period that some budget counts is being spent.
    pub(crate) fn is_growing(&self) -> bool {
        let mut sums = self.sums.values();
        sums.any(|(_, sum)| sum.rate() > Money::ZERO)
    }

    /// Why some account is in doubt.
    pub(crate) fn doubt(&self) -> Option<&str> {
        let mut accounts = self.accounts.values();
        accounts.find_map(|account| account.doubt.as_deref())
    }

    /// Whether each sum is the sum over all accounts.
    pub(crate) fn is_consistent(&self) -> bool {
        let mut sums = self.sums.iter();
        let accounts = self.accounts.values();
        let rates = accounts.flat_map(|account| account.rates.clone());
        sums.all(|(period, (within, sum))| *sum == total(&self.accounts, *period, *within))
            && rates.collect::<BTreeMap<_, _>>() == self.rates
    }
}

fn total(accounts: &BTreeMap<Name, AccountSpend>, period: Period, within: Interval) -> LinearSpend {
    let mut sum = LinearSpend::default();
    for account in accounts.values() {
        sum += part(account, period, within);
    }
    sum
}

/// What the account spends within the period. In a period that began after the account was
/// reported, only what is open has cost anything, from the period's start on.
fn part(account: &AccountSpend, period: Period, within: Interval) -> LinearSpend {
    match account.spent.get(&period) {
        None => LinearSpend::default(),
        Some((reported, spent)) if reported.start >= within.start => *spent,
        Some((_, spent)) => LinearSpend::new(Money::ZERO, within.start, spent.rate()),
    }
}

/// What pods of one workload, or one pod of no workload, cost: an addend of a namespace's sums.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WorkloadCost {
    /// The value of its PriorityClass; `None` for a pod of no workload.
    pub(crate) priority: Option<i32>,
    /// Seconds from the order to stop until all of it costs nothing.
    pub(crate) stop_seconds: i64,
    /// It stops or shrinks where a workload of higher priority waits for money.
    pub(crate) preemption_allowed: bool,
    /// Money an hour of what holds a node.
    pub(crate) rate: Money,
    /// What stopping what holds a node now would still cost, without pods that were told to stop.
    pub(crate) reserve: Money,
    /// The part of `rate` that pods are which were told to leave or to stop.
    pub(crate) leaving_rate: Money,
    /// The part of `reserve` that they are.
    pub(crate) leaving_reserve: Money,
    /// Money an hour of what was ordered and has no node yet, once it has one.
    pub(crate) starting_rate: Money,
    /// What stopping that would cost once it has a node. Before, it costs nothing.
    pub(crate) starting_reserve: Money,
    /// The part of both of pods that go on though it is told to stop.
    pub(crate) kept_on_stop: FreedBudget,
    /// What stopping replicas would cost that were ordered, and that are waited for no longer, if pods
    /// came of them all the same.
    pub(crate) given_up_reserve: Money,
    /// Of a pod that budgets may evict: its owner, and what evicting it would still cost.
    pub(crate) eviction_reserve: Option<(Name, Money)>,
    /// Pods without a known price.
    pub(crate) unknown: u32,
    /// Pods that were told to stop: money an hour, and when they have stopped at the latest.
    pub(crate) terminating: Vec<(Money, Timestamp)>,
    /// Pods that were told to leave: money an hour, and when they have stopped at the latest.
    pub(crate) draining: Vec<(Money, Timestamp)>,
}

impl WorkloadCost {
    /// The part of it that was not told to leave or to stop, and would be free if it were.
    pub(crate) fn stays(&self) -> FreedBudget {
        let rate = self.rate + self.starting_rate;
        let reserve = self.reserve + self.starting_reserve;
        FreedBudget {
            rate: rate - self.leaving_rate - self.kept_on_stop.rate,
            reserve: reserve - self.leaving_reserve - self.kept_on_stop.reserve,
        }
    }

    /// It in the sums of its priority, if it runs or starts.
    fn prioritized(&self) -> Option<Prioritized> {
        let rate = self.rate + self.starting_rate;
        let priority = self.priority.filter(|_| rate > Money::ZERO)?;
        Some(Prioritized {
            priority,
            rate,
            stop_seconds: self.stop_seconds,
            freed_budget: if self.preemption_allowed {
                self.stays()
            } else {
                FreedBudget::default()
            },
        })
    }
}

/// What costs less with each second because it stops.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stopping {
    /// Money an hour.
    pub(crate) rate: Money,
    /// How many amounts are rounded for it.
    pub(crate) parts: i128,
    /// When one of them becomes less.
    pub(crate) next_second: Option<Timestamp>,
}

/// What evicting pods of no workload would still cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct EvictionReserve {
    all: Money,
    by_owner: BTreeMap<Name, Money>,
}

impl EvictionReserve {
    fn replace(&mut self, old: &Option<(Name, Money)>, new: &Option<(Name, Money)>) {
        let old = old.iter().map(|(owner, reserve)| (owner, -*reserve));
        let new = new.iter().map(|(owner, reserve)| (owner, *reserve));
        for (owner, more) in new.chain(old) {
            self.all += more;
            let reserve = self.by_owner.entry(owner.clone()).or_default();
            *reserve += more;
            if *reserve == Money::ZERO {
                self.by_owner.remove(owner);
            }
        }
    }

    /// The sum without pods of these owners.
    fn without(&self, exempt: &BTreeSet<Name>) -> Money {
        let exempt = exempt.iter().filter_map(|owner| self.by_owner.get(owner));
        let exempt: Money = exempt.copied().sum();
        self.all - exempt
    }
}

/// The sums over the workloads and pods of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    rate: Money,
    reserve: Money,
    leaving_rate: Money,
    leaving_reserve: Money,
    starting_rate: Money,
    starting_reserve: Money,
    given_up_reserve: Money,
    eviction_reserve: EvictionReserve,
    unknown: u32,
    terminating: BTreeMap<(Timestamp, Money), u32>,
    draining: BTreeMap<(Timestamp, Money), u32>,
    priorities: PriorityTotals,
}

impl Totals {
    /// Puts `new` in the place of `old`.
    pub(crate) fn replace(&mut self, old: &WorkloadCost, new: &WorkloadCost) {
        self.rate = self.rate + new.rate - old.rate;
        self.reserve = self.reserve + new.reserve - old.reserve;
        self.starting_rate = self.starting_rate + new.starting_rate - old.starting_rate;
        self.starting_reserve = self.starting_reserve + new.starting_reserve - old.starting_reserve;
        self.given_up_reserve = self.given_up_reserve + new.given_up_reserve - old.given_up_reserve;
        self.eviction_reserve
            .replace(&old.eviction_reserve, &new.eviction_reserve);
        self.unknown = self.unknown + new.unknown - old.unknown;
        self.leaving_rate = self.leaving_rate + new.leaving_rate - old.leaving_rate;
        self.leaving_reserve = self.leaving_reserve + new.leaving_reserve - old.leaving_reserve;
        replace_all(&mut self.terminating, &old.terminating, &new.terminating);
        replace_all(&mut self.draining, &old.draining, &new.draining);
        if let Some(workload) = new.prioritized() {
            self.priorities.add(workload);
        }
        if let Some(workload) = old.prioritized() {
            self.priorities.remove(workload);
        }
    }

    /// What workloads of each priority cost.
    pub(crate) fn priorities(&self) -> &PriorityTotals {
        &self.priorities
    }

    /// What becomes free of the sums at `now` by what was told to leave or to stop.
    pub(crate) fn leaving(&self, now: Timestamp) -> FreedBudget {
        FreedBudget {
            rate: self.leaving_rate,
            reserve: self.leaving_reserve + self.stopping_reserve(now),
        }
    }

    /// Money an hour of everything that holds a node.
    pub(crate) fn rate(&self) -> Money {
        self.rate
    }

    /// Money an hour of what has no node yet, and what stopping it would cost once it has one.
    pub(crate) fn starting(&self) -> (Money, Money) {
        (self.starting_rate, self.starting_reserve)
    }

    /// What stopping everything would cost that may still get a node, once it has one.
    pub(crate) fn without_node(&self) -> Money {
        self.starting_reserve + self.given_up_reserve
    }

    /// What stopping everything that holds a node at `now` would still cost.
    pub(crate) fn reserve(&self, now: Timestamp) -> Money {
        self.reserve + self.stopping_reserve(now)
    }

    /// What evicting the pods of no workload would still cost that these terms evict.
    pub(crate) fn eviction_reserve(&self, unmanaged: &Unmanaged) -> Money {
        match unmanaged {
            Unmanaged::Leave => Money::ZERO,
            Unmanaged::Evict { exempt } => self.eviction_reserve.without(exempt),
        }
    }

    /// What everything that was told to leave or to stop may still cost.
    fn stopping_reserve(&self, now: Timestamp) -> Money {
        let terminating = self.terminating.iter().map(|((at, rate), count)| {
            let left = bounded_grace(at.duration_since(now).as_secs()) + SLACK_SECONDS;
            rate.times(*count).cost_for_seconds_rounded_up(left)
        });
        let draining = self.draining.iter().map(|((at, rate), count)| {
            let left = at.duration_since(now).as_secs().max(SLACK_SECONDS);
            rate.times(*count).cost_for_seconds_rounded_up(left)
        });
        terminating.chain(draining).sum()
    }

    /// What costs less with each second from `now` on, because it stops.
    pub(crate) fn stopping(&self, now: Timestamp) -> Stopping {
        let mut stopping = Stopping::default();
        let terminating = self.terminating.iter().map(|each| (each, 0));
        let draining = self.draining.iter().map(|each| (each, SLACK_SECONDS));
        for (((at, rate), count), least) in terminating.chain(draining) {
            let left = at.duration_since(now).as_secs();
            if left <= least {
                continue;
            }
            stopping.rate += rate.times(*count);
            stopping.parts += 1;
            // the instant at which less than that is left
            let less = SignedDuration::new(left, 0) - SignedDuration::from_nanos(1);
            let next_second = at.checked_sub(less).ok();
            stopping.next_second = stopping.next_second.into_iter().chain(next_second).min();
        }
        stopping
    }

    /// Whether something runs or starts that no price is known for.
    pub(crate) fn has_unknown(&self) -> bool {
        self.unknown > 0
    }
}

/// Puts `new` in the place of `old` among pods that stop.
fn replace_all(
    pods: &mut BTreeMap<(Timestamp, Money), u32>,
    old: &[(Money, Timestamp)],
    new: &[(Money, Timestamp)],
) {
    for (rate, at) in new {
        *pods.entry((*at, *rate)).or_default() += 1;
    }
    for (rate, at) in old {
        let entry = (*at, *rate);
        match pods.get_mut(&entry) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(pods.remove(&entry)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + second).unwrap()
    }

    fn money(text: &str) -> Money {
        text.parse().unwrap()
    }

    fn account(amount: &str, rate: &str, start: i64) -> AccountSpend {
        let within = Interval {
            start: at(start),
            end: at(start + 86_400),
        };
        let spent = LinearSpend::new(money(amount), at(start + 100), money(rate));
        AccountSpend {
            spent: [(Period::Daily, (within, spent))].into(),
            ..AccountSpend::default()
        }
    }

    #[test]
    fn a_pod_that_two_accounts_have_keeps_its_rate_when_one_gives_it_up() {
        let with = |rate: &str| AccountSpend {
            rates: [("pod".into(), Some(money(rate)))].into(),
            ..AccountSpend::default()
        };
        let mut spending = Spending::default();
        spending.set("a".into(), Some(with("1")));
        spending.set("b".into(), Some(with("1")));
        assert!(spending.is_consistent());
        spending.set("b".into(), Some(AccountSpend::default()));
        assert_eq!(spending.rate("pod"), Some(Some(money("1"))));
        assert!(spending.is_consistent());
        spending.set("b".into(), Some(with("2")));
        spending.set("a".into(), None);
        assert_eq!(spending.rate("pod"), Some(Some(money("2"))));
        spending.set("b".into(), None);
        assert_eq!(spending.rate("pod"), None);
        assert!(spending.is_consistent() && spending.further.is_empty());
    }

    #[test]
    fn a_sum_follows_its_accounts() {
        let mut spending = Spending::default();
        let within = Interval {
            start: at(0),
            end: at(86_400),
        };
        spending.set("a".into(), Some(account("1", "3600", 0)));
        assert_eq!(spending.spent(Period::Daily, within, at(100)), money("1"));
        spending.set("b".into(), Some(account("2", "0", 0)));
        spending.set("a".into(), Some(account("5", "3600", 0)));
        assert_eq!(spending.spent(Period::Daily, within, at(101)), money("8"));
        spending.set("b".into(), None);
        assert_eq!(spending.spent(Period::Daily, within, at(101)), money("6"));
        assert!(spending.is_consistent());
    }

    #[test]
    fn a_new_period_begins_with_what_is_open_at_its_start() {
        let mut spending = Spending::default();
        spending.set("a".into(), Some(account("50", "3600", 0)));
        let tomorrow = Interval {
            start: at(86_400),
            end: at(2 * 86_400),
        };
        let spent = spending.spent(Period::Daily, tomorrow, at(86_410));
        assert_eq!(spent, money("10"));
        spending.set("a".into(), Some(account("7", "0", 86_400)));
        let spent = spending.spent(Period::Daily, tomorrow, at(86_500));
        assert_eq!(spent, money("7"));
    }

    #[test]
    fn the_reserve_of_what_stops_shrinks_until_it_has_stopped() {
        let mut totals = Totals::default();
        let stopping = WorkloadCost {
            rate: money("3600"),
            terminating: vec![(money("3600"), at(30))],
            ..WorkloadCost::default()
        };
        totals.replace(&WorkloadCost::default(), &stopping);
        let slack = SLACK_SECONDS;
        let expected = |seconds: i64| Money::from_nanos(i128::from(seconds) * 1_000_000_000);
        assert_eq!(totals.reserve(at(0)), expected(30 + slack));
        assert_eq!(totals.reserve(at(20)), expected(10 + slack));
        assert_eq!(totals.reserve(at(90)), expected(slack));
        totals.replace(&stopping, &WorkloadCost::default());
        assert_eq!(totals, Totals::default());
    }
}
