//! Pods that Bursar did not make: a budget without money evicts them where it is told to.

use bursar_e2e::{
    Cluster, operator,
    runner::ScenarioResult,
    scenario::{self, condition_reason, wait_for_field, wait_until},
};

use bursar_e2e::Access;

const NAMESPACE: &str = "evicted";
/// The notice, and some to be noticed.
const NOTICE_SECONDS: u64 = 330;

/// A notebook that a PodDisruptionBudget protects, and one that the budget exempts.
const PODS: &str = "
---
apiVersion: v1
kind: Pod
metadata: {name: notebook, namespace: evicted, labels: {app: notebook}}
spec:
  terminationGracePeriodSeconds: 5
  containers: [{name: c, image: bursar.local/pause:dev, imagePullPolicy: Never, resources: {limits: {nvidia.com/gpu: 1}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: exempt, namespace: evicted}
spec:
  terminationGracePeriodSeconds: 5
  containers: [{name: c, image: bursar.local/pause:dev, imagePullPolicy: Never, resources: {limits: {nvidia.com/gpu: 1}}}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: guard, namespace: evicted}
spec: {minAvailable: 1, selector: {matchLabels: {app: notebook}}}
";

/// A budget warns pods that Bursar did not make, waits, and evicts them as PodDisruptionBudgets allow.
pub(crate) fn evicts_pods_of_others(cluster: &Cluster) -> ScenarioResult {
    operator::install(
        cluster,
        operator::IMAGE,
        &["controller.leaseDuration=6s", "rbac.evictUnmanaged=true"],
    )?;
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n{PODS}"
    ))?;
    let phase = |pod: &str, phase: &str| {
        let object = format!("pod/{pod}");
        wait_for_field(cluster, NAMESPACE, &object, ".status.phase", phase, 60)
    };
    phase("notebook", "Running")?;
    phase("exempt", "Running")?;
    let rest = ", unmanaged: Evict, exemptOwners: [Pod/exempt]";
    cluster.apply(&scenario::budget_manifest(NAMESPACE, "0.0001", rest))?;
    wait_until("the notebook to be warned", 60, || {
        let reasons = "jsonpath={.items[*].reason}";
        let args = ["-n", NAMESPACE, "get", "events", "-o", reasons];
        Ok(cluster.kubectl(&args)?.contains("EvictionPlanned"))
    })?;
    let reason = condition_reason("UnmanagedEvicted");
    let wait_for_reason = |word: &str, seconds: u64| {
        wait_for_field(cluster, NAMESPACE, "budget/team", &reason, word, seconds)
    };
    wait_for_reason("NoticeGiven", 30)?;
    wait_for_reason("EvictionRefused", NOTICE_SECONDS)?;
    phase("notebook", "Running")?;
    cluster.kubectl(&["-n", NAMESPACE, "delete", "pdb", "guard"])?;
    wait_until("the notebook to be gone", 90, || {
        let names = "jsonpath={.items[*].metadata.name}";
        let pods = cluster.kubectl(&["-n", NAMESPACE, "get", "pods", "-o", names])?;
        Ok(pods.trim() == "exempt")
    })?;
    wait_for_reason("NoneLeft", 30)?;
    let quick = ["delete", "pod", "exempt", "--grace-period=0", "--force"];
    cluster.kubectl(&[&["-n", NAMESPACE], &quick[..]].concat())?;
    cluster
        .kubectl(&["-n", NAMESPACE, "delete", "budget", "team"])
        .map(drop)
        .map_err(Into::into)
}
