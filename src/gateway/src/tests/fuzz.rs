//! Random bytes from clients and from replicas. `BURSAR_SEED=N` plays others.

use std::sync::{Arc, Mutex};

use futures::StreamExt as _;

use super::strict_http::{Message, ReadError, Side, read};
use super::*;

/// Exchanges of a run, and how many of them are under way at once.
const EXCHANGES: usize = 1_000;
const AT_ONCE: usize = 128;

fn seed() -> u64 {
    let given = std::env::var("BURSAR_SEED").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Sends these bytes, and returns all that comes until the connection is closed.
async fn exchange(gateway: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let exchange = async {
        let mut stream = TcpStream::connect(gateway).await.unwrap();
        let mut answer = Vec::new();
        // the gateway may close in the middle
        let _ = stream.write_all(bytes).await;
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    let answer = tokio::time::timeout(TIMEOUT, exchange).await;
    answer.unwrap_or_else(|_| unreachable!("no end of {:?}", String::from_utf8_lossy(bytes)))
}

/// What each of these requests is answered, in their order.
async fn exchange_all(gateway: SocketAddr, requests: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let exchanges = requests.iter().enumerate();
    let exchanges = exchanges.map(|(index, request)| async move {
        let answer = exchange(gateway, request).await;
        (index, answer)
    });
    // one that is never complete does not keep the next ones from beginning
    let mut answers: Vec<_> = futures::stream::iter(exchanges)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// Changes some places of a message: bytes, lines and pieces that other readers fell over.
fn mutate(random: &mut fastrand::Rng, bytes: &mut Vec<u8>, pieces: &[&[u8]]) {
    for _ in 0..random.usize(0..4) {
        let at = random.usize(0..=bytes.len());
        match random.u8(0..6) {
            0 => bytes.insert(at, random.u8(..)),
            1 if at < bytes.len() => bytes[at] = random.u8(..),
            2 => {
                let end = (at + random.usize(0..8)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let end = (at + random.usize(0..40)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = random.usize(0..=bytes.len());
                bytes.splice(to..to, copy);
            }
            _ => {
                let piece = pieces[random.usize(0..pieces.len())];
                // pieces are lines, so most of them stand where a line begins
                let lines: Vec<usize> = (bytes.windows(2).enumerate())
                    .filter(|(_, window)| window == b"\r\n")
                    .map(|(at, _)| at + 2)
                    .collect();
                let at = match lines.is_empty() || random.u8(0..4) == 0 {
                    true => at,
                    false => lines[random.usize(0..lines.len())],
                };
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
}

/// Request heads and bodies that are right, of every framing.
const REQUESTS: [&[u8]; 6] = [
    b"GET /v1/models HTTP/1.1\r\nhost: chat\r\n\r\n",
    b"GET /v1/models?a=b HTTP/1.0\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nhost: chat\r\ncontent-length: 5\r\n\r\nhello",
    b"POST /v1/completions HTTP/1.1\r\nhost: chat\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nhost: chat\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2;a=b\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: chat\r\nconnection: keep-alive, x-own\r\nx-own: 1\r\n\r\n",
];

const REQUEST_PIECES: [&[u8]; 26] = [
    b"content-length: 5\r\n",
    b"content-length: 0\r\n",
    b"content-length: +5\r\n",
    b"content-length: 5, 5\r\n",
    b"content-length: 18446744073709551616\r\n",
    b"content-length : 5\r\n",
    b"transfer-encoding: chunked\r\n",
    b"transfer-encoding: identity\r\n",
    b"transfer-encoding: xchunked\r\n",
    b"transfer-encoding: gzip, chunked\r\n",
    b"transfer-encoding:\x0bchunked\r\n",
    b"Transfer-Encoding\r\n : chunked\r\n",
    b"host: other\r\n",
    b"host: a b\r\n",
    b"connection: content-length, transfer-encoding\r\n",
    b"connection: upgrade\r\nupgrade: h2c\r\n",
    b"expect: 100-continue\r\n",
    b"x-nul: a\0b\r\n",
    b"x-high: \xff\xfe\r\n",
    b" folded: line\r\n",
    b"\r\n",
    b"\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"GET /smuggled HTTP/1.1\r\nhost: chat\r\n\r\n",
    b"CONNECT replica:80 HTTP/1.1\r\n\r\n",
];

/// A replica that answers each request which is right, and notes what is not.
async fn strict_replica() -> (SocketAddr, Arc<Mutex<Received>>) {
    let (listener, address) = replica_listener().await;
    let received = Arc::new(Mutex::new(Received::default()));
    let noted = received.clone();
    serve_connections(listener, move |stream| receive(stream, noted.clone()));
    (address, received)
}

#[derive(Debug, Default)]
struct Received {
    requests: Vec<Message>,
    problems: Vec<String>,
}

async fn receive(mut stream: TcpStream, received: Arc<Mutex<Received>>) {
    let mut bytes = Vec::new();
    loop {
        match read(&bytes, Side::Request) {
            Ok(request) => {
                bytes.drain(..request.len);
                received.lock().unwrap().requests.push(request);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
            Err(ReadError::Invalid(why)) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let problem = format!("{why} in {text:?}");
                received.lock().unwrap().problems.push(problem);
                return;
            }
            Err(ReadError::Incomplete) => match stream.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
        }
    }
}

/// What is wrong with the one response that a client got, if anything.
fn problem_of_response(answer: &[u8]) -> Option<String> {
    // 100 Continue may come first
    let mut rest = answer;
    loop {
        match read(rest, Side::Response) {
            Ok(message) if message.status() == Some(100) => rest = &rest[message.len..],
            Ok(message) if message.len == rest.len() => return None,
            Ok(message) => return Some(format!("{} bytes follow", rest.len() - message.len)),
            // a connection that the client spoiled is closed without an answer
            Err(_) if rest.is_empty() => return None,
            Err(error) => return Some(format!("{error:?}")),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_clients_send_a_replica_gets_whole_requests_and_one_for_each_connection() {
    // many requests are never complete
    let limits = Limits {
        client_idle: Duration::from_millis(300),
        ..LIMITS
    };
    let mut gateway = TestGateway::with_limits(json!({}), limits).await;
    let (replica, received) = strict_replica().await;
    gateway.set_replica(Some(replica));
    let mut random = fastrand::Rng::with_seed(seed());
    let requests: Vec<Vec<u8>> = (0..EXCHANGES)
        .map(|_| {
            let mut bytes = REQUESTS[random.usize(0..REQUESTS.len())].to_vec();
            mutate(&mut random, &mut bytes, &REQUEST_PIECES);
            bytes
        })
        .collect();
    let answers = exchange_all(gateway.address, &requests).await;
    gateway.wait_until_idle().await;

    assert!(complete(gateway.address).await.contains("200 OK"));

    let received = received.lock().unwrap();
    assert_eq!(received.problems, [""; 0], "BURSAR_SEED={}", seed());
    let mut served = 0;
    for (request, answer) in requests.iter().zip(&answers) {
        let problem = problem_of_response(answer);
        let (request, answer) = (
            String::from_utf8_lossy(request),
            String::from_utf8_lossy(answer),
        );
        assert_eq!(problem, None, "{request:?} was answered {answer:?}");
        served += usize::from(answer.contains(" 200 OK"));
    }
    // a client that left before its answer has had its request sent, so there may be more of these
    let sent = received.requests.len();
    assert!(
        served <= sent && sent <= EXCHANGES + 1,
        "{sent} sent, {served} served"
    );
    for request in &received.requests {
        assert_eq!(request.values("host").len(), 1, "{request:?}");
        assert_eq!(request.values("x-forwarded-for"), ["127.0.0.1"]);
    }
    // of several requests in the bytes of one client, only the first one is sent
    let is_hidden = |request: &Message| request.start.contains("smuggled");
    let first_lines = requests
        .iter()
        .map(|request| request.split(|byte| *byte == b'\n'));
    let first_lines = first_lines.filter_map(|mut lines| lines.find(|line| line.len() > 1));
    let seen = received
        .requests
        .iter()
        .filter(|request| is_hidden(request));
    let open = first_lines.filter(|line| String::from_utf8_lossy(line).contains("smuggled"));
    assert!(seen.count() <= open.count(), "{:?}", received.requests);
    assert_share(served);
}

/// Random input that is nearly always right, or nearly always wrong, would show nothing.
fn assert_share(served: usize) {
    let share = served * 100 / EXCHANGES;
    assert!((20..90).contains(&share), "{share} % are served");
}

fn request_of(number: usize) -> Vec<u8> {
    format!("GET /{number} HTTP/1.1\r\nhost: chat\r\n\r\n").into_bytes()
}

/// The number of an exchange stands in its path and in each part of its answer.
fn answers_of(number: usize) -> [Vec<u8>; 5] {
    let event = format!("data: {{\"exchange\": \"<{number}>\"}}\n\n");
    let length = event.len();
    let chunk = format!("{length:x}\r\n{event}\r\n");
    let stream = "content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n";
    [
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{event}"),
        format!("HTTP/1.1 200 OK\r\n{stream}\r\n{chunk}{chunk}{chunk}0\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\n{stream}trailer: x-sum\r\n\r\n{chunk}0\r\nx-sum: 1\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{event}{event}"),
        format!("HTTP/1.1 404 <{number}>\r\ncontent-length: {length}\r\n\r\n{event}"),
    ]
    .map(String::into_bytes)
}

const RESPONSE_PIECES: [&[u8]; 16] = [
    b"content-length: 5\r\n",
    b"content-length: -1\r\n",
    b"transfer-encoding: chunked\r\n",
    b"transfer-encoding: gzip\r\n",
    b"connection: upgrade\r\nupgrade: websocket\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b" folded: line\r\n",
    b"x-nul: a\0b\r\n",
    b"\r\n",
    b"\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"5;ext=\"\r\n",
];

/// Replicas that answer the request `/N` with the `N`th of these, in pieces of random size. They are
/// as many as are asked at once: one that fails is left out for a while.
async fn odd_replicas(answers: Vec<Vec<u8>>) -> Vec<SocketAddr> {
    let answers = Arc::new(answers);
    let mut addresses = Vec::new();
    for _ in 0..AT_ONCE {
        let (listener, address) = replica_listener().await;
        addresses.push(address);
        let answers = answers.clone();
        serve_connections(listener, move |stream| {
            answer_oddly(stream, answers.clone())
        });
    }
    addresses
}

async fn answer_oddly(stream: TcpStream, answers: Arc<Vec<Vec<u8>>>) {
    let mut stream = BufReader::new(stream);
    while let Some(head) = read_next_request(&mut stream).await {
        let path = head.split(' ').nth(1).unwrap_or_default();
        let number: usize = path.trim_start_matches('/').parse().unwrap();
        let Some(answer) = answers.get(number) else {
            let last = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            let _ = stream.get_mut().write_all(last).await;
            continue;
        };
        let mut random = fastrand::Rng::with_seed(seed() ^ number as u64);
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let (part, after) = rest.split_at(random.usize(1..=rest.len()));
            if stream.get_mut().write_all(part).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
            rest = after;
        }
        let is_framed = |message: &Message| {
            let has = |name| !message.values(name).is_empty();
            has("content-length") || has("transfer-encoding")
        };
        let closes = match read(answer, Side::Response) {
            // it ends with the connection
            Ok(message) if !is_framed(&message) => true,
            Ok(message) if message.len == answer.len() => false,
            // also after what is wrong it may keep the connection, for the next request
            Ok(_) | Err(_) => random.bool(),
        };
        if closes {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_replicas_send_a_client_gets_one_response_and_it_is_its_own() {
    // some answers are never complete, and those that are take no second
    let limits = Limits {
        response_header: Duration::from_secs(5),
        response_idle: Duration::from_secs(5),
        ..LIMITS
    };
    let mut gateway = TestGateway::with_limits(json!({}), limits).await;
    let mut random = fastrand::Rng::with_seed(seed());
    let answers: Vec<Vec<u8>> = (0..EXCHANGES)
        .map(|number| {
            let right = answers_of(number);
            let mut bytes = right[random.usize(0..right.len())].clone();
            mutate(&mut random, &mut bytes, &RESPONSE_PIECES);
            bytes
        })
        .collect();
    gateway.set_replicas(&odd_replicas(answers.clone()).await);
    let requests: Vec<Vec<u8>> = (0..EXCHANGES).map(request_of).collect();
    let received = exchange_all(gateway.address, &requests).await;
    gateway.wait_until_idle().await;

    let mut served = 0;
    for (number, response) in received.into_iter().enumerate() {
        let text = String::from_utf8_lossy(&response).into_owned();
        let sent = &answers[number];
        let context = || format!("{:?} became {text:?}", String::from_utf8_lossy(sent));
        // one that broke off may end anywhere
        match read(&response, Side::Response) {
            Ok(message) => assert_eq!(message.len, response.len(), "{}", context()),
            Err(ReadError::Incomplete) => {}
            Err(ReadError::Invalid(why)) => unreachable!("{why}: {}", context()),
        }
        for (part, _) in text.split('<').filter_map(|part| part.split_once('>')) {
            let is_number = part.parse::<usize>().is_ok();
            let is_own = String::from_utf8_lossy(sent).contains(&format!("<{part}>"));
            assert!(is_own || !is_number, "{}", context());
        }
        if let Ok(right) = read(sent, Side::Response)
            && right.status().is_some_and(|status| status >= 200)
        {
            let got = read(&response, Side::Response);
            let got = got.unwrap_or_else(|error| unreachable!("{error:?}: {}", context()));
            assert_eq!(got.status(), right.status(), "{}", context());
            assert_eq!(got.body, right.body, "{}", context());
            served += 1;
        }
    }
    assert_share(served);
    let last = exchange(gateway.address, &request_of(EXCHANGES)).await;
    assert!(String::from_utf8_lossy(&last).contains("200 OK"));
}
