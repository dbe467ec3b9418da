//! Arguments of `report`.

use std::path::PathBuf;

use bursar_core::calendar::Month;
use bursar_core::cost_report::Dimension;
use clap::{Args, ValueEnum};

use crate::focus;
use crate::output_file::OutputFileArgs;
use crate::spend_records::Scope;

/// Arguments of `report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Month, such as 2026-11, in the records' time zone [default: this month].
    #[arg(long)]
    pub(super) month: Option<Month>,
    /// Columns to group rows by: namespace, workload, gpu, capacity, region, day, owner. FOCUS has
    /// rows of its own.
    #[arg(long, value_delimiter = ',', default_value = "namespace,workload")]
    pub(super) by: Vec<Dimension>,
    #[command(flatten)]
    pub(super) scope: Scope,
    /// Show requests, tokens and their cost in the table, in place of the components of the cost.
    /// CSV and JSON always have them.
    #[arg(long)]
    pub(super) units: bool,
    /// Format of the report.
    #[arg(short, long, value_enum, default_value_t)]
    pub(super) output: OutputFormat,
    /// Version of FOCUS.
    #[arg(long, value_enum, default_value_t)]
    pub(super) focus_version: focus::Version,
    /// FOCUS's BillingAccountId [default: the UID of namespace kube-system, which identifies the
    /// cluster].
    #[arg(long)]
    pub(super) billing_account: Option<String>,
    #[command(flatten)]
    pub(super) output_file: OutputFileArgs,
    /// Read a backup of the ledger instead of the cluster.
    #[arg(long, value_name = "BACKUP")]
    pub(super) from: Option<PathBuf>,
    /// Add the PriceLists' monthly overheads as labour, shared over all namespaces. The current
    /// month has the elapsed part of them.
    #[arg(long, conflicts_with = "from")]
    pub(super) overheads: bool,
    /// Leave out records that cannot be read, with a warning.
    #[arg(long)]
    pub(super) skip_unreadable: bool,
}

/// A format of reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// A table, with amounts rounded to the currency's digits.
    #[default]
    Table,
    /// CSV, exact, with a header.
    Csv,
    /// JSON, exact, with the sum.
    Json,
    /// FOCUS, as CSV.
    FocusCsv,
    /// FOCUS, as Parquet.
    FocusParquet,
}

impl OutputFormat {
    pub(super) fn is_focus(self) -> bool {
        matches!(self, Self::FocusCsv | Self::FocusParquet)
    }
}
