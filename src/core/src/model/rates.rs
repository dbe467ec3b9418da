//! What a pod that has no charge yet will cost: the highest cost an hour on any node that takes it.
//! Where none does now, on any that would but for a cordon or because it is not ready, and else at
//! the highest listed price. Whether a node has room for it now does not count: the pod may wait.
//!
//! Nodes that are alike for prices, selectors and taints are one class, so that a node of a known
//! class changes no estimate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::money::Money;
use crate::placement::{Taint, TaintEffect};
use crate::pricing::{EstimateBasis, PriceCatalog, PricingAttributes};

use super::event::{Node, PodShape};
use super::selector_keys::SelectorKeys;

/// What the keys of the taints begin with that Kubernetes adds to a node by its condition:
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/>.
const CONDITION_TAINTS: &str = "node.kubernetes.io/";

/// Nodes that are alike.
#[derive(Clone, Debug, PartialEq)]
struct NodeClass {
    /// The labels that selectors name.
    labels: BTreeMap<String, String>,
    /// For each GPU resource of the node, what a pod that holds one is priced by.
    gpus: BTreeMap<String, PricingAttributes>,
    /// The taints that keep pods away, in order, but for those that Kubernetes adds to a node that is
    /// cordoned or in trouble: `open` says so.
    taints: Vec<Taint>,
    nodes: u32,
    /// Those that are ready and not cordoned.
    open: u32,
}

impl NodeClass {
    fn is_like(&self, other: &Self) -> bool {
        self.labels == other.labels && self.gpus == other.gpus && self.taints == other.taints
    }

    fn takes(&self, shape: &PodShape) -> bool {
        let mut selector = shape.node_selector.iter();
        selector.all(|(key, value)| self.labels.get(key) == Some(value))
            && shape.placement.may_allow(&self.labels, &self.taints)
    }

    /// Whether such pods are placed on one of its nodes now: where they tolerate a cordon, that keeps
    /// none away.
    fn is_open_to(&self, shape: &PodShape) -> bool {
        let closed = |what: &str| Taint {
            key: format!("{CONDITION_TAINTS}{what}"),
            value: String::new(),
            effect: TaintEffect::NoSchedule,
        };
        let tolerates = |what| shape.placement.tolerates(&closed(what));
        self.open > 0 || tolerates("unschedulable") || tolerates("not-ready")
    }
}

/// Those of these labels that are among the keys.
fn named(labels: &BTreeMap<String, String>, keys: &BTreeSet<String>) -> BTreeMap<String, String> {
    let named = labels.iter().filter(|(key, _)| keys.contains(*key));
    named
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Classes of nodes, and the labels that selectors named at that time.
#[derive(Clone, Debug, PartialEq)]
struct KnownClasses {
    selector_keys: BTreeSet<String>,
    classes: Vec<NodeClass>,
}

/// An estimate, and the state of the prices that it was made of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct CachedRate {
    version: Option<u64>,
    estimate: Estimate,
}

impl CachedRate {
    /// That of a pod which holds no GPU: it is charged for nothing.
    pub(crate) fn without_gpus() -> Self {
        let estimate = Estimate {
            rate: Some(Money::ZERO),
            ..Estimate::default()
        };
        Self {
            version: None,
            estimate,
        }
    }

    /// The estimate as it was last made.
    pub(crate) fn rate(&self) -> Option<Money> {
        self.estimate.rate
    }
}

/// What a pod will cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Estimate {
    /// Money an hour; `None` while no price is known.
    pub(crate) rate: Option<Money>,
    pub(crate) basis: EstimateBasis,
}

/// Prices and the classes of nodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    catalog: Arc<PriceCatalog>,
    classes: Vec<NodeClass>,
    /// The labels by which selectors tell nodes apart.
    keys: SelectorKeys,
    /// When a price may change next.
    next_change: Option<Timestamp>,
    /// Changes with whatever may change an estimate.
    version: u64,
    /// The classes when nodes were last compared with those before, if others have come since.
    before: Option<KnownClasses>,
    recent: RecentEstimates,
}

/// The last estimates for pods of different shapes.
#[derive(Clone, Debug, Default, PartialEq)]
struct RecentEstimates {
    version: u64,
    estimates: Vec<(Arc<PodShape>, Estimate)>,
}

/// So many shapes are compared before an estimate is made anew.
const RECENT: usize = 16;

impl Rates {
    /// Takes other prices, or that prices have changed with time.
    pub(crate) fn set_catalog(&mut self, catalog: Arc<PriceCatalog>, now: Timestamp) {
        self.catalog = catalog;
        self.expire(now);
    }

    /// Whether this is another catalog than one that was known before.
    pub(crate) fn is_edited_by(&self, catalog: &PriceCatalog) -> bool {
        self.version > 0 && *self.catalog != *catalog
    }

    /// Prices have changed with time.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        self.version += 1;
        self.next_change = self.catalog.next_change(now);
    }

    /// When a price may change next.
    pub(crate) fn next_change(&self) -> Option<Timestamp> {
        self.next_change
    }

    /// When one more change of prices lies within `seconds` than at `now`.
    pub(crate) fn next_within(&self, now: Timestamp, seconds: i64) -> Option<Timestamp> {
        let span = SignedDuration::from_secs(seconds);
        let end = now.checked_add(span).ok()?;
        let next = self.next_change?;
        let next = if next > end {
            next
        } else {
            self.catalog.next_change(end)?
        };
        next.checked_sub(span).ok()
    }

    /// The highest money an hour that is announced for the `seconds` from `now` on, of what costs
    /// `rate` now: by the node that it is on, or by any that would take it.
    pub(crate) fn highest(
        &self,
        rate: Option<Money>,
        shape: &PodShape,
        node: Option<&Node>,
        now: Timestamp,
        seconds: i64,
    ) -> Option<Money> {
        let known = rate?;
        let end = now.checked_add(SignedDuration::from_secs(seconds)).ok();
        let end = end.unwrap_or(Timestamp::MAX);
        if self.next_change.is_none_or(|next| next > end) {
            return rate;
        }
        let price = |at| match node {
            Some(node) => self.price_on(shape, node, at),
            None => self.compute(shape, at).rate,
        };
        let Some(base) = price(now) else {
            return rate;
        };
        // what the charge is priced by may be more than its shape says
        let changes = self.catalog.changes(now, end).into_iter();
        let highest = changes.filter_map(price).max().unwrap_or(base);
        Some(known + (highest - base).max(Money::ZERO))
    }

    /// What a pod of this shape costs an hour on this node.
    fn price_on(&self, shape: &PodShape, node: &Node, at: Timestamp) -> Option<Money> {
        let attributes = shape.attributes.clone()?;
        let gpus = node.gpus.get(&attributes.resource).copied();
        let attributes = match gpus {
            Some(gpus) => attributes.on_node("", gpus, &node.labels),
            None => attributes,
        };
        let quote = self.catalog.price(&attributes, at).rate()?;
        Some(quote.cost.total())
    }

    /// Replaces a node.
    pub(crate) fn replace_node(&mut self, old: Option<&Node>, new: Option<&Node>) {
        if let Some(new) = new {
            let keys = self.keys.add_node(new);
            if !keys.is_empty() {
                // no other node has them: their classes are as they were
                self.note_change();
                self.keys.learn(keys);
            }
            self.add(new);
        }
        if let Some(old) = old {
            self.remove(old);
            self.keys.remove_node(old);
        }
    }

    /// Whether estimates may have changed because of nodes since this was last asked. A class that
    /// went and came again meanwhile changes none, in whatever order the nodes were replaced.
    pub(crate) fn take_changed_classes(&mut self) -> bool {
        let mut keys = self.keys.take_named_before();
        let Some(before) = self.before.take() else {
            return false;
        };
        self.keys.forget_unused();
        // labels that were first named meanwhile tell only nodes of new shapes apart
        keys.extend(before.selector_keys);
        let known = |class: &NodeClass| NodeClass {
            labels: named(&class.labels, &keys),
            ..class.clone()
        };
        let now: Vec<NodeClass> = self.classes.iter().map(known).collect();
        let are_among = |classes: &[NodeClass], all: &[NodeClass]| {
            let mut classes = classes.iter();
            let is_as = |class: &NodeClass, each: &NodeClass| {
                each.is_like(class) && (each.open > 0) == (class.open > 0)
            };
            classes.all(|class| all.iter().any(|each| is_as(class, each)))
        };
        !are_among(&now, &before.classes) || !are_among(&before.classes, &now)
    }

    /// The classes are about to change.
    fn note_change(&mut self) {
        self.before.get_or_insert_with(|| KnownClasses {
            selector_keys: self.keys.learned().clone(),
            classes: self.classes.clone(),
        });
        self.version += 1;
    }

    /// Takes that pods or templates of these shapes are there in the place of others. `nodes` are all nodes.
    pub(crate) fn replace_shapes<'a>(
        &mut self,
        old: &[Arc<PodShape>],
        new: &[Arc<PodShape>],
        nodes: impl Iterator<Item = &'a Node>,
    ) {
        if old == new {
            return;
        }
        let mut keys = BTreeSet::new();
        for shape in new {
            keys.extend(self.keys.add_shape(shape));
        }
        for shape in old {
            self.keys.remove_shape(shape);
        }
        if keys.is_empty() {
            return;
        }
        self.note_change();
        self.keys.learn(keys);
        self.classes.clear();
        for node in nodes {
            self.add(node);
        }
    }

    fn class(&self, node: &Node) -> NodeClass {
        let gpus = node.gpus.iter().filter(|(_, count)| **count > 0);
        let attributes = |resource: &String, count: u32| {
            let pod = PricingAttributes {
                resource: resource.clone(),
                ..PricingAttributes::default()
            };
            PricingAttributes {
                node: None,
                ..pod.on_node("", count, &node.labels)
            }
        };
        let taints = node.taints.iter();
        let taints = taints.filter(|taint| !taint.key.starts_with(CONDITION_TAINTS));
        let mut taints: Vec<Taint> = taints.cloned().collect();
        taints.sort();
        NodeClass {
            labels: named(&node.labels, self.keys.learned()),
            taints,
            gpus: gpus
                .map(|(resource, count)| (resource.clone(), attributes(resource, *count)))
                .collect(),
            nodes: 1,
            open: u32::from(node.takes_pods),
        }
    }

    fn position(&self, class: &NodeClass) -> Option<usize> {
        self.classes.iter().position(|each| each.is_like(class))
    }

    fn add(&mut self, node: &Node) {
        let class = self.class(node);
        if class.gpus.is_empty() {
            return;
        }
        let Some(at) = self.position(&class) else {
            self.note_change();
            self.classes.push(class);
            return;
        };
        if class.open > 0 && self.classes.get(at).is_some_and(|known| known.open == 0) {
            self.note_change();
        }
        if let Some(known) = self.classes.get_mut(at) {
            known.nodes += 1;
            known.open += class.open;
        }
    }

    fn remove(&mut self, node: &Node) {
        let class = self.class(node);
        let Some(at) = self.position(&class) else {
            return;
        };
        let Some(known) = self.classes.get(at) else {
            return;
        };
        let is_last = known.nodes <= 1;
        if is_last || class.open > 0 && known.open == class.open {
            self.note_change();
        }
        if is_last {
            self.classes.swap_remove(at);
        } else if let Some(known) = self.classes.get_mut(at) {
            known.nodes -= 1;
            known.open = known.open.saturating_sub(class.open);
        }
    }

    /// The estimate for a pod of this shape, from the cache while it holds.
    pub(crate) fn estimate(
        &mut self,
        shape: &Arc<PodShape>,
        cached: &mut CachedRate,
        now: Timestamp,
    ) -> Estimate {
        if cached.version != Some(self.version) {
            *cached = CachedRate {
                version: Some(self.version),
                estimate: self.compute_or_remember(shape, now),
            };
        }
        cached.estimate
    }

    /// The money an hour of that estimate; `None` while no price is known.
    pub(crate) fn rate(
        &mut self,
        shape: &Arc<PodShape>,
        cached: &mut CachedRate,
        now: Timestamp,
    ) -> Option<Money> {
        self.estimate(shape, cached, now).rate
    }

    /// Most pods are alike: of these, only the first needs the catalog.
    fn compute_or_remember(&mut self, shape: &Arc<PodShape>, now: Timestamp) -> Estimate {
        if self.recent.version != self.version {
            self.recent = RecentEstimates {
                version: self.version,
                estimates: Vec::new(),
            };
        }
        let is_same = |other: &Arc<PodShape>| Arc::ptr_eq(other, shape) || other == shape;
        let known = &mut self.recent.estimates;
        if let Some((_, estimate)) = known.iter().find(|(other, _)| is_same(other)) {
            return *estimate;
        }
        let estimate = self.compute(shape, now);
        let known = &mut self.recent.estimates;
        if known.len() >= RECENT {
            known.remove(0);
        }
        known.push((Arc::clone(shape), estimate));
        estimate
    }

    /// The estimate, made anew.
    pub(crate) fn compute(&self, shape: &PodShape, now: Timestamp) -> Estimate {
        let Some(attributes) = &shape.attributes else {
            return Estimate::default();
        };
        let takes = |class: &&NodeClass| {
            class.takes(shape) && class.gpus.contains_key(&attributes.resource)
        };
        let all = || self.classes.iter().filter(takes);
        if all().any(|class| class.is_open_to(shape)) {
            let open = all().filter(|class| class.is_open_to(shape));
            return Estimate {
                rate: self.highest_on(open, attributes, now),
                basis: EstimateBasis::Node,
            };
        }
        if all().next().is_some() {
            return Estimate {
                rate: self.highest_on(all(), attributes, now),
                basis: EstimateBasis::ClosedNode,
            };
        }
        let anywhere = || {
            let volumes = self.catalog.price(attributes, now).rate()?.cost.storage;
            let gpus = self.catalog.highest_price(&attributes.resource, now)?;
            Some(gpus.times(attributes.gpus) + volumes)
        };
        Estimate {
            rate: anywhere(),
            basis: EstimateBasis::Listed,
        }
    }

    /// What the pod costs on the dearest of these; `None` if the price on one of them is not known.
    fn highest_on<'a>(
        &self,
        classes: impl Iterator<Item = &'a NodeClass>,
        attributes: &PricingAttributes,
        now: Timestamp,
    ) -> Option<Money> {
        let on_nodes = classes.filter_map(|class| class.gpus.get(&attributes.resource));
        let rates: Option<Vec<Money>> = on_nodes
            .map(|node| {
                let on_node = PricingAttributes {
                    gpus: attributes.gpus,
                    amounts: attributes.amounts.clone(),
                    ..node.clone()
                };
                let quote = self.catalog.price(&on_node, now).rate();
                quote.map(|quote| quote.cost.total())
            })
            .collect();
        rates?.into_iter().max()
    }

    /// The keys by which nodes are told apart.
    #[cfg(test)]
    pub(crate) fn learned_keys(&self) -> &BTreeSet<String> {
        self.keys.learned()
    }

    /// Whether the classes are those of these nodes, told apart by what these shapes select.
    pub(crate) fn is_consistent<'a>(
        &self,
        nodes: impl Iterator<Item = &'a Node> + Clone,
        shapes: impl Iterator<Item = &'a PodShape>,
    ) -> bool {
        if !self.keys.is_consistent(nodes.clone(), shapes) {
            return false;
        }
        let mut again = Self {
            classes: Vec::new(),
            ..self.clone()
        };
        nodes.for_each(|node| again.add(node));
        let contains = |all: &[NodeClass], class: &NodeClass| all.contains(class);
        again.classes.len() == self.classes.len()
            && self
                .classes
                .iter()
                .all(|class| contains(&again.classes, class))
    }
}
