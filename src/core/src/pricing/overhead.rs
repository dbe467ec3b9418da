//! Monthly overheads, which are paid whether or not a pod runs.

use crate::money::Money;

/// An amount that is paid every month, shared by the workloads that ran in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overhead {
    /// Its name.
    pub name: String,
    /// The category that it is reported as.
    pub part: OverheadCategory,
    /// Money a calendar month.
    pub per_month: Money,
    /// How it is shared.
    pub share_by: ShareBy,
}

/// The category that an overhead is reported as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverheadCategory {
    /// People.
    Labour,
    /// Licences, support, rent, and the like.
    Other,
}

/// How an overhead is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareBy {
    /// By GPU-hours.
    GpuHours,
    /// By money spent.
    Cost,
    /// The same for each namespace.
    Evenly,
}
