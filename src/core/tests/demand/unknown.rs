//! What the model does not know yet is not nothing.

use bursar_core::model::Model;

use bursar_core::model::event::{Event, Held, Reading, Service};
use bursar_core::plan::{LimitedBy, decide};
use jiff::tz::TimeZone;

use crate::*;

#[test]
fn a_replica_that_was_not_read_yet_is_not_idle() {
    let mut model = Model::new(TimeZone::UTC, at(0));
    let start = [
        Event::Service(key(), Some(service())),
        replicas(1),
        pod("first", 0),
        reading("first", 1),
        gateway(0),
        demand(0),
    ];
    tell(&mut model, 0, start);
    tell(&mut model, 1, [reading("first", 0)]);
    // it was idle long ago, and its only replica went
    tell(
        &mut model,
        100,
        [replicas(0), Event::Pod("first".into(), None)],
    );
    let woken = tell(&mut model, 600, [demand(3)]);
    assert_eq!(woken.service_orders[0].replicas, (0, 1));
    // the held requests are on the new replica now, which nobody has read yet
    let ready = [replicas(1), pod("second", 640), demand(0)];
    let decisions = tell(&mut model, 640, ready);
    assert_eq!(decisions.service_orders, []);
    let idle = tell(&mut model, 641, [reading("second", 0)]);
    assert_eq!(
        idle.service_orders,
        [],
        "the idle time begins with the first read"
    );
    let idle = tell(&mut model, 702, []);
    assert_eq!(idle.service_orders[0].drain, ["second".into()]);
}

#[test]
fn a_gateway_is_heard_of_whether_its_pod_is_known_before_or_after() {
    for order in [[0, 1], [1, 0]] {
        let mut model = Model::new(TimeZone::UTC, at(0));
        let start = [
            Event::Service(key(), Some(service())),
            replicas(1),
            pod("first", -60),
            reading("first", 1),
        ];
        tell(&mut model, 0, start);
        for place in order {
            let event = [gateway(-60), demand(0)][place].clone();
            tell(&mut model, 1, [event]);
        }
        let decisions = tell(&mut model, 2, [reading("first", 2)]);
        assert_eq!(decisions.services[0].1.unknown, None, "{order:?}");
    }
}

fn unreadable(pod: &str) -> Event {
    Event::Reading(pod.into(), Reading::Stale("no answer within 2 s".into()))
}

/// Two ready replicas of a service with at most eight, and the gateway `gateway`, heard.
fn two_replicas() -> Model {
    let mut model = Model::new(TimeZone::UTC, at(-3600));
    let service = Service {
        max: 8,
        ..service()
    };
    let start = [
        Event::Service(key(), Some(service)),
        replicas(2),
        pod("first", -600),
        pod("second", -600),
        reading("first", 8),
        reading("second", 8),
        gateway(-600),
        demand(0),
    ];
    assert_eq!(tell(&mut model, 0, start).service_orders, []);
    model
}

/// The replicas asked for and given, and why the demand is not known.
fn decided(model: &Model) -> (u32, u32, Option<String>) {
    let decision = model.service(&key()).unwrap().decision;
    (decision.asked, decision.allowed, decision.unknown)
}

#[test]
fn one_replica_that_cannot_be_read_hides_no_demand_of_another() {
    // the second one may have been ready before, and not be now
    for is_ready in [true, false] {
        let mut model = two_replicas();
        let mut second = ready_pod("second", -600);
        second.ready_since = second.ready_since.filter(|_| is_ready);
        let events = [
            Event::Pod("second".into(), Some(Box::new(second))),
            unreadable("second"),
            reading("first", 116),
        ];
        let decisions = tell(&mut model, 10, events);
        assert_eq!(decisions.service_orders[0].replicas, (2, 8));
        let (asked, _, unknown) = decided(&model);
        assert_eq!((asked, unknown.is_some()), (15, true));
        let decision = model.service(&key()).unwrap().decision;
        assert_eq!(decision.limited_by, Some(LimitedBy::MaxReplicas));
        let reason = &decision.reason;
        for part in ["at least 116", "/ target 8 = 15", "second"] {
            assert!(reason.contains(part), "{reason}");
        }
    }
}

#[test]
fn what_is_unknown_takes_no_replica_away_whatever_the_rest_is() {
    let mut model = two_replicas();
    tell(&mut model, 10, [unreadable("second"), reading("first", 0)]);
    for second in 11..2000 {
        assert_eq!(decide(&mut model, at(second)).service_orders, []);
    }
    assert!(decided(&model).2.unwrap().contains("second"));
}

/// What one gateway holds, by its name.
fn held_by(gateway: &str, requests: u64) -> Event {
    let held = Held {
        requests,
        since: Some(at(0)),
    };
    Event::Demand(gateway.into(), [(key(), held)].into())
}

fn ready_gateway(name: &str) -> Event {
    Event::Gateway(name.into(), Some((name.into(), at(0))))
}

#[test]
fn all_that_is_known_adds_up_whatever_else_is_not() {
    // requests on the first replica, on the second one, held by a gateway that is heard; whether
    // another gateway is heard; the replicas asked for
    for (first, second, held, all_heard, asked) in [
        (Some(40), Some(24), 16, true, 10),
        (Some(40), None, 16, true, 7),
        (None, Some(24), 16, false, 5),
        (Some(40), Some(24), 16, false, 10),
        (None, None, 17, false, 3),
        (None, None, 17, true, 3),
        (Some(40), None, 0, false, 5),
        (None, None, 0, false, 2),
        (Some(1), None, 0, true, 2),
    ] {
        let mut model = two_replicas();
        let other = match all_heard {
            true => Event::Demand("other".into(), Default::default()),
            false => ready_gateway("other"),
        };
        let read = |name: &str, busy: Option<u64>| match busy {
            Some(busy) => reading(name, busy),
            None => unreadable(name),
        };
        let events = [
            ready_gateway("other"),
            other,
            held_by("gateway", held),
            read("first", first),
            read("second", second),
        ];
        tell(&mut model, 10, events);
        let case = (first, second, held, all_heard);
        let is_known = first.is_some() && second.is_some() && all_heard;
        let (now_asked, allowed, unknown) = decided(&model);
        assert_eq!((now_asked, allowed), (asked, asked.min(8)), "{case:?}");
        assert_eq!(unknown.is_none(), is_known, "{case:?} {unknown:?}");
    }
}

#[test]
fn what_one_gateway_holds_wakes_a_service_though_another_is_not_heard() {
    let mut model = Model::new(TimeZone::UTC, at(-3600));
    let start = [
        Event::Service(key(), Some(service())),
        replicas(0),
        gateway(-600),
        ready_gateway("other"),
        demand(0),
    ];
    assert_eq!(tell(&mut model, 0, start).service_orders, []);
    let decisions = tell(&mut model, 1, [held_by("gateway", 9)]);
    assert_eq!(decisions.service_orders[0].replicas, (0, 2));
}
