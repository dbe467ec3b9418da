//! A cluster with controllers of Jobs, a scheduler that knows priorities, and a node autoscaler,
//! all of which act once a second.

use std::collections::BTreeMap;
use std::sync::Arc;

use bursar_core::model::event::{
    BatchJob, Deployment, Event, Job, Node, Owner, Pod, PodShape, Role, Scheduling, Service,
};
use bursar_core::model::{Key, Model, Name};
use bursar_core::placement::{NodeTerm, Operator, Placement, Requirement};
use bursar_core::plan::decide;
use bursar_core::pod_set::Resources;
use bursar_core::pricing::PricingAttributes;
use bursar_core::training::{JobDecision, Retry};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::pods::new_pod;
use crate::services::new_service;

pub(crate) const GPU: &str = "nvidia.com/gpu";
const CPU: &str = "cpu";

/// An instant by its seconds.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_796_000_000 + second).unwrap()
}

/// A TrainingJob to be made.
#[derive(Clone)]
pub(crate) struct Gang {
    pub(crate) workers: u32,
    pub(crate) gpus: i64,
    /// Of each worker.
    pub(crate) cpus: i64,
    /// Within its namespace.
    pub(crate) priority: i32,
    /// Beside gangs of other namespaces.
    pub(crate) cluster_priority: i32,
    /// The label of the nodes that it asks for.
    pub(crate) pool: Option<&'static str>,
    /// How many seconds it runs with all its workers.
    pub(crate) seconds: i64,
    pub(crate) preemption_allowed: bool,
}

struct JobObject {
    spec: Job,
    gang: Gang,
    shape: Arc<PodShape>,
    running: bool,
    finished: bool,
    started: Option<Timestamp>,
    retry: Option<Retry>,
    /// When it first ran as a whole.
    complete: Option<i64>,
    pods: Vec<Name>,
    /// Pods of earlier runs that have not ended, and when they will have.
    stopping: Vec<(Name, i64)>,
}

/// The nodes that a node autoscaler makes: one for each pod that waits.
pub(crate) struct Pool {
    pub(crate) gpus: i64,
    pub(crate) label: &'static str,
    /// From a pod's creation to the node's readiness.
    pub(crate) boot_seconds: i64,
    /// How many it makes at most.
    pub(crate) most: usize,
}

/// The cluster.
pub(crate) struct Cluster {
    pub(crate) model: Model,
    pub(crate) pool: Option<Pool>,
    /// How many seconds workers take to stop.
    pub(crate) stop_seconds: i64,
    /// Pods for which the scheduler finds no node, wherever there is room: their names begin so.
    pub(crate) unplaceable: Option<&'static str>,
    /// Jobs have UIDs, which their pods name.
    pub(crate) names_jobs: bool,
    /// Orders to stop get lost.
    pub(crate) loses_stops: bool,
    /// How many of each job were.
    lost_stops: BTreeMap<Key, usize>,
    nodes: BTreeMap<Name, Node>,
    jobs: BTreeMap<Key, JobObject>,
    services: Vec<(Service, Deployment, Key)>,
    pods: BTreeMap<Name, Pod>,
    made: usize,
    /// How often each job was told to run or not.
    pub(crate) orders: BTreeMap<Key, Vec<bool>>,
    pub(crate) decisions: BTreeMap<Key, JobDecision>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self {
            model: Model::new(TimeZone::UTC, at(0)),
            pool: None,
            stop_seconds: 0,
            unplaceable: None,
            names_jobs: false,
            loses_stops: false,
            lost_stops: BTreeMap::new(),
            nodes: BTreeMap::new(),
            jobs: BTreeMap::new(),
            services: Vec::new(),
            pods: BTreeMap::new(),
            made: 0,
            orders: BTreeMap::new(),
            decisions: BTreeMap::new(),
        }
    }

    pub(crate) fn add_node(&mut self, name: &str, gpus: i64, pool: Option<&str>, second: i64) {
        let pool = pool.map(|pool| ("pool".to_owned(), pool.to_owned()));
        let node = Node {
            takes_pods: true,
            labels: pool.into_iter().collect(),
            allocatable: [(GPU.to_owned(), gpus * 1000)].into(),
            ..Node::default()
        };
        self.nodes.insert(name.into(), node.clone());
        let event = Event::Node(name.into(), Some(node));
        self.model.apply(event, at(second));
    }

    pub(crate) fn add_gang(&mut self, namespace: &str, name: &str, gang: &Gang, second: i64) {
        let pool = gang.pool.map(|pool| ("pool".to_owned(), pool.to_owned()));
        let shape = Arc::new(PodShape {
            node_selector: pool.into_iter().collect(),
            ..shape(gang.gpus, gang.cpus)
        });
        let job = Job {
            created: at(second),
            priority: gang.priority,
            cluster_priority: gang.cluster_priority,
            preemption_allowed: gang.preemption_allowed,
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
                replicas: gang.workers,
                worker: Arc::clone(&shape),
                grace_seconds: 30,
            }],
        };
        let key = Key::new(namespace, name);
        let object = JobObject {
            spec: job.clone(),
            gang: gang.clone(),
            shape,
            running: false,
            finished: false,
            started: None,
            retry: None,
            complete: None,
            pods: Vec::new(),
            stopping: Vec::new(),
        };
        self.jobs.insert(key.clone(), object);
        self.model.apply(Event::Job(key, Some(job)), at(second));
    }

    /// Gives a node CPUs as well.
    pub(crate) fn add_cpus(&mut self, name: &str, cpus: i64, second: i64) {
        let node = self.nodes.get_mut(name).unwrap();
        node.allocatable.insert(CPU.to_owned(), cpus * 1000);
        let event = Event::Node(name.into(), Some(node.clone()));
        self.model.apply(event, at(second));
    }

    /// A pod of no workload that stays on a node until it is deleted.
    pub(crate) fn add_other(&mut self, name: &str, node: &str, gpus: i64, second: i64) {
        let key = Key::new("other", name);
        let mut pod = pod(key, Owner::Other, Arc::new(shape(gpus, 0)), second);
        pod.node = Some(node.into());
        self.tell_pod(&name.into(), pod, second);
    }

    /// A pod that has the labels of a worker of the TrainingJob `ghost`, on a node.
    pub(crate) fn add_labelled(&mut self, name: &str, node: &str, gpus: i64, second: i64) {
        let key = Key::new("other", name);
        let owner = Owner::Job("ghost".into(), "".into());
        let mut pod = pod(key, owner, Arc::new(shape(gpus, 0)), second);
        pod.node = Some(node.into());
        self.tell_pod(&name.into(), pod, second);
    }

    /// Pods of no workload that wait for a GPU each.
    pub(crate) fn add_waiting(&mut self, name: &str, number: usize, priority: i32, second: i64) {
        let shape = Arc::new(PodShape {
            priority,
            ..shape(1, 0)
        });
        for number in 0..number {
            let uid = format!("{name}-{number}");
            let key = Key::new("other", &uid);
            let pod = pod(key, Owner::Other, Arc::clone(&shape), second);
            self.tell_pod(&uid.as_str().into(), pod, second);
        }
    }

    /// A pod on a node that has the labels of a worker, and that nobody tells to stop.
    pub(crate) fn add_stray(
        &mut self,
        (namespace, job): (&str, &str),
        node: &str,
        gpus: i64,
        second: i64,
    ) {
        let uid = format!("{namespace}-{job}-stray");
        let owner = Owner::Job(job.into(), "".into());
        let key = Key::new(namespace, &uid);
        let mut pod = pod(key, owner, Arc::new(shape(gpus, 0)), second);
        pod.node = Some(node.into());
        self.tell_pod(&uid.as_str().into(), pod, second);
    }

    /// A pod that costs nothing: no scheduler looks at it. It says that a DaemonSet made it for this node.
    pub(crate) fn add_pending_resident(&mut self, name: &str, node: &str, gpus: i64, second: i64) {
        let only = Requirement {
            key: "metadata.name".to_owned(),
            operator: Operator::In,
            values: vec![node.to_owned()],
        };
        let term = NodeTerm {
            names: vec![only],
            ..NodeTerm::default()
        };
        let shape = PodShape {
            requests: [(GPU.to_owned(), gpus * 1000)].into(),
            placement: Arc::new(Placement {
                terms: Some(vec![term]),
                ..Placement::default()
            }),
            ..PodShape::default()
        };
        let key = Key::new("other", name);
        let mut pod = pod(key, Owner::Other, Arc::new(shape), second);
        (pod.resident, pod.scheduling) = (true, Scheduling::Ignored);
        self.tell_pod(&name.into(), pod, second);
    }

    pub(crate) fn delete_pod(&mut self, uid: &str, second: i64) {
        self.pods.remove(uid);
        self.model.apply(Event::Pod(uid.into(), None), at(second));
    }

    /// Deletes a TrainingJob, with the pods that it has.
    pub(crate) fn delete_gang(&mut self, namespace: &str, name: &str, second: i64) {
        let key = Key::new(namespace, name);
        let job = self.jobs.remove(&key).unwrap();
        for uid in job.pods {
            self.delete_pod(&uid, second);
        }
        let event = Event::BatchJob(key.clone(), "".into(), None);
        self.model.apply(event, at(second));
        self.model.apply(Event::Job(key, None), at(second));
    }

    /// Suspends a TrainingJob, as its user does.
    pub(crate) fn suspend_gang(&mut self, namespace: &str, name: &str, second: i64) {
        let key = Key::new(namespace, name);
        let spec = Job {
            suspend: true,
            paused: false,
            ..self.jobs[&key].spec.clone()
        };
        self.model.apply(Event::Job(key, Some(spec)), at(second));
    }

    /// A gang was taken back because the cluster refused its pods, and may start again.
    pub(crate) fn take_back_refused(&mut self, namespace: &str, name: &str, second: i64) {
        let key = Key::new(namespace, name);
        self.jobs.get_mut(&key).unwrap().retry = Some(Retry {
            count: 1,
            at: at(second),
            creation_failure: Some("exceeded quota".into()),
            had_room: false,
        });
        self.tell_job(&key, second);
    }

    /// The workers of a gang take so long to stop at most.
    pub(crate) fn set_grace(&mut self, namespace: &str, name: &str, seconds: i64, second: i64) {
        let key = Key::new(namespace, name);
        let job = self.jobs.get_mut(&key).unwrap();
        job.spec.roles[0].grace_seconds = seconds;
        let spec = job.spec.clone();
        self.model.apply(Event::Job(key, Some(spec)), at(second));
    }

    /// The cluster tells the first worker of a gang to stop, which takes its time.
    pub(crate) fn evict_worker(&mut self, namespace: &str, name: &str, second: i64) {
        let uid = self.jobs[&Key::new(namespace, name)].pods[0].clone();
        let mut pod = self.pods[&uid].clone();
        (pod.disrupted, pod.deletion) = (true, Some(at(second + 600)));
        pod.grace_seconds = 600;
        self.tell_pod(&uid, pod, second);
    }

    /// Its user keeps the TrainingJob as it is.
    pub(crate) fn pause_gang(&mut self, namespace: &str, name: &str, second: i64) {
        let key = Key::new(namespace, name);
        let job = self.jobs.get_mut(&key).unwrap();
        job.spec.paused = true;
        let spec = job.spec.clone();
        self.model.apply(Event::Job(key, Some(spec)), at(second));
    }

    /// A service of which each replica takes so many GPUs, with one that has no node yet.
    pub(crate) fn add_service(
        &mut self,
        name: (&str, &str),
        gpus: i64,
        priority: i32,
        second: i64,
    ) {
        self.add_replicas(name, 1, gpus, priority, second);
    }

    /// A service with so many replicas without a node, each of which takes so many GPUs.
    pub(crate) fn add_replicas(
        &mut self,
        (namespace, name): (&str, &str),
        replicas: u32,
        gpus: i64,
        priority: i32,
        second: i64,
    ) {
        let shape = Arc::new(PodShape {
            priority,
            ..shape(gpus, 0)
        });
        let key = Key::new(namespace, name);
        let service = Service {
            priority,
            cluster_priority: priority,
            min: replicas,
            max: replicas,
            idle_after: SignedDuration::from_hours(2),
            ..new_service(Arc::clone(&shape), at(second))
        };
        let deployment = Deployment {
            replicas,
            first_ordinal: None,
            rollout: None,
            creation_failure: None,
        };
        self.services.push((service, deployment, key.clone()));
        self.tell_services(second);
        for number in 0..replicas {
            let uid: Name = format!("{namespace}-{name}-{number}").as_str().into();
            let owner = Owner::Service(key.name.clone());
            let pod = pod(Key::new(namespace, &uid), owner, Arc::clone(&shape), second);
            self.tell_pod(&uid, pod, second);
        }
    }

    /// The class of a service counts as this beside other namespaces.
    pub(crate) fn set_cluster_priority(
        &mut self,
        (namespace, name): (&str, &str),
        priority: i32,
        second: i64,
    ) {
        let key = Key::new(namespace, name);
        let mut services = self.services.iter_mut();
        let found = services.find(|(_, _, other)| *other == key).unwrap();
        found.0.cluster_priority = priority;
        self.tell_services(second);
    }

    /// Gives a service one more replica, which has no node yet.
    pub(crate) fn add_replica(&mut self, namespace: &str, name: &str, second: i64) {
        let key = Key::new(namespace, name);
        let mut services = self.services.iter_mut();
        let found = services.find(|(_, _, other)| *other == key).unwrap();
        let number = found.1.replicas;
        (found.0.min, found.0.max) = (number + 1, number + 1);
        found.1.replicas = number + 1;
        let shape = Arc::clone(&found.0.replica);
        self.tell_services(second);
        let uid: Name = format!("{namespace}-{name}-{number}").as_str().into();
        let owner = Owner::Service(key.name);
        let pod = pod(Key::new(namespace, &uid), owner, shape, second);
        self.tell_pod(&uid, pod, second);
    }

    /// Deletes a service, with the pods that it has.
    pub(crate) fn delete_service(&mut self, namespace: &str, name: &str, second: i64) {
        let key = Key::new(namespace, name);
        self.services.retain(|(_, _, other)| *other != key);
        self.model
            .apply(Event::Deployment(key.clone(), None), at(second));
        self.model
            .apply(Event::Service(key.clone(), None), at(second));
        let pods = self.pods.iter();
        let owner = Owner::Service(key.name);
        let pods = pods.filter(|(_, pod)| pod.key.namespace == key.namespace && pod.owner == owner);
        let uids: Vec<Name> = pods.map(|(uid, _)| uid.clone()).collect();
        for uid in uids {
            self.delete_pod(&uid, second);
        }
    }

    fn tell_services(&mut self, second: i64) {
        for (service, deployment, key) in self.services.clone() {
            let event = Event::Service(key.clone(), Some(service));
            self.model.apply(event, at(second));
            let event = Event::Deployment(key, Some(deployment));
            self.model.apply(event, at(second));
        }
    }

    /// The node of a replica of a service.
    pub(crate) fn node_of(&self, uid: &str) -> Option<&str> {
        self.pods[uid].node.as_deref()
    }

    /// A node takes no more pods, or does again.
    pub(crate) fn cordon(&mut self, name: &str, is_cordoned: bool, second: i64) {
        let node = self.nodes.get_mut(name).unwrap();
        node.takes_pods = !is_cordoned;
        let event = Event::Node(name.into(), Some(node.clone()));
        self.model.apply(event, at(second));
    }

    /// Another leader, which knows what the objects show.
    pub(crate) fn change_leader(&mut self, second: i64) {
        self.model = Model::new(TimeZone::UTC, at(second));
        for (name, node) in self.nodes.clone() {
            self.model.apply(Event::Node(name, Some(node)), at(second));
        }
        self.tell_services(second);
        let keys: Vec<Key> = self.jobs.keys().cloned().collect();
        for key in keys {
            let spec = self.jobs[&key].spec.clone();
            let event = Event::Job(key.clone(), Some(spec));
            self.model.apply(event, at(second));
            if self.orders.contains_key(&key) {
                self.tell_job(&key, second);
            }
        }
        for (uid, pod) in self.pods.clone() {
            let event = Event::Pod(uid, Some(Box::new(pod)));
            self.model.apply(event, at(second));
        }
    }

    /// How often a gang was told to run or not.
    pub(crate) fn orders_of(&self, namespace: &str, name: &str) -> &[bool] {
        let orders = self.orders.get(&Key::new(namespace, name));
        orders.map_or(&[], Vec::as_slice)
    }

    /// How many orders to stop of a job were lost.
    pub(crate) fn lost_stops_of(&self, namespace: &str, name: &str) -> usize {
        let lost = self.lost_stops.get(&Key::new(namespace, name));
        lost.copied().unwrap_or(0)
    }

    /// How many jobs of a namespace run.
    pub(crate) fn running(&self, namespace: &str) -> usize {
        self.count(namespace, |job| job.running && !job.finished)
    }

    /// How many jobs of a namespace wait.
    pub(crate) fn waiting(&self, namespace: &str) -> usize {
        self.count(namespace, |job| !job.running)
    }

    fn count(&self, namespace: &str, counts: impl Fn(&JobObject) -> bool) -> usize {
        let jobs = self.jobs.iter();
        let jobs = jobs.filter(|(key, _)| &*key.namespace == namespace);
        jobs.filter(|(_, job)| counts(job)).count()
    }

    /// When the gang first ran as a whole, if it has.
    pub(crate) fn complete(&self, namespace: &str, name: &str) -> Option<i64> {
        self.jobs[&Key::new(namespace, name)].complete
    }

    /// Why the gang does what it does.
    pub(crate) fn reason(&self, namespace: &str, name: &str) -> &str {
        &self.decisions[&Key::new(namespace, name)].reason
    }

    /// One second: decisions are carried out, pods are placed, nodes are made, and work ends.
    pub(crate) fn step(&mut self, second: i64) {
        loop {
            let decided = decide(&mut self.model, at(second));
            self.decisions.extend(decided.jobs);
            for order in decided.job_orders {
                if self.loses_stops && !order.run {
                    *self.lost_stops.entry(order.job).or_default() += 1;
                    continue;
                }
                self.orders
                    .entry(order.job.clone())
                    .or_default()
                    .push(order.run);
                self.carry_out(&order.job, order.run, order.retry, second);
            }
            if !self.model.has_marks() {
                break;
            }
        }
        self.end_stopping(second);
        self.schedule(second);
        self.make_nodes(second);
        self.work(second);
        self.model.check().unwrap();
    }

    fn carry_out(&mut self, key: &Key, run: bool, retry: Option<Retry>, second: i64) {
        let job = self.jobs.get_mut(key).unwrap();
        if job.running == run && !job.pods.is_empty() {
            return;
        }
        job.running = run;
        if !run {
            job.retry = retry;
        }
        let (mut made, mut gone) = (Vec::new(), Vec::new());
        if run {
            job.started = Some(at(second));
            for number in 0..job.gang.workers {
                let owner = Owner::Job(key.name.clone(), "".into());
                let uid = format!("{}-{}-{number}-{second}", key.namespace, key.name);
                let pod_key = Key::new(&key.namespace, &uid);
                let mut pod = pod(pod_key, owner, Arc::clone(&job.shape), second);
                pod.made_by = self.names_jobs.then(|| job_uid(key));
                job.pods.push(uid.as_str().into());
                made.push((Name::from(uid.as_str()), pod));
            }
        } else if self.stop_seconds == 0 {
            gone.append(&mut job.pods);
        } else {
            let ends = second + self.stop_seconds;
            for uid in std::mem::take(&mut job.pods) {
                let mut pod = self.pods[&uid].clone();
                if pod.node.is_none() {
                    gone.push(uid);
                    continue;
                }
                pod.deletion = Some(at(ends));
                pod.grace_seconds = self.stop_seconds;
                job.stopping.push((uid.clone(), ends));
                made.push((uid, pod));
            }
        }
        for uid in gone {
            self.pods.remove(&uid);
            self.model.apply(Event::Pod(uid, None), at(second));
        }
        for (uid, pod) in made {
            self.tell_pod(&uid, pod, second);
        }
        self.tell_job(key, second);
    }

    fn tell_pod(&mut self, uid: &Name, pod: Pod, second: i64) {
        self.pods.insert(uid.clone(), pod.clone());
        let event = Event::Pod(uid.clone(), Some(Box::new(pod)));
        self.model.apply(event, at(second));
    }

    fn tell_job(&mut self, key: &Key, second: i64) {
        let job = &self.jobs[key];
        let batch_job = BatchJob {
            running: job.running,
            finished: job.finished.then_some(true),
            active: u32::try_from(job.pods.len() + job.stopping.len()).unwrap(),
            succeeded: if job.finished { job.gang.workers } else { 0 },
            started: job.started,
            retry: job.retry.clone(),
            uid: self.names_jobs.then(|| job_uid(key)),
            ..BatchJob::default()
        };
        let event = Event::BatchJob(key.clone(), "".into(), Some(batch_job));
        self.model.apply(event, at(second));
    }

    /// The pods of a gang that stop never end.
    pub(crate) fn hang(&mut self, namespace: &str, name: &str) {
        let key = Key::new(namespace, name);
        let job = self.jobs.get_mut(&key).unwrap();
        job.stopping
            .iter_mut()
            .for_each(|(_, ends)| *ends = i64::MAX);
    }

    /// The pods of a gang that stop end at this second.
    pub(crate) fn end_at(&mut self, namespace: &str, name: &str, second: i64) {
        let key = Key::new(namespace, name);
        let job = self.jobs.get_mut(&key).unwrap();
        job.stopping.iter_mut().for_each(|(_, ends)| *ends = second);
    }

    /// Pods that have had their time to stop are gone.
    fn end_stopping(&mut self, second: i64) {
        let keys: Vec<Key> = self.jobs.keys().cloned().collect();
        for key in keys {
            let stopping = &mut self.jobs.get_mut(&key).unwrap().stopping;
            let (over, left) = stopping.drain(..).partition(|(_, ends)| *ends <= second);
            *stopping = left;
            let over: Vec<(Name, i64)> = over;
            for (uid, _) in &over {
                self.delete_pod(uid, second);
            }
            if !over.is_empty() {
                self.tell_job(&key, second);
            }
        }
    }

    fn has_room(&self, node: &Name, shape: &PodShape) -> bool {
        let here = || {
            let pods = self.pods.values();
            pods.filter(|pod| pod.node.as_ref() == Some(node))
        };
        let free = |resource: &str| {
            let amount = |amounts: &Resources| amounts.get(resource).copied().unwrap_or(0);
            let used: i64 = here().map(|pod| amount(&pod.shape.requests)).sum();
            amount(&self.nodes[node].allocatable) - used
        };
        let mut requests = shape.requests.iter();
        requests.all(|(resource, amount)| free(resource) >= *amount)
    }

    /// Places pods by priority, then by age.
    fn schedule(&mut self, second: i64) {
        let priority = |pod: &Pod| {
            let Owner::Job(name, _) = &pod.owner else {
                return pod.shape.priority;
            };
            let job = self.jobs.get(&Key::new(&pod.key.namespace, name));
            job.map_or(0, |job| job.gang.priority)
        };
        let pods = self.pods.iter();
        let waiting = pods.filter(|(_, pod)| pod.node.is_none() && pod.deletion.is_none());
        let mut waiting: Vec<(i32, Timestamp, Name)> = waiting
            .map(|(uid, pod)| (-priority(pod), pod.created, uid.clone()))
            .collect();
        waiting.sort();
        for (_, _, uid) in waiting {
            let mut pod = self.pods[&uid].clone();
            let takes = |(name, node): &(&Name, &Node)| {
                let mut selector = pod.shape.node_selector.iter();
                let is_placeable = |prefix| !pod.key.name.starts_with(prefix);
                self.unplaceable.is_none_or(is_placeable)
                    && node.takes_pods
                    && selector.all(|(key, value)| node.labels.get(key) == Some(value))
                    && self.has_room(name, &pod.shape)
            };
            let node = self.nodes.iter().find(takes).map(|(name, _)| name.clone());
            if node.is_none() && pod.scheduling == Scheduling::Queued {
                pod.scheduling = Scheduling::Unschedulable {
                    since: at(second),
                    why: "no node is available".into(),
                };
            } else if node.is_none() {
                continue;
            }
            pod.node = node;
            self.tell_pod(&uid, pod, second);
        }
    }

    fn make_nodes(&mut self, second: i64) {
        let Some(pool) = &self.pool else { return };
        let boot = SignedDuration::from_secs(pool.boot_seconds);
        let is_due = |pod: &&Pod| {
            let waits = pod.node.is_none() && pod.created + boot <= at(second);
            waits && pod.shape.node_selector.values().any(|it| it == pool.label)
        };
        let due = self.pods.values().filter(is_due).count();
        let (gpus, label, most) = (pool.gpus, pool.label, pool.most);
        for _ in 0..due.min(most - self.made) {
            self.made += 1;
            let name = format!("made-{}", self.made);
            self.add_node(&name, gpus, Some(label), second);
        }
    }

    /// Ends what has run for long enough.
    fn work(&mut self, second: i64) {
        let keys: Vec<Key> = self.jobs.keys().cloned().collect();
        for key in keys {
            let job = self.jobs.get_mut(&key).unwrap();
            if job.finished || job.pods.is_empty() {
                continue;
            }
            let pods = &self.pods;
            if job.pods.iter().all(|uid| pods[uid].node.is_some()) {
                job.complete.get_or_insert(second);
            }
            if job
                .complete
                .is_some_and(|began| began + job.gang.seconds <= second)
            {
                job.finished = true;
                for uid in std::mem::take(&mut job.pods) {
                    self.pods.remove(&uid);
                    self.model.apply(Event::Pod(uid, None), at(second));
                }
                self.tell_job(&key, second);
            }
        }
    }
}

fn job_uid(key: &Key) -> Name {
    format!("job-{}-{}", key.namespace, key.name)
        .as_str()
        .into()
}

/// A pod of so many GPUs and CPUs.
fn shape(gpus: i64, cpus: i64) -> PodShape {
    let attributes = PricingAttributes {
        resource: GPU.to_owned(),
        gpus: u32::try_from(gpus).unwrap(),
        ..PricingAttributes::default()
    };
    let requests = [(GPU, gpus), (CPU, cpus)].into_iter();
    let requests = requests.filter(|(_, amount)| *amount > 0);
    PodShape {
        requests: requests
            .map(|(name, amount)| (name.to_owned(), amount * 1000))
            .collect(),
        attributes: Some(attributes).filter(|_| gpus > 0),
        ..PodShape::default()
    }
}

fn pod(key: Key, owner: Owner, shape: Arc<PodShape>, second: i64) -> Pod {
    new_pod(key, owner, shape, at(second))
}
