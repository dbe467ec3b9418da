//! FOCUS's columns, in the order of the specification, and what stands in them.

use bursar_api::spend::WorkloadKind;
use bursar_core::money::NANOS;
use bursar_core::price::{CapacityType, Share};
use bursar_core::report::{capacity, gpu};
use jiff::Timestamp;
use serde_json::{Map, Value as Json};

use super::{Charge, Correction, Part, Row, Version};
use crate::report::figures::nano_hours;

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
    /// What stands in it for a correction.
    corrected: fn(&Correction<'_>) -> Option<Value>,
}

impl Column {
    /// What stands in it.
    pub(super) fn value(&self, row: &Row<'_>) -> Option<Value> {
        match row {
            Row::Charge(charge) => (self.value)(charge),
            Row::Correction(correction) => (self.corrected)(correction),
        }
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
        corrected: |_| None,
    }
}

impl Column {
    const fn nullable(self) -> Self {
        Self {
            nullable: true,
            ..self
        }
    }

    const fn corrected(self, corrected: fn(&Correction<'_>) -> Option<Value>) -> Self {
        Self { corrected, ..self }
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
    column("BilledCost", Type::Decimal, cost).corrected(amount),
    column("BillingAccountId", Type::Text, |charge| text(charge.account)).corrected(|row| text(row.account)),
    column("BillingAccountName", Type::Text, |_| None).nullable(),
    column("BillingAccountType", Type::Text, |_| text("Cluster")).since_1_2().corrected(|_| text("Cluster")),
    column("BillingCurrency", Type::Text, |charge| text(&charge.sheet.record.spec.currency)).corrected(|row| text(&row.spec().currency)),
    column("BillingPeriodEnd", Type::Time, |charge| time(charge.month.end)).corrected(|row| time(row.month.end)),
    column("BillingPeriodStart", Type::Time, |charge| time(charge.month.start)).corrected(|row| time(row.month.start)),
    column("ChargeCategory", Type::Text, |_| text("Usage")).corrected(|row| text(row.spec().category.as_str())),
    column("ChargeClass", Type::Text, |_| None).nullable().corrected(class),
    column("ChargeDescription", Type::Text, description).nullable().corrected(|row| text(&row.spec().reason)),
    column("ChargeFrequency", Type::Text, |_| text("Usage-Based")).corrected(|_| text("One-Time")),
    column("ChargePeriodEnd", Type::Time, |charge| time(charge.day.end)).corrected(|row| time(row.day.end)),
    column("ChargePeriodStart", Type::Time, |charge| time(charge.day.start)).corrected(|row| time(row.day.start)),
    column("CommitmentDiscountCategory", Type::Text, |_| None).nullable(),
    column("CommitmentDiscountId", Type::Text, |_| None).nullable(),
    column("CommitmentDiscountName", Type::Text, |_| None).nullable(),
    column("CommitmentDiscountStatus", Type::Text, |_| None).nullable(),
    column("CommitmentDiscountType", Type::Text, |_| None).nullable(),
    column("ConsumedQuantity", Type::Decimal, quantity).nullable(),
    column("ConsumedUnit", Type::Text, unit).nullable(),
    column("ContractedCost", Type::Decimal, cost).corrected(amount),
    column("ContractedUnitPrice", Type::Decimal, unit_price).nullable(),
    column("EffectiveCost", Type::Decimal, cost).corrected(amount),
    column("InvoiceIssuerName", Type::Text, |_| text(PROVIDER)).corrected(|_| text(PROVIDER)),
    column("ListCost", Type::Decimal, cost).corrected(amount),
    column("ListUnitPrice", Type::Decimal, unit_price).nullable(),
    column("PricingCategory", Type::Text, pricing).nullable(),
    column("PricingQuantity", Type::Decimal, quantity).nullable(),
    column("PricingUnit", Type::Text, unit).nullable(),
    column("ProviderName", Type::Text, |_| text(PROVIDER)).corrected(|_| text(PROVIDER)),
    column("PublisherName", Type::Text, |_| text(PROVIDER)).corrected(|_| text(PROVIDER)),
    column("RegionId", Type::Text, region).nullable(),
    column("RegionName", Type::Text, region).nullable(),
    column("ResourceId", Type::Text, resource).nullable().corrected(corrected_resource),
    column("ResourceName", Type::Text, |charge| text(charge.name())).nullable().corrected(|row| text(&row.workload()?.name)),
    column("ResourceType", Type::Text, |charge| text(charge.kind().as_str())).nullable().corrected(|row| text(row.workload()?.kind.as_str())),
    column("ServiceCategory", Type::Text, |_| text("AI and Machine Learning")).corrected(|_| text("AI and Machine Learning")),
    column("ServiceName", Type::Text, |charge| text(service(charge.kind()))).corrected(corrected_service),
    column("ServiceSubcategory", Type::Text, |_| text("Machine Learning")).since_1_2().corrected(|_| text("Machine Learning")),
    column("SkuId", Type::Text, |charge| text(&sku(charge))).nullable(),
    column("SkuMeter", Type::Text, |charge| text(meter(charge.part))).nullable().since_1_2(),
    column("SkuPriceDetails", Type::Text, price_details).nullable().since_1_2(),
    column("SkuPriceId", Type::Text, price_id).nullable(),
    column("SubAccountId", Type::Text, |charge| text(charge.namespace())).nullable().corrected(|row| text(&row.spec().namespace)),
    column("SubAccountName", Type::Text, |charge| text(charge.namespace())).nullable().corrected(|row| text(&row.spec().namespace)),
    column("SubAccountType", Type::Text, |_| text("Namespace")).nullable().since_1_2().corrected(|_| text("Namespace")),
    column("Tags", Type::Text, tags).nullable().corrected(corrected_tags),
    // The FinOps Foundation's validator asks for these in 1.0, by the names of 1.0-preview, and ignores those of 1.0 itself
    column("ChargeType", Type::Text, |_| text("Usage")).until_1_0().corrected(|row| text(row.spec().category.as_str())),
    column("InvoiceIssuer", Type::Text, |_| text(PROVIDER)).until_1_0().corrected(|_| text(PROVIDER)),
    column("Provider", Type::Text, |_| text(PROVIDER)).until_1_0().corrected(|_| text(PROVIDER)),
    column("Publisher", Type::Text, |_| text(PROVIDER)).until_1_0().corrected(|_| text(PROVIDER)),
    column("ResourceID", Type::Text, resource).nullable().until_1_0().corrected(corrected_resource),
    // FOCUS has no column for it: columns that are not its own begin with x_
    column("x_CostPart", Type::Text, |charge| text(charge.part.name())).corrected(|_| text("Correction")),
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

/// GPU-hours; a cost without any, such as a monthly overhead, is one unit.
fn nano_quantity(charge: &Charge<'_>) -> i128 {
    match charge.gpu_seconds {
        0 => NANOS,
        seconds => nano_hours(seconds),
    }
}

fn quantity(charge: &Charge<'_>) -> Option<Value> {
    Some(Value::Nanos(nano_quantity(charge)))
}

fn unit(charge: &Charge<'_>) -> Option<Value> {
    text(match charge.gpu_seconds {
        0 => "Units",
        _ => "GPU-Hours",
    })
}

/// The day's mean price of a unit, since the price may have changed on the way.
fn unit_price(charge: &Charge<'_>) -> Option<Value> {
    let quantity = nano_quantity(charge);
    let price = (charge.cost.nanos() * NANOS + quantity / 2).div_euclid(quantity);
    Some(Value::Nanos(price))
}

fn description(charge: &Charge<'_>) -> Option<Value> {
    let part = charge.part.name();
    text(&format!(
        "{part} of {} on {}",
        charge.sheet.holder.workload,
        gpu(&charge.sku)
    ))
}

/// Spot prices are the provider's to change; all others, those of reserved machines too, are agreed in advance by the PriceList.
fn pricing(charge: &Charge<'_>) -> Option<Value> {
    text(match charge.sku.capacity_type {
        Some(CapacityType::Spot) => "Dynamic",
        _ => "Standard",
    })
}

fn region(charge: &Charge<'_>) -> Option<Value> {
    text(charge.sku.region.as_deref().unwrap_or_default())
}

fn resource(charge: &Charge<'_>) -> Option<Value> {
    let kind = charge.kind().as_str();
    text(&format!("{}/{kind}/{}", charge.namespace(), charge.name()))
}

fn service(kind: WorkloadKind) -> &'static str {
    match kind {
        WorkloadKind::InferenceDeployment => "GPU Inference",
        WorkloadKind::TrainingJob => "GPU Training",
        WorkloadKind::Unmanaged => "GPU Pods",
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
fn sku(charge: &Charge<'_>) -> String {
    let name = charge.sku.model.as_ref().unwrap_or(&charge.sku.resource);
    let share = charge.sku.share;
    let share = if share == Share::default() {
        String::new()
    } else {
        format!(":{}/{}", share.part, share.whole)
    };
    format!("{name}{share}:{}", charge.part.name())
}

/// What a price is found by.
fn price_id(charge: &Charge<'_>) -> Option<Value> {
    let sku_of = &charge.sku;
    let facts = [
        sku_of.instance_type.clone(),
        sku_of.capacity_type.map(|by| capacity(by).to_owned()),
        sku_of.region.clone(),
    ];
    let all = std::iter::once(sku(charge)).chain(facts.into_iter().flatten());
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
            sku.capacity_type.map(|by| capacity(by).to_owned()),
        ),
    ])
}

fn tags(charge: &Charge<'_>) -> Option<Value> {
    object(&[
        ("bursar.dev/namespace", Some(charge.namespace().to_owned())),
        ("bursar.dev/kind", Some(charge.kind().as_str().to_owned())),
        ("bursar.dev/workload", Some(charge.name().to_owned())),
        ("bursar.dev/resource", Some(charge.sku.resource.clone())),
        ("bursar.dev/owner", charge.sku.owner.clone()),
    ])
}

fn amount(row: &Correction<'_>) -> Option<Value> {
    Some(Value::Nanos(row.corrected.correction.amount.nanos()))
}

/// Only what corrects an invoice of an earlier billing period is a `Correction` to FOCUS.
fn class(row: &Correction<'_>) -> Option<Value> {
    row.spec()
        .corrects
        .as_ref()
        .and_then(|_| text("Correction"))
}

fn corrected_resource(row: &Correction<'_>) -> Option<Value> {
    let workload = row.workload()?;
    let (namespace, kind) = (&workload.namespace, workload.kind.as_str());
    text(&format!("{namespace}/{kind}/{}", workload.name))
}

/// A namespace as a whole has the services of all its workloads.
fn corrected_service(row: &Correction<'_>) -> Option<Value> {
    let workload = row.workload();
    text(workload.map_or("GPU Computing", |workload| service(workload.kind)))
}

fn corrected_tags(row: &Correction<'_>) -> Option<Value> {
    let workload = row.workload();
    let kind = workload
        .as_ref()
        .map(|workload| workload.kind.as_str().to_owned());
    object(&[
        ("bursar.dev/namespace", Some(row.spec().namespace.clone())),
        ("bursar.dev/kind", kind),
        (
            "bursar.dev/workload",
            workload.map(|workload| workload.name),
        ),
        (
            "bursar.dev/correction",
            Some(row.corrected.correction.name.clone()),
        ),
        ("bursar.dev/reference", row.spec().reference.clone()),
    ])
}
