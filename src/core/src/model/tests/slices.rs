//! What happens between two slices is decided before what the first of them has left.

use std::sync::Arc;

use jiff::SignedDuration;
use jiff::tz::TimeZone;

use super::super::event::{Budget, Event, Key, Owner, Pod, PodShape, Service};
use super::super::state::Model;
use super::random_events::at;
use super::settle;
use crate::budget::{EVICTION_NOTICE, OnExhausted, Unmanaged};
use crate::calendar::Period;
use crate::plan::decide;
use crate::scaling::{Activation, Behavior, RequestSignal};

fn service(min: u32) -> Service {
    Service {
        created: at(0),
        priority: 0,
        cluster_priority: 0,
        weight: 100,
        min,
        max: 4,
        request_signal: RequestSignal::Target(8),
        signals: vec![],
        measured_by: 0,
        growth: Default::default(),
        learned: None,
        behavior: Behavior::with_scale_down_window(Some(SignedDuration::from_secs(60))),
        idle_after: SignedDuration::from_mins(10),
        schedules: vec![],
        on_signal_failure: Default::default(),
        drain_timeout: SignedDuration::from_mins(1),
        paused: None,
        activation: Activation::OnDemand,
        replica: Arc::new(PodShape::default()),
        grace_seconds: 30,
        workers: None,
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

/// A budget that evicts pods of others once it is exhausted.
fn budget(limit: &str) -> Event {
    let budget = Budget {
        limit: limit.parse().unwrap(),
        period: Period::Monthly,
        on_exhausted: OnExhausted::ScaleToZero,
        minimum_useful_run: SignedDuration::ZERO,
        latch: None,
        unmanaged: Unmanaged::Evict {
            exempt: Default::default(),
        },
        record: Default::default(),
    };
    Event::Budget(Key::new("b", "all"), Some(budget))
}

fn notebook() -> Pod {
    let shape = PodShape {
        attributes: Some(Default::default()),
        ..PodShape::default()
    };
    Pod {
        key: Key::new("b", "notebook"),
        owner: Owner::Other,
        shape: Arc::new(shape),
        node: Some("node".into()),
        created: at(0),
        ended: None,
        deletion: None,
        grace_seconds: 30,
        ready_since: None,
        was_ready: false,
        draining_since: None,
        marked_for_deletion: false,
        start_failure: None,
        failure: None,
        disrupted: false,
        made_by: None,
        leader: None,
        owner_name: "Pod/notebook".into(),
        scheduling: Default::default(),
        resident: false,
    }
}

#[test]
fn no_pod_is_evicted_whose_budget_has_money_again_wherever_a_slice_ends() {
    let notice = EVICTION_NOTICE.as_secs() * 1000;
    for reopens in [false, true] {
        let mut model = Model::new(TimeZone::UTC, at(0));
        model.apply(budget("0"), at(0));
        let pod = Event::Pod("uid".into(), Some(Box::new(notebook())));
        model.apply(pod, at(0));
        settle(&mut model, at(0));
        model.slice = 1;
        if reopens {
            model.apply(budget("10"), at(notice));
        }
        for number in 0..16 {
            let key = Key::new("a", &format!("chat-{number}"));
            model.apply(Event::Service(key, Some(service(1))), at(notice));
        }
        let mut evicted = Vec::new();
        while model.has_marks() || model.next_timer().is_some_and(|next| next <= at(notice)) {
            evicted.extend(decide(&mut model, at(notice)).evictions);
        }
        let evicted: Vec<bool> = evicted.iter().map(|order| order.evict).collect();
        assert_eq!(evicted, if reopens { vec![] } else { vec![true] });
    }
}
