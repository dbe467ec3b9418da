//! Whether budgets let something start.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use jiff::Timestamp;

use super::{BudgetState, OnExhausted, PriorityTotals, RunningCost, RunningTotals, Yields};
use crate::money::Money;

/// Why a budget lets something not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denied {
    /// There is no money for it.
    Budget {
        /// The budget.
        name: String,
        /// A sentence with the numbers.
        message: String,
        /// When the next period begins.
        retry_at: Timestamp,
        /// No period has the money, even if nothing else is spent in it.
        in_no_period: bool,
    },
    /// What it or something beside it costs, or what was spent, is not known; a sentence that says which.
    Unknown(String),
}

/// The money of all budgets of a namespace, handed out one start at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetAdmission {
    budget_states: Vec<BudgetState>,
    running: RunningTotals,
    /// Money an hour of the workloads of each priority.
    rates: BTreeMap<i32, Money>,
    /// What would be free once everything of each priority had given way.
    yields: BTreeMap<i32, Yields>,
    /// What becomes free by what was told to leave or to stop.
    leaving: Yields,
    /// Money an hour of all that runs and starts, what leaves or would give way included.
    gross_rate: Money,
    now: Timestamp,
}

/// What would run with a start.
#[derive(Clone, Copy, Debug)]
struct With {
    running: RunningTotals,
    /// What everything of higher priority would spend while the start is stopped.
    margin: Money,
}

impl With {
    /// What a budget must have left, if all of it is to run on for so many seconds.
    fn needed(&self, budget_state: &BudgetState, seconds: i64) -> Money {
        let running = &self.running;
        let rate = running.rate + running.starting_rate;
        let reserve = running.reserve + running.starting_reserve;
        let margin = match budget_state.budget.on_exhausted {
            OnExhausted::ScaleToZero => self.margin,
            OnExhausted::ScaleToMin | OnExhausted::Freeze => Money::ZERO,
        };
        reserve + rate.cost_for_seconds_rounded_up(seconds) + margin
    }
}

impl BudgetAdmission {
    /// What these budgets admit, with the sums they were computed from.
    pub fn new(
        budget_states: Vec<BudgetState>,
        running: RunningTotals,
        priorities: &PriorityTotals,
        leaving: Yields,
        now: Timestamp,
    ) -> Self {
        Self {
            budget_states,
            running,
            rates: priorities.rates(),
            yields: priorities.yields(),
            leaving,
            gross_rate: running.rate + running.starting_rate,
            now,
        }
    }

    /// What it admits beside what `earlier` has admitted, after whose orders `ran` ran. Where budgets
    /// stand is newer, and what has come since counts as well. What those orders free or keep counts as
    /// it did before them: who gets money must not depend on how many were decided in one go.
    pub(crate) fn continuing(self, earlier: &Self, ran: RunningTotals) -> Self {
        let mut rates = earlier.rates.clone();
        for (priority, rate) in self.rates {
            rates.entry(priority).or_insert(rate);
        }
        let gross = ran.rate + ran.starting_rate;
        Self {
            running: earlier.running.and(self.running.grown_since(ran)),
            gross_rate: earlier.gross_rate + (self.gross_rate - gross).max(Money::ZERO),
            rates,
            yields: earlier.yields.clone(),
            leaving: earlier.leaving,
            ..self
        }
    }

    /// What these budgets admit beside these.
    #[cfg(test)]
    pub fn of(budget_states: Vec<BudgetState>, loads: &[RunningCost], now: Timestamp) -> Self {
        let (running, priorities) = (RunningTotals::of(loads), PriorityTotals::of(loads));
        Self::new(budget_states, running, &priorities, Yields::default(), now)
    }

    /// What it admits once everything has stopped that was told to.
    pub(crate) fn once_left(&self) -> Self {
        let mut admission = self.clone();
        admission.release(self.leaving);
        admission.leaving = Yields::default();
        admission
    }

    /// Counts so much less as running.
    pub(crate) fn release(&mut self, yields: Yields) {
        self.running = self.running.without(yields);
    }

    /// Counts as running again what was released.
    pub(crate) fn restore(&mut self, yields: Yields) {
        self.running.rate += yields.rate;
        self.running.reserve += yields.reserve;
    }

    /// What would be free for these if everything of lower priority gave way that does.
    pub(crate) fn yields_to(&self, loads: &[(RunningCost, u32)]) -> Yields {
        let lowest = loads.iter().map(|(load, _)| load.priority).min();
        let priority = lowest.unwrap_or(i32::MIN);
        let mut lower = self.yields.range(..priority).map(|(_, yields)| *yields);
        let Some(lowest) = lower.next() else {
            return Yields::default();
        };
        lower.fold(self.leaving.and(lowest), Yields::and)
    }

    /// Whether a start would be paid for once workloads of lower priority had given way and
    /// everything that was told to stop had stopped.
    pub(crate) fn check_after_others(&self, loads: &[(RunningCost, u32)]) -> Result<(), Denied> {
        let yields = self.yields_to(loads);
        let mut with = self.known_with(loads)?;
        with.running = with.running.without(yields);
        let mut budget_states = self.budget_states.iter();
        budget_states.try_for_each(|budget_state| self.fits(budget_state, loads, with))
    }

    /// Where the budgets stand.
    pub fn budget_states(&self) -> &[BudgetState] {
        &self.budget_states
    }

    /// The sums over what runs and what was paid for.
    pub fn running(&self) -> RunningTotals {
        self.running
    }

    /// The standings, back.
    #[cfg(test)]
    pub fn into_standings(self) -> Vec<BudgetState> {
        self.budget_states
    }

    /// Pays for a start, or says why not. A start needs, in every budget, money for the reserve that includes it and for everything
    /// to run on for the minimum useful time (or to the end of the period, if that is sooner).
    ///
    /// # Errors
    /// The refusal; nothing is taken then.
    pub fn admit(&mut self, load: RunningCost) -> Result<(), Denied> {
        self.admit_all(&[(load, 1)])
    }

    /// As [`BudgetAdmission::admit`], where this money is kept for those that go before it.
    ///
    /// # Errors
    /// The refusal; nothing is taken then.
    pub(crate) fn admit_beside(
        &mut self,
        load: RunningCost,
        kept: &[(RunningCost, u32)],
    ) -> Result<(), Denied> {
        self.check(load)?;
        if !kept.is_empty() {
            self.check_beside(&[(load, 1)], kept)?;
        }
        self.admit(load)
    }

    /// Whether these would be paid for, where this money is kept for those that go before them.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn check_beside(
        &self,
        loads: &[(RunningCost, u32)],
        kept: &[(RunningCost, u32)],
    ) -> Result<(), Denied> {
        let both: Vec<_> = kept.iter().chain(loads).copied().collect();
        let answer = self.once_left().check_all(&both);
        answer.map_err(|denied| match denied {
            Denied::Budget { name, retry_at, .. } => Denied::Budget {
                message: format!(
                    "what budget {name} has left goes to workloads that go first in its namespace"
                ),
                name,
                retry_at,
                in_no_period: false,
            },
            Denied::Unknown(why) => Denied::Unknown(why),
        })
    }

    /// As [`BudgetAdmission::admit`], for several of each that start together or not at all.
    ///
    /// # Errors
    /// The refusal; nothing is taken then.
    pub fn admit_all(&mut self, loads: &[(RunningCost, u32)]) -> Result<(), Denied> {
        self.running = self.with(loads)?.running;
        for (load, count) in loads {
            let rate = load.rate.unwrap_or_default().times(*count);
            *self.rates.entry(load.priority).or_default() += rate;
            self.gross_rate += rate;
        }
        Ok(())
    }

    /// Whether a start would be paid for; nothing is taken.
    ///
    /// # Errors
    /// The refusal.
    pub fn check(&self, load: RunningCost) -> Result<(), Denied> {
        self.check_all(&[(load, 1)])
    }

    /// As [`BudgetAdmission::check`], for several of each that start together or not at all.
    ///
    /// # Errors
    /// The refusal.
    pub fn check_all(&self, loads: &[(RunningCost, u32)]) -> Result<(), Denied> {
        self.with(loads).map(drop)
    }

    /// As [`BudgetAdmission::check_all`], by the terms that stop workloads alone.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn check_in_force(&self, loads: &[(RunningCost, u32)]) -> Result<(), Denied> {
        let with = self.known_with(loads)?;
        let mut in_force = self.budget_states.iter().filter(|state| !state.announced);
        in_force.try_for_each(|budget_state| self.fits(budget_state, loads, with))
    }

    fn with(&self, loads: &[(RunningCost, u32)]) -> Result<With, Denied> {
        let with = self.known_with(loads)?;
        for budget_state in &self.budget_states {
            self.fits(budget_state, loads, with)?;
        }
        Ok(with)
    }

    /// What would run with a start, if its cost is known and some period has the money.
    fn known_with(&self, loads: &[(RunningCost, u32)]) -> Result<With, Denied> {
        let mut running = self.running;
        if self.budget_states.is_empty() {
            let margin = Money::ZERO;
            return Ok(With { running, margin });
        }
        let mut doubts = self.budget_states.iter();
        if let Some(doubt) = doubts.find_map(|budget_state| budget_state.budget.doubt.clone()) {
            return Err(Denied::Unknown(doubt));
        }
        for (load, count) in loads {
            let Some(rate) = load.rate else {
                let why = "no price is known for its GPUs, and the namespace has a budget";
                return Err(Denied::Unknown(why.to_owned()));
            };
            running.starting_rate += rate.times(*count);
            running.starting_reserve += load.reserve_of(*count);
        }
        if self.running.unknown {
            let why = "something beside it runs that no price is known for, and the namespace has a budget";
            return Err(Denied::Unknown(why.to_owned()));
        }
        for budget_state in &self.budget_states {
            fits_some_period(budget_state, loads)?;
        }
        let margin = self.margin(loads);
        Ok(With { running, margin })
    }

    /// What everything of higher priority than the lowest of these spends while they are stopped.
    fn margin(&self, loads: &[(RunningCost, u32)]) -> Money {
        let stop_seconds = loads.iter().map(|(load, _)| load.stop_seconds);
        let lowest = loads.iter().map(|(load, _)| load.priority).min();
        let (Some(lowest), Some(stop_seconds)) = (lowest, stop_seconds.max()) else {
            return Money::ZERO;
        };
        // those of them that have a higher priority run on as well
        let higher = loads.iter().filter(|(load, _)| load.priority > lowest);
        let starting: Money = higher
            .map(|(load, count)| load.rate.unwrap_or_default().times(*count))
            .sum();
        let mut higher = self.rates.range((Excluded(lowest), Unbounded));
        if starting <= Money::ZERO && higher.all(|(_, rate)| *rate <= Money::ZERO) {
            return Money::ZERO;
        }
        let below: Money = self.rates.range(..=lowest).map(|(_, rate)| *rate).sum();
        let above = self.gross_rate - below + starting;
        above.cost_for_seconds_rounded_up(stop_seconds)
    }

    /// What each budget would have left beside a start once so much had become free, below zero where
    /// it refuses it; `None` if the answer has nothing to do with how much is left.
    pub(crate) fn left_beside(
        &self,
        loads: &[(RunningCost, u32)],
        yields: Yields,
    ) -> Option<Vec<Money>> {
        let mut with = self.known_with(loads).ok()?;
        with.running = with.running.without(yields);
        let left = |budget_state: &BudgetState| {
            let budget = &budget_state.budget;
            let useful = budget_state.useful_seconds(self.now);
            budget.limit - budget.spent - with.needed(budget_state, useful)
        };
        Some(self.budget_states.iter().map(left).collect())
    }

    /// Money an hour of everything that would run beside a start.
    pub(crate) fn rate_beside(&self, loads: &[(RunningCost, u32)]) -> Money {
        let rates = loads
            .iter()
            .map(|(load, count)| load.rate.unwrap_or_default().times(*count));
        self.running.rate + self.running.starting_rate + rates.sum()
    }

    /// Whether one budget pays for everything that would run with these.
    fn fits(
        &self,
        budget_state: &BudgetState,
        loads: &[(RunningCost, u32)],
        with: With,
    ) -> Result<(), Denied> {
        let budget = &budget_state.budget;
        let name = &budget.name;
        let refuse = |message| {
            Err(Denied::Budget {
                name: name.clone(),
                message,
                retry_at: budget_state.period.end,
                in_no_period: false,
            })
        };
        let mut priorities = loads.iter().map(|(load, _)| load.priority);
        if let Some(why) = priorities.find_map(|priority| budget_state.stop_reason(priority)) {
            return refuse(why);
        }
        let useful = budget_state.useful_seconds(self.now);
        let needed = with.needed(budget_state, useful);
        let left = budget.limit - budget.spent;
        if needed > left {
            return refuse(format!(
                "budget {name} has {} left; running on for {useful} s and stopping would take {}{}",
                left.rounded(4),
                needed.rounded(4),
                priced(loads),
            ));
        }
        Ok(())
    }
}

/// What the dearest of these is taken to cost, and why.
fn priced(loads: &[(RunningCost, u32)]) -> String {
    let costs = loads
        .iter()
        .filter_map(|(load, _)| load.rate.map(|rate| (rate, load.basis)));
    let dearest = costs.max().filter(|(rate, _)| *rate > Money::ZERO);
    dearest.map_or_else(String::new, |(rate, basis)| {
        let number: u32 = loads.iter().map(|(_, count)| *count).sum();
        let each = if number > 1 { " each" } else { "" };
        format!(", at {} an hour{each} {basis}", rate.rounded(4))
    })
}

/// Whether the whole money of one period would pay for a start of which nothing else takes any.
fn fits_some_period(
    budget_state: &BudgetState,
    loads: &[(RunningCost, u32)],
) -> Result<(), Denied> {
    let (budget, period) = (&budget_state.budget, &budget_state.period);
    let useful = budget_state.useful_seconds(period.start);
    let cost = |(load, count): &(RunningCost, u32)| {
        let rate = load.rate.unwrap_or_default().times(*count);
        rate.cost_for_seconds_rounded_up(load.stop_seconds.saturating_add(useful))
    };
    let needed: Money = loads.iter().map(cost).sum();
    // what was given back can be spent as well
    let most = budget.limit - budget.corrections.min(Money::ZERO);
    if needed <= most {
        return Ok(());
    }
    let name = &budget.name;
    Err(Denied::Budget {
        name: name.clone(),
        message: format!(
            "budget {name} has {} in a whole period, and running for {useful} s and stopping \
             would take {}{}: it never starts unless the limit is raised",
            most.rounded(4),
            needed.rounded(4),
            priced(loads),
        ),
        retry_at: budget_state.period.end,
        in_no_period: true,
    })
}
