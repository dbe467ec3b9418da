//! The budgets of a namespace, and the sums that they are compared with.

use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::budget::{
    self, BudgetAdmission, BudgetState, Denied, Latch, PendingChange, PriorityTotals, RunningCost,
    RunningTotals, Terms, reaches_further,
};
use crate::calendar::Interval;
use crate::correction::{self, Correction};
use crate::money::Money;

use super::budget_terms::KnownTerms;
use super::claim::{BudgetPreemption, BudgetRank, Claim, Workload};
use super::event::{Budget, Key, Name};
use super::planned_eviction::{Evicting, PlannedEviction};
use super::spending::{Spending, Totals};

/// What is known and remembered of a budget.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KnownBudget {
    pub(crate) spec: Budget,
    pub(crate) terms: KnownTerms,
    /// The period that was last looked at.
    pub(crate) period: Option<Interval>,
    /// Where it stood when it was last looked at. A former state of the object does not take its
    /// latch back.
    pub(crate) budget_state: Option<BudgetState>,
    /// When it next stops something, at the rate of the last look.
    pub(crate) stops_at: Option<Timestamp>,
    /// The edit of prices because of which it stops nothing yet.
    pub(crate) price_edit: Option<PriceEdit>,
}

/// Charges have followed an edit of prices after so long.
const CHARGES_FOLLOW: SignedDuration = SignedDuration::from_mins(1);

/// An edit of prices, and until when a budget stops nothing because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PriceEdit {
    at: Timestamp,
    until: Timestamp,
}

impl PriceEdit {
    fn is_open(&self, now: Timestamp) -> bool {
        now < self.until
    }

    /// Whether what a budget stops is because of it. What is there when charges have followed and would stop
    /// nothing before the window ends is not: if something is stopped then, others have spent the money.
    fn counts(&self, after: &BudgetState, now: Timestamp) -> bool {
        let have_followed = now.duration_since(self.at) >= CHARGES_FOLLOW;
        let stops_within = || after.stops_at(now).is_some_and(|at| at < self.until);
        !have_followed || after.stops_below().is_some() || stops_within()
    }
}

impl KnownBudget {
    /// The latch as it was last decided, or as it is on record before that.
    pub(crate) fn latch(&self) -> Option<Latch> {
        let budget_state = self.budget_state.as_ref();
        budget_state.map_or(self.spec.latch, |budget_state| budget_state.budget.latch)
    }
}

/// What is known and remembered of a namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NamespaceState {
    pub(crate) budgets: BTreeMap<Name, KnownBudget>,
    /// Why a budget cannot be read.
    pub(crate) doubt: Option<Name>,
    pub(crate) corrections: Vec<Correction>,
    pub(crate) spending: Spending,
    pub(crate) totals: Totals,
    /// The services by what a new replica costs, and by whether the budgets would have admitted
    /// one more when the service was last decided.
    pub(crate) services: BTreeMap<(RunningCost, Admission), BTreeSet<Key>>,
    /// What workloads are capped by, as of the last decision.
    pub(crate) caps: Vec<Cap>,
    /// The TrainingJobs.
    pub(crate) jobs: BTreeSet<Key>,
    /// What the next slice of its services goes on from, while some are left.
    pub(crate) partial_pass: Option<PartialPass>,
    /// Services of which so many replicas without a node are taken back, as the budgets do not pay
    /// for them any more.
    pub(crate) withdrawn: BTreeMap<Key, u32>,
    /// Who waits for money, in the order in which it is given, and what each of them would cost.
    pub(crate) claims: BTreeMap<BudgetRank, Claim>,
    /// For whom money is kept that is there, or will be once others have given way.
    pub(crate) kept: BTreeMap<BudgetRank, Vec<(RunningCost, u32)>>,
    /// What each budget has left beside all that money is kept for, once others have given way.
    pub(crate) kept_left: Vec<Money>,
    /// Who gives way to whom: services by so many replicas, and gangs.
    pub(crate) preempted: BTreeMap<Workload, BudgetPreemption>,
    /// What jobs would cost about which the budgets were asked when the queue was last decided, alone or
    /// beside those ahead of them, and the answer: those that were refused money, and those that hold up
    /// other namespaces since they were not.
    pub(crate) answered_jobs: Vec<AnsweredJob>,
    /// The budgets that evict pods of no workload.
    pub(crate) evicting: BTreeMap<Name, Evicting>,
    /// The pods that they evict, by UID.
    pub(crate) evictions: BTreeMap<Name, PlannedEviction>,
}

/// The money of a namespace between two slices of its services. What became free meanwhile belongs
/// to the older of them, and is given when all have been decided.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PartialPass {
    /// What budgets admit beside what has been admitted.
    pub(crate) admission: BudgetAdmission,
    /// What ran and started once the orders of the last slice had been given.
    pub(crate) ran: RunningTotals,
    /// For whom money is kept who has not got it yet.
    pub(crate) kept: BTreeMap<BudgetRank, Vec<(RunningCost, u32)>>,
}

/// What the workers of gangs cost, and whether the budgets would admit them.
pub(crate) type AnsweredJob = (Vec<(RunningCost, u32)>, Admission);

/// Whether the budgets of a namespace would admit one more replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Admission {
    /// They would.
    Admitted,
    /// They will once workloads of lower priority have given way, or what stops has stopped.
    AfterPreemption,
    /// There is no money for it.
    NoMoney,
    /// What it costs, or what was spent, is not known.
    Unknown,
}

impl Admission {
    /// The answer for a replica of this cost.
    pub(crate) fn of(admission: &BudgetAdmission, running_cost: RunningCost) -> Self {
        let running_costs = [(running_cost, 1)];
        match Self::of_all(admission, &running_costs) {
            Self::NoMoney if admission.check_after_preemption(&running_costs).is_ok() => {
                Self::AfterPreemption
            }
            answer => answer,
        }
    }

    /// The answer for several of each that start together, as things are now.
    pub(crate) fn of_all(
        admission: &BudgetAdmission,
        running_costs: &[(RunningCost, u32)],
    ) -> Self {
        let answer = admission.check_all(running_costs);
        answer.map_or_else(|denied| Self::from(&denied), |()| Self::Admitted)
    }
}

impl From<&Denied> for Admission {
    fn from(denied: &Denied) -> Self {
        match denied {
            Denied::Budget { .. } => Self::NoMoney,
            Denied::Unknown(_) => Self::Unknown,
        }
    }
}

/// What of a budget's state all workloads of its namespace depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cap {
    name: Name,
    exhausted: bool,
    /// The priority below which workloads are stopped, if not all are.
    stops_below: Option<i32>,
    on_exhausted: budget::OnExhausted,
    doubt: bool,
    announced: bool,
}

impl Cap {
    /// Whether it stops something that runs, or keeps it from growing.
    pub(crate) fn stops_something(&self) -> bool {
        !self.announced && (self.exhausted || self.stops_below.is_some())
    }
}

/// Whether something is stopped with this latch that was not stopped before.
fn stops_more(latch: Option<Latch>, before: Option<Latch>) -> bool {
    latch.is_some_and(|latch| before.is_none_or(|before| reaches_further(latch, before)))
}

impl NamespaceState {
    /// Where all budgets stand at `now`: first one for each of them, by the terms in force, then those
    /// by terms that are announced.
    pub(crate) fn budget_states(&mut self, now: Timestamp, zone: &TimeZone) -> Vec<BudgetState> {
        let running = self.running(now);
        let doubt = self.doubt();
        let (spending, corrections) = (&mut self.spending, &self.corrections);
        let totals = &self.totals;
        // while slices are left, what frees money may not be decided yet: nothing stops for others
        let (none, is_settled) = (PriorityTotals::default(), self.partial_pass.is_none());
        let priorities = if is_settled {
            totals.priorities()
        } else {
            &none
        };
        let mut announced = Vec::new();
        let budget_states = self.budgets.iter_mut().map(|(name, state)| {
            let period = match state.period {
                Some(period) if period.start <= now && now < period.end => period,
                _ => state.spec.period.bounds(now, zone),
            };
            state.period = Some(period);
            if state.terms.effective_at.is_some_and(|at| at <= now) {
                state.adopt();
            }
            let mut of_terms = |state: &KnownBudget, terms: Terms, latch: Option<Latch>| {
                let period = match terms.period == state.spec.period {
                    true => period,
                    false => terms.period.bounds(now, zone),
                };
                let corrected = correction::sum(corrections, period, now, zone);
                let budget = budget::Budget {
                    name: name.to_string(),
                    limit: terms.limit,
                    period: terms.period,
                    on_exhausted: terms.on_exhausted,
                    eviction_reserve: totals.eviction_reserve(&terms.unmanaged),
                    unmanaged: terms.unmanaged,
                    minimum_useful_run: state.spec.minimum_useful_run,
                    latch,
                    spent: spending.spent(terms.period, period, now) + corrected,
                    corrections: corrected,
                    doubt: doubt.clone(),
                };
                BudgetState::in_period(budget, period, running, priorities, now)
            };
            let latch = state.latch().or(state.spec.latch);
            let terms = state.spec.terms();
            let mut edited = of_terms(state, terms.clone(), latch);
            let pending = state.terms.effective_at.zip(state.former_terms());
            let Some((effective_at, former)) = pending else {
                return edited;
            };
            let mut in_force = of_terms(state, former, latch);
            // what only a price edit stops waits with it
            let is_repriced = state.price_edit.is_some_and(|edit| edit.is_open(now));
            state.terms.would_stop = in_force.is_relieved_from(&edited, now, effective_at)
                || is_repriced && stops_more(edited.budget.latch, latch);
            if !state.terms.would_stop && is_settled {
                state.adopt();
                return edited;
            }
            in_force.pending = Some(PendingChange {
                effective_at,
                announced: terms,
                reserve: edited.reserve,
                remaining: edited.remaining(),
                stops_below: edited.stops_below(),
            });
            edited.announced = true;
            announced.push(edited);
            in_force
        });
        let mut budget_states: Vec<BudgetState> = budget_states.collect();
        budget_states.extend(announced);
        budget_states
    }

    /// Takes that prices were edited: what a budget would newly stop because of them, it stops after
    /// the grace window. What it would have stopped anyway, it stops when it would have.
    pub(crate) fn note_price_edit(&mut self, now: Timestamp, grace: SignedDuration) {
        let ends = now.saturating_add(grace).unwrap_or(now);
        for known in self.budgets.values_mut() {
            // the window is not begun anew by the next edit
            if known.price_edit.is_none_or(|edit| !edit.is_open(now)) {
                let until = known.stops_at.map_or(ends, |anyway| anyway.min(ends));
                let edit = PriceEdit { at: now, until };
                known.price_edit = Some(edit).filter(|edit| edit.is_open(now));
            }
        }
    }

    /// Lets budgets stop nothing that they stop only because prices were edited. Charges follow the
    /// prices one by one, so that each look may be the one at which they would.
    pub(crate) fn defer_stops_by_prices(&mut self, now: Timestamp, zone: &TimeZone) {
        let mut known = self.budgets.values();
        if known.all(|known| known.price_edit.is_none()) {
            return;
        }
        let budget_states = self.budget_states(now, zone);
        for (known, after) in self.budgets.values_mut().zip(budget_states) {
            let edit = known.price_edit.filter(|edit| edit.is_open(now));
            known.price_edit = edit.filter(|edit| edit.counts(&after, now));
            let (Some(edit), Some(before)) = (known.price_edit, &known.budget_state) else {
                continue;
            };
            // an edit of its own may stop something beside
            let present = known.former_terms().unwrap_or(known.spec.terms());
            let is_edited = !present.is_no_stricter_than(&before.own_terms());
            if stops_more(after.budget.latch, before.budget.latch) && !is_edited {
                let announced = known.terms.effective_at;
                let waits_until = announced.map_or(edit.until, |at| at.min(edit.until));
                known.terms.in_force = None;
                known.terms.effective_at = Some(waits_until);
            }
        }
    }

    /// When the next edit takes effect that waits.
    pub(crate) fn next_terms(&self) -> Option<Timestamp> {
        let states = self.budgets.values();
        states.filter_map(|state| state.terms.effective_at).min()
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
        let (starting_rate, starting_reserve) = self.totals.starting();
        RunningTotals {
            starting_rate,
            starting_reserve,
            rate: self.totals.rate(),
            reserve: self.totals.reserve(now),
            unknown: self.totals.has_unknown(),
        }
    }

    /// What of these states all workloads depend on.
    pub(crate) fn caps(budget_states: &[BudgetState]) -> Vec<Cap> {
        let cap = |budget_state: &BudgetState| Cap {
            name: budget_state.budget.name.as_str().into(),
            exhausted: budget_state.is_exhausted(),
            stops_below: budget_state.stops_below(),
            on_exhausted: budget_state.budget.on_exhausted,
            doubt: budget_state.budget.doubt.is_some(),
            announced: budget_state.announced,
        };
        budget_states.iter().map(cap).collect()
    }

    /// Services for which it has changed since their last decision whether the budgets would admit
    /// one more replica.
    pub(crate) fn changed_admissions(&self, admission: &BudgetAdmission) -> BTreeSet<Key> {
        let mut known: Option<(RunningCost, Admission)> = None;
        let mut admits = |running_cost: RunningCost| match known {
            Some((same, admits)) if same == running_cost => admits,
            _ => {
                let admits = Admission::of(admission, running_cost);
                known = Some((running_cost, admits));
                admits
            }
        };
        let groups = self.services.iter();
        let changed =
            groups.filter(|((running_cost, admitted), _)| admits(*running_cost) != *admitted);
        changed
            .flat_map(|(_, services)| services.iter().cloned())
            .collect()
    }

    /// Whether a job about which the budgets were asked when the queue was last decided would get
    /// another answer now.
    pub(crate) fn has_changed_answer(&self, admission: &BudgetAdmission) -> bool {
        let mut answered = self.answered_jobs.iter();
        answered
            .any(|(running_costs, answer)| Admission::of_all(admission, running_costs) != *answer)
    }

    /// Whether the budgets held something back at the last decisions.
    pub(crate) fn is_limited(&self) -> bool {
        let mut keys = self.services.keys();
        keys.any(|(_, admission)| *admission != Admission::Admitted)
    }

    /// Moves a service to where its new key says.
    pub(crate) fn index_service(
        &mut self,
        service: &Key,
        old: Option<(RunningCost, Admission)>,
        new: Option<(RunningCost, Admission)>,
    ) {
        if old == new {
            return;
        }
        if let Some(old) = old
            && let Some(services) = self.services.get_mut(&old)
        {
            services.remove(service);
            if services.is_empty() {
                self.services.remove(&old);
            }
        }
        if let Some(new) = new {
            self.services
                .entry(new)
                .or_default()
                .insert(service.clone());
        }
    }

    /// True once nothing of the namespace is known.
    pub(crate) fn is_gone(&self) -> bool {
        self.budgets.is_empty()
            && self.doubt.is_none()
            && self.corrections.is_empty()
            && self.spending == Spending::default()
            && self.totals == Totals::default()
            && self.services.is_empty()
            && self.jobs.is_empty()
    }
}
