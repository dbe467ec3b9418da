//! The controller's metrics: of itself, with labels from closed sets, and of workloads, budgets and
//! nodes, whose series end with them.

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

/// The result of a reconcile.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ResultLabel {
    /// `ok`, `conflict` or `error`.
    pub(crate) result: &'static str,
}

/// The outcome for a SpendRecord of a closed month.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct MonthCloseLabel {
    /// `folded`, `removed` or `failed`.
    pub(crate) outcome: &'static str,
}

/// The limit of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct LimitLabel {
    /// A word of `limitedBy`, or `None`.
    pub(crate) limited_by: &'static str,
}

/// Why an Event was not published.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DroppedEventLabel {
    /// `rate`, `queue` or `error`.
    pub(crate) cause: &'static str,
}

/// A workload, a budget or a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub(crate) struct ObjectLabels {
    pub(crate) namespace: String,
    pub(crate) kind: &'static str,
    pub(crate) name: String,
}

impl From<&WorkloadRef> for ObjectLabels {
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
pub(crate) struct HardwareLabels {
    /// Product name, and the part of it that one unit is.
    pub(crate) gpu: String,
}

/// The currency and the time zone of the accounts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AccountingLabels {
    currency: String,
    time_zone: String,
}

type Gauges<L> = Family<L, Gauge<f64, AtomicU64>>;
/// The series that are shown, by metric.
type ShownSeries<L> = Vec<(&'static str, L)>;

/// Gauges of the objects of each namespace, whose series end with the objects.
#[derive(Debug, Clone)]
pub(crate) struct NamespaceGauges<L: SeriesLabels> {
    families: BTreeMap<&'static str, Gauges<L>>,
    /// The series that are shown of each namespace.
    shown: Arc<Mutex<BTreeMap<String, ShownSeries<L>>>>,
}

/// The labels of one object's series.
pub(crate) trait SeriesLabels:
    EncodeLabelSet + Clone + std::fmt::Debug + std::hash::Hash + Eq + Send + Sync + 'static
{
}
impl SeriesLabels for ObjectLabels {}
impl SeriesLabels for HardwareLabels {}

/// A HELP text of an amount of money.
macro_rules! money {
    ($text:literal) => {
        concat!($text, ", in the currency of bursar_accounting_info")
    };
}

/// The gauges of workloads, budgets and namespaces, with their HELP texts.
const NAMESPACE_GAUGES: [(&str, &str); 19] = [
    (
        SPEND_MONTH,
        money!("Cost of a workload in the current month until now"),
    ),
    (SPEND_RATE, money!("Cost per hour of a workload at present")),
    (
        COMPUTE_MONTH,
        money!("Cost of a workload's machines and GPUs in the current month until now"),
    ),
    (
        STORAGE_MONTH,
        money!("Cost of a workload's volumes in the current month until now"),
    ),
    (
        POWER_MONTH,
        money!("Cost of a workload's electricity in the current month until now"),
    ),
    (
        WASTE_MONTH,
        money!(
            "Cost of a workload in the current month until now while its replicas were starting, idle or draining"
        ),
    ),
    (
        CORRECTIONS_MONTH,
        money!(
            "Sum of a namespace's SpendCorrections in the current month until now, negative for credits"
        ),
    ),
    (
        UNATTRIBUTED_MONTH,
        money!(
            "Cost of a workload's time on lost nodes in the current month until now, not included in bursar_spend_month_to_date"
        ),
    ),
    (
        OVERHEAD_MONTH,
        money!(
            "A workload's share of the monthly overheads that are due, not included in bursar_spend_month_to_date"
        ),
    ),
    (
        SAVED_MONTH,
        money!(
            "Cost that one replica would have had in the current month until now while the service was scaled to zero"
        ),
    ),
    (
        GPU_HOURS_MONTH,
        "GPU hours of a workload in the current month until now, in physical GPUs times hours",
    ),
    (
        CARBON_MONTH,
        "Carbon emissions of a workload in the current month until now, in kilograms of CO2 equivalent",
    ),
    (
        QUEUE_DEPTH,
        "Requests of a service that are waiting, running or held by gateways",
    ),
    (HELD, "Requests of a service that gateways hold"),
    (
        DESIRED,
        "Replicas that a service needs for its demand, within minReplicas and maxReplicas",
    ),
    (
        ALLOWED,
        "Replicas that a service may have within its budgets",
    ),
    (BUDGET_LIMIT, money!("Limit of a budget for its period")),
    (
        BUDGET_SPENT,
        money!("Spend of a budget in its current period until now"),
    ),
    (
        BUDGET_RESERVE,
        money!("Cost of stopping everything that a budget covers"),
    ),
];
/// The gauges of nodes, with their HELP texts.
const NODE_GAUGES: [(&str, &str); 3] = [
    (
        NODE_COST_MONTH,
        money!("Cost of the nodes with a kind of GPU in the current month until now"),
    ),
    (
        IDLE_COST_MONTH,
        money!(
            "Cost of the nodes with a kind of GPU in the current month until now that no pod used, negative where pods are charged more than the nodes cost"
        ),
    ),
    (
        IDLE_GPU_HOURS_MONTH,
        "GPU hours of nodes in the current month until now that no pod used, in physical GPUs times hours",
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

impl<L: SeriesLabels> NamespaceGauges<L> {
    fn new(registry: &mut Registry, values: &[(&'static str, &'static str)]) -> Self {
        let mut families = BTreeMap::new();
        for (name, help) in values {
            let family = Gauges::<L>::default();
            registry.register(*name, *help, family.clone());
            families.insert(*name, family);
        }
        Self {
            families,
            shown: Arc::default(),
        }
    }

    /// Shows these values of a group of series, and removes those of the group that were shown before
    /// and are not among them. An unknown value has no series: it is not zero.
    pub(crate) fn show(&self, group: &str, values: Vec<(&'static str, L, Option<f64>)>) {
        let known: Vec<_> = values
            .into_iter()
            .filter_map(|(metric, object, value)| Some((metric, object, value?)))
            .collect();
        let now: Vec<_> = known
            .iter()
            .map(|(metric, object, _)| (*metric, object.clone()))
            .collect();
        let before = {
            let mut shown = lock(&self.shown);
            match now.is_empty() {
                true => shown.remove(group),
                false => shown.insert(group.to_owned(), now.clone()),
            }
        };
        let before = before.unwrap_or_default();
        for (metric, object) in before.iter().filter(|series| !now.contains(series)) {
            if let Some(family) = self.families.get(metric) {
                family.remove(object);
            }
        }
        for (metric, object, value) in known {
            if let Some(family) = self.families.get(metric) {
                family.get_or_create(&object).set(value);
            }
        }
    }
}

#[cfg(test)]
impl<L: SeriesLabels> NamespaceGauges<L> {
    /// The values that are shown of one metric now.
    pub(crate) fn values(&self, metric: &str) -> Vec<f64> {
        let shown = lock(&self.shown);
        let series = shown.values().flatten();
        let series = series.filter(|(name, _)| *name == metric);
        series
            .map(|(name, of)| self.families[name].get_or_create(of).get())
            .collect()
    }
}

/// An amount as the value of a gauge, which need not be exact.
pub(crate) fn gauge_value(amount: Money) -> f64 {
    amount.nanos() as f64 / 1e9
}

/// The metrics.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Attempts to make an object what was decided, by result.
    pub(crate) reconciles: Family<ResultLabel, Counter>,
    /// Duration of one decision over everything that changed, in seconds.
    pub(crate) decision_seconds: Histogram,
    /// Decisions over services by what limited them.
    pub(crate) decisions: Family<LimitLabel, Counter>,
    /// Time from the first held request until the Deployment is scaled up, in seconds.
    pub(crate) wake_seconds: Histogram,
    /// SpendRecords of closed months, by outcome.
    pub(crate) closed: Family<MonthCloseLabel, Counter>,
    /// Syncs of accounts by result.
    pub(crate) account_syncs: Family<ResultLabel, Counter>,
    /// Accounts that are not on record as this process knows them.
    pub(crate) unwritten_accounts: Gauge,
    /// Events that were not published, by cause.
    pub(crate) dropped_events: Family<DroppedEventLabel, Counter>,
    /// 1 with the currency and the time zone of all amounts, once the currency is known.
    accounting: Family<AccountingLabels, Gauge>,
    /// 1 while this replica leads.
    pub(crate) leading: Gauge,
    /// Gauges of workloads, budgets and namespaces.
    pub(crate) namespaces: NamespaceGauges<ObjectLabels>,
    /// Gauges of nodes by kind of GPU.
    pub(crate) nodes: NamespaceGauges<HardwareLabels>,
}

impl Metrics {
    /// Metrics in `registry`.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciles: Family::default(),
            decision_seconds: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            decisions: Family::default(),
            wake_seconds: Histogram::new(exponential_buckets(0.005, 2.0, 14)),
            closed: Family::default(),
            account_syncs: Family::default(),
            unwritten_accounts: Gauge::default(),
            dropped_events: Family::default(),
            accounting: Family::default(),
            leading: Gauge::default(),
            namespaces: NamespaceGauges::new(registry, &NAMESPACE_GAUGES),
            nodes: NamespaceGauges::new(registry, &NODE_GAUGES),
        };
        registry.register(
            "bursar_reconciles",
            "Attempts to make the objects or the status of a workload or budget what was decided, by result: ok, conflict or error",
            metrics.reconciles.clone(),
        );
        registry.register(
            "bursar_decision_seconds",
            "Duration of one decision over everything that changed in the cluster, in seconds",
            metrics.decision_seconds.clone(),
        );
        registry.register(
            "bursar_decisions",
            "Scaling decisions over services by what limited the replicas",
            metrics.decisions.clone(),
        );
        let help = "Time from the first held request of a service at zero replicas until its Deployment is scaled up, in seconds";
        registry.register("bursar_wake_seconds", help, metrics.wake_seconds.clone());
        registry.register(
            "bursar_closed_records",
            "SpendRecords of closed months by outcome: folded into one record, removed after the retention, or failed",
            metrics.closed.clone(),
        );
        registry.register(
            "bursar_ledger_syncs",
            "Attempts to bring a workload's SpendRecords up to date by result: ok, conflict or error",
            metrics.account_syncs.clone(),
        );
        registry.register(
            "bursar_ledger_unwritten_accounts",
            "Workloads whose SpendRecords could not be written at the last attempt, and whose cost counts from the controller's memory",
            metrics.unwritten_accounts.clone(),
        );
        registry.register(
            "bursar_dropped_events",
            "Kubernetes Events that were not published by cause: rate, too many about one object; queue, the API server was slow; error, the API server refused the Event or gave no answer",
            metrics.dropped_events.clone(),
        );
        registry.register(
            "bursar_accounting_info",
            "1, with the currency of all amounts of money and the IANA time zone of days and months",
            metrics.accounting.clone(),
        );
        registry.register(
            "bursar_leader",
            "1 while this controller is the leader, else 0",
            metrics.leading.clone(),
        );
        metrics
    }

    /// Shows in which currency and time zone amounts are; nothing while no currency is known.
    pub(crate) fn show_accounting(&self, currency: &str, time_zone: &str) {
        let labels = AccountingLabels {
            currency: currency.to_owned(),
            time_zone: time_zone.to_owned(),
        };
        if !currency.is_empty() && self.accounting.get(&labels).is_none() {
            self.accounting.clear();
            self.accounting.get_or_create(&labels).set(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_not_known_any_more_has_no_series() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let chat = || ObjectLabels {
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
        metrics.namespaces.show(
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
        metrics.namespaces.show("other", Vec::new());
        assert!(text().contains(series));
        metrics.namespaces.show("team", Vec::new());
        assert!(!text().contains(series));
    }

    #[test]
    fn amounts_have_one_currency_at_a_time() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let series = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            let lines = text.lines().map(str::to_owned);
            lines
                .filter(|line| line.starts_with("bursar_accounting_info"))
                .collect::<Vec<_>>()
        };
        metrics.show_accounting("", "UTC");
        assert_eq!(series(), [""; 0], "no currency is known");
        for currency in ["USD", "EUR", "EUR"] {
            metrics.show_accounting(currency, "Europe/Berlin");
            let labels = format!(r#"currency="{currency}",time_zone="Europe/Berlin""#);
            assert_eq!(series(), [format!("bursar_accounting_info{{{labels}}} 1")]);
        }
    }

    #[test]
    fn every_help_text_makes_sense_alone() {
        let mut registry = Registry::default();
        let _metrics = Metrics::new(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for help in text.lines().filter(|line| line.starts_with("# HELP ")) {
            for word in [" it ", " it.", "of it", "beside"] {
                assert!(!help.contains(word), "{help}");
            }
        }
    }
}
