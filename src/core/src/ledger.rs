//! The ledger: what each pod's stay on a node costs, and the account that every workload has for every month.
//!
//! A [`Charge`] is open from its pod's binding until the pod's containers have ended; then it is settled, exactly once for each
//! (pod UID, month), into an [`Account`]'s daily sums. The amount of a charge up to time t is, for each of its rates and each part
//! of the cost, `floor(nano-units an hour * whole seconds / 3600)` since the start of that rate; the amount of any part of the
//! charge is the difference of two such amounts, so that parts always sum to the whole.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::money::{Cost, Money};
use crate::period::{Interval, Month};
use crate::price::{Facts, Priced};

/// A pod's UID.
pub type Uid = String;

/// A rate and when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Since when.
    pub from: Timestamp,
    /// Cost an hour.
    pub per_hour: Cost,
    /// The dearest price stands in, because none matched.
    pub provisional: bool,
}

/// One pod's occupation of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The pod's UID.
    pub uid: Uid,
    /// The pod's name.
    pub pod: String,
    /// What it is priced by.
    pub facts: Facts,
    /// When the pod was bound to its node.
    pub start: Timestamp,
    /// The rates one after the other; none while no price is known.
    pub rates: Vec<Rate>,
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
    /// The cost within `part`.
    pub fn cost(&self, part: Interval) -> Cost {
        self.cost_until(part.end) - self.cost_until(part.start)
    }

    /// Cost an hour at this moment; `None` while no price is known.
    pub fn rate(&self) -> Option<Cost> {
        self.rates.last().map(|rate| rate.per_hour)
    }

    /// Takes the list's present answer at `now`. A first price counts from the start of the charge; a changed one from `now`.
    /// True if this changed the charge.
    pub fn reprice(&mut self, priced: &Priced, now: Timestamp) -> bool {
        let Some(per_hour) = priced.rate().map(|quote| quote.cost) else {
            // the last known rate goes on: unknown is not zero
            return false;
        };
        let provisional = matches!(priced, Priced::Provisional(_));
        let from = match self.rates.last_mut() {
            None => self.start,
            Some(last) if last.per_hour == per_hour => {
                let changed = last.provisional != provisional;
                last.provisional = provisional;
                return changed;
            }
            Some(_) => now.max(self.start),
        };
        // a rate that would have lasted no time is replaced
        self.rates.retain(|rate| rate.from < from);
        self.rates.push(Rate {
            from,
            per_hour,
            provisional,
        });
        true
    }

    fn cost_until(&self, at: Timestamp) -> Cost {
        let ends = self
            .rates
            .iter()
            .skip(1)
            .map(|rate| rate.from)
            .chain([Timestamp::MAX]);
        self.rates
            .iter()
            .zip(ends)
            .map(|(rate, end)| {
                let seconds = at.min(end).as_second() - rate.from.as_second();
                rate.per_hour.map(|part| part.per_hour_for(seconds.max(0)))
            })
            .sum()
    }

    fn is_provisional_in(&self, part: Interval) -> bool {
        let ends = self
            .rates
            .iter()
            .skip(1)
            .map(|rate| rate.from)
            .chain([Timestamp::MAX]);
        self.rates.iter().zip(ends).any(|(rate, end)| {
            rate.provisional
                && part
                    .meet(Interval {
                        start: rate.from,
                        end,
                    })
                    .is_some()
        })
    }
}

/// What was settled on one day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DaySum {
    /// The cost.
    pub cost: Cost,
    /// The part of `cost.total()` that rests on an estimated end or a provisional price.
    pub estimated: Money,
    /// GPUs times seconds.
    pub gpu_seconds: i64,
    /// The part of `gpu_seconds` that no price was ever known for, and that `cost` lacks.
    pub unpriced_gpu_seconds: i64,
}

impl std::ops::AddAssign for DaySum {
    fn add_assign(&mut self, other: Self) {
        self.cost += other.cost;
        self.estimated += other.estimated;
        self.gpu_seconds += other.gpu_seconds;
        self.unpriced_gpu_seconds += other.unpriced_gpu_seconds;
    }
}

/// One workload's spend in one month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The month.
    pub month: Month,
    /// Charges of pods that still hold a node.
    pub open: BTreeMap<Uid, Charge>,
    /// Sums of what is settled.
    pub days: BTreeMap<Date, DaySum>,
    /// Pods whose charges are in `days` and whose finalizer may still be there.
    pub settling: BTreeSet<Uid>,
}

impl Account {
    /// An account without a charge.
    pub fn new(month: Month) -> Self {
        Self {
            month,
            open: BTreeMap::new(),
            days: BTreeMap::new(),
            settling: BTreeSet::new(),
        }
    }

    /// Takes in a charge. False, and nothing changes, if the pod is known already.
    pub fn open(&mut self, charge: Charge) -> bool {
        if self.settling.contains(&charge.uid) || self.open.contains_key(&charge.uid) {
            return false;
        }
        self.open.insert(charge.uid.clone(), charge);
        true
    }

    /// Moves this month's part of `charge` into the daily sums. False, and nothing changes, if that was done already.
    pub fn settle(&mut self, charge: &Charge, end: End, zone: &TimeZone) -> bool {
        if !self.settling.insert(charge.uid.clone()) {
            return false;
        }
        self.open.remove(&charge.uid);
        let stay = Interval {
            start: charge.start,
            end: end.at.max(charge.start),
        };
        for (day, sum) in day_sums(
            charge,
            stay.meet(self.month.bounds(zone)),
            end.estimated,
            zone,
        ) {
            *self.days.entry(day).or_default() += sum;
        }
        true
    }

    /// Forgets that a pod was settled. Only for a pod that is gone from a live read.
    pub fn forget(&mut self, uid: &str) -> bool {
        self.settling.remove(uid)
    }

    /// The sum of what `within` cost until `now`: settled days, and open charges up to their pod's end where `ended` knows one.
    /// `within` begins and ends at midnights of `zone`.
    pub fn sum(
        &self,
        within: Interval,
        now: Timestamp,
        ended: impl Fn(&str) -> Option<Timestamp>,
        zone: &TimeZone,
    ) -> DaySum {
        let mut sum = DaySum::default();
        let first = zone.to_datetime(within.start).date();
        let after = zone.to_datetime(within.end).date();
        for (_, day) in self.days.range(first..after) {
            sum += *day;
        }
        let within = within.meet(self.month.bounds(zone));
        for charge in self.open.values() {
            let end = ended(&charge.uid).unwrap_or(now).min(now).max(charge.start);
            let part = within.and_then(|within| {
                within.meet(Interval {
                    start: charge.start,
                    end,
                })
            });
            for (_, day) in day_sums(charge, part, false, zone) {
                sum += day;
            }
        }
        sum
    }
}

fn day_sums<'a>(
    charge: &'a Charge,
    part: Option<Interval>,
    end_estimated: bool,
    zone: &'a TimeZone,
) -> impl Iterator<Item = (Date, DaySum)> + use<'a> {
    part.into_iter().flat_map(move |part| {
        part.days(zone).map(move |(day, part)| {
            let cost = charge.cost(part);
            let gpu_seconds =
                i64::from(charge.facts.gpus) * (part.end.as_second() - part.start.as_second());
            let estimated = end_estimated || charge.is_provisional_in(part);
            let sum = DaySum {
                cost,
                estimated: if estimated { cost.total() } else { Money::ZERO },
                gpu_seconds,
                unpriced_gpu_seconds: if charge.rates.is_empty() {
                    gpu_seconds
                } else {
                    0
                },
            };
            (day, sum)
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: i64 = 1_796_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(START + seconds).unwrap()
    }

    fn compute(nanos: i128) -> Cost {
        Cost {
            compute: Money::from_nanos(nanos),
            ..Cost::ZERO
        }
    }

    fn charge(nanos_per_hour: i128) -> Charge {
        Charge {
            uid: "u1".into(),
            pod: "chat-0".into(),
            facts: Facts {
                resource: "nvidia.com/gpu".into(),
                gpus: 2,
                node_gpus: 8,
                ..Facts::default()
            },
            start: at(0),
            rates: vec![Rate {
                from: at(0),
                per_hour: compute(nanos_per_hour),
                provisional: false,
            }],
        }
    }

    fn accounts(charge: &Charge, end: End, zone: &TimeZone) -> Vec<Account> {
        Interval {
            start: charge.start,
            end: end.at,
        }
        .months(zone)
        .map(|month| {
            let mut account = Account::new(month);
            account.settle(charge, end, zone);
            account
        })
        .collect()
    }

    fn total(accounts: &[Account]) -> Money {
        accounts
            .iter()
            .flat_map(|account| account.days.values())
            .map(|day| day.cost.total())
            .sum()
    }

    #[test]
    fn settling_twice_counts_once() {
        let (zone, charge) = (TimeZone::UTC, charge(3_600_000_000_000));
        let end = End {
            at: at(90),
            estimated: false,
        };
        let mut account = Account::new(Month::of(at(0), &zone));
        assert!(account.open(charge.clone()));
        assert!(account.settle(&charge, end, &zone));
        assert!(
            !account.settle(&charge, end, &zone),
            "the second time must change nothing"
        );
        assert!(!account.open(charge), "a settled pod must not open again");
        assert_eq!(
            account
                .days
                .values()
                .map(|day| day.cost.total())
                .sum::<Money>(),
            Money::from_nanos(90_000_000_000)
        );
        assert_eq!(
            account
                .days
                .values()
                .map(|day| day.gpu_seconds)
                .sum::<i64>(),
            180
        );
    }

    #[test]
    fn a_first_price_counts_from_the_start_and_a_new_one_from_its_moment() {
        let mut charge = charge(0);
        charge.rates.clear();
        assert!(charge.reprice(&Priced::Provisional(compute(3_600).into()), at(10)));
        assert_eq!(
            charge.cost(Interval {
                start: at(0),
                end: at(10)
            }),
            compute(10)
        );
        assert!(charge.reprice(&Priced::Listed(compute(7_200).into()), at(20)));
        assert!(
            !charge.reprice(&Priced::Listed(compute(7_200).into()), at(30)),
            "the same price is no change"
        );
        assert!(
            !charge.reprice(&Priced::Unknown, at(30)),
            "a price that went away does not stop the charge"
        );
        assert_eq!(
            charge.cost(Interval {
                start: at(0),
                end: at(30)
            }),
            compute(20 + 20)
        );
    }

    #[test]
    fn what_no_price_was_known_for_is_told_apart_from_what_was_free() {
        let mut charge = charge(0);
        charge.rates.clear();
        let zone = TimeZone::UTC;
        let accounts = accounts(
            &charge,
            End {
                at: at(60),
                estimated: false,
            },
            &zone,
        );
        assert_eq!(
            accounts[0]
                .days
                .values()
                .map(|day| day.unpriced_gpu_seconds)
                .sum::<i64>(),
            120
        );
    }

    #[test]
    fn an_open_charge_stops_growing_when_its_pod_has_ended() {
        let zone = TimeZone::UTC;
        let mut account = Account::new(Month::of(at(0), &zone));
        account.open(charge(3_600));
        let month = account.month.bounds(&zone);
        let sum = |now, end: Option<Timestamp>| {
            account.sum(month, now, |_| end, &zone).cost.total().nanos()
        };
        assert_eq!((sum(at(50), None), sum(at(500), Some(at(50)))), (50, 50));
    }

    proptest! {
        #[test]
        fn money_is_conserved_over_days_and_months(
            rates in prop::collection::vec((1i64..4_000_000, 0i128..10i128.pow(14)), 1..5),
            length in 0i64..12_000_000,
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns", "Australia/Lord_Howe"]),
        ) {
            let zone = TimeZone::get(zone).unwrap();
            let mut charge = charge(rates[0].1);
            let mut now = 0;
            for (later, nanos) in &rates {
                now += later;
                charge.reprice(&Priced::Listed(compute(*nanos).into()), at(now));
            }
            let end = End { at: at(length), estimated: false };
            let whole = charge.cost(Interval { start: at(0), end: at(length) }).total();
            prop_assert_eq!(total(&accounts(&charge, end, &zone)), whole);
        }

        #[test]
        fn what_is_open_sums_to_what_will_be_settled(nanos in 0i128..10i128.pow(14), length in 1i64..6_000_000) {
            let zone = TimeZone::get("Europe/Berlin").unwrap();
            let charge = charge(nanos);
            let end = at(length);
            let settled = accounts(&charge, End { at: end, estimated: false }, &zone);
            for account in settled {
                let mut open = Account::new(account.month);
                open.open(charge.clone());
                let month = account.month.bounds(&zone);
                let of = |account: &Account| account.sum(month, end, |_| None, &zone);
                prop_assert_eq!(of(&open), of(&account));
            }
        }
    }
}
