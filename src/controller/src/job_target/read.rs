//! One read of a job that is adopted.

use bursar_api::conditions::target_ready;
use bursar_api::inference::TargetRef;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::Status;
use kube::{Client, ResourceExt};

use super::table::{JobKind, JobTargetKinds};
use super::target::{self, JobTarget};
use crate::api_calls::{ApiError, with_timeout};
use crate::scale_target::TargetProblem;

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(super) namespace: String,
    pub(super) target: TargetRef,
}

/// What was read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reading {
    /// The job, if it is there and can be read.
    pub(super) target: Option<JobTarget>,
    /// The version that was read.
    pub(super) version: Option<String>,
    /// Why it is not Bursar's to start and suspend.
    pub(super) problem: Option<TargetProblem>,
    /// What it makes is not there, which has its templates.
    pub(super) is_pending: bool,
}

impl Reading {
    fn failed(problem: TargetProblem) -> Self {
        Self {
            target: None,
            version: None,
            problem: Some(problem),
            is_pending: false,
        }
    }
}

/// The kind of a target.
///
/// # Errors
/// It is not listed.
pub(super) fn listed_kind<'k>(
    kinds: &'k JobTargetKinds,
    reference: &TargetRef,
) -> Result<&'k JobKind, TargetProblem> {
    let known = kinds.of(reference);
    let is_known = |kind: &&JobKind| kind.resource().api_version == reference.api_version;
    known.filter(is_known).ok_or_else(|| {
        let (kind, version, names) = (&reference.kind, &reference.api_version, kinds.names());
        let why = format!(
            "{kind} of {version} is not listed in the chart's value jobTargets, which lists {names}: whoever installs Bursar adds it"
        );
        TargetProblem::new(target_ready::KIND_NOT_LISTED, why)
    })
}

/// Reads a job. One that others start and suspend is read all the same: its pods are charged.
pub(super) async fn read(client: &Client, kinds: &JobTargetKinds, wanted: &Wanted) -> Reading {
    let reference = &wanted.target;
    let kind = match listed_kind(kinds, reference) {
        Ok(kind) => kind,
        Err(problem) => return Reading::failed(problem),
    };
    let found = match get(client, &wanted.namespace, (&kind.resource(), reference)).await {
        Ok(found) => found,
        Err(problem) => return Reading::failed(problem),
    };
    let mut target = target::target(&found, kind);
    let managed = target::check_manager(&found, kind, reference)
        .and_then(|()| target::check_suspendable(&found.data, kind, reference));
    let pods = match &kind.pods_of {
        None => target::pod_sets(&found.data, kind, reference).map(|sets| (sets, kind)),
        Some((group, made)) => read_made(client, kinds, (wanted, &target), (group, made)).await,
    };
    let is_missing = |problem: &TargetProblem| problem.reason == target_ready::NOT_FOUND;
    let is_pending = pods.as_ref().err().is_some_and(is_missing);
    let unread = match pods {
        Ok((sets, kind)) => {
            target.pod_set_label.clone_from(&kind.pod_set_label);
            target.pod_sets = sets;
            None
        }
        Err(problem) if is_pending => Some(TargetProblem::new(
            target_ready::NO_TEMPLATES,
            problem.message,
        )),
        Err(problem) => Some(problem),
    };
    // how one has ended needs no templates, which may be gone
    let unread = unread.filter(|_| target.end.is_none());
    Reading {
        target: Some(target),
        version: found.resource_version(),
        problem: managed.err().or(unread),
        is_pending,
    }
}

/// The pods of a job that makes another one of its own name, which has them.
async fn read_made<'k>(
    client: &Client,
    kinds: &'k JobTargetKinds,
    (wanted, target): (&Wanted, &JobTarget),
    (group, made): (&str, &str),
) -> Result<(Vec<target::PodSet>, &'k JobKind), TargetProblem> {
    let name = &wanted.target.name;
    let no_templates = |why: String| TargetProblem::new(target_ready::NO_TEMPLATES, why);
    let kind = kinds.kind(group, made).ok_or_else(|| {
        no_templates(format!(
            "{made} is not listed in the chart's value jobTargets"
        ))
    })?;
    let resource = kind.resource();
    let reference = TargetRef {
        api_version: resource.api_version.clone(),
        kind: made.to_owned(),
        name: name.clone(),
    };
    let found = get(client, &wanted.namespace, (&resource, &reference)).await;
    let found = found.map_err(|problem| match problem.reason == target_ready::NOT_FOUND {
        true => TargetProblem::new(target_ready::NOT_FOUND, format!(
            "{} has made no {reference} yet, which has its pod templates: its own controller makes it within seconds",
            wanted.target
        )),
        false => problem,
    })?;
    let mut owners = found.owner_references().iter();
    if !owners.any(|owner| owner.uid == *target.uid) {
        return Err(no_templates(format!(
            "{reference} does not belong to {}: rename one of them",
            wanted.target
        )));
    }
    let sets = target::pod_sets(&found.data, kind, &reference)?;
    Ok((sets, kind))
}

async fn get(
    client: &Client,
    namespace: &str,
    (resource, reference): (&ApiResource, &TargetRef),
) -> Result<DynamicObject, TargetProblem> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource);
    let found = async {
        match api.get(&reference.name).await {
            Err(kube::Error::Api(status)) if status.code == 404 && !is_of_object(&status) => {
                Ok(None)
            }
            found => found.map(Some),
        }
    };
    match with_timeout("get target", found).await {
        Ok(Some(found)) => Ok(found),
        Ok(None) => {
            let (plural, version) = (&resource.plural, &resource.api_version);
            let why = format!(
                "the API server does not serve {plural} of {version}: whoever installs Bursar names the version that it serves in the chart's value jobTargets"
            );
            Err(TargetProblem::new(target_ready::KIND_NOT_SERVED, why))
        }
        Err(error) => Err(unread(reference, resource, &error)),
    }
}

/// Whether a 404 says that there is no such object. It names it then; one that names nothing is of a path that the
/// API server does not serve, and says nothing of the object.
fn is_of_object(status: &Status) -> bool {
    let details = status.details.as_ref();
    status.reason == "NotFound" && details.is_some_and(|details| !details.name.is_empty())
}

/// Why an object could not be read, and what helps.
fn unread(reference: &TargetRef, resource: &ApiResource, error: &ApiError) -> TargetProblem {
    if let ApiError::Gone { .. } = error {
        let why = format!(
            "there is no {reference} in this namespace: create it, or delete this resource"
        );
        return TargetProblem::new(target_ready::NOT_FOUND, why);
    }
    if error.is_forbidden() {
        let ApiResource { group, plural, .. } = resource;
        let why = format!(
            "Bursar may not get {plural} of {group:?}: whoever installs it upgrades its chart with this kind in the value jobTargets"
        );
        return TargetProblem::new(target_ready::FORBIDDEN, why);
    }
    let why = format!("{reference} cannot be read: {error}");
    TargetProblem::new(target_ready::NOT_READ, why)
}
