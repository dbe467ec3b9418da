//! Events of decisions: each once, and in words that stay the same.

use bursar_core::budget::{Budget, Latch, Phase};
use bursar_core::calendar::{Interval, Period};
use bursar_core::model::event::Key;
use bursar_core::money::Money;
use bursar_core::training::{Restart, Retry};
use serde_json::json;

use super::*;

fn decision(allowed: u32, recommended: u32, limited_by: Option<LimitedBy>) -> Decision {
    Decision {
        name: "chat".to_owned(),
        queue_depth: Some(0),
        signals: Vec::new(),
        recommended,
        desired: allowed,
        allowed,
        limited_by,
        reason: String::new(),
        unknown: None,
        stalled: None,
        rollout_stuck: None,
        refusal: None,
    }
}

fn key(name: &str) -> Key {
    Key {
        namespace: "team".into(),
        name: name.into(),
    }
}

fn order(from: u32, to: u32) -> ServiceOrder {
    ServiceOrder {
        service: key("chat"),
        drain: Vec::new(),
        keep: Vec::new(),
        remove: Vec::new(),
        replicas: (from, to),
        reason: "queue depth 24 (20 on replicas, 4 held) / target 8 = 3".to_owned(),
        held_since: None,
        after_latch: false,
    }
}

/// Type, reason, action and note.
fn text(event: Option<Event>) -> String {
    event.map_or_else(String::new, |event| {
        let note = event.note.unwrap_or_default();
        let (type_, reason, action) = (event.type_, event.reason, event.action);
        format!("{type_:?} {reason} {action}: {note}")
    })
}

#[test]
fn a_service_is_woken_scaled_and_idle() {
    let mut events = ServiceEvents::default();
    let mut next = |order: &ServiceOrder, decision: &Decision| text(events.next(order, decision));
    let woken = ServiceOrder {
        held_since: Some(Timestamp::UNIX_EPOCH),
        ..order(0, 1)
    };
    assert_eq!(
        next(&woken, &decision(1, 1, None)),
        "Normal Woken ScaleFrom0To1: from 0 to 1 replicas: gateways hold requests"
    );
    assert_eq!(
        next(&order(1, 3), &decision(3, 9, Some(LimitedBy::MaxReplicas))),
        "Normal Scaled ScaleFrom1To3: from 1 to 3 replicas: more demand, up to maxReplicas"
    );
    assert_eq!(
        next(&order(3, 3), &decision(1, 1, None)),
        "Normal Scaled ScaleFrom3To1: from 3 to 1 replicas: less demand",
        "two begin to leave"
    );
    assert_eq!(
        next(&order(3, 2), &decision(1, 1, None)),
        "",
        "the first has left"
    );
    assert_eq!(next(&order(2, 1), &decision(1, 1, None)), "");
    assert_eq!(
        next(&order(1, 0), &decision(0, 0, None)),
        "Normal Idle ScaleFrom1To0: from 1 to 0 replicas: no request for as long as scaling.idle.after says"
    );
    assert_eq!(
        next(&order(0, 2), &decision(2, 0, Some(LimitedBy::MinReplicas))),
        "Normal Scaled ScaleFrom0To2: from 0 to 2 replicas: minReplicas"
    );
}

#[test]
fn a_stop_for_money_is_a_warning_with_the_budget() {
    let stop = ServiceOrder {
        reason: "budget team is exhausted: 4.90 of 5.00 spent; queue depth 3".to_owned(),
        ..order(3, 3)
    };
    let said = ServiceEvents::default().next(&stop, &decision(0, 3, Some(LimitedBy::Budget)));
    assert_eq!(
        text(said),
        "Warning Scaled ScaleFrom3To0: from 3 to 0 replicas: budget team is exhausted: 4.90 of 5.00 spent; queue depth 3"
    );
    let mut events = ServiceEvents::default();
    let grows = events.next(&order(1, 2), &decision(2, 5, Some(LimitedBy::Budget)));
    assert_eq!(
        text(grows),
        "Normal Scaled ScaleFrom1To2: from 1 to 2 replicas: more demand, as far as budgets allow"
    );
}

#[test]
fn a_drain_that_is_called_off_is_said_again_when_it_comes_back() {
    let mut events = ServiceEvents::default();
    assert!(events.next(&order(3, 3), &decision(1, 1, None)).is_some());
    assert!(events.next(&order(3, 3), &decision(3, 3, None)).is_none());
    assert!(events.next(&order(3, 3), &decision(1, 1, None)).is_some());
}

#[test]
fn an_order_that_is_given_anew_is_said_once() {
    let mut events = ServiceEvents::default();
    assert!(events.next(&order(1, 3), &decision(3, 3, None)).is_some());
    assert!(events.next(&order(1, 3), &decision(3, 3, None)).is_none());
    // a Deployment that is made with the replicas that it should have
    assert!(
        ServiceEvents::default()
            .next(&order(0, 0), &decision(0, 0, None))
            .is_none()
    );
}

/// A job that may restart once.
fn job(phase: &str, attempts: i32) -> TrainingJob {
    let template = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
    let spec = json!({"framework": "PyTorch", "replicas": 2, "restarts": 1, "template": template});
    serde_json::from_value(json!({
        "apiVersion": "bursar.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": "train"},
        "spec": spec, "status": {"phase": phase, "attempts": attempts},
    }))
    .unwrap()
}

#[test]
fn each_restart_of_a_job_is_said_and_that_none_is_left() {
    let order = |count: u32, at: &str| JobOrder {
        job: key("train"),
        run: false,
        cancels_stop: false,
        retry: None,
        restart: Some(Restart {
            count,
            at: at.parse().unwrap(),
            disruptions: 0,
        }),
        restarts: count,
        recreate: vec![],
        done: vec![],
        reason: "worker train-0 has failed".to_owned(),
        limited_by: None,
        after_latch: false,
    };
    let running = job("Running", 1);
    assert_eq!(
        text(of_job(&order(1, "2026-12-01T10:00:10Z"), &running)),
        "Normal Restarted RestartAt2026-12-01T10:00:10Z: worker train-0 has failed"
    );
    assert_eq!(
        text(of_job(&order(2, "2026-12-01T10:05:20Z"), &running)),
        "Warning Failed Fail: worker train-0 has failed"
    );
}

#[test]
fn a_job_starts_is_suspended_and_resumes() {
    let order = |run: bool, retry: bool| JobOrder {
        job: key("train"),
        run,
        cancels_stop: false,
        retry: retry.then_some(Retry {
            count: 1,
            at: Timestamp::UNIX_EPOCH,
            creation_failure: None,
            had_room: false,
        }),
        restart: None,
        restarts: 0,
        recreate: vec![],
        done: vec![],
        reason: "budget team is exhausted: 4.90 of 5.00 spent".to_owned(),
        limited_by: None,
        after_latch: false,
    };
    let limited = |order: &JobOrder, limited_by: Option<LimitedBy>| JobOrder {
        limited_by,
        ..order.clone()
    };
    let said = |order: &JobOrder, limit: Option<LimitedBy>, job: &TrainingJob| {
        text(of_job(&limited(order, limit), job))
    };
    let (queued, running) = (job("Queued", 0), job("Running", 1));
    let suspended = job("Suspended", 1);
    let new = TrainingJob {
        status: None,
        ..queued.clone()
    };
    assert_eq!(said(&order(false, false), Some(LimitedBy::Queue), &new), "");
    assert_eq!(
        said(&order(false, false), Some(LimitedBy::Budget), &queued),
        ""
    );
    assert_eq!(
        said(&order(true, false), None, &queued),
        "Normal Started Run: all workers may start"
    );
    assert_eq!(
        said(&order(false, false), Some(LimitedBy::Budget), &running),
        "Warning Suspended SuspendForBudget: budget team is exhausted: 4.90 of 5.00 spent"
    );
    assert_eq!(
        said(&order(false, false), Some(LimitedBy::Suspended), &running),
        "Normal Suspended SuspendForSuspended: spec.suspend is true"
    );
    assert_eq!(
        said(&order(false, true), Some(LimitedBy::Capacity), &queued),
        "Normal Suspended SuspendForCapacity: some workers found no node, or were given no pod; it starts again once all find one"
    );
    assert_eq!(
        said(&order(true, false), None, &suspended),
        "Normal Resumed Run: all workers may start again"
    );
}

#[test]
fn a_budget_is_exhausted_once_a_period_and_reopens() {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let (yesterday, start) = (at("2026-11-25T00:00:00Z"), at("2026-11-26T00:00:00Z"));
    let budget_state = |latched: bool| BudgetState {
        budget: Budget {
            name: "team".to_owned(),
            limit: "5".parse().unwrap(),
            period: Period::Daily,
            on_exhausted: OnExhausted::ScaleToZero,
            unmanaged: Default::default(),
            eviction_reserve: Money::ZERO,
            minimum_useful_run: jiff::SignedDuration::ZERO,
            latch: latched.then(|| Latch {
                period_start: start,
                limit: "5".parse().unwrap(),
                corrections: Money::ZERO,
                stops_below: None,
            }),
            spent: "4.9".parse().unwrap(),
            corrections: Money::ZERO,
            doubt: None,
        },
        period: Interval {
            start,
            end: at("2026-11-27T00:00:00Z"),
        },
        reserve: "0.1".parse().unwrap(),
        rate: Money::ZERO,
        phase: Phase::Active,
        exhausted_at: None,
        margin: Money::ZERO,
        announced: false,
        pending: None,
        evictions: None,
    };
    let exhausted = "Warning BudgetExhausted ScaleToZero: 4.9000 of 5.0000 spent, and stopping costs 0.1000: ScaleToZero until 2026-11-27T00:00:00Z, or until its limit is raised or a credit is given";
    assert_eq!(text(of_latch(None, &budget_state(true))), exhausted);
    assert_eq!(text(of_latch(Some((start, None)), &budget_state(true))), "");
    assert_eq!(
        text(of_latch(Some((yesterday, None)), &budget_state(true))),
        exhausted
    );
    assert_eq!(text(of_latch(None, &budget_state(false))), "");
    assert_eq!(
        text(of_latch(Some((start, None)), &budget_state(false))),
        "Normal BudgetReopened Reopen: its limit was raised, or a credit was given"
    );
    assert_eq!(
        text(of_latch(Some((yesterday, None)), &budget_state(false))),
        "Normal BudgetReopened BeginPeriod: a new period has begun"
    );
}
