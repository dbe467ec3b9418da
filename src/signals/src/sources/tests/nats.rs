use super::SourceErrorKind::{NotFound, Protocol, Timeout, Unauthorized, Unreachable};
use super::*;

fn source(endpoint: &Endpoint) -> Nats {
    Nats {
        endpoint: endpoint.clone(),
        stream: "JOBS".into(),
        consumer: "workers".into(),
    }
}

/// A server that begins with `info`, accepts everybody, and gives `answer` to the request, in
/// which `INBOX` stands for where the answer goes.
async fn scripted(info: &'static str, answer: impl Into<String>) -> Endpoint {
    let answer = answer.into();
    server(move |mut stream| {
        let answer = answer.clone();
        async move {
            stream
                .write_all(format!("INFO {info}\r\n").as_bytes())
                .await
                .unwrap();
            let connect = String::from_utf8(read_some(&mut stream).await).unwrap();
            if connect.is_empty() {
                return;
            }
            assert!(connect.starts_with("CONNECT {"), "{connect}");
            stream.write_all(b"PING\r\nPONG\r\n").await.ok();
            let mut request = String::new();
            while !request.contains("\r\n\r\n") {
                let bytes = read_some(&mut stream).await;
                if bytes.is_empty() {
                    return;
                }
                request += &String::from_utf8(bytes).unwrap();
            }
            assert!(
                request.contains("PUB $JS.API.CONSUMER.INFO.JOBS.workers "),
                "{request}"
            );
            let inbox = request
                .split("SUB ")
                .nth(1)
                .unwrap()
                .split(' ')
                .next()
                .unwrap();
            let answer = answer.replace("INBOX", inbox);
            stream.write_all(answer.as_bytes()).await.ok();
            read_to_end(&mut stream).await;
        }
    })
    .await
}

fn message(json: &str) -> String {
    format!("MSG INBOX 1 {}\r\n{json}\r\n", json.len())
}

const INFO: &str = r#"{"server_id":"a","max_payload":1048576}"#;

#[tokio::test]
async fn a_consumer_is_what_it_has_not_acknowledged() {
    let json = r#"{"num_pending": 7, "num_ack_pending": 2, "num_waiting": 100}"#;
    assert_eq!(
        read(source(&scripted(INFO, message(json)).await)).await,
        Ok(9000)
    );
    let headers = "NATS/1.0\r\na: b\r\n\r\n";
    let (header, all) = (headers.len(), headers.len() + json.len());
    let answer = format!("HMSG INBOX 1 {header} {all}\r\n{headers}{json}\r\n");
    assert_eq!(read(source(&scripted(INFO, answer).await)).await, Ok(9000));
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let json = r#"{"error":{"code":404,"err_code":10014,"description":"consumer not found"}}"#;
    let read_missing = read(source(&scripted(INFO, message(json)).await)).await;
    let words = ["consumer not found", "`workers`", "`JOBS`"];
    assert_fails(&read_missing, NotFound, &words);
    let status = "NATS/1.0 503\r\n\r\n";
    let answer = format!("HMSG INBOX 1 16 16\r\n{status}\r\n");
    let read_disabled = read(source(&scripted(INFO, answer).await)).await;
    assert_fails(
        &read_disabled,
        NotFound,
        &["JetStream does not answer", "enable it"],
    );
    for name in ["", "a.b", "a b", "a>", "*", "a\r\nPUB x 0"] {
        let mut bad = source(&endpoint(1));
        bad.consumer = name.into();
        assert_fails(&read(bad).await, NotFound, &["is no name of a consumer"]);
    }
}

#[tokio::test]
async fn other_answers_are_errors() {
    for (answer, words) in [
        (message("{}"), "no num_pending"),
        (
            message(r#"{"num_pending":-1,"num_ack_pending":0}"#),
            "no JSON",
        ),
        (
            message(r#"{"num_pending":"NaN","num_ack_pending":0}"#),
            "no JSON",
        ),
        (message("many"), "no JSON"),
        (
            "MSG other 1 2\r\n{}\r\n".to_owned(),
            "no answer to a request",
        ),
        ("MSG INBOX 1 99999999\r\n".to_owned(), "longer than 1 MiB"),
        (
            "-ERR 'Unknown Protocol Operation'\r\n".to_owned(),
            "Unknown Protocol",
        ),
    ] {
        let read = read(source(&scripted(INFO, answer).await)).await;
        assert_fails(&read, Protocol, &[words, "127.0.0.1"]);
    }
    let other = server(|mut stream| async move {
        stream.write_all(b"+OK hello\r\n").await.ok();
    })
    .await;
    assert_fails(&read(source(&other)).await, Protocol, &["begins with INFO"]);
}

#[tokio::test]
async fn refused_credentials_say_what_to_check() {
    let refuses = "-ERR 'Authorization Violation'\r\n";
    let wrong = read(source(&scripted(INFO, refuses).await)).await;
    assert_fails(&wrong, Unauthorized, &["Authorization Violation", "Secret"]);
    let right = "-ERR 'Permissions Violation for Publish to \"$JS.API\"'\r\n";
    let denied = read(source(&scripted(INFO, right).await)).await;
    assert_fails(&denied, Unauthorized, &["Permissions Violation"]);
    let wanted = scripted(r#"{"auth_required":true}"#, "").await;
    assert_fails(
        &read(source(&wanted)).await,
        Unauthorized,
        &["wants a user or a token"],
    );
    let tls = scripted(r#"{"tls_required":true}"#, "").await;
    assert_fails(&read(source(&tls)).await, Unreachable, &["wants TLS"]);
}

#[tokio::test]
async fn servers_that_a_server_names_are_not_asked() {
    // the only connection is the one that was checked: were another tried, it would be refused
    let info = r#"{"connect_urls":["169.254.169.254:80","[fe80::1]:4222"],"ldm":true}"#;
    let more = format!(
        "INFO {info}\r\n{}",
        message(r#"{"num_pending":1,"num_ack_pending":0}"#)
    );
    assert_eq!(read(source(&scripted(info, more).await)).await, Ok(1000));
    let closing = server(move |mut stream| async move {
        stream
            .write_all(format!("INFO {info}\r\n").as_bytes())
            .await
            .unwrap();
        read_some(&mut stream).await;
    })
    .await;
    assert_fails(
        &read(source(&closing)).await,
        Unreachable,
        &["closed the connection"],
    );
}

#[tokio::test]
async fn nothing_before_tls_counts() {
    let injecting = server(|mut stream| async move {
        stream.write_all(b"INFO {}\r\nPONG\r\n").await.ok();
        read_to_end(&mut stream).await;
    })
    .await;
    let mut source = source(&injecting);
    source.endpoint.tls = true;
    assert_fails(&read(source).await, Protocol, &["before TLS"]);
}

#[tokio::test]
async fn lines_without_end_are_cut_off() {
    let long = server(|mut stream| async move {
        let piece = "a".repeat(1 << 16);
        while stream.write_all(piece.as_bytes()).await.is_ok() {}
    })
    .await;
    assert_fails(&read(source(&long)).await, Protocol, &["longer than 1 MiB"]);
    let pings = server(|mut stream| async move {
        stream.write_all(b"INFO {}\r\n").await.ok();
        let (mut reads, mut writes) = stream.into_split();
        tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            while reads.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        });
        while writes
            .write_all("PING\r\n".repeat(1024).as_bytes())
            .await
            .is_ok()
        {}
    })
    .await;
    assert!(read(source(&pings)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_drips_is_left_after_five_seconds() {
    let read = read(source(&dripping("INFO {\"a\": 1}").await)).await;
    assert_fails(&read, Timeout, &["within 5 s"]);
}
