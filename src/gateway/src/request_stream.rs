//! The body of a request on its way to a replica: read before, or streamed from the client.
//!
//! A streamed body is read as fast as the replica takes it, and not kept. So it has no bound in
//! bytes, and it is sent once: before a part of it was read, another replica may get the request, and
//! after that none.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::refusal::Refusal;

/// A body that is streamed from the client. Clones are the same body.
#[derive(Debug, Clone)]
pub(crate) struct RequestStream(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// `None` once it was taken back.
    body: Option<Incoming>,
    is_started: bool,
    /// The replica waits for the client.
    awaits_client: bool,
    /// When the replica last took a part of it, or asked for one.
    last_progress: Instant,
    /// Why the client's body ended before its end.
    failure: Option<Refusal>,
    idle_timeout: Duration,
    /// The time at which the client has sent nothing for too long, while it is waited for.
    idle_ends: Option<Pin<Box<Sleep>>>,
}

impl RequestStream {
    /// A client that sends nothing for `idle_timeout` while the replica waits is given up.
    pub(crate) fn new(body: Incoming, idle_timeout: Duration) -> Self {
        Self(Arc::new(Mutex::new(State {
            awaits_client: false,
            body: Some(body),
            is_started: false,
            last_progress: Instant::now(),
            failure: None,
            idle_timeout,
            idle_ends: None,
        })))
    }

    /// Whether a part of it may have been sent.
    pub(crate) fn is_started(&self) -> bool {
        self.lock().is_started
    }

    /// What the client still sends.
    pub(crate) fn take_rest(&self) -> Option<Incoming> {
        self.lock().body.take()
    }

    /// Why the client's body ended before its end, if it did.
    pub(crate) fn failure(&self) -> Option<Refusal> {
        self.lock().failure.clone()
    }

    /// Ends once the replica has had all of it for `limit`, or took nothing of it for so long.
    pub(crate) async fn answer_overdue(&self, limit: Duration) {
        self.lock().last_progress = Instant::now();
        loop {
            let due = {
                let (now, state) = (Instant::now(), self.lock());
                let due = match state.awaits_client {
                    true => now + limit,
                    false => state.last_progress + limit,
                };
                if due <= now {
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
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        self.is_started = true;
        let Some(body) = &mut self.body else {
            return Poll::Ready(Some(Err(RequestBodyError)));
        };
        match Pin::new(body).poll_frame(context) {
            Poll::Ready(frame) => {
                self.last_progress = Instant::now();
                (self.idle_ends, self.awaits_client) = (None, false);
                let frame = frame.transpose().map_err(|error| {
                    self.failure = Some(Refusal::body_incomplete(error));
                    RequestBodyError
                });
                Poll::Ready(frame.transpose())
            }
            Poll::Pending => {
                self.awaits_client = true;
                let timeout = self.idle_timeout;
                let ends = self
                    .idle_ends
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
                std::task::ready!(ends.as_mut().poll(context));
                self.failure = Some(Refusal::body_timeout());
                Poll::Ready(Some(Err(RequestBodyError)))
            }
        }
    }
}

/// The client did not send all of its body: [`RequestStream::failure`] says why.
#[derive(Debug, thiserror::Error)]
#[error("the body of the request broke off")]
pub(crate) struct RequestBodyError;

/// The body of a request as it goes to a replica.
#[derive(Debug)]
pub(crate) enum UpstreamBody {
    /// It was read before.
    Buffered {
        bytes: Option<Bytes>,
        trailers: Option<HeaderMap>,
    },
    Streamed(RequestStream),
}

impl UpstreamBody {
    /// A body that was read before.
    pub(crate) fn buffered(bytes: &Bytes, trailers: Option<&HeaderMap>) -> Self {
        Self::Buffered {
            bytes: Some(bytes.clone()).filter(|bytes| !bytes.is_empty()),
            trailers: trailers.cloned(),
        }
    }

    /// Whether trailers of it are known.
    pub(crate) fn has_trailers(&self) -> bool {
        matches!(
            self,
            Self::Buffered {
                trailers: Some(_),
                ..
            }
        )
    }

    /// The body, if it is streamed.
    pub(crate) fn stream(&self) -> Option<&RequestStream> {
        match self {
            Self::Buffered { .. } => None,
            Self::Streamed(stream) => Some(stream),
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        match &mut *self {
            Self::Buffered { bytes, trailers } => {
                let data = bytes.take().map(Frame::data);
                let frame = data.or_else(|| trailers.take().map(Frame::trailers));
                Poll::Ready(frame.map(Ok))
            }
            Self::Streamed(stream) => stream.lock().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Buffered { bytes, trailers } => bytes.is_none() && trailers.is_none(),
            Self::Streamed(stream) => {
                let state = stream.lock();
                state.body.as_ref().is_none_or(Body::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Buffered { bytes, trailers } => {
                let length = bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
                let mut hint = SizeHint::with_exact(length);
                if trailers.is_some() {
                    // of exact length it would have none
                    hint = SizeHint::new();
                    hint.set_lower(length);
                }
                hint
            }
            Self::Streamed(stream) => {
                let state = stream.lock();
                state
                    .body
                    .as_ref()
                    .map_or_else(SizeHint::new, Body::size_hint)
            }
        }
    }
}
