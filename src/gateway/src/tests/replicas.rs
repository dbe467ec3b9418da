//! Replicas that fail, and how requests are spread over them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::*;

/// What a replica does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behavior {
    /// Answers 200 and keeps the connection.
    Answer,
    /// Answers 200 once the test allows it.
    Wait,
    /// Takes a connection and closes it at once.
    CloseAtOnce,
    /// Reads the request, and closes the connection without a byte of an answer.
    CloseAfterRequest,
    /// Closes the connection in the middle of the answer's head.
    BreakHead,
    /// Answers 200, and closes the connection soon, though it did not say so.
    CloseWhenIdle,
}

/// A replica that counts.
struct TestReplica {
    address: SocketAddr,
    /// Requests that it has read.
    requests: Arc<AtomicUsize>,
    /// Connections that it has taken.
    connections: Arc<AtomicUsize>,
    /// Connections that are open.
    open: Arc<AtomicUsize>,
    /// Lets requests that wait be answered.
    finish: watch::Sender<bool>,
}

impl TestReplica {
    async fn start(behavior: Behavior) -> Self {
        // above the addresses of all other listeners
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let replica = Self {
            address,
            requests: Arc::default(),
            connections: Arc::default(),
            open: Arc::default(),
            finish: watch::Sender::new(behavior != Behavior::Wait),
        };
        let (requests, connections) = (replica.requests.clone(), replica.connections.clone());
        let (open, finish) = (replica.open.clone(), replica.finish.subscribe());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                if behavior == Behavior::CloseAtOnce {
                    continue;
                }
                open.fetch_add(1, Ordering::SeqCst);
                let (requests, open, finish) = (requests.clone(), open.clone(), finish.clone());
                tokio::spawn(async move {
                    answer_requests(stream, behavior, &requests, finish).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        replica
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    async fn wait_until_closed(&self) {
        wait_until(|| self.open.load(Ordering::SeqCst) == 0).await;
    }
}

async fn answer_requests(
    stream: TcpStream,
    behavior: Behavior,
    requests: &AtomicUsize,
    mut finish: watch::Receiver<bool>,
) {
    let mut stream = BufReader::new(stream);
    while read_next_request(&mut stream).await.is_some() {
        requests.fetch_add(1, Ordering::SeqCst);
        let answer = match behavior {
            Behavior::CloseAtOnce | Behavior::CloseAfterRequest => return,
            Behavior::BreakHead => &b"HTTP/1.1 200 OK\r\ncontent-le"[..],
            _ => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        };
        let _ = finish.wait_for(|finish| *finish).await;
        if stream.get_mut().write_all(answer).await.is_err() || behavior == Behavior::BreakHead {
            return;
        }
        if behavior == Behavior::CloseWhenIdle {
            tokio::time::sleep(Duration::from_millis(20)).await;
            return;
        }
    }
}

async fn wait_until(reached: impl Fn() -> bool) {
    let waiting = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(TIMEOUT, waiting).await.unwrap();
}

async fn start_all(behavior: Behavior, count: usize) -> Vec<TestReplica> {
    join_all((0..count).map(|_| TestReplica::start(behavior))).await
}

fn addresses(replicas: &[TestReplica]) -> Vec<SocketAddr> {
    replicas.iter().map(|replica| replica.address).collect()
}

fn total_requests(replicas: &[TestReplica]) -> usize {
    replicas.iter().map(TestReplica::requests).sum()
}

const GET: &[u8] = b"GET /v1/things HTTP/1.1\r\nhost: chat\r\n\r\n";
const KEYED: &[u8] = b"POST /v1/completions HTTP/1.1\r\nhost: chat\r\nidempotency-key: 7\r\ncontent-length: 5\r\n\r\nhello";

/// An address that drops packets: the queue of its connections is full.
async fn dropping_address() -> (SocketAddr, Vec<TcpStream>, socket2::Socket) {
    let kind = (socket2::Domain::IPV4, socket2::Type::STREAM);
    let socket = socket2::Socket::new(kind.0, kind.1, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut taken = Vec::new();
    let limit = Duration::from_millis(200);
    while let Ok(stream) = tokio::time::timeout(limit, TcpStream::connect(address)).await {
        taken.push(stream.unwrap());
    }
    (address, taken, socket)
}

#[tokio::test]
async fn a_replica_that_closes_connections_costs_no_request() {
    let mut gateway = TestGateway::new(json!({})).await;
    gateway.set_scaling(10, 8);
    let working = start_all(Behavior::Wait, 9).await;
    let mut replicas = addresses(&working);
    gateway.set_replicas(&replicas);
    let address = gateway.address;
    let busy: Vec<_> = (0..36).map(|_| tokio::spawn(complete(address))).collect();
    wait_until(|| total_requests(&working) == 36).await;
    let counts: Vec<_> = working.iter().map(TestReplica::requests).collect();
    assert_eq!(counts, [4; 9], "ties are spread");
    // an idle one that takes connections and closes them: the first choice
    let closing = TestReplica::start(Behavior::CloseAtOnce).await;
    replicas.insert(0, closing.address);
    gateway.set_replicas(&replicas);
    working.iter().for_each(|replica| {
        replica.finish.send_replace(true);
    });
    let began = std::time::Instant::now();
    for number in 0..100 {
        let answer = complete(gateway.address).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{number}: {answer}");
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "no request waits long"
    );
    assert!(
        closing.connections() > 0 && closing.connections() < 20,
        "it is tried, and left out for a while: {}",
        closing.connections()
    );
    for answer in join_all(busy).await {
        assert!(answer.unwrap().starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn an_address_that_drops_packets_makes_no_request_a_second_longer() {
    let mut gateway = TestGateway::new(json!({})).await;
    gateway.set_scaling(3, 8);
    let (dropping, _taken, _socket) = dropping_address().await;
    let replicas = start_all(Behavior::Answer, 2).await;
    gateway.set_replicas(&[dropping, replicas[0].address, replicas[1].address]);
    let mut slow = 0;
    for _ in 0..40 {
        let began = std::time::Instant::now();
        let answer = complete(gateway.address).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(
            began.elapsed() < Duration::from_millis(900),
            "a request took {:?}",
            began.elapsed()
        );
        slow += usize::from(began.elapsed() > Duration::from_millis(200));
    }
    assert!(slow <= 2, "{slow} requests tried it");
}

#[tokio::test]
async fn a_request_that_ends_its_replica_in_the_middle_of_a_head_ends_no_second_one() {
    let mut gateway = TestGateway::new(json!({})).await;
    for behavior in [Behavior::BreakHead, Behavior::CloseAfterRequest] {
        let replicas = start_all(behavior, 6).await;
        gateway.set_replicas(&addresses(&replicas));
        let answer = complete(gateway.address).await;
        assert!(
            answer.starts_with("HTTP/1.1 502") && answer.contains("replica_failed"),
            "{behavior:?}: {answer}"
        );
        assert_eq!(total_requests(&replicas), 1, "{behavior:?}");
    }
}

#[tokio::test]
async fn an_idempotent_request_goes_to_one_more_replica_at_most() {
    for request in [GET, KEYED] {
        let mut gateway = TestGateway::new(json!({})).await;
        let broken = start_all(Behavior::BreakHead, 6).await;
        gateway.set_replicas(&addresses(&broken));
        let answer = send(gateway.address, request).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        assert_eq!(total_requests(&broken), 2);
        assert!(broken.iter().all(|replica| replica.requests() <= 1));
        // the broken ones are left out for a while now
        let good = TestReplica::start(Behavior::Answer).await;
        let mut replicas = addresses(&broken[..1]);
        replicas.push(good.address);
        gateway.set_replicas(&replicas);
        let answer = send(gateway.address, request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn a_service_says_which_requests_may_be_sent_twice() {
    for (retry, request, sends) in [("Safe", KEYED, 1), ("Safe", GET, 2), ("Always", REQUEST, 2)] {
        let mut gateway = TestGateway::new(json!({"retry": retry})).await;
        let broken = start_all(Behavior::BreakHead, 6).await;
        gateway.set_replicas(&addresses(&broken));
        let answer = send(gateway.address, request).await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        assert_eq!(total_requests(&broken), sends, "{retry}");
    }
}

#[tokio::test]
async fn an_idempotent_request_whose_only_replica_broke_off_waits_for_another() {
    let mut gateway = TestGateway::new(json!({})).await;
    let broken = TestReplica::start(Behavior::CloseAfterRequest).await;
    gateway.set_replica(Some(broken.address));
    let address = gateway.address;
    let client = tokio::spawn(async move { send(address, GET).await });
    wait_until(|| broken.requests() == 1).await;
    gateway.set_replica(None);
    gateway.wait_for_held(1).await;
    let good = TestReplica::start(Behavior::Answer).await;
    gateway.set_replica(Some(good.address));
    let answer = client.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_refused_connection_is_tried_again_until_the_replica_takes_it() {
    let mut gateway = TestGateway::new(json!({})).await;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port().await));
    gateway.set_replica(Some(address));
    let clients: Vec<_> = (0..20)
        .map(|_| tokio::spawn(complete(gateway.address)))
        .collect();
    gateway.wait_for_held(20).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(gateway.held(), 20);
    answer_all(TcpListener::bind(address).await.unwrap());
    for answer in join_all(clients).await {
        let answer = answer.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn a_request_that_no_ready_replica_takes_is_told_so() {
    let mut gateway = TestGateway::new(json!({"holdTimeout": "400ms"})).await;
    let address = SocketAddr::from(([127, 0, 0, 1], free_port().await));
    gateway.set_replica(Some(address));
    let answer = complete(gateway.address).await;
    assert!(
        answer.starts_with("HTTP/1.1 504")
            && answer.contains("hold_expired")
            && answer.contains("a replica is ready, and the gateway cannot connect: ")
            && answer.contains("refused"),
        "{answer}"
    );
    let soon = Timestamp::now() + SignedDuration::from_secs(2);
    let sent = gateway.demand.message(soon).services.remove(0);
    let error = sent.connect_error.unwrap();
    assert!(error.contains("refused"), "the leader is sent {error}");
    let (dropping, _taken, _socket) = dropping_address().await;
    gateway.set_replica(Some(dropping));
    let answer = complete(gateway.address).await;
    assert!(
        answer.contains("the gateway cannot connect: ") && answer.contains("within"),
        "{answer}"
    );
}

#[tokio::test]
async fn held_requests_are_released_at_the_pace_of_the_replicas_target() {
    let mut gateway = TestGateway::new(json!({})).await;
    gateway.set_scaling(8, 8);
    let clients: Vec<_> = (0..64)
        .map(|_| tokio::spawn(complete(gateway.address)))
        .collect();
    gateway.wait_for_held(64).await;
    let replicas = start_all(Behavior::Wait, 8).await;
    gateway.set_replicas(&addresses(&replicas[..1]));
    wait_until(|| replicas[0].requests() == 8).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        (replicas[0].requests(), gateway.held()),
        (8, 56),
        "the others wait for the replicas that are not ready yet"
    );
    gateway.set_replicas(&addresses(&replicas));
    wait_until(|| total_requests(&replicas) == 64).await;
    let counts: Vec<_> = replicas.iter().map(TestReplica::requests).collect();
    assert_eq!(counts, [8; 8]);
    replicas.iter().for_each(|replica| {
        replica.finish.send_replace(true);
    });
    for answer in join_all(clients).await {
        assert!(answer.unwrap().starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_request_that_finds_the_queue_full_goes_to_a_busy_replica() {
    let mut gateway = TestGateway::new(json!({})).await;
    gateway.set_scaling_and_hold(8, 1, 2);
    let replica = TestReplica::start(Behavior::Wait).await;
    gateway.set_replica(Some(replica.address));
    for (sent, running, held) in [(1, 1, 0), (2, 1, 1), (3, 1, 2), (4, 2, 2), (5, 3, 2)] {
        tokio::spawn(complete(gateway.address));
        wait_until(|| replica.requests() == running).await;
        gateway.wait_for_held(held).await;
        assert_eq!(replica.requests(), running, "{sent}");
    }
}

#[tokio::test]
async fn requests_that_wait_for_a_replica_which_takes_none_are_bounded() {
    let bounds = json!({"maxHeldRequests": 2, "holdTimeout": "1s"});
    let mut gateway = TestGateway::new(bounds).await;
    let (dropping, _taken, _socket) = dropping_address().await;
    gateway.set_replica(Some(dropping));
    let clients: Vec<_> = (0..30)
        .map(|_| tokio::spawn(complete(gateway.address)))
        .collect();
    let answers = join_all(clients).await;
    let with = |text: &str| {
        let answers = answers.iter().map(|answer| answer.as_ref().unwrap());
        answers.filter(|answer| answer.contains(text)).count()
    };
    let (full, expired) = (with("queue_full"), with("hold_expired"));
    assert_eq!(full + expired, 30);
    assert!((1..=6).contains(&expired), "{expired} waited");
    assert!(with("the gateway cannot connect: ") >= 20, "they say why");
}

#[tokio::test]
async fn a_request_that_ends_lets_the_next_held_one_go() {
    let mut gateway = TestGateway::new(json!({})).await;
    gateway.set_scaling(4, 2);
    let replica = TestReplica::start(Behavior::Answer).await;
    let clients: Vec<_> = (0..200)
        .map(|_| tokio::spawn(complete(gateway.address)))
        .collect();
    gateway.wait_for_held(200).await;
    gateway.set_replica(Some(replica.address));
    let began = std::time::Instant::now();
    for answer in join_all(clients).await {
        assert!(answer.unwrap().starts_with("HTTP/1.1 200"));
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert!(replica.connections() <= 20, "{}", replica.connections());
}

#[tokio::test]
async fn a_service_at_its_most_replicas_is_not_paced() {
    let mut gateway = TestGateway::new(json!({})).await;
    gateway.set_scaling(1, 2);
    let replica = TestReplica::start(Behavior::Wait).await;
    for _ in 0..20 {
        tokio::spawn(complete(gateway.address));
    }
    gateway.wait_for_held(20).await;
    gateway.set_replica(Some(replica.address));
    wait_until(|| replica.requests() == 20).await;
}

#[tokio::test]
async fn connections_to_a_replica_are_kept_from_one_request_to_the_next() {
    let mut gateway = TestGateway::new(json!({})).await;
    let replica = TestReplica::start(Behavior::Answer).await;
    gateway.set_replica(Some(replica.address));
    for _ in 0..200 {
        let answer = complete(gateway.address).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(replica.requests(), 200);
    assert!(
        replica.connections() <= 5,
        "{} connections",
        replica.connections()
    );
    // a replica that leaves has no connection after a few seconds
    gateway.set_replica(None);
    replica.wait_until_closed().await;
}

#[tokio::test]
async fn a_kept_connection_that_the_replica_closed_loses_no_request() {
    let mut gateway = TestGateway::new(json!({})).await;
    let replica = TestReplica::start(Behavior::CloseWhenIdle).await;
    gateway.set_replica(Some(replica.address));
    for _ in 0..30 {
        let answer = complete(gateway.address).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        replica.wait_until_closed().await;
    }
}

/// Requests that a replica keeps waiting which then goes: they are being connected to it.
async fn abandoned(
    gateway: &mut TestGateway,
    requests: &[&'static [u8]],
) -> Vec<tokio::task::JoinHandle<String>> {
    let (dropping, _taken, _socket) = dropping_address().await;
    gateway.set_replica(Some(dropping));
    let (address, before) = (gateway.address, gateway.metrics.retries.get());
    let clients: Vec<_> = requests
        .iter()
        .copied()
        .map(|request| tokio::spawn(async move { send(address, request).await }))
        .collect();
    wait_until(|| gateway.metrics.retries.get() - before >= clients.len() as u64).await;
    gateway.set_replica(None);
    clients
}

#[tokio::test]
async fn a_request_that_wakes_nothing_is_refused_when_the_ready_replica_goes() {
    let mut gateway = TestGateway::new(json!({"wakeOn": ["/v1/completions"]})).await;
    let probe = b"GET /health HTTP/1.1\r\nhost: chat\r\n\r\n";
    let scanner = b"GET /favicon.ico HTTP/1.1\r\nhost: chat\r\n\r\n";
    for client in abandoned(&mut gateway, &[probe, scanner]).await {
        let answer = client.await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("no_replica"),
            "{answer}"
        );
    }
    assert!(gateway.demand.is_idle(), "they wake nothing");
    let clients = abandoned(&mut gateway, &[REQUEST]).await;
    gateway.wait_for_held(1).await;
    clients.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn no_more_requests_than_may_be_held_wait_when_the_ready_replica_goes() {
    let mut gateway = TestGateway::new(json!({"maxHeldRequests": 2})).await;
    let mut clients = abandoned(&mut gateway, &[REQUEST; 5]).await;
    for _ in 0..3 {
        let (answer, _, rest) = futures::future::select_all(clients).await;
        let answer = answer.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 503") && answer.contains("queue_full"),
            "{answer}"
        );
        clients = rest;
    }
    gateway.wait_for_held(2).await;
    let good = TestReplica::start(Behavior::Answer).await;
    gateway.set_replica(Some(good.address));
    for client in clients {
        assert!(client.await.unwrap().starts_with("HTTP/1.1 200"));
    }
}
