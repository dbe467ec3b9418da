//! Budgets: what may still be spent, when it will be gone, and whether something new may start.
//!
//! A budget is exhausted when `spent + reserve >= limit`, where the reserve is what stopping everything now would still cost. The
//! state latches until the period ends, the limit is raised or money is given back, so that a drain which ends early starts nothing
//! again.
//!
//! Under `ScaleToZero` the workloads of the lowest priority stop first: as soon as what is left would no longer let all others run on
//! while these stop.
//!
//! | module | subject |
//! |---|---|
//! | `change` | edits that wait for the end of a grace window |
//! | `admission` | whether budgets let something start |
//! | `priorities` | what workloads cost by their priority |
//! | `unmanaged` | pods of no workload that are evicted once everything has stopped |

mod admission;
mod change;
mod priorities;
mod unmanaged;

#[cfg(test)]
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

pub use self::admission::{BudgetAdmission, Denied};
pub(crate) use self::change::reaches_further;
pub use self::change::{BudgetRecord, PendingChange, Terms};
pub(crate) use self::priorities::Prioritized;
pub use self::priorities::{FreedBudget, PriorityTotals};
pub use self::unmanaged::{EVICTION_NOTICE, Evictions, Unmanaged};

use crate::calendar::{Interval, Period};
use crate::money::Money;
use crate::pricing::EstimateBasis;

/// What happens when a budget is exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExhausted {
    /// Everything stops.
    ScaleToZero,
    /// Services shrink to their `minReplicas`, training is suspended.
    ScaleToMin,
    /// Nothing grows or starts, training is suspended.
    Freeze,
}

/// That a budget was exhausted, and under which terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latch {
    /// The start of the period in which it was.
    pub period_start: Timestamp,
    /// The limit that was reached.
    pub limit: Money,
    /// The corrections that were a part of what was spent.
    pub corrections: Money,
    /// Only workloads of a lower priority than this are stopped; `None` if all are.
    pub stops_below: Option<i32>,
}

impl Latch {
    /// Whether workloads of this priority are stopped.
    pub fn stops(&self, priority: i32) -> bool {
        self.stops_below.is_none_or(|below| priority < below)
    }
}

/// A budget of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The BudgetPolicy's name.
    pub name: String,
    /// Money for one period.
    pub limit: Money,
    /// The period.
    pub period: Period,
    /// What happens at its end.
    pub on_exhausted: OnExhausted,
    /// What happens then to pods of no workload.
    pub unmanaged: Unmanaged,
    /// What evicting those that it evicts would still cost.
    pub eviction_reserve: Money,
    /// What starts must be able to run for at least this long.
    pub minimum_useful_run: SignedDuration,
    /// Set once it was exhausted.
    pub latch: Option<Latch>,
    /// Money spent in the period that holds `now`, open charges and corrections included.
    pub spent: Money,
    /// The part of `spent` that corrections are; below zero where more was given back than added.
    pub corrections: Money,
    /// Why `spent` lacks a part that nobody knows, such as a record that cannot be read. Then nothing new starts.
    pub doubt: Option<String>,
}

/// Something that costs money while it runs, and for a while after it was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunningCost {
    /// Money an hour; `None` while no price is known.
    pub rate: Option<Money>,
    /// The highest money an hour that is announced for the time until it would have stopped, if it
    /// were told to now.
    pub stop_rate: Option<Money>,
    /// Seconds from the order to stop until it costs nothing.
    pub stop_seconds: i64,
    /// The value of its PriorityClass: what has a lower one stops first.
    pub priority: i32,
    /// What the rate of a pod that has no node yet is made of.
    pub basis: EstimateBasis,
}

impl RunningCost {
    /// A cost whose rate does not change until it has stopped.
    pub fn constant(rate: Option<Money>, stop_seconds: i64) -> Self {
        Self {
            rate,
            stop_rate: rate,
            stop_seconds,
            priority: 0,
            basis: EstimateBasis::Node,
        }
    }

    /// What this and another one cost at most; unknown if either is.
    pub(crate) fn or_dearer(self, other: Self) -> Self {
        let highest = |one: Option<Money>, other: Option<Money>| Some(one?.max(other?));
        Self {
            rate: highest(self.rate, other.rate),
            stop_rate: highest(self.stop_rate, other.stop_rate),
            stop_seconds: self.stop_seconds.max(other.stop_seconds),
            priority: self.priority,
            basis: match self.rate < other.rate {
                true => other.basis,
                false => self.basis,
            },
        }
    }

    /// What stopping it now would still cost.
    pub fn reserve(&self) -> Money {
        self.reserve_of(1)
    }

    /// What stopping so many of it now would still cost.
    pub fn reserve_of(&self, number: u32) -> Money {
        let rate = self.stop_rate.max(self.rate).unwrap_or_default();
        rate.times(number)
            .cost_for_seconds_rounded_up(self.stop_seconds)
    }
}

/// The sums over all that runs or starts in a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunningTotals {
    /// Money an hour of what holds a node.
    pub rate: Money,
    /// What stopping what holds a node now would still cost.
    pub reserve: Money,
    /// Money an hour of what was ordered and has no node yet, once it has one.
    pub starting_rate: Money,
    /// What stopping that would cost once it has a node. Before, it costs nothing.
    pub starting_reserve: Money,
    /// No price is known for a part of it.
    pub unknown: bool,
}

impl RunningTotals {
    /// Both of them.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            rate: self.rate + other.rate,
            reserve: self.reserve + other.reserve,
            starting_rate: self.starting_rate + other.starting_rate,
            starting_reserve: self.starting_reserve + other.starting_reserve,
            unknown: self.unknown || other.unknown,
        }
    }

    /// What each sum has grown by; nothing where it is less than it was.
    pub(crate) fn grown_since(self, before: Self) -> Self {
        let grown = |now: Money, before: Money| (now - before).max(Money::ZERO);
        Self {
            rate: grown(self.rate, before.rate),
            reserve: grown(self.reserve, before.reserve),
            starting_rate: grown(self.starting_rate, before.starting_rate),
            starting_reserve: grown(self.starting_reserve, before.starting_reserve),
            unknown: self.unknown && !before.unknown,
        }
    }

    /// The sums without what becomes free.
    pub(crate) fn without(self, freed_budget: FreedBudget) -> Self {
        Self {
            rate: self.rate - freed_budget.rate,
            reserve: self.reserve - freed_budget.reserve,
            ..self
        }
    }

    /// The sums over these.
    pub fn of(running_costs: &[RunningCost]) -> Self {
        Self {
            rate: running_costs
                .iter()
                .filter_map(|running_cost| running_cost.rate)
                .sum(),
            reserve: running_costs.iter().map(RunningCost::reserve).sum(),
            starting_rate: Money::ZERO,
            starting_reserve: Money::ZERO,
            unknown: running_costs
                .iter()
                .any(|running_cost| running_cost.rate.is_none()),
        }
    }
}

/// What a budget's status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is money.
    Active,
    /// There is money for workloads of higher priority; those of lower priority are stopped.
    PartlyExhausted,
    /// The limit is reached; what `on_exhausted` says is done.
    Exhausted,
    /// More than the limit is spent.
    OverLimit,
    /// Something runs for which no price is known, or a part of what was spent is not known.
    Unknown,
}

/// Where a budget stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetState {
    /// The budget.
    pub budget: Budget,
    /// The present period.
    pub period: Interval,
    /// What stopping what holds a node now would still cost.
    pub reserve: Money,
    /// Money an hour of what holds a node.
    pub rate: Money,
    /// The phase.
    pub phase: Phase,
    /// When it will be exhausted at this rate; `None` when the period ends before, or when it is exhausted.
    pub exhausted_at: Option<Timestamp>,
    /// Workloads of the lowest priority that still runs stop once so much or less remains: it is what
    /// all others spend while these stop. Zero where nothing runs that could go on.
    pub margin: Money,
    /// These terms are announced: they let nothing start that they do not pay for, and stop nothing
    /// that runs.
    pub announced: bool,
    /// The edit that waits, if it would stop something.
    pub pending: Option<PendingChange>,
    /// The evictions of pods of no workload, while there is no money for them.
    pub evictions: Option<Evictions>,
}

impl BudgetState {
    /// Where `budget` stands at `now` under these loads. Its latch is set or released.
    #[cfg(test)]
    pub fn of(
        budget: Budget,
        running_costs: &[RunningCost],
        now: Timestamp,
        zone: &TimeZone,
    ) -> Self {
        let period = budget.period.bounds(now, zone);
        let (running, priorities) = (
            RunningTotals::of(running_costs),
            PriorityTotals::of(running_costs),
        );
        Self::in_period(budget, period, running, &priorities, now)
    }

    /// Where `budget` stands at `now`, which lies in `period`. Its latch is set or released.
    pub fn in_period(
        mut budget: Budget,
        period: Interval,
        running: RunningTotals,
        priorities: &PriorityTotals,
        now: Timestamp,
    ) -> Self {
        let RunningTotals {
            rate,
            reserve,
            unknown,
            ..
        } = running;
        let reserve = reserve + budget.eviction_reserve;
        let left = budget.limit - budget.spent - reserve;
        // a credit gives money as a raised limit does
        let given = budget.limit - budget.corrections;
        let holds = |latch: &Latch| {
            latch.period_start == period.start && given <= latch.limit - latch.corrections
        };
        budget.latch = budget.latch.filter(holds);
        let margins = match budget.on_exhausted {
            OnExhausted::ScaleToZero => priorities.margins(rate + running.starting_rate),
            // nothing that runs is stopped, so nothing can go on for longer
            OnExhausted::ScaleToMin | OnExhausted::Freeze => vec![],
        };
        let reached = margins.iter().rev().find(|(_, margin)| left <= *margin);
        let stops_below = match reached {
            _ if left <= Money::ZERO => Some(None),
            Some((priority, _)) => Some(Some(*priority)),
            None => None,
        };
        if let Some(stops_below) = stops_below {
            let latch = budget.latch.get_or_insert(Latch {
                period_start: period.start,
                limit: budget.limit,
                corrections: budget.corrections,
                stops_below,
            });
            let higher = latch.stops_below.zip(stops_below);
            latch.stops_below = higher.map(|(before, now)| before.max(now));
        }
        let latch = budget.latch;
        let is_ahead = |below: i32| {
            latch.is_none_or(|latch| latch.stops_below.is_some_and(|stopped| stopped < below))
        };
        let margins = margins.into_iter().filter(|(below, _)| is_ahead(*below));
        let margin = margins.map(|(_, margin)| margin).max().unwrap_or_default();
        let is_exhausted = latch.is_some_and(|latch| latch.stops_below.is_none());
        let phase = if budget.spent > budget.limit {
            Phase::OverLimit
        } else if is_exhausted {
            Phase::Exhausted
        } else if latch.is_some() {
            Phase::PartlyExhausted
        } else if budget.doubt.is_some() || unknown {
            Phase::Unknown
        } else {
            Phase::Active
        };
        let exhausted_at = if is_exhausted {
            None
        } else {
            seconds_of(left, rate)
                .and_then(|seconds| now.checked_add(SignedDuration::from_secs(seconds)).ok())
                .filter(|at| *at < period.end)
        };
        Self {
            budget,
            period,
            reserve,
            rate,
            phase,
            exhausted_at,
            margin,
            announced: false,
            pending: None,
            evictions: None,
        }
    }

    /// Whether pods of no workload have no money either.
    pub(crate) fn stops_unmanaged(&self) -> bool {
        let stops_all = self.budget.on_exhausted == OnExhausted::ScaleToZero;
        stops_all && self.is_exhausted() && !self.announced
    }

    /// Money neither spent nor reserved; below zero once a limit was missed.
    pub fn remaining(&self) -> Money {
        self.budget.limit - self.budget.spent - self.reserve
    }

    /// Seconds that what starts at `start` must be able to run: to the end of the period at most.
    fn useful_seconds(&self, start: Timestamp) -> i64 {
        let left = self.period.end.as_second() - start.as_second();
        self.budget.minimum_useful_run.as_secs().min(left)
    }

    /// The money that is missing for what has no node yet and would cost so much to stop once it
    /// has one; `None` if nothing is missing, or where no promise is made or kept any more.
    pub(crate) fn missing_for(&self, without_node: Money) -> Option<Money> {
        let missing = without_node - self.remaining();
        let promises = self.budget.on_exhausted == OnExhausted::ScaleToZero;
        let is_open = !self.is_exhausted() || self.announced;
        let is_missing = promises && is_open && missing > Money::ZERO;
        is_missing.then_some(missing)
    }

    /// When money for that will be missing at this rate.
    pub(crate) fn missing_at(&self, without_node: Money, now: Timestamp) -> Option<Timestamp> {
        if self.is_exhausted() || without_node <= Money::ZERO {
            return None;
        }
        let seconds = seconds_of(self.remaining() - without_node, self.rate)?.max(0);
        let span = SignedDuration::from_secs(seconds.checked_add(1)?);
        now.checked_add(span).ok()
    }

    /// True once the limit is reached.
    pub fn is_exhausted(&self) -> bool {
        let latch = self.budget.latch.as_ref();
        latch.is_some_and(|latch| latch.stops_below.is_none())
    }

    /// The priority below which workloads are stopped, if some are and others run on.
    pub fn stops_below(&self) -> Option<i32> {
        self.budget.latch.as_ref()?.stops_below
    }

    /// True once workloads of this priority are stopped.
    pub fn stops(&self, priority: i32) -> bool {
        let latch = self.budget.latch.as_ref();
        latch.is_some_and(|latch| latch.stops(priority))
    }

    /// Why a workload of this priority that runs is stopped, if it is.
    pub(crate) fn stop_reason_running(&self, priority: i32) -> Option<String> {
        match self.announced {
            true => None,
            false => self.stop_reason(priority),
        }
    }

    /// Why workloads of this priority are stopped, if they are.
    pub(crate) fn stop_reason(&self, priority: i32) -> Option<String> {
        if !self.stops(priority) {
            return None;
        }
        let Budget {
            name, spent, limit, ..
        } = &self.budget;
        let (spent, limit) = (spent.rounded(2), limit.rounded(2));
        Some(if self.announced {
            format!(
                "budget {name} has a new limit, which what runs does not count against yet: {spent} of {limit} spent"
            )
        } else if self.is_exhausted() {
            format!("budget {name} is exhausted: {spent} of {limit} spent")
        } else {
            format!(
                "budget {name} is exhausted for priority {priority}: {spent} of {limit} spent, and \
                 the rest is for workloads of higher priority"
            )
        })
    }

    /// When workloads of the lowest priority that still runs stop at this rate, if others run on.
    pub(crate) fn stops_at(&self, now: Timestamp) -> Option<Timestamp> {
        if self.is_exhausted() || self.margin <= Money::ZERO {
            return None;
        }
        let seconds = seconds_of(self.remaining() - self.margin, self.rate)?;
        now.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    /// The replicas that this budget leaves of `desired` for a service of this priority, before
    /// anything new is paid for.
    pub fn cap(&self, desired: u32, current: u32, min: u32, priority: i32) -> u32 {
        match (self.stops(priority), self.budget.on_exhausted) {
            (false, _) => desired,
            (true, _) if self.announced => desired.min(current),
            (true, OnExhausted::ScaleToZero) => 0,
            (true, OnExhausted::ScaleToMin) => desired.min(min).min(current),
            (true, OnExhausted::Freeze) => desired.min(current),
        }
    }
}

/// Whole seconds until `money` is gone at `rate` an hour, rounded down so that nothing stops too late.
fn seconds_of(money: Money, rate: Money) -> Option<i64> {
    if rate <= Money::ZERO {
        return None;
    }
    i64::try_from((money.nanos() * 3600).div_euclid(rate.nanos())).ok()
}

#[cfg(test)]
mod tests;
