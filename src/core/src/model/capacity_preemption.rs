//! What is known of gangs that may give their GPUs back, and of replicas that wait for them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::event::{Key, Name, Scheduling};
use super::preemptible::{CapacityPreemption, Preemptibility, Priorities};
use super::replica_pods::fate;
use super::service::ServiceState;
use super::state::{Model, PodState};

impl Model {
    /// Notes what others may make of the room of a gang.
    pub(crate) fn note_preemptibility(&mut self, key: &Key, now: Timestamp) {
        let Some(state) = self.jobs.get(key) else {
            return;
        };
        let holds_node = |found: &PodState| found.pod.node.is_some() && found.pod.ended.is_none();
        let mut pods = state.pods.iter().filter_map(|uid| self.pods.get(uid));
        let capacity = match &state.spec {
            Some(spec) if state.has_room() => {
                let is_kept =
                    !spec.preemption_allowed || spec.paused || self.is_observe_only(&key.namespace);
                match is_kept {
                    true => Preemptibility::NotPreemptible,
                    false => Preemptibility::Preemptible(Priorities {
                        in_cluster: spec.cluster_priority,
                        in_namespace: spec.priority,
                    }),
                }
            }
            _ if pods.any(holds_node) => Preemptibility::Terminating,
            _ => Preemptibility::NotPreemptible,
        };
        self.set_preemptibility(key, capacity);
        if let Some(state) = self.jobs.get_mut(key) {
            let since = state.leaving_since.unwrap_or(now);
            state.leaving_since = (capacity == Preemptibility::Terminating).then_some(since);
        }
    }

    /// Takes what others may make of the room of a gang.
    pub(crate) fn set_preemptibility(&mut self, key: &Key, now: Preemptibility) {
        if let Some(state) = self.jobs.get_mut(key) {
            let before = std::mem::replace(&mut state.preemptibility, now);
            self.preemptible.set(key, before, now);
            // one that was told to give way may do so for nobody any more
            let has_other_priority = matches!(
                (before, now),
                (Preemptibility::Preemptible(before), Preemptibility::Preemptible(now)) if before != now
            );
            let is_preempted = self.capacity_preemptions.given.contains_key(key);
            self.capacity_preemptions.is_due |= has_other_priority && is_preempted;
        }
    }

    /// For whom a gang gives its GPUs back. What was found before counts for as long as that one waits.
    pub(crate) fn capacity_preemption(&self, key: &Key) -> Option<&CapacityPreemption> {
        let preemption = self.capacity_preemptions.given.get(key)?;
        let to = &preemption.to;
        let claimant = Key::new(&to.namespace, &to.name);
        let (waits, priority) = if preemption.is_of_service {
            let state = self.services.get(&claimant)?;
            let spec = state.spec.as_ref()?;
            (!state.unschedulable.is_empty(), spec.cluster_priority)
        } else {
            let state = self.jobs.get(&claimant)?;
            let spec = state.spec.as_ref()?;
            let rests =
                spec.suspend || spec.paused || self.paused_by(&claimant.namespace).is_some();
            (!rests && !state.has_room(), spec.cluster_priority)
        };
        // its place may be behind what its priority says: those ahead of it in its namespace go first
        (waits && priority >= to.priority.0).then_some(preemption)
    }

    /// Notes which replicas of a service the scheduler has found no node for.
    pub(crate) fn note_unschedulable(&mut self, key: &Key) {
        let is_observe_only = self.is_observe_only(&key.namespace);
        let Some(state) = self.services.get(key) else {
            return;
        };
        let mut waiting = BTreeMap::new();
        if state.spec.is_some() && !is_observe_only {
            waiting.extend(self.unschedulable_replicas(state));
        }
        if waiting == state.unschedulable {
            return;
        }
        match waiting.is_empty() {
            true => drop(self.unschedulable.remove(key)),
            false => drop(self.unschedulable.insert(key.clone())),
        }
        if let Some(state) = self.services.get_mut(key) {
            state.unschedulable = waiting;
        }
        self.capacity_preemptions.is_due = true;
    }

    /// The replicas that stay and of which a pod has no node, each with the time since when the scheduler has
    /// found none for it. One of several pods is known by the one that leads it.
    fn unschedulable_replicas(&self, state: &ServiceState) -> BTreeMap<Name, Timestamp> {
        let mut replicas = BTreeMap::new();
        let pods = state.pods.iter();
        for (uid, found) in pods.filter_map(|uid| self.pods.get_key_value(uid)) {
            let pod = &found.pod;
            let stays = pod.deletion.is_none() && fate(state, &self.pods, uid, pod).stays();
            if let Scheduling::Unschedulable { since, .. } = pod.scheduling
                && stays
                && pod.is_pending()
            {
                let replica = pod.leader.as_ref().unwrap_or(uid).clone();
                let first = replicas.entry(replica).or_insert(since);
                *first = since.min(*first);
            }
        }
        replicas
    }

    /// Whether the indices of what gives way and what waits are those over all workloads.
    pub(crate) fn has_consistent_preemption(&self) -> bool {
        let gangs = self
            .jobs
            .iter()
            .map(|(key, state)| (key, state.preemptibility));
        let services = self.services.iter();
        let waiting = services.filter(|(_, state)| !state.unschedulable.is_empty());
        let waiting: BTreeSet<&Key> = waiting.map(|(key, _)| key).collect();
        let pods = self.pods.iter();
        let terminating = pods.filter(|(_, found)| found.pod.is_terminating());
        let terminating: BTreeSet<&Name> = terminating.map(|(uid, _)| uid).collect();
        self.preemptible.is_consistent(gangs)
            && waiting.into_iter().eq(&self.unschedulable)
            && terminating.into_iter().eq(&self.terminating)
    }
}
