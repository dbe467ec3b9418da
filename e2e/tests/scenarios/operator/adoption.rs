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
use serde_json::json;

use crate::example::{Example, run_test_program, set};

/// The label that a replica loses before it leaves.
pub(super) const SERVING: &str = "bursar.dev/serving";
/// What a target has before it is adopted and when it is given back, and at most meanwhile.
const REPLICAS: u32 = 2;
const ENGINE_ARGS: [&str; 4] = ["--speedup", "20", "--on-sigterm", "close"];

/// An example of `examples/adoption`: a workload, its Service and the InferenceDeployment that adopts it, all of one name.
pub(super) struct Target<'a> {
    pub(super) namespace: &'a str,
    /// Its path below `examples`.
    pub(super) example: &'a str,
    pub(super) kind: &'a str,
    pub(super) name: &'a str,
    /// Where the templates of its pods are, as JSON pointers.
    pub(super) templates: &'a [&'a str],
    /// What it keeps at first.
    pub(super) min_replicas: u32,
}

impl Target<'_> {
    pub(super) fn object(&self) -> String {
        format!("{}/{}", self.kind.to_lowercase(), self.name)
    }

    fn service(&self) -> String {
        format!("infd/{}", self.name)
    }

    /// What nobody's operator runs, and what adopts it.
    fn manifests(&self) -> Result<[String; 2], Box<dyn std::error::Error>> {
        let mut example = Example::read(self.example)?;
        let workload = example.object(self.kind)?;
        workload["spec"]["replicas"] = json!(REPLICAS);
        for path in self.templates {
            let template = workload.pointer_mut(path);
            let template = template.ok_or_else(|| format!("the example has no {path}"))?;
            run_test_program(template, "engine", &ENGINE_ARGS);
        }
        let mut adopting = example.take("InferenceDeployment")?;
        adopting["metadata"]["namespace"] = json!(self.namespace);
        let numbers = json!({
            "minReplicas": self.min_replicas,
            "maxReplicas": REPLICAS,
            "scaling": {
                "signals": [{"target": 4}],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 3}},
                "idle": {"after": "1s"},
            },
            "drain": {"timeout": "15s"},
        });
        set(&mut adopting["spec"], &numbers);
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
            "name": self.namespace, "labels": {"bursar.dev/accounting": "exact"},
        }});
        let workload = format!("{namespace}\n---\n{}", example.manifest(self.namespace));
        Ok([workload, adopting.to_string()])
    }

    /// Runs it without Bursar for a while, and has it adopted. Returns the address of its Service, in which gateways are by then, and
    /// the templates of its pods.
    pub(super) fn adopt(
        &self,
        cluster: &Cluster,
    ) -> Result<(SocketAddr, String), Box<dyn std::error::Error>> {
        operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
        let [workload, adopting] = self.manifests()?;
        cluster.apply(&workload)?;
        let wait_for = |object: &str, path: &str, value: &str, seconds| {
            wait_for_field(cluster, self.namespace, object, path, value, seconds)
        };
        wait_for(
            &self.object(),
            ".status.readyReplicas",
            &REPLICAS.to_string(),
            60,
        )?;
        let template = self.templates(cluster)?;
        // longer than a new pod has for its labels: these stay in the account of pods of no workload
        thread::sleep(Duration::from_secs(12));
        cluster.apply(&adopting)?;
        let ready = condition_reason("TargetReady");
        wait_for(&self.service(), &ready, "Adopted", 30)?;
        let drains = condition_reason("ReplicasDrain");
        wait_for(&self.service(), &drains, "SelectorLacksLabel", 30)?;
        // as the condition says: the Service selects by the label that pods of the target have by now
        self.select_serving(cluster, r#""true""#)?;
        wait_for(&self.service(), &drains, "", 40)?;
        Ok((self.address(cluster)?, template))
    }

    /// Has it keep so many replicas.
    pub(super) fn keep(&self, cluster: &Cluster, min_replicas: u32) -> ScenarioResult {
        let patch = format!(r#"{{"spec":{{"minReplicas":{min_replicas}}}}}"#);
        let service = self.service();
        let words = ["-n", self.namespace, "patch", &service, "--type=merge"];
        cluster.kubectl(&[&words[..], &["-p", &patch]].concat())?;
        Ok(())
    }

    /// Sets the value of the label in the Service's selector; `null` takes it out.
    pub(super) fn select_serving(&self, cluster: &Cluster, value: &str) -> ScenarioResult {
        let selector = format!(r#"{{"spec":{{"selector":{{"{SERVING}":{value}}}}}}}"#);
        let patch = ["-n", self.namespace, "patch", "service", self.name, "-p"];
        cluster.kubectl(&[&patch[..], &[&selector]].concat())?;
        Ok(())
    }

    /// The templates of its pods, as they are on the cluster.
    fn templates(&self, cluster: &Cluster) -> Result<String, Box<dyn std::error::Error>> {
        let fields = self.templates.iter().map(|path| path.replace('/', "."));
        let fields = fields.collect::<Vec<_>>().join("}{");
        get_field(cluster, self.namespace, &self.object(), &fields)
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
        if self.templates(cluster)? != template {
            return Err("the pod template is another one".into());
        }
        wait_for_no_pods(cluster, namespace)?;
        // what came after the adoption is charged to the service
        let rate = ".status.spend.ratePerHour";
        wait_for_field(cluster, namespace, &self.service(), rate, "0.0000", 20)?;
        let spent = get_field(cluster, namespace, &self.service(), ".status.spend.total")?;
        match spent.parse::<f64>().is_ok_and(|spent| spent > 0.0) {
            true => Ok(()),
            false => Err(format!("it has run, and {spent:?} was spent").into()),
        }
    }

    /// Deletes the InferenceDeployment, and waits until the target has its replicas and the Service its own endpoints alone.
    pub(super) fn give_back(&self, cluster: &Cluster) -> ScenarioResult {
        let namespace = self.namespace;
        let service = self.service();
        cluster.kubectl(&["-n", namespace, "delete", &service, "--timeout=30s"])?;
        wait_for_field(
            cluster,
            namespace,
            &self.object(),
            ".spec.replicas",
            &REPLICAS.to_string(),
            10,
        )?;
        let slice = self.gateway_slice();
        wait_for_field(
            cluster,
            namespace,
            "endpointslice",
            &format!(r#".items[?(@.metadata.name=="{slice}")].metadata.name"#),
            "",
            30,
        )
    }

    /// Deletes the workload with its pods and its Service.
    pub(super) fn delete(&self, cluster: &Cluster) -> ScenarioResult {
        let object = self.object();
        cluster.kubectl(&["-n", self.namespace, "delete", &object])?;
        cluster.kubectl(&["-n", self.namespace, "delete", "service", self.name])?;
        wait_for_no_pods(cluster, self.namespace)
    }

    fn gateway_slice(&self) -> String {
        format!("{}-bursar-gateway", self.name)
    }

    /// The address of the Service, once gateways are endpoints of it.
    fn address(&self, cluster: &Cluster) -> Result<SocketAddr, Box<dyn std::error::Error>> {
        wait_for_field(
            cluster,
            self.namespace,
            &format!("endpointslice/{}", self.gateway_slice()),
            r".metadata.labels.kubernetes\.io/service-name",
            self.name,
            30,
        )?;
        let service = format!("service/{}", self.name);
        let found = get_field(cluster, self.namespace, &service, ".spec.clusterIP")?;
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
    let target = Target {
        namespace: "adopted",
        example: "adoption/deployment",
        kind: "Deployment",
        name: "vllm",
        templates: &["/spec/template"],
        min_replicas: 0,
    };
    through_zero(cluster, &target, &[0, 2, 4, 5, 6, 7, 8, 10, 6, 5])
}

/// A StatefulSet, whose highest ordinal goes first. Its replicas find their volumes again.
pub(crate) fn of_a_stateful_set(cluster: &Cluster) -> ScenarioResult {
    let target = Target {
        namespace: "adopted-set",
        example: "adoption/stateful-set",
        kind: "StatefulSet",
        name: "vllm-set",
        templates: &["/spec/template"],
        min_replicas: 0,
    };
    cluster.apply(&volumes(cluster))?;
    through_zero(cluster, &target, &[0, 4, 6, 8])
}

/// A volume for each replica: the cluster makes none.
fn volumes(cluster: &Cluster) -> String {
    let volume = |number| {
        let path = cluster.run_directory().join(format!("volume-{number}"));
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("models-{number}")},
            "spec": {
                "capacity": {"storage": "100Gi"}, "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": path, "type": "DirectoryOrCreate"},
            },
        });
        format!("{volume}\n---\n")
    };
    (0..REPLICAS).map(volume).collect()
}

fn through_zero(cluster: &Cluster, target: &Target, gaps: &[u64]) -> ScenarioResult {
    let (address, template) = target.adopt(cluster)?;
    serves_bursts(address, gaps)?;
    target.rests(cluster, &template)?;
    target.give_back(cluster)?;
    target.delete(cluster)
}
