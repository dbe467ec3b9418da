//! What becomes of one service: what it asks for, less what budgets do not pay for.

use jiff::{SignedDuration, Timestamp};

use crate::budget::{BudgetAdmission, Denied};
use crate::limit::LimitedBy;
use crate::refusal::RefusalReason;
use crate::scaling::{Activation, Recommendation, Service};

/// A request that came while no replica could start may try again after this long.
const START_AGAIN: SignedDuration = SignedDuration::from_secs(60);

/// The answer to a request that no replica can serve and that may wake none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: RefusalReason,
    /// A sentence for the caller.
    pub message: String,
    /// When to try again.
    pub retry_at: Option<Timestamp>,
}

/// What becomes of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The service.
    pub name: String,
    /// Requests waiting, running and held; `None` if unknown.
    pub queue_depth: Option<u64>,
    /// Replicas that the demand asks for, before any window or bound: what the stabilization window remembers.
    pub asked: u32,
    /// Replicas wanted, within the service's own bounds.
    pub desired: u32,
    /// Replicas that budgets leave.
    pub allowed: u32,
    /// What limited it last.
    pub limited_by: Option<LimitedBy>,
    /// Why, with the numbers.
    pub reason: String,
    /// Why its demand is not known, if it is not, whatever else limits it.
    pub unknown: Option<String>,
    /// Which replica has requests that are not believed, and since when its counters have stood still.
    pub stalled: Option<String>,
    /// Why its rollout is stuck, if it is.
    pub rollout_stuck: Option<String>,
    /// What a request gets while no replica is ready.
    pub refusal: Option<Refusal>,
}

/// Takes from a desire what budgets do not pay for. Replicas that were ordered are paid for already; each new one must be.
pub(crate) fn pay(
    service: &Service,
    recommendation: Recommendation,
    admission: &mut BudgetAdmission,
    now: Timestamp,
) -> Decision {
    let Recommendation {
        queue_depth,
        asked,
        desired,
        mut limited_by,
        mut reason,
        ..
    } = recommendation;
    let mut refused = None;
    let mut allowed = desired;
    for budget_state in admission.budget_states() {
        let capped = budget_state.cap(desired, service.current, service.min);
        if capped < allowed {
            allowed = capped;
            let budget = &budget_state.budget;
            refused = Some(Denied::Budget {
                name: budget.name.clone(),
                message: format!(
                    "budget {} is exhausted: {} of {} spent",
                    budget.name,
                    budget.spent.rounded(2),
                    budget.limit.rounded(2)
                ),
                retry_at: budget_state.period.end,
                in_no_period: false,
            });
        }
    }
    let mut paid = allowed.min(service.current);
    while paid < allowed {
        match admission.admit(service.load) {
            Ok(()) => paid += 1,
            Err(why) => {
                allowed = paid;
                refused = Some(why);
            }
        }
    }
    if let Some(why) = &refused {
        let (limit, message) = match why {
            Denied::Budget { message, .. } => (LimitedBy::Budget, message.clone()),
            Denied::Unknown(why) => (LimitedBy::PriceUnknown, why.clone()),
        };
        limited_by = Some(limit);
        reason = format!("{message}; {reason}");
    }
    let refusal = match refusal(service, allowed, admission, now) {
        None => None,
        Some((None, refusal)) => Some(refusal),
        // nothing asks for a replica, and nothing could: that is the budget's doing too
        Some((Some(limit), refusal)) => {
            if limited_by.is_none() {
                limited_by = Some(limit);
                reason = format!("{}; {reason}", refusal.message);
            }
            Some(refusal)
        }
    };
    Decision {
        name: service.name.clone(),
        queue_depth,
        asked,
        desired,
        allowed,
        limited_by,
        reason,
        unknown: service.unknown().map(str::to_owned),
        stalled: service.stalled.clone(),
        rollout_stuck: service.rollout.as_ref().map(|rollout| rollout.why.clone()),
        refusal,
    }
}

/// Takes `unpaid` replicas without a node from what budgets left.
pub(crate) fn withdraw(
    decision: Decision,
    service: &Service,
    unpaid: u32,
    admission: &BudgetAdmission,
    now: Timestamp,
) -> Decision {
    let kept = service.current.saturating_sub(unpaid);
    if unpaid == 0 || decision.allowed <= kept {
        return decision;
    }
    let reason = format!(
        "{unpaid} replicas have no node yet, and the budget has no money left for stopping them once they had one; {}",
        decision.reason
    );
    Decision {
        allowed: kept,
        limited_by: Some(LimitedBy::Budget),
        reason,
        refusal: refusal(service, kept, admission, now).map(|(_, refusal)| refusal),
        ..decision
    }
}

/// What a request would be told now, asked before it comes: the gateway must not have to wait for an answer.
fn refusal(
    service: &Service,
    allowed: u32,
    admission: &BudgetAdmission,
    now: Timestamp,
) -> Option<(Option<LimitedBy>, Refusal)> {
    let unavailable = |reason, message: String, retry_at| {
        let refusal = Refusal {
            reason,
            message,
            retry_at,
        };
        Some((None, refusal))
    };
    if allowed > 0
        && let Some(why) = &service.start_failure
    {
        let message = format!("no replica starts: {why}");
        let retry_at = now.checked_add(START_AGAIN).ok();
        return unavailable(RefusalReason::StartFailed, message, retry_at);
    }
    if allowed > 0 || service.current > 0 {
        return None;
    }
    if service.activation == Activation::Never {
        let message = "the service is stopped, and its activation.mode is Never";
        return unavailable(RefusalReason::ActivationNever, message.to_owned(), None);
    }
    if service.paused {
        let message = "the service is stopped, and its scaling.paused is true";
        return unavailable(RefusalReason::ScalingPaused, message.to_owned(), None);
    }
    let (limit, reason, message, retry_at) = match admission.check(service.load) {
        Ok(()) => return None,
        Err(Denied::Budget {
            message, retry_at, ..
        }) => (
            LimitedBy::Budget,
            RefusalReason::BudgetExhausted,
            message,
            Some(retry_at),
        ),
        Err(Denied::Unknown(why)) => (
            LimitedBy::PriceUnknown,
            RefusalReason::PriceUnknown,
            why,
            None,
        ),
    };
    let refusal = Refusal {
        reason,
        message,
        retry_at,
    };
    Some((Some(limit), refusal))
}
