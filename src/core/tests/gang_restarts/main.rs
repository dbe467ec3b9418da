//! What becomes of a gang when a worker ends: all workers start again, what the cluster takes away
//! counts against no limit, and a worker on a lost node is given up.

#![allow(clippy::unwrap_used)] // a test fails by ending

mod deleted_jobs;
mod disruptions;
mod failures;
mod finished_roles;
mod lost_nodes;
#[path = "../common/pods.rs"]
mod pods;
mod refused;
mod refused_jobs;
mod resumed;
mod without_node;

use std::collections::BTreeMap;
use std::sync::Arc;

use bursar_core::model::event::{BatchJob, Event, Job, Name, Node, Owner, Pod, PodShape, Role};
use bursar_core::model::{Key, Model};
use bursar_core::plan::{JobOrder, decide};
use bursar_core::training::JobDecision;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use pods::new_pod;

const GPU: &str = "nvidia.com/gpu";
pub(crate) const MINUTE: i64 = 60;

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_796_000_000 + second).unwrap()
}

fn node(unready: bool) -> Node {
    Node {
        takes_pods: !unready,
        unready,
        allocatable: [(GPU.to_owned(), 1000), ("pods".to_owned(), 110_000)].into(),
        ..Node::default()
    }
}

pub(crate) fn set_node(model: &mut Model, number: u32, second: i64, unready: bool) {
    let name = format!("gpu-{number}").as_str().into();
    model.apply(Event::Node(name, Some(node(unready))), at(second));
}

/// A model with so many nodes of one GPU each.
pub(crate) fn model(nodes: u32) -> Model {
    let mut model = Model::new(TimeZone::UTC, at(0));
    for number in 0..nodes {
        set_node(&mut model, number, 0, false);
    }
    model
}

fn worker() -> Arc<PodShape> {
    Arc::new(PodShape {
        requests: [(GPU.to_owned(), 1000), ("pods".to_owned(), 1000)].into(),
        ..PodShape::default()
    })
}

/// A gang of workers with a GPU each that may restart three times, made at a second.
pub(crate) fn job(second: i64, workers: u32) -> Job {
    Job {
        created: at(second),
        priority: 0,
        suspend: false,
        paused: false,
        preemption_allowed: false,
        cluster_priority: 0,
        seed: 1,
        restarts: 3,
        restart_count: 0,
        ended_well: Default::default(),
        success_roles: Default::default(),
        resumes_whole: false,
        is_adopted: false,
        roles: vec![Role {
            name: "".into(),
            replicas: workers,
            worker: worker(),
            grace_seconds: 60,
        }],
    }
}

/// A gang of these roles of a worker each.
pub(crate) fn job_of_roles(roles: &[&str]) -> Job {
    let spec = job(0, 1);
    let role = |name: &&str| Role {
        name: Name::from(*name),
        ..spec.roles[0].clone()
    };
    Job {
        roles: roles.iter().map(role).collect(),
        ..spec
    }
}

pub(crate) fn set_job(model: &mut Model, name: &str, second: i64, job: Job) {
    model.apply(Event::Job(Key::new("lab", name), Some(job)), at(second));
}

/// The UID of the Job that begins at a second.
pub(crate) fn job_uid(second: i64) -> Name {
    format!("job-{second}").as_str().into()
}

/// A worker of `train`, of the Job that begins at this second as the worker does.
pub(crate) fn pod(rank: u32, node: u32, second: i64) -> Pod {
    Pod {
        node: Some(format!("gpu-{node}").as_str().into()),
        grace_seconds: 60,
        ready_since: Some(at(second)),
        was_ready: true,
        made_by: Some(job_uid(second)),
        ..new_pod(
            Key::new("lab", &format!("train-{rank}")),
            Owner::Job("train".into(), "".into()),
            worker(),
            at(second),
        )
    }
}

/// The gang `train`, and what the Job controller, the kubelets and the executor make of its orders.
pub(crate) struct Cluster {
    pub(crate) model: Model,
    workers: u32,
    pub(crate) batch: BatchJob,
    /// The workers of the present run by rank, with their UIDs.
    pods: BTreeMap<u32, (Name, Pod)>,
}

impl Cluster {
    /// The gang runs, on the first nodes of so many.
    pub(crate) fn new(workers: u32, nodes: u32) -> Self {
        let mut model = model(nodes);
        set_job(&mut model, "train", 0, job(0, workers));
        let mut cluster = Self {
            model,
            workers,
            batch: BatchJob::default(),
            pods: BTreeMap::new(),
        };
        let start = cluster.order(1);
        cluster.start(1, &start, 0);
        assert_eq!(cluster.decide(2), []);
        cluster
    }

    pub(crate) fn decide(&mut self, second: i64) -> Vec<JobOrder> {
        let orders = decide(&mut self.model, at(second)).job_orders;
        let of_train = orders.into_iter();
        of_train
            .filter(|order| &*order.job.name == "train")
            .collect()
    }

    /// The only order that is given.
    pub(crate) fn order(&mut self, second: i64) -> JobOrder {
        let mut orders = self.decide(second);
        assert_eq!(orders.len(), 1, "{orders:?}");
        orders.remove(0)
    }

    /// How it is decided over the gang, and why.
    pub(crate) fn decision(&self) -> &JobDecision {
        self.model.job(&Key::new("lab", "train")).unwrap()
    }

    pub(crate) fn show_batch(&mut self, second: i64) {
        let key = Key::new("lab", "train");
        let event = Event::BatchJob(key, "".into(), Some(self.batch.clone()));
        self.model.apply(event, at(second));
    }

    /// Changes the pod of a rank.
    pub(crate) fn change(&mut self, rank: u32, second: i64, change: impl FnOnce(&mut Pod)) {
        let (uid, pod) = self.pods.get_mut(&rank).unwrap();
        change(pod);
        let event = Event::Pod(uid.clone(), Some(Box::new(pod.clone())));
        self.model.apply(event, at(second));
    }

    /// A worker ends with an error.
    pub(crate) fn fail(&mut self, rank: u32, second: i64) {
        self.batch.failed += 1;
        self.change(rank, second, |pod| {
            pod.ended = Some(at(second));
            pod.failure = Some("container worker: exit code 1".into());
            pod.ready_since = None;
        });
    }

    /// The pod of a rank is gone.
    pub(crate) fn remove(&mut self, rank: u32, second: i64) {
        let (uid, _) = self.pods.remove(&rank).unwrap();
        self.model.apply(Event::Pod(uid, None), at(second));
    }

    /// The present Job makes the pod of a rank.
    pub(crate) fn add(&mut self, rank: u32, second: i64) {
        let mut pod = pod(rank, rank, second);
        pod.made_by = self.batch.uid.clone();
        let uid = format!("uid-{rank}-{second}").as_str().into();
        self.pods.insert(rank, (uid, pod));
        self.change(rank, second, |_| {});
    }

    /// The Jobs stop as they are told; workers end a second later, but for those of these ranks.
    pub(crate) fn stop(&mut self, second: i64, order: &JobOrder, unstoppable: &[u32]) {
        assert!(!order.run);
        self.batch.running = false;
        if let Some(restart) = order.restart {
            self.batch.restarts = restart.count;
            self.batch.disruptions = restart.disruptions;
            self.batch.restart_at = Some(restart.at);
        }
        self.show_batch(second);
        for rank in 0..self.workers {
            let found = self.pods.get(&rank);
            if found.is_none_or(|(_, pod)| pod.ended.is_some()) {
                continue;
            }
            if self.pods[&rank].1.deletion.is_none() {
                let by = at(second + 60);
                self.change(rank, second, |pod| pod.deletion = Some(by));
            }
            if !unstoppable.contains(&rank) {
                self.fail(rank, second + 1);
            }
        }
        self.batch.active = u32::try_from(unstoppable.len()).unwrap();
        self.show_batch(second + 1);
    }

    /// The Jobs run as they are told, with new pods on the nodes from this one on.
    pub(crate) fn start(&mut self, second: i64, order: &JobOrder, node: u32) {
        assert!(order.run);
        if !self.pods.is_empty() {
            assert_eq!(order.recreate, ["".into()], "the Job has run");
        }
        for (uid, pod) in std::mem::take(&mut self.pods).into_values() {
            if pod.ended.is_some() {
                self.model.apply(Event::Pod(uid, None), at(second));
            }
        }
        self.batch = BatchJob {
            running: true,
            uid: Some(job_uid(second)),
            started: Some(at(second)),
            active: self.workers,
            restarts: order.restarts,
            disruptions: self.batch.disruptions,
            ..BatchJob::default()
        };
        self.show_batch(second);
        for rank in 0..self.workers {
            let uid = format!("uid-{rank}-{second}").as_str().into();
            self.pods
                .insert(rank, (uid, pod(rank, node + rank, second)));
            self.change(rank, second, |_| {});
        }
    }

    /// A worker fails, and all start again.
    fn restart(&mut self, second: i64) {
        self.fail(0, second);
        let stop = self.order(second);
        self.stop(second, &stop, &[]);
        let at = stop.restart.unwrap().at.as_second() - at(0).as_second();
        let start = self.order(at);
        self.start(at, &start, 0);
        assert_eq!(self.decide(at + 1), []);
    }

    /// The cluster takes a worker away: it ends within its grace.
    pub(crate) fn disrupt(&mut self, rank: u32, second: i64) {
        self.change(rank, second, |pod| {
            pod.disrupted = true;
            pod.deletion = Some(at(second + 60));
        });
    }
}
