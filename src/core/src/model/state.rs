//! The whole of what is known and remembered.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::capacity::ClusterCapacity;
use super::event::{Key, Name, Owner, Pod, PodShape};
use super::gateways::Gateways;
use super::job::JobState;
use super::namespace::NamespaceState;
use super::pause::{PauseScope, Pauses};
use super::preemptible::{CapacityPreemptions, PreemptibleGangs};
use super::rates::{CachedRate, Rates};
use super::service::{EngineState, ServiceState};
use super::spending::{Totals, WorkloadCost};
use super::timers::{TimerKey, Timers};
use crate::budget::FreedBudget;
use crate::training::NodeStart;

/// A pod, and what is remembered of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodState {
    pub(crate) pod: Box<Pod>,
    pub(crate) engine: EngineState,
    pub(crate) estimate: CachedRate,
    /// What it costs, if it belongs to no workload.
    pub(crate) cost: WorkloadCost,
    /// What becomes free when it goes, if it is a replica.
    pub(crate) freed_budget: FreedBudget,
    /// Whether gangs cannot count on its end: as of this, its room is among that of the node's others.
    pub(crate) may_stay: bool,
    /// When it was first seen on its node.
    pub(crate) bound_at: Option<Timestamp>,
    /// Since when it is to stop at once, without having been told itself.
    pub(crate) stopping_since: Option<Timestamp>,
}

/// What is to be decided anew.
///
/// What an event names is looked at first: its cost, and where the budgets of its namespace stand.
/// Where events have named more than one call looks at, the rest is deferred, and what events name
/// between two calls goes before it. Services are then decided in slices, first those of namespaces
/// that stop something for money, then those of namespaces that an event named, then those of which
/// an event about everything (prices, a class of nodes) has marked all. Queues follow.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Marks {
    /// Services that events have named.
    pub(crate) services: BTreeSet<Key>,
    /// TrainingJobs whose cost is to be computed anew.
    pub(crate) jobs: BTreeSet<Key>,
    /// Pods of no workload whose cost is to be computed anew.
    pub(crate) pods: BTreeSet<Name>,
    /// Namespaces whose budgets are to be looked at.
    pub(crate) budgets: BTreeSet<Name>,
    /// What events have named that earlier calls have not looked at.
    deferred: Deferred,
    /// More services were due at one instant than the last call marked.
    pub(crate) are_timers_due: bool,
    /// Namespaces in which the cost of everything is to be computed anew before anything else.
    pub(crate) costs: BTreeSet<Name>,
    /// Services that are to be decided, by namespace. An entry without any is looked at as well.
    pub(crate) slices: BTreeMap<Name, BTreeSet<Key>>,
    /// Services of these namespaces that gave an order: they are decided again once all of their
    /// namespace have been decided.
    pub(crate) again: BTreeSet<Key>,
    /// Namespaces among these whose budgets stop something.
    pub(crate) stops: BTreeSet<Name>,
    /// Namespaces among these that events have named, or in which something is due.
    pub(crate) named: BTreeSet<Name>,
    /// Namespaces whose queues of TrainingJobs are to be decided.
    pub(crate) queues: BTreeSet<Name>,
}

/// What events have named and a call has left for later ones.
#[derive(Clone, Debug, Default, PartialEq)]
struct Deferred {
    services: BTreeSet<Key>,
    jobs: BTreeSet<Key>,
    budgets: BTreeSet<Name>,
}

impl Marks {
    fn is_empty(&self) -> bool {
        self.first_deferred().is_none()
            && !self.are_timers_due
            && self.services.is_empty()
            && self.jobs.is_empty()
            && self.pods.is_empty()
            && self.budgets.is_empty()
            && self.slices.is_empty()
            && self.queues.is_empty()
    }

    /// The first namespace in which events have named something since the last call.
    pub(crate) fn first_named(&self) -> Option<Name> {
        first_namespace(&self.services, &self.jobs, &self.budgets)
    }

    /// The first namespace in which something is deferred.
    pub(crate) fn first_deferred(&self) -> Option<Name> {
        let Deferred {
            services,
            jobs,
            budgets,
        } = &self.deferred;
        first_namespace(services, jobs, budgets)
    }

    /// Leaves what events have named to later calls.
    pub(crate) fn defer(&mut self) {
        let deferred = &mut self.deferred;
        move_all(&mut self.services, &mut deferred.services);
        move_all(&mut self.jobs, &mut deferred.jobs);
        move_all(&mut self.budgets, &mut deferred.budgets);
    }

    /// Takes out the services and the TrainingJobs of a namespace that events have named.
    pub(crate) fn take_named(&mut self, namespace: &Name) -> (BTreeSet<Key>, BTreeSet<Key>) {
        let mut services = take_in(&mut self.services, namespace);
        services.append(&mut take_in(&mut self.deferred.services, namespace));
        let mut jobs = take_in(&mut self.jobs, namespace);
        jobs.append(&mut take_in(&mut self.deferred.jobs, namespace));
        (services, jobs)
    }

    /// Whether something is named or deferred in a namespace.
    pub(crate) fn is_named_in(&self, namespace: &Name) -> bool {
        let has_key = |keys: &BTreeSet<Key>| {
            let first = keys.range(Key::first_in(namespace)..).next();
            first.is_some_and(|key| key.namespace == *namespace)
        };
        let deferred = &self.deferred;
        let keys = [&self.services, &self.jobs];
        let keys = keys.into_iter().chain([&deferred.services, &deferred.jobs]);
        let names = [&self.budgets, &self.costs, &deferred.budgets];
        names.iter().any(|names| names.contains(namespace)) || keys.into_iter().any(has_key)
    }

    /// The budgets of a namespace have been looked at.
    pub(crate) fn clear_budgets(&mut self, namespace: &Name) {
        self.budgets.remove(namespace);
        self.deferred.budgets.remove(namespace);
    }

    /// Marks a TrainingJob, and the queue that it is in.
    pub(crate) fn job(&mut self, key: Key) {
        self.queues.insert(key.namespace.clone());
        self.jobs.insert(key);
    }

    /// Marks services to be decided in slices.
    pub(crate) fn in_slices(&mut self, keys: impl IntoIterator<Item = Key>) {
        for key in keys {
            let slice = self.slices.entry(key.namespace.clone()).or_default();
            slice.insert(key);
        }
    }
}

/// What is known of the cluster, and what is remembered.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    pub(crate) zone: TimeZone,
    /// Decisions are made, and no order is given.
    pub(crate) observe_only: bool,
    /// In these no order is given either.
    pub(crate) pauses: Pauses,
    pub(crate) services: BTreeMap<Key, ServiceState>,
    pub(crate) jobs: BTreeMap<Key, JobState>,
    pub(crate) namespaces: BTreeMap<Name, NamespaceState>,
    pub(crate) pods: BTreeMap<Name, PodState>,
    /// The pods of no workload that hold GPUs, by namespace and UID.
    pub(crate) unowned: BTreeSet<Key>,
    /// The UIDs of workers that were told to stop and have not ended, by node.
    pub(crate) stopping: BTreeMap<Name, BTreeSet<Name>>,
    /// The UIDs of all pods that were told to stop and hold their nodes still.
    pub(crate) terminating: BTreeSet<Name>,
    pub(crate) capacity: ClusterCapacity,
    pub(crate) preemptible: PreemptibleGangs,
    /// Services of which the scheduler has found no node for replicas.
    pub(crate) unschedulable: BTreeSet<Key>,
    pub(crate) capacity_preemptions: CapacityPreemptions,
    /// How long a node takes at most until it is ready, where nodes are made for pods that wait.
    pub(crate) node_start: Option<SignedDuration>,
    /// Whether they are is not known yet.
    pub(crate) awaits_node_start: bool,
    pub(crate) rates: Rates,
    pub(crate) gateways: Gateways,
    pub(crate) timers: Timers,
    pub(crate) marks: Marks,
    /// Edits that would newly stop something take effect after this long.
    pub(crate) change_grace: SignedDuration,
    /// Namespaces whose budgets have not been looked at since prices were edited.
    pub(crate) repriced: BTreeSet<Name>,
    /// How many services one call decides at most.
    pub(crate) slice: usize,
}

/// So many services are decided in a few milliseconds.
const SLICE: usize = 250;

impl Model {
    /// An empty model of a leader that begins at `began`, with the accounting time zone.
    pub fn new(zone: TimeZone, began: Timestamp) -> Self {
        Self {
            zone,
            observe_only: false,
            pauses: Pauses::default(),
            services: BTreeMap::new(),
            jobs: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            unowned: BTreeSet::new(),
            stopping: BTreeMap::new(),
            terminating: BTreeSet::new(),
            capacity: ClusterCapacity::default(),
            preemptible: PreemptibleGangs::default(),
            unschedulable: BTreeSet::new(),
            capacity_preemptions: CapacityPreemptions::default(),
            node_start: None,
            awaits_node_start: false,
            rates: Rates::default(),
            gateways: Gateways::new(began),
            timers: Timers::default(),
            marks: Marks::default(),
            change_grace: SignedDuration::ZERO,
            repriced: BTreeSet::new(),
            slice: SLICE,
        }
    }

    /// The same model, of which decisions are made but no orders are given.
    pub fn observing(self) -> Self {
        Self {
            observe_only: true,
            ..self
        }
    }

    /// The same model, which is yet to be told whether nodes are made for pods that wait.
    pub fn awaiting_node_start(self) -> Self {
        Self {
            awaits_node_start: true,
            ..self
        }
    }

    /// Whether nodes are made for pods that wait, as far as that is known.
    pub(crate) fn known_node_start(&self) -> NodeStart {
        match self.node_start {
            _ if self.awaits_node_start => NodeStart::Unknown,
            Some(start) => NodeStart::Within(start),
            None => NodeStart::Never,
        }
    }

    /// The same model, where edits of budgets and prices that would newly stop something take effect
    /// after so long.
    pub fn with_change_grace(self, change_grace: SignedDuration) -> Self {
        Self {
            change_grace,
            ..self
        }
    }

    /// What paused a namespace; `None` if nothing did.
    pub fn paused_by(&self, namespace: &str) -> Option<PauseScope> {
        self.pauses.scope_of(namespace)
    }

    /// Whether no order is given in a namespace.
    pub(crate) fn is_observe_only(&self, namespace: &str) -> bool {
        self.observe_only || self.paused_by(namespace).is_some()
    }

    /// When something must be decided anew though nothing happens.
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.timers.next()
    }

    /// Whether something is marked that the last call of [`crate::plan::decide()`] left for the
    /// next one.
    pub fn has_marks(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Marks everything to be decided anew.
    pub fn mark_all(&mut self) {
        self.marks.in_slices(self.services.keys().cloned());
        let namespaces = self.all_namespaces();
        for name in &namespaces {
            self.marks.slices.entry(name.clone()).or_default();
        }
        self.marks.costs.extend(namespaces);
    }

    /// The namespaces of which something is known.
    pub(crate) fn all_namespaces(&self) -> BTreeSet<Name> {
        let mut namespaces: BTreeSet<Name> = self.namespaces.keys().cloned().collect();
        namespaces.extend(self.services.keys().map(|key| key.namespace.clone()));
        namespaces.extend(self.marks.slices.keys().cloned());
        namespaces.extend(self.unowned.iter().map(|key| key.namespace.clone()));
        namespaces
    }

    /// Checks each derived value against one that is computed from scratch.
    ///
    /// # Errors
    /// The name of a value that differs.
    pub fn check(&self) -> Result<(), String> {
        let bound = self.pods.values().filter_map(|state| {
            let pod = &state.pod;
            let node = pod.node.as_ref().filter(|_| pod.ended.is_none())?;
            Some((node, &pod.shape.requests, self.may_stay(pod)))
        });
        let resident = self.pods.values().filter_map(|state| {
            let node = state.pod.resident_on()?;
            Some((node, &state.pod.shape.requests))
        });
        if !self.capacity.is_consistent(bound, resident) {
            return Err("room".to_owned());
        }
        if !self
            .rates
            .is_consistent(self.capacity.nodes(), self.shapes())
        {
            return Err("classes of nodes".to_owned());
        }
        if !self.has_consistent_preemption() {
            return Err("what gives way or waits for room".to_owned());
        }
        for (name, namespace) in &self.namespaces {
            if !namespace.spending.is_consistent() {
                return Err(format!("spend of {name}"));
            }
            let mut planned = namespace.evictions.keys();
            if !planned.all(|uid| self.pods.contains_key(uid)) {
                return Err(format!("evictions of {name}"));
            }
            if namespace.totals != self.totals(name) {
                return Err(format!("running totals of {name}"));
            }
        }
        for (uid, state) in &self.pods {
            let owned = match self.owner(&state.pod) {
                Some((key, Owner::Service(_))) => self.services.get(&key).map(|it| &it.pods),
                Some((key, _)) => self.jobs.get(&key).map(|it| &it.pods),
                None => continue,
            };
            if !owned.is_some_and(|pods| pods.contains(uid)) {
                return Err(format!("pods of the owner of {uid}"));
            }
        }
        Ok(())
    }

    /// What pods and the templates of workloads ask for.
    fn shapes(&self) -> impl Iterator<Item = &PodShape> {
        let pods = self.pods.values().map(|state| &state.pod.shape);
        let services = self.services.values().filter_map(|it| it.spec.as_ref());
        let replicas = services.flat_map(|service| service.shapes());
        let jobs = self.jobs.values().filter_map(|it| it.spec.as_ref());
        let workers = jobs.flat_map(|job| &job.roles).map(|role| &role.worker);
        pods.chain(replicas).chain(workers).map(|shape| &**shape)
    }

    /// A node whose room is given twice: more is reserved on it than bound pods leave. Once nothing
    /// is marked there is none, and no gang is given room before.
    pub fn overcommitted_node(&self) -> Option<&Name> {
        if self.has_marks() {
            return None;
        }
        self.capacity.overcommitted()
    }

    fn totals(&self, namespace: &Name) -> Totals {
        let mut totals = Totals::default();
        let nothing = WorkloadCost::default();
        let services = self
            .services
            .iter()
            .filter(|(key, _)| key.namespace == *namespace);
        let jobs = self
            .jobs
            .iter()
            .filter(|(key, _)| key.namespace == *namespace);
        let pods = self.pods.values();
        let others = pods.filter(|state| {
            state.pod.key.namespace == *namespace && state.pod.owner == Owner::Other
        });
        services.for_each(|(_, state)| totals.replace(&nothing, &state.cost));
        jobs.for_each(|(_, state)| totals.replace(&nothing, &state.cost));
        others.for_each(|state| totals.replace(&nothing, &state.cost));
        totals
    }

    /// The keys of a map of objects that are in a namespace.
    pub(crate) fn keys_in<T>(objects: &BTreeMap<Key, T>, namespace: &Name) -> Vec<Key> {
        let keys = objects.range(Key::first_in(namespace)..);
        let keys = keys.map(|(key, _)| key);
        keys.take_while(|key| key.namespace == *namespace)
            .cloned()
            .collect()
    }

    /// The UIDs of the pods of no workload in a namespace that hold GPUs.
    pub(crate) fn unowned_in(&self, namespace: &Name) -> Vec<Name> {
        let unowned = self.unowned.range(Key::first_in(namespace)..);
        let unowned = unowned.take_while(|key| key.namespace == *namespace);
        unowned.map(|key| key.name.clone()).collect()
    }

    /// The workload that a pod belongs to, with the owner without a role.
    pub(crate) fn owner(&self, pod: &Pod) -> Option<(Key, Owner)> {
        let key = |name: &Name| Key {
            namespace: pod.key.namespace.clone(),
            name: name.clone(),
        };
        match &pod.owner {
            Owner::Service(name) => Some((key(name), pod.owner.clone())),
            Owner::Job(name, _) => Some((key(name), pod.owner.clone())),
            Owner::Other => None,
        }
    }

    /// The state of a namespace, made if it is new.
    pub(crate) fn namespace_mut(&mut self, name: &Name) -> &mut NamespaceState {
        self.namespaces.entry(name.clone()).or_default()
    }

    /// Marks what is due.
    pub(crate) fn mark(&mut self, subject: TimerKey, now: Timestamp) {
        match subject {
            TimerKey::Service(key) => {
                let state = self.services.get_mut(&key);
                let is_due = |state: &mut ServiceState| {
                    let has_new_cost = state.cost_changes_at.is_some_and(|at| at <= now);
                    state.expire_orders(now) || has_new_cost
                };
                if state.is_some_and(is_due) {
                    self.marks.services.insert(key);
                } else {
                    // what it costs has not changed
                    self.marks.named.insert(key.namespace.clone());
                    self.marks.in_slices([key]);
                }
            }
            TimerKey::Queue(namespace) => {
                let state = self.namespaces.get(&namespace);
                for key in state.into_iter().flat_map(|state| &state.jobs) {
                    let state = self.jobs.get_mut(key);
                    let is_due = |state: &mut JobState| {
                        let has_new_cost = state.cost_changes_at.is_some_and(|at| at <= now);
                        state.expire_order(now) || has_new_cost
                    };
                    if state.is_some_and(is_due) {
                        self.marks.jobs.insert(key.clone());
                    }
                }
                self.marks.queues.insert(namespace);
            }
            TimerKey::Budgets(namespace) => {
                if self.is_observe_only(&namespace) {
                    let services = Self::keys_in(&self.services, &namespace);
                    self.marks.in_slices(services);
                }
                self.marks.budgets.insert(namespace);
            }
            TimerKey::Pod(uid) => self.reserve_for(&uid, now),
            TimerKey::Eviction(uid) => drop(self.marks.pods.insert(uid)),
            TimerKey::Gateways => self.gateways.mark(),
            TimerKey::Preemption => self.capacity_preemptions.is_due = true,
            TimerKey::Prices => {
                self.rates.expire(now);
                self.timers.set(TimerKey::Prices, self.rates.next_change());
                self.mark_all();
            }
        }
    }
}

fn first_namespace(
    services: &BTreeSet<Key>,
    jobs: &BTreeSet<Key>,
    budgets: &BTreeSet<Name>,
) -> Option<Name> {
    let keys = services.first().into_iter().chain(jobs.first());
    let names = keys.map(|key| &key.namespace).chain(budgets.first());
    names.min().cloned()
}

fn move_all<T: Ord>(from: &mut BTreeSet<T>, to: &mut BTreeSet<T>) {
    if to.is_empty() {
        std::mem::swap(from, to);
    } else {
        to.extend(std::mem::take(from));
    }
}

/// Takes the keys of a namespace out of what is marked.
pub(crate) fn take_in(marked: &mut BTreeSet<Key>, namespace: &Name) -> BTreeSet<Key> {
    let of_namespace = marked.range(Key::first_in(namespace)..);
    let keys: BTreeSet<Key> = of_namespace
        .take_while(|key| key.namespace == *namespace)
        .cloned()
        .collect();
    for key in &keys {
        marked.remove(key);
    }
    keys
}

/// The number of workers as Kubernetes writes it.
pub(crate) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
