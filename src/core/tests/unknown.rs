//! What the model does not know yet is not nothing.

#![allow(clippy::unwrap_used)] // a test fails by ending

use std::collections::BTreeMap;
use std::sync::Arc;

use bursar_core::model::event::{Deployment, Event, Held, Owner, Pod, PodShape, Reading, Service};
use bursar_core::model::{Key, Model};
use bursar_core::plan::{Decisions, decide};
use bursar_core::scaling::Activation;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_796_000_000 + second).unwrap()
}

fn key() -> Key {
    Key::new("team", "chat")
}

fn service() -> Service {
    Service {
        created: at(0),
        min: 0,
        max: 4,
        target: 8,
        window: SignedDuration::from_secs(30),
        idle_after: SignedDuration::from_secs(60),
        drain_timeout: SignedDuration::from_secs(60),
        paused: false,
        activation: Activation::OnDemand,
        replica: Arc::new(PodShape::default()),
        grace_seconds: 30,
    }
}

fn pod(name: &str, ready: i64) -> Event {
    let pod = Pod {
        key: Key::new("team", name),
        owner: Owner::Service("chat".into()),
        shape: Arc::new(PodShape::default()),
        node: Some("node".into()),
        created: at(ready - 30),
        ended: None,
        deletion: None,
        grace_seconds: 30,
        ready_since: Some(at(ready)),
        draining_since: None,
        released: false,
        start_failure: None,
        scheduling: bursar_core::model::event::Scheduling::Queued,
        resident: false,
    };
    Event::Pod(name.into(), Some(Box::new(pod)))
}

fn reading(pod: &str, requests: u64) -> Event {
    let moved = requests > 0;
    Event::Reading(pod.into(), Reading::Busy { requests, moved })
}

fn replicas(replicas: u32) -> Event {
    let deployment = Deployment {
        replicas,
        rolling: false,
    };
    Event::Deployment(key(), Some(deployment))
}

fn gateway(ready: i64) -> Event {
    Event::Gateway("gateway".into(), Some(("gateway".into(), at(ready))))
}

fn demand(requests: u64) -> Event {
    let held = Held {
        requests,
        since: Some(at(0)),
    };
    let held = (requests > 0).then(|| (key(), held));
    Event::Demand(
        "gateway".into(),
        held.into_iter().collect::<BTreeMap<_, _>>(),
    )
}

/// Tells the model of these at so many seconds, and returns what it decides.
fn tell(model: &mut Model, second: i64, events: impl IntoIterator<Item = Event>) -> Decisions {
    for event in events {
        model.apply(event, at(second));
    }
    decide(model, at(second))
}

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
