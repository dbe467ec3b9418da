//! What the model does not know yet is not nothing.

use bursar_core::model::Model;
use bursar_core::model::event::Event;
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
