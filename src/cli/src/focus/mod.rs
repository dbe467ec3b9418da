//! FOCUS, the FinOps Open Cost and Usage Specification (<https://focus.finops.org>), versions 1.2 and 1.0.
//!
//! One row for each day, workload, kind of hardware and part of the cost that is not zero, and one for each correction. Bursar is the
//! provider, the cluster the billing account, the namespace the sub account and the workload the resource. A file of the whole cluster
//! has rows of idle nodes, of no sub account, and of time on lost nodes too, and so sums to the cluster's bill with its corrections.
//!
//! | module | subject |
//! |---|---|
//! | `columns` | the columns, and what stands in them |
//! | `write` | CSV and Parquet |

mod columns;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;

use bursar_api::correction::SpendCorrectionSpec;
use bursar_api::spend::WorkloadKind;
use bursar_core::calendar::{Interval, Month};
use bursar_core::cluster_bill::ClusterBill;
use bursar_core::cost_report::{self, CostOwner};
use bursar_core::ledger::{CostKey, DailyCost};
use bursar_core::money::Money;
use clap::ValueEnum;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};

use crate::client::said;
use crate::spend_corrections::Corrected;
use crate::spend_records::Sheet;

pub(crate) use write::{csv, parquet};

/// A version of the specification.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Version {
    /// Of June 2024.
    #[value(name = "1.0")]
    V1_0,
    /// Of May 2025.
    #[default]
    #[value(name = "1.2")]
    V1_2,
}

/// Why there is no FOCUS file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "the cluster's identity, the UID of namespace kube-system, cannot be read: {0}; give one with --billing-account"
    )]
    Cluster(String),
    #[error("writing CSV: {0}")]
    Csv(#[from] ::csv::Error),
    #[error("writing Parquet: {0}")]
    Parquet(#[from] ::parquet::errors::ParquetError),
}

/// A part of the cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Compute,
    Storage,
    Power,
    Labour,
}

impl Part {
    const ALL: [Self; 4] = [Self::Compute, Self::Storage, Self::Power, Self::Labour];

    fn of(self, line: &DailyCost) -> Money {
        match self {
            Self::Compute => line.cost.compute,
            Self::Storage => line.cost.storage,
            Self::Power => line.cost.power,
            Self::Labour => line.cost.labour,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Compute => "Compute",
            Self::Storage => "Storage",
            Self::Power => "Power",
            Self::Labour => "Labour",
        }
    }
}

/// What cost a row's money.
#[derive(Debug, Clone, Copy)]
enum What<'a> {
    /// The pods of the record's workload.
    Pods(&'a Sheet),
    /// Its share of the monthly overheads.
    Overhead(&'a Sheet),
    /// Its pods on nodes that were lost.
    Lost(&'a Sheet),
    /// Nodes that nobody held. The record is theirs.
    Idle(&'a Sheet),
    /// A credit or an adjustment.
    Correction(&'a Corrected),
}

/// What a row is about.
#[derive(Debug, Clone)]
pub(crate) struct Charge<'a> {
    /// Who pays: the cluster.
    account: &'a str,
    what: What<'a>,
    sku: CostKey,
    /// None of a correction.
    part: Option<Part>,
    cost: Money,
    gpu_seconds: i64,
    /// The day, or what is over of the month.
    period: Interval,
    month: Interval,
}

/// The rows of so many records, until `now`.
pub(crate) fn charges<'a>(
    sheets: &'a [Sheet],
    account: &'a str,
    now: Timestamp,
) -> Vec<Charge<'a>> {
    let of_sheet = |sheet: &'a Sheet| {
        let lines = sheet.account.daily_costs(now, &sheet.zone).into_iter();
        lines.flat_map(move |((date, sku), line)| {
            in_parts(
                of_day(account, What::Pods(sheet), date, &sheet.zone),
                sku,
                line,
            )
        })
    };
    sheets.iter().flat_map(of_sheet).collect()
}

/// The rows of what each workload bears of the monthly overheads, until `now`.
pub(crate) fn overheads<'a>(
    sheets: &'a [Sheet],
    borne: &[(CostOwner, Date, DailyCost)],
    account: &'a str,
    now: Timestamp,
) -> Vec<Charge<'a>> {
    let mut shares: BTreeMap<&CostOwner, Money> = BTreeMap::new();
    for (holder, _, line) in borne {
        *shares.entry(holder).or_default() += line.cost.labour;
    }
    shares.retain(|_, share| *share != Money::ZERO);
    let of_holder = |(holder, cost): (&CostOwner, Money)| {
        let sheet = sheets.iter().find(|sheet| sheet.holder == *holder)?;
        let month = sheet.account.month.bounds(&sheet.zone);
        Some(Charge {
            account,
            what: What::Overhead(sheet),
            sku: CostKey::default(),
            part: Some(Part::Labour),
            cost,
            gpu_seconds: 0,
            period: month.split(now).0,
            month,
        })
    };
    shares.into_iter().filter_map(of_holder).collect()
}

/// The rows of time on lost nodes, until `now`. It has a cost as a whole, which is mostly the machines'.
pub(crate) fn unattributed<'a>(
    sheets: &'a [Sheet],
    account: &'a str,
    now: Timestamp,
) -> Vec<Charge<'a>> {
    let of_sheet = |sheet: &'a Sheet| {
        let lines = sheet.account.daily_costs(now, &sheet.zone).into_iter();
        let lost = lines.filter(|(_, line)| line.unattributed != Money::ZERO);
        lost.map(move |((date, sku), line)| Charge {
            sku,
            cost: line.unattributed,
            ..of_day(account, What::Lost(sheet), date, &sheet.zone)
        })
    };
    sheets.iter().flat_map(of_sheet).collect()
}

/// The rows of what nobody held. `nodes` are the sheets of nodes of one month.
pub(crate) fn idle<'a>(
    nodes: &'a [Sheet],
    bill: &ClusterBill,
    account: &'a str,
) -> Vec<Charge<'a>> {
    let Some(sheet) = nodes.first() else {
        return Vec::new();
    };
    let of_line = |(date, sku, line): (Date, &CostKey, DailyCost)| {
        let row = of_day(account, What::Idle(sheet), date, &sheet.zone);
        in_parts(row, sku.clone(), line)
    };
    bill.idle().flat_map(of_line).collect()
}

/// The rows of corrections.
pub(crate) fn corrections<'a>(
    corrections: &'a [Corrected],
    account: &'a str,
) -> impl Iterator<Item = Charge<'a>> {
    corrections.iter().map(move |corrected| {
        let (what, correction) = (What::Correction(corrected), &corrected.correction);
        Charge {
            part: None,
            cost: correction.amount,
            ..of_day(account, what, correction.date, &corrected.zone)
        }
    })
}

/// A row of compute.
fn of_day<'a>(account: &'a str, what: What<'a>, date: Date, zone: &TimeZone) -> Charge<'a> {
    let month = Month::containing_date(date).bounds(zone);
    Charge {
        account,
        what,
        sku: CostKey::default(),
        part: Some(Part::Compute),
        cost: Money::ZERO,
        gpu_seconds: 0,
        period: cost_report::day_bounds(date, zone).unwrap_or(month),
        month,
    }
}

/// A row for each part of a line's cost that is not zero.
fn in_parts(row: Charge<'_>, sku: CostKey, line: DailyCost) -> impl Iterator<Item = Charge<'_>> {
    let of_part = move |part: Part| Charge {
        part: Some(part),
        sku: sku.clone(),
        cost: part.of(&line),
        gpu_seconds: line.gpu_seconds,
        ..row.clone()
    };
    let rows = Part::ALL.map(of_part).into_iter();
    rows.filter(|row| row.cost != Money::ZERO)
}

impl Charge<'_> {
    /// `None` for a namespace as a whole.
    fn kind(&self) -> Option<WorkloadKind> {
        match self.what {
            What::Lost(_) | What::Idle(_) => Some(WorkloadKind::Node),
            What::Pods(sheet) | What::Overhead(sheet) => Some(sheet.record.spec.kind),
            What::Correction(corrected) => Some(corrected.object.workload()?.kind),
        }
    }

    /// Empty for what is nobody's.
    fn namespace(&self) -> &str {
        match self.what {
            What::Pods(sheet) | What::Overhead(sheet) | What::Lost(sheet) | What::Idle(sheet) => {
                &sheet.record.spec.namespace
            }
            What::Correction(corrected) => &corrected.object.spec.namespace,
        }
    }

    /// Empty for a namespace as a whole.
    fn name(&self) -> &str {
        match self.what {
            What::Lost(_) => "unattributed",
            What::Idle(_) => "idle",
            What::Pods(sheet) | What::Overhead(sheet) => &sheet.record.spec.name,
            What::Correction(corrected) => {
                let workload = corrected.object.spec.workload.as_ref();
                workload.map_or("", |workload| &workload.name)
            }
        }
    }

    fn currency(&self) -> &str {
        match self.what {
            What::Pods(sheet) | What::Overhead(sheet) | What::Lost(sheet) | What::Idle(sheet) => {
                &sheet.record.spec.currency
            }
            What::Correction(corrected) => &corrected.object.spec.currency,
        }
    }

    /// What the user says of a correction.
    fn correction(&self) -> Option<&SpendCorrectionSpec> {
        match self.what {
            What::Correction(corrected) => Some(&corrected.object.spec),
            _ => None,
        }
    }

    /// Corrections are none, and neither is it one where pods paid more than their nodes cost.
    fn is_usage(&self) -> bool {
        self.part.is_some() && self.cost >= Money::ZERO
    }
}

/// The cluster's identity: Kubernetes has none of its own, and the UID of namespace kube-system stands for it by custom.
pub(crate) async fn cluster(client: &Client) -> Result<String, Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let found = namespaces.get_metadata("kube-system").await;
    let found = found.map_err(|error| Error::Cluster(said(&error)))?;
    found
        .uid()
        .ok_or_else(|| Error::Cluster("it has no UID".into()))
}
