//! FOCUS, the FinOps Open Cost and Usage Specification (<https://focus.finops.org>), versions 1.2 and 1.0.
//!
//! One row for each day, workload, kind of hardware and part of the cost that is not zero, and one for each correction. Bursar is the
//! provider, the cluster the billing account, the namespace the sub account and the workload the resource.
//!
//! | module | subject |
//! |---|---|
//! | `columns` | the columns, and what stands in them |
//! | `write` | CSV and Parquet |

mod columns;
#[cfg(test)]
mod tests;
mod write;

use bursar_api::correction::SpendCorrectionSpec;
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_core::ledger::{Line, Sku};
use bursar_core::money::Money;
use bursar_core::period::Interval;
use bursar_core::report;
use clap::ValueEnum;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};

use crate::corrections::Corrected;
use crate::read::said;
use crate::records::Sheet;

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

    fn of(self, line: &Line) -> Money {
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

/// What a row is about.
#[derive(Debug, Clone)]
pub(crate) enum Row<'a> {
    /// What was used.
    Charge(Charge<'a>),
    /// A credit or an adjustment.
    Correction(Correction<'a>),
}

/// A correction, and when and by whom it is paid.
#[derive(Debug, Clone)]
pub(crate) struct Correction<'a> {
    /// Who pays: the cluster.
    account: &'a str,
    corrected: &'a Corrected,
    day: Interval,
    month: Interval,
}

/// What was used.
#[derive(Debug, Clone)]
pub(crate) struct Charge<'a> {
    /// Who pays: the cluster.
    account: &'a str,
    /// The record that it is from.
    sheet: &'a Sheet,
    sku: Sku,
    part: Part,
    cost: Money,
    gpu_seconds: i64,
    day: Interval,
    month: Interval,
}

/// The rows of so many records and corrections, until `now`.
pub(crate) fn rows<'a>(
    sheets: &'a [Sheet],
    corrections: &'a [Corrected],
    account: &'a str,
    now: Timestamp,
) -> Vec<Row<'a>> {
    let is_due = |each: &&Corrected| each.correction.is_due(now, &each.zone);
    let corrections = corrections.iter().filter(is_due).map(|corrected| {
        let month = corrected.correction.month().bounds(&corrected.zone);
        let day = report::day(corrected.correction.date, &corrected.zone);
        Row::Correction(Correction {
            account,
            corrected,
            day: day.unwrap_or(month),
            month,
        })
    });
    let charges = charges(sheets, account, now).into_iter().map(Row::Charge);
    charges.chain(corrections).collect()
}

fn charges<'a>(sheets: &'a [Sheet], account: &'a str, now: Timestamp) -> Vec<Charge<'a>> {
    let of_sheet = |sheet: &'a Sheet| {
        let month = sheet.account.month.bounds(&sheet.zone);
        let lines = sheet.account.lines(now, &sheet.zone).into_iter();
        lines.flat_map(move |((date, sku), line)| {
            let day = report::day(date, &sheet.zone).unwrap_or(month);
            let charge = move |part: Part| Charge {
                account,
                sheet,
                sku: sku.clone(),
                part,
                cost: part.of(&line),
                gpu_seconds: line.gpu_seconds,
                day,
                month,
            };
            let rows = Part::ALL.map(charge).into_iter();
            rows.filter(|row| row.cost != Money::ZERO)
        })
    };
    sheets.iter().flat_map(of_sheet).collect()
}

impl Correction<'_> {
    fn spec(&self) -> &SpendCorrectionSpec {
        &self.corrected.object.spec
    }

    fn workload(&self) -> Option<WorkloadRef> {
        self.corrected.object.workload()
    }
}

impl Charge<'_> {
    fn kind(&self) -> WorkloadKind {
        self.sheet.record.spec.kind
    }

    fn namespace(&self) -> &str {
        &self.sheet.record.spec.namespace
    }

    fn name(&self) -> &str {
        &self.sheet.record.spec.name
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
