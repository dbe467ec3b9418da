use super::SourceErrorKind::{
    InvalidValue, NotFound, Protocol, Timeout, Unauthorized, Unreachable,
};
use super::*;

fn source(endpoint: &Endpoint, pointer: &str) -> Http {
    let url = format!("http://{endpoint}/queue?name=jobs");
    Http::new(HttpUrl::parse(&url).unwrap(), pointer).unwrap()
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn read_body(body: &str, pointer: &str) -> Result<u64, SourceError> {
    let endpoint = answering(ok(body)).await;
    read(source(&endpoint, pointer)).await
}

#[tokio::test]
async fn the_pointed_value_is_a_number_or_a_string_that_is_one() {
    assert_eq!(read_body(r#"{"depth": 12}"#, "/depth").await, Ok(12_000));
    assert_eq!(read_body(r#"[{"a/b": "0.25"}]"#, "/0/a~1b").await, Ok(250));
    assert_eq!(read_body("7", "").await, Ok(7000));
}

#[tokio::test]
async fn what_is_no_number_is_an_error_that_says_where() {
    for (body, why) in [
        (r#"{"depth": null}"#, "null, not a number"),
        (r#"{"depth": true}"#, "a boolean"),
        (r#"{"depth": [1]}"#, "an array"),
        (r#"{"depth": {}}"#, "an object"),
        (r#"{"depth": "NaN"}"#, "NaN"),
        (r#"{"depth": "many"}"#, "a text of 4 characters"),
        (r#"{"depth": -3}"#, "negative"),
        (r#"{"depth": 1e300}"#, "more than"),
    ] {
        assert_fails(
            &read_body(body, "/depth").await,
            InvalidValue,
            &[why, "`/depth`", "127"],
        );
    }
    let missing = read_body(r#"{"depths": 1}"#, "/depth").await;
    assert_fails(&missing, NotFound, &["nothing at `/depth`", "/queue"]);
    let html = read_body("<html>", "/depth").await;
    assert_fails(&html, Protocol, &["does not answer with JSON"]);
}

#[tokio::test]
async fn a_status_that_is_no_success_is_named_and_says_what_to_check() {
    let status = async |status: &str| {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        read(source(&answering(answer).await, "/depth")).await
    };
    assert_fails(
        &status("401 No").await,
        Unauthorized,
        &["HTTP 401", "Secret"],
    );
    assert_fails(
        &status("403 No").await,
        Unauthorized,
        &["HTTP 403", "Secret"],
    );
    assert_fails(&status("404 No").await, NotFound, &["HTTP 404"]);
    assert_fails(&status("500 No").await, Protocol, &["HTTP 500"]);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let answer = "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest\r\n\
                  content-length: 0\r\n\r\n";
    let read = read(source(&answering(answer).await, "/depth")).await;
    assert_fails(&read, Protocol, &["HTTP 302", "not followed"]);
}

#[tokio::test]
async fn an_answer_of_ten_megabytes_is_cut_off() {
    let body = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 10 << 20);
    let mut answer = body.into_bytes();
    answer.resize(answer.len() + (10 << 20), b'1');
    let read = read(source(&answering(answer).await, "")).await;
    assert_fails(&read, Protocol, &["longer than 64 KiB"]);
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let read_endless = read(source(&endless(chunked, "4\r\n1111\r\n").await, "")).await;
    assert_fails(&read_endless, Protocol, &["longer than 64 KiB"]);
    // and a head without end
    let head = endless("HTTP/1.1 200 OK\r\n", "a: b\r\n").await;
    let endless_head = read(source(&head, "")).await;
    assert_fails(&endless_head, Unreachable, &["broke"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_drips_is_left_after_five_seconds() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n111111111";
    let began = tokio::time::Instant::now();
    let read = read(source(&dripping(answer).await, "")).await;
    assert_fails(&read, Timeout, &["within 5 s", "/queue"]);
    assert!(began.elapsed() <= READ_TIMEOUT + Duration::from_millis(10));
}

#[tokio::test]
async fn a_server_that_stops_and_comes_back_is_read_again() {
    let endpoint = answering(ok("3")).await;
    let source = source(&endpoint, "");
    assert_eq!(read(source.clone()).await, Ok(3000));
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = gone.local_addr().unwrap().port();
    drop(gone);
    let mut moved = source.clone();
    moved.url.endpoint.port = port;
    assert_fails(
        &read(moved.clone()).await,
        Unreachable,
        &["refused", "no connection to 127"],
    );
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_some(&mut stream).await;
        stream.write_all(ok("4").as_bytes()).await.unwrap();
    });
    assert_eq!(read(moved).await, Ok(4000));
}

#[tokio::test]
async fn a_token_or_a_password_is_sent_and_never_told() {
    let echo = server(|mut stream| async move {
        let request = read_some(&mut stream).await;
        let request = String::from_utf8(request).unwrap();
        let header = request
            .lines()
            .find(|line| line.starts_with("authorization"));
        let body = format!("{:?}", header.unwrap_or_default());
        stream.write_all(ok(&body).as_bytes()).await.unwrap();
    })
    .await;
    let token = Credentials {
        token: Some("s3cret".into()),
        ..Credentials::default()
    };
    let read_token = read_with(source(&echo, ""), &token).await;
    // as many as "authorization: Bearer s3cret" has
    assert_fails(&read_token, InvalidValue, &["a text of 28 characters"]);
    let password = Credentials {
        username: Some("ann".into()),
        password: Some("s3cret".into()),
        ..Credentials::default()
    };
    let read_password = read_with(source(&echo, ""), &password).await;
    // as many as "authorization: Basic YW5uOnMzY3JldA==" has
    assert_fails(&read_password, InvalidValue, &["a text of 37 characters"]);
    let broken = Credentials {
        token: Some("a\nb".into()),
        ..Credentials::default()
    };
    assert_fails(
        &read_with(source(&echo, ""), &broken).await,
        Unauthorized,
        &["line break"],
    );
}

#[test]
fn a_pointer_that_is_none_is_refused() {
    let url = HttpUrl::parse("http://a/").unwrap();
    for pointer in ["depth", "/a~", "/a~2"] {
        let error = Http::new(url.clone(), pointer).unwrap_err().to_string();
        assert!(
            error.contains("JSON pointer") && error.contains("/data/0"),
            "{error}"
        );
    }
}
