//! The prices in force.

use std::sync::{Arc, Mutex};

use bursar_api::{PriceList, SpendRecord};
use bursar_core::calendar::Month;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kube::runtime::reflector::Store;

use bursar_api::prices::EffectivePrices;

use crate::lock::lock;

/// The currency of the accounts of `now`'s month; `None` while there are none.
pub(crate) fn account_currency(
    records: &Store<SpendRecord>,
    now: Timestamp,
    zone: &TimeZone,
) -> Option<String> {
    month_currency(records, Month::containing(now, zone))
}

/// The currency of a month's accounts; `None` if there are none.
pub(crate) fn month_currency(records: &Store<SpendRecord>, month: Month) -> Option<String> {
    let month = month.to_string();
    let record =
        records.find(|record| record.spec.month == month && !record.spec.currency.is_empty())?;
    Some(record.spec.currency.clone())
}

/// The prices of all lists as they were last computed: they are needed all the time, and seldom
/// change.
#[derive(Default)]
pub(crate) struct PriceCache(Mutex<Option<CachedPrices>>);

/// Prices, and the inputs that they were computed from.
struct CachedPrices {
    lists: Vec<Arc<PriceList>>,
    currency: Option<String>,
    at: Timestamp,
    prices: Arc<EffectivePrices>,
}

impl CachedPrices {
    /// Whether the same prices would be computed now. The store puts another object in the place of
    /// one that changed.
    fn still_holds(
        &self,
        lists: &[Arc<PriceList>],
        currency: Option<&String>,
        now: Timestamp,
    ) -> bool {
        let same = |(a, b): (&Arc<_>, &Arc<_>)| Arc::ptr_eq(a, b);
        self.lists.len() == lists.len()
            && self.lists.iter().zip(lists).all(same)
            && self.currency.as_ref() == currency
            // `Prices::next` is made of the time too
            && self.at <= now
            && self.prices.next.is_none_or(|next| now < next)
    }
}

impl PriceCache {
    /// The prices of these lists at `now`, in the `currency` of the accounts of its month.
    pub(crate) fn prices(
        &self,
        lists: &Store<PriceList>,
        currency: Option<String>,
        now: Timestamp,
    ) -> Arc<EffectivePrices> {
        let lists = lists.state();
        let mut made = lock(&self.0);
        match &*made {
            Some(made) if made.still_holds(&lists, currency.as_ref(), now) => {
                Arc::clone(&made.prices)
            }
            _ => {
                let prices = EffectivePrices::from_lists(
                    lists.iter().map(AsRef::as_ref),
                    currency.clone(),
                    now,
                );
                let prices = Arc::new(prices);
                *made = Some(CachedPrices {
                    lists,
                    currency,
                    at: now,
                    prices: Arc::clone(&prices),
                });
                prices
            }
        }
    }
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
        let cache = PriceCache::default();
        let mut last = cache.prices(&lists, None, at("2026-11-24T00:00:00Z"));
        let mut is_new = |lists: &Store<PriceList>, currency: Option<&str>, now: &str| {
            let currency = currency.map(str::to_owned);
            let prices = cache.prices(lists, currency.clone(), at(now));
            let state = lists.state();
            let fresh =
                EffectivePrices::from_lists(state.iter().map(AsRef::as_ref), currency, at(now));
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
