//! Edits of a budget that would newly stop something: they take effect after a grace window.
//!
//! Until then two sets of terms hold. The terms in force stop what runs. The announced ones let
//! nothing start that they do not pay for, and stop nothing.

use jiff::Timestamp;

use super::{BudgetState, Latch, OnExhausted, Unmanaged};
use crate::calendar::Period;
use crate::money::{Money, NANOS};

/// What of a budget decides when it stops workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Money for one period.
    pub limit: Money,
    /// The period.
    pub period: Period,
    /// What happens when it is exhausted.
    pub on_exhausted: OnExhausted,
    /// What happens then to pods of no workload. What evicting them costs is in the reserve.
    pub unmanaged: Unmanaged,
}

impl Terms {
    /// Terms that stop nothing: more than any budget may have.
    pub(crate) fn unlimited(period: Period) -> Self {
        Self {
            limit: Money::from_nanos(i128::from(i64::MAX) * NANOS),
            period,
            on_exhausted: OnExhausted::Freeze,
            unmanaged: Unmanaged::Leave,
        }
    }

    /// Whether these stop nothing that the others do not.
    pub(crate) fn is_no_stricter_than(&self, others: &Self) -> bool {
        self.period == others.period
            && self.limit >= others.limit
            && self.on_exhausted.severity() <= others.on_exhausted.severity()
            && self.unmanaged.is_no_stricter_than(&others.unmanaged)
    }

    /// These terms, where what `edited` gives more counts at once.
    pub(crate) fn relieved_by(self, edited: &Self) -> Self {
        let unmanaged = self.unmanaged.relieved_by(&edited.unmanaged);
        if self.period != edited.period {
            return Self { unmanaged, ..self };
        }
        let milder = edited.on_exhausted.severity() < self.on_exhausted.severity();
        Self {
            unmanaged,
            limit: self.limit.max(edited.limit),
            period: self.period,
            on_exhausted: match milder {
                true => edited.on_exhausted,
                false => self.on_exhausted,
            },
        }
    }
}

impl OnExhausted {
    /// The more it stops, the greater.
    fn severity(self) -> u8 {
        match self {
            Self::Freeze => 0,
            Self::ScaleToMin => 1,
            Self::ScaleToZero => 2,
        }
    }
}

/// What is on record of a budget beside its specification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BudgetRecord {
    /// The terms that stop workloads, as they were last written.
    pub in_force: Option<Terms>,
    /// When an edit takes effect that waits.
    pub effective_at: Option<Timestamp>,
    /// Nothing was ever written of it.
    pub is_new: bool,
    /// Its user wants edits to take effect at once.
    pub apply_now: bool,
    /// It cannot be read, so what is said of its terms is no edit.
    pub unreadable: bool,
    /// From when on it evicts pods of no workload, as it was last written.
    pub evictions_from: Option<Timestamp>,
}

/// An edit that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingChange {
    /// When it takes effect.
    pub effective_at: Timestamp,
    /// The announced terms.
    pub announced: Terms,
    /// What stopping what holds a node now would still cost by these.
    pub reserve: Money,
    /// Neither spent nor in reserve by these; below zero where they are exceeded.
    pub remaining: Money,
    /// Only workloads of a lower priority than this stop then; `None` if all do.
    pub stops_below: Option<i32>,
}

impl BudgetState {
    /// The terms of its specification: those that are announced, where an edit waits.
    pub fn announced_terms(&self) -> Terms {
        let announced = self.pending.as_ref().map(|change| &change.announced);
        let announced = announced.cloned();
        announced.unwrap_or_else(|| self.own_terms())
    }

    /// Neither spent nor in reserve by the terms of its specification.
    pub fn announced_remaining(&self) -> Money {
        let pending = self.pending.as_ref();
        pending.map_or_else(|| self.remaining(), |change| change.remaining)
    }

    /// The terms that stop workloads; `None` while none do.
    pub fn terms_in_force(&self) -> Option<Terms> {
        let terms = self.own_terms();
        let has_limit = terms != Terms::unlimited(terms.period);
        has_limit.then_some(terms)
    }

    pub(crate) fn own_terms(&self) -> Terms {
        Terms {
            limit: self.budget.limit,
            period: self.budget.period,
            on_exhausted: self.budget.on_exhausted,
            unmanaged: self.budget.unmanaged.clone(),
        }
    }

    /// Whether announced terms would stop something before `until` that these do not.
    pub(crate) fn is_relieved_from(
        &self,
        announced: &BudgetState,
        now: Timestamp,
        until: Timestamp,
    ) -> bool {
        let stops_soon = [announced.exhausted_at, announced.stops_at(now)];
        let stops_soon = stops_soon.into_iter().flatten().any(|at| at <= until);
        let harsher =
            announced.budget.on_exhausted.severity() > self.budget.on_exhausted.severity();
        let further = match (announced.budget.latch, self.budget.latch) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(latch), Some(ours)) => harsher || reaches_further(latch, ours),
        };
        further || stops_soon && (harsher || !self.is_exhausted())
    }
}

/// Whether the first one stops workloads that the other does not.
pub(crate) fn reaches_further(latch: Latch, other: Latch) -> bool {
    match (latch.stops_below, other.stops_below) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(below), Some(other)) => below > other,
    }
}
