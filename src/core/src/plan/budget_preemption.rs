//! For whom the money of a namespace's budgets is kept, and who gives way to whom.
//!
//! What waits for money is looked at in its order: by priority, then first replicas and minimums, then
//! by weight and age. As long as the money suffices, or would once workloads of lower priority had
//! given way, it is kept for the one that waits: nothing behind it may take it. What could not be paid
//! for even then holds nobody up. Further replicas give way before gangs, and these before first
//! replicas and minimums; the lowest priority first, the youngest first within it.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::budget::{BudgetAdmission, FreedBudget, RunningCost};
use crate::drain;
use crate::model::claim::{BudgetPreemption, BudgetRank, Workload};
use crate::model::event::{Key, Name};
use crate::model::pod_cost::freed_by;
use crate::model::state::Model;
use crate::money::Money;

/// After so many that nobody can pay for, the rest waits until these are gone.
const MOST_UNPAYABLE: usize = 32;

/// For whom money is kept, and who gives way.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Shares {
    pub(super) kept: BTreeMap<BudgetRank, Vec<(RunningCost, u32)>>,
    pub(super) preempted: BTreeMap<Workload, BudgetPreemption>,
    /// What each budget has left beside all that it is kept for, once others have given way.
    pub(super) left: Vec<Money>,
}

/// Something that may give way: a replica, or a gang.
struct Candidate {
    order: Order,
    freed_budget: FreedBudget,
}

/// What gives way first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    priority: i32,
    loss: PreemptionLoss,
    weight: u32,
    since: Reverse<Timestamp>,
    workload: Workload,
}

/// What is lost by giving way.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum PreemptionLoss {
    FurtherReplica,
    PodSet,
    FirstReplica,
}

/// Shares out the money of a namespace. `admission` is what its budgets admit as things are.
pub(super) fn share(
    model: &Model,
    name: &Name,
    admission: &BudgetAdmission,
    now: Timestamp,
) -> Shares {
    let mut shares = Shares::default();
    let Some(namespace) = model.namespaces.get(name) else {
        return shares;
    };
    if namespace.claims.is_empty() {
        return shares;
    }
    let mut admission = admission.once_left();
    let mut candidates = None;
    let (mut given, mut unpayable) = (0, 0);
    for (rank, claim) in &namespace.claims {
        let priority = rank.priority();
        let mut budget_states = admission.budget_states().iter();
        if budget_states.any(|budget_state| budget_state.stops(priority)) {
            continue;
        }
        for running_costs in claim.starts() {
            let mut until = given;
            let is_paid = loop {
                if admission.check_all(&running_costs).is_ok() {
                    break true;
                }
                // announced terms stop nothing
                if admission.check_in_force(&running_costs).is_ok() {
                    break false;
                }
                if until == given && admission.check_after_preemption(&running_costs).is_err() {
                    break false;
                }
                let candidates = candidates.get_or_insert_with(|| in_order(model, name, now));
                match candidates.get(until) {
                    Some(next) if next.order.priority < priority => {
                        admission.release(next.freed_budget)
                    }
                    _ => break false,
                }
                until += 1;
            };
            let left = admission.left_beside(&running_costs, FreedBudget::default());
            let candidates = candidates.as_deref().unwrap_or_default();
            let taken = candidates.get(given..until).unwrap_or_default();
            if !is_paid || admission.admit_all(&running_costs).is_err() {
                for candidate in taken {
                    admission.restore(candidate.freed_budget);
                }
                unpayable += 1;
                break;
            }
            let left = left.unwrap_or_default();
            shares.left = if shares.left.is_empty() {
                left
            } else {
                let pairs = shares.left.iter().zip(left);
                pairs.map(|(before, now)| now.min(*before)).collect()
            };
            let kept = shares.kept.entry(rank.clone()).or_default();
            kept.extend(running_costs.iter());
            for candidate in taken {
                let workload = candidate.order.workload.clone();
                let preemption = shares.preempted.entry(workload);
                let preemption = preemption.or_insert_with(|| BudgetPreemption {
                    replicas: 0,
                    to: rank.clone(),
                });
                preemption.replicas += 1;
            }
            given = until;
        }
        if unpayable == MOST_UNPAYABLE {
            break;
        }
    }
    shares
}

/// Everything in a namespace that may give way, in the order in which it does.
fn in_order(model: &Model, name: &Name, now: Timestamp) -> Vec<Candidate> {
    let mut candidates = Vec::new();
    for key in Model::keys_in(&model.services, name) {
        candidates.extend(replicas_of(model, &key, now));
    }
    for key in Model::keys_in(&model.jobs, name) {
        candidates.extend(gang_of(model, &key));
    }
    candidates.sort_by(|one, other| one.order.cmp(&other.order));
    candidates
}

/// The replicas of a service that were not told to leave.
fn replicas_of(model: &Model, key: &Key, now: Timestamp) -> Vec<Candidate> {
    let state = model.services.get(key);
    let known = state.and_then(|state| Some((state, state.spec.as_ref()?, state.running_cost?)));
    let Some((state, spec, running_cost)) = known else {
        return vec![];
    };
    let replicas = model.drain_replicas(state, now);
    let non_draining = drain::non_draining(state.declared(), &replicas);
    let with_pod = replicas.iter().filter(|pod| pod.draining_since.is_none());
    let found = with_pod.filter_map(|pod| model.pods.get(pod.uid.as_str()));
    let mut freed_budget: Vec<FreedBudget> = found.map(|found| found.freed_budget).collect();
    let surplus = freed_budget.len().saturating_sub(non_draining as usize);
    let podless = (non_draining as usize).saturating_sub(freed_budget.len());
    freed_budget.extend(std::iter::repeat_n(freed_by(&[(running_cost, 1)]), podless));
    // which of them goes is not decided here: it frees no less than the cheapest
    freed_budget.sort_by_key(|each| (each.rate, each.reserve));
    let min = spec.bounds(&model.zone, now).min;
    let candidate = |(number, freed_budget): (usize, FreedBudget)| Candidate {
        order: Order {
            priority: spec.priority,
            loss: if non_draining as usize - number <= min.max(1) as usize {
                PreemptionLoss::FirstReplica
            } else {
                PreemptionLoss::FurtherReplica
            },
            weight: spec.weight,
            since: Reverse(spec.created),
            workload: Workload::Service(key.name.clone()),
        },
        freed_budget,
    };
    let others = freed_budget.into_iter().skip(surplus).enumerate();
    others.map(candidate).collect()
}

/// A gang that has room and gives way to others.
fn gang_of(model: &Model, key: &Key) -> Option<Candidate> {
    let state = model.jobs.get(key)?;
    let spec = state.spec.as_ref().filter(|spec| spec.preemption_allowed)?;
    let freed_budget = state.cost.stays();
    // one of which only workers without GPUs are left would stop for nothing, and be admitted again at once
    if !state.has_room() || freed_budget == FreedBudget::default() {
        return None;
    }
    let order = Order {
        priority: spec.priority,
        loss: PreemptionLoss::PodSet,
        weight: 0,
        since: Reverse(state.started().unwrap_or(spec.created)),
        workload: Workload::Job(key.name.clone()),
    };
    Some(Candidate {
        order,
        freed_budget,
    })
}
