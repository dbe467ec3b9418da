//! Groups of pods that LeaderWorkerSet's own controller makes are adopted by `targetRef`: a group is a replica.

use bursar_e2e::{
    Access, Cluster,
    addons::Addon,
    runner::ScenarioResult,
    scenario::{wait_for_field, wait_until},
};
use serde_json::{Value, json};

use super::adoption::{SERVING, Target, serves_bursts};

const NAMESPACE: &str = "adopted-groups";
const NAME: &str = "vllm-nodes";
/// The place of a pod in its group; the leader has the first.
const INDEX: &str = "leaderworkerset.sigs.k8s.io/worker-index";

/// Two groups of two pods: a thousand requests in bursts with gaps in which they go to zero, are draining, or have just gone.
pub(crate) fn of_a_leader_worker_set(cluster: &Cluster) -> ScenarioResult {
    Addon::LeaderWorkerSet.install(cluster)?;
    let target = Target {
        namespace: NAMESPACE,
        example: "adoption/lws/leader-worker-set",
        kind: "LeaderWorkerSet",
        name: NAME,
        templates: &[
            "/spec/leaderWorkerTemplate/leaderTemplate",
            "/spec/leaderWorkerTemplate/workerTemplate",
        ],
        min_replicas: 2,
    };
    let (address, template) = target.adopt(cluster)?;
    wait_for_marks(cluster, "those of replicas", is_marked)?;
    target.keep(cluster, 0)?;
    serves_bursts(address, &[0, 2, 4, 5, 6, 7, 8, 10, 6, 5])?;
    target.rests(cluster, &template)?;

    // a group that stays, so that there are pods from which the marks are taken
    target.keep(cluster, 1)?;
    let ready = ".status.readyReplicas";
    wait_for_field(cluster, NAMESPACE, &format!("infd/{NAME}"), ready, "1", 60)?;
    wait_for_marks(cluster, "those of replicas", is_marked)?;
    target.select_serving(cluster, "null")?;
    target.give_back(cluster)?;
    wait_for_marks(cluster, "none", |pod, _| {
        marks(pod) == [Value::Null, Value::Null, Value::Null]
    })?;
    wait_for_field(cluster, NAMESPACE, &target.object(), ready, "2", 60)?;
    serves_bursts(address, &[0])?;
    target.delete(cluster)?;
    Addon::LeaderWorkerSet.uninstall(cluster)?;
    Ok(())
}

/// Waits until there are whole groups, and each of their pods has these marks; `are_right` is asked about each pod, given the name and the
/// UID of its leader.
fn wait_for_marks(
    cluster: &Cluster,
    which: &str,
    are_right: impl Fn(&Value, &str) -> bool,
) -> ScenarioResult {
    let mut last = Value::Null;
    let waited = wait_until(
        &format!("all pods of the groups to have marks: {which}"),
        30,
        || {
            let list = cluster.kubectl(&["-n", NAMESPACE, "get", "pods", "-o", "json"])?;
            let list: Value = serde_json::from_str(&list)?;
            let pods = list["items"].as_array().map_or(&[][..], Vec::as_slice);
            last = pods
                .iter()
                .map(|pod| json!({"pod": pod["metadata"]["name"], "marks": marks(pod)}))
                .collect();
            let leader_of = |pod: &Value| {
                let name = pod["metadata"]["name"].as_str()?;
                let name = name
                    .strip_suffix("-1")
                    .filter(|_| pod["metadata"]["labels"][INDEX] == "1");
                let leader = pods
                    .iter()
                    .find(|other| other["metadata"]["name"].as_str() == name)?;
                Some(leader["metadata"]["uid"].as_str()?.to_owned())
            };
            let whole = !pods.is_empty() && pods.len().is_multiple_of(2);
            Ok(whole
                && pods
                    .iter()
                    .all(|pod| are_right(pod, &leader_of(pod).unwrap_or_default())))
        },
    );
    waited.map_err(|error| format!("{error}; they are {last}").into())
}

/// The service whose replica a pod belongs to, whether requests are sent to it, and its leader.
fn marks(pod: &Value) -> [Value; 3] {
    let metadata = &pod["metadata"];
    [
        metadata["labels"]["bursar.dev/workload"].clone(),
        metadata["labels"][SERVING].clone(),
        metadata["annotations"]["bursar.dev/leader-uid"].clone(),
    ]
}

/// A leader gets requests, and a worker names its leader.
fn is_marked(pod: &Value, leader: &str) -> bool {
    let marks = marks(pod);
    match pod["metadata"]["labels"][INDEX].as_str() {
        Some("0") => marks == [json!(NAME), json!("true"), Value::Null],
        _ => !leader.is_empty() && marks == [json!(NAME), Value::Null, json!(leader)],
    }
}
