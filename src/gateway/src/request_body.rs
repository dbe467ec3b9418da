//! Request bodies are read before a request is held, with limits on their number, bytes and time. Small
//! ones are also read before a replica that is ready gets them; larger ones are streamed to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::held_bytes::{ByteReservation, HeldBytes};
use crate::refusal::Refusal;
use crate::service_key::ServiceKey;

/// The most bytes of one body that is held.
const MAX_BODY_BYTES: usize = 16 << 20;
/// The most bytes of a body that is read before a ready replica gets it.
const MAX_READ_AHEAD: u64 = 64 << 10;
/// The most bytes of all requests together: bodies, heads, connections and streams. Half of the
/// memory that the chart gives a gateway; the rest is for what is not counted.
const MAX_HELD_BYTES: usize = 512 << 20;
/// What clients do not read of their answers takes as much at most. It takes nothing of the share that requests
/// have: an answer that has begun is not to be cut off because others wait.
const MAX_UNREAD_BYTES: usize = 128 << 20;
/// What the name and the value of a trailer take in addition to their text.
const TRAILER_BYTES: usize = 64;
/// A body may take as many times as long as a client may send nothing. So a client that sends a byte
/// now and then has its room for two minutes, not for as long as the service lets requests wait.
const BODY_TIMEOUT_FACTOR: u32 = 12;
/// The rest of a refused body is read for this long. Few clients read a response before they have
/// sent everything, and a connection that is closed with bytes unread is reset, together with the
/// response.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads bodies, and counts those of all services. Clones share the counts.
#[derive(Debug, Clone)]
pub(crate) struct BodyReader {
    /// The number of bodies of each service that are being read.
    reading: Arc<Mutex<BTreeMap<ServiceKey, usize>>>,
    held_bytes: HeldBytes,
    unread_bytes: HeldBytes,
    idle_timeout: Duration,
}

impl BodyReader {
    /// No bodies yet. A client that sends nothing for `idle_timeout` is given up.
    pub(crate) fn new(idle_timeout: Duration) -> Self {
        Self {
            reading: Arc::default(),
            held_bytes: HeldBytes::new(MAX_HELD_BYTES),
            unread_bytes: HeldBytes::new(MAX_UNREAD_BYTES),
            idle_timeout,
        }
    }

    /// The bytes of all requests.
    pub(crate) fn held_bytes(&self) -> &HeldBytes {
        &self.held_bytes
    }

    /// The bytes of all answers that clients do not read.
    pub(crate) fn unread_bytes(&self) -> &HeldBytes {
        &self.unread_bytes
    }

    /// Reads a body until `deadline`, unless `max_reads` bodies of the service are being read
    /// already.
    pub(crate) async fn read(
        &self,
        service: &ServiceKey,
        body: &mut Incoming,
        max_reads: usize,
        deadline: Instant,
    ) -> Result<BufferedBody, Refusal> {
        if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
            return Err(Refusal::body_too_large());
        }
        let _slot = self
            .read_slot(service, max_reads)
            .ok_or_else(Refusal::queue_full)?;
        let share_used = Refusal::share_used;
        let mut reservation = self.held_bytes.reserve(&service.0, 0).map_err(share_used)?;
        let (mut bytes, mut counted, mut trailers) = (BytesMut::new(), 0, None);
        let deadline = deadline.min(Instant::now() + self.idle_timeout * BODY_TIMEOUT_FACTOR);
        loop {
            let frame_deadline = deadline.min(Instant::now() + self.idle_timeout);
            let frame = tokio::time::timeout_at(frame_deadline, body.frame()).await;
            let Some(frame) = frame.map_err(|_| Refusal::body_timeout())? else {
                break;
            };
            let frame = frame.map_err(Refusal::body_incomplete)?;
            let data = match frame.into_data() {
                Ok(data) => data,
                Err(frame) => {
                    if let Ok(fields) = frame.into_trailers() {
                        reservation
                            .grow(trailer_bytes(&fields))
                            .map_err(share_used)?;
                        trailers = Some(fields);
                    }
                    continue;
                }
            };
            if bytes.len() + data.len() > MAX_BODY_BYTES {
                return Err(Refusal::body_too_large());
            }
            bytes.extend_from_slice(&data);
            // it grows by more than what came
            let more = bytes.capacity().saturating_sub(counted);
            reservation.grow(more).map_err(share_used)?;
            counted += more;
        }
        Ok(BufferedBody {
            bytes: bytes.freeze(),
            trailers,
            _reservation: reservation,
        })
    }

    /// Counts a body of the service as being read; `None` if `max_reads` are being read already.
    fn read_slot(&self, service: &ServiceKey, max_reads: usize) -> Option<ReadSlot> {
        let mut all = self.lock();
        let reading = all.get(service).copied().unwrap_or(0);
        if reading >= max_reads {
            return None;
        }
        all.insert(service.clone(), reading + 1);
        Some(ReadSlot(self.clone(), service.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServiceKey, usize>> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What trailers take.
fn trailer_bytes(trailers: &HeaderMap) -> usize {
    let bytes = |(name, value): (&HeaderName, &HeaderValue)| {
        name.as_str().len() + value.len() + TRAILER_BYTES
    };
    trailers.iter().map(bytes).sum()
}

/// Whether a body is read before a ready replica gets it, so that it can be sent again: it is small,
/// and its client says so.
pub(crate) fn is_read_ahead(body: &Incoming) -> bool {
    let length = body.size_hint().exact();
    body.is_end_stream() || length.is_some_and(|length| length <= MAX_READ_AHEAD)
}

/// Reads and drops the rest of a body, for a limited time. Returns whether it came to its end.
pub(crate) async fn discard(mut body: Incoming) -> bool {
    let remaining = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    let ended = tokio::time::timeout(DISCARD_TIMEOUT, remaining).await;
    ended.unwrap_or(false)
}

/// A body that was read. Its bytes count until it is dropped.
#[derive(Debug)]
pub(crate) struct BufferedBody {
    pub(crate) bytes: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
    _reservation: ByteReservation,
}

/// Counts one body of a service as being read until it is dropped.
#[derive(Debug)]
struct ReadSlot(BodyReader, ServiceKey);

impl Drop for ReadSlot {
    fn drop(&mut self) {
        let mut all = self.0.lock();
        if let Some(reading) = all.get_mut(&self.1) {
            *reading -= 1;
            if *reading == 0 {
                all.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_that_are_being_read_are_bounded_in_number() {
        let reader = BodyReader::new(Duration::ZERO);
        let chat = ("ns".to_owned(), "chat".to_owned());
        let first = reader.read_slot(&chat, 1);
        assert!(first.is_some() && reader.read_slot(&chat, 1).is_none());
        drop(first);
        assert!(reader.read_slot(&chat, 1).is_some());
        assert!(reader.lock().is_empty());
    }
}
