//! What the status of an InferenceDeployment says of its target.

use std::collections::BTreeMap;

use bursar_api::InferenceDeployment;
use bursar_api::conditions::{
    ConditionState, REPLICAS_DRAIN, REQUESTS_WAKE, TARGET_READY, replicas_drain, requests_wake,
    target_ready,
};
use bursar_api::engine::Engine;
use bursar_api::inference::{MAX_TARGET_LABELS, TargetStatus};
use bursar_api::names::SERVING_LABEL;
use bursar_api::template::containers;
use bursar_core::model::Key;
use kube::ResourceExt;

use super::{ScaleTarget, TargetProblem, TargetView};
use crate::context::Context;
use crate::evictions::is_out_of_control;
use crate::lock::lock;
use crate::object_key::ObjectKey;
use crate::pod;

/// Why a target is not scaled that is being adopted.
pub(crate) const NOT_LABELLED: &str =
    "not all of its pods have the labels of replicas yet, which Bursar gives them";

/// What a status says of a target.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TargetParts {
    pub(crate) status: Option<TargetStatus>,
    pub(crate) conditions: Vec<ConditionState>,
    /// How many workers each replica has beside the pod that leads it.
    pub(crate) workers: u32,
    /// Why the cluster refuses to make pods.
    pub(crate) creation_failure: Option<String>,
}

/// What the status of an InferenceDeployment says of its target; nothing without one.
pub(crate) fn parts(context: &Context, key: &Key, object: &InferenceDeployment) -> TargetParts {
    let Some(reference) = &object.spec.target_ref else {
        return TargetParts::default();
    };
    let view = context.scale_targets.view(key);
    let view = view.unwrap_or_else(|| TargetView {
        target: None,
        problem: Some(TargetProblem::new(
            target_ready::NOT_READ,
            format!("{reference} was not read yet"),
        )),
        is_adopted: false,
    });
    let known = object
        .status
        .as_ref()
        .and_then(|status| status.target.clone());
    let target = view.target.as_deref();
    let failure = target.and_then(|target| target.state.creation_failure.as_ref());
    let pods = PodsWithoutControl {
        unlabelled: context.scale_targets.given_up(key),
        remaining: remaining(context, key),
    };
    TargetParts {
        status: target.map(|target| target_status(object, target)).or(known),
        conditions: conditions(object, &view, &pods),
        workers: target
            .and_then(|target| target.workers.as_ref())
            .map_or(0, |workers| workers.count),
        creation_failure: failure.map(|failure| failure.why.to_string()),
    }
}

/// Pods of a target that do not leave with its replicas.
#[derive(Debug)]
struct PodsWithoutControl {
    /// One that cannot be given the labels of a replica, and why.
    unlabelled: Option<(Key, String)>,
    /// Those that are the target's no more, or do not end with it.
    remaining: usize,
}

/// How many pods of a service go on that are its target's no more, or do not end with it.
fn remaining(context: &Context, key: &Key) -> usize {
    let workload = ObjectKey::Service(key.clone()).workload();
    let pods =
        workload.map(|workload| lock(&context.index).pods_of(&context.stores.pods, &workload));
    let remaining = pods.into_iter().flatten();
    remaining
        .filter(|pod| !pod::is_terminal(pod) && is_out_of_control(context, pod))
        .count()
}

/// The status of a target, with the replicas that were noted of it.
pub(super) fn target_status(object: &InferenceDeployment, target: &ScaleTarget) -> TargetStatus {
    let known = object
        .status
        .as_ref()
        .and_then(|status| status.target.as_ref());
    let known = known.filter(|known| known.uid == *target.uid);
    let metadata = target.template.metadata.as_ref();
    let labels = metadata.and_then(|metadata| metadata.labels.clone());
    let labels = labels.unwrap_or_default().into_iter();
    TargetStatus {
        uid: target.uid.to_string(),
        replicas_before: known.and_then(|known| known.replicas_before),
        pod_labels: labels.take(MAX_TARGET_LABELS).collect::<BTreeMap<_, _>>(),
        port_names: port_names(object, target),
    }
}

/// The names that containers give to the engine's port.
fn port_names(object: &InferenceDeployment, target: &ScaleTarget) -> Vec<String> {
    let Some(engine_port) = object.spec.engine_port() else {
        return Vec::new();
    };
    let containers = containers(&target.template).iter();
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let named = ports.filter(|port| port.container_port == i32::from(engine_port));
    let mut names: Vec<String> = named.filter_map(|port| port.name.clone()).collect();
    names.sort();
    names.dedup();
    names
}

fn conditions(
    object: &InferenceDeployment,
    view: &TargetView,
    pods: &PodsWithoutControl,
) -> Vec<ConditionState> {
    let mut conditions = vec![match &view.problem {
        Some(problem) => problem.condition(),
        None if !view.is_adopted => {
            TargetProblem::new(target_ready::ADOPTING, NOT_LABELLED).condition()
        }
        None => ConditionState {
            kind: TARGET_READY,
            status: Some(true),
            reason: target_ready::ADOPTED,
            message: match &pods.unlabelled {
                None => "it is read, and scaled".to_owned(),
                Some((pod, why)) => format!(
                    "it is read, and scaled, but for pods that cannot be labelled and count as pods of no workload: {}: {why}",
                    pod.name
                ),
            },
        },
    }];
    if pods.remaining > 0
        && let [target, ..] = &mut *conditions
    {
        if view.problem.is_none() {
            (target.status, target.reason) = (Some(false), target_ready::PODS_REMAIN);
        }
        target.message = format!(
            "{}; {} pods with its labels go on that are its own no more, or that it does not end: they are charged, and a budget that is exhausted stops them only by unmanaged: Evict, as pods of no workload",
            target.message, pods.remaining
        );
    }
    let takes_requests = object.spec.engine != Engine::None;
    if let Some(target) = view.target.as_deref().filter(|_| takes_requests) {
        conditions.extend(wakes(target));
        conditions.extend(drains(object, target));
    }
    conditions
}

/// The condition that says so, if requests do not wake it.
fn wakes(target: &ScaleTarget) -> Option<ConditionState> {
    let (reason, message) = match &target.front {
        None => (
            requests_wake::NO_SERVICE,
            "there is no serviceRef, so requests wake nothing: name the Service by which they come"
                .to_owned(),
        ),
        Some(Err(problem)) => (problem.reason, problem.message.clone()),
        Some(Ok(front)) => {
            let warning = front.warning.as_ref()?;
            (warning.reason, warning.message.clone())
        }
    };
    Some(ConditionState {
        kind: REQUESTS_WAKE,
        status: Some(false),
        reason,
        message,
    })
}

/// The condition that says so, if replicas that leave still get requests.
fn drains(object: &InferenceDeployment, target: &ScaleTarget) -> Option<ConditionState> {
    if target.drains_by_label() {
        return None;
    }
    let timeout = &object.spec.drain.timeout;
    let what = match &object.spec.service_ref {
        Some(reference) => format!(
            "Service {} does not select by the label {SERVING_LABEL}",
            reference.name
        ),
        None => "no Service is known by which requests come".to_owned(),
    };
    Some(ConditionState {
        kind: REPLICAS_DRAIN,
        status: Some(false),
        reason: replicas_drain::SELECTOR_LACKS_LABEL,
        message: format!(
            "{what}, so a replica that leaves gets requests until it is deleted, {timeout} later (drain.timeout): once all pods of {} have the label, add {SERVING_LABEL}: \"true\" to the Service's selector",
            target.name
        ),
    })
}

/// Whether nothing but requests or time can wake a service, and requests cannot.
pub(crate) fn never_wakes(object: &InferenceDeployment, view: &TargetView) -> bool {
    let is_measured = object
        .spec
        .signals()
        .any(|(_, signal)| signal.kind != bursar_api::signal::SignalType::Engine);
    let front = view.target.as_ref().and_then(|target| target.front());
    object.spec.engine != Engine::None && !is_measured && front.is_none()
}

/// The PriorityClass of a service: its own, or that of its target's template.
pub(crate) fn priority_class(context: &Context, object: &InferenceDeployment) -> Option<String> {
    let own = object.spec.priority_class().map(str::to_owned);
    let namespace = object.namespace().unwrap_or_default();
    let key = || Key::new(&namespace, &object.name_any());
    let of_target = || {
        object.spec.target_ref.as_ref()?;
        let target = context.scale_targets.view(&key())?.target?;
        target.template.spec.as_ref()?.priority_class_name.clone()
    };
    own.or_else(of_target)
}
