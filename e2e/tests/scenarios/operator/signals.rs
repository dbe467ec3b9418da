//! Workers that follow queues: real servers, in the cluster's namespaces, at the address of its bridge.

use std::{
    error::Error,
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use bursar_e2e::{
    Access, Cluster, control_plane, node, operator,
    program::Program,
    runner::ScenarioResult,
    scenario::{get_field, wait_for_field, wait_until},
    servers::{self, User},
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned, crypto::ring, pki_types::PrivatePkcs8KeyDer,
};
use serde_json::json;

use super::signal_example::SignalExample;

/// Where the servers listen: the address of the API server, which the chart has to allow.
const HOST: &str = control_plane::ADDRESS;
const NAMESPACE: &str = "queues";
const ANN: User = User {
    name: "ann",
    password: "s3cret",
};
const REDIS: u16 = 26_379;
const RABBITMQ: servers::rabbitmq::Ports = servers::rabbitmq::Ports {
    amqp: 25_672,
    management: 25_673,
    distribution: 25_674,
    names: 25_675,
};
const KAFKA: servers::kafka::Ports = servers::kafka::Ports {
    plain: 29_092,
    sasl: 29_093,
    controller: 29_094,
};
const NATS: u16 = 24_222;
const PROMETHEUS: u16 = 29_090;
const PAGE: u16 = 29_100;
const METRICS: u16 = 29_101;

/// Where this process is, and its page: the first node, which the chart has to allow too.
fn node() -> String {
    node::address(0)
}

pub(super) fn install(cluster: &Cluster) -> ScenarioResult {
    let values = [
        "controller.leaseDuration=6s".to_owned(),
        format!("signals.allowedNetworks={{{HOST}/32,{}/32}}", node()),
        format!("signals.credentialNamespaces={{{NAMESPACE}}}"),
    ];
    let namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n");
    cluster.apply(&namespace)?;
    operator::install(
        cluster,
        operator::IMAGE,
        &values.each_ref().map(|value| &**value),
    )?;
    Ok(())
}

/// Waits until so many pods of a service are there.
fn wait_for_pods(cluster: &Cluster, name: &str, count: usize) -> ScenarioResult {
    let label = format!("bursar.dev/workload={name}");
    wait_until(&format!("{name} to have {count} pods"), 60, || {
        let names = ["-n", NAMESPACE, "get", "pods", "-l", &label, "-o", "name"];
        Ok(cluster.kubectl(&names)?.lines().count() == count)
    })
}

fn signals_available(cluster: &Cluster, name: &str, status: &str) -> ScenarioResult {
    let path = r#".status.conditions[?(@.type=="SignalsAvailable")].status"#;
    wait_for_field(
        cluster,
        NAMESPACE,
        &format!("infd/{name}"),
        path,
        status,
        30,
    )
}

/// Waits until the condition's message has these words.
fn wait_for_cause(cluster: &Cluster, name: &str, words: &str) -> ScenarioResult {
    let path = r#".status.conditions[?(@.type=="SignalsAvailable")].message"#;
    let mut message = String::new();
    wait_until(&format!("{name} to say {words:?}"), 30, || {
        message = get_field(cluster, NAMESPACE, &format!("infd/{name}"), path)?;
        Ok(message.contains(words))
    })
    .map_err(|error| format!("{error}: {message}").into())
}

fn run(command: &mut Command, input: &str) -> Result<String, Box<dyn Error>> {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().ok_or("no standard input")?;
    stdin.write_all(input.as_bytes())?;
    drop(stdin);
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
    match status.success() {
        true => Ok(text.into_owned()),
        false => Err(format!("{command:?}: {text}").into()),
    }
}

/// Starts a server, and waits until it listens.
fn start(
    cluster: &Cluster,
    name: &str,
    command: &Command,
    port: u16,
) -> Result<Program, Box<dyn Error>> {
    let mut server = Program::start(cluster, name, command)?;
    wait_until(&format!("{name} to listen"), 90, || {
        server.check()?;
        Ok(TcpStream::connect((HOST, port)).is_ok())
    })?;
    Ok(server)
}

fn redis(cluster: &Cluster) -> Result<Program, Box<dyn Error>> {
    let options = servers::redis::Options {
        password: Some(ANN.password),
        ..Default::default()
    };
    let command = servers::redis::server(cluster.run_directory(), HOST, REDIS, options)?;
    start(cluster, "redis", &command, REDIS)
}

fn redis_command(words: &[&str]) -> ScenarioResult {
    let mut client = servers::redis::client(HOST, REDIS)?;
    client
        .args(["--no-auth-warning", "-a", ANN.password])
        .args(words);
    run(&mut client, "").map(drop)
}

/// A list starts workers from zero and ends them; whatever goes wrong with it is said with its cause, and takes no worker away.
pub(crate) fn a_list_starts_and_ends_workers(cluster: &Cluster) -> ScenarioResult {
    install(cluster)?;
    let server = redis(cluster)?;
    let address = format!("{HOST}:{REDIS}");
    let example = SignalExample::new(
        "redis",
        json!({"target": 2, "redis": {"addresses": [address]}}),
    );
    cluster.apply(&example.manifest(NAMESPACE, &json!({"password": "wrong"}))?)?;
    wait_for_cause(cluster, "transcribe", "refuses the credentials")?;
    cluster.apply(&example.manifest(NAMESPACE, &json!({"password": ANN.password}))?)?;
    signals_available(cluster, "transcribe", "True")?;
    wait_for_pods(cluster, "transcribe", 0)?;
    redis_command(&["RPUSH", "jobs", "a", "b", "c"])?;
    wait_for_pods(cluster, "transcribe", 2)?;
    // what is unknown takes nothing away
    drop(server);
    wait_for_cause(cluster, "transcribe", "refused")?;
    thread::sleep(Duration::from_secs(6));
    wait_for_pods(cluster, "transcribe", 2)?;
    let value = get_field(
        cluster,
        NAMESPACE,
        "infd/transcribe",
        ".status.signals[0].value",
    )?;
    if value != "3" {
        return Err(format!("the last value is {value:?}, not 3").into());
    }
    let _server = redis(cluster)?;
    signals_available(cluster, "transcribe", "True")?;
    wait_for_pods(cluster, "transcribe", 0)?;
    redis_command(&["SET", "jobs", "no list"])?;
    wait_for_cause(cluster, "transcribe", "`jobs`")?;
    let explained = bursar_e2e::scenario::explain(cluster, NAMESPACE, "transcribe")?;
    if !explained.contains("jobs") {
        return Err(format!("explain does not name the signal: {explained}").into());
    }
    cluster.kubectl(&["-n", NAMESPACE, "delete", "infd", "transcribe"])?;
    Ok(())
}

/// A page whose number a test sets, as JSON and for Prometheus.
fn serve_page(number: Arc<AtomicU64>) -> ScenarioResult {
    let listener = TcpListener::bind((node(), PAGE))?;
    serve(listener, move |mut stream| {
        answer(&mut stream, number.load(Ordering::SeqCst))
    });
    Ok(())
}

/// The same number as a metric of the external metrics API, which the API server asks over TLS.
fn serve_metrics(number: Arc<AtomicU64>) -> ScenarioResult {
    let signed = rcgen::generate_simple_self_signed([node()])?;
    let key = PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der());
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![signed.cert.der().clone()], key.into())?;
    let config = Arc::new(config);
    let listener = TcpListener::bind((node(), METRICS))?;
    serve(listener, move |stream| {
        let connection = ServerConnection::new(Arc::clone(&config)).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        answer(&mut stream, number.load(Ordering::SeqCst))
    });
    Ok(())
}

/// Answers each connection in a thread of its own, until the suite ends.
fn serve(
    listener: TcpListener,
    answer: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static,
) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || answer(stream).ok());
        }
    });
}

fn answer(stream: &mut (impl Read + Write), number: u64) -> io::Result<()> {
    let mut head = String::new();
    let mut lines = BufReader::new(&mut *stream).take(64 << 10);
    while !head.ends_with("\r\n\r\n") && lines.read_line(&mut head)? > 0 {}
    let path = head.split(' ').nth(1).unwrap_or_default();
    let (kind, body) = match path {
        "/metrics" => (
            "text/plain; version=0.0.4",
            format!("waiting_jobs {number}\n"),
        ),
        path if path.starts_with("/apis/external.metrics.k8s.io/v1beta1/namespaces") => (
            "application/json",
            format!(
                r#"{{"kind":"ExternalMetricValueList","apiVersion":"external.metrics.k8s.io/v1beta1","metadata":{{}},"items":[{{"metricName":"waiting","metricLabels":null,"timestamp":null,"value":"{number}"}}]}}"#
            ),
        ),
        // its resources, which the API server asks for first
        path if path.starts_with("/apis") => (
            "application/json",
            r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"external.metrics.k8s.io/v1beta1","resources":[]}"#.to_owned(),
        ),
        _ => (
            "application/json",
            format!("{{\"queue\": {{\"waiting\": \"{number}\"}}}}"),
        ),
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    stream.flush()
}

/// The API server takes the page for the external metrics API, as it takes KEDA's metrics server.
fn metrics_api() -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: metrics, namespace: {NAMESPACE}}}
spec: {{type: ExternalName, externalName: "{}"}}
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{name: v1beta1.external.metrics.k8s.io}}
spec:
  group: external.metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {{name: metrics, namespace: {NAMESPACE}, port: {METRICS}}}
---
"#,
        node()
    )
}

/// Sends a request to RabbitMQ's management API.
fn manage(method: &str, path: &str, body: &str) -> ScenarioResult {
    let mut stream = TcpStream::connect((HOST, RABBITMQ.management))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let length = body.len();
    // ann:s3cret
    write!(
        stream,
        "{method} /api/{path} HTTP/1.1\r\nHost: rabbitmq\r\nAuthorization: Basic YW5uOnMzY3JldA==\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.1 2") {
        true => Ok(()),
        false => Err(format!("{method} {path}: {answer}").into()),
    }
}

/// Publishes to NATS, and returns the answers to requests.
fn publish_to_nats(subject: &str, payload: &str) -> ScenarioResult {
    let mut stream = TcpStream::connect((HOST, NATS))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let length = payload.len();
    write!(
        stream,
        "CONNECT {{\"verbose\":false}}\r\nSUB answers 1\r\nPUB {subject} answers {length}\r\n{payload}\r\n"
    )?;
    let mut answers = BufReader::new(stream).lines();
    // an answer is MSG and a line of JSON
    let answer = answers
        .by_ref()
        .map_while(Result::ok)
        .skip_while(|line| !line.starts_with("MSG"))
        .nth(1);
    match answer {
        Some(answer) if !answer.contains("\"error\"") => Ok(()),
        other => Err(format!("{subject}: {other:?}").into()),
    }
}

/// One service for each source goes from zero to one worker and back, without a request.
pub(crate) fn every_source_starts_and_ends_workers(cluster: &Cluster) -> ScenarioResult {
    install(cluster)?;
    let directory = cluster.run_directory();
    let number = Arc::new(AtomicU64::new(0));
    serve_page(Arc::clone(&number))?;
    serve_metrics(Arc::clone(&number))?;
    cluster.apply(&metrics_api())?;
    let rabbitmq = servers::rabbitmq::server(directory, HOST, RABBITMQ, ANN)?;
    let kafka = servers::kafka::server(directory, HOST, KAFKA, ANN)?;
    let nats = servers::nats::server(directory, HOST, NATS, None, None)?;
    let page = format!("{}:{PAGE}", node());
    let target = servers::prometheus::Target {
        job: "queue",
        address: &page,
        namespace: NAMESPACE,
    };
    let prometheus = servers::prometheus::server(directory, HOST, PROMETHEUS, &[target])?;
    let _servers = [
        start(cluster, "rabbitmq", &rabbitmq, RABBITMQ.management)?,
        start(cluster, "kafka", &kafka, KAFKA.plain)?,
        start(cluster, "nats", &nats, NATS)?,
        start(cluster, "prometheus", &prometheus, PROMETHEUS)?,
    ];
    manage("PUT", "queues/%2F/render", r#"{"durable":true}"#)?;
    publish_to_nats(
        "$JS.API.STREAM.CREATE.IMAGES",
        r#"{"name":"IMAGES","subjects":["images"]}"#,
    )?;
    publish_to_nats(
        "$JS.API.CONSUMER.DURABLE.CREATE.IMAGES.caption",
        r#"{"stream_name":"IMAGES","config":{"durable_name":"caption","ack_policy":"explicit"}}"#,
    )?;
    // the topic is made with the first message, and the group has done that one
    run(
        &mut servers::kafka::producer(HOST, KAFKA.plain, "documents")?,
        "a\n",
    )?;
    let commit =
        |offset| servers::kafka::commit(HOST, KAFKA.plain, "embedders", "documents", offset);
    let rabbitmq = format!("http://{HOST}:{}", RABBITMQ.management);
    let kafka = format!("{HOST}:{}", KAFKA.plain);
    let (nats, prometheus) = (
        format!("nats://{HOST}:{NATS}"),
        format!("http://{HOST}:{PROMETHEUS}"),
    );
    let stats = format!("http://{page}/stats");
    let query = "sum(waiting_jobs)";
    let examples = [
        ("rabbitmq", json!({"rabbitmq": {"url": rabbitmq}})),
        ("kafka", json!({"kafka": {"bootstrapServers": [kafka]}})),
        ("nats", json!({"nats": {"url": nats}})),
        (
            "prometheus",
            json!({"prometheus": {"url": prometheus, "query": query}}),
        ),
        ("external", json!({"external": {"metricName": "waiting"}})),
        ("http", json!({"http": {"url": stats}})),
    ];
    let examples = examples.map(|(file, mut signal)| {
        signal["target"] = json!(5);
        SignalExample::new(file, signal)
    });
    let login = json!({"username": ANN.name, "password": ANN.password});
    let manifests = examples.iter().map(|each| each.manifest(NAMESPACE, &login));
    let manifests: Result<String, _> = manifests.collect();
    cluster.apply(&manifests?)?;
    let names: Result<Vec<String>, _> = examples.iter().map(SignalExample::name).collect();
    let names = names?;
    // Kafka's group has committed nothing: its message counts
    wait_for_pods(cluster, "embed", 1)?;
    run(&mut commit(1)?, "")?;
    for name in &names {
        signals_available(cluster, name, "True")?;
        wait_for_pods(cluster, name, 0)?;
    }
    number.store(3, Ordering::SeqCst);
    let message =
        r#"{"properties":{},"routing_key":"render","payload":"a","payload_encoding":"string"}"#;
    manage("POST", "exchanges/%2F/amq.default/publish", message)?;
    publish_to_nats("images", "a")?;
    run(
        &mut servers::kafka::producer(HOST, KAFKA.plain, "documents")?,
        "b\n",
    )?;
    for name in &names {
        wait_for_pods(cluster, name, 1).map_err(|error| {
            let status = get_field(cluster, NAMESPACE, &format!("infd/{name}"), ".status");
            format!("{error}: {}", status.unwrap_or_default())
        })?;
    }
    number.store(0, Ordering::SeqCst);
    manage("DELETE", "queues/%2F/render/contents", "")?;
    publish_to_nats("$JS.API.STREAM.PURGE.IMAGES", "{}")?;
    run(&mut commit(2)?, "")?;
    for name in &names {
        wait_for_pods(cluster, name, 0)?;
    }
    let words = ["-n", NAMESPACE, "delete", "infd"].into_iter();
    let words: Vec<&str> = words.chain(names.iter().map(String::as_str)).collect();
    cluster.kubectl(&words)?;
    cluster.kubectl(&["delete", "apiservice", "v1beta1.external.metrics.k8s.io"])?;
    Ok(())
}
