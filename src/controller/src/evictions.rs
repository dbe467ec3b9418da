//! Evicts pods of no workload for which there is no money, through the eviction API: so
//! PodDisruptionBudgets hold.

use bursar_api::spend::WorkloadKind;
use bursar_core::model::Key;
use bursar_core::plan::{EvictionNotice, EvictionOrder};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions};
use kube::api::{Api, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::Value;

use crate::api_calls::{ApiError, with_timeout};
use crate::cache::cached;
use crate::context::Context;
use crate::events;
use crate::pod;

/// The API server's words are cut off after so many characters.
const MAX_WORDS: usize = 500;

/// What the API server said, as much of it as a condition shows.
pub(crate) fn truncated(why: &str) -> String {
    why.chars().take(MAX_WORDS).collect()
}

/// Whether budgets cannot stop a pod by the workload whose labels it has, so that to them it is of no workload: one that
/// is that workload's no more, one of a job that nobody but its owner may suspend, or one that goes on though its target
/// was stopped.
pub(crate) fn is_out_of_control(context: &Context, pod: &Pod) -> bool {
    let Some(workload) = pod::workload_of(pod) else {
        return false;
    };
    let key = Key::new(&workload.namespace, &workload.name);
    let of_pod = Key::new(&workload.namespace, &pod.name_any());
    if context.released_pods.contains(&of_pod) {
        return true;
    }
    match workload.kind {
        WorkloadKind::TrainingJob => context.job_targets.is_out_of_control(&key),
        WorkloadKind::InferenceDeployment => {
            let created = pod.creation_timestamp().map(|created| created.0);
            let ended = context.scale_targets.emptied(&key);
            let goes_on = pod.metadata.deletion_timestamp.is_none();
            let has_outlived = ended.is_some_and(|by| created.is_some_and(|created| created < by));
            goes_on && has_outlived
        }
        WorkloadKind::Unmanaged | WorkloadKind::Node | WorkloadKind::Folded => false,
    }
}

/// Says of a pod that it will be evicted.
pub(crate) fn warn(context: &Context, notice: &EvictionNotice) {
    let reference = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(notice.pod.namespace.to_string()),
        name: Some(notice.pod.name.to_string()),
        uid: Some(notice.uid.to_string()),
        ..ObjectReference::default()
    };
    context
        .events
        .send(reference, events::of_eviction_notice(notice));
}

/// Carries out an order. The pod must be the one that was decided over, as the cache shows it.
///
/// # Errors
/// The pod was not evicted: a PodDisruptionBudget forbids it now, or somebody wrote first.
pub(crate) async fn apply(context: &Context, order: &EvictionOrder) -> Result<(), ApiError> {
    let Some(found) = cached(&context.stores.pods, &order.pod).filter(|_| order.evict) else {
        return Ok(());
    };
    let workload = pod::workload_of(&found);
    let is_unmanaged = workload.is_some_and(|workload| workload.kind == WorkloadKind::Unmanaged);
    let is_unmanaged = is_unmanaged || is_out_of_control(context, &found);
    let is_meant = pod::uid(&found) == &*order.uid && is_unmanaged;
    if !is_meant || found.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let name = found.name_any();
    // kube's own call names the options as the API server does not, and so leaves out the preconditions
    let eviction = Eviction {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: found.namespace(),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions {
            preconditions: Some(Preconditions {
                uid: found.uid(),
                resource_version: found.resource_version(),
            }),
            ..DeleteOptions::default()
        }),
    };
    let client = context.eviction_client.clone();
    let api: Api<Pod> = Api::namespaced(client, &order.pod.namespace);
    let params = PostParams::default();
    let evicted = api.create_subresource::<_, Value>("eviction", &name, &params, &eviction);
    with_timeout("evict", evicted).await?;
    let event = events::of_eviction(order);
    context.events.send(found.object_ref(&()), event);
    Ok(())
}
