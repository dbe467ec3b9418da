//! Room is kept, and taken back from gangs, for what a group lacks.

use super::*;

#[test]
fn room_is_kept_for_all_pods_of_a_group_that_was_ordered() {
    let mut rng = Rng::with_seed(3);
    for _ in 0..40 {
        let (workers, each, nodes) = (rng.u32(1..4), rng.u32(1..3), rng.u32(4..12));
        let mut model = model();
        for number in 0..nodes {
            let node = Node {
                takes_pods: true,
                allocatable: [(GPU.to_owned(), i64::from(each) * 1000)].into(),
                ..Node::default()
            };
            let name = format!("node-{number}");
            model.apply(Event::Node(name.as_str().into(), Some(node)), at(0));
        }
        set_service(
            &mut model,
            Service {
                min: 1,
                ..service(each, workers, each)
            },
        );
        set_replicas(&mut model, 1, 0);
        settle(&mut model, 0);
        let left = gang_room(&mut model, each);
        assert_eq!(
            left,
            nodes - 1 - workers,
            "{workers} workers, {nodes} nodes"
        );
    }
}

#[test]
fn no_gang_gives_way_for_a_part_of_a_group() {
    for (preemptible, expected) in [(1, 0), (2, 2)] {
        let mut model = model();
        for number in 0..2 {
            let node = Node {
                takes_pods: true,
                allocatable: [(GPU.to_owned(), 1000)].into(),
                ..Node::default()
            };
            let name = format!("node-{number}");
            model.apply(Event::Node(name.as_str().into(), Some(node)), at(0));
            run_gang(&mut model, number, number < preemptible);
        }
        let group = Service {
            min: 1,
            cluster_priority: 5,
            ..service(1, 1, 1)
        };
        set_service(&mut model, group);
        set_replicas(&mut model, 1, 0);
        for pod in [leader(0, 1, false), worker(0, 1, 1, false)] {
            let waiting = Pod {
                scheduling: Scheduling::Unschedulable {
                    since: at(0),
                    why: "0/2 nodes are available".into(),
                },
                ..pod
            };
            tell(&mut model, waiting, 0);
        }
        settle(&mut model, 1);
        let orders = settle(&mut model, 20).job_orders;
        let names = (0..2).map(|number| Key::new("lab", &format!("train-{number}")));
        let suspended = names.filter(|key| !model.job(key).is_some_and(|decision| decision.run));
        assert_eq!(suspended.count(), expected, "{preemptible} may: {orders:?}");
    }
}

/// A pod for which the scheduler has found no node since then.
fn unschedulable(pod: Pod, since: i64) -> Pod {
    Pod {
        scheduling: Scheduling::Unschedulable {
            since: at(since),
            why: "0/2 nodes are available".into(),
        },
        ..pod
    }
}

/// A node of one GPU in this rack.
fn add_node(model: &mut Model, number: usize, rack: &str) {
    let node = Node {
        takes_pods: true,
        labels: [("rack".to_owned(), rack.to_owned())].into(),
        allocatable: [(GPU.to_owned(), 1000)].into(),
        ..Node::default()
    };
    let name = format!("node-{number}");
    model.apply(Event::Node(name.as_str().into(), Some(node)), at(0));
}

/// A pod that must run in this rack, which its template does not say.
fn bound_to_rack(pod: Pod, rack: &str) -> Pod {
    let shape = PodShape {
        node_selector: [("rack".to_owned(), rack.to_owned())].into(),
        ..(*pod.shape).clone()
    };
    Pod {
        shape: Arc::new(shape),
        ..pod
    }
}

fn on_node(pod: Pod, number: usize) -> Pod {
    Pod {
        node: Some(format!("node-{number}").as_str().into()),
        ready_since: Some(at(0)),
        ..pod
    }
}

/// The gangs that were told to give way.
fn suspended(model: &Model, gangs: usize) -> Vec<usize> {
    let runs = |number: &usize| {
        let key = Key::new("lab", &format!("train-{number}"));
        model.job(&key).is_some_and(|decision| decision.run)
    };
    (0..gangs).filter(|number| !runs(number)).collect()
}

#[test]
fn gpus_are_taken_back_for_the_group_that_waits_and_not_for_one_whose_time_is_over() {
    let mut model = model();
    for number in 0..2 {
        add_node(&mut model, number, "a");
    }
    run_gang(&mut model, 0, true);
    let groups = Service {
        min: 2,
        cluster_priority: 5,
        ..service(1, 1, 1)
    };
    set_service(&mut model, groups);
    set_replicas(&mut model, 2, 0);
    // the first group lacks two pods, for which there is no room; the other one lacks one
    tell(&mut model, unschedulable(leader(0, 1, false), 0), 0);
    tell(&mut model, unschedulable(worker(0, 1, 1, false), 0), 0);
    tell(&mut model, on_node(leader(1, 1, false), 1), 0);
    tell(&mut model, unschedulable(worker(1, 1, 1, false), 600), 600);
    settle(&mut model, 601);
    settle(&mut model, 620);
    assert_eq!(suspended(&model, 1), [0]);
}

#[test]
fn gpus_are_taken_back_where_the_pods_that_wait_can_go() {
    for (rack, expected) in [("a", 0), ("b", 1)] {
        for is_group in [true, false] {
            let mut model = model();
            for (number, rack) in ["a", "b", "c"].into_iter().enumerate() {
                add_node(&mut model, number, rack);
            }
            for number in 0..2 {
                run_gang(&mut model, number, true);
            }
            let replica = Service {
                min: 1,
                cluster_priority: 5,
                ..service(1, u32::from(is_group), 1)
            };
            set_service(&mut model, replica);
            set_replicas(&mut model, 1, 0);
            let waits = if is_group {
                tell(&mut model, on_node(leader(0, 1, false), 2), 0);
                worker(0, 1, 1, false)
            } else {
                leader(0, 1, false)
            };
            let waits = bound_to_rack(unschedulable(waits, 0), rack);
            tell(&mut model, waits, 0);
            settle(&mut model, 1);
            settle(&mut model, 20);
            let suspended = suspended(&model, 2);
            assert_eq!(suspended, [expected], "rack {rack}, group: {is_group}");
        }
    }
}

#[test]
fn room_is_kept_where_the_pods_that_wait_can_go() {
    for is_group in [true, false] {
        let room = |rack: Option<&str>| {
            let mut model = model();
            for (number, rack) in ["a", "b", "b"].into_iter().enumerate() {
                add_node(&mut model, number, rack);
            }
            let replica = Service {
                min: 1,
                ..service(1, u32::from(is_group), 1)
            };
            set_service(&mut model, replica);
            set_replicas(&mut model, 1, 0);
            let waits = if is_group {
                tell(&mut model, on_node(leader(0, 1, false), 0), 0);
                worker(0, 1, 1, false)
            } else {
                tell(&mut model, on_node(pod_of("other", shape(1), false), 0), 0);
                set_replicas(&mut model, 2, 0);
                leader(0, 1, false)
            };
            let waits = match rack {
                Some(rack) => bound_to_rack(waits, rack),
                None => waits,
            };
            tell(&mut model, waits.clone(), 0);
            settle(&mut model, 0);
            let before = gang_room(&mut model, 1);
            // one that has a node keeps none beside it
            tell(&mut model, on_node(waits, 2), 1);
            settle(&mut model, 1);
            (before, gang_room(&mut model, 1))
        };
        assert_eq!(room(None), (1, 1), "group: {is_group}");
        assert_eq!(room(Some("b")), (1, 1), "group: {is_group}");
        assert_eq!(room(Some("a")).0, 2, "group: {is_group}");
    }
}
