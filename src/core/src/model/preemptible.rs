//! Gangs that may give their GPUs back for others, by priority, gangs whose workers are leaving, and who
//! gives way to whom.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::pod_set::SchedulingRank;

use super::event::{Key, Name};

/// What a gang's room may become for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Preemptibility {
    /// It has none, or keeps it.
    #[default]
    NotPreemptible,
    /// It is suspended if a workload of a higher priority than this waits for it.
    Preemptible(Priorities),
    /// It does not run any more, and workers of it are still on nodes.
    Terminating,
}

/// What a workload's PriorityClass counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Priorities {
    /// Beside workloads of other namespaces.
    pub(crate) in_cluster: i32,
    /// Within its namespace.
    pub(crate) in_namespace: i32,
}

/// Gangs of one priority in the cluster, by namespace and by their priority in it.
type GangsByNamespace = BTreeSet<(Name, i32, Name)>;

/// Gangs by what their room may become.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PreemptibleGangs {
    /// Those that give way, by their priority in the cluster.
    by_priority: BTreeMap<i32, GangsByNamespace>,
    leaving: BTreeSet<Key>,
    /// There are gangs of priorities of which there were none.
    has_new_priority: bool,
}

impl PreemptibleGangs {
    /// Moves a gang to where it belongs now.
    pub(crate) fn set(&mut self, key: &Key, old: Preemptibility, new: Preemptibility) {
        if old == new {
            return;
        }
        match old {
            Preemptibility::NotPreemptible => {}
            Preemptibility::Terminating => drop(self.leaving.remove(key)),
            Preemptibility::Preemptible(Priorities {
                in_cluster,
                in_namespace,
            }) => {
                if let Some(gangs) = self.by_priority.get_mut(&in_cluster) {
                    gangs.remove(&(key.namespace.clone(), in_namespace, key.name.clone()));
                    if gangs.is_empty() {
                        self.by_priority.remove(&in_cluster);
                    }
                }
            }
        }
        match new {
            Preemptibility::NotPreemptible => {}
            Preemptibility::Terminating => drop(self.leaving.insert(key.clone())),
            Preemptibility::Preemptible(Priorities {
                in_cluster,
                in_namespace,
            }) => {
                let gangs = self.by_priority.entry(in_cluster).or_default();
                let first = (key.namespace.clone(), in_namespace, Name::default());
                let is_alike = |(namespace, own, _): &(Name, i32, Name)| {
                    *namespace == key.namespace && *own == in_namespace
                };
                self.has_new_priority |= !gangs.range(first..).next().is_some_and(is_alike);
                gangs.insert((key.namespace.clone(), in_namespace, key.name.clone()));
            }
        }
    }

    /// The gangs that give way to a workload of this namespace and these priorities, each with its
    /// priority in the cluster. Of another namespace that one must be lower. Within the namespace the own
    /// priority must be, or the gang that was suspended would go first there, and the one in the cluster
    /// must not be higher, or it would go first beside others.
    pub(crate) fn below<'a>(
        &'a self,
        namespace: &'a Name,
        priorities: Priorities,
    ) -> impl Iterator<Item = (i32, Key)> + 'a {
        let Priorities {
            in_cluster,
            in_namespace,
        } = priorities;
        let is_preemptible = move |own: i32, of: &Name| of != namespace || own < in_namespace;
        let lower = self.by_priority.range(..in_cluster);
        let lower = lower.flat_map(move |(priority, gangs)| {
            let gangs = gangs
                .iter()
                .filter(move |(of, own, _)| is_preemptible(*own, of));
            gangs.map(move |gang| (*priority, gang))
        });
        let first = (namespace.clone(), i32::MIN, Name::default());
        let end = (namespace.clone(), in_namespace, Name::default());
        let alike = self.by_priority.get(&in_cluster).into_iter();
        let alike = alike.flat_map(move |gangs| gangs.range(first.clone()..end.clone()));
        let all = lower.chain(alike.map(move |gang| (in_cluster, gang)));
        all.map(|(priority, (namespace, _, name))| {
            let (namespace, name) = (namespace.clone(), name.clone());
            (priority, Key { namespace, name })
        })
    }

    /// The gangs whose workers are leaving.
    pub(crate) fn leaving(&self) -> impl Iterator<Item = &Key> {
        self.leaving.iter()
    }

    /// Whether none gives way or leaves.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_priority.is_empty() && self.leaving.is_empty()
    }

    /// Whether gangs of a new priority have come since this was last asked.
    pub(crate) fn take_new_priority(&mut self) -> bool {
        std::mem::take(&mut self.has_new_priority)
    }

    /// Whether it has exactly these.
    pub(crate) fn is_consistent<'a>(
        &self,
        gangs: impl IntoIterator<Item = (&'a Key, Preemptibility)>,
    ) -> bool {
        let mut again = Self::default();
        for (key, capacity) in gangs {
            again.set(key, Preemptibility::NotPreemptible, capacity);
        }
        (&again.by_priority, &again.leaving) == (&self.by_priority, &self.leaving)
    }
}

/// That a gang gives its GPUs back for another workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CapacityPreemption {
    /// The place of that one in the order of the cluster.
    pub(crate) to: SchedulingRank,
    /// It is a service.
    pub(crate) is_of_service: bool,
    /// It waits for GPUs, and not only for other room on nodes.
    pub(crate) for_gpus: bool,
}

impl CapacityPreemption {
    /// A reason for those in this namespace. Workloads of others are not named there.
    pub(crate) fn describe(&self, namespace: &str) -> String {
        let Self {
            to,
            is_of_service,
            for_gpus,
        } = self;
        let what = if *for_gpus { "GPUs" } else { "a node" };
        let kind = if *is_of_service { "service" } else { "job" };
        if *to.namespace == *namespace {
            let name = &to.name;
            return format!(
                "gives way to {kind} {name}, which has a higher priority and waits for {what}"
            );
        }
        let priority = to.priority.0;
        format!(
            "gives way to a {kind} of another namespace, of priority {priority}, which waits for {what}"
        )
    }
}

/// A workload that claims room.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClaimantId {
    pub(crate) key: Key,
    pub(crate) is_of_service: bool,
}

/// The room that was last taken back for a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReclaimedCapacity {
    pub(crate) at: Timestamp,
    /// The nodes on which it is, and on which more was taken for the same claim before.
    pub(crate) nodes: BTreeSet<Name>,
}

/// Who gives way to whom, and when that is looked at again.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CapacityPreemptions {
    /// The gangs that give way. They stay here until they have stopped.
    pub(crate) given: BTreeMap<Key, CapacityPreemption>,
    /// Services for which nodes are kept from gangs behind them, and until when, once room for their
    /// replicas is there.
    pub(crate) held: BTreeMap<Key, Timestamp>,
    /// What was taken for whom, for as long as that one waits.
    pub(crate) taken: BTreeMap<ClaimantId, ReclaimedCapacity>,
    /// Something has changed for which it is looked again at once.
    pub(crate) is_due: bool,
    /// When it is looked again though nothing happens.
    pub(crate) next: Option<Timestamp>,
}
