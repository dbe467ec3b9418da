//! What is to be done next: for each object its newest order, whether what it owns is to be
//! compared, and whether its status is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use bursar_core::model::{Key, Name};
use jiff::{SignedDuration, Timestamp};

use super::order::{Order, Target};
use super::status::StatusInput;
use crate::api_calls::RetryPace;
use crate::backoff::Backoff;
use crate::object_key::ObjectKey;

/// A latch that cannot be written is tried again after this long at the latest.
const LATCH_RETRY: SignedDuration = SignedDuration::from_secs(5);
/// Orders to stop wait no longer for a latch to be on record.
const LATCH_WAIT: SignedDuration = SignedDuration::from_secs(10);
/// Nothing waits longer, whatever the clock does.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(10);

/// What goes first. Of two alike, the one that has waited longer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Lane {
    /// The status of a budget whose latch changed.
    Latch,
    /// Orders for workloads.
    Order,
    /// Evictions of pods of no workload.
    Eviction,
    /// Owned objects that may differ from what they should be.
    Owned,
    /// Statuses.
    Status,
}

/// Something to be done.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Task {
    /// The owned objects of a workload are made what they should be, with the newest order.
    Apply(ObjectKey, Option<Order>),
    /// The status of an object is written if it is due.
    Status(ObjectKey, Box<StatusInput>),
}

impl Task {
    /// The object.
    pub(crate) fn subject(&self) -> &ObjectKey {
        match self {
            Self::Apply(subject, _) | Self::Status(subject, _) => subject,
        }
    }
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is done; it is to be done again at this time, though nothing happens.
    Done(Option<Timestamp>),
    /// It waits until this time at the latest: an order for its workload's record, a status for
    /// the cache to show the last one.
    Waits(Timestamp),
    /// It failed, and is tried again.
    Failed {
        /// How soon.
        pace: RetryPace,
        /// What the workload's condition says; `None` if the next try will do.
        message: Option<String>,
        /// The order was carried out; something else that the workload owns is not what it should
        /// be.
        order_done: bool,
        /// What failed waits alone: what comes meanwhile is done at once.
        is_aside: bool,
    },
}

/// When a kind of task may begin.
#[derive(Debug, Default)]
struct Slot {
    /// The lane and time of the entry in the queue.
    queued: Option<(Lane, Timestamp)>,
    is_running: bool,
    /// Not before this time, because it failed.
    not_before: Option<Timestamp>,
    backoff: Backoff,
}

impl Slot {
    fn succeed(&mut self) {
        (self.backoff, self.not_before) = (Backoff::default(), None);
    }

    fn fail(&mut self, pace: RetryPace, subject: &ObjectKey, now: Timestamp) {
        let mut hasher = DefaultHasher::new();
        subject.hash(&mut hasher);
        let wait = self.backoff.after(pace, hasher.finish());
        self.not_before = now.checked_add(wait).ok();
    }
}

#[derive(Debug, Default)]
struct Entry {
    apply: Slot,
    order: Option<Order>,
    compares: bool,
    waits_for_record: bool,
    /// The record may have come while the task ran.
    record_came: bool,
    /// What the order that failed last was to bring about: the same waits until it is tried again,
    /// another one does not.
    failed_target: Option<Target>,
    /// Why what it owns is not what it should be.
    failure: Option<String>,
    status: Slot,
    input: Option<StatusInput>,
    /// Something that the status is made of has changed since its task began: the decision, or
    /// what the task reads itself.
    is_outdated: bool,
}

/// The tasks that wait.
#[derive(Debug, Default)]
pub(crate) struct WorkQueue {
    entries: HashMap<ObjectKey, Entry>,
    lanes: BTreeMap<Lane, BTreeSet<(Timestamp, ObjectKey)>>,
    /// Since when latches of a namespace's budgets have not been on record.
    latches: BTreeMap<Name, BTreeMap<Name, Timestamp>>,
}

/// The lane of what is to be done for a workload or pod.
fn lane_of(order: Option<&Order>) -> Lane {
    match order {
        Some(Order::Service(_) | Order::Job(_)) => Lane::Order,
        Some(Order::Eviction(_)) => Lane::Eviction,
        None => Lane::Owned,
    }
}

impl WorkQueue {
    /// Takes an order.
    pub(crate) fn order(&mut self, subject: ObjectKey, order: Order, now: Timestamp) {
        let entry = self.entries.entry(subject.clone()).or_default();
        let target = order.target();
        let failed = entry.failed_target.as_ref();
        if failed.is_some_and(|failed| !failed.is_of_same_object(&target)) {
            entry.apply.succeed();
            (entry.failed_target, entry.failure) = (None, None);
        }
        entry.order = Some(match entry.order.take() {
            Some(earlier) => order.after(earlier),
            None => order,
        });
        // an order that starts nothing any more waits for no record
        if !entry.order.as_ref().is_some_and(Order::starts) && entry.waits_for_record {
            entry.waits_for_record = false;
            entry.apply.not_before = None;
        }
        self.queue_apply(&subject, now);
    }

    /// Takes that what a workload owns may differ from what it should be.
    pub(crate) fn compare(&mut self, subject: ObjectKey, now: Timestamp) {
        self.entries.entry(subject.clone()).or_default().compares = true;
        self.queue_apply(&subject, now);
    }

    /// Takes that the status of an object may be another.
    pub(crate) fn status(&mut self, subject: ObjectKey, input: StatusInput, now: Timestamp) {
        let entry = self.entries.entry(subject.clone()).or_default();
        (entry.input, entry.is_outdated) = (Some(input), true);
        self.queue_status(&subject, now);
    }

    /// Takes that the latch of a budget is to be on record: orders to stop wait for it.
    pub(crate) fn latch(&mut self, budget: &Key, now: Timestamp) {
        let latches = self.latches.entry(budget.namespace.clone()).or_default();
        latches.entry(budget.name.clone()).or_insert(now);
    }

    /// Whether stops no longer wait for the latch of a budget, which is still not on record.
    pub(crate) fn is_latch_overdue(&self, budget: &Key, now: Timestamp) -> bool {
        let latches = self.latches.get(&budget.namespace);
        let since = latches.and_then(|latches| latches.get(&budget.name));
        since.is_some_and(|since| now.duration_since(*since) >= LATCH_WAIT)
    }

    /// Whether the latch of this budget is to be on record and is not.
    fn is_latch_pending(&self, subject: &ObjectKey) -> bool {
        let ObjectKey::Budget(key) = subject else {
            return false;
        };
        let latches = self.latches.get(&key.namespace);
        latches.is_some_and(|latches| latches.contains_key(&key.name))
    }

    /// Takes that the record of a workload may be there.
    pub(crate) fn record_changed(&mut self, subject: &ObjectKey, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(subject) else {
            return;
        };
        entry.record_came = true;
        if std::mem::take(&mut entry.waits_for_record) {
            entry.apply.not_before = None;
            self.queue_apply(subject, now);
        }
    }

    /// Why what a workload owns is not what it should be.
    pub(crate) fn failure(&self, subject: &ObjectKey) -> Option<String> {
        self.entries.get(subject)?.failure.clone()
    }

    /// Takes that an object was edited: what was refused may be taken now.
    pub(crate) fn retry(&mut self, subject: &ObjectKey, now: Timestamp) {
        let Some(entry) = self.entries.get_mut(subject) else {
            return;
        };
        entry.apply.succeed();
        entry.status.succeed();
        entry.failed_target = None;
        if entry.order.is_some() || entry.compares {
            self.queue_apply(subject, now);
        }
    }

    /// When the next task is due.
    pub(crate) fn next_due(&self) -> Option<Timestamp> {
        let first = self.lanes.values().filter_map(|lane| lane.first());
        first.map(|(at, _)| *at).min()
    }

    /// Whether an order is due.
    pub(crate) fn has_due_order(&self, now: Timestamp) -> bool {
        let first = self.lanes.get(&Lane::Order).and_then(|lane| lane.first());
        first.is_some_and(|(at, _)| *at <= now)
    }

    /// The next task of these lanes that is due.
    pub(crate) fn take(&mut self, lanes: &[Lane], now: Timestamp) -> Option<Task> {
        for lane in lanes {
            while let Some(subject) = self.pop(*lane, now) {
                if let Some(task) = self.begin(*lane, subject, now) {
                    return Some(task);
                }
            }
        }
        None
    }

    fn pop(&mut self, lane: Lane, now: Timestamp) -> Option<ObjectKey> {
        let waiting = self.lanes.get_mut(&lane)?;
        let (at, _) = waiting.first()?;
        if *at > now && at.duration_since(now) < LONGEST_WAIT {
            return None;
        }
        waiting.pop_first().map(|(_, subject)| subject)
    }

    fn begin(&mut self, lane: Lane, subject: ObjectKey, now: Timestamp) -> Option<Task> {
        let entry = self.entries.get_mut(&subject)?;
        let is_status = matches!(lane, Lane::Latch | Lane::Status);
        let slot = match is_status {
            true => &mut entry.status,
            false => &mut entry.apply,
        };
        slot.queued = None;
        if is_status {
            slot.is_running = true;
            entry.is_outdated = false;
            let input = Box::new(entry.input.clone()?);
            return Some(Task::Status(subject, input));
        }
        let waits = entry.order.as_ref().is_some_and(Order::is_after_latch);
        if waits && let Some(until) = self.latched_at(&subject.key().namespace, now) {
            self.insert(lane, until, subject);
            return None;
        }
        let entry = self.entries.get_mut(&subject)?;
        entry.apply.is_running = true;
        (entry.compares, entry.record_came) = (false, false);
        Some(Task::Apply(subject, entry.order.take()))
    }

    /// Until when orders to stop in a namespace wait for a latch.
    fn latched_at(&self, namespace: &Name, now: Timestamp) -> Option<Timestamp> {
        let latches = self.latches.get(namespace)?;
        let until = latches
            .values()
            .filter_map(|since| since.checked_add(LATCH_WAIT).ok());
        // after the clock was set back, what lies in the future is over
        let waits = |until: &Timestamp| {
            let left = until.duration_since(now);
            left.is_positive() && left <= LATCH_WAIT
        };
        until.filter(waits).max()
    }

    /// Takes how a task ended. Returns whether the failure of its workload has changed, which its
    /// status tells.
    pub(crate) fn finish(&mut self, task: &Task, outcome: &Outcome, now: Timestamp) -> bool {
        match task {
            Task::Apply(subject, order) => self.finish_apply(subject, order.as_ref(), outcome, now),
            Task::Status(subject, input) => {
                self.finish_status(subject, input, outcome, now);
                false
            }
        }
    }

    fn finish_apply(
        &mut self,
        subject: &ObjectKey,
        order: Option<&Order>,
        outcome: &Outcome,
        now: Timestamp,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(subject) else {
            return false;
        };
        entry.apply.is_running = false;
        let mut again = now;
        let failure = match outcome {
            Outcome::Done(look_at) => {
                entry.apply.succeed();
                entry.failed_target = None;
                if let Some(at) = look_at.filter(|_| entry.order.is_none() && !entry.compares) {
                    (entry.compares, again) = (true, at);
                }
                None
            }
            Outcome::Waits(until) => {
                // what was ordered meanwhile is newer
                entry.order = match (entry.order.take(), order.cloned()) {
                    (Some(newer), Some(order)) => Some(newer.after(order)),
                    (newer, order) => newer.or(order),
                };
                let starts = entry.order.as_ref().is_some_and(Order::starts);
                entry.waits_for_record = starts && !entry.record_came;
                entry.apply.not_before = Some(*until).filter(|_| entry.waits_for_record);
                None
            }
            Outcome::Failed {
                pace,
                message,
                order_done,
                is_aside,
            } => {
                entry.apply.fail(*pace, subject, now);
                if *is_aside {
                    let not_before = entry.apply.not_before.take();
                    let has_more = entry.order.is_some() || entry.compares;
                    again = not_before.filter(|_| !has_more).unwrap_or(now);
                }
                let failed = order.filter(|_| !order_done);
                entry.failed_target = failed.map(Order::target);
                if failed.is_some() {
                    // it is decided anew, from what there is
                    entry.order = None;
                }
                entry.compares = true;
                message.clone()
            }
        };
        let has_changed = entry.failure != failure;
        entry.failure = failure;
        if entry.order.is_some() || entry.compares {
            self.queue_apply(subject, again);
        }
        self.forget_idle(subject);
        has_changed
    }

    fn finish_status(
        &mut self,
        subject: &ObjectKey,
        input: &StatusInput,
        outcome: &Outcome,
        now: Timestamp,
    ) {
        let is_latch = self.is_latch_pending(subject);
        let Some(entry) = self.entries.get_mut(subject) else {
            return;
        };
        entry.status.is_running = false;
        match outcome {
            Outcome::Done(again) => {
                entry.status.succeed();
                let is_outdated = entry.is_outdated;
                self.note_latch(subject, input);
                match again {
                    _ if is_outdated => self.queue_status(subject, now),
                    Some(at) => {
                        let latest = now.saturating_add(LONGEST_WAIT / 2).unwrap_or(now);
                        self.queue_status(subject, (*at).min(latest));
                    }
                    None => {}
                }
            }
            Outcome::Failed { pace, .. } => {
                entry.status.fail(*pace, subject, now);
                if is_latch {
                    // stops wait for it, and then a person must know
                    let soon = now.saturating_add(LATCH_RETRY).unwrap_or(now);
                    entry.status.not_before = entry.status.not_before.map(|at| at.min(soon));
                }
                self.queue_status(subject, now);
            }
            Outcome::Waits(until) => self.queue_status(subject, *until),
        }
        self.forget_idle(subject);
    }

    /// A budget's status is on record, and its latch with it: what waited for it goes on.
    fn note_latch(&mut self, subject: &ObjectKey, input: &StatusInput) {
        let ObjectKey::Budget(key) = subject else {
            return;
        };
        let newest = self
            .entries
            .get(subject)
            .and_then(|entry| entry.input.as_ref());
        if newest.is_some_and(|newest| newest.latch() != input.latch()) {
            return;
        }
        let Some(latches) = self.latches.get_mut(&key.namespace) else {
            return;
        };
        latches.remove(&key.name);
        if latches.is_empty() {
            self.latches.remove(&key.namespace);
            let lanes = [Lane::Order, Lane::Eviction].into_iter();
            let waiting = lanes.filter_map(|lane| self.lanes.get(&lane)).flatten();
            let all = waiting.filter(|(_, of)| of.key().namespace == key.namespace);
            let all: Vec<ObjectKey> = all.map(|(_, of)| of.clone()).collect();
            for subject in all {
                self.queue_apply(&subject, Timestamp::MIN);
            }
        }
    }

    /// Puts a workload where it belongs among those whose objects are to be changed.
    fn queue_apply(&mut self, subject: &ObjectKey, at: Timestamp) {
        let Some(entry) = self.entries.get_mut(subject) else {
            return;
        };
        if entry.apply.is_running {
            return;
        }
        let lane = lane_of(entry.order.as_ref());
        // what failed for another reason than this order does not hold it up
        let waits = match &entry.order {
            Some(order) => {
                entry.waits_for_record || entry.failed_target.as_ref() == Some(&order.target())
            }
            None => true,
        };
        let not_before = entry.apply.not_before.filter(|_| waits);
        let at = not_before.map_or(at, |not_before| at.max(not_before));
        self.insert(lane, at, subject.clone());
    }

    /// Puts an object among those whose statuses may be written, at the earliest of the times asked
    /// for.
    fn queue_status(&mut self, subject: &ObjectKey, at: Timestamp) {
        let lane = match self.is_latch_pending(subject) {
            true => Lane::Latch,
            false => Lane::Status,
        };
        let Some(entry) = self.entries.get_mut(subject) else {
            return;
        };
        if entry.status.is_running || entry.input.is_none() {
            return;
        }
        let at = entry
            .status
            .not_before
            .map_or(at, |not_before| at.max(not_before));
        let queued = entry.status.queued.filter(|(queued, _)| *queued == lane);
        let at = queued.map_or(at, |(_, queued)| at.min(queued));
        self.insert(lane, at, subject.clone());
    }

    fn insert(&mut self, lane: Lane, at: Timestamp, subject: ObjectKey) {
        let Some(entry) = self.entries.get_mut(&subject) else {
            return;
        };
        let slot = match lane {
            Lane::Latch | Lane::Status => &mut entry.status,
            Lane::Order | Lane::Eviction | Lane::Owned => &mut entry.apply,
        };
        if let Some((lane, at)) = slot.queued.replace((lane, at))
            && let Some(waiting) = self.lanes.get_mut(&lane)
        {
            waiting.remove(&(at, subject.clone()));
        }
        self.lanes.entry(lane).or_default().insert((at, subject));
    }

    /// Forgets an object that nothing is remembered of and nothing is to be done for.
    fn forget_idle(&mut self, subject: &ObjectKey) {
        let is_idle = |slot: &Slot| {
            !slot.is_running && slot.queued.is_none() && slot.backoff == Backoff::default()
        };
        let entry = self.entries.get(subject);
        if entry.is_some_and(|entry| {
            is_idle(&entry.apply) && is_idle(&entry.status) && entry.failure.is_none()
        }) {
            self.entries.remove(subject);
        }
    }
}

#[cfg(test)]
#[path = "../tests/work_queue.rs"]
mod tests;
