//! Whether budgets let something start.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use jiff::Timestamp;

use super::{BudgetState, FreedBudget, OnExhausted, PriorityTotals, RunningCost, RunningTotals};
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
    freed_budget: BTreeMap<i32, FreedBudget>,
    /// What becomes free by what was told to leave or to stop.
    leaving: FreedBudget,
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
        let reserve = reserve + budget_state.budget.eviction_reserve;
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
        leaving: FreedBudget,
        now: Timestamp,
    ) -> Self {
        Self {
            budget_states,
            running,
            rates: priorities.rates(),
            freed_budget: priorities.freed_budget(),
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
            freed_budget: earlier.freed_budget.clone(),
            leaving: earlier.leaving,
            ..self
        }
    }

    /// What these budgets admit beside these.
    #[cfg(test)]
    pub fn of(
        budget_states: Vec<BudgetState>,
        running_costs: &[RunningCost],
        now: Timestamp,
    ) -> Self {
        let (running, priorities) = (
            RunningTotals::of(running_costs),
            PriorityTotals::of(running_costs),
        );
        Self::new(
            budget_states,
            running,
            &priorities,
            FreedBudget::default(),
            now,
        )
    }

    /// What it admits once everything has stopped that was told to.
    pub(crate) fn once_left(&self) -> Self {
        let mut admission = self.clone();
        admission.release(self.leaving);
        admission.leaving = FreedBudget::default();
        admission
    }

    /// Counts so much less as running.
    pub(crate) fn release(&mut self, freed_budget: FreedBudget) {
        self.running = self.running.without(freed_budget);
    }

    /// Counts as running again what was released.
    pub(crate) fn restore(&mut self, freed_budget: FreedBudget) {
        self.running.rate += freed_budget.rate;
        self.running.reserve += freed_budget.reserve;
    }

    /// What would be free for these if everything of lower priority gave way that does.
    pub(crate) fn freed_for(&self, running_costs: &[(RunningCost, u32)]) -> FreedBudget {
        let lowest = running_costs
            .iter()
            .map(|(running_cost, _)| running_cost.priority)
            .min();
        let priority = lowest.unwrap_or(i32::MIN);
        let mut lower = self
            .freed_budget
            .range(..priority)
            .map(|(_, freed_budget)| *freed_budget);
        let Some(lowest) = lower.next() else {
            return FreedBudget::default();
        };
        lower.fold(self.leaving.and(lowest), FreedBudget::and)
    }

    /// Whether a start would be paid for once workloads of lower priority had given way and
    /// everything that was told to stop had stopped.
    pub(crate) fn check_after_preemption(
        &self,
        running_costs: &[(RunningCost, u32)],
    ) -> Result<(), Denied> {
        let freed_budget = self.freed_for(running_costs);
        let mut with = self.known_with(running_costs)?;
        with.running = with.running.without(freed_budget);
        let mut budget_states = self.budget_states.iter();
        budget_states.try_for_each(|budget_state| self.fits(budget_state, running_costs, with))
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
    pub fn admit(&mut self, running_cost: RunningCost) -> Result<(), Denied> {
        self.admit_all(&[(running_cost, 1)])
    }

    /// As [`BudgetAdmission::admit`], where this money is kept for those that go before it.
    ///
    /// # Errors
    /// The refusal; nothing is taken then.
    pub(crate) fn admit_beside(
        &mut self,
        running_cost: RunningCost,
        kept: &[(RunningCost, u32)],
    ) -> Result<(), Denied> {
        self.check(running_cost)?;
        if !kept.is_empty() {
            self.check_beside(&[(running_cost, 1)], kept)?;
        }
        self.admit(running_cost)
    }

    /// Whether these would be paid for, where this money is kept for those that go before them.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn check_beside(
        &self,
        running_costs: &[(RunningCost, u32)],
        kept: &[(RunningCost, u32)],
    ) -> Result<(), Denied> {
        let both: Vec<_> = kept.iter().chain(running_costs).copied().collect();
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
    pub fn admit_all(&mut self, running_costs: &[(RunningCost, u32)]) -> Result<(), Denied> {
        self.running = self.with(running_costs)?.running;
        for (running_cost, count) in running_costs {
            let rate = running_cost.rate.unwrap_or_default().times(*count);
            *self.rates.entry(running_cost.priority).or_default() += rate;
            self.gross_rate += rate;
        }
        Ok(())
    }

    /// Whether a start would be paid for; nothing is taken.
    ///
    /// # Errors
    /// The refusal.
    pub fn check(&self, running_cost: RunningCost) -> Result<(), Denied> {
        self.check_all(&[(running_cost, 1)])
    }

    /// As [`BudgetAdmission::check`], for several of each that start together or not at all.
    ///
    /// # Errors
    /// The refusal.
    pub fn check_all(&self, running_costs: &[(RunningCost, u32)]) -> Result<(), Denied> {
        self.with(running_costs).map(drop)
    }

    /// As [`BudgetAdmission::check_all`], by the terms that stop workloads alone.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) fn check_in_force(
        &self,
        running_costs: &[(RunningCost, u32)],
    ) -> Result<(), Denied> {
        let with = self.known_with(running_costs)?;
        let mut in_force = self.budget_states.iter().filter(|state| !state.announced);
        in_force.try_for_each(|budget_state| self.fits(budget_state, running_costs, with))
    }

    fn with(&self, running_costs: &[(RunningCost, u32)]) -> Result<With, Denied> {
        let with = self.known_with(running_costs)?;
        for budget_state in &self.budget_states {
            self.fits(budget_state, running_costs, with)?;
        }
        Ok(with)
    }

    /// What would run with a start, if its cost is known and some period has the money.
    fn known_with(&self, running_costs: &[(RunningCost, u32)]) -> Result<With, Denied> {
        let mut running = self.running;
        if self.budget_states.is_empty() {
            let margin = Money::ZERO;
            return Ok(With { running, margin });
        }
        let mut doubts = self.budget_states.iter();
        if let Some(doubt) = doubts.find_map(|budget_state| budget_state.budget.doubt.clone()) {
            return Err(Denied::Unknown(doubt));
        }
        for (running_cost, count) in running_costs {
            let Some(rate) = running_cost.rate else {
                let why = "no price is known for its GPUs, and the namespace has a budget";
                return Err(Denied::Unknown(why.to_owned()));
            };
            running.starting_rate += rate.times(*count);
            running.starting_reserve += running_cost.reserve_of(*count);
        }
        if self.running.unknown {
            let why = "something beside it runs that no price is known for, and the namespace has a budget";
            return Err(Denied::Unknown(why.to_owned()));
        }
        for budget_state in &self.budget_states {
            fits_some_period(budget_state, running_costs)?;
        }
        let margin = self.margin(running_costs);
        Ok(With { running, margin })
    }

    /// What everything of higher priority than the lowest of these spends while they are stopped.
    fn margin(&self, running_costs: &[(RunningCost, u32)]) -> Money {
        let stop_seconds = running_costs
            .iter()
            .map(|(running_cost, _)| running_cost.stop_seconds);
        let lowest = running_costs
            .iter()
            .map(|(running_cost, _)| running_cost.priority)
            .min();
        let (Some(lowest), Some(stop_seconds)) = (lowest, stop_seconds.max()) else {
            return Money::ZERO;
        };
        // those of them that have a higher priority run on as well
        let higher = running_costs
            .iter()
            .filter(|(running_cost, _)| running_cost.priority > lowest);
        let starting: Money = higher
            .map(|(running_cost, count)| running_cost.rate.unwrap_or_default().times(*count))
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
        running_costs: &[(RunningCost, u32)],
        freed_budget: FreedBudget,
    ) -> Option<Vec<Money>> {
        let mut with = self.known_with(running_costs).ok()?;
        with.running = with.running.without(freed_budget);
        let left = |budget_state: &BudgetState| {
            let budget = &budget_state.budget;
            let useful = budget_state.useful_seconds(self.now);
            budget.limit - budget.spent - with.needed(budget_state, useful)
        };
        Some(self.budget_states.iter().map(left).collect())
    }

    /// Money an hour of everything that would run beside a start.
    pub(crate) fn rate_beside(&self, running_costs: &[(RunningCost, u32)]) -> Money {
        let rates = running_costs
            .iter()
            .map(|(running_cost, count)| running_cost.rate.unwrap_or_default().times(*count));
        self.running.rate + self.running.starting_rate + rates.sum()
    }

    /// Whether one budget pays for everything that would run with these.
    fn fits(
        &self,
        budget_state: &BudgetState,
        running_costs: &[(RunningCost, u32)],
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
        let mut priorities = running_costs
            .iter()
            .map(|(running_cost, _)| running_cost.priority);
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
                priced(running_costs),
            ));
        }
        Ok(())
    }
}

/// What the dearest of these is taken to cost, and why.
fn priced(running_costs: &[(RunningCost, u32)]) -> String {
    let costs = running_costs
        .iter()
        .filter_map(|(running_cost, _)| running_cost.rate.map(|rate| (rate, running_cost.basis)));
    let dearest = costs.max().filter(|(rate, _)| *rate > Money::ZERO);
    dearest.map_or_else(String::new, |(rate, basis)| {
        let number: u32 = running_costs.iter().map(|(_, count)| *count).sum();
        let each = if number > 1 { " each" } else { "" };
        format!(", at {} an hour{each} {basis}", rate.rounded(4))
    })
}

/// Whether the whole money of one period would pay for a start of which nothing else takes any.
fn fits_some_period(
    budget_state: &BudgetState,
    running_costs: &[(RunningCost, u32)],
) -> Result<(), Denied> {
    let (budget, period) = (&budget_state.budget, &budget_state.period);
    let useful = budget_state.useful_seconds(period.start);
    let cost = |(running_cost, count): &(RunningCost, u32)| {
        let rate = running_cost.rate.unwrap_or_default().times(*count);
        rate.cost_for_seconds_rounded_up(running_cost.stop_seconds.saturating_add(useful))
    };
    let needed: Money = running_costs.iter().map(cost).sum();
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
            priced(running_costs),
        ),
        retry_at: budget_state.period.end,
        in_no_period: true,
    })
}
