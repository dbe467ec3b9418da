//! The leader: it is told of objects, decides, and its orders reach the API server or do not.

use std::collections::{BTreeMap, BTreeSet};

use bursar_core::model::Model;
use bursar_core::model::event::{Event, GatewayPod, Reading};
use bursar_core::plan::{Decisions, decide};
use jiff::SignedDuration;

use crate::event_queue::later;
use crate::event_queue::{SimEvent, WatchedObject};
use crate::faults::Fault;
use crate::ledger::uid;
use crate::simulation::{Leader, Order, Simulation, Violation};

/// The counters of a busy engine are told to move this often.
const COUNTERS_MOVE: SignedDuration = SignedDuration::from_mins(1);

/// The UID of a gateway.
fn gateway_uid(number: u32) -> bursar_core::model::Name {
    format!("gateway-{number}").into()
}

/// A leader has decided everything after fewer decisions than this at one instant.
const MOST_DECISIONS: u32 = 1_000;

impl Simulation {
    /// The latest state of an object, as an event.
    fn event(&mut self, subject: &WatchedObject) -> Option<Event> {
        let cluster = &mut self.cluster;
        Some(match subject {
            WatchedObject::Node(name) => {
                let node = cluster.nodes.get(name).map(|found| found.node.clone());
                Event::Node(name.clone(), node)
            }
            WatchedObject::Pod(number) => {
                let pod = cluster
                    .pods
                    .get(number)
                    .map(|found| Box::new(found.pod.clone()));
                Event::Pod(uid(*number), pod)
            }
            WatchedObject::Service(key) => {
                let spec = cluster
                    .services
                    .get(key)
                    .and_then(|found| found.spec.clone());
                Event::Service(key.clone(), spec)
            }
            WatchedObject::Deployment(key) => {
                let service = cluster.services.get(key);
                let found = service.and_then(|found| found.deployment.clone());
                Event::Deployment(key.clone(), found)
            }
            WatchedObject::Endpoints(key) => {
                let ready = cluster.services.get(key).map(|found| &found.endpoints);
                let ready = ready.into_iter().flatten().map(|number| uid(*number));
                Event::Endpoints(key.clone(), ready.collect())
            }
            WatchedObject::Job(key) => {
                let spec = cluster.jobs.get(key).and_then(|found| found.spec.clone());
                Event::Job(key.clone(), spec)
            }
            WatchedObject::BatchJob(key, role) => {
                let batch = cluster
                    .jobs
                    .get(key)
                    .and_then(|found| found.batch_jobs.get(role));
                Event::BatchJob(key.clone(), role.clone(), batch.cloned())
            }
            WatchedObject::Budget(key) => {
                Event::Budget(key.clone(), cluster.budgets.get(key).cloned())
            }
            WatchedObject::BudgetDoubt(namespace) => {
                let doubt = cluster.unreadable_budgets.contains(namespace);
                let doubt = doubt.then(|| "budget extra cannot be read".into());
                Event::BudgetDoubt(namespace.clone(), doubt)
            }
            WatchedObject::Corrections(namespace) => {
                let all = cluster.corrections.get(namespace).cloned();
                Event::Corrections(namespace.clone(), all.unwrap_or_default())
            }
            WatchedObject::NodeStart => Event::NodeStart(cluster.node_start),
            WatchedObject::Prices => Event::Prices(cluster.catalog.clone()),
            WatchedObject::Account(key) => {
                let report = self.ledger.report(key, self.now);
                Event::Account(key.clone(), report)
            }
            WatchedObject::Gateway(number) => {
                let gateway = cluster.gateways.get(number);
                let uid = gateway_uid(*number);
                let pod = gateway.map(|gateway| GatewayPod {
                    name: uid.clone(),
                    ready_since: Some(gateway.ready),
                });
                Event::Gateway(uid, pod)
            }
            WatchedObject::Demand(number) => {
                let gateway = cluster
                    .gateways
                    .get(number)
                    .filter(|gateway| !gateway.silent)?;
                Event::Demand(gateway_uid(*number), gateway.held())
            }
            WatchedObject::Silent(number) => {
                let gateway = cluster.gateways.get(number);
                if gateway.is_some_and(|gateway| !gateway.silent) {
                    return None;
                }
                Event::Silent(gateway_uid(*number), "silent for 10 s".into())
            }
            WatchedObject::Reading(number) => {
                let pod = cluster.pods.get_mut(number)?;
                if pod.pod.ready_since.is_none() || !pod.stays() {
                    return None;
                }
                let reading = match pod.unreadable {
                    true => Reading::Stale("connection refused".into()),
                    false => {
                        let requests = pod.busy();
                        let moved = std::mem::take(&mut pod.served) || requests > 0;
                        if requests > 0 && !std::mem::replace(&mut pod.read_again, true) {
                            let at = later(self.now, COUNTERS_MOVE);
                            self.event_queue.add(at, SimEvent::ReadAgain(*number));
                        }
                        Reading::Counted {
                            requests,
                            counting: Default::default(),
                            moved,
                            done: pod.done(self.now),
                        }
                    }
                };
                Event::Reading(uid(*number), reading)
            }
            WatchedObject::ServiceOrderFailed(key) => Event::ServiceOrderFailed(key.clone()),
            WatchedObject::JobOrderFailed(key) => Event::JobOrderFailed(key.clone()),
        })
    }

    /// The leader is told of an object.
    pub(crate) fn deliver(&mut self, subject: &WatchedObject) {
        let Some(leader) = &mut self.leader else {
            return;
        };
        if leader.deliveries.remove(subject)
            && let Some(event) = self.event(subject)
        {
            self.apply(event);
            if let WatchedObject::Pod(number) = subject {
                // what was read of a pod that was not known yet has been dropped
                self.read_soon(*number);
            }
        }
    }

    fn apply(&mut self, event: Event) {
        let Some(leader) = &mut self.leader else {
            return;
        };
        self.tally.note_event(&event);
        if let Some(invariants) = &mut self.invariants {
            invariants.note(&event, self.now);
        }
        leader.model.apply(event, self.now);
        leader.dirty = true;
    }

    pub(crate) fn timer_due(&mut self) {
        if let Some(leader) = &mut self.leader {
            let due = leader.model.next_timer().is_some_and(|at| at <= self.now);
            leader.dirty |= due;
            if leader.timer.is_some_and(|at| at <= self.now) {
                leader.timer = None;
                leader.dirty = true;
            }
        }
    }

    /// The leader decides, if it was told something or time has changed something.
    ///
    /// # Errors
    /// A decision that must not be, or that does not come to an end.
    pub(crate) fn decide(&mut self) -> Result<(), Violation> {
        for _ in 0..MOST_DECISIONS {
            let now = self.now;
            let Some(leader) = self.leader.as_mut().filter(|leader| leader.dirty) else {
                return Ok(());
            };
            let decisions = decide(&mut leader.model, now);
            leader.dirty = leader.model.has_marks();
            let timer = leader.model.next_timer();
            if !leader.dirty && timer.is_some_and(|at| at <= now) {
                return Err(Violation {
                    at: now,
                    what: format!("{timer:?} is due again though all was decided"),
                });
            }
            self.tally.decisions += 1;
            if let Some(invariants) = &mut self.invariants {
                let checked = invariants.check(&leader.model, &decisions, now, &mut self.tally);
                checked.map_err(|what| Violation { at: now, what })?;
            }
            let timer = timer.map(|at| at.max(later(now, SignedDuration::from_millis(1))));
            if let Some(at) = timer
                && leader.timer.is_none_or(|set| at < set)
            {
                leader.timer = Some(at);
                self.event_queue.add(at, SimEvent::Timer);
            }
            self.carry_out(decisions);
        }
        Err(Violation {
            at: self.now,
            what: format!("{MOST_DECISIONS} decisions at one instant leave something to decide"),
        })
    }

    fn carry_out(&mut self, decisions: Decisions) {
        let Decisions {
            service_orders,
            job_orders,
            // no budget of the simulation evicts pods of others
            eviction_notices: _,
            evictions: _,
            latches,
            services,
            jobs,
            namespaces: _,
            budgets,
        } = decisions;
        for (key, latch) in latches {
            if latch.is_some() {
                self.statuses.latched = Some(self.now);
            }
            let millis = self.rng.i64(10..80);
            let at = self.after(millis);
            if let Some(leader) = &mut self.leader {
                leader.latches.insert(key.clone(), (latch, at));
            }
            self.event_queue.add(at, SimEvent::WriteLatch(key));
        }
        for order in service_orders {
            self.metrics.note_order(&order);
            let (key, after_latch) = (order.service.clone(), order.after_latch);
            self.enqueue(key, false, Order::Service(order), after_latch);
        }
        for order in job_orders {
            let (key, after_latch) = (order.job.clone(), order.after_latch);
            self.enqueue(key, true, Order::Job(order), after_latch);
        }
        for (key, decision) in services {
            let refuses = decision.refusal.is_some();
            self.statuses.services.insert(key.clone(), decision);
            if refuses {
                self.refuse_held(&key);
            }
        }
        self.statuses.jobs.extend(jobs);
        for (key, budget_state) in budgets {
            if budget_state.is_exhausted() {
                let start = budget_state.period.start;
                let known = self.statuses.exhausted.get(&key);
                if known.is_none_or(|(_, of)| *of != start) {
                    self.statuses
                        .exhausted
                        .insert(key.clone(), (self.now, start));
                    self.metrics.exhaustions += 1;
                }
            }
            self.statuses.budgets.insert(key, budget_state);
        }
    }

    /// The leader fails: orders on their way arrive or not.
    pub(crate) fn leader_fails(&mut self) {
        let Some(leader) = self.leader.take() else {
            return;
        };
        self.note(Fault::LeaderChange);
        for (_, mut queue) in leader.orders {
            let order = queue.orders.pop_front().filter(|_| !queue.failed);
            let Some(order) = order else { continue };
            self.note(Fault::LeaderFailedWithOrderOnItsWay);
            if self.chance(50) {
                self.carry_out_order(order);
            }
        }
        let outage = self.rng.i64(1..20);
        let namespaces: BTreeSet<_> = self.cluster.budgets.keys().cloned().collect();
        for key in namespaces {
            // the new leader orders to stop again what was being stopped
            self.excuse_if_near_limit(&key, outage + 2);
        }
        let at = self.after(outage * 1_000);
        self.event_queue.add(at, SimEvent::LeaderBegins);
    }

    /// Another leader begins with what objects say.
    pub(crate) fn leader_begins(&mut self) {
        let leader = Leader {
            model: Model::new(self.zone.clone(), self.now),
            dirty: true,
            timer: None,
            deliveries: BTreeSet::new(),
            orders: BTreeMap::new(),
            latches: BTreeMap::new(),
        };
        self.leader = Some(leader);
        if let Some(invariants) = &mut self.invariants {
            invariants.reset();
        }
        let mut subjects = self.all_objects();
        self.rng.shuffle(&mut subjects);
        for subject in subjects {
            if let Some(event) = self.event(&subject) {
                self.apply(event);
            }
        }
        // engines are read and gateways heard a moment later
        let pods: Vec<u32> = self.cluster.pods.keys().copied().collect();
        for number in pods {
            let millis = self.rng.i64(10..1_000);
            self.tell_within(WatchedObject::Reading(number), millis);
        }
        let gateways: Vec<u32> = self.cluster.gateways.keys().copied().collect();
        for number in gateways {
            let millis = self.rng.i64(20..2_000);
            self.tell_within(WatchedObject::Demand(number), millis);
        }
    }

    /// All objects that a leader watches.
    fn all_objects(&self) -> Vec<WatchedObject> {
        let cluster = &self.cluster;
        let mut all = vec![WatchedObject::NodeStart, WatchedObject::Prices];
        all.extend(cluster.nodes.keys().cloned().map(WatchedObject::Node));
        all.extend(cluster.pods.keys().copied().map(WatchedObject::Pod));
        for key in cluster.services.keys() {
            all.extend([
                WatchedObject::Service(key.clone()),
                WatchedObject::Deployment(key.clone()),
                WatchedObject::Endpoints(key.clone()),
            ]);
        }
        for (key, job) in &cluster.jobs {
            all.push(WatchedObject::Job(key.clone()));
            let roles = job.batch_jobs.keys().cloned();
            all.extend(roles.map(|role| WatchedObject::BatchJob(key.clone(), role)));
        }
        all.extend(cluster.budgets.keys().cloned().map(WatchedObject::Budget));
        let unreadable = cluster.unreadable_budgets.iter().cloned();
        all.extend(unreadable.map(WatchedObject::BudgetDoubt));
        let corrected = cluster.corrections.keys().cloned();
        all.extend(corrected.map(WatchedObject::Corrections));
        all.extend(self.ledger.accounts().cloned().map(WatchedObject::Account));
        all.extend(cluster.gateways.keys().copied().map(WatchedObject::Gateway));
        all
    }
}
