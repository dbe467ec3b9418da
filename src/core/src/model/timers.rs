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
    /// The eviction of a pod, by its UID.
    Eviction(Name),
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

    /// Takes out subjects that are due at `now`. Where more services than `most` are due at one
    /// instant, those of further namespaces are left for the next call: services of a namespace are
    /// decided together, whichever of them goes first. So are further evictions, each of which is
    /// decided alone.
    pub(crate) fn due(&mut self, now: Timestamp, most: usize) -> Vec<TimerKey> {
        let mut due: Vec<(Timestamp, TimerKey)> = Vec::new();
        while let Some(next) = self.order.first()
            && next.0 <= now
        {
            let is_enough = due.len() >= most;
            if is_enough && due.last().is_some_and(|last| may_part(last, next)) {
                break;
            }
            if let Some(next) = self.order.pop_first() {
                self.at.remove(&next.1);
                due.push(next);
            }
        }
        due.into_iter().map(|(_, subject)| subject).collect()
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

    /// Whether a subject is due at `now`.
    pub(crate) fn is_due(&self, subject: &TimerKey, now: Timestamp) -> bool {
        self.at.get(subject).is_some_and(|at| *at <= now)
    }

    /// Whether anything is due at `now`.
    pub(crate) fn are_due(&self, now: Timestamp) -> bool {
        self.next().is_some_and(|at| at <= now)
    }

    /// The first instant.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.order.first().map(|(at, _)| *at)
    }
}

/// Whether one of two successive timers may be due in one call, and the other in the next.
fn may_part(last: &(Timestamp, TimerKey), next: &(Timestamp, TimerKey)) -> bool {
    match (&last.1, &next.1) {
        (TimerKey::Service(last_key), TimerKey::Service(next_key)) => {
            last.0 == next.0 && last_key.namespace != next_key.namespace
        }
        (TimerKey::Eviction(_), TimerKey::Eviction(_)) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + second).unwrap()
    }

    #[test]
    fn services_of_a_namespace_that_are_due_at_one_instant_are_due_together() {
        let mut timers = Timers::default();
        let service = |namespace, name| TimerKey::Service(Key::new(namespace, name));
        for (second, subject) in [
            (1, service("a", "0")),
            (2, service("a", "1")),
            (2, service("b", "0")),
            (2, service("b", "1")),
            (2, service("c", "0")),
            (2, TimerKey::Queue("a".into())),
            (4, service("d", "0")),
        ] {
            timers.set(subject, Some(at(second)));
        }
        let first = timers.due(at(3), 1);
        // of two instants all of the earlier one, since "a" is due at both
        assert_eq!(first, [service("a", "0"), service("a", "1")]);
        assert!(timers.are_due(at(3)));
        assert_eq!(timers.due(at(3), 1), [service("b", "0"), service("b", "1")]);
        let rest = [service("c", "0"), TimerKey::Queue("a".into())];
        assert_eq!(timers.due(at(3), 1), rest);
        assert!(!timers.are_due(at(3)));
        assert_eq!(timers.due(at(3), 1), []);
        assert_eq!(timers.next(), Some(at(4)));
    }

    #[test]
    fn many_evictions_are_not_due_in_one_call() {
        let mut timers = Timers::default();
        let eviction = |uid: i64| TimerKey::Eviction(format!("uid-{uid}").into());
        for uid in 0..5 {
            timers.set(eviction(uid), Some(at(uid / 3)));
        }
        timers.set(TimerKey::Budgets("a".into()), Some(at(1)));
        assert_eq!(timers.due(at(3), 2), [0, 1].map(eviction));
        assert!(timers.is_due(&TimerKey::Budgets("a".into()), at(3)));
        // what is of other kinds is not left over
        let next = [eviction(2), TimerKey::Budgets("a".into()), eviction(3)];
        assert_eq!(timers.due(at(3), 2), next);
        assert_eq!(timers.due(at(3), 2), [eviction(4)]);
    }
}
