//! The last decision over each namespace, as `kubectl bursar explain` reads it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use bursar_api::explanation::{
    self, BudgetExplanation, Explanation, JobExplanation, ServiceExplanation,
};
use bursar_core::budget::Standing;
use bursar_core::plan::{Decision, LimitedBy, Plan, Snapshot};
use bursar_core::scaling::Service;
use bursar_core::training::Turn;
use jiff::Timestamp;

use crate::lock::lock;

/// Explanations of decisions by namespace.
pub(crate) type Explained = Arc<Mutex<BTreeMap<String, Explanation>>>;

/// What was decided, and from which numbers; of the plan's budgets, about these.
pub(crate) fn explanation(
    plan: &Plan,
    budgets: &[Standing],
    snapshot: &Snapshot,
    now: Timestamp,
) -> Explanation {
    let services = plan.services.iter().zip(&snapshot.services);
    Explanation {
        decided_at: Some(now),
        services: services
            .map(|(decision, service)| explain_service(decision, service))
            .collect(),
        jobs: plan.jobs.iter().map(explain_job).collect(),
        budgets: budgets.iter().map(explain_budget).collect(),
        next_decision: plan.next_look,
    }
}

fn explain_service(decision: &Decision, service: &Service) -> ServiceExplanation {
    ServiceExplanation {
        name: decision.name.clone(),
        queue_depth: decision.queue_depth,
        held: Some(service.held),
        target: Some(service.target),
        current: Some(service.current),
        recommended: Some(decision.asked),
        desired: Some(decision.desired),
        allowed: Some(decision.allowed),
        limited_by: word(decision.limited_by),
        reason: Some(decision.reason.clone()),
        last_active: service.active_at,
        replica_rate_per_hour: service.load.rate,
        replica_reserve: Some(service.load.reserve()),
    }
}

fn explain_job(turn: &Turn) -> JobExplanation {
    JobExplanation {
        name: turn.name.clone(),
        may_run: Some(turn.run),
        limited_by: word(turn.limited_by),
        queue_position: turn.position,
        reason: Some(turn.reason.clone()),
    }
}

fn explain_budget(standing: &Standing) -> BudgetExplanation {
    BudgetExplanation {
        name: standing.budget.name.clone(),
        limit: Some(standing.budget.limit),
        spent: Some(standing.budget.spent),
        corrections: Some(standing.budget.corrections),
        reserve: Some(standing.reserve),
        remaining: Some(standing.remaining()),
        rate_per_hour: Some(standing.rate),
        period_start: Some(standing.period.start),
        period_end: Some(standing.period.end),
        exhausted: Some(standing.is_exhausted()),
        exhaustion_time: standing.exhausted_at,
    }
}

fn word(limited_by: Option<LimitedBy>) -> Option<String> {
    limited_by.map(|limit| limit.as_str().to_owned())
}

/// Answers with the leader's last decision over a namespace.
pub(crate) fn routes(explained: Explained) -> Router {
    Router::new()
        .route(explanation::ROUTE, get(explain))
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

#[cfg(test)]
mod tests {
    use bursar_core::budget::{Budget, Load, OnExhausted};
    use bursar_core::calendar::Period;
    use bursar_core::capacity::{Capacity, Gang};
    use bursar_core::plan::plan;
    use bursar_core::scaling::{Demand, History, Signal};
    use bursar_core::training::{Job, Role};
    use jiff::SignedDuration;
    use jiff::tz::TimeZone;
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-11-24T04:00:05Z";

    /// A service without a readable signal, a job and a budget, of which the price of the service is not known.
    fn snapshot(now: Timestamp) -> Snapshot {
        let load = |rate: Option<&str>| Load {
            rate: rate.map(|rate| rate.parse().unwrap()),
            stop_seconds: 36,
        };
        Snapshot {
            services: vec![Service {
                name: "chat".into(),
                min: 0,
                max: 4,
                target: 8,
                window: SignedDuration::from_secs(60),
                idle_after: SignedDuration::from_secs(600),
                paused: false,
                demand: Demand::Welcome,
                engine: Signal::Unknown("connection refused".into()),
                held: 3,
                unheard: None,
                active_at: Some(now),
                current: 1,
                present: 1,
                stuck: None,
                history: History::default(),
                load: load(None),
                replica: Gang::default(),
            }],
            jobs: vec![Job {
                name: "train".into(),
                priority: 0,
                created: now,
                suspend: true,
                running: false,
                incomplete_since: None,
                retry: None,
                seed: 1,
                settled: true,
                roles: vec![Role {
                    gang: Gang::default(),
                    worker: load(Some("6.88")),
                    present: 0,
                }],
            }],
            budgets: vec![Budget {
                name: "team".into(),
                limit: "100".parse().unwrap(),
                period: Period::Monthly,
                on_exhausted: OnExhausted::Freeze,
                minimum_useful_run: SignedDuration::ZERO,
                latch: None,
                spent: "12.5".parse().unwrap(),
                corrections: "-0.5".parse().unwrap(),
                doubt: None,
            }],
            loads: vec![load(Some("20"))],
            capacity: Capacity::default(),
            zone: TimeZone::UTC,
        }
    }

    #[test]
    fn a_reader_finds_the_decision_as_the_controller_writes_it() {
        let now = NOW.parse().unwrap();
        let snapshot = snapshot(now);
        let plan = plan(&snapshot, now);
        let written = explanation(&plan, &plan.budgets, &snapshot, now);
        let text = serde_json::to_string(&written).unwrap();
        let read: Explanation = serde_json::from_str(&text).unwrap();
        assert_eq!(read, written);
        let chat = read.service("chat").unwrap();
        assert_eq!((chat.queue_depth, chat.held), (None, Some(3)));
        assert_eq!(chat.replica_rate_per_hour, None, "unknown is not zero");
        assert_eq!(chat.limited_by.as_deref(), Some("Signal"));
        assert_eq!(read.job("train").unwrap().may_run, Some(false));
        let budget = serde_json::to_value(read.budget("team").unwrap()).unwrap();
        let expected = json!({
            "name": "team", "limit": "100.00", "spent": "12.50", "corrections": "-0.50", "reserve": "0.20", "remaining": "87.30",
            "ratePerHour": "20.00", "periodStart": "2026-11-01T00:00:00Z", "periodEnd": "2026-12-01T00:00:00Z", "exhausted": false,
            "exhaustionTime": "2026-11-24T08:21:59Z",
        });
        assert_eq!(budget, expected);
    }
}
