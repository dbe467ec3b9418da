//! What the demand for a service makes of its replicas, from events to orders.

#![allow(clippy::unwrap_used)] // a test fails by ending

mod growth;
mod refused;
mod rollout;
mod stalled;
mod unknown;
mod unready;
mod waking;

use std::collections::BTreeMap;
use std::sync::Arc;

use bursar_core::model::event::{
    Deployment, Event, GatewayPod, Held, Owner, Pod, PodShape, Reading, Service,
};
use bursar_core::model::{Key, Model};
use bursar_core::plan::{Decisions, decide};
use bursar_core::scaling::Activation;
use jiff::{SignedDuration, Timestamp};

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_796_000_000 + second).unwrap()
}

pub(crate) fn key() -> Key {
    Key::new("team", "chat")
}

pub(crate) fn service() -> Service {
    Service {
        created: at(0),
        priority: 0,
        cluster_priority: 0,
        weight: 100,
        min: 0,
        max: 4,
        target: 8,
        growth: Default::default(),
        learned: None,
        window: Some(SignedDuration::from_secs(30)),
        idle_after: SignedDuration::from_secs(60),
        drain_timeout: SignedDuration::from_secs(60),
        paused: false,
        activation: Activation::OnDemand,
        replica: Arc::new(PodShape::default()),
        grace_seconds: 30,
    }
}

/// A pod that became ready at `ready`, 30 s after it was created.
pub(crate) fn ready_pod(name: &str, ready: i64) -> Pod {
    Pod {
        key: Key::new("team", name),
        owner: Owner::Service("chat".into()),
        shape: Arc::new(PodShape::default()),
        node: Some("node".into()),
        scheduling: bursar_core::model::event::Scheduling::Queued,
        resident: false,
        created: at(ready - 30),
        ended: None,
        deletion: None,
        grace_seconds: 30,
        ready_since: Some(at(ready)),
        was_ready: false,
        draining_since: None,
        released: false,
        start_failure: None,
        failure: None,
        disrupted: false,
        made_by: None,
    }
}

pub(crate) fn pod(name: &str, ready: i64) -> Event {
    Event::Pod(name.into(), Some(Box::new(ready_pod(name, ready))))
}

/// So many requests on an engine, of which nothing but the requests counts.
pub(crate) fn reading(pod: &str, requests: u64) -> Event {
    Event::Reading(pod.into(), Reading::Uncounted { requests })
}

pub(crate) fn replicas(replicas: u32) -> Event {
    let deployment = Deployment {
        replicas,
        rollout: None,
        refused: None,
    };
    Event::Deployment(key(), Some(deployment))
}

pub(crate) fn gateway_pod(name: &str, ready: Option<i64>) -> Event {
    let pod = GatewayPod {
        name: name.into(),
        ready_since: ready.map(at),
    };
    Event::Gateway(name.into(), Some(pod))
}

pub(crate) fn gateway(ready: i64) -> Event {
    gateway_pod("gateway", Some(ready))
}

pub(crate) fn demand(requests: u64) -> Event {
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
pub(crate) fn tell(
    model: &mut Model,
    second: i64,
    events: impl IntoIterator<Item = Event>,
) -> Decisions {
    for event in events {
        model.apply(event, at(second));
    }
    decide(model, at(second))
}
