//! Sends requests to one Service and counts their outcomes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::tally::{Answer, Tally};
use crate::trace::Arrival;

/// A request without an answer by then is lost.
const LIMIT: Duration = Duration::from_secs(150);
const REACH_LIMIT: Duration = Duration::from_secs(2);
/// Characters that the engine counts as one token; the header says the exact number.
const TOKEN: &str = "word";

/// A sender; its clones count together.
#[derive(Debug, Clone)]
pub struct Sender {
    target: Arc<str>,
    tally: Arc<Mutex<Tally>>,
}

impl Sender {
    /// Sends to `target`, a host and port.
    pub fn new(target: &str) -> Self {
        Self {
            target: target.into(),
            tally: Arc::default(),
        }
    }

    /// The counts so far.
    pub fn tally(&self) -> Tally {
        self.change(|tally| tally.clone())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Tally) -> T) -> T {
        change(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a connection opens.
    ///
    /// # Errors
    /// Why not.
    pub async fn reach(&self) -> std::io::Result<()> {
        let connect = TcpStream::connect(&*self.target);
        tokio::time::timeout(REACH_LIMIT, connect).await?.map(drop)
    }

    /// Sends a request and counts it.
    pub async fn ask(&self, prompt: u32, answer: u32) -> Answer {
        self.change(|tally| tally.sent += 1);
        let outcome = self.exchange(prompt, answer).await;
        self.change(|tally| tally.add(&outcome));
        outcome
    }

    /// Sends a request that should be refused, and does not count it.
    pub async fn expect_refusal(&self) -> Answer {
        self.exchange(8, 8).await
    }

    /// Starts to send the trace, each request at its time whatever the outcomes of earlier ones.
    /// Returns `false` while a replay runs.
    pub fn replay(&self, trace: Vec<Arrival>, speedup: u32) -> bool {
        if self.change(|tally| std::mem::replace(&mut tally.replaying, true)) {
            return false;
        }
        let sender = self.clone();
        tokio::spawn(async move {
            sender.send_all(trace, speedup).await;
            sender.change(|tally| tally.replaying = false);
        });
        true
    }

    async fn send_all(&self, trace: Vec<Arrival>, speedup: u32) {
        let began = Instant::now();
        let mut running = JoinSet::new();
        for arrival in trace {
            tokio::time::sleep_until((began + arrival.at(speedup)).into()).await;
            let sender = self.clone();
            running.spawn(async move { sender.ask(arrival.prompt, arrival.answer).await });
        }
        while let Some(ended) = running.join_next().await {
            if let Err(error) = ended {
                self.change(|tally| tally.add(&Err(error.to_string())));
            }
        }
    }

    async fn exchange(&self, prompt: u32, answer: u32) -> Answer {
        match tokio::time::timeout(LIMIT, post(&self.target, prompt, answer)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
        }
    }
}

/// A connection of its own for each request: kube-proxy chooses a replica when a connection opens.
async fn post(target: &str, prompt: u32, answer: u32) -> Answer {
    let stream = TcpStream::connect(target)
        .await
        .map_err(|error| format!("connect: {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let body = serde_json::json!({
        "model": "meta-llama/Llama-2-70b-chat-hf", "prompt": TOKEN.repeat(prompt as usize), "max_tokens": answer, "ignore_eos": true,
    });
    let request = Request::post("/v1/completions")
        .header("host", target)
        .header("content-type", "application/json")
        .header("x-prompt-tokens", prompt)
        .body(Full::<Bytes>::from(body.to_string()))
        .map_err(|error| error.to_string())?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| format!("send: {error}"))?;
    let status = response.status().as_u16();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|error| format!("body: {error}"))?;
    Ok((
        status,
        String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    ))
}
