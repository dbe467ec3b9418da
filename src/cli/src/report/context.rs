//! What the formats of a report have in common.

use bursar_core::calendar::Month;
use jiff::Timestamp;

use super::cluster::ClusterSummary;
use super::revenue::RowEarnings;

/// A month of some namespaces.
pub(super) struct ReportContext<'a> {
    pub(super) month: Month,
    pub(super) currency: &'a str,
    pub(super) now: Timestamp,
    /// Whether any correction counts.
    pub(super) has_corrections: bool,
    /// What each row earned.
    pub(super) earned: Vec<Option<RowEarnings>>,
    pub(super) cluster: Option<&'a ClusterSummary>,
}
