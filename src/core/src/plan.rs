//! One decision over a namespace: queue depth, money and room together.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::budget::{Budget, Load, Purse, Refused, Standing};
use crate::capacity::{Capacity, Gang};
use crate::refusal::RefusalReason;
use crate::scaling::{Demand, Desire, Service, desire};
use crate::training::{Job, Turn, queue};

/// A request that came while no replica could start may try again after this long.
const START_AGAIN: SignedDuration = SignedDuration::from_secs(60);

/// What kept a workload from what its demand asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LimitedBy {
    /// A budget.
    Budget,
    /// A price that is not known, in a namespace with a budget.
    PriceUnknown,
    /// `maxReplicas`.
    MaxReplicas,
    /// `minReplicas`.
    MinReplicas,
    /// A higher number within the stabilization window.
    Stabilization,
    /// A signal that cannot be read.
    Signal,
    /// `scaling.paused`.
    Paused,
    /// Room on the nodes.
    Capacity,
    /// The queue.
    Queue,
    /// `spec.suspend`.
    Suspended,
}

impl LimitedBy {
    /// The word that statuses and metrics show.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "Budget",
            Self::PriceUnknown => "PriceUnknown",
            Self::MaxReplicas => "MaxReplicas",
            Self::MinReplicas => "MinReplicas",
            Self::Stabilization => "Stabilization",
            Self::Signal => "Signal",
            Self::Paused => "Paused",
            Self::Capacity => "Capacity",
            Self::Queue => "Queue",
            Self::Suspended => "Suspended",
        }
    }
}

/// Everything that a decision over one namespace reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// InferenceDeployments.
    pub services: Vec<Service>,
    /// TrainingJobs that have not finished.
    pub jobs: Vec<Job>,
    /// BudgetPolicies.
    pub budgets: Vec<Budget>,
    /// Every GPU pod that costs money or is about to. What is ordered and has no pod yet is not among them.
    pub loads: Vec<Load>,
    /// The cluster's room that this namespace may use, without what its own pods and other namespaces take.
    pub capacity: Capacity,
    /// The accounting time zone.
    pub zone: TimeZone,
}

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
    /// What a request gets while no replica is ready.
    pub refusal: Option<Refusal>,
}

/// A decision over a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The services, in the order of the snapshot.
    pub services: Vec<Decision>,
    /// The jobs, in the order of the queue.
    pub jobs: Vec<Turn>,
    /// The budgets, in the order of the snapshot.
    pub budgets: Vec<Standing>,
    /// When the answer may change though nothing else does.
    pub next_look: Option<Timestamp>,
}

/// Decides over a namespace. Services come first, in the snapshot's order; then the queue of jobs gets what is left.
///
/// What was ordered before and has no pod yet has its room and its money already, as though it were there.
pub fn plan(snapshot: &Snapshot, now: Timestamp) -> Plan {
    let (loads, mut capacity) = ordered(snapshot);
    let loads = &loads;
    let standings = snapshot
        .budgets
        .iter()
        .map(|budget| Standing::of(budget.clone(), loads, now, &snapshot.zone))
        .collect();
    let mut purse = Purse::new(standings, loads, now);
    let mut next_look = NextLook(None);
    let services = snapshot
        .services
        .iter()
        .map(|service| {
            let desire = desire(service, now);
            next_look.at(desire.next_look);
            let decision = pay(service, desire, &mut purse, now);
            let workers = decision.allowed.saturating_sub(service.current);
            capacity.place(&Gang {
                workers,
                ..service.replica.clone()
            });
            decision
        })
        .collect();
    let jobs = queue(&snapshot.jobs, &mut capacity, &mut purse, now);
    for turn in &jobs {
        next_look.at(turn.next_look);
    }
    let budgets = purse.into_standings();
    for standing in &budgets {
        next_look.at(standing.exhausted_at);
        next_look.at(Some(standing.period.end));
    }
    Plan {
        services,
        jobs,
        budgets,
        next_look: next_look
            .0
            .map(|at| at.max(now + SignedDuration::from_millis(100))),
    }
}

/// The loads and the room, with what is on its way.
fn ordered(snapshot: &Snapshot) -> (Vec<Load>, Capacity) {
    let (mut loads, mut capacity) = (snapshot.loads.clone(), snapshot.capacity.clone());
    let services = snapshot
        .services
        .iter()
        .map(|service| (service.awaited(), &service.replica, service.load));
    let jobs = snapshot
        .jobs
        .iter()
        .map(|job| (job.awaited(), &job.gang, job.worker));
    for (workers, gang, load) in services.chain(jobs) {
        loads.extend(std::iter::repeat_n(load, workers as usize));
        capacity.place(&Gang {
            workers,
            ..gang.clone()
        });
    }
    (loads, capacity)
}

struct NextLook(Option<Timestamp>);

impl NextLook {
    fn at(&mut self, at: Option<Timestamp>) {
        self.0 = self.0.into_iter().chain(at).min();
    }
}

/// Takes from a desire what budgets do not pay for. Replicas that were ordered are paid for already; each new one must be.
fn pay(service: &Service, desire: Desire, purse: &mut Purse, now: Timestamp) -> Decision {
    let Desire {
        queue_depth,
        asked,
        desired,
        mut limited_by,
        mut reason,
        ..
    } = desire;
    let mut refused = None;
    let mut allowed = desired;
    for standing in purse.standings() {
        let capped = standing.cap(desired, service.current, service.min);
        if capped < allowed {
            allowed = capped;
            let budget = &standing.budget;
            refused = Some(Refused::Budget {
                name: budget.name.clone(),
                message: format!(
                    "budget {} is exhausted: {} of {} spent",
                    budget.name,
                    budget.spent.rounded(2),
                    budget.limit.rounded(2)
                ),
                retry_at: standing.period.end,
            });
        }
    }
    let mut paid = allowed.min(service.current);
    while paid < allowed {
        match purse.take(service.load) {
            Ok(()) => paid += 1,
            Err(why) => {
                allowed = paid;
                refused = Some(why);
            }
        }
    }
    if let Some(why) = &refused {
        let (limit, message) = match why {
            Refused::Budget { message, .. } => (LimitedBy::Budget, message.clone()),
            Refused::Unknown(why) => (LimitedBy::PriceUnknown, why.clone()),
        };
        limited_by = Some(limit);
        reason = format!("{message}; {reason}");
    }
    let refusal = match refusal(service, allowed, purse, now) {
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
        refusal,
    }
}

/// What a request would be told now, asked before it comes: the gateway must not have to wait for an answer.
fn refusal(
    service: &Service,
    allowed: u32,
    purse: &Purse,
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
        && let Some(why) = &service.stuck
    {
        let message = format!("no replica starts: {why}");
        let retry_at = now.checked_add(START_AGAIN).ok();
        return unavailable(RefusalReason::StartFailed, message, retry_at);
    }
    if allowed > 0 || service.current > 0 {
        return None;
    }
    if service.demand == Demand::Unwelcome {
        let message = "the service is stopped, and its activation.mode is Never";
        return unavailable(RefusalReason::ActivationNever, message.to_owned(), None);
    }
    if service.paused {
        let message = "the service is stopped, and its scaling.paused is true";
        return unavailable(RefusalReason::ScalingPaused, message.to_owned(), None);
    }
    let (limit, reason, message, retry_at) = match purse.clone().take(service.load) {
        Ok(()) => return None,
        Err(Refused::Budget {
            message, retry_at, ..
        }) => (
            LimitedBy::Budget,
            RefusalReason::BudgetExhausted,
            message,
            Some(retry_at),
        ),
        Err(Refused::Unknown(why)) => (
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

#[cfg(test)]
mod tests;
