//! Rollouts that cannot finish.

use jiff::{SignedDuration, Timestamp};

use super::event::Rollout;

/// A rollout in which no further pod was replaced for this long is stuck, as a Deployment's
/// `progressDeadlineSeconds` says if nobody sets it.
const STUCK_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// How far a rollout is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RolloutProgress {
    rollout: Rollout,
    /// Since when it has had as many pods of the new template as it has.
    since: Timestamp,
}

impl RolloutProgress {
    /// What follows from what a Deployment shows.
    pub(crate) fn next(before: Option<Self>, rollout: Rollout, now: Timestamp) -> Self {
        let same = before.filter(|before| before.rollout.updated == rollout.updated);
        let since = same.map_or(now, |before| before.since);
        Self { rollout, since }
    }

    /// Why it is stuck, if it is, and when that may change with time. `failures` are those of pods that
    /// are not ready: why, and from when on they count.
    pub(crate) fn why_stuck(
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
