//! The connection of a client as hyper writes to it. What hyper has taken of an answer lies in its
//! buffers until the client reads, also after the answer's body has ended: until the kernel has it, its
//! bytes are those of a request.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::held_bytes::{ByteReservation, HeldBytes, ShareUsed};
use crate::service_key::ServiceKey;

/// What an answer takes while its client does not read, in addition to what a request takes: 64 KiB
/// and a chunk of 32 KiB that hyper has taken, and 32 KiB of the replica's connection.
const UNREAD_BYTES: usize = 128 << 10;

/// What is written to one client. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ClientWrites(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// What all clients do not read.
    all_unread: HeldBytes,
    service: Arc<ServiceKey>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The requests whose answers have begun and not ended.
    open: usize,
    /// The bytes of requests whose answers have ended, and may not be written as a whole.
    ended: Vec<ByteReservation>,
    /// The bytes of what the client does not read.
    unread: Option<ByteReservation>,
    /// Some answers go to streams of HTTP/2.
    has_streams: bool,
    /// Something was written since the last flush.
    has_written: bool,
    /// Since when the client has taken nothing of what is to be written.
    blocked_since: Option<Instant>,
    /// It was cut off, as there was no room for what it does not read.
    is_cut_off: bool,
}

impl ClientWrites {
    /// Nothing is written yet to a client of this service.
    pub(crate) fn new(all_unread: HeldBytes, service: Arc<ServiceKey>) -> Self {
        Self(Arc::new(Shared {
            all_unread,
            service,
            state: Mutex::default(),
        }))
    }

    /// An answer has ended: the bytes of its request count until all is written.
    fn end(&self, room: Option<ByteReservation>) {
        let mut state = self.lock();
        state.open -= 1;
        state.ended.extend(room);
    }

    /// Whether the connection was cut off because its namespace has no room for what the client does
    /// not read.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.lock().is_cut_off
    }

    /// Ends once the client has taken nothing of what is to be written for `limit`.
    pub(crate) async fn stalled(&self, limit: Duration) {
        loop {
            let now = Instant::now();
            let since = self.lock().blocked_since.unwrap_or(now);
            if since + limit <= now {
                return;
            }
            tokio::time::sleep_until(since + limit).await;
        }
    }

    /// Notes what came of an attempt to write, and cuts a client off that does not read where its
    /// namespace has no room for that.
    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        if written.is_ready() {
            state.blocked_since = None;
            state.has_written = true;
            return written;
        }
        state.blocked_since.get_or_insert_with(Instant::now);
        match self.count_unread(&mut state) {
            Ok(()) => Poll::Pending,
            Err(share) => {
                state.is_cut_off = true;
                Poll::Ready(Err(cut_off(share)))
            }
        }
    }

    /// Counts what hyper has of each answer.
    fn count_unread(&self, state: &mut State) -> Result<(), ShareUsed> {
        let answers = (state.open + state.ended.len()).max(1);
        let unread = match &mut state.unread {
            Some(unread) => unread,
            unread => unread.insert(self.0.all_unread.reserve(&self.0.service.0, 0)?),
        };
        unread.grow((answers * UNREAD_BYTES).saturating_sub(unread.bytes()))
    }

    /// All that was written is with the kernel. With HTTP/1 that is all there was to write. With HTTP/2 each
    /// frame is flushed before the next one is taken, so nothing waits only if nothing was written since
    /// the flush before; another one is asked for.
    fn flushed(&self, context: &Context<'_>) {
        let mut state = self.lock();
        state.blocked_since = None;
        let has_written = std::mem::take(&mut state.has_written);
        if state.has_streams && has_written {
            if state.unread.is_some() || !state.ended.is_empty() {
                context.waker().wake_by_ref();
            }
            return;
        }
        state.unread = None;
        state.ended.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        let state = &self.0.state;
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut_off(share: ShareUsed) -> io::Error {
    io::Error::other(format!(
        "the client does not read its answer, as others do not: {share}"
    ))
}

/// A client's connection, as hyper reads and writes it.
#[derive(Debug)]
pub(crate) struct ClientStream {
    stream: TokioIo<TcpStream>,
    writes: ClientWrites,
}

impl ClientStream {
    pub(crate) fn new(stream: TcpStream, writes: ClientWrites) -> Self {
        let stream = TokioIo::new(stream);
        Self { stream, writes }
    }
}

impl Read for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.writes.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.writes.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.writes.flushed(context);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The body of a response. The request's bytes are counted until it is written to its client.
#[derive(Debug)]
pub(crate) struct CountedBody<B> {
    body: B,
    room: Option<ByteReservation>,
    writes: ClientWrites,
    is_stream: bool,
    /// The last byte of the chunk before.
    last_byte: Option<Bytes>,
}

impl<B> CountedBody<B> {
    /// `is_stream` says that the answer goes to a stream of HTTP/2.
    ///
    /// A stream's task ends once it has handed on its last chunk, of which the client need have room for
    /// no more than a byte, and nothing says when the rest is written. But each chunk waits until there is
    /// room for a byte behind all before it. So the last byte of each goes alone: when the body has
    /// ended, its client has room for all but a byte of it.
    pub(crate) fn new(
        body: B,
        room: Option<ByteReservation>,
        writes: ClientWrites,
        is_stream: bool,
    ) -> Self {
        let mut state = writes.lock();
        state.open += 1;
        state.has_streams |= is_stream;
        drop(state);
        Self {
            body,
            room,
            writes,
            is_stream,
            last_byte: None,
        }
    }
}

impl<B> Drop for CountedBody<B> {
    fn drop(&mut self) {
        self.writes.end(self.room.take());
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for CountedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(last_byte) = self.last_byte.take() {
            return Poll::Ready(Some(Ok(Frame::data(last_byte))));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        let frame = frame.map(|frame| {
            frame.map(|frame| match self.is_stream {
                true => frame.map_data(|mut chunk| {
                    if chunk.len() > 1 {
                        self.last_byte = Some(chunk.split_off(chunk.len() - 1));
                    }
                    chunk
                }),
                false => frame,
            })
        });
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.last_byte.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut size = self.body.size_hint();
        let more = self.last_byte.as_ref().map_or(0, |_| 1);
        if let Some(upper) = size.upper() {
            size.set_upper(upper + more);
        }
        size.set_lower(size.lower() + more);
        size
    }
}
