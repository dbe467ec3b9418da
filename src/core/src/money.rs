//! Money as whole nano-units, and the four parts a cost is kept in.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Nano-units in one unit of the currency.
pub const NANOS: i128 = 1_000_000_000;

const DECIMALS: usize = 9;

/// An amount of money: an integer count of nano-units (10⁻⁹) of the price list's currency. Written
/// as a decimal string.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(into = "String", try_from = "String")]
pub struct Money(i128);

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// An amount from its count of nano-units.
    pub const fn from_nanos(nanos: i128) -> Self {
        Self(nanos)
    }

    /// The count of nano-units.
    pub const fn nanos(self) -> i128 {
        self.0
    }

    /// The amount for `seconds` at `self` an hour, rounded down to a whole nano-unit.
    ///
    /// Parts of one charge are differences of such amounts, so that they sum to the whole (see
    /// [`crate::ledger`]).
    pub fn cost_for_seconds(self, seconds: i64) -> Self {
        Self(per_hour_for(self.0, seconds))
    }

    /// As [`Money::per_hour_for`], rounded up: for a reserve, which must never be too small.
    pub fn cost_for_seconds_rounded_up(self, seconds: i64) -> Self {
        Self(-(-self.0 * i128::from(seconds)).div_euclid(3600))
    }

    /// The share `part / whole` of the amount, rounded down. `whole` of zero gives the amount
    /// itself.
    pub fn share(self, part: u32, whole: u32) -> Self {
        if whole == 0 {
            return self;
        }
        Self((self.0 * i128::from(part)).div_euclid(i128::from(whole)))
    }

    /// The share of the amount that `part` seconds are of `whole`, rounded down; nothing if `whole`
    /// is zero.
    pub fn proportion(self, part: i64, whole: i64) -> Self {
        if whole == 0 {
            return Self::ZERO;
        }
        Self((self.0 * i128::from(part)).div_euclid(i128::from(whole)))
    }

    /// The amount times `n`.
    pub fn times(self, n: u32) -> Self {
        Self(self.0 * i128::from(n))
    }

    /// The amount for people: rounded half up to `decimals` places.
    pub fn rounded(self, decimals: usize) -> String {
        let decimals = decimals.min(DECIMALS);
        let unit = 10i128.pow((DECIMALS - decimals) as u32);
        let nanos = (self.0.abs() + unit / 2) / unit * unit;
        let sign = if self.0 < 0 && nanos != 0 { "-" } else { "" };
        let fraction = format!("{:09}", nanos % NANOS);
        match decimals {
            0 => format!("{sign}{}", nanos / NANOS),
            _ => format!("{sign}{}.{}", nanos / NANOS, &fraction[..decimals]),
        }
    }
}

/// `amount` an hour, for `seconds`, rounded down.
pub(crate) fn per_hour_for(amount: i128, seconds: i64) -> i128 {
    let product = amount * i128::from(seconds);
    // nearly all products fit into 64 bits, where a division is ten times as fast
    match i64::try_from(product) {
        Ok(product) => product.div_euclid(3600).into(),
        Err(_) => product.div_euclid(3600),
    }
}

impl fmt::Display for Money {
    /// Exact, with at least two decimals: `12.50`, `0.000277777`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, fraction) = (self.0.abs() / NANOS, self.0.abs() % NANOS);
        let fraction = format!("{fraction:09}");
        let significant = fraction.trim_end_matches('0').len().max(2);
        write!(f, "{sign}{whole}.{}", &fraction[..significant])
    }
}

/// Why a string is not an amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an amount: write a decimal number with at most nine decimals, such as \"12.50\""
)]
pub struct ParseMoneyError(String);

impl FromStr for Money {
    type Err = ParseMoneyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseMoneyError(text.to_owned());
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !all_digits(whole)
            || !all_digits(fraction)
            || fraction.len() > DECIMALS
            || whole.len() > 18
        {
            return Err(refuse());
        }
        let whole: i128 = whole.parse().map_err(|_| refuse())?;
        let fraction: i128 = format!("{fraction:0<9}").parse().map_err(|_| refuse())?;
        let nanos = whole * NANOS + fraction;
        Ok(Self(if negative { -nanos } else { nanos }))
    }
}

impl TryFrom<String> for Money {
    type Error = ParseMoneyError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Money> for String {
    fn from(money: Money) -> Self {
        money.to_string()
    }
}

impl Add for Money {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sub for Money {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}

impl Neg for Money {
    type Output = Self;
    fn neg(self) -> Self {
        Self(-self.0)
    }
}

impl AddAssign for Money {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

/// A cost in its parts, `C = compute + storage + power + labour`. As a rate, each part is per hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cost {
    /// Machines and their GPUs.
    pub compute: Money,
    /// Volumes.
    pub storage: Money,
    /// Electricity, with the overhead of cooling.
    pub power: Money,
    /// People, and other monthly overheads.
    pub labour: Money,
}

impl Cost {
    /// No cost.
    pub const ZERO: Self = Self {
        compute: Money::ZERO,
        storage: Money::ZERO,
        power: Money::ZERO,
        labour: Money::ZERO,
    };

    /// The sum of the parts.
    pub fn total(&self) -> Money {
        self.compute + self.storage + self.power + self.labour
    }

    /// The cost with `f` applied to each part.
    pub fn map(&self, f: impl Fn(Money) -> Money) -> Self {
        Self {
            compute: f(self.compute),
            storage: f(self.storage),
            power: f(self.power),
            labour: f(self.labour),
        }
    }
}

impl Add for Cost {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            compute: self.compute + other.compute,
            storage: self.storage + other.storage,
            power: self.power + other.power,
            labour: self.labour + other.labour,
        }
    }
}

impl Sub for Cost {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self {
            compute: self.compute - other.compute,
            storage: self.storage - other.storage,
            power: self.power - other.power,
            labour: self.labour - other.labour,
        }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::ZERO, Add::add)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_and_writes_decimal_strings_exactly() {
        for (text, nanos) in [
            ("12.50", 12_500_000_000),
            ("0.000277777", 277_777),
            ("-3.00", -3_000_000_000),
            ("7", 7_000_000_000),
        ] {
            assert_eq!(
                text.parse::<Money>().unwrap(),
                Money::from_nanos(nanos),
                "{text}"
            );
        }
        assert_eq!(Money::from_nanos(12_500_000_000).to_string(), "12.50");
        assert_eq!(Money::from_nanos(-277_777).to_string(), "-0.000277777");
    }

    #[test]
    fn refuses_what_is_not_an_amount() {
        for text in [
            "",
            "-",
            ".5",
            "1.",
            "1e3",
            "1,50",
            "0.0000000001",
            "NaN",
            "+1",
            "1234567890123456789",
        ] {
            assert!(text.parse::<Money>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn rounds_for_people_half_up() {
        assert_eq!(Money::from_nanos(1_005_000_000).rounded(2), "1.01");
        assert_eq!(Money::from_nanos(-4_000_000).rounded(2), "0.00");
        assert_eq!(Money::from_nanos(2_500_000_000).rounded(0), "3");
    }

    #[test]
    fn the_cost_model_example_sums_to_130_500() {
        let unit = |n: i128| Money::from_nanos(n * NANOS);
        let kwh: Money = "0.1".parse().unwrap();
        let cost = Cost {
            compute: unit(1000).times(100),
            storage: unit(500),
            power: kwh.times(100 * 500),
            labour: unit(5000).times(5),
        };
        assert_eq!(cost.total(), unit(130_500));
    }

    proptest! {
        #[test]
        fn text_round_trips(nanos in -10i128.pow(27)..10i128.pow(27)) {
            let money = Money::from_nanos(nanos);
            prop_assert_eq!(money.to_string().parse::<Money>().unwrap(), money);
        }

        #[test]
        fn a_reserve_is_never_below_what_is_charged(rate in 0i128..10i128.pow(15), seconds in 0i64..1_000_000) {
            let rate = Money::from_nanos(rate);
            let (charged, reserved) = (rate.cost_for_seconds(seconds), rate.cost_for_seconds_rounded_up(seconds));
            prop_assert!(charged <= reserved && reserved.nanos() - charged.nanos() <= 1);
        }
    }
}
