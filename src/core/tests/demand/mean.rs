//! Requests that are known as a mean of the last seconds: one that goes on for longer is not in it.

use bursar_core::model::Model;
use bursar_core::model::event::{Event, Reading};
use jiff::tz::TimeZone;

use crate::*;

fn counted(requests: u64, is_mean: bool, moved: bool) -> Event {
    let reading = Reading::Counted {
        requests,
        is_mean,
        moved,
        done: Default::default(),
    };
    Event::Reading("one".into(), reading)
}

/// When an idle replica begins to drain, and when it goes.
fn drained_and_gone(is_mean: bool) -> (i64, i64) {
    let mut model = Model::new(TimeZone::UTC, at(-3600));
    let start = [
        Event::Service(key(), Some(service())),
        replicas(1),
        gateway(-3600),
        demand(0),
        pod("one", -600),
        counted(0, is_mean, true),
    ];
    tell(&mut model, 0, start);
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
fn a_replica_of_which_only_a_mean_is_known_has_all_of_the_drain_timeout() {
    assert_eq!(drained_and_gone(false), (60, 63));
    assert_eq!(drained_and_gone(true), (60, 120));
}

#[test]
fn a_mean_adds_replicas_as_other_requests_do() {
    let mut model = Model::new(TimeZone::UTC, at(-3600));
    let start = [
        Event::Service(key(), Some(service())),
        replicas(1),
        gateway(-3600),
        demand(0),
        pod("one", -600),
    ];
    tell(&mut model, 0, start);
    tell(&mut model, 1, [counted(17, true, true)]);
    let asked = model.service(&key()).unwrap().decision.recommended;
    let target = model.service(&key()).map(|_| service().target).unwrap();
    assert_eq!(asked, 17u32.div_ceil(target).min(service().max));
}
