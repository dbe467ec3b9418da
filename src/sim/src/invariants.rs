//! A witness of what a leader is told: it keeps its own, simple account of it, and says which
//! decisions must not be.

use std::collections::{BTreeMap, BTreeSet};

use bursar_core::model::event::{
    BatchJob, Event, Job, Node, Owner, Pod, Reading, Role, Scheduling, Service,
};
use bursar_core::model::{Key, Model, Name};
use bursar_core::plan::{Decisions, JobOrder, ServiceOrder};
use jiff::{SignedDuration, Timestamp};

use crate::cluster::{GPU, PRODUCT, workload_key};
use crate::event_queue::later;
use crate::faults::Tally;

/// Engines and gateways may be unknown for this long after they are ready.
const FIRST_CONTACT: SignedDuration = SignedDuration::from_secs(5);
/// An order that no object shows is void after this long.
const ORDER_EXPIRES: SignedDuration = SignedDuration::from_secs(30);
/// No room is kept for a pod for which the scheduler has found no node for this long.
const NO_HOPE_AFTER: SignedDuration = SignedDuration::from_mins(5);

#[derive(Debug, Default)]
struct Gateway {
    ready: Option<Timestamp>,
    heard: bool,
    silent_since: Option<Timestamp>,
}

/// What the leader was told.
#[derive(Debug, Default)]
pub(crate) struct InvariantChecker {
    /// All GPU pods ask for one GPU of their class, so that room is a number.
    uniform: bool,
    nodes: BTreeMap<Name, Node>,
    /// Nodes are made for pods that wait: gangs start without room.
    makes_nodes: bool,
    pods: BTreeMap<Name, Pod>,
    services: BTreeMap<Key, Service>,
    jobs: BTreeMap<Key, Job>,
    batch_jobs: BTreeMap<Key, BTreeMap<Name, BatchJob>>,
    /// Whether the last read of an engine was good.
    readings: BTreeMap<Name, bool>,
    gateways: BTreeMap<Name, Gateway>,
    /// Orders for jobs that no object shows yet.
    ordered: BTreeMap<Key, (bool, Timestamp)>,
    /// Gangs that do not run, and whose room is kept until they start again.
    keeps_reservation: BTreeSet<Key>,
    exhausted: BTreeSet<Key>,
    /// How many replicas each service was last decided to have.
    allowed: BTreeMap<Key, u32>,
}

impl InvariantChecker {
    pub(crate) fn new(uniform: bool) -> Self {
        Self {
            uniform,
            ..Self::default()
        }
    }

    /// Another leader begins, and knows nothing.
    pub(crate) fn reset(&mut self) {
        *self = Self {
            uniform: self.uniform,
            ..Self::default()
        };
    }

    /// Takes what the leader is told.
    pub(crate) fn note(&mut self, event: &Event, now: Timestamp) {
        match event {
            Event::Node(name, node) => set(&mut self.nodes, name, node),
            Event::NodeStart(node_start) => self.makes_nodes = node_start.is_some(),
            Event::Pod(uid, pod) => {
                let pod = pod.as_deref().cloned();
                if pod.is_none() {
                    self.readings.remove(uid);
                }
                set(&mut self.pods, uid, &pod);
            }
            Event::Service(key, service) => {
                if service.is_none() {
                    self.allowed.remove(key);
                }
                set(&mut self.services, key, service);
            }
            Event::Job(key, job) => {
                if job.is_none() {
                    self.ordered.remove(key);
                    self.keeps_reservation.remove(key);
                }
                set(&mut self.jobs, key, job);
            }
            Event::BatchJob(key, role, batch) => {
                let batches = self.batch_jobs.entry(key.clone()).or_default();
                set(batches, role, batch);
                let ordered = self.ordered.get(key).map(|(value, _)| *value);
                let shows = batches.values().all(|batch| Some(batch.running) == ordered);
                if shows && !batches.is_empty() {
                    self.ordered.remove(key);
                }
            }
            Event::JobOrderFailed(key) => drop(self.ordered.remove(key)),
            Event::Reading(uid, reading) => {
                let is_good = !matches!(reading, Reading::Stale(_));
                self.readings.insert(uid.clone(), is_good);
            }
            Event::Gateway(uid, pod) => {
                let gateway = self.gateways.entry(uid.clone()).or_default();
                gateway.ready = pod.as_ref().and_then(|pod| pod.ready_since);
            }
            Event::Demand(uid, _) => {
                let gateway = self.gateways.entry(uid.clone()).or_default();
                (gateway.heard, gateway.silent_since) = (true, None);
            }
            Event::Silent(uid, _) => {
                if let Some(gateway) = self.gateways.get_mut(uid) {
                    gateway.silent_since = gateway.silent_since.or(Some(now));
                }
            }
            _ => {}
        }
    }

    /// Checks a decision.
    ///
    /// # Errors
    /// What must not be.
    pub(crate) fn check(
        &mut self,
        model: &Model,
        decisions: &Decisions,
        now: Timestamp,
        tally: &mut Tally,
    ) -> Result<(), String> {
        model
            .check()
            .map_err(|what| format!("not as from scratch: {what}"))?;
        if let Some(node) = model.overcommitted_node() {
            return Err(format!("room on {node} is given twice"));
        }
        for (key, budget_state) in &decisions.budgets {
            match budget_state.is_exhausted() {
                true => drop(self.exhausted.insert(key.clone())),
                false => drop(self.exhausted.remove(key)),
            }
        }
        for order in &decisions.job_orders {
            self.check_preemption(order, model, tally)?;
        }
        for order in &decisions.service_orders {
            self.check_unknown(order, now, tally)?;
        }
        let decided = decisions.services.iter();
        self.allowed
            .extend(decided.map(|(key, decision)| (key.clone(), decision.allowed)));
        for (key, decision) in &decisions.jobs {
            match decision.keeps_reservation {
                true => drop(self.keeps_reservation.insert(key.clone())),
                // one that starts now has had its room
                false if !decision.run => drop(self.keeps_reservation.remove(key)),
                false => {}
            }
        }
        self.ordered
            .retain(|_, (_, at)| now.duration_since(*at) < ORDER_EXPIRES);
        for order in &decisions.job_orders {
            if !order.run {
                self.ordered.insert(order.job.clone(), (false, now));
                continue;
            }
            if order.cancels_stop {
                self.ordered.remove(&order.job);
                continue;
            }
            if self.uniform && !self.makes_nodes && !self.is_running(&order.job) {
                self.check_room(&order.job, now, tally)?;
            }
            self.ordered.insert(order.job.clone(), (true, now));
            self.keeps_reservation.remove(&order.job);
        }
        Ok(())
    }

    /// A gang gives its GPUs back only to a workload of a higher priority that waits for them, and only
    /// if it lets itself be suspended.
    fn check_preemption(
        &self,
        order: &JobOrder,
        model: &Model,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let decision = model.job(&order.job);
        if order.run || !decision.is_some_and(|decision| decision.preempted_for_gpus) {
            return Ok(());
        }
        tally.note_check("GPUs were given back for a higher priority");
        let Some(job) = self.jobs.get(&order.job) else {
            return Ok(());
        };
        // one of which a Job has stopped, or is gone, stops as a whole, whoever waits meanwhile
        let batches = self.batch_jobs.get(&order.job);
        let goes_on = |role: &Role| {
            let batch = batches.and_then(|batches| batches.get(&role.name));
            batch.is_some_and(|batch| batch.running || batch.finished.is_some())
        };
        if !job.roles.iter().all(goes_on) {
            return Ok(());
        }
        // within a namespace the own priority decides, unless the other one would be behind beside others
        let is_above = |other: &Key, own: i32, in_cluster: i32| {
            if other.namespace == order.job.namespace {
                job.priority < own && job.cluster_priority <= in_cluster
            } else {
                job.cluster_priority < in_cluster
            }
        };
        let mut jobs = self.jobs.iter();
        let waits = jobs.any(|(key, other)| {
            let starts = model.job(key).is_some_and(|decision| decision.run);
            is_above(key, other.priority, other.cluster_priority)
                && !other.suspend
                && (starts || !self.is_running(key))
        });
        let mut pods = self.pods.values();
        let has_replica = pods.any(|pod| {
            let key = workload_key(pod).filter(|_| matches!(pod.owner, Owner::Service(_)));
            let service = key.and_then(|key| Some((self.services.get(&key)?, key)));
            let is_above = service.is_some_and(|(service, key)| {
                is_above(&key, service.priority, service.cluster_priority)
            });
            is_above && pod.node.is_none() && pod.ended.is_none()
        });
        if !job.preemption_allowed || !(waits || has_replica) {
            return Err(format!("{order:?} of {job:?}, and nobody above it waits"));
        }
        Ok(())
    }

    /// No replica is taken away because something is unknown.
    fn check_unknown(
        &self,
        order: &ServiceOrder,
        now: Timestamp,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let key = &order.service;
        let Some(spec) = self.services.get(key) else {
            return Ok(());
        };
        let (before, after) = order.replicas;
        if order.drain.is_empty() && after >= before {
            return Ok(());
        }
        let mut budgets = self.exhausted.iter();
        let Some(why) = self.unknown(key, now) else {
            return Ok(());
        };
        // stops for money need no signal
        if order.after_latch || budgets.any(|budget| budget.namespace == key.namespace) {
            return Ok(());
        }
        tally.note_check("fewer replicas while something was unknown");
        let leaving = self
            .pods
            .values()
            .filter(|pod| workload_key(pod).as_ref() == Some(key) && pod.draining_since.is_some());
        let leaving = u32::try_from(leaving.count()).unwrap_or(u32::MAX);
        let remove = u32::try_from(order.remove.len()).unwrap_or(u32::MAX);
        let above = before.saturating_sub(spec.max);
        let drain = u32::try_from(order.drain.len()).unwrap_or(u32::MAX);
        // what was decided when everything was known is carried out, also where a replica that
        // leaves is gone before it was removed
        let decided = self.allowed.get(key);
        if decided.is_some_and(|decided| after.saturating_sub(drain) >= *decided) {
            return Ok(());
        }
        if drain > above || before.saturating_sub(after) > above + leaving.max(remove) {
            return Err(format!(
                "{}/{} loses replicas although {why}: {order:?}",
                key.namespace, key.name
            ));
        }
        Ok(())
    }

    /// Why the demand for a service is not known.
    fn unknown(&self, key: &Key, now: Timestamp) -> Option<String> {
        let pods = self.pods.iter().filter(|(_, pod)| {
            matches!(pod.owner, Owner::Service(_)) && workload_key(pod).as_ref() == Some(key)
        });
        for (uid, pod) in pods {
            let Some(ready) = pod.ready_since else {
                continue;
            };
            if pod.ended.is_some() || pod.deletion.is_some() {
                continue;
            }
            match self.readings.get(uid) {
                Some(true) => {}
                Some(false) => return Some(format!("{uid} cannot be read")),
                None if now.duration_since(ready) >= FIRST_CONTACT => {
                    return Some(format!("{uid} was not read yet"));
                }
                None => {}
            }
        }
        let silent = self.gateways.iter().find(|(_, gateway)| {
            let Some(ready) = gateway.ready else {
                return false;
            };
            // one that was heard before is unknown too, for as long as it takes requests
            match gateway.heard {
                true => gateway.silent_since.is_some(),
                false => now >= later(ready, FIRST_CONTACT),
            }
        });
        silent.map(|(uid, gateway)| format!("{uid} is silent: {gateway:?}"))
    }

    /// Whether the gang has room: it was let run, or its room is kept until it starts again.
    fn is_running(&self, key: &Key) -> bool {
        if self.keeps_reservation.contains(key) {
            return true;
        }
        match self.ordered.get(key) {
            Some((value, _)) => *value,
            None => {
                let batches = self.batch_jobs.get(key);
                let mut batches = batches.into_iter().flat_map(BTreeMap::values);
                batches.any(|batch| batch.running)
            }
        }
    }

    /// A gang starts only in room that nobody has: what is free on nodes, less what pods without a
    /// node and gangs that were let run before will take of it.
    fn check_room(&self, key: &Key, now: Timestamp, tally: &mut Tally) -> Result<(), String> {
        let Some(job) = self.jobs.get(key) else {
            return Ok(());
        };
        tally.note_check("a gang started in free room");
        let class = |pod: &Pod| pod.shape.node_selector.get(PRODUCT).cloned();
        let classes = job
            .roles
            .iter()
            .map(|role| role.worker.node_selector.get(PRODUCT));
        let classes: BTreeSet<String> = classes.flatten().cloned().collect();
        for product in classes {
            let of_job = |job: &Job| -> i64 {
                let roles = job.roles.iter();
                let roles =
                    roles.filter(|role| role.worker.node_selector.get(PRODUCT) == Some(&product));
                roles.map(|role| i64::from(role.replicas)).sum()
            };
            let takes =
                |node: &&Node| node.takes_pods && node.labels.get(PRODUCT) == Some(&product);
            let alive = self.pods.values().filter(|pod| {
                pod.ended.is_none()
                    && pod.shape.attributes.is_some()
                    && class(pod).as_ref() == Some(&product)
            });
            let nodes = self.nodes.iter().filter(|(_, node)| takes(node));
            // while a watch is late, a node may seem to have more pods than it takes
            let free = nodes.map(|(name, node)| {
                let room = node.allocatable.get(GPU).copied().unwrap_or(0) / 1000;
                let bound = alive.clone().filter(|pod| pod.node.as_ref() == Some(name));
                (room - bound.count() as i64).max(0)
            });
            let free: i64 = free.sum();
            // pods of gangs are among what their gangs will take
            let waiting = alive.clone().filter(|pod| {
                let is_worker = matches!(&pod.owner, Owner::Job(..));
                let has_hope = match &pod.scheduling {
                    Scheduling::Unschedulable { since, .. } => now < later(*since, NO_HOPE_AFTER),
                    _ => true,
                };
                pod.node.is_none() && !is_worker && has_hope
            });
            let mut taken = waiting.count() as i64;
            for (other, spec) in &self.jobs {
                if other == key || !self.is_running(other) {
                    continue;
                }
                let batches = self.batch_jobs.get(other);
                let mut batches = batches.into_iter().flat_map(BTreeMap::values);
                if batches.any(|batch| batch.finished.is_some()) {
                    continue;
                }
                let with_node = alive.clone().filter(|pod| {
                    pod.node.is_some()
                        && matches!(pod.owner, Owner::Job(..))
                        && workload_key(pod).as_ref() == Some(other)
                });
                taken += (of_job(spec) - with_node.count() as i64).max(0);
            }
            let left = free - taken.min(free).max(0);
            if of_job(job) > left {
                return Err(format!(
                    "{} starts with {} workers, and of {free} free GPUs {taken} are given",
                    key.name,
                    of_job(job)
                ));
            }
        }
        Ok(())
    }
}

fn set<K: Ord + Clone, V: Clone>(map: &mut BTreeMap<K, V>, key: &K, value: &Option<V>) {
    match value {
        Some(value) => drop(map.insert(key.clone(), value.clone())),
        None => drop(map.remove(key)),
    }
}
