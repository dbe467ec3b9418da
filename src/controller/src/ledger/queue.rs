//! Which account is synced next: each at most once at a time, what happened before what is due by
//! the clock, and what failed after a while.
//!
//! An account waits in one of two lanes. An event puts it into the urgent lane, where it is synced
//! as soon as one of [`MAX_RUNNING`] syncs ends, or of [`MAX_MEANWHILE`] while orders to workloads
//! wait for the same API server. A timer puts it into the background lane, which has
//! [`MAX_BACKGROUND`] of them and begins one in [`BACKGROUND_INTERVAL`] at most: when a thousand
//! accounts are due at the same moment, at the end of a day or a month, they are spread, and an
//! event passes them all. So these numbers are the ledger's budget of API calls.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bursar_api::spend::{WorkloadKind, WorkloadRef};
use tokio::time::Instant;

/// Syncs at a time.
const MAX_RUNNING: usize = 8;
/// Syncs at a time while orders to workloads wait.
const MAX_MEANWHILE: usize = 2;
/// Syncs at a time of accounts that no event made due.
const MAX_BACKGROUND: usize = 4;
/// The least time between two beginnings of such syncs.
const BACKGROUND_INTERVAL: Duration = Duration::from_millis(20);
/// The pause after somebody else wrote first, and after a call that failed; twice as long after each
/// further failure.
const CONFLICT_BACKOFF: Duration = Duration::from_millis(100);
const FAILURE_BACKOFF: Duration = Duration::from_secs(1);
/// The longest pauses.
const MAX_STALE_PAUSE: Duration = Duration::from_secs(5);
const MAX_FAILURE_PAUSE: Duration = Duration::from_secs(60);

/// How a sync ended, and so when the account is due again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SyncResult {
    /// The records hold everything; due again after this time even if nothing happens.
    Synced(Duration),
    /// The account is needed no more.
    Gone,
    /// The sync has to wait this long: for another one of its namespace, or for what it reads.
    Deferred(Duration),
    /// Somebody else wrote first.
    Stale,
    /// A call failed.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Urgent,
    Background,
}

#[derive(Debug)]
enum State {
    Waiting {
        lane: Lane,
        due: Instant,
    },
    Running {
        lane: Lane,
        /// The generation of the last event that came meanwhile.
        requested: Option<u64>,
    },
}

#[derive(Debug)]
struct Entry {
    state: State,
    /// What it is synced with must be of this generation or a later one: that of the last event.
    generation: u64,
    failures: u32,
    /// It is not synced before this, whatever happens.
    backoff_until: Instant,
}

/// An account to be synced now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DueAccount {
    pub(super) account: WorkloadRef,
    /// What it is synced with must be of this generation or a later one.
    pub(super) generation: u64,
}

/// The accounts by when they are due.
#[derive(Debug)]
pub(super) struct AccountQueue {
    entries: BTreeMap<WorkloadRef, Entry>,
    urgent: BTreeSet<(Instant, WorkloadRef)>,
    background: BTreeSet<(Instant, WorkloadRef)>,
    running: usize,
    running_background: usize,
    max_running: usize,
    /// The next beginning of a sync in the background.
    next_background: Instant,
}

impl AccountQueue {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            entries: BTreeMap::new(),
            urgent: BTreeSet::new(),
            background: BTreeSet::new(),
            running: 0,
            running_background: 0,
            max_running: MAX_RUNNING,
            next_background: now,
        }
    }

    /// Takes whether orders to workloads wait.
    pub(super) fn yield_to_orders(&mut self, orders_wait: bool) {
        self.max_running = match orders_wait {
            true => MAX_MEANWHILE,
            false => MAX_RUNNING,
        };
    }

    /// An event concerns the account: it is synced as soon as possible, or once the pause after a
    /// failure is over. What is read for it must show the event: be of this generation or later.
    pub(super) fn request(&mut self, account: &WorkloadRef, generation: u64, now: Instant) {
        self.request_in(account, Lane::Urgent, generation, now);
    }

    /// The account is due by the clock, unless it is due before.
    pub(super) fn request_in_background(&mut self, account: &WorkloadRef, now: Instant) {
        self.request_in(account, Lane::Background, 0, now);
    }

    /// A record of the account changed, or the account was asked for: it does not wait for the pause
    /// after a failure.
    pub(super) fn request_at_once(&mut self, account: &WorkloadRef, generation: u64, now: Instant) {
        if let Some(entry) = self.entries.get_mut(account) {
            entry.backoff_until = now;
        }
        self.request(account, generation, now);
    }

    /// Whether the account waits for the pause after a failure.
    pub(super) fn is_backing_off(&self, account: &WorkloadRef, now: Instant) -> bool {
        let entry = self.entries.get(account);
        entry.is_some_and(|entry| entry.failures > 0 && now < entry.backoff_until)
    }

    /// The accounts of a namespace that wait for the pause after a failure.
    pub(super) fn backing_off_in(&self, namespace: &str, now: Instant) -> Vec<WorkloadRef> {
        let first = WorkloadRef {
            namespace: namespace.to_owned(),
            kind: WorkloadKind::InferenceDeployment,
            name: String::new(),
        };
        let from_first = self.entries.range(first..).map(|(account, _)| account);
        let here = from_first.take_while(|account| account.namespace == namespace);
        here.filter(|account| self.is_backing_off(account, now))
            .cloned()
            .collect()
    }

    /// All accounts.
    pub(super) fn accounts(&self) -> impl Iterator<Item = &WorkloadRef> {
        self.entries.keys()
    }

    /// Takes an account that is due and may be synced now.
    pub(super) fn take(&mut self, now: Instant) -> Option<DueAccount> {
        let is_due = |(due, _): &&(Instant, WorkloadRef)| *due <= now;
        let lane = if self.running >= self.max_running {
            return None;
        } else if self.urgent.first().filter(is_due).is_some() {
            Lane::Urgent
        } else if self.may_begin_background(now) && self.background.first().filter(is_due).is_some()
        {
            Lane::Background
        } else {
            return None;
        };
        let (_, account) = match lane {
            Lane::Urgent => self.urgent.pop_first(),
            Lane::Background => self.background.pop_first(),
        }?;
        self.running += 1;
        if lane == Lane::Background {
            self.running_background += 1;
            self.next_background = now + BACKGROUND_INTERVAL;
        }
        let entry = self.entries.get_mut(&account)?;
        entry.state = State::Running {
            lane,
            requested: None,
        };
        let generation = entry.generation;
        Some(DueAccount {
            account,
            generation,
        })
    }

    /// When [`Self::take`] may next have an account, if no sync ends before that.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.running >= self.max_running {
            return None;
        }
        let urgent = self.urgent.first().map(|(due, _)| *due);
        let background = self.background.first().map(|(due, _)| *due);
        let background = background.filter(|_| self.running_background < MAX_BACKGROUND);
        let background = background.map(|due| due.max(self.next_background));
        urgent.into_iter().chain(background).min()
    }

    /// The sync of an account that was taken has ended. After a failure, what is read for the next
    /// one must be of this generation or later.
    pub(super) fn finish(
        &mut self,
        account: &WorkloadRef,
        result: SyncResult,
        generation: u64,
        now: Instant,
    ) {
        let Some(entry) = self.entries.get_mut(account) else {
            return;
        };
        let State::Running { lane, requested } = entry.state else {
            return;
        };
        self.running -= 1;
        if lane == Lane::Background {
            self.running_background -= 1;
        }
        let (lane, due) = match result {
            SyncResult::Gone if requested.is_none() => {
                self.entries.remove(account);
                return;
            }
            SyncResult::Gone => (Lane::Urgent, now),
            SyncResult::Synced(again_after) => {
                entry.failures = 0;
                (Lane::Background, now + again_after)
            }
            SyncResult::Deferred(wait) => (Lane::Urgent, now + wait),
            SyncResult::Stale => {
                let pause = pause(CONFLICT_BACKOFF, MAX_STALE_PAUSE, entry.failures);
                entry.failures = entry.failures.saturating_add(1);
                entry.backoff_until = now + pause;
                (Lane::Urgent, entry.backoff_until)
            }
            SyncResult::Failed => {
                let pause = pause(FAILURE_BACKOFF, MAX_FAILURE_PAUSE, entry.failures);
                entry.failures = entry.failures.saturating_add(1);
                entry.backoff_until = now + pause;
                (Lane::Background, entry.backoff_until)
            }
        };
        // an event that came meanwhile is not lost, and waits for the pause
        let (lane, due) = match requested {
            Some(_) if lane == Lane::Background => (Lane::Urgent, now.max(entry.backoff_until)),
            _ => (lane, due),
        };
        entry.generation = match (requested, result) {
            (Some(requested), _) => requested.max(entry.generation),
            (None, SyncResult::Synced(_)) => entry.generation,
            (None, _) => generation,
        };
        entry.state = State::Waiting { lane, due };
        self.lane(lane).insert((due, account.clone()));
    }

    fn request_in(&mut self, account: &WorkloadRef, lane: Lane, generation: u64, now: Instant) {
        let entry = self.entries.entry(account.clone()).or_insert(Entry {
            state: State::Waiting {
                lane: Lane::Background,
                due: now,
            },
            generation,
            failures: 0,
            backoff_until: now,
        });
        let wanted = now.max(entry.backoff_until);
        match &mut entry.state {
            State::Running { requested, .. } => {
                *requested = Some(requested.map_or(generation, |known| known.max(generation)));
            }
            State::Waiting { lane: old, due } => {
                let was = (*old, *due);
                entry.generation = entry.generation.max(generation);
                let next = match (*old, lane) {
                    (Lane::Background, Lane::Urgent) => (Lane::Urgent, wanted),
                    (Lane::Urgent, Lane::Background) => was,
                    _ => (lane, wanted.min(*due)),
                };
                (*old, *due) = next;
                self.lane(was.0).remove(&(was.1, account.clone()));
                self.lane(next.0).insert((next.1, account.clone()));
            }
        }
    }

    fn may_begin_background(&self, now: Instant) -> bool {
        self.running_background < MAX_BACKGROUND && now >= self.next_background
    }

    fn lane(&mut self, lane: Lane) -> &mut BTreeSet<(Instant, WorkloadRef)> {
        match lane {
            Lane::Urgent => &mut self.urgent,
            Lane::Background => &mut self.background,
        }
    }
}

fn pause(first: Duration, longest: Duration, failures: u32) -> Duration {
    let factor = 2_u32.saturating_pow(failures.min(16));
    first.saturating_mul(factor).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(name: &str) -> WorkloadRef {
        WorkloadRef {
            namespace: "team".into(),
            kind: bursar_api::spend::WorkloadKind::InferenceDeployment,
            name: name.into(),
        }
    }

    fn names(queue: &mut AccountQueue, now: Instant) -> Vec<String> {
        let taken = std::iter::from_fn(|| queue.take(now));
        taken.map(|due| due.account.name).collect()
    }

    const AGAIN: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn an_account_is_synced_once_at_a_time_and_no_event_is_lost() {
        let now = Instant::now();
        let mut queue = AccountQueue::new(now);
        for _ in 0..100 {
            queue.request(&account("chat"), 1, now);
        }
        assert_eq!(names(&mut queue, now), ["chat"]);
        let later = now + Duration::from_millis(5);
        for _ in 0..100 {
            queue.request(&account("chat"), 2, later);
        }
        queue.request_in_background(&account("chat"), later);
        assert_eq!(names(&mut queue, later), [""; 0], "it is being synced");
        queue.finish(&account("chat"), SyncResult::Synced(AGAIN), 3, later);
        let next = queue.take(later).unwrap();
        assert_eq!(next.generation, 2, "what it reads must be as new");
        queue.finish(&account("chat"), SyncResult::Synced(AGAIN), 3, later);
        assert_eq!(names(&mut queue, later), [""; 0]);
        assert_eq!(queue.next_due(), Some(later + AGAIN));
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_passes_all_that_is_due_by_the_clock() {
        let now = Instant::now();
        let mut queue = AccountQueue::new(now);
        for number in 0..1000 {
            queue.request_in_background(&account(&format!("{number:03}")), now);
        }
        assert_eq!(names(&mut queue, now), ["000"], "they are spread");
        for step in 1..10 {
            names(&mut queue, now + BACKGROUND_INTERVAL * step);
        }
        assert_eq!(queue.running, MAX_BACKGROUND, "slots are left for events");
        queue.request(&account("chat"), 1, now);
        assert_eq!(names(&mut queue, now), ["chat"]);
        queue.finish(&account("000"), SyncResult::Synced(AGAIN), 3, now);
        let soon = now + BACKGROUND_INTERVAL * 10;
        assert_eq!(names(&mut queue, soon), ["004"]);
    }

    #[tokio::test(start_paused = true)]
    async fn two_syncs_run_while_orders_wait() {
        let now = Instant::now();
        let mut queue = AccountQueue::new(now);
        for number in 0..10 {
            queue.request(&account(&number.to_string()), 1, now);
        }
        queue.yield_to_orders(true);
        assert_eq!(names(&mut queue, now), ["0", "1"]);
        assert_eq!(queue.next_due(), None, "the end of a sync begins the next");
        queue.finish(&account("0"), SyncResult::Synced(AGAIN), 1, now);
        assert_eq!(names(&mut queue, now), ["2"]);
        queue.yield_to_orders(false);
        assert_eq!(names(&mut queue, now), ["3", "4", "5", "6", "7", "8"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_waits_longer_each_time_and_events_do_not_shorten_it() {
        let mut now = Instant::now();
        let mut queue = AccountQueue::new(now);
        queue.request(&account("chat"), 1, now);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(names(&mut queue, now), ["chat"]);
            queue.finish(&account("chat"), SyncResult::Failed, 3, now);
            queue.request(&account("chat"), 1, now);
            assert!(queue.is_backing_off(&account("chat"), now));
            assert_eq!(queue.next_due(), Some(now + Duration::from_secs(seconds)));
            assert_eq!(names(&mut queue, now), [""; 0]);
            now += Duration::from_secs(seconds);
        }
        assert_eq!(names(&mut queue, now), ["chat"]);
        queue.finish(&account("chat"), SyncResult::Failed, 3, now);
        queue.request_at_once(&account("chat"), 1, now);
        assert_eq!(names(&mut queue, now), ["chat"], "its record changed");
        queue.finish(&account("chat"), SyncResult::Synced(AGAIN), 3, now);
        queue.request(&account("chat"), 1, now);
        assert_eq!(names(&mut queue, now), ["chat"]);
        queue.finish(&account("chat"), SyncResult::Stale, 3, now);
        assert_eq!(
            queue.next_due(),
            Some(now + CONFLICT_BACKOFF),
            "it begins anew"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_that_is_gone_is_forgotten_unless_an_event_says_otherwise() {
        let now = Instant::now();
        let mut queue = AccountQueue::new(now);
        queue.request(&account("chat"), 1, now);
        names(&mut queue, now);
        queue.request(&account("chat"), 1, now);
        queue.finish(&account("chat"), SyncResult::Gone, 3, now);
        assert_eq!(names(&mut queue, now), ["chat"]);
        queue.finish(&account("chat"), SyncResult::Gone, 3, now);
        assert_eq!((queue.accounts().count(), queue.next_due()), (0, None));
    }
}
