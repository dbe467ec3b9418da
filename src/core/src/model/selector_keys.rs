//! The labels by which selectors tell nodes apart. Tenants write selectors: what they name is known while
//! they name it, and nodes are told apart by the labels alone that a node has.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{Node, PodShape};

/// The keys of labels that selectors name, and those of nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SelectorKeys {
    /// How often the selectors of pods and templates that have a price name a key.
    named: BTreeMap<String, u32>,
    /// Of the keys that selectors have begun or ceased to name since [`Self::take_named_before`] was last
    /// called, whether they named them then.
    named_before: BTreeMap<String, bool>,
    /// How many nodes with GPUs have a label of a key.
    of_nodes: BTreeMap<String, u32>,
    /// By which nodes are told apart: all that are named and on a node are among them.
    learned: BTreeSet<String>,
}

fn keys(shape: &PodShape) -> impl Iterator<Item = &String> {
    // without a price it is of no matter which nodes take it
    shape.attributes.iter().flat_map(move |_| {
        let terms = shape.placement.terms.iter().flatten();
        let of_terms = terms.flat_map(|term| term.labels.iter().map(|label| &label.key));
        shape.node_selector.keys().chain(of_terms)
    })
}

fn has_gpus(node: &Node) -> bool {
    node.gpus.values().any(|count| *count > 0)
}

/// Adds one. Returns whether it is the first.
fn add(counts: &mut BTreeMap<String, u32>, key: &str) -> bool {
    if let Some(count) = counts.get_mut(key) {
        *count += 1;
        return false;
    }
    counts.insert(key.to_owned(), 1);
    true
}

/// Takes one away. Returns whether it was the last.
fn remove(counts: &mut BTreeMap<String, u32>, key: &str) -> bool {
    let Some(count) = counts.get_mut(key) else {
        return false;
    };
    *count -= 1;
    let is_last = *count == 0;
    if is_last {
        counts.remove(key);
    }
    is_last
}

impl SelectorKeys {
    /// The keys by which nodes are told apart.
    pub(super) fn learned(&self) -> &BTreeSet<String> {
        &self.learned
    }

    /// Takes that a shape is asked for once more. Returns the keys that nodes have and are not told apart by.
    pub(super) fn add_shape(&mut self, shape: &PodShape) -> BTreeSet<String> {
        for key in keys(shape) {
            if add(&mut self.named, key) {
                self.named_before.entry(key.clone()).or_insert(false);
            }
        }
        let is_new =
            |key: &&String| self.of_nodes.contains_key(*key) && !self.learned.contains(*key);
        keys(shape).filter(is_new).cloned().collect()
    }

    /// Takes that a shape is asked for once less.
    pub(super) fn remove_shape(&mut self, shape: &PodShape) {
        for key in keys(shape) {
            if remove(&mut self.named, key) {
                self.named_before.entry(key.clone()).or_insert(true);
            }
        }
    }

    /// Nodes are told apart by these as well.
    pub(super) fn learn(&mut self, keys: BTreeSet<String>) {
        self.learned.extend(keys);
    }

    /// Takes that a node is there. Returns the keys that selectors name and no node had before.
    pub(super) fn add_node(&mut self, node: &Node) -> BTreeSet<String> {
        let mut new = BTreeSet::new();
        for key in node.labels.keys().filter(|_| has_gpus(node)) {
            let is_first = add(&mut self.of_nodes, key);
            if is_first && self.named.contains_key(key) && !self.learned.contains(key) {
                new.insert(key.clone());
            }
        }
        new
    }

    /// Takes that a node is gone.
    pub(super) fn remove_node(&mut self, node: &Node) {
        for key in node.labels.keys().filter(|_| has_gpus(node)) {
            remove(&mut self.of_nodes, key);
        }
    }

    /// Forgets the learned keys that no node has.
    pub(super) fn forget_unused(&mut self) {
        self.learned.retain(|key| self.of_nodes.contains_key(key));
    }

    /// Those of the learned keys that selectors named when this was last called.
    pub(super) fn take_named_before(&mut self) -> BTreeSet<String> {
        let changed = std::mem::take(&mut self.named_before);
        let is_named = |key: &&String| {
            let now = || self.named.contains_key(*key);
            changed.get(*key).copied().unwrap_or_else(now)
        };
        self.learned.iter().filter(is_named).cloned().collect()
    }

    /// Whether it is what these nodes and shapes make it.
    pub(super) fn is_consistent<'a>(
        &self,
        nodes: impl Iterator<Item = &'a Node>,
        shapes: impl Iterator<Item = &'a PodShape>,
    ) -> bool {
        let mut again = Self::default();
        nodes.for_each(|node| drop(again.add_node(node)));
        shapes.for_each(|shape| drop(again.add_shape(shape)));
        let mut named = again.named.keys();
        let is_known =
            |key: &String| self.learned.contains(key) || !self.of_nodes.contains_key(key);
        (&self.named, &self.of_nodes) == (&again.named, &again.of_nodes) && named.all(is_known)
    }
}
