//! What is known and remembered of one TrainingJob.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::budget::RunningCost;
use crate::training::{Interruption, JobDecision, Restart, Retry};

use super::event::{BatchJob, Job, Name, Owner, Pod, Role};
use super::missing_replica_pods::CREATION_FAILURE_TIMEOUT;
use super::preemptible::Preemptibility;
use super::rates::CachedRate;
use super::service::Ordered;
use super::spending::WorkloadCost;

/// How a TrainingJob has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEnd {
    /// Each role that decides over its success has ended well.
    Succeeded,
    /// The Job of this role has failed.
    RoleFailed(Name),
    /// A worker has failed once more than the gang may start again.
    RestartsUsedUp,
}

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
    pub(crate) order_observed: bool,
    /// The retry that an order carried whose Jobs do not show it yet.
    pub(crate) retry: Option<Retry>,
    /// The restart that an order carried whose Jobs do not show it yet.
    pub(crate) restart: Option<Restart>,
    /// Why it is stopped to start again.
    pub(crate) interruption: Option<Interruption>,
    /// Since when its room and its money are kept while it does not run.
    pub(crate) reservation_kept_since: Option<Timestamp>,
    /// Estimates for its roles, in their order.
    pub(crate) estimates: Vec<CachedRate>,
    /// What a worker of each of its roles costs, in their order.
    pub(crate) running_costs: Vec<RunningCost>,
    pub(crate) cost: WorkloadCost,
    /// When what it costs changes though nothing happens.
    pub(crate) cost_changes_at: Option<Timestamp>,
    /// The roles that room is reserved for.
    pub(crate) roles_with_room: BTreeSet<Name>,
    /// What its room may become for others.
    pub(crate) preemptibility: Preemptibility,
    /// Since when workers have been on nodes that do not run any more.
    pub(crate) leaving_since: Option<Timestamp>,
    pub(crate) decision: Option<JobDecision>,
    /// Since when the Job of each role has been seen to run. How long ago that began by its own word is of
    /// the run before, until its controller has seen that it runs.
    pub(crate) running_since: BTreeMap<Name, Timestamp>,
    /// Roles whose Jobs were seen to run and are gone, while those of others run.
    pub(crate) deleted_roles: BTreeSet<Name>,
    /// Roles whose Jobs were seen to end well, and are gone.
    pub(crate) ended_roles: BTreeSet<Name>,
    /// Roles that were told to start again, though they may have ended well, until their next Jobs are there.
    pub(crate) recreated_roles: BTreeSet<Name>,
    /// Roles whose Jobs have shown nothing since the specification is that of another TrainingJob, or of none:
    /// they may be those of the one before.
    pub(crate) former_jobs: BTreeSet<Name>,
    /// Since when orders to run have been refused though none of its Jobs runs.
    pub(crate) start_rejected_since: Option<Timestamp>,
    /// What it waits for after that: no Job may be there that could have it on record.
    pub(crate) rejected_start: Option<Retry>,
}

impl JobState {
    /// True once nothing of it is there.
    pub(crate) fn is_gone(&self) -> bool {
        self.spec.is_none() && self.batch_jobs.is_empty() && self.pods.is_empty()
    }

    /// How it has ended, if it has.
    pub(crate) fn end(&self) -> Option<JobEnd> {
        let spec = self.spec.as_ref()?;
        let finished = |role: &Role| match self.batch_jobs.get(&role.name) {
            Some(job) => job.finished,
            None => self.is_done(&role.name).then_some(true),
        };
        // what becomes of the other workers once these have ended well is no failure: they are stopped
        let mut deciding = spec.deciding_roles();
        if deciding.all(|role| finished(role) == Some(true)) {
            return Some(JobEnd::Succeeded);
        }
        if self.restart_on_record().is_some() && self.restarts_on_record() > spec.restarts {
            return Some(JobEnd::RestartsUsedUp);
        }
        let failed = spec.roles.iter().find(|role| finished(role) == Some(false));
        failed.map(|role| JobEnd::RoleFailed(role.name.clone()))
    }

    /// Whether it has ended.
    pub(crate) fn has_finished(&self) -> bool {
        self.end().is_some()
    }

    /// Whether the Job of each of its roles is there, and is let run or not. Nobody tells a Job that
    /// has ended to do either.
    pub(crate) fn shows(&self, running: bool) -> bool {
        let roles = self.spec.as_ref().map_or(&[][..], |spec| &spec.roles);
        let job = |role: &Role| self.batch_jobs.get(&role.name);
        let shows = |job: &BatchJob| job.finished.is_some() || job.running == running;
        let shows = |role: &Role| job(role).map_or_else(|| self.is_done(&role.name), shows);
        roles.iter().all(shows)
    }

    /// Forgets an order that all its Jobs have come to show.
    pub(crate) fn confirm_order(&mut self) {
        let order_observed = std::mem::take(&mut self.order_observed);
        if order_observed && self.ordered.is_some_and(|order| self.shows(order.value)) {
            (self.ordered, self.retry, self.restart) = (None, None, None);
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

    /// Whether its specification has a role of this name, as far as that is known.
    fn is_role(&self, name: &Name) -> bool {
        let roles = self.spec.as_ref().map(|spec| &spec.roles);
        roles.is_none_or(|roles| roles.iter().any(|role| role.name == *name))
    }

    /// Whether its Jobs show that it is let run. The Job of a role that its specification has no more
    /// does not: no order is shown by it.
    pub(crate) fn shows_running(&self) -> bool {
        let mut jobs = self.batch_jobs.iter();
        jobs.any(|(name, job)| job.running && job.finished.is_none() && self.is_role(name))
    }

    /// Whether it is let run, by its Jobs or by an order that they do not show yet.
    pub(crate) fn is_running(&self) -> bool {
        match self.ordered {
            Some(ordered) => ordered.value,
            None => self.shows_running(),
        }
    }

    /// Whether it is let run, or its room and its money are kept until it starts again.
    pub(crate) fn has_room(&self) -> bool {
        (self.is_running() || self.reservation_kept_since.is_some()) && !self.has_finished()
    }

    /// Whether it was told to give its GPUs back, and none of its Jobs shows that yet.
    pub(crate) fn may_go_on(&self) -> bool {
        let order_observed = self.ordered.is_some_and(|ordered| !ordered.value);
        let decision = self.decision.as_ref();
        let for_gpus = decision.is_some_and(|decision| decision.preempted_for_gpus);
        order_observed
            && for_gpus
            && self.shows(true)
            && self.shows_running()
            && !self.has_finished()
    }

    /// Whether no pod of an earlier run is left, but for so many of each role that are given up. Where
    /// new Jobs are to follow, the Jobs must have stopped as well.
    pub(crate) fn is_settled(&self, given_up: impl Fn(&Name) -> u32) -> bool {
        let are_stopped = !self.shows_running();
        let mut jobs = self.batch_jobs.iter();
        let stopped = |(role, job): (&Name, &BatchJob)| {
            job.active == 0 || are_stopped && job.active <= given_up(role)
        };
        (are_stopped || self.restart_at().is_none()) && jobs.all(stopped)
    }

    /// Whether a pod is one of the present Job of its role. Those of a Job before it are none of its
    /// workers.
    pub(crate) fn is_of_current_run(&self, pod: &Pod) -> bool {
        let Owner::Job(_, role) = &pod.owner else {
            return false;
        };
        // a pod that no Job has made can carry the labels of its workers
        let current = self.batch_jobs.get(role);
        current.is_some_and(|job| job.uid == pod.made_by)
    }

    /// Whether a pod was told to stop before its Job, which runs, was last let run: all of them were when it
    /// was suspended. Its Job shows no start until its controller has seen that it runs again, and has made
    /// the first pods of the present start by then.
    pub(crate) fn was_stopped_before_present_start(&self, pod: &Pod) -> bool {
        let Owner::Job(_, role) = &pod.owner else {
            return false;
        };
        let is_taken_away = pod.deletion.is_some() || pod.disrupted;
        let Some(stopped) = pod.ended.into_iter().chain(pod.deleted_at()).min() else {
            return false;
        };
        let job = self.batch_jobs.get(role).filter(|job| job.running);
        let is_earlier = |job: &BatchJob| job.started.is_none_or(|started| stopped <= started);
        is_taken_away && job.is_some_and(is_earlier)
    }

    /// Whether this is a role of which all workers have ended well.
    pub(crate) fn has_ended_well(&self, owner: &Owner) -> bool {
        let Owner::Job(_, role) = owner else {
            return false;
        };
        match self.batch_jobs.get(role) {
            Some(job) => job.finished == Some(true),
            None => self.is_done(role),
        }
    }

    /// Whether a role has ended well whose Job is gone. When all start again, it does as well.
    fn is_done(&self, role: &Name) -> bool {
        let on_record = |spec: &Job| spec.ended_well.contains(role);
        let has_ended =
            self.ended_roles.contains(role) || self.spec.as_ref().is_some_and(on_record);
        let starts_again = self.restart_at().is_some() || self.recreated_roles.contains(role);
        has_ended && !self.batch_jobs.contains_key(role) && !starts_again
    }

    /// The roles that have ended well and whose Jobs are gone.
    pub(crate) fn done_roles(&self) -> Vec<Name> {
        let roles = self.spec.iter().flat_map(|spec| &spec.roles);
        let done = roles.filter(|role| self.is_done(&role.name));
        done.map(|role| role.name.clone()).collect()
    }

    /// How often a worker has failed, as far as Jobs and status show it.
    fn restarts_on_record(&self) -> u32 {
        let of_jobs = self.batch_jobs.values().map(|job| job.restarts).max();
        let of_status = self.spec.as_ref().map(|spec| spec.restart_count);
        of_jobs.max(of_status).unwrap_or(0)
    }

    /// When it may start again, if its Jobs show that it was stopped to do so.
    fn restart_on_record(&self) -> Option<Timestamp> {
        let jobs = self.batch_jobs.iter();
        let suspended =
            jobs.filter(|(name, job)| !job.running && job.finished.is_none() && self.is_role(name));
        suspended.filter_map(|(_, job)| job.restart_at).max()
    }

    /// How often a worker has failed.
    pub(crate) fn restarts(&self) -> u32 {
        let ordered = self.restart.map_or(0, |restart| restart.count);
        self.restarts_on_record().max(ordered)
    }

    /// How often in a row the cluster has interrupted it.
    pub(crate) fn disruptions(&self) -> u32 {
        let of_jobs = self.batch_jobs.values().map(|job| job.disruptions).max();
        let ordered = self.restart.map(|restart| restart.disruptions);
        ordered.or(of_jobs).unwrap_or(0)
    }

    /// A role whose Job is not there, though those of others run.
    pub(crate) fn role_without_job(&self) -> Option<&Name> {
        let mut roles = self.spec.iter().flat_map(|spec| &spec.roles);
        let is_missing = |name: &Name| !self.batch_jobs.contains_key(name) && !self.is_done(name);
        let role = roles.find(|role| is_missing(&role.name))?;
        Some(&role.name)
    }

    /// When its Jobs that run began to do so, the first of them.
    pub(crate) fn first_started(&self) -> Option<Timestamp> {
        let running = self.batch_jobs.values().filter(|job| job.running);
        running.filter_map(|job| job.started).min()
    }

    /// When it may start again, if it was stopped to do so.
    pub(crate) fn restart_at(&self) -> Option<Timestamp> {
        self.restart
            .map(|restart| restart.at)
            .or_else(|| self.restart_on_record())
    }

    /// The roles whose Jobs show an earlier run, of which a new one must inherit nothing: neither the
    /// Job's own back-off after failures, nor pods that never stop. When all start again because a
    /// worker ended, these are all roles, those that have ended well included; else, a role that has
    /// ended is left alone, and one of which only some workers have ended well starts anew if the gang
    /// resumes as a whole. A Job of an earlier version that has not ended anything is replaced as well: it
    /// would count failures otherwise than the gang does.
    pub(crate) fn roles_to_renew(&self) -> Vec<Name> {
        if self.is_adopted() {
            return Vec::new();
        }
        let restarts = self.restart_on_record().is_some();
        let jobs = self.batch_jobs.iter().filter(|(_, job)| {
            let is_stopped = job.finished.is_some() || !job.running;
            let is_stale = job.failed > 0 || job.replaces_workers;
            let keeps_ended = job.succeeded > 0 && !self.resumes_whole();
            let is_partial = job.succeeded > 0 && self.resumes_whole();
            let starts_anew = job.active > 0 || is_partial || is_stale && !keeps_ended;
            is_stopped && (restarts || job.finished.is_none() && starts_anew)
        });
        jobs.map(|(role, _)| role.clone()).collect()
    }

    /// Whether another controller makes its workers and starts them again.
    pub(crate) fn is_adopted(&self) -> bool {
        self.spec.as_ref().is_some_and(|spec| spec.is_adopted)
    }

    /// Whether workers that have ended well start again with the others of their role.
    fn resumes_whole(&self) -> bool {
        self.spec.as_ref().is_some_and(|spec| spec.resumes_whole)
    }

    /// How many workers of a role have ended well and are not started again.
    pub(crate) fn ended_well(&self, role: &str) -> u32 {
        if self.restart_at().is_some() {
            return 0;
        }
        if let Some(job) = self.batch_jobs.get(role) {
            let is_partial = !job.running && job.finished.is_none();
            return match is_partial && self.resumes_whole() {
                true => 0,
                false => job.succeeded,
            };
        }
        let mut roles = self.spec.iter().flat_map(|spec| &spec.roles);
        let done = roles.find(|found| *found.name == *role && self.is_done(&found.name));
        done.map_or(0, |found| found.replicas)
    }

    /// What it was suspended for before, if it stayed incomplete.
    pub(crate) fn last_retry(&self) -> Option<Retry> {
        let on_record = self
            .batch_jobs
            .values()
            .filter_map(|job| job.retry.as_ref());
        let latest = on_record.max_by_key(|retry| (retry.count, retry.at));
        let rejected = self.rejected_start.as_ref();
        rejected.or(self.retry.as_ref()).or(latest).cloned()
    }

    /// Takes that the Job of a role is another one than it was, or gone.
    pub(crate) fn set_batch_job(&mut self, role: &Name, job: Option<BatchJob>, now: Timestamp) {
        let is_gone = job.is_none();
        let before = match job {
            Some(job) => self.batch_jobs.insert(role.clone(), job),
            None => self.batch_jobs.remove(role),
        };
        let is_former = self.former_jobs.remove(role);
        let has_ended = before
            .as_ref()
            .is_some_and(|job| job.finished == Some(true) && !is_former);
        let uid = |job: &BatchJob| job.uid.clone();
        let current = self.batch_jobs.get(role);
        if current.is_some_and(|job| before.as_ref().map(uid) != Some(uid(job))) {
            self.recreated_roles.remove(role);
        }
        let ran = |job: BatchJob| job.running || job.finished.is_some();
        if !is_gone || self.restart_at().is_some() || self.recreated_roles.contains(role) {
            self.ended_roles.remove(role);
        } else if has_ended {
            self.ended_roles.insert(role.clone());
        }
        if is_gone && !has_ended && !is_former && before.is_some_and(ran) {
            self.deleted_roles.insert(role.clone());
        }
        if self.shows_running() {
            (self.start_rejected_since, self.rejected_start) = (None, None);
        }
        match self.batch_jobs.get(role).is_some_and(|job| job.running) {
            true => drop(self.running_since.entry(role.clone()).or_insert(now)),
            false => drop(self.running_since.remove(role)),
        }
    }

    /// Forgets which roles were seen to lose their Jobs, once no Job runs. That is known only when all
    /// events of a moment have been taken.
    pub(crate) fn settle_deleted_roles(&mut self) {
        if !self.shows_running() {
            self.deleted_roles.clear();
        }
    }

    /// Takes that its specification is now that of another TrainingJob, or of none. Nothing that was remembered
    /// of the one before counts, nor what its Jobs have shown.
    pub(crate) fn forget_former(&mut self) {
        (self.ordered, self.retry, self.decision) = (None, None, None);
        (self.restart, self.reservation_kept_since) = (None, None);
        (self.start_rejected_since, self.rejected_start) = (None, None);
        self.ended_roles.clear();
        self.deleted_roles.clear();
        self.recreated_roles.clear();
        self.former_jobs = self.batch_jobs.keys().cloned().collect();
    }

    /// Takes that the Jobs of these roles are told to be made anew.
    pub(crate) fn recreate(&mut self, roles: &[Name]) {
        self.ended_roles.retain(|role| !roles.contains(role));
        self.recreated_roles.extend(roles.iter().cloned());
    }

    /// Takes that an order was refused.
    pub(crate) fn reject_order(&mut self, now: Timestamp) {
        let starts = self.ordered.is_some_and(|ordered| ordered.value);
        if starts && !self.shows_running() {
            self.start_rejected_since.get_or_insert(now);
        }
        (self.ordered, self.retry, self.restart) = (None, None, None);
    }

    /// Until when its room and its money are kept though the cluster refuses its Jobs.
    pub(crate) fn start_rejected_until(&self) -> Option<Timestamp> {
        let since = self.start_rejected_since?;
        Some(
            since
                .saturating_add(CREATION_FAILURE_TIMEOUT)
                .unwrap_or(since),
        )
    }

    /// Gives an order to run up, which the cluster has refused for long.
    pub(crate) fn give_up_start(&mut self, retry: Retry) {
        (self.ordered, self.start_rejected_since) = (None, None);
        self.rejected_start = Some(retry);
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
            preemption_allowed: true,
            suspend: false,
            paused: false,
            seed: 0,
            restarts: 3,
            restart_count: 0,
            ended_well: Default::default(),
            success_roles: Default::default(),
            resumes_whole: false,
            is_adopted: false,
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

    /// A gang of Bursar's own is taken back without its pods. The controller of an adopted one makes them when it
    /// sees fit: a submitter comes last.
    #[test]
    fn an_adopted_job_is_not_stopped_for_want_of_pods() {
        for is_adopted in [false, true] {
            let mut model = model();
            let key = Key::new("team", "train");
            let mut spec = model.jobs[&key].spec.clone().unwrap();
            spec.is_adopted = is_adopted;
            model.apply(Event::Job(key, Some(spec)), at(1));
            let mut seconds = (1..900).step_by(10);
            let stops =
                seconds.any(|second| orders(&mut model, second).iter().any(|order| !order.run));
            assert_eq!(stops, !is_adopted);
        }
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
