//! Writes statuses, and announces in Events which of their conditions changed.

use std::fmt::Debug;

use bursar_api::budget::BudgetPolicyStatus;
use bursar_api::conditions::{self, budget_within_budget};
use bursar_api::correction::SpendCorrectionStatus;
use bursar_api::inference::InferenceDeploymentStatus;
use bursar_api::prices::PriceListStatus;
use bursar_api::training::{JobPhase, TrainingJobStatus};
use bursar_api::{BudgetPolicy, InferenceDeployment, PriceList, SpendCorrection, TrainingJob};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, PostParams};
use kube::runtime::events::{Event, EventType};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api_calls::{ApiError, with_timeout};
use crate::event_publisher::EventPublisher;

/// A resource with conditions, whose status the controller writes.
pub(crate) trait StatusObject:
    Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug
{
    type Status;
    /// The write, as errors name it.
    const CALL: &'static str;

    /// The calls for this object.
    fn api(&self, client: &Client) -> Api<Self>;
    /// The conditions of its present status.
    fn conditions(&self) -> &[Condition];
    /// The object with another status.
    fn with_status(&self, status: Self::Status) -> Self;
    /// Whether something of it is stopped between this status and `new`, which an Event of its own
    /// says.
    fn is_stopped_in(&self, new: &Self) -> bool;
}

macro_rules! status_objects {
    ($($kind:ident: $status:ident, $call:literal, $api:expr, $is_stopped:expr;)*) => {$(
        impl StatusObject for $kind {
            type Status = $status;
            const CALL: &'static str = $call;

            fn api(&self, client: &Client) -> Api<Self> {
                let api: fn(Client, String) -> Api<Self> = $api;
                api(client.clone(), self.namespace().unwrap_or_default())
            }

            fn conditions(&self) -> &[Condition] {
                let status = self.status.as_ref();
                status.map_or(&[], |status| &status.conditions)
            }

            fn with_status(&self, status: $status) -> Self {
                let status = Some(status);
                Self { status, ..self.clone() }
            }

            fn is_stopped_in(&self, new: &Self) -> bool {
                let is_stopped: fn(&$status, &$status) -> bool = $is_stopped;
                let (before, after) = (self.status.as_ref(), new.status.as_ref());
                before.zip(after).is_some_and(|(before, after)| is_stopped(before, after))
            }
        }
    )*};
}

status_objects! {
    InferenceDeployment: InferenceDeploymentStatus, "replace inferencedeployment status",
        |client, namespace| Api::namespaced(client, &namespace),
        |before, after| after.allowed_replicas < before.allowed_replicas;
    TrainingJob: TrainingJobStatus, "replace trainingjob status",
        |client, namespace| Api::namespaced(client, &namespace),
        |before, after| runs(before.phase) && !runs(after.phase);
    BudgetPolicy: BudgetPolicyStatus, "replace budgetpolicy status",
        |client, namespace| Api::namespaced(client, &namespace), |_, _| false;
    PriceList: PriceListStatus, "replace pricelist status",
        |client, _| Api::all(client), |_, _| false;
    SpendCorrection: SpendCorrectionStatus, "replace spendcorrection status",
        |client, _| Api::all(client), |_, _| false;
}

fn runs(phase: JobPhase) -> bool {
    matches!(phase, JobPhase::Starting | JobPhase::Running)
}

/// Writes an object's status at the version that was read. Returns the object as it was sent.
///
/// # Errors
/// The status could not be written.
pub(crate) async fn write<K: StatusObject>(
    client: &Client,
    object: &K,
    status: K::Status,
) -> Result<K, ApiError> {
    let new = object.with_status(status);
    let (api, name, params) = (object.api(client), object.name_any(), PostParams::default());
    with_timeout(K::CALL, api.replace_status(&name, &params, &new)).await?;
    Ok(new)
}

/// Writes an object's status, and announces which of its conditions changed.
///
/// # Errors
/// The status could not be written; nothing is announced then.
pub(crate) async fn write_and_announce<K: StatusObject>(
    client: &Client,
    events: &EventPublisher,
    object: &K,
    status: K::Status,
) -> Result<(), ApiError> {
    let new = write(client, object, status).await?;
    announce(events, object, &new);
    Ok(())
}

/// Announces conditions that changed between two statuses of an object: few Events, and each once.
pub(crate) fn announce<K: StatusObject>(events: &EventPublisher, object: &K, new: &K) {
    for event in changed_conditions(object, new) {
        events.send(object.object_ref(&()), event);
    }
}

/// The Events of conditions that changed, without what an Event of a decision says.
fn changed_conditions<K: StatusObject>(object: &K, new: &K) -> Vec<Event> {
    let mut events = Vec::new();
    for condition in new.conditions() {
        let mut before = object.conditions().iter();
        let old = before.find(|old| old.type_ == condition.type_);
        let changed =
            old.is_none_or(|old| old.status != condition.status || old.reason != condition.reason);
        // of a condition that is there only while it is so, True is news
        let warns = condition.type_ == conditions::BUDGET_CHANGE_PENDING;
        let is_good = (condition.status == "True") != warns;
        let was_good = old.is_none_or(|old| (old.status == "True") != warns);
        // that all is well from the start is no news, and readiness has its own column
        if !changed
            || (is_good && was_good)
            || condition.type_ == conditions::READY
            || is_said_otherwise(object, new, old, condition)
        {
            continue;
        }
        events.push(Event {
            type_: if is_good {
                EventType::Normal
            } else {
                EventType::Warning
            },
            reason: condition.reason.clone(),
            note: Some(condition.message.clone()),
            action: condition.type_.clone(),
            secondary: None,
        });
    }
    events
}

/// Whether an Event of a decision says the same: a budget is exhausted or open again, or it stops a
/// workload.
fn is_said_otherwise<K: StatusObject>(
    object: &K,
    new: &K,
    old: Option<&Condition>,
    condition: &Condition,
) -> bool {
    let [exhausted, over_limit, active] = [
        budget_within_budget::EXHAUSTED,
        budget_within_budget::OVER_LIMIT,
        budget_within_budget::ACTIVE,
    ]
    .map(conditions::Reason::as_str);
    let old_reason = old.map_or(active, |old| &old.reason);
    condition.type_ == conditions::WITHIN_BUDGET
        && (condition.reason == exhausted
            || condition.reason == over_limit && old_reason == active
            || condition.reason == active && [exhausted, over_limit].contains(&old_reason)
            || condition.status == "False" && object.is_stopped_in(new))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn condition(kind: &str, status: &str, reason: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-11-26T00:00:00Z"})
    }

    fn budget(reason: &str) -> BudgetPolicy {
        let status = if reason == "Active" { "True" } else { "False" };
        serde_json::from_value(json!({
            "metadata": {"name": "team"}, "spec": {"limit": "5", "period": "Daily"},
            "status": {"conditions": [condition("WithinBudget", status, reason)]},
        }))
        .unwrap()
    }

    fn reasons<K: StatusObject>(object: &K, new: &K) -> Vec<String> {
        let events = changed_conditions(object, new).into_iter();
        events.map(|event| event.reason).collect()
    }

    #[test]
    fn the_exhaustion_of_a_budget_is_said_once_and_its_other_states_too() {
        let said = |old: &str, new: &str| reasons(&budget(old), &budget(new));
        for (old, new) in [
            ("Active", "Exhausted"),
            ("Exhausted", "Active"),
            ("OverLimit", "Active"),
            ("Active", "OverLimit"),
            ("Active", "Active"),
        ] {
            assert_eq!(
                said(old, new),
                [""; 0],
                "{old} to {new}: an Event of its own"
            );
        }
        assert_eq!(said("Exhausted", "OverLimit"), ["OverLimit"]);
        assert_eq!(said("Active", "PriceUnknown"), ["PriceUnknown"]);
        assert_eq!(said("PriceUnknown", "Active"), ["Active"]);
    }

    #[test]
    fn a_budget_that_limits_a_service_is_said_unless_it_scales_it_down() {
        let service = |allowed: i32, limited: bool| -> InferenceDeployment {
            let within = if limited {
                condition("WithinBudget", "False", "BudgetLimits")
            } else {
                condition("WithinBudget", "True", "WithinBudget")
            };
            serde_json::from_value(json!({
                "metadata": {"name": "chat"},
                "spec": {"engine": "vLLM", "maxReplicas": 3, "template": {"spec": {"containers": []}}},
                "status": {"allowedReplicas": allowed, "conditions": [within]},
            }))
            .unwrap()
        };
        let (open, stopped) = (service(2, false), service(0, true));
        assert_eq!(reasons(&open, &stopped), [""; 0], "Scaled says it");
        assert_eq!(reasons(&open, &service(2, true)), ["BudgetLimits"]);
        assert_eq!(reasons(&stopped, &open), ["WithinBudget"]);
    }
}
