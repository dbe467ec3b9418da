//! A replica that was ready and is not now takes no new requests, and has not ended those it has.

use bursar_core::model::Model;
use bursar_core::model::event::{Event, Name, Pod, Reading, Service};
use bursar_core::plan::decide;
use bursar_core::scaling::{Behavior, RequestSignal};
use jiff::SignedDuration;
use jiff::tz::TimeZone;

use crate::*;

const NAMES: [&str; 5] = ["one", "two", "three", "four", "five"];

/// Five ready replicas with so many running requests each, at 40 a replica.
fn overloaded(busy: [u64; 5]) -> Model {
    let service = Service {
        min: 1,
        max: 8,
        request_signal: RequestSignal::Target(40),
        signals: vec![],
        growth: Default::default(),
        learned: None,
        behavior: Behavior::with_scale_down_window(Some(SignedDuration::from_secs(60))),
        idle_after: SignedDuration::from_mins(10),
        drain_timeout: SignedDuration::from_mins(10),
        ..service()
    };
    let mut model = Model::new(TimeZone::UTC, at(-3600));
    let mut start = vec![Event::Service(key(), Some(service)), replicas(5)];
    start.extend([gateway(-3600), demand(0)]);
    for (name, busy) in NAMES.into_iter().zip(busy) {
        start.extend([pod(name, -600), reading(name, busy)]);
    }
    assert_eq!(tell(&mut model, 0, start).service_orders, []);
    model
}

fn unready(name: &str) -> Pod {
    Pod {
        ready_since: None,
        ..ready_pod(name, -600)
    }
}

fn shown(pod: Pod) -> Event {
    Event::Pod(pod.key.name.clone(), Some(Box::new(pod)))
}

/// The pods that begin to drain in these seconds, and those that go.
fn changes(model: &mut Model, begin: i64, end: i64) -> Vec<(i64, Vec<Name>, Vec<Name>)> {
    let mut all = Vec::new();
    for second in begin..=end {
        for order in decide(model, at(second)).service_orders {
            all.push((second, order.drain, order.remove));
        }
    }
    all
}

#[test]
fn an_overloaded_service_whose_replicas_turn_unready_does_not_shrink() {
    let mut model = overloaded([40; 5]);
    tell(
        &mut model,
        25,
        ["four", "five"].map(|name| shown(unready(name))),
    );
    assert_eq!(changes(&mut model, 26, 600), []);
    let decision = model.service(&key()).unwrap().decision;
    assert_eq!((decision.queue_depth, decision.desired), (Some(200), 5));
}

#[test]
fn a_service_none_of_whose_replicas_is_ready_any_more_is_not_idle() {
    for stale in [false, true] {
        let mut model = overloaded([40; 5]);
        tell(&mut model, 25, NAMES.map(|name| shown(unready(name))));
        if stale {
            let stale = |name: &str| Event::Reading(name.into(), Reading::Stale("timeout".into()));
            tell(&mut model, 30, NAMES.map(stale));
        }
        assert_eq!(changes(&mut model, 31, 1500), []);
        let unknown = model.service(&key()).unwrap().decision.unknown;
        assert_eq!(unknown.is_some(), stale);
    }
}

#[test]
fn a_replica_that_was_ready_before_the_operator_started_is_unknown_too() {
    let mut model = overloaded([0; 5]);
    let seen = Pod {
        was_ready: true,
        ..unready("five")
    };
    let events = [Event::Pod("five".into(), None), shown(seen)];
    tell(&mut model, 1, events);
    assert_eq!(changes(&mut model, 2, 1500), []);
    let unknown = model.service(&key()).unwrap().decision.unknown.unwrap();
    assert!(unknown.contains("pod five: not read yet"), "{unknown}");
}

#[test]
fn the_replica_with_the_least_work_leaves_first_whether_ready_or_not() {
    let mut model = overloaded([20, 20, 20, 40, 40]);
    let events = ["four", "five"].map(|name| shown(unready(name)));
    tell(&mut model, 1, events);
    let (second, drained, removed) = changes(&mut model, 2, 61).remove(0);
    assert_eq!((second, drained.len(), removed.len()), (60, 1, 0));
    assert!(
        ["one", "two", "three"].contains(&&*drained[0]),
        "{drained:?}"
    );
}

#[test]
fn an_unready_replica_drains_until_its_work_ends_or_the_timeout_has_passed() {
    for (busy, stale, goes) in [(7, false, 600), (0, false, 3), (0, true, 600)] {
        let mut model = overloaded([20, 40, 40, 0, busy]);
        let drains = |name: &str| Pod {
            draining_since: Some(at(100)),
            ..unready(name)
        };
        let gone = ["two", "three", "four"].map(|name| Event::Pod(name.into(), None));
        tell(&mut model, 30, gone);
        // the window is over
        tell(&mut model, 99, []);
        let events = [replicas(2), shown(drains("five"))];
        tell(&mut model, 100, events);
        if stale {
            let event = Event::Reading("five".into(), Reading::Stale("timeout".into()));
            tell(&mut model, 100, [event]);
        }
        let removed = changes(&mut model, 100, 800);
        let first = removed.iter().find(|(_, _, removed)| !removed.is_empty());
        let first = first.map(|(second, _, _)| *second);
        assert_eq!(first, Some(100 + goes), "{busy} {stale}");
    }
}

#[test]
fn a_replica_whose_engine_crashes_in_a_loop_has_no_work() {
    let mut model = overloaded([0; 5]);
    let crashed = Pod {
        start_failure: Some(("container engine: CrashLoopBackOff".into(), at(1))),
        ..unready("five")
    };
    tell(&mut model, 1, [shown(crashed)]);
    let (_, drained, _) = changes(&mut model, 2, 700).remove(0);
    assert!(drained.contains(&"five".into()), "{drained:?}");
    let unknown = model.service(&key()).unwrap().decision.unknown;
    assert_eq!(unknown, None);
}
