//! The demand of each service: requests that are held and in flight here, and the stream that sends
//! these counts to the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bursar_signals::demand::{HEARTBEAT, MAX_CONNECT_ERROR, Message, ServiceDemand};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::service_key::ServiceKey;

/// Changes are sent at most this often; the first held request of a service is sent at once.
const COALESCE_INTERVAL: Duration = Duration::from_millis(100);

/// A replica is unreachable once no connection has succeeded for this long: another one may take the
/// request.
const UNREACHABLE_AFTER: SignedDuration = SignedDuration::from_secs(2);
/// How many requests were forwarded is told for so long after the last one: the leader hears of it with
/// the next heartbeat, and another one that begins meanwhile does too.
const FORWARDED_IS_TOLD_FOR: SignedDuration = SignedDuration::from_secs(60);
/// So long after the last try nobody knows any more.
const UNREACHABLE_FOR: SignedDuration = SignedDuration::from_secs(60);

#[derive(Debug, Default)]
struct ServiceCounts {
    held: BTreeSet<(Timestamp, u64)>,
    in_flight: u64,
    /// Requests that were forwarded so far.
    forwarded: u64,
    /// When the last of them was, while that is told.
    last_forwarded: Option<Timestamp>,
    connect_failure: Option<ConnectFailure>,
}

/// That no connection to a replica has succeeded since a time.
#[derive(Debug)]
struct ConnectFailure {
    since: Timestamp,
    /// The last try.
    last: Timestamp,
    error: String,
}

impl ConnectFailure {
    fn is_over(&self, now: Timestamp) -> bool {
        now.duration_since(self.last) >= UNREACHABLE_FOR
    }

    /// What is told of it.
    fn error(&self, now: Timestamp) -> Option<String> {
        let lasts = now.duration_since(self.since) >= UNREACHABLE_AFTER;
        (lasts && !self.is_over(now)).then(|| self.error.clone())
    }
}

impl ServiceCounts {
    fn is_empty(&self) -> bool {
        self.held.is_empty()
            && self.in_flight == 0
            && self.last_forwarded.is_none()
            && self.connect_failure.is_none()
    }
}

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<ServiceKey, ServiceCounts>,
    next_id: u64,
}

/// Numbers that grow with every change, and with every change that must be sent at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Version {
    change: u64,
    urgent: u64,
}

/// How soon subscribers are told of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tell {
    AtOnce,
    Soon,
    /// With what is told next: within a heartbeat is soon enough.
    Later,
}

/// The counts of this gateway for all services. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct DemandTracker {
    state: Arc<Mutex<State>>,
    version: Arc<watch::Sender<Version>>,
    gateway: Arc<str>,
    metrics: Metrics,
}

impl DemandTracker {
    /// No requests yet; `gateway` is the pod's UID.
    pub(crate) fn new(gateway: &str, metrics: Metrics) -> Self {
        Self {
            state: Arc::default(),
            version: Arc::new(watch::Sender::new(Version::default())),
            gateway: gateway.into(),
            metrics,
        }
    }

    /// Changes the counts. `update` returns a value, and how soon subscribers are told.
    fn update<T>(&self, update: impl FnOnce(&mut State) -> (T, Tell)) -> T {
        let (value, tell) = update(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.version.send_if_modified(|version| {
            version.change += u64::from(tell != Tell::Later);
            version.urgent += u64::from(tell == Tell::AtOnce);
            tell != Tell::Later
        });
        value
    }

    /// Counts a request as held until the guard is dropped; `None` if `max` requests are held
    /// already.
    pub(crate) fn hold(&self, service: &ServiceKey, max: u32, now: Timestamp) -> Option<HeldGuard> {
        let id = self.update(|state| {
            let counts = state.services.get(service);
            let before = counts.map_or(0, |counts| counts.held.len());
            if before >= max as usize {
                return (None, Tell::Later);
            }
            state.next_id += 1;
            let counts = state.services.entry(service.clone()).or_default();
            counts.held.insert((now, state.next_id));
            let tell = match before {
                0 => Tell::AtOnce,
                _ => Tell::Soon,
            };
            (Some(state.next_id), tell)
        })?;
        self.metrics.held.inc();
        Some(HeldGuard {
            demand: self.clone(),
            service: service.clone(),
            entry: (now, id),
        })
    }

    /// How many requests of a service are held.
    pub(crate) fn held(&self, service: &ServiceKey) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = state.services.get(service);
        counts.map_or(0, |counts| counts.held.len())
    }

    /// Notes that a ready replica of a service takes no connection, and why.
    pub(crate) fn note_connect_failure(&self, service: &ServiceKey, error: &str, now: Timestamp) {
        self.update(|state| {
            let counts = state.services.entry(service.clone()).or_default();
            let known = counts.connect_failure.as_ref();
            let known = known.filter(|known| !known.is_over(now));
            counts.connect_failure = Some(ConnectFailure {
                since: known.map_or(now, |known| known.since),
                last: now,
                error: error.chars().take(MAX_CONNECT_ERROR).collect(),
            });
            ((), Tell::Soon)
        });
    }

    /// Counts a request as in flight until the guard is dropped: a replica has taken the connection.
    pub(crate) fn count_in_flight(&self, service: &ServiceKey, now: Timestamp) -> InFlightGuard {
        self.update(|state| {
            let counts = state.services.entry(service.clone()).or_default();
            counts.in_flight += 1;
            counts.forwarded += 1;
            counts.last_forwarded = Some(now);
            let tell = match counts.connect_failure.take() {
                Some(_) => Tell::Soon,
                None => Tell::Later,
            };
            ((), tell)
        });
        self.metrics.in_flight.inc();
        InFlightGuard {
            demand: self.clone(),
            service: service.clone(),
        }
    }

    fn remove(&self, service: &ServiceKey, tell: Tell, change: impl FnOnce(&mut ServiceCounts)) {
        self.update(|state| {
            if let Some(counts) = state.services.get_mut(service) {
                change(counts);
                if counts.is_empty() {
                    state.services.remove(service);
                }
            }
            ((), tell)
        });
    }

    /// True if no request is held or in flight.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut services = state.services.values();
        services.all(|counts| counts.held.is_empty() && counts.in_flight == 0)
    }

    /// The counts as a message of the demand stream.
    pub(crate) fn message(&self, now: Timestamp) -> Message {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.services.retain(|_, counts| {
            let failure = &mut counts.connect_failure;
            failure.take_if(|failure| failure.is_over(now));
            let is_over = |at: &mut Timestamp| now.duration_since(*at) >= FORWARDED_IS_TOLD_FOR;
            counts.last_forwarded.take_if(is_over);
            !counts.is_empty()
        });
        let services = state
            .services
            .iter()
            .map(|((namespace, name), counts)| ServiceDemand {
                namespace: namespace.clone(),
                name: name.clone(),
                held: counts.held.len() as u64,
                in_flight: counts.in_flight,
                forwarded: counts.forwarded,
                first_held_at: counts.held.first().map(|(at, _)| *at),
                connect_error: counts
                    .connect_failure
                    .as_ref()
                    .and_then(|failure| failure.error(now)),
            });
        Message {
            gateway: self.gateway.to_string(),
            at: now,
            services: services.collect(),
        }
    }

    /// A subscription to the counts.
    pub(crate) fn subscribe(&self) -> Subscription {
        Subscription {
            demand: self.clone(),
            versions: self.version.subscribe(),
            last_sent: None,
        }
    }
}

/// A subscription to the counts. The first message comes at once, later ones at once when the first
/// request of a service is held, soon after other changes, and as heartbeats.
#[derive(Debug)]
pub(crate) struct Subscription {
    demand: DemandTracker,
    versions: watch::Receiver<Version>,
    last_sent: Option<(Instant, Version)>,
}

impl Subscription {
    /// Waits for the next message.
    pub(crate) async fn next(&mut self) -> Message {
        if let Some((at, last_sent)) = self.last_sent {
            let due = tokio::time::sleep_until(at + HEARTBEAT);
            tokio::pin!(due);
            loop {
                let now = *self.versions.borrow_and_update();
                let soon = at + COALESCE_INTERVAL;
                if now.urgent != last_sent.urgent
                    || (now.change != last_sent.change && Instant::now() >= soon)
                {
                    break;
                }
                let pending = now.change != last_sent.change;
                tokio::select! {
                    () = &mut due => break,
                    () = tokio::time::sleep_until(soon), if pending => break,
                    changed = self.versions.changed() => if changed.is_err() { break },
                }
            }
        }
        self.last_sent = Some((Instant::now(), *self.versions.borrow_and_update()));
        self.demand.message(Timestamp::now())
    }
}

/// Counts a request as held until it is dropped.
#[derive(Debug)]
pub(crate) struct HeldGuard {
    demand: DemandTracker,
    service: ServiceKey,
    entry: (Timestamp, u64),
}

impl Drop for HeldGuard {
    fn drop(&mut self) {
        self.demand.remove(&self.service, Tell::Soon, |counts| {
            counts.held.remove(&self.entry);
        });
        self.demand.metrics.held.dec();
    }
}

/// Counts a request as in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlightGuard {
    demand: DemandTracker,
    service: ServiceKey,
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.demand.remove(&self.service, Tell::Later, |counts| {
            counts.in_flight = counts.in_flight.saturating_sub(1)
        });
        self.demand.metrics.in_flight.dec();
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    fn demand() -> DemandTracker {
        DemandTracker::new("g", Metrics::new(&mut Registry::default()))
    }

    fn chat() -> ServiceKey {
        ("ns".into(), "chat".into())
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn no_more_than_the_limit_is_held_and_the_oldest_is_named() {
        let demand = demand();
        let first = demand.hold(&chat(), 2, at(1)).unwrap();
        let _second = demand.hold(&chat(), 2, at(2)).unwrap();
        assert!(demand.hold(&chat(), 2, at(3)).is_none());
        let _flying = demand.count_in_flight(&chat(), at(1));
        let service = demand.message(at(4)).services.remove(0);
        assert_eq!(
            (service.held, service.in_flight, service.first_held_at),
            (2, 1, Some(at(1)))
        );
        drop(first);
        assert_eq!(demand.message(at(4)).services[0].first_held_at, Some(at(2)));
    }

    #[test]
    fn a_service_without_requests_is_not_named() {
        let demand = demand();
        drop(demand.hold(&chat(), 2, at(1)));
        assert!(demand.hold(&chat(), 0, at(1)).is_none());
        assert!(demand.message(at(1)).services.is_empty() && demand.is_idle());
    }

    #[test]
    fn a_request_that_ended_between_two_messages_is_told_for_a_minute() {
        let demand = demand();
        for second in [1, 1, 2] {
            drop(demand.count_in_flight(&chat(), at(second)));
        }
        for second in [2, 61] {
            let service = demand.message(at(second)).services.remove(0);
            let counts = (service.held, service.in_flight, service.forwarded);
            assert_eq!(counts, (0, 0, 3), "at {second} s");
        }
        assert!(demand.message(at(62)).services.is_empty() && demand.is_idle());
        // one that goes on for long begins nothing anew
        let _flying = demand.count_in_flight(&chat(), at(100));
        assert_eq!(demand.message(at(500)).services[0].forwarded, 1);
    }

    #[test]
    fn why_a_replica_takes_no_connection_is_told_while_none_does_and_a_minute_longer() {
        let demand = demand();
        let other: ServiceKey = ("ns".into(), "other".into());
        let _held = demand.hold(&other, 9, at(0));
        let sent = |second: i64| {
            let services = demand.message(at(second)).services;
            let all = services.into_iter().map(|it| (it.name, it.connect_error));
            all.filter_map(|(name, error)| Some((name, error?)))
                .collect::<Vec<_>>()
        };
        let sent_of = |error: &str| [("chat".to_owned(), error.to_owned())];
        demand.note_connect_failure(&chat(), "refused", at(0));
        assert_eq!(sent(1), [], "another replica may take the request");
        demand.note_connect_failure(&chat(), "timeout", at(2));
        assert_eq!(sent(2), sent_of("timeout"));
        assert_eq!(
            sent(61),
            sent_of("timeout"),
            "also once nobody asks any more"
        );
        assert_eq!(sent(62), []);
        assert_eq!(demand.message(at(62)).services.len(), 1, "it is forgotten");
        // what came back meanwhile begins anew
        demand.note_connect_failure(&chat(), &"x".repeat(9000), at(100));
        assert_eq!(sent(101), []);
        assert_eq!(sent(103), sent_of(&"x".repeat(200)));
        drop(demand.count_in_flight(&chat(), at(103)));
        assert_eq!(sent(103), [], "a connection has succeeded");
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_held_request_is_sent_at_once_and_others_soon() {
        let demand = demand();
        let mut subscription = demand.subscribe();
        subscription.next().await;
        let began = Instant::now();
        let _first = demand.hold(&chat(), 9, at(1));
        assert_eq!(subscription.next().await.services[0].held, 1);
        assert_eq!(began.elapsed(), Duration::ZERO);
        let _second = demand.hold(&chat(), 9, at(2));
        assert_eq!(subscription.next().await.services[0].held, 2);
        assert_eq!(began.elapsed(), COALESCE_INTERVAL);
        subscription.next().await;
        assert_eq!(began.elapsed(), COALESCE_INTERVAL + HEARTBEAT);
    }
}
