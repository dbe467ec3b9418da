//! What the cluster's own controllers do: Deployments, endpoints, the scheduler, kubelets, nodes.

use bursar_core::model::Key;
use bursar_core::model::Name;
use bursar_core::model::event::{Node, Owner, Pod, PodShape, Scheduling};
use bursar_core::pricing::PricingAttributes;
use jiff::SignedDuration;
use std::sync::Arc;

use crate::cluster::{NodeObject, PodObject, account_key, workload_key};
use crate::event_queue::later;
use crate::event_queue::{SimEvent, WatchedObject};
use crate::faults::Fault;
use crate::ledger::{Charge, uid};
use crate::simulation::{RunningFault, Simulation};

/// A pod that is still to be made.
pub(crate) struct NewPod {
    pub(crate) namespace: Name,
    pub(crate) owner: Owner,
    pub(crate) shape: Arc<PodShape>,
    pub(crate) grace_seconds: i64,
    pub(crate) start: SignedDuration,
    /// The UID of the Job that makes it.
    pub(crate) made_by: Option<Name>,
}

impl Simulation {
    /// The Deployment's controllers make the pods that are missing or delete those that are too
    /// many.
    pub(crate) fn reconcile_deployment(&mut self, key: &Key) {
        let Some(service) = self.cluster.services.get(key) else {
            return;
        };
        let pods = service.pods.iter();
        let mut present: Vec<u32> = pods
            .copied()
            .filter(|pod| self.cluster.pods.get(pod).is_some_and(PodObject::stays))
            .collect();
        let exists = service.spec.is_some();
        let wanted = service
            .deployment
            .as_ref()
            .filter(|_| exists)
            .map_or(0, |found| found.replicas);
        let wanted = wanted as usize;
        if present.len() > wanted {
            present.sort_by_key(|number| self.deletion_rank(*number));
            let surplus = present.len() - wanted;
            for pod in present.into_iter().take(surplus) {
                self.delete_pod(pod);
            }
            return;
        }
        let Some(spec) = service.spec.clone() else {
            return;
        };
        let deployment = service.deployment.as_ref();
        if deployment.is_some_and(|found| found.creation_failure.is_some()) {
            return;
        }
        let start = service.start;
        for _ in present.len()..wanted {
            let pod = NewPod {
                namespace: key.namespace.clone(),
                owner: Owner::Service(key.name.clone()),
                shape: spec.replica.clone(),
                grace_seconds: spec.grace_seconds,
                start: self.between(start),
                made_by: None,
            };
            let number = self.create_pod(pod);
            if let Some(service) = self.cluster.services.get_mut(key) {
                service.pods.insert(number);
            }
        }
    }

    /// The order in which a ReplicaSet deletes pods (`ActivePodsWithRanks`): without a node first,
    /// then not ready, then those with a lower deletion cost, then the newer ones.
    fn deletion_rank(&self, number: u32) -> (bool, bool, bool, std::cmp::Reverse<u32>) {
        let Some(found) = self.cluster.pods.get(&number) else {
            return (false, false, false, std::cmp::Reverse(number));
        };
        let pod = &found.pod;
        (
            pod.node.is_some(),
            pod.ready_since.is_some(),
            !pod.marked_for_deletion,
            std::cmp::Reverse(number),
        )
    }

    /// Makes a pod without a node.
    pub(crate) fn create_pod(&mut self, new: NewPod) -> u32 {
        self.cluster.made_pods += 1;
        let number = self.cluster.made_pods;
        let pod = Pod {
            key: Key {
                namespace: new.namespace,
                name: uid(number),
            },
            owner: new.owner,
            shape: new.shape,
            node: None,
            created: self.now,
            ended: None,
            deletion: None,
            grace_seconds: new.grace_seconds,
            ready_since: None,
            was_ready: false,
            draining_since: None,
            marked_for_deletion: false,
            start_failure: None,
            failure: None,
            disrupted: false,
            made_by: new.made_by,
            leader: None,
            owner_name: Default::default(),
            scheduling: Scheduling::Queued,
            resident: false,
        };
        let object = PodObject {
            pod,
            start: new.start,
            engine: None,
            depth: 0,
            counted: None,
            busy_until: None,
            served: false,
            read_again: false,
            unreadable: false,
            fails_to_start: false,
        };
        self.cluster.pods.insert(number, object);
        self.cluster.pending.insert(number);
        self.tell(WatchedObject::Pod(number));
        self.wake_scheduler();
        number
    }

    pub(crate) fn wake_scheduler(&mut self) {
        if !self.scheduling && !self.cluster.pending.is_empty() {
            self.scheduling = true;
            self.add_within(5, 80, SimEvent::Schedule);
        }
    }

    /// Binds pending pods, the oldest first, to the first node that takes them.
    pub(crate) fn schedule_pods(&mut self) {
        self.scheduling = false;
        let pending: Vec<u32> = self.cluster.pending.iter().copied().collect();
        // of many that are alike, only the first needs a search
        let mut full: Vec<Arc<PodShape>> = Vec::new();
        for number in pending {
            let Some(shape) = self
                .cluster
                .pods
                .get(&number)
                .map(|found| found.pod.shape.clone())
            else {
                continue;
            };
            if full.iter().any(|other| Arc::ptr_eq(other, &shape)) {
                continue;
            }
            let mut nodes = self.cluster.nodes.iter();
            match nodes.find(|(_, node)| node.takes(&shape)) {
                Some((name, _)) => self.bind_pod(number, &name.clone()),
                None => full.push(shape),
            }
        }
        self.note_unschedulable();
    }

    /// The scheduler says of each pod that it has found no node for it.
    fn note_unschedulable(&mut self) {
        let pending = self.cluster.pending.iter().copied();
        let pending: Vec<u32> = pending.collect();
        for number in pending {
            let Some(found) = self.cluster.pods.get_mut(&number) else {
                continue;
            };
            if found.pod.scheduling == Scheduling::Queued {
                found.pod.scheduling = Scheduling::Unschedulable {
                    since: self.now,
                    why: "no node has room".into(),
                };
                self.tell(WatchedObject::Pod(number));
            }
        }
    }

    fn bind_pod(&mut self, number: u32, name: &Name) {
        let fails = self.chance(self.rates.pod_start);
        let (Some(found), Some(node)) = (
            self.cluster.pods.get_mut(&number),
            self.cluster.nodes.get_mut(name),
        ) else {
            return;
        };
        node.add(&found.pod.shape.requests, 1);
        found.pod.node = Some(name.clone());
        found.fails_to_start = fails;
        let ready = later(self.now, found.start);
        let charge = found.pod.shape.attributes.clone().map(|attributes| {
            let gpus = attributes.gpus;
            let node_gpus = node
                .node
                .gpus
                .get(&attributes.resource)
                .copied()
                .unwrap_or(0);
            let priced = PricingAttributes::on_node(attributes, name, node_gpus, &node.node.labels);
            let rate = self.cluster.catalog.price(&priced, self.now).rate();
            Charge {
                account: account_key(&found.pod),
                rate: rate.map(|rate| rate.cost.total()),
                gpus,
                start: self.now,
                end: None,
                lost: None,
            }
        });
        self.cluster.pending.remove(&number);
        if let Some(charge) = charge {
            let account = charge.account.clone();
            self.ledger.open(number, charge);
            self.tell_account(account);
        }
        self.event_queue.add(ready, SimEvent::PodReady(number));
        self.tell(WatchedObject::Pod(number));
    }

    /// The containers of a pod are ready, or have failed to start.
    pub(crate) fn pod_ready(&mut self, number: u32) {
        let Some(found) = self.cluster.pods.get_mut(&number) else {
            return;
        };
        let lost = found.pod.node.as_ref();
        let lost = lost.and_then(|node| self.cluster.nodes.get(node));
        if !found.stays() || lost.is_none_or(|node| node.lost) {
            return;
        }
        if found.fails_to_start {
            found.pod.start_failure = Some(("container engine: ErrImagePull".into(), self.now));
            self.note(Fault::PodStartFailed);
            self.begin_fault(10_000, 150_000, RunningFault::StartFails(number));
        } else {
            found.pod.start_failure = None;
            found.pod.ready_since = found.pod.ready_since.or(Some(self.now));
            self.readiness_changed(number);
        }
        self.tell(WatchedObject::Pod(number));
    }

    /// A pod has become ready or has stopped being so.
    pub(crate) fn readiness_changed(&mut self, number: u32) {
        let Some(found) = self.cluster.pods.get(&number) else {
            return;
        };
        let Some(key) = workload_key(&found.pod) else {
            return;
        };
        match found.pod.owner {
            Owner::Service(_) => {
                self.start_engine(number, &key);
                self.add_within(20, 400, SimEvent::PublishEndpoints(key));
            }
            Owner::Job(..) => self.gang_changed(&key),
            Owner::Other => {}
        }
    }

    /// A pod is told to stop.
    pub(crate) fn delete_pod(&mut self, number: u32) {
        let Some(found) = self.cluster.pods.get_mut(&number) else {
            return;
        };
        if found.pod.deletion.is_some() || found.pod.ended.is_some() {
            return;
        }
        let grace = SignedDuration::from_secs(found.pod.grace_seconds);
        found.pod.deletion = Some(later(self.now, grace));
        let is_bound = found.pod.node.is_some();
        let is_lost = self.is_on_lost_node(number);
        self.cluster.pending.remove(&number);
        self.readiness_changed(number);
        self.tell(WatchedObject::Pod(number));
        if !is_bound {
            self.add_within(10, 100, SimEvent::PodRemoved(number));
        } else if !is_lost {
            // the kubelet says so a moment after the last container has ended
            let most = (grace.as_millis() as i64).max(300);
            self.add_within(200, most, SimEvent::PodEnded(number));
        }
    }

    fn is_on_lost_node(&self, number: u32) -> bool {
        let pod = self.cluster.pods.get(&number);
        let node = pod.and_then(|found| found.pod.node.as_ref());
        let node = node.and_then(|name| self.cluster.nodes.get(name));
        node.is_some_and(|node| node.lost)
    }

    /// The containers of a pod have ended for good.
    pub(crate) fn end_pod(&mut self, number: u32) {
        if self.is_on_lost_node(number) {
            return;
        }
        let Some(found) = self.cluster.pods.get_mut(&number) else {
            return;
        };
        if found.pod.ended.is_some() {
            return;
        }
        found.pod.ended = Some(self.now);
        found.pod.ready_since = None;
        if found.pod.deletion.is_some() {
            self.note_failure(number, "exit code 143");
        }
        self.give_up_node(number);
        self.readiness_changed(number);
        self.tell(WatchedObject::Pod(number));
        let is_deleted = self
            .cluster
            .pods
            .get(&number)
            .is_some_and(|found| found.pod.deletion.is_some());
        if is_deleted {
            self.add_within(50, 800, SimEvent::PodRemoved(number));
        }
        self.owner_changed(number);
    }

    /// A worker ends with an error.
    pub(crate) fn fail_worker(&mut self, number: u32) {
        self.note_failure(number, "exit code 1");
        self.end_pod(number);
    }

    /// A worker has failed, and the Job that made it counts that.
    fn note_failure(&mut self, number: u32, how: &str) {
        let Some(found) = self.cluster.pods.get_mut(&number) else {
            return;
        };
        let Owner::Job(_, role) = found.pod.owner.clone() else {
            return;
        };
        found.pod.failure = Some(how.into());
        let made_by = found.pod.made_by.clone();
        let Some(key) = workload_key(&found.pod) else {
            return;
        };
        let job = self.cluster.jobs.get_mut(&key);
        let batch = job.and_then(|job| job.batch_jobs.get_mut(&role));
        if let Some(batch) = batch.filter(|batch| batch.uid == made_by) {
            batch.failed += 1;
            self.tell(WatchedObject::BatchJob(key, role));
        }
    }

    /// Its charge ends, and its room is free.
    fn give_up_node(&mut self, number: u32) {
        let Some(found) = self.cluster.pods.get_mut(&number) else {
            return;
        };
        let lost = found.engine.take().map_or(0, |engine| engine.busy());
        self.metrics.broken += lost;
        let account = account_key(&found.pod);
        let requests = &found.pod.shape.requests;
        let node = found.pod.node.as_ref();
        if let Some(node) = node.and_then(|name| self.cluster.nodes.get_mut(name)) {
            node.add(requests, -1);
        }
        if found.pod.shape.attributes.is_some() {
            self.ledger.settle(&account, number, self.now);
            self.tell_account(account);
        }
        self.wake_scheduler();
    }

    /// A pod is gone.
    pub(crate) fn remove_pod(&mut self, number: u32) {
        let Some(found) = self.cluster.pods.get(&number) else {
            return;
        };
        if found.pod.ended.is_none() && found.pod.node.is_some() {
            self.give_up_node(number);
        }
        let Some(found) = self.cluster.pods.remove(&number) else {
            return;
        };
        self.cluster.pending.remove(&number);
        if let Some(key) = workload_key(&found.pod) {
            match &found.pod.owner {
                Owner::Service(_) => {
                    if let Some(service) = self.cluster.services.get_mut(&key) {
                        service.pods.remove(&number);
                    }
                    self.add_within(20, 300, SimEvent::PublishEndpoints(key.clone()));
                    self.add_within(20, 500, SimEvent::ReconcileDeployment(key));
                }
                Owner::Job(_, role) => {
                    if let Some(job) = self.cluster.jobs.get_mut(&key)
                        && let Some(pods) = job.pods.get_mut(role)
                    {
                        pods.remove(&number);
                    }
                    self.gang_changed(&key);
                    self.add_within(20, 500, SimEvent::ReconcileJob(key));
                }
                Owner::Other => {}
            }
        }
        self.tell(WatchedObject::Pod(number));
    }

    /// The controller of a pod's owner acts.
    pub(crate) fn owner_changed(&mut self, number: u32) {
        let Some(found) = self.cluster.pods.get(&number) else {
            return;
        };
        let Some(key) = workload_key(&found.pod) else {
            return;
        };
        let happening = match found.pod.owner {
            Owner::Service(_) => SimEvent::ReconcileDeployment(key),
            Owner::Job(..) => SimEvent::ReconcileJob(key),
            Owner::Other => return,
        };
        self.add_within(20, 500, happening);
    }

    /// The endpoints' controller publishes the pods that serve.
    pub(crate) fn publish_endpoints(&mut self, key: &Key) {
        let Some(service) = self.cluster.services.get_mut(key) else {
            return;
        };
        let exists = service.spec.is_some();
        let pods = &self.cluster.pods;
        let ready: Vec<u32> = service
            .pods
            .iter()
            .copied()
            .filter(|pod| exists && pods.get(pod).is_some_and(PodObject::serves))
            .collect();
        if service.endpoints != ready {
            service.endpoints = ready;
            self.tell(WatchedObject::Endpoints(key.clone()));
        }
        self.endpoints_changed(key);
    }

    /// A node joins.
    pub(crate) fn add_node(&mut self, name: Name, node: Node) {
        let object = NodeObject {
            node,
            used: Default::default(),
            lost: false,
        };
        self.cluster.nodes.insert(name.clone(), object);
        self.tell(WatchedObject::Node(name));
        self.wake_scheduler();
    }

    pub(crate) fn node_arrives(&mut self, name: &Name) {
        if let Some(node) = self.cluster.nodes.get_mut(name) {
            // it is back, or no longer cordoned
            node.node.takes_pods = true;
            self.tell(WatchedObject::Node(name.clone()));
            self.wake_scheduler();
        } else if let Some(node) = self.coming_nodes.remove(name) {
            self.add_node(name.clone(), node);
        }
    }

    fn pods_on(&self, name: &Name) -> Vec<u32> {
        let pods = self.cluster.pods.iter();
        let here = pods.filter(|(_, found)| {
            found.pod.node.as_ref() == Some(name) && found.pod.ended.is_none()
        });
        here.map(|(number, _)| *number).collect()
    }

    /// The kubelet of a node is not heard of any more: its pods turn not ready.
    pub(crate) fn lose_node(&mut self, name: &Name) {
        let Some(node) = self.cluster.nodes.get_mut(name) else {
            return;
        };
        node.lost = true;
        (node.node.takes_pods, node.node.unready) = (false, true);
        self.tell(WatchedObject::Node(name.clone()));
        for number in self.pods_on(name) {
            if let Some(found) = self.cluster.pods.get_mut(&number) {
                found.pod.ready_since = None;
                let account = account_key(&found.pod);
                self.ledger.set_lost(&account, number, Some(self.now));
            }
            self.readiness_changed(number);
            self.tell(WatchedObject::Pod(number));
        }
    }

    /// A lost node is back with its pods.
    pub(crate) fn node_returns(&mut self, name: &Name) {
        let Some(node) = self.cluster.nodes.get_mut(name) else {
            return;
        };
        node.lost = false;
        (node.node.takes_pods, node.node.unready) = (true, false);
        self.tell(WatchedObject::Node(name.clone()));
        for number in self.pods_on(name) {
            let Some(found) = self.cluster.pods.get(&number) else {
                continue;
            };
            let account = account_key(&found.pod);
            match found.pod.deletion {
                None => {
                    self.ledger.set_lost(&account, number, None);
                    self.pod_ready(number);
                }
                // it would have stopped before
                Some(_) => self.add_within(100, 1_000, SimEvent::PodEnded(number)),
            }
        }
        self.wake_scheduler();
    }

    /// A lost node is removed, and its pods with it.
    pub(crate) fn remove_node(&mut self, name: &Name) {
        for number in self.pods_on(name) {
            self.remove_pod(number);
        }
        self.cluster.nodes.remove(name);
        self.tell(WatchedObject::Node(name.clone()));
    }
}
