//! Reads a page of metrics over HTTP/1.1: in pieces, bounded in bytes, on a connection that may be
//! kept for the next read.
//!
//! Between two reads a kept connection is a socket and nothing more; the buffers of HTTP live as
//! long as one exchange.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{Either, select};
use http::header::HOST;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::engine::Error;

/// No engine has a longer page.
const MAX_BYTES: usize = 4 << 20;
/// The size of the buffer of one exchange, which bounds the head of the answer too. One that grows
/// with the page would be grown again at each read.
const BUFFER_BYTES: usize = 16 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// An open connection on which a whole page has been read.
#[derive(Debug)]
pub struct KeptConnection(TcpStream);

/// Reads the page at `path`, and gives its pieces to `take`. Returns the connection if it can be
/// used again.
///
/// A kept connection may have been closed by the other end in the meantime. If it breaks before
/// any answer, the page is asked for once more, on a new connection.
///
/// # Errors
/// There is no connection, no answer with status 200, or a page that is too long; and what `take`
/// returns. There is no time limit but the one on connecting.
pub async fn read(
    address: SocketAddr,
    path: &str,
    kept: Option<KeptConnection>,
    mut take: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<Option<KeptConnection>, Error> {
    if let Some(KeptConnection(stream)) = kept {
        match exchange(stream, address, path, &mut take).await {
            Err(Failure::NoAnswer(_)) => {}
            Err(Failure::Answered(error)) => return Err(error),
            Ok(kept) => return Ok(kept),
        }
    }
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = connected.map_err(|_| Error::NoConnection)?.map_err(http)?;
    stream.set_nodelay(true).map_err(http)?;
    let done = exchange(stream, address, path, &mut take).await;
    done.map_err(|(Failure::NoAnswer(error) | Failure::Answered(error))| error)
}

/// Why an exchange failed.
enum Failure {
    /// The connection broke before the head of an answer.
    NoAnswer(Error),
    /// There was an answer, though not the one wanted, or not all of it.
    Answered(Error),
}

fn http(error: impl std::error::Error) -> Error {
    Error::Http(root_cause(&error))
}

async fn exchange(
    stream: TcpStream,
    address: SocketAddr,
    path: &str,
    take: &mut impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<Option<KeptConnection>, Failure> {
    let request = http::Request::get(path)
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::Answered(http(error)))?;
    let (mut sender, connection) = http1::Builder::new()
        .read_buf_exact_size(Some(BUFFER_BYTES))
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Failure::NoAnswer(http(error)))?;
    let page = async move {
        let asked = sender.send_request(request).await;
        let answer = asked.map_err(|error| Failure::NoAnswer(http(error)))?;
        if answer.status() != http::StatusCode::OK {
            return Err(Failure::Answered(Error::Status(answer.status().as_u16())));
        }
        let mut body = answer.into_body();
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Failure::Answered(http(error)))?;
            let Some(piece) = frame.data_ref() else {
                continue;
            };
            bytes += piece.len();
            if bytes > MAX_BYTES {
                return Err(Failure::Answered(Error::TooLong));
            }
            take(piece).map_err(Failure::Answered)?;
        }
        Ok(())
    };
    // without its request's sender the connection ends, and gives back its socket
    let mut connection = pin!(connection.without_shutdown());
    match select(pin!(page), connection.as_mut()).await {
        Either::Left((read, _)) => {
            read?;
            let parts = connection.now_or_never().and_then(Result::ok);
            let parts = parts.filter(|parts| parts.read_buf.is_empty());
            Ok(parts.map(|parts| KeptConnection(parts.io.into_inner())))
        }
        Either::Right((_, page)) => page.await.map(|()| None),
    }
}

/// The innermost cause: "Connection refused" says more than "client error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
