//! When each target is read. Pure: time is an argument, and reads are returned as data.
//!
//! A target that answers is read once a [`PERIOD`] at a phase of its own; one that does not answer
//! is tried again after a time that doubles. Reads in flight are bounded for each namespace and in
//! total, apart for targets that answer promptly and for all others, so that silent targets take
//! nothing from those that answer. Where reads have to wait, the namespace with the fewest in
//! flight goes first.

mod pool;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use self::pool::Pool;

/// The time between two reads of a target that answers.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Reads begin at multiples of this time, so that those of many targets share one wake-up.
pub const SLOT: Duration = Duration::from_millis(20);
/// A read that takes longer is not prompt.
const PROMPT: Duration = Duration::from_secs(1);
/// The wait after the first failed read. It doubles with each further one.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait after a failed read.
pub const MAX_BACKOFF: Duration = Duration::from_secs(8);

/// How many reads may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In all namespaces together.
    pub total: usize,
    /// The part of `total` that reads beyond a namespace's first ones may fill. The rest is left
    /// to namespaces that have none or hardly any in flight.
    pub shared: usize,
    /// In one namespace.
    pub per_namespace: usize,
}

/// The limits of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Of targets whose last read was answered promptly.
    pub prompt: Limits,
    /// Of targets that have not been read yet, that did not answer or were slow.
    pub doubtful: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            prompt: Limits {
                total: 768,
                shared: 512,
                per_namespace: 256,
            },
            doubtful: Limits {
                total: 512,
                shared: 256,
                per_namespace: 64,
            },
        }
    }
}

/// Names a target of a schedule. It is never used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(u64);

/// What became of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The target answered.
    Answered,
    /// It did not, or not with what was asked for.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Prompt,
    Doubtful,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The next read is due then.
    Waiting(Duration),
    /// A read was due then, and waits until the limits allow it.
    Queued(Duration, Class),
    /// A read began then.
    Reading(Duration, Class),
}

#[derive(Debug)]
struct Entry {
    namespace: Arc<str>,
    seed: u64,
    period: Duration,
    class: Class,
    failures: u32,
    was_read: bool,
    /// It was taken out while a read was in flight.
    removed: bool,
    state: State,
}

/// When each target is read. All times are since one fixed instant, on a clock that never goes
/// back; an earlier time than one seen before counts as that one.
#[derive(Debug)]
pub struct Schedule {
    now: Duration,
    next_id: u64,
    entries: HashMap<TargetId, Entry>,
    /// The targets that wait, by the time at which they are due.
    timers: BTreeSet<(Duration, TargetId)>,
    prompt: Pool,
    doubtful: Pool,
    /// Targets of which no read has ended yet.
    unread: usize,
}

impl Schedule {
    /// A schedule without targets.
    pub fn new(settings: Settings) -> Self {
        Self {
            now: Duration::ZERO,
            next_id: 0,
            entries: HashMap::new(),
            timers: BTreeSet::new(),
            prompt: Pool::new(settings.prompt),
            doubtful: Pool::new(settings.doubtful),
            unread: 0,
        }
    }

    /// Adds a target, whose first read is due at once. Its phase and the jitter of its back-off
    /// come from `seed`.
    pub fn add(&mut self, namespace: Arc<str>, seed: u64, now: Duration) -> TargetId {
        self.add_every(namespace, seed, PERIOD, now)
    }

    /// Adds a target that is read once in so long, also while it does not answer.
    pub fn add_every(
        &mut self,
        namespace: Arc<str>,
        seed: u64,
        period: Duration,
        now: Duration,
    ) -> TargetId {
        self.advance(now);
        let id = TargetId(self.next_id);
        self.next_id += 1;
        self.unread += 1;
        self.timers.insert((self.now, id));
        let entry = Entry {
            namespace,
            seed,
            period,
            class: Class::Doubtful,
            failures: 0,
            was_read: false,
            removed: false,
            state: State::Waiting(self.now),
        };
        self.entries.insert(id, entry);
        id
    }

    /// Takes a target out. If a read of it is in flight, it counts until it has ended.
    pub fn remove(&mut self, id: TargetId) {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| !entry.removed) else {
            return;
        };
        if !entry.was_read {
            self.unread -= 1;
        }
        match entry.state {
            State::Waiting(due) => {
                self.timers.remove(&(due, id));
            }
            State::Queued(due, class) => {
                let namespace = Arc::clone(&entry.namespace);
                self.pool(class).remove(&namespace, (due, id));
            }
            State::Reading(..) => {
                entry.removed = true;
                return;
            }
        }
        self.entries.remove(&id);
    }

    /// The reads to begin now. Each must be reported to [`Schedule::finished`].
    pub fn due(&mut self, now: Duration) -> Vec<TargetId> {
        self.advance(now);
        while let Some((due, id)) = self.timers.first().copied()
            && due <= self.now
        {
            self.timers.pop_first();
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            let class = entry.class;
            entry.state = State::Queued(due, class);
            let namespace = Arc::clone(&entry.namespace);
            self.pool(class).push(&namespace, (due, id));
        }
        let mut started = Vec::new();
        for class in [Class::Prompt, Class::Doubtful] {
            while let Some(id) = self.pool(class).start_next() {
                if let Some(entry) = self.entries.get_mut(&id) {
                    entry.state = State::Reading(self.now, class);
                }
                started.push(id);
            }
        }
        started
    }

    /// Takes the end of a read. A target that was removed is forgotten with it.
    pub fn finished(&mut self, id: TargetId, outcome: Outcome, now: Duration) {
        self.advance(now);
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let State::Reading(since, class) = entry.state else {
            return;
        };
        let namespace = Arc::clone(&entry.namespace);
        if entry.removed {
            self.entries.remove(&id);
        } else {
            if !entry.was_read {
                entry.was_read = true;
                self.unread -= 1;
            }
            let due = entry.finish(outcome, since, self.now);
            entry.state = State::Waiting(due);
            self.timers.insert((due, id));
        }
        self.pool(class).release(&namespace);
    }

    /// When [`Schedule::due`] may return reads though no read ends before. `None` if nothing waits
    /// for a time.
    pub fn next_wake(&self) -> Option<Duration> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Whether a read of every target has ended.
    pub fn all_read(&self) -> bool {
        self.unread == 0
    }

    fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
    }

    fn pool(&mut self, class: Class) -> &mut Pool {
        match class {
            Class::Prompt => &mut self.prompt,
            Class::Doubtful => &mut self.doubtful,
        }
    }
}

impl Entry {
    /// Takes a read's end, and returns when the next one is due.
    fn finish(&mut self, outcome: Outcome, since: Duration, now: Duration) -> Duration {
        match outcome {
            Outcome::Answered => {
                self.failures = 0;
                let is_prompt = now.saturating_sub(since) < PROMPT;
                self.class = if is_prompt {
                    Class::Prompt
                } else {
                    Class::Doubtful
                };
                // the first read is at no phase, and the second one not right after it
                next_at_phase(self.seed, self.period, now.max(since + self.period / 2))
            }
            Outcome::Failed => {
                self.class = Class::Doubtful;
                self.failures = self.failures.saturating_add(1);
                // a long period is not shortened by failures
                let wait =
                    backoff(self.seed, self.failures).max(self.period.saturating_sub(PERIOD));
                slot_at_or_after(now + wait)
            }
        }
    }
}

/// The first instant after `now` at the phase of this seed.
fn next_at_phase(seed: u64, period: Duration, now: Duration) -> Duration {
    let slots = u32::try_from(period.as_nanos() / SLOT.as_nanos()).unwrap_or(u32::MAX);
    let phase = SLOT * u32::try_from(seed % u64::from(slots.max(1))).unwrap_or(0);
    let period = SLOT * slots.max(1);
    let periods = u32::try_from(now.as_nanos() / period.as_nanos()).unwrap_or(u32::MAX);
    let at = period.saturating_mul(periods) + phase;
    if at > now { at } else { at + period }
}

/// The wait after so many failed reads in a row: three quarters to the whole of a time that
/// doubles up to [`MAX_BACKOFF`].
fn backoff(seed: u64, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    let whole = MIN_BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF);
    let jitter = seed.rotate_left(failures % 64) >> 32;
    let quarter = whole / 4;
    whole - quarter.mul_f64(jitter as f64 / f64::from(u32::MAX))
}

fn slot_at_or_after(time: Duration) -> Duration {
    let past_slot = time.as_nanos() % SLOT.as_nanos();
    let past_slot = Duration::from_nanos(u64::try_from(past_slot).unwrap_or(0));
    if past_slot.is_zero() {
        time
    } else {
        time - past_slot + SLOT
    }
}
