//! One decision over a namespace: queue depth, money and room together.

mod decide;
mod decisions;
mod namespace;
mod queue;
mod replicas;
pub(crate) mod service;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::budget::{Budget, Load, Purse, RunningTotals, Standing};
use crate::capacity::{Capacity, Gang, Room};
use crate::scaling::{Service, desire};
use crate::training::{Job, Turn, queue};

use self::service::pay;

pub use crate::limit::LimitedBy;
pub use decide::decide;
pub use decisions::{Decisions, JobOrder, ServiceOrder};
pub use service::{Decision, Refusal};

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
    let mut purse = Purse::new(standings, RunningTotals::of(loads), now);
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
    let jobs = snapshot.jobs.iter().flat_map(|job| {
        let roles = job.roles.iter();
        roles.map(|role| (job.awaited(role), &role.gang, role.worker))
    });
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

#[cfg(test)]
mod tests;
