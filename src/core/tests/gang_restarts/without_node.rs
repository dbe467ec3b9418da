//! Workers that fail while others of their gang have no node yet: they waited for these.

use super::{Cluster, at};

/// The gang of four runs since second 1, and one of its workers has no node yet.
fn incomplete() -> Cluster {
    let mut cluster = Cluster::new(4, 4);
    cluster.change(3, 3, |pod| {
        (pod.node, pod.ready_since, pod.was_ready) = (None, None, false);
    });
    assert_eq!(cluster.decide(4), []);
    cluster
}

#[test]
fn a_failure_while_another_worker_has_no_node_uses_up_no_restart_and_the_gang_is_taken_back() {
    let mut cluster = incomplete();
    cluster.fail(0, 60);
    let stop = cluster.order(60);
    assert_eq!((stop.run, stop.restart, stop.restarts), (false, None, 0));
    let expected = "container worker: exit code 1 while 1 of its 4 workers had no node";
    assert!(stop.reason.contains(expected), "{stop:?}");
    let retry = stop.retry.clone().unwrap();
    assert_eq!((retry.count, retry.creation_failure.as_deref()), (1, None));
    cluster.batch.retry = Some(retry.clone());
    cluster.stop(60, &stop, &[]);
    let again = retry.at.as_second() - at(0).as_second();
    assert_eq!(cluster.decide(again - 1), []);
    let start = cluster.order(again);
    assert_eq!((start.run, start.restarts), (true, 0));
    assert_eq!(start.recreate, ["".into()], "its Job counts the failure");
}

#[test]
fn a_failure_once_all_workers_have_a_node_counts() {
    let mut cluster = incomplete();
    cluster.change(3, 50, |pod| pod.node = Some("gpu-3".into()));
    assert_eq!(cluster.decide(50), []);
    cluster.fail(0, 60);
    let stop = cluster.order(60);
    assert_eq!((stop.restart.unwrap().count, stop.retry), (1, None));
}
