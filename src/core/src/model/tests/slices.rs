//! What happens between two slices is decided before what the first of them has left.

use std::sync::Arc;

use jiff::SignedDuration;
use jiff::tz::TimeZone;

use super::super::event::{Event, Key, PodShape, Service};
use super::super::state::Model;
use super::random_events::at;
use super::settle;
use crate::plan::decide;
use crate::scaling::Activation;

fn service(min: u32) -> Service {
    Service {
        created: at(0),
        priority: 0,
        cluster_priority: 0,
        weight: 100,
        min,
        max: 4,
        target: 8,
        growth: Default::default(),
        learned: None,
        window: Some(SignedDuration::from_secs(60)),
        idle_after: SignedDuration::from_mins(10),
        drain_timeout: SignedDuration::from_mins(1),
        paused: false,
        activation: Activation::OnDemand,
        replica: Arc::new(PodShape::default()),
        grace_seconds: 30,
    }
}

fn late() -> Key {
    Key::new("team-9", "late")
}

#[test]
fn an_event_between_two_slices_goes_before_orders_that_expired_earlier() {
    let mut model = Model::new(TimeZone::UTC, at(0));
    model.apply(Event::Service(late(), Some(service(1))), at(0));
    for number in 0..32 {
        let key = Key::new(&format!("team-{}", number % 4), &format!("chat-{number}"));
        model.apply(Event::Service(key, Some(service(1))), at(0));
    }
    assert_eq!(settle(&mut model, at(0)).service_orders.len(), 33);
    // nobody has carried out what was ordered, and it expires at once
    model.slice = 2;
    assert_eq!(decide(&mut model, at(60_000)).service_orders, []);
    assert!(model.has_marks());
    model.apply(Event::Service(late(), Some(service(3))), at(60_000));
    let orders = decide(&mut model, at(60_000)).service_orders;
    let services: Vec<_> = orders.iter().map(|order| &order.service).collect();
    assert_eq!(services, [&late()]);
    let rest = settle(&mut model, at(60_000)).service_orders;
    assert_eq!(rest.len(), 32, "each of the others is ordered once more");
}
