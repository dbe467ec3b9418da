//! All PriceLists together: which count, in which order, and which do not and why.

use std::collections::BTreeMap;

use bursar_core::pricing;
use jiff::Timestamp;
use kube::ResourceExt;

use super::PriceList;

/// The prices of all lists over time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EffectivePrices {
    /// The lists that count, now or later.
    pub lists: pricing::PriceCatalog,
    /// When a price may change next.
    pub next: Option<Timestamp>,
    /// Lists that are not used, and why.
    pub refused: BTreeMap<String, String>,
}

impl EffectivePrices {
    /// The prices that these lists make. The currency is the one that this month's accounts are
    /// `kept` in or, before there are any, that of the first list in force at `now`; lists in
    /// another one are left out.
    pub fn from_lists<'a>(
        lists: impl IntoIterator<Item = &'a PriceList>,
        kept: Option<String>,
        now: Timestamp,
    ) -> Self {
        let mut lists: Vec<&PriceList> = lists.into_iter().collect();
        lists.sort_by_key(|list| (list.name_any() == pricing::DEFAULT_LIST, list.name_any()));
        let known = lists.iter().filter_map(|list| edited(list)).max();
        let mut refused = BTreeMap::new();
        let mut readable = Vec::new();
        for list in lists {
            match list.spec.to_core() {
                Ok(book) => readable.push(pricing::DatedPriceList {
                    name: list.name_any(),
                    effective_from: list.spec.effective_from.as_ref().map(|from| from.0),
                    list: book,
                }),
                Err(error) => {
                    refused.insert(list.name_any(), error.to_string());
                }
            }
        }
        let in_force =
            |list: &&pricing::DatedPriceList| list.effective_from.is_none_or(|from| from <= now);
        let leading = readable.iter().find(in_force).or(readable.first());
        let is_kept = kept.is_some();
        let currency = kept.or_else(|| leading.map(|list| list.list.currency.clone()));
        let (ours, others): (Vec<_>, Vec<_>) = readable
            .into_iter()
            .partition(|list| Some(&list.list.currency) == currency.as_ref());
        // one that is not in force yet may be the first then
        let begins = others.iter().filter_map(|list| list.effective_from);
        let begins = begins.filter(|from| *from > now).min();
        for list in others.iter().filter(in_force) {
            let (its, currency) = (&list.list.currency, currency.as_deref().unwrap_or_default());
            let why = if is_kept {
                format!(
                    "its currency is {its}, and this month's accounts are kept in {currency}: it can count from the next month on"
                )
            } else {
                format!("its currency is {its}, and lists that go before it are in {currency}")
            };
            refused.insert(list.name.clone(), why);
        }
        let mut lists = pricing::PriceCatalog::new(ours, known.unwrap_or_default());
        lists.currency = currency.unwrap_or_default();
        Self {
            next: lists.next_change(now).into_iter().chain(begins).min(),
            lists,
            refused,
        }
    }
}

/// When the list's spec was last written: its status does not count.
fn edited(list: &PriceList) -> Option<Timestamp> {
    let entries = list.metadata.managed_fields.iter().flatten();
    entries
        .filter(|entry| entry.subresource.as_deref() != Some("status"))
        .filter_map(|entry| entry.time.as_ref())
        .max()
        .or(list.metadata.creation_timestamp.as_ref())
        .map(|time| time.0)
}

#[cfg(test)]
mod tests {
    use bursar_core::money::Money;
    use bursar_core::pricing::PricingAttributes;
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-11-24T00:00:00Z";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn list(name: &str, currency: &str, price: &str, from: Option<&str>) -> PriceList {
        serde_json::from_value(json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "PriceList", "metadata": {"name": name},
            "spec": {"currency": currency, "effectiveFrom": from, "gpus": [{"model": "H100", "pricePerHour": price}]},
        }))
        .unwrap()
    }

    fn price(prices: &EffectivePrices, when: &str) -> Money {
        let facts = PricingAttributes {
            resource: "nvidia.com/gpu".into(),
            gpus: 1,
            model: Some("H100".into()),
            ..PricingAttributes::default()
        };
        let rate = prices.lists.price(&facts, at(when)).rate();
        rate.unwrap().cost.compute
    }

    #[test]
    fn ones_own_list_goes_before_the_default_and_a_future_one_waits() {
        let later = "2026-12-01T00:00:00Z";
        let lists = [
            list("default", "USD", "9", None),
            list("zulu", "USD", "5", None),
            list("alpha", "USD", "1", Some(later)),
        ];
        let prices = EffectivePrices::from_lists(&lists, None, at(NOW));
        assert_eq!(price(&prices, NOW), "5".parse().unwrap());
        assert_eq!(price(&prices, later), "1".parse().unwrap());
        assert_eq!(prices.next, Some(at(later)));
    }

    #[test]
    fn a_list_in_another_currency_is_left_out_and_named() {
        let later = "2026-12-01T00:00:00Z";
        let lists = [
            list("default", "USD", "9", None),
            list("ours", "EUR", "8", None),
            list("a-next", "GBP", "7", Some(later)),
        ];
        let prices = EffectivePrices::from_lists(&lists, None, at(NOW));
        assert_eq!(prices.lists.currency, "EUR");
        assert!(prices.refused["default"].contains("EUR"));
        assert!(!prices.refused.contains_key("a-next"));
        assert_eq!(prices.next, Some(at(later)));
        assert_eq!(
            EffectivePrices::from_lists(&lists, None, at(later))
                .lists
                .currency,
            "GBP"
        );
    }

    #[test]
    fn a_list_is_known_from_the_last_edit_of_its_spec() {
        let mut edited = list("ours", "USD", "8", None);
        edited.metadata.managed_fields = serde_json::from_value(json!([
            {"operation": "Apply", "time": "2026-11-20T10:00:00Z"},
            {"operation": "Update", "time": "2026-11-21T10:00:00Z"},
            {"operation": "Update", "subresource": "status", "time": "2026-11-22T10:00:00Z"},
        ]))
        .unwrap();
        let mut other = list("other", "USD", "8", None);
        other.metadata.creation_timestamp =
            serde_json::from_value(json!("2026-11-19T10:00:00Z")).unwrap();
        let known = |lists: &[PriceList]| {
            EffectivePrices::from_lists(lists, None, at(NOW))
                .lists
                .last_edited()
        };
        assert_eq!(
            known(std::slice::from_ref(&other)),
            at("2026-11-19T10:00:00Z")
        );
        assert_eq!(known(&[edited, other]), at("2026-11-21T10:00:00Z"));
    }

    #[test]
    fn a_list_whose_tariff_overlaps_is_refused_with_both_periods() {
        let mut wrong = list("ours", "USD", "8", None);
        let period = |from: &str, to: &str| json!({"days": ["Mon"], "from": from, "to": to, "pricePerKilowattHour": "0.2"});
        wrong.spec.power = serde_json::from_value(json!({"pricePerKilowattHour": "0.1", "tariff": {
            "timeZone": "Europe/Berlin", "periods": [period("07:00", "22:00"), period("21:00", "23:00")]}}))
        .unwrap();
        let why = &EffectivePrices::from_lists([&wrong], None, at(NOW)).refused["ours"];
        assert!(
            why.starts_with("spec.power.tariff: periods[0] and periods[1] overlap"),
            "{why}"
        );
    }

    #[test]
    fn the_currency_of_this_months_accounts_stays_until_the_month_is_over() {
        let lists = [
            list("contract", "EUR", "8", None),
            list("default", "USD", "9", None),
        ];
        let prices = EffectivePrices::from_lists(&lists, Some("USD".into()), at(NOW));
        assert_eq!(
            (prices.lists.currency.as_str(), price(&prices, NOW)),
            ("USD", "9".parse().unwrap())
        );
        let why = &prices.refused["contract"];
        assert!(why.contains("EUR") && why.contains("kept in USD"), "{why}");
        let alone = EffectivePrices::from_lists(&lists[..1], Some("USD".into()), at(NOW));
        assert_eq!(
            (alone.lists.currency.as_str(), alone.refused.len()),
            ("USD", 1)
        );
    }
}
