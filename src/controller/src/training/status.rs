//! What a TrainingJob's status says.

use bursar_api::TrainingJob;
use bursar_api::conditions::{self, ConditionState, READY, WITHIN_BUDGET, job_ready};
use bursar_api::training::{JobPhase, RoleStatus, TrainingJobStatus, Workers};
use bursar_core::calendar::whole_second;
use bursar_core::model::{JobEnd, JobView};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::health;
use crate::job_target::status::TargetParts;
use crate::pod;
use crate::pod_failure;
use crate::pricing::condition::{self, PricingState};
use crate::spend_status;
use crate::status_pacing::{
    Change, NextStatus, Readings, StatusPacing, decisive_conditions, messages, reading_conditions,
    words,
};
use crate::training::job::RoleJob;
use crate::within_budget::within_budget;

/// What goes into a status.
pub(crate) struct StatusParts<'a> {
    pub(crate) view: &'a JobView,
    /// Its roles, in their order, with their Jobs.
    pub(crate) roles: &'a [RoleJob<'a>],
    /// Its target, if it has one.
    pub(crate) target: Option<&'a TargetParts>,
    pub(crate) pods: &'a [&'a Pod],
    pub(crate) spend: PricingState,
    /// The condition that says so, if its priority counts less beside other namespaces.
    pub(crate) priority_limit: Option<ConditionState>,
    /// The condition that says so, if it is paused.
    pub(crate) paused: Option<ConditionState>,
    /// Why the last run could not apply the decision.
    pub(crate) failure: Option<String>,
    pub(crate) now: Timestamp,
}

impl StatusParts<'_> {
    /// How it has ended, if it has.
    fn end(&self) -> Option<JobEnd> {
        let of_target = || self.target?.job_end();
        self.view.end.clone().or_else(of_target)
    }
}

/// The status that says so, if it is due, and when to look again.
pub(crate) fn next(
    object: &TrainingJob,
    pacing: &mut StatusPacing,
    parts: StatusParts<'_>,
) -> NextStatus<TrainingJobStatus> {
    let empty = TrainingJobStatus::default();
    let old = object.status.as_ref().unwrap_or(&empty);
    let roles = parts.roles.iter();
    let roles: Vec<RoleStatus> = roles.map(|role| role_status(role, parts.view)).collect();
    let decision = parts.view.decision.as_ref();
    let phase = phase(object, &parts, &roles, old);
    let starts =
        phase == JobPhase::Starting && !matches!(old.phase, JobPhase::Starting | JobPhase::Running);
    let began = matches!(phase, JobPhase::Starting | JobPhase::Running);
    let mut status = TrainingJobStatus {
        observed_generation: object.metadata.generation,
        phase,
        attempts: old.attempts.saturating_add(i32::from(starts)),
        restarts: old
            .restarts
            .max(i32::try_from(parts.view.restarts).unwrap_or(i32::MAX)),
        queue_position: decision
            .and_then(|decision| decision.position)
            .and_then(|position| i32::try_from(position).ok()),
        limited_by: decision.and_then(|decision| decision.limited_by),
        reason: decision
            .map(|decision| decision.reason.clone())
            .unwrap_or_default(),
        target: parts.target.and_then(|target| target.status.clone()),
        start_time: old
            .start_time
            .clone()
            .or_else(|| began.then(|| Time(whole_second(parts.now)))),
        completion_time: completion_time(object, &parts, old),
        workers: sum(&roles),
        // the only role of the short form has no name, and the sums are all there is to say of it
        roles: roles
            .into_iter()
            .filter(|role| !role.name.is_empty())
            .collect(),
        spend: Some(parts.spend.summary.clone()),
        conditions: Vec::new(),
    };
    status.conditions = conditions::updated_conditions(
        &old.conditions,
        says(object, &parts, phase),
        object.metadata.generation,
        parts.now,
    );
    let change = Change {
        at_once: object.status.is_none() || decisive(old) != decisive(&status),
        counts: counts(old) != counts(&status),
        written: readings(old),
        present: readings(&status),
        figures: figures(old) != figures(&status),
        spending: spend_status::is_spending(status.spend.as_ref()),
        as_of: spend_status::as_of(old.spend.as_ref()),
        changes_at: health::changes_at(parts.pods, parts.now),
    };
    pacing.next(object, object.status.as_ref(), status, change, parts.now)
}

fn role_status(found: &RoleJob<'_>, view: &JobView) -> RoleStatus {
    let observed = found.job.as_ref().and_then(|job| job.status.as_ref());
    let count = |number: Option<i32>| number.unwrap_or(0);
    let replicas = i32::try_from(found.role.replicas).unwrap_or(i32::MAX);
    // what is known of a role whose Job is gone stays on record
    let is_done = view.done.iter().any(|role| **role == *found.role.name);
    let gone = is_done.then_some(replicas);
    RoleStatus {
        name: found.role.name.to_owned(),
        workers: Workers {
            replicas,
            active: count(observed.and_then(|status| status.active)),
            ready: count(observed.and_then(|status| status.ready)),
            succeeded: count(gone.or(observed.and_then(|status| status.succeeded))),
            failed: count(observed.and_then(|status| status.failed)),
        },
    }
}

/// The workers of all roles.
fn sum(roles: &[RoleStatus]) -> Workers {
    let workers = roles.iter().map(|role| role.workers);
    workers.fold(Workers::default(), |sum, role| Workers {
        replicas: sum.replicas.saturating_add(role.replicas),
        active: sum.active.saturating_add(role.active),
        ready: sum.ready.saturating_add(role.ready),
        succeeded: sum.succeeded.saturating_add(role.succeeded),
        failed: sum.failed.saturating_add(role.failed),
    })
}

/// When the last of the roles whose end is the job's ended well, as far as their Jobs are there to say so.
fn completion_time(
    object: &TrainingJob,
    parts: &StatusParts<'_>,
    old: &TrainingJobStatus,
) -> Option<Time> {
    if parts.target.and_then(TargetParts::deletion).is_some() {
        return old.completion_time.clone();
    }
    if parts.end() != Some(JobEnd::Succeeded) {
        return None;
    }
    if parts.target.is_some() {
        // when that was seen
        let now = || Time(whole_second(parts.now));
        return Some(old.completion_time.clone().unwrap_or_else(now));
    }
    let time = |found: &RoleJob<'_>| found.job.as_ref()?.status.as_ref()?.completion_time.clone();
    let deciding = object.spec.success_roles();
    let decides = |found: &&RoleJob<'_>| deciding.is_empty() || deciding.contains(&found.role.name);
    let times = parts.roles.iter().filter(decides).filter_map(time);
    times.chain(old.completion_time.clone()).max()
}

fn phase(
    object: &TrainingJob,
    parts: &StatusParts<'_>,
    roles: &[RoleStatus],
    old: &TrainingJobStatus,
) -> JobPhase {
    match parts.end() {
        Some(JobEnd::Succeeded) => return JobPhase::Succeeded,
        Some(_) => return JobPhase::Failed,
        None => {}
    }
    if parts.target.and_then(TargetParts::deletion).is_some() {
        return match old.phase {
            // a job that has ended may be deleted, and has ended all the same
            JobPhase::Succeeded => JobPhase::Succeeded,
            // whoever waits for one whose end nobody saw does not wait for ever
            _ => JobPhase::Failed,
        };
    }
    let is_complete = |role: &RoleStatus| {
        let workers = &role.workers;
        workers.ready.saturating_add(workers.succeeded) >= workers.replicas
    };
    let is_stopping = |found: &RoleJob<'_>| {
        let status = found.job.as_ref().and_then(|job| job.status.as_ref());
        status.is_some_and(|status| {
            status
                .active
                .max(status.terminating)
                .is_some_and(|pods| pods > 0)
        })
    };
    let decision = parts.view.decision.as_ref();
    let runs_without_bursar = parts.target.is_some_and(TargetParts::runs_without_bursar);
    match runs_without_bursar || decision.is_some_and(|decision| decision.run) {
        true if roles.iter().all(is_complete) => JobPhase::Running,
        true => JobPhase::Starting,
        false if parts.roles.iter().any(is_stopping) => JobPhase::Suspending,
        false if object.spec.suspend || old.attempts > 0 => JobPhase::Suspended,
        false => JobPhase::Queued,
    }
}

/// What is ready about a job whose target is gone: what was said of its end, or that nobody saw one.
fn after_deletion(object: &TrainingJob, phase: JobPhase, deletion: &str) -> ConditionState {
    let status = object.status.as_ref();
    let mut conditions = status.iter().flat_map(|status| &status.conditions);
    let ready = conditions.find(|condition| condition.type_ == READY);
    let known = [
        job_ready::SUCCEEDED,
        job_ready::FAILED,
        job_ready::TARGET_DELETED,
    ];
    let of_end = ready.and_then(|ready| {
        let mut known = known.into_iter();
        let reason = known.find(|reason| reason.as_str() == ready.reason)?;
        Some((reason, ready.message.clone()))
    });
    let (reason, message) =
        of_end.unwrap_or_else(|| (job_ready::TARGET_DELETED, deletion.to_owned()));
    ConditionState {
        kind: READY,
        status: Some(phase == JobPhase::Succeeded),
        reason,
        message,
    }
}

/// What ended well: all of it, or the roles whose end is the job's.
fn success(object: &TrainingJob, parts: &StatusParts<'_>) -> String {
    if let Some(target) = parts.target {
        let why = target.end().map(|end| end.why.as_str());
        return why.unwrap_or("the target has ended well").to_owned();
    }
    let roles = object.spec.success_roles();
    match roles.as_slice() {
        [] => "all workers ended well".to_owned(),
        [role] if object.spec.roles.len() == 1 && *role == object.spec.roles[0].name => {
            "all workers ended well".to_owned()
        }
        roles => format!(
            "all workers of role {} ended well; those of other roles were stopped",
            roles.join(" and ")
        ),
    }
}

/// What failed: the gang once more than it may, or the Job of the only role or of a named one.
fn failure(object: &TrainingJob, parts: &StatusParts<'_>) -> String {
    if let Some(target) = parts.target {
        let why = target.end().map(|end| end.why.as_str());
        return why.unwrap_or("the target has failed").to_owned();
    }
    match &parts.view.end {
        Some(JobEnd::RoleFailed(role)) if role.is_empty() => {
            "workers failed more often than restarts allows".to_owned()
        }
        Some(JobEnd::RoleFailed(role)) => {
            format!("workers of role {role} failed more often than restarts allows")
        }
        _ => last_failure(object, parts),
    }
}

/// The worker whose failure was one more than the gang may have.
fn last_failure(object: &TrainingJob, parts: &StatusParts<'_>) -> String {
    let roles = parts.roles.iter();
    let uids: Vec<String> = roles.filter_map(|role| role.job.as_ref()?.uid()).collect();
    let is_of_run = |pod: &&&Pod| uids.iter().any(|uid| pod::maker(pod) == Some(uid));
    let of_run = parts.pods.iter().filter(is_of_run);
    let ended = of_run.filter_map(|pod| Some((pod, pod_failure::of_worker(pod)?)));
    let first = ended.min_by_key(|(pod, _)| pod::end(pod, parts.now).map(|end| end.at));
    let worker = first.map_or_else(
        || "a worker has failed".to_owned(),
        |(pod, how)| format!("worker {} has failed: {how}", pod.name_any()),
    );
    let limit = object.spec.restarts;
    format!("{worker}; all {limit} restarts are used up")
}

/// A status without what follows pods or readings, and without figures.
fn decisive(status: &TrainingJobStatus) -> TrainingJobStatus {
    let mut status = status.clone();
    (status.workers, status.roles) = (Workers::default(), Vec::new());
    (status.queue_position, status.limited_by) = (None, None);
    (status.spend, status.reason) = (None, String::new());
    decisive_conditions(&mut status.conditions, &[WITHIN_BUDGET]);
    status
}

/// What follows the pods.
fn counts(status: &TrainingJobStatus) -> impl PartialEq {
    (status.workers, status.roles.as_slice())
}

fn readings(status: &TrainingJobStatus) -> Readings {
    Readings {
        queue_position: status.queue_position,
        limited_by: status.limited_by,
        amounts: spend_status::settled_amounts(status.spend.as_ref()),
        conditions: reading_conditions(&status.conditions, &[WITHIN_BUDGET]),
        // workers that run, or wait for a node, are in the same phase
        reason: words(&status.reason),
        ..Readings::default()
    }
}

/// What is written with the rest, or every five minutes.
fn figures(status: &TrainingJobStatus) -> impl PartialEq {
    (
        status.reason.as_str(),
        spend_status::figures(status.spend.as_ref()),
        messages(&status.conditions),
    )
}

fn says(object: &TrainingJob, parts: &StatusParts<'_>, phase: JobPhase) -> Vec<ConditionState> {
    let say = |kind, status, reason, message: String| ConditionState {
        kind,
        status: Some(status),
        reason,
        message,
    };
    let decision = parts.view.decision.as_ref();
    let limit = decision.and_then(|decision| decision.limited_by);
    let creation_failure = decision.and_then(|decision| decision.creation_failure.as_deref());
    let for_gpus = decision.is_some_and(|decision| decision.preempted_for_gpus);
    let mut states = vec![
        match phase {
            _ if let Some(deletion) = parts.target.and_then(TargetParts::deletion) => {
                after_deletion(object, phase, deletion)
            }
            JobPhase::Running => say(
                READY,
                true,
                job_ready::RUNNING,
                "all workers run".to_owned(),
            ),
            JobPhase::Succeeded => say(READY, true, job_ready::SUCCEEDED, success(object, parts)),
            JobPhase::Failed => say(READY, false, job_ready::FAILED, failure(object, parts)),
            _ => say(
                READY,
                false,
                job_ready::WAITING,
                "it does not run; see phase, limitedBy and reason".to_owned(),
            ),
        },
        within_budget(limit, for_gpus),
        condition::priced(&parts.spend),
        health::condition(
            parts.pods,
            creation_failure,
            parts.failure.as_deref(),
            parts.now,
        ),
    ];
    states.extend(parts.priority_limit.clone());
    states.extend(parts.paused.clone());
    states.extend(parts.target.map(|target| target.condition.clone()));
    states
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_in_other_words_is_written_before_long_and_other_numbers_are_not() {
        let readings_of = |reason: &str| {
            readings(&TrainingJobStatus {
                reason: reason.to_owned(),
                ..TrainingJobStatus::default()
            })
        };
        let waits = readings_of("2 of its 4 workers wait for a node");
        assert_ne!(waits, readings_of("4 workers run"));
        assert_eq!(waits, readings_of("1 of its 4 workers wait for a node"));
    }
}
