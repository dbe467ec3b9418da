//! A rollout that cannot finish stops no scale-in.

use bursar_core::model::Model;
use bursar_core::model::event::{Deployment, Event, Pod, Rollout, Service};
use bursar_core::scaling::Behavior;
use jiff::SignedDuration;
use jiff::tz::TimeZone;

use crate::*;

fn deployment(replicas: u32, rollout: Option<Rollout>) -> Event {
    Event::Deployment(
        key(),
        Some(Deployment {
            replicas,
            first_ordinal: None,
            rollout,
            creation_failure: None,
        }),
    )
}

fn shown(pod: Pod) -> Event {
    Event::Pod(pod.key.name.clone(), Some(Box::new(pod)))
}

/// The replica of the new template, which crashes if so.
fn new_pod(crashes: bool) -> Pod {
    Pod {
        ready_since: None,
        created: at(0),
        start_failure: crashes.then(|| ("container engine: CrashLoopBackOff".into(), at(0))),
        ..ready_pod("new", 0)
    }
}

const ROLLS: Rollout = Rollout {
    replaces: true,
    updated: 1,
    deadline_exceeded: false,
};

/// Nine replicas of the old template with so many requests on the first of them, and a new one.
fn rolling(requests: u64, new: Pod) -> Model {
    let service = Service {
        min: 1,
        max: 10,
        behavior: Behavior::with_scale_down_window(Some(SignedDuration::from_secs(60))),
        idle_after: SignedDuration::from_mins(30),
        ..service()
    };
    let mut model = Model::new(TimeZone::UTC, at(-3600));
    let mut start = vec![Event::Service(key(), Some(service)), shown(new)];
    start.extend([deployment(10, Some(ROLLS)), gateway(-3600), demand(0)]);
    for number in 0..9 {
        let name = format!("old-{number}");
        let requests = if number == 0 { requests } else { 0 };
        start.extend([pod(&name, -600), reading(&name, requests)]);
    }
    assert_eq!(tell(&mut model, 0, start).service_orders, []);
    model
}

/// Lets these seconds go by, and carries out what is ordered: the Deployment deletes pods of the old
/// template. Returns the replicas that are left, and the second of the last order.
fn carry_out(model: &mut Model, seconds: std::ops::Range<i64>, left: u32) -> (u32, Option<i64>) {
    let (mut left, mut last) = (left, None);
    for second in seconds {
        let now = at(second);
        for order in tell(model, second, []).service_orders {
            last = Some(second);
            for name in &order.drain {
                assert!(
                    name.starts_with("old"),
                    "the Deployment would keep it: {name}"
                );
                let mut drains = ready_pod(name, -600);
                drains.draining_since = Some(now);
                model.apply(shown(drains), now);
            }
            let shrinks = order.replicas.0.saturating_sub(order.replicas.1);
            assert_eq!(shrinks as usize, order.remove.len(), "{order:?}");
            for name in &order.remove {
                model.apply(Event::Pod(name.clone(), None), now);
            }
            left = order.replicas.1;
            model.apply(deployment(left, Some(ROLLS)), now);
        }
    }
    (left, last)
}

#[test]
fn scale_in_goes_on_beside_a_replica_that_crashes_and_one_that_works_stays() {
    let mut model = rolling(80, new_pod(true));
    assert_eq!(carry_out(&mut model, 1..600, 10), (10, None));
    let why = model
        .service(&key())
        .unwrap()
        .decision
        .rollout_stuck
        .unwrap();
    assert!(
        why.contains("pod new") && why.contains("CrashLoopBackOff"),
        "{why}"
    );
    tell(&mut model, 600, [reading("old-0", 8)]);
    let (left, last) = carry_out(&mut model, 600..4000, 10);
    assert_eq!(left, 2, "one that works, and the broken one");
    assert!(last.is_some_and(|second| second <= 720), "{last:?}");
    let decision = model.service(&key()).unwrap().decision;
    assert!(
        decision.reason.contains("rollout is stuck"),
        "{}",
        decision.reason
    );
    // more demand adds replicas that work
    let grown = tell(&mut model, 4000, [reading("old-0", 17)]);
    assert_eq!(grown.service_orders[0].replicas, (2, 4));
}

#[test]
fn what_starts_beside_a_stuck_rollout_asks_for_no_more_replicas() {
    let mut model = rolling(8, new_pod(true));
    let (left, _) = carry_out(&mut model, 1..1100, 10);
    assert_eq!(left, 2, "one that works, and the broken one");
    let mut orders = tell(&mut model, 1100, [reading("old-0", 17)]).service_orders;
    assert_eq!(orders.remove(0).replicas, (2, 4));
    let progress = Rollout {
        replaces: true,
        updated: 3,
        ..ROLLS
    };
    for (second, pods) in [(1101, 0), (1102, 1), (1103, 2)] {
        let mut events = vec![deployment(4, Some(progress))];
        events.extend((0..pods).map(|number| {
            let mut pod = new_pod(false);
            pod.key.name = format!("later-{number}").into();
            pod.created = at(1101);
            shown(pod)
        }));
        orders.extend(tell(&mut model, second, events).service_orders);
    }
    for second in 1104..1150 {
        orders.extend(tell(&mut model, second, []).service_orders);
    }
    assert_eq!(orders, []);
    // one of them crashes as well: another one takes its place, once it has failed for a minute
    let mut pod = new_pod(true);
    pod.key.name = "later-0".into();
    (pod.created, pod.start_failure) = (at(1101), Some(("CrashLoopBackOff".into(), at(1150))));
    tell(&mut model, 1150, [shown(pod)]);
    for second in 1151..1235 {
        orders.extend(tell(&mut model, second, []).service_orders);
    }
    let replicas: Vec<_> = orders.iter().map(|order| order.replicas).collect();
    assert_eq!(replicas, [(4, 5)]);
}

#[test]
fn a_rollout_that_moves_stops_scale_in_and_one_without_progress_does_for_ten_minutes() {
    let mut model = rolling(8, new_pod(false));
    assert_eq!(carry_out(&mut model, 1..400, 10), (10, None));
    let progress = Rollout {
        replaces: true,
        updated: 2,
        ..ROLLS
    };
    tell(&mut model, 400, [deployment(10, Some(progress))]);
    assert_eq!(carry_out(&mut model, 401..1000, 10), (10, None));
    assert_eq!(carry_out(&mut model, 1000..1100, 10).0, 2);
}

#[test]
fn the_deadline_of_the_deployment_itself_counts_at_once() {
    let mut model = rolling(8, new_pod(false));
    let over = Rollout {
        replaces: true,
        deadline_exceeded: true,
        ..ROLLS
    };
    tell(&mut model, 100, [deployment(10, Some(over))]);
    assert_eq!(carry_out(&mut model, 100..200, 10).0, 2);
}
