//! The choice of a replica for each request of a service.
//!
//! The ready replica that has the fewest requests of this gateway takes the next one; equal ones
//! take turns at random. A replica that fails is ejected for a while, which grows with each failure,
//! and comes back once a single request has been answered. While all replicas are ejected, one
//! request at a time tries each. Requests that find no free replica stand in a queue, in the order
//! in which they came.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::route::{Route, ServiceRoutes};
use crate::service_key::ServiceKey;

/// A replica is ejected for this long after its first failure, and for twice as long after each
/// further one.
const FIRST_EJECTION: Duration = Duration::from_secs(2);
/// A replica is ejected for no longer than this.
const MAX_EJECTION: Duration = Duration::from_secs(60);
/// A replica that failed is not tried again for this long, even if there is no other.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// A request that finds out whether a replica answers again keeps others off it for this long. One
/// that lasts longer has been taken, and is at work: an answer may take minutes to begin.
const PROBE_TIME: Duration = Duration::from_secs(2);
/// Services that are kept before those that no longer exist are looked for.
const MIN_SERVICES: usize = 64;

/// The balancers of all services. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Balancers {
    services: Arc<Mutex<Services>>,
    routes: ServiceRoutes,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct Services {
    balancers: HashMap<ServiceKey, Arc<Balancer>>,
    /// The number of services at which those that no longer exist are removed.
    cleanup_at: usize,
}

impl Balancers {
    /// No service yet.
    pub(crate) fn new(routes: ServiceRoutes, metrics: Metrics) -> Self {
        Self {
            services: Arc::default(),
            routes,
            metrics,
        }
    }

    /// The balancer of a service.
    pub(crate) fn get(&self, service: &ServiceKey) -> Arc<Balancer> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = services.balancers.get(service) {
            return Arc::clone(known);
        }
        if services.balancers.len() >= services.cleanup_at {
            let exists = |service: &ServiceKey| self.routes.get(service).policy.is_some();
            services.balancers.retain(|service, _| exists(service));
            services.cleanup_at = MIN_SERVICES.max(2 * services.balancers.len());
        }
        let balancer = Arc::new(Balancer {
            state: Mutex::default(),
            metrics: self.metrics.clone(),
        });
        services
            .balancers
            .insert(service.clone(), Arc::clone(&balancer));
        balancer
    }
}

/// The replicas of one service, as this gateway sees them, and the queue for them.
#[derive(Debug)]
pub(crate) struct Balancer {
    state: Mutex<State>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    /// The route that was last chosen by.
    route: Option<Arc<Route>>,
    /// Replicas that have requests, or that have failed.
    replicas: HashMap<SocketAddr, Replica>,
    /// The requests that stand in the queue, in their order.
    queue: BTreeMap<u64, Arc<Notify>>,
    next_ticket: u64,
}

/// What this gateway knows of a replica.
#[derive(Debug, Clone, Copy, Default)]
struct Replica {
    in_flight: u32,
    /// The last failure, if none of its requests has been answered since.
    failure: Option<ReplicaFailure>,
    /// Since when a request has been finding out whether it answers again.
    probing: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct ReplicaFailure {
    /// The number of failures in a row.
    count: u32,
    at: Instant,
}

impl ReplicaFailure {
    fn ejection(&self) -> Duration {
        let doubled = 1_u32 << self.count.saturating_sub(1).min(16);
        (FIRST_EJECTION * doubled).min(MAX_EJECTION)
    }
}

/// The rules by which one request is given a replica.
#[derive(Debug, Default)]
pub(crate) struct Choice<'a> {
    /// Replicas that the request has tried already: it takes no such one.
    pub(crate) tried: &'a [SocketAddr],
    /// The most requests that a replica may have before it takes this one.
    pub(crate) max_in_flight: Option<u32>,
    /// The request's place in the queue; without one it goes behind all that have one.
    pub(crate) ticket: Option<&'a Ticket>,
    /// The request waits for nobody who stands before it.
    pub(crate) ignores_queue: bool,
}

/// The replica for a request, or why there is none.
#[derive(Debug)]
pub(crate) enum Pick {
    /// This one takes it.
    Replica(ReplicaGuard),
    /// None is free. A place in the queue is told when one may be, except for the time at which a
    /// replica that failed may be tried again.
    Busy {
        /// That time, if there is one.
        until: Option<Instant>,
    },
    /// The request has tried all.
    NoneLeft,
}

impl Balancer {
    /// Chooses a ready replica and counts the request on it.
    pub(crate) fn pick(
        self: &Arc<Self>,
        route: &Arc<Route>,
        choice: &Choice<'_>,
        now: Instant,
    ) -> Pick {
        let mut state = self.lock();
        state.set_route(route);
        let first = state.queue.first_key_value().map(|(ticket, _)| *ticket);
        let own = choice.ticket.map(|ticket| ticket.number);
        if !choice.ignores_queue && first.is_some() && first != own {
            return Pick::Busy { until: None };
        }
        let address = match state.select(&route.ready, choice, now) {
            Selection::Replica(address) => address,
            Selection::Busy { until } => return Pick::Busy { until },
            Selection::NoneLeft => return Pick::NoneLeft,
        };
        let replica = state.replicas.entry(address).or_default();
        replica.in_flight += 1;
        if replica.failure.is_some() {
            replica.probing.get_or_insert(now);
        }
        Pick::Replica(ReplicaGuard {
            balancer: Arc::clone(self),
            address,
            probes: replica.failure.is_some(),
        })
    }

    /// Puts a request at the end of the queue; `None` if it has `max` requests already.
    pub(crate) fn enqueue(self: &Arc<Self>, max: usize) -> Option<Ticket> {
        let mut state = self.lock();
        if state.queue.len() >= max {
            return None;
        }
        let number = state.next_ticket;
        state.next_ticket += 1;
        let turn = Arc::new(Notify::new());
        state.queue.insert(number, Arc::clone(&turn));
        Some(Ticket {
            balancer: Arc::clone(self),
            number,
            turn,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Selection {
    Replica(SocketAddr),
    Busy { until: Option<Instant> },
    NoneLeft,
}

impl State {
    /// Forgets failures of replicas that are not ready any more: who comes back begins anew.
    fn set_route(&mut self, route: &Arc<Route>) {
        let known = self.route.as_ref();
        if known.is_some_and(|known| Arc::ptr_eq(known, route)) {
            return;
        }
        self.replicas.retain(|address, replica| {
            let is_ready = route.ready.contains(address);
            if !is_ready {
                replica.failure = None;
            }
            is_ready || replica.in_flight > 0
        });
        self.route = Some(Arc::clone(route));
    }

    fn select(&self, ready: &[SocketAddr], choice: &Choice<'_>, now: Instant) -> Selection {
        let (mut least, mut ties) = (None, 0);
        let mut ejected: Option<(Instant, SocketAddr)> = None;
        let mut probed: Option<Instant> = None;
        for address in ready.iter().copied() {
            if choice.tried.contains(&address) {
                continue;
            }
            let replica = self.replicas.get(&address).copied().unwrap_or_default();
            if let Some(failure) = replica.failure {
                let is_at_work = match replica.probing.map(|since| since + PROBE_TIME) {
                    Some(until) if now < until => {
                        probed = Some(probed.map_or(until, |earliest| earliest.min(until)));
                        continue;
                    }
                    probing => probing.is_some(),
                };
                if !is_at_work && now < failure.at + failure.ejection() {
                    let retry_at = failure.at + RETRY_PAUSE;
                    if ejected.is_none_or(|(earliest, _)| retry_at < earliest) {
                        ejected = Some((retry_at, address));
                    }
                    continue;
                }
            }
            match least {
                Some((fewest, _)) if fewest < replica.in_flight => {}
                Some((fewest, _)) if fewest == replica.in_flight => {
                    ties += 1;
                    if fastrand::u32(0..ties) == 0 {
                        least = Some((fewest, address));
                    }
                }
                _ => {
                    ties = 1;
                    least = Some((replica.in_flight, address));
                }
            }
        }
        match (least, ejected) {
            (Some((fewest, address)), _) => match choice.max_in_flight {
                Some(most) if fewest >= most => Selection::Busy { until: None },
                _ => Selection::Replica(address),
            },
            (None, Some((retry_at, address))) if now >= retry_at => Selection::Replica(address),
            (None, Some((retry_at, _))) => Selection::Busy {
                until: Some(retry_at),
            },
            (None, None) => match probed {
                None => Selection::NoneLeft,
                until => Selection::Busy { until },
            },
        }
    }

    fn wake_first(&self) {
        if let Some((_, turn)) = self.queue.first_key_value() {
            turn.notify_one();
        }
    }
}

/// A request's place in the queue, until it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    balancer: Arc<Balancer>,
    number: u64,
    turn: Arc<Notify>,
}

impl Ticket {
    /// Waits until the request is first in the queue and a replica may be free.
    pub(crate) async fn turn(&self) {
        self.turn.notified().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.balancer.lock();
        state.queue.remove(&self.number);
        state.wake_first();
    }
}

/// Counts a request on its replica until it is dropped.
#[derive(Debug)]
pub(crate) struct ReplicaGuard {
    balancer: Arc<Balancer>,
    address: SocketAddr,
    /// The request finds out whether the replica answers again.
    probes: bool,
}

impl ReplicaGuard {
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The replica has answered: it is no longer ejected.
    pub(crate) fn answered(&mut self) {
        let mut state = self.balancer.lock();
        let Some(replica) = state.replicas.get_mut(&self.address) else {
            return;
        };
        if replica.failure.take().is_some() {
            replica.probing = None;
            state.wake_first();
        }
        self.probes = false;
    }

    /// The replica could not be connected to, or broke off: it is ejected. Requests that fail while
    /// it is ejected already count as one failure.
    pub(crate) fn failed(mut self, now: Instant, error: &str) {
        let mut state = self.balancer.lock();
        let Some(replica) = state.replicas.get_mut(&self.address) else {
            return;
        };
        let known = replica.failure;
        if let Some(known) = known.filter(|known| !self.probes && now < known.at + known.ejection())
        {
            tracing::debug!(address = %self.address, error, count = known.count, "an ejected replica failed again");
        } else {
            let count = known.map_or(1, |known| known.count.saturating_add(1));
            let failure = ReplicaFailure { count, at: now };
            let (address, seconds) = (self.address, failure.ejection().as_secs());
            replica.failure = Some(failure);
            tracing::warn!(%address, error, count, seconds, "a replica failed and is ejected");
            self.balancer.metrics.ejections.inc();
        }
        if std::mem::take(&mut self.probes) {
            replica.probing = None;
        }
    }
}

impl Drop for ReplicaGuard {
    fn drop(&mut self) {
        let mut state = self.balancer.lock();
        if let Some(replica) = state.replicas.get_mut(&self.address) {
            replica.in_flight = replica.in_flight.saturating_sub(1);
            if self.probes {
                replica.probing = None;
            }
            if replica.in_flight == 0 && replica.failure.is_none() {
                state.replicas.remove(&self.address);
            }
        }
        state.wake_first();
    }
}
