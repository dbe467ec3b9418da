//! What is known of each target, whose pods are whose, and what is done next: reads of targets and of
//! ReplicaSets, and labels for pods.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use bursar_api::InferenceDeployment;
use bursar_api::engine::Engine;
use bursar_api::lenient::bounded_text;
use bursar_api::spend::WorkloadKind;
use bursar_core::model::{Key, Name};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::reflector::Store;
use tokio::sync::Notify;

use super::pod_maker::MadeBy;
use super::pod_owner::{Maker, PodOwner, created, made_by, unlabelled};
use super::read::{Reading, Wanted};
use super::state::{Entry, State, UnlabelledPod};
use super::view::TargetView;
use super::{ScaleTarget, TargetProblem, is_recorded};
use crate::api_calls::ApiError;
use crate::cache::key_of;
use crate::lock::lock;
use crate::pod;
use crate::target_key::TargetKey;
use crate::target_work::{
    FIRST_RETRY, OWNER_TIMEOUT, SETTLE, TargetWork, after, missing_interval, read_interval,
    retry_wait,
};

/// What is done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Work {
    /// Read the target of this service.
    Read(Key, Wanted),
    /// Read who made what a pod is made by, and that has this UID.
    ReadMaker { pod: Key, maker: Maker, uid: Name },
    /// Give this pod of this UID the labels of a replica of the service, or of a worker of the one that
    /// the pod of the other UID leads.
    Label {
        pod: Key,
        uid: Name,
        service: Key,
        leader: Option<Name>,
    },
    /// The pods of no workload of this namespace have one more.
    Disown(Name),
}

/// The targets of all services, and the pods that may be theirs.
#[derive(Debug, Default)]
pub(crate) struct ScaleTargets {
    state: Mutex<State>,
    added: Notify,
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
            state.releases.remove(key);
            return state.remove(key);
        };
        match state.services.get_mut(key) {
            Some(entry) if entry.wanted.target == wanted.target => {
                if entry.wanted != wanted {
                    let created = entry.created;
                    let former = std::mem::replace(&mut entry.wanted, wanted.clone());
                    let front = |wanted: Wanted| wanted.service.map(|front| front.name);
                    state.set_front(key, created, front(former).as_deref(), false);
                    state.set_front(key, created, front(wanted).as_deref(), true);
                    state.changed.insert(key.clone());
                    state.schedule_read(key, now);
                }
            }
            _ => {
                state.remove(key);
                let created = object.creation_timestamp().map_or(now, |time| time.0);
                let target = TargetKey::new(&key.namespace, &wanted.target);
                let services = state.by_target.entry(target).or_default();
                services.insert((created, key.clone()));
                let entry = Entry::new(wanted, created, now);
                let front = entry.wanted.service.as_ref();
                let front = front.map(|front| front.name.clone());
                state.services.insert(key.clone(), entry);
                state.set_front(key, created, front.as_deref(), true);
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
        if let Some(entry) = state.services.get_mut(key) {
            entry.emptied.note_replicas(replicas == 0, now);
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
        let maker = pod.and_then(made_by);
        state.makers.set_pod(key, maker.as_ref());
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
            refused: None,
            is_given_up: false,
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
        matches!(
            state.owner(&namespace, &controller),
            PodOwner::Replica(_) | PodOwner::Made(_)
        )
    }

    /// Takes whether it is on record what the target of a service gets back. With the labels of its pods that
    /// makes it adopted, and it remains so.
    pub(crate) fn note_recorded(&self, key: &Key, is_recorded: bool) {
        let mut state = lock(&self.state);
        if let Some(entry) = state.services.get_mut(key) {
            entry.is_recorded = is_recorded;
        }
        state.adopt(key);
    }

    /// Takes that a pod of a namespace holds no adoption up any more. Returns the services whose targets are adopted by
    /// that.
    pub(crate) fn take_adopted(&self, namespace: &Name) -> Vec<Key> {
        let mut state = lock(&self.state);
        let waiting = state.in_namespace(namespace);
        let waiting = waiting.filter(|(_, entry)| entry.is_recorded && !entry.is_adopted);
        let waiting: Vec<Key> = waiting.map(|(key, _)| key.clone()).collect();
        waiting.into_iter().filter(|key| state.adopt(key)).collect()
    }

    /// Whether the target of a service takes so long to be adopted that what is to stop for want of money waits
    /// for it no longer.
    pub(crate) fn is_adopted_late(&self, key: &Key, now: Timestamp) -> bool {
        let state = lock(&self.state);
        let entry = state.services.get(key);
        entry.is_some_and(|entry| now >= after(entry.adopting_since, OWNER_TIMEOUT))
    }

    /// A pod of the target of a service that cannot be given the labels, and why.
    pub(super) fn given_up(&self, key: &Key) -> Option<(Key, String)> {
        let state = lock(&self.state);
        let (pod, found) = state.given_up(key)?;
        let (_, why) = found.refused.clone()?;
        Some((pod.clone(), why))
    }

    /// Labelled pods of a service that were made before this should have ended: their target had no replicas since,
    /// or was not there. Budgets cannot stop them by it.
    pub(crate) fn emptied(&self, key: &Key) -> Option<Timestamp> {
        lock(&self.state).services.get(key)?.emptied.ended_by()
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

    /// Takes what was read of a target. Returns whether it is new.
    pub(super) fn note_read(
        &self,
        key: &Key,
        wanted: &Wanted,
        reading: Reading,
        now: Timestamp,
    ) -> bool {
        let mut state = lock(&self.state);
        let interval = read_interval(state.services.len());
        let Some(entry) = state.services.get_mut(key) else {
            return false;
        };
        entry.is_reading = false;
        let is_current = entry.wanted == *wanted && !entry.is_outdated;
        let is_missing = reading.target.is_none();
        let problem = reading.problem.as_ref();
        let was_answered = problem.is_none_or(TargetProblem::stands);
        entry.missing = match is_missing {
            true => entry.missing.saturating_add(1),
            false => 0,
        };
        let next = match is_current {
            true if is_missing => after(now, missing_interval(entry.missing, interval)),
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
        // one that something has happened since says nothing of now
        let says_now = is_wanted && is_current && was_answered;
        let ends_otherwise = says_now && entry.emptied.note(&view, now);
        state.reads.insert((next, key.clone()));
        if is_new {
            state.note_change(key, before, &view, now);
        }
        is_new || ends_otherwise
    }

    /// Takes who made what a pod is made by.
    pub(super) fn note_maker(&self, pod: &Key, uid: &Name, made_by: MadeBy, now: Timestamp) {
        let mut state = lock(&self.state);
        state.makers.set(uid, made_by);
        state.schedule_pod(pod, now);
    }

    /// A pod is no replica, as was read of it.
    pub(super) fn note_other(&self, pod: &Key) {
        lock(&self.state).remove_pod(pod);
    }

    /// Since when this leader has tried to give the target of a service back.
    pub(super) fn release_since(&self, key: &Key, now: Timestamp) -> Timestamp {
        let mut state = lock(&self.state);
        *state.releases.entry(key.clone()).or_insert(now)
    }

    /// A pod could not be labelled, or what made it not be read: it is tried again later. What others have written
    /// meanwhile, and a target or a finalizer that is not there yet, are no refusals. Returns whose pod it is, if it is
    /// given up by this.
    pub(super) fn note_failure(&self, pod: &Key, error: &ApiError, now: Timestamp) -> Option<Key> {
        let mut state = lock(&self.state);
        let found = state.pods.get_mut(pod)?;
        let wait = retry_wait(found.failures);
        found.failures = found.failures.saturating_add(1);
        let is_refusal = !error.is_stale() && !matches!(error, ApiError::NotScalable { .. });
        let was_given_up = found.is_given_up;
        if is_refusal {
            let since = found.refused.as_ref().map_or(now, |(since, _)| *since);
            found.refused = Some((since, bounded_text(&error.to_string())));
            found.is_given_up |= now >= after(since, OWNER_TIMEOUT);
        }
        let is_new = found.is_given_up && !was_given_up;
        let controller = found.controller.clone();
        state.schedule_pod(pod, after(now, wait));
        match state.owner(&pod.namespace, &controller) {
            PodOwner::Replica(service) if is_new => Some(service),
            _ => None,
        }
    }
}

impl TargetWork for ScaleTargets {
    type Work = Work;

    fn take_read(&self, now: Timestamp) -> Option<Work> {
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
            let end = after(pod.created, OWNER_TIMEOUT);
            match state.owner(&key.namespace, &pod.controller) {
                PodOwner::Replica(service) => {
                    let leader = state.leader(&pod.controller);
                    return Some(Work::Label {
                        pod: key,
                        uid: pod.uid,
                        service,
                        leader,
                    });
                }
                PodOwner::Made(maker) => {
                    return Some(Work::ReadMaker {
                        pod: key,
                        maker,
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
