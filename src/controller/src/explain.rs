//! The last decision over each namespace, as `kubectl bursar explain` reads it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use bursar_core::plan::{Plan, Snapshot};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::context::lock;

/// Decisions by namespace.
pub(crate) type Explained = Arc<Mutex<BTreeMap<String, Value>>>;

/// What was decided, and what from.
pub(crate) fn decision(plan: &Plan, snapshot: &Snapshot, now: Timestamp) -> Value {
    let services = plan.services.iter().zip(&snapshot.services).map(|(decision, service)| {
        json!({
            "name": decision.name, "queueDepth": decision.queue_depth, "held": service.held, "target": service.target,
            "current": service.current, "asked": decision.asked, "desired": decision.desired, "allowed": decision.allowed,
            "limitedBy": decision.limited_by, "reason": decision.reason,
            "activeAt": service.active_at, "replicaRatePerHour": service.load.rate, "replicaReserve": service.load.reserve(),
        })
    });
    let services: Vec<_> = services.into_iter().collect();
    let jobs = plan.jobs.iter().map(|turn| {
        json!({"name": turn.name, "run": turn.run, "limitedBy": turn.limited_by, "position": turn.position, "reason": turn.reason})
    });
    let jobs: Vec<_> = jobs.into_iter().collect();
    let budgets = plan.budgets.iter().map(|standing| {
        json!({
            "name": standing.budget.name, "limit": standing.budget.limit, "spent": standing.budget.spent,
            "corrections": standing.budget.corrections,
            "reserve": standing.reserve, "remaining": standing.remaining(), "ratePerHour": standing.rate,
            "periodStart": standing.period.start, "periodEnd": standing.period.end, "exhausted": standing.is_exhausted(),
            "exhaustionTime": standing.exhausted_at,
        })
    });
    let budgets: Vec<_> = budgets.into_iter().collect();
    json!({"at": now, "services": services, "jobs": jobs, "budgets": budgets, "nextLook": plan.next_look})
}

/// Answers with the leader's last decision over a namespace.
pub(crate) fn routes(explained: Explained) -> Router {
    Router::new()
        .route("/explain/{namespace}", get(explain))
        .with_state(explained)
}

async fn explain(
    State(explained): State<Explained>,
    Path(namespace): Path<String>,
) -> impl IntoResponse {
    match lock(&explained).get(&namespace).cloned() {
        Some(decision) => Json(decision).into_response(),
        None => (
            StatusCode::NOT_FOUND,
            format!("this replica has decided nothing over namespace {namespace}\n"),
        )
            .into_response(),
    }
}
