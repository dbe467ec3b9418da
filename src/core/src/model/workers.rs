//! Which pods are workers of gangs. Anybody can write the labels of a worker: it is one if the present Job
//! of its role in a TrainingJob has made it.

use jiff::Timestamp;

use super::event::{Pod, Scheduling};
use super::job::JobState;

/// Whether the queue looks after a pod that has the labels of a worker: it is one of a gang that is let
/// run. How long its room is kept is decided there.
pub(crate) fn is_in_queue(state: &JobState, pod: &Pod) -> bool {
    state.spec.is_some() && state.has_room() && state.is_of_present_run(pod)
}

/// Whether room is reserved for a pod that has the labels of a worker. One that the queue does not look
/// after keeps it no longer than a pod of no workload.
pub(crate) fn takes_room(pod: &Pod, is_in_queue: bool, now: Timestamp) -> bool {
    match is_in_queue {
        true => pod.is_pending() && pod.scheduling != Scheduling::Ignored,
        false => pod.waits_for_room(now),
    }
}
