//! The Job of a gang itself is refused: a quota counts Jobs, or a webhook denies them.

use bursar_core::model::event::Event;
use bursar_core::model::{Key, Model};
use bursar_core::plan::{LimitedBy, decide};

use super::{at, job, model, set_job};

/// The gangs that are told to run at a second.
fn starts(model: &mut Model, second: i64) -> Vec<String> {
    let orders = decide(model, at(second)).job_orders.into_iter();
    let starts = orders.filter(|order| order.run);
    starts.map(|order| order.job.name.to_string()).collect()
}

fn refuse(model: &mut Model, second: i64) {
    let event = Event::JobOrderFailed(Key::new("lab", "train"));
    model.apply(event, at(second));
}

#[test]
fn a_gang_whose_job_is_refused_keeps_its_room_for_a_minute_and_tries_again_later() {
    let mut model = model(2);
    set_job(&mut model, "train", 0, job(0, 2));
    assert_eq!(starts(&mut model, 0), ["train"]);
    set_job(&mut model, "next", 1, job(1, 2));
    for second in [1, 3, 7, 15, 31] {
        refuse(&mut model, second);
        assert_eq!(starts(&mut model, second), ["train"], "{second}");
    }
    assert_eq!(starts(&mut model, 60), [""; 0]);
    assert_eq!(starts(&mut model, 61), ["next"], "by itself");
    let decision = model.job(&Key::new("lab", "train")).unwrap().clone();
    assert_eq!(decision.limited_by, Some(LimitedBy::Capacity));
    assert!(decision.reason.contains("PodsHealthy"), "{decision:?}");
    assert!(decision.reason.contains("tries again at"), "{decision:?}");
    // a Job that is made suspended is refused as well, and changes nothing
    refuse(&mut model, 62);
    assert_eq!(starts(&mut model, 62), [""; 0]);
    // once its wait is over and the room is free, it has its minute again
    model.apply(Event::Job(Key::new("lab", "next"), None), at(100));
    assert_eq!(starts(&mut model, 106), ["train"]);
    refuse(&mut model, 107);
    assert_eq!(starts(&mut model, 107), ["train"]);
    assert_eq!(starts(&mut model, 168), [""; 0]);
    let second = model.job(&Key::new("lab", "train")).unwrap();
    assert!(
        !second.run && second.reason.contains("2 times"),
        "{second:?}"
    );
}

#[test]
fn a_refusal_of_long_ago_counts_nothing_for_the_next_start() {
    let mut model = model(2);
    set_job(&mut model, "train", 0, job(0, 2));
    assert_eq!(starts(&mut model, 0), ["train"]);
    refuse(&mut model, 1);
    assert_eq!(starts(&mut model, 1), ["train"]);
    let mut suspended = job(0, 2);
    suspended.suspend = true;
    set_job(&mut model, "train", 5, suspended);
    assert_eq!(starts(&mut model, 5), [""; 0]);
    set_job(&mut model, "train", 500, job(0, 2));
    assert_eq!(starts(&mut model, 500), ["train"]);
    refuse(&mut model, 501);
    assert_eq!(starts(&mut model, 501), ["train"], "it has its minute");
}
