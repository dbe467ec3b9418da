//! Pods of targets get the labels of replicas: ledger, decisions, reads of engines and gateways then find them
//! as they find any other replica. Whose a pod is follows from owners by UID; what its labels say does not
//! count.

use std::sync::Arc;

use bursar_api::names::{KIND_LABEL, LEADER_ANNOTATION, SERVING_LABEL, WORKLOAD_LABEL};
use bursar_api::spend::WorkloadKind;
use bursar_core::model::{Key, Name};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use kube::core::{Selector, SelectorExt};
use serde_json::json;

use super::pod_owner::Maker;
use super::registry::Work;
use super::{is_recorded, pod_maker, read};
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
    target_work::run(&context.scale_targets, perform, changes, &clock).await;
}

/// Does all that is due, one after the other. Returns what the model is to be told.
#[cfg(test)]
pub(crate) async fn run_due(context: &Context, now: Timestamp) -> Vec<CacheChange> {
    let clock = || now;
    let perform = |work| perform(context, work, &clock);
    target_work::run_due(&context.scale_targets, perform, now).await
}

/// Does a piece of work; returns what the model is to be told.
async fn perform(
    context: &Context,
    work: Work,
    clock: &impl Fn() -> Timestamp,
) -> Vec<CacheChange> {
    let of_service = |key: Key| CacheChange::Object(CachedKind::InferenceDeployment, key);
    let targets = &context.scale_targets;
    let (namespace, given_up) = match work {
        Work::Read(key, wanted) => {
            let calls = (&context.client, &context.autoscalers);
            let reading = read::read(calls, &wanted, clock()).await;
            let is_new = targets.note_read(&key, &wanted, reading, clock());
            return is_new.then(|| of_service(key)).into_iter().collect();
        }
        Work::ReadMaker { pod, maker, uid } => {
            let given_up = read_maker(context, &pod, (&maker, &uid), clock).await;
            (pod.namespace, given_up)
        }
        Work::Label {
            pod,
            uid,
            service,
            leader,
        } => {
            let labelled = label(context, (&pod, &uid), &service, leader.as_ref()).await;
            let given_up = note_labelled(context, &pod, labelled, clock());
            (pod.namespace, given_up)
        }
        Work::Disown(namespace) => {
            sync_unmanaged(&context.ledger_triggers, &namespace);
            (namespace, None)
        }
    };
    let told = targets.take_adopted(&namespace).into_iter();
    told.chain(given_up).map(of_service).collect()
}

/// Reads who made what a pod is made by. Returns the service whose pod is given up by this.
async fn read_maker(
    context: &Context,
    pod: &Key,
    (maker, uid): (&Maker, &Name),
    clock: &impl Fn() -> Timestamp,
) -> Option<Key> {
    let targets = &context.scale_targets;
    match pod_maker::made_by(&context.client, &pod.namespace, (maker, uid)).await {
        Ok(Some(made_by)) => targets.note_maker(pod, uid, made_by, clock()),
        // it may get an owner later, so this is not remembered
        Ok(None) => disown(context, pod),
        Err(error) => {
            warn(pod, &error, "whose a pod is cannot be read");
            return note_failure(context, pod, &error, clock());
        }
    }
    None
}

/// Takes what became of the labels of a pod. Returns the service whose pod is given up by this.
fn note_labelled(
    context: &Context,
    pod: &Key,
    labelled: Result<bool, ApiError>,
    now: Timestamp,
) -> Option<Key> {
    match labelled {
        Ok(true) => None,
        Ok(false) => {
            disown(context, pod);
            None
        }
        Err(error) => {
            if !error.is_stale() {
                warn(pod, &error, "a replica cannot be labelled");
            }
            note_failure(context, pod, &error, now)
        }
    }
}

/// A pod is nobody's replica.
fn disown(context: &Context, pod: &Key) {
    context.scale_targets.note_other(pod);
    sync_unmanaged(&context.ledger_triggers, &pod.namespace);
}

/// A pod is tried again later, and may be charged to nobody's workload meanwhile. Returns the service whose pod is given
/// up by this.
fn note_failure(context: &Context, pod: &Key, error: &ApiError, now: Timestamp) -> Option<Key> {
    let given_up = context.scale_targets.note_failure(pod, error, now);
    sync_unmanaged(&context.ledger_triggers, &pod.namespace);
    given_up
}

/// Gives a pod the labels of a replica, or of a worker of the one that `leader` leads, once its service has the
/// finalizer that takes them away again, and whether the service is paused or not: a Service may select by them.
/// Returns whether it is a replica, by the labels that the target selects.
async fn label(
    context: &Context,
    (pod, uid): (&Key, &Name),
    service: &Key,
    leader: Option<&Name>,
) -> Result<bool, ApiError> {
    let call = "label replica";
    let object = cached(&context.stores.services, service);
    let is_held = object
        .is_some_and(|object| object.metadata.deletion_timestamp.is_none() && is_recorded(&object));
    let target = context.scale_targets.scalable(service)?;
    if !is_held {
        return Err(ApiError::Conflict { call });
    }
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace);
    // caches have no labels of others
    let live = with_timeout("get pod", api.get_metadata(&pod.name)).await?;
    if live.metadata.uid.as_deref() != Some(&**uid) {
        return Err(ApiError::Conflict { call });
    }
    if let Some(workload) = live.labels().get(WORKLOAD_LABEL) {
        // a cache that is behind: to label it once more would bring one that drains back into its Service
        return match *workload == *service.name {
            true => Ok(true),
            false => Err(ApiError::Conflict { call }),
        };
    }
    let selector = Selector::try_from(target.selector.clone());
    if !selector.is_ok_and(|selector| selector.matches(live.labels())) {
        return Ok(false);
    }
    let mut metadata = json!({
        "uid": &**uid,
        "resourceVersion": live.metadata.resource_version,
        "labels": {
            KIND_LABEL: WorkloadKind::InferenceDeployment.as_str(),
            WORKLOAD_LABEL: &*service.name,
        },
    });
    match leader {
        None => metadata["labels"][SERVING_LABEL] = json!("true"),
        // requests go to the leader
        Some(leader) => metadata["annotations"] = json!({LEADER_ANNOTATION: &**leader}),
    }
    let (patch, params) = (
        Patch::Merge(json!({"metadata": metadata})),
        PatchParams::default(),
    );
    let patched = api.patch_metadata(&pod.name, &params, &patch);
    with_timeout(call, patched).await.map(|_| true)
}
