//! The gateway's listeners: one for each service's port, bound and closed as slices come and go.

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

use crate::request::{Forwarder, keep};
use crate::route::Key;

/// While a service has as many connections as it may, the next wait in the kernel; it is looked again this often.
const FULL_PAUSE: Duration = Duration::from_millis(50);
/// A request's head may have this many bytes.
const MAX_HEAD: u32 = 64 << 10;
/// HTTP/2 clients are asked this often whether they live, and have as long to answer.
const PING: Duration = Duration::from_secs(20);
/// What is refused at the end has this long to reach its client.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The listeners.
#[derive(Debug)]
pub(crate) struct Listeners {
    forwarder: Forwarder,
    open: BTreeMap<u16, (Key, CancellationToken)>,
    /// Ports that could not be opened.
    missing: BTreeSet<u16>,
    connections: TaskTracker,
}

impl Listeners {
    /// None yet.
    pub(crate) fn new(forwarder: Forwarder) -> Self {
        Self {
            forwarder,
            open: BTreeMap::new(),
            missing: BTreeSet::new(),
            connections: TaskTracker::new(),
        }
    }

    /// Opens and closes listeners until they are those of `ports`. Returns false if one could not be opened; the others serve.
    pub(crate) async fn follow(&mut self, ports: BTreeMap<u16, Key>) -> bool {
        self.open.retain(|port, (service, closed)| {
            let stays = ports.get(port) == Some(service);
            if !stays {
                tracing::info!(port, namespace = service.0, name = service.1, "closed");
                closed.cancel();
            }
            stays
        });
        self.missing.retain(|port| ports.contains_key(port));
        for (port, service) in ports {
            if self.open.contains_key(&port) {
                continue;
            }
            match listen(port).await {
                Ok(listener) => {
                    self.missing.remove(&port);
                    tracing::info!(port, namespace = service.0, name = service.1, "listening");
                    let closed = CancellationToken::new();
                    self.open.insert(port, (service.clone(), closed.clone()));
                    let (forwarder, connections) =
                        (self.forwarder.clone(), self.connections.clone());
                    self.connections.spawn(accept(
                        listener,
                        service,
                        forwarder,
                        connections,
                        closed,
                    ));
                }
                Err(error) => {
                    if self.missing.insert(port) {
                        let (namespace, name) = service;
                        tracing::error!(port, namespace, name, %error, "cannot listen; trying again");
                    }
                }
            }
        }
        let missing = i64::try_from(self.missing.len()).unwrap_or(i64::MAX);
        self.forwarder.meters().closed_ports.set(missing);
        self.missing.is_empty()
    }

    /// Closes all listeners and waits until nothing is held or in flight. What still waits at `end` is refused.
    pub(crate) async fn close(self, end: Instant) {
        self.open.values().for_each(|(_, closed)| closed.cancel());
        self.connections.close();
        if tokio::time::timeout_at(end, self.connections.wait())
            .await
            .is_ok()
        {
            return;
        }
        self.forwarder.leave();
        if tokio::time::timeout(LAST_WORDS, self.connections.wait())
            .await
            .is_err()
        {
            let connections = self.connections.len();
            tracing::warn!(
                connections,
                "answers break off: the termination grace is over"
            );
        }
    }
}

async fn accept(
    mut listener: TcpListener,
    service: Key,
    forwarder: Forwarder,
    connections: TaskTracker,
    closed: CancellationToken,
) {
    let places = Arc::new(());
    loop {
        let accepted = async {
            while Arc::strong_count(&places) > forwarder.room(&service) {
                tokio::time::sleep(FULL_PAUSE).await;
            }
            // logs what fails, for want of file descriptors mostly, pauses and goes on
            axum::serve::Listener::accept(&mut listener).await
        };
        let (stream, peer) = tokio::select! {
            () = closed.cancelled() => return,
            accepted = accepted => accepted,
        };
        let place = Arc::clone(&places);
        let conversation = converse(
            stream,
            peer,
            service.clone(),
            forwarder.clone(),
            closed.clone(),
        );
        connections.spawn(async move {
            conversation.await;
            drop(place);
        });
    }
}

/// Serves one connection. After its first answer it is closed politely, so that the client's next one goes through the Service.
async fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    service: Key,
    forwarder: Forwarder,
    closed: CancellationToken,
) {
    keep(&stream);
    let silence = forwarder.silence();
    let (begun, answered) = (CancellationToken::new(), CancellationToken::new());
    let (begins, after) = (begun.clone(), answered.clone());
    let handle = service_fn(move |request| {
        begins.cancel();
        let (forwarder, service, answered) = (forwarder.clone(), service.clone(), answered.clone());
        async move {
            let answer = forwarder.answer(service, peer, request).await;
            answered.cancel();
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(silence)
        .max_buf_size(MAX_HEAD as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_header_list_size(MAX_HEAD);
    let connection = builder.serve_connection(TokioIo::new(stream), handle);
    tokio::pin!(connection);
    let silent = async {
        tokio::time::timeout(silence, begun.cancelled())
            .await
            .is_err()
    };
    tokio::pin!(silent);
    let mut leaving = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "connection broke");
                }
                return;
            }
            true = silent.as_mut(), if !begun.is_cancelled() => return,
            () = wait_for_either(&after, &closed), if !leaving => {
                leaving = true;
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
