//! An engine in a process of its own, and a client for it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// No wait in these tests is longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

type Body = axum::body::Body;

/// An engine that listens; it ends with the test.
pub(crate) struct Engine {
    process: Child,
    address: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Engine {
    /// Starts one for the model `m` on a free port.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_bursar-engine"))
            .args(["--host", "127.0.0.1", "--port", "0", "--model", "m"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the engine starts");
        let stdout = process.stdout.take().expect("stdout is piped");
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("the engine says where it listens");
        let address = line
            .trim()
            .strip_prefix("m listens on ")
            .expect("the line ends with the address");
        Self {
            process,
            address: address.to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<Response<Body>, Error> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_owned())))
            .expect("the request is well formed");
        let response = tokio::time::timeout(LIMIT, self.client.request(request)).await;
        Ok(response
            .expect("the engine answers in time")?
            .map(Body::new))
    }

    pub(crate) async fn post(&self, path: &str, body: &str) -> Response<Body> {
        self.send("POST", path, body)
            .await
            .expect("the engine answers")
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, String) {
        let response = self
            .send("GET", path, "")
            .await
            .expect("the engine answers");
        (
            response.status(),
            text(response).await.expect("the body is whole"),
        )
    }

    /// The value of a series of `/metrics`, named as on the page but for the labels that all have.
    pub(crate) async fn metric(&self, name: &str, further_labels: &str) -> f64 {
        let series = format!(r#"vllm:{name}{{engine="0"{further_labels},model_name="m"}} "#);
        let (_, page) = self.get("/metrics").await;
        let value = page.lines().find_map(|line| line.strip_prefix(&series));
        value
            .expect("the series is there")
            .parse()
            .expect("it is a number")
    }

    /// Waits until a series has a value.
    pub(crate) async fn until(&self, name: &str, value: f64) {
        let since = Instant::now();
        while self.metric(name, "").await != value {
            assert!(since.elapsed() < LIMIT, "{name} never became {value}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn terminate(&self) {
        let id = i32::try_from(self.process.id()).expect("process ids are small");
        kill(Pid::from_raw(id), Signal::SIGTERM).expect("the engine takes a signal");
    }

    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let since = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().expect("the engine is ours") {
                return status;
            }
            assert!(since.elapsed() < LIMIT, "the engine does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // it may have ended already
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The whole body; an error when the connection broke before its end.
pub(crate) async fn text(response: Response<Body>) -> Result<String, axum::Error> {
    let body = tokio::time::timeout(LIMIT, response.into_body().collect()).await;
    let bytes = body.expect("the body ends in time")?.to_bytes();
    Ok(String::from_utf8(bytes.to_vec()).expect("the body is text"))
}

/// The body as JSON.
pub(crate) async fn json(response: Response<Body>) -> Value {
    let text = text(response).await.expect("the body is whole");
    serde_json::from_str(&text).expect("the body is JSON")
}

/// The events of a stream, `[DONE]` left out but checked.
pub(crate) async fn events(response: Response<Body>) -> Vec<Value> {
    let text = text(response).await.expect("the stream is whole");
    let mut events: Vec<_> = text
        .split_terminator("\n\n")
        .map(|event| event.strip_prefix("data: ").expect("events are data"))
        .collect();
    assert_eq!(events.pop(), Some("[DONE]"));
    let parse = |event: &str| serde_json::from_str(event).expect("events are JSON");
    events.into_iter().map(parse).collect()
}
