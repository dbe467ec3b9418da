//! FOCUS, the FinOps Open Cost and Usage Specification (<https://focus.finops.org>), versions 1.2
//! and 1.0.
//!
//! One row for each day, workload, kind of hardware and part of the cost that is not zero, and one
//! for each correction. Bursar is the provider, the cluster the billing account, the namespace the
//! sub account and the workload the resource. A file of the whole cluster has rows of idle nodes,
//! of no sub account, and of time on lost nodes too, and so sums to the cluster's bill with its
//! corrections.
//!
//! | module | subject |
//! |---|---|
//! | `columns` | the columns, and their values |
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

use crate::client::api_error;
use crate::spend_corrections::LoadedCorrection;
use crate::spend_records::LoadedAccount;

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
enum CostComponent {
    Compute,
    Storage,
    Power,
    Labour,
}

impl CostComponent {
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

/// The source of a row's cost.
#[derive(Debug, Clone, Copy)]
enum ChargeSource<'a> {
    /// The pods of the record's workload.
    Pods(&'a LoadedAccount),
    /// Its share of the monthly overheads.
    Overhead(&'a LoadedAccount),
    /// Its pods on nodes that were lost.
    Lost(&'a LoadedAccount),
    /// Idle nodes. The record is that of a node.
    Idle(&'a LoadedAccount),
    /// A credit or an adjustment.
    Correction(&'a LoadedCorrection),
}

/// A row of a FOCUS file.
#[derive(Debug, Clone)]
pub(crate) struct FocusRow<'a> {
    /// Who pays: the cluster.
    billing_account: &'a str,
    source: ChargeSource<'a>,
    sku: CostKey,
    /// The component of the cost; a correction has none.
    component: Option<CostComponent>,
    cost: Money,
    gpu_seconds: i64,
    /// The day, or what is over of the month.
    period: Interval,
    month: Interval,
}

/// The rows of so many records, until `now`.
pub(crate) fn usage_rows<'a>(
    accounts: &'a [LoadedAccount],
    billing_account: &'a str,
    now: Timestamp,
) -> Vec<FocusRow<'a>> {
    let account_rows = |loaded: &'a LoadedAccount| {
        let lines = loaded.account.daily_costs(now, &loaded.zone).into_iter();
        lines.flat_map(move |((date, sku), line)| {
            component_rows(
                day_row(
                    billing_account,
                    ChargeSource::Pods(loaded),
                    date,
                    &loaded.zone,
                ),
                sku,
                line,
            )
        })
    };
    accounts.iter().flat_map(account_rows).collect()
}

/// The rows of each workload's share of the monthly overheads, until `now`.
pub(crate) fn overhead_rows<'a>(
    accounts: &'a [LoadedAccount],
    borne: &[(CostOwner, Date, DailyCost)],
    billing_account: &'a str,
    now: Timestamp,
) -> Vec<FocusRow<'a>> {
    let mut shares: BTreeMap<&CostOwner, Money> = BTreeMap::new();
    for (holder, _, line) in borne {
        *shares.entry(holder).or_default() += line.cost.labour;
    }
    shares.retain(|_, share| *share != Money::ZERO);
    let owner_row = |(holder, cost): (&CostOwner, Money)| {
        let loaded = accounts.iter().find(|loaded| loaded.owner == *holder)?;
        let month = loaded.account.month().bounds(&loaded.zone);
        Some(FocusRow {
            billing_account,
            source: ChargeSource::Overhead(loaded),
            sku: CostKey::default(),
            component: Some(CostComponent::Labour),
            cost,
            gpu_seconds: 0,
            period: month.split(now).0,
            month,
        })
    };
    shares.into_iter().filter_map(owner_row).collect()
}

/// The rows of time on lost nodes, until `now`. It has a cost as a whole, which is mostly the
/// machines'.
pub(crate) fn unattributed_rows<'a>(
    accounts: &'a [LoadedAccount],
    billing_account: &'a str,
    now: Timestamp,
) -> Vec<FocusRow<'a>> {
    let account_rows = |loaded: &'a LoadedAccount| {
        let lines = loaded.account.daily_costs(now, &loaded.zone).into_iter();
        let lost = lines.filter(|(_, line)| line.unattributed != Money::ZERO);
        lost.map(move |((date, sku), line)| FocusRow {
            sku,
            cost: line.unattributed,
            ..day_row(
                billing_account,
                ChargeSource::Lost(loaded),
                date,
                &loaded.zone,
            )
        })
    };
    accounts.iter().flat_map(account_rows).collect()
}

/// The rows of idle nodes. `nodes` are the accounts of nodes of one month.
pub(crate) fn idle_rows<'a>(
    nodes: &'a [LoadedAccount],
    bill: &ClusterBill,
    billing_account: &'a str,
) -> Vec<FocusRow<'a>> {
    let Some(loaded) = nodes.first() else {
        return Vec::new();
    };
    let idle_row = |(date, sku, line): (Date, &CostKey, DailyCost)| {
        let row = day_row(
            billing_account,
            ChargeSource::Idle(loaded),
            date,
            &loaded.zone,
        );
        component_rows(row, sku.clone(), line)
    };
    bill.idle().flat_map(idle_row).collect()
}

/// The rows of corrections.
pub(crate) fn correction_rows<'a>(
    corrections: &'a [LoadedCorrection],
    billing_account: &'a str,
) -> impl Iterator<Item = FocusRow<'a>> {
    corrections.iter().map(move |corrected| {
        let (source, correction) = (ChargeSource::Correction(corrected), &corrected.correction);
        FocusRow {
            component: None,
            cost: correction.amount,
            ..day_row(billing_account, source, correction.date, &corrected.zone)
        }
    })
}

/// A row of compute.
fn day_row<'a>(
    billing_account: &'a str,
    source: ChargeSource<'a>,
    date: Date,
    zone: &TimeZone,
) -> FocusRow<'a> {
    let month = Month::containing_date(date).bounds(zone);
    FocusRow {
        billing_account,
        source,
        sku: CostKey::default(),
        component: Some(CostComponent::Compute),
        cost: Money::ZERO,
        gpu_seconds: 0,
        period: cost_report::day_bounds(date, zone).unwrap_or(month),
        month,
    }
}

/// A row for each part of a line's cost that is not zero.
fn component_rows(
    row: FocusRow<'_>,
    sku: CostKey,
    line: DailyCost,
) -> impl Iterator<Item = FocusRow<'_>> {
    let component_row = move |component: CostComponent| FocusRow {
        component: Some(component),
        sku: sku.clone(),
        cost: component.of(&line),
        gpu_seconds: line.gpu_seconds,
        ..row.clone()
    };
    let rows = CostComponent::ALL.map(component_row).into_iter();
    rows.filter(|row| row.cost != Money::ZERO)
}

impl FocusRow<'_> {
    /// `None` for a namespace as a whole.
    fn kind(&self) -> Option<WorkloadKind> {
        match self.source {
            ChargeSource::Lost(_) | ChargeSource::Idle(_) => Some(WorkloadKind::Node),
            ChargeSource::Pods(loaded) | ChargeSource::Overhead(loaded) => {
                Some(loaded.record.spec.kind)
            }
            ChargeSource::Correction(corrected) => Some(corrected.object.workload()?.kind),
        }
    }

    /// The namespace; empty for idle nodes.
    fn namespace(&self) -> &str {
        match self.source {
            ChargeSource::Pods(loaded)
            | ChargeSource::Overhead(loaded)
            | ChargeSource::Lost(loaded)
            | ChargeSource::Idle(loaded) => &loaded.record.spec.namespace,
            ChargeSource::Correction(corrected) => &corrected.object.spec.namespace,
        }
    }

    /// The name of the workload; empty for a namespace as a whole.
    fn name(&self) -> &str {
        match self.source {
            ChargeSource::Lost(_) => "unattributed",
            ChargeSource::Idle(_) => "idle",
            ChargeSource::Pods(loaded) | ChargeSource::Overhead(loaded) => &loaded.record.spec.name,
            ChargeSource::Correction(corrected) => {
                let workload = corrected.object.spec.workload.as_ref();
                workload.map_or("", |workload| &workload.name)
            }
        }
    }

    fn currency(&self) -> &str {
        match self.source {
            ChargeSource::Pods(loaded)
            | ChargeSource::Overhead(loaded)
            | ChargeSource::Lost(loaded)
            | ChargeSource::Idle(loaded) => &loaded.record.spec.currency,
            ChargeSource::Correction(corrected) => &corrected.object.spec.currency,
        }
    }

    /// The correction's spec, if the row is one.
    fn correction(&self) -> Option<&SpendCorrectionSpec> {
        match self.source {
            ChargeSource::Correction(corrected) => Some(&corrected.object.spec),
            _ => None,
        }
    }

    /// Corrections are none, and neither is it one where pods paid more than their nodes cost.
    fn is_usage(&self) -> bool {
        self.component.is_some() && self.cost >= Money::ZERO
    }
}

/// The cluster's identity: the UID of namespace kube-system, since Kubernetes has none of its own.
pub(crate) async fn cluster_id(client: &Client) -> Result<String, Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let found = namespaces.get_metadata("kube-system").await;
    let found = found.map_err(|error| Error::Cluster(api_error(&error)))?;
    found
        .uid()
        .ok_or_else(|| Error::Cluster("it has no UID".into()))
}
