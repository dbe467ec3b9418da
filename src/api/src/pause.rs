//! What the platform has paused: the entries of one ConfigMap in the operator's namespace.
//!
//! An entry pauses the whole cluster or one namespace, as long as it is there; its value is for
//! people, and says since when. The right to change this ConfigMap is the right to pause.

use bursar_core::model::{PauseScope, Pauses};
use k8s_openapi::api::core::v1::ConfigMap;

/// The entry that pauses the cluster.
pub const CLUSTER_ENTRY: &str = "cluster";
/// What the entry of a namespace begins with.
const NAMESPACE_PREFIX: &str = "namespace.";

/// The entry that pauses a namespace.
pub fn namespace_entry(namespace: &str) -> String {
    format!("{NAMESPACE_PREFIX}{namespace}")
}

/// The namespace that an entry pauses; `None` for another entry.
pub fn paused_namespace(entry: &str) -> Option<&str> {
    entry.strip_prefix(NAMESPACE_PREFIX)
}

/// Everything that the ConfigMap pauses.
pub fn pauses(config_map: Option<&ConfigMap>) -> Pauses {
    let entries = config_map.and_then(|found| found.data.as_ref());
    let entries = || entries.into_iter().flat_map(|data| data.keys());
    Pauses {
        cluster: entries().any(|entry| entry == CLUSTER_ENTRY),
        namespaces: entries()
            .filter_map(|entry| paused_namespace(entry))
            .map(Into::into)
            .collect(),
    }
}

/// What pauses the workloads of a namespace, if something does.
pub fn paused_by(config_map: &ConfigMap, namespace: &str) -> Option<PauseScope> {
    let data = config_map.data.as_ref()?;
    if data.contains_key(CLUSTER_ENTRY) {
        return Some(PauseScope::Cluster);
    }
    let is_paused = data.contains_key(&namespace_entry(namespace));
    is_paused.then_some(PauseScope::Namespace)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn entries_pause_and_others_do_not() {
        let config_map: ConfigMap = serde_json::from_value(json!({"data": {
            "namespace.team": "since 2026-11-27T14:00:00Z", "team-b": "", "namespaces": "",
        }}))
        .unwrap();
        let found = pauses(Some(&config_map));
        assert_eq!((found.cluster, found.namespaces.len()), (false, 1));
        for namespace in ["team", "team-b", "namespaces", "cluster", ""] {
            let scope = paused_by(&config_map, namespace);
            assert_eq!(scope, found.scope_of(namespace), "{namespace}");
            assert_eq!(scope.is_some(), namespace == "team", "{namespace}");
        }
        let cluster: ConfigMap =
            serde_json::from_value(json!({"data": {"cluster": "", "namespace.team": ""}})).unwrap();
        assert_eq!(paused_by(&cluster, "team"), Some(PauseScope::Cluster));
        assert_eq!(
            pauses(Some(&cluster)).scope_of("any"),
            Some(PauseScope::Cluster)
        );
        assert_eq!(pauses(None), Pauses::default());
    }
}
