//! A target without replicas ends its pods, and so does one that is deleted. One that has none for longer than that
//! takes has pods all the same only if its controller does not obey, or somebody took them away from it. Budgets cannot
//! stop those by the target, and evict them as pods of no workload, for as long as it has none.

use bursar_api::conditions::target_ready;
use jiff::{SignedDuration, Timestamp};

use super::view::TargetView;
use crate::target_work::{after, time_to_end};

/// The clocks of the API server, which says when a pod was made, and of the controller differ by less.
const CLOCK_DIFFERENCE: SignedDuration = SignedDuration::from_mins(1);

/// Since when a target has no replicas.
#[derive(Debug, Default)]
pub(super) struct Emptied {
    since: Option<Timestamp>,
    /// All its pods should have ended.
    is_overdue: bool,
}

/// Whether a target makes no pods, as was read of it: it has no replicas, or is not there.
fn is_empty(view: &TargetView) -> bool {
    let is_forbidden =
        (view.problem.as_ref()).is_some_and(|problem| problem.reason == target_ready::FORBIDDEN);
    match &view.target {
        Some(target) => target.state.replicas == 0 && !is_forbidden,
        None => view.problem.is_some() && !is_forbidden,
    }
}

/// Whether its pods end one after the other, for as long as that takes.
fn ends_in_order(view: &TargetView) -> bool {
    let target = view.target.as_ref();
    target.is_some_and(|target| &*target.resource.kind == "StatefulSet")
}

impl Emptied {
    /// Takes what a read that was answered has found. Returns whether its pods should have ended from now on, or need
    /// not any more.
    pub(super) fn note(&mut self, view: &TargetView, now: Timestamp) -> bool {
        self.note_replicas(is_empty(view), now);
        let template = view.target.iter().map(|target| &target.template);
        let end = self.since.map(|since| after(since, time_to_end(template)));
        let is_overdue = end.is_some_and(|end| end <= now) && !ends_in_order(view);
        std::mem::replace(&mut self.is_overdue, is_overdue) != is_overdue
    }

    /// Takes whether it was told to have no replicas, or has none.
    pub(super) fn note_replicas(&mut self, is_empty: bool, now: Timestamp) {
        match is_empty {
            true => drop(self.since.get_or_insert(now)),
            false => (self.since, self.is_overdue) = (None, false),
        }
    }

    /// Pods that were made before this should have ended.
    pub(super) fn ended_by(&self) -> Option<Timestamp> {
        let since = self.since.filter(|_| self.is_overdue)?;
        Some(after(since, CLOCK_DIFFERENCE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scale_target::TargetProblem;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn missing() -> TargetView {
        TargetView {
            target: None,
            problem: Some(TargetProblem::new(
                target_ready::NOT_FOUND,
                "it is not there",
            )),
            is_adopted: false,
        }
    }

    #[test]
    fn pods_should_have_ended_once_their_target_is_gone_for_minutes() {
        let mut emptied = Emptied::default();
        assert!(!emptied.note(&missing(), at(0)));
        assert!(!emptied.note(&missing(), at(299)));
        assert_eq!(emptied.ended_by(), None);
        assert!(emptied.note(&missing(), at(300)));
        assert_eq!(emptied.ended_by(), Some(at(60)));
        assert!(!emptied.note(&missing(), at(400)), "it is known");
    }

    #[test]
    fn a_target_that_makes_pods_again_has_its_own() {
        let mut emptied = Emptied::default();
        emptied.note(&missing(), at(0));
        emptied.note(&missing(), at(300));
        emptied.note_replicas(false, at(301));
        assert_eq!(emptied.ended_by(), None);
        emptied.note_replicas(true, at(400));
        assert!(!emptied.note(&missing(), at(699)));
        assert!(emptied.note(&missing(), at(700)));
    }
}
