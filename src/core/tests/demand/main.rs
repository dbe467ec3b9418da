//! What the demand for a service makes of its replicas, from events to orders.

#![allow(clippy::unwrap_used)] // a test fails by ending

mod behavior;
mod counting;
mod growth;
mod latency_readings;
mod latency_simulation;
mod measures;

#[path = "../common/pods.rs"]
mod pods;
mod refused;
mod rollout;
mod schedules;
#[path = "../common/services.rs"]
mod services;
mod signals;
mod stalled;
mod unknown;
mod unpriced;
mod unready;
mod waking;

use std::collections::BTreeMap;
use std::sync::Arc;

use bursar_core::model::event::{
    Deployment, Event, GatewayPod, HeldRequests, Owner, Pod, PodShape, Reading, Service,
};
use bursar_core::model::{Key, Model};
use bursar_core::plan::{Decisions, decide};
use bursar_core::scaling::Behavior;
use jiff::{SignedDuration, Timestamp};

use pods::new_pod;
use services::new_service;

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_796_000_000 + second).unwrap()
}

pub(crate) fn key() -> Key {
    Key::new("team", "chat")
}

pub(crate) fn service() -> Service {
    Service {
        behavior: Behavior::with_scale_down_window(Some(SignedDuration::from_secs(30))),
        idle_after: SignedDuration::from_secs(60),
        ..new_service(Arc::new(PodShape::default()), at(0))
    }
}

/// A pod that became ready at `ready`, 30 s after it was created.
pub(crate) fn ready_pod(name: &str, ready: i64) -> Pod {
    Pod {
        node: Some("node".into()),
        ready_since: Some(at(ready)),
        ..new_pod(
            Key::new("team", name),
            Owner::Service("chat".into()),
            Arc::new(PodShape::default()),
            at(ready - 30),
        )
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
        first_ordinal: None,
        rollout: None,
        creation_failure: None,
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
    let held = HeldRequests {
        requests,
        in_flight: 0,
        forwarded: 0,
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
