//! Bodies that are streamed to a ready replica.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;

use super::*;

/// A replica that answers with the number of bytes and of requests that it has got.
struct CountingReplica {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
    /// Lets it read bodies.
    reads: watch::Sender<bool>,
}

impl CountingReplica {
    /// One that breaks off after so many bytes of a body, if it is given.
    async fn start(reads: bool, breaks_after: Option<usize>) -> Self {
        let (listener, address) = replica_listener().await;
        let replica = Self {
            address,
            requests: Arc::default(),
            bytes: Arc::default(),
            reads: watch::Sender::new(reads),
        };
        let (requests, bytes) = (replica.requests.clone(), replica.bytes.clone());
        let reads = replica.reads.subscribe();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (requests, bytes, reads) = (requests.clone(), bytes.clone(), reads.clone());
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let (requests, bytes, mut reads) =
                        (requests.clone(), bytes.clone(), reads.clone());
                    async move {
                        let number = requests.fetch_add(1, Ordering::SeqCst) + 1;
                        let _ = reads.wait_for(|reads| *reads).await;
                        let (mut body, mut count) = (request.into_body(), 0);
                        while let Some(frame) = body.frame().await {
                            let Ok(frame) = frame else { break };
                            count += frame.data_ref().map_or(0, Bytes::len);
                            bytes.store(count, Ordering::SeqCst);
                            if breaks_after.is_some_and(|most| count >= most) {
                                return Err("it breaks off");
                            }
                        }
                        let text = format!("{count} bytes in request {number}");
                        Ok(http::Response::new(Full::new(Bytes::from(text))))
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        replica
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// The head of an upload of so many bytes.
fn head(bytes: usize) -> Vec<u8> {
    format!("POST /v1/files HTTP/1.1\r\nhost: chat\r\ncontent-length: {bytes}\r\n\r\n").into_bytes()
}

fn upload(bytes: usize) -> Vec<u8> {
    let mut request = head(bytes);
    request.resize(request.len() + bytes, b'x');
    request
}

#[tokio::test]
async fn a_body_above_what_may_be_held_is_streamed_to_a_ready_replica() {
    let mut gateway = TestGateway::new(json!({})).await;
    let replica = CountingReplica::start(true, None).await;
    gateway.set_replica(Some(replica.address));
    let answer = send(gateway.address, &upload(20 << 20)).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("20971520 bytes in request 1"),
        "{answer}"
    );
    // one whose length is not said, over a connection that sends it in parts
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    let start = b"POST / HTTP/1.1\r\nhost: chat\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n";
    client.write_all(start).await.unwrap();
    // the first part reaches the replica before the second is sent
    let arrived = async {
        while replica.bytes.load(Ordering::SeqCst) != 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, arrived).await.unwrap();
    client.write_all(b"3\r\nllo\r\n0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("5 bytes in request 2"), "{answer}");
    gateway.wait_until_idle().await;
}

#[tokio::test]
async fn a_replica_that_reads_slowly_slows_the_client_and_the_gateway_keeps_nothing() {
    let mut gateway = TestGateway::new(json!({})).await;
    let replica = CountingReplica::start(false, None).await;
    gateway.set_replica(Some(replica.address));
    let client = TcpStream::connect(gateway.address).await.unwrap();
    let (mut read, mut write) = client.into_split();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let total = 64 << 20;
    let writer = tokio::spawn(async move {
        write.write_all(&head(total)).await.unwrap();
        for _ in 0..total >> 16 {
            write.write_all(&[b'x'; 1 << 16]).await.unwrap();
            counted.fetch_add(1 << 16, Ordering::SeqCst);
        }
        write
    });
    let mut before = usize::MAX;
    // until nothing moves any more
    let stands = async {
        while before != sent.load(Ordering::SeqCst) || before == 0 {
            before = sent.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, stands).await.unwrap();
    assert!(
        before < 24 << 20,
        "the sockets' buffers alone took {before}"
    );
    assert!(
        gateway.held_bytes.total() < 256 << 10,
        "{}",
        gateway.held_bytes.total()
    );
    replica.reads.send_replace(true);
    let mut answer = String::new();
    let whole = read.read_to_string(&mut answer);
    tokio::time::timeout(TIMEOUT, whole).await.unwrap().unwrap();
    assert!(answer.contains("67108864 bytes"), "{answer}");
    drop(writer);
}

#[tokio::test]
async fn a_body_of_which_a_part_was_sent_goes_to_no_other_replica() {
    let mut gateway = TestGateway::new(json!({"retry": "Always"})).await;
    gateway.set_scaling(2, 8);
    let breaking = [(); 2].map(|()| CountingReplica::start(true, Some(1 << 20)));
    let breaking = futures::future::join_all(breaking).await;
    gateway.set_replicas(&[breaking[0].address, breaking[1].address]);
    let answer = send(gateway.address, &upload(4 << 20)).await;
    assert!(
        answer.starts_with("HTTP/1.1 502") && answer.contains("replica_failed"),
        "{answer}"
    );
    assert_eq!(breaking[0].requests() + breaking[1].requests(), 1);
}

#[tokio::test]
async fn a_body_of_which_nothing_was_sent_goes_to_another_replica_or_is_held() {
    let mut gateway = TestGateway::new(json!({})).await;
    gateway.set_scaling(2, 8);
    let closed = SocketAddr::from(([127, 0, 0, 1], free_port().await));
    let replica = CountingReplica::start(true, None).await;
    gateway.set_replicas(&[closed, replica.address]);
    for _ in 0..4 {
        let answer = send(gateway.address, &upload(1 << 20)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    gateway.set_replica(Some(closed));
    let address = gateway.address;
    let client = tokio::spawn(async move { send(address, &upload(1 << 20)).await });
    gateway.wait_for_held(1).await;
    gateway.set_replica(None);
    tokio::time::sleep(Duration::from_millis(300)).await;
    gateway.wait_for_held(1).await;
    gateway.set_replica(Some(replica.address));
    let answer = client.await.unwrap();
    assert!(answer.contains("1048576 bytes in request 5"), "{answer}");
}

#[tokio::test]
async fn a_client_that_stops_sending_ends_its_request_and_is_not_the_replicas_fault() {
    let idle_timeout = Duration::from_millis(300);
    let mut gateway = TestGateway::with_idle_timeout(json!({}), idle_timeout).await;
    let replica = CountingReplica::start(true, None).await;
    gateway.set_replica(Some(replica.address));
    let mut part = head(1 << 20);
    part.resize(part.len() + (512 << 10), b'x');
    let answer = send(gateway.address, &part).await;
    assert!(
        answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"),
        "{answer}"
    );
    gateway.wait_until_idle().await;
    assert_eq!(gateway.metrics.ejections.get(), 0);
}
