//! A wake-up is kept until a replica was ready and idle, whatever became of the caller.

use bursar_core::model::Model;
use bursar_core::model::event::{Event, Pod, Scheduling, Service};
use bursar_core::plan::decide;
use jiff::SignedDuration;
use jiff::tz::TimeZone;

use crate::*;

const MINUTE: i64 = 60;

/// A service whose replicas start longer than its callers wait.
fn slow() -> Service {
    Service {
        idle_after: SignedDuration::from_mins(10),
        ..service()
    }
}

/// A pod that has not been ready yet.
fn starting(name: &str, created: i64) -> Pod {
    Pod {
        created: at(created),
        ready_since: None,
        ..ready_pod(name, created + 30)
    }
}

fn shown(pod: Pod) -> Event {
    Event::Pod(pod.key.name.clone(), Some(Box::new(pod)))
}

/// A service that was busy an hour ago and went to zero since then.
fn at_zero(service: Service) -> Model {
    let mut model = Model::new(TimeZone::UTC, at(-7200));
    let start = [
        Event::Service(key(), Some(service)),
        replicas(1),
        pod("zeroth", -7200),
        reading("zeroth", 1),
        gateway(-7200),
        demand(0),
    ];
    tell(&mut model, -7200, start);
    tell(&mut model, -3600, [reading("zeroth", 0)]);
    let gone = [replicas(0), Event::Pod("zeroth".into(), None)];
    tell(&mut model, -2000, gone);
    model
}

/// A service at zero for which a request came at 0 and was given up at `gave_up`; its replica starts.
fn woken(service: Service, gave_up: i64) -> Model {
    let mut model = at_zero(service);
    let woken = tell(&mut model, 0, [demand(1)]);
    assert_eq!(woken.service_orders[0].replicas, (0, 1));
    let pod = [replicas(1), shown(starting("first", 1))];
    assert_eq!(tell(&mut model, 1, pod).service_orders, []);
    let orders = tell(&mut model, gave_up, [demand(0)]).service_orders;
    assert_eq!(orders, [], "the caller has gone");
    model
}

/// The times, every second up to `end`, at which an order is given, with the order's replicas and
/// the number of pods that begin to drain.
fn orders(model: &mut Model, begin: i64, end: i64) -> Vec<(i64, (u32, u32), usize)> {
    let mut all = Vec::new();
    for second in begin..=end {
        for order in decide(model, at(second)).service_orders {
            all.push((second, order.replicas, order.drain.len()));
        }
    }
    all
}

#[test]
fn a_start_goes_on_when_the_caller_has_gone() {
    let mut model = woken(slow(), 2 * MINUTE);
    assert_eq!(orders(&mut model, 121, 239), []);
    let ready = Pod {
        ready_since: Some(at(240)),
        ..starting("first", 1)
    };
    tell(&mut model, 240, [shown(ready), reading("first", 0)]);
    assert_eq!(orders(&mut model, 241, 299), []);
    tell(&mut model, 300, [reading("first", 1)]);
    tell(&mut model, 301, [reading("first", 0)]);
    let orders = orders(&mut model, 302, 1000);
    assert_eq!(orders[0], (901, (1, 1), 1), "idle for ten minutes");
}

#[test]
fn the_idle_time_begins_when_the_replica_is_ready_however_long_it_started() {
    let mut model = woken(slow(), 5);
    assert_eq!(orders(&mut model, 6, 1500), [], "longer than the idle time");
    let ready = Pod {
        ready_since: Some(at(1500)),
        ..starting("first", 1)
    };
    tell(&mut model, 1500, [shown(ready)]);
    tell(&mut model, 1501, [reading("first", 0)]);
    let orders = orders(&mut model, 1502, 2200);
    assert_eq!(orders[0], (2101, (1, 1), 1));
}

#[test]
fn an_order_without_a_pod_is_kept_like_a_pod_that_starts() {
    let mut model = at_zero(service());
    tell(&mut model, 0, [demand(1)]);
    tell(&mut model, 1, [replicas(1)]);
    tell(&mut model, 2, [demand(0)]);
    assert_eq!(orders(&mut model, 3, 300), []);
}

#[test]
fn a_start_that_never_gets_ready_ends() {
    let mut model = woken(slow(), 5);
    let orders = orders(&mut model, 6, 3601);
    assert_eq!(orders[0].0, 3601, "nothing is known of how long it takes");
    let reason = model.service(&key()).unwrap().decision.reason.clone();
    assert!(reason.contains("not ready within 3600 s"), "{reason}");
}

#[test]
fn a_pod_that_is_replaced_while_it_starts_does_not_begin_a_new_start() {
    let mut model = woken(slow(), 5);
    let mut given = Vec::new();
    for (number, second) in (600..6000).step_by(600).enumerate() {
        let (old, new) = (format!("p{number}"), format!("p{}", number + 1));
        let old = if number == 0 { "first" } else { &old };
        let events = [Event::Pod(old.into(), None), shown(starting(&new, second))];
        given.extend(tell(&mut model, second, events).service_orders);
        if given.is_empty() {
            let orders = orders(&mut model, second + 1, second + 599);
            if let Some((second, ..)) = orders.first() {
                assert_eq!(*second, 3601);
                return;
            }
        }
    }
    panic!("it started for ever");
}

#[test]
fn a_learned_start_time_bounds_the_next_start() {
    let mut model = woken(slow(), 5);
    let ready = Pod {
        ready_since: Some(at(301)),
        ..starting("first", 1)
    };
    tell(&mut model, 301, [shown(ready), reading("first", 0)]);
    let gone = [replicas(0), Event::Pod("first".into(), None)];
    tell(&mut model, 5000, gone);
    tell(&mut model, 6000, [demand(1)]);
    tell(
        &mut model,
        6001,
        [replicas(1), shown(starting("second", 6001))],
    );
    tell(&mut model, 6010, [demand(0)]);
    let orders = orders(&mut model, 6011, 9000);
    assert_eq!(orders[0].0, 6001 + 900, "three times 300 s");
}

/// A node that takes a quarter of an hour now comes in time for the second request at last.
#[test]
fn a_start_that_was_cut_off_is_waited_for_twice_as_long_the_next_time() {
    let mut model = woken(service(), 5);
    let ready = Pod {
        ready_since: Some(at(61)),
        ..starting("first", 1)
    };
    tell(&mut model, 61, [shown(ready), reading("first", 0)]);
    let gone = [replicas(0), Event::Pod("first".into(), None)];
    tell(&mut model, 5000, gone);
    for (woken_at, name, minutes) in [(10_000, "second", 10), (20_000, "third", 20)] {
        tell(&mut model, woken_at, [demand(1)]);
        let pod = shown(starting(name, woken_at));
        tell(&mut model, woken_at, [replicas(1), pod]);
        tell(&mut model, woken_at + 120, [demand(0)]);
        let end = woken_at + minutes * MINUTE;
        let given = orders(&mut model, woken_at + 121, end);
        assert_eq!(given.len(), 1, "{name}: {given:?}");
        assert_eq!(given[0].0, end, "{name}");
        let gone = [replicas(0), Event::Pod(name.into(), None)];
        tell(&mut model, end + 1, gone);
    }
}

#[test]
fn a_start_that_has_failed_is_not_kept() {
    let mut model = woken(slow(), 5);
    let failed = Pod {
        start_failure: Some(("container engine: ErrImagePull".into(), at(10))),
        ..starting("first", 1)
    };
    tell(&mut model, 10, [shown(failed)]);
    let orders = orders(&mut model, 11, 3600);
    assert_eq!(orders[0].0, 605, "ten minutes after the caller gave up");
}

#[test]
fn requests_that_come_and_go_while_nothing_can_start_are_activity_too() {
    let mut model = woken(slow(), 5);
    let ready = Pod {
        ready_since: Some(at(60)),
        ..starting("first", 1)
    };
    tell(&mut model, 60, [shown(ready), reading("first", 0)]);
    // it was held for the second replica's sake, and its caller gave up
    tell(&mut model, 300, [demand(1)]);
    tell(&mut model, 400, [demand(0)]);
    let orders = orders(&mut model, 401, 2000);
    assert_eq!(orders[0].0, 1000);
}

#[test]
fn a_replica_without_a_node_is_waited_for_and_the_reason_says_so() {
    let mut model = at_zero(slow());
    tell(&mut model, 0, [demand(1)]);
    let why = "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.";
    let pending = Pod {
        node: None,
        scheduling: Scheduling::Unschedulable {
            since: at(1),
            why: why.into(),
        },
        ..starting("first", 1)
    };
    tell(&mut model, 1, [replicas(1), shown(pending)]);
    assert_eq!(orders(&mut model, 2, 599), []);
    let decision = model.service(&key()).unwrap().decision;
    assert_eq!(decision.refusal, None, "a node may still come");
    let reason = decision.reason;
    assert!(
        reason.contains("pod first waits for a node: 0/3"),
        "{reason}"
    );
    tell(&mut model, 600, [shown(starting("first", 1))]);
    let reason = model.service(&key()).unwrap().decision.reason;
    assert!(!reason.contains("waits for a node"), "{reason}");
}
