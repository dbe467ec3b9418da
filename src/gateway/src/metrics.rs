//! The gateway's metrics. Labels have few values; a service is one for its wakes alone, of a bounded number of services.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::service_key::ServiceKey;

/// The label of a finished request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabel {
    /// `forwarded`, or the reason for refusing the request.
    pub(crate) outcome: &'static str,
}

/// The label of an answer that was cut off.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CauseLabel {
    cause: &'static str,
}

impl CauseLabel {
    /// The client read nothing for too long.
    pub(crate) const CLIENT_STALLED: Self = Self {
        cause: "client_stalled",
    };
    /// The replica sent nothing for too long.
    pub(crate) const REPLICA_SILENT: Self = Self {
        cause: "replica_silent",
    };
}

/// The label of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ServiceLabel {
    namespace: String,
    name: String,
}

impl ServiceLabel {
    pub(crate) fn of((namespace, name): &ServiceKey) -> Self {
        Self {
            namespace: namespace.clone(),
            name: name.clone(),
        }
    }

    /// All services that have no series of their own.
    pub(crate) fn others() -> Self {
        Self {
            namespace: String::new(),
            name: String::new(),
        }
    }
}

/// The metrics. Clones share their values.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Requests that are held now.
    pub(crate) held: Gauge,
    /// Requests that are being forwarded now.
    pub(crate) in_flight: Gauge,
    /// Seconds from the complete body of a request until a replica took it.
    pub(crate) hold_seconds: Histogram,
    /// Finished requests, by outcome.
    pub(crate) requests: Family<OutcomeLabel, Counter>,
    /// Answers that were cut off in the middle, by cause.
    pub(crate) aborted_responses: Family<CauseLabel, Counter>,
    /// Times that requests woke a service.
    pub(crate) wakes: Family<ServiceLabel, Counter>,
    /// Attempts to connect or send to a replica that failed and were repeated.
    pub(crate) retries: Counter,
    /// Times that a replica was ejected because it failed.
    pub(crate) ejections: Counter,
    /// Ports of services that could not be opened.
    pub(crate) closed_ports: Gauge,
}

impl Metrics {
    /// Registers the metrics in `registry`.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            held: Gauge::default(),
            in_flight: Gauge::default(),
            hold_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 16)),
            requests: Family::default(),
            aborted_responses: Family::default(),
            wakes: Family::default(),
            retries: Counter::default(),
            ejections: Counter::default(),
            closed_ports: Gauge::default(),
        };
        registry.register(
            "bursar_gateway_held_requests",
            "Number of requests that the gateway holds now because no replica of their service is ready",
            metrics.held.clone(),
        );
        registry.register(
            "bursar_gateway_in_flight_requests",
            "Number of requests that the gateway is forwarding to replicas now",
            metrics.in_flight.clone(),
        );
        registry.register(
            "bursar_gateway_hold_seconds",
            "Time in seconds from the complete body of a request until a replica took it",
            metrics.hold_seconds.clone(),
        );
        registry.register(
            "bursar_gateway_requests",
            "Number of requests that the gateway has finished, by outcome: forwarded, or the reason for refusing them",
            metrics.requests.clone(),
        );
        registry.register(
            "bursar_gateway_aborted_responses",
            "Number of answers that the gateway cut off in the middle, by cause: the client read nothing or the replica sent nothing for too long",
            metrics.aborted_responses.clone(),
        );
        registry.register(
            "bursar_gateway_wakes",
            "Number of times that requests at this gateway woke a service without a ready replica; services beyond the first 1,000 are counted together without labels",
            metrics.wakes.clone(),
        );
        registry.register(
            "bursar_gateway_retries",
            "Number of failed attempts to connect or send to a replica, after which the request was tried again",
            metrics.retries.clone(),
        );
        registry.register(
            "bursar_gateway_ejections",
            "Number of times that a replica was left out for a while because it could not be connected to or broke off",
            metrics.ejections.clone(),
        );
        registry.register(
            "bursar_gateway_closed_ports",
            "Number of ports of services that the gateway should serve and could not open",
            metrics.closed_ports.clone(),
        );
        metrics
    }
}
