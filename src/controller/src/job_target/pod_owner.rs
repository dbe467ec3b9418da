//! Whose a pod is, by the UIDs of owners up the chain, as controllers write them: a pod of a Job of a JobSet of a
//! TrainJob. What labels say does not count.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bursar_core::model::{Key, Name};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;

use super::table::JobTargetKinds;

/// Owners from a pod to the job at most.
const MAX_HOPS: usize = 4;

/// The controlling owner of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(super) uid: Name,
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) name: String,
}

/// Whose a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PodOwner {
    /// The target of this TrainingJob, of this UID.
    Target(Key, Name),
    /// Nobody's target, as far as targets are known.
    Other,
    /// That of this owner, of which it is not known yet who owns it.
    Unread(Owner),
}

/// Who owns what may own pods, for as long as there are such pods: it has no more entries than four for each
/// controller of a pod that is there, whatever pods say of owners.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    /// The controller of each pod.
    controllers: BTreeMap<Key, Name>,
    /// Pods and the owners above them, by the UID of their controller.
    chains: HashMap<Name, Chain>,
    nodes: HashMap<Name, Node>,
}

/// A controller of pods.
#[derive(Debug, Default)]
struct Chain {
    pods: BTreeSet<Key>,
    /// The UIDs from the controller up, as far as they are known.
    owners: Vec<Name>,
}

/// What owns pods, or what owns these.
#[derive(Debug, Default)]
struct Node {
    /// Its own owner, if it has one; `None` while that was not read.
    owner: Option<Option<Owner>>,
    /// The controllers of pods below it, itself among them.
    chains: BTreeSet<Name>,
}

impl Owner {
    /// The controller of these, if they have one.
    pub(super) fn of(owners: &[OwnerReference]) -> Option<Self> {
        let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
        let (group, _) = owner.api_version.split_once('/').unwrap_or_default();
        Some(Self {
            uid: owner.uid.as_str().into(),
            group: group.to_owned(),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
        })
    }

    /// The controller of a pod.
    pub(super) fn of_pod(pod: &Pod) -> Option<Self> {
        Self::of(pod.owner_references())
    }
}

impl Owners {
    /// Takes a pod of a controller.
    pub(super) fn add_pod(&mut self, pod: &Key, controller: &Owner) {
        let uid = &controller.uid;
        if self.controllers.get(pod) == Some(uid) {
            return;
        }
        self.remove_pod(pod);
        self.controllers.insert(pod.clone(), uid.clone());
        let chain = self.chains.entry(uid.clone()).or_default();
        chain.pods.insert(pod.clone());
        if chain.owners.is_empty() {
            self.extend(uid);
        }
    }

    /// Forgets a pod, and the owners that only it has.
    pub(super) fn remove_pod(&mut self, pod: &Key) {
        let Some(controller) = self.controllers.remove(pod) else {
            return;
        };
        let Some(chain) = self.chains.get_mut(&controller) else {
            return;
        };
        chain.pods.remove(pod);
        if !chain.pods.is_empty() {
            return;
        }
        let chain = self.chains.remove(&controller).unwrap_or_default();
        for uid in chain.owners {
            if let Some(node) = self.nodes.get_mut(&uid) {
                node.chains.remove(&controller);
                if node.chains.is_empty() {
                    self.nodes.remove(&uid);
                }
            }
        }
    }

    /// Forgets the pods of a namespace.
    pub(super) fn remove_namespace(&mut self, namespace: &Name) {
        let first = Key {
            namespace: namespace.clone(),
            name: "".into(),
        };
        let pods = self.controllers.range(first..).map(|(pod, _)| pod);
        let pods = pods.take_while(|pod| pod.namespace == *namespace);
        for pod in pods.cloned().collect::<Vec<Key>>() {
            self.remove_pod(&pod);
        }
    }

    /// Takes who owns what has this UID; nothing if no pod is below it any more.
    pub(super) fn set(&mut self, uid: &Name, owner: Option<Owner>) {
        let Some(node) = self.nodes.get_mut(uid) else {
            return;
        };
        node.owner = Some(owner);
        for controller in node.chains.clone() {
            self.extend(&controller);
        }
    }

    /// The pods below what has this UID.
    pub(super) fn pods_below(&self, uid: &Name) -> Vec<Key> {
        let chains = self
            .nodes
            .get(uid)
            .into_iter()
            .flat_map(|node| &node.chains);
        let chains = chains.filter_map(|controller| self.chains.get(controller));
        chains.flat_map(|chain| &chain.pods).cloned().collect()
    }

    /// Follows the owners of a controller as far as they are known. Owners can name each other in a circle.
    fn extend(&mut self, controller: &Name) {
        let Some(chain) = self.chains.get_mut(controller) else {
            return;
        };
        let mut next = Some(controller.clone());
        for hop in 0..MAX_HOPS {
            let Some(uid) = next.filter(|uid| !chain.owners[..hop].contains(uid)) else {
                break;
            };
            if chain.owners.len() == hop {
                chain.owners.push(uid.clone());
            }
            let node = self.nodes.entry(uid).or_default();
            node.chains.insert(controller.clone());
            let owner = node.owner.as_ref().and_then(Option::as_ref);
            next = owner.map(|owner| owner.uid.clone());
        }
    }

    /// Whose a pod with this controller is. `target` says whose target has a UID, and whether it is somebody
    /// else's to start and suspend: then that of its owner goes first.
    pub(super) fn resolve(
        &self,
        kinds: &JobTargetKinds,
        controller: &Owner,
        target: impl Fn(&Name) -> Option<(Key, bool)>,
    ) -> PodOwner {
        let mut first = None;
        let mut owner = controller;
        for _ in 0..MAX_HOPS {
            if let Some((job, is_owned)) = target(&owner.uid) {
                let found = PodOwner::Target(job, owner.uid.clone());
                match is_owned {
                    false => return found,
                    true => first = first.or(Some(found)),
                }
            }
            let known = self.nodes.get(&owner.uid);
            owner = match known.and_then(|node| node.owner.as_ref()) {
                Some(Some(next)) => next,
                Some(None) => break,
                None if kinds.owner(&owner.group, &owner.kind).is_some() => {
                    return PodOwner::Unread(owner.clone());
                }
                None => break,
            };
        }
        first.unwrap_or(PodOwner::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::kinds;

    fn owner(kind: &str, uid: &str) -> Owner {
        let group = match kind {
            "Job" => "batch",
            _ => "jobset.x-k8s.io",
        };
        Owner {
            uid: uid.into(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            name: uid.to_owned(),
        }
    }

    fn pod(name: &str) -> Key {
        Key::new("team", name)
    }

    /// Whose a pod is, where the JobSet `set` is the target of `train`.
    fn resolve(owners: &Owners, controller: &str) -> PodOwner {
        let target = |uid: &Name| (**uid == *"set").then(|| (pod("train"), false));
        owners.resolve(&kinds(), &owner("Job", controller), target)
    }

    fn is_empty(owners: &Owners) -> bool {
        let Owners {
            controllers,
            chains,
            nodes,
        } = owners;
        controllers.is_empty() && chains.is_empty() && nodes.is_empty()
    }

    #[test]
    fn owners_are_remembered_for_as_long_as_they_have_pods_and_no_longer() {
        let mut owners = Owners::default();
        owners.add_pod(&pod("a"), &owner("Job", "job"));
        owners.add_pod(&pod("b"), &owner("Job", "job"));
        assert_eq!(
            resolve(&owners, "job"),
            PodOwner::Unread(owner("Job", "job"))
        );
        owners.set(&"job".into(), Some(owner("JobSet", "set")));
        let ours = PodOwner::Target(pod("train"), "set".into());
        assert_eq!(resolve(&owners, "job"), ours);
        assert_eq!(owners.pods_below(&"set".into()), [pod("a"), pod("b")]);
        // whatever others make, and however much of it
        for number in 0..30_000 {
            let (name, uid) = (format!("theirs-{number}"), format!("uid-{number}"));
            owners.add_pod(&pod(&name), &owner("Job", &uid));
            owners.set(&uid.as_str().into(), None);
        }
        assert_eq!(resolve(&owners, "job"), ours);
        for number in 0..30_000 {
            owners.remove_pod(&pod(&format!("theirs-{number}")));
        }
        assert_eq!((owners.chains.len(), owners.nodes.len()), (1, 2));
        owners.remove_pod(&pod("a"));
        assert_eq!(resolve(&owners, "job"), ours);
        owners.remove_namespace(&"team".into());
        assert!(is_empty(&owners), "{owners:?}");
        // an answer that comes late leaves nothing
        owners.set(&"job".into(), Some(owner("JobSet", "set")));
        assert!(is_empty(&owners), "{owners:?}");
    }

    #[test]
    fn owners_in_a_circle_are_followed_once_and_forgotten() {
        let mut owners = Owners::default();
        owners.add_pod(&pod("a"), &owner("Job", "one"));
        owners.add_pod(&pod("b"), &owner("Job", "two"));
        owners.set(&"one".into(), Some(owner("Job", "two")));
        owners.set(&"two".into(), Some(owner("Job", "one")));
        assert_eq!(resolve(&owners, "one"), PodOwner::Other);
        assert_eq!(owners.pods_below(&"one".into()), [pod("a"), pod("b")]);
        owners.remove_pod(&pod("a"));
        owners.remove_pod(&pod("b"));
        assert!(is_empty(&owners), "{owners:?}");
    }

    #[test]
    fn a_pod_that_is_made_anew_is_of_its_present_controller() {
        let mut owners = Owners::default();
        owners.add_pod(&pod("a"), &owner("Job", "former"));
        owners.add_pod(&pod("a"), &owner("Job", "job"));
        assert!(owners.pods_below(&"former".into()).is_empty());
        assert_eq!(owners.pods_below(&"job".into()), [pod("a")]);
    }
}
