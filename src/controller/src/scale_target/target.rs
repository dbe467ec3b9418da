//! A target as last read, and why one is not scaled.

use bursar_api::InferenceDeployment;
use bursar_api::conditions::{ConditionState, Reason, TARGET_READY, target_ready};
use bursar_api::names::TARGET_FINALIZER;
use bursar_core::model::Name;
use bursar_core::model::event::Deployment;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::{Client, ResourceExt};

use super::leader_worker_set::Workers;
use super::service::{FrontService, ServiceProblem};

/// A workload that is scaled, as last read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScaleTarget {
    pub(crate) uid: Name,
    pub(crate) name: String,
    pub(crate) resource: ApiResource,
    /// That of its pods; of several pods of a replica, of the one that leads.
    pub(crate) template: PodTemplateSpec,
    /// The other pods of a replica, where that is several.
    pub(crate) workers: Option<Workers>,
    /// The labels that its pods have.
    pub(crate) selector: LabelSelector,
    /// Its replicas and its rollout.
    pub(crate) state: Deployment,
    /// The Service of the serviceRef, or why requests that come by it wake nothing; `None` without a
    /// serviceRef.
    pub(crate) front: Option<Result<FrontService, ServiceProblem>>,
}

impl ScaleTarget {
    pub(super) fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        api(client, namespace, &self.resource)
    }

    /// The Service by which requests come and wake it.
    pub(crate) fn front(&self) -> Option<&FrontService> {
        self.front.as_ref()?.as_ref().ok()
    }

    /// Whether a replica that loses the serving label gets no new requests.
    pub(crate) fn drains_by_label(&self) -> bool {
        self.front().is_some_and(|front| front.selects_serving)
    }
}

/// The objects of a kind in a namespace.
pub(super) fn api(client: &Client, namespace: &str, resource: &ApiResource) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, resource)
}

/// Whether it is on record what the target of an InferenceDeployment gets back.
pub(crate) fn is_recorded(object: &InferenceDeployment) -> bool {
    let mut finalizers = object.finalizers().iter();
    finalizers.any(|each| each == TARGET_FINALIZER)
}

/// Whether the target of an InferenceDeployment was adopted, though somebody may have taken its finalizer off since.
pub(crate) fn was_adopted(object: &InferenceDeployment) -> bool {
    let status = object.status.as_ref();
    let target = status.and_then(|status| status.target.as_ref());
    is_recorded(object) || target.is_some_and(|target| target.replicas_before.is_some())
}

/// Why a target is not scaled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TargetProblem {
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

impl TargetProblem {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    /// Whether somebody can do something about it, and no answer of the API server is missing.
    pub(crate) fn stands(&self) -> bool {
        self.reason != target_ready::NOT_READ
    }

    pub(super) fn condition(&self) -> ConditionState {
        ConditionState {
            kind: TARGET_READY,
            status: Some(false),
            reason: self.reason,
            message: format!(
                "{}; until then it is not scaled, but for money",
                self.message
            ),
        }
    }
}
