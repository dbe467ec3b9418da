//! Free room on nodes, and whether a gang fits into it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::placement::Placement;

/// Amounts of resources by name, in thousandths of the resource's unit.
pub type Resources = BTreeMap<String, i64>;

/// One node.
#[cfg(test)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Labels, for selectors.
    pub labels: BTreeMap<String, String>,
    /// What pods may use in all.
    pub allocatable: Resources,
    /// What no pod has asked for yet.
    pub free: Resources,
}

/// What each worker of a gang needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSet {
    /// How many workers.
    pub workers: u32,
    /// What one of them requests.
    pub worker: Resources,
    /// Labels that its node must have.
    pub node_selector: BTreeMap<String, String>,
    /// What else its node must be.
    pub placement: Arc<Placement>,
}

/// Nodes that are ready and take pods.
#[cfg(test)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Who waits for which node, by its place.
    pub holders: Vec<(usize, SchedulingRank, BlockScope)>,
    /// The gang that is asked for.
    pub rank: Option<SchedulingRank>,
}

/// The place of a gang in the order of the cluster: by priority, then by age. No gang goes before
/// those that its own namespace lets go first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SchedulingRank {
    /// Its priority in the cluster; the greater goes first.
    pub priority: Reverse<i32>,
    /// When it was made, or the youngest of those that go before it; the older goes first.
    pub created: Timestamp,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// Whom a gang that waits for nodes holds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockScope {
    /// Gangs of its namespace.
    Namespace,
    /// Gangs of all namespaces.
    Cluster,
}

/// Room for gangs.
pub trait SchedulingCapacity {
    /// Takes that what follows concerns the gang of this rank.
    fn ask_for(&mut self, rank: &SchedulingRank);

    /// How many workers of these gangs the free room takes together, at most all of them.
    fn fits(&mut self, pod_sets: &[&PodSet]) -> u32;

    /// How many workers of these gangs the nodes would take together if they were empty, at most all of them.
    fn could_fit(&mut self, pod_sets: &[&PodSet]) -> u32;

    /// Whether the nodes would take all workers of these gangs together once all workers of gangs
    /// had left them: other pods may stay for ever.
    fn could_fit_with_other_pods(&mut self, pod_sets: &[&PodSet]) -> bool;

    /// Takes the gang's room away, as far as it fits.
    fn place(&mut self, gang: &PodSet);

    /// Notes that these gangs wait for every node that takes one of their workers when it is empty.
    /// GPUs of others may be taken back for them if they `may_preempt`.
    fn block_nodes(&mut self, pod_sets: &[&PodSet], scope: BlockScope, may_preempt: bool);

    /// The first gang ahead that waits for a node which takes a worker of these gangs: now, or
    /// when the node is empty.
    fn blocking_gang(&mut self, pod_sets: &[&PodSet], of_empty: bool) -> Option<SchedulingRank>;

    /// The first gang ahead that holds up only its namespace, and waits for a node which takes a worker of
    /// these gangs when it is empty.
    fn blocking_gang_in_namespace(&mut self, pod_sets: &[&PodSet]) -> Option<SchedulingRank>;
}

#[cfg(test)]
impl SchedulingCapacity for Capacity {
    fn ask_for(&mut self, rank: &SchedulingRank) {
        self.rank = Some(rank.clone());
    }

    fn could_fit_with_other_pods(&mut self, _: &[&PodSet]) -> bool {
        true
    }

    fn fits(&mut self, pod_sets: &[&PodSet]) -> u32 {
        self.clone().take_all(pod_sets)
    }

    fn could_fit(&mut self, pod_sets: &[&PodSet]) -> u32 {
        let empty = self.nodes.iter().map(|node| Node {
            free: node.allocatable.clone(),
            ..node.clone()
        });
        let mut capacity = Self {
            nodes: empty.collect(),
            ..Self::default()
        };
        capacity.take_all(pod_sets)
    }

    fn place(&mut self, gang: &PodSet) {
        self.take(gang);
    }

    fn block_nodes(&mut self, pod_sets: &[&PodSet], scope: BlockScope, _: bool) {
        let rank = self.rank.clone().unwrap();
        for (place, node) in self.nodes.iter().enumerate() {
            let takes = |gang: &&PodSet| takes_one(node, &node.allocatable, gang);
            if pod_sets.iter().any(takes) {
                self.holders.push((place, rank.clone(), scope));
            }
        }
    }

    fn blocking_gang(&mut self, pod_sets: &[&PodSet], of_empty: bool) -> Option<SchedulingRank> {
        let rank = self.rank.as_ref().unwrap();
        let held = self.holders.iter().filter(|(place, blocking_gang, scope)| {
            if *scope == BlockScope::Namespace && blocking_gang.namespace != rank.namespace {
                return false;
            }
            let node = &self.nodes[*place];
            let capacity = if of_empty {
                &node.allocatable
            } else {
                &node.free
            };
            pod_sets.iter().any(|gang| takes_one(node, capacity, gang))
        });
        held.map(|(_, blocking_gang, _)| blocking_gang.clone())
            .min()
    }

    fn blocking_gang_in_namespace(&mut self, pod_sets: &[&PodSet]) -> Option<SchedulingRank> {
        let rank = self.rank.as_ref().unwrap();
        let held = self.holders.iter().filter(|(place, blocking_gang, scope)| {
            let node = &self.nodes[*place];
            *scope == BlockScope::Namespace
                && blocking_gang.namespace == rank.namespace
                && pod_sets
                    .iter()
                    .any(|gang| takes_one(node, &node.allocatable, gang))
        });
        held.map(|(_, blocking_gang, _)| blocking_gang.clone())
            .min()
    }
}

#[cfg(test)]
impl Capacity {
    fn take_all(&mut self, pod_sets: &[&PodSet]) -> u32 {
        let placed = pod_sets.iter().map(|gang| self.take(gang));
        placed.fold(0, u32::saturating_add)
    }

    /// Takes the gang's room away, and returns how many workers fitted.
    fn take(&mut self, gang: &PodSet) -> u32 {
        let mut left = gang.workers;
        for node in &mut self.nodes {
            let here = if selects(gang, node) {
                workers_in(&node.free, gang).min(left)
            } else {
                0
            };
            for (name, amount) in &gang.worker {
                if let Some(free) = node.free.get_mut(name) {
                    *free -= amount * i64::from(here);
                }
            }
            left -= here;
        }
        gang.workers - left
    }
}

#[cfg(test)]
fn selects(gang: &PodSet, node: &Node) -> bool {
    gang.node_selector
        .iter()
        .all(|(key, value)| node.labels.get(key) == Some(value))
}

#[cfg(test)]
fn takes_one(node: &Node, capacity: &Resources, gang: &PodSet) -> bool {
    gang.workers > 0 && selects(gang, node) && workers_in(capacity, gang) > 0
}

/// How many workers this room takes; one, where a worker needs nothing.
#[cfg(test)]
fn workers_in(capacity: &Resources, gang: &PodSet) -> u32 {
    let needs = gang.worker.iter().filter(|(_, amount)| **amount > 0);
    let counts =
        needs.map(|(name, amount)| capacity.get(name).copied().unwrap_or(0).max(0) / amount);
    counts.min().map_or(gang.workers, |count| {
        u32::try_from(count).unwrap_or(u32::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gangs_that_start_together_do_not_use_the_same_room() {
        let mut capacity = Capacity {
            nodes: vec![node(3, "a"), node(1, "a")],
            ..Capacity::default()
        };
        let (large, small) = (gang(1, 3, 0), gang(2, 1, 0));
        assert_eq!(capacity.fits(&[&large, &small]), 2);
        assert_eq!(capacity.fits(&[&small]), 2);
    }

    fn node(gpus: i64, model: &str) -> Node {
        let capacity = Resources::from([
            ("nvidia.com/gpu".to_owned(), gpus * 1000),
            ("cpu".to_owned(), 4000),
        ]);
        Node {
            labels: [("model".to_owned(), model.to_owned())].into(),
            allocatable: capacity.clone(),
            free: capacity,
        }
    }

    fn gang(workers: u32, gpus: i64, cpu: i64) -> PodSet {
        let worker = Resources::from([
            ("nvidia.com/gpu".to_owned(), gpus * 1000),
            ("cpu".to_owned(), cpu),
        ]);
        PodSet {
            workers,
            worker,
            ..PodSet::default()
        }
    }

    #[test]
    fn a_worker_is_not_split_over_nodes() {
        let mut capacity = Capacity {
            nodes: vec![node(3, "a"), node(3, "a")],
            ..Capacity::default()
        };
        assert_eq!(
            capacity.fits(&[&gang(3, 2, 0)]),
            2,
            "three pairs do not fit into two nodes of three"
        );
    }

    #[test]
    fn every_resource_counts_and_so_does_the_selector() {
        let mut capacity = Capacity {
            nodes: vec![node(8, "a"), node(8, "b")],
            ..Capacity::default()
        };
        assert_eq!(capacity.fits(&[&gang(9, 1, 1000)]), 8, "4 CPUs a node");
        let only_b = PodSet {
            node_selector: [("model".to_owned(), "b".to_owned())].into(),
            ..gang(9, 1, 1000)
        };
        assert_eq!(capacity.fits(&[&only_b]), 4);
    }

    #[test]
    fn what_one_gang_takes_the_next_has_not() {
        let mut capacity = Capacity {
            nodes: vec![node(4, "a"), node(4, "a")],
            ..Capacity::default()
        };
        capacity.place(&gang(3, 2, 0));
        assert_eq!(
            (
                capacity.fits(&[&gang(3, 2, 0)]),
                capacity.could_fit(&[&gang(3, 2, 0)])
            ),
            (1, 3)
        );
    }
}
