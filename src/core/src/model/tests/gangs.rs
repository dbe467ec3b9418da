//! Gangs whose orders are on their way.

use std::sync::Arc;

use super::super::event::{
    BatchJob, Event, Job, Key, Node, Owner, Pod, PodShape, Role, Scheduling,
};
use super::time::{budget, four_an_hour};
use super::*;
use crate::calendar::Period;
use crate::pricing::PricingAttributes;
use crate::training::Retry;

const GPU: &str = "nvidia.com/gpu";

fn key() -> Key {
    Key::new("team", "train")
}

fn job(suspend: bool) -> Job {
    let role = |name: &str| Role {
        name: name.into(),
        replicas: 1,
        worker: Arc::new(PodShape::default()),
        grace_seconds: 30,
    };
    Job {
        created: at(0),
        priority: 0,
        cluster_priority: 0,
        preemption_allowed: true,
        suspend,
        paused: false,
        seed: 0,
        restarts: 3,
        restart_count: 0,
        ended_well: Default::default(),
        success_roles: Default::default(),
        resumes_whole: false,
        is_adopted: false,
        roles: vec![role("master"), role("worker")],
    }
}

fn tell(model: &mut Model, role: &str, started: i64, now: i64) {
    let job = BatchJob {
        running: true,
        started: Some(at(started)),
        ..BatchJob::default()
    };
    model.apply(Event::BatchJob(key(), role.into(), Some(job)), at(now));
}

fn runs(model: &mut Model, now: i64) -> Vec<bool> {
    let orders = settle(model, at(now)).job_orders;
    orders.iter().map(|order| order.run).collect()
}

#[test]
fn a_gang_that_is_told_to_run_again_is_not_taken_back_for_how_long_it_ran_before() {
    let mut model = model();
    let node = Node {
        takes_pods: true,
        ..Node::default()
    };
    model.apply(Event::Node("n".into(), Some(node)), at(0));
    model.apply(Event::Job(key(), Some(job(true))), at(0));
    tell(&mut model, "master", 0, 0);
    assert_eq!(runs(&mut model, 0), [false]);
    // its user lets it run again before that is seen, and long after its last start
    model.apply(Event::JobOrderFailed(key()), at(599_000));
    assert_eq!(runs(&mut model, 599_000), [false]);
    model.apply(Event::Job(key(), Some(job(false))), at(600_000));
    assert_eq!(runs(&mut model, 600_000), [true]);
    model.mark_all();
    assert_eq!(runs(&mut model, 600_000), [true; 0]);
    for role in ["master", "worker"] {
        tell(&mut model, role, 601_000, 601_000);
    }
    assert_eq!(runs(&mut model, 601_000), [true; 0]);
    assert_eq!(runs(&mut model, 900_000), [true; 0]);
    // no worker of it has come in time
    assert_eq!(runs(&mut model, 901_000), [false]);
}

#[test]
fn what_the_jobs_of_a_gang_showed_before_an_order_does_not_confirm_it() {
    let mut model = model();
    let node = Node {
        takes_pods: true,
        ..Node::default()
    };
    model.apply(Event::Node("n".into(), Some(node)), at(0));
    model.apply(Event::Job(key(), Some(job(false))), at(0));
    for role in ["master", "worker"] {
        tell(&mut model, role, 0, 0);
    }
    model.apply(Event::Job(key(), Some(job(true))), at(290_000));
    assert_eq!(runs(&mut model, 290_000), [false]);
    // its Jobs have not seen that, and their workers did not come within five minutes
    model.apply(Event::Job(key(), Some(job(false))), at(305_000));
    assert_eq!(runs(&mut model, 305_000), [true]);
    model.mark_all();
    assert_eq!(runs(&mut model, 305_000), [true; 0]);
}

#[test]
fn an_order_that_is_given_anew_does_not_forget_when_the_gang_may_try_again() {
    let mut model = model();
    let node = Node {
        takes_pods: true,
        ..Node::default()
    };
    model.apply(Event::Node("n".into(), Some(node)), at(0));
    model.apply(Event::Job(key(), Some(job(false))), at(0));
    tell(&mut model, "worker", 0, 0);
    let tell = |model: &mut Model, running, now| {
        let retry = Retry {
            count: 3,
            at: at(0),
            creation_failure: None,
            had_room: false,
        };
        let master = BatchJob {
            running,
            started: Some(at(0)),
            retry: Some(retry),
            ..BatchJob::default()
        };
        model.apply(Event::BatchJob(key(), "master".into(), Some(master)), now);
    };
    tell(&mut model, true, at(0));
    settle(&mut model, at(0));
    let taken_back = settle(&mut model, at(300_000)).job_orders;
    assert_eq!((taken_back.len(), taken_back[0].run), (1, false));
    // the Job of the other role is not there to show it
    tell(&mut model, false, at(301_000));
    let gone = Event::BatchJob(key(), "worker".into(), None);
    model.apply(gone, at(301_000));
    settle(&mut model, at(301_000));
    let again = settle(&mut model, at(331_000)).job_orders;
    assert_eq!((again.len(), again[0].run), (1, false));
    assert_eq!(again[0].retry, taken_back[0].retry);
    model.mark_all();
    assert_eq!(runs(&mut model, 331_000), [true; 0], "it waits for 240 s");
}

/// A job with one role of so many workers of so many GPUs.
fn gang(created: i64, workers: u32, gpus: i64) -> Job {
    let shape = PodShape {
        requests: [(GPU.to_owned(), gpus * 1000)].into(),
        attributes: Some(PricingAttributes {
            resource: GPU.to_owned(),
            gpus: u32::try_from(gpus).unwrap(),
            ..PricingAttributes::default()
        }),
        ..PodShape::default()
    };
    Job {
        created: at(created),
        roles: vec![Role {
            name: "".into(),
            replicas: workers,
            worker: Arc::new(shape),
            grace_seconds: 30,
        }],
        ..job(false)
    }
}

fn tell_node(model: &mut Model, name: &str, gpus: i64) {
    let node = Node {
        takes_pods: true,
        allocatable: [(GPU.to_owned(), gpus * 1000)].into(),
        ..Node::default()
    };
    model.apply(Event::Node(name.into(), Some(node)), at(0));
}

/// A pod of no workload with so many GPUs on this node.
fn tell_pod(model: &mut Model, node: &str, gpus: i64) {
    let mut shape = PodShape::clone(&gang(0, 1, gpus).roles[0].worker);
    shape.attributes = None;
    let pod = Pod {
        key: Key::new("team", "busybox"),
        owner: Owner::Other,
        shape: Arc::new(shape),
        node: Some(node.into()),
        created: at(0),
        ended: None,
        deletion: None,
        grace_seconds: 30,
        ready_since: None,
        was_ready: false,
        draining_since: None,
        marked_for_deletion: false,
        start_failure: None,
        failure: None,
        disrupted: false,
        made_by: None,
        leader: None,
        owner_name: Default::default(),
        scheduling: Scheduling::Queued,
        resident: false,
    };
    let uid = format!("uid-{node}").into();
    model.apply(Event::Pod(uid, Some(Box::new(pod))), at(0));
}

#[test]
fn a_gang_passes_one_whose_nodes_have_no_room_for_it_any_more() {
    let mut model = model();
    for (node, gpus) in [("a", 2), ("b", 2), ("c", 1)] {
        tell_node(&mut model, node, gpus);
    }
    tell_pod(&mut model, "a", 1);
    tell_pod(&mut model, "b", 1);
    let (large, small) = (Key::new("team", "large"), Key::new("team", "small"));
    model.apply(Event::Job(large, Some(gang(0, 1, 2))), at(0));
    model.apply(Event::Job(small.clone(), Some(gang(1, 1, 1))), at(0));
    assert_eq!(
        runs(&mut model, 0),
        [false; 2],
        "it might take room of the first"
    );
    tell_pod(&mut model, "a", 2);
    assert_eq!(
        runs(&mut model, 1),
        [true; 0],
        "the other node has room still"
    );
    tell_pod(&mut model, "b", 2);
    let orders = settle(&mut model, at(2)).job_orders;
    let started: Vec<&Key> = orders.iter().map(|order| &order.job).collect();
    assert_eq!(started, [&small]);
}

#[test]
fn a_gang_passes_one_that_waits_for_room_once_there_is_money_for_both() {
    let mut model = model();
    model.apply(four_an_hour(), at(0));
    tell_node(&mut model, "a", 2);
    tell_node(&mut model, "c", 1);
    tell_pod(&mut model, "a", 2);
    let (large, small) = (Key::new("team", "large"), Key::new("team", "small"));
    model.apply(Event::Job(large, Some(gang(0, 1, 2))), at(0));
    model.apply(Event::Job(small.clone(), Some(gang(1, 1, 1))), at(0));
    // half an hour of 8 an hour costs nearly 4, and of 4 an hour nearly 2
    model.apply(budget("5", Period::Daily, 1700), at(0));
    assert_eq!(runs(&mut model, 0), [false; 2]);
    model.apply(budget("10", Period::Daily, 1700), at(1));
    let orders = settle(&mut model, at(1)).job_orders;
    let started: Vec<&Key> = orders.iter().map(|order| &order.job).collect();
    assert_eq!(started, [&small]);
}
