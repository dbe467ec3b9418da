//! PriceList: the prices of GPUs, nodes, storage, electricity and people.
//!
//! | module | subject |
//! |---|---|
//! | `power` | electricity, its tariff and its carbon |
//! | `convert` | the conversion of a list to the core's price list |
//! | `effective` | all lists together |

mod convert;
mod effective;
mod power;

use std::sync::LazyLock;

use bursar_core::currency;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantities::{AMOUNT_MESSAGE, AMOUNT_RULE};

pub use effective::EffectivePrices;
pub(crate) use power::zone_rule;
pub use power::{Carbon, Day, Power, RegionCarbon, Tariff, TariffPeriod};

/// The prices of GPUs, nodes, storage, electricity and people, in one currency. All lists together
/// are in force: the first by name, `default` last, that knows a pod's machine sets its price.
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
    /// ISO 4217 code of all prices in the list.
    #[schemars(length(max = 3))]
    #[x_kube(validation = Rule::new(currency_rule()).message(CURRENCY_MESSAGE))]
    pub currency: String,
    /// From when the list is in force; at once if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_from: Option<Time>,
    /// Prices of one GPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub gpus: Vec<GpuPrice>,
    /// Prices of whole nodes, shared by their GPUs. A node's price takes precedence over its GPUs'.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub nodes: Vec<NodePrice>,
    /// Processors, where GPUs are priced by their model: a node's price includes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Memory, where GPUs are priced by their model: a node's price includes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// Electricity, where it is paid for apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<Power>,
    /// Monthly overheads. One of an earlier list replaces that of the same name in later lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub overheads: Vec<Overhead>,
}

/// The price of one GPU for an hour.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GpuPrice {
    /// The physical GPU's product name, as the node's label `nvidia.com/gpu.product` (without
    /// `-SHARED` and `-MIG-...`), `amd.com/gpu.product-name` or `gpu.intel.com/product` gives it.
    #[schemars(length(min = 1, max = 253))]
    pub model: String,
    /// The extended resource that it is offered as. A fraction costs its fraction of a row of
    /// `nvidia.com/gpu`, unless a row names its own, such as `nvidia.com/mig-3g.40gb`.
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
    /// Only in this zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub zone: Option<String>,
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
    /// The day on which the price was true.
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
    /// How many physical GPUs share the price; as many as the node has if left out.
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
    /// Only in this zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub zone: Option<String>,
    /// Money an hour.
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub price_per_hour: String,
    /// Where the price is from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub source: Option<String>,
    /// The day on which the price was true.
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

/// The price of a CPU core.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// Money a core and hour.
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub price_per_core_hour: String,
}

/// The price of memory.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Money a gibibyte and hour.
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub price_per_gibibyte_hour: String,
}

/// The price of storage. A month is 730 hours.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Money a gibibyte and month of the ephemeral storage that a pod asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub ephemeral_per_gibibyte_month: Option<String>,
    /// Persistent volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub persistent: Vec<VolumePrice>,
}

/// The price of a storage class.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VolumePrice {
    /// The storage class.
    #[schemars(length(min = 1, max = 253))]
    pub storage_class: String,
    /// Money a gibibyte and month.
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub price_per_gibibyte_month: String,
}

/// An amount that is paid every month whether or not a pod runs.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Overhead {
    /// The name of the overhead.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The category that the overhead is reported as.
    pub part: OverheadPart,
    /// Money a calendar month.
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new(AMOUNT_RULE).message(AMOUNT_MESSAGE))]
    pub price_per_month: String,
    /// How the overhead is shared.
    #[serde(default)]
    pub share_by: ShareBy,
}

/// The category that an overhead is reported as.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverheadPart {
    /// People.
    Labour,
    /// Licences, support, rent, and the like.
    Other,
}

/// How an overhead is shared.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShareBy {
    /// By GPU-hours.
    #[default]
    GpuHours,
    /// By money spent.
    Cost,
    /// The same for each namespace.
    Evenly,
}

/// The message of [`currency_rule`].
pub(crate) const CURRENCY_MESSAGE: &str = "currency must be an ISO 4217 code, such as USD";

/// CEL: an ISO 4217 code.
pub(crate) fn currency_rule() -> &'static str {
    static RULE: LazyLock<String> = LazyLock::new(|| {
        let codes: Vec<String> = currency::codes().map(|code| format!("'{code}'")).collect();
        format!("self in [{}]", codes.join(","))
    });
    &RULE
}

/// The observed state of a PriceList.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PriceListStatus {
    /// The generation that this status is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
