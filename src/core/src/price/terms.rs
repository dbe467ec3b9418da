//! How a price comes about: the terms that it is the sum of, each with the list and the row that it is from.

use jiff::Timestamp;

use crate::money::Money;

use super::book::{GpuPrice, MONTH_HOURS, NodePrice, Power, Units, VolumePrice};
use super::facts::{Facts, Share};
use super::lists::{PriceList, PriceLists};

const MIB_PER_GIB: u32 = 1024;

/// What one row adds to a pod's price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term<'a> {
    /// The list that the row is from.
    pub list: &'a str,
    /// The row.
    pub row: Row<'a>,
    /// What it adds to the cost of an hour.
    pub per_hour: Money,
}

/// What a list says of a pod. The first three are of its compute, and a pod has one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row<'a> {
    /// The price of its node, processors and memory included, of which it holds `units`.
    Node {
        /// The row.
        row: &'a NodePrice,
        /// The pod's part of the node.
        units: Units,
    },
    /// The price of its GPU, of which it holds `units`.
    Gpu {
        /// The row.
        row: &'a GpuPrice,
        /// How many of the row's GPUs it holds.
        units: Units,
    },
    /// No row matches; the dearest one listed for its resource stands in.
    Dearest {
        /// What one of the resource costs by it.
        one: Money,
    },
    /// Cores beside a GPU.
    Cores {
        /// Money a core and hour.
        core_hour: Money,
    },
    /// Memory beside a GPU.
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
        /// What one GPU draws.
        watts: u32,
        /// How many GPUs the pod holds.
        units: Units,
        /// What electricity costs.
        power: &'a Power,
        /// The list that says that.
        power_list: &'a str,
        /// Money a kilowatt-hour at this hour.
        per_kwh: Money,
        /// Milligrams of CO2e an hour.
        carbon_mg: i64,
    },
}

impl PriceLists {
    /// The terms that the price of an hour of the pod at `at` is the sum of, its compute first; `None` if nothing is listed for its
    /// resource.
    pub fn terms<'a>(&'a self, facts: &'a Facts, at: Timestamp) -> Option<Vec<Term<'a>>> {
        let mut terms = vec![self.compute(facts, at)?];
        if matches!(terms[0].row, Row::Gpu { .. }) {
            terms.extend(self.processors(facts, at));
        }
        terms.extend(self.storage(facts, at));
        terms.extend(self.power(facts, at));
        Some(terms)
    }

    fn compute<'a>(&'a self, facts: &Facts, at: Timestamp) -> Option<Term<'a>> {
        let listed = self.first(at, |list| list.book.compute(facts));
        if let Some((list, row)) = listed {
            let per_hour = match &row {
                Row::Node { row, units } => units.of(row.per_hour),
                Row::Gpu { row, units } => units.of(row.per_hour),
                _ => Money::ZERO,
            };
            return Some(Term {
                list,
                row,
                per_hour,
            });
        }
        let (list, one) = self.dearest_part(&facts.resource, facts.share, at)?;
        Some(Term {
            list,
            row: Row::Dearest { one },
            per_hour: one.times(facts.gpus),
        })
    }

    /// The most that one of a resource costs an hour, and the list that says so.
    pub(super) fn dearest_part(
        &self,
        resource: &str,
        share: Share,
        at: Timestamp,
    ) -> Option<(&str, Money)> {
        self.in_force(at)
            .filter_map(|list| Some((list.name.as_str(), list.book.dearest(resource, share)?)))
            .reduce(|best, next| if next.1 > best.1 { next } else { best })
    }

    /// Cores and memory.
    fn processors(&self, facts: &Facts, at: Timestamp) -> impl Iterator<Item = Term<'_>> {
        let cores = self.first(at, |list| list.book.core_hour);
        let cores = cores.map(|(list, core_hour)| Term {
            list,
            row: Row::Cores { core_hour },
            per_hour: core_hour.share(facts.cpu_milli, 1000),
        });
        let memory = self.first(at, |list| list.book.gib_hour);
        let memory = memory.map(|(list, gib_hour)| Term {
            list,
            row: Row::Memory { gib_hour },
            per_hour: gib_hour.share(facts.memory_mib, MIB_PER_GIB),
        });
        cores.into_iter().chain(memory)
    }

    /// Ephemeral and persistent storage. A class that no list prices costs nothing, as power does where it is not charged apart.
    fn storage<'a>(
        &'a self,
        facts: &'a Facts,
        at: Timestamp,
    ) -> impl Iterator<Item = Term<'a>> + use<'a> {
        let ephemeral = self.first(at, |list| list.book.ephemeral_gib_month);
        let ephemeral = ephemeral.map(|(list, gib_month)| Term {
            list,
            row: Row::Ephemeral { gib_month },
            per_hour: gib_month.share(facts.ephemeral_mib, MIB_PER_GIB * MONTH_HOURS),
        });
        let of_class = move |class: &str| {
            self.first(at, |list| {
                let mut rows = list.book.volumes.iter();
                rows.find(|row| row.storage_class == class)
            })
        };
        let persistent = facts.volumes.iter().filter_map(move |(class, gib)| {
            let (list, row) = of_class(class)?;
            Some(Term {
                list,
                row: Row::Volume { row, gib: *gib },
                per_hour: row.per_gib_month.share(*gib, MONTH_HOURS),
            })
        });
        ephemeral.into_iter().chain(persistent)
    }

    /// Electricity and its carbon an hour: watts / 1000 x PUE x price or grams of a kilowatt-hour, for each physical GPU.
    fn power(&self, facts: &Facts, at: Timestamp) -> Option<Term<'_>> {
        let (power_list, power) = self.first(at, |list| list.book.power.as_ref())?;
        let (list, (watts, units)) = self.first(at, |list| list.book.watts(facts))?;
        // millionths of a kilowatt
        let draw = i128::from(watts) * i128::from(power.pue_milli);
        let per_kwh = power.tariff.per_kwh(at);
        let money = units.scale(per_kwh.nanos() * draw) / 1_000_000;
        let grams = power
            .carbon
            .as_ref()
            .map_or(0, |carbon| carbon.grams_in(facts.region.as_deref()));
        let carbon_mg = units.scale(i128::from(grams) * draw) / 1_000;
        Some(Term {
            list,
            row: Row::Power {
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

    /// What the first list that has it at `at` says, and that list's name.
    fn first<'a, T>(
        &'a self,
        at: Timestamp,
        find: impl Fn(&'a PriceList) -> Option<T>,
    ) -> Option<(&'a str, T)> {
        self.in_force(at)
            .find_map(|list| Some((list.name.as_str(), find(list)?)))
    }
}
