//! What kept a workload from what its demand asks for.

use serde::{Deserialize, Serialize};

/// What kept a workload from what its demand asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitedBy {
    /// A budget.
    Budget,
    /// A workload of higher priority, which waits for the money or the GPUs.
    Preempted,
    /// A price that is not known, in a namespace with a budget.
    PriceUnknown,
    /// `maxReplicas`.
    MaxReplicas,
    /// `minReplicas`.
    MinReplicas,
    /// Another number within the stabilization window, or a burst.
    Stabilization,
    /// A policy of `scaling.behavior`.
    ScalingPolicy,
    /// The minimum or the maximum of a schedule.
    Schedule,
    /// A signal that cannot be read.
    Signal,
    /// It is paused, alone or with its namespace or the cluster.
    Paused,
    /// Room on the nodes.
    Capacity,
    /// The queue.
    Queue,
    /// `spec.suspend`.
    Suspended,
}

impl LimitedBy {
    /// The word that statuses and metrics show.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "Budget",
            Self::Preempted => "Preempted",
            Self::PriceUnknown => "PriceUnknown",
            Self::MaxReplicas => "MaxReplicas",
            Self::MinReplicas => "MinReplicas",
            Self::Stabilization => "Stabilization",
            Self::ScalingPolicy => "ScalingPolicy",
            Self::Schedule => "Schedule",
            Self::Signal => "Signal",
            Self::Paused => "Paused",
            Self::Capacity => "Capacity",
            Self::Queue => "Queue",
            Self::Suspended => "Suspended",
        }
    }
}
