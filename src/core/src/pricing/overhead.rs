//! Monthly overheads: what is paid whether or not a pod runs.

use crate::money::Money;

/// An amount that every month costs, spread over what ran in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overhead {
    /// What it is for.
    pub name: String,
    /// What it is reported as.
    pub part: OverheadPart,
    /// Money a calendar month.
    pub per_month: Money,
    /// How it is spread.
    pub share_by: ShareBy,
}

/// What an overhead is reported as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverheadPart {
    /// People.
    Labour,
    /// Licences, support, rent, and the like.
    Other,
}

/// How an overhead is spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareBy {
    /// By GPU-hours.
    GpuHours,
    /// By what was spent.
    Cost,
    /// The same for each namespace.
    Evenly,
}
