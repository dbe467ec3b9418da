//! Rollouts that cannot finish.

use jiff::{SignedDuration, Timestamp};

use super::event::{Pod, Rollout};
use super::service::failed_at;

/// A rollout in which no further pod was replaced for this long is stuck, as a Deployment's
/// `progressDeadlineSeconds` says if nobody sets it.
const STUCK_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// How far a rollout is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RolloutProgress {
    rollout: Rollout,
    /// Since when it has had as many pods of the new template as it has.
    since: Timestamp,
    /// Since when it has been stuck, as it was last looked at.
    stuck_since: Option<Timestamp>,
}

impl RolloutProgress {
    /// What follows from what a Deployment shows.
    pub(crate) fn next(before: Option<Self>, rollout: Rollout, now: Timestamp) -> Self {
        let same = before.filter(|before| before.rollout.updated == rollout.updated);
        let since = same.map_or(now, |before| before.since);
        Self {
            rollout,
            since,
            stuck_since: before.and_then(|before| before.stuck_since),
        }
    }

    /// Takes whether it is stuck. Returns why, if it is, and when that or what it is stuck with may
    /// change with time. `failures` are those of pods that are not ready: why, and from when on they
    /// count.
    pub(crate) fn observe(
        &mut self,
        failures: &[(String, Timestamp)],
        now: Timestamp,
    ) -> (Option<String>, Option<Timestamp>) {
        let (why, next) = self.why_stuck(failures, now);
        let is_stuck = why.is_some();
        self.stuck_since = is_stuck.then(|| self.stuck_since.unwrap_or(now));
        let later = failures.iter().map(|(_, failed)| *failed);
        let later = later.filter(|at| is_stuck && now < *at);
        (why, next.into_iter().chain(later).min())
    }

    /// Whether it is stuck with this pod, which does not work. Those that came later may work yet,
    /// unless they have failed.
    pub(crate) fn is_stuck_with(&self, pod: &Pod, now: Timestamp) -> bool {
        let failure = pod.start_failure.as_ref();
        let has_failed = failure.is_some_and(|(_, since)| failed_at(*since) <= now);
        has_failed || self.stuck_since.is_some_and(|since| pod.created <= since)
    }

    /// Why it is stuck, if it is, or when it may be.
    fn why_stuck(
        &self,
        failures: &[(String, Timestamp)],
        now: Timestamp,
    ) -> (Option<String>, Option<Timestamp>) {
        if let Some((why, _)) = failures.iter().find(|(_, failed)| now >= *failed) {
            return (Some(why.clone()), None);
        }
        if self.rollout.deadline_exceeded {
            return (Some("its progress deadline is over".to_owned()), None);
        }
        let counts_at = self.since.saturating_add(STUCK_AFTER).unwrap_or(self.since);
        if now >= counts_at {
            let minutes = STUCK_AFTER.as_mins();
            return (Some(format!("no pod was replaced for {minutes} min")), None);
        }
        let failures = failures.iter().map(|(_, failed)| *failed);
        (None, failures.chain([counts_at]).min())
    }
}
