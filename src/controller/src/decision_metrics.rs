//! What Prometheus is shown of decisions: only what a decision changed is shown anew.

use bursar_core::budget::BudgetState;
use bursar_core::model::event::Event;
use bursar_core::model::{Key, Model, ServiceView};
use bursar_core::plan::{Decisions, LimitedBy};

use crate::metrics::{self, LimitLabel, Metrics, ObjectLabels, gauge_value};

/// Shows what was decided.
pub(crate) fn show(metrics: &Metrics, model: &Model, decisions: &Decisions) {
    for (key, decision) in &decisions.services {
        let limited_by = decision.limited_by.map_or("None", LimitedBy::as_str);
        let label = LimitLabel { limited_by };
        metrics.decisions.get_or_create(&label).inc();
        if let Some(view) = model.service(key) {
            show_service(metrics, key, &view);
        }
    }
    for (key, budget_state) in &decisions.budgets {
        show_budget(metrics, key, budget_state);
    }
}

/// Takes away what is shown of an object that is gone.
pub(crate) fn forget(metrics: &Metrics, event: &Event) {
    match event {
        Event::Service(key, None) => {
            metrics.namespaces.show(&group(SERVICE, key), Vec::new());
        }
        Event::Budget(key, None) => metrics.namespaces.show(&group(BUDGET, key), Vec::new()),
        _ => {}
    }
}

const SERVICE: &str = "InferenceDeployment";
const BUDGET: &str = "BudgetPolicy";

/// The series that are shown and taken away together.
fn group(kind: &str, key: &Key) -> String {
    format!("{kind} {}/{}", key.namespace, key.name)
}

fn labels(kind: &'static str, key: &Key) -> ObjectLabels {
    ObjectLabels {
        namespace: key.namespace.to_string(),
        kind,
        name: key.name.to_string(),
    }
}

fn show_service(metrics: &Metrics, key: &Key, view: &ServiceView) {
    let decision = &view.decision;
    let queue_depth = decision.queue_depth.map(|depth| depth as f64);
    let values = [
        (metrics::QUEUE_DEPTH, queue_depth),
        (metrics::HELD, Some(view.held as f64)),
        (metrics::DESIRED, Some(f64::from(decision.desired))),
        (metrics::ALLOWED, Some(f64::from(decision.allowed))),
    ];
    let values = values.map(|(metric, value)| (metric, labels(SERVICE, key), value));
    metrics.namespaces.show(&group(SERVICE, key), values.into());
}

fn show_budget(metrics: &Metrics, key: &Key, budget_state: &BudgetState) {
    let values = [
        (metrics::BUDGET_LIMIT, budget_state.announced_terms().limit),
        (metrics::BUDGET_SPENT, budget_state.budget.spent),
        (metrics::BUDGET_RESERVE, budget_state.reserve),
    ];
    let values = values.map(|(metric, amount)| {
        let amount = Some(gauge_value(amount));
        (metric, labels(BUDGET, key), amount)
    });
    metrics.namespaces.show(&group(BUDGET, key), values.into());
}
