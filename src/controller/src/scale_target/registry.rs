//! What is known of each target, whose pods are whose, and what is done next: reads of targets and of
//! ReplicaSets, and labels for pods.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use bursar_api::InferenceDeployment;
use bursar_api::conditions::target_ready;
use bursar_api::engine::Engine;
use bursar_api::inference::TargetRef;
use bursar_api::spend::WorkloadKind;
use bursar_core::model::{Key, Name};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::reflector::Store;
use tokio::sync::Notify;

use super::pod_owner::{Controller, PodOwner, created, unlabelled};
use super::read::{Reading, Wanted};
use super::view::TargetView;
use super::{ScaleTarget, TargetProblem, is_recorded};
use crate::api_calls::ApiError;
use crate::cache::key_of;
use crate::lock::lock;
use crate::pod;

/// How often a target is read though nothing happens, ...
const READ_INTERVAL: SignedDuration = SignedDuration::from_secs(15);
/// ... and how many are read in a second at most for this reason: with more targets the interval grows.
const READS_A_SECOND: i64 = 50;
/// One that is not there may come, with pods at once.
const MISSING_INTERVAL: SignedDuration = SignedDuration::from_secs(5);
/// So long after a pod of a target has changed, or its replicas were ordered, it is read: more changes follow.
const SETTLE: SignedDuration = SignedDuration::from_secs(1);
/// A target that was read before goes on counting for this long while reads fail.
const STALE_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// A pod that may be a target's is in no other account for this long after its creation.
const OWNER_TIMEOUT: SignedDuration = SignedDuration::from_secs(10);
/// The wait after the first failure to label a pod or to read its ReplicaSet, and the longest.
const FIRST_RETRY: SignedDuration = SignedDuration::from_millis(500);
const LONGEST_RETRY: SignedDuration = SignedDuration::from_secs(60);
/// ReplicaSets of which it is remembered who made them.
const MAX_REPLICA_SETS: usize = 20_000;

/// Namespace, group, kind and name of a target.
type TargetKey = (Name, String, String, String);

/// An InferenceDeployment with a target.
#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    created: Timestamp,
    /// What was read; `None` before the first time.
    read: Option<TargetView>,
    is_adopted: bool,
    next_read: Timestamp,
    is_reading: bool,
    /// Something has happened since the read that goes on began.
    is_outdated: bool,
    failing_since: Option<Timestamp>,
}

/// A pod without a workload's labels in a namespace with targets.
#[derive(Debug, Clone, PartialEq, Eq)]
struct UnlabelledPod {
    uid: Name,
    controller: Controller,
    created: Timestamp,
    due: Timestamp,
    failures: u32,
}

/// What is done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Work {
    /// Read the target of this service.
    Read(Key, Wanted),
    /// Read who made the ReplicaSet of this name and UID, of which a pod is.
    ReadReplicaSet { pod: Key, name: String, uid: Name },
    /// Give this pod of this UID the labels of a replica of the service.
    Label { pod: Key, uid: Name, service: Key },
    /// The pods of no workload of this namespace have one more.
    Disown(Name),
}

#[derive(Debug, Default)]
struct State {
    services: BTreeMap<Key, Entry>,
    /// The services that name a target, the oldest first: that one scales it.
    by_target: HashMap<TargetKey, BTreeSet<(Timestamp, Key)>>,
    /// The target of each UID.
    by_uid: HashMap<Name, TargetKey>,
    reads: BTreeSet<(Timestamp, Key)>,
    pods: BTreeMap<Key, UnlabelledPod>,
    due_pods: BTreeSet<(Timestamp, Key)>,
    /// The UIDs of ReplicaSets, and of what made them.
    replica_sets: HashMap<Name, Option<Name>>,
    /// Namespaces of which a target became known: any of their pods may be its own.
    to_scan: BTreeSet<Name>,
    /// Services whose target has changed, but for its replicas and its rollout.
    changed: BTreeSet<Key>,
    /// Services that scale a target from now on which another one has given back.
    successors: BTreeSet<Key>,
}

/// The targets of all services, and the pods that may be theirs.
#[derive(Debug, Default)]
pub(crate) struct ScaleTargets {
    state: Mutex<State>,
    added: Notify,
}

fn target_key(namespace: &Name, target: &TargetRef) -> TargetKey {
    let group = target.group().to_owned();
    (
        namespace.clone(),
        group,
        target.kind.clone(),
        target.name.clone(),
    )
}

fn wanted(key: &Key, object: &InferenceDeployment) -> Option<Wanted> {
    let spec = &object.spec;
    Some(Wanted {
        namespace: key.namespace.to_string(),
        target: spec.target_ref.clone()?,
        service: spec.service_ref.clone(),
        engine_port: match spec.engine {
            Engine::None => None,
            _ => spec.engine_port(),
        },
    })
}

fn after(now: Timestamp, wait: SignedDuration) -> Timestamp {
    now.saturating_add(wait).unwrap_or(now)
}

impl State {
    fn has_targets(&self, namespace: &Name) -> bool {
        self.in_namespace(namespace).next().is_some()
    }

    fn in_namespace(&self, namespace: &Name) -> impl Iterator<Item = (&Key, &Entry)> {
        let first = Key {
            namespace: namespace.clone(),
            name: "".into(),
        };
        let entries = self.services.range(first..);
        entries.take_while(move |(key, _)| key.namespace == *namespace)
    }

    /// The service that scales a target: the oldest that names it.
    fn oldest(&self, target: &TargetKey) -> Option<&Key> {
        self.by_target.get(target)?.first().map(|(_, key)| key)
    }

    fn owner(&self, namespace: &Name, controller: &Controller) -> PodOwner {
        let replica_of = |uid: &Name| self.oldest(self.by_uid.get(uid)?).cloned();
        if let Some(service) = replica_of(&controller.uid) {
            return PodOwner::Replica(service);
        }
        let made_by = self.replica_sets.get(&controller.uid);
        match (&controller.replica_set, made_by) {
            (Some(name), None) => return PodOwner::ReplicaSet(name.clone()),
            (Some(_), Some(Some(uid))) => {
                if let Some(service) = replica_of(uid) {
                    return PodOwner::Replica(service);
                }
            }
            _ => {}
        }
        let is_found = |(_, entry): (&Key, &Entry)| {
            let read = entry.read.as_ref();
            read.is_some_and(|view| view.target.is_some())
        };
        match self.in_namespace(namespace).all(is_found) {
            true => PodOwner::Other,
            false => PodOwner::Unknown,
        }
    }

    /// Whether no pod of its namespace may be a replica of a service and lacks the labels.
    fn has_all_labels(&self, key: &Key) -> bool {
        let first = Key {
            namespace: key.namespace.clone(),
            name: "".into(),
        };
        let pods = self.pods.range(first..);
        let mut pods = pods.take_while(|(pod, _)| pod.namespace == key.namespace);
        let is_known = self
            .services
            .get(key)
            .is_some_and(|entry| entry.read.is_some());
        let is_others = |pod: &UnlabelledPod| match self.owner(&key.namespace, &pod.controller) {
            PodOwner::Replica(service) => service != *key,
            PodOwner::Other | PodOwner::Unknown => true,
            PodOwner::ReplicaSet(_) => false,
        };
        is_known && !self.to_scan.contains(&key.namespace) && pods.all(|(_, pod)| is_others(pod))
    }

    fn schedule_read(&mut self, key: &Key, at: Timestamp) {
        let Some(entry) = self.services.get_mut(key) else {
            return;
        };
        if entry.is_reading {
            entry.is_outdated = true;
            return;
        }
        if at < entry.next_read || !self.reads.contains(&(entry.next_read, key.clone())) {
            self.reads.remove(&(entry.next_read, key.clone()));
            entry.next_read = at;
            self.reads.insert((at, key.clone()));
        }
    }

    fn schedule_pod(&mut self, key: &Key, due: Timestamp) {
        if let Some(pod) = self.pods.get_mut(key) {
            self.due_pods.remove(&(pod.due, key.clone()));
            pod.due = due;
            self.due_pods.insert((due, key.clone()));
        }
    }

    fn remove_pod(&mut self, key: &Key) {
        if let Some(pod) = self.pods.remove(key) {
            self.due_pods.remove(&(pod.due, key.clone()));
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(entry) = self.services.remove(key) else {
            return;
        };
        self.reads.remove(&(entry.next_read, key.clone()));
        self.changed.remove(key);
        let target = target_key(&key.namespace, &entry.wanted.target);
        let successor = self.by_target.get_mut(&target).and_then(|services| {
            services.remove(&(entry.created, key.clone()));
            services.first().map(|(_, successor)| successor.clone())
        });
        match successor {
            // it scales the target from now on
            Some(successor) => {
                self.changed.insert(successor.clone());
                self.successors.insert(successor);
                self.to_scan.insert(key.namespace.clone());
            }
            None => {
                self.by_target.remove(&target);
                self.by_uid.retain(|_, known| *known != target);
            }
        }
        if !self.has_targets(&key.namespace) {
            let pods: Vec<Key> = self.pods.keys().cloned().collect();
            let ours = pods.iter().filter(|pod| pod.namespace == key.namespace);
            ours.for_each(|pod| self.remove_pod(pod));
        }
    }

    fn view(&self, key: &Key) -> Option<TargetView> {
        let entry = self.services.get(key)?;
        let mut view = entry.read.clone()?;
        view.is_adopted = entry.is_adopted;
        let target = target_key(&key.namespace, &entry.wanted.target);
        if let Some(oldest) = self.oldest(&target).filter(|oldest| *oldest != key) {
            let (other, target) = (&oldest.name, &entry.wanted.target);
            let why = format!(
                "InferenceDeployment {other} scales {target} too, and is older: delete one of the two"
            );
            view.problem = Some(TargetProblem::new(target_ready::SCALED_BY_OTHER, why));
        }
        Some(view)
    }
}

impl ScaleTargets {
    /// Takes an InferenceDeployment as it is now; `None` if it is gone.
    pub(crate) fn set(&self, key: &Key, object: Option<&InferenceDeployment>, now: Timestamp) {
        let mut state = lock(&self.state);
        // until it has given its target back, nobody else scales that
        let goes_on = |object: &&InferenceDeployment| {
            object.metadata.deletion_timestamp.is_none() || is_recorded(object)
        };
        let object = object.filter(goes_on);
        let wanted = object.and_then(|object| Some((wanted(key, object)?, object)));
        let Some((wanted, object)) = wanted else {
            return state.remove(key);
        };
        match state.services.get_mut(key) {
            Some(entry) if entry.wanted.target == wanted.target => {
                if entry.wanted != wanted {
                    entry.wanted = wanted;
                    state.schedule_read(key, now);
                }
            }
            _ => {
                state.remove(key);
                let created = object.creation_timestamp().map_or(now, |time| time.0);
                let target = target_key(&key.namespace, &wanted.target);
                let services = state.by_target.entry(target).or_default();
                services.insert((created, key.clone()));
                let entry = Entry {
                    wanted,
                    created,
                    read: None,
                    is_adopted: false,
                    next_read: now,
                    is_reading: false,
                    is_outdated: false,
                    failing_since: None,
                };
                state.services.insert(key.clone(), entry);
                state.reads.insert((now, key.clone()));
            }
        }
        drop(state);
        self.added.notify_one();
    }

    /// Takes all InferenceDeployments of a new leader, before accounts are synced: pods of their targets are
    /// in no other account.
    pub(crate) fn fill(&self, services: &Store<InferenceDeployment>, now: Timestamp) {
        for object in services.state() {
            self.set(&key_of(&*object), Some(&object), now);
        }
    }

    /// What is known of the target of a service; `None` before it was read.
    pub(crate) fn view(&self, key: &Key) -> Option<TargetView> {
        lock(&self.state).view(key)
    }

    /// The target of a service, to be scaled.
    ///
    /// # Errors
    /// It must not be scaled, and why.
    pub(crate) fn scalable(&self, key: &Key) -> Result<Arc<ScaleTarget>, ApiError> {
        let why = match self.view(key) {
            Some(TargetView {
                problem: Some(problem),
                ..
            }) => problem.message,
            Some(TargetView {
                target: Some(target),
                ..
            }) => return Ok(target),
            _ => "the target was not read yet".to_owned(),
        };
        Err(ApiError::NotScalable { why })
    }

    /// The target was told to have so many replicas, or was found to.
    pub(crate) fn note_replicas(&self, key: &Key, replicas: u32, now: Timestamp) {
        let mut state = lock(&self.state);
        let entry = state.services.get_mut(key);
        if let Some(target) = entry.and_then(|entry| entry.read.as_mut()?.target.as_mut()) {
            Arc::make_mut(target).state.replicas = replicas;
        }
        state.schedule_read(key, after(now, SETTLE));
        drop(state);
        self.added.notify_one();
    }

    /// Takes a pod as it is now; `None` if it is gone.
    pub(crate) fn note_pod(&self, key: &Key, pod: Option<&Pod>, now: Timestamp) {
        let mut state = lock(&self.state);
        if state.services.is_empty() || !state.has_targets(&key.namespace) {
            return;
        }
        if let Some(service) = pod.and_then(pod::workload_of)
            && service.kind == WorkloadKind::InferenceDeployment
        {
            let service = Key::new(&service.namespace, &service.name);
            state.schedule_read(&service, after(now, SETTLE));
        }
        let found = pod.and_then(|pod| Some((pod, unlabelled(pod)?)));
        let Some((pod, controller)) = found else {
            return state.remove_pod(key);
        };
        let known = state.pods.get(key);
        if known.is_some_and(|known| *known.uid == *pod::uid(pod)) {
            return;
        }
        let created = created(pod, now);
        if state.owner(&key.namespace, &controller) == PodOwner::Other
            && now >= after(created, OWNER_TIMEOUT)
        {
            return;
        }
        state.remove_pod(key);
        let pod = UnlabelledPod {
            uid: pod::uid(pod).into(),
            controller,
            created,
            due: now,
            failures: 0,
        };
        state.pods.insert(key.clone(), pod);
        state.due_pods.insert((now, key.clone()));
        drop(state);
        self.added.notify_one();
    }

    /// Whether a pod without a workload's labels may be a replica that is yet to get them.
    pub(crate) fn may_own(&self, pod: &Pod, now: Timestamp) -> bool {
        let state = lock(&self.state);
        if state.services.is_empty() || now >= after(created(pod, now), OWNER_TIMEOUT) {
            return false;
        }
        let namespace: Name = pod.namespace().unwrap_or_default().into();
        let Some(controller) = unlabelled(pod).filter(|_| state.has_targets(&namespace)) else {
            return false;
        };
        state.owner(&namespace, &controller) != PodOwner::Other
    }

    /// Takes whether it is on record what the target of a service gets back. With the labels of its pods that
    /// makes it adopted, and it remains so.
    pub(crate) fn note_recorded(&self, key: &Key, is_recorded: bool) {
        let mut state = lock(&self.state);
        let is_adopted = is_recorded && state.has_all_labels(key);
        if let Some(entry) = state.services.get_mut(key) {
            entry.is_adopted |= is_adopted;
        }
    }

    /// Namespaces all of whose pods are to be noted anew.
    pub(crate) fn take_namespaces(&self) -> BTreeSet<Name> {
        std::mem::take(&mut lock(&self.state).to_scan)
    }

    /// Services whose older rival has gone since the last call.
    pub(crate) fn take_successors(&self) -> BTreeSet<Key> {
        std::mem::take(&mut lock(&self.state).successors)
    }

    /// Whether the target of a service has changed since the last call, but for its replicas.
    pub(crate) fn take_changed(&self, key: &Key) -> bool {
        lock(&self.state).changed.remove(key)
    }

    /// Waits until something is to be done that was not before.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    /// When something is to be done next.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        let state = lock(&self.state);
        let reads = state.reads.first().map(|(at, _)| *at);
        let pods = state.due_pods.first().map(|(at, _)| *at);
        reads.into_iter().chain(pods).min()
    }

    /// Takes what is to be done now with pods.
    pub(super) fn take_pod(&self, now: Timestamp) -> Option<Work> {
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
            let end = after(pod.created, OWNER_TIMEOUT);
            match state.owner(&key.namespace, &pod.controller) {
                PodOwner::Replica(service) => {
                    return Some(Work::Label {
                        pod: key,
                        uid: pod.uid,
                        service,
                    });
                }
                PodOwner::ReplicaSet(name) => {
                    return Some(Work::ReadReplicaSet {
                        pod: key,
                        name,
                        uid: pod.controller.uid,
                    });
                }
                PodOwner::Unknown if now < end => {
                    state.schedule_pod(&key, end.min(after(now, FIRST_RETRY)));
                }
                PodOwner::Other | PodOwner::Unknown => {
                    state.remove_pod(&key);
                    return Some(Work::Disown(key.namespace));
                }
            }
        }
    }

    /// Takes the target that is to be read now.
    pub(super) fn take_read(&self, now: Timestamp) -> Option<Work> {
        let mut state = lock(&self.state);
        let (due, key) = state.reads.first().cloned()?;
        if due > now {
            return None;
        }
        state.reads.pop_first();
        let entry = state.services.get_mut(&key)?;
        (entry.is_reading, entry.is_outdated) = (true, false);
        Some(Work::Read(key, entry.wanted.clone()))
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
        let interval = i64::try_from(state.services.len()).unwrap_or(i64::MAX) / READS_A_SECOND;
        let interval = READ_INTERVAL.max(SignedDuration::from_secs(interval));
        let Some(entry) = state.services.get_mut(key) else {
            return false;
        };
        entry.is_reading = false;
        let is_current = entry.wanted == *wanted && !entry.is_outdated;
        let is_missing = reading.target.is_none();
        let next = match is_current {
            true if is_missing => after(now, interval.min(MISSING_INTERVAL)),
            true => after(now, interval),
            false => after(now, SETTLE),
        };
        (entry.next_read, entry.is_outdated) = (next, false);
        let is_wanted = entry.wanted.target == wanted.target;
        let before = entry.read.clone();
        let view = entry.next_view(reading, now);
        let is_new = is_wanted && before.as_ref() != Some(&view);
        if is_new {
            entry.read = Some(view.clone());
        }
        state.reads.insert((next, key.clone()));
        if is_new {
            state.note_change(key, before, &view);
        }
        is_new
    }

    /// Takes who made a ReplicaSet, of which a pod is.
    pub(super) fn note_replica_set(
        &self,
        pod: &Key,
        uid: &Name,
        made_by: Option<Name>,
        now: Timestamp,
    ) {
        let mut state = lock(&self.state);
        if state.replica_sets.len() >= MAX_REPLICA_SETS {
            state.replica_sets.clear();
        }
        state.replica_sets.insert(uid.clone(), made_by);
        state.schedule_pod(pod, now);
    }

    /// A pod could not be labelled, or its ReplicaSet not be read: it is tried again later.
    pub(super) fn note_failure(&self, pod: &Key, now: Timestamp) {
        let mut state = lock(&self.state);
        if let Some(found) = state.pods.get_mut(pod) {
            let wait = FIRST_RETRY.saturating_mul(1 << found.failures.min(7));
            found.failures = found.failures.saturating_add(1);
            state.schedule_pod(pod, after(now, wait.min(LONGEST_RETRY)));
        }
    }
}

impl Entry {
    /// What is known after a read. While reads fail for want of an answer, the last target counts for a
    /// while.
    fn next_view(&mut self, reading: Reading, now: Timestamp) -> TargetView {
        let Reading { target, problem } = reading;
        let has_failed =
            (problem.as_ref()).is_some_and(|problem| problem.reason == target_ready::NOT_READ);
        if !has_failed {
            self.failing_since = None;
            let target = target.map(Arc::new);
            return TargetView {
                target,
                problem,
                is_adopted: false,
            };
        }
        let since = *self.failing_since.get_or_insert(now);
        match &self.read {
            Some(known) if now < after(since, STALE_AFTER) => known.clone(),
            known => TargetView {
                target: known.as_ref().and_then(|known| known.target.clone()),
                problem,
                is_adopted: false,
            },
        }
    }
}

impl State {
    fn note_change(&mut self, key: &Key, before: Option<TargetView>, view: &TargetView) {
        let uid = |view: &TargetView| view.target.as_ref().map(|target| target.uid.clone());
        let known = before.as_ref().and_then(uid);
        let is_same = |before: TargetView| {
            let same_target = match (&before.target, &view.target) {
                (Some(before), Some(target)) => {
                    let as_now = ScaleTarget {
                        state: target.state.clone(),
                        ..(**before).clone()
                    };
                    as_now == **target
                }
                (before, target) => before.is_none() == target.is_none(),
            };
            same_target && before.problem == view.problem
        };
        if !before.is_some_and(is_same) {
            self.changed.insert(key.clone());
        }
        let Some(uid) = uid(view).filter(|uid| known.as_ref() != Some(uid)) else {
            return;
        };
        let Some(entry) = self.services.get(key) else {
            return;
        };
        let target = target_key(&key.namespace, &entry.wanted.target);
        self.by_uid.retain(|_, other| *other != target);
        self.by_uid.insert(uid, target);
        self.to_scan.insert(key.namespace.clone());
    }
}
