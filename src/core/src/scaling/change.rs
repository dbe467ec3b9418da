//! How fast replicas follow what is asked for: tolerance, windows, policies and bursts.

use std::cmp::Ordering;

use jiff::{SignedDuration, Timestamp, Unit};

use super::history::PastRecommendation;
use super::{Milli, Recommendation, Service};
use crate::limit::LimitedBy;

/// What limits how fast a number is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChangeLimits {
    /// Nothing: the replicas are kept, or there are none.
    None,
    /// Policies alone: it has lasted for long already.
    Policies,
    /// The tolerance, windows and policies.
    Windows,
    /// The same, and then it is at least so many: what is known of the demand needs its windows, and
    /// what stands for the rest has waited already.
    AtLeast(u32),
}

/// Limits by the behavior of the service how far its replicas go towards what is asked for.
pub(super) fn limit_change(
    service: &Service,
    asked: Recommendation,
    limits: ChangeLimits,
    now: Timestamp,
) -> Recommendation {
    let behavior = &service.behavior;
    if limits == ChangeLimits::None {
        return asked;
    }
    if let Some(panic) = behavior.panic {
        let is_burst = behavior.is_burst(asked.recommended, service.current);
        let last = if is_burst {
            Some(now)
        } else {
            service.last_burst
        };
        let ends = last.and_then(|last| last.checked_add(panic.window).ok());
        if let Some(ends) = ends.filter(|ends| now < *ends) {
            let why = match is_burst {
                true => format!(
                    "a burst, at least {} % of {} replicas",
                    panic.threshold_percent, service.current
                ),
                false => {
                    let shown = ends.round(Unit::Second).unwrap_or(ends);
                    format!("after a burst nothing leaves until {shown}")
                }
            };
            return follow_burst(service, asked, &why, ends);
        }
    }
    let asked = match limits {
        ChangeLimits::Windows => stabilize(service, tolerate(service, asked), now),
        ChangeLimits::AtLeast(replicas) => {
            let known = stabilize(service, tolerate(service, asked), now);
            at_least(service, known, replicas)
        }
        ChangeLimits::Policies | ChangeLimits::None => asked,
    };
    apply_policies(service, asked, now)
}

/// In a burst replicas are added at once, and none is taken away.
fn follow_burst(
    service: &Service,
    asked: Recommendation,
    why: &str,
    ends: Timestamp,
) -> Recommendation {
    let desired = service.within_bounds(asked.desired.max(service.current));
    Recommendation {
        desired,
        limited_by: match desired > asked.desired {
            true => Some(LimitedBy::Stabilization),
            false => asked.limited_by,
        },
        reason: format!("{}; {why}", asked.reason),
        requeue_at: asked.requeue_at.into_iter().chain([ends]).min(),
        ..asked
    }
}

/// Replicas that stand for a demand that is not known.
fn at_least(service: &Service, known: Recommendation, replicas: u32) -> Recommendation {
    let replicas = service.within_bounds(service.with_broken(replicas));
    match replicas > known.desired {
        true => Recommendation {
            desired: replicas,
            limited_by: Some(LimitedBy::Signal),
            ..known
        },
        false => known,
    }
}

/// What differs from the replicas by no more than the tolerance asks for nothing else.
fn tolerate(service: &Service, asked: Recommendation) -> Recommendation {
    let current = service.current;
    let needed = match asked.desired == asked.recommended {
        true => service.unrounded(asked.queue_depth, asked.recommended),
        false => Milli::from_units(asked.desired),
    };
    let tolerance = service.behavior.tolerates(needed, current);
    let Some(tolerance) = tolerance.filter(|_| service.within_bounds(current) == current) else {
        return asked;
    };
    Recommendation {
        recommended: current,
        desired: current,
        reason: format!(
            "{}; {current} are within the tolerance {tolerance}",
            asked.reason
        ),
        ..asked
    }
}

/// Follows a lower number only when no higher one was asked for within the window of lower numbers, and
/// a higher number only when no lower one was within that of higher numbers. The first replica does not
/// wait.
fn stabilize(service: &Service, asked: Recommendation, now: Timestamp) -> Recommendation {
    let Service {
        current, history, ..
    } = service;
    let desired = asked.desired;
    if desired < *current {
        let window = service.window;
        let highest = history.highest(desired, window, now);
        let kept = service.within_bounds(highest.replicas.min(*current));
        return wait(asked, kept, highest, window);
    }
    if desired > *current {
        let window = service.behavior.scale_up_window();
        let lowest = history.lowest(desired, window, now);
        let kept = service.within_bounds(lowest.replicas.max(*current).max(1));
        return wait(asked, kept, lowest, window);
    }
    asked
}

/// Keeps so many replicas until what was asked for in the past is out of the window.
fn wait(
    asked: Recommendation,
    kept: u32,
    past: PastRecommendation,
    window: SignedDuration,
) -> Recommendation {
    if kept == asked.desired {
        return asked;
    }
    let expires = past.at.checked_add(window).ok();
    let reason = format!(
        "{}; {} within the last {} s",
        asked.reason,
        past.replicas,
        window.as_secs()
    );
    let requeue_at = asked.requeue_at.into_iter().chain(expires).min();
    Recommendation {
        desired: kept,
        limited_by: Some(LimitedBy::Stabilization),
        reason,
        requeue_at,
        ..asked
    }
}

/// Goes as far as policies let it.
fn apply_policies(service: &Service, asked: Recommendation, now: Timestamp) -> Recommendation {
    let Service {
        behavior,
        current,
        replica_log,
        ..
    } = service;
    let limit = match asked.desired.cmp(current) {
        Ordering::Less => behavior.fewest(*current, replica_log, now),
        Ordering::Equal => None,
        Ordering::Greater => behavior.most(*current, replica_log, now),
    };
    let Some(limit) = limit else {
        return asked;
    };
    let reached = match asked.desired < *current {
        true => asked.desired.max(limit.replicas),
        false => asked.desired.min(limit.replicas),
    };
    let reached = service.within_bounds(reached);
    // what is still to come may be limited more by then, too: fewer replicas when the period began
    let asked = Recommendation {
        requeue_at: asked.requeue_at.into_iter().chain(limit.changes_at).min(),
        ..asked
    };
    if reached == asked.desired {
        return asked;
    }
    Recommendation {
        desired: reached,
        limited_by: Some(LimitedBy::ScalingPolicy),
        reason: format!("{}; {}: {reached} now", asked.reason, limit.reason),
        ..asked
    }
}
