//! What the status of a TrainingJob says of its target.

use std::sync::Arc;

use bursar_api::TrainingJob;
use bursar_api::conditions::{ConditionState, TARGET_READY, target_ready};
use bursar_api::names::SUSPENDED_ANNOTATION;
use bursar_api::training::{JobTargetStatus, Role};
use bursar_core::calendar::whole_second;
use bursar_core::model::{JobEnd, Key};
use k8s_openapi::api::batch::v1::{Job, JobStatus};

use super::events::{counts, pods};
use super::target::{JobTarget, TargetEnd};
use super::view::{JobTargetView, is_never_written};
use crate::context::Context;
use crate::scale_target::TargetProblem;
use crate::training::job::RoleJob;

/// What a status says of a target.
#[derive(Debug, Clone)]
pub(crate) struct TargetParts {
    pub(crate) view: JobTargetView,
    pub(crate) status: Option<JobTargetStatus>,
    pub(crate) condition: ConditionState,
}

/// What the status of a TrainingJob says of its target; `None` without one.
pub(crate) fn parts(context: &Context, key: &Key, object: &TrainingJob) -> Option<TargetParts> {
    let reference = object.spec.target_ref.as_ref()?;
    let view = context.job_targets.view(key);
    let view = view.unwrap_or_else(|| JobTargetView {
        problem: Some(TargetProblem::new(
            target_ready::NOT_READ,
            format!("{reference} was not read yet"),
        )),
        ..JobTargetView::default()
    });
    let counts = counts(&pods(context, key));
    let pods = counts.values().map(|counts| counts.active).sum();
    let status = object.status.as_ref();
    Some(TargetParts {
        condition: condition(&view, pods),
        // what it gets back is noted before it is changed, and by that write alone
        status: status.and_then(|status| status.target.clone()),
        view,
    })
}

impl TargetParts {
    /// The roles of a target, each with what a Job of it would say.
    pub(crate) fn roles(&self, context: &Context, key: &Key) -> Vec<RoleJob<'_>> {
        let counts = counts(&pods(context, key));
        let target = self.view.charged();
        let sets = target.into_iter().flat_map(|target| &target.pod_sets);
        let number = |count: u32| Some(i32::try_from(count).unwrap_or(i32::MAX));
        let roles = sets.map(|set| {
            let counts = counts.get(&set.name).copied().unwrap_or_default();
            let status = JobStatus {
                active: number(counts.active),
                ready: number(counts.ready),
                succeeded: number(counts.succeeded),
                failed: number(counts.failed),
                ..JobStatus::default()
            };
            RoleJob {
                role: Role {
                    name: &set.name,
                    replicas: set.count,
                    template: &set.template,
                },
                job: Some(Arc::new(Job {
                    status: Some(status),
                    ..Job::default()
                })),
            }
        });
        roles.collect()
    }

    /// How the target has ended, if it has.
    pub(crate) fn end(&self) -> Option<&TargetEnd> {
        self.view.target.as_ref()?.end.as_ref()
    }

    /// How it has ended, in the words of gangs.
    pub(crate) fn job_end(&self) -> Option<JobEnd> {
        self.end().map(|end| match end.succeeded {
            true => JobEnd::Succeeded,
            false => JobEnd::RoleFailed("".into()),
        })
    }

    /// Whether somebody else lets it run.
    pub(crate) fn runs_without_bursar(&self) -> bool {
        let target = self.view.charged();
        self.view.controlled().is_none() && target.is_some_and(|target| !target.suspended)
    }

    /// That the target was adopted and is gone, in words, if it is.
    pub(crate) fn deletion(&self) -> Option<&str> {
        let problem = self.view.problem.as_ref();
        let deleted = problem.filter(|problem| problem.reason == target_ready::TARGET_DELETED);
        deleted.map(|problem| problem.message.as_str())
    }
}

/// `pods` are those that have not ended.
fn condition(view: &JobTargetView, pods: u32) -> ConditionState {
    let suspended_since = view.suspended_since.filter(|_| pods > 0).map(whole_second);
    let (status, reason, message) = match (&view.problem, view.controlled()) {
        (Some(problem), _) => {
            let message = format!("{}; {}", problem.message, consequence(problem));
            (false, problem.reason, message)
        }
        (None, Some(target)) if target.is_suspended_by_others() => {
            let name = &target.name;
            let why = format!(
                "somebody has suspended {name} after Bursar let it run, so it waits: set its {} to false, or remove its annotation {SUSPENDED_ANNOTATION}, and Bursar starts it again when it may run",
                target.suspend
            );
            (false, target_ready::SUSPENDED_BY_OTHERS, why)
        }
        (None, Some(target))
            if view.is_overdue
                && let Some(since) = suspended_since =>
        {
            let why = format!(
                "{} was seen suspended at {since} and has {pods} pods all the same: its controller does not obey {}, or others have made them. They are charged, and a budget that is exhausted stops them only by unmanaged: Evict, as pods of no workload",
                target.name, target.suspend
            );
            (false, target_ready::PODS_REMAIN, why)
        }
        (None, target) => {
            let mut why = adopted(target.map(|target| &**target));
            if let Some(since) = suspended_since {
                why = format!(
                    "{why}; it was seen suspended at {since}, and {pods} of its pods are still there"
                );
            }
            (true, target_ready::ADOPTED, why)
        }
    };
    ConditionState {
        kind: TARGET_READY,
        status: Some(status),
        reason,
        message,
    }
}

fn adopted(target: Option<&JobTarget>) -> String {
    match target.is_some_and(JobTarget::is_resumed_by_others) {
        true => "somebody has let it run after Bursar suspended it: it goes on for as long as budgets pay for it",
        false => "it is read, started and suspended",
    }
    .to_owned()
}

/// What follows from a problem.
fn consequence(problem: &TargetProblem) -> &'static str {
    match is_never_written(problem) {
        true => {
            "Bursar neither starts nor suspends it: its pods are charged, and a budget that is exhausted stops them only by unmanaged: Evict, as pods of no workload"
        }
        false if problem.reason == target_ready::TARGET_DELETED => {
            "Bursar neither starts nor charges another job for it"
        }
        false => "until then Bursar does not start it",
    }
}
