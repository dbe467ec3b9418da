//! A pod that holds a node: since when, in which stage, at which rate, and what says so.

use bursar_api::prices::Prices;
use bursar_core::ledger::{Charge, Rate};
use bursar_core::money::{Money, NANOS};
use bursar_core::price::{Facts, Row, Term, Units, Where};
use bursar_core::report::capacity;
use jiff::Timestamp;

use crate::page::Page;

/// Rates before the present one that are named.
const RATES: usize = 3;

/// All open charges. What prices several pods alike is said once.
pub(super) fn render(
    page: &mut Page,
    charges: &[&Charge],
    prices: &Result<Prices, String>,
    now: Timestamp,
) {
    for (at, charge) in charges.iter().enumerate() {
        page.row(
            "pod",
            &format!("{}: {}, {}", charge.pod, held(&charge.facts), stage(charge)),
        );
        let Some(last) = charge.rates.last() else {
            page.row("  costs", &unpriced(&charge.facts));
            continue;
        };
        page.row("  costs", &rate(last));
        for earlier in charge.rates.iter().rev().skip(1).take(RATES) {
            page.row("  before", &rate(earlier));
        }
        let alike = charges[..at]
            .iter()
            .find(|other| is_priced_alike(other, charge));
        match (alike, prices) {
            (Some(other), _) => page.row("  priced", &format!("as pod {}", other.pod)),
            (None, Ok(prices)) => priced(page, &charge.facts, last, prices, now),
            (None, Err(why)) => page.row(
                "  priced",
                &format!("by PriceLists that cannot be read: {why}"),
            ),
        }
    }
}

fn is_priced_alike(one: &Charge, other: &Charge) -> bool {
    let facts = |charge: &Charge| Facts {
        node: None,
        ..charge.facts.clone()
    };
    let quote = |charge: &Charge| charge.rates.last().map(|rate| rate.quote);
    facts(one) == facts(other) && quote(one) == quote(other)
}

/// What the pod holds, and of which machine.
fn held(facts: &Facts) -> String {
    let name = facts.model.as_ref().unwrap_or(&facts.resource);
    let part = if facts.share.is_whole() {
        String::new()
    } else {
        format!(", each {}/{} of a GPU", facts.share.part, facts.share.whole)
    };
    let whose = [
        facts.node.clone().map(|node| format!("on node {node}")),
        facts.instance_type.clone(),
        facts.capacity_type.map(|by| capacity(by).to_owned()),
        facts.region.clone(),
    ];
    let mut whose = whose.into_iter().flatten().collect::<Vec<_>>().join(", ");
    if !whose.is_empty() {
        whose = format!(" ({whose})");
    }
    format!("{} of {} {name}{part}{whose}", facts.gpus, facts.node_gpus)
}

fn stage(charge: &Charge) -> String {
    let bound = format!("bound {:.0}", charge.start);
    let stage = match (charge.leaving, charge.ready) {
        (Some(since), _) => format!("draining since {since:.0}"),
        (None, Some(since)) => format!("serving since {since:.0}"),
        (None, None) => "starting".to_owned(),
    };
    let lost = charge.lost.map(|since| {
        format!(
            "; its node has not been heard of since {since:.0}: what it costs from then on is unattributed, and `top` leaves out its rate"
        )
    });
    format!("{bound}, {stage}{}", lost.unwrap_or_default())
}

fn rate(rate: &Rate) -> String {
    let standing = if rate.provisional {
        ", provisional"
    } else {
        ""
    };
    format!(
        "{} an hour since {:.0}{standing}",
        rate.quote.cost.total(),
        rate.from
    )
}

fn unpriced(facts: &Facts) -> String {
    let name = facts.model.as_ref().unwrap_or(&facts.resource);
    format!(
        "unknown: no PriceList has a price for {name}, and none for {}",
        facts.resource
    )
}

/// The rows that make up the rate, if the lists still say so.
fn priced(page: &mut Page, facts: &Facts, rate: &Rate, prices: &Prices, now: Timestamp) {
    let Some(terms) = prices.lists.terms(facts, now) else {
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
            &format!("  {}", part(term)),
            &format!("{}: {}", term.per_hour, says(term, facts)),
        );
    }
}

fn part(term: &Term<'_>) -> &'static str {
    match term.row {
        Row::Node { .. } | Row::Gpu { .. } | Row::Dearest { .. } => "compute",
        Row::Cores { .. } => "cores",
        Row::Memory { .. } => "memory",
        Row::Ephemeral { .. } | Row::Volume { .. } => "storage",
        Row::Power { .. } => "power",
    }
}

fn says(term: &Term<'_>, facts: &Facts) -> String {
    let list = term.list;
    match &term.row {
        Row::Node { row, units } => format!(
            "PriceList {list}, node {}{} at {} an hour; {}",
            row.instance_type,
            place(&row.nodes),
            row.per_hour,
            of_node(*units, facts)
        ),
        Row::Gpu { row, units } => format!(
            "PriceList {list}, GPU {}{} at {} an hour; {}",
            row.model,
            place(&row.nodes),
            row.per_hour,
            count(*units)
        ),
        Row::Dearest { one } => format!(
            "no row matches, so the dearest of {} stands in, {one} an hour in PriceList {list}; {} of it",
            facts.resource, facts.gpus
        ),
        Row::Cores { core_hour } => format!(
            "PriceList {list}, {} cores at {core_hour} an hour",
            Money::from_nanos(i128::from(facts.cpu_milli) * NANOS / 1000)
        ),
        Row::Memory { gib_hour } => format!(
            "PriceList {list}, {} MiB at {gib_hour} a GiB and hour",
            facts.memory_mib
        ),
        Row::Ephemeral { gib_month } => format!(
            "PriceList {list}, {} MiB of ephemeral storage at {gib_month} a GiB and month of 730 hours",
            facts.ephemeral_mib
        ),
        Row::Volume { row, gib } => format!(
            "PriceList {list}, {gib} GiB of class {} at {} a GiB and month of 730 hours",
            row.storage_class, row.per_gib_month
        ),
        Row::Power {
            watts,
            units,
            power,
            power_list,
            per_kwh,
            ..
        } => format!(
            "{watts} W (PriceList {list}) x PUE {} x {per_kwh} a kilowatt-hour at this hour (PriceList {power_list}); {}",
            Money::from_nanos(i128::from(power.pue_milli) * NANOS / 1000),
            count(*units)
        ),
    }
}

/// Where a row is for.
fn place(nodes: &Where) -> String {
    let words = [
        nodes.capacity_type.map(capacity),
        nodes.region.as_deref(),
        nodes.zone.as_deref(),
    ];
    let words: Vec<&str> = words.into_iter().flatten().collect();
    if words.is_empty() {
        return String::new();
    }
    format!(" ({})", words.join(", "))
}

fn of_node(units: Units, facts: &Facts) -> String {
    if facts.share.is_whole() {
        format!("{} of its {} GPUs", units.part, units.whole)
    } else {
        format!("{}/{} of it", units.part, units.whole)
    }
}

fn count(units: Units) -> String {
    match (units.part, units.whole) {
        (1, 1) => "1 GPU".to_owned(),
        (part, 1) => format!("{part} GPUs"),
        (part, whole) => format!("{part}/{whole} of a GPU"),
    }
}
