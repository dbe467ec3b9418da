//! The conversion of a PriceList to the core's price list.

use bursar_core::money::Money;
use bursar_core::pricing;

use super::{CapacityType, Overhead, OverheadPart, Power, PriceList, PriceListSpec, ShareBy};
use crate::lenient::Validate;
use crate::quantities::{self, FieldError};

impl From<CapacityType> for pricing::CapacityType {
    fn from(capacity: CapacityType) -> Self {
        match capacity {
            CapacityType::OnDemand => Self::OnDemand,
            CapacityType::Spot => Self::Spot,
            CapacityType::Reserved => Self::Reserved,
        }
    }
}

impl Validate for PriceList {
    fn validate(&self) -> Result<(), FieldError> {
        self.spec.to_core().map(drop)
    }
}

impl PriceListSpec {
    /// The core's price list.
    ///
    /// # Errors
    /// The first field that cannot be read; the API server's rules let none through.
    pub fn to_core(&self) -> Result<pricing::PriceList, FieldError> {
        let gpus = self.gpus.iter().enumerate().map(|(i, row)| {
            Ok(pricing::GpuPrice {
                model: row.model.clone(),
                resource: row.resource.clone(),
                nodes: place(row.capacity_type, &row.region, &row.zone),
                per_hour: quantities::amount(
                    &format!("spec.gpus[{i}].pricePerHour"),
                    &row.price_per_hour,
                )?,
                watts: row.watts.and_then(|watts| u32::try_from(watts).ok()),
            })
        });
        let nodes = self.nodes.iter().enumerate().map(|(i, row)| {
            Ok(pricing::NodePrice {
                instance_type: row.instance_type.clone(),
                resource: row.resource.clone(),
                gpus: row.gpus.and_then(|gpus| u32::try_from(gpus).ok()),
                nodes: place(row.capacity_type, &row.region, &row.zone),
                per_hour: quantities::amount(
                    &format!("spec.nodes[{i}].pricePerHour"),
                    &row.price_per_hour,
                )?,
            })
        });
        let storage = self.storage.as_ref();
        let volumes = storage.iter().flat_map(|storage| &storage.persistent);
        let volumes = volumes.enumerate().map(|(i, row)| {
            Ok(pricing::VolumePrice {
                storage_class: row.storage_class.clone(),
                per_gib_month: quantities::amount(
                    &format!("spec.storage.persistent[{i}].pricePerGibibyteMonth"),
                    &row.price_per_gibibyte_month,
                )?,
            })
        });
        let optional = |field: &str, text: Option<&String>| -> Result<Option<Money>, FieldError> {
            text.map(|text| quantities::amount(field, text)).transpose()
        };
        let overheads = self.overheads.iter().enumerate().map(Overhead::to_core);
        Ok(pricing::PriceList {
            currency: self.currency.clone(),
            gpus: gpus.collect::<Result<_, FieldError>>()?,
            nodes: nodes.collect::<Result<_, FieldError>>()?,
            core_hour: optional(
                "spec.cpu.pricePerCoreHour",
                self.cpu.as_ref().map(|cpu| &cpu.price_per_core_hour),
            )?,
            gib_hour: optional(
                "spec.memory.pricePerGibibyteHour",
                self.memory
                    .as_ref()
                    .map(|memory| &memory.price_per_gibibyte_hour),
            )?,
            ephemeral_gib_month: optional(
                "spec.storage.ephemeralPerGibibyteMonth",
                storage.and_then(|storage| storage.ephemeral_per_gibibyte_month.as_ref()),
            )?,
            volumes: volumes.collect::<Result<_, FieldError>>()?,
            power: self.power.as_ref().map(Power::to_core).transpose()?,
            overheads: overheads.collect::<Result<_, FieldError>>()?,
        })
    }
}

fn place(
    capacity_type: Option<CapacityType>,
    region: &Option<String>,
    zone: &Option<String>,
) -> pricing::PriceScope {
    pricing::PriceScope {
        capacity_type: capacity_type.map(Into::into),
        region: region.clone(),
        zone: zone.clone(),
    }
}

impl Overhead {
    fn to_core((i, overhead): (usize, &Self)) -> Result<pricing::Overhead, FieldError> {
        Ok(pricing::Overhead {
            name: overhead.name.clone(),
            part: match overhead.part {
                OverheadPart::Labour => pricing::OverheadCategory::Labour,
                OverheadPart::Other => pricing::OverheadCategory::Other,
            },
            per_month: quantities::amount(
                &format!("spec.overheads[{i}].pricePerMonth"),
                &overhead.price_per_month,
            )?,
            share_by: match overhead.share_by {
                ShareBy::GpuHours => pricing::ShareBy::GpuHours,
                ShareBy::Cost => pricing::ShareBy::Cost,
                ShareBy::Evenly => pricing::ShareBy::Evenly,
            },
        })
    }
}
