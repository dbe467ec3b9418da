//! What is known of all targets and of the pods that may be theirs, and when each is looked at next.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bursar_api::conditions::{requests_wake, target_ready};
use bursar_core::model::{Key, Name};
use jiff::{SignedDuration, Timestamp};

use super::emptied::Emptied;
use super::leader_worker_set;
use super::makers::{Makers, pods_in};
use super::pod_maker::MadeBy;
use super::pod_owner::{Controller, MakerKind, PodOwner};
use super::read::{Reading, Wanted};
use super::service::ServiceProblem;
use super::target::{ScaleTarget, TargetProblem};
use super::view::TargetView;
use crate::target_key::{TargetKey, TargetUids};
use crate::target_work::after;

/// A target that was read before goes on counting for this long while reads fail.
const STALE_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// An InferenceDeployment with a target.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) wanted: Wanted,
    pub(super) created: Timestamp,
    /// What was read; `None` before the first time.
    pub(super) read: Option<TargetView>,
    pub(super) is_adopted: bool,
    /// It is on record what it gets back.
    pub(super) is_recorded: bool,
    /// Since when it is to be adopted, or to be adopted again.
    pub(super) adopting_since: Timestamp,
    /// When it had no pods to make.
    pub(super) emptied: Emptied,
    /// How often in a row it was not there.
    pub(super) missing: u32,
    pub(super) next_read: Timestamp,
    pub(super) is_reading: bool,
    /// Something has happened since the read that goes on began.
    pub(super) is_outdated: bool,
    pub(super) failing_since: Option<Timestamp>,
}

/// A pod without a workload's labels in a namespace with targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnlabelledPod {
    pub(super) uid: Name,
    pub(super) controller: Controller,
    pub(super) created: Timestamp,
    pub(super) due: Timestamp,
    pub(super) failures: u32,
    /// Since when the API server refuses to have it labelled, or to say who made what made it, and the last answer.
    pub(super) refused: Option<(Timestamp, String)>,
    /// It was refused for so long that its target is adopted without it: budgets count it as a pod of no workload.
    pub(super) is_given_up: bool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) services: BTreeMap<Key, Entry>,
    /// The services that name a target, the oldest first: that one scales it.
    pub(super) by_target: HashMap<TargetKey, BTreeSet<(Timestamp, Key)>>,
    pub(super) uids: TargetUids,
    pub(super) reads: BTreeSet<(Timestamp, Key)>,
    pub(super) pods: BTreeMap<Key, UnlabelledPod>,
    pub(super) due_pods: BTreeSet<(Timestamp, Key)>,
    /// Who made the ReplicaSets and StatefulSets of pods.
    pub(super) makers: Makers,
    /// Namespaces of which a target became known: any of their pods may be its own.
    pub(super) to_scan: BTreeSet<Name>,
    /// Services whose target has changed, but for its replicas and its rollout.
    pub(super) changed: BTreeSet<Key>,
    /// The services that name a Service, the oldest first: that one has gateways in it.
    pub(super) by_service: HashMap<(Name, String), BTreeSet<(Timestamp, Key)>>,
    /// Since when targets are being given back.
    pub(super) releases: HashMap<Key, Timestamp>,
    /// Services that scale a target from now on which another one has given back.
    pub(super) successors: BTreeSet<Key>,
}

/// Whether pods with this controller may be replicas of a target, which owns the pods or `through` what made
/// them: as the controllers of its kind make them.
fn may_own(target: &TargetKey, controller: &Controller, through: Option<&MadeBy>) -> bool {
    let TargetKey {
        group, kind, name, ..
    } = target;
    let is_direct = through.is_none();
    let made_by = controller.maker.as_ref().map(|maker| maker.kind);
    let ordinal = |of: &str| {
        let ordinal = controller.pod.strip_prefix(of)?.strip_prefix('-')?;
        ordinal.parse::<u32>().ok()
    };
    match (group.as_str(), kind.as_str()) {
        ("apps", "Deployment") => !is_direct && made_by == Some(MakerKind::ReplicaSet),
        ("apps", "StatefulSet") => is_direct && ordinal(name).is_some(),
        (leader_worker_set::GROUP, leader_worker_set::KIND) => {
            let maker = controller.maker.as_ref();
            let maker = maker.filter(|maker| maker.kind == MakerKind::StatefulSet);
            let is_worker = through.is_some_and(|made_by| made_by.leader.is_some());
            maker.is_some_and(|maker| match is_worker {
                // the leader is number 0 of its group
                true => ordinal(&maker.name).is_some_and(|ordinal| ordinal > 0),
                false => !is_direct && ordinal(name).is_some(),
            })
        }
        _ => is_direct || made_by == Some(MakerKind::ReplicaSet),
    }
}

impl State {
    pub(super) fn has_targets(&self, namespace: &Name) -> bool {
        self.in_namespace(namespace).next().is_some()
    }

    pub(super) fn in_namespace(&self, namespace: &Name) -> impl Iterator<Item = (&Key, &Entry)> {
        let first = Key {
            namespace: namespace.clone(),
            name: "".into(),
        };
        let entries = self.services.range(first..);
        entries.take_while(move |(key, _)| key.namespace == *namespace)
    }

    /// The service that scales a target: the oldest that names it.
    pub(super) fn oldest(&self, target: &TargetKey) -> Option<&Key> {
        self.by_target.get(target)?.first().map(|(_, key)| key)
    }

    pub(super) fn owner(&self, namespace: &Name, controller: &Controller) -> PodOwner {
        let replica_of = |uid: &Name, through: Option<&MadeBy>| {
            // a pod may claim an owner in another namespace
            let target = self
                .uids
                .target(uid)
                .filter(|target| target.namespace == *namespace)?;
            let service = self.oldest(target)?;
            let read = self.services.get(service)?.read.as_ref()?;
            // what is made while it must not be scaled is nobody's, and budgets may evict it
            let is_held = read.problem.as_ref().is_some_and(TargetProblem::stands);
            (!is_held && may_own(target, controller, through)).then(|| service.clone())
        };
        if let Some(service) = replica_of(&controller.uid, None) {
            return PodOwner::Replica(service);
        }
        let made_by = self.makers.made_by(&controller.uid);
        match (&controller.maker, made_by) {
            (Some(maker), None) if self.may_make(namespace, maker.kind) => {
                return PodOwner::Made(maker.clone());
            }
            (Some(_), Some(made_by)) => {
                if let Some(service) = replica_of(&made_by.owner, Some(made_by)) {
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

    /// Whether objects of this kind may make pods for a target of the namespace.
    fn may_make(&self, namespace: &Name, kind: MakerKind) -> bool {
        let mut entries = self.in_namespace(namespace);
        match kind {
            MakerKind::ReplicaSet => true,
            MakerKind::StatefulSet => {
                entries.any(|(_, entry)| leader_worker_set::is(&entry.wanted.target))
            }
        }
    }

    /// The UID of the pod that leads the group of a worker with this controller.
    pub(super) fn leader(&self, controller: &Controller) -> Option<Name> {
        self.makers.made_by(&controller.uid)?.leader.clone()
    }

    /// Whether no pod of its namespace may be a replica of a service and waits for the labels.
    pub(super) fn has_all_labels(&self, key: &Key) -> bool {
        let mut pods = pods_in(&self.pods, &key.namespace);
        let is_known = self
            .services
            .get(key)
            .is_some_and(|entry| entry.read.is_some());
        let is_others = |pod: &UnlabelledPod| match self.owner(&key.namespace, &pod.controller) {
            PodOwner::Replica(service) => service != *key,
            PodOwner::Other | PodOwner::Unknown => true,
            PodOwner::Made(_) => false,
        };
        let mut waits_for_none = || pods.all(|(_, pod)| pod.is_given_up || is_others(pod));
        is_known && !self.to_scan.contains(&key.namespace) && waits_for_none()
    }

    /// Takes a target as adopted once it is on record and no pod holds that up; it remains so. Returns whether it is by
    /// this.
    pub(super) fn adopt(&mut self, key: &Key) -> bool {
        let waits = |entry: &Entry| entry.is_recorded && !entry.is_adopted;
        let is_adopted = self.services.get(key).is_some_and(waits) && self.has_all_labels(key);
        if let Some(entry) = self.services.get_mut(key).filter(|_| is_adopted) {
            entry.is_adopted = true;
        }
        is_adopted
    }

    /// A pod of the target of a service that does not get the labels, and why.
    pub(super) fn given_up(&self, key: &Key) -> Option<(&Key, &UnlabelledPod)> {
        let mut pods = pods_in(&self.pods, &key.namespace);
        pods.find(|(_, pod)| {
            let owner = || self.owner(&key.namespace, &pod.controller);
            pod.is_given_up && owner() == PodOwner::Replica(key.clone())
        })
    }

    pub(super) fn schedule_read(&mut self, key: &Key, at: Timestamp) {
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

    pub(super) fn remove(&mut self, key: &Key) {
        let Some(entry) = self.services.remove(key) else {
            return;
        };
        self.reads.remove(&(entry.next_read, key.clone()));
        self.changed.remove(key);
        let front = entry.wanted.service.as_ref();
        let front = front.map(|front| front.name.as_str());
        self.set_front(key, entry.created, front, false);
        let target = TargetKey::new(&key.namespace, &entry.wanted.target);
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
                self.uids.remove(&target);
            }
        }
        if !self.has_targets(&key.namespace) {
            let pods = pods_in(&self.pods, &key.namespace);
            let pods: Vec<Key> = pods.map(|(pod, _)| pod.clone()).collect();
            pods.iter().for_each(|pod| self.remove_pod(pod));
            self.makers.remove_namespace(&key.namespace);
        }
    }

    /// The older service that names the same Service, if there is one.
    pub(super) fn other_in_front(&self, key: &Key, front: &str) -> Option<&Key> {
        let fronts = (key.namespace.clone(), front.to_owned());
        let (_, oldest) = self.by_service.get(&fronts)?.first()?;
        Some(oldest).filter(|oldest| *oldest != key)
    }

    /// Puts a service among those that name a Service, or takes it away.
    pub(super) fn set_front(
        &mut self,
        key: &Key,
        created: Timestamp,
        front: Option<&str>,
        is_named: bool,
    ) {
        let Some(front) = front else { return };
        let fronts = (key.namespace.clone(), front.to_owned());
        let place = (created, key.clone());
        let services = self.by_service.entry(fronts.clone()).or_default();
        if is_named {
            services.insert(place);
            return;
        }
        services.remove(&place);
        let next = services.first().map(|(_, key)| key.clone());
        match next {
            Some(next) => {
                self.changed.insert(next.clone());
                self.successors.insert(next);
            }
            None => drop(self.by_service.remove(&fronts)),
        }
    }

    pub(super) fn view(&self, key: &Key) -> Option<TargetView> {
        let entry = self.services.get(key)?;
        let mut view = entry.read.clone()?;
        view.is_adopted = entry.is_adopted;
        let target = TargetKey::new(&key.namespace, &entry.wanted.target);
        if let Some(oldest) = self.oldest(&target).filter(|oldest| *oldest != key) {
            let (other, target) = (&oldest.name, &entry.wanted.target);
            let why = format!(
                "InferenceDeployment {other} scales {target} too, and is older: delete one of the two"
            );
            view.problem = Some(TargetProblem::new(target_ready::SCALED_BY_OTHER, why));
        }
        let front = entry.wanted.service.as_ref();
        if let Some(other) = front.and_then(|front| self.other_in_front(key, &front.name))
            && let Some(target) = &mut view.target
        {
            let (other, name) = (&other.name, front.map_or("", |front| &front.name));
            let why = format!(
                "InferenceDeployment {other} names Service {name} too, and is older: name another Service in serviceRef"
            );
            let problem = ServiceProblem::new(requests_wake::SERVICE_IN_USE, why);
            Arc::make_mut(target).front = Some(Err(problem));
        }
        Some(view)
    }
}

impl Entry {
    /// One that is yet to be read.
    pub(super) fn new(wanted: Wanted, created: Timestamp, now: Timestamp) -> Self {
        Self {
            wanted,
            created,
            read: None,
            is_adopted: false,
            is_recorded: false,
            adopting_since: now,
            emptied: Emptied::default(),
            missing: 0,
            next_read: now,
            is_reading: false,
            is_outdated: false,
            failing_since: None,
        }
    }

    /// What is known after a read. While reads fail for want of an answer, the last target counts for a
    /// while.
    pub(super) fn next_view(&mut self, reading: Reading, now: Timestamp) -> TargetView {
        let Reading { target, problem } = reading;
        let has_failed =
            (problem.as_ref()).is_some_and(|problem| problem.reason == target_ready::NOT_READ);
        if !has_failed {
            self.failing_since = None;
            // one that may not be read any more is there all the same
            let is_forbidden =
                (problem.as_ref()).is_some_and(|problem| problem.reason == target_ready::FORBIDDEN);
            let known = self.read.as_ref().filter(|_| is_forbidden);
            let known = known.and_then(|known| known.target.clone());
            let target = target.map(Arc::new).or(known);
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
    pub(super) fn note_change(
        &mut self,
        key: &Key,
        before: Option<TargetView>,
        view: &TargetView,
        now: Timestamp,
    ) {
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
        let stood = |view: &TargetView| view.problem.as_ref().is_some_and(TargetProblem::stands);
        if before.as_ref().is_some_and(stood) && !stood(view) {
            // pods were made meanwhile that have no labels
            if let Some(entry) = self.services.get_mut(key) {
                (entry.is_adopted, entry.adopting_since) = (false, now);
            }
            self.to_scan.insert(key.namespace.clone());
        }
        if !before.is_some_and(is_same) {
            self.changed.insert(key.clone());
        }
        let Some(uid) = uid(view).filter(|uid| known.as_ref() != Some(uid)) else {
            return;
        };
        let Some(entry) = self.services.get(key) else {
            return;
        };
        let target = TargetKey::new(&key.namespace, &entry.wanted.target);
        self.uids.set(target, uid);
        // a ReplicaSet may have been adopted by the Deployment of the new UID
        self.makers.forget(&key.namespace);
        self.to_scan.insert(key.namespace.clone());
    }
}

#[cfg(test)]
mod tests {
    use bursar_api::inference::TargetRef;

    use super::super::pod_owner::Maker;
    use super::*;

    #[test]
    fn a_pod_is_no_replica_of_a_target_in_another_namespace() {
        let service = Key::new("theirs", "chat");
        let wanted = Wanted {
            namespace: "theirs".to_owned(),
            target: TargetRef {
                api_version: "apps/v1".to_owned(),
                kind: "StatefulSet".to_owned(),
                name: "old".to_owned(),
            },
            service: None,
            engine_port: None,
        };
        let target = TargetKey::new(&service.namespace, &wanted.target);
        let mut state = State::default();
        let created = Timestamp::UNIX_EPOCH;
        let services = BTreeSet::from([(created, service.clone())]);
        state.by_target.insert(target.clone(), services);
        state.uids.set(target, "uid".into());
        let entry = Entry {
            read: Some(TargetView {
                target: None,
                problem: None,
                is_adopted: false,
            }),
            ..Entry::new(wanted, created, created)
        };
        state.services.insert(service.clone(), entry);
        let controller = Controller {
            uid: "uid".into(),
            maker: Some(Maker {
                kind: MakerKind::StatefulSet,
                name: "old".to_owned(),
            }),
            pod: "old-7".to_owned(),
        };
        let owner = |namespace: &str| state.owner(&namespace.into(), &controller);
        assert_eq!(owner("theirs"), PodOwner::Replica(service.clone()));
        assert_eq!(owner("ours"), PodOwner::Other);
    }
}
