//! One request, from its head to the end of its response.
//!
//! The body is read before the request waits, so the request can be sent again if a replica fails
//! before it answers: always if nothing was sent, and otherwise only if it may be done twice. While a
//! replica is ready, a body that is not small is streamed to it instead, and once a part of it was
//! read the request is not sent again. Once the first byte of a response has arrived, the client gets
//! this response or none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bursar_core::refusal::RefusalReason;
use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::access::directory::Directory;
use crate::balancer::ReplicaGuard;
use crate::demand::{DemandTracker, InFlightGuard};
use crate::held_bytes::HeldBytes;
use crate::hold::{self, HeldRequest, HoldQueue};
use crate::metrics::{Metrics, OutcomeLabel};
use crate::refusal::Refusal;
use crate::request_body::{self, BodyReader, BufferedBody};
use crate::request_stream::{RequestStream, UpstreamBody};
use crate::response_body::{self, ClientRead, StreamedBody};
use crate::retry::may_send_again;
use crate::route::ServiceRoutes;
use crate::service_key::ServiceKey;
use crate::upstream::{self, SendError, Upstream};

/// A request that wakes a service and is not held counts as held for this long, so that the leader
/// hears of it.
const WAKE_TIME: Duration = Duration::from_secs(5);

/// How long a gateway waits for clients and replicas, and what it does with their connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The connection of a client that sends nothing for this long, before its first request or in
    /// the middle of one, is closed.
    pub(crate) client_idle: Duration,
    /// The answer of a client that reads nothing of it for this long is cut off.
    pub(crate) client_stall: Duration,
    /// A replica has this long for the head of its answer.
    pub(crate) response_header: Duration,
    /// A replica may send nothing for this long in the middle of its answer.
    pub(crate) response_idle: Duration,
    /// A request waits for this long at most because all ready replicas have as many requests as
    /// they should.
    pub(crate) pacing: Duration,
    /// Whether a client's connection is closed after its first answer, so that its next request goes
    /// through the Service again, to a replica if one is ready. Those to services whose requests all go
    /// through gateways are kept.
    pub(crate) close_clients: bool,
    /// A kept connection without a request is closed after this long.
    pub(crate) kept_idle: Duration,
}

/// Handles requests. Clones share all state.
#[derive(Debug, Clone)]
pub(crate) struct RequestHandler(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    hold_queue: Arc<HoldQueue>,
    demand: DemandTracker,
    metrics: Metrics,
    body_reader: BodyReader,
    upstream: Upstream,
    limits: Limits,
    /// The gateway leaves.
    shutdown: CancellationToken,
}

/// The response to a request: a refusal, or a replica's response.
pub(crate) type ClientResponse = Response<ClientBody>;

/// Marks a response after which its connection ends, whether it is to be kept or not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastResponse;

/// Its body.
pub(crate) type ClientBody = Either<Full<Bytes>, StreamedBody>;

impl RequestHandler {
    /// A handler that forwards by `routes`, which always has the current state of the cluster;
    /// `directory` has it once some service needs it.
    pub(crate) fn new(
        routes: ServiceRoutes,
        directory: Directory,
        demand: DemandTracker,
        metrics: Metrics,
        limits: Limits,
    ) -> Self {
        let hold_queue = HoldQueue::new(
            routes,
            directory,
            demand.clone(),
            metrics.clone(),
            limits.pacing,
        );
        Self(Arc::new(Shared {
            hold_queue: Arc::new(hold_queue),
            demand,
            metrics,
            body_reader: BodyReader::new(limits.client_idle),
            upstream: Upstream::new(limits.response_header),
            limits,
            shutdown: CancellationToken::new(),
        }))
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The bytes of all requests.
    pub(crate) fn held_bytes(&self) -> &HeldBytes {
        self.0.body_reader.held_bytes()
    }

    /// The bytes of all answers that clients do not read.
    pub(crate) fn unread_bytes(&self) -> &HeldBytes {
        self.0.body_reader.unread_bytes()
    }

    pub(crate) fn hold_queue(&self) -> &HoldQueue {
        &self.0.hold_queue
    }

    /// Handles one request for `service`; `read` lasts until the client has its answer.
    pub(crate) async fn handle(
        &self,
        service: &ServiceKey,
        peer: SocketAddr,
        request: Request<Incoming>,
        read: ClientRead,
        keeps: bool,
    ) -> ClientResponse {
        let (parts, body) = request.into_parts();
        let mut body = Some(body);
        match self.0.forward(service, peer, &parts, &mut body).await {
            Ok(answer) => {
                let Answer {
                    response,
                    replica,
                    in_flight,
                } = answer;
                let response = response_body::client_response(
                    response,
                    replica,
                    in_flight,
                    read,
                    self.0.limits.response_idle,
                    self.0.metrics.clone(),
                );
                self.finish(
                    parts.version,
                    "forwarded",
                    response.map(Either::Right),
                    keeps,
                )
            }
            Err(refusal) => self.refuse(refusal, &parts, body, keeps).await,
        }
    }

    /// Refuses a request.
    pub(crate) async fn refuse(
        &self,
        refusal: Refusal,
        parts: &http::request::Parts,
        body: Option<Incoming>,
        keeps: bool,
    ) -> ClientResponse {
        let waits = parts.headers.contains_key(header::EXPECT);
        let body = body.filter(|_| !waits && refusal.reason != RefusalReason::BodyTimeout);
        // where a part of the body is not read, the connection cannot go on with another request
        let is_read = match body {
            Some(body) => request_body::discard(body).await,
            None => false,
        };
        // one that may not reach the service leaves its room to others
        let is_let_in = refusal.reason != RefusalReason::CallerNotAllowed;
        let keeps = keeps && is_read && is_let_in;
        let mut response = refusal.response(Timestamp::now()).map(Either::Left);
        if !is_let_in {
            response.extensions_mut().insert(LastResponse);
        }
        self.finish(parts.version, refusal.outcome(), response, keeps)
    }

    /// Whether connections of a service's clients may be kept after an answer: all of its requests go
    /// through gateways, and this one stays.
    pub(crate) fn may_keep_clients(&self, service: &ServiceKey) -> bool {
        !self.0.shutdown.is_cancelled() && self.0.hold_queue.is_always(service)
    }

    /// Keeps no connection any more: the gateway leaves.
    pub(crate) fn begin_shutdown(&self) {
        self.0.shutdown.cancel();
    }

    /// Counts the outcome of a request, and lets an HTTP/1 connection end with its response, unless the
    /// gateway `keeps` it.
    fn finish(
        &self,
        version: Version,
        outcome: &'static str,
        mut response: ClientResponse,
        keeps: bool,
    ) -> ClientResponse {
        let requests = &self.0.metrics.requests;
        requests.get_or_create(&OutcomeLabel { outcome }).inc();
        if version < Version::HTTP_2 && !keeps {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }
}

/// The head of a replica's answer, and what counts the request until the body ends.
struct Answer {
    response: Response<Incoming>,
    replica: ReplicaGuard,
    in_flight: Option<InFlightGuard>,
}

/// The body of a request, read before or streamed.
enum RequestBody {
    Buffered(BufferedBody),
    Streamed(RequestStream),
}

impl RequestBody {
    /// The body as it goes to one replica.
    fn upstream(&self) -> UpstreamBody {
        match self {
            Self::Buffered(body) => UpstreamBody::buffered(&body.bytes, body.trailers.as_ref()),
            Self::Streamed(stream) => UpstreamBody::Streamed(stream.clone()),
        }
    }

    /// Whether a part of it is gone, so that no other replica can get it.
    fn is_consumed(&self) -> bool {
        match self {
            Self::Buffered(_) => false,
            Self::Streamed(stream) => stream.is_started(),
        }
    }
}

impl Shared {
    /// Forwards a request; of a refused one `body` has what the client still sends.
    async fn forward(
        &self,
        service: &ServiceKey,
        peer: SocketAddr,
        parts: &http::request::Parts,
        body: &mut Option<Incoming>,
    ) -> Result<Answer, Refusal> {
        if parts.method == Method::CONNECT {
            return Err(Refusal::connect_not_allowed());
        }
        check_host(&parts.headers)?;
        let mut held = self.hold_queue.admit(service, peer.ip()).await?;
        held.check_wakes(parts)?;
        let has_replica = held.has_replica();
        let large = body.take_if(|body| has_replica && !request_body::is_read_ahead(body));
        if let Some(large) = large {
            let stream = RequestStream::new(large, self.limits.client_idle);
            held.enter(parts)?;
            let streamed = RequestBody::Streamed(stream.clone());
            let sent = self.send(service, peer, parts, &streamed, &mut held).await;
            if let Ok(Some(answer)) = sent {
                return Ok(answer);
            }
            *body = stream.take_rest();
            sent?;
            // the replica went before a part of the body was read: the request is held
            held.leave_queue();
        }
        let read = self.read_body(service, body, &held).await;
        let read = match read {
            Err(refusal) if refusal.reason == RefusalReason::BodyTooLarge => {
                return Err(wake_for_large_body(held, parts));
            }
            read => RequestBody::Buffered(read?),
        };
        // a request is held once its body is complete, so a client that sends no body starts no
        // replica and fills no queue
        held.enter(parts)?;
        let sent = self.send(service, peer, parts, &read, &mut held).await?;
        sent.ok_or_else(Refusal::queue_full)
    }

    /// Reads a body that is to be held, or that is small.
    async fn read_body(
        &self,
        service: &ServiceKey,
        body: &mut Option<Incoming>,
        held: &HeldRequest,
    ) -> Result<BufferedBody, Refusal> {
        let policy = held.policy()?;
        let hold_timeout = hold::to_std(policy.hold_timeout);
        let deadline = held.arrived() + hold_timeout.max(self.limits.client_idle);
        let max_reads = policy.max_connections();
        let body = body
            .as_mut()
            .ok_or_else(|| Refusal::body_incomplete("a part of it was sent"))?;
        let reader = &self.body_reader;
        reader.read(service, body, max_reads, deadline).await
    }

    /// Sends a request to one replica after another, until one answers; `None` if no replica is ready
    /// any more for a body that is streamed, of which nothing was sent.
    async fn send(
        &self,
        service: &ServiceKey,
        peer: SocketAddr,
        parts: &http::request::Parts,
        body: &RequestBody,
        held: &mut HeldRequest,
    ) -> Result<Option<Answer>, Refusal> {
        let body_complete = Instant::now();
        let is_streamed = matches!(body, RequestBody::Streamed(_));
        let mut waited = None;
        let mut sends = 0;
        loop {
            let Some(mut replica) = held.replica(parts, is_streamed).await? else {
                return Ok(None);
            };
            let address = replica.address();
            let request = upstream::request(parts, body.upstream(), address, peer);
            let mut in_flight = None;
            let connected = || {
                // the replica counts the request from here on
                in_flight = Some(self.demand.count_in_flight(service, Timestamp::now()));
                waited.get_or_insert_with(|| body_complete.elapsed());
                held.leave_queue();
            };
            match self.upstream.send(address, request, connected).await {
                Ok(response) => {
                    replica.answered();
                    let waited = waited.unwrap_or_else(|| body_complete.elapsed());
                    self.metrics.hold_seconds.observe(waited.as_secs_f64());
                    held.leave_queue();
                    return Ok(Some(Answer {
                        response,
                        replica,
                        in_flight,
                    }));
                }
                Err(SendError::NotSent(error)) if !body.is_consumed() => {
                    let now = Timestamp::now();
                    self.demand.note_connect_failure(service, &error, now);
                    held.not_sent(replica, error);
                }
                Err(SendError::Timeout) => {
                    return Err(Refusal::replica_timeout(self.limits.response_header));
                }
                Err(SendError::Client(refusal)) => return Err(refusal),
                Err(SendError::NotSent(error) | SendError::Broken(error)) => {
                    sends += 1;
                    replica.failed(Instant::now(), &error);
                    let may_repeat = may_send_again(held.policy()?.retry, parts, sends);
                    if body.is_consumed() || !may_repeat {
                        return Err(Refusal::replica_failed(error));
                    }
                    tracing::debug!(?service, %address, error, "no answer; sending the request to another replica");
                    held.broken(address, error);
                }
            }
        }
    }
}

/// Refuses what servers may understand differently: several hosts, or one that is none (RFC 9112,
/// section 3.2). The proxy before the gateway may have chosen the service by another one than the
/// replica reads.
fn check_host(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let Some(host) = hosts.next() else {
        return Ok(());
    };
    let further = hosts.count();
    if further > 0 {
        let count = 1 + further;
        return Err(Refusal::invalid_host(format!("has {count} Host headers")));
    }
    // it may be empty
    match host.is_empty() || Authority::try_from(host.as_bytes()).is_ok() {
        true => Ok(()),
        false => Err(Refusal::invalid_host("has a Host header that is no host")),
    }
}

/// A body that is too large to be held starts a replica all the same: its client is told when to send
/// it again.
fn wake_for_large_body(mut held: HeldRequest, parts: &http::request::Parts) -> Refusal {
    match held.enter(parts) {
        Ok(()) => {
            tokio::spawn(async move {
                tokio::time::sleep(WAKE_TIME).await;
                drop(held);
            });
            Refusal::large_body_wakes()
        }
        Err(refusal) => refusal,
    }
}
