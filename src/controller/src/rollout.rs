//! Whether a Deployment or a StatefulSet replaces pods by others of a new template.

use bursar_core::model::event::Rollout;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};

/// The rollout of a Deployment that is under way.
pub(crate) fn of_deployment(found: &Deployment) -> Option<Rollout> {
    let status = found.status.as_ref()?;
    let is_behind = found.metadata.generation != status.observed_generation;
    let updated = status.updated_replicas.unwrap_or(0);
    let replaces = updated < status.replicas.unwrap_or(0);
    let mut conditions = status.conditions.iter().flatten();
    let deadline_exceeded = conditions.any(|condition| {
        let reason = condition.reason.as_deref();
        condition.type_.as_deref() == Some("Progressing")
            && reason == Some("ProgressDeadlineExceeded")
    });
    let rollout = Rollout {
        updated: u32::try_from(updated).unwrap_or(0),
        replaces,
        deadline_exceeded: deadline_exceeded && !is_behind,
    };
    (is_behind || replaces).then_some(rollout)
}

/// The rollout of a StatefulSet that is under way. One that replaces pods only where somebody deletes
/// them, or not all of them, may have pods of two templates for ever: that is no rollout.
pub(crate) fn of_stateful_set(found: &StatefulSet) -> Option<Rollout> {
    let status = found.status.as_ref()?;
    let strategy = found.spec.update_strategy.as_ref();
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let is_partial = rolling.and_then(|rolling| rolling.partition) > Some(0)
        || strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete");
    if is_partial {
        return None;
    }
    let is_behind = found.metadata.generation != status.observed_generation;
    let updated = status.updated_replicas.unwrap_or(0);
    let replaces = status.current_revision != status.update_revision && updated < status.replicas;
    let rollout = Rollout {
        updated: u32::try_from(updated).unwrap_or(0),
        replaces,
        deadline_exceeded: false,
    };
    (is_behind || replaces).then_some(rollout)
}
