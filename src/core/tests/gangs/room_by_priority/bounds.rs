//! How long and how far GPUs are taken back: what never leaves, what cannot start, what goes to others.

use super::*;

#[test]
fn a_pod_with_the_labels_of_a_gang_that_nobody_stops_holds_its_node_like_any_other() {
    for job in ["whole-1", "gone"] {
        let mut cluster = busy(2);
        run(&mut cluster, 20..50);
        cluster.suspend_gang("lab", "whole-1", 50);
        run(&mut cluster, 50..52);
        cluster.add_stray(("lab", job), "node-1", 8, 52);
        run(&mut cluster, 52..60);
        cluster.add_gang("prod", "urgent", &URGENT, 60);
        run(&mut cluster, 60..75);
        let stops = cluster.orders_of("lab", "whole-0");
        assert_eq!(stops, [true], "{job}: its grace is not over");
        run(&mut cluster, 75..95);
        let stops = cluster.orders_of("lab", "whole-0");
        assert_eq!(stops, [true, false], "{job}");
        assert!(cluster.complete("prod", "urgent").is_some());
    }
}

/// A pod that only looks like a worker is not among what a gang gives back.
#[test]
fn nobody_gives_way_for_room_that_a_stray_pod_would_keep() {
    let mut cluster = Cluster::new();
    cluster.names_jobs = true;
    cluster.add_node("node", 8, None, 0);
    let four = Gang { gpus: 4, ..SMALL };
    cluster.add_gang("lab", "half", &four, 0);
    run(&mut cluster, 0..10);
    cluster.add_stray(("lab", "half"), "node", 4, 10);
    run(&mut cluster, 10..50);
    cluster.add_gang("prod", "urgent", &URGENT, 50);
    run(&mut cluster, 50..200);
    assert_eq!(stopped(&cluster), [""; 0]);
}

#[test]
fn a_gang_that_found_no_node_before_keeps_nobody_from_gpus_for_ever() {
    for (namespace, priority) in [("prod", 10), ("prod", 5), ("other", 10), ("other", 5)] {
        let mut cluster = busy(1);
        cluster.unplaceable = Some("prod-stuck");
        run(&mut cluster, 10..100);
        cluster.add_gang("prod", "stuck", &URGENT, 100);
        run(&mut cluster, 100..1600);
        let tried = [true, false, true, false];
        assert_eq!(starts_and_stops(&cluster, "prod", "stuck"), tried);
        let behind = Gang {
            priority,
            cluster_priority: priority,
            ..URGENT
        };
        cluster.add_gang(namespace, "behind", &behind, 1600);
        run(&mut cluster, 1600..1660);
        let twice = [true, false, true, false, true];
        let stops = cluster.orders_of("lab", "whole-0");
        assert_eq!(stops, twice, "it is behind for a while");
        run(&mut cluster, 1660..2700);
        assert!(
            cluster.complete(namespace, "behind").is_some(),
            "{namespace}, {priority}: {}",
            cluster.reason(namespace, "behind")
        );
        let stops = starts_and_stops(&cluster, "lab", "whole-0");
        assert_eq!(stops, [&twice[..], &[false, true]].concat());
        assert_eq!(starts_and_stops(&cluster, "prod", "stuck"), tried);
    }
}

/// Also where the claimant's class counts nothing beside other namespaces: schedulers do not ask for that.
#[test]
fn pods_of_a_lower_priority_that_take_what_becomes_free_cost_no_second_gang() {
    let own = Gang {
        cluster_priority: 0,
        ..URGENT
    };
    let cases = [("prod", URGENT, 0), ("prod", URGENT, 20), ("lab", own, 20)];
    for (namespace, urgent, stop_seconds) in cases {
        let mut cluster = busy(3);
        run(&mut cluster, 30..90);
        cluster.stop_seconds = stop_seconds;
        cluster.add_waiting("notebook", 8, 0, 90);
        run(&mut cluster, 90..100);
        cluster.add_gang(namespace, "urgent", &urgent, 100);
        run(&mut cluster, 100..102);
        assert_eq!(stopped(&cluster), ["whole-2"], "they add nothing to it");
        run(&mut cluster, 102..3600);
        assert_eq!(cluster.node_of("notebook-0"), Some("node-2"));
        assert_eq!(stopped(&cluster), ["whole-2"]);
        // an hour later it may be otherwise
        run(&mut cluster, 3600..3780);
        assert_eq!(stopped(&cluster), ["whole-1", "whole-2"]);
        assert!(cluster.complete(namespace, "urgent").is_some());
    }
}

#[test]
fn what_a_higher_priority_takes_is_taken_back_again() {
    let mut cluster = busy(2);
    run(&mut cluster, 20..100);
    cluster.stop_seconds = 20;
    cluster.add_gang("prod", "urgent", &URGENT, 100);
    run(&mut cluster, 100..110);
    assert_eq!(stopped(&cluster), ["whole-1"]);
    cluster.add_waiting("notebook", 8, 10, 110);
    run(&mut cluster, 110..160);
    assert_eq!(cluster.node_of("notebook-0"), Some("node-1"));
    assert_eq!(stopped(&cluster), ["whole-0", "whole-1"]);
    assert!(cluster.complete("prod", "urgent").is_some());
}

#[test]
fn as_many_replicas_get_gpus_as_there_are_for_them() {
    let mut cluster = busy(2);
    run(&mut cluster, 20..100);
    cluster.add_node("taken", 8, None, 100);
    cluster.add_other("notebook", "taken", 8, 100);
    cluster.add_replicas(("prod", "chat"), 3, 8, 10, 100);
    run(&mut cluster, 100..130);
    assert_eq!(stopped(&cluster), ["whole-0", "whole-1"]);
    let nodes = [0, 1, 2].map(|number| cluster.node_of(&format!("prod-chat-{number}")).is_some());
    assert_eq!(nodes, [true, true, false]);
    // what the third one lacks is nobody's who gives way
    cluster.add_gang("lab", "late", &SMALL, 130);
    run(&mut cluster, 130..600);
    assert_eq!(stopped(&cluster), ["whole-0", "whole-1"]);
}

#[test]
fn an_order_to_stop_is_taken_back_when_the_replicas_for_which_it_was_given_are_gone() {
    let mut cluster = busy(1);
    run(&mut cluster, 10..100);
    cluster.loses_stops = true;
    cluster.add_service(("prod", "chat"), 8, 10, 100);
    run(&mut cluster, 100..104);
    let victim = decision(&cluster, "lab", "whole-0");
    assert_eq!(victim.limited_by, Some(LimitedBy::Preempted));
    cluster.delete_service("prod", "chat", 104);
    run(&mut cluster, 104..106);
    assert_eq!(cluster.orders_of("lab", "whole-0"), [true, true]);
    let victim = decision(&cluster, "lab", "whole-0");
    assert_eq!((victim.run, victim.limited_by), (true, None));
    run(&mut cluster, 106..200);
    assert_eq!(cluster.orders_of("lab", "whole-0"), [true, true]);
}

/// Also if it is due to be given again in the moment in which it becomes known.
#[test]
fn no_gang_is_told_to_give_way_to_what_waits_no_more() {
    let claim = |cluster: &mut Cluster, of_service| match of_service {
        true => cluster.add_service(("prod", "urgent"), 8, 10, 100),
        false => cluster.add_gang("prod", "urgent", &URGENT, 100),
    };
    for of_service in [true, false] {
        let mut told_again = 0;
        for (second, is_paused) in (102..140).flat_map(|second| [(second, false), (second, true)]) {
            if of_service && is_paused {
                continue;
            }
            let mut cluster = busy(1);
            run(&mut cluster, 10..100);
            cluster.loses_stops = true;
            claim(&mut cluster, of_service);
            run(&mut cluster, 100..second);
            let told = cluster.lost_stops_of("lab", "whole-0");
            told_again = told_again.max(told);
            match (of_service, is_paused) {
                (true, _) => cluster.delete_service("prod", "urgent", second),
                (false, true) => cluster.pause_gang("prod", "urgent", second),
                (false, false) => cluster.delete_gang("prod", "urgent", second),
            }
            cluster.step(second);
            let case = (of_service, is_paused, second);
            assert_eq!(cluster.lost_stops_of("lab", "whole-0"), told, "{case:?}");
        }
        assert!(told_again > 1, "no order was given again");
    }
}

/// One whose class does not count beside other namespaces is ahead of it within its own, and takes its place in
/// the cluster down.
#[test]
fn a_gang_gives_way_to_one_that_stands_behind_another_of_its_namespace() {
    let mut cluster = Cluster::new();
    cluster.add_node("node", 8, Some("a"), 0);
    let of = |pool, priority, cluster_priority| Gang {
        gpus: 8,
        pool: Some(pool),
        priority,
        cluster_priority,
        ..SMALL
    };
    cluster.add_gang("team", "low", &of("a", 0, 0), 0);
    run(&mut cluster, 0..50);
    cluster.add_gang("team", "first", &of("b", 100, 0), 50);
    run(&mut cluster, 50..60);
    cluster.add_gang("team", "second", &of("a", 50, 50), 60);
    run(&mut cluster, 60..90);
    assert_eq!(starts_and_stops(&cluster, "team", "low"), [true, false]);
    assert!(cluster.complete("team", "second").is_some());
}

#[test]
fn an_order_to_stop_is_taken_back_when_its_claimant_finds_room_elsewhere() {
    let mut cluster = busy(1);
    run(&mut cluster, 10..100);
    cluster.loses_stops = true;
    cluster.add_gang("prod", "urgent", &URGENT, 100);
    run(&mut cluster, 100..104);
    cluster.add_node("new", 8, None, 104);
    run(&mut cluster, 104..106);
    assert!(cluster.complete("prod", "urgent").is_some());
    assert_eq!(cluster.orders_of("lab", "whole-0"), [true, true]);
    cluster.loses_stops = false;
    run(&mut cluster, 106..200);
    assert_eq!(cluster.orders_of("lab", "whole-0"), [true, true]);
}

#[test]
fn for_a_gang_without_gpus_only_gangs_without_gpus_give_way() {
    let of_cpus = |gpus, cpus, priority| Gang {
        gpus,
        cpus,
        priority,
        cluster_priority: priority,
        ..SMALL
    };
    for has_other in [true, false] {
        let mut cluster = Cluster::new();
        cluster.add_node("node", 8, None, 0);
        cluster.add_cpus("node", 8, 0);
        // it ranks above the one with GPUs, and has run for longer
        if has_other {
            cluster.add_gang("lab", "cpus", &of_cpus(0, 4, 5), 0);
        }
        run(&mut cluster, 0..50);
        let rest = if has_other { 4 } else { 8 };
        cluster.add_gang("lab", "gpus", &of_cpus(8, rest, 0), 50);
        run(&mut cluster, 50..60);
        cluster.stop_seconds = 5;
        cluster.add_gang("prod", "urgent", &of_cpus(0, 4, 10), 60);
        run(&mut cluster, 60..61);
        if has_other {
            let why =
                "gives way to a job of another namespace, of priority 10, which waits for a node";
            assert_eq!(cluster.reason("lab", "cpus"), why);
        }
        run(&mut cluster, 61..80);
        assert_eq!(stopped(&cluster).contains(&"cpus"), has_other);
        assert!(!stopped(&cluster).contains(&"gpus"));
        assert_eq!(cluster.complete("prod", "urgent").is_some(), has_other);
    }
}

/// A quota was raised, or the scheduler was down for a while.
#[test]
fn one_try_that_failed_costs_a_gang_no_place_and_it_has_another_one() {
    let mut cluster = busy(1);
    run(&mut cluster, 10..100);
    cluster.add_gang("prod", "urgent", &URGENT, 100);
    cluster.take_back_refused("prod", "urgent", 100);
    let later = Gang {
        priority: 5,
        cluster_priority: 5,
        ..URGENT
    };
    cluster.add_gang("prod", "later", &later, 100);
    run(&mut cluster, 100..1000);
    assert_eq!(stopped(&cluster), [""; 0]);
    run(&mut cluster, 1000..1300);
    let (first, second) = ["urgent", "later"]
        .map(|name| cluster.complete("prod", name))
        .into();
    assert!(first.is_some() && first < second, "{first:?}, {second:?}");
}

#[test]
fn no_gpus_are_taken_back_for_a_gang_whose_pods_the_cluster_refused() {
    for is_refused in [true, false] {
        let mut cluster = busy(1);
        run(&mut cluster, 10..100);
        cluster.add_gang("prod", "urgent", &URGENT, 100);
        if is_refused {
            cluster.take_back_refused("prod", "urgent", 100);
        }
        run(&mut cluster, 100..800);
        assert_eq!(stopped(&cluster).is_empty(), is_refused);
    }
}

#[test]
fn for_replicas_that_have_had_their_time_nothing_is_taken_beside_new_ones() {
    let mut cluster = busy(2);
    cluster.unplaceable = Some("prod-chat");
    let node_start = SignedDuration::from_mins(10);
    let event = Event::NodeStart(Some(node_start));
    cluster.model.apply(event, at(20));
    run(&mut cluster, 20..100);
    cluster.add_service(("prod", "chat"), 8, 10, 100);
    run(&mut cluster, 100..500);
    cluster.add_replica("prod", "chat", 500);
    run(&mut cluster, 500..690);
    assert_eq!(stopped(&cluster), [""; 0], "nodes may be made for it");
    run(&mut cluster, 690..1090);
    assert_eq!(stopped(&cluster), ["whole-1"]);
    let stops = |cluster: &Cluster| {
        let orders = ["whole-0", "whole-1"].map(|name| cluster.orders_of("lab", name));
        let stops = orders.map(|orders| orders.iter().filter(|run| !**run).count());
        stops.iter().sum::<usize>()
    };
    assert_eq!(stops(&cluster), 1);
    run(&mut cluster, 1090..1400);
    assert_eq!(stops(&cluster), 2, "one for each of them");
}

#[test]
fn a_gang_of_which_the_cluster_takes_a_worker_away_gives_way_first() {
    let mut cluster = busy(2);
    run(&mut cluster, 20..100);
    cluster.evict_worker("lab", "whole-0", 100);
    cluster.add_gang("prod", "urgent", &URGENT, 100);
    run(&mut cluster, 100..103);
    assert_eq!(stopped(&cluster), ["whole-0"], "`whole-1` has done less");
}

#[test]
fn what_stops_within_a_minute_gives_way_before_what_takes_longer() {
    for (seconds, expected) in [(119, "whole-0"), (59, "whole-1")] {
        let mut cluster = busy(2);
        cluster.set_grace("lab", "whole-1", seconds, 20);
        run(&mut cluster, 20..100);
        cluster.add_gang("prod", "urgent", &URGENT, 100);
        run(&mut cluster, 100..103);
        assert_eq!(stopped(&cluster), [expected], "{seconds}");
    }
}

#[test]
fn behind_32_claims_that_nobody_can_serve_nobody_gives_way() {
    for (number, preemption_allowed) in [(31, true), (32, false)] {
        let mut cluster = busy(1);
        run(&mut cluster, 10..100);
        // no node has room for these, whoever gives way
        for nth in 0..number {
            let name = format!("wide-{nth:02}");
            cluster.add_service(("big", &name), 8, 20, 100);
        }
        cluster.add_node("other", 8, None, 100);
        cluster.add_other("notebook", "other", 8, 100);
        cluster.cordon("node-0", true, 100);
        cluster.add_node("small", 4, None, 100);
        let four = Gang { gpus: 4, ..SMALL };
        cluster.add_gang("lab", "half", &four, 100);
        run(&mut cluster, 100..102);
        cluster.add_service(("prod", "chat"), 4, 10, 102);
        run(&mut cluster, 102..120);
        assert_eq!(
            stopped(&cluster).contains(&"half"),
            preemption_allowed,
            "{number}"
        );
    }
}
