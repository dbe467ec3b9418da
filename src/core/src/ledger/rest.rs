//! A service at zero replicas because nothing is asked of it, and what that saves.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::charge::{Charge, End};
use super::line::{Line, Sku};
use crate::money::Money;
use crate::period::Interval;

/// A service's rest at zero replicas: what the last one was, cost and ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// When the last replica's stay ended.
    pub since: Timestamp,
    /// Money an hour of it.
    pub per_hour: Money,
    /// Its hardware.
    pub sku: Sku,
}

impl Rest {
    /// The rest after a last replica; `None` if nobody knows what that cost.
    pub fn after(charge: &Charge, end: End) -> Option<Self> {
        Some(Self {
            since: end.at,
            per_hour: charge.rate()?.cost.total(),
            sku: Sku::of(&charge.facts, charge.owner.as_ref()),
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
    pub(super) fn lines(
        &self,
        part: Interval,
        zone: &TimeZone,
    ) -> impl Iterator<Item = (Date, Line)> {
        part.days(zone).map(|(date, day)| {
            let line = Line {
                saved: self.saved(day),
                ..Line::default()
            };
            (date, line)
        })
    }

    /// From its begin until `end`.
    pub fn until(&self, end: Timestamp) -> Interval {
        Interval {
            start: self.since,
            end: end.max(self.since),
        }
    }
}
