//! A worker that never stops because its node is lost.

use bursar_core::plan::decide;

use super::{Cluster, MINUTE, at, job, set_job, set_node};

/// The gang runs at 09:00; at 10:05 the node of rank 2 is not ready any more, at 10:10 its pod is told to
/// stop within a minute, and never ends. Seconds count from 09:00.
fn lose_node(cluster: &mut Cluster) {
    set_node(&mut cluster.model, 2, 65 * MINUTE, true);
    assert_eq!(cluster.decide(65 * MINUTE), []);
    cluster.change(2, 70 * MINUTE, |pod| pod.deletion = Some(at(71 * MINUTE)));
    assert_eq!(cluster.decide(70 * MINUTE), []);
    assert_eq!(cluster.decide(76 * MINUTE - 1), []);
}

#[test]
fn a_worker_on_a_lost_node_is_given_up_and_the_gang_runs_elsewhere() {
    let mut cluster = Cluster::new(4, 8);
    lose_node(&mut cluster);
    assert_eq!(
        cluster.model.next_timer(),
        Some(at(76 * MINUTE)),
        "by itself"
    );
    let stop = cluster.order(76 * MINUTE);
    assert_eq!(stop.restart.map(|restart| restart.count), Some(0));
    assert!(
        stop.reason.contains("node gpu-2 is lost: worker train-2"),
        "{stop:?}"
    );
    cluster.stop(76 * MINUTE, &stop, &[2]);
    let start = cluster.order(76 * MINUTE + 10);
    assert!(start.run);
    cluster.start(76 * MINUTE + 10, &start, 4);
    assert_eq!(cluster.decide(76 * MINUTE + 11), []);
    assert_eq!(
        cluster.decide(80 * MINUTE),
        [],
        "the lost pod is none of its workers"
    );
    assert_eq!(cluster.decision().reason, "4 workers run");
}

#[test]
fn without_other_nodes_it_waits_and_names_the_lost_one_and_its_others_hold_nothing() {
    let mut cluster = Cluster::new(4, 4);
    lose_node(&mut cluster);
    let stop = cluster.order(76 * MINUTE);
    cluster.stop(76 * MINUTE, &stop, &[2]);
    set_job(&mut cluster.model, "next", 77 * MINUTE, job(77 * MINUTE, 3));
    let orders = decide(&mut cluster.model, at(77 * MINUTE)).job_orders;
    let next: Vec<_> = orders
        .iter()
        .map(|order| (&*order.job.name, order.run))
        .collect();
    assert_eq!(next, [("next", true)]);
    let reason = &cluster.decision().reason;
    assert!(reason.contains("node gpu-2 is lost"), "{reason}");
    assert!(reason.contains("3 of its 4 workers"), "{reason}");
    set_job(&mut cluster.model, "next", 78 * MINUTE, {
        let mut spec = job(77 * MINUTE, 3);
        spec.suspend = true;
        spec
    });
    decide(&mut cluster.model, at(78 * MINUTE));
    // the node is back, and its kubelet ends the pod
    set_node(&mut cluster.model, 2, 90 * MINUTE, false);
    cluster.fail(2, 90 * MINUTE);
    cluster.batch.active = 0;
    cluster.show_batch(90 * MINUTE);
    assert!(cluster.order(90 * MINUTE + 10).run);
}

#[test]
fn a_gang_with_a_lost_worker_that_is_suspended_and_resumed_starts_again() {
    let mut cluster = Cluster::new(4, 8);
    lose_node(&mut cluster);
    let mut spec = job(0, 4);
    spec.suspend = true;
    // before it is given up, so that nothing but the suspension stops it
    set_job(&mut cluster.model, "train", 75 * MINUTE, spec.clone());
    let stop = cluster.order(75 * MINUTE);
    assert_eq!(stop.restart, None);
    cluster.stop(75 * MINUTE, &stop, &[2]);
    assert_eq!(cluster.decide(120 * MINUTE), []);
    spec.suspend = false;
    set_job(&mut cluster.model, "train", 125 * MINUTE, spec);
    let start = cluster.order(125 * MINUTE);
    assert_eq!((start.run, start.restarts), (true, 0));
    cluster.start(125 * MINUTE, &start, 4);
    assert_eq!(cluster.decide(125 * MINUTE + 1), []);
}

#[test]
fn a_worker_that_does_not_stop_on_a_node_that_is_ready_is_waited_for() {
    let mut cluster = Cluster::new(4, 8);
    cluster.change(2, 100, |pod| pod.deletion = Some(at(160)));
    for second in [460, 461, 3600] {
        assert_eq!(cluster.decide(second), []);
    }
    // until its node is lost
    set_node(&mut cluster.model, 2, 4000, true);
    assert_eq!(
        cluster.order(4000).restart.map(|restart| restart.count),
        Some(0)
    );
}
