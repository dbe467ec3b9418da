//! Pods that others' controllers make and that a targetRef adopts: what Bursar may write on them.

use bursar_e2e::scenario::wait_until;
use serde_json::{Value, json};

use super::{BURSAR, Stage, TENANT, deployment, labels, pod_labels};

/// They get the labels of a replica, or those of a worker with the leader that it has, and lose them again together.
pub(super) fn become_replicas_and_workers(stage: &mut Stage<'_>) {
    let made = deployment("adopted", json!({}), &json!({"app": "adopted"}));
    stage.creation_passes(TENANT, &made);
    let mut pod = String::new();
    let waited = wait_until("a pod of a Deployment to adopt", 30, || {
        let args = ["get", "pods", "-l", "app=adopted", "-o", "name"];
        pod = stage.run(&[], &args)?.trim().to_owned();
        Ok(!pod.is_empty())
    });
    if let Err(error) = waited {
        return stage.problems.push(error.to_string());
    }
    let refused = |stage: &mut Stage<'_>, why: &str, patch: &Value| {
        let patch = patch.to_string();
        stage.refused_to(BURSAR, why, &["patch", &pod, "--type=merge", "-p", &patch]);
    };
    let leader = |uid: &str| json!({"bursar.dev/leader-uid": uid});
    let worker = json!({"metadata": {"labels": labels(), "annotations": leader("a")}});
    let replica = json!({"metadata": {"labels": pod_labels()}});
    let other_leader = json!({"metadata": {"annotations": leader("b")}});
    let neither = json!({"metadata": {"labels": labels()}});
    let both = json!({"metadata": {"labels": pod_labels(), "annotations": leader("a")}});
    let given_back = json!({"metadata": {
        "labels": {"bursar.dev/kind": null, "bursar.dev/workload": null, "bursar.dev/serving": null},
        "annotations": {"bursar.dev/leader-uid": null},
    }});

    refused(stage, "no annotation of pods", &other_leader);
    refused(stage, "no label of pods", &neither);
    refused(stage, "no annotation of pods", &both);
    stage.patch_passes(BURSAR, &pod, &worker);
    refused(stage, "no annotation of pods", &other_leader);
    stage.patch_passes(BURSAR, &pod, &given_back);
    stage.patch_passes(BURSAR, &pod, &replica);
    refused(stage, "no annotation of pods", &other_leader);
    stage.patch_passes(BURSAR, &pod, &given_back);
    let gone = ["delete", "deployment", "adopted", "--timeout=20s"];
    stage.passes(TENANT, &gone);
}
