//! A gang as a PodGroup, where the API server has these: kube-scheduler then places all its workers or
//! none.

use std::collections::BTreeSet;
use std::sync::Arc;

use bursar_api::TrainingJob;
use bursar_api::spend::WorkloadKind;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PodSchedulingGroup, PodSpec};
use k8s_openapi::api::scheduling::v1beta1::{
    AllDisruptionMode, DisruptionMode, GangSchedulingPolicy, PodGroup, PodGroupSchedulingPolicy,
    PodGroupSpec,
};
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use serde_json::json;

use crate::api_calls::{ApiError, create, with_timeout};
use crate::inference::build::{hash, metadata};
use crate::ownership::is_owned;

/// Whether gangs become PodGroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum GangScheduling {
    /// They do where the API server serves PodGroups.
    #[default]
    Auto,
    /// They do not.
    Disabled,
}

/// The PodGroup of a gang whose Jobs are not made yet; `None` for a gang that cannot be one, or whose
/// templates name a group of the user's. kube-scheduler wants the same scheduler and priority of all
/// its pods. Its name changes with what
/// it says, since most of that cannot be changed and the pods of an earlier run may be left.
fn of_new_gang<'a>(object: &TrainingJob, jobs: impl Iterator<Item = &'a Job>) -> Option<PodGroup> {
    let pod_specs: Vec<&PodSpec> = jobs.filter_map(pod_spec).collect();
    if pod_specs.iter().any(|spec| spec.scheduling_group.is_some()) {
        return None;
    }
    let of_pods: BTreeSet<(Option<&str>, Option<&str>)> = pod_specs
        .iter()
        .map(|spec| {
            let scheduler = spec.scheduler_name.as_deref();
            (spec.priority_class_name.as_deref(), scheduler)
        })
        .collect();
    let mut of_pods = of_pods.into_iter();
    let (Some((priority_class, _)), None) = (of_pods.next(), of_pods.next()) else {
        return None;
    };
    let workers = object.spec.workers();
    if workers < 2 {
        return None;
    }
    let spec = PodGroupSpec {
        scheduling_policy: PodGroupSchedulingPolicy {
            basic: None,
            gang: Some(GangSchedulingPolicy {
                min_count: i32::try_from(workers).unwrap_or(i32::MAX),
            }),
        },
        disruption_mode: Some(DisruptionMode {
            all: Some(AllDisruptionMode(json!({}))),
            single: None,
        }),
        priority_class_name: priority_class.map(str::to_owned),
        ..PodGroupSpec::default()
    };
    Some(pod_group(
        object,
        format!("{}-{}", object.name_any(), hash(&spec)),
        spec,
    ))
}

fn pod_group(object: &TrainingJob, name: String, spec: PodGroupSpec) -> PodGroup {
    PodGroup {
        metadata: metadata(object, name, WorkloadKind::TrainingJob, &spec),
        spec,
        status: None,
    }
}

/// The name of the PodGroup that a Job's pods belong to.
fn name_in(job: &Job) -> Option<&str> {
    let group = pod_spec(job)?.scheduling_group.as_ref()?;
    group.pod_group_name.as_deref()
}

fn pod_spec(job: &Job) -> Option<&PodSpec> {
    job.spec.as_ref()?.template.spec.as_ref()
}

/// The Jobs of a gang as they are wanted, each with its role and the one that exists.
pub(super) type Jobs = Vec<(String, Job, Option<Arc<Job>>)>;

/// Makes the pods of all Jobs that are to be made members of the gang's PodGroup, if it is to have
/// one. Jobs that exist decide, so that a gang is never half in a group; only where there is none, the
/// API server is asked.
///
/// # Errors
/// The API server gives no answer; no Job of the gang exists then.
pub(super) async fn assign(
    client: &Client,
    object: &TrainingJob,
    jobs: &mut Jobs,
) -> Result<Option<PodGroup>, ApiError> {
    let new = of_new_gang(object, jobs.iter().map(|(_, wanted, _)| wanted));
    let existing = jobs.iter().find_map(|(_, _, found)| found.as_deref());
    let group = match (new, existing) {
        (Some(new), Some(job)) => name_in(job).map(|name| {
            let ended = jobs.iter().filter_map(|(_, _, found)| {
                let status = found.as_ref()?.status.as_ref()?;
                status.succeeded
            });
            // those that have ended well do not come again
            let mut spec = new.spec;
            if let Some(gang) = &mut spec.scheduling_policy.gang {
                let ended = ended.fold(0, i32::saturating_add);
                gang.min_count = gang.min_count.saturating_sub(ended).max(1);
            }
            pod_group(object, name.to_owned(), spec)
        }),
        (Some(new), None) if is_served(client).await? => Some(new),
        _ => None,
    };
    let Some(group) = group else { return Ok(None) };
    for (_, wanted, _) in jobs {
        let template = wanted.spec.as_mut().map(|spec| &mut spec.template);
        if let Some(pods) = template.and_then(|template| template.spec.as_mut()) {
            pods.scheduling_group = Some(PodSchedulingGroup {
                pod_group_name: Some(group.name_any()),
            });
        }
    }
    Ok(Some(group))
}

/// Makes a PodGroup if it is not there. Of one that is there, only the number of pods changes.
///
/// # Errors
/// The first call that failed.
pub(super) async fn create_missing(
    client: &Client,
    object: &TrainingJob,
    group: PodGroup,
) -> Result<(), ApiError> {
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<PodGroup> = Api::namespaced(client.clone(), &namespace);
    let name = group.name_any();
    match with_timeout("get podgroup", api.get_opt(&name)).await? {
        None => create(&api, &group).await,
        Some(found) if is_owned(&found, object.metadata.uid.as_deref()) => {
            set_min_count(&api, &found, &group).await
        }
        Some(_) => Err(ApiError::Foreign {
            kind: PodGroup::kind(&()).into_owned(),
            name,
        }),
    }
}

async fn set_min_count(
    api: &Api<PodGroup>,
    found: &PodGroup,
    wanted: &PodGroup,
) -> Result<(), ApiError> {
    let policy = &wanted.spec.scheduling_policy;
    if found.spec.scheduling_policy.gang == policy.gang {
        return Ok(());
    }
    let metadata = json!({"uid": found.uid(), "resourceVersion": found.resource_version()});
    let spec = json!({"schedulingPolicy": policy});
    let patch = Patch::Merge(json!({"metadata": metadata, "spec": spec}));
    let (name, params) = (found.name_any(), PatchParams::default());
    with_timeout("patch podgroup", api.patch(&name, &params, &patch))
        .await
        .map(drop)
}

/// Whether the API server serves PodGroups.
async fn is_served(client: &Client) -> Result<bool, ApiError> {
    let version = PodGroup::api_version(&());
    let asked = client.list_api_group_resources(&version);
    match with_timeout("list API resources", asked).await {
        Ok(list) => {
            let kind = PodGroup::plural(&());
            Ok(list.resources.iter().any(|resource| resource.name == kind))
        }
        Err(ApiError::Gone { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
