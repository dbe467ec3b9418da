//! The gateway's listeners: one for each service's port, bound and closed as slices come and go.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::forward::Forwarder;
use crate::route::Key;

/// Accepting failed, for want of file descriptors mostly; it is tried again after this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The listeners.
#[derive(Debug)]
pub(crate) struct Listeners {
    forwarder: Forwarder,
    open: BTreeMap<u16, (Key, CancellationToken)>,
    connections: TaskTracker,
}

impl Listeners {
    /// None yet.
    pub(crate) fn new(forwarder: Forwarder) -> Self {
        Self {
            forwarder,
            open: BTreeMap::new(),
            connections: TaskTracker::new(),
        }
    }

    /// Opens and closes listeners until they are those of `ports`. Returns false if one could not be opened.
    pub(crate) async fn follow(&mut self, ports: BTreeMap<u16, Key>) -> bool {
        self.open.retain(|port, (service, closed)| {
            let stays = ports.get(port) == Some(service);
            if !stays {
                tracing::info!(port, namespace = service.0, name = service.1, "closed");
                closed.cancel();
            }
            stays
        });
        let mut all = true;
        for (port, service) in ports {
            if self.open.contains_key(&port) {
                continue;
            }
            match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
                Ok(listener) => {
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
                    tracing::error!(port, %error, "cannot listen");
                    all = false;
                }
            }
        }
        all
    }

    /// Closes all listeners and waits until their requests are answered, at most for `limit`.
    pub(crate) async fn close(self, limit: Duration) {
        self.open.values().for_each(|(_, closed)| closed.cancel());
        self.connections.close();
        if tokio::time::timeout(limit, self.connections.wait())
            .await
            .is_err()
        {
            tracing::warn!("requests were still being answered at the end");
        }
    }
}

async fn accept(
    listener: TcpListener,
    service: Key,
    forwarder: Forwarder,
    connections: TaskTracker,
    closed: CancellationToken,
) {
    loop {
        tokio::select! {
            () = closed.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(converse(stream, peer, service.clone(), forwarder.clone(), closed.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
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
    stream.set_nodelay(true).ok();
    let answered = CancellationToken::new();
    let after = answered.clone();
    let handle = service_fn(move |request| {
        let (forwarder, service, answered) = (forwarder.clone(), service.clone(), answered.clone());
        async move {
            let answer = forwarder.answer(service, peer, request).await;
            answered.cancel();
            Ok::<_, Infallible>(answer)
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), handle);
    tokio::pin!(connection);
    let mut leaving = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "connection broke");
                }
                return;
            }
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
