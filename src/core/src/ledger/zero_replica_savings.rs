//! A service at zero replicas because nothing is asked of it, and what that saves.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::charge::{Charge, ChargeEnd};
use super::daily_cost::{CostKey, DailyCost};
use crate::calendar::Interval;
use crate::money::Money;

/// A service's rest at zero replicas: what the last one was, cost and ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZeroReplicaPeriod {
    /// When the last replica's stay ended.
    pub since: Timestamp,
    /// Money an hour of it.
    pub per_hour: Money,
    /// Its hardware.
    pub cost_key: CostKey,
}

impl ZeroReplicaPeriod {
    /// The rest after a last replica; `None` if nobody knows what that cost.
    pub fn after_last_replica(charge: &Charge, end: ChargeEnd) -> Option<Self> {
        Some(Self {
            since: end.at,
            per_hour: charge.rate()?.cost.total(),
            cost_key: CostKey::new(charge.attributes(), charge.owner()),
        })
    }

    /// What one replica more would have cost within `part`.
    pub fn saved(&self, part: Interval) -> Money {
        let until = |at: Timestamp| {
            let seconds = at.as_second() - self.since.as_second();
            self.per_hour.per_hour_for(seconds.max(0))
        };
        until(part.end) - until(part.start)
    }

    /// What it saves within `part`, by day.
    pub(super) fn daily_costs(
        &self,
        part: Interval,
        zone: &TimeZone,
    ) -> impl Iterator<Item = (Date, DailyCost)> {
        part.days(zone).map(|(date, day)| {
            let line = DailyCost {
                saved: self.saved(day),
                ..DailyCost::default()
            };
            (date, line)
        })
    }

    /// From its begin until `end`.
    pub fn interval_until(&self, end: Timestamp) -> Interval {
        Interval {
            start: self.since,
            end: end.max(self.since),
        }
    }
}
