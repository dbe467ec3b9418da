//! What becomes of one service: what it asks for, less what budgets do not pay for.

use jiff::{SignedDuration, Timestamp};

use crate::budget::{BudgetAdmission, Denied, RunningCost};
use crate::limit::LimitedBy;
use crate::model::PauseScope;
use crate::model::claim::{BudgetPreemption, Claim, Part};
use crate::refusal::RefusalReason;
use crate::scale_down_limit;
use crate::scaling::{Activation, MeasuredSignal, Recommendation, Service};

/// A request that came while no replica could start may try again after this long.
const START_AGAIN: SignedDuration = SignedDuration::from_secs(60);

/// While budgets cannot tell whether they pay for a replica, requests wait for this long: a price list
/// may come a moment after the service, and a new leader applies the default one itself, for which it
/// tries again after ten seconds.
const PRICE_TIMEOUT: SignedDuration = SignedDuration::from_secs(30);

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
    /// Its signals other than its queue depth, as it found them.
    pub signals: Vec<MeasuredSignal>,
    /// Replicas that the demand asks for, before any window or bound: what the stabilization window remembers.
    pub recommended: u32,
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

/// What budgets leave of what a service asks for. Replicas that were ordered are paid for already;
/// each new one must be.
pub(crate) struct Allotment {
    service: Service,
    recommendation: Recommendation,
    /// Replicas that budgets leave, before anything new is paid for.
    capped: u32,
    /// Replicas that are paid for.
    paid: u32,
    denied: Option<Denied>,
    /// Its replicas leave for a workload that goes first: no other one starts before they are gone.
    waits_for_drain: bool,
}

impl Allotment {
    /// What budgets leave before anything new is paid for but so many first replicas.
    pub(crate) fn new(
        service: Service,
        recommendation: Recommendation,
        first_paid: u32,
        admission: &BudgetAdmission,
    ) -> Self {
        let Recommendation { desired, .. } = recommendation;
        let priority = service.running_cost.priority;
        let (mut capped, mut denied) = (desired, None);
        for budget_state in admission.budget_states() {
            let left = budget_state.cap(desired, service.current, service.bounds.min, priority);
            if left < capped {
                capped = left;
                denied = Some(Denied::Budget {
                    name: budget_state.budget.name.clone(),
                    message: budget_state.stop_reason(priority).unwrap_or_default(),
                    retry_at: budget_state.period.end,
                    in_no_period: false,
                });
            }
        }
        Self {
            capped,
            paid: capped.min(service.current.saturating_add(first_paid)),
            denied,
            waits_for_drain: false,
            service,
            recommendation,
        }
    }

    /// Replicas that are paid for and that it was not ordered.
    pub(crate) fn newly_paid(&self) -> u32 {
        self.paid.saturating_sub(self.service.current)
    }

    /// The value of the service's PriorityClass.
    pub(crate) fn priority(&self) -> i32 {
        self.service.running_cost.priority
    }

    /// How many of its replicas are the first one or its minimum.
    fn first(&self) -> u32 {
        self.capped.min(self.service.bounds.min.max(1))
    }

    /// Replicas of this part that are asked for and not paid for.
    pub(crate) fn missing(&self, part: Part) -> u32 {
        match part {
            Part::First => self.first().saturating_sub(self.paid),
            Part::Further => self.capped - self.paid.max(self.first()),
        }
    }

    /// Pays for what is missing of a part, beside what is kept for those that go before it.
    pub(crate) fn pay(
        &mut self,
        part: Part,
        kept: &[(RunningCost, u32)],
        admission: &mut BudgetAdmission,
    ) {
        if part == Part::Further && self.missing(Part::First) > 0 {
            return;
        }
        for _ in 0..self.missing(part) {
            let running_cost = self.service.cost_of_next(self.newly_paid());
            match admission.admit_beside(running_cost, kept) {
                Ok(()) => self.paid += 1,
                Err(why) => {
                    self.denied = Some(why);
                    return;
                }
            }
        }
    }

    /// Pays for nothing of a part, as its replicas still leave.
    pub(crate) fn wait(&mut self, part: Part) {
        if self.missing(part) > 0 && self.denied.is_none() {
            self.waits_for_drain = true;
        }
    }

    /// What is asked for of a part, that some period has the money for.
    pub(crate) fn claim(&self, part: Part) -> Option<Claim> {
        let count = self.missing(part);
        let waits = match &self.denied {
            Some(Denied::Budget { in_no_period, .. }) => !in_no_period,
            Some(Denied::Unknown(_)) => false,
            None => self.waits_for_drain,
        };
        let ahead = match part {
            Part::First => self.paid,
            Part::Further => self.paid.max(self.first()),
        };
        let ahead = ahead.saturating_sub(self.service.current) as usize;
        let recalled = self.service.recalled_costs.iter().skip(ahead);
        (waits && count > 0).then(|| Claim {
            first: recalled.take(count as usize).copied().collect(),
            running_costs: vec![(self.service.running_cost, 1)],
            count,
        })
    }

    /// The service, and what becomes of it.
    pub(crate) fn decide(self, admission: &BudgetAdmission, now: Timestamp) -> (Service, Decision) {
        let Self {
            service,
            recommendation,
            paid: allowed,
            denied,
            waits_for_drain,
            ..
        } = self;
        let Recommendation {
            queue_depth,
            recommended,
            desired,
            mut limited_by,
            mut reason,
            ..
        } = recommendation;
        if let Some(why) = &denied {
            let (limit, message) = match why {
                Denied::Budget { message, .. } => (LimitedBy::Budget, message.clone()),
                Denied::Unknown(why) => (LimitedBy::PriceUnknown, why.clone()),
            };
            limited_by = Some(limit);
            reason = format!("{message}; {reason}");
        }
        if denied.is_none() && waits_for_drain {
            limited_by = Some(LimitedBy::Preempted);
            reason = format!("its replicas give way to a workload of higher priority; {reason}");
        }
        let refusal = match refusal(&service, allowed, admission, now) {
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
        let decision = Decision {
            name: service.name.clone(),
            queue_depth,
            signals: service.signals.clone(),
            recommended,
            desired,
            allowed,
            limited_by,
            reason,
            unknown: service.unknown(),
            stalled: service.stalled.clone(),
            rollout_stuck: service.rollout.as_ref().map(|rollout| rollout.why.clone()),
            refusal,
        };
        (service, decision)
    }
}

/// Takes `unpaid` replicas without a node from what budgets left.
pub(crate) fn withdraw_unpaid(
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

/// Takes replicas away that give way to a workload of higher priority.
pub(crate) fn apply_preemption(
    decision: Decision,
    service: &Service,
    preemption: Option<&BudgetPreemption>,
) -> Decision {
    let Some(BudgetPreemption { replicas, to }) = preemption else {
        return decision;
    };
    let kept = service.current.saturating_sub(*replicas);
    if decision.allowed <= kept {
        return decision;
    }
    let (priority, name) = (to.priority(), to.workload.name());
    let reason = format!(
        "{replicas} replicas give way to {name} of priority {priority}, which waits for money; {}",
        decision.reason
    );
    Decision {
        allowed: kept,
        limited_by: Some(LimitedBy::Preempted),
        reason,
        ..decision
    }
}

/// How many of its replicas there is money for, whatever demand asks for: a budget may stop some, some may
/// be unpaid, and some give way.
pub(crate) fn payable(
    service: &Service,
    unpaid: u32,
    preemption: Option<&BudgetPreemption>,
    admission: &BudgetAdmission,
) -> u32 {
    let (current, priority) = (service.current, service.running_cost.priority);
    let budget_states = admission.budget_states().iter();
    let left = budget_states.map(|state| state.cap(current, current, service.bounds.min, priority));
    let given = preemption.map_or(0, |preemption| preemption.replicas);
    let taken = unpaid.max(given);
    let kept = current.saturating_sub(taken);
    left.fold(kept, u32::min)
}

/// Keeps so many replicas that demand would take away too fast.
pub(crate) fn limit_scale_down(decision: Decision, floor: u32) -> Decision {
    let reason = format!("{}; {}", scale_down_limit::reason(floor), decision.reason);
    Decision {
        allowed: floor,
        limited_by: Some(LimitedBy::Stabilization),
        reason,
        ..decision
    }
}

/// Lets requests wait while a price, or what was spent, has not been known for long. Returns until when,
/// if it does.
pub(crate) fn wait_for_price(
    decision: Decision,
    unknown_since: Timestamp,
    now: Timestamp,
) -> (Decision, Option<Timestamp>) {
    let until = unknown_since.checked_add(PRICE_TIMEOUT).ok();
    let refusal = decision.refusal.as_ref();
    let is_unknown = refusal.is_some_and(|refusal| refusal.reason == RefusalReason::PriceUnknown);
    let Some(until) = until.filter(|until| is_unknown && now < *until) else {
        return (decision, None);
    };
    let refusal = None;
    (
        Decision {
            refusal,
            ..decision
        },
        Some(until),
    )
}

/// Keeps what a service has, since it is paused together with all of its scope. The reason says what
/// would become of it otherwise.
pub(crate) fn apply_pause(decision: Decision, service: &Service, scope: PauseScope) -> Decision {
    let (kept, allowed) = (service.current, decision.allowed);
    let reason = format!(
        "{scope} is paused: it keeps {kept} replicas and would have {allowed} otherwise; {}",
        decision.reason
    );
    let wakes = kept == 0;
    let refusal = wakes.then(|| Refusal {
        reason: RefusalReason::ScalingPaused,
        message: format!("the service is stopped, and {scope} is paused"),
        retry_at: None,
    });
    let start_failure = |refusal: &Refusal| refusal.reason == RefusalReason::StartFailed;
    Decision {
        allowed: kept,
        limited_by: Some(LimitedBy::Paused),
        reason,
        refusal: refusal.or(decision.refusal.filter(start_failure)),
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
    if let Some(why) = &service.paused {
        let message = format!("the service is stopped, and {why}");
        return unavailable(RefusalReason::ScalingPaused, message, None);
    }
    if service.bounds.max == 0 {
        let schedules = service.bounds.schedules.as_deref().unwrap_or("a schedule");
        let message = format!("the service is stopped: {schedules}");
        let retry_at = service.bounds.changes_at;
        return unavailable(RefusalReason::ScheduledToZero, message, retry_at);
    }
    let next = service.cost_of_next(0);
    let (limit, reason, message, retry_at) = match admission.check(next) {
        Ok(()) => return None,
        // it would get the money of those that give way to it
        Err(Denied::Budget { .. }) if admission.check_after_preemption(&[(next, 1)]).is_ok() => {
            return None;
        }
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
