//! What a workload's status says of its spend.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::daily_cost::CostComponents;
use crate::revenue::Earnings;

/// What a workload's status says of its spend. Amounts are rounded to four decimals; SpendRecords have them exactly.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct SpendSummary {
    /// Spent today, in the accounting time zone.
    pub today: String,
    /// Spent this month.
    pub month_to_date: String,
    /// Spent in all months that are on record.
    pub total: String,
    /// Money an hour now.
    pub rate_per_hour: String,
    /// GPU-hours in all months that are on record.
    pub gpu_hours: String,
    /// ISO 4217 code.
    pub currency: String,
    /// The part of `total` that rests on an estimated end or a provisional price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated: Option<String>,
    /// GPU-hours that no price was known for, and that the amounts lack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpriced_gpu_hours: Option<String>,
    /// What this month will have cost at its end, at the pace of the last seven days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forecast: Option<String>,
    /// Its share, so far, of this month's overheads. Not in `monthToDate`, and no budget counts it: stopping it does not stop them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overhead: Option<String>,
    /// `monthToDate` in its parts.
    #[serde(skip_serializing_if = "CostComponents::is_empty")]
    pub components: CostComponents,
    /// The part of `monthToDate` in which nothing was served: replicas that were starting, idle or draining.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waste: Option<String>,
    /// What time on nodes that were lost cost this month. Not in `monthToDate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unattributed: Option<String>,
    /// What corrections add to this month's spend, or take away from it. Not in `monthToDate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrections: Option<String>,
    /// What one replica would have cost this month in the time in which the service rested at zero, nothing being asked of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saved: Option<String>,
    /// Kilograms of CO₂ equivalent of this month, to three decimals.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carbon_kilograms: Option<String>,
    /// Requests, tokens and what one of them cost this month.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units: Option<UnitCosts>,
    /// What it earned this month.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earnings: Option<Earnings>,
    /// When these figures were computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Time>,
}

/// What was served this month, and what a unit of it cost.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct UnitCosts {
    /// Requests finished.
    pub requests: i64,
    /// Tokens read.
    pub input_tokens: i64,
    /// Tokens written.
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
