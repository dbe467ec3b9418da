//! KEDA's own operator and metrics server behind the external metrics API: a signal of type `External` reads what KEDA's scalers read.

use std::{error::Error, net::TcpStream, process::Command, thread, time::Duration};

use bursar_e2e::{
    Access, Cluster, NodeOptions,
    addons::Addon,
    control_plane, operator, process,
    program::Program,
    runner::{Images, Scenario, ScenarioResult, Suite},
    scenario::{get_field, wait_for_field, wait_until},
    servers::{self, redis},
};

const NAMESPACE: &str = "scalers";
/// Where Redis listens, for KEDA's operator alone.
const HOST: &str = control_plane::ADDRESS;
const PORT: u16 = 26_379;
const SERVICE: &str = "infd/transcribe";
/// The status of the condition `SignalsAvailable`, and a part of its message.
const IS_READ: (&str, &str) = ("True", "every signal can be read");
const CANNOT_BE_READ: (&str, &str) = (
    "False",
    "external metric s0-redis-jobs: the API server answers",
);
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn suite() -> Suite {
    Suite {
        name: "keda",
        nodes: vec![NodeOptions::h100(2)],
        gang_scheduling: false,
        images: Images::Loaded,
        addons: &[Addon::Keda],
        setup: Some(servers::setup),
        scenarios: vec![Scenario::new(
            "a_scaler_of_keda_starts_and_ends_workers_without_a_request",
            10,
            starts_and_ends_workers,
        )],
    }
}

/// What KEDA scales until it is paused: nothing that costs.
const SCALED_OBJECT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: placeholder, namespace: @NAMESPACE@}
spec:
  replicas: 0
  selector: {matchLabels: {app: placeholder}}
  template:
    metadata: {labels: {app: placeholder}}
    spec: {containers: [{name: pause, image: "bursar.local/pause:dev", imagePullPolicy: Never}]}
---
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: jobs, namespace: @NAMESPACE@}
spec:
  scaleTargetRef: {name: placeholder}
  maxReplicaCount: 1
  triggers:
    - {type: redis, metadata: {address: "@ADDRESS@", listName: jobs, listLength: "2"}}
"#;

/// Workers without an engine, at most two, that follow the first trigger of the ScaledObject `jobs`.
const WORKERS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: @NAMESPACE@}
---
apiVersion: bursar.dev/v1alpha1
kind: InferenceDeployment
metadata: {name: transcribe, namespace: @NAMESPACE@}
spec:
  engine: None
  maxReplicas: 2
  scaling:
    idle: {after: 2s}
    behavior: {scaleDown: {stabilizationWindowSeconds: 2}}
    signals:
      - type: External
        target: 2
        pollingInterval: 1s
        external:
          metricName: s0-redis-jobs
          selector: {matchLabels: {scaledobject.keda.sh/name: jobs}}
  template:
    spec:
      terminationGracePeriodSeconds: 2
      containers:
        - name: worker
          image: bursar.local/engine:dev
          imagePullPolicy: Never
          resources: {limits: {nvidia.com/gpu: 1}}
"#;

fn filled(manifests: &str) -> String {
    let address = format!("{HOST}:{PORT}");
    (manifests.replace("@NAMESPACE@", NAMESPACE)).replace("@ADDRESS@", &address)
}

/// A list that KEDA reads takes workers from zero to two and back. Without the ScaledObject, and without its server, the condition says
/// which metric is not known, and no worker goes.
fn starts_and_ends_workers(cluster: &Cluster) -> ScenarioResult {
    Addon::Keda.install(cluster)?;
    operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
    cluster.apply(&filled(WORKERS))?;
    wait_for_condition(cluster, CANNOT_BE_READ)?;
    cluster.apply(&filled(SCALED_OBJECT))?;
    let server = redis_server(cluster)?;
    wait_for_condition(cluster, IS_READ)?;
    wait_for_workers(cluster, 0)?;
    // its metric is served while it scales nothing, as for somebody who moves from it
    let paused = "autoscaling.keda.sh/paused=true";
    cluster.kubectl(&["-n", NAMESPACE, "annotate", "scaledobject", "jobs", paused])?;
    let path = r#".status.conditions[?(@.type=="Paused")].status"#;
    wait_for_field(cluster, NAMESPACE, "scaledobject/jobs", path, "True", 60)?;
    let placeholder = || {
        get_field(
            cluster,
            NAMESPACE,
            "deployment/placeholder",
            ".metadata.generation",
        )
    };
    let generation = placeholder()?;
    push(&["a", "b", "c"])?;
    wait_for_workers(cluster, 2)?;

    drop(server);
    wait_for_condition(cluster, CANNOT_BE_READ)?;
    // longer than an empty list would need to take them away
    thread::sleep(Duration::from_secs(20));
    wait_for_workers(cluster, 2)?;
    // it comes back with an empty list
    let _server = redis_server(cluster)?;
    wait_for_condition(cluster, IS_READ)?;
    wait_for_workers(cluster, 0)?;
    match placeholder()? == generation {
        true => Ok(()),
        false => Err("KEDA has scaled while it was paused".into()),
    }
}

fn redis_server(cluster: &Cluster) -> Result<Program, Box<dyn Error>> {
    let command = redis::server(
        cluster.run_directory(),
        HOST,
        PORT,
        redis::Options::default(),
    )?;
    let mut server = Program::start(cluster, "redis", &command)?;
    wait_until("Redis to listen", 60, || {
        server.check()?;
        Ok(TcpStream::connect((HOST, PORT)).is_ok())
    })?;
    Ok(server)
}

/// Appends jobs to the list.
fn push(jobs: &[&str]) -> ScenarioResult {
    let mut client: Command = redis::client(HOST, PORT)?;
    client.args(["RPUSH", "jobs"]).args(jobs);
    process::run(&mut client, LIMIT)?;
    Ok(())
}

/// Waits until the condition has this status, and its message these words.
fn wait_for_condition(cluster: &Cluster, (status, words): (&str, &str)) -> ScenarioResult {
    let condition = r#".status.conditions[?(@.type=="SignalsAvailable")]"#;
    let path = format!("{condition}['status','message']");
    let mut last = String::new();
    let waited = wait_until(
        &format!("SignalsAvailable to be {status}: {words}"),
        30,
        || {
            last = get_field(cluster, NAMESPACE, SERVICE, &path)?;
            Ok(last.starts_with(status) && last.contains(words))
        },
    );
    waited.map_err(|error| format!("{error}; it is {last:?}").into())
}

fn wait_for_workers(cluster: &Cluster, count: usize) -> ScenarioResult {
    wait_until(&format!("{count} workers"), 60, || {
        let label = "bursar.dev/workload=transcribe";
        let names = ["-n", NAMESPACE, "get", "pods", "-l", label, "-o", "name"];
        Ok(cluster.kubectl(&names)?.lines().count() == count)
    })
}
