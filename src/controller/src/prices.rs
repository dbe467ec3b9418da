//! The prices in force, and what a pod that has no node yet will cost.

use std::sync::{Arc, Mutex};

use bursar_api::{PriceList, SpendRecord};
use bursar_core::calendar::Month;
use bursar_core::capacity::Gang;
use bursar_core::money::Money;
use bursar_core::pricing::PricingAttributes;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::reflector::Store;

pub(crate) use bursar_api::prices::EffectivePrices;

use crate::capacity;
use crate::lock::lock;
use crate::pod;

/// The currency that the accounts of `now`'s month are kept in; `None` while there are none.
pub(crate) fn kept(
    records: &Store<SpendRecord>,
    now: Timestamp,
    zone: &TimeZone,
) -> Option<String> {
    month_currency(records, Month::containing(now, zone))
}

/// The currency that a month's accounts are kept in; `None` if there are none.
pub(crate) fn month_currency(records: &Store<SpendRecord>, month: Month) -> Option<String> {
    let month = month.to_string();
    let record =
        records.find(|record| record.spec.month == month && !record.spec.currency.is_empty())?;
    Some(record.spec.currency.clone())
}

/// The prices of all lists as they were last made: everybody asks for them all the time, and they seldom change.
#[derive(Default)]
pub(crate) struct Known(Mutex<Option<Made>>);

/// Prices, and what they were made of.
struct Made {
    lists: Vec<Arc<PriceList>>,
    kept: Option<String>,
    at: Timestamp,
    prices: Arc<EffectivePrices>,
}

impl Made {
    /// Whether the same would be made now. A cache puts another object in the place of one that changed.
    fn still_holds(&self, lists: &[Arc<PriceList>], kept: Option<&String>, now: Timestamp) -> bool {
        let same = |(a, b): (&Arc<_>, &Arc<_>)| Arc::ptr_eq(a, b);
        self.lists.len() == lists.len()
            && self.lists.iter().zip(lists).all(same)
            && self.kept.as_ref() == kept
            // `Prices::next` is made of the time too
            && self.at <= now
            && self.prices.next.is_none_or(|next| now < next)
    }
}

impl Known {
    /// The prices that these lists make at `now`, in the currency that the accounts of its month are `kept` in.
    pub(crate) fn of(
        &self,
        lists: &Store<PriceList>,
        kept: Option<String>,
        now: Timestamp,
    ) -> Arc<EffectivePrices> {
        let lists = lists.state();
        let mut made = lock(&self.0);
        match &*made {
            Some(made) if made.still_holds(&lists, kept.as_ref(), now) => Arc::clone(&made.prices),
            _ => {
                let prices =
                    EffectivePrices::from_lists(lists.iter().map(AsRef::as_ref), kept.clone(), now);
                let prices = Arc::new(prices);
                *made = Some(Made {
                    lists,
                    kept,
                    at: now,
                    prices: Arc::clone(&prices),
                });
                prices
            }
        }
    }
}

/// What a pod of these facts may cost an hour wherever it is put: the dearest of the nodes that would take it, or the dearest listed
/// while there is none. `None` if no price is known.
pub(crate) fn estimate<'a>(
    prices: &EffectivePrices,
    facts: &PricingAttributes,
    pod: &Gang,
    nodes: impl IntoIterator<Item = &'a Node>,
    now: Timestamp,
) -> Option<Money> {
    let fitting = nodes
        .into_iter()
        .filter(|node| pod::node_gpus(node, &facts.resource) > 0 && capacity::selects(node, pod));
    let rates: Option<Vec<Money>> = fitting
        .map(|node| {
            let facts = pod::with_node(facts.clone(), node);
            let quote = prices.lists.price(&facts, now).rate();
            quote.map(|quote| quote.cost.total())
        })
        .collect();
    let somewhere = || {
        let volumes = prices.lists.price(facts, now).rate()?.cost.storage;
        let gpus = prices.lists.highest_price(&facts.resource, now)?;
        Some(gpus.times(facts.gpus) + volumes)
    };
    rates?.into_iter().max().or_else(somewhere)
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector;
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn prices_are_made_anew_only_when_a_list_the_currency_or_the_hour_changes_them() {
        let (lists, mut writer) = reflector::store();
        let mut write = |name: &str, price: &str, from: Option<&str>| {
            let spec = json!({"currency": "USD", "effectiveFrom": from, "gpus": [{"model": "H100", "pricePerHour": price}]});
            let list = json!({"apiVersion": "bursar.dev/v1alpha1", "kind": "PriceList", "metadata": {"name": name}, "spec": spec});
            writer.apply_watcher_event(&Event::Apply(serde_json::from_value(list).unwrap()));
        };
        write("ours", "1", None);
        write("next", "2", Some("2026-12-01T00:00:00Z"));
        let known = Known::default();
        let mut last = known.of(&lists, None, at("2026-11-24T00:00:00Z"));
        let mut is_new = |lists: &Store<PriceList>, kept: Option<&str>, now: &str| {
            let kept = kept.map(str::to_owned);
            let prices = known.of(lists, kept.clone(), at(now));
            let state = lists.state();
            let fresh = EffectivePrices::from_lists(state.iter().map(AsRef::as_ref), kept, at(now));
            assert_eq!(*prices, fresh, "at {now}");
            !Arc::ptr_eq(&std::mem::replace(&mut last, Arc::clone(&prices)), &prices)
        };
        assert!(!is_new(&lists, None, "2026-11-24T00:00:00Z"));
        assert!(!is_new(&lists, None, "2026-11-30T23:59:59Z"), "time alone");
        write("ours", "3", None);
        assert!(is_new(&lists, None, "2026-11-30T23:59:59Z"), "an edit");
        assert!(is_new(&lists, Some("USD"), "2026-11-30T23:59:59Z"));
        assert!(
            is_new(&lists, Some("USD"), "2026-12-01T00:00:00Z"),
            "`next` begins"
        );
        assert!(!is_new(&lists, Some("USD"), "2026-12-01T00:00:03Z"));
        assert!(
            is_new(&lists, Some("USD"), "2026-11-30T00:00:00Z"),
            "a clock that stepped back"
        );
        write("other", "3", None);
        assert!(
            is_new(&lists, Some("USD"), "2026-11-30T00:00:00Z"),
            "another list"
        );
    }
}
