//! What is known of a target.

use std::sync::Arc;

use bursar_core::model::event::Deployment;

use super::{ScaleTarget, TargetProblem};

/// What is known of a target.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TargetView {
    /// As it was last read; `None` if it is not there or was never read.
    pub(crate) target: Option<Arc<ScaleTarget>>,
    /// Why nothing is scaled.
    pub(crate) problem: Option<TargetProblem>,
    /// Its pods have the labels of replicas. Until then it must not shrink: pods that nobody knows would go
    /// without a drain.
    pub(crate) is_adopted: bool,
}

impl TargetView {
    /// Whether nothing but a want of money changes its replicas.
    pub(crate) fn is_held(&self) -> bool {
        self.problem.is_some() || !self.is_adopted
    }

    /// What the model knows of the target. One that must not be scaled and was not before has no replicas
    /// of the service, and none is about to come; it is there all the same, so nobody orders it to be made.
    pub(crate) fn deployment(&self, is_recorded: bool) -> Deployment {
        let target = self.target.as_ref();
        let is_ours = |_: &&Arc<ScaleTarget>| is_recorded || self.problem.is_none();
        let state = target.filter(is_ours).map(|target| target.state.clone());
        state.unwrap_or(Deployment {
            replicas: 0,
            first_ordinal: None,
            rollout: None,
            creation_failure: None,
        })
    }
}
