//! Reads an inference engine's metrics from one pod.

use std::net::IpAddr;
use std::time::Duration;

use bursar_core::ledger::EngineCounters;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::exposition;

/// No engine has more metrics than this.
const MAX_BYTES: usize = 4 << 20;
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(2);

/// Where metrics are and what they are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The pod's port.
    pub port: u16,
    /// The path.
    pub path: &'static str,
    /// Gauge: requests that wait.
    pub waiting: &'static str,
    /// Gauge: requests that run.
    pub running: &'static str,
    /// Counter: requests that ended.
    pub requests: &'static str,
    /// Counter: tokens read.
    pub input_tokens: &'static str,
    /// Counter: tokens written.
    pub output_tokens: &'static str,
}

/// What one pod said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Requests waiting and running.
    pub busy: u64,
    /// What was done so far. That it is unchanged means that nothing happened between two reads.
    pub done: EngineCounters,
}

/// Why a pod's metrics could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or it broke.
    #[error("{0}")]
    Http(String),
    /// Another status than 200.
    #[error("HTTP status {0}")]
    Status(u16),
    /// It took too long.
    #[error("no answer within {} s", LIMIT.as_secs())]
    Slow,
    /// A metric is not there.
    #[error("there is no metric {0}")]
    Missing(&'static str),
}

/// A client for metrics; it keeps connections.
#[derive(Debug, Clone)]
pub struct Scraper {
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Default for Scraper {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_LIMIT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Self { client }
    }
}

impl Scraper {
    /// Reads the metrics of the pod at `address`.
    ///
    /// # Errors
    /// When it does not answer, or not with the metrics that `source` names.
    pub async fn read(&self, address: IpAddr, source: Source) -> Result<Sample, Error> {
        sample(&self.text(address, source.port, source.path).await?, source)
    }

    /// Reads a text, bounded in time and bytes.
    pub(crate) async fn text(
        &self,
        address: IpAddr,
        port: u16,
        path: &str,
    ) -> Result<String, Error> {
        tokio::time::timeout(LIMIT, self.fetch(address, port, path))
            .await
            .map_err(|_| Error::Slow)?
    }

    async fn fetch(&self, address: IpAddr, port: u16, path: &str) -> Result<String, Error> {
        let authority = std::net::SocketAddr::new(address, port);
        let http = |error: &dyn std::error::Error| Error::Http(root_cause(error));
        let uri = format!("http://{authority}{path}")
            .parse::<http::Uri>()
            .map_err(|error| http(&error))?;
        let response = self.client.get(uri).await.map_err(|error| http(&error))?;
        if response.status() != http::StatusCode::OK {
            return Err(Error::Status(response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES)
            .collect()
            .await
            .map_err(|error| http(&*error))?;
        String::from_utf8(body.to_bytes().into()).map_err(|error| http(&error))
    }
}

fn sample(text: &str, source: Source) -> Result<Sample, Error> {
    let read = |name| exposition::sum(text, name).ok_or(Error::Missing(name));
    let busy = read(source.waiting)? + read(source.running)?;
    // a counter that nothing has counted yet is not shown
    let counter = |name| exposition::sum(text, name).unwrap_or(0.0).max(0.0) as u64;
    Ok(Sample {
        busy: busy.max(0.0) as u64,
        done: EngineCounters {
            requests: counter(source.requests),
            input_tokens: counter(source.input_tokens),
            output_tokens: counter(source.output_tokens),
        },
    })
}

/// The innermost cause: "Connection refused" says more than "client error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const SOURCE: Source = Source {
        port: 0,
        path: "/metrics",
        waiting: "w",
        running: "r",
        requests: "done",
        input_tokens: "read",
        output_tokens: "written",
    };

    #[test]
    fn a_sample_needs_both_gauges_and_takes_the_counters_there_are() {
        assert_eq!(
            sample("w 2\nr 3\ndone 7\nwritten 70\n", SOURCE).unwrap(),
            Sample {
                busy: 5,
                done: EngineCounters {
                    requests: 7,
                    input_tokens: 0,
                    output_tokens: 70
                }
            }
        );
        assert!(matches!(sample("w 2\n", SOURCE), Err(Error::Missing("r"))));
    }

    #[tokio::test]
    async fn an_engine_is_read_over_http_and_its_errors_are_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let source = Source {
            port: address.port(),
            ..SOURCE
        };
        let server = tokio::spawn(async move {
            for answer in [
                "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nw 1\nr 1\n",
                "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n",
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        let scraper = Scraper::default();
        assert_eq!(scraper.read(address.ip(), source).await.unwrap().busy, 2);
        let second = scraper.read(address.ip(), source).await;
        assert!(matches!(second, Err(Error::Status(503))), "{second:?}");
        server.await.unwrap();
        let refused = scraper
            .read(address.ip(), source)
            .await
            .unwrap_err()
            .to_string();
        assert!(refused.contains("refused"), "{refused}");
    }
}
