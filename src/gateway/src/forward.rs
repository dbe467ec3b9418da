//! One request: held until a replica is ready, then forwarded to the least busy one.
//!
//! The body is read before anything else, within bounds, so that a request which a replica did not answer at all can go to another.
//! Once the first byte of an answer is here the request is never sent again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::demand::{Demand, InFlight};
use crate::meter::{Meters, Outcome};
use crate::refuse::Refusal;
use crate::route::{Key, Routes};

/// A request's body may have this many bytes.
const MAX_BODY: usize = 16 << 20;
/// All bodies that wait may together have this many, in KiB.
const ALL_BODIES_KIB: u32 = 256 << 10;
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
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
pub(crate) struct Forwarder {
    routes: watch::Receiver<Arc<Routes>>,
    demand: Demand,
    meters: Meters,
    bodies: Arc<Semaphore>,
    busy: Arc<Mutex<BTreeMap<SocketAddr, u64>>>,
}

/// The answer to a request.
pub(crate) type Answer = Response<Either<Full<Bytes>, Streamed>>;

impl Forwarder {
    /// Forwards along `routes`, which follow the cluster.
    pub(crate) fn new(
        routes: watch::Receiver<Arc<Routes>>,
        demand: Demand,
        meters: Meters,
    ) -> Self {
        Self {
            routes,
            demand,
            meters,
            bodies: Arc::new(Semaphore::new(ALL_BODIES_KIB as usize)),
            busy: Arc::default(),
        }
    }

    /// Answers one request for `service`.
    pub(crate) async fn answer(
        &self,
        service: Key,
        peer: SocketAddr,
        request: Request<Incoming>,
    ) -> Answer {
        let version = request.version();
        let (outcome, mut answer) = match self.serve(service, peer, request).await {
            Ok(response) => ("forwarded", response.map(Either::Right)),
            Err(refusal) => (
                refusal.label(),
                refusal.response(Timestamp::now()).map(Either::Left),
            ),
        };
        self.meters
            .requests
            .get_or_create(&Outcome { outcome })
            .inc();
        if version < Version::HTTP_2 {
            // the next request goes through the Service anew, to a replica if one is ready
            answer
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    async fn serve(
        &self,
        service: Key,
        peer: SocketAddr,
        request: Request<Incoming>,
    ) -> Result<Response<Streamed>, Refusal> {
        let arrived = Instant::now();
        let (parts, body) = request.into_parts();
        // counted as held from its arrival: reading a body takes time in which a replica could start
        let terms = self
            .routes
            .borrow()
            .terms(&service)
            .cloned()
            .ok_or(Refusal::Gone)?;
        if self.routes.borrow().ready(&service).is_empty() {
            refusal(&terms)?;
        }
        let mut held = Some(
            self.demand
                .hold(&service, terms.max_held, Timestamp::now())
                .ok_or(Refusal::QueueFull)?,
        );
        let (body, permits) = self.read(body).await?;
        let mut resends = 0;
        loop {
            let (address, stream) = self.connect(&service, arrived).await?;
            let guard = Busy::new(&self.busy, address);
            let in_flight = self.demand.forward(&service);
            // from here on its replica counts it
            drop(held.take());
            let outgoing = outgoing(&parts, &body, address, peer);
            match send(stream, outgoing).await {
                Ok(response) => {
                    self.meters
                        .hold_seconds
                        .observe(arrived.elapsed().as_secs_f64());
                    drop(permits);
                    return Ok(incoming(response, guard, in_flight));
                }
                Err(why)
                    if resends < MAX_RESENDS && arrived.elapsed() < within(terms.hold_timeout) =>
                {
                    resends += 1;
                    self.meters.retries.inc();
                    tracing::debug!(service = ?service, %address, %why, "no answer; trying again");
                    held = self.demand.hold(&service, u32::MAX, Timestamp::now());
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(why) => return Err(Refusal::Upstream(why)),
            }
        }
    }

    /// Waits for a ready replica and connects to it.
    async fn connect(
        &self,
        service: &Key,
        arrived: Instant,
    ) -> Result<(SocketAddr, TcpStream), Refusal> {
        let mut routes = self.routes.clone();
        loop {
            let (terms, ready) = {
                let routes = routes.borrow_and_update();
                (
                    routes.terms(service).cloned().ok_or(Refusal::Gone)?,
                    routes.ready(service),
                )
            };
            let deadline = arrived + within(terms.hold_timeout);
            if ready.is_empty() {
                refusal(&terms)?;
            }
            for address in self.by_load(ready) {
                if let Ok(Ok(stream)) =
                    tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await
                {
                    stream.set_nodelay(true).ok();
                    return Ok((address, stream));
                }
                self.meters.retries.inc();
            }
            let expired = || Refusal::HoldExpired(terms.hold_timeout.as_secs());
            let any = !routes.borrow().ready(service).is_empty();
            tokio::select! {
                () = tokio::time::sleep_until(deadline) => return Err(expired()),
                () = tokio::time::sleep(RETRY_PAUSE), if any => if Instant::now() >= deadline { return Err(expired()) },
                changed = routes.changed() => if changed.is_err() { return Err(Refusal::Gone) },
            }
        }
    }

    /// The least busy first.
    fn by_load(&self, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.sort_by_key(|address| busy.get(address).copied().unwrap_or(0));
        addresses
    }

    /// Reads a body within the bounds of one request and of all.
    async fn read(
        &self,
        mut body: Incoming,
    ) -> Result<(Bytes, Vec<OwnedSemaphorePermit>), Refusal> {
        let (mut bytes, mut permits, mut paid) = (BytesMut::new(), Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Refusal::BadBody(error.to_string()))?;
            bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
            if bytes.len() > MAX_BODY {
                return Err(Refusal::TooLarge);
            }
            let kib = u32::try_from(bytes.len().div_ceil(1024)).unwrap_or(u32::MAX);
            if kib > paid {
                let permit = Arc::clone(&self.bodies).try_acquire_many_owned(kib - paid);
                permits.push(permit.map_err(|_| Refusal::QueueFull)?);
                paid = kib;
            }
        }
        Ok((bytes.freeze(), permits))
    }
}

fn refusal(terms: &crate::route::Terms) -> Result<(), Refusal> {
    match &terms.refusal {
        Some(told) => Err(Refusal::Told(told.clone())),
        None if !terms.welcome => Err(Refusal::Stopped),
        None => Ok(()),
    }
}

fn within(limit: jiff::SignedDuration) -> Duration {
    limit.try_into().unwrap_or_default()
}

fn outgoing(
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
    let mut kept = headers.clone();
    let named = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    for name in named.map(str::trim).chain(HOP_BY_HOP) {
        kept.remove(name);
    }
    kept
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

fn incoming(response: Response<Incoming>, busy: Busy, in_flight: InFlight) -> Response<Streamed> {
    let (mut parts, body) = response.into_parts();
    parts.headers = end_to_end(&parts.headers);
    parts.version = Version::default();
    Response::from_parts(
        parts,
        Streamed {
            body,
            _busy: busy,
            _in_flight: in_flight,
        },
    )
}

/// Counts a request on its replica while it lives.
#[derive(Debug)]
struct Busy(Arc<Mutex<BTreeMap<SocketAddr, u64>>>, SocketAddr);

impl Busy {
    fn new(busy: &Arc<Mutex<BTreeMap<SocketAddr, u64>>>, address: SocketAddr) -> Self {
        *busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(address)
            .or_default() += 1;
        Self(Arc::clone(busy), address)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut busy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = busy.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                busy.remove(&self.1);
            }
        }
    }
}

/// An answer's body, passed on chunk by chunk. The request counts as in flight until it ends.
#[derive(Debug)]
pub(crate) struct Streamed {
    body: Incoming,
    _busy: Busy,
    _in_flight: InFlight,
}

impl Body for Streamed {
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
