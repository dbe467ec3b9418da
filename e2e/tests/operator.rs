//! Bursar on a real cluster, installed by helm: scaling, waking, budgets, the ledger, and leaving.

use std::{
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use bursar_e2e::{
    Cluster, NodeOptions, Options,
    image::{self, Program},
    operator, oracle,
    runner::{self, Outcome, Scenario},
    traffic,
};

/// Nano-units an hour of the node that the harness shows, as the default price list has it: p5.48xlarge, on demand, 8 GPUs.
const NODE_PRICE: i128 = 55_040_000_000;
const NODE_GPUS: i128 = 8;

fn main() -> ExitCode {
    let minutes = |count: u64| Duration::from_secs(60 * count);
    let scenarios = [
        Scenario {
            name: "replicas_follow_the_queue_depth_and_go_to_zero_when_idle",
            limit: minutes(3),
            run: scaling,
        },
        Scenario {
            name: "a_thousand_requests_through_zero_and_back_are_all_served",
            limit: minutes(6),
            run: through_zero,
        },
        Scenario {
            name: "an_exhausted_budget_stops_a_service_within_its_limit",
            limit: minutes(4),
            run: budget,
        },
        Scenario {
            name: "a_gang_is_suspended_by_the_budget_and_loses_no_step",
            limit: minutes(4),
            run: training,
        },
        Scenario {
            name: "requests_wait_while_the_controllers_are_down",
            limit: minutes(3),
            run: controllers_down,
        },
        Scenario {
            name: "trouble_at_run_time_is_named_and_stops_nothing_else",
            limit: minutes(3),
            run: trouble,
        },
        Scenario {
            name: "at_rest_the_operator_writes_nothing",
            limit: minutes(4),
            run: rest,
        },
        Scenario {
            name: "the_ledger_equals_the_audit_log_to_the_nano_unit",
            limit: minutes(2),
            run: ledger,
        },
        Scenario {
            name: "uninstalling_leaves_nothing_stuck",
            limit: minutes(5),
            run: uninstall,
        },
    ];
    runner::main(
        || {
            let images = image::from_checkout(&Program::ALL)?;
            Ok(Options {
                nodes: vec![NodeOptions::h100(8)],
                images,
                ..Options::new("operator")
            })
        },
        &scenarios,
    )
}

/// A service of the test's engine. `flags` are the engine's.
fn service(namespace: &str, flags: &str, idle: &str) -> String {
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

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Installs the operator if it is not there yet, and the service; returns the address that clients use.
fn serve(
    cluster: &Cluster,
    namespace: &str,
    flags: &str,
    idle: &str,
) -> Result<SocketAddr, Box<dyn std::error::Error>> {
    operator::install(cluster, &["controller.leaseDuration=6s"])?;
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
fn until(
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

fn field(
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
fn becomes(
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

fn all_served(answers: &[traffic::Answer]) -> Outcome {
    let tally = traffic::tally(answers);
    if tally.len() == 1 && tally.contains_key("200") {
        Ok(())
    } else {
        Err(format!("not all were served: {tally:#?}").into())
    }
}

fn gone(cluster: &Cluster, namespace: &str) -> Outcome {
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

fn scaling(cluster: &Cluster) -> Outcome {
    let address = serve(cluster, "scaling", r#""--startup-delay", "1s""#, "5s")?;
    let answers = runtime()?.block_on(traffic::burst(address, 24, Duration::from_millis(20), 60));
    all_served(&answers)?;
    let events = cluster.kubectl(&[
        "-n",
        "scaling",
        "get",
        "events",
        "-o",
        "jsonpath={.items[*].message}",
    ])?;
    if !events.contains("from 0 to 1") && !events.contains("from 0 to 4") {
        return Err(format!("it was not woken: {events}").into());
    }
    if !events.contains("to 4") {
        return Err(
            format!("24 requests at 4 a replica did not bring 4 replicas: {events}").into(),
        );
    }
    gone(cluster, "scaling")
}

/// Bursts with gaps in which the service goes to zero, is draining, or has just gone.
fn through_zero(cluster: &Cluster) -> Outcome {
    let flags = r#""--speedup", "20", "--on-sigterm", "close""#;
    let address = serve(cluster, "zero", flags, "1s")?;
    let mut answers = Vec::new();
    let runtime = runtime()?;
    for gap in [0, 2, 4, 5, 6, 7, 8, 10, 6, 5] {
        std::thread::sleep(Duration::from_secs(gap));
        answers.extend(runtime.block_on(traffic::burst(
            address,
            100,
            Duration::from_millis(10),
            4,
        )));
    }
    all_served(&answers)?;
    gone(cluster, "zero")
}

fn budget(cluster: &Cluster) -> Outcome {
    let address = serve(cluster, "budget", r#""--speedup", "20""#, "1h")?;
    let limit = |amount: &str| {
        format!(
            "apiVersion: bursar.dev/v1alpha1\nkind: BudgetPolicy\nmetadata: {{name: team, namespace: budget}}\nspec: {{limit: \"{amount}\", \
             period: Monthly, minimumUsefulRun: 10s}}\n"
        )
    };
    // 6.88 an hour: 0.0669 to stop (15 s of drain, 10 s of grace, 10 s of slack) and 0.0191 for ten seconds, and some to run
    cluster.apply(&limit("0.13"))?;
    becomes(
        cluster,
        "budget",
        "budget/team",
        ".status.phase",
        "Active",
        20,
    )?;
    let runtime = runtime()?;
    all_served(&runtime.block_on(traffic::burst(address, 1, Duration::ZERO, 4)))?;
    becomes(
        cluster,
        "budget",
        "budget/team",
        ".status.phase",
        "Exhausted",
        60,
    )?;
    becomes(
        cluster,
        "budget",
        "infd/chat",
        ".status.limitedBy",
        "Budget",
        20,
    )?;
    gone(cluster, "budget")?;
    let refused = runtime.block_on(traffic::complete(address, 4));
    if refused.status != Some(429) || !refused.text.contains("insufficient_quota") {
        return Err(format!("a request that the budget keeps out got {refused:?}").into());
    }
    let spent: f64 = field(cluster, "budget", "infd/chat", ".status.spend.total")?.parse()?;
    if spent <= 0.0 || spent > 0.13 {
        return Err(format!("{spent} of 0.13 were spent").into());
    }
    cluster.apply(&limit("5"))?;
    becomes(
        cluster,
        "budget",
        "budget/team",
        ".status.phase",
        "Active",
        20,
    )?;
    until("the service to take requests again", 20, || {
        Ok(field(cluster, "budget", "infd/chat", ".status.activation.refusal")?.is_empty())
    })?;
    all_served(&runtime.block_on(traffic::burst(address, 3, Duration::ZERO, 4)))?;
    cluster.kubectl(&["-n", "budget", "delete", "infd", "chat"])?;
    becomes(cluster, "budget", "pods", ".items[*].metadata.name", "", 60)
}

fn controllers_down(cluster: &Cluster) -> Outcome {
    let address = serve(cluster, "outage", r#""--speedup", "20""#, "4s")?;
    // one that ends while nobody looks
    cluster.apply(
        &service("unseen", r#""--speedup", "20""#, "1h")
            .replace("maxReplicas: 4", "maxReplicas: 4\n  minReplicas: 1"),
    )?;
    becomes(
        cluster,
        "unseen",
        "infd/chat",
        ".status.readyReplicas",
        "1",
        60,
    )?;
    kill_controllers(cluster)?;
    cluster.kubectl(&[
        "-n",
        operator::NAMESPACE,
        "scale",
        "deployment/bursar-controller",
        "--replicas=0",
    ])?;
    becomes(
        cluster,
        operator::NAMESPACE,
        "deployment/bursar-controller",
        ".status.replicas",
        "",
        60,
    )?;
    cluster.kubectl(&["-n", "unseen", "delete", "pod", "--all", "--wait=false"])?;
    let held = std::thread::spawn(move || {
        runtime().map(|runtime| runtime.block_on(traffic::burst(address, 10, Duration::ZERO, 4)))
    });
    until("the pod to end while the controllers are down", 60, || {
        Ok(field(cluster, "unseen", "pods", ".items[*].status.phase")?
            .split(' ')
            .any(|phase| matches!(phase, "Failed" | "Succeeded")))
    })?;
    cluster.kubectl(&[
        "-n",
        operator::NAMESPACE,
        "scale",
        "deployment/bursar-controller",
        "--replicas=2",
    ])?;
    all_served(&held.join().map_err(|_| "the clients ended")??)?;
    cluster.kubectl(&["-n", "unseen", "delete", "infd", "chat"])?;
    becomes(cluster, "unseen", "pods", ".items[*].metadata.name", "", 60)?;
    gone(cluster, "outage")
}

/// SIGKILL to both replicas, which no shutdown handler sees.
fn kill_controllers(cluster: &Cluster) -> Outcome {
    let ids = ".items[*].status.containerStatuses[0].containerID";
    let ids = cluster.kubectl(&[
        "-n",
        operator::NAMESPACE,
        "get",
        "pods",
        "-l",
        "app.kubernetes.io/component=controller",
        "-o",
        &format!("jsonpath={{{ids}}}"),
    ])?;
    let killed: usize = ids
        .split_whitespace()
        .map(|id| cluster.kill_container(id))
        .sum();
    if killed == 0 {
        Err(format!("no process of {ids:?} was killed").into())
    } else {
        Ok(())
    }
}

fn trouble(cluster: &Cluster) -> Outcome {
    serve(cluster, "trouble", r#""--speedup", "20""#, "1h")?;
    let always =
        |manifest: String| manifest.replace("maxReplicas: 4", "maxReplicas: 4\n  minReplicas: 1");
    let named =
        |manifest: String, name: &str| manifest.replace("name: chat", &format!("name: {name}"));
    let base = || always(service("trouble", r#""--speedup", "20""#, "1h"));
    // an image that is not there, metrics that nobody serves, GPUs that no list prices
    cluster.apply(&named(base(), "image").replace("engine:dev", "none:dev"))?;
    let deaf = base()
        .replace("bursar.local/engine:dev", "bursar.local/pause:dev")
        .replace(
            "readinessProbe: {httpGet: {path: /health, port: 8000}, periodSeconds: 1}",
            "",
        );
    cluster.apply(&named(deaf, "deaf").replace(r#"args: ["--speedup", "20"]"#, ""))?;
    let limit = "apiVersion: bursar.dev/v1alpha1\nkind: BudgetPolicy\nmetadata: {name: team, namespace: trouble}\nspec: {limit: \"100\", period: Monthly}\n";
    cluster.apply(limit)?;
    cluster.apply(&named(base(), "priceless").replace("nvidia.com/gpu", "amd.com/gpu"))?;
    let reason = |kind: &str| format!(".status.conditions[?(@.type==\"{kind}\")].reason");
    becomes(
        cluster,
        "trouble",
        "infd/image",
        &reason("PodsHealthy"),
        "PodStuck",
        60,
    )?;
    becomes(
        cluster,
        "trouble",
        "infd/deaf",
        &reason("SignalsAvailable"),
        "SignalUnknown",
        60,
    )?;
    becomes(
        cluster,
        "trouble",
        "infd/priceless",
        &reason("Priced"),
        "PriceUnknown",
        30,
    )?;
    becomes(
        cluster,
        "trouble",
        "infd/priceless",
        ".status.limitedBy",
        "PriceUnknown",
        10,
    )?;
    for (object, event) in [
        ("image", "PodStuck"),
        ("deaf", "SignalUnknown"),
        ("priceless", "PriceUnknown"),
    ] {
        until(&format!("an Event {event} on {object}"), 20, || {
            let events = cluster.kubectl(&[
                "-n",
                "trouble",
                "get",
                "events",
                "--field-selector",
                &format!("involvedObject.name={object},reason={event}"),
                "-o",
                "name",
            ])?;
            Ok(!events.is_empty())
        })?;
    }
    // its neighbour works
    let address = traffic::address("chat", "trouble")?;
    all_served(&runtime()?.block_on(traffic::burst(address, 3, Duration::ZERO, 4)))?;
    cluster.kubectl(&["-n", "trouble", "delete", "infd", "--all"])?;
    becomes(
        cluster,
        "trouble",
        "pods",
        ".items[*].metadata.name",
        "",
        90,
    )
}

fn rest(cluster: &Cluster) -> Outcome {
    operator::install(cluster, &["controller.leaseDuration=6s"])?;
    cluster.apply(&service("resting", r#""--speedup", "20""#, "2s"))?;
    becomes(
        cluster,
        "resting",
        "infd/chat",
        ".status.activation.port",
        "20000",
        20,
    )
    .or_else(|_| {
        until("a port for the service", 20, || {
            Ok(!field(cluster, "resting", "infd/chat", ".status.activation.port")?.is_empty())
        })
    })?;
    // what earlier scenarios left is written by then
    std::thread::sleep(Duration::from_secs(15));
    let since = jiff::Timestamp::now().to_string();
    std::thread::sleep(Duration::from_secs(60));
    let writes = oracle::operator_writes(&cluster.audit_log(), operator::NAMESPACE, &since)?;
    if writes.is_empty() {
        Ok(())
    } else {
        Err(format!("it wrote at rest: {writes:#?}").into())
    }
}

fn ledger(cluster: &Cluster) -> Outcome {
    let expected = oracle::charges(&cluster.audit_log(), NODE_PRICE, NODE_GPUS)?;
    if expected.is_empty() {
        return Err("the audit log holds no charge: run it after other scenarios".into());
    }
    let listed = cluster.kubectl(&[
        "get",
        "spend",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name} {.status.settled}{\"\\n\"}{end}",
    ])?;
    let mut found = std::collections::BTreeMap::new();
    for line in listed.lines() {
        let (name, settled) = line.split_once(' ').ok_or("a record without a sum")?;
        let workload = name.rsplit_once('.').map_or(name, |(workload, _)| workload);
        let nanos = nanos(settled)?;
        if nanos != 0 {
            *found.entry(workload.to_owned()).or_insert(0) += nanos;
        }
    }
    if found == expected {
        Ok(())
    } else {
        Err(format!("the ledger has {found:#?}, the audit log {expected:#?}").into())
    }
}

/// `1.23` in nano-units, without the product's own code.
fn nanos(amount: &str) -> Result<i128, Box<dyn std::error::Error>> {
    if amount.is_empty() {
        return Ok(0);
    }
    let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
    Ok(whole.parse::<i128>()? * 1_000_000_000 + format!("{fraction:0<9}").parse::<i128>()?)
}

fn uninstall(cluster: &Cluster) -> Outcome {
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
        Path::new("leaving.infd.chat"),
        !records.contains("leaving.infd.chat"),
    );
    if missing {
        Err(format!("the record {} went with its namespace", path.display()).into())
    } else {
        Ok(())
    }
}

fn training(cluster: &Cluster) -> Outcome {
    const STEPS: u64 = 60;
    operator::install(cluster, &["controller.leaseDuration=6s"])?;
    let directory = cluster.run_directory().join("training");
    std::fs::create_dir_all(&directory)?;
    // the image's user is not root
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777))?;
    let limit = |amount: &str| {
        format!(
            "apiVersion: bursar.dev/v1alpha1\nkind: BudgetPolicy\nmetadata: {{name: team, namespace: training}}\nspec: {{limit: \"{amount}\", period: Monthly}}\n"
        )
    };
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: training}\n---\n";
    cluster.apply(&format!("{namespace}{}", limit("0.5")))?;
    // 2 workers at 6.88 an hour, five minutes at least: 0.5 does not start them
    cluster.apply(&format!(
        r#"
apiVersion: bursar.dev/v1alpha1
kind: TrainingJob
metadata: {{name: train, namespace: training}}
spec:
  framework: PyTorch
  replicas: 2
  template:
    spec:
      terminationGracePeriodSeconds: 10
      volumes: [{{name: data, hostPath: {{path: {}}}}}]
      containers:
        - name: worker
          image: bursar.local/trainer:dev
          imagePullPolicy: Never
          args: [--steps, "{STEPS}", --step-time, 250ms, --checkpoint-dir, /data, --journal, /data/journal]
          volumeMounts: [{{name: data, mountPath: /data}}]
          resources: {{limits: {{nvidia.com/gpu: 1}}}}
"#,
        directory.display()
    ))?;
    becomes(
        cluster,
        "training",
        "tj/train",
        ".status.limitedBy",
        "Budget",
        30,
    )?;
    cluster.apply(&limit("50"))?;
    becomes(
        cluster,
        "training",
        "tj/train",
        ".status.phase",
        "Running",
        60,
    )?;
    until("some steps to be done", 30, || {
        Ok(std::fs::read_to_string(directory.join("journal"))
            .is_ok_and(|text| text.lines().count() > 20))
    })?;
    cluster.apply(&limit("0.01"))?;
    becomes(
        cluster,
        "training",
        "tj/train",
        ".status.phase",
        "Suspended",
        60,
    )?;
    becomes(
        cluster,
        "training",
        "pods",
        ".items[?(@.status.phase==\"Running\")].metadata.name",
        "",
        20,
    )?;
    cluster.apply(&limit("50"))?;
    becomes(
        cluster,
        "training",
        "tj/train",
        ".status.phase",
        "Succeeded",
        90,
    )?;
    let mut steps: Vec<(u64, u64)> = Vec::new();
    for line in std::fs::read_to_string(directory.join("journal"))?.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        if let (Some(rank), Some(step)) = (line["rank"].as_u64(), line["step"].as_u64()) {
            steps.push((rank, step));
        }
    }
    steps.sort_unstable();
    let first = steps.first().map_or(0, |(_, step)| *step);
    let expected: Vec<(u64, u64)> = (0..2)
        .flat_map(|rank| (first..first + STEPS).map(move |step| (rank, step)))
        .collect();
    if steps != expected {
        return Err(format!(
            "steps were lost or done twice: {} lines, {} expected",
            steps.len(),
            expected.len()
        )
        .into());
    }
    let attempts = field(cluster, "training", "tj/train", ".status.attempts")?;
    if attempts != "2" {
        Err(format!("it was started {attempts} times, not twice").into())
    } else {
        Ok(())
    }
}
