//! The last decision over each namespace, as `kubectl bursar explain` reads it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bursar_api::explanation::{
    self, BudgetExplanation, JobExplanation, ServiceExplanation, SignalExplanation,
};
use bursar_api::names;
use bursar_core::budget::BudgetState;
use bursar_core::model::{Model, NamespaceView, PauseScope, ServiceView};
use bursar_core::plan::LimitedBy;
use bursar_core::scaling::{MeasuredSignal, SignalTarget, SignalValue};
use bursar_core::training::JobDecision;
use bursar_runtime::access::{AccessReviewer, Right};
use jiff::Timestamp;
use tokio::sync::{Semaphore, oneshot};

use crate::input::{Input, Inputs};
use crate::lock::lock;

pub(crate) use bursar_api::explanation::Explanation;

/// How long the actor may take for an answer.
const LIMIT: Duration = Duration::from_secs(2);

/// Where explanations are asked for; `None` until this process leads.
pub(crate) type ExplainInputs = Arc<Mutex<Option<Inputs>>>;

/// What was last decided over a namespace, and from which numbers; `None` if nothing was. Its
/// budgets are as of `now`.
pub(crate) fn explanation(
    model: &mut Model,
    namespace: &str,
    decided_at: Option<Timestamp>,
    now: Timestamp,
) -> Option<Explanation> {
    let decided = model.namespace(namespace, now);
    let NamespaceView {
        services,
        jobs,
        budgets,
        next,
    } = decided;
    if services.is_empty() && jobs.is_empty() && budgets.is_empty() {
        return None;
    }
    let paused = model.paused_by(namespace).map(|scope| match scope {
        PauseScope::Cluster => "cluster".to_owned(),
        PauseScope::Namespace => "namespace".to_owned(),
    });
    Some(Explanation {
        paused,
        decided_at,
        services: services.iter().map(explain_service).collect(),
        jobs: jobs.iter().map(explain_job).collect(),
        budgets: budgets.iter().map(explain_budget).collect(),
        next_decision: next,
    })
}

fn explain_service(service: &ServiceView) -> ServiceExplanation {
    let decision = &service.decision;
    ServiceExplanation {
        name: decision.name.clone(),
        queue_depth: decision.queue_depth,
        held: Some(service.held),
        target: service.target,
        signals: decision.signals.iter().map(explain_signal).collect(),
        current: Some(service.current),
        recommended: Some(decision.recommended),
        desired: Some(decision.desired),
        allowed: Some(decision.allowed),
        limited_by: word(decision.limited_by),
        reason: Some(decision.reason.clone()),
        last_active: service.last_active,
        pods_per_replica: Some(service.pods_per_replica),
        replica_rate_per_hour: service.running_cost.rate,
        replica_reserve: Some(service.running_cost.reserve()),
    }
}

fn explain_signal(signal: &MeasuredSignal) -> SignalExplanation {
    let is_unknown = matches!(signal.value, SignalValue::Unknown(_));
    let is_amount = matches!(signal.target, SignalTarget::AverageValue(_));
    SignalExplanation {
        name: signal.name.clone(),
        replicas: (!is_unknown).then(|| signal.replicas()),
        value: signal.shown_value().map(|value| value.to_string()),
        target: Some(signal.shown_target().to_string()),
        text: (!is_amount).then(|| signal.to_string()),
        error: signal.why_unknown().map(str::to_owned),
    }
}

fn explain_job(decision: &JobDecision) -> JobExplanation {
    JobExplanation {
        name: decision.name.clone(),
        may_run: Some(decision.run),
        limited_by: word(decision.limited_by),
        queue_position: decision.position,
        reason: Some(decision.reason.clone()),
    }
}

fn explain_budget(budget_state: &BudgetState) -> BudgetExplanation {
    let pending = budget_state.pending.as_ref();
    BudgetExplanation {
        name: budget_state.budget.name.clone(),
        limit: Some(budget_state.announced_terms().limit),
        spent: Some(budget_state.budget.spent),
        corrections: Some(budget_state.budget.corrections),
        reserve: Some(budget_state.reserve),
        remaining: Some(budget_state.announced_remaining()),
        rate_per_hour: Some(budget_state.rate),
        period_start: Some(budget_state.period.start),
        period_end: Some(budget_state.period.end),
        change_effective_at: pending.map(|change| change.effective_at),
        exhausted: Some(budget_state.is_exhausted()),
        exhaustion_time: budget_state.exhausted_at,
    }
}

fn word(limited_by: Option<LimitedBy>) -> Option<String> {
    limited_by.map(|limit| limit.as_str().to_owned())
}

#[derive(Clone)]
struct Questions {
    inputs: ExplainInputs,
    one_at_a_time: Arc<Semaphore>,
    reviewer: AccessReviewer,
}

/// Answers with the leader's last decision over a namespace, if the caller may get its
/// [`explanation::RESOURCE`].
pub(crate) fn routes(inputs: ExplainInputs, reviewer: AccessReviewer) -> Router {
    Router::new()
        .route(explanation::ROUTE, get(explain))
        .with_state(Questions {
            inputs,
            one_at_a_time: Arc::new(Semaphore::new(1)),
            reviewer,
        })
}

async fn explain(
    State(questions): State<Questions>,
    Path(namespace): Path<String>,
    headers: HeaderMap,
) -> Response {
    let right = Right::Get {
        group: names::GROUP,
        resource: explanation::RESOURCE,
        namespace: namespace.clone(),
    };
    if let Err(refusal) = questions.reviewer.check(&headers, right).await {
        return refusal.into_response();
    }
    let Some(inputs) = lock(&questions.inputs).clone() else {
        // not 503, which clients of the API server try again by themselves
        let status = StatusCode::MISDIRECTED_REQUEST;
        return (status, format!("{}\n", explanation::NOT_LEADING)).into_response();
    };
    match ask(&inputs, &questions.one_at_a_time, &namespace).await {
        Some(decision) => Json(decision).into_response(),
        None => (
            StatusCode::NOT_FOUND,
            format!("the leader has decided nothing over namespace {namespace}\n"),
        )
            .into_response(),
    }
}

/// Asks the actor. However many ask at a time, it answers one between two decisions.
async fn ask(inputs: &Inputs, one_at_a_time: &Semaphore, namespace: &str) -> Option<Explanation> {
    let _turn = one_at_a_time.acquire().await.ok()?;
    let (answer, answered) = oneshot::channel();
    let question = Input::Explain(namespace.to_owned(), answer);
    inputs.send(question).ok()?;
    let answered = tokio::time::timeout(LIMIT, answered).await;
    answered.ok()?.ok().flatten()
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn the_actor_is_asked_one_question_at_a_time() {
        let (sender, mut questions) = mpsc::unbounded_channel();
        let one_at_a_time = Arc::new(Semaphore::new(1));
        let asking: Vec<_> = (0..20)
            .map(|_| {
                let (inputs, one_at_a_time) = (sender.clone(), Arc::clone(&one_at_a_time));
                tokio::spawn(async move { ask(&inputs, &one_at_a_time, "team").await })
            })
            .collect();
        for _ in 0..20 {
            let Some(Input::Explain(_, answer)) = questions.recv().await else {
                panic!("no question");
            };
            tokio::task::yield_now().await;
            assert!(questions.is_empty());
            answer.send(Some(Explanation::default())).unwrap();
        }
        for asked in asking {
            assert!(asked.await.unwrap().is_some());
        }
    }
}
