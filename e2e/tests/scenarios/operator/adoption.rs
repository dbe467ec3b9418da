//! Workloads that exist, with a Service of their own, are scaled by `targetRef`: none of their requests is lost on
//! the way to zero and back, and they are given back as they were.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use bursar_e2e::{
    Access, Cluster, operator,
    runner::ScenarioResult,
    scenario::{
        client_runtime, condition_reason, expect_all_ok, get_field, wait_for_field,
        wait_for_no_pods, wait_until,
    },
    traffic::{self, Answer},
};

/// The label that a replica loses before it leaves.
pub(super) const SERVING: &str = "bursar.dev/serving";

/// A workload `old` with two replicas, its Service `old`, and the InferenceDeployment `chat` that adopts it.
pub(super) struct Target<'a> {
    pub(super) namespace: &'a str,
    pub(super) api_version: &'a str,
    pub(super) kind: &'a str,
    /// Where its pods' templates are.
    pub(super) template: &'a str,
    /// The labels that its Service selects, in flow style.
    pub(super) selector: &'a str,
    /// Its spec but for the replicas, in flow style.
    pub(super) spec: String,
    /// What it keeps at first.
    pub(super) min_replicas: u32,
}

/// A pod of an engine, in flow style.
pub(super) const ENGINE: &str = r#"{
  terminationGracePeriodSeconds: 10,
  containers: [{
    name: engine, image: "bursar.local/engine:dev", imagePullPolicy: Never,
    args: ["--speedup", "20", "--on-sigterm", "close"],
    ports: [{name: web, containerPort: 8000}],
    readinessProbe: {httpGet: {path: /health, port: 8000}, periodSeconds: 1},
    resources: {limits: {nvidia.com/gpu: 1}}}]}"#;

impl Target<'_> {
    pub(super) fn object(&self) -> String {
        format!("{}/old", self.kind.to_lowercase())
    }

    /// What nobody's operator runs.
    fn workload(&self) -> String {
        let Self {
            namespace,
            api_version,
            kind,
            selector,
            spec,
            ..
        } = self;
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
  selector: {selector}
  ports: [{{name: api, port: 80, targetPort: web}}]
---
apiVersion: {api_version}
kind: {kind}
metadata: {{name: old, namespace: {namespace}}}
spec: {{replicas: 2, {spec}}}
"#
        )
    }

    fn adopting(&self) -> String {
        let Self {
            namespace,
            api_version,
            kind,
            min_replicas,
            ..
        } = self;
        format!(
            r#"
apiVersion: bursar.dev/v1alpha1
kind: InferenceDeployment
metadata: {{name: chat, namespace: {namespace}}}
spec:
  engine: vLLM
  minReplicas: {min_replicas}
  maxReplicas: 2
  targetRef: {{apiVersion: {api_version}, kind: {kind}, name: old}}
  serviceRef: {{name: old}}
  scaling:
    signals: [{{type: Engine, target: 4}}]
    behavior: {{scaleDown: {{stabilizationWindowSeconds: 3}}}}
    idle: {{after: 1s}}
  drain: {{timeout: 15s}}
"#
        )
    }

    /// Runs it without Bursar for a while, and has it adopted. Returns the address of its Service, in which gateways are by then, and
    /// the templates of its pods.
    pub(super) fn adopt(
        &self,
        cluster: &Cluster,
    ) -> Result<(SocketAddr, String), Box<dyn std::error::Error>> {
        operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
        cluster.apply(&self.workload())?;
        let wait_for = |object: &str, path: &str, value: &str, seconds| {
            wait_for_field(cluster, self.namespace, object, path, value, seconds)
        };
        wait_for(&self.object(), ".status.readyReplicas", "2", 60)?;
        let template = self.template(cluster)?;
        // longer than a new pod has for its labels: these stay in the account of pods of no workload
        thread::sleep(Duration::from_secs(12));
        cluster.apply(&self.adopting())?;
        let ready = condition_reason("TargetReady");
        wait_for("infd/chat", &ready, "Adopted", 30)?;
        let drains = condition_reason("ReplicasDrain");
        wait_for("infd/chat", &drains, "SelectorLacksLabel", 30)?;
        // as the condition says: the Service selects by the label that pods of the target have by now
        self.select_serving(cluster, r#""true""#)?;
        wait_for("infd/chat", &drains, "", 40)?;
        Ok((self.address(cluster)?, template))
    }

    /// Has it keep so many replicas.
    pub(super) fn keep(&self, cluster: &Cluster, min_replicas: u32) -> ScenarioResult {
        let patch = format!(r#"{{"spec":{{"minReplicas":{min_replicas}}}}}"#);
        let words = [
            "-n",
            self.namespace,
            "patch",
            "infd",
            "chat",
            "--type=merge",
        ];
        cluster.kubectl(&[&words[..], &["-p", &patch]].concat())?;
        Ok(())
    }

    /// Sets the value of the label in the Service's selector; `null` takes it out.
    pub(super) fn select_serving(&self, cluster: &Cluster, value: &str) -> ScenarioResult {
        let selector = format!(r#"{{"spec":{{"selector":{{"{SERVING}":{value}}}}}}}"#);
        let patch = ["-n", self.namespace, "patch", "service", "old", "-p"];
        cluster.kubectl(&[&patch[..], &[&selector]].concat())?;
        Ok(())
    }

    fn template(&self, cluster: &Cluster) -> Result<String, Box<dyn std::error::Error>> {
        get_field(cluster, self.namespace, &self.object(), self.template)
    }

    /// Waits until it is at zero, with its templates as they were and what it has cost in the account of the service.
    pub(super) fn rests(&self, cluster: &Cluster, template: &str) -> ScenarioResult {
        let namespace = self.namespace;
        wait_for_field(
            cluster,
            namespace,
            &self.object(),
            ".spec.replicas",
            "0",
            60,
        )?;
        if self.template(cluster)? != template {
            return Err("the pod template is another one".into());
        }
        wait_for_no_pods(cluster, namespace)?;
        // what came after the adoption is charged to the service
        let rate = ".status.spend.ratePerHour";
        wait_for_field(cluster, namespace, "infd/chat", rate, "0.0000", 20)?;
        let spent = get_field(cluster, namespace, "infd/chat", ".status.spend.total")?;
        match spent.parse::<f64>().is_ok_and(|spent| spent > 0.0) {
            true => Ok(()),
            false => Err(format!("it has run, and {spent:?} was spent").into()),
        }
    }

    /// Deletes the InferenceDeployment, and waits until the target has its replicas and the Service its own endpoints alone.
    pub(super) fn give_back(&self, cluster: &Cluster) -> ScenarioResult {
        let namespace = self.namespace;
        cluster.kubectl(&["-n", namespace, "delete", "infd", "chat", "--timeout=30s"])?;
        wait_for_field(
            cluster,
            namespace,
            &self.object(),
            ".spec.replicas",
            "2",
            10,
        )?;
        wait_for_field(
            cluster,
            namespace,
            "endpointslice",
            r#".items[?(@.metadata.name=="chat-bursar-gateway")].metadata.name"#,
            "",
            30,
        )
    }

    /// Deletes the workload with its pods and its Service.
    pub(super) fn delete(&self, cluster: &Cluster) -> ScenarioResult {
        let object = self.object();
        cluster.kubectl(&["-n", self.namespace, "delete", &object, "service/old"])?;
        wait_for_no_pods(cluster, self.namespace)
    }

    /// The address of the Service, once gateways are endpoints of it.
    fn address(&self, cluster: &Cluster) -> Result<SocketAddr, Box<dyn std::error::Error>> {
        wait_for_field(
            cluster,
            self.namespace,
            "endpointslice/chat-bursar-gateway",
            r".metadata.labels.kubernetes\.io/service-name",
            "old",
            30,
        )?;
        let found = get_field(cluster, self.namespace, "service/old", ".spec.clusterIP")?;
        let address: SocketAddr = format!("{found}:80").parse()?;
        wait_until("the Service to take connections", 30, || {
            Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
        })?;
        Ok(address)
    }
}

/// Bursts of a hundred requests, with gaps of so many seconds before each: all are served.
pub(super) fn serves_bursts(address: SocketAddr, gaps: &[u64]) -> ScenarioResult {
    let mut answers: Vec<Answer> = Vec::new();
    let runtime = client_runtime()?;
    for gap in gaps {
        thread::sleep(Duration::from_secs(*gap));
        let burst = traffic::burst(address, 100, Duration::from_millis(10), 4);
        answers.extend(runtime.block_on(burst));
    }
    expect_all_ok(&answers)
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
    let target = Target {
        namespace,
        api_version: "apps/v1",
        kind,
        template: ".spec.template",
        selector: "{app: old}",
        spec: format!(
            "selector: {{matchLabels: {{app: old}}}}, template: {{metadata: {{labels: {{app: old}}}}, spec: {ENGINE}}}"
        ),
        min_replicas: 0,
    };
    let (address, template) = target.adopt(cluster)?;
    serves_bursts(address, gaps)?;
    target.rests(cluster, &template)?;
    target.give_back(cluster)?;
    target.delete(cluster)
}
