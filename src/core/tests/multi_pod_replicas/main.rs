//! Replicas of several pods, of which one leads: each counts once, with the money and the room of all its pods.

#![allow(clippy::unwrap_used)] // a test fails by ending

#[path = "../common/mod.rs"]
mod common;
mod overdue;
#[path = "../common/pods.rs"]
mod pods;
mod recalls;
mod room;
#[path = "../common/services.rs"]
mod services;
mod withdrawals;

use std::collections::BTreeMap;
use std::sync::Arc;

use bursar_core::budget::{BudgetState, OnExhausted};
use bursar_core::calendar::Period;
use bursar_core::model::event::{
    BatchJob, Budget, Deployment, Event, GatewayPod, HeldRequests, Job, Node, Owner, Pod, PodShape,
    Reading, ReplicaWorkers, Role, Scheduling, Service,
};
use bursar_core::model::{Key, Model, Name};
use bursar_core::money::Money;
use bursar_core::plan::{Decisions, LimitedBy, decide};
use bursar_core::pricing::{PriceCatalog, PricingAttributes};
use fastrand::Rng;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use common::{GPU, money, price_list};
use pods::new_pod;
use services::new_service;

const HOUR: i64 = 3600;
const DRAIN: i64 = 60;
const GRACE: i64 = 30;
/// What is added to every grace.
const SLACK: i64 = 10;

fn at(second: i64) -> Timestamp {
    let start: Timestamp = "2026-12-14T12:00:00Z".parse().unwrap();
    start + SignedDuration::from_secs(second)
}

fn key() -> Key {
    Key::new("team", "chat")
}

fn budget_key() -> Key {
    Key::new("team", "all")
}

/// A pod of so many GPUs, at 2.00 an hour each.
fn shape(gpus: u32) -> Arc<PodShape> {
    let of_one = common::shape().attributes.clone();
    let attributes = of_one.map(|attributes| PricingAttributes { gpus, ..attributes });
    Arc::new(PodShape {
        requests: [(GPU.to_owned(), i64::from(gpus) * 1000)].into(),
        attributes: attributes.filter(|_| gpus > 0),
        ..PodShape::default()
    })
}

/// A service whose replicas have a leader and so many workers of these GPUs.
fn service(leader: u32, workers: u32, worker: u32) -> Service {
    Service {
        max: 20,
        drain_timeout: SignedDuration::from_secs(DRAIN),
        grace_seconds: GRACE,
        workers: (workers > 0).then(|| {
            Box::new(ReplicaWorkers {
                count: workers,
                shape: shape(worker),
                grace_seconds: GRACE,
            })
        }),
        ..new_service(shape(leader), at(0))
    }
}

fn model() -> Model {
    let mut model = Model::new(TimeZone::UTC, at(0));
    let list = price_list("ours", None, &[("H100", "2")]);
    let catalog = PriceCatalog::new(vec![list], at(0));
    model.apply(Event::Prices(Arc::new(catalog)), at(0));
    model
}

fn set_budget(model: &mut Model, limit: Money) {
    let budget = Budget {
        limit,
        period: Period::Monthly,
        on_exhausted: OnExhausted::ScaleToZero,
        minimum_useful_run: SignedDuration::ZERO,
        latch: None,
        unmanaged: Default::default(),
        record: Default::default(),
    };
    model.apply(Event::Budget(budget_key(), Some(budget)), at(0));
}

fn set_service(model: &mut Model, service: Service) {
    model.apply(Event::Service(key(), Some(service)), at(0));
}

fn set_replicas(model: &mut Model, replicas: u32, second: i64) {
    let deployment = Deployment {
        replicas,
        first_ordinal: Some(0),
        rollout: None,
        creation_failure: None,
    };
    model.apply(Event::Deployment(key(), Some(deployment)), at(second));
}

/// So many requests wait at a gateway.
fn ask(model: &mut Model, requests: u64) {
    let pod = GatewayPod {
        name: "gateway".into(),
        ready_since: Some(at(0)),
    };
    model.apply(Event::Gateway("gateway".into(), Some(pod)), at(0));
    let held = HeldRequests {
        requests,
        in_flight: 0,
        forwarded: 0,
        since: Some(at(0)),
    };
    let held = BTreeMap::from([(key(), held)]);
    model.apply(Event::Demand("gateway".into(), held), at(0));
}

fn pod_of(name: &str, shape: Arc<PodShape>, node: bool) -> Pod {
    let key = Key::new("team", name);
    Pod {
        node: node.then(|| "node".into()),
        ready_since: node.then(|| at(0)),
        grace_seconds: GRACE,
        ..new_pod(key, Owner::Service("chat".into()), shape, at(0))
    }
}

/// The leader of a group.
fn leader(group: u32, gpus: u32, node: bool) -> Pod {
    pod_of(&format!("chat-{group}"), shape(gpus), node)
}

/// A worker of a group.
fn worker(group: u32, index: u32, gpus: u32, node: bool) -> Pod {
    Pod {
        leader: Some(format!("chat-{group}").as_str().into()),
        ..pod_of(&format!("chat-{group}-{index}"), shape(gpus), node)
    }
}

fn tell(model: &mut Model, pod: Pod, second: i64) {
    let uid = pod.key.name.clone();
    model.apply(Event::Pod(uid, Some(Box::new(pod))), at(second));
}

/// Decides until nothing is marked.
fn settle(model: &mut Model, second: i64) -> Decisions {
    let mut all = decide(model, at(second));
    let mut rounds = 0;
    while model.has_marks() {
        rounds += 1;
        assert!(rounds < 100, "it does not settle");
        let more = decide(model, at(second));
        all.service_orders.extend(more.service_orders);
        all.job_orders.extend(more.job_orders);
    }
    model.check().unwrap();
    all
}

fn budget_state(model: &mut Model, second: i64) -> BudgetState {
    settle(model, second);
    model.budget(&budget_key()).unwrap().clone()
}

fn allowed(model: &Model) -> u32 {
    model.service(&key()).unwrap().decision.allowed
}

#[test]
fn budgets_admit_as_many_groups_as_they_would_pods_that_cost_the_same() {
    let mut rng = Rng::with_seed(7);
    for _ in 0..60 {
        let (leads, workers, each) = (rng.u32(0..4), rng.u32(1..5), rng.u32(1..4));
        let gpus = leads + workers * each;
        let limit = money("2")
            .times(rng.u32(1..60))
            .cost_for_seconds_rounded_up(HOUR / 20);
        let admitted = |service: Service| {
            let mut model = model();
            set_budget(&mut model, limit);
            set_service(&mut model, service);
            ask(&mut model, 8 * 12);
            let orders = settle(&mut model, 0).service_orders;
            orders.last().map_or(0, |order| order.replicas.1)
        };
        let as_group = admitted(service(leads, workers, each));
        // it takes as long to stop as the two graces of a group, one after the other
        let as_pod = admitted(Service {
            grace_seconds: 2 * GRACE + SLACK,
            ..service(gpus, 0, 0)
        });
        assert_eq!(
            as_group, as_pod,
            "{leads} and {workers} of {each} at {limit}"
        );
    }
}

#[test]
fn the_reserve_has_each_pod_of_a_group_from_the_order_to_the_last_one_that_runs() {
    let stop = DRAIN + 2 * (GRACE + SLACK);
    let (mut model, all) = (
        model(),
        money("2").times(5).cost_for_seconds_rounded_up(stop),
    );
    set_budget(&mut model, money("1000"));
    set_service(
        &mut model,
        Service {
            min: 1,
            ..service(1, 2, 2)
        },
    );
    set_replicas(&mut model, 1, 0);
    let withheld = |model: &mut Model| {
        let state = budget_state(model, 1);
        let rate = model.service(&key()).unwrap().running_cost;
        (state.reserve, rate.reserve())
    };
    // nothing has a node yet, so nothing would cost anything to stop
    assert_eq!(withheld(&mut model), (Money::ZERO, all));
    tell(&mut model, leader(0, 1, true), 1);
    // each pod's share is rounded up
    let is_all = |reserve: Money| (all..=all + Money::from_nanos(3)).contains(&reserve);
    assert!(
        is_all(withheld(&mut model).0),
        "its workers are not made yet"
    );
    tell(&mut model, worker(0, 1, 2, false), 1);
    tell(&mut model, worker(0, 2, 2, true), 1);
    assert!(is_all(withheld(&mut model).0), "one waits for a node");
    tell(&mut model, worker(0, 1, 2, true), 1);
    assert!(is_all(withheld(&mut model).0));
}

#[test]
fn a_group_counts_once_and_its_leader_alone_is_told_to_leave() {
    let mut model = model();
    set_service(&mut model, service(1, 1, 1));
    set_replicas(&mut model, 3, 0);
    for group in 0..3 {
        tell(&mut model, leader(group, 1, true), 0);
        tell(&mut model, worker(group, 1, 1, true), 0);
        let busy = u64::from(2 - group) * 4;
        model.apply(
            Event::Reading(
                format!("chat-{group}").as_str().into(),
                Reading::Uncounted { requests: busy },
            ),
            at(0),
        );
    }
    settle(&mut model, 0);
    assert_eq!(model.service(&key()).unwrap().current, 3);
    // demand for two: after the window the group of the highest index leaves
    let orders = settle(&mut model, 70).service_orders;
    let drained: Vec<&Name> = orders.iter().flat_map(|order| &order.drain).collect();
    assert_eq!(drained, [&Name::from("chat-2")]);
    let mut leaving = leader(2, 1, true);
    leaving.draining_since = Some(at(70));
    tell(&mut model, leaving, 71);
    let orders = settle(&mut model, 80).service_orders;
    let last = orders.last().unwrap();
    assert_eq!(
        (last.replicas, &*last.remove),
        ((3, 2), &["chat-2".into()][..])
    );
}

#[test]
fn what_its_workers_cost_leaves_with_a_group() {
    let mut model = model();
    set_budget(&mut model, money("1000"));
    set_service(
        &mut model,
        Service {
            min: 1,
            ..service(1, 1, 3)
        },
    );
    set_replicas(&mut model, 2, 0);
    for group in 0..2 {
        tell(&mut model, leader(group, 1, true), 0);
        tell(&mut model, worker(group, 1, 3, true), 0);
    }
    let stop = DRAIN + 2 * (GRACE + SLACK);
    let before = budget_state(&mut model, 1).reserve;
    let each = money("2").times(4).cost_for_seconds_rounded_up(stop);
    assert_eq!(before, each + each);
    // the leader is gone, and nobody has told its worker yet
    model.apply(Event::Pod("chat-1".into(), None), at(2));
    set_replicas(&mut model, 1, 2);
    let left = budget_state(&mut model, 2);
    let after_leader = 2 * (GRACE + SLACK);
    let worker = money("2")
        .times(3)
        .cost_for_seconds_rounded_up(after_leader);
    assert_eq!(left.reserve, each + worker, "it costs money until it ends");
    model.apply(Event::Pod("chat-1-1".into(), None), at(3));
    assert_eq!(budget_state(&mut model, 3).reserve, each);
}

#[test]
fn a_budget_that_is_exhausted_stops_whole_groups() {
    let mut model = model();
    set_service(
        &mut model,
        Service {
            min: 1,
            ..service(1, 1, 1)
        },
    );
    set_replicas(&mut model, 2, 0);
    for group in 0..2 {
        tell(&mut model, leader(group, 1, true), 0);
        tell(&mut model, worker(group, 1, 1, true), 0);
    }
    set_budget(&mut model, money("0.01"));
    let orders = settle(&mut model, 1).service_orders;
    let decision = model.service(&key()).unwrap().decision;
    assert_eq!(
        (decision.allowed, decision.limited_by),
        (0, Some(LimitedBy::Budget))
    );
    let mut drained: Vec<&Name> = orders.iter().flat_map(|order| &order.drain).collect();
    drained.sort();
    assert_eq!(drained, [&Name::from("chat-0"), &Name::from("chat-1")]);
}

#[test]
fn a_lost_worker_takes_its_group_and_the_group_keeps_its_money() {
    let mut model = model();
    set_budget(&mut model, money("1000"));
    set_service(
        &mut model,
        Service {
            min: 1,
            ..service(1, 1, 1)
        },
    );
    set_replicas(&mut model, 1, 0);
    tell(&mut model, leader(0, 1, true), 0);
    tell(&mut model, worker(0, 1, 1, true), 0);
    let whole = budget_state(&mut model, 1).reserve;
    // it was evicted; the group is made anew, the leader first
    model.apply(Event::Pod("chat-0-1".into(), None), at(2));
    assert_eq!(budget_state(&mut model, 2).reserve, whole);
    model.apply(Event::Pod("chat-0".into(), None), at(3));
    let orders = settle(&mut model, 3).service_orders;
    assert!(orders.is_empty(), "it is made by itself: {orders:?}");
    assert_eq!(
        (model.service(&key()).unwrap().current, allowed(&model)),
        (1, 1)
    );
}

#[test]
fn why_a_worker_does_not_start_is_why_its_group_does_not() {
    let mut model = model();
    set_service(
        &mut model,
        Service {
            min: 1,
            ..service(1, 1, 1)
        },
    );
    set_replicas(&mut model, 1, 0);
    let unready = |pod: Pod| Pod {
        ready_since: None,
        ..pod
    };
    tell(&mut model, unready(leader(0, 1, true)), 0);
    let failing = Pod {
        start_failure: Some(("ImagePullBackOff".into(), at(0))),
        ..unready(worker(0, 1, 1, true))
    };
    tell(&mut model, failing, 0);
    settle(&mut model, 61);
    let decision = model.service(&key()).unwrap().decision;
    let message = decision.refusal.unwrap().message;
    assert!(message.contains("chat-0-1: ImagePullBackOff"), "{message}");
    let waiting = Pod {
        scheduling: Scheduling::Unschedulable {
            since: at(62),
            why: "0/1 nodes are available".into(),
        },
        ..worker(0, 1, 1, false)
    };
    tell(&mut model, waiting, 62);
    settle(&mut model, 62);
    let reason = model.service(&key()).unwrap().decision.reason;
    assert!(reason.contains("chat-0-1 waits for a node"), "{reason}");
}

/// A gang of one worker of one GPU runs on the node of this number.
fn run_gang(model: &mut Model, number: usize, preemption_allowed: bool) {
    let key = Key::new("lab", &format!("train-{number}"));
    let job = Job {
        preemption_allowed,
        ..job(1, 1)
    };
    model.apply(Event::Job(key.clone(), Some(job)), at(0));
    let uid: Name = format!("job-{number}").as_str().into();
    let batch = BatchJob {
        running: true,
        active: 1,
        uid: Some(uid.clone()),
        started: Some(at(0)),
        ..BatchJob::default()
    };
    model.apply(Event::BatchJob(key.clone(), "".into(), Some(batch)), at(0));
    let owner = Owner::Job(key.name.clone(), "".into());
    let pod_key = Key::new("lab", &format!("train-{number}-0"));
    let pod = Pod {
        node: Some(format!("node-{number}").as_str().into()),
        ready_since: Some(at(0)),
        made_by: Some(uid),
        ..new_pod(pod_key, owner, shape(1), at(0))
    };
    tell(model, pod, 0);
}

/// A gang of so many workers of so many GPUs.
fn job(workers: u32, gpus: u32) -> Job {
    let role = Role {
        name: "".into(),
        replicas: workers,
        worker: shape(gpus),
        grace_seconds: GRACE,
    };
    Job {
        created: at(0),
        priority: 0,
        cluster_priority: 0,
        preemption_allowed: false,
        suspend: false,
        paused: false,
        seed: 1,
        restarts: 0,
        restart_count: 0,
        ended_well: Default::default(),
        success_roles: Default::default(),
        resumes_whole: false,
        is_adopted: false,
        roles: vec![role],
    }
}

/// The largest gang of workers of so many GPUs that would start now.
fn gang_room(model: &mut Model, gpus: u32) -> u32 {
    let starts = |workers: u32| {
        let mut model = model.clone();
        let key = Key::new("lab", "train");
        model.apply(Event::Job(key.clone(), Some(job(workers, gpus))), at(0));
        model.apply(
            Event::BatchJob(key.clone(), "".into(), Some(BatchJob::default())),
            at(0),
        );
        settle(&mut model, 0);
        model.job(&key).is_some_and(|decision| decision.run)
    };
    (1..=20)
        .take_while(|workers| starts(*workers))
        .last()
        .unwrap_or(0)
}
