//! Reads that wait and reads in flight, bounded and fair among namespaces.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::{Limits, TargetId};

/// So many reads of a namespace may be in flight though others fill the shared part of the limit.
const FIRST_READS: usize = 2;

/// A read that waits: when it was due, and of which target.
type Waiting = (Duration, TargetId);

/// One namespace's part.
#[derive(Debug, Default)]
struct Share {
    in_flight: usize,
    /// When a read of it last began, or else when it came, as a count of reads that had begun.
    last_start: u64,
    waiting: BTreeSet<Waiting>,
}

impl Share {
    /// The order in which namespaces may begin a read, if this one may.
    fn rank(&self, limits: Limits) -> Option<(usize, u64)> {
        let may_start = !self.waiting.is_empty() && self.in_flight < limits.per_namespace;
        may_start.then_some((self.in_flight, self.last_start))
    }
}

/// Reads of one class.
#[derive(Debug)]
pub(super) struct Pool {
    limits: Limits,
    in_flight: usize,
    starts: u64,
    namespaces: BTreeMap<Arc<str>, Share>,
    /// The namespaces that may begin a read: those with the fewest in flight first, and among
    /// these the one that has waited longest.
    ready: BTreeSet<((usize, u64), Arc<str>)>,
}

impl Pool {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            in_flight: 0,
            starts: 0,
            namespaces: BTreeMap::new(),
            ready: BTreeSet::new(),
        }
    }

    /// Adds a read that waits.
    pub(super) fn push(&mut self, namespace: &Arc<str>, read: Waiting) {
        self.update(namespace, |share| share.waiting.insert(read));
    }

    /// Takes out a read that waits.
    pub(super) fn remove(&mut self, namespace: &Arc<str>, read: Waiting) {
        self.update(namespace, |share| share.waiting.remove(&read));
    }

    /// Begins the next read, if the limits allow one.
    pub(super) fn start_next(&mut self) -> Option<TargetId> {
        let ((of_namespace, _), namespace) = self.ready.first()?;
        let limit = if *of_namespace < FIRST_READS {
            self.limits.total
        } else {
            self.limits.shared
        };
        if self.in_flight >= limit {
            return None;
        }
        let namespace = Arc::clone(namespace);
        self.in_flight += 1;
        self.starts += 1;
        let start = self.starts;
        self.update(&namespace, |share| {
            share.in_flight += 1;
            share.last_start = start;
            share.waiting.pop_first().map(|(_, id)| id)
        })
    }

    /// Takes the end of a read.
    pub(super) fn release(&mut self, namespace: &Arc<str>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.update(namespace, |share| {
            share.in_flight = share.in_flight.saturating_sub(1);
        });
    }

    /// The reads in flight of the namespace that has the most.
    #[cfg(test)]
    pub(super) fn most_in_flight(&self) -> usize {
        let shares = self.namespaces.values().map(|share| share.in_flight);
        shares.max().unwrap_or(0)
    }

    #[cfg(test)]
    pub(super) fn total_in_flight(&self) -> usize {
        self.in_flight
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.in_flight == 0 && self.namespaces.is_empty() && self.ready.is_empty()
    }

    /// Changes a namespace's part, and keeps the order in step with it.
    fn update<T>(&mut self, namespace: &Arc<str>, change: impl FnOnce(&mut Share) -> T) -> T {
        let share = self.namespaces.entry(Arc::clone(namespace));
        let share = share.or_insert_with(|| Share {
            last_start: self.starts,
            ..Share::default()
        });
        if let Some(rank) = share.rank(self.limits) {
            self.ready.remove(&(rank, Arc::clone(namespace)));
        }
        let result = change(share);
        if let Some(rank) = share.rank(self.limits) {
            self.ready.insert((rank, Arc::clone(namespace)));
        } else if share.in_flight == 0 && share.waiting.is_empty() {
            self.namespaces.remove(namespace);
        }
        result
    }
}
