//! What is known of a target.

use std::sync::Arc;

use bursar_api::conditions::target_ready;
use jiff::Timestamp;

use super::target::JobTarget;
use crate::scale_target::TargetProblem;
use crate::target_work::time_to_end;

/// Whether a problem says that a target could not be read, and nothing of the target.
pub(super) fn is_unread(problem: &TargetProblem) -> bool {
    let reasons = [
        target_ready::NOT_READ,
        target_ready::FORBIDDEN,
        target_ready::KIND_NOT_SERVED,
    ];
    reasons.contains(&problem.reason)
}

/// Whether a target is charged and never suspended, for a problem that it has.
pub(super) fn is_never_written(problem: &TargetProblem) -> bool {
    let reasons = [
        target_ready::MANAGED_BY_KUEUE,
        target_ready::MANAGED_BY_OTHER,
        target_ready::OWNED_BY_OTHER,
        target_ready::NOT_SUSPENDABLE,
    ];
    reasons.contains(&problem.reason)
}

/// What is known of a target.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct JobTargetView {
    /// As it was last read; `None` if it is not there or was never read.
    pub(crate) target: Option<Arc<JobTarget>>,
    /// Why it is not Bursar's to start and suspend.
    pub(crate) problem: Option<TargetProblem>,
    /// Since when it is suspended, as far as this leader has seen.
    pub(crate) suspended_since: Option<Timestamp>,
    /// It is suspended for so long that all its pods should have ended. Those that it still has do not obey it.
    pub(crate) is_overdue: bool,
}

impl JobTargetView {
    /// The target, if decisions are made over it. One that cannot be read any more goes on counting: a budget stops
    /// it as soon as it can.
    pub(crate) fn controlled(&self) -> Option<&Arc<JobTarget>> {
        let target = self.target.as_ref();
        let problem = self.problem.as_ref();
        let target = target.filter(|target| !target.pod_sets.is_empty() || target.end.is_some());
        target.filter(|_| problem.is_none_or(is_unread))
    }

    /// Whether Bursar cannot stop the target's pods by suspending it: it is another's to suspend, has ended and left
    /// pods running, or has pods that go on though it is suspended. To budgets they are of no workload.
    pub(crate) fn is_out_of_control(&self) -> bool {
        let target = self.controlled();
        let can_stop = target.is_some_and(|target| target.end.is_none());
        !can_stop || self.is_overdue
    }

    /// Takes that it is suspended since a time.
    pub(super) fn set_suspended_since(&mut self, since: Option<Timestamp>, now: Timestamp) {
        let sets = self.target.iter().flat_map(|target| &target.pod_sets);
        let time_to_end = time_to_end(sets.map(|set| &*set.template));
        self.suspended_since = since;
        self.is_overdue = since.is_some_and(|since| now.duration_since(since) >= time_to_end);
    }

    /// The target, if its pods are charged to the TrainingJob.
    pub(crate) fn charged(&self) -> Option<&Arc<JobTarget>> {
        let is_others = self.problem.as_ref().is_some_and(is_never_written);
        self.controlled()
            .or(self.target.as_ref().filter(|_| is_others))
    }
}
