//! How often requests may wake a service: a bucket of tokens for each.
//!
//! A wake is the first request that waits while no replica is ready. Others that wait for the same
//! replica take no token. Each gateway counts for itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::metrics::{Metrics, ServiceLabel};
use crate::route::ServiceRoutes;
use crate::service_key::ServiceKey;

const HOUR: Duration = Duration::from_secs(3_600);
/// The most wakes that may follow one another at once.
const MAX_BURST: u32 = 10;
/// A start that has brought no ready replica for this long is over: the next request wakes anew.
const MAX_START: Duration = Duration::from_secs(600);
/// The most services whose wakes have a series of their own; those of others are counted together.
const MAX_SERIES: usize = 1_000;
/// Services that are kept before those that no longer exist are looked for.
const MIN_SERVICES: usize = 64;

/// The buckets of all services. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct WakeLimiter {
    state: Arc<Mutex<State>>,
    routes: ServiceRoutes,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    services: HashMap<ServiceKey, Bucket>,
    /// How many of them have a series of their own.
    series: usize,
    /// The number of services at which those that no longer exist are removed.
    cleanup_at: usize,
}

/// The tokens of a service. Between its wakes a token is added in each interval.
#[derive(Debug)]
struct Bucket {
    /// The time at which it is full again.
    full_at: Instant,
    last_wake: Option<Wake>,
    label: ServiceLabel,
}

#[derive(Debug, Clone, Copy)]
struct Wake {
    at: Instant,
    /// How often a replica had become ready before.
    times_ready: u64,
}

impl Bucket {
    /// Takes a token if there is one; otherwise returns how long it takes until there is.
    fn take(&mut self, per_hour: u32, now: Instant) -> Result<(), Duration> {
        let per_hour = per_hour.max(1);
        let interval = HOUR / per_hour;
        let full_at = self.full_at.max(now);
        let spare = interval * (per_hour.min(MAX_BURST) - 1);
        let missing = (full_at - now).saturating_sub(spare);
        if !missing.is_zero() {
            return Err(missing);
        }
        self.full_at = full_at + interval;
        Ok(())
    }
}

impl WakeLimiter {
    pub(crate) fn new(routes: ServiceRoutes, metrics: Metrics) -> Self {
        Self {
            state: Arc::default(),
            routes,
            metrics,
        }
    }

    /// A request begins to wait for the first replica of a service, which may be woken `per_hour` times
    /// an hour.
    ///
    /// # Errors
    /// It may not be woken before this time has passed.
    pub(crate) fn wake(
        &self,
        service: &ServiceKey,
        per_hour: u32,
        now: Instant,
    ) -> Result<(), Duration> {
        let times_ready = self.routes.times_ready(service);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.services.contains_key(service) {
            self.add(&mut state, service, now);
        }
        let Some(bucket) = state.services.get_mut(service) else {
            return Ok(());
        };
        let starts = bucket
            .last_wake
            .is_some_and(|wake| wake.times_ready == times_ready && now < wake.at + MAX_START);
        if starts {
            return Ok(());
        }
        bucket.take(per_hour, now)?;
        bucket.last_wake = Some(Wake {
            at: now,
            times_ready,
        });
        self.metrics.wakes.get_or_create(&bucket.label).inc();
        Ok(())
    }

    /// Adds a full bucket; removes those of services that are gone now and then.
    fn add(&self, state: &mut State, service: &ServiceKey, now: Instant) {
        if state.services.len() >= state.cleanup_at {
            let mut series = 0;
            state.services.retain(|service, bucket| {
                let exists = self.routes.get(service).policy.is_some();
                let is_own = bucket.label != ServiceLabel::others();
                if exists && is_own {
                    series += 1;
                } else if is_own {
                    self.metrics.wakes.remove(&bucket.label);
                }
                exists
            });
            state.series = series;
            state.cleanup_at = MIN_SERVICES.max(2 * state.services.len());
        }
        let label = match state.series < MAX_SERIES {
            true => ServiceLabel::of(service),
            false => ServiceLabel::others(),
        };
        state.series += usize::from(label != ServiceLabel::others());
        let bucket = Bucket {
            full_at: now,
            last_wake: None,
            label,
        };
        state.services.insert(service.clone(), bucket);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use prometheus_client::registry::Registry;

    use super::*;
    use crate::route::{Route, RouteTable};
    use crate::tests::{chat, service};

    /// A limiter, the routes, and the route of a service without a replica.
    fn limiter() -> (WakeLimiter, ServiceRoutes, Route) {
        let (mut table, routes) = (RouteTable::default(), ServiceRoutes::default());
        let object = service(serde_json::json!({}), serde_json::Value::Null, 20_000);
        table.apply_service(&serde_json::from_value(object).unwrap());
        table.publish(&routes);
        let metrics = Metrics::new(&mut Registry::default());
        (
            WakeLimiter::new(routes.clone(), metrics),
            routes,
            table.route(&chat()),
        )
    }

    fn set_ready(routes: &ServiceRoutes, route: &Route, is_ready: bool) {
        let replica = SocketAddr::from(([10, 0, 0, 1], 8000));
        let ready = if is_ready { vec![replica] } else { Vec::new() };
        routes.set(
            chat(),
            Route {
                ready,
                ..route.clone()
            },
        );
    }

    #[test]
    fn a_service_is_woken_as_often_as_it_may_be_and_then_once_in_each_interval() {
        let (limiter, routes, route) = limiter();
        let start = Instant::now();
        let cycle = |now| {
            let woken = limiter.wake(&chat(), 60, now);
            set_ready(&routes, &route, true);
            set_ready(&routes, &route, false);
            woken
        };
        for number in 0..10 {
            assert_eq!(cycle(start), Ok(()), "{number}");
        }
        assert_eq!(cycle(start), Err(Duration::from_secs(60)));
        assert_eq!(
            cycle(start + Duration::from_secs(59)),
            Err(Duration::from_secs(1))
        );
        assert_eq!(cycle(start + Duration::from_secs(60)), Ok(()));
        assert!(cycle(start + Duration::from_secs(60)).is_err());
        // a long rest fills the bucket, and no more
        let later = start + 10 * HOUR;
        let woken = (0..20).filter(|_| cycle(later).is_ok()).count();
        assert_eq!(woken, 10);
    }

    #[test]
    fn over_any_time_no_more_wakes_than_the_rate_and_the_burst() {
        let mut random = fastrand::Rng::with_seed(3);
        for per_hour in [1, 2, 7, 60, 3_600] {
            let (limiter, routes, route) = limiter();
            let start = Instant::now();
            let (mut now, mut woken) = (start, 0_u64);
            for _ in 0..2_000 {
                now += HOUR / per_hour / 1_000 * random.u32(0..1_500);
                woken += u64::from(limiter.wake(&chat(), per_hour, now).is_ok());
                set_ready(&routes, &route, true);
                set_ready(&routes, &route, false);
                let intervals = (now - start).as_nanos() / (HOUR / per_hour).as_nanos();
                let most = u128::from(per_hour.min(MAX_BURST)) + intervals;
                assert!(
                    u128::from(woken) <= most,
                    "{woken} of {most} at {per_hour} an hour"
                );
            }
            assert!(woken > 900, "{woken}");
        }
    }

    #[test]
    fn requests_that_wait_for_one_start_take_one_token() {
        let (limiter, _, _) = limiter();
        let start = Instant::now();
        for second in 0..599 {
            let now = start + Duration::from_secs(second);
            assert_eq!(limiter.wake(&chat(), 1, now), Ok(()), "{second}");
        }
        let late = limiter.wake(&chat(), 1, start + MAX_START);
        assert_eq!(late, Err(HOUR - MAX_START));
        assert_eq!(
            limiter
                .metrics
                .wakes
                .get_or_create(&ServiceLabel::of(&chat()))
                .get(),
            1
        );
    }

    #[test]
    fn series_are_bounded_and_those_of_services_that_are_gone_go() {
        let (limiter, routes, route) = limiter();
        let now = Instant::now();
        for number in 0..5_000 {
            let key = ("ns".to_owned(), number.to_string());
            routes.set(key.clone(), route.clone());
            assert_eq!(limiter.wake(&key, 60, now), Ok(()));
            if number % 2 == 0 {
                routes.set(key, Route::default());
            }
        }
        let state = limiter.state.lock().unwrap();
        assert!(state.services.len() < 5_000 && state.series <= MAX_SERIES);
        drop(state);
        let others = limiter
            .metrics
            .wakes
            .get_or_create(&ServiceLabel::others())
            .get();
        assert!((1_000..5_000).contains(&others), "{others}");
    }
}
