//! Requests that show late: one that goes on may not be among them.

use bursar_core::model::Model;
use bursar_core::model::event::{Counting, Event, Reading};
use jiff::tz::TimeZone;

use crate::*;

fn counted(requests: u64, counting: Counting, moved: bool) -> Event {
    let reading = Reading::Counted {
        requests,
        counting,
        moved,
        done: Default::default(),
    };
    Event::Reading("one".into(), reading)
}

/// A service with a ready replica that has not been read.
fn with_replica() -> Model {
    let mut model = Model::new(TimeZone::UTC, at(-3600));
    let start = [
        Event::Service(key(), Some(service())),
        replicas(1),
        gateway(-3600),
        demand(0),
        pod("one", -600),
    ];
    tell(&mut model, 0, start);
    model
}

/// When an idle replica begins to drain, and when it goes.
fn drained_and_gone(counting: Counting) -> (i64, i64) {
    let mut model = with_replica();
    tell(&mut model, 0, [counted(0, counting, true)]);
    let (mut drained, mut gone) = (None, None);
    for second in 1..600 {
        for order in tell(&mut model, second, []).service_orders {
            if !order.drain.is_empty() {
                drained = drained.or(Some(second));
                let mut drains = ready_pod("one", -600);
                drains.draining_since = Some(at(second));
                model.apply(Event::Pod("one".into(), Some(Box::new(drains))), at(second));
            }
            if !order.remove.is_empty() {
                gone = gone.or(Some(second));
            }
        }
    }
    (drained.unwrap(), gone.unwrap())
}

#[test]
fn a_replica_whose_requests_show_late_has_all_of_the_drain_timeout() {
    assert_eq!(drained_and_gone(Counting::EachStep), (60, 63));
    assert_eq!(drained_and_gone(Counting::Late), (60, 120));
}

#[test]
fn requests_that_show_late_add_replicas_as_others_do() {
    let mut model = with_replica();
    tell(&mut model, 1, [counted(17, Counting::Late, true)]);
    let asked = model.service(&key()).unwrap().decision.recommended;
    assert_eq!(
        asked,
        17u32
            .div_ceil(service().request_signal.target().unwrap())
            .min(service().max)
    );
}

/// When requests of which no counter moves are not believed any more, in minutes.
fn disbelieved(counting: Counting) -> Option<i64> {
    let mut model = with_replica();
    tell(&mut model, 0, [counted(3, counting, true)]);
    (1..=60).find(|minute| {
        tell(&mut model, minute * 60, [counted(3, counting, false)]);
        let stalled = model.service(&key()).unwrap().decision.stalled;
        stalled.is_some()
    })
}

#[test]
fn an_engine_that_counts_at_the_end_of_a_request_is_believed_for_longer() {
    assert_eq!(disbelieved(Counting::EachStep), Some(5));
    assert_eq!(disbelieved(Counting::AtEnd), Some(30));
    assert_eq!(disbelieved(Counting::Late), Some(30));
}
