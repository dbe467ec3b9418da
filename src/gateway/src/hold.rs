//! The hold queue: requests wait here until a replica of their service takes them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::access::directory::Directory;
use crate::access::{Access, Verdict};
use crate::balancer::{Balancer, Balancers, Choice, Pick, RETRY_PAUSE, ReplicaGuard, Ticket};
use crate::demand::{DemandTracker, HeldGuard};
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::route::{HoldPolicy, Route, ServiceRoutes};
use crate::service_key::ServiceKey;
use crate::wake_limit::WakeLimiter;

/// A request that may be sent again waits this long for another replica, while the one that broke
/// off is the only one that is ready. A replica that has ended is not ready any more by then.
const RESEND_WAIT: Duration = Duration::from_secs(5);
/// A client that is no pod and no node as far as this gateway knows is waited for this long: its pod
/// may have just started, and kubelets report a pod's address after a second or two.
pub(crate) const CALLER_LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);

/// The held requests of all services.
#[derive(Debug)]
pub(crate) struct HoldQueue {
    routes: ServiceRoutes,
    demand: DemandTracker,
    metrics: Metrics,
    balancers: Balancers,
    wake_limiter: WakeLimiter,
    /// Who has which address.
    directory: Directory,
    pacing_timeout: Duration,
    shutdown: CancellationToken,
}

impl HoldQueue {
    /// An empty queue; `routes` always has the current state of the cluster. A request waits for
    /// `pacing_timeout` at most because all ready replicas have as many requests as they should.
    pub(crate) fn new(
        routes: ServiceRoutes,
        directory: Directory,
        demand: DemandTracker,
        metrics: Metrics,
        pacing_timeout: Duration,
    ) -> Self {
        Self {
            directory,
            balancers: Balancers::new(routes.clone(), metrics.clone()),
            wake_limiter: WakeLimiter::new(routes.clone(), metrics.clone()),
            routes,
            demand,
            metrics,
            pacing_timeout,
            shutdown: CancellationToken::new(),
        }
    }

    /// The most connections that clients of a service may have at a time.
    pub(crate) fn max_connections(&self, service: &ServiceKey) -> usize {
        let route = self.routes.get(service);
        let policy = route.policy.as_deref();
        policy.map_or(1, HoldPolicy::max_connections)
    }

    /// Whether all requests of a service go through gateways.
    pub(crate) fn is_always(&self, service: &ServiceKey) -> bool {
        let route = self.routes.get(service);
        route.policy.as_ref().is_some_and(|policy| policy.always)
    }

    /// Refuses all held requests, because the gateway shuts down.
    pub(crate) fn refuse_all(&self) {
        self.shutdown.cancel();
    }

    /// Whether the client with this address surely may not reach the service.
    pub(crate) fn is_denied(&self, service: &ServiceKey, client: IpAddr) -> bool {
        let access = &self.routes.get(service).access;
        matches!(access.verdict(client, &self.directory), Verdict::Denied(_))
    }

    /// Waits until it is known whether the client with this address may reach the service.
    ///
    /// # Errors
    /// It may not, or it cannot be known now. Such a request is not held and wakes nothing.
    async fn check_client(&self, service: &ServiceKey, client: IpAddr) -> Result<(), Refusal> {
        let mut changes = self.directory.subscribe();
        let deadline = Instant::now() + CALLER_LOOKUP_TIMEOUT;
        loop {
            changes.mark_unchanged();
            let access = Arc::clone(&self.routes.get(service).access);
            let refusal = match access.verdict(client, &self.directory) {
                Verdict::Allowed => return Ok(()),
                Verdict::Denied(why) => return Err(Refusal::caller_not_allowed(why)),
                Verdict::NotFound(why) => Refusal::caller_not_allowed(why),
                Verdict::Unknown(why) => Refusal::caller_unknown(why),
            };
            if !access.needs_directory() {
                return Err(refusal);
            }
            let changed = tokio::time::timeout_at(deadline, changes.changed());
            if changed.await.is_err() || Instant::now() >= deadline {
                return Err(refusal);
            }
        }
    }

    /// A request of this client for `service` that has just arrived, unless it is refused now.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        service: &ServiceKey,
        client: IpAddr,
    ) -> Result<HeldRequest, Refusal> {
        self.check_client(service, client).await?;
        let routes = self.routes.subscribe(service);
        let routes = routes.ok_or_else(Refusal::service_deleted)?;
        let route = Arc::clone(&routes.borrow());
        let policy = policy(&route)?;
        check(policy, &route.ready)?;
        let arrived = Instant::now();
        Ok(HeldRequest {
            queue: Arc::clone(self),
            service: service.clone(),
            client,
            access: Arc::clone(&route.access),
            directory_changes: None,
            deadline: arrived + to_std(policy.hold_timeout),
            arrived,
            routes,
            balancer: None,
            ticket: None,
            held: None,
            is_demand: false,
            waits_for_first: false,
            was_cold: false,
            paced_until: None,
            must_not_wait: false,
            tried: Vec::new(),
            broken: None,
            connect_error: None,
        })
    }
}

/// One request, from its arrival until a replica takes it.
#[derive(Debug)]
pub(crate) struct HeldRequest {
    queue: Arc<HoldQueue>,
    service: ServiceKey,
    client: IpAddr,
    /// The rule by which the client was let through.
    access: Arc<Access>,
    /// Tells of changes of the directory, while it is not known whether a newer rule lets it through.
    directory_changes: Option<watch::Receiver<u64>>,
    arrived: Instant,
    deadline: Instant,
    routes: watch::Receiver<Arc<Route>>,
    balancer: Option<Arc<Balancer>>,
    ticket: Option<Ticket>,
    /// Counts the request as held.
    held: Option<HeldGuard>,
    /// It needs a model, so it is demand while it is held.
    is_demand: bool,
    /// It may wait for a first replica: since none is ready, nothing has been found against it.
    waits_for_first: bool,
    /// No replica was ready when it came, or since.
    was_cold: bool,
    /// The time until which it waits for a replica that has fewer requests than it should.
    paced_until: Option<Instant>,
    /// The queue was full: the request goes to any replica at once, or is refused.
    must_not_wait: bool,
    /// Replicas that failed and have been ready ever since.
    tried: Vec<SocketAddr>,
    /// The replica that it was sent to and that broke off.
    broken: Option<BrokenReplica>,
    /// The last error of connecting to a replica.
    connect_error: Option<String>,
}

#[derive(Debug)]
struct BrokenReplica {
    address: SocketAddr,
    at: Instant,
    error: String,
}

impl HeldRequest {
    pub(crate) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// The policy of the service.
    pub(crate) fn policy(&self) -> Result<Arc<HoldPolicy>, Refusal> {
        policy(&self.routes.borrow()).cloned()
    }

    /// Refuses a request that wakes nothing while no replica is ready: it waits for none and starts
    /// none.
    pub(crate) fn check_wakes(&self, head: &http::request::Parts) -> Result<(), Refusal> {
        let route = self.routes.borrow();
        match route.ready.is_empty() {
            true => check_wakes(policy(&route)?, head),
            false => Ok(()),
        }
    }

    /// Whether a replica of the service is ready.
    pub(crate) fn has_replica(&self) -> bool {
        !self.routes.borrow().ready.is_empty()
    }

    /// Counts the request as held, until a replica takes it.
    pub(crate) fn enter(&mut self, head: &http::request::Parts) -> Result<(), Refusal> {
        let route = Arc::clone(&self.routes.borrow());
        let policy = policy(&route)?;
        match route.ready.is_empty() {
            true => self.wait_for_first(policy, head),
            // the limits are for requests that wait, and a ready replica takes this one at once
            false => {
                self.is_demand = check_wakes(policy, head).is_ok();
                // of a warm service each request would be a message to the leader
                if !policy.always {
                    self.hold_again();
                }
                Ok(())
            }
        }
    }

    /// No replica is ready: the request waits for a first one and wakes the service, unless it may
    /// not. Another one that is held may have waited for a replica that was ready and has gone.
    fn wait_for_first(
        &mut self,
        policy: &HoldPolicy,
        head: &http::request::Parts,
    ) -> Result<(), Refusal> {
        if self.waits_for_first {
            return Ok(());
        }
        check_wakes(policy, head)?;
        let demand = &self.queue.demand;
        let others = demand.held(&self.service) - usize::from(self.held.is_some());
        if others >= policy.max_held as usize {
            return Err(Refusal::queue_full());
        }
        let (limiter, per_hour) = (&self.queue.wake_limiter, policy.max_wakes);
        let woken = limiter.wake(&self.service, per_hour, Instant::now());
        woken.map_err(|wait| Refusal::wake_limit(per_hour, wait))?;
        if self.held.is_none() {
            let held = demand.hold(&self.service, policy.max_held, Timestamp::now());
            self.held = Some(held.ok_or_else(Refusal::queue_full)?);
        }
        (self.is_demand, self.waits_for_first, self.was_cold) = (true, true, true);
        Ok(())
    }

    /// A replica has the request: it is no longer held.
    pub(crate) fn leave_queue(&mut self) {
        self.held = None;
    }

    /// Nothing was sent to this replica: it could not be connected to.
    pub(crate) fn not_sent(&mut self, replica: ReplicaGuard, error: String) {
        self.queue.metrics.retries.inc();
        self.tried.push(replica.address());
        replica.failed(Instant::now(), &error);
        self.connect_error = Some(error);
        self.hold_again();
    }

    /// This replica broke off, and the request may be sent to another one.
    pub(crate) fn broken(&mut self, address: SocketAddr, error: String) {
        self.queue.metrics.retries.inc();
        self.tried.push(address);
        let at = Instant::now();
        self.broken = Some(BrokenReplica { address, at, error });
        self.hold_again();
    }

    fn hold_again(&mut self) {
        if self.is_demand && self.held.is_none() {
            let demand = &self.queue.demand;
            self.held = demand.hold(&self.service, u32::MAX, Timestamp::now());
        }
    }

    /// Waits for a ready replica that takes the request; `None` if there is none any more and the body
    /// is streamed: it must be read before the request may wait for a first replica.
    pub(crate) async fn replica(
        &mut self,
        head: &http::request::Parts,
        is_streamed: bool,
    ) -> Result<Option<ReplicaGuard>, Refusal> {
        let balancer = self
            .balancer
            .get_or_insert_with(|| self.queue.balancers.get(&self.service));
        let balancer = Arc::clone(balancer);
        loop {
            let route = Arc::clone(&self.routes.borrow_and_update());
            let policy = policy(&route)?;
            self.check_access(&route.access)?;
            check(policy, &route.ready)?;
            self.deadline = self.arrived + to_std(policy.hold_timeout);
            let now = Instant::now();
            self.tried.retain(|address| route.ready.contains(address));
            if is_streamed && route.ready.is_empty() {
                self.ticket = None;
                return Ok(None);
            }
            let wake_at = if route.ready.is_empty() {
                self.wait_for_first(policy, head)?;
                (self.paced_until, self.must_not_wait) = (None, false);
                if self.ticket.is_none() {
                    // the number of requests that wait for a first replica is bounded at their entry
                    self.ticket = balancer.enqueue(usize::MAX);
                }
                None
            } else {
                self.waits_for_first = false;
                match balancer.pick(&route, &self.choice(policy, &route, now), now) {
                    Pick::Replica(replica) => {
                        self.ticket = None;
                        return Ok(Some(replica));
                    }
                    Pick::Busy { until } => {
                        if self.ticket.is_none() {
                            if self.must_not_wait {
                                let error = self.connect_error.as_deref();
                                return Err(Refusal::queue_full_after(error));
                            }
                            self.ticket = balancer.enqueue(policy.max_held as usize);
                            self.must_not_wait = self.ticket.is_none();
                            // a replica may have become free before
                            continue;
                        }
                        let paced_until = *self
                            .paced_until
                            .get_or_insert((now + self.queue.pacing_timeout).min(self.deadline));
                        match until {
                            Some(until) => Some(until),
                            None => Some(paced_until).filter(|until| now < *until),
                        }
                    }
                    Pick::NoneLeft => Some(self.wait_after_all_failed(now)?),
                }
            };
            // if it was not before
            self.hold_again();
            self.wait(wake_at).await?;
        }
    }

    /// Refuses the request if the rule has changed and does not let its client through any more.
    fn check_access(&mut self, access: &Arc<Access>) -> Result<(), Refusal> {
        if self.access == *access {
            self.directory_changes = None;
            return Ok(());
        }
        let mut changes = self.queue.directory.subscribe();
        changes.mark_unchanged();
        self.directory_changes = Some(changes);
        match access.verdict(self.client, &self.queue.directory) {
            Verdict::Denied(why) => Err(Refusal::caller_not_allowed(why)),
            Verdict::Allowed => {
                (self.access, self.directory_changes) = (Arc::clone(access), None);
                Ok(())
            }
            // no replica gets the request before it is known
            Verdict::NotFound(why) | Verdict::Unknown(why) => match self.has_replica() {
                true => Err(Refusal::caller_unknown(why)),
                false => Ok(()),
            },
        }
    }

    /// The rules for this request now.
    fn choice(&self, policy: &HoldPolicy, route: &Route, now: Instant) -> Choice<'_> {
        let is_resent = !self.tried.is_empty();
        let waited_enough =
            self.must_not_wait || self.paced_until.is_some_and(|until| until <= now);
        // without further replicas to come, a request waits at a replica as well as here
        let more_may_come = route.ready.len() < policy.max_replicas as usize;
        // what comes to a service that is warm would not have waited here if no gateway were in its way
        let is_warm = policy.always && !self.was_cold;
        let is_paced = more_may_come && !is_resent && !waited_enough && !is_warm;
        Choice {
            tried: &self.tried,
            max_in_flight: is_paced.then_some(policy.target.max(1)),
            ticket: self.ticket.as_ref(),
            ignores_queue: is_resent || waited_enough || is_warm,
        }
    }

    /// The time at which the request goes on after all ready replicas have failed: those that
    /// nothing was sent to are tried again.
    fn wait_after_all_failed(&mut self, now: Instant) -> Result<Instant, Refusal> {
        // another request must not wait for this one meanwhile
        self.ticket = None;
        let broken = self.broken.as_ref();
        if let Some(broken) = broken.filter(|broken| now >= broken.at + RESEND_WAIT) {
            return Err(Refusal::replica_failed(&broken.error));
        }
        self.tried
            .retain(|address| broken.is_some_and(|broken| broken.address == *address));
        Ok(now + RETRY_PAUSE)
    }

    /// Waits until something changes, or for `wake_at`.
    async fn wait(&mut self, wake_at: Option<Instant>) -> Result<(), Refusal> {
        let ticket = self.ticket.as_ref();
        let turn = async {
            match ticket {
                Some(ticket) => ticket.turn().await,
                None => std::future::pending().await,
            }
        };
        let directory_changes = self.directory_changes.as_mut();
        let directory_changed = async {
            match directory_changes {
                // the directory is there as long as the queue
                Some(changes) => drop(changes.changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.queue.shutdown.cancelled() => {
                let error = self.connect_error.as_deref();
                return Err(Refusal::gateway_shutdown(error));
            }
            () = sleep_until(wake_at.filter(|at| *at <= self.deadline)) => {}
            () = tokio::time::sleep_until(self.deadline) => return Err(self.expired()),
            () = turn => {}
            () = directory_changed => {}
            changed = self.routes.changed() => {
                changed.map_err(|_| Refusal::service_deleted())?;
            }
        }
        Ok(())
    }

    /// The refusal at the end of the hold timeout.
    fn expired(&self) -> Refusal {
        if let Some(broken) = &self.broken {
            return Refusal::replica_failed(&broken.error);
        }
        let timeout = self.deadline - self.arrived;
        let is_ready = !self.routes.borrow().ready.is_empty();
        Refusal::hold_timeout(timeout, is_ready, self.connect_error.as_deref())
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The policy of a service, unless it is gone.
fn policy(route: &Route) -> Result<&Arc<HoldPolicy>, Refusal> {
    route.policy.as_ref().ok_or_else(Refusal::service_deleted)
}

/// Fails if no replica is ready and requests may not wait for one.
fn check(policy: &HoldPolicy, ready: &[SocketAddr]) -> Result<(), Refusal> {
    let refusal = policy.refusal(Timestamp::now());
    refusal.filter(|_| ready.is_empty()).map_or(Ok(()), Err)
}

/// Fails if a request wakes nothing.
fn check_wakes(policy: &HoldPolicy, head: &http::request::Parts) -> Result<(), Refusal> {
    match policy.wakes(&head.method, head.uri.path()) {
        true => Ok(()),
        false => Err(Refusal::wakes_nothing()),
    }
}

/// The duration, or zero if it is negative.
pub(crate) fn to_std(duration: SignedDuration) -> Duration {
    duration.try_into().unwrap_or_default()
}
