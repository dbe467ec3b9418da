//! What is paused, and the condition `Paused`.

use bursar_api::conditions::{ConditionState, PAUSED, paused as reason};
use bursar_api::names::PAUSE_CONFIG_MAP;
use bursar_api::pause;
use bursar_core::model::{Key, PauseScope};

use crate::cache::cached;
use crate::context::Context;
use crate::object_key::ObjectKey;

impl Context {
    /// The key of the ConfigMap that pauses.
    pub(crate) fn pause_key(&self) -> Key {
        Key::new(&self.namespace, PAUSE_CONFIG_MAP)
    }

    /// What paused a namespace, if something did.
    pub(crate) fn paused_by(&self, namespace: &str) -> Option<PauseScope> {
        let config_map = cached(&self.stores.pauses, &self.pause_key())?;
        pause::paused_by(&config_map, namespace)
    }
}

/// The condition of an object; `None` while it is not paused. `alone` says that the object's own
/// specification pauses it.
pub(crate) fn condition(
    subject: &ObjectKey,
    scope: Option<PauseScope>,
    alone: bool,
) -> Option<ConditionState> {
    let key = subject.key();
    let (namespace, name) = (&key.namespace, &key.name);
    let (reason, flags) = match scope {
        Some(PauseScope::Cluster) => (reason::CLUSTER_PAUSED, "--all".to_owned()),
        Some(PauseScope::Namespace) => (reason::NAMESPACE_PAUSED, format!("-n {namespace}")),
        None if alone => {
            let kind = match subject {
                ObjectKey::Service(_) => "infd",
                ObjectKey::Job(_) => "tj",
                ObjectKey::Budget(_) => "budget",
                ObjectKey::Pod(_) => "pod",
            };
            (
                reason::WORKLOAD_PAUSED,
                format!("{kind}/{name} -n {namespace}"),
            )
        }
        None => return None,
    };
    let effect = match (subject, scope) {
        (ObjectKey::Budget(_), _) => {
            "this budget stops nothing, and more than its limit may be spent"
        }
        (_, Some(_)) => "it keeps what it has, also over its budget, and nothing of it starts",
        (_, None) => "it keeps what it has, and only a budget stops it",
    };
    let message = match scope {
        Some(scope) => format!("{scope} is paused: {effect}, until kubectl bursar resume {flags}"),
        None => format!("{effect}, until kubectl bursar resume {flags}"),
    };
    Some(ConditionState {
        kind: PAUSED,
        status: Some(true),
        reason,
        message,
    })
}
