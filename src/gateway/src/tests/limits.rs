//! Limits for a client: held requests, bytes, time, connections.

use std::collections::BTreeMap;

use super::*;

#[tokio::test]
async fn a_body_that_never_arrives_starts_no_replica_and_ends_with_408() {
    let idle_timeout = Duration::from_millis(300);
    let gateway = TestGateway::with_idle_timeout(json!({}), idle_timeout).await;
    let silent = b"POST / HTTP/1.1\r\nhost: chat\r\ncontent-length: 5\r\n\r\nhell";
    let answer = tokio::spawn(send(gateway.address, silent));
    let mut seen = gateway.demand.subscribe();
    while !answer.is_finished() {
        let message = seen.next().await;
        assert!(message.services.is_empty(), "{message:?}");
    }
    let answer = answer.await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 408")
            && answer.contains("\"code\":\"request_timeout\"")
            && answer.contains("retry-after: "),
        "{answer}"
    );
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_still_sends_its_body() {
    let mut gateway = TestGateway::new(json!({})).await;
    let refusal = json!({"status": 0, "code": "BudgetExhausted", "message": "m"});
    gateway.set_service(json!({}), refusal);
    for size in [4 << 20, 17 << 20] {
        let mut request =
            format!("POST / HTTP/1.1\r\nhost: chat\r\ncontent-length: {size}\r\n\r\n").into_bytes();
        request.resize(request.len() + size, b'x');
        let answer = send(gateway.address, &request).await;
        assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_it_is_sent() {
    let gateway = TestGateway::new(json!({})).await;
    let head = b"POST / HTTP/1.1\r\nhost: chat\r\nexpect: 100-continue\r\ncontent-length: 16777217\r\n\r\n";
    let answer = send(gateway.address, head).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_body_that_trickles_has_no_longer_than_the_hold_timeout() {
    let idle_timeout = Duration::from_millis(200);
    let gateway = TestGateway::with_idle_timeout(json!({"holdTimeout": "1s"}), idle_timeout).await;
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    let head = b"POST / HTTP/1.1\r\nhost: chat\r\ncontent-length: 1000\r\n\r\n";
    client.write_all(head).await.unwrap();
    let (mut read, mut write) = client.into_split();
    let trickle = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut answer = [0; 12];
    let first = read.read_exact(&mut answer);
    tokio::time::timeout(TIMEOUT, first).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    trickle.abort();
}

#[tokio::test]
async fn a_connection_without_a_whole_request_is_closed() {
    let gateway = TestGateway::with_idle_timeout(json!({}), Duration::from_millis(300)).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for start in [&b""[..], b"P", b"POST / HTTP/1.1\r\nhost: c", preface] {
        let mut client = TcpStream::connect(gateway.address).await.unwrap();
        client.write_all(start).await.unwrap();
        let mut answer = Vec::new();
        let end = tokio::time::timeout(TIMEOUT, client.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "{start:?} is waited for");
    }
}

#[tokio::test]
async fn connections_of_a_service_are_limited_and_the_next_waits_for_one_to_end() {
    let gateway = TestGateway::new(json!({"maxHeldRequests": 0})).await;
    let mut silent = Vec::new();
    for _ in 0..256 {
        silent.push(TcpStream::connect(gateway.address).await.unwrap());
    }
    let waiting = tokio::spawn(complete(gateway.address));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    silent.pop();
    let answer = waiting.await.unwrap();
    assert!(answer.contains("queue_full"), "{answer}");
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let gateway = TestGateway::new(json!({})).await;
    let long = "x".repeat(100 << 10);
    let request = format!("GET / HTTP/1.1\r\nhost: chat\r\nx-long: {long}\r\n\r\n");
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    // the connection may be closed before all is sent
    let _ = client.write_all(request.as_bytes()).await;
    let mut answer = [0; 12];
    let first = client.read_exact(&mut answer);
    tokio::time::timeout(TIMEOUT, first).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");
}

#[tokio::test]
async fn a_port_that_cannot_be_opened_keeps_no_other_closed_and_is_opened_later() {
    let mut gateway = TestGateway::new(json!({})).await;
    let taken = TcpListener::bind("[::]:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let code = ("ns".to_owned(), "code".to_owned());
    let chat = ("ns".to_owned(), "chat".to_owned());
    let ports = BTreeMap::from([(port, code), (gateway.address.port(), chat)]);
    assert!(!gateway.listeners.sync(ports.clone()).await);
    let held = tokio::spawn(complete(gateway.address));
    gateway.wait_for_held(1).await;
    drop(taken);
    assert!(gateway.listeners.sync(ports).await);
    let answer = complete(SocketAddr::from(([127, 0, 0, 1], port))).await;
    assert!(answer.contains("not_found"), "{answer}");
    held.abort();
}
