//! BodyReader: read before a request may wait, within bounds of number, bytes and time.

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

/// A body may have this many bytes.
const MAX_BODY_BYTES: usize = 16 << 20;
/// All bodies that wait may together have this many,
const MAX_TOTAL_BYTES: usize = 256 << 20;
/// and those of one service this many, so that it leaves room to the others.
const MAX_SERVICE_BYTES: usize = 128 << 20;
/// The rest of a body that is refused is read for this long: few clients read an answer before they have sent everything, and a
/// connection that is closed with bytes unread is reset, answer and all.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);

/// What a service's bodies take.
#[derive(Debug, Default)]
struct Usage {
    /// BodyReader that are being read.
    reading: usize,
    /// Bytes of these and of those that wait.
    bytes: usize,
}

/// All bodies of this gateway.
#[derive(Debug, Clone)]
pub(crate) struct BodyReader {
    taken: Arc<Mutex<BTreeMap<ServiceKey, Usage>>>,
    idle_timeout: Duration,
}

impl BodyReader {
    /// None yet. A client that sends nothing for as long as `idle_timeout` is given up.
    pub(crate) fn new(idle_timeout: Duration) -> Self {
        Self {
            taken: Arc::default(),
            idle_timeout,
        }
    }

    /// Reads a body until `deadline`, unless `most` of the service are being read.
    pub(crate) async fn read(
        &self,
        service: &ServiceKey,
        body: &mut Incoming,
        most: usize,
        deadline: Instant,
    ) -> Result<BufferedBody, Refusal> {
        if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
            return Err(Refusal::TooLarge);
        }
        let mut place = Reservation {
            bodies: self.clone(),
            service: service.clone(),
            bytes: 0,
        };
        let _reading = place.reading(most).ok_or(Refusal::QueueFull)?;
        let mut bytes = BytesMut::new();
        loop {
            let patience = deadline.min(Instant::now() + self.idle_timeout);
            let frame = tokio::time::timeout_at(patience, body.frame()).await;
            let Some(frame) = frame.map_err(|_| Refusal::BodyLate)? else {
                break;
            };
            let frame = frame.map_err(|error| Refusal::BadBody(error.to_string()))?;
            bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
            place.grow(bytes.len())?;
        }
        Ok(BufferedBody {
            bytes: bytes.freeze(),
            _place: place,
        })
    }

    fn change<T>(&self, service: &ServiceKey, change: impl FnOnce(&mut Usage, usize) -> T) -> T {
        let mut all = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = all.values().map(|taken| taken.bytes).sum();
        let taken = all.entry(service.clone()).or_default();
        let changed = change(taken, sum);
        if (taken.reading, taken.bytes) == (0, 0) {
            all.remove(service);
        }
        changed
    }

    /// No body is being read or waits.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }
}

/// Reads what is left of a body, for a while.
pub(crate) async fn discard(mut body: Incoming) {
    let rest = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, rest).await;
}

/// A body that was read, in its place until it is dropped.
#[derive(Debug)]
pub(crate) struct BufferedBody {
    /// All of it.
    pub(crate) bytes: Bytes,
    _place: Reservation,
}

/// The bytes of one body.
#[derive(Debug)]
struct Reservation {
    bodies: BodyReader,
    service: ServiceKey,
    bytes: usize,
}

impl Reservation {
    fn reading(&self, most: usize) -> Option<ReadSlot> {
        let room = self.bodies.change(&self.service, |taken, _| {
            let room = taken.reading < most;
            taken.reading += usize::from(room);
            room
        });
        room.then(|| ReadSlot(self.bodies.clone(), self.service.clone()))
    }

    fn grow(&mut self, bytes: usize) -> Result<(), Refusal> {
        if bytes > MAX_BODY_BYTES {
            return Err(Refusal::TooLarge);
        }
        let more = bytes - self.bytes;
        self.bodies.change(&self.service, |taken, all| {
            if taken.bytes + more > MAX_SERVICE_BYTES || all + more > MAX_TOTAL_BYTES {
                return Err(Refusal::QueueFull);
            }
            taken.bytes += more;
            Ok(())
        })?;
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.bodies
            .change(&self.service, |taken, _| taken.bytes -= self.bytes);
    }
}

/// One body of the service is being read while this lives.
#[derive(Debug)]
struct ReadSlot(BodyReader, ServiceKey);

impl Drop for ReadSlot {
    fn drop(&mut self) {
        self.0.change(&self.1, |taken, _| taken.reading -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(bodies: &BodyReader, name: &str) -> Reservation {
        Reservation {
            bodies: bodies.clone(),
            service: ("ns".into(), name.into()),
            bytes: 0,
        }
    }

    #[test]
    fn one_service_cannot_take_the_room_of_all() {
        let bodies = BodyReader::new(Duration::ZERO);
        let fill = |name: &str| {
            let mut places = Vec::new();
            loop {
                let mut next = place(&bodies, name);
                if next.grow(MAX_BODY_BYTES).is_err() {
                    return places;
                }
                places.push(next);
            }
        };
        let (chat, code) = (fill("chat"), fill("code"));
        assert_eq!((chat.len(), code.len()), (8, 8));
        assert!(
            place(&bodies, "third").grow(1).is_err(),
            "all of it is taken"
        );
        drop((chat, code));
        assert!(bodies.is_idle());
    }

    #[test]
    fn bodies_that_are_being_read_are_bounded_in_number() {
        let bodies = BodyReader::new(Duration::ZERO);
        let chat = place(&bodies, "chat");
        let first = chat.reading(1);
        assert!(first.is_some() && chat.reading(1).is_none());
        drop(first);
        assert!(chat.reading(1).is_some());
    }
}
