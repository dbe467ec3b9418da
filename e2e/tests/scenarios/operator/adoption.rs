//! Workloads that exist, with a Service of their own, are scaled by `targetRef`: none of their requests is lost on
//! the way to zero and back, and they are given back as they were.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bursar_e2e::{
    Access, Cluster, operator,
    runner::ScenarioResult,
    scenario::{
        client_runtime, expect_all_ok, get_field, wait_for_field, wait_for_no_pods, wait_until,
    },
    traffic::{self, Answer},
};

/// The label that a replica loses before it leaves.
const SERVING: &str = "bursar.dev/serving";

/// A workload of this kind with two replicas, and its Service: nobody's operator runs them.
fn workload(namespace: &str, kind: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}, labels: {{bursar.dev/accounting: exact}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: old, namespace: {namespace}}}
spec:
  selector: {{app: old}}
  ports: [{{name: api, port: 80, targetPort: web}}]
---
apiVersion: apps/v1
kind: {kind}
metadata: {{name: old, namespace: {namespace}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: old}}}}
  template:
    metadata: {{labels: {{app: old}}}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
        - name: engine
          image: bursar.local/engine:dev
          imagePullPolicy: Never
          args: ["--speedup", "20", "--on-sigterm", "close"]
          ports: [{{name: web, containerPort: 8000}}]
          readinessProbe: {{httpGet: {{path: /health, port: 8000}}, periodSeconds: 1}}
          resources: {{limits: {{nvidia.com/gpu: 1}}}}
"#
    )
}

fn adopting(namespace: &str, kind: &str) -> String {
    format!(
        r#"
apiVersion: bursar.dev/v1alpha1
kind: InferenceDeployment
metadata: {{name: chat, namespace: {namespace}}}
spec:
  engine: vLLM
  maxReplicas: 2
  targetRef: {{apiVersion: apps/v1, kind: {kind}, name: old}}
  serviceRef: {{name: old}}
  scaling:
    signals: [{{type: Engine, target: 4}}]
    behavior: {{scaleDown: {{stabilizationWindowSeconds: 3}}}}
    idle: {{after: 1s}}
  drain: {{timeout: 15s}}
"#
    )
}

/// A Deployment: a thousand requests in bursts with gaps in which it goes to zero, is draining, or has just gone.
pub(crate) fn of_a_deployment(cluster: &Cluster) -> ScenarioResult {
    through_zero(
        cluster,
        "adopted",
        "Deployment",
        &[0, 2, 4, 5, 6, 7, 8, 10, 6, 5],
    )
}

/// A StatefulSet, whose highest ordinal goes first.
pub(crate) fn of_a_stateful_set(cluster: &Cluster) -> ScenarioResult {
    through_zero(cluster, "adopted-set", "StatefulSet", &[0, 4, 6, 8])
}

fn through_zero(cluster: &Cluster, namespace: &str, kind: &str, gaps: &[u64]) -> ScenarioResult {
    operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
    cluster.apply(&workload(namespace, kind))?;
    let target = format!("{}/old", kind.to_lowercase());
    wait_for_field(
        cluster,
        namespace,
        &target,
        ".status.readyReplicas",
        "2",
        60,
    )?;
    let spec = || get_field(cluster, namespace, &target, ".spec.template");
    let before = spec()?;
    // longer than a new pod has for its labels: these stay in the account of pods of no workload
    std::thread::sleep(Duration::from_secs(12));
    cluster.apply(&adopting(namespace, kind))?;
    let ready = r#".status.conditions[?(@.type=="TargetReady")].reason"#;
    wait_for_field(cluster, namespace, "infd/chat", ready, "Adopted", 30)?;
    let drains = r#".status.conditions[?(@.type=="ReplicasDrain")].reason"#;
    wait_for_field(
        cluster,
        namespace,
        "infd/chat",
        drains,
        "SelectorLacksLabel",
        30,
    )?;
    // as the condition says: the Service selects by the label that pods of the target have by now
    let selector = format!(r#"{{"spec":{{"selector":{{"{SERVING}":"true"}}}}}}"#);
    cluster.kubectl(&["-n", namespace, "patch", "service", "old", "-p", &selector])?;
    wait_for_field(cluster, namespace, "infd/chat", drains, "", 40)?;
    let address = address(cluster, namespace)?;
    let mut answers: Vec<Answer> = Vec::new();
    let runtime = client_runtime()?;
    for gap in gaps {
        std::thread::sleep(Duration::from_secs(*gap));
        let burst = traffic::burst(address, 100, Duration::from_millis(10), 4);
        answers.extend(runtime.block_on(burst));
    }
    expect_all_ok(&answers)?;
    wait_for_field(cluster, namespace, &target, ".spec.replicas", "0", 60)?;
    if spec()? != before {
        return Err("the pod template is another one".into());
    }
    wait_for_no_pods(cluster, namespace)?;
    // what came after the adoption is charged to the service
    let rate = ".status.spend.ratePerHour";
    wait_for_field(cluster, namespace, "infd/chat", rate, "0.0000", 20)?;
    let spent = get_field(cluster, namespace, "infd/chat", ".status.spend.total")?;
    if !spent.parse::<f64>().is_ok_and(|spent| spent > 0.0) {
        return Err(format!("it has run, and {spent:?} was spent").into());
    }
    cluster.kubectl(&["-n", namespace, "delete", "infd", "chat", "--timeout=30s"])?;
    wait_for_field(cluster, namespace, &target, ".spec.replicas", "2", 10)?;
    wait_for_field(
        cluster,
        namespace,
        "endpointslice",
        r#".items[?(@.metadata.name=="chat-bursar-gateway")].metadata.name"#,
        "",
        30,
    )?;
    cluster.kubectl(&["-n", namespace, "delete", &target, "service/old"])?;
    wait_for_no_pods(cluster, namespace)
}

/// The address of the Service, once gateways are endpoints of it.
fn address(cluster: &Cluster, namespace: &str) -> Result<SocketAddr, Box<dyn std::error::Error>> {
    wait_for_field(
        cluster,
        namespace,
        "endpointslice/chat-bursar-gateway",
        r".metadata.labels.kubernetes\.io/service-name",
        "old",
        30,
    )?;
    let found = get_field(cluster, namespace, "service/old", ".spec.clusterIP")?;
    let address: SocketAddr = format!("{found}:80").parse()?;
    wait_until("the Service to take connections", 30, || {
        Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
    })?;
    Ok(address)
}
