//! How pods end that do not end well, and whether that is their own fault.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

use crate::pod::INDEX_LABEL;
use crate::training::job::labelled_role;

/// Kubernetes' condition of a pod that the cluster takes away: evicted, preempted, by a taint, with its
/// node.
pub(crate) const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// Why a kubelet refuses a pod that another node, or the same one later, may take; also `OutOf` and
/// a resource.
const PASSING_REFUSALS: [&str; 6] = [
    "Evicted",
    "NodeAffinity",
    "NodeLost",
    "NodeShutdown",
    "Preempting",
    "Terminated",
];

/// The longest text about a failure, in characters.
const LONGEST: usize = 300;

/// How a worker failed, in words that begin with its rank; `None` if it has not.
pub(crate) fn of_worker(pod: &Pod) -> Option<String> {
    let how = failure(pod)?;
    let Some(index) = pod.labels().get(INDEX_LABEL) else {
        return Some(how);
    };
    Some(match labelled_role(pod) {
        "" => format!("rank {index}, {how}"),
        role => format!("rank {index} of role {role}, {how}"),
    })
}

/// How a pod failed, in words; `None` if it has not.
fn failure(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    if status.phase.as_deref() != Some("Failed") {
        return None;
    }
    let bad = containers(pod).find_map(|container| {
        let ended = container.state.as_ref()?.terminated.as_ref()?;
        let name = &container.name;
        let reason = ended.reason.as_deref().filter(|reason| *reason != "Error");
        let reason = reason.map(|reason| format!(" ({reason})"));
        let code = ended.exit_code;
        (code != 0).then(|| {
            format!(
                "container {name}: exit code {code}{}",
                reason.unwrap_or_default()
            )
        })
    });
    let said = || {
        let reason = status.reason.as_deref().unwrap_or("its phase is Failed");
        match status.message.as_deref() {
            Some(message) => format!("{reason}: {message}"),
            None => reason.to_owned(),
        }
    };
    Some(bad.unwrap_or_else(said).chars().take(LONGEST).collect())
}

/// Whether the cluster takes a pod away, or its node had no room for it or went before any of its
/// containers began: that is no failure of its own. What a node refuses for another reason, such as a
/// broken device plugin or a sysctl, it may refuse for ever, and so it counts.
pub(crate) fn is_disrupted(pod: &Pod) -> bool {
    let status = pod.status.iter();
    let mut conditions = status.flat_map(|status| status.conditions.iter().flatten());
    let is_target = conditions
        .any(|condition| condition.type_ == DISRUPTION_TARGET && condition.status == "True");
    let began = |container: &ContainerStatus| {
        let states = container.state.iter().chain(&container.last_state);
        let mut states = states.map(|state| state.running.is_some() || state.terminated.is_some());
        states.any(|began| began)
    };
    let reason = pod
        .status
        .as_ref()
        .and_then(|status| status.reason.as_deref());
    let passes = reason
        .is_none_or(|reason| reason.starts_with("OutOf") || PASSING_REFUSALS.contains(&reason));
    is_target || passes && failure(pod).is_some() && !containers(pod).any(began)
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.iter();
    status.flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
    }

    fn ended(code: i32, reason: &str) -> Value {
        json!([{
            "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": code, "reason": reason}},
        }])
    }

    #[test]
    fn a_worker_that_ends_with_an_error_has_failed_by_itself() {
        for (code, reason, says) in [
            (1, "Error", "container worker: exit code 1"),
            (
                137,
                "OOMKilled",
                "container worker: exit code 137 (OOMKilled)",
            ),
        ] {
            let pod = pod(json!({"phase": "Failed", "containerStatuses": ended(code, reason)}));
            assert_eq!(failure(&pod).as_deref(), Some(says));
            assert!(!is_disrupted(&pod));
        }
        let well = pod(json!({"phase": "Succeeded", "containerStatuses": ended(0, "Completed")}));
        assert_eq!((failure(&well), is_disrupted(&well)), (None, false));
        let runs = pod(json!({"phase": "Running"}));
        assert_eq!((failure(&runs), is_disrupted(&runs)), (None, false));
    }

    #[test]
    fn one_that_is_evicted_or_never_began_has_not() {
        let target = |status: &str| json!([{"type": DISRUPTION_TARGET, "status": status}]);
        let evicted = |status| {
            let containers = ended(143, "Error");
            pod(
                json!({"phase": "Failed", "conditions": target(status), "containerStatuses": containers}),
            )
        };
        assert!(is_disrupted(&evicted("True")));
        assert!(!is_disrupted(&evicted("False")));
        let told = pod(json!({"phase": "Running", "conditions": target("True")}));
        assert_eq!((failure(&told), is_disrupted(&told)), (None, true));
        for (reason, passes) in [
            ("OutOfnvidia.com/gpu", true),
            ("NodeShutdown", true),
            ("UnexpectedAdmissionError", false),
            ("SysctlForbidden", false),
        ] {
            let refused = pod(json!({"phase": "Failed", "reason": reason, "message": "why"}));
            assert_eq!(failure(&refused), Some(format!("{reason}: why")));
            assert_eq!(is_disrupted(&refused), passes, "{reason}");
        }
    }
    #[test]
    fn a_worker_is_named_by_its_rank() {
        let mut worker = pod(json!({"phase": "Failed", "containerStatuses": ended(1, "Error")}));
        let says = |pod: &Pod| of_worker(pod).unwrap();
        assert_eq!(says(&worker), "container worker: exit code 1");
        let mut label = |name: &str, value: &str| {
            let labels = worker.metadata.labels.get_or_insert_default();
            labels.insert(name.to_owned(), value.to_owned());
            says(&worker)
        };
        let with_rank = label(INDEX_LABEL, "2");
        assert_eq!(with_rank, "rank 2, container worker: exit code 1");
        let with_role = label("bursar.dev/role", "ps");
        assert_eq!(
            with_role,
            "rank 2 of role ps, container worker: exit code 1"
        );
    }

    #[test]
    fn a_long_message_is_cut() {
        let pod =
            pod(json!({"phase": "Failed", "reason": "Evicted", "message": "ä".repeat(10_000)}));
        assert_eq!(failure(&pod).unwrap().chars().count(), LONGEST);
    }
}
