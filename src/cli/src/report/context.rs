//! The context of a report that its formats share.

use bursar_core::calendar::Month;
use jiff::Timestamp;

use super::cluster::ClusterSummary;
use super::revenue::RowEarnings;

/// The month, currency and time of a report, and what its rows have in addition to costs.
pub(super) struct ReportContext<'a> {
    pub(super) month: Month,
    pub(super) currency: &'a str,
    pub(super) now: Timestamp,
    /// True if any correction counts.
    pub(super) has_corrections: bool,
    /// Revenue and margin of each row.
    pub(super) earnings: Vec<Option<RowEarnings>>,
    pub(super) cluster: Option<&'a ClusterSummary>,
}
