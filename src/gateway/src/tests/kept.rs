//! Services whose requests all go through gateways: connections are kept, and a gateway is in nobody's
//! way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A client with a connection that it keeps.
struct KeptClient(BufReader<TcpStream>);

impl KeptClient {
    async fn connect(gateway: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(gateway).await.unwrap()))
    }

    /// Sends a request on the connection, and returns the answer.
    async fn complete(&mut self) -> String {
        self.0.get_mut().write_all(REQUEST).await.unwrap();
        let mut answer = String::new();
        read_until(&mut self.0, &mut answer, "\r\n\r\n").await;
        let mut body = [0; 2];
        self.0.read_exact(&mut body).await.unwrap();
        answer
    }

    /// Whether the gateway has closed the connection.
    async fn is_closed(&mut self) -> bool {
        let mut byte = [0; 1];
        let read = self.0.read(&mut byte);
        let read = tokio::time::timeout(Duration::from_millis(200), read).await;
        read.is_ok_and(|read| read.is_ok_and(|bytes| bytes == 0))
    }
}

/// A replica that answers `ok`.
async fn replica() -> SocketAddr {
    let (listener, address) = replica_listener().await;
    serve_connections(listener, |stream| async move {
        let mut stream = BufReader::new(stream);
        while read_next_request(&mut stream).await.is_some() {
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.get_mut().write_all(answer).await.unwrap();
        }
    });
    address
}

fn always() -> Value {
    json!({"mode": "Always"})
}

const CLOSES: &str = "connection: close";

#[tokio::test]
async fn a_connection_is_kept_while_all_requests_go_through_gateways() {
    let mut gateway = TestGateway::new(always()).await;
    gateway.set_replica(Some(replica().await));
    let mut client = KeptClient::connect(gateway.address).await;
    for _ in 0..3 {
        let answer = client.complete().await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && !answer.contains(CLOSES),
            "{answer}"
        );
    }
    // the service goes back to its replicas
    gateway.set_service(json!({"mode": "OnDemand"}), Value::Null);
    let answer = client.complete().await;
    assert!(answer.contains(CLOSES), "{answer}");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_request_that_was_held_keeps_its_connection_as_well() {
    let mut gateway = TestGateway::new(always()).await;
    let mut client = KeptClient::connect(gateway.address).await;
    let held = tokio::spawn(async move {
        let answer = client.complete().await;
        (client, answer)
    });
    gateway.wait_for_held(1).await;
    gateway.set_replica(Some(replica().await));
    let (mut client, answer) = held.await.unwrap();
    assert!(!answer.contains(CLOSES), "{answer}");
    // none is ready, and it is refused: the connection stays
    gateway.set_replica(None);
    let refusal = json!({"status": 0, "code": "BudgetExhausted", "message": "no"});
    gateway.set_service(always(), refusal);
    let answer = client.complete().await;
    assert!(
        answer.starts_with("HTTP/1.1 429") && !answer.contains(CLOSES),
        "{answer}"
    );
}

/// The client would send its next request where the rest of the body is expected.
#[tokio::test]
async fn a_connection_is_not_kept_where_a_body_was_not_read() {
    let refusal = json!({"status": 0, "code": "BudgetExhausted", "message": "no"});
    let mut gateway = TestGateway::new(always()).await;
    gateway.set_service(always(), refusal);
    let head =
        b"POST / HTTP/1.1\r\nhost: chat\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";
    let answer = send(gateway.address, head).await;
    assert!(
        answer.starts_with("HTTP/1.1 429") && answer.contains(CLOSES),
        "{answer}"
    );
}

#[tokio::test]
async fn a_gateway_that_leaves_keeps_no_connection_after_its_next_answer() {
    let mut gateway = TestGateway::new(always()).await;
    gateway.set_replica(Some(replica().await));
    let mut client = KeptClient::connect(gateway.address).await;
    assert!(!client.complete().await.contains(CLOSES));
    gateway.listeners.begin_shutdown();
    assert!(!client.is_closed().await, "it may have sent a request");
    let answer = client.complete().await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains(CLOSES),
        "{answer}"
    );
}

#[tokio::test]
async fn a_kept_connection_may_be_idle_for_longer_than_a_new_one_and_not_for_ever() {
    let limits = Limits {
        client_idle: Duration::from_millis(100),
        client_stall: Duration::from_millis(100),
        kept_idle: Duration::from_secs(2),
        ..LIMITS
    };
    let mut gateway = TestGateway::with_limits(always(), limits).await;
    gateway.set_replica(Some(replica().await));
    let mut new = KeptClient::connect(gateway.address).await;
    let mut kept = KeptClient::connect(gateway.address).await;
    kept.complete().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(new.is_closed().await);
    let answer = kept.complete().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let closed = async { while !kept.is_closed().await {} };
    tokio::time::timeout(TIMEOUT, closed).await.unwrap();
    let aborted = &gateway.metrics.aborted_responses;
    let stalled = aborted.get_or_create(&crate::metrics::CauseLabel::CLIENT_STALLED);
    assert_eq!(stalled.get(), 0, "nobody was stalled");
}

/// A service that is warm is as if no gateway were in its way: a replica takes more than its target.
#[tokio::test]
async fn a_request_to_a_warm_service_does_not_wait_for_further_replicas() {
    for (mode, reached) in [("Always", 3), ("OnDemand", 1)] {
        let (listener, address) = replica_listener().await;
        let requests = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = BufReader::new(stream);
                read_request(&mut stream).await;
                seen.fetch_add(1, Ordering::SeqCst);
                open.push(stream);
            }
        });
        let mut gateway = TestGateway::new(json!({"mode": mode})).await;
        let mut object = service(json!({"mode": mode}), Value::Null, 20_000);
        object["spec"]["maxReplicas"] = json!(3);
        object["spec"]["scaling"] = json!({"signals": [{"type": "Engine", "target": 1}]});
        gateway.apply_service(object);
        gateway.set_replica(Some(address));
        let clients: Vec<_> = (0..3)
            .map(|_| tokio::spawn(complete(gateway.address)))
            .collect();
        let all = async {
            while requests.load(Ordering::SeqCst) < 3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let limit = Duration::from_millis(if mode == "Always" { 10_000 } else { 500 });
        tokio::time::timeout(limit, all).await.ok();
        assert_eq!(requests.load(Ordering::SeqCst), reached, "{mode}");
        clients.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test]
async fn kept_connections_take_half_of_those_that_a_service_may_have_and_leave_the_others_room() {
    let mut gateway = TestGateway::new(json!({"mode": "Always", "maxHeldRequests": 0})).await;
    gateway.set_replica(Some(replica().await));
    let (mut clients, mut kept) = (Vec::new(), 0);
    // as many as may be at a time
    for _ in 0..300 {
        let mut client = KeptClient::connect(gateway.address).await;
        let answer = client.complete().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        kept += usize::from(!answer.contains(CLOSES));
        clients.push(client);
    }
    assert_eq!(kept, 127);
}

/// Of a warm service the leader learns nothing from gateways: its engine tells of what runs.
#[tokio::test]
async fn requests_to_a_warm_service_are_no_messages_to_the_leader() {
    let mut gateway = TestGateway::new(always()).await;
    gateway.set_replica(Some(replica().await));
    let mut client = KeptClient::connect(gateway.address).await;
    let mut subscription = gateway.demand.subscribe();
    subscription.next().await;
    let messages = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&messages);
    let follows = tokio::spawn(async move {
        loop {
            subscription.next().await;
            seen.fetch_add(1, Ordering::SeqCst);
        }
    });
    let began = tokio::time::Instant::now();
    while began.elapsed() < Duration::from_millis(800) {
        client.complete().await;
    }
    let heartbeats = began.elapsed().as_secs() / bursar_signals::demand::HEARTBEAT.as_secs();
    let sent = messages.load(Ordering::SeqCst);
    assert!(sent as u64 <= heartbeats, "{sent} messages");
    follows.abort();
    // one that has to wait is told of at once
    let mut subscription = gateway.demand.subscribe();
    subscription.next().await;
    gateway.set_replica(None);
    let held = tokio::spawn(async move { client.complete().await });
    assert_eq!(subscription.next().await.services[0].held, 1);
    held.abort();
}

/// They would take room of those that may reach it.
#[tokio::test]
async fn a_client_that_may_not_reach_a_service_keeps_no_connection() {
    let mut gateway = TestGateway::new(always()).await;
    gateway.set_replica(Some(replica().await));
    let key = ("other".to_owned(), "scanner".to_owned());
    let address = "127.0.0.1".parse().unwrap();
    gateway.directory.set_pod(&key, vec![address], &[].into());
    gateway.directory.publish(true);
    let mut earlier = KeptClient::connect(gateway.address).await;
    assert!(!earlier.complete().await.contains(CLOSES));
    let only_own = json!({"mode": "Always", "allowFrom": [{"podSelector": {}}]});
    gateway.set_service(only_own, Value::Null);
    let new = KeptClient::connect(gateway.address).await;
    for mut client in [earlier, new] {
        let answer = client.complete().await;
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains(CLOSES),
            "{answer}"
        );
        let mut rest = Vec::new();
        let rest = client.0.read_to_end(&mut rest);
        let ended = tokio::time::timeout(TIMEOUT, rest).await;
        assert!(ended.is_ok(), "it is open");
    }
}
