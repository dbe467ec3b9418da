//! The measures of a service's demand. Unknown is not zero: each measure is a lower bound, which is
//! exact or has a reason why it is not.
//!
//! What is known may add replicas; what is not known takes none away.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::scaling::replicas_for;

/// Where a measure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MeasureSource {
    /// Requests that wait and run on the service's replicas.
    EngineQueue,
    /// Requests that gateways hold for the service.
    HeldRequests,
}

/// What is counted. Measures of one quantity add up; quantities are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quantity {
    /// Requests that wait or run anywhere: the queue depth.
    Requests,
}

impl MeasureSource {
    /// What this source counts.
    pub fn quantity(self) -> Quantity {
        match self {
            Self::EngineQueue | Self::HeldRequests => Quantity::Requests,
        }
    }
}

/// One measure of a service's demand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measure {
    /// Where it comes from.
    pub source: MeasureSource,
    /// At least so much, in units of the source's quantity. Exact unless `inexact` says why not.
    pub value: u64,
    /// Why there may be more.
    pub inexact: Option<String>,
    /// When the oldest part of the value was read; of a value without parts, when that was known.
    pub read_at: Timestamp,
    /// How much of the quantity one replica should carry.
    pub target: u32,
    /// When there was last something to do, as far as this source shows; `None` if it does not
    /// show that, or not yet.
    pub last_active: Option<Timestamp>,
}

/// The measures of one service, at most one of each source. A source that has nothing to measure,
/// such as the engines of a service without replicas, has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measures {
    by_source: BTreeMap<MeasureSource, Measure>,
}

/// The demand for one quantity, over all sources that count it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantityDemand {
    /// At least so much.
    pub value: u64,
    /// Why there may be more, by the first source in order that is not exact.
    pub inexact: Option<String>,
    /// When the oldest of its measures was read.
    pub read_at: Timestamp,
    /// How much one replica should carry: the lowest target of its measures.
    pub target: u32,
}

impl QuantityDemand {
    /// The replicas that carry this demand at its target.
    pub fn replicas(&self) -> u32 {
        replicas_for(self.value, self.target)
    }
}

impl Measures {
    /// Takes a measure in place of an earlier one of its source. Returns whether anything but the
    /// time of the read differs.
    pub fn set(&mut self, measure: Measure) -> bool {
        let read_at = measure.read_at;
        let before = self.by_source.insert(measure.source, measure.clone());
        before.map(|before| Measure { read_at, ..before }) != Some(measure)
    }

    /// Takes out the measure of a source that has nothing to measure any more. Returns whether
    /// there was one.
    pub fn remove(&mut self, source: MeasureSource) -> bool {
        self.by_source.remove(&source).is_some()
    }

    /// The measure of a source.
    pub fn get(&self, source: MeasureSource) -> Option<&Measure> {
        self.by_source.get(&source)
    }

    /// All measures, in the order of their sources.
    pub fn iter(&self) -> impl Iterator<Item = &Measure> {
        self.by_source.values()
    }

    /// The demand for each quantity that any source counts.
    pub fn demands(&self) -> BTreeMap<Quantity, QuantityDemand> {
        let mut demands: BTreeMap<Quantity, QuantityDemand> = BTreeMap::new();
        for measure in self.iter() {
            let quantity = measure.source.quantity();
            let demand = demands.entry(quantity).or_insert_with(|| QuantityDemand {
                value: 0,
                inexact: None,
                read_at: measure.read_at,
                target: measure.target,
            });
            demand.value = demand.value.saturating_add(measure.value);
            demand.read_at = demand.read_at.min(measure.read_at);
            demand.target = demand.target.min(measure.target);
            if demand.inexact.is_none() {
                demand.inexact.clone_from(&measure.inexact);
            }
        }
        demands
    }

    /// The fewest replicas that carry what is known: those of the quantity that needs the most.
    pub fn replicas(&self) -> u32 {
        let demands = self.demands();
        let replicas = demands.values().map(QuantityDemand::replicas);
        replicas.max().unwrap_or(0)
    }

    /// Why the demand may be higher than what is known; `None` if all measures are exact.
    pub fn inexact(&self) -> Option<&str> {
        self.iter().find_map(|measure| measure.inexact.as_deref())
    }

    /// When there was last something to do, by any source.
    pub fn last_active(&self) -> Option<Timestamp> {
        self.iter().filter_map(|measure| measure.last_active).max()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SOURCES: [MeasureSource; 2] = [MeasureSource::EngineQueue, MeasureSource::HeldRequests];

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + second).unwrap()
    }

    fn measure(source: MeasureSource, value: u64) -> Measure {
        Measure {
            source,
            value,
            inexact: None,
            read_at: at(0),
            target: 8,
            last_active: None,
        }
    }

    #[test]
    fn requests_on_engines_and_in_gateways_are_one_queue() {
        let mut measures = Measures::default();
        assert_eq!((measures.replicas(), measures.inexact()), (0, None));
        measures.set(measure(MeasureSource::EngineQueue, 5));
        measures.set(Measure {
            read_at: at(-3),
            last_active: Some(at(-1)),
            ..measure(MeasureSource::HeldRequests, 4)
        });
        let demand = &measures.demands()[&Quantity::Requests];
        assert_eq!((demand.value, demand.replicas()), (9, 2));
        assert_eq!(demand.read_at, at(-3));
        assert_eq!(measures.last_active(), Some(at(-1)));
        assert!(measures.remove(MeasureSource::HeldRequests));
        assert_eq!(measures.replicas(), 1);
        assert_eq!(measures.last_active(), None);
    }

    #[test]
    fn a_part_that_cannot_be_read_leaves_a_lower_bound_with_its_reason() {
        let mut measures = Measures::default();
        measures.set(Measure {
            inexact: Some("pod chat-b: no answer within 2 s".into()),
            ..measure(MeasureSource::EngineQueue, 116)
        });
        measures.set(measure(MeasureSource::HeldRequests, 0));
        assert_eq!(measures.replicas(), 15);
        let reason = Some("pod chat-b: no answer within 2 s");
        assert_eq!(measures.inexact(), reason);
        assert_eq!(
            measures.demands()[&Quantity::Requests].inexact.as_deref(),
            reason
        );
    }

    #[test]
    fn a_later_read_of_the_same_is_no_change() {
        let mut measures = Measures::default();
        let first = measure(MeasureSource::EngineQueue, 5);
        let later = Measure {
            read_at: at(1),
            ..first.clone()
        };
        let inexact = Measure {
            inexact: Some("a gateway has not reported".into()),
            ..later.clone()
        };
        assert!(measures.set(first));
        assert!(!measures.set(later.clone()));
        assert_eq!(measures.get(MeasureSource::EngineQueue), Some(&later));
        assert!(measures.set(inexact));
    }

    prop_compose! {
        fn any_measure()(
            source in prop::sample::select(&SOURCES),
            value in prop_oneof![0..1_000_u64, Just(u64::MAX)],
            inexact in prop::option::of("[a-z]{1,3}"),
            read in 0..100_i64,
            target in 0..20_u32,
            active in prop::option::of(0..100_i64),
        ) -> Measure {
            let read_at = at(read);
            Measure { source, value, inexact, read_at, target, last_active: active.map(at) }
        }
    }

    proptest! {
        #[test]
        fn nothing_unknown_takes_replicas_away_and_more_demand_never_asks_for_fewer(
            all in prop::collection::vec(any_measure(), 0..4),
            more in 0..1_000_u64,
        ) {
            let mut measures = Measures::default();
            for measure in &all {
                measures.set(measure.clone());
            }
            let replicas = measures.replicas();
            let is_exact = measures.iter().all(|measure| measure.inexact.is_none());
            prop_assert_eq!(measures.inexact().is_none(), is_exact);
            for source in SOURCES {
                let Some(measure) = measures.get(source).cloned() else { continue };
                let mut changed = measures.clone();
                changed.set(Measure { inexact: Some("unknown".into()), ..measure.clone() });
                prop_assert_eq!(changed.replicas(), replicas);
                changed.set(Measure { value: measure.value.saturating_add(more), ..measure });
                prop_assert!(changed.replicas() >= replicas);
            }
        }

        #[test]
        fn the_order_in_which_sources_report_does_not_matter(
            engine in any_measure(), held in any_measure(),
        ) {
            let engine = Measure { source: MeasureSource::EngineQueue, ..engine };
            let held = Measure { source: MeasureSource::HeldRequests, ..held };
            let (mut one, mut other) = (Measures::default(), Measures::default());
            one.set(engine.clone());
            one.set(held.clone());
            other.set(held);
            other.set(engine);
            prop_assert_eq!(&one.demands(), &other.demands());
            prop_assert_eq!(one, other);
        }
    }
}
