//! Replicas from demand: each signal over its target, the largest wins, and the windows that keep
//! it steady.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp, Unit};

use crate::budget::RunningCost;
use crate::limit::LimitedBy;

use crate::pod_set::PodSet;

mod behavior;
mod change;
mod cron;
mod growth;
mod history;
mod latency;
mod milli;
mod schedule;
mod signals;

use change::{ChangeLimits, limit_change};

pub use behavior::{
    Behavior, Panic, PolicyAmount, PolicyLimit, ScalingPolicy, ScalingRules, SelectPolicy,
};
pub use cron::{Cron, CronError, MAX_CRON_LENGTH};
pub use growth::{DEFAULT_WINDOW, DemandForecast, GrowthRule, LearnedThroughput, remaining_start};
pub use history::{History, LONGEST_PERIOD, PastRecommendation, ReplicaLog};
pub(crate) use latency::micros;
pub use latency::{
    Bucket, ConcurrencyLimits, HistogramError, LatencyDemand, LatencyHistogram, LatencyMeasure,
    LatencyReason, MOST_BUCKETS, Measured, MeasuredPercentile, Percentile, ReplicaLoad, UNBOUNDED,
    Unmeasured,
};
pub use milli::Milli;
pub use schedule::{Bounds, Schedule, ScheduleEnd};
pub use signals::{
    MeasuredSignal, RequestSignal, SignalFailure, SignalRule, SignalTarget, SignalValue,
};

/// Requests that wait and run on replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A value that was read.
    Known(u64),
    /// There is nothing to read: no replica runs.
    Absent,
    /// A part of it could not be read: there is at least so much, and why there may be more.
    AtLeast(u64, String),
}

impl Signal {
    /// What is known of it: what is unknown takes nothing away.
    pub fn at_least(&self) -> u64 {
        match self {
            Self::Known(value) | Self::AtLeast(value, _) => *value,
            Self::Absent => 0,
        }
    }
}

/// Replicas that carry `queue_depth` requests at `target` each: `ceil(queue_depth / target)`.
///
/// This is the formula of Kubernetes' HorizontalPodAutoscaler for an average value.
pub fn replicas_for(queue_depth: u64, target: u32) -> u32 {
    u32::try_from(queue_depth.div_ceil(u64::from(target.max(1)))).unwrap_or(u32::MAX)
}

/// Whether requests may wake a service that stands at zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// The first request wakes it.
    OnDemand,
    /// Only `minReplicas` starts it.
    Never,
}

/// Replicas that are starting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// They are waited for until then, and count as active.
    pub ends: Timestamp,
    /// How long a start of this service is waited for.
    pub start_timeout: SignedDuration,
}

/// A rollout that cannot finish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StuckRollout {
    /// Why.
    pub why: String,
    /// Replicas that it is stuck with and that do not work: they never became ready, crash, or get no
    /// pod. Those that were ordered since may work yet.
    pub broken: u32,
}

/// An InferenceDeployment as a decision sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The fewest and the most replicas at this time.
    pub bounds: Bounds,
    /// What its requests say of the replicas that it needs.
    pub request_signal: RequestSignal,
    /// Its other signals.
    pub signals: Vec<MeasuredSignal>,
    /// How fast its replicas follow what is asked for.
    pub behavior: Behavior,
    /// How long a lower number must last before it is followed: that of its behavior, or the default.
    pub window: SignedDuration,
    /// What becomes of it while its demand is not known.
    pub on_signal_failure: SignalFailure,
    /// Since when its demand has not been known, if it is not.
    pub demand_unknown_since: Option<Timestamp>,
    /// How long nothing may happen before it goes to its minimum.
    pub idle_after: SignedDuration,
    /// Why demand changes nothing, if it does not.
    pub paused: Option<Arc<str>>,
    /// Whether requests wake it.
    pub activation: Activation,
    /// Requests waiting and running on its replicas.
    pub engine: Signal,
    /// Which of its replicas has requests that are not believed, and since when its counters have stood
    /// still.
    pub stalled: Option<String>,
    /// Requests that gateways hold for it.
    pub held: u64,
    /// Why there may be more of them: a gateway that has not been heard. Never taken as holding none.
    pub unreachable_gateway: Option<String>,
    /// When something last happened on it; `None` before the first look at its counters.
    pub last_active: Option<Timestamp>,
    /// Replicas that it has been given and that are not draining, ready or not.
    pub current: u32,
    /// The replicas that were last decided, as far as its Deployment has them. They are more than
    /// `current` where others went than those that were told to.
    pub decided: u32,
    /// How many of them have a pod. The others are on their way, and need their room and their money all the same.
    pub with_pod: u32,
    /// The start of replicas that have not been ready yet.
    pub start: Option<Start>,
    /// What the first of its replicas that no node takes yet waits for.
    pub waits_for: Option<String>,
    /// Why none of its replicas becomes ready, if their pods have been stuck for long.
    pub start_failure: Option<String>,
    /// Its rollout, if that is stuck.
    pub rollout: Option<StuckRollout>,
    /// What is expected, where its growth is by that and enough has been learned.
    pub forecast: Option<DemandForecast>,
    /// When the forecast, or whether there is one, may change though nothing happens.
    pub forecast_changes: Option<Timestamp>,
    /// What was asked for before.
    pub history: History,
    /// How many replicas it had.
    pub replica_log: ReplicaLog,
    /// Until when demand last asked for as much as is a burst.
    pub last_burst: Option<Timestamp>,
    /// What one replica costs, and how long it takes to stop.
    pub running_cost: RunningCost,
    /// What the next replicas cost that leave and come back instead of new ones, in their order.
    pub recalled_costs: Vec<RunningCost>,
    /// What one replica needs on a node.
    pub replica: PodSet,
}

impl Service {
    /// What the replica costs that comes after so many more than it has: of those that leave, one may come back
    /// instead of a new one.
    pub(crate) fn cost_of_next(&self, more: u32) -> RunningCost {
        let recalled = self.recalled_costs.get(more as usize);
        recalled.copied().unwrap_or(self.running_cost)
    }

    /// Replicas that were ordered and have no pod yet.
    pub fn without_pod(&self) -> u32 {
        self.current.saturating_sub(self.with_pod)
    }

    /// The replicas with which so many work. A Deployment removes no broken replica of its new template
    /// before working ones of the old; while its rollout is stuck, it has one more than what works,
    /// which the rollout may take.
    fn with_broken(&self, working: u32) -> u32 {
        match &self.rollout {
            Some(rollout) if working > 0 => {
                let one_more = working.saturating_add(1).min(self.current);
                working.saturating_add(rollout.broken).max(one_more)
            }
            _ => working,
        }
    }

    /// The number within its bounds that is nearest to this one.
    fn within_bounds(&self, replicas: u32) -> u32 {
        let Bounds { min, max, .. } = self.bounds;
        replicas.clamp(self.with_broken(min).min(max), max)
    }

    /// The replicas that so many requests need, by its rule.
    fn replicas_for_depth(&self, queue_depth: u64) -> u32 {
        match (self.request_signal, &self.forecast) {
            (RequestSignal::Target(target), Some(forecast)) => {
                forecast.replicas(queue_depth, target)
            }
            (RequestSignal::Target(target), None) => replicas_for(queue_depth, target),
            (_, _) => u32::from(queue_depth > 0),
        }
    }

    /// The replicas that so many requests and all other signals need: the largest of them wins.
    fn replicas_for_demand(&self, queue_depth: u64) -> u32 {
        let requests = match queue_depth {
            0 => 0,
            _ => self.replicas_for_depth(queue_depth),
        };
        let others = self.signals.iter().map(MeasuredSignal::replicas);
        others.fold(requests, u32::max)
    }

    /// The replicas that demand needs, unrounded, of which `rounded` were asked for; these where no
    /// quotient is behind them: growth by what was learned, replicas that do not work.
    fn unrounded(&self, queue_depth: Option<u64>, rounded: u32) -> Milli {
        let requests = match (self.request_signal, queue_depth) {
            (RequestSignal::Target(target), Some(depth)) if self.forecast.is_none() => Milli(
                depth
                    .saturating_mul(1000)
                    .div_ceil(u64::from(target.max(1))),
            ),
            _ => Milli(0),
        };
        let others = self.signals.iter().map(MeasuredSignal::unrounded);
        let needed = others.fold(requests, Milli::max);
        match needed.0.div_ceil(1000) == u64::from(rounded) {
            true => needed,
            false => Milli::from_units(rounded),
        }
    }

    /// Whether its signals other than its requests are known to ask for nothing.
    fn has_no_other_demand(&self) -> bool {
        self.signals.iter().all(MeasuredSignal::is_zero)
    }

    /// Its demand as a sentence, with the numbers: `sum` says how many requests there are.
    fn why(&self, sum: &str, queue_depth: u64) -> String {
        let requests = match (self.request_signal, &self.forecast) {
            (RequestSignal::Target(target), None) => {
                let by_target = replicas_for(queue_depth, target);
                Some(format!("{sum} / target {target} = {by_target}"))
            }
            (RequestSignal::Target(target), Some(forecast)) => {
                let by_target = replicas_for(queue_depth, target);
                let learned = forecast.replicas(queue_depth, target);
                Some(format!(
                    "{sum} / target {target} = {by_target}; learned: {forecast}: {learned}"
                ))
            }
            (RequestSignal::Activity | RequestSignal::AtGateways, _) => Some(sum.to_owned()),
            (RequestSignal::None, _) => None,
        };
        self.with_signals(requests)
    }

    /// A sentence about its requests, if it takes any, and all other signals.
    fn with_signals(&self, requests: Option<String>) -> String {
        let others = self.signals.iter().map(ToString::to_string);
        let all: Vec<String> = requests.into_iter().chain(others).collect();
        all.join("; ")
    }

    /// When it has its replicas for a demand that is not known, if that is not and it has any.
    fn falls_back_at(&self) -> Option<Timestamp> {
        let SignalFailure::Replicas { after, .. } = self.on_signal_failure else {
            return None;
        };
        self.demand_unknown_since?.checked_add(after).ok()
    }

    /// Its replicas for a demand that has not been known for too long, and since when that is so.
    fn fallback(&self, now: Timestamp) -> Option<(u32, Timestamp)> {
        let SignalFailure::Replicas { replicas, .. } = self.on_signal_failure else {
            return None;
        };
        self.falls_back_at().filter(|at| *at <= now)?;
        let since = self.demand_unknown_since?;
        // a whole second is enough for people
        Some((replicas, since.round(Unit::Second).unwrap_or(since)))
    }

    /// Whether it stands at zero and no request wakes it: how many there are does not matter.
    fn is_stopped(&self) -> bool {
        self.current == 0 && self.activation == Activation::Never
    }

    /// Whether nothing is asked for now, and windows wait: its demand is not followed, or what is not
    /// known of it might ask for as many replicas as there are.
    pub(crate) fn holds(&self, recommended: u32, now: Timestamp) -> bool {
        let is_unknown = self.demand_unknown_since.is_some() && self.fallback(now).is_none();
        self.paused.is_some() || is_unknown && recommended <= self.current.max(self.decided)
    }

    /// Why its demand is not known, if it is not.
    pub fn unknown(&self) -> Option<String> {
        let engine = match &self.engine {
            Signal::AtLeast(_, why) => Some(why),
            Signal::Known(_) | Signal::Absent => None,
        };
        let requests = engine.or(self.unreachable_gateway.as_ref());
        let requests = requests.filter(|_| !self.is_stopped()).cloned();
        requests.or_else(|| self.signals.iter().find_map(MeasuredSignal::unknown))
    }
}

/// What a service's demand asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recommendation {
    /// Requests waiting, running and held; `None` if unknown, as where nothing is read of the engines.
    pub queue_depth: Option<u64>,
    /// Replicas that the demand asks for, before any window or bound.
    pub recommended: u32,
    /// Replicas within window and bounds.
    pub desired: u32,
    /// What limited it last.
    pub limited_by: Option<LimitedBy>,
    /// Why, with the numbers.
    pub reason: String,
    /// When this may change though nothing else does.
    pub requeue_at: Option<Timestamp>,
}

/// What the service's demand asks for, within its bounds: by its growth, its schedules and its behavior,
/// in this order.
pub fn recommend(service: &Service, now: Timestamp) -> Recommendation {
    let (grown, limits) = recommend_by_demand(service, now);
    let recommended = limit_change(service, apply_bounds(service, grown), limits, now);
    let waits_for = service
        .waits_for
        .as_ref()
        .filter(|_| recommended.desired > 0);
    let more = waits_for.into_iter().chain(&service.stalled);
    let mut reason = more.fold(recommended.reason, |reason, more| {
        format!("{reason}; {more}")
    });
    if let Some(StuckRollout { why, broken }) = &service.rollout {
        reason = format!("{reason}; the rollout is stuck with {broken} broken replicas ({why})");
    }
    Recommendation {
        reason,
        ..recommended
    }
}

/// Moves what is asked for into the bounds of the service.
fn apply_bounds(service: &Service, asked: Recommendation) -> Recommendation {
    let bounds = &service.bounds;
    let bounded = service.within_bounds(asked.desired);
    let limited_by = match bounded {
        n if n > asked.desired && bounds.is_min_scheduled => Some(LimitedBy::Schedule),
        n if n > asked.desired => Some(LimitedBy::MinReplicas),
        n if n < asked.desired && bounds.is_max_scheduled => Some(LimitedBy::Schedule),
        n if n < asked.desired => Some(LimitedBy::MaxReplicas),
        _ => asked.limited_by,
    };
    Recommendation {
        desired: bounded,
        limited_by,
        reason: match &bounds.schedules {
            Some(schedules) => format!("{}; {schedules}", asked.reason),
            None => asked.reason,
        },
        ..asked
    }
}

/// What demand asks for, and what limits how fast that is followed.
fn recommend_by_demand(service: &Service, now: Timestamp) -> (Recommendation, ChangeLimits) {
    let Service { held, current, .. } = *service;
    let keep_replicas = |queue_depth, recommended, limited_by, reason| Recommendation {
        queue_depth,
        recommended,
        desired: current,
        limited_by,
        reason,
        requeue_at: None,
    };
    let on_replicas = service.engine.at_least();
    let known = on_replicas.saturating_add(held);
    let unknown = service.unknown();
    // what gateways forward is on replicas, and nobody tells how much of it is done
    let is_counted = service.request_signal != RequestSignal::AtGateways;
    let total = (unknown.is_none() && is_counted).then_some(known);
    let held_at = current.max(service.decided);
    if let Some(why) = &service.paused {
        let reason = why.to_string();
        let kept = Recommendation {
            desired: held_at,
            ..keep_replicas(total, held_at, Some(LimitedBy::Paused), reason)
        };
        return (kept, ChangeLimits::None);
    }
    let is_stopped = service.is_stopped();
    if is_stopped && service.signals.is_empty() {
        let reason = "activation.mode is Never".to_owned();
        return (keep_replicas(total, 0, None, reason), ChangeLimits::None);
    }
    // requests wake nothing then, other signals do
    let known = if is_stopped { 0 } else { known };
    let carry = service.replicas_for_demand(known);
    if let Some(why) = unknown {
        let carried = service.with_broken(carry);
        let fallback = service.fallback(now);
        let sum = match is_counted {
            true => {
                format!("queue depth at least {known} ({on_replicas} on replicas, {held} held)")
            }
            false => format!("at least {held} held at gateways"),
        };
        let (desired, reason, limits) = match fallback {
            Some((replicas, since)) => {
                let why_so_many = service.why(&sum, known);
                let reason = format!(
                    "{why_so_many}; demand unknown since {since} ({why}): onSignalFailure asks for {replicas}"
                );
                (carried, reason, ChangeLimits::AtLeast(replicas))
            }
            // what is known may add replicas; what is unknown takes none away
            None if carried > held_at => {
                let why_so_many = service.why(&sum, known);
                let reason = format!("{why_so_many}; more may be unknown ({why})");
                (carried, reason, ChangeLimits::Windows)
            }
            None => {
                let reason = format!("demand unknown ({why}): holds at {held_at}");
                (held_at, reason, ChangeLimits::None)
            }
        };
        let later = service.falls_back_at().filter(|at| now < *at);
        let asked = Recommendation {
            desired,
            requeue_at: service.forecast_changes.into_iter().chain(later).min(),
            ..keep_replicas(None, desired, Some(LimitedBy::Signal), reason)
        };
        return (asked, limits);
    }
    let depth = known;
    let sum = match is_counted {
        true => format!("queue depth {depth} ({on_replicas} on replicas, {held} held)"),
        false => format!("{held} held at gateways"),
    };
    let queue_depth = is_counted.then_some(depth);
    if depth == 0 && service.has_no_other_demand() {
        let requests = (service.request_signal != RequestSignal::None).then_some(sum);
        let reason = service.with_signals(requests);
        return recommend_idle(service, now, keep_replicas(queue_depth, 0, None, reason));
    }
    let reason = service.why(&sum, depth);
    let recommended = service.with_broken(carry.max(1));
    let asked = Recommendation {
        desired: recommended,
        requeue_at: service.forecast_changes,
        ..keep_replicas(queue_depth, recommended, None, reason)
    };
    (asked, ChangeLimits::Windows)
}

/// Nothing is queued and nothing runs: one replica stays until the service was idle for long enough.
fn recommend_idle(
    service: &Service,
    now: Timestamp,
    quiet: Recommendation,
) -> (Recommendation, ChangeLimits) {
    if service.current == 0 {
        return (quiet, ChangeLimits::None);
    }
    if let Some(start) = service.start.filter(|start| now < start.ends) {
        let one = Recommendation {
            recommended: service.with_broken(1),
            desired: service.with_broken(1),
            requeue_at: Some(start.ends),
            reason: format!("{}, and a replica is starting", quiet.reason),
            ..quiet
        };
        return (one, ChangeLimits::Windows);
    }
    let Some(last_active) = service.last_active else {
        let reason = format!("{}; its counters have not been read yet", quiet.reason);
        let kept = Recommendation {
            recommended: service.current,
            limited_by: Some(LimitedBy::Signal),
            reason,
            ..quiet
        };
        return (kept, ChangeLimits::None);
    };
    let idle = now.duration_since(last_active);
    if idle >= service.idle_after {
        let mut reason = format!(
            "idle for {} s, scaling.idle.after is {} s",
            idle.as_secs(),
            service.idle_after.as_secs()
        );
        if let Some(start) = &service.start {
            let start_timeout = start.start_timeout.as_secs();
            reason =
                format!("a replica was not ready within {start_timeout} s of its start; {reason}");
        }
        let none = Recommendation {
            desired: 0,
            reason,
            ..quiet
        };
        return (none, ChangeLimits::Policies);
    }
    let idle_at = last_active.checked_add(service.idle_after).ok();
    // more may come at once
    let carry = service.replicas_for_depth(0).max(1);
    let one = Recommendation {
        recommended: service.with_broken(carry),
        desired: service.with_broken(carry).min(service.current),
        requeue_at: idle_at.into_iter().chain(service.forecast_changes).min(),
        reason: match carry {
            1 => format!("{}, not idle yet", quiet.reason),
            _ => service.why(&quiet.reason, 0),
        },
        ..quiet
    };
    (one, ChangeLimits::Windows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_target_is_a_replica() {
        for (depth, target, replicas) in [
            (0, 8, 0),
            (1, 8, 1),
            (8, 8, 1),
            (9, 8, 2),
            (u64::MAX, 1, u32::MAX),
        ] {
            assert_eq!(
                replicas_for(depth, target),
                replicas,
                "{depth} over {target}"
            );
        }
    }
}
