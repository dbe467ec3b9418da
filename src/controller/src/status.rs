//! Writes statuses, and tells in Events which of their conditions turned.

use std::time::Duration;

use bursar_api::conditions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::{Api, PostParams};
use kube::runtime::events::{Event, EventType};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api_calls::{ApiError, with_timeout};
use crate::context::Context;

/// Writes an object's status at the version that was read, and announces what turned from its `old` to its `new` conditions.
///
/// # Errors
/// The status could not be written; nothing is announced then.
pub(crate) async fn write<K>(
    context: &Context,
    namespace: &str,
    object: &K,
    old: &[Condition],
    new: &[Condition],
) -> Result<(), ApiError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), namespace);
    with_timeout(
        "replace status",
        api.replace_status(&object.name_any(), &PostParams::default(), object),
    )
    .await?;
    announce(context, object, old, new).await;
    Ok(())
}

/// Writes the status of an object of the cluster at the version that was read. What came between is seen by the next look.
///
/// # Errors
/// The status could not be written.
pub(crate) async fn put<K>(
    context: &Context,
    call: &'static str,
    object: &K,
) -> Result<(), ApiError>
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::all(context.client.clone());
    let (name, params) = (object.name_any(), PostParams::default());
    match with_timeout(call, api.replace_status(&name, &params, object)).await {
        Ok(_) | Err(ApiError::Conflict { .. } | ApiError::Gone { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Tells of conditions that turned: few Events, and each once.
async fn announce<K>(context: &Context, object: &K, old: &[Condition], new: &[Condition])
where
    K: Resource<DynamicType = ()>,
{
    let before = |kind: &str| old.iter().find(|condition| condition.type_ == kind);
    for condition in new {
        let turned = before(&condition.type_)
            .is_none_or(|old| old.status != condition.status || old.reason != condition.reason);
        let was_good = before(&condition.type_).is_none_or(|old| old.status == "True");
        // that all is well from the start is no news, and readiness has its own column
        if !turned
            || (condition.status == "True" && was_good)
            || condition.type_ == conditions::READY
        {
            continue;
        }
        let event = Event {
            type_: if condition.status == "True" {
                EventType::Normal
            } else {
                EventType::Warning
            },
            reason: condition.reason.clone(),
            note: Some(condition.message.clone()),
            action: condition.type_.clone(),
            secondary: None,
        };
        let reference = object.object_ref(&());
        let published = context.recorder.publish(&event, &reference);
        match tokio::time::timeout(Duration::from_secs(3), published).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot publish an event"),
            Err(_) => tracing::warn!("publishing an event got no answer"),
        }
    }
}
