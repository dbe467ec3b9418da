//! The budgets of a namespace, and the sums that they are compared with.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::budget::{self, Latch, Load, Purse, RunningTotals, Standing};
use crate::calendar::Interval;
use crate::correction::{self, Correction};

use super::event::{Budget, Key, Name};
use super::spending::{Spending, Totals};

/// What is known and remembered of a budget.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BudgetState {
    pub(crate) spec: Budget,
    /// The latch as it was last decided: a former state of the object does not take it back.
    pub(crate) latch: Option<Latch>,
    /// The period that was last looked at.
    pub(crate) period: Option<Interval>,
    pub(crate) standing: Option<Standing>,
}

/// What is known and remembered of a namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NamespaceState {
    pub(crate) budgets: BTreeMap<Name, BudgetState>,
    /// Why a budget cannot be read.
    pub(crate) doubt: Option<Name>,
    pub(crate) corrections: Vec<Correction>,
    pub(crate) spending: Spending,
    pub(crate) totals: Totals,
    /// The services by what a new replica costs.
    pub(crate) services_by_load: BTreeMap<Load, BTreeSet<Key>>,
    /// Whether one more replica at this cost would be admitted, as of the last decision.
    pub(crate) admitted: BTreeMap<Load, bool>,
    /// What workloads are capped by, as of the last decision.
    pub(crate) caps: Vec<Cap>,
    /// The TrainingJobs.
    pub(crate) jobs: BTreeSet<Key>,
    /// Some of them wait for room.
    pub(crate) waits_for_room: bool,
}

/// What of a budget's state all workloads of its namespace depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cap {
    name: Name,
    exhausted: bool,
    on_exhausted: budget::OnExhausted,
    doubt: bool,
}

impl NamespaceState {
    /// Where all budgets stand at `now`.
    pub(crate) fn standings(&mut self, now: Timestamp, zone: &TimeZone) -> Vec<Standing> {
        let running = self.running(now);
        let doubt = self.doubt();
        let (spending, corrections) = (&mut self.spending, &self.corrections);
        let standings = self.budgets.iter_mut().map(|(name, state)| {
            let period = match state.period {
                Some(period) if period.start <= now && now < period.end => period,
                _ => state.spec.period.bounds(now, zone),
            };
            state.period = Some(period);
            let corrected = correction::sum(corrections, period, now, zone);
            let spec = &state.spec;
            let budget = budget::Budget {
                name: name.to_string(),
                limit: spec.limit,
                period: spec.period,
                on_exhausted: spec.on_exhausted,
                minimum_useful_run: spec.minimum_useful_run,
                latch: state.latch.or(spec.latch),
                spent: spending.spent(spec.period, period, now) + corrected,
                corrections: corrected,
                doubt: doubt.clone(),
            };
            let standing = Standing::in_period(budget, period, running, now);
            state.latch = standing.budget.latch;
            standing
        });
        standings.collect()
    }

    /// Why what was spent, or what may be, is not known.
    fn doubt(&self) -> Option<String> {
        let why =
            |why: &str| format!("{why}; so what was spent is not known, and nothing new starts");
        let unread = self.doubt.as_ref().map(ToString::to_string);
        unread.or_else(|| self.spending.doubt().map(why))
    }

    /// The sums over what runs and starts.
    pub(crate) fn running(&self, now: Timestamp) -> RunningTotals {
        RunningTotals {
            rate: self.totals.rate(),
            reserve: self.totals.reserve(now),
            unknown: self.totals.has_unknown(),
        }
    }

    /// What of these states all workloads depend on.
    pub(crate) fn caps(standings: &[Standing]) -> Vec<Cap> {
        let cap = |standing: &Standing| Cap {
            name: standing.budget.name.as_str().into(),
            exhausted: standing.is_exhausted(),
            on_exhausted: standing.budget.on_exhausted,
            doubt: standing.budget.doubt.is_some(),
        };
        standings.iter().map(cap).collect()
    }

    /// Services for which it has changed whether one more replica would be admitted.
    pub(crate) fn changed_admissions(&mut self, purse: &Purse) -> Vec<Key> {
        let mut changed = Vec::new();
        for (load, services) in &self.services_by_load {
            let admitted = purse.check(*load).is_ok();
            if self.admitted.get(load) != Some(&admitted) {
                changed.extend(services.iter().cloned());
            }
        }
        changed
    }

    /// Notes for each cost of a replica whether one more would be admitted.
    pub(crate) fn note_admissions(&mut self, purse: &Purse) {
        let loads = self.services_by_load.keys();
        self.admitted = loads
            .map(|load| (*load, purse.check(*load).is_ok()))
            .collect();
    }

    /// True once nothing of the namespace is known.
    pub(crate) fn is_gone(&self) -> bool {
        self.budgets.is_empty()
            && self.doubt.is_none()
            && self.corrections.is_empty()
            && self.spending == Spending::default()
            && self.totals == Totals::default()
            && self.services_by_load.is_empty()
            && self.jobs.is_empty()
    }
}
