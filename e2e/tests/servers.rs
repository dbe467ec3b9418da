//! Each source of signals against the server that it reads, on loopback: `cargo test -p bursar-e2e --test servers`. Root is needed,
//! to lay the unpacked servers over the machine's files in namespaces of their own. A first run downloads 150 MB.

#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by ending

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bursar_e2e::{
    process,
    servers::{self, TlsFiles, User},
};
use bursar_signals::{
    address_policy::StandardPolicy,
    dial::{Dialer, Endpoint},
    sources::{
        Credentials, HttpUrl, Kafka, Nats, Prometheus, RabbitMq, RabbitMqProtocol, Redis,
        RedisMeasure, RedisMode, Sasl, SignalSource, SourceError,
        SourceErrorKind::{self, InvalidValue, NotFound, Protocol, Unauthorized, Unreachable},
        WithoutCommits,
    },
};
use tempfile::TempDir;

const HOST: &str = "127.0.0.1";
const START_LIMIT: Duration = Duration::from_secs(60);
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const CHANGE_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
const ANN: User = User {
    name: "ann",
    password: "s3cret",
};

/// A server that is killed in the end.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    /// Starts a server, and waits until it listens.
    fn start(directory: &Path, name: &str, mut command: Command, port: u16) -> Self {
        let log = directory.join(format!("{name}.log"));
        let output = fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let process = command.spawn().unwrap();
        let mut server = Self { process, port };
        let began = Instant::now();
        while TcpStream::connect((HOST, port)).is_err() {
            let has_ended = server.process.try_wait().unwrap().is_some();
            assert!(
                !has_ended && began.elapsed() < START_LIMIT,
                "{}",
                process::tail(&log)
            );
            thread::sleep(POLL);
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        // what it had started is killed then, and holds the port for a moment
        let began = Instant::now();
        while TcpStream::connect((HOST, self.port)).is_ok() && began.elapsed() < START_LIMIT {
            thread::sleep(POLL);
        }
    }
}

/// Ports that nobody listens on, below those of which Redis' cluster bus would be none.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: Vec<TcpListener> = (0..)
        .map(|_| TcpListener::bind((HOST, 0)).unwrap())
        .filter(|listener| listener.local_addr().unwrap().port() < 55_000)
        .take(N)
        .collect();
    std::array::from_fn(|index| listeners[index].local_addr().unwrap().port())
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint {
        host: HOST.into(),
        port,
        tls: false,
    }
}

fn credentials(password: &str) -> Credentials {
    Credentials {
        username: Some(ANN.name.into()),
        password: Some(password.into()),
        ..Credentials::default()
    }
}

/// The credentials that are right.
fn ann() -> Credentials {
    credentials(ANN.password)
}

fn nobody() -> Credentials {
    Credentials::default()
}

/// Reads a signal once.
fn read(source: &SignalSource, credentials: &Credentials) -> Result<u64, SourceError> {
    let allowed = vec!["127.0.0.0/8".parse().unwrap()];
    let dialer = Dialer::new(Arc::new(StandardPolicy { allowed }));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(source.read(credentials, &dialer))
}

/// Reads until the value is this one, which a server may know only after a while.
fn wait_for(source: &SignalSource, credentials: &Credentials, value: u64) {
    let began = Instant::now();
    loop {
        let read = read(source, credentials);
        if read == Ok(value) {
            return;
        }
        assert!(
            began.elapsed() < CHANGE_LIMIT,
            "{read:?} instead of {value}"
        );
        thread::sleep(POLL);
    }
}

#[track_caller]
fn assert_fails(
    source: &SignalSource,
    credentials: &Credentials,
    kind: SourceErrorKind,
    words: &str,
) {
    let error = read(source, credentials).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(
        error.to_string().contains(words),
        "no `{words}` in: {error}"
    );
    assert!(!error.to_string().contains(ANN.password), "{error}");
}

/// Runs a program to its end, with this as its standard input.
fn run(mut command: Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < COMMAND_LIMIT, "{command:?} does not end");
        thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}{errors}");
    text + &errors
}

/// An authority, and a certificate for [`HOST`] that it signed.
fn tls_files(directory: &Path) -> TlsFiles {
    let write = |name: &str, pem: String| -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, pem).unwrap();
        path
    };
    let mut parameters = rcgen::CertificateParams::new(vec![]).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    // of another name than the certificate, which OpenSSL takes for its own authority otherwise
    let name = &mut parameters.distinguished_name;
    name.push(rcgen::DnType::CommonName, "authority");
    let key = rcgen::KeyPair::generate().unwrap();
    let authority = rcgen::CertifiedIssuer::self_signed(parameters, key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    let certificate = parameters.signed_by(&key, &authority).unwrap();
    TlsFiles {
        authority: write("ca.crt", authority.pem()),
        certificate: write("tls.crt", certificate.pem()),
        key: write("tls.key", key.serialize_pem()),
    }
}

fn redis(port: u16, measure: RedisMeasure) -> Redis {
    Redis {
        addresses: vec![endpoint(port)],
        mode: RedisMode::Standalone,
        database: 0,
        measure,
    }
}

fn list(key: &str) -> RedisMeasure {
    RedisMeasure::List { key: key.into() }
}

fn stream(key: &str, group: Option<&str>) -> RedisMeasure {
    RedisMeasure::Stream {
        key: key.into(),
        group: group.map(str::to_owned),
    }
}

/// Runs commands of Redis, one a line.
fn redis_commands(port: u16, options: &[&str], commands: &str) {
    let mut client = servers::redis::client(HOST, port).unwrap();
    client.args(["--no-auth-warning"]).args(options);
    let output = run(client, commands);
    let has_failed = ["ERR", "Could not", "error"]
        .iter()
        .any(|word| output.contains(word));
    assert!(!has_failed, "{output}");
}

#[test]
fn redis_with_a_password() {
    let directory = TempDir::new().unwrap();
    let [port] = free_ports();
    let options = servers::redis::Options {
        password: Some(ANN.password),
        ..Default::default()
    };
    let start = || {
        let command = servers::redis::server(directory.path(), HOST, port, options).unwrap();
        Server::start(directory.path(), "redis", command, port)
    };
    let server = start();
    let fill = "RPUSH jobs a b c\nXGROUP CREATE events workers $ MKSTREAM\n\
        XADD events * a 1\nXADD events * a 2\nXADD events * a 3\n\
        XREADGROUP GROUP workers w COUNT 1 STREAMS events >\nSELECT 2\nRPUSH jobs a\n";
    redis_commands(port, &["-a", ANN.password], fill);
    let password = Credentials {
        password: Some(ANN.password.into()),
        ..nobody()
    };
    let source = |measure| SignalSource::Redis(redis(port, measure));
    assert_eq!(read(&source(list("jobs")), &password), Ok(3000));
    assert_eq!(read(&source(list("missing")), &password), Ok(0));
    assert_eq!(read(&source(stream("events", None)), &password), Ok(3000));
    // one is delivered, two are not
    assert_eq!(
        read(&source(stream("events", Some("workers"))), &password),
        Ok(3000)
    );
    let second = SignalSource::Redis(Redis {
        database: 2,
        ..redis(port, list("jobs"))
    });
    assert_eq!(read(&second, &password), Ok(1000));

    let jobs = source(list("jobs"));
    assert_fails(
        &source(stream("events", Some("x"))),
        &password,
        NotFound,
        "no group `x`",
    );
    assert_fails(
        &source(stream("missing", Some("x"))),
        &password,
        NotFound,
        "no stream `missing`",
    );
    assert_fails(&source(list("events")), &password, InvalidValue, "`events`");
    assert_fails(
        &source(stream("jobs", None)),
        &password,
        InvalidValue,
        "is no stream",
    );
    assert_fails(&jobs, &nobody(), Unauthorized, "Authentication required");
    let wrong = Credentials {
        password: Some("wrong".into()),
        ..nobody()
    };
    assert_fails(
        &jobs,
        &wrong,
        Unauthorized,
        "invalid username-password pair",
    );
    let tls = SignalSource::Redis(Redis {
        addresses: vec![Endpoint {
            tls: true,
            ..endpoint(port)
        }],
        ..redis(port, list("jobs"))
    });
    assert_fails(&tls, &password, Unreachable, "TLS");
    drop(server);
    assert_fails(&jobs, &password, Unreachable, "refused");
    let _server = start();
    assert_eq!(read(&jobs, &password), Ok(0));
}

#[test]
fn redis_over_tls() {
    let directory = TempDir::new().unwrap();
    let files = tls_files(directory.path());
    let [port] = free_ports();
    let options = servers::redis::Options {
        tls: Some(&files),
        ..Default::default()
    };
    let command = servers::redis::server(directory.path(), HOST, port, options).unwrap();
    let _server = Server::start(directory.path(), "redis", command, port);
    let authority = files.authority.to_str().unwrap();
    redis_commands(port, &["--tls", "--cacert", authority], "RPUSH jobs a b\n");
    let source = SignalSource::Redis(Redis {
        addresses: vec![Endpoint {
            tls: true,
            ..endpoint(port)
        }],
        ..redis(port, list("jobs"))
    });
    let trusting = Credentials {
        ca: Some(fs::read(&files.authority).unwrap()),
        ..nobody()
    };
    assert_eq!(read(&source, &trusting), Ok(2000));
    assert_fails(&source, &nobody(), Unreachable, "unknown authority");
    let plain = SignalSource::Redis(redis(port, list("jobs")));
    assert_fails(&plain, &nobody(), Unreachable, "broke");
}

#[test]
fn redis_behind_a_sentinel() {
    let directory = TempDir::new().unwrap();
    let [port, sentinel_port] = free_ports();
    let options = servers::redis::Options {
        password: Some(ANN.password),
        ..Default::default()
    };
    let path = directory.path();
    let command = servers::redis::server(path, HOST, port, options).unwrap();
    let _server = Server::start(path, "redis", command, port);
    redis_commands(port, &["-a", ANN.password], "RPUSH jobs a b c d\n");
    let password = Some(ANN.password);
    let command = servers::redis::sentinel(path, HOST, sentinel_port, "main", port, password);
    let _sentinel = Server::start(path, "sentinel", command.unwrap(), sentinel_port);
    let source = |addresses: Vec<u16>, master_name: &str| {
        SignalSource::Redis(Redis {
            addresses: addresses.into_iter().map(endpoint).collect(),
            mode: RedisMode::Sentinel {
                master_name: master_name.into(),
            },
            ..redis(port, list("jobs"))
        })
    };
    let password = Credentials {
        password: Some(ANN.password.into()),
        ..nobody()
    };
    assert_eq!(
        read(&source(vec![sentinel_port], "main"), &password),
        Ok(4000)
    );
    assert_eq!(
        read(&source(vec![1, sentinel_port], "main"), &password),
        Ok(4000)
    );
    assert_fails(
        &source(vec![sentinel_port], "other"),
        &password,
        NotFound,
        "`other`",
    );
    assert_fails(
        &source(vec![port], "main"),
        &password,
        Protocol,
        "is no sentinel",
    );
}

#[test]
fn redis_cluster_of_three() {
    let directory = TempDir::new().unwrap();
    let ports: [u16; 3] = free_ports();
    let options = servers::redis::Options {
        cluster: true,
        ..Default::default()
    };
    let _servers = ports.map(|port| {
        let command = servers::redis::server(directory.path(), HOST, port, options).unwrap();
        Server::start(directory.path(), &format!("redis-{port}"), command, port)
    });
    let mut create = servers::redis::client(HOST, ports[0]).unwrap();
    create.args(["--cluster", "create"]);
    create
        .args(ports.map(|port| format!("{HOST}:{port}")))
        .arg("--cluster-yes");
    run(create, "");
    // each of these keys is on another node
    for (key, length) in [("a", 1), ("b", 2), ("c", 3)] {
        let elements = "x ".repeat(length);
        redis_commands(ports[0], &["-c"], &format!("RPUSH {key} {elements}\n"));
        for port in ports {
            let mut source = redis(port, list(key));
            source.mode = RedisMode::Cluster;
            let value = u64::try_from(length).unwrap() * 1000;
            wait_for(&SignalSource::Redis(source), &nobody(), value);
        }
    }
    let reads = ports.map(|port| read(&SignalSource::Redis(redis(port, list("a"))), &nobody()));
    let moved: Vec<_> = reads
        .iter()
        .filter_map(|read| read.as_ref().err())
        .collect();
    assert_eq!(moved.len(), 2);
    assert!(
        moved[0].to_string().contains("set the mode to Cluster"),
        "{moved:?}"
    );
}

/// A client of NATS that sends requests.
struct NatsClient(BufReader<TcpStream>);

impl NatsClient {
    fn connect(port: u16) -> Self {
        let stream = TcpStream::connect((HOST, port)).unwrap();
        stream.set_read_timeout(Some(COMMAND_LIMIT)).unwrap();
        let User { name, password } = ANN;
        let connect = format!(r#"CONNECT {{"verbose":false,"user":"{name}","pass":"{password}"}}"#);
        let mut client = Self(BufReader::new(stream));
        client.send(&format!("{connect}\r\nSUB reply 1\r\n"));
        client
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn request(&mut self, subject: &str, payload: &str) -> String {
        let length = payload.len();
        self.send(&format!("PUB {subject} reply {length}\r\n{payload}\r\n"));
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0);
            assert!(!line.starts_with("-ERR"), "{line}");
            if line.starts_with("MSG ") {
                let bytes = line.split_whitespace().last().unwrap().parse::<usize>();
                let mut payload = vec![0; bytes.unwrap() + 2];
                self.0.read_exact(&mut payload).unwrap();
                return String::from_utf8(payload).unwrap();
            }
        }
    }
}

#[test]
fn nats() {
    let directory = TempDir::new().unwrap();
    let [port] = free_ports();
    let start = || {
        let command = servers::nats::server(directory.path(), HOST, port, Some(ANN), None);
        Server::start(directory.path(), "nats", command.unwrap(), port)
    };
    let server = start();
    let source = |stream: &str, consumer: &str| {
        SignalSource::Nats(Nats {
            endpoint: endpoint(port),
            stream: stream.into(),
            consumer: consumer.into(),
        })
    };
    let workers = source("JOBS", "workers");
    assert_fails(&workers, &ann(), NotFound, "stream not found");
    let mut client = NatsClient::connect(port);
    client.request(
        "$JS.API.STREAM.CREATE.JOBS",
        r#"{"name":"JOBS","subjects":["jobs"]}"#,
    );
    let consumer = r#"{"durable_name":"workers","ack_policy":"explicit"}"#;
    let consumer = format!(r#"{{"stream_name":"JOBS","config":{consumer}}}"#);
    client.request("$JS.API.CONSUMER.DURABLE.CREATE.JOBS.workers", &consumer);
    for _ in 0..5 {
        client.request("jobs", "a");
    }
    // one is delivered and not acknowledged
    client.request("$JS.API.CONSUMER.MSG.NEXT.JOBS.workers", "1");
    assert_eq!(read(&workers, &ann()), Ok(5000));
    assert_fails(
        &source("JOBS", "others"),
        &ann(),
        NotFound,
        "consumer not found",
    );
    assert_fails(&workers, &nobody(), Unauthorized, "wants a user");
    assert_fails(
        &workers,
        &credentials("wrong"),
        Unauthorized,
        "Authorization Violation",
    );
    drop(server);
    assert_fails(&workers, &ann(), Unreachable, "refused");
    let _server = start();
    wait_for(&workers, &ann(), 5000);
}

#[test]
fn nats_over_tls() {
    let directory = TempDir::new().unwrap();
    let files = tls_files(directory.path());
    let [port] = free_ports();
    let command = servers::nats::server(directory.path(), HOST, port, None, Some(&files));
    let _server = Server::start(directory.path(), "nats", command.unwrap(), port);
    let source = |tls| {
        SignalSource::Nats(Nats {
            endpoint: Endpoint {
                tls,
                ..endpoint(port)
            },
            stream: "JOBS".into(),
            consumer: "workers".into(),
        })
    };
    let trusting = Credentials {
        ca: Some(fs::read(&files.authority).unwrap()),
        ..nobody()
    };
    // the answer came through TLS
    assert_fails(&source(true), &trusting, NotFound, "stream not found");
    assert_fails(&source(true), &nobody(), Unreachable, "unknown authority");
    assert_fails(&source(false), &trusting, Unreachable, "wants TLS");
}

/// Sends a request to RabbitMQ's management API.
fn manage(port: u16, method: &str, path: &str, body: &str) {
    let mut stream = TcpStream::connect((HOST, port)).unwrap();
    stream.set_read_timeout(Some(COMMAND_LIMIT)).unwrap();
    let length = body.len();
    let request = format!(
        "{method} /api/{path} HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Basic YW5uOnMzY3JldA==\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 20"),
        "{method} {path}: {answer}"
    );
}

#[test]
fn rabbitmq() {
    let directory = TempDir::new().unwrap();
    let [amqp, management, distribution, names] = free_ports();
    let ports = servers::rabbitmq::Ports {
        amqp,
        management,
        distribution,
        names,
    };
    let command = servers::rabbitmq::server(directory.path(), HOST, ports, ANN).unwrap();
    let server = Server::start(directory.path(), "rabbitmq", command, management);
    let source = |protocol, vhost: &str, queue: &str| {
        let port = match protocol {
            RabbitMqProtocol::Amqp => amqp,
            RabbitMqProtocol::Management => management,
        };
        SignalSource::RabbitMq(RabbitMq {
            endpoint: endpoint(port),
            protocol,
            vhost: vhost.into(),
            queue: queue.into(),
        })
    };
    manage(management, "PUT", "queues/%2F/jobs", r#"{"durable":true}"#);
    let message =
        r#"{"properties":{},"routing_key":"jobs","payload":"a","payload_encoding":"string"}"#;
    for _ in 0..3 {
        manage(
            management,
            "POST",
            "exchanges/%2F/amq.default/publish",
            message,
        );
    }
    for protocol in [RabbitMqProtocol::Amqp, RabbitMqProtocol::Management] {
        let jobs = source(protocol, "/", "jobs");
        wait_for(&jobs, &ann(), 3000);
        assert_fails(
            &source(protocol, "/", "missing"),
            &ann(),
            NotFound,
            "missing",
        );
        assert_fails(
            &source(protocol, "other", "jobs"),
            &ann(),
            NotFound,
            "other",
        );
        assert_fails(&jobs, &credentials("wrong"), Unauthorized, "refuse");
    }
    // a user who may connect and nothing else
    manage(
        management,
        "PUT",
        "users/bob",
        r#"{"password":"b0b","tags":""}"#,
    );
    let none = r#"{"configure":"","write":"","read":""}"#;
    manage(management, "PUT", "permissions/%2F/bob", none);
    let bob = Credentials {
        username: Some("bob".into()),
        password: Some("b0b".into()),
        ..nobody()
    };
    assert_eq!(
        read(&source(RabbitMqProtocol::Amqp, "/", "jobs"), &bob),
        Ok(3000)
    );
    drop(server);
    assert_fails(
        &source(RabbitMqProtocol::Amqp, "/", "jobs"),
        &ann(),
        Unreachable,
        "refused",
    );
}

#[test]
fn prometheus() {
    let directory = TempDir::new().unwrap();
    let [port] = free_ports();
    let address = format!("{HOST}:{port}");
    let target = |namespace| servers::prometheus::Target {
        job: namespace,
        address: &address,
        namespace,
    };
    let targets = [target("team"), target("other")];
    let command = servers::prometheus::server(directory.path(), HOST, port, &targets).unwrap();
    let _server = Server::start(directory.path(), "prometheus", command, port);
    let url = HttpUrl::parse(&format!("http://{address}")).unwrap();
    let source = |query: &str, label| {
        SignalSource::Prometheus(Prometheus::new(url.clone(), query, label).unwrap())
    };
    let team = Some(("namespace", "team"));
    let confined = |query: &str| source(query, team);
    wait_for(&source("sum(up)", None), &nobody(), 2000);
    assert_eq!(read(&confined("sum(up)"), &nobody()), Ok(1000));
    let other = r#"sum(up{namespace="other"}) + scalar(sum(up{namespace=~".+"})) / 4"#;
    assert_eq!(read(&confined(other), &nobody()), Ok(1250));
    assert_eq!(
        read(&confined(r#"topk(scalar(sum(up)), up)"#), &nobody()),
        Ok(1000)
    );
    assert_fails(
        &confined(r#"up{job="other"}"#),
        &nobody(),
        NotFound,
        "no sample",
    );
    assert_fails(&source("up", None), &nobody(), InvalidValue, "2 samples");
    assert_fails(
        &confined("up[1m]"),
        &nobody(),
        InvalidValue,
        "a range of samples",
    );
    assert_fails(&confined("0 / 0"), &nobody(), InvalidValue, "NaN");
    assert_fails(&confined("\"text\""), &nobody(), InvalidValue, "a string");
    assert_fails(
        &confined("sum(up) - 2"),
        &nobody(),
        InvalidValue,
        "negative",
    );
    let duplicates = "up * on (instance) group_left scrape_duration_seconds";
    assert_fails(
        &source(duplicates, None),
        &nobody(),
        Protocol,
        "refuses the query",
    );
}

#[test]
fn kafka() {
    let directory = TempDir::new().unwrap();
    let [plain, sasl, controller] = free_ports();
    let ports = servers::kafka::Ports {
        plain,
        sasl,
        controller,
    };
    let command = servers::kafka::server(directory.path(), HOST, ports, ANN).unwrap();
    let server = Server::start(directory.path(), "kafka", command, plain);
    run(
        servers::kafka::producer(HOST, plain, "jobs").unwrap(),
        "a\nb\nc\nd\ne\n",
    );
    let kafka = |without_commits| Kafka {
        brokers: vec![endpoint(plain)],
        group: "workers".into(),
        topic: "jobs".into(),
        sasl: None,
        without_commits,
    };
    let earliest = SignalSource::Kafka(kafka(WithoutCommits::Earliest));
    let latest = SignalSource::Kafka(kafka(WithoutCommits::Latest));
    // the first question makes the topic that commits are kept in
    wait_for(&earliest, &nobody(), 5000);
    assert_eq!(read(&latest, &nobody()), Ok(0));
    run(
        servers::kafka::commit(HOST, plain, "workers", "jobs", 0).unwrap(),
        "",
    );
    assert_eq!(read(&latest, &nobody()), Ok(5000));

    let with_sasl = |mechanism| {
        SignalSource::Kafka(Kafka {
            brokers: vec![endpoint(sasl)],
            sasl: mechanism,
            ..kafka(WithoutCommits::Latest)
        })
    };
    for mechanism in [Sasl::Plain, Sasl::ScramSha256, Sasl::ScramSha512] {
        let source = with_sasl(Some(mechanism));
        assert_eq!(read(&source, &ann()), Ok(5000), "{mechanism:?}");
        assert_fails(
            &source,
            &credentials("wrong"),
            Unauthorized,
            "refuses the credentials",
        );
        assert_fails(
            &source,
            &nobody(),
            Unauthorized,
            "needs username and password",
        );
    }
    assert_fails(&with_sasl(None), &nobody(), Unreachable, "SASL");
    let missing = SignalSource::Kafka(Kafka {
        topic: "missing".into(),
        ..kafka(WithoutCommits::Latest)
    });
    assert_fails(&missing, &nobody(), NotFound, "no topic `missing`");
    // reading did not make it
    assert_fails(&missing, &nobody(), NotFound, "no topic `missing`");
    run(
        servers::kafka::commit(HOST, plain, "workers", "jobs", 99).unwrap(),
        "",
    );
    assert_eq!(read(&latest, &nobody()), Ok(0));
    drop(server);
    assert_fails(&latest, &nobody(), Unreachable, "refused");
}
