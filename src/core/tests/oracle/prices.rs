//! The oracle's price lists as the core's: the one place that knows how the core writes them.

use bursar_core::money::Money;
use bursar_core::price::{Facts, GpuPrice, Power, PriceBook, PriceLists, Share};
use jiff::Timestamp;

use crate::rates::{List, Price, WATTS};

const RESOURCE: &str = "nvidia.com/gpu";
const MODEL: &str = "H100";

/// What a pod with `units` holds, on a node that has its labels or not.
pub(crate) fn facts(units: u32, share: (u32, u32), labelled: bool) -> Facts {
    Facts {
        resource: RESOURCE.into(),
        gpus: units,
        node_gpus: 8,
        model: labelled.then(|| MODEL.into()),
        share: Share {
            part: share.0,
            whole: share.1,
        },
        ..Facts::default()
    }
}

/// What the controller reads.
pub(crate) fn lists(list: &List) -> PriceLists {
    PriceLists {
        book: list.first.as_ref().map(book).unwrap_or_default(),
        later: list
            .steps
            .iter()
            .map(|(from, price)| (time(*from), book(price)))
            .collect(),
        known: time(list.edited),
    }
}

fn book(price: &Price) -> PriceBook {
    let gpu = |model: &str, nanos, watts| GpuPrice {
        model: model.into(),
        resource: RESOURCE.into(),
        capacity_type: None,
        region: None,
        per_hour: Money::from_nanos(nanos),
        watts,
    };
    PriceBook {
        currency: "USD".into(),
        gpus: vec![
            gpu(MODEL, price.gpu, u32::try_from(WATTS).ok()),
            gpu("B200", price.dearest, None),
        ],
        nodes: Vec::new(),
        power: Some(Power {
            per_kwh: Money::from_nanos(price.kwh),
            pue_milli: 1000,
        }),
    }
}

/// Seconds since 1970 as the core's time.
pub(crate) fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}
