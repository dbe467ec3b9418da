//! What is known and remembered of one TrainingJob.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::training::{Retry, Turn};

use super::event::{BatchJob, Job, Name, Role};
use super::rates::CachedRate;
use super::service::Ordered;
use super::spending::RunningCost;

/// What is known and remembered of a TrainingJob. It is there as long as something of it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct JobState {
    pub(crate) spec: Option<Job>,
    /// The Jobs of its roles.
    pub(crate) batch_jobs: BTreeMap<Name, BatchJob>,
    pub(crate) pods: BTreeSet<Name>,
    /// Whether its Jobs were told to run.
    pub(crate) ordered: Option<Ordered<bool>>,
    /// The retry that an order carried whose Jobs do not show it yet.
    pub(crate) retry: Option<Retry>,
    /// Estimates for its roles, in their order.
    pub(crate) estimates: Vec<CachedRate>,
    pub(crate) cost: RunningCost,
    /// The roles that room is reserved for.
    pub(crate) roles_with_room: BTreeSet<Name>,
    pub(crate) turn: Option<Turn>,
}

impl JobState {
    /// True once nothing of it is there.
    pub(crate) fn is_gone(&self) -> bool {
        self.spec.is_none() && self.batch_jobs.is_empty() && self.pods.is_empty()
    }

    /// Whether it has ended: with each of its roles, or with a role that failed.
    pub(crate) fn has_finished(&self) -> bool {
        let Some(spec) = &self.spec else { return false };
        let finished = |name: &Name| self.batch_jobs.get(name)?.finished;
        let ends: Vec<Option<bool>> = spec.roles.iter().map(|role| finished(&role.name)).collect();
        ends.contains(&Some(false)) || ends.iter().all(|end| *end == Some(true))
    }

    /// Whether the Job of each of its roles is there, and is let run or not.
    pub(crate) fn shows(&self, running: bool) -> bool {
        let roles = self.spec.as_ref().map_or(&[][..], |spec| &spec.roles);
        let job = |role: &Role| self.batch_jobs.get(&role.name);
        roles
            .iter()
            .all(|role| job(role).is_some_and(|job| job.running == running))
    }

    /// Forgets an order that all its Jobs show.
    pub(crate) fn confirm_order(&mut self) {
        if self
            .ordered
            .is_some_and(|ordered| self.shows(ordered.value))
        {
            (self.ordered, self.retry) = (None, None);
        }
    }

    /// Whether its Jobs show that it is let run.
    pub(crate) fn shows_running(&self) -> bool {
        self.batch_jobs.values().any(|job| job.running)
    }

    /// Whether it is let run, by its Jobs or by an order that they do not show yet.
    pub(crate) fn is_running(&self) -> bool {
        match self.ordered {
            Some(ordered) => ordered.value,
            None => self.shows_running(),
        }
    }

    /// Whether no pod of an earlier run is left.
    pub(crate) fn is_settled(&self) -> bool {
        self.batch_jobs.values().all(|job| job.active == 0)
    }

    /// What it was suspended for before, if it stayed incomplete.
    pub(crate) fn last_retry(&self) -> Option<Retry> {
        let on_record = self.batch_jobs.values().filter_map(|job| job.retry);
        self.retry
            .or(on_record.max_by_key(|retry| (retry.count, retry.at)))
    }

    /// When its Jobs last began to run.
    pub(crate) fn started(&self) -> Option<Timestamp> {
        self.batch_jobs.values().filter_map(|job| job.started).max()
    }
}
