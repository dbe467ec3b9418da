//! What an InferenceDeployment's status says.

use bursar_api::InferenceDeployment;
use bursar_api::conditions::{
    self, ConditionState, PODS_HEALTHY, READY, SIGNALS_AVAILABLE, WITHIN_BUDGET, pods_healthy,
    service_ready, signals_available, workload_within_budget,
};
use bursar_api::inference::{ActivationStatus, InferenceDeploymentStatus, RefusalStatus};
use bursar_api::spend::WorkloadKind;
use bursar_core::plan::{Decision, LimitedBy};
use bursar_core::refusal::RefusalReason;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::health;
use crate::pod;
use crate::pricing::condition::{self, PricingState};
use crate::spend_status;

/// What goes into a status.
pub(crate) struct Facts<'a> {
    pub(crate) decision: &'a Decision,
    pub(crate) pods: &'a [&'a Pod],
    pub(crate) port: Option<u16>,
    pub(crate) spend: PricingState,
    /// Why the last run could not apply the decision.
    pub(crate) failure: Option<String>,
    pub(crate) observe_only: bool,
    pub(crate) now: Timestamp,
}

/// The status that says so; `None` if the present one is good enough.
pub(crate) fn next(
    object: &InferenceDeployment,
    facts: Facts<'_>,
) -> Option<InferenceDeploymentStatus> {
    let empty = InferenceDeploymentStatus::default();
    let old = object.status.as_ref().unwrap_or(&empty);
    let decision = facts.decision;
    let alive: Vec<&&Pod> = facts
        .pods
        .iter()
        .filter(|pod| !pod::is_terminal(pod) && pod.metadata.deletion_timestamp.is_none())
        .collect();
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let replicas = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let ready = alive.iter().filter(|pod| pod::is_ready(pod)).count();
    let selector: Vec<String> =
        super::build::labels(WorkloadKind::InferenceDeployment, &object.name_any())
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
    let mut status = InferenceDeploymentStatus {
        observed_generation: object.metadata.generation,
        replicas: count(alive.len()),
        ready_replicas: count(ready),
        desired_replicas: replicas(decision.desired),
        allowed_replicas: replicas(decision.allowed),
        queue_depth: decision
            .queue_depth
            .and_then(|depth| i64::try_from(depth).ok()),
        selector: selector.join(","),
        limited_by: decision.limited_by,
        reason: decision.reason.clone(),
        activation: Some(ActivationStatus {
            port: facts.port.map(i32::from),
            refusal: decision.refusal.as_ref().map(|refusal| RefusalStatus {
                status: 0,
                reason: refusal.reason.to_string(),
                message: refusal.message.clone(),
                retry_at: refusal.retry_at.map(Time),
            }),
        }),
        spend: Some(facts.spend.summary.clone()),
        conditions: Vec::new(),
    };
    let says = says(decision, ready, &facts);
    status.conditions = conditions::updated_conditions(
        &old.conditions,
        says,
        object.metadata.generation,
        facts.now,
    );
    let due = spend_status::is_due(old.spend.as_ref(), &facts.spend.summary, facts.now);
    (due || decisive(old) != decisive(&status)).then_some(status)
}

/// A status without what changes all the time: figures ride along with what matters.
fn decisive(status: &InferenceDeploymentStatus) -> InferenceDeploymentStatus {
    let mut status = status.clone();
    (status.spend, status.queue_depth, status.reason) = (None, None, String::new());
    if let Some(refusal) = status
        .activation
        .as_mut()
        .and_then(|activation| activation.refusal.as_mut())
    {
        // it names amounts, and what cannot start may be tried again a minute after each look
        refusal.message.clear();
        if refusal.reason == RefusalReason::StartFailed.name() {
            refusal.retry_at = None;
        }
    }
    conditions::clear_alternating_messages(&mut status.conditions);
    status
}

fn says(decision: &Decision, ready: usize, facts: &Facts<'_>) -> Vec<ConditionState> {
    let say = |kind, status, reason, message: String| ConditionState {
        kind,
        status: Some(status),
        reason,
        message,
    };
    vec![
        match (ready, decision.allowed) {
            (0, 0) if decision.refusal.is_some() => say(
                READY,
                false,
                service_ready::REFUSING,
                "no replica runs, and none may start; see limitedBy and reason".to_owned(),
            ),
            (0, 0) => say(
                READY,
                true,
                service_ready::AT_ZERO,
                "no replica runs; the next request wakes one".to_owned(),
            ),
            (0, _) if decision.refusal.is_some() => say(
                READY,
                false,
                service_ready::START_FAILED,
                "its replicas do not start; see PodsHealthy".to_owned(),
            ),
            (0, _) => say(
                READY,
                false,
                service_ready::STARTING,
                "no replica takes requests yet".to_owned(),
            ),
            _ => say(READY, true, service_ready::SERVING, "replicas take requests".to_owned()),
        },
        match decision.limited_by {
            Some(LimitedBy::Budget) => say(
                WITHIN_BUDGET,
                false,
                workload_within_budget::BUDGET_LIMITS,
                "a budget holds it back; see reason".to_owned(),
            ),
            _ => say(
                WITHIN_BUDGET,
                true,
                workload_within_budget::WITHIN_BUDGET,
                "no budget holds it back".to_owned(),
            ),
        },
        match decision.unknown {
            Some(_) => say(
                SIGNALS_AVAILABLE,
                false,
                signals_available::SIGNAL_UNKNOWN,
                "a replica's metrics, or what a gateway holds, cannot be read; it keeps its replicas".to_owned(),
            ),
            None => say(
                SIGNALS_AVAILABLE,
                true,
                signals_available::READ,
                "every signal can be read".to_owned(),
            ),
        },
        condition::priced(&facts.spend),
        match health::condition(facts.pods, facts.failure.as_deref(), facts.now) {
            healthy if facts.observe_only && healthy.status == Some(true) => say(
                PODS_HEALTHY,
                true,
                pods_healthy::OBSERVE_ONLY,
                "Bursar decides, and changes nothing".to_owned(),
            ),
            says => says,
        },
    ]
}
