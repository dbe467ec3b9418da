//! The answer as it goes to the client, chunk by chunk, and how long a client may take to read it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::balancer::ReplicaGuard;
use crate::demand::InFlightGuard;
use crate::upstream;

/// The requests on one client's connection, and how long their answers have waited for the client to
/// read. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientReads(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Since when each answer has waited for the client.
    unread_since: BTreeMap<u64, Instant>,
    next_id: u64,
    /// Requests that have no complete answer yet.
    open: usize,
    /// Since when all answers have been complete, if there was one. The client may not have read the
    /// rest of the last one.
    complete_since: Option<Instant>,
}

impl ClientReads {
    /// Counts a request until the guard is dropped.
    pub(crate) fn begin(&self) -> ClientRead {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.open += 1;
        state.complete_since = None;
        ClientRead {
            reads: self.clone(),
            id,
        }
    }

    /// Ends once a part of an answer has waited for the client for `limit`.
    pub(crate) async fn stalled(&self, limit: Duration) {
        loop {
            let now = Instant::now();
            let due = self.lock().oldest().unwrap_or(now) + limit;
            if due <= now {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn oldest(&self) -> Option<Instant> {
        let unread = self.unread_since.values().copied();
        unread.chain(self.complete_since).min()
    }
}

/// One request, until its answer is complete.
#[derive(Debug)]
pub(crate) struct ClientRead {
    reads: ClientReads,
    id: u64,
}

impl ClientRead {
    /// The client has been given a part of the answer, and must read it before it gets more.
    fn is_due(&self) {
        let mut state = self.reads.lock();
        state.unread_since.insert(self.id, Instant::now());
    }

    /// The client has room for more.
    fn is_done(&self) {
        self.reads.lock().unread_since.remove(&self.id);
    }
}

impl Drop for ClientRead {
    fn drop(&mut self) {
        let mut state = self.reads.lock();
        state.unread_since.remove(&self.id);
        state.open -= 1;
        if state.open == 0 {
            state.complete_since = Some(Instant::now());
        }
    }
}

/// The response as it goes to the client; `replica` and `in_flight` count it until its body ends.
pub(crate) fn client_response(
    response: Response<Incoming>,
    replica: ReplicaGuard,
    in_flight: Option<InFlightGuard>,
    read: ClientRead,
) -> Response<StreamedBody> {
    let (mut parts, body) = response.into_parts();
    parts.headers = upstream::end_to_end(parts.headers);
    parts.version = Version::default();
    read.is_due();
    Response::from_parts(
        parts,
        StreamedBody {
            body,
            read,
            _replica: replica,
            _in_flight: in_flight,
        },
    )
}

/// The body of a response, forwarded chunk by chunk. The request counts as in flight until it ends.
#[derive(Debug)]
pub(crate) struct StreamedBody {
    body: Incoming,
    read: ClientRead,
    _replica: ReplicaGuard,
    _in_flight: Option<InFlightGuard>,
}

impl Body for StreamedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // whoever asks for a frame has room for it
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(_))) => self.read.is_due(),
            _ => self.read.is_done(),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
