//! TrainingJob: a gang of workers that runs as a whole or waits.

use bursar_core::plan::LimitedBy;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lenient::Validate;
use crate::quantities::FieldError;
use crate::spend::SpendSummary;
use crate::template;

/// A gang of training workers on GPUs. It starts when all of it fits and its namespace's budgets
/// have the money; it is suspended when they have none left, and resumes.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "bursar.dev",
    version = "v1alpha1",
    kind = "TrainingJob",
    plural = "trainingjobs",
    shortname = "tj",
    category = "bursar",
    namespaced,
    status = "TrainingJobStatus",
    derive = "PartialEq",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([a-z0-9-]{0,48}[a-z0-9])?$')")
        .message("metadata.name must be at most 50 letters, digits and dashes, and begin with a letter: workers have DNS names made of it"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.workers.ready", description = "workers that run"),
    printcolumn(name = "Workers", type_ = "integer", json_path = ".spec.replicas", description = "workers of the gang", priority = 1),
    printcolumn(name = "Limited-By", type_ = "string", json_path = ".status.limitedBy", description = "what keeps it from running"),
    printcolumn(name = "Total", type_ = "string", json_path = ".status.spend.total", description = "spent in all"),
    printcolumn(name = "Rate/h", type_ = "string", json_path = ".status.spend.ratePerHour", description = "money an hour"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.replicas == oldSelf.replicas && self.framework == oldSelf.framework && self.template == oldSelf.template")
        .message("replicas, framework and template of a TrainingJob cannot change: delete it and create it anew")
)]
pub struct TrainingJobSpec {
    /// How the workers find each other.
    pub framework: Framework,
    /// Workers of the gang.
    #[schemars(range(max = 1000))]
    #[x_kube(validation = Rule::new("self >= 1").message("replicas must be at least 1"))]
    pub replicas: i32,
    /// The pod template of one worker.
    #[schemars(schema_with = "template::schema")]
    #[x_kube(
        validation = Rule::new(template::GPU_RULE).message(template::GPU_MESSAGE),
        validation = Rule::new(template::GPU_COUNT_RULE).message(template::GPU_COUNT_MESSAGE),
        validation = Rule::new(template::GPU_RESOURCE_RULE).message(template::GPU_RESOURCE_MESSAGE),
        validation = Rule::new(template::LABEL_RULE).message(template::LABEL_MESSAGE),
        validation = Rule::new(template::GRACE_RULE).message(template::GRACE_MESSAGE),
        validation = Rule::new(template::HOST_NETWORK_RULE).message(template::HOST_NETWORK_MESSAGE),
        validation = Rule::new("!has(self.spec) || !has(self.spec.restartPolicy) || self.spec.restartPolicy == 'Never'")
            .message("spec.restartPolicy must be Never or left out: restarts counts the gang's restarts")
    )]
    pub template: PodTemplateSpec,
    /// How often a worker may fail before the job does.
    #[serde(default = "default_restarts")]
    #[schemars(range(max = 100))]
    #[x_kube(validation = Rule::new("self >= 0").message("restarts must not be negative"))]
    pub restarts: i32,
    /// A PriorityClass: the higher goes first in the queue, and its pods carry it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub priority_class_name: Option<String>,
    /// Keeps it from running; when set on a running job, its workers get SIGTERM and their grace.
    #[serde(default)]
    pub suspend: bool,
}

fn default_restarts() -> i32 {
    3
}

/// How workers find each other.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framework {
    /// torchrun's environment: `MASTER_ADDR`, `MASTER_PORT`, `WORLD_SIZE`, `RANK`.
    PyTorch,
}

/// Where a TrainingJob stands.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JobPhase {
    /// It waits for room or money.
    #[default]
    Queued,
    /// Its workers are starting.
    Starting,
    /// All workers run.
    Running,
    /// Its workers are stopping.
    Suspending,
    /// Nothing of it runs.
    Suspended,
    /// All workers ended well.
    Succeeded,
    /// Workers failed more often than `restarts` allows.
    Failed,
}

/// The observed state of a TrainingJob.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct TrainingJobStatus {
    /// The generation that this status is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it stands.
    pub phase: JobPhase,
    /// Its workers.
    pub workers: Workers,
    /// How often it was started.
    pub attempts: i32,
    /// Its place in the namespace's queue, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<i32>,
    /// The cause that keeps the job from running.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub limited_by: Option<LimitedBy>,
    /// Why, with the numbers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When it first started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// The spend of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spend: Option<SpendSummary>,
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Workers by what they do.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Workers {
    /// Pods that have not ended.
    pub active: i32,
    /// Pods that run.
    pub ready: i32,
    /// Workers that ended well.
    pub succeeded: i32,
    /// Pods that failed.
    pub failed: i32,
}

impl Validate for TrainingJob {
    fn validate(&self) -> Result<(), FieldError> {
        match self.spec.replicas {
            1.. => Ok(()),
            _ => Err(FieldError::new("spec.replicas", "must be at least 1")),
        }
    }
}
