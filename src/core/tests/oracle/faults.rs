//! What goes wrong in a history: processes die at writes, are overtaken, read old caches and have wrong clocks.

use std::collections::BTreeMap;

use bursar_core::calendar::Month;

use crate::prices::time;
use crate::protocol::{MonthAccount, Process, Run, World, pod_of, views};
use crate::rates::List;
use crate::world::Conflict;

/// How far caches lag behind at most.
const LAG: i64 = 1200;

/// Why a run ended early. The next one goes on where it stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Crash,
    Conflict,
    /// The call was made, but its answer was lost.
    NoAnswer,
}

impl From<Conflict> for Stop {
    fn from(_: Conflict) -> Self {
        Self::Conflict
    }
}

/// A rule of the protocol left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// What came into force while nobody looked is lost to a charge that has ended since.
    PricesAfterSettling,
    /// A month into which somebody carried the charge before its end was known keeps it open.
    SettlesMonthsOfTheStayOnly,
    /// A charge that was settled and forgotten begins anew in the next month.
    CarriesWhatTheCacheShows,
    /// The same, by way of a pod that has ended since.
    OpensWhatTheCacheShows,
    /// A later month is read older than an earlier one, which has let go of the charge already.
    ForgetsAfterAConflict,
}

/// What a write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Write {
    Guard,
    Create,
    Open,
    Carry,
    Reprice,
    Book,
    Settle,
    SettleLaterMonth,
    Forget,
    Release,
}

/// The writes at which the protocol can be cut.
pub(crate) const WRITES: [Write; 10] = [
    Write::Guard,
    Write::Create,
    Write::Open,
    Write::Carry,
    Write::Reprice,
    Write::Book,
    Write::Settle,
    Write::SettleLaterMonth,
    Write::Forget,
    Write::Release,
];

/// How often what went wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) before: BTreeMap<Write, u64>,
    pub(crate) after: BTreeMap<Write, u64>,
    pub(crate) conflicts: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        for (write, count) in &other.before {
            *self.before.entry(*write).or_default() += count;
        }
        for (write, count) in &other.after {
            *self.after.entry(*write).or_default() += count;
        }
        self.conflicts += other.conflicts;
    }
}

impl World {
    pub(crate) fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// What the process's caches show and its clock says.
    pub(crate) fn run(&mut self, who: usize) -> Run {
        let (mut clock, mut lag, mut behind) = (0, 0, 0);
        if self.faults {
            clock = self.rng.i64(-2..=2);
            lag = if self.rng.u8(..4) == 0 {
                self.rng.i64(0..LAG)
            } else {
                0
            };
            behind = if self.rng.u8(..4) == 0 {
                self.rng.usize(0..4)
            } else {
                0
            };
        }
        let process = &mut self.processes[who];
        process.pods = process.pods.max(self.now - lag);
        let writes = self.store.writes();
        process.records = process.records.max(writes.saturating_sub(behind));
        let pods = views(&self.pods, process.pods);
        Run {
            who,
            now: self.now + clock,
            list: self.list(lag > 0),
            edited: self
                .lists
                .iter()
                .any(|list| (list.edited - self.now).abs() < 5),
            pods,
        }
    }

    /// The price list in force. A cache that is behind shows the one before, but no cache goes back in time.
    fn list(&mut self, stale: bool) -> usize {
        let edited = |list: &List| list.edited <= self.now;
        let mut seen = self.lists.iter().rposition(edited).unwrap_or(0);
        let edit = self.lists[seen].edited;
        // a first price, or a step, that an old list gave within the lag would stay
        let touched = |at: i64| at >= edit - 5 && at <= self.now + 5;
        let old = self.lists[seen.saturating_sub(1)].steps.iter();
        // and so would new amounts, which an old list gives a rate whenever somebody looks
        let resized = self.pods.iter().any(|pod| !pod.cores.is_empty());
        let safe = !resized
            && !self.pods.iter().any(|pod| touched(pod.bound))
            && !old.map(|(from, _)| *from).any(touched);
        if stale && safe && self.now - edit < LAG {
            seen = seen.saturating_sub(1);
        }
        self.newest_list = self.newest_list.max(seen);
        self.newest_list
    }

    /// What a write of this page is for: the first of these that it does.
    pub(crate) fn purpose(&self, page: &MonthAccount) -> Write {
        let (before, after) = (&page.before, &page.account);
        let later = |uid: &str| {
            let bound = time(self.pods[pod_of(uid)].bound);
            Month::containing(bound, &self.zone) < after.month()
        };
        let settled = after.settling().difference(before.settling()).next();
        let opened = after
            .open_charges()
            .keys()
            .find(|uid| !before.open_charges().contains_key(*uid));
        match (settled, opened) {
            (Some(uid), _) if later(uid) => Write::SettleLaterMonth,
            (Some(_), _) => Write::Settle,
            (None, Some(uid)) if later(uid) => Write::Carry,
            (None, Some(_)) => Write::Open,
            (None, None) if after.days() != before.days() => Write::Book,
            (None, None) if after.settling() != before.settling() => Write::Forget,
            (None, None) => Write::Reprice,
        }
    }

    /// A write, before and after which the process may end, or a rival may come first.
    pub(crate) fn call<T>(
        &mut self,
        who: usize,
        write: Write,
        apply: impl FnOnce(&mut Self) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        let fate = if self.faults {
            self.rng.u8(..)
        } else {
            u8::MAX
        };
        if fate < 8 {
            *self.tally.before.entry(write).or_default() += 1;
            return Err(self.crash(who));
        }
        if (8..24).contains(&fate) && !self.nested {
            self.nested = true;
            // whatever stops the rival is its own affair
            let _ = self.sync(1 - who);
            self.nested = false;
        }
        let answer = apply(self).inspect_err(|stop| {
            self.tally.conflicts += u64::from(*stop == Stop::Conflict);
        })?;
        match fate {
            24..32 => {
                *self.tally.after.entry(write).or_default() += 1;
                Err(self.crash(who))
            }
            32..36 => Err(Stop::NoAnswer),
            _ => Ok(answer),
        }
    }

    /// The process is gone with all that it knew.
    fn crash(&mut self, who: usize) -> Stop {
        self.processes[who] = Process::default();
        Stop::Crash
    }
}
