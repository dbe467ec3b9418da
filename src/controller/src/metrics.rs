//! What the controller measures of itself. Labels are closed sets; objects are not labels.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// How a reconcile ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Result {
    /// `ok`, `conflict` or `error`.
    pub(crate) result: &'static str,
}

/// What limited a decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Limit {
    /// A word of `limitedBy`, or `None`.
    pub(crate) limited_by: &'static str,
}

/// The metrics.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Reconciles by how they ended.
    pub(crate) reconciles: Family<Result, Counter>,
    /// How long a reconcile takes, in seconds.
    pub(crate) reconcile_seconds: Histogram,
    /// Decisions over services by what limited them.
    pub(crate) decisions: Family<Limit, Counter>,
    /// From the first held request to the written Deployment, in seconds.
    pub(crate) wake_seconds: Histogram,
    /// 1 while this replica leads.
    pub(crate) leading: Gauge,
}

impl Metrics {
    /// Metrics in `registry`.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciles: Family::default(),
            reconcile_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            decisions: Family::default(),
            wake_seconds: Histogram::new(exponential_buckets(0.005, 2.0, 14)),
            leading: Gauge::default(),
        };
        registry.register(
            "bursar_reconciles",
            "Reconciles of namespaces by how they ended",
            metrics.reconciles.clone(),
        );
        registry.register(
            "bursar_reconcile_seconds",
            "How long a reconcile takes",
            metrics.reconcile_seconds.clone(),
        );
        registry.register(
            "bursar_decisions",
            "Decisions over services by what limited them",
            metrics.decisions.clone(),
        );
        let help = "From the first held request of a service at zero to the written Deployment";
        registry.register("bursar_wake_seconds", help, metrics.wake_seconds.clone());
        registry.register(
            "bursar_leading",
            "1 while this replica leads",
            metrics.leading.clone(),
        );
        metrics
    }
}
