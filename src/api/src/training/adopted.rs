//! TrainingJobs of a `targetRef`: a job that exists is held, started and suspended.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The rules of a targetRef on the specification, and their messages.
pub(super) const RULES: [(&str, &str); 3] = [
    (
        "!has(self.targetRef) || (!has(self.roles) && !has(self.replicas) && !has(self.template))",
        "targetRef excludes roles, replicas and template: the target has its own",
    ),
    (
        // a default stands for a field that was left out
        "!has(self.targetRef) || (!has(self.framework) && !has(self.precision) && !has(self.successPolicy) && !has(self.mpi) \
         && self.restarts == 3)",
        "framework, precision, successPolicy, mpi and restarts are for workers that Bursar makes: leave them out with a targetRef, whose \
         own controller makes the workers and starts them again",
    ),
    (
        "has(self.targetRef) == has(oldSelf.targetRef) && (!has(self.targetRef) || self.targetRef == oldSelf.targetRef)",
        "targetRef cannot change: delete the TrainingJob, which gives the target back, and create another one",
    ),
];

/// The job of a `targetRef`.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct JobTargetStatus {
    /// Its UID.
    pub uid: String,
    /// Whether it was suspended before Bursar first changed that; it is so again once it is given back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspended_before: Option<bool>,
    /// The field by which it is suspended.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub suspend_field: String,
}

/// Fields of the path of a field that suspends at most, and characters of each.
const MAX_SUSPEND_FIELDS: usize = 12;
const MAX_FIELD_LENGTH: usize = 63;

/// Whether this can be the path of the field that suspends a job, such as `spec.runPolicy.suspend`: it is in the
/// specification and called `suspend`. No other field of somebody's object is ever written.
pub fn is_suspend_field(path: &str) -> bool {
    let fields: Vec<&str> = path.split('.').collect();
    let is_field = |field: &&str| {
        let mut bytes = field.bytes();
        (1..=MAX_FIELD_LENGTH).contains(&field.len())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    (2..=MAX_SUSPEND_FIELDS).contains(&fields.len())
        && fields.iter().all(is_field)
        && fields.first() == Some(&"spec")
        && fields.last() == Some(&"suspend")
}
