//! What workloads and pods cost while they run, as addends of their namespaces' sums, and the
//! room reserved for those of their pods that have no node yet.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::budget::{EVICTION_NOTICE, FreedBudget, RunningCost};
use crate::drain;
use crate::money::Money;
use crate::pod_set::PodSet;

use super::capacity::ReservationOwner;
use super::claim::{BudgetRank, Claim};
use super::draining::{drain_replicas, is_replica};
use super::event::{Key, Name, Owner, Pod};
use super::job::JobState;
use super::namespace::Admission;
use super::pod_cost::{
    PodIntent, cost_changes_at, freed_by, grace_stop_seconds, new_part_cost, new_pod_cost,
    note_intent, pod_set, replica_stop_seconds, running_cost, service_stop_seconds,
};
use super::replica_pods::{fate, missing_workers, replica_cost, reservation_owner};
use super::service::ServiceState;
use super::spending::{Spending, WorkloadCost};
use super::state::{Model, PodState, count};
use super::timers::TimerKey;
use super::workers::{is_in_queue, takes_room};

impl Model {
    /// Puts what a workload or pod costs in the place of what it did.
    pub(crate) fn replace_cost(
        &mut self,
        namespace: &Name,
        old: &WorkloadCost,
        new: &WorkloadCost,
    ) {
        if old != new {
            self.namespace_mut(namespace).totals.replace(old, new);
            self.marks.budgets.insert(namespace.clone());
        }
    }

    /// Computes anew what a pod of no workload costs.
    pub(crate) fn refresh_other(&mut self, uid: &Name, now: Timestamp) {
        let Some(state) = self.pods.get_mut(uid) else {
            return;
        };
        let pod = &state.pod;
        let mut cost = WorkloadCost::default();
        // one that only shares GPUs is charged for none
        let is_charged = pod.shape.attributes.is_some();
        if pod.is_unowned() && is_charged && pod.ended.is_none() {
            let namespace = self.namespaces.get(&pod.key.namespace);
            let open = namespace.and_then(|namespace| namespace.spending.rate(uid));
            let estimate = || self.rates.rate(&pod.shape, &mut state.estimate, now);
            let rate = open.unwrap_or_else(estimate);
            let stopped_after =
                |seconds| running_cost(&self.rates, &self.capacity, pod, rate, seconds, 0, now);
            // a budget counts it, and cannot stop it unless it evicts it
            let overdue_at = cost.add_pod(state, PodIntent::Run, stopped_after(0), now);
            if overdue_at.is_some() {
                self.timers.set(TimerKey::Pod(uid.clone()), overdue_at);
            }
            if rate.is_some() && pod.may_be_evicted() {
                let stop_seconds = grace_stop_seconds(pod.grace_seconds);
                let evicted = stopped_after(EVICTION_NOTICE.as_secs() + stop_seconds);
                cost.eviction_reserve = Some((pod.owner_name.clone(), evicted.reserve()));
            }
        }
        let old = std::mem::replace(&mut state.cost, cost.clone());
        let namespace = pod.key.namespace.clone();
        self.replace_cost(&namespace, &old, &cost);
    }

    /// Computes anew what a service costs with its orders, and keeps room for its pods.
    pub(crate) fn refresh_service(&mut self, key: &Key, now: Timestamp) {
        let Some(state) = self.services.get_mut(key) else {
            return;
        };
        let no_spending = Spending::default();
        let namespace = self.namespaces.get(&key.namespace);
        let spending = namespace.map_or(&no_spending, |namespace| &namespace.spending);
        let priority = state.spec.as_ref().map(|spec| spec.priority);
        let mut cost = WorkloadCost {
            priority,
            preemption_allowed: true,
            ..WorkloadCost::default()
        };
        let priority = priority.unwrap_or(0);
        let (mut starting, mut given_up) = (0, 0);
        let (mut stop_times, mut changes_at) = (BTreeSet::new(), None::<Timestamp>);
        // those that need what their templates say, and the others
        let (mut pods_without_node, mut workers_without_node) = (0u32, 0u32);
        let mut others_without_node: BTreeMap<Name, PodSet> = BTreeMap::new();
        let has_workers = state
            .spec
            .as_ref()
            .is_some_and(|spec| spec.workers.is_some());
        let pods = state.pods.iter();
        let pods = pods.filter_map(|uid| self.pods.get_key_value(uid));
        let replicas = drain_replicas(state, pods, now);
        let held = drain::held(&replicas);
        // a service that is gone keeps no replica
        let (mut non_draining, mut wanted) = (BTreeMap::<Name, FreedBudget>::new(), 0);
        // of those that leave, what all of their pods cost, and how many of them are workers
        let mut draining = BTreeMap::<Name, (RunningCost, u32)>::new();
        let nothing = RunningCost {
            priority,
            ..RunningCost::constant(Some(Money::ZERO), 0)
        };
        for uid in &state.pods {
            let known = self.pods.get(uid);
            let fate = known.map(|found| fate(state, &self.pods, uid, &found.pod));
            let Some((found, fate)) = self.pods.get_mut(uid).zip(fate) else {
                continue;
            };
            note_intent(found, fate.intent, now);
            found.freed_budget = FreedBudget::default();
            let pod = &found.pod;
            if pod.ended.is_some() {
                continue;
            }
            if pod.waits_for_room(now) {
                match reservation_owner(key, state.spec.as_ref(), uid, pod) {
                    ReservationOwner::ReplicaPod(_, uid) => {
                        others_without_node.insert(uid, pod_set(&pod.shape, 1));
                    }
                    ReservationOwner::ReplicaWorkers(_) => workers_without_node += 1,
                    ReservationOwner::Workload(..) | ReservationOwner::Pod(_) => {
                        pods_without_node += 1;
                    }
                }
            }
            let is_charged = pod.shape.attributes.is_some();
            let is_starting = pod.node.is_none() && pod.deletion.is_none();
            let stays = fate.stays() && is_replica(pod);
            let is_held = fate.is_held || held.contains(&**pod.leader.as_ref().unwrap_or(uid));
            let counts = pod.leader.is_none() && (is_charged || has_workers);
            if is_starting && stays && counts && !is_held {
                starting += 1;
            }
            if !is_charged {
                continue;
            }
            let stop_seconds = match &state.spec {
                Some(spec) => replica_stop_seconds(spec, pod, fate.has_drained),
                // its workload is gone: Kubernetes is stopping it
                None => grace_stop_seconds(pod.grace_seconds),
            };
            let estimate = || self.rates.rate(&pod.shape, &mut found.estimate, now);
            let rate = spending.rate(uid).unwrap_or_else(estimate);
            let (rates, capacity) = (&self.rates, &self.capacity);
            let running = running_cost(rates, capacity, pod, rate, stop_seconds, priority, now);
            let overdue_at = match is_starting && stays && is_held {
                true => {
                    cost.add_held(running, 1);
                    None
                }
                false => cost.add_pod(found, fate.intent, running, now),
            };
            changes_at = changes_at.into_iter().chain(overdue_at).min();
            if stays {
                let replica = pod.leader.as_ref().unwrap_or(uid).clone();
                let freed = non_draining.entry(replica).or_default();
                *freed = freed.and(freed_by(&[(running, 1)]));
            }
            if matches!(fate.intent, PodIntent::Drain(_)) && !fate.has_drained && is_replica(pod) {
                let replica = pod.leader.as_ref().unwrap_or(uid).clone();
                let (sum, workers) = draining.entry(replica).or_insert((nothing, 0));
                *sum = replica_cost(*sum, running, 1);
                *workers += u32::from(pod.leader.is_some());
            }
            stop_times.insert(stop_seconds);
        }
        let (mut running_cost, mut recalled_costs) = (None, Vec::new());
        let (mut reserved_pods, mut reserved_workers) = (PodSet::default(), PodSet::default());
        if let Some(spec) = &state.spec {
            let seconds = service_stop_seconds(spec.drain_timeout, spec.grace_seconds);
            let (rates, cached) = (&mut self.rates, &mut state.estimate);
            let (replica, worker) = match &spec.workers {
                Some(workers) if spec.shapes().any(|shape| shape.uses_gpus()) => {
                    let seconds = seconds + grace_stop_seconds(workers.grace_seconds);
                    let leader =
                        new_part_cost(rates, &spec.replica, cached, seconds, priority, now);
                    let (shape, cached) = (&workers.shape, &mut state.worker_estimate);
                    let worker = new_part_cost(rates, shape, cached, seconds, priority, now);
                    (replica_cost(leader, worker, workers.count), Some(worker))
                }
                _ => {
                    let replica =
                        new_pod_cost(rates, &spec.replica, cached, seconds, priority, now);
                    (replica, None)
                }
            };
            stop_times.insert(replica.stop_seconds);
            let deployment = state.deployment.as_ref();
            let creation_failure = deployment.and_then(|found| found.creation_failure.as_ref());
            let without_pod = without_pod(state, &replicas);
            wanted = drain::non_draining(state.declared(), &replicas);
            state
                .without_pod
                .observe(without_pod, creation_failure, now);
            let kept = state.without_pod.kept(now);
            given_up = state.without_pod.given_up(now);
            let held_without_pod = drain::held_without_pod(&replicas);
            let held_kept = held_without_pod.min(kept);
            let held_given_up = (held_without_pod - held_kept).min(given_up);
            given_up -= held_given_up;
            cost.add_held(replica, held_kept);
            cost.add_starting(replica, kept - held_kept);
            cost.reserve += replica.reserve_of(held_given_up);
            match deployment.and_then(|found| found.first_ordinal) {
                // what comes next has a place above theirs, so nothing else gets their money
                Some(_) => cost.starting_reserve += replica.reserve_of(given_up),
                None => cost.given_up_reserve = replica.reserve_of(given_up),
            }
            starting += kept - held_kept;
            let mut missing = 0u32;
            for lacks in missing_workers(state, &self.pods) {
                missing = missing.saturating_add(lacks.number);
                let Some(worker) = worker else { continue };
                match lacks.is_held || held.contains(&*lacks.replica) {
                    true => cost.add_held(worker, lacks.number),
                    false => cost.add_starting(worker, lacks.number),
                }
                // they go with their replica
                let freed = non_draining.entry(lacks.replica).or_default();
                *freed = freed.and(freed_by(&[(worker, lacks.number)]));
            }
            let most = spec.workers.as_ref().map_or(0, |workers| workers.count);
            let missing = missing.min(most.saturating_mul(wanted));
            state
                .missing_workers
                .observe(missing, creation_failure, now);
            reserved_pods = pod_set(&spec.replica, kept.saturating_add(pods_without_node));
            if let Some(workers) = &spec.workers {
                let of_new = kept.saturating_mul(workers.count);
                let missing = state.missing_workers.kept(now).saturating_add(of_new);
                let wanted = missing.saturating_add(workers_without_node);
                reserved_workers = pod_set(&workers.shape, wanted);
            }
            running_cost = Some(replica);
            let back = drain::coming_back(state.declared(), &replicas).into_iter();
            recalled_costs.extend(back.map(|(pod, is_ours)| {
                let (there, workers) = draining.get(&*pod.uid).copied().unwrap_or((nothing, 0));
                let own = worker.map_or(there, |worker| {
                    replica_cost(there, worker, most.saturating_sub(workers))
                });
                // of what was given up, a new one may come instead
                match is_ours {
                    true => own,
                    false => own.or_dearer(replica),
                }
            }));
        }
        for (replica, freed_budget) in &non_draining {
            if let Some(found) = self.pods.get_mut(replica) {
                found.freed_budget = *freed_budget;
            }
        }
        // those beyond its replicas go, and they free no less than the cheapest
        let surplus = non_draining.len().saturating_sub(wanted as usize);
        let mut non_draining: Vec<FreedBudget> = non_draining.into_values().collect();
        non_draining.sort_by_key(|each| (each.rate, each.reserve));
        for freed_budget in non_draining.into_iter().take(surplus) {
            cost.leaving_rate += freed_budget.rate;
            cost.leaving_reserve += freed_budget.reserve;
        }
        cost.stop_seconds = stop_times.last().copied().unwrap_or(0);
        let old = std::mem::replace(&mut state.cost, cost.clone());
        (state.running_cost, state.recalled_costs) = (running_cost, recalled_costs);
        (state.starting, state.given_up) = (starting, given_up);
        let given_up_at =
            [&state.without_pod, &state.missing_workers].map(|all| all.changes_at(now));
        let changes_at = changes_at
            .into_iter()
            .chain(given_up_at.into_iter().flatten());
        let price_changes_at = cost_changes_at(&self.rates, stop_times, now);
        state.cost_changes_at = price_changes_at.into_iter().chain(changes_at).min();
        let is_gone = running_cost.is_none();
        let owner = ReservationOwner::Workload(key.clone(), Owner::Service(key.name.clone()));
        self.capacity.reserve(&owner, &reserved_pods);
        let workers = ReservationOwner::ReplicaWorkers(key.clone());
        self.capacity.reserve(&workers, &reserved_workers);
        let others = others_without_node.keys().cloned().collect();
        let before = std::mem::replace(&mut state.pods_with_room, others);
        for uid in before {
            others_without_node.entry(uid).or_default();
        }
        for (uid, pod_set) in others_without_node {
            let owner = ReservationOwner::ReplicaPod(key.clone(), uid);
            self.capacity.reserve(&owner, &pod_set);
        }
        self.note_unschedulable(key);
        if is_gone {
            self.note_admission(key, None);
        }
        self.replace_cost(&key.namespace, &old, &cost);
    }

    /// Notes what one more replica of a service costs and whether the budgets would admit it, as it was just decided.
    pub(crate) fn note_admission(&mut self, key: &Key, new: Option<(RunningCost, Admission)>) {
        let Some(state) = self.services.get_mut(key) else {
            return;
        };
        let old = std::mem::replace(&mut state.index, new);
        let namespace = self.namespace_mut(&key.namespace);
        namespace.index_service(key, old, new);
    }

    /// The replicas of a service as the steps of a drain see them.
    pub(crate) fn drain_replicas(
        &self,
        state: &ServiceState,
        now: Timestamp,
    ) -> Vec<drain::Replica> {
        let pods = state.pods.iter();
        let pods = pods.filter_map(|uid| self.pods.get_key_value(uid));
        drain_replicas(state, pods, now)
    }

    /// Replaces what a service waits for.
    pub(crate) fn set_claims(&mut self, key: &Key, claims: Vec<(BudgetRank, Claim)>) {
        let Some(state) = self.services.get_mut(key) else {
            return;
        };
        let ranks = claims.iter().map(|(rank, _)| rank.clone()).collect();
        let before = std::mem::replace(&mut state.claims, ranks);
        if before.is_empty() && claims.is_empty() {
            return;
        }
        let namespace = self.namespace_mut(&key.namespace);
        for rank in before {
            namespace.claims.remove(&rank);
        }
        namespace.claims.extend(claims);
    }

    /// Computes anew what a TrainingJob costs with its orders, and keeps room for its workers.
    pub(crate) fn refresh_job(&mut self, key: &Key, now: Timestamp) {
        let Some(state) = self.jobs.get_mut(key) else {
            return;
        };
        let nothing = Spending::default();
        let namespace = self.namespaces.get(&key.namespace);
        let spending = namespace.map_or(&nothing, |namespace| &namespace.spending);
        let priority = state.spec.as_ref().map(|spec| spec.priority);
        let mut cost = WorkloadCost {
            priority,
            preemption_allowed: state
                .spec
                .as_ref()
                .is_some_and(|spec| spec.preemption_allowed),
            ..WorkloadCost::default()
        };
        let priority = priority.unwrap_or(0);
        let (mut stop_times, mut changes_at) = (BTreeSet::new(), None::<Timestamp>);
        let runs = state.has_room();
        for uid in &state.pods {
            let Some(found) = self.pods.get_mut(uid) else {
                continue;
            };
            let pod = &found.pod;
            if pod.ended.is_some() || pod.shape.attributes.is_none() {
                continue;
            }
            let estimate = || self.rates.rate(&pod.shape, &mut found.estimate, now);
            let rate = spending.rate(uid).unwrap_or_else(estimate);
            let seconds = grace_stop_seconds(pod.grace_seconds);
            let (rates, capacity) = (&self.rates, &self.capacity);
            let running = running_cost(rates, capacity, pod, rate, seconds, priority, now);
            let is_worker = state.is_of_current_run(pod);
            let intent = match is_worker && !runs {
                true => PodIntent::Stop,
                false => PodIntent::Run,
            };
            note_intent(found, intent, now);
            let pod = &found.pod;
            if is_worker && runs && pod.node.is_none() && pod.deletion.is_none() {
                cost.add_held(running, 1);
            } else {
                let overdue_at = cost.add_pod(found, intent, running, now);
                changes_at = changes_at.into_iter().chain(overdue_at).min();
            }
            // one that only has its labels does not stop with it
            if !is_worker && pod.deletion.is_none() {
                cost.kept_on_stop = cost.kept_on_stop.and(freed_by(&[(running, 1)]));
            }
            stop_times.insert(seconds);
        }
        let roles = state.spec.as_ref().map_or(&[][..], |spec| &spec.roles);
        let mut estimates = std::mem::take(&mut state.estimates);
        estimates.resize(roles.len(), Default::default());
        let (mut reserved, mut running_costs) = (Vec::new(), Vec::new());
        let takes_room = |found: &PodState, state: &JobState| {
            takes_room(&found.pod, is_in_queue(state, &found.pod), now)
        };
        for (role, cached) in roles.iter().zip(&mut estimates) {
            let seconds = grace_stop_seconds(role.grace_seconds);
            let rates = &mut self.rates;
            let running_cost = new_part_cost(rates, &role.worker, cached, seconds, priority, now);
            stop_times.insert(seconds);
            running_costs.push(running_cost);
            let workers = state.pods.iter().filter_map(|uid| self.pods.get(uid));
            let workers: Vec<&PodState> = workers
                .filter(|found| is_worker_of(&found.pod, &role.name))
                .filter(|found| state.is_of_current_run(&found.pod))
                .collect();
            let pending = workers.iter().filter(|found| takes_room(found, state));
            let ended_well = state.ended_well(&role.name);
            let with_pod = count(workers.len()).saturating_add(ended_well);
            let without_pod = if runs {
                role.replicas.saturating_sub(with_pod)
            } else {
                0
            };
            cost.add_held(running_cost, without_pod);
            let wanted = without_pod.saturating_add(count(pending.count()));
            reserved.push((role.name.clone(), pod_set(&role.worker, wanted)));
        }
        // of a role that is gone, only its pods say what they need
        let mut gone: BTreeMap<Name, PodSet> = BTreeMap::new();
        for found in state.pods.iter().filter_map(|uid| self.pods.get(uid)) {
            let Owner::Job(_, name) = &found.pod.owner else {
                continue;
            };
            if takes_room(found, state) && roles.iter().all(|role| role.name != *name) {
                let pod_set_of_role = gone.entry(name.clone()).or_default();
                *pod_set_of_role = pod_set(&found.pod.shape, pod_set_of_role.workers + 1);
            }
        }
        reserved.extend(gone);
        cost.stop_seconds = stop_times.last().copied().unwrap_or(0);
        state.estimates = estimates;
        let old = std::mem::replace(&mut state.cost, cost.clone());
        state.running_costs = running_costs;
        let price_changes_at = cost_changes_at(&self.rates, stop_times, now);
        state.cost_changes_at = price_changes_at.into_iter().chain(changes_at).min();
        let names = reserved.iter().map(|(role, _)| role.clone()).collect();
        let before = std::mem::replace(&mut state.roles_with_room, names);
        let gone = before.difference(&state.roles_with_room);
        reserved.extend(gone.map(|role| (role.clone(), PodSet::default())));
        for (role, pod_set) in reserved {
            let owner = Owner::Job(key.name.clone(), role);
            let owner = ReservationOwner::Workload(key.clone(), owner);
            self.capacity.reserve(&owner, &pod_set);
        }
        self.note_preemptibility(key, now);
        self.replace_cost(&key.namespace, &old, &cost);
    }
}

/// Replicas that were ordered and have no pod yet.
fn without_pod(state: &ServiceState, replicas: &[drain::Replica]) -> u32 {
    let current = drain::non_draining(state.declared(), replicas);
    let non_draining = replicas.iter().filter(|pod| pod.draining_since.is_none());
    current.saturating_sub(count(non_draining.count()))
}

/// Whether a pod counts among the workers of a role. A Job replaces a pod that is being deleted
/// only when it is gone.
pub(crate) fn is_worker_of(pod: &Pod, role: &str) -> bool {
    pod.ended.is_none() && matches!(&pod.owner, Owner::Job(_, name) if **name == *role)
}
