//! Publishes Kubernetes Events behind what matters: a bounded queue, and a bounded rate for each
//! object, so that neither a slow API server nor a restless object delays anything or fills etcd.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::Notify;

use crate::lock::lock;
use crate::metrics::DroppedEventLabel;

/// Events that wait at most; a newer one takes the place of the oldest.
const QUEUE_LIMIT: usize = 1_024;
/// Time limit of publishing one Event.
const PUBLISH_LIMIT: Duration = Duration::from_secs(3);
/// The API server takes notes of at most 1 kB.
const NOTE_BYTES: usize = 1_000;
/// Events of one object and type that may come at once.
const BURST: u32 = 6;
/// After a burst, one object and type may have one Event in this time.
const REFILL: SignedDuration = SignedDuration::from_mins(5);
/// Above so many objects, those that have been silent are forgotten.
const REMEMBERED: usize = 1_024;

/// Takes Events without waiting, and publishes them one at a time. Clones share the queue.
#[derive(Clone)]
pub(crate) struct EventPublisher {
    shared: Arc<Shared>,
}

struct Shared {
    recorder: Recorder,
    queue: Mutex<Queue>,
    added: Notify,
    /// Events that were not published, by cause.
    dropped: Family<DroppedEventLabel, Counter>,
}

#[derive(Default)]
struct Queue {
    events: VecDeque<(ObjectReference, Event)>,
    rates: EventRates,
}

impl EventPublisher {
    /// A publisher that counts in `dropped` what it does not publish.
    pub(crate) fn new(recorder: Recorder, dropped: Family<DroppedEventLabel, Counter>) -> Self {
        let shared = Shared {
            recorder,
            queue: Mutex::default(),
            added: Notify::new(),
            dropped,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Leaves an Event about this object to be published, unless there were too many about it.
    pub(crate) fn send(&self, reference: ObjectReference, event: Event) {
        self.send_at(reference, event, Timestamp::now());
    }

    fn send_at(&self, reference: ObjectReference, mut event: Event, now: Timestamp) {
        // the recorder counts Events about equal references in a series
        let reference = ObjectReference {
            resource_version: None,
            field_path: None,
            ..reference
        };
        event.note = event.note.map(shortened);
        let mut queue = lock(&self.shared.queue);
        if !queue.rates.admit(&reference, event.type_, now) {
            self.count("rate");
            return;
        }
        if queue.events.len() >= QUEUE_LIMIT {
            queue.events.pop_front();
            self.count("queue");
        }
        queue.events.push_back((reference, event));
        drop(queue);
        self.shared.added.notify_one();
    }

    /// Publishes what is sent, for ever.
    pub(crate) async fn run(&self) {
        loop {
            self.flush().await;
            self.shared.added.notified().await;
        }
    }

    /// Publishes what waits. An Event that cannot be published is not tried again.
    pub(crate) async fn flush(&self) {
        while let Some((reference, event)) = self.pop() {
            let published = self.shared.recorder.publish(&event, &reference);
            match tokio::time::timeout(PUBLISH_LIMIT, published).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => tracing::warn!(%error, "cannot publish an event"),
                Err(_) => tracing::warn!("publishing an event got no answer"),
            }
            self.count("error");
        }
    }

    fn pop(&self) -> Option<(ObjectReference, Event)> {
        lock(&self.shared.queue).events.pop_front()
    }

    fn count(&self, cause: &'static str) {
        let label = DroppedEventLabel { cause };
        self.shared.dropped.get_or_create(&label).inc();
    }
}

/// A note that the API server takes.
fn shortened(mut note: String) -> String {
    if note.len() > NOTE_BYTES {
        let end = (0..=NOTE_BYTES - '…'.len_utf8()).rev();
        let end = end.into_iter().find(|end| note.is_char_boundary(*end));
        note.truncate(end.unwrap_or(0));
        note.push('…');
    }
    note
}

/// How many Events each object may still have: a token bucket for each object and type, so that
/// many of what is normal leave room for a warning.
#[derive(Debug, Default)]
struct EventRates {
    buckets: BTreeMap<(String, bool), Bucket>,
    /// When those that are full were forgotten.
    pruned_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// When the bucket is full again.
    full_at: Timestamp,
}

impl EventRates {
    /// Whether an Event about this object may be published at `now`; counts it if so.
    fn admit(&mut self, reference: &ObjectReference, type_: EventType, now: Timestamp) -> bool {
        let is_full = |bucket: &Bucket| bucket.full_at <= now;
        let long_ago = |at: Timestamp| now.duration_since(at).abs() >= REFILL;
        if self.buckets.len() > REMEMBERED && self.pruned_at.is_none_or(long_ago) {
            self.buckets.retain(|_, bucket| !is_full(bucket));
            self.pruned_at = Some(now);
        }
        let parts = [
            &reference.kind,
            &reference.namespace,
            &reference.name,
            &reference.uid,
        ];
        let parts = parts.map(|part| part.as_deref().unwrap_or_default());
        let key = (parts.join("/"), type_ == EventType::Warning);
        let bucket = self.buckets.entry(key).or_insert(Bucket { full_at: now });
        let whole = REFILL * i32::try_from(BURST).unwrap_or(i32::MAX);
        // after the clock was set back, the bucket is empty at worst
        let full_in = bucket.full_at.duration_since(now);
        let full_in = full_in.max(SignedDuration::ZERO).min(whole);
        let admitted = full_in + REFILL <= whole;
        let full_in = if admitted { full_in + REFILL } else { full_in };
        bucket.full_at = now.saturating_add(full_in).unwrap_or(Timestamp::MAX);
        admitted
    }
}

#[cfg(test)]
#[path = "tests/event_publisher.rs"]
mod tests;
