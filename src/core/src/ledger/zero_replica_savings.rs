//! A service at zero replicas because no request needs it, and the money that it saves.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::charge::{Charge, ChargeEnd};
use super::daily_cost::{CostKey, DailyCost};
use crate::calendar::Interval;
use crate::money::Money;

/// The time that a service is at zero replicas: when its last replica ended, and what that cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZeroReplicaPeriod {
    /// When the last replica ended.
    pub since: Timestamp,
    /// Money an hour that the last replica cost.
    pub per_hour: Money,
    /// The last replica's hardware.
    pub cost_key: CostKey,
}

impl ZeroReplicaPeriod {
    /// The time after a last replica; `None` if that replica has no price.
    pub fn after_last_replica(charge: &Charge, end: ChargeEnd) -> Option<Self> {
        Some(Self {
            since: end.at,
            per_hour: charge.rate()?.cost.total(),
            cost_key: CostKey::new(charge.attributes(), charge.owner()),
        })
    }

    /// The money that one replica more would have cost within `part`.
    pub fn saved(&self, part: Interval) -> Money {
        let until = |at: Timestamp| {
            let seconds = at.as_second() - self.since.as_second();
            self.per_hour.cost_for_seconds(seconds.max(0))
        };
        until(part.end) - until(part.start)
    }

    /// The savings within `part`, by day.
    pub(super) fn daily_costs(
        &self,
        part: Interval,
        zone: &TimeZone,
    ) -> impl Iterator<Item = (Date, DailyCost)> {
        part.days(zone).map(|(date, day)| {
            let cost = DailyCost {
                saved: self.saved(day),
                ..DailyCost::default()
            };
            (date, cost)
        })
    }

    /// The time from its beginning until `end`.
    pub fn interval_until(&self, end: Timestamp) -> Interval {
        Interval {
            start: self.since,
            end: end.max(self.since),
        }
    }
}
