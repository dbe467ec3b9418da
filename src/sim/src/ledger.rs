//! The ledger: a charge for each pod with GPUs from its binding to its end, and the spend of
//! accounts as the model is told it.

use std::collections::BTreeMap;

use bursar_core::calendar::{Interval, Period};
use bursar_core::ledger::LinearSpend;
use bursar_core::model::{AccountSpend, Key, Name};
use bursar_core::money::Money;
use jiff::Timestamp;
use jiff::tz::TimeZone;

const PERIODS: [Period; 3] = [Period::Daily, Period::Weekly, Period::Monthly];

/// What a pod costs while it holds a node.
#[derive(Clone, Debug)]
pub(crate) struct Charge {
    /// Its account: the namespace, and the workload or `pods`.
    pub(crate) account: Key,
    /// Money an hour; `None` if no price was known at binding.
    pub(crate) rate: Option<Money>,
    /// Its GPUs.
    pub(crate) gpus: u32,
    /// When it was bound.
    pub(crate) start: Timestamp,
    /// When it ended; `None` while it is open.
    pub(crate) end: Option<Timestamp>,
    /// Since when nothing can end it: its node is lost.
    pub(crate) lost: Option<Timestamp>,
}

impl Charge {
    /// What it costs within a span of time, until `now`.
    fn cost(&self, within: Interval, now: Timestamp) -> Money {
        let own = Interval {
            start: self.start,
            end: self.end.unwrap_or(now),
        };
        let seconds = own.intersection(within).map_or(0, Interval::seconds);
        self.rate.unwrap_or_default().cost_for_seconds(seconds)
    }
}

/// One account.
#[derive(Debug, Default)]
struct Account {
    open: BTreeMap<u32, Charge>,
    /// Spend of ended charges in the present period of each kind.
    settled: [Money; 3],
    /// The starts of those periods.
    periods: [Timestamp; 3],
    doubt: bool,
}

/// What an account has cost in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cost: Money,
    pub(crate) gpu_seconds: i64,
}

/// All charges.
#[derive(Debug)]
pub(crate) struct Ledger {
    zone: TimeZone,
    accounts: BTreeMap<Key, Account>,
    ended: Vec<Charge>,
    bounds: [Interval; 3],
}

impl Ledger {
    pub(crate) fn new(zone: TimeZone, now: Timestamp) -> Self {
        let bounds = PERIODS.map(|period| period.bounds(now, &zone));
        Self {
            zone,
            accounts: BTreeMap::new(),
            ended: Vec::new(),
            bounds,
        }
    }

    /// A pod was bound.
    pub(crate) fn open(&mut self, pod: u32, charge: Charge) {
        let account = self.accounts.entry(charge.account.clone()).or_default();
        account.open.insert(pod, charge);
    }

    /// A pod has ended, or is gone.
    pub(crate) fn settle(&mut self, account: &Key, pod: u32, now: Timestamp) {
        self.update_bounds(now);
        let bounds = self.bounds;
        let Some(account) = self.accounts.get_mut(account) else {
            return;
        };
        let Some(mut charge) = account.open.remove(&pod) else {
            return;
        };
        charge.end = Some(now);
        account.begin_periods(&bounds);
        for (settled, within) in account.settled.iter_mut().zip(bounds) {
            *settled += charge.cost(within, now);
        }
        self.ended.push(charge);
    }

    /// The node of a pod is lost, or is back.
    pub(crate) fn set_lost(&mut self, account: &Key, pod: u32, lost: Option<Timestamp>) {
        let account = self.accounts.get_mut(account);
        if let Some(charge) = account.and_then(|account| account.open.get_mut(&pod)) {
            charge.lost = lost;
        }
    }

    /// A part of the account is not known, or all of it is.
    pub(crate) fn set_doubt(&mut self, account: &Key, doubt: bool) {
        self.accounts.entry(account.clone()).or_default().doubt = doubt;
    }

    /// The accounts of all namespaces.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = &Key> {
        self.accounts.keys()
    }

    /// What the model is told of an account at `now`.
    pub(crate) fn report(&mut self, key: &Key, now: Timestamp) -> Option<AccountSpend> {
        self.update_bounds(now);
        let bounds = self.bounds;
        let account = self.accounts.get_mut(key)?;
        account.begin_periods(&bounds);
        let open = account.open.values();
        let rate: Money = open.clone().filter_map(|charge| charge.rate).sum();
        let spent = PERIODS.into_iter().zip(bounds).zip(account.settled);
        let spent = spent.map(|((period, within), settled)| {
            let open: Money = open.clone().map(|charge| charge.cost(within, now)).sum();
            (
                period,
                (within, LinearSpend::new(settled + open, now, rate)),
            )
        });
        let rates = account.open.iter();
        Some(AccountSpend {
            spent: spent.collect(),
            rates: rates
                .map(|(pod, charge)| (uid(*pod), charge.rate))
                .collect(),
            doubt: account
                .doubt
                .then(|| "a record cannot be written".to_owned()),
        })
    }

    /// All charges of a namespace.
    fn charges(&self, namespace: &str) -> impl Iterator<Item = &Charge> {
        let open = self
            .accounts
            .values()
            .flat_map(|account| account.open.values());
        let all = open.chain(&self.ended);
        all.filter(move |charge| *charge.account.namespace == *namespace)
    }

    /// What a namespace has cost within a span of time.
    pub(crate) fn spent(&self, namespace: &str, within: Interval, now: Timestamp) -> Money {
        let charges = self.charges(namespace);
        charges.map(|charge| charge.cost(within, now)).sum()
    }

    /// The part of it from `since` on that no order of the operator could have ended: charges on
    /// lost nodes, and those of pods of no workload.
    pub(crate) fn spent_beyond_control(
        &self,
        namespace: &str,
        within: Interval,
        since: Timestamp,
        now: Timestamp,
    ) -> Money {
        let charges = self.charges(namespace);
        let cost = charges.filter_map(|charge| {
            let start = match &*charge.account.name {
                "pods" => Some(since),
                _ => charge.lost,
            }?;
            let part = within.split(start).1;
            Some(charge.cost(part, now))
        });
        cost.sum()
    }

    /// Money an hour of all open charges of a namespace.
    pub(crate) fn rate(&self, namespace: &str) -> Money {
        let charges = self.charges(namespace);
        let open = charges.filter(|charge| charge.end.is_none());
        open.filter_map(|charge| charge.rate).sum()
    }

    /// What each account has cost until `now`.
    pub(crate) fn usage(&self, now: Timestamp) -> BTreeMap<Key, Usage> {
        let mut usage: BTreeMap<Key, Usage> = BTreeMap::new();
        let all = Interval {
            start: Timestamp::MIN,
            end: now,
        };
        let open = self
            .accounts
            .values()
            .flat_map(|account| account.open.values());
        for charge in open.chain(&self.ended) {
            let sum = usage.entry(charge.account.clone()).or_default();
            sum.cost += charge.cost(all, now);
            let end = charge.end.unwrap_or(now);
            let seconds = end.as_second() - charge.start.as_second();
            sum.gpu_seconds += seconds * i64::from(charge.gpus);
        }
        usage
    }

    fn update_bounds(&mut self, now: Timestamp) {
        for (period, bounds) in PERIODS.into_iter().zip(&mut self.bounds) {
            if now >= bounds.end {
                *bounds = period.bounds(now, &self.zone);
            }
        }
    }
}

impl Account {
    /// Forgets sums of periods that are over.
    fn begin_periods(&mut self, bounds: &[Interval; 3]) {
        let sums = self.settled.iter_mut().zip(&mut self.periods);
        for ((sum, start), within) in sums.zip(bounds) {
            if *start != within.start {
                (*sum, *start) = (Money::ZERO, within.start);
            }
        }
    }
}

/// The UID of a pod.
pub(crate) fn uid(pod: u32) -> Name {
    format!("pod-{pod:06}").into()
}

/// The pod of a UID.
pub(crate) fn pod_of(uid: &str) -> Option<u32> {
    uid.strip_prefix("pod-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        // 2026-11-29T23:00:00Z and later: a day, a week and a month end within 25 hours
        Timestamp::from_second(1_795_993_200 + second).unwrap()
    }

    fn charge(rate: &str, start: i64) -> Charge {
        Charge {
            account: Key::new("team", "infd/chat"),
            rate: Some(rate.parse().unwrap()),
            gpus: 2,
            start: at(start),
            end: None,
            lost: None,
        }
    }

    #[test]
    fn an_account_is_what_its_charges_cost_in_each_period() {
        let key = Key::new("team", "infd/chat");
        let mut ledger = Ledger::new(TimeZone::UTC, at(0));
        ledger.open(1, charge("3600", 0));
        ledger.open(2, charge("7200", 10));
        ledger.settle(&key, 1, at(100));
        let report = ledger.report(&key, at(110)).unwrap();
        for period in PERIODS {
            let spent = report.spent[&period].1;
            assert_eq!(spent.at(at(110)), "300".parse().unwrap());
            assert_eq!(spent.at(at(120)), "320".parse().unwrap());
        }
        assert_eq!(
            report.rates,
            [(uid(2), Some("7200".parse().unwrap()))].into()
        );
        // an hour later a day and a week have begun
        let report = ledger.report(&key, at(3610)).unwrap();
        let spent = |period| report.spent[&period].1.at(at(3610));
        assert_eq!(spent(Period::Daily), "20".parse().unwrap());
        assert_eq!(spent(Period::Weekly), "20".parse().unwrap());
        assert_eq!(spent(Period::Monthly), "7300".parse().unwrap());
        let usage = ledger.usage(at(3610));
        assert_eq!(usage[&key].gpu_seconds, 2 * 100 + 2 * 3600);
        assert_eq!(pod_of(&uid(17)), Some(17));
    }

    #[test]
    fn time_on_a_lost_node_is_beyond_control_and_so_are_pods_of_others() {
        let key = Key::new("team", "infd/chat");
        let mut ledger = Ledger::new(TimeZone::UTC, at(0));
        ledger.open(1, charge("3600", 0));
        let others = Key::new("team", "pods");
        let other = Charge {
            account: others,
            ..charge("3600", 0)
        };
        ledger.open(2, other);
        ledger.set_lost(&key, 1, Some(at(50)));
        let within = Interval {
            start: at(0),
            end: at(3600),
        };
        let beyond = ledger.spent_beyond_control("team", within, at(90), at(100));
        assert_eq!(beyond, "60".parse().unwrap());
        assert_eq!(
            ledger.spent("team", within, at(100)),
            "200".parse().unwrap()
        );
        assert_eq!(ledger.rate("team"), "7200".parse().unwrap());
    }
}
