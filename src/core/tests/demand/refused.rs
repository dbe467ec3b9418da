//! Replicas that the cluster refuses to make are named, and keep nothing from others.

use bursar_core::model::event::{Job, Node, PodCreationFailure, Role};
use bursar_core::refusal::RefusalReason;
use jiff::tz::TimeZone;

use crate::*;

const WHY: &str = "pods \"chat-7d4b\" is forbidden: exceeded quota: gpus, requested: 1, limited: 0";

fn refused(replicas: u32, since: i64) -> Event {
    let deployment = Deployment {
        replicas,
        first_ordinal: None,
        rollout: None,
        creation_failure: Some(PodCreationFailure {
            since: at(since),
            why: WHY.into(),
        }),
    };
    Event::Deployment(key(), Some(deployment))
}

/// A service at zero for which a request is held.
fn asked() -> Model {
    let mut model = Model::new(TimeZone::UTC, at(-3600));
    tell(
        &mut model,
        -3600,
        [
            Event::Service(key(), Some(service())),
            replicas(0),
            gateway(-3600),
        ],
    );
    let decisions = tell(&mut model, 0, [demand(1)]);
    assert_eq!(decisions.service_orders[0].replicas, (0, 1));
    model
}

#[test]
fn requests_are_told_after_a_minute_why_the_cluster_makes_no_pod() {
    let mut model = asked();
    tell(&mut model, 1, [refused(1, 1)]);
    decide(&mut model, at(60));
    assert_eq!(model.service(&key()).unwrap().decision.refusal, None);
    decide(&mut model, at(61));
    let refusal = model.service(&key()).unwrap().decision.refusal.unwrap();
    assert_eq!(refusal.reason, RefusalReason::StartFailed);
    assert!(refusal.message.contains(WHY), "{}", refusal.message);
}

#[test]
fn once_nobody_asks_any_more_the_next_request_is_a_new_try() {
    let mut model = asked();
    tell(&mut model, 1, [refused(1, 1)]);
    tell(&mut model, 61, [demand(0)]);
    let decisions = tell(&mut model, 121, []);
    assert_eq!(decisions.service_orders[0].replicas, (1, 0));
    tell(&mut model, 122, [replicas(0)]);
    let decision = model.service(&key()).unwrap().decision;
    assert_eq!(decision.refusal, None, "{}", decision.reason);
}

#[test]
fn replicas_that_run_keep_the_service_going_while_others_are_refused() {
    let mut model = asked();
    tell(
        &mut model,
        40,
        [replicas(1), pod("first", 40), reading("first", 20)],
    );
    let decisions = tell(&mut model, 50, [demand(0)]);
    assert_eq!(decisions.service_orders.len(), 0, "{decisions:?}");
    tell(&mut model, 51, [refused(3, 51)]);
    decide(&mut model, at(1000));
    let decision = model.service(&key()).unwrap().decision;
    assert_eq!(decision.refusal, None, "{}", decision.reason);
}

const GPU: &str = "nvidia.com/gpu";

fn gpu() -> Arc<PodShape> {
    let requests = [(GPU.to_owned(), 1000), ("pods".to_owned(), 1000)];
    Arc::new(PodShape {
        requests: requests.into(),
        ..PodShape::default()
    })
}

fn starts_a_job(decisions: &Decisions) -> bool {
    decisions.job_orders.iter().any(|order| order.run)
}

/// Adds a node of one GPU and a job that asks for it. Returns whether the room is kept for the service.
fn room_is_kept(model: &mut Model, second: i64) -> bool {
    let node = Node {
        takes_pods: true,
        allocatable: [(GPU.to_owned(), 1000), ("pods".to_owned(), 110_000)].into(),
        gpus: [(GPU.to_owned(), 1)].into(),
        ..Node::default()
    };
    let job = Job {
        created: at(0),
        priority: 0,
        cluster_priority: 0,
        preemption_allowed: true,
        suspend: false,
        paused: false,
        seed: 1,
        restarts: 3,
        restart_count: 0,
        ended_well: Default::default(),
        success_roles: Default::default(),
        resumes_whole: false,
        is_adopted: false,
        roles: vec![Role {
            name: "".into(),
            replicas: 1,
            worker: gpu(),
            grace_seconds: 30,
        }],
    };
    let key = Key::new("team", "train");
    let events = [
        Event::Node("node".into(), Some(node)),
        Event::Job(key, Some(job)),
    ];
    let decisions = tell(model, second, events);
    !starts_a_job(&decisions)
}

fn asked_for_gpu() -> Model {
    let mut model = asked();
    let service = Service {
        replica: gpu(),
        ..service()
    };
    tell(&mut model, 0, [Event::Service(key(), Some(service))]);
    model
}

#[test]
fn what_is_refused_for_a_minute_keeps_no_room_from_others() {
    let mut model = asked_for_gpu();
    tell(&mut model, 1, [refused(1, 1)]);
    assert!(room_is_kept(&mut model, 2));
    assert!(!starts_a_job(&decide(&mut model, at(60))));
    let after = decide(&mut model, at(61));
    assert!(starts_a_job(&after), "the model looks again by itself");
}

#[test]
fn what_no_pod_comes_of_keeps_no_room_after_five_minutes() {
    let mut model = asked_for_gpu();
    tell(&mut model, 1, [replicas(1)]);
    assert!(room_is_kept(&mut model, 2));
    assert!(!starts_a_job(&decide(&mut model, at(299))));
    let after = decide(&mut model, at(301));
    assert!(starts_a_job(&after), "the model looks again by itself");
}
