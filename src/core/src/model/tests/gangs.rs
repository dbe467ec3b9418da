//! Gangs whose orders are on their way.

use std::sync::Arc;

use super::super::event::{BatchJob, Event, Job, Key, Node, PodShape, Role};
use super::*;

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
        suspend,
        seed: 0,
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
    // no worker of it has come in time
    assert_eq!(runs(&mut model, 800_000), [false]);
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
    model.apply(Event::Job(key(), Some(job(true))), at(100_000));
    assert_eq!(runs(&mut model, 100_000), [false]);
    // its Jobs have not seen that, and their workers did not come within two minutes
    model.apply(Event::Job(key(), Some(job(false))), at(125_000));
    assert_eq!(runs(&mut model, 125_000), [true]);
    model.mark_all();
    assert_eq!(runs(&mut model, 125_000), [true; 0]);
}
