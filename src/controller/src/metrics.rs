//! What the controller measures: itself, with labels from closed sets, and the workloads and budgets that it decides over, whose
//! series end with them.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use bursar_api::spend::WorkloadRef;
use bursar_core::money::Money;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::lock::lock;

/// How a reconcile ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Result {
    /// `ok`, `conflict` or `error`.
    pub(crate) result: &'static str,
}

/// What became of a SpendRecord of a month that is over.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Closed {
    /// `folded`, `removed` or `failed`.
    pub(crate) outcome: &'static str,
}

/// What limited a decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Limit {
    /// A word of `limitedBy`, or `None`.
    pub(crate) limited_by: &'static str,
}

/// A workload, a budget or a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub(crate) struct Object {
    pub(crate) namespace: String,
    pub(crate) kind: &'static str,
    pub(crate) name: String,
}

impl From<&WorkloadRef> for Object {
    fn from(workload: &WorkloadRef) -> Self {
        Self {
            namespace: workload.namespace.clone(),
            kind: workload.kind.as_str(),
            name: workload.name.clone(),
        }
    }
}

/// A kind of GPU that nodes have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub(crate) struct Hardware {
    /// Product name, and the part of it that one unit is.
    pub(crate) gpu: String,
}

type Gauges<Of> = Family<Of, Gauge<f64, AtomicU64>>;
/// Series by figure.
type Shown<Of> = Vec<(&'static str, Of)>;

/// Figures of objects, all of them gauges.
#[derive(Debug, Clone)]
pub(crate) struct NamespaceGauges<Of: Label> {
    families: BTreeMap<&'static str, Gauges<Of>>,
    /// What is shown of each namespace.
    shown: Arc<Mutex<BTreeMap<String, Shown<Of>>>>,
}

/// What figures are about.
pub(crate) trait Label:
    EncodeLabelSet + Clone + std::fmt::Debug + std::hash::Hash + Eq + Send + Sync + 'static
{
}
impl Label for Object {}
impl Label for Hardware {}

/// The figures that there are, and what they mean.
const FIGURES: [(&str, &str); 19] = [
    (SPEND_MONTH, "Money that a workload has cost this month"),
    (SPEND_RATE, "Money an hour that a workload costs now"),
    (COMPUTE_MONTH, "The part of it for machines and their GPUs"),
    (STORAGE_MONTH, "The part of it for volumes"),
    (POWER_MONTH, "The part of it for electricity"),
    (
        WASTE_MONTH,
        "The part of it while replicas were starting, idle or draining",
    ),
    (
        CORRECTIONS_MONTH,
        "Money that corrections add to a namespace's spend of this month, or take away",
    ),
    (
        UNATTRIBUTED_MONTH,
        "Money for time on nodes that were lost, beside it",
    ),
    (
        OVERHEAD_MONTH,
        "Its share of the monthly overheads that are due, beside it",
    ),
    (
        SAVED_MONTH,
        "Money that one replica would have cost while the service rested at zero this month",
    ),
    (GPU_HOURS_MONTH, "Physical GPUs times hours of this month"),
    (CARBON_MONTH, "Kilograms of CO2 equivalent of this month"),
    (QUEUE_DEPTH, "Requests waiting, running and held"),
    (HELD, "Requests that gateways hold"),
    (DESIRED, "Replicas that the demand asks for"),
    (ALLOWED, "Replicas that budgets leave"),
    (BUDGET_LIMIT, "Money that a budget has for its period"),
    (
        BUDGET_SPENT,
        "Money of a budget that is spent in its period",
    ),
    (
        BUDGET_RESERVE,
        "What stopping everything of a budget would still cost",
    ),
];
/// The figures of nodes.
const NODE_FIGURES: [(&str, &str); 3] = [
    (NODE_COST_MONTH, "Money that nodes have cost this month"),
    (
        IDLE_COST_MONTH,
        "The part of it that no pod held; below zero where pods pay more than the nodes cost",
    ),
    (
        IDLE_GPU_HOURS_MONTH,
        "Physical GPUs times hours of this month that no pod held",
    ),
];
pub(crate) const SPEND_MONTH: &str = "bursar_spend_month_to_date";
pub(crate) const SPEND_RATE: &str = "bursar_spend_rate_per_hour";
pub(crate) const COMPUTE_MONTH: &str = "bursar_spend_compute_month_to_date";
pub(crate) const STORAGE_MONTH: &str = "bursar_spend_storage_month_to_date";
pub(crate) const POWER_MONTH: &str = "bursar_spend_power_month_to_date";
pub(crate) const WASTE_MONTH: &str = "bursar_spend_waste_month_to_date";
pub(crate) const CORRECTIONS_MONTH: &str = "bursar_corrections_month_to_date";
pub(crate) const UNATTRIBUTED_MONTH: &str = "bursar_spend_unattributed_month_to_date";
pub(crate) const OVERHEAD_MONTH: &str = "bursar_spend_overhead_month_to_date";
pub(crate) const NODE_COST_MONTH: &str = "bursar_node_cost_month_to_date";
pub(crate) const IDLE_COST_MONTH: &str = "bursar_idle_cost_month_to_date";
pub(crate) const IDLE_GPU_HOURS_MONTH: &str = "bursar_idle_gpu_hours_month_to_date";
pub(crate) const SAVED_MONTH: &str = "bursar_spend_saved_month_to_date";
pub(crate) const GPU_HOURS_MONTH: &str = "bursar_gpu_hours_month_to_date";
pub(crate) const CARBON_MONTH: &str = "bursar_carbon_kilograms_month_to_date";
pub(crate) const QUEUE_DEPTH: &str = "bursar_queue_depth";
pub(crate) const HELD: &str = "bursar_held_requests";
pub(crate) const DESIRED: &str = "bursar_replicas_desired";
pub(crate) const ALLOWED: &str = "bursar_replicas_allowed";
pub(crate) const BUDGET_LIMIT: &str = "bursar_budget_limit";
pub(crate) const BUDGET_SPENT: &str = "bursar_budget_spent";
pub(crate) const BUDGET_RESERVE: &str = "bursar_budget_reserve";

impl<Of: Label> NamespaceGauges<Of> {
    fn new(registry: &mut Registry, figures: &[(&'static str, &'static str)]) -> Self {
        let mut families = BTreeMap::new();
        for (name, help) in figures {
            let family = Gauges::<Of>::default();
            registry.register(*name, *help, family.clone());
            families.insert(*name, family);
        }
        Self {
            families,
            shown: Arc::default(),
        }
    }

    /// Shows these figures of a namespace, and none that were shown before and are not among them. An unknown figure has no series:
    /// it is not zero.
    pub(crate) fn show(&self, namespace: &str, figures: Vec<(&'static str, Of, Option<f64>)>) {
        let known: Vec<_> = figures
            .into_iter()
            .filter_map(|(figure, object, value)| Some((figure, object, value?)))
            .collect();
        let now: Vec<_> = known
            .iter()
            .map(|(figure, object, _)| (*figure, object.clone()))
            .collect();
        let before = lock(&self.shown)
            .insert(namespace.to_owned(), now.clone())
            .unwrap_or_default();
        for (figure, object) in before.iter().filter(|series| !now.contains(series)) {
            if let Some(family) = self.families.get(figure) {
                family.remove(object);
            }
        }
        for (figure, object, value) in known {
            if let Some(family) = self.families.get(figure) {
                family.get_or_create(&object).set(value);
            }
        }
    }
}

#[cfg(test)]
impl<Of: Label> NamespaceGauges<Of> {
    /// What is shown of one figure now.
    pub(crate) fn values(&self, figure: &str) -> Vec<f64> {
        let shown = lock(&self.shown);
        let series = shown.values().flatten();
        let series = series.filter(|(name, _)| *name == figure);
        series
            .map(|(name, of)| self.families[name].get_or_create(of).get())
            .collect()
    }
}

/// An amount as a figure, which need not be exact.
pub(crate) fn figure(amount: Money) -> f64 {
    amount.nanos() as f64 / 1e9
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
    /// SpendRecords of months that are over, by what became of them.
    pub(crate) closed: Family<Closed, Counter>,
    /// 1 while this replica leads.
    pub(crate) leading: Gauge,
    /// Figures of workloads and budgets.
    pub(crate) figures: NamespaceGauges<Object>,
    /// Figures of nodes by kind of GPU.
    pub(crate) nodes: NamespaceGauges<Hardware>,
}

impl Metrics {
    /// Metrics in `registry`.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciles: Family::default(),
            reconcile_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            decisions: Family::default(),
            wake_seconds: Histogram::new(exponential_buckets(0.005, 2.0, 14)),
            closed: Family::default(),
            leading: Gauge::default(),
            figures: NamespaceGauges::new(registry, &FIGURES),
            nodes: NamespaceGauges::new(registry, &NODE_FIGURES),
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
            "bursar_closed_records",
            "SpendRecords of months that are over, by what became of them",
            metrics.closed.clone(),
        );
        registry.register(
            "bursar_leading",
            "1 while this replica leads",
            metrics.leading.clone(),
        );
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_not_known_any_more_has_no_series() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let chat = || Object {
            namespace: "team".into(),
            kind: "InferenceDeployment",
            name: "chat".into(),
        };
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        let series = r#"bursar_spend_month_to_date{namespace="team",kind="InferenceDeployment",name="chat"}"#;
        metrics.figures.show(
            "team",
            vec![
                (SPEND_MONTH, chat(), Some(1.5)),
                (QUEUE_DEPTH, chat(), None),
            ],
        );
        assert!(text().contains(&format!("{series} 1.5")), "{}", text());
        assert!(
            !text().contains("bursar_queue_depth{"),
            "unknown is not zero"
        );
        metrics.figures.show("other", Vec::new());
        assert!(text().contains(series));
        metrics.figures.show("team", Vec::new());
        assert!(!text().contains(series));
    }
}
