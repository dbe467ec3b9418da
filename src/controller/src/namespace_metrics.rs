//! What Prometheus is shown of a namespace: its workloads, its budgets and its corrections.

use std::collections::BTreeMap;

use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_core::calendar::Month;
use bursar_core::correction;
use bursar_core::money::Money;
use bursar_core::plan::{Plan, Snapshot};

use crate::cluster_bill;
use crate::context::Context;
use crate::ledger::{self, Accounts};
use crate::metrics::{self, gauge_value};
use crate::scene::Scene;

/// The gauges of a namespace, its workloads and its budgets.
pub(crate) fn gauges(
    context: &Context,
    scene: &Scene,
    plan: &Plan,
    snapshot: &Snapshot,
    accounts: &BTreeMap<WorkloadRef, Accounts>,
) -> Vec<(&'static str, metrics::ObjectLabels, Option<f64>)> {
    let month = Month::containing(scene.now, &context.zone);
    let mut gauges = Vec::new();
    for (workload, accounts) in accounts {
        let object = || metrics::ObjectLabels::from(workload);
        let spent = ledger::sum(
            accounts,
            month.bounds(&context.zone),
            scene.now,
            &context.zone,
        );
        let cost = spent.cost;
        for (name, amount) in [
            (metrics::SPEND_MONTH, cost.total()),
            (metrics::COMPUTE_MONTH, cost.compute),
            (metrics::STORAGE_MONTH, cost.storage),
            (metrics::POWER_MONTH, cost.power),
            (metrics::WASTE_MONTH, spent.waste()),
            (metrics::UNATTRIBUTED_MONTH, spent.unattributed),
            (metrics::SAVED_MONTH, spent.saved),
        ] {
            gauges.push((name, object(), Some(gauge_value(amount))));
        }
        gauges.push((
            metrics::OVERHEAD_MONTH,
            object(),
            cluster_bill::overhead(context, workload, scene.now).map(gauge_value),
        ));
        let of = |amount: i64, unit: f64| Some(amount as f64 / unit);
        gauges.push((
            metrics::GPU_HOURS_MONTH,
            object(),
            of(spent.gpu_seconds, 3600.0),
        ));
        gauges.push((
            metrics::CARBON_MONTH,
            object(),
            of(spent.carbon_mg, 1_000_000.0),
        ));
        gauges.push((
            metrics::SPEND_RATE,
            object(),
            ledger::rate(accounts, month).map(gauge_value),
        ));
    }
    let bounds = month.bounds(&context.zone);
    let corrections = correction::sum(&scene.corrections, bounds, scene.now, &context.zone);
    if corrections != Money::ZERO {
        let namespace = metrics::ObjectLabels {
            namespace: scene.namespace.clone(),
            kind: "Namespace",
            name: scene.namespace.clone(),
        };
        let amount = Some(gauge_value(corrections));
        gauges.push((metrics::CORRECTIONS_MONTH, namespace, amount));
    }
    for (decision, service) in plan.services.iter().zip(&snapshot.services) {
        let object = || {
            metrics::ObjectLabels::from(
                &scene.workload(WorkloadKind::InferenceDeployment, &decision.name),
            )
        };
        gauges.push((
            metrics::QUEUE_DEPTH,
            object(),
            decision.queue_depth.map(|depth| depth as f64),
        ));
        gauges.push((metrics::HELD, object(), Some(service.held as f64)));
        gauges.push((
            metrics::DESIRED,
            object(),
            Some(f64::from(decision.desired)),
        ));
        gauges.push((
            metrics::ALLOWED,
            object(),
            Some(f64::from(decision.allowed)),
        ));
    }
    // after these come those that cannot be read, of which no figure is known
    for (_, standing) in scene.budgets.iter().zip(&plan.budgets) {
        let object = || metrics::ObjectLabels {
            namespace: scene.namespace.clone(),
            kind: "BudgetPolicy",
            name: standing.budget.name.clone(),
        };
        gauges.push((
            metrics::BUDGET_LIMIT,
            object(),
            Some(gauge_value(standing.budget.limit)),
        ));
        gauges.push((
            metrics::BUDGET_SPENT,
            object(),
            Some(gauge_value(standing.budget.spent)),
        ));
        gauges.push((
            metrics::BUDGET_RESERVE,
            object(),
            Some(gauge_value(standing.reserve)),
        ));
    }
    gauges
}
