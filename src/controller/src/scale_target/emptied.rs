//! A target that is told to have no replicas ends its pods, and so does one that is deleted. Pods that go on all
//! the same are not the target's any more, whatever they were when they got their labels: somebody took them or what
//! made them away from it. Budgets cannot stop them by the target, and evict them as pods of no workload.

use bursar_api::conditions::target_ready;
use jiff::{SignedDuration, Timestamp};

use super::view::TargetView;
use crate::target_work::{after, time_to_end};

/// The clocks of the API server, which says when a pod was made, and of the controller differ by less.
const CLOCK_DIFFERENCE: SignedDuration = SignedDuration::from_mins(1);

/// When a target had no replicas.
#[derive(Debug, Default)]
pub(super) struct Emptied {
    /// The last such time after which all its pods should have ended by now.
    ended: Option<Timestamp>,
    /// The first such time after that, and when its pods should have ended.
    ending: Option<(Timestamp, Timestamp)>,
}

/// Whether a target makes no pods, as was read of it: it has no replicas, or is not there. Of one that could not be
/// read that is not known.
fn is_empty(view: &TargetView) -> bool {
    match (&view.target, &view.problem) {
        (Some(target), None) => target.state.replicas == 0,
        (Some(target), Some(problem)) => {
            problem.stands()
                && problem.reason != target_ready::FORBIDDEN
                && target.state.replicas == 0
        }
        (None, problem) => problem
            .as_ref()
            .is_some_and(|problem| problem.stands() && problem.reason != target_ready::FORBIDDEN),
    }
}

impl Emptied {
    /// Takes what was read of a target. Returns whether pods that were made before should have ended since.
    pub(super) fn note(&mut self, view: &TargetView, now: Timestamp) -> bool {
        let is_over = self.ending.take_if(|(_, end)| *end <= now);
        let has_changed = is_over.is_some();
        self.ended = is_over.map(|(at, _)| at).or(self.ended);
        if self.ending.is_none() && is_empty(view) {
            let template = view.target.iter().map(|target| &target.template);
            self.ending = Some((now, after(now, time_to_end(template))));
        }
        has_changed
    }

    /// Pods that were made before this should have ended.
    pub(super) fn ended_by(&self) -> Option<Timestamp> {
        self.ended?.checked_sub(CLOCK_DIFFERENCE).ok()
    }
}
