//! The hold queue: requests wait here until a replica of their service is ready.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::demand::{DemandTracker, HeldGuard};
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::route::{HoldPolicy, Route, ServiceKey, ServiceRoutes};
use crate::upstream::{self, ReplicaLoad};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A replica that refused a connection is not tried again for this long, unless it is the only one.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The held requests of all services.
#[derive(Debug, Clone)]
pub(crate) struct HoldQueue {
    routes: ServiceRoutes,
    demand: DemandTracker,
    metrics: Metrics,
    replica_load: ReplicaLoad,
    shutdown: CancellationToken,
}

impl HoldQueue {
    /// An empty queue; `routes` always has the current state of the cluster.
    pub(crate) fn new(
        routes: ServiceRoutes,
        demand: DemandTracker,
        metrics: Metrics,
        replica_load: ReplicaLoad,
    ) -> Self {
        Self {
            routes,
            demand,
            metrics,
            replica_load,
            shutdown: CancellationToken::new(),
        }
    }

    /// The most connections that clients of a service may have at a time.
    pub(crate) fn max_connections(&self, service: &ServiceKey) -> usize {
        let route = self.routes.get(service);
        let policy = route.policy.as_deref();
        policy.map_or(1, HoldPolicy::max_connections)
    }

    /// Refuses all held requests, because the gateway shuts down.
    pub(crate) fn refuse_all(&self) {
        self.shutdown.cancel();
    }

    /// The policy of a service, unless a request for it is refused now.
    pub(crate) fn admit(&self, service: &ServiceKey) -> Result<Arc<HoldPolicy>, Refusal> {
        let route = self.routes.get(service);
        let policy = policy(&route)?;
        check(policy, &route.ready)?;
        Ok(Arc::clone(policy))
    }

    /// Refuses a request that wakes nothing while no replica is ready: it waits for none and starts
    /// none.
    pub(crate) fn check_wakes(
        &self,
        service: &ServiceKey,
        head: &http::request::Parts,
    ) -> Result<(), Refusal> {
        let route = self.routes.get(service);
        let policy = policy(&route)?;
        match route.ready.is_empty() && !policy.wakes(&head.method, head.uri.path()) {
            true => Err(Refusal::wakes_nothing()),
            false => Ok(()),
        }
    }

    /// Counts a request as held until the guard is dropped.
    pub(crate) fn enter(&self, service: &ServiceKey) -> Result<HeldGuard, Refusal> {
        let route = self.routes.get(service);
        let policy = policy(&route)?;
        // the limit is for requests that wait, and a ready replica takes this one at once
        let max_held = match route.ready.is_empty() {
            true => policy.max_held,
            false => u32::MAX,
        };
        let held = self.demand.hold(service, max_held, Timestamp::now());
        held.ok_or_else(Refusal::queue_full)
    }

    /// Waits for a ready replica and connects to it.
    pub(crate) async fn connect(
        &self,
        service: &ServiceKey,
        arrived: Instant,
    ) -> Result<(SocketAddr, TcpStream), Refusal> {
        let routes = self.routes.subscribe(service);
        let mut routes = routes.ok_or_else(Refusal::service_deleted)?;
        loop {
            let route = Arc::clone(&routes.borrow_and_update());
            let policy = policy(&route)?;
            let deadline = arrived + to_std(policy.hold_timeout);
            check(policy, &route.ready)?;
            for address in self.replica_load.least_busy_first(route.ready.clone()) {
                let connecting = TcpStream::connect(address);
                if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                    upstream::set_socket_options(&stream);
                    return Ok((address, stream));
                }
                self.metrics.retries.inc();
            }
            let expired = || Refusal::hold_timeout(policy.hold_timeout);
            let has_ready = !routes.borrow().ready.is_empty();
            tokio::select! {
                () = self.shutdown.cancelled() => return Err(Refusal::gateway_shutdown()),
                () = tokio::time::sleep_until(deadline) => return Err(expired()),
                () = tokio::time::sleep(RETRY_PAUSE), if has_ready => {
                    if Instant::now() >= deadline {
                        return Err(expired());
                    }
                }
                changed = routes.changed() => changed.map_err(|_| Refusal::service_deleted())?,
            }
        }
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

/// The duration, or zero if it is negative.
pub(crate) fn to_std(duration: SignedDuration) -> Duration {
    duration.try_into().unwrap_or_default()
}
