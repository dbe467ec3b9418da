//! Variables of containers.

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector};

/// Kubernetes' annotation with a worker's index in its Job.
const INDEX: &str = "metadata.annotations['batch.kubernetes.io/job-completion-index']";

/// A variable with a value.
pub(super) fn value(key: &str, value: impl ToString) -> EnvVar {
    EnvVar {
        name: key.to_owned(),
        value: Some(value.to_string()),
        ..EnvVar::default()
    }
}

/// A variable with the worker's index in its Job.
pub(super) fn index(key: &str) -> EnvVar {
    EnvVar {
        name: key.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: INDEX.to_owned(),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}
