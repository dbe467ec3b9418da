//! The gateway's listeners: one for the port of each service, opened and closed as services come and
//! go.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bursar_runtime::listen::listen;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::request::RequestHandler;
use crate::response_body::ClientReads;
use crate::route::ServiceKey;
use crate::upstream::set_socket_options;

/// While a service has as many connections as it may, further ones wait in the kernel, and the
/// number is checked this often.
const CAPACITY_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The most bytes that the head of a request may have.
const MAX_HEAD_BYTES: u32 = 64 << 10;
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
}

impl Listeners {
    /// No listener yet.
    pub(crate) fn new(handler: RequestHandler) -> Self {
        Self {
            handler,
            open: BTreeMap::new(),
            failed: BTreeSet::new(),
            connections: TaskTracker::new(),
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
                    let service = service.clone();
                    self.connections
                        .spawn(accept(listener, service, handler, connections, closed));
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
    closed: CancellationToken,
) {
    let (slots, service) = (Arc::new(()), Arc::new(service));
    loop {
        let accepted = async {
            while Arc::strong_count(&slots) > handler.hold_queue().max_connections(&service) {
                tokio::time::sleep(CAPACITY_POLL_INTERVAL).await;
            }
            // accept() logs an error, such as too many open files, pauses and goes on
            axum::serve::Listener::accept(&mut listener).await
        };
        let (stream, peer) = tokio::select! {
            () = closed.cancelled() => return,
            accepted = accepted => accepted,
        };
        let slot = Arc::clone(&slots);
        let connection = serve_connection(
            stream,
            peer,
            Arc::clone(&service),
            handler.clone(),
            closed.clone(),
        );
        connections.spawn(async move {
            connection.await;
            drop(slot);
        });
    }
}

/// Serves one connection. After its first response the connection is shut down gracefully, so the
/// client's next request goes through the Service again. A client that does not read its answers is
/// given up, and what its requests hold at replicas with it.
async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    service: Arc<ServiceKey>,
    handler: RequestHandler,
    closed: CancellationToken,
) {
    set_socket_options(&stream);
    let limits = *handler.limits();
    let idle_timeout = limits.client_idle;
    let reads = ClientReads::default();
    let (first_request, first_response) = (CancellationToken::new(), CancellationToken::new());
    let (on_request, responded) = (first_request.clone(), first_response.clone());
    let begin_read = reads.clone();
    let handle = service_fn(move |request| {
        on_request.cancel();
        let (handler, service, first_response) = (
            handler.clone(),
            Arc::clone(&service),
            first_response.clone(),
        );
        let read = begin_read.begin();
        async move {
            let response = handler.handle(&service, peer, request, read).await;
            if limits.close_clients {
                first_response.cancel();
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle_timeout)
        .max_buf_size(MAX_HEAD_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING_INTERVAL)
        .keep_alive_timeout(HTTP2_PING_INTERVAL)
        .max_header_list_size(MAX_HEAD_BYTES);
    let connection = builder.serve_connection(TokioIo::new(stream), handle);
    tokio::pin!(connection);
    let idle = async {
        tokio::time::timeout(idle_timeout, first_request.cancelled())
            .await
            .is_err()
    };
    tokio::pin!(idle);
    let stalled = reads.stalled(limits.client_stall);
    tokio::pin!(stalled);
    let mut closing = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "connection failed");
                }
                return;
            }
            true = idle.as_mut(), if !first_request.is_cancelled() => return,
            () = stalled.as_mut() => {
                tracing::debug!(%peer, "a client does not read its answer");
                return;
            }
            () = wait_for_either(&responded, &closed), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn wait_for_either(first: &CancellationToken, second: &CancellationToken) {
    tokio::select! {
        () = first.cancelled() => {}
        () = second.cancelled() => {}
    }
}
