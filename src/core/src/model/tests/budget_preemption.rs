//! What gives way for want of money frees what budgets count on.

use std::sync::Arc;

use jiff::SignedDuration;

use super::super::event::{Event, Job, Node, Owner, Pod, PodShape, Role, Scheduling, Service};
use super::time::{budget, four_an_hour};
use super::*;
use crate::calendar::Period;
use crate::pricing::PricingAttributes;
use crate::scaling::{Activation, Behavior, RequestSignal};

const GPU: &str = "nvidia.com/gpu";

/// A pod with so many GPUs, of which each costs 4 an hour.
fn shape(gpus: u32) -> Arc<PodShape> {
    Arc::new(PodShape {
        requests: [(GPU.to_owned(), i64::from(gpus) * 1000)].into(),
        attributes: Some(PricingAttributes {
            resource: GPU.to_owned(),
            gpus,
            ..PricingAttributes::default()
        }),
        ..PodShape::default()
    })
}

/// A namespace with room for all of it, in which what runs for an hour may cost so much.
fn model_with_budget(limit: &str) -> Model {
    let mut model = model();
    let node = Node {
        takes_pods: true,
        allocatable: [(GPU.to_owned(), 16_000)].into(),
        ..Node::default()
    };
    for event in [
        four_an_hour(),
        Event::Node("n".into(), Some(node)),
        budget(limit, Period::Monthly, 3600),
    ] {
        model.apply(event, at(0));
    }
    model
}

fn pod(name: &str, owner: Owner, gpus: u32, node: Option<&str>) -> Event {
    let pod = Pod {
        key: Key::new("team", name),
        owner,
        shape: shape(gpus),
        node: node.map(Into::into),
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
    Event::Pod(name.into(), Some(Box::new(pod)))
}

/// A service of this priority that wants one replica with so many GPUs.
fn service(service: &str, priority: i32, gpus: u32) -> Event {
    let spec = Service {
        created: at(0),
        priority,
        cluster_priority: 0,
        weight: 100,
        min: 1,
        max: 3,
        request_signal: RequestSignal::Target(8),
        signals: vec![],
        measured_by: 0,
        growth: Default::default(),
        learned: None,
        behavior: Behavior::with_scale_down_window(Some(SignedDuration::from_secs(60))),
        idle_after: SignedDuration::from_secs(600),
        schedules: vec![],
        on_signal_failure: Default::default(),
        drain_timeout: SignedDuration::from_secs(60),
        paused: None,
        activation: Activation::OnDemand,
        replica: shape(gpus),
        grace_seconds: 30,
        workers: None,
    };
    Event::Service(Key::new("team", service), Some(spec))
}

/// What gangs are told while a service of 12 an hour waits, beside a gang of 4 an hour and a pod of 8 an hour
/// that only has its labels.
fn gang_beside_a_pod_with_its_labels(limit: &str) -> (Vec<bool>, bool) {
    let mut model = model_with_budget(limit);
    let train = Job {
        created: at(0),
        priority: 0,
        cluster_priority: 0,
        preemption_allowed: true,
        suspend: false,
        paused: false,
        seed: 0,
        restarts: 3,
        restart_count: 0,
        ended_well: Default::default(),
        success_roles: Default::default(),
        resumes_whole: false,
        is_adopted: false,
        roles: vec![Role {
            name: "".into(),
            replicas: 1,
            worker: shape(1),
            grace_seconds: 30,
        }],
    };
    model.apply(Event::Job(Key::new("team", "train"), Some(train)), at(0));
    let owner = Owner::Job("train".into(), "".into());
    model.apply(pod("stray", owner, 2, Some("n")), at(0));
    let started = settle(&mut model, at(0)).job_orders;
    assert!(started.iter().all(|order| order.run) && started.len() == 1);
    model.apply(service("urgent", 5, 3), at(1));
    let decided = settle(&mut model, at(1));
    let urgent = Key::new("team", "urgent");
    let orders = decided.job_orders.iter().map(|order| order.run).collect();
    (orders, model.services[&urgent].declared() == 1)
}

#[test]
fn a_gang_does_not_give_way_for_what_a_pod_with_its_labels_goes_on_to_cost() {
    // without the gang the pod and the service cost 20 an hour
    let (orders, starts) = gang_beside_a_pod_with_its_labels("19");
    assert_eq!((orders, starts), (vec![], false));
    let (orders, starts) = gang_beside_a_pod_with_its_labels("21.5");
    assert_eq!((orders, starts), (vec![false], true));
}
