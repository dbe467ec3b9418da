//! One request, from its head to the end of its response.
//!
//! The body is read before the request waits, so the request can be sent again if a replica fails
//! before it answers. Once the first byte of a response has arrived, the request is never sent
//! again.

use std::net::SocketAddr;
use std::time::Duration;

use bursar_core::refusal::RefusalReason;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::demand::DemandTracker;
use crate::hold::{self, HoldQueue, RETRY_PAUSE};
use crate::metrics::{Metrics, OutcomeLabel};
use crate::refusal::Refusal;
use crate::request_body::{self, BodyReader};
use crate::route::{ServiceKey, ServiceRoutes};
use crate::upstream::{self, ReplicaLoad, StreamedBody};

/// How often a request is sent again after a replica closed the connection before it answered.
const MAX_RESENDS: u32 = 5;

/// Handles requests. Clones share all state.
#[derive(Debug, Clone)]
pub(crate) struct RequestHandler {
    hold_queue: HoldQueue,
    demand: DemandTracker,
    metrics: Metrics,
    body_reader: BodyReader,
    replica_load: ReplicaLoad,
    idle_timeout: Duration,
}

/// The response to a request: a refusal, or a replica's response.
pub(crate) type ClientResponse = Response<Either<Full<Bytes>, StreamedBody>>;

impl RequestHandler {
    /// A handler that forwards by `routes`, which always has the current state of the cluster. It
    /// closes the connection of a client that sends nothing for `idle_timeout`.
    pub(crate) fn new(
        routes: ServiceRoutes,
        demand: DemandTracker,
        metrics: Metrics,
        idle_timeout: Duration,
    ) -> Self {
        let load = ReplicaLoad::default();
        Self {
            hold_queue: HoldQueue::new(routes, demand.clone(), metrics.clone(), load.clone()),
            demand,
            metrics,
            body_reader: BodyReader::new(idle_timeout),
            replica_load: load,
            idle_timeout,
        }
    }

    /// The connection of a client that sends nothing for this long, before its first request or in
    /// the middle of one, is closed.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.idle_timeout
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn hold_queue(&self) -> &HoldQueue {
        &self.hold_queue
    }

    /// Handles one request for `service`.
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
            // the client's next request goes through the Service again, to a replica if one is
            // ready
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
        let policy = self.hold_queue.admit(service)?;
        self.hold_queue.check_wakes(service, parts)?;
        let hold_timeout = hold::to_std(policy.hold_timeout);
        let body_deadline = arrived + hold_timeout.max(self.idle_timeout);
        let max_reads = policy.max_connections();
        let body = self
            .body_reader
            .read(service, body, max_reads, body_deadline);
        let body = body.await?;
        // a request is held once its body is complete, so a client that sends no body starts no
        // replica and fills no queue
        let mut held = Some(self.hold_queue.enter(service)?);
        let body_complete = Instant::now();
        let mut resends = 0;
        loop {
            let (address, stream) = self.hold_queue.connect(service, arrived).await?;
            let waited = body_complete.elapsed();
            let load = self.replica_load.count(address);
            let in_flight = self.demand.count_in_flight(service);
            // the replica counts the request from here on
            drop(held.take());
            let request = upstream::request(parts, &body.bytes, address, peer);
            match upstream::send(stream, request).await {
                Ok(response) => {
                    self.metrics.hold_seconds.observe(waited.as_secs_f64());
                    return Ok(upstream::client_response(response, load, in_flight));
                }
                Err(error) if resends < MAX_RESENDS && arrived.elapsed() < hold_timeout => {
                    resends += 1;
                    self.metrics.retries.inc();
                    tracing::debug!(?service, %address, %error, "no response; sending the request again");
                    held = self.demand.hold(service, u32::MAX, Timestamp::now());
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) => return Err(Refusal::replica_failed(error)),
            }
        }
    }
}
