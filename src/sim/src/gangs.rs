//! What the controllers of Jobs do, and the work of gangs.

use bursar_core::model::Key;
use bursar_core::model::Name;
use bursar_core::model::event::{BatchJob, Owner};
use jiff::SignedDuration;

use crate::cluster::JobObject;
use crate::controllers::NewPod;
use crate::event_queue::later;
use crate::event_queue::{SimEvent, WatchedObject};
use crate::simulation::{Simulation, Submission};

impl Simulation {
    /// A TrainingJob is made.
    pub(crate) fn submit(&mut self, number: u32) {
        let submission = self.submissions.get(number as usize).cloned();
        if let Some(submission) = submission {
            self.create_job(submission);
        }
    }

    pub(crate) fn create_job(&mut self, submission: Submission) {
        let object = JobObject {
            spec: Some(bursar_core::model::event::Job {
                created: self.now,
                ..submission.job
            }),
            batch_jobs: Default::default(),
            pods: Default::default(),
            remaining: submission.runs,
            complete_since: None,
            runs: 0,
            start: submission.start,
        };
        self.cluster.jobs.insert(submission.key.clone(), object);
        self.tell(WatchedObject::Job(submission.key));
    }

    /// The Job controller makes the workers that are missing, or deletes all if the Job is
    /// suspended.
    pub(crate) fn reconcile_job(&mut self, key: &Key) {
        let Some(job) = self.cluster.jobs.get(key) else {
            return;
        };
        let exists = job.spec.is_some();
        let roles: Vec<(Name, BatchJob)> = job
            .batch_jobs
            .iter()
            .map(|(role, batch)| (role.clone(), batch.clone()))
            .collect();
        for (role, batch) in roles {
            let is_running = exists && batch.running && batch.finished.is_none();
            let present = self.workers(key, &role);
            if !is_running {
                for number in present {
                    self.delete_pod(number);
                }
                continue;
            }
            let Some(job) = self.cluster.jobs.get(key) else {
                return;
            };
            let start = job.start;
            let spec = job.spec.as_ref();
            let Some(spec) =
                spec.and_then(|spec| spec.roles.iter().find(|one| one.name == role).cloned())
            else {
                continue;
            };
            let wanted = spec.replicas.saturating_sub(batch.succeeded) as usize;
            // one that is being deleted is replaced when it is gone
            for _ in present.len()..wanted {
                let pod = NewPod {
                    namespace: key.namespace.clone(),
                    owner: Owner::Job(key.name.clone(), role.clone()),
                    shape: spec.worker.clone(),
                    grace_seconds: spec.grace_seconds,
                    start: self.between(start),
                    made_by: batch.uid.clone(),
                };
                let number = self.create_pod(pod);
                if let Some(job) = self.cluster.jobs.get_mut(key) {
                    job.pods.entry(role.clone()).or_default().insert(number);
                }
            }
        }
        self.update_active(key);
    }

    /// The workers of a role that have not ended.
    fn workers(&self, key: &Key, role: &Name) -> Vec<u32> {
        let job = self.cluster.jobs.get(key);
        let pods = job.and_then(|job| job.pods.get(role));
        let pods = pods.into_iter().flatten().copied();
        pods.filter(|number| {
            let pod = self.cluster.pods.get(number);
            pod.is_some_and(|found| found.pod.ended.is_none())
        })
        .collect()
    }

    /// The Jobs' statuses say how many pods have not ended.
    fn update_active(&mut self, key: &Key) {
        let Some(job) = self.cluster.jobs.get(key) else {
            return;
        };
        let roles: Vec<Name> = job.batch_jobs.keys().cloned().collect();
        for role in roles {
            let active = u32::try_from(self.workers(key, &role).len()).unwrap_or(u32::MAX);
            let job = self.cluster.jobs.get_mut(key);
            let batch = job.and_then(|job| job.batch_jobs.get_mut(&role));
            if let Some(batch) = batch.filter(|batch| batch.active != active) {
                batch.active = active;
                self.tell(WatchedObject::BatchJob(key.clone(), role));
            }
        }
    }

    /// A worker has become ready, or is not any more: the gang works only while all are.
    pub(crate) fn gang_changed(&mut self, key: &Key) {
        self.update_active(key);
        let Some(job) = self.cluster.jobs.get(key) else {
            return;
        };
        let is_complete = job.spec.as_ref().is_some_and(|spec| {
            spec.roles.iter().all(|role| {
                let ready = self.workers(key, &role.name).into_iter().filter(|number| {
                    let pod = self.cluster.pods.get(number);
                    pod.is_some_and(|found| found.stays() && found.pod.ready_since.is_some())
                });
                ready.count() >= role.replicas as usize
            })
        });
        let now = self.now;
        let Some(job) = self.cluster.jobs.get_mut(key) else {
            return;
        };
        match (is_complete, job.complete_since) {
            (true, None) => {
                job.complete_since = Some(now);
                job.runs += 1;
                let (end, run) = (later(now, job.remaining), job.runs);
                self.event_queue
                    .add(end, SimEvent::JobDone(key.clone(), run));
            }
            (false, Some(since)) => {
                // it goes on from its last checkpoint, which is taken as being of this moment
                job.complete_since = None;
                let worked = now.duration_since(since);
                job.remaining = (job.remaining - worked).max(SignedDuration::from_secs(1));
            }
            (true, Some(_)) | (false, None) => {}
        }
    }

    /// All workers have done their work.
    pub(crate) fn job_done(&mut self, key: &Key, run: u32) {
        let Some(job) = self.cluster.jobs.get_mut(key) else {
            return;
        };
        if job.runs != run || job.complete_since.is_none() {
            return;
        }
        job.complete_since = None;
        let Some(spec) = job.spec.clone() else {
            return;
        };
        for role in &spec.roles {
            for number in self.workers(key, &role.name) {
                self.end_pod(number);
            }
            let job = self.cluster.jobs.get_mut(key);
            if let Some(batch) = job.and_then(|job| job.batch_jobs.get_mut(&role.name)) {
                batch.succeeded = role.replicas;
                batch.active = 0;
                batch.finished = Some(true);
            }
            self.tell(WatchedObject::BatchJob(key.clone(), role.name.clone()));
        }
        self.metrics.jobs_done += 1;
    }
}
