//! What the model does not know yet is not nothing.

use bursar_core::model::Model;

use bursar_core::model::event::{Event, HeldRequests, Reading, Service};
use bursar_core::plan::{LimitedBy, ServiceOrder, decide};
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
    (decision.recommended, decision.allowed, decision.unknown)
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
    let held = HeldRequests {
        requests,
        in_flight: 0,
        forwarded: 0,
        since: Some(at(0)),
    };
    Event::Demand(gateway.into(), [(key(), held)].into())
}

fn ready_gateway(name: &str) -> Event {
    gateway_pod(name, Some(0))
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

/// A service at one idle replica, with a gateway that is ready and of which the leader hears what
/// these events say.
fn beside_a_gateway(events: impl IntoIterator<Item = Event>) -> Model {
    let mut model = Model::new(TimeZone::UTC, at(0));
    let start = [
        Event::Service(key(), Some(service())),
        replicas(1),
        pod("first", -600),
        reading("first", 0),
        ready_gateway("other"),
    ];
    tell(&mut model, 0, start.into_iter().chain(events));
    model
}

/// The orders of these seconds, with their times.
fn orders(model: &mut Model, seconds: std::ops::Range<i64>) -> Vec<(i64, ServiceOrder)> {
    let each = seconds.flat_map(|second| {
        let orders = decide(model, at(second)).service_orders;
        orders.into_iter().map(move |order| (second, order))
    });
    each.collect()
}

#[test]
fn a_replica_that_is_lost_while_another_leaves_is_made_up_for_by_that_one() {
    let mut model = two_replicas();
    tell(&mut model, 1, [reading("second", 0)]);
    let (told, drain) = orders(&mut model, 2..60).remove(0);
    assert_eq!(drain.drain, ["second".into()]);
    let mut leaving = ready_pod("second", -600);
    leaving.draining_since = Some(at(told));
    let events = [Event::Pod("second".into(), Some(Box::new(leaving.clone())))];
    tell(&mut model, told, events);
    let (removed, remove) = orders(&mut model, told..told + 60).remove(0);
    assert_eq!(remove.replicas, (2, 1));
    assert_eq!(remove.remove, ["second".into()]);
    // the Deployment has one replica now, and what it still has is the one that leaves
    leaving.marked_for_deletion = true;
    let mut lost = ready_pod("first", -600);
    lost.deletion = Some(at(removed + 30));
    let events = [
        Event::Pod("second".into(), Some(Box::new(leaving))),
        replicas(1),
        silent("gateway", "no answer"),
        Event::Pod("first".into(), Some(Box::new(lost))),
    ];
    let decisions = tell(&mut model, removed + 1, events);
    let [order] = &decisions.service_orders[..] else {
        panic!("{decisions:?}")
    };
    assert_eq!(order.replicas, (1, 1));
    assert_eq!(order.keep, ["second".into()]);
}

fn silent(gateway: &str, why: &str) -> Event {
    Event::Silent(gateway.into(), why.into())
}

#[test]
fn a_ready_gateway_that_is_never_heard_stays_unknown_and_is_named_with_the_error() {
    let why = "no connection within 3 s";
    for heard_once in [false, true] {
        let heard = heard_once.then(|| held_by("other", 0));
        let mut model = beside_a_gateway(heard);
        tell(&mut model, 10, [silent("other", why)]);
        assert_eq!(orders(&mut model, 11..4000), [], "{heard_once}");
        let unknown = decided(&model).2.unwrap();
        assert!(unknown.contains("gateway other"), "{unknown}");
        assert!(unknown.contains(why), "{unknown}");
        // what another one holds counts, at zero replicas too
        let events = [ready_gateway("gateway"), held_by("gateway", 17)];
        let decisions = tell(&mut model, 4000, events);
        assert_eq!(decisions.service_orders[0].replicas, (1, 3));
        // another error is another reason
        tell(&mut model, 4001, [silent("other", "UnknownIssuer")]);
        let unknown = decided(&model).2.unwrap();
        assert!(unknown.contains("UnknownIssuer"), "{unknown}");
    }
}

#[test]
fn a_gateway_that_is_heard_at_last_is_known_and_what_it_no_longer_says_is_not() {
    let mut model = beside_a_gateway([held_by("other", 9)]);
    assert_eq!(model.service(&key()).unwrap().decision.allowed, 2);
    tell(&mut model, 20, [silent("other", "timeout")]);
    // what it held when it was last heard is believed for a minute, and is not known then
    decide(&mut model, at(79));
    assert_eq!(model.service(&key()).unwrap().held, 9);
    decide(&mut model, at(80));
    assert_eq!(model.service(&key()).unwrap().held, 0);
    assert!(decided(&model).2.is_some());
    tell(&mut model, 300, [held_by("other", 0)]);
    assert_eq!(decided(&model).2, None);
}

#[test]
fn a_gateway_that_takes_no_requests_any_more_is_unknown_for_a_minute_at_most() {
    let unready = || gateway_pod("other", None);
    let gone = || Event::Gateway("other".into(), None);
    let is_unknown = |model: &mut Model, second: i64| {
        decide(model, at(second));
        decided(model).2.is_some()
    };
    // never heard, then not ready: it may still hold what it took
    let mut model = beside_a_gateway([silent("other", "refused")]);
    tell(&mut model, 100, [unready()]);
    assert!(is_unknown(&mut model, 159));
    assert!(!is_unknown(&mut model, 160));
    // heard until it falls silent
    let mut model = beside_a_gateway([held_by("other", 0)]);
    tell(&mut model, 100, [unready()]);
    assert!(!is_unknown(&mut model, 119));
    tell(&mut model, 120, [silent("other", "refused")]);
    assert!(is_unknown(&mut model, 179));
    assert!(!is_unknown(&mut model, 180));
    // one that a new leader finds in that state
    let mut model = beside_a_gateway([Event::Gateway("other".into(), None)]);
    tell(&mut model, 1, [unready()]);
    assert!(is_unknown(&mut model, 59));
    assert!(!is_unknown(&mut model, 60));
    // one that is gone has nothing
    let mut model = beside_a_gateway([silent("other", "refused")]);
    assert!(is_unknown(&mut model, 100));
    tell(&mut model, 101, [gone()]);
    assert!(!is_unknown(&mut model, 101));
}

#[test]
fn each_gateway_that_is_not_heard_is_counted() {
    let mut model = beside_a_gateway([ready_gateway("more"), silent("more", "refused")]);
    decide(&mut model, at(10));
    let unknown = decided(&model).2.unwrap();
    assert!(
        unknown.contains("gateway more") && unknown.contains("1 other"),
        "{unknown}"
    );
}
