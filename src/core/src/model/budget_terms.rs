//! Which terms of a budget are in force, and which wait for the end of a grace window.

use jiff::{SignedDuration, Timestamp};

use super::event::Budget;
use super::namespace::KnownBudget;
use crate::budget::{BudgetRecord, Terms};

/// The terms of a budget beside those of its specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownTerms {
    /// What stops workloads; `None` for a new budget, while nothing does.
    pub(crate) in_force: Option<Terms>,
    /// Since an edit: when the terms of the specification take effect.
    pub(crate) effective_at: Option<Timestamp>,
    /// At the last look they would have stopped something that runs.
    pub(crate) would_stop: bool,
}

impl Budget {
    pub(crate) fn terms(&self) -> Terms {
        Terms {
            limit: self.limit,
            period: self.period,
            on_exhausted: self.on_exhausted,
            unmanaged: self.unmanaged.clone(),
        }
    }
}

impl KnownTerms {
    fn settled(terms: Terms) -> Self {
        Self {
            in_force: Some(terms),
            effective_at: None,
            would_stop: false,
        }
    }

    /// The terms of a budget that is seen for the first time.
    pub(crate) fn first(spec: &Budget, grace: SignedDuration, now: Timestamp) -> Self {
        let BudgetRecord {
            in_force,
            effective_at,
            is_new,
            apply_now,
            unreadable,
            evictions_from: _,
        } = spec.record.clone();
        let terms = spec.terms();
        if apply_now {
            return Self::settled(terms);
        }
        // nobody lengthens the window by what they write
        let latest = now.saturating_add(grace).unwrap_or(now);
        match (in_force, effective_at) {
            (Some(known), _) if unreadable => Self::settled(known),
            (Some(known), None) if terms.is_no_stricter_than(&known) => Self::settled(terms),
            (None, None) if !is_new => Self::settled(terms),
            (in_force, until) => Self {
                in_force,
                effective_at: Some(until.map_or(latest, |until| until.min(latest))),
                would_stop: effective_at.is_some(),
            },
        }
    }

    /// The terms once the specification was edited.
    pub(crate) fn edited(
        self,
        before: &Budget,
        spec: &Budget,
        grace: SignedDuration,
        now: Timestamp,
    ) -> Self {
        let terms = spec.terms();
        if spec.record.unreadable {
            return self;
        }
        if spec.record.apply_now {
            return Self::settled(terms);
        }
        let in_force = self.in_force.as_ref();
        if in_force.is_some_and(|known| terms.is_no_stricter_than(known)) {
            return Self::settled(terms);
        }
        if before.terms() == terms && !before.record.unreadable {
            return self;
        }
        // the window of an edit that would stop something is not begun anew by the next one
        let running = self.effective_at.filter(|_| self.would_stop);
        let ends = running.unwrap_or(now.saturating_add(grace).unwrap_or(now));
        Self {
            effective_at: Some(ends),
            ..self
        }
    }
}

impl KnownBudget {
    /// The terms that stop workloads, while others wait; `None` if none do.
    pub(crate) fn former_terms(&self) -> Option<Terms> {
        self.terms.effective_at?;
        let edited = self.spec.terms();
        let unlimited = || Terms::unlimited(edited.period);
        let former = self.terms.in_force.clone().unwrap_or_else(unlimited);
        Some(former.relieved_by(&edited))
    }

    /// The terms of the specification are in force.
    pub(crate) fn adopt(&mut self) {
        self.terms = KnownTerms::settled(self.spec.terms());
    }
}
