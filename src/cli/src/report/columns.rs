//! The values of a cost, by their names in CSV and JSON.

use bursar_core::ledger::DailyCost;
use bursar_core::money::Money;
use bursar_core::unit_economics::{self, UnitCosts};
use serde::{Serialize, Serializer};

use super::revenue::RowEarnings;
use crate::format::amounts::nano_hours;

/// A value: exact, except GPU-hours, which are rounded to nine decimals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ColumnValue {
    /// A decimal number, written as a string so that no reader makes a float of it.
    Decimal(String),
    /// A count.
    Count(u64),
    /// No value: empty in CSV, null in JSON.
    None,
}

impl ColumnValue {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Decimal(text) => text.clone(),
            Self::Count(count) => count.to_string(),
            Self::None => String::new(),
        }
    }
}

impl Serialize for ColumnValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Decimal(text) => serializer.serialize_str(text),
            Self::Count(count) => serializer.serialize_u64(*count),
            Self::None => serializer.serialize_none(),
        }
    }
}

/// Hours of so many seconds, to nine decimals.
pub(super) fn exact_hours(seconds: i64) -> String {
    Money::from_nanos(nano_hours(seconds)).rounded(9)
}

/// All values of a cost. Units are in the names; amounts are in the report's currency.
pub(super) fn line_columns(line: &DailyCost) -> [(&'static str, ColumnValue); 22] {
    let amount = |amount: Money| ColumnValue::Decimal(amount.rounded(9));
    let hours = |seconds| ColumnValue::Decimal(exact_hours(seconds));
    // 1 kg is 10⁶ mg
    let kilograms = Money::from_nanos(i128::from(line.carbon_mg) * 1000);
    let costs = unit_costs(line);
    let each = |cost: Option<Money>| cost.map_or(ColumnValue::None, amount);
    let seconds = u64::try_from(line.usage.idle_seconds).unwrap_or(0);
    [
        ("compute", amount(line.cost.compute)),
        ("storage", amount(line.cost.storage)),
        ("power", amount(line.cost.power)),
        ("labour", amount(line.cost.labour)),
        ("total", amount(line.cost.total())),
        ("starting", amount(line.starting)),
        ("idle", amount(line.idle)),
        ("draining", amount(line.draining)),
        ("waste", amount(line.waste())),
        ("estimated", amount(line.estimated)),
        ("unattributed", amount(line.unattributed)),
        ("saved", amount(line.saved)),
        ("gpuHours", hours(line.gpu_seconds)),
        ("unpricedGpuHours", hours(line.unpriced_gpu_seconds)),
        ("idleSeconds", ColumnValue::Count(seconds)),
        ("requests", ColumnValue::Count(line.usage.requests)),
        ("inputTokens", ColumnValue::Count(line.usage.input_tokens)),
        ("outputTokens", ColumnValue::Count(line.usage.output_tokens)),
        ("costPerRequest", each(costs.per_request)),
        (
            "costPerMillionInputTokens",
            each(costs.per_million_input_tokens),
        ),
        (
            "costPerMillionOutputTokens",
            each(costs.per_million_output_tokens),
        ),
        (
            "carbonKilograms",
            ColumnValue::Decimal(kilograms.rounded(6)),
        ),
    ]
}

/// The cost of a request and of tokens; none while no price is known for any part of the cost.
pub(super) fn unit_costs(line: &DailyCost) -> UnitCosts {
    if line.gpu_seconds != 0 && line.unpriced_gpu_seconds == line.gpu_seconds {
        return UnitCosts::default();
    }
    unit_economics::unit_costs(line.cost.total(), &line.usage)
}

/// The corrections of a row, and its cost with them.
pub(super) fn net(line: &DailyCost, corrections: Money) -> [(&'static str, ColumnValue); 2] {
    let amount = |amount: Money| ColumnValue::Decimal(amount.rounded(9));
    [
        ("corrections", amount(corrections)),
        ("net", amount(line.cost.total() + corrections)),
    ]
}

/// Revenue and margin of a row.
pub(super) fn earnings(earned: Option<RowEarnings>) -> [(&'static str, ColumnValue); 2] {
    let amount = |amount: Option<Money>| {
        amount.map_or(ColumnValue::None, |amount| {
            ColumnValue::Decimal(amount.rounded(9))
        })
    };
    [
        ("revenue", amount(earned.map(|earned| earned.revenue))),
        ("margin", amount(earned.and_then(|earned| earned.margin))),
    ]
}
