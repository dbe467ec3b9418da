//! What scenarios share: the service that they apply, waiting, and reading what the cluster and `kubectl bursar` say.

use std::{
    io::{BufRead, BufReader, Read, Seek},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::{Access, Cluster, image, operator, process, runner::ScenarioResult, traffic};

/// How long kubectl may take to write the first line of a watch.
const FIRST_LINE_LIMIT: Duration = Duration::from_secs(60);

/// A service of the test's engine. `flags` are the engine's.
pub fn service_manifest(namespace: &str, flags: &str, idle: &str) -> String {
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

/// A runtime for clients.
///
/// # Errors
/// When the system has none.
pub fn client_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Installs the operator if it is not there yet, and the service; returns the address that clients use.
///
/// # Errors
/// When one of them is not there in time.
pub fn deploy_service(
    cluster: &Cluster,
    namespace: &str,
    flags: &str,
    idle: &str,
) -> Result<SocketAddr, Box<dyn std::error::Error>> {
    deploy_manifest(
        cluster,
        namespace,
        &service_manifest(namespace, flags, idle),
    )
}

/// As [`deploy_service`], with the service's manifest.
///
/// # Errors
/// When one of them is not there in time.
pub fn deploy_manifest(
    cluster: &Cluster,
    namespace: &str,
    manifest: &str,
) -> Result<SocketAddr, Box<dyn std::error::Error>> {
    operator::install(cluster, operator::IMAGE, &["controller.leaseDuration=6s"])?;
    apply_service(cluster, namespace, manifest)
}

/// Applies a service's manifest where the operator is installed; returns the address that clients use.
///
/// # Errors
/// When it is not there in time.
pub fn apply_service(
    cluster: &Cluster,
    namespace: &str,
    manifest: &str,
) -> Result<SocketAddr, Box<dyn std::error::Error>> {
    cluster.apply(manifest)?;
    wait_until("the gateways to listen for the service", 30, || {
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
    // it comes after the gateways' slice, and the cluster's DNS takes a moment to know it
    wait_until("the new Service", 30, || {
        Ok(get_field(cluster, namespace, "service/chat", ".spec.clusterIP").is_ok())
    })?;
    let mut address = None;
    wait_until("the name of the new Service to have an address", 40, || {
        address = traffic::address("chat", namespace).ok();
        Ok(address.is_some())
    })?;
    let address = address.ok_or("the new Service has no address")?;
    // kube-proxy takes a moment to know a new Service
    wait_until("the new Service to take connections", 30, || {
        Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
    })?;
    Ok(address)
}

/// Asks again and again until `done`.
///
/// # Errors
/// When that takes too long, or what `done` says.
pub fn wait_until(
    what: &str,
    seconds: u64,
    mut done: impl FnMut() -> Result<bool, Box<dyn std::error::Error>>,
) -> ScenarioResult {
    let began = Instant::now();
    while !done()? {
        if began.elapsed() > Duration::from_secs(seconds) {
            return Err(format!("waited {seconds} s for {what}").into());
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Runs a task for each item, all of them at a time. Says what went wrong.
pub fn run_together<T: Sync>(
    items: &[T],
    task: impl Fn(&T) -> ScenarioResult + Sync,
) -> Vec<String> {
    let task = &|item| task(item).map_err(|error| error.to_string());
    let ended: Vec<_> = thread::scope(|scope| {
        let started: Vec<_> = items
            .iter()
            .map(|item| scope.spawn(move || task(item)))
            .collect();
        let join = |ended: thread::ScopedJoinHandle<'_, Result<(), String>>| {
            (ended.join()).unwrap_or_else(|_| Err("a task panicked".to_owned()))
        };
        started.into_iter().map(join).collect()
    });
    ended.into_iter().filter_map(Result::err).collect()
}

/// What a field of an object says.
///
/// # Errors
/// kubectl's words.
pub fn get_field(
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

/// The number that a field of an object says.
///
/// # Errors
/// kubectl's words, or what it says instead.
pub fn get_number(
    cluster: &Cluster,
    namespace: &str,
    object: &str,
    path: &str,
) -> Result<f64, Box<dyn std::error::Error>> {
    let text = get_field(cluster, namespace, object, path)?;
    (text.parse()).map_err(|_| format!("{object} {path} is {text:?}").into())
}

/// This month, as records name it.
pub fn current_month() -> String {
    Timestamp::now().strftime("%Y-%m").to_string()
}

/// Waits until a field has this value.
///
/// # Errors
/// What it has instead.
pub fn wait_for_field(
    cluster: &Cluster,
    namespace: &str,
    object: &str,
    path: &str,
    value: &str,
    seconds: u64,
) -> ScenarioResult {
    let what = format!("{object} {path} to be {value:?}");
    let mut last = String::new();
    if !object.contains('/') {
        // a watch shows the objects of a list one by one
        let reached = wait_until(&what, seconds, || {
            last = get_field(cluster, namespace, object, path)?;
            Ok(last == value)
        });
        return reached.map_err(|error| format!("{error}; it is {last:?}").into());
    }
    let path = format!("jsonpath={{{path}}}{{\"\\n\"}}");
    let args = ["-n", namespace, "get", object, "--watch", "-o", &path];
    let reached = watch(cluster, &args, Duration::from_secs(seconds), |line| {
        line.clone_into(&mut last);
        last == value
    })?;
    if reached {
        Ok(())
    } else {
        Err(format!("waited {seconds} s for {what}; it is {last:?}").into())
    }
}

/// Runs kubectl until `done` likes a line that it writes: an event instead of asking again and again, which costs a process each time.
/// Says whether that came in time.
fn watch(
    cluster: &Cluster,
    args: &[&str],
    limit: Duration,
    mut done: impl FnMut(&str) -> bool,
) -> Result<bool, Box<dyn std::error::Error>> {
    let mut stderr = tempfile::tempfile()?;
    let mut kubectl = cluster.command("kubectl");
    kubectl.args(args).stdin(Stdio::null());
    kubectl.stdout(Stdio::piped()).stderr(stderr.try_clone()?);
    let mut child = kubectl.spawn()?;
    let stdout = child.stdout.take().ok_or("kubectl has no output")?;
    let (sender, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        let lines = BufReader::new(stdout).lines().map_while(Result::ok);
        lines.for_each(|line| drop(sender.send(line)));
    });
    // the first line is what there is now, however long kubectl takes to start; the limit is for what comes later
    let mut wait = FIRST_LINE_LIMIT;
    let mut until = None;
    let reached = loop {
        match lines.recv_timeout(wait) {
            Ok(line) if done(&line) => break Some(true),
            Ok(_) => {
                let until = until.get_or_insert_with(|| Instant::now() + limit);
                wait = until.saturating_duration_since(Instant::now());
            }
            Err(RecvTimeoutError::Timeout) => break Some(false),
            Err(RecvTimeoutError::Disconnected) => break None,
        }
    };
    process::end(&mut child);
    reader.join().ok();
    let ended_early = || {
        let mut text = String::new();
        stderr
            .rewind()
            .and_then(|()| stderr.read_to_string(&mut text))
            .ok();
        format!("kubectl {}: {text}", args.join(" "))
    };
    reached.ok_or_else(ended_early).map_err(Into::into)
}

/// Every answer is a 200.
///
/// # Errors
/// What else there was.
pub fn expect_all_ok(answers: &[traffic::Answer]) -> ScenarioResult {
    let tally = traffic::tally(answers);
    if tally.len() == 1 && tally.contains_key("200") {
        Ok(())
    } else {
        Err(format!("not all were served: {tally:#?}").into())
    }
}

/// Deletes these services of a namespace, and waits until no pod is left in it.
///
/// # Errors
/// What there is instead, or kubectl's words.
pub fn delete_services(cluster: &Cluster, namespace: &str, names: &[&str]) -> ScenarioResult {
    let words = ["-n", namespace, "delete", "infd"];
    cluster.kubectl(&[&words, names].concat())?;
    wait_for_no_pods(cluster, namespace)
}

/// Waits until no pod is left in a namespace.
///
/// # Errors
/// Those that are left.
pub fn wait_for_no_pods(cluster: &Cluster, namespace: &str) -> ScenarioResult {
    wait_for_field(
        cluster,
        namespace,
        "pods",
        ".items[*].metadata.name",
        "",
        60,
    )
}

/// Waits until the service `chat` is at zero, and says that it costs nothing.
///
/// # Errors
/// What there is instead.
pub fn wait_for_zero(cluster: &Cluster, namespace: &str) -> ScenarioResult {
    wait_for_no_pods(cluster, namespace)?;
    wait_for_field(
        cluster,
        namespace,
        "infd/chat",
        ".status.spend.ratePerHour",
        "0.0000",
        20,
    )
}

/// A BudgetPolicy called `team`, whose edits take effect at once. `rest` is more of its spec, in flow
/// style.
pub fn budget_manifest(namespace: &str, limit: &str, rest: &str) -> String {
    format!(
        "apiVersion: bursar.dev/v1alpha1\nkind: BudgetPolicy\nmetadata: {{name: team, namespace: {namespace}, \
         annotations: {{bursar.dev/apply-now: \"true\"}}}}\nspec: {{limit: \"{limit}\", period: Monthly{rest}}}\n"
    )
}

/// A TrainingJob of one worker with so many GPUs. `args` are the trainer's, in flow style.
pub fn job_manifest(namespace: &str, name: &str, gpus: u32, args: &str) -> String {
    format!(
        r#"
---
apiVersion: bursar.dev/v1alpha1
kind: TrainingJob
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  framework: PyTorch
  replicas: 1
  template:
    spec:
      terminationGracePeriodSeconds: 10
      containers:
        - name: worker
          image: bursar.local/trainer:dev
          imagePullPolicy: Never
          args: [{args}]
          resources: {{limits: {{nvidia.com/gpu: {gpus}}}}}
"#
    )
}

/// The service with replicas that stay.
pub fn with_min_replicas(replicas: u32, manifest: &str) -> String {
    let bound = "maxReplicas: 4";
    manifest.replace(bound, &format!("{bound}\n  minReplicas: {replicas}"))
}

/// The path of a condition's reason.
pub fn condition_reason(condition: &str) -> String {
    format!(".status.conditions[?(@.type==\"{condition}\")].reason")
}

/// SIGKILL to both replicas, which no shutdown handler sees, once both run. Says how many that ended.
///
/// # Errors
/// kubectl's words.
pub fn kill_controllers(cluster: &Cluster) -> Result<usize, Box<dyn std::error::Error>> {
    let ids = ".items[*].status.containerStatuses[?(@.state.running)].containerID";
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
    let ids: Vec<&str> = ids.split_whitespace().collect();
    if ids.len() < 2 {
        return Ok(0);
    }
    let ended = ids.iter().filter(|id| cluster.kill_container(id) > 0);
    Ok(ended.count())
}

/// Has so many controllers; without any, returns when none is left.
///
/// # Errors
/// When they do not stop in time.
pub fn scale_controllers(cluster: &Cluster, replicas: u32) -> ScenarioResult {
    let bursar = |words: &[&str]| cluster.kubectl(&[&["-n", operator::NAMESPACE], words].concat());
    let count = format!("--replicas={replicas}");
    bursar(&["scale", "deployment/bursar-controller", &count])?;
    if replicas > 0 {
        return Ok(());
    }
    let component = "app.kubernetes.io/component=controller";
    wait_until("the controllers to stop", 60, || {
        Ok(bursar(&["get", "pods", "-l", component, "-o", "name"])?.is_empty())
    })
}

/// Runs `kubectl bursar`: whether it did well, and what it said.
///
/// # Errors
/// When it cannot be built.
pub fn run_kubectl_bursar(
    cluster: &Cluster,
    words: &[&str],
) -> Result<(bool, String), Box<dyn std::error::Error>> {
    let program = image::kubectl_bursar()?;
    let directory = program.parent().ok_or("the program lies nowhere")?;
    // kubectl finds its plugins in PATH
    let path = format!("{}:{}", cluster.tools().path(), directory.display());
    let mut command: Command = cluster.command("kubectl");
    command.env("PATH", &path).arg("bursar").args(words);
    Ok(match process::run(&mut command, Duration::from_secs(30)) {
        Ok(output) => (true, output.stdout),
        Err(error) => (false, error.to_string()),
    })
}

/// What the leader says of a service, in one line.
///
/// # Errors
/// When `kubectl bursar` cannot be run.
pub fn explain(
    cluster: &Cluster,
    namespace: &str,
    service: &str,
) -> Result<String, Box<dyn std::error::Error>> {
    let service = format!("infd/{service}");
    let (_, lines) = run_kubectl_bursar(cluster, &["explain", &service, "-n", namespace])?;
    Ok(lines.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// What a service has cost so far, to the second; its status may be five minutes old.
///
/// # Errors
/// When that is not said.
pub fn current_cost(
    cluster: &Cluster,
    namespace: &str,
    service: &str,
) -> Result<f64, Box<dyn std::error::Error>> {
    let said = explain(cluster, namespace, service)?;
    let mut after_total = said.split(" total ").skip(1);
    let amount = after_total.next().and_then(|rest| rest.split(' ').next());
    Ok(amount.ok_or("explain names no total")?.parse()?)
}

/// What `kubectl bursar` says when it does well.
///
/// # Errors
/// What it says when it does not.
pub fn kubectl_bursar(
    cluster: &Cluster,
    words: &[&str],
) -> Result<String, Box<dyn std::error::Error>> {
    match run_kubectl_bursar(cluster, words)? {
        (true, said) => Ok(said),
        (false, said) => Err(format!("{words:?}: {said}").into()),
    }
}
