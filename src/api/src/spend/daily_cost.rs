//! The cost of one day on one kind of hardware, as a SpendRecord stores it.

use bursar_core::ledger::{CostKey, DailyCost, ZeroReplicaPeriod};
use bursar_core::money::{Cost, Money};
use jiff::civil::Date;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::charge::{WorkDone, is_zero, read_date, read_share, write_share};
use crate::quantities::{self, FieldError};

/// A kind of hardware, and the owner of the pods on it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Hardware {
    /// The extended resource, or the driver of the devices.
    pub resource: String,
    /// The part of a physical GPU that one unit of `resource` is, as `1/7`; a whole GPU if left
    /// out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
    /// The GPU's product name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The node's instance type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// How the node is paid for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_type: Option<crate::prices::CapacityType>,
    /// The node's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The owner that made the pods, where that is not Bursar, as `Kind/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// The time that a service is at zero replicas because no request needs it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ZeroReplicaStatus {
    /// When the last replica ended.
    pub since: Time,
    /// Money an hour that the last replica cost.
    pub per_hour: String,
    /// The last replica's hardware.
    #[serde(flatten)]
    pub hardware: Hardware,
}

impl From<&ZeroReplicaPeriod> for ZeroReplicaStatus {
    fn from(rest: &ZeroReplicaPeriod) -> Self {
        Self {
            since: Time(rest.since),
            per_hour: rest.per_hour.to_string(),
            hardware: Hardware::from(&rest.cost_key),
        }
    }
}

impl ZeroReplicaStatus {
    pub(super) fn to_core(&self) -> Result<ZeroReplicaPeriod, FieldError> {
        Ok(ZeroReplicaPeriod {
            since: self.since.0,
            per_hour: quantities::amount("status.resting.perHour", &self.per_hour)?,
            cost_key: self.hardware.to_core()?,
        })
    }
}

/// A cost in its parts.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct CostComponents {
    /// Money for machines and their GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute: Option<String>,
    /// Money for volumes and ephemeral storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Money for electricity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<String>,
    /// Money for people and other overheads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labour: Option<String>,
}

/// The posted cost of one day on one kind of hardware.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DayEntry {
    /// The day, in the accounting time zone.
    pub date: String,
    /// The index of the hardware in `hardware`; 0 is the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<i32>,
    /// The cost, in its parts.
    #[serde(flatten)]
    pub cost: CostComponents,
    /// Money: the part of the cost that depends on an estimated end or a provisional price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimated: Option<String>,
    /// Money: the part of the cost from binding until first ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starting: Option<String>,
    /// Money: the part of the cost in which replicas were ready and had nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
    /// Money: the part of the cost from the order to stop until the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<String>,
    /// Money for time on nodes that were lost; not part of the cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unattributed: Option<String>,
    /// Money that one replica would have cost while the service was at zero replicas; not part of
    /// the cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<String>,
    /// Milligrams of CO₂ equivalent.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub carbon_milligrams: i64,
    /// Physical GPUs times seconds.
    pub gpu_seconds: i64,
    /// The part of `gpuSeconds` that no price was known for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpriced_gpu_seconds: Option<i64>,
    /// The work that was done.
    #[serde(flatten)]
    pub used: WorkDone,
}

impl From<&CostKey> for Hardware {
    fn from(sku: &CostKey) -> Self {
        Self {
            resource: sku.resource.clone(),
            share: write_share(sku.share),
            model: sku.model.clone(),
            instance_type: sku.instance_type.clone(),
            capacity_type: sku.capacity_type.map(Into::into),
            region: sku.region.clone(),
            owner: sku.owner.clone(),
        }
    }
}

impl Hardware {
    pub(super) fn to_core(&self) -> Result<CostKey, FieldError> {
        Ok(CostKey {
            resource: self.resource.clone(),
            share: read_share("status.hardware[].share", self.share.as_ref())?,
            model: self.model.clone(),
            instance_type: self.instance_type.clone(),
            capacity_type: self.capacity_type.map(Into::into),
            region: self.region.clone(),
            owner: self.owner.clone(),
        })
    }
}

/// An amount that is left out when it is zero.
fn written(amount: Money) -> Option<String> {
    (amount != Money::ZERO).then(|| amount.to_string())
}

fn read(field: &str, text: Option<&String>) -> Result<Money, FieldError> {
    text.map_or(Ok(Money::ZERO), |text| quantities::amount(field, text))
}

impl From<&Cost> for CostComponents {
    fn from(cost: &Cost) -> Self {
        Self {
            compute: written(cost.compute),
            storage: written(cost.storage),
            power: written(cost.power),
            labour: written(cost.labour),
        }
    }
}

impl CostComponents {
    /// True if no part costs anything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The cost.
    ///
    /// # Errors
    /// The first amount that cannot be read, as a part of `field`.
    pub fn to_core(&self, field: &str) -> Result<Cost, FieldError> {
        Ok(Cost {
            compute: read(field, self.compute.as_ref())?,
            storage: read(field, self.storage.as_ref())?,
            power: read(field, self.power.as_ref())?,
            labour: read(field, self.labour.as_ref())?,
        })
    }
}

impl DayEntry {
    pub(super) fn new(date: Date, hardware: i32, line: &DailyCost) -> Self {
        Self {
            date: date.to_string(),
            hardware: Some(hardware),
            cost: CostComponents::from(&line.cost),
            estimated: written(line.estimated),
            starting: written(line.starting),
            idle: written(line.idle),
            draining: written(line.draining),
            unattributed: written(line.unattributed),
            saved: written(line.saved),
            carbon_milligrams: line.carbon_mg,
            gpu_seconds: line.gpu_seconds,
            unpriced_gpu_seconds: Some(line.unpriced_gpu_seconds).filter(|seconds| *seconds != 0),
            used: line.usage.into(),
        }
    }

    pub(super) fn to_core(&self) -> Result<(Date, DailyCost), FieldError> {
        let amount = |name: &str, text: &Option<String>| {
            read(&format!("status.days[].{name}"), text.as_ref())
        };
        let line = DailyCost {
            cost: self.cost.to_core("status.days[]")?,
            estimated: amount("estimated", &self.estimated)?,
            starting: amount("starting", &self.starting)?,
            idle: amount("idle", &self.idle)?,
            draining: amount("draining", &self.draining)?,
            unattributed: amount("unattributed", &self.unattributed)?,
            saved: amount("saved", &self.saved)?,
            carbon_mg: self.carbon_milligrams,
            gpu_seconds: self.gpu_seconds,
            unpriced_gpu_seconds: self.unpriced_gpu_seconds.unwrap_or(0),
            usage: self.used.into(),
        };
        Ok((read_date("status.days[].date", &self.date)?, line))
    }
}
