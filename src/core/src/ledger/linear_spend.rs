//! Spend as a linear function of time, so that the spend of a budget is known at any time without a
//! look at its charges.

use std::ops::{Add, AddAssign, Sub, SubAssign};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::account::Account;
use super::charge::Charge;
use crate::calendar::Interval;
use crate::money::Money;

/// Seconds in an hour: rates are an hour's.
const HOUR: i128 = 3600;

/// Spend as a linear function of time: `ceil((base + rate * t) / 3600)` nano-units at `t` seconds
/// since 1970.
///
/// The exact amount of a charge is rounded down since the start of each rate, for each part of its
/// cost ([`crate::ledger`]). The function leaves that rounding out, and rounds its value up once.
/// So it is an upper bound of the exact amount, and exceeds it by at most one nano-unit for each
/// open charge and part of its cost with a rate.
///
/// Sums and differences of functions are exact: a sum over many accounts is kept by subtracting an
/// account's former function and adding its new one. All numbers stay within 128 bits while the
/// rates of everything are below 10^18 units an hour together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinearSpend {
    /// 3600ths of a nano-unit at second 0.
    base: i128,
    /// Nano-units an hour.
    rate: i128,
}

impl LinearSpend {
    /// `amount` at `from`, a whole second, and growing by `rate` an hour.
    pub fn new(amount: Money, from: Timestamp, rate: Money) -> Self {
        let (amount, rate) = (amount.nanos() * HOUR, rate.nanos());
        Self {
            base: amount - rate * i128::from(from.as_second()),
            rate,
        }
    }

    /// An amount that does not change.
    pub fn constant(amount: Money) -> Self {
        Self {
            base: amount.nanos() * HOUR,
            rate: 0,
        }
    }

    /// The spend at `at`, a whole second.
    pub fn at(self, at: Timestamp) -> Money {
        let value = self.base + self.rate * i128::from(at.as_second());
        Money::from_nanos(-(-value).div_euclid(HOUR))
    }

    /// The spend of an hour.
    pub fn rate(self) -> Money {
        Money::from_nanos(self.rate)
    }

    /// The first second, `from` or later, at which the spend is `amount` or more; `None` if it never
    /// is.
    pub fn reaches(self, amount: Money, from: Timestamp) -> Option<Timestamp> {
        if self.at(from) >= amount {
            return Some(from);
        }
        if self.rate <= 0 {
            return None;
        }
        let below = (amount.nanos() - 1) * HOUR - self.base;
        let second = below.div_euclid(self.rate) + 1;
        Timestamp::from_second(i64::try_from(second).ok()?).ok()
    }
}

impl Add for LinearSpend {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            base: self.base + other.base,
            rate: self.rate + other.rate,
        }
    }
}

impl Sub for LinearSpend {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self {
            base: self.base - other.base,
            rate: self.rate - other.rate,
        }
    }
}

impl AddAssign for LinearSpend {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for LinearSpend {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

/// A linear function, and until when it holds.
///
/// It holds from the time as of which it was made until `valid_until`, both included, as long as
/// the accounts that it was made from do not change. `valid_until` is the first instant after which
/// a charge that is known today has another rate: a rate that was noted ahead of its time begins, a
/// charge that was noted ahead of its time starts, or the period or the account's month ends. It
/// knows nothing of price lists: whoever prices the charges makes it anew at a list's next change
/// ([`SpendFunction::until`]).
///
/// A new period has a new function: what is open begins it with an amount of 0 at the period's
/// start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpendFunction {
    /// The spend.
    pub spend: LinearSpend,
    /// The last instant for which it holds.
    pub valid_until: Timestamp,
}

impl SpendFunction {
    /// Nothing, for ever.
    pub const ZERO: Self = Self {
        spend: LinearSpend { base: 0, rate: 0 },
        valid_until: Timestamp::MAX,
    };

    /// The spend of these accounts of one workload within `within`, which begins and ends at
    /// midnights of `zone`.
    pub fn of_accounts<'a>(
        accounts: impl IntoIterator<Item = &'a Account>,
        within: Interval,
        as_of: Timestamp,
        zone: &TimeZone,
    ) -> Self {
        let each = |account| Self::of_account(account, within, as_of, zone);
        accounts
            .into_iter()
            .map(each)
            .fold(Self::ZERO, Self::together)
    }

    /// The spend of one account within `within`, which begins and ends at midnights of `zone`.
    pub fn of_account(
        account: &Account,
        within: Interval,
        as_of: Timestamp,
        zone: &TimeZone,
    ) -> Self {
        let posted = account.posted(within, zone).cost.total();
        let posted = Self {
            spend: LinearSpend::constant(posted),
            ..Self::ZERO
        };
        let Some(part) = within.intersection(account.month().bounds(zone)) else {
            return posted;
        };
        let open = account.open_charges().values();
        open.map(|charge| of_charge(charge, part, as_of))
            .fold(posted, Self::together)
    }

    /// The same function, which holds until `at` at the latest.
    pub fn until(self, at: Option<Timestamp>) -> Self {
        Self {
            valid_until: at.map_or(self.valid_until, |at| self.valid_until.min(at)),
            ..self
        }
    }

    /// The sum of both, which holds while both do.
    pub(super) fn together(self, other: Self) -> Self {
        Self {
            spend: self.spend + other.spend,
            valid_until: self.valid_until.min(other.valid_until),
        }
    }
}

/// The cost of a charge within `within` that is not posted.
fn of_charge(charge: &Charge, within: Interval, as_of: Timestamp) -> SpendFunction {
    let lost = charge.node_lost_since().unwrap_or(Timestamp::MAX);
    let part = Interval {
        start: within.start.max(charge.unposted_since()),
        end: within.end.min(lost),
    };
    if part.is_empty() {
        return SpendFunction::ZERO;
    }
    if as_of.as_second() >= part.end.as_second() {
        return SpendFunction {
            spend: LinearSpend::constant(charge.cost(part).total()),
            ..SpendFunction::ZERO
        };
    }
    let zero_until = |until: Timestamp| SpendFunction {
        valid_until: until,
        ..SpendFunction::ZERO
    };
    if as_of.as_second() < part.start.as_second() {
        return zero_until(part.start);
    }
    let has_begun = |from: Timestamp| from.as_second() <= as_of.as_second();
    let next = charge.rates().iter().find(|rate| !has_begun(rate.from));
    let until = next.map_or(part.end, |next| next.from.min(part.end));
    let Some(current) = charge.rates().iter().rfind(|rate| has_begun(rate.from)) else {
        return zero_until(until);
    };
    // without the current rate's own rounding, which the exact amount begins anew with each rate
    let cost = |start, end| charge.cost(Interval { start, end }).total();
    let before = if part.start <= current.from {
        cost(part.start, current.from)
    } else {
        -cost(current.from, part.start)
    };
    let rate = current.quote.cost.total().nanos();
    SpendFunction {
        spend: LinearSpend {
            base: before.nanos() * HOUR - rate * i128::from(current.from.as_second()),
            rate,
        },
        valid_until: until,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::calendar::{Month, Period};
    use crate::ledger::{ChargeEnd, RatePeriod, StoredCharge};
    use crate::money::Cost;
    use crate::pricing::PricingAttributes;

    const START: i64 = 1_796_000_000;
    const ZONES: [&str; 3] = ["UTC", "Europe/Berlin", "Asia/Kolkata"];

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(START + seconds).unwrap()
    }

    fn cost(compute: i64, storage: i64, power: i64) -> Cost {
        Cost {
            compute: Money::from_nanos(compute.into()),
            storage: Money::from_nanos(storage.into()),
            power: Money::from_nanos(power.into()),
            labour: Money::ZERO,
        }
    }

    fn rate(from: i64, cost: Cost) -> RatePeriod {
        RatePeriod {
            from: at(from),
            quote: cost.into(),
            provisional: false,
        }
    }

    fn charge(uid: &str, rates: Vec<RatePeriod>) -> StoredCharge {
        let start = rates.first().map_or(at(0), |rate| rate.from);
        let attributes = PricingAttributes::default();
        StoredCharge {
            rates,
            ..StoredCharge::new(uid.to_owned(), uid.to_owned(), attributes, start)
        }
    }

    fn month(zone: &TimeZone) -> Month {
        Month::containing(at(0), zone)
    }

    fn account(charges: Vec<StoredCharge>, zone: &TimeZone) -> Account {
        let mut account = Account::new(month(zone));
        for charge in charges {
            account.open(Charge::restore(charge).unwrap());
        }
        account
    }

    fn exact(account: &Account, within: Interval, now: Timestamp, zone: &TimeZone) -> Money {
        account.sum(within, now, zone).cost.total()
    }

    #[test]
    fn the_function_leaves_out_the_rounding_of_each_charge() {
        let zone = TimeZone::UTC;
        // half a nano-unit a second each: 3 seconds are 1 each by the exact amount, 3 together
        let half = || vec![rate(0, cost(1800, 0, 0))];
        let account = account(vec![charge("a", half()), charge("b", half())], &zone);
        let within = month(&zone).bounds(&zone);
        let function = SpendFunction::of_account(&account, within, at(3), &zone);
        assert_eq!(exact(&account, within, at(3), &zone).nanos(), 2);
        assert_eq!(function.spend.at(at(3)).nanos(), 3);
        assert_eq!(exact(&account, within, at(4), &zone).nanos(), 4);
        assert_eq!(function.spend.at(at(4)).nanos(), 4, "no less than exact");
    }

    #[test]
    fn a_rate_noted_ahead_of_its_time_ends_the_function() {
        let zone = TimeZone::UTC;
        let rates = vec![rate(0, cost(3600, 0, 0)), rate(100, cost(7200, 0, 0))];
        let account = account(vec![charge("a", rates)], &zone);
        let within = month(&zone).bounds(&zone);
        let of = |seconds| SpendFunction::of_account(&account, within, at(seconds), &zone);
        assert_eq!(of(10).valid_until, at(100));
        assert_eq!(of(10).spend.at(at(100)).nanos(), 100, "up to then it holds");
        assert_eq!(of(100).valid_until, within.end);
        assert_eq!(of(100).spend.at(at(110)).nanos(), 120);
        assert_eq!(of(10).until(Some(at(50))).valid_until, at(50));
    }

    #[test]
    fn a_charge_that_starts_ahead_of_the_clock_costs_nothing_until_then() {
        let zone = TimeZone::UTC;
        let account = account(vec![charge("a", vec![rate(5, cost(3600, 0, 0))])], &zone);
        let within = month(&zone).bounds(&zone);
        let function = SpendFunction::of_account(&account, within, at(0), &zone);
        assert_eq!(function.spend.at(at(0)), Money::ZERO);
        assert_eq!(function.valid_until, at(5));
    }

    #[test]
    fn a_new_period_begins_with_nothing() {
        let zone = TimeZone::UTC;
        let account = account(
            vec![charge("a", vec![rate(-150_000, cost(3600, 0, 0))])],
            &zone,
        );
        let today = Period::Daily.bounds(at(-100_000), &zone);
        let old = SpendFunction::of_account(&account, today, at(-100_000), &zone);
        assert_eq!(old.valid_until, today.end);
        let tomorrow = Period::Daily.bounds(today.end, &zone);
        let new = SpendFunction::of_account(&account, tomorrow, today.end, &zone);
        assert_eq!(new.spend.at(today.end), Money::ZERO);
        let later = Timestamp::from_second(today.end.as_second() + 7).unwrap();
        assert_eq!(new.spend.at(later).nanos(), 7);
        assert_eq!(new.valid_until, tomorrow.end);
    }

    #[test]
    fn it_is_known_when_an_amount_is_reached() {
        let spend = LinearSpend {
            base: -1800 * i128::from(START),
            rate: 1800,
        };
        let nanos = Money::from_nanos;
        assert_eq!(spend.reaches(nanos(5), at(0)), Some(at(9)));
        assert!(spend.at(at(9)) >= nanos(5) && spend.at(at(8)) < nanos(5));
        assert_eq!(spend.reaches(nanos(5), at(20)), Some(at(20)));
        assert_eq!(LinearSpend::default().reaches(nanos(1), at(0)), None);
    }

    fn any_cost() -> impl Strategy<Value = Cost> {
        let part = || prop_oneof![Just(0i64), 1..10_000_000_000i64];
        (part(), part(), part()).prop_map(|(compute, storage, power)| cost(compute, storage, power))
    }

    prop_compose! {
        /// A charge with up to four rates, some of them ahead of the clock; its node may be lost.
        fn any_charge()(
            rates in prop::collection::vec((-400_000..400_000i64, any_cost()), 0..4),
            posted in prop::option::of(0..200_000i64),
            lost in prop::option::of(-300_000..400_000i64),
        ) -> StoredCharge {
            let mut rates: Vec<_> = rates.into_iter().map(|(from, cost)| rate(from, cost)).collect();
            rates.sort_by_key(|rate| rate.from);
            let charge = charge("", rates);
            StoredCharge {
                posted_until: posted.map(|posted| {
                    let until = charge.start.as_second() + posted;
                    Timestamp::from_second(until).unwrap()
                }),
                node_lost_since: lost.map(at),
                ..charge
            }
        }
    }

    proptest! {
        #[test]
        fn it_is_at_least_the_exact_amount_and_at_most_a_nano_unit_a_part_above_it(
            charges in prop::collection::vec(any_charge(), 0..6),
            settled in prop::option::of((any_cost(), 0..200_000i64)),
            period in prop_oneof![Just(Period::Daily), Just(Period::Weekly), Just(Period::Monthly)],
            as_of in -400_000..400_000i64,
            ahead in prop::collection::vec(0..400_000i64, 1..20),
            zone in 0..ZONES.len(),
        ) {
            let zone = TimeZone::get(ZONES[zone]).unwrap();
            let named = charges.into_iter().enumerate();
            let charges = named.map(|(i, charge)| StoredCharge { uid: i.to_string(), ..charge });
            let mut account = account(charges.collect(), &zone);
            if let Some((cost, seconds)) = settled {
                let end = ChargeEnd { at: at(seconds), estimated: false };
                let charge = Charge::restore(charge("settled", vec![rate(0, cost)])).unwrap();
                account.settle(&charge, end, &zone);
            }
            let within = period.bounds(at(as_of), &zone);
            let function = SpendFunction::of_account(&account, within, at(as_of), &zone);
            prop_assert!(function.valid_until >= at(as_of));
            let parts = account.open_charges().values().map(|charge| {
                let costs = charge.rates().iter().map(|rate| rate.quote.cost);
                let parts = costs.map(|cost| {
                    let parts = [cost.compute, cost.storage, cost.power, cost.labour];
                    parts.iter().filter(|part| **part != Money::ZERO).count()
                });
                parts.max().unwrap_or(0)
            });
            let parts = parts.sum::<usize>() as i128;
            let times = ahead.iter().map(|ahead| at(as_of + ahead));
            for now in times.chain([at(as_of), function.valid_until]) {
                if now > function.valid_until || now.as_second() > START + 10_000_000 {
                    continue;
                }
                let exact = exact(&account, within, now, &zone);
                let above = (function.spend.at(now) - exact).nanos();
                prop_assert!((0..=parts).contains(&above), "{above} of {parts} at {now}");
            }
        }
    }
}
