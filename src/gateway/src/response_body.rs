//! The answer as it goes to the client, chunk by chunk: how long a client may take to read it, and how
//! long a replica may be silent in the middle of it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use tokio::time::{Instant, Sleep};

use crate::balancer::ReplicaGuard;
use crate::demand::InFlightGuard;
use crate::metrics::{CauseLabel, Metrics};
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
    /// Each answer has a stream of its own, which ends by itself.
    has_streams: bool,
    /// When a stream was reset because the client did not read it.
    last_reset: Option<Instant>,
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

    /// Ends once the client has taken nothing of the connection's answer for `limit`, or of the rest
    /// of the last one for `complete_limit`. Answers that have streams of their own end nothing but
    /// these.
    pub(crate) async fn stalled(&self, limit: Duration, complete_limit: Duration) {
        loop {
            let now = Instant::now();
            let due = self.lock().stalled_at(limit, complete_limit);
            let due = due.unwrap_or(now + limit.min(complete_limit));
            if due <= now {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }

    /// Ends once the client has taken nothing of this answer for `limit`.
    ///
    /// What one stream leaves unread may take all that its connection may have unread, so that others
    /// stand still too: they have as long again from when one of them was reset.
    async fn stream_stalled(&self, id: u64, limit: Duration) {
        loop {
            let due = {
                let (now, mut state) = (Instant::now(), self.lock());
                let due = state.stream_due(id, limit).unwrap_or(now + limit);
                if due <= now {
                    state.last_reset = Some(now);
                    return;
                }
                due
            };
            tokio::time::sleep_until(due).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn stalled_at(&self, limit: Duration, complete_limit: Duration) -> Option<Instant> {
        let unread = self.unread_since.values().filter(|_| !self.has_streams);
        let unread = unread.map(|since| *since + limit);
        let complete = self.complete_since.map(|since| since + complete_limit);
        unread.chain(complete).min()
    }

    fn stream_due(&self, id: u64, limit: Duration) -> Option<Instant> {
        let since = *self.unread_since.get(&id)?;
        let from = self.last_reset.map_or(since, |reset| reset.max(since));
        Some((from + limit).min(since + 2 * limit))
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

tokio::task_local! {
    /// The request of this task's stream, until its handler takes it.
    static STREAM_READ: Mutex<Option<ClientRead>>;
}

/// The request that this task handles, if it is one of an HTTP/2 connection.
pub(crate) fn take_stream_read() -> Option<ClientRead> {
    let take = |read: &Mutex<Option<ClientRead>>| {
        read.lock().unwrap_or_else(PoisonError::into_inner).take()
    };
    STREAM_READ.try_with(take).ok().flatten()
}

/// Runs the streams of one HTTP/2 connection, each until the client has taken nothing of its answer
/// for a while: then it is reset, and the connection's other streams go on.
#[derive(Debug, Clone)]
pub(crate) struct StreamExecutor {
    pub(crate) reads: ClientReads,
    /// How long a client may take nothing of an answer.
    pub(crate) stall_timeout: Duration,
    pub(crate) metrics: Metrics,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, stream: F) {
        let Self {
            reads,
            stall_timeout,
            metrics,
        } = self.clone();
        let read = reads.begin();
        reads.lock().has_streams = true;
        let id = read.id;
        tokio::spawn(async move {
            tokio::select! {
                () = STREAM_READ.scope(Mutex::new(Some(read)), stream) => {}
                () = reads.stream_stalled(id, stall_timeout) => {
                    // a stream that is dropped before its end is reset
                    metrics.aborted_responses.get_or_create(&CauseLabel::CLIENT_STALLED).inc();
                }
            }
        });
    }
}

/// The response as it goes to the client; `replica` and `in_flight` count it until its body ends. A
/// replica may be silent for `silence_timeout`.
pub(crate) fn client_response(
    response: Response<Incoming>,
    replica: ReplicaGuard,
    in_flight: Option<InFlightGuard>,
    read: ClientRead,
    silence_timeout: Duration,
    metrics: Metrics,
) -> Response<StreamedBody> {
    let (mut parts, body) = response.into_parts();
    parts.headers = upstream::end_to_end(parts.headers);
    parts.version = Version::default();
    read.is_due();
    let idle = ReplicaIdle {
        timeout: silence_timeout,
        ends: None,
    };
    Response::from_parts(
        parts,
        StreamedBody {
            body,
            read,
            idle,
            metrics,
            replica,
            _in_flight: in_flight,
        },
    )
}

/// The failure of an answer's body. The client's stream is reset, or its connection closed, so that it
/// does not take a part of the answer for all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the replica broke off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the replica sent nothing for {} s in the middle of its answer", .0.as_secs())]
    Silent(Duration),
}

/// How long the replica has been silent.
#[derive(Debug)]
struct ReplicaIdle {
    timeout: Duration,
    /// The time at which it has been silent for too long, while it is.
    ends: Option<Pin<Box<Sleep>>>,
}

impl ReplicaIdle {
    /// Ready once the replica has been silent for too long.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        let timeout = self.timeout;
        let ends = self
            .ends
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ends.as_mut()
            .poll(context)
            .map(|()| BodyError::Silent(timeout))
    }
}

/// The body of a response, forwarded chunk by chunk. The request counts as in flight until it ends.
#[derive(Debug)]
pub(crate) struct StreamedBody {
    body: Incoming,
    read: ClientRead,
    idle: ReplicaIdle,
    metrics: Metrics,
    replica: ReplicaGuard,
    _in_flight: Option<InFlightGuard>,
}

impl Body for StreamedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        // whoever asks for a frame has room for it
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match frame {
            Poll::Ready(Some(Ok(_))) => self.read.is_due(),
            _ => self.read.is_done(),
        }
        if frame.is_ready() {
            self.idle.ends = None;
            return frame.map_err(BodyError::Broken);
        }
        let silent = std::task::ready!(self.idle.poll(context));
        let (aborted, address) = (&self.metrics.aborted_responses, self.replica.address());
        aborted.get_or_create(&CauseLabel::REPLICA_SILENT).inc();
        tracing::debug!(%address, error = %silent, "an answer is cut off");
        Poll::Ready(Some(Err(silent)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
