//! What tests of money share: pods of one GPU, and what it costs.

use std::sync::Arc;

use bursar_core::model::event::PodShape;
use bursar_core::money::Money;
use bursar_core::pricing::{DatedPriceList, GpuPrice, PriceList, PriceScope, PricingAttributes};
use jiff::Timestamp;

pub(crate) const GPU: &str = "nvidia.com/gpu";

pub(crate) fn money(text: &str) -> Money {
    text.parse().unwrap()
}

/// A pod of one GPU.
pub(crate) fn shape() -> Arc<PodShape> {
    let attributes = PricingAttributes {
        resource: GPU.to_owned(),
        gpus: 1,
        ..PricingAttributes::default()
    };
    Arc::new(PodShape {
        requests: [(GPU.to_owned(), 1000), ("pods".to_owned(), 1000)].into(),
        attributes: Some(attributes),
        ..PodShape::default()
    })
}

/// A list with the money an hour of each of these models.
pub(crate) fn price_list(
    name: &str,
    effective_from: Option<Timestamp>,
    models: &[(&str, &str)],
) -> DatedPriceList {
    let prices = models.iter().map(|(model, per_hour)| GpuPrice {
        model: (*model).to_owned(),
        resource: GPU.to_owned(),
        nodes: PriceScope::default(),
        per_hour: money(per_hour),
        watts: None,
    });
    DatedPriceList {
        name: name.to_owned(),
        effective_from,
        list: PriceList {
            currency: "USD".to_owned(),
            gpus: prices.collect(),
            ..PriceList::default()
        },
    }
}
