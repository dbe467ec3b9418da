//! The gateway's listeners: one for the port of each service, opened and closed as services come and
//! go.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bursar_runtime::listen::listen;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client_stream::{ClientStream, ClientWrites, CountedBody};
use crate::held_bytes::{ByteReservation, HeldBytes};
use crate::metrics::CauseLabel;
use crate::refusal::Refusal;
use crate::request::{ClientBody, LastResponse, RequestHandler};
use crate::response_body::{self, ClientRead, ClientReads, StreamExecutor};
use crate::service_key::ServiceKey;
use crate::upstream::{limit_unsent, set_socket_options};

/// While a service has as many connections as it may, further ones wait in the kernel, and the
/// number is checked this often.
const CAPACITY_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Connections that clients who may not reach a service have to it at a time, to be told so. Further
/// ones are closed at once, so that they take none of those of other clients.
const MAX_DENIED_CONNECTIONS: usize = 16;
/// The most bytes that the head of a request may have.
const MAX_HEAD_BYTES: u32 = 64 << 10;
/// The most bytes of heads that are being read, of all connections together.
const MAX_READING_BYTES: usize = 64 << 20;
/// The most bytes of heads that may be read on connections that are kept after an answer, all of them
/// together: a thousand are kept.
const MAX_KEPT_BYTES: usize = 64 << 20;
/// What a request takes in addition to its head and its body: its connection or stream, buffers in
/// both directions, and its task.
const REQUEST_BYTES: usize = 24 << 10;
/// What the name and the value of a header take in addition to their text.
const HEADER_BYTES: usize = 64;
/// The most streams of an HTTP/2 connection; a client waits with further ones.
const MAX_STREAMS: u32 = 100;
/// What an HTTP/2 client may send ahead of what is read, on a stream and on a connection.
const HTTP2_WINDOW: u32 = 64 << 10;
/// What is written ahead of what an HTTP/2 client reads, on a stream: less than what a request takes.
const HTTP2_SEND_BUFFER: usize = 16 << 10;
/// HTTP/2 clients get a ping this often, and have as long to answer it.
const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);
/// Refusals that are sent at shutdown have this long to reach their clients.
const REFUSAL_DELIVERY_TIMEOUT: Duration = Duration::from_secs(2);

/// The open listeners and their connections.
#[derive(Debug)]
pub(crate) struct Listeners {
    handler: RequestHandler,
    open: BTreeMap<u16, (ServiceKey, CancellationToken)>,
    /// Ports that could not be opened.
    failed: BTreeSet<u16>,
    connections: TaskTracker,
    /// The bytes of heads that are being read.
    heads: HeldBytes,
    /// The bytes that further heads of connections that are kept may take.
    kept_heads: HeldBytes,
}

/// Whether a client's connection is kept after an answer. Clones share the connection.
#[derive(Debug, Clone)]
struct KeptConnection {
    handler: RequestHandler,
    service: Arc<ServiceKey>,
    /// One of the connections that the service's clients may have.
    slot: Arc<()>,
    /// It is one of those that have no room of the service's.
    is_denied: bool,
    bytes: HeldBytes,
    /// The bytes of further heads, once it is kept.
    kept: Arc<Mutex<Option<ByteReservation>>>,
}

impl KeptConnection {
    /// Whether the connection is kept after the answer to a request that has come. It is not while the
    /// service's clients have more than half of the connections that they may have, where the client might
    /// not reach the service when it came, or while heads on kept connections could take more than they may:
    /// then others find room as if none were kept.
    fn keeps(&self) -> bool {
        if !self.handler.limits().close_clients {
            return true;
        }
        let most = self.handler.hold_queue().max_connections(&self.service) / 2;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let may_keep = !self.is_denied
            && self.handler.may_keep_clients(&self.service)
            && Arc::strong_count(&self.slot) <= most;
        if !may_keep {
            *kept = None;
        } else if kept.is_none() {
            let head = MAX_HEAD_BYTES as usize;
            *kept = self.bytes.reserve(&self.service.0, head).ok();
        }
        kept.is_some()
    }
}

impl Listeners {
    /// No listener yet.
    pub(crate) fn new(handler: RequestHandler) -> Self {
        Self {
            handler,
            open: BTreeMap::new(),
            failed: BTreeSet::new(),
            connections: TaskTracker::new(),
            heads: HeldBytes::new(MAX_READING_BYTES),
            kept_heads: HeldBytes::new(MAX_KEPT_BYTES),
        }
    }

    /// Opens and closes listeners until they are those of `ports`. Returns false if a port could
    /// not be opened; the others are served all the same.
    pub(crate) async fn sync(&mut self, ports: &BTreeMap<u16, ServiceKey>) -> bool {
        self.open.retain(|port, (service, closed)| {
            let keep = ports.get(port) == Some(service);
            if !keep {
                tracing::info!(
                    port,
                    namespace = service.0,
                    name = service.1,
                    "closed a port"
                );
                closed.cancel();
            }
            keep
        });
        self.failed.retain(|port| ports.contains_key(port));
        for (&port, service) in ports {
            if self.open.contains_key(&port) {
                continue;
            }
            match listen(port).await {
                Ok(listener) => {
                    self.failed.remove(&port);
                    tracing::info!(
                        port,
                        namespace = service.0,
                        name = service.1,
                        "opened a port"
                    );
                    let closed = CancellationToken::new();
                    self.open.insert(port, (service.clone(), closed.clone()));
                    let (handler, connections) = (self.handler.clone(), self.connections.clone());
                    let heads = (self.heads.clone(), self.kept_heads.clone());
                    let accept = accept(
                        listener,
                        service.clone(),
                        handler,
                        connections,
                        heads,
                        closed,
                    );
                    self.connections.spawn(accept);
                }
                Err(error) => {
                    if self.failed.insert(port) {
                        let (namespace, name) = service;
                        tracing::error!(port, namespace, name, %error, "cannot open a port; trying again");
                    }
                }
            }
        }
        let failed = i64::try_from(self.failed.len()).unwrap_or(i64::MAX);
        self.handler.metrics().closed_ports.set(failed);
        self.failed.is_empty()
    }

    /// The connections that are open.
    #[cfg(test)]
    pub(crate) fn open_connections(&self) -> usize {
        // each listener is one of the tasks
        self.connections.len() - self.open.len()
    }

    /// Keeps no connection after its next answer, so that clients leave by themselves before connections
    /// are closed.
    pub(crate) fn begin_shutdown(&self) {
        self.handler.begin_shutdown();
    }

    /// Closes all listeners and waits until no request is held or in flight. Requests that are
    /// still held at `end` are refused.
    pub(crate) async fn drain(self, end: Instant) {
        self.open.values().for_each(|(_, closed)| closed.cancel());
        self.connections.close();
        if tokio::time::timeout_at(end, self.connections.wait())
            .await
            .is_ok()
        {
            return;
        }
        self.handler.hold_queue().refuse_all();
        if tokio::time::timeout(REFUSAL_DELIVERY_TIMEOUT, self.connections.wait())
            .await
            .is_err()
        {
            let connections = self.connections.len();
            tracing::warn!(
                connections,
                "closing connections before their responses are complete: the termination grace period is over"
            );
        }
    }
}

async fn accept(
    mut listener: TcpListener,
    service: ServiceKey,
    handler: RequestHandler,
    connections: TaskTracker,
    (heads, kept): (HeldBytes, HeldBytes),
    closed: CancellationToken,
) {
    let (slots, denied_slots, service) = (Arc::new(()), Arc::new(()), Arc::new(service));
    loop {
        let accepted = async {
            while Arc::strong_count(&slots) > handler.hold_queue().max_connections(&service) {
                tokio::time::sleep(CAPACITY_POLL_INTERVAL).await;
            }
            // accept() logs an error, such as too many open files, pauses and goes on
            let accepted = axum::serve::Listener::accept(&mut listener).await;
            (accepted, head_room(&heads, &service.0).await)
        };
        let ((stream, peer), head) = tokio::select! {
            () = closed.cancelled() => return,
            accepted = accepted => accepted,
        };
        let is_denied = handler.hold_queue().is_denied(&service, peer.ip());
        let slot = match is_denied {
            false => Arc::clone(&slots),
            true if Arc::strong_count(&denied_slots) > MAX_DENIED_CONNECTIONS => continue,
            true => Arc::clone(&denied_slots),
        };
        let keep = KeptConnection {
            handler: handler.clone(),
            service: Arc::clone(&service),
            slot,
            is_denied,
            bytes: kept.clone(),
            kept: Arc::default(),
        };
        let connection = serve_connection(
            stream,
            peer,
            Arc::clone(&service),
            handler.clone(),
            (head, keep),
            closed.clone(),
        );
        connections.spawn(connection);
    }
}

/// Serves one connection. After its first response the connection is shut down gracefully, so the
/// client's next request goes through the Service again, unless it is kept. A client that does not read its answer is
/// given up, and what its request holds at a replica with it: an HTTP/1 connection is closed, a stream
/// of HTTP/2 is reset.
async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    service: Arc<ServiceKey>,
    handler: RequestHandler,
    (head, keep): (ByteReservation, KeptConnection),
    closed: CancellationToken,
) {
    set_socket_options(&stream);
    limit_unsent(&stream);
    let writes = ClientWrites::new(handler.unread_bytes().clone(), Arc::clone(&service));
    let on_response = writes.clone();
    let limits = *handler.limits();
    let idle_timeout = limits.client_idle;
    // hyper's time for a head begins with the end of the answer before
    let (head_timeout, complete_timeout) = match handler.may_keep_clients(&service) {
        true => (limits.kept_idle, limits.kept_idle + limits.client_stall),
        false => (idle_timeout, limits.client_stall),
    };
    let reads = ClientReads::default();
    let (first_request, first_response) = (CancellationToken::new(), CancellationToken::new());
    let (on_request, responded) = (first_request.clone(), first_response.clone());
    let metrics = handler.metrics().clone();
    let executor = StreamExecutor {
        reads: reads.clone(),
        stall_timeout: limits.client_stall,
        metrics: metrics.clone(),
    };
    let begin_read = reads.clone();
    // an HTTP/2 client sends further heads while a request is handled
    let head = Mutex::new(Some(head));
    let handle = service_fn(move |request: Request<Incoming>| {
        on_request.cancel();
        let keeps = keep.keeps();
        // those of a connection that is kept have bytes of their own
        let is_last_head = keeps || request.version() < Version::HTTP_2;
        let head = is_last_head.then(|| head.lock().unwrap_or_else(PoisonError::into_inner).take());
        let (handler, service, first_response, reads, writes) = (
            handler.clone(),
            Arc::clone(&service),
            first_response.clone(),
            begin_read.clone(),
            on_response.clone(),
        );
        async move {
            // a stream of HTTP/2 has begun with its task
            let client = ClientRequest {
                peer,
                head: head.flatten(),
                read: response_body::take_stream_read().unwrap_or_else(|| reads.begin()),
                writes,
                keeps,
            };
            let response = handle_counted(&handler, &service, request, client).await;
            let is_last = response.extensions().get::<LastResponse>().is_some();
            if !keeps || is_last {
                first_response.cancel();
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = auto::Builder::new(executor);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(MAX_HEAD_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_INTERVAL)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(HTTP2_WINDOW)
        .initial_connection_window_size(HTTP2_WINDOW)
        .max_send_buf_size(HTTP2_SEND_BUFFER)
        .max_header_list_size(MAX_HEAD_BYTES);
    let stream = ClientStream::new(stream, writes.clone());
    let connection = builder.serve_connection(stream, handle);
    tokio::pin!(connection);
    let idle = async {
        tokio::time::timeout(idle_timeout, first_request.cancelled())
            .await
            .is_err()
    };
    tokio::pin!(idle);
    // what is left of an answer that is complete may be in a connection that is kept for much longer
    let stalled = async {
        tokio::select! {
            () = reads.stalled(limits.client_stall, complete_timeout) => {}
            () = writes.stalled(limits.client_stall) => {}
        }
    };
    tokio::pin!(stalled);
    let mut closing = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "connection failed");
                }
                if writes.is_cut_off() {
                    metrics.aborted_responses.get_or_create(&CauseLabel::CLIENT_STALLED).inc();
                }
                return;
            }
            true = idle.as_mut(), if !first_request.is_cancelled() => return,
            () = stalled.as_mut() => {
                tracing::debug!(%peer, "a client does not read its answer");
                metrics.aborted_responses.get_or_create(&CauseLabel::CLIENT_STALLED).inc();
                return;
            }
            () = wait_for_either(&responded, &closed), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Waits until the head of another request of this namespace may be read.
async fn head_room(heads: &HeldBytes, namespace: &str) -> ByteReservation {
    loop {
        if let Ok(room) = heads.reserve(namespace, MAX_HEAD_BYTES as usize) {
            return room;
        }
        tokio::time::sleep(CAPACITY_POLL_INTERVAL).await;
    }
}

/// What is known of a request in addition to itself.
struct ClientRequest {
    peer: SocketAddr,
    /// The bytes that its head was read into.
    head: Option<ByteReservation>,
    /// Lasts until the client has its answer.
    read: ClientRead,
    /// What is written to it.
    writes: ClientWrites,
    /// Its connection is kept after the answer.
    keeps: bool,
}

/// Handles a request, unless the requests of its namespace hold all bytes that they may. Until it has
/// bytes of its own, those of its head count, also while it is refused.
async fn handle_counted(
    handler: &RequestHandler,
    service: &ServiceKey,
    request: Request<Incoming>,
    client: ClientRequest,
) -> Response<CountedBody<ClientBody>> {
    let ClientRequest {
        peer,
        head,
        read,
        writes,
        keeps,
    } = client;
    let is_stream = request.version() >= Version::HTTP_2;
    let bytes = REQUEST_BYTES + head_bytes(&request);
    let room = match handler.held_bytes().reserve(&service.0, bytes) {
        Ok(room) => room,
        Err(share) => {
            let (parts, body) = request.into_parts();
            let refusal = Refusal::share_used(share);
            let refused = handler.refuse(refusal, &parts, Some(body), keeps).await;
            // counted until here, as the answer is complete now
            drop(read);
            return refused.map(|body| CountedBody::new(body, head, writes, is_stream));
        }
    };
    drop(head);
    let response = handler.handle(service, peer, request, read, keeps).await;
    response.map(|body| CountedBody::new(body, Some(room), writes, is_stream))
}

/// What the head of a request takes.
fn head_bytes(request: &Request<Incoming>) -> usize {
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES);
    let path = request.uri().path_and_query();
    headers.sum::<usize>() + path.map_or(0, |path| path.as_str().len())
}

async fn wait_for_either(first: &CancellationToken, second: &CancellationToken) {
    tokio::select! {
        () = first.cancelled() => {}
        () = second.cancelled() => {}
    }
}
