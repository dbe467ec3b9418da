//! The connection to a replica: the request, the response, and the load of each replica.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::demand::InFlightGuard;

/// A peer that vanishes without closing its connection is noticed after three of these.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);

/// Headers that are about one connection only (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Sets the options of every connection: small writes go out at once, and a lost peer is noticed.
pub(crate) fn set_socket_options(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_INTERVAL)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(3);
    let set = stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        tracing::debug!(%error, "cannot set the options of a connection");
    }
}

/// The request as it goes to a replica at `address`.
pub(crate) fn request(
    parts: &http::request::Parts,
    body: &Bytes,
    address: SocketAddr,
    peer: SocketAddr,
) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body.clone()));
    *request.method_mut() = parts.method.clone();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().unwrap_or_default();
    let authority = parts
        .uri
        .authority()
        .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let headers = request.headers_mut();
    *headers = end_to_end(&parts.headers);
    headers.remove(header::EXPECT);
    if !headers.contains_key(header::HOST) {
        let host = authority.or_else(|| HeaderValue::from_str(&address.to_string()).ok());
        headers.extend(host.map(|host| (header::HOST, host)));
    }
    if let Ok(client) = HeaderValue::from_str(&peer.ip().to_canonical().to_string()) {
        headers.append(HeaderName::from_static("x-forwarded-for"), client);
    }
    request
}

/// The headers without those that are about one connection.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut forwarded = headers.clone();
    let connection_headers = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    for name in connection_headers.map(str::trim).chain(HOP_BY_HOP) {
        forwarded.remove(name);
    }
    forwarded
}

/// Sends a request over a new connection. After an error no byte of a response has arrived.
pub(crate) async fn send(
    stream: TcpStream,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, String> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    sender
        .send_request(request)
        .await
        .map_err(|error| error.to_string())
}

/// The response as it goes to the client; `load` and `in_flight` count it until its body ends.
pub(crate) fn client_response(
    response: Response<Incoming>,
    load: ReplicaLoadGuard,
    in_flight: InFlightGuard,
) -> Response<StreamedBody> {
    let (mut parts, body) = response.into_parts();
    parts.headers = end_to_end(&parts.headers);
    parts.version = Version::default();
    Response::from_parts(
        parts,
        StreamedBody {
            body,
            _load: load,
            _in_flight: in_flight,
        },
    )
}

/// The number of requests that each replica is answering for this gateway.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReplicaLoad(Arc<Mutex<BTreeMap<SocketAddr, u64>>>);

impl ReplicaLoad {
    /// Counts a request on the replica at `address` until the guard is dropped.
    pub(crate) fn count(&self, address: SocketAddr) -> ReplicaLoadGuard {
        *self.lock().entry(address).or_default() += 1;
        ReplicaLoadGuard {
            load: self.clone(),
            address,
        }
    }

    pub(crate) fn least_busy_first(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let counts = self.lock();
        addresses.sort_by_key(|address| counts.get(address).copied().unwrap_or(0));
        addresses
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a request on its replica until it is dropped.
#[derive(Debug)]
pub(crate) struct ReplicaLoadGuard {
    load: ReplicaLoad,
    address: SocketAddr,
}

impl Drop for ReplicaLoadGuard {
    fn drop(&mut self) {
        let mut counts = self.load.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// The body of a response, forwarded chunk by chunk. The request counts as in flight until it ends.
#[derive(Debug)]
pub(crate) struct StreamedBody {
    body: Incoming,
    _load: ReplicaLoadGuard,
    _in_flight: InFlightGuard,
}

impl Body for StreamedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
