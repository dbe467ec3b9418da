//! What a pod that has no node yet will cost.

use bursar_api::SpendRecord;
use bursar_core::capacity::Gang;
use bursar_core::money::Money;
use bursar_core::period::Month;
use bursar_core::price::Facts;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::reflector::Store;

pub(crate) use bursar_api::prices::Prices;

use crate::capacity;
use crate::pod;
use crate::watch::Stores;

/// The currency that the accounts of `now`'s month are kept in; `None` while there are none.
pub(crate) fn kept(
    records: &Store<SpendRecord>,
    now: Timestamp,
    zone: &TimeZone,
) -> Option<String> {
    kept_in(records, Month::of(now, zone))
}

/// The currency that a month's accounts are kept in; `None` if there are none.
pub(crate) fn kept_in(records: &Store<SpendRecord>, month: Month) -> Option<String> {
    let month = month.to_string();
    let record =
        records.find(|record| record.spec.month == month && !record.spec.currency.is_empty())?;
    Some(record.spec.currency.clone())
}

/// The prices that the caches hold, in the currency that the accounts of `now`'s month are kept in.
pub(crate) fn known(stores: &Stores, now: Timestamp, zone: &TimeZone) -> Prices {
    let lists = stores.prices.state();
    let kept = kept(&stores.records, now, zone);
    Prices::of(lists.iter().map(AsRef::as_ref), kept, now)
}

/// What a pod of these facts may cost an hour wherever it is put: the dearest of the nodes that would take it, or the dearest listed
/// while there is none. `None` if no price is known.
pub(crate) fn estimate<'a>(
    prices: &Prices,
    facts: &Facts,
    pod: &Gang,
    nodes: impl IntoIterator<Item = &'a Node>,
    now: Timestamp,
) -> Option<Money> {
    let fitting = nodes
        .into_iter()
        .filter(|node| pod::node_gpus(node, &facts.resource) > 0 && capacity::selects(node, pod));
    let rates: Option<Vec<Money>> = fitting
        .map(|node| {
            let facts = pod::on(facts.clone(), node);
            let quote = prices.lists.price(&facts, now).rate();
            quote.map(|quote| quote.cost.total())
        })
        .collect();
    let somewhere = || {
        let volumes = prices.lists.price(facts, now).rate()?.cost.storage;
        let gpus = prices.lists.dearest(&facts.resource, now)?;
        Some(gpus.times(facts.gpus) + volumes)
    };
    rates?.into_iter().max().or_else(somewhere)
}
