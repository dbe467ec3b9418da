//! What the cluster takes away is no failure of the gang.

use super::{Cluster, MINUTE, at};

/// A worker that starts on 1 December and is evicted four times.
#[test]
fn what_the_cluster_takes_away_counts_against_no_limit() {
    let day = 24 * 60 * MINUTE;
    let mut cluster = Cluster::new(1, 1);
    for evicted in [1, 3, 5, 7] {
        let second = evicted * day;
        cluster.disrupt(0, second);
        assert_eq!(cluster.decide(second), [], "it has its grace");
        cluster.fail(0, second + 40);
        let stop = cluster.order(second + 40);
        assert_eq!(stop.restart.map(|restart| restart.count), Some(0));
        assert!(
            stop.reason.contains("which counts against no limit"),
            "{stop:?}"
        );
        cluster.stop(second + 40, &stop, &[]);
        let start = cluster.order(second + 50);
        assert_eq!((start.run, start.restarts), (true, 0));
        cluster.start(second + 50, &start, 0);
        assert_eq!(cluster.decide(second + 51), []);
    }
    assert_eq!(cluster.decision().reason, "1 workers run");
}

#[test]
fn failures_that_follow_from_a_disruption_do_not_count() {
    let mut cluster = Cluster::new(4, 4);
    cluster.disrupt(2, 100);
    cluster.decide(100);
    // the others lose their peer before it has ended
    cluster.fail(0, 130);
    let stop = cluster.order(130);
    assert_eq!(stop.restart.map(|restart| restart.count), Some(0));
    assert!(
        stop.reason.contains("the cluster took worker train-2 away"),
        "{stop:?}"
    );
}

#[test]
fn a_pod_that_somebody_deletes_has_not_failed() {
    let mut cluster = Cluster::new(4, 4);
    cluster.change(2, 100, |pod| pod.deletion = Some(at(160)));
    assert_eq!(cluster.decide(100), []);
    cluster.fail(2, 110);
    let stop = cluster.order(110);
    assert_eq!(stop.restart.map(|restart| restart.count), Some(0));
}

#[test]
fn one_that_failed_before_its_pod_was_deleted_has() {
    let mut cluster = Cluster::new(4, 4);
    cluster.fail(2, 100);
    cluster.change(2, 100, |pod| pod.deletion = Some(at(170)));
    let stop = cluster.order(100);
    assert_eq!(stop.restart.map(|restart| restart.count), Some(1));
}
