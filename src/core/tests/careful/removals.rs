//! Want of demand takes few replicas within a minute; money and users take as many as they say.

use bursar_core::model::Key;
use bursar_core::model::event::{Deployment, Event, Rollout, Service};
use bursar_core::plan::LimitedBy;

use super::{World, at, budget, service};

fn chat() -> Key {
    Key::new("team", "chat")
}

fn of(max: u32) -> Service {
    Service { max, ..service() }
}

/// So many replicas that work; what they are told is carried out at once.
fn serving(replicas: u32) -> World {
    let mut world = World::new(1000);
    world.tell(0, Event::Service(chat(), Some(of(1000))));
    world.serve(0, &chat(), replicas);
    world.read(0, &chat(), 8);
    world.decide(0);
    world
}

/// Replicas after the decisions of this second. Those that leave are gone at once.
fn replicas(world: &mut World, second: i64) -> u32 {
    for order in world.decide(second).service_orders {
        for uid in &order.drain {
            let mut pod = world.pods[uid].clone();
            pod.draining_since = Some(at(second));
            world.show(second, uid, pod);
        }
    }
    let pods = world.pods.values();
    let staying = pods.filter(|pod| pod.draining_since.is_none());
    u32::try_from(staying.count()).unwrap()
}

#[test]
fn a_large_service_whose_demand_ends_shrinks_by_a_fifth_a_minute() {
    let mut world = serving(100);
    world.read(1, &chat(), 0);
    assert_eq!(replicas(&mut world, 1), 100);
    assert_eq!(replicas(&mut world, 40), 80);
    let decision = world.model.service(&chat()).unwrap().decision;
    assert_eq!(
        (decision.allowed, decision.limited_by),
        (80, Some(LimitedBy::Stabilization))
    );
    assert!(
        decision
            .reason
            .contains("a fifth of them leave within 60 s"),
        "{}",
        decision.reason
    );
    assert_eq!(replicas(&mut world, 99), 80);
    // a timer is set
    assert!(world.model.next_timer().unwrap() <= at(100));
    assert_eq!(replicas(&mut world, 100), 64);
    assert_eq!(replicas(&mut world, 160), 51);
}

#[test]
fn ten_replicas_may_leave_at_once() {
    let mut world = serving(11);
    world.read(1, &chat(), 0);
    replicas(&mut world, 1);
    assert_eq!(replicas(&mut world, 40), 1);
}

#[test]
fn a_budget_stops_all_of_them_at_once() {
    let mut world = serving(100);
    world.tell(
        1,
        Event::Budget(Key::new("team", "all"), Some(budget("10"))),
    );
    world.spend(1, "team", "11", "200");
    assert_eq!(replicas(&mut world, 1), 0);
}

#[test]
fn a_budget_stops_all_of_them_at_once_though_nothing_asks_for_them() {
    for is_moving in [false, true] {
        let mut world = serving(100);
        world.read(1, &chat(), 0);
        assert_eq!(replicas(&mut world, 1), 100);
        assert_eq!(replicas(&mut world, 62), 80, "it is idle");
        world.tell(
            65,
            Event::Budget(Key::new("team", "all"), Some(budget("10"))),
        );
        if is_moving {
            let rollout = Some(Rollout {
                replaces: true,
                ..Rollout::default()
            });
            let deployment = Deployment {
                replicas: 100,
                first_ordinal: None,
                rollout,
                creation_failure: None,
            };
            world.tell(65, Event::Deployment(chat(), Some(deployment)));
        }
        world.spend(65, "team", "11", "160");
        assert_eq!(replicas(&mut world, 65), 0, "{is_moving}");
    }
}

#[test]
fn a_lower_maximum_counts_at_once() {
    let mut world = serving(100);
    world.tell(1, Event::Service(chat(), Some(of(30))));
    assert_eq!(replicas(&mut world, 1), 30);
    // also where nothing asks for them
    let mut world = serving(100);
    world.read(1, &chat(), 0);
    replicas(&mut world, 1);
    world.tell(40, Event::Service(chat(), Some(of(30))));
    assert_eq!(replicas(&mut world, 40), 30);
}

/// What the service is ordered, where every order is refused until a second.
fn refused(world: &mut World, seconds: std::ops::Range<i64>) -> Vec<Vec<String>> {
    let orders = seconds.map(|second| {
        world.tell(second, Event::ServiceOrderFailed(chat()));
        world.orders(second).0
    });
    orders.collect()
}

/// A webhook may refuse every mark of a pod.
#[test]
fn what_money_takes_away_goes_when_its_drain_would_have_ended_though_no_pod_can_be_told() {
    let mut world = World::new(1000);
    world.tell(
        0,
        Event::Budget(Key::new("team", "all"), Some(budget("100"))),
    );
    world.tell(0, Event::Service(chat(), Some(service())));
    world.serve(0, &chat(), 2);
    world.read(0, &chat(), 8);
    world.spend(0, "team", "40", "4");
    assert_eq!(world.orders(0).0, [""; 0]);
    world.spend(10, "team", "100", "4");
    assert_eq!(world.orders(10).0, ["chat: (2, 2), 2 leave"]);
    for orders in refused(&mut world, 11..70) {
        assert_eq!(orders, ["chat: (2, 2), 2 leave"]);
    }
    assert!(world.model.next_timer().unwrap() <= at(70));
    world.tell(70, Event::ServiceOrderFailed(chat()));
    assert_eq!(world.orders(70).0, ["chat: (2, 0), 0 leave"]);
}

#[test]
fn what_demand_takes_away_stays_until_it_can_be_told() {
    let mut world = serving(2);
    world.tell(1, Event::Service(chat(), Some(of(1))));
    assert_eq!(world.orders(1).0, ["chat: (2, 2), 1 leave"]);
    for orders in refused(&mut world, 2..200) {
        assert_eq!(orders, ["chat: (2, 2), 1 leave"]);
    }
}
