//! Pods of targets get the labels of replicas: ledger, decisions, reads of engines and gateways then find them
//! as they find any other replica. Whose a pod is follows from owners by UID; what its labels say does not
//! count.

use std::sync::Arc;
use std::time::Duration;

use bursar_api::names::{KIND_LABEL, LEADER_ANNOTATION, SERVING_LABEL, WORKLOAD_LABEL};
use bursar_api::spend::{WorkloadKind, WorkloadRef};
use bursar_core::model::{Key, Name};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use kube::core::{Selector, SelectorExt};
use serde_json::json;

use super::registry::Work;
use super::{is_recorded, pod_maker, read};
use crate::api_calls::{ApiError, with_timeout};
use crate::cache::{CacheChange, CacheChanges, CachedKind, Trigger, cached};
use crate::context::Context;

/// Reads of targets at a time.
const MAX_READS: usize = 8;
/// Pods that are labelled, and what made pods is read, at a time.
const MAX_PODS: usize = 16;
/// The pause of each such place after a read: 50 reads a second are the most of all places together.
const PAUSE: Duration = Duration::from_millis(160);

/// Reads targets and labels pods for as long as the process leads.
pub(crate) async fn run(
    context: &Arc<Context>,
    changes: CacheChanges,
    clock: impl Fn() -> Timestamp,
) {
    const LONGEST_SLEEP: Duration = Duration::from_secs(60);
    let perform = async |work: Work| {
        let is_read = matches!(work, Work::Read(..));
        let change = perform(context, &work, &clock).await;
        // nobody decides at the end of leadership
        let is_over = change.is_some_and(|change| changes.send(change).is_err());
        if is_read {
            tokio::time::sleep(PAUSE).await;
        }
        (is_read, is_over)
    };
    let mut tasks = FuturesUnordered::new();
    let (mut reads, mut pods) = (0, 0);
    loop {
        while reads < MAX_READS
            && let Some(work) = context.scale_targets.take_read(clock())
        {
            reads += 1;
            tasks.push(perform(work));
        }
        while pods < MAX_PODS
            && let Some(work) = context.scale_targets.take_pod(clock())
        {
            pods += 1;
            tasks.push(perform(work));
        }
        let next = context.scale_targets.next_due();
        let next = next.filter(|_| reads < MAX_READS && pods < MAX_PODS);
        let wait = next.map(|at| Duration::try_from(at.duration_since(clock())));
        let wait = wait.map_or(LONGEST_SLEEP, Result::unwrap_or_default);
        tokio::select! {
            Some((was_read, is_over)) = tasks.next() => {
                if is_over {
                    return;
                }
                match was_read {
                    true => reads -= 1,
                    false => pods -= 1,
                }
            }
            () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
            () = context.scale_targets.added() => {}
        }
    }
}

/// Does all that is due, one after the other.
#[cfg(test)]
pub(crate) async fn run_due(context: &Context, now: Timestamp) {
    loop {
        let targets = &context.scale_targets;
        let Some(work) = targets.take_read(now).or_else(|| targets.take_pod(now)) else {
            return;
        };
        perform(context, &work, &|| now).await;
    }
}

/// Does a piece of work; returns what the model is to be told.
async fn perform(
    context: &Context,
    work: &Work,
    clock: &impl Fn() -> Timestamp,
) -> Option<CacheChange> {
    let targets = &context.scale_targets;
    match work {
        Work::Read(key, wanted) => {
            let calls = (&context.client, &context.autoscalers);
            let reading = read::read(calls, wanted, clock()).await;
            let is_new = targets.note_read(key, wanted, reading, clock());
            is_new.then(|| CacheChange::Object(CachedKind::InferenceDeployment, key.clone()))
        }
        Work::ReadMaker { pod, maker, uid } => {
            let found = pod_maker::made_by(&context.client, &pod.namespace, (maker, uid)).await;
            match found {
                Ok(Some(made_by)) => targets.note_maker(pod, uid, made_by, clock()),
                // it may get an owner later, so this is not remembered
                Ok(None) => disown(context, pod),
                Err(error) => {
                    warn(pod, &error, "whose a pod is cannot be read");
                    note_failure(context, pod, clock());
                }
            }
            None
        }
        Work::Label {
            pod,
            uid,
            service,
            leader,
        } => {
            match label(context, (pod, uid), service, leader.as_ref()).await {
                Ok(true) => {}
                Ok(false) => disown(context, pod),
                Err(error) => {
                    if !error.is_stale() {
                        warn(pod, &error, "a replica cannot be labelled");
                    }
                    note_failure(context, pod, clock());
                }
            }
            None
        }
        Work::Disown(namespace) => {
            sync_unmanaged(context, namespace);
            None
        }
    }
}

/// A pod is nobody's replica.
fn disown(context: &Context, pod: &Key) {
    context.scale_targets.note_other(pod);
    sync_unmanaged(context, &pod.namespace);
}

/// A pod is tried again later, and may be charged to nobody's workload meanwhile.
fn note_failure(context: &Context, pod: &Key, now: Timestamp) {
    context.scale_targets.note_failure(pod, now);
    sync_unmanaged(context, &pod.namespace);
}

/// The account of pods of no workload may have one more.
fn sync_unmanaged(context: &Context, namespace: &Name) {
    let account = WorkloadRef::unmanaged(namespace.to_string());
    // the worker ends with the process, and this task does too
    let _ = context.ledger_triggers.send(Trigger::Workload(account));
}

fn warn(pod: &Key, error: &ApiError, what: &str) {
    let (namespace, name) = (&*pod.namespace, &*pod.name);
    tracing::warn!(namespace, name, %error, "{what}");
}

/// Gives a pod the labels of a replica, or of a worker of the one that `leader` leads, once its service has the finalizer that takes them away again, and
/// whether the service is paused or not: a Service may select by them. Returns whether it is a replica, by the
/// labels that the target selects.
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
