//! The operator's own life: looking on, and leaving.

use bursar_e2e::{Access, Cluster, operator, oracle, runner::Outcome};
use jiff::Timestamp;

use crate::support::{at_least, becomes, field, reason, serve, service};

/// `observeOnly` decides and accounts, and changes no workload, Service or EndpointSlice.
pub(crate) fn observes(cluster: &Cluster) -> Outcome {
    const FLAGS: &str = r#""--speedup", "20""#;
    let since = Timestamp::now().to_string();
    operator::install(
        cluster,
        operator::IMAGE,
        &["controller.leaseDuration=6s", "observeOnly=true"],
    )?;
    cluster.apply(&at_least(1, &service("watched", FLAGS, "1h")))?;
    becomes(
        cluster,
        "watched",
        "infd/chat",
        ".status.desiredReplicas",
        "1",
        30,
    )?;
    becomes(
        cluster,
        "watched",
        "infd/chat",
        &reason("PodsHealthy"),
        "ObserveOnly",
        30,
    )?;
    // a pod that somebody else runs for the workload is charged, and its finalizer released
    cluster.apply(BY_HAND)?;
    becomes(
        cluster,
        "watched",
        "pod/by-hand",
        ".status.phase",
        "Running",
        60,
    )?;
    cluster.kubectl(&["-n", "watched", "delete", "pod", "by-hand", "--timeout=30s"])?;
    let spent: f64 = field(cluster, "watched", "infd/chat", ".status.spend.total")?.parse()?;
    let writes = oracle::operator_writes(&cluster.audit_log(), operator::NAMESPACE, &since)?;
    let allowed = |write: &&String| {
        [
            "/status",
            "/events",
            "/spendrecords",
            "/pricelists",
            "/pods/by-hand",
            "/customresourcedefinitions",
        ]
        .iter()
        .any(|part| write.contains(part))
    };
    let others: Vec<&String> = writes.iter().filter(|write| !allowed(write)).collect();
    if !others.is_empty() || spent <= 0.0 {
        return Err(format!("it spent {spent} and wrote {others:#?}").into());
    }
    operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
    becomes(
        cluster,
        "watched",
        "infd/chat",
        ".status.readyReplicas",
        "1",
        60,
    )?;
    cluster.kubectl(&["-n", "watched", "delete", "infd", "chat"])?;
    becomes(
        cluster,
        "watched",
        "pods",
        ".items[*].metadata.name",
        "",
        60,
    )
}

const BY_HAND: &str = r"
apiVersion: v1
kind: Pod
metadata:
  name: by-hand
  namespace: watched
  labels: {bursar.dev/kind: InferenceDeployment, bursar.dev/workload: chat}
spec:
  terminationGracePeriodSeconds: 5
  containers:
    - name: engine
      image: bursar.local/engine:dev
      imagePullPolicy: Never
      resources: {limits: {nvidia.com/gpu: 1}}
";

pub(crate) fn uninstall(cluster: &Cluster) -> Outcome {
    serve(cluster, "leaving", r#""--speedup", "20""#, "1h")?;
    cluster.kubectl(&["-n", "leaving", "scale", "infd/chat", "--replicas=1"])?;
    becomes(
        cluster,
        "leaving",
        "infd/chat",
        ".status.readyReplicas",
        "1",
        60,
    )?;
    operator::uninstall(cluster)?;
    let held = field(cluster, "leaving", "pods", ".items[*].metadata.finalizers")?;
    if held.contains("bursar.dev/spend") {
        return Err(format!("a pod still has its finalizer: {held}").into());
    }
    if field(
        cluster,
        "leaving",
        "deployment/chat",
        ".status.readyReplicas",
    )? != "1"
    {
        return Err("the running replica went with the operator".into());
    }
    cluster.kubectl(&["get", "crd", "spendrecords.bursar.dev"])?;
    cluster.kubectl(&["delete", "namespace", "leaving", "--timeout=55s"])?;
    let records = cluster.kubectl(&["get", "spend", "-o", "name"])?;
    let (path, missing) = (
        std::path::Path::new("leaving.infd.chat"),
        !records.contains("leaving.infd.chat"),
    );
    if missing {
        Err(format!("the record {} went with its namespace", path.display()).into())
    } else {
        Ok(())
    }
}
