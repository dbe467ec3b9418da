//! What Bursar marks pods with: that they leave, and that they leave before others.

use bursar_api::names::{DELETION_COST_ANNOTATION, DRAINING_ANNOTATION, SERVING_LABEL};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::pod;

/// ReplicaSets delete the pod with the lowest cost first.
const LEAVES_FIRST: &str = "-1000000";

/// Since when a pod has been draining, by Bursar's annotation, which its user can write as well.
pub(crate) fn draining_since(pod: &Pod) -> Option<Timestamp> {
    let since = pod::annotation(pod, DRAINING_ANNOTATION)?.parse().ok()?;
    Some(pod::not_before_creation(pod, since))
}

/// Whether its ReplicaSet deletes the pod before others.
pub(crate) fn leaves_first(pod: &Pod) -> bool {
    pod::annotation(pod, DELETION_COST_ANNOTATION) == Some(LEAVES_FIRST)
}

/// What a pod is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PodMark {
    /// It gets no new requests, and finishes those that it has.
    Drain,
    /// It serves after all.
    Keep,
    /// Its ReplicaSet deletes it before others.
    Remove,
}

impl PodMark {
    /// What changes of a pod's metadata; `None` if the pod has the mark already.
    pub(crate) fn change(self, pod: &Pod, now: Timestamp) -> Option<Value> {
        let drains = draining_since(pod).is_some();
        let leaves_first = leaves_first(pod);
        let serves = pod::label(pod, SERVING_LABEL).is_some();
        match self {
            Self::Drain if drains && !serves => None,
            Self::Drain => Some(json!({
                "labels": {SERVING_LABEL: null},
                "annotations": {DRAINING_ANNOTATION: now.to_string()},
            })),
            Self::Keep if !drains && !leaves_first && serves => None,
            Self::Keep => Some(json!({
                "labels": {SERVING_LABEL: "true"},
                "annotations": {DRAINING_ANNOTATION: null, DELETION_COST_ANNOTATION: null},
            })),
            Self::Remove if leaves_first => None,
            Self::Remove => Some(json!({"annotations": {DELETION_COST_ANNOTATION: LEAVES_FIRST}})),
        }
    }
}
