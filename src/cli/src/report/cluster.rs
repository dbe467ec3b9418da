//! The bill of the whole cluster, which a report of all namespaces includes.

use bursar_core::cluster_bill::ClusterBill;
use bursar_core::cost_report::{CostOwner, Dimension, Report, ReportEntry, ReportRow, report};
use bursar_core::ledger::DailyCost;
use bursar_core::money::Money;
use serde::Serialize;

use super::columns::exact_hours;
use crate::format::amounts::{cost_amount, hours};
use crate::format::table::table;

/// The bill, and what of it is known.
pub(crate) struct ClusterSummary {
    pub(crate) bill: ClusterBill,
    /// True if the report includes overheads.
    pub(crate) overheads: bool,
}

impl ClusterSummary {
    /// Idle nodes, grouped as a report is; `None` where rows are grouped by what idle nodes do not
    /// have, such as a namespace, or where no node has an account.
    pub(super) fn idle(&self, by: &[Dimension]) -> Option<Report> {
        if !self.bill.has_nodes() || !by.iter().all(|by| by.applies_to_nodes()) {
            return None;
        }
        let nobody = CostOwner {
            namespace: String::new(),
            workload: String::new(),
        };
        let entries = self.bill.idle().map(|(date, sku, line)| ReportEntry {
            owner: &nobody,
            date,
            cost_key: sku.clone(),
            cost: line,
            corrections: Money::ZERO,
        });
        Some(report(entries, by))
    }

    /// Adds rows for hardware that was idle only.
    pub(super) fn add_idle_rows(&self, report: &mut Report) {
        let idle = self.idle(&report.by).map(|idle| idle.rows);
        for ReportRow { key, .. } in idle.unwrap_or_default() {
            if let Err(at) = report.rows.binary_search_by(|row| row.key.cmp(&key)) {
                let row = ReportRow {
                    key,
                    line: DailyCost::default(),
                    corrections: Money::ZERO,
                };
                report.rows.insert(at, row);
            }
        }
    }

    /// The bill as a table; with corrections, if any count.
    pub(super) fn text(&self, digits: usize, has_corrections: bool) -> String {
        let bill = &self.bill;
        let idle = bill.idle_sum();
        let amount = |line: &DailyCost| cost_amount(line, line.cost.total(), digits);
        let of = |line: &DailyCost| (amount(line), hours(line.gpu_seconds, 2));
        let mut rows = vec![
            ("workloads", of(&bill.workloads)),
            ("unmanaged", of(&bill.unmanaged)),
        ];
        rows.push(match bill.has_nodes() {
            true => ("idle", of(&idle)),
            false => ("idle", ("unknown".into(), "-".into())),
        });
        let only = |amount: Money| (amount.rounded(digits), "-".to_owned());
        if self.overheads {
            rows.push(("overhead", only(bill.overhead)));
        }
        rows.push(("unattributed", only(bill.unattributed())));
        let all = [bill.workloads, bill.unmanaged, idle];
        let lacks = !bill.has_nodes() || all.iter().any(|line| line.unpriced_gpu_seconds != 0);
        let more = if lacks { "+" } else { "" };
        let sum = |amount: Money| format!("{}{more}", amount.rounded(digits));
        let stood: i64 = all.iter().map(|line| line.gpu_seconds).sum();
        rows.push(("total", (sum(bill.total()), hours(stood, 2))));
        if has_corrections {
            rows.push(("corrections", only(bill.corrections)));
            rows.push(("net", (sum(bill.net()), "-".to_owned())));
        }
        let titles = ["CLUSTER", "AMOUNT", "GPU-HOURS"].map(str::to_owned);
        let rows: Vec<_> = rows
            .into_iter()
            .map(|(name, (amount, hours))| vec![name.to_owned(), amount, hours])
            .collect();
        table(&titles, &rows, 1, None)
    }

    /// The bill in JSON.
    pub(super) fn json(&self) -> Json {
        let bill = &self.bill;
        let idle = bill.idle_sum();
        let exact = |amount: Money| amount.rounded(9);
        let known = bill.has_nodes();
        let by = [Dimension::Gpu, Dimension::Capacity, Dimension::Region];
        let rows = self.idle(&by).map(|report| report.rows).unwrap_or_default();
        let hardware = rows.into_iter().map(|row| {
            let mut key = row.key.into_iter();
            let mut next = || key.next().flatten();
            IdleHardware {
                gpu: next(),
                capacity: next(),
                region: next(),
                idle: exact(row.line.cost.total()),
                idle_gpu_hours: exact_hours(row.line.gpu_seconds),
            }
        });
        Json {
            workloads: exact(bill.workloads.cost.total()),
            unmanaged: exact(bill.unmanaged.cost.total()),
            idle: known.then(|| exact(idle.cost.total())),
            overhead: self.overheads.then(|| exact(bill.overhead)),
            unattributed: exact(bill.unattributed()),
            total: exact(bill.total()),
            corrections: exact(bill.corrections),
            net: exact(bill.net()),
            nodes: known.then(|| exact(bill.nodes.cost.total())),
            idle_gpu_hours: known.then(|| exact_hours(idle.gpu_seconds)),
            unpriced_idle_gpu_hours: known.then(|| exact_hours(idle.unpriced_gpu_seconds)),
            hardware: hardware.collect(),
        }
    }
}

/// The cost of a row's idle nodes, rounded.
pub(super) fn idle_cell(idle: &Report, row: &ReportRow, digits: usize) -> String {
    let found = idle.rows.iter().find(|idle| idle.key == row.key);
    let line = found.map_or_else(DailyCost::default, |idle| idle.line);
    cost_amount(&line, line.cost.total(), digits)
}

/// The bill in JSON: decimal strings, and null for what is not known.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Json {
    workloads: String,
    unmanaged: String,
    idle: Option<String>,
    overhead: Option<String>,
    unattributed: String,
    total: String,
    corrections: String,
    net: String,
    nodes: Option<String>,
    idle_gpu_hours: Option<String>,
    unpriced_idle_gpu_hours: Option<String>,
    hardware: Vec<IdleHardware>,
}

/// Idle nodes of one kind of hardware.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IdleHardware {
    gpu: Option<String>,
    capacity: Option<String>,
    region: Option<String>,
    idle: String,
    idle_gpu_hours: String,
}
