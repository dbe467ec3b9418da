//! Pods of no workload that budgets evict, since there is no money for them.

use jiff::Timestamp;

use super::event::{Name, Pod};
use super::namespace::NamespaceState;
use super::state::Model;
use super::timers::TimerKey;

impl NamespaceState {
    /// From when on the pod is evicted, and by which budget; `None` if none has to.
    pub(crate) fn evicts(&self, pod: &Pod) -> Option<(Timestamp, Name)> {
        let evicting = self.evicting.iter();
        let evicting = evicting.filter(|(_, evicting)| evicting.evicts(pod));
        let from = evicting.map(|(name, evicting)| (evicting.from, name.clone()));
        from.min()
    }
}

impl Model {
    /// Takes that a pod is gone.
    pub(crate) fn forget_eviction(&mut self, namespace: &Name, uid: &Name) {
        let state = self.namespaces.get_mut(namespace);
        if state.is_some_and(|state| state.evictions.remove(uid).is_some()) {
            self.timers.set(TimerKey::Eviction(uid.clone()), None);
            self.marks.budgets.insert(namespace.clone());
        }
    }

    /// Whether something is known of a pod's namespace that its budgets have not been compared with yet.
    pub(crate) fn awaits_budgets(&self, uid: &Name, now: Timestamp) -> bool {
        let Some(state) = self.pods.get(uid) else {
            return false;
        };
        let namespace = &state.pod.key.namespace;
        let look = TimerKey::Budgets(namespace.clone());
        self.marks.is_named_in(namespace) || self.timers.is_due(&look, now)
    }

    /// Takes that a pod was not evicted, though that was ordered.
    pub(crate) fn note_failed_eviction(&mut self, namespace: &Name, uid: Name, why: Option<Name>) {
        let state = self.namespaces.get_mut(namespace);
        let Some(planned) = state.and_then(|state| state.evictions.get_mut(&uid)) else {
            return;
        };
        planned.ordered = None;
        planned.refused = why.or(planned.refused.take());
        self.marks.budgets.insert(namespace.clone());
        self.marks.pods.insert(uid);
    }
}
