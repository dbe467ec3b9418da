//! Held requests: forwarded, streamed, sent again, refused.

use futures::future::join_all;

use super::*;

#[tokio::test]
async fn a_thousand_held_requests_are_all_served_once_a_replica_is_ready() {
    let mut gateway = TestGateway::new(json!({})).await;
    let clients: Vec<_> = (0..1000)
        .map(|_| tokio::spawn(complete(gateway.address)))
        .collect();
    gateway.wait_for_held(1000).await;
    let (listener, address) = replica_listener().await;
    answer_all(listener);
    gateway.set_replica(Some(address));
    for answer in join_all(clients).await {
        let answer = answer.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 OK") && answer.contains("connection: close"),
            "{answer}"
        );
    }
    assert!(
        gateway.demand.is_idle(),
        "nothing is counted as held or in flight any more"
    );
}

#[tokio::test]
async fn more_than_the_limit_is_refused_at_once() {
    let gateway = TestGateway::new(json!({"maxHeldRequests": 1})).await;
    let first = tokio::spawn(complete(gateway.address));
    gateway.wait_for_held(1).await;
    let answer = complete(gateway.address).await;
    assert!(
        answer.starts_with("HTTP/1.1 503")
            && answer.contains("queue_full")
            && answer.contains("retry-after: 5"),
        "{answer}"
    );
    first.abort();
    let _ = first.await;
    gateway.wait_for_held(0).await;
}

#[tokio::test]
async fn a_request_is_not_held_longer_than_the_timeout() {
    let gateway = TestGateway::new(json!({"holdTimeout": "300ms"})).await;
    let answer = complete(gateway.address).await;
    assert!(
        answer.starts_with("HTTP/1.1 504") && answer.contains("hold_expired"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_budget_that_closes_refuses_what_is_held_and_what_comes() {
    let mut gateway = TestGateway::new(json!({})).await;
    let held = tokio::spawn(complete(gateway.address));
    gateway.wait_for_held(1).await;
    let refusal =
        json!({"status": 429, "code": "insufficient_quota", "message": "budget team is exhausted"});
    gateway.set_service(json!({}), refusal);
    for answer in [held.await.unwrap(), complete(gateway.address).await] {
        assert!(
            answer.starts_with("HTTP/1.1 429") && answer.contains("insufficient_quota"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn an_answer_is_streamed_chunk_by_chunk() {
    let mut gateway = TestGateway::new(json!({})).await;
    let (listener, address) = replica_listener().await;
    let (send_second, mut second_chunk) = tokio::sync::mpsc::channel::<()>(1);
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let head = read_request(&mut stream).await;
        let stream = stream.get_mut();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\none\n\r\n")
            .await
            .unwrap();
        second_chunk.recv().await.unwrap();
        stream.write_all(b"4\r\ntwo\n\r\n0\r\n\r\n").await.unwrap();
        head
    });
    gateway.set_replica(Some(address));
    let mut client = BufReader::new(TcpStream::connect(gateway.address).await.unwrap());
    let request = b"POST /v1/completions HTTP/1.1\r\nhost: chat\r\nx-request-id: 7\r\ncontent-length: 5\r\n\r\nhello";
    client.get_mut().write_all(request).await.unwrap();
    let mut seen = String::new();
    // the second chunk is not sent before the first has arrived
    read_until(&mut client, &mut seen, "one\n").await;
    send_second.send(()).await.unwrap();
    read_until(&mut client, &mut seen, "two\n").await;
    let head = server.await.unwrap().to_lowercase();
    assert!(
        head.contains("host: chat")
            && head.contains("x-request-id: 7")
            && head.contains("x-forwarded-for: 127.0.0.1"),
        "{head}"
    );
}

#[tokio::test]
async fn an_idempotent_request_is_sent_again_after_a_replica_closed_its_connection() {
    let mut gateway = TestGateway::new(json!({})).await;
    let (closing, address) = replica_listener().await;
    gateway.set_replica(Some(address));
    let gateway_address = gateway.address;
    let client = tokio::spawn(async move {
        let put = b"PUT /v1/files/7 HTTP/1.1\r\nhost: chat\r\ncontent-length: 5\r\n\r\nhello";
        send(gateway_address, put).await
    });
    // the replica accepts the connection, and closes it before it answers a byte
    let (stream, _) = closing.accept().await.unwrap();
    let mut stream = BufReader::new(stream);
    read_request(&mut stream).await;
    drop((stream, closing));
    let (listener, address) = replica_listener().await;
    answer_all(listener);
    gateway.set_replica(Some(address));
    let answer = client.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

#[tokio::test]
async fn a_request_is_not_sent_again_after_a_response_began() {
    let mut gateway = TestGateway::new(json!({})).await;
    let (listener, address) = replica_listener().await;
    gateway.set_replica(Some(address));
    let client = tokio::spawn(complete(gateway.address));
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

#[tokio::test]
async fn a_held_request_is_streamed_chunk_by_chunk() {
    let mut gateway = TestGateway::new(json!({})).await;
    let mut client = BufReader::new(TcpStream::connect(gateway.address).await.unwrap());
    client.get_mut().write_all(REQUEST).await.unwrap();
    gateway.wait_for_held(1).await;
    let (listener, address) = replica_listener().await;
    gateway.set_replica(Some(address));
    let (stream, _) = listener.accept().await.unwrap();
    let mut replica = BufReader::new(stream);
    read_request(&mut replica).await;
    let head =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    replica.get_mut().write_all(head).await.unwrap();
    let mut seen = String::new();
    for word in ["one", "two"] {
        let event = format!("data: {word}\n\n");
        let chunk = format!("{:x}\r\n{event}\r\n", event.len());
        replica.get_mut().write_all(chunk.as_bytes()).await.unwrap();
        // the next event is not sent before this one has arrived
        read_until(&mut client, &mut seen, &event).await;
    }
    assert!(seen.contains("content-type: text/event-stream"), "{seen}");
    assert_eq!(gateway.held(), 0, "what is streamed waits no more");
}

#[tokio::test]
async fn a_refusal_that_appears_ends_held_requests_whatever_its_reason() {
    let mut gateway = TestGateway::new(json!({})).await;
    let held = tokio::spawn(complete(gateway.address));
    gateway.wait_for_held(1).await;
    let message = "pod chat-1 cannot start: ImagePullBackOff";
    gateway.set_service(
        json!({}),
        json!({"status": 0, "code": "StartFailed", "message": message}),
    );
    let answer = held.await.unwrap();
    let body = format!("\"code\":\"start_failed\",\"message\":\"{message}\"");
    assert!(
        answer.starts_with("HTTP/1.1 503")
            && answer.contains("retry-after: 10\r\n")
            && answer.contains(&body),
        "{answer}"
    );
}

#[tokio::test]
async fn a_refusal_past_its_retry_time_no_longer_counts() {
    let mut gateway = TestGateway::new(json!({})).await;
    let past = json!({"status": 0, "code": "BudgetExhausted", "message": "m", "retryAt": "2026-01-01T00:00:00Z"});
    gateway.set_service(json!({}), past);
    let held = tokio::spawn(complete(gateway.address));
    gateway.wait_for_held(1).await;
    let (listener, address) = replica_listener().await;
    answer_all(listener);
    gateway.set_replica(Some(address));
    let answer = held.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_client_that_disconnects_is_no_longer_counted_and_ends_its_request_at_the_replica() {
    let mut gateway = TestGateway::new(json!({})).await;
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    gateway.wait_for_held(1).await;
    drop(client);
    gateway.wait_for_held(0).await;
    let (listener, address) = replica_listener().await;
    gateway.set_replica(Some(address));
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    client.write_all(REQUEST).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let mut replica = BufReader::new(stream);
    read_request(&mut replica).await;
    drop(client);
    let end = tokio::time::timeout(TIMEOUT, replica.read(&mut [0])).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "the replica works on");
    gateway.wait_until_idle().await;
}

#[tokio::test]
async fn a_head_request_gets_the_headers_of_the_answer_and_no_body() {
    let mut gateway = TestGateway::new(json!({})).await;
    let (listener, address) = replica_listener().await;
    gateway.set_replica(Some(address));
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    client
        .write_all(b"HEAD /v1/models HTTP/1.1\r\nhost: chat\r\n\r\n")
        .await
        .unwrap();
    let (replica, _) = listener.accept().await.unwrap();
    let mut replica = BufReader::new(replica);
    read_next_request(&mut replica).await;
    replica
        .get_mut()
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 77\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    let read = client.read_to_string(&mut answer);
    tokio::time::timeout(TIMEOUT, read).await.unwrap().unwrap();
    assert!(
        answer.contains("content-length: 77") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn http2_requests_share_a_connection_that_is_shut_down_gracefully_after_a_response() {
    let mut gateway = TestGateway::new(json!({})).await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    let connection = tokio::spawn(connection);
    let requests: Vec<_> = (0..10)
        .map(|_| {
            let mut sender = sender.clone();
            let body = http_body_util::Full::new(bytes::Bytes::from("hello"));
            let request = http::Request::post("http://chat/v1/completions").body(body);
            tokio::spawn(async move { sender.send_request(request.unwrap()).await })
        })
        .collect();
    gateway.wait_for_held(10).await;
    let (listener, address) = replica_listener().await;
    answer_all(listener);
    gateway.set_replica(Some(address));
    for response in join_all(requests).await {
        let response = response.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key("connection"));
    }
    tokio::time::timeout(TIMEOUT, connection)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_request_that_needs_no_model_is_refused_at_once_and_wakes_nothing() {
    let mut gateway = TestGateway::new(json!({})).await;
    for head in [
        "GET /metrics",
        "GET /health",
        "GET /health/",
        "GET /ping?verbose=1",
        "POST /ping",
        "GET /version",
        "GET /v1/models",
        "HEAD /v1/completions",
        "OPTIONS /v1/completions",
    ] {
        let request = format!("{head} HTTP/1.1\r\nhost: chat\r\n\r\n");
        let answer = send(gateway.address, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{head}: {answer}");
        assert!(
            head.starts_with("HEAD") || answer.contains("no_replica"),
            "{head}: {answer}"
        );
    }
    let services = gateway.demand.message(jiff::Timestamp::UNIX_EPOCH).services;
    assert!(services.is_empty(), "{services:?}");
    let waits = tokio::spawn(complete(gateway.address));
    gateway.wait_for_held(1).await;
    let (listener, address) = replica_listener().await;
    answer_all(listener);
    gateway.set_replica(Some(address));
    assert!(waits.await.unwrap().starts_with("HTTP/1.1 200"));
    let (listener, address) = replica_listener().await;
    gateway.set_replica(Some(address));
    let metrics = b"GET /metrics HTTP/1.1\r\nhost: chat\r\ncontent-length: 5\r\n\r\nhello";
    answer_all(listener);
    let answer = send(gateway.address, metrics).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn only_the_paths_of_wake_on_wake_a_service_that_has_some() {
    let wake_on = json!({"wakeOn": ["/v1/completions", "/v1/chat/", "/metrics"]});
    let gateway = TestGateway::new(wake_on).await;
    for head in [
        "POST /v1/embeddings",
        "POST /v1/completions/more",
        "POST /v1/chat",
        "GET /favicon.ico",
        "GET /metrics",
        "HEAD /v1/completions",
    ] {
        let request = format!("{head} HTTP/1.1\r\nhost: chat\r\n\r\n");
        let answer = send(gateway.address, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{head}: {answer}");
    }
    let services = gateway.demand.message(jiff::Timestamp::UNIX_EPOCH).services;
    assert!(services.is_empty(), "{services:?}");
    for (held, head) in [
        "POST /v1/completions",
        "POST /v1/completions/?stream=true",
        "POST /v1/chat/completions",
    ]
    .into_iter()
    .enumerate()
    {
        let (address, request) = (
            gateway.address,
            format!("{head} HTTP/1.1\r\nhost: chat\r\n\r\n"),
        );
        tokio::spawn(async move { send(address, request.as_bytes()).await });
        gateway.wait_for_held(held as u64 + 1).await;
    }
}
