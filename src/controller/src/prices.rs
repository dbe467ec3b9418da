//! The prices in force, made of all PriceLists, and what a pod that has no node yet will cost.

use std::collections::BTreeMap;

use bursar_api::PriceList;
use bursar_core::capacity::Gang;
use bursar_core::money::Money;
use bursar_core::price::{Facts, PriceBook, PriceLists};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use crate::capacity;
use crate::pod;

/// The name of the list that the chart ships. Every other one goes before it.
pub(crate) const DEFAULT_LIST: &str = "default";

/// The prices in force, and when they change next.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Prices {
    /// All rows in one currency. Of equally close rows the later counts, so the first lists stand last.
    pub(crate) book: PriceBook,
    /// Interim.
    pub(crate) lists: PriceLists,
    /// When a list comes into force.
    pub(crate) next: Option<Timestamp>,
    /// Lists that are not used, and why.
    pub(crate) refused: BTreeMap<String, String>,
}

impl Prices {
    /// The prices that these lists make at `now`.
    pub(crate) fn of<'a>(lists: impl IntoIterator<Item = &'a PriceList>, now: Timestamp) -> Self {
        let mut lists: Vec<&PriceList> = lists.into_iter().collect();
        lists.sort_by_key(|list| (list.name_any() == DEFAULT_LIST, list.name_any()));
        let mut prices = Self::default();
        let mut books = Vec::new();
        for list in lists {
            let name = list.name_any();
            if let Some(from) = list
                .spec
                .effective_from
                .as_ref()
                .map(|from| from.0)
                .filter(|from| *from > now)
            {
                prices.next = prices.next.into_iter().chain([from]).min();
                continue;
            }
            match list.spec.to_core() {
                Err(error) => {
                    prices.refused.insert(name, error.to_string());
                }
                Ok(book) => {
                    let currency = books
                        .first()
                        .map_or(&book.currency, |first: &PriceBook| &first.currency);
                    if *currency == book.currency {
                        books.push(book);
                    } else {
                        let why = format!(
                            "its currency is {}, and lists that go before it are in {currency}",
                            book.currency
                        );
                        prices.refused.insert(name, why);
                    }
                }
            }
        }
        prices.book.currency = books
            .first()
            .map(|book| book.currency.clone())
            .unwrap_or_default();
        prices.book.power = books.iter().find_map(|book| book.power);
        for book in books.into_iter().rev() {
            prices.book.gpus.extend(book.gpus);
            prices.book.nodes.extend(book.nodes);
        }
        prices.lists.book = prices.book.clone();
        prices
    }

    /// ISO 4217 code.
    pub(crate) fn currency(&self) -> &str {
        &self.book.currency
    }

    /// What `gpus` of `resource` may cost an hour wherever this pod is put: the dearest of the nodes that would take it, or the
    /// dearest listed while there is none. `None` if no price is known.
    pub(crate) fn estimate<'a>(
        &self,
        resource: &str,
        gpus: u32,
        pod: &Gang,
        nodes: impl IntoIterator<Item = &'a Node>,
    ) -> Option<Money> {
        let fitting = nodes
            .into_iter()
            .filter(|node| pod::node_gpus(node, resource) > 0 && capacity::selects(node, pod));
        let rates: Option<Vec<Money>> = fitting
            .map(|node| {
                let facts = Facts::from_labels(
                    resource,
                    gpus,
                    pod::node_gpus(node, resource),
                    node.labels(),
                );
                self.book
                    .price(&facts)
                    .rate()
                    .map(|quote| quote.cost.total())
            })
            .collect();
        rates?
            .into_iter()
            .max()
            .or_else(|| self.book.dearest(resource).map(|price| price.times(gpus)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn list(name: &str, currency: &str, price: &str, from: Option<&str>) -> PriceList {
        serde_json::from_value(json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "PriceList", "metadata": {"name": name},
            "spec": {"currency": currency, "effectiveFrom": from, "gpus": [{"model": "H100", "pricePerHour": price}]},
        }))
        .unwrap()
    }

    fn price(prices: &Prices) -> Money {
        let facts = Facts {
            resource: "nvidia.com/gpu".into(),
            gpus: 1,
            model: Some("H100".into()),
            ..Facts::default()
        };
        prices.book.price(&facts).rate().unwrap().cost.compute
    }

    #[test]
    fn ones_own_list_goes_before_the_default_and_a_future_one_waits() {
        let now: Timestamp = "2026-11-24T00:00:00Z".parse().unwrap();
        let lists = [
            list("default", "USD", "9", None),
            list("zulu", "USD", "5", None),
            list("alpha", "USD", "1", Some("2026-12-01T00:00:00Z")),
        ];
        let prices = Prices::of(&lists, now);
        assert_eq!(
            (price(&prices), prices.next),
            (
                "5".parse().unwrap(),
                Some("2026-12-01T00:00:00Z".parse().unwrap())
            )
        );
        let later = Prices::of(&lists, "2026-12-01T00:00:00Z".parse().unwrap());
        assert_eq!(price(&later), "1".parse().unwrap());
    }

    #[test]
    fn a_list_in_another_currency_is_left_out_and_named() {
        let prices = Prices::of(
            &[
                list("default", "USD", "9", None),
                list("ours", "EUR", "8", None),
            ],
            Timestamp::UNIX_EPOCH,
        );
        assert_eq!(prices.book.currency, "EUR");
        assert!(prices.refused["default"].contains("EUR"));
    }
}
