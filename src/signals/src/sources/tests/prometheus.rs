use super::SourceErrorKind::{InvalidValue, NotFound, Protocol, Unauthorized};
use super::*;

fn source(endpoint: &Endpoint) -> Prometheus {
    let url = HttpUrl::parse(&format!("http://{endpoint}/prometheus/")).unwrap();
    Prometheus::new(url, "sum(queue)", Some(("namespace", "team"))).unwrap()
}

async fn api(status: u16, body: &str) -> Endpoint {
    let length = body.len();
    answering(format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}"
    ))
    .await
}

/// An answer with this result.
async fn result(kind: &str, result: &str) -> Endpoint {
    let data = format!(r#"{{"resultType":"{kind}","result":{result}}}"#);
    api(200, &format!(r#"{{"status":"success","data":{data}}}"#)).await
}

async fn read_result(kind: &str, of: &str) -> Result<u64, SourceError> {
    read(source(&result(kind, of).await)).await
}

#[tokio::test]
async fn a_vector_of_one_sample_and_a_scalar_are_values() {
    let vector = r#"[{"metric":{},"value":[1700000000.1,"2.5"]}]"#;
    assert_eq!(read_result("vector", vector).await, Ok(2500));
    assert_eq!(
        read_result("scalar", r#"[1700000000.1,"7"]"#).await,
        Ok(7000)
    );
}

#[tokio::test]
async fn other_results_say_what_they_are() {
    let two = r#"[{"metric":{"a":"1"},"value":[1,"2"]},{"metric":{"a":"2"},"value":[1,"2"]}]"#;
    for (kind, result, why) in [
        (
            "vector",
            r#"[{"metric":{},"value":[1,"NaN"]}]"#,
            "divided by 0",
        ),
        (
            "vector",
            r#"[{"metric":{},"value":[1,"+Inf"]}]"#,
            "infinite",
        ),
        ("vector", r#"[{"metric":{},"value":[1,"-1"]}]"#, "negative"),
        (
            "vector",
            r#"[{"metric":{},"histogram":[1,{}]}]"#,
            "without a value",
        ),
        ("vector", two, "2 samples, not one; aggregate"),
        (
            "matrix",
            r#"[{"metric":{},"values":[[1,"2"]]}]"#,
            "a range of samples",
        ),
        ("string", r#"[1,"a"]"#, "a string"),
        ("streams", "[]", "`streams`"),
    ] {
        assert_fails(
            &read_result(kind, result).await,
            InvalidValue,
            &[why, "/prometheus/"],
        );
    }
}

#[tokio::test]
async fn an_empty_vector_is_an_error_unless_it_is_said_to_be_zero() {
    let endpoint = result("vector", "[]").await;
    let mut source = source(&endpoint);
    assert_fails(&read(source.clone()).await, NotFound, &["gives no sample"]);
    source.empty_is_zero = true;
    assert_eq!(read(source).await, Ok(0));
}

#[tokio::test]
async fn what_the_server_says_of_the_query_is_repeated() {
    let said = r#"{"status":"error","errorType":"execution","error":"query timed out"}"#;
    let read_error = read(source(&api(503, said).await)).await;
    assert_fails(
        &read_error,
        Protocol,
        &["refuses the query: query timed out"],
    );
    let other = read(source(&api(404, "not here").await)).await;
    assert_fails(&other, Protocol, &["HTTP 404", "without /api/v1"]);
    assert_fails(
        &read(source(&api(401, "").await)).await,
        Unauthorized,
        &["HTTP 401"],
    );
}

#[tokio::test]
async fn the_query_is_sent_with_its_label_and_nothing_else() {
    let (sent, mut received) = tokio::sync::mpsc::unbounded_channel();
    let endpoint = server(move |mut stream| {
        let sent = sent.clone();
        async move {
            let request = read_some(&mut stream).await;
            sent.send(String::from_utf8(request).unwrap()).unwrap();
        }
    })
    .await;
    assert!(read(source(&endpoint)).await.is_err());
    let request = received.recv().await.unwrap();
    let line = "GET /prometheus/api/v1/query?query=sum%28queue%7Bnamespace%3D%22team%22%7D%29\
                &timeout=5s&partial_response=false HTTP/1.1\r\n";
    assert!(request.starts_with(line), "{request}");
}
