//! What an InferenceDeployment's status says.

use std::collections::BTreeMap;

use bursar_api::InferenceDeployment;
use bursar_api::conditions::{
    self, ConditionState, PODS_HEALTHY, READY, SIGNALS_AVAILABLE, WITHIN_BUDGET, pods_healthy,
    service_ready, signals_available,
};
use bursar_api::inference::{
    ActivationStatus, InferenceDeploymentStatus, LearnedStatus, RefusalStatus,
};
use bursar_api::signal::SignalStatus;
use bursar_api::spend::WorkloadKind;
use bursar_core::plan::Decision;
use bursar_core::refusal::RefusalReason;
use bursar_core::scaling::LearnedThroughput;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;

use crate::health;
use crate::pod;
use crate::ports::NoPort;
use crate::pricing::condition::{self, PricingState};
use crate::scale_target::status::TargetParts;
use crate::spend_status;
use crate::status_pacing::{
    Change, NextStatus, Readings, StatusPacing, counted_condition, decisive_conditions, messages,
    reading_conditions,
};
use crate::within_budget::within_budget;

/// What goes into a status.
pub(crate) struct StatusParts<'a> {
    pub(crate) decision: &'a Decision,
    /// Its signals, as last read.
    pub(crate) signals: Vec<SignalStatus>,
    /// What was learned of its replicas.
    pub(crate) learned: Option<LearnedThroughput>,
    pub(crate) pods: &'a [&'a Pod],
    /// Why the cluster refuses to make pods, if it does.
    pub(crate) creation_failure: Option<&'a str>,
    /// What it says of the workload of its targetRef.
    pub(crate) target: TargetParts,
    pub(crate) port: Result<u16, NoPort>,
    pub(crate) spend: PricingState,
    /// Why the last run could not apply the decision.
    pub(crate) failure: Option<String>,
    pub(crate) observe_only: bool,
    /// The condition that says so, if its priority counts less beside other namespaces.
    pub(crate) priority_limit: Option<ConditionState>,
    /// The condition that says so, if gateways cannot connect to a replica that is ready.
    pub(crate) unreachable: Option<ConditionState>,
    /// The condition that says so, if requests do not wake it by its Service.
    pub(crate) not_woken: Option<ConditionState>,
    /// The condition that says so, if it is paused.
    pub(crate) paused: Option<ConditionState>,
    pub(crate) now: Timestamp,
}

/// The conditions that follow readings.
const FOLLOWING: [&str; 2] = [WITHIN_BUDGET, SIGNALS_AVAILABLE];

/// The status that says so, if it is due, and when to look again.
pub(crate) fn next(
    object: &InferenceDeployment,
    pacing: &mut StatusPacing,
    parts: StatusParts<'_>,
) -> NextStatus<InferenceDeploymentStatus> {
    let empty = InferenceDeploymentStatus::default();
    let old = object.status.as_ref().unwrap_or(&empty);
    let decision = parts.decision;
    let alive: Vec<&&Pod> = parts
        .pods
        .iter()
        .filter(|pod| !pod::is_terminal(pod) && pod.metadata.deletion_timestamp.is_none())
        .collect();
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let replicas = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let (all, ready) = replicas_of(&alive, parts.target.workers);
    let selector: Vec<String> =
        super::build::labels(WorkloadKind::InferenceDeployment, &object.name_any())
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
    let mut status = InferenceDeploymentStatus {
        observed_generation: object.metadata.generation,
        replicas: count(all),
        ready_replicas: count(ready),
        desired_replicas: replicas(decision.desired),
        allowed_replicas: replicas(decision.allowed),
        queue_depth: decision
            .queue_depth
            .and_then(|depth| i64::try_from(depth).ok()),
        signals: parts.signals.clone(),
        selector: selector.join(","),
        limited_by: decision.limited_by,
        reason: decision.reason.clone(),
        activation: Some(ActivationStatus {
            port: parts.port.ok().map(i32::from),
            refusal: decision.refusal.as_ref().map(|refusal| RefusalStatus {
                status: 0,
                reason: refusal.reason.to_string(),
                message: refusal.message.clone(),
                retry_at: refusal.retry_at.map(Time),
            }),
        }),
        target: parts.target.status.clone(),
        learned: parts.learned.map(LearnedStatus::from),
        spend: Some(parts.spend.summary.clone()),
        conditions: Vec::new(),
    };
    let mut says = says(decision, ready, &parts);
    says.extend(parts.priority_limit.clone());
    // what was ready while they tried is not any more
    says.extend(parts.unreachable.clone().filter(|_| ready > 0));
    says.extend(parts.not_woken.clone());
    says.extend(parts.target.conditions.clone());
    says.extend(parts.paused.clone());
    says.extend(parts.port.err().and_then(NoPort::condition));
    status.conditions = conditions::updated_conditions(
        &old.conditions,
        says,
        object.metadata.generation,
        parts.now,
    );
    let change = Change {
        at_once: object.status.is_none() || decisive(old) != decisive(&status),
        counts: counts(old) != counts(&status),
        written: readings(old),
        present: readings(&status),
        figures: figures(old) != figures(&status),
        spending: spend_status::is_spending(status.spend.as_ref()),
        as_of: spend_status::as_of(old.spend.as_ref()),
        changes_at: health::changes_at(parts.pods, parts.now),
    };
    pacing.next(object, object.status.as_ref(), status, change, parts.now)
}

/// How many replicas these pods are, and how many of them are ready: of several pods if all of these are there and
/// ready.
fn replicas_of(alive: &[&&Pod], workers: u32) -> (usize, usize) {
    let mut ready_workers: BTreeMap<&str, u32> = BTreeMap::new();
    for pod in alive.iter().filter(|pod| pod::is_ready(pod)) {
        if let Some(leader) = pod::leader(pod) {
            *ready_workers.entry(leader).or_default() += 1;
        }
    }
    let leaders = alive.iter().filter(|pod| pod::leader(pod).is_none());
    let is_ready = |pod: &&&&Pod| {
        let there = ready_workers.get(pod::uid(pod)).copied().unwrap_or(0);
        pod::is_ready(pod) && there >= workers
    };
    (leaders.clone().count(), leaders.filter(is_ready).count())
}

/// A status without what follows pods or readings, and without figures.
fn decisive(status: &InferenceDeploymentStatus) -> InferenceDeploymentStatus {
    let mut status = status.clone();
    (status.replicas, status.ready_replicas) = (0, 0);
    (status.desired_replicas, status.limited_by) = (0, None);
    (status.spend, status.queue_depth, status.reason) = (None, None, String::new());
    status.signals.clear();
    status.learned = None;
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
    status
        .conditions
        .retain(|condition| condition.type_ != READY);
    decisive_conditions(&mut status.conditions, &FOLLOWING);
    status
}

/// What follows the pods.
fn counts(status: &InferenceDeploymentStatus) -> impl PartialEq {
    let ready = counted_condition(&status.conditions, READY);
    (status.replicas, status.ready_replicas, ready)
}

fn readings(status: &InferenceDeploymentStatus) -> Readings {
    Readings {
        desired_replicas: Some(status.desired_replicas),
        limited_by: status.limited_by,
        amounts: spend_status::settled_amounts(status.spend.as_ref()),
        conditions: reading_conditions(&status.conditions, &FOLLOWING),
        signal_errors: signal_errors(status),
        ..Readings::default()
    }
}

/// Why signals cannot be read: whoever mends one cause had better see the next one soon.
fn signal_errors(status: &InferenceDeploymentStatus) -> Vec<String> {
    let is_said = |condition: &&Condition| {
        condition.type_ == SIGNALS_AVAILABLE && condition.status == "False"
    };
    let said = status.conditions.iter().filter(is_said);
    let said = said.map(|condition| condition.message.clone());
    let errors = status
        .signals
        .iter()
        .filter_map(|signal| signal.error.clone());
    said.chain(errors).collect()
}

/// Signals without the time of their last read.
fn signal_figures(signals: &[SignalStatus]) -> Vec<SignalStatus> {
    let untimed = |signal: &SignalStatus| SignalStatus {
        read_at: None,
        ..signal.clone()
    };
    signals.iter().map(untimed).collect()
}

/// What is written with the rest, or every five minutes.
fn figures(status: &InferenceDeploymentStatus) -> impl PartialEq {
    let activation = status.activation.as_ref();
    (
        status.queue_depth,
        status.reason.as_str(),
        signal_figures(&status.signals),
        status.learned,
        activation
            .and_then(|activation| activation.refusal.as_ref())
            .map(|refusal| refusal.message.as_str()),
        spend_status::figures(status.spend.as_ref()),
        messages(&status.conditions),
    )
}

/// The first of these signals that cannot be read, though its last value may still count.
fn failing(signals: &[SignalStatus]) -> Option<String> {
    signals.iter().find_map(|signal| {
        let why = signal.error.as_ref()?;
        Some(format!("signal {}: {why}", signal.name))
    })
}

fn says(decision: &Decision, ready: usize, parts: &StatusParts<'_>) -> Vec<ConditionState> {
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
                "no replica runs; the next demand starts one".to_owned(),
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
            _ => say(
                READY,
                true,
                service_ready::SERVING,
                "replicas take requests".to_owned(),
            ),
        },
        within_budget(decision.limited_by, false),
        match (
            decision.unknown.clone().or_else(|| failing(&parts.signals)),
            &decision.stalled,
        ) {
            (Some(why), _) => say(
                SIGNALS_AVAILABLE,
                false,
                signals_available::SIGNAL_UNKNOWN,
                format!("{why}; it keeps its replicas, and may get more"),
            ),
            (None, Some(stalled)) => say(
                SIGNALS_AVAILABLE,
                false,
                signals_available::ENGINE_STALLED,
                stalled.clone(),
            ),
            (None, None) => say(
                SIGNALS_AVAILABLE,
                true,
                signals_available::READ,
                "every signal can be read".to_owned(),
            ),
        },
        condition::priced(&parts.spend),
        match health::condition(
            parts.pods,
            parts.creation_failure,
            parts.failure.as_deref(),
            parts.now,
        ) {
            healthy if parts.observe_only && healthy.status == Some(true) => say(
                PODS_HEALTHY,
                true,
                pods_healthy::OBSERVE_ONLY,
                "Bursar decides, and changes nothing".to_owned(),
            ),
            says => match &decision.rollout_stuck {
                Some(why) if says.reason != pods_healthy::APPLY_FAILED => say(
                    PODS_HEALTHY,
                    false,
                    pods_healthy::ROLLOUT_STUCK,
                    format!(
                        "the rollout is stuck: {why}; replicas of the former template go on serving"
                    ),
                ),
                _ => says,
            },
        },
    ]
}

#[cfg(test)]
mod tests {
    use bursar_core::plan::Refusal;
    use jiff::SignedDuration;
    use serde_json::json;

    use super::*;
    use bursar_core::plan::LimitedBy;

    fn decision(allowed: u32, desired: u32, limited_by: Option<LimitedBy>) -> Decision {
        Decision {
            name: "chat".to_owned(),
            queue_depth: Some(u64::from(desired)),
            signals: Vec::new(),
            recommended: desired,
            desired,
            allowed,
            limited_by,
            reason: format!("queue depth {desired}"),
            unknown: None,
            stalled: None,
            rollout_stuck: None,
            refusal: None,
        }
    }

    /// A service whose status is written as [`next`] says.
    struct Service {
        object: InferenceDeployment,
        pacing: StatusPacing,
        now: Timestamp,
        writes: usize,
    }

    impl Service {
        fn new() -> Self {
            let object = json!({
                "metadata": {"name": "chat", "namespace": "team", "uid": "chat"},
                "spec": {"engine": "vLLM", "maxReplicas": 3, "template": {"spec": {"containers": []}}},
            });
            Self {
                object: serde_json::from_value(object).unwrap(),
                pacing: StatusPacing::default(),
                now: "2026-11-26T21:00:00Z".parse().unwrap(),
                writes: 0,
            }
        }

        /// A condition of the status that was written last.
        fn condition(&self, kind: &str) -> Condition {
            let status = self.object.status.as_ref().unwrap();
            let mut conditions = status.conditions.iter();
            conditions.find(|each| each.type_ == kind).unwrap().clone()
        }

        fn decide(&mut self, decision: &Decision) -> Option<Timestamp> {
            let spend = PricingState {
                summary: spend_summary(),
                doubt: None,
                unlisted: None,
                unpriced: false,
            };
            let parts = StatusParts {
                decision,
                signals: Vec::new(),
                learned: None,
                pods: &[],
                creation_failure: None,
                target: TargetParts::default(),
                port: Ok(20_000),
                spend,
                failure: None,
                observe_only: false,
                priority_limit: None,
                unreachable: None,
                not_woken: None,
                paused: None,
                now: self.now,
            };
            let next = next(&self.object, &mut self.pacing, parts);
            if let Some(status) = next.status {
                self.object.status = Some(status);
                self.writes += 1;
            }
            next.look_at
        }
    }

    fn spend_summary() -> bursar_api::spend::SpendSummary {
        bursar_api::spend::SpendSummary {
            rate_per_hour: "0.0000".to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn the_condition_names_what_cannot_be_read_and_why() {
        let mut chat = Service::new();
        let why = "gateway bursar-gateway-x has not been heard of: UnknownIssuer";
        chat.decide(&Decision {
            unknown: Some(why.to_owned()),
            ..decision(1, 1, Some(LimitedBy::Signal))
        });
        let said = chat.condition(SIGNALS_AVAILABLE);
        assert_eq!((&*said.status, &*said.reason), ("False", "SignalUnknown"));
        assert!(said.message.starts_with(why), "{}", said.message);
        let why = "pod chat-b: no counter has moved since";
        chat.now += SignedDuration::from_mins(10);
        chat.decide(&Decision {
            stalled: Some(why.to_owned()),
            ..decision(2, 2, None)
        });
        let said = chat.condition(SIGNALS_AVAILABLE);
        assert_eq!((&*said.reason, &*said.message), ("EngineStalled", why));
        chat.decide(&Decision {
            rollout_stuck: Some("pod chat-c: CrashLoopBackOff".to_owned()),
            ..decision(2, 2, None)
        });
        let said = chat.condition(PODS_HEALTHY);
        assert_eq!((&*said.status, &*said.reason), ("False", "RolloutStuck"));
        assert!(said.message.contains("pod chat-c"), "{}", said.message);
    }

    #[test]
    fn another_cause_why_a_signal_cannot_be_read_is_written_once_it_stays() {
        let mut jobs = Service::new();
        let unknown = |why: &str| Decision {
            unknown: Some(format!("signal jobs: {why}")),
            ..decision(0, 0, Some(LimitedBy::Signal))
        };
        jobs.decide(&unknown("not read yet"));
        jobs.now += SignedDuration::from_secs(1);
        let look_at = jobs.decide(&unknown("connection refused")).unwrap();
        assert_eq!(look_at, jobs.now + SignedDuration::from_secs(2));
        jobs.now = look_at;
        jobs.decide(&unknown("connection refused"));
        let said = jobs.condition(SIGNALS_AVAILABLE).message;
        assert!(
            said.starts_with("signal jobs: connection refused"),
            "{said}"
        );
        assert_eq!(jobs.writes, 2);
    }

    #[test]
    fn a_limit_that_flickers_is_not_written_and_what_gateways_read_is_at_once() {
        let mut chat = Service::new();
        let steady = decision(1, 1, None);
        let limited = decision(1, 2, Some(LimitedBy::Budget));
        assert_eq!(chat.decide(&steady), None);
        assert_eq!(chat.writes, 1, "the first status");
        for _ in 0..120 {
            for decision in [&limited, &steady] {
                chat.now += SignedDuration::from_secs(1);
                chat.decide(decision);
            }
        }
        assert_eq!(chat.writes, 1);
        let look_at = chat.decide(&limited).unwrap();
        assert_eq!(look_at, chat.now + SignedDuration::from_secs(2));
        chat.now = look_at;
        chat.decide(&limited);
        let status = chat.object.status.clone().unwrap();
        assert_eq!((chat.writes, status.limited_by), (2, limited.limited_by));
        let creation_failure = Decision {
            refusal: Some(Refusal {
                reason: RefusalReason::BudgetExhausted,
                message: "exhausted".to_owned(),
                retry_at: None,
            }),
            ..limited
        };
        chat.decide(&creation_failure);
        assert_eq!(chat.writes, 3, "a refusal");
        chat.decide(&Decision {
            allowed: 0,
            ..creation_failure
        });
        assert_eq!(chat.writes, 4, "replicas that budgets leave");
    }
}
