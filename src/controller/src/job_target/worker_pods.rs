//! Pods of adopted jobs get the labels of workers: ledger and decisions then find them as they find any other
//! worker. Whose a pod is follows from owners by UID; what its labels say does not count.

use std::sync::Arc;

use bursar_api::names::{KIND_LABEL, ROLE_LABEL, WORKLOAD_LABEL};
use bursar_api::spend::WorkloadKind;
use bursar_core::model::{Key, Name};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::json;

use super::pod_owner::Owner;
use super::read;
use super::registry::Work;
use crate::api_calls::{ApiError, with_timeout};
use crate::cache::{CacheChange, CacheChanges, CachedKind, cached};
use crate::context::Context;
use crate::target_work::{self, sync_unmanaged, warn};

/// Reads targets and labels pods for as long as the process leads.
pub(crate) async fn run(
    context: &Arc<Context>,
    changes: CacheChanges,
    clock: impl Fn() -> Timestamp,
) {
    let perform = |work| perform(context, work, &clock);
    target_work::run(&context.job_targets, perform, changes, &clock).await;
}

/// Does all that is due, one after the other. Returns what the model is to be told.
#[cfg(test)]
pub(crate) async fn run_due(context: &Context, now: Timestamp) -> Vec<CacheChange> {
    let clock = || now;
    let perform = |work| perform(context, work, &clock);
    target_work::run_due(&context.job_targets, perform, now).await
}

/// Does a piece of work; returns what the model is to be told.
async fn perform(
    context: &Context,
    work: Work,
    clock: &impl Fn() -> Timestamp,
) -> Option<CacheChange> {
    let targets = &context.job_targets;
    match &work {
        Work::Read(key, wanted) => {
            let reading = read::read(&context.client, targets.kinds(), wanted).await;
            let is_new = targets.note_read(key, wanted, reading, clock());
            is_new.then(|| CacheChange::Object(CachedKind::TrainingJob, key.clone()))
        }
        Work::ReadOwner { pod, owner } => {
            match read_owner(context, &pod.namespace, owner).await {
                Ok(found) => targets.note_owner(pod, &owner.uid, found, clock()),
                Err(error) => {
                    warn(pod, &error, "whose a pod is cannot be read");
                    note_failure(context, pod, clock());
                }
            }
            None
        }
        Work::Label { pod, uid, job } => {
            match label(context, pod, uid, job).await {
                // its labels are seen as any change of a pod
                Ok(()) => targets.note_done(pod),
                Err(error) => {
                    if !error.is_stale() {
                        warn(pod, &error, "a worker cannot be labelled");
                    }
                    note_failure(context, pod, clock());
                }
            }
            None
        }
        Work::Known(pod) => Some(CacheChange::Object(CachedKind::Pod, pod.clone())),
        Work::Disown(namespace) => {
            sync_unmanaged(&context.ledger_triggers, namespace);
            None
        }
    }
}

/// A pod is tried again later, and may be charged to nobody's workload meanwhile.
fn note_failure(context: &Context, pod: &Key, now: Timestamp) {
    context.job_targets.note_failure(pod, now);
    sync_unmanaged(&context.ledger_triggers, &pod.namespace);
}

/// Who owns what owns a pod; `None` if nobody does, it is gone, or it may not be read.
async fn read_owner(
    context: &Context,
    namespace: &str,
    owner: &Owner,
) -> Result<Option<Owner>, ApiError> {
    let kinds = context.job_targets.kinds();
    let Some(resource) = kinds.owner(&owner.group, &owner.kind) else {
        return Ok(None);
    };
    let api: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), namespace, &resource);
    let found = match with_timeout("get owner of pod", api.get_metadata(&owner.name)).await {
        Ok(found) => found,
        Err(ApiError::Gone { .. }) => return Ok(None),
        Err(error) if error.is_forbidden() => return Ok(None),
        Err(error) => return Err(error),
    };
    let is_it = found.metadata.uid.as_deref() == Some(&*owner.uid);
    Ok(Owner::of(found.owner_references()).filter(|_| is_it))
}

/// Gives a pod the labels of a worker, once its TrainingJob has the finalizer that takes them away again, and
/// whether that is paused or not.
async fn label(context: &Context, pod: &Key, uid: &Name, job: &Key) -> Result<(), ApiError> {
    let call = "label worker";
    let object = cached(&context.stores.jobs, job);
    let is_held = object.is_some_and(|object| {
        object.metadata.deletion_timestamp.is_none() && object.holds_target()
    });
    let view = context.job_targets.view(job);
    let target = view.as_ref().and_then(|view| view.charged());
    let Some(target) = target.filter(|_| is_held) else {
        return Err(ApiError::Conflict { call });
    };
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace);
    // caches have no labels of others
    let live = with_timeout("get pod", api.get_metadata(&pod.name)).await?;
    if live.metadata.uid.as_deref() != Some(&**uid) {
        return Err(ApiError::Conflict { call });
    }
    let key = target.pod_set_label.as_ref();
    let pod_set = key.and_then(|key| live.labels().get(key));
    // one of no pod set that is known is charged all the same, and counts in addition to them
    let pod_set = target.pod_set(pod_set.map(String::as_str));
    let metadata = json!({
        "uid": &**uid,
        "labels": {
            KIND_LABEL: WorkloadKind::TrainingJob.as_str(),
            WORKLOAD_LABEL: &*job.name,
            ROLE_LABEL: pod_set.map(|set| &set.name),
        },
    });
    let (patch, params) = (
        Patch::Merge(json!({"metadata": metadata})),
        PatchParams::default(),
    );
    let patched = api.patch_metadata(&pod.name, &params, &patch);
    with_timeout(call, patched).await.map(drop)
}
