//! Room that is reserved for pods without a node.

use std::sync::Arc;

use fastrand::Rng;
use jiff::SignedDuration;

use super::super::event::{
    BatchJob, Event, Job, Key, Name, Node, Owner, Pod, PodShape, Role, Scheduling,
};
use super::super::state::Model;
use super::random_events::at;
use super::{model, settle};
use crate::pod_set::PodSet;

const GPU: &str = "nvidia.com/gpu";

fn shape(gpus: i64) -> Arc<PodShape> {
    PodShape {
        requests: [(GPU.to_owned(), gpus * 1000)].into(),
        ..PodShape::default()
    }
    .into()
}

fn node(gpus: i64) -> Node {
    Node {
        takes_pods: true,
        allocatable: [(GPU.to_owned(), gpus * 1000)].into(),
        ..Node::default()
    }
}

fn pod(owner: Owner, gpus: i64) -> Pod {
    Pod {
        key: Key::new("blue", "pod"),
        owner,
        shape: shape(gpus),
        node: None,
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
        scheduling: crate::model::event::Scheduling::Queued,
        resident: false,
    }
}

/// How many workers of one GPU the free room takes.
fn free(model: &mut Model) -> u32 {
    use crate::pod_set::SchedulingCapacity;
    let pod_set = PodSet {
        workers: 100,
        worker: shape(1).requests.clone(),
        ..PodSet::default()
    };
    model
        .capacity
        .for_queues(vec!["test".into()])
        .fits(&[&pod_set])
}

#[test]
fn a_pod_of_a_deleted_workload_keeps_its_room_until_it_is_gone() {
    let owners = [
        Owner::Service("deleted".into()),
        Owner::Job("deleted".into(), "worker".into()),
    ];
    for owner in owners {
        let mut model = model();
        model.apply(Event::Node("node".into(), Some(node(8))), at(0));
        let uid: Name = "uid".into();
        let pod = Box::new(pod(owner, 3));
        model.apply(Event::Pod(uid.clone(), Some(pod)), at(0));
        settle(&mut model, at(0));
        assert_eq!(free(&mut model), 5);
        model.apply(Event::Pod(uid, None), at(1));
        settle(&mut model, at(1));
        assert_eq!(free(&mut model), 8);
    }
}

/// A TrainingJob with one role, and its Job, which runs.
fn training(model: &mut Model, role: &str) {
    let key = Key::new("blue", "train");
    let job = Job {
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
            name: role.into(),
            replicas: 1,
            worker: shape(3),
            grace_seconds: 30,
        }],
    };
    model.apply(Event::Job(key, Some(job)), at(0));
}

fn batch_job(model: &mut Model, name: &str, role: &str) {
    let job = BatchJob {
        uid: Some("job".into()),
        running: true,
        started: Some(at(0)),
        ..BatchJob::default()
    };
    let key = Key::new("blue", name);
    model.apply(Event::BatchJob(key, role.into(), Some(job)), at(0));
}

/// How many GPUs of 8 are free while a pod of three of them has found no node since the beginning.
fn free_at(model: &Model, pod: Pod, millis: i64) -> u32 {
    let mut model = model.clone();
    model.apply(Event::Node("node".into(), Some(node(8))), at(0));
    let since = at(0);
    let scheduling = Scheduling::Unschedulable {
        since,
        why: "no node".into(),
    };
    let pod = Pod { scheduling, ..pod };
    model.apply(Event::Pod("uid".into(), Some(Box::new(pod))), at(0));
    settle(&mut model, at(0));
    if millis > 0 {
        settle(&mut model, at(millis));
    }
    free(&mut model)
}

#[test]
fn a_pod_that_only_has_the_labels_of_a_workload_keeps_room_no_longer_than_any_other() {
    let made_by = |by: &str, owner: Owner| Pod {
        made_by: Some(by.into()),
        ..pod(owner, 3)
    };
    let worker = |name: &str| Owner::Job(name.into(), "worker".into());
    let mut ghost = model();
    batch_job(&mut ghost, "ghost", "worker");
    let mut other_role = model();
    training(&mut other_role, "master");
    batch_job(&mut other_role, "train", "master");
    for (model, pod) in [
        (model(), pod(Owner::Other, 3)),
        (model(), pod(Owner::Service("ghost".into()), 3)),
        (model(), pod(worker("ghost"), 3)),
        (model(), made_by("job", worker("ghost"))),
        // a Job has made it, and no TrainingJob has the Job
        (ghost, made_by("job", worker("ghost"))),
        // its Job is not that of its role
        (other_role, made_by("job", worker("train"))),
    ] {
        let owner = &pod.owner;
        assert_eq!(free_at(&model, pod.clone(), 299_000), 5, "{owner:?}");
        assert_eq!(free_at(&model, pod.clone(), 300_000), 8, "{owner:?}");
    }
}

#[test]
fn how_long_room_is_kept_for_a_worker_that_a_job_made_is_decided_in_the_queue() {
    // after five minutes, a gang of which a worker has no pod at all is taken back
    for (role, second) in [("worker", 301), ("gone", 299)] {
        let mut model = model();
        // its queue waits for longer where a node can come
        let node_start = SignedDuration::from_mins(20);
        model.apply(Event::NodeStart(Some(node_start)), at(0));
        training(&mut model, "worker");
        batch_job(&mut model, "train", "worker");
        batch_job(&mut model, "train", role);
        let worker = Pod {
            made_by: Some("job".into()),
            ..pod(Owner::Job("train".into(), role.into()), 3)
        };
        // room for a worker of the role that is there is kept as well, with a pod or without
        let left = if role == "worker" { 5 } else { 2 };
        assert_eq!(free_at(&model, worker, second * 1000), left, "{role}");
    }
}

#[test]
fn room_is_as_before_once_pods_of_any_size_have_gone() {
    for seed in 0..200 {
        let mut rng = Rng::with_seed(seed);
        let mut model = model();
        model.apply(Event::Node("node".into(), Some(node(8))), at(0));
        let mut pods: Vec<Name> = Vec::new();
        for number in 0..rng.u8(1..8) {
            let owners = [Owner::Other, Owner::Job("ghost".into(), "".into())];
            let amount = *rng.choice(&[1000, i64::MAX - 1, i64::MAX]).unwrap();
            let shape = PodShape {
                requests: [(GPU.to_owned(), amount), ("cpu".to_owned(), amount)].into(),
                ..PodShape::default()
            };
            let pod = Pod {
                shape: shape.into(),
                node: rng.bool().then(|| "node".into()),
                resident: rng.u8(0..3) == 0,
                ..pod(rng.choice(owners).unwrap(), 0)
            };
            let uid: Name = format!("uid{number}").as_str().into();
            model.apply(Event::Pod(uid.clone(), Some(Box::new(pod))), at(0));
            pods.push(uid);
            model.check().unwrap();
        }
        settle(&mut model, at(0));
        rng.shuffle(&mut pods);
        for uid in pods {
            model.apply(Event::Pod(uid, None), at(1));
            model.check().unwrap();
        }
        settle(&mut model, at(1));
        assert_eq!(free(&mut model), 8, "seed {seed}");
    }
}
