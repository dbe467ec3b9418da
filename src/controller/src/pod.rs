//! What a pod reports: to whom it belongs, since when and until when it holds its node, its GPUs,
//! and the attributes that price it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use bursar_api::names::{KIND_LABEL, LEADER_ANNOTATION, WORKLOAD_LABEL, is_workload};
use bursar_api::quantities;
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_core::ledger::ChargeEnd;
use bursar_core::pod_set::Resources;
use bursar_core::pricing::{ResourceAmounts, is_gpu, is_unknown_accelerator};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerState, Node, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

use crate::{pod_mark, pod_resources};

/// Kubernetes' label of the pods of an Indexed Job.
pub(crate) const INDEX_LABEL: &str = "batch.kubernetes.io/job-completion-index";
/// The kubelet writes a pod's first conditions within this time of the pod's start.
const FIRST_LOOK: SignedDuration = SignedDuration::from_secs(10);

/// No node has so many units of a GPU resource, in whatever parts: a pod that asks for more counts as one that
/// asks for these.
pub(crate) const MAX_GPUS: u32 = 65_536;
/// No pod has so many kinds of accelerators; further ones are not named.
const MAX_UNKNOWN_ACCELERATORS: usize = 16;
/// As long as names of objects may be.
const MAX_OWNER_CHARACTERS: usize = 253;

/// The pod's UID; empty only for an object that never was on a server.
pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// A label's value.
pub(crate) fn label<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// An annotation's value.
pub(crate) fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}

/// The UID of the pod that leads its replica, if it is a worker of one of several pods.
pub(crate) fn leader(pod: &Pod) -> Option<&str> {
    annotation(pod, LEADER_ANNOTATION)
}

/// True if the pod carries this finalizer.
pub(crate) fn has_finalizer(pod: &Pod, finalizer: &str) -> bool {
    pod.metadata
        .finalizers
        .iter()
        .flatten()
        .any(|each| each == finalizer)
}

/// The pod's controller, if it has one.
pub(crate) fn controller(pod: &Pod) -> Option<&OwnerReference> {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true))
}

/// The UID of the pod's controller, if it has one.
pub(crate) fn maker(pod: &Pod) -> Option<&str> {
    controller(pod).map(|owner| &*owner.uid)
}

/// The owner of the pod, as `Kind/name`: its controller, for a ReplicaSet the Deployment behind it,
/// or the pod itself.
pub(crate) fn owner(pod: &Pod) -> String {
    let Some(owner) = controller(pod) else {
        return format!("Pod/{}", pod.name_any());
    };
    let deployment = label(pod, "pod-template-hash")
        .filter(|_| owner.kind == "ReplicaSet")
        .and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
    // the API server bounds neither, and records have room for names of objects
    let bounded = |text: &str| text.chars().take(MAX_OWNER_CHARACTERS).collect::<String>();
    match deployment {
        Some(name) => format!("Deployment/{}", bounded(name)),
        None => format!("{}/{}", bounded(&owner.kind), bounded(&owner.name)),
    }
}

/// The workload that a pod is charged to; for a pod that may hold GPUs and belongs to no workload,
/// the namespace's unmanaged pods.
pub(crate) fn workload_of(pod: &Pod) -> Option<WorkloadRef> {
    let namespace = pod.namespace()?;
    let labels = || {
        let kind = WorkloadKind::from_name(label(pod, KIND_LABEL)?)?;
        let name = label(pod, WORKLOAD_LABEL)?;
        is_workload(name).then(|| (kind, name.to_owned()))
    };
    match labels() {
        Some((kind, name)) => Some(WorkloadRef {
            namespace,
            kind,
            name,
        }),
        None => may_hold_gpus(pod).then(|| WorkloadRef::unmanaged(namespace)),
    }
}

/// True for a pod of the gateway Deployment.
pub(crate) fn is_gateway(pod: &Pod) -> bool {
    label(pod, "app.kubernetes.io/name") == Some("bursar")
        && label(pod, "app.kubernetes.io/component") == Some("gateway")
}

/// The node that the pod is bound to.
pub(crate) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec
        .as_ref()?
        .node_name
        .as_deref()
        .filter(|name| !name.is_empty())
}

/// When the pod was bound to its node. `None` before its scheduler reports that.
pub(crate) fn bound_at(pod: &Pod) -> Option<Timestamp> {
    node_name(pod)?;
    let status = pod.status.as_ref()?;
    let scheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled");
    let transition = scheduled
        .filter(|condition| condition.status == "True")
        .and_then(|condition| condition.last_transition_time.clone());
    // pods bound at their creation (static, or by a test) have no such condition
    transition
        .or_else(|| status.start_time.clone())
        .or_else(|| pod.metadata.creation_timestamp.clone())
        .map(|time| time.0)
}

/// Whether the pod's phase says that its containers have ended for good.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), Some("Succeeded" | "Failed"))
}

/// Whether the pod's containers have begun, init containers aside: its volumes are mounted.
pub(crate) fn has_started(pod: &Pod) -> bool {
    matches!(phase(pod), Some("Running" | "Succeeded" | "Failed"))
}

/// When the first container of the pod began, which cannot be before the pod was bound. Of one that was started
/// again the first start is not known, so it is the binding.
pub(crate) fn began_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.iter().flatten();
    let init = status.init_container_statuses.iter().flatten();
    let began = containers.chain(init).filter_map(|container| {
        if container.restart_count > 0 {
            return bound_at(pod);
        }
        started_at(container.state.as_ref()?)
    });
    began.min()
}

/// When a container that runs or has ended was started.
fn started_at(state: &ContainerState) -> Option<Timestamp> {
    let running = state
        .running
        .as_ref()
        .and_then(|state| state.started_at.as_ref());
    let ended = state
        .terminated
        .as_ref()
        .and_then(|state| state.started_at.as_ref());
    running.or(ended).map(|time| time.0)
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// When the pod's lifetime ended: the latest end of its containers, once its phase is terminal.
/// Where the kubelet gave no time, it is the moment of the kubelet's last report, or `seen` without
/// one; such an end is estimated. `None` while the pod holds its node.
pub(crate) fn end(pod: &Pod, seen: Timestamp) -> Option<ChargeEnd> {
    if !is_terminal(pod) {
        return None;
    }
    let status = pod.status.as_ref()?;
    let all = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let states = || {
        let statuses = all.into_iter().flatten().flatten();
        statuses.filter_map(|container| container.state.as_ref())
    };
    let finished = states().filter_map(real_end).max();
    // A waiting container never began. If a container is reported as running, or its end was lost,
    // nobody saw the end.
    let all_seen = states().all(|state| state.waiting.is_some() || real_end(state).is_some());
    let end = match finished {
        Some(at) if all_seen => ChargeEnd {
            at,
            estimated: false,
        },
        seen_last => {
            let at = last_status_write(pod).unwrap_or(seen);
            ChargeEnd {
                at: seen_last.map_or(at, |last| last.max(at)),
                estimated: true,
            }
        }
    };
    let start = bound_at(pod).unwrap_or(end.at);
    Some(ChargeEnd {
        at: end.at.max(start),
        ..end
    })
}

/// The end that the kubelet saw. It invents `ContainerStatusUnknown` for containers that it lost.
fn real_end(state: &ContainerState) -> Option<Timestamp> {
    let terminated = state.terminated.as_ref()?;
    if terminated.reason.as_deref() == Some("ContainerStatusUnknown") {
        return None;
    }
    terminated
        .finished_at
        .as_ref()
        .map(|time| time.0)
        .filter(|at| at.as_second() > 0)
}

fn last_status_write(pod: &Pod) -> Option<Timestamp> {
    let managed = pod.metadata.managed_fields.iter().flatten();
    managed
        .filter(|entry| entry.subresource.as_deref() == Some("status"))
        .filter_map(|entry| entry.time.as_ref())
        .map(|time| time.0)
        .max()
}

/// True once the pod takes traffic.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// Since when the pod has taken traffic; `None` if it takes none.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    Some(
        ready
            .last_transition_time
            .as_ref()
            .map_or(Timestamp::MIN, |time| time.0),
    )
}

/// Whether the pod shows that it was ready before and is not now: a container that has never been
/// ready turned unready when the kubelet first looked at the pod.
pub(crate) fn was_ready(pod: &Pod) -> bool {
    let Some(status) = &pod.status else {
        return false;
    };
    let mut conditions = status.conditions.iter().flatten();
    let unready =
        conditions.find(|condition| condition.type_ == "Ready" && condition.status == "False");
    let turned = unready.and_then(|unready| unready.last_transition_time.as_ref());
    match (turned, &status.start_time) {
        (Some(turned), Some(start)) => turned.0.duration_since(start.0) > FIRST_LOOK,
        _ => false,
    }
}

/// Since when the pod has worked: when it became ready or, if that was missed, when its last
/// container started.
pub(crate) fn first_ready_or_started_at(pod: &Pod) -> Option<Timestamp> {
    ready_since(pod)
        .filter(|at| *at > Timestamp::MIN)
        .or_else(|| {
            let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
            let starts = statuses
                .iter()
                .filter_map(|container| started_at(container.state.as_ref()?));
            starts
                .max()
                .filter(|at| at.as_second() > 0 && is_terminal(pod))
        })
}

/// Since when the pod has been draining or terminating.
pub(crate) fn draining_since(pod: &Pod) -> Option<Timestamp> {
    let told = pod.metadata.deletion_timestamp.as_ref().map(|by| {
        // the API gives the time by which it must have stopped
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        let grace = SignedDuration::from_secs(grace.max(0));
        not_before_creation(pod, by.0.checked_sub(grace).unwrap_or(by.0))
    });
    pod_mark::draining_since(pod).into_iter().chain(told).min()
}

/// A time that users can write or choose, as one within the pod's life: records hold no others.
pub(crate) fn not_before_creation(pod: &Pod, at: Timestamp) -> Timestamp {
    let created = pod.metadata.creation_timestamp.as_ref();
    created.map_or(at, |created| at.max(created.0))
}

/// Since when a node has been unreachable; `None` while its kubelet reports.
pub(crate) fn unreachable_since(node: &Node) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready" && condition.status == "Unknown")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// Why the pod's containers do not start: the first waiting reason that is not a normal part of a
/// start.
pub(crate) fn start_failure(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    let mut waiting = containers.filter_map(|container| {
        Some((&container.name, container.state.as_ref()?.waiting.as_ref()?))
    });
    waiting.find_map(|(name, waiting)| {
        let reason = waiting
            .reason
            .as_deref()
            .filter(|reason| !matches!(*reason, "ContainerCreating" | "PodInitializing"))?;
        let message = waiting.message.as_deref().unwrap_or_default();
        Some(
            format!("container {name}: {reason} {message}")
                .trim_end()
                .to_owned(),
        )
    })
}

/// Why no node takes the pod, in the scheduler's words.
pub(crate) fn unschedulable(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    scheduled.message.as_deref()
}

/// The GPUs that the pod holds by its spec: resources and counts, as [`pod_resources::requests`] counts
/// them, the highest count first.
pub(crate) fn gpus(pod: &Pod) -> Vec<(String, u32)> {
    pod.spec.as_ref().map(gpus_of).unwrap_or_default()
}

/// Whether the pod may hold GPUs: it requests a GPU resource, or it has resource claims, whose
/// device class the spec does not reveal.
pub(crate) fn may_hold_gpus(pod: &Pod) -> bool {
    may_hold_devices(pod) || !gpus(pod).is_empty()
}

/// The extended resources of a pod that look like accelerators and that no rule knows: it is charged
/// nothing for them.
pub(crate) fn unknown_accelerators(pod: &Pod) -> BTreeSet<String> {
    let Some(spec) = pod.spec.as_ref().filter(|_| !is_terminal(pod)) else {
        return BTreeSet::new();
    };
    let all = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let resources = all.filter_map(|container| container.resources.as_ref());
    let asked = resources.flat_map(|asked| asked.limits.iter().chain(&asked.requests).flatten());
    asked
        .filter(|(name, count)| {
            is_unknown_accelerator(name) && quantities::count(count).is_ok_and(|count| count > 0)
        })
        .map(|(name, _)| name.clone())
        .take(MAX_UNKNOWN_ACCELERATORS)
        .collect()
}

/// Whether the pod may hold devices by claims: its own, or a claim that the scheduler created for
/// its extended resources.
pub(crate) fn may_hold_devices(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    let claims = spec.and_then(|spec| spec.resource_claims.as_ref());
    let status = pod.status.as_ref();
    let made = status.and_then(|status| status.extended_resource_claim_status.as_ref());
    claims.is_some_and(|claims| !claims.is_empty()) || made.is_some()
}

/// The amounts that price a pod and may change: the cores, memory and disk that it requests, and
/// the gibibytes of its persistent volumes by storage class.
pub(crate) fn amounts(asked: &Resources, volumes: BTreeMap<String, u32>) -> ResourceAmounts {
    const MIB_MILLI: u64 = 1000 << 20;
    let amount = |name: &str, unit_milli: u64| {
        let milli = asked.get(name).copied().unwrap_or(0).max(0);
        u32::try_from(milli.unsigned_abs().div_ceil(unit_milli)).unwrap_or(u32::MAX)
    };
    ResourceAmounts {
        cpu_milli: amount("cpu", 1),
        memory_mib: amount("memory", MIB_MILLI),
        ephemeral_mib: amount("ephemeral-storage", MIB_MILLI),
        volumes,
        watts: None,
    }
}

/// The GPUs that a pod of this spec holds, the highest count first.
pub(crate) fn gpus_of(spec: &PodSpec) -> Vec<(String, u32)> {
    if !mentions_gpus(spec) {
        return Vec::new();
    }
    let all = pod_resources::requests(spec).into_iter();
    let counts = all
        .filter(|(name, _)| is_gpu(name))
        .filter_map(|(name, milli)| {
            let count = (milli / 1000).clamp(0, i64::from(MAX_GPUS));
            let count = u32::try_from(count).ok()?;
            (count > 0).then_some((name, count))
        });
    let mut counts: Vec<_> = counts.collect();
    counts.sort_by_key(|(_, count)| Reverse(*count));
    counts
}

/// Whether a container names a GPU resource: of most pods none does.
fn mentions_gpus(spec: &PodSpec) -> bool {
    let init = spec.init_containers.iter().flatten();
    let resources = spec.containers.iter().chain(init);
    let mut resources = resources.filter_map(|container| container.resources.as_ref());
    resources.any(|resources| {
        let limits = resources.limits.iter().flatten();
        let mut all = limits.chain(resources.requests.iter().flatten());
        all.any(|(name, _)| is_gpu(name))
    })
}

/// The capacity of the node, by resource.
pub(crate) fn capacity_of(node: &Node) -> Option<&BTreeMap<String, Quantity>> {
    node.status.as_ref()?.capacity.as_ref()
}

/// How many of `resource` the node has.
pub(crate) fn node_gpus(node: &Node, resource: &str) -> u32 {
    capacity_of(node)
        .and_then(|capacity| capacity.get(resource))
        .and_then(|quantity| quantities::count(quantity).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use bursar_api::names::DRAINING_ANNOTATION;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "u", "creationTimestamp": "2026-11-24T00:00:00Z"},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "resources": {"limits": {"nvidia.com/gpu": "2", "cpu": "1"}}}]},
            "status": status,
        }))
        .unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn scheduled() -> Value {
        json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-24T00:00:10Z"}])
    }

    #[test]
    fn no_time_that_a_user_writes_is_before_the_pod_was_made() {
        let created = at("2026-11-24T00:00:00Z");
        let mut marked = pod(json!({}));
        let by_hand = "-009999-01-02T01:59:59Z".to_owned();
        let annotations = [(DRAINING_ANNOTATION.to_owned(), by_hand)];
        marked.metadata.annotations = Some(annotations.into());
        assert_eq!(draining_since(&marked), Some(created));
        assert_eq!(pod_mark::draining_since(&marked), Some(created));
        let mut deleted = pod(json!({}));
        deleted.metadata.deletion_timestamp = Some(Time(at("2026-11-25T00:00:00Z")));
        for grace in [250_000_000_000, i64::MAX, i64::MIN, -1] {
            deleted.metadata.deletion_grace_period_seconds = Some(grace);
            let since = draining_since(&deleted).unwrap();
            assert!(
                (created..=at("2026-11-25T00:00:00Z")).contains(&since),
                "{grace}: {since}"
            );
        }
    }

    #[test]
    fn an_owner_is_named_in_as_much_as_a_record_has_room_for() {
        let mut owned = pod(json!({}));
        let long = "x".repeat(1_000_000);
        owned.metadata.owner_references = serde_json::from_value(json!([
            {"apiVersion": "v1", "kind": long, "name": long, "uid": "u", "controller": true},
        ]))
        .unwrap();
        assert_eq!(owner(&owned).len(), 2 * MAX_OWNER_CHARACTERS + 1);
    }

    #[test]
    fn a_stay_lasts_from_binding_to_the_end_of_the_last_container() {
        let ended = |name: &str, at: &str| {
            json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "finishedAt": at}}})
        };
        let statuses = json!([
            ended("a", "2026-11-24T00:05:00Z"),
            ended("b", "2026-11-24T00:07:00Z")
        ]);
        let ending = pod(
            json!({"phase": "Running", "conditions": scheduled(), "containerStatuses": statuses}),
        );
        assert_eq!(bound_at(&ending), Some(at("2026-11-24T00:00:10Z")));
        assert_eq!(
            end(&ending, at("2026-11-24T01:00:00Z")),
            None,
            "a container may start again while the phase is not terminal"
        );
        let ended = pod(
            json!({"phase": "Failed", "conditions": scheduled(), "containerStatuses": statuses}),
        );
        let exact = ChargeEnd {
            at: at("2026-11-24T00:07:00Z"),
            estimated: false,
        };
        assert_eq!(end(&ended, at("2026-11-24T01:00:00Z")), Some(exact));
    }

    #[test]
    fn an_end_that_the_kubelet_did_not_see_is_estimated_and_never_before_the_start() {
        let lost = json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", "finishedAt": "2026-11-24T00:07:00Z"}}}]);
        let mut pod =
            pod(json!({"phase": "Failed", "conditions": scheduled(), "containerStatuses": lost}));
        assert_eq!(
            end(&pod, at("2026-11-24T01:00:00Z")),
            Some(ChargeEnd {
                at: at("2026-11-24T01:00:00Z"),
                estimated: true
            })
        );
        assert_eq!(
            end(&pod, at("2026-11-23T01:00:00Z")).unwrap().at,
            at("2026-11-24T00:00:10Z")
        );
        pod.metadata.managed_fields = serde_json::from_value(json!([
            {"manager": "kubelet", "operation": "Update", "subresource": "status", "time": "2026-11-24T00:09:00Z"},
            {"manager": "somebody", "operation": "Update", "time": "2026-11-24T00:30:00Z"},
        ]))
        .unwrap();
        assert_eq!(
            end(&pod, at("2026-11-24T01:00:00Z")).unwrap().at,
            at("2026-11-24T00:09:00Z")
        );
    }

    #[test]
    fn an_end_is_exact_only_if_every_container_has_one() {
        let status = |name: &str, state: Value| json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let ended = json!({"terminated": {"exitCode": 0, "finishedAt": "2026-11-24T00:01:00Z"}});
        let of = |main: Value| {
            let pod = pod(json!({
                "phase": "Failed", "conditions": scheduled(),
                "initContainerStatuses": [status("i", ended.clone())], "containerStatuses": [status("c", main)],
            }));
            let end = end(&pod, at("2026-11-24T01:00:00Z")).unwrap();
            (end.at, end.estimated)
        };
        let running = json!({"running": {"startedAt": "2026-11-24T00:01:05Z"}});
        assert_eq!(
            of(running),
            (at("2026-11-24T01:00:00Z"), true),
            "PodGC sets the phase alone"
        );
        let waiting = json!({"waiting": {"reason": "PodInitializing"}});
        assert_eq!(
            of(waiting),
            (at("2026-11-24T00:01:00Z"), false),
            "its start failed"
        );
    }

    #[test]
    fn a_pod_is_owned_by_what_its_user_made() {
        let mut pod = pod(json!({}));
        assert_eq!(owner(&pod), "Pod/p");
        let mut owned = |kind: &str, name: &str| {
            pod.metadata.labels =
                Some([("pod-template-hash".to_owned(), "7d4b".to_owned())].into());
            pod.metadata.owner_references = serde_json::from_value(json!([
                {"apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "controller": true},
            ]))
            .unwrap();
            owner(&pod)
        };
        assert_eq!(owned("ReplicaSet", "notebook-7d4b"), "Deployment/notebook");
        assert_eq!(owned("StatefulSet", "jupyter"), "StatefulSet/jupyter");
    }

    #[test]
    fn a_pod_without_a_node_is_not_bound() {
        let mut pod = pod(json!({"phase": "Failed"}));
        pod.spec.as_mut().unwrap().node_name = None;
        assert_eq!(bound_at(&pod), None);
    }

    #[test]
    fn gpus_are_the_sum_of_containers_or_the_largest_init_container() {
        let mut pod = pod(json!({}));
        assert_eq!(gpus(&pod), [("nvidia.com/gpu".to_owned(), 2)]);
        let gpu = |count: &str| json!({"limits": {"nvidia.com/gpu": count}});
        let spec = json!({"containers": [{"name": "a", "resources": gpu("2")}, {"name": "b", "resources": gpu("1")}],
            "initContainers": [{"name": "i", "resources": gpu("8")}, {"name": "s", "restartPolicy": "Always", "resources": gpu("1")}]});
        pod.spec = serde_json::from_value(spec).unwrap();
        assert_eq!(gpus(&pod), [("nvidia.com/gpu".to_owned(), 8)]);
    }
    #[test]
    fn amounts_are_requests_with_the_pods_overhead_and_limits_where_no_request_is() {
        let spec: PodSpec = serde_json::from_value(json!({
            "containers": [
                {"name": "a", "resources": {"limits": {"nvidia.com/gpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1500m"}}},
                {"name": "b", "resources": {"requests": {"cpu": "1", "memory": "1M", "ephemeral-storage": "2Gi"}}},
            ],
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "2", "ephemeral-storage": "3Gi"}}}],
            "overhead": {"cpu": "250m"},
        }))
        .unwrap();
        assert_eq!(gpus_of(&spec), [("nvidia.com/gpu".to_owned(), 1)]);
        let asked = amounts(&pod_resources::requests(&spec), BTreeMap::new());
        // 1 MB is a little less than a mebibyte
        assert_eq!(
            (asked.cpu_milli, asked.memory_mib, asked.ephemeral_mib),
            (2_750, 1_025, 3 * 1024)
        );
    }

    #[test]
    fn gpus_are_counted_in_every_form_that_the_api_server_takes() {
        for (text, count) in [("2", 2), ("1k", 1000), ("2000m", 2), ("1Ki", 1024)] {
            let spec: PodSpec = serde_json::from_value(json!({
                "containers": [{"name": "a", "resources": {"limits": {"nvidia.com/gpu": text}}}],
            }))
            .unwrap();
            assert_eq!(
                gpus_of(&spec),
                [("nvidia.com/gpu".to_owned(), count)],
                "{text}"
            );
            let node: Node = serde_json::from_value(json!({
                "metadata": {"name": "n"}, "status": {"capacity": {"nvidia.com/gpu": text}},
            }))
            .unwrap();
            assert_eq!(node_gpus(&node, "nvidia.com/gpu"), count, "{text}");
        }
    }

    #[test]
    fn what_the_pod_asks_for_as_a_whole_stands_for_its_containers() {
        let spec: PodSpec = serde_json::from_value(json!({
            "containers": [{"name": "a", "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": "1"}}}],
            "resources": {"requests": {"cpu": "4"}},
        }))
        .unwrap();
        let asked = amounts(&pod_resources::requests(&spec), BTreeMap::new());
        assert_eq!(asked.cpu_milli, 4_000);
    }
}
