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

/// The waits in seconds after so many evictions, each so long after the start.
fn waits(cluster: &mut Cluster, evictions: usize, run: i64) -> Vec<i64> {
    let mut second = 2;
    let mut waits = Vec::new();
    for _ in 0..evictions {
        second += run;
        cluster.disrupt(0, second);
        cluster.fail(0, second);
        let stop = cluster.order(second);
        cluster.stop(second, &stop, &[]);
        let wait = stop.restart.unwrap().at.duration_since(at(second));
        waits.push(wait.as_secs());
        second += wait.as_secs();
        let start = cluster.order(second);
        cluster.start(second, &start, 0);
        assert_eq!(cluster.decide(second + 1), []);
    }
    waits
}

#[test]
fn a_storm_of_evictions_restarts_a_gang_more_and_more_rarely() {
    let mut cluster = Cluster::new(2, 2);
    let expected = [10, 20, 40, 80, 160, 320, 600, 600];
    assert_eq!(waits(&mut cluster, 8, 30), expected);
}

#[test]
fn a_run_that_lasts_makes_the_next_eviction_the_first_one() {
    let mut cluster = Cluster::new(2, 2);
    assert_eq!(waits(&mut cluster, 3, 599), [10, 20, 40]);
    let mut cluster = Cluster::new(2, 2);
    assert_eq!(waits(&mut cluster, 3, 601), [10, 10, 10]);
}

#[test]
fn another_leader_goes_on_with_the_waits_and_failures_have_their_own() {
    let mut cluster = Cluster::new(2, 2);
    assert_eq!(waits(&mut cluster, 2, 30), [10, 20]);
    let mut next = super::model(2);
    super::set_job(&mut next, "train", 100, super::job(0, 2));
    cluster.model = next;
    cluster.show_batch(100);
    for rank in 0..2 {
        cluster.change(rank, 100, |_| {});
    }
    cluster.decide(100);
    cluster.fail(1, 110);
    let stop = cluster.order(110);
    let restart = stop.restart.unwrap();
    assert_eq!((restart.count, restart.at), (1, at(120)));
    assert_eq!(restart.disruptions, 2, "not over yet");
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
