//! Workloads that exist and that an InferenceDeployment scales by `targetRef`: how they are read, whose
//! pods are theirs, how they are told another number of replicas, and how they are given back.
//!
//! | module | subject |
//! |---|---|
//! | [`registry`] | what is known of each target, and what is read next |
//! | [`state`], [`view`], [`pod_owner`] | the values of that: of all, of one, and whose a pod may be |
//! | [`autoscalers`] | which HorizontalPodAutoscalers of a namespace scale what |
//! | [`read`] | one read of a target: its template, its replicas, who else scales it |
//! | [`service`] | the Service of a `serviceRef` |
//! | [`replica_pods`] | the pods of a target get the labels of replicas |
//! | [`apply`] | orders, and the gateways' endpoints |
//! | [`release`] | replicas are given back |
//! | [`status`] | that in the status of an InferenceDeployment |
//!
//! No kind of target is watched: it may be any kind, and a watch would need the right to list all of it.
//! Each target is read every 15 s, and at once where its InferenceDeployment was edited, its pods change or its
//! replicas were ordered ([ADR 28]).
//!
//! [ADR 28]: ../../../../docs/adr/0028-targets-are-read-and-not-watched.md

pub(crate) mod apply;
mod autoscalers;
mod pod_owner;
mod read;
mod registry;
pub(crate) mod release;
pub(crate) mod replica_pods;
mod service;
mod state;
pub(crate) mod status;
mod view;

use bursar_api::InferenceDeployment;
use bursar_api::conditions::{ConditionState, Reason, TARGET_READY, target_ready};
use bursar_api::names::TARGET_FINALIZER;
use bursar_core::model::Name;
use bursar_core::model::event::Deployment;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::{Client, ResourceExt};

pub(crate) use autoscalers::Autoscalers;
pub(crate) use registry::ScaleTargets;
use service::FrontService;
pub(crate) use view::TargetView;

/// A workload that is scaled, as last read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScaleTarget {
    pub(crate) uid: Name,
    pub(crate) name: String,
    pub(crate) resource: ApiResource,
    pub(crate) template: PodTemplateSpec,
    /// The labels that its pods have.
    pub(crate) selector: LabelSelector,
    /// Its replicas and its rollout.
    pub(crate) state: Deployment,
    /// The Service of the serviceRef, or why requests that come by it wake nothing; `None` without a
    /// serviceRef.
    pub(crate) front: Option<Result<FrontService, ServiceProblem>>,
}

impl ScaleTarget {
    fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), namespace, &self.resource)
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

/// Whether it is on record what the target of an InferenceDeployment gets back.
pub(crate) fn is_recorded(object: &InferenceDeployment) -> bool {
    let mut finalizers = object.finalizers().iter();
    finalizers.any(|each| each == TARGET_FINALIZER)
}

/// Why a target is not scaled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TargetProblem {
    pub(crate) reason: Reason,
    pub(crate) message: String,
}

impl TargetProblem {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    /// Whether somebody can do something about it, and no answer of the API server is missing.
    pub(crate) fn stands(&self) -> bool {
        self.reason != target_ready::NOT_READ
    }

    fn condition(&self) -> ConditionState {
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

/// Why requests that come by a Service wake nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceProblem {
    reason: Reason,
    message: String,
}

impl ServiceProblem {
    fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}
