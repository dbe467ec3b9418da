//! The condition `Accepted` of Bursar's resources that cannot be read.
//!
//! It is written into the status as the API server has it, without reading the rest: the condition
//! alone changes. Workloads and BudgetPolicies that can be read again lose it with the next write
//! of their status; PriceLists and SpendCorrections always have the condition.

use std::time::Duration;

use bursar_api::conditions::{self, ACCEPTED, ConditionState, accepted};
use bursar_api::{BudgetPolicy, InferenceDeployment, PriceList, SpendCorrection, TrainingJob};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use kube::api::{GetParams, Patch, PatchParams};
use kube::core::Request;
use kube::runtime::events::{Event, EventType};
use serde_json::{Value, json};

use crate::api_calls::{ApiError, with_timeout};
use crate::cache::UnreadableObject;
use crate::context::Context;

/// How often the statuses are compared with the caches.
const PACE: Duration = Duration::from_secs(2);
/// A condition that cannot be written is tried again after this long.
const RETRY: SignedDuration = SignedDuration::from_mins(1);

/// Writes the condition of every object that cannot be read, for as long as the process leads.
pub(crate) async fn run(context: &Context) {
    loop {
        for error in sync_once(context, Timestamp::now()).await {
            tracing::warn!(%error, "the condition of an object that cannot be read");
        }
        tokio::time::sleep(PACE).await;
    }
}

/// Writes the conditions that are missing, and returns what failed. One that fails keeps no other
/// from being written, and is tried again.
pub(crate) async fn sync_once(context: &Context, now: Timestamp) -> Vec<ApiError> {
    let mut errors = Vec::new();
    for object in context.unreadable.unreported(now) {
        let next = match report(context, &object, now).await {
            Ok(()) => Timestamp::MAX,
            // the watch tells of the newer version
            Err(error) if error.is_stale() => now,
            Err(error) => {
                errors.push(error);
                now + RETRY
            }
        };
        context.unreadable.note_report(&object, next);
    }
    errors
}

/// The requests for an object; `None` if its kind does not have the condition.
fn request(object: &UnreadableObject) -> Option<Request> {
    fn path<K: Resource<DynamicType = ()>>(namespace: Option<&str>) -> (String, String) {
        (K::kind(&()).into_owned(), K::url_path(&(), namespace))
    }
    let namespace = Some(object.namespace.as_str()).filter(|namespace| !namespace.is_empty());
    let paths = [
        path::<InferenceDeployment>(namespace),
        path::<TrainingJob>(namespace),
        path::<BudgetPolicy>(namespace),
        path::<PriceList>(namespace),
        path::<SpendCorrection>(namespace),
    ];
    let (_, path) = paths.into_iter().find(|(kind, _)| *kind == object.kind)?;
    Some(Request::new(path))
}

fn reference(object: &UnreadableObject, live: &Value) -> ObjectReference {
    ObjectReference {
        api_version: live["apiVersion"].as_str().map(str::to_owned),
        kind: Some(object.kind.clone()),
        name: Some(object.name.clone()),
        namespace: Some(object.namespace.clone()).filter(|namespace| !namespace.is_empty()),
        uid: Some(object.uid.clone()),
        ..ObjectReference::default()
    }
}

/// Writes the condition of one object unless it is there already.
async fn report(
    context: &Context,
    object: &UnreadableObject,
    now: Timestamp,
) -> Result<(), ApiError> {
    let (client, name) = (&context.client, object.name.as_str());
    let Some(request) = request(object) else {
        return Ok(());
    };
    let get = request.get(name, &GetParams::default());
    let get = get.map_err(kube::Error::BuildRequest);
    let live: Value = with_timeout("get unreadable object", async {
        client.request(get?).await
    })
    .await?;
    let metadata = &live["metadata"];
    if metadata["uid"].as_str() != Some(object.uid.as_str()) {
        return Ok(());
    }
    let old = live["status"]["conditions"].as_array();
    let mut all = old.cloned().unwrap_or_default();
    let is_ours = |condition: &&mut Value| condition["type"] == ACCEPTED;
    let present = all.iter_mut().find(is_ours);
    let before = present
        .as_deref()
        .and_then(|condition| serde_json::from_value::<Condition>(condition.clone()).ok());
    let generation = metadata["generation"].as_i64();
    let message = object.why();
    let state = ConditionState {
        kind: ACCEPTED,
        status: Some(false),
        reason: accepted::UNREADABLE,
        message: message.clone(),
    };
    let before = before.as_slice();
    let wanted = conditions::updated_conditions(before, vec![state], generation, now);
    if before == wanted {
        return Ok(());
    }
    let condition = json!(wanted.first());
    match present {
        Some(present) => *present = condition,
        None => all.push(condition),
    }
    let guard = json!({"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]});
    let patch = Patch::Merge(json!({"metadata": guard, "status": {"conditions": all}}));
    let patch = request.patch_subresource("status", name, &PatchParams::default(), &patch);
    let patch = patch.map_err(kube::Error::BuildRequest);
    let written = async { client.request::<Value>(patch?).await };
    with_timeout("patch status of unreadable object", written).await?;
    let event = Event {
        type_: EventType::Warning,
        reason: accepted::UNREADABLE.as_str().to_owned(),
        note: Some(message),
        action: ACCEPTED.to_owned(),
        secondary: None,
    };
    context.events.send(reference(object, &live), event);
    Ok(())
}
