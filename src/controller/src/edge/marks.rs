//! Which changes of objects may change what a workload owns: most changes are of a status.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use bursar_api::names::SPEC_HASH_ANNOTATION;
use bursar_core::model::Key;
use kube::{Resource, ResourceExt};

use crate::cache::CachedKind;

/// Each object as it was last seen, without its status.
#[derive(Default)]
pub(super) struct Marks(HashMap<(CachedKind, Key), u64>);

impl Marks {
    /// Takes an object as it is now; `None` if it is gone or cannot be read. Returns whether
    /// anything but its status may have changed.
    pub(super) fn note<K: Resource>(
        &mut self,
        kind: CachedKind,
        key: &Key,
        object: Option<&K>,
    ) -> bool {
        let place = (kind, key.clone());
        let Some(object) = object else {
            self.0.remove(&place);
            return true;
        };
        let mark = mark(object);
        self.0.insert(place, mark) != Some(mark)
    }
}

/// A number that differs where specifications, owners or hashes of what was asked for differ.
fn mark<K: Resource>(object: &K) -> u64 {
    let mut hasher = DefaultHasher::new();
    let metadata = object.meta();
    (&metadata.uid, metadata.generation).hash(&mut hasher);
    object
        .annotations()
        .get(SPEC_HASH_ANNOTATION)
        .hash(&mut hasher);
    metadata.deletion_timestamp.is_some().hash(&mut hasher);
    for owner in metadata.owner_references.iter().flatten() {
        (&owner.uid, owner.controller).hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_status_changes_nothing_that_a_workload_owns() {
        let mut marks = Marks::default();
        let key = Key::new("team", "chat");
        let mut note = |kind, object: Option<Value>| {
            let object: Option<Deployment> =
                object.map(|json| serde_json::from_value(json).unwrap());
            marks.note(kind, &key, object.as_ref())
        };
        let deployment = |uid: &str, generation: i64, hash: &str, owner: &str, ready: i32| {
            let owner = json!({"apiVersion": "v1", "kind": "K", "name": "n", "uid": owner});
            let metadata = json!({
                "name": "chat", "namespace": "team", "uid": uid, "generation": generation,
                "resourceVersion": ready.to_string(), "ownerReferences": [owner],
                "annotations": {SPEC_HASH_ANNOTATION: hash},
            });
            Some(json!({"metadata": metadata, "status": {"readyReplicas": ready}}))
        };
        let kind = CachedKind::Deployment;
        assert!(note(kind, deployment("a", 1, "h", "o", 0)));
        for ready in 1..4 {
            assert!(!note(kind, deployment("a", 1, "h", "o", ready)));
        }
        assert!(note(
            CachedKind::InferenceDeployment,
            deployment("a", 1, "h", "o", 3)
        ));
        assert!(note(kind, deployment("a", 2, "h", "o", 3)), "an edit");
        assert!(note(kind, deployment("a", 2, "other", "o", 3)), "the hash");
        assert!(note(kind, deployment("a", 2, "other", "p", 3)), "the owner");
        assert!(note(kind, deployment("b", 2, "other", "p", 3)), "made anew");
        assert!(note(kind, None) && note(kind, None), "it is gone");
        assert!(note(kind, deployment("b", 2, "other", "p", 3)));
    }
}
