//! What is known and remembered of one TrainingJob.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::budget::RunningCost;
use crate::training::{JobDecision, Retry};

use super::event::{BatchJob, Job, Name, Role};
use super::rates::CachedRate;
use super::service::Ordered;
use super::spending::WorkloadCost;

/// What is known and remembered of a TrainingJob. It is there as long as something of it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct JobState {
    pub(crate) spec: Option<Job>,
    /// The Jobs of its roles.
    pub(crate) batch_jobs: BTreeMap<Name, BatchJob>,
    pub(crate) pods: BTreeSet<Name>,
    /// Whether its Jobs were told to run.
    pub(crate) ordered: Option<Ordered<bool>>,
    /// Its Jobs or its specification have changed since then: before, what they show is no answer
    /// to the order.
    pub(crate) is_told: bool,
    /// The retry that an order carried whose Jobs do not show it yet.
    pub(crate) retry: Option<Retry>,
    /// Estimates for its roles, in their order.
    pub(crate) estimates: Vec<CachedRate>,
    /// What a worker of each of its roles costs, in their order.
    pub(crate) loads: Vec<RunningCost>,
    pub(crate) cost: WorkloadCost,
    /// When what it costs changes though nothing happens.
    pub(crate) cost_changes_at: Option<Timestamp>,
    /// The roles that room is reserved for.
    pub(crate) roles_with_room: BTreeSet<Name>,
    pub(crate) decision: Option<JobDecision>,
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

    /// Whether the Job of each of its roles is there, and is let run or not. Nobody tells a Job that
    /// has ended to do either.
    pub(crate) fn shows(&self, running: bool) -> bool {
        let roles = self.spec.as_ref().map_or(&[][..], |spec| &spec.roles);
        let job = |role: &Role| self.batch_jobs.get(&role.name);
        let shows = |job: &BatchJob| job.finished.is_some() || job.running == running;
        roles.iter().all(|role| job(role).is_some_and(shows))
    }

    /// Forgets an order that all its Jobs have come to show.
    pub(crate) fn confirm_order(&mut self) {
        let is_told = std::mem::take(&mut self.is_told);
        if is_told && self.ordered.is_some_and(|order| self.shows(order.value)) {
            (self.ordered, self.retry) = (None, None);
        }
    }

    /// Forgets an order that its Jobs have not shown in time. Returns whether there was one.
    pub(crate) fn expire_order(&mut self, now: Timestamp) -> bool {
        let expired = self.ordered.filter(|ordered| !ordered.is_recent(now));
        if expired.is_some() {
            self.ordered = None;
        }
        expired.is_some()
    }

    /// Whether its Jobs show that it is let run. The Job of a role that its specification has no more
    /// does not: no order is shown by it.
    pub(crate) fn shows_running(&self) -> bool {
        let is_role = |name: &Name| {
            let roles = self.spec.as_ref().map(|spec| &spec.roles);
            roles.is_none_or(|roles| roles.iter().any(|role| role.name == *name))
        };
        let mut jobs = self.batch_jobs.iter();
        jobs.any(|(name, job)| job.running && job.finished.is_none() && is_role(name))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::tz::TimeZone;

    use super::*;
    use crate::model::event::{Event, Key, PodShape};
    use crate::model::state::Model;
    use crate::plan::{JobOrder, decide};

    const ROLES: [&str; 2] = ["master", "worker"];

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn batch_job(running: bool, finished: Option<bool>) -> BatchJob {
        BatchJob {
            running,
            finished,
            ..BatchJob::default()
        }
    }

    /// A job of two roles whose Jobs are let run.
    fn model() -> Model {
        let mut model = Model::new(TimeZone::UTC, at(0));
        let role = |name: &str| Role {
            name: name.into(),
            replicas: 1,
            worker: Arc::new(PodShape::default()),
            grace_seconds: 30,
        };
        let job = Job {
            created: at(0),
            priority: 0,
            cluster_priority: 0,
            gives_way: true,
            suspend: false,
            seed: 0,
            roles: ROLES.map(role).into(),
        };
        let key = Key::new("team", "train");
        model.apply(Event::Job(key, Some(job)), at(0));
        for role in ROLES {
            tell(&mut model, role, batch_job(true, None), 0);
        }
        model
    }

    fn tell(model: &mut Model, role: &str, job: BatchJob, second: i64) {
        let key = Key::new("team", "train");
        model.apply(Event::BatchJob(key, role.into(), Some(job)), at(second));
    }

    fn orders(model: &mut Model, second: i64) -> Vec<JobOrder> {
        decide(model, at(second)).job_orders
    }

    #[test]
    fn when_a_role_fails_the_jobs_of_the_others_are_told_to_stop_until_they_do() {
        let mut model = model();
        assert_eq!(orders(&mut model, 1), []);
        tell(&mut model, "worker", batch_job(true, Some(false)), 2);
        let told = orders(&mut model, 2);
        assert_eq!((told.len(), told[0].run), (1, false));
        assert_eq!(orders(&mut model, 3), [], "it is on its way");
        // the order got lost
        assert_eq!(orders(&mut model, 40).len(), 1);
        tell(&mut model, "master", batch_job(false, None), 41);
        assert_eq!(orders(&mut model, 41), []);
        assert_eq!(orders(&mut model, 100), []);
    }

    #[test]
    fn a_role_that_ended_well_keeps_no_order_from_being_seen() {
        let mut model = model();
        tell(&mut model, "master", batch_job(true, Some(true)), 1);
        assert_eq!(orders(&mut model, 1), []);
        let key = Key::new("team", "train");
        let mut spec = model.jobs[&key].spec.clone().unwrap();
        spec.suspend = true;
        model.apply(Event::Job(key.clone(), Some(spec)), at(2));
        assert_eq!(orders(&mut model, 2).len(), 1);
        tell(&mut model, "worker", batch_job(false, None), 3);
        assert_eq!(orders(&mut model, 3), []);
        assert_eq!(orders(&mut model, 60), []);
        assert!(!model.jobs[&key].is_running());
    }
}
