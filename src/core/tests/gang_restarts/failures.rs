//! A worker that fails restarts all, as often as the job says.

use bursar_core::model::event::{BatchJob, Event, Name, Owner, Role};
use bursar_core::model::{Key, Model};
use bursar_core::plan::{JobOrder, LimitedBy, decide};
use bursar_core::training::Restart;

use super::{Cluster, at, job, job_uid, model, pod, set_job, set_node};

#[test]
fn when_a_worker_fails_all_start_again_and_keep_their_room() {
    let mut cluster = Cluster::new(4, 4);
    set_job(&mut cluster.model, "next", 50, job(50, 1));
    decide(&mut cluster.model, at(50));
    cluster.fail(2, 100);
    let stop = cluster.order(100);
    let restart = Restart {
        count: 1,
        at: at(110),
        disruptions: 0,
    };
    assert_eq!((stop.run, stop.restart), (false, Some(restart)));
    assert!(
        stop.reason.contains("worker train-2 has failed"),
        "{stop:?}"
    );
    assert!(stop.reason.contains("exit code 1"), "{stop:?}");
    assert!(stop.reason.contains("restart 1 of 3"), "{stop:?}");
    cluster.stop(100, &stop, &[]);
    for second in 102..110 {
        let orders = decide(&mut cluster.model, at(second)).job_orders;
        assert_eq!(orders, [], "the room is taken");
    }
    assert!(
        cluster
            .decision()
            .reason
            .contains("worker train-2 has failed")
    );
    let start = cluster.order(110);
    assert_eq!((start.run, start.restarts), (true, 1));
    cluster.start(110, &start, 0);
    assert_eq!(decide(&mut cluster.model, at(111)).job_orders, []);
    assert_eq!(cluster.decision().reason, "4 workers run");
}

/// A paused gang goes on if it runs, and so it does after a restart.
#[test]
fn a_gang_that_its_user_has_paused_starts_again_as_any_other() {
    for is_disrupted in [false, true] {
        let mut cluster = Cluster::new(2, 2);
        let mut paused = job(0, 2);
        paused.paused = true;
        set_job(&mut cluster.model, "train", 50, paused);
        assert_eq!(cluster.decide(50), []);
        cluster.change(1, 100, |pod| pod.disrupted = is_disrupted);
        cluster.fail(1, 100);
        let stop = cluster.order(100);
        cluster.stop(100, &stop, &[]);
        for second in 102..110 {
            assert_eq!(cluster.decide(second), []);
        }
        let start = cluster.order(110);
        assert!(start.run, "{start:?}");
        cluster.start(110, &start, 0);
        assert_eq!(cluster.decide(111), []);
    }
}

#[test]
fn an_order_to_start_again_stands_while_the_old_jobs_are_still_shown() {
    let mut cluster = Cluster::new(2, 2);
    cluster.fail(1, 100);
    let stop = cluster.order(100);
    cluster.stop(100, &stop, &[]);
    let start = cluster.order(110);
    assert!(start.run);
    for second in [110, 111, 112] {
        cluster.show_batch(second);
        assert_eq!(cluster.decide(second), []);
        assert_eq!(cluster.decision().reason, "2 workers run");
    }
    cluster.start(112, &start, 0);
    assert_eq!(cluster.decide(113), []);
}

#[test]
fn one_that_still_stops_keeps_all_from_starting_again() {
    let mut cluster = Cluster::new(4, 4);
    cluster.fail(2, 100);
    let stop = cluster.order(100);
    cluster.stop(100, &stop, &[1]);
    assert_eq!(cluster.decide(130), []);
    cluster.fail(1, 150);
    cluster.batch.active = 0;
    cluster.show_batch(150);
    assert!(cluster.order(150).run);
}

#[test]
fn with_the_failure_after_the_last_restart_the_job_has_failed_and_frees_its_room() {
    let mut cluster = Cluster::new(4, 4);
    set_job(&mut cluster.model, "next", 50, job(50, 4));
    for second in [100, 200, 300] {
        cluster.restart(second);
    }
    cluster.fail(0, 400);
    let stop = cluster.order(400);
    assert_eq!(stop.restart.map(|restart| restart.count), Some(4));
    assert!(
        stop.reason.contains("all 3 restarts are used up"),
        "{stop:?}"
    );
    cluster.stop(400, &stop, &[]);
    let orders = decide(&mut cluster.model, at(402)).job_orders;
    let next: Vec<_> = orders
        .iter()
        .map(|order| (&*order.job.name, order.run))
        .collect();
    assert_eq!(next, [("next", true)]);
    for second in [500, 1000, 5000] {
        assert_eq!(cluster.decide(second), []);
    }
    let key = Key::new("lab", "train");
    assert_eq!(cluster.model.job(&key), None, "it has ended");
}

#[test]
fn restarts_wait_longer_each_time_but_not_for_ever() {
    let mut cluster = Cluster::new(2, 2);
    let mut spec = job(0, 2);
    spec.restarts = 100;
    set_job(&mut cluster.model, "train", 2, spec);
    let mut waits = Vec::new();
    for number in 1..=9 {
        let second = number * 1000;
        cluster.fail(1, second);
        let stop = cluster.order(second);
        cluster.stop(second, &stop, &[]);
        let wait = stop.restart.unwrap().at.duration_since(at(second));
        waits.push(wait.as_secs());
        assert_eq!(cluster.decide(second + wait.as_secs() - 1), []);
        let start = cluster.order(second + wait.as_secs());
        cluster.start(second + wait.as_secs(), &start, 0);
        cluster.decide(second + wait.as_secs() + 1);
    }
    assert_eq!(waits, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
}

/// The GPUs of a gang that fails as soon as it starts would stand idle nearly all of the time.
#[test]
fn room_is_kept_for_a_minute_or_for_as_long_as_the_gang_has_run() {
    for (run, expected) in [
        (2, [true, true, true, false, false]),
        (100, [true, true, true, true, false]),
        (400, [true; 5]),
    ] {
        let mut cluster = Cluster::new(2, 2);
        let mut spec = job(0, 2);
        spec.restarts = 100;
        set_job(&mut cluster.model, "train", 2, spec);
        let (mut second, mut kept) = (1, Vec::new());
        for _ in expected {
            second += run;
            cluster.fail(1, second);
            let stop = cluster.order(second);
            kept.push(cluster.decision().keeps_reservation);
            cluster.stop(second, &stop, &[]);
            second = stop.restart.unwrap().at.as_second() - at(0).as_second();
            assert_eq!(cluster.decide(second - 1), []);
            let start = cluster.order(second);
            cluster.start(second, &start, 0);
            cluster.decide(second + 1);
        }
        assert_eq!(kept, expected, "after runs of {run} s");
    }
}

#[test]
fn another_leader_goes_on_counting() {
    let mut cluster = Cluster::new(2, 2);
    cluster.restart(100);
    cluster.restart(200);
    cluster.fail(1, 300);
    let stop = cluster.order(300);
    cluster.stop(300, &stop, &[]);
    let mut next = model(2);
    let mut spec = job(0, 2);
    spec.restart_count = 2;
    set_job(&mut next, "train", 302, spec);
    set_job(&mut next, "next", 302, job(50, 2));
    cluster.model = next;
    for rank in 0..2 {
        cluster.change(rank, 302, |_| {});
    }
    cluster.show_batch(302);
    for second in [302, 320, 339] {
        let orders = decide(&mut cluster.model, at(second)).job_orders;
        let starts = orders.iter().any(|order| order.run);
        assert!(!starts, "the older gang's room is kept: {orders:?}");
    }
    let start = cluster.order(340);
    assert_eq!((start.run, start.restarts), (true, 3));
    cluster.start(340, &start, 0);
    cluster.decide(341);
    // a Job that was lost between its deletion and the next one leaves the count in the status
    let mut spec = job(0, 2);
    spec.restart_count = 3;
    set_job(&mut cluster.model, "train", 350, spec);
    cluster.batch.restarts = 0;
    cluster.show_batch(350);
    cluster.fail(0, 400);
    let stop = cluster.order(400);
    assert_eq!(stop.restart.map(|restart| restart.count), Some(4));
}

#[test]
fn a_failure_that_only_some_jobs_show_is_counted_once() {
    let mut model = model(2);
    let mut spec = job(0, 1);
    let other = Role {
        name: "other".into(),
        ..spec.roles[0].clone()
    };
    spec.roles.push(other);
    set_job(&mut model, "train", 0, spec);
    let key = Key::new("lab", "train");
    let mut batch = BatchJob {
        running: true,
        uid: Some(job_uid(0)),
        started: Some(at(0)),
        active: 1,
        ..BatchJob::default()
    };
    for (role, rank) in [("", 0), ("other", 1)] {
        let role = Name::from(role);
        model.apply(
            Event::BatchJob(key.clone(), role.clone(), Some(batch.clone())),
            at(0),
        );
        let mut pod = pod(rank, rank, 0);
        pod.owner = Owner::Job("train".into(), role);
        if rank == 1 {
            (pod.ended, pod.failure) = (Some(at(99)), Some("exit code 1".into()));
        }
        let uid = format!("uid-{rank}").as_str().into();
        model.apply(Event::Pod(uid, Some(Box::new(pod))), at(0));
    }
    // the leader that told the first Job is gone
    (batch.running, batch.restarts, batch.restart_at) = (false, 1, Some(at(110)));
    model.apply(Event::BatchJob(key, "".into(), Some(batch)), at(100));
    let orders = decide(&mut model, at(101)).job_orders;
    let restart = Restart {
        count: 1,
        at: at(110),
        disruptions: 0,
    };
    assert_eq!(orders.len(), 1);
    assert_eq!((orders[0].run, orders[0].restart), (false, Some(restart)));
}

#[test]
fn workers_that_end_because_the_gang_is_suspended_have_not_failed() {
    let mut cluster = Cluster::new(2, 2);
    for number in 1..=5 {
        let second = number * 100;
        let mut spec = job(0, 2);
        spec.suspend = true;
        set_job(&mut cluster.model, "train", second, spec.clone());
        let stop = cluster.order(second);
        assert_eq!(stop.restart, None);
        cluster.stop(second, &stop, &[]);
        assert_eq!(cluster.decide(second + 2), []);
        spec.suspend = false;
        set_job(&mut cluster.model, "train", second + 10, spec);
        let start = cluster.order(second + 10);
        assert_eq!((start.run, start.restarts), (true, 0));
        cluster.start(second + 10, &start, 0);
        assert_eq!(cluster.decide(second + 11), []);
    }
}

#[test]
fn no_annotation_keeps_the_room_of_a_gang_for_long() {
    let mut cluster = Cluster::new(2, 2);
    cluster.fail(1, 100);
    let stop = cluster.order(100);
    cluster.stop(100, &stop, &[]);
    cluster.batch.restart_at = Some("9999-12-30T00:00:00Z".parse().unwrap());
    cluster.show_batch(102);
    for (second, keeps_reservation) in [(103, true), (999, true), (1_000, false)] {
        assert_eq!(cluster.decide(second), []);
        assert_eq!(
            cluster.decision().keeps_reservation,
            keeps_reservation,
            "{second}"
        );
    }
}

#[test]
fn a_pod_that_only_has_the_labels_of_a_worker_holds_no_restart_up() {
    let mut cluster = Cluster::new(2, 2);
    cluster.fail(1, 100);
    let stop = cluster.order(100);
    cluster.stop(100, &stop, &[]);
    let mut other = pod(0, 0, 102);
    (other.key.name, other.made_by, other.node) = ("other".into(), None, None);
    let event = Event::Pod("other".into(), Some(Box::new(other)));
    cluster.model.apply(event, at(102));
    assert!(cluster.order(110).run);
}

#[test]
fn a_worker_that_is_taken_away_and_ends_well_is_an_interruption_that_does_not_count() {
    let mut cluster = Cluster::new(4, 4);
    cluster.disrupt(2, 100);
    cluster.change(2, 105, |pod| pod.ended = Some(at(105)));
    let stop = cluster.order(105);
    assert!(!stop.run);
    assert_eq!(stop.restart.unwrap().count, 0);
}

/// It goes on with the same Job, and the pods that were told to stop are still there.
#[test]
fn workers_that_ended_when_the_gang_was_suspended_do_not_interrupt_it_when_it_goes_on() {
    for failure in [None, Some("container worker: exit code 143")] {
        let mut cluster = Cluster::new(2, 2);
        for rank in 0..2 {
            cluster.change(rank, 100, |pod| pod.deletion = Some(at(160)));
            cluster.change(rank, 102, |pod| {
                pod.ended = Some(at(102));
                pod.failure = failure.map(Into::into);
            });
        }
        for started in [None, Some(at(110))] {
            cluster.batch.started = started;
            cluster.show_batch(110);
            assert_eq!(cluster.decide(110), [], "{failure:?}, {started:?}");
        }
    }
}

/// One of those of the present start is taken away all the same.
#[test]
fn a_worker_that_fails_after_the_gang_went_on_interrupts_it() {
    let mut cluster = Cluster::new(2, 2);
    for rank in 0..2 {
        cluster.change(rank, 100, |pod| pod.deletion = Some(at(160)));
        cluster.fail(rank, 102);
    }
    (cluster.batch.started, cluster.batch.failed) = (Some(at(110)), 0);
    cluster.show_batch(110);
    for rank in 0..2 {
        cluster.add(rank, 110);
    }
    assert_eq!(cluster.decide(111), []);
    cluster.disrupt(1, 120);
    cluster.fail(1, 130);
    assert_eq!(cluster.order(130).restart.unwrap().count, 0);
}

/// The Job controller makes the pods of a Job that goes on before it shows when it has started.
#[test]
fn a_worker_that_is_older_than_the_start_of_its_job_is_taken_away_all_the_same() {
    let mut cluster = Cluster::new(2, 2);
    for rank in 0..2 {
        cluster.change(rank, 100, |pod| pod.deletion = Some(at(160)));
        cluster.fail(rank, 102);
        cluster.add(rank, 109);
    }
    (cluster.batch.started, cluster.batch.failed) = (Some(at(110)), 0);
    cluster.show_batch(110);
    assert_eq!(cluster.decide(111), []);
    cluster.disrupt(1, 120);
    cluster.fail(1, 130);
    assert_eq!(cluster.order(130).restart.unwrap().count, 0);
}

#[test]
fn failures_while_the_node_of_another_worker_is_not_ready_do_not_count() {
    let mut cluster = Cluster::new(3, 3);
    set_node(&mut cluster.model, 2, 100, true);
    cluster.fail(0, 130);
    let stop = cluster.order(130);
    assert_eq!(stop.restart.unwrap().count, 0);
}

#[test]
fn a_failed_worker_of_the_run_before_is_no_failure_of_the_next_one() {
    let mut cluster = Cluster::new(2, 2);
    cluster.fail(1, 100);
    let stop = cluster.order(100);
    cluster.stop(100, &stop, &[]);
    // its Job is deleted, and the next one could not be made yet
    let key = Key::new("team", "train");
    let event = Event::BatchJob(key, "".into(), None);
    cluster.model.apply(event, at(111));
    let orders = cluster.decide(111);
    assert!(
        orders.iter().all(|order| order.restart.is_none()),
        "{orders:?}"
    );
    assert!(cluster.decision().restarts <= 1);
}

#[test]
fn a_gang_that_is_suspended_while_it_is_to_start_again_gives_its_room_up() {
    let mut cluster = Cluster::new(2, 2);
    set_job(&mut cluster.model, "next", 50, job(50, 2));
    cluster.fail(1, 100);
    let stop = cluster.order(100);
    cluster.stop(100, &stop, &[]);
    assert_eq!(decide(&mut cluster.model, at(102)).job_orders, []);
    let mut spec = job(0, 2);
    spec.suspend = true;
    set_job(&mut cluster.model, "train", 103, spec);
    let orders = decide(&mut cluster.model, at(103)).job_orders;
    let next: Vec<_> = orders
        .iter()
        .map(|order| (&*order.job.name, order.run))
        .collect();
    assert_eq!(next, [("next", true)]);
    let decided = cluster.decision();
    assert_eq!(decided.limited_by, Some(LimitedBy::Suspended));
}

#[test]
fn eight_workers_that_fail_at_once_start_again_after_seconds_in_their_room() {
    let mut cluster = Cluster::new(8, 8);
    set_job(&mut cluster.model, "next", 50, job(50, 1));
    cluster.fail(3, 100);
    let stop = cluster.order(100);
    for rank in (0..8).filter(|rank| *rank != 3) {
        cluster.fail(rank, 101);
    }
    cluster.stop(101, &stop, &[]);
    assert_eq!(decide(&mut cluster.model, at(102)).job_orders, []);
    let start = cluster.order(110);
    assert_eq!(
        (start.run, start.restarts),
        (true, 1),
        "one failure of the gang"
    );
    cluster.start(110, &start, 0);
    assert_eq!(decide(&mut cluster.model, at(111)).job_orders, []);
}

fn set_batch(model: &mut Model, second: i64, batch: BatchJob) {
    let key = Key::new("lab", "train");
    model.apply(Event::BatchJob(key, "".into(), Some(batch)), at(second));
}

/// A running gang whose Job makes only the first of its pods.
fn without_pods(model: &mut Model) -> Vec<JobOrder> {
    set_job(model, "train", 0, job(0, 4));
    let batch = BatchJob {
        running: true,
        uid: Some(job_uid(0)),
        started: Some(at(0)),
        active: 1,
        ..BatchJob::default()
    };
    set_batch(model, 0, batch);
    let uid = Name::from("uid-0");
    model.apply(Event::Pod(uid, Some(Box::new(pod(0, 0, 0)))), at(0));
    decide(model, at(300)).job_orders
}

#[test]
fn a_gang_whose_job_makes_no_pods_is_told_apart_from_one_without_nodes() {
    let mut model = model(4);
    let orders = without_pods(&mut model);
    assert_eq!((orders.len(), orders[0].run), (1, false));
    assert!(
        orders[0]
            .reason
            .contains("given no pod in time by their Job"),
        "{orders:?}"
    );
    let mut model = model_with_waiting_pod();
    let orders = without_pods(&mut model);
    assert!(
        orders[0].reason.contains("found no node in time"),
        "{orders:?}"
    );
}

fn model_with_waiting_pod() -> Model {
    let mut model = model(4);
    let mut waiting = pod(1, 1, 0);
    waiting.node = None;
    let uid = Name::from("uid-1");
    model.apply(Event::Pod(uid, Some(Box::new(waiting))), at(0));
    model
}
