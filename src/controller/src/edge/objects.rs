//! Kubernetes objects as the model's values. Nothing here looks at another object.

use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_core::model::event::{Deployment, Node, Owner, Pod, PodShape};
use bursar_core::pricing::is_gpu;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1;
use k8s_openapi::api::core::v1 as core;
use kube::ResourceExt;
use std::sync::Arc;

use super::placement;
use crate::cache::key_of;
use crate::health;
use crate::pod;
use crate::pod_failure;
use crate::pod_mark;
use crate::pod_resources::amounts;
use crate::rollout;
use crate::training::job::labelled_role;

/// What a node has, and whether it takes pods.
pub(super) fn node(node: &core::Node) -> Node {
    let spec = node.spec.as_ref();
    let is_cordoned = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
    let status = node.status.as_ref();
    let conditions = status.into_iter().flat_map(|status| &status.conditions);
    let mut conditions = conditions.flatten();
    let is_ready =
        conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let capacity = pod::capacity_of(node).into_iter().flatten();
    let gpus = capacity.filter(|(name, _)| is_gpu(name));
    Node {
        takes_pods: is_ready && !is_cordoned,
        unready: !is_ready,
        labels: node.labels().clone(),
        taints: placement::taints(node),
        allocatable: amounts(status.and_then(|status| status.allocatable.as_ref())),
        gpus: gpus
            .map(|(name, _)| (name.clone(), pod::node_gpus(node, name)))
            .collect(),
    }
}

/// A pod that asks for `shape` and belongs to `workload`.
pub(super) fn pod(
    pod: &core::Pod,
    workload: Option<&WorkloadRef>,
    shape: Arc<PodShape>,
    now: Timestamp,
) -> Pod {
    let metadata = &pod.metadata;
    let created = metadata.creation_timestamp.as_ref();
    let created = created.map_or(now, |time| time.0);
    let spec = pod.spec.as_ref();
    let grace = spec.and_then(|spec| spec.termination_grace_period_seconds);
    let ended = pod::end(pod, Timestamp::MIN).map(|end| end.at);
    Pod {
        key: key_of(pod),
        owner: owner(pod, workload),
        shape,
        node: pod::node_name(pod).map(Into::into),
        scheduling: placement::scheduling(pod),
        resident: placement::is_resident(pod),
        created,
        ended: ended.or_else(|| pod::is_terminal(pod).then_some(created)),
        deletion: metadata.deletion_timestamp.as_ref().map(|time| time.0),
        grace_seconds: grace
            .unwrap_or(bursar_api::template::DEFAULT_GRACE_SECONDS)
            .max(0),
        ready_since: pod::ready_since(pod),
        was_ready: pod::was_ready(pod),
        draining_since: pod_mark::draining_since(pod),
        marked_for_deletion: pod_mark::leaves_first(pod),
        start_failure: health::start_failure(pod, now).map(|(why, since)| (why.into(), since)),
        failure: pod_failure::of_worker(pod).map(Into::into),
        disrupted: pod_failure::is_disrupted(pod),
        made_by: pod::maker(pod).map(Into::into),
        leader: pod::leader(pod).map(Into::into),
        owner_name: match workload.map(|workload| workload.kind) {
            Some(WorkloadKind::Unmanaged) => pod::owner(pod).into(),
            _ => Default::default(),
        },
    }
}

fn owner(pod: &core::Pod, workload: Option<&WorkloadRef>) -> Owner {
    let Some(workload) = workload else {
        return Owner::Other;
    };
    let name = || workload.name.as_str().into();
    match workload.kind {
        WorkloadKind::InferenceDeployment => Owner::Service(name()),
        WorkloadKind::TrainingJob => Owner::Job(name(), labelled_role(pod).into()),
        WorkloadKind::Unmanaged | WorkloadKind::Node | WorkloadKind::Folded => Owner::Other,
    }
}

/// What a Deployment is told, and whether it replaces pods.
pub(super) fn deployment(found: &v1::Deployment) -> Deployment {
    let replicas = found.spec.replicas.map(u32::try_from);
    Deployment {
        replicas: replicas.and_then(Result::ok).unwrap_or(0),
        first_ordinal: None,
        rollout: rollout::of_deployment(found),
        creation_failure: health::pod_creation_failure(found),
    }
}
