//! The memory of requests that are held or in flight: one bound for all of them, shared by namespaces.
//!
//! A namespace may hold no more than remains free for all others. So one alone has half, two have a
//! third each, and however many there are, the next one finds room.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that are held, by namespace. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct HeldBytes {
    counts: Arc<Mutex<Counts>>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    namespaces: BTreeMap<String, usize>,
}

/// A namespace holds as much as remains for all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShareUsed {
    held: usize,
    free: usize,
    limit: usize,
}

impl fmt::Display for ShareUsed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = |bytes: usize| bytes >> 10;
        write!(
            formatter,
            "requests of this namespace hold {} KiB of this gateway, and {} of {} KiB are free: a \
             namespace may not hold more than remains for all others",
            kib(self.held),
            kib(self.free),
            kib(self.limit)
        )
    }
}

impl HeldBytes {
    /// Nothing is held; all namespaces together may hold `limit`.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            counts: Arc::default(),
            limit,
        }
    }

    /// Counts bytes of a namespace until the reservation is dropped.
    ///
    /// # Errors
    /// They are more than the namespace's share.
    pub(crate) fn reserve(
        &self,
        namespace: &str,
        bytes: usize,
    ) -> Result<ByteReservation, ShareUsed> {
        let mut reservation = ByteReservation {
            held: self.clone(),
            namespace: namespace.to_owned(),
            bytes: 0,
        };
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    /// All that is held.
    #[cfg(test)]
    pub(crate) fn total(&self) -> usize {
        self.lock().total
    }

    /// True if nothing is held.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().total == 0
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of a namespace, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct ByteReservation {
    held: HeldBytes,
    namespace: String,
    bytes: usize,
}

impl ByteReservation {
    /// The bytes that it counts.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Counts this many bytes more.
    ///
    /// # Errors
    /// They are more than the namespace's share; the reservation stays as it is.
    pub(crate) fn grow(&mut self, more: usize) -> Result<(), ShareUsed> {
        let mut counts = self.held.lock();
        let limit = self.held.limit;
        let held = counts.namespaces.get(&self.namespace).copied().unwrap_or(0);
        let free = limit.saturating_sub(counts.total);
        if held.saturating_add(more) > free.saturating_sub(more) {
            return Err(ShareUsed { held, free, limit });
        }
        counts.total += more;
        counts
            .namespaces
            .insert(self.namespace.clone(), held + more);
        self.bytes += more;
        Ok(())
    }
}

impl Drop for ByteReservation {
    fn drop(&mut self) {
        let mut counts = self.held.lock();
        counts.total -= self.bytes;
        if let Some(held) = counts.namespaces.get_mut(&self.namespace) {
            *held -= self.bytes;
            if *held == 0 {
                counts.namespaces.remove(&self.namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes all that a namespace may have, byte by byte.
    fn fill(held: &HeldBytes, namespace: &str) -> ByteReservation {
        let mut reservation = held.reserve(namespace, 0).unwrap();
        while reservation.grow(1).is_ok() {}
        reservation
    }

    #[test]
    fn however_many_namespaces_hold_what_they_may_the_next_finds_room() {
        let held = HeldBytes::new(1 << 10);
        let mut all = Vec::new();
        for (number, share) in [512, 256, 128, 64, 32].into_iter().enumerate() {
            let reservation = fill(&held, &number.to_string());
            assert_eq!(reservation.bytes, share);
            all.push(reservation);
        }
        let refused = held.reserve("0", 1).unwrap_err();
        assert_eq!((refused.held, refused.free, refused.limit), (512, 32, 1024));
        all.clear();
        assert!(held.is_empty());
    }

    #[test]
    fn what_does_not_fit_is_not_counted() {
        let held = HeldBytes::new(100);
        let mut reservation = held.reserve("ns", 40).unwrap();
        assert!(reservation.grow(11).is_err());
        assert!(reservation.grow(10).is_ok());
        drop(reservation);
        assert!(held.reserve("ns", 51).is_err());
        assert!(held.is_empty());
    }
}
