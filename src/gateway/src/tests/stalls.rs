//! Clients that read nothing, and replicas that fall silent, in the middle of an answer.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::shares::{replica_of_sizes, unread_answer};
use super::*;

/// A replica that answers `/endless` without end and all else with twenty chunks, one every 100 ms.
async fn two_kinds_of_answers() -> SocketAddr {
    let (listener, address) = replica_listener().await;
    serve_connections(listener, |stream| async move {
        let mut stream = BufReader::new(stream);
        let head = read_next_request(&mut stream).await.unwrap_or_default();
        let start = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut sent = stream.get_mut().write_all(start).await;
        if head.starts_with("POST /endless") {
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(65_536));
            while sent.is_ok() {
                sent = stream.get_mut().write_all(chunk.as_bytes()).await;
            }
            return;
        }
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = stream.get_mut().write_all(b"4\r\none\n\r\n").await;
        }
        let _ = stream.get_mut().write_all(b"0\r\n\r\n").await;
    });
    address
}

/// Sends a request over HTTP/2, and returns its answer.
async fn request(
    mut sender: http2::SendRequest<Full<Bytes>>,
    path: &str,
) -> http::Response<Incoming> {
    let request = http::Request::post(format!("http://chat{path}"));
    let request = request.body(Full::new(Bytes::from("hello"))).unwrap();
    sender.send_request(request).await.unwrap()
}

#[tokio::test]
async fn an_answer_that_is_not_read_ends_alone_and_the_connections_others_go_on() {
    let limits = Limits {
        client_stall: Duration::from_millis(500),
        ..LIMITS
    };
    let mut gateway = TestGateway::with_limits(json!({}), limits).await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let unread = ["/endless"; 3].map(|path| tokio::spawn(request(sender.clone(), path)));
    let read = tokio::spawn(request(sender, "/v1/completions"));
    gateway.wait_for_held(4).await;
    gateway.set_replica(Some(two_kinds_of_answers().await));
    let read = read.await.unwrap().into_body().collect();
    let read = tokio::time::timeout(TIMEOUT, read).await.unwrap();
    assert_eq!(
        read.unwrap().to_bytes().len(),
        80,
        "the other answer is whole"
    );
    gateway.wait_until_idle().await;
    for unread in unread {
        let answer = unread.await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(
            answer.into_body().collect().await.is_err(),
            "it was cut off"
        );
    }
    let stalled = gateway
        .metrics
        .aborted_responses
        .get_or_create(&crate::metrics::CauseLabel::CLIENT_STALLED);
    assert_eq!(stalled.get(), 3);
}

#[tokio::test]
async fn an_answer_in_whose_middle_the_replica_falls_silent_is_cut_off() {
    let limits = Limits {
        response_idle: Duration::from_millis(300),
        ..LIMITS
    };
    let mut gateway = TestGateway::with_limits(json!({}), limits).await;
    let (listener, address) = replica_listener().await;
    gateway.set_replica(Some(address));
    let client = tokio::spawn(complete(gateway.address));
    let (stream, _) = listener.accept().await.unwrap();
    let mut replica = BufReader::new(stream);
    read_request(&mut replica).await;
    let replica = replica.get_mut();
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    replica.write_all(head).await.unwrap();
    // slow, and longer as a whole than it may be silent
    for _ in 0..6 {
        replica.write_all(b"4\r\none\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let answer = client.await.unwrap();
    assert_eq!(answer.matches("one").count(), 6, "{answer}");
    assert!(!answer.ends_with("0\r\n\r\n"), "it says that it is whole");
    let end = tokio::time::timeout(TIMEOUT, replica.read(&mut [0])).await;
    assert!(matches!(end, Ok(Ok(0) | Err(_))), "the replica works on");
    gateway.wait_until_idle().await;
    let silent = gateway
        .metrics
        .aborted_responses
        .get_or_create(&crate::metrics::CauseLabel::REPLICA_SILENT);
    assert_eq!(silent.get(), 1);
}

/// Its last part may have been handed to the connection, whose idle time is much longer.
#[tokio::test]
async fn an_answer_that_is_not_read_to_its_end_is_cut_off_whether_connections_are_kept_or_not() {
    let limits = Limits {
        client_stall: Duration::from_millis(500),
        ..LIMITS
    };
    for mode in ["OnDemand", "Always"] {
        let mut gateway = TestGateway::with_limits(json!({"mode": mode}), limits).await;
        gateway.set_replica(Some(replica_of_sizes().await));
        let mut clients = Vec::new();
        for length in (1..=64).map(|step| step * (8 << 10)) {
            let client = unread_answer(gateway.address, length).await;
            client.peek(&mut [0]).await.unwrap();
            clients.push(client);
        }
        // an idle connection is closed after 20 s, and these are not idle
        let cut_off = async {
            while !gateway.held_bytes.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let cut_off = tokio::time::timeout(Duration::from_secs(10), cut_off).await;
        let bytes = gateway.held_bytes.total();
        assert!(cut_off.is_ok(), "{mode}: {bytes} bytes are held for nobody");
        let aborted = &gateway.metrics.aborted_responses;
        let stalled = aborted.get_or_create(&crate::metrics::CauseLabel::CLIENT_STALLED);
        assert!(stalled.get() > 0, "{mode}");
    }
}
