//! FOCUS's columns, in the order of the specification, and their values.

use bursar_api::spend::WorkloadKind;
use bursar_core::cost_report::{capacity_type_name, gpu_name};
use bursar_core::money::NANOS;
use bursar_core::pricing::{CapacityType, Share};
use jiff::Timestamp;
use serde_json::{Map, Value as Json};

use super::{ChargeSource, CostComponent, FocusRow, Version};
use crate::format::amounts::nano_hours;
use crate::spend_records::LoadedAccount;

/// Who provides, publishes and invoices.
const PROVIDER: &str = "Bursar";

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    /// A decimal number, in units of 10⁻⁹.
    Nanos(i128),
    Time(Timestamp),
}

/// A column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ColumnType {
    Text,
    Decimal,
    Time,
}

/// A column.
pub(super) struct Column {
    /// Its ID.
    pub(super) name: &'static str,
    /// Its type.
    pub(super) kind: ColumnType,
    /// True for a column that may be null.
    pub(super) nullable: bool,
    /// The first of our versions that has it.
    since: Version,
    /// The last of them.
    until: Version,
    value: fn(&FocusRow<'_>) -> Option<Value>,
}

impl Column {
    /// Its value in a row; `None` is null.
    pub(super) fn value(&self, row: &FocusRow<'_>) -> Option<Value> {
        (self.value)(row)
    }
}

/// The columns of a version.
pub(super) fn columns(version: Version) -> impl Iterator<Item = &'static Column> {
    COLUMNS
        .iter()
        .filter(move |column| (column.since..=column.until).contains(&version))
}

const fn column(
    name: &'static str,
    kind: ColumnType,
    value: fn(&FocusRow<'_>) -> Option<Value>,
) -> Column {
    Column {
        name,
        kind,
        nullable: false,
        since: Version::V1_0,
        until: Version::V1_2,
        value,
    }
}

impl Column {
    const fn nullable(self) -> Self {
        Self {
            nullable: true,
            ..self
        }
    }

    const fn since_1_2(self) -> Self {
        Self {
            since: Version::V1_2,
            ..self
        }
    }

    const fn until_1_0(self) -> Self {
        Self {
            until: Version::V1_0,
            ..self
        }
    }
}

/// Columns about commitments and negotiated discounts are there because 1.0's validator asks for
/// them; Bursar has none. A correction has no quantity, price or SKU: the specification leaves
/// those columns to usage and purchases.
#[rustfmt::skip]
const COLUMNS: &[Column] = &[
    column("BilledCost", ColumnType::Decimal, cost),
    column("BillingAccountId", ColumnType::Text, |row| text(row.billing_account)),
    column("BillingAccountName", ColumnType::Text, |_| None).nullable(),
    column("BillingAccountType", ColumnType::Text, |_| text("Cluster")).since_1_2(),
    column("BillingCurrency", ColumnType::Text, |row| text(row.currency())),
    column("BillingPeriodEnd", ColumnType::Time, |row| time(row.month.end)),
    column("BillingPeriodStart", ColumnType::Time, |row| time(row.month.start)),
    column("ChargeCategory", ColumnType::Text, category),
    column("ChargeClass", ColumnType::Text, class).nullable(),
    column("ChargeDescription", ColumnType::Text, description).nullable(),
    column("ChargeFrequency", ColumnType::Text, frequency),
    column("ChargePeriodEnd", ColumnType::Time, |row| time(row.period.end)),
    column("ChargePeriodStart", ColumnType::Time, |row| time(row.period.start)),
    column("CommitmentDiscountCategory", ColumnType::Text, |_| None).nullable(),
    column("CommitmentDiscountId", ColumnType::Text, |_| None).nullable(),
    column("CommitmentDiscountName", ColumnType::Text, |_| None).nullable(),
    column("CommitmentDiscountStatus", ColumnType::Text, |_| None).nullable(),
    column("CommitmentDiscountType", ColumnType::Text, |_| None).nullable(),
    column("ConsumedQuantity", ColumnType::Decimal, quantity).nullable(),
    column("ConsumedUnit", ColumnType::Text, unit).nullable(),
    column("ContractedCost", ColumnType::Decimal, cost),
    column("ContractedUnitPrice", ColumnType::Decimal, unit_price).nullable(),
    column("EffectiveCost", ColumnType::Decimal, cost),
    column("InvoiceId", ColumnType::Text, |_| None).nullable().since_1_2(),
    column("InvoiceIssuerName", ColumnType::Text, |_| text(PROVIDER)),
    column("ListCost", ColumnType::Decimal, cost),
    column("ListUnitPrice", ColumnType::Decimal, unit_price).nullable(),
    column("PricingCategory", ColumnType::Text, pricing).nullable(),
    column("PricingQuantity", ColumnType::Decimal, quantity).nullable(),
    column("PricingUnit", ColumnType::Text, unit).nullable(),
    column("ProviderName", ColumnType::Text, |_| text(PROVIDER)),
    column("PublisherName", ColumnType::Text, |_| text(PROVIDER)),
    column("RegionId", ColumnType::Text, region).nullable(),
    column("RegionName", ColumnType::Text, region).nullable(),
    column("ResourceId", ColumnType::Text, resource).nullable(),
    column("ResourceName", ColumnType::Text, |row| text(row.name())).nullable(),
    column("ResourceType", ColumnType::Text, |row| text(row.kind()?.as_str())).nullable(),
    column("ServiceCategory", ColumnType::Text, |_| text("AI and Machine Learning")),
    column("ServiceName", ColumnType::Text, |row| text(row.kind().map_or("GPU Computing", service))),
    column("ServiceSubcategory", ColumnType::Text, |_| text("Machine Learning")).since_1_2(),
    column("SkuId", ColumnType::Text, |row| text(&sku(row)?)).nullable(),
    column("SkuMeter", ColumnType::Text, |row| text(meter(row.component?))).nullable().since_1_2(),
    column("SkuPriceDetails", ColumnType::Text, price_details).nullable().since_1_2(),
    column("SkuPriceId", ColumnType::Text, price_id).nullable(),
    column("SubAccountId", ColumnType::Text, |row| text(row.namespace())).nullable(),
    column("SubAccountName", ColumnType::Text, |row| text(row.namespace())).nullable(),
    column("SubAccountType", ColumnType::Text, sub_account_type).nullable().since_1_2(),
    column("Tags", ColumnType::Text, tags).nullable(),
    // The FinOps Foundation's validator asks for these in 1.0, by the names of 1.0-preview, and
    // ignores those of 1.0 itself
    column("ChargeType", ColumnType::Text, category).until_1_0(),
    column("InvoiceIssuer", ColumnType::Text, |_| text(PROVIDER)).until_1_0(),
    column("Provider", ColumnType::Text, |_| text(PROVIDER)).until_1_0(),
    column("Publisher", ColumnType::Text, |_| text(PROVIDER)).until_1_0(),
    column("ResourceID", ColumnType::Text, resource).nullable().until_1_0(),
    // FOCUS has no column for it: columns that are not its own begin with x_
    column("x_CostPart", ColumnType::Text, |row| text(row.component.map_or("Correction", CostComponent::name))),
];

/// Text that is not empty: FOCUS has null for what has no value.
fn text(text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| Value::Text(text.to_owned()))
}

fn time(at: Timestamp) -> Option<Value> {
    Some(Value::Time(at))
}

fn cost(row: &FocusRow<'_>) -> Option<Value> {
    Some(Value::Nanos(row.cost.nanos()))
}

fn category(row: &FocusRow<'_>) -> Option<Value> {
    text(match row.correction() {
        Some(spec) => spec.category.as_str(),
        None if row.is_usage() => "Usage",
        None => "Adjustment",
    })
}

/// FOCUS's class: a correction of an invoice of an earlier billing period is a `Correction`.
fn class(row: &FocusRow<'_>) -> Option<Value> {
    let corrects = row.correction()?.corrects.as_ref();
    corrects.and_then(|_| text("Correction"))
}

fn frequency(row: &FocusRow<'_>) -> Option<Value> {
    text(match row.source {
        ChargeSource::Correction(_) => "One-Time",
        _ => "Usage-Based",
    })
}

/// A sub account without an identity has no type.
fn sub_account_type(row: &FocusRow<'_>) -> Option<Value> {
    text(row.namespace()).and_then(|_| text("Namespace"))
}

/// GPU-hours; a cost without any, such as a monthly overhead, is one unit.
fn nano_quantity(row: &FocusRow<'_>) -> i128 {
    match row.gpu_seconds {
        ..=0 => NANOS,
        seconds => nano_hours(seconds),
    }
}

/// The quantity of usage: other charges have neither a quantity nor a unit price.
fn quantity(row: &FocusRow<'_>) -> Option<Value> {
    row.is_usage().then(|| Value::Nanos(nano_quantity(row)))
}

fn unit(row: &FocusRow<'_>) -> Option<Value> {
    let unit = match row.gpu_seconds {
        ..=0 => "Units",
        _ => "GPU-Hours",
    };
    text(unit).filter(|_| row.is_usage())
}

/// The day's mean price of a unit, since the price may have changed on the way.
fn unit_price(row: &FocusRow<'_>) -> Option<Value> {
    let quantity = nano_quantity(row);
    let price = (row.cost.nanos() * NANOS + quantity / 2).div_euclid(quantity);
    row.is_usage().then_some(Value::Nanos(price))
}

fn description(row: &FocusRow<'_>) -> Option<Value> {
    let part = row.component.map_or("", CostComponent::name);
    let gpu = gpu_name(&row.sku);
    let workload = |loaded: &LoadedAccount| loaded.owner.workload.clone();
    text(&match row.source {
        ChargeSource::Pods(loaded) => format!("{part} of {} on {gpu}", workload(loaded)),
        ChargeSource::Overhead(loaded) => format!("Monthly overheads of {}", workload(loaded)),
        ChargeSource::Lost(loaded) => {
            format!("{part} of {} on {gpu} that was lost", workload(loaded))
        }
        ChargeSource::Idle(_) => format!("{part} of {gpu} that nobody held"),
        ChargeSource::Correction(corrected) => corrected.object.spec.reason.clone(),
    })
}

/// Spot prices are the provider's to change; all others, those of reserved machines too, are agreed
/// in advance by the PriceList.
fn pricing(row: &FocusRow<'_>) -> Option<Value> {
    row.component?;
    text(match row.sku.capacity_type {
        Some(CapacityType::Spot) => "Dynamic",
        _ => "Standard",
    })
}

fn region(row: &FocusRow<'_>) -> Option<Value> {
    text(row.sku.region.as_deref().unwrap_or_default())
}

fn resource(row: &FocusRow<'_>) -> Option<Value> {
    let names = [row.namespace(), row.kind()?.as_str(), row.name()];
    let names = names.into_iter().filter(|name| !name.is_empty());
    text(&names.collect::<Vec<_>>().join("/"))
}

fn service(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::InferenceDeployment => "GPU Inference",
        WorkloadKind::TrainingJob => "GPU Training",
        WorkloadKind::Unmanaged | WorkloadKind::Folded => "GPU Pods",
        WorkloadKind::Node => "GPU Nodes",
    }
}

fn meter(component: CostComponent) -> &'static str {
    match component {
        CostComponent::Compute => "GPU Usage",
        CostComponent::Storage => "Volume Usage",
        CostComponent::Power => "Power Usage",
        CostComponent::Labour => "Overhead",
    }
}

/// The SKU: the GPU and the component of the cost, in whichever region and capacity type.
fn sku(row: &FocusRow<'_>) -> Option<String> {
    let name = match (row.source, &row.sku.model) {
        (ChargeSource::Overhead(_), _) => "Overhead",
        (_, Some(model)) => model,
        (_, None) => &row.sku.resource,
    };
    let share = row.sku.share;
    let share = if share == Share::default() {
        String::new()
    } else {
        format!(":{}/{}", share.part, share.whole)
    };
    Some(format!("{name}{share}:{}", row.component?.name()))
}

/// The key of a price: the SKU with instance type, capacity type and region.
fn price_id(row: &FocusRow<'_>) -> Option<Value> {
    let sku_of = &row.sku;
    let facts = [
        sku_of.instance_type.clone(),
        sku_of
            .capacity_type
            .map(|by| capacity_type_name(by).to_owned()),
        sku_of.region.clone(),
    ];
    let all = std::iter::once(sku(row)?).chain(facts.into_iter().flatten());
    text(&all.collect::<Vec<_>>().join(":"))
}

/// An object of the facts that are known; `None` if there is none.
fn object(facts: &[(&str, Option<String>)]) -> Option<Value> {
    let known = facts.iter().filter_map(|(key, fact)| {
        let fact = fact.clone()?;
        Some(((*key).to_owned(), Json::String(fact)))
    });
    let map: Map<String, Json> = known.collect();
    (!map.is_empty()).then(|| Value::Text(Json::Object(map).to_string()))
}

/// `InstanceType` is FOCUS's own key.
fn price_details(row: &FocusRow<'_>) -> Option<Value> {
    let sku = &row.sku;
    object(&[
        ("InstanceType", sku.instance_type.clone()),
        ("x_GpuModel", sku.model.clone()),
        (
            "x_CapacityType",
            sku.capacity_type
                .map(|by| capacity_type_name(by).to_owned()),
        ),
    ])
}

fn tags(row: &FocusRow<'_>) -> Option<Value> {
    let known = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
    let (correction, reference) = match row.source {
        ChargeSource::Correction(corrected) => (
            Some(corrected.correction.name.clone()),
            corrected.object.spec.reference.clone(),
        ),
        _ => (None, None),
    };
    object(&[
        ("bursar.dev/namespace", known(row.namespace())),
        (
            "bursar.dev/kind",
            row.kind().map(|kind| kind.as_str().to_owned()),
        ),
        ("bursar.dev/workload", known(row.name())),
        ("bursar.dev/resource", known(&row.sku.resource)),
        ("bursar.dev/owner", row.sku.owner.clone()),
        ("bursar.dev/correction", correction),
        ("bursar.dev/reference", reference),
    ])
}
