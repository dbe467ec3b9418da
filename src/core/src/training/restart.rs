//! Restarts of a gang: when a worker ends badly, all workers stop, and all start again.

use jiff::{SignedDuration, Timestamp};

/// A gang starts again so long after a worker has ended, twice as long after each further failure, ...
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(10);
/// ... but not longer than this.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(10);
/// The wait grows in the same way with each disruption in a row. One after a run that lasted so long is the
/// first again.
const LASTING_RUN: SignedDuration = SignedDuration::from_mins(10);

/// Room is kept for a gang that waits for no longer than this, however long it has run.
const SHORT_WAIT: SignedDuration = SignedDuration::from_mins(1);

/// All workers of a gang stop, and start again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restart {
    /// How often a worker has failed so far, this time included if it counts.
    pub count: u32,
    /// It does not start before.
    pub at: Timestamp,
    /// How often in a row the cluster has interrupted it, this time included, without a run that lasted.
    pub disruptions: u32,
}

/// Why the workers that run cannot go on as a gang.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// What became of which worker.
    pub why: String,
    /// A worker has failed by itself. What the cluster takes away counts against no limit.
    pub is_failure: bool,
}

/// What restarts a gang has had, and may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    /// How often a worker has failed.
    pub count: u32,
    /// How often a worker may fail before the gang has failed.
    pub limit: u32,
    /// How often in a row the cluster has interrupted it.
    pub disruptions: u32,
    /// When its present run began, by its Jobs.
    pub began: Option<Timestamp>,
    /// It was stopped to start again, and does not start before.
    pub waits_until: Option<Timestamp>,
    /// Its room and its money are kept meanwhile.
    pub keeps_reservation: bool,
    /// Why the workers of the last run cannot go on.
    pub interruption: Option<Interruption>,
}

impl Restarts {
    /// Whether the gang has failed for good.
    pub fn are_used_up(&self) -> bool {
        self.count > self.limit
    }

    /// The restart for which the gang was stopped.
    pub(super) fn under_way(&self) -> Option<Restart> {
        self.waits_until.map(|at| Restart {
            count: self.count,
            at,
            disruptions: self.disruptions,
        })
    }

    /// The restart because of this interruption. One that is under way already is not counted again.
    pub(super) fn next(&self, interruption: &Interruption, now: Timestamp) -> Restart {
        if let Some(restart) = self.under_way() {
            return restart;
        }
        let count = self
            .count
            .saturating_add(u32::from(interruption.is_failure));
        let began = self
            .began
            .filter(|began| now.duration_since(*began) < LASTING_RUN);
        let before = began.map_or(0, |_| self.disruptions);
        let disruptions = before.saturating_add(u32::from(!interruption.is_failure));
        let wait = match interruption.is_failure {
            true => wait_after(count),
            false => wait_after(disruptions),
        };
        Restart {
            count,
            at: now.saturating_add(wait).unwrap_or(now),
            disruptions,
        }
    }

    /// Whether its room is kept until this restart: not for longer than it has run, or for a short wait. A gang
    /// that fails as soon as it starts would have its GPUs stand idle nearly all of the time.
    pub(super) fn is_worth_room(&self, restart: Restart, now: Timestamp) -> bool {
        let wait = restart.at.duration_since(now);
        let has_run = |began| now.duration_since(began) >= wait;
        wait <= SHORT_WAIT || self.began.is_none_or(has_run)
    }

    /// What has happened and what comes next, for people.
    pub(super) fn describe(&self, restart: Restart) -> String {
        let interruption = self.interruption.as_ref();
        let why = interruption.map_or("a worker has ended", |found| &found.why);
        let (count, limit) = (restart.count, self.limit);
        let counted = match interruption {
            Some(found) if !found.is_failure => match restart.disruptions {
                0 | 1 => "which counts against no limit".to_owned(),
                times => format!("which counts against no limit ({times} times in a row)"),
            },
            _ if count > limit => {
                return format!("{why}; all {limit} restarts are used up: the job has failed");
            }
            _ => format!("restart {count} of {limit}"),
        };
        format!(
            "{why}; all workers start again, {counted}, not before {}",
            restart.at
        )
    }
}

/// How long a gang waits after the last of so many failures or disruptions.
fn wait_after(times: u32) -> SignedDuration {
    let doublings = times.saturating_sub(1).min(10);
    FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT)
}
