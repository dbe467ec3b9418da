//! What is known of each job that is adopted, whose pods are whose, and what is done next: reads of jobs and of
//! owners, and labels for pods.

use std::collections::BTreeSet;
use std::sync::Mutex;

use bursar_api::TrainingJob;
use bursar_api::conditions::target_ready;
use bursar_api::spend::WorkloadKind;
use bursar_core::model::{Key, Name};
use bursar_core::training::Retry;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::reflector::Store;
use tokio::sync::Notify;

use super::pod_owner::{Owner, PodOwner};
use super::read::{Reading, Wanted};
use super::record::Record;
use super::state::{Entry, PendingPod, State};
use super::table::JobTargetKinds;
use super::target::JobTarget;
use super::view::JobTargetView;
use crate::cache::key_of;
use crate::lock::lock;
use crate::pod;
use crate::target_work::{
    FIRST_RETRY, OWNER_TIMEOUT, SETTLE, TargetWork, after, missing_interval, read_interval,
    retry_wait,
};

/// What is done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Work {
    /// Read the target of this TrainingJob.
    Read(Key, Wanted),
    /// Read who owns this owner of a pod.
    ReadOwner { pod: Key, owner: Owner },
    /// Give this pod of this UID the labels of a worker of the TrainingJob.
    Label { pod: Key, uid: Name, job: Key },
    /// It is known now whose this pod is, which has labels.
    Known(Key),
    /// The pods of no workload of this namespace have one more.
    Disown(Name),
}

/// The jobs that are adopted, and the pods that may be theirs.
#[derive(Debug, Default)]
pub(crate) struct JobTargets {
    kinds: JobTargetKinds,
    state: Mutex<State>,
    added: Notify,
}

impl JobTargets {
    /// None is known yet.
    pub(crate) fn new(kinds: JobTargetKinds) -> Self {
        Self {
            kinds,
            ..Self::default()
        }
    }

    /// The kinds that may be adopted.
    pub(super) fn kinds(&self) -> &JobTargetKinds {
        &self.kinds
    }

    /// Takes a TrainingJob as it is now; `None` if it is gone.
    pub(crate) fn set(&self, key: &Key, object: Option<&TrainingJob>, now: Timestamp) {
        let mut state = lock(&self.state);
        // until it has given its target back, that is nobody else's
        let goes_on = |object: &&TrainingJob| {
            object.metadata.deletion_timestamp.is_none() || object.holds_target()
        };
        let object = object.filter(goes_on);
        let target = object.and_then(|object| Some((object.spec.target_ref.clone()?, object)));
        let Some((target, object)) = target else {
            state.releases.remove(key);
            return state.remove(key);
        };
        let wanted = Wanted {
            namespace: key.namespace.to_string(),
            target,
        };
        let uid: Name = object.uid().unwrap_or_default().into();
        let record = Record::of(object);
        let known = state.jobs.get_mut(key);
        if let Some(entry) = known.filter(|entry| entry.uid == uid && entry.wanted == wanted) {
            let generation = object.metadata.generation;
            let is_recorded = std::mem::replace(&mut entry.record, record.clone()) != record;
            let is_edited = std::mem::replace(&mut entry.generation, generation) != generation;
            if !is_recorded && !is_edited {
                return;
            }
            state.schedule_read(key, now);
        } else {
            state.remove(key);
            let created = object.creation_timestamp().map_or(now, |time| time.0);
            let mut entry = Entry::new((uid, object.metadata.generation), wanted, created, now);
            entry.record = record;
            state.insert(key, entry, now);
        }
        drop(state);
        self.added.notify_one();
    }

    /// Takes all TrainingJobs of a new leader, before accounts are synced: pods of their targets are in no other
    /// account.
    pub(crate) fn fill(&self, jobs: &Store<TrainingJob>, now: Timestamp) {
        for object in jobs.state() {
            self.set(&key_of(&*object), Some(&object), now);
        }
    }

    /// What is known of the target of a TrainingJob; `None` before it was read.
    pub(crate) fn view(&self, key: &Key) -> Option<JobTargetView> {
        lock(&self.state).view(key)
    }

    /// The version at which a target was last read.
    pub(super) fn version(&self, key: &Key) -> Option<String> {
        lock(&self.state).jobs.get(key)?.version.clone()
    }

    /// Whether a TrainingJob has a target whose pods Bursar cannot stop by suspending it, as far as that is known.
    pub(crate) fn is_out_of_control(&self, key: &Key) -> bool {
        let view = lock(&self.state).view(key);
        view.is_some_and(|view| view.is_out_of_control())
    }

    /// What a gang was last taken back for, if it stayed incomplete.
    pub(crate) fn retry(&self, key: &Key) -> Option<Retry> {
        lock(&self.state).jobs.get(key)?.retry.clone()
    }

    /// A target, as it was before, was suspended or let run, and for what it was taken back, if it was.
    pub(super) fn note_written(
        &self,
        key: &Key,
        (before, suspended): (&JobTarget, bool),
        retry: Option<Retry>,
        now: Timestamp,
    ) {
        let mut state = lock(&self.state);
        if let Some(entry) = state.jobs.get_mut(key) {
            entry.retry = retry;
            if before.suspended != suspended {
                entry.note_order(before, suspended, now);
            }
        }
        state.schedule_read(key, now);
        drop(state);
        self.added.notify_one();
    }

    /// The target is to be read at once.
    pub(super) fn note_stale(&self, key: &Key, now: Timestamp) {
        lock(&self.state).schedule_read(key, now);
        self.added.notify_one();
    }

    /// Takes a pod as it is now; `None` if it is gone.
    pub(crate) fn note_pod(&self, key: &Key, pod: Option<&Pod>, now: Timestamp) {
        let mut state = lock(&self.state);
        if !state.has_jobs(&key.namespace) {
            return;
        }
        let found = pod.and_then(|pod| Some((pod, Owner::of_pod(pod)?)));
        let Some((pod, controller)) = found else {
            state.owners.remove_pod(key);
            return state.remove_pod(key);
        };
        match self.kinds.owner(&controller.group, &controller.kind) {
            // a target that becomes known later finds its pods by this
            Some(_) => state.owners.add_pod(key, &controller),
            None => state.owners.remove_pod(key),
        }
        let job = pod::workload_of(pod).filter(|of| of.kind != WorkloadKind::Unmanaged);
        let job = job.map(|of| (of.kind, Key::new(&of.namespace, &of.name)));
        let is_labelled = match &job {
            Some((WorkloadKind::TrainingJob, job)) if state.jobs.contains_key(job) => {
                state.schedule_read(job, after(now, SETTLE));
                true
            }
            Some(_) => return state.remove_pod(key),
            None => false,
        };
        let created = pod.creation_timestamp().map_or(now, |time| time.0);
        let ends = pod::is_terminal(pod) || pod.metadata.deletion_timestamp.is_some();
        let owner = state
            .owners
            .resolve(&self.kinds, &controller, |uid| state.target(uid));
        let is_settled = match (&owner, is_labelled) {
            (PodOwner::Target(..), true) => true,
            (_, true) => false,
            (PodOwner::Other, false) => now >= after(created, OWNER_TIMEOUT),
            (_, false) => false,
        };
        if is_settled || ends && !is_labelled {
            return state.remove_pod(key);
        }
        let uid: Name = pod::uid(pod).into();
        let known = state.pods.get(key);
        if known.is_some_and(|known| known.uid == uid && known.is_labelled == is_labelled) {
            return;
        }
        state.remove_pod(key);
        let pod = PendingPod {
            uid,
            controller,
            is_labelled,
            created,
            due: now,
            failures: 0,
        };
        state.pods.insert(key.clone(), pod);
        state.due_pods.insert((now, key.clone()));
        drop(state);
        self.added.notify_one();
    }

    /// Whether a pod without a workload's labels may be one of a job, and is yet to get them.
    pub(crate) fn may_own(&self, pod: &Pod, now: Timestamp) -> bool {
        let state = lock(&self.state);
        let created = pod.creation_timestamp().map_or(now, |time| time.0);
        let namespace: Name = pod.namespace().unwrap_or_default().into();
        let is_new = now < after(created, OWNER_TIMEOUT);
        let is_labelled =
            || pod::workload_of(pod).is_some_and(|of| of.kind != WorkloadKind::Unmanaged);
        let Some(controller) =
            Owner::of_pod(pod).filter(|_| is_new && state.has_jobs(&namespace) && !is_labelled())
        else {
            return false;
        };
        let owner = state
            .owners
            .resolve(&self.kinds, &controller, |uid| state.target(uid));
        owner != PodOwner::Other
    }

    /// The UID of the target that a pod with the labels of a TrainingJob is of, if it is known to be its own.
    pub(crate) fn target_of(&self, pod: &Pod, job: &Key) -> Option<Name> {
        let state = lock(&self.state);
        let controller = Owner::of_pod(pod).filter(|_| state.jobs.contains_key(job))?;
        match state
            .owners
            .resolve(&self.kinds, &controller, |uid| state.target(uid))
        {
            PodOwner::Target(of, uid) if of == *job => Some(uid),
            _ => None,
        }
    }

    /// Namespaces all of whose pods are to be noted, since none of them was: they have their first target.
    pub(crate) fn take_namespaces(&self) -> BTreeSet<Name> {
        std::mem::take(&mut lock(&self.state).to_scan)
    }

    /// Pods below a target that became known since the last call.
    pub(crate) fn take_pods_below(&self) -> BTreeSet<Key> {
        std::mem::take(&mut lock(&self.state).to_observe)
    }

    /// TrainingJobs whose older rival has gone since the last call.
    pub(crate) fn take_successors(&self) -> BTreeSet<Key> {
        std::mem::take(&mut lock(&self.state).successors)
    }

    /// Takes what was read of a target. Returns whether it is new.
    pub(super) fn note_read(
        &self,
        key: &Key,
        wanted: &Wanted,
        reading: Reading,
        now: Timestamp,
    ) -> bool {
        let mut state = lock(&self.state);
        let interval = read_interval(state.jobs.len());
        let Some(entry) = state
            .jobs
            .get_mut(key)
            .filter(|entry| entry.wanted == *wanted)
        else {
            return false;
        };
        entry.is_reading = false;
        // its templates may be about to come as well
        let lacks = [target_ready::NOT_FOUND, target_ready::NO_TEMPLATES];
        let is_missing = (reading.problem.as_ref())
            .is_some_and(|problem| lacks.contains(&problem.reason) || reading.target.is_none());
        entry.missing = match is_missing {
            true => entry.missing.saturating_add(1),
            false => 0,
        };
        let next = match (entry.is_outdated, is_missing) {
            (true, _) => after(now, SETTLE),
            (false, true) => after(now, missing_interval(entry.missing, interval)),
            (false, false) => after(now, interval),
        };
        (entry.next_read, entry.is_outdated) = (next, false);
        let before = entry.read.clone();
        let view = entry.next_view(reading, now);
        let is_new = before.as_ref() != Some(&view);
        entry.read = Some(view.clone());
        state.reads.insert((next, key.clone()));
        if is_new {
            state.note_change(key, before.as_ref(), &view);
        }
        is_new
    }

    /// Takes who owns an owner of pods; `None` if nobody does, or it is gone.
    pub(super) fn note_owner(&self, pod: &Key, uid: &Name, owner: Option<Owner>, now: Timestamp) {
        let mut state = lock(&self.state);
        state.owners.set(uid, owner);
        state.schedule_pod(pod, now);
    }

    /// A pod has what it is to get, or is none of a job.
    pub(super) fn note_done(&self, pod: &Key) {
        lock(&self.state).remove_pod(pod);
    }

    /// Since when this leader has tried to give the target of a TrainingJob back.
    pub(super) fn release_since(&self, key: &Key, now: Timestamp) -> Timestamp {
        let mut state = lock(&self.state);
        *state.releases.entry(key.clone()).or_insert(now)
    }

    /// A pod could not be labelled, or an owner not be read: it is tried again later.
    pub(super) fn note_failure(&self, pod: &Key, now: Timestamp) {
        let mut state = lock(&self.state);
        if let Some(found) = state.pods.get_mut(pod) {
            let wait = retry_wait(found.failures);
            found.failures = found.failures.saturating_add(1);
            state.schedule_pod(pod, after(now, wait));
        }
    }
}

impl TargetWork for JobTargets {
    type Work = Work;

    fn take_read(&self, now: Timestamp) -> Option<Work> {
        let mut state = lock(&self.state);
        let (due, key) = state.reads.first().cloned()?;
        if due > now {
            return None;
        }
        state.reads.pop_first();
        let entry = state.jobs.get_mut(&key)?;
        (entry.is_reading, entry.is_outdated) = (true, false);
        Some(Work::Read(key, entry.wanted.clone()))
    }

    fn take_pod(&self, now: Timestamp) -> Option<Work> {
        let mut state = lock(&self.state);
        loop {
            let (due, key) = state.due_pods.first().cloned()?;
            if due > now {
                return None;
            }
            state.due_pods.pop_first();
            let Some(pod) = state.pods.get(&key).cloned() else {
                continue;
            };
            let owner = state
                .owners
                .resolve(&self.kinds, &pod.controller, |uid| state.target(uid));
            let is_late = now >= after(pod.created, OWNER_TIMEOUT);
            match owner {
                PodOwner::Unread(owner) => return Some(Work::ReadOwner { pod: key, owner }),
                PodOwner::Target(..) if pod.is_labelled => {
                    state.remove_pod(&key);
                    return Some(Work::Known(key));
                }
                PodOwner::Target(job, _) => {
                    let uid = pod.uid;
                    return Some(Work::Label { pod: key, uid, job });
                }
                PodOwner::Other if !is_late && !state.are_all_read(&key.namespace) => {
                    state.schedule_pod(&key, after(now, FIRST_RETRY));
                }
                PodOwner::Other => {
                    state.remove_pod(&key);
                    if !pod.is_labelled {
                        return Some(Work::Disown(key.namespace));
                    }
                }
            }
        }
    }

    fn next_due(&self) -> Option<Timestamp> {
        let state = lock(&self.state);
        let reads = state.reads.first().map(|(at, _)| *at);
        let pods = state.due_pods.first().map(|(at, _)| *at);
        reads.into_iter().chain(pods).min()
    }

    fn added(&self) -> &Notify {
        &self.added
    }
}
