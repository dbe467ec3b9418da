//! Writes statuses, and announces in Events which of their conditions changed.

use std::fmt::Debug;
use std::time::Duration;

use bursar_api::budget::BudgetPolicyStatus;
use bursar_api::conditions;
use bursar_api::correction::SpendCorrectionStatus;
use bursar_api::inference::InferenceDeploymentStatus;
use bursar_api::prices::PriceListStatus;
use bursar_api::training::TrainingJobStatus;
use bursar_api::{BudgetPolicy, InferenceDeployment, PriceList, SpendCorrection, TrainingJob};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, PostParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api_calls::{ApiError, with_timeout};

/// A resource with conditions, whose status the controller writes.
pub(crate) trait StatusObject:
    Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug
{
    type Status;
    /// The write, as errors name it.
    const CALL: &'static str;

    /// The calls for this object.
    fn api(&self, client: &Client) -> Api<Self>;
    /// The conditions of its present status.
    fn conditions(&self) -> &[Condition];
    /// The object with another status.
    fn with_status(&self, status: Self::Status) -> Self;
}

macro_rules! status_objects {
    ($($kind:ident: $status:ident, $call:literal, $api:expr;)*) => {$(
        impl StatusObject for $kind {
            type Status = $status;
            const CALL: &'static str = $call;

            fn api(&self, client: &Client) -> Api<Self> {
                let api: fn(Client, String) -> Api<Self> = $api;
                api(client.clone(), self.namespace().unwrap_or_default())
            }

            fn conditions(&self) -> &[Condition] {
                let status = self.status.as_ref();
                status.map_or(&[], |status| &status.conditions)
            }

            fn with_status(&self, status: $status) -> Self {
                let status = Some(status);
                Self { status, ..self.clone() }
            }
        }
    )*};
}

status_objects! {
    InferenceDeployment: InferenceDeploymentStatus, "replace inferencedeployment status",
        |client, namespace| Api::namespaced(client, &namespace);
    TrainingJob: TrainingJobStatus, "replace trainingjob status",
        |client, namespace| Api::namespaced(client, &namespace);
    BudgetPolicy: BudgetPolicyStatus, "replace budgetpolicy status",
        |client, namespace| Api::namespaced(client, &namespace);
    PriceList: PriceListStatus, "replace pricelist status", |client, _| Api::all(client);
    SpendCorrection: SpendCorrectionStatus, "replace spendcorrection status",
        |client, _| Api::all(client);
}

/// Writes an object's status at the version that was read. Returns the object as it was sent.
///
/// # Errors
/// The status could not be written.
pub(crate) async fn write<K: StatusObject>(
    client: &Client,
    object: &K,
    status: K::Status,
) -> Result<K, ApiError> {
    let new = object.with_status(status);
    let (api, name, params) = (object.api(client), object.name_any(), PostParams::default());
    with_timeout(K::CALL, api.replace_status(&name, &params, &new)).await?;
    Ok(new)
}

/// Writes an object's status, and announces which of its conditions changed.
///
/// # Errors
/// The status could not be written; nothing is announced then.
pub(crate) async fn write_and_announce<K: StatusObject>(
    client: &Client,
    recorder: &Recorder,
    object: &K,
    status: K::Status,
) -> Result<(), ApiError> {
    let new = write(client, object, status).await?;
    announce(recorder, object, new.conditions()).await;
    Ok(())
}

/// Announces conditions that changed: few Events, and each once.
async fn announce<K: StatusObject>(recorder: &Recorder, object: &K, new: &[Condition]) {
    for condition in new {
        let mut before = object.conditions().iter();
        let old = before.find(|old| old.type_ == condition.type_);
        let changed =
            old.is_none_or(|old| old.status != condition.status || old.reason != condition.reason);
        let was_good = old.is_none_or(|old| old.status == "True");
        // that all is well from the start is no news, and readiness has its own column
        if !changed
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
        publish(recorder, &event, &reference).await;
    }
}

/// Publishes an Event; one that cannot be published is not tried again.
pub(crate) async fn publish(recorder: &Recorder, event: &Event, reference: &ObjectReference) {
    let published = recorder.publish(event, reference);
    match tokio::time::timeout(Duration::from_secs(3), published).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "cannot publish an event"),
        Err(_) => tracing::warn!("publishing an event got no answer"),
    }
}
