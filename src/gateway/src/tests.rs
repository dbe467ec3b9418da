//! Requests over real sockets on loopback: held, woken, streamed, retried, refused.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bursar_api::InferenceDeployment;
use futures::future::join_all;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::demand::Demand;
use crate::forward::Forwarder;
use crate::meter::Meters;
use crate::route::Routes;
use crate::serve::Listeners;

const LIMIT: Duration = Duration::from_secs(20);

/// A gateway for the one service ns/chat.
struct World {
    routes: Routes,
    publish: watch::Sender<Arc<Routes>>,
    demand: Demand,
    gateway: SocketAddr,
    _listeners: Listeners,
}

impl World {
    async fn new(activation: Value) -> Self {
        let demand = Demand::new("g", Meters::new(&mut Registry::default()));
        let (publish, receive) = watch::channel(Arc::new(Routes::default()));
        let forwarder = Forwarder::new(
            receive,
            demand.clone(),
            Meters::new(&mut Registry::default()),
        );
        let mut listeners = Listeners::new(forwarder);
        // a free port, for this process alone as long as the other listener lives
        let probe = TcpListener::bind("[::]:0").await.unwrap();
        let port = probe.local_addr().unwrap().port();
        drop(probe);
        assert!(
            listeners
                .follow([(port, ("ns".to_owned(), "chat".to_owned()))].into())
                .await
        );
        let gateway = SocketAddr::from(([127, 0, 0, 1], port));
        let mut world = Self {
            routes: Routes::default(),
            publish,
            demand,
            gateway,
            _listeners: listeners,
        };
        world.service(activation, Value::Null);
        world
    }

    fn service(&mut self, activation: Value, refusal: Value) {
        let object: InferenceDeployment = serde_json::from_value(json!({
            "apiVersion": "bursar.dev/v1alpha1", "kind": "InferenceDeployment",
            "metadata": {"name": "chat", "namespace": "ns"},
            "spec": {"engine": "vLLM", "maxReplicas": 1, "activation": activation},
            "status": {"activation": {"port": 20000, "refusal": refusal}},
        }))
        .unwrap();
        self.routes.apply_service(&object);
        self.publish.send_replace(Arc::new(self.routes.clone()));
    }

    fn replica(&mut self, address: Option<SocketAddr>) {
        let endpoints: Vec<_> = address
            .iter()
            .map(|address| json!({"addresses": [address.ip()], "conditions": {"ready": true}}))
            .collect();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "chat-a", "namespace": "ns", "labels": {"bursar.dev/workload": "chat"}}, "addressType": "IPv4",
            "endpoints": endpoints, "ports": [{"name": "http", "port": address.map_or(1, |address| address.port())}],
        }))
        .unwrap();
        self.routes.apply_slice(&slice);
        self.publish.send_replace(Arc::new(self.routes.clone()));
    }

    fn held(&self) -> u64 {
        self.demand
            .message(jiff::Timestamp::UNIX_EPOCH)
            .services
            .iter()
            .map(|service| service.held)
            .sum()
    }

    /// Waits until this many requests are held.
    async fn holds(&self, count: u64) {
        let reached = async {
            while self.held() != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, reached)
            .await
            .unwrap_or_else(|_| unreachable!("{} are held, not {count}", self.held()));
    }
}

/// What a client gets: status, headers and body as they came.
async fn ask(gateway: SocketAddr) -> String {
    let asked = async {
        let mut stream = TcpStream::connect(gateway).await.unwrap();
        let request =
            "POST /v1/completions HTTP/1.1\r\nhost: chat\r\ncontent-length: 5\r\n\r\nhello";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    tokio::time::timeout(LIMIT, asked).await.unwrap()
}

/// Reads one request with its five bytes of body.
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

async fn upstream() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Answers every request with its number.
fn answer_all(listener: TcpListener) {
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                read_request(&mut stream).await;
                let body = format!("number {number}");
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
            });
        }
    });
}

#[tokio::test]
async fn a_thousand_held_requests_are_all_served_once_a_replica_is_ready() {
    let mut world = World::new(json!({})).await;
    let clients: Vec<_> = (0..1000)
        .map(|_| tokio::spawn(ask(world.gateway)))
        .collect();
    world.holds(1000).await;
    let (listener, address) = upstream().await;
    answer_all(listener);
    world.replica(Some(address));
    for answer in join_all(clients).await {
        let answer = answer.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 OK") && answer.contains("connection: close"),
            "{answer}"
        );
    }
    assert!(
        world.demand.is_idle(),
        "nothing is counted as held or in flight any more"
    );
}

#[tokio::test]
async fn more_than_the_limit_is_refused_at_once() {
    let world = World::new(json!({"maxHeldRequests": 1})).await;
    let first = tokio::spawn(ask(world.gateway));
    world.holds(1).await;
    let answer = ask(world.gateway).await;
    assert!(
        answer.starts_with("HTTP/1.1 503")
            && answer.contains("queue_full")
            && answer.contains("retry-after: 5"),
        "{answer}"
    );
    first.abort();
    let _ = first.await;
    world.holds(0).await;
}

#[tokio::test]
async fn a_request_is_not_held_longer_than_the_timeout() {
    let world = World::new(json!({"holdTimeout": "300ms"})).await;
    let answer = ask(world.gateway).await;
    assert!(
        answer.starts_with("HTTP/1.1 504") && answer.contains("hold_expired"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_budget_that_closes_refuses_what_is_held_and_what_comes() {
    let mut world = World::new(json!({})).await;
    let held = tokio::spawn(ask(world.gateway));
    world.holds(1).await;
    let refusal =
        json!({"status": 429, "code": "insufficient_quota", "message": "budget team is exhausted"});
    world.service(json!({}), refusal);
    for answer in [held.await.unwrap(), ask(world.gateway).await] {
        assert!(
            answer.starts_with("HTTP/1.1 429") && answer.contains("insufficient_quota"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn an_answer_is_streamed_chunk_by_chunk() {
    let mut world = World::new(json!({})).await;
    let (listener, address) = upstream().await;
    let (go, mut wait) = tokio::sync::mpsc::channel::<()>(1);
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let head = read_request(&mut stream).await;
        let stream = stream.get_mut();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\none\n\r\n")
            .await
            .unwrap();
        wait.recv().await.unwrap();
        stream.write_all(b"4\r\ntwo\n\r\n0\r\n\r\n").await.unwrap();
        head
    });
    world.replica(Some(address));
    let mut client = BufReader::new(TcpStream::connect(world.gateway).await.unwrap());
    let request = b"POST /v1/completions HTTP/1.1\r\nhost: chat\r\nx-request-id: 7\r\ncontent-length: 5\r\n\r\nhello";
    client.get_mut().write_all(request).await.unwrap();
    let until = |text: &'static str, client: BufReader<TcpStream>| async move {
        let (mut client, mut seen) = (client, String::new());
        while !seen.ends_with(text) {
            assert!(
                tokio::time::timeout(LIMIT, client.read_line(&mut seen))
                    .await
                    .unwrap()
                    .unwrap()
                    > 0,
                "{seen}"
            );
        }
        client
    };
    // the second chunk is not sent before the first has arrived
    let client = until("one\n", client).await;
    go.send(()).await.unwrap();
    until("two\n", client).await;
    let head = server.await.unwrap().to_lowercase();
    assert!(
        head.contains("host: chat")
            && head.contains("x-request-id: 7")
            && head.contains("x-forwarded-for: 127.0.0.1"),
        "{head}"
    );
}

#[tokio::test]
async fn a_replica_that_closes_its_socket_costs_no_request() {
    let mut world = World::new(json!({})).await;
    let (closing, address) = upstream().await;
    world.replica(Some(address));
    let client = tokio::spawn(ask(world.gateway));
    // accepted, and closed before a byte is answered
    let (stream, _) = closing.accept().await.unwrap();
    let mut stream = BufReader::new(stream);
    read_request(&mut stream).await;
    drop((stream, closing));
    let (listener, address) = upstream().await;
    answer_all(listener);
    world.replica(Some(address));
    let answer = client.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn an_answer_that_broke_off_is_not_asked_for_again() {
    let mut world = World::new(json!({})).await;
    let (listener, address) = upstream().await;
    world.replica(Some(address));
    let client = tokio::spawn(ask(world.gateway));
    let (stream, _) = listener.accept().await.unwrap();
    let mut stream = BufReader::new(stream);
    read_request(&mut stream).await;
    stream
        .get_mut()
        .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\none\n\r\n")
        .await
        .unwrap();
    drop(stream);
    assert!(client.await.unwrap().contains("one"));
    let again = tokio::time::timeout(Duration::from_millis(300), listener.accept()).await;
    assert!(again.is_err(), "the request was sent a second time");
}
