//! When something must be decided anew though nothing happens.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::event::{Key, Name};

/// What is decided anew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TimerKey {
    /// A service.
    Service(Key),
    /// The queue of jobs of a namespace.
    Queue(Name),
    /// The budgets of a namespace.
    Budgets(Name),
    /// The room for a pod without a node, by its UID.
    Pod(Name),
    /// What gateways hold is known or not.
    Gateways,
    /// Whose GPUs are taken back for whom.
    Preemption,
    /// Prices.
    Prices,
}

/// At most one instant for each subject.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Timers {
    at: BTreeMap<TimerKey, Timestamp>,
    order: BTreeSet<(Timestamp, TimerKey)>,
}

impl Timers {
    /// Replaces the instant of a subject; `None` if time alone changes nothing.
    pub(crate) fn set(&mut self, subject: TimerKey, at: Option<Timestamp>) {
        if self.at.get(&subject).copied() == at {
            return;
        }
        if let Some(old) = self.at.remove(&subject) {
            self.order.remove(&(old, subject.clone()));
        }
        if let Some(at) = at {
            self.at.insert(subject.clone(), at);
            self.order.insert((at, subject));
        }
    }

    /// Takes out the subjects that are due at `now`.
    pub(crate) fn due(&mut self, now: Timestamp) -> Vec<TimerKey> {
        let mut due = Vec::new();
        while let Some((at, _)) = self.order.first() {
            if *at > now {
                break;
            }
            if let Some((_, subject)) = self.order.pop_first() {
                self.at.remove(&subject);
                due.push(subject);
            }
        }
        due
    }

    /// The first instant of a namespace, of which these are the services.
    pub(crate) fn next_of<'a>(
        &self,
        namespace: &str,
        services: impl Iterator<Item = &'a Key>,
    ) -> Option<Timestamp> {
        let namespace: Name = namespace.into();
        let subjects = services.cloned().map(TimerKey::Service);
        let subjects = subjects.chain([
            TimerKey::Queue(namespace.clone()),
            TimerKey::Budgets(namespace),
        ]);
        let at = subjects.filter_map(|subject| self.at.get(&subject).copied());
        at.min()
    }

    /// The first instant.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.order.first().map(|(at, _)| *at)
    }
}
