//! The oracle's price lists as the core's: the one place that knows how the core writes them.

use bursar_core::money::Money;
use bursar_core::pricing::{
    DatedPriceList, GpuPrice, Power, PriceCatalog, PriceList, PriceScope, PricingAttributes,
    ResourceAmounts, Share, Tariff,
};
use jiff::Timestamp;

use crate::rates::{List, Price, WATTS};

const RESOURCE: &str = "nvidia.com/gpu";
const MODEL: &str = "H100";

/// So many cores.
pub(crate) fn cores(count: u32) -> ResourceAmounts {
    ResourceAmounts {
        cpu_milli: count * 1000,
        ..ResourceAmounts::default()
    }
}

/// What a pod with `units` holds, on a node that has its labels or not.
pub(crate) fn facts(units: u32, share: (u32, u32), labelled: bool) -> PricingAttributes {
    PricingAttributes {
        resource: RESOURCE.into(),
        gpus: units,
        node_gpus: 8,
        model: labelled.then(|| MODEL.into()),
        share: Share {
            part: share.0,
            whole: share.1,
        },
        ..PricingAttributes::default()
    }
}

/// What the controller reads: a list for the first price and one for each step, the latest first in precedence.
pub(crate) fn lists(list: &List) -> PriceCatalog {
    let first = list.first.iter().map(|price| (None, price));
    let steps = list
        .steps
        .iter()
        .map(|(from, price)| (Some(time(*from)), price));
    let lists = first
        .chain(steps)
        .enumerate()
        .map(|(number, (effective_from, price))| DatedPriceList {
            name: format!("{:04}", 9999 - number),
            effective_from,
            list: price_list(price),
        });
    PriceCatalog::new(lists.collect(), time(list.edited))
}

fn price_list(price: &Price) -> PriceList {
    let gpu = |model: &str, nanos, watts| GpuPrice {
        model: model.into(),
        resource: RESOURCE.into(),
        nodes: PriceScope::default(),
        per_hour: Money::from_nanos(nanos),
        watts,
    };
    PriceList {
        currency: "USD".into(),
        gpus: vec![
            gpu(MODEL, price.gpu, u32::try_from(WATTS).ok()),
            gpu("B200", price.dearest, None),
        ],
        core_hour: Some(Money::from_nanos(price.core)),
        power: Some(Power {
            tariff: Tariff::flat(Money::from_nanos(price.kwh)),
            pue_milli: 1000,
            carbon: None,
        }),
        ..PriceList::default()
    }
}

/// Seconds since 1970 as the core's time.
pub(crate) fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}
