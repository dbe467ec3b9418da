//! Gangs of several namespaces that wait for the same nodes.

use bursar_core::budget::OnExhausted;
use bursar_core::calendar::Period;
use bursar_core::model::Key;
use bursar_core::model::event::{Budget, Event};
use bursar_core::pricing::{DatedPriceList, GpuPrice, PriceCatalog, PriceList, PriceScope};
use jiff::{SignedDuration, Timestamp};

use crate::cluster::{Cluster, GPU, Gang, at};

/// One GPU for ten minutes, which it gives to nobody.
const SMALL: Gang = Gang {
    workers: 1,
    gpus: 1,
    cpus: 0,
    priority: 0,
    cluster_priority: 0,
    pool: None,
    seconds: 600,
    preemption_allowed: false,
};
/// All GPUs of the node.
const LARGE: Gang = Gang {
    workers: 8,
    seconds: 60,
    ..SMALL
};

/// A node of eight GPUs on which jobs of `b` run, two of which end every 150 seconds.
fn busy_cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.add_node("node", 8, None, 0);
    for number in 0..8 {
        let seconds = 150 * (1 + number / 2);
        cluster.add_gang(
            "b",
            &format!("first-{number}"),
            &Gang { seconds, ..SMALL },
            0,
        );
    }
    cluster.step(0);
    cluster
}

/// Seconds in which `b` always has so many small jobs waiting.
fn run(cluster: &mut Cluster, seconds: std::ops::Range<i64>, waiting: usize) {
    for second in seconds {
        for number in cluster.waiting("b")..waiting {
            let name = format!("small-{second:05}-{number}");
            cluster.add_gang("b", &name, &SMALL, second);
        }
        cluster.step(second);
    }
}

#[test]
fn room_is_kept_together_for_a_gang_of_a_higher_class_in_another_namespace() {
    let mut cluster = busy_cluster();
    run(&mut cluster, 1..30, 10);
    let large = Gang {
        priority: 1_000_000,
        cluster_priority: 1_000_000,
        ..LARGE
    };
    cluster.add_gang("a", "large", &large, 30);
    run(&mut cluster, 30..200, 10);
    let reason = cluster.reason("b", "small-00001-0");
    assert!(
        reason.contains("behind a job of another namespace"),
        "{reason}"
    );
    run(&mut cluster, 200..631, 10);
    assert_eq!(cluster.complete("a", "large"), Some(601));
    run(&mut cluster, 631..670, 10);
    assert_eq!(cluster.running("b"), 8, "then it is the turn of the others");
}

#[test]
fn a_pod_without_a_node_that_names_a_daemon_set_as_its_owner_takes_no_room_from_other_namespaces() {
    let mut cluster = busy_cluster();
    // a tenant writes owners and affinity as he likes, and pays nothing for a pod that is never placed
    cluster.add_pending_resident("forged", "node", 8, 0);
    run(&mut cluster, 1..30, 10);
    let large = Gang {
        priority: 1_000_000,
        cluster_priority: 1_000_000,
        ..LARGE
    };
    cluster.add_gang("a", "large", &large, 30);
    run(&mut cluster, 30..631, 10);
    assert_eq!(cluster.complete("a", "large"), Some(601));
}

#[test]
fn among_equals_of_two_namespaces_the_older_gang_goes_first() {
    let mut cluster = busy_cluster();
    run(&mut cluster, 1..29, 0);
    cluster.add_gang("c", "large", &LARGE, 29);
    run(&mut cluster, 30..40, 10);
    cluster.add_gang("a", "large", &LARGE, 40);
    run(&mut cluster, 40..610, 10);
    assert_eq!(cluster.complete("c", "large"), Some(601));
    run(&mut cluster, 610..1300, 10);
    // the ten that waited before the second one was made go before it
    assert_eq!(cluster.complete("a", "large"), None);
    run(&mut cluster, 1300..1900, 10);
    assert_eq!(cluster.complete("a", "large"), Some(1864));
}

#[test]
fn of_two_large_gangs_one_follows_the_other() {
    let mut cluster = busy_cluster();
    for (namespace, priority) in [("a", 10), ("c", 20)] {
        let large = Gang {
            priority,
            cluster_priority: priority,
            ..LARGE
        };
        cluster.add_gang(namespace, "large", &large, 1);
    }
    run(&mut cluster, 1..700, 10);
    assert_eq!(cluster.complete("c", "large"), Some(601));
    assert_eq!(cluster.complete("a", "large"), Some(662));
}

#[test]
fn jobs_that_come_at_one_instant_start_by_priority_whatever_their_namespace() {
    let mut cluster = Cluster::new();
    cluster.add_node("node", 1, None, 0);
    cluster.add_gang("a", "low", &SMALL, 0);
    let high = Gang {
        priority: 1,
        cluster_priority: 1,
        ..SMALL
    };
    cluster.add_gang("z", "high", &high, 0);
    cluster.step(0);
    cluster.step(1);
    assert_eq!(cluster.complete("z", "high"), Some(0));
    assert_eq!(cluster.complete("a", "low"), None);
}

#[test]
fn a_class_that_is_not_allowed_counts_within_its_namespace_only() {
    let mut cluster = Cluster::new();
    cluster.add_node("node", 1, None, 0);
    cluster.add_gang(
        "z",
        "first",
        &Gang {
            seconds: 10,
            ..SMALL
        },
        0,
    );
    cluster.step(0);
    let short = Gang {
        seconds: 10,
        ..SMALL
    };
    cluster.add_gang("b", "older", &short, 1);
    cluster.add_gang("a", "of-another", &short, 2);
    let high = Gang {
        priority: 5,
        ..short
    };
    cluster.add_gang("b", "high", &high, 3);
    (1..50).for_each(|second| cluster.step(second));
    // `b` lets its younger job go first, and so has the place of that one
    let order = [("a", "of-another"), ("b", "high"), ("b", "older")];
    let started: Vec<_> = order
        .iter()
        .map(|(namespace, name)| cluster.complete(namespace, name))
        .collect();
    assert!(started.iter().all(Option::is_some), "{started:?}");
    assert!(started.is_sorted(), "{started:?}");
}

#[test]
fn who_waits_behind_a_gang_that_is_deleted_or_suspended_starts_at_once() {
    for is_deleted in [true, false] {
        let mut cluster = busy_cluster();
        cluster.add_gang("a", "large", &LARGE, 1);
        run(&mut cluster, 1..400, 10);
        assert_eq!(cluster.running("b"), 4);
        if is_deleted {
            cluster.delete_gang("a", "large", 400);
        } else {
            cluster.suspend_gang("a", "large", 400);
        }
        run(&mut cluster, 400..402, 10);
        assert_eq!(cluster.running("b"), 8);
    }
}

#[test]
fn a_gang_that_waits_for_other_hardware_holds_up_no_other_namespace() {
    let mut cluster = Cluster::new();
    cluster.add_node("node", 1, Some("h100"), 0);
    cluster.add_node("other", 1, Some("t4"), 0);
    let long = Gang {
        pool: Some("h100"),
        ..SMALL
    };
    cluster.add_gang("b", "long", &long, 0);
    cluster.step(0);
    cluster.add_gang("a", "first", &long, 1);
    cluster.step(1);
    let small = Gang {
        pool: Some("t4"),
        ..SMALL
    };
    cluster.add_gang("b", "small", &small, 2);
    cluster.step(2);
    assert_eq!(cluster.complete("b", "small"), Some(2));
}

#[test]
fn a_gang_that_waits_for_the_room_of_pods_that_may_stay_for_ever_holds_up_no_other_namespace() {
    for has_labels in [false, true] {
        pods_that_may_stay_hold_up_no_other_namespace(has_labels);
    }
}

fn pods_that_may_stay_hold_up_no_other_namespace(has_labels: bool) {
    let mut cluster = busy_cluster();
    cluster.add_node("second", 1, None, 0);
    match has_labels {
        // no Job of a TrainingJob has made it
        true => cluster.add_labelled("notebook", "second", 1, 0),
        false => cluster.add_other("notebook", "second", 1, 0),
    }
    let all = Gang {
        workers: 9,
        priority: 1,
        cluster_priority: 1,
        ..LARGE
    };
    cluster.add_gang("a", "large", &all, 1);
    run(&mut cluster, 1..310, 10);
    assert_eq!(cluster.running("b"), 8);
    // once it has gone, the gang would get all that it needs
    cluster.delete_pod("notebook", 310);
    run(&mut cluster, 310..470, 10);
    assert_eq!(cluster.running("b"), 6);
    run(&mut cluster, 470..1000, 10);
    assert_eq!(cluster.complete("a", "large"), Some(902));
}

#[test]
fn a_gang_that_waits_for_money_holds_up_no_other_namespace() {
    let mut cluster = busy_cluster();
    let row = GpuPrice {
        resource: GPU.to_owned(),
        model: "H100".to_owned(),
        per_hour: "2".parse().unwrap(),
        nodes: PriceScope::default(),
        watts: None,
    };
    let list = PriceList {
        currency: "USD".to_owned(),
        gpus: vec![row],
        ..PriceList::default()
    };
    let list = DatedPriceList {
        name: "ours".to_owned(),
        effective_from: None,
        list,
    };
    let catalog = PriceCatalog::new(vec![list], Timestamp::UNIX_EPOCH);
    cluster.model.apply(Event::Prices(catalog.into()), at(0));
    let budget = |limit: &str| Budget {
        limit: limit.parse().unwrap(),
        period: Period::Monthly,
        on_exhausted: OnExhausted::ScaleToZero,
        minimum_useful_run: SignedDuration::from_hours(1),
        latch: None,
        unmanaged: Default::default(),
        record: Default::default(),
    };
    let key = Key::new("a", "team");
    let event = Event::Budget(key.clone(), Some(budget("17")));
    cluster.model.apply(event, at(0));
    let first = Gang {
        priority: 2,
        cluster_priority: 2,
        seconds: 10_000,
        ..SMALL
    };
    cluster.add_gang("a", "running", &first, 1);
    run(&mut cluster, 1..152, 0);
    assert_eq!(cluster.running("a"), 1);
    // with what runs, 9 GPUs would cost 18 for an hour
    let large = Gang {
        priority: 1,
        cluster_priority: 1,
        ..LARGE
    };
    cluster.add_node("second", 1, None, 152);
    cluster.add_gang("a", "large", &large, 152);
    run(&mut cluster, 152..310, 10);
    assert_eq!(cluster.running("b"), 8);
    // with money for both it comes first
    let event = Event::Budget(key, Some(budget("100")));
    cluster.model.apply(event, at(310));
    run(&mut cluster, 310..460, 10);
    assert_eq!(cluster.running("b"), 6);
}

/// Also if something else in the same moment concerns the namespace of a gang behind it alone.
#[test]
fn room_that_becomes_free_goes_to_the_first_gang_of_the_cluster() {
    let high = Gang {
        workers: 2,
        cluster_priority: 1,
        priority: 1,
        ..SMALL
    };
    let low = Gang {
        cluster_priority: 0,
        ..high
    };
    let mut cluster = Cluster::new();
    cluster.add_node("node", 2, None, 0);
    // nobody keeps room together where replicas may stay for ever
    cluster.add_service(("team", "chat"), 2, 0, 0);
    cluster.step(0);
    cluster.add_gang("team", "second", &low, 1);
    cluster.add_gang("prod", "urgent", &high, 2);
    for second in 1..100 {
        cluster.step(second);
    }
    cluster.delete_service("team", "chat", 100);
    cluster.add_gang("team", "third", &low, 100);
    for second in 100..110 {
        cluster.step(second);
    }
    assert_eq!(cluster.orders_of("team", "second"), [false]);
    assert!(cluster.complete("prod", "urgent").is_some());
}
