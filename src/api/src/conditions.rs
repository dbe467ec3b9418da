//! Condition types and reasons, all in one place, and how a list of conditions changes.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// A replica takes requests, or the service may wake one.
pub const READY: &str = "Ready";
/// Budgets leave what the demand asks for.
pub const WITHIN_BUDGET: &str = "WithinBudget";
/// Every signal can be read.
pub const SIGNALS_AVAILABLE: &str = "SignalsAvailable";
/// A price is known for what runs.
pub const PRICED: &str = "Priced";
/// No pod is stuck.
pub const PODS_HEALTHY: &str = "PodsHealthy";
/// The resource can be read.
pub const ACCEPTED: &str = "Accepted";

/// The present value of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Says {
    /// Its type.
    pub kind: &'static str,
    /// True, false, or not known.
    pub status: Option<bool>,
    /// A word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// The conditions that follow `old`. The transition time moves only when a status changes.
pub fn next(
    old: &[Condition],
    says: Vec<Says>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    says.into_iter()
        .map(|says| {
            let status = match says.status {
                Some(true) => "True",
                Some(false) => "False",
                None => "Unknown",
            };
            let since = old
                .iter()
                .find(|condition| condition.type_ == says.kind && condition.status == status)
                .map_or_else(
                    || Time(bursar_core::calendar::whole_second(now)),
                    |condition| condition.last_transition_time.clone(),
                );
            Condition {
                type_: says.kind.to_owned(),
                status: status.to_owned(),
                reason: says.reason.to_owned(),
                message: says.message,
                last_transition_time: since,
                observed_generation: generation,
            }
        })
        .collect()
}

/// Takes the words away that change while what they tell does not: a pod's troubles and a signal's
/// errors come in turns. For comparing two lists of conditions.
pub fn settle(conditions: &mut [Condition]) {
    let alternates = |condition: &&mut Condition| {
        [SIGNALS_AVAILABLE, PODS_HEALTHY].contains(&condition.type_.as_str())
            && condition.reason != "ApplyFailed"
    };
    for condition in conditions.iter_mut().filter(alternates) {
        condition.message.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let says = |status, message: &str| {
            vec![Says {
                kind: READY,
                status,
                reason: "R",
                message: message.into(),
            }]
        };
        let first = next(&[], says(Some(true), "a"), None, at(1));
        let second = next(&first, says(Some(true), "b"), None, at(2));
        assert_eq!(
            (second[0].last_transition_time.0, second[0].message.as_str()),
            (at(1), "b")
        );
        assert_eq!(
            next(&second, says(None, "c"), None, at(3))[0]
                .last_transition_time
                .0,
            at(3)
        );
    }
}
