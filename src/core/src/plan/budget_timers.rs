//! When budgets may stand elsewhere, or answer otherwise, though nothing happens: money is spent,
//! and what stops costs less with each second.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::budget::{BudgetAdmission, BudgetState, FreedBudget, RunningCost};
use crate::correction::Correction;
use crate::model::namespace::{Admission, NamespaceState};
use crate::model::spending::Stopping;
use crate::money::Money;

/// The smallest amount of money.
const NANO: Money = Money::from_nanos(1);

/// The first instant after `now` at which a budget may be exhausted by what accounts show, or
/// a service or a gang may get another answer than it did.
pub(super) fn next_change(
    namespace: &NamespaceState,
    admission: &BudgetAdmission,
    now: Timestamp,
) -> Option<Timestamp> {
    let looks = BudgetTimers {
        namespace,
        admission,
        stopping: namespace.totals.stopping(now),
        now,
    };
    let budget_states = admission.budget_states();
    let exhausted = budget_states.iter().filter_map(|budget_state| {
        let is_open = !budget_state.is_exhausted();
        let left = is_open.then(|| budget_state.remaining() - budget_state.margin)?;
        looks.spent_at(budget_state, left)
    });
    let without_node = namespace.totals.without_node();
    let missing = budget_states.iter().filter_map(|budget_state| {
        looks.spent_at(budget_state, budget_state.remaining() - without_node + NANO)
    });
    let groups = namespace.services.keys();
    let of_services = groups
        .filter_map(|(running_cost, answer)| looks.answer_changes(&[(*running_cost, 1)], *answer));
    let answered = namespace.answered_jobs.iter();
    let of_gangs = answered.filter_map(|(running_costs, answer)| match answer {
        Admission::NoMoney => looks.last_admitted_at(running_costs, FreedBudget::default()),
        Admission::Admitted => looks.denied_at(running_costs, FreedBudget::default()),
        Admission::Unknown | Admission::AfterPreemption => None,
    });
    let kept = budget_states.iter().zip(&namespace.kept_left);
    let kept = kept.filter_map(|(budget_state, left)| looks.spent_at(budget_state, *left + NANO));
    exhausted
        .chain(missing)
        .chain(kept)
        .chain(of_services)
        .chain(of_gangs)
        .min()
}

/// When the next correction begins to count that does not yet.
pub(super) fn next_correction(
    namespace: &NamespaceState,
    now: Timestamp,
    zone: &TimeZone,
) -> Option<Timestamp> {
    if namespace.budgets.is_empty() {
        return None;
    }
    let due = |correction: &Correction| correction.due_at(zone);
    let due = namespace.corrections.iter().filter_map(due);
    due.filter(|at| now < *at).min()
}

/// What the budgets of a namespace answer now, and what of it time changes.
struct BudgetTimers<'a> {
    namespace: &'a NamespaceState,
    admission: &'a BudgetAdmission,
    stopping: Stopping,
    now: Timestamp,
}

impl BudgetTimers<'_> {
    /// When so much more than now will have been spent by what accounts show, if that is in the
    /// present period.
    fn spent_at(&self, budget_state: &BudgetState, more: Money) -> Option<Timestamp> {
        let budget = &budget_state.budget;
        let amount = budget.spent - budget.corrections + more;
        let spending = &self.namespace.spending;
        let at = spending.reaches(budget.period, amount, self.now);
        at.filter(|at| self.now < *at && *at < budget_state.period.end)
    }

    /// When budgets may answer otherwise to these: at the first refusal where they admit them, and
    /// at the end of the last refusal where they do not.
    fn answer_changes(
        &self,
        running_costs: &[(RunningCost, u32)],
        answer: Admission,
    ) -> Option<Timestamp> {
        let freed_budget = self.admission.freed_for(running_costs);
        match answer {
            Admission::Unknown => None,
            Admission::Admitted => self.denied_at(running_costs, FreedBudget::default()),
            Admission::AfterPreemption => {
                let denied = self.denied_at(running_costs, freed_budget);
                let admitted = self.last_admitted_at(running_costs, FreedBudget::default());
                denied.into_iter().chain(admitted).min()
            }
            Admission::NoMoney => self.last_admitted_at(running_costs, freed_budget),
        }
    }

    /// When the first budget refuses these, if so much becomes free.
    fn denied_at(
        &self,
        running_costs: &[(RunningCost, u32)],
        freed_budget: FreedBudget,
    ) -> Option<Timestamp> {
        let left = self.admission.left_beside(running_costs, freed_budget)?;
        let budgets = self.admission.budget_states().iter().zip(left);
        budgets
            .filter_map(|(state, left)| self.spent_at(state, left + NANO))
            .min()
    }

    /// When the last budget admits these, if so much becomes free.
    fn last_admitted_at(
        &self,
        running_costs: &[(RunningCost, u32)],
        freed_budget: FreedBudget,
    ) -> Option<Timestamp> {
        let left = self.admission.left_beside(running_costs, freed_budget)?;
        let budgets = self.admission.budget_states().iter().zip(left);
        let mut last = None;
        for (state, left) in budgets.filter(|(_, left)| *left < Money::ZERO) {
            let at = self.admitted_at(state, running_costs, -left);
            last = last.max(Some(at?));
        }
        last
    }

    /// The first instant at which the money that is missing may be there because of time alone. It
    /// is later if money is spent until then: then it is asked for again.
    fn admitted_at(
        &self,
        budget_state: &BudgetState,
        running_costs: &[(RunningCost, u32)],
        missing: Money,
    ) -> Option<Timestamp> {
        let mut priorities = running_costs
            .iter()
            .map(|(running_cost, _)| running_cost.priority);
        if priorities.any(|priority| budget_state.stops(priority)) {
            return None;
        }
        let (now, end) = (self.now, budget_state.period.end);
        // near the end of the period, the useful run becomes shorter with each second
        let useful = budget_state.budget.minimum_useful_run;
        let shortens = end.checked_sub(useful).ok().filter(|at| now < *at);
        let Stopping {
            mut rate,
            mut parts,
            next_second: mut tick,
        } = self.stopping;
        if shortens.is_none() && now < end {
            rate += self.admission.rate_beside(running_costs);
            parts += 1;
            let next_second = Timestamp::from_second(now.as_second() + 1).ok();
            tick = tick.into_iter().chain(next_second).min();
        }
        let at = tick.and_then(|tick| {
            // each part is rounded by less than a nano-unit before and after
            let missing = (missing.nanos() - 2 * parts).max(0);
            let ticks = -(-missing * 3600).div_euclid(rate.nanos().max(1));
            match i64::try_from(ticks).ok()? {
                ..2 => Some(tick),
                ticks => now.checked_add(SignedDuration::from_secs(ticks - 1)).ok(),
            }
        });
        at.into_iter().chain(shortens).min()
    }
}
