//! Signals that are measured outside the replicas: the largest asks, and none that is unknown takes away.

use bursar_core::model::Model;
use bursar_core::model::event::{Event, Measurement, Service};
use bursar_core::plan::LimitedBy;
use bursar_core::scaling::{Activation, Milli, RequestSignal, SignalRule};
use jiff::tz::TimeZone;

use crate::*;

/// Workers that take jobs from a queue, five each, and no requests.
fn workers() -> Service {
    Service {
        request_signal: RequestSignal::None,
        signals: vec![("jobs".into(), SignalRule::Outside(Milli(5_000)))],
        ..service()
    }
}

/// That many were read of a signal.
fn value(signal: &str, units: u32) -> Event {
    let value = Measurement::Value(Milli::from_units(units));
    Event::Signal(key(), signal.into(), Some(value))
}

fn failed(signal: &str, why: &str) -> Event {
    Event::Signal(key(), signal.into(), Some(Measurement::Failed(why.into())))
}

/// A model of this service with so many replicas, each ready for long.
fn model_of(service: Service, names: &[&str]) -> Model {
    let mut model = Model::new(TimeZone::UTC, at(-3600));
    let count = u32::try_from(names.len()).unwrap();
    let start = [Event::Service(key(), Some(service)), replicas(count)];
    let pods = names.iter().map(|name| pod(name, -600));
    tell(&mut model, 0, start.into_iter().chain(pods));
    model
}

fn allowed(model: &Model) -> u32 {
    model.service(&key()).unwrap().decision.allowed
}

#[test]
fn a_queue_starts_replicas_without_a_request_and_they_end_once_it_is_empty_for_long() {
    let mut model = model_of(workers(), &[]);
    assert_eq!(allowed(&model), 0, "nothing was read yet");
    tell(&mut model, 1, [value("jobs", 0)]);
    assert_eq!(allowed(&model), 0);
    let woken = tell(&mut model, 2, [value("jobs", 11)]);
    assert_eq!(woken.service_orders[0].replicas, (0, 3));
    let reason = &model.service(&key()).unwrap().decision.reason;
    assert!(reason.starts_with("jobs 11 / target 5 = 3"), "{reason}");
    let pods = ["a", "b", "c"].map(|name| pod(name, 40));
    tell(&mut model, 40, [replicas(3)].into_iter().chain(pods));
    tell(&mut model, 600, [value("jobs", 1)]);
    assert_eq!(allowed(&model), 3, "eleven were there until now");
    tell(&mut model, 630, []);
    assert_eq!(allowed(&model), 1, "a lower number outlasted the window");
    // at once: nothing is read of workers, and they have no requests to wait for
    tell(&mut model, 634, []);
    tell(&mut model, 700, [value("jobs", 0)]);
    tell(&mut model, 759, []);
    assert_eq!(allowed(&model), 1, "not idle for a minute yet");
    tell(&mut model, 761, []);
    assert_eq!(allowed(&model), 0);
}

#[test]
fn a_signal_that_cannot_be_read_holds_the_replicas_and_says_why() {
    let mut model = model_of(workers(), &["a", "b"]);
    tell(&mut model, 1, [value("jobs", 10)]);
    assert_eq!(allowed(&model), 2);
    tell(&mut model, 600, [failed("jobs", "WRONGPASS of redis:6379")]);
    tell(&mut model, 6_000, []);
    let decision = model.service(&key()).unwrap().decision;
    assert_eq!(
        (decision.allowed, decision.limited_by),
        (2, Some(LimitedBy::Signal))
    );
    let why = decision.unknown.unwrap();
    assert_eq!(why, "signal jobs: WRONGPASS of redis:6379");
    // what is read of it afterwards counts again, and what came meanwhile is not known to be nothing
    tell(&mut model, 6_001, [value("jobs", 0)]);
    tell(&mut model, 6_050, []);
    assert_eq!(
        allowed(&model),
        1,
        "not idle yet, with no higher number in the window"
    );
    tell(&mut model, 6_062, []);
    assert_eq!(allowed(&model), 0);
}

#[test]
fn the_largest_signal_wins_and_one_that_is_unknown_hides_no_other() {
    let both = Service {
        request_signal: RequestSignal::Target(8),
        signals: vec![
            ("jobs".into(), SignalRule::Outside(Milli(5_000))),
            ("lag".into(), SignalRule::Outside(Milli(500))),
        ],
        ..service()
    };
    let mut model = model_of(both, &["a"]);
    let first = [
        gateway(-600),
        demand(0),
        reading("a", 9),
        value("jobs", 3),
        value("lag", 2),
    ];
    tell(&mut model, 1, first);
    assert_eq!(
        allowed(&model),
        4,
        "lag 2 at 0.5 each, more than 2 by requests and 1 by jobs"
    );
    let mut model = model_of(
        Service {
            signals: vec![("jobs".into(), SignalRule::Outside(Milli(5_000)))],
            ..service()
        },
        &["a"],
    );
    tell(
        &mut model,
        1,
        [
            gateway(-600),
            demand(0),
            reading("a", 9),
            failed("jobs", "refused"),
        ],
    );
    assert_eq!(allowed(&model), 2, "what is known adds replicas");
    tell(&mut model, 2, [replicas(2), pod("b", 0)]);
    tell(&mut model, 600, [reading("a", 0), reading("b", 0)]);
    assert_eq!(allowed(&model), 2, "and what is unknown takes none away");
}

#[test]
fn requests_keep_a_replica_of_a_service_that_follows_another_signal_and_no_more() {
    let service = Service {
        request_signal: RequestSignal::Activity,
        ..workers()
    };
    let mut model = model_of(service, &["a"]);
    tell(
        &mut model,
        1,
        [gateway(-600), demand(0), reading("a", 90), value("jobs", 0)],
    );
    tell(&mut model, 6_000, []);
    assert_eq!(allowed(&model), 1);
    tell(&mut model, 6_001, [value("jobs", 20)]);
    assert_eq!(allowed(&model), 4);
}

#[test]
fn a_queue_starts_a_service_that_no_request_wakes() {
    let service = Service {
        activation: Activation::Never,
        ..workers()
    };
    let mut model = model_of(service, &[]);
    tell(&mut model, 1, [value("jobs", 1)]);
    assert_eq!(allowed(&model), 1);
}

#[test]
fn what_is_read_of_a_signal_that_was_edited_is_forgotten() {
    let mut model = model_of(workers(), &["a", "b"]);
    tell(&mut model, 1, [value("jobs", 10)]);
    tell(&mut model, 2, [Event::Signal(key(), "jobs".into(), None)]);
    let unknown = model.service(&key()).unwrap().decision.unknown;
    assert_eq!(unknown.as_deref(), Some("signal jobs: not read yet"));
    assert_eq!(allowed(&model), 2);
}
