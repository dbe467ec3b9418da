//! PriceList: what GPUs, nodes and electricity cost.

use std::sync::LazyLock;

use bursar_core::price;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::{self, AMOUNT_MESSAGE, AMOUNT_RULE, FieldError};

/// Prices of GPUs by model and of nodes by instance type, in one currency. All lists together are in force; a row of a list that
/// sorts earlier by name, `default` last, goes before an equally close row of a later one.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "bursar.dev",
    version = "v1alpha1",
    kind = "PriceList",
    plural = "pricelists",
    shortname = "prices",
    category = "bursar",
    status = "PriceListStatus",
    derive = "PartialEq",
    printcolumn(name = "Currency", type_ = "string", json_path = ".spec.currency"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct PriceListSpec {
    /// ISO 4217 code.
    #[schemars(length(max = 3))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Z]{3}$')").message("currency must be an ISO 4217 code, such as USD"))]
    pub currency: String,
    /// From when the list is in force; at once if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_from: Option<Time>,
    /// Prices of one GPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub gpus: Vec<GpuPrice>,
    /// Prices of whole nodes, shared by their GPUs. A node's price goes before its GPUs'.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub nodes: Vec<NodePrice>,
    /// Electricity, where it is paid for apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<Power>,
}

/// The price of one GPU for an hour.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GpuPrice {
    /// The product name, as the node's label `nvidia.com/gpu.product` gives it.
    #[schemars(length(min = 1, max = 253))]
    pub model: String,
    /// The extended resource that it is offered as.
    #[serde(default = "default_resource")]
    #[schemars(length(max = 253))]
    pub resource: String,
    /// Only for nodes paid for in this way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_type: Option<CapacityType>,
    /// Only in this region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub region: Option<String>,
    /// Money an hour.
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub price_per_hour: String,
    /// Watts that one GPU draws, where power is paid for apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100_000))]
    #[x_kube(validation = Rule::new("self >= 0").message("watts must not be negative"))]
    pub watts: Option<i32>,
    /// Where the price is from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub source: Option<String>,
    /// The day it was true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10))]
    pub as_of: Option<String>,
}

/// The price of a whole node for an hour.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodePrice {
    /// The value of the label `node.kubernetes.io/instance-type`.
    #[schemars(length(min = 1, max = 63))]
    pub instance_type: String,
    /// The extended resource that its GPUs are offered as.
    #[serde(default = "default_resource")]
    #[schemars(length(max = 253))]
    pub resource: String,
    /// How many GPUs share the price; as many as the node has if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1024))]
    #[x_kube(validation = Rule::new("self >= 1").message("gpus must be at least 1"))]
    pub gpus: Option<i32>,
    /// Only for nodes paid for in this way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_type: Option<CapacityType>,
    /// Only in this region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub region: Option<String>,
    /// Money an hour.
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub price_per_hour: String,
    /// Where the price is from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub source: Option<String>,
    /// The day it was true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10))]
    pub as_of: Option<String>,
}

fn default_resource() -> String {
    "nvidia.com/gpu".to_owned()
}

/// How a node is paid for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapacityType {
    /// At the list price, until it is given back.
    OnDemand,
    /// Cheaper, and may be taken away.
    Spot,
    /// Committed in advance.
    Reserved,
}

/// What electricity costs.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Power {
    /// Money a kilowatt-hour.
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub price_per_kilowatt_hour: String,
    /// Power usage effectiveness: what the building draws for each watt of the GPUs.
    #[serde(default = "default_pue")]
    #[schemars(length(max = 6))]
    #[x_kube(validation = Rule::new("self.matches('^[1-9]([.][0-9]{1,3})?$')")
        .message(r#"pue must be a number from 1 to 9.999, such as "1.12""#))]
    pub pue: String,
    /// Prices by the hour of the day. Not available in this version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("false").message("tariff is not available in this version: leave it out, and power costs pricePerKilowattHour at every hour"))]
    pub tariff: Option<Tariff>,
}

fn default_pue() -> String {
    "1".to_owned()
}

/// Prices by the hour of the day.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Tariff {
    /// The zone that its hours are in.
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new(zone_rule()).message("timeZone must be a name of the IANA time zone database, such as Europe/Berlin"))]
    pub time_zone: String,
}

/// CEL: the name of a time zone. The list is that of the database which Bursar is built with.
fn zone_rule() -> &'static str {
    static RULE: LazyLock<String> = LazyLock::new(|| {
        let zones: Vec<String> = jiff::tz::db()
            .available()
            .map(|zone| format!("'{}'", zone.as_str()))
            .collect();
        format!("self in [{}]", zones.join(","))
    });
    &RULE
}

/// What is observed of a PriceList.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PriceListStatus {
    /// The generation that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl From<CapacityType> for price::CapacityType {
    fn from(capacity: CapacityType) -> Self {
        match capacity {
            CapacityType::OnDemand => Self::OnDemand,
            CapacityType::Spot => Self::Spot,
            CapacityType::Reserved => Self::Reserved,
        }
    }
}

impl PriceListSpec {
    /// The core's price book.
    ///
    /// # Errors
    /// The first field that cannot be read; the API server's rules let none through.
    pub fn to_core(&self) -> Result<price::PriceBook, FieldError> {
        let gpus = self.gpus.iter().enumerate().map(|(i, row)| {
            Ok(price::GpuPrice {
                model: row.model.clone(),
                resource: row.resource.clone(),
                capacity_type: row.capacity_type.map(Into::into),
                region: row.region.clone(),
                per_hour: text::amount(
                    &format!("spec.gpus[{i}].pricePerHour"),
                    &row.price_per_hour,
                )?,
                watts: row.watts.and_then(|watts| u32::try_from(watts).ok()),
            })
        });
        let nodes = self.nodes.iter().enumerate().map(|(i, row)| {
            Ok(price::NodePrice {
                instance_type: row.instance_type.clone(),
                resource: row.resource.clone(),
                gpus: row.gpus.and_then(|gpus| u32::try_from(gpus).ok()),
                capacity_type: row.capacity_type.map(Into::into),
                region: row.region.clone(),
                per_hour: text::amount(
                    &format!("spec.nodes[{i}].pricePerHour"),
                    &row.price_per_hour,
                )?,
            })
        });
        let power = self.power.as_ref().map(|power| {
            // thousandths: the amount's nano-units over a million
            let pue = text::amount("spec.power.pue", &power.pue)?.nanos() / 1_000_000;
            Ok(price::Power {
                per_kwh: text::amount(
                    "spec.power.pricePerKilowattHour",
                    &power.price_per_kilowatt_hour,
                )?,
                pue_milli: u32::try_from(pue)
                    .map_err(|_| FieldError::new("spec.power.pue", "must be from 1 to 9.999"))?,
            })
        });
        Ok(price::PriceBook {
            currency: self.currency.clone(),
            gpus: gpus.collect::<Result<_, FieldError>>()?,
            nodes: nodes.collect::<Result<_, FieldError>>()?,
            power: power.transpose()?,
        })
    }
}
