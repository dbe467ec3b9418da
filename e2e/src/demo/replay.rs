//! The Azure conversation trace, replayed through the Service as its clients would send it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Bytes};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{net::TcpStream, task::JoinSet};

use super::manifests::SPEEDUP;
use crate::{Error, Result};

const TRACE: &str = include_str!("../../data/azure-conversation.csv");
/// No answer takes longer; a request that does is lost.
const LIMIT: Duration = Duration::from_secs(150);
/// Characters that the engine counts as one token; the header says the exact number.
const TOKEN: &str = "word";

/// A request of the trace.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Arrival {
    #[serde(rename = "t_s")]
    seconds: f64,
    /// Tokens of the prompt.
    #[serde(rename = "input_tokens")]
    pub(super) prompt: u32,
    /// Tokens of the answer.
    #[serde(rename = "output_tokens")]
    pub(super) answer: u32,
}

impl Arrival {
    /// When it comes in the replay, after the first.
    pub(super) fn at(self) -> Duration {
        Duration::from_secs_f64(self.seconds / f64::from(SPEEDUP))
    }
}

/// The first `count` requests of the trace.
pub(super) fn trace(count: u32) -> Result<Vec<Arrival>> {
    csv::Reader::from_reader(TRACE.as_bytes())
        .deserialize()
        .take(count as usize)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| Error::Malformed {
            what: "azure-conversation.csv".into(),
            why: error.to_string(),
        })
}

/// What became of requests.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// Sent so far.
    pub(super) sent: usize,
    /// Answers by HTTP status.
    pub(super) by_status: BTreeMap<u16, usize>,
    /// Without a whole answer.
    pub(super) lost: usize,
    /// The first answer that was not 200, or the first loss.
    pub(super) example: Option<String>,
    /// Answers to [`expect_refusal`], which count as neither.
    pub(super) refused_as_told: usize,
}

impl Tally {
    /// Served with 200.
    pub(super) fn served(&self) -> usize {
        self.by_status.get(&200).copied().unwrap_or_default()
    }

    /// Answered with 5xx.
    pub(super) fn server_errors(&self) -> usize {
        self.by_status.range(500..).map(|(_, count)| count).sum()
    }

    /// Every request was served.
    pub(super) fn is_perfect(&self) -> bool {
        self.lost == 0 && self.served() == self.sent
    }

    fn add(&mut self, answer: &Answer) {
        match answer {
            Ok((200, _)) => *self.by_status.entry(200).or_default() += 1,
            Ok((status, text)) => {
                *self.by_status.entry(*status).or_default() += 1;
                self.example.get_or_insert_with(|| {
                    format!("{status}: {}", text.chars().take(300).collect::<String>())
                });
            }
            Err(why) => {
                self.lost += 1;
                self.example.get_or_insert_with(|| format!("lost: {why}"));
            }
        }
    }
}

/// HTTP status and body, or why there is no whole answer.
pub(super) type Answer = std::result::Result<(u16, String), String>;

/// Sends requests to one Service and counts what becomes of them.
#[derive(Debug, Clone)]
pub(super) struct Client {
    address: SocketAddr,
    tally: Arc<Mutex<Tally>>,
}

impl Client {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            tally: Arc::default(),
        }
    }

    /// Waits until a connection to the Service opens: kube-proxy refuses those to a Service whose endpoints it has not seen yet.
    pub(super) async fn reachable(&self, limit: Duration) -> Result<()> {
        let mut last = String::new();
        let opened = async {
            while let Err(error) = TcpStream::connect(self.address).await {
                last = error.to_string();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let opened = tokio::time::timeout(limit, opened).await;
        opened.map_err(|_| Error::Slow {
            what: format!(
                "waiting for the Service at {} to take a connection",
                self.address
            ),
            limit,
            tail: last,
        })
    }

    /// The counts so far.
    pub(super) fn tally(&self) -> Tally {
        self.change(|tally| tally.clone())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Tally) -> T) -> T {
        change(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks while the budget has money: anything but 200 is a failure of the demo.
    pub(super) async fn ask(&self, prompt: u32, answer: u32) -> Answer {
        self.change(|tally| tally.sent += 1);
        let outcome = self.exchange(prompt, answer).await;
        self.change(|tally| tally.add(&outcome));
        outcome
    }

    /// Asks while there is no money.
    pub(super) async fn expect_refusal(&self) -> Answer {
        let outcome = self.exchange(8, 8).await;
        self.change(|tally| tally.refused_as_told += 1);
        outcome
    }

    /// Sends the trace, each request when its time comes whatever became of those before it, and waits for all answers.
    pub(super) async fn replay(&self, trace: &[Arrival]) {
        let began = Instant::now();
        let mut running = JoinSet::new();
        for arrival in trace.iter().copied() {
            tokio::time::sleep_until((began + arrival.at()).into()).await;
            let client = self.clone();
            running.spawn(async move { client.ask(arrival.prompt, arrival.answer).await });
        }
        while let Some(ended) = running.join_next().await {
            if let Err(error) = ended {
                self.change(|tally| tally.add(&Err(error.to_string())));
            }
        }
    }

    async fn exchange(&self, prompt: u32, answer: u32) -> Answer {
        match tokio::time::timeout(LIMIT, post(self.address, prompt, answer)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
        }
    }
}

/// A connection of its own for each request: kube-proxy chooses a replica when a connection opens.
async fn post(address: SocketAddr, prompt: u32, answer: u32) -> Answer {
    let stream = TcpStream::connect(address)
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
        .header("host", "chat.team.svc.cluster.local")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_has_the_requests_that_are_asked_for_in_the_order_of_their_arrival() {
        let trace = trace(1200).unwrap();
        assert_eq!(trace.len(), 1200);
        assert!(trace.windows(2).all(|pair| pair[0].at() <= pair[1].at()));
        assert!(
            trace
                .iter()
                .all(|arrival| arrival.prompt > 0 && arrival.answer > 0)
        );
    }

    #[test]
    fn a_tally_is_perfect_only_if_every_request_was_served() {
        let mut tally = Tally {
            sent: 2,
            ..Tally::default()
        };
        tally.add(&Ok((200, String::new())));
        assert!(!tally.is_perfect(), "one has no answer yet");
        tally.add(&Ok((503, "no".into())));
        assert!(!tally.is_perfect());
        assert_eq!((tally.served(), tally.server_errors()), (1, 1));
        assert_eq!(tally.example.as_deref(), Some("503: no"));
    }
}
