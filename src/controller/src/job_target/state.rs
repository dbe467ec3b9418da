//! What is known of all jobs that are adopted and of the pods that may be theirs, and when each is looked at next.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bursar_api::conditions::target_ready;
use bursar_core::model::{Key, Name};
use bursar_core::training::Retry;
use jiff::{SignedDuration, Timestamp};

use super::pod_owner::{Owner, Owners};
use super::read::{Reading, Wanted};
use super::record::Record;
use super::target::JobTarget;
use super::view::JobTargetView;
use crate::scale_target::TargetProblem;
use crate::target_key::{TargetKey, TargetUids};
use crate::target_work::after;

/// A target that was read before goes on counting for this long while reads fail.
const STALE_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// Another controller decides over a job that was let run so often against Bursar's order ...
const MAX_RESUMPTIONS: u32 = 3;
/// ... within this time of each other, and until so long after the last one.
const RESUMPTION_MEMORY: SignedDuration = SignedDuration::from_mins(10);

/// A TrainingJob with a target.
#[derive(Debug)]
pub(super) struct Entry {
    /// The TrainingJob's UID.
    pub(super) uid: Name,
    pub(super) generation: Option<i64>,
    pub(super) wanted: Wanted,
    /// What its status says of its target.
    pub(super) record: Option<Record>,
    created: Timestamp,
    /// What was read; `None` before the first time.
    pub(super) read: Option<JobTargetView>,
    /// The version that was read.
    pub(super) version: Option<String>,
    /// How often in a row it was not there.
    pub(super) missing: u32,
    pub(super) next_read: Timestamp,
    pub(super) is_reading: bool,
    /// Something has happened since the read that goes on began.
    pub(super) is_outdated: bool,
    failing_since: Option<Timestamp>,
    /// Since when the target of this UID is suspended, but for short times in which others let it run ...
    suspended_since: Option<(Name, Timestamp)>,
    /// ... since when they do.
    resumed_since: Option<Timestamp>,
    /// What its gang was last taken back for, if it stayed incomplete.
    pub(super) retry: Option<Retry>,
    /// What the target of this UID was last ordered: whether it is suspended.
    ordered: Option<(Name, bool)>,
    /// How often in a row somebody has let it run after Bursar suspended it, and when last.
    resumptions: (u32, Timestamp),
}

/// A pod of which is to be known whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PendingPod {
    pub(super) uid: Name,
    pub(super) controller: Owner,
    /// It has the labels of a worker.
    pub(super) is_labelled: bool,
    pub(super) created: Timestamp,
    pub(super) due: Timestamp,
    pub(super) failures: u32,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) jobs: BTreeMap<Key, Entry>,
    /// The TrainingJobs that name a target, the oldest first: that one has it.
    by_target: HashMap<TargetKey, BTreeSet<(Timestamp, Key)>>,
    uids: TargetUids,
    pub(super) reads: BTreeSet<(Timestamp, Key)>,
    pub(super) pods: BTreeMap<Key, PendingPod>,
    pub(super) due_pods: BTreeSet<(Timestamp, Key)>,
    pub(super) owners: Owners,
    /// Namespaces of which no pod was noted yet.
    pub(super) to_scan: BTreeSet<Name>,
    /// Pods below a target that became known.
    pub(super) to_observe: BTreeSet<Key>,
    /// Since when targets are being given back.
    pub(super) releases: HashMap<Key, Timestamp>,
    /// TrainingJobs that have a target from now on which another one has given back.
    pub(super) successors: BTreeSet<Key>,
}

impl Entry {
    /// One of which nothing was read.
    pub(super) fn new(
        (uid, generation): (Name, Option<i64>),
        wanted: Wanted,
        created: Timestamp,
        now: Timestamp,
    ) -> Self {
        Self {
            uid,
            generation,
            wanted,
            record: None,
            created,
            read: None,
            version: None,
            missing: 0,
            next_read: now,
            is_reading: false,
            is_outdated: false,
            failing_since: None,
            suspended_since: None,
            resumed_since: None,
            retry: None,
            ordered: None,
            resumptions: (0, now),
        }
    }

    /// What is known after a read. While reads fail for want of an answer, the last target counts for a while; one
    /// that may not be read any more, or not in this version, is there all the same.
    pub(super) fn next_view(&mut self, reading: Reading, now: Timestamp) -> JobTargetView {
        let mut view = self.known(reading, now);
        let target = view.target.as_ref();
        let since = match target.filter(|target| target.end.is_none()) {
            Some(target) if target.suspended => Some(self.suspended_since(&target.uid, now)),
            Some(_) => {
                // whoever lets it run now and then gives its pods no more time
                let since = *self.resumed_since.get_or_insert(now);
                if now >= after(since, RESUMPTION_MEMORY) {
                    self.suspended_since = None;
                }
                None
            }
            None => None,
        };
        view.set_suspended_since(since, now);
        view
    }

    /// Since when the target of this UID is suspended, which it is now.
    fn suspended_since(&mut self, uid: &Name, now: Timestamp) -> Timestamp {
        self.resumed_since = None;
        let known = self.suspended_since.take();
        let known = known.filter(|(known, _)| known == uid);
        let (_, since) = self
            .suspended_since
            .insert(known.unwrap_or_else(|| (uid.clone(), now)));
        *since
    }

    fn known(&mut self, reading: Reading, now: Timestamp) -> JobTargetView {
        let reason = reading.problem.as_ref().map(|problem| problem.reason);
        let known = self.read.as_ref().and_then(|known| known.target.clone());
        if reason == Some(target_ready::NOT_READ) {
            let since = *self.failing_since.get_or_insert(now);
            return match &self.read {
                Some(view) if now < after(since, STALE_AFTER) => view.clone(),
                _ => JobTargetView {
                    target: known,
                    problem: reading.problem,
                    ..JobTargetView::default()
                },
            };
        }
        self.failing_since = None;
        let kept = [target_ready::FORBIDDEN, target_ready::KIND_NOT_SERVED];
        if reason.is_some_and(|reason| kept.contains(&reason)) {
            return JobTargetView {
                target: known,
                problem: reading.problem,
                ..JobTargetView::default()
            };
        }
        let deletion = |record: &Record| record.deletion(&reading, &self.wanted.target);
        if let Some(problem) = self.record.as_ref().and_then(deletion) {
            self.version = None;
            return JobTargetView {
                problem: Some(problem),
                ..JobTargetView::default()
            };
        }
        self.version = reading.version;
        let mut view = JobTargetView {
            target: reading.target.map(Arc::new),
            problem: reading.problem,
            ..JobTargetView::default()
        };
        let end = self.record.as_ref().and_then(Record::end);
        if let (Some(target), Some(end)) = (&mut view.target, end)
            && target.end.is_none()
        {
            Arc::make_mut(target).end = Some(end);
        }
        if let (Some(target), Some(known)) = (&mut view.target, known) {
            // what it makes is made anew at times, and has the same templates
            let is_same = known.uid == target.uid && !known.pod_sets.is_empty();
            let is_same = is_same && (reading.is_pending || target.end.is_some());
            if is_same && target.pod_sets.is_empty() {
                let target = Arc::make_mut(target);
                target.pod_sets.clone_from(&known.pod_sets);
                target.pod_set_label.clone_from(&known.pod_set_label);
                view.problem = view
                    .problem
                    .filter(|problem| problem.reason != target_ready::NO_TEMPLATES);
            }
        }
        if view.problem.is_none() {
            view.problem = self.contest(now);
        }
        view
    }

    /// Takes that a job, as it was before, is suspended or let run. If it is suspended again, somebody has let it run
    /// since: this is counted by writes, since no read shows what happens between two of them, and whoever lets it
    /// run may take the annotation away in the same write.
    pub(super) fn note_order(&mut self, before: &JobTarget, suspended: bool, now: Timestamp) {
        let was_ordered = self.ordered.as_ref() == Some(&(before.uid.clone(), true));
        if suspended && (was_ordered || before.is_resumed_by_others()) {
            let (count, last) = self.resumptions;
            let goes_on = now < after(last, RESUMPTION_MEMORY);
            let count = if goes_on { count } else { 0 };
            self.resumptions = (count.saturating_add(1), now);
        }
        self.ordered = Some((before.uid.clone(), suspended));
        if !suspended {
            // the pods that come are no leftovers, even before it was read again
            self.suspended_since = None;
            if let Some(view) = &mut self.read {
                view.set_suspended_since(None, now);
            }
        }
    }

    /// That another controller decides over the job, if it has let it run again and again.
    fn contest(&self, now: Timestamp) -> Option<TargetProblem> {
        let (count, last) = self.resumptions;
        let is_contested = count >= MAX_RESUMPTIONS && now < after(last, RESUMPTION_MEMORY);
        is_contested.then(|| {
            let target = &self.wanted.target;
            let why = format!(
                "somebody has let {target} run {count} times after Bursar suspended it, the last time at {last}: Bursar leaves it alone for ten minutes"
            );
            TargetProblem::new(target_ready::MANAGED_BY_OTHER, why)
        })
    }
}

impl State {
    pub(super) fn has_jobs(&self, namespace: &Name) -> bool {
        self.in_namespace(namespace).next().is_some()
    }

    fn in_namespace(&self, namespace: &Name) -> impl Iterator<Item = (&Key, &Entry)> {
        let first = Key {
            namespace: namespace.clone(),
            name: "".into(),
        };
        let entries = self.jobs.range(first..);
        entries.take_while(move |(key, _)| key.namespace == *namespace)
    }

    /// Whether all targets of a namespace were found.
    pub(super) fn are_all_read(&self, namespace: &Name) -> bool {
        let is_found = |entry: &Entry| {
            let read = entry.read.as_ref();
            read.is_some_and(|view| view.target.is_some())
        };
        self.in_namespace(namespace)
            .all(|(_, entry)| is_found(entry))
    }

    /// Whose target has this UID, and whether what owns it goes first.
    pub(super) fn target(&self, uid: &Name) -> Option<(Key, bool)> {
        let target = self.uids.target(uid)?;
        let (_, job) = self.by_target.get(target)?.first()?;
        let view = self.jobs.get(job)?.read.as_ref()?;
        view.charged()?;
        let problem = view.problem.as_ref();
        let is_owned =
            problem.is_some_and(|problem| problem.reason == target_ready::OWNED_BY_OTHER);
        Some((job.clone(), is_owned))
    }

    pub(super) fn view(&self, key: &Key) -> Option<JobTargetView> {
        let entry = self.jobs.get(key)?;
        let mut view = entry.read.clone()?;
        let oldest = self
            .by_target
            .get(&TargetKey::new(&key.namespace, &entry.wanted.target));
        let oldest = oldest.and_then(|jobs| jobs.first());
        if let Some((_, oldest)) = oldest.filter(|(_, oldest)| oldest != key) {
            let (other, target) = (&oldest.name, &entry.wanted.target);
            let why = format!(
                "TrainingJob {other} has {target} in its targetRef too, and is older: delete one of the two"
            );
            view.problem = Some(TargetProblem::new(target_ready::IN_USE, why));
        }
        Some(view)
    }

    pub(super) fn insert(&mut self, key: &Key, entry: Entry, now: Timestamp) {
        if !self.has_jobs(&key.namespace) {
            self.to_scan.insert(key.namespace.clone());
        }
        let target = TargetKey::new(&key.namespace, &entry.wanted.target);
        let jobs = self.by_target.entry(target).or_default();
        jobs.insert((entry.created, key.clone()));
        self.jobs.insert(key.clone(), entry);
        self.reads.insert((now, key.clone()));
    }

    pub(super) fn remove(&mut self, key: &Key) {
        let Some(entry) = self.jobs.remove(key) else {
            return;
        };
        self.reads.remove(&(entry.next_read, key.clone()));
        let target = TargetKey::new(&key.namespace, &entry.wanted.target);
        let successor = self.by_target.get_mut(&target).and_then(|jobs| {
            jobs.remove(&(entry.created, key.clone()));
            jobs.first().map(|(_, successor)| successor.clone())
        });
        match successor {
            // it has the target from now on
            Some(successor) => {
                self.successors.insert(successor);
                if let Some(uid) = self.uids.uid(&target) {
                    self.to_observe.extend(self.owners.pods_below(uid));
                }
            }
            None => {
                self.by_target.remove(&target);
                self.uids.remove(&target);
            }
        }
        if !self.has_jobs(&key.namespace) {
            self.to_scan.remove(&key.namespace);
            self.owners.remove_namespace(&key.namespace);
            let first = Key {
                namespace: key.namespace.clone(),
                name: "".into(),
            };
            let pods = self.pods.range(first..).map(|(pod, _)| pod);
            let pods = pods.take_while(|pod| pod.namespace == key.namespace);
            for pod in pods.cloned().collect::<Vec<Key>>() {
                self.remove_pod(&pod);
            }
        }
    }

    /// Takes that something else was read of a target than before.
    pub(super) fn note_change(
        &mut self,
        key: &Key,
        before: Option<&JobTargetView>,
        view: &JobTargetView,
    ) {
        let uid = |view: &JobTargetView| view.charged().map(|target| target.uid.clone());
        let (before, now) = (before.and_then(uid), uid(view));
        let Some(uid) = now.filter(|uid| before.as_ref() != Some(uid)) else {
            return;
        };
        let Some(entry) = self.jobs.get(key) else {
            return;
        };
        let target = TargetKey::new(&key.namespace, &entry.wanted.target);
        // pods were made meanwhile
        self.to_observe.extend(self.owners.pods_below(&uid));
        self.uids.set(target, uid);
    }

    pub(super) fn schedule_read(&mut self, key: &Key, at: Timestamp) {
        let Some(entry) = self.jobs.get_mut(key) else {
            return;
        };
        if entry.is_reading {
            entry.is_outdated = true;
            return;
        }
        if at < entry.next_read {
            self.reads.remove(&(entry.next_read, key.clone()));
            entry.next_read = at;
            self.reads.insert((at, key.clone()));
        }
    }

    pub(super) fn schedule_pod(&mut self, key: &Key, due: Timestamp) {
        if let Some(pod) = self.pods.get_mut(key) {
            self.due_pods.remove(&(pod.due, key.clone()));
            pod.due = due;
            self.due_pods.insert((due, key.clone()));
        }
    }

    pub(super) fn remove_pod(&mut self, key: &Key) {
        if let Some(pod) = self.pods.remove(key) {
            self.due_pods.remove(&(pod.due, key.clone()));
        }
    }
}
