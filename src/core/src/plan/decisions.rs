//! What is ordered and decided: what differs from what was ordered and decided before.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::budget::{BudgetState, Latch};
use crate::limit::LimitedBy;
use crate::model::event::{Key, Name};
use crate::plan::service::Decision;
use crate::training::{JobDecision, Restart, Retry};

/// What a service's objects are told. The pods' labels change before the Deployment does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceOrder {
    /// The service.
    pub service: Key,
    /// UIDs of pods that begin to leave.
    pub drain: Vec<Name>,
    /// UIDs of pods that stay after all.
    pub keep: Vec<Name>,
    /// UIDs of pods that the Deployment deletes first.
    pub remove: Vec<Name>,
    /// The Deployment's replicas: before, and what they become.
    pub replicas: (u32, u32),
    /// Why.
    pub reason: String,
    /// Since when requests have been held, if they are what wakes it.
    pub held_since: Option<Timestamp>,
    /// A budget stops it: its latch is on record first.
    pub after_latch: bool,
}

/// What a TrainingJob's Jobs are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobOrder {
    /// The TrainingJob.
    pub job: Key,
    /// Whether they run.
    pub run: bool,
    /// They run, and an order to stop that nobody has carried out yet is void: no Job is changed.
    pub cancels_stop: bool,
    /// How often it was suspended because it stayed incomplete, if that is why.
    pub retry: Option<Retry>,
    /// They are stopped to start again, because a worker ended.
    pub restart: Option<Restart>,
    /// How often a worker has failed.
    pub restarts: u32,
    /// The roles whose Jobs are replaced by new ones of the same name, which inherit nothing.
    pub recreate: Vec<Name>,
    /// The roles that have ended well and whose Jobs are gone: none is made for them.
    pub done: Vec<Name>,
    /// Why.
    pub reason: String,
    /// What keeps it from running.
    pub limited_by: Option<LimitedBy>,
    /// A budget stops it: its latch is on record first.
    pub after_latch: bool,
}

/// What the pod of no workload is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvictionOrder {
    /// The pod.
    pub pod: Key,
    /// Its UID: another one of its name is not meant.
    pub uid: Name,
    /// Whether it is evicted. It stays if not, and an order that nobody has carried out yet is void.
    pub evict: bool,
    /// The budget that has no money for it.
    pub budget: Name,
}

/// That a pod of no workload will be evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvictionNotice {
    /// The pod.
    pub pod: Key,
    /// Its UID.
    pub uid: Name,
    /// The budget that has no money for it.
    pub budget: Name,
    /// When it is evicted.
    pub at: Timestamp,
}

/// What was decided in one call: what differs from what was decided before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decisions {
    /// Orders for services.
    pub service_orders: Vec<ServiceOrder>,
    /// Orders for TrainingJobs.
    pub job_orders: Vec<JobOrder>,
    /// Warnings that pods of no workload will be evicted.
    pub eviction_notices: Vec<EvictionNotice>,
    /// Orders for pods of no workload.
    pub evictions: Vec<EvictionOrder>,
    /// Latches that are to be on record.
    pub latches: Vec<(Key, Option<Latch>)>,
    /// Decisions over services that differ from the last ones.
    pub services: Vec<(Key, Decision)>,
    /// Decisions over TrainingJobs that differ from the last ones.
    pub jobs: Vec<(Key, JobDecision)>,
    /// The namespaces that were looked at.
    pub namespaces: BTreeSet<Name>,
    /// Where their budgets stand.
    pub budgets: Vec<(Key, BudgetState)>,
}
