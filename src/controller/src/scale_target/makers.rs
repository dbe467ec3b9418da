//! Who made the ReplicaSets and StatefulSets that make pods, for as long as they have pods: there are no more
//! entries than pods, whatever pods say of owners.

use std::collections::{BTreeMap, HashMap};

use bursar_core::model::{Key, Name};

use super::pod_maker::MadeBy;

/// Who made what makes pods, by UID.
#[derive(Debug, Default)]
pub(super) struct Makers {
    /// What made each pod.
    of_pods: BTreeMap<Key, Name>,
    all: HashMap<Name, Maker>,
}

#[derive(Debug, Default)]
struct Maker {
    pods: usize,
    /// Who made it; `None` while that was not read.
    made_by: Option<MadeBy>,
}

impl Makers {
    /// Takes what made a pod; `None` if it is gone, or was not made by what has an owner of its own.
    pub(super) fn set_pod(&mut self, pod: &Key, maker: Option<&Name>) {
        if self.of_pods.get(pod) == maker {
            return;
        }
        if let Some(former) = self.of_pods.remove(pod)
            && let Some(known) = self.all.get_mut(&former)
        {
            known.pods -= 1;
            if known.pods == 0 {
                self.all.remove(&former);
            }
        }
        if let Some(maker) = maker {
            self.of_pods.insert(pod.clone(), maker.clone());
            self.all.entry(maker.clone()).or_default().pods += 1;
        }
    }

    /// Takes who made something, if it still has pods.
    pub(super) fn set(&mut self, uid: &Name, made_by: MadeBy) {
        if let Some(maker) = self.all.get_mut(uid) {
            maker.made_by = Some(made_by);
        }
    }

    /// Who made something, if that was read.
    pub(super) fn made_by(&self, uid: &Name) -> Option<&MadeBy> {
        self.all.get(uid)?.made_by.as_ref()
    }

    /// Who made what in a namespace is to be read anew.
    pub(super) fn forget(&mut self, namespace: &Name) {
        for uid in pods_in(&self.of_pods, namespace).map(|(_, uid)| uid) {
            if let Some(maker) = self.all.get_mut(uid) {
                maker.made_by = None;
            }
        }
    }

    /// The pods of a namespace are of no interest any more.
    pub(super) fn remove_namespace(&mut self, namespace: &Name) {
        let pods: Vec<Key> = pods_in(&self.of_pods, namespace)
            .map(|(pod, _)| pod.clone())
            .collect();
        for pod in pods {
            self.set_pod(&pod, None);
        }
    }
}

/// The entries of a namespace's pods.
pub(super) fn pods_in<'a, 'b, T>(
    pods: &'a BTreeMap<Key, T>,
    namespace: &'b Name,
) -> impl Iterator<Item = (&'a Key, &'a T)> + use<'a, 'b, T> {
    let first = Key {
        namespace: namespace.clone(),
        name: "".into(),
    };
    let pods = pods.range(first..);
    pods.take_while(move |(pod, _)| pod.namespace == *namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_made_something_is_known_for_as_long_as_it_has_pods() {
        let mut makers = Makers::default();
        let made_by = MadeBy {
            owner: "deployment".into(),
            leader: None,
        };
        let (one, other) = (Key::new("team", "one"), Key::new("team", "other"));
        let uid: Name = "set".into();
        makers.set(&uid, made_by.clone());
        assert_eq!(makers.made_by(&uid), None, "it has no pods");
        makers.set_pod(&one, Some(&uid));
        makers.set_pod(&other, Some(&uid));
        makers.set(&uid, made_by.clone());
        makers.set_pod(&one, None);
        assert_eq!(makers.made_by(&uid), Some(&made_by));
        makers.forget(&"others".into());
        assert_eq!(makers.made_by(&uid), Some(&made_by));
        makers.forget(&"team".into());
        assert_eq!(makers.made_by(&uid), None);
        makers.set(&uid, made_by.clone());
        makers.set_pod(&other, Some(&"new".into()));
        assert_eq!(makers.made_by(&uid), None, "another one has its name");
        makers.remove_namespace(&"team".into());
        assert!(makers.all.is_empty() && makers.of_pods.is_empty());
    }
}
