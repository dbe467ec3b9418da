//! The requests to replicas, over connections that are kept.

use std::collections::HashSet;
use std::error::Error as _;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header, uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::refusal::Refusal;
use crate::request_stream::UpstreamBody;

/// What a connection to a replica reads ahead and holds back, in bytes. A response's head fits in it.
const UPSTREAM_BUFFER: usize = 32 << 10;
/// What the kernel takes of an answer before it has sent it, in bytes.
const MAX_UNSENT: u32 = 32 << 10;
/// A peer that vanishes without closing its connection is noticed after three of these.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// A replica that takes no connection within this time is given up. Pods answer within some
/// milliseconds, and the kernel repeats a lost packet only after a second.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(300);
/// The first connection to a replica is watched for this long. One that is closed at once shows that
/// nobody answers behind it, before a request is lost on it.
const FIRST_CONNECTION_WATCH: Duration = Duration::from_millis(30);
/// Connections that no request uses are closed after this long: before the servers of common
/// engines close them (5 s), and soon after a replica takes no new requests.
const MAX_IDLE: Duration = Duration::from_secs(2);
/// The most connections to one replica that are kept while no request uses them.
const MAX_IDLE_CONNECTIONS: usize = 256;
/// Replicas that are known to answer, before they are all forgotten.
const MAX_KNOWN_REPLICAS: usize = 10_000;

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

/// Headers that stay though `Connection` names them: by them a proxy before the gateway says whom a
/// request comes from, and the replica knows the caller. Whoever sends the request cannot take them off.
const KEPT_HEADERS: [&str; 6] = [
    "authorization",
    "content-length",
    "cookie",
    "forwarded",
    "host",
    "x-real-ip",
];
/// So do all headers that begin so.
const KEPT_PREFIX: &str = "x-forwarded-";

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

/// Lets the kernel take no more of an answer than a little ahead of what it has sent to the client. It
/// would take some megabytes for a client that reads nothing, which count in the gateway's memory.
pub(crate) fn limit_unsent(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(MAX_UNSENT) {
        tracing::debug!(%error, "cannot limit what a connection has unsent");
    }
}

/// The request as it goes to a replica at `address`.
pub(crate) fn request(
    parts: &http::request::Parts,
    body: UpstreamBody,
    address: SocketAddr,
    peer: SocketAddr,
) -> Request<UpstreamBody> {
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = replica_uri(address, parts.uri.path_and_query());
    let has_trailers = request.body().has_trailers();
    *request.headers_mut() = end_to_end(parts.headers.clone());
    let headers = request.headers_mut();
    headers.remove(header::EXPECT);
    if has_trailers {
        // a body with trailers goes in chunks
        headers.remove(header::CONTENT_LENGTH);
    }
    if accepts_trailers(&parts.headers) {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if !headers.contains_key(header::HOST) {
        let host = match parts.uri.authority() {
            Some(authority) => HeaderValue::from_str(authority.as_str()),
            None => HeaderValue::from_str(&address.to_string()),
        };
        headers.extend(host.ok().map(|host| (header::HOST, host)));
    }
    if let Ok(client) = HeaderValue::from_str(&peer.ip().to_canonical().to_string()) {
        headers.append(HeaderName::from_static("x-forwarded-for"), client);
    }
    request
}

/// Whether the client takes trailers of the answer.
fn accepts_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::TE).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    let mut codings = values.flat_map(|value| value.split(','));
    codings.any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// The URI by which connections are kept; the replica gets its path only.
fn replica_uri(address: SocketAddr, path: Option<&PathAndQuery>) -> Uri {
    let mut parts = uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Authority::try_from(address.to_string()).ok();
    parts.path_and_query = Some(path.cloned().unwrap_or(PathAndQuery::from_static("/")));
    Uri::from_parts(parts).unwrap_or_default()
}

/// The headers without those that are about one connection.
pub(crate) fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .filter(|name: &HeaderName| {
            let name = name.as_str();
            !KEPT_HEADERS.contains(&name) && !name.starts_with(KEPT_PREFIX)
        })
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers
}

/// The failure of an attempt to get an answer from a replica.
#[derive(Debug)]
pub(crate) enum SendError {
    /// Nothing was sent: the connection was refused, timed out or was closed before the request.
    NotSent(String),
    /// The replica broke off after the request, or a part of it, was sent, and before the head of
    /// its answer was complete.
    Broken(String),
    /// The head of the answer did not come in time, or the replica did not take the body.
    Timeout,
    /// The client did not send all of the body that is streamed.
    Client(Refusal),
}

/// The connections to all replicas. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    client: Client<Connector, UpstreamBody>,
    known: KnownReplicas,
    head_timeout: Duration,
}

impl Upstream {
    /// No connection yet. A replica has `head_timeout` for the head of its answer.
    pub(crate) fn new(head_timeout: Duration) -> Self {
        let known = KnownReplicas::default();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(MAX_IDLE)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            // only what was not sent is sent again over another connection
            .retry_canceled_requests(true)
            .set_host(false)
            // hyper's own bound is 400 KB, which a client that reads nothing would keep filled
            .http1_max_buf_size(UPSTREAM_BUFFER)
            .build(Connector {
                known: known.clone(),
            });
        Self {
            client,
            known,
            head_timeout,
        }
    }

    /// Sends a request to the replica at `address`, and waits for the head of the answer. Calls
    /// `connected` once there is a connection.
    pub(crate) async fn send(
        &self,
        address: SocketAddr,
        mut request: Request<UpstreamBody>,
        connected: impl FnOnce(),
    ) -> Result<Response<Incoming>, SendError> {
        let mut connection = capture_connection(&mut request);
        let stream = request.body().stream().cloned();
        let mut response = self.client.request(request);
        let early = tokio::select! {
            biased;
            result = &mut response => Some(result),
            _ = connection.wait_for_connection_metadata() => None,
        };
        let result = match early {
            Some(result) => result,
            None => {
                connected();
                let overdue = async {
                    match &stream {
                        Some(stream) => stream.answer_overdue(self.head_timeout).await,
                        None => tokio::time::sleep(self.head_timeout).await,
                    }
                };
                tokio::select! {
                    biased;
                    result = response => result,
                    () = overdue => return Err(SendError::Timeout),
                }
            }
        };
        if let (Err(_), Some(refusal)) = (&result, stream.and_then(|stream| stream.failure())) {
            return Err(SendError::Client(refusal));
        }
        let has_connection = connection.connection_metadata().is_some();
        match result {
            Ok(response) => {
                self.known.insert(address);
                Ok(response)
            }
            Err(error) => {
                self.known.remove(address);
                Err(send_error(&error, has_connection))
            }
        }
    }
}

fn send_error(error: &legacy::Error, has_connection: bool) -> SendError {
    let was_canceled = error
        .source()
        .and_then(|source| source.downcast_ref::<hyper::Error>())
        .is_some_and(hyper::Error::is_canceled);
    let message = innermost(error);
    match error.is_connect() || was_canceled || !has_connection {
        true => SendError::NotSent(message),
        false => SendError::Broken(message),
    }
}

/// The message of the error at the end of the chain, which says what happened.
fn innermost(error: &legacy::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// Replicas that have answered a request, and have not failed since.
#[derive(Debug, Clone, Default)]
struct KnownReplicas(Arc<Mutex<HashSet<SocketAddr>>>);

impl KnownReplicas {
    fn contains(&self, address: SocketAddr) -> bool {
        self.lock().contains(&address)
    }

    fn insert(&self, address: SocketAddr) {
        let mut known = self.lock();
        if known.insert(address) && known.len() > MAX_KNOWN_REPLICAS {
            known.clear();
        }
    }

    fn remove(&self, address: SocketAddr) {
        self.lock().remove(&address);
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens connections to replicas.
#[derive(Debug, Clone)]
struct Connector {
    known: KnownReplicas,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let known = self.known.clone();
        Box::pin(async move {
            let authority = uri.authority().map_or("", Authority::as_str);
            let address: SocketAddr = authority.parse().map_err(io::Error::other)?;
            let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
            let stream = connecting.await.map_err(|_| connect_timeout())??;
            set_socket_options(&stream);
            if !known.contains(address) {
                watch_for_close(&stream).await?;
            }
            Ok(TokioIo::new(stream))
        })
    }
}

fn connect_timeout() -> io::Error {
    let millis = CONNECT_TIMEOUT.as_millis();
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!("it takes no connection within {millis} ms"),
    )
}

/// Fails if the connection is closed at once.
async fn watch_for_close(stream: &TcpStream) -> io::Result<()> {
    let mut byte = [0];
    let closed = tokio::time::timeout(FIRST_CONNECTION_WATCH, stream.peek(&mut byte)).await;
    match closed {
        Ok(Ok(0)) => Err(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "it closes connections at once",
        )),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}
