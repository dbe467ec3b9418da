//! What scenarios share: the service that they apply, waiting, and reading what the cluster says.

use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use bursar_e2e::{Access, Cluster, operator, runner::Outcome, traffic};

/// A service of the test's engine. `flags` are the engine's.
pub(crate) fn service(namespace: &str, flags: &str, idle: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}}}
---
apiVersion: bursar.dev/v1alpha1
kind: InferenceDeployment
metadata: {{name: chat, namespace: {namespace}}}
spec:
  engine: vLLM
  maxReplicas: 4
  scaling:
    signals: [{{type: Engine, target: 4}}]
    behavior: {{scaleDown: {{stabilizationWindowSeconds: 3}}}}
    idle: {{after: {idle}}}
  drain: {{timeout: 15s}}
  template:
    spec:
      terminationGracePeriodSeconds: 10
      containers:
        - name: engine
          image: bursar.local/engine:dev
          imagePullPolicy: Never
          args: [{flags}]
          readinessProbe: {{httpGet: {{path: /health, port: 8000}}, periodSeconds: 1}}
          resources: {{limits: {{nvidia.com/gpu: 1}}}}
"#
    )
}

pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Installs the operator if it is not there yet, and the service; returns the address that clients use.
pub(crate) fn serve(
    cluster: &Cluster,
    namespace: &str,
    flags: &str,
    idle: &str,
) -> Result<SocketAddr, Box<dyn std::error::Error>> {
    operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
    cluster.apply(&service(namespace, flags, idle))?;
    until("the gateways to listen for the service", 30, || {
        let slice = cluster.kubectl(&[
            "-n",
            namespace,
            "get",
            "endpointslice",
            "chat-bursar-gateway",
            "-o",
            "jsonpath={.endpoints[*].addresses[0]}",
        ]);
        Ok(slice.is_ok_and(|addresses| addresses.split_whitespace().count() == 2))
    })?;
    let address = traffic::address("chat", namespace)?;
    // kube-proxy takes a moment to know a new Service
    until("the new Service to take connections", 30, || {
        Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
    })?;
    Ok(address)
}

/// Asks again and again until `done`.
pub(crate) fn until(
    what: &str,
    seconds: u64,
    mut done: impl FnMut() -> Result<bool, Box<dyn std::error::Error>>,
) -> Outcome {
    let began = Instant::now();
    while !done()? {
        if began.elapsed() > Duration::from_secs(seconds) {
            return Err(format!("waited {seconds} s for {what}").into());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

pub(crate) fn field(
    cluster: &Cluster,
    namespace: &str,
    object: &str,
    path: &str,
) -> Result<String, Box<dyn std::error::Error>> {
    Ok(cluster.kubectl(&[
        "-n",
        namespace,
        "get",
        object,
        "-o",
        &format!("jsonpath={{{path}}}"),
    ])?)
}

/// Waits until a field has this value.
pub(crate) fn becomes(
    cluster: &Cluster,
    namespace: &str,
    object: &str,
    path: &str,
    value: &str,
    seconds: u64,
) -> Outcome {
    let mut last = String::new();
    let reached = until(&format!("{object} {path} to be {value:?}"), seconds, || {
        last = field(cluster, namespace, object, path)?;
        Ok(last == value)
    });
    reached.map_err(|error| format!("{error}; it is {last:?}").into())
}

pub(crate) fn all_served(answers: &[traffic::Answer]) -> Outcome {
    let tally = traffic::tally(answers);
    if tally.len() == 1 && tally.contains_key("200") {
        Ok(())
    } else {
        Err(format!("not all were served: {tally:#?}").into())
    }
}

pub(crate) fn gone(cluster: &Cluster, namespace: &str) -> Outcome {
    becomes(
        cluster,
        namespace,
        "pods",
        ".items[*].metadata.name",
        "",
        60,
    )?;
    becomes(
        cluster,
        namespace,
        "infd/chat",
        ".status.spend.ratePerHour",
        "0.0000",
        20,
    )
}

/// A BudgetPolicy called `team`. `rest` is more of its spec, in flow style.
pub(crate) fn budget(namespace: &str, limit: &str, rest: &str) -> String {
    format!(
        "apiVersion: bursar.dev/v1alpha1\nkind: BudgetPolicy\nmetadata: {{name: team, namespace: {namespace}}}\nspec: {{limit: \"{limit}\", \
         period: Monthly{rest}}}\n"
    )
}

/// The service with replicas that stay.
pub(crate) fn at_least(replicas: u32, manifest: &str) -> String {
    let bound = "maxReplicas: 4";
    manifest.replace(bound, &format!("{bound}\n  minReplicas: {replicas}"))
}

/// The path of a condition's reason.
pub(crate) fn reason(condition: &str) -> String {
    format!(".status.conditions[?(@.type==\"{condition}\")].reason")
}
