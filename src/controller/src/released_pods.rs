//! Pods with the labels of a workload that are its own no more: what made them was deleted with `--cascade=orphan` or
//! was taken away from it, or the workload itself is gone. Nothing that Bursar tells the workload stops them. For a
//! minute that counts for nothing, since what is deleted may be made anew and take its pods back.

use std::collections::HashMap;
use std::sync::Mutex;

use bursar_api::spend::WorkloadKind;
use bursar_api::{InferenceDeployment, TrainingJob};
use bursar_core::model::Key;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::cache::cached;
use crate::context::Context;
use crate::lock::lock;
use crate::pod;

/// A pod is another's after this long.
const TAKEN_BACK_WITHIN: SignedDuration = SignedDuration::from_mins(1);

/// Such pods.
#[derive(Debug, Default)]
pub(crate) struct ReleasedPods {
    pods: Mutex<HashMap<Key, ReleasedPod>>,
}

#[derive(Debug)]
struct ReleasedPod {
    since: Timestamp,
    counts: bool,
}

impl ReleasedPods {
    /// Takes whether a pod is its workload's no more. Returns when that counts, if it does not yet.
    pub(crate) fn note(&self, pod: &Key, is_released: bool, now: Timestamp) -> Option<Timestamp> {
        let mut pods = lock(&self.pods);
        if !is_released {
            pods.remove(pod);
            return None;
        }
        let released = pods.entry(pod.clone()).or_insert(ReleasedPod {
            since: now,
            counts: false,
        });
        let at = released.since.saturating_add(TAKEN_BACK_WITHIN);
        let at = at.unwrap_or(released.since);
        released.counts |= at <= now;
        (!released.counts).then_some(at)
    }

    /// Whether a pod is its workload's no more, as it was last looked at.
    pub(crate) fn is_noted(&self, pod: &Key) -> bool {
        lock(&self.pods).contains_key(pod)
    }

    /// Whether a pod is its workload's no more, and that counts.
    pub(crate) fn contains(&self, pod: &Key) -> bool {
        let pods = lock(&self.pods);
        pods.get(pod).is_some_and(|released| released.counts)
    }
}

/// Whether a pod with a workload's labels goes on and is its own no more. `is_there` says whether the pod of this name
/// and UID is there.
pub(crate) fn is_released(
    context: &Context,
    pod: &Pod,
    is_there: impl Fn(&Key, &str) -> bool,
) -> bool {
    let Some(workload) = pod::workload_of(pod) else {
        return false;
    };
    if pod::is_terminal(pod) || pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let (namespace, name) = (&workload.namespace, &workload.name);
    let (key, unreadable) = (Key::new(namespace, name), &context.unreadable);
    match workload.kind {
        WorkloadKind::InferenceDeployment => match cached(&context.stores.services, &key) {
            None => unreadable
                .why::<InferenceDeployment>(namespace, name)
                .is_none(),
            Some(service) if service.spec.target_ref.is_some() => match pod::controller(pod) {
                None => true,
                // the set of a group's workers has the name of their leader
                Some(set) => pod::leader(pod)
                    .is_some_and(|leader| !is_there(&Key::new(namespace, &set.name), leader)),
            },
            Some(_) => false,
        },
        WorkloadKind::TrainingJob => {
            let is_gone = cached(&context.stores.jobs, &key).is_none();
            is_gone && unreadable.why::<TrainingJob>(namespace, name).is_none()
        }
        WorkloadKind::Unmanaged | WorkloadKind::Node | WorkloadKind::Folded => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_taken_back_within_a_minute_was_never_released() {
        let pods = ReleasedPods::default();
        let key = Key::new("team", "old-0");
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(pods.note(&key, true, at(0)), Some(at(60)));
        assert_eq!(pods.note(&key, true, at(30)), Some(at(60)));
        assert_eq!(pods.note(&key, false, at(59)), None);
        assert_eq!(pods.note(&key, true, at(61)), Some(at(121)));
        assert!(!pods.contains(&key));
        assert_eq!(pods.note(&key, true, at(121)), None);
        assert!(pods.contains(&key));
        pods.note(&key, false, at(200));
        assert!(!pods.contains(&key));
    }
}
