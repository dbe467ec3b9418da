//! Request bodies are read before a request is held, with limits on their number, bytes and time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::refusal::Refusal;
use crate::route::ServiceKey;

/// The most bytes of one body.
const MAX_BODY_BYTES: usize = 16 << 20;
/// The most bytes of all bodies together.
const MAX_TOTAL_BYTES: usize = 256 << 20;
/// The most bytes of one service's bodies, so that other services have room.
const MAX_SERVICE_BYTES: usize = 128 << 20;
/// The rest of a refused body is read for this long. Few clients read a response before they have
/// sent everything, and a connection that is closed with bytes unread is reset, together with the
/// response.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// The bodies of one service.
#[derive(Debug, Default)]
struct Usage {
    /// The number of bodies that are being read.
    reading: usize,
    /// Bytes of bodies that are being read or are held.
    bytes: usize,
}

/// Reads bodies, and counts those of all services. Clones share the counts.
#[derive(Debug, Clone)]
pub(crate) struct BodyReader {
    usage: Arc<Mutex<BTreeMap<ServiceKey, Usage>>>,
    idle_timeout: Duration,
}

impl BodyReader {
    /// No bodies yet. A client that sends nothing for `idle_timeout` is given up.
    pub(crate) fn new(idle_timeout: Duration) -> Self {
        Self {
            usage: Arc::default(),
            idle_timeout,
        }
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
        let mut reservation = Reservation {
            reader: self.clone(),
            service: service.clone(),
            bytes: 0,
        };
        let _slot = reservation
            .read_slot(max_reads)
            .ok_or_else(Refusal::queue_full)?;
        let mut bytes = BytesMut::new();
        loop {
            let frame_deadline = deadline.min(Instant::now() + self.idle_timeout);
            let frame = tokio::time::timeout_at(frame_deadline, body.frame()).await;
            let Some(frame) = frame.map_err(|_| Refusal::body_timeout())? else {
                break;
            };
            let frame = frame.map_err(Refusal::body_incomplete)?;
            bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
            reservation.grow(bytes.len())?;
        }
        Ok(BufferedBody {
            bytes: bytes.freeze(),
            _reservation: reservation,
        })
    }

    fn update<T>(&self, service: &ServiceKey, update: impl FnOnce(&mut Usage, usize) -> T) -> T {
        let mut all = self.usage.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = all.values().map(|usage| usage.bytes).sum();
        let usage = all.entry(service.clone()).or_default();
        let value = update(usage, sum);
        if (usage.reading, usage.bytes) == (0, 0) {
            all.remove(service);
        }
        value
    }

    /// True if no body is being read or held.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.usage
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }
}

/// Reads and drops the rest of a body, for a limited time.
pub(crate) async fn discard(mut body: Incoming) {
    let remaining = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, remaining).await;
}

/// A body that was read. Its bytes count until it is dropped.
#[derive(Debug)]
pub(crate) struct BufferedBody {
    pub(crate) bytes: Bytes,
    _reservation: Reservation,
}

/// The bytes of one body, counted until this is dropped.
#[derive(Debug)]
struct Reservation {
    reader: BodyReader,
    service: ServiceKey,
    bytes: usize,
}

impl Reservation {
    fn read_slot(&self, max_reads: usize) -> Option<ReadSlot> {
        let has_room = self.reader.update(&self.service, |usage, _| {
            let has_room = usage.reading < max_reads;
            usage.reading += usize::from(has_room);
            has_room
        });
        has_room.then(|| ReadSlot(self.reader.clone(), self.service.clone()))
    }

    fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        if bytes > MAX_BODY_BYTES {
            return Err(Refusal::body_too_large());
        }
        let more = bytes - self.bytes;
        self.reader.update(&self.service, |usage, all| {
            if usage.bytes + more > MAX_SERVICE_BYTES || all + more > MAX_TOTAL_BYTES {
                return Err(Refusal::queue_full());
            }
            usage.bytes += more;
            Ok(())
        })?;
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.reader
            .update(&self.service, |usage, _| usage.bytes -= self.bytes);
    }
}

/// Counts one body of a service as being read until it is dropped.
#[derive(Debug)]
struct ReadSlot(BodyReader, ServiceKey);

impl Drop for ReadSlot {
    fn drop(&mut self) {
        self.0.update(&self.1, |usage, _| usage.reading -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reservation(reader: &BodyReader, name: &str) -> Reservation {
        Reservation {
            reader: reader.clone(),
            service: ("ns".into(), name.into()),
            bytes: 0,
        }
    }

    #[test]
    fn one_service_cannot_take_the_room_of_all() {
        let reader = BodyReader::new(Duration::ZERO);
        let fill = |name: &str| {
            let mut reservations = Vec::new();
            loop {
                let mut next = reservation(&reader, name);
                if next.grow(MAX_BODY_BYTES).is_err() {
                    return reservations;
                }
                reservations.push(next);
            }
        };
        let (chat, code) = (fill("chat"), fill("code"));
        assert_eq!((chat.len(), code.len()), (8, 8));
        assert!(
            reservation(&reader, "third").grow(1).is_err(),
            "all of it is taken"
        );
        drop((chat, code));
        assert!(reader.is_idle());
    }

    #[test]
    fn bodies_that_are_being_read_are_bounded_in_number() {
        let reader = BodyReader::new(Duration::ZERO);
        let chat = reservation(&reader, "chat");
        let first = chat.read_slot(1);
        assert!(first.is_some() && chat.read_slot(1).is_none());
        drop(first);
        assert!(chat.read_slot(1).is_some());
    }
}
