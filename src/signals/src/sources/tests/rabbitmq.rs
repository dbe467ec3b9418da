use super::SourceErrorKind::{
    InvalidValue, NotFound, Protocol, Timeout, Unauthorized, Unreachable,
};
use super::*;

fn source(endpoint: &Endpoint, protocol: RabbitMqProtocol) -> RabbitMq {
    RabbitMq {
        endpoint: endpoint.clone(),
        protocol,
        vhost: "/".into(),
        queue: "jobs".into(),
    }
}

fn amqp(endpoint: &Endpoint) -> RabbitMq {
    source(endpoint, RabbitMqProtocol::Amqp)
}

fn management(endpoint: &Endpoint) -> RabbitMq {
    source(endpoint, RabbitMqProtocol::Management)
}

/// A frame with a method.
fn frame(class: u8, method: u8, arguments: &[u8]) -> Vec<u8> {
    let length = u8::try_from(arguments.len() + 4).unwrap();
    let header = [1, 0, 0, 0, 0, 0, length, 0, class, 0, method];
    [&header, arguments, &[0xCE]].concat()
}

fn close(class: u8, method: u8, code: u16, text: &str) -> Vec<u8> {
    let length = [u8::try_from(text.len()).unwrap()];
    let arguments = [&code.to_be_bytes()[..], &length, text.as_bytes(), &[0; 4]].concat();
    frame(class, method, &arguments)
}

const START: &[u8] = &[0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A server that answers each thing that it gets with the next of these.
async fn scripted(answers: Vec<Vec<u8>>) -> Endpoint {
    server(move |mut stream| {
        let answers = answers.clone();
        async move {
            for answer in answers {
                read_some(&mut stream).await;
                stream.write_all(&answer).await.ok();
            }
            read_to_end(&mut stream).await;
        }
    })
    .await
}

/// What a server says until a queue is declared.
fn opening() -> Vec<Vec<u8>> {
    vec![
        frame(10, 10, START),
        frame(10, 30, &[0; 8]),
        // to tune-ok and open: a heartbeat, then open-ok
        [&[8, 0, 0, 0, 0, 0, 0, 0xCE][..], &frame(10, 41, &[0])].concat(),
        frame(20, 11, &[0; 4]),
    ]
}

async fn declared(answer: Vec<u8>) -> Result<u64, SourceError> {
    let mut answers = opening();
    answers.push(answer);
    read(amqp(&scripted(answers).await)).await
}

#[tokio::test]
async fn a_declaration_says_how_many_messages_are_ready() {
    let arguments = b"\x04jobs\x00\x00\x01\x02\x00\x00\x00\x07";
    assert_eq!(declared(frame(50, 11, arguments)).await, Ok(258_000));
}

#[tokio::test]
async fn what_a_server_closes_for_is_said() {
    let missing = close(20, 40, 404, "NOT_FOUND - no queue 'jobs' in vhost '/'");
    assert_fails(&declared(missing).await, NotFound, &["no queue 'jobs'"]);
    let denied = close(20, 40, 403, "ACCESS_REFUSED - access to queue");
    assert_fails(
        &declared(denied).await,
        Unauthorized,
        &["ACCESS_REFUSED", "permissions"],
    );
    let start = frame(10, 10, START);
    let login = close(10, 50, 403, "ACCESS_REFUSED - Login was refused");
    let wrong = read(amqp(&scripted(vec![start, login]).await)).await;
    assert_fails(
        &wrong,
        Unauthorized,
        &["Login was refused", "check username"],
    );
    let mut answers = opening();
    answers[2] = close(10, 50, 530, "NOT_ALLOWED - vhost team not found");
    let vhost = read(amqp(&scripted(answers).await)).await;
    assert_fails(
        &vhost,
        NotFound,
        &["vhost team not found", "check the vhost"],
    );
}

#[tokio::test]
async fn what_is_no_amqp_is_an_error() {
    for (answer, words) in [
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            "does not speak AMQP",
        ),
        (b"AMQP\x00\x01\x00\x00".to_vec(), "does not speak AMQP"),
        (vec![1, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF], "longer than 1 MiB"),
        (vec![1, 0, 0, 0, 0, 0, 0, 0], "has no end"),
        (vec![1, 0, 0, 0, 0, 0, 0, 0xCE], "without a number"),
        (frame(60, 71, &[]), "method 60.71"),
    ] {
        let read = read(amqp(&scripted(vec![answer]).await)).await;
        assert_fails(&read, Protocol, &[words]);
    }
    let closing = server(|_| async {}).await;
    assert_fails(&read(amqp(&closing)).await, Unreachable, &["broke"]);
    for arguments in [&b"\x04jobs\x00"[..], b"", b"\xff"] {
        let read = declared(frame(50, 11, arguments)).await;
        assert_fails(&read, Protocol, &["no message count"]);
    }
}

#[tokio::test]
async fn heartbeats_without_end_are_cut_off() {
    let heartbeats = server(|mut stream| async move {
        let frames = [8, 0, 0, 0, 0, 0, 0, 0xCE].repeat(4096);
        while stream.write_all(&frames).await.is_ok() {}
    })
    .await;
    assert_fails(
        &read(amqp(&heartbeats)).await,
        Protocol,
        &["longer than 1 MiB"],
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_drips_is_left_after_five_seconds() {
    let read = read(amqp(&dripping("\u{1}\0\0\0\0\0\u{ff}").await)).await;
    assert_fails(&read, Timeout, &["within 5 s"]);
}

async fn api(status: u16, body: &str) -> Result<u64, SourceError> {
    let length = body.len();
    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
    read(management(&answering(answer).await)).await
}

#[tokio::test]
async fn the_management_api_counts_messages_that_are_held_too() {
    let body = r#"{"messages":9,"messages_ready":4,"messages_unacknowledged":5}"#;
    assert_eq!(api(200, body).await, Ok(9000));
    assert_fails(
        &api(200, r#"{"name":"jobs"}"#).await,
        InvalidValue,
        &["new queue", "`jobs`"],
    );
    assert_fails(
        &api(200, r#"{"messages":-1}"#).await,
        InvalidValue,
        &["-1 messages"],
    );
    assert_fails(
        &api(200, r#"{"messages":"NaN"}"#).await,
        Protocol,
        &["15672"],
    );
    assert_fails(
        &api(404, "").await,
        NotFound,
        &["no queue `jobs` in vhost `/`"],
    );
    assert_fails(&api(401, "").await, Unauthorized, &["HTTP 401"]);
    assert_fails(
        &api(500, "").await,
        Protocol,
        &["HTTP 500", "management API"],
    );
}

#[tokio::test]
async fn names_are_parts_of_a_path_and_no_path() {
    let (sent, mut received) = tokio::sync::mpsc::unbounded_channel();
    let endpoint = server(move |mut stream| {
        let sent = sent.clone();
        async move {
            let request = read_some(&mut stream).await;
            sent.send(String::from_utf8(request).unwrap()).unwrap();
        }
    })
    .await;
    let mut source = management(&endpoint);
    source.queue = "../../overview?a".into();
    assert!(read(source).await.is_err());
    let request = received.recv().await.unwrap();
    let line = "GET /api/queues/%2F/%2E%2E%2F%2E%2E%2Foverview%3Fa HTTP/1.1\r\n";
    assert!(request.starts_with(line), "{request}");
}

#[tokio::test]
async fn names_that_amqp_cannot_have_are_refused() {
    for queue in [String::new(), "q".repeat(256)] {
        let mut source = amqp(&endpoint(1));
        source.queue = queue;
        assert_fails(
            &read(source).await,
            NotFound,
            &["name of the queue", "1 to 255"],
        );
    }
}
