//! GPUs that are taken back for a higher priority.

mod bounds;

use bursar_core::model::event::Event;
use bursar_core::plan::LimitedBy;
use bursar_core::training::JobDecision;
use jiff::SignedDuration;

use crate::cluster::{Cluster, Gang, Pool, at};

/// One GPU for a long time.
const SMALL: Gang = Gang {
    workers: 1,
    gpus: 1,
    cpus: 0,
    priority: 0,
    cluster_priority: 0,
    pool: None,
    seconds: 100_000,
    preemption_allowed: true,
};
/// All GPUs of a node, for a minute.
const URGENT: Gang = Gang {
    workers: 1,
    gpus: 8,
    cpus: 0,
    priority: 10,
    cluster_priority: 10,
    seconds: 60,
    ..SMALL
};

fn run(cluster: &mut Cluster, seconds: std::ops::Range<i64>) {
    for second in seconds {
        cluster.step(second);
    }
}

/// So many nodes of eight GPUs, of which each has a job of `lab` that takes all of it. They have started
/// ten seconds after each other.
fn busy(nodes: usize) -> Cluster {
    let mut cluster = Cluster::new();
    for number in 0..nodes {
        cluster.add_node(&format!("node-{number}"), 8, None, 0);
    }
    for number in 0..nodes {
        let start = number as i64 * 10;
        let whole = Gang { gpus: 8, ..SMALL };
        cluster.add_gang("lab", &format!("whole-{number}"), &whole, start);
        run(&mut cluster, start..start + 10);
    }
    cluster
}

/// The jobs of `lab` that were told to stop, in the order of their names.
fn stopped(cluster: &Cluster) -> Vec<&str> {
    let orders = cluster.orders.iter();
    let is_stopped = |orders: &[bool]| orders.windows(2).any(|pair| pair == [true, false]);
    let stopped = orders.filter(|(key, orders)| &*key.namespace == "lab" && is_stopped(orders));
    stopped.map(|(key, _)| &*key.name).collect()
}

/// What a job was told since it first ran.
fn starts_and_stops<'a>(cluster: &'a Cluster, namespace: &str, name: &str) -> &'a [bool] {
    let orders = cluster.orders_of(namespace, name);
    let first = orders.iter().position(|run| *run).unwrap_or(0);
    &orders[first..]
}

fn decision<'a>(cluster: &'a Cluster, namespace: &str, name: &str) -> &'a JobDecision {
    let mut decisions = cluster.decisions.iter();
    let found = decisions.find(|(key, _)| &*key.namespace == namespace && &*key.name == name);
    found.unwrap().1
}

#[test]
fn a_gang_of_a_lower_priority_gives_its_gpus_back_and_starts_again_afterwards() {
    let mut cluster = busy(1);
    cluster.stop_seconds = 20;
    cluster.add_gang("prod", "urgent", &URGENT, 100);
    run(&mut cluster, 100..101);
    let victim = decision(&cluster, "lab", "whole-0");
    assert_eq!(victim.limited_by, Some(LimitedBy::Preempted));
    let why = "gives way to a job of another namespace, of priority 10, which waits for GPUs";
    assert_eq!(victim.reason, why);
    run(&mut cluster, 101..125);
    assert_eq!(cluster.complete("prod", "urgent"), Some(121));
    run(&mut cluster, 125..300);
    assert_eq!(cluster.orders_of("lab", "whole-0"), [true, false, true]);
    assert_eq!(starts_and_stops(&cluster, "prod", "urgent"), [true]);
    assert_eq!(cluster.running("lab"), 1, "it runs again");
}

#[test]
fn in_its_own_namespace_the_claimant_is_named() {
    let mut cluster = busy(1);
    cluster.stop_seconds = 20;
    cluster.add_gang("lab", "urgent", &URGENT, 100);
    run(&mut cluster, 100..101);
    let why = "gives way to job urgent, which has a higher priority and waits for GPUs";
    assert_eq!(cluster.reason("lab", "whole-0"), why);
}

/// What a job of `prod` is, and what that which runs is, so that nobody is suspended.
#[test]
fn nobody_gives_way_within_a_class_or_where_it_never_does() {
    let never = Gang {
        preemption_allowed: false,
        ..SMALL
    };
    // a class that the installation does not allow counts within its namespace only
    let not_allowed = Gang {
        cluster_priority: 0,
        ..URGENT
    };
    let of_same_class = Gang {
        priority: 10,
        cluster_priority: 10,
        ..SMALL
    };
    for (low, high) in [
        (&never, &URGENT),
        (&SMALL, &not_allowed),
        (&of_same_class, &URGENT),
    ] {
        let mut cluster = Cluster::new();
        cluster.add_node("node", 8, None, 0);
        let whole = Gang {
            gpus: 8,
            ..low.clone()
        };
        cluster.add_gang("lab", "whole", &whole, 0);
        run(&mut cluster, 0..10);
        cluster.add_gang("prod", "urgent", high, 10);
        run(&mut cluster, 10..200);
        assert_eq!(stopped(&cluster), [""; 0]);
    }
}

#[test]
fn nobody_gives_way_who_is_paused() {
    let mut cluster = busy(1);
    cluster.pause_gang("lab", "whole-0", 50);
    cluster.add_gang("prod", "urgent", &URGENT, 100);
    run(&mut cluster, 50..200);
    assert_eq!(stopped(&cluster), [""; 0]);
}

#[test]
fn the_lowest_priority_gives_way_first_and_then_what_has_run_for_the_fewest_gpu_seconds() {
    let mut cluster = busy(3);
    cluster.add_node("more", 8, None, 30);
    // it has done the least work, and ranks above the others
    let above = Gang {
        gpus: 8,
        priority: 1,
        cluster_priority: 1,
        ..SMALL
    };
    cluster.add_gang("lab", "above", &above, 40);
    run(&mut cluster, 30..50);
    cluster.add_gang("prod", "urgent", &URGENT, 100);
    run(&mut cluster, 50..150);
    assert_eq!(stopped(&cluster), ["whole-2"]);
}

#[test]
fn one_gang_that_is_enough_gives_way_and_not_many_that_are_smaller() {
    let mut cluster = Cluster::new();
    cluster.add_node("a", 8, None, 0);
    (0..8).for_each(|number| cluster.add_gang("lab", &format!("small-{number}"), &SMALL, 0));
    run(&mut cluster, 0..100);
    cluster.add_node("b", 8, None, 100);
    let whole = Gang { gpus: 8, ..SMALL };
    cluster.add_gang("lab", "whole", &whole, 100);
    run(&mut cluster, 100..110);
    cluster.add_gang("prod", "urgent", &URGENT, 110);
    run(&mut cluster, 110..130);
    assert_eq!(stopped(&cluster), ["whole"]);
}

#[test]
fn no_gang_gives_way_that_is_not_needed() {
    let mut cluster = Cluster::new();
    cluster.add_node("a", 8, None, 0);
    cluster.add_node("b", 8, None, 0);
    // nine GPUs of small ones: one of them is on the other node
    for number in 0..9 {
        cluster.add_gang("lab", &format!("small-{number}"), &SMALL, number);
        run(&mut cluster, number..number + 1);
    }
    run(&mut cluster, 9..20);
    let rest = Gang {
        gpus: 7,
        priority: 10,
        cluster_priority: 10,
        ..SMALL
    };
    cluster.add_gang("prod", "rest", &rest, 20);
    run(&mut cluster, 20..30);
    let four = Gang { gpus: 4, ..URGENT };
    cluster.add_gang("prod", "urgent", &four, 30);
    run(&mut cluster, 30..60);
    let youngest = ["small-4", "small-5", "small-6", "small-7"];
    assert_eq!(
        stopped(&cluster),
        youngest,
        "`small-8` is on the other node"
    );
    assert!(cluster.complete("prod", "urgent").is_some());
}

#[test]
fn nobody_gives_way_where_that_is_not_enough() {
    let mut cluster = Cluster::new();
    cluster.add_node("node", 8, None, 0);
    let equal = Gang {
        priority: 10,
        cluster_priority: 10,
        ..SMALL
    };
    cluster.add_gang("prod", "equal", &equal, 0);
    (0..7).for_each(|number| cluster.add_gang("lab", &format!("small-{number}"), &SMALL, 0));
    run(&mut cluster, 0..10);
    cluster.add_gang("prod", "urgent", &URGENT, 10);
    run(&mut cluster, 10..100);
    assert_eq!(stopped(&cluster), [""; 0]);
    // once the equal one has gone, it is
    cluster.delete_gang("prod", "equal", 100);
    run(&mut cluster, 100..120);
    assert_eq!(stopped(&cluster).len(), 7);
}

#[test]
fn nobody_gives_way_on_nodes_of_no_use() {
    let mut cluster = Cluster::new();
    cluster.add_node("t4", 8, Some("t4"), 0);
    let whole = Gang { gpus: 8, ..SMALL };
    cluster.add_gang("lab", "whole", &whole, 0);
    run(&mut cluster, 0..10);
    cluster.add_node("h100", 8, Some("h100"), 10);
    let equal = Gang {
        pool: Some("h100"),
        seconds: 1000,
        ..URGENT
    };
    cluster.add_gang("prod", "equal", &equal, 10);
    run(&mut cluster, 10..20);
    let urgent = Gang {
        pool: Some("h100"),
        ..URGENT
    };
    cluster.add_gang("prod", "urgent", &urgent, 20);
    run(&mut cluster, 20..100);
    assert_eq!(stopped(&cluster), [""; 0]);
    // a cordoned node takes nobody, whoever leaves it
    let mut cluster = busy(2);
    cluster.cordon("node-1", true, 30);
    cluster.add_gang("prod", "urgent", &URGENT, 40);
    run(&mut cluster, 30..60);
    assert_eq!(stopped(&cluster), ["whole-0"], "`whole-1` has done less");
}

#[test]
fn a_gang_that_is_starting_gives_way_too() {
    let mut cluster = Cluster::new();
    cluster.unplaceable = Some("lab-whole");
    cluster.add_node("node", 8, None, 0);
    let whole = Gang { gpus: 8, ..SMALL };
    cluster.add_gang("lab", "whole", &whole, 0);
    run(&mut cluster, 0..10);
    assert_eq!(cluster.orders_of("lab", "whole"), [true]);
    cluster.add_gang("prod", "urgent", &URGENT, 10);
    run(&mut cluster, 10..12);
    assert_eq!(cluster.complete("prod", "urgent"), Some(10));
}

#[test]
fn while_one_stops_for_an_hour_no_other_is_taken_not_by_a_new_leader_either() {
    let mut cluster = busy(2);
    cluster.stop_seconds = 3600;
    run(&mut cluster, 20..100);
    cluster.add_gang("prod", "urgent", &URGENT, 100);
    run(&mut cluster, 100..200);
    assert_eq!(stopped(&cluster), ["whole-1"]);
    cluster.change_leader(200);
    run(&mut cluster, 200..1000);
    cluster.change_leader(1000);
    run(&mut cluster, 1000..3800);
    assert_eq!(stopped(&cluster), ["whole-1"]);
    assert_eq!(cluster.complete("prod", "urgent"), Some(3701));
    run(&mut cluster, 3800..3900);
    assert_eq!(cluster.orders_of("lab", "whole-1"), [true, false, true]);
}

#[test]
fn a_gang_that_never_stops_is_waited_for_no_longer_than_its_grace_and_five_minutes() {
    let mut cluster = busy(2);
    cluster.stop_seconds = 600;
    run(&mut cluster, 20..100);
    cluster.add_gang("prod", "urgent", &URGENT, 100);
    run(&mut cluster, 100..101);
    assert_eq!(stopped(&cluster), ["whole-1"]);
    cluster.hang("lab", "whole-1");
    run(&mut cluster, 101..999);
    assert_eq!(stopped(&cluster), ["whole-1"]);
    run(&mut cluster, 999..1015);
    assert_eq!(stopped(&cluster), ["whole-0", "whole-1"]);
}

#[test]
fn what_becomes_free_is_kept_for_the_one_it_was_taken_for() {
    let mut cluster = Cluster::new();
    cluster.add_node("node", 8, None, 0);
    for (number, seconds) in [(0, 100_000), (1, 130)] {
        let half = Gang {
            gpus: 4,
            seconds,
            ..SMALL
        };
        cluster.add_gang("lab", &format!("half-{number}"), &half, 0);
    }
    run(&mut cluster, 0..10);
    cluster.stop_seconds = 60;
    run(&mut cluster, 10..100);
    cluster.add_gang("lab", "small", &SMALL, 90);
    cluster.add_gang("prod", "urgent", &URGENT, 100);
    run(&mut cluster, 100..101);
    assert_eq!(stopped(&cluster), ["half-0", "half-1"]);
    // four GPUs are free ten seconds before the others
    cluster.end_at("lab", "half-0", 150);
    run(&mut cluster, 101..160);
    assert!(!cluster.orders_of("lab", "small").contains(&true));
    run(&mut cluster, 160..165);
    assert_eq!(cluster.complete("prod", "urgent"), Some(161));
}

#[test]
fn once_the_claimant_is_gone_what_was_stopped_starts_again() {
    let mut cluster = busy(1);
    cluster.stop_seconds = 60;
    run(&mut cluster, 10..100);
    cluster.add_gang("prod", "urgent", &URGENT, 100);
    run(&mut cluster, 100..110);
    cluster.delete_gang("prod", "urgent", 110);
    run(&mut cluster, 110..165);
    assert_eq!(cluster.orders_of("lab", "whole-0"), [true, false, true]);
    assert_eq!(cluster.running("lab"), 1);
}

#[test]
fn a_gang_that_found_no_node_in_the_room_of_others_takes_it_once_more() {
    let mut cluster = busy(1);
    cluster.unplaceable = Some("prod-urgent");
    run(&mut cluster, 10..100);
    cluster.add_gang("prod", "urgent", &URGENT, 100);
    run(&mut cluster, 100..1000);
    let once = [true, false, true];
    assert_eq!(cluster.orders_of("lab", "whole-0"), once);
    assert_eq!(starts_and_stops(&cluster, "prod", "urgent"), &once[..2]);
    run(&mut cluster, 1000..7200);
    let twice = [true, false, true, false, true];
    assert_eq!(cluster.orders_of("lab", "whole-0"), twice);
    assert_eq!(starts_and_stops(&cluster, "prod", "urgent"), &twice[..4]);
    assert_eq!(cluster.running("lab"), 1);
}

#[test]
fn where_nodes_follow_pods_a_gang_waits_for_those_first() {
    let mut cluster = busy(1);
    cluster.pool = Some(Pool {
        gpus: 8,
        label: "none",
        boot_seconds: 300,
        most: 0,
    });
    let node_start = SignedDuration::from_secs(900);
    let event = Event::NodeStart(Some(node_start));
    cluster.model.apply(event, at(10));
    run(&mut cluster, 10..100);
    cluster.add_gang("prod", "urgent", &URGENT, 100);
    run(&mut cluster, 100..1000);
    assert_eq!(stopped(&cluster), [""; 0]);
    assert_eq!(starts_and_stops(&cluster, "prod", "urgent"), [true]);
    // it is taken back, and backs off for half a minute
    run(&mut cluster, 1000..1100);
    assert_eq!(
        starts_and_stops(&cluster, "prod", "urgent"),
        [true, false, true]
    );
    assert_eq!(stopped(&cluster), ["whole-0"]);
    assert!(cluster.complete("prod", "urgent").is_some());
}

#[test]
fn a_replica_for_which_the_scheduler_finds_no_node_gets_the_gpus_of_a_lower_priority() {
    for (priority, preemption_allowed) in [(10, true), (0, false)] {
        let mut cluster = busy(1);
        cluster.stop_seconds = 20;
        run(&mut cluster, 10..100);
        cluster.add_gang("lab", "small", &SMALL, 90);
        cluster.add_service(("prod", "chat"), 8, priority, 100);
        run(&mut cluster, 100..102);
        assert_eq!(stopped(&cluster).is_empty(), !preemption_allowed);
        run(&mut cluster, 102..200);
        assert_eq!(cluster.node_of("prod-chat-0").is_some(), preemption_allowed);
        assert!(!cluster.orders_of("lab", "small").contains(&true));
        if preemption_allowed {
            let orders = cluster.orders_of("lab", "whole-0");
            assert_eq!(orders, [true, false], "the replica has its node now");
        }
    }
}

/// The installation allows no class beside other namespaces.
#[test]
fn within_a_namespace_a_class_counts_that_is_not_allowed_beside_others() {
    let mut cluster = busy(1);
    cluster.stop_seconds = 20;
    let urgent = Gang {
        cluster_priority: 0,
        ..URGENT
    };
    cluster.add_gang("lab", "urgent", &urgent, 100);
    run(&mut cluster, 100..300);
    assert_eq!(cluster.complete("lab", "urgent"), Some(121));
    assert_eq!(cluster.orders_of("lab", "whole-0"), [true, false, true]);
    for (namespace, preemption_allowed) in [("lab", true), ("prod", false)] {
        let mut cluster = busy(1);
        cluster.stop_seconds = 20;
        run(&mut cluster, 10..100);
        cluster.add_service((namespace, "chat"), 8, 10, 100);
        cluster.set_cluster_priority((namespace, "chat"), 0, 100);
        run(&mut cluster, 100..400);
        let replica = format!("{namespace}-chat-0");
        assert_eq!(cluster.node_of(&replica).is_some(), preemption_allowed);
        assert_eq!(stopped(&cluster).is_empty(), !preemption_allowed);
        if preemption_allowed {
            let orders = cluster.orders_of("lab", "whole-0");
            assert_eq!(orders, [true, false], "the replica has its node now");
        }
    }
}

#[test]
fn nodes_are_kept_for_a_replica_for_as_long_as_those_that_give_way_take_to_stop() {
    let mut cluster = Cluster::new();
    cluster.add_node("node", 8, None, 0);
    for number in 0..2 {
        let half = Gang { gpus: 4, ..SMALL };
        cluster.add_gang("lab", &format!("half-{number}"), &half, 0);
    }
    run(&mut cluster, 0..10);
    cluster.stop_seconds = 1800;
    run(&mut cluster, 10..100);
    cluster.add_gang("lab", "small", &SMALL, 90);
    cluster.add_service(("prod", "chat"), 8, 10, 100);
    run(&mut cluster, 100..600);
    cluster.end_at("lab", "half-0", 600);
    run(&mut cluster, 600..700);
    // a new leader finds the same from what it sees
    cluster.change_leader(700);
    run(&mut cluster, 700..1950);
    assert!(!cluster.orders_of("lab", "small").contains(&true));
    assert!(cluster.node_of("prod-chat-0").is_some());
    assert_eq!(stopped(&cluster), ["half-0", "half-1"]);
}

#[test]
fn a_replica_that_the_scheduler_refuses_for_another_reason_takes_gpus_once() {
    let mut cluster = busy(1);
    cluster.unplaceable = Some("prod-chat");
    run(&mut cluster, 10..100);
    cluster.add_service(("prod", "chat"), 8, 10, 100);
    run(&mut cluster, 100..7200);
    assert_eq!(cluster.orders_of("lab", "whole-0"), [true, false, true]);
    assert_eq!(cluster.running("lab"), 1);
}

#[test]
fn of_two_claimants_each_gets_what_it_needs_and_no_gang_gives_way_twice() {
    let mut cluster = busy(3);
    cluster.stop_seconds = 20;
    run(&mut cluster, 30..100);
    for name in ["first", "second"] {
        cluster.add_gang("prod", name, &URGENT, 100);
    }
    run(&mut cluster, 100..110);
    assert_eq!(stopped(&cluster), ["whole-2"], "one gang after the other");
    run(&mut cluster, 110..400);
    assert!(cluster.complete("prod", "first").is_some());
    assert!(cluster.complete("prod", "second").is_some());
    run(&mut cluster, 400..500);
    assert_eq!(cluster.running("lab"), 3);
    let orders = ["whole-0", "whole-1", "whole-2"].map(|name| cluster.orders_of("lab", name).len());
    assert!(orders.iter().all(|orders| *orders <= 3), "{orders:?}");
}

#[test]
fn what_was_not_told_yet_goes_on_once_the_claimant_is_gone() {
    let mut cluster = busy(1);
    run(&mut cluster, 10..100);
    cluster.loses_stops = true;
    cluster.add_gang("prod", "urgent", &URGENT, 100);
    run(&mut cluster, 100..105);
    let victim = decision(&cluster, "lab", "whole-0");
    assert_eq!(victim.limited_by, Some(LimitedBy::Preempted));
    cluster.delete_gang("prod", "urgent", 105);
    run(&mut cluster, 105..106);
    // the order is taken back, before anybody has carried it out
    assert_eq!(cluster.orders_of("lab", "whole-0"), [true, true]);
    assert_eq!(cluster.reason("lab", "whole-0"), "1 workers run");
    run(&mut cluster, 106..110);
    cluster.loses_stops = false;
    run(&mut cluster, 110..200);
    assert_eq!(cluster.orders_of("lab", "whole-0"), [true, true]);
    assert_eq!(cluster.reason("lab", "whole-0"), "1 workers run");
}

#[test]
fn an_order_that_got_lost_is_given_again_to_the_same_gang() {
    let mut cluster = busy(2);
    run(&mut cluster, 20..100);
    cluster.loses_stops = true;
    cluster.add_gang("prod", "urgent", &URGENT, 100);
    run(&mut cluster, 100..105);
    cluster.loses_stops = false;
    run(&mut cluster, 105..150);
    assert_eq!(stopped(&cluster), ["whole-1"]);
    assert!(cluster.complete("prod", "urgent").is_some());
}

#[test]
fn nobody_gives_way_to_a_gang_that_its_own_namespace_holds_up() {
    let mut cluster = busy(1);
    cluster.add_node("second", 1, None, 10);
    cluster.add_other("notebook", "second", 1, 10);
    run(&mut cluster, 10..100);
    // it waits for the notebook, which may stay for ever, and for the other node
    let first = Gang {
        workers: 9,
        gpus: 1,
        priority: 20,
        cluster_priority: 20,
        ..URGENT
    };
    cluster.add_gang("prod", "first", &first, 100);
    cluster.add_gang("prod", "urgent", &URGENT, 100);
    run(&mut cluster, 100..200);
    assert_eq!(stopped(&cluster), [""; 0]);
    cluster.delete_gang("prod", "first", 200);
    run(&mut cluster, 200..220);
    assert_eq!(stopped(&cluster), ["whole-0"]);
}

#[test]
fn a_replica_and_a_gang_that_wait_for_one_node_both_get_their_part() {
    let mut cluster = Cluster::new();
    cluster.add_node("node", 8, None, 0);
    (0..8).for_each(|number| cluster.add_gang("lab", &format!("small-{number}"), &SMALL, 0));
    run(&mut cluster, 0..100);
    cluster.stop_seconds = 20;
    cluster.add_service(("prod", "chat"), 1, 10, 100);
    let seven = Gang { gpus: 7, ..URGENT };
    cluster.add_gang("prod", "urgent", &seven, 100);
    run(&mut cluster, 100..200);
    assert!(cluster.node_of("prod-chat-0").is_some());
    assert!(cluster.complete("prod", "urgent").is_some());
    assert_eq!(stopped(&cluster).len(), 8);
}

#[test]
fn a_node_that_is_lost_while_its_gang_stops_lets_another_give_way() {
    let mut cluster = busy(2);
    run(&mut cluster, 20..100);
    cluster.stop_seconds = 600;
    cluster.add_gang("prod", "urgent", &URGENT, 100);
    run(&mut cluster, 100..110);
    assert_eq!(stopped(&cluster), ["whole-1"]);
    cluster.cordon("node-1", true, 110);
    run(&mut cluster, 110..125);
    assert_eq!(stopped(&cluster), ["whole-0", "whole-1"]);
}
