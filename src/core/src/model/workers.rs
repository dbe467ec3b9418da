//! Which pods are workers of gangs. Anybody can write the labels of a worker: it is one if the present Job
//! of its role in a TrainingJob has made it.

use jiff::Timestamp;

use super::event::{Key, Owner, Pod, Scheduling};
use super::job::JobState;
use super::state::Model;

/// Whether the queue looks after a pod that has the labels of a worker: it is one of a gang that is let
/// run. How long its room is kept is decided there.
pub(crate) fn is_in_queue(state: &JobState, pod: &Pod) -> bool {
    state.spec.is_some() && state.has_room() && state.is_of_current_run(pod)
}

/// Whether room is reserved for a pod that has the labels of a worker. One that the queue does not look
/// after keeps it no longer than a pod of no workload.
pub(crate) fn takes_room(pod: &Pod, is_in_queue: bool, now: Timestamp) -> bool {
    match is_in_queue {
        true => pod.is_pending() && pod.scheduling != Scheduling::Ignored,
        false => pod.waits_for_room(now),
    }
}

impl Model {
    /// Whether gangs cannot count on a pod's end, though its node may be without it: it is no worker of a
    /// gang, was not told to stop as one, and is not there as long as its node.
    pub(crate) fn may_stay(&self, pod: &Pod) -> bool {
        let Owner::Job(name, _) = &pod.owner else {
            return !pod.resident;
        };
        let key = Key {
            namespace: pod.key.namespace.clone(),
            name: name.clone(),
        };
        let is_worker = |state: &JobState| state.spec.is_some() && state.is_of_current_run(pod);
        let is_worker = self.jobs.get(&key).is_some_and(is_worker);
        !pod.resident && !is_worker && pod.deletion.is_none()
    }

    /// Takes that other pods may be workers of a TrainingJob than before: it has come or gone, or one of its
    /// Jobs.
    pub(crate) fn note_workers(&mut self, key: &Key) {
        let uids = self.jobs.get(key).into_iter().flat_map(|state| &state.pods);
        let found = uids.filter_map(|uid| {
            let state = self.pods.get(uid)?;
            let may_stay = self.may_stay(&state.pod);
            (may_stay != state.may_stay).then(|| (uid.clone(), may_stay))
        });
        let changed: Vec<_> = found.collect();
        for (uid, may_stay) in changed {
            let Some(state) = self.pods.get_mut(&uid) else {
                continue;
            };
            state.may_stay = may_stay;
            let node = state.pod.node.as_ref();
            if let Some(node) = node.filter(|_| state.pod.ended.is_none()) {
                let requests = &state.pod.shape.requests;
                self.capacity.set_other(node, requests, may_stay);
            }
        }
    }
}
