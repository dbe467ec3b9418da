//! The breakdown of a price: the terms that it is the sum of, each with the list and the row that
//! it is from.

use std::borrow::Cow;

use jiff::Timestamp;

use crate::money::Money;

use super::attributes::PricingAttributes;
use super::catalog::{DatedPriceList, PriceCatalog};
use super::gpu_models::{classes_from, memory_class};
use super::price_list::{GpuPrice, MONTH_HOURS, NodePrice, Power, UnitFraction, VolumePrice};
use super::share::Share;

const MIB_PER_GIB: u32 = 1024;

/// The part of a pod's price that is from one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceComponent<'a> {
    /// The list that the row is from.
    pub list: &'a str,
    /// The row.
    pub row: PriceRow<'a>,
    /// The part of the cost of an hour.
    pub per_hour: Money,
}

/// What a pod's price is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breakdown<'a> {
    /// The terms that it is the sum of, those of its GPUs first.
    pub terms: Vec<PriceComponent<'a>>,
    /// The GPU resources of the pod for which nothing is listed, so that they are not in it.
    pub unlisted: Vec<String>,
}

/// The kinds of terms. The first three are of a pod's compute, and a pod has one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PriceRow<'a> {
    /// The price of its node, processors and memory included; the pod holds `units` of it.
    Node {
        /// The row.
        row: &'a NodePrice,
        /// The pod's part of the node.
        units: UnitFraction,
    },
    /// The price of its GPU; the pod holds `units` of it.
    Gpu {
        /// The row.
        row: &'a GpuPrice,
        /// How many of the row's GPUs it holds.
        units: UnitFraction,
    },
    /// No row matches; the dearest one listed for its resource stands in.
    HighestListed {
        /// Money an hour of one unit of the resource.
        one: Money,
    },
    /// Cores in addition to a GPU.
    Cores {
        /// Money a core and hour.
        core_hour: Money,
    },
    /// Memory in addition to a GPU.
    Memory {
        /// Money a gibibyte and hour.
        gib_hour: Money,
    },
    /// Ephemeral storage.
    Ephemeral {
        /// Money a gibibyte and month.
        gib_month: Money,
    },
    /// Persistent storage of one class.
    Volume {
        /// The row.
        row: &'a VolumePrice,
        /// Gibibytes.
        gib: u32,
    },
    /// Electricity.
    Power {
        /// Watts that one GPU draws, or all of them where they were measured.
        watts: u32,
        /// How many GPUs the pod holds; one, where they were measured.
        units: UnitFraction,
        /// The price and the emissions of electricity.
        power: &'a Power,
        /// The list that says that.
        power_list: &'a str,
        /// Money a kilowatt-hour at this hour.
        per_kwh: Money,
        /// Milligrams of CO2e an hour.
        carbon_mg: i64,
    },
}

impl PriceCatalog {
    /// What the price of an hour of the pod at `at` is the sum of; `None` if nothing is listed for any of
    /// its kinds of GPUs. Users choose the kinds that a pod asks for, so one without a price takes none from
    /// the others.
    pub fn breakdown<'a>(
        &'a self,
        attributes: &'a PricingAttributes,
        at: Timestamp,
    ) -> Option<Breakdown<'a>> {
        let (mut compute, mut power) = (Vec::new(), Vec::new());
        let mut unlisted = Vec::new();
        let others = attributes.of_other_gpus().map(Cow::Owned);
        for kind in std::iter::once(Cow::Borrowed(attributes)).chain(others) {
            let on_machine = self.within_machine(&kind, at);
            match self.compute(&on_machine, at) {
                Some(term) => compute.push(term),
                None => unlisted.push(kind.resource.clone()),
            }
            power.extend(self.power(&on_machine, at));
        }
        let first = compute.first()?;
        let of_gpus_alone = matches!(first.row, PriceRow::Gpu { .. });
        let mut terms = compute;
        if of_gpus_alone {
            terms.extend(self.processors(attributes, at));
        }
        terms.extend(self.storage(attributes, at));
        terms.extend(power);
        Some(Breakdown { terms, unlisted })
    }

    /// The attributes, so that all units of the node are at most the GPUs of its row: whatever makes
    /// a node offer more, it costs no more than the row, and its pods share that.
    fn within_machine<'a>(
        &self,
        attributes: &'a PricingAttributes,
        at: Timestamp,
    ) -> Cow<'a, PricingAttributes> {
        match self.first(at, |list| list.list.machine_gpus(attributes)) {
            Some((_, gpus)) => attributes.within_machine(gpus),
            None => Cow::Borrowed(attributes),
        }
    }

    fn compute<'a>(
        &'a self,
        attributes: &PricingAttributes,
        at: Timestamp,
    ) -> Option<PriceComponent<'a>> {
        let listed = self.first(at, |list| list.list.compute(attributes));
        if let Some((list, row)) = listed {
            let per_hour = match &row {
                PriceRow::Node { row, units } => units.portion_of(row.per_hour),
                PriceRow::Gpu { row, units } => units.portion_of(row.per_hour),
                _ => Money::ZERO,
            };
            return Some(PriceComponent {
                list,
                row,
                per_hour,
            });
        }
        let (list, one) = self.stand_in(attributes, at)?;
        Some(PriceComponent {
            list,
            row: PriceRow::HighestListed { one },
            per_hour: one.times(attributes.gpus),
        })
    }

    /// The price of one unit where no row matches, and the list that it is from: the highest of a GPU
    /// of the vendor with memory of the same class, or of the next larger class that is listed.
    /// Where all that is listed has less memory there is none: it would be too low. Where the memory
    /// is not known, of the node's GPU or of all that are listed, it is the highest of all.
    fn stand_in(&self, attributes: &PricingAttributes, at: Timestamp) -> Option<(&str, Money)> {
        let PricingAttributes {
            resource, share, ..
        } = attributes;
        let highest = |class| {
            let of_list =
                |list: &'_ DatedPriceList| list.list.highest_of_class(resource, *share, class);
            self.highest_by(at, of_list)
        };
        let memory = attributes.gpu_memory_gib;
        let mut classes = memory
            .into_iter()
            .flat_map(|gib| classes_from(memory_class(gib)));
        if let Some(found) = classes.find_map(highest) {
            return Some(found);
        }
        let are_known = memory.is_some() && classes_from(0).any(|class| highest(class).is_some());
        if are_known {
            return None;
        }
        self.highest_component(resource, *share, at)
    }

    /// The most that one of a resource costs an hour, and the list that says so.
    pub(super) fn highest_component(
        &self,
        resource: &str,
        share: Share,
        at: Timestamp,
    ) -> Option<(&str, Money)> {
        self.highest_by(at, |list| list.list.highest_price(resource, share))
    }

    /// The highest price that a list gives, and the name of the list.
    fn highest_by(
        &self,
        at: Timestamp,
        price: impl Fn(&DatedPriceList) -> Option<Money>,
    ) -> Option<(&str, Money)> {
        self.in_force(at)
            .filter_map(|list| Some((list.name.as_str(), price(list)?)))
            .reduce(|best, next| if next.1 > best.1 { next } else { best })
    }

    /// Cores and memory.
    fn processors(
        &self,
        attributes: &PricingAttributes,
        at: Timestamp,
    ) -> impl Iterator<Item = PriceComponent<'_>> {
        let cores = self.first(at, |list| list.list.core_hour);
        let cores = cores.map(|(list, core_hour)| PriceComponent {
            list,
            row: PriceRow::Cores { core_hour },
            per_hour: core_hour.share(attributes.amounts.cpu_milli, 1000),
        });
        let memory = self.first(at, |list| list.list.gib_hour);
        let memory = memory.map(|(list, gib_hour)| PriceComponent {
            list,
            row: PriceRow::Memory { gib_hour },
            per_hour: gib_hour.share(attributes.amounts.memory_mib, MIB_PER_GIB),
        });
        cores.into_iter().chain(memory)
    }

    /// Ephemeral and persistent storage. A class that no list prices costs nothing, as power does
    /// where it is not charged apart.
    fn storage<'a>(
        &'a self,
        attributes: &'a PricingAttributes,
        at: Timestamp,
    ) -> impl Iterator<Item = PriceComponent<'a>> + use<'a> {
        let ephemeral = self.first(at, |list| list.list.ephemeral_gib_month);
        let ephemeral = ephemeral.map(|(list, gib_month)| PriceComponent {
            list,
            row: PriceRow::Ephemeral { gib_month },
            per_hour: gib_month.share(attributes.amounts.ephemeral_mib, MIB_PER_GIB * MONTH_HOURS),
        });
        let of_class = move |class: &str| {
            self.first(at, |list| {
                let mut rows = list.list.volumes.iter();
                rows.find(|row| row.storage_class == class)
            })
        };
        let persistent = attributes
            .amounts
            .volumes
            .iter()
            .filter_map(move |(class, gib)| {
                let (list, row) = of_class(class)?;
                Some(PriceComponent {
                    list,
                    row: PriceRow::Volume { row, gib: *gib },
                    per_hour: row.per_gib_month.share(*gib, MONTH_HOURS),
                })
            });
        ephemeral.into_iter().chain(persistent)
    }

    /// Electricity and its carbon an hour: watts / 1000 x PUE x price or grams of a kilowatt-hour,
    /// for each physical GPU or, where they were measured, for all of them.
    fn power(&self, attributes: &PricingAttributes, at: Timestamp) -> Option<PriceComponent<'_>> {
        let (power_list, power) = self.first(at, |list| list.list.power.as_ref())?;
        let of_model = self.first(at, |list| list.list.watts(attributes));
        // of a GPU that is shared, nobody's part is measured; and more than the boards can draw is no
        // measurement
        let is_possible = |measured: u32| {
            of_model.is_none_or(|(_, (watts, units))| {
                i128::from(measured) <= units.scale(i128::from(watts))
            })
        };
        let measured = attributes
            .amounts
            .watts
            .filter(|_| attributes.share.is_whole() && attributes.other_gpus.is_empty());
        let (list, (watts, units)) = match measured.filter(|watts| is_possible(*watts)) {
            Some(measured) => (power_list, (measured, UnitFraction::ONE)),
            None => of_model?,
        };
        // millionths of a kilowatt
        let draw = i128::from(watts) * i128::from(power.pue_milli);
        let per_kwh = power.tariff.per_kwh(at);
        let money = units.scale(per_kwh.nanos() * draw) / 1_000_000;
        let grams = power.carbon.as_ref().map_or(0, |carbon| {
            carbon.grams_per_kwh(attributes.region.as_deref())
        });
        let carbon_mg = units.scale(i128::from(grams) * draw) / 1_000;
        Some(PriceComponent {
            list,
            row: PriceRow::Power {
                watts,
                units,
                power,
                power_list,
                per_kwh,
                carbon_mg: i64::try_from(carbon_mg).unwrap_or(i64::MAX),
            },
            per_hour: Money::from_nanos(money),
        })
    }

    /// The value of the first list that has one at `at`, and that list's name.
    fn first<'a, T>(
        &'a self,
        at: Timestamp,
        find: impl Fn(&'a DatedPriceList) -> Option<T>,
    ) -> Option<(&'a str, T)> {
        self.in_force(at)
            .find_map(|list| Some((list.name.as_str(), find(list)?)))
    }
}
