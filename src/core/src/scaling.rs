//! Replicas from demand: each signal over its target, the largest wins, and the windows that keep
//! it steady.

use jiff::{SignedDuration, Timestamp};

use crate::budget::RunningCost;
use crate::limit::LimitedBy;
use crate::pod_set::PodSet;

mod growth;
mod signals;

pub use growth::{DEFAULT_WINDOW, DemandForecast, GrowthRule, LearnedThroughput, remaining_start};
pub use signals::{MeasuredSignal, Milli, RequestSignal, SignalValue};

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

/// A number of replicas that demand once asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PastRecommendation {
    /// When.
    pub at: Timestamp,
    /// How many.
    pub replicas: u32,
}

/// Replicas that carry `queue_depth` requests at `target` each: `ceil(queue_depth / target)`.
///
/// This is the formula of Kubernetes' HorizontalPodAutoscaler for an average value.
pub fn replicas_for(queue_depth: u64, target: u32) -> u32 {
    u32::try_from(queue_depth.div_ceil(u64::from(target.max(1)))).unwrap_or(u32::MAX)
}

/// Recommendations of the last `window`, to see that a lower number is not a passing one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    kept: Vec<PastRecommendation>,
}

impl History {
    /// The highest number asked for within `window` before `now`, `replicas` asked for now included, and what asked for it.
    pub fn stabilized(
        &self,
        replicas: u32,
        window: SignedDuration,
        now: Timestamp,
    ) -> PastRecommendation {
        let asked_now = PastRecommendation { at: now, replicas };
        self.kept
            .iter()
            .copied()
            .filter(|past| now.duration_since(past.at) < window)
            .chain([asked_now])
            .max_by_key(|past| (past.replicas, past.at))
            .unwrap_or(asked_now)
    }

    /// Keeps what is asked for now, and drops what can no longer matter.
    pub fn record(&mut self, replicas: u32, window: SignedDuration, now: Timestamp) {
        // a lower and older recommendation never decides again
        self.kept
            .retain(|past| now.duration_since(past.at) < window && past.replicas > replicas);
        self.kept.push(PastRecommendation { at: now, replicas });
    }
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
    /// The fewest replicas.
    pub min: u32,
    /// The most replicas.
    pub max: u32,
    /// What its requests say of the replicas that it needs.
    pub request_signal: RequestSignal,
    /// Its other signals.
    pub signals: Vec<MeasuredSignal>,
    /// How long a lower number must last before it is followed.
    pub window: SignedDuration,
    /// How long nothing may happen before it goes to its minimum.
    pub idle_after: SignedDuration,
    /// Demand changes nothing.
    pub paused: bool,
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
    /// What one replica costs, and how long it takes to stop.
    pub running_cost: RunningCost,
    /// What one replica needs on a node.
    pub replica: PodSet,
}

impl Service {
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

    /// The replicas that so many requests need, by its rule.
    fn replicas_for_depth(&self, queue_depth: u64) -> u32 {
        match (self.request_signal, &self.forecast) {
            (RequestSignal::Target(target), Some(forecast)) => {
                forecast.replicas(queue_depth, target)
            }
            (RequestSignal::Target(target), None) => replicas_for(queue_depth, target),
            (RequestSignal::Activity | RequestSignal::None, _) => u32::from(queue_depth > 0),
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
            (RequestSignal::Activity, _) => Some(sum.to_owned()),
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

    /// Why its demand is not known, if it is not.
    pub fn unknown(&self) -> Option<String> {
        let engine = match &self.engine {
            Signal::AtLeast(_, why) => Some(why),
            Signal::Known(_) | Signal::Absent => None,
        };
        let requests = engine.or(self.unreachable_gateway.as_ref()).cloned();
        requests.or_else(|| self.signals.iter().find_map(MeasuredSignal::unknown))
    }
}

/// What a service's demand asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recommendation {
    /// Requests waiting, running and held; `None` if unknown.
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

/// What the service's demand asks for, within its own bounds.
pub fn recommend(service: &Service, now: Timestamp) -> Recommendation {
    let recommended = recommend_unbounded(service, now);
    let bounded = recommended.desired.clamp(
        service.with_broken(service.min).min(service.max),
        service.max,
    );
    let limited_by = match bounded {
        n if n > recommended.desired => Some(LimitedBy::MinReplicas),
        n if n < recommended.desired => Some(LimitedBy::MaxReplicas),
        _ => recommended.limited_by,
    };
    let waits_for = service.waits_for.as_ref().filter(|_| bounded > 0);
    let more = waits_for.into_iter().chain(&service.stalled);
    let mut reason = more.fold(recommended.reason, |reason, more| {
        format!("{reason}; {more}")
    });
    if let Some(StuckRollout { why, broken }) = &service.rollout {
        reason = format!("{reason}; the rollout is stuck with {broken} broken replicas ({why})");
    }
    Recommendation {
        desired: bounded,
        limited_by,
        reason,
        ..recommended
    }
}

fn recommend_unbounded(service: &Service, now: Timestamp) -> Recommendation {
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
    let total = unknown.is_none().then_some(known);
    let held_at = current.max(service.decided);
    if service.paused {
        let reason = "scaling.paused is true".to_owned();
        return Recommendation {
            desired: held_at,
            ..keep_replicas(total, held_at, Some(LimitedBy::Paused), reason)
        };
    }
    let is_stopped = current == 0 && service.activation == Activation::Never;
    if is_stopped && service.signals.is_empty() {
        return keep_replicas(total, 0, None, "activation.mode is Never".to_owned());
    }
    // requests wake nothing then, other signals do
    let known = if is_stopped { 0 } else { known };
    let carry = service.replicas_for_demand(known);
    if let Some(why) = unknown {
        // what is known may add replicas; what is unknown takes none away
        let desired = service.with_broken(carry).max(held_at);
        let reason = match desired > held_at {
            false => format!("demand unknown ({why}): holds at {desired}"),
            true => {
                let sum = format!(
                    "queue depth at least {known} ({on_replicas} on replicas, {held} held)"
                );
                let why_so_many = service.why(&sum, known);
                format!("{why_so_many}; more may be unknown ({why})")
            }
        };
        return Recommendation {
            desired,
            requeue_at: service.forecast_changes,
            ..keep_replicas(None, desired, Some(LimitedBy::Signal), reason)
        };
    }
    let depth = known;
    let sum = format!("queue depth {depth} ({on_replicas} on replicas, {held} held)");
    if depth == 0 && service.has_no_other_demand() {
        let requests = (service.request_signal != RequestSignal::None).then_some(sum);
        let reason = service.with_signals(requests);
        return recommend_idle(service, now, keep_replicas(Some(0), 0, None, reason));
    }
    let reason = service.why(&sum, depth);
    let recommended = service.with_broken(carry.max(1));
    stabilize(
        service,
        now,
        Recommendation {
            desired: recommended,
            requeue_at: service.forecast_changes,
            ..keep_replicas(Some(depth), recommended, None, reason)
        },
    )
}

/// Nothing is queued and nothing runs: one replica stays until the service was idle for long enough.
fn recommend_idle(service: &Service, now: Timestamp, quiet: Recommendation) -> Recommendation {
    if service.current == 0 {
        return quiet;
    }
    if let Some(start) = service.start.filter(|start| now < start.ends) {
        let one = Recommendation {
            recommended: service.with_broken(1),
            desired: service.with_broken(1),
            requeue_at: Some(start.ends),
            reason: format!("{}, and a replica is starting", quiet.reason),
            ..quiet
        };
        return stabilize(service, now, one);
    }
    let Some(last_active) = service.last_active else {
        let reason = format!("{}; its counters have not been read yet", quiet.reason);
        return Recommendation {
            recommended: service.current,
            limited_by: Some(LimitedBy::Signal),
            reason,
            ..quiet
        };
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
        return Recommendation {
            desired: 0,
            reason,
            ..quiet
        };
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
    stabilize(service, now, one)
}

/// Follows a lower number only when no higher one was asked for within the window.
fn stabilize(service: &Service, now: Timestamp, recommendation: Recommendation) -> Recommendation {
    if recommendation.desired >= service.current {
        return recommendation;
    }
    let highest = service
        .history
        .stabilized(recommendation.desired, service.window, now);
    let desired = highest.replicas.min(service.current);
    if desired == recommendation.desired {
        return recommendation;
    }
    let expires = highest.at.checked_add(service.window).ok();
    let reason = format!(
        "{}; {} within the last {} s",
        recommendation.reason,
        highest.replicas,
        service.window.as_secs()
    );
    let requeue_at = recommendation.requeue_at.into_iter().chain(expires).min();
    Recommendation {
        desired,
        limited_by: Some(LimitedBy::Stabilization),
        reason,
        requeue_at,
        ..recommendation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + seconds).unwrap()
    }

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

    #[test]
    fn a_lower_number_waits_until_no_higher_one_is_in_the_window() {
        let window = SignedDuration::from_secs(60);
        let mut history = History::default();
        history.record(5, window, at(0));
        history.record(2, window, at(10));
        assert_eq!(history.stabilized(1, window, at(59)).replicas, 5);
        assert_eq!(history.stabilized(1, window, at(60)).replicas, 2);
        assert_eq!(
            history.stabilized(7, window, at(60)).replicas,
            7,
            "a higher number does not wait"
        );
        assert_eq!(history.stabilized(1, window, at(70)).replicas, 1);
    }

    #[test]
    fn what_is_kept_stays_small() {
        let window = SignedDuration::from_secs(300);
        let mut history = History::default();
        for second in 0..10_000 {
            history.record(if second % 2 == 0 { 3 } else { 4 }, window, at(second));
        }
        assert!(history.kept.len() <= 2, "{}", history.kept.len());
    }
}
