//! One read of a target: its template, its replicas, who else scales it, and its Service.

use bursar_api::conditions::{requests_wake, target_ready};
use bursar_api::inference::{MAX_TARGET_LABELS, ServiceRef, TargetRef};
use bursar_api::lenient::bounded_text;
use bursar_core::model::Name;
use bursar_core::model::event::Deployment as DeploymentState;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{PodTemplateSpec, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::{Client, ResourceExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::autoscalers::Autoscalers;
use super::leader_worker_set::{self, Group};
use super::service::{FrontService, ServiceProblem, front};
use super::target::{self, ScaleTarget, TargetProblem};
use crate::api_calls::{ApiError, with_timeout};
use crate::{health, rollout};

/// Kinds that make further workloads for one replica.
const NOT_ONE_WORKLOAD: [&str; 2] = ["disaggregatedset.x-k8s.io", "jobset.x-k8s.io"];

/// Kinds that decide over the replicas of what they make.
const MAKERS_OF_TARGETS: [&str; 3] = [
    leader_worker_set::GROUP,
    NOT_ONE_WORKLOAD[0],
    NOT_ONE_WORKLOAD[1],
];

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(super) namespace: String,
    pub(super) target: TargetRef,
    pub(super) service: Option<ServiceRef>,
    /// The port of its engine; `None` without an engine.
    pub(super) engine_port: Option<u16>,
}

/// What was read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reading {
    /// The target, if it is there and can be read.
    pub(super) target: Option<ScaleTarget>,
    /// Why it is not scaled.
    pub(super) problem: Option<TargetProblem>,
}

/// Reads a target. What can be read of one that must not be scaled is read all the same: budgets stop it.
pub(super) async fn read(
    (client, autoscalers): (&Client, &Autoscalers),
    wanted: &Wanted,
    now: Timestamp,
) -> Reading {
    let (mut target, mut problem) = match read_target(client, wanted).await {
        Ok(found) => found,
        Err(problem) => {
            return Reading {
                target: None,
                problem: Some(problem),
            };
        }
    };
    if problem.is_none() {
        let checked = check_autoscalers((client, autoscalers), wanted, now).await;
        problem = checked.err();
    }
    if let (Some(reference), Some(port)) = (&wanted.service, wanted.engine_port) {
        target.front = Some(read_front(client, wanted, reference, &target.template, port).await);
    }
    Reading {
        target: Some(target),
        problem,
    }
}

/// The resource that serves a kind.
///
/// # Errors
/// The API server does not serve it, or it has no scale subresource.
pub(super) async fn resource(
    client: &Client,
    target: &TargetRef,
) -> Result<ApiResource, TargetProblem> {
    let is = |kind: &str| target.api_version == "apps/v1" && target.kind == kind;
    if is("Deployment") {
        return Ok(ApiResource::erase::<Deployment>(&()));
    }
    if is("StatefulSet") {
        return Ok(ApiResource::erase::<StatefulSet>(&()));
    }
    let not_supported = |why: String| TargetProblem::new(target_ready::KIND_NOT_SUPPORTED, why);
    if !target.is_valid() {
        return Err(not_supported(
            "targetRef names no object: correct it".to_owned(),
        ));
    }
    let version = &target.api_version;
    let listed = async {
        match target.group() {
            "" => client.list_core_api_resources(version).await,
            _ => client.list_api_group_resources(version).await,
        }
    };
    let listed = with_timeout("list resources of the target's API", listed).await;
    let listed = match listed {
        Ok(listed) => listed.resources,
        Err(ApiError::Gone { .. }) => Vec::new(),
        Err(error) => {
            return Err(TargetProblem::new(
                target_ready::NOT_READ,
                error.to_string(),
            ));
        }
    };
    let is_it = |name: &str, kind: &str| kind == target.kind && !name.contains('/');
    let found = listed
        .iter()
        .find(|each| each.namespaced && is_it(&each.name, &each.kind));
    let Some(found) = found else {
        let why = format!(
            "the API server has no {} of {version} in namespaces: correct targetRef, or install its definition",
            target.kind
        );
        return Err(not_supported(why));
    };
    let scale = format!("{}/scale", found.name);
    if !listed.iter().any(|each| each.name == scale) {
        let why = format!(
            "{} of {version} has no scale subresource: name the workload that it makes, or one of another kind",
            target.kind
        );
        return Err(not_supported(why));
    }
    let group = target.group().to_owned();
    let bare = version.rsplit('/').next().unwrap_or_default();
    Ok(ApiResource {
        group,
        version: bare.to_owned(),
        api_version: version.clone(),
        kind: target.kind.clone(),
        plural: found.name.clone(),
    })
}

async fn read_target(
    client: &Client,
    wanted: &Wanted,
) -> Result<(ScaleTarget, Option<TargetProblem>), TargetProblem> {
    let reference = &wanted.target;
    if NOT_ONE_WORKLOAD.contains(&reference.group()) {
        let why = format!(
            "a replica of {reference} is several workloads, which this version cannot count: scale it without Bursar"
        );
        return Err(TargetProblem::new(target_ready::KIND_NOT_SUPPORTED, why));
    }
    let resource = resource(client, reference).await?;
    let api = target::api(client, &wanted.namespace, &resource);
    let name = &reference.name;
    let found = with_timeout("get target", api.get(name)).await;
    let found = found.map_err(|error| unread(reference, &resource, &error, "get"))?;
    let scale = with_timeout("get scale of target", api.get_scale(name)).await;
    let scale = scale.map_err(|error| unread(reference, &resource, &error, "get the scale of"))?;
    let is_group = leader_worker_set::is(reference);
    let group = match is_group {
        true => leader_worker_set::group(&found, reference),
        false => template(&found, reference).map(|template| Group {
            leader: template,
            workers: None,
        }),
    };
    let checked = group.map(|group| {
        let checked = check_template(&group.leader, reference);
        (group, checked.err())
    });
    let (group, mut unsupported) =
        checked.unwrap_or_else(|problem| (Group::default(), Some(problem)));
    let selector = match is_group {
        true => Ok(leader_worker_set::selector(name)),
        false => selector(&found, reference),
    };
    if is_group && unsupported.is_none() {
        let checked = leader_worker_set::check_rights(client, &wanted.namespace, reference).await;
        unsupported = checked.err();
    }
    let problem = check_owner(&found, reference).err().or(unsupported);
    let problem = problem.or(selector.as_ref().err().cloned());
    let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
    let replicas = u32::try_from(replicas).unwrap_or(0);
    let target = ScaleTarget {
        uid: found.uid().unwrap_or_default().into(),
        name: name.clone(),
        state: state(&found, &resource, replicas),
        resource,
        template: group.leader,
        workers: group.workers,
        // without one no pod is a replica
        selector: selector.unwrap_or_default(),
        front: None,
    };
    Ok((target, problem))
}

/// The labels that its pods have.
fn selector(found: &DynamicObject, reference: &TargetRef) -> Result<LabelSelector, TargetProblem> {
    let selector = found.data.pointer("/spec/selector");
    let selector = selector.and_then(|selector| LabelSelector::deserialize(selector).ok());
    let is_empty = |selector: &LabelSelector| *selector == LabelSelector::default();
    selector.filter(|selector| !is_empty(selector)).ok_or_else(|| {
        let why = format!("{reference} has no label selector at spec.selector, so which pods are its own is not known: name a workload that has one");
        TargetProblem::new(target_ready::KIND_NOT_SUPPORTED, why)
    })
}

/// Why an object could not be read, and what gives the right to it.
fn unread(
    reference: &TargetRef,
    resource: &ApiResource,
    error: &ApiError,
    verb: &str,
) -> TargetProblem {
    if let ApiError::Gone { .. } = error {
        let why = format!(
            "there is no {reference} in this namespace: create it, or delete this resource"
        );
        return TargetProblem::new(target_ready::NOT_FOUND, why);
    }
    let ApiResource { group, plural, .. } = resource;
    if error.is_forbidden() {
        let why = format!(
            "Bursar may not {verb} {reference}: whoever installs it adds {{apiGroup: {group:?}, resource: {plural}}} to the chart's value targets"
        );
        return TargetProblem::new(target_ready::FORBIDDEN, why);
    }
    let why = format!("{reference} cannot be read: {error}");
    TargetProblem::new(target_ready::NOT_READ, why)
}

/// Who made an object decides over its replicas, if that is Bursar or one of these kinds.
fn check_owner(found: &DynamicObject, reference: &TargetRef) -> Result<(), TargetProblem> {
    let mut owners = found.owner_references().iter();
    let decides = owners.find(|owner| {
        let group = owner.api_version.split('/').next().unwrap_or_default();
        owner.controller == Some(true)
            && (group == bursar_api::names::GROUP || MAKERS_OF_TARGETS.contains(&group))
    });
    match decides {
        None => Ok(()),
        Some(owner) => {
            let (kind, name) = (&owner.kind, &owner.name);
            let why = format!(
                "{reference} belongs to {kind} {name}, which decides over its replicas: scale that one"
            );
            Err(TargetProblem::new(target_ready::OWNED_BY_OTHER, why))
        }
    }
}

/// The pod template of one replica.
fn template(
    found: &DynamicObject,
    reference: &TargetRef,
) -> Result<PodTemplateSpec, TargetProblem> {
    let not_supported =
        |why: String| Err(TargetProblem::new(target_ready::KIND_NOT_SUPPORTED, why));
    let template = found.data.pointer("/spec/template");
    let has_containers = template.is_some_and(|template| template["spec"]["containers"].is_array());
    let Some(template) = template.filter(|_| has_containers) else {
        return not_supported(format!(
            "{reference} has no pod template at spec.template, so what a replica asks for is not known: name a workload that has one"
        ));
    };
    PodTemplateSpec::deserialize(template).or_else(|error| {
        let why = bounded_text(&error.to_string());
        not_supported(format!(
            "the pod template of {reference} cannot be read: {why}"
        ))
    })
}

/// Whether gateways can send requests to pods of a template, and tell whom NetworkPolicies let reach them.
fn check_template(template: &PodTemplateSpec, reference: &TargetRef) -> Result<(), TargetProblem> {
    let not_supported =
        |why: String| Err(TargetProblem::new(target_ready::KIND_NOT_SUPPORTED, why));
    let metadata = template.metadata.as_ref();
    let labels = metadata.and_then(|metadata| metadata.labels.as_ref());
    if labels.is_some_and(|labels| labels.len() > MAX_TARGET_LABELS) {
        return not_supported(format!(
            "the pod template of {reference} has more than {MAX_TARGET_LABELS} labels, of which gateways cannot tell whom NetworkPolicies let reach it: take some out"
        ));
    }
    let spec = template.spec.as_ref();
    if spec.and_then(|spec| spec.host_network) == Some(true) {
        return not_supported(format!(
            "pods of {reference} have hostNetwork, and replicas need addresses of their own: take it out"
        ));
    }
    Ok(())
}

/// Its replicas, and what its status says of a rollout. A status that cannot be read says nothing.
fn state(found: &DynamicObject, resource: &ApiResource, replicas: u32) -> DeploymentState {
    fn typed<K: DeserializeOwned>(found: &DynamicObject) -> Option<K> {
        let value = serde_json::to_value(found).ok()?;
        K::deserialize(value).ok()
    }
    let is_of =
        |known: ApiResource| (&known.group, &known.kind) == (&resource.group, &resource.kind);
    let is_stateful = is_of(ApiResource::erase::<StatefulSet>(&()));
    // groups have ordinals from 0 on
    let is_group = resource.group == leader_worker_set::GROUP;
    let mut state = DeploymentState {
        replicas,
        first_ordinal: (is_stateful || is_group).then(|| {
            let start = found.data.pointer("/spec/ordinals/start");
            let start = start.and_then(serde_json::Value::as_u64);
            start
                .and_then(|start| u32::try_from(start).ok())
                .unwrap_or(0)
        }),
        rollout: None,
        creation_failure: None,
    };
    if is_of(ApiResource::erase::<Deployment>(&())) {
        let found: Option<Deployment> = typed(found);
        state.rollout = found.as_ref().and_then(rollout::of_deployment);
        state.creation_failure = found.as_ref().and_then(health::pod_creation_failure);
    } else if is_stateful {
        let found: Option<StatefulSet> = typed(found);
        state.rollout = found.as_ref().and_then(rollout::of_stateful_set);
    } else if is_group {
        state.rollout = leader_worker_set::rollout(found);
    }
    state
}

/// Whether no HorizontalPodAutoscaler scales the target.
async fn check_autoscalers(
    (client, autoscalers): (&Client, &Autoscalers),
    wanted: &Wanted,
    now: Timestamp,
) -> Result<(), TargetProblem> {
    let target = &wanted.target;
    let namespace: Name = wanted.namespace.as_str().into();
    match autoscalers.of(client, (&namespace, target), now).await {
        Ok(None) => Ok(()),
        Ok(Some(found)) => {
            let of = found.owner.map(|owner| format!(", of {owner},"));
            let (name, of) = (found.name, of.unwrap_or_default());
            let why = format!(
                "HorizontalPodAutoscaler {name}{of} scales {target} too: delete it, or this resource"
            );
            Err(TargetProblem::new(target_ready::SCALED_BY_OTHER, why))
        }
        Err(error) if error.is_forbidden() => {
            let why = "Bursar may not list horizontalpodautoscalers, so it does not know whether one scales the target: whoever installs it upgrades its chart";
            Err(TargetProblem::new(target_ready::FORBIDDEN, why))
        }
        Err(error) => {
            let why = format!("HorizontalPodAutoscalers cannot be listed: {error}");
            Err(TargetProblem::new(target_ready::NOT_READ, why))
        }
    }
}

async fn read_front(
    client: &Client,
    wanted: &Wanted,
    reference: &ServiceRef,
    template: &PodTemplateSpec,
    engine_port: u16,
) -> Result<FrontService, ServiceProblem> {
    let api: Api<Service> = Api::namespaced(client.clone(), &wanted.namespace);
    let name = &reference.name;
    let found = with_timeout("get Service of target", api.get(name)).await;
    let found = found.map_err(|error| {
        let why = match error {
            ApiError::Gone { .. } => {
                format!(
                    "there is no Service {name} in this namespace: create it, or correct serviceRef"
                )
            }
            error => format!("Service {name} cannot be read: {error}"),
        };
        ServiceProblem::new(requests_wake::SERVICE_NOT_READ, why)
    })?;
    front(&found, reference, template, engine_port)
}
