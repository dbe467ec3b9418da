//! What the specification of a TrainingJob with a `targetRef` may say, and what decisions read of it.

use bursar_core::model::event;
use kube::ResourceExt;

use super::{TrainingJob, TrainingJobSpec, default_restarts};
use crate::inference::TargetRef;
use crate::names::TARGET_FINALIZER;
use crate::quantities::FieldError;

impl TrainingJobSpec {
    /// Whether nothing is set that a target has itself.
    pub(super) fn check_target(&self, target: &TargetRef) -> Result<(), FieldError> {
        let error = |field: &str, why: &str| Err(FieldError::new(field, why));
        if !target.is_valid() {
            return error(
                "spec.targetRef",
                "must have an API version, a kind and a name",
            );
        }
        if self.replicas.is_some() || self.template.is_some() || !self.roles.is_empty() {
            return error("spec.targetRef", "excludes roles, replicas and template");
        }
        let own = [
            ("spec.framework", self.framework.is_some()),
            ("spec.precision", self.precision.is_some()),
            ("spec.successPolicy", self.success_policy.is_some()),
            ("spec.mpi", self.mpi.is_some()),
            ("spec.restarts", self.restarts != default_restarts()),
        ];
        match own.iter().find(|(_, is_set)| *is_set) {
            Some((field, _)) => error(
                field,
                "is for workers that Bursar makes: leave it out with a targetRef",
            ),
            None => Ok(()),
        }
    }
}

impl TrainingJob {
    /// Whether it is on record what its target gets back.
    pub fn holds_target(&self) -> bool {
        let mut finalizers = self.finalizers().iter();
        finalizers.any(|each| each == TARGET_FINALIZER)
    }

    /// What decisions read of a job with a targetRef, whose target has these roles. `suspend` says that it
    /// must not run, whatever its own field says.
    ///
    /// # Errors
    /// The first field that cannot be read.
    pub fn adopted_to_core(
        &self,
        priority: (i32, i32),
        seed: u64,
        (suspend, roles): (bool, Vec<event::Role>),
    ) -> Result<event::Job, FieldError> {
        use crate::lenient::Validate;
        self.validate()?;
        let job = self.job_of(priority, seed, roles)?;
        Ok(event::Job {
            suspend: job.suspend || suspend,
            ended_well: Default::default(),
            ..job
        })
    }
}
