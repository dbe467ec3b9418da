//! An object's status, in words: what is known without the leader.

use std::fmt::Display;

use bursar_api::spend::SpendSummary;
use bursar_api::{BudgetPolicy, InferenceDeployment, TrainingJob};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use serde::Serialize;

use super::decision::limits;
use super::leader::StoredObject;
use crate::format::description::Description;

/// Describes what an object's status says, and why the leader does not.
pub(super) fn describe(page: &mut Description, object: &StoredObject, cause: &str) {
    page.wrapped(
        "",
        &format!("from the object's status, not from the leader: {cause}"),
        0,
    );
    page.line("");
    let has_status = match object {
        StoredObject::Service(service) => describe_service(page, service),
        StoredObject::Job(job) => describe_job(page, job),
        StoredObject::Budget(budget) => describe_budget(page, budget),
    };
    if has_status.is_none() {
        page.row("status", "none: no controller has written it yet");
    }
}

fn describe_service(page: &mut Description, service: &InferenceDeployment) -> Option<()> {
    let status = service.status.as_ref()?;
    generation(page, &service.metadata, status.observed_generation);
    field(page, "queue depth", status.queue_depth);
    field(page, "ready", Some(status.ready_replicas));
    field(page, "desired", Some(status.desired_replicas));
    field(page, "allowed", Some(status.allowed_replicas));
    field(page, "current", Some(status.replicas));
    let limited_by = status.limited_by.map(|limit| limit.as_str());
    limits(page, limited_by, Some(&status.reason));
    spend(page, status.spend.as_ref());
    conditions(page, &status.conditions);
    Some(())
}

fn describe_job(page: &mut Description, job: &TrainingJob) -> Option<()> {
    let status = job.status.as_ref()?;
    generation(page, &job.metadata, status.observed_generation);
    field(page, "phase", word(&status.phase));
    field(page, "ready", Some(status.workers.ready));
    field(page, "workers", Some(status.workers.replicas));
    for role in &status.roles {
        let workers = &role.workers;
        let text = format!(
            "{}: {} of {} ready",
            role.name, workers.ready, workers.replicas
        );
        page.row("role", &text);
    }
    field(page, "in the queue", status.queue_position);
    field(page, "attempts", Some(status.attempts));
    let limited_by = status.limited_by.map(|limit| limit.as_str());
    limits(page, limited_by, Some(&status.reason));
    spend(page, status.spend.as_ref());
    conditions(page, &status.conditions);
    Some(())
}

fn describe_budget(page: &mut Description, budget: &BudgetPolicy) -> Option<()> {
    let status = budget.status.as_ref()?;
    generation(page, &budget.metadata, status.observed_generation);
    field(page, "limit", Some(&budget.spec.limit));
    field(page, "spent", written(&status.spent));
    field(page, "corrections", status.corrections.as_deref());
    field(page, "in reserve", written(&status.reserve));
    field(page, "remaining", written(&status.remaining));
    field(page, "rate", written(&status.rate_per_hour));
    field(page, "phase", status.phase.as_ref().and_then(word));
    field(page, "exhausted on", time(status.exhaustion_time.as_ref()));
    field(page, "as of", time(status.as_of.as_ref()));
    conditions(page, &status.conditions);
    Some(())
}

fn generation(page: &mut Description, metadata: &ObjectMeta, observed: Option<i64>) {
    if observed < metadata.generation {
        page.row("note", "the status is of an earlier spec");
    }
}

fn field(page: &mut Description, name: &str, value: Option<impl Display>) {
    if let Some(value) = value {
        page.row(name, &value.to_string());
    }
}

/// A text of a status; `None` if it has not been written.
fn written(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn time(at: Option<&Time>) -> Option<String> {
    at.map(|at| format!("{:.0}", at.0))
}

/// The word that the API has for a phase.
fn word(phase: &impl Serialize) -> Option<String> {
    let value = serde_json::to_value(phase).ok()?;
    value.as_str().map(str::to_owned)
}

fn spend(page: &mut Description, spend: Option<&SpendSummary>) {
    let Some(spend) = spend else { return };
    let currency = &spend.currency;
    page.row(
        "spent",
        &format!(
            "{} {currency} today, {} this month, {} in all; {} an hour",
            spend.today, spend.month_to_date, spend.total, spend.rate_per_hour
        ),
    );
    if let Some(amount) = &spend.corrections {
        page.row(
            "corrections",
            &format!("{amount} {currency} this month, in addition to what is spent"),
        );
    }
    field(page, "as of", time(spend.as_of.as_ref()));
}

fn conditions(page: &mut Description, conditions: &[Condition]) {
    for condition in conditions {
        let text = format!(
            "{}: {} ({}) {}",
            condition.type_, condition.status, condition.reason, condition.message
        );
        page.row("condition", &text);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::format::terminal::TEXT_WIDTH;

    fn described(object: StoredObject) -> String {
        let mut page = Description::new(TEXT_WIDTH);
        describe(&mut page, &object, "no controller leads");
        page.into_text()
    }

    fn service(status: Value) -> StoredObject {
        let service = json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment",
            "metadata": {"name": "chat", "generation": 2},
            "spec": {"engine": "vLLM", "maxReplicas": 4, "template": {}}, "status": status,
        });
        StoredObject::Service(serde_json::from_value(service).unwrap())
    }

    #[test]
    fn a_status_is_described_with_why_it_is_not_the_leaders_answer() {
        let text = described(service(json!({
            "observedGeneration": 1, "readyReplicas": 1, "desiredReplicas": 2, "allowedReplicas": 1, "replicas": 1, "limitedBy": "Budget",
            "reason": "r", "spend": {"today": "0.1000", "monthToDate": "0.2000", "total": "0.3000", "ratePerHour": "6.8800",
            "gpuHours": "0.1", "currency": "USD", "asOf": "2026-11-24T04:00:00Z"},
            "conditions": [{"type": "Ready", "status": "False", "reason": "PodStuck", "message": "the image cannot be pulled",
                "lastTransitionTime": "2026-11-24T04:00:00Z"}],
        })));
        for part in [
            "from the object's status, not from the leader: no controller leads\n",
            "the status is of an earlier spec",
            "  allowed        1\n",
            "  limited by     Budget\n",
            "0.3000 in all",
            "Ready: False (PodStuck) the image cannot be pulled",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains("queue depth"), "it is unknown:\n{text}");
    }

    #[test]
    fn the_workers_of_each_role_are_described() {
        let workers = |name: &str, replicas: i32, ready: i32| json!({"name": name, "replicas": replicas, "ready": ready});
        let job = json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "train"},
            "spec": {"framework": "PyTorch"}, "status": {
                "workers": {"replicas": 4, "ready": 3}, "roles": [workers("master", 1, 1), workers("worker", 3, 2)],
            },
        });
        let text = described(StoredObject::Job(serde_json::from_value(job).unwrap()));
        for part in [
            "  ready          3\n",
            "  workers        4\n",
            "  role           master: 1 of 1 ready\n",
            "  role           worker: 2 of 3 ready\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn an_object_without_a_status_is_described_as_such() {
        let text = described(service(Value::Null));
        assert!(text.contains("no controller has written it yet"), "{text}");
    }
}
