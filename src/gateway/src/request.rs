//! One request: held until a replica is ready, then forwarded to the least busy one.
//!
//! The body is read before the request waits, so that one which a replica did not answer at all can go to another.
//! Once the first byte of an answer is here the request is never sent again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bursar_core::refusal::RefusalReason;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::demand::{DemandTracker, HeldGuard, InFlightGuard};
use crate::metrics::{Metrics, OutcomeLabel};
use crate::refusal::Refusal;
use crate::request_body::{self, BodyReader};
use crate::route::{HoldPolicy, RouteTable, ServiceKey};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer that is gone without a word is noticed by the third of these.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// A replica that refused a connection is left alone for this long, unless it is the only one.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Sending a request anew to a replica that broke off before it answered is tried this often.
const MAX_RESENDS: u32 = 5;

/// Headers that speak of one connection only (RFC 9110, section 7.6.1).
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

/// What requests share.
#[derive(Debug, Clone)]
pub(crate) struct RequestHandler {
    routes: watch::Receiver<Arc<RouteTable>>,
    demand: DemandTracker,
    metrics: Metrics,
    body_reader: BodyReader,
    replica_load: Arc<Mutex<BTreeMap<SocketAddr, u64>>>,
    idle_timeout: Duration,
    shutdown: CancellationToken,
}

/// The answer to a request.
pub(crate) type ClientResponse = Response<Either<Full<Bytes>, StreamedBody>>;

impl RequestHandler {
    /// Forwards along `routes`, which follow the cluster, and gives up clients that send nothing for as long as `idle_timeout`.
    pub(crate) fn new(
        routes: watch::Receiver<Arc<RouteTable>>,
        demand: DemandTracker,
        metrics: Metrics,
        idle_timeout: Duration,
    ) -> Self {
        Self {
            routes,
            demand,
            metrics,
            body_reader: BodyReader::new(idle_timeout),
            replica_load: Arc::default(),
            idle_timeout,
            shutdown: CancellationToken::new(),
        }
    }

    /// A client that is silent for longer in the middle of a request, or before its first one, is given up.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.idle_timeout
    }

    /// The metrics.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Connections that clients of a service may have.
    pub(crate) fn max_connections(&self, service: &ServiceKey) -> usize {
        self.routes
            .borrow()
            .hold_policy(service)
            .map_or(1, HoldPolicy::max_connections)
    }

    /// Refuses all that waits: this gateway ends.
    pub(crate) fn refuse_held(&self) {
        self.shutdown.cancel();
    }

    /// Answers one request for `service`.
    pub(crate) async fn handle(
        &self,
        service: ServiceKey,
        peer: SocketAddr,
        request: Request<Incoming>,
    ) -> ClientResponse {
        let version = request.version();
        let (parts, mut body) = request.into_parts();
        let (outcome, mut response) = match self.forward(&service, peer, &parts, &mut body).await {
            Ok(response) => ("forwarded", response.map(Either::Right)),
            Err(refusal) => {
                if !parts.headers.contains_key(header::EXPECT)
                    && refusal.reason != RefusalReason::BodyTimeout
                {
                    request_body::discard(body).await;
                }
                let response = refusal.response(Timestamp::now());
                (refusal.outcome(), response.map(Either::Left))
            }
        };
        self.metrics
            .requests
            .get_or_create(&OutcomeLabel { outcome })
            .inc();
        if version < Version::HTTP_2 {
            // the next request goes through the Service anew, to a replica if one is ready
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn forward(
        &self,
        service: &ServiceKey,
        peer: SocketAddr,
        parts: &http::request::Parts,
        body: &mut Incoming,
    ) -> Result<Response<StreamedBody>, Refusal> {
        let arrived = Instant::now();
        let (policy, ready) = self.lookup(service)?;
        if ready.is_empty() {
            policy.refusal(Timestamp::now()).map_or(Ok(()), Err)?;
        }
        let body_deadline = arrived + to_std(policy.hold_timeout).max(self.idle_timeout);
        let body = self
            .body_reader
            .read(service, body, policy.max_connections(), body_deadline)
            .await?;
        // counted from here: a client that sends no body wakes nothing and takes no place
        let mut held = Some(self.hold(service)?);
        let body_complete = Instant::now();
        let mut resends = 0;
        loop {
            let (address, stream) = self.connect(service, arrived).await?;
            let waited = body_complete.elapsed();
            let guard = ReplicaLoadGuard::new(&self.replica_load, address);
            let in_flight = self.demand.count_in_flight(service);
            // from here on its replica counts it
            drop(held.take());
            let upstream_request = upstream_request(parts, &body.bytes, address, peer);
            match send(stream, upstream_request).await {
                Ok(response) => {
                    self.metrics.hold_seconds.observe(waited.as_secs_f64());
                    return Ok(client_response(response, guard, in_flight));
                }
                Err(error)
                    if resends < MAX_RESENDS && arrived.elapsed() < to_std(policy.hold_timeout) =>
                {
                    resends += 1;
                    self.metrics.retries.inc();
                    tracing::debug!(service = ?service, %address, %error, "no answer; trying again");
                    held = self.demand.hold(service, u32::MAX, Timestamp::now());
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) => return Err(Refusal::replica_failed(error)),
            }
        }
    }

    /// The policy of a service, and its ready replicas.
    fn lookup(&self, service: &ServiceKey) -> Result<(HoldPolicy, Vec<SocketAddr>), Refusal> {
        let routes = self.routes.borrow();
        let policy = routes
            .hold_policy(service)
            .cloned()
            .ok_or_else(Refusal::service_deleted)?;
        Ok((policy, routes.ready_replicas(service)))
    }

    /// Counts a request as held.
    fn hold(&self, service: &ServiceKey) -> Result<HeldGuard, Refusal> {
        let (policy, ready) = self.lookup(service)?;
        // what a ready replica takes at once does not wait
        let max_held = match ready.is_empty() {
            true => policy.max_held,
            false => u32::MAX,
        };
        let held = self.demand.hold(service, max_held, Timestamp::now());
        held.ok_or_else(Refusal::queue_full)
    }

    /// Waits for a ready replica and connects to it.
    async fn connect(
        &self,
        service: &ServiceKey,
        arrived: Instant,
    ) -> Result<(SocketAddr, TcpStream), Refusal> {
        let mut routes = self.routes.clone();
        loop {
            routes.mark_unchanged();
            let (policy, ready) = self.lookup(service)?;
            let deadline = arrived + to_std(policy.hold_timeout);
            if ready.is_empty() {
                policy.refusal(Timestamp::now()).map_or(Ok(()), Err)?;
            }
            for address in self.by_load(ready) {
                if let Ok(Ok(stream)) =
                    tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await
                {
                    set_socket_options(&stream);
                    return Ok((address, stream));
                }
                self.metrics.retries.inc();
            }
            let expired = || Refusal::hold_timeout(policy.hold_timeout);
            let has_ready = !routes.borrow().ready_replicas(service).is_empty();
            tokio::select! {
                () = self.shutdown.cancelled() => return Err(Refusal::gateway_shutdown()),
                () = tokio::time::sleep_until(deadline) => return Err(expired()),
                () = tokio::time::sleep(RETRY_PAUSE), if has_ready => if Instant::now() >= deadline { return Err(expired()) },
                changed = routes.changed() => if changed.is_err() { return Err(Refusal::service_deleted()) },
            }
        }
    }

    /// The least busy first.
    fn by_load(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let replica_load = self
            .replica_load
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        addresses.sort_by_key(|address| replica_load.get(address).copied().unwrap_or(0));
        addresses
    }
}

/// Sets what every connection of a gateway has: small writes go out at once, and a peer that is gone is noticed.
pub(crate) fn set_socket_options(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_INTERVAL)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(3);
    let set = stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        tracing::debug!(%error, "a connection's options");
    }
}

fn to_std(limit: jiff::SignedDuration) -> Duration {
    limit.try_into().unwrap_or_default()
}

fn upstream_request(
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

/// The headers that are not about one connection.
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

/// Sends a request over a fresh connection; an error means that not a byte was answered.
async fn send(
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

fn client_response(
    response: Response<Incoming>,
    replica_load: ReplicaLoadGuard,
    in_flight: InFlightGuard,
) -> Response<StreamedBody> {
    let (mut parts, body) = response.into_parts();
    parts.headers = end_to_end(&parts.headers);
    parts.version = Version::default();
    Response::from_parts(
        parts,
        StreamedBody {
            body,
            _load: replica_load,
            _in_flight: in_flight,
        },
    )
}

/// Counts a request on its replica while it lives.
#[derive(Debug)]
struct ReplicaLoadGuard(Arc<Mutex<BTreeMap<SocketAddr, u64>>>, SocketAddr);

impl ReplicaLoadGuard {
    fn new(replica_load: &Arc<Mutex<BTreeMap<SocketAddr, u64>>>, address: SocketAddr) -> Self {
        *replica_load
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(address)
            .or_default() += 1;
        Self(Arc::clone(replica_load), address)
    }
}

impl Drop for ReplicaLoadGuard {
    fn drop(&mut self) {
        let mut replica_load = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = replica_load.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                replica_load.remove(&self.1);
            }
        }
    }
}

/// An answer's body, passed on chunk by chunk. The request counts as in flight until it ends.
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
