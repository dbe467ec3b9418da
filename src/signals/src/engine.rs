//! Reads an inference engine's metrics from one pod.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::engine_metrics::{MissingMetric, PageReader, Sample, Source};
use crate::exposition::LineTooLong;
use crate::metrics_page::{self, KeptConnection};

/// A read takes no longer.
pub const READ_TIMEOUT: Duration = Duration::from_secs(2);

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
    #[error(transparent)]
    Missing(#[from] MissingMetric),
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
        let address = SocketAddr::new(address, source.port);
        let mut reader = PageReader::new(source);
        let take = |piece: &[u8]| Ok(reader.take(piece)?);
        let kept = metrics_page::read(address, &source.path, kept, take).await?;
        Ok((reader.finish()?, kept))
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;

    use super::*;
    use crate::engine_metrics::{EngineMetrics, Load, Metric};
    use crate::exposition::Selector;

    fn source(port: u16) -> Source {
        let load = Load {
            queued: metric("w"),
            running: metric("r"),
            ..Load::default()
        };
        let metrics = EngineMetrics {
            loads: vec![load],
            ..EngineMetrics::default()
        };
        Source::new(port, "/metrics".into(), metrics)
    }

    fn metric(name: &str) -> Metric {
        Metric {
            alternatives: vec![vec![Selector::all(name)]],
        }
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
        let source = source(address.port());
        let read = Scraper.read(address.ip(), &source, None);
        let read = tokio::time::timeout(Duration::from_secs(20), read).await;
        assert!(matches!(read, Ok(Err(Error::TooLong))), "{read:?}");
    }
}
