//! Signals of a service that are measured outside its replicas: lengths of queues, results of queries.

use std::fmt;

use jiff::SignedDuration;

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

/// What the requests of a service say of the replicas that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestSignal {
    /// A replica should carry so many: waiting, running and held.
    Target(u32),
    /// While there are any it is not idle, and has at least one replica.
    Activity,
    /// It takes none, and nothing is read of its replicas.
    None,
}

impl RequestSignal {
    /// How many requests a replica should carry, if that is known.
    pub fn target(self) -> Option<u32> {
        match self {
            Self::Target(target) => Some(target),
            Self::Activity | Self::None => None,
        }
    }
}

/// What becomes of a service whose demand is not known, in whole or in part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignalFailure {
    /// It keeps its replicas; what is known may add to them.
    #[default]
    Hold,
    /// It has so many replicas once that has lasted, or as many as what is known asks for if those are
    /// more.
    Replicas {
        /// How many.
        replicas: u32,
        /// How long it must have lasted.
        after: SignedDuration,
    },
}

/// The value of a signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignalValue {
    /// What was read.
    Known(Milli),
    /// It could not be read, and why.
    Unknown(String),
}

/// A signal that is measured outside the replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuredSignal {
    /// Its name.
    pub name: String,
    /// How much of it one replica should carry.
    pub target: Milli,
    /// What is known of it.
    pub value: SignalValue,
}

impl MeasuredSignal {
    /// Whether it is known to ask for nothing.
    pub fn is_zero(&self) -> bool {
        self.value == SignalValue::Known(Milli(0))
    }

    /// Why it is not known, if it is not.
    pub fn unknown(&self) -> Option<String> {
        match &self.value {
            SignalValue::Known(_) => None,
            SignalValue::Unknown(why) => Some(format!("signal {}: {why}", self.name)),
        }
    }

    /// The replicas that carry it, as far as it is known: `ceil(value / target)`, the formula of
    /// Kubernetes' HorizontalPodAutoscaler for an average value.
    pub fn replicas(&self) -> u32 {
        match self.value {
            SignalValue::Known(value) => {
                let replicas = value.0.div_ceil(self.target.0.max(1));
                u32::try_from(replicas).unwrap_or(u32::MAX)
            }
            SignalValue::Unknown(_) => 0,
        }
    }

    /// The same with the fraction of the last replica, rounded up to thousandths.
    pub(super) fn unrounded(&self) -> Milli {
        match self.value {
            SignalValue::Known(value) => {
                Milli(value.0.saturating_mul(1000).div_ceil(self.target.0.max(1)))
            }
            SignalValue::Unknown(_) => Milli(0),
        }
    }
}

impl fmt::Display for MeasuredSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, target, .. } = self;
        match &self.value {
            SignalValue::Known(value) => {
                write!(f, "{name} {value} / target {target} = {}", self.replicas())
            }
            SignalValue::Unknown(_) => write!(f, "{name} unknown"),
        }
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

    #[test]
    fn a_part_of_a_target_is_a_replica_and_what_is_unknown_is_none() {
        let signal = |value, target| MeasuredSignal {
            name: "jobs".to_owned(),
            target: Milli(target),
            value,
        };
        for (value, target, replicas) in [
            (0, 5_000, 0),
            (1, 5_000, 1),
            (5_000, 5_000, 1),
            (5_001, 5_000, 2),
            (700, 500, 2),
            (1_000, 0, 1_000),
            (u64::MAX, 1, u32::MAX),
        ] {
            let known = signal(SignalValue::Known(Milli(value)), target);
            assert_eq!(known.replicas(), replicas, "{known}");
        }
        let unknown = signal(SignalValue::Unknown("refused".to_owned()), 1_000);
        assert_eq!((unknown.replicas(), unknown.is_zero()), (0, false));
        assert_eq!(unknown.unknown().as_deref(), Some("signal jobs: refused"));
    }
}
