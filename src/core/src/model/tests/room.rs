//! Room that is reserved for pods without a node.

use std::sync::Arc;

use super::super::event::{Event, Key, Name, Node, Owner, Pod, PodShape};
use super::super::state::Model;
use super::random_events::at;
use super::{model, settle};
use crate::capacity::Gang;

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
        released: false,
        start_failure: None,
        failure: None,
        disrupted: false,
        made_by: None,
        scheduling: crate::model::event::Scheduling::Queued,
        resident: false,
    }
}

/// How many workers of one GPU the free room takes.
fn free(model: &mut Model) -> u32 {
    use crate::capacity::Room;
    let gang = Gang {
        workers: 100,
        worker: shape(1).requests.clone(),
        ..Gang::default()
    };
    model.room.for_queues(vec!["test".into()]).fits(&[&gang])
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
