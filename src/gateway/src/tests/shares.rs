//! Tenants apart: what one holds leaves room for the others.

use futures::future::join_all;
use tokio::net::TcpSocket;

use super::*;
use crate::held_bytes::ByteReservation;

/// Lets other namespaces hold so much of what all requests may that this much is free.
fn fill(gateway: &TestGateway, free: usize) -> Vec<ByteReservation> {
    fill_up(&gateway.held_bytes, 512 << 20, free)
}

/// Lets other namespaces hold so much of `limit` that this much is free.
fn fill_up(held: &HeldBytes, limit: usize, free: usize) -> Vec<ByteReservation> {
    let (mut left, mut all) = (limit, Vec::new());
    while left > free {
        let bytes = (left / 2).min(left - free);
        let namespace = format!("other-{}", all.len());
        all.push(held.reserve(&namespace, bytes).unwrap());
        left -= bytes;
    }
    all
}

/// Opens the port of the service `chat` of another namespace, with the same policy.
async fn open_victim(gateway: &mut TestGateway) -> SocketAddr {
    let (victim, port) = (("victim".to_owned(), "chat".to_owned()), free_port().await);
    gateway.published.set(victim.clone(), gateway.route.clone());
    let ports = [(gateway.address.port(), chat()), (port, victim)].into();
    assert!(gateway.listeners.sync(&ports).await);
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Waits until this many requests of another namespace's service are held.
async fn wait_for_victims(gateway: &TestGateway, count: u64) {
    let held = || {
        let message = gateway.demand.message(jiff::Timestamp::UNIX_EPOCH);
        let mut services = message.services.into_iter();
        services
            .find(|service| service.namespace == "victim")
            .map_or(0, |service| service.held)
    };
    let reached = async {
        while held() != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, reached).await.unwrap();
}

#[tokio::test]
async fn slow_uploads_of_one_tenant_leave_room_for_anothers_request() {
    let mut gateway = TestGateway::new(json!({"holdTimeout": "24h"})).await;
    let victim = open_victim(&mut gateway).await;
    let _filled = fill(&gateway, 64 << 20);
    let mut uploads = Vec::new();
    // each announces 16 MiB and sends nearly all of them
    let mut upload = b"POST / HTTP/1.1\r\nhost: chat\r\ncontent-length: 16777216\r\n\r\n".to_vec();
    upload.resize(upload.len() + (16 << 20) - 9000, b'x');
    let upload: std::sync::Arc<[u8]> = upload.into();
    for _ in 0..6 {
        let (address, upload) = (gateway.address, std::sync::Arc::clone(&upload));
        uploads.push(tokio::spawn(async move {
            let mut client = TcpStream::connect(address).await.unwrap();
            let _ = client.write_all(&upload).await;
            let mut answer = [0; 12];
            client.read_exact(&mut answer).await.unwrap();
            answer
        }));
    }
    // some of them are refused: the tenant has its share
    let (refused, _, rest) = futures::future::select_all(uploads).await;
    assert_eq!(&refused.unwrap(), b"HTTP/1.1 503");
    let large = [REQUEST, &[b'x'; 200 << 10]].concat();
    let large = String::from_utf8(large)
        .unwrap()
        .replace("length: 5", "length: 204805");
    tokio::spawn(async move { send(victim, large.as_bytes()).await });
    wait_for_victims(&gateway, 1).await;
    rest.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_body_that_trickles_has_a_time_as_a_whole_however_long_requests_may_wait() {
    let idle_timeout = Duration::from_millis(100);
    let gateway = TestGateway::with_idle_timeout(json!({"holdTimeout": "24h"}), idle_timeout).await;
    let answer = answer_to_trickle(gateway.address, 100_000).await;
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn held_requests_and_their_heads_are_bounded_in_bytes_and_another_tenants_is_held() {
    let mut gateway = TestGateway::new(json!({"maxHeldRequests": 100_000})).await;
    let victim = open_victim(&mut gateway).await;
    // without bytes to speak of, and with 60 KB of headers
    for (header, most) in [(10, 10), (60_000, 3)] {
        let filled = fill(&gateway, 512 << 10);
        let value = "x".repeat(header);
        let request = format!("GET /v1/x HTTP/1.1\r\nhost: chat\r\nx-long: {value}\r\n\r\n");
        let (address, mut held) = (gateway.address, Vec::new());
        loop {
            let request = request.clone();
            let mut sent = tokio::spawn(async move { send(address, request.as_bytes()).await });
            let count = held.len() as u64 + 1;
            tokio::select! {
                answer = &mut sent => {
                    let answer = answer.unwrap();
                    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
                    assert!(answer.contains("a namespace may not hold more"), "{answer}");
                    break;
                }
                () = gateway.wait_for_held(count) => held.push(sent),
            }
        }
        assert!((1..=most).contains(&held.len()), "{} are held", held.len());
        let waits = tokio::spawn(async move { complete(victim).await });
        wait_for_victims(&gateway, 1).await;
        waits.abort();
        held.iter().for_each(tokio::task::JoinHandle::abort);
        let _ = join_all(held).await;
        gateway.wait_for_held(0).await;
        drop(filled);
        gateway.wait_until_released().await;
    }
}

#[tokio::test]
async fn a_connection_has_a_hundred_streams_at_a_time() {
    let gateway = TestGateway::new(json!({})).await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let request = || {
        let body = http_body_util::Empty::<bytes::Bytes>::new();
        http::Request::post("http://chat/v1/completions")
            .body(body)
            .unwrap()
    };
    // one request, so that the client has the gateway's settings
    let mut first = sender.clone();
    tokio::spawn(async move { first.send_request(request()).await });
    gateway.wait_for_held(1).await;
    for _ in 1..200 {
        let mut sender = sender.clone();
        tokio::spawn(async move { sender.send_request(request()).await });
    }
    gateway.wait_for_held(100).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(gateway.held(), 100);
}

/// A replica that answers `/N` with N bytes.
pub(super) async fn replica_of_sizes() -> SocketAddr {
    let (listener, address) = replica_listener().await;
    serve_connections(listener, |stream| async move {
        let mut stream = BufReader::new(stream);
        while let Some(head) = read_next_request(&mut stream).await {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let length: usize = path[1..].parse().unwrap();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
            let answer = [head.as_bytes(), &vec![b'x'; length]].concat();
            if stream.get_mut().write_all(&answer).await.is_err() {
                return;
            }
        }
    });
    address
}

/// A client that asks for an answer of so many bytes, and reads nothing of it.
pub(super) async fn unread_answer(gateway: SocketAddr, length: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = socket.connect(gateway).await.unwrap();
    let request = format!("GET /{length} HTTP/1.1\r\nhost: chat\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    client
}

/// The connections that are open and the bytes that are counted, once they have not changed for 100 ms.
async fn settled(gateway: &TestGateway) -> (usize, usize) {
    let (mut last, mut same) = ((0, 0), 0);
    while same < 20 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let now = (
            gateway.listeners.open_connections(),
            gateway.held_bytes.total() + gateway.unread_bytes.total(),
        );
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

#[tokio::test]
async fn answers_that_nobody_reads_are_counted_until_they_are_written() {
    let mut gateway = TestGateway::new(json!({})).await;
    gateway.set_replica(Some(replica_of_sizes().await));
    let (mut clients, mut uncounted) = (Vec::new(), Vec::new());
    for length in (1..=64).map(|step| step * (32 << 10)) {
        let before = settled(&gateway).await;
        let client = unread_answer(gateway.address, length).await;
        client.peek(&mut [0]).await.unwrap();
        clients.push(client);
        let (open, bytes) = settled(&gateway).await;
        // one that the kernel has taken as a whole is not open any more
        if open > before.0 && bytes < before.1 + (128 << 10) {
            uncounted.push((length >> 10, (bytes - before.1) >> 10));
        }
    }
    let (open, _) = settled(&gateway).await;
    assert!(open > 10, "{open} are open");
    assert_eq!(uncounted, [], "KiB of the answer, and of what is counted");
    clients.clear();
    gateway.wait_until_released().await;
}

#[tokio::test]
async fn answers_that_nobody_reads_are_cut_off_where_their_namespace_has_its_share() {
    let mut gateway = TestGateway::new(json!({})).await;
    gateway.set_replica(Some(replica_of_sizes().await));
    let _filled = fill_up(&gateway.unread_bytes, 128 << 20, 4 << 20);
    let mut clients = Vec::new();
    for _ in 0..60 {
        clients.push(unread_answer(gateway.address, 4 << 20).await);
    }
    let (open, _) = settled(&gateway).await;
    // 2 MiB of 128 KiB each
    assert!((8..=16).contains(&open), "{open} are open");
    let aborted = &gateway.metrics.aborted_responses;
    let stalled = aborted.get_or_create(&crate::metrics::CauseLabel::CLIENT_STALLED);
    // some may have been refused
    assert!(stalled.get() > 30, "{} are cut off", stalled.get());
}

/// A client that reads at once lets a write wait, too, for as long as its first acknowledgement takes.
#[tokio::test]
async fn an_answer_that_has_begun_goes_on_though_requests_have_all_that_their_namespace_may() {
    const LENGTH: usize = 4 << 20;
    let mut gateway = TestGateway::new(json!({})).await;
    gateway.set_replica(Some(replica_of_sizes().await));
    // one request fits, and nothing else
    let _filled = fill(&gateway, 96 << 10);
    let mut client = unread_answer(gateway.address, LENGTH).await;
    client.peek(&mut [0]).await.unwrap();
    settled(&gateway).await;
    let mut answer = Vec::new();
    let read = client.read_to_end(&mut answer);
    tokio::time::timeout(TIMEOUT, read).await.unwrap().unwrap();
    assert!(answer.len() > LENGTH, "{} bytes came", answer.len());
}

/// The stream of an answer would end with a chunk of which its client takes the first bytes alone.
#[tokio::test]
async fn answers_whose_streams_have_no_window_are_counted_until_they_are_read() {
    let mut gateway = TestGateway::new(json!({})).await;
    gateway.set_replica(Some(replica_of_sizes().await));
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let mut client = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
    client.initial_stream_window_size(100);
    let stream = hyper_util::rt::TokioIo::new(stream);
    let (sender, connection) = client.handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let answers = (0..20).map(|_| {
        let body = http_body_util::Empty::<bytes::Bytes>::new();
        let request = http::Request::get("http://chat/1000").body(body).unwrap();
        sender.clone().send_request(request)
    });
    let answers: Vec<_> = answers.collect();
    let answers = tokio::time::timeout(TIMEOUT, join_all(answers))
        .await
        .unwrap();
    let (_, bytes) = settled(&gateway).await;
    assert!(bytes >= 20 * (24 << 10), "{} KiB are counted", bytes >> 10);
    drop(answers);
    connection.abort();
    gateway.wait_until_released().await;
}

/// Each frame of HTTP/2 is flushed by itself, which says nothing of those that wait.
#[tokio::test]
async fn answers_that_wait_for_one_connection_are_counted_until_the_last_is_written() {
    const ANSWERS: usize = 100;
    let mut gateway = TestGateway::new(json!({})).await;
    gateway.set_replica(Some(replica_of_sizes().await));
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(gateway.address).await.unwrap();
    let (mut from_gateway, mut to_gateway) = stream.into_split();
    let (client, relay) = tokio::io::duplex(64 << 10);
    let (mut from_client, mut to_client) = tokio::io::split(relay);
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_gateway).await });
    let (go_on, is_told) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let mut first = (&mut from_gateway).take(100 << 10);
        tokio::io::copy(&mut first, &mut to_client).await.unwrap();
        is_told.await.unwrap();
        tokio::io::copy(&mut from_gateway, &mut to_client).await
    });
    let mut builder =
        hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
    builder
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20);
    let handshake = builder.handshake(hyper_util::rt::TokioIo::new(client));
    let (sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let answers = (0..ANSWERS).map(|_| {
        let body = http_body_util::Empty::<bytes::Bytes>::new();
        let request = http::Request::get("http://chat/16000").body(body).unwrap();
        let mut sender = sender.clone();
        tokio::spawn(async move {
            let answer = sender.send_request(request).await.unwrap();
            let body = http_body_util::BodyExt::collect(answer.into_body())
                .await
                .unwrap();
            body.to_bytes().len()
        })
    });
    let answers: Vec<_> = answers.collect();
    let (_, bytes) = settled(&gateway).await;
    assert!(
        bytes >= ANSWERS / 5 * 4 * (24 << 10),
        "{} KiB are counted",
        bytes >> 10
    );
    go_on.send(()).unwrap();
    for answer in answers {
        let length = tokio::time::timeout(TIMEOUT, answer)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(length, 16_000);
    }
    gateway.wait_until_released().await;
}
