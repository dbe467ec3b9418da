//! What is known of a target.

use std::sync::Arc;

use bursar_api::conditions::target_ready;

use super::target::JobTarget;
use crate::scale_target::TargetProblem;

/// What is known of a target.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JobTargetView {
    /// As it was last read; `None` if it is not there or was never read.
    pub(crate) target: Option<Arc<JobTarget>>,
    /// Why it is not Bursar's to start and suspend.
    pub(crate) problem: Option<TargetProblem>,
}

impl JobTargetView {
    /// The target, if decisions are made over it. One that cannot be read any more goes on counting: a budget stops
    /// it as soon as it can.
    pub(crate) fn controlled(&self) -> Option<&Arc<JobTarget>> {
        let unread = [target_ready::NOT_READ, target_ready::FORBIDDEN];
        let target = self.target.as_ref();
        let problem = self.problem.as_ref();
        let target = target.filter(|target| !target.pod_sets.is_empty() || target.end.is_some());
        target.filter(|_| problem.is_none_or(|problem| unread.contains(&problem.reason)))
    }

    /// The target, if its pods are charged to the TrainingJob.
    pub(crate) fn charged(&self) -> Option<&Arc<JobTarget>> {
        let others = [
            target_ready::MANAGED_BY_KUEUE,
            target_ready::MANAGED_BY_OTHER,
            target_ready::OWNED_BY_OTHER,
        ];
        let problem = self.problem.as_ref();
        let is_others = problem.is_some_and(|problem| others.contains(&problem.reason));
        self.controlled()
            .or(self.target.as_ref().filter(|_| is_others))
    }
}
