//! How an event changes the model, and what must be decided anew because of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::pod_set::PodSet;
use crate::scaling::{LatencyMeasure, SignalRule};

use super::budget_terms::KnownTerms;
use super::capacity::ReservationOwner;
use super::draining::draining_since;
use super::event::{
    BatchJob, Deployment, EngineMeasures, Event, Job, Key, Measurement, Name, Node, Owner, Pod,
    PodShape, Reading, Service,
};
use super::namespace::KnownBudget;
use super::pause::Pauses;
use super::pod_cost::pod_set;
use super::rollout::RolloutProgress;
use super::service::{EngineState, ServiceState};
use super::signals::measured_requests;
use super::spending::AccountSpend;
use super::state::{Model, PodState};
use super::timers::TimerKey;

impl Model {
    /// Changes the model by an event that became known at `now`. What is known already changes
    /// nothing. The time that it takes does not grow with the cluster.
    pub fn apply(&mut self, event: Event, now: Timestamp) {
        match event {
            Event::Service(key, service) => self.set_service(key, service, now),
            Event::Deployment(key, deployment) => self.set_deployment(key, deployment, now),
            Event::Endpoints(key, ready) => self.set_endpoints(key, ready),
            Event::Job(key, job) => self.set_job(key, job),
            Event::BatchJob(key, role, job) => self.set_batch_job(key, role, job, now),
            Event::Budget(key, budget) => self.set_budget(key, budget, now),
            Event::BudgetDoubt(namespace, doubt) => {
                self.namespace_mut(&namespace).doubt = doubt;
                self.marks.budgets.insert(namespace);
            }
            Event::Corrections(namespace, corrections) => {
                self.namespace_mut(&namespace).corrections = corrections;
                self.marks.budgets.insert(namespace);
            }
            Event::Pod(uid, pod) => self.set_pod(uid, pod, now),
            Event::Node(name, node) => self.set_node(&name, node),
            Event::NodeStart(node_start) => self.set_node_start(node_start),
            Event::Pauses(pauses) => self.set_pauses(pauses),
            Event::Prices(catalog) => {
                if self.rates.is_edited_by(&catalog) {
                    self.repriced = self.namespaces.keys().cloned().collect();
                }
                self.rates.set_catalog(catalog, now);
                self.timers.set(TimerKey::Prices, self.rates.next_change());
                self.mark_all();
            }
            Event::Account(key, account) => self.set_account(key, account),
            Event::Reading(uid, reading) => self.set_reading(&uid, reading, now),
            Event::EngineMeasures(uid, measures) => self.set_engine_measures(&uid, measures, now),
            Event::Signal(key, name, change) => self.set_signal(key, name, change, now),
            Event::Gateway(uid, pod) => self.gateways.set_pod(uid, pod, now),
            Event::Demand(uid, held) => {
                let change = self.gateways.set_held(uid, held);
                let mut services = change.held;
                let counts = |key: &Key| self.services.get(key).is_some_and(follows_gateways);
                services.extend(change.in_flight.into_iter().filter(counts));
                self.note_held(services, now);
            }
            Event::Silent(uid, why) => self.gateways.set_unreachable(uid, why, now),
            Event::ServiceOrderFailed(key) => {
                if let Some(state) = self.services.get_mut(&key) {
                    state.forget_orders();
                    self.marks.services.insert(key);
                }
            }
            Event::EvictionFailed(namespace, uid, why) => {
                self.note_failed_eviction(&namespace, uid, why);
            }
            Event::JobOrderFailed(key) => {
                if let Some(state) = self.jobs.get_mut(&key) {
                    state.reject_order(now);
                    self.marks.job(key);
                }
            }
        }
    }

    /// Takes that what gateways hold for these services has changed: requests have come or ended.
    pub(crate) fn note_held(&mut self, services: BTreeSet<Key>, now: Timestamp) {
        for key in &services {
            if let Some(state) = self.services.get_mut(key) {
                state.last_active = state.last_active.max(Some(now));
            }
        }
        self.marks.services.extend(services);
    }

    fn set_service(&mut self, key: Key, mut service: Option<Service>, now: Timestamp) {
        if service.is_none() && !self.services.contains_key(&key) {
            return;
        }
        let shapes = |service: Option<&Service>| -> Vec<Arc<PodShape>> {
            let shapes = service.into_iter().flat_map(Service::shapes);
            shapes.cloned().collect()
        };
        let known = self.services.get(&key);
        let known = shapes(known.and_then(|state| state.spec.as_ref()));
        let nodes = self.capacity.nodes();
        self.rates
            .replace_shapes(&known, &shapes(service.as_ref()), nodes);
        // what a status says of it changes nothing but where a leader begins
        let learned = service.as_mut().and_then(|service| service.learned.take());
        let state = self.services.entry(key.clone()).or_default();
        if state.spec == service {
            return;
        }
        match (&state.spec, &service) {
            (_, None) => state.forget(),
            // another one has its name by now, and shows no order of the former
            (Some(old), Some(new)) if old.created != new.created => {
                state.forget_orders();
                (state.learned, state.starts) = Default::default();
                state.latencies.forget();
            }
            _ => {}
        }
        let target = |service: &Option<Service>| service.as_ref()?.request_signal.target();
        if state.spec.is_some() && target(&state.spec) != target(&service) {
            state.learned.forget_throughput();
        }
        if let Some(learned) = learned
            && state.spec.is_none()
            && target(&service) == Some(learned.target)
        {
            state.learned.recall(learned);
            state.starts.recall(learned.start);
        }
        let priorities = |spec: &Service| (spec.cluster_priority, spec.priority);
        let (before, after) = (state.spec.as_ref(), service.as_ref());
        let has_other_priority = before.map(priorities) != after.map(priorities);
        // it may claim the room of others
        self.capacity_preemptions.is_due |= has_other_priority && !state.unschedulable.is_empty();
        state.latencies.set_objectives(objectives(service.as_ref()));
        let before = std::mem::replace(&mut state.spec, service);
        state.estimate = Default::default();
        state.worker_estimate = Default::default();
        if let Some(before) = before {
            self.forget_readings(&key, &before, now);
        }
        self.marks.services.insert(key);
    }

    /// Forgets what was read of the engines of a service that is not read of them any more: once it is
    /// read again, that is of another time.
    fn forget_readings(&mut self, key: &Key, before: &Service, now: Timestamp) {
        let Some(state) = self.services.get_mut(key) else {
            return;
        };
        let reads = |service: &Service| service.request_signal.is_read_of_engines();
        let is_unread = reads(before) && !state.reads_engines();
        let is_measured_otherwise =
            (state.spec.as_ref()).is_some_and(|service| service.measured_by != before.measured_by);
        if is_measured_otherwise {
            state.latencies.forget();
        }
        let is_asked = |measure: &LatencyMeasure| {
            !is_measured_otherwise
                && !is_unread
                && objectives(state.spec.as_ref()).any(|(asked, _)| asked == *measure)
        };
        let mut signals = state.spec.iter().flat_map(|spec| &spec.signals);
        let asks_for_cache =
            !is_unread && signals.any(|(_, rule)| matches!(rule, SignalRule::KvCacheUse(_)));
        for uid in &state.pods {
            let Some(pod) = self.pods.get_mut(uid) else {
                continue;
            };
            if is_unread {
                pod.engine.forget_requests(now);
            }
            pod.engine.retain_measures(asks_for_cache, is_asked, now);
        }
    }

    fn set_deployment(&mut self, key: Key, deployment: Option<Deployment>, now: Timestamp) {
        if deployment.is_none() && !self.services.contains_key(&key) {
            return;
        }
        let state = self.services.entry(key.clone()).or_default();
        if state.deployment == deployment {
            return;
        }
        let shown = deployment.as_ref().map(|found| found.replicas);
        if state
            .ordered
            .is_some_and(|ordered| Some(ordered.value) == shown)
        {
            state.ordered = None;
        }
        let rollout = deployment.as_ref().and_then(|found| found.rollout);
        if state.replaces_pods() != rollout.is_some_and(|rollout| rollout.replaces) {
            state.learned.forget_throughput();
            state.latencies.forget();
        }
        state.rollout = rollout.map(|rollout| RolloutProgress::next(state.rollout, rollout, now));
        state.deployment = deployment;
        self.marks.services.insert(key);
    }

    fn set_endpoints(&mut self, key: Key, ready: Vec<Name>) {
        if ready.is_empty() && !self.services.contains_key(&key) {
            return;
        }
        let state = self.services.entry(key.clone()).or_default();
        let ready = ready.into_iter().collect();
        if state.endpoints == ready {
            return;
        }
        state.endpoints = ready;
        self.marks.services.insert(key);
    }

    fn set_job(&mut self, key: Key, job: Option<Job>) {
        let shapes = |job: Option<&Job>| -> Vec<Arc<PodShape>> {
            let roles = job.into_iter().flat_map(|job| &job.roles);
            roles.map(|role| Arc::clone(&role.worker)).collect()
        };
        let known = self.jobs.get(&key).and_then(|state| state.spec.as_ref());
        let (known, new) = (shapes(known), shapes(job.as_ref()));
        self.rates
            .replace_shapes(&known, &new, self.capacity.nodes());
        if job.is_none() && !self.jobs.contains_key(&key) {
            return;
        }
        let state = self.jobs.entry(key.clone()).or_default();
        if state.spec == job {
            return;
        }
        let identity = |job: &Option<Job>| job.as_ref().map(|job| (job.created, job.seed));
        if identity(&state.spec) != identity(&job) {
            // it is gone, also where another one has its name by now
            state.forget_former();
        }
        state.spec = job;
        state.order_observed = true;
        state.estimates.clear();
        state.running_costs.clear();
        self.namespace_mut(&key.namespace).jobs.insert(key.clone());
        self.note_workers(&key);
        self.marks.job(key);
    }

    fn set_batch_job(&mut self, key: Key, role: Name, job: Option<BatchJob>, now: Timestamp) {
        if job.is_none() && !self.jobs.contains_key(&key) {
            return;
        }
        let state = self.jobs.entry(key.clone()).or_default();
        if state.batch_jobs.get(&role) == job.as_ref() {
            return;
        }
        state.set_batch_job(&role, job, now);
        state.order_observed = true;
        self.namespace_mut(&key.namespace).jobs.insert(key.clone());
        self.note_workers(&key);
        self.marks.job(key);
    }

    fn set_budget(&mut self, key: Key, budget: Option<super::event::Budget>, now: Timestamp) {
        let grace = self.change_grace;
        let namespace = self.namespace_mut(&key.namespace);
        match budget {
            None => drop(namespace.budgets.remove(&key.name)),
            Some(spec) => match namespace.budgets.get_mut(&key.name) {
                Some(state) if state.spec == spec => return,
                Some(state) => {
                    if state.spec.period != spec.period {
                        state.period = None;
                    }
                    let terms = state.terms.clone();
                    state.terms = terms.edited(&state.spec, &spec, grace, now);
                    state.spec = spec;
                }
                None => {
                    let state = KnownBudget {
                        terms: KnownTerms::first(&spec, grace, now),
                        spec,
                        period: None,
                        budget_state: None,
                        stops_at: None,
                        price_edit: None,
                    };
                    namespace.budgets.insert(key.name, state);
                }
            },
        }
        self.marks.budgets.insert(key.namespace);
    }

    fn set_pod(&mut self, uid: Name, pod: Option<Box<Pod>>, now: Timestamp) {
        let mut old = self.pods.remove(&uid);
        if old.as_ref().map(|state| &state.pod) == pod.as_ref() {
            if let Some(old) = old {
                self.pods.insert(uid, old);
            }
            return;
        }
        let is_known = old.is_some();
        let was_unowned = old.as_ref().is_some_and(|old| old.pod.is_unowned());
        let is_unowned = pod.as_deref().is_some_and(Pod::is_unowned);
        if let Some(old) = old.as_mut().filter(|_| was_unowned && !is_unowned) {
            self.forget_unowned(&uid, old);
        }
        let old_pod = old.as_ref().map(|state| state.pod.clone());
        let shape = |pod: Option<&Pod>| pod.map(|pod| Arc::clone(&pod.shape));
        let (was, is) = (shape(old_pod.as_deref()), shape(pod.as_deref()));
        self.rates
            .replace_shapes(was.as_slice(), is.as_slice(), self.capacity.nodes());
        let was_other = old.as_ref().is_some_and(|state| state.may_stay);
        let may_stay = pod.as_deref().is_some_and(|pod| self.may_stay(pod));
        let is_other = (was_other, may_stay);
        self.replace_room(&uid, old_pod.as_deref(), pod.as_deref(), is_other, now);
        self.replace_owner(&uid, old_pod.as_deref(), pod.as_deref());
        self.replace_stopping(&uid, old_pod.as_deref(), pod.as_deref());
        match pod.as_deref().is_some_and(Pod::is_terminating) {
            true => drop(self.terminating.insert(uid.clone())),
            false => drop(self.terminating.remove(&uid)),
        }
        if let Some(pod) = pod {
            let known = old.unwrap_or_else(|| PodState {
                pod: pod.clone(),
                engine: EngineState::default(),
                estimate: Default::default(),
                cost: Default::default(),
                freed_budget: Default::default(),
                may_stay,
                bound_at: None,
                stopping_since: None,
            });
            let mut known = known;
            let bound_at = known.bound_at.unwrap_or(now);
            known.bound_at = pod.node.is_some().then_some(bound_at);
            if let (Some(ready), false) = (pod.ready_since, known.engine.has_served)
                && is_known
            {
                self.learn_start(&pod, ready);
            }
            known.engine.has_served |= pod.ready_since.is_some() || pod.was_ready;
            let same_shape = known.pod.shape == pod.shape;
            let estimate = if same_shape {
                known.estimate
            } else {
                Default::default()
            };
            let state = PodState {
                pod,
                estimate,
                may_stay,
                ..known
            };
            if is_unowned {
                self.unowned.insert(unowned(&uid, &state.pod));
            }
            // the eviction of one that was is given up
            if is_unowned || was_unowned {
                self.marks.pods.insert(uid.clone());
            }
            self.pods.insert(uid, state);
            return;
        }
        self.marks.pods.remove(&uid);
        if let Some(old) = &old {
            self.forget_eviction(&old.pod.key.namespace, &uid);
        }
        if let Some(old) = &old
            && let Some((key, Owner::Service(_))) = self.owner(&old.pod)
            && let Some(state) = self.services.get_mut(&key)
        {
            state.learned.lose(old.engine.busy.unwrap_or(0));
        }
    }

    /// Takes that a pod is gone, holds no GPU or belongs to a workload by now, whose cost counts it then.
    fn forget_unowned(&mut self, uid: &Name, state: &mut PodState) {
        let cost = std::mem::take(&mut state.cost);
        let key = unowned(uid, &state.pod);
        self.replace_cost(&key.namespace, &cost, &Default::default());
        self.unowned.remove(&key);
    }

    /// Takes that a replica became ready for the first time. That of several pods is once its leader is.
    fn learn_start(&mut self, pod: &Pod, ready: Timestamp) {
        if pod.leader.is_some() {
            return;
        }
        let node = pod.node.as_ref().and_then(|node| self.capacity.node(node));
        let kind = node.map_or("", kind_of).into();
        if let Some((key, Owner::Service(_))) = self.owner(pod)
            && let Some(state) = self.services.get_mut(&key)
        {
            state.starts.learn(kind, pod.created, ready);
        }
    }

    /// Moves a pod from where it was to where it is: onto its node, or among those that wait. It was
    /// counted among those that may stay, and is now, or not.
    fn replace_room(
        &mut self,
        uid: &Name,
        old: Option<&Pod>,
        new: Option<&Pod>,
        (was_other, is_other): (bool, bool),
        now: Timestamp,
    ) {
        let bound = |pod: &Pod| pod.node.clone().filter(|_| pod.ended.is_none());
        let (was, is) = (old.and_then(bound), new.and_then(bound));
        let same_shape = old.map(|pod| &pod.shape) == new.map(|pod| &pod.shape);
        if was != is || !same_shape || was_other != is_other {
            if let (Some(node), Some(pod)) = (&was, old) {
                let requests = &pod.shape.requests;
                self.capacity.unbind(node, requests, was_other);
            }
            if let (Some(node), Some(pod)) = (&is, new) {
                let requests = &pod.shape.requests;
                self.capacity.bind(node, requests, is_other);
                let owner = self.reservation_owner(uid, pod);
                self.capacity.note_bound(&owner, node);
            }
        }
        let (was, is) = (
            old.and_then(Pod::resident_on),
            new.and_then(Pod::resident_on),
        );
        if was != is || !same_shape {
            if let (Some(node), Some(pod)) = (&was, old) {
                self.capacity.set_resident(node, &pod.shape.requests, false);
            }
            if let (Some(node), Some(pod)) = (&is, new) {
                self.capacity.set_resident(node, &pod.shape.requests, true);
            }
        }
        let given_up = new.and_then(Pod::gives_up_room_at).filter(|at| *at > now);
        self.timers.set(TimerKey::Pod(uid.clone()), given_up);
        let other = |pod: &Pod| pod.owner == Owner::Other;
        if old.is_some_and(other) || new.is_some_and(other) {
            let waits = |pod: &&Pod| other(pod) && pod.waits_for_room(now);
            let pod_set = new
                .filter(waits)
                .map_or_else(PodSet::default, |pod| pod_set(&pod.shape, 1));
            self.capacity
                .reserve(&ReservationOwner::Pod(uid.clone()), &pod_set);
        }
    }

    /// Reserves room for a pod without a node, or gives it up: how long it has waited has changed.
    pub(crate) fn reserve_for(&mut self, uid: &Name, now: Timestamp) {
        let Some(state) = self.pods.get(uid) else {
            return;
        };
        match self.owner(&state.pod) {
            Some((key, Owner::Service(_))) => drop(self.marks.services.insert(key)),
            Some((key, _)) => self.marks.job(key),
            None if !state.pod.waits_for_room(now) => {
                let owner = ReservationOwner::Pod(uid.clone());
                self.capacity.reserve(&owner, &PodSet::default());
                // it may have been told to stop long ago
                self.marks.pods.insert(uid.clone());
            }
            None => {}
        }
    }

    fn replace_owner(&mut self, uid: &Name, old: Option<&Pod>, new: Option<&Pod>) {
        let (was, is) = (
            old.and_then(|pod| self.owner(pod)),
            new.and_then(|pod| self.owner(pod)),
        );
        for (owner, stays) in [(&was, was == is), (&is, true)] {
            match owner {
                Some((key, Owner::Service(_))) => {
                    let state = self.services.entry(key.clone()).or_default();
                    if stays && new.is_some() {
                        state.pods.insert(uid.clone());
                    } else {
                        state.pods.remove(uid);
                    }
                    let shown = new.filter(|_| stays);
                    note_shown(state, uid, shown);
                    if old.zip(new).is_some_and(shows_new_mark) {
                        state.unmarked_since = None;
                    }
                    self.marks.services.insert(key.clone());
                }
                Some((key, _)) => {
                    let state = self.jobs.entry(key.clone()).or_default();
                    if stays && new.is_some() {
                        state.pods.insert(uid.clone());
                    } else {
                        state.pods.remove(uid);
                    }
                    self.namespace_mut(&key.namespace).jobs.insert(key.clone());
                    self.marks.job(key.clone());
                }
                None => {}
            }
        }
    }

    /// Moves a worker that was told to stop to the node on which it does: whether that is ready
    /// decides how long its gang waits for it.
    fn replace_stopping(&mut self, uid: &Name, old: Option<&Pod>, new: Option<&Pod>) {
        let node = |pod: &Pod| pod.node.clone().filter(|_| pod.is_stopping_worker());
        let (was, is) = (old.and_then(node), new.and_then(node));
        if was == is {
            return;
        }
        if let Some(node) = was
            && let Some(uids) = self.stopping.get_mut(&node)
        {
            uids.remove(uid);
            if uids.is_empty() {
                self.stopping.remove(&node);
            }
        }
        if let Some(node) = is {
            self.stopping.entry(node).or_default().insert(uid.clone());
        }
    }

    /// Marks the gangs of which workers stop on a node.
    fn mark_stopping(&mut self, node: &Name) {
        let uids = self.stopping.get(node).into_iter().flatten();
        let pods = uids.filter_map(|uid| self.pods.get(uid));
        let owners: Vec<Key> = pods
            .filter_map(|state| self.owner(&state.pod))
            .map(|(key, _)| key)
            .collect();
        for key in owners {
            self.marks.job(key);
        }
    }

    fn set_node(&mut self, name: &Name, node: Option<Node>) {
        let old = self.capacity.node(name).cloned();
        if old == node {
            return;
        }
        let is_unready = |node: &Option<Node>| node.as_ref().is_none_or(|node| node.unready);
        if is_unready(&old) != is_unready(&node) {
            self.mark_stopping(name);
        }
        self.rates.replace_node(old.as_ref(), node.as_ref());
        self.capacity.set_node(name, node);
    }

    fn set_node_start(&mut self, node_start: Option<SignedDuration>) {
        let was_awaited = std::mem::take(&mut self.awaits_node_start);
        if self.node_start == node_start && !was_awaited {
            return;
        }
        self.node_start = node_start;
        self.capacity_preemptions.is_due |= was_awaited;
        let namespaces = self.jobs.keys().map(|key| key.namespace.clone());
        self.marks.queues.extend(namespaces);
    }

    /// Takes what is paused now. Where that has changed, everything is decided anew. Orders that were
    /// given before a pause are not carried out any more, so what the objects show counts.
    fn set_pauses(&mut self, pauses: Pauses) {
        let before = std::mem::replace(&mut self.pauses, pauses);
        if before == self.pauses {
            return;
        }
        for name in self.all_namespaces() {
            let is_paused = self.paused_by(&name);
            if before.scope_of(&name) == is_paused {
                continue;
            }
            for key in Self::keys_in(&self.services, &name) {
                if let Some(state) = self.services.get_mut(&key) {
                    state.forget_orders();
                }
                self.marks.services.insert(key);
            }
            for key in Self::keys_in(&self.jobs, &name) {
                if let Some(state) = self.jobs.get_mut(&key) {
                    (state.ordered, state.retry) = (None, None);
                }
                self.marks.job(key);
            }
            self.marks.costs.insert(name.clone());
            self.marks.budgets.insert(name);
        }
    }

    fn set_account(&mut self, key: Key, account: Option<AccountSpend>) {
        let namespace = self.namespace_mut(&key.namespace);
        if namespace.spending.account(&key.name) == account.as_ref() {
            return;
        }
        let changed = namespace.spending.set(key.name, account);
        self.marks.budgets.insert(key.namespace);
        for uid in changed {
            let Some(state) = self.pods.get(&uid) else {
                continue;
            };
            match self.owner(&state.pod) {
                Some((key, Owner::Service(_))) => drop(self.marks.services.insert(key)),
                Some((key, _)) => self.marks.job(key),
                None => drop(self.marks.pods.insert(uid)),
            }
        }
    }

    fn set_reading(&mut self, uid: &Name, reading: Reading, now: Timestamp) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        let Owner::Service(name) = &pod.pod.owner else {
            return;
        };
        let key = Key {
            namespace: pod.pod.key.namespace.clone(),
            name: name.clone(),
        };
        let state = self.services.entry(key.clone()).or_default();
        state.read(&mut pod.engine, reading, now);
        self.marks.services.insert(key);
    }

    fn set_engine_measures(&mut self, uid: &Name, measures: EngineMeasures, now: Timestamp) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        let Owner::Service(name) = &pod.pod.owner else {
            return;
        };
        let key = Key {
            namespace: pod.pod.key.namespace.clone(),
            name: name.clone(),
        };
        let state = self.services.entry(key.clone()).or_default();
        let leaves = draining_since(&state.draining, uid, &pod.pod).is_some();
        let requests = measured_requests(&(uid, &pod.pod, &pod.engine), now);
        let has_requests = requests.is_some() && !leaves;
        if state.read_measures(&mut pod.engine, measures, has_requests, now) {
            self.marks.services.insert(key);
        }
    }

    fn set_signal(
        &mut self,
        key: Key,
        name: Name,
        measurement: Option<Measurement>,
        now: Timestamp,
    ) {
        if measurement.is_none() && !self.services.contains_key(&key) {
            return;
        }
        let state = self.services.entry(key.clone()).or_default();
        if state.measure(name, measurement, now) {
            self.marks.services.insert(key);
        }
    }
}

/// Whether a service follows the requests that gateways forward.
fn follows_gateways(state: &ServiceState) -> bool {
    let signals = state.spec.iter().flat_map(|spec| &spec.signals);
    let mut rules = signals.map(|(_, rule)| rule);
    rules.any(|rule| matches!(rule, SignalRule::Gateway(_)))
}

/// The latencies that have an objective.
fn objectives(
    service: Option<&Service>,
) -> impl Iterator<Item = (LatencyMeasure, SignedDuration)> + '_ {
    let signals = service.into_iter().flat_map(|service| &service.signals);
    signals.filter_map(|(_, rule)| match rule {
        SignalRule::Latency(measure, objective) => Some((*measure, *objective)),
        _ => None,
    })
}

/// The kind of a node: its instance type, or else the model of its GPUs.
fn kind_of(node: &Node) -> &str {
    let labels = ["node.kubernetes.io/instance-type", "nvidia.com/gpu.product"];
    let mut kinds = labels.iter().filter_map(|label| node.labels.get(*label));
    kinds.next().map_or("", String::as_str)
}

/// A pod of no workload by its namespace and UID.
fn unowned(uid: &Name, pod: &Pod) -> Key {
    Key {
        namespace: pod.key.namespace.clone(),
        name: uid.clone(),
    }
}

/// Whether a pod shows that it was told to leave, and did not before.
fn shows_new_mark((old, new): (&Pod, &Pod)) -> bool {
    let drains = |pod: &Pod| pod.draining_since.is_some();
    drains(new) && !drains(old) || new.marked_for_deletion && !old.marked_for_deletion
}

/// Forgets orders about a pod that it shows, or that are void because it is gone.
fn note_shown(state: &mut ServiceState, uid: &Name, pod: Option<&Pod>) {
    let Some(pod) = pod else {
        state.draining.remove(uid);
        state.marked_for_deletion.remove(uid);
        return;
    };
    let drains = state.draining.get(uid).map(|ordered| ordered.value);
    if drains == Some(pod.draining_since.is_some()) {
        state.draining.remove(uid);
    }
    if pod.marked_for_deletion {
        state.marked_for_deletion.remove(uid);
    }
}
