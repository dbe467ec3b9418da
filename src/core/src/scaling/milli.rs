//! Amounts in thousandths.

use std::fmt;

/// An amount in thousandths, as a Kubernetes quantity has them: `1500m` is 1.5.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Milli(pub u64);

impl Milli {
    /// An amount of whole units.
    pub fn from_units(units: u32) -> Self {
        Self(u64::from(units) * 1000)
    }
}

impl fmt::Display for Milli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (units, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return write!(f, "{units}");
        }
        let digits = format!("{rest:03}");
        write!(f, "{units}.{}", digits.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_shown_as_decimal_fractions() {
        for (milli, shown) in [
            (0, "0"),
            (5, "0.005"),
            (500, "0.5"),
            (1_000, "1"),
            (12_340, "12.34"),
        ] {
            assert_eq!(Milli(milli).to_string(), shown);
        }
    }
}
