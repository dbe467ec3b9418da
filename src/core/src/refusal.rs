//! The reasons for refusing a request to a service.

use std::fmt;
use std::str::FromStr;

/// The reason for refusing a request.
///
/// The controller decides the first six, before the request comes, and writes them into the service's status; the gateway
/// decides the others. Only the gateway knows how a reason looks in HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalReason {
    /// A budget does not pay for a replica.
    BudgetExhausted,
    /// The price of a replica, or the money spent so far, is unknown, so no budget can admit a replica.
    PriceUnknown,
    /// Pods of the service exist and cannot start.
    StartFailed,
    /// The service has no replica, and `activation.mode` is `Never`.
    ActivationNever,
    /// The service has no replica and is paused, alone or with its namespace or the cluster.
    ScalingPaused,
    /// The service has no replica, and a schedule lets it have none.
    ScheduledToZero,
    /// The hold queue of the service is full.
    QueueFull,
    /// No replica was ready within `activation.holdTimeout`.
    HoldTimeout,
    /// The service was deleted.
    ServiceDeleted,
    /// The body of the request is larger than a held request may have.
    BodyTooLarge,
    /// The body of the request broke off.
    BodyIncomplete,
    /// The body of the request did not arrive in time.
    BodyTimeout,
    /// The request asks for a tunnel, which no service has.
    MethodNotAllowed,
    /// The request has several `Host` headers, or one that is no host.
    InvalidHost,
    /// The gateway shuts down.
    GatewayShutdown,
    /// Replicas broke the connection before they answered.
    ReplicaFailed,
    /// No replica is ready, and the request wakes none: it needs no model, or its path is not among
    /// those that do.
    NoModelNeeded,
    /// A replica did not begin its answer in time.
    ReplicaTimeout,
    /// The service's own rule, or the NetworkPolicies of its replicas, do not name the client.
    CallerNotAllowed,
    /// It is not known whether the client may reach the service.
    CallerUnknown,
    /// Requests have woken the service as often as they may.
    WakeLimit,
}

impl RefusalReason {
    /// All reasons.
    pub const ALL: [Self; 21] = [
        Self::BudgetExhausted,
        Self::PriceUnknown,
        Self::StartFailed,
        Self::ActivationNever,
        Self::ScalingPaused,
        Self::ScheduledToZero,
        Self::QueueFull,
        Self::HoldTimeout,
        Self::ServiceDeleted,
        Self::BodyTooLarge,
        Self::BodyIncomplete,
        Self::BodyTimeout,
        Self::MethodNotAllowed,
        Self::InvalidHost,
        Self::GatewayShutdown,
        Self::ReplicaFailed,
        Self::NoModelNeeded,
        Self::ReplicaTimeout,
        Self::CallerNotAllowed,
        Self::CallerUnknown,
        Self::WakeLimit,
    ];

    /// The reason's name, as it is written into statuses.
    pub fn name(self) -> &'static str {
        match self {
            Self::BudgetExhausted => "BudgetExhausted",
            Self::PriceUnknown => "PriceUnknown",
            Self::StartFailed => "StartFailed",
            Self::ActivationNever => "ActivationNever",
            Self::ScalingPaused => "ScalingPaused",
            Self::ScheduledToZero => "ScheduledToZero",
            Self::QueueFull => "QueueFull",
            Self::HoldTimeout => "HoldTimeout",
            Self::ServiceDeleted => "ServiceDeleted",
            Self::BodyTooLarge => "BodyTooLarge",
            Self::BodyIncomplete => "BodyIncomplete",
            Self::BodyTimeout => "BodyTimeout",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::InvalidHost => "InvalidHost",
            Self::GatewayShutdown => "GatewayShutdown",
            Self::ReplicaFailed => "ReplicaFailed",
            Self::NoModelNeeded => "NoModelNeeded",
            Self::ReplicaTimeout => "ReplicaTimeout",
            Self::CallerNotAllowed => "CallerNotAllowed",
            Self::CallerUnknown => "CallerUnknown",
            Self::WakeLimit => "WakeLimit",
        }
    }
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that is no reason's: a newer version wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a reason for refusing a request")]
pub struct UnknownReason(pub String);

impl FromStr for RefusalReason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|reason| reason.name() == text);
        found.ok_or_else(|| UnknownReason(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_is_listed_once_and_is_read_from_its_name() {
        let names: BTreeSet<&str> = RefusalReason::ALL.map(RefusalReason::name).into();
        assert_eq!(names.len(), RefusalReason::ALL.len());
        // the last reason in declaration order: ALL has no gap
        assert_eq!(RefusalReason::WakeLimit as usize + 1, names.len());
        for reason in RefusalReason::ALL {
            assert_eq!(reason.name().parse(), Ok(reason));
            assert_eq!(reason.name(), format!("{reason:?}"));
        }
        assert!("Later".parse::<RefusalReason>().is_err());
    }
}
