//! Revenue of services in a month by their terms, and margins.

use std::collections::BTreeMap;

use bursar_api::InferenceDeployment;
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_core::calendar::Interval;
use bursar_core::cost_report::{CostOwner, Dimension, Report, ReportRow};
use bursar_core::money::Money;
use bursar_core::unit_economics::RevenueTerms;
use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use crate::client::api_error;

/// Revenue terms of the services that have some.
pub(super) type RevenueTermsByOwner = BTreeMap<CostOwner, RevenueTerms>;

/// A row's revenue and margin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowEarnings {
    /// Revenue by use, and by the elapsed part of the month.
    pub(super) revenue: Money,
    /// `revenue` less the row's cost; `None` while a part of that is not known.
    pub(super) margin: Option<Money>,
}

/// True for a report that has a row for each workload: monthly terms are of a whole workload.
pub(super) fn is_by_workload(by: &[Dimension]) -> bool {
    let of_workload = |each: &Dimension| matches!(each, Dimension::Namespace | Dimension::Workload);
    by.contains(&Dimension::Workload) && by.iter().all(of_workload)
}

/// The revenue terms of the cluster's services.
pub(super) async fn list_terms(
    client: &Client,
    namespace: Option<&str>,
) -> Result<RevenueTermsByOwner, String> {
    let api: Api<InferenceDeployment> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let listed = api.list(&ListParams::default()).await;
    let services = listed.map_err(|error| api_error(&error))?.items;
    let of = |service: InferenceDeployment| {
        let workload = WorkloadRef {
            namespace: service.namespace()?,
            kind: WorkloadKind::InferenceDeployment,
            name: service.name_any(),
        };
        let terms = service.spec.revenue?.to_core();
        Some(terms.map(|terms| (workload.cost_owner(), terms)))
    };
    let revenue_terms: Result<RevenueTermsByOwner, _> =
        services.into_iter().filter_map(of).collect();
    revenue_terms.map_err(|error| error.to_string())
}

/// Revenue and margin of each row, in the elapsed part of `month`.
pub(super) fn row_earnings(
    report: &Report,
    revenue_terms: &RevenueTermsByOwner,
    month: Interval,
    now: Timestamp,
) -> Vec<Option<RowEarnings>> {
    let is_by_workload = is_by_workload(&report.by);
    let of = |row: &ReportRow| {
        let value = |dimension| {
            let at = report.by.iter().position(|each| *each == dimension)?;
            row.key.get(at)?.clone()
        };
        let holder = CostOwner {
            namespace: value(Dimension::Namespace)?,
            workload: value(Dimension::Workload)?,
        };
        let terms = revenue_terms.get(&holder).filter(|_| is_by_workload)?;
        let is_known = row.line.unpriced_gpu_seconds == 0;
        let revenue = terms.revenue(&row.line.usage, month, now).total();
        Some(RowEarnings {
            revenue,
            margin: is_known.then(|| revenue - row.line.cost.total()),
        })
    };
    report.rows.iter().map(of).collect()
}

/// The sum of the rows that have revenue; `None` if none has.
pub(super) fn sum(rows: &[Option<RowEarnings>]) -> Option<RowEarnings> {
    let rows = || rows.iter().flatten();
    rows().next()?;
    Some(RowEarnings {
        revenue: rows().map(|row| row.revenue).sum(),
        margin: rows().map(|row| row.margin).sum(),
    })
}
