//! Requests over real sockets on loopback: held, forwarded, streamed, sent again, refused.

mod callers;
mod cold_start;
mod fuzz;
mod headers;
mod holding;
mod kept;
mod limits;
mod process;
mod replicas;
mod shares;
mod shutdown;
mod stalls;
mod strict_http;
mod uploads;

use std::net::SocketAddr;
use std::time::Duration;

use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::access::directory::Directory;
use crate::demand::DemandTracker;
use crate::held_bytes::HeldBytes;
use crate::listeners::Listeners;
use crate::metrics::Metrics;
use crate::request::{Limits, RequestHandler};
use crate::route::{Route, RouteTable, ServiceRoutes};
use crate::service_key::ServiceKey;

const TIMEOUT: Duration = Duration::from_secs(20);
const LIMITS: Limits = Limits {
    client_idle: TIMEOUT,
    client_stall: TIMEOUT,
    response_header: TIMEOUT,
    response_idle: TIMEOUT,
    pacing: TIMEOUT,
    close_clients: true,
    kept_idle: TIMEOUT,
};

/// A gateway for the one service ns/chat.
struct TestGateway {
    route: Route,
    published: ServiceRoutes,
    metrics: Metrics,
    directory: Directory,
    demand: DemandTracker,
    held_bytes: HeldBytes,
    unread_bytes: HeldBytes,
    address: SocketAddr,
    listeners: Listeners,
}

impl TestGateway {
    async fn new(activation: Value) -> Self {
        Self::with_idle_timeout(activation, TIMEOUT).await
    }

    /// A gateway that closes the connections of clients which send nothing for so long.
    async fn with_idle_timeout(activation: Value, idle_timeout: Duration) -> Self {
        let limits = Limits {
            client_idle: idle_timeout,
            ..LIMITS
        };
        Self::with_limits(activation, limits).await
    }

    async fn with_limits(activation: Value, limits: Limits) -> Self {
        let demand = DemandTracker::new("g", Metrics::new(&mut Registry::default()));
        let (published, directory) = (ServiceRoutes::default(), Directory::default());
        let metrics = Metrics::new(&mut Registry::default());
        let handler = RequestHandler::new(
            published.clone(),
            directory.clone(),
            demand.clone(),
            metrics.clone(),
            limits,
        );
        let held_bytes = handler.held_bytes().clone();
        let unread_bytes = handler.unread_bytes().clone();
        let mut listeners = Listeners::new(handler);
        let port = free_port().await;
        assert!(listeners.sync(&[(port, chat())].into()).await);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut gateway = Self {
            route: Route::default(),
            published,
            metrics,
            directory,
            demand,
            held_bytes,
            unread_bytes,
            address,
            listeners,
        };
        gateway.set_service(activation, Value::Null);
        gateway
    }

    fn set_service(&mut self, activation: Value, refusal: Value) {
        self.apply_service(service(activation, refusal, 20_000));
    }

    fn apply_service(&mut self, object: Value) {
        let mut routes = RouteTable::default();
        routes.apply_service(&serde_json::from_value(object).unwrap());
        let route = routes.route(&chat());
        (self.route.policy, self.route.access) = (route.policy, route.access);
        self.published.set(chat(), self.route.clone());
    }

    /// Sets the most replicas and the queue depth that one of them should have.
    fn set_scaling(&mut self, max_replicas: u32, target: u32) {
        self.set_scaling_and_hold(max_replicas, target, 1000);
    }

    /// As [`Self::set_scaling`], with the most requests that are held.
    fn set_scaling_and_hold(&mut self, max_replicas: u32, target: u32, max_held: u32) {
        let activation = json!({"maxHeldRequests": max_held});
        let mut object = service(activation, Value::Null, 20_000);
        object["spec"]["maxReplicas"] = json!(max_replicas);
        let signals = json!([{"type": "Engine", "target": target}]);
        object["spec"]["scaling"] = json!({"signals": signals});
        self.apply_service(object);
    }

    fn set_replica(&mut self, address: Option<SocketAddr>) {
        self.set_replicas(address.as_slice());
    }

    /// Lets these be the service's ready replicas.
    fn set_replicas(&mut self, addresses: &[SocketAddr]) {
        self.route.ready = addresses.to_vec();
        self.published.set(chat(), self.route.clone());
    }

    fn held(&self) -> u64 {
        self.demand
            .message(jiff::Timestamp::UNIX_EPOCH)
            .services
            .iter()
            .map(|service| service.held)
            .sum()
    }

    /// Waits until no request is held or in flight.
    async fn wait_until_idle(&self) {
        let idle = async {
            while !self.demand.is_idle() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, idle).await.unwrap();
    }

    /// Waits until neither requests nor answers that nobody reads have any bytes.
    async fn wait_until_released(&self) {
        let released = async {
            while !self.held_bytes.is_empty() || !self.unread_bytes.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, released).await.unwrap();
    }

    /// Waits until this many requests are held.
    async fn wait_for_held(&self, count: u64) {
        let reached = async {
            while self.held() != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, reached)
            .await
            .unwrap_or_else(|_| unreachable!("{} are held, not {count}", self.held()));
    }
}

pub(crate) fn chat() -> ServiceKey {
    ("ns".to_owned(), "chat".to_owned())
}

pub(crate) fn service(activation: Value, refusal: Value, port: u16) -> Value {
    json!({
        "apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment",
        "metadata": {"name": "chat", "namespace": "ns"},
        "spec": {"engine": "vLLM", "maxReplicas": 1, "activation": activation},
        "status": {"activation": {"port": port, "refusal": refusal}},
    })
}

/// A port that is free now.
async fn free_port() -> u16 {
    let probe = TcpListener::bind("[::]:0").await.unwrap();
    probe.local_addr().unwrap().port()
}

const REQUEST: &[u8] =
    b"POST /v1/completions HTTP/1.1\r\nhost: chat\r\ncontent-length: 5\r\n\r\nhello";

/// Sends a completion request, and returns the response as it came.
async fn complete(gateway: SocketAddr) -> String {
    send(gateway, REQUEST).await
}

/// Sends these bytes, and returns all that comes until the connection is closed.
async fn send(gateway: SocketAddr, request: &[u8]) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(gateway).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    tokio::time::timeout(TIMEOUT, exchange).await.unwrap()
}

/// Reads lines until the text read so far has this text.
async fn read_until(client: &mut BufReader<TcpStream>, seen: &mut String, text: &str) {
    while !seen.contains(text) {
        let line = tokio::time::timeout(TIMEOUT, client.read_line(seen)).await;
        assert!(line.unwrap().unwrap() > 0, "{seen}");
    }
}

/// Reads one request with its body of five bytes.
async fn read_request(stream: &mut BufReader<TcpStream>) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(
            stream.read_line(&mut head).await.unwrap() > 0,
            "the request ends early: {head}"
        );
    }
    let mut body = [0; 5];
    stream.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"hello");
    head
}

/// Reads one request with its body; `None` if the connection ends.
async fn read_next_request(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| {
        line.to_lowercase()
            .strip_prefix("content-length:")?
            .trim()
            .parse()
            .ok()
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some(head)
}

async fn replica_listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Serves each connection to a replica.
fn serve_connections<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream));
        }
    });
}

/// Answers every request with its number.
fn answer_all(listener: TcpListener) {
    let numbers = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    serve_connections(listener, move |stream| {
        let numbers = numbers.clone();
        async move {
            let mut stream = BufReader::new(stream);
            while read_next_request(&mut stream).await.is_some() {
                let number = numbers.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                let body = format!("number {number}");
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    });
}

/// The status line's beginning in the answer to a request with a body of so many bytes, of which the
/// client sends one every 20 ms.
async fn answer_to_trickle(gateway: SocketAddr, length: usize) -> [u8; 12] {
    let mut client = TcpStream::connect(gateway).await.unwrap();
    let head = format!("POST / HTTP/1.1\r\nhost: chat\r\ncontent-length: {length}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let (mut read, mut write) = client.into_split();
    let trickle = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut answer = [0; 12];
    let first = read.read_exact(&mut answer);
    tokio::time::timeout(TIMEOUT, first).await.unwrap().unwrap();
    trickle.abort();
    answer
}
