//! Bounds that hold at times of the day.

use bursar_core::model::Model;
use bursar_core::model::event::{Event, Service};
use bursar_core::plan::LimitedBy;
use bursar_core::refusal::RefusalReason;
use bursar_core::scaling::{Cron, Schedule, ScheduleEnd};
use jiff::tz::TimeZone;

use crate::*;

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Three replicas from eight to half past eight in Berlin.
fn scheduled() -> Service {
    Service {
        min: 1,
        schedules: vec![Schedule {
            name: "morning".to_owned(),
            start: Cron::parse("0 8 * * *").unwrap(),
            end: ScheduleEnd::At(Cron::parse("30 8 * * *").unwrap()),
            zone: Some(TimeZone::get("Europe/Berlin").unwrap()),
            min: Some(3),
            max: None,
        }],
        ..service()
    }
}

/// Decides at the times at which the model wants to, up to this one, carries out orders, and returns
/// when replicas changed to how many.
fn changes(model: &mut Model, until: Timestamp) -> Vec<(Timestamp, u32)> {
    let mut changes = vec![];
    while let Some(now) = model.next_timer().filter(|at| *at <= until) {
        for order in decide(model, now).service_orders {
            let (before, count) = order.replicas;
            if before != count {
                changes.push((now, count));
            }
            model.apply(replicas(count), now);
            decide(model, now);
        }
    }
    changes
}

#[test]
fn a_schedule_begins_and_ends_though_nothing_else_happens() {
    let before = time("2026-11-28T06:00:00Z");
    let mut model = Model::new(TimeZone::UTC, before);
    model.apply(Event::Service(key(), Some(scheduled())), before);
    model.apply(replicas(1), before);
    decide(&mut model, before);
    let begins = time("2026-11-28T07:00:00Z");
    assert_eq!(changes(&mut model, begins), [(begins, 3)]);
    let decision = model.service(&key()).unwrap().decision;
    assert_eq!(decision.limited_by, Some(LimitedBy::Schedule));
    let named = "schedule morning, at least 3, until 2026-11-28T07:30:00Z";
    assert!(decision.reason.contains(named), "{}", decision.reason);
}

#[test]
fn a_paused_service_keeps_its_own_bounds() {
    let during = time("2026-11-28T07:10:00Z");
    let mut model = Model::new(TimeZone::UTC, during);
    let paused = Service {
        paused: Some("scaling.paused is true".into()),
        ..scheduled()
    };
    model.apply(Event::Service(key(), Some(paused)), during);
    model.apply(replicas(1), during);
    assert_eq!(decide(&mut model, during).service_orders, []);
    assert_eq!(model.service(&key()).unwrap().decision.desired, 1);
}

#[test]
fn a_larger_minimum_of_the_service_itself_counts_during_a_schedule() {
    let during = time("2026-11-28T07:10:00Z");
    let mut model = Model::new(TimeZone::UTC, during);
    // as `kubectl scale --replicas=4` sets it
    let scaled = Service {
        min: 4,
        ..scheduled()
    };
    model.apply(Event::Service(key(), Some(scaled)), during);
    model.apply(replicas(1), during);
    assert_eq!(
        decide(&mut model, during).service_orders[0].replicas,
        (1, 4)
    );
}

#[test]
fn a_service_that_a_schedule_lets_have_no_replica_refuses_until_it_ends() {
    let begins = time("2026-11-28T07:00:00Z");
    let mut service = scheduled();
    service.min = 0;
    service.schedules[0].min = None;
    service.schedules[0].max = Some(0);
    let mut model = Model::new(TimeZone::UTC, begins);
    model.apply(Event::Service(key(), Some(service)), begins);
    model.apply(replicas(0), begins);
    decide(&mut model, begins);
    let refusal = model.service(&key()).unwrap().decision.refusal.clone();
    let refusal = refusal.unwrap();
    assert_eq!(refusal.reason, RefusalReason::ScheduledToZero);
    assert_eq!(refusal.retry_at, Some(time("2026-11-28T07:30:00Z")));
    assert!(refusal.message.contains("schedule morning"), "{refusal:?}");
    let ends = refusal.retry_at.unwrap();
    decide(&mut model, ends);
    assert_eq!(model.service(&key()).unwrap().decision.refusal, None);
}
