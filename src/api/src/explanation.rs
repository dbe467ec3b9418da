//! The leader's last decision over a namespace, as the controller answers and `kubectl bursar
//! explain` reads.
//!
//! Controller and plugin may be of different versions: a reader ignores fields that it does not
//! know, and a field that is missing or null is unknown, never zero. Names on the wire do not
//! change; where a better word was found, the field is renamed here alone.

use bursar_core::money::Money;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What RBAC must let a caller get in a namespace to read its explanation: a resource of Bursar's API
/// group without objects.
pub const RESOURCE: &str = "explanations";

/// The controllers' Service and its port, as the API server's proxy names them.
pub const SECURE_SERVICE: &str = "https:bursar-controller:secure";
/// A controller that does not lead answers with these words.
pub const NOT_LEADING: &str = "this controller does not lead";

/// Route of explanations on the controller's secure port.
pub const ROUTE: &str = "/explain/{namespace}";

/// The path of a namespace's explanation on the controller's secure port.
pub fn path(namespace: &str) -> String {
    ROUTE.replace("{namespace}", namespace)
}

/// A decision over a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Explanation {
    /// What is paused with the namespace: `cluster` or `namespace`; `None` if it is not.
    pub paused: Option<String>,
    /// When it was made.
    #[serde(rename = "at")]
    pub decided_at: Option<Timestamp>,
    /// InferenceDeployments.
    pub services: Vec<ServiceExplanation>,
    /// TrainingJobs that have not finished, in the order of the queue.
    pub jobs: Vec<JobExplanation>,
    /// BudgetPolicies.
    pub budgets: Vec<BudgetExplanation>,
    /// When the decision may change though nothing else does.
    #[serde(rename = "nextLook")]
    pub next_decision: Option<Timestamp>,
}

impl Explanation {
    /// The InferenceDeployment of this name.
    pub fn service(&self, name: &str) -> Option<&ServiceExplanation> {
        self.services.iter().find(|service| service.name == name)
    }

    /// The TrainingJob of this name.
    pub fn job(&self, name: &str) -> Option<&JobExplanation> {
        self.jobs.iter().find(|job| job.name == name)
    }

    /// The BudgetPolicy of this name.
    pub fn budget(&self, name: &str) -> Option<&BudgetExplanation> {
        self.budgets.iter().find(|budget| budget.name == name)
    }
}

/// The decision over an InferenceDeployment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceExplanation {
    /// Its name.
    pub name: String,
    /// Requests waiting, running and held; `None` while the engine's metrics cannot be read.
    pub queue_depth: Option<u64>,
    /// Requests that gateways hold for it.
    pub held: Option<u64>,
    /// Queue depth that one replica should carry; `None` where that asks for no replicas.
    pub target: Option<u32>,
    /// Its signals other than its requests.
    pub signals: Vec<SignalExplanation>,
    /// Replicas that it has been given and that are not draining.
    pub current: Option<u32>,
    /// Replicas that the queue depth asks for, before any bound.
    #[serde(rename = "asked")]
    pub recommended: Option<u32>,
    /// Replicas wanted, within the service's own bounds.
    pub desired: Option<u32>,
    /// Replicas that budgets allow.
    pub allowed: Option<u32>,
    /// What limited it last; `None` if nothing did.
    pub limited_by: Option<String>,
    /// Why, with the numbers.
    pub reason: Option<String>,
    /// When it last had a request.
    #[serde(rename = "activeAt")]
    pub last_active: Option<Timestamp>,
    /// Pods that one replica is: more than one where a group of them is a replica.
    pub pods_per_replica: Option<u32>,
    /// Money an hour of one replica; `None` while no price is known.
    pub replica_rate_per_hour: Option<Money>,
    /// Money that one replica still costs when it is stopped now.
    pub replica_reserve: Option<Money>,
}

/// A signal as the decision found it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SignalExplanation {
    /// Its name.
    pub name: String,
    /// Its value, as a decimal number; `None` if it is not known.
    pub value: Option<String>,
    /// How much of it one replica should carry.
    pub target: Option<String>,
    /// The same in words, where the value is no amount that replicas carry: what they use, or a latency.
    pub text: Option<String>,
    /// The replicas that it asks for.
    pub replicas: Option<u32>,
    /// Why it is not known.
    pub error: Option<String>,
}

/// The decision over a TrainingJob.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobExplanation {
    /// Its name.
    pub name: String,
    /// Whether it may run.
    #[serde(rename = "run")]
    pub may_run: Option<bool>,
    /// What keeps it from running; `None` if nothing does.
    pub limited_by: Option<String>,
    /// Its place among the jobs that wait, from 1; `None` if it does not wait.
    #[serde(rename = "position")]
    pub queue_position: Option<u32>,
    /// Why, with the numbers.
    pub reason: Option<String>,
}

/// A budget as the decision found it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetExplanation {
    /// The BudgetPolicy's name.
    pub name: String,
    /// Money for one period.
    pub limit: Option<Money>,
    /// Money spent in the period, corrections included.
    pub spent: Option<Money>,
    /// The part of `spent` that corrections are; negative where more was credited than added.
    pub corrections: Option<Money>,
    /// Money that everything running would still cost if it was stopped now.
    pub reserve: Option<Money>,
    /// Money left of the limit, without what is spent and in reserve.
    pub remaining: Option<Money>,
    /// Money an hour of everything that runs or starts.
    pub rate_per_hour: Option<Money>,
    /// Start of the budget's period.
    pub period_start: Option<Timestamp>,
    /// End of the budget's period.
    pub period_end: Option<Timestamp>,
    /// When an edit takes effect that would stop something; `None` if none waits.
    pub change_effective_at: Option<Timestamp>,
    /// Whether it is exhausted.
    pub exhausted: Option<bool>,
    /// When it will be exhausted at this rate; `None` if that is not in this period, or if it is
    /// exhausted.
    pub exhaustion_time: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn unknown_fields_are_ignored_and_missing_or_null_ones_are_none() {
        let explanation: Explanation = serde_json::from_value(json!({
            "at": "2026-11-24T04:00:05Z", "shards": [1],
            "services": [{"name": "chat", "queueDepth": null, "held": 0, "sharding": {"by": "zone"}}],
        }))
        .unwrap();
        let chat = explanation.service("chat").unwrap();
        assert_eq!(chat.queue_depth, None);
        assert_eq!(chat.held, Some(0));
        assert_eq!((chat.current, chat.replica_rate_per_hour), (None, None));
        assert_eq!(explanation.next_decision, None);
        assert!(explanation.job("chat").is_none() && explanation.budget("chat").is_none());
    }

    #[test]
    fn names_on_the_wire_stay() {
        let explanation = Explanation {
            services: vec![ServiceExplanation {
                signals: vec![SignalExplanation::default()],
                ..ServiceExplanation::default()
            }],
            jobs: vec![JobExplanation::default()],
            budgets: vec![BudgetExplanation::default()],
            ..Explanation::default()
        };
        let value = serde_json::to_value(explanation).unwrap();
        let keys = |value: &serde_json::Value| -> String {
            let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            keys.sort_unstable();
            keys.join(" ")
        };
        assert_eq!(keys(&value), "at budgets jobs nextLook paused services");
        assert_eq!(
            keys(&value["services"][0]),
            "activeAt allowed asked current desired held limitedBy name podsPerReplica queueDepth reason replicaRatePerHour replicaReserve signals target"
        );
        assert_eq!(
            keys(&value["services"][0]["signals"][0]),
            "error name replicas target text value"
        );
        assert_eq!(
            keys(&value["jobs"][0]),
            "limitedBy name position reason run"
        );
        assert_eq!(
            keys(&value["budgets"][0]),
            "changeEffectiveAt corrections exhausted exhaustionTime limit name periodEnd periodStart ratePerHour remaining reserve spent"
        );
    }
}
