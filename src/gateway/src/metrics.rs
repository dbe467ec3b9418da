//! What the gateway counts. Labels are closed sets; services are not labels.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// How a request ended here.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabel {
    /// `forwarded`, or why it was refused.
    pub(crate) outcome: &'static str,
}

/// The metrics.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Requests that wait now.
    pub(crate) held: Gauge,
    /// Requests that are being forwarded now.
    pub(crate) in_flight: Gauge,
    /// How long requests waited, in seconds.
    pub(crate) hold_seconds: Histogram,
    /// Requests by how they ended.
    pub(crate) requests: Family<OutcomeLabel, Counter>,
    /// Replicas that were tried anew because the first did not answer.
    pub(crate) retries: Counter,
    /// Ports that could not be opened.
    pub(crate) closed_ports: Gauge,
}

impl Metrics {
    /// Metrics in `registry`.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            held: Gauge::default(),
            in_flight: Gauge::default(),
            hold_seconds: Histogram::new(exponential_buckets(0.01, 2.0, 16)),
            requests: Family::default(),
            retries: Counter::default(),
            closed_ports: Gauge::default(),
        };
        registry.register(
            "bursar_gateway_held_requests",
            "Requests that wait for a replica",
            metrics.held.clone(),
        );
        registry.register(
            "bursar_gateway_in_flight_requests",
            "Requests that are being forwarded",
            metrics.in_flight.clone(),
        );
        registry.register(
            "bursar_gateway_hold_seconds",
            "How long requests waited for a replica",
            metrics.hold_seconds.clone(),
        );
        registry.register(
            "bursar_gateway_requests",
            "Requests by how they ended here",
            metrics.requests.clone(),
        );
        registry.register(
            "bursar_gateway_retries",
            "Requests that were sent to another replica",
            metrics.retries.clone(),
        );
        registry.register(
            "bursar_gateway_closed_ports",
            "Ports of services that could not be opened",
            metrics.closed_ports.clone(),
        );
        metrics
    }
}
