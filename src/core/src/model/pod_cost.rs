//! What one pod costs and how long it takes to stop, as an addend of what its workload costs.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::budget::{FreedBudget, RunningCost};
use crate::drain::SETTLE;
use crate::money::Money;
use crate::pod_set::PodSet;
use crate::pricing::EstimateBasis;

use super::capacity::ClusterCapacity;
use super::event::{Pod, PodShape, Service};
use super::rates::{CachedRate, Estimate, Rates};
use super::spending::{SLACK_SECONDS, WorkloadCost, bounded_grace};
use super::state::PodState;

/// What was told to leave is waited for so long beyond the time that it may take.
const OVERDUE_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// What a pod was told that is not being deleted.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum PodIntent {
    Run,
    /// To leave, at this time: it is deleted at the end of its drain, or at once while it has no node.
    Drain(Timestamp),
    /// To stop at once.
    Stop,
}

impl WorkloadCost {
    /// Adds a pod of this cost. Returns when it will be overdue, if it was told to leave and is not.
    pub(super) fn add_pod(
        &mut self,
        found: &PodState,
        intent: PodIntent,
        cost: RunningCost,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let pod = &*found.pod;
        let Some(rate) = cost.rate else {
            self.unknown += 1;
            return None;
        };
        if pod.node.is_none() {
            if pod.deletion.is_none() {
                self.add_starting(cost, u32::from(intent == PodIntent::Run));
            }
            return None;
        }
        self.rate += rate;
        let overdue_at = overdue_at(found, intent, cost.stop_seconds);
        let overdue_at = match overdue_at {
            Some(at) if at <= now => {
                self.add_overdue(pod, cost);
                return None;
            }
            at => at,
        };
        if overdue_at.is_some() {
            self.leaving_rate += rate;
        }
        let stop_rate = cost.stop_rate.map_or(rate, |highest| highest.max(rate));
        match (pod.deletion, intent) {
            (Some(by), _) => self.terminating.push((cost.stop_rate.unwrap_or(rate), by)),
            (None, PodIntent::Run) => self.reserve += cost.reserve(),
            (None, PodIntent::Drain(since)) => {
                self.draining
                    .push((stop_rate, later(since, cost.stop_seconds)));
            }
            (None, PodIntent::Stop) => {
                self.reserve += cost.reserve();
                self.leaving_reserve += cost.reserve();
            }
        }
        overdue_at
    }

    /// Adds a pod that should have gone long ago: nobody counts on its money any more.
    fn add_overdue(&mut self, pod: &Pod, cost: RunningCost) {
        let rate = cost.rate.unwrap_or_default();
        self.kept_on_stop.rate += rate;
        match pod.deletion {
            Some(by) => self.terminating.push((cost.stop_rate.unwrap_or(rate), by)),
            None => {
                self.reserve += cost.reserve();
                self.kept_on_stop.reserve += cost.reserve();
            }
        }
    }

    /// Adds so many that have no node yet and are not taken back for nothing, such as workers of a gang, which is
    /// not taken back in part. They are in the reserve as if they had one.
    pub(super) fn add_held(&mut self, cost: RunningCost, number: u32) {
        let reserve = self.add_starting_rate(cost, number);
        self.reserve += reserve;
    }

    /// Adds so many that have no node yet.
    pub(super) fn add_starting(&mut self, cost: RunningCost, number: u32) {
        let reserve = self.add_starting_rate(cost, number);
        self.starting_reserve += reserve;
    }

    /// Adds the rate of so many that have no node yet. Returns what stopping them would cost once they
    /// have one.
    fn add_starting_rate(&mut self, cost: RunningCost, number: u32) -> Money {
        let Some(rate) = cost.rate else {
            self.unknown += number;
            return Money::ZERO;
        };
        self.starting_rate += rate.times(number);
        cost.reserve_of(number)
    }
}

/// When a pod that was told to leave should have gone long ago, if it was: its node may be lost, or what would delete
/// it. `stop_seconds` is how long it may take from the order on.
fn overdue_at(found: &PodState, intent: PodIntent, stop_seconds: i64) -> Option<Timestamp> {
    let pod = &found.pod;
    let by = match (pod.deletion, intent) {
        (Some(by), _) => later(by, bounded_grace(pod.grace_seconds) - pod.grace_seconds),
        (None, PodIntent::Drain(since)) => later(since, stop_seconds),
        (None, PodIntent::Stop) => later(found.stopping_since?, stop_seconds),
        (None, PodIntent::Run) => return None,
    };
    Some(later(by, OVERDUE_AFTER.as_secs()))
}

fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.saturating_add(SignedDuration::from_secs(seconds))
        .unwrap_or(at)
}

/// The cost of a pod that costs `rate` an hour now.
pub(super) fn running_cost(
    rates: &Rates,
    capacity: &ClusterCapacity,
    pod: &Pod,
    rate: Option<Money>,
    stop_seconds: i64,
    priority: i32,
    now: Timestamp,
) -> RunningCost {
    let seconds = match pod.deletion {
        Some(by) => grace_stop_seconds(by.duration_since(now).as_secs()),
        None => stop_seconds,
    };
    let node = pod.node.as_ref().and_then(|node| capacity.node(node));
    RunningCost {
        rate,
        stop_rate: rates.highest(rate, &pod.shape, node, now, seconds),
        stop_seconds,
        priority,
        basis: EstimateBasis::Node,
    }
}

/// What becomes free when these go.
pub(crate) fn freed_by(running_costs: &[(RunningCost, u32)]) -> FreedBudget {
    let each = running_costs
        .iter()
        .map(|(running_cost, count)| FreedBudget {
            rate: running_cost.rate.unwrap_or_default().times(*count),
            reserve: running_cost.reserve_of(*count),
        });
    each.fold(FreedBudget::default(), FreedBudget::and)
}

/// The cost of a pod of this shape that has no node yet and takes `stop_seconds` to stop.
pub(super) fn new_pod_cost(
    rates: &mut Rates,
    shape: &Arc<PodShape>,
    cached: &mut CachedRate,
    stop_seconds: i64,
    priority: i32,
    now: Timestamp,
) -> RunningCost {
    let Estimate { rate, basis } = rates.estimate(shape, cached, now);
    RunningCost {
        rate,
        stop_rate: rates.highest(rate, shape, None, now, stop_seconds),
        stop_seconds,
        priority,
        basis,
    }
}

/// The cost of a pod that is new with others, of which some have GPUs: one that has none costs nothing.
pub(super) fn new_part_cost(
    rates: &mut Rates,
    shape: &Arc<PodShape>,
    cached: &mut CachedRate,
    stop_seconds: i64,
    priority: i32,
    now: Timestamp,
) -> RunningCost {
    if shape.uses_gpus() {
        return new_pod_cost(rates, shape, cached, stop_seconds, priority, now);
    }
    // such as a launcher: only GPUs are charged for, so its price is known to be none
    *cached = CachedRate::without_gpus();
    RunningCost {
        priority,
        ..RunningCost::constant(cached.rate(), stop_seconds)
    }
}

/// When something with one of these stop times is reserved at another price.
pub(super) fn cost_changes_at(
    rates: &Rates,
    stop_seconds: BTreeSet<i64>,
    now: Timestamp,
) -> Option<Timestamp> {
    let each = stop_seconds.into_iter();
    each.filter_map(|seconds| rates.next_within(now, seconds))
        .min()
}

/// Seconds from the order to stop a replica until it costs nothing.
pub(super) fn service_stop_seconds(drain_timeout: SignedDuration, grace_seconds: i64) -> i64 {
    let drain_seconds = drain_timeout.max(SETTLE).as_secs();
    drain_seconds + grace_stop_seconds(grace_seconds)
}

/// Seconds from the order to stop a replica until this pod of it costs nothing. All pods of a replica count until
/// the last one has stopped: workers are told to once their leader has ended.
pub(super) fn replica_stop_seconds(spec: &Service, pod: &Pod, leader_has_drained: bool) -> i64 {
    if pod.leader.is_none() {
        let workers = spec.workers.as_ref();
        let workers = workers.map_or(0, |workers| grace_stop_seconds(workers.grace_seconds));
        return service_stop_seconds(spec.drain_timeout, pod.grace_seconds) + workers;
    }
    let leader = match leader_has_drained {
        true => grace_stop_seconds(spec.grace_seconds),
        false => service_stop_seconds(spec.drain_timeout, spec.grace_seconds),
    };
    leader + grace_stop_seconds(pod.grace_seconds)
}

/// Seconds from the deletion of a pod with this grace until it costs nothing.
pub(crate) fn grace_stop_seconds(grace_seconds: i64) -> i64 {
    bounded_grace(grace_seconds) + SLACK_SECONDS
}

/// What so many pods that are alike need.
pub(crate) fn pod_set(shape: &PodShape, workers: u32) -> PodSet {
    PodSet {
        workers,
        worker: shape.requests.clone(),
        node_selector: shape.node_selector.clone(),
        placement: Arc::clone(&shape.placement),
    }
}

/// Takes what becomes of a pod.
pub(super) fn note_intent(found: &mut PodState, intent: PodIntent, now: Timestamp) {
    let since = found.stopping_since.unwrap_or(now);
    found.stopping_since = (intent == PodIntent::Stop).then_some(since);
}
