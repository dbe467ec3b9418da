//! LeaderWorkerSets: a replica is a group of pods, of which one leads and takes the requests. Leaders are made by
//! a StatefulSet that the LeaderWorkerSet owns, and the workers of a group by one that its leader owns.

use std::collections::BTreeMap;

use bursar_api::conditions::target_ready;
use bursar_api::inference::TargetRef;
use bursar_api::lenient::bounded_text;
use bursar_core::model::event::Rollout;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use kube::api::{Api, DynamicObject};
use serde::Deserialize;
use serde_json::Value;

use super::target::TargetProblem;
use crate::api_calls::{ApiError, with_timeout};

/// Its API group.
pub(super) const GROUP: &str = "leaderworkerset.x-k8s.io";
/// Its kind.
pub(super) const KIND: &str = "LeaderWorkerSet";

/// The label of its pods that names it, ...
const NAME_LABEL: &str = "leaderworkerset.sigs.k8s.io/name";
/// ... and the one with the place of a pod in its group, which is 0 for the leader.
const WORKER_INDEX_LABEL: &str = "leaderworkerset.sigs.k8s.io/worker-index";

/// Pods of a group, at most.
const MAX_GROUP_SIZE: u64 = 1_000;

/// The workers of one replica.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Workers {
    /// How many, at least one.
    pub(crate) count: u32,
    pub(crate) template: PodTemplateSpec,
}

/// What a group is made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Group {
    /// The template of the leader, with the labels that each leader has.
    pub(super) leader: PodTemplateSpec,
    /// `None` for a group of one pod.
    pub(super) workers: Option<Workers>,
}

/// Whether this is one.
pub(super) fn is(reference: &TargetRef) -> bool {
    reference.group() == GROUP && reference.kind == KIND
}

/// The labels that all pods of one have.
pub(super) fn selector(name: &str) -> LabelSelector {
    let labels = BTreeMap::from([(NAME_LABEL.to_owned(), name.to_owned())]);
    LabelSelector {
        match_labels: Some(labels),
        match_expressions: None,
    }
}

/// What a group of it is made of.
///
/// # Errors
/// It cannot be read, or has too many pods.
pub(super) fn group(found: &DynamicObject, reference: &TargetRef) -> Result<Group, TargetProblem> {
    let not_supported = |why: String| TargetProblem::new(target_ready::KIND_NOT_SUPPORTED, why);
    let group = &found.data["spec"]["leaderWorkerTemplate"];
    let template = |field: &str| {
        let read = PodTemplateSpec::deserialize(&group[field]);
        read.map_err(|error| {
            let why = bounded_text(&error.to_string());
            not_supported(format!(
                "spec.leaderWorkerTemplate.{field} of {reference} cannot be read: {why}"
            ))
        })
    };
    let worker = template("workerTemplate")?;
    let mut leader = match &group["leaderTemplate"] {
        Value::Null => worker.clone(),
        _ => template("leaderTemplate")?,
    };
    let labels = leader.metadata.get_or_insert_default();
    labels.labels.get_or_insert_default().extend([
        (NAME_LABEL.to_owned(), reference.name.clone()),
        (WORKER_INDEX_LABEL.to_owned(), "0".to_owned()),
    ]);
    // the API server's default
    let size = group["size"].as_u64().unwrap_or(1);
    let count = size.saturating_sub(1);
    let Some(count) = u32::try_from(count).ok().filter(|_| size <= MAX_GROUP_SIZE) else {
        return Err(not_supported(format!(
            "a group of {reference} has {size} pods, and at most {MAX_GROUP_SIZE} are counted as one replica: lower spec.leaderWorkerTemplate.size"
        )));
    };
    let workers = (count > 0).then_some(Workers {
        count,
        template: worker,
    });
    Ok(Group { leader, workers })
}

/// What its status says of a rollout that is under way. One that leaves some groups as they are for ever is none.
pub(super) fn rollout(found: &DynamicObject) -> Option<Rollout> {
    let partition = found
        .data
        .pointer("/spec/rolloutStrategy/rollingUpdateConfiguration/partition");
    if partition.and_then(Value::as_u64) > Some(0) {
        return None;
    }
    let status = &found.data["status"];
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    let replaces =
        conditions.any(|each| each["type"] == "UpdateInProgress" && each["status"] == "True");
    let updated = status["updatedReplicas"].as_u64().unwrap_or(0);
    replaces.then_some(Rollout {
        updated: u32::try_from(updated).unwrap_or(0),
        replaces,
        deadline_exceeded: false,
    })
}

/// Whether it may be read whose its pods are: by the StatefulSets that make them.
pub(super) async fn check_rights(
    client: &Client,
    namespace: &str,
    reference: &TargetRef,
) -> Result<(), TargetProblem> {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let found = with_timeout("get StatefulSet", sets.get_metadata(&reference.name)).await;
    match found {
        // its controller may be about to make it
        Ok(_) | Err(ApiError::Gone { .. }) => Ok(()),
        Err(error) if error.is_forbidden() => {
            let why = format!(
                "Bursar may not get statefulsets, by which it knows the pods of {reference}: whoever installs it adds {{apiGroup: apps, resource: statefulsets}} to the chart's value targets"
            );
            Err(TargetProblem::new(target_ready::FORBIDDEN, why))
        }
        Err(error) => {
            let why = format!("the StatefulSet of {reference} cannot be read: {error}");
            Err(TargetProblem::new(target_ready::NOT_READ, why))
        }
    }
}
