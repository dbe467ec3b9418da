//! Decides when a status is written, so that readings which come and go write little.
//!
//! | values | written |
//! |---|---|
//! | what was decided, the phase, the latch, most conditions | at once |
//! | counts of pods, and the conditions that follow them | at once, but 2 s after the last write |
//! | [`Readings`]: values that follow readings | once they have kept one value for a while |
//! | figures: amounts, queue depth, messages | with the others, or every five minutes while they change |
//!
//! Each write that [`Readings`] alone cause doubles the time for which they must keep one value,
//! from 2 s up to five minutes; five quiet minutes reset it. Readings that come and go without end
//! cause at most 18 writes in any 15 minutes, whatever their rhythm, and 7 where they alternate in
//! a fixed rhythm. Everything is compared with the status that the object has, so a write that
//! failed is due again at the next look.

use std::hash::{DefaultHasher, Hash, Hasher};

use bursar_api::conditions::{PODS_HEALTHY, pods_healthy};
use bursar_core::plan::LimitedBy;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Resource;
use serde::Serialize;

/// Counts alone are written this long after the last write at the earliest: the pods of a workload
/// come one after the other, and a thousand workloads may grow at once.
const COUNTS_PACE: SignedDuration = SignedDuration::from_secs(2);
/// Figures alone are written at most this often.
const FIGURES_PACE: SignedDuration = SignedDuration::from_mins(5);
/// Readings must keep one value for at least this long.
const SHORTEST_WAIT: SignedDuration = SignedDuration::from_secs(2);
/// Readings need keep one value for no longer than this.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(5);
/// Readings that are written and do not change for this long are quiet.
const QUIET: SignedDuration = SignedDuration::from_mins(5);
/// After so many doublings the wait is the longest.
const MOST_DOUBLINGS: u32 = 8;

/// What becomes of an object's status now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NextStatus<S> {
    /// The status to write now; `None` if the present one is good enough.
    pub(crate) status: Option<S>,
    /// When the object must be looked at again though nothing happens; `None` if time alone
    /// changes nothing. Later than now.
    pub(crate) look_at: Option<Timestamp>,
}

/// The values of a status that follow readings, which may come and go.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Readings {
    /// Replicas that the demand asks for.
    pub(crate) desired_replicas: Option<i32>,
    /// The place in the queue.
    pub(crate) queue_position: Option<i32>,
    /// The cause that limits a workload.
    pub(crate) limited_by: Option<LimitedBy>,
    /// Amounts of money that stay once nothing changes.
    pub(crate) amounts: Vec<String>,
    /// Types of conditions that follow readings, each with what is compared of it.
    pub(crate) conditions: Vec<(String, String, String)>,
    /// Why signals cannot be read.
    pub(crate) signal_errors: Vec<String>,
    /// The words of the reason, without its numbers.
    pub(crate) reason: String,
}

/// The words of a text, without its numbers: amounts and times may be others each second.
pub(crate) fn words(text: &str) -> String {
    text.replace(|each: char| each.is_ascii_digit(), "")
}

/// How the status that is computed now differs from the one that the object has.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// There is no status yet, or a value differs that is written at once.
    pub(crate) at_once: bool,
    /// A count of pods differs, or a condition that follows one.
    pub(crate) counts: bool,
    /// The readings in the object's status.
    pub(crate) written: Readings,
    /// The readings now.
    pub(crate) present: Readings,
    /// A figure differs.
    pub(crate) figures: bool,
    /// Money is spent, so figures change with time.
    pub(crate) spending: bool,
    /// When the figures in the object's status were computed.
    pub(crate) as_of: Option<Timestamp>,
    /// When a condition changes with time alone.
    pub(crate) changes_at: Option<Timestamp>,
}

/// What is remembered of the writes of one object's status.
#[derive(Clone, Debug, Default)]
pub(crate) struct StatusPacing {
    /// UID of the object; one of the same name that is made anew is another.
    uid: Option<String>,
    /// The readings at the last look.
    present: Option<Readings>,
    /// Since when they have been the same.
    since: Option<Timestamp>,
    /// Writes that readings alone have caused since they were quiet.
    doublings: u32,
    /// The last write that readings alone caused.
    readings_written_at: Option<Timestamp>,
    /// The last write that the object shows.
    written_at: Option<Timestamp>,
    /// The last write that was asked for, until the object shows it.
    sent: Option<Sent>,
}

#[derive(Clone, Debug)]
struct Sent {
    at: Timestamp,
    by_readings: bool,
    /// Fingerprint of the status that it replaces.
    replaces: u64,
}

impl StatusPacing {
    /// Whether `status` is written now in place of `old`, the one that `object` has.
    pub(crate) fn next<S: Serialize>(
        &mut self,
        object: &impl Resource,
        old: Option<&S>,
        status: S,
        change: Change,
        now: Timestamp,
    ) -> NextStatus<S> {
        let uid = object.meta().uid.as_ref();
        if self.uid.as_ref() != uid {
            *self = Self {
                uid: uid.cloned(),
                ..Self::default()
            };
        }
        self.forget_the_future(now);
        self.confirm(old);
        self.observe(&change, now);
        let differs = change.written != change.present;
        let settles_at = self.since.map_or(now, |since| after(since, self.wait()));
        let readings_due = differs && now >= settles_at;
        let figures_at = self
            .last_write(change.as_of, now)
            .map(|at| after(at, FIGURES_PACE));
        let figures_due = change.figures && figures_at.is_none_or(|at| now >= at);
        let counts_at = self.last_sent().map_or(now, |at| after(at, COUNTS_PACE));
        let counts_due = change.counts && now >= counts_at;
        let writes = change.at_once || counts_due || readings_due || figures_due;
        if writes {
            self.sent = Some(Sent {
                at: now,
                by_readings: readings_due && !change.at_once && !counts_due && !figures_due,
                replaces: fingerprint(old),
            });
        }
        let in_future = |at: &Timestamp| *at > now;
        let next_figures = figures_at
            .filter(|at| !writes && in_future(at))
            .unwrap_or_else(|| after(now, FIGURES_PACE));
        let grows = change.spending || (change.figures && !writes);
        let looks = [
            grows.then_some(next_figures),
            (differs && !writes).then_some(settles_at),
            (change.counts && !writes).then_some(counts_at),
            change.changes_at,
        ];
        NextStatus {
            status: writes.then_some(status),
            look_at: looks.into_iter().flatten().filter(in_future).min(),
        }
    }

    /// How long readings must keep one value.
    fn wait(&self) -> SignedDuration {
        let factor = 1 << self.doublings.min(MOST_DOUBLINGS);
        (SHORTEST_WAIT * factor).min(LONGEST_WAIT)
    }

    /// After the clock was set back, what lies in the future has just happened.
    fn forget_the_future(&mut self, now: Timestamp) {
        let times = [
            &mut self.since,
            &mut self.readings_written_at,
            &mut self.written_at,
        ];
        for at in times {
            *at = at.map(|at| at.min(now));
        }
        if let Some(sent) = &mut self.sent {
            sent.at = sent.at.min(now);
        }
    }

    /// Counts the write that was asked for last, if the object shows another status since then.
    fn confirm<S: Serialize>(&mut self, old: Option<&S>) {
        let arrived = |sent: &mut Sent| sent.replaces != fingerprint(old);
        let Some(sent) = self.sent.take_if(arrived) else {
            return;
        };
        self.written_at = Some(sent.at);
        if sent.by_readings {
            self.readings_written_at = Some(sent.at);
            self.doublings = (self.doublings + 1).min(MOST_DOUBLINGS);
        }
    }

    /// Notes since when the readings have been the same.
    fn observe(&mut self, change: &Change, now: Timestamp) {
        if self.present.as_ref() == Some(&change.present) {
            return;
        }
        // those that have not been written are not quiet: they wait
        let was_written = self.present.as_ref() == Some(&change.written);
        let last = self.since.max(self.readings_written_at);
        if was_written && last.is_some_and(|at| now.duration_since(at) >= QUIET) {
            self.doublings = 0;
        }
        self.present = Some(change.present.clone());
        self.since = Some(now);
    }

    /// The last write that was asked for, whether the object shows it or not.
    fn last_sent(&self) -> Option<Timestamp> {
        let sent = self.sent.as_ref().map(|sent| sent.at);
        sent.max(self.written_at)
    }

    /// The last write, by memory or, after a change of leader, by the status itself. A time far in
    /// the future, of a clock that was wrong, is none.
    fn last_write(&self, as_of: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
        let as_of = as_of.filter(|at| at.duration_since(now) < FIGURES_PACE);
        self.written_at.max(as_of)
    }
}

fn after(at: Timestamp, wait: SignedDuration) -> Timestamp {
    at.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

/// A number that differs where statuses differ.
fn fingerprint<S: Serialize>(status: Option<&S>) -> u64 {
    let mut hasher = DefaultHasher::new();
    // a status that cannot be written as JSON was not read from the API server either
    serde_json::to_string(&status)
        .unwrap_or_default()
        .hash(&mut hasher);
    hasher.finish()
}

/// Of conditions that do not follow readings, what is written at once: types, statuses, reasons.
pub(crate) fn decisive_conditions(conditions: &mut Vec<Condition>, following: &[&str]) {
    conditions.retain(|condition| !following.contains(&condition.type_.as_str()));
    for condition in conditions.iter_mut() {
        condition.message.clear();
        condition.observed_generation = None;
        condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
    }
    conditions.sort_by(|one, other| one.type_.cmp(&other.type_));
}

/// The status and reason of a condition that follows counts of pods.
pub(crate) fn counted_condition<'a>(
    conditions: &'a [Condition],
    type_: &str,
) -> Option<(&'a str, &'a str)> {
    let condition = conditions
        .iter()
        .find(|condition| condition.type_ == type_)?;
    Some((&condition.status, &condition.reason))
}

/// Of conditions that follow readings, statuses and reasons; and why a decision could not be
/// applied, since the API server's answers may alternate.
pub(crate) fn reading_conditions(
    conditions: &[Condition],
    following: &[&str],
) -> Vec<(String, String, String)> {
    let compared = |condition: &Condition| {
        let kind = condition.type_.as_str();
        if following.contains(&kind) {
            let (status, reason) = (condition.status.clone(), condition.reason.clone());
            return Some((kind.to_owned(), status, reason));
        }
        let failed = pods_healthy::APPLY_FAILED.as_str();
        let is_failure = kind == PODS_HEALTHY && condition.reason == failed;
        is_failure.then(|| (kind.to_owned(), String::new(), condition.message.clone()))
    };
    let mut all: Vec<_> = conditions.iter().filter_map(compared).collect();
    all.sort();
    all
}

/// The messages of conditions, which are figures.
pub(crate) fn messages(conditions: &[Condition]) -> Vec<&str> {
    let messages = conditions.iter();
    messages
        .map(|condition| condition.message.as_str())
        .collect()
}

#[cfg(test)]
#[path = "tests/status_pacing.rs"]
mod tests;
