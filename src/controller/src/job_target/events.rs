//! What the model is told of a TrainingJob with a target: the same as of a gang that Bursar makes, a Job for each
//! pod set.

use std::collections::BTreeMap;
use std::sync::Arc;

use bursar_api::TrainingJob;
use bursar_api::template::grace_seconds;
use bursar_core::model::event::{self, BatchJob, PodShape, Role};
use bursar_core::model::{Key, Name};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};

use super::target::{JobTarget, PodSet};
use crate::context::Context;
use crate::lock::lock;
use crate::object_key::ObjectKey;
use crate::pod;
use crate::training::job::labelled_role;

/// The pods of a pod set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PodCounts {
    /// Those that have not ended.
    pub(super) active: u32,
    pub(super) ready: u32,
    pub(super) succeeded: u32,
    pub(super) failed: u32,
}

/// The pods of a TrainingJob's target, as caches have them.
pub(super) fn pods(context: &Context, key: &Key) -> Vec<Arc<Pod>> {
    let Some(workload) = ObjectKey::Job(key.clone()).workload() else {
        return Vec::new();
    };
    let mut pods = lock(&context.index).pods_of(&context.stores.pods, &workload);
    pods.retain(|pod| context.job_targets.target_of(pod, key).is_some());
    pods
}

/// How many pods of each pod set there are.
pub(super) fn counts(pods: &[Arc<Pod>]) -> BTreeMap<String, PodCounts> {
    let mut all: BTreeMap<String, PodCounts> = BTreeMap::new();
    for pod in pods {
        let counts = all.entry(labelled_role(&**pod).to_owned()).or_default();
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let count = match phase {
            Some("Succeeded") => &mut counts.succeeded,
            Some("Failed") => &mut counts.failed,
            _ => &mut counts.active,
        };
        *count = count.saturating_add(1);
        if pod::is_ready(pod) && !pod::is_terminal(pod) {
            counts.ready = counts.ready.saturating_add(1);
        }
    }
    all
}

/// The PriorityClass of a TrainingJob: its own, or that of the first template of its target that names one.
pub(crate) fn priority_class(context: &Context, key: &Key, object: &TrainingJob) -> Option<String> {
    let own = object.spec.priority_class().map(str::to_owned);
    own.or_else(|| {
        object.spec.target_ref.as_ref()?;
        let view = context.job_targets.view(key)?;
        let mut specs = view.target.as_ref()?.pod_sets.iter();
        specs.find_map(|set| set.template.spec.as_ref()?.priority_class_name.clone())
    })
}

/// What decisions read of a TrainingJob with a target; `None` while that is not Bursar's to start and suspend.
pub(crate) fn job(
    context: &Context,
    key: &Key,
    object: &TrainingJob,
    (priority, seed): ((i32, i32), u64),
    mut shape: impl FnMut(&PodTemplateSpec) -> Arc<PodShape>,
) -> Option<event::Job> {
    let view = context.job_targets.view(key)?;
    let target = view.controlled()?;
    let roles = target.pod_sets.iter().map(|set| Role {
        name: set.name.as_str().into(),
        replicas: set.count,
        worker: shape(&set.template),
        grace_seconds: grace_seconds(&set.template),
    });
    let roles: Vec<Role> = roles.collect();
    let suspend = target.is_suspended_by_others();
    // one whose templates are gone has ended, and nothing is decided over it any more
    let job = object.adopted_to_core(priority, seed, (suspend, roles));
    job.ok().filter(|job| !job.roles.is_empty())
}

/// What stands for the Jobs of its roles.
pub(crate) fn batch_jobs(context: &Context, key: &Key) -> BTreeMap<Name, BatchJob> {
    let view = context.job_targets.view(key);
    let Some(target) = view.as_ref().and_then(|view| view.controlled()) else {
        return BTreeMap::new();
    };
    let counts = counts(&pods(context, key));
    let retry = context.job_targets.retry(key);
    let sets = target.pod_sets.iter();
    let jobs = sets.map(|set| {
        let counts = counts.get(&set.name).copied().unwrap_or_default();
        let job = BatchJob {
            retry: retry.clone(),
            ..batch_job(target, set, counts)
        };
        (set.name.as_str().into(), job)
    });
    jobs.collect()
}

fn batch_job(target: &JobTarget, set: &PodSet, counts: PodCounts) -> BatchJob {
    BatchJob {
        running: !target.suspended,
        finished: target.end.as_ref().map(|end| end.succeeded),
        active: counts.active,
        succeeded: set.ended(counts.succeeded),
        uid: Some(target.uid.clone()),
        ..BatchJob::default()
    }
}
