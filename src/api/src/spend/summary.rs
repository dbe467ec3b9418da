//! The spend in a workload's status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::daily_cost::CostComponents;
use crate::revenue::Earnings;

/// The spend of a workload. Amounts are money in `currency`, rounded to four decimals; SpendRecords
/// have them exactly.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct SpendSummary {
    /// Money spent today, in the accounting time zone.
    pub today: String,
    /// Money spent this month.
    pub month_to_date: String,
    /// Money spent in all months that are on record.
    pub total: String,
    /// Money an hour at this moment.
    pub rate_per_hour: String,
    /// GPU-hours in all months that are on record.
    pub gpu_hours: String,
    /// ISO 4217 code of the amounts.
    pub currency: String,
    /// Money: the part of `total` that depends on an estimated end or a provisional price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated: Option<String>,
    /// GPU-hours that no price was known for, and that the amounts lack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpriced_gpu_hours: Option<String>,
    /// Money that this month will have cost at its end, at the pace of the last seven days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forecast: Option<String>,
    /// Money: the workload's share, so far, of this month's overheads. Not in `monthToDate`, and no
    /// budget counts it: stopping the workload does not stop them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overhead: Option<String>,
    /// Money: `monthToDate` in its parts.
    #[serde(skip_serializing_if = "CostComponents::is_empty")]
    pub components: CostComponents,
    /// Money: the part of `monthToDate` in which nothing was served, because replicas were
    /// starting, idle or draining.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waste: Option<String>,
    /// Money for time on lost nodes this month. Not in `monthToDate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unattributed: Option<String>,
    /// Money that corrections add to this month's spend, or take away from it. Not in
    /// `monthToDate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrections: Option<String>,
    /// Money that one replica would have cost this month while the service was at zero replicas
    /// because no request needed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saved: Option<String>,
    /// Kilograms of CO₂ equivalent of this month, to three decimals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carbon_kilograms: Option<String>,
    /// Requests and tokens of this month, and the cost of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units: Option<UnitCosts>,
    /// The revenue of this month.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earnings: Option<Earnings>,
    /// When these figures were computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Time>,
}

/// Requests and tokens of this month, and the cost of each.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct UnitCosts {
    /// Number of requests finished.
    pub requests: i64,
    /// Number of tokens read.
    pub input_tokens: i64,
    /// Number of tokens written.
    pub output_tokens: i64,
    /// Money a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_request: Option<String>,
    /// Money a million tokens read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_million_input_tokens: Option<String>,
    /// Money a million tokens written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_million_output_tokens: Option<String>,
}
