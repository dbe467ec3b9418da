//! Reads an inference engine's metrics from one pod.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bursar_core::ledger::EngineCounters;

use crate::exposition::{LineTooLong, Sums};
use crate::metrics_page::{self, KeptConnection};

/// A read takes no longer.
pub const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// No pod has more requests in one gauge.
const MAX_GAUGE: f64 = 1e9;
/// Counters above this number are not exact in a page's floating-point numbers.
const MAX_COUNTER: f64 = 9_007_199_254_740_992.0;

/// Where metrics are and what they are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The pod's port.
    pub port: u16,
    /// The path.
    pub path: Cow<'static, str>,
    /// Gauge: requests that wait.
    pub waiting: Cow<'static, str>,
    /// Gauge: requests that run.
    pub running: Cow<'static, str>,
    /// Counter: requests that ended.
    pub requests: Cow<'static, str>,
    /// Counter: tokens read.
    pub input_tokens: Cow<'static, str>,
    /// Counter: tokens written.
    pub output_tokens: Cow<'static, str>,
}

/// What one pod reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Requests waiting and running.
    pub busy: u64,
    /// What was done so far. That it is unchanged means that nothing happened between two reads.
    pub done: EngineCounters,
    /// Whether there is any counter on the page.
    pub has_counters: bool,
}

/// Why a pod's metrics could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection, or it broke.
    #[error("{0}")]
    Http(String),
    /// Nobody took the connection in time.
    #[error("no connection within 1 s")]
    NoConnection,
    /// Another status than 200.
    #[error("HTTP status {0}")]
    Status(u16),
    /// It took too long.
    #[error("no answer within {} s", READ_TIMEOUT.as_secs())]
    Slow,
    /// The page has more bytes than any engine's.
    #[error("the page is longer than 4 MiB")]
    TooLong,
    /// A line has more bytes than any engine's.
    #[error(transparent)]
    Line(#[from] LineTooLong),
    /// A metric is not there.
    #[error("there is no metric {0}")]
    Missing(String),
    /// The task that read it failed.
    #[error("reading failed: {0}")]
    Task(String),
}

/// A client for metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scraper;

impl Scraper {
    /// Reads the metrics of the pod at `address`, on the connection of the last read if there is
    /// one. Returns the connection if it can be used again. There is no time limit.
    ///
    /// # Errors
    /// When it does not answer, or not with the metrics that `source` names.
    pub async fn read(
        &self,
        address: IpAddr,
        source: &Source,
        kept: Option<KeptConnection>,
    ) -> Result<(Sample, Option<KeptConnection>), Error> {
        let mut sums = sums(source);
        let address = SocketAddr::new(address, source.port);
        let take = |piece: &[u8]| Ok(sums.take(piece)?);
        let kept = metrics_page::read(address, &source.path, kept, take).await?;
        Ok((sample(source, sums)?, kept))
    }

    /// Reads a text, bounded in time and bytes.
    pub(crate) async fn text(
        &self,
        address: IpAddr,
        port: u16,
        path: &str,
    ) -> Result<String, Error> {
        let mut page = Vec::new();
        let read = metrics_page::read(SocketAddr::new(address, port), path, None, |piece| {
            page.extend_from_slice(piece);
            Ok(())
        });
        tokio::time::timeout(READ_TIMEOUT, read)
            .await
            .map_err(|_| Error::Slow)??;
        String::from_utf8(page).map_err(|error| Error::Http(error.to_string()))
    }
}

/// The sums of a page that make a sample.
fn sums(source: &Source) -> Sums<'_, 5> {
    Sums::new([
        &source.waiting,
        &source.running,
        &source.requests,
        &source.input_tokens,
        &source.output_tokens,
    ])
}

fn sample(source: &Source, sums: Sums<'_, 5>) -> Result<Sample, Error> {
    let [waiting, running, requests, input_tokens, output_tokens] = sums.finish();
    let gauge = |sum: Option<f64>, name: &str| {
        let value = sum.ok_or_else(|| Error::Missing(name.to_owned()))?;
        Ok::<_, Error>(value.clamp(0.0, MAX_GAUGE) as u64)
    };
    // a counter that nothing has counted yet is not shown
    let counter = |sum: Option<f64>| sum.unwrap_or(0.0).clamp(0.0, MAX_COUNTER) as u64;
    let counters = [requests, input_tokens, output_tokens];
    Ok(Sample {
        has_counters: counters.iter().any(Option::is_some),
        busy: gauge(waiting, &source.waiting)? + gauge(running, &source.running)?,
        done: EngineCounters {
            requests: counter(requests),
            input_tokens: counter(input_tokens),
            output_tokens: counter(output_tokens),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;

    use super::*;

    fn source(port: u16) -> Source {
        Source {
            port,
            path: "/metrics".into(),
            waiting: "w".into(),
            running: "r".into(),
            requests: "done".into(),
            input_tokens: "read".into(),
            output_tokens: "written".into(),
        }
    }

    fn sample_of(page: &str) -> Result<Sample, Error> {
        let source = source(0);
        let mut sums = sums(&source);
        sums.take(page.as_bytes())?;
        sample(&source, sums)
    }

    #[test]
    fn a_sample_needs_both_gauges_and_takes_the_counters_there_are() {
        assert_eq!(
            sample_of("w 2\nr 3\ndone 7\nwritten 70\n").unwrap(),
            Sample {
                busy: 5,
                done: EngineCounters {
                    requests: 7,
                    input_tokens: 0,
                    output_tokens: 70
                },
                has_counters: true,
            }
        );
        let without = sample_of("w 2\nr 3\n").unwrap();
        assert_eq!((without.busy, without.has_counters), (5, false));
        let missing = sample_of("w 2\n").unwrap_err();
        assert_eq!(missing.to_string(), "there is no metric r");
    }

    #[test]
    fn numbers_that_no_engine_has_are_bounded() {
        let sample = sample_of("w 1e300\nr -5\ndone 1e300\n").unwrap();
        assert_eq!(sample.busy, MAX_GAUGE as u64);
        assert_eq!(sample.done.requests, MAX_COUNTER as u64);
    }

    /// Takes the head of one request; `false` if the client is gone.
    async fn asked(stream: &mut TcpStream) -> bool {
        let mut head = [0; 1024];
        stream.read(&mut head).await.is_ok_and(|bytes| bytes > 0)
    }

    fn page(text: &str) -> String {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        )
    }

    /// Takes a connection, and gives these answers on it.
    async fn serve(listener: &TcpListener, answers: &[String]) -> TcpStream {
        let (mut stream, _) = listener.accept().await.unwrap();
        for answer in answers {
            assert!(asked(&mut stream).await);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        stream
    }

    #[tokio::test]
    async fn an_engine_is_read_over_http_and_its_errors_are_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let source = source(address.port());
        let server = tokio::spawn(async move {
            let busy = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_owned();
            for answer in [page("w 1\nr 1\n"), busy] {
                drop(serve(&listener, &[answer]).await);
            }
        });
        let read = Scraper.read(address.ip(), &source, None).await.unwrap();
        assert_eq!(read.0.busy, 2);
        let second = Scraper.read(address.ip(), &source, None).await;
        assert!(matches!(second, Err(Error::Status(503))), "{second:?}");
        server.await.unwrap();
        let refused = Scraper.read(address.ip(), &source, None).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("refused"), "{refused}");
    }

    #[tokio::test]
    async fn a_connection_is_kept_and_made_anew_when_the_engine_has_closed_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let source = source(address.port());
        let (closes, close) = oneshot::channel();
        let (closed, is_closed) = oneshot::channel();
        let server = tokio::spawn(async move {
            let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                3\r\nw 1\r\n5\r\n\nr 1\n\r\n0\r\n\r\n";
            let first = [page("w 1\nr 0\n"), chunked.to_owned()];
            let stream = serve(&listener, &first).await;
            close.await.unwrap();
            drop(stream);
            closed.send(()).unwrap();
            serve(&listener, &[page("w 1\nr 2\n")]).await
        });
        let mut kept = None;
        for busy in [1, 2] {
            let read = Scraper.read(address.ip(), &source, kept).await.unwrap();
            assert_eq!(read.0.busy, busy);
            kept = read.1;
            assert!(kept.is_some());
        }
        closes.send(()).unwrap();
        is_closed.await.unwrap();
        let read = Scraper.read(address.ip(), &source, kept).await.unwrap();
        assert_eq!(read.0.busy, 3);
        server.await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_that_ends_with_its_connection_is_read_and_not_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            asked(&mut stream).await;
            let answer = b"HTTP/1.0 200 OK\r\n\r\nw 4\nr 1\n";
            stream.write_all(answer).await.unwrap();
        });
        let read = Scraper
            .read(address.ip(), &source(address.port()), None)
            .await;
        let (sample, kept) = read.unwrap();
        assert_eq!((sample.busy, kept.is_some()), (5, false));
    }

    #[tokio::test]
    async fn a_page_without_end_is_read_up_to_its_bound() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            asked(&mut stream).await;
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n";
            stream.write_all(head.as_bytes()).await.unwrap();
            let lines = "other 1\n".repeat(1 << 10);
            while stream.write_all(lines.as_bytes()).await.is_ok() {}
        });
        let read = Scraper
            .read(address.ip(), &source(address.port()), None)
            .await;
        assert!(matches!(read, Err(Error::TooLong)), "{read:?}");
    }

    /// A page as vLLM's, of 62 KB: 3 samples of gauges and some 700 of counters and histograms.
    fn vllm_page() -> (Source, String) {
        let source = Source {
            port: 0,
            path: "/metrics".into(),
            waiting: "vllm:num_requests_waiting".into(),
            running: "vllm:num_requests_running".into(),
            requests: "vllm:request_success_total".into(),
            input_tokens: "vllm:prompt_tokens_total".into(),
            output_tokens: "vllm:generation_tokens_total".into(),
        };
        let labels = "engine=\"0\",model_name=\"meta-llama/Llama-3.1-8B-Instruct\"";
        let mut page = String::new();
        for (name, value) in [
            ("vllm:num_requests_running", 7),
            ("vllm:num_requests_waiting", 3),
            ("vllm:prompt_tokens_total", 12),
            ("vllm:generation_tokens_total", 40),
        ] {
            page += &format!(
                "# HELP {name} Text.\n# TYPE {name} gauge\n{name}{{{labels}}} {value}.0\n"
            );
        }
        for reason in ["stop", "length", "abort"] {
            let name = "vllm:request_success_total";
            page += &format!("{name}{{{labels},finished_reason=\"{reason}\"}} 2.0\n");
        }
        for histogram in 0..18 {
            let name = format!("vllm:e2e_request_latency_{histogram}_seconds");
            page += &format!(
                "# HELP {name} Histogram of a latency in seconds.\n# TYPE {name} histogram\n"
            );
            for bucket in 0..26 {
                page += &format!(
                    "{name}_bucket{{{labels},le=\"{bucket}.5\"}} {}.0\n",
                    bucket * 31
                );
            }
            page += &format!("{name}_sum{{{labels}}} 4711.25\n{name}_count{{{labels}}} 806.0\n");
        }
        (source, page)
    }

    #[test]
    fn a_full_page_is_read_as_its_few_lines() {
        let (source, page) = vllm_page();
        assert!(page.len() > 60_000, "{}", page.len());
        let mut sums = sums(&source);
        sums.take(page.as_bytes()).unwrap();
        let done = EngineCounters {
            requests: 6,
            input_tokens: 12,
            output_tokens: 40,
        };
        assert_eq!(
            sample(&source, sums).unwrap(),
            Sample {
                busy: 10,
                done,
                has_counters: true
            }
        );
    }

    /// `cargo test --release -p bursar-signals -- --ignored --nocapture`.
    #[test]
    #[ignore = "a timing"]
    fn time_to_parse_a_full_page() {
        const PAGES: u32 = 20_000;
        let (source, page) = vllm_page();
        let began = Instant::now();
        for _ in 0..PAGES {
            let mut sums = sums(&source);
            for piece in page.as_bytes().chunks(16 << 10) {
                sums.take(std::hint::black_box(piece)).unwrap();
            }
            std::hint::black_box(sample(&source, sums).unwrap());
        }
        println!("{} bytes: {:?}", page.len(), began.elapsed() / PAGES);
    }
}
