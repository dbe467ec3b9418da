//! Controls the pod that sends the requests, through the API server's proxy.

use std::time::{Duration, Instant};

use bursar_client::{Answer, Tally};
use http::{Method, Request};
use serde::de::DeserializeOwned;

use super::manifests::NAMESPACE;
use crate::{Error, Result};

/// An answer through the Service takes 150 s at most.
const LIMIT: Duration = Duration::from_secs(160);
const INTERVAL: Duration = Duration::from_millis(500);

/// The pod that sends the requests.
#[derive(Clone)]
pub(super) struct LoadGenerator {
    kube: kube::Client,
}

impl LoadGenerator {
    pub(super) fn new(kube: kube::Client) -> Self {
        Self { kube }
    }

    /// Waits until the Service takes connections.
    pub(super) async fn wait_until_reachable(&self, limit: Duration) -> Result<()> {
        let began = Instant::now();
        while let Err(error) = self
            .call::<()>(Method::GET, "reachable", Duration::from_secs(5))
            .await
        {
            if began.elapsed() > limit {
                return Err(Error::Slow {
                    what: "waiting for the Service to take a connection".into(),
                    limit,
                    tail: error.to_string(),
                });
            }
            tokio::time::sleep(INTERVAL).await;
        }
        Ok(())
    }

    /// The counts so far.
    pub(super) async fn tally(&self) -> Result<Tally> {
        self.call(Method::GET, "tally", Duration::from_secs(5))
            .await
    }

    /// Sends a request while the budget has money: an answer other than 200 counts against the run.
    pub(super) async fn send(&self, prompt: u32, answer: u32) -> Result<Answer> {
        let path_and_query = format!("ask?prompt={prompt}&answer={answer}");
        self.call(Method::POST, &path_and_query, LIMIT).await
    }

    /// Sends a request while the budget is exhausted.
    pub(super) async fn send_expecting_refusal(&self) -> Result<Answer> {
        self.call(Method::POST, "refused", LIMIT).await
    }

    /// Replays the trace, which takes `span` and the time of the last answers, and returns the
    /// counts.
    pub(super) async fn replay(&self, requests: u32, span: Duration) -> Result<Tally> {
        self.text(
            Method::POST,
            &format!("replay?requests={requests}"),
            Duration::from_secs(10),
        )
        .await?;
        let limit = span + LIMIT;
        let began = Instant::now();
        loop {
            tokio::time::sleep(INTERVAL).await;
            let outcome = match self.tally().await {
                Ok(tally) if !tally.replaying => return Ok(tally),
                Ok(tally) => format!("{tally:?}"),
                Err(error) => error.to_string(),
            };
            if began.elapsed() > limit {
                return Err(Error::Slow {
                    what: "replaying the trace".into(),
                    limit,
                    tail: outcome,
                });
            }
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path_and_query: &str,
        limit: Duration,
    ) -> Result<T> {
        let text = self.text(method, path_and_query, limit).await?;
        serde_json::from_str(&text).map_err(|error| Error::Malformed {
            what: format!("the client's answer to {path_and_query}"),
            why: format!("{error}: {text}"),
        })
    }

    async fn text(&self, method: Method, path_and_query: &str, limit: Duration) -> Result<String> {
        let path =
            format!("/api/v1/namespaces/{NAMESPACE}/pods/client:8080/proxy/{path_and_query}");
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Vec::new())
            .map_err(|error| Error::Client(error.to_string()))?;
        match tokio::time::timeout(limit, self.kube.request_text(request)).await {
            Ok(answer) => answer.map_err(|error| Error::Client(error.to_string())),
            Err(_) => Err(Error::Slow {
                what: format!("the client's answer to {path_and_query}"),
                limit,
                tail: String::new(),
            }),
        }
    }
}
