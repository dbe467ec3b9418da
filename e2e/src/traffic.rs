//! Requests as clients send them: each over a connection of its own, through the Service.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, ToSocketAddrs},
    time::{Duration, Instant},
};

use futures::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes, http::request::Builder};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// No answer takes longer; a request that does is lost.
const LIMIT: Duration = Duration::from_secs(150);

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status; `None` if no whole answer came.
    pub status: Option<u16>,
    /// The body, or what went wrong.
    pub text: String,
    /// The header `Retry-After`.
    pub retry_after: Option<String>,
    /// When it was sent, since its burst began.
    pub sent: Duration,
    /// How long after that the first part of the body came.
    pub first_part: Option<Duration>,
}

/// Asks the model behind `address` for `max_tokens` tokens.
pub async fn complete(address: SocketAddr, max_tokens: u32) -> Answer {
    let body = format!(
        r#"{{"model":"meta-llama/Llama-2-70b-chat-hf","prompt":"hello","max_tokens":{max_tokens},"ignore_eos":true}}"#
    );
    ask(address, Request::post("/v1/completions"), body).await
}

/// Asks for `answer` tokens to a prompt of `prompt` tokens, which come one after the other.
pub async fn stream(address: SocketAddr, prompt: u32, answer: u32) -> Answer {
    let body = serde_json::json!({
        "model": "meta-llama/Llama-2-70b-chat-hf",
        "prompt": "word".repeat(prompt as usize),
        "max_tokens": answer,
        "ignore_eos": true,
        "stream": true,
    });
    let request = Request::post("/v1/completions").header("x-prompt-tokens", prompt);
    ask(address, request, body.to_string()).await
}

/// An empty POST.
pub async fn post(address: SocketAddr, path: &str) -> Answer {
    ask(address, Request::post(path), String::new()).await
}

/// A PUT of JSON.
pub async fn put(address: SocketAddr, path: &str, body: String) -> Answer {
    ask(address, Request::put(path), body).await
}

/// A GET.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    ask(address, Request::get(path), String::new()).await
}

async fn ask(address: SocketAddr, request: Builder, body: String) -> Answer {
    match tokio::time::timeout(LIMIT, exchange(address, request, body)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(why)) => lost(why),
        Err(_) => lost(format!("no answer within {} s", LIMIT.as_secs())),
    }
}

fn lost(why: String) -> Answer {
    Answer {
        status: None,
        text: why,
        retry_after: None,
        sent: Duration::ZERO,
        first_part: None,
    }
}

async fn exchange(address: SocketAddr, request: Builder, body: String) -> Result<Answer, String> {
    let began = Instant::now();
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("connect: {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let request = request
        .header("host", "chat")
        .header("content-type", "application/json")
        .body(Full::<Bytes>::from(body))
        .map_err(|error| error.to_string())?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| format!("send: {error}"))?;
    let status = response.status().as_u16();
    let retry_after = response.headers().get("retry-after");
    let retry_after = retry_after.and_then(|value| value.to_str().ok().map(str::to_owned));
    let (mut body, mut bytes, mut first_part) = (response.into_body(), Vec::new(), None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("body: {error}"))?;
        if let Some(data) = frame.data_ref() {
            first_part.get_or_insert_with(|| began.elapsed());
            bytes.extend_from_slice(data);
        }
    }
    Ok(Answer {
        status: Some(status),
        text: String::from_utf8_lossy(&bytes).into_owned(),
        retry_after,
        sent: Duration::ZERO,
        first_part,
    })
}

/// Asks `count` times, one request every `gap`, and waits for all answers.
pub async fn burst(address: SocketAddr, count: u32, gap: Duration, max_tokens: u32) -> Vec<Answer> {
    let began = Instant::now();
    let mut asked = Vec::new();
    for _ in 0..count {
        let sent = began.elapsed();
        asked.push(tokio::spawn(async move {
            Answer {
                sent,
                ..complete(address, max_tokens).await
            }
        }));
        tokio::time::sleep(gap).await;
    }
    join_all(asked)
        .await
        .into_iter()
        .map(|answer| answer.unwrap_or_else(|_| lost("the client ended".to_owned())))
        .collect()
}

/// Answers by status; what is not 200 with one example of its text.
pub fn tally(answers: &[Answer]) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for answer in answers {
        let name = match answer.status {
            Some(200) => "200".to_owned(),
            Some(status) => format!(
                "{status}: {}",
                answer.text.chars().take(160).collect::<String>()
            ),
            None => format!("lost: {}", answer.text),
        };
        *tally.entry(name).or_default() += 1;
    }
    tally
}

/// The address of a Service, through its name.
///
/// # Errors
/// When the name does not resolve, which only works in the cluster's network.
pub fn address(service: &str, namespace: &str) -> std::io::Result<SocketAddr> {
    let name = format!("{service}.{namespace}.svc.cluster.local:80");
    name.to_socket_addrs()?
        .next()
        .ok_or_else(|| std::io::Error::other(format!("{name} has no address")))
}
