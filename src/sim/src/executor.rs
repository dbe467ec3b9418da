//! Orders on their way to the API server, and what becomes of them.

use std::collections::BTreeSet;

use bursar_core::model::Key;
use bursar_core::model::event::{BatchJob, Deployment};
use bursar_core::plan::{JobOrder, ServiceOrder};
use jiff::SignedDuration;

use crate::event_queue::later;
use crate::event_queue::{SimEvent, WatchedObject};
use crate::faults::Fault;
use crate::ledger::pod_of;
use crate::simulation::{Order, Simulation};

/// Orders to stop wait no longer for their latch to be on record.
const LATCH_TIMEOUT: SignedDuration = SignedDuration::from_secs(10);
/// A write without an answer has failed after this long, in milliseconds.
const WRITE_TIMEOUT_MILLIS: i64 = 5_000;

impl Simulation {
    pub(crate) fn enqueue(&mut self, key: Key, is_job: bool, order: Order, after_latch: bool) {
        let mut at = self.after(0);
        let millis = self.rng.i64(10..120);
        let Some(leader) = &mut self.leader else {
            return;
        };
        if after_latch {
            let latches = leader.latches.iter();
            let of_namespace = latches.filter(|(latch, _)| latch.namespace == key.namespace);
            let written = of_namespace.map(|(_, (_, at))| *at).max();
            let latest = later(at, LATCH_TIMEOUT);
            at = written.map_or(at, |written| at.max(written).min(latest));
        }
        let place = (key.clone(), is_job);
        let is_first = !leader.orders.contains_key(&place);
        let queue = leader.orders.entry(place).or_default();
        if matches!(&order, Order::Job(order) if order.cancels_stop) {
            queue.orders.clear();
        }
        queue.orders.push_back(order);
        if is_first {
            let at = later(at, SignedDuration::from_millis(millis));
            self.event_queue.add(at, SimEvent::Write(key, is_job));
        }
    }

    /// The first order of a workload reaches the API server.
    pub(crate) fn write_order(&mut self, key: &Key, is_job: bool) {
        let fails = self.chance(self.rates.write);
        let kind = self.rng.u8(..4);
        let Some(leader) = &mut self.leader else {
            return;
        };
        let place = (key.clone(), is_job);
        let Some(queue) = leader.orders.get_mut(&place) else {
            return;
        };
        let order = queue.orders.pop_front().filter(|_| !queue.failed);
        let Some(order) = order else {
            // the answer to an order has not come in time: what was ordered after it is void
            leader.orders.remove(&place);
            self.order_failed(key, is_job, 0);
            return;
        };
        if !fails {
            let is_empty = queue.orders.is_empty();
            if is_empty {
                leader.orders.remove(&place);
            }
            self.carry_out_order(order);
            if !is_empty {
                self.add_within(5, 60, SimEvent::Write(key.clone(), is_job));
            }
            return;
        }
        queue.failed = true;
        let stops = match &order {
            Order::Service(order) => order.after_latch,
            Order::Job(order) => order.after_latch,
        };
        let (fault, millis) = match kind {
            0 => (Fault::WriteRefused, 30),
            1 => (Fault::WriteHalfDone, 30),
            2 => (Fault::WriteAnswerLost, WRITE_TIMEOUT_MILLIS),
            _ => (Fault::WriteNeverArrived, WRITE_TIMEOUT_MILLIS),
        };
        match (fault, order) {
            (Fault::WriteHalfDone, Order::Service(order)) => self.label_pods(&order),
            (Fault::WriteAnswerLost, order) => self.carry_out_order(order),
            _ => {}
        }
        self.note(fault);
        if stops {
            self.excuse(&key.namespace, millis / 1000 + 1);
        }
        if millis > 1_000 {
            // the queue stays, so that nothing overtakes it
            let at = self.after(millis);
            self.event_queue
                .add(at, SimEvent::Write(key.clone(), is_job));
        } else {
            if let Some(leader) = &mut self.leader {
                leader.orders.remove(&place);
            }
            self.order_failed(key, is_job, millis);
        }
    }

    fn order_failed(&mut self, key: &Key, is_job: bool, millis: i64) {
        let subject = match is_job {
            true => WatchedObject::JobOrderFailed(key.clone()),
            false => WatchedObject::ServiceOrderFailed(key.clone()),
        };
        self.tell_within(subject, millis);
    }

    pub(crate) fn carry_out_order(&mut self, order: Order) {
        match order {
            Order::Service(order) => {
                self.label_pods(&order);
                self.scale_deployment(&order);
            }
            // the order before it is forgotten
            Order::Job(order) if order.cancels_stop => {}
            Order::Job(order) => self.run_job(&order),
        }
    }

    /// Labels and annotations of pods change before the Deployment does.
    fn label_pods(&mut self, order: &ServiceOrder) {
        let now = self.now;
        for (uids, change) in [(&order.drain, 0), (&order.keep, 1), (&order.remove, 2)] {
            for uid in uids {
                let Some(number) = pod_of(uid) else { continue };
                let Some(found) = self.cluster.pods.get_mut(&number) else {
                    continue;
                };
                match change {
                    0 => found.pod.draining_since = found.pod.draining_since.or(Some(now)),
                    1 => (found.pod.draining_since, found.pod.marked_for_deletion) = (None, false),
                    _ => found.pod.marked_for_deletion = true,
                }
                self.tell(WatchedObject::Pod(number));
            }
        }
        let key = order.service.clone();
        self.add_within(20, 400, SimEvent::PublishEndpoints(key));
    }

    fn scale_deployment(&mut self, order: &ServiceOrder) {
        let key = &order.service;
        let Some(service) = self.cluster.services.get_mut(key) else {
            return;
        };
        if service.spec.is_none() {
            return;
        }
        let deployment = service.deployment.get_or_insert(Deployment {
            replicas: 0,
            first_ordinal: None,
            rollout: None,
            creation_failure: None,
        });
        deployment.replicas = order.replicas.1;
        self.tell(WatchedObject::Deployment(key.clone()));
        self.add_within(20, 500, SimEvent::ReconcileDeployment(key.clone()));
    }

    fn run_job(&mut self, order: &JobOrder) {
        let (now, mut made, mut replaced) = (self.now, self.cluster.made_jobs, Vec::new());
        let Some(job) = self.cluster.jobs.get_mut(&order.job) else {
            return;
        };
        let roles = job.spec.iter().flat_map(|spec| &spec.roles);
        let roles: Vec<_> = roles.map(|role| role.name.clone()).collect();
        for role in roles {
            if order.done.contains(&role) {
                continue;
            }
            let mut disruptions = 0;
            if order.run && order.recreate.contains(&role) {
                let old = job.batch_jobs.remove(&role);
                disruptions = old.map_or(0, |old| old.disruptions);
                replaced.extend(job.pods.remove(&role).into_iter().flatten());
            }
            let batch = job.batch_jobs.entry(role).or_insert_with(|| {
                made += 1;
                BatchJob {
                    uid: Some(format!("job-{made}").into()),
                    restarts: order.restarts,
                    disruptions,
                    ..BatchJob::default()
                }
            });
            if order.run && !batch.running {
                batch.started = Some(now);
            }
            batch.running = order.run;
            if !order.run {
                batch.retry = order.retry.clone();
            }
            if let Some(restart) = order.restart.filter(|_| !order.run) {
                (batch.restarts, batch.restart_at) = (restart.count, Some(restart.at));
                batch.disruptions = restart.disruptions;
            }
        }
        if order.run
            && let Some(spec) = &mut job.spec
        {
            spec.restart_count = spec.restart_count.max(order.restarts);
        }
        self.cluster.made_jobs = made;
        let Some(job) = self.cluster.jobs.get(&order.job) else {
            return;
        };
        let roles: BTreeSet<_> = job.batch_jobs.keys().cloned().collect();
        for role in roles {
            self.tell(WatchedObject::BatchJob(order.job.clone(), role));
        }
        self.tell(WatchedObject::Job(order.job.clone()));
        for number in replaced {
            self.delete_pod(number);
            let ended = self.cluster.pods.get(&number);
            if ended.is_some_and(|found| found.pod.ended.is_some()) {
                self.add_within(50, 800, SimEvent::PodRemoved(number));
            }
        }
        self.metrics.job_orders += 1;
        self.add_within(20, 500, SimEvent::ReconcileJob(order.job.clone()));
    }

    /// A latch is on record, or is refused and written again.
    pub(crate) fn write_latch(&mut self, key: &Key) {
        let refused = self.chance(self.rates.write);
        let again = self.after(2_000);
        let Some(leader) = &mut self.leader else {
            return;
        };
        let Some((latch, at)) = leader.latches.get_mut(key) else {
            return;
        };
        if refused {
            *at = again;
            self.event_queue
                .add(again, SimEvent::WriteLatch(key.clone()));
            self.note(Fault::LatchRefused);
            self.excuse(&key.namespace, 3);
            return;
        }
        let latch = *latch;
        leader.latches.remove(key);
        if let Some(budget) = self.cluster.budgets.get_mut(key) {
            budget.latch = latch;
            self.tell(WatchedObject::Budget(key.clone()));
        }
    }
}
