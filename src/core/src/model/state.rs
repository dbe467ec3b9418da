//! The whole of what is known and remembered.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::event::{Key, Name, Owner, Pod};
use super::gateways::Gateways;
use super::job::JobState;
use super::namespace::NamespaceState;
use super::rates::{CachedRate, Rates};
use super::room::{ClusterRoom, ReservationOwner};
use super::service::{EngineState, ServiceState};
use super::spending::{RunningCost, Totals};
use super::timers::{Subject, Timers};

/// A pod, and what is remembered of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodState {
    pub(crate) pod: Box<Pod>,
    pub(crate) engine: EngineState,
    pub(crate) estimate: CachedRate,
    /// What it costs, if it belongs to no workload.
    pub(crate) cost: RunningCost,
}

/// What is to be decided anew. What an event names goes before what an event about everything
/// (prices, a class of nodes) has marked.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Marks {
    pub(crate) services: BTreeSet<Key>,
    pub(crate) queues: BTreeSet<Name>,
    pub(crate) budgets: BTreeSet<Name>,
    /// Pods of no workload, whose cost is to be computed anew.
    pub(crate) pods: BTreeSet<Name>,
    /// Services that an event about everything has marked.
    pub(crate) later: BTreeSet<Key>,
}

/// What is known of the cluster, and what is remembered.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    pub(crate) zone: TimeZone,
    /// Decisions are made, and no order is given.
    pub(crate) observe_only: bool,
    pub(crate) services: BTreeMap<Key, ServiceState>,
    pub(crate) jobs: BTreeMap<Key, JobState>,
    pub(crate) namespaces: BTreeMap<Name, NamespaceState>,
    pub(crate) pods: BTreeMap<Name, PodState>,
    /// UIDs of the pods of no workload that hold GPUs.
    pub(crate) unowned: BTreeSet<Name>,
    pub(crate) room: ClusterRoom,
    pub(crate) rates: Rates,
    pub(crate) gateways: Gateways,
    pub(crate) timers: Timers,
    pub(crate) marks: Marks,
}

impl Model {
    /// An empty model of a leader that begins at `began`, with the accounting time zone.
    pub fn new(zone: TimeZone, began: Timestamp) -> Self {
        Self {
            zone,
            observe_only: false,
            services: BTreeMap::new(),
            jobs: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            pods: BTreeMap::new(),
            unowned: BTreeSet::new(),
            room: ClusterRoom::default(),
            rates: Rates::default(),
            gateways: Gateways::new(began),
            timers: Timers::default(),
            marks: Marks::default(),
        }
    }

    /// The same model, of which decisions are made but no orders are given.
    pub fn observing(self) -> Self {
        Self {
            observe_only: true,
            ..self
        }
    }

    /// When something must be decided anew though nothing happens.
    pub fn next_timer(&self) -> Option<Timestamp> {
        self.timers.next()
    }

    /// Whether something is marked that the last call of [`crate::plan::decide()`] left for the
    /// next one.
    pub fn has_marks(&self) -> bool {
        let Marks {
            services,
            queues,
            budgets,
            pods,
            later,
        } = &self.marks;
        let is_empty = services.is_empty() && queues.is_empty() && budgets.is_empty();
        !(is_empty && pods.is_empty() && later.is_empty())
    }

    /// Marks everything to be decided anew.
    pub fn mark_all(&mut self) {
        self.marks.later.extend(self.services.keys().cloned());
        self.marks.pods.extend(self.unowned.iter().cloned());
        self.marks.queues.extend(self.namespaces.keys().cloned());
        self.marks.budgets.extend(self.namespaces.keys().cloned());
    }

    /// Checks each derived value against one that is computed from scratch.
    ///
    /// # Errors
    /// The name of a value that differs.
    pub fn check(&self) -> Result<(), String> {
        let bound = self.pods.values().filter_map(|state| {
            let pod = &state.pod;
            let node = pod.node.as_ref().filter(|_| pod.ended.is_none())?;
            Some((node, &pod.shape.requests))
        });
        if !self.room.is_consistent(bound) {
            return Err("room".to_owned());
        }
        if !self.rates.is_consistent(self.room.nodes()) {
            return Err("classes of nodes".to_owned());
        }
        for (name, namespace) in &self.namespaces {
            if !namespace.spending.is_consistent() {
                return Err(format!("spend of {name}"));
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

    /// A node whose room is given twice: more is reserved on it than bound pods leave. After a
    /// decision there is none.
    pub fn overcommitted_node(&self) -> Option<&Name> {
        self.room.overcommitted()
    }

    fn totals(&self, namespace: &Name) -> Totals {
        let mut totals = Totals::default();
        let nothing = RunningCost::default();
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

    /// The owner of the room that is reserved for a pod without a node.
    pub(crate) fn reservation_owner(&self, uid: &Name, pod: &Pod) -> ReservationOwner {
        match self.owner(pod) {
            Some((key, owner)) => ReservationOwner::Workload(key, owner),
            None => ReservationOwner::Pod(uid.clone()),
        }
    }

    /// The state of a namespace, made if it is new.
    pub(crate) fn namespace_mut(&mut self, name: &Name) -> &mut NamespaceState {
        self.namespaces.entry(name.clone()).or_default()
    }

    pub(crate) fn mark(&mut self, subject: Subject) {
        match subject {
            Subject::Service(key) => drop(self.marks.services.insert(key)),
            Subject::Queue(namespace) => drop(self.marks.queues.insert(namespace)),
            Subject::Budgets(namespace) => drop(self.marks.budgets.insert(namespace)),
            Subject::Gateways => self.gateways.mark(),
            Subject::Prices => {
                self.rates.expire();
                self.mark_all();
            }
        }
    }
}

/// The number of workers as Kubernetes writes it.
pub(crate) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
