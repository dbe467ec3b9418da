//! Workers whose pods the cluster refuses: the gang is taken back whole, and says why.

use bursar_core::model::event::{Event, Name, PodCreationReport};
use bursar_core::plan::{LimitedBy, decide};

use super::{Cluster, at, job, pod, set_job};

const WHY: &str =
    "pods \"train-2-x7xjq\" is forbidden: exceeded quota: gpus, requested: 1, used: 2, limited: 2";

/// The gang of four runs since second 100 in a new Job, which has made the pods of the first two.
fn half_made() -> Cluster {
    let mut cluster = Cluster::new(4, 4);
    cluster.fail(3, 50);
    let stop = cluster.order(50);
    cluster.stop(50, &stop, &[]);
    let start = cluster.order(100);
    cluster.start(100, &start, 0);
    cluster.batch.active = 2;
    cluster.remove(2, 100);
    cluster.remove(3, 100);
    cluster.show_batch(100);
    assert_eq!(cluster.decide(101), []);
    cluster
}

fn refuse(cluster: &mut Cluster, since: i64, last: i64, now: i64) {
    cluster.batch.creation_failure = Some(PodCreationReport {
        since: at(since),
        last: at(last),
        why: WHY.into(),
    });
    cluster.show_batch(now);
}

/// The gangs that are told to run at a second.
fn starts(cluster: &mut Cluster, second: i64) -> Vec<Name> {
    let orders = decide(&mut cluster.model, at(second))
        .job_orders
        .into_iter();
    let starts = orders.filter(|order| order.run);
    starts.map(|order| order.job.name).collect()
}

#[test]
fn a_gang_whose_pods_are_refused_is_taken_back_after_a_minute_and_holds_nobody_up() {
    let mut cluster = half_made();
    refuse(&mut cluster, 101, 104, 105);
    set_job(&mut cluster.model, "next", 105, job(105, 4));
    assert_eq!(starts(&mut cluster, 105), []);
    let decision = cluster.decision();
    assert!(decision.run);
    let expected = format!("the cluster refuses the pods of 2 of its 4 workers: {WHY}");
    assert!(decision.reason.contains(&expected), "{decision:?}");
    assert_eq!(decision.creation_failure.as_deref(), Some(WHY));
    assert_eq!(cluster.decide(160), []);
    assert_eq!(cluster.model.next_timer(), Some(at(161)), "by itself");

    let stop = cluster.order(161);
    let retry = stop.retry.clone().unwrap();
    assert_eq!(
        (retry.count, retry.creation_failure.as_deref()),
        (1, Some(WHY))
    );
    assert_eq!((stop.restart, stop.restarts), (None, 1), "it uses up none");
    assert!(stop.reason.contains(&expected), "{stop:?}");
    cluster.batch.retry = Some(retry.clone());
    cluster.stop(161, &stop, &[]);
    assert_eq!(
        starts(&mut cluster, 163),
        ["next".into()],
        "its room is free"
    );
    let decision = cluster.decision();
    assert_eq!(decision.limited_by, Some(LimitedBy::Capacity));
    assert!(decision.reason.contains(WHY), "{decision:?}");
    assert_eq!(decision.creation_failure.as_deref(), Some(WHY));

    // the room is free again, and its wait is over
    let mut next = job(105, 4);
    next.suspend = true;
    set_job(&mut cluster.model, "next", 165, next);
    decide(&mut cluster.model, at(165));
    assert_eq!(cluster.decide(190), []);
    let start = cluster.order(retry.at.as_second() - at(0).as_second());
    assert_eq!((start.run, start.restarts), (true, 1));
}

#[test]
fn without_a_word_pods_are_waited_for_for_five_minutes() {
    let mut cluster = half_made();
    assert_eq!(cluster.decide(399), []);
    let stop = cluster.order(400);
    let retry = stop.retry.clone().unwrap();
    assert_eq!((retry.count, retry.creation_failure), (1, None));
    assert!(stop.reason.contains("given no pod"), "{stop:?}");
}

/// Anybody who may write Events can write one of tomorrow.
#[test]
fn a_report_from_the_future_makes_nobody_wait_for_more_than_five_minutes() {
    let mut cluster = half_made();
    refuse(&mut cluster, 90_000, 90_000, 105);
    assert_eq!(cluster.decide(399), []);
    assert_eq!(cluster.model.next_timer(), Some(at(400)), "by itself");
    let stop = cluster.order(400);
    let retry = stop.retry.unwrap();
    assert_eq!(retry.creation_failure.as_deref(), Some(WHY));
}

#[test]
fn pods_that_are_made_after_a_refusal_end_it() {
    let mut cluster = half_made();
    refuse(&mut cluster, 101, 104, 105);
    cluster.decide(105);
    cluster.add(2, 110);
    cluster.decide(110);
    assert_eq!(cluster.decision().creation_failure, None);
    assert_eq!(cluster.decide(399), []);
    // the last one is refused from now on
    refuse(&mut cluster, 101, 130, 399);
    assert!(!cluster.order(399).run);
}

#[test]
fn workers_that_fail_because_others_are_refused_use_up_no_restart() {
    let mut cluster = half_made();
    refuse(&mut cluster, 101, 104, 105);
    cluster.decide(105);
    cluster.fail(0, 120);
    let stop = cluster.order(120);
    assert_eq!((stop.restart, stop.restarts), (None, 1));
    let retry = stop.retry.unwrap();
    assert_eq!(retry.creation_failure.as_deref(), Some(WHY));
}

/// The status of the Job says for a moment that it began when the run before did.
#[test]
fn a_try_has_its_minute_though_its_job_still_shows_the_run_before() {
    let mut cluster = half_made();
    refuse(&mut cluster, 101, 104, 105);
    cluster.decide(105);
    let stop = cluster.order(161);
    cluster.batch.retry = stop.retry.clone();
    for rank in 0..2 {
        cluster.remove(rank, 162);
    }
    (cluster.batch.running, cluster.batch.active) = (false, 0);
    cluster.show_batch(162);
    cluster.decide(162);
    let again = stop.retry.unwrap().at.as_second() - at(0).as_second();
    let start = cluster.order(again);
    assert!(start.run && start.recreate.is_empty(), "{start:?}");
    cluster.batch.running = true;
    cluster.show_batch(again + 1);
    assert_eq!(cluster.decide(again + 1), []);
    let decision = cluster.decision();
    assert_eq!(
        decision.creation_failure.as_deref(),
        Some(WHY),
        "none is made yet"
    );
    assert_eq!(cluster.decide(again + 60), []);
    assert!(!cluster.order(again + 61).run);
}

#[test]
fn a_pod_with_the_labels_of_a_worker_makes_no_refusal_end() {
    let mut cluster = half_made();
    refuse(&mut cluster, 101, 104, 105);
    let mut other = pod(3, 0, 150);
    (other.key.name, other.made_by, other.node) = ("other".into(), None, None);
    let event = Event::Pod(Name::from("other"), Some(Box::new(other)));
    cluster.model.apply(event, at(150));
    assert!(!cluster.order(161).run);
}
