//! What targets are told apart by: a `targetRef` names one by kind and name, the pods below it by UID.

use std::collections::HashMap;

use bursar_api::inference::TargetRef;
use bursar_core::model::Name;

/// The object that a `targetRef` names, whichever version of its kind it names it by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct TargetKey {
    pub(crate) namespace: Name,
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) name: String,
}

impl TargetKey {
    /// The key of a target in this namespace.
    pub(crate) fn new(namespace: &Name, target: &TargetRef) -> Self {
        Self {
            namespace: namespace.clone(),
            group: target.group().to_owned(),
            kind: target.kind.clone(),
            name: target.name.clone(),
        }
    }
}

/// The UID of each target, and the target of each UID.
#[derive(Debug, Default)]
pub(crate) struct TargetUids {
    uids: HashMap<TargetKey, Name>,
    targets: HashMap<Name, TargetKey>,
}

impl TargetUids {
    /// Takes the UID of a target, in place of the one that it had before.
    pub(crate) fn set(&mut self, target: TargetKey, uid: Name) {
        self.remove(&target);
        self.uids.insert(target.clone(), uid.clone());
        self.targets.insert(uid, target);
    }

    /// Forgets a target. Returns the UID that it had.
    pub(crate) fn remove(&mut self, target: &TargetKey) -> Option<Name> {
        let uid = self.uids.remove(target)?;
        // one object may be of two groups
        if self.targets.get(&uid) == Some(target) {
            self.targets.remove(&uid);
        }
        Some(uid)
    }

    /// The target of this UID.
    pub(crate) fn target(&self, uid: &str) -> Option<&TargetKey> {
        self.targets.get(uid)
    }

    /// The UID of a target.
    pub(crate) fn uid(&self, target: &TargetKey) -> Option<&Name> {
        self.uids.get(target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_one_uid_and_takes_nobody_elses_with_it() {
        let [apps, extensions] = ["apps/v1", "extensions/v1"].map(|version| {
            let target = TargetRef {
                api_version: version.to_owned(),
                kind: "Deployment".to_owned(),
                name: "old".to_owned(),
            };
            TargetKey::new(&"team".into(), &target)
        });
        let mut uids = TargetUids::default();
        uids.set(apps.clone(), "a".into());
        uids.set(apps.clone(), "b".into());
        assert_eq!((uids.target("a"), uids.target("b")), (None, Some(&apps)));
        uids.set(extensions.clone(), "b".into());
        assert_eq!(uids.remove(&apps), Some("b".into()));
        assert_eq!(uids.target("b"), Some(&extensions));
        assert_eq!(uids.remove(&apps), None);
    }
}
