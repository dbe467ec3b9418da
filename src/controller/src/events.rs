//! Kubernetes Events of decisions: few, each once, in words that stay the same.
//!
//! The recorder counts Events in a series where the type, the reason, the action and the object are
//! equal, and keeps the note of the first. So the action names all that a note says besides, and
//! numbers that change with every reading stay in the status field `reason`. An Event is a Warning
//! if a person must act upon it: a budget is exhausted, something was stopped for money, a job has
//! failed, or the cluster refuses its pods.

use bursar_api::TrainingJob;
use bursar_api::training::JobPhase;
use bursar_core::budget::{BudgetState, Latch, OnExhausted};
use bursar_core::plan::{
    Decision, EvictionNotice, EvictionOrder, JobOrder, LimitedBy, ServiceOrder,
};
use bursar_core::training::Restart;
use jiff::Timestamp;
use kube::runtime::events::{Event, EventType};

use crate::spend_status::display_amount;

/// Reason: the number of a service's replicas changes.
pub(crate) const SCALED: &str = "Scaled";
/// Reason: held requests start a service that has no replica.
pub(crate) const WOKEN: &str = "Woken";
/// Reason: a service goes to zero replicas because it was asked for nothing.
pub(crate) const IDLE: &str = "Idle";
/// Reason: a job starts for the first time.
pub(crate) const STARTED: &str = "Started";
/// Reason: a job that ran before starts again.
pub(crate) const RESUMED: &str = "Resumed";
/// Reason: a job that runs is stopped and waits.
pub(crate) const SUSPENDED: &str = "Suspended";
/// Reason: a worker has ended, or is lost, and all workers of its job start again.
pub(crate) const RESTARTED: &str = "Restarted";
/// Reason: a worker of a job has failed, and the job's restarts are used up.
pub(crate) const FAILED: &str = "Failed";
/// Reason: the limit of a budget is reached.
pub(crate) const BUDGET_EXHAUSTED: &str = "BudgetExhausted";
/// Reason: a budget that was exhausted has money again.
pub(crate) const BUDGET_REOPENED: &str = "BudgetReopened";

/// Reason: a pod of no workload will be evicted, since its namespace's budget has no money for it.
pub(crate) const EVICTION_PLANNED: &str = "EvictionPlanned";
/// Reason: such a pod was evicted.
pub(crate) const EVICTED: &str = "Evicted";

/// Reason: a budget stops workloads though its latch cannot be written.
pub(crate) const LATCH_UNWRITTEN: &str = "LatchUnwritten";

/// What was said last of one service. Replicas that are drained leave one by one, and that is said
/// once, when the first begins to leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ServiceEvents {
    /// The replicas that were said to become.
    target: Option<u32>,
}

impl ServiceEvents {
    /// The Event of an order that follows from this decision, if it is new.
    pub(crate) fn next(&mut self, order: &ServiceOrder, decision: &Decision) -> Option<Event> {
        let (from, to) = (order.replicas.0, decision.allowed);
        if self.target.replace(to) == Some(to) || from == to {
            return None;
        }
        let takes = matches!(
            decision.limited_by,
            Some(LimitedBy::Budget | LimitedBy::Preempted)
        );
        let is_for_money = to < from && takes;
        let is_idle = to == 0 && decision.limited_by.is_none() && decision.recommended == 0;
        let (reason, cause) = if from == 0 && order.held_since.is_some() {
            (WOKEN, "gateways hold requests")
        } else if is_idle {
            (IDLE, "no request for as long as scaling.idle.after says")
        } else if is_for_money {
            (SCALED, order.reason.as_str())
        } else {
            (SCALED, scaling_cause(to > from, decision.limited_by))
        };
        Some(Event {
            type_: severity(is_for_money),
            reason: reason.to_owned(),
            note: Some(format!("from {from} to {to} replicas: {cause}")),
            action: format!("ScaleFrom{from}To{to}"),
            secondary: None,
        })
    }
}

/// Why the number of replicas changes, without numbers.
fn scaling_cause(grows: bool, limited_by: Option<LimitedBy>) -> &'static str {
    match (grows, limited_by) {
        (true, None) => "more demand",
        (true, Some(LimitedBy::MaxReplicas)) => "more demand, up to maxReplicas",
        (true, Some(LimitedBy::Budget)) => "more demand, as far as budgets allow",
        (true, Some(LimitedBy::PriceUnknown)) => "more demand, as far as prices are known",
        (true, Some(LimitedBy::Signal)) => "more demand, as far as signals can be read",
        (true, Some(LimitedBy::ScalingPolicy)) => "more demand, as far as scaling policies allow",
        (_, Some(LimitedBy::MinReplicas)) => "minReplicas",
        (_, Some(LimitedBy::Schedule)) => "a schedule",
        (false, Some(LimitedBy::MaxReplicas)) => "maxReplicas",
        (true, Some(_)) => "more demand; see limitedBy",
        (false, None) => "less demand",
        (false, Some(LimitedBy::ScalingPolicy)) => "less demand, as far as scaling policies allow",
        (false, Some(LimitedBy::Stabilization)) => "less demand, after its stabilization window",
        (false, Some(_)) => "less demand; see limitedBy",
    }
}

/// The Event of an order for a TrainingJob.
pub(crate) fn of_job(order: &JobOrder, object: &TrainingJob) -> Option<Event> {
    if let Some(restart) = order.restart.filter(|_| !order.run) {
        return Some(of_restart(order, restart, object));
    }
    let (limited_by, status) = (order.limited_by, object.status.as_ref());
    let phase = status.map_or(JobPhase::Queued, |status| status.phase);
    let runs = matches!(phase, JobPhase::Starting | JobPhase::Running);
    let has_run = status.is_some_and(|status| status.attempts > 0);
    let takes = matches!(limited_by, Some(LimitedBy::Budget | LimitedBy::Preempted));
    let is_for_money = !order.run && takes;
    let (reason, note) = match (order.run, has_run) {
        (true, false) => (STARTED, "all workers may start"),
        (true, true) => (RESUMED, "all workers may start again"),
        // what never ran, or is suspended already, is not suspended by an order that says so again
        (false, _) if !runs && order.retry.is_none() => return None,
        (false, _) => (SUSPENDED, suspension_cause(order, limited_by)),
    };
    Some(Event {
        type_: severity(is_for_money || !order.run && has_pod_creation_failure(order)),
        reason: reason.to_owned(),
        note: Some(note.to_owned()),
        action: match limited_by {
            Some(_) if !order.run && has_pod_creation_failure(order) => {
                "SuspendForRefusedPods".to_owned()
            }
            Some(limit) if !order.run => format!("SuspendFor{}", limit.as_str()),
            _ if order.run => "Run".to_owned(),
            _ => "Suspend".to_owned(),
        },
        secondary: None,
    })
}

/// The Event of an order to stop all workers because one of them has ended or is lost. The action
/// names the restart, so that each of them is said.
fn of_restart(order: &JobOrder, restart: Restart, object: &TrainingJob) -> Event {
    let is_last = i64::from(restart.count) > i64::from(object.spec.restarts);
    let (reason, action) = match is_last {
        true => (FAILED, "Fail".to_owned()),
        false => (RESTARTED, format!("RestartAt{}", restart.at)),
    };
    Event {
        type_: severity(is_last),
        reason: reason.to_owned(),
        note: Some(order.reason.clone()),
        action,
        secondary: None,
    }
}

/// Whether an order takes a gang back because the cluster refuses its pods.
fn has_pod_creation_failure(order: &JobOrder) -> bool {
    let retry = order.retry.as_ref();
    retry.is_some_and(|retry| retry.creation_failure.is_some())
}

fn suspension_cause(order: &JobOrder, limited_by: Option<LimitedBy>) -> &str {
    match limited_by {
        Some(LimitedBy::Suspended) => "spec.suspend is true",
        Some(LimitedBy::Capacity) if has_pod_creation_failure(order) => &order.reason,
        Some(LimitedBy::Capacity) => {
            "some workers found no node, or were given no pod; it starts again once all find one"
        }
        _ => &order.reason,
    }
}

/// The Event of a budget's latch that is set, stops more than before, or is released.
/// `latched_before` is the latch before this decision: the start of its period, and the priority below
/// which it stopped workloads, if not all.
pub(crate) fn of_latch(
    latched_before: Option<(Timestamp, Option<i32>)>,
    budget_state: &BudgetState,
) -> Option<Event> {
    let (budget, period) = (&budget_state.budget, budget_state.period);
    let (reason, action, note) = match (latched_before, budget.latch) {
        (None, None) => return None,
        // a raised limit that is reached as well is no news
        (Some(before), Some(latch)) if before == (latch.period_start, latch.stops_below) => {
            return None;
        }
        (
            _,
            Some(Latch {
                stops_below: Some(below),
                ..
            }),
        ) => {
            let note = format!(
                "{} of {} spent: workloads of a priority below {below} stop until {}, and what is \
                 left is for the others",
                display_amount(budget.spent),
                display_amount(budget.limit),
                period.end,
            );
            (BUDGET_EXHAUSTED, "StopLowerPriority", note)
        }
        (_, Some(_)) => {
            let action = match budget.on_exhausted {
                OnExhausted::ScaleToZero => "ScaleToZero",
                OnExhausted::ScaleToMin => "ScaleToMin",
                OnExhausted::Freeze => "Freeze",
            };
            let note = format!(
                "{} of {} spent, and stopping costs {}: {action} until {}, or until its limit is raised or a credit is given",
                display_amount(budget.spent),
                display_amount(budget.limit),
                display_amount(budget_state.reserve),
                period.end,
            );
            (BUDGET_EXHAUSTED, action, note)
        }
        (Some((before, _)), None) if before < period.start => {
            let note = "a new period has begun".to_owned();
            (BUDGET_REOPENED, "BeginPeriod", note)
        }
        (Some(_), None) => {
            let note = "its limit was raised, or a credit was given".to_owned();
            (BUDGET_REOPENED, "Reopen", note)
        }
    };
    Some(Event {
        type_: severity(reason == BUDGET_EXHAUSTED),
        reason: reason.to_owned(),
        note: Some(note),
        action: action.to_owned(),
        secondary: None,
    })
}

/// The Event of a budget that stops workloads though its latch cannot be written.
pub(crate) fn of_unwritten_latch(why: &str) -> Event {
    Event {
        type_: EventType::Warning,
        reason: LATCH_UNWRITTEN.to_owned(),
        note: Some(format!(
            "it is exhausted and stops workloads, but its status cannot be written: {why}; another leader may start them again"
        )),
        action: "Stop".to_owned(),
        secondary: None,
    }
}

/// The Event of a pod of no workload that will be evicted.
pub(crate) fn of_eviction_notice(notice: &EvictionNotice) -> Event {
    let (budget, at) = (&notice.budget, notice.at);
    Event {
        type_: EventType::Warning,
        reason: EVICTION_PLANNED.to_owned(),
        note: Some(format!(
            "budget {budget} is exhausted and has unmanaged: Evict: this pod is evicted at {at:.0}, unless its limit is raised or a credit is \
             given before. Scale down what would make it anew"
        )),
        action: format!("EvictAt{at:.0}"),
        secondary: None,
    }
}

/// The Event of a pod of no workload that was evicted.
pub(crate) fn of_eviction(order: &EvictionOrder) -> Event {
    Event {
        type_: EventType::Warning,
        reason: EVICTED.to_owned(),
        note: Some(format!("budget {} is exhausted", order.budget)),
        action: "Evict".to_owned(),
        secondary: None,
    }
}

fn severity(must_act: bool) -> EventType {
    if must_act {
        EventType::Warning
    } else {
        EventType::Normal
    }
}

#[cfg(test)]
#[path = "tests/events.rs"]
mod tests;
