//! Whether pods are healthy: the condition `PodsHealthy`, and why none of a service's replicas
//! starts.

use bursar_api::conditions::{ConditionState, PODS_HEALTHY, pods_healthy};
use bursar_core::model::event::PodCreationFailure;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

use crate::pod;

/// A container that has crashed is healthy again once it has run for this long: between two crashes
/// of a loop it runs too.
const CRASH_LOOP_RESET: SignedDuration = SignedDuration::from_mins(5);
/// The containers of a pod that has a node are made within this time, or something keeps the kubelet from it.
const CREATION_TIMEOUT: SignedDuration = SignedDuration::from_mins(5);
/// This many crashes are a loop; one may be an accident.
const LOOP: i32 = 2;

/// Why a pod does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PodProblem {
    /// A container does not start or crashes; in the kubelet's words.
    Stuck(String),
    /// The cluster refuses to make a pod; in the API server's words.
    Refused(String),
    /// No node takes the pod; in the scheduler's words.
    Unschedulable(String),
}

impl PodProblem {
    fn of(pod: &Pod, now: Timestamp) -> Option<Self> {
        let stuck = pod::start_failure(pod)
            .or_else(|| crashed(pod, 1, now))
            .or_else(|| not_created(pod, now));
        stuck.map(Self::Stuck).or_else(|| {
            let why = pod::unschedulable(pod)?;
            Some(Self::Unschedulable(why.to_owned()))
        })
    }
}

/// The condition `PodsHealthy` of these pods, without terminal ones, of which the cluster refuses to make
/// more if it says why.
pub(crate) fn condition(
    pods: &[&Pod],
    creation_failure: Option<&str>,
    failure: Option<&str>,
    now: Timestamp,
) -> ConditionState {
    let troubles = alive(pods).filter_map(|pod| Some((PodProblem::of(pod, now)?, pod.name_any())));
    let creation_failure =
        creation_failure.map(|why| (PodProblem::Refused(why.to_owned()), String::new()));
    let troubles = troubles.chain(creation_failure);
    // the same one of several, in whatever order they come
    let worst = troubles.min_by_key(|(trouble, pod)| {
        let rank = match trouble {
            PodProblem::Stuck(_) => 0,
            PodProblem::Refused(_) => 1,
            PodProblem::Unschedulable(_) => 2,
        };
        (rank, pod.clone())
    });
    let (status, reason, message) = match (failure, worst) {
        (Some(failure), _) => (false, pods_healthy::APPLY_FAILED, failure.to_owned()),
        (None, Some((PodProblem::Stuck(why), pod))) => {
            (false, pods_healthy::POD_STUCK, format!("pod {pod}: {why}"))
        }
        (None, Some((PodProblem::Refused(why), _))) => (false, pods_healthy::PODS_REFUSED, why),
        (None, Some((PodProblem::Unschedulable(why), pod))) => (
            false,
            pods_healthy::UNSCHEDULABLE,
            format!("pod {pod}: {why}"),
        ),
        (None, None) => (true, pods_healthy::HEALTHY, "no pod is stuck".to_owned()),
    };
    ConditionState {
        kind: PODS_HEALTHY,
        status: Some(status),
        reason,
        message,
    }
}

/// Why the cluster refuses to make pods of a Deployment, and since when. Kubernetes copies the last refusal
/// of a ReplicaSet into the Deployment's condition, and takes it away once a pod is made.
pub(crate) fn pod_creation_failure(deployment: &Deployment) -> Option<PodCreationFailure> {
    let is_true = |condition: &DeploymentCondition, kind: &str| {
        condition.type_.as_deref() == Some(kind) && condition.status.as_deref() == Some("True")
    };
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions
        .iter()
        .find(|condition| is_true(condition, "ReplicaFailure"))?;
    let created = deployment.metadata.creation_timestamp.as_ref();
    let since = failure.last_transition_time.as_ref().or(created)?;
    Some(PodCreationFailure {
        since: since.0,
        why: failure.message.as_deref().unwrap_or_default().into(),
    })
}

/// Why a pod does not start, and since when it has not been ready; `None` if it may start, or is
/// ready. A pod that no node takes yet may start: a node may still come.
pub(crate) fn start_failure(pod: &Pod, now: Timestamp) -> Option<(String, Timestamp)> {
    let why = pod::start_failure(pod).or_else(|| crashed(pod, LOOP, now))?;
    Some((why, not_ready_since(pod)?))
}

/// When the condition of these pods changes though nothing happens: a container that has crashed
/// has run for long enough, or one should have been made. Later than `now`.
pub(crate) fn changes_at(pods: &[&Pod], now: Timestamp) -> Option<Timestamp> {
    let late_at = |pod: &Pod| awaits_containers_until(pod).filter(|at| *at > now);
    let late = alive(pods).filter_map(late_at).min();
    let crashed = alive(pods)
        .flat_map(containers)
        .filter(|container| container.restart_count > 0);
    let well_at = |container: &ContainerStatus| {
        let at = running_since(container)?
            .checked_add(CRASH_LOOP_RESET)
            .ok()?;
        (at > now).then_some(at)
    };
    crashed.filter_map(well_at).chain(late).min()
}

/// Pods that neither have ended nor are being deleted.
fn alive<'a>(pods: &'a [&'a Pod]) -> impl Iterator<Item = &'a Pod> {
    let pods = pods.iter().copied();
    pods.filter(|pod| !pod::is_terminal(pod) && pod.metadata.deletion_timestamp.is_none())
}

/// Until when the kubelet may take to make the first container of a pod that has a node; `None` if it has
/// made one.
fn awaits_containers_until(pod: &Pod) -> Option<Timestamp> {
    let has_run = |each: &ContainerStatus| {
        let state = each.state.as_ref();
        state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    };
    if pod::has_started(pod) || containers(pod).any(has_run) {
        return None;
    }
    pod::bound_at(pod)?.checked_add(CREATION_TIMEOUT).ok()
}

/// That the kubelet has made no container in time. It says why in Events only.
fn not_created(pod: &Pod, now: Timestamp) -> Option<String> {
    awaits_containers_until(pod).filter(|until| *until <= now)?;
    let minutes = CREATION_TIMEOUT.as_mins();
    Some(format!(
        "ContainerCreating for more than {minutes} minutes: a volume, Secret or ConfigMap that it mounts may be \
         missing, or its image is large; kubectl describe pod shows which"
    ))
}

/// Since when the pod has not taken traffic; `None` if it takes it.
fn not_ready_since(pod: &Pod) -> Option<Timestamp> {
    if pod::is_ready(pod) {
        return None;
    }
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let turned = conditions
        .filter(|condition| matches!(condition.type_.as_str(), "Ready" | "PodScheduled"))
        .filter_map(|condition| condition.last_transition_time.as_ref());
    let made = pod.metadata.creation_timestamp.as_ref();
    turned.chain(made).map(|time| time.0).max()
}

/// The container that has crashed at least `times` and has not run for long since then.
fn crashed(pod: &Pod, times: i32, now: Timestamp) -> Option<String> {
    let mut containers = containers(pod);
    let container = containers.find(|each| each.restart_count >= times && !is_well(each, now))?;
    let code = last_exit(container).map_or_else(String::new, |code| {
        format!(", the last time with exit code {code}")
    });
    Some(format!(
        "container {}: has crashed {} times{code}",
        container.name, container.restart_count
    ))
}

/// The pod's init containers and containers.
fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| {
        let containers = status.container_statuses.iter().flatten();
        let init = status.init_container_statuses.iter().flatten();
        init.chain(containers)
    })
}

fn is_well(container: &ContainerStatus, now: Timestamp) -> bool {
    let ended = container
        .state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    match ended {
        Some(ended) => ended.exit_code == 0,
        None => {
            running_since(container).is_some_and(|at| now.duration_since(at) >= CRASH_LOOP_RESET)
        }
    }
}

fn running_since(container: &ContainerStatus) -> Option<Timestamp> {
    let running = container.state.as_ref()?.running.as_ref()?;
    Some(running.started_at.as_ref()?.0)
}

fn last_exit(container: &ContainerStatus) -> Option<i32> {
    let ended = container.last_state.as_ref()?.terminated.as_ref()?;
    Some(ended.exit_code)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_796_000_000 + second).unwrap()
    }

    fn pod(restarts: i32, state: Value, ready: bool) -> Pod {
        let ready = if ready { "True" } else { "False" };
        let condition =
            json!({"type": "Ready", "status": ready, "lastTransitionTime": at(0).to_string()});
        serde_json::from_value(json!({
            "metadata": {"name": "chat-1", "creationTimestamp": at(0).to_string()},
            "status": {"phase": "Running", "conditions": [condition], "containerStatuses": [{
                "name": "vllm", "image": "", "imageID": "", "ready": false, "restartCount": restarts, "state": state,
                "lastState": {"terminated": {"exitCode": 137}}}]},
        }))
        .unwrap()
    }

    fn waiting(reason: &str) -> Value {
        json!({"waiting": {"reason": reason}})
    }

    fn running(since: i64) -> Value {
        json!({"running": {"startedAt": at(since).to_string()}})
    }

    #[test]
    fn a_crash_loop_is_unhealthy_between_its_crashes_too_and_until_it_has_run_for_a_while() {
        let reason = |pod: &Pod, now| condition(&[pod], None, None, at(now)).reason;
        assert_eq!(
            reason(&pod(3, waiting("CrashLoopBackOff"), false), 90),
            pods_healthy::POD_STUCK
        );
        assert_eq!(
            reason(&pod(4, running(100), false), 101),
            pods_healthy::POD_STUCK
        );
        assert_eq!(
            reason(&pod(4, running(100), true), 399),
            pods_healthy::POD_STUCK
        );
        assert_eq!(
            reason(&pod(4, running(100), true), 400),
            pods_healthy::HEALTHY
        );
        assert_eq!(
            reason(&pod(0, running(100), true), 101),
            pods_healthy::HEALTHY
        );
        let ended = json!({"terminated": {"exitCode": 0}});
        assert_eq!(reason(&pod(1, ended, false), 101), pods_healthy::HEALTHY);
    }

    #[test]
    fn a_crashed_container_that_runs_changes_the_condition_with_time_alone() {
        let changes_at = |pod: &Pod, now| changes_at(&[pod], at(now));
        assert_eq!(changes_at(&pod(4, running(100), true), 101), Some(at(400)));
        assert_eq!(changes_at(&pod(4, running(100), true), 400), None);
        assert_eq!(changes_at(&pod(0, running(100), true), 101), None);
        let waits = waiting("CrashLoopBackOff");
        assert_eq!(changes_at(&pod(4, waits, false), 101), None);
    }

    #[test]
    fn a_pod_whose_containers_are_not_made_for_long_is_named() {
        let pod = |state: Value| -> Pod {
            let bound = json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": at(10).to_string()});
            serde_json::from_value(json!({
                "metadata": {"name": "train-0", "creationTimestamp": at(0).to_string()},
                "spec": {"nodeName": "gpu-0", "containers": []},
                "status": {"phase": "Pending", "conditions": [bound], "containerStatuses": [{
                    "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]},
            }))
            .unwrap()
        };
        let waits = pod(waiting("ContainerCreating"));
        let said = |pod: &Pod, now| condition(&[pod], None, None, at(now));
        assert_eq!(said(&waits, 309).reason, pods_healthy::HEALTHY);
        assert_eq!(changes_at(&[&waits], at(309)), Some(at(310)));
        let late = said(&waits, 310);
        assert_eq!(late.reason, pods_healthy::POD_STUCK);
        let words = ["pod train-0", "ContainerCreating", "Secret"];
        assert!(
            words.iter().all(|word| late.message.contains(word)),
            "{}",
            late.message
        );
        assert_eq!(said(&pod(running(200)), 400).reason, pods_healthy::HEALTHY);
        // which does not say that it will never start
        assert_eq!(start_failure(&waits, at(400)), None);
    }

    #[test]
    fn the_same_pod_is_named_in_whatever_order_pods_come() {
        let named = |name: &str, mut pod: Pod| {
            pod.metadata.name = Some(name.to_owned());
            pod
        };
        let one = named("chat-1", pod(3, waiting("CrashLoopBackOff"), false));
        let two = named("chat-2", pod(0, waiting("ErrImagePull"), false));
        let said = condition(&[&one, &two], None, None, at(90));
        assert_eq!(condition(&[&two, &one], None, None, at(90)), said);
        assert!(said.message.contains("chat-1"), "{}", said.message);
    }

    #[test]
    fn a_pod_that_no_node_takes_yet_is_unhealthy_and_has_not_failed() {
        let message = "0/3 nodes are available";
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "chat-1", "creationTimestamp": at(0).to_string()},
            "status": {"phase": "Pending", "conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": message, "lastTransitionTime": at(0).to_string()}]},
        }))
        .unwrap();
        assert_eq!(start_failure(&pod, at(3600)), None);
        let said = condition(&[&pod], None, None, at(3600));
        assert_eq!(said.reason, pods_healthy::UNSCHEDULABLE);
        assert!(said.message.contains(message), "{}", said.message);
    }

    #[test]
    fn a_pod_does_not_start_whose_image_is_not_pulled_or_that_crashes_in_a_loop() {
        let image = pod(0, waiting("ErrImagePull"), false);
        let (why, since) = start_failure(&image, at(59)).unwrap();
        assert!(why.contains("ErrImagePull"), "{why}");
        assert_eq!(since, at(0));
        assert_eq!(start_failure(&pod(0, running(1), false), at(60)), None);
        assert_eq!(start_failure(&pod(3, running(1), true), at(60)), None);
        assert_eq!(
            start_failure(&pod(1, running(50), false), at(60)),
            None,
            "one crash may be an accident"
        );
        let loops = pod(2, running(50), false);
        assert!(start_failure(&loops, at(60)).is_some());
        assert_eq!(changes_at(&[&loops], at(60)), Some(at(350)));
        assert_eq!(start_failure(&loops, at(350)), None, "it loads its model");
        assert_eq!(changes_at(&[&loops], at(350)), None);
    }

    #[test]
    fn a_refusal_of_pods_is_told_in_the_api_servers_words_until_a_pod_is_made() {
        let why = "pods \"chat-7d4b\" is forbidden: exceeded quota: gpus, requested: 1, limited: 0";
        let deployment = |status: &str| -> Deployment {
            serde_json::from_value(json!({
                "metadata": {"name": "chat", "creationTimestamp": at(0).to_string()},
                "spec": {"selector": {}, "template": {}},
                "status": {"conditions": [
                    {"type": "Available", "status": "False", "reason": "MinimumReplicasUnavailable"},
                    {"type": "ReplicaFailure", "status": status, "reason": "FailedCreate", "message": why,
                     "lastTransitionTime": at(7).to_string()}]},
            }))
            .unwrap()
        };
        let creation_failure = pod_creation_failure(&deployment("True")).unwrap();
        assert_eq!(
            (creation_failure.since, &*creation_failure.why),
            (at(7), why)
        );
        assert_eq!(pod_creation_failure(&deployment("False")), None);
        let said = condition(&[], Some(&creation_failure.why), None, at(8));
        assert_eq!(
            (said.status, said.reason, said.message.as_str()),
            (Some(false), pods_healthy::PODS_REFUSED, why)
        );
    }
}
