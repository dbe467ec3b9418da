//! The replicas of a service as the steps of a drain see them.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::drain;

use super::event::{Deployment, Name, Pod};
use super::service::{Ordered, ServiceState, may_have_requests};
use super::state::PodState;

/// Whether a pod counts among the replicas of its Deployment.
pub(crate) fn is_replica(pod: &Pod) -> bool {
    pod.ended.is_none() && pod.deletion.is_none()
}

/// Since when a pod has been leaving, by an order or by its annotation.
pub(crate) fn draining_since(
    orders: &BTreeMap<Name, Ordered<bool>>,
    uid: &Name,
    pod: &Pod,
) -> Option<Timestamp> {
    match orders.get(uid) {
        Some(order) if order.value => Some(order.at),
        Some(_) => None,
        None => pod.draining_since,
    }
}

/// The replicas of a service as the steps of a drain see them: their pods, of several those that lead. Orders that
/// pods do not show yet count.
pub(crate) fn drain_replicas<'a>(
    state: &ServiceState,
    pods: impl Iterator<Item = (&'a Name, &'a PodState)>,
    now: Timestamp,
) -> Vec<drain::Replica> {
    let leads = |pod: &Pod| pod.leader.is_none() && is_replica(pod);
    let replicas = pods.filter(|(_, found)| leads(&found.pod));
    let deployment = state.deployment.as_ref();
    let first_ordinal = deployment.and_then(|found| found.first_ordinal);
    replicas
        .map(|(uid, found)| {
            let (pod, engine) = (&found.pod, &found.engine);
            drain::Replica {
                uid: uid.to_string(),
                has_node: pod.node.is_some(),
                may_have_requests: may_have_requests(pod, engine),
                ready: pod.ready_since.is_some(),
                in_endpoints: state.endpoints.contains(uid),
                draining_since: draining_since(&state.draining, uid, pod),
                marked_for_deletion: pod.marked_for_deletion
                    || state.marked_for_deletion.contains_key(uid),
                stalled: engine.is_stalled(now),
                busy: match (state.reads_engines(), state.takes_requests()) {
                    (true, _) => engine.requests(),
                    // gateways do not tell which replica has theirs
                    (false, true) => None,
                    // one without an engine has no requests to wait for
                    (false, false) => Some(0),
                },
                created: pod.created,
                ordinal: first_ordinal.and_then(|first| ordinal(&pod.key.name, first)),
            }
        })
        .collect()
}

/// The replicas of a service that do not leave, by its objects: an order that was not carried out has
/// changed none.
pub(crate) fn shown_replicas(
    deployment: Option<&Deployment>,
    replicas: &[drain::Replica],
    pods: &BTreeMap<Name, PodState>,
) -> u32 {
    let shown = replicas.iter().filter_map(|replica| {
        let pod = &pods.get(replica.uid.as_str())?.pod;
        Some(drain::Replica {
            draining_since: pod.draining_since,
            marked_for_deletion: pod.marked_for_deletion,
            ..replica.clone()
        })
    });
    let shown: Vec<_> = shown.collect();
    drain::non_draining(deployment.map_or(0, |found| found.replicas), &shown)
}

/// The place of a StatefulSet's pod among those that it has, from 0, by the ordinal in which its name ends.
fn ordinal(name: &str, first: u32) -> Option<u32> {
    let ordinal: u32 = name.rsplit_once('-')?.1.parse().ok()?;
    Some(ordinal.saturating_sub(first))
}
