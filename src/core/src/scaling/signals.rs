//! Signals of a service other than its queue depth: lengths of queues, results of queries, requests at
//! gateways, how full caches are and how long tokens take.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::latency::{LatencyDemand, LatencyMeasure, Percentile};
use super::milli::Milli;

/// What the requests of a service say of the replicas that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestSignal {
    /// A replica should carry so many: waiting, running and held.
    Target(u32),
    /// While there are any it is not idle, and has at least one replica.
    Activity,
    /// The same, and nothing is read of its replicas: those count that gateways hold and forward.
    AtGateways,
    /// It takes none, and nothing is read of its replicas.
    None,
}

impl RequestSignal {
    /// How many requests a replica should carry, if that is known.
    pub fn target(self) -> Option<u32> {
        match self {
            Self::Target(target) => Some(target),
            Self::Activity | Self::AtGateways | Self::None => None,
        }
    }

    /// Whether requests are read of the engines of its replicas.
    pub fn is_read_of_engines(self) -> bool {
        match self {
            Self::Target(_) | Self::Activity => true,
            Self::AtGateways | Self::None => false,
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

/// What a signal other than the queue depth measures, and how much of it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignalRule {
    /// Something outside the replicas: a replica should carry so much of it.
    Outside(Milli),
    /// Requests that gateways hold and forward: a replica should carry so many.
    Gateway(Milli),
    /// How full the KV caches of its engines are: at most this part of each, as a mean.
    KvCacheUse(Milli),
    /// The 95th percentile of a latency is to be at most so long.
    Latency(LatencyMeasure, SignedDuration),
}

/// The value of a signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignalValue {
    /// What was read.
    Known(Milli),
    /// A part of it could not be read: there is at least so much, and why there may be more.
    AtLeast(Milli, String),
    /// There is nothing to read, or too little to tell: it asks for nothing, and hides no demand.
    Absent,
    /// It could not be read, and why.
    Unknown(String),
}

impl SignalValue {
    /// What is known of it: what is unknown takes nothing away.
    fn at_least(&self) -> Milli {
        match self {
            Self::Known(value) | Self::AtLeast(value, _) => *value,
            Self::Absent | Self::Unknown(_) => Milli(0),
        }
    }
}

/// What makes replicas of a signal's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignalTarget {
    /// A replica should carry so much of it.
    AverageValue(Milli),
    /// The value is the sum of the parts that replicas use of what they have, of which this is the target,
    /// and so many have told theirs.
    Utilization {
        /// The part that is to be used.
        target: Milli,
        /// How many replicas the value is of.
        replicas: u32,
    },
    /// The value is a latency in seconds.
    Latency(LatencyDemand),
}

/// A signal other than the queue depth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuredSignal {
    /// Its name.
    pub name: String,
    /// What makes replicas of it.
    pub target: SignalTarget,
    /// What is known of it.
    pub value: SignalValue,
}

impl MeasuredSignal {
    /// Whether it is known to ask for nothing. What replicas use and how fast they are says nothing of
    /// demand: it neither wakes a service nor keeps it awake.
    pub fn is_zero(&self) -> bool {
        match self.target {
            SignalTarget::AverageValue(_) => {
                matches!(
                    self.value,
                    SignalValue::Known(Milli(0)) | SignalValue::Absent
                )
            }
            SignalTarget::Utilization { .. } | SignalTarget::Latency(_) => self.unknown().is_none(),
        }
    }

    /// Why it is not known, if it is not, with its name.
    pub fn unknown(&self) -> Option<String> {
        let why = self.why_unknown()?;
        Some(format!("signal {}: {why}", self.name))
    }

    /// Why it, or a part of it, is not known, if it is not.
    pub fn why_unknown(&self) -> Option<&str> {
        match &self.value {
            SignalValue::Known(_) | SignalValue::Absent => None,
            SignalValue::AtLeast(_, why) | SignalValue::Unknown(why) => Some(why),
        }
    }

    /// The replicas that carry it, as far as it is known: `ceil(value / target)`, the formula of
    /// Kubernetes' HorizontalPodAutoscaler for an average value. For what replicas use it is
    /// `ceil(replicas * mean / target)`, that for a utilization. Those of a latency are its own.
    pub fn replicas(&self) -> u32 {
        match &self.target {
            SignalTarget::Latency(demand) => match self.value {
                SignalValue::Unknown(_) => 0,
                _ => demand.replicas,
            },
            SignalTarget::AverageValue(target) | SignalTarget::Utilization { target, .. } => {
                let replicas = self.value.at_least().0.div_ceil(target.0.max(1));
                u32::try_from(replicas).unwrap_or(u32::MAX)
            }
        }
    }

    /// The same with the fraction of the last replica, rounded up to thousandths.
    pub(super) fn unrounded(&self) -> Milli {
        match &self.target {
            SignalTarget::Latency(_) => Milli::from_units(self.replicas()),
            SignalTarget::AverageValue(target) | SignalTarget::Utilization { target, .. } => {
                let value = self.value.at_least();
                Milli(value.0.saturating_mul(1000).div_ceil(target.0.max(1)))
            }
        }
    }

    /// Its value as people read it, a decimal number: percent of what replicas have, seconds of a latency;
    /// `None` if none is known.
    pub fn shown_value(&self) -> Option<Milli> {
        let value = match self.value {
            SignalValue::Known(value) | SignalValue::AtLeast(value, _) => value,
            SignalValue::Absent | SignalValue::Unknown(_) => return None,
        };
        Some(match self.target {
            SignalTarget::Utilization { replicas, .. } => {
                Milli(value.0.saturating_mul(100) / u64::from(replicas.max(1)))
            }
            SignalTarget::AverageValue(_) | SignalTarget::Latency(_) => value,
        })
    }

    /// When its value was measured, if that is not known to be the time of the decision.
    pub fn measured_at(&self) -> Option<Timestamp> {
        match &self.target {
            SignalTarget::Latency(demand) => demand.measured.ok().map(|measured| measured.at),
            SignalTarget::AverageValue(_) | SignalTarget::Utilization { .. } => None,
        }
    }

    /// Its target in the unit of [`MeasuredSignal::shown_value`].
    pub fn shown_target(&self) -> Milli {
        match &self.target {
            SignalTarget::AverageValue(target) => *target,
            SignalTarget::Utilization { target, .. } => Milli(target.0.saturating_mul(100)),
            SignalTarget::Latency(demand) => {
                Milli(u64::try_from(demand.objective.as_millis()).unwrap_or(0))
            }
        }
    }
}

impl fmt::Display for MeasuredSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, .. } = self;
        let (value, target) = (self.shown_value(), self.shown_target());
        if let SignalValue::Unknown(_) = self.value {
            return write!(f, "{name} unknown");
        }
        match (&self.target, value) {
            (SignalTarget::AverageValue(_), Some(value)) => {
                write!(f, "{name} {value} / target {target} = {}", self.replicas())
            }
            (SignalTarget::Utilization { replicas, .. }, Some(value)) => write!(
                f,
                "{name} {value} % of {replicas} replicas / target {target} % = {}",
                self.replicas()
            ),
            (SignalTarget::Latency(demand), value) => {
                write!(f, "{name} p95 ")?;
                match (demand.measured, value) {
                    (Ok(measured), Some(value)) => {
                        let is_above = matches!(measured.p95, Percentile::Above(_));
                        write!(f, "{}{value} s", if is_above { "above " } else { "" })?;
                    }
                    (Ok(_), None) => write!(f, "unknown")?,
                    (Err(why), _) => write!(f, "{why}")?,
                }
                write!(f, ", objective {target} s ({demand}) = {}", self.replicas())
            }
            (_, None) => write!(f, "{name} absent"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::{ConcurrencyLimits, MeasuredPercentile, ReplicaLoad, Unmeasured};

    #[test]
    fn a_part_of_a_target_is_a_replica_and_what_is_unknown_is_none() {
        let signal = |value, target| MeasuredSignal {
            name: "jobs".to_owned(),
            target: SignalTarget::AverageValue(Milli(target)),
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

    #[test]
    fn a_latency_beyond_the_last_bucket_is_not_shown_as_that_bound_and_why_there_is_none_is_said() {
        let shown = |measured: Result<Percentile, Unmeasured>| {
            let at = Timestamp::UNIX_EPOCH;
            let load = ReplicaLoad::default();
            let limits = ConcurrencyLimits::default();
            let objective = SignedDuration::from_secs(5);
            let demand = LatencyDemand {
                measured: measured.map(|p95| MeasuredPercentile { p95, at }),
                ..LatencyDemand::new(objective, &limits, load, 1, None)
            };
            let millis = measured.map(|p95| Milli(p95.at_least() / 1000));
            let signal = MeasuredSignal {
                name: "first".to_owned(),
                target: SignalTarget::Latency(demand),
                value: millis.map_or(SignalValue::Absent, SignalValue::Known),
            };
            assert_eq!(signal.measured_at(), measured.ok().map(|_| at));
            signal.to_string()
        };
        for (measured, expected) in [
            (Ok(Percentile::Micros(80_000_000)), "first p95 80 s,"),
            (Ok(Percentile::Above(80_000_000)), "first p95 above 80 s,"),
            (Err(Unmeasured::TooFew), "first p95 of too few requests,"),
            (
                Err(Unmeasured::Rollout),
                "first p95 not measured during a rollout,",
            ),
        ] {
            let shown = shown(measured);
            assert!(shown.starts_with(expected), "{shown}");
        }
    }

    #[test]
    fn what_replicas_use_is_a_mean_over_those_that_tell_it() {
        let caches = |value, replicas| MeasuredSignal {
            name: "kv-cache".to_owned(),
            target: SignalTarget::Utilization {
                target: Milli(800),
                replicas,
            },
            value,
        };
        // 86 % of four: ceil(4 * 0.86 / 0.8)
        let known = caches(SignalValue::Known(Milli(3_440)), 4);
        assert_eq!(
            known.to_string(),
            "kv-cache 86 % of 4 replicas / target 80 % = 5"
        );
        assert_eq!(known.unrounded(), Milli(4_300));
        assert!(known.is_zero(), "a cache that is full wakes nothing");
        let full = caches(SignalValue::Known(Milli(4_000)), 4);
        assert_eq!(full.replicas(), 5, "a fraction has no more than itself");
        // what the other replicas use adds to it
        let part = caches(SignalValue::AtLeast(Milli(1_720), "pod c".to_owned()), 2);
        assert_eq!((part.replicas(), part.is_zero()), (3, false));
        assert_eq!(part.unknown().as_deref(), Some("signal kv-cache: pod c"));
        let absent = caches(SignalValue::Absent, 0);
        assert_eq!((absent.replicas(), absent.unknown()), (0, None));
    }
}
