//! Leader election by a Lease: one holder at a time, because the API server accepts only one of two
//! competing writes.
//!
//! Every write has the resourceVersion that was read, so one of two candidates wins. The times in
//! the Lease are for people: a candidate measures how long it has seen the Lease unchanged itself,
//! so clocks need not agree. A holder that cannot renew the Lease gives up leadership before
//! another candidate may acquire it.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;

/// A candidate for a Lease.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The Lease's namespace.
    pub namespace: String,
    /// The Lease's name.
    pub name: String,
    /// The candidate's name, unique among candidates: the name of its pod.
    pub identity: String,
    /// The time for which a Lease is valid after it was renewed.
    pub duration: Duration,
}

/// The reason for not acquiring a Lease.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process is stopping.
    #[error("stopped while waiting for leadership")]
    Stopped,
}

/// The next step of a candidate.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// Write this Lease. It has a resourceVersion unless none exists.
    Write(Box<Lease>),
    /// Wait, because another candidate holds the Lease.
    Wait,
}

/// A version of the Lease, and since when it has been seen.
#[derive(Debug, Clone)]
struct Observation {
    version: String,
    since: Instant,
}

impl Candidate {
    /// Decides the next step from the Lease, the last observation of it, and the time.
    fn step(
        &self,
        lease: Option<&Lease>,
        observed: &mut Option<Observation>,
        now: Instant,
        timestamp: Timestamp,
    ) -> Step {
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        let holder = spec
            .and_then(|spec| spec.holder_identity.as_deref())
            .filter(|holder| !holder.is_empty());
        let held_by_self = holder == Some(self.identity.as_str());
        let version = lease.and_then(Lease::resource_version).unwrap_or_default();
        let since = match observed {
            Some(observed) if observed.version == version => observed.since,
            _ => now,
        };
        *observed = Some(Observation { version, since });
        // the duration that the holder wrote counts, because it may be configured otherwise there
        let seconds = spec
            .and_then(|spec| spec.lease_duration_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok());
        let duration = seconds.map_or(self.duration, Duration::from_secs);
        if holder.is_some() && !held_by_self && now.duration_since(since) < duration {
            return Step::Wait;
        }
        let mut next = lease.cloned().unwrap_or_default();
        next.metadata.name = Some(self.name.clone());
        next.metadata.namespace = Some(self.namespace.clone());
        next.metadata.managed_fields = None;
        let transitions = spec.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        next.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: if held_by_self {
                spec.and_then(|spec| spec.acquire_time.clone())
            } else {
                Some(MicroTime(timestamp))
            },
            renew_time: Some(MicroTime(timestamp)),
            lease_transitions: Some(if held_by_self {
                transitions
            } else {
                transitions.saturating_add(1)
            }),
            ..LeaseSpec::default()
        });
        Step::Write(Box::new(next))
    }

    /// Waits until this candidate holds the Lease.
    ///
    /// # Errors
    /// [`Error::Stopped`] if `stop` comes first.
    pub async fn acquire(
        self,
        client: Client,
        stop: &CancellationToken,
    ) -> Result<Leadership, Error> {
        let api: Api<Lease> = Api::namespaced(client, &self.namespace);
        let mut observed = None;
        loop {
            let started_at = Instant::now();
            match self.attempt(&api, &mut observed).await {
                Ok(Some(lease)) => {
                    tracing::info!(lease = self.name, "leading");
                    return Ok(Leadership {
                        candidate: self,
                        api,
                        lease,
                        renewed_at: started_at,
                    });
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(lease = self.name, %error, "cannot read or write the lease")
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Err(Error::Stopped),
                () = tokio::time::sleep(self.retry_period()) => {}
            }
        }
    }

    async fn attempt(
        &self,
        api: &Api<Lease>,
        observed: &mut Option<Observation>,
    ) -> Result<Option<Lease>, String> {
        let call = async {
            let found = api.get_opt(&self.name).await?;
            match self.step(found.as_ref(), observed, Instant::now(), Timestamp::now()) {
                Step::Wait => Ok(None),
                Step::Write(lease) => {
                    let written = match found {
                        Some(_) => {
                            api.replace(&self.name, &PostParams::default(), &lease)
                                .await
                        }
                        None => api.create(&PostParams::default(), &lease).await,
                    };
                    match written {
                        Ok(lease) => Ok(Some(lease)),
                        // another candidate was quicker
                        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
                        Err(error) => Err(error),
                    }
                }
            }
        };
        tokio::time::timeout(self.retry_period() * 2, call)
            .await
            .map_err(|_| "no answer in time".to_owned())?
            .map_err(|error| error.to_string())
    }

    /// The time between two attempts to acquire or renew the Lease.
    fn retry_period(&self) -> Duration {
        self.duration / 6
    }

    /// A holder that has not renewed the Lease for this long gives up leadership, well before
    /// another candidate may acquire it.
    fn renew_deadline(&self) -> Duration {
        self.duration * 2 / 3
    }
}

/// A Lease that this process holds.
#[derive(Debug)]
pub struct Leadership {
    candidate: Candidate,
    api: Api<Lease>,
    lease: Lease,
    renewed_at: Instant,
}

impl Leadership {
    /// Renews the Lease until `stop`, and then releases it. Returns true if leadership was lost
    /// before.
    ///
    /// The process must not act as leader after this returns.
    pub async fn run(mut self, stop: CancellationToken) -> bool {
        loop {
            tokio::select! {
                () = stop.cancelled() => {
                    self.release().await;
                    return false;
                }
                () = tokio::time::sleep(self.candidate.retry_period()) => {}
            }
            let remaining = self
                .candidate
                .renew_deadline()
                .saturating_sub(self.renewed_at.elapsed());
            match tokio::time::timeout(
                remaining.min(self.candidate.retry_period() * 2),
                self.renew(),
            )
            .await
            {
                Ok(Ok(())) => {}
                Ok(Err(kube::Error::Api(status))) if status.code == 409 || status.code == 404 => {
                    tracing::error!(
                        lease = self.candidate.name,
                        "another process wrote the lease; no longer leading"
                    );
                    return true;
                }
                Ok(Err(error)) => {
                    tracing::warn!(lease = self.candidate.name, %error, "cannot renew the lease")
                }
                Err(_) => tracing::warn!(
                    lease = self.candidate.name,
                    "renewing the lease got no answer"
                ),
            }
            if self.renewed_at.elapsed() >= self.candidate.renew_deadline() {
                tracing::error!(
                    lease = self.candidate.name,
                    "the lease could not be renewed in time; no longer leading"
                );
                return true;
            }
        }
    }

    async fn renew(&mut self) -> Result<(), kube::Error> {
        let started_at = Instant::now();
        if let Some(spec) = &mut self.lease.spec {
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        self.lease = self
            .api
            .replace(&self.candidate.name, &PostParams::default(), &self.lease)
            .await?;
        self.renewed_at = started_at;
        Ok(())
    }

    async fn release(&mut self) {
        if let Some(spec) = &mut self.lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        let name = &self.candidate.name;
        let params = PostParams::default();
        let written = self.api.replace(name, &params, &self.lease);
        match tokio::time::timeout(Duration::from_secs(3), written).await {
            Ok(Ok(_)) => tracing::info!(lease = name, "released the lease"),
            Ok(Err(error)) => tracing::warn!(lease = name, %error, "cannot release the lease"),
            Err(_) => tracing::warn!(lease = name, "releasing the lease got no answer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(identity: &str) -> Candidate {
        Candidate {
            namespace: "ns".into(),
            name: "l".into(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
        }
    }

    fn timestamp() -> Timestamp {
        Timestamp::from_second(1_796_000_000).unwrap()
    }

    fn written(step: Step, version: &str) -> Lease {
        let Step::Write(mut lease) = step else {
            unreachable!("waits")
        };
        lease.metadata.resource_version = Some(version.into());
        *lease
    }

    #[test]
    fn a_lease_is_taken_only_after_it_was_seen_unchanged_for_its_duration() {
        let (a, b, now) = (candidate("a"), candidate("b"), Instant::now());
        let held = written(a.step(None, &mut None, now, timestamp()), "1");
        let mut observed = None;
        assert_eq!(
            b.step(Some(&held), &mut observed, now, timestamp()),
            Step::Wait
        );
        let late = now + Duration::from_secs(14);
        assert_eq!(
            b.step(Some(&held), &mut observed, late, timestamp()),
            Step::Wait
        );
        let mut renewed = written(a.step(Some(&held), &mut None, late, timestamp()), "2");
        assert_eq!(
            b.step(
                Some(&renewed),
                &mut observed,
                now + Duration::from_secs(20),
                timestamp()
            ),
            Step::Wait,
            "it was renewed"
        );
        let taken = written(
            b.step(
                Some(&renewed),
                &mut observed,
                now + Duration::from_secs(35),
                timestamp(),
            ),
            "3",
        );
        let spec = taken.spec.unwrap();
        assert_eq!(
            (spec.holder_identity.as_deref(), spec.lease_transitions),
            (Some("b"), Some(2))
        );
        renewed.metadata.resource_version = Some("2".into());
        assert_eq!(taken.metadata.resource_version.as_deref(), Some("3"));
    }

    #[test]
    fn a_write_carries_the_version_that_was_read() {
        let mut held = written(
            candidate("a").step(None, &mut None, Instant::now(), timestamp()),
            "7",
        );
        held.spec.as_mut().unwrap().holder_identity = Some(String::new());
        let Step::Write(next) =
            candidate("b").step(Some(&held), &mut None, Instant::now(), timestamp())
        else {
            unreachable!("a lease that was given back is free at once")
        };
        assert_eq!(next.metadata.resource_version.as_deref(), Some("7"));
    }

    #[test]
    fn a_holder_gives_up_before_another_may_take_over() {
        let candidate = candidate("a");
        assert!(candidate.renew_deadline() + candidate.retry_period() < candidate.duration);
    }
}
