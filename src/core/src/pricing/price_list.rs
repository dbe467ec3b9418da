//! The rows of one price list, and which of them matches a pod.

use crate::money::Money;

use super::accelerators::{is_fraction, is_whole_gpu_of};
use super::attributes::{CapacityType, PricingAttributes};
use super::breakdown::PriceRow;
use super::gpu_models::{canonical_model, memory_class, memory_of, model_of_machine};
use super::overhead::Overhead;
use super::share::Share;
use super::tariff::Tariff;

/// Hours of a month by which prices a month are spread: 8,760 / 12, as the clouds do.
pub const MONTH_HOURS: u32 = 730;

/// The nodes that a row is for. A field that is left out matches all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceScope {
    /// Only nodes paid for in this way.
    pub capacity_type: Option<CapacityType>,
    /// Only in this region.
    pub region: Option<String>,
    /// Only in this zone.
    pub zone: Option<String>,
}

/// The price of one GPU for an hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuPrice {
    /// The GPU's product name, as the node's label gives it.
    pub model: String,
    /// The extended resource it is offered as.
    pub resource: String,
    /// The nodes that it is for.
    pub nodes: PriceScope,
    /// Money an hour.
    pub per_hour: Money,
    /// Watts that one of it draws (its TDP), where power is charged apart.
    pub watts: Option<u32>,
}

/// The price of a whole node for an hour, shared by its GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePrice {
    /// The node's instance type.
    pub instance_type: String,
    /// The extended resource that its GPUs are offered as.
    pub resource: String,
    /// How many physical GPUs it has; the node's own count where the list does not say.
    pub gpus: Option<u32>,
    /// The nodes that it is for.
    pub nodes: PriceScope,
    /// Money an hour.
    pub per_hour: Money,
}

/// The price of a storage class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePrice {
    /// The storage class.
    pub storage_class: String,
    /// Money a gibibyte and month.
    pub per_gib_month: Money,
}

/// The price and the emissions of electricity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Power {
    /// Money a kilowatt-hour.
    pub tariff: Tariff,
    /// Power usage effectiveness in thousandths: 1120 is 1.12.
    pub pue_milli: u32,
    /// The emissions of a kilowatt-hour.
    pub carbon: Option<Carbon>,
}

/// The emissions of a kilowatt-hour, in grams of CO2e.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carbon {
    /// In regions that are not named.
    pub grams_per_kwh: u32,
    /// In the regions named.
    pub regions: Vec<(String, u32)>,
}

impl Carbon {
    /// Grams of CO2e a kilowatt-hour in this region.
    pub fn grams_per_kwh(&self, region: Option<&str>) -> u32 {
        self.regions
            .iter()
            .find(|(name, _)| Some(name.as_str()) == region)
            .map_or(self.grams_per_kwh, |(_, grams)| *grams)
    }
}

/// The rows of one price list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceList {
    /// ISO 4217 code.
    pub currency: String,
    /// Prices of GPUs.
    pub gpus: Vec<GpuPrice>,
    /// Prices of nodes.
    pub nodes: Vec<NodePrice>,
    /// Money a CPU core and hour, where GPUs are priced by their model.
    pub core_hour: Option<Money>,
    /// Money a gibibyte of memory and hour, where GPUs are priced by their model.
    pub gib_hour: Option<Money>,
    /// Money a gibibyte of ephemeral storage and month.
    pub ephemeral_gib_month: Option<Money>,
    /// Persistent storage.
    pub volumes: Vec<VolumePrice>,
    /// Electricity, where it is charged apart.
    pub power: Option<Power>,
    /// Monthly overheads.
    pub overheads: Vec<Overhead>,
}

impl PriceList {
    /// The closest row for the pod's compute: nodes before GPUs, a row of the pod's very resource
    /// before one of the physical GPU, then the row that says most of where it applies. Of equally
    /// close rows the first counts.
    pub(super) fn compute(&self, attributes: &PricingAttributes) -> Option<PriceRow<'_>> {
        if let Some(row) = closest(self.nodes_of(attributes)) {
            let units = row.units(attributes);
            return Some(PriceRow::Node { row, units });
        }
        let gpus = self
            .rows_of(attributes)
            .filter_map(|(rank, row)| Some(((rank, row.nodes.closeness(attributes)?), row)));
        closest(gpus).map(|row| PriceRow::Gpu {
            row,
            units: row.units(attributes),
        })
    }

    /// How many physical GPUs the pod's node has, by the closest row of its type that says so.
    pub(super) fn machine_gpus(&self, attributes: &PricingAttributes) -> Option<u32> {
        let counted = self
            .nodes_of(attributes)
            .filter(|(_, row)| row.gpus.is_some());
        closest(counted)?.gpus
    }

    /// Rows of the pod's machine, and how closely they match.
    fn nodes_of<'a>(
        &'a self,
        attributes: &PricingAttributes,
    ) -> impl Iterator<Item = ((bool, u8), &'a NodePrice)> {
        self.nodes.iter().filter_map(|row| {
            let is_type = Some(&row.instance_type) == attributes.instance_type.as_ref();
            let exact = offers(&row.resource, attributes).filter(|_| is_type)?;
            Some(((exact, row.nodes.closeness(attributes)?), row))
        })
    }

    /// Watts that the pod's GPUs draw. They are the model's, wherever the node is.
    pub(super) fn watts(&self, attributes: &PricingAttributes) -> Option<(u32, UnitFraction)> {
        let rows = self
            .rows_of(attributes)
            .filter_map(|(rank, row)| Some((rank, (row.watts?, row.units(attributes)))));
        closest(rows)
    }

    /// The most that one of `resource`, which is `share` of a physical GPU, costs an hour.
    pub(super) fn highest_price(&self, resource: &str, share: Share) -> Option<Money> {
        let one = PricingAttributes {
            resource: resource.to_owned(),
            gpus: 1,
            share,
            ..PricingAttributes::default()
        };
        let gpus = self
            .gpus
            .iter()
            .filter(|row| offers(&row.resource, &one).is_some())
            .map(|row| row.units(&one).portion_of(row.per_hour));
        let nodes = self
            .nodes
            .iter()
            .filter(|row| row.gpus.is_some() && offers(&row.resource, &one).is_some())
            .map(|row| row.units(&one).portion_of(row.per_hour));
        gpus.chain(nodes).max()
    }

    /// The most that one of `resource`, which is `share` of a physical GPU, costs an hour by a row of
    /// a GPU whose memory is of this class; `None` where no row is.
    pub(super) fn highest_of_class(
        &self,
        resource: &str,
        share: Share,
        class: u32,
    ) -> Option<Money> {
        let one = PricingAttributes {
            resource: resource.to_owned(),
            gpus: 1,
            share,
            ..PricingAttributes::default()
        };
        let of_class = |row: &&GpuPrice| memory_of(&row.model).map(memory_class) == Some(class);
        let rows = self.gpus.iter().filter(of_class);
        rows.filter(|row| offers(&row.resource, &one).is_some())
            .map(|row| row.units(&one).portion_of(row.per_hour))
            .max()
    }

    /// Rows of the pod's GPU model: whether they are for its very resource, and whether they name the
    /// model as the node's label does or as vendors do.
    fn rows_of<'a>(
        &'a self,
        attributes: &PricingAttributes,
    ) -> impl Iterator<Item = ((bool, bool), &'a GpuPrice)> {
        let model = attributes.model.as_deref();
        let canonical = model.and_then(canonical_model);
        self.gpus.iter().filter_map(move |row| {
            let is_named = Some(row.model.as_str()) == model;
            let is_meant = is_named || Some(row.model.as_str()) == canonical;
            let exact = offers(&row.resource, attributes).filter(|_| is_meant)?;
            Some(((exact, is_named), row))
        })
    }
}

/// The highest rank; of equal ones the first.
fn closest<Rank: Ord + Copy, Row>(rows: impl Iterator<Item = (Rank, Row)>) -> Option<Row> {
    rows.reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, row)| row)
}

/// Whether a row of `resource` is for the pod's very resource (true) or for the physical GPU behind
/// it.
fn offers(resource: &str, attributes: &PricingAttributes) -> Option<bool> {
    let is_exact = resource == attributes.resource;
    (is_exact || is_whole_gpu_of(resource, &attributes.resource)).then_some(is_exact)
}

/// The fraction of the priced unit that the pod holds, as `part / whole`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitFraction {
    /// Numerator.
    pub part: i128,
    /// Denominator.
    pub whole: i128,
}

impl UnitFraction {
    /// All that there is.
    pub(super) const ONE: Self = Self { part: 1, whole: 1 };

    /// The units' part of a price, rounded down.
    pub(super) fn portion_of(self, price: Money) -> Money {
        Money::from_nanos(self.scale(price.nanos()))
    }

    /// `amount * part / whole`, rounded down.
    pub(super) fn scale(self, amount: i128) -> i128 {
        (amount * self.part).div_euclid(self.whole.max(1))
    }
}

/// The pod's GPUs in physical ones.
fn physical_units(attributes: &PricingAttributes) -> UnitFraction {
    UnitFraction {
        part: i128::from(attributes.gpus) * i128::from(attributes.share.part),
        whole: i128::from(attributes.share.whole),
    }
}

impl GpuPrice {
    /// A row of a fraction's own resource is for the fraction; any other is for a physical GPU.
    fn units(&self, attributes: &PricingAttributes) -> UnitFraction {
        if is_fraction(&self.resource) {
            UnitFraction {
                part: attributes.gpus.into(),
                whole: 1,
            }
        } else {
            physical_units(attributes)
        }
    }
}

impl NodePrice {
    /// The pod's part of the node, which is never more than all of it. Where the row does not count
    /// the physical GPUs, the node's count of the resource does, rounded up to whole GPUs. So it
    /// does where the node has more than the row says.
    fn units(&self, attributes: &PricingAttributes) -> UnitFraction {
        let gpus = self.gpus.unwrap_or(0).max(attributes.offered_gpus()).max(1);
        let units = physical_units(attributes);
        // the row is of the machine, which may be a part of one that has a GPU
        let machine = attributes.instance_type.as_deref();
        let machines = machine
            .and_then(model_of_machine)
            .map_or(1, |(_, parts)| parts);
        UnitFraction {
            part: units.part * i128::from(machines),
            whole: units.whole * i128::from(gpus),
        }
    }
}

impl PriceScope {
    /// How closely it matches the pod's node; `None` if it is for other nodes. A zone is closer
    /// than a region, and a region closer than a capacity type.
    fn closeness(&self, attributes: &PricingAttributes) -> Option<u8> {
        let capacity = match self.capacity_type {
            None => 0,
            wanted if wanted == attributes.capacity_type => 2,
            // a node that does not say how it is paid for is taken as on demand
            Some(CapacityType::OnDemand) if attributes.capacity_type.is_none() => 1,
            Some(_) => return None,
        };
        let place = |wanted: &Option<String>, found: &Option<String>, weight| match wanted {
            None => Some(0),
            Some(_) if wanted == found => Some(weight),
            Some(_) => None,
        };
        Some(
            capacity
                + place(&self.region, &attributes.region, 3)?
                + place(&self.zone, &attributes.zone, 6)?,
        )
    }
}
