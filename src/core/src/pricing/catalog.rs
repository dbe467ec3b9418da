//! All price lists over time.
//!
//! **Which price counts.** Lists stand in order of their names, [`DEFAULT_LIST`] last, and a list
//! counts from its `effective_from` on. The first list that has a row for the pod's machine sets
//! the price of its compute. Among the rows of that list, one of the node's instance type precedes
//! one of its GPU's model, one of the pod's very resource (a MIG profile) one of the physical GPU,
//! one of a zone one of a region, that one of a capacity type, and that one with none of these; of
//! equally close rows the first. Each other price (a core, memory, ephemeral storage, a storage
//! class, watts of a model, power as a whole, an overhead by name) is that of the first list that
//! has it.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::money::{Cost, Money, per_hour_for};

use super::accelerators::share_by_name;
use super::attributes::PricingAttributes;
use super::breakdown::{Breakdown, PriceComponent, PriceRow};
use super::overhead::Overhead;
use super::price_list::{Power, PriceList};

/// The list that is shipped. Every other one takes precedence.
pub const DEFAULT_LIST: &str = "default";
/// As many changes as [`PriceCatalog::changes`] gives at once: some 13 years of a tariff that
/// changes twice a day.
pub const MAX_CHANGES: usize = 10_000;

/// A price list, and from when it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatedPriceList {
    /// Its name.
    pub name: String,
    /// From when it counts; always if `None`.
    pub effective_from: Option<Timestamp>,
    /// Its rows.
    pub list: PriceList,
}

/// All lists of one currency over time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceCatalog {
    /// ISO 4217 code; empty while there is no list.
    pub currency: String,
    /// In order of precedence.
    lists: Vec<DatedPriceList>,
    known: Timestamp,
}

/// The cost and the emissions of an hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HourlyRate {
    /// Cost an hour, in its parts.
    pub cost: Cost,
    /// Milligrams of CO2e an hour.
    pub carbon_mg: i64,
}

impl HourlyRate {
    /// Milligrams of CO2e in `seconds`, rounded down.
    pub fn carbon_mg_for(self, seconds: i64) -> i64 {
        i64::try_from(per_hour_for(self.carbon_mg.into(), seconds)).unwrap_or(i64::MAX)
    }
}

impl From<Cost> for HourlyRate {
    fn from(cost: Cost) -> Self {
        Self { cost, carbon_mg: 0 }
    }
}

/// The answer of the price lists for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PriceLookup {
    /// A price that matches.
    Listed(HourlyRate),
    /// No price matches; the dearest one listed for the resource stands in until one does.
    Provisional(HourlyRate),
    /// Nothing is listed for the resource. Unknown is not zero.
    Unknown,
}

impl PriceLookup {
    /// The cost and the emissions of an hour; `None` if unknown.
    pub fn rate(&self) -> Option<HourlyRate> {
        match self {
            Self::Listed(rate) | Self::Provisional(rate) => Some(*rate),
            Self::Unknown => None,
        }
    }
}

impl PriceCatalog {
    /// These lists, which are all in the first one's currency. `known` is the latest instant at
    /// which any list was edited.
    pub fn new(mut lists: Vec<DatedPriceList>, known: Timestamp) -> Self {
        lists.sort_by(|a, b| {
            let rank = |list: &DatedPriceList| (list.name == DEFAULT_LIST, list.name.clone());
            rank(a).cmp(&rank(b))
        });
        Self {
            currency: lists
                .first()
                .map(|list| list.list.currency.clone())
                .unwrap_or_default(),
            lists,
            known,
        }
    }

    /// The latest instant at which any list was edited. Prices of earlier instants may be others
    /// than they were then.
    pub fn last_edited(&self) -> Timestamp {
        self.known
    }

    /// The price of an hour of the pod by the lists that count at `at`: the sum of its terms.
    pub fn price(&self, attributes: &PricingAttributes, at: Timestamp) -> PriceLookup {
        let Some(Breakdown { terms, unlisted }) = self.breakdown(attributes, at) else {
            return PriceLookup::Unknown;
        };
        let (mut quote, mut is_listed) = (HourlyRate::default(), unlisted.is_empty());
        for term in terms {
            let part = match term.row {
                PriceRow::Node { .. }
                | PriceRow::Gpu { .. }
                | PriceRow::Cores { .. }
                | PriceRow::Memory { .. } => &mut quote.cost.compute,
                PriceRow::HighestListed { .. } => {
                    is_listed = false;
                    &mut quote.cost.compute
                }
                PriceRow::Ephemeral { .. } | PriceRow::Volume { .. } => &mut quote.cost.storage,
                PriceRow::Power { carbon_mg, .. } => {
                    quote.carbon_mg += carbon_mg;
                    &mut quote.cost.power
                }
            };
            *part += term.per_hour;
        }
        if is_listed {
            PriceLookup::Listed(quote)
        } else {
            PriceLookup::Provisional(quote)
        }
    }

    /// Whether a row gives the price of each kind of GPUs for which anything is listed.
    pub fn has_rows(&self, attributes: &PricingAttributes, at: Timestamp) -> bool {
        let is_stand_in =
            |term: &PriceComponent<'_>| matches!(term.row, PriceRow::HighestListed { .. });
        let breakdown = self.breakdown(attributes, at);
        breakdown.is_some_and(|breakdown| !breakdown.terms.iter().any(is_stand_in))
    }

    /// The most that one of this resource costs an hour at `at`. A MIG profile costs its slices of
    /// the dearest GPU.
    pub fn highest_price(&self, resource: &str, at: Timestamp) -> Option<Money> {
        self.highest_component(resource, share_by_name(resource, None), at)
            .map(|(_, price)| price)
    }

    /// The first instant after `after` at which a price may change: a list's first, or another hour
    /// of the tariff.
    pub fn next_change(&self, after: Timestamp) -> Option<Timestamp> {
        let begins = self.lists.iter().filter_map(|list| list.effective_from);
        let begins = begins.filter(|from| *from > after);
        let tariff = self
            .power_section(after)
            .and_then(|power| power.tariff.changes(after).next());
        begins.chain(tariff).min()
    }

    /// The instants after `after`, until `until`, at which a price may change, in order;
    /// [`MAX_CHANGES`] at most, so ask again after the last of so many.
    pub fn changes(&self, after: Timestamp, until: Timestamp) -> Vec<Timestamp> {
        let next = |at: &Timestamp| self.next_change(*at);
        std::iter::successors(next(&after), next)
            .take_while(|at| *at <= until)
            .take(MAX_CHANGES)
            .collect()
    }

    /// The monthly overheads at `at`, each name once.
    pub fn overheads(&self, at: Timestamp) -> Vec<&Overhead> {
        let mut names = BTreeSet::new();
        self.lists_at(at)
            .flat_map(|book| &book.overheads)
            .filter(|overhead| names.insert(overhead.name.as_str()))
            .collect()
    }

    /// The lists that count at `at`.
    pub(super) fn in_force(&self, at: Timestamp) -> impl Iterator<Item = &DatedPriceList> {
        let counts =
            move |list: &&DatedPriceList| list.effective_from.is_none_or(|from| from <= at);
        self.lists.iter().filter(counts)
    }

    fn lists_at(&self, at: Timestamp) -> impl Iterator<Item = &PriceList> {
        self.in_force(at).map(|list| &list.list)
    }

    /// Whether electricity is charged apart at `at`.
    pub fn charges_power(&self, at: Timestamp) -> bool {
        self.power_section(at).is_some()
    }

    fn power_section(&self, at: Timestamp) -> Option<&Power> {
        self.lists_at(at).find_map(|book| book.power.as_ref())
    }
}

#[cfg(test)]
mod tests;
