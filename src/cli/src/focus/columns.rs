//! FOCUS's columns, in the order of the specification, and what stands in them.

use bursar_api::spend::WorkloadKind;
use bursar_core::cost_report::{capacity_type_name, gpu_name};
use bursar_core::money::NANOS;
use bursar_core::pricing::{CapacityType, Share};
use jiff::Timestamp;
use serde_json::{Map, Value as Json};

use super::{Charge, Part, Version, What};
use crate::report::columns::nano_hours;
use crate::spend_records::Sheet;

/// Who provides, publishes and invoices.
const PROVIDER: &str = "Bursar";

/// What stands in a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    /// A decimal number, in units of 10⁻⁹.
    Nanos(i128),
    Time(Timestamp),
}

/// A column's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Decimal,
    Time,
}

/// A column.
pub(super) struct Column {
    /// Its ID.
    pub(super) name: &'static str,
    /// Its type.
    pub(super) kind: Type,
    /// Whether it may lack a value.
    pub(super) nullable: bool,
    /// The first of our versions that has it.
    since: Version,
    /// The last of them.
    until: Version,
    value: fn(&Charge<'_>) -> Option<Value>,
}

impl Column {
    /// What stands in it.
    pub(super) fn value(&self, charge: &Charge<'_>) -> Option<Value> {
        (self.value)(charge)
    }
}

/// The columns of a version.
pub(super) fn columns(version: Version) -> impl Iterator<Item = &'static Column> {
    COLUMNS
        .iter()
        .filter(move |column| (column.since..=column.until).contains(&version))
}

const fn column(name: &'static str, kind: Type, value: fn(&Charge<'_>) -> Option<Value>) -> Column {
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

/// Columns about commitments and negotiated discounts are there because 1.0's validator asks for them; Bursar has none. A correction
/// has no quantity, price or SKU: the specification leaves those columns to usage and purchases.
#[rustfmt::skip]
const COLUMNS: &[Column] = &[
    column("BilledCost", Type::Decimal, cost),
    column("BillingAccountId", Type::Text, |charge| text(charge.account)),
    column("BillingAccountName", Type::Text, |_| None).nullable(),
    column("BillingAccountType", Type::Text, |_| text("Cluster")).since_1_2(),
    column("BillingCurrency", Type::Text, |charge| text(charge.currency())),
    column("BillingPeriodEnd", Type::Time, |charge| time(charge.month.end)),
    column("BillingPeriodStart", Type::Time, |charge| time(charge.month.start)),
    column("ChargeCategory", Type::Text, category),
    column("ChargeClass", Type::Text, class).nullable(),
    column("ChargeDescription", Type::Text, description).nullable(),
    column("ChargeFrequency", Type::Text, frequency),
    column("ChargePeriodEnd", Type::Time, |charge| time(charge.period.end)),
    column("ChargePeriodStart", Type::Time, |charge| time(charge.period.start)),
    column("CommitmentDiscountCategory", Type::Text, |_| None).nullable(),
    column("CommitmentDiscountId", Type::Text, |_| None).nullable(),
    column("CommitmentDiscountName", Type::Text, |_| None).nullable(),
    column("CommitmentDiscountStatus", Type::Text, |_| None).nullable(),
    column("CommitmentDiscountType", Type::Text, |_| None).nullable(),
    column("ConsumedQuantity", Type::Decimal, quantity).nullable(),
    column("ConsumedUnit", Type::Text, unit).nullable(),
    column("ContractedCost", Type::Decimal, cost),
    column("ContractedUnitPrice", Type::Decimal, unit_price).nullable(),
    column("EffectiveCost", Type::Decimal, cost),
    column("InvoiceId", Type::Text, |_| None).nullable().since_1_2(),
    column("InvoiceIssuerName", Type::Text, |_| text(PROVIDER)),
    column("ListCost", Type::Decimal, cost),
    column("ListUnitPrice", Type::Decimal, unit_price).nullable(),
    column("PricingCategory", Type::Text, pricing).nullable(),
    column("PricingQuantity", Type::Decimal, quantity).nullable(),
    column("PricingUnit", Type::Text, unit).nullable(),
    column("ProviderName", Type::Text, |_| text(PROVIDER)),
    column("PublisherName", Type::Text, |_| text(PROVIDER)),
    column("RegionId", Type::Text, region).nullable(),
    column("RegionName", Type::Text, region).nullable(),
    column("ResourceId", Type::Text, resource).nullable(),
    column("ResourceName", Type::Text, |charge| text(charge.name())).nullable(),
    column("ResourceType", Type::Text, |charge| text(charge.kind()?.as_str())).nullable(),
    column("ServiceCategory", Type::Text, |_| text("AI and Machine Learning")),
    column("ServiceName", Type::Text, |charge| text(charge.kind().map_or("GPU Computing", service))),
    column("ServiceSubcategory", Type::Text, |_| text("Machine Learning")).since_1_2(),
    column("SkuId", Type::Text, |charge| text(&sku(charge)?)).nullable(),
    column("SkuMeter", Type::Text, |charge| text(meter(charge.part?))).nullable().since_1_2(),
    column("SkuPriceDetails", Type::Text, price_details).nullable().since_1_2(),
    column("SkuPriceId", Type::Text, price_id).nullable(),
    column("SubAccountId", Type::Text, |charge| text(charge.namespace())).nullable(),
    column("SubAccountName", Type::Text, |charge| text(charge.namespace())).nullable(),
    column("SubAccountType", Type::Text, sub_account_type).nullable().since_1_2(),
    column("Tags", Type::Text, tags).nullable(),
    // The FinOps Foundation's validator asks for these in 1.0, by the names of 1.0-preview, and ignores those of 1.0 itself
    column("ChargeType", Type::Text, category).until_1_0(),
    column("InvoiceIssuer", Type::Text, |_| text(PROVIDER)).until_1_0(),
    column("Provider", Type::Text, |_| text(PROVIDER)).until_1_0(),
    column("Publisher", Type::Text, |_| text(PROVIDER)).until_1_0(),
    column("ResourceID", Type::Text, resource).nullable().until_1_0(),
    // FOCUS has no column for it: columns that are not its own begin with x_
    column("x_CostPart", Type::Text, |charge| text(charge.part.map_or("Correction", Part::name))),
];

/// Text that is not empty: FOCUS has null for what has no value.
fn text(text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| Value::Text(text.to_owned()))
}

fn time(at: Timestamp) -> Option<Value> {
    Some(Value::Time(at))
}

fn cost(charge: &Charge<'_>) -> Option<Value> {
    Some(Value::Nanos(charge.cost.nanos()))
}

fn category(charge: &Charge<'_>) -> Option<Value> {
    text(match charge.correction() {
        Some(spec) => spec.category.as_str(),
        None if charge.is_usage() => "Usage",
        None => "Adjustment",
    })
}

/// Only what corrects an invoice of an earlier billing period is a `Correction` to FOCUS.
fn class(charge: &Charge<'_>) -> Option<Value> {
    let corrects = charge.correction()?.corrects.as_ref();
    corrects.and_then(|_| text("Correction"))
}

fn frequency(charge: &Charge<'_>) -> Option<Value> {
    text(match charge.what {
        What::Correction(_) => "One-Time",
        _ => "Usage-Based",
    })
}

/// A sub account without an identity has no type.
fn sub_account_type(charge: &Charge<'_>) -> Option<Value> {
    text(charge.namespace()).and_then(|_| text("Namespace"))
}

/// GPU-hours; a cost without any, such as a monthly overhead, is one unit.
fn nano_quantity(charge: &Charge<'_>) -> i128 {
    match charge.gpu_seconds {
        ..=0 => NANOS,
        seconds => nano_hours(seconds),
    }
}

/// What is no usage has no quantity, and no price of a unit.
fn quantity(charge: &Charge<'_>) -> Option<Value> {
    charge
        .is_usage()
        .then(|| Value::Nanos(nano_quantity(charge)))
}

fn unit(charge: &Charge<'_>) -> Option<Value> {
    let unit = match charge.gpu_seconds {
        ..=0 => "Units",
        _ => "GPU-Hours",
    };
    text(unit).filter(|_| charge.is_usage())
}

/// The day's mean price of a unit, since the price may have changed on the way.
fn unit_price(charge: &Charge<'_>) -> Option<Value> {
    let quantity = nano_quantity(charge);
    let price = (charge.cost.nanos() * NANOS + quantity / 2).div_euclid(quantity);
    charge.is_usage().then_some(Value::Nanos(price))
}

fn description(charge: &Charge<'_>) -> Option<Value> {
    let part = charge.part.map_or("", Part::name);
    let gpu = gpu_name(&charge.sku);
    let workload = |sheet: &Sheet| sheet.holder.workload.clone();
    text(&match charge.what {
        What::Pods(sheet) => format!("{part} of {} on {gpu}", workload(sheet)),
        What::Overhead(sheet) => format!("Monthly overheads of {}", workload(sheet)),
        What::Lost(sheet) => format!("{part} of {} on {gpu} that was lost", workload(sheet)),
        What::Idle(_) => format!("{part} of {gpu} that nobody held"),
        What::Correction(corrected) => corrected.object.spec.reason.clone(),
    })
}

/// Spot prices are the provider's to change; all others, those of reserved machines too, are agreed in advance by the PriceList.
fn pricing(charge: &Charge<'_>) -> Option<Value> {
    charge.part?;
    text(match charge.sku.capacity_type {
        Some(CapacityType::Spot) => "Dynamic",
        _ => "Standard",
    })
}

fn region(charge: &Charge<'_>) -> Option<Value> {
    text(charge.sku.region.as_deref().unwrap_or_default())
}

fn resource(charge: &Charge<'_>) -> Option<Value> {
    let names = [charge.namespace(), charge.kind()?.as_str(), charge.name()];
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

fn meter(part: Part) -> &'static str {
    match part {
        Part::Compute => "GPU Usage",
        Part::Storage => "Volume Usage",
        Part::Power => "Power Usage",
        Part::Labour => "Overhead",
    }
}

/// What is sold, wherever it stands and however it is paid for: the GPU and the part of the cost.
fn sku(charge: &Charge<'_>) -> Option<String> {
    let name = match (charge.what, &charge.sku.model) {
        (What::Overhead(_), _) => "Overhead",
        (_, Some(model)) => model,
        (_, None) => &charge.sku.resource,
    };
    let share = charge.sku.share;
    let share = if share == Share::default() {
        String::new()
    } else {
        format!(":{}/{}", share.part, share.whole)
    };
    Some(format!("{name}{share}:{}", charge.part?.name()))
}

/// What a price is found by.
fn price_id(charge: &Charge<'_>) -> Option<Value> {
    let sku_of = &charge.sku;
    let facts = [
        sku_of.instance_type.clone(),
        sku_of
            .capacity_type
            .map(|by| capacity_type_name(by).to_owned()),
        sku_of.region.clone(),
    ];
    let all = std::iter::once(sku(charge)?).chain(facts.into_iter().flatten());
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
fn price_details(charge: &Charge<'_>) -> Option<Value> {
    let sku = &charge.sku;
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

fn tags(charge: &Charge<'_>) -> Option<Value> {
    let known = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
    let (correction, reference) = match charge.what {
        What::Correction(corrected) => (
            Some(corrected.correction.name.clone()),
            corrected.object.spec.reference.clone(),
        ),
        _ => (None, None),
    };
    object(&[
        ("bursar.dev/namespace", known(charge.namespace())),
        (
            "bursar.dev/kind",
            charge.kind().map(|kind| kind.as_str().to_owned()),
        ),
        ("bursar.dev/workload", known(charge.name())),
        ("bursar.dev/resource", known(&charge.sku.resource)),
        ("bursar.dev/owner", charge.sku.owner.clone()),
        ("bursar.dev/correction", correction),
        ("bursar.dev/reference", reference),
    ])
}
