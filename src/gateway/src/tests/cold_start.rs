//! Ten thousand requests for a hundred services through one gateway, while all of them start.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::watch;

use super::*;

const SERVICES: usize = 100;
const NAMESPACES: usize = 10;
/// Requests of each service that have connections of their own, and that share one of HTTP/2. A process
/// may have too few open files for ten thousand connections and their clients.
const REQUESTS: (usize, usize) = (30, 70);
const TARGET: usize = 8;
const BODY: usize = 4 << 10;
/// All that a gateway may hold.
const LIMIT: usize = 512 << 20;
const PATIENT: Duration = Duration::from_secs(120);

/// A replica that answers with the first bytes of a body, once it may.
struct Replica {
    address: SocketAddr,
    running: Arc<AtomicUsize>,
    /// The most requests that it had at a time.
    most: Arc<AtomicUsize>,
}

impl Replica {
    async fn start(answers: watch::Receiver<bool>) -> Self {
        let (listener, address) = replica_listener().await;
        let replica = Self {
            address,
            running: Arc::default(),
            most: Arc::default(),
        };
        let counts = (replica.running.clone(), replica.most.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (counts, answers) = (counts.clone(), answers.clone());
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let ((running, most), mut answers) = (counts.clone(), answers.clone());
                    async move {
                        let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now, Ordering::SeqCst);
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        assert_eq!(body.len(), BODY);
                        let _ = answers.wait_for(|answers| *answers).await;
                        running.fetch_sub(1, Ordering::SeqCst);
                        let answer = http::Response::new(Full::new(body.slice(..16)));
                        Ok::<http::Response<Full<Bytes>>, Infallible>(answer)
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        replica
    }

    fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }
}

/// Sends one request with a number, and says whether the answer has it.
async fn ask(port: u16, number: usize) -> bool {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let number = format!("{number:016}");
    let head =
        format!("POST /v1/completions HTTP/1.1\r\nhost: chat\r\ncontent-length: {BODY}\r\n\r\n");
    let body = number.repeat(BODY / 16);
    stream.write_all((head + &body).as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.starts_with("HTTP/1.1 200") && answer.ends_with(&number)
}

/// As [`ask`], of many requests over one connection of HTTP/2. Returns how many were answered.
async fn ask_over_http2(port: u16, numbers: Vec<usize>) -> usize {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let answers = numbers.into_iter().map(|number| {
        let mut sender = sender.clone();
        async move {
            let number = format!("{number:016}");
            let request = http::Request::post("http://chat/v1/completions");
            let request = request
                .body(Full::new(Bytes::from(number.repeat(BODY / 16))))
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            let is_served = answer.status() == 200;
            is_served && answer.into_body().collect().await.unwrap().to_bytes() == number
        }
    });
    let answers = join_all(answers).await;
    answers.into_iter().filter(|is_served| *is_served).count()
}

async fn wait_until(reached: impl Fn() -> bool) {
    let waiting = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENT, waiting).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_requests_of_a_hundred_services_wait_for_their_replicas_and_none_is_lost() {
    bursar_runtime::open_files::raise_limit();
    let limits = Limits {
        client_idle: PATIENT,
        client_stall: PATIENT,
        pacing: PATIENT,
        ..LIMITS
    };
    let mut gateway = TestGateway::with_limits(json!({}), limits).await;
    let probes: Vec<_> = join_all((0..SERVICES).map(|_| TcpListener::bind("[::]:0"))).await;
    let port =
        |probe: &std::io::Result<TcpListener>| probe.as_ref().unwrap().local_addr().unwrap().port();
    let ports: Vec<u16> = probes.iter().map(port).collect();
    drop(probes);
    let mut table = RouteTable::default();
    let mut keys = Vec::new();
    for number in 0..SERVICES {
        let key = (
            format!("ns-{}", number % NAMESPACES),
            format!("chat-{number}"),
        );
        let mut object = service(json!({"holdTimeout": "1h"}), Value::Null, 20_000);
        object["metadata"] = json!({"namespace": key.0, "name": key.1});
        object["spec"]["maxReplicas"] = json!(4);
        object["spec"]["scaling"] = json!({"signals": [{"type": "Engine", "target": TARGET}]});
        table.apply_service(&serde_json::from_value(object).unwrap());
        keys.push(key);
    }
    table.publish(&gateway.published);
    let routes: Vec<_> = keys.iter().map(|key| table.route(key)).collect();
    let by_port = ports.iter().copied().zip(keys.iter().cloned()).collect();
    assert!(gateway.listeners.sync(&by_port).await);

    let (alone, together) = (SERVICES * REQUESTS.0, SERVICES * REQUESTS.1);
    let total = alone + together;
    let clients: Vec<_> = (0..alone)
        .map(|number| tokio::spawn(ask(ports[number % SERVICES], number)))
        .collect();
    let connections = ports.iter().enumerate().map(|(number, port)| {
        let first = alone + number * REQUESTS.1;
        tokio::spawn(ask_over_http2(*port, (first..first + REQUESTS.1).collect()))
    });
    let connections: Vec<_> = connections.collect();
    wait_until(|| gateway.held() == total as u64).await;
    let held = gateway.held_bytes.total();
    assert!(
        (total * BODY..LIMIT).contains(&held),
        "{held} bytes are held"
    );

    // one replica of each service after another becomes ready, and none answers yet
    let answers = watch::Sender::new(false);
    let mut replicas: Vec<Vec<Replica>> = (0..SERVICES).map(|_| Vec::new()).collect();
    for ready in 1..=3 {
        for (number, replicas) in replicas.iter_mut().enumerate() {
            replicas.push(Replica::start(answers.subscribe()).await);
            let mut route = routes[number].clone();
            route.ready = replicas.iter().map(|replica| replica.address).collect();
            gateway.published.set(keys[number].clone(), route);
        }
        let taken = ready * TARGET;
        wait_until(|| {
            let full = |replica: &Replica| replica.running() == TARGET;
            replicas.iter().flatten().all(full)
        })
        .await;
        wait_until(|| gateway.held() == (total - SERVICES * taken) as u64).await;
    }
    answers.send_replace(true);
    let answers = tokio::time::timeout(PATIENT, join_all(clients))
        .await
        .unwrap();
    let served = answers
        .into_iter()
        .filter(|answer| matches!(answer, Ok(true)))
        .count();
    assert_eq!(served, alone);
    let answers = tokio::time::timeout(PATIENT, join_all(connections))
        .await
        .unwrap();
    let served: usize = answers.into_iter().map(Result::unwrap).sum();
    assert_eq!(served, together);
    for replica in replicas.iter().flatten() {
        assert_eq!(
            replica.most.load(Ordering::SeqCst),
            TARGET,
            "more than the target at a time"
        );
    }
    wait_until(|| gateway.demand.is_idle() && gateway.held_bytes.is_empty()).await;
}
