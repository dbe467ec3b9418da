//! The report as CSV and JSON, with all digits.

use bursar_core::calendar::Month;
use bursar_core::cost_report::{Dimension, Report};
use bursar_core::ledger::DailyCost;
use bursar_core::money::Money;
use jiff::Timestamp;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::cluster::{self, ClusterSummary};
use super::columns::{earnings, line_columns, net};
use super::context::ReportContext;
use super::error::Error;
use super::revenue::{self, RowEarnings};

/// A header and a line for each row; each has the month and the currency.
pub(super) fn csv(report: &Report, context: &ReportContext) -> Result<Vec<u8>, Error> {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let failed = |error: ::csv::Error| Error::Write {
        to: "CSV".into(),
        why: error.to_string(),
    };
    let figures = |line: &DailyCost, corrections, earned| {
        let all = line_columns(line).into_iter().chain(net(line, corrections));
        all.chain(earnings(earned))
    };
    let names = figures(&DailyCost::default(), Money::ZERO, None).map(|(name, _)| name);
    let header = ["month", "currency"]
        .into_iter()
        .chain(report.by.iter().map(|by| by.as_str()))
        .chain(names);
    writer.write_record(header).map_err(failed)?;
    for (row, earned) in report.rows.iter().zip(&context.earnings) {
        let key = row
            .key
            .iter()
            .map(|value| value.clone().unwrap_or_default());
        let record = [context.month.to_string(), context.currency.to_owned()]
            .into_iter()
            .chain(key)
            .chain(figures(&row.line, row.corrections, *earned).map(|(_, figure)| figure.text()));
        writer.write_record(record).map_err(failed)?;
    }
    writer.into_inner().map_err(|error| Error::Write {
        to: "CSV".into(),
        why: error.to_string(),
    })
}

/// A row in JSON: its key, and its values.
struct JsonRow<'a> {
    by: &'a [Dimension],
    key: &'a [Option<String>],
    line: &'a DailyCost,
    corrections: Money,
    earned: Option<RowEarnings>,
}

impl Serialize for JsonRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (by, value) in self.by.iter().zip(self.key) {
            map.serialize_entry(by.as_str(), value)?;
        }
        let figures = line_columns(self.line).into_iter();
        let net = net(self.line, self.corrections);
        for (name, figure) in figures.chain(net).chain(earnings(self.earned)) {
            map.serialize_entry(name, &figure)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonReport<'a> {
    month: Month,
    /// The currency; `None` where there is no record.
    currency: Option<&'a str>,
    as_of: Timestamp,
    rows: Vec<JsonRow<'a>>,
    total: JsonRow<'a>,
    /// The bill of the cluster; only with all namespaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<cluster::Json>,
}

/// A document with all rows and their sum.
pub(super) fn json(report: &Report, context: &ReportContext) -> Result<Vec<u8>, Error> {
    let row = |key, line, corrections, earned| JsonRow {
        by: &report.by,
        key,
        line,
        corrections,
        earned,
    };
    let rows = report.rows.iter().zip(&context.earnings);
    let document = JsonReport {
        month: context.month,
        currency: Some(context.currency).filter(|code| !code.is_empty()),
        as_of: context.now,
        rows: rows
            .map(|(each, earned)| row(&each.key, &each.line, each.corrections, *earned))
            .collect(),
        total: row(
            &[],
            &report.total,
            report.corrections,
            revenue::sum(&context.earnings),
        ),
        cluster: context.cluster.map(ClusterSummary::json),
    };
    let mut bytes = serde_json::to_vec_pretty(&document).map_err(|error| Error::Write {
        to: "JSON".into(),
        why: error.to_string(),
    })?;
    bytes.push(b'\n');
    Ok(bytes)
}
