//! Requests on an engine are believed only as long as its counters move.

use bursar_core::model::Model;
use bursar_core::model::event::{Event, Name, Reading, Service};
use bursar_core::plan::decide;
use jiff::SignedDuration;
use jiff::tz::TimeZone;

use crate::*;

fn counted(pod: &str, requests: u64, moved: bool) -> Event {
    Event::Reading(
        pod.into(),
        Reading::Counted {
            requests,
            counting: Default::default(),
            moved,
            done: Default::default(),
        },
    )
}

/// Ready replicas of these names, of a service that is idle after ten minutes.
fn with_replicas(names: &[String]) -> Model {
    let service = Service {
        max: 16,
        idle_after: SignedDuration::from_mins(10),
        ..service()
    };
    let mut model = Model::new(TimeZone::UTC, at(-3600));
    let number = u32::try_from(names.len()).unwrap();
    let mut start = vec![Event::Service(key(), Some(service)), replicas(number)];
    start.extend([gateway(-3600), demand(0)]);
    start.extend(names.iter().map(|name| pod(name, -600)));
    tell(&mut model, -60, start);
    model
}

/// What is ordered in these seconds, and carried out at once: the pods that begin to drain, and those
/// that go.
fn changes(model: &mut Model, seconds: std::ops::Range<i64>) -> Vec<(i64, Vec<Name>, Vec<Name>)> {
    seconds.flat_map(|second| step(model, second, [])).collect()
}

fn step(
    model: &mut Model,
    second: i64,
    events: impl IntoIterator<Item = Event>,
) -> Vec<(i64, Vec<Name>, Vec<Name>)> {
    let orders = tell(model, second, events).service_orders;
    for order in &orders {
        for name in &order.drain {
            let mut drains = ready_pod(name, -600);
            drains.draining_since = Some(at(second));
            let event = Event::Pod(name.clone(), Some(Box::new(drains)));
            model.apply(event, at(second));
        }
        for name in &order.remove {
            model.apply(Event::Pod(name.clone(), None), at(second));
        }
        model.apply(replicas(order.replicas.1), at(second));
    }
    let changes = orders.into_iter();
    changes
        .map(|order| (second, order.drain, order.remove))
        .collect()
}

fn asked(model: &Model) -> u32 {
    model.service(&key()).unwrap().decision.recommended
}

fn stalled(model: &Model) -> Option<String> {
    model.service(&key()).unwrap().decision.stalled
}

#[test]
fn requests_whose_counters_stand_still_add_no_replica_and_keep_nothing_awake() {
    let names: Vec<String> = (0..16).map(|number| format!("replica-{number}")).collect();
    let mut model = with_replicas(&names);
    let mut readings: Vec<Event> = names.iter().map(|name| counted(name, 0, true)).collect();
    readings.push(counted("replica-0", 121, true));
    tell(&mut model, 0, readings);
    assert_eq!(asked(&model), 16);
    assert_eq!(changes(&mut model, 1..300), []);
    assert_eq!((asked(&model), stalled(&model)), (16, None));
    // ten within a minute, once the window of 30 s is over
    assert_eq!(changes(&mut model, 300..330), []);
    let (_, first, _) = changes(&mut model, 330..331).remove(0);
    assert_eq!((asked(&model), first.len()), (1, 10));
    assert!(first.contains(&"replica-0".into()), "it does nothing");
    let why = stalled(&model).unwrap();
    for part in ["pod replica-0", "121 requests", &at(0).to_string()] {
        assert!(why.contains(part), "{why}");
    }
    // the last one waits for the idle time
    let later = changes(&mut model, 331..700);
    let last = later.iter().filter(|(_, drained, _)| !drained.is_empty());
    let last: Vec<_> = last
        .map(|(second, drained, _)| (*second, drained.len()))
        .collect();
    assert_eq!(last, [(390, 5), (600, 1)]);
}

#[test]
fn counters_that_move_now_and_then_confirm_requests_and_a_restart_moves_them() {
    let mut model = with_replicas(&["one".to_owned()]);
    for minute in 0..60 {
        // every second time only the requests on it differ
        let moved = minute % 4 == 0;
        let event = counted("one", 30 + minute % 2, moved);
        tell(&mut model, minute as i64 * 60, [event]);
        assert_eq!((asked(&model), stalled(&model)), (4, None), "{minute}");
    }
}

#[test]
fn requests_on_an_engine_without_counters_are_believed() {
    let mut model = with_replicas(&["one".to_owned()]);
    tell(&mut model, 0, [reading("one", 30)]);
    decide(&mut model, at(7200));
    assert_eq!((asked(&model), stalled(&model)), (4, None));
}

#[test]
fn an_engine_that_was_idle_for_long_is_believed_when_it_has_a_request() {
    let mut model = with_replicas(&["one".to_owned()]);
    tell(&mut model, 0, [counted("one", 0, true)]);
    tell(&mut model, 590, [counted("one", 9, false)]);
    assert_eq!((asked(&model), stalled(&model)), (2, None));
    decide(&mut model, at(889));
    assert_eq!(stalled(&model), None);
    decide(&mut model, at(890));
    assert!(stalled(&model).is_some());
    // whatever it did: it does something again
    tell(&mut model, 900, [counted("one", 9, true)]);
    assert_eq!((asked(&model), stalled(&model)), (2, None));
}

#[test]
fn requests_that_go_on_coming_to_an_engine_that_hangs_keep_nothing_awake() {
    let mut model = with_replicas(&["one".to_owned()]);
    tell(&mut model, 0, [counted("one", 8, true)]);
    for second in 1..=300 {
        tell(
            &mut model,
            second,
            [counted("one", 8 + second as u64, false)],
        );
    }
    assert!(stalled(&model).is_some());
    assert_eq!(asked(&model), 1);
    // it was believed until then; the idle time counts from the last change before
    let mut drained = Vec::new();
    for second in 301..1000 {
        let event = counted("one", 8 + second as u64, false);
        drained.extend(step(&mut model, second, [event]));
    }
    let (second, leaving, _) = &drained[0];
    assert_eq!((*second, leaving.len()), (899, 1));
    // they may be real: the drain has its time
    let removed = drained.iter().find(|(_, _, removed)| !removed.is_empty());
    assert_eq!(removed.map(|(second, _, _)| *second), Some(899 + 60));
}

#[test]
fn a_replica_that_does_nothing_leaves_before_one_that_works() {
    let mut model = with_replicas(&["hung".to_owned(), "works".to_owned()]);
    tell(
        &mut model,
        0,
        [counted("hung", 40, true), counted("works", 4, true)],
    );
    tell(&mut model, 290, [counted("works", 4, true)]);
    let all = changes(&mut model, 291..400);
    let (began, drained, _) = &all[0];
    assert!((320..=330).contains(began), "the window ends: {began}");
    assert_eq!(*drained, ["hung".into()]);
    let removed = all.iter().find(|(_, _, removed)| !removed.is_empty());
    let (ended, removed) = removed
        .map(|(second, _, removed)| (*second, removed))
        .unwrap();
    assert_eq!((ended - began, removed), (60, &vec!["hung".into()]));
}

#[test]
fn one_that_cannot_be_read_is_unknown_whatever_its_counters_did() {
    let mut model = with_replicas(&["one".to_owned()]);
    tell(&mut model, 0, [counted("one", 8, true)]);
    decide(&mut model, at(400));
    let stale = Event::Reading("one".into(), Reading::Stale("timeout".into()));
    tell(&mut model, 401, [stale]);
    assert_eq!(changes(&mut model, 402..3000), []);
    let decision = model.service(&key()).unwrap().decision;
    assert!(decision.unknown.is_some() && decision.stalled.is_none());
}
