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
async fn a_body_that_is_too_large_to_be_held_wakes_the_service_and_is_refused_before_it_is_sent() {
    let gateway = TestGateway::new(json!({})).await;
    let head = b"POST / HTTP/1.1\r\nhost: chat\r\nexpect: 100-continue\r\ncontent-length: 16777217\r\n\r\n";
    let answer = send(gateway.address, head).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("retry-after: 5\r\n"), "{answer}");
    assert!(answer.contains("send it again"), "{answer}");
    assert_eq!(gateway.held(), 1, "the leader hears of it");
    gateway.wait_for_held(0).await;
}

#[tokio::test]
async fn a_body_that_trickles_has_no_longer_than_the_hold_timeout() {
    let idle_timeout = Duration::from_millis(200);
    let gateway = TestGateway::with_idle_timeout(json!({"holdTimeout": "1s"}), idle_timeout).await;
    let answer = answer_to_trickle(gateway.address, 1_000).await;
    assert_eq!(&answer, b"HTTP/1.1 408");
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
    let ports = BTreeMap::from([(port, code), (gateway.address.port(), chat())]);
    assert!(!gateway.listeners.sync(&ports).await);
    let held = tokio::spawn(complete(gateway.address));
    gateway.wait_for_held(1).await;
    drop(taken);
    assert!(gateway.listeners.sync(&ports).await);
    let answer = complete(SocketAddr::from(([127, 0, 0, 1], port))).await;
    assert!(answer.contains("not_found"), "{answer}");
    held.abort();
}

#[tokio::test]
async fn a_replica_that_never_begins_its_answer_ends_with_504() {
    let limits = Limits {
        response_header: Duration::from_millis(300),
        ..LIMITS
    };
    let mut gateway = TestGateway::with_limits(json!({}), limits).await;
    let (silent, address) = replica_listener().await;
    gateway.set_replica(Some(address));
    let answer = tokio::spawn(complete(gateway.address));
    let (stream, _) = silent.accept().await.unwrap();
    let mut replica = BufReader::new(stream);
    read_request(&mut replica).await;
    let answer = answer.await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 504") && answer.contains("replica_timeout"),
        "{answer}"
    );
    let end = tokio::time::timeout(TIMEOUT, replica.read(&mut [0])).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "the replica works on");
}

/// A replica that sends without end.
async fn endless_replica() -> SocketAddr {
    let (listener, address) = replica_listener().await;
    serve_connections(listener, |stream| async move {
        let mut stream = BufReader::new(stream);
        read_next_request(&mut stream).await;
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n";
        let mut sent = stream.get_mut().write_all(head).await;
        while sent.is_ok() {
            sent = stream.get_mut().write_all(&[b'x'; 65_536]).await;
        }
    });
    address
}

#[tokio::test]
async fn a_client_that_reads_nothing_of_its_answer_holds_no_replica() {
    let limits = Limits {
        client_stall: Duration::from_millis(500),
        ..LIMITS
    };
    let mut gateway = TestGateway::with_limits(json!({}), limits).await;
    gateway.set_replica(Some(endless_replica().await));
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    let mut first = [0; 12];
    client.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    gateway.wait_until_idle().await;
    // one that reads, slowly and without end, is served on
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    let began = std::time::Instant::now();
    let mut part = vec![0; 1 << 20];
    while began.elapsed() < Duration::from_secs(2) {
        client.read_exact(&mut part).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!gateway.demand.is_idle());
}

#[tokio::test]
async fn an_http2_client_that_takes_no_data_holds_no_replica() {
    let limits = Limits {
        client_stall: Duration::from_millis(500),
        ..LIMITS
    };
    let mut gateway = TestGateway::with_limits(json!({}), limits).await;
    gateway.set_replica(Some(endless_replica().await));
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let body = http_body_util::Full::new(bytes::Bytes::from("hello"));
    let request = http::Request::post("http://chat/v1/completions").body(body);
    let response = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    gateway.wait_until_idle().await;
    drop(response);
}

#[tokio::test]
async fn a_request_that_waits_longer_than_a_client_may_stall_is_served() {
    let limits = Limits {
        client_stall: Duration::from_millis(100),
        ..LIMITS
    };
    let mut gateway = TestGateway::with_limits(json!({}), limits).await;
    let held = tokio::spawn(complete(gateway.address));
    gateway.wait_for_held(1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (listener, address) = replica_listener().await;
    answer_all(listener);
    gateway.set_replica(Some(address));
    let answer = held.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_request_waits_for_a_less_busy_replica_only_so_long() {
    let limits = Limits {
        pacing: Duration::from_millis(300),
        ..LIMITS
    };
    let mut gateway = TestGateway::with_limits(json!({}), limits).await;
    gateway.set_scaling(8, 2);
    let (listener, address) = replica_listener().await;
    gateway.set_replica(Some(address));
    for _ in 0..6 {
        tokio::spawn(complete(gateway.address));
    }
    let mut connections = Vec::new();
    for _ in 0..6 {
        let accepted = tokio::time::timeout(TIMEOUT, listener.accept()).await;
        connections.push(accepted.unwrap().unwrap());
    }
}

#[tokio::test]
async fn a_service_that_was_woken_often_enough_is_woken_no_more_and_says_when() {
    let mut gateway = TestGateway::new(json!({"maxWakesPerHour": 2})).await;
    for _ in 0..2 {
        // the second request of a start takes no token
        let waits = [(); 2].map(|()| tokio::spawn(complete(gateway.address)));
        gateway.wait_for_held(2).await;
        let (listener, address) = replica_listener().await;
        answer_all(listener);
        gateway.set_replica(Some(address));
        for answer in waits {
            assert!(answer.await.unwrap().starts_with("HTTP/1.1 200"));
        }
        gateway.set_replica(None);
    }
    let mut seen = gateway.demand.subscribe();
    seen.next().await;
    let answer = complete(gateway.address).await;
    let retry_after = answer
        .lines()
        .find_map(|line| line.strip_prefix("retry-after: "));
    let seconds: u64 = retry_after.unwrap().parse().unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 429")
            && answer.contains("rate_limit_exceeded")
            && answer.contains("2 times an hour (activation.maxWakesPerHour)")
            && (1_790..=1_801).contains(&seconds),
        "{answer}"
    );
    let mut sent = seen.next().await.services.into_iter();
    assert!(sent.all(|service| service.held == 0), "it wakes nothing");
    let wakes = crate::metrics::ServiceLabel::of(&chat());
    assert_eq!(gateway.metrics.wakes.get_or_create(&wakes).get(), 2);
    let refused = crate::metrics::OutcomeLabel {
        outcome: "wake_limit",
    };
    assert_eq!(gateway.metrics.requests.get_or_create(&refused).get(), 1);
    // a replica that is ready serves
    let (listener, address) = replica_listener().await;
    answer_all(listener);
    gateway.set_replica(Some(address));
    assert!(complete(gateway.address).await.starts_with("HTTP/1.1 200"));
}
