//! A pod that holds GPUs: since when, in which stage, at which rate, and by which price rows.

use bursar_api::prices::EffectivePrices;
use bursar_core::cost_report::capacity_type_name;
use bursar_core::ledger::{Charge, RatePeriod};
use bursar_core::money::{Money, NANOS};
use bursar_core::pricing::{
    Breakdown, PriceComponent, PriceRow, PriceScope, PricingAttributes, Share, UnitFraction,
};
use jiff::Timestamp;

use crate::format::description::Description;

/// Rates before the present one that are named.
const RATES: usize = 3;

/// Describes all open charges. Price rows that several pods share are listed once.
pub(super) fn describe(
    page: &mut Description,
    charges: &[&Charge],
    prices: &Result<EffectivePrices, String>,
    now: Timestamp,
) {
    for (at, charge) in charges.iter().enumerate() {
        page.row(
            "pod",
            &format!(
                "{}: {}, {}",
                charge.pod(),
                hardware(charge.attributes()),
                stage(charge)
            ),
        );
        let Some(last) = charge.rates().last() else {
            page.row("  costs", &unpriced(charge.attributes()));
            continue;
        };
        page.row("  costs", &rate(last));
        for earlier in charge.rates().iter().rev().skip(1).take(RATES) {
            page.row("  before", &rate(earlier));
        }
        let alike = charges[..at]
            .iter()
            .find(|other| is_priced_alike(other, charge));
        match (alike, prices) {
            (Some(other), _) => page.row("  priced", &format!("as pod {}", other.pod())),
            (None, Ok(prices)) => priced(page, charge.attributes(), last, prices, now),
            (None, Err(why)) => page.row(
                "  priced",
                &format!("by PriceLists that cannot be read: {why}"),
            ),
        }
    }
}

fn is_priced_alike(one: &Charge, other: &Charge) -> bool {
    let attributes = |charge: &Charge| PricingAttributes {
        node: None,
        ..charge.attributes().clone()
    };
    let quote = |charge: &Charge| charge.rates().last().map(|rate| rate.quote);
    attributes(one) == attributes(other) && quote(one) == quote(other)
}

/// The GPUs that the pod holds, and their node.
fn hardware(attributes: &PricingAttributes) -> String {
    let name = attributes.model.as_ref().unwrap_or(&attributes.resource);
    let part = part_of_gpu(attributes.share);
    let whose = [
        attributes
            .node
            .clone()
            .map(|node| format!("on node {node}")),
        attributes.instance_type.clone(),
        attributes
            .capacity_type
            .map(|by| capacity_type_name(by).to_owned()),
        attributes.region.clone(),
    ];
    let mut whose = whose.into_iter().flatten().collect::<Vec<_>>().join(", ");
    if !whose.is_empty() {
        whose = format!(" ({whose})");
    }
    let others = attributes.other_gpus.iter().map(|other| {
        let name = other.model.as_ref().unwrap_or(&other.resource);
        let part = part_of_gpu(other.share);
        format!(" and {} of {} {name}{part}", other.gpus, other.node_gpus)
    });
    format!(
        "{} of {} {name}{part}{}{whose}",
        attributes.gpus,
        attributes.node_gpus,
        others.collect::<String>()
    )
}

fn part_of_gpu(share: Share) -> String {
    match share.is_whole() {
        true => String::new(),
        false => format!(", each {}/{} of a GPU", share.part, share.whole),
    }
}

fn stage(charge: &Charge) -> String {
    let bound = format!("bound {:.0}", charge.start());
    let stage = match (charge.draining_since(), charge.ready_since()) {
        (Some(since), _) => format!("draining since {since:.0}"),
        (None, Some(since)) => format!("serving since {since:.0}"),
        (None, None) => "starting".to_owned(),
    };
    let lost = charge.node_lost_since().map(|since| {
        format!(
            "; its node has not been heard of since {since:.0}: what it costs from then on is unattributed, and `top` leaves out its rate"
        )
    });
    format!("{bound}, {stage}{}", lost.unwrap_or_default())
}

fn rate(rate: &RatePeriod) -> String {
    let mark = if rate.provisional {
        ", provisional"
    } else {
        ""
    };
    format!(
        "{} an hour since {:.0}{mark}",
        rate.quote.cost.total(),
        rate.from
    )
}

fn unpriced(attributes: &PricingAttributes) -> String {
    let name = attributes.model.as_ref().unwrap_or(&attributes.resource);
    format!(
        "unknown: no PriceList has a price for {name}, and none for {}",
        attributes.resource
    )
}

/// Describes the price rows that the rate is the sum of, if the lists still have them.
fn priced(
    page: &mut Description,
    attributes: &PricingAttributes,
    rate: &RatePeriod,
    prices: &EffectivePrices,
    now: Timestamp,
) {
    let Some(Breakdown { terms, unlisted }) = prices.lists.breakdown(attributes, now) else {
        page.row("  priced", "by a list that is gone: the last rate goes on");
        return;
    };
    let sum: Money = terms.iter().map(|term| term.per_hour).sum();
    if sum != rate.quote.cost.total() {
        page.row(
            "  note",
            &format!(
                "the PriceLists say {sum} an hour now, which the controller has not followed yet:"
            ),
        );
    }
    for term in terms.iter().filter(|term| term.per_hour != Money::ZERO) {
        page.row(
            &format!("  {}", component_name(term)),
            &format!(
                "{}: {}",
                term.per_hour,
                describe_component(term, attributes)
            ),
        );
    }
    for resource in unlisted {
        page.row("  compute", &format!("unknown: no row for {resource}"));
    }
}

fn component_name(term: &PriceComponent<'_>) -> &'static str {
    match term.row {
        PriceRow::Node { .. } | PriceRow::Gpu { .. } | PriceRow::HighestListed { .. } => "compute",
        PriceRow::Cores { .. } => "cores",
        PriceRow::Memory { .. } => "memory",
        PriceRow::Ephemeral { .. } | PriceRow::Volume { .. } => "storage",
        PriceRow::Power { .. } => "power",
    }
}

fn describe_component(term: &PriceComponent<'_>, attributes: &PricingAttributes) -> String {
    let list = term.list;
    match &term.row {
        PriceRow::Node { row, units } => format!(
            "PriceList {list}, node {}{} at {} an hour; {}",
            row.instance_type,
            scope(&row.nodes),
            row.per_hour,
            node_fraction(*units, attributes)
        ),
        PriceRow::Gpu { row, units } => format!(
            "PriceList {list}, GPU {}{} at {} an hour; {}",
            row.model,
            scope(&row.nodes),
            row.per_hour,
            gpu_fraction(*units)
        ),
        PriceRow::HighestListed { one } => format!(
            "no row matches, so the highest price of {} is used, {one} an hour in PriceList {list}; {} of it",
            attributes.resource, attributes.gpus
        ),
        PriceRow::Cores { core_hour } => format!(
            "PriceList {list}, {} cores at {core_hour} an hour",
            Money::from_nanos(i128::from(attributes.amounts.cpu_milli) * NANOS / 1000)
        ),
        PriceRow::Memory { gib_hour } => format!(
            "PriceList {list}, {} MiB at {gib_hour} a GiB and hour",
            attributes.amounts.memory_mib
        ),
        PriceRow::Ephemeral { gib_month } => format!(
            "PriceList {list}, {} MiB of ephemeral storage at {gib_month} a GiB and month of 730 hours",
            attributes.amounts.ephemeral_mib
        ),
        PriceRow::Volume { row, gib } => format!(
            "PriceList {list}, {gib} GiB of class {} at {} a GiB and month of 730 hours",
            row.storage_class, row.per_gib_month
        ),
        PriceRow::Power {
            watts,
            units,
            power,
            power_list,
            per_kwh,
            ..
        } => format!(
            "{watts} W ({}) x PUE {} x {per_kwh} a kilowatt-hour at this hour (PriceList {power_list}); {}",
            if attributes.amounts.watts.is_some() {
                "measured".to_owned()
            } else {
                format!("PriceList {list}")
            },
            Money::from_nanos(i128::from(power.pue_milli) * NANOS / 1000),
            if attributes.amounts.watts.is_some() {
                "all its GPUs together".to_owned()
            } else {
                gpu_fraction(*units)
            }
        ),
    }
}

/// The capacity type, region and zone that a row is for.
fn scope(nodes: &PriceScope) -> String {
    let words = [
        nodes.capacity_type.map(capacity_type_name),
        nodes.region.as_deref(),
        nodes.zone.as_deref(),
    ];
    let words: Vec<&str> = words.into_iter().flatten().collect();
    if words.is_empty() {
        return String::new();
    }
    format!(" ({})", words.join(", "))
}

fn node_fraction(units: UnitFraction, attributes: &PricingAttributes) -> String {
    if attributes.share.is_whole() {
        format!("{} of its {} GPUs", units.part, units.whole)
    } else {
        format!("{}/{} of it", units.part, units.whole)
    }
}

fn gpu_fraction(units: UnitFraction) -> String {
    match (units.part, units.whole) {
        (1, 1) => "1 GPU".to_owned(),
        (part, 1) => format!("{part} GPUs"),
        (part, whole) => format!("{part}/{whole} of a GPU"),
    }
}
