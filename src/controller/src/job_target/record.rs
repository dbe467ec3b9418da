//! What the status of a TrainingJob has on record of its target: which one it is, and whether it has ended. A
//! TrainingJob has one target in its life, and one end.

use bursar_api::TrainingJob;
use bursar_api::conditions::target_ready;
use bursar_api::inference::TargetRef;
use bursar_api::training::JobPhase;
use bursar_core::model::Name;

use super::read::Reading;
use super::target::TargetEnd;
use crate::scale_target::TargetProblem;

/// What is on record of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    uid: Name,
    /// Whether it has ended well, if it has ended.
    succeeded: Option<bool>,
}

impl Record {
    /// That of a TrainingJob, once it has adopted its target.
    pub(super) fn of(object: &TrainingJob) -> Option<Self> {
        let status = object.status.as_ref()?;
        let uid = &status.target.as_ref()?.uid;
        let succeeded = match status.phase {
            JobPhase::Succeeded => Some(true),
            JobPhase::Failed => Some(false),
            _ => None,
        };
        (!uid.is_empty()).then(|| Self {
            uid: uid.as_str().into(),
            succeeded,
        })
    }

    /// That the target is gone, if a read says so: there is none of its name, or another one.
    pub(super) fn deletion(&self, reading: &Reading, target: &TargetRef) -> Option<TargetProblem> {
        let found = reading.target.as_ref().map(|found| &found.uid);
        let reason = reading.problem.as_ref().map(|problem| problem.reason);
        let is_deleted = match found {
            Some(found) => *found != self.uid,
            None => reason == Some(target_ready::NOT_FOUND),
        };
        let what = match (self.succeeded, found) {
            (Some(_), _) => "it had ended and keeps its phase",
            (None, None) => {
                "it was deleted before Bursar saw its end, and how it ended is not known"
            }
            (None, Some(_)) => {
                "it was deleted before Bursar saw its end, and another one was made under its name"
            }
        };
        is_deleted.then(|| {
            let why = format!(
                "{target} is not there any more: {what}. To adopt another job of that name, delete this resource and create it anew"
            );
            TargetProblem::new(target_ready::TARGET_DELETED, why)
        })
    }

    /// How the target has ended, whatever it says now.
    pub(super) fn end(&self) -> Option<TargetEnd> {
        self.succeeded.map(|succeeded| TargetEnd {
            succeeded,
            why: "it had ended, and goes on without its TrainingJob".to_owned(),
        })
    }
}
