//! Gangs on clusters whose nodes follow the pods that wait.

use bursar_core::model::event::Event;
use jiff::SignedDuration;

use crate::cluster::{Cluster, Gang, Pool, at};

const POOL: &str = "gpu-from-zero";
/// How long a node may take to start, in seconds.
const NODE_START: i64 = 900;

/// Two workers that take a whole node of the pool each.
const PRETRAIN: Gang = Gang {
    workers: 2,
    gpus: 8,
    cpus: 0,
    priority: 0,
    cluster_priority: 0,
    pool: Some(POOL),
    seconds: 100_000,
    preemption_allowed: true,
};

/// A cluster with a node autoscaler that makes so many nodes, and so many that exist.
fn cluster(nodes: usize, most: usize) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.pool = Some(Pool {
        gpus: 8,
        label: POOL,
        boot_seconds: 300,
        most,
    });
    for number in 0..nodes {
        cluster.add_node(&format!("node-{number}"), 8, Some(POOL), 0);
    }
    let node_start = SignedDuration::from_secs(NODE_START);
    cluster
        .model
        .apply(Event::NodeStart(Some(node_start)), at(0));
    cluster
}

fn run(cluster: &mut Cluster, seconds: std::ops::Range<i64>) {
    for second in seconds {
        cluster.step(second);
    }
}

#[test]
fn a_gang_for_which_no_node_exists_yet_runs_in_its_first_attempt() {
    for nodes in [0, 1] {
        let mut cluster = cluster(nodes, 2);
        cluster.add_gang("lab", "pretrain", &PRETRAIN, 0);
        run(&mut cluster, 0..30);
        let reason = cluster.reason("lab", "pretrain").to_owned();
        assert!(reason.contains("a node autoscaler"), "{reason}");
        run(&mut cluster, 30..361);
        let complete = cluster.complete("lab", "pretrain");
        assert!(complete.is_some_and(|second| second <= 360), "{complete:?}");
        let orders: Vec<_> = cluster.orders.values().flatten().collect();
        assert_eq!(orders, [&true], "{nodes} nodes");
        run(&mut cluster, 361..380);
        assert_eq!(cluster.reason("lab", "pretrain"), "2 workers run");
    }
}

#[test]
fn a_gang_for_which_no_node_comes_is_taken_back_whole_and_tries_again() {
    let mut cluster = cluster(1, 0);
    cluster.add_gang("lab", "pretrain", &PRETRAIN, 0);
    let orders = |cluster: &Cluster| {
        cluster
            .orders
            .values()
            .flatten()
            .copied()
            .collect::<Vec<_>>()
    };
    run(&mut cluster, 0..NODE_START);
    assert_eq!(orders(&cluster), [true]);
    // each wait is lengthened by a part of its own
    run(&mut cluster, NODE_START..NODE_START + 5);
    assert_eq!(orders(&cluster), [true, false]);
    run(&mut cluster, NODE_START + 5..NODE_START + 30);
    assert_eq!(orders(&cluster), [true, false], "it backs off");
    run(&mut cluster, NODE_START + 30..NODE_START + 50);
    assert_eq!(orders(&cluster), [true, false, true]);
}

#[test]
fn a_gang_that_waits_for_nodes_holds_nobody_up_on_those_that_exist() {
    let mut cluster = cluster(0, 0);
    cluster.add_node("other", 8, None, 0);
    cluster.add_gang("lab", "pretrain", &PRETRAIN, 0);
    run(&mut cluster, 0..10);
    let small = Gang {
        workers: 8,
        gpus: 1,
        pool: None,
        ..PRETRAIN
    };
    cluster.add_gang("lab", "small", &small, 10);
    run(&mut cluster, 10..20);
    assert_eq!(cluster.complete("lab", "small"), Some(10));
}

#[test]
fn a_gang_that_was_taken_back_waits_for_nodes_that_exist_before_new_ones() {
    let mut cluster = cluster(2, 0);
    let long = Gang {
        workers: 1,
        seconds: 1500,
        ..PRETRAIN
    };
    cluster.add_gang("lab", "long", &long, 0);
    run(&mut cluster, 0..1);
    cluster.add_gang("lab", "pretrain", &PRETRAIN, 1);
    let taken_back = NODE_START + 5;
    run(&mut cluster, 1..taken_back);
    let orders = |cluster: &Cluster| {
        let orders = cluster.orders.iter();
        let ours = orders.filter(|(key, _)| &*key.name == "pretrain");
        ours.flat_map(|(_, orders)| orders.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(orders(&cluster), [true, false]);
    // in back-off it holds nobody up, and afterwards small jobs take none of its room
    run(&mut cluster, taken_back..taken_back + 60);
    let small = Gang {
        workers: 1,
        gpus: 1,
        ..PRETRAIN
    };
    cluster.add_gang("lab", "small", &small, taken_back + 60);
    run(&mut cluster, taken_back + 60..1499);
    assert_eq!(orders(&cluster), [true, false]);
    assert_eq!(cluster.complete("lab", "small"), None);
    run(&mut cluster, 1499..1510);
    assert!(cluster.complete("lab", "pretrain").is_some());
}

#[test]
fn a_new_leader_takes_no_gang_back_before_it_knows_whether_nodes_are_made() {
    let lead = |knows: bool| {
        let mut cluster = cluster(1, 0);
        cluster.add_gang("lab", "pretrain", &PRETRAIN, 0);
        run(&mut cluster, 0..250);
        cluster.change_leader(250);
        if !knows {
            cluster.model = cluster.model.clone().awaiting_node_start();
        }
        run(&mut cluster, 250..300);
        cluster
    };
    // where none are made, one of its workers has waited for too long
    assert_eq!(lead(true).orders_of("lab", "pretrain"), [true, false]);
    for node_start in [Some(SignedDuration::from_secs(NODE_START)), None] {
        let mut cluster = lead(false);
        assert_eq!(cluster.orders_of("lab", "pretrain"), [true]);
        let reason = cluster.reason("lab", "pretrain");
        assert!(reason.contains("is not known yet"), "{reason}");
        cluster.model.apply(Event::NodeStart(node_start), at(300));
        run(&mut cluster, 300..302);
        let is_taken_back = cluster.orders_of("lab", "pretrain") == [true, false];
        assert_eq!(is_taken_back, node_start.is_none());
    }
}
